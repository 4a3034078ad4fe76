"""What Airflow's tasks do besides calling a step of the pipeline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from portmon.airflow.tasks import heartbeat, log_link, page_link, route_alerts
from portmon.config import parse_config
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.storage import conditions, events
from portmon.storage.database import Database
from tests.airflow.channels.samples import connect
from tests.worlds.databases import start_run


@pytest.mark.parametrize(
    ("details", "path"),
    [
        ({"task": "sweep", "map_index": 2}, "sweep/mapped/2"),
        ({"task": "netstat", "map_index": 0}, "netstat/mapped/0"),
        ({}, None),
    ],
)
def test_the_link_to_the_log_of_the_task_that_saw_it(
    details: dict[str, Any], path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/")
    event = Event("e", EventKind.DOWN, datetime(2026, 1, 1, tzinfo=UTC), "manual__1", details=details)
    run = "https://airflow.example.com/dags/portmon/runs/manual__1"
    assert log_link(event) == (path and f"{run}/tasks/{path}")


@pytest.mark.parametrize(
    ("host", "port", "path"),
    [
        (None, None, ""),
        ("id-1", None, "hosts/id-1"),
        ("id-1", 80, "hosts/id-1/ports/80"),
        ("a/b ?#é", 80, "host?id=a%2Fb%20%3F%23%C3%A9&port=80"),
    ],
)
def test_the_link_to_the_page_of_a_port(
    host: str | None, port: int | None, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/af/")
    event = Event("e", EventKind.DOWN, datetime(2026, 1, 1, tzinfo=UTC), "manual__1", host_id=host, port=port)
    assert page_link(event) == f"https://airflow.example.com/af/portmon/{path}"
    assert page_link() == "https://airflow.example.com/af/portmon/"
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "")
    assert page_link(event) is None


@pytest.mark.parametrize(("schedule", "late"), [("*/5 * * * *", True), ("@continuous", False), ("@once", False)])
def test_only_a_run_that_another_one_waits_for_is_overdue(
    schedule: str, late: bool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PORTMON__SCHEDULE", schedule)
    began = datetime.now(UTC) - timedelta(hours=1)
    with database.begin() as conn:
        start_run(conn, "run", began)
    dag_run = SimpleNamespace(run_id="run", run_type="scheduled", logical_date=None)
    route_alerts.function(params={}, dag_run=dag_run, ti=SimpleNamespace(try_number=1, xcom_pull=lambda **_: {}))
    with database.begin() as conn:
        assert [event.kind for event in events.recent(conn)] == [EventKind.RUN_OVERDUE] * late


@pytest.mark.parametrize("went_back", [False, True])
def test_no_sign_of_life_while_the_clock_is_wrong(
    went_back: bool, database: Database, monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer
) -> None:
    config = parse_config("alerts: {heartbeat: {}}")
    monkeypatch.setattr("portmon.airflow.settings.config", lambda: config)
    connect(monkeypatch, "portmon_heartbeat", f"http://localhost:{httpserver.port}/ping")
    httpserver.expect_request("/ping").respond_with_data("OK")
    now = datetime.now(UTC)
    with database.begin() as conn:
        start_run(conn, "run", now)
        conditions.begin(conn, "fleet_unreachable", since=now)
        if went_back:
            conditions.begin(conn, "clock_back", since=now)
    dag_run = SimpleNamespace(run_id="run", run_type="scheduled", logical_date=None)
    heartbeat.function(params={}, dag_run=dag_run, ti=SimpleNamespace(try_number=1))
    assert len(httpserver.log) == (not went_back)
