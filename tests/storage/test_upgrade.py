"""A state database of an earlier version is brought into the present form, with its data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, bindparam, text

from portmon.engine.conditions import Condition
from portmon.engine.frames import ports_of
from portmon.engine.lifecycle import Changes
from portmon.engine.state import Port
from portmon.storage import checkpoints, conditions, state, tables
from portmon.storage.database import Database, _alembic_config
from portmon.storage.upgrade import upgrade_state

NOW = datetime.now(UTC)
"""The time of a test: migrations go by that of the database."""
HOUR = timedelta(hours=1)


def before(hours: float) -> datetime:
    return NOW - hours * HOUR


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module may have been imported long ago."""
    monkeypatch.setattr(sys.modules[__name__], "NOW", datetime.now(UTC).replace(microsecond=0))


def age(hours: float) -> Any:
    """Seconds of a clock that is 0 now."""
    return pytest.approx((before(hours) - datetime.now(UTC)).total_seconds(), abs=60)


def insert(conn: Connection, table: str, **values: Any) -> None:
    names = ", ".join(values)
    # As portmon writes times: sqlite3 should write none by itself.
    times = [
        bindparam(name, type_=tables.UtcDateTime()) for name, value in values.items() if isinstance(value, datetime)
    ]
    row = text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})")
    conn.execute(row.bindparams(*times), values)


def earlier(conn: Connection) -> None:
    """What an earlier version stored: a host that is up, one that is unreachable, two that are one machine."""
    own = {"address": "192.0.2.1", "labels": "{}", "failures": 0, "status": "ok", "status_since": before(90)}
    insert(conn, "hosts", host_id="a", name="web", **own)
    insert(
        conn,
        "hosts",
        host_id="b",
        name="db",
        **own | {"status": "unreachable", "failures": 3, "failing_since": before(2)},
    )
    insert(conn, "hosts", host_id="c", name="vip", duplicate_of="a", fingerprint="f", **own)
    insert(conn, "conditions", name="fleet_unreachable", since=before(1))
    lists = dict.fromkeys(("programs", "pids", "uids", "units"), "[]")
    known = {
        "host_id": "a",
        "protocol": "tcp",
        "misses": 0,
        "streak": 0,
        "at_baseline": True,
        "addresses": '["0.0.0.0"]',
    }
    times = [before(hours).isoformat() for hours in (0.5, 0.25)]
    changes = f'["{times[0]}","{times[1]}"]'
    rows: dict[int, dict[str, Any]] = {
        80: {"status": "down", "status_since": before(30), "last_seen_at": before(31), "changes": "[]", "lost": "[]"},
        443: {"status": "up", "status_since": before(90), "changes": changes, "lost": '["::"]', "lost_since": before(3)},
        8080: {"status": "up", "status_since": before(9), "changes": f'["{times[1]}"]', "lost": "[]",
               "flapping_since": before(4), "notices": f'[["restarted","{times[0]}"]]'},
        9000: {"status": "up", "status_since": before(9), "changes": "[]", "lost": "[]"},
    }  # fmt: skip
    for number, row in rows.items():
        insert(conn, "ports", port=number, **known, **lists, **row)


def _of_revision(url: str, revision: str, fill: Callable[[Connection], None]) -> Database:
    """A database of a revision, filled and then brought to the newest."""
    database = Database(url)
    with database.engine.begin() as conn:
        config = _alembic_config()
        config.attributes["connection"] = conn
        command.upgrade(config, revision)
        fill(conn)
    database.migrate()
    return database


@pytest.fixture
def upgraded(database_url: str) -> Iterator[Database]:
    database = _of_revision(database_url, "r0006", earlier)
    yield database
    database.dispose()


def port(database: Database, number: int, host_id: str = "a") -> Port:
    with database.begin() as conn:
        return next(one for one in ports_of(state.load_ports(conn, [host_id])) if one.port == number)


def test_what_is_known_of_ports_keeps_its_age_as_evidence(upgraded: Database) -> None:
    assert port(upgraded, 80).seen_clock == age(31)
    bind = port(upgraded, 443)
    assert (bind.lost_clock, *bind.presence.recent) == (age(3), age(0.5), age(0.25))
    flaps = port(upgraded, 8080)
    assert (flaps.presence.flapping_since, flaps.presence.at) == (before(4), before(0.25))
    ((kind, clock),) = flaps.notices
    assert (kind, clock) == ("restarted", age(0.5))
    still = port(upgraded, 9000)
    assert (still.seen_clock, still.told, still.paused) == (None, (), False)


def of_a_week_ago(conn: Connection) -> None:
    """What a version with clocks of evidence, but without young ports, stored of a host that it saw for 100 hours."""
    own = {"address": "192.0.2.1", "labels": "{}", "failures": 0, "status": "ok", "evidence": 100 * 3600.0}
    insert(conn, "hosts", host_id="seen", name="seen", **own)
    lists = dict.fromkeys(("programs", "pids", "uids", "units", "addresses", "changes", "lost"), "[]")
    common = {"host_id": "seen", "protocol": "tcp", "misses": 0, "streak": 0, "status": "up", **lists}
    rows: dict[int, dict[str, Any]] = {
        1: {"first_seen_at": before(3)},
        2: {"first_seen_at": before(200), "status": "down"},
        3: {"first_seen_at": before(31 * 24)},
        4: {"first_seen_at": before(3), "declared": "portmon.yaml"},
        5: {"first_seen_at": before(3), "at_baseline": True},
        6: {"first_seen_at": None, "declared": "portmon.yaml", "status": "down"},
    }
    for number, row in rows.items():
        insert(conn, "ports", port=number, **common | {"at_baseline": False} | row)


def test_ports_that_were_learned_not_long_ago_are_young_since_then(database_url: str) -> None:
    database = _of_revision(database_url, "r0007", of_a_week_ago)
    young = {number: port(database, number, "seen").young_since for number in range(1, 7)}
    assert young == {
        1: pytest.approx(97 * 3600, abs=1800),
        2: pytest.approx(-100 * 3600, abs=1800),
        **dict.fromkeys((3, 4, 5, 6)),
    }
    known = port(database, 1, "seen")
    assert (known.owners, known.holders, known.restarts, known.boots) == ((), (), (), ())
    with database.begin() as conn:
        host = state.load_hosts(conn)["seen"]
    assert (host.booted_at, host.many, host.unnamed) == (None, (), None)
    database.dispose()


def of_parts_together(conn: Connection) -> None:
    """What a version stored that kept the changes of owners and addresses of a port in one list."""
    of_a_week_ago(conn)
    change = text(
        "UPDATE ports SET bind_changes = '[360000.0]', bind_flapping_since = :since, bind_changed_at = :at "
        "WHERE port = 1"
    )
    times = [bindparam(name, at, tables.UtcDateTime()) for name, at in (("since", before(2)), ("at", before(1)))]
    conn.execute(change.bindparams(*times))


def together() -> tuple[tuple[str, Changes], ...]:
    """Their changes as those of one part."""
    return (("", Changes((360000.0,), before(2), before(1))),)


def test_what_flapped_together_goes_on_as_one_part(database_url: str) -> None:
    database = _of_revision(database_url, "r0008", of_parts_together)
    assert [port(database, number, "seen").parts for number in (1, 2)] == [together(), ()]
    assert port(database, 1, "seen").flapping_since == before(2)
    database.dispose()


def test_so_it_does_in_an_earlier_checkpoint(database_url: str) -> None:
    database = _of_revision(database_url, "r0008", lambda conn: None)
    with database.begin() as conn:
        of_parts_together(conn)
        checkpoints.take(conn, 1, before(2))
        for table in (tables.ports, tables.hosts):
            conn.execute(table.delete())
        checkpoints.restore(conn, 1, conn)
    assert [port(database, number, "seen").parts for number in (1, 2)] == [together(), ()]
    database.dispose()


def test_the_ports_of_an_earlier_checkpoint_are_young_since_they_were_learned(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = _of_revision(database_url, "r0007", of_a_week_ago)
    later = set(tables.ports.c.keys()) - {"owners", "holders", "young_since", "restarts", "boots"}
    monkeypatch.setattr(checkpoints, "_parts", partial(_parts_of, checkpoints._parts, later))
    with database.begin() as conn:
        checkpoints.take(conn, 1, before(2))
        for table in (tables.ports, tables.hosts):
            conn.execute(table.delete())
        checkpoints.restore(conn, 1, conn)
    assert port(database, 1, "seen").young_since == pytest.approx(99 * 3600, abs=1800)
    database.dispose()


def _parts_of(parts: Any, names: set[str], conn: Connection) -> Iterator[Any]:
    """The parts of a checkpoint, with some columns of ports."""
    for part in parts(conn):
        rows = [{name: value for name, value in row.items() if name in names} for row in part.get("ports", ())]
        yield part | ({"ports": rows} if rows else {})


def test_hosts_go_on_with_what_they_were_told_to_be(upgraded: Database) -> None:
    with upgraded.begin() as conn:
        hosts, opened = state.load_hosts(conn), conditions.load(conn)
    assert {host_id: (host.evidence, host.shared, host.fingerprint) for host_id, host in hosts.items()} == {
        "a": (0, True, None), "b": (0, False, None), "c": (0, True, None),
    }  # fmt: skip
    assert opened[Condition.UNREACHABLE.key("b")].since == before(2)
    episode = opened[Condition.FLEET.key()]
    assert (episode.since, episode.details["told"], episode.details["hosts"]) == (before(1), True, [])


def test_the_state_of_an_earlier_checkpoint_has_its_age_at_that_time(upgraded: Database) -> None:
    with upgraded.engine.begin() as conn:
        conn.execute(text("DELETE FROM conditions WHERE name LIKE 'unreachable/%'"))
        conn.execute(text("""UPDATE ports SET changes = '[]', notices = '[]' WHERE port <> 80"""))
        upgrade_state(conn, before(30))
    assert port(upgraded, 80).seen_clock == pytest.approx(-3600, abs=1)
