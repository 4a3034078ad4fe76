"""One message over one channel, whichever it is."""

from __future__ import annotations

from portmon.channels.apprise_targets import send_apprise
from portmon.channels.notifiers import call_notifier, check_notifier
from portmon.channels.task_log import write_log
from portmon.config import AppriseChannel, Channel, LogChannel, NotifierChannel
from portmon.render import Message


def deliver(channel: Channel, message: Message, *, done: tuple[str, ...] = ()) -> None:
    """Send one message over one channel. Returns only if every target took it.

    :param channel: from the configuration
    :param message: final text
    :param done: targets that took it in an earlier try, as told by :attr:`DeliveryError.delivered`; left out now
    :raises DeliveryError: with the targets that took it now, to be added to ``done`` of the next try
    """
    match channel:
        case LogChannel():
            write_log(message)
        case AppriseChannel():
            send_apprise(channel, message, done)
        case NotifierChannel():
            call_notifier(channel, message)


def check_channel(channel: Channel) -> list[str]:
    """What is wrong with a channel, as far as it shows without its connection and without sending.

    :return: sentences for people; empty if nothing was found
    """
    return check_notifier(channel) if isinstance(channel, NotifierChannel) else []
