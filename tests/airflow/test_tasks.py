"""What Airflow's tasks do besides calling a step of the pipeline."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from portmon.models import Event, EventKind
from portmon.tasks import log_link


@pytest.mark.parametrize(
    ("details", "path"),
    [
        ({"task": "sweep", "map_index": 2}, "sweep/mapped/2"),
        ({"task": "netstat", "map_index": 0}, "netstat/mapped/0"),
        # of before tasks were named
        ({"map_index": 7}, "netstat/mapped/7"),
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
