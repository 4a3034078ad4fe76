"""Options of airflow.cfg."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from airflow.sdk import DAG, Connection, timezone
from airflow.sdk.exceptions import AirflowFailException
from airflow.timetables.base import TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable
from airflow.timetables.trigger import CronTriggerTimetable
from sqlalchemy.engine import make_url

from portmon.airflow import settings, tasks
from portmon.airflow.outside import OUTSIDE
from portmon.airflow.provider import DEFAULT_SCHEDULE
from portmon.airflow.ssh_hook import HostSSHHook
from portmon.config import parse_config
from portmon.errors import ConfigError, SetupError, StorageError, UnansweredError
from portmon.model.host import Host
from portmon.ssh.config import Ssh
from portmon.storage.database import Database


def say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AIRFLOW__PORTMON__SCHEDULE", text)


@pytest.mark.parametrize(
    ("text", "schedule", "seconds"),
    [
        ("*/5 * * * *", "*/5 * * * *", 300),
        ("@hourly", "@hourly", 3600),
        ("@quarterly", "@quarterly", 92 * 86400),
        ("@monthly", "@monthly", 31 * 86400),
        # Two are equally common: the shorter one.
        ("0,5 * * * *", "0,5 * * * *", 300),
        ("*/5 6-22 * * *", "*/5 6-22 * * *", 300),
        ("0 6 * * 1-5", "0 6 * * 1-5", 86400),
        # The shortest one is rare.
        ("*/7 * * * *", "*/7 * * * *", 420),
        ("0,1,10,20,30,40,50 * * * *", "0,1,10,20,30,40,50 * * * *", 600),
        ("0-10,12-58/2 * * * *", "0-10,12-58/2 * * * *", 120),
        ("0 0,6,7,12,18 * * *", "0 0,6,7,12,18 * * *", 6 * 3600),
        ("10min", timedelta(minutes=10), 600),
        ("2000000h", timedelta(hours=2000000), 2000000 * 3600),
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
    assert settings.schedule_for_parsing() == DEFAULT_SCHEDULE


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


HOLDS_OVER_CHANGES = (
    "*/10 0-5,18-23 * * *",
    "30 2 * * *",
    "30 */2 * * *",
    "0 */6 * * *",
    "15,45 0,1,2,3,22,23 * * *",
    "*/5 * * * *",
    "50 0-3 * * sun",
    "@daily",
)


@lru_cache
def changes(zone: str, year: int = 2026) -> tuple[datetime, ...]:
    """When a zone's clock is changed in a year, to the minute."""
    tz, found = ZoneInfo(zone), []
    day = datetime(year, 1, 1, tzinfo=UTC)
    while day.year == year:
        later = day + timedelta(days=1)
        if day.astimezone(tz).utcoffset() != later.astimezone(tz).utcoffset():
            first, last = day, later
            while last - first > timedelta(minutes=1):
                middle = first + (last - first) // 2
                same = middle.astimezone(tz).utcoffset() == day.astimezone(tz).utcoffset()
                first, last = (middle, last) if same else (first, middle)
            found.append(last.replace(second=0, microsecond=0))
        day = later
    return tuple(found)


def scheduled(timetable: Any, begin: datetime) -> Iterator[datetime]:
    """The runs that Airflow's scheduler starts from a time on, one after the other."""
    restriction, info = TimeRestriction(timezone.coerce_datetime(begin), None, True), None
    while True:
        info = timetable.next_dagrun_info_v2(last_dagrun_info=info, restriction=restriction)
        assert info is not None
        yield info.run_after


def hold_over_changes(
    monkeypatch: pytest.MonkeyPatch, zone: str, *, data_intervals: bool = False, crons: int | None = None
) -> None:
    timezone.initialize(zone)
    monkeypatch.setenv("AIRFLOW__SCHEDULER__CREATE_CRON_DATA_INTERVALS", str(data_intervals))
    try:
        for cron in HOLDS_OVER_CHANGES[:crons]:
            say(monkeypatch, cron)
            timetable = (CronDataIntervalTimetable if data_intervals else CronTriggerTimetable)(cron, timezone=zone)
            for change in changes(zone):
                # The first data interval begins with the first time of the schedule, and its run with the second.
                runs = scheduled(timetable, change - timedelta(days=3 if data_intervals else 1))
                ahead = [next(runs) for _ in range(4)]
                for minutes in (-1430, -125, -70, -10, -1, 0, 1, 25, 55, 61, 130, 1500):
                    now = change + timedelta(minutes=minutes, seconds=7)
                    found = settings.hold_until(now)
                    told = f"{zone}, {cron} at {now}: {found}"
                    # As long as the run is away that the scheduler starts next, and a slow one needs.
                    while ahead[0] <= now:
                        ahead = [*ahead[1:], next(runs)]
                    assert found >= ahead[0] + timedelta(minutes=15), told
                    assert found >= ahead[3], told
                    if data_intervals:
                        assert found == max(ahead[3], ahead[0] + timedelta(minutes=15)), told
                        continue
                    # And to the fourth by the timetable, step by step from now, which may be later.
                    at, steps = timezone.coerce_datetime(now), []
                    for _ in range(4):
                        at = timetable._get_next(at)
                        steps.append(at)
                    assert steps == sorted(set(steps)), told
                    assert found == max(steps[3], steps[0] + timedelta(minutes=15)), told
    finally:
        timezone.initialize("UTC")


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe"])
def test_a_firing_alert_holds_when_the_clock_is_changed(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    assert len(changes(zone)) == 2
    hold_over_changes(monkeypatch, zone)


def test_a_firing_alert_holds_when_the_clock_is_changed_by_data_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the hour after the one that is skipped has no runs at all."""
    hold_over_changes(monkeypatch, "Europe/Berlin", data_intervals=True, crons=2)


@pytest.mark.full
def test_a_firing_alert_holds_wherever_a_clock_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of zones that change their clocks alike, one.
    zones = {
        tuple((change, change.astimezone(ZoneInfo(zone)).utcoffset()) for change in changes(zone)): zone
        for zone in sorted(available_timezones() - {"localtime", "Factory"})
        if changes(zone)
    }
    assert len(zones) > 20, zones
    for zone in zones.values():
        hold_over_changes(monkeypatch, zone)
        hold_over_changes(monkeypatch, zone, data_intervals=True, crons=4)


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
        *(
            json.dumps({"conn_type": "postgres", "host": host, "schema": "portmon"})
            for host in (
                "postgresql://u:s3cret@h/db",
                "u:s3cret@h",
                "u:s3cret",
                "//u:s3cret@h/",
                "h?password=s3cret",
                "h,u:s3cret@h2",
            )
        ),
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


@pytest.mark.parametrize(
    "host", ["db", "db-1.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "/run/pg", "@pg", "a,b", ""]
)
def test_a_host_of_postgresql_and_no_password_of_an_option_in_its_name(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    given = {"conn_type": "postgres", "host": host, "password": "s3cret", "extra": {"sslpassword": "s3cret"}}
    monkeypatch.setenv("AIRFLOW_CONN_PORTMON_DB", json.dumps(given | {"extra": json.dumps(given["extra"])}))
    url = make_url(settings.database_url())
    assert (url.host or url.query.get("host", ""), url.query["sslpassword"]) == (host, "s3cret")
    assert "s3cret" not in str(Database(url))


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
    problems, unknown = alerts.missing_connections(OUTSIDE)
    assert unknown is None
    assert len(problems) == 1
    assert "the environment variable AIRFLOW_CONN_HOOK is no Airflow connection" in problems[0]
    assert "s3cret" not in problems[0]


def test_an_ssh_connection_that_is_malformed_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SSH_DEFAULT", '{"s3cret": 1}')
    with pytest.raises(SetupError, match="the environment variable AIRFLOW_CONN_SSH_DEFAULT is no Airflow") as caught:
        HostSSHHook(Host("1", "web", "127.0.0.1"), Ssh(), Ssh(), None)
    assert "s3cret" not in str(caught.value)


# ── the DAG file ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (16, None, False)),
        ("ssh: {max_logins: 7}\nscan: {pool: logins}\nalerts: {heartbeat: {}}", (7, "logins", True)),
        ("ssh:\nscan:\nalerts:\n", (16, None, False)),
        # A mistake elsewhere is the first task's business.
        ("ssh: {max_logins: 7}\nrules: [{action: sometimes}]", (7, None, False)),
    ],
)
def test_what_the_dag_file_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: tuple[int, str | None, bool]
) -> None:
    file = tmp_path / "portmon.yaml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(settings, "config_path", lambda: file)
    assert settings.for_dag() == expected


@pytest.mark.parametrize("text", ["ssh: {max_logins: none}", "ssh: {max_login: 7}", "[", "- 1", "a: &a [*a]", "\0"])
def test_a_mistake_leaves_the_dag_its_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    file = tmp_path / "portmon.yaml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(settings, "config_path", lambda: file)
    assert settings.for_dag() == (16, None, False)
    assert "until portmon.yaml is corrected" in caplog.text
