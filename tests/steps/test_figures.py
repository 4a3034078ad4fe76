"""What Airflow's metrics get of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from portmon.config import parse_config
from portmon.steps.figures import figures_of_alerts, figures_of_looks
from portmon.storage.database import Database
from portmon.storage.tables import observations
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    yield made
    made.dispose()


def test_figures(database: Database) -> None:
    fleet = Fleet(database, parse_config("states: {unreachable_after: 1}"))
    for number in range(20):
        fleet.add(f"web{number:02}", {80: "nginx"})
    fleet.run()
    with database.begin() as conn:
        assert figures_of_looks(conn, "no run") == {"hosts_asked": 0, "hosts_without_evidence": 0}
        assert figures_of_alerts(conn) == {"open_alerts": 0, "undelivered": 0}
    fleet.machines["web00"].trouble = "timeout"
    fleet.machines["web01"].kill(80)
    fleet.dead = {"log"}
    run_id = fleet.run_of().run_id
    fleet.run()
    with database.begin() as conn:
        took = {"web00": 10.0, "web01": 3.0}
        for name, machine in fleet.machines.items():
            own = (observations.c.run_id == run_id) & (observations.c.host_id == machine.host.id)
            conn.execute(update(observations).where(own).values(duration=took.get(name, 0.5)))
        # The slowest twentieth is left out.
        assert figures_of_looks(conn, run_id) == {"hosts_asked": 20, "hosts_without_evidence": 1, "login_seconds": 3.0}
        assert figures_of_alerts(conn) == {"open_alerts": 2, "undelivered": 2}
