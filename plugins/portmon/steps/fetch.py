"""Fetch the host list, or use the last good one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from portmon.config import Config
from portmon.errors import CmdbError
from portmon.fields import format_seconds
from portmon.inventory.scope import select
from portmon.model.event_kinds import EventKind
from portmon.model.host import Inventory
from portmon.steps.report import report
from portmon.steps.run import Run
from portmon.storage import conditions, contents, inventory, runs
from portmon.storage.database import Database
from portmon.text import REASON_LIMIT, counted, plain
from portmon.untrusted.boundary import boundary

log = logging.getLogger(__name__)

LOGGED = 200
"""So many invalid entries of a list have a line each in the log; the rest is counted."""

STALE = "cmdb_stale"


class Fetched(NamedTuple):
    """What the other tasks of the run need to know.

    :param digest: of the stored inventory
    :param stale: the CMDB gave no usable list, so this is the last good one
    :param seconds: how long it took
    """

    digest: str
    stale: bool
    seconds: float


def fetch_inventory(
    database: Database, config: Config, run: Run, load: Callable[[], Inventory], *, now: datetime
) -> Fetched:
    """Ask the CMDB for hosts and store the list; if it is not usable, take the last good one.

    :param load: asks the CMDB
    :param now: start of the run
    :raises CmdbError: there is no last good list either
    :raises ParamError: a pattern of a scoped run matches no host
    """
    began = time.monotonic()
    with database.begin() as conn:
        good = inventory.last_good(conn)
    stale, fetched_at, reason = False, now, ""
    try:
        with boundary(lambda why: CmdbError(f"can't be read: {why}", source="CMDB"), passing=CmdbError):
            found = load()
        if not run.force_prune:
            must_be_plausible(found, good.inventory if good else None)
    except CmdbError as error:
        if good is None:
            # It may repeat what the CMDB says, and the log of the task will have it.
            raise CmdbError(plain(error.message, 1000), source=plain(error.source, REASON_LIMIT)) from None
        found, stale, fetched_at, reason = good.inventory, True, good.fetched_at, str(error)
        log.warning("%s", plain(reason, 1000))
        log.warning(
            "The CMDB gave no usable list: going on with the last good one, %s old (%s); nothing is pruned",
            format_seconds(now - fetched_at),
            counted(len(found.hosts), "host"),
        )
    else:
        log.info(
            "%s lists %s%s",
            plain(found.source, 300),
            counted(len(found.hosts), "host"),
            f", and {counted(len(found.invalid), 'entry')} that can't be used" if found.invalid else "",
        )
    for invalid in found.invalid[:LOGGED]:
        log.warning(
            "Invalid entry %d (%s): %s",
            invalid.position,
            plain(invalid.name or invalid.id or "-"),
            plain(invalid.reason, REASON_LIMIT),
        )
    if len(found.invalid) > LOGGED:
        log.warning("… and more that are invalid: %d", len(found.invalid) - LOGGED)
    if run.hosts:
        select(found.hosts, run.hosts)
    with database.begin() as conn:
        # The tasks of a dry run read its list from the database, but no later run may fall back to it.
        aside = stale or run.dry_run
        digest = inventory.save(conn, found, run_id=run.run_id, fetched_at=fetched_at, stale=aside)
        if not run.dry_run:
            runs.start(
                conn,
                run.run_id,
                run_type=run.run_type,
                logical_date=run.logical_date,
                started_at=now,
                scope=list(run.hosts) or None,
                inventory=digest,
                inventory_fetched_at=fetched_at,
                inventory_stale=stale,
                settings=contents.put(conn, config.to_json(), now=now),
            )
            if stale and now - fetched_at >= config.cmdb.stale_after and conditions.begin(conn, STALE, since=now):
                evidence, of = fetched_at.isoformat(), f"{fetched_at:%Y-%m-%d %H:%M} UTC"
                told = f"The host list is from {of}; the CMDB gave no usable one since: {reason}"
                report(conn, EventKind.CMDB_STALE, run.run_id, told, now, evidence=evidence, since=fetched_at)
            elif not stale and conditions.end(conn, STALE):
                report(conn, EventKind.CMDB_FRESH, run.run_id, "The CMDB gives a usable host list again", now)
    return Fetched(digest, stale, round(time.monotonic() - began, 3))


def must_be_plausible(found: Inventory, good: Inventory | None) -> None:
    """Refuse a list without one usable host, unless there never were any: the CMDB is broken then.

    Pruning has a guard of its own; this one keeps the hosts watched.

    :param good: the last good host list
    :raises CmdbError: the list is not plausible
    """
    if found.hosts or good is None or not good.hosts:
        return
    reason = (
        f"gave an empty list where there were {counted(len(good.hosts), 'host')}; if they are really gone, "
        "trigger a run with force_prune"
    )
    if found.invalid:
        reason = f"{no_valid_entry(found)}; check cmdb.source.fields in portmon.yaml"
    raise CmdbError(reason, source=found.source)


def no_valid_entry(found: Inventory) -> str:
    """What is wrong with a list whose entries are all invalid, of which there are some."""
    return f"it has no valid entry of {len(found.invalid)}, the first is invalid because {found.invalid[0].reason}"
