"""Ports that must listen: declared by the CMDB, portmon.yaml or a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from portmon.engine.config import Declaration
from portmon.engine.terms import Given
from portmon.matching import matches_host
from portmon.model.host import Host

Declared = Mapping[str, Mapping[int, str]]
"""Host id to port to the source of its declaration, for people."""


def declared_ports(
    fleet: Mapping[str, Host],
    declarations: Sequence[Declaration],
    promoted: Mapping[tuple[str, int], str],
    *,
    where: Callable[..., str],
) -> dict[str, dict[int, str]]:
    """The declared ports of each host that has any.

    If several sources declare a port, the CMDB is named before portmon.yaml, and that before a person.

    :param promoted: (host id, port) to the person who promoted it
    :param where: :meth:`portmon.config.Config.where`
    """
    found: dict[str, dict[int, str]] = {}
    for host_id, host in fleet.items():
        ports = dict.fromkeys(host.declared, "declared by the CMDB")
        ports |= {port: f"declared by the CMDB for {owner}" for port, owner in host.owners}
        for index, item in enumerate(declarations):
            if matches_host(item, host):
                comment = f" for {item.owner}" if item.owner else ""
                comment += f" ({item.comment})" if item.comment else ""
                for low, high in item.port:
                    for port in range(low, high + 1):
                        ports.setdefault(port, f"declared by {where('declared', index)}{comment}")
        if ports:
            found[host_id] = ports
    for (host_id, port), who in promoted.items():
        if host_id in fleet:
            found.setdefault(host_id, {}).setdefault(port, f"promoted by {who}")
    return found


def declared_terms(fleet: Mapping[str, Host], declarations: Sequence[Declaration]) -> dict[str, dict[int, Given]]:
    """Host id: port: the terms of its declaration, where it gives any. The first declaration that gives some counts."""
    found: dict[str, dict[int, Given]] = {}
    giving = [item for item in declarations if item.gives_terms or item.owner]
    for host_id, host in fleet.items():
        ports: dict[int, Given] = {}
        for item in giving:
            if matches_host(item, host):
                given = Given(item if item.gives_terms else None, item.owner)
                for low, high in item.port:
                    for port in range(low, high + 1):
                        ports.setdefault(port, given)
        for port, owner in host.owners:
            ports[port] = Given(ports[port].thresholds if port in ports else None, owner)
        if ports:
            found[host_id] = ports
    return found
