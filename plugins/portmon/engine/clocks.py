"""Time as evidence: how much of it a host was seen in, and whether the monitor's own clock can be believed. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from portmon.engine.machines import Kept
from portmon.engine.state import HostState, Port
from portmon.model.observation import Observation
from portmon.model.state import HostStatus

PAUSE = timedelta(minutes=15)
PAUSE_INTERVALS = 3
"""A longer time than both without a look is a pause, in which anything may have happened."""
WITHOUT_SCHEDULE = timedelta(minutes=5)
"""The interval where there is no schedule."""
TICK = timedelta(microseconds=1)
"""The shortest time that is stored."""


@lru_cache
def pause_of(interval: timedelta) -> timedelta:
    """The longest time between two looks that counts as a whole, given the time between scheduled runs."""
    return max(PAUSE_INTERVALS * interval, PAUSE)


def _grown(clock: float, last: datetime | None, at: datetime, interval: timedelta, *, broken: bool) -> float:
    if last is None:
        return clock
    # A clock that went back does not take evidence away.
    gap = max(at - last, timedelta(0))
    return clock + (interval if broken or gap > pause_of(interval) else gap).total_seconds()


def evidence_at(host: HostState, at: datetime, interval: timedelta) -> float:
    """The evidence clock of a host at an ok look: seconds in which it was seen."""
    return _grown(host.evidence, host.last_ok_at, at, interval, broken=host.status == HostStatus.UNREACHABLE)


def count_try(host: HostState, at: datetime, interval: timedelta) -> None:
    """Advance the clock of the runs that tried a host: evidence for what can be wrong with the host itself."""
    host.tried = _grown(host.tried, host.tried_at, at, interval, broken=False)
    host.tried_at = at


@dataclass(frozen=True, slots=True)
class ClockCheck:
    """Whether the looks of a run can be believed.

    :param behind: how much older they are than the last ones; None if they are not
    :param runs: runs in a row whose looks were older, this one included
    :param believed: they were so often enough: every stored time later than ``at`` becomes ``at``
    :param at: the newest look of the run
    """

    at: datetime
    behind: timedelta | None = None
    runs: int = 0
    believed: bool = False


def check(own: Sequence[Observation], hosts: Mapping[str, HostState], *, runs: int, enough: int) -> ClockCheck | None:
    """Compare the looks of a run with the last ones of its hosts.

    :param own: looks that the run itself made
    :param runs: runs in a row before this one whose looks were older
    :param enough: so many such runs are believed
    :returns: None if no host was looked at before
    """
    known = ((look, hosts.get(look.host_id)) for look in own)
    gaps = [host.last_evaluated_at - look.observed_at for look, host in known if host and host.last_evaluated_at]
    if not gaps:
        return None
    older = sorted(gap for gap in gaps if gap > timedelta(0))
    newest = max(look.observed_at for look in own)
    if 2 * len(older) <= len(gaps):
        return ClockCheck(newest)
    return ClockCheck(newest, older[len(older) // 2], runs + 1, runs + 1 >= enough)


def mended_ports(ports: Iterable[Port], at: datetime, booted: Mapping[str, datetime | None]) -> list[Port]:
    """The ports with ``at`` in place of every later time; what was last seen before a boot was so still.

    :param booted: host id to the time of its boot as it was stored, which may be later as well
    """
    found = []
    for port in ports:
        boot, last, own = booted.get(port.host_id), port.last_seen_at, mended(port, at)
        if boot is not None and last is not None and last < boot and own.last_seen_at >= min(boot, at):
            own = dataclasses.replace(own, last_seen_at=min(boot, at) - TICK)
        found.append(own)
    return found


def mended(value: Any, at: datetime) -> Any:
    """A stored value with ``at`` in place of every time later than that, fields and items included."""
    if isinstance(value, datetime):
        return min(value, at)
    if isinstance(value, Kept):
        ports = mended_ports(value.ports, at, {value.host.host_id: value.host.booted_at})
        return Kept(mended(value.host, at), tuple(ports), value.clock)
    if isinstance(value, tuple):
        return tuple(mended(one, at) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        new = {name: mended(one, at) for name, one in own.items()}
        return value if new == own else dataclasses.replace(value, **new)
    return value
