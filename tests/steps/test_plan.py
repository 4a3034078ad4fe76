"""What a plan stores for its sweep: each batch is read alone, and is the same whenever it is read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portmon.config import Config, parse_config
from portmon.errors import StorageError
from portmon.model.host import Host, Inventory
from portmon.steps.plan import asked_by, batch_of, plan_hosts, plan_sweep
from portmon.steps.run import Run
from portmon.storage import contents, hosts, inventory
from portmon.storage.database import Database
from tests.worlds.fleet import Fleet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = parse_config("scan: {sweep_above: 0, batch_hosts: 10}")
FLEET = [
    Host(f"id-{n}", f"web{n} é", f"10.0.{n % 3}.{n}", n or None, {"role": "web"}, (22, 80) if n % 2 else ())
    for n in range(25)
]


def planned(database: Database, listed: list[Host], *, config: Config = CONFIG, run: str = "run-1") -> Any:
    with database.begin() as conn:
        digest = inventory.save(conn, Inventory(tuple(listed)), run_id=run, fetched_at=NOW, stale=False)
    items = plan_sweep(database, config, Run(run, "scheduled", NOW), digest, proxy_of=lambda _: None, now=NOW)
    return json.loads(json.dumps(items))


def test_a_batch_holds_its_hosts_and_nothing_of_the_others(database: Database) -> None:
    items = planned(database, FLEET)
    assert [set(item) for item in items] == [{"batch", "hosts", "plan"}] * 4
    with database.begin() as conn:
        batches = [batch_of(conn, item) for item in items]
        stored = [contents.get(conn, item["plan"]) for item in items]
        tasks = asked_by(conn, items, [{"id": "id-3"}], sweep="sweep", own="netstat")
    by_id = {host.id: host for host in FLEET}
    assert sorted(host.id for batch in batches for host in batch.hosts) == sorted(by_id)
    for item, batch, data in zip(items, batches, stored, strict=True):
        assert len(batch.hosts) == item["hosts"]
        assert all(host == by_id[host.id] for host in batch.hosts)
        own = {host.id for host in batch.hosts}
        assert [one["id"] for one in json.loads(data)["hosts"] if one["id"] not in own] == []
    assert tasks == {
        host.id: ("netstat", 0) if host.id == "id-3" else ("sweep", number)
        for number, batch in enumerate(batches)
        for host in batch.hosts
    }


def test_a_batch_is_read_alike_although_the_list_is_gone(database: Database) -> None:
    items = planned(database, FLEET)
    with database.begin() as conn:
        before = [batch_of(conn, item) for item in items]
        hosts.sync(conn, [Host("id-1", "another name", "10.9.9.9")])
        conn.exec_driver_sql("DELETE FROM contents WHERE digest IN (SELECT digest FROM inventories)")
        assert [batch_of(conn, item) for item in items] == before


def test_batches_of_hosts_that_stay_the_same_are_stored_once(database: Database) -> None:
    first = planned(database, FLEET)
    assert planned(database, FLEET[::-1], run="run-2") == first
    changed = planned(database, [Host("id-0", "renamed", FLEET[0].address), *FLEET[1:]], run="run-3")
    assert len({item["plan"] for item in [*first, *changed]}) == len(first) + 1


def test_hosts_that_pruning_kept_are_in_a_batch(database: Database) -> None:
    with database.begin() as conn:
        hosts.sync(conn, [Host("kept", "kept", "10.0.0.99", labels={"a": "b"}), *FLEET])
    items = planned(database, FLEET)
    with database.begin() as conn:
        asked = {host.id: host for item in items for host in batch_of(conn, item).hosts}
    assert asked["kept"] == Host("kept", "kept", "10.0.0.99", labels={"a": "b"})
    assert len(asked) == len(FLEET) + 1


@pytest.mark.parametrize(
    "value", [None, [], {"hosts": ["a"]}, {"hosts": ["a"], "logins": 1, "lanes": {}}, {"hosts": 1}]
)
def test_what_is_no_batch_is_said_to_be_none(database: Database, value: Any) -> None:
    with database.begin() as conn:
        digest = contents.put(conn, json.dumps(value).encode(), now=NOW + timedelta(minutes=1))
        with pytest.raises(StorageError, match="no batch of hosts"):
            batch_of(conn, {"plan": digest})


# ── what the last run did not try ───────────────────────────────────────────────────────────────


class Slow(Fleet):
    """Runs that do not get to some hosts.

    :param missed: names of these hosts
    """

    def __init__(self, database: Database, config: Config) -> None:
        super().__init__(database, config, start=NOW)
        self.missed: set[str] = set()
        for number in range(9):
            self.add(f"web{number}", {22: "sshd"})

    def scan(self, plan: Any) -> None:
        super().scan([item for item in plan if item["name"] not in self.missed])

    def planned(self, **values: Any) -> str:
        """The numbers of the hosts that the next run asks, in the order of its tasks."""
        run = self.run_of(**values)
        return "".join(item["name"][-1] for item in self.plan(run, self.fetch(run)))

    def swept(self) -> tuple[str, ...]:
        """The same of its batches."""
        run = self.run_of()
        items = plan_sweep(self.database, self.config, run, self.fetch(run).digest, proxy_of=lambda _: None)
        with self.database.begin() as conn:
            return tuple("".join(host.name[-1] for host in batch_of(conn, item).hosts) for item in items)


def test_the_longest_untried_hosts_have_the_first_tasks(database: Database) -> None:
    fleet = Slow(database, Config())
    assert fleet.planned() == "012345678"
    for missed in ({"web7"}, {"web7", "web2"}, {"web7", "web2", "web4"}):
        fleet.missed = missed
        fleet.run()
    # 7 was never tried.
    assert fleet.planned() == "724013568"
    fleet.missed = set()
    fleet.run()
    # From then on it is as before: what was asked some seconds later than another is no reason.
    assert fleet.planned() == "012345678"
    run = fleet.run_of(hosts=("web1",))
    fleet.scan_and_evaluate(run)
    fleet.number += 1
    # A run of some hosts does not try the others.
    assert fleet.planned() == "012345678"
    fleet.add("web9", {22: "sshd"})
    assert fleet.planned() == "9012345678"


def test_of_hosts_that_a_sweep_missed_the_longest_untried_get_the_tasks_that_there_are(database: Database) -> None:
    fleet = Slow(database, parse_config("scan: {max_host_tasks: 2}"))
    fleet.run()
    for missed in ({"web8"}, {"web8", "web5"}):
        fleet.missed = missed
        fleet.run()
    run = fleet.run_of()
    digest = fleet.fetch(run).digest
    swept = {f"id-web{number}": True for number in range(4)}
    items = plan_hosts(database, fleet.config, run, digest, swept=swept)
    assert [item["name"] for item in items] == ["web8", "web5"]


def test_batches_with_hosts_that_were_not_tried_come_first(database: Database) -> None:
    fleet = Slow(database, parse_config("scan: {sweep_above: 0, batch_hosts: 3}\nssh: {max_logins: 8}"))
    assert fleet.swept() == ("036", "147", "258")
    fleet.run()
    assert fleet.swept() == ("036", "147", "258")
    fleet.missed = {"web2", "web5", "web8"}
    fleet.run()
    assert fleet.swept() == ("258", "036", "147")
    fleet.missed = {"web2", "web4"}
    fleet.run()
    assert fleet.swept() == ("258", "147", "036")
    fleet.missed = set()
    fleet.run()
    assert fleet.swept() == ("036", "147", "258")
