"""A wall around each host while it is evaluated: an observation that raises an error is no evidence of its host, and
does not stop the evaluation of other hosts.

Many hosts are evaluated at a time, and one refused row ends the whole transaction of PostgreSQL. So each portion is
evaluated inside a savepoint. If it fails, it is halved until the observations at fault are found. These count as
invalid, and the evaluation begins again.
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
"""Host id and time of an observation."""
ERROR_CLASS = "evaluation"
"""Of an observation that could not be evaluated."""
FEW = 10
"""If so many observations, and more than half of all, make this program fail, no host is at fault."""
NOT_THE_HOSTS = (MemoryError, OperationalError, InterfaceError)
"""Errors that no host can cause: this computer's and the database's."""


def error_of(work: Callable[[], object]) -> Exception | None:
    """Do something, and return its error if a host can be at fault; other errors are raised."""
    try:
        work()
    except NOT_THE_HOSTS:
        raise
    except Exception as error:
        return error
    return None


def tried(conn: Connection, work: Callable[[], object], *, keep: bool = True) -> Exception | None:
    """Do the same inside a savepoint; what it writes is kept only if it succeeds, and if ``keep`` is set."""
    savepoint = conn.begin_nested()
    error = error_of(work)
    if keep and error is None:
        savepoint.commit()
    else:
        savepoint.rollback()
    return error


def culprits(
    looks: Sequence[Observation], error: Exception, evaluate: Callable[[Sequence[Observation]], Exception | None]
) -> dict[Named, Exception]:
    """The observations that can't be evaluated, found by halving.

    :param error: of evaluating all of them
    :param evaluate: evaluates some of them and returns the error
    :raises Exception: the error, if each observation alone can be evaluated
    """
    found: dict[Named, Exception] = {}
    suspects: list[tuple[Sequence[Observation], Exception]] = [(looks, error)]
    while suspects:
        some, raised = suspects.pop()
        if len(some) == 1:
            found[_name_of(some[0])] = raised
            continue
        for part in (some[: len(some) // 2], some[len(some) // 2 :]):
            again = evaluate(part)
            if again is not None:
                suspects.append((part, again))
    if not found:
        raise error
    return found


def refused(
    looks: Sequence[Observation], broken: Mapping[Named, Exception]
) -> tuple[list[Observation], list[Observation]]:
    """Mark observations that could not be evaluated as invalid.

    :param broken: the error of each
    :returns: all observations, and the marked ones alone
    :raises Exception: one of the errors, if no host is at fault
    """
    # Errors of portmon do not count: another try does not bring back what the archive has lost.
    faults = [error for error in broken.values() if not isinstance(error, PortmonError)]
    if len(faults) >= FEW and 2 * len(faults) > len(looks):
        raise faults[0]
    now, own = [], []
    for look in looks:
        error = broken.get(_name_of(look))
        if error is not None:
            said = f"Its answer could not be evaluated, so it is no evidence: {plain(_said(error), REASON_LIMIT)}"
            look = dataclasses.replace(look, outcome=Outcome.INVALID, listing=None, error_class=ERROR_CLASS, error=said)
            own.append(look)
        now.append(look)
    return now, own


def warn(looks: Iterable[Observation], names: Mapping[str, str], broken: Mapping[Named, Exception]) -> None:
    """Log one line for each observation that could not be evaluated; with a traceback if this program is at fault."""
    for look in looks:
        error = broken.get(_name_of(look))
        log.warning(
            "%s: the answer of %s UTC could not be evaluated, so it is no evidence. Other hosts are not affected. %s",
            plain(names.get(look.host_id, look.host_id)),
            f"{look.observed_at:%Y-%m-%d %H:%M:%S}",
            plain(_said(error), REASON_LIMIT) if error else look.error,
            exc_info=None if error is None or isinstance(error, PortmonError) else error,
        )


def _name_of(look: Observation) -> Named:
    return look.host_id, look.observed_at


def _said(error: Exception) -> str:
    if isinstance(error, PortmonError):
        return str(error)
    # The text of a DBAPIError holds the statement and all of its values.
    shown = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    first = next(iter(str(shown).strip().splitlines()), "")
    return f"{type(shown).__name__}: {first}"
