"""One message over one channel, whichever it is."""

from __future__ import annotations

from portmon.airflow.channels.alertmanager_api import post_alerts
from portmon.airflow.channels.apprise_targets import send_apprise
from portmon.airflow.channels.json_webhook import post_document
from portmon.airflow.channels.notifiers import call_notifier, check_notifier
from portmon.airflow.channels.redact import told
from portmon.airflow.channels.task_log import write_log
from portmon.alerting.config import (
    AlertmanagerChannel,
    AppriseChannel,
    Channel,
    LogChannel,
    NotifierChannel,
    WebhookChannel,
)
from portmon.alerting.message.render import Message
from portmon.errors import DeliveryError


def deliver(channel: Channel, message: Message, *, done: tuple[str, ...] = ()) -> None:
    """Send one message over one channel. Returns only if every target took it.

    :param channel: from the configuration
    :param message: final text
    :param done: targets that took it in an earlier try, as told by :attr:`DeliveryError.delivered`; left out now
    :raises DeliveryError: with the targets that took it now, to be added to ``done`` of the next try
    """
    try:
        _deliver(channel, message, done)
    except DeliveryError:
        raise
    except Exception as error:
        # Its text may hold an address with a token.
        raise DeliveryError(f"failed in an unexpected way: {told(error)}", channel=channel.name) from None


def _deliver(channel: Channel, message: Message, done: tuple[str, ...]) -> None:
    match channel:
        case LogChannel():
            write_log(message)
        case AppriseChannel():
            send_apprise(channel, message, done)
        case AlertmanagerChannel():
            post_alerts(channel, message)
        case WebhookChannel():
            post_document(channel, message)
        case NotifierChannel():
            call_notifier(channel, message, done)


def check_channel(channel: Channel) -> list[str]:
    """What is wrong with a channel, as far as it shows without its connection and without sending.

    :return: sentences for people; empty if nothing was found
    """
    match channel:
        case NotifierChannel():
            return check_notifier(channel)
        case WebhookChannel(name=name, endpoint=endpoint) if "://" in endpoint:
            return [f"channel {name!r}: {whole_address(channel.conn_id)}"]
    return []


def whole_address(conn_id: str) -> str:
    """What is wrong with an endpoint that holds a scheme."""
    return (
        f"endpoint is a whole address, but it is a path below the host of the connection {conn_id!r}: put scheme and "
        "host there"
    )
