"""The clocks of evidence, and whether the monitor's own is believed: each boundary from both sides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from portmon.engine import clocks, fleet
from portmon.engine.clocks import ClockCheck
from portmon.engine.fleet import Episode
from portmon.engine.lifecycle import Changes
from portmon.engine.machines import Kept
from portmon.engine.state import HostState, Port
from portmon.model.observation import Observation, Outcome

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
FIVE = timedelta(minutes=5)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("interval", "longest"), [(MINUTE, 15 * MINUTE), (FIVE, 15 * MINUTE), (6 * MINUTE, 18 * MINUTE), (HOUR, 3 * HOUR)]
)
def test_a_pause_is_longer_than_three_intervals_and_a_quarter_of_an_hour(
    interval: timedelta, longest: timedelta
) -> None:
    assert clocks.pause_of(interval) == longest


GAPS = [
    # A clock that went back takes nothing away.
    (-HOUR, 0.0),
    (timedelta(0), 0.0),
    (MINUTE, 60.0),
    (15 * MINUTE, 900.0),
    (15 * MINUTE + TICK, 300.0),
    (HOUR, 300.0),
]
"""Time since the last look, and what it adds to a clock."""


@pytest.mark.parametrize("status", ["new", "ok"])
@pytest.mark.parametrize(("gap", "adds"), GAPS)
def test_the_evidence_clock_counts_the_time_between_two_ok_looks(gap: timedelta, adds: float, status: str) -> None:
    host = HostState("1", status=status, evidence=7.0, last_ok_at=NOW - gap, last_evaluated_at=NOW - TICK)
    assert clocks.evidence_at(host, NOW, FIVE) == 7.0 + adds


@pytest.mark.parametrize("gap", [MINUTE, 15 * MINUTE, HOUR])
def test_the_evidence_clock_counts_one_interval_in_which_the_host_was_unreachable(gap: timedelta) -> None:
    host = HostState("1", status="unreachable", evidence=7.0, last_ok_at=NOW - gap)
    assert clocks.evidence_at(host, NOW, FIVE) == 307.0


@pytest.mark.parametrize("status", ["new", "unreachable"])
def test_the_evidence_clock_begins_with_the_first_ok_look(status: str) -> None:
    assert clocks.evidence_at(HostState("1", status=status, last_evaluated_at=NOW - FIVE), NOW, FIVE) == 0.0


@pytest.mark.parametrize("status", ["ok", "unreachable"])
@pytest.mark.parametrize(("gap", "adds"), GAPS)
def test_the_clock_of_tries_counts_the_time_between_any_two(gap: timedelta, adds: float, status: str) -> None:
    host = HostState("1", status=status, tried=7.0, last_ok_at=NOW - TICK, tried_at=NOW - gap)
    clocks.count_try(host, NOW, FIVE)
    assert (host.tried, host.tried_at) == (7.0 + adds, NOW)


def test_the_clock_of_tries_begins_with_the_first_one() -> None:
    host = HostState("1", last_evaluated_at=NOW - FIVE)
    clocks.count_try(host, NOW, FIVE)
    assert (host.tried, host.tried_at) == (0.0, NOW)


# ── the monitor's clock ─────────────────────────────────────────────────────────────────────────


def check(*behind: timedelta | None, runs: int = 0, enough: int = 2) -> ClockCheck | None:
    """Check a run at NOW.

    :param behind: for each look, how much older than the last one of its host it is; None if there was none
    """
    own = [Observation(str(number), "r", 1, NOW, Outcome.OK) for number in range(len(behind))]
    hosts = {
        str(number): HostState(str(number), last_evaluated_at=None if one is None else NOW + one)
        for number, one in enumerate(behind)
    }
    return clocks.check(own, hosts, runs=runs, enough=enough)


def test_without_an_earlier_look_nothing_is_known() -> None:
    assert check() is None
    assert check(None, None) is None
    assert clocks.check([Observation("1", "r", 1, NOW, Outcome.OK)], {}, runs=0, enough=1) is None


@pytest.mark.parametrize(
    ("behind", "went_back"),
    [
        ((-FIVE,), False),
        ((timedelta(0),), False),
        ((TICK,), True),
        # More than half of the hosts that have an earlier look.
        ((HOUR, -FIVE), False),
        ((HOUR, HOUR, -FIVE), True),
        ((HOUR, HOUR, -FIVE, -FIVE), False),
        ((HOUR, HOUR, -FIVE, timedelta(0), TICK), True),
        ((HOUR, None, None), True),
        ((HOUR, -FIVE, None), False),
    ],
)
def test_the_clock_went_back_if_most_looks_are_older_than_the_last_ones(
    behind: tuple[timedelta | None, ...], went_back: bool
) -> None:
    found = check(*behind)
    assert found is not None
    assert (found.behind is not None, found.runs, found.believed) == (went_back, int(went_back), False)


def test_how_far_it_went_back_is_the_median_of_the_older_looks() -> None:
    assert check(HOUR, TICK, FIVE) == ClockCheck(NOW, FIVE, 1)
    assert check(HOUR, TICK, FIVE, -FIVE) == ClockCheck(NOW, FIVE, 1)


@pytest.mark.parametrize(("runs", "enough", "believed"), [(0, 1, True), (0, 2, False), (1, 2, True), (1, 3, False)])
def test_it_is_believed_after_enough_runs(runs: int, enough: int, believed: bool) -> None:
    assert check(FIVE, runs=runs, enough=enough) == ClockCheck(NOW, FIVE, runs + 1, believed)


def test_a_run_whose_looks_are_newer_counts_nothing() -> None:
    assert check(-FIVE, runs=5, enough=2) == ClockCheck(NOW)


def test_the_time_of_a_run_is_that_of_its_newest_look() -> None:
    own = [Observation(one, "r", 1, at, Outcome.OK) for one, at in (("1", NOW), ("2", NOW + FIVE), ("3", NOW - FIVE))]
    hosts = {"1": HostState("1", last_evaluated_at=NOW + HOUR)}
    assert clocks.check(own, hosts, runs=0, enough=1) == ClockCheck(NOW + FIVE, HOUR, 1, believed=True)


# ── times that were wrong ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("at", "then"), [(NOW - TICK, NOW - TICK), (NOW, NOW), (NOW + TICK, NOW)])
def test_a_later_time_becomes_the_present(at: datetime, then: datetime) -> None:
    assert clocks.mended(at, NOW) == then
    assert clocks.mended((at, 1), NOW) == (then, 1)


@pytest.mark.parametrize("value", [None, 7, "text", 1.5, frozenset({"1"}), Port])
def test_what_is_no_time_stays(value: object) -> None:
    assert clocks.mended(value, NOW) is value


def port(at: datetime) -> Port:
    changes = Changes((1.0,), at, at)
    return Port(
        "1", "tcp", 80, "down", at, lost_since=at, presence=changes, parts=(("::", changes),), told=(NOW - HOUR, at)
    )


def test_all_times_of_a_host_and_its_ports_are_mended() -> None:
    def host(at: datetime) -> HostState:
        kept = Kept(HostState("1", last_ok_at=at), (port(at),), 3.0)
        return HostState("1", last_ok_at=at, presence=Changes((1.0,), at, at), told=(at,), kept=kept, labels={"a": "b"})

    assert clocks.mended(host(NOW + HOUR), NOW) == host(NOW)
    assert clocks.mended(port(NOW + HOUR), NOW) == port(NOW)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("seen", "boot", "then"),
    [
        # Both are of a clock that was ahead, and the port was not seen since the boot.
        (HOUR, 2 * HOUR, -TICK),
        # It was seen in the first look of the boot, or later.
        (2 * HOUR, 2 * HOUR, 0 * HOUR),
        (2 * HOUR, HOUR, 0 * HOUR),
        # The boot was before the clock was wrong.
        (HOUR, -HOUR, 0 * HOUR),
        (-2 * HOUR, -HOUR, -2 * HOUR),
        (-HOUR, HOUR, -HOUR),
        (0 * HOUR, HOUR, -TICK),
    ],
)
def test_a_port_that_was_last_seen_before_a_boot_was_so_still(
    seen: timedelta, boot: timedelta, then: timedelta, kept: bool
) -> None:
    old = Port("1", "tcp", 80, "up", NOW - 3 * HOUR, last_seen_at=NOW + seen)
    if kept:
        host = HostState("1", kept=Kept(HostState("1", booted_at=NOW + boot), (old,), 3.0))
        (port,) = clocks.mended(host, NOW).kept.ports
    else:
        (port,) = clocks.mended_ports([old], NOW, {"1": NOW + boot})
    assert port.last_seen_at == NOW + then


def test_what_has_no_later_time_is_the_same() -> None:
    before = port(NOW)
    assert clocks.mended(before, NOW) is before


@pytest.mark.parametrize(
    ("counted_at", "counts"),
    [(NOW - FIVE, True), (NOW - FIVE + TICK, False), (NOW, False), (NOW + TICK, False), (NOW + HOUR, False)],
)
def test_the_runs_of_a_fleet_episode_count_on_from_the_present_after_the_clock_went_back(
    counted_at: datetime, counts: bool
) -> None:
    # An episode is stored as text, so its time is not mended.
    looks = [Observation(one, "r", 1, NOW, Outcome.UNREACHABLE) for one in ("1", "2")]
    before = Episode(NOW - HOUR, frozenset({"1", "2"}), 1, counted_at)
    found = fleet.outlook(before, looks, {}, listed={"1", "2"}, foreign=(), enough=2, half_interval=FIVE)
    assert found.episode is not None
    assert (found.opens, found.episode.runs) == (counts, 1 + counts)
    assert found.episode.counted_at == (NOW if counts else min(counted_at, NOW))
