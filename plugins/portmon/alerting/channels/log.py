"""The alert task's own log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from portmon.alerting.channels.base import BaseChannel, Outside
from portmon.fields import Text
from portmon.model.event_kinds import Severity

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message

_log = logging.getLogger("portmon.alerts")


class LogChannel(BaseChannel):
    """The alert task's own log."""

    type: Literal["log"]
    name: Text = Field("log", description="unique name")

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Log title and lines, each as an entry of its own: as information if nothing is wrong, else as a warning."""
        level = logging.INFO if message.severity is Severity.INFO else logging.WARNING
        _log.log(level, "%s", message.title)
        for line in message.text.splitlines():
            _log.log(level, "    %s", line)
