"""Mail headers that make the mails of one alert a thread, in every mail program.

Mail programs join mails by the ids that they refer to, whether or not they have the mail of that id
(https://www.rfc-editor.org/rfc/rfc5322#section-3.6.4). So every alert has an id that is known beforehand, its
anchor: the mail that tells of it first, and alone, has that id, and all others refer to it.
"""

from __future__ import annotations

import hashlib
import re

from portmon.alerting.message.render import Message
from portmon.model.event import AlertRole

DOMAIN = "portmon.invalid"
"""Right-hand side of the ids: not the name of a machine, since the next mail may come from another worker, and
nobody's domain (https://www.rfc-editor.org/rfc/rfc2606)."""
MAX_REFERENCES = 8
"""Alerts that a mail refers to: of more, the oldest and the newest ones. A line of a mail has at most 998 octets
(https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1): this stays below it even where nothing folds the header."""
MAX_RUNS = 4
"""Runs that a mail refers to, see :func:`_references`."""


def headers(message: Message, channel: str) -> dict[str, str]:
    """Headers of a mail, by name. Each holds printable ASCII only, whatever the alerts are about.

    :param channel: its name; two channels have threads of their own
    """
    channel_id = _digest(channel)[:8]
    message_id = _word(message.id or _digest(f"{message.title}\0{message.text}"))
    found = {"Message-ID": f"<m.{message_id}.{channel_id}@{DOMAIN}>"}
    if _is_anchor(message):
        found["Message-ID"] = _anchor(message.alerts[0].id, channel_id)
    elif anchors := _references(message, channel_id):
        found["In-Reply-To"] = anchors[0]
        found["References"] = " ".join(anchors)
    return {**found, "Auto-Submitted": "auto-generated", "X-Portmon-Id": message_id}


def _is_anchor(message: Message) -> bool:
    """Whether a message tells of one alert for the first time, and of nothing else."""
    if message.reminder or len(message.alerts) != 1:
        return False
    (alert,) = message.alerts
    return alert.role is AlertRole.FIRING and alert.event.id == alert.first.id


def _references(message: Message, channel_id: str) -> list[str]:
    """Ids that a mail refers to.

    A mail about many alerts can't name them all, and a later one about few of them must find it: so what leaves alerts
    out also refers to the runs in which they began, and so does every later mail about one that began in such a run.
    """
    anchors = list(dict.fromkeys(_anchor(alert.id, channel_id) for alert in message.alerts))
    left_out = len(anchors) > MAX_REFERENCES
    by_age = sorted(message.alerts, key=lambda alert: (alert.starts_at, alert.id))
    if left_out:
        anchors = _ends([_anchor(alert.id, channel_id) for alert in by_age], MAX_REFERENCES)
    runs = [alert.first.run_id for alert in by_age if left_out or alert.first.run_id in message.crowded]
    return anchors + _ends([f"<r.{_digest(run)[:32]}.{channel_id}@{DOMAIN}>" for run in runs], MAX_RUNS)


def _ends(ids: list[str], size: int) -> list[str]:
    """The first and the last ones, each once."""
    known = list(dict.fromkeys(ids))
    return known if len(known) <= size else known[: size // 2] + known[-(size // 2) :]


def _anchor(alert_id: str, channel_id: str) -> str:
    return f"<{_word(alert_id)}.{channel_id}@{DOMAIN}>"


def _word(text: str) -> str:
    """An id as it is, if it is one: short and without anything that could end it."""
    return text if re.fullmatch(r"[0-9A-Za-z]{1,32}", text) else _digest(text)[:32]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
