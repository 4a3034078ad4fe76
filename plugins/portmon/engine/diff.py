"""Evaluate observations: stored state in, changed state and events out. Pure: the clock is an argument.

:mod:`portmon.engine.states` decides about one port. This module handles hosts and the fleet, and finds the few ports
that changed: it compares stored and seen ports as frames, some hosts at a time. An observation with the fingerprint of
a settled host (:mod:`portmon.engine.fingerprint`) is evaluated without its ports.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from portmon.engine import states
from portmon.engine.config import States
from portmon.engine.declared import Declared
from portmon.engine.events import event_id, monitor_event
from portmon.engine.fingerprint import fingerprint
from portmon.engine.frames import HOST_COLUMNS, KEY, SETS, key_of, merged, port_of, ports_of, records
from portmon.engine.rules import HostRules, RuleSet
from portmon.engine.states import Look, Port, Seen, Step, Told
from portmon.engine.watched import any_watched, fold, known_owners, seen_of, why_watched
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind
from portmon.model.host import Host
from portmon.model.observation import PROBE, PROTOCOL, Listing, Observation, Outcome, PortKey, hung_tools, in_time
from portmon.model.state import HostStatus, PortStatus
from portmon.probe.compare import program_of, same_program
from portmon.text import counted

HostRow = dict[str, Any]
"""The stored state of a host, see :data:`portmon.engine.frames.HOST_COLUMNS`."""
UNSEEN = timedelta(minutes=15)
UNSEEN_INTERVALS = 3
"""After a longer pause between two observations than both, events say between which two the change happened."""
PAIRS = 100_000
"""Up to this many pairs of names are compared to find ports that moved; with more, only equal names are found."""
NOTICES = 200
"""Notices of one host and observation that are events of their own; the rest is one ``many_changes``."""
PORTION = 1000
"""Hosts whose ports are compared at a time: a frame of all hosts would take gigabytes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an evaluation changed.

    :param hosts: changed and new rows; ``listening`` is None if it was not loaded, and then unchanged
    :param unchanged: host id to the time of its last ok observation, for hosts of which nothing else changed
    :param dropped: keys of ports that are not watched any more: forgotten, moved, retired, or excluded by a rule
    :param unwatched: those of ``dropped`` that a rule excludes. The engine makes no event that ends their alerts
    :param events: by time, the monitor's own first, then by host, and by port number
    :param failing_since: start of the episode in which every host fails
    :param summary: counts for the log
    """

    hosts: tuple[HostRow, ...] = ()
    unchanged: Mapping[str, datetime] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    dropped: tuple[PortKey, ...] = ()
    unwatched: tuple[PortKey, ...] = ()
    events: tuple[Event, ...] = ()
    failing_since: datetime | None = None
    summary: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortChanges:
    """Changed and new ports of some hosts, and the keys of ports that are not watched any more."""

    ports: tuple[Port, ...]
    dropped: tuple[PortKey, ...]


def evaluate(
    hosts: Mapping[str, HostRow],
    ports: pd.DataFrame,
    observations: Sequence[Observation],
    *,
    inventory: Mapping[str, Host],
    rules: RuleSet,
    settings: States,
    interval: timedelta,
    run_id: str,
    declared: Declared | None = None,
    accepted: Mapping[PortKey, datetime] | None = None,
    failing_since: datetime | None = None,
) -> Verdict:
    """Evaluate observations with the whole state in memory. The parameters are those of :class:`Evaluation`, and:

    :param ports: see :data:`portmon.engine.frames.PORT_COLUMNS`; hosts without an observation may be left out
    :param observations: see :meth:`Evaluation.looks`
    """
    evaluation = Evaluation(
        {host_id: dict(row) for host_id, row in hosts.items()},
        inventory=inventory,
        rules=rules,
        settings=settings,
        interval=interval,
        run_id=run_id,
        declared=declared,
        accepted=accepted,
        failing_since=failing_since,
    )
    changed: dict[PortKey, Port] = {}
    for looks in evaluation.looks(observations):
        known = ports[ports["host_id"].isin([look.host_id for look in looks])]
        changes = evaluation.compare(looks, known)
        # A later observation of the same host is compared with the ports after this one.
        ports = merged(ports, changes.ports, changes.dropped)
        for key in changes.dropped:
            changed.pop(key, None)
        changed |= {key_of(port): port for port in changes.ports}
    evaluation.find_duplicates()
    ports_now = tuple(changed[key] for key in sorted(changed))
    return dataclasses.replace(evaluation.verdict(), ports=ports_now, dropped=tuple(evaluation.dropped))


def close_hosts(
    hosts: Mapping[str, HostRow],
    ports: pd.DataFrame,
    host_ids: Collection[str],
    *,
    reason: str,
    run_id: str,
    now: datetime,
) -> Verdict:
    """End the alerts of hosts that left, by ``retired`` events.

    Their troubles are removed from the state: if they last when the hosts come back, they make new alerts.

    :param reason: why the hosts left, as the end of a sentence
    """
    rows = {host_id: dict(hosts[host_id]) for host_id in host_ids if host_id in hosts}
    events, changed_hosts, changed, dropped = [], [], [], []

    def retired(host: HostRow, port: Port | None, what: str, since: datetime | None) -> Event:
        told = Told(EventKind.RETIRED, f"{what}; {reason}", since=since)
        return _event(told, host, port, at=now, run_id=run_id)

    for row in rows.values():
        if row["status"] == HostStatus.UNREACHABLE:
            events.append(retired(row, None, "Was unreachable", row["status_since"]))
            row |= {"status": HostStatus.OK.value if row["last_ok_at"] else HostStatus.NEW.value, "status_since": now}
            row |= {"failures": 0, "failing_since": None, "counted_at": None, "fingerprint": None}
            changed_hosts.append(row)
    for port in ports_of(ports[ports["host_id"].isin(list(rows))]):
        if states.is_open(port):
            what = "Was flapping" if port.flapping_since else "Lost a bind"
            if port.status == PortStatus.DOWN:
                what = "Was down"
            events.append(retired(rows[port.host_id], port, what, port.lost_since or port.status_since))
            forgiven = states.forgive(port)
            if forgiven is None:
                dropped.append(key_of(port))
            else:
                changed.append(forgiven)
    return Verdict(hosts=tuple(changed_hosts), ports=tuple(changed), dropped=tuple(dropped), events=tuple(events))


# ── one evaluation ───────────────────────────────────────────────────────────────────────────────


def _waves(observations: Sequence[Observation]) -> Iterable[list[Observation]]:
    """Observations in waves with at most one per host, those of a host in the order of time."""
    by_host: dict[str, list[Observation]] = defaultdict(list)
    for observation in observations:
        own = by_host[observation.host_id]
        if not own or own[-1].observed_at < observation.observed_at:
            own.append(observation)
    for number in range(max(map(len, by_host.values()), default=0)):
        yield [own[number] for own in by_host.values() if len(own) > number]


class Evaluation:
    """One evaluation. The caller loads the ports that it asks for, and stores what changed::

        for looks in evaluation.looks(observations):
            store(evaluation.compare(looks, their_ports))
        evaluation.find_duplicates()
        verdict = evaluation.verdict()

    :param hosts: host id to row, columns of :data:`portmon.engine.frames.HOST_COLUMNS`; the rows are changed in place.
        ``listening`` may be None and follow later
    :param inventory: host id to host; observations of other hosts are ignored
    :param interval: time between scheduled runs: counters grow at most once in half of it
    :param run_id: of the run that evaluates
    :param accepted: when a person accepted a port as gone
    :param failing_since: start of an episode in which every host fails
    """

    def __init__(
        self,
        hosts: dict[str, HostRow],
        *,
        inventory: Mapping[str, Host],
        rules: RuleSet,
        settings: States,
        interval: timedelta,
        run_id: str,
        declared: Declared | None = None,
        accepted: Mapping[PortKey, datetime] | None = None,
        failing_since: datetime | None = None,
    ) -> None:
        self.hosts = hosts
        self.inventory = inventory
        self.rules = rules
        self.settings = settings
        self.half_interval = interval / 2
        self.window = states.flap_window(settings, interval)
        self.run_id = run_id
        self.declared = declared or {}
        self.accepted = accepted or {}
        self.failing_since = failing_since
        self.evaluated = 0
        self.silent = False
        self.answered: set[str] = set()
        self.unchanged: dict[str, datetime] = {}
        self.changed_hosts: set[str] = set()
        self.changed_ports: dict[PortKey, Port] = {}
        self.gone_ports: dict[PortKey, bool] = {}
        self.dropped: dict[PortKey, bool] = {}
        self.events: list[Event] = []
        self._to_tell: list[tuple[states.Row, Told, Port]] = []
        # How many of them are notices.
        self._notices = 0
        self._counted: list[tuple[EventKind, int]] = []

    def looks(self, observations: Sequence[Observation]) -> Iterator[list[Observation]]:
        """Evaluate observations, except those that have to be compared with the ports of their hosts.

        :param observations: in any order. Ok ones may lack the listing if they have its digest
        :returns: portions for :meth:`compare`, each to be compared before the next is taken; one observation per host
        """
        by_run: dict[str, list[Observation]] = defaultdict(list)
        for observation in sorted(observations, key=in_time):
            by_run[observation.run_id].append(observation)
        for run in by_run.values():
            news = [observation for observation in run if self._is_news(observation)]
            if news:
                yield from self._run(news)

    def compare(
        self,
        observations: Sequence[Observation],
        ports: pd.DataFrame,
        listening: Mapping[str, tuple[str, ...] | None] | None = None,
    ) -> PortChanges:
        """Compare observations with the stored ports of their hosts.

        :param observations: a portion of :meth:`looks`, with their listings
        :param ports: the stored ports of these hosts
        :param listening: ``listening`` of these hosts, if their rows lack it
        :raises ValueError: if a listing or ``listening`` is missing
        """
        self._take_listening(listening or {})
        self.changed_ports, self.gone_ports = {}, {}
        rules = {one.host_id: self.rules.for_host(self.inventory[one.host_id]) for one in observations}
        looks = {one.host_id: self._look(one, rules[one.host_id].digest) for one in observations}
        settled = self._ports(observations, ports, looks, rules)
        for one in observations:
            host = self.hosts[one.host_id]
            self._evidence(host, one, looks[one.host_id])
            host["rules"] = rules[one.host_id].digest
            host["fingerprint"] = self._fingerprint(one) if one.host_id in settled else None
            self.changed_hosts.add(one.host_id)
        for key in self.changed_ports:
            self.dropped.pop(key, None)
        self.dropped |= self.gone_ports
        return PortChanges(tuple(self.changed_ports.values()), tuple(self.gone_ports))

    def sharing(self) -> set[str]:
        """Hosts whose ``listening`` :meth:`find_duplicates` needs and whose rows lack it."""
        shared = (ids for ids in self._machines().values() if not self.answered.isdisjoint(ids))
        return {host_id for ids in shared for host_id in ids if self.hosts[host_id]["listening"] is None}

    def find_duplicates(self, listening: Mapping[str, tuple[str, ...] | None] | None = None) -> None:
        """Make a ``duplicate`` event of each host with the boot id, network namespace and ports of another entry.

        :param listening: of the hosts of :meth:`sharing`
        """
        self._take_listening(listening or {})
        machines = self._machines()
        for host_id in sorted(self.answered):
            row = self.hosts[host_id]
            others = [other for other in machines.get((row["boot_id"], row["netns"]), ()) if other < host_id]
            before = row["duplicate_of"]
            if before in others:
                continue
            first = next((other for other in others if self._listening(other) == self._listening(host_id)), None)
            if first != before:
                row["duplicate_of"] = first
                self.changed_hosts.add(host_id)
            if first is not None and before is None:
                other = self.hosts[first]
                reason = (
                    f"The same machine as {other['name']} (id {first}): same boot, network namespace and ports. "
                    "Both are watched"
                )
                self._tell_of_host(row, row["last_ok_at"], EventKind.DUPLICATE, reason, {"duplicate_of": first})

    def verdict(self) -> Verdict:
        """All changes except those of ports, which :meth:`compare` returned."""
        counts = Counter(event.kind.value for event in self.events)
        return Verdict(
            hosts=tuple(self.hosts[host_id] for host_id in sorted(self.changed_hosts)),
            unchanged={host_id: at for host_id, at in self.unchanged.items() if host_id not in self.changed_hosts},
            unwatched=tuple(key for key, unwatched in self.dropped.items() if unwatched),
            events=tuple(
                sorted(self.events, key=lambda one: (one.at, one.host_id or "", one.port is not None, one.port or 0))
            ),
            failing_since=self.failing_since,
            summary={"evaluated": self.evaluated, **dict(sorted(counts.items()))},
        )

    def _is_news(self, observation: Observation) -> bool:
        """Whether an observation of a listed host is newer than the last one that was evaluated."""
        if observation.host_id not in self.inventory:
            return False
        evaluated = self.hosts.get(observation.host_id, {}).get("last_evaluated_at")
        return evaluated is None or observation.observed_at > evaluated

    def _run(self, observations: Sequence[Observation]) -> Iterator[list[Observation]]:
        self.evaluated += len(observations)
        fresh = self._fresh_failures(observations)
        self.silent = fresh is not None
        for wave in _waves(observations):
            yield from self._wave(wave)
        self.silent = False
        self._tell_of_fleet(observations, fresh)

    def _wave(self, observations: Sequence[Observation]) -> Iterator[list[Observation]]:
        compared = []
        for observation in observations:
            host = self._host(observation.host_id)
            host["last_evaluated_at"] = observation.observed_at
            if observation.outcome is not Outcome.OK or (observation.listing is None and observation.facts is None):
                self._no_evidence(host, observation)
            elif host["fingerprint"] is not None and host["fingerprint"] == self._fingerprint(observation):
                self._nothing_new(host, observation)
            else:
                compared.append(observation)
        for start in range(0, len(compared), PORTION):
            yield compared[start : start + PORTION]

    def _fingerprint(self, observation: Observation) -> str | None:
        # An observation that is not stored has no digest.
        if observation.facts is None:
            return None
        rules = self.rules.for_host(self.inventory[observation.host_id])
        return fingerprint(observation.facts, rules.digest, self.declared.get(observation.host_id, {}))

    # ── the fleet ───────────────────────────────────────────────────────────────────────────────

    def _fresh_failures(self, observations: Sequence[Observation]) -> set[str] | None:
        """Newly failing hosts of a run in which all hosts fail alike; None if each failing host has its own event."""
        if any(one.outcome is Outcome.OK for one in observations):
            return None
        tried = {one.host_id for one in observations}
        fresh = {one for one in tried if self.hosts.get(one, {}).get("status") != HostStatus.UNREACHABLE.value}
        if self.failing_since is not None:
            return fresh
        alike = len({(one.outcome, one.error_class) for one in observations}) == 1
        most = 2 * len(tried) > len(self.inventory)
        return fresh if alike and most and len(fresh) > 1 else None

    def _tell_of_fleet(self, observations: Sequence[Observation], fresh: set[str] | None) -> None:
        last = observations[-1]
        at = last.observed_at
        details: dict[str, Any]
        if fresh is None:
            if self.failing_since is None or all(one.outcome is not Outcome.OK for one in observations):
                return
            kind, reason = EventKind.FLEET_REACHABLE, "Hosts give evidence again"
            since, self.failing_since = self.failing_since, None
            details = {"unreachable_for": (at - since).total_seconds()}
        else:
            failures = [self.hosts[host_id]["failures"] for host_id in fresh]
            if self.failing_since is not None or max(failures, default=0) < self.settings.unreachable_after:
                return
            since = self.failing_since = min(self.hosts[host_id]["failing_since"] for host_id in fresh)
            tried = len({one.host_id for one in observations})
            what = last.error_class or last.outcome.value
            kind = EventKind.FLEET_UNREACHABLE
            reason = (
                f"All {tried} hosts that were asked fail alike ({what}): look at the monitor and its network first. "
                f"The last one says: {last.error or what}"
            )
            details = {"error_class": last.error_class, "hosts": tried}
        self.events.append(
            monitor_event(
                kind, at=at, run_id=self.run_id, reason=reason, evidence=at.isoformat(), since=since, details=details
            )
        )

    # ── duplicates ──────────────────────────────────────────────────────────────────────────────

    def _machines(self) -> dict[tuple[str, int], list[str]]:
        """Boot id and network namespace to the sorted ids of the hosts that show them, if there are several."""
        found: dict[tuple[str, int], list[str]] = defaultdict(list)
        for host_id, row in self.hosts.items():
            if row["boot_id"] and row["netns"] is not None and host_id in self.inventory:
                found[row["boot_id"], row["netns"]].append(host_id)
        return {machine: sorted(ids) for machine, ids in found.items() if len(ids) > 1}

    def _take_listening(self, listening: Mapping[str, tuple[str, ...] | None]) -> None:
        for host_id, keys in listening.items():
            row = self.hosts[host_id]
            if row["listening"] is None:
                row["listening"] = keys

    def _listening(self, host_id: str) -> tuple[str, ...]:
        listening: tuple[str, ...] | None = self.hosts[host_id]["listening"]
        if listening is None:
            raise ValueError(f"the row of {host_id!r} lacks its listening ports")
        return listening

    # ── hosts ───────────────────────────────────────────────────────────────────────────────────

    def _host(self, host_id: str) -> dict[str, Any]:
        listed = self.inventory[host_id]
        row = self.hosts.get(host_id)
        if row is None:
            row = dict.fromkeys(HOST_COLUMNS) | {"host_id": host_id, "status": HostStatus.NEW.value, "failures": 0}
            self.hosts[host_id] = row
        if (row["name"], row["address"], row["labels"]) != (listed.name, listed.address, listed.labels):
            row |= {"name": listed.name, "address": listed.address, "labels": dict(listed.labels)}
            self.changed_hosts.add(host_id)
        return row

    def _no_evidence(self, host: dict[str, Any], observation: Observation) -> None:
        at = observation.observed_at
        self.changed_hosts.add(observation.host_id)
        host |= {"error_class": observation.error_class, "error": observation.error}
        if host["failures"] == 0:
            host |= {"failures": 1, "failing_since": at, "counted_at": at}
        elif at - host["counted_at"] >= self.half_interval:
            host |= {"failures": host["failures"] + 1, "counted_at": at}
        failures = host["failures"]
        if failures < self.settings.unreachable_after or host["status"] == HostStatus.UNREACHABLE or self.silent:
            return
        host |= {"status": HostStatus.UNREACHABLE.value, "status_since": at}
        times = "1 run" if failures == 1 else f"{failures} runs in a row"
        error_class, outcome, since = observation.error_class, observation.outcome, host["failing_since"]
        reason = f"No evidence in {times}: {observation.error or error_class or outcome}"
        details = {"error_class": error_class, "outcome": outcome.value, "failures": failures}
        last_seen = host["last_ok_at"]
        self._tell_of_host(host, at, EventKind.UNREACHABLE, reason, details, since=since, last_seen=last_seen)

    def _nothing_new(self, host: dict[str, Any], observation: Observation) -> None:
        """Evaluate an observation with the fingerprint of its host: no port changed."""
        interrupted = self._is_interrupted(host)
        if interrupted or host["failures"]:
            self.changed_hosts.add(observation.host_id)
        self.unchanged[observation.host_id] = observation.observed_at
        self._answered(host, observation.observed_at, interrupted=interrupted)

    def _is_interrupted(self, host: Mapping[str, Any]) -> bool:
        """Whether a host has given no evidence for long enough to be unreachable."""
        return bool(host["status"] != HostStatus.OK or host["failures"] >= self.settings.unreachable_after)

    def _look(self, observation: Observation, rules: str) -> Look:
        """What all ports of a host share in this observation, given the digest of the rules in force."""
        host, seen, at = self.hosts[observation.host_id], observation.listing, observation.observed_at
        if seen is None:
            raise ValueError(f"the observation of {observation.host_id!r} at {at} lacks its listing")
        rebooted = bool(host["boot_id"] and seen.boot_id and host["boot_id"] != seen.boot_id)
        if rebooted and (host["grace_until"] is None or at >= host["grace_until"]):
            # A second reboot does not extend the grace: a host that boots again and again would never have a port down.
            host["grace_until"] = at + self.settings.reboot_grace
        first = host["last_ok_at"] is None
        before = () if first else self._listening(observation.host_id)
        return Look(
            at=at,
            first=first,
            before=frozenset(int(key.rpartition("/")[2]) for key in before),
            seen_at=host["last_ok_at"],
            ok_since=None if self._is_interrupted(host) else host["status_since"],
            ephemeral=seen.ephemeral,
            tool=seen.tool,
            tool_before=host["tool"] if host["last_ok_at"] else None,
            rebooted=rebooted,
            grace_until=host["grace_until"],
            rules_changed=host["rules"] is not None and host["rules"] != rules,
            # 1 stands for versions that were not stored.
            learning=not first and (host["probe"] or 1, host["reader"] or 1) != (seen.probe, seen.reader),
            confirmed=observation.confirmed,
            listening=frozenset(listener.port for listener in seen.listeners),
            half_interval=self.half_interval,
            window=self.window,
            settings=self.settings,
        )

    def _evidence(self, host: dict[str, Any], observation: Observation, look: Look) -> None:
        """Update the host, after its ports were evaluated by its last state."""
        seen, at = observation.listing, observation.observed_at
        assert seen is not None  # noqa: S101 - for the type checker; _look() has checked it
        listening = {listener.port for listener in seen.listeners}
        if look.first:
            count = len(listening)
            reason = f"First complete answer: {counted(count, 'listening port')}"
            self._tell_of_host(host, at, EventKind.BASELINE, reason, {"ports": count})
        if look.rebooted:
            until = f"{look.grace_until:%Y-%m-%d %H:%M:%S} UTC"
            reason = f"Its boot id changed; ports that are not back yet have until {until}"
            boots = {"boot_id": seen.boot_id, "before": host["boot_id"]}
            self._tell_of_host(host, at, EventKind.REBOOTED, reason, boots, last_seen=host["last_ok_at"])
        self._answered(host, at, interrupted=look.ok_since is None)
        if seen.probe < PROBE and (host["probe"] or PROBE) >= PROBE:
            script = "the script that `portmon probe` prints"
            reason = f"Its forced command is of an earlier version: install {script}"
            self._tell_of_host(host, at, EventKind.PROBE_OUTDATED, reason, {"probe": seen.probe})
        host |= _hung(host, seen, at)
        host |= {
            "probe": seen.probe,
            "reader": seen.reader,
            "boot_id": seen.boot_id or host["boot_id"],
            "netns": seen.netns,
            "ephemeral_low": seen.ephemeral[0],
            "ephemeral_high": seen.ephemeral[1],
            "tool": seen.tool,
            "listening": tuple(f"{PROTOCOL}/{port}" for port in sorted(listening)),
        }

    def _answered(self, host: dict[str, Any], at: datetime, *, interrupted: bool) -> None:
        if host["status"] == HostStatus.UNREACHABLE:
            since, last_seen, reason = host["failing_since"], host["last_ok_at"], "It answered completely again"
            details = {"unreachable_for": (at - since).total_seconds()}
            self._tell_of_host(host, at, EventKind.REACHABLE, reason, details, since=since, last_seen=last_seen)
        if interrupted:
            host |= {"status": HostStatus.OK.value, "status_since": at}
        host |= {"failures": 0, "failing_since": None, "counted_at": None, "error_class": None, "error": None}
        host["last_ok_at"] = at
        self.answered.add(host["host_id"])

    # ── ports ───────────────────────────────────────────────────────────────────────────────────

    def _ports(
        self,
        observations: Sequence[Observation],
        known: pd.DataFrame,
        looks: Mapping[str, Look],
        rules: Mapping[str, HostRules],
    ) -> set[str]:
        """Compare stored and seen ports in one merge, evaluate those that differ, and return the settled hosts."""
        seen = fold(observations, rules, self.declared, known_owners(known, rules), known)
        both = _side_by_side(known, seen)
        other = both[~self._is_quiet(both)]
        by_host: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in records(other):
            by_host[row["host_id"]].append(row)
        there = set(zip(both["host_id"], both["port"], strict=True)) if self.declared else set()
        other = other[KEY]
        del both
        pending = set()
        for host_id, look in looks.items():
            must = self.declared.get(host_id, {})
            self._host_ports(host_id, by_host.pop(host_id, []), look, rules[host_id])
            for port in sorted(must):
                if (host_id, port) not in there:
                    pending.add(host_id)
                    if look.confirmed:
                        key = (host_id, PROTOCOL, port)
                        self._keep(key, None, states.absent(key, look, declared=must[port]))
            self._tell_of_ports(host_id, look, rules[host_id])
        now = merged(known, self.changed_ports.values(), self.gone_ports)
        return set(looks) - pending - self._pending(observations, rules, other, now, seen)

    def _pending(
        self,
        observations: Sequence[Observation],
        rules: Mapping[str, HostRules],
        other: pd.DataFrame,
        now: pd.DataFrame,
        seen: pd.DataFrame,
    ) -> set[str]:
        """Hosts of which the same observation, evaluated once more, would change something.

        :param other: keys of the ports that were not quiet; the others stay quiet
        :param now: the ports after this evaluation
        """
        again = _side_by_side(now.merge(other, on=KEY), seen.merge(other, on=KEY))
        pending = set(again["host_id"][~self._is_quiet(again)])
        differ = set(other["host_id"])
        for observation in observations:
            if observation.host_id in differ and not rules[observation.host_id].watches_all:
                assert observation.listing is not None  # noqa: S101 - for the type checker; _look() has checked it
                # Rules match such a listener by the last known programs of its port, which may have changed.
                if any(listener.program is None for listener in observation.listing.listeners):
                    pending.add(observation.host_id)
        return pending

    def _is_quiet(self, both: pd.DataFrame) -> pd.Series:
        """Which rows need no evaluation: up before, seen now, without a difference or a pending change."""
        quiet = (both["found"] == "both") & (both["status"] == PortStatus.UP.value) & (both["misses"] == 0)
        for name in ("flapping_since", "grace_until", "last_seen_at"):
            quiet &= both[name].isna()
        quiet &= both["tool"] == both["tool_seen"]
        declared = both["declared"].where(both["declared"].notna(), None)
        same = [
            source == self.declared.get(host_id, {}).get(port) and not lost
            for host_id, port, source, lost in zip(both["host_id"], both["port"], declared, both["lost"], strict=True)
        ]
        quiet &= pd.Series(same, index=both.index, dtype="bool")
        for name in SETS:
            same = [
                new == old or (not new and name != "addresses")
                for old, new in zip(both[name], both[f"{name}_seen"], strict=True)
            ]
            if name == "programs":
                # A tool that shows only the kernel's names changes nothing if these are the known ones.
                shown = zip(same, both["programs_seen"], both["comms"], both["comms_seen"], strict=True)
                same = [one or (new == comms and known == comms) for one, new, known, comms in shown]
            quiet &= pd.Series(same, index=both.index, dtype="bool")
        return quiet

    def _host_ports(self, host_id: str, rows: list[dict[str, Any]], look: Look, rules: HostRules) -> None:
        """Evaluate the ports of one host that are not quiet."""
        must = self.declared.get(host_id, {})
        arrivals: dict[int, Seen] = {}
        missing: list[Port] = []
        rows.reverse()
        while rows:
            # Each row is freed once it is evaluated: one host may have very many.
            row = rows.pop()
            key = (host_id, row["protocol"], row["port"])
            declared = must.get(key[2])
            if row["found"] == "right_only":
                arrivals[key[2]] = seen_of(row)
                continue
            port = port_of(row)
            if row["found"] == "both":

                def is_watched(address: str, port: Port = port, declared: str | None = declared) -> bool:
                    return bool(declared) or any_watched(port, (address,), rules)

                step = states.again(port, seen_of(row), look, declared=declared, is_watched=is_watched)
                self._keep(key, port, step)
            elif not declared and not (port.addresses and any_watched(port, port.addresses, rules)):
                self.gone_ports[key] = True
            else:
                missing.append(port)
        heirs = _heirs(missing, arrivals, look, must)
        taken = set(heirs.values())
        for port in missing:
            key = (host_id, port.protocol, port.port)
            step = states.gone(
                port, look, declared=must.get(port.port), accepted=self.accepted.get(key), heir=heirs.get(port.port)
            )
            self._keep(key, port, step)
        for number, seen in arrivals.items():
            key = (host_id, PROTOCOL, number)
            step = states.appear(key, seen, look, declared=must.get(number), heir=number in taken)
            self._keep(key, None, step)

    def _keep(self, key: PortKey, before: Port | None, step: Step) -> None:
        """Keep the next state of a port. Its events are made once all ports of the host are evaluated."""
        if step.port is None:
            self.gone_ports[key] = False
        elif step.port != before:
            self.changed_ports[key] = step.port
        port = step.port or before
        for told in step.told:
            assert port is not None  # noqa: S101 - for the type checker: an event has a port
            self._to_tell.append((step.row, told, port))
            # Not what lasts, which stays: each one more would begin the count anew.
            self._notices += _is_notice(told)
            if self._notices > 4 * NOTICES:
                self._count_most()

    def _count_most(self) -> None:
        """Keep the notices of the lowest ports of a host, and count the others.

        Called while notices come in: 20,000 of one host would take too much memory.
        """
        notices = [one for one in self._to_tell if _is_notice(one[1])]
        most = sorted(notices, key=lambda one: one[2].port)[NOTICES:]
        counted = set(map(id, most))
        self._to_tell = [one for one in self._to_tell if id(one) not in counted]
        self._counted += [(told.kind, port.port) for _, told, port in most]
        self._notices = len(notices) - len(most)

    def _tell_of_ports(self, host_id: str, look: Look, rules: HostRules) -> None:
        """Make the events of the ports of one host."""
        self._count_most()
        waiting, self._to_tell, self._notices = self._to_tell, [], 0
        counted, self._counted = self._counted, []
        for one in waiting:
            self._tell_of_port(*one, look, rules)
        if not counted:
            return
        counts = Counter(kind.value for kind, _ in counted)
        what = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        numbers = [port for _, port in counted]
        reason = (
            f"{len(counted) + NOTICES} ports changed in one look: {NOTICES} of them are told one by one, the rest is "
            f"counted here ({what}; ports {min(numbers)} to {max(numbers)})"
        )
        details = {"counts": dict(sorted(counts.items())), "ports": len(counted)}
        self._tell_of_host(self.hosts[host_id], look.at, EventKind.MANY_CHANGES, reason, details)

    def _tell_of_port(self, row: states.Row, told: Told, port: Port, look: Look, rules: HostRules) -> None:
        watched = why_watched(port, rules)
        details: dict[str, Any] = {"watched": watched, "row": row.name.lower(), "looked_with": look.tool}
        unseen = self._unseen(told, look)
        if unseen is not None:
            details["between"] = [at.isoformat() for at in unseen]
            begin, end = (f"{at:%Y-%m-%d %H:%M}" for at in unseen)
            reason = f"{told.reason}; it happened between {begin} and {end} UTC, while nobody looked"
            told = dataclasses.replace(told, reason=reason)
        host = self.hosts[port.host_id]
        self.events.append(_event(told, host, port, at=look.at, run_id=self.run_id, details=details))

    def _unseen(self, told: Told, look: Look) -> tuple[datetime, datetime] | None:
        """The times of the two observations around a change, after a long pause."""
        if look.seen_at is None or look.at - look.seen_at <= max(UNSEEN_INTERVALS * 2 * self.half_interval, UNSEEN):
            return None
        began = {EventKind.NEW: told.since == look.at, EventKind.DOWN: told.last_seen == look.seen_at}
        return (look.seen_at, look.at) if began.get(told.kind, told.kind.usual.between_looks) else None

    def _tell_of_host(
        self,
        host: HostRow,
        at: datetime,
        kind: EventKind,
        reason: str,
        details: Mapping[str, Any],
        *,
        since: datetime | None = None,
        last_seen: datetime | None = None,
    ) -> None:
        told = Told(kind, reason, since, last_seen, details)
        self.events.append(_event(told, host, None, at=at, run_id=self.run_id))


def _is_notice(told: Told) -> bool:
    """Whether an event neither opens nor closes an alert."""
    return told.kind.meaning(told.details).role not in (AlertRole.FIRING, AlertRole.RESOLVED)


def _hung(host: Mapping[str, Any], seen: Listing, at: datetime) -> dict[str, Any]:
    """The columns of tools that hung on a host, which are not tried there for a day."""
    known = set(hung_tools(host["hung"], host["hung_at"], at))
    news = set(seen.hung) - known
    if not known and not news:
        return {"hung": None, "hung_at": None}
    return {"hung": ",".join(sorted(known | news)), "hung_at": at if news else host["hung_at"]}


def _side_by_side(known: pd.DataFrame, seen: pd.DataFrame) -> pd.DataFrame:
    return known.merge(seen, on=KEY, how="outer", suffixes=("", "_seen"), indicator="found")


# ── ports that moved ────────────────────────────────────────────────────────────────────────────


def _heirs(
    missing: Sequence[Port], arrivals: Mapping[int, Seen], look: Look, must: Mapping[int, str]
) -> dict[int, int]:
    """Missing port to the port to which its program moved, both in the ephemeral range."""
    if not look.confirmed:
        return {}
    free = [number for number in sorted(arrivals) if look.is_ephemeral(number) and number not in must]
    gone = [
        port
        for port in sorted(missing, key=lambda port: port.port)
        if port.status == PortStatus.UP
        and port.port not in must
        and look.is_ephemeral(port.port)
        and (port.comms or port.tool == look.tool)
    ]
    pairs = sum(len(port.programs) for port in gone) * sum(len(arrivals[number].programs) for number in free)
    return _heirs_by_name(gone, free, arrivals, look) if pairs > PAIRS else _heirs_by_pair(gone, free, arrivals, look)


def _heirs_by_pair(gone: Sequence[Port], free: list[int], arrivals: Mapping[int, Seen], look: Look) -> dict[int, int]:
    found: dict[int, int] = {}
    for port in gone:
        for number in free:
            seen = arrivals[number]
            if seen.units == port.units and _is_same_program(port, seen, look):
                found[port.port] = number
                free.remove(number)
                break
    return found


def _is_same_program(port: Port, seen: Seen, look: Look) -> bool:
    # Only names of one kind are compared: the kernel's with the kernel's, a tool's with those of the same tool.
    if port.comms and seen.comms:
        return not set(port.comms).isdisjoint(seen.comms)
    if port.tool != look.tool:
        return False
    pids = (*port.pids, *seen.pids)
    return any(same_program(old, new, pids=pids) for old in port.programs for new in seen.programs)


def _heirs_by_name(
    gone: Sequence[Port], free: Sequence[int], arrivals: Mapping[int, Seen], look: Look
) -> dict[int, int]:
    """As :func:`_heirs_by_pair`, in linear time for hosts with very many ports. Names that a tool cut are not found."""
    by_name: dict[tuple[Any, str, str], list[int]] = defaultdict(list)
    for number in reversed(free):
        seen = arrivals[number]
        for kind, name in _names(seen.comms, seen.programs):
            by_name[seen.units, kind, name].append(number)
    found: dict[int, int] = {}
    taken: set[int] = set()
    for port in gone:
        names = _names(port.comms, port.programs if port.tool == look.tool else ())
        waiting = [by_name[port.units, kind, name] for kind, name in names]
        for numbers in waiting:
            while numbers and numbers[-1] in taken:
                numbers.pop()
        first = min((numbers[-1] for numbers in waiting if numbers), default=None)
        if first is not None:
            found[port.port] = first
            taken.add(first)
    return found


def _names(comms: Sequence[str], programs: Sequence[str]) -> set[tuple[str, str]]:
    return {("comm", comm) for comm in comms} | {("program", program_of(program)) for program in programs}


# ── events ──────────────────────────────────────────────────────────────────────────────────────


def _event(
    told: Told,
    host: Mapping[str, Any],
    port: Port | None,
    *,
    at: datetime,
    run_id: str,
    details: Mapping[str, Any] | None = None,
) -> Event:
    extra: dict[str, Any] = {}
    if port is not None:
        extra = {name: list(getattr(port, name)) for name in (*SETS[:3], "uids", "units") if getattr(port, name)}
        if port.declared:
            extra["declared"] = port.declared
    extra |= {**(details or {}), **told.details}
    protocol, number = (port.protocol, port.port) if port else (None, None)
    return Event(
        id=event_id(told.kind, host["host_id"], protocol, number, at.isoformat()),
        kind=told.kind,
        at=at,
        run_id=run_id,
        host_id=host["host_id"],
        host_name=host["name"],
        protocol=protocol,
        port=number,
        severity=told.kind.meaning(extra).severity,
        reason=told.reason,
        program=", ".join(port.programs) or None if port else None,
        unit=", ".join(port.units) or None if port else None,
        since=told.since,
        last_seen=told.last_seen,
        labels=dict(host["labels"] or {}),
        details=extra,
    )
