"""What a run costs the database, by counts that no busy machine changes: statements, rows written, tables searched."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import pytest
from sqlalchemy import Connection, event, insert, text

from portmon.config import Config, parse_config
from portmon.model.observation import Observation, Outcome
from portmon.storage import archive, contents, hosts
from portmon.storage.database import Database
from portmon.storage.tables import observations
from tests.worlds.fleet import FIVE, MONDAY, Fleet

BIG = ("observations", "contents", "ports", "events")
"""Tables that hold more than a row or so per host."""


@dataclass
class Statement:
    """One that was executed."""

    text: str
    parameters: Any
    many: bool
    cursor: Any

    @property
    def rows(self) -> int:
        # SQLite knows how many rows a statement wrote that returns them once all are read.
        return int(self.cursor.rowcount)

    @property
    def verb(self) -> str:
        return self.text.split(maxsplit=1)[0]

    @property
    def table(self) -> str:
        words = self.text.replace("\n", " ").split(" ")
        before = {"INSERT": "INTO", "UPDATE": "UPDATE"}.get(self.verb, "FROM")
        return words[words.index(before) + 1].strip(",") if before in words else ""


@dataclass
class Statements:
    """What was executed while it was recorded."""

    found: list[Statement] = field(default_factory=list)

    def of(self, verb: str, table: str) -> list[Statement]:
        return [one for one in self.found if (one.verb, one.table) == (verb, table)]

    def written(self) -> dict[str, int]:
        """Table: rows."""
        rows: Counter[str] = Counter()
        for one in self.found:
            if one.verb != "SELECT" and one.table not in ("", "leases") and one.rows > 0:
                rows[one.table] += one.rows
        return dict(rows)

    def naming(self, table: str) -> list[str]:
        return [one.text for one in self.found if f" {table} " in one.text.replace("\n", " ") + " "]


@contextmanager
def recorded(database: Database) -> Iterator[Statements]:
    kept = Statements()

    def after(_: Any, cursor: Any, statement: str, parameters: Any, __: Any, many: bool) -> None:
        kept.found.append(Statement(statement, parameters, many, cursor))

    event.listen(database.engine, "after_cursor_execute", after)
    try:
        yield kept
    finally:
        event.remove(database.engine, "after_cursor_execute", after)


def alone(statements: Statements) -> list[str]:
    """Those that the driver of PostgreSQL sends once for each of many rows, over the network."""
    return [one.text for one in statements.found if one.many and "%(" in one.text]


def plans(conn: Connection, statements: Statements) -> str:
    """How the database executes them."""
    found = []
    explain = "EXPLAIN " if conn.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    for one in statements.found:
        if one.verb in ("SELECT", "UPDATE", "DELETE"):
            parameters = one.parameters[0] if one.many else one.parameters
            found += [" ".join(map(str, row)) for row in conn.exec_driver_sql(explain + one.text, parameters)]
    return "\n".join(found)


def searched_whole(plan: str) -> set[str]:
    """Tables, of the big ones, that a plan reads from their beginning to their end."""
    return {table for table in BIG if f"SCAN {table}" in plan.splitlines() or f"Seq Scan on {table}" in plan} | {
        table for table in BIG for line in plan.splitlines() if line.endswith(f"SCAN {table}")
    }


@dataclass
class Evaluated:
    """A fleet, and what the evaluation of its last run cost."""

    fleet: Fleet
    last: Statements = field(default_factory=Statements)

    def run(self) -> Statements:
        self.fleet.run()
        return self.last


class FleetMaker(Protocol):
    def __call__(self, count: int, **config: Any) -> Evaluated: ...


@pytest.fixture
def evaluated(database: Database, monkeypatch: pytest.MonkeyPatch) -> FleetMaker:
    from tests.worlds import runs as module

    evaluate_run = module.evaluate_run

    def made(count: int, **config: Any) -> Evaluated:
        fleet = Fleet(database, Config(**config))
        found = Evaluated(fleet)

        def recording(*arguments: Any, **named: Any) -> Any:
            with recorded(database) as found.last:
                return evaluate_run(*arguments, **named)

        monkeypatch.setattr(module, "evaluate_run", recording)
        for number in range(count):
            fleet.add(f"h{number}", {22: "sshd", 80: "nginx", 443: "nginx", 5432: "postgres"})
        return found

    return made


@pytest.mark.parametrize("count", [50, 500])
def test_a_quiet_run_writes_one_row_per_host_and_reads_no_port(evaluated: FleetMaker, count: int) -> None:
    world = evaluated(count)
    world.run()
    quiet = world.run()
    assert alone(quiet) == []
    # The condition is when the last run was evaluated.
    assert quiet.written() == {"hosts": count, "runs": 1, "journal": 1, "conditions": 1}
    assert quiet.naming("ports") == []
    assert quiet.of("INSERT", "hosts") == []
    (update,) = quiet.of("UPDATE", "hosts")
    assert not any(name in update.text for name in ("status", "labels", "listening", "fingerprint"))
    # The host list is the one content that is read; of what the evaluation went by it is seen that it is there.
    assert [len(one.parameters) for one in quiet.of("SELECT", "contents")] == [1, 1]
    assert len(quiet.found) <= 36


def test_a_quiet_run_of_ten_times_the_hosts_takes_no_more_statements(evaluated: FleetMaker) -> None:
    world = evaluated(50)
    world.run()
    few = Counter((one.verb, one.table) for one in world.run().found)
    for number in range(450):
        world.fleet.add(f"more{number}", {22: "sshd", 80: "nginx"})
    world.run()
    # Hosts that were never tried had the first tasks; from this run on the plan is as it stays.
    world.run()
    assert Counter((one.verb, one.table) for one in world.run().found) == few


def test_a_run_that_sees_something_reads_the_ports_of_those_hosts(evaluated: FleetMaker) -> None:
    world = evaluated(60)
    world.run()
    quiet = world.run()
    for name in ("h7", "h8"):
        world.fleet.machines[name].restart(80)
    seen = world.run()
    (read,) = seen.of("SELECT", "ports")
    values = read.parameters.values() if isinstance(read.parameters, dict) else read.parameters
    assert set(values) == {"id-h7", "id-h8"}
    assert seen.written() == quiet.written() | {"hosts": 60, "ports": 2, "events": 2, "event_counts": 1}
    # Of these as well, once they are as they were.
    assert world.run().naming("ports") == []


def test_hosts_that_fail_cost_no_statement_each(evaluated: FleetMaker) -> None:
    world = evaluated(80)
    world.run()
    quiet = world.run()
    for number in range(40):
        world.fleet.machines[f"h{number}"].trouble = "timeout"
    world.run()
    failed = world.run()
    assert alone(failed) == []
    assert failed.written() == quiet.written() | {"events": 40, "event_counts": 1, "conditions": 41}
    assert len(failed.found) <= len(quiet.found) + 3
    for number in range(40):
        world.fleet.machines[f"h{number}"].trouble = None
    back = world.run()
    assert back.written() == quiet.written() | {"events": 40, "event_counts": 1, "conditions": 41}
    assert back.naming("ports") == []


def test_a_first_run_writes_its_ports_in_few_statements(evaluated: FleetMaker) -> None:
    world = evaluated(600)
    first = world.run()
    assert alone(first) == []
    assert first.written()["ports"] == 2400
    assert len(first.of("INSERT", "ports")) <= 3
    assert len(first.of("INSERT", "hosts")) == 1


def test_ports_that_no_rule_watches_any_more_are_hidden_and_dropped_in_few_statements(evaluated: FleetMaker) -> None:
    world = evaluated(60)
    world.run()
    world.fleet.config = parse_config("rules: [{action: deny, port: 443}]\ncmdb: {prune_after: 10min}")
    hidden = world.run()
    assert alone(hidden) == []
    assert hidden.written()["ports"] == 60
    world.run()
    dropped = world.run()
    assert alone(dropped) == []
    assert [one.rows for one in dropped.of("DELETE", "ports")] == [60]


def test_nothing_of_the_archive_is_read_from_end_to_end(evaluated: FleetMaker, database: Database) -> None:
    """However many runs there were: with as many as are needed for the planner to care."""
    world = evaluated(20)
    world.run()
    with database.begin() as conn:
        facts = world.fleet.machines["h1"].look("old", MONDAY).listing
        digest = contents.put(conn, archive.facts_to_json(facts), now=MONDAY)  # type: ignore[arg-type]
        rows = [
            {
                "host_id": f"id-h{host}", "observed_at": MONDAY - number * FIVE, "run_id": f"old{number}",
                "try_number": 1, "outcome": "ok", "facts": digest, "duration": 1.0, "confirmed": False,
            }
            for host in range(20)
            for number in range(1, 800)
        ]  # fmt: skip
        conn.execute(insert(observations), rows)
        if not database.is_sqlite:
            # As PostgreSQL does by itself, and SQLite does not.
            conn.execute(text("ANALYZE"))
    world.fleet.machines["h1"].restart(80)
    run = world.run()
    with database.begin() as conn:
        plan = plans(conn, run)
        assert "observations" in plan
        assert (
            searched_whole(plan) <= {"ports", "events", "contents"}
            if not database.is_sqlite
            else not searched_whole(plan)
        )
        with recorded(database) as looked:
            found = archive.observations_to_evaluate(conn, host_ids=["id-h1", "unknown"])
        assert found == []
        assert searched_whole(plans(conn, looked)) == set()


def test_a_run_that_lets_looks_expire_deletes_these_and_searches_for_no_other(
    evaluated: FleetMaker, database: Database
) -> None:
    world = evaluated(10, retention={"observations": "1h"})
    for _ in range(14):
        world.run()
    expiring = world.run()
    assert [one.rows for one in expiring.of("DELETE", "observations")] == [10]
    with database.begin() as conn:
        plan = plans(conn, expiring) if database.is_sqlite else ""
        assert searched_whole(plan) == set()
        assert len(archive.observations_to_evaluate(conn)) == 0


@pytest.mark.parametrize("known", [False, True])
def test_many_looks_are_stored_in_few_statements(database: Database, known: bool) -> None:
    fleet = Fleet(database, Config())
    looks: list[Observation] = []
    for number in range(500):
        machine = fleet.add(f"h{number}", {22: "sshd", 80 + number: "nginx"})
        looks.append(dataclasses.replace(machine.look("run1", MONDAY), frames=(b"raw", str(number).encode())))
    counts = []
    with database.begin() as conn:
        for part in (looks[:50], looks):
            if known:
                archive.save_observations(conn, part)
            later = [
                dataclasses.replace(
                    look, run_id=f"run{len(part)}", observed_at=MONDAY + len(part) * timedelta(seconds=1)
                )
                for look in part
            ]
            with recorded(database) as statements:
                archive.save_observations(conn, later)
            counts.append(len(statements.found))
            assert alone(statements) == []
            assert sum(one.rows for one in statements.of("INSERT", "observations")) == len(part)
            assert (not statements.of("INSERT", "contents")) == known
    # One question per 500 contents; PostgreSQL takes a thousand rows at a time.
    assert counts[0] <= 3
    assert counts[1] <= counts[0] + 3


def test_the_ports_of_a_few_hosts_are_not_searched_in_those_of_all(database: Database) -> None:
    fleet = Fleet(database, Config())
    for number in range(30):
        fleet.add(f"h{number}", {22: "sshd", 80: "nginx"})
    fleet.run()
    with database.begin() as conn:
        with recorded(database) as statements:
            found = hosts.known_ports(conn, ["id-h1", "id-h2", "unknown"])
        assert found == {host: {22: ("up", ("0.0.0.0",)), 80: ("up", ("0.0.0.0",))} for host in ("id-h1", "id-h2")}
        if database.is_sqlite:
            assert searched_whole(plans(conn, statements)) == set()


def test_what_a_host_key_costs_is_for_those_that_changed(evaluated: FleetMaker) -> None:
    world = evaluated(30)
    world.run()
    world.fleet.machines["h1"].trouble = "host_key_changed"
    world.run()
    world.fleet.machines["h1"].trouble = None
    back = world.run()
    assert len(back.of("DELETE", "conditions")) <= 2
    assert world.fleet.machines["h1"].look("x", MONDAY).outcome is Outcome.OK


@pytest.fixture
def alerting(database: Database) -> Callable[[int], Fleet]:
    """Makes a fleet in which a port of every host is down, which the next run finds."""

    def made(count: int) -> Fleet:
        channels = "[{type: log, name: chat}, {type: log, name: pager}, {type: alertmanager}]"
        fleet = Fleet(database, parse_config(f"alerts: {{channels: {channels}}}"))
        for number in range(count):
            fleet.add(f"h{number}", {22: "sshd", 80: "nginx"})
        fleet.run()
        for number in range(count):
            fleet.machines[f"h{number}"].kill(80)
        return fleet

    return made


def costs(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> tuple[Statements, list[Statements]]:
    """What the dispatch of a run costs, and each of its alert tasks."""
    found: list[Statements] = []
    with monkeypatch.context() as patch:
        for name in ("route", "deliver"):
            original = getattr(fleet, name)

            def recording(*arguments: Any, original: Any = original) -> Any:
                with recorded(fleet.database) as statements:
                    found.append(statements)
                    return original(*arguments)

            patch.setattr(fleet, name, recording)
        fleet.run()
    return found[0], found[1:]


@pytest.mark.parametrize("count", [5, 50])
def test_a_dispatch_reads_alerts_receipts_and_the_queue_once(
    alerting: Callable[[int], Fleet], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = alerting(count)
    (first, _), (quiet, _) = costs(fleet, monkeypatch), costs(fleet, monkeypatch)
    for statements in (first, quiet):
        assert alone(statements) == []
        # Open alerts, and those that ended just now.
        assert len(statements.of("SELECT", "alerts")) == 2
        assert len(statements.of("SELECT", "events")) == 1
        assert len(statements.of("SELECT", "hosts")) == 1
    # Of new alerts there is no receipt; else receipts and the queue.
    assert [len(one.of("SELECT", "deliveries")) for one in (first, quiet)] == [1, 2]
    assert first.written() == {"alerts": count, "deliveries": 3 * count, "events": count}
    assert quiet.written() == {}
    assert len(first.found) <= 17
    assert len(quiet.found) <= 15


@pytest.mark.parametrize("count", [5, 50])
def test_a_message_costs_as_many_statements_however_much_it_tells(
    alerting: Callable[[int], Fleet], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = alerting(count)
    _, (down,) = costs(fleet, monkeypatch)
    # Of each of the three: it is under way, it is there.
    assert len(down.of("UPDATE", "deliveries")) == 2 * 3
    # Which channels there is something for; then of each of the three what it lacks, before and after its message.
    assert len(down.of("SELECT", "deliveries")) <= 1 + 2 * 3 + 2
    # Two of them read the notes of people, once for all three; of Alertmanager what is silenced there.
    assert len(down.found) <= 74
    _, (repeated,) = costs(fleet, monkeypatch)
    assert repeated.written() == {}
    assert len(repeated.found) <= 21
