"""Derive events and the next state from what the scan stored. Loads pandas."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from portmon.config import Config
from portmon.declared import declared_ports
from portmon.diff import Judgement, Verdict, judge
from portmon.errors import HostKeyChangedError
from portmon.events import closing_event, monitor_event
from portmon.models import Attempt, Event, EventKind, Host, Outcome, PortKey, port_alert_key
from portmon.pipeline.prune import HOST_KEY, WRITER, WRITER_TTL, WRITER_WAIT
from portmon.pipeline.run import Run
from portmon.render import REASON_LIMIT, plain
from portmon.rules import RuleSet
from portmon.storage import alerts, archive, conditions, decisions, hosts, inventory, lease, mutes, outbox, runs, state
from portmon.storage.database import Database

log = logging.getLogger(__name__)

FLEET = "fleet_unreachable"

TaskOf = tuple[str, int]
"""Id and map index of a mapped task."""


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
    """
    with (
        _uncollected(),
        lease.hold(database, WRITER, f"diff {run.run_id}", ttl=WRITER_TTL, wait=WRITER_WAIT, take_over=True) as held,
        database.begin() as conn,
    ):
        held.check(conn)
        fleet = _fleet(conn, digest)
        attempts = archive.attempts_to_judge(conn, host_ids=fleet, seen=False)
        verdict = _judge(conn, attempts, fleet, config, run, interval=interval)
        verdict = dataclasses.replace(verdict, events=tuple(_with_task(verdict.events, attempts, run, planned)))
        state.save(conn, verdict, now=now)
        archive.settle(conn, attempts)
        conditions.hold(conn, FLEET, since=verdict.failing_since)
        outbox.add(conn, _host_key_events(conn, attempts, fleet, run))
        outbox.add(conn, _unwatched(conn, verdict.unwatched, run, now))
        scanned = archive.scanned(conn, run.run_id)
        summary = _summary(verdict, scanned, planned)
        runs.finish(conn, run.run_id, finished_at=now, summary=summary)
        archive.expire(conn, now - config.retention.observations)
        outbox.expire(conn, now - config.retention.events)
        alerts.expire(conn, now - config.retention.events)
        mutes.expire(conn, now - config.retention.events)
    _log(verdict.events, summary)
    missing = sorted(plain(fleet[host_id].name) for host_id in set(planned) - set(scanned) if host_id in fleet)
    if missing:
        log.warning(
            "Not scanned, so neither up nor down (their tasks were killed or never ran): %s", ", ".join(missing)
        )
    return summary


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
        fleet = _fleet(conn, digest)
        ports = state.load_ports(conn, {attempt.host_id for attempt in attempts})
        terms = _terms(conn, fleet, config, run, interval)
        verdict = judge(state.load_hosts(conn), ports, attempts, **terms)
    summary = _summary(verdict, {attempt.host_id for attempt in attempts}, ())
    _log(verdict.events, summary)
    log.info("Dry run: nothing of this was kept, nobody is told")
    return summary


def _fleet(conn: Any, digest: str) -> dict[str, Host]:
    """Everything that may be judged: the list, and what pruning has not hidden."""
    named = {host.id: host for host in inventory.load(conn, digest).hosts}
    return hosts.listed(conn, besides=named) | named


def _judge(
    conn: Connection,
    attempts: Sequence[Attempt],
    fleet: Mapping[str, Host],
    config: Config,
    run: Run,
    *,
    interval: timedelta,
) -> Verdict:
    """Judge looks, some hosts at a time: what changed of their ports is written at once.

    :param attempts: with no more than the digest of what was seen
    """
    judgement = Judgement(state.load_hosts(conn, light=True), **_terms(conn, fleet, config, run, interval))
    for looks in judgement.looks(attempts):
        ids = [look.host_id for look in looks]
        seen = archive.with_seen(conn, looks)
        changes = judgement.compare(seen, state.load_ports(conn, ids), state.listening(conn, ids))
        state.save_ports(conn, changes.ports, changes.dropped)
    judgement.find_duplicates(state.listening(conn, judgement.sharing()))
    return judgement.verdict()


def _terms(
    conn: Connection, fleet: Mapping[str, Host], config: Config, run: Run, interval: timedelta
) -> dict[str, Any]:
    """What a judgement goes by."""
    return {
        "inventory": fleet,
        "rules": RuleSet(config.rules, where=config.where),
        "settings": config.states,
        "interval": interval,
        "run_id": run.run_id,
        "declared": declared_ports(fleet, config.declared, decisions.promoted(conn), where=config.where),
        "accepted": decisions.accepted(conn),
        "failing_since": conditions.since(conn, FLEET),
    }


def _with_task(
    events: Iterable[Event], attempts: Iterable[Attempt], run: Run, planned: Mapping[str, TaskOf]
) -> Iterable[Event]:
    """Note which mapped task saw it, for the link to its log: not of a look that an earlier run left unjudged."""
    looks = {(attempt.host_id, attempt.observed_at) for attempt in attempts if attempt.run_id == run.run_id}
    for event in events:
        asked = planned.get(event.host_id or "") if (event.host_id, event.at) in looks else None
        if asked is None:
            yield event
        else:
            task, index = asked
            yield dataclasses.replace(event, details={**event.details, "task": task, "map_index": index})


def _host_key_events(conn: Any, attempts: Sequence[Attempt], fleet: Mapping[str, Host], run: Run) -> list[Event]:
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
                run_id=run.run_id,
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
                    run_id=run.run_id,
                    reason="The host shows a trusted key again",
                    evidence=evidence,
                    host=host,
                )
            )
    return events


def _unwatched(conn: Connection, keys: Iterable[PortKey], run: Run, now: datetime) -> list[Event]:
    """The end of what was told of ports that no rule watches any more. Nothing happened to them: nobody else hears."""
    opened = alerts.opened(conn, [port_alert_key(*key) for key in keys])
    first = outbox.by_ids(conn, [alert.id for alert in opened.values()])
    reason = "No rule watches it any more"
    return [
        closing_event(EventKind.UNWATCHED, event, at=now, run_id=run.run_id, reason=reason) for event in first.values()
    ]


def _summary(verdict: Verdict, scanned: Collection[str], planned: Collection[str]) -> dict[str, int]:
    return {**verdict.summary, "scanned": len(scanned), "not_scanned": len(set(planned) - set(scanned))}


def _log(events: Iterable[Event], summary: Mapping[str, int]) -> None:
    for event in events:
        port = f" {event.protocol}/{event.port}" if event.port else ""
        log.info("%s: %r%s: %s", event.kind, event.host_name, port, plain(event.reason, REASON_LIMIT))
    log.info("Summary: %s", ", ".join(f"{name} {count}" for name, count in summary.items()))
