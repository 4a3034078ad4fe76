"""What is stored of hosts and ports, and what one ok observation says about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from portmon.engine import owners
from portmon.engine.lifecycle import NONE, Changes, Pace
from portmon.engine.owners import PortOwner, Times
from portmon.matching import in_ranges
from portmon.model.event_kinds import EventKind
from portmon.model.numbers import is_udp, number_of, port_of
from portmon.model.observation import Listener
from portmon.model.state import HostStatus
from portmon.probe.compare import comparable_addresses

if TYPE_CHECKING:
    from portmon.engine.config import States
    from portmon.engine.machines import Kept


WIDE = 32768
"""A range of more ports than these, half of all, is only taken for ephemeral from this port on."""
RPC_PORTS = range(512, 1024)
"""Where programs of rpc.* take random ports."""
EARLY = 3600.0
"""Seconds of evidence from the first look of a boot in which services start."""


@dataclass(slots=True)
class Port:
    """A watched port: one row of the stored state. Tuples of last known values are sorted.

    :param misses: observations in a row without it
    :param streak: observations in a row that show it as a candidate
    :param counted_at: when one of these counters last grew
    :param last_seen_at: None while the last ok observation of the host shows it, so that a quiet run changes no row
    :param seen_clock: evidence clock of its host at that time, in seconds
    :param programs: names as ``tool`` prints them
    :param inodes: of its sockets
    :param declared: source of the declaration, None for a learned port
    :param grace_until: set while it is missing after a reboot
    :param presence: changes between up and down
    :param lost: binds that others could reach and that are missing since ``lost_since`` while others remain
    :param lost_clock: evidence clock at that time
    :param late: addresses that were there before the boot, and not seen since, while they have time
    :param parts: changes of what the port may lose while others have it: by the name of each owner, and each address
    :param comms: the kernel's names of the programs, the same for every tool
    :param notices: kind and evidence clock of recent notices
    :param told: times of its messages within the last day
    :param owners: who holds it, if that is more than the other fields say; see :mod:`portmon.engine.owners`
    :param holders: others that have it, or had it, while it is down
    :param young_since: evidence clock since which it is young; None for one that is mature
    :param restarts: which of its changes were restarts
    :param boots: seconds from the first look of a boot to the first that showed it, of its last boots
    :param unwatched: binds that rules hide, and since when; they are expected as soon as they are watched again
    :param hidden_since: since when no rule watches it any more
    :param paused: something was wrong with it, and its alert ended without evidence
    """

    host_id: str
    protocol: str
    port: int
    status: str
    status_since: datetime
    misses: int = 0
    streak: int = 0
    counted_at: datetime | None = None
    first_seen_at: datetime | None = None
    last_seen_at: datetime | None = None
    seen_clock: float | None = None
    addresses: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    uids: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    comms: tuple[str, ...] = ()
    inodes: tuple[int, ...] = ()
    tool: str | None = None
    at_baseline: bool = False
    declared: str | None = None
    grace_until: datetime | None = None
    presence: Changes = NONE
    lost: tuple[str, ...] = ()
    lost_since: datetime | None = None
    lost_clock: float | None = None
    late: tuple[str, ...] = ()
    parts: tuple[tuple[str, Changes], ...] = ()
    notices: tuple[tuple[str, float], ...] = ()
    told: tuple[datetime, ...] = ()
    unwatched: tuple[tuple[str, datetime], ...] = ()
    hidden_since: datetime | None = None
    paused: bool = False
    owners: tuple[PortOwner, ...] = ()
    holders: tuple[PortOwner, ...] = ()
    young_since: float | None = None
    restarts: tuple[float, ...] = ()
    boots: tuple[float, ...] = ()

    @property
    def flapping(self) -> dict[str | None, Changes]:
        """What of it flaps: None is its presence, the others are parts of it."""
        changes: dict[str | None, Changes] = {None: self.presence, **dict(self.parts)}
        return {name: own for name, own in changes.items() if own.flapping_since}

    @property
    def number(self) -> int:
        """See :mod:`portmon.model.numbers`."""
        return number_of(self.protocol, self.port)

    @property
    def flapping_since(self) -> datetime | None:
        """Since when it, or a part of it, flaps."""
        return min(filter(None, (own.flapping_since for own in self.flapping.values())), default=None)

    @property
    def changed_at(self) -> datetime | None:
        """When it last changed, while it flaps."""
        return max(filter(None, (own.at for own in self.flapping.values())), default=None)

    @property
    def part_flapping_since(self) -> datetime | None:
        """Since when a part of it flaps."""
        return min(filter(None, (own.flapping_since for _, own in self.parts)), default=None)

    @property
    def part_changed_at(self) -> datetime | None:
        """When such a part last changed."""
        return max(filter(None, (own.at for _, own in self.parts)), default=None)


@dataclass(frozen=True, slots=True)
class YoungOwner:
    """An owner of young random ports on a host.

    :param owner: its unit, else its program
    :param ports: those that are up
    :param presence: changes: one of them ended
    :param told: times of its messages within the last day
    :param speaker: the port whose alert says that they flap
    """

    owner: str
    ports: tuple[int, ...] = ()
    presence: Changes = NONE
    told: tuple[datetime, ...] = ()
    speaker: int | None = None


@dataclass(slots=True)
class HostState:
    """One row of the stored state of hosts.

    :param failures: tried runs in a row without evidence, since ``failing_since``; ``counted_at`` is when it last grew
    :param known_since: since when the inventory has it; None until the next run if that is not known
    :param last_evaluated_at: of its newest observation, with evidence or without
    :param evidence: the evidence clock: seconds in which it was seen, see :mod:`portmon.engine.clocks`
    :param tried: seconds in which runs tried it, the last time at ``tried_at``
    :param pid1_start: start of process 1, in clock ticks since the boot
    :param boot_looks: ok observations of this boot, counted up to 12; 1 is the first one. None before any reboot
    :param booted_at: the first ok observation of this boot
    :param many: units and containers' runtimes whose sockets belong to more than one program
    :param young: owners of young random ports
    :param unnamed: ok observations in a row without owners of other users; None if it never showed any
    :param shared: it was one machine with another entry
    :param duplicate_of: id of that entry, while it is
    :param kept: state from before the last reboot, see :class:`portmon.engine.machines.Kept`
    :param grace_until: end of the grace after the last reboot
    :param presence: its changes: unreachable, reachable, rebooted
    :param told: times of its messages within the last day
    :param rules: digest of the rules in force in its last ok observation
    :param listening: sorted ``tcp/80`` keys of that observation, before rules; None if it was not loaded. ``udp/0`` is
        there if UDP was shown; if it is not shown any more, the last ones stay
    :param fingerprint: see :mod:`portmon.engine.fingerprint`; None unless the host is settled
    :param probe: version of the frame of that observation, like ``reader``; None for those without a number
    :param hung: tools that hung on the host, with commas, noticed at ``hung_at``
    """

    host_id: str
    name: str = ""
    address: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    status: str = HostStatus.NEW.value
    status_since: datetime | None = None
    failures: int = 0
    failing_since: datetime | None = None
    counted_at: datetime | None = None
    known_since: datetime | None = None
    last_evaluated_at: datetime | None = None
    last_ok_at: datetime | None = None
    evidence: float = 0.0
    tried: float = 0.0
    tried_at: datetime | None = None
    boot_id: str | None = None
    netns: int | None = None
    pid1_start: int | None = None
    boot_looks: int | None = None
    booted_at: datetime | None = None
    many: tuple[str, ...] = ()
    young: tuple[YoungOwner, ...] = ()
    unnamed: int | None = None
    shared: bool = False
    duplicate_of: str | None = None
    kept: Kept | None = None
    grace_until: datetime | None = None
    presence: Changes = NONE
    told: tuple[datetime, ...] = ()
    ephemeral_low: int | None = None
    ephemeral_high: int | None = None
    tool: str | None = None
    rules: str | None = None
    error_class: str | None = None
    error: str | None = None
    listening: tuple[str, ...] | None = None
    fingerprint: str | None = None
    probe: int | None = None
    reader: int | None = None
    hung: str | None = None
    hung_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A port as one observation shows it: the sorted values of all its watched listeners.

    :param listeners: these listeners, and ``excluded`` those of the port that rules exclude
    :param listed: an allow rule names one of the listeners
    :param more: number of owners or binds beyond :data:`portmon.model.limits.OWNERS`
    """

    addresses: tuple[str, ...]
    programs: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    uids: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    comms: tuple[str, ...] = ()
    inodes: tuple[int, ...] = ()
    listed: bool = False
    more: int = 0
    listeners: Sequence[Listener] = ()
    excluded: Sequence[Listener] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One ok observation of a host, and what its last ok observation showed: the same for each of its ports.

    :param clock: evidence clock of the host, in seconds
    :param first: it is the host's first ok observation
    :param before: numbers of the ports of the last ok observation, before rules
    :param seen_at: time of the last ok observation, and ``seen_clock`` the evidence clock then
    :param ephemeral: the host's ephemeral range, both ends inclusive, and ``reserved`` ranges of it that the kernel
        hands out to none
    :param shown: all listeners, and ``units`` their units and containers
    :param many: units that hold many programs, see :func:`portmon.engine.owners.many_programs`
    :param booted_at: the first ok observation of this boot; None if none is known
    :param boot_clock: evidence clock at the first look of this boot, None if that is not known any more
    :param before_boot: ports of the last look before it
    :param udp_begins: it is the first one of the host that shows UDP, which is watched
    :param new_boot: it is the first ok observation of a boot
    :param grace_until: end of the grace after a reboot
    :param confirmed: a missing port is missing in two answers
    :param listening: numbers of the ports of this observation, before rules
    :param half_interval: a counter grows at most once in this time
    :param pause: the longest time between two observations that counts as a whole
    :param learning: another version of reader or probe made the last ok observation: attributes are taken over without
        events, and only missing ports are evaluated
    :param jumped: the monitor's clock may be wrong: nothing retires
    :param forget_after: a port that is hidden for this long is forgotten
    """

    at: datetime
    clock: float
    first: bool
    before: frozenset[int]
    seen_at: datetime | None
    seen_clock: float
    ephemeral: tuple[int, int]
    tool: str
    tool_before: str | None
    new_boot: bool
    grace_until: datetime | None
    rules_changed: bool
    confirmed: bool
    listening: frozenset[int]
    half_interval: timedelta
    pause: timedelta
    pace: Pace
    settings: States
    learning: bool = False
    jumped: bool = False
    forget_after: timedelta = timedelta(days=1)
    reserved: tuple[tuple[int, int], ...] = ()
    shown: Sequence[Listener] = ()
    units: frozenset[str] = frozenset()
    many: frozenset[str] = frozenset()
    booted_at: datetime | None = None
    boot_clock: float | None = None
    before_boot: frozenset[int] = frozenset()
    udp_begins: bool = False

    def counts(self, counted_at: datetime | None) -> bool:
        """Whether a counter that last grew at ``counted_at`` may grow again."""
        return counted_at is None or self.at - counted_at >= self.half_interval

    @property
    def in_grace(self) -> bool:
        """Whether missing ports still have time to come back after a reboot: at least until its second observation."""
        return self.grace_until is not None and (self.new_boot or self.at < self.grace_until)

    def booted_after(self, port: Port) -> bool:
        """Whether a port was not seen since the boot, before this observation."""
        if self.new_boot or port.grace_until is not None:
            return True
        last = port.last_seen_at
        return last is not None and self.booted_at is not None and last < self.booted_at

    def subject_of(self, owner: PortOwner) -> str:
        """The name under which changes of an owner count together."""
        return owners.subject_of(owner, self.many) or ""

    @property
    def times(self) -> Times:
        """As owners are compared by."""
        mature = self.settings.mature_after.total_seconds()
        same_binds = comparable_addresses(self.tool_before, self.tool)
        return Times(self.at, self.clock, mature, self.confirmed, self.in_grace, same_binds)

    @property
    def is_early(self) -> bool:
        """Whether it is of the first hour of a boot."""
        return self.boot_clock is not None and self.clock - self.boot_clock < EARLY

    def is_ephemeral(self, port: int, names: Iterable[str] = ()) -> bool:
        """Whether the host may have picked the port at random.

        :param port: its number
        :param names: of its programs: rpc.* take ports below 1024, and of UDP rpcbind as well
        """
        return is_ephemeral(port, names, self.ephemeral, self.reserved)


def is_ephemeral(
    port: int, names: Iterable[str], ephemeral: tuple[int, int], reserved: Sequence[tuple[int, int]]
) -> bool:
    """See :meth:`Evidence.is_ephemeral`."""
    is_rpc = ("rpc.", "rpcbind") if is_udp(port) else ("rpc.",)
    port = port_of(port)
    low, high = ephemeral
    if high - low >= WIDE:
        low = max(low, WIDE)
    if low <= port <= high:
        return not in_ranges(port, reserved)
    return port in RPC_PORTS and any(name.startswith(is_rpc) for name in names)


@dataclass(frozen=True, slots=True)
class Draft:
    """An event without the fields that all events of its port or host share."""

    kind: EventKind
    reason: str
    since: datetime | None = None
    last_seen: datetime | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_message(self) -> bool:
        """Whether it is sent; else it is a note."""
        return self.kind.meaning(self.details).group is not None

    @property
    def counts(self) -> bool:
        """Whether it is one of the messages of a port that a day has room for. What closes an alert for good is not."""
        return self.is_message and self.kind not in (EventKind.RETIRED, EventKind.UNWATCHED)
