"""The ports of one ok look, by the naive implementation: half of :class:`tests.worlds.reference.Reference`."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from portmon.engine.rules import RuleSet, Subject
from portmon.matching import bind_scopes
from portmon.model.host import Host
from portmon.model.observation import Listener, Listing
from portmon.probe.compare import program_of
from tests.worlds.reference_rows import FEW, HOUR, MOST, Changes, HostRow, PortRow, Settings, Told, told_today

NOTES = ("restarted", "moved")
"""Kinds of events that are no messages."""
NOTICES = ("new", "replaced", "restarted", "rebound")
"""Nothing begins or ends with them, unless a rebound is severe."""
HALF_OF_ALL_PORTS = 32768
"""Numbers, and the lowest one that counts as ephemeral where the range spans more numbers than that."""
OF_RPC = range(512, 1024)
"""Where programs of RPC take any free port that only root may bind."""
FORWARDERS = {"docker-proxy", "rootlessport", "kube-proxy", "sshd"}
"""They listen for others: that one of their ports came says nothing of one that is gone."""


@dataclass
class Seen:
    """One port in one look."""

    addresses: frozenset[str]
    programs: frozenset[str]
    pids: frozenset[int]
    inodes: frozenset[int]
    uids: frozenset[int]
    units: frozenset[str]
    comms: frozenset[str]
    listed: bool
    """An allow rule named the port or its program."""


@dataclass
class Sight:
    """One ok look at one host, while its row is still as it was before, but for its evidence clock.

    :param first: of another boot
    :param learning: another version of probe or reader than before
    :param other_rules: than in the ok look before
    """

    host_id: str
    at: datetime
    clock: timedelta
    tool: str
    confirmed: bool
    first: bool
    learning: bool
    other_rules: bool
    declared: frozenset[int]
    ephemeral: tuple[int, int]
    reserved: tuple[tuple[int, int], ...]
    units: frozenset[str]
    """Of all listeners, before any rule."""
    seen: dict[int, Seen]


class Ports:
    """What follows from looking at the ports of a host."""

    hosts: dict[str, HostRow]
    ports: dict[str, dict[int, PortRow]]
    inventory: Mapping[str, Host]
    rules: RuleSet
    settings: Settings
    half: timedelta
    window: timedelta
    prune_after: timedelta
    accepted: Mapping[tuple[str, str, int], datetime]
    jumped: bool
    _events: list[Told]

    # ── messages ────────────────────────────────────────────────────────────────────────────────

    def _tell_port(self, port: PortRow, host_id: str, at: datetime, kind: str, number: int, extra: str = "") -> bool:
        """An event, unless too many messages of the port were told today. What closes an alert for good always is."""
        today = told_today(port.messages, at)
        if kind in NOTICES and not extra:
            if today >= FEW:
                return False
        elif today >= MOST and kind not in ("retired", "unwatched", "moved"):
            return False
        if kind not in NOTES:
            port.messages = [then for then in port.messages if told_today([then], at)] + [at]
        if kind in ("down", "flapping"):
            port.alert = kind
        elif kind == "rebound" and extra:
            port.alert = "lost"
        elif kind == "stable":
            port.alert = "down" if extra == "down" else ""
        elif kind in ("recovered", "retired", "unwatched"):
            port.alert = ""
        self._events.append((at, kind, host_id, number, extra))
        return True

    def _tell_change(
        self, port: PortRow, changes: Changes, look: Sight, kind: str, number: int, extra: str = ""
    ) -> None:
        """The change itself, or that there are too many of them."""
        if changes.flapping:
            return
        today = told_today(port.messages, look.at)
        if len(changes.times) < self.settings.flap_threshold and today < FEW:
            self._tell_port(port, look.host_id, look.at, kind, number, extra)
            return
        changes.flapping, port.alert = True, "flapping"  # an end of it closes what was told before
        self._tell_port(port, look.host_id, look.at, "flapping", number, up_or_down(port))

    def _presence_changed(self, port: PortRow, look: Sight, kind: str, number: int) -> None:
        """A down or recovered of the port. Its new state is in the row already."""
        port.presence.add(look.clock, self.window)
        if kind == "recovered" and not port.alert and len(port.presence.times) < self.settings.flap_threshold:
            return  # a person, a rule or the CMDB closed its alert
        self._tell_change(port, port.presence, look, kind, number)

    def _binds_changed(self, port: PortRow, look: Sight, kind: str, number: int, extra: str = "") -> None:
        """A loss or a recovery of binds; silent while the port itself comes and goes."""
        port.binds.add(look.clock, self.window)
        if port.presence.flapping or (kind == "recovered" and not port.alert):
            return
        self._tell_change(port, port.binds, look, kind, number, extra)

    def _may_be_stable(self, port: PortRow, look: Sight, number: int) -> None:
        """Of a port that did not change in this look."""
        if look.first or told_today(port.messages, look.at) >= MOST:
            return
        for changes in (port.presence, port.binds):
            if not changes.flapping or not changes.still(look.clock, self.window):
                continue
            if changes is port.binds and (port.status == "down" or port.presence.flapping):
                return  # what is told of the port itself comes first
            changes.forget()
            if port.binds.flapping and port.binds.still(look.clock, self.window):
                port.binds.forget()
            self._tell_port(port, look.host_id, look.at, "stable", number, up_or_down(port))
            return

    def _notice(self, port: PortRow, look: Sight, kind: str, number: int) -> None:
        """Of what is only worth a notice the first few of a kind; then silence until there was none for the window."""
        earlier = port.notices.get(kind, [])
        if earlier and look.clock - earlier[-1] >= self.window:
            earlier = []
        if len(earlier) < self.settings.flap_threshold:
            earlier = [then for then in earlier if look.clock - then < self.window]
            self._tell_port(port, look.host_id, look.at, kind, number)
        port.notices[kind] = [*earlier, look.clock]

    # ── one look ────────────────────────────────────────────────────────────────────────────────

    def _judge_ports(self, look: Sight) -> None:
        """Every port of one ok look."""
        ports = self.ports[look.host_id]
        told_before = len(self._events)
        hidden = {number for number, port in ports.items() if self._is_hidden(look, number, port)}
        for number in sorted(hidden):
            self._hide(look, number, ports[number])
        moved_to = self._moves(look, hidden)
        for number in sorted((ports.keys() | look.seen.keys() | look.declared) - hidden):
            port = ports.get(number)
            if port is None:
                self._unknown(look, number, moved_to.get(number))
            else:
                self._known(look, number, port)
        self._count_the_rest(told_before, look)

    def _unknown(self, look: Sight, number: int, old: PortRow | None) -> None:
        """A port that is seen for the first time, or declared and not there.

        :param old: the port that moved to it
        """
        if look.first and old is None:
            return  # the next look of this boot judges it
        host = self.hosts[look.host_id]
        declared = number in look.declared
        if number not in look.seen:
            if look.confirmed:
                port = PortRow("down", look.at, declared=True, seen_clock=look.clock)
                self.ports[look.host_id][number] = port
                self._presence_changed(port, look, "down", number)
            return
        seen = look.seen[number]
        was_there = host.last_ok_at is None or look.learning or number in host.listening
        port = PortRow("up", look.at, at_baseline=was_there, declared=declared)
        self.ports[look.host_id][number] = port
        of_a_service = host.last_ok_at is None and bool(services(seen.units))
        waits = is_ephemeral(look, number, seen) and not (seen.listed or declared or of_a_service)
        if old is not None:
            port.first_seen = old.first_seen
        elif waits and self.settings.ephemeral_after > 1:
            port.status, port.streak, port.counted_at = "candidate", 1, look.at
        elif not was_there:
            self._tell_port(port, look.host_id, look.at, "new", number)
        take(port, seen, look)

    def _known(self, look: Sight, number: int, port: PortRow) -> None:
        """A port that is remembered and watched."""
        resumed = port.hidden_since is not None
        port.hidden_since, port.hidden_looks = None, 0
        if look.first:
            self._known_in_another_boot(look, number, port)
            return
        other_view = look.learning or look.other_rules or port.declared != (number in look.declared)
        port.declared = number in look.declared
        if number not in look.seen:
            self._known_and_missing(look, number, port, confirmed=look.confirmed or resumed or port.paused)
            return
        seen = look.seen[number]
        was_candidate = port.status == "candidate"
        self._hide_binds(look, number, port)
        if was_candidate:
            self._candidate_again(port, look, number)
        elif port.status == "up":
            self._up_again(port, look, number, seen, other_view=other_view)
        else:
            self._back(port, look, number, seen)
        if port.paused and not was_candidate:
            self._lost_again(port, look, number, seen)
        self._take_binds_and_owners(port, look, seen, was_candidate=was_candidate)

    def _known_in_another_boot(self, look: Sight, number: int, port: PortRow) -> None:
        """Only what is back is told; new ports, owners and binds are judged in the next look."""
        port.declared = number in look.declared
        if number in look.seen:
            if port.status == "down":
                self._up_from_down(port, look, number)
            if port.status == "up":
                port.misses, port.counted_at, port.grace_until = 0, None, None
            if not port.seen_once:  # nothing is known that the next look could be compared with
                take(port, look.seen[number], look)
            port.pids = look.seen[number].pids or port.pids
            port.inodes = look.seen[number].inodes or port.inodes
            port.seen_once, port.seen_clock = True, look.clock
        elif port.status == "candidate" and number not in look.declared:
            del self.ports[look.host_id][number]
        elif port.status == "up" and port.grace_until is None:
            port.grace_until = self.hosts[look.host_id].grace_until

    def _known_and_missing(self, look: Sight, number: int, port: PortRow, *, confirmed: bool) -> None:
        if port.status == "candidate":
            if number not in look.declared:
                del self.ports[look.host_id][number]
            elif confirmed:
                self._goes_down(port, look, number)
        elif not confirmed:
            pass
        elif port.status == "up":
            self._up_and_missing(port, look, number)
        else:
            self._down_and_missing(port, look, number)

    def _take_binds_and_owners(self, port: PortRow, look: Sight, seen: Seen, *, was_candidate: bool) -> None:
        before = port.addresses
        waits = (
            not was_candidate
            and not look.learning
            and self._addresses_compare(look)
            and self._waits_for_binds(port, look, seen)
        )
        take(port, seen, look)
        if waits:
            port.addresses = before

    def _count_the_rest(self, told_before: int, look: Sight) -> None:
        """Of more than 200 notices of one look those of the highest ports are one event."""
        notices = [event for event in self._events[told_before:] if event[1] in (*NOTICES, "moved") and not event[4]]
        if len(notices) <= 200:
            return
        for event in sorted(notices, key=lambda event: event[3] or 0)[200:]:
            self._events.remove(event)
            port = self.ports[look.host_id].get(event[3] or 0)
            if port is not None and event[1] not in NOTES:
                port.messages.remove(event[0])
        self._tell_host(look.host_id, look.at, "many_changes")

    def _tell_host(self, host_id: str, at: datetime, kind: str, extra: str = "") -> bool:
        raise NotImplementedError

    # ── what happens to one port ────────────────────────────────────────────────────────────────

    def _candidate_again(self, port: PortRow, look: Sight, number: int) -> None:
        if number not in look.declared:
            if self._counts(port.counted_at, look.at):
                port.streak += 1
                port.counted_at = look.at
            if port.streak < self.settings.ephemeral_after:
                return
        port.status, port.status_since = "up", look.at
        port.streak, port.counted_at = 0, None
        if not port.at_baseline:
            self._tell_port(port, look.host_id, look.at, "new", number)

    def _up_again(self, port: PortRow, look: Sight, number: int, seen: Seen, *, other_view: bool) -> None:
        port.misses, port.counted_at = 0, None
        if not port.presence.flapping and not other_view:
            if other_program(port, seen, look.tool):
                self._notice(port, look, "replaced", number)
            elif port.pids and seen.pids and not port.pids & seen.pids and port.grace_until is None:
                self._notice(port, look, "restarted", number)
        changed = False
        if look.learning:
            changed = self._learn_binds(port, look, number, seen)
        elif self._addresses_compare(look) and not self._waits_for_binds(port, look, seen):
            changed = self._compare_binds(port, look, number, seen, other_view=other_view)
        port.grace_until = None
        if port.lost and port.lost_since is None:
            port.lost_since = (look.at, look.clock)
        elif not port.lost:
            port.lost_since = None
        if not changed and not self._binds_are_given_up(port, look, number):
            self._may_be_stable(port, look, number)

    def _binds_are_given_up(self, port: PortRow, look: Sight, number: int) -> bool:
        """A person accepted that binds are lost, or they were for long, with evidence."""
        if not port.lost or port.lost_since is None or port.paused or port.lost_since[0] == look.at:
            return False
        accepted = self.accepted.get((look.host_id, "tcp", number))
        is_accepted = accepted is not None and port.lost_since[0] <= accepted <= look.at
        is_old = look.clock - port.lost_since[1] >= self.settings.retire_after and not self.jumped
        if not (is_accepted or is_old):
            return False
        port.lost, port.lost_since = frozenset(), None
        port.binds.forget()
        self._tell_port(port, look.host_id, look.at, "retired", number)
        return True

    def _learn_binds(self, port: PortRow, look: Sight, number: int, seen: Seen) -> bool:
        before = port.lost
        wildcards = {"0.0.0.0", "::"}
        if seen.addresses & wildcards:
            port.lost -= wildcards  # which may have been an older reader's name of those that are there
        port.addresses = frozenset()  # what is there now is all that is expected
        port.lost = still_lost(port, seen, look.tool)
        if before and not port.lost:
            self._binds_changed(port, look, "recovered", number)
            return True
        return False

    def _compare_binds(self, port: PortRow, look: Sight, number: int, seen: Seen, *, other_view: bool) -> bool:
        before = port.lost
        lost, gained = port.addresses - seen.addresses, seen.addresses - port.addresses
        after = still_lost(port, seen, look.tool)
        if after - before and not look.confirmed:
            return False  # one answer is no evidence of absence
        port.lost = after
        if after - before:
            self._binds_changed(port, look, "rebound", number, "severe")
            return True
        if before and not after:
            self._binds_changed(port, look, "recovered", number)
            return True
        silent = port.presence.flapping or port.binds.flapping or other_view or (port.paused and port.lost)
        if (lost or gained - before) and not silent:  # a loss that is told again says it all
            self._notice(port, look, "rebound", number)
        return False

    def _lost_again(self, port: PortRow, look: Sight, number: int, seen: Seen) -> None:
        """A loss whose alert was closed, and that still holds in a look that judges binds."""
        judged = self._addresses_compare(look) and not self._waits_for_binds(port, look, seen)
        if port.lost_hidden or not (judged or look.learning):
            return
        silent = port.alert or port.presence.flapping or port.binds.flapping or not port.lost
        port.paused = not silent and not self._tell_port(port, look.host_id, look.at, "rebound", number, "severe")

    def _up_and_missing(self, port: PortRow, look: Sight, number: int) -> None:
        if port.grace_until is not None:
            if look.at >= port.grace_until:
                self._goes_down(port, look, number)
        elif port.misses == 0 or self._counts(port.counted_at, look.at):
            port.misses += 1
            port.counted_at = look.at
            if port.misses >= self.settings.down_after:
                self._goes_down(port, look, number)

    def _goes_down(self, port: PortRow, look: Sight, number: int) -> None:
        port.status, port.status_since = "down", look.at
        port.streak, port.counted_at, port.grace_until = 0, None, None
        port.paused = False
        expect_all_binds(port)
        port.binds.forget()  # what is told of the port itself goes on instead
        self._presence_changed(port, look, "down", number)

    def _back(self, port: PortRow, look: Sight, number: int, seen: Seen) -> None:
        self._up_from_down(port, look, number)
        if look.learning or not self._addresses_compare(look) or self._waits_for_binds(port, look, seen):
            return
        lost = still_lost(port, seen, look.tool)  # of none, since all were expected
        if lost and look.confirmed:
            port.lost, port.lost_since = lost, (look.at, look.clock)
            self._binds_changed(port, look, "rebound", number, "severe")

    def _up_from_down(self, port: PortRow, look: Sight, number: int) -> None:
        port.status, port.status_since = "up", look.at
        port.misses, port.counted_at = 0, None
        port.paused = False
        self._presence_changed(port, look, "recovered", number)

    def _down_and_missing(self, port: PortRow, look: Sight, number: int) -> None:
        accepted = self.accepted.get((look.host_id, "tcp", number))
        is_accepted = accepted is not None and port.status_since <= accepted <= look.at
        is_old = look.clock - port.seen_clock >= self.settings.retire_after
        if is_old and self.jumped and not is_accepted:
            return  # the next run says
        if is_accepted or is_old:
            if port.alert:
                self._tell_port(port, look.host_id, look.at, "retired", number)
            if number in look.declared:
                port.pause()
            else:
                del self.ports[look.host_id][number]
        elif port.paused:
            port.paused = not self._tell_port(port, look.host_id, look.at, "down", number)
        else:
            self._may_be_stable(port, look, number)

    def _counts(self, counted_at: datetime | None, at: datetime) -> bool:
        return counted_at is None or at - counted_at >= self.half

    # ── moved ───────────────────────────────────────────────────────────────────────────────────

    def _moves(self, look: Sight, hidden: set[int]) -> dict[int, PortRow]:
        """The ports that others moved to, each with the row of the old one, which is forgotten."""
        ports = self.ports[look.host_id]
        if not look.confirmed:
            return {}
        gone = {
            number: port
            for number, port in ports.items()
            if number not in hidden and self._is_gone(look, number, port) and not FORWARDERS & all_names(port)
        }
        came = {
            number: seen
            for number, seen in look.seen.items()
            if number not in ports
            and number not in look.declared
            and is_ephemeral(look, number, seen)
            and not FORWARDERS & all_names(seen)
        }
        moved_to: dict[int, PortRow] = {}
        for olds, news in self._groups(look, gone, came):
            if len(olds) != len(news):
                continue  # which of them moved, if any did, is not known
            for old, new in zip(sorted(olds), sorted(news), strict=True):
                if ports[old].status == "candidate":
                    continue  # it goes on as another candidate
                port = moved_to[new] = ports.pop(old)
                self._tell_port(port, look.host_id, look.at, "retired" if port.alert else "moved", old)
        return moved_to

    def _is_gone(self, look: Sight, number: int, port: PortRow) -> bool:
        """Whether it is a learned ephemeral port, or a candidate, that vanished in this look or since a recent boot."""
        host = self.hosts[look.host_id]
        never = number in look.seen or number in look.declared or port.hidden_since is not None
        if never or not is_ephemeral(look, number, port):
            return False
        if port.status != "down" and number in host.shown:
            return True
        waits = port.status == "down" or (port.status == "up" and port.grace_until is not None)
        return waits and number in host.late and self._is_first_hour(look)

    def _is_first_hour(self, look: Sight) -> bool:
        """Of a boot, as far as the state from before it is kept."""
        kept = self.hosts[look.host_id].kept
        return look.first or (kept is not None and look.clock - kept.since < HOUR)

    def _groups(
        self, look: Sight, gone: Mapping[int, PortRow], came: Mapping[int, Seen]
    ) -> list[tuple[list[int], list[int]]]:
        """Of each owner, family and reach: the ports that are gone, and those that came."""
        everything = [*gone.values(), *came.values()]
        by_comm = all(one.comms for one in everything if one.comms or one.programs)
        ids = self._new_container_ids(look)
        found: dict[Any, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for number, port in gone.items():
            names = port.comms if by_comm else titles(port) if port.tool == look.tool else frozenset()
            units = frozenset(ids.get(unit, unit) for unit in port.units)
            owner = self._owner(look, port, units, names)
            if owner is not None:
                found[owner, reaches(port.addresses | port.lost)][0].append(number)
        for number, seen in came.items():
            owner = self._owner(look, seen, seen.units, seen.comms if by_comm else titles(seen))
            if owner is not None:
                found[owner, reaches(seen.addresses)][1].append(number)
        return list(found.values())

    def _owner(self, look: Sight, one: PortRow | Seen, units: frozenset[str], names: frozenset[str]) -> Any:
        """What two ports of one owner have in common; None if that can't be known."""
        if names:
            return services(units) | containers(units), names
        if self._is_first_hour(look) and not (one.units or all_names(one)):
            return one.uids
        return None

    def _new_container_ids(self, look: Sight) -> dict[str, str]:
        """By the id of a container that is no more: that of the one whose other ports are shown in its place."""
        new: dict[str, set[str]] = defaultdict(set)
        for number, port in self.ports[look.host_id].items():
            if number in look.seen and len(port.units) == len(look.seen[number].units) == 1:
                (before,), (now,) = port.units, look.seen[number].units
                if containers({before}) and containers({now}) and before not in look.units:
                    new[before].add(now)
        return {before: ids.pop() for before, ids in new.items() if len(ids) == 1}

    # ── hidden ──────────────────────────────────────────────────────────────────────────────────

    def _is_hidden(self, look: Sight, number: int, port: PortRow) -> bool:
        """By what is known of a port that no watched listener has now."""
        if number in look.seen or number in look.declared:
            return False
        known = port.addresses | port.lost | frozenset(port.unwatched)
        return not self._watched_still(look.host_id, number, port, known)

    def _hide(self, look: Sight, number: int, port: PortRow) -> None:
        if port.status == "candidate":
            del self.ports[look.host_id][number]
            return
        if port.hidden_since is None:
            port.hidden_since, port.hidden_looks = look.at, 1
            return
        port.hidden_looks += 1
        if look.first or port.hidden_looks < 2:
            return
        if port.alert:
            self._tell_port(port, look.host_id, look.at, "unwatched", number)
            port.pause()
        elif look.at - port.hidden_since >= self.prune_after and not self.jumped:
            del self.ports[look.host_id][number]

    def _hide_binds(self, look: Sight, number: int, port: PortRow) -> None:
        """Binds that a rule hides are neither judged nor forgotten."""
        known = port.addresses | port.lost | frozenset(port.unwatched)
        watched = known
        if number not in look.declared:
            shown = look.seen[number].addresses  # watched, whatever the rules say of the owners before
            watched = shown | self._watched_still(look.host_id, number, port, known)
        port.addresses |= frozenset(port.unwatched) & watched
        kept = {
            address: since
            for address, since in port.unwatched.items()
            if address not in watched and (self.jumped or look.at - since < self.prune_after)
        }
        # What was watched only because its owner did not show is no address that a rule hides.
        hides = port.addresses - watched if look.other_rules else ()
        port.unwatched = dict.fromkeys(hides, look.at) | kept
        port.addresses &= watched
        hidden = port.lost - watched
        port.lost_hidden = port.lost_hidden + 1 if hidden else 0
        if port.lost_hidden >= 2:
            port.lost -= hidden
            port.unwatched |= dict.fromkeys(hidden, look.at)
            port.lost_hidden = 0
            if not port.lost and port.alert and port.status == "up" and not port.presence.flapping:
                self._tell_port(port, look.host_id, look.at, "unwatched", number)
                port.binds.forget()

    def _watched_still(self, host_id: str, number: int, port: PortRow, addresses: frozenset[str]) -> frozenset[str]:
        """Those addresses that the rules in force watch."""
        rules = self.rules.for_host(self.inventory[host_id])
        return frozenset(
            address
            for address in addresses
            if any(rules.evaluate(Subject(number, address, one)).watched for one in owner_names(port))
        )

    # ── what a look shows ───────────────────────────────────────────────────────────────────────

    def _watched_ports(self, host_id: str, look: Listing) -> dict[int, Seen]:
        """Watched listeners, by port."""
        found: dict[int, Seen] = {}
        for number in sorted({listener.port for listener in look.listeners}):
            here = [listener for listener in look.listeners if listener.port == number]
            decisions = [self._watched(host_id, listener) for listener in here]
            listeners = [one for one, (watched, _) in zip(here, decisions, strict=True) if watched]
            if listeners:
                found[number] = seen_of(listeners, listed=any(named for _, named in decisions))
        return found

    def _watched(self, host_id: str, listener: Listener) -> tuple[bool, bool]:
        """Whether a listener is watched, and whether an allow rule named its port or program."""
        known = self.ports[host_id].get(listener.port)
        shown = {name for name in (listener.program, listener.comm) if name is not None}
        if known is not None and listener.comm in known.comms:
            shown |= known.programs
        programs = [tuple(shown)]
        if not shown and known is not None:
            programs = owner_names(known)
        watched, named = listener.port in self.inventory[host_id].declared, False
        rules = self.rules.for_host(self.inventory[host_id])
        for program in programs:
            decision = rules.evaluate(Subject(listener.port, listener.address, program))
            if decision.watched:
                watched = True
                allowed_by = dict(rules.rules).get(decision.rule) if decision.rule is not None else None
                named = named or bool(allowed_by and (allowed_by.port or allowed_by.program))
        return watched, named

    def _rules_of(self, host_id: str) -> list[Any]:
        rules = self.rules.for_host(self.inventory[host_id]).rules
        return [rule.model_copy(update={"comment": ""}) for _, rule in rules]

    # ── addresses ───────────────────────────────────────────────────────────────────────────────

    def _addresses_compare(self, look: Sight) -> bool:
        """Plain netstat cuts long addresses."""
        before = self.hosts[look.host_id].tool
        return before is None or before == look.tool or "netstat" not in (before, look.tool)

    def _waits_for_binds(self, port: PortRow, look: Sight, seen: Seen) -> bool:
        """Within the grace after a reboot a bind that is missing is not lost yet; nor is it after one answer alone."""
        grace = self.hosts[look.host_id].grace_until
        missing = bool(still_lost(port, seen, look.tool) - port.lost)
        return missing and ((grace is not None and look.at < grace) or not look.confirmed)


def up_or_down(port: PortRow) -> str:
    """A port that still listens but lost an address counts as down: clients of that address can't reach it."""
    return "down" if port.status == "down" or port.lost else "up"


def is_ephemeral(look: Sight, number: int, one: PortRow | Seen) -> bool:
    """Whether a port has a number that the kernel hands out by itself."""
    if number in OF_RPC and any(name.startswith("rpc.") for name in one.comms | one.programs):
        return True
    low, high = look.ephemeral
    if high - low + 1 > HALF_OF_ALL_PORTS:
        low = max(low, HALF_OF_ALL_PORTS)
    return low <= number <= high and not any(first <= number <= last for first, last in look.reserved)


def services(units: frozenset[str]) -> frozenset[str]:
    """The names of services and sockets, of a template without its instance."""
    own = {unit for unit in units if unit.endswith((".service", ".socket")) and not unit.startswith(("run-", "dbus-"))}
    return frozenset(re.sub("@.*(?=[.])", "@", unit) for unit in own)


def containers(units: frozenset[str] | set[str]) -> frozenset[str]:
    return frozenset(unit for unit in units if ":" in unit and not unit.endswith((".service", ".socket", ".scope")))


def titles(one: PortRow | Seen) -> frozenset[str]:
    return frozenset(program_of(name) for name in one.programs)


def all_names(one: PortRow | Seen) -> frozenset[str]:
    return one.comms | one.programs | titles(one)


def reaches(addresses: frozenset[str]) -> frozenset[tuple[bool, str]]:
    """Of bind addresses: whether each is of IPv6, and whether it is loopback, wildcard or another one."""
    return frozenset((":" in address, bind_scopes(address)[0]) for address in addresses)


def owner_names(port: PortRow) -> list[tuple[str, ...]]:
    """The names by which rules know each program of a port."""
    return [(name, *port.comms) for name in port.programs] or [(name,) for name in port.comms] or [()]


def seen_of(listeners: list[Listener], *, listed: bool) -> Seen:
    return Seen(
        addresses=frozenset(one.address for one in listeners),
        programs=frozenset(one.program for one in listeners if one.program is not None),
        pids=frozenset(one.pid for one in listeners if one.pid is not None),
        inodes=frozenset(one.inode for one in listeners if one.inode is not None),
        uids=frozenset(one.uid for one in listeners if one.uid is not None),
        units=frozenset(one.unit for one in listeners if one.unit is not None),
        comms=frozenset(one.comm for one in listeners if one.comm is not None),
        listed=listed,
    )


def take(port: PortRow, seen: Seen, look: Sight) -> None:
    """What is not shown now stays as it was known."""
    port.seen_once, port.seen_clock = True, look.clock
    port.first_seen = port.first_seen or look.at
    if seen.programs or not port.programs:
        port.tool = look.tool
    port.addresses = seen.addresses
    names_of_the_kernel_alone = bool(seen.comms) and seen.programs == seen.comms == port.comms
    if not (port.programs and names_of_the_kernel_alone):
        port.programs = seen.programs or port.programs
    port.pids = seen.pids or port.pids
    port.inodes = seen.inodes or port.inodes
    port.uids = seen.uids or port.uids
    port.units = seen.units or port.units
    port.comms = seen.comms or port.comms


def other_program(port: PortRow, seen: Seen, tool: str) -> bool:
    if port.comms and seen.comms:
        return bool(seen.comms - port.comms and port.comms - seen.comms)
    if port.tool != tool or not port.programs or not seen.programs:
        return False
    return bool(seen.programs - port.programs and port.programs - seen.programs)


def expect_all_binds(port: PortRow) -> None:
    """A bind that does not come back with the others is lost anew, and told."""
    port.addresses |= port.lost
    port.lost = frozenset()


def still_lost(port: PortRow, seen: Seen, tool: str) -> frozenset[str]:
    lost = {address for address in port.addresses - seen.addresses if not ipaddress.ip_address(address).is_loopback}
    wildcard = {4: "0.0.0.0", 6: "::"}
    missing = {
        address
        for address in port.lost | lost
        if address not in seen.addresses and wildcard[ipaddress.ip_address(address).version] not in seen.addresses
    }
    if other_program(port, seen, tool):
        return frozenset(missing)
    gained = seen.addresses - port.addresses - port.lost
    for reach in ("wildcard", "other"):
        fresh, instead = of_reach(missing - port.lost, reach), of_reach(gained, reach)
        if len(fresh) <= len(instead):
            missing -= fresh  # the same service listens on others of the kind
    return frozenset(missing)


def of_reach(addresses: Set[str], reach: str) -> frozenset[str]:
    return frozenset(address for address in addresses if bind_scopes(address)[0] == reach)
