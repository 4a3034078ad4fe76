"""Silences, acknowledgements and open alerts in the state database, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from portmon.alerting.silences import Acknowledgement, Silence, Withholding
from portmon.model.alert import DeliveryState, DeliveryStatus
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind, Severity
from portmon.model.host import Host
from portmon.storage import alerts, deliveries, events, silences, tables
from portmon.storage.database import Database

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
NASTY = "a\x00b\udcff{{ conn.x.password }}\x1a0000\n\u202e名"


@pytest.fixture
def conn(database: Database) -> Iterator[Connection]:
    with database.begin() as conn:
        yield conn


def add(conn: Connection, **values: Any) -> int:
    defaults: dict[str, Any] = {"author": "alice", "reason": "r", "now": NOW, "hosts": ["*"], "ends_at": NOW + HOUR}
    return silences.add(conn, **{**defaults, **values})


def ids(found: list[Withholding]) -> list[int]:
    return [one.id for one in found]


# ── silences ───────────────────────────────────────────────────────────────────────────────────────


def test_a_silence_comes_back_as_it_was(conn: Connection) -> None:
    number = add(
        conn,
        hosts=[NASTY, "b"],
        labels={NASTY: [NASTY, "x"]},
        ports=[(1, 2), (80, 80)],
        programs=[NASTY],
        starts_at=NOW + HOUR,
        ends_at=NOW + 2 * HOUR,
        weekly=["Sun 02:00-04:00"],
        timezone="Europe/Berlin",
        author=NASTY,
        reason=NASTY,
    )
    assert silences.all_(conn) == [
        Silence(
            id=number,
            hosts=(NASTY, "b"),
            labels={NASTY: (NASTY, "x")},
            ports=((1, 2), (80, 80)),
            programs=(NASTY,),
            starts_at=NOW + HOUR,
            ends_at=NOW + 2 * HOUR,
            weekly=("Sun 02:00-04:00",),
            timezone="Europe/Berlin",
            author=NASTY,
            reason=NASTY,
            created_at=NOW,
        )
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hosts": []}, "needs a host, a label, a port or a program"),
        ({"ends_at": None}, "needs an end or a weekly schedule"),
        ({"ends_at": NOW}, "must end after it begins"),
        ({"starts_at": NOW + HOUR}, "must end after it begins"),
        ({"weekly": ["Sunday"]}, "is no weekly schedule"),
        ({"timezone": "Berlin"}, "is no time zone"),
    ],
)
def test_what_is_no_silence(conn: Connection, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add(conn, **values)
    assert silences.all_(conn) == []


def test_current_are_those_that_are_not_over(conn: Connection) -> None:
    over = add(conn, ends_at=NOW + HOUR)
    later = add(conn, starts_at=NOW + 5 * HOUR, ends_at=NOW + 6 * HOUR)
    weekly = add(conn, ends_at=None, weekly=["Sun 02:00-04:00"])
    lifted = add(conn, ends_at=NOW + 9 * HOUR)
    assert silences.lift(conn, lifted, by=NASTY, now=NOW)
    assert ids(silences.current(conn, NOW)) == [over, later, weekly]
    assert ids(silences.current(conn, NOW + HOUR)) == [later, weekly]
    assert ids(silences.all_(conn)) == [over, later, weekly, lifted]
    assert [(one.lifted_at, one.lifted_by) for one in silences.all_(conn)][-1] == (NOW, NASTY)


def test_what_can_not_be_lifted(conn: Connection) -> None:
    number = add(conn)
    assert not silences.lift(conn, number + 1, by="bob", now=NOW)
    assert not silences.lift(conn, number, by="bob", now=NOW + HOUR)
    assert silences.lift(conn, number, by="bob", now=NOW)
    assert not silences.lift(conn, number, by="eve", now=NOW)
    assert silences.all_(conn)[0].lifted_by == "bob"


def test_those_that_are_over_for_long_are_deleted(conn: Connection) -> None:
    add(conn, ends_at=NOW + HOUR)
    add(conn, ends_at=None, weekly=["Sun 02:00-04:00"])
    lifted = add(conn, ends_at=NOW + 99 * HOUR)
    silences.lift(conn, lifted, by="bob", now=NOW + HOUR)
    kept = add(conn, ends_at=NOW + 2 * HOUR)
    acknowledged = silences.acknowledge(conn, "a", author="bob", now=NOW)
    assert silences.expire(conn, NOW + HOUR) == 0
    assert silences.expire(conn, NOW + 2 * HOUR) == 2
    assert ids(silences.all_(conn)) == [2, kept, acknowledged]


def test_silences_that_name_a_host_count_for_the_host_that_took_it_over(conn: Connection) -> None:
    by_name = add(conn, hosts=["web9", "DB01"], ports=[(80, 80)])
    by_id = add(conn, hosts=["4711"], ends_at=None, weekly=["Sun 02:00-04:00"])
    for other in (["db*"], ["db01", "new*"], ["*"], ["db010"], []):
        add(conn, hosts=other, labels={"site": ["x"]})
    add(conn, hosts=["db01"], ends_at=NOW + timedelta(minutes=1))
    silences.acknowledge(conn, "a", author="bob", now=NOW)
    before = {one.id: one for one in silences.all_(conn)}
    later = NOW + timedelta(minutes=1)
    assert silences.take_over(conn, ["db01", "4711"], "New[1]", later) == [by_name, by_id]
    assert silences.take_over(conn, ["db01", "4711"], "New[1]", later) == []
    after = {one.id: one for one in silences.all_(conn)}
    changed = [after[number] for number in after if after[number] != before[number]]
    assert [one.id for one in changed] == [by_name, by_id]
    for one in changed:
        assert isinstance(one, Silence)
        assert one.matches_host(Host("x", "new[1]", "10.0.0.1"))
        assert not one.matches_host(Host("x", "new1", "10.0.0.1"))
    assert after[by_name].hosts[:2] == ("web9", "DB01")  # type: ignore[union-attr]


# ── acknowledgements ────────────────────────────────────────────────────────────────────────────


def test_a_later_acknowledgement_replaces_the_earlier(conn: Connection) -> None:
    other = silences.acknowledge(conn, "b", author="bob", now=NOW)
    assert silences.all_(conn) == [
        Acknowledgement(id=other, alert_id="b", starts_at=NOW, ends_at=None, author="bob", reason="", created_at=NOW)
    ]
    first = silences.acknowledge(conn, "a", author="bob", reason=NASTY, now=NOW)
    second = silences.acknowledge(conn, "a", author="eve", now=NOW + HOUR, ends_at=NOW + 2 * HOUR)
    assert ids(silences.current(conn, NOW + HOUR)) == [other, second]
    old = next(one for one in silences.all_(conn) if one.id == first)
    assert (old.reason, old.lifted_at, old.lifted_by) == (NASTY, NOW + HOUR, "eve")


def test_an_acknowledgement_ends_with_its_alert(conn: Connection) -> None:
    other = silences.acknowledge(conn, "b", author="bob", now=NOW)
    silences.acknowledge(conn, "a", author="bob", now=NOW)
    silenced = add(conn, ends_at=NOW + 9 * HOUR)
    early = silences.acknowledge(conn, "c", author="bob", now=NOW, ends_at=NOW + HOUR)
    silences.end_acknowledgements(conn, ["a"], NOW + HOUR)
    silences.end_acknowledgements(conn, ["c"], NOW + 2 * HOUR)
    assert ids(silences.current(conn, NOW + HOUR)) == [other, silenced]
    ended = {one.id: one.ends_at for one in silences.all_(conn)}
    assert ended[early] == NOW + HOUR
    assert all(one.lifted_at is None for one in silences.all_(conn))


# ── open alerts ─────────────────────────────────────────────────────────────────────────────────


def event(number: int, kind: EventKind = EventKind.DOWN, **values: Any) -> Event:
    defaults = {
        "host_id": "h1",
        "host_name": NASTY,
        "protocol": "tcp",
        "port": 80,
        "severity": Severity.CRITICAL,
        "labels": {"a": NASTY},
        "details": {"programs": [NASTY]},
    }
    return Event(f"{number:032x}", kind, NOW, "r1", **{**defaults, **values})


def open_one(conn: Connection, *story: Event, starts_at: datetime = NOW, ends_at: datetime | None = None) -> str:
    """An alert, from its first event to its newest."""
    events.add(conn, story)
    first, last = story[0], story[-1]
    events.dispatched(conn, {one.id: first.id for one in story})
    conn.execute(
        insert(tables.alerts).values(
            id=first.id, key=first.alert_key, host_id=first.host_id, last_event_id=last.id, starts_at=starts_at,
            ends_at=ends_at,
        )
    )  # fmt: skip
    return first.id


def deliver(conn: Connection, one: Event, channel: str, state: str, reason: str | None = None) -> None:
    conn.execute(
        insert(tables.deliveries).values(
            event_id=one.id, channel=channel, route="r", state=state, tries=1, last_error=reason, targets_done=[],
            created_at=NOW, updated_at=NOW,
        )
    )  # fmt: skip


def test_open_alerts(conn: Connection) -> None:
    down, flapping = event(1), event(2, EventKind.FLAPPING)
    unreachable = event(3, EventKind.UNREACHABLE, host_id="h2", protocol=None, port=None)
    second = open_one(conn, down, flapping)
    first = open_one(conn, unreachable, starts_at=NOW - HOUR)
    open_one(conn, event(4, port=81), ends_at=NOW)
    deliver(conn, down, "mail", "delivered")
    deliver(conn, down, "log", "delivered")
    deliver(conn, flapping, "log", "withheld", NASTY)
    found = alerts.opened(conn)
    assert [(key, one.id, one.starts_at, one.first, one.event) for key, one in found.items()] == [
        ("host/h2", first, NOW - HOUR, unreachable, unreachable),
        ("port/h1/tcp/80", second, NOW, down, flapping),
    ]
    assert alerts.opened(conn, ["port/h1/tcp/80", "host/h3"]).keys() == {"port/h1/tcp/80"}
    assert alerts.opened(conn, []) == {}
    assert deliveries.of_alerts(conn, [first, second]) == {
        second: [
            DeliveryStatus("log", "r", DeliveryState.WITHHELD, NASTY),
            DeliveryStatus("mail", "r", DeliveryState.DELIVERED, None),
        ]
    }
    assert [one.id for one in alerts.opened(conn, host_id="h1").values()] == [second]
    assert alerts.opened(conn, host_id="h3") == {}
    assert events.by_ids(conn, [first, second, "gone"]) == {first: unreachable, second: down}


def test_what_withholds_an_open_alert(conn: Connection) -> None:
    number = open_one(conn, event(1))
    add(conn, hosts=["*"], ports=[(81, 81)])
    add(conn, starts_at=NOW + HOUR, ends_at=NOW + 2 * HOUR)
    assert silences.in_force(conn, NOW).withholds(event(1), number) is None
    acknowledged = silences.acknowledge(conn, number, author="bob", now=NOW)
    withheld_by = silences.in_force(conn, NOW).withholds(event(1), number)
    assert isinstance(withheld_by, Acknowledgement)
    assert withheld_by.id == acknowledged
