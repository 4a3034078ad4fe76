"""Options of airflow.cfg."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Connection, timezone
from airflow.sdk.exceptions import AirflowFailException

from portmon import settings, tasks
from portmon.channels import missing_connections
from portmon.config import parse_config
from portmon.errors import ConfigError, SetupError, StorageError, UnansweredError
from portmon.hooks import HostSSHHook
from portmon.models import Host


def say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AIRFLOW__PORTMON__SCHEDULE", text)


@pytest.mark.parametrize(
    ("text", "schedule", "seconds"),
    [
        ("*/5 * * * *", "*/5 * * * *", 300),
        ("@hourly", "@hourly", 3600),
        ("@quarterly", "@quarterly", 90 * 86400),
        ("0,5 * * * *", "0,5 * * * *", 300),
        ("*/5 6-22 * * *", "*/5 6-22 * * *", 300),
        ("0 6 * * 1-5", "0 6 * * 1-5", 86400),
        ("10min", timedelta(minutes=10), 600),
        ("@once", "@once", 0),
        ("@continuous", "@continuous", 0),
        ("", None, 0),
        ("none", None, 0),
    ],
)
def test_schedule_and_interval(monkeypatch: pytest.MonkeyPatch, text: str, schedule: object, seconds: int) -> None:
    say(monkeypatch, text)
    assert settings.schedule() == schedule
    assert settings.interval() == timedelta(seconds=seconds)
    assert settings.schedule_for_parsing() == schedule
    with DAG("d", schedule=settings.schedule_for_parsing(), max_active_runs=1) as dag:
        assert dag.timetable is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("61 * * * *", "out of range"),
        ("* * * * * * * *", "columns"),
        ("0 0 30 2 *", "failed to find next date"),
        ("@reboot", "columns"),
        ("@oncee", "columns"),
        ("soon", "is no cron expression, preset or duration"),
        ("0s", "longer than 0"),
    ],
)
def test_a_wrong_schedule_says_what_is_wrong_and_leaves_the_dag_visible(
    monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    say(monkeypatch, text)
    with pytest.raises(ConfigError, match=reason) as caught:
        settings.schedule()
    assert "[portmon] schedule" in str(caught.value)
    assert text in str(caught.value)
    assert settings.schedule_for_parsing() == settings.DEFAULT_SCHEDULE


@pytest.mark.parametrize(
    ("schedule", "now", "until"),
    [
        ("*/5 * * * *", "10:00:12", "10:20"),
        # It rests at night, and resolves nothing then.
        ("*/5 6-22 * * *", "22:55", "06:15 next day"),
        ("*/5 6-22 * * *", "22:50", "06:10 next day"),
        # A run that is late is no end either.
        ("* * * * *", "10:00", "10:16"),
        ("1min", "10:00", "10:16"),
        ("10min", "10:00", "10:40"),
        ("@hourly", "10:10", "14:00"),
        ("", "10:00", "10:00 next day"),
        ("@continuous", "10:00", "10:00 next day"),
    ],
)
def test_until_when_a_firing_alert_holds(monkeypatch: pytest.MonkeyPatch, schedule: str, now: str, until: str) -> None:
    say(monkeypatch, schedule)

    def at(text: str) -> datetime:
        day = 3 if text.endswith("next day") else 2
        return datetime.fromisoformat(f"2026-03-0{day}T{text.split()[0]}+00:00")

    assert settings.hold_until(at(now)) == at(until)


@pytest.fixture
def berlin() -> Iterator[None]:
    timezone.initialize("Europe/Berlin")
    yield
    timezone.initialize("UTC")


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("schedule", "now", "until"),
    [
        # 06:00 is 05:00 UTC in winter and 04:00 UTC in summer; the clock is changed in this night.
        ("*/5 6-22 * * *", "2026-03-02T21:55", "2026-03-03T05:15"),
        ("*/5 6-22 * * *", "2026-03-28T21:55", "2026-03-29T04:15"),
        ("*/5 6-22 * * *", "2026-10-24T20:55", "2026-10-25T05:15"),
        # Hours that the clock skips or shows twice are no gap.
        ("*/5 * * * *", "2026-03-29T00:50", "2026-03-29T01:10"),
        ("*/5 * * * *", "2026-10-25T00:50", "2026-10-25T01:10"),
    ],
)
def test_a_firing_alert_holds_by_the_clock_of_airflow(
    monkeypatch: pytest.MonkeyPatch, schedule: str, now: str, until: str
) -> None:
    say(monkeypatch, schedule)
    found = settings.hold_until(datetime.fromisoformat(f"{now}+00:00"))
    assert found == datetime.fromisoformat(f"{until}+00:00")
    assert type(found) is datetime


def test_the_first_task_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, "61 * * * *")
    run: Any = SimpleNamespace(run_id="r", run_type="manual", logical_date=None)
    with pytest.raises(AirflowFailException, match="out of range"):
        tasks.fetch_hosts.function(params={}, dag_run=run, ti=None)


@pytest.mark.parametrize(
    ("executor", "refused"),
    [
        ("LocalExecutor", False),
        ("CeleryExecutor", True),
        ("KubernetesExecutor", True),
        ("LocalExecutor,CeleryExecutor", True),
        ("airflow.providers.celery.executors.celery_executor.CeleryExecutor", True),
    ],
)
def test_sqlite_is_refused_where_tasks_run_on_several_machines(
    monkeypatch: pytest.MonkeyPatch, executor: str, refused: bool
) -> None:
    """By the first task, and without another try: that would find the same."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    if not refused:
        assert settings.database().is_sqlite
        return
    with pytest.raises(StorageError, match="point the Airflow connection portmon_db at a PostgreSQL database"):
        settings.database()
    run: Any = SimpleNamespace(run_id="r", run_type="manual", logical_date=None)
    with pytest.raises(AirflowFailException, match="several machines"):
        tasks.fetch_hosts.function(params={}, dag_run=run, ti=None)
    monkeypatch.setenv("AIRFLOW_CONN_PORTMON_DB", "postgresql://portmon@db.example.com/portmon")
    assert not settings.database().is_sqlite


# ── the connection of the state database ────────────────────────────────────────────────────────


class _Backend:
    """A place of connections that holds or raises something."""

    def __init__(self, found: Any = None) -> None:
        self.found = found
        self.asked = 0

    def get_connection(self, conn_id: str) -> Any:
        self.asked += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Places of connections, in this order."""
    places: list[Any] = []
    monkeypatch.setattr("airflow.sdk.execution_time.supervisor.ensure_secrets_backend_loaded", lambda: places)
    return places


def test_without_a_connection_there_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_PORTMON_DB", raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    assert settings.database_url() == f"sqlite:///{tmp_path}/portmon.db"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "{}x",
        '{"conn_type": "postgres", "hots": "s3cret"}',
        '{"conn_type": "postgres", "port": "s3cret"}',
        '["s3cret"]',
        "[" * 5000,
        '{"conn_type": "postgres", "extra": ' + "[" * 100_000,
        "postgres://u:s3cret@h:port/db",
        "postgres://u:s3cret@[h/db",
        "postgres//u:s3cret@h/db",
        "a://b://c://d",
        "mysql://u:s3cret@h/db",
        "s3cret",
        "null",
        '{"host": "h"}',
        '{"conn_type": "postgres", "host": "h", "extra": "{s3cret"}',
        '{"conn_type": "postgres", "host": "h", "extra": "[1]"}',
        '{"conn_type": "postgres", "host": ["h"], "schema": {"s3cret": 1}}',
    ],
)
def test_a_connection_that_can_not_be_read_is_no_new_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_PORTMON_DB", text)
    with pytest.raises(ConfigError) as caught:
        settings.database()
    assert "portmon_db" in str(caught.value).lower()
    assert "s3cret" not in str(caught.value)
    run: Any = SimpleNamespace(run_id="r", run_type="manual", logical_date=None)
    with pytest.raises(AirflowFailException, match=r"(?i)portmon_db"):
        tasks.fetch_hosts.function(params={}, dag_run=run, ti=None)
    assert list(tmp_path.glob("**/portmon.db")) == []


@pytest.mark.parametrize("place", [0, 1])
def test_a_place_of_connections_that_does_not_answer_is_no_new_file(
    backends: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Airflow itself says that there is no such connection then."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    backends.append(_Backend())
    assert settings.database_url().startswith("sqlite:")
    backends.insert(place, _Backend(OSError("vault://user:s3cret@down")))
    with pytest.raises(UnansweredError, match=r"_Backend does not answer \(OSError\)"):
        settings.database_url()
    # Trying again can help, so it is no failure for good.
    run: Any = SimpleNamespace(run_id="r", run_type="manual", logical_date=None)
    with pytest.raises(UnansweredError):
        tasks.fetch_hosts.function(params={}, dag_run=run, ti=None)
    # Where another place has it, it is there.
    backends.append(_Backend(Connection(conn_id="portmon_db", conn_type="postgres", host="db")))
    assert settings.database_url() == "postgresql+psycopg2://db"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("CONNECTION_NOT_FOUND", None),
        ("API_SERVER_ERROR", "API_SERVER_ERROR"),
        ("GENERIC_ERROR", "GENERIC_ERROR"),
        ("PERMISSION_DENIED", "PermissionError|AccessDenied"),
    ],
)
def test_what_the_api_server_says_within_a_task(
    backends: list[Any], monkeypatch: pytest.MonkeyPatch, error: str, told: str | None
) -> None:
    """By Airflow's own backend, which takes every error for "not there"."""
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse
    from airflow.sdk.execution_time.secrets.execution_api import ExecutionAPISecretsBackend

    comms = SimpleNamespace(send=lambda _: ErrorResponse(error=ErrorType(error)))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    backends.append(ExecutionAPISecretsBackend())
    if told is None:
        assert settings.connection("portmon_db") is None
        assert settings.proxy_command("ssh_default") is None
        return
    with pytest.raises(UnansweredError, match=told):
        settings.connection("portmon_db")
    # It would be asked directly, and say so.
    assert settings.proxy_command("ssh_default") is None


def test_an_api_server_that_hangs_up(backends: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.secrets.execution_api import ExecutionAPISecretsBackend

    def send(_: Any) -> Any:
        raise ConnectionResetError("s3cret")

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(send=send), raising=False)
    backends.append(ExecutionAPISecretsBackend())
    with pytest.raises(UnansweredError, match="ExecutionAPISecretsBackend does not answer") as caught:
        settings.database_url()
    assert "s3cret" not in str(caught.value)


def test_channels_of_a_connection_that_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    alerts = parse_config("alerts: {channels: [{name: h, type: webhook, conn_id: hook}]}").alerts
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", '{"s3cret": 1}')
    problems, unknown = missing_connections(alerts)
    assert unknown is None
    assert len(problems) == 1
    assert "the environment variable AIRFLOW_CONN_HOOK is no Airflow connection" in problems[0]
    assert "s3cret" not in problems[0]


def test_an_ssh_connection_that_is_malformed_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SSH_DEFAULT", '{"s3cret": 1}')
    with pytest.raises(SetupError, match="the environment variable AIRFLOW_CONN_SSH_DEFAULT is no Airflow") as caught:
        HostSSHHook(host=Host("1", "web", "127.0.0.1"))
    assert "s3cret" not in str(caught.value)
