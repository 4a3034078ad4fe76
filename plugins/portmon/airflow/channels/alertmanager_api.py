"""Prometheus' Alertmanager, v2 API."""

from __future__ import annotations

import json

from portmon.airflow.channels.http_request import ask
from portmon.alerting.alertmanager_payload import payload
from portmon.alerting.config import AlertmanagerChannel
from portmon.alerting.message.render import Message

BATCH = 1000
"""Alerts of one request. Sent again, they are the same alerts: a delivery that fails halfway is repeated whole."""


def post_alerts(channel: AlertmanagerChannel, message: Message) -> None:
    """Send the alerts of one message.

    :raises DeliveryError: unless Alertmanager answers 200. It keeps the valid ones of a request that it calls bad
    """
    alerts = payload(message)
    for begin in range(0, len(alerts), BATCH):
        ask(
            "POST",
            channel.conn_id,
            "api/v2/alerts",
            channel=channel.name,
            body=json.dumps(alerts[begin : begin + BATCH]).encode(),
            headers={"Content-Type": "application/json"},
            ok=lambda status: status == 200,
        )
