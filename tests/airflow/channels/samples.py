"""What the tests of channels share: hostile messages, a mailbox."""

from __future__ import annotations

import email
import email.message
import email.policy
import json
import traceback
from typing import Any

from portmon.alerting.message.render import Message
from portmon.model.event import Severity

HOSTILE = "{{ conn.x.password }} and a lone {{ and {% if %}"
SECRET = "hunter2-of-connection-x"
MESSAGE = Message(
    title=f"[portmon] 1 port down on web01: {HOSTILE}",
    text=f"web01 tcp/8080 {HOSTILE} — down since 04:12 UTC\nweb01 tcp/9090 端口",
    html=f"<html><body><p>{HOSTILE}</p><p>端口</p></body></html>",
    severity=Severity.CRITICAL,
)


def printed(error: Exception) -> str:
    """What a task log shows of an error, whatever it was raised from included."""
    return "".join(traceback.format_exception(error))


class Mailbox:
    """Keeps what an SMTP server is given."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return self.answer


def connect(monkeypatch: Any, conn_id: str, host: str, **fields: Any) -> None:
    """Make an Airflow HTTP connection."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "http", "host": host, **fields}))
