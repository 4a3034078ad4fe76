"""What Airflow's own configuration says about portmon.

Options of ``[portmon]`` in airflow.cfg, or ``AIRFLOW__PORTMON__<OPTION>`` in the environment, are those of
:data:`portmon.airflow.provider.OPTIONS`.

The connection ``portmon_db`` is the state database (default: SQLite in ``$AIRFLOW_HOME/portmon.db``); those of the CMDB
and of SSH are named in portmon.yaml.

The DAG file imports this module at every parse: neither pandas nor the storage may be loaded at its top.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowConfigException, AirflowException, AirflowNotFoundException

from portmon.airflow import installation
from portmon.airflow.provider import DEFAULT_SCHEDULE
from portmon.errors import ConfigError, UnansweredError
from portmon.fields import parse_duration
from portmon.text import plain
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import DocumentError, parse_json, parse_yaml, read_text

if TYPE_CHECKING:
    from portmon.config import Config
    from portmon.storage.database import Database

log = logging.getLogger(__name__)

DB_CONN_ID = "portmon_db"
_HOST = re.compile(r"[\w.-]*|(?=[^:]*:[^:]*:)[0-9A-Fa-f:.]+(?:%\w+)?|[/@][^@:?#]*")
"""Of a PostgreSQL server; or the folder of its socket, which may be abstract."""

_WITHOUT_RHYTHM = (None, "@once", "@continuous")
_GAPS = 60
"""No field of a cron expression takes more values, so that as many equal gaps in a row are the commonest."""
_GAPS_IN_ALL = 4 * _GAPS
"""How many gaps are compared if they differ; fewer if they are of more than a day."""
HOLD_RUNS = 4
"""A firing alert holds for so many scheduled runs without being repeated: all but the last one may be skipped."""
HOLD_SLOW = timedelta(minutes=15)
"""The next run may take this long to repeat it."""
HOLD_WITHOUT_RHYTHM = timedelta(days=1)
"""Where runs are started by hand."""
CLOCK_CHANGE = timedelta(hours=3)
"""More than clocks are changed by."""


def schedule() -> str | timedelta | None:
    """The DAG's schedule: cron text or preset, a timedelta, or None for manual runs only.

    :raises ConfigError: the option is none of these
    """
    text = conf.get("portmon", "schedule", fallback=DEFAULT_SCHEDULE).strip()
    if not text or text.lower() in ("none", "@never"):
        return None
    if text in _WITHOUT_RHYTHM:
        return str(text)
    try:
        if text.startswith("@") or len(text.split()) >= 5:
            # A well formed expression may still never come true, such as February 30th.
            next(_cron_runs(text, datetime.now(UTC)))
            return text
        length = parse_duration(text)
        if length <= timedelta(0):
            raise ValueError("must be longer than 0")
        return length
    except (AirflowException, ValueError) as error:
        kind = "cron expression or preset" if text.startswith("@") or " " in text else "duration"
        reason = f"{text!r} is no cron expression, preset or duration (as a {kind}: {error})"
        raise ConfigError(reason, file="airflow.cfg", field="[portmon] schedule") from error


def schedule_for_parsing() -> str | timedelta | None:
    """The schedule for the DAG file, see :func:`for_dag`."""
    try:
        return schedule()
    except ConfigError as error:
        log.warning("The DAG runs every 5 minutes until its schedule is corrected: %s", error)
        return DEFAULT_SCHEDULE


def _has_data_intervals() -> bool:
    """Whether runs follow each other as their data intervals do, as in Airflow 2."""
    return bool(conf.getboolean("scheduler", "create_cron_data_intervals", fallback=False))


def _cron_runs(cron: str, at: datetime) -> Iterator[datetime]:
    """When the scheduler starts the runs of a cron expression or preset that follow a time.

    :raises AirflowException: it is not well formed
    :raises ValueError: it does not come true any more
    """
    # Every task process has these modules: they come with what parses the DAG file.
    from airflow.sdk import timezone
    from airflow.timetables.base import DataInterval, TimeRestriction
    from airflow.timetables.interval import CronDataIntervalTimetable
    from airflow.timetables.trigger import CronTriggerTimetable

    made = CronDataIntervalTimetable if _has_data_intervals() else CronTriggerTimetable
    timetable: Any = made(cron, timezone=timezone.datetime(2024, 1, 1).tzinfo)
    timetable.validate()
    # Without catchup the timetable would look at the clock, and leave out runs of the past.
    restriction = TimeRestriction(earliest=None, latest=None, catchup=True)
    # So long a data interval that the next one begins where it ends, and not before.
    last = DataInterval(timezone.coerce_datetime(at - timedelta(days=3653)), timezone.coerce_datetime(at))
    while True:
        run = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        last = run.data_interval
        # A plain datetime, whatever Airflow's functions return.
        yield datetime.fromtimestamp(run.run_after.timestamp(), UTC)


def _runs_after(value: str | timedelta | None, at: datetime) -> Iterator[datetime]:
    """When the scheduler starts the runs of a schedule that follow a time; none if it has no rhythm."""
    try:
        if isinstance(value, timedelta):
            while True:
                yield (at := at + value)
        elif value is not None and value not in _WITHOUT_RHYTHM:
            yield from _cron_runs(value, at)
    except (ValueError, OverflowError):  # an expression with a year comes to an end, and so does the calendar
        return


def interval() -> timedelta:
    """The commonest time between two scheduled runs, see :func:`interval_of`.

    :raises ConfigError: the schedule is wrong
    """
    return interval_of(schedule())


def interval_of(value: str | timedelta | None) -> timedelta:
    """The commonest time between two scheduled runs, the shorter one of two that are equally common. ``*/5 6-22 * * *``
    is 5 minutes, for all its nights. 0 without a rhythm: manual runs, ``@once``, ``@continuous``.

    :param value: the schedule
    """
    # A Monday in whose week no clock is changed.
    start = datetime(2024, 1, 1, tzinfo=UTC)
    gaps: Counter[timedelta] = Counter()
    for last, following in itertools.pairwise(_runs_after(value, start)):
        gaps[following - last] += 1
        enough = len(gaps) == 1 or following - start > timedelta(days=1)
        if gaps.total() >= (_GAPS if enough else _GAPS_IN_ALL):
            break
    return min(gaps, key=lambda gap: (-gaps[gap], gap), default=timedelta(0))


def hold_until(now: datetime) -> datetime:
    """Until when an alert that fires in Alertmanager holds without being repeated.

    That is the fourth scheduled run from now, nights and weekends without runs included, but long enough for the next
    run to repeat it, even a slow one. A day without a rhythm.

    :raises ConfigError: the schedule is wrong
    """
    # Where data intervals follow each other, the one in which the clock skips an hour is an hour longer. That is seen
    # only if one comes from the interval before.
    begin = now - CLOCK_CHANGE if _has_data_intervals() else now
    following = (run for run in _runs_after(schedule(), begin) if run > now)
    runs = list(itertools.islice(following, HOLD_RUNS))
    return max(runs[-1], runs[0] + HOLD_SLOW) if runs else now + HOLD_WITHOUT_RHYTHM


def config_path() -> Path:
    """Where portmon.yaml is."""
    return installation.config_at(_config_option())


def _config_option() -> str:
    return str(conf.get("portmon", "config", fallback="")).strip()


def folder_of(config: Config) -> Path:
    """The folder that relative paths in portmon.yaml start from."""
    return (config.path or config_path()).parent


def config() -> Config:
    """portmon.yaml as it is now; the defaults if there is neither the option nor the file.

    :raises ConfigError: with file, line and field
    """
    return installation.read_config(_config_option())


def metrics_per_port() -> bool:
    """Whether Prometheus gets a series for each host and port as well.

    :raises ConfigError: the option is neither true nor false
    """
    try:
        return bool(conf.getboolean("portmon", "metrics_per_port", fallback=False))
    except AirflowConfigException as error:
        raise ConfigError(str(error), file="airflow.cfg", field="[portmon] metrics_per_port") from error


class DagSettings(NamedTuple):
    """``ssh.max_logins``, ``scan.pool``, and whether there is an ``alerts.heartbeat``."""

    max_logins: int
    pool: str | None
    heartbeat: bool


def for_dag() -> DagSettings:
    """Settings of the DAG file, which every task process parses: only these are read, not the sections of every room.

    Despite a mistake the DAG stays visible; its first task reads the whole file and fails with the reason.

    :raises ConfigError: Airflow is too old, which Airflow shows as an import error of the file
    """
    installation.must_be_new_enough()
    path = config_path()
    try:
        return _for_dag(read_text(path) if path.exists() else "")
    except (DocumentError, OSError, ValueError) as error:
        log.warning("The DAG uses the defaults until portmon.yaml is corrected: %s", plain(str(error), 300))
        return _for_dag("")


@lru_cache(maxsize=2)
def _for_dag(text: str) -> DagSettings:
    from portmon.scan.config import Scan
    from portmon.ssh.config import Ssh

    sections = parse_yaml(text) or {}
    if not isinstance(sections, Mapping):
        raise ValueError("it is no mapping of sections")
    alerts = sections.get("alerts")
    return DagSettings(
        Ssh.model_validate(sections.get("ssh") or {}).max_logins,
        Scan.model_validate(sections.get("scan") or {}).pool,
        isinstance(alerts, Mapping) and alerts.get("heartbeat") is not None,
    )


def database_url() -> str:
    """SQLAlchemy URL of the state database, password included: not for logs.

    It is the SQLite file in ``$AIRFLOW_HOME`` only if there is no such connection.

    :raises ConfigError: the connection can't be read, or is of another type
    :raises UnansweredError: Airflow can't be asked for it
    """
    from sqlalchemy.engine import URL

    home = installation.home()
    found = connection(DB_CONN_ID)
    if found is None:
        return f"sqlite:///{home / 'portmon.db'}"

    def wrong(why: str) -> ConfigError:
        return ConfigError(f"the Airflow connection can't be used: {why}", field=DB_CONN_ID)

    # A field that can't be read must not become another database either.
    with boundary(wrong, passing=ConfigError, secret=True):
        if found.conn_type == "sqlite":
            # Relative to $AIRFLOW_HOME: a task's working directory is arbitrary.
            return f"sqlite:///{home / (found.host or found.schema or 'portmon.db')}"
        if found.conn_type not in ("postgres", "postgresql"):
            reason = f"connection {DB_CONN_ID!r} is of type {found.conn_type!r}; use postgres or sqlite"
            raise ConfigError(reason, field=DB_CONN_ID)
        if not all(map(_HOST.fullmatch, (found.host or "").split(","))):
            # The driver's own error would show it.
            raise wrong("its host is no host name, IP address or folder: write login, password and port elsewhere")
        # Airflow reads an extra field that is no JSON as an empty one: `sslmode` would be lost without a word.
        extra = parse_json(found.extra) if found.extra else {}
        options = {key: str(value) for key, value in extra.items() if isinstance(value, str | int | bool)}
        host = found.host or ""
        if host.startswith(("/", "@")):
            # In the place of a URL's host it would be read as another part.
            options["host"], host = host, ""
        return URL.create(
            "postgresql+psycopg2",
            username=found.login or None,
            password=found.password or None,
            host=host or None,
            port=found.port,
            database=found.schema or None,
            query=options,
        ).render_as_string(hide_password=False)


def proxy_command(conn_id: str) -> str | None:
    """The proxy command of an SSH connection; None if it has none, or can't be read."""
    try:
        found = connection(conn_id)
        extra = found.extra_dejson if found is not None else {}
    except (ConfigError, UnansweredError):
        # The hosts of this connection fail with the reason, and no others.
        return None
    command = extra.get("host_proxy_cmd") if isinstance(extra, Mapping) else None
    return str(command) if command else None


def connection(conn_id: str) -> Any | None:
    """An Airflow connection; None only if every secrets backend says that there is none.

    Airflow also calls a connection undefined if it can't be read, or if no backend answered:
    https://github.com/apache/airflow/blob/3.3.2/task-sdk/src/airflow/sdk/execution_time/context.py

    :raises ConfigError: it is there and malformed
    :raises UnansweredError: a backend does not answer
    """
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        must_be_absent(conn_id)
        return None
    except Exception as error:
        # Its text may hold the connection.
        reason = f"Airflow can't be asked for the connection {conn_id!r}: {type(error).__name__}"
        raise UnansweredError(reason) from None


def must_be_absent(conn_id: str) -> None:
    """Make sure that a connection which Airflow calls undefined is; raises as :func:`connection` does."""
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    if variable in os.environ:
        raise ConfigError(
            f"the environment variable {variable} is no Airflow connection: give a URI or a JSON object with "
            "conn_type, host, login, password, schema, port and extra, or unset it",
            field=conn_id,
        )
    for backend in ensure_secrets_backend_loaded():
        name = type(backend).__name__
        try:
            if name == "ExecutionAPISecretsBackend":
                wrong = _execution_api_error(conn_id)
            else:
                wrong = None if backend.get_connection(conn_id=conn_id) is None else "it has one now"
        except Exception as error:
            # Its text may hold a secret.
            wrong = type(error).__name__
        if wrong is not None:
            raise UnansweredError(
                f"{name} does not answer ({wrong}), so it is not known whether there is a connection {conn_id!r}: see "
                "that Airflow's database and API server are up, and that AIRFLOW_HOME is Airflow's"
            )


def _execution_api_error(conn_id: str) -> str | None:
    """Why the API server gives no connection, None if there is none. Its backend takes every error for "not there":
    https://github.com/apache/airflow/blob/3.3.2/task-sdk/src/airflow/sdk/execution_time/secrets/execution_api.py
    """
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse, GetConnection
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    answer = SUPERVISOR_COMMS.send(GetConnection(conn_id=conn_id))
    if isinstance(answer, ErrorResponse):
        return None if answer.error is ErrorType.CONNECTION_NOT_FOUND else str(answer.error.value)
    return "it has one now"


def base_url() -> str:
    """Address of Airflow's page without a slash at its end; empty if it has none."""
    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


def database(*, keep_open: bool = False, patience: int | None = None) -> Database:
    """The state database, see :class:`portmon.storage.database.Database`.

    :raises StorageError: it can't be used by this executor
    """
    from portmon.storage.database import Database

    executors = conf.get("core", "executor", fallback="LocalExecutor").split(",")
    multi_machine = any("LocalExecutor" not in executor for executor in executors)
    return Database(database_url(), multi_machine=multi_machine, keep_open=keep_open, patience=patience)
