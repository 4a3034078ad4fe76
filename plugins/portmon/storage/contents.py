"""Bytes by their hash: what does not change is stored once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import zstandard
from sqlalchemy import Connection, and_, delete, func, select, union, update

from portmon.errors import StorageError
from portmon.storage.sql import change_in, chunks, rows_in, update_rows, upsert_rows
from portmon.storage.tables import checkpoints, contents, inventories, journal, runs

FRESH = timedelta(hours=12)
"""Contents that are used again within this time are not written again: their time of use may lag behind by as much."""
MAX_SIZE = 64 * 1024**2


def put(conn: Connection, data: bytes, *, now: datetime | None = None, sound: bool = False) -> str:
    """Store bytes unless they are there.

    :param sound: make sure that they can be read
    :returns: their digest
    """
    digest = digest_of(data)
    items, used_at = {digest: data}, {digest: now or datetime.now(UTC)}
    put_many(conn, items, used_at)
    if sound and read_many(conn, items)[1]:
        doubt(conn, items)
        put_many(conn, items, used_at)
    return digest


def put_many(conn: Connection, items: Mapping[str, bytes], used_at: Mapping[str, datetime]) -> None:
    """Store bytes unless they are there, many in a few statements.

    :param items: digest: bytes
    :param used_at: digest: the time of what refers to it
    """
    known = _used_at(conn, items, readable=True)
    compress = zstandard.ZstdCompressor(level=9).compress
    new: list[dict[str, Any]] = []
    old: list[dict[str, Any]] = []
    # In order, so that two transactions that write the same contents wait for each other without a deadlock.
    for digest in sorted(items):
        if digest not in known or used_at[digest] - known[digest] > FRESH:
            data = items[digest]
            row = {"digest": digest, "data": compress(data), "size": len(data), "used_at": used_at[digest]}
            (old if digest in known else new).append(row | {"damaged": False})
    # Not an update of the old ones: one that another transaction deletes just now would be missed.
    upsert_rows(conn, contents, old, columns=["used_at"])
    upsert_rows(conn, contents, new)


def known(conn: Connection, digests: Iterable[str]) -> set[str]:
    """The digests whose bytes are stored and not known to be damaged."""
    return set(_used_at(conn, digests, readable=True))


def doubt(conn: Connection, digests: Iterable[str]) -> None:
    """Note that bytes can't be read: the same bytes are then stored anew."""
    change_in(conn, update(contents).values(damaged=True), contents.c.digest, digests)


def use(conn: Connection, used_at: Mapping[str, datetime]) -> None:
    """Keep stored bytes for as long as if they were stored again.

    :param used_at: digest: the time of what refers to it
    :raises StorageError: if some are gone
    """
    known = _used_at(conn, used_at)
    gone = sorted(set(used_at) - set(known))
    if gone:
        raise StorageError(f"content {gone[0]} is not in the archive (expired?)")
    old = [digest for digest, at in used_at.items() if at - known[digest] > FRESH]
    update_rows(conn, contents, [{"digest": digest, "used_at": used_at[digest]} for digest in sorted(old)])


def _used_at(conn: Connection, digests: Iterable[str], *, readable: bool = False) -> dict[str, datetime]:
    # Digest: when stored bytes were used last; without damaged ones if they must be readable.
    query = select(contents.c.digest, contents.c.used_at)
    if readable:
        query = query.where(~contents.c.damaged)
    return {row.digest: row.used_at for row in rows_in(conn, query, contents.c.digest, digests)}


def canonical(value: object) -> bytes:
    """JSON in a form in which equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def digest_of(data: bytes) -> str:
    """The SHA-256 that names bytes."""
    return hashlib.sha256(data).hexdigest()


def get(conn: Connection, digest: str) -> bytes:
    """The bytes of a digest.

    :raises StorageError: if they are gone or damaged
    """
    data = conn.execute(select(contents.c.data).where(contents.c.digest == digest)).scalar()
    if data is None:
        raise StorageError(f"content {digest} is not in the archive (expired?)")
    return unpack(digest, data)


def read_many(conn: Connection, digests: Iterable[str]) -> tuple[dict[str, bytes], dict[str, StorageError]]:
    """Digest: bytes, of those that are not gone; digest: error, of those that are damaged."""
    found: dict[str, bytes] = {}
    broken: dict[str, StorageError] = {}
    for digest, data in rows_in(conn, select(contents.c.digest, contents.c.data), contents.c.digest, digests):
        try:
            found[digest] = unpack(digest, data)
        except StorageError as error:
            broken[digest] = error
    return found, broken


def expire(conn: Connection, before: datetime, *, most: int | None = None) -> int:
    """Delete contents that nothing refers to any more, once the observations from before a moment are gone.

    Contents that were last used more than :data:`FRESH` before it belong to no later observation, so the archive need
    not be searched. Host lists, runs, the journal and checkpoints, which are few, may refer to older contents.

    :param most: so many; None: all of them
    :returns: how many
    """
    columns = (inventories.c.digest, runs.c.inventory, runs.c.settings, journal.c.inventory, journal.c.what)
    referred = union(*map(select, (*columns, checkpoints.c.content)))
    old = and_(contents.c.used_at < before - FRESH, contents.c.digest.not_in(referred))
    if most is not None:
        old = contents.c.digest.in_(select(contents.c.digest).where(old).limit(most))
    return int(conn.execute(delete(contents).where(old)).rowcount)


def sizes(conn: Connection) -> tuple[int, int, int]:
    """Number of contents, bytes before and after compression."""
    lengths = (func.sum(contents.c.size), func.sum(func.length(contents.c.data)))
    number, size, stored = conn.execute(select(func.count(), *(func.coalesce(length, 0) for length in lengths))).one()
    return int(number), int(size), int(stored)


def damaged(conn: Connection) -> Iterator[str]:
    """Digests of damaged contents: reads all contents."""
    digests = conn.execute(select(contents.c.digest).order_by(contents.c.digest)).scalars().all()
    for part in chunks(digests):
        yield from read_many(conn, part)[1]


def unpack(digest: str, data: bytes) -> bytes:
    """Decompress bytes, and check their digest.

    :raises StorageError: if they are damaged
    """
    try:
        found = zstandard.decompress(bytes(data), max_output_size=MAX_SIZE)
    except (zstandard.ZstdError, TypeError) as error:
        raise StorageError(f"content {digest} is damaged: {error}") from error
    if digest_of(found) != digest:
        raise StorageError(f"content {digest} is damaged: its hash differs")
    return found
