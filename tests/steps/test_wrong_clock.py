"""The monitor's clock is ahead in one run, and right again in the next: real steps, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from portmon.config import parse_config
from portmon.replay.archive import evaluate_again
from portmon.storage import archive, conditions, hosts
from portmon.storage.database import Database
from portmon.storage.tables import conditions as conditions_table
from portmon.storage.tables import hosts as hosts_table
from portmon.storage.tables import observations
from portmon.storage.tables import ports as ports_table
from tests.worlds.fleet import Fleet

CONFIG = """
states: {retire_after: 30min}
retention: {observations: 1d}
alerts: {channels: [{type: log, name: chat}]}
"""
IGNORES = CONFIG + "rules: [{action: deny, port: 9100}]\n"


def moments(value: Any) -> Iterator[datetime]:
    """Every time that a stored value holds."""
    if isinstance(value, dict):
        for one in value.values():
            yield from moments(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from moments(one)
    elif isinstance(value, datetime):
        yield value
    elif isinstance(value, str):
        try:
            yield datetime.fromisoformat(value)
        except ValueError:
            return


def later_than(database: Database, now: datetime) -> list[tuple[str, str, datetime]]:
    """Times in the state that are later: their table, column, and themselves."""
    found = []
    with database.begin() as conn:
        for table in (hosts_table, ports_table, conditions_table):
            for row in conn.execute(select(table)).mappings():
                for name, value in row.items():
                    found += [(table.name, name, at) for at in moments(value) if at > now]
    return found


class Site(Fleet):
    """Web servers in all states that have a time."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, parse_config(CONFIG))
        for number in range(10):
            self.add(f"web{number}", {22: "sshd", 80: "nginx", 443: "nginx", 9100: "node_exporter"})
        self.run()
        self.run()
        # Gone since yesterday, as the run that is ahead sees it: a host, a port that no rule watches, one that is down.
        self.listed.discard("web5")
        self.config = parse_config(IGNORES)
        self.machines["web0"].kill(80)
        for _ in range(5):
            self.run()

    def told(self) -> list[tuple[str, str | None, int | None]]:
        """A run; what it told."""
        return [(event.kind.value, event.host_id, event.port) for event in self.run()]

    def known(self) -> tuple[set[str], int, int]:
        """Hosts, and numbers of ports and of observations."""
        with self.database.begin() as conn:
            ids = {host.id for host in hosts.known(conn)}
            ports = len(conn.execute(select(ports_table.c.port)).all())
            return ids, ports, len(conn.execute(select(observations.c.host_id)).all())

    def looks_to_evaluate(self) -> list[str]:
        with self.database.begin() as conn:
            return [look.host_id for look in archive.observations_to_evaluate(conn)]

    def clock_is_wrong(self) -> bool:
        """Whether the heartbeat rests."""
        with self.database.begin() as conn:
            return conditions.since(conn, conditions.CLOCK_BACK) is not None


@pytest.fixture
def site(database: Database) -> Site:
    return Site(database)


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=1, minutes=30)])
def test_what_a_run_of_a_wrong_clock_left_is_put_right(site: Site, ahead: timedelta) -> None:
    before, jumps = site.known(), ahead > timedelta(days=1)
    site.start += ahead
    site.machines["web1"].boot += 1
    site.machines["web2"].kill(443)
    site.machines["web3"].trouble = "timeout"
    site.listed.discard("web4")
    # After a jump nothing is deleted, retired or forgotten, whatever its age seems to be.
    retired = ("retired", "id-web0", 80)
    found = [("rebooted", "id-web1", None), ("down", "id-web2", 443), *([] if jumps else [retired])]
    assert sorted(site.told(), key=str) == sorted(found, key=str)
    hosts_, ports, looks = site.known()
    assert (hosts_, ports, looks) == (before[0], before[1] - (not jumps), before[2] + 8)
    tables = {table for table, _, _ in later_than(site.database, site.now - ahead)}
    assert tables == {"hosts", "ports", "conditions"}
    # The clock is right again. That is told at once, and nothing that hosts show is evaluated.
    site.start -= ahead
    site.machines["web1"].kill(22)
    site.add("fresh", {22: "sshd"})
    assert site.told() == [("clock_back", None, None)]
    assert site.clock_is_wrong()
    # Neither is what a host shows that is new in this run, when the clock is believed.
    assert site.looks_to_evaluate() == []
    # The second such run is believed.
    site.machines["fresh"].start(80, "nginx")
    found = [("clock_believed", None, None), ("down", "id-web1", 22), *([retired] if jumps else [])]
    found.append(("baseline", "id-fresh", None))
    assert sorted(site.told(), key=str) == sorted(found, key=str)
    assert not site.clock_is_wrong()
    assert later_than(site.database, site.now - site.interval) == []
    # What the run that was ahead saw is never evaluated again: its runs of failures go on from now on.
    assert site.told() == [("unreachable", "id-web3", None)]
    site.machines["web0"].kill(443)
    assert site.told() == [("down", "id-web0", 443)]
    site.machines["web2"].start(443, "nginx")
    assert site.told() == [("recovered", "id-web2", 443)]
    assert site.told() == []
    assert site.known()[0] == before[0] | {"id-fresh"}


def test_a_diff_that_is_tried_again_is_no_second_run(site: Site) -> None:
    site.start += timedelta(hours=2)
    site.run()
    site.start -= timedelta(hours=2)
    run = site.run_of()
    fetched = site.fetch(run)
    plan = site.plan(run, fetched)
    site.scan(plan)
    for _ in range(3):
        site.evaluate(run, fetched, plan)
        assert site.clock_is_wrong()
    assert [event.kind for event in site.events(run.run_id)] == ["clock_back"]


def test_evaluating_again_comes_to_the_same(site: Site, scratch: Database) -> None:
    site.start += timedelta(hours=2)
    site.machines["web2"].kill(443)
    site.listed.discard("web4")
    site.run()
    site.start -= timedelta(hours=2)
    for _ in range(3):
        site.run()

    def state(database: Database) -> list[Any]:
        columns = ("host_id", "status", "removed_at", "last_evaluated_at", "evidence")
        with database.begin() as conn:
            found = conn.execute(select(*(hosts_table.c[name] for name in columns)).order_by(hosts_table.c.host_id))
            down = select(ports_table.c.host_id, ports_table.c.port, ports_table.c.status_since)
            return [*found, *conn.execute(down.where(ports_table.c.status == "down"))]

    expected = state(site.database)
    with site.database.begin() as source:
        evaluate_again(source, scratch, site.config, since=site.start)
    assert state(scratch) == expected
