"""From listeners to watched ports: apply the rules, then fold listeners into one row per port."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from portmon.engine.declared import Declared
from portmon.engine.owners import PortOwner, name_of, without_first_process
from portmon.engine.rules import Decision, HostRules, Subject
from portmon.engine.state import Port, is_ephemeral
from portmon.model import limits
from portmon.model.numbers import UDP, number_of, port_of, protocol_of
from portmon.model.observation import Listener, Listing, Observation
from portmon.scan.answer import bind_of

SETS = ("addresses", "programs", "pids", "uids", "units", "comms", "inodes")
"""Attributes of a port that are sorted tuples of what its listeners show."""
SeenPort = tuple[Any, ...]
"""Host id, protocol, port, the values of SETS, the tool, whether an allow rule names the port or its
program, how many owners or binds are left out, its watched listeners, and those that rules exclude."""
Values = Mapping[tuple[str, int], Mapping[str, tuple[Any, ...]]]
"""Host id and number of a port to the stored values of SETS."""


class KnownOwner(NamedTuple):
    """The last known owners of a port; ``comms`` are the kernel's names of the programs.

    :param addresses: on which it listens, or did
    :param is_watched: it is no candidate, and nothing hides it
    :param is_declared: so that no rule was asked
    :param owners: as they are stored, if there are several
    """

    programs: tuple[str, ...] = ()
    comms: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    is_watched: bool = False
    is_declared: bool = False
    owners: tuple[PortOwner, ...] = ()

    def each(self) -> list[KnownOwner]:
        """Each of several owners by its own names: without those that only the others have."""
        own = [one for one in self.owners if one.gone_since is None and _of_one(self.programs + self.comms, one, ())]
        if len(own) < 2:
            return [self]
        return [
            KnownOwner(
                _of_one(self.programs, one, own),
                _of_one(self.comms, one, own),
                tuple(unit for unit in self.units if name_of(unit) == one.unit),
            )
            for one in own
        ]


def _of_one(names: Sequence[str], one: PortOwner, owners: Sequence[PortOwner]) -> tuple[str, ...]:
    """Of some names those of one owner, and those of none of the others."""
    others = {name for other in owners for name in (*other.programs, *other.comms)}
    own = {*one.programs, *one.comms}
    return tuple(name for name in names if name in own or (owners and name not in others))


UNKNOWN = KnownOwner()


def fold(
    observations: Sequence[Observation],
    rules: Mapping[str, HostRules],
    declared: Declared,
    owners: Mapping[tuple[str, int], KnownOwner],
    stored: Callable[[], Values],
    other_rules: Collection[str] = (),
    learned: Mapping[str, Collection[int]] | None = None,
) -> list[SeenPort]:
    """The watched listeners of some hosts, one row per port.

    A listener without a program is matched by the last known programs of its port, and one whose kernel's name is known
    there by all names known there. So neither a missing name nor another tool changes which ports are watched. Nor does
    another owner: a port that is watched is seen, whichever program has it now.

    :param owners: last known owners of ports, by host id and number
    :param learned: host id to the numbers of its UDP ports that are known
    :param other_rules: ids of hosts whose rules changed
    :param stored: what is stored of ports, asked for when a port has too many owners or binds: stored ones are kept
    """
    rows: list[SeenPort] = []
    for observation in observations:
        seen = observation.shows
        own, must = rules[observation.host_id], declared.get(observation.host_id, {})
        by_port: dict[int, list[Listener]] = defaultdict(list)
        excluded: dict[int, list[Listener]] = {}
        listed: set[int] = set()
        known_udp = {*must, *(learned or {}).get(observation.host_id, ())} if own.udp else None
        shown, beyond = _watchable(seen, known_udp)
        for listener in shown:
            if listener.pid == 1:
                listener = without_first_process(listener, seen.tool)
            port = listener.number
            if not own.watches_all and port not in must:
                known_owner = owners.get((observation.host_id, port), UNKNOWN)
                decisions = [own.evaluate(subject) for subject in subjects_of(listener, known_owner)]
                if not any(decision.watched for decision in decisions):
                    excluded.setdefault(port, []).append(listener)
                    continue
                if any(decision.watched and decision.names_it for decision in decisions):
                    listed.add(port)
            by_port[port].append(listener)
        for port in excluded.keys() - by_port.keys():
            known_owner = owners.get((observation.host_id, port), UNKNOWN)
            if _goes_on(port, known_owner, own, other_rules=observation.host_id in other_rules):
                by_port[port] = []
        for port, ours in by_port.items():
            others = excluded.get(port)
            listeners = ours or others or ours
            if len(listeners) == 1:
                # Most ports have one listener, and a large fleet has millions of ports.
                kept: list[tuple[Any, ...]] = [() if value is None else (value,) for value in _values(listeners[0])]
                more = listeners[0].more_owners
            else:
                columns = zip(*map(_values, listeners), strict=True)
                kept, more = _few(columns, (observation.host_id, port), stored)
                more = max(more, beyond.get(port, 0), *(one.more_owners for one in listeners))
            key = (observation.host_id, protocol_of(port), port_of(port))
            rows.append((*key, *kept, seen.tool, port in listed, more, ours, others))
    return rows


def _watchable(seen: Listing, known_udp: Collection[int] | None) -> tuple[Sequence[Listener], dict[int, int]]:
    """The sockets that rules are asked about, and of ports with too many sockets how many are left out.

    :param known_udp: numbers of UDP ports that are known or declared; None where UDP is not watched
    """
    beyond = dict(seen.beyond)
    if known_udp is None or seen.udp is None:
        return seen.listeners, beyond
    beyond |= {number_of(UDP, port): count for port, count in seen.udp_beyond}
    return (*seen.listeners, *_learnable(seen, known_udp)), beyond


def _learnable(seen: Listing, known: Collection[int]) -> list[Listener]:
    """UDP sockets without those that are on a random port, as clients are, unless it is known or declared."""
    return [
        one
        for one in seen.udp or ()
        if one.number in known
        or not is_ephemeral(one.number, (one.program or "", one.comm or ""), seen.ephemeral, seen.reserved)
    ]


def _goes_on(port: int, known: KnownOwner, rules: HostRules, *, other_rules: bool) -> bool:
    """Whether a port is watched, whichever program has it: it was, and only changed rules or a changed CMDB hide it."""
    if not known.is_watched:
        return False
    if not (other_rules or known.is_declared):
        return True
    subjects = (one for address in known.addresses for one in _of_owner(port, address, known))
    return any(rules.evaluate(subject).watched for subject in subjects)


def _values(one: Listener) -> tuple[Any, ...]:
    """What a listener shows of SETS."""
    within = limits.name_within
    names = [name and within(name) for name in (one.program, one.unit, one.comm)]
    return (within(bind_of(one)), names[0], one.pid, one.uid, names[1], names[2], one.inode)


def subjects_of(listener: Listener, known: KnownOwner = UNKNOWN) -> list[Subject]:
    """A listener as rules match it, one subject for each program that it may be."""
    units = known.units if listener.unit is None else (listener.unit,)
    if listener.program is None and listener.comm is None:
        subjects = _of_owner(listener.number, listener.address, known)
        return subjects if listener.unit is None else [one._replace(units=units) for one in subjects]
    shown = [name for name in (listener.program, listener.comm) if name is not None]
    shown += (name for one in known.each() if listener.comm in one.comms for name in one.programs)
    return [Subject(listener.number, listener.address, tuple(shown), units)]


def _of_owner(port: int, address: str, known: KnownOwner) -> list[Subject]:
    """One subject for each program of a port, with all of the kernel's names of its owner: its own is not known."""
    return [
        Subject(port, address, programs, owner.units)
        for owner in known.each()
        for programs in [(program, *owner.comms) for program in owner.programs]
        or [(comm,) for comm in owner.comms]
        or [()]
    ]


def _few(
    columns: Iterable[Sequence[Any]], key: tuple[str, int], stored: Callable[[], Values]
) -> tuple[list[tuple[Any, ...]], int]:
    kept, more = [], 0
    for name, values in zip(SETS, columns, strict=True):
        shown = {value for value in values if value is not None}
        known = stored().get(key, {}).get(name, ()) if len(shown) > limits.OWNERS else ()
        few, left = limits.few_of(shown, known)
        kept.append(few)
        more = max(more, left)
    return kept, more


def decisions_on(port: Port, addresses: Iterable[str], rules: HostRules) -> Iterator[Decision]:
    """The decisions of the rules in force on a port, address by address, by its last known programs."""
    owner = KnownOwner(port.programs, port.comms, port.units, owners=port.owners)
    for address in addresses:
        for subject in _of_owner(port.number, address, owner):
            yield rules.evaluate(subject)


def deciding(port: Port, addresses: Iterable[str], rules: HostRules) -> Decision | None:
    """Of the rules in force that watch a port on these addresses, the first of the list: its terms are the port's."""
    watched = (decision for decision in decisions_on(port, addresses, rules) if decision.watched)
    return min(watched, key=lambda decision: inf if decision.rule is None else decision.rule, default=None)


def any_watched(port: Port, addresses: Iterable[str], rules: HostRules) -> bool:
    """Whether the rules in force watch a port on at least one of these addresses."""
    return rules.watches_all or any(decision.watched for decision in decisions_on(port, addresses, rules))


def why_watched(port: Port, rules: HostRules) -> str:
    """The declaration or rule because of which a port is watched, for people."""
    found = deciding(port, port.addresses, rules)
    return port.declared or (found.reason if found else "no rule matches it")
