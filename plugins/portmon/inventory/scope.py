"""Which hosts a run is about."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from portmon.errors import ParamError
from portmon.model.host import Host


def select(hosts: Sequence[Host], patterns: Sequence[str]) -> list[Host]:
    """Hosts that some pattern names, in their order.

    :param patterns: ids, names, globs on names, or ``label=value`` with a glob as value
    :raises ParamError: naming every pattern that matches no host
    """
    wanted: set[str] = set()
    lost = []
    for pattern in patterns:
        found = {host.id for host in hosts if _names(host, pattern)}
        if not found:
            lost.append(pattern)
        wanted |= found
    if lost:
        raise ParamError(
            f"{', '.join(map(repr, lost))}: no host of the CMDB has such a name, id or label", field="hosts"
        )
    return [host for host in hosts if host.id in wanted]


def _names(host: Host, pattern: str) -> bool:
    if pattern in (host.id, host.name) or fnmatchcase(host.name.lower(), pattern.lower()):
        return True
    label, equals, value = pattern.partition("=")
    return bool(equals) and label in host.labels and fnmatchcase(host.labels[label], value)
