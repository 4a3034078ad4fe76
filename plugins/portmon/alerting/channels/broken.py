"""What takes the place of a channel of another package that can't be used: it delivers nothing, and says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portmon.alerting.channels.base import BaseChannel, Outside
from portmon.untrusted.extensions import StandIn

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message


class BrokenChannel(StandIn, BaseChannel):
    """A channel whose package can't be used. What it should send waits, until it is mended or given up."""

    def check(self, outside: Outside) -> list[str]:
        """Why it can't be used."""
        return [f"channel {self.name!r}: {self.why}"]

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Fail with the reason."""
        raise self.failure(self.why)
