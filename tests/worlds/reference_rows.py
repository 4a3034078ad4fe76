"""What the naive implementation of :mod:`tests.worlds.reference` remembers: rows of hosts and ports, in plain Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from portmon.model.observation import Listing
from tests.worlds.reference_owners import Owner

Told = tuple[datetime, str, str | None, int | None, str]
"""An event: at, kind, host id (None: the monitor's own), number of the port (None: the host's own; of UDP
65,536 more than the port), and what else it says:
``severe`` of a rebound, ``up`` or ``down`` of flapping, crash_looping and stable of a port, ``ok`` or ``unreachable`` of
those of a host, ``warning`` of an unreachable host that never answered, ``young`` of a down or retired young port,
``owner`` of recovered if all owners are back, ``taken`` of replaced if the port is down, otherwise nothing."""

Part = tuple[str, str]
"""Of a port: ``owner`` and its name, or ``bind`` and its address."""

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
ZERO = timedelta(0)
FEW = 10
"""Messages of one subject and day: the next one of a change says that it flaps, and notices are left out."""
MOST = 12
"""Messages of one subject and day: then nothing more is told."""


class Settings(Protocol):
    """What the engine calls ``States``."""

    down_after: int
    unreachable_after: int
    ephemeral_after: int
    flap_threshold: int
    flap_window: timedelta
    reboot_grace: timedelta
    mature_after: timedelta
    retire_after: timedelta


class Terms(Protocol):
    """What a rule or a declaration may give for its ports, in place of settings."""

    @property
    def severity(self) -> Any: ...
    @property
    def down_after(self) -> int | None: ...
    @property
    def reboot_grace(self) -> timedelta | None: ...
    @property
    def restarts(self) -> str: ...


@dataclass
class Defaults:
    """The settings of the contract."""

    down_after: int = 1
    unreachable_after: int = 2
    ephemeral_after: int = 3
    flap_threshold: int = 4
    flap_window: timedelta = timedelta(hours=1)
    reboot_grace: timedelta = timedelta(minutes=10)
    mature_after: timedelta = timedelta(days=1)
    retire_after: timedelta = timedelta(days=30)


@dataclass(frozen=True)
class Machine:
    """Who answered. None is what was not shown."""

    boot_id: str | None = None
    netns: int | None = None
    start: int | None = None

    @classmethod
    def of(cls, look: Listing) -> Machine:
        """As a look shows it."""
        return cls(look.boot_id, look.netns, look.pid1_start)

    def and_then(self, later: Machine) -> Machine:
        """The last shown value of each part."""
        return Machine(*(new if new is not None else old for old, new in self._pairs(later)))

    def differs(self, other: Machine) -> bool:
        """In a part besides the boot id that both show."""
        return any(None not in pair and pair[0] != pair[1] for pair in self._pairs(other)[1:])

    def is_one_with(self, other: Machine) -> bool:
        """Whether both are one machine: equal boot ids are not enough, a container has its host's."""
        if self.boot_id is None or self.boot_id != other.boot_id or self.differs(other):
            return False
        return any(None not in pair for pair in self._pairs(other)[1:])

    def _pairs(self, other: Machine) -> list[tuple[Any, Any]]:
        return [(self.boot_id, other.boot_id), (self.netns, other.netns), (self.start, other.start)]


@dataclass
class Changes:
    """When a condition changed, by the clock that counts for it."""

    times: list[timedelta] = field(default_factory=list)
    flapping: bool = False

    def add(self, clock: timedelta, window: timedelta) -> None:
        self.times = [then for then in self.times if clock - then < window] + [clock]

    def within(self, clock: timedelta, window: timedelta) -> int:
        """How many there were."""
        return sum(clock - then < window for then in self.times)

    def still(self, clock: timedelta, window: timedelta) -> bool:
        """Whether there was no change for the window."""
        return not self.times or clock - self.times[-1] >= window

    def forget(self) -> None:
        self.times = []
        self.flapping = False


@dataclass
class PortRow:
    """What is remembered of a port."""

    status: str
    status_since: datetime
    at_baseline: bool = False
    seen_once: bool = False
    """Only a declared port can be known and never seen."""
    first_seen: datetime | None = None
    """Or the port was that moved here."""
    seen_clock: timedelta = ZERO
    """The host's evidence clock at the last ok look that showed it; of one that was never seen, at its first."""
    streak: int = 0
    misses: int = 0
    counted_at: datetime | None = None
    grace_until: datetime | None = None
    addresses: frozenset[str] = frozenset()
    programs: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    inodes: frozenset[int] = frozenset()
    uids: frozenset[int] = frozenset()
    units: frozenset[str] = frozenset()
    comms: frozenset[str] = frozenset()
    """The kernel's names of the programs."""
    tool: str | None = None
    """That reported the programs."""
    owners: list[Owner] = field(default_factory=list)
    """Those that are gone included."""
    holders: list[Owner] = field(default_factory=list)
    """Others that have it while it is down, or had it."""
    young_since: timedelta | None = None
    """The host's evidence clock since which it is young; None of one that is mature."""
    boots: list[timedelta] = field(default_factory=list)
    """How long it took after the last boots of the host, from the first look of a boot to the first that showed it."""
    takes: timedelta | None = None
    """One and a half times its slowest boot before the last one."""
    instead_of: str = ""
    """The owner that its declaration names, and in place of which a person accepted those that have it."""
    seen_boot: int = 0
    """The boot in which it was seen last."""
    declared: bool = False
    lost: frozenset[str] = frozenset()
    """Addresses that others could reach, lost while others remain."""
    shown_in: tuple[int, frozenset[str]] = (0, frozenset())
    """A boot, and all addresses that looks of it showed."""
    unwatched: dict[str, datetime] = field(default_factory=dict)
    """Addresses that rules hide, and since when; they are expected as soon as they are watched again."""
    lost_since: tuple[datetime, timedelta] | None = None
    """When a bind was lost, by the clock and by the host's evidence clock."""
    lost_hidden: int = 0
    """Looks in a row in which rules hid an address that is lost."""
    presence: Changes = field(default_factory=Changes)
    restarts: set[timedelta] = field(default_factory=set)
    """Which of the changes of its presence were restarts."""
    parts: dict[Part, Changes] = field(default_factory=dict)
    """Changes of each of its owners and binds."""
    notices: dict[str, list[timedelta]] = field(default_factory=dict)
    """By kind, each whether it was told or not, since a window without one."""
    messages: list[datetime] = field(default_factory=list)
    alert: str = ""
    """What the last message left open: ``down``, ``owner``, ``lost``, ``flapping`` or nothing."""
    paused: bool = False
    """Its alert was closed without evidence: what still holds is told again, what does not is over without a word."""
    hidden_since: datetime | None = None
    hidden_looks: int = 0
    hidden_there: bool = False
    """It listened in each look since it is hidden."""

    @property
    def fault(self) -> str:
        """What is wrong with it, told or not."""
        return "down" if self.status == "down" else self.partial_fault

    @property
    def partial_fault(self) -> str:
        """What is wrong with a part of it: an owner that is gone, or a bind that is lost."""
        return "owner" if self.gone else "lost" if self.lost else ""

    @property
    def gone(self) -> list[Owner]:
        """Owners that are gone while others remain."""
        return [owner for owner in self.owners if owner.gone_since is not None]

    def shows(self, boot: int, addresses: frozenset[str]) -> None:
        """A look of a boot shows these."""
        self.shown_in = boot, addresses | self.shown_since(boot)

    def shown_since(self, boot: int) -> frozenset[str]:
        """Addresses that looks of a boot showed."""
        return self.shown_in[1] if self.shown_in[0] == boot else frozenset()

    @property
    def a_part_flaps(self) -> bool:
        """An owner or a bind of it does."""
        return any(changes.flapping for changes in self.parts.values())

    def flap(self, parts: Set[Part]) -> bool:
        """Whether all of these do."""
        return all(part in self.parts and self.parts[part].flapping for part in parts)

    @property
    def is_held(self) -> bool:
        """Others have it while it is down, by the last look that says who has it."""
        return any(one.joined is not None for one in self.holders)

    @property
    def young(self) -> str:
        """What else an event of it says if it is young."""
        return "" if self.young_since is None else "young"

    def pause(self) -> None:
        """Its alert is closed, not its fault."""
        self.alert, self.grace_until = "", None
        self.paused = True
        self.presence.forget()
        self.parts.clear()


@dataclass
class Subject:
    """The young ports of one owner whose numbers the kernel chose.

    :param up: numbers of those that are
    :param changes: one for each look in which some of them ended
    :param messages: of all of them, one for each look in which something was told
    :param speaker: the port whose end made all of them flap, as long as they do
    """

    up: set[int] = field(default_factory=set)
    changes: Changes = field(default_factory=Changes)
    messages: list[datetime] = field(default_factory=list)
    speaker: int | None = None

    def forget(self) -> None:
        """They do not flap any more."""
        self.changes.forget()
        self.speaker = None

    def told_before(self, at: datetime) -> int:
        """Messages of the day before this look: what is told of several ports in one look is one message."""
        return told_today([then for then in self.messages if then != at], at)

    def has_told(self, at: datetime) -> None:
        """Something of one of them in this look."""
        if at not in self.messages:
            self.messages = [then for then in self.messages if told_today([then], at)] + [at]


@dataclass
class Kept:
    """The state of a host before it was another machine, for the case that it was none.

    :param since: the evidence clock at the first look of the other boot
    :param looks: ok looks of that boot
    """

    host: HostRow
    ports: dict[int, PortRow]
    since: timedelta
    looks: int = 1


@dataclass
class HostRow:
    """What is remembered of a host."""

    known_since: datetime
    status: str = "new"
    failures: int = 0
    counted_at: datetime | None = None
    last_evaluated_at: datetime | None = None
    last_ok_at: datetime | None = None
    evidence: timedelta = ZERO
    """The clock of its ports."""
    last_try_at: datetime | None = None
    last_try_ok: bool = False
    last_counted_try_at: datetime | None = None
    tried: timedelta = ZERO
    """The clock of the host's own condition: like evidence, of tried runs."""
    machine: Machine = Machine()
    tool: str | None = None
    grace_until: datetime | None = None
    boot: int = 0
    """The number of this boot."""
    booted_at: datetime | None = None
    """Its first ok look; None of the boot in which it was first seen."""
    many: frozenset[str] = frozenset()
    """Units whose sockets belong to more than one program."""
    listening: frozenset[int] = frozenset()
    showed_udp: bool = False
    """An ok look showed UDP since it is watched."""
    shown: frozenset[int] = frozenset()
    """Watched ports in its last ok look."""
    late: frozenset[int] = frozenset()
    """Those of its last ok look before this boot that no look since showed."""
    versions: tuple[int, int] | None = None
    """Of the probe and the reader of its last ok look."""
    rules: list[Any] | None = None
    """That were in force in its last ok look."""
    duplicate_of: str | None = None
    sharing: bool = False
    """It was one machine with another entry from its first look on, or a person said so."""
    key_changed: bool = False
    foreign: bool = False
    foreign_since: datetime | None = None
    foreign_with: str | None = None
    """The entry whose machine answers; None if several entries changed to one machine at once."""
    told_greater: str = ""
    """``host_key``, ``foreign`` or nothing: what was told and not ended."""
    told_reach: str = ""
    """``unreachable``, ``flapping`` or nothing, likewise."""
    unscanned: bool = False
    told_unscanned: bool = False
    showed_owners: bool = False
    """A look ever showed processes of others than the one who looks."""
    hiding_looks: int = 0
    """Ok looks in a row that hid them since."""
    told_hidden: bool = False
    changes: Changes = field(default_factory=Changes)
    messages: list[datetime] = field(default_factory=list)
    subjects: dict[str, Subject] = field(default_factory=dict)
    """Young random ports, by the name of their owner."""
    left_at: datetime | None = None
    kept: Kept | None = None

    @property
    def covered(self) -> bool:
        """Whether a greater condition says why the host gives no evidence."""
        return self.key_changed or self.foreign


def told_today(messages: list[datetime], at: datetime) -> int:
    """Messages within the last 24 h."""
    return sum(1 for then in messages if at - then < DAY)


def cap_times(row: Any, newest: datetime) -> None:
    """The clock was ahead: every time in a row that is later becomes the newest one that is believed."""
    for one in dataclasses.fields(row):
        value = getattr(row, one.name)
        if isinstance(value, datetime):
            setattr(row, one.name, min(value, newest))
        elif isinstance(value, list):
            setattr(row, one.name, [min(then, newest) if isinstance(then, datetime) else then for then in value])
        elif one.name == "owners":
            for owner in value:
                if owner.gone_since is not None:
                    owner.gone_since = (min(owner.gone_since[0], newest), owner.gone_since[1])
        elif one.name == "lost_since" and value is not None:
            row.lost_since = (min(value[0], newest), value[1])
        elif isinstance(value, dict) and one.name == "unwatched":
            setattr(row, one.name, {address: min(then, newest) for address, then in value.items()})
