"""Ports that must listen: declared by the CMDB, portmon.yaml or a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from portmon.engine.config import Declaration
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
        for index, item in enumerate(declarations):
            if matches_host(item, host):
                comment = f" ({item.comment})" if item.comment else ""
                for low, high in item.port:
                    for port in range(low, high + 1):
                        ports.setdefault(port, f"declared by {where('declared', index)}{comment}")
        if ports:
            found[host_id] = ports
    for (host_id, port), who in promoted.items():
        if host_id in fleet:
            found.setdefault(host_id, {}).setdefault(port, f"promoted by {who}")
    return found
