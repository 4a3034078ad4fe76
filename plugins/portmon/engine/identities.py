"""Whose answers the answers of a run are, and what follows: reboots, foreign answers, entries that are one machine."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from portmon.engine import clocks, hosts, lifecycle, machines, owners, telling, transitions
from portmon.engine.conditions import Condition
from portmon.engine.hosts import Fleet
from portmon.engine.lifecycle import NONE
from portmon.engine.machines import AnsweredBy, Answerer, Kept, Machine
from portmon.engine.state import Draft, HostState, Port
from portmon.model.event_kinds import EventKind
from portmon.model.observation import Observation
from portmon.model.state import HostStatus, PortStatus

_DISCARDED = "Another machine's answers opened it, which are not counted"
ACCEPTED = ("host", 0)
"""Protocol and port under which a person accepts that an entry is another machine now."""


@dataclass(slots=True)
class Sorted:
    """The answers of some hosts after it is known whose they are.

    :param own: answers of the hosts themselves, which are evidence
    :param new_boots: ids of hosts of which it is the first answer of a boot
    :param instead: host id: the ports that it has instead of those that are stored
    :param foreign: answers of other machines
    :param covered: ids of hosts of which a greater condition was told than that they are unreachable
    """

    own: list[Observation] = field(default_factory=list)
    new_boots: set[str] = field(default_factory=set)
    instead: dict[str, list[Port]] = field(default_factory=dict)
    foreign: list[Observation] = field(default_factory=list)
    covered: set[str] = field(default_factory=set)


class Identities:
    """Tells whose answers are whose, and goes on with the state of the machine that answered.

    :param known: all stored hosts; those that the inventory lacks left it not long ago
    :ivar taken_over: id of an entry: that of the entry that left, whose state it goes on with
    :ivar changed: ids of entries that were found to be one machine with another one in this run
    """

    def __init__(self, known: dict[str, HostState], fleet: Fleet) -> None:
        self._hosts = known
        self._fleet = fleet
        self._accepted = fleet.inputs.accepted
        self._forget_after = fleet.inputs.forget_after.total_seconds()
        self.left: dict[str, list[str]] = defaultdict(list)
        self._by_boot: dict[str, set[str]] = defaultdict(set)
        for host_id, host in known.items():
            if host.boot_id is None:
                continue
            if host_id in fleet.inputs.inventory:
                self._by_boot[host.boot_id].add(host_id)
            else:
                self.left[host.boot_id].append(host_id)
        self.taken_over: dict[str, str] = {}
        self.changed: set[str] = set()
        self._firsts: dict[str, datetime] = {}

    def predecessor(self, host: HostState, machine: Machine) -> str | None:
        """The entry that left and whose state a host goes on with: it is the same machine, and the host is new."""
        found = []
        for host_id in self.left.get(machine.boot_id or "", ()):
            old = self._hosts.get(host_id)
            is_new = host.last_ok_at is None or (host_id == host.duplicate_of and host.evidence < self._forget_after)
            if old is not None and old.last_ok_at and is_new and machines.is_one(machine, machines.known_of(old)):
                found.append((old.last_evaluated_at or old.last_ok_at, host_id))
        return max(found)[1] if found else None

    def sort_out(self, looks: Sequence[Observation], ports: Mapping[str, Sequence[Port]]) -> Sorted:
        """Say whose the answers of one run are, one per host.

        :param ports: of these hosts, and of those whose state they take over
        """
        found = Sorted()
        shown = {look.host_id: machines.shown_by(look.shows) for look in looks}
        changed = {
            look.host_id
            for look in looks
            if machines.changed(self._hosts[look.host_id], look.shows, ports.get(look.host_id, ()))
        }
        answered_by = self._answered_by(looks, shown, changed)
        for look in looks:
            if self._fleet.conditions.includes(Condition.UNREACHABLE, look.host_id):
                found.covered.add(look.host_id)
            hosts.trusted(self._hosts[look.host_id], look.observed_at, self._fleet)
            host, machine = self._hosts[look.host_id], shown[look.host_id]
            old, answer = self.predecessor(host, machine), answered_by.get(look.host_id)
            if old is not None:
                host = self._take_over(host, old, ports, found, look.observed_at)
            elif answer is not None and answer.who is Answerer.FOREIGN:
                found.foreign.append(look)
                self._is_foreign(host, machine, answer.other, look.observed_at)
                continue
            elif answer is not None:
                self._changes(host, answer, look.observed_at, ports.get(look.host_id, ()), found)
            hosts.end(host, Condition.FOREIGN, look.observed_at, "It answers itself again", self._fleet)
            found.own.append(look)
        return found

    def _answered_by(
        self, looks: Sequence[Observation], shown: Mapping[str, Machine], changed: Collection[str]
    ) -> dict[str, AnsweredBy]:
        """Host id: who answered, of the answers that are not of the host in the boot before.

        An entry is the machine that it shows in this run, as soon as that is known to be its own. Of entries that
        change to one machine all are foreign; one that was already is another's, and has no claim beside them.
        """
        known = self._fleet.conditions.of_hosts(Condition.FOREIGN).items()
        foreign = {one for one, opened in known if opened.details.get("machine")}
        own = {one: its for one, its in shown.items() if one not in changed}
        claims: dict[str | None, set[str]] = defaultdict(set)
        for one, its in shown.items():
            self._by_boot[its.boot_id or ""].add(one)
            if one in changed and one not in foreign and not self._hosts[one].shared:
                claims[its.boot_id].add(one)
        at = {look.host_id: look.observed_at for look in looks}
        found = {one: self._answer(one, shown[one], own, at[one]) for one in changed}
        own |= {one: shown[one] for one, answer in found.items() if answer.who is Answerer.BACK}
        before = -1
        while before < len(own):
            before = len(own)
            for one in sorted(set(changed) - own.keys(), key=lambda one: (one in foreign, one)):
                found[one] = self._answer(one, shown[one], own, at[one])
                rivals = claims[shown[one].boot_id]
                if found[one].who is Answerer.REBOOTED and one in rivals:
                    alike = [other for other in rivals if machines.is_one(shown[other], shown[one])]
                    found[one] = AnsweredBy(Answerer.FOREIGN if len(alike) > 1 else Answerer.REBOOTED)
                if found[one].who is not Answerer.FOREIGN:
                    own[one] = shown[one]
        for one in set(changed) - own.keys():
            if self._is_accepted(one, at[one]):
                found[one] = AnsweredBy(Answerer.REBOOTED)
        return found

    def answered(self, host: HostState, machine: Machine, at: datetime) -> None:
        """Note the machine of a host after its answer, and whether another entry is that machine as well."""
        if host.last_ok_at is None:
            self._firsts[host.host_id] = at
        host.boot_id = machine.boot_id or host.boot_id
        host.netns = host.netns if machine.netns is None else machine.netns
        host.pid1_start = host.pid1_start if machine.pid1_start is None else machine.pid1_start

    def find_twins(self) -> None:
        """Tell which hosts that answered for the first time are the machine of another entry."""
        by_boot: dict[str | None, list[HostState]] = defaultdict(list)
        for one in sorted(self._fleet.inputs.inventory) if self._firsts else ():
            if one in self._hosts and self._hosts[one].last_ok_at is not None:
                by_boot[self._hosts[one].boot_id].append(self._hosts[one])
        for host_id, at in sorted(self._firsts.items()):
            host = self._hosts[host_id]
            earlier = (one for one in by_boot[host.boot_id] if one.host_id not in self._firsts or one.host_id < host_id)
            own = machines.known_of(host)
            twins = [other for other in earlier if other is not host and machines.is_one(own, machines.known_of(other))]
            for same in (host, *twins) if twins else ():
                same.shared = True
                self.changed.add(same.host_id)
            if twins:
                host.duplicate_of = twins[0].host_id
                reason = f"The same machine as {twins[0].name} (id {host.duplicate_of}). Both are watched"
                details = {"duplicate_of": host.duplicate_of}
                self._fleet.report.of_host(host, at, Draft(EventKind.DUPLICATE, reason, details=details))

    def _answer(self, host_id: str, machine: Machine, own: Mapping[str, Machine], at: datetime) -> AnsweredBy:
        """Whose answer it is.

        :param own: the machines of hosts that answered themselves in this run
        """
        host = self._hosts[host_id]
        candidates = self._by_boot.get(machine.boot_id or "", set())
        others = {
            other: own.get(other, machines.known_of(self._hosts[other]))
            for other in candidates - {host.host_id}
            if not self._hosts[other].shared
        }
        clock = clocks.evidence_at(host, at, self._fleet.interval)
        return machines.answerer(host, machine, others, clock=clock)

    def _is_accepted(self, host_id: str, at: datetime) -> bool:
        """Whether a person accepted the machine that answers for an entry."""
        accepted = self._accepted.get((host_id, *ACCEPTED))
        foreign = self._fleet.conditions.get(Condition.FOREIGN, host_id)
        if not (foreign and lifecycle.was_accepted(accepted, foreign.since, at)):
            return False
        host = self._hosts[host_id]
        host.shared = True
        hosts.end(host, Condition.FOREIGN, at, "A person accepted the machine that answers", self._fleet)
        return True

    def _changes(self, host: HostState, answer: AnsweredBy, at: datetime, ports: Sequence[Port], found: Sorted) -> None:
        """Go on with a host in another boot, or in the one before."""
        if answer.who is Answerer.BACK:
            self._is_back(host, at, ports, found)
            return
        before = dataclasses.replace(machines.of_boot(host), kept=None)
        clock = clocks.evidence_at(host, at, self._fleet.interval)
        host.kept = None if host.shared else Kept(before, tuple(map(dataclasses.replace, ports)), clock)
        host.boot_looks = 0
        # What the new boot does not show is not known of it.
        host.netns = host.pid1_start = None
        found.new_boots.add(host.host_id)

    def _is_foreign(self, host: HostState, machine: Machine, other: str | None, at: datetime) -> None:
        name = self._hosts[other].name if other else None
        details = {"boot_id": machine.boot_id} | ({"machine": other, "machine_name": name} if other else {})
        who = f"{name} (id {other})" if other else "A machine that answers for several hosts"
        reason = f"{who} answers at its address: what it shows is not counted"
        draft = Draft(EventKind.FOREIGN_MACHINE, reason, last_seen=host.last_ok_at, details=details)
        hosts.opens(host, Condition.FOREIGN, draft, at, self._fleet, machine=other)

    def _is_back(self, host: HostState, at: datetime, ports: Sequence[Port], found: Sorted) -> None:
        """The machine from before a reboot answers again: what answered since was another one."""
        kept, since = host.kept, host.last_ok_at
        assert kept is not None  # noqa: S101 - for the type checker
        first, now = kept.host.last_ok_at, host.presence
        opened = self._fleet.conditions.get(Condition.UNREACHABLE, host.host_id)
        machines.back_to(host, kept.host)
        reason = (
            f"Its boot before ({host.boot_id}) answers again: what answered after {first:%Y-%m-%d %H:%M:%S} UTC was "
            "another machine, and is not counted"
        )
        details = {"boot_id": host.boot_id, "since": first.isoformat() if first else None}
        draft = Draft(EventKind.ANSWERS_DISCARDED, reason, first, since, details)
        self._fleet.report.of_host(host, at, draft)
        is_told = bool(now.flapping_since or (opened and opened.told))
        was_told = bool(host.presence.flapping_since or host.status == HostStatus.UNREACHABLE)
        if is_told and was_told:
            host.presence = now
        elif is_told:
            self._fleet.conditions.end(Condition.UNREACHABLE, host.host_id)
            ends: dict[str, Any] = {"ends": EventKind.UNREACHABLE.value, "discarded": True}
            began = now.flapping_since or (opened.since if opened else None)
            self._fleet.report.of_host(host, at, Draft(EventKind.RETIRED, _DISCARDED, began, details=ends))
        elif was_told:
            host.presence = NONE
        found.instead[host.host_id] = self._go_on(host, at, ports, kept.ports, discarded=True)

    def _take_over(
        self, host: HostState, old_id: str, ports: Mapping[str, Sequence[Port]], found: Sorted, at: datetime
    ) -> HostState:
        """Go on with the state of an entry that left, under the id of a new one."""
        old, host_id = self._hosts.pop(old_id), host.host_id
        self.taken_over[host_id] = old_id
        new = machines.renamed(host, old)
        self._hosts[host_id] = new
        reason = f"It is the machine of {old.name} (id {old_id}), which left the CMDB: its state goes on"
        details = {"from": old_id, "from_name": old.name}
        self._fleet.report.of_host(new, at, Draft(EventKind.TAKEN_OVER, reason, details=details))
        then = [dataclasses.replace(port, host_id=host_id) for port in ports.get(old_id, ())]
        found.instead[host_id] = self._go_on(new, at, ports.get(host_id, ()), then)
        return new

    def _go_on(
        self, host: HostState, at: datetime, now: Sequence[Port], then: Sequence[Port], *, discarded: bool = False
    ) -> list[Port]:
        """Ports whose state goes on in place of another one. An alert that is open in both goes on.

        :param now: the ports of the state that ends: other alerts of it end
        :param then: the ports that go on: what is wrong with them is told again
        """
        after = {(port.protocol, port.port): dataclasses.replace(port) for port in then}
        going_on = set()
        for port in now:
            key = (port.protocol, port.port)
            alert = None if port.paused else _alert_of(port, host)
            if alert is not None and key in after and _alert_of(after[key], host) == alert:
                going_on.add(key)
                after[key].paused = False
            elif alert is not None:
                reason = _DISCARDED if discarded else "Its state before goes on under this name"
                details = {"discarded": True} if discarded else {}
                draft = Draft(EventKind.RETIRED, reason, telling.wrong_since(port), details=details)
                self._fleet.report.of_port(port, host, at, draft, {})
            if discarded and key in after:
                after[key].told = port.told
        for key, port in after.items():
            if _alert_of(port, host) and key not in going_on:
                after[key] = transitions.pause(port)
        return list(after.values())


def _alert_of(port: Port, host: HostState) -> str | None:
    """The kind of the alert of a port, if it is told."""
    if port.presence.flapping_since:
        return "flapping"
    if port.status == PortStatus.DOWN:
        return "down"
    away, flapping = owners.gone_of(port), set(port.flapping)
    # Through the flapping of others a loss is told.
    if not flapping.issuperset(owners.subject_of(own, host.many) or "" for own in away):
        return "owner"
    if not flapping.issuperset(port.lost):
        return "lost"
    return "flapping" if flapping else None


def by_host(ports: Iterable[Port]) -> dict[str, list[Port]]:
    """Host id: its ports, in order."""
    found: dict[str, list[Port]] = defaultdict(list)
    # A database has them in any order, and what is kept of them is stored.
    for port in sorted(ports, key=lambda port: (port.host_id, port.protocol, port.port)):
        found[port.host_id].append(port)
    return found
