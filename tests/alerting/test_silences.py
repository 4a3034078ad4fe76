"""What is withheld, and when: every minute of a week, and the two days on which clocks are changed."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from portmon.alerting.silences import Acknowledgement, Silence, SilencesInForce, Withholding, parse_weekly, zone
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def silence(**values: Any) -> Silence:
    defaults = {
        "id": 7,
        "starts_at": NOW,
        "ends_at": None,
        "author": "alice",
        "reason": "kernel updates",
        "created_at": NOW,
    }
    return Silence(**{**defaults, **values})


def acknowledged(alert_id: str, **values: Any) -> Acknowledgement:
    defaults: dict[str, Any] = {"id": 8, "starts_at": NOW, "ends_at": None, "author": "bob", "reason": "on it"}
    return Acknowledgement(alert_id=alert_id, created_at=NOW, **{**defaults, **values})


def first_of(*found: Withholding, now: datetime = NOW, hosts: tuple[Host, ...] = ()) -> Withholding | None:
    """What withholds the event of an alert."""
    return SilencesInForce(found, {host.id: host for host in hosts}, now).withholds(event(), "a")


def event(**values: Any) -> Event:
    defaults = {
        "host_id": "1",
        "host_name": "Web01",
        "protocol": "tcp",
        "port": 80,
        "program": "nginx, php-fpm",
        "labels": {"role": "web"},
        "details": {"programs": ["nginx", "php-fpm"]},
    }
    return Event("e", EventKind.DOWN, NOW, "r", **{**defaults, **values})


OF_HOST = event(protocol=None, port=None, program=None, details={})
MONITOR = event(host_id=None, host_name=None, protocol=None, port=None, program=None, labels={}, details={})

# ── what ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "port", "host", "monitor"),
    [
        ({"hosts": ("db*", "WEB*")}, True, True, False),
        ({"hosts": ("web",)}, False, False, False),
        ({"hosts": ("*",)}, True, True, True),
        ({"hosts": ("*",), "labels": {"role": ("*",)}}, True, True, False),
        ({"hosts": ("*",), "ports": ((1, 65535),)}, True, False, False),
        ({"labels": {"role": ("db", "w*")}}, True, True, False),
        ({"labels": {"role": ("web",), "site": ("*",)}}, False, False, False),
        ({"ports": ((22, 22), (80, 90))}, True, False, False),
        ({"ports": ((81, 90),)}, False, False, False),
        ({"programs": ("php*",)}, True, False, False),
        ({"programs": ("NGINX",)}, False, False, False),
        ({"hosts": ("web*",), "ports": ((81, 81),)}, False, False, False),
    ],
)
def test_everything_given_must_match(given: dict[str, Any], port: bool, host: bool, monitor: bool) -> None:
    made = silence(**given)
    assert [made.matches(one, None) for one in (event(), OF_HOST, MONITOR)] == [port, host, monitor]
    # To be part of an alert makes no difference.
    assert made.matches(event(), "a") is port


@pytest.mark.parametrize(
    ("given", "hit"),
    [
        ({"hosts": ("web*",)}, True),
        ({"hosts": ("old-*",)}, True),
        ({"labels": {"role": ("web",)}}, True),
        ({"labels": {"role": ("gone",)}}, True),
        ({"hosts": ("old-*",), "labels": {"role": ("gone",)}, "ports": ((80, 80),), "programs": ("nginx",)}, True),
        # Name and labels of one time, never mixed.
        ({"hosts": ("old-*",), "labels": {"role": ("web",)}}, False),
        ({"hosts": ("db*",)}, False),
        # What is not of the host is still asked for.
        ({"hosts": ("old-*",), "ports": ((81, 81),)}, False),
        ({"hosts": ("old-*",), "programs": ("sshd",)}, False),
    ],
)
def test_the_host_as_it_was_or_as_it_is_now(given: dict[str, Any], hit: bool) -> None:
    now = Host("1", "old-web01", "a", labels={"role": "gone"})
    made = silence(**given)
    assert made.matches(event(), "a", now) is hit
    assert (first_of(made, hosts=(now,)) is made) is hit
    other = Host("2", "old-web01", "a", labels={"role": "gone"})
    assert (first_of(made, hosts=(other,)) is made) is made.matches(event(), "a")


def test_an_acknowledgement_is_of_one_alert() -> None:
    made = acknowledged("a")
    assert [made.matches(one, "a") for one in (event(), OF_HOST, MONITOR)] == [True] * 3
    assert not made.matches(event(), "b")
    assert not made.matches(event(), None)


@pytest.mark.parametrize(
    ("given", "hit"),
    [
        ({"ports": ((1, 1),)}, True),
        ({"hosts": ("WEB*",)}, True),
        ({"hosts": ("db*",)}, False),
        ({"labels": {"role": ("web",)}}, True),
        ({"hosts": ("web*",), "labels": {"role": ("db",)}}, False),
    ],
)
def test_hosts_that_are_concerned(given: dict[str, Any], hit: bool) -> None:
    assert silence(**given).matches_host(Host("1", "web01", "a", labels={"role": "web"})) is hit


def test_the_first_that_counts_and_matches() -> None:
    later = silence(id=1, hosts=("*",), starts_at=NOW + HOUR)
    other = silence(id=2, hosts=("db*",))
    first, second = silence(id=3, hosts=("web*",)), acknowledged("a")
    assert first_of(later, other, first, second) is first
    assert first_of(later, other, second, first) is second
    assert first_of(later, other, first, second, now=NOW + HOUR) is later
    assert first_of(later, other, acknowledged("b")) is None


# ── when ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("made", [silence(ends_at=NOW + HOUR), acknowledged("a", ends_at=NOW + HOUR)])
def test_from_start_to_end(made: Withholding) -> None:
    tick = timedelta(microseconds=1)
    moments = [NOW - tick, NOW, NOW + HOUR - tick, NOW + HOUR]
    assert [made.active(at) for at in moments] == [False, True, True, False]
    assert [made.over(at) for at in moments] == [False, False, False, True]
    assert [made.next_start(at) for at in moments] == [NOW, NOW, NOW + HOUR - tick, None]


@pytest.mark.parametrize(
    ("made", "since", "now", "expected"),
    [
        (silence(ends_at=NOW + HOUR), NOW - HOUR, NOW + 2 * HOUR, True),
        (silence(ends_at=NOW + HOUR), NOW + HOUR, NOW + 2 * HOUR, False),
        (silence(ends_at=NOW + HOUR, starts_at=NOW), NOW - HOUR, NOW, False),
        (acknowledged("a", ends_at=NOW + HOUR), NOW, NOW + 2 * HOUR, True),
        (acknowledged("a", ends_at=NOW + HOUR), NOW + HOUR, NOW + 2 * HOUR, False),
        (acknowledged("a", lifted_at=NOW + HOUR), NOW + HOUR, NOW + 2 * HOUR, False),
        (acknowledged("a", lifted_at=NOW + HOUR), NOW, NOW + 2 * HOUR, True),
        (acknowledged("a", starts_at=NOW + 2 * HOUR, lifted_at=NOW + HOUR), NOW, NOW + 9 * HOUR, False),
    ],
)
def test_whether_it_counted_within_a_time(made: Withholding, since: datetime, now: datetime, expected: bool) -> None:
    assert made.counted(since, now) is expected


@pytest.mark.parametrize(("hour", "expected"), [(3, True), (4, False), (5, False)])
def test_whether_a_schedule_counted_within_a_time(hour: int, expected: bool) -> None:
    weekly = silence(weekly=("Sun 02:00-04:00",), ends_at=None)
    assert weekly.counted(datetime(2026, 1, 4, hour, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)) is expected


@pytest.mark.parametrize("made", [silence(ends_at=NOW + HOUR), acknowledged("a", ends_at=NOW + HOUR)])
def test_lifted_before_its_time(made: Withholding) -> None:
    made = dataclasses.replace(made, lifted_at=NOW + HOUR / 2, lifted_by="bob")
    assert made.active(NOW)
    assert not made.active(NOW + HOUR / 2)
    assert made.next_start(NOW + HOUR / 2) is None


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("Sun 02:00-04:00", ["Sun 02:00", "Sun 03:59"], ["Sun 01:59", "Sun 04:00", "Mon 02:00"]),
        ("sun 2:00 - 4:00", ["Sun 02:00"], ["Sun 04:00"]),
        ("Mon-Fri 22:00-06:00", ["Mon 22:00", "Tue 05:59", "Fri 22:00", "Sat 05:59"], ["Mon 05:59", "Sat 06:00", "Sat 22:00", "Sun 23:00"]),
        ("Sat,Sun 00:00-24:00", ["Sat 00:00", "Sun 23:59"], ["Fri 23:59", "Mon 00:00"]),
        ("Sun 23:00-01:00", ["Sun 23:30", "Mon 00:59"], ["Mon 01:00", "Sun 00:30"]),
        ("Sat-Mon, Wed 00:00-00:30", ["Sat 00:00", "Sun 00:29", "Mon 00:00", "Wed 00:00"], ["Tue 00:00", "Mon 00:30"]),
        ("Mon 12:00-00:00", ["Mon 12:00", "Mon 23:59"], ["Mon 11:59", "Tue 00:00"]),
        ("Mon 12:00-11:59", ["Mon 12:00", "Tue 11:58"], ["Tue 11:59", "Mon 11:59"]),
    ],
)  # fmt: skip
def test_weekly_schedules(text: str, inside: list[str], outside: list[str]) -> None:
    made = parse_weekly(text)
    monday = datetime(2026, 1, 5)  # noqa: DTZ001 - what a clock on the wall shows
    for moment in (*inside, *outside):
        day, _, time = moment.partition(" ")
        hours, minutes = map(int, time.split(":"))
        at = monday + timedelta(days=DAYS.index(day), hours=hours, minutes=minutes, seconds=59)
        assert made.covers(at) is (moment in inside), moment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no weekly schedule: give days and times, for instance 'Sun 02:00-04:00'"),
        ("02:00-04:00", "is no weekly schedule: give days and times"),
        ("Sun", "is no weekly schedule"),
        ("Sun 02:00", "is no weekly schedule"),
        ("Sun 02-04", "is no weekly schedule"),
        ("Sonntag 02:00-04:00", "'Sonntag' is no day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun, or a range such as Mon-Fri"),
        ("Mon-Wed-Fri 02:00-04:00", "'Mon-Wed-Fri' is no day"),
        ("Mon, 02:00-04:00", "'' is no day"),
        ("Sun 02:00-24:01", "24:01 is no time of day; they go from 00:00 to 24:00"),
        ("Sun 25:00-26:00", "25:00 is no time of day"),
        ("Sun 02:60-04:00", "02:60 is no time of day"),
        ("Sun 02:00-02:00", "begins when it ends; a whole day is 00:00-24:00"),
        ("Sun 24:00-02:00", "begins at 24:00; that is 00:00 of the next day"),
    ],
)  # fmt: skip
def test_what_is_no_schedule(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_weekly(text)


@pytest.mark.parametrize("name", ["", "Europe/Berlni", "Europe", "../etc/passwd", "/etc/localtime", "a\x00b", "\udcff"])
def test_what_is_no_time_zone(name: str) -> None:
    with pytest.raises(ValueError, match="is no time zone: give an IANA name such as Europe/Berlin, or UTC"):
        zone(name)


@pytest.mark.parametrize("broken", [{"timezone": "Gone/Zone"}, {"weekly": ("Someday",)}])
def test_what_can_not_be_read_silences_nothing(broken: dict[str, Any]) -> None:
    made = silence(hosts=("*",), **{"weekly": ("Mon-Sun 00:00-24:00",), **broken})
    assert not made.active(NOW)
    assert made.next_start(NOW) is None


# ── clocks that are changed ─────────────────────────────────────────────────────────────────────


def active_hours(text: str, first: str, hours: int) -> list[str]:
    """UTC times, by the quarter, at which a schedule in Berlin begins or ends."""
    made = silence(starts_at=datetime(2026, 1, 1, tzinfo=UTC), weekly=(text,), timezone="Europe/Berlin", hosts=("*",))
    at = datetime.fromisoformat(first)
    changes, before = [], made.active(at - timedelta(minutes=15))
    for _ in range(hours * 4 + 1):
        if made.active(at) is not before:
            before = not before
            changes.append(f"{at:%H:%M}")
        at += timedelta(minutes=15)
    return changes


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        # 02:00 CET is 01:00 UTC, when the clock goes on to 03:00 CEST.
        ("Sun 01:00-02:00", ["00:00", "01:00"]),
        ("Sun 02:00-03:00", []),
        ("Sun 02:15-02:45", []),
        ("Sun 02:00-04:00", ["01:00", "02:00"]),
        ("Sun 02:30-04:00", ["01:00", "02:00"]),
        ("Sun 01:00-02:30", ["00:00", "01:00"]),
        ("Sun 03:00-04:00", ["01:00", "02:00"]),
    ],
)
def test_the_hour_that_is_skipped(text: str, changes: list[str]) -> None:
    assert active_hours(text, "2026-03-28T23:30+00:00", 6) == changes


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        # 03:00 CEST is 01:00 UTC, when the clock goes back to 02:00 CET.
        ("Sun 02:00-03:00", ["00:00", "02:00"]),
        ("Sun 02:15-02:45", ["00:15", "00:45", "01:15", "01:45"]),
        ("Sun 02:00-04:00", ["00:00", "03:00"]),
        ("Sun 01:00-02:30", ["23:00", "00:30", "01:00", "01:30"]),
        ("Sun 03:00-04:00", ["02:00", "03:00"]),
    ],
)
def test_the_hour_that_comes_twice(text: str, changes: list[str]) -> None:
    assert active_hours(text, "2026-10-24T22:30+00:00", 6) == changes


@pytest.mark.parametrize(
    ("text", "now", "then"),
    [
        ("Sun 02:30-04:00", "2026-03-28T12:00", "2026-03-29T01:00"),
        ("Sun 02:15-02:45", "2026-03-28T12:00", "2026-04-05T00:15"),
        ("Sun 02:15-02:45", "2026-10-25T00:50", "2026-10-25T01:15"),
        ("Sun 01:00-02:30", "2026-10-25T00:40:30", "2026-10-25T01:00"),
        ("Sun 02:00-04:00", "2026-10-25T03:00", "2026-11-01T01:00"),
    ],
)
def test_when_it_begins_next(text: str, now: str, then: str) -> None:
    made = silence(starts_at=datetime(2026, 1, 1, tzinfo=UTC), weekly=(text,), timezone="Europe/Berlin", hosts=("*",))
    assert made.next_start(datetime.fromisoformat(f"{now}+00:00")) == datetime.fromisoformat(f"{then}+00:00")


# ── any schedule ────────────────────────────────────────────────────────────────────────────────

TIME = st.integers(0, 1440)
SCHEDULE = st.tuples(st.sets(st.integers(0, 6), min_size=1), TIME, TIME).filter(
    lambda one: one[1] not in (one[2], 1440)
)
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Shanghai", "Africa/Casablanca")


def text_of(schedule: tuple[set[int], int, int]) -> str:
    days, start, end = schedule
    times = "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (start, end))
    return f"{','.join(DAYS[day] for day in sorted(days))} {times}"


def naively(schedule: tuple[set[int], int, int], wall: datetime) -> bool:
    """Whether a minute on the wall is in a schedule, found by going through the schedule minute by minute."""
    days, start, end = schedule
    for day in days:
        minute = start
        while True:
            # The day of the start, however far over midnight.
            weekday, of_day = (day + minute // 1440) % 7, minute % 1440
            if (wall.weekday(), wall.hour * 60 + wall.minute) == (weekday, of_day):
                return True
            minute += 1
            if minute == (end if end > start else end + 1440):
                break
    return False


@given(
    st.lists(SCHEDULE, min_size=1, max_size=3),
    st.sampled_from(ZONES),
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)),  # noqa: DTZ001 - made aware below
    st.integers(-5000, 5000),
    st.none() | st.integers(-5000, 5000),
)
@example([({6}, 150, 240)], "Europe/Berlin", datetime(2026, 3, 29, 1, 0), -5000, None)  # noqa: DTZ001
@example([({6}, 60, 150)], "Europe/Berlin", datetime(2026, 10, 25, 0, 45), -5000, None)  # noqa: DTZ001
def test_any_schedule(
    schedules: list[tuple[set[int], int, int]], name: str, moment: datetime, start: int, end: int | None
) -> None:
    now = moment.replace(tzinfo=UTC)
    starts_at = now + timedelta(minutes=start)
    ends_at = None if end is None else now + timedelta(minutes=end)
    made = silence(
        hosts=("*",),
        weekly=tuple(map(text_of, schedules)),
        timezone=name,
        starts_at=starts_at,
        ends_at=ends_at,
    )

    def expected(at: datetime) -> bool:
        inside = starts_at <= at and (ends_at is None or at < ends_at)
        wall = at.astimezone(ZoneInfo(name))
        return inside and any(naively(schedule, wall) for schedule in schedules)

    assert made.active(now) is expected(now)
    assert made.active(now + HOUR) is expected(now + HOUR)
    then = made.next_start(now)
    if then is None:
        assert not any(made.active(now + timedelta(minutes=step)) for step in range(0, 60 * 24 * 8, 7))
    else:
        assert expected(then)
        assert then >= now
        # Nothing earlier: not a minute before, nor anywhere in between.
        steps = (then.replace(second=0, microsecond=0) - now) // timedelta(minutes=1)
        assert not any(made.active(now + timedelta(minutes=step)) for step in range(0, steps, 7))
        if then > now:
            assert not expected(max(now, then - timedelta(minutes=1)))


# ── for people ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ends_at": NOW + 16 * HOUR}, "silenced by alice until 2026-01-02 04:00 UTC: kernel updates (silence 7)"),
        ({"weekly": ("Sun 02:00-04:00",), "timezone": "Europe/Berlin"}, "silenced by alice Sun 02:00-04:00 Europe/Berlin: kernel updates (silence 7)"),
        ({"weekly": ("Sun 02:00-04:00",), "ends_at": NOW, "reason": ""}, "silenced by alice Sun 02:00-04:00 UTC until 2026-01-01 12:00 UTC (silence 7)"),
    ],
)  # fmt: skip
def test_what_is_told_of_a_message_that_is_withheld(given: dict[str, Any], told: str) -> None:
    assert silence(**given).told() == told


def test_what_is_told_of_a_message_that_is_acknowledged() -> None:
    assert acknowledged("a").told() == "acknowledged by bob: on it"
    assert acknowledged("a", reason="", ends_at=NOW).told() == "acknowledged by bob until 2026-01-01 12:00 UTC"


def test_what_it_is_about() -> None:
    made = silence(hosts=("a*", "b"), labels={"role": ("web", "db")}, ports=((1, 1), (80, 90)), programs=("nginx",))
    assert made.what() == "host a*|b and label role=web|db and port 1,80-90 and program nginx"
    assert acknowledged("x").what() == "alert x"
