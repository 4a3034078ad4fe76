"""SSH host keys that were trusted on first use, and other ones that were offered since.

An endpoint is written ``[address]:port``, as known_hosts does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update

from portmon.storage.sql import insert_new, rows_in
from portmon.storage.tables import host_keys

TRUSTED = "trusted"
OFFERED = "offered"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key of an endpoint.

    :param trusted: False if it was offered in place of a trusted one, and refused
    """

    endpoint: str
    key_type: str
    key_base64: str
    fingerprint: str
    trusted: bool
    first_seen: datetime


def trusted(conn: Connection, endpoints: Collection[str]) -> dict[str, list[StoredKey]]:
    """Endpoint: its trusted keys, of those that have any."""
    found: dict[str, list[StoredKey]] = {}
    query = select(host_keys).where(host_keys.c.state == TRUSTED)
    for row in rows_in(conn, query, host_keys.c.endpoint, endpoints):
        found.setdefault(row.endpoint, []).append(_key(row))
    return found


def list_all(conn: Connection, endpoint: str | None = None) -> list[StoredKey]:
    """Keys of one endpoint, or of all, trusted ones first."""
    query = select(host_keys).order_by(host_keys.c.endpoint, host_keys.c.state.desc(), host_keys.c.key_type)
    if endpoint is not None:
        query = query.where(host_keys.c.endpoint == endpoint)
    return [_key(row) for row in conn.execute(query)]


def remember(conn: Connection, endpoint: str, key_type: str, key_base64: str, fingerprint: str, now: datetime) -> None:
    """Trust a key, unless the endpoint has one of its type."""
    _insert(conn, TRUSTED, endpoint, key_type, key_base64, fingerprint, now)


def report_change(
    conn: Connection, endpoint: str, key_type: str, key_base64: str, fingerprint: str, now: datetime
) -> None:
    """Keep the last refused key of an endpoint, so that a person can accept it."""
    conn.execute(delete(host_keys).where(*_of(endpoint, OFFERED), host_keys.c.key_base64 != key_base64))
    _insert(conn, OFFERED, endpoint, key_type, key_base64, fingerprint, now)


def accept(conn: Connection, endpoint: str, fingerprint: str) -> bool:
    """Trust the key that was offered last.

    :param fingerprint: of the key that a person compared
    :returns: False if no key or another one was offered last
    """
    offered = (*_of(endpoint, OFFERED), host_keys.c.fingerprint == fingerprint)
    if conn.execute(select(host_keys.c.endpoint).where(*offered)).first() is None:
        return False
    conn.execute(delete(host_keys).where(*_of(endpoint, TRUSTED)))
    conn.execute(update(host_keys).where(*offered).values(state=TRUSTED))
    return True


def _of(endpoint: str, state: str) -> tuple[Any, Any]:
    return host_keys.c.endpoint == endpoint, host_keys.c.state == state


def _insert(conn: Connection, *values: object) -> None:
    names = ("state", "endpoint", "key_type", "key_base64", "fingerprint", "first_seen")
    conn.execute(insert_new(conn, host_keys), dict(zip(names, values, strict=True)))


def _key(row: Any) -> StoredKey:
    return StoredKey(row.endpoint, row.key_type, row.key_base64, row.fingerprint, row.state == TRUSTED, row.first_seen)
