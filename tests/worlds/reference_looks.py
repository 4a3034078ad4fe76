"""What the naive implementation sees: one ok look at one host, port by port."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from portmon.matching import bind_scopes
from portmon.model.observation import Listener
from portmon.probe.compare import program_of
from tests.worlds.reference_owners import View
from tests.worlds.reference_rows import PortRow

HALF_OF_ALL_PORTS = 32768
"""Numbers, and the lowest one that counts as ephemeral where the range spans more numbers than that."""
UDP = 65536
"""The number of a UDP port is this much higher than the port."""
OF_RPC = range(512, 1024)
"""Where programs of RPC take any free port that only root may bind."""


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
    view: View
    """Of its owners."""
    excluded: frozenset[str] = frozenset()
    """Addresses of which it shows only listeners that rules exclude."""


@dataclass
class Sight:
    """One ok look at one host, while its row is still as it was before, but for its evidence clock.

    :param first: of another boot
    :param learning: another version of probe or reader than before
    :param other_rules: than in the ok look before
    :param boot: its number
    :param waits: the host, or the port that is looked at, is in its grace after a reboot
    :param many: units that hold many programs
    """

    host_id: str
    at: datetime
    clock: timedelta
    tool: str
    confirmed: bool
    first: bool
    learning: bool
    other_rules: bool
    boot: int
    waits: bool
    many: frozenset[str]
    declared: frozenset[int]
    ephemeral: tuple[int, int]
    reserved: tuple[tuple[int, int], ...]
    units: frozenset[str]
    """Of all listeners, before any rule."""
    seen: dict[int, Seen]
    denied: frozenset[int]
    """Ports of which it shows only listeners that are excluded because of their names."""
    udp: bool
    """It shows UDP, which is watched."""
    udp_begins: bool
    """It is the first one that does."""
    must_have: Mapping[int, str]
    """Of declared ports that a certain owner must have: its unit or program."""
    listening: frozenset[int]
    """Ports of all listeners, before any rule."""


def is_ephemeral(look: Sight, number: int, one: PortRow | Seen) -> bool:
    """Whether a port has a number that the kernel hands out by itself."""
    return is_random(number, one.comms | one.programs, look.ephemeral, look.reserved)


def is_random(number: int, names: Set[str], ephemeral: tuple[int, int], reserved: Iterable[tuple[int, int]]) -> bool:
    """The same of a port whose programs have these names."""
    of_udp, port = number >= UDP, number % UDP
    if port in OF_RPC and any(name.startswith("rpc.") or (of_udp and name.startswith("rpcbind")) for name in names):
        return True
    low, high = ephemeral
    if high - low + 1 > HALF_OF_ALL_PORTS:
        low = max(low, HALF_OF_ALL_PORTS)
    return low <= port <= high and not any(first <= port <= last for first, last in reserved)


def number_of(listener: Listener) -> int:
    """The number of the port of a listener."""
    return listener.port + (UDP if listener.protocol in ("udp", "udp6") else 0)


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
    found = []
    for programs, comms in names_by_owner(port):
        found += [(name, *comms) for name in programs] or [(name,) for name in comms] or [()]
    return found


def names_by_owner(port: PortRow) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Programs and the kernel's names of each owner that is there; what none of them has may be of each."""
    known = port.programs | port.comms
    there = [one for one in port.owners if one.gone_since is None and (one.programs | one.comms) & known]
    if len(there) < 2:
        return [(port.programs, port.comms)]
    names = [one.programs | one.comms for one in there]
    others = [frozenset().union(*names) - own for own in names]
    return [(port.programs - other, port.comms - other) for other in others]


def names_of(listener: Listener) -> set[str]:
    """The names by which rules know a listener."""
    return {name for name in (listener.program, listener.comm) if name is not None}


def seen_of(listeners: Iterable[Listener], view: View, *, listed: bool) -> Seen:
    """What listeners show together."""
    rows = list(listeners)
    return Seen(
        addresses=frozenset(one.address for one in rows),
        programs=frozenset(one.program for one in rows if one.program is not None),
        pids=frozenset(one.pid for one in rows if one.pid is not None),
        inodes=frozenset(one.inode for one in rows if one.inode is not None),
        uids=frozenset(one.uid for one in rows if one.uid is not None),
        units=frozenset(one.unit for one in rows if one.unit is not None),
        comms=frozenset(one.comm for one in rows if one.comm is not None),
        listed=listed,
        view=view,
    )
