"""What people decide about ports, on the state that runs have left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from portmon.api.ports import accept, list_ports, promote, withdraw_promotion
from portmon.api.runs import compare, damaged, status
from portmon.config import Config, parse_config
from portmon.errors import CommandError
from portmon.storage import decisions
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Connection]:
    """Of two ports of ``web`` one has died."""
    database = migrated(tmp_path / "state.db")
    fleet = Fleet(database, Config(), start=START)
    web = fleet.add("web", {22: "sshd", 80: "nginx\udcff"})
    fleet.run()
    web.kill(80)
    fleet.run()
    with database.begin() as made:
        yield made
    database.dispose()


def test_ports_of_a_host(conn: Connection) -> None:
    ssh, web = list_ports(conn, "WEB")
    assert [(one.port, one.status, one.declared) for one in (ssh, web)] == [(22, "up", None), (80, "down", None)]
    assert web.programs == ("nginx\udcff",)
    assert json.loads(web.model_dump_json())["programs"] == [r"nginx\udcff"]


def test_a_port_that_is_down_can_be_accepted(conn: Connection) -> None:
    with pytest.raises(CommandError, match="web: port 22 is not down; there is nothing to accept"):
        accept(conn, "web", 22, author="ann", reason="", now=START)
    done = accept(conn, "web", 80, author="ann", reason="moved", now=START)
    assert done == "web: port 80 is accepted as gone; the next complete answer without it retires it"
    (one,) = decisions.in_force(conn, START).accepted
    assert decisions.decision(conn, decisions.DecisionKind.ACCEPTED, one[0], 80) == (START, "ann: moved")


def test_a_promotion_can_be_withdrawn(conn: Connection) -> None:
    assert promote(conn, "web", 443, author="ann", reason="", now=START) == "web: port 443 must listen from now on"
    assert list(decisions.in_force(conn, START).promoted.values()) == ["ann"]
    assert withdraw_promotion(conn, "web", 443, author="ann", now=START) == "web: port 443 is no longer promoted"
    with pytest.raises(CommandError, match="web: port 443 was not promoted"):
        withdraw_promotion(conn, "web", 443, author="ann", now=START)


def test_what_runs_have_left(conn: Connection) -> None:
    found = status(conn)
    assert (found.hosts, found.ports, found.runs, found.looks) == (1, 2, 2, 2)
    assert found.contents["number"] > 0
    assert damaged(conn) == []


def test_what_other_settings_would_have_made_of_it(conn: Connection) -> None:
    config = parse_config("rules: [{action: deny, port: 80}]")
    found = compare(conn, config, since=START, until=START + timedelta(hours=1))
    assert (found.evaluations, found.gained) == (2, ())
    assert [(event.kind, event.port) for event in found.lost] == [("down", 80)]
    assert found.counts["down"] == (1, 0)
    assert found.model_dump()["lost"][0]["kind"] == "down"
