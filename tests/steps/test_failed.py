"""Runs that evaluated nothing, and the first one after them that did."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from portmon.config import Config
from portmon.steps.failed import is_past, report_evaluated, report_failed
from portmon.steps.run import Run
from portmon.storage import events
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet

NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
FIVE = timedelta(minutes=5)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    yield made
    made.dispose()


def told(database: Database) -> list[tuple[str, str]]:
    with database.begin() as conn:
        return [(event.kind.value, event.run_id) for event in events.recent(conn)]


def test_it_is_told_once_and_its_end_once(database: Database) -> None:
    for number in range(3):
        assert report_failed(database, Run(f"run{number}"), failed=["fetch_hosts"], now=NOW + number * FIVE)
    for number in (3, 4):
        report_evaluated(database, Run(f"run{number}"), now=NOW + number * FIVE)
    assert told(database) == [("run_failed", "run0"), ("run_evaluated", "run3")]
    with database.begin() as conn:
        begun, over = events.recent(conn)
    assert begun.alert_key == over.alert_key
    assert (begun.since, over.since) == (NOW, NOW)


@pytest.mark.parametrize(
    ("failed", "why", "text"),
    [
        (["fetch_hosts"], None, "fetch_hosts failed. Its log says why"),
        (["diff_ports"], "portmon.yaml:3: no", "diff_ports failed. portmon.yaml:3: no"),
        ([], None, "it was ended from outside."),
    ],
)
def test_it_says_what_failed(database: Database, failed: list[str], why: str | None, text: str) -> None:
    report_failed(database, Run("run"), failed=failed, why=why, now=NOW)
    with database.begin() as conn:
        (event,) = events.recent(conn)
    assert text in event.reason


def test_a_run_whose_messages_failed_evaluated_its_hosts(database: Database) -> None:
    fleet = Fleet(database, Config())
    fleet.add("web01", {80: "nginx"})
    fleet.run()
    fleet.run()
    first, last = (Run(f"run{fleet.number - back:05}") for back in (2, 1))
    before = told(database)
    assert not report_failed(database, last, failed=["alert_down"], now=fleet.now)
    assert told(database) == before
    # One that was cleared since.
    assert (is_past(database, first), is_past(database, last), is_past(database, Run("unknown"))) == (
        True,
        False,
        False,
    )
