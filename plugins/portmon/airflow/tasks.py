"""Airflow's tasks: each reads the settings, calls one step of :mod:`portmon.steps`, logs.

The DAG file imports this module at every parse, so the steps, the storage and pandas are imported
where they are used.

No task has ``multiple_outputs``, which Airflow takes from the annotation of a returned dict: each key of it would be
an XCom of its own, sent in a request of its own.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import task
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped

from portmon import timeouts
from portmon.airflow import settings
from portmon.airflow.context import result_of, run_of
from portmon.errors import ConfigError, ParamError, PastRunError, ReplayError, RunError, StorageError
from portmon.model.event import AlertGroup, Event
from portmon.model.host import Inventory
from portmon.model.observation import Observation
from portmon.steps.run import Run

if TYPE_CHECKING:
    from portmon.config import Config
    from portmon.replay.run import Window
    from portmon.storage.database import Database

Result = TypeVar("Result")

log = logging.getLogger(__name__)

DAG_ID = "portmon"
FETCH_HOSTS = "fetch_hosts"
PRUNE_INVENTORY = "prune_inventory"
PLAN_SWEEP = "plan_sweep"
SWEEP = "sweep"
PLAN_HOSTS = "plan_hosts"
NETSTAT = "netstat"
DIFF_PORTS = "diff_ports"
ROUTE_ALERTS = "route_alerts"
NO_CHANGE = "no_change"
HEARTBEAT = "heartbeat"
REPLAYS = "replays"
"""Says in what ``fetch_hosts`` returns that the run evaluates again."""
ALERT_TASKS = {group: f"alert_{group}" for group in AlertGroup}


@task(task_id=FETCH_HOSTS, multiple_outputs=False)
def fetch_hosts(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> dict[str, Any]:
    """All servers from the CMDB, or the last good list; nothing in a run that evaluates again what was seen."""
    from portmon.steps.fetch import fetch_inventory

    run = _run(params, dag_run)
    try:
        config = settings.config()
        # With a wrong schedule the DAG file takes the default; what is wrong is told here.
        interval = settings.interval()
        # Opens no connection yet: what it may say is that this kind of database will not do.
        database = settings.database()
    except (ConfigError, StorageError) as error:
        # Not healed by trying again.
        raise AirflowFailException(str(error)) from error
    for revision in database.migrate():
        log.info("State database migrated to %s", revision)
    window = _window(database, config, run, interval)
    if window is not None:
        log.info("No host is asked: this run evaluates again what was seen from %s", window)
        ti.xcom_push(BaseXCom.XCOM_RETURN_KEY, {REPLAYS: True})
        # What follows them is skipped with them, but for diff_ports, which runs whatever became of it.
        raise DownstreamTasksSkipped(tasks=[PRUNE_INVENTORY, PLAN_SWEEP, PLAN_HOSTS])

    def load() -> Inventory:
        from portmon.airflow.cmdb_hook import get_inventory

        return get_inventory(config.cmdb, (config.path or settings.config_path()).parent)

    try:
        fetched = fetch_inventory(database, config, run, load, now=_now())
    except (ConfigError, ParamError) as error:
        raise AirflowFailException(str(error)) from error
    return {"digest": fetched.digest, "stale": fetched.stale, "fetched_at": fetched.fetched_at.isoformat()}


@task(task_id=PRUNE_INVENTORY, multiple_outputs=False)
def prune_inventory(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> dict[str, int]:
    """Hide hosts that left the CMDB, delete them later, or refuse to."""
    from portmon.steps.prune import counts
    from portmon.steps.prune import prune_inventory as prune

    def live(fetched: Mapping[str, Any]) -> dict[str, int]:
        database, config, run = settings.database(), settings.config(), _run(params, dag_run, ti)
        return prune(database, config, run, fetched["digest"], stale=fetched["stale"], now=_now())

    return _unless_past(ti, live, counts())


@task(task_id=PLAN_SWEEP, trigger_rule="all_done")
def plan_sweep(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> list[dict[str, Any]]:
    """Batches of hosts, if there are many. Runs whatever became of pruning: that must not stop the watch."""
    from portmon.steps.plan import plan_sweep as plan

    def live(fetched: Mapping[str, Any]) -> list[dict[str, Any]]:
        database, config, run = settings.database(), settings.config(), _run(params, dag_run)
        return plan(database, config, run, fetched["digest"], proxy_of=settings.proxy_command)

    return _unless_past(ti, live, [])


@task(task_id=PLAN_HOSTS, trigger_rule="all_done")
def plan_hosts(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> list[dict[str, Any]]:
    """The hosts that need a task of their own. Runs whatever became of the sweep."""
    from portmon.steps.plan import plan_hosts as plan

    def live(fetched: Mapping[str, Any]) -> list[dict[str, Any]]:
        batches = _result(ti, PLAN_SWEEP)
        database, config, run = settings.database(), settings.config(), _run(params, dag_run)
        return plan(
            database,
            config,
            run,
            fetched["digest"],
            max_hosts=conf.getint("core", "max_map_length", fallback=1024),
            swept={look.host_id: not look.provisional for look in _dry_looks(database, ti)} if batches else None,
        )

    return _unless_past(ti, live, [])


@task(task_id=DIFF_PORTS, trigger_rule="all_done", multiple_outputs=False)
def diff_ports(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> dict[str, int]:
    """Evaluate what was seen. Runs although hosts failed, but never without a host list and both plans."""
    from portmon.steps.evaluate import evaluate_dry, evaluate_run
    from portmon.steps.plan import asked_by

    fetched = _result(ti, FETCH_HOSTS)
    run = _run(params, dag_run, ti)
    interval = settings.interval()
    database, config = settings.database(), settings.config()
    if REPLAYS in fetched:
        return _replay(database, config, run, interval)
    batches, plan = _result(ti, PLAN_SWEEP), _result(ti, PLAN_HOSTS)
    if run.dry_run:
        from portmon.scan.answer import observation_from_xcom

        # As a list, even of one: of hosts that failed there is none.
        answers = ti.xcom_pull(task_ids=[NETSTAT])
        own = {answer["host_id"]: observation_from_xcom(answer) for answer in answers if answer}
        # Of a host that had a task of its own, that one's word counts, if it has one.
        observations = list(({look.host_id: look for look in _dry_looks(database, ti)} | own).values())
        return evaluate_dry(database, config, run, fetched["digest"], observations=observations, interval=interval)
    with database.begin() as conn:
        planned = asked_by(conn, batches, plan, sweep=SWEEP, own=NETSTAT)
    try:
        return evaluate_run(database, config, run, fetched["digest"], planned=planned, interval=interval, now=_now())
    except PastRunError as error:
        log.warning("%s", error)
        return _replay(database, config, run, interval)


@task.branch(task_id=ROUTE_ALERTS)
def route_alerts(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> list[str]:
    """Start the alert tasks that have something to send, from this run or an earlier one."""
    from portmon.steps.dispatch import groups_to_alert
    from portmon.steps.overdue import report_overdue

    run = _run(params, dag_run)
    if run.dry_run:
        log.info("Dry run: nobody is told")
        return [NO_CHANGE]
    database, config, interval, now = settings.database(), settings.config(), settings.interval(), _now()
    replayed = _has_replayed(database, run)
    if replayed and not run.notify:
        log.info("This run evaluated again what was seen: nobody is told. What waits to be sent is for the next run")
        return [NO_CHANGE]
    if not replayed:
        report_overdue(database, run, interval=interval, now=now)
    groups = groups_to_alert(
        database,
        config,
        now=now,
        interval=interval,
        holder=f"{ROUTE_ALERTS} {run.run_id}",
        try_number=ti.try_number,
    )
    return [ALERT_TASKS[group] for group in AlertGroup if group in groups] or [NO_CHANGE]


def alert(group: AlertGroup) -> Any:
    """The task that sends one group of events.

    :param group: its name is ``alert_<group>``
    """

    @task(
        task_id=ALERT_TASKS[group],
        retries=2,
        retry_delay=timedelta(seconds=15),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(minutes=1),
        execution_timeout=timeouts.ALERT,
    )
    def send(*, dag_run: Any, ti: Any) -> int:
        """Send what is undelivered of this kind through every channel, then mark it."""
        from portmon.airflow.channels.sending import deliver
        from portmon.steps.deliver import AlertTask

        return AlertTask(
            database=settings.database(),
            config=settings.config(),
            group=group,
            send=lambda channel, message, done: deliver(channel, message, done=done),
            link=log_link,
            page=run_link(dag_run.run_id),
            interval=settings.interval(),
            hold_until=settings.hold_until(_now()),
            holder=f"{ti.task_id} {dag_run.run_id}",
            try_number=ti.try_number,
            clock=_now,
        ).run()

    return send()


@task(task_id=HEARTBEAT, trigger_rule="none_failed_min_one_success")
def heartbeat(*, params: Mapping[str, Any], dag_run: Any) -> None:
    """Tell the dead-man's switch that a run was good: it looked, evaluated, and everybody heard what there was."""
    from portmon.airflow.channels.heartbeat import ping

    run = _run(params, dag_run)
    if run.dry_run or run.scoped or _has_replayed(settings.database(), run):
        log.info(
            "A run for some hosts, a dry one, or one that replayed does not say that the fleet is watched: no ping"
        )
        return
    config = settings.config()
    if config.alerts.heartbeat is None:
        log.info("alerts.heartbeat is not set any more: nobody is told")
        return
    ping(config.alerts.heartbeat, f"portmon: {dag_run.run_id}")


def log_link(event: Event) -> str | None:
    """URL of the log of the mapped task that saw an event, None if it is not known."""
    run = run_link(event.run_id)
    index = event.details.get("map_index")
    # Events of earlier versions say no task.
    task_id = event.details.get("task", NETSTAT)
    return None if run is None or index is None else f"{run}/tasks/{task_id}/mapped/{index}"


def run_link(run_id: str) -> str | None:
    """URL of a run in Airflow's page, None if that has no address."""
    from urllib.parse import quote

    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{base}/dags/{DAG_ID}/runs/{quote(run_id, safe='')}" if base.startswith("http") else None


def _run(params: Mapping[str, Any], dag_run: Any, ti: Any = None) -> Run:
    """The run of a task.

    :param ti: Airflow's task instance, of a task that takes a lease
    """
    try:
        run = run_of(dag_run, params)
        return run if ti is None else dataclasses.replace(run, try_number=ti.try_number)
    except ParamError as error:
        raise AirflowFailException(str(error)) from error


def _unless_past(ti: Any, live: Callable[[Mapping[str, Any]], Result], nothing: Result) -> Result:
    """What a step comes to, given what ``fetch_hosts`` returned; nothing in a run that replays."""
    fetched = _result(ti, FETCH_HOSTS)
    if REPLAYS in fetched:
        return nothing
    try:
        return live(fetched)
    except PastRunError as error:
        log.warning("%s", error)
        return nothing


def _window(database: Database, config: Config, run: Run, interval: timedelta) -> Window | None:
    """The time that a run is to evaluate again; None if it is to ask hosts."""
    from portmon.replay.run import must_be_kept, window_of

    try:
        with database.begin() as conn:
            window = window_of(conn, config, run, interval=interval, now=_now())
            if window is not None:
                must_be_kept(conn, window, interval=interval)
    except (ParamError, ReplayError) as error:
        raise AirflowFailException(str(error)) from error
    return window


def _replay(database: Database, config: Config, run: Run, interval: timedelta) -> dict[str, int]:
    """Evaluate again what was seen. That may take hours: a limit of its own."""
    from airflow.sdk.execution_time.timeout import timeout

    from portmon.replay.run import replay_dry, replay_run

    window = _window(database, config, run, interval)
    if window is None:
        raise AirflowFailException("this run began to evaluate again, and is to ask hosts now: clear fetch_hosts")
    try:
        with timeout(int(timeouts.REPLAY.total_seconds())):
            if run.dry_run:
                return replay_dry(database, config, window, interval=interval)
            return replay_run(database, config, run, window, interval=interval)
    except ReplayError as error:
        raise AirflowFailException(str(error)) from error


def _has_replayed(database: Database, run: Run) -> bool:
    from portmon.storage import replays

    if run.replays:
        return True
    with database.begin() as conn:
        return replays.last(conn, run_id=run.run_id) is not None


def _result(ti: Any, task_id: str) -> Any:
    try:
        return result_of(ti, task_id)
    except RunError as error:
        raise AirflowFailException(str(error)) from error


def _dry_looks(database: Any, ti: Any) -> list[Observation]:
    """What the sweep of a dry run saw; of any other run it is in the database."""
    from portmon.scan.answer import observation_from_xcom
    from portmon.storage import contents

    counts = ti.xcom_pull(task_ids=[SWEEP]) or []
    digests = [one["looks"] for one in counts if one and "looks" in one]
    if not digests:
        return []
    with database.begin() as conn:
        looks = [look for digest in digests for look in json.loads(contents.get(conn, digest))]
    return [observation_from_xcom(look) for look in looks]


def _now() -> datetime:
    return datetime.now(UTC)
