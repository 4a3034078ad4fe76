"""Hostile messages, and connections, for the tests of channels."""

from __future__ import annotations

import json
import traceback
from typing import Any

from portmon.alerting.message.render import Message
from portmon.model.event_kinds import Severity

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


def connect(monkeypatch: Any, conn_id: str, host: str, **fields: Any) -> None:
    """Make an Airflow HTTP connection."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "http", "host": host, **fields}))
