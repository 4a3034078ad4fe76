"""One writer at a time: leases with fencing tokens.

A lease expires, so that a crash blocks no task for long; a holder that wakes up late may have been replaced. Every
holder has a higher token than the one before, and :meth:`Lease.check`, inside the transaction that writes, refuses a
token that is not the newest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from portmon.errors import DatabaseBusyError, LeaseLostError, StorageError
from portmon.storage.database import Database
from portmon.storage.sql import insert_new
from portmon.storage.tables import EPOCH, leases

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between two tries to get a lease that another task holds."""
SHOW_HOLDER = 2.0
"""Seconds after which a task that waits reads the holder again, for its log."""
SKEW = timedelta(seconds=10)
"""How much the clocks of two machines may differ. An expiry further away than the lease's length plus this was written
by a wrong clock."""

LONGEST = timedelta(days=1)
"""No lease is longer: a length beyond it is damaged."""


STATE = "state"
"""Name of the lease that a task holds while it changes the state."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write."""

    database: Database
    name: str
    holder: str
    token: int

    def check(self, conn: Connection) -> None:
        """Make sure, inside the transaction that writes, that no other task took over.

        :raises LeaseLostError: if another task did
        """
        row = conn.execute(select(leases).where(leases.c.name == self.name).with_for_update()).first()
        if row is None or row.token != self.token:
            raise LeaseLostError(
                f"{self.holder!r} was replaced by {row.holder if row else None!r} as the writer of {self.name!r}; "
                "nothing was written"
            )

    def renew(self, conn: Connection, *, ttl: timedelta, now: datetime | None = None) -> None:
        """Make sure that no other task took over, nor may for ``ttl`` from now (default: the clock of this machine).

        :raises LeaseLostError: if another task did
        """
        now = now or datetime.now(UTC)
        if not self._change(conn, expires_at=now + ttl, ttl=ttl.total_seconds()):
            self.check(conn)

    def release(self) -> None:
        """Give the lease back; harmless if another task took over."""
        with self.database.begin() as conn:
            self._change(conn, holder=None, expires_at=EPOCH)

    def _change(self, conn: Connection, **values: Any) -> bool:
        """Change the lease unless another holder took over; returns whether it did."""
        own = (leases.c.name == self.name, leases.c.token == self.token)
        return bool(conn.execute(update(leases).where(*own).values(values)).rowcount)


def acquire(
    database: Database,
    name: str,
    holder: str,
    *,
    ttl: timedelta,
    now: datetime,
    take_over: bool = False,
    try_number: int = 0,
) -> Lease | None:
    """Get a lease if it is free.

    A lease that expires later than its length allows counts as free: the clock of its holder was ahead. So does a
    damaged one.

    :param holder: name for people
    :param ttl: after this others may have it
    :param take_over: replace the same try of the same holder at once as well: its token refuses it if it still lives
    :param try_number: of the task, 1-based, 0 if it has none; an earlier try of the same holder is replaced at once
    :returns: None if another holder has it
    """
    own = leases.c.try_number <= try_number if take_over else leases.c.try_number < try_number
    free = or_(leases.c.expires_at <= now, and_(leases.c.holder == holder, own))
    take = (
        update(leases)
        .where(leases.c.name == name)
        .values(holder=holder, token=leases.c.token + 1, try_number=try_number)
        .values(expires_at=now + ttl, ttl=ttl.total_seconds())
        .returning(leases.c.token)
    )
    with database.begin() as conn:
        token = conn.execute(take.where(free)).scalar()
        if token is None:
            conn.execute(insert_new(conn, leases), {"name": name, "token": 0, "expires_at": EPOCH})
            # A new one is free, and so is one that was given back meanwhile.
            token = conn.execute(take.where(free)).scalar()
        if token is None:
            row = conn.execute(select(leases).where(leases.c.name == name)).one()
            its_ttl = ttl
            if isinstance(row.ttl, int | float) and 0 <= row.ttl <= LONGEST.total_seconds():
                its_ttl = timedelta(seconds=row.ttl)
            # A lease that was given back is free above; here EPOCH is a time that can't be read.
            if row.expires_at > now + its_ttl + SKEW or row.expires_at == EPOCH:
                log.warning(
                    "The lease %r of %r ends at %s UTC, later than it can: the clock that wrote it was wrong. It is "
                    "taken over",
                    name,
                    row.holder,
                    f"{row.expires_at:%Y-%m-%d %H:%M:%S}",
                )
                free = leases.c.token == row.token
            token = conn.execute(take.where(free)).scalar()
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
    try_number: int = 0,
    poll: float = POLL,
) -> Iterator[Lease]:
    """A lease for the length of a block, given back however the block ends; see :func:`acquire`.

    :param wait: how long to wait for it
    :param poll: seconds between two tries
    :raises StorageError: if another holder still has it then; the message names that holder
    """
    deadline = time.monotonic() + wait.total_seconds()
    told: tuple[str | None, int] | None = None
    show_at = 0.0
    while True:
        now = datetime.now(UTC)
        try:
            lease = acquire(database, name, holder, ttl=ttl, now=now, take_over=take_over, try_number=try_number)
        except DatabaseBusyError:
            # Another process writes for longer than the driver waits.
            if time.monotonic() >= deadline:
                raise
            log.info("Waiting for the lease %r: another process writes to the database", name)
            continue
        if lease is not None:
            break
        is_over = time.monotonic() >= deadline
        if is_over or time.monotonic() >= show_at:
            with database.begin() as conn:
                columns = (leases.c.holder, leases.c.expires_at, leases.c.token)
                other = conn.execute(select(*columns).where(leases.c.name == name)).one()
            if is_over:
                raise StorageError(
                    f"{name!r} is held by {other.holder!r} until {other.expires_at:%H:%M:%S} UTC; try again then"
                )
            if told != (other.holder, other.token):
                log.info(
                    "Waiting for the lease %r, which %r holds until %s UTC unless it gives it back earlier",
                    name,
                    other.holder,
                    f"{other.expires_at:%Y-%m-%d %H:%M:%S}",
                )
                told = (other.holder, other.token)
            show_at = time.monotonic() + SHOW_HOLDER
        time.sleep(poll)
    try:
        yield lease
    finally:
        try:
            lease.release()
        except (StorageError, SQLAlchemyError) as error:
            # The error that ended the block must be raised, not this one.
            log.warning(
                "The lease %r could not be given back (%s): the next try of this task takes it over, others wait until "
                "it expires",
                name,
                error,
            )
