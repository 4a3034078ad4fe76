"""The hosts that are known: in the inventory, hidden, gone."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Text, and_, delete, func, not_, or_, select, type_coerce, update

from portmon.engine.owners import PortOwner
from portmon.model.host import Host, KnownHost
from portmon.model.numbers import declared_port, is_udp, number_of, port_of, protocol_of, text_of
from portmon.model.observation import PROBE, PortKey, hung_tools
from portmon.model.state import HostStatus, PortStatus
from portmon.storage import deliveries
from portmon.storage.sql import change_in, rows_in, upsert_rows
from portmon.storage.tables import hosts, observations, ports


def known(conn: Connection, host_ids: Collection[str] | None = None) -> list[KnownHost]:
    """Every stored host, or some of them, hidden ones included."""
    names = ("host_id", "name", "address", "ssh_port", "labels", "declared", "removed_at", "duplicate_of")
    query = select(*(hosts.c[name] for name in names)).order_by(hosts.c.host_id)
    found = []
    for row in rows_in(conn, query, hosts.c.host_id, host_ids):
        ports, owners = _declared(row.declared)
        own = (row.host_id, row.name, row.address, row.ssh_port, row.labels)
        found.append(KnownHost(*own, ports, owners, row.removed_at, row.duplicate_of))
    return found


def _declared(stored: Sequence[int | str]) -> tuple[tuple[int, ...], tuple[tuple[int, str], ...]]:
    """Numbers of declared ports, and the owners of some, which are stored as ``443/nginx.service``; those of UDP as
    ``53/udp`` and ``53/udp/named.service``."""
    parts = [declared_port(str(one)) for one in stored]
    return tuple(number for number, _ in parts), tuple((number, owner) for number, owner in parts if owner)


def _stored(host: Host) -> list[int | str]:
    owners = dict(host.owners)
    return [
        f"{text_of(number)}/{owners[number]}" if number in owners else text_of(number) if is_udp(number) else number
        for number in host.declared
    ]


def sites(conn: Connection) -> tuple[dict[str, Mapping[str, str]], set[str]]:
    """Host id: labels, of every host that is in the CMDB; and the ids of those that are unreachable."""
    query = select(hosts.c.host_id, hosts.c.labels, hosts.c.status).where(hosts.c.removed_at.is_(None))
    found = conn.execute(query).all()
    unreachable = {row.host_id for row in found if row.status == HostStatus.UNREACHABLE}
    return {row.host_id: row.labels for row in found}, unreachable


def named(conn: Connection, wanted: str) -> list[KnownHost]:
    """The stored host that has an id, else those that have it as their name, without regard to case."""
    # The type of the column: it takes what the database would refuse.
    lower = type_coerce(wanted.lower(), hosts.c.name.type)
    ids = conn.execute(select(hosts.c.host_id).where(func.lower(hosts.c.name) == lower)).scalars()
    found = known(conn, [wanted]) or known(conn, ids.all())
    # SQLite knows upper and lower case of ASCII only.
    return found or ([] if wanted.isascii() else [host for host in known(conn) if host.name.lower() == wanted.lower()])


def listed(
    conn: Connection, host_ids: Collection[str] | None = None, *, besides: Collection[str] = ()
) -> dict[str, Host]:
    """Host id: host, of every one that is in the CMDB, or of some of them, without ``besides``."""
    wanted = host_ids
    if besides:
        ids = conn.execute(select(hosts.c.host_id).where(hosts.c.removed_at.is_(None))).scalars()
        wanted = [host_id for host_id in ids if host_id not in besides]
    return {host.id: host.as_host() for host in known(conn, wanted) if host.removed_at is None}


# In JSON text as SafeJson writes it: sorted, without blanks, and the quotes of any name are escaped, so that only the
# field itself matches, and only with a time.
OWNER_GONE = type_coerce(ports.c.owners, Text).contains('"gone_since":"', autoescape=True)
"""Whether an owner of a port is gone while others remain."""


def open_ports(conn: Connection) -> list[PortKey]:
    """Ports that something is wrong with, see :func:`portmon.engine.transitions.is_open`."""
    flapping = or_(ports.c.flapping_since.is_not(None), ports.c.bind_flapping_since.is_not(None))
    down, known = ports.c.status == PortStatus.DOWN, ports.c.paused.is_(False)
    wrong = and_(known, or_(down, flapping, type_coerce(ports.c.lost, Text) != "[]", OWNER_GONE))
    keys = select(ports.c.host_id, ports.c.protocol, ports.c.port)
    return [(row.host_id, row.protocol, row.port) for row in conn.execute(keys.where(wrong))]


def well_since(conn: Connection, host_ids: Collection[str]) -> dict[tuple[str, str | None, int | None], datetime]:
    """Since when what flaps is well and unchanged: of hosts that answer, and ports that listen on all their binds.

    Nor is a port well that one of its owners left.

    :returns: host id, protocol and port (None of a host): time of its last change; nothing of what is down
    """
    found: dict[tuple[str, str | None, int | None], datetime] = {}
    hosts_ok = select(hosts.c.host_id, hosts.c.changed_at).where(hosts.c.status == HostStatus.OK)
    changed = (ports.c.changed_at, ports.c.bind_changed_at)
    names = (ports.c.host_id, ports.c.protocol, ports.c.port, *changed)
    whole = (type_coerce(ports.c.lost, Text) == "[]", not_(OWNER_GONE))
    ports_up = select(*names).where(ports.c.status == PortStatus.UP, *whole)
    flapped = ports_up.where(or_(*(column.is_not(None) for column in changed)))
    for row in rows_in(conn, hosts_ok.where(hosts.c.changed_at.is_not(None)), hosts.c.host_id, host_ids):
        found[row.host_id, None, None] = row.changed_at
    for row in rows_in(conn, flapped, ports.c.host_id, host_ids):
        found[row.host_id, row.protocol, row.port] = max(filter(None, (row.changed_at, row.bind_changed_at)))
    return found


def sync(conn: Connection, listed: Iterable[Host]) -> None:
    """Take names, addresses and labels from the inventory; a host that is new there gets its row."""
    stored = {host.id: host.as_host() for host in known(conn)}
    rows = [
        {
            "host_id": host.id,
            "name": host.name,
            "address": host.address,
            "ssh_port": host.port,
            "labels": dict(host.labels),
            "declared": _stored(host),
            "status": HostStatus.NEW,
            "failures": 0,
        }
        for host in listed
        if stored.get(host.id) != host
    ]
    upsert_rows(conn, hosts, rows, columns=["name", "address", "ssh_port", "labels", "declared"])


def known_ports(conn: Connection, host_ids: Collection[str]) -> dict[str, dict[int, tuple[str, tuple[str, ...]]]]:
    """Host id: its ports by their numbers, each with its status and its bind addresses."""
    found: dict[str, dict[int, tuple[str, tuple[str, ...]]]] = defaultdict(dict)
    # As text: most ports listen on one of a few lists of addresses, which tuple_of() reads once.
    addresses = type_coerce(ports.c.addresses, Text)
    names = (ports.c.host_id, ports.c.protocol, ports.c.port, ports.c.status)
    query = select(*names, addresses).order_by(ports.c.port)
    for host_id, protocol, port, status, text in rows_in(conn, query, ports.c.host_id, host_ids):
        found[host_id][number_of(protocol, port)] = (status, tuple_of(text))
    return dict(found)


def shared_ports(conn: Connection, host_ids: Collection[str]) -> dict[str, dict[int, tuple[PortOwner, ...]]]:
    """Host id: the numbers of ports that are up and have several owners, or had them."""
    found: dict[str, dict[int, tuple[PortOwner, ...]]] = defaultdict(dict)
    query = select(ports.c.host_id, ports.c.protocol, ports.c.port, ports.c.owners).where(
        ports.c.status == PortStatus.UP, type_coerce(ports.c.owners, Text) != "[]"
    )
    for host_id, protocol, port, own in rows_in(conn, query, ports.c.host_id, host_ids):
        if len(own) > 1:
            found[host_id][number_of(protocol, port)] = tuple(map(owner_of, own))
    return dict(found)


_OF_OWNERS = frozenset({"comms", "programs", "pids", "inodes", "binds", "lacks"})


def owner_of(stored: Mapping[str, Any]) -> PortOwner:
    """An owner of a port, from JSON."""
    # Fields of later versions have their defaults.
    names = (field.name for field in dataclasses.fields(PortOwner) if field.name in stored)
    values: dict[str, Any] = {name: tuple(stored[name]) if name in _OF_OWNERS else stored[name] for name in names}
    if values.get("gone_since"):
        values["gone_since"] = datetime.fromisoformat(values["gone_since"])
    return PortOwner(**values)


def declaration(conn: Connection, host_id: str, number: int) -> str | None:
    """Why a port of a host must listen, as of its last evaluation; None if it need not."""
    own = (ports.c.host_id == host_id, ports.c.protocol == protocol_of(number), ports.c.port == port_of(number))
    return conn.execute(select(ports.c.declared).where(*own)).scalar()


def owners(conn: Connection, host_id: str, numbers: Collection[int]) -> dict[int, str]:
    """Number of a port of a host: the names of its last known programs and units."""
    names = (ports.c.protocol, ports.c.port, ports.c.programs, ports.c.units)
    query = select(*names).where(ports.c.host_id == host_id)
    found = rows_in(conn, query, ports.c.port, {port_of(number) for number in numbers})
    return {number_of(row.protocol, row.port): ", ".join((*row.programs, *row.units)) for row in found}


def tools(conn: Connection, host_ids: Collection[str], now: datetime) -> dict[str, tuple[str | None, tuple[str, ...]]]:
    """Host id: the tool that answered last there, and the tools that hung not long ago."""
    query = select(hosts.c.host_id, hosts.c.tool, hosts.c.hung, hosts.c.hung_at)
    rows = rows_in(conn, query, hosts.c.host_id, host_ids)
    return {host_id: (tool, hung_tools(hung, hung_at, now)) for host_id, tool, hung, hung_at in rows}


def outdated(conn: Connection) -> list[str]:
    """Names of the hosts whose forced command is of an earlier version, in order."""
    query = select(hosts.c.name).where(hosts.c.removed_at.is_(None), hosts.c.probe < PROBE).order_by(hosts.c.name)
    return list(conn.execute(query).scalars())


@lru_cache(maxsize=1 << 16)
def tuple_of(text: str) -> tuple[Any, ...]:
    """The items of a JSON list."""
    return tuple(json.loads(text))


def failing(conn: Connection) -> dict[str, str | None]:
    """Host id: error class, of hosts of which the last run that tried them got no evidence."""
    without = or_(hosts.c.failures > 0, hosts.c.status == HostStatus.UNREACHABLE)
    rows = conn.execute(select(hosts.c.host_id, hosts.c.error_class).where(without))
    return {row.host_id: row.error_class for row in rows}


def hide(conn: Connection, host_ids: Collection[str], now: datetime) -> None:
    """Hide hosts: their state stays, and what was not sent of them yet is cancelled."""
    visible = update(hosts).where(hosts.c.removed_at.is_(None))
    change_in(conn, visible.values(removed_at=now), hosts.c.host_id, host_ids)
    deliveries.cancel_hosts(conn, host_ids, reason="the host left the CMDB", now=now)
    unsettle(conn, host_ids)


def resume(conn: Connection, host_ids: Collection[str]) -> None:
    """Show hosts again that came back in time; they go on with their state."""
    change_in(conn, update(hosts).values(removed_at=None), hosts.c.host_id, host_ids)
    unsettle(conn, host_ids)


def purge(conn: Connection, host_ids: Collection[str]) -> None:
    """Delete hosts and their ports. Their events stay, and their observations, which are never evaluated again."""
    change_in(conn, delete(ports), ports.c.host_id, host_ids)
    change_in(conn, delete(hosts), hosts.c.host_id, host_ids)
    change_in(conn, update(observations).values(live=False), observations.c.host_id, host_ids)


def unsettle(conn: Connection, host_ids: Collection[str]) -> None:
    """Let the next ok observation of hosts be compared with their ports, even if it shows nothing new."""
    change_in(conn, update(hosts).values(fingerprint=None), hosts.c.host_id, host_ids)
