"""Host lists as the CMDB gave them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from portmon.errors import StorageError
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.storage import contents
from portmon.storage.sql import upsert_rows
from portmon.storage.tables import inventories

log = logging.getLogger(__name__)

TRIED = 20
"""So many stored host lists are tried for one that can be read."""


@dataclass(frozen=True, slots=True)
class StoredInventory:
    """A host list, and when the CMDB last gave just this one."""

    inventory: Inventory
    digest: str
    fetched_at: datetime


def save(conn: Connection, inventory: Inventory, *, run_id: str, fetched_at: datetime, stale: bool) -> str:
    """Store a host list; the same list again only gets the new time.

    :param stale: an old list, or one that no later run may fall back to: only its content is stored
    :returns: its digest
    """
    digest = contents.put(conn, to_json(inventory), now=fetched_at, sound=True)
    if not stale:
        upsert_rows(conn, inventories, [{"digest": digest, "fetched_at": fetched_at, "run_id": run_id}])
    return digest


def to_json(inventory: Inventory) -> bytes:
    """A host list as it is archived: equal lists give equal bytes."""
    hosts, invalid = list(map(host_to_json, inventory.hosts)), list(map(asdict, inventory.invalid))
    value = {"hosts": hosts, "invalid": invalid, "disabled": inventory.disabled, "source": inventory.source}
    return contents.canonical(value)


def host_to_json(host: Host) -> dict[str, Any]:
    """A host as it is archived, JSON types only, see :func:`host_from_json`."""
    return {name: getattr(host, name) for name in Host.__slots__} | {"labels": dict(host.labels)}


def host_from_json(value: Mapping[str, Any]) -> Host:
    """The inverse of :func:`host_to_json`."""
    known = {"owners": (), **value}
    owners = tuple((port, owner) for port, owner in known["owners"])
    return Host(**{**known, "declared": tuple(known["declared"]), "owners": owners})


def load(conn: Connection, digest: str) -> Inventory:
    """The host list of a digest.

    :raises StorageError: if it is gone or damaged
    """
    value = json.loads(contents.get(conn, digest))
    return Inventory(
        hosts=tuple(map(host_from_json, value["hosts"])),
        invalid=tuple(InvalidHost(**entry) for entry in value["invalid"]),
        disabled=value["disabled"],
        source=value["source"],
    )


def last_good(conn: Connection) -> StoredInventory | None:
    """The host list that the CMDB gave last; None before the first. One that is damaged is passed over."""
    query = select(inventories).order_by(inventories.c.fetched_at.desc()).limit(TRIED)
    for row in conn.execute(query).all():
        try:
            return StoredInventory(load(conn, row.digest), row.digest, row.fetched_at)
        except StorageError as error:
            log.warning(
                "The host list of %s UTC can't be read, going by an older one: %s",
                f"{row.fetched_at:%Y-%m-%d %H:%M:%S}",
                error,
            )
    return None
