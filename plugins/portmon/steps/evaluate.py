"""Derive events and the next state from what the scan stored. Loads pandas."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
from sqlalchemy import Connection, NestedTransaction

from portmon.config import Config
from portmon.engine.declared import declared_ports
from portmon.engine.diff import HostRow, Judgement, Verdict, judge
from portmon.engine.events import closing_event, monitor_event
from portmon.engine.rules import RuleSet
from portmon.errors import HostKeyChangedError
from portmon.model.event import Event, EventKind, port_alert_key
from portmon.model.host import Host
from portmon.model.observation import Attempt, Outcome, PortKey
from portmon.steps import housekeeping as retention
from portmon.steps.prune import writer
from portmon.steps.run import Run, TaskOf
from portmon.steps.walls import NOT_THE_HOSTS, Named, culprits, refused, tried, warn
from portmon.storage import (
    alerts,
    archive,
    checkpoints,
    conditions,
    decisions,
    hosts,
    inventory,
    journal,
    outbox,
    runs,
    state,
)
from portmon.storage.conditions import FLEET, HOST_KEY
from portmon.storage.database import Database
from portmon.text import REASON_LIMIT, plain

log = logging.getLogger(__name__)

LOGGED = 200
"""Events of one host and run that have a line in the log; the rest is counted."""


def judge_run(
    database: Database,
    config: Config,
    run: Run,
    digest: str,
    *,
    planned: Mapping[str, TaskOf],
    interval: timedelta,
    now: datetime,
) -> dict[str, int]:
    """Judge every attempt that was not judged yet, in one transaction.

    :param digest: of this run's inventory
    :param planned: host id: which task asks it, of the hosts of this run
    :param interval: time between scheduled runs
    :returns: counts for people: scanned, not_scanned, and one per kind of event
    :raises PastRunError: a later run was judged since
    """
    with _uncollected(), writer(database, f"diff {run.run_id}", run) as held:
        with database.begin() as conn:
            held.check(conn)
            runs.must_be_newest(conn, run.run_id)
            checkpoints.keep(conn, now)
            fleet, terms = _goes_by(conn, digest, planned, interval)
            attempts = archive.attempts_to_judge(conn, host_ids=fleet, seen=False)
            step = journal.judged(conn, run.run_id, at=now, inventory=digest, terms=terms, looks=attempts)
            verdict = judge_looks(conn, attempts, fleet, terms, config, run_id=run.run_id, now=now, step=step)
            archive.settle(conn, attempts)
            scanned = archive.scanned(conn, run.run_id)
            summary = _summary(verdict, scanned, planned)
            runs.finish(conn, run.run_id, finished_at=now, summary=summary)
        # Nothing of it is a matter of this run's verdict, which is there whatever becomes of it.
        retention.expire(database, config.retention, now)
    _log(verdict.events, summary)
    missing = sorted(plain(fleet[host_id].name) for host_id in set(planned) - set(scanned) if host_id in fleet)
    if missing:
        log.warning(
            "Not scanned, so neither up nor down (their tasks were killed or never ran): %s", ", ".join(missing)
        )
    return summary


def judge_looks(
    conn: Connection,
    attempts: Sequence[Attempt],
    fleet: Mapping[str, Host],
    terms: journal.Terms,
    config: Config,
    *,
    run_id: str,
    now: datetime,
    step: int,
    source: Connection | None = None,
) -> Verdict:
    """Judge looks, and write what follows: the same for a run and for whoever judges them again.

    :param attempts: with no more than the digest of what was seen
    :param fleet: host id: host, of all that may be judged
    :param step: of the journal
    :param source: where the archive is, if that is another database
    :returns: what changed, its events with the task that saw them
    """
    arguments = _arguments(conn, fleet, config, terms, run_id)
    names = {host_id: host.name for host_id, host in fleet.items()}
    broken: dict[Named, Exception] = {}
    own: list[Attempt] = []
    while True:
        made = _Pass(conn, attempts, arguments, source=source, now=now, step=step, planned=terms.planned)
        verdict = made.judge()
        if verdict is not None:
            break
        attempts, fresh = refused(attempts, made.broken)
        broken |= made.broken
        own += fresh
    warn(own, names, broken)
    if source is None:
        archive.refuse(conn, own)
    outbox.add(conn, _host_key_events(conn, attempts, fleet, run_id), step=step)
    outbox.add(conn, _unwatched(conn, verdict.unwatched, run_id, now))
    return verdict


class _Pass:
    """One try to judge looks.

    :param broken: those that can't be judged, and what they raised
    """

    def __init__(
        self,
        conn: Connection,
        attempts: Sequence[Attempt],
        arguments: Mapping[str, Any],
        *,
        source: Connection | None,
        now: datetime,
        step: int,
        planned: Mapping[str, TaskOf],
    ) -> None:
        self._conn = conn
        self._attempts = attempts
        self._arguments = arguments
        self._source = source
        self._now = now
        self._step = step
        self._planned = planned
        self.broken: dict[Named, Exception] = {}
        self._savepoint: NestedTransaction | None = None

    def judge(self) -> Verdict | None:
        """Judge all of them, and write what follows.

        :returns: what changed; None if some can't be judged. Then nothing is written: what was found out before that
            rests on evidence that is none
        """
        verdict = self._judge()
        if verdict is None:
            self._roll_back()
            return None
        try:
            state.save(self._conn, verdict, now=self._now, step=self._step)
            conditions.hold(self._conn, FLEET, since=verdict.failing_since)
        except NOT_THE_HOSTS:
            raise
        except Exception as error:
            if self._savepoint is None:
                # What a host showed was compared nowhere: it is not to blame.
                raise
            self._roll_back()
            self._find_unwritable(verdict, error)
            return None
        if self._savepoint is not None:
            self._savepoint.commit()
        return verdict

    def _roll_back(self) -> None:
        if self._savepoint is not None:
            self._savepoint.rollback()

    def _judge(self) -> Verdict | None:
        """Some hosts at a time: what changed of their ports is written at once."""
        conn = self._conn
        judgement = Judgement(state.load_hosts(conn, light=True), **self._arguments)
        for looks in judgement.looks(self._attempts):
            found, unreadable = archive.readable(self._source or conn, looks)
            if self._source is not None:
                # Of what was judged when it could be read nothing else may be made now.
                for wrong in unreadable.values():
                    raise wrong
            self.broken |= unreadable
            if found:
                # Not in a quiet run, of which every statement counts.
                self._savepoint = self._savepoint or conn.begin_nested()
                self._compare(judgement, found)
        if self.broken:
            return None
        judgement.find_duplicates(state.listening(conn, judgement.sharing()))
        verdict = judgement.verdict()
        events = _with_task(verdict.events, self._attempts, self._arguments["run_id"], self._planned)
        return dataclasses.replace(verdict, events=tuple(events))

    def _compare(self, judgement: Judgement, looks: Sequence[Attempt]) -> None:
        rows = {look.host_id: dict(judgement.hosts[look.host_id]) for look in looks}

        def compare(judging: Judgement, some: Sequence[Attempt]) -> None:
            ids = [look.host_id for look in some]
            changes = judging.compare(some, state.load_ports(self._conn, ids), state.listening(self._conn, ids))
            state.save_ports(self._conn, changes.ports, changes.dropped)

        def alone(some: Sequence[Attempt]) -> None:
            judging = Judgement({look.host_id: dict(rows[look.host_id]) for look in some}, **self._arguments)
            compare(judging, some)
            state.save(self._conn, judging.verdict(), now=self._now, step=self._step)

        error = tried(self._conn, lambda: compare(judgement, looks))
        if error is not None:
            judgement.hosts |= rows
            self.broken |= culprits(looks, error, lambda some: tried(self._conn, lambda: alone(some), keep=False))

    def _find_unwritable(self, verdict: Verdict, error: Exception) -> None:
        """Whose rows or events the database does not take."""
        looks = [look for look in self._attempts if look.outcome is Outcome.OK]

        def write(some: Sequence[Attempt]) -> None:
            ids = {look.host_id for look in some}
            part = dataclasses.replace(
                verdict,
                hosts=tuple(row for row in verdict.hosts if row["host_id"] in ids),
                events=tuple(event for event in verdict.events if event.host_id in ids),
            )
            state.save(self._conn, part, now=self._now, step=self._step)

        if not looks:
            raise error
        self.broken |= culprits(looks, error, lambda some: tried(self._conn, lambda: write(some), keep=False))


@contextmanager
def _uncollected() -> Iterator[None]:
    """What is loaded stays until the end: to look for garbage in it again and again is a third of the time of a run."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def judge_dry(
    database: Database,
    config: Config,
    run: Run,
    digest: str,
    *,
    attempts: Sequence[Attempt],
    interval: timedelta,
) -> dict[str, int]:
    """What :func:`judge_run` would conclude from these attempts; nothing is kept."""
    with database.begin() as conn:
        fleet, terms = _goes_by(conn, digest, {}, interval)
        ports = state.load_ports(conn, {attempt.host_id for attempt in attempts})
        rows = state.load_hosts(conn)
        arguments = _arguments(conn, fleet, config, terms, run.run_id)
    verdict = _judge_dry(rows, ports, attempts, arguments)
    summary = _summary(verdict, {attempt.host_id for attempt in attempts}, ())
    _log(verdict.events, summary)
    log.info("Dry run: nothing of this was kept, nobody is told")
    return summary


def _judge_dry(
    rows: Mapping[str, HostRow], ports: pd.DataFrame, attempts: Sequence[Attempt], arguments: Mapping[str, Any]
) -> Verdict:
    def error_of(some: Sequence[Attempt]) -> Exception | None:
        try:
            judge(rows, ports, some, **arguments)
        except NOT_THE_HOSTS:
            raise
        except Exception as error:
            return error
        return None

    while True:
        try:
            return judge(rows, ports, attempts, **arguments)
        except NOT_THE_HOSTS:
            raise
        except Exception as error:
            broken = culprits(attempts, error, error_of)
        attempts, own = refused(attempts, broken)
        warn(own, {host_id: host.name for host_id, host in arguments["inventory"].items()}, broken)


def _goes_by(
    conn: Connection, digest: str, planned: Mapping[str, TaskOf], interval: timedelta
) -> tuple[dict[str, Host], journal.Terms]:
    """Everything that may be judged (the list, and what pruning has not hidden), and what it is judged by."""
    named = {host.id: host for host in inventory.load(conn, digest).hosts}
    terms = journal.Terms(
        interval=interval,
        besides=tuple(host for host_id, host in hosts.listed(conn, besides=named).items() if host_id not in named),
        planned=planned,
        accepted=decisions.accepted(conn),
        promoted=decisions.promoted(conn),
    )
    return fleet_of(list(named.values()), terms), terms


def fleet_of(listed: Sequence[Host], terms: journal.Terms) -> dict[str, Host]:
    """Everything that may be judged.

    :param listed: hosts of the list
    """
    return {host.id: host for host in (*terms.besides, *listed)}


def _arguments(
    conn: Connection, fleet: Mapping[str, Host], config: Config, terms: journal.Terms, run_id: str
) -> dict[str, Any]:
    """What a :class:`portmon.engine.diff.Judgement` goes by."""
    return {
        "inventory": fleet,
        "rules": RuleSet(config.rules, where=config.where),
        "settings": config.states,
        "interval": terms.interval,
        "run_id": run_id,
        "declared": declared_ports(fleet, config.declared, terms.promoted, where=config.where),
        "accepted": terms.accepted,
        "failing_since": conditions.since(conn, FLEET),
    }


def _with_task(
    events: Iterable[Event], attempts: Iterable[Attempt], run_id: str, planned: Mapping[str, TaskOf]
) -> Iterable[Event]:
    """Note which mapped task saw it, for the link to its log: not of a look that an earlier run left unjudged."""
    looks = {(attempt.host_id, attempt.observed_at) for attempt in attempts if attempt.run_id == run_id}
    for event in events:
        asked = planned.get(event.host_id or "") if (event.host_id, event.at) in looks else None
        if asked is None:
            yield event
        else:
            task, index = asked
            yield dataclasses.replace(event, details={**event.details, "task": task, "map_index": index})


def _host_key_events(conn: Any, attempts: Sequence[Attempt], fleet: Mapping[str, Host], run_id: str) -> list[Event]:
    """One event when a host starts to show another key, one when it is trusted again."""
    events = []
    changed = conditions.going_on(conn, f"{HOST_KEY}/")
    for attempt in attempts:
        condition = f"{HOST_KEY}/{attempt.host_id}"
        shows_another = attempt.error_class == HostKeyChangedError.error_class
        if not shows_another and condition not in changed:
            continue
        host, evidence = fleet[attempt.host_id], attempt.observed_at.isoformat()
        if shows_another:
            event = monitor_event(
                EventKind.HOST_KEY_CHANGED,
                at=attempt.observed_at,
                run_id=run_id,
                reason=attempt.error or "",
                evidence=evidence,
                host=host,
            )
            if conditions.begin(conn, condition, since=attempt.observed_at, event_id=event.id):
                events.append(event)
            changed.add(condition)
        elif attempt.outcome is Outcome.OK:
            conditions.end(conn, condition)
            changed.remove(condition)
            events.append(
                monitor_event(
                    EventKind.HOST_KEY_RESTORED,
                    at=attempt.observed_at,
                    run_id=run_id,
                    reason="The host shows a trusted key again",
                    evidence=evidence,
                    host=host,
                )
            )
    return events


def _unwatched(conn: Connection, keys: Iterable[PortKey], run_id: str, now: datetime) -> list[Event]:
    """The end of what was told of ports that no rule watches any more. Nothing happened to them: nobody else hears."""
    opened = alerts.opened(conn, [port_alert_key(*key) for key in keys])
    first = outbox.by_ids(conn, [alert.id for alert in opened.values()])
    reason = "No rule watches it any more"
    return [closing_event(EventKind.UNWATCHED, event, at=now, run_id=run_id, reason=reason) for event in first.values()]


def _summary(verdict: Verdict, scanned: Collection[str], planned: Collection[str]) -> dict[str, int]:
    return {**verdict.summary, "scanned": len(scanned), "not_scanned": len(set(planned) - set(scanned))}


def _log(events: Iterable[Event], summary: Mapping[str, int]) -> None:
    told = Counter[str | None]()
    for event in events:
        told[event.host_id] += 1
        if told[event.host_id] > LOGGED:
            continue
        port = f" {event.protocol}/{event.port}" if event.port else ""
        host = repr(plain(event.host_name)) if event.host_name else None
        log.info("%s: %s%s: %s", event.kind, host, port, plain(event.reason, REASON_LIMIT))
    for host_id, count in told.items():
        if count > LOGGED:
            log.info("… and %d more events of %s", count - LOGGED, plain(host_id or "the monitor"))
    log.info("Summary: %s", ", ".join(f"{name} {count}" for name, count in summary.items()))
