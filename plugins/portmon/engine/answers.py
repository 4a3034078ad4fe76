"""Answers that have to be compared with the stored ports of their hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from portmon.engine import clocks, frames, machines, owners
from portmon.engine import hosts as single
from portmon.engine.fingerprint import fingerprint
from portmon.engine.hosts import Fleet
from portmon.engine.identities import Identities, Sorted
from portmon.engine.inputs import EvaluationInputs
from portmon.engine.ports import HostPorts
from portmon.engine.rules import HostRules
from portmon.engine.state import Draft, Evidence, HostState, Port
from portmon.engine.terms import terms_of
from portmon.engine.watched import fold
from portmon.model import limits
from portmon.model.event_kinds import EventKind
from portmon.model.numbers import UDP, is_udp, number_of, port_of, protocol_of
from portmon.model.observation import PROBE, Listing, Observation, PortKey, hung_tools
from portmon.text import counted

if TYPE_CHECKING:
    import pandas as pd


UDP_SHOWN = number_of(UDP, 0)
"""Stands among the ports of a host whose last answer showed UDP, so that one without any UDP port is told from one that
was not asked."""


class ChangedPorts:
    """Changed and new ports of some hosts, and the keys of ports that are not watched any more."""

    def __init__(self) -> None:
        self.changed: dict[PortKey, Port] = {}
        self.gone: dict[PortKey, None] = {}

    def replace(self, own: Sequence[Port], stored: Sequence[Port]) -> None:
        """The ports of a host instead of those that are stored."""
        self.changed |= {frames.key_of(port): port for port in own}
        self.gone |= {frames.key_of(port): None for port in stored if frames.key_of(port) not in self.changed}

    def add(self, ports: HostPorts | ChangedPorts) -> None:
        """Later changes. A port that a host had, lost with its earlier state and shows again is not gone."""
        self.changed |= ports.changed
        for key in ports.changed:
            self.gone.pop(key, None)
        for key in ports.gone:
            self.changed.pop(key, None)
            self.gone[key] = None


class Answers:
    """Compares the answers of hosts, each of the host itself, with their ports.

    :param hosts: host id to state; they are changed in place
    """

    def __init__(self, hosts: Mapping[str, HostState], fleet: Fleet, identities: Identities) -> None:
        self._hosts = hosts
        self._fleet = fleet
        self._inputs = fleet.inputs
        self._identities = identities

    def compare(
        self, looks: Sequence[Observation], ports: pd.DataFrame, answers: Sorted, changes: ChangedPorts
    ) -> None:
        """Compare stored and seen ports in one merge, evaluate those that differ, and update their hosts."""
        rules = {look.host_id: self._inputs.rules.for_host(self._inputs.inventory[look.host_id]) for look in looks}
        forgotten = self._forgotten(looks, answers)
        evidence = {
            look.host_id: self._evidence(look, rules[look.host_id], new_boot=look.host_id in answers.new_boots)
            for look in looks
        }
        declared = self._inputs.declared
        # An answer that does not show UDP says nothing of its ports.
        ports, emptied = frames.without_boots(ports, forgotten)
        hide = {look.host_id for look in looks if rules[look.host_id].udp and look.shows.udp is None}
        ports = frames.without_udp(ports, hide)
        learned = frames.udp_ports(ports) if any(own.udp for own in rules.values()) else {}
        known = {} if all(own.watches_all for own in rules.values()) else frames.known_owners(ports)
        other_rules = {host_id for host_id, one in evidence.items() if one.rules_changed}
        seen = fold(looks, rules, declared, known, cache(lambda: frames.known_values(ports)), other_rules, learned)
        named = {
            (look.host_id, number): owner
            for look in looks
            for number, given in self._inputs.given.get(look.host_id, {}).items()
            if (owner := terms_of(self._inputs.settings, given).owner)
        }
        comparison = frames.Comparison(ports, seen, declared, named)
        differing, absent = comparison.differing(), set()
        for look in looks:
            host, must = self._hosts[look.host_id], declared.get(look.host_id, {})
            given = self._inputs.given.get(look.host_id, {})
            own = HostPorts(host, evidence[look.host_id], rules[look.host_id], must, self._inputs.accepted, given)
            own.changed |= {key: port for key, port in emptied.items() if key[0] == look.host_id}
            own.evaluate(differing.pop(look.host_id, []))
            for number in sorted(must):
                if is_udp(number) and not (rules[look.host_id].udp and look.shows.udp is not None):
                    continue
                if (look.host_id, number) not in comparison.listed:
                    absent.add(look.host_id)
                    if look.confirmed:
                        own.absent(number)
            changes.add(own)
            covered = look.host_id in answers.covered
            self._take_evidence(host, look, evidence[look.host_id], own, covered=covered)
        unsettled = self._unsettled(looks, rules, comparison, changes) | absent | answers.new_boots
        for look in looks:
            host = self._hosts[look.host_id]
            host.fingerprint = None if look.host_id in unsettled else fingerprint_of(look, self._inputs)

    def _forgotten(self, looks: Sequence[Observation], answers: Sorted) -> set[PortKey]:
        """The ports that begin this boot without the boots before it: since the last one a person forgot them."""
        booted = {look.host_id: look.observed_at for look in looks if look.host_id in answers.new_boots}
        found = set()
        for key, at in self._inputs.forgotten.items():
            if key[0] in booted and at <= booted[key[0]]:
                last = self._hosts[key[0]].booted_at
                if last is None or last <= at:
                    found.add(key)
        return found

    def _unsettled(
        self,
        looks: Sequence[Observation],
        rules: Mapping[str, HostRules],
        comparison: frames.Comparison,
        changes: ChangedPorts,
    ) -> set[str]:
        """Hosts of which the same observation, evaluated once more, would change something."""
        pending = comparison.pending(changes.changed, changes.gone)
        for look in looks:
            if self._hosts[look.host_id].unnamed and single.shows_others(look.shows) is None:
                # It hides no owner, and would count as one that does.
                pending.add(look.host_id)
            nameless = look.host_id in comparison.differed and any(one.program is None for one in look.shows.sockets)
            if nameless and not rules[look.host_id].watches_all:
                # Rules match such a listener by the last known programs of its port, which may have changed.
                pending.add(look.host_id)
        return pending

    def _evidence(self, look: Observation, rules: HostRules, *, new_boot: bool) -> Evidence:
        """What all ports of a host share in this observation, given the rules in force."""
        host, seen, at = self._hosts[look.host_id], look.shows, look.observed_at
        if new_boot and (host.grace_until is None or at >= host.grace_until):
            # A second reboot does not extend the grace: a host that boots again and again would never have a port down.
            host.grace_until = at + self._inputs.settings.reboot_grace
        if new_boot:
            host.booted_at = at
        many = owners.many_programs(seen.sockets if rules.udp else seen.listeners)
        if not many.issubset(host.many):
            host.many = tuple(sorted(many.union(host.many))[: limits.OWNERS])
        first = host.last_ok_at is None
        if not first and host.listening is None:
            raise ValueError(f"the row of {look.host_id!r} lacks its listening ports")
        before = () if first else host.listening or ()
        clock, kept = clocks.evidence_at(host, at, self._fleet.interval), host.kept
        return Evidence(
            at=at,
            clock=clock,
            first=first,
            before=_numbers(before),
            # After another clock was believed, the look before has the time of this one.
            seen_at=host.last_ok_at and min(host.last_ok_at, at - clocks.TICK),
            seen_clock=host.evidence,
            ephemeral=seen.ephemeral,
            tool=seen.tool,
            tool_before=host.tool if host.last_ok_at else None,
            new_boot=new_boot,
            grace_until=host.grace_until,
            rules_changed=host.rules is not None and not rules.is_same(host.rules),
            udp_begins=rules.udp and seen.udp is not None and UDP_SHOWN not in _numbers(before),
            confirmed=look.confirmed,
            listening=frozenset(one.number for one in (seen.sockets if rules.udp else seen.listeners)),
            half_interval=self._inputs.interval / 2,
            pause=clocks.pause_of(self._fleet.interval),
            pace=self._fleet.pace,
            settings=self._inputs.settings,
            # 1 stands for versions that were not stored.
            learning=not first and (host.probe or 1, host.reader or 1) != (seen.probe, seen.reader),
            jumped=self._fleet.jumped,
            forget_after=self._inputs.forget_after,
            reserved=seen.reserved,
            shown=seen.sockets if rules.udp else seen.listeners,
            units=frozenset(one.unit for one in (seen.sockets if rules.udp else seen.listeners) if one.unit),
            many=frozenset(host.many),
            booted_at=host.booted_at,
            boot_clock=kept.clock if kept else clock if new_boot else None,
            before_boot=kept.shown if kept else frozenset(),
        )

    def _take_evidence(
        self, host: HostState, look: Observation, evidence: Evidence, ports: HostPorts, *, covered: bool
    ) -> None:
        """Update the host, after its ports were evaluated by its last state."""
        seen, at, report = look.shows, look.observed_at, self._fleet.report
        boot = None
        # Clients hold random UDP ports, which are never learned.
        shown = [number for number in evidence.listening if not (is_udp(number) and evidence.is_ephemeral(number))]
        if evidence.first:
            count = len(shown)
            reason = f"First complete answer: {counted(count, 'listening port')}"
            report.of_host(host, at, Draft(EventKind.BASELINE, reason, details={"ports": count}))
        elif evidence.udp_begins and not evidence.new_boot:
            count = sum(map(is_udp, shown))
            reason = f"First answer that shows UDP: {counted(count, 'UDP port')}"
            report.of_host(host, at, Draft(EventKind.BASELINE, reason, details={"ports": count, "protocol": UDP}))
        if evidence.new_boot:
            boot = _rebooted(host, seen, evidence)
        single.tick(host, look, self._fleet)
        self._identities.answered(host, machines.shown_by(seen), at)
        single.answered(host, at, self._fleet, boot, covered=covered)
        single.names_owners(host, at, self._fleet, single.shows_others(seen))
        ports.tell(report)
        machines.count_look(host)
        host.ephemeral_low, host.ephemeral_high = seen.ephemeral
        host.hung, host.hung_at = _hung(host, seen, at)
        if evidence.new_boot:
            # The next observation is compared with what was there before the boot.
            return
        if seen.probe < PROBE and (host.probe or PROBE) >= PROBE:
            reason = "Its forced command is of an earlier version: install the script that `portmon probe` prints"
            report.of_host(host, at, Draft(EventKind.PROBE_OUTDATED, reason, details={"probe": seen.probe}))
        rules = self._inputs.rules.for_host(self._inputs.inventory[look.host_id])
        host.rules = rules.digest
        host.probe, host.reader, host.tool = seen.probe, seen.reader, seen.tool
        listening = evidence.listening
        if rules.udp:
            # Where the answer does not show UDP, what the last one showed that did goes on.
            last = filter(is_udp, evidence.before) if seen.udp is None else (UDP_SHOWN,)
            listening = listening.union(last)
        host.listening = tuple(f"{protocol_of(number)}/{port_of(number)}" for number in sorted(listening))


def _numbers(listening: Iterable[str]) -> frozenset[int]:
    """The numbers of ``tcp/80`` and ``udp/53``."""
    keys = (key.split("/") for key in listening)
    return frozenset(number_of(protocol, int(port)) for protocol, port in keys)


def fingerprint_of(look: Observation, inputs: EvaluationInputs) -> str | None:
    """What an observation is evaluated by; None if it is not stored, and so has no digest."""
    if look.facts is None:
        return None
    rules = inputs.rules.for_host(inputs.inventory[look.host_id])
    return fingerprint(look.facts, rules.digest, inputs.declared.get(look.host_id, {}))


def _rebooted(host: HostState, seen: Listing, evidence: Evidence) -> Draft:
    until = f"{evidence.grace_until:%Y-%m-%d %H:%M:%S} UTC"
    what = "Its boot id changed" if seen.boot_id != host.boot_id else "Its container was started again"
    reason = f"{what}; ports that are not back yet have until {until}"
    boots = {"boot_id": seen.boot_id, "before": host.boot_id}
    return Draft(EventKind.REBOOTED, reason, last_seen=host.last_ok_at, details=boots)


def _hung(host: HostState, seen: Listing, at: datetime) -> tuple[str | None, datetime | None]:
    """The tools that hung on a host, which are not tried there for a day, and when that was noticed."""
    known = set(hung_tools(host.hung, host.hung_at, at))
    news = set(seen.hung) - known
    if not known and not news:
        return None, None
    return ",".join(sorted(known | news)), at if news else host.hung_at
