"""What is wrong with the monitor itself, or with many hosts: its clock, hosts that fail at once or are not tried."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from portmon.engine import clocks
from portmon.engine import fleet as fleets
from portmon.engine import hosts as single
from portmon.engine.conditions import Condition, Open, runs_until
from portmon.engine.fleet import Episode, Outlook
from portmon.engine.hosts import Fleet
from portmon.engine.state import Draft, HostState
from portmon.model.event_kinds import EventKind
from portmon.model.observation import Observation, in_time
from portmon.model.state import HostStatus
from portmon.text import counted

NAMES = 10
"""Hosts of which an event of the monitor has the names."""


class Monitor:
    """The conditions of the monitor, in one evaluation.

    :param hosts: host id to state, of all stored hosts; they are changed in place
    :param runs: since when runs have come without a pause, as it is stored
    """

    def __init__(self, hosts: dict[str, HostState], fleet: Fleet, runs: Open | None) -> None:
        self.changed: set[str] = set()
        self.mended: datetime | None = None
        self.ignores_run = False
        self._hosts = hosts
        self._fleet = fleet
        now, pause = fleet.inputs.now, clocks.pause_of(fleet.interval)
        goes_on = runs is not None and now - runs_until(runs) <= pause
        self._runs = runs if runs is not None and goes_on else Open(now, runs.details if runs else {})
        self._judged_at = runs_until(runs) if runs else now

    def check_clock(self, observations: Sequence[Observation]) -> datetime | None:
        """See whether the monitor's clock went back, before anything else.

        :returns: if its new time is believed: every stored time later than this has to become this
        """
        run_id = self._fleet.inputs.run_id
        own = {look.host_id: look for look in sorted(observations, key=in_time) if look.run_id == run_id}
        before = self._fleet.conditions.get(Condition.CLOCK)
        # A run that is evaluated again is no further one. Earlier versions stored no details: it was one run.
        runs = before.details.get("runs", 1) - (before.details.get("run_id") == run_id) if before else 0
        found = clocks.check(
            list(own.values()), self._hosts, runs=runs, enough=self._fleet.inputs.settings.unreachable_after
        )
        if found is None:
            return None
        if found.behind is None or found.believed:
            self.mended = found.at if found.believed else None
            if self.mended is not None:
                for host_id, host in self._hosts.items():
                    self._hosts[host_id] = clocks.mended(host, found.at)
                self.changed |= self._hosts.keys()
                self._fleet.conditions.now = {
                    name: clocks.mended(one, found.at) for name, one in self._fleet.conditions.now.items()
                }
            if before or found.believed:
                self._clock_is_believed(found)
            return self.mended
        self.ignores_run = True
        if self._fleet.conditions.open(Condition.CLOCK, None, self._fleet.inputs.now, runs=found.runs, run_id=run_id):
            self._clock_went_back(found)
        return None

    def _clock_went_back(self, found: clocks.ClockCheck) -> None:
        behind, now = found.behind or timedelta(), self._fleet.inputs.now
        reason = (
            f"The monitor's clock went back by {behind}: nothing is evaluated until "
            f"{counted(self._fleet.inputs.settings.unreachable_after, 'run')} show the same"
        )
        details = {"behind": behind.total_seconds()}
        self._fleet.report.of_monitor(Draft(EventKind.CLOCK_BACK, reason, now, details=details), now)

    def _clock_is_believed(self, found: clocks.ClockCheck) -> None:
        before = self._fleet.conditions.end(Condition.CLOCK)
        reason = "The monitor's clock goes on where it was"
        if found.believed:
            reason = "The monitor's clock is believed: later times in the state were wrong"
            self._fleet.report.mark(self._fleet.inputs.step)
            if before is None:
                self._clock_went_back(found)
        now = self._fleet.inputs.now
        since = before.since if before else now
        self._fleet.report.of_monitor(Draft(EventKind.CLOCK_BELIEVED, reason, since), now)

    def begin(self, looks: Sequence[Observation]) -> Outlook:
        """Evaluate the observations of one run before each of its hosts is."""
        stored = self._fleet.conditions.get(Condition.FLEET)
        before = None if stored is None else _episode(stored, self._hosts)
        outlook = fleets.outlook(
            before if self.mended is None else clocks.mended(before, self.mended),
            looks,
            self._hosts,
            listed=self._fleet.inputs.inventory,
            foreign=self._fleet.conditions.of_hosts(Condition.FOREIGN),
            enough=self._fleet.inputs.settings.unreachable_after,
            half_interval=self._fleet.inputs.interval / 2,
        )
        if outlook.episode is not None:
            self._fleet.conditions.now[Condition.FLEET.key()] = _stored(outlook.episode)
        elif not outlook.ends:
            self._fleet.conditions.end(Condition.FLEET)
        return outlook

    def end(self, looks: Sequence[Observation], outlook: Outlook) -> None:
        """Tell what the observations of one run say about all hosts at once, after each of them is evaluated."""
        at, last = looks[-1].observed_at, looks[-1]
        # Until now it was open: in the run that ends it no host becomes unreachable.
        before = self._fleet.conditions.end(Condition.FLEET) if outlook.ends else None
        if outlook.opens and outlook.episode is not None:
            tried = len({look.host_id for look in looks})
            what = last.error_class or last.outcome.value
            reason = (
                f"{len(outlook.episode.hosts)} of {tried} hosts that were asked began to fail at once (the last one: "
                f"{what}): look at the monitor and its network first. It says: {last.error or what}"
            )
            details = {"error_class": last.error_class, "hosts": tried}
            since = outlook.episode.since
            self._fleet.report.of_monitor(Draft(EventKind.FLEET_UNREACHABLE, reason, since, details=details), at)
        if before is not None:
            lasted = {"unreachable_for": (at - before.since).total_seconds()}
            reason = "Hosts give evidence again"
            self._fleet.report.of_monitor(Draft(EventKind.FLEET_REACHABLE, reason, before.since, details=lasted), at)
            for host in self._hosts.values():
                # Those that still fail are unreachable after enough runs of their own.
                if host.failures and host.status != HostStatus.UNREACHABLE:
                    host.failures, host.failing_since, host.counted_at = 0, None, None
                    self.changed.add(host.host_id)

    def find_unscanned(self, watched: Collection[HostState]) -> None:
        """Tell which hosts no run tries: one by one, or as one event of the monitor if they are many."""
        now = self._fleet.inputs.now
        since = now if self.mended is not None else self._runs.since
        waiting = fleets.unscanned(watched, now=now, since=since, interval=self._fleet.interval)
        # A try ends it. Those that were not tried before a pause still are not.
        these = self._fleet.conditions.of_hosts(Condition.UNSCANNED).keys() | self._fleet.inputs.invalid.keys()
        waiting |= {host.host_id: host.last_evaluated_at for host in watched if host.host_id in these}
        included = {one for one in waiting if self._fleet.conditions.includes(Condition.UNSCANNED, one)}
        waiting = {host_id: last for host_id, last in waiting.items() if host_id not in included}
        for host_id in waiting:
            if self._fleet.conditions.get(Condition.UNSCANNED, host_id) is None:
                self._fleet.conditions.open(Condition.UNSCANNED, host_id, now, told=False)
        self._tell_many(
            Condition.FLEET_UNSCANNED, waiting, "{} hosts were not tried for too long: {}", "Runs try all but {} again"
        )
        if self._fleet.conditions.silences(Condition.UNSCANNED):
            return
        for host_id, last in waiting.items():
            host = self._hosts[host_id]
            before, draft = host.told, _unscanned(host, last, self._fleet.inputs.invalid.get(host_id))
            single.opens(host, Condition.UNSCANNED, draft, now, self._fleet)
            if host.told != before:
                self.changed.add(host_id)

    def find_hiding(self, listed: Container[str]) -> None:
        """Tell which hosts hide the owners that they showed before: as :meth:`find_unscanned`, but after an answer."""
        conditions = self._fleet.conditions
        those = [one for one in conditions.of_hosts(Condition.OWNERS_HIDDEN) if one in listed and one in self._hosts]
        those = [one for one in those if not conditions.includes(Condition.OWNERS_HIDDEN, one)]
        self._tell_many(
            Condition.FLEET_OWNERS_HIDDEN,
            those,
            "{} hosts show no programs of other users any more: {}",
            "All but {} show programs of other users again",
        )
        if conditions.silences(Condition.OWNERS_HIDDEN):
            return
        for host_id in those:
            if (at := self._fleet.hiding.get(host_id)) is not None:
                single.hides_owners(self._hosts[host_id], at, self._fleet)

    def _tell_many(self, condition: Condition, host_ids: Iterable[str], begins: str, ends: str) -> None:
        """Tell that something is wrong with so many hosts that it is one event of the monitor, or with few again.

        :param begins: the reason, given their number and some names
        :param ends: that of the end, given how many are left
        """
        names = sorted(self._hosts[host_id].name for host_id in host_ids)
        now, opened = self._fleet.inputs.now, self._fleet.conditions.get(condition)
        many = len(names) > fleets.FEW
        if many and opened is None:
            self._fleet.conditions.open(condition, None, now)
            reason = begins.format(len(names), ", ".join(names[:NAMES]))
            details = {"hosts": len(names), "names": names[:NAMES]}
            self._fleet.report.of_monitor(Draft(condition.value.opens, reason, now, details=details), now)
        elif opened is not None and not many:
            self._fleet.conditions.end(condition)
            reason = ends.format(counted(len(names), "host"))
            self._fleet.report.of_monitor(Draft(condition.value.ends, reason, opened.since), now)

    def runs(self) -> Open:
        """Since when runs have come without a pause, to be stored."""
        now, inputs = self._fleet.inputs.now, self._fleet.inputs
        last = self._judged_at if self.ignores_run else now
        details = {**self._runs.details, "judged_at": last.isoformat()}
        if self.mended is not None:
            return Open(now, {**details, "mended": inputs.step})
        return Open(self._runs.since, details)


def _unscanned(host: HostState, last: datetime | None, invalid: str | None) -> Draft:
    """The event of a host that no run tries.

    :param last: when it was tried last
    :param invalid: what is wrong with its entry in the CMDB
    """
    reason = f"No run tried it since {last:%Y-%m-%d %H:%M} UTC" if last else "No run tried it so far"
    details: dict[str, Any] = {"last_tried": last.isoformat() if last else None}
    if invalid is not None:
        reason, details = f"Its entry in the CMDB can't be used: {invalid}", {"invalid": invalid}
    return Draft(EventKind.UNSCANNED, reason, last, host.last_ok_at, details)


def _episode(stored: Open, hosts: Mapping[str, HostState]) -> Episode:
    """A fleet episode as :func:`_stored` gave it, or as an earlier version told it, which stored no details."""
    its = stored.details
    if not its:
        failing = {one for one, host in hosts.items() if host.failures and host.status != HostStatus.UNREACHABLE}
        return Episode(stored.since, frozenset(failing), 1, stored.since, told=True)
    counted_at = datetime.fromisoformat(its["counted_at"])
    return Episode(stored.since, frozenset(its["hosts"]), its["runs"], counted_at, told=its["told"])


def _stored(episode: Episode) -> Open:
    details = {"hosts": sorted(episode.hosts), "runs": episode.runs, "told": episode.told}
    return Open(episode.since, {**details, "counted_at": episode.counted_at.isoformat()})
