"""What the ss beside netstat says of its sockets: user, inode, and the cgroup that each was made in.

Address and port have to tell which row is whose, and sockets may share them (SO_REUSEPORT). Then only what is certain
is taken: an inode that is another socket's would hide the end of its service.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from portmon.probe.cgroup import unit_of
from portmon.probe.rows import Process, Socket

_Group = tuple[list[Socket], list[Socket]]
"""Sockets that netstat lists, and rows of ss that are theirs, in no order."""


def complete(sockets: Iterable[Socket], by_ss: Iterable[Socket], processes: Mapping[int, Process]) -> None:
    """Add what ss says to the sockets that netstat lists.

    :param processes: facts about the owners, by pid
    """
    # netstat prints no interface.
    places: dict[tuple[str, int], _Group] = defaultdict(lambda: ([], []))
    for socket in sockets:
        places[socket.address, socket.port][0].append(socket)
    for row in by_ss:
        places[row.address, row.port][1].append(row)
    for place in places.values():
        for own, found in _groups(place, processes):
            _add(own, found, processes)


def _groups(place: _Group, processes: Mapping[int, Process]) -> Iterator[_Group]:
    """The sockets of one place apart by the unit of process and socket, as far as their numbers agree; and the rest."""
    if len(place[0]) < 2 and len(place[1]) < 2:
        yield place
        return
    by_unit: dict[str | None, _Group] = defaultdict(lambda: ([], []))
    for socket in place[0]:
        by_unit[_holder(socket, processes)[0]][0].append(socket)
    for row in place[1]:
        by_unit[unit_of(row.cgroup) if row.cgroup else None][1].append(row)
    rest: _Group = ([], [])
    for unit, (own, found) in by_unit.items():
        if unit is not None and len(own) == len(found):
            yield own, found
        else:
            rest[0].extend(own)
            rest[1].extend(found)
    yield rest


def _add(own: Sequence[Socket], found: Sequence[Socket], processes: Mapping[int, Process]) -> None:
    # Which of its own sockets a program shows in which row makes no difference.
    if len(own) == len(found) and len({_holder(socket, processes) for socket in own}) == 1:
        for socket, row in zip(own, found, strict=True):
            socket.uid = row.uid if socket.uid is None else socket.uid
            socket.inode = row.inode if socket.inode is None else socket.inode
            socket.cgroup = row.cgroup
    elif len(own) <= len(found):
        # Each is one of them: what all of them say is true of each.
        uids, cgroups = {row.uid for row in found}, {row.cgroup for row in found}
        for socket in own:
            if len(uids) == 1 and socket.uid is None:
                (socket.uid,) = uids
            if len(cgroups) == 1:
                (socket.cgroup,) = cgroups


def _holder(socket: Socket, processes: Mapping[int, Process]) -> tuple[str | None, str | None]:
    """Unit and program that the row of a socket shows; two rows of one holder are not told apart."""
    if not socket.owners:
        return None, None
    owner = socket.owners[0]
    process = processes.get(owner.pid) or Process()
    return process.unit, process.comm or owner.program
