"""The part of Airflow that channels use, see :class:`portmon.alerting.channels.base.Outside`."""

from __future__ import annotations

import logging
from typing import Any

from airflow.providers.common.compat.notifier import BaseNotifier
from airflow.providers.common.compat.sdk import redact as mask_secrets

from portmon.airflow import settings
from portmon.alerting.channels import Channel
from portmon.alerting.channels.base import HttpRequest, Outside
from portmon.alerting.config import Alerts, Signal
from portmon.alerting.message.render import Message
from portmon.errors import DeliveryError
from portmon.untrusted import redact

log = logging.getLogger(__name__)


class _Outside:
    notifier_base = BaseNotifier
    connection = staticmethod(settings.connection)

    def send(self, request: HttpRequest) -> None:
        from portmon.airflow import http

        http.send(request, self.redact)

    def ask(self, request: HttpRequest, size: int) -> bytes:
        from portmon.airflow import http

        return http.ask(request, self.redact, size)

    def redact(self, text: str) -> str:
        return redact.redact(str(mask_secrets(text)))

    def mail_hook(self, notifier: Any) -> Any | None:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        return notifier.hook if isinstance(notifier, SmtpNotifier) else None


OUTSIDE: Outside = _Outside()


def signal(alerts: Alerts, which: Signal, summary: str) -> None:
    """Tell the dead-man's switch that a run begins or failed, if it wants to know; what goes wrong is logged."""
    if alerts.heartbeat is None or not alerts.heartbeat.signals:
        return
    try:
        alerts.heartbeat.ping(summary, OUTSIDE, which)
    except DeliveryError as error:
        log.warning("The dead-man's switch did not take /%s: %s", which, error)


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
