"""The operator that looks at a batch of hosts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from portmon import timeouts
from portmon.airflow import settings
from portmon.airflow.context import result_of, run_of
from portmon.airflow.operators.store import StateMixin, StoredHostKeys
from portmon.airflow.ssh_hook import HostSSHHook, SharedSettings
from portmon.config import Config, ssh_settings
from portmon.errors import OverrunError, ParamError, PastRunError, RunError, ScanError, ScanTimeoutError
from portmon.model.host import Host
from portmon.model.observation import Observation
from portmon.scan import answer as scan
from portmon.scan.batches import Batch, in_order
from portmon.scan.host import HostScan, Stopwatch, ports_text
from portmon.scan.pool import LoginPool
from portmon.text import REASON_LIMIT, plain

log = logging.getLogger(__name__)

STORE_MOST = 100
"""Looks that are stored in one transaction …"""
STORE_EVERY = 1.0
"""… and seconds after which those that are there are stored: what a crash loses is looked at again."""
PROGRESS = 30.0
"""Seconds after which the log says how far the batch is."""


class SweepOperator(StateMixin, BaseOperator):
    """Look at many hosts in one task: as :class:`~portmon.airflow.operators.netstat.NetstatOperator` looks at one, with
    one thread per login.

    Mapped over the plan::

        SweepOperator.partial(task_id="sweep", map_index_template=MAP_INDEX_TEMPLATE).expand(batch=plan)

    A host that fails and failed last time as well is stored as failed. One that fails newly is stored as
    *provisionally* failed: it gets a task of its own, whose word counts; without one the sweep's counts. The task is
    green none the less; it fails if the state can't be stored. Another try goes on with the hosts that no look was
    stored of. A dry run stores nothing but what its own tasks read.

    :param batch: one item of :func:`portmon.steps.plan.plan_sweep`
    :param inventory_from: the task whose XCom names the host list
    :returns: counts: ``hosts``, ``ok``, ``failed``, ``untried``; of a dry run ``looks``, a digest
    """

    template_fields: Sequence[str] = ()
    ui_color = "#d6e9f8"

    def __init__(self, *, batch: Mapping[str, Any], inventory_from: str = "fetch_hosts", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self.inventory_from = inventory_from
        self._pool: LoginPool[HostVisit] | None = None

    @property
    def shown_name(self) -> str:
        """What the list of mapped tasks shows."""
        return f"batch {self.batch['batch'] + 1}, {self.batch['hosts']} hosts"

    def execute(self, context: Any) -> dict[str, Any]:
        """Look at the hosts of the batch.

        :raises AirflowFailException: another try would not help
        :raises AirflowSkipException: a later run was evaluated since
        :raises StorageError: the state database can't be used
        """
        try:
            return self._sweep(context, settings.config())
        except PastRunError as error:
            # Airflow's page folds up the message of the exception.
            log.warning("Skipped: %s", error)
            raise AirflowSkipException(str(error)) from None
        except (ParamError, RunError) as error:
            raise AirflowFailException(str(error)) from None
        finally:
            self.disconnect()

    def _sweep(self, context: Any, config: Config) -> dict[str, Any]:
        batch, visits, keys = self._prepare(context, config)
        log.info("%s; %d to ask, %d at a time", self.shown_name, len(visits), batch.logins)
        report = _Report(len(visits))
        looks: list[dict[str, Any]] = []
        seconds = (timeouts.SWEEP - timeouts.LOOK).total_seconds() - 30
        # in_order() has put them last.
        failed_last_time = sum(not visit.provisional for visit in visits)
        with LoginPool(
            visits,
            slots=batch.logins,
            lanes=batch.lanes,
            seconds=seconds,
            failed_last_time=failed_last_time,
            patience=timeouts.LOOK.total_seconds(),
        ) as pool:
            self._pool = pool
            while (taken := pool.take(most=STORE_MOST, seconds=STORE_EVERY)) is not None:
                ended = [(visit, visit.error_of(problem)) for visit, problem in taken]
                observations = [visit.observation(problem) for visit, problem in ended]
                if self._dry_run:
                    looks += [scan.to_xcom(observation) for observation in observations]
                elif observations:
                    self._store(observations, keys, config.retention.per_host)
                for (visit, problem), observation in zip(ended, observations, strict=True):
                    report.tell(visit, observation, problem)
                    visit.forget()
            if pool.stopped:
                raise AirflowException("somebody ended this task: what was seen so far is stored")
        untried = pool.untried()
        report.end(len(untried))
        result = {"hosts": len(visits), "ok": report.ok, "failed": report.failed, "untried": len(untried)}
        return {**result, "looks": self._keep(looks)} if self._dry_run else result

    def on_kill(self) -> None:
        """Hang up on everybody, so that the task ends at once. What was stored stays."""
        if self._pool is not None:
            self._pool.stop()

    def _prepare(self, context: Any, config: Config) -> tuple[Batch, list[HostVisit], StoredHostKeys]:
        from portmon.steps.plan import batch_of, declared_of, expected, group_of, hosts_of, known_answers
        from portmon.storage import archive, hosts

        run, ti = run_of(context["dag_run"], context["params"]), context["ti"]
        run.must_be_live()
        fetched = result_of(ti, self.inventory_from)
        keys = StoredHostKeys(read_only=self._dry_run)
        shared = SharedSettings()
        with self.transaction() as conn:
            batch = batch_of(conn, self.batch)
            listed = hosts_of(conn, config, run, fetched["digest"], batch)
            done = archive.looks_of(conn, run.run_id, unevaluated=True)
            failing = hosts.failing(conn)
            left = in_order([host for host in listed if host.id not in done], failing)
            must = declared_of(conn, config, left)
            wanted = expected(conn, [host.id for host in left], must)
            # A dry run says what was seen.
            known = {} if self._dry_run else known_answers(conn, config, left, must)
        if len(left) < len(listed):
            log.info("%d hosts of the batch were looked at by an earlier try", len(listed) - len(left))
        visits = [
            HostVisit(
                host,
                config,
                HostScan(
                    scan.Look(host.id, run.run_id, ti.try_number, run.logical_date),
                    plain(host.shown(), 300),
                    wanted[host.id],
                    ssh_settings(config, group=group_of(host, config)),
                    known.get(host.id),
                ),
                keys,
                shared,
                provisional=host.id not in failing,
            )
            for host in left
        ]
        with self.transaction() as conn:
            keys.load(conn, [visit.hook.target.endpoint for visit in visits if visit.hook is not None])
        return batch, visits, keys

    def _store(self, observations: Sequence[Observation], keys: StoredHostKeys, per_host: int) -> None:
        from portmon.storage import archive

        with self.transaction() as conn, keys.saved(conn):
            archive.save_observations(conn, archive.within(conn, observations, per_host))

    def _keep(self, looks: Sequence[Mapping[str, Any]]) -> str:
        """Put the looks of a dry run where its other tasks find them. They expire as all contents do."""
        from portmon.storage import contents

        with self.transaction() as conn:
            return contents.put(conn, json.dumps(looks).encode("ascii"), now=datetime.now(UTC))

    @property
    def _dry_run(self) -> bool:
        return bool(self.batch.get("dry_run"))


class HostVisit:
    """One host of a sweep, see :class:`portmon.scan.pool.Visit`.

    :param provisional: that it fails would be news
    """

    def __init__(
        self,
        host: Host,
        config: Config,
        look: HostScan,
        keys: StoredHostKeys,
        shared: SharedSettings,
        *,
        provisional: bool,
    ) -> None:
        self.host = host
        self.asked = look
        self.provisional = provisional
        self.hook: HostSSHHook | None = None
        self._pause = config.scan.confirm_after.total_seconds()
        self._broken: ScanError | None = None
        self._watch = Stopwatch()
        self._seconds: float | None = None
        try:
            self.hook = HostSSHHook.of(host, look.settings, config, keys, shared)
        except ScanError as error:
            # Its turn to fail comes with the others'.
            self._broken = error

    @property
    def lane(self) -> str | None:
        """The proxy command that leads to the host."""
        return self.hook.proxy_command if self.hook is not None else None

    def dial(self) -> None:
        """Connect, and wait until the server says something."""
        self._watch = Stopwatch()
        self._usable().dial()

    def look(self) -> float | None:
        """Log in and ask."""
        if self.lane is not None:
            self._watch = Stopwatch()
        self.asked.ask(self._usable().login())
        return self._pause if self.asked.gone else None

    def look_again(self) -> None:
        """Ask once more, over the same connection."""
        session = self._usable().session
        assert session is not None  # noqa: S101 - for the type checker: look() has logged in
        self.asked.ask_again(session)

    def close(self) -> None:
        """Hang up."""
        if self._seconds is None:
            self._seconds = self._watch.seconds
        if self.hook is not None:
            self.hook.close()

    def error_of(self, problem: BaseException | None) -> BaseException | None:
        """What ended a visit, as an error of its host if it was given up."""
        if not isinstance(problem, OverrunError):
            return problem
        return ScanTimeoutError(
            f"the look did not come back in time, although each of its steps has a limit: it was given up after "
            f"{self._watch.seconds:.0f} s",
            host=self.asked.shown,
        )

    def observation(self, error: BaseException | None) -> Observation:
        """The record of a visit that is over.

        :param error: what ended it; None if it gave evidence
        """
        seconds = self._watch.seconds if self._seconds is None else self._seconds
        if error is None:
            return self.asked.success(duration=seconds)
        return self.asked.failure(error, duration=seconds, provisional=self.provisional)

    @property
    def sockets(self) -> str:
        """How many listen, for people."""
        if self.asked.unchanged is not None:
            return "the same sockets as last time"
        return f"{len(self.asked.answers[0].listing.listeners) if self.asked.answers else 0} sockets"

    def forget(self) -> None:
        """Let go of what the host said: a batch may be long."""
        self.asked.answers.clear()
        self.asked.result = self.asked.unchanged = None

    def _usable(self) -> HostSSHHook:
        if self._broken is not None:
            raise self._broken
        assert self.hook is not None  # noqa: S101 - for the type checker: it is broken without
        return self.hook


@dataclass(slots=True)
class _Report:
    """The log of a batch: a line for each host. That of a healthy one, of which there are thousands in every run, is
    there for whoever asks for it: at level DEBUG.
    """

    hosts: int
    ok: int = 0
    failed: int = 0
    _watch: Stopwatch = field(default_factory=Stopwatch)
    _told_at: float = 0.0

    def tell(self, visit: HostVisit, observation: Observation, error: BaseException | None) -> None:
        self._tell(visit, observation, error)
        seconds = self._watch.seconds
        if seconds - self._told_at >= PROGRESS:
            log.info("%d of %d after %.0f s, %d failed", self.ok + self.failed, self.hosts, seconds, self.failed)
            self._told_at = seconds

    def _tell(self, visit: HostVisit, observation: Observation, error: BaseException | None) -> None:
        name = plain(visit.host.shown(), 300)
        look = visit.asked
        if error is not None:
            self.failed += 1
            if not isinstance(error, ScanError):
                log.error("%s: a fault of this program", name, exc_info=error)
            again = "" if observation.provisional else ". It failed last time as well"
            log.warning("%s (%s)%s", plain(observation.error or name, REASON_LIMIT), observation.error_class, again)
            return
        self.ok += 1
        if look.gone:
            parts = [f"missing in both answers: {ports_text(look.still)}"] if look.still else []
            parts += [f"back in the second answer: {ports_text(look.back)}"] if look.back else []
            log.warning("%s: %s", name, "; ".join(parts))
            return
        log.debug("%s: %s, nothing missing, %.2f s", name, visit.sockets, observation.duration)

    def end(self, untried: int) -> None:
        seconds = self._watch.seconds
        log.info(
            "Done after %.1f s, %.1f hosts/s: %d gave evidence, %d failed",
            seconds,
            (self.ok + self.failed) / max(seconds, 0.001),
            self.ok,
            self.failed,
        )
        if untried:
            log.warning("%d hosts were not asked, since the time of this task is over", untried)
