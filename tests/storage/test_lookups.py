"""What people look up, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import sqlalchemy

from portmon.model.host import Host
from portmon.storage import hosts, lookups
from portmon.storage.database import Database
from portmon.storage.tables import ports


def test_a_part_of_a_programs_name_is_found_in_any_case(database: Database) -> None:
    with database.begin() as conn:
        hosts.sync(conn, [Host("id-a", "a", "10.0.0.1")])
        row: dict[str, Any] = {
            "host_id": "id-a",
            "protocol": "tcp",
            "status": "up",
            "misses": 0,
            "streak": 0,
            "at_baseline": True,
        }
        row |= {name: [] for name in ("addresses", "pids", "uids", "changes", "lost")}
        named = {80: "Nginx: master", 81: "100%_é", 82: "nginx"}
        for port, name in named.items():
            conn.execute(ports.insert().values(**row, port=port, programs=[name], units=[f"{name}.service"]))

        def found(**wanted: Any) -> list[int]:
            rows, _ = lookups.find_ports(conn, lookups.PortFilter(**wanted), limit=10)
            return [row["port"] for row in rows]

        assert found(program="NGINX") == found(unit="nginx") == [80, 82]
        assert found(program="%_é") == [81]
        assert found(program="100__") == []


def test_the_failures_of_runs_are_read_from_their_index(database: Database) -> None:
    asked: list[str] = []
    with database.begin() as conn:
        sqlalchemy.event.listen(conn, "before_cursor_execute", lambda *given: asked.append(given[2]))
        assert lookups.failure_counts(conn, ["run"]) == {}
        # Another expression than the index has would read all visits of the runs.
        assert "observations.outcome != 'ok'" in asked[-1]
        if database.is_sqlite:
            plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[-1]}", ("run",)).all()
            assert "ix_observations_failed" in str(plan)
