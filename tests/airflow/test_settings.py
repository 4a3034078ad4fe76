"""Options of airflow.cfg."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, timezone
from airflow.sdk.exceptions import AirflowFailException

from portmon import settings, tasks
from portmon.errors import ConfigError, StorageError


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
