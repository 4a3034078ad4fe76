"""Ports that people ignore until a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from portmon.api import ignored, ports
from portmon.api.explain import explain
from portmon.config import Config
from portmon.errors import CommandError, RequestError
from portmon.replay.archive import scratch_database, what_if
from portmon.storage import alerts, decisions
from tests.worlds.databases import migrated
from tests.worlds.fleet import MONDAY, Fleet

DAY = timedelta(days=1)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """``web`` with three ports, after two runs."""
    database = migrated(tmp_path / "state.db")
    made = Fleet(database, Config(), start=MONDAY)
    made.add("web", {22: "sshd", 80: "nginx", 8080: "java"})
    made.run()
    made.run()
    yield made
    database.dispose()


def ignore(fleet: Fleet, port: int, until: datetime, reason: str = "noise") -> str:
    with fleet.database.begin() as conn:
        return ignored.ignore(conn, "web", port, until=until, author="ann", reason=reason, now=fleet.now)


def run(fleet: Fleet) -> list[tuple[str, int | None]]:
    return [(event.kind.value, event.port) for event in fleet.run()]


def story(fleet: Fleet, port: int) -> str:
    with fleet.database.begin() as conn:
        return "\n".join(explain(conn, fleet.config, "web", port, now=fleet.now))


def test_an_ignored_port_makes_no_event_until_its_time_is_over(fleet: Fleet) -> None:
    said = ignore(fleet, 8080, fleet.now + DAY)
    assert said == f"web: port 8080 is ignored until {fleet.now + DAY:%Y-%m-%d %H:%M} UTC"
    fleet.machines["web"].kill(8080)
    assert run(fleet) == []
    fleet.machines["web"].start(8080, "java")
    assert run(fleet) == []
    assert f"No rule in force watches it: ignored until {MONDAY + DAY:%Y-%m-%d}" in story(fleet, 8080)
    fleet.start += DAY
    # It listened when it began to be watched again: that is no news, and its next death is.
    assert run(fleet) == []
    fleet.machines["web"].kill(8080)
    assert run(fleet) == [("down", 8080)]


def test_the_alert_of_a_port_that_is_ignored_ends_in_the_second_run(fleet: Fleet) -> None:
    fleet.machines["web"].kill(8080)
    assert run(fleet) == [("down", 8080)]
    assert ignore(fleet, 8080, fleet.now + DAY).endswith("; its open alert ends")
    assert [run(fleet), run(fleet)] == [[], [("unwatched", 8080)]]
    with fleet.database.begin() as conn:
        assert alerts.opened(conn) == {}


def test_a_replay_knows_what_was_ignored_then(fleet: Fleet) -> None:
    since = fleet.now
    ignore(fleet, 8080, fleet.now + DAY)
    fleet.machines["web"].kill(8080)
    run(fleet)
    with fleet.database.begin() as conn:
        ignored.watch_again(conn, "web", 8080, author="bob", now=fleet.now)
    run(fleet)
    with scratch_database() as scratch, fleet.database.begin() as conn:
        found = what_if(conn, scratch, fleet.config, since=since, until=fleet.now + DAY)
    assert (found.gained, found.lost, found.changed) == ((), (), ())
    with scratch_database() as scratch, fleet.database.begin() as conn:
        found = what_if(conn, scratch, fleet.config, since=MONDAY, until=fleet.now + DAY)
    assert (found.gained, found.lost, found.changed) == ((), (), ())


def test_a_port_that_must_listen_is_not_ignored(fleet: Fleet) -> None:
    with fleet.database.begin() as conn:
        ports.promote(conn, "web", 80, author="ann", reason="sla", now=fleet.now)
    with pytest.raises(CommandError, match="web: port 80 is promoted by ann: sla, so no rule applies to it"):
        ignore(fleet, 80, fleet.now + DAY)
    # Promoting ends the ignoring.
    ignore(fleet, 8080, fleet.now + DAY)
    with fleet.database.begin() as conn:
        ports.promote(conn, "web", 8080, author="ann", reason="", now=fleet.now)
        assert decisions.in_force(conn, fleet.now).ignored == {}


def test_it_needs_an_end_that_is_still_to_come(fleet: Fleet) -> None:
    with pytest.raises(RequestError, match="must end in the future"):
        ignore(fleet, 80, fleet.now)


def test_what_is_ignored_is_listed_newest_first_until_it_is_over(fleet: Fleet) -> None:
    ignore(fleet, 80, fleet.now + DAY, "first")
    fleet.run()
    ignore(fleet, 8080, fleet.now + 2 * DAY, "second")
    with fleet.database.begin() as conn:
        found = ignored.list_ignored(conn, fleet.now, limit=1)
        assert [(one.host, one.port, one.reason) for one in found.rows] == [("web", 8080, "second")]
        assert found.total == 2
        (older,) = ignored.list_ignored(conn, fleet.now, limit=1, offset=1).rows
        assert older.port == 80
        (left,) = ignored.list_ignored(conn, fleet.now + DAY).rows
        assert left.port == 8080
        assert decisions.expire(conn, fleet.now + DAY) == 1
        with pytest.raises(CommandError, match="web: port 80 is not ignored"):
            ignored.watch_again(conn, "web", 80, author="ann", now=fleet.now)
