"""Who holds a port: a unit and its programs, and whether two looks show the same one. Pure.

What a look does not show is no difference. Names are compared only with names of the same kind.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

from portmon.model import limits
from portmon.model.observation import Listener, Listing
from portmon.probe.compare import exchanged_binds, lost_binds, program_of, share_program
from portmon.scan.answer import bind_of

_SERVICES = (".service", ".socket")
_NO_NAMES = ("run-", "dbus-")
"""Units whose names are made up each time."""
_FIRST_PROCESS = frozenset({"systemd", "init"})
"""Process 1 under these names holds sockets for services, and owns none."""


def services_of(units: Iterable[str]) -> frozenset[str]:
    """The names of units that mean the same after a restart: services and sockets, a template without its instance.

    A scope or a session has no such name, nor has a container, whose id is new each time.
    """
    return frozenset(_without_instance(unit) for unit in units if is_service(unit))


def is_service(unit: str) -> bool:
    """Whether a unit is a service or a socket with a name of its own."""
    return unit.endswith(_SERVICES) and not unit.startswith(_NO_NAMES)


def containers_of(units: Iterable[str]) -> frozenset[str]:
    """The ids of containers, such as ``docker:0123456789ab``."""
    return frozenset(unit for unit in units if _is_container(unit))


@lru_cache(maxsize=4096)
def name_of(unit: str | None) -> str | None:
    """The name that a unit keeps: of a container that of its runtime. None if it has none."""
    if unit is None:
        return None
    if _is_container(unit):
        return unit.partition(":")[0]
    return _without_instance(unit) if is_service(unit) else None


def _is_container(unit: str) -> bool:
    return ":" in unit and not unit.endswith((*_SERVICES, ".scope"))


def _without_instance(unit: str) -> str:
    name, dot, kind = unit.rpartition(".")
    template, at, _ = name.partition("@")
    return f"{template}{at}{dot}{kind}"


# ── owners ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PortOwner:
    """Who holds sockets of a port, by the last known values. Tuples are sorted.

    :param unit: its name, see :func:`name_of`
    :param of_socket: the unit is that in which the socket was made, not that of a process
    :param comms: the kernel's names of its programs, and ``programs`` those that ``tool`` prints; None: any tool
    :param binds: the address of each of its sockets
    :param lacks: addresses that it had, and that another one has in its place
    :param is_watched: not all of its sockets are excluded by rules
    :param is_accepted: a person accepted it in place of those who had the port
    :param joined: evidence clock since which it shares the port; None: none was there before it. Of another one that
        has a port that is down: since when; None while it is away
    :param waits: it was there before the boot, and not seen since
    :param gone_since: since when it lacks its socket, while others remain
    :param gone_clock: evidence clock at that time
    """

    unit: str | None = None
    of_socket: bool = False
    comms: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    tool: str | None = None
    pids: tuple[int, ...] = ()
    inodes: tuple[int, ...] = ()
    binds: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    is_watched: bool = True
    is_accepted: bool = False
    joined: float | None = None
    waits: bool = False
    gone_since: datetime | None = None
    gone_clock: float | None = None

    def __str__(self) -> str:
        """For people: program and unit."""
        program = ", ".join(self.comms or self.programs)
        return f"{program} ({self.unit})" if program and self.unit else program or self.unit or "?"


@dataclass(frozen=True, slots=True)
class Holders:
    """The owners of a port that one look shows.

    :param owners: each one once
    :param nameless: some socket shows no owner
    :param rows: sockets by their address
    :param inodes: of all sockets that show one, and ``whole`` if each does
    """

    owners: tuple[PortOwner, ...]
    nameless: bool = False
    rows: Counter[str] = dataclasses.field(default_factory=Counter)
    inodes: frozenset[int] = frozenset()
    whole: bool = True


def many_programs(listeners: Iterable[Listener]) -> set[str]:
    """The units that hold more than one program, each with a socket of its own, such as a supervisor's."""
    sockets: dict[str, dict[object, Listener]] = defaultdict(dict)
    for number, row in enumerate(listeners):
        unit = name_of(row.unit)
        if unit is not None:
            sockets[unit].setdefault(number if row.inode is None else f"{row.inode}", row)
    return {unit for unit, own in sockets.items() if len(own) > 1 and _has_many(list(own.values()))}


def _has_many(rows: Sequence[Listener]) -> bool:
    comms = {row.comm for row in rows}
    if None not in comms:
        return len(comms) > 1
    return len({program_of(row.program) for row in rows if row.program is not None}) > 1


def holders(rows: Iterable[Listener], tool: str, many: Collection[str], excluded: Iterable[Listener] = ()) -> Holders:
    """The owners that the sockets of a port show.

    :param many: see :func:`many_programs`
    :param excluded: sockets that rules exclude
    """
    found: dict[object, PortOwner] = {}
    nameless, whole, counted, inodes = False, True, Counter[str](), set[int]()
    for is_watched, some in ((True, rows), (False, excluded)):
        for row in some:
            counted[bind_of(row)] += 1
            if row.inode is None:
                whole = False
            else:
                inodes.add(row.inode)
            own = _of_row(row, tool)
            nameless |= not own
            for one in own:
                # Without a program its socket tells it apart.
                name = one.comms or one.programs or one.inodes
                key = (one.unit, one.of_socket, name if one.unit is None or is_many(one.unit, many) else None)
                owner = dataclasses.replace(one, is_watched=is_watched)
                found[key] = _together(found[key], owner) if key in found else owner
    owners: list[PortOwner] = []
    for owner in found.values():
        place = next((at for at, one in enumerate(owners) if same(one, owner, many)), None)
        if place is None:
            owners.append(owner)
        else:
            owners[place] = _together(owners[place], owner)
    return Holders(tuple(owners), nameless, counted, frozenset(inodes), whole)


def is_many(unit: str, many: Collection[str]) -> bool:
    """Whether the program tells owners of a unit apart. That of a container is its runtime."""
    return unit in many or not unit.endswith(_SERVICES)


def without_first_process(row: Listener, tool: str) -> Listener:
    """The socket without process 1, which holds it for a service: of that service if it has it too, else of none."""
    if row.pid != 1 or program_of(row.comm or row.program or "") not in _FIRST_PROCESS:
        return row
    others = row.owners[1:]
    if not others:
        return dataclasses.replace(row, pid=None, program=None, comm=None, unit=None, owners=())
    # ss prints the kernel's name.
    first, rest = others[0], others if len(others) > 1 else ()
    comm = first.program if tool == "ss" else None
    return dataclasses.replace(row, pid=first.pid, program=first.program, comm=comm, unit=None, owners=rest)


def _of_row(row: Listener, tool: str) -> list[PortOwner]:
    """The owners of one socket, the first with its address."""
    found: list[PortOwner] = []
    inodes = () if row.inode is None else (row.inode,)
    unit = name_of(row.unit)
    if unit or row.comm or row.program:
        found.append(
            PortOwner(
                unit=unit,
                of_socket=row.pid is None,
                comms=() if row.comm is None else (row.comm,),
                programs=() if row.program is None else (row.program,),
                tool=tool,
                pids=() if row.pid is None else (row.pid,),
                inodes=inodes,
                binds=(bind_of(row),),
            )
        )
    for process in row.owners:
        name = process.program
        if process.pid == row.pid or name is None:
            continue
        if any(program_of(name) == program_of(one.programs[0]) for one in found if one.programs):
            continue
        comms = (name,) if tool == "ss" else ()
        binds = () if found else (bind_of(row),)
        found.append(PortOwner(None, False, comms, (name,), tool, (process.pid,), inodes, binds))
    return found


def _together(one: PortOwner, other: PortOwner) -> PortOwner:
    """One owner of the sockets of two."""
    names = ("comms", "programs", "pids", "inodes")
    both = (tuple(sorted({*getattr(one, name), *getattr(other, name)})[: limits.OWNERS]) for name in names)
    comms, programs, pids, inodes = both
    return dataclasses.replace(
        one,
        unit=one.unit or other.unit,
        comms=comms,
        programs=programs,
        pids=pids,
        inodes=inodes,
        binds=tuple(sorted((*one.binds, *other.binds))[: limits.OWNERS]),
        is_watched=one.is_watched or other.is_watched,
    )


def same(known: PortOwner, shown: PortOwner, many: Collection[str]) -> bool | None:
    """Whether two looks show one owner; None if that can't be known.

    :param many: units that hold many programs, of which the program decides
    """
    if known.unit and shown.unit and known.of_socket == shown.of_socket:
        if known.unit != shown.unit:
            return False
        if not is_many(known.unit, many):
            return True
    if _share_socket(known, shown):
        return True
    found = _same_program(known, shown)
    if found is None and not set(known.pids).isdisjoint(shown.pids):
        return True
    return found


def _share_socket(known: PortOwner, shown: PortOwner) -> bool:
    """Whether a socket is the same one: a tool may show a worker that inherited it."""
    return not set(known.inodes).isdisjoint(shown.inodes)


def _same_program(known: PortOwner, shown: PortOwner) -> bool | None:
    if known.comms and shown.comms:
        return not set(known.comms).isdisjoint(shown.comms)
    if known.programs and shown.programs and known.tool in (None, shown.tool):
        return share_program(known.programs, shown.programs, pids=(*known.pids, *shown.pids))
    return None


def updated(known: PortOwner, shown: PortOwner, many: Collection[str]) -> PortOwner:
    """A known owner as it is shown now; what is not shown stays as it was.

    :param many: units that hold many programs; each program that had the same socket is the owner's
    """
    unit, of_socket = (shown.unit, shown.of_socket) if shown.unit else (known.unit, known.of_socket)
    if known.unit and not known.of_socket and shown.of_socket:
        # A process tells more of its unit than the socket does, which may have been made by another one.
        unit, of_socket = known.unit, False
    comms, programs = shown.comms or known.comms, shown.programs or known.programs
    if (unit is None or is_many(unit, many)) and _share_socket(known, shown):
        comms = _united(known.comms, comms)
        programs = _united(known.programs, programs) if known.tool == shown.tool else programs
    return PortOwner(
        unit=unit,
        of_socket=of_socket,
        comms=comms,
        programs=programs,
        tool=shown.tool if shown.programs else known.tool,
        pids=shown.pids or known.pids,
        inodes=shown.inodes or known.inodes,
        binds=shown.binds,
        lacks=tuple(sorted(set(known.lacks) - set(shown.binds))),
        is_watched=shown.is_watched,
        is_accepted=known.is_accepted,
        joined=known.joined,
    )


def _united(some: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*some, *others})[: limits.OWNERS])


# ── what follows ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Change:
    """What a look says of the owners of a port that is up.

    :param owners: from now on
    :param replaced: left, and ``newcomers`` are there in their place
    :param gone: left a port that others have had for long
    :param back: were gone, and are there again
    :param is_same: none that rules watch came or left
    :param binds: of each owner that is there, the addresses before and now; None if owners do not tell
    """

    owners: tuple[PortOwner, ...]
    is_same: bool = True
    replaced: tuple[PortOwner, ...] = ()
    newcomers: tuple[PortOwner, ...] = ()
    gone: tuple[PortOwner, ...] = ()
    back: tuple[PortOwner, ...] = ()
    binds: tuple[tuple[set[str], set[str]], ...] | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """When a look was, as owners need it.

    :param clock: evidence clock in seconds
    :param mature_after: seconds after which who joined a port belongs there
    :param same_binds: addresses compare with those of the look before
    """

    at: datetime
    clock: float
    mature_after: float
    confirmed: bool
    in_grace: bool
    same_binds: bool = True


def is_own(known: Sequence[PortOwner], shown: Holders, many: Collection[str]) -> bool:
    """Whether a port is in the hands of one of its owners, as far as the look shows."""
    # One that rules exclude is none for whom it is watched.
    known = [own for own in known if own.is_watched] or known
    if not known or shown.nameless or not shown.owners:
        return True
    return any(same(one, other, many) is not False for one in known for other in shown.owners)


def is_named(declared: PortOwner, one: PortOwner) -> bool | None:
    """Whether an owner is the one that a declaration names; None if that can't be known.

    It names the unit of a process or of a socket. A ``.socket`` may be there for any service.
    """
    if declared.unit and one.unit and not (one.of_socket and one.unit.endswith(".socket")):
        return declared.unit == one.unit
    return same(declared, one, many=())


class _Matching:
    """Known owners beside those that a look shows.

    :param matches: place among the known ones: the owner as it is shown
    :param merged: were known, and are the same as another known one
    :param newcomers: no known one is the same
    :param unclear: it can't be known whether it is a known one
    :param nameless: some socket shows no owner, or one that is unclear
    """

    def __init__(self, known: Sequence[PortOwner], shown: Holders, many: Collection[str], clock: float) -> None:
        self.known = list(known)
        self._many = many
        self.matches: dict[int, PortOwner] = {}
        self.merged: list[PortOwner] = []
        self.newcomers: list[PortOwner] = []
        self.unclear: list[PortOwner] = []
        for one in shown.owners:
            verdicts = [same(own, one, many) for own in self.known]
            places = [place for place, verdict in enumerate(verdicts) if verdict]
            if places:
                self._add(one, *places)
            elif None in verdicts:
                self.unclear.append(one)
            else:
                self.newcomers.append(dataclasses.replace(one, joined=clock))
        if len(self.unclear) == len(shown.owners) == len(self.known) == 1 and not shown.nameless:
            # Whether it is the same can't be known; from now on it has the names that are shown now.
            self.matches[0] = self.unclear.pop()
        self.nameless = shown.nameless or bool(self.unclear)

    def _add(self, one: PortOwner, place: int, *others: int) -> None:
        for other in reversed(others):
            # Two that were known turn out to be one.
            self.merged.append(self.known.pop(other))
            self.known[place] = _together(self.known[place], self.merged[-1])
            self.matches = {at - (at > other): match for at, match in self.matches.items() if at != other}
        self.matches[place] = _together(self.matches[place], one) if place in self.matches else one

    @property
    def here(self) -> list[PortOwner]:
        """The known owners that are shown, as they are now."""
        return [updated(self.known[place], one, self._many) for place, one in sorted(self.matches.items())]

    @property
    def missing(self) -> list[PortOwner]:
        """The known owners that are not shown and were there before."""
        rest = (own for place, own in enumerate(self.known) if place not in self.matches)
        return [own for own in rest if own.gone_since is None]

    @property
    def away(self) -> list[PortOwner]:
        """The known owners that are not shown and were gone before."""
        return [own for place, own in enumerate(self.known) if own.gone_since is not None and place not in self.matches]

    @property
    def back(self) -> tuple[PortOwner, ...]:
        """The known owners that are shown and were gone before, as they were."""
        found = (*(self.known[place] for place in self.matches), *self.merged)
        return tuple(own for own in found if own.gone_since is not None)

    @property
    def binds(self) -> tuple[tuple[set[str], set[str]], ...] | None:
        """See :class:`Change`."""
        if self.nameless:
            return None
        return tuple((set(self.known[place].binds), set(one.binds)) for place, one in self.matches.items())


def compare(known: Sequence[PortOwner], shown: Holders, many: Collection[str], times: Times) -> Change:
    """Compare the known owners of a port that is up with those shown."""
    if not shown.owners:
        return Change(tuple(known))
    if not known:
        return Change(shown.owners, is_same=False)
    found = _Matching(known, shown, many, times.clock)
    if not found.matches:
        return _none_is_there(found, shown, times)
    everyone = [own for own in found.known if own.gone_since is None]
    left = [own for own in found.missing if _is_gone(own, everyone, shown, found.nameless, times)]
    is_same = not any(own.is_watched for own in (*left, *found.newcomers, *found.back))
    if left and not times.confirmed:
        return Change(tuple(known), is_same=False)
    late = _late(found.missing, times)
    left = [own for own in left if own not in late]
    kept = [own for own in found.missing if own in late or (own not in left and found.nameless)]
    here = _beside_others(found, shown) if times.same_binds and not found.nameless else found.here
    stays, told = (*here, *found.newcomers), tuple(own for own in left if own.is_watched)
    rest = (*stays, *kept, *found.away)
    change = Change(rest, is_same, (), tuple(found.newcomers), (), found.back, found.binds)
    if not told:
        return change
    if all(own.joined is not None and times.clock - own.joined < times.mature_after for own in stays):
        # From now on it is theirs, as if they had always been there.
        theirs = tuple(dataclasses.replace(own, joined=None) for own in stays)
        return dataclasses.replace(change, owners=(*theirs, *kept, *found.away), replaced=told, newcomers=theirs)
    gone = tuple(_leaves(own, times) for own in told)
    return dataclasses.replace(change, owners=(*rest, *gone), gone=gone)


def _beside_others(found: _Matching, shown: Holders) -> list[PortOwner]:
    """The known owners that are shown, each with the addresses that another one has in its place from now on."""
    beside = []
    for (place, one), own in zip(sorted(found.matches.items()), found.here, strict=True):
        before, now = found.known[place], set(one.binds)
        others = binds_of([*found.newcomers, *(other for at, other in found.matches.items() if at != place)])
        taken = set(lost_binds(others.intersection(before.binds), now))
        taken -= exchanged_binds(taken, now.difference(before.binds))
        # It may have handed its sockets over, which are theirs none the less.
        handed = shown.inodes.intersection(before.inodes).difference(one.inodes)
        if taken and before.inodes and shown.inodes and shown.whole and len(handed) < len(taken):
            own = dataclasses.replace(own, lacks=tuple(sorted({*own.lacks, *taken})))
        beside.append(own)
    return beside


def _none_is_there(found: _Matching, shown: Holders, times: Times) -> Change:
    """None of the known owners is shown, as far as that can be known."""
    known, newcomers, late = found.known, tuple(found.newcomers), _late(found.missing, times)
    if not newcomers or (late and len(late) == len(found.missing)):
        return Change(tuple(known), is_same=not newcomers)
    if found.nameless:
        return Change((*known, *newcomers), False, newcomers=newcomers)
    owners = tuple(dataclasses.replace(one, joined=None) for one in newcomers)
    left = tuple(own for own in found.missing if own not in late)
    return Change((*owners, *late, *found.away), is_same=False, replaced=left, newcomers=owners)


def taken_over(known: Sequence[PortOwner], shown: Holders, many: Collection[str]) -> Change:
    """The owners that are shown, without a comparison; what is known of them besides stays known."""
    found = _Matching(known, shown, many, 0.0)
    here = (_as_shown(own, found.matches[place]) for own, place in zip(found.here, sorted(found.matches), strict=True))
    others = (dataclasses.replace(one, joined=None) for one in (*found.newcomers, *found.unclear))
    return Change((*here, *others, *found.away), back=found.back)


def _as_shown(own: PortOwner, shown: PortOwner) -> PortOwner:
    # Another reader may have known other sockets as its own.
    return dataclasses.replace(own, inodes=shown.inodes)


def _leaves(own: PortOwner, times: Times) -> PortOwner:
    return dataclasses.replace(own, gone_since=times.at, gone_clock=times.clock)


def _late(missing: Iterable[PortOwner], times: Times) -> list[PortOwner]:
    """Those that have time since the boot."""
    return [own for own in missing if own.waits and times.in_grace]


def _is_gone(own: PortOwner, known: Sequence[PortOwner], shown: Holders, nameless: bool, times: Times) -> bool:
    """Whether the socket of an owner that is not shown is gone: none of the others has it."""
    if own.waits and not (own.inodes or own.pids):
        # It was there before the boot.
        return not nameless
    before = Counter(bind for one in known for bind in one.binds)
    fewer = times.same_binds and any(shown.rows[bind] < before[bind] for bind in own.binds)
    if own.inodes and shown.inodes and shown.whole:
        # It may have been started again, in a socket that shows no owner.
        return shown.inodes.isdisjoint(own.inodes) and (fewer or not nameless)
    return fewer and not nameless


def returned(known: Sequence[PortOwner], shown: Holders, many: Collection[str], times: Times) -> Change:
    """Compare the owners that a port had before it was down with those that are shown now that it is up again."""
    known = not_gone(known)
    if not shown.owners or not known:
        return Change(shown.owners or tuple(known))
    found = _Matching(known, shown, many, times.clock)
    if not found.matches and not found.nameless:
        # A declaration names the one that has it now.
        return Change(tuple(dataclasses.replace(one, joined=None) for one in found.newcomers), is_same=False)
    late = _late(found.missing, times)
    left = [own for own in found.missing if own not in late]
    gone = () if found.nameless else tuple(_leaves(own, times) for own in left if own.is_watched)
    rest = (*late, *left) if found.nameless else late
    return Change((*found.here, *found.newcomers, *rest, *gone), gone=gone, binds=found.binds)


def without_clients(change: Change, known: Sequence[PortOwner], many: Collection[str], times: Times) -> Change:
    """A change of the owners of a UDP port, without those that leave it to others and are no service, or came not long
    ago.

    Several programs may have one UDP port: browsers, players and chat programs hear what is sent to all beside the
    service of mDNS or SSDP, and a resolver asks from any port. Nothing is missing when one of them ends, and none of
    them has taken the port over when the service does.

    :param known: owners of the port before
    """

    def is_client(own: PortOwner) -> bool:
        return own.unit is None or (own.joined is not None and times.clock - own.joined < times.mature_after)

    clients = [own for own in change.gone if is_client(own)]
    owners = tuple(lacking_nothing(own for own in change.owners if own not in clients))
    change = dataclasses.replace(change, owners=owners, gone=tuple(own for own in change.gone if own not in clients))
    stays = any(same(one, own, many) for one in change.newcomers for own in known)
    if not change.replaced or not stays:
        return change
    if all(map(is_client, change.replaced)):
        return dataclasses.replace(change, replaced=(), newcomers=())
    if all(own.unit for own in change.replaced) and not any(one.unit for one in change.newcomers):
        # What hears beside a service does not serve in its place.
        gone = tuple(_leaves(own, times) for own in change.replaced)
        return dataclasses.replace(change, owners=(*change.owners, *gone), replaced=(), newcomers=(), gone=gone)
    return change


def held(known: Sequence[PortOwner], shown: Holders, many: Collection[str], clock: float) -> tuple[PortOwner, ...]:
    """Who has a port that is down now, and who had it, given those that were known: each with the clock since when."""
    if not shown.owners:
        # What a look does not show is no difference.
        return tuple(known)
    found = _Matching(known, shown, many, clock)
    there = (*found.here, *found.newcomers, *found.unclear)
    since = (own if own.joined is not None else dataclasses.replace(own, joined=clock) for own in there)
    return (*since, *left_alone(found.missing))[: limits.OWNERS]


def left_alone(holders: Iterable[PortOwner]) -> tuple[PortOwner, ...]:
    """Those who had a port that is down, and do not have it now: they are told of once."""
    return tuple(dataclasses.replace(own, joined=None) for own in holders)


def present(holders: Iterable[PortOwner]) -> tuple[PortOwner, ...]:
    """Who has a port that is down."""
    return tuple(own for own in holders if own.joined is not None)


def after_boot(known: Sequence[PortOwner], shown: Holders, many: Collection[str]) -> tuple[PortOwner, ...]:
    """Owners after the first look of a boot, as the next one compares them: with its numbers of the kernel alone.

    :param shown: in that look, if it shows the port
    """
    owners = []
    for own in known:
        now = next((one for one in shown.owners if same(own, one, many)), None)
        pids, inodes = (now.pids, now.inodes) if now else ((), ())
        waits = now is None and own.gone_since is None
        owners.append(dataclasses.replace(own, pids=pids, inodes=inodes, waits=waits))
    return tuple(owners)


def not_gone(owners: Iterable[PortOwner]) -> list[PortOwner]:
    """Owners as they were before they left."""
    return [dataclasses.replace(own, gone_since=None, gone_clock=None) for own in owners]


def binds_of(owners: Iterable[PortOwner]) -> set[str]:
    """The addresses of some owners."""
    return {bind for own in owners for bind in own.binds}


def lacking_nothing(owners: Iterable[PortOwner]) -> list[PortOwner]:
    """Owners of which nothing is expected that others have in their place."""
    return [dataclasses.replace(own, lacks=()) for own in owners]


def lacked_by(owners: Iterable[PortOwner]) -> dict[str, list[PortOwner]]:
    """The addresses that others have in the place of some owners: whose they were."""
    found: dict[str, list[PortOwner]] = defaultdict(list)
    for own in owners:
        for bind in own.lacks if own.is_watched and own.gone_since is None else ():
            found[bind].append(own)
    return found


def subject_of(owner: PortOwner, many: Collection[str]) -> str | None:
    """The name under which ports of an owner count together; None if it has none."""
    program = next(iter(owner.comms or owner.programs), None)
    if owner.unit is None or (program is not None and is_many(owner.unit, many)):
        return program and f"{program} ({owner.unit})" if owner.unit else program
    return owner.unit


def names_of(owners: Iterable[PortOwner]) -> str:
    """Some owners for people."""
    return ", ".join(sorted(map(str, owners)))


def left_by_owners(shared: Mapping[int, Sequence[PortOwner]], listing: Listing) -> list[int]:
    """The ports that one of their owners left, so that the host is asked once more.

    :param shared: number of a port: its known owners
    """
    rows: dict[int, list[Listener]] = defaultdict(list)
    for row in listing.sockets:
        if row.number in shared:
            rows[row.number].append(without_first_process(row, listing.tool))
    many = many_programs(listing.sockets)
    times = Times(datetime.fromtimestamp(0, UTC), 0.0, 0.0, confirmed=True, in_grace=False)
    changes = {port: compare(shared[port], holders(own, listing.tool, many), many, times) for port, own in rows.items()}
    return [port for port, change in changes.items() if change.gone or change.replaced]


# ── owners of a stored port ─────────────────────────────────────────────────────────────────────


class HasOwners(Protocol):
    """A port, as far as its owners go."""

    addresses: tuple[str, ...]
    programs: tuple[str, ...]
    pids: tuple[int, ...]
    units: tuple[str, ...]
    comms: tuple[str, ...]
    inodes: tuple[int, ...]
    tool: str | None
    owners: tuple[PortOwner, ...]


def of(port: HasOwners) -> tuple[PortOwner, ...]:
    """The known owners of a port. Most have one, and their own values tell who it is."""
    if port.owners:
        return port.owners
    names = set(map(name_of, port.units)) or {None}
    if not (port.units or port.comms or port.programs) or len(names) > 1:
        return ()
    (unit,) = names
    if unit is None and not (port.comms or port.programs):
        return ()
    return (
        PortOwner(
            unit,
            not port.pids,
            port.comms,
            port.programs,
            port.tool if port.programs else None,
            port.pids,
            port.inodes,
            port.addresses,
        ),
    )


def gone_of(port: HasOwners) -> tuple[PortOwner, ...]:
    """The owners of a port that are gone while others remain."""
    return away_of(port.owners)


def away_of(some: Iterable[PortOwner]) -> tuple[PortOwner, ...]:
    """Those that are gone while others remain."""
    return tuple(own for own in some if own.gone_since is not None)


def in_order(owner: PortOwner) -> tuple[Any, ...]:
    """The key that sorts owners."""
    return (owner.gone_since is not None, owner.unit or "", owner.comms, owner.programs, owner.inodes, owner.pids)
