"""The alert task's own log."""

from __future__ import annotations

import logging

from portmon.alerting.message.render import Message
from portmon.model.event import Severity

_log = logging.getLogger("portmon.alerts")


def write_log(message: Message) -> None:
    """Title and lines, each an entry of its own; good news as information, the rest as a warning."""
    level = logging.INFO if message.severity is Severity.INFO else logging.WARNING
    _log.log(level, "%s", message.title)
    for line in message.text.splitlines():
        _log.log(level, "    %s", line)
