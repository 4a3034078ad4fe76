"""The operator that asks a batch of hosts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException

from portmon import timeouts
from portmon.airflow import settings
from portmon.airflow.observability import phase
from portmon.airflow.operators.store import StateMixin, StoredHostKeys
from portmon.airflow.ssh_hook import HostSSHHook, SharedSettings
from portmon.errors import OverrunError, ScanError, ScanTimeoutError
from portmon.model.host import Host
from portmon.model.observation import Observation
from portmon.scan.answer import Recorder, to_xcom
from portmon.scan.batches import HostBatch, in_order
from portmon.scan.host import HostScan, Stopwatch, ports_text
from portmon.scan.pool import LoginPool
from portmon.steps.run import run_of
from portmon.text import REASON_LIMIT, counted, plain

if TYPE_CHECKING:
    from portmon.config import Config

log = logging.getLogger(__name__)

STORE_MOST = 100
"""Observations that are stored in one transaction …"""
STORE_EVERY = 1.0
"""… and seconds after which those that are there are stored: what a crash loses is asked for again."""
PROGRESS = 30.0
"""Seconds after which the log says how far the batch is."""
SHOWN_WITHOUT_UDP = 20
"""Hosts that the log names."""


class SweepOperator(StateMixin, BaseOperator):
    """Visit many hosts in one task: as :class:`~portmon.airflow.operators.netstat.NetstatOperator` visits one, with one
    thread per login.

    Mapped over the plan::

        SweepOperator.partial(task_id="sweep", map_index_template=MAP_INDEX_TEMPLATE).expand(batch=plan)

    A host that fails and failed last time as well is stored as failed. One that fails newly is stored as
    *provisionally* failed: it gets a task of its own, whose word counts; without one the sweep's counts. The task is
    green none the less; it fails if the state can't be stored. Another try goes on with the hosts that have no
    observation yet. A dry run stores nothing but what its own tasks read.

    :param batch: one item of :func:`portmon.steps.plan.plan_sweep`
    :returns: counts: ``hosts``, ``ok``, ``failed``, ``untried``; of a dry run ``looks``, a digest
    """

    template_fields: Sequence[str] = ()
    ui_color = "#d6e9f8"

    def __init__(self, *, batch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self._dry_run = bool(batch.get("dry_run"))
        self._pool: LoginPool[HostVisit] | None = None

    @property
    def shown_name(self) -> str:
        """The batch for the list of mapped tasks."""
        return f"batch {self.batch['batch'] + 1}, {self.batch['hosts']} hosts"

    def execute(self, context: Any) -> dict[str, Any]:
        """Visit the hosts of the batch.

        :raises AirflowFailException: another try would not help
        :raises AirflowSkipException: a later run was evaluated since
        :raises StorageError: the state database can't be used
        """
        with self.task_errors(), phase("sweep", hosts=int(self.batch["hosts"])):
            return self._sweep(context, settings.config())

    def _sweep(self, context: Any, config: Config) -> dict[str, Any]:
        from portmon.storage import archive, contents

        batch, visits, keys = self._prepare(context, config)
        log.info("%s; %d to ask, %d at a time", self.shown_name, len(visits), batch.logins)
        report = _Report(len(visits))
        dry_looks: list[dict[str, Any]] = []
        with LoginPool(
            visits,
            slots=batch.logins,
            lanes=batch.lanes,
            seconds=(timeouts.SWEEP - timeouts.LOOK).total_seconds() - 30,
            # in_order() has put them last.
            failed_last_time=sum(not visit.provisional for visit in visits),
            patience=timeouts.LOOK.total_seconds(),
        ) as pool:
            self._pool = pool
            while (taken := pool.take(most=STORE_MOST, seconds=STORE_EVERY)) is not None:
                ended = [(visit, visit.error_of(problem)) for visit, problem in taken]
                observations = [visit.observation(error) for visit, error in ended]
                if self._dry_run:
                    dry_looks += map(to_xcom, observations)
                elif observations:
                    with self.transaction() as conn, keys.saved(conn):
                        archive.save_observations(conn, observations, per_host=config.retention.per_host)
                for (visit, error), observation in zip(ended, observations, strict=True):
                    report.tell(visit.scan, observation, error)
                    visit.forget()
            if pool.stopped:
                raise AirflowException("the task was ended by hand: what was seen so far is stored")
        untried = len(pool.untried())
        report.end(untried)
        result = {"hosts": len(visits), "ok": report.ok, "failed": report.failed, "untried": untried}
        if not self._dry_run:
            return result
        # Its other tasks find the observations there. They expire as all contents do.
        with self.transaction() as conn:
            looks = contents.put(conn, json.dumps(dry_looks).encode("ascii"), now=datetime.now(UTC))
        return {**result, "looks": looks}

    def on_kill(self) -> None:
        """Hang up on all hosts, so that the task ends at once. What was stored stays."""
        if self._pool is not None:
            self._pool.stop()

    def _prepare(self, context: Any, config: Config) -> tuple[HostBatch, list[HostVisit], StoredHostKeys]:
        from portmon.config import ssh_settings
        from portmon.steps.plan import batch_of, declared_of, expected, group_of, settled_answers
        from portmon.storage import archive, decisions, hosts, runs

        run, ti = run_of(context["dag_run"], context["params"]), context["ti"]
        run.must_be_live()
        with self.transaction() as conn:
            runs.must_be_newest(conn, run.run_id)
            batch = batch_of(conn, self.batch)
            done = archive.observed(conn, run.run_id, unevaluated=True) if ti.try_number > 1 else {}
            failing = hosts.failing(conn)
            left = [host for host in batch.hosts if host.id not in done]
            left = in_order(left, failing, runs.untried(conn, run.run_id, [host.id for host in left]))
            decided = decisions.in_force(conn, datetime.now(UTC))
            must = declared_of(config, left, decided.promoted)
            wanted = expected(conn, [host.id for host in left], must)
            # A dry run says what was seen.
            settled = {} if self._dry_run else settled_answers(conn, config, left, must, decided.ignored)
        if len(left) < len(batch.hosts):
            log.info("Looked at by an earlier try: %s of the batch", counted(len(batch.hosts) - len(left), "host"))
        keys, shared, visits = StoredHostKeys(read_only=self._dry_run), SharedSettings(), []
        for host in left:
            recorder = Recorder(host.id, run.run_id, ti.try_number, run.logical_date)
            ssh = ssh_settings(config, group=group_of(host, config))
            scan = HostScan(recorder, plain(host.shown(), 300), wanted[host.id], ssh, settled.get(host.id))
            visits.append(HostVisit(host, config, scan, keys, shared, provisional=host.id not in failing))
        with self.transaction() as conn:
            keys.load(conn, {name for visit in visits if visit.hook is not None for name in visit.hook.endpoints})
        return batch, visits, keys


class HostVisit:
    """One host of a sweep, see :class:`portmon.scan.pool.Visit`.

    :param provisional: that it fails would be news
    """

    def __init__(
        self,
        host: Host,
        config: Config,
        scan: HostScan,
        keys: StoredHostKeys,
        shared: SharedSettings,
        *,
        provisional: bool,
    ) -> None:
        self.scan = scan
        self.provisional = provisional
        self.hook: HostSSHHook | None = None
        self._pause = config.scan.confirm_after.total_seconds()
        self._broken: ScanError | None = None
        self._watch = Stopwatch()
        self._seconds: float | None = None
        try:
            self.hook = HostSSHHook(host, scan.settings, config.ssh, keys, shared)
        except ScanError as error:
            # Its turn to fail comes with the others'.
            self._broken = error

    @property
    def lane(self) -> str | None:
        """What leads to the host, of :attr:`HostSSHHook.lane`."""
        return self.hook.lane if self.hook is not None else None

    def dial(self) -> None:
        """Connect, and wait until the host says something."""
        self._watch = Stopwatch()
        self._usable().dial()

    def ask(self) -> float | None:
        """Log in and ask."""
        if self.lane is not None:
            self._watch = Stopwatch()
        self.scan.ask(self._usable().login())
        return self._pause if self.scan.gone else None

    def ask_again(self) -> None:
        """Ask once more, over the same connection."""
        session = self._usable().session
        assert session is not None  # noqa: S101 - for the type checker: ask() has logged in
        self.scan.ask_again(session)

    def close(self) -> None:
        """Hang up."""
        if self._seconds is None:
            self._seconds = self._watch.seconds
        if self.hook is not None:
            self.hook.close()

    def error_of(self, problem: BaseException | None) -> BaseException | None:
        """The problem that ended a visit, as an error of its host if the visit was given up."""
        if not isinstance(problem, OverrunError):
            return problem
        text = "the look did not come back in time, although each of its steps has a limit: it was given up after"
        return ScanTimeoutError(f"{text} {self._watch.seconds:.0f} s", host=self.scan.shown)

    def observation(self, error: BaseException | None) -> Observation:
        """The observation of a visit that is over; ``error`` is what ended it, None if it gave evidence."""
        seconds = self._watch.seconds if self._seconds is None else self._seconds
        if error is None:
            return self.scan.success(duration=seconds)
        now = datetime.now(UTC)
        return self.scan.recorder.failure(error, observed_at=now, duration=seconds, provisional=self.provisional)

    def forget(self) -> None:
        """Let go of what the host said: a batch may be long."""
        self.scan.answers.clear()
        self.scan.result = self.scan.unchanged = None

    def _usable(self) -> HostSSHHook:
        if self._broken is not None:
            raise self._broken
        assert self.hook is not None  # noqa: S101 - for the type checker: it is broken without
        return self.hook


@dataclass(slots=True)
class _Report:
    """The log of a batch: a line for each host, of a healthy one at level DEBUG: they are thousands in every run."""

    hosts: int
    ok: int = 0
    failed: int = 0
    without_udp: list[str] = field(default_factory=list)
    _watch: Stopwatch = field(default_factory=Stopwatch)
    _told_at: float = 0.0

    def tell(self, scan: HostScan, observation: Observation, error: BaseException | None) -> None:
        if error is not None:
            self.failed += 1
            if not isinstance(error, ScanError):
                log.error("%s: a fault of this program", scan.shown, exc_info=error)
            again = "" if observation.provisional else ". It failed last time as well"
            told = plain(observation.error or scan.shown, REASON_LIMIT)
            log.warning("%s (%s)%s", told, observation.error_class, again)
        else:
            self.ok += 1
            if scan.lacks_udp:
                self.without_udp.append(scan.shown)
            if scan.gone:
                parts = [f"missing in both answers: {ports_text(scan.still)}"] if scan.still else []
                parts += [f"back in the second answer: {ports_text(scan.back)}"] if scan.back else []
                log.warning("%s: %s", scan.shown, "; ".join(parts))
            elif log.isEnabledFor(logging.DEBUG):
                same = "the same sockets as last time"
                seen = f"{len(scan.answers[0].listing.listeners)} sockets" if scan.answers else same
                log.debug("%s: %s, nothing missing, %.2f s", scan.shown, seen, observation.duration)
        seconds = self._watch.seconds
        if seconds - self._told_at >= PROGRESS:
            log.info("%d of %d after %.0f s, %d failed", self.ok + self.failed, self.hosts, seconds, self.failed)
            self._told_at = seconds

    def end(self, untried: int) -> None:
        seconds = self._watch.seconds
        rate = (self.ok + self.failed) / max(seconds, 0.001)
        text = "Done after %.1f s, %.1f hosts/s: %d gave evidence, %d failed"
        log.info(text, seconds, rate, self.ok, self.failed)
        if self.without_udp:
            shown = ", ".join(self.without_udp[:SHOWN_WITHOUT_UDP])
            more = len(self.without_udp) - SHOWN_WITHOUT_UDP
            log.warning(
                "UDP was asked for and is not shown (docs/forced-command.md) by %s%s",
                shown,
                f" and {more} more" if more > 0 else "",
            )
        if untried:
            log.warning("Not asked, since the time of this task is over: %s", counted(untried, "host"))
