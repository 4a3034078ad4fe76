"""Messages that say that they are a test, through the routes and channels of the configuration."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from portmon.airflow import settings
from portmon.airflow.outside import deliver
from portmon.airflow.tasks import page_link
from portmon.alerting.channels import Channel
from portmon.alerting.message.render import Layout, render
from portmon.alerting.routes import Routes
from portmon.config import Config
from portmon.errors import CommandError, DeliveryError
from portmon.model.alert import Alert, begun_by
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind
from portmon.model.numbers import TCP

HOST = "portmon-test"
PORT = 443
PAIRS = ((EventKind.DOWN, EventKind.RECOVERED), (EventKind.UNREACHABLE, EventKind.REACHABLE), (EventKind.NEW, None))
"""Kinds of messages that are sent: what begins, and what ends it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a message.

    :param error: None if the channel took it
    """

    channel: str
    route: str
    kind: EventKind
    error: str | None


def send_tests(
    config: Config, *, only: str | None = None, labels: Mapping[str, str] | None = None, author: str, now: datetime
) -> Iterator[Sent]:
    """Send one message of each kind through each channel that the routes give it.

    Nothing is stored. What fires is ended at once, so that no receiver keeps an alert.

    :param only: name of the one channel that gets messages
    :param labels: of the host that they are about, by which routes may match
    :raises CommandError: there is no such channel, or none at all
    """
    channels = {channel.name: channel for channel in config.alerts.channels}
    if not channels:
        raise CommandError("alerts.channels is empty: alerts are in task logs and on the page, and no message is sent")
    if only is not None and only not in channels:
        raise CommandError(f"there is no channel {only!r}; there are: {', '.join(channels)}")
    routes = Routes(config.alerts, where=config.where)
    for begin, end in PAIRS:
        event = _event(begin, labels or {}, author, now)
        began = begun_by(event)
        alerts = [began if end is not None else replace(began, role=AlertRole.NOTICE)]
        if end is not None:
            over = _event(end, labels or {}, author, now + timedelta(seconds=1))
            alerts.append(Alert(began.id, AlertRole.RESOLVED, over, event, began.starts_at, over.at))
        for routing in routes.of(event):
            for name in routing.channels:
                if only in (None, name):
                    for alert in alerts:
                        yield _send(config, routes, routing.route, channels[name], alert, now)


def _send(config: Config, routes: Routes, route: str, channel: Channel, alert: Alert, now: datetime) -> Sent:
    style, group = routes.style(route), alert.event.group
    assert group is not None  # noqa: S101 - for the type checker: notes are not in PAIRS
    layout = Layout(style.language, style.max_lines, config.templates)
    message = render(
        [alert], group, layout=layout, link=lambda _: None, page=page_link(), page_of=lambda _: page_link()
    )
    message = replace(
        message,
        route=route,
        id=secrets.token_hex(16),
        expires_at=settings.hold_until(now),
        title=f"[TEST] {message.title}",
    )
    error = None
    try:
        deliver(channel, message)
    except DeliveryError as failure:
        error = str(failure)
    return Sent(channel.name, route, alert.event.kind, error)


def _event(kind: EventKind, labels: Mapping[str, str], author: str, now: datetime) -> Event:
    of_port = kind.usual.subject == "port"
    return Event(
        id=secrets.token_hex(16),
        kind=kind,
        at=now,
        run_id="notify-test",
        host_id=HOST,
        host_name=HOST,
        protocol=TCP if of_port else None,
        port=PORT if of_port else None,
        severity=kind.usual.severity,
        reason=f"This is a test by {author}: nothing is wrong",
        program="test" if of_port else None,
        unit="test.service" if of_port else None,
        labels=dict(labels),
    )
