"""Airflow's tasks: each reads the settings, calls one step of :mod:`portmon.steps`, and logs.

The DAG file imports this module at every parse: steps, storage and pandas are imported where they are used.

Tasks that return a dict have ``multiple_outputs=False``: else each key would be an XCom, and a request, of its own.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import Asset, AssetAlias, task
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from portmon import __version__, timeouts
from portmon.airflow import installation, settings
from portmon.airflow.observability import gauge, gauge_alerts, phase
from portmon.errors import ConfigError, ParamError, PastRunError, PortmonError, ReplayError, StorageError
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup
from portmon.model.host import Inventory
from portmon.model.observation import Observation
from portmon.steps.run import Run, run_of

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
CHANGES = AssetAlias("portmon_changes")
"""Stands for the asset in ``diff_ports``, each success of which would be an event of the asset itself."""
REPLAYS = "replays"
"""Key in what ``fetch_hosts`` returns: the run evaluates archived observations instead of asking hosts."""
ALERT_TASKS = {group: f"alert_{group}" for group in AlertGroup}


@task(task_id=FETCH_HOSTS, multiple_outputs=False)
@phase("fetch")
def fetch_hosts(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> dict[str, Any]:
    """Fetch all hosts from the CMDB, or the last good list; nothing in a run that replays."""
    from portmon.steps.fetch import fetch_inventory

    with _fails_for_good(ConfigError, ParamError, StorageError):
        installation.must_be_one()
        run = run_of(dag_run, params)
        config = settings.config()
        log.info("portmon %s of %s, with %s", __version__, installation.PACKAGE, config.path or "the defaults")
        # With a wrong schedule the DAG file takes the default; the reason is reported here.
        interval = settings.interval()
        # Opens no connection yet, but refuses a kind of database that can't be used.
        database = settings.database()
    if run.watches_all:
        _signal_start(config, run)
    migrate(database)
    window = _window(database, config, run, interval)
    if window is not None:
        log.info("No host is asked: this run evaluates again what was observed from %s", window)
        ti.xcom_push(BaseXCom.XCOM_RETURN_KEY, {REPLAYS: True})
        # Their downstream tasks are skipped with them, but for diff_ports, whose trigger rule is all_done.
        raise DownstreamTasksSkipped(tasks=[PRUNE_INVENTORY, PLAN_SWEEP, PLAN_HOSTS])

    def load() -> Inventory:
        from portmon.airflow.cmdb_hook import get_inventory

        return get_inventory(config.cmdb, settings.folder_of(config))

    with _fails_for_good(ConfigError, ParamError):
        return fetch_inventory(database, config, run, load, now=_now())._asdict()


@task(task_id=PRUNE_INVENTORY, multiple_outputs=False)
@phase("prune")
def prune_inventory(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> dict[str, int]:
    """Hide hosts that left the CMDB, delete them later, or refuse to."""
    from portmon.steps.prune import counts
    from portmon.steps.prune import prune_inventory as prune

    def live(fetched: Mapping[str, Any]) -> dict[str, int]:
        database, config, run = _state(params, dag_run, ti)
        stale, interval = fetched["stale"], settings.interval()
        return prune(database, config, run, fetched["digest"], stale=stale, now=_now(), interval=interval)

    return _unless_past(ti, live, counts())


@task(task_id=PLAN_SWEEP, trigger_rule="all_done")
@phase("plan_sweep")
def plan_sweep(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> list[dict[str, Any]]:
    """Plan batches of hosts, if there are many. Runs even if pruning failed, so that hosts are still watched."""
    from portmon.steps.plan import plan_sweep as plan

    def live(fetched: Mapping[str, Any]) -> list[dict[str, Any]]:
        return plan(*_state(params, dag_run, ti), fetched["digest"], proxy_of=settings.proxy_command)

    return _unless_past(ti, live, [])


@task(task_id=PLAN_HOSTS, trigger_rule="all_done")
@phase("plan_hosts")
def plan_hosts(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> list[dict[str, Any]]:
    """Plan the hosts that need a task of their own. Runs even if the sweep failed."""
    from portmon.steps.plan import plan_hosts as plan

    def live(fetched: Mapping[str, Any]) -> list[dict[str, Any]]:
        batches = _needed(ti, PLAN_SWEEP)
        database, config, run = _state(params, dag_run, ti)
        swept = {look.host_id: not look.provisional for look in _dry_looks(database, ti)} if batches else None
        most = conf.getint("core", "max_map_length", fallback=1024)
        return plan(database, config, run, fetched["digest"], max_hosts=most, swept=swept)

    return _unless_past(ti, live, [])


@task(task_id=DIFF_PORTS, trigger_rule="all_done", multiple_outputs=False, outlets=[CHANGES])
@phase("evaluate")
def diff_ports(*, params: Mapping[str, Any], dag_run: Any, ti: Any, outlet_events: Any) -> dict[str, int]:
    """Evaluate the observations. Runs even if hosts failed, but never without a host list and both plans."""
    from portmon.scan.answer import observation_from_xcom
    from portmon.steps.evaluate import evaluate_dry, evaluate_run
    from portmon.steps.figures import figures_of_looks
    from portmon.steps.plan import asked_by
    from portmon.storage import events

    fetched, interval = _needed(ti, FETCH_HOSTS), settings.interval()
    database, config, run = _state(params, dag_run, ti)
    if REPLAYS in fetched:
        return _replay(database, config, run, interval)
    batches, plan = _needed(ti, PLAN_SWEEP), _needed(ti, PLAN_HOSTS)
    if run.dry_run:
        # A list even for one task; a host that failed returned none.
        answers = ti.xcom_pull(task_ids=[NETSTAT])
        own = {answer["host_id"]: observation_from_xcom(answer) for answer in answers if answer}
        # The observation of a host's own task replaces that of the sweep.
        observations = list(({look.host_id: look for look in _dry_looks(database, ti)} | own).values())
        found = evaluate_dry(database, config, run, fetched["digest"], observations=observations, interval=interval)
        log.info("Dry run: nothing of this was kept, no message is sent")
        return found
    with database.begin() as conn:
        planned = asked_by(conn, batches, plan, sweep=SWEEP, own=NETSTAT)
    began = time.monotonic()
    try:
        found = evaluate_run(
            database,
            config,
            run,
            fetched["digest"],
            planned=planned,
            interval=interval,
            now=_now(),
            # A run that an earlier version began does not have it.
            fetching=fetched.get("seconds"),
        )
    except PastRunError as error:
        log.warning("%s", error)
        return _replay(database, config, run, interval)
    took = time.monotonic() - began
    gauge(database, lambda conn: {**figures_of_looks(conn, run.run_id), "diff_seconds": took})
    with database.begin() as conn:
        changes = events.kinds_of_run(conn, run.run_id)
    if changes:
        # Made here, since it loads the providers of all kinds of assets. A run that is evaluated again tells it again.
        ports = Asset("portmon_ports", uri="portmon://ports")
        outlet_events[CHANGES].add(ports, extra={"run_id": run.run_id, **changes})
    return found


# Follows fetch_hosts and both plans as well: if one failed, diff_ports is skipped, and this is what the run fails by.
@task.branch(task_id=ROUTE_ALERTS, trigger_rule="none_failed_min_one_success")
@phase("dispatch")
def route_alerts(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> list[str]:
    """Start the alert tasks that have something to send, from this run or an earlier one."""
    from portmon.steps.dispatch import groups_to_alert
    from portmon.steps.failed import report_evaluated
    from portmon.steps.overdue import report_overdue

    if ti.xcom_pull(task_ids=DIFF_PORTS) is None:
        # As when a person marked a task as a success that has none.
        raise AirflowFailException(f"{DIFF_PORTS} evaluated nothing, its log says why. Clear what it names to go on")
    database, config, run = _state(params, dag_run, ti)
    interval, now = settings.interval(), _now()
    if run.dry_run:
        log.info("Dry run: no message is sent")
        return [NO_CHANGE]
    replayed = _has_replayed(database, run)
    if replayed and not run.notify:
        log.info("This run replayed without `notify`: no message is sent. The next run sends what is undelivered")
        return [NO_CHANGE]
    if not replayed:
        report_overdue(database, run, interval=interval, now=now)
        if not run.hosts:
            report_evaluated(database, run, now=now)
    own = {"run_id": run.run_id, "holder": f"{ROUTE_ALERTS} {run.run_id}", "try_number": ti.try_number}
    groups = groups_to_alert(database, config, now=now, interval=interval, **own)
    gauge_alerts(database)
    return [ALERT_TASKS[group] for group in AlertGroup if group in groups] or [NO_CHANGE]


def alert(group: AlertGroup) -> Any:
    """The task ``alert_<group>``, which sends one group of events."""

    @task(
        task_id=ALERT_TASKS[group],
        retries=2,
        retry_delay=timedelta(seconds=15),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(minutes=1),
        execution_timeout=timeouts.ALERT,
    )
    def send(*, dag_run: Any, ti: Any) -> int:
        """Send the undelivered events of this group through every channel, and note what was delivered."""
        holder = f"{ti.task_id} {dag_run.run_id}"
        try:
            with phase("send", group=group):
                return send_undelivered(settings.config(), group, holder=holder, try_number=ti.try_number)
        finally:
            gauge_alerts(settings.database())

    return send()


def send_undelivered(config: Config, group: AlertGroup, *, holder: str, try_number: int = 0) -> int:
    """Send the undelivered events of a group through every channel, see :class:`portmon.steps.deliver.AlertTask`."""
    from portmon.airflow.outside import OUTSIDE, deliver
    from portmon.steps.deliver import AlertTask

    return AlertTask(
        database=settings.database(),
        config=config,
        group=group,
        send=deliver,
        silenced=lambda channel, alerts: channel.silenced(alerts, OUTSIDE),
        link=log_link,
        page=page_link(),
        page_of=page_link,
        interval=settings.interval(),
        hold_until=settings.hold_until(_now()),
        holder=holder,
        try_number=try_number,
        clock=_now,
    ).run()


@task(task_id=HEARTBEAT, trigger_rule="none_failed_min_one_success")
def heartbeat(*, params: Mapping[str, Any], dag_run: Any, ti: Any) -> None:
    """Ping the dead-man's switch after a good run: hosts were asked, observations evaluated, messages delivered."""
    from portmon.airflow.outside import OUTSIDE

    database, config, run = _state(params, dag_run, ti)
    if not run.watches_all or _has_replayed(database, run):
        log.info("No ping: a dry run, a replay or a run of some hosts does not prove that every host is watched")
    elif config.alerts.heartbeat is None:
        log.info("No ping: alerts.heartbeat is not set any more")
    elif _clock_went_back(database):
        log.warning("No ping: the monitor's clock went back, so nothing that hosts show now is evaluated")
    else:
        config.alerts.heartbeat.ping(f"portmon: {dag_run.run_id}", OUTSIDE)


def migrate(database: Database) -> None:
    """Create or update the tables of the state database, and log what that took."""
    for revision in database.migrate():
        log.info("State database migrated to %s", revision)


def log_link(event: Event) -> str | None:
    """URL of the log of the mapped task that saw an event, None if it is not known."""
    run, details = run_link(event.run_id), event.details
    if run is None or "task" not in details:
        return None
    return f"{run}/tasks/{details['task']}/mapped/{details['map_index']}"


def page_link(event: Event | None = None) -> str | None:
    """URL of portmon's page of the port or host that an event is about, or of its problems; None without an address.

    It is the page's own address: some roles see no plugins, and so not the one within Airflow's frame.
    """
    from portmon.api.addresses import host_path

    base = settings.base_url()
    if not base.startswith("http"):
        return None
    return f"{base}/portmon{host_path(event.host_id, event.number) if event and event.host_id is not None else '/'}"


def run_link(run_id: str) -> str | None:
    """URL of a run in Airflow's page, None if that has no address."""
    from urllib.parse import quote

    base = settings.base_url()
    return f"{base}/dags/{DAG_ID}/runs/{quote(run_id, safe='')}" if base.startswith("http") else None


@contextmanager
def _fails_for_good(*errors: type[PortmonError]) -> Iterator[None]:
    """Fail the task without another try, which would fail as well."""
    try:
        yield
    except errors as error:
        raise AirflowFailException(str(error)) from error


def _state(params: Mapping[str, Any], dag_run: Any, ti: Any) -> tuple[Database, Config, Run]:
    """The database, the configuration and the run of a task."""
    with _fails_for_good(ParamError):
        run = run_of(dag_run, params, try_number=ti.try_number)
    return settings.database(), settings.config(), run


def _needed(ti: Any, task_id: str) -> Any:
    """The result of an earlier task. Without it this task is skipped: that one is red and says why, one red is enough.

    :raises AirflowSkipException: there is none
    """
    result = ti.xcom_pull(task_ids=task_id)
    if result is None:
        log.warning("Skipped: %s left no result, which this task needs. Clear %s to go on", task_id, task_id)
        raise AirflowSkipException(f"{task_id} left no result")
    return result


def _unless_past(ti: Any, live: Callable[[Mapping[str, Any]], Result], nothing: Result) -> Result:
    """The result of a step, given what ``fetch_hosts`` returned; ``nothing`` in a run that replays."""
    fetched = _needed(ti, FETCH_HOSTS)
    if REPLAYS in fetched:
        return nothing
    try:
        return live(fetched)
    except PastRunError as error:
        log.warning("%s", error)
        return nothing


def _window(database: Database, config: Config, run: Run, interval: timedelta) -> Window | None:
    """The time whose observations a run evaluates again; None if the run asks hosts."""
    from portmon.replay.run import must_be_kept, window_of

    with _fails_for_good(ParamError, ReplayError), database.begin() as conn:
        window = window_of(conn, config, run, interval=interval, now=_now())
        if window is not None:
            must_be_kept(conn, window, interval=interval)
    return window


def _replay(database: Database, config: Config, run: Run, interval: timedelta) -> dict[str, int]:
    """Evaluate archived observations again, with a time limit of its own: that may take hours."""
    from airflow.sdk.execution_time.timeout import timeout

    from portmon.replay.run import replay_dry, replay_run

    window = _window(database, config, run, interval)
    if window is None:
        raise AirflowFailException("this run began as a replay, and is to ask hosts now: clear fetch_hosts")
    with _fails_for_good(ReplayError), timeout(int(timeouts.REPLAY.total_seconds())):
        if run.dry_run:
            return replay_dry(database, config, window, interval=interval)
        return replay_run(database, config, run, window, interval=interval)


def _signal_start(config: Config, run: Run) -> None:
    if config.alerts.heartbeat is not None and config.alerts.heartbeat.signals:
        from portmon.airflow.outside import signal
        from portmon.alerting.config import Signal

        signal(config.alerts, Signal.START, f"portmon: {run.run_id}")


def _has_replayed(database: Database, run: Run) -> bool:
    from portmon.storage import replays

    if run.replays:
        return True
    with database.begin() as conn:
        return replays.last(conn, run_id=run.run_id) is not None


def _clock_went_back(database: Database) -> bool:
    from portmon.storage import conditions

    with database.begin() as conn:
        return conditions.since(conn, conditions.CLOCK_BACK) is not None


def _dry_looks(database: Database, ti: Any) -> list[Observation]:
    """Observations of a dry run's sweep; those of any other run are in the database."""
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
