"""Which runs are told as hanging or failed. That Airflow calls for it is tested with a live one in tests/e2e; what Airflow
says of runs and tasks is made up here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from portmon.airflow import run_watch
from portmon.config import parse_config
from portmon.errors import ConfigError
from portmon.storage import events
from portmon.storage.database import Database

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def airflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Airflow says: ``state`` of the run, ``tasks`` and their states."""
    said: dict[str, Any] = {"state": "running", "tasks": {"fetch_hosts": "success", "netstat_0": "running"}}
    monkeypatch.setenv("AIRFLOW__PORTMON__SCHEDULE", "*/5 * * * *")
    monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", lambda *_: said["state"])
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", lambda *_, run_ids: {run_ids[0]: said["tasks"]})
    monkeypatch.setattr("portmon.airflow.settings.config", lambda: parse_config("alerts: {channels: [{type: log}]}"))
    return said


def told(database: Database) -> list[tuple[str, str]]:
    with database.begin() as conn:
        return [(event.kind.value, event.reason) for event in events.recent(conn)]


def hang(**other: Any) -> None:
    """A deadline of a run passed, as Airflow describes the run."""
    queued = (NOW - timedelta(minutes=10)).isoformat()
    run = {"dag_run_id": "run", "run_type": "scheduled", "conf": {}, "queued_at": queued, "run_after": queued, **other}
    asyncio.run(run_watch.tell_hanging({"dag_run": run}))


def fail(run_id: str = "scheduled__1", **params: Any) -> None:
    dag_run = SimpleNamespace(run_id=run_id, run_type="scheduled", logical_date=None)
    run_watch.tell_failed({"dag_run": dag_run, "run_id": run_id, "params": params})


@pytest.mark.parametrize(
    "other", [{}, {"run_type": "manual", "conf": {"dry_run": True}}, {"conf": {"wrong": 1}}, {"queued_at": None}]
)
def test_a_run_that_holds_the_others_is_told_whatever_it_is(database: Database, other: dict[str, Any]) -> None:
    hang(**other)
    ((kind, reason),) = told(database)
    assert (kind, "It waits for netstat" in reason) == ("run_overdue", True)
    hang(**other)
    assert len(told(database)) == 1


@pytest.mark.parametrize("other", [{"run_type": "backfill"}, {"conf": {"replay_from": "2026-01-01T00:00:00Z"}}])
def test_a_replay_may_take_hours(database: Database, other: dict[str, Any]) -> None:
    hang(**other)
    assert told(database) == []


def test_a_run_that_ended_meanwhile_does_not_hang(database: Database, airflow: dict[str, Any]) -> None:
    airflow["state"] = "success"
    hang()
    assert told(database) == []


def test_a_run_that_failed_names_the_first_task_that_did(database: Database, airflow: dict[str, Any]) -> None:
    airflow["tasks"] = {"fetch_hosts": "success", "diff_ports": "failed", "route_alerts": "upstream_failed"}
    fail()
    ((kind, reason),) = told(database)
    assert kind == "run_failed"
    assert "diff_ports failed. Its log says why" in reason


@pytest.mark.parametrize("params", [{"hosts": ["web1"]}, {"dry_run": True}, {"hosts": 5}])
def test_what_a_person_tries_out_alarms_no_one(database: Database, params: dict[str, Any]) -> None:
    fail(**params)
    assert told(database) == []


def test_an_old_run_that_was_cleared_alarms_no_one(database: Database, follow: Callable[[str], None]) -> None:
    follow("scheduled__1")
    fail("scheduled__1")
    assert told(database) == []


def test_a_run_of_which_only_the_name_is_known(database: Database) -> None:
    run_watch.tell_failed({"run_id": "scheduled__1", "reason": "timed_out"})
    assert [kind for kind, _ in told(database)] == ["run_failed"]


def test_without_an_earlier_run_a_wrong_configuration_is_all_there_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> None:
        raise ConfigError("no")

    monkeypatch.setattr("portmon.airflow.settings.config", wrong)
    with pytest.raises(ConfigError):
        fail()


def test_tasks_that_airflow_does_not_tell_of(
    database: Database, airflow: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unanswered(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", unanswered)
    fail()
    assert "it was ended from outside" in told(database)[0][1]
