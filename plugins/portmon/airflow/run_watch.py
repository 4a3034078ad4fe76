"""What Airflow calls when a run hangs or failed. Both happen outside of the run, whose own tasks can't tell any more.

Airflow's triggerer tells of a run that hangs, once the scheduler finds that a deadline passed. Its DAG processor tells
of one that failed, by the DAG's failure callback. The DAG file imports this module at every parse.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from portmon import timeouts
from portmon.airflow import settings, tasks
from portmon.errors import ConfigError, ParamError
from portmon.steps.run import Run, run_of
from portmon.text import REASON_LIMIT, plain

if TYPE_CHECKING:
    from portmon.config import Config
    from portmon.storage.database import Database

log = logging.getLogger(__name__)

UNFINISHED = frozenset({"running", "queued", "scheduled", "restarting", "up_for_retry"})
_MAP_INDEX = re.compile(r"_\d+\Z")


def deadline(schedule: str | timedelta | None) -> DeadlineAlert | None:
    """When Airflow calls :func:`tell_hanging`; None if runs have no rhythm."""
    interval = settings.interval_of(schedule)
    if not interval:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timeouts.OVERDUE_AFTER * interval,
        callback=AsyncCallback(tell_hanging),
    )


async def tell_hanging(context: Mapping[str, Any]) -> None:
    """Tell that a run has not ended, and send what is undelivered, since the run keeps its own and later tasks from it.

    :param context: ``dag_run``, as Airflow's API describes a run
    """
    # Settings, database and channels block; the triggerer runs other triggers meanwhile.
    await asyncio.to_thread(_tell_hanging, SimpleNamespace(**context["dag_run"]))


def _tell_hanging(dag_run: Any) -> None:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    from portmon.steps.overdue import report_hanging

    run_id = dag_run.dag_run_id
    # The context says what was when the deadline passed.
    state = RuntimeTaskInstance.get_dagrun_state(tasks.DAG_ID, run_id)
    try:
        given = SimpleNamespace(run_id=run_id, run_type=dag_run.run_type, logical_date=None)
        run = run_of(given, dag_run.conf)
    except ParamError:
        run = Run(run_id, run_type=dag_run.run_type)
    if state not in ("running", "queued") or run.replays:
        log.info("Nothing to tell: the run %s %s", run_id, "replays" if run.replays else f"is {state}")
        return
    queued = datetime.fromisoformat(dag_run.queued_at or dag_run.run_after).astimezone(UTC)
    database, now = settings.database(), datetime.now(UTC)
    config, _ = _config(database)
    unfinished = _tasks_in(run_id, UNFINISHED)
    interval = settings.interval()
    report_hanging(database, run, since=queued, interval=interval, unfinished=unfinished, now=now)
    _send(database, config, run)


def tell_failed(context: Mapping[str, Any]) -> None:
    """Tell that a run evaluated nothing, and the dead-man's switch of any run that failed.

    :param context: of Airflow's callbacks of a DAG: ``dag_run``, ``params``; only ``run_id`` of a run without tasks
    """
    from portmon.airflow.outside import signal
    from portmon.alerting.config import Signal
    from portmon.steps.failed import is_past, report_failed

    dag_run = context.get("dag_run") or SimpleNamespace(
        run_id=context["run_id"], run_type=str(context["run_id"]).partition("__")[0], logical_date=None
    )
    try:
        run = run_of(dag_run, context.get("params"))
    except ParamError as error:
        log.info("Nothing to tell but to those who started the run: %s", error)
        return
    if not run.watches_all:
        log.info("Nothing to tell: a dry run, a replay or a run of some hosts is not what watches the fleet")
        return
    database = settings.database()
    config, wrong = _config(database)
    try:
        past = is_past(database, run)
    except Exception as error:
        # The dead-man's switch needs no database.
        past = False
        log.warning("Nothing is known of other runs: %s", plain(str(error), REASON_LIMIT))
    if past:
        log.info("Nothing to tell: a later run was evaluated since")
        return
    failed = _tasks_in(run.run_id, {"failed"})
    signal(config.alerts, Signal.FAIL, f"portmon: {run.run_id}: {', '.join(failed)} failed")
    if report_failed(database, run, failed=failed, why=wrong, now=datetime.now(UTC)):
        _send(database, config, run)


def _config(database: Database) -> tuple[Config, str | None]:
    """portmon.yaml; if it can't be used, the settings of the last run, and why: a run that fails by it is to be told.

    :raises ConfigError: there was no run before
    """
    try:
        return settings.config(), None
    except ConfigError as error:
        from portmon.config import parse_config
        from portmon.storage import contents, runs

        with database.begin() as conn:
            digest = runs.last_settings(conn)
            if digest is None:
                raise
            text = contents.get(conn, digest).decode()
        log.warning("The settings of the last run are taken: %s", error)
        return parse_config(text, path=settings.config_path()), plain(str(error), REASON_LIMIT)


def _tasks_in(run_id: str, states: Collection[str]) -> list[str]:
    """Ids of the tasks of a run that have one of some states, a mapped one once. Empty if Airflow does not tell."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        found = RuntimeTaskInstance.get_task_states(tasks.DAG_ID, run_ids=[run_id]).get(run_id, {})
    except Exception as error:
        log.warning("The states of the run's tasks are not known: %s", type(error).__name__)
        return []
    return sorted({_MAP_INDEX.sub("", name) for name, state in found.items() if state in states})


def _send(database: Database, config: Config, run: Run) -> None:
    """Send what is undelivered, whichever run found it."""
    from portmon.steps.dispatch import groups_to_alert

    interval, now, holder = settings.interval(), datetime.now(UTC), f"run watch {run.run_id}"
    groups = groups_to_alert(database, config, run_id=run.run_id, now=now, interval=interval, holder=holder)
    failures: list[Exception] = []
    for group in sorted(groups):
        try:
            tasks.send_undelivered(config, group, holder=holder)
        except Exception as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup("some channels did not take their messages", failures)
