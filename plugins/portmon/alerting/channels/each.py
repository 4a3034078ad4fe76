"""Send the alerts of a message one by one, and tell which of them arrived."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from portmon import timeouts
from portmon.alerting.channels.base import BaseChannel
from portmon.errors import DeliveryError
from portmon.text import counted

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message

MARGIN = 10.0
"""Seconds before the end of a channel's time from which on no further request begins."""


def send_each(
    channel: BaseChannel,
    message: Message,
    send: Callable[[Message], None],
    *,
    gives_up: Callable[[DeliveryError], bool] = lambda _: False,
) -> None:
    """Send each alert of a message. What one refuses holds up no other; a receiver that does not answer is left alone.

    :param send: sends a message about one alert
    :param gives_up: whether the receiver will never take the alert
    :raises DeliveryError: some did not arrive; it names the events that did, and those to be given up
    """
    taken: list[str] = []
    refused: list[str] = []
    failures: list[DeliveryError] = []
    end = time.monotonic() + timeouts.SEND.total_seconds() - MARGIN
    for one in message.each():
        event_id = one.alerts[0].event.id
        if time.monotonic() > end:
            failures.append(channel.failure("not all is sent, it took too long"))
            break
        try:
            send(one)
        except DeliveryError as error:
            failures.append(error)
            if error.waits or not error.status:
                break
            if gives_up(error):
                refused.append(event_id)
        else:
            taken.append(event_id)
    if failures:
        first = failures[0]
        reason = str(first).removeprefix(f"channel {channel.name!r}: ")
        missing = counted(len(message.alerts) - len(taken), "alert")
        raise channel.failure(
            f"{missing} of {len(message.alerts)} did not arrive: {reason}",
            taken=tuple(taken),
            refused=tuple(refused),
            unsure=any(one.unsure for one in failures),
            waits=dict(pair for one in failures for pair in one.waits.items()),
            status=first.status,
        ) from failures[-1].__cause__
