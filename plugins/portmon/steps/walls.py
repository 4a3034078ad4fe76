"""A wall around each host while it is evaluated: what raises there is no evidence of that host, and holds up no other.

Many hosts are evaluated at a time, and the error of one row ends the whole transaction of PostgreSQL. So a portion is
evaluated inside a savepoint. If it fails, it is halved until it is known which looks did it; these count as looks that
came to nothing, and evaluating begins again with that.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from portmon.errors import PortmonError
from portmon.model.observation import Observation, Outcome
from portmon.text import REASON_LIMIT, plain

log = logging.getLogger(__name__)

Named = tuple[str, datetime]
"""A look: host id, and when it was."""
ERROR_CLASS = "evaluation"
"""Of a look that could not be evaluated."""
FEW = 10
"""So many looks or more at which this program fails, and more than half of all: it is no host that is at fault."""
NOT_THE_HOSTS = (MemoryError, OperationalError, InterfaceError)
"""Errors of this machine and of the database, whatever is evaluated."""


def name_of(look: Observation) -> Named:
    """What names a look."""
    return look.host_id, look.observed_at


def tried(conn: Connection, work: Callable[[], object], *, keep: bool = True) -> Exception | None:
    """Do something with the database inside a savepoint.

    :param keep: what was written, if it succeeds
    :returns: what it raised, if hosts can be at fault; then nothing of it is left
    """
    savepoint = conn.begin_nested()
    try:
        work()
    except NOT_THE_HOSTS:
        raise
    except Exception as error:
        savepoint.rollback()
        return error
    if keep:
        savepoint.commit()
    else:
        savepoint.rollback()
    return None


def culprits(
    looks: Sequence[Observation], error: Exception, error_of: Callable[[Sequence[Observation]], Exception | None]
) -> dict[Named, Exception]:
    """Which of some looks can't be evaluated, found by halves.

    :param error: what evaluating them all raised
    :param error_of: what evaluating a part of them raises
    :raises Exception: the error, if each of them alone can be evaluated
    """
    found: dict[Named, Exception] = {}
    failed_last_time: list[tuple[Sequence[Observation], Exception]] = [(looks, error)]
    while failed_last_time:
        some, raised = failed_last_time.pop()
        if len(some) == 1:
            found[name_of(some[0])] = raised
            continue
        for part in (some[: len(some) // 2], some[len(some) // 2 :]):
            again = error_of(part)
            if again is not None:
                failed_last_time.append((part, again))
    if not found:
        raise error
    return found


def refused(
    looks: Sequence[Observation], broken: Mapping[Named, Exception]
) -> tuple[list[Observation], list[Observation]]:
    """Looks of which some could not be evaluated.

    :param broken: what was raised by some of them
    :returns: all of them as they are to be evaluated, and these alone
    :raises Exception: one of the errors, if it is no host that is at fault
    """
    # What the archive has lost does not come back with another try.
    faults = [error for error in broken.values() if not isinstance(error, PortmonError)]
    if len(faults) >= FEW and 2 * len(faults) > len(looks):
        raise faults[0]
    now, own = [], []
    for look in looks:
        error = broken.get(name_of(look))
        if error is not None:
            said = plain(_said(error), REASON_LIMIT)
            look = dataclasses.replace(
                look,
                outcome=Outcome.INVALID,
                listing=None,
                error_class=ERROR_CLASS,
                error=f"Its answer could not be evaluated, so it is no evidence: {said}",
            )
            own.append(look)
        now.append(look)
    return now, own


def warn(looks: Iterable[Observation], names: Mapping[str, str], broken: Mapping[Named, Exception]) -> None:
    """One line for each look that could not be evaluated; where it is a fault of this program, with its place."""
    for look in looks:
        error = broken.get(name_of(look))
        log.warning(
            "%s: the answer of %s UTC could not be evaluated, so it is no evidence. Other hosts are not concerned. %s",
            plain(names.get(look.host_id, look.host_id)),
            f"{look.observed_at:%Y-%m-%d %H:%M:%S}",
            plain(_said(error), REASON_LIMIT) if error else look.error,
            exc_info=None if error is None or isinstance(error, PortmonError) else error,
        )


def _said(error: Exception) -> str:
    if isinstance(error, PortmonError):
        return str(error)
    # That of a statement holds all that it was to write.
    shown = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    first = next(iter(str(shown).strip().splitlines()), "")
    return f"{type(shown).__name__}: {first}"
