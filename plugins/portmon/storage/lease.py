"""One writer at a time: leases with fencing tokens.

A lease says who may write. It expires, so that a crash blocks nobody for long; therefore its holder may
wake up late and find itself replaced. Every holder has a higher token than the one before, and
:meth:`Lease.check`, inside the transaction that writes, refuses a token that is not the newest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, or_, select, update

from portmon.errors import DatabaseBusyError, LeaseLostError, StorageError
from portmon.storage.database import Database
from portmon.storage.sql import insert_new
from portmon.storage.tables import leases

POLL = 0.2
"""Seconds between two looks at a lease that somebody else holds."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write.

    :param token: higher than that of every earlier holder
    """

    database: Database
    name: str
    holder: str
    token: int

    def check(self, conn: Connection) -> None:
        """Make sure, inside the transaction that writes, that nobody took over.

        :raises LeaseLostError: if somebody did
        """
        row = conn.execute(select(leases).where(leases.c.name == self.name).with_for_update()).first()
        if row is None or row.token != self.token:
            raise LeaseLostError(
                f"{self.holder!r} was replaced by {row.holder if row else None!r} as the writer of {self.name!r}; "
                "nothing was written"
            )

    def renew(self, conn: Connection, *, ttl: timedelta, now: datetime | None = None) -> None:
        """Make sure that nobody took over, and that nobody may for ``ttl`` from now.

        :param now: default: by the clock of this machine, as :func:`hold` goes by
        :raises LeaseLostError: if somebody did
        """
        self.check(conn)
        now = now or datetime.now(UTC)
        conn.execute(
            update(leases).where(leases.c.name == self.name, leases.c.token == self.token).values(expires_at=now + ttl)
        )

    def release(self) -> None:
        """Let the next one in; harmless if somebody took over."""
        with self.database.begin() as conn:
            conn.execute(
                update(leases)
                .where(leases.c.name == self.name, leases.c.token == self.token)
                .values(holder=None, expires_at=_EPOCH)
            )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def acquire(
    database: Database, name: str, holder: str, *, ttl: timedelta, now: datetime, take_over: bool = False
) -> Lease | None:
    """Get a lease, if nobody has it.

    :param holder: who, for people
    :param ttl: after this others may have it
    :param take_over: replace an earlier holder of the same name at once: a retry of the same task, whose
        first try is dead or will be refused by its token
    :returns: None if somebody else has it
    """
    with database.begin() as conn:
        conn.execute(insert_new(conn, leases), {"name": name, "token": 0, "expires_at": _EPOCH})
        free = leases.c.expires_at <= now
        if take_over:
            free = or_(free, leases.c.holder == holder)
        token = conn.execute(
            update(leases)
            .where(leases.c.name == name, free)
            .values(holder=holder, token=leases.c.token + 1, expires_at=now + ttl)
            .returning(leases.c.token)
        ).scalar()
    return None if token is None else Lease(database, name, holder, token)


@contextmanager
def hold(
    database: Database,
    name: str,
    holder: str,
    *,
    ttl: timedelta,
    wait: timedelta,
    take_over: bool = False,
    poll: float = POLL,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[Lease]:
    """A lease for the length of a block.

    :param wait: how long to wait for it
    :param poll: seconds between two looks at one that somebody else holds
    :raises StorageError: if somebody else still has it then, naming who
    """
    deadline = time.monotonic() + wait.total_seconds()
    while True:
        try:
            lease = acquire(database, name, holder, ttl=ttl, now=clock(), take_over=take_over)
        except DatabaseBusyError:
            # Somebody writes for longer than the driver waits: not yet, then.
            if time.monotonic() >= deadline:
                raise
            continue
        if lease is not None:
            break
        if time.monotonic() >= deadline:
            with database.begin() as conn:
                other = conn.execute(select(leases.c.holder, leases.c.expires_at).where(leases.c.name == name)).one()
            raise StorageError(
                f"{name!r} is held by {other.holder!r} until {other.expires_at:%H:%M:%S} UTC; try again then"
            )
        time.sleep(poll)
    try:
        yield lease
    finally:
        lease.release()
