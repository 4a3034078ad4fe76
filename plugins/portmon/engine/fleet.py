"""What is wrong with many hosts at once is wrong with the monitor: fleet episodes, hosts that are not scanned. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from portmon.engine.clocks import pause_of
from portmon.engine.state import HostState
from portmon.errors import HostKeyChangedError
from portmon.model.observation import Observation, Outcome
from portmon.model.state import HostStatus

SHARE = 0.9
"""Of the hosts that answered before, so many fail at once when the monitor is at fault."""
FEW = 5
"""Up to this many hosts that are not scanned, or hide who owns their ports, have an event each."""


@dataclass(frozen=True, slots=True)
class Episode:
    """Hosts that began to fail in one run.

    :param runs: runs in which they failed, counted at most once per half interval, the last time at ``counted_at``
    :param told: there were enough of these runs
    """

    since: datetime
    hosts: frozenset[str]
    runs: int
    counted_at: datetime
    told: bool = False


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run says about an episode: the episode from now on, and whether it opens or ends in this run."""

    episode: Episode | None
    opens: bool = False
    ends: bool = False


def outlook(
    before: Episode | None,
    looks: Collection[Observation],
    hosts: Mapping[str, HostState],
    *,
    listed: Collection[str],
    foreign: Collection[str],
    enough: int,
    half_interval: timedelta,
) -> Outlook:
    """Evaluate the observations of one run.

    :param before: the episode that is suspected or open
    :param hosts: their state before this run
    :param listed: ids of the hosts of the inventory
    :param foreign: ids of hosts that another machine answers for
    :param enough: ``states.unreachable_after``
    """
    if before is None and not any(map(_fails, looks)):
        return Outlook(None)
    final = {look.host_id: look for look in looks}
    failing = {host_id for host_id, look in final.items() if _fails(look)}
    at = max(look.observed_at for look in final.values())
    began = {one for one in final if one not in foreign and _answered_before(hosts.get(one))}
    if before is None:
        fresh = failing & began
        if len(fresh) < 2 or len(fresh) < SHARE * len(began) or 2 * len(final) <= len(listed):
            return Outlook(None)
        episode = Episode(at, frozenset(fresh), 1, at)
    else:
        own = before.hosts & set(listed)
        tried, grown = own & final.keys(), own | (failing & began)
        if own and 2 * len(tried) <= len(own):
            return Outlook(dataclasses.replace(before, hosts=grown))
        still = tried & failing
        if not own or 2 * len(still) < len(tried):
            return Outlook(None, ends=before.told)
        # A later time is of a clock that went back.
        last = min(before.counted_at, at)
        runs, counted_at = (before.runs + 1, at) if at - last >= half_interval else (before.runs, last)
        if not before.told and runs >= enough and len(still) < SHARE * len(tried):
            return Outlook(None)
        episode = Episode(before.since, grown, runs, counted_at, before.told)
    if episode.told or episode.runs < enough:
        return Outlook(episode)
    return Outlook(dataclasses.replace(episode, told=True), opens=True)


def _fails(look: Observation) -> bool:
    return look.outcome is Outcome.UNREACHABLE and look.error_class != HostKeyChangedError.error_class


def _answered_before(host: HostState | None) -> bool:
    """Whether the last run that tried a host got evidence of it."""
    if host is None or host.last_ok_at is None or host.status == HostStatus.UNREACHABLE:
        return False
    # The end of an episode sets the failures to 0, not the error.
    return host.failures == 0 and host.error_class is None


def unscanned(
    hosts: Iterable[HostState], *, now: datetime, since: datetime | None, interval: timedelta
) -> dict[str, datetime | None]:
    """Host id: when it was last tried, of the hosts that no run tried for too long.

    :param since: since when runs have come without a pause: before that no host could be tried
    """
    found: dict[str, datetime | None] = {}
    edge = now - pause_of(interval)
    if since is not None and since > edge:
        return found
    for host in hosts:
        last = host.last_evaluated_at
        if last is not None and last > edge:
            continue
        if max(filter(None, (last, host.known_since)), default=now) <= edge:
            found[host.host_id] = last
    return found
