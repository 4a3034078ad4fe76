"""A second, naive implementation of the table of states: what :mod:`portmon.engine.diff` must agree with.

Written from the contract alone, one look at one port at a time, in plain Python. It is slow and knows neither
pandas nor a database. Nothing here is shared with the engine but the types of :mod:`portmon.model.event` and the
matching of rules. Names of programs are compared as they are: no tool cuts them here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from portmon.engine.rules import RuleSet, Subject
from portmon.model.host import Host
from portmon.model.observation import Listener, Listing, Observation, Outcome

Told = tuple[datetime, str, str | None, int | None, str]
"""An event: at, kind, host id (None: the monitor's own), port (None: the host's own), and what else it says:
``severe`` of a rebound, ``up`` or ``down`` of flapping and stable, otherwise nothing."""


class Settings(Protocol):
    """What the engine calls ``States``."""

    down_after: int
    unreachable_after: int
    ephemeral_after: int
    flap_threshold: int
    flap_window: timedelta
    reboot_grace: timedelta
    retire_after: timedelta


@dataclass
class Defaults:
    """The settings of the contract."""

    down_after: int = 1
    unreachable_after: int = 2
    ephemeral_after: int = 3
    flap_threshold: int = 4
    flap_window: timedelta = timedelta(hours=1)
    reboot_grace: timedelta = timedelta(minutes=10)
    retire_after: timedelta = timedelta(days=30)


@dataclass
class HostRow:
    """What is remembered of a host."""

    status: str = "new"
    status_since: datetime | None = None
    failures: int = 0
    failing_since: datetime | None = None
    counted_at: datetime | None = None
    last_evaluated_at: datetime | None = None
    last_ok_at: datetime | None = None
    boot_id: str | None = None
    netns: int | None = None
    tool: str | None = None
    grace_until: datetime | None = None
    listening: frozenset[int] = frozenset()
    duplicate_of: str | None = None
    versions: tuple[int, int] | None = None
    """Of the probe and the reader of its last ok look."""
    rules: list[Any] | None = None
    """That were in force in its last ok look."""


@dataclass
class PortRow:
    """What is remembered of a port."""

    status: str
    status_since: datetime
    at_baseline: bool = False
    seen_once: bool = False
    """Only a declared port can be known and never seen."""
    missing_since_look: bool = False
    """Not seen in the last ok look."""
    last_seen: datetime | None = None
    """Of a missing port: the host's ok look before the first that lacked it."""
    streak: int = 0
    misses: int = 0
    counted_at: datetime | None = None
    grace_until: datetime | None = None
    addresses: frozenset[str] = frozenset()
    programs: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    uids: frozenset[int] = frozenset()
    units: frozenset[str] = frozenset()
    comms: frozenset[str] = frozenset()
    """The kernel's names of the programs."""
    tool: str | None = None
    """That reported the programs."""
    declared: bool = False
    lost: frozenset[str] = frozenset()
    """Addresses that others could reach, lost while others remain."""
    flapping: bool = False
    changes: list[datetime] = field(default_factory=list)
    notices: dict[str, list[datetime]] = field(default_factory=dict)
    """By kind, each whether it was told or not, since a window without one."""


@dataclass
class Seen:
    """One port in one look."""

    addresses: frozenset[str]
    programs: frozenset[str]
    pids: frozenset[int]
    uids: frozenset[int]
    units: frozenset[str]
    comms: frozenset[str]
    listed: bool
    """An allow rule named it."""


class Reference:
    """State of a fleet, and what follows from looking at it."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostRow] = {}
        self.ports: dict[str, dict[int, PortRow]] = {}
        self.fleet_failing_since: datetime | None = None
        self._events: list[Told] = []

    # ── a run ───────────────────────────────────────────────────────────────────────────────────

    def run(
        self,
        looks: Iterable[Observation],
        *,
        inventory: Mapping[str, Host],
        rules: RuleSet,
        settings: Settings,
        interval: timedelta,
        accepted: Mapping[tuple[str, str, int], datetime],
        run_id: str = "",
    ) -> list[Told]:
        """Evaluate looks; what was evaluated before is ignored.

        :param inventory: the hosts that may be evaluated, each with its declared ports
        :param accepted: ports that a person accepted as gone, and when
        """
        self.inventory = inventory
        self.rules = rules
        self.settings = settings
        self.half = interval / 2
        self.flap_window = max(settings.flap_window, 12 * interval)
        self.accepted = accepted
        self._events = []
        answered: dict[str, datetime] = {}

        groups: dict[str, list[Observation]] = {}
        for look in sorted(looks, key=lambda look: (look.observed_at, look.host_id)):
            if self._is_news(look):
                groups.setdefault(look.run_id, []).append(look)
        for group in groups.values():  # in the order of the earliest look of each
            self._group(group, answered)
        self._duplicates(answered)
        return self._told()

    def _is_news(self, look: Observation) -> bool:
        if look.host_id not in self.inventory:
            return False
        host = self.hosts.get(look.host_id)
        return host is None or host.last_evaluated_at is None or look.observed_at > host.last_evaluated_at

    def _told(self) -> list[Told]:
        def order(event: Told) -> tuple[Any, ...]:
            at, _, host_id, port, _ = event
            return (at, host_id or "", port is not None, port or 0)

        return sorted(self._events, key=order)

    def _tell(self, at: datetime, kind: str, host_id: str | None, port: int | None = None, extra: str = "") -> None:
        self._events.append((at, kind, host_id, port, extra))

    # ── the looks of one run ────────────────────────────────────────────────────────────────────

    def _group(self, looks: list[Observation], answered: dict[str, datetime]) -> None:
        looks = [look for look in looks if self._is_news(look)]  # an earlier group may have been newer
        if not looks:
            return
        tried = {look.host_id for look in looks}
        for host_id in tried:
            self.hosts.setdefault(host_id, HostRow())
            self.ports.setdefault(host_id, {})
        somebody_answered = any(look.outcome is Outcome.OK for look in looks)
        fresh = {host_id for host_id in tried if self.hosts[host_id].status != "unreachable"}
        alike = len({(look.outcome, look.error_class) for look in looks}) == 1
        episode = self.fleet_failing_since is not None
        suppressed = not somebody_answered and (
            episode or (alike and len(fresh) >= 2 and 2 * len(tried) > len(self.inventory))
        )
        if somebody_answered and episode:
            self.fleet_failing_since = None
            self._tell(looks[-1].observed_at, "fleet_reachable", None)

        for look in looks:
            if not self._is_news(look):
                continue
            if look.outcome is Outcome.OK:
                self._ok(look)
                answered[look.host_id] = look.observed_at
            else:
                self._no_evidence(look, suppressed=suppressed)
            self.hosts[look.host_id].last_evaluated_at = look.observed_at

        if suppressed and not episode:
            after = self.settings.unreachable_after
            if any(self.hosts[host_id].failures >= after for host_id in fresh):
                self.fleet_failing_since = looks[-1].observed_at
                self._tell(looks[-1].observed_at, "fleet_unreachable", None)

    def _counts(self, counted_at: datetime | None, at: datetime) -> bool:
        return counted_at is None or at - counted_at >= self.half

    # ── hosts ───────────────────────────────────────────────────────────────────────────────────

    def _no_evidence(self, look: Observation, *, suppressed: bool) -> None:
        host, at = self.hosts[look.host_id], look.observed_at
        if host.failures == 0:
            host.failing_since = at
            host.failures = 1
            host.counted_at = at
        elif self._counts(host.counted_at, at):
            host.failures += 1
            host.counted_at = at
        if host.failures >= self.settings.unreachable_after and host.status != "unreachable" and not suppressed:
            host.status = "unreachable"
            host.status_since = at
            self._tell(at, "unreachable", look.host_id)

    def _ok(self, look: Observation) -> None:
        host, at, seen = self.hosts[look.host_id], look.observed_at, look.listing
        assert seen is not None
        if host.last_ok_at is None:
            self._tell(at, "baseline", look.host_id)
        rebooted = host.boot_id is not None and seen.boot_id is not None and host.boot_id != seen.boot_id
        if rebooted:
            self._tell(at, "rebooted", look.host_id)
            if host.grace_until is None or at >= host.grace_until:
                host.grace_until = at + self.settings.reboot_grace
        if host.status == "unreachable":
            self._tell(at, "reachable", look.host_id)

        versions = (seen.probe, seen.reader)
        learning = host.last_ok_at is not None and (host.versions or (1, 1)) != versions
        if seen.probe == 1 and (host.versions is None or host.versions[0] != 1):
            self._tell(at, "probe_outdated", look.host_id)
        host.versions = versions

        self._ports(look.host_id, at, seen, rebooted=rebooted, learning=learning)

        if not self._gave_evidence(host):
            host.status = "ok"
            host.status_since = at
        host.failures = 0
        host.failing_since = None
        host.counted_at = None
        host.last_ok_at = at
        if seen.boot_id is not None:
            host.boot_id = seen.boot_id
        host.netns = seen.netns
        host.tool = seen.tool
        host.rules = self._rules_of(look.host_id)
        host.listening = frozenset(listener.port for listener in seen.listeners)

    def _gave_evidence(self, host: HostRow) -> bool:
        """Not unreachable, and not one of a fleet that failed alike either."""
        return host.status == "ok" and host.failures < self.settings.unreachable_after

    def _rules_of(self, host_id: str) -> list[Any]:
        rules = self.rules.for_host(self.inventory[host_id]).rules
        return [rule.model_copy(update={"comment": ""}) for _, rule in rules]

    def _duplicates(self, answered: Mapping[str, datetime]) -> None:
        for host_id in sorted(answered):
            host = self.hosts[host_id]
            before = host.duplicate_of
            if before is not None and before in self.inventory and self._same_machine(host, self.hosts.get(before)):
                continue
            host.duplicate_of = None
            for other_id in sorted(self.inventory):
                other = self.hosts.get(other_id)
                if other_id < host_id and self._same_machine(host, other) and other.listening == host.listening:
                    host.duplicate_of = other_id
                    break
            if host.duplicate_of is not None and before is None:
                self._tell(answered[host_id], "duplicate", host_id)

    @staticmethod
    def _same_machine(one: HostRow, other: HostRow | None) -> bool:
        if other is None or None in (one.boot_id, one.netns):
            return False
        return (one.boot_id, one.netns) == (other.boot_id, other.netns)

    # ── ports ───────────────────────────────────────────────────────────────────────────────────

    def _ports(self, host_id: str, at: datetime, look: Listing, *, rebooted: bool, learning: bool) -> None:
        """Every port of one ok look. The host is still as it was before."""
        host, ports = self.hosts[host_id], self.ports[host_id]
        told_before = len(self._events)
        declared = set(self.inventory[host_id].declared)
        low, high = look.ephemeral
        seen = self._seen(host_id, look)

        for number in [number for number in ports if number not in seen]:
            if number not in declared and not self._still_watched(host_id, number, ports[number]):
                del ports[number]

        gained = {number for number in seen if number not in ports}
        missing = {number for number, port in ports.items() if port.status == "up" and number not in seen}

        moved_to = set()
        for old in sorted(missing):
            for new in sorted(gained - moved_to):
                if old in declared or new in declared or not low <= old <= high or not low <= new <= high:
                    continue
                if self._same_service(ports[old], seen[new], look.tool):
                    told = ports[old].flapping or ports[old].lost
                    self._tell(at, "retired" if told else "moved", host_id, old)
                    del ports[old]
                    missing.remove(old)
                    moved_to.add(new)
                    break

        for number in sorted(ports.keys() | seen.keys() | declared):
            port = ports.get(number)
            is_declared = number in declared
            # The set of watched ports has changed, and may be the only reason why two visits differ.
            other_view = (
                learning
                or host.rules not in (None, self._rules_of(host_id))
                or (port is not None and port.declared != is_declared)
            )
            if port is not None:
                port.declared = is_declared
                if number in seen and not is_declared:
                    port.addresses = self._watched_still(host_id, number, port, port.addresses)
                    port.lost = self._watched_still(host_id, number, port, port.lost)
            if port is None and number in seen:  # A
                was_there = host.last_ok_at is None or learning or number in host.listening
                port = ports[number] = PortRow("up", at, at_baseline=was_there, declared=is_declared)
                waits = low <= number <= high and (host.last_ok_at is None or not seen[number].listed)
                if number in moved_to:
                    pass
                elif waits and not is_declared and self.settings.ephemeral_after > 1:
                    port.status = "candidate"
                    port.streak = 1
                    port.counted_at = at
                elif not was_there:
                    self._tell(at, "new", host_id, number)
                self._take(port, seen[number], look.tool)
            elif port is None:  # B
                port = ports[number] = PortRow("down", at, declared=True)
                self._change(port, at, "down", host_id, number)
            elif number not in seen:
                if not port.missing_since_look:
                    port.missing_since_look = True
                    port.last_seen = host.last_ok_at
                if port.status == "candidate":
                    if is_declared:  # D
                        self._goes_down(port, at, host_id, number)
                    else:
                        del ports[number]
                elif port.status == "up":
                    self._up_and_missing(port, at, host_id, number, rebooted=rebooted)
                else:
                    self._down_and_missing(port, at, host_id, number, declared=is_declared)
            else:
                status = port.status
                if status == "candidate":
                    self._candidate_again(port, at, host_id, number, declared=is_declared)
                elif status == "up":
                    self._up_again(
                        port,
                        at,
                        host_id,
                        number,
                        seen[number],
                        look.tool,
                        rebooted=rebooted,
                        other_view=other_view,
                        learning=learning,
                    )
                else:
                    self._recovers(port, at, host_id, number, seen[number], look.tool, learning=learning)
                kept = port.addresses
                waits = (
                    not learning
                    and self._addresses_compare(host_id, look.tool)
                    and self._waits_for_binds(port, at, host_id, seen[number])
                )
                self._take(port, seen[number], look.tool)
                if waits and status != "candidate":
                    port.addresses = kept
                port.missing_since_look = False
                port.last_seen = None
        self._count_the_rest(told_before, at, host_id)

    def _count_the_rest(self, told_before: int, at: datetime, host_id: str) -> None:
        """Of more than 200 notices of one look those of the highest ports are one event."""
        notices = [event for event in self._events[told_before:] if _is_notice(event)]
        if len(notices) <= 200:
            return
        for event in sorted(notices, key=lambda event: event[3] or 0)[200:]:
            self._events.remove(event)
        self._tell(at, "many_changes", host_id)

    def _notice(self, port: PortRow, at: datetime, kind: str, host_id: str, number: int) -> None:
        """Of what is only worth a notice the first few of a kind; then silence until there was none for the window."""
        earlier = port.notices.get(kind, [])
        if earlier and at - earlier[-1] > self.flap_window:
            earlier = []
        threshold = self.settings.flap_threshold
        if len(earlier) < threshold:
            earlier = [then for then in earlier if at - then <= self.flap_window]
            self._tell(at, kind, host_id, number)
        port.notices[kind] = [*earlier, at]

    def _seen(self, host_id: str, look: Listing) -> dict[int, Seen]:
        """Watched listeners, by port."""
        found: dict[int, Seen] = {}
        for number in sorted({listener.port for listener in look.listeners}):
            listeners, listed = [], False
            for listener in look.listeners:
                if listener.port == number:
                    watched, named = self._watched(host_id, listener)
                    if watched:
                        listeners.append(listener)
                    listed = listed or named
            if listeners:
                found[number] = Seen(
                    addresses=frozenset(one.address for one in listeners),
                    programs=frozenset(one.program for one in listeners if one.program is not None),
                    pids=frozenset(one.pid for one in listeners if one.pid is not None),
                    uids=frozenset(one.uid for one in listeners if one.uid is not None),
                    units=frozenset(one.unit for one in listeners if one.unit is not None),
                    comms=frozenset(one.comm for one in listeners if one.comm is not None),
                    listed=listed,
                )
        return found

    def _watched(self, host_id: str, listener: Listener) -> tuple[bool, bool]:
        """Whether a listener is watched, and whether an allow rule named it."""
        known = self.ports[host_id].get(listener.port)
        shown = {name for name in (listener.program, listener.comm) if name is not None}
        if known is not None and listener.comm in known.comms:
            shown |= known.programs
        programs = [tuple(shown)]
        if not shown and known is not None:
            programs = self._owner_names(known)
        watched, named = listener.port in self.inventory[host_id].declared, False
        rules = self.rules.for_host(self.inventory[host_id])
        for program in programs:
            decision = rules.evaluate(Subject(listener.port, listener.address, program))
            if decision.watched:
                watched = True
                named = named or decision.rule is not None
        return watched, named

    def _still_watched(self, host_id: str, number: int, port: PortRow) -> bool:
        """By what is known of a port that is not seen; of one that was never seen nothing is."""
        return bool(self._watched_still(host_id, number, port, port.addresses))

    def _watched_still(self, host_id: str, number: int, port: PortRow, addresses: frozenset[str]) -> frozenset[str]:
        """Those addresses that the rules in force watch."""
        rules = self.rules.for_host(self.inventory[host_id])
        names = list(self._owner_names(port))
        return frozenset(
            address
            for address in addresses
            if any(rules.evaluate(Subject(number, address, one)).watched for one in names)
        )

    @staticmethod
    def _owner_names(port: PortRow) -> list[tuple[str, ...]]:
        """The names by which rules know each program of a port."""
        return [(name, *port.comms) for name in port.programs] or [(name,) for name in port.comms] or [()]

    @staticmethod
    def _take(port: PortRow, seen: Seen, tool: str) -> None:
        """What is not shown now stays as it was known."""
        port.seen_once = True
        if seen.programs or not port.programs:
            port.tool = tool
        port.addresses = seen.addresses
        names_of_the_kernel_alone = bool(seen.comms) and seen.programs == seen.comms == port.comms
        if not (port.programs and names_of_the_kernel_alone):
            port.programs = seen.programs or port.programs
        port.pids = seen.pids or port.pids
        port.uids = seen.uids or port.uids
        port.units = seen.units or port.units
        port.comms = seen.comms or port.comms

    @staticmethod
    def _same_service(port: PortRow, seen: Seen, tool: str) -> bool:
        if port.units != seen.units:
            return False
        if port.comms and seen.comms:
            return bool(port.comms & seen.comms)
        return bool(port.programs & seen.programs) and port.tool == tool

    def _candidate_again(self, port: PortRow, at: datetime, host_id: str, number: int, *, declared: bool) -> None:
        """C."""
        if not declared:
            if self._counts(port.counted_at, at):
                port.streak += 1
                port.counted_at = at
            if port.streak < self.settings.ephemeral_after:
                return
        port.status = "up"
        port.status_since = at
        port.streak = 0
        port.counted_at = None
        if not port.at_baseline:
            self._tell(at, "new", host_id, number)

    def _up_again(
        self,
        port: PortRow,
        at: datetime,
        host_id: str,
        number: int,
        seen: Seen,
        tool: str,
        *,
        rebooted: bool,
        other_view: bool,
        learning: bool,
    ) -> None:
        """E."""
        port.misses = 0
        port.counted_at = None
        changed = False
        if not port.flapping and not other_view:
            if self._other_program(port, seen, tool):
                self._notice(port, at, "replaced", host_id, number)
            elif port.pids and seen.pids and not port.pids & seen.pids and not rebooted and port.grace_until is None:
                self._notice(port, at, "restarted", host_id, number)
        if learning:
            before = port.lost
            wildcards = {"0.0.0.0", "::"}
            if seen.addresses & wildcards:
                port.lost -= wildcards  # which may have been an older reader's name of those that are there
            port.addresses = frozenset()  # what is there now is all that is expected
            port.lost = self._still_lost(port, seen)
            if before and not port.lost:
                changed = True
                self._change(port, at, "recovered", host_id, number)
        elif self._addresses_compare(host_id, tool) and not self._waits_for_binds(port, at, host_id, seen):
            before = port.lost
            port.lost = self._still_lost(port, seen)
            lost = port.addresses - seen.addresses
            gained = seen.addresses - port.addresses
            if port.lost - before:
                changed = True
                self._change(port, at, "rebound", host_id, number, "severe")
            elif before and not port.lost:
                changed = True
                self._change(port, at, "recovered", host_id, number)
            elif (lost or gained - before) and not port.flapping and not other_view:
                self._notice(port, at, "rebound", host_id, number)
        port.grace_until = None
        if not changed:
            self._may_be_stable(port, at, host_id, number)

    def _up_and_missing(self, port: PortRow, at: datetime, host_id: str, number: int, *, rebooted: bool) -> None:
        """F, of a port that did not move."""
        if rebooted and port.grace_until is None:
            port.grace_until = self.hosts[host_id].grace_until
        if port.grace_until is not None:
            if at >= port.grace_until:
                self._goes_down(port, at, host_id, number)
            return
        if port.misses == 0 or self._counts(port.counted_at, at):
            port.misses += 1
            port.counted_at = at
            if port.misses >= self.settings.down_after:
                self._goes_down(port, at, host_id, number)

    def _recovers(
        self, port: PortRow, at: datetime, host_id: str, number: int, seen: Seen, tool: str, *, learning: bool
    ) -> None:
        """G."""
        port.status = "up"
        port.status_since = at
        port.misses = 0
        port.counted_at = None
        self._change(port, at, "recovered", host_id, number)
        if learning:
            return
        if self._addresses_compare(host_id, tool) and not self._waits_for_binds(port, at, host_id, seen):
            port.lost = self._still_lost(port, seen)  # of none, since all were expected
            if port.lost:
                self._change(port, at, "rebound", host_id, number, "severe")

    def _down_and_missing(self, port: PortRow, at: datetime, host_id: str, number: int, *, declared: bool) -> None:
        """H."""
        accepted = self.accepted.get((host_id, "tcp", number))
        is_accepted = accepted is not None and port.status_since <= accepted <= at
        unseen, down = at - (port.last_seen or port.status_since), at - port.status_since
        is_old = unseen >= self.settings.retire_after and down >= min(self.settings.retire_after, timedelta(days=1))
        if not declared and (is_accepted or is_old):
            del self.ports[host_id][number]
            self._tell(at, "retired", host_id, number)
            return
        self._may_be_stable(port, at, host_id, number)

    def _goes_down(self, port: PortRow, at: datetime, host_id: str, number: int) -> None:
        port.status = "down"
        port.status_since = at
        port.streak = 0
        port.counted_at = None
        port.grace_until = None
        self._expect_all_binds(port)
        self._change(port, at, "down", host_id, number)

    @staticmethod
    def _expect_all_binds(port: PortRow) -> None:
        """A bind that does not come back with the others is lost anew, and told."""
        port.addresses |= port.lost
        port.lost = frozenset()

    # ── addresses and programs ──────────────────────────────────────────────────────────────────

    @staticmethod
    def _other_program(port: PortRow, seen: Seen, tool: str) -> bool:
        if port.comms and seen.comms:
            return bool(seen.comms - port.comms and port.comms - seen.comms)
        if port.tool != tool or not port.programs or not seen.programs:
            return False
        return bool(seen.programs - port.programs and port.programs - seen.programs)

    def _addresses_compare(self, host_id: str, tool: str) -> bool:
        """Plain netstat cuts long addresses."""
        before = self.hosts[host_id].tool
        return before is None or before == tool or "netstat" not in (before, tool)

    def _waits_for_binds(self, port: PortRow, at: datetime, host_id: str, seen: Seen) -> bool:
        """Within the grace after a reboot a bind that is missing is not lost yet."""
        grace = self.hosts[host_id].grace_until
        return grace is not None and at < grace and bool(self._still_lost(port, seen) - port.lost)

    @staticmethod
    def _still_lost(port: PortRow, seen: Seen) -> frozenset[str]:
        lost = {address for address in port.addresses - seen.addresses if not ipaddress.ip_address(address).is_loopback}
        wildcard = {4: "0.0.0.0", 6: "::"}
        return frozenset(
            address
            for address in port.lost | lost
            if address not in seen.addresses and wildcard[ipaddress.ip_address(address).version] not in seen.addresses
        )

    # ── flapping ────────────────────────────────────────────────────────────────────────────────

    def _change(self, port: PortRow, at: datetime, kind: str, host_id: str, number: int, extra: str = "") -> None:
        """A down or a recovered, of the port or of a bind. Its new state is in the row already."""
        if port.flapping:
            port.changes = [at]
            return
        port.changes = [then for then in port.changes if at - then <= self.flap_window] + [at]
        if len(port.changes) < self.settings.flap_threshold:
            self._tell(at, kind, host_id, number, extra)
            return
        port.flapping = True
        port.changes = [at]
        self._tell(at, "flapping", host_id, number, _up_or_down(port))

    def _may_be_stable(self, port: PortRow, at: datetime, host_id: str, number: int) -> None:
        """Of a port that did not change in this look."""
        host = self.hosts[host_id]
        if not port.flapping or not self._gave_evidence(host):
            return
        assert host.status_since is not None
        if at - max(*port.changes, host.status_since) >= self.flap_window:
            port.flapping = False
            port.changes = []
            self._tell(at, "stable", host_id, number, _up_or_down(port))

    # ── the CMDB ────────────────────────────────────────────────────────────────────────────────

    def leave(self, host_ids: Collection[str], now: datetime) -> list[Told]:
        """Hosts left the CMDB: alerts are closed, and if they come back they go on as if nothing were wrong."""
        self._events = []
        for host_id in sorted(host_ids):
            host = self.hosts.get(host_id)
            if host is None:
                continue
            if host.status == "unreachable":
                self._tell(now, "retired", host_id)
                host.status = "ok" if host.last_ok_at else "new"
                host.status_since = now
                host.failures = 0
                host.failing_since = None
                host.counted_at = None
            for number, port in sorted(self.ports[host_id].items()):
                if not (port.status == "down" or port.flapping or port.lost):
                    continue  # no event was made: it waits and counts as before
                self._tell(now, "retired", host_id, number)
                if not port.seen_once:
                    del self.ports[host_id][number]
                    continue
                port.status = "up"
                port.counted_at = None
                port.misses = 0
                port.grace_until = None
                port.flapping = False
                port.changes = []
                self._expect_all_binds(port)
        return self._told()

    def purge(self, host_ids: Collection[str]) -> None:
        """Hosts stayed away: all that is known of them is deleted."""
        for host_id in host_ids:
            self.hosts.pop(host_id, None)
            self.ports.pop(host_id, None)

    # ── to compare ──────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        """State of hosts and ports, as far as the engine must have the same."""
        found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for host_id, host in self.hosts.items():
            found[(host_id,)] = (host.status, host.status_since, host.failures, host.last_ok_at, host.duplicate_of)
            for number, port in self.ports[host_id].items():
                found[(host_id, number)] = (
                    port.status,
                    port.status_since,
                    port.flapping,
                    tuple(sorted(port.lost)),
                    tuple(sorted(port.addresses)),
                    tuple(sorted(port.programs)),
                    tuple(sorted(port.pids)),
                )
        return found


def _is_notice(event: Told) -> bool:
    """Nothing begins or ends with it."""
    _, kind, _, port, extra = event
    return port is not None and kind in ("new", "replaced", "restarted", "rebound", "moved") and not extra


def _up_or_down(port: PortRow) -> str:
    """A port that still listens but lost an address counts as down: clients of that address can't reach it."""
    return "down" if port.status == "down" or port.lost else "up"
