"""What Airflow's own configuration says about portmon.

Options of ``[portmon]`` in airflow.cfg, or ``AIRFLOW__PORTMON__<OPTION>`` in the environment:

``schedule``
    cron expression, preset (``@hourly``) or duration (``10min``); empty for manual runs only. With a
    wrong one the DAG runs every 5 minutes and its first task fails with what is wrong.
    Default: every 5 minutes.
``config``
    path of portmon.yaml. Default: ``config/portmon.yaml`` beside the ``plugins`` folder.

Connections: ``portmon_db`` is the state database (default: SQLite in ``$AIRFLOW_HOME/portmon.db``);
the CMDB's and SSH's are named in portmon.yaml.

The DAG file imports this module at every parse: nothing here may load pandas or the storage package
at import.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException

from portmon import limits
from portmon.config import Config, load_config, parse_duration
from portmon.errors import ConfigError

if TYPE_CHECKING:
    from portmon.storage.database import Database

log = logging.getLogger(__name__)

SECTION = "portmon"
DB_CONN_ID = "portmon_db"
DEFAULT_SCHEDULE = "*/5 * * * *"
DEFAULT_CONFIG = Path(__file__).parent.parent.parent / "config" / "portmon.yaml"


def schedule() -> str | timedelta | None:
    """The DAG's schedule: cron text or preset, a timedelta, or None for manual runs only.

    :raises ConfigError: if the option is nothing of that; the message says what is wrong
    """
    text = conf.get(SECTION, "schedule", fallback=DEFAULT_SCHEDULE).strip()
    if not text or text.lower() in ("none", "@never"):
        return None
    try:
        if text in _WITHOUT_RHYTHM:
            return text
        if text.startswith("@") or len(text.split()) >= 5:
            _gap(text)
            return text
        return _positive(parse_duration(text))
    except ValueError as error:
        kind = "cron expression or preset" if text.startswith("@") or " " in text else "duration"
        raise ConfigError(
            f"{text!r} is no cron expression, preset or duration (as a {kind}: {error})",
            file="airflow.cfg",
            field="[portmon] schedule",
        ) from error


_WITHOUT_RHYTHM = frozenset({"@once", "@continuous"})
_PRESETS = {"@quarterly": "0 0 1 */3 *"}
"""Those of Airflow that croniter does not know."""


def _gap(cron: str) -> timedelta:
    """Between two runs.

    :raises ValueError: if it is no cron expression, or one that never comes true
    """
    from croniter import croniter

    times = croniter(_PRESETS.get(cron, cron), datetime(2024, 1, 1, tzinfo=UTC))
    first = times.get_next(datetime)
    gap: timedelta = times.get_next(datetime) - first
    return gap


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0")
    return value


def schedule_for_parsing() -> str | timedelta | None:
    """The same for the DAG file, see :func:`config_for_parsing`."""
    try:
        return schedule()
    except ConfigError as error:
        log.warning("The DAG runs every 5 minutes until this is mended: %s", error)
        return DEFAULT_SCHEDULE


def interval() -> timedelta:
    """Time between two scheduled runs; 0 if there is no rhythm: manual runs only, ``@once``, ``@continuous``.

    :raises ConfigError: if the schedule is wrong
    """
    value = schedule()
    if value is None or value in _WITHOUT_RHYTHM:
        return timedelta(0)
    return value if isinstance(value, timedelta) else _gap(value)


def hold_until(now: datetime) -> datetime:
    """Until when what fires in Alertmanager holds without being repeated: the fourth scheduled run from now.

    So three runs may be skipped, and a schedule that rests at night resolves nothing. But a run that is late does
    neither: at least the next one and a quarter of an hour. Without a rhythm, a day.

    :raises ConfigError: if the schedule is wrong
    """
    value = schedule()
    if value is None or value in _WITHOUT_RHYTHM:
        return now + timedelta(days=1)
    if isinstance(value, timedelta):
        runs = [now + value, now + 4 * value]
    else:
        from croniter import croniter

        times = croniter(_PRESETS.get(value, value), now.astimezone(UTC))
        runs = [times.get_next(datetime) for _ in range(4)]
    return max(runs[-1], runs[0] + limits.STEP)


def config_path() -> Path:
    """Where portmon.yaml is."""
    given = conf.get(SECTION, "config", fallback="").strip()
    return Path(os.path.expandvars(given)).expanduser() if given else DEFAULT_CONFIG


def config() -> Config:
    """Read portmon.yaml. Without the option and without the file: the defaults.

    :raises ConfigError: with file, line and field
    """
    path = config_path()
    if path == DEFAULT_CONFIG and not path.exists():
        return Config()
    return load_config(path)


def config_for_parsing() -> Config:
    """The same for the DAG file: a mistake must not make the DAG vanish from the page, where people
    would look for the reason. The run's first task reads the file again and fails with the message.
    """
    try:
        return config()
    except ConfigError as error:
        log.warning("portmon.yaml is not usable, the DAG takes the defaults until it is mended: %s", error)
        return Config()


def multi_machine() -> bool:
    """Whether tasks may run on other machines than this one."""
    executors = conf.get("core", "executor", fallback="LocalExecutor").split(",")
    return any("LocalExecutor" not in executor for executor in executors)


def database_url() -> str:
    """SQLAlchemy URL of the state database, password included: not for logs."""
    from sqlalchemy.engine import URL

    home = Path(os.path.expandvars(os.environ.get("AIRFLOW_HOME", "~/airflow"))).expanduser()
    try:
        connection = BaseHook.get_connection(DB_CONN_ID)
    except AirflowNotFoundException:
        return f"sqlite:///{home / 'portmon.db'}"
    if connection.conn_type == "sqlite":
        # Relative to $AIRFLOW_HOME: a task's working directory is nobody's choice.
        return f"sqlite:///{home / (connection.host or connection.schema or 'portmon.db')}"
    if connection.conn_type not in ("postgres", "postgresql"):
        raise ConfigError(
            f"connection {DB_CONN_ID!r} is of type {connection.conn_type!r}; use postgres or sqlite",
            field=DB_CONN_ID,
        )
    query = {key: str(value) for key, value in connection.extra_dejson.items() if isinstance(value, str | int | bool)}
    return URL.create(
        "postgresql+psycopg2",
        username=connection.login or None,
        password=connection.password or None,
        host=connection.host or None,
        port=connection.port,
        database=connection.schema or None,
        query=query,
    ).render_as_string(hide_password=False)


def database() -> Database:
    """The state database.

    :raises StorageError: if it can't be used by this executor
    """
    from portmon.storage.database import Database

    return Database(database_url(), multi_machine=multi_machine())
