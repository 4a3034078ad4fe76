"""Whether the Airflow connections that alerts need are there."""

from __future__ import annotations

from collections.abc import Iterator

from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from portmon.channels.errors_of_others import told
from portmon.config import AlertmanagerChannel, Alerts, AppriseChannel, NotifierChannel, WebhookChannel

_FIELDS = {
    "http": "--conn-host https://…",
    "apprise": """--conn-extra '{"config": [{"path": "<Apprise URL>"}]}'""",
}


def missing_connections(alerts: Alerts) -> tuple[list[str], str | None]:
    """Connections that are named and not there.

    :returns: sentences for people; and why connections could not be looked up, None if they could
    """
    problems: list[str] = []
    for who, conn_id, conn_type in _named(alerts):
        try:
            BaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            silent = _silent_backend(conn_id)
            if silent is not None:
                return problems, f"connections can't be looked up here: {silent}"
            problems.append(
                f"{who}: there is no Airflow connection {conn_id!r}: add it with `airflow connections add {conn_id} "
                f"--conn-type {conn_type} {_FIELDS.get(conn_type, '…')}`"
            )
        except Exception as error:
            return problems, f"connections can't be looked up here: {told(error)}"
    return problems, None


def _silent_backend(conn_id: str) -> str | None:
    """What keeps a place of connections from answering; None if they all say that they do not have it.

    Airflow calls a connection undefined also if its database can't be reached:
    https://github.com/apache/airflow/blob/3.3.2/task-sdk/src/airflow/sdk/execution_time/context.py
    """
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

    for backend in ensure_secrets_backend_loaded():
        name = type(backend).__name__
        try:
            backend.get_connection(conn_id=conn_id)
        except Exception as error:
            # The environment always answers: there it is the connection that can't be read.
            if name != "EnvironmentVariablesBackend":
                return f"{name} does not answer ({type(error).__name__})"
    return None


def _named(alerts: Alerts) -> Iterator[tuple[str, str, str]]:
    """Who needs it, its id, and its type."""
    for channel in alerts.channels:
        who = f"channel {channel.name!r}"
        match channel:
            case AppriseChannel():
                yield who, channel.conn_id, "apprise"
            case AlertmanagerChannel() | WebhookChannel():
                yield who, channel.conn_id, "http"
            case NotifierChannel():
                for name, value in channel.arguments.items():
                    if name.endswith("conn_id") and isinstance(value, str):
                        yield who, value, name.removesuffix("conn_id").rstrip("_") or "…"
    if alerts.heartbeat is not None:
        yield "heartbeat", alerts.heartbeat.conn_id, "http"
