"""Whether the Airflow connections that alerts need are there."""

from __future__ import annotations

from collections.abc import Iterator

from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from portmon.channels.errors_of_others import told
from portmon.config import AlertmanagerChannel, Alerts, AppriseChannel, NotifierChannel, WebhookChannel


def missing_connections(alerts: Alerts) -> tuple[list[str], str | None]:
    """Connections that are named and not there.

    :returns: sentences for people; and why connections could not be looked up, None if they could
    """
    problems = []
    for who, conn_id, conn_type in _named(alerts):
        try:
            BaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            problems.append(
                f"{who}: there is no Airflow connection {conn_id!r}: add it with `airflow connections add {conn_id} "
                f"--conn-type {conn_type} …`"
            )
        except Exception as error:
            return problems, f"connections can't be looked up here: {told(error)}"
    return problems, None


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
