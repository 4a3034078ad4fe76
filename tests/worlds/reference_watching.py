"""Which ports are watched, and what becomes of those that rules hide, by the naive implementation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from portmon.engine.rules import RuleSet, Subject
from portmon.model.host import Host
from portmon.model.observation import Listener, Listing
from tests.worlds.reference_looks import (
    UDP,
    Seen,
    Sight,
    is_random,
    names_by_owner,
    names_of,
    number_of,
    owner_names,
    seen_of,
)
from tests.worlds.reference_owners import Owner, view_of
from tests.worlds.reference_rows import HostRow, PortRow, Terms


class Watching:
    """What rules say of the ports of a host."""

    hosts: dict[str, HostRow]
    ports: dict[str, dict[int, PortRow]]
    inventory: Mapping[str, Host]
    rules: RuleSet
    given: Mapping[str, Mapping[int, Terms]]
    prune_after: timedelta
    jumped: bool

    def _tell_port(self, port: PortRow, host_id: str, at: datetime, kind: str, number: int, extra: str = "") -> bool:
        raise NotImplementedError

    # ── hidden ──────────────────────────────────────────────────────────────────────────────────

    def _is_hidden(self, look: Sight, number: int, port: PortRow) -> bool:
        """By what is known of a port that no watched listener has now. Only what changed in the CMDB or rules hides."""
        if number >= UDP and not look.udp:
            return not self._watches_udp(look.host_id)
        if number in look.seen or number in look.declared:
            return False
        if port.hidden_since is None and not look.other_rules and not port.declared:
            return False
        known = port.addresses | port.lost | frozenset(port.unwatched)
        return not self._watched_still(look.host_id, number, port, known)

    def _watches_udp(self, host_id: str) -> bool:
        return self.rules.for_host(self.inventory[host_id]).udp

    def _sockets(self, host_id: str, look: Listing) -> list[Listener]:
        """All that a look shows of the protocols that are watched, without random ports of UDP, as clients have them."""
        host, known = self.inventory[host_id], self.ports[host_id]
        udp = [
            one
            for one in look.udp or ()
            if number_of(one) in known
            or number_of(one) in host.declared
            or not is_random(number_of(one), names_of(one), look.ephemeral, look.reserved)
        ]
        return [*look.listeners, *(udp if self._watches_udp(host_id) else ())]

    def _hide(self, look: Sight, number: int, port: PortRow) -> None:
        if port.status == "candidate":
            del self.ports[look.host_id][number]
            return
        there = number in look.listening and not (
            look.first or port.status == "down" or port.misses or port.grace_until
        )
        port.hidden_there = there and (port.hidden_there or port.hidden_since is None)
        if port.hidden_there:
            port.seen_clock = look.clock
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

    def _hide_binds(self, look: Sight, number: int, port: PortRow, *, changed: bool) -> None:
        """Binds that a changed rule hides are neither judged nor forgotten.

        :param changed: rules did, or its declaration ended, or it was hidden until now
        """
        known = port.addresses | port.lost | frozenset(port.unwatched)
        watched = known
        if number not in look.declared:
            shown = look.seen[number].addresses  # watched, whatever the rules say of the owners before
            evaluated = known
            if not (changed or port.lost_hidden):
                evaluated = frozenset(port.unwatched)
            watched = (known - evaluated) | shown | self._watched_still(look.host_id, number, port, evaluated)
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
            for address in hidden:
                port.parts.pop(("bind", address), None)
            flaps = port.presence.flapping or port.a_part_flaps
            if not port.lost and port.alert and port.status == "up" and not (flaps or port.gone):
                self._tell_port(port, look.host_id, look.at, "unwatched", number)

    def _watched_still(self, host_id: str, number: int, port: PortRow, addresses: frozenset[str]) -> frozenset[str]:
        """Those addresses that the rules in force watch."""
        rules = self.rules.for_host(self.inventory[host_id])
        return frozenset(
            address
            for address in addresses
            if any(rules.evaluate(Subject(number, address, one)).watched for one in owner_names(port))
        )

    def _is_owner_watched(self, host_id: str, number: int, port: PortRow, owner: Owner) -> bool:
        """Whether the rules in force watch a socket of an owner, by its last known names and addresses."""
        rules = self.rules.for_host(self.inventory[host_id])
        names = tuple(sorted(owner.comms | owner.programs))
        all_names = [names] if names else owner_names(port)
        return any(
            rules.evaluate(Subject(number, address, one)).watched for address in owner.addresses for one in all_names
        )

    def _terms(self, host_id: str, number: int, port: PortRow) -> Terms | None:
        """What the first rule gives that allows a port. None allows a declared one: its declaration does."""
        if number in self.inventory[host_id].declared:
            return self.given.get(host_id, {}).get(number)
        rules = self.rules.for_host(self.inventory[host_id])
        decisions = [
            rules.evaluate(Subject(number, address, one))
            for address in port.addresses | port.lost
            for one in owner_names(port)
        ]
        allowed_by = {one.rule for one in decisions if one.watched}
        return next((rule for place, rule in rules.rules if place in allowed_by), None)

    # ── what a look shows ───────────────────────────────────────────────────────────────────────

    def _watched_ports(
        self, host_id: str, look: Listing, *, other_rules: bool
    ) -> tuple[dict[int, Seen], frozenset[int]]:
        """Watched listeners, by port; and the ports that are excluded because of the names that they show."""
        host = self.hosts[host_id]
        found: dict[int, Seen] = {}
        denied: set[int] = set()
        sockets = self._sockets(host_id, look)
        for number in sorted({number_of(one) for one in sockets}):
            here = [one for one in sockets if number_of(one) == number]
            decisions = [self._watched(host_id, listener, other_rules=other_rules) for listener in here]
            watched = [is_watched for is_watched, _ in decisions]
            listeners = [one for one, is_watched in zip(here, watched, strict=True) if is_watched]
            if not listeners and self._counts_others(host_id, number, other_rules=other_rules):
                listeners = here
            if listeners:
                view = view_of(here, tool=look.tool, boot=host.boot, many=host.many, watched=watched)
                found[number] = seen_of(listeners, view, listed=any(named for _, named in decisions))
                found[number].excluded = frozenset(one.address for one in here) - found[number].addresses
            elif any(self._is_denied_by_name(host_id, one) for one in here):
                denied.add(number)
        return found, frozenset(denied)

    def _is_listed(self, look: Sight, number: int, port: PortRow) -> bool:
        """Whether an allow rule names what is known of a port that is not seen."""
        rules = self.rules.for_host(self.inventory[look.host_id])
        decisions = (
            rules.evaluate(Subject(number, address, names))
            for address in port.addresses | port.lost
            for names in owner_names(port)
        )
        return any(decision.watched and decision.names_it for decision in decisions)

    def _counts_others(self, host_id: str, number: int, *, other_rules: bool) -> bool:
        """Whether listeners that rules exclude are other owners or binds of a port, since it is watched."""
        port = self.ports[host_id].get(number)
        if port is None or port.status == "candidate" or port.hidden_since is not None or not port.owners:
            return False
        known = port.addresses | port.lost | frozenset(port.unwatched)
        changed = other_rules or port.declared  # a declared one's listeners are not excluded as long as it is declared
        return not changed or bool(self._watched_still(host_id, number, port, known))

    def _is_denied_by_name(self, host_id: str, listener: Listener) -> bool:
        rules = self.rules.for_host(self.inventory[host_id])
        return bool(names_of(listener)) and rules.evaluate(Subject(number_of(listener), listener.address)).watched

    def _watched(self, host_id: str, listener: Listener, *, other_rules: bool) -> tuple[bool, bool]:
        """Whether a listener is watched, and whether an allow rule named its port or program."""
        known = self.ports[host_id].get(number_of(listener))
        shown = names_of(listener)
        for its_programs, comms in names_by_owner(known) if known is not None else ():
            shown |= its_programs if listener.comm in comms else set()
        programs, rules = [tuple(shown)], self.rules.for_host(self.inventory[host_id])
        watched, named = number_of(listener) in self.inventory[host_id].declared, False
        if not shown and known is not None:
            programs = owner_names(known)
        elif not shown and rules.rules and number_of(listener) in self.hosts[host_id].listening and not other_rules:
            return watched, False  # it was excluded, and nothing says that it should not be
        for program in programs:
            decision = rules.evaluate(Subject(number_of(listener), listener.address, program))
            if decision.watched:
                watched = True
                allowed_by = dict(rules.rules).get(decision.rule) if decision.rule is not None else None
                named = named or bool(allowed_by and (allowed_by.port or allowed_by.program))
        return watched, named

    def _rules_of(self, host_id: str) -> list[Any]:
        rules = self.rules.for_host(self.inventory[host_id]).rules
        return [rule.model_copy(update={"comment": ""}) for _, rule in rules]
