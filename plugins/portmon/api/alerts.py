"""Alerts: which are open, who takes care of them, and who would be notified of an event."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from portmon.alerting.routes import Routes
from portmon.alerting.silences import Acknowledgement, Silence, SilencesInForce, Withholding
from portmon.api.hosts import find_host
from portmon.api.view import Text, View, minute, place
from portmon.config import Config
from portmon.errors import CommandError
from portmon.model.alert import Alert, DeliveryStatus
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind, Severity
from portmon.model.host import KnownHost
from portmon.model.numbers import TCP, number_of, port_of, protocol_of, text_of
from portmon.storage import actions, alerts, deliveries, silences
from portmon.storage.actions import Action


class DeliveryView(View):
    """The newest message about an alert to one channel: what became of it, and why it was not delivered."""

    channel: Text
    route: Text
    state: str
    reason: Text | None


class WithheldView(View):
    """What withholds an alert's messages: author, end and reason in words.

    :param silence: id of the silence or acknowledgement; None if it is a receiver's own, such as Alertmanager's
    """

    silence: int | None
    acknowledged: bool
    told: Text


class AlertView(View):
    """An open alert, as its newest event says."""

    id: str
    since: datetime
    host_id: Text | None
    host: Text | None
    protocol: str | None
    port: int | None
    program: Text | None
    unit: Text | None
    kind: EventKind
    severity: Severity
    reason: Text
    told: tuple[DeliveryView, ...]
    withheld: WithheldView | None

    @property
    def subject(self) -> str:
        """The host and port that it is about."""
        return place(self.host, None if self.port is None else number_of(self.protocol or TCP, self.port))


def list_alerts(conn: Connection, now: datetime, *, about: Silence | None = None) -> list[AlertView]:
    """Open alerts, oldest first.

    :param about: those only that a silence is about, whether it counts now or not
    """
    in_force = silences.in_force(conn, now)
    opened = [
        one
        for one in alerts.opened(conn).values()
        if about is None or about.matches(one.event, one.id, in_force.listed.get(one.event.host_id or ""))
    ]
    statuses = deliveries.of_alerts(conn, [one.id for one in opened])
    elsewhere = silences.elsewhere(conn, [one.id for one in opened], now)
    return [
        _view(one, statuses.get(one.id, ()), in_force.withholds(one.event, one.id), elsewhere.get(one.id))
        for one in opened
    ]


def _view(one: Alert, statuses: Sequence[DeliveryStatus], by: Withholding | None, elsewhere: str | None) -> AlertView:
    withheld = WithheldView(silence=None, acknowledged=False, told=elsewhere) if elsewhere else None
    if by is not None:
        withheld = WithheldView(silence=by.id, acknowledged=isinstance(by, Acknowledgement), told=by.told())
    names = ("host_id", "protocol", "port", "program", "unit", "kind", "severity", "reason")
    return AlertView(
        id=one.id,
        since=one.starts_at,
        host=one.event.host_name,
        **{name: getattr(one.event, name) for name in names},
        told=tuple(map(DeliveryView.model_validate, statuses)),
        withheld=withheld,
    )


def acknowledge(
    conn: Connection, host: str, port: int | None, *, until: datetime | None, author: str, reason: str, now: datetime
) -> list[str]:
    """Withhold messages about what is open at a port, except that it is resolved.

    :param port: None: what is wrong with the host itself
    :param until: None: as long as the alert is open
    """
    opened = _open_at(conn, find_host(conn, host), port)
    return _acknowledge(conn, opened, until=until, author=author, reason=reason, now=now)


def acknowledge_alerts(
    conn: Connection, alert_ids: Collection[str], *, until: datetime | None, author: str, reason: str, now: datetime
) -> list[str]:
    """The same of open alerts by their ids.

    :raises CommandError: one of them is not open
    """
    opened = {one.id: one for one in alerts.opened(conn).values()}
    over = [alert_id for alert_id in alert_ids if alert_id not in opened]
    if over:
        are = "is" if len(over) == 1 else "are"
        raise CommandError(f"{len(over)} of these alerts {are} over; nothing was acknowledged: look again")
    wanted = [opened[alert_id] for alert_id in dict.fromkeys(alert_ids)]
    return _acknowledge(conn, wanted, until=until, author=author, reason=reason, now=now)


def _acknowledge(
    conn: Connection, opened: Sequence[Alert], *, until: datetime | None, author: str, reason: str, now: datetime
) -> list[str]:
    end = f"until {minute(until)}, or until it is over" if until else "until it is over"
    done = []
    for one in opened:
        number = silences.acknowledge(conn, one.id, author=author, reason=reason, ends_at=until, now=now)
        subject = f"{one.event.kind.value} of {place(one.event.host_name, one.event.number)}"
        after = {"silence": number, "alert": one.id, "until": until and until.isoformat()}
        actions.record(conn, Action(now, author, "acknowledge", subject, reason, after=after))
        what = place(one.event.host_name, one.event.number)
        done.append(f"{what}: {one.event.kind.value} is acknowledged {end} (silence {number})")
    return done


def withdraw_acknowledgement(conn: Connection, host: str, port: int | None, *, author: str, now: datetime) -> str:
    """Send messages about what is open at a port again; without a port, about the host itself."""
    found = find_host(conn, host)
    ids = {one.id for one in _open_at(conn, found, port)}
    current = [one for one in silences.current(conn, now) if isinstance(one, Acknowledgement) and one.alert_id in ids]
    if not current:
        raise CommandError(f"{place(found.name, port)}: no open alert there is acknowledged")
    for one in current:
        silences.lift(conn, one.id, by=author, now=now)
        before = {"silence": one.id, "alert": one.alert_id}
        actions.record(conn, Action(now, author, "lift", place(found.name, port), before=before))
    return f"{place(found.name, port)}: no longer acknowledged"


def _open_at(conn: Connection, host: KnownHost, port: int | None) -> list[Alert]:
    opened = list(alerts.opened(conn, host_id=host.id).values())
    wanted = [one for one in opened if one.event.number == port]
    if not wanted:
        numbers = [(one.event.kind.value, one.event.number) for one in opened]
        others = [f"{kind} of {f'port {text_of(number)}' if number else 'the host itself'}" for kind, number in numbers]
        there = f"; open there: {', '.join(others)}" if others else ""
        raise CommandError(f"{place(host.name, port)}: no alert is open{there}")
    return wanted


def forgotten_channels(conn: Connection, config: Config) -> dict[str, int]:
    """Channel that is not configured any more: number of open alerts that it was, or may have been, notified of."""
    return deliveries.notified_elsewhere(conn, {channel.name for channel in config.alerts.channels})


def explain_routes(
    conn: Connection | None,
    config: Config,
    kind: EventKind,
    *,
    host: str | None = None,
    port: int | None = None,
    program: str | None = None,
    labels: Mapping[str, str] | None = None,
    severity: Severity | None = None,
    now: datetime,
    unknown: str | None = None,
) -> list[str]:
    """Lines for people: which channels an event would go to, why, and what would withhold it now.

    :param conn: None: nothing can be looked up, for the reason ``unknown``
    :param host: None: an event of the monitor itself
    :param labels: of the host; None: those that are known of it
    :param severity: None: that of the kind
    """
    event = Event(
        id="0" * 32,
        kind=kind,
        at=now,
        run_id="",
        host_id=host,
        host_name=host,
        protocol=None if port is None else protocol_of(port),
        port=None if port is None else port_of(port),
        severity=severity or kind.usual.severity,
        program=program,
        labels=labels or {},
    )
    if conn is not None and host is not None:
        try:
            known = find_host(conn, host)
            own = known.labels if labels is None else labels
            event = replace(event, host_id=known.id, host_name=known.name, labels=own)
        except CommandError as error:
            unknown = str(error)
    withheld = _withholding(conn, event) if conn is not None else None
    about = [kind.value if event.host_name is None else f"{kind.value} of {event.host_name}"]
    about += [
        f"{name} {value}"
        for name, value in (("port", None if port is None else text_of(port)), ("program", program))
        if value is not None
    ]
    lines = [f"example        {', '.join(about)}, {event.severity.value}"]
    if unknown is not None:
        lines.append(f"  not looked up: {unknown}")
    if host is not None:
        shown = " ".join(f"{name}={value}" for name, value in sorted(event.labels.items()))
        lines.append(f"  labels of the host: {shown or 'none'}")
    lines += [f"  {line}" for line in Routes(config.alerts, where=config.where).explain(event)]
    return [*lines, f"  withheld now: {withheld.told() if withheld else 'no'}"]


def _withholding(conn: Connection, event: Event) -> Withholding | None:
    """The silence or acknowledgement that withholds an event; a resolved message is never withheld."""
    if event.role in (None, AlertRole.RESOLVED):
        return None
    opened = alerts.opened(conn, [event.alert_key]).values() if event.role is AlertRole.FIRING else ()
    in_force = SilencesInForce(silences.current(conn, event.at), {}, event.at)
    return in_force.withholds(event, next((alert.id for alert in opened), None))
