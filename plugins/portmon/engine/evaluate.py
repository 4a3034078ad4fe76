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
from datetime import datetime
from typing import TYPE_CHECKING

from portmon.engine import clocks, frames, lifecycle, machines
from portmon.engine import hosts as single
from portmon.engine.answers import Answers, ChangedPorts, fingerprint_of
from portmon.engine.conditions import RUNS, Open, OpenConditions, jumped
from portmon.engine.events import Report
from portmon.engine.hosts import Fleet
from portmon.engine.identities import Identities, by_host
from portmon.engine.inputs import EvaluationInputs
from portmon.engine.monitor import Monitor
from portmon.engine.state import HostState, Port
from portmon.model.event import Event
from portmon.model.observation import Observation, Outcome, PortKey, in_time

if TYPE_CHECKING:
    import pandas as pd

PORTION = 1000
"""Hosts whose ports are compared at a time: a frame of all hosts would take gigabytes."""


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


def evaluate(
    hosts: Mapping[str, HostState],
    ports: pd.DataFrame,
    observations: Sequence[Observation],
    inputs: EvaluationInputs,
    conditions: Mapping[str, Open] | None = None,
) -> Verdict:
    """Evaluate observations with the whole state in memory.

    :param ports: see :data:`portmon.engine.frames.PORT_COLUMNS`
    :param observations: see :meth:`Evaluation.looks`
    """
    stored = {host_id: dataclasses.replace(host) for host_id, host in hosts.items()}
    evaluation = Evaluation(stored, inputs, conditions or {})
    total = ChangedPorts()
    mended = evaluation.check_clock(observations)
    if mended is not None:
        booted = {host_id: host.booted_at for host_id, host in hosts.items()}
        total.replace(clocks.mended_ports(frames.ports_of(ports), mended, booted), ())
        ports = frames.ports_frame(list(total.changed.values()))
    for looks in evaluation.looks(observations):
        known = frames.of_hosts(ports, evaluation.involved(looks))
        changes = evaluation.compare(looks, known)
        # A later observation of the same host is compared with the ports after this one.
        ports = frames.merged(ports, changes.changed.values(), changes.gone)
        total.add(changes)
    evaluation.finish()
    ports_now = tuple(total.changed[key] for key in sorted(total.changed))
    return dataclasses.replace(evaluation.verdict(), ports=ports_now, dropped=tuple(total.gone))


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

    def __init__(self, hosts: dict[str, HostState], inputs: EvaluationInputs, conditions: Mapping[str, Open]) -> None:
        self.hosts = hosts
        self.inputs = inputs
        open_now = OpenConditions(conditions)
        runs = open_now.now.pop(RUNS, None)
        # One time can come twice after the monitor's clock went back.
        step = inputs.step if runs is not None and "mended" in runs.details else None
        interval = inputs.interval or clocks.WITHOUT_SCHEDULE
        pace = lifecycle.pace(inputs.settings, interval)
        report, ahead = Report(inputs.run_id, step), jumped(conditions, inputs.now, interval)
        self._fleet = Fleet(inputs, interval, pace, open_now, report, jumped=ahead)
        self._monitor = Monitor(hosts, self._fleet, runs)
        self._identities = Identities(hosts, self._fleet)
        self._answers = Answers(hosts, self._fleet, self._identities)
        self._evaluated = 0
        self._ticked: set[str] = set()
        self._changed: set[str] = set()

    def check_clock(self, observations: Sequence[Observation]) -> datetime | None:
        """See :meth:`portmon.engine.monitor.Monitor.check_clock`."""
        return self._monitor.check_clock(observations)

    # ── runs ────────────────────────────────────────────────────────────────────────────────────

    def looks(self, observations: Sequence[Observation]) -> Iterator[list[Observation]]:
        """Evaluate observations, except those that have to be compared with the ports of their hosts.

        :param observations: in any order. Ok ones may lack the listing if they have its digest
        :returns: portions for :meth:`compare`, each to be compared before the next is taken; one observation per host
        """
        by_run: dict[str, list[Observation]] = defaultdict(list)
        for observation in sorted(observations, key=in_time):
            if not (self._monitor.ignores_run and observation.run_id == self.inputs.run_id):
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
        if host is None or host.last_evaluated_at is None:
            return True
        believed = self._monitor.mended is not None and observation.run_id == self.inputs.run_id
        return believed or observation.observed_at > host.last_evaluated_at

    def _run(self, observations: Sequence[Observation]) -> Iterator[list[Observation]]:
        self._evaluated += len(observations)
        outlook = self._monitor.begin(observations)
        for wave in _waves(observations):
            yield from self._wave(wave)
        self._monitor.end(observations, outlook)

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
            host = self.hosts[host_id] = HostState(host_id)
        if (host.name, host.address, host.labels) != (listed.name, listed.address, listed.labels):
            host.name, host.address, host.labels = listed.name, listed.address, dict(listed.labels)
            self._changed.add(host_id)
        if host.known_since is None:
            host.known_since = self.inputs.now
            self._changed.add(host_id)
        return host

    def _is_settled(self, host: HostState, observation: Observation) -> bool:
        if host.fingerprint is None or host.fingerprint != fingerprint_of(observation, self.inputs):
            return False
        return not self._identities.left or self._identities.predecessor(host, machines.known_of(host)) is None

    def _nothing_new(self, host: HostState, observation: Observation) -> None:
        """Evaluate an observation with the fingerprint of its host: no port changed."""
        before = (host.status, host.failures, host.presence, host.boot_looks, host.kept, host.told, host.unnamed)
        single.tick(host, observation, self._fleet)
        machines.count_look(host)
        covered = single.trusted(host, observation.observed_at, self._fleet)
        single.answered(host, observation.observed_at, self._fleet, covered=covered)
        if host.unnamed:
            single.names_owners(host, observation.observed_at, self._fleet, shown=False)
        self._ticked.add(host.host_id)
        after = (host.status, host.failures, host.presence, host.boot_looks, host.kept, host.told, host.unnamed)
        if before != after:
            self._changed.add(host.host_id)

    # ── ports ───────────────────────────────────────────────────────────────────────────────────

    def involved(self, observations: Sequence[Observation]) -> list[str]:
        """Ids of the hosts whose stored ports :meth:`compare` needs, given observations with their listings."""
        found = [look.host_id for look in observations]
        for look in observations:
            old = self._identities.predecessor(self.hosts[look.host_id], machines.shown_by(look.shows))
            found += [] if old is None else [old]
        return found

    def compare(
        self,
        observations: Sequence[Observation],
        ports: pd.DataFrame,
        listening: Mapping[str, tuple[str, ...] | None] | None = None,
    ) -> ChangedPorts:
        """Compare observations with the stored ports of their hosts.

        :param observations: a portion of :meth:`looks`, with their listings
        :param ports: the stored ports of the hosts that are :meth:`involved`
        :param listening: ``listening`` of these hosts, if their rows lack it
        :raises ValueError: if a listing or ``listening`` is missing
        """
        for host_id, keys in (listening or {}).items():
            if self.hosts[host_id].listening is None:
                self.hosts[host_id].listening = keys
        delicate = [look for look in observations if self._may_be_another(look)]
        stored = by_host(frames.ports_of(frames.of_hosts(ports, self.involved(delicate)))) if delicate else {}
        answers = self._identities.sort_out(observations, stored)
        changes = ChangedPorts()
        for host_id, own in answers.instead.items():
            changes.replace(
                own, [*stored.get(host_id, ()), *stored.get(self._identities.taken_over.get(host_id, ""), ())]
            )
        ports = frames.instead(ports, answers.instead.keys() | self._identities.taken_over.values(), answers.instead)
        for look in answers.foreign:
            host = self.hosts[look.host_id]
            single.tried(host, look, self._fleet)
            host.fingerprint = None
        if answers.own:
            self._answers.compare(answers.own, ports, answers, changes)
        self._changed |= {look.host_id for look in observations}
        return changes

    def _may_be_another(self, look: Observation) -> bool:
        """Whether the answer may be of another machine, so that the stored ports of the host are needed."""
        host, shown = self.hosts[look.host_id], machines.shown_by(look.shows)
        if not machines.agree(machines.known_of(host), shown):
            return True
        return self._identities.predecessor(host, shown) is not None

    # ── the end ─────────────────────────────────────────────────────────────────────────────────

    def finish(self) -> None:
        """Evaluate what is not about one observation, after all of them."""
        self._identities.find_twins()
        if not self._monitor.ignores_run:
            self._monitor.find_unscanned([self._host(host_id) for host_id in self.inputs.inventory])
            self._monitor.find_hiding(self.inputs.inventory)

    def verdict(self) -> Verdict:
        """All changes except those of ports, which :meth:`compare` returned."""
        events, changed = self._fleet.report.events, self._changed | self._monitor.changed | self._identities.changed
        counts = Counter(event.kind.value for event in events)
        return Verdict(
            hosts=tuple(self.hosts[host_id] for host_id in sorted(changed) if host_id in self.hosts),
            ticked=tuple(self.hosts[host_id] for host_id in self._ticked - changed),
            conditions={**self._fleet.conditions.now, RUNS: self._monitor.runs()},
            taken_over=self._identities.taken_over,
            mended=self._monitor.mended,
            events=tuple(
                sorted(
                    events,
                    key=lambda one: (one.at, one.host_id or "", one.port is not None, one.port or 0),
                )
            ),
            summary={"evaluated": self._evaluated, **dict(sorted(counts.items()))},
        )


def _waves(observations: Sequence[Observation]) -> Iterator[list[Observation]]:
    """Observations in waves with at most one per host, by id, those of a host in the order of time."""
    by_id: dict[str, list[Observation]] = defaultdict(list)
    for observation in observations:
        own = by_id[observation.host_id]
        if not own or own[-1].observed_at < observation.observed_at:
            own.append(observation)
    for number in range(max(map(len, by_id.values()), default=0)):
        yield [own[number] for _, own in sorted(by_id.items()) if len(own) > number]
