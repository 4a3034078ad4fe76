"""Mail headers that make the mails of one alert a thread, in every mail program.

Mail programs join mails by the ids that they refer to, whether or not they have the mail of that id
(https://www.rfc-editor.org/rfc/rfc5322#section-3.6.4). So every alert has an id that is known beforehand, its
anchor: the mail that tells of it first, and alone, has that id, and all others refer to it.
"""

from __future__ import annotations

import hashlib
import re

from portmon.models import AlertRole
from portmon.render import Message

DOMAIN = "portmon.invalid"
"""Right-hand side of the ids: not the name of a machine, since the next mail may come from another worker, and
nobody's domain (https://www.rfc-editor.org/rfc/rfc2606)."""
MAX_REFERENCES = 20
"""Alerts that a mail refers to."""


def headers(message: Message, channel: str) -> dict[str, str]:
    """Headers of a mail, by name. Each holds printable ASCII only, whatever the alerts are about.

    :param channel: its name; two channels have threads of their own
    """
    channel_id = _digest(channel)[:8]
    anchors = list(dict.fromkeys(_anchor(alert.id, channel_id) for alert in message.alerts))[:MAX_REFERENCES]
    message_id = _word(message.id or _digest(f"{message.title}\0{message.text}"))
    found = {"Message-ID": f"<m.{message_id}.{channel_id}@{DOMAIN}>"}
    if _is_anchor(message):
        found["Message-ID"] = anchors[0]
    elif anchors:
        found["In-Reply-To"] = anchors[0]
        found["References"] = " ".join(anchors)
    return {**found, "Auto-Submitted": "auto-generated", "X-Portmon-Id": message_id}


def _is_anchor(message: Message) -> bool:
    """Whether a message tells of one alert for the first time, and of nothing else."""
    if message.reminder or len(message.alerts) != 1:
        return False
    (alert,) = message.alerts
    return alert.role is AlertRole.FIRING and alert.event.id == alert.first.id


def _anchor(alert_id: str, channel_id: str) -> str:
    return f"<{_word(alert_id)}.{channel_id}@{DOMAIN}>"


def _word(text: str) -> str:
    """An id as it is, if it is one: short and without anything that could end it."""
    return text if re.fullmatch(r"[0-9A-Za-z]{1,32}", text) else _digest(text)[:32]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
