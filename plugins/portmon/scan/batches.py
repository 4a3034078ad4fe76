"""Deal hosts into batches, so that hosts that fail together do not wait together."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from types import MappingProxyType

from portmon.model.host import Host

MAX_BATCHES = 64
"""Mapped tasks of one sweep: more of them cost Airflow more than they save."""
LOGINS = 8
"""Parallel logins of a batch, at least, if there are so many: one hanging host must not stop a batch, and each batch
that runs beside others is a process more."""

LATEST = datetime.max.replace(tzinfo=UTC)
"""Stands for the last run, of hosts that it tried."""


@dataclass(frozen=True, slots=True)
class HostBatch:
    """The hosts of one sweep task, as the run's host list has them, without their state: it changes with them only.

    :param logins: at a time
    :param lanes: proxy command: logins through it at a time
    """

    hosts: tuple[Host, ...]
    logins: int
    lanes: Mapping[str, int]


def batches_at_once(max_logins: int) -> int:
    """How many batches may run at the same time, given the parallel logins of a run."""
    return max(1, max_logins // LOGINS)


def deal(
    hosts: Sequence[Host], *, size: int, max_logins: int, proxies: Mapping[str, str], per_proxy: int
) -> list[HostBatch]:
    """Batches of about equal length, each with its share of the logins.

    A network's hosts are spread over all batches: a dead rack fills none. Hosts behind a proxy command are in so few
    batches that these share its logins.

    :param size: hosts of a batch, as long as there are no more than :data:`MAX_BATCHES`
    :param max_logins: parallel logins over all batches
    :param proxies: host id: its proxy command
    :param per_proxy: parallel logins through one such command, over all batches
    """
    count = min(MAX_BATCHES, -(-len(hosts) // size))
    if not count:
        return []
    at_once = min(count, batches_at_once(max_logins))
    # No last round in which one batch works and the logins of the others rest.
    count = min(-(-count // at_once), MAX_BATCHES // at_once) * at_once
    of_lane = max(1, min(count, per_proxy))
    dealt: list[list[Host]] = [[] for _ in range(count)]
    # Neighbours go to different batches. Dealing every n-th host would make a batch of each network, with as many
    # networks as batches.
    for host in sorted(hosts, key=lambda host: (network_of(host.address), host.id)):
        open_to = dealt[:of_lane] if host.id in proxies else dealt
        min(open_to, key=len).append(host)
    return [
        HostBatch(
            tuple(own),
            logins=max_logins // at_once + (number < max_logins % at_once and count == at_once),
            lanes={
                command: max(1, per_proxy // min(of_lane, at_once))
                for command in sorted({proxies[host.id] for host in own if host.id in proxies})
            },
        )
        for number, own in enumerate(dealt)
        if own
    ]


def in_order(
    hosts: Sequence[Host], failing: Mapping[str, str | None], untried: Mapping[str, datetime] = MappingProxyType({})
) -> list[Host]:
    """The hosts of a batch in the order of their visits: one of each network in turn, so that a dead rack does not come
    in one piece. Those that failed last time come last, those that timed out at the very end. Of both, those come
    first that the last run did not try, the longest untried of each network before the others.

    :param failing: id of hosts that gave no evidence last time: its error class
    :param untried: id of hosts that the last run did not try: when they were last tried
    """
    order: list[Host] = []
    groups: dict[tuple[bool, bool, bool], dict[str, list[Host]]] = defaultdict(lambda: defaultdict(list))
    for host in sorted(hosts, key=lambda host: untried.get(host.id, LATEST)):
        failed, tried = host.id in failing, host.id not in untried
        group = (failed, tried, tried and failing.get(host.id) == "timeout")
        groups[group][network_of(host.address)].append(host)
    for _, networks in sorted(groups.items()):
        rounds = zip_longest(*(networks[name] for name in sorted(networks)))
        order += [host for turn in rounds for host in turn if host is not None]
    return order


def network_of(address: str) -> str:
    """The network that fails together with an address: its /24 or /64; of a name its domain, or the name without its
    number.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        host, dot, domain = address.partition(".")
        return domain if dot else re.sub(r"\d+$", "", host)
    return str(ipaddress.ip_network((parsed, 24 if parsed.version == 4 else 64), strict=False))
