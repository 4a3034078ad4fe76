"""A sign of life for a dead-man's switch: it alerts when none comes."""

from __future__ import annotations

from datetime import timedelta

from portmon.airflow.channels.http_request import ask
from portmon.alerting.config import Heartbeat

LIMIT = timedelta(seconds=10)
"""A ping is worth no more waiting: the next run sends another one."""


def ping(heartbeat: Heartbeat, summary: str) -> None:
    """Say that a run was good.

    :param summary: shown by the switch; sent only with POST
    :raises DeliveryError: unless the answer is 2xx. It holds no path, which may be the switch's secret
    """
    posts = heartbeat.method == "POST"
    ask(
        heartbeat.method,
        heartbeat.conn_id,
        heartbeat.endpoint,
        channel="heartbeat",
        body=summary.encode("utf-8", "backslashreplace") if posts else None,
        headers={"Content-Type": "text/plain; charset=utf-8"} if posts else None,
        limit=LIMIT,
    )
