"""Hide hosts that left the CMDB, resume those that came back, delete those that stayed away."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from portmon.config import Config
from portmon.inventory.prune import GUARDED, PrunePlan, plan_prune
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host, Inventory
from portmon.steps.report import report
from portmon.steps.run import Run
from portmon.storage import checkpoints, conditions, hosts, inventory, journal, lease, runs
from portmon.storage.database import Database
from portmon.text import plain

log = logging.getLogger(__name__)

WRITER_TTL = timedelta(minutes=10)
WRITER_WAIT = timedelta(minutes=5)
REFUSED = "prune_refused"


def prune_inventory(
    database: Database,
    config: Config,
    run: Run,
    digest: str,
    *,
    stale: bool,
    now: datetime,
    interval: timedelta = timedelta(),
) -> dict[str, int]:
    """Bring the stored hosts in line with the inventory, in one transaction.

    :param digest: of this run's inventory
    :param stale: the inventory is an old one, so a missing host may still be in the CMDB
    :param interval: between scheduled runs; 0 without a rhythm
    :returns: how many hosts were hidden, resumed and purged, and whether pruning was refused
    :raises PastRunError: a later run was evaluated since
    """
    if run.hosts:
        log.info("This run asks some hosts only: nothing is pruned")
        return counts()

    def planned(conn: Connection) -> tuple[Inventory, PrunePlan]:
        listed, accepted = inventory.load(conn, digest), journal.accepted(conn, now - GUARDED)
        return listed, plan_prune(
            hosts.known(conn),
            listed,
            stale=stale,
            forced=run.force_prune,
            now=now,
            settings=config.cmdb,
            accepted=accepted,
            jumped=journal.jumped(conn, run.run_id, now, interval),
        )

    if run.dry_run:
        with database.begin() as conn:
            _, plan = planned(conn)
        hide, resume, purge = (", ".join(map(plain, ids)) or "no host" for ids in (plan.hide, plan.resume, plan.purge))
        log.info("Dry run: would hide %s; resume %s; purge %s", hide, resume, purge)
        if plan.refused:
            log.warning("Would refuse to prune: %s", plan.refused)
        return counts(plan)
    with writer(database, f"prune {run.run_id}", run) as held, database.begin() as conn:
        held.check(conn)
        runs.must_be_newest(conn, run.run_id)
        listed, plan = planned(conn)
        names = {known.id: known.name for known in hosts.known(conn)}
        checkpoints.keep(conn, now)
        done = journal.Pruned(
            hide=plan.hide,
            purge=plan.purge,
            sync=not stale,
            resume=plan.resume,
            base=plan.base,
            forced=run.force_prune and plan.refused is None,
        )
        step = journal.pruned(conn, run.run_id, at=now, inventory=digest, done=done)
        carry_out(conn, done, listed.hosts, run_id=run.run_id, now=now, step=step)
        # A stale list is refused as well, but has an event of its own after cmdb.stale_after.
        if plan.refused and not stale and conditions.begin(conn, REFUSED, since=now):
            told = f"Nothing was pruned: {plan.refused}. Trigger a run with force_prune if this is right"
            report(conn, EventKind.PRUNE_REFUSED, run.run_id, told, now)
        elif not plan.refused and conditions.end(conn, REFUSED):
            report(conn, EventKind.PRUNE_RESUMED, run.run_id, "The host list is plausible again", now)
    for verb, ids in (("hidden", plan.hide), ("resumed", plan.resume), ("deleted", plan.purge)):
        for host_id in ids:
            log.info("%s (%s) %s", plain(names.get(host_id, host_id)), plain(host_id), verb)
    if plan.refused:
        log.warning("Refused to prune: %s", plan.refused)
    return counts(plan)


def writer(database: Database, holder: str, run: Run) -> AbstractContextManager[lease.Lease]:
    """The lease for changing the state. It is taken over from an earlier try of the same task.

    :param holder: which task of the run
    """
    return lease.hold(
        database, lease.STATE, holder, ttl=WRITER_TTL, wait=WRITER_WAIT, take_over=True, try_number=run.try_number
    )


def carry_out(
    conn: Any, done: journal.Pruned, listed: Iterable[Host], *, run_id: str, now: datetime, step: int | None
) -> None:
    """Prune the stored hosts, in a run or in a replay of its journal.

    :param listed: hosts of the list
    :param step: of the journal
    """
    if done.hide:
        _close(conn, done.hide, run_id, now, step)
        hosts.hide(conn, done.hide, now)
    # Before the sync: a host that comes back too late is deleted, and then listed anew.
    hosts.purge(conn, done.purge)
    if done.sync:
        hosts.sync(conn, listed)
    hosts.resume(conn, done.resume)


def _close(conn: Any, host_ids: Any, run_id: str, now: datetime, step: int | None) -> None:
    # Imported here, since pandas is needed only if a host left.
    from portmon.engine.frames import ports_of
    from portmon.engine.leaving import leave
    from portmon.storage import state

    (known, ports), before = state.load(conn, host_ids), conditions.load(conn)
    named: dict[str, Any] = {"reason": "it left the CMDB", "run_id": run_id, "now": now}
    state.save_left(conn, leave(known, ports_of(ports), host_ids, before, **named), before=before, step=step)


def counts(plan: PrunePlan | None = None) -> dict[str, int]:
    """The result of pruning for the task log; all 0 without a plan."""
    plan = plan or PrunePlan()
    found = {"hidden": plan.hide, "resumed": plan.resume, "purged": plan.purge}
    return {**{name: len(ids) for name, ids in found.items()}, "refused": int(plan.refused is not None)}
