"""Spans of a port's timeline: up, down, and without evidence as a third state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from portmon.api.timeline import Stretch, blind, foreign, spans, uptime
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.state import PortStatus

BEGIN = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = BEGIN + 24 * HOUR


def at(hours: float) -> datetime:
    return BEGIN + hours * HOUR


def event(kind: EventKind, hours: float, **fields: Any) -> Event:
    return Event("0" * 32, kind, at(hours), "run", "h", "h", "tcp", 80, **fields)


def shown(found: list[Stretch]) -> list[tuple[float, float, str]]:
    return [((span.start - BEGIN) / HOUR, (span.end - BEGIN) / HOUR, span.state) for span in found]


def line(*story: Event, dark: Any = (), now: str | None = PortStatus.UP, first: float | None = -100) -> Any:
    seen = None if first is None else at(first)
    return shown(spans(story, dark, now_state=now, first_seen=seen, since=BEGIN, until=DAY))


def test_without_events_it_is_as_it_is_now() -> None:
    assert line() == [(0, 24, "up")]
    assert line(now=PortStatus.DOWN) == [(0, 24, "down")]
    assert line(now=None) == [(0, 24, "none")]
    assert line(first=6) == [(0, 6, "none"), (6, 24, "up")]


def test_a_death_and_its_recovery() -> None:
    down, back = event(EventKind.DOWN, 4, since=at(3)), event(EventKind.RECOVERED, 9)
    assert line(down, back) == [(0, 3, "up"), (3, 9, "down"), (9, 24, "up")]
    assert line(back) == [(0, 9, "down"), (9, 24, "up")]
    assert line(down, now=PortStatus.DOWN) == [(0, 3, "up"), (3, 24, "down")]


def test_a_new_port_was_not_there_before() -> None:
    assert line(event(EventKind.NEW, 5), first=5) == [(0, 5, "none"), (5, 24, "up")]


def test_a_port_that_is_watched_no_more_is_not_up() -> None:
    story = (event(EventKind.DOWN, 2), event(EventKind.RETIRED, 8))
    assert line(*story, now=None) == [(0, 2, "up"), (2, 8, "down"), (8, 24, "none")]


def test_flapping_counts_by_the_state_it_names() -> None:
    story = (
        event(EventKind.FLAPPING, 2, details={"state": "down"}),
        event(EventKind.STABLE, 6, details={"state": "up"}),
    )
    assert line(*story) == [(0, 2, "up"), (2, 6, "down"), (6, 24, "up")]


def test_a_lost_bind_is_no_death() -> None:
    assert line(event(EventKind.REBOUND, 2, details={"severe": True})) == [(0, 24, "up")]


def test_a_port_that_one_of_its_programs_left_is_not_down() -> None:
    story = (
        event(EventKind.RECOVERED, 1),
        event(EventKind.OWNER_GONE, 2, details={"owner": "varnishd", "left": "nginx"}),
        event(EventKind.RECOVERED, 3, details={"part": "owner", "owner": "varnishd"}),
        event(EventKind.STABLE, 5, details={"state": "down", "gone": "varnishd"}),
        event(EventKind.STABLE, 6, details={"state": "down", "lost": ["::"]}),
        event(EventKind.CRASH_LOOPING, 7),
    )
    assert line(*story) == [(0, 1, "down"), (1, 24, "up")]


def test_a_port_that_another_program_took_stays_down() -> None:
    story = (event(EventKind.DOWN, 2), event(EventKind.REPLACED, 5, details={"taken": True}))
    assert line(*story, now=PortStatus.DOWN) == [(0, 2, "up"), (2, 24, "down")]


def test_time_without_evidence_is_neither() -> None:
    down = event(EventKind.DOWN, 12)
    found = line(down, dark=[(at(10), at(14))], now=PortStatus.DOWN)
    assert found == [(0, 10, "up"), (10, 14, "none"), (14, 24, "down")]


def visits(*good: float, failed: tuple[float, ...] = ()) -> list[tuple[datetime, bool]]:
    return sorted([(at(hour), True) for hour in good] + [(at(hour), False) for hour in failed])


def dark(found: list[tuple[datetime, datetime]]) -> list[tuple[float, float]]:
    return [((begin - BEGIN) / HOUR, (end - BEGIN) / HOUR) for begin, end in found]


def test_a_host_that_was_never_visited_gave_no_evidence() -> None:
    assert dark(blind([], BEGIN, DAY)) == [(0, 24)]


def test_visits_every_hour_are_evidence_of_the_whole_time() -> None:
    assert blind(visits(*range(25)), BEGIN, DAY + HOUR) == []


def test_a_failed_visit_hides_the_time_to_its_neighbours() -> None:
    assert dark(blind(visits(*range(10), *range(12, 25), failed=(10, 11)), BEGIN, DAY)) == [(9, 12)]


def test_a_gap_between_visits_is_no_evidence() -> None:
    assert dark(blind(visits(*range(8), *range(16, 25)), BEGIN, DAY)) == [(7, 16)]


def test_uptime_never_rounds_up() -> None:
    second = timedelta(seconds=1)
    found = [Stretch(start=BEGIN, end=DAY - second, state="up"), Stretch(start=DAY - second, end=DAY, state="down")]
    assert uptime(found).percent == 99.99
    assert uptime(found[:1]).percent == 100
    assert uptime([]).percent is None
    assert uptime([Stretch(start=BEGIN, end=DAY, state="none")]).percent is None


def test_what_another_machine_showed_is_withdrawn() -> None:
    """What was up before is up again; what was not known before is not known."""
    story = event(EventKind.DOWN, 4), event(EventKind.RETIRED, 6, details={"discarded": True})
    hidden = [(at(3), at(6))]
    assert line(*story, dark=hidden) == [(0, 3, "up"), (3, 6, "none"), (6, 24, "up")]
    story = event(EventKind.NEW, 4), event(EventKind.DOWN, 5), event(EventKind.RETIRED, 6, details={"discarded": True})
    assert line(*story, dark=hidden, now=None, first=None) == [(0, 24, "none")]


def of_host(kind: EventKind, hours: float, **details: Any) -> Event:
    return Event("0" * 32, kind, at(hours), "run", "h", "h", since=at(hours - 1), details=details)


def test_another_machine_is_no_evidence() -> None:
    def seen(*story: Event) -> list[tuple[float, float]]:
        return dark(foreign(story, BEGIN, DAY))

    began, ended = of_host(EventKind.FOREIGN_MACHINE, 5), of_host(EventKind.OWN_MACHINE, 8)
    assert seen() == seen(ended) == []
    assert seen(began) == [(4, 24)]
    assert seen(began, ended) == [(4, 8)]
    assert seen(of_host(EventKind.FOREIGN_MACHINE, -5), ended) == [(0, 8)]
    assert seen(began, of_host(EventKind.RETIRED, 7, ends="unreachable"), ended) == [(4, 8)]
    assert seen(began, of_host(EventKind.RETIRED, 7, ends="foreign_machine")) == [(4, 7)]
    discarded = of_host(EventKind.ANSWERS_DISCARDED, 10, since=at(7).isoformat())
    assert seen(discarded) == [(7, 10)]
    assert seen(began, ended, discarded) == [(4, 10)]
    assert seen(of_host(EventKind.FOREIGN_MACHINE, -5), of_host(EventKind.OWN_MACHINE, -3)) == []


MOMENTS = st.floats(-5, 29).map(at)
KINDS = st.sampled_from([EventKind.NEW, EventKind.DOWN, EventKind.RECOVERED, EventKind.RETIRED, EventKind.RESTARTED])


@given(
    st.lists(st.tuples(MOMENTS, KINDS), max_size=8),
    st.lists(st.tuples(MOMENTS, st.booleans()), max_size=30),
    st.sampled_from([None, *PortStatus]),
    st.none() | MOMENTS,
)
def test_spans_cover_the_time_once_and_change_at_each_edge(
    told: list[tuple[datetime, EventKind]], seen: list[tuple[datetime, bool]], now: str | None, first: datetime | None
) -> None:
    story = [Event("0" * 32, kind, moment, "run", "h", "h", "tcp", 80) for moment, kind in sorted(told)]
    looks = sorted(one for one in seen if BEGIN <= one[0] < DAY)
    hidden = blind(looks, BEGIN, DAY)
    found = spans(story, hidden, now_state=now, first_seen=first, since=BEGIN, until=DAY)
    assert (found[0].start, found[-1].end) == (BEGIN, DAY)
    assert all(one.end == other.start and one.state != other.state for one, other in pairwise(found))
    assert all(one.state == "none" for one in found for begin, end in hidden if begin <= one.start and one.end <= end)
    assert sum((end - begin for begin, end in hidden), timedelta()) <= uptime(found).unknown
