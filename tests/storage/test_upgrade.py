"""A state database of a version before clocks of evidence is brought into the present form, with its data."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, text

from portmon.engine.conditions import Condition
from portmon.engine.frames import ports_of
from portmon.engine.state import Port
from portmon.storage import conditions, state
from portmon.storage.database import Database, _alembic_config
from portmon.storage.upgrade import upgrade_state

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


def before(hours: float) -> datetime:
    return NOW - hours * HOUR


def age(hours: float) -> Any:
    """Seconds of a clock that is 0 now."""
    return pytest.approx((before(hours) - datetime.now(UTC)).total_seconds(), abs=60)


def insert(conn: Connection, table: str, **values: Any) -> None:
    names = ", ".join(values)
    conn.execute(text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})"), values)


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


@pytest.fixture
def upgraded(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    with database.engine.begin() as conn:
        config = _alembic_config()
        config.attributes["connection"] = conn
        command.upgrade(config, "r0006")
        earlier(conn)
    database.migrate()
    yield database
    database.dispose()


def port(database: Database, number: int) -> Port:
    with database.begin() as conn:
        return next(one for one in ports_of(state.load_ports(conn, ["a"])) if one.port == number)


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
