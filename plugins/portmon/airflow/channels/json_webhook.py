"""A JSON document by POST, signed, with an idempotency key."""

from __future__ import annotations

import json
import time

from portmon.airflow.channels.http_request import ask
from portmon.alerting.config import WebhookChannel
from portmon.alerting.message.render import Message
from portmon.alerting.webhook_payload import document, sign


def post_document(channel: WebhookChannel, message: Message) -> None:
    """Send one message.

    :raises DeliveryError: unless the receiver answers 2xx
    """
    body = json.dumps(document(message), ensure_ascii=False, allow_nan=False).encode()
    timestamp = str(int(time.time()))
    ask(
        "POST",
        channel.conn_id,
        channel.endpoint,
        channel=channel.name,
        body=body,
        headers={
            "Content-Type": "application/json",
            "Idempotency-Key": message.id,
        },
        sign=lambda secret: {
            "X-Portmon-Timestamp": timestamp,
            "X-Portmon-Signature": sign(secret, timestamp, body),
        },
    )
