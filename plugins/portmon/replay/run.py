"""A run that replays: evaluate the observations of a time again, and put the result in place.

Later state rests on earlier state, so a replay always goes on to now. Each run *marks* its time, and the run that holds
the lease evaluates for all marks at once; the others find theirs done. Runs that ask hosts go on meanwhile; they wait
only at the end, while the replay takes over the steps that they added and changes the state.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

import portmon
from portmon import timeouts
from portmon.config import Config
from portmon.errors import ParamError, ReplayError
from portmon.model.event import port_alert_key
from portmon.replay.archive import Difference, base_of, carry_on, evaluate_again, scratch_database, what_if
from portmon.steps.dispatch import DISPATCH_TTL, DISPATCHER
from portmon.steps.prune import WRITER_WAIT, writer
from portmon.steps.run import BACKFILL, REPLAY_FROM, Run
from portmon.storage import alerts, contents, events, hosts, lease, replays, rewrite, runs
from portmon.storage.database import Database
from portmon.storage.lease import Lease
from portmon.storage.replays import Mark
from portmon.text import REASON_LIMIT, plain

log = logging.getLogger(__name__)

REPLAY = "replay"
"""Name of the lease that a run holds while it evaluates again."""
TTL = timedelta(minutes=10)
RENEW = 60.0
"""Seconds after which the lease is renewed."""
PROGRESS = 30.0
"""Seconds between two log lines about the progress."""
POLL = 2.0
"""Seconds between two tries to get the lease, for which a run waits minutes."""
FORGOTTEN = timedelta(days=1)
"""The run of a mark that is this old is not tried again."""
SLOT = timedelta(minutes=5)
"""Length of the time of a backfill run if runs have no rhythm."""
SHOWN = 20
"""Ports that one log line names."""
LINES = 200
"""Events that the log of a dry run shows."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time that a run is to evaluate again.

    :param until: later observations are evaluated again as well, but their events are not sent
    """

    since: datetime
    until: datetime

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M:%S} to {self.until:%Y-%m-%d %H:%M:%S} UTC"


def window_of(conn: Connection, config: Config, run: Run, *, interval: timedelta, now: datetime) -> Window | None:
    """The time that a run is to evaluate again; None if it is to ask hosts.

    :param interval: time between scheduled runs; 0 if there is no rhythm
    :raises ParamError: it begins in the future
    :raises ReplayError: it is not known when the run was
    """
    slot = interval or SLOT
    own = runs.times(conn, run.run_id)
    if run.replay_from is not None:
        if run.replay_from >= now:
            raise ParamError("is still to come", field=REPLAY_FROM)
        return Window(run.replay_from, min(run.replay_to or now, now))
    if run.run_type == BACKFILL:
        since = run.logical_date or (own[0] if own else None)
        if since is None:
            raise ReplayError("this backfill run has no logical date: there is no time that it could evaluate again")
        if own is None:
            return Window(since, since + slot)
        # The run of that time may have come late: its observations are evaluated again.
        seen = _time_of(own, slot)
        return Window(min(since, seen.since), max(since + slot, seen.until))
    if own is not None and runs.superseded(conn, run.run_id):
        return _time_of(own, slot)
    if own is None and run.due is not None and run.due < now - config.retention.observations:
        # A run that was cleared so late that its row has expired.
        return Window(run.due, run.due + slot)
    return None


def must_be_kept(conn: Connection, window: Window, *, interval: timedelta) -> datetime:
    """Refuse a time of which no checkpoint is kept.

    :returns: time of the checkpoint; the window may begin up to one interval earlier
    :raises ReplayError: the message says from when on there are checkpoints
    """
    seq, kept = base_of(conn, window.since)
    # Before step 1 there are no observations. Else one slot may be missing: the first run of a day keeps a checkpoint.
    early = seq > 0 and kept - window.since > (interval or SLOT)
    if window.until <= kept or early:
        raise ReplayError(
            f"what was seen can be evaluated again from {kept:%Y-%m-%d %H:%M} UTC on (retention.observations), not of "
            f"{window}: give a later time"
        )
    return kept


def replay_run(
    database: Database,
    config: Config,
    run: Run,
    window: Window,
    *,
    interval: timedelta,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, int]:
    """Evaluate a time again and put the result in place, unless another run just did.

    :returns: counts for people: ``replayed`` (evaluations), ``gained``, ``lost`` and ``changed`` (events), ``hosts``
        and ``ports`` (whose state differs), ``to_tell`` (events)
    :raises ReplayError: no checkpoint of that time is kept
    :raises StorageError: a part of the archive is gone or damaged, or another task took over
    """
    with database.begin() as conn:
        must_be_kept(conn, window, interval=interval)
        own = replays.mark(conn, run.run_id, since=window.since, until=window.until, notify=run.notify, now=clock())
    with _hold(database, REPLAY, run, ttl=TTL, wait=timeouts.REPLAY, poll=POLL) as held:
        with database.begin() as conn:
            held.check(conn)
            marks = _marks(conn, clock())
            if own not in [mark.id for mark in marks]:
                return _done_by_another(conn, run)
            # A time that a person asks for is always evaluated.
            counts = None if run.replay_from else _nothing_new(conn, config, run, window, own, clock())
            if counts is not None:
                return counts
        try:
            return _evaluate(database, config, run, marks, held, clock)
        except Exception:
            # Another try makes its own mark; no other run must fail because of this one.
            with database.begin() as conn:
                replays.drop(conn, [own])
            raise


def replay_dry(database: Database, config: Config, window: Window, *, interval: timedelta) -> dict[str, int]:
    """Count the events of a time that :func:`replay_run` would change; nothing is kept."""
    with scratch_database() as scratch, database.reading() as source:
        if source is None:
            raise ReplayError(f"{database} is empty: there is nothing to evaluate again")
        kept = must_be_kept(source, window, interval=interval)
        found = what_if(source, scratch, config, since=max(window.since, kept), until=window.until)
    _log_difference(found)
    counts = {"gained": len(found.gained), "lost": len(found.lost), "changed": len(found.changed)}
    return {"replayed": found.span.evaluations, **counts}


def _hold(database: Database, name: str, run: Run, **times: Any) -> AbstractContextManager[Lease]:
    return lease.hold(database, name, f"replay {run.run_id}", take_over=True, try_number=run.try_number, **times)


# ── marks ──────────────────────────────────────────────────────────────────────────────────────────


def _marks(conn: Connection, now: datetime) -> list[Mark]:
    marks = replays.marks(conn)
    forgotten = [mark for mark in marks if now - mark.asked_at > FORGOTTEN]
    for mark in forgotten:
        log.warning(
            "Run %s was to evaluate again from %s UTC on and never did: clear it if that is still wanted",
            plain(mark.run_id),
            f"{mark.since:%Y-%m-%d %H:%M}",
        )
    replays.drop(conn, [mark.id for mark in forgotten])
    return [mark for mark in marks if mark not in forgotten]


def _done_by_another(conn: Connection, run: Run) -> dict[str, int]:
    done = replays.last(conn, run_id=run.run_id)
    if done is None:
        raise ReplayError("another task of this run took over and evaluates again")
    log.info("Run %s evaluated this time again with its own", plain(done.done_by))
    return {"replayed": 0}


def _nothing_new(
    conn: Connection, config: Config, run: Run, window: Window, own: int, now: datetime
) -> dict[str, int] | None:
    """Counts, if everything since then was evaluated by these rules already, so that a replay would change nothing."""
    last, (_, kept) = replays.last(conn), base_of(conn, window.since)
    if last is None or last.rules != _rules(config) or last.evaluated_from > kept:
        return None
    if not runs.settings_after(conn, last.last_step) <= {contents.digest_of(config.to_json())}:
        return None
    told = rewrite.tell(conn, since=window.since, until=window.until) if run.notify else 0
    replays.finish(conn, [own], dataclasses.replace(last, done_at=now, summary={"to_tell": told}))
    log.info(
        "Run %s evaluated this time again by these rules, and everything since then was: nothing to do",
        plain(last.done_by),
    )
    return {"replayed": 0, "to_tell": told}


def _rules(config: Config) -> str:
    # The same digest, the same verdicts.
    return contents.digest_of(portmon.__version__.encode() + b"\n" + config.to_json())


# ── evaluating ─────────────────────────────────────────────────────────────────────────────────────


def _evaluate(
    database: Database, config: Config, run: Run, marks: Sequence[Mark], held: Lease, clock: Callable[[], datetime]
) -> dict[str, int]:
    since = min(mark.since for mark in marks)
    others = sorted({plain(mark.run_id) for mark in marks if mark.run_id != run.run_id})
    log.info(
        "Evaluating again what was seen from %s UTC on%s",
        f"{since:%Y-%m-%d %H:%M:%S}",
        f", for {', '.join(others)} as well" if others else "",
    )
    with scratch_database() as scratch:
        with database.reading() as source:
            if source is None:
                raise ReplayError(f"{database} is empty: there is nothing to evaluate again")
            span = evaluate_again(source, scratch, config, since=since, on_step=_Progress(database, held))
        with (
            writer(database, f"replay {run.run_id}", run) as writing,
            # No channel may be notified just now of an event that is retracted.
            _hold(database, DISPATCHER, run, ttl=DISPATCH_TTL, wait=WRITER_WAIT) as dispatching,
            database.begin() as conn,
        ):
            for one in (writing, dispatching, held):
                one.check(conn)
            span = carry_on(conn, scratch, config, span)
            now = clock()
            with scratch.begin() as evaluated:
                changes = rewrite.replace(conn, evaluated, after=span.after, run_id=run.run_id, now=now)
            told = sum(rewrite.tell(conn, since=mark.since, until=mark.until) for mark in marks if mark.notify)
            summary = {"replayed": span.evaluations, **changes, "to_tell": told}
            done = replays.Done(run.run_id, now, span.since, span.last, _rules(config), summary)
            replays.finish(conn, [mark.id for mark in marks], done)
            untold = _untold(conn)
    log.info("Summary: %s", ", ".join(f"{name} {count}" for name, count in summary.items()))
    if untold:
        more = f" and {len(untold) - SHOWN} more" if len(untold) > SHOWN else ""
        log.warning(
            "Open by these rules, and no channel was notified: %s%s. A run with replay_from and notify sends them",
            ", ".join(untold[:SHOWN]),
            more,
        )
    return summary


def _untold(conn: Connection) -> list[str]:
    # Names of open ports without an alert, now or with the next dispatch.
    about_to = {event.alert_key for event in events.undispatched(conn)}
    known = about_to | set(alerts.opened(conn))
    keys = [key for key in hosts.open_ports(conn) if port_alert_key(*key) not in known]
    names = {host.id: host.name for host in hosts.known(conn, {host_id for host_id, _, _ in keys})}
    return sorted(f"{plain(names.get(host_id, host_id))} {protocol}/{port}" for host_id, protocol, port in keys)


class _Progress:
    """Logs the progress, and renews the lease."""

    def __init__(self, database: Database, held: Lease) -> None:
        self._database = database
        self._held = held
        self._told = self._renewed = time.monotonic()

    def __call__(self, number: int, steps: int) -> None:
        now = time.monotonic()
        if now - self._told >= PROGRESS or number == steps:
            log.info("%d of %d steps", number, steps)
            self._told = now
        if now - self._renewed >= RENEW:
            with self._database.begin() as conn:
                self._held.renew(conn, ttl=TTL)
            self._renewed = now


def _time_of(own: tuple[datetime, datetime | None], slot: timedelta) -> Window:
    began, ended = own
    return Window(began, max(began + slot, (ended or began) + timedelta(seconds=1)))


def _log_difference(found: Difference) -> None:
    signs = [("+", event) for event in found.gained] + [("-", event) for event in found.lost]
    signs += [("~", event) for _, event in found.changed]
    signs.sort(key=lambda one: (one[1].at, one[1].id))
    for sign, event in signs[:LINES]:
        port = f" {event.protocol}/{event.port}" if event.port else ""
        at, reason = f"{event.at:%Y-%m-%d %H:%M}", plain(event.reason, REASON_LIMIT)
        host = repr(plain(event.host_name)) if event.host_name else None
        log.info("%s %s %s: %s%s: %s", sign, at, event.kind, host, port, reason)
    if len(signs) > LINES:
        log.info("and %d more; `portmon replay` shows all of them", len(signs) - LINES)
    log.info("Dry run: nothing of this was kept, no channel is notified. `+` would be new, `-` retracted, `~` changed")
