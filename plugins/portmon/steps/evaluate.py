"""Derive events and the next state from stored observations. Loads pandas."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, NestedTransaction

from portmon.config import Config, rule_set
from portmon.engine.declared import declared_ports, declared_terms
from portmon.engine.evaluate import Evaluation, Verdict, evaluate
from portmon.engine.inputs import EvaluationInputs
from portmon.model.event import Event
from portmon.model.host import Host, Inventory
from portmon.model.observation import Observation, Outcome
from portmon.steps import housekeeping
from portmon.steps.prune import writer
from portmon.steps.run import Run, TaskOf, uncollected
from portmon.steps.walls import Named, culprits, error_of, refused, tried, warn
from portmon.storage import (
    archive,
    checkpoints,
    conditions,
    decisions,
    hosts,
    inventory,
    journal,
    runs,
    state,
)
from portmon.storage.database import Database
from portmon.text import REASON_LIMIT, plain

if TYPE_CHECKING:
    from portmon.engine.conditions import Open

log = logging.getLogger(__name__)

FETCH, SCAN, DIFF = "fetch", "scan", "diff"
"""Phases of a run, whose seconds its summary has."""
LOGGED = 200
"""So many events of one host and run have a line each in the log; the rest is counted."""


@uncollected()
def evaluate_run(
    database: Database,
    config: Config,
    run: Run,
    digest: str,
    *,
    planned: Mapping[str, TaskOf],
    interval: timedelta,
    now: datetime,
    fetching: float | None = None,
) -> dict[str, int]:
    """Evaluate every observation that was not evaluated yet, in one transaction.

    :param digest: of this run's inventory
    :param planned: host id: the task of this run that asks it
    :param interval: time between scheduled runs
    :param fetching: seconds that it took to fetch the inventory, if that is known
    :returns: counts for people: scanned, not_scanned, and one per kind of event
    :raises PastRunError: a later run was evaluated since
    """
    began = time.monotonic()
    with writer(database, f"diff {run.run_id}", run) as held:
        with database.begin() as conn:
            held.check(conn)
            runs.must_be_newest(conn, run.run_id)
            checkpoints.keep(conn, now)
            fleet, inputs = _goes_by(conn, digest, planned, interval, now)
            observations = archive.observations_to_evaluate(conn, host_ids=fleet, now=now, run_id=run.run_id)
            step = journal.evaluated(conn, run.run_id, at=now, inventory=digest, inputs=inputs, observed=observations)
            verdict = evaluate_looks(conn, observations, fleet, inputs, config, run_id=run.run_id, now=now, step=step)
            archive.settle(conn, observations)
            clock = verdict.conditions.get(conditions.CLOCK_BACK)
            if clock is not None and clock.details.get("run_id") == run.run_id:
                archive.ignore(conn, run.run_id)
            scanned, jumped = archive.scanned(conn, run.run_id), journal.jumped(conn, run.run_id, now, interval)
            summary = _summary(verdict, scanned, planned)
            phases = {FETCH: fetching, SCAN: _scanning(observations, run), DIFF: round(time.monotonic() - began, 3)}
            seconds = {phase: took for phase, took in phases.items() if took is not None}
            runs.finish(conn, run.run_id, finished_at=now, summary={**summary, runs.SECONDS: seconds})
        if jumped:
            log.warning("Nothing old is deleted in this run: the one before it was evaluated more than a day ago")
        else:
            # After the commit: if this fails, the verdict of the run stands.
            housekeeping.expire(database, config.retention, now)
    _log(verdict.events, summary)
    missing = sorted(plain(fleet[host_id].name) for host_id in set(planned) - set(scanned) if host_id in fleet)
    if missing:
        text = "Not scanned, so neither up nor down (their tasks were killed or never ran): %s"
        log.warning(text, ", ".join(missing))
    return summary


def evaluate_looks(
    conn: Connection,
    observations: Sequence[Observation],
    fleet: Mapping[str, Host],
    inputs: journal.Inputs,
    config: Config,
    *,
    run_id: str,
    now: datetime,
    step: int,
    source: Connection | None = None,
) -> Verdict:
    """Evaluate observations and write what follows, in a run or in a replay.

    :param observations: without listings, which are read by their digests
    :param fleet: host id: host, of all that may be evaluated
    :param step: of the journal
    :param source: of the database that holds the archive, if that is another one
    :returns: what changed; its events name the task that saw them
    """
    goes_by = _inputs(fleet, config, inputs, run_id, now, step)
    names = {host_id: host.name for host_id, host in fleet.items()}
    broken: dict[Named, Exception] = {}
    own: list[Observation] = []
    while True:
        made = _Pass(conn, observations, goes_by, source, inputs.planned)
        verdict = made.evaluate()
        if verdict is not None:
            break
        observations, fresh = refused(observations, made.broken)
        broken |= made.broken
        own += fresh
    warn(own, names, broken)
    if source is None:
        archive.refuse(conn, own)
    return verdict


@dataclasses.dataclass
class _Pass:
    """One try to evaluate observations.

    :param broken: observations that can't be evaluated, and the error of each
    """

    conn: Connection
    observations: Sequence[Observation]
    inputs: EvaluationInputs
    source: Connection | None
    planned: Mapping[str, TaskOf]
    broken: dict[Named, Exception] = dataclasses.field(default_factory=dict)
    savepoint: NestedTransaction | None = None

    def evaluate(self) -> Verdict | None:
        """Evaluate all observations, and write what follows.

        :returns: what changed; None if some can't be evaluated. Then nothing is written: the verdict would rest on
            them as well
        """
        before = conditions.load(self.conn)
        verdict = self._evaluate(before)
        if verdict is None:
            if self.savepoint is not None:
                self.savepoint.rollback()
            return None
        error = error_of(lambda: self._save(verdict, before))
        if self.savepoint is None:
            if error is not None:
                # No listing was compared, so no host is at fault.
                raise error
        elif error is None:
            self.savepoint.commit()
        else:
            self.savepoint.rollback()
            self._find_unwritable(verdict, before, error)
        return verdict if error is None else None

    def _evaluate(self, before: Mapping[str, Open]) -> Verdict | None:
        """Evaluate some hosts at a time, and write at once what changed of their ports."""
        evaluation = Evaluation(state.load_hosts(self.conn, light=True), self.inputs, before)
        mended = evaluation.check_clock(self.observations)
        if mended is not None:
            self.savepoint = self.savepoint or self.conn.begin_nested()
            state.mend(self.conn, mended)
        for looks in evaluation.looks(self.observations):
            found, unreadable = archive.readable(self.source or self.conn, looks)
            if self.source is not None:
                # A replay must come to what the run came to, and the run could read them.
                for wrong in unreadable.values():
                    raise wrong
            self.broken |= unreadable
            if found:
                # A quiet run needs no savepoint, and saves the statement.
                self.savepoint = self.savepoint or self.conn.begin_nested()
                self._compare(evaluation, found)
        if self.broken:
            return None
        evaluation.finish()
        verdict = evaluation.verdict()
        return dataclasses.replace(verdict, events=tuple(map(self._with_task(), verdict.events)))

    def _save(self, verdict: Verdict, before: Mapping[str, Open]) -> None:
        state.save(self.conn, verdict, before=before, now=self.inputs.now, step=self.inputs.step)

    def _compare(self, evaluation: Evaluation, looks: Sequence[Observation]) -> None:
        rows = {look.host_id: dataclasses.replace(evaluation.hosts[look.host_id]) for look in looks}

        def compare(evaluating: Evaluation, some: Sequence[Observation]) -> None:
            ids = evaluating.involved(some)
            changes = evaluating.compare(some, state.load_ports(self.conn, ids), state.listening(self.conn, ids))
            state.save_ports(self.conn, changes.changed.values(), tuple(changes.gone))

        def alone(some: Sequence[Observation]) -> None:
            own = {look.host_id: dataclasses.replace(rows[look.host_id]) for look in some}
            evaluating = Evaluation(own, self.inputs, {})
            compare(evaluating, some)
            self._save(evaluating.verdict(), {})

        error = tried(self.conn, lambda: compare(evaluation, looks))
        if error is not None:
            evaluation.hosts |= rows
            self.broken |= culprits(looks, error, lambda some: tried(self.conn, lambda: alone(some), keep=False))

    def _find_unwritable(self, verdict: Verdict, before: Mapping[str, Open], error: Exception) -> None:
        """Find the observations whose rows or events the database refuses."""
        looks = [look for look in self.observations if look.outcome is Outcome.OK]

        def write(some: Sequence[Observation]) -> None:
            ids = {look.host_id for look in some}
            part = dataclasses.replace(
                verdict,
                hosts=tuple(host for host in verdict.hosts if host.host_id in ids),
                conditions=before,
                events=tuple(event for event in verdict.events if event.host_id in ids),
            )
            self._save(part, before)

        if not looks:
            raise error
        self.broken |= culprits(looks, error, lambda some: tried(self.conn, lambda: write(some), keep=False))

    def _with_task(self) -> Callable[[Event], Event]:
        """Name the mapped task in an event, for the link to its log, unless an earlier run made the observation."""
        run_id = self.inputs.run_id
        looks = {(look.host_id, look.observed_at) for look in self.observations if look.run_id == run_id}

        def named(event: Event) -> Event:
            asked = self.planned.get(event.host_id or "") if (event.host_id, event.at) in looks else None
            if asked is None:
                return event
            return dataclasses.replace(event, details={**event.details, "task": asked[0], "map_index": asked[1]})

        return named


def evaluate_dry(
    database: Database,
    config: Config,
    run: Run,
    digest: str,
    *,
    observations: Sequence[Observation],
    interval: timedelta,
) -> dict[str, int]:
    """Log what :func:`evaluate_run` would conclude from these observations; nothing is stored, no message is sent."""
    with database.begin() as conn:
        now = datetime.now(UTC)
        fleet, inputs = _goes_by(conn, digest, {}, interval, now)
        rows, opened = state.load_hosts(conn), conditions.load(conn)
        # An entry that left may be needed as well: its machine may answer under another id.
        ports = state.load_ports(conn, {observation.host_id for observation in observations} | (rows.keys() - fleet))
        goes_by = _inputs(fleet, config, inputs, run.run_id, now, step=0)
    verdicts: list[Verdict] = []

    def try_out(some: Sequence[Observation]) -> Exception | None:
        return error_of(lambda: verdicts.append(evaluate(rows, ports, some, goes_by, opened)))

    while (error := try_out(observations)) is not None:
        broken = culprits(observations, error, try_out)
        observations, own = refused(observations, broken)
        warn(own, {host_id: host.name for host_id, host in fleet.items()}, broken)
    summary = _summary(verdicts[-1], {observation.host_id for observation in observations}, ())
    _log(verdicts[-1].events, summary)
    return summary


def _goes_by(
    conn: Connection, digest: str, planned: Mapping[str, TaskOf], interval: timedelta, now: datetime
) -> tuple[dict[str, Host], journal.Inputs]:
    """The hosts that may be evaluated (listed ones, and those that pruning has not hidden), and the inputs."""
    found = inventory.load(conn, digest)
    named = {host.id: host for host in found.hosts}
    decided = decisions.in_force(conn, now)
    inputs = journal.Inputs(
        interval=interval,
        besides=tuple(host for host_id, host in hosts.listed(conn, besides=named).items() if host_id not in named),
        planned=planned,
        accepted=decided.accepted,
        promoted=decided.promoted,
        ignored=decided.ignored,
        forgotten=decided.forgotten,
        invalid=_invalid(found),
    )
    return fleet_of(list(named.values()), inputs), inputs


def fleet_of(listed: Sequence[Host], inputs: journal.Inputs) -> dict[str, Host]:
    """Host id: host, of all that may be evaluated: the listed ones and those of the inputs."""
    return {host.id: host for host in (*inputs.besides, *listed)}


def _invalid(found: Inventory) -> dict[str, str]:
    """Host id: what is wrong with its entry, of entries that can't be used."""
    return {entry.id: plain(entry.reason, REASON_LIMIT) for entry in found.invalid if entry.id is not None}


def _inputs(
    fleet: Mapping[str, Host], config: Config, inputs: journal.Inputs, run_id: str, now: datetime, step: int
) -> EvaluationInputs:
    """What the evaluation of a step goes by."""
    return EvaluationInputs(
        inventory=fleet,
        rules=rule_set(config, ignored=inputs.ignored),
        settings=config.states,
        interval=inputs.interval,
        run_id=run_id,
        now=now,
        step=step,
        declared=declared_ports(fleet, config.declared, inputs.promoted, where=config.where),
        given=declared_terms(fleet, config.declared),
        accepted=inputs.accepted,
        forgotten=inputs.forgotten,
        invalid=inputs.invalid,
        forget_after=config.cmdb.prune_after,
    )


def _scanning(observations: Iterable[Observation], run: Run) -> float | None:
    """Seconds from the first login of a run to its last answer, None without any."""
    own = [look for look in observations if look.run_id == run.run_id]
    if not own:
        return None
    first = min(look.observed_at - timedelta(seconds=look.duration) for look in own)
    return round((max(look.observed_at for look in own) - first).total_seconds(), 3)


def _summary(verdict: Verdict, scanned: Collection[str], planned: Collection[str]) -> dict[str, int]:
    return {**verdict.summary, "scanned": len(scanned), "not_scanned": len(set(planned) - set(scanned))}


def _log(events: Iterable[Event], summary: Mapping[str, int]) -> None:
    told = Counter[str | None]()
    for event in events:
        told[event.host_id] += 1
        if told[event.host_id] > LOGGED:
            continue
        port = f" {event.protocol}/{event.port}" if event.port else ""
        if owner := ", ".join(plain(name) for name in (event.program, event.unit) if name):
            port += f" ({owner})"
        host = repr(plain(event.host_name)) if event.host_name else None
        log.info("%s: %s%s: %s", event.kind, host, port, plain(event.reason, REASON_LIMIT))
    for host_id, count in told.items():
        if count > LOGGED:
            log.info("… and %d more events of %s", count - LOGGED, plain(host_id or "the monitor"))
    log.info("Summary: %s", ", ".join(f"{name} {count}" for name, count in summary.items()))
