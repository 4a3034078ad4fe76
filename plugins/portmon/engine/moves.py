"""Ports that moved: a program left a random port for another one. In doubt none moved, and a death is told. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence

from portmon.engine.owners import containers_of, services_of
from portmon.engine.state import Evidence, Port, Seen
from portmon.matching import bind_scopes
from portmon.model.numbers import is_udp
from portmon.model.state import PortStatus
from portmon.probe.compare import program_of

PROXIES = frozenset({"docker-proxy", "rootlessport", "kube-proxy", "sshd", "sshd-session"})
"""Programs that listen for others: another port of theirs is another service."""


def heirs(
    missing: Sequence[Port],
    arrivals: Mapping[int, Seen],
    stayed: Iterable[tuple[Port, Seen]],
    evidence: Evidence,
    must: Collection[int],
) -> dict[int, int]:
    """Missing port to the port to which its program moved: as many of one owner, family and reach came as are gone.

    UDP ports never move: they are not learned in that range.

    Candidates count as well: they come and go, and the death of a port beside one that goes on elsewhere is no move.

    :param arrivals: ports that are shown and not known
    :param stayed: ports that are known and shown with other attributes
    :param must: declared ports
    """
    if not evidence.confirmed:
        return {}
    gone = [port for port in missing if port.number not in must and _may_move(port, evidence)]
    came = {
        number: seen
        for number, seen in arrivals.items()
        if number not in must
        and not is_udp(number)
        and evidence.is_ephemeral(number, (*seen.comms, *seen.programs))
        and not _is_proxy(seen)
    }
    if not gone or not came:
        return {}
    candidates = {port.number for port in gone if port.status == PortStatus.CANDIDATE}
    owner_of = _owners([*gone, *came.values()], _new_ids(stayed, evidence), evidence)
    groups: dict[tuple[Hashable, Hashable], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for port in gone:
        groups[owner_of(port), _reach((*port.addresses, *port.lost))][0].append(port.number)
    for number, seen in came.items():
        groups[owner_of(seen), _reach(seen.addresses)][1].append(number)
    return {
        old: new
        for (who, _), (left, taken) in groups.items()
        if who is not None and len(left) == len(taken)
        for old, new in zip(sorted(left), sorted(taken), strict=True)
        if old not in candidates
    }


def _may_move(port: Port, evidence: Evidence) -> bool:
    if port.hidden_since is not None or _is_proxy(port) or is_udp(port.number):
        return False
    if not evidence.is_ephemeral(port.number, (*port.comms, *port.programs)):
        return False
    if port.last_seen_at is None:
        return port.status != PortStatus.DOWN
    # In the first hour of a boot what came and what is gone may show in different looks.
    is_late = evidence.is_early and port.number in evidence.before_boot
    return is_late and port.status != PortStatus.CANDIDATE and (port.seen_clock or 0.0) < (evidence.boot_clock or 0.0)


def _is_proxy(one: Port | Seen) -> bool:
    return not PROXIES.isdisjoint((*one.comms, *map(program_of, one.programs)))


def _owners(
    all_: Sequence[Port | Seen], new_ids: Mapping[str, str], evidence: Evidence
) -> Callable[[Port | Seen], Hashable]:
    """What names the owner of a port, None if that is not known; only names of one kind are compared."""
    by_comm = all(one.comms for one in all_ if one.programs or one.comms)

    def owner(one: Port | Seen) -> Hashable:
        names = one.comms if by_comm else tuple(map(program_of, one.programs))
        if not by_comm and isinstance(one, Port) and one.tool != evidence.tool:
            names = ()
        if names:
            containers = frozenset(new_ids.get(old, old) for old in containers_of(one.units))
            return services_of(one.units), containers, frozenset(names)
        is_shown = one.units or one.programs or one.comms
        return None if is_shown or not evidence.is_early else one.uids

    return owner


def _new_ids(stayed: Iterable[tuple[Port, Seen]], evidence: Evidence) -> dict[str, str]:
    """Id of a container that is gone: that of the one which has another of its ports now."""
    found = {}
    for port, seen in stayed:
        old, new = containers_of(port.units), containers_of(seen.units)
        if len(old) == len(new) == 1 and old != new and old.isdisjoint(evidence.units):
            found[min(old)] = min(new)
    return found


def _reach(addresses: Iterable[str]) -> frozenset[tuple[bool, str]]:
    return frozenset((":" in address, bind_scopes(address)[0]) for address in addresses)
