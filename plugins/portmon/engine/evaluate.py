"""Evaluate observations: stored state in, changed state and events out. Pure: the clock is an argument.

Each module beside this one decides about one thing: a port (:mod:`~portmon.engine.transitions`), the ports of a host,
a host, a machine, the fleet, a clock. This one takes the observations of runs in their order, and finds the few ports
that changed: it compares stored and seen ports, some hosts at a time. An observation with the fingerprint of a settled
host (:mod:`portmon.engine.fingerprint`) is evaluated without its ports.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from portmon.engine import clocks, frames, lifecycle, machines
from portmon.engine import fleet as fleets
from portmon.engine import hosts as single
from portmon.engine.conditions import RUNS, Condition, Open, OpenConditions, judged_at
from portmon.engine.config import States
from portmon.engine.declared import Declared
from portmon.engine.events import Report
from portmon.engine.fingerprint import fingerprint
from portmon.engine.fleet import Episode
from portmon.engine.identities import Identities, by_host
from portmon.engine.ports import HostPorts
from portmon.engine.rules import HostRules, RuleSet
from portmon.engine.state import Draft, Evidence, HostState, Port
from portmon.engine.watched import fold
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host
from portmon.model.observation import PROBE, PROTOCOL, Listing, Observation, Outcome, PortKey, hung_tools, in_time
from portmon.model.pause import jumped
from portmon.model.state import HostStatus
from portmon.text import counted

if TYPE_CHECKING:
    import pandas as pd

PORTION = 1000
"""Hosts whose ports are compared at a time: a frame of all hosts would take gigabytes."""
NAMES = 10
"""Hosts that are not scanned, of which an event of the monitor has the names."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an evaluation goes by, besides observations and state.

    :param inventory: host id to host; observations of other hosts are ignored
    :param interval: time between scheduled runs: counters grow at most once in half of it
    :param run_id: of the run that evaluates
    :param now: the time of that run
    :param step: of the journal
    :param declared: declared ports of each host
    :param accepted: when a person accepted what is wrong with a port, or a host's machine, see
        :data:`portmon.engine.identities.ACCEPTED`
    :param invalid: host id to reason, of entries of the inventory that can't be used
    :param forget_after: state of what no rule watches is kept for this long, as that of hosts that left
    """

    inventory: Mapping[str, Host]
    rules: RuleSet
    settings: States
    interval: timedelta
    run_id: str
    now: datetime
    step: int = 0
    declared: Declared = field(default_factory=dict)
    accepted: Mapping[PortKey, datetime] = field(default_factory=dict)
    invalid: Mapping[str, str] = field(default_factory=dict)
    forget_after: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an evaluation changed.

    :param hosts: changed and new rows; ``listening`` is None if it was not loaded, and then unchanged
    :param ticked: hosts of which nothing changed but their clocks
    :param dropped: keys of ports that are not watched any more
    :param conditions: all that are open now
    :param taken_over: id of an entry to that of the entry that left, whose state it goes on with
    :param mended: every stored time later than this was of a wrong clock, and becomes this
    :param events: by time, the monitor's own first, then by host, and by port number
    :param summary: counts for the log
    """

    hosts: tuple[HostState, ...] = ()
    ticked: tuple[HostState, ...] = ()
    ports: tuple[Port, ...] = ()
    dropped: tuple[PortKey, ...] = ()
    conditions: Mapping[str, Open] = field(default_factory=dict)
    taken_over: Mapping[str, str] = field(default_factory=dict)
    mended: datetime | None = None
    events: tuple[Event, ...] = ()
    summary: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortChanges:
    """Changed and new ports of some hosts, and the keys of ports that are not watched any more."""

    ports: tuple[Port, ...]
    dropped: tuple[PortKey, ...]


def evaluate(
    hosts: Mapping[str, HostState],
    ports: pd.DataFrame,
    observations: Sequence[Observation],
    inputs: Inputs,
    conditions: Mapping[str, Open] | None = None,
) -> Verdict:
    """Evaluate observations with the whole state in memory.

    :param ports: see :data:`portmon.engine.frames.PORT_COLUMNS`
    :param observations: see :meth:`Evaluation.looks`
    """
    stored = {host_id: dataclasses.replace(host) for host_id, host in hosts.items()}
    evaluation = Evaluation(stored, inputs, conditions or {})
    changed: dict[PortKey, Port] = {}
    mended = evaluation.check_clock(observations)
    if mended is not None:
        changed = {frames.key_of(port): clocks.mended(port, mended) for port in frames.ports_of(ports)}
        ports = frames.ports_frame(list(changed.values()))
    for looks in evaluation.looks(observations):
        known = frames.of_hosts(ports, evaluation.involved(looks))
        changes = evaluation.compare(looks, known)
        # A later observation of the same host is compared with the ports after this one.
        ports = frames.merged(ports, changes.ports, changes.dropped)
        for key in changes.dropped:
            changed.pop(key, None)
        changed |= {frames.key_of(port): port for port in changes.ports}
    evaluation.finish()
    ports_now = tuple(changed[key] for key in sorted(changed))
    return dataclasses.replace(evaluation.verdict(), ports=ports_now, dropped=tuple(evaluation.dropped))


class Evaluation:
    """One evaluation. The caller loads the ports that it asks for, and stores what changed::

        mended = evaluation.check_clock(observations)  # all stored ports have to be mended as well
        for looks in evaluation.looks(observations):
            store(evaluation.compare(looks, ports_of(evaluation.involved(looks))))
        evaluation.finish()
        verdict = evaluation.verdict()

    :param hosts: host id to state, of all stored hosts; they are changed in place. ``listening`` may be None and follow
        later
    :param conditions: those that are open, and when the runs began that have come without a pause
    """

    def __init__(self, hosts: dict[str, HostState], inputs: Inputs, conditions: Mapping[str, Open]) -> None:
        self.hosts = hosts
        self.inputs = inputs
        self.dropped: dict[PortKey, None] = {}
        self._conditions = OpenConditions(conditions)
        self._runs = self._conditions.now.pop(RUNS, None)
        marked = (self._runs.details if self._runs else {}).get("mended")
        self._report = Report(inputs.run_id, inputs.step if marked else None)
        self._mended: datetime | None = None
        self._ignored = False
        self._interval = inputs.interval or clocks.WITHOUT_SCHEDULE
        self._judged_at = judged_at(conditions)
        self._fleet = single.Fleet(
            inputs.settings,
            self._interval,
            lifecycle.pace(inputs.settings, self._interval),
            self._conditions,
            self._report,
            jumped=jumped(self._judged_at, inputs.now, self._interval),
        )
        forget_after = inputs.forget_after.total_seconds()
        self._identities = Identities(hosts, inputs.inventory, inputs.accepted, self._fleet, forget_after)
        self._evaluated = 0
        self._ticked: set[str] = set()
        self._changed: set[str] = set()

    # ── runs ────────────────────────────────────────────────────────────────────────────────────

    def check_clock(self, observations: Sequence[Observation]) -> datetime | None:
        """See whether the monitor's clock went back, before anything else.

        :returns: if its new time is believed: every stored time later than this has to become this
        """
        own = [look for look in observations if look.run_id == self.inputs.run_id and look.host_id in self.hosts]
        before = self._conditions.get(Condition.CLOCK)
        runs = before.details["runs"] if before else 0
        found = clocks.check(own, self.hosts, runs=runs, enough=self.inputs.settings.unreachable_after)
        if found is None:
            return None
        if found.behind is None or found.believed:
            self._mended = found.at if found.believed else None
            if self._mended is not None:
                for host_id, host in self.hosts.items():
                    self.hosts[host_id] = clocks.mended(host, found.at)
                self._changed |= self.hosts.keys()
                self._conditions.now = {
                    name: clocks.mended(one, found.at) for name, one in self._conditions.now.items()
                }
            if before or found.believed:
                self._clock_is_believed(found)
            return self._mended
        self._ignored = True
        if self._conditions.open(Condition.CLOCK, None, found.at, runs=found.runs):
            self._clock_went_back(found)
        return None

    def _clock_went_back(self, found: clocks.ClockCheck) -> None:
        behind = found.behind or timedelta()
        reason = (
            f"The monitor's clock went back by {behind}: nothing is evaluated until "
            f"{counted(self.inputs.settings.unreachable_after, 'run')} show the same"
        )
        details = {"behind": behind.total_seconds()}
        self._report.of_monitor(Draft(EventKind.CLOCK_BACK, reason, found.at, details=details), found.at)

    def _clock_is_believed(self, found: clocks.ClockCheck) -> None:
        before = self._conditions.end(Condition.CLOCK)
        reason = "The monitor's clock goes on where it was"
        if found.believed:
            reason = "The monitor's clock is believed: later times in the state were wrong"
            self._report.mark(self.inputs.step)
            if before is None:
                self._clock_went_back(found)
        since = before.since if before else found.at
        self._report.of_monitor(Draft(EventKind.CLOCK_BELIEVED, reason, since), found.at)

    def looks(self, observations: Sequence[Observation]) -> Iterator[list[Observation]]:
        """Evaluate observations, except those that have to be compared with the ports of their hosts.

        :param observations: in any order. Ok ones may lack the listing if they have its digest
        :returns: portions for :meth:`compare`, each to be compared before the next is taken; one observation per host
        """
        by_run: dict[str, list[Observation]] = defaultdict(list)
        for observation in sorted(observations, key=in_time):
            if not (self._ignored and observation.run_id == self.inputs.run_id):
                by_run[observation.run_id].append(observation)
        for run in by_run.values():
            news = [observation for observation in run if self._is_news(observation)]
            if news:
                yield from self._run(news)

    def _is_news(self, observation: Observation) -> bool:
        """Whether an observation of a listed host is newer than the last one that was evaluated."""
        if observation.host_id not in self.inputs.inventory:
            return False
        host = self.hosts.get(observation.host_id)
        return host is None or host.last_evaluated_at is None or observation.observed_at > host.last_evaluated_at

    def _run(self, observations: Sequence[Observation]) -> Iterator[list[Observation]]:
        self._evaluated += len(observations)
        stored = self._conditions.get(Condition.FLEET)
        outlook = fleets.outlook(
            None if stored is None else _episode(stored),
            observations,
            self.hosts,
            fleet=len(self.inputs.inventory),
            enough=self.inputs.settings.unreachable_after,
            half_interval=self._interval / 2,
        )
        self._fleet.silent = outlook.episode is not None or outlook.ends
        for wave in _waves(observations):
            yield from self._wave(wave)
        self._fleet.silent = False
        self._tell_of_fleet(observations, outlook)

    def _wave(self, observations: Sequence[Observation]) -> Iterator[list[Observation]]:
        compared = []
        for observation in observations:
            host = self._host(observation.host_id)
            if observation.outcome is not Outcome.OK or (observation.listing is None and observation.facts is None):
                single.failed(host, observation, self._fleet)
                self._changed.add(host.host_id)
            elif self._is_settled(host, observation):
                self._nothing_new(host, observation)
            else:
                compared.append(observation)
        for start in range(0, len(compared), PORTION):
            yield compared[start : start + PORTION]

    def _host(self, host_id: str) -> HostState:
        listed, host = self.inputs.inventory[host_id], self.hosts.get(host_id)
        if host is None:
            host = self.hosts[host_id] = HostState(host_id, status_since=self.inputs.now)
        if (host.name, host.address, host.labels) != (listed.name, listed.address, listed.labels):
            host.name, host.address, host.labels = listed.name, listed.address, dict(listed.labels)
            self._changed.add(host_id)
        return host

    def _is_settled(self, host: HostState, observation: Observation) -> bool:
        if host.fingerprint is None or host.fingerprint != self._fingerprint(observation):
            return False
        return self._identities.predecessor(host, machines.known_of(host)) is None

    def _nothing_new(self, host: HostState, observation: Observation) -> None:
        """Evaluate an observation with the fingerprint of its host: no port changed."""
        before = (host.status, host.failures, host.presence, host.boot_looks, self._conditions.now.keys())
        seen_looks = host.boot_looks
        self._tick(host, observation)
        if seen_looks is not None and seen_looks < machines.KEPT_LOOKS:
            host.boot_looks = seen_looks + 1
        self._forget_kept(host)
        self._ticked.add(host.host_id)
        single.answered(host, observation.observed_at, self._fleet)
        if before != (host.status, host.failures, host.presence, host.boot_looks, self._conditions.now.keys()):
            self._changed.add(host.host_id)

    def _tick(self, host: HostState, observation: Observation) -> None:
        at = observation.observed_at
        host.evidence = clocks.evidence_at(host, at, self._interval)
        host.tried = clocks.tried_at(host, at, self._interval)
        single.tried(host, observation, self._fleet)

    def _forget_kept(self, host: HostState) -> None:
        if host.kept is not None and not machines.is_kept(host, host.evidence):
            host.kept = None
            self._changed.add(host.host_id)

    def _fingerprint(self, observation: Observation) -> str | None:
        # An observation that is not stored has no digest.
        if observation.facts is None:
            return None
        rules = self.inputs.rules.for_host(self.inputs.inventory[observation.host_id])
        return fingerprint(observation.facts, rules.digest, self.inputs.declared.get(observation.host_id, {}))

    # ── ports ───────────────────────────────────────────────────────────────────────────────────

    def involved(self, observations: Sequence[Observation]) -> list[str]:
        """Ids of the hosts whose stored ports :meth:`compare` needs, given observations with their listings."""
        found = [look.host_id for look in observations]
        for look in observations:
            if look.listing is not None:
                old = self._identities.predecessor(self.hosts[look.host_id], machines.shown_by(look.listing))
                found += [] if old is None else [old]
        return found

    def compare(
        self,
        observations: Sequence[Observation],
        ports: pd.DataFrame,
        listening: Mapping[str, tuple[str, ...] | None] | None = None,
    ) -> PortChanges:
        """Compare observations with the stored ports of their hosts.

        :param observations: a portion of :meth:`looks`, with their listings
        :param ports: the stored ports of the hosts that are :meth:`involved`
        :param listening: ``listening`` of these hosts, if their rows lack it
        :raises ValueError: if a listing or ``listening`` is missing
        """
        for look in observations:
            if look.listing is None:
                raise ValueError(f"the observation of {look.host_id!r} at {look.observed_at} lacks its listing")
        for host_id, keys in (listening or {}).items():
            if self.hosts[host_id].listening is None:
                self.hosts[host_id].listening = keys
        delicate = [look for look in observations if self._may_be_another(look)]
        stored = by_host(frames.ports_of(frames.of_hosts(ports, self.involved(delicate)))) if delicate else {}
        answers = self._identities.sort_out(observations, stored)
        changes = _Changes()
        for host_id, own in answers.instead.items():
            changes.replace(
                own, [*stored.get(host_id, ()), *stored.get(self._identities.taken_over.get(host_id, ""), ())]
            )
        ports = frames.instead(ports, answers.instead.keys() | self._identities.taken_over.values(), answers.instead)
        for look in answers.foreign:
            host = self.hosts[look.host_id]
            single.tried(host, look, self._fleet)
            host.fingerprint = None
            self._changed.add(host.host_id)
        if answers.own:
            self._compare(answers.own, ports, answers.new_boots, changes)
        for key in changes.changed:
            self.dropped.pop(key, None)
        self.dropped |= dict.fromkeys(changes.gone)
        return PortChanges(tuple(changes.changed.values()), tuple(changes.gone))

    def _may_be_another(self, look: Observation) -> bool:
        """Whether the answer may be of another machine, so that the stored ports of the host are needed."""
        assert look.listing is not None  # noqa: S101 - for the type checker; compare() has checked it
        host, shown = self.hosts[look.host_id], machines.shown_by(look.listing)
        if not machines.agree(machines.known_of(host), shown):
            return True
        return self._identities.predecessor(host, shown) is not None

    def _compare(
        self, looks: Sequence[Observation], ports: pd.DataFrame, new_boots: set[str], changes: _Changes
    ) -> None:
        """Compare stored and seen ports in one merge, evaluate those that differ, and update their hosts."""
        rules = {look.host_id: self.inputs.rules.for_host(self.inputs.inventory[look.host_id]) for look in looks}
        evidence = {
            look.host_id: self._evidence(look, rules[look.host_id].digest, new_boot=look.host_id in new_boots)
            for look in looks
        }
        declared = self.inputs.declared
        owners = {} if all(own.watches_all for own in rules.values()) else frames.known_owners(ports)
        seen = fold(looks, rules, declared, owners, cache(lambda: frames.known_values(ports)))
        comparison = frames.Comparison(ports, seen, declared)
        differing, absent = comparison.differing(), set()
        for look in looks:
            host, must = self.hosts[look.host_id], declared.get(look.host_id, {})
            own = HostPorts(host, evidence[look.host_id], rules[look.host_id], must, self.inputs.accepted)
            own.evaluate(differing.pop(look.host_id, []))
            for number in sorted(must):
                if (look.host_id, number) not in comparison.listed:
                    absent.add(look.host_id)
                    if look.confirmed:
                        own.absent(number)
            changes.add(own)
            self._take_evidence(host, look, evidence[look.host_id], own)
        now = frames.merged(ports, changes.changed.values(), changes.gone)
        unsettled = self._unsettled(looks, rules, comparison, now) | absent | new_boots
        for look in looks:
            host = self.hosts[look.host_id]
            host.fingerprint = None if look.host_id in unsettled else self._fingerprint(look)
            self._changed.add(look.host_id)

    def _unsettled(
        self,
        looks: Sequence[Observation],
        rules: Mapping[str, HostRules],
        comparison: frames.Comparison,
        now: pd.DataFrame,
    ) -> set[str]:
        """Hosts of which the same observation, evaluated once more, would change something."""
        pending, differed = comparison.pending(now)
        for look in looks:
            listeners = look.listing.listeners if look.listing else ()
            nameless = look.host_id in differed and any(listener.program is None for listener in listeners)
            if nameless and not rules[look.host_id].watches_all:
                # Rules match such a listener by the last known programs of its port, which may have changed.
                pending.add(look.host_id)
        return pending

    def _evidence(self, look: Observation, rules: str, *, new_boot: bool) -> Evidence:
        """What all ports of a host share in this observation, given the digest of the rules in force."""
        host, seen, at = self.hosts[look.host_id], look.listing, look.observed_at
        assert seen is not None  # noqa: S101 - for the type checker; compare() has checked it
        if new_boot and (host.grace_until is None or at >= host.grace_until):
            # A second reboot does not extend the grace: a host that boots again and again would never have a port down.
            host.grace_until = at + self.inputs.settings.reboot_grace
        first = host.last_ok_at is None
        if not first and host.listening is None:
            raise ValueError(f"the row of {look.host_id!r} lacks its listening ports")
        before = () if first else host.listening or ()
        return Evidence(
            at=at,
            clock=clocks.evidence_at(host, at, self._interval),
            first=first,
            before=frozenset(int(key.rpartition("/")[2]) for key in before),
            seen_at=host.last_ok_at,
            seen_clock=host.evidence,
            ephemeral=seen.ephemeral,
            tool=seen.tool,
            tool_before=host.tool if host.last_ok_at else None,
            new_boot=new_boot,
            grace_until=host.grace_until,
            rules_changed=host.rules is not None and host.rules != rules,
            confirmed=look.confirmed,
            listening=frozenset(listener.port for listener in seen.listeners),
            half_interval=self._interval / 2,
            pause=clocks.pause_of(self._interval),
            pace=self._fleet.pace,
            settings=self.inputs.settings,
            # 1 stands for versions that were not stored.
            learning=not first and (host.probe or 1, host.reader or 1) != (seen.probe, seen.reader),
            jumped=self._fleet.jumped,
            forget_after=self.inputs.forget_after,
        )

    def _take_evidence(self, host: HostState, look: Observation, evidence: Evidence, ports: HostPorts) -> None:
        """Update the host, after its ports were evaluated by its last state."""
        seen, at, report = look.listing, look.observed_at, self._report
        assert seen is not None  # noqa: S101 - for the type checker; compare() has checked it
        boot = None
        if evidence.first:
            count = len(evidence.listening)
            reason = f"First complete answer: {counted(count, 'listening port')}"
            report.of_host(host, at, Draft(EventKind.BASELINE, reason, details={"ports": count}))
        if evidence.new_boot:
            boot = _rebooted(host, seen, evidence)
        self._tick(host, look)
        self._identities.answered(host, machines.shown_by(seen), at)
        single.answered(host, at, self._fleet, boot)
        ports.tell(report)
        if host.boot_looks is not None and host.boot_looks < machines.KEPT_LOOKS:
            host.boot_looks += 1
        self._forget_kept(host)
        host.ephemeral_low, host.ephemeral_high = seen.ephemeral
        host.hung, host.hung_at = _hung(host, seen, at)
        if evidence.new_boot:
            # The next observation is compared with what was there before the boot.
            return
        if seen.probe < PROBE and (host.probe or PROBE) >= PROBE:
            reason = "Its forced command is of an earlier version: install the script that `portmon probe` prints"
            report.of_host(host, at, Draft(EventKind.PROBE_OUTDATED, reason, details={"probe": seen.probe}))
        host.rules = self.inputs.rules.for_host(self.inputs.inventory[look.host_id]).digest
        host.probe, host.reader, host.tool = seen.probe, seen.reader, seen.tool
        host.listening = tuple(f"{PROTOCOL}/{port}" for port in sorted(evidence.listening))

    # ── the fleet ───────────────────────────────────────────────────────────────────────────────

    def _tell_of_fleet(self, looks: Sequence[Observation], outlook: fleets.Outlook) -> None:
        at, last = looks[-1].observed_at, looks[-1]
        before = self._conditions.get(Condition.FLEET)
        if outlook.episode is None:
            self._conditions.end(Condition.FLEET)
        else:
            self._conditions.now[Condition.FLEET.key()] = _stored(outlook.episode)
        if outlook.opens and outlook.episode is not None:
            tried = len({look.host_id for look in looks})
            what = last.error_class or last.outcome.value
            reason = (
                f"{len(outlook.episode.hosts)} of {tried} hosts that were asked began to fail at once (the last one: "
                f"{what}): look at the monitor and its network first. It says: {last.error or what}"
            )
            details = {"error_class": last.error_class, "hosts": tried}
            since = outlook.episode.since
            self._report.of_monitor(Draft(EventKind.FLEET_UNREACHABLE, reason, since, details=details), at)
        if outlook.ends and before is not None:
            lasted = {"unreachable_for": (at - before.since).total_seconds()}
            reason = "Hosts give evidence again"
            self._report.of_monitor(Draft(EventKind.FLEET_REACHABLE, reason, before.since, details=lasted), at)
            for host in self.hosts.values():
                # Those that still fail are unreachable after enough runs of their own.
                if host.failures and host.status != HostStatus.UNREACHABLE:
                    host.failures, host.failing_since, host.counted_at = 0, None, None
                    self._changed.add(host.host_id)

    def _find_unscanned(self) -> None:
        """Tell which hosts no run tries: one by one, or as one event of the monitor if they are many."""
        now, report = self.inputs.now, self._report
        watched = [self._host(host_id) for host_id in self.inputs.inventory]
        self._changed |= {host.host_id for host in watched if host.last_evaluated_at is None}
        since = None if self._runs is None else self._runs.since
        waiting = fleets.unscanned(watched, now=now, since=since, interval=self._interval)
        waiting |= {
            host_id: self.hosts[host_id].last_evaluated_at for host_id in self.inputs.invalid if host_id in self.hosts
        }
        waiting = {
            host_id: last
            for host_id, last in waiting.items()
            if not self._conditions.includes(Condition.UNSCANNED, host_id)
        }
        is_open = self._conditions.get(Condition.FLEET_UNSCANNED)
        fresh = [host_id for host_id in waiting if not self._conditions.get(Condition.UNSCANNED, host_id)]
        names = sorted(self.hosts[host_id].name for host_id in waiting)
        if len(fresh) > fleets.FEW:
            if is_open is None:
                self._conditions.open(Condition.FLEET_UNSCANNED, None, now)
                reason = f"{len(waiting)} hosts were not tried for too long: {', '.join(names[:NAMES])}"
                details = {"hosts": len(waiting), "names": names[:NAMES]}
                report.of_monitor(Draft(EventKind.FLEET_UNSCANNED, reason, now, details=details), now)
            return
        if is_open is not None:
            self._conditions.end(Condition.FLEET_UNSCANNED)
            reason = f"Runs try all but {counted(len(waiting), 'host')} again"
            report.of_monitor(Draft(EventKind.FLEET_SCANNED, reason, is_open.since), now)
        for host_id in fresh:
            host, last = self.hosts[host_id], waiting[host_id]
            draft = _unscanned(host, last, self.inputs.invalid.get(host_id))
            single.opens(host, Condition.UNSCANNED, draft, now, self._fleet)
            self._changed.add(host_id)

    # ── the end ─────────────────────────────────────────────────────────────────────────────────

    def finish(self) -> None:
        """Evaluate what is not about one observation, after all of them."""
        now = self.inputs.now
        paused = self._judged_at is None or now - self._judged_at > clocks.pause_of(self._interval)
        if self._runs is None or paused or self._mended is not None:
            self._runs = Open(now)
        if not self._ignored:
            self._find_unscanned()
        judged_at = now if not self._ignored or self._judged_at is None else self._judged_at
        details = {**self._runs.details, "judged_at": judged_at.isoformat()}
        if self._mended is not None:
            details["mended"] = self.inputs.step
        self._runs = Open(self._runs.since, details)

    def verdict(self) -> Verdict:
        """All changes except those of ports, which :meth:`compare` returned."""
        counts = Counter(event.kind.value for event in self._report.events)
        conditions = dict(self._conditions.now) | ({} if self._runs is None else {RUNS: self._runs})
        return Verdict(
            hosts=tuple(self.hosts[host_id] for host_id in sorted(self._changed) if host_id in self.hosts),
            ticked=tuple(self.hosts[host_id] for host_id in self._ticked - self._changed),
            conditions=conditions,
            taken_over=self._identities.taken_over,
            mended=self._mended,
            events=tuple(
                sorted(
                    self._report.events,
                    key=lambda one: (one.at, one.host_id or "", one.port is not None, one.port or 0),
                )
            ),
            summary={"evaluated": self._evaluated, **dict(sorted(counts.items()))},
        )


class _Changes:
    """The changes of the ports of some hosts."""

    def __init__(self) -> None:
        self.changed: dict[PortKey, Port] = {}
        self.gone: dict[PortKey, None] = {}

    def replace(self, own: Sequence[Port], stored: Sequence[Port]) -> None:
        """The ports of a host instead of those that are stored."""
        self.changed |= {frames.key_of(port): port for port in own}
        self.gone |= {frames.key_of(port): None for port in stored if frames.key_of(port) not in self.changed}

    def add(self, ports: HostPorts) -> None:
        """The changes of one host."""
        self.changed |= ports.changed
        for key in ports.gone:
            self.changed.pop(key, None)
            self.gone[key] = None


def _rebooted(host: HostState, seen: Listing, evidence: Evidence) -> Draft:
    until = f"{evidence.grace_until:%Y-%m-%d %H:%M:%S} UTC"
    what = "Its boot id changed" if seen.boot_id != host.boot_id else "Its container was started again"
    reason = f"{what}; ports that are not back yet have until {until}"
    boots = {"boot_id": seen.boot_id, "before": host.boot_id}
    return Draft(EventKind.REBOOTED, reason, last_seen=host.last_ok_at, details=boots)


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


def _hung(host: HostState, seen: Listing, at: datetime) -> tuple[str | None, datetime | None]:
    """The tools that hung on a host, which are not tried there for a day, and when that was noticed."""
    known = set(hung_tools(host.hung, host.hung_at, at))
    news = set(seen.hung) - known
    if not known and not news:
        return None, None
    return ",".join(sorted(known | news)), at if news else host.hung_at


def _waves(observations: Sequence[Observation]) -> Iterator[list[Observation]]:
    """Observations in waves with at most one per host, those of a host in the order of time."""
    by_id: dict[str, list[Observation]] = defaultdict(list)
    for observation in observations:
        own = by_id[observation.host_id]
        if not own or own[-1].observed_at < observation.observed_at:
            own.append(observation)
    for number in range(max(map(len, by_id.values()), default=0)):
        yield [own[number] for own in by_id.values() if len(own) > number]


def _episode(stored: Open) -> Episode:
    """A fleet episode as :func:`_stored` gave it."""
    its = stored.details
    counted_at = datetime.fromisoformat(its["counted_at"])
    return Episode(stored.since, frozenset(its["hosts"]), its["runs"], counted_at, told=its["told"])


def _stored(episode: Episode) -> Open:
    details = {"hosts": sorted(episode.hosts), "runs": episode.runs, "told": episode.told}
    return Open(episode.since, {**details, "counted_at": episode.counted_at.isoformat()})
