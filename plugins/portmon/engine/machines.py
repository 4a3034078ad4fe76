"""Who answered: the identity of a machine, and whose answer an answer is. Pure.

A boot id is the kernel's, so containers share it; the network namespace and the start of process 1 tell them apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from portmon.engine.state import HostState, Port
from portmon.model.observation import Listing

KEPT_SECONDS = 3600.0
KEPT_LOOKS = 12
"""The state from before a reboot is kept for the longer of an hour of evidence and so many ok observations."""


class Machine(NamedTuple):
    """What identifies a machine; None is what an answer does not show."""

    boot_id: str | None
    netns: int | None
    pid1_start: int | None


class Answerer(Enum):
    """Who gave an ok answer to a host."""

    ITSELF = "the host"
    REBOOTED = "the host, in another boot"
    BACK = "the host in the boot before: what answered since was another machine"
    FOREIGN = "another machine"


@dataclass(frozen=True, slots=True)
class AnsweredBy:
    """Whose answer it is.

    :param other: id of the entry whose machine answered, if that is known
    """

    who: Answerer
    other: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """State from before a reboot.

    :param clock: evidence clock at the first observation of the new boot
    """

    host: HostState
    ports: tuple[Port, ...]
    clock: float

    @property
    def shown(self) -> frozenset[int]:
        """Numbers of the ports of the last observation before it."""
        return frozenset(port.number for port in self.ports if port.last_seen_at is None)


def shown_by(listing: Listing) -> Machine:
    """The machine that an answer shows."""
    return Machine(listing.boot_id, listing.netns, listing.pid1_start)


def known_of(host: HostState) -> Machine:
    """The machine that a host was last."""
    return Machine(host.boot_id, host.netns, host.pid1_start)


def agree(one: Machine, other: Machine) -> bool:
    """Whether no part that both show differs."""
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def is_one(one: Machine, other: Machine) -> bool:
    """Whether two answers are of one machine."""
    common = any(a is not None and b is not None for a, b in zip(one[1:], other[1:], strict=True))
    return one.boot_id is not None and one.boot_id == other.boot_id and common and agree(one, other)


def changed(host: HostState, listing: Listing, ports: Iterable[Port]) -> bool:
    """Whether the answer is of another boot, or of a container after its reboot.

    :param ports: of the host, as its last ok observation showed them
    """
    known, shown = known_of(host), shown_by(listing)
    if known.boot_id is None or shown.boot_id is None or host.last_ok_at is None:
        return False
    if known.boot_id != shown.boot_id:
        return True
    if known.pid1_start is not None and shown.pid1_start is not None:
        return known.pid1_start != shown.pid1_start
    if known.netns is None or shown.netns is None or known.netns == shown.netns:
        return False
    there = [port for port in ports if port.last_seen_at is None]
    before = ({inode for port in there for inode in port.inodes}, {pid for port in there for pid in port.pids})
    now = (
        {one.inode for one in listing.sockets if one.inode is not None},
        {one.pid for one in listing.sockets if one.pid is not None},
    )
    comparable = any(old and new for old, new in zip(before, now, strict=True))
    return comparable and all(old.isdisjoint(new) for old, new in zip(before, now, strict=True))


def is_kept(host: HostState, clock: float) -> bool:
    """Whether the state from before the last reboot is still kept, given the evidence clock."""
    if host.kept is None:
        return False
    return clock - host.kept.clock < KEPT_SECONDS or (host.boot_looks or 0) < KEPT_LOOKS


def count_look(host: HostState) -> None:
    """Count an ok observation of a boot, and drop what is kept long enough."""
    if host.boot_looks is not None and host.boot_looks < KEPT_LOOKS:
        host.boot_looks += 1
    if host.kept is not None and not is_kept(host, host.evidence):
        host.kept = None


def answerer(host: HostState, shown: Machine, others: Mapping[str, Machine], *, clock: float) -> AnsweredBy:
    """Who gave an answer that is :func:`changed`.

    :param others: id of other entries: the machine that each is
    :param clock: evidence clock of the host at this answer
    """
    if host.shared:
        return AnsweredBy(Answerer.REBOOTED)
    if host.kept is not None and is_kept(host, clock):
        before = known_of(host.kept.host)
        if before.boot_id == shown.boot_id and agree(before, shown):
            return AnsweredBy(Answerer.BACK)
    other = next((other for other, machine in sorted(others.items()) if is_one(machine, shown)), None)
    return AnsweredBy(Answerer.REBOOTED) if other is None else AnsweredBy(Answerer.FOREIGN, other)


OF_BOOT = (
    *("status", "status_since", "failing_since", "presence", "evidence", "tried", "tried_at", "last_ok_at"),
    *(
        "boot_id",
        "netns",
        "pid1_start",
        "boot_looks",
        "booted_at",
        "many",
        "young",
        "kept",
        "grace_until",
        "ephemeral_low",
        "ephemeral_high",
    ),
    *("tool", "rules", "listening", "probe", "reader", "hung", "hung_at"),
)
"""Fields of a host that say what its last ok observation showed, and what followed from those before."""


def of_boot(host: HostState) -> HostState:
    """The part of a host's state that is of its boot; what is known of the host itself is left out."""
    return HostState(host.host_id, **{name: getattr(host, name) for name in OF_BOOT})


def back_to(host: HostState, kept: HostState) -> None:
    """Give a host the fields from before a reboot that was none."""
    for name in OF_BOOT:
        setattr(host, name, getattr(kept, name))


OF_ENTRY = (
    *("host_id", "name", "address", "labels", "known_since", "status", "status_since", "failures", "failing_since"),
    *("counted_at", "error_class", "error", "presence", "tried", "tried_at", "fingerprint"),
)
"""Fields of a host that say what the inventory has of it, and whether its address answers."""


def renamed(host: HostState, old: HostState) -> HostState:
    """The state of an entry that is the machine of an entry that left."""
    told = tuple(sorted((*old.told, *host.told)))
    return dataclasses.replace(old, told=told, **{name: getattr(host, name) for name in OF_ENTRY})
