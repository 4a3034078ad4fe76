"""Silences and acknowledgements: which there are, what a new one does, and ending one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from pydantic import Field
from sqlalchemy import Connection

from portmon.alerting.silences import Acknowledgement, Silence, Withholding
from portmon.api.alerts import AlertView, list_alerts
from portmon.api.view import Text, View, minute, place
from portmon.errors import CommandError, RequestError
from portmon.fields import parse_ports
from portmon.matching import ranges_text
from portmon.storage import actions, alerts, events, silences
from portmon.storage import hosts as known_hosts
from portmon.storage.actions import Action


class SilenceView(View):
    """A silence, or an acknowledgement, which has an alert and nothing else that it is about.

    :param ports: as :func:`silence` takes them
    :param what: what it is about, in words
    :param active: whether it withholds messages now
    :param next: when it begins to; None: now, or never again
    :param when: when it counts, in words for people who know when it began; not part of the JSON
    """

    id: int
    alert_id: str | None = None
    hosts: tuple[Text, ...] = ()
    labels: Mapping[Text, tuple[Text, ...]] = {}
    ports: tuple[str, ...] = ()
    programs: tuple[Text, ...] = ()
    starts_at: datetime
    ends_at: datetime | None
    weekly: tuple[str, ...] = ()
    timezone: str = "UTC"
    author: Text
    reason: Text
    created_at: datetime
    lifted_at: datetime | None
    lifted_by: Text | None
    what: Text
    state: Text
    active: bool
    next: datetime | None
    when: Text = Field(exclude=True)


class NewSilence(View):
    """A silence that was just made, and what it does.

    :param matching: how many of the ``known`` hosts it is about
    :param alerts: open alerts that it is about
    """

    silence: SilenceView
    matching: int
    known: int
    alerts: tuple[AlertView, ...]


def list_silences(conn: Connection, now: datetime, *, everything: bool = False) -> list[SilenceView]:
    """Silences and acknowledgements, oldest first; with ``everything`` also those that are over."""
    return _views(conn, silences.all_(conn) if everything else silences.current(conn, now), now)


def silence(
    conn: Connection,
    *,
    hosts: Sequence[str] = (),
    labels: Mapping[str, Sequence[str]] | None = None,
    ports: Sequence[str] = (),
    programs: Sequence[str] = (),
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    weekly: Sequence[str] = (),
    timezone: str = "UTC",
    author: str,
    reason: str,
    now: datetime,
) -> NewSilence:
    """Withhold messages about some hosts or ports. All that is given must match; of a list, one item must.

    :param hosts: globs on names; ``*`` also matches events of the monitor itself
    :param labels: of hosts: name to globs on its value
    :param ports: numbers and ranges such as ``8000-8100`` and ``53/udp``
    :param programs: globs on names
    :param weekly: schedules such as ``Sun 02:00-04:00``, in ``timezone``, an IANA name
    :raises RequestError: something is missing or can't be read
    """
    if not reason.strip():
        raise RequestError("say why: a silence needs a reason")
    if not all(glob.strip() for glob in (*hosts, *programs)):
        raise RequestError("an empty glob matches nothing")
    try:
        number = silences.add(
            conn,
            hosts=hosts,
            labels=labels,
            ports=parse_ports(ports),
            programs=programs,
            starts_at=starts_at,
            ends_at=ends_at,
            weekly=weekly,
            timezone=timezone,
            author=author,
            reason=reason,
            now=now,
        )
    except ValueError as error:
        raise RequestError(str(error)) from error
    made = next(one for one in silences.current(conn, now) if isinstance(one, Silence) and one.id == number)
    if made.next_start(now) is None:
        raise CommandError("the weekly schedule does not come round before the end; nothing is silenced")
    fleet = known_hosts.listed(conn)
    after = {"silence": number, "until": ends_at and ends_at.isoformat(), "weekly": list(weekly)}
    actions.record(conn, Action(now, author, "silence", made.what(), reason, after=after))
    return NewSilence(
        silence=_views(conn, [made], now)[0],
        matching=sum(made.matches_host(host) for host in fleet.values()),
        known=len(fleet),
        alerts=tuple(list_alerts(conn, now, about=made)),
    )


class SilenceHits(View):
    """A silence and what it withholds at the moment.

    :param hosts: of the CMDB that it is about; 0 of an acknowledgement
    :param alerts: open alerts that it is about
    """

    silence: SilenceView
    hosts: int
    alerts: int


def list_with_hits(conn: Connection, now: datetime) -> list[SilenceHits]:
    """Silences and acknowledgements that are not over, and what each is about now."""
    current = silences.current(conn, now)
    views = {view.id: view for view in _views(conn, current, now)}
    fleet = known_hosts.listed(conn) if current else {}
    opened = list(alerts.opened(conn).values()) if current else []
    found = []
    for one in current:
        if isinstance(one, Acknowledgement):
            hosts, hit = 0, sum(alert.id == one.alert_id for alert in opened)
        else:
            hosts = sum(one.matches_host(host) for host in fleet.values())
            hit = sum(one.matches(alert.event, alert.id, fleet.get(alert.event.host_id or "")) for alert in opened)
        found.append(SilenceHits(silence=views[one.id], hosts=hosts, alerts=hit))
    return found


def lift(conn: Connection, number: int, *, author: str, now: datetime) -> str:
    """End a silence or an acknowledgement before its time."""
    found = silences.by_id(conn, number)
    if not silences.lift(conn, number, by=author, now=now):
        raise CommandError(f"silence {number} {_state(found, now)}" if found else f"there is no silence {number}")
    if found is not None:
        what = _views(conn, [found], now)[0].what
        actions.record(conn, Action(now, author, "lift", what, before={"silence": number}))
    return f"silence {number} is lifted"


def _views(conn: Connection, found: Collection[Withholding], now: datetime) -> list[SilenceView]:
    acknowledged = events.by_ids(conn, [one.alert_id for one in found if isinstance(one, Acknowledgement)])
    views = []
    for one in found:
        event = acknowledged.get(one.alert_id) if isinstance(one, Acknowledgement) else None
        active = one.active(now)
        own = {name: getattr(one, name) for name in one.__dataclass_fields__}
        view = SilenceView(
            **own | {"ports": [ranges_text([ports]) for ports in own.get("ports", ())]},
            what=f"{event.kind.value} of {place(event.host_name, event.number)}" if event else one.what(),
            state=_state(one, now),
            active=active,
            next=None if active else one.next_start(now),
            when=one.when() or ("until it is over" if isinstance(one, Acknowledgement) else ""),
        )
        views.append(view)
    return views


def _state(one: Withholding, now: datetime) -> str:
    if one.lifted_at is not None:
        return f"was lifted by {one.lifted_by} at {minute(one.lifted_at)}"
    if one.over(now):
        return "is over"
    start = one.next_start(now)
    if start is None:
        return "never again"
    return "active" if start <= now else f"next: {minute(start)}"
