"""The part of Airflow that channels use, see :class:`portmon.alerting.channels.base.Outside`."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.notifier import BaseNotifier
from airflow.providers.common.compat.sdk import redact as mask_secrets

from portmon.airflow import settings
from portmon.alerting.channels import Channel
from portmon.alerting.channels.base import HttpRequest
from portmon.alerting.message.render import Message
from portmon.errors import DeliveryError
from portmon.untrusted import redact


class AirflowOutside:
    """Airflow's connections, HTTP and SMTP hooks, notifiers and masking of secrets."""

    notifier_base = BaseNotifier

    def send(self, request: HttpRequest) -> None:
        """See :func:`portmon.airflow.http.send`."""
        from portmon.airflow import http

        http.send(request, self.redact)

    def connection(self, conn_id: str) -> Any | None:
        """See :func:`portmon.airflow.settings.connection`."""
        return settings.connection(conn_id)

    def redact(self, text: str) -> str:
        """One line of a text, without what Airflow knows to be secret and without all but the host of addresses."""
        return redact.redact(str(mask_secrets(text)))

    def mail_hook(self, notifier: Any) -> Any | None:
        """The SMTP hook of a notifier that sends mail; None of any other one."""
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        return notifier.hook if isinstance(notifier, SmtpNotifier) else None


OUTSIDE = AirflowOutside()


def deliver(channel: Channel, message: Message, done: tuple[str, ...] = ()) -> None:
    """Send one message over one channel, see :meth:`portmon.alerting.channels.base.BaseChannel.send`.

    :raises DeliveryError: whatever went wrong
    """
    try:
        channel.send(message, OUTSIDE, done)
    except DeliveryError:
        raise
    except Exception as error:
        # Its text may hold an address with a token.
        why = redact.describe(error, OUTSIDE.redact)
        raise channel.failure(f"failed in an unexpected way: {why}") from None
