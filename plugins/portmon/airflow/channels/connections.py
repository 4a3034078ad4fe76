"""Whether the Airflow connections that alerts need are there."""

from __future__ import annotations

from collections.abc import Iterator

from portmon.airflow.settings import connection
from portmon.alerting.config import AlertmanagerChannel, Alerts, AppriseChannel, NotifierChannel, WebhookChannel
from portmon.errors import ConfigError, UnansweredError

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
            missing = connection(conn_id) is None
        except ConfigError as error:
            problems.append(f"{who}: {error}")
            continue
        except UnansweredError as error:
            return problems, f"connections can't be looked up here: {error}"
        if missing:
            problems.append(
                f"{who}: there is no Airflow connection {conn_id!r}: add it with `airflow connections add {conn_id} "
                f"--conn-type {conn_type} {_FIELDS.get(conn_type, '…')}`"
            )
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
