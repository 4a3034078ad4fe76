"""Who holds a port, by the naive implementation: what a look shows of owners, and what follows from it for one port.

Pure functions over plain values; what is told of it, and when, is in :mod:`tests.worlds.reference_ports`.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from portmon.model.observation import Listener, Listing
from portmon.probe.compare import bind_scopes, program_of


@dataclass
class Owner:
    """One that holds a port.

    :param unit: its service, socket or container's runtime; empty if none is shown that counts
    :param of_socket: the unit is that of the socket, not of the process
    :param comms: the kernel's names of its programs
    :param programs: names of its programs as ``tool`` prints them
    :param rows: how many listeners it has on each address
    :param boot: the boot in which its pids and inodes were seen
    :param joined: the evidence clock when it joined others, or took a port that is down; None if it was always there,
        or does not have the port that is down any more
    :param gone_since: when it left, by the clock and by the evidence clock; None while it is there
    :param told: that it has a port that is down
    :param named: what a declaration calls it: it is the same owner if its programs are others later
    :param lacks: addresses that it had, and that others have now
    :param watched: some listener of it is; if rules exclude all of them, nobody is told that it leaves
    """

    unit: str = ""
    of_socket: bool = False
    comms: frozenset[str] = frozenset()
    programs: frozenset[str] = frozenset()
    tool: str | None = None
    pids: frozenset[int] = frozenset()
    inodes: frozenset[int] = frozenset()
    rows: Counter[str] = field(default_factory=Counter)
    boot: int = 0
    joined: timedelta | None = None
    gone_since: tuple[datetime, timedelta] | None = None
    told: bool = False
    named: str = ""
    watched: bool = True
    lacks: frozenset[str] = frozenset()

    @property
    def addresses(self) -> frozenset[str]:
        return frozenset(self.rows)


@dataclass
class View:
    """What one look shows of the owners of one port.

    :param tool: that showed them
    :param blank: a listener shows no owner
    :param rows: listeners on each address, whether they show an owner or not
    :param inodes: of all of them
    """

    tool: str
    owners: list[Owner]
    blank: bool
    rows: Counter[str]
    inodes: frozenset[int]
    all_inodes: bool = False


# ── what a look shows ───────────────────────────────────────────────────────────────────────────


def is_init(row: Listener) -> bool:
    """Whether the first process of the system holds a socket, for a service that it will start or for nobody."""
    return row.pid == 1 and is_name_of_init(row.comm or row.program)


def is_name_of_init(name: str | None) -> bool:
    return name is not None and program_of(name) in ("systemd", "init")


def without_init(look: Listing) -> Listing:
    """The first process of the system holds a socket for others: its rows show no owner but one that they name besides."""
    udp = None if look.udp is None else tuple(_without_init(row, look.tool) for row in look.udp)
    return replace(look, listeners=tuple(_without_init(row, look.tool) for row in look.listeners), udp=udp)


def _without_init(row: Listener, tool: str) -> Listener:
    if not is_init(row):
        return row
    others = tuple(one for one in row.owners if not (one.pid == 1 and is_name_of_init(one.program)))
    row = replace(row, pid=None, program=None, unit=None, comm=None, owners=others)
    if not others:
        return row
    first = others[0]
    return replace(row, pid=first.pid, program=first.program, comm=first.program if tool == "ss" else None)


def unit_name(unit: str | None) -> str:
    """The name that a unit has as an owner: of a template without its instance, of a container its runtime."""
    if unit is None or unit.endswith(".scope"):
        return ""
    if unit.endswith((".service", ".socket")):
        return "" if unit.startswith(("run-", "dbus-")) else re.sub("@.*(?=[.])", "@", unit)
    return unit.partition(":")[0] if ":" in unit else ""


def shows_owner(row: Listener) -> bool:
    return not is_init(row) and bool(unit_name(row.unit) or row.comm or row.program)


def is_many(unit: str, many: Set[str]) -> bool:
    """Whether a unit holds many programs; a container's runtime always does."""
    return unit in many or not unit.endswith((".service", ".socket"))


def units_of_many(rows: Iterable[Listener]) -> frozenset[str]:
    """Units of which sockets of their own show more than one program, by all listeners of a host."""
    by_unit: dict[str, list[Listener]] = defaultdict(list)
    for row in rows:
        if shows_owner(row) and unit_name(row.unit):
            by_unit[unit_name(row.unit)].append(row)
    found = set()
    for unit, own in by_unit.items():
        by_comm = all(row.comm for row in own)
        named = [(row.comm if by_comm else program_of(row.program) if row.program else None, row.inode) for row in own]
        for (one, inode), (other, other_inode) in itertools.combinations(named, 2):
            one_socket = inode is not None and inode == other_inode
            if one and other and one != other and not one_socket:
                found.add(unit)
    return frozenset(found)


def view_of(
    rows: Sequence[Listener], *, tool: str, boot: int, many: Set[str], watched: Sequence[bool] | None = None
) -> View:
    """The owners of one port in one look.

    :param watched: for each row whether rules watch it; all if not given
    """
    groups: dict[tuple[str, bool, str], list[Listener]] = defaultdict(list)
    watched_groups = set()
    for row, is_watched in zip(rows, watched or [True] * len(rows), strict=True):
        if not shows_owner(row):
            continue
        unit = unit_name(row.unit)
        name = row.comm or (program_of(row.program) if row.program else f"{row.inode}")  # else its socket tells
        group = (unit, bool(unit) and row.pid is None, "" if unit and not is_many(unit, many) else name)
        groups[group].append(row)
        if is_watched:
            watched_groups.add(group)
    owners = [
        Owner(
            unit=unit,
            of_socket=of_socket,
            comms=frozenset(row.comm for row in own if row.comm),
            programs=frozenset(row.program for row in own if row.program),
            tool=tool,
            pids=frozenset(row.pid for row in own if row.pid is not None),
            inodes=frozenset(row.inode for row in own if row.inode is not None),
            rows=Counter(row.address for row in own),
            boot=boot,
            watched=(unit, of_socket, name) in watched_groups,
        )
        for (unit, of_socket, name), own in groups.items()
    ]
    return View(
        tool=tool,
        owners=_without_twins(owners, many),
        blank=not all(map(shows_owner, rows)),
        rows=Counter(row.address for row in rows),
        inodes=frozenset(row.inode for row in rows if row.inode is not None),
        all_inodes=all(row.inode is not None for row in rows),
    )


def _without_twins(owners: list[Owner], many: Set[str]) -> list[Owner]:
    """Groups of listeners that are the same owner are one."""
    for one, other in itertools.combinations(owners, 2):
        if is_same(one, other, many):
            others = [owner for owner in owners if owner is not one and owner is not other]
            return _without_twins([_together([one, other]), *others], many)
    return owners


def _together(owners: Sequence[Owner]) -> Owner:
    """One owner that has what each of these has."""
    both = next((one for one in owners if one.unit), owners[0])
    for other in owners:
        if other is not both:
            both = replace(
                both,
                comms=both.comms | other.comms,
                programs=both.programs | other.programs,
                pids=both.pids | other.pids,
                inodes=both.inodes | other.inodes,
                rows=both.rows + other.rows,
                watched=both.watched or other.watched,
            )
    return both


# ── who is who ──────────────────────────────────────────────────────────────────────────────────


def is_same(known: Owner, shown: Owner, many: Set[str]) -> bool | None:
    """Whether two are the same owner; None if that can't be known."""
    by_program = _same_program(known, shown)
    if known.unit and shown.unit and known.of_socket == shown.of_socket:
        if known.unit != shown.unit:
            return False
        if not is_many(known.unit, many):
            return True
    if by_program is not None:
        return by_program or shares_a_socket(known, shown)
    return True if shares_a_socket(known, shown) or (known.boot == shown.boot and known.pids & shown.pids) else None


def shares_a_socket(known: Owner, shown: Owner) -> bool:
    return known.boot == shown.boot and bool(known.inodes & shown.inodes)


def _same_program(known: Owner, shown: Owner) -> bool | None:
    if known.comms and shown.comms:
        return bool(known.comms & shown.comms)
    if known.programs and shown.programs and known.tool == shown.tool:
        return bool(set(map(program_of, known.programs)) & set(map(program_of, shown.programs)))
    return None


def seen_again(known: Owner, shown: Owner, many: Set[str]) -> Owner:
    """An owner after a look that shows it: what is not shown now, such as the unit of its process, stays as known."""
    by_unit = bool(known.unit and shown.unit) and known.of_socket == shown.of_socket
    if shares_a_socket(known, shown) and (not by_unit or (known.unit == shown.unit and is_many(known.unit, many))):
        # Several programs have one socket: any of them is shown for it.
        one_tool = bool(shown.programs) and known.tool == shown.tool
        programs = known.programs | shown.programs if one_tool else shown.programs
        shown = replace(shown, comms=known.comms | shown.comms, programs=programs)
    one_boot = known.boot == shown.boot
    unit_of = known if not shown.unit or (shown.of_socket and known.unit and not known.of_socket) else shown
    return replace(
        known,
        unit=unit_of.unit,
        of_socket=unit_of.of_socket,
        comms=shown.comms or known.comms,
        programs=shown.programs or known.programs,
        tool=shown.tool if shown.programs else known.tool,
        pids=shown.pids or (known.pids if one_boot else frozenset()),
        inodes=shown.inodes or (known.inodes if one_boot else frozenset()),
        rows=shown.rows,
        boot=shown.boot,
        gone_since=None,
        watched=shown.watched,
        lacks=known.lacks - shown.addresses,
    )


def _with_names(one: Owner, other: Owner, many: Set[str]) -> Owner:
    """An owner with the names of another known one, if that had the same socket."""
    if not is_same(other, one, many):
        return one
    both = seen_again(other, one, many)
    return replace(one, comms=both.comms, programs=both.programs)


def is_named(one: Owner, name: str) -> bool | None:
    """Whether an owner is the one that a declaration names, by unit or program; None if that can't be known."""
    if one.named == name:
        return True
    if name.endswith((".service", ".socket")):
        waits = one.of_socket and one.unit.endswith(".socket")  # for whatever service
        is_it = one.unit == unit_name(name)
        return None if not one.unit or (waits and not is_it) else is_it
    names = one.comms | set(map(program_of, one.programs))
    return name in names if names else None


def not_shown(known: Sequence[Owner], view: View, many: Set[str]) -> list[Owner]:
    """Those of the known owners that a look does not show."""
    shown_as = pairs(known, view, many).shown_as
    return [one for place, one in enumerate(known) if place not in shown_as]


@dataclass
class Pairs:
    """Known and shown owners side by side.

    :param shown_as: by the place of a known owner that is shown, the shown one; None if an earlier one of the known
        ones is the same
    :param strangers: shown, and not known to be one of the known ones
    :param newcomers: those of them that surely are none
    :param unknown: one is shown that may be a known one
    """

    shown_as: dict[int, Owner | None]
    strangers: list[Owner]
    newcomers: list[Owner]
    unknown: bool


def pairs(known: Sequence[Owner], view: View, many: Set[str]) -> Pairs:
    """Which of the known owners are shown, and who else is.

    One that may be the only known one is taken for it, unless the known one may have a listener that shows no owner.
    """
    shown = view.owners
    if len(known) == len(shown) == 1 and not view.blank and is_same(known[0], shown[0], many) is None:
        return Pairs({0: shown[0]}, [], [], unknown=False)
    shown_as: dict[int, Owner | None] = {}
    taken: list[Owner] = []
    for place, one in enumerate(known):
        same = [other for other in shown if is_same(one, other, many)]
        if same:
            free = [other for other in same if not any(other is done for done in taken)]
            shown_as[place] = _together(free) if free else None
            taken += free
    strangers = [other for other in shown if not any(is_same(one, other, many) for one in known)]
    newcomers = [other for other in strangers if all(is_same(one, other, many) is False for one in known)]
    return Pairs(shown_as, strangers, newcomers, len(newcomers) < len(strangers))


# ── what follows for a port ─────────────────────────────────────────────────────────────────────


@dataclass
class Verdict:
    """What a look says of the owners of a port.

    :param owners: of the port from now on, those that are gone included
    :param gone: places in ``owners`` of those that this look shows to be gone
    :param back: as they were known, those that were gone and are shown again
    :param replaced: the owners from before are others now
    :param left: of those that were replaced, with those that were gone before or may be there unseen
    :param taken: none of them is shown any more
    :param same: none that rules watch came or went: if its sockets are others, it restarted
    :param there: those that were known and are shown, as they were and as they are
    :param all_shown: every listener shows an owner, and it is known whether that was there
    """

    owners: list[Owner]
    gone: list[int] = field(default_factory=list)
    back: list[Owner] = field(default_factory=list)
    replaced: bool = False
    left: list[Owner] = field(default_factory=list)
    taken: bool = False
    same: bool = False
    there: list[tuple[Owner, Owner]] = field(default_factory=list)
    all_shown: bool = False


def _compared(verdict: Verdict, known: Sequence[Owner], view: View, found: Pairs, many: Set[str]) -> Verdict:
    """The verdict, with who is there of those that were known: if several turn out to be one, it had what each had."""
    others = [known[place] for place, shown in found.shown_as.items() if shown is None]
    there = []
    for place, shown in found.shown_as.items():
        if shown is not None:
            those = [known[place], *(one for one in others if is_same(one, shown, many))]
            there.append((replace(known[place], rows=sum((one.rows for one in those), Counter())), shown))
    return replace(verdict, there=there, all_shown=not (view.blank or found.unknown))


def taken_over(known: Sequence[Owner], view: View, many: Set[str]) -> Verdict:
    """Who is shown owns the port, without a word; who is new was always there; who is gone already stays so if not shown."""
    if not view.owners:
        return Verdict(list(known))
    found = pairs(known, view, many)
    still = [one for place, one in enumerate(known) if one.gone_since is not None and place not in found.shown_as]
    back = [one for place, one in enumerate(known) if one.gone_since is not None and place in found.shown_as]
    again = [(known[place], shown) for place, shown in found.shown_as.items() if shown is not None]
    owners = [seen_again(one, shown, many) for one, shown in again] + found.strangers
    verdict = Verdict(still + owners, back=back, taken=bool(known) and not (again or found.unknown))
    return _compared(verdict, known, view, found, many)


def in_another_boot(known: Sequence[Owner], view: View, many: Set[str]) -> list[Owner]:
    """After the first look of another boot: nothing is compared, but the pids and sockets of who is shown are taken."""
    shown_as = pairs(known, view, many).shown_as
    owners = list(known)
    for place, shown in shown_as.items():
        if shown is not None:
            owners[place] = replace(owners[place], pids=shown.pids, inodes=shown.inodes, boot=shown.boot)
    return owners


@dataclass
class Circumstances:
    """Of a look at a port.

    :param waits: the host is in its grace after a reboot
    :param addresses_compare: with those that were known
    """

    clock: timedelta
    boot: int
    many: Set[str]
    confirmed: bool
    waits: bool
    addresses_compare: bool
    mature_after: timedelta


def is_late(one: Owner, look: Circumstances) -> bool:
    """Whether an owner that is not shown may still come after a boot: no look of this boot has shown it yet."""
    return look.waits and one.boot != look.boot


def expected_again(one: Owner, boot: int) -> Owner:
    """An owner of a port that is down. One that was gone before the boot has no time to come back after it."""
    if one.gone_since is None or one.boot == boot:
        return replace(one, gone_since=None)
    return replace(one, gone_since=None, boot=boot, pids=frozenset(), inodes=frozenset())


def judge(known: Sequence[Owner], view: View, look: Circumstances) -> Verdict:
    """A port that was up and is seen."""
    if not known:
        return Verdict(list(view.owners), same=not view.owners)  # who had its sockets is not known
    found = pairs(known, view, look.many)
    blank = view.blank or found.unknown
    joined = [replace(one, joined=look.clock) for one in found.newcomers]
    if found.shown_as:
        return _compared(_some_are_shown(known, view, look, found, joined, blank=blank), known, view, found, look.many)
    if not joined:
        return Verdict(list(known), same=True)
    if blank:
        return Verdict([*known, *joined])
    gone_before = [one for one in known if one.gone_since is not None]
    late = [one for one in known if one.gone_since is None and is_late(one, look)]
    if late and len(gone_before) + len(late) == len(known):
        return Verdict(list(known))
    return Verdict([*gone_before, *late, *found.newcomers], left=list(known), replaced=True, taken=True)


def _some_are_shown(
    known: Sequence[Owner], view: View, look: Circumstances, found: Pairs, joined: list[Owner], *, blank: bool
) -> Verdict:
    """Of those that were there, each is shown, gone, hidden by a blank listener, or just not needed any more."""
    there = [one for one in known if one.gone_since is None]
    gone: list[Owner] = []
    stay: list[Owner] = []
    others: list[Owner] = []
    back: list[Owner] = []
    for place, one in enumerate(known):
        if place in found.shown_as:
            shown = found.shown_as[place]
            if shown is None:  # it turns out to be one with an earlier one
                stay = [_with_names(other, one, look.many) for other in stay]
            else:
                stay.append(seen_again(one, shown, look.many))
                if look.addresses_compare and not blank:
                    rest = [other for at, other in found.shown_as.items() if other is not None and at != place]
                    stay[-1].lacks |= _taken(one, shown, [*rest, *found.newcomers], view, look)
            back += [] if one.gone_since is None else [one]
        elif one.gone_since is not None:
            others.append(one)
        elif _is_gone(one, there, view, look, blank=blank):
            gone.append(one)
        elif blank or not (look.addresses_compare or (one.inodes and view.inodes)):
            others.append(one)
        # Else all that it had is still there, in other hands: a worker, or a socket that was handed over.
    if gone and not look.confirmed:
        return Verdict(list(known))
    missed = [one for one in gone if one.watched]  # nobody asked for the others
    same = not missed and not any(one.watched for one in (*joined, *back))
    late = [one for one in gone if is_late(one, look)]
    others += late
    missed = [one for one in missed if one not in late]
    stay += joined
    if missed and all(one.joined is not None and look.clock - one.joined < look.mature_after for one in stay):
        # As after any takeover, those that are there never joined.
        stay = [replace(one, joined=None) for one in stay]
        return Verdict([*others, *stay], left=[*others, *gone], back=back, replaced=True)
    places = list(range(len(missed)))
    return Verdict([*missed, *others, *stay], gone=places, back=back, same=same)


def _taken(one: Owner, shown: Owner, others: Sequence[Owner], view: View, look: Circumstances) -> frozenset[str]:
    """The addresses of one that stays which others have, in sockets that are not its own."""
    if one.boot != look.boot or not (one.inodes and view.all_inodes):
        return frozenset()
    left = one.addresses - shown.addresses
    taken = {address for address in left if any(address in other.addresses for other in others)}
    wildcards = {"::" if ":" in address else "0.0.0.0" for address in taken} & shown.addresses
    taken = {one for one in taken if not is_loopback(one) and ("::" if ":" in one else "0.0.0.0") not in wildcards}
    taken -= in_place_of(taken, shown.addresses - one.addresses)
    handed_over = one.inodes & view.inodes - shown.inodes
    return frozenset(taken) if len(handed_over) < len(taken) else frozenset()


def _is_gone(one: Owner, there: Sequence[Owner], view: View, look: Circumstances, *, blank: bool) -> bool:
    """Whether an owner that is not shown has nothing of the port any more."""
    if one.boot != look.boot:
        return not blank  # of the sockets before the boot none is left
    by_inodes = bool(one.inodes and view.inodes)
    if by_inodes and (one.inodes & view.inodes or not blank):
        return not one.inodes & view.inodes
    if (blank and not by_inodes) or not look.addresses_compare:
        return False
    # With another socket it may be the one that is not shown, if no listener is missing.
    before: Counter[str] = sum((other.rows for other in there), Counter())
    return any(view.rows[address] < before[address] for address in one.rows)


# ── a port that is down ─────────────────────────────────────────────────────────────────────────


def is_recovered(known: Sequence[Owner], view: View, many: Set[str]) -> bool:
    """Whether a port that was down and is seen has one of its own owners again, as far as can be known."""
    found = pairs(known, view, many)
    return not known or bool(found.shown_as) or view.blank or found.unknown


def recover(known: Sequence[Owner], view: View, look: Circumstances) -> Verdict:
    """The owners of a port that was down until now: whoever of its own did not come back with it is gone."""
    found = pairs(known, view, look.many)
    if not (found.shown_as or view.blank or found.unknown):
        return Verdict(list(view.owners))  # none is known, or a declaration names another one
    stay = [seen_again(known[place], shown, look.many) for place, shown in found.shown_as.items() if shown is not None]
    missing = [one for place, one in enumerate(known) if place not in found.shown_as]
    joined = [replace(one, joined=look.clock) for one in found.newcomers]
    if view.blank or found.unknown:
        return _compared(Verdict([*missing, *stay, *joined]), known, view, found, look.many)
    late = [one for one in missing if is_late(one, look)]
    missed = [one for one in missing if one.watched and one not in late]
    return _compared(
        Verdict([*missed, *late, *stay, *joined], gone=list(range(len(missed)))), known, view, found, look.many
    )


def holders(before: Sequence[Owner], view: View, look: Circumstances) -> list[Owner]:
    """Others that have a port while it is down, or had it: each since this look, or since it was there in each look."""
    if not view.owners:
        return list(before)  # what is not shown is no difference
    found = pairs(before, view, look.many)
    there = [(before[place], shown) for place, shown in found.shown_as.items() if shown is not None]
    known = [replace(seen_again(one, shown, look.many), joined=_or(one.joined, look.clock)) for one, shown in there]
    away = [one for place, one in enumerate(before) if place not in found.shown_as]
    joined = [replace(one, joined=look.clock) for one in found.strangers]
    return [*known, *are_away(away), *joined]


def are_away(those: Sequence[Owner]) -> list[Owner]:
    """Holders that do not have the port now: they were told, and begin anew when they are back."""
    return [replace(one, joined=None) for one in those]


def _or(since: timedelta | None, clock: timedelta) -> timedelta:
    return clock if since is None else since


# ── addresses ───────────────────────────────────────────────────────────────────────────────────


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def in_place_of(lost: Set[str], gained: Set[str]) -> set[str]:
    """Those that are lost, unless more of their reach are than there are new ones. ``::`` serves those of IPv4, too."""
    found = {address for address in of_reach(lost, "other") if "::" in gained and ":" not in address}
    for reach in ("wildcard", "other"):
        fresh = of_reach(lost, reach)
        if len(fresh) <= len(of_reach(gained, reach)):
            found |= fresh
    return found


def of_reach(addresses: Set[str], reach: str) -> frozenset[str]:
    return frozenset(address for address in addresses if bind_scopes(address)[0] == reach)
