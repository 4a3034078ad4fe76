"""A live Airflow that watches a thousand SSH hosts, of which 70 never answer.

One Airflow serves all tests of this file. The first five are one story, so that their order counts; in the others
something is killed in the middle of the first looks at hosts of which nothing is known. The hosts are addresses of
this machine (see ``bench/crowd.py``): each is a login of its own, but they show the same sockets, so that all but the
first of them are also noted as duplicates. The state database has a PostgreSQL server of its own.
"""

from __future__ import annotations

import csv
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
import yaml
from sqlalchemy import text

from bench.crowd import Crowd, CrowdHost, missing
from demo.airflow_env import EmbeddedAirflow
from portmon.airflow.operators.sweep import STORE_MOST
from portmon.storage.database import Database
from tests.worlds.databases import airflow_metadata, migrated_url
from tests.worlds.postgres import Cluster
from tests.worlds.processes import connected, kill_with_descendants
from tests.worlds.waiting import skip_without, until

pytestmark = pytest.mark.slow

ALIVE, DEAD, HANGING = 930, 50, 20
LOGINS = 16
"""At the same time, over all batches."""
CONFIRM_AFTER = 10
"""Seconds between the two questions to a host that lacks a port: long beside a login."""
FLEET = 300
"""Hosts of the stories in which something is killed."""
SOME = ["host-00*", "host-01*"]
"""A fraction of the hosts, and enough for a sweep."""


class Site:
    """The crowd, and the Airflow that watches some of it.

    :param airflows: has Airflow's own database
    :param states: has the state databases
    """

    def __init__(self, folder: Path, airflows: Cluster, states: Cluster) -> None:
        self.folder = folder
        self.states = states
        self.crowd = Crowd(folder / "crowd", ALIVE, dead=DEAD, hanging=HANGING, services=20)
        self.metadata = airflow_metadata(airflows)
        ssh = {"conn_type": "ssh", "login": self.crowd.user, "extra": {"key_file": str(self.crowd.key)}}
        self._configure(connect_timeout="3s")
        self.airflow = EmbeddedAirflow(
            folder / "airflow",
            config=folder / "portmon.yaml",
            database=self.metadata,
            connections={"ssh_default": json.dumps(ssh)},
            env={
                "AIRFLOW__CORE__PARALLELISM": "12",
                # Tasks of a killed scheduler are missed after seconds instead of minutes.
                "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            },
        )
        self._database: Database | None = None
        self._has_all = True
        self.quiet = ""
        """The run in which nothing happened."""

    def _configure(self, *, connect_timeout: str) -> None:
        settings = {
            "cmdb": {"source": {"type": "file", "path": "hosts.csv"}},
            "ssh": {"connect_timeout": connect_timeout, "max_logins": LOGINS},
            "scan": {"confirm_after": f"{CONFIRM_AFTER}s", "batch_hosts": 250},
            # Other listeners of this machine do not count.
            "rules": [{"action": "allow", "port": self.crowd.services}],
        }
        (self.folder / "portmon.yaml").write_text(yaml.safe_dump(settings))

    def watch(self, hosts: Sequence[CrowdHost], *, connect_timeout: str) -> None:
        """From now on the CMDB lists these, and nothing is known of them."""
        self._configure(connect_timeout=connect_timeout)
        with (self.folder / "hosts.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("id", "name", "address", "port"))
            rows.writerows((host.id, host.name, host.address, host.port) for host in hosts)
        method, path = ("PATCH", "connections/portmon_db") if self._database else ("POST", "connections")
        self._database = Database(migrated_url(self.states))
        url = self._database.url
        connection = {"login": url.username, "password": url.password, "host": url.host, "port": url.port}
        # Not in the environment, since it changes while Airflow is up.
        body = {"connection_id": "portmon_db", "conn_type": "postgres", "schema": url.database, **connection}
        self.airflow.call(method, path, body)

    def some(self) -> list[str]:
        """Names of the hosts that :data:`SOME` means."""
        names = [host.name for host in self.crowd.hosts if any(fnmatch(host.name, glob) for glob in SOME)]
        assert 100 < len(names) < len(self.crowd.hosts) / 2
        return names

    def kill_service(self) -> None:
        """The first service dies, on every host."""
        self.crowd.kill_service(self.crowd.services[0])
        self._has_all = False

    def heal(self) -> None:
        """Every service is there again."""
        if not self._has_all:
            self.crowd.start_service(self.crowd.services[0])
            self._has_all = True

    # ── runs ────────────────────────────────────────────────────────────────────────────────────

    def run(self, **params: Any) -> str:
        run_id = self.airflow.trigger(**params)
        self.must_end_green(run_id)
        return run_id

    def must_end_green(self, run_id: str) -> None:
        state = self.airflow.wait_run(run_id, seconds=600)
        assert state == "success", [task for task in self.airflow.tasks(run_id) if task["state"] == "failed"]

    @contextmanager
    def standing_still(self) -> Iterator[str]:
        """A run in the middle of whose sweep the block is: some hosts are stored, and no other one answers."""
        run_id = self.airflow.trigger()
        until(lambda: self.looks(run_id) >= FLEET // 3, what="the first looks", seconds=300)
        self.crowd.stand_still()
        try:
            yield run_id
        finally:
            self.crowd.go_on()

    def mapped(self, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """Instances of a mapped task, without the placeholder of one that was mapped over nothing."""
        found = [task for task in self.airflow.tasks(run_id) if task["task_id"] == task_id and task["map_index"] >= 0]
        return sorted(found, key=lambda task: int(task["map_index"]))

    def ran(self, run_id: str, prefix: str) -> list[str]:
        """Tasks that were not skipped."""
        tasks = [task for task in self.airflow.tasks(run_id) if task["state"] != "skipped"]
        return sorted(task["task_id"] for task in tasks if task["task_id"].startswith(prefix))

    def messages(self, run_id: str, task_id: str) -> list[str]:
        """Titles of the messages that went to the log channel."""
        return [line for line in self.airflow.log(run_id, task_id).splitlines() if line.startswith("[portmon] ")]

    def task_processes(self) -> list[int]:
        """Processes of sweep tasks that talk to a host."""
        return connected(self.airflow.pids(), self.crowd.host(self.crowd.named("alive")[0]).port)

    # ── what is stored ──────────────────────────────────────────────────────────────────────────

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """Of the state database."""
        assert self._database is not None
        with self._database.begin() as conn:
            return [tuple(row) for row in conn.execute(text(query), values)]

    def forget_key(self, host: CrowdHost) -> None:
        """Forget a host's key, as if it had never been trusted."""
        assert self._database is not None
        with self._database.begin() as conn:
            endpoint = f"[{host.address}]:{host.port}"
            assert conn.execute(text("DELETE FROM host_keys WHERE endpoint = :one"), {"one": endpoint}).rowcount == 1

    def looks(self, run_id: str) -> int:
        return int(self.rows("SELECT count(*) FROM observations WHERE run_id = :run", run=run_id)[0][0])

    def events(self, run_id: str) -> Counter[tuple[str, str, int | None]]:
        """Kind, name of the host, port: how often; without the notes that hosts are duplicates, which they are."""
        query = "SELECT kind, host_name, port FROM events WHERE run_id = :run AND kind <> 'duplicate'"
        return Counter((kind, name, port) for kind, name, port in self.rows(query, run=run_id))

    def must_be_whole(self, names: Sequence[str]) -> None:
        """Of hosts whose first looks something interrupted: nothing is lost, nothing is there twice."""
        twice = "SELECT run_id, host_id, count(*) FROM observations GROUP BY run_id, host_id HAVING count(*) > 1"
        assert self.rows(twice) == []
        assert Counter(self.rows("SELECT kind, host_name FROM events WHERE kind <> 'duplicate'")) == Counter(
            ("baseline", name) for name in names
        )
        evaluated = "SELECT name FROM hosts WHERE status = 'ok' AND last_evaluated_at = last_ok_at ORDER BY name"
        assert [name for (name,) in self.rows(evaluated)] == sorted(names)
        ports = "SELECT host_id, count(*) FROM ports WHERE status = 'up' GROUP BY host_id"
        assert [count for _, count in self.rows(ports)] == [len(self.crowd.services)] * len(names)
        assert self.rows("SELECT count(*) FROM observations WHERE provisional OR outcome <> 'ok'") == [(0,)]

    def close(self) -> None:
        if self._database is not None:
            self._database.dispose()
        self.airflow.stop()
        self.crowd.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Site]:
    skip_without(missing())
    folder = tmp_path_factory.mktemp("sweep")
    with closing(Cluster(folder)) as states, closing(Site(folder, postgres_cluster, states)) as made:
        made.airflow.start(migrated=True)
        yield made


@pytest.fixture(scope="module")
def failing(site: Site) -> list[str]:
    """Hosts that never answer."""
    return site.crowd.named("dead", "hanging")


def test_1_only_those_that_do_not_answer_get_a_task_of_their_own(site: Site, failing: list[str]) -> None:
    site.watch(site.crowd.hosts, connect_timeout="3s")
    run_id = site.run()
    batches = site.mapped(run_id, "sweep")
    assert [(task["state"], task["try_number"]) for task in batches] == [("success", 1)] * 4
    assert sum(int(task["rendered_map_index"].split()[2]) for task in batches) == len(site.crowd.hosts)
    tasks = site.mapped(run_id, "netstat")
    assert sorted(task["rendered_map_index"] for task in tasks) == sorted(failing)
    assert {(task["state"], task["try_number"]) for task in tasks} == {("failed", 2)}
    for task in tasks:
        name = task["rendered_map_index"]
        log = site.airflow.log(run_id, "netstat", map_index=task["map_index"], try_number=2)
        reason = "no TCP connection" if site.crowd.host(name).kind == "dead" else "no SSH banner"
        assert any(name in line and reason in line for line in log.splitlines()), log
    assert sorted(site.rows("SELECT name FROM hosts WHERE removed_at IS NULL")) == sorted(
        (host.name,) for host in site.crowd.hosts
    )
    looks = "SELECT h.name, o.outcome FROM observations o JOIN hosts h USING (host_id) WHERE run_id = :run"
    # Of those that failed one look is the sweep's and one that of their own task.
    assert Counter(site.rows(looks, run=run_id)) == (
        Counter((name, "ok") for name in site.crowd.named("alive"))
        + Counter((name, "unreachable") for name in failing * 2)
    )
    assert site.events(run_id) == Counter(("baseline", name, None) for name in site.crowd.named("alive"))
    assert site.ran(run_id, "alert_") == []


def test_2_those_that_failed_before_are_one_message_and_no_tasks(
    site: Site, failing: list[str], record_property: Any
) -> None:
    site.quiet = run_id = site.run()
    assert site.mapped(run_id, "netstat") == []
    assert [task["state"] for task in site.mapped(run_id, "sweep")] == ["success"] * 4
    assert site.events(run_id) == Counter(("unreachable", name, None) for name in failing)
    assert site.ran(run_id, "alert_") == ["alert_unreachable"]
    assert len(site.messages(run_id, "alert_unreachable")) == 1
    assert site.rows("SELECT DISTINCT state, tries FROM deliveries") == [("delivered", 1)]

    for kind, log_of in (("raw", _raw_log), ("api", _log_answer)):
        logs = [log_of(site, run_id, index) for index in range(4)]
        # Each of them has exactly one line.
        assert Counter(name for log in logs for line in log for name in failing if name in line) == Counter(failing)
        for index, lines in enumerate(logs):
            told = [line for line in lines if any(name in line for name in failing)]
            # A machine that is busy otherwise takes minutes, of each of which there is a word.
            progress = [line for line in lines if " of 250 after " in line]
            size = sum(len(line) + 1 for line in lines)
            healthy = size - sum(len(line) + 1 for line in (*told, *progress))
            record_property(f"bytes of batch {index}'s log, {kind}", {"all": size, "healthy": healthy})
            assert healthy <= 5_000

    with psycopg2.connect(site.metadata.replace("+psycopg2", "")) as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT task_id, count(*), sum(octet_length(value::text)) FROM xcom WHERE run_id = %s GROUP BY task_id",
            (run_id,),
        )
        xcoms = {task_id: (rows, size) for task_id, rows, size in cursor.fetchall()}
    conn.close()
    record_property("xcom", xcoms)
    assert sum(size for _, size in xcoms.values()) <= 20_000 * len(site.crowd.hosts) / 200
    tasks = site.airflow.tasks(run_id)
    record_property("task instances", len(tasks))
    assert len([task for task in tasks if task["map_index"] >= 0]) == 4


def test_3_a_run_for_some_hosts_sweeps_only_those(site: Site) -> None:
    names = site.some()
    query = "SELECT name, last_evaluated_at FROM hosts"
    before = dict(site.rows(query))
    logins = site.crowd.logins()
    run_id = site.run(hosts=SOME)
    (batch,) = site.mapped(run_id, "sweep")
    assert (batch["state"], batch["rendered_map_index"]) == ("success", f"batch 1, {len(names)} hosts")
    looks = "SELECT h.name FROM observations o JOIN hosts h USING (host_id) WHERE run_id = :run"
    assert sorted(site.rows(looks, run=run_id)) == sorted((name,) for name in names)
    assert site.crowd.logins() - logins == len(set(names) & set(site.crowd.named("alive")))
    after = dict(site.rows(query))
    assert {name for name in after if after[name] != before[name]} == set(names)
    assert site.events(run_id) == Counter()


def test_4_a_dry_run_says_what_would_follow_and_keeps_nothing(site: Site) -> None:
    site.kill_service()
    names = site.some()
    alive = sorted(set(names) & set(site.crowd.named("alive")))
    forgotten = alive[0]
    site.forget_key(site.crowd.host(forgotten))
    tables = ("observations", "events", "host_keys", "hosts", "ports", "deliveries", "alerts")
    before = {name: sorted(map(repr, site.rows(f"SELECT * FROM {name}"))) for name in tables}
    logins = site.crowd.logins()
    run_id = site.run(dry_run=True, hosts=SOME)
    assert site.crowd.logins() - logins == len(alive)
    assert {name: sorted(map(repr, site.rows(f"SELECT * FROM {name}"))) for name in tables} == before
    log = site.airflow.log(run_id, "diff_ports")
    (summary,) = (line for line in log.splitlines() if line.startswith("Summary: "))
    assert f"down {len(alive)}" in summary
    assert f"scanned {len(names)}" in summary
    assert site.mapped(run_id, "netstat") == []
    assert f"{forgotten!r} tcp/{site.crowd.services[0]}" in log
    assert "Dry run: nothing of this was kept" in log
    assert site.ran(run_id, "alert_") == []


def test_5_a_port_that_all_hosts_lose_is_confirmed_on_each_while_others_are_asked(
    site: Site, record_property: Any
) -> None:
    port = site.crowd.services[0]
    run_id = site.run()
    alive = site.crowd.named("alive")
    assert site.events(run_id) == Counter(("down", name, port) for name in alive)
    looks = "SELECT confirmed, observed_at, duration FROM observations WHERE run_id = :run AND outcome = 'ok'"
    found = site.rows(looks, run=run_id)
    assert [confirmed for confirmed, _, _ in found] == [True] * ALIVE
    # From the first answer of each to its second one, at least for the time of the pause.
    parked = [(at.timestamp(), at.timestamp() + CONFIRM_AFTER) for _, at, _ in found]
    record_property("parked at once", _most_at_once(parked))
    assert _most_at_once(parked) > 2 * LOGINS
    quiet, loss = _sweep_seconds(site, site.quiet), _sweep_seconds(site, run_id)
    record_property("seconds of a sweep", {"quiet": quiet, "all confirm": loss})
    # Logins that wait would be 16 at a time.
    assert loss - quiet < ALIVE / LOGINS * CONFIRM_AFTER / 2
    assert site.mapped(run_id, "netstat") == []
    assert site.ran(run_id, "alert_") == ["alert_down"]
    assert len(site.messages(run_id, "alert_down")) == 1
    told = "SELECT d.state, count(*) FROM deliveries d JOIN events e ON e.id = event_id WHERE run_id = :run GROUP BY 1"
    assert site.rows(told, run=run_id) == [("delivered", ALIVE)]
    assert site.rows("SELECT count(*) FROM host_keys") == [(ALIVE,)]


@pytest.fixture
def fleet(site: Site) -> list[str]:
    """Names of hosts of which nothing is known."""
    hosts = [host for host in site.crowd.hosts if host.kind == "alive"][:FLEET]
    site.heal()
    # Long: hosts that stand still for a moment are not to fail.
    site.watch(hosts, connect_timeout="12s")
    return [host.name for host in hosts]


@pytest.mark.full
def test_6_the_task_of_a_batch_killed_in_the_middle(site: Site, fleet: list[str]) -> None:
    before = site.crowd.logins()
    with site.standing_still() as run_id:
        stored = site.looks(run_id)
        (victim, *_) = site.task_processes()
        os.kill(victim, signal.SIGKILL)
        lost = site.crowd.logins() - before - stored
    site.must_end_green(run_id)
    batches = site.mapped(run_id, "sweep")
    assert sorted(task["try_number"] for task in batches) == [1, 2]
    assert {task["state"] for task in batches} == {"success"}
    (again,) = (task for task in batches if task["try_number"] == 2)
    log = site.airflow.log(run_id, "sweep", map_index=again["map_index"], try_number=2)
    assert "Looked at by an earlier try: " in log
    must_not_repeat(site.crowd.logins() - before, lost)
    site.must_be_whole(fleet)
    assert site.mapped(run_id, "netstat") == []


def test_7_the_scheduler_with_its_workers_and_their_tasks_killed_in_the_middle(site: Site, fleet: list[str]) -> None:
    before = site.crowd.logins()
    with site.standing_still() as run_id:
        stored = site.looks(run_id)
        assert len(site.task_processes()) == 2
        scheduler = site.airflow.processes.pop("scheduler")
        kill_with_descendants(scheduler.pid)
        scheduler.wait()
        # Killed processes are not gone at once, and only the scheduler is our child, which wait() takes.
        until(lambda: not site.task_processes(), what="the end of the killed tasks")
        lost = site.crowd.logins() - before - stored
    site.airflow.start_process("scheduler", "--skip-serve-logs")
    site.must_end_green(run_id)
    assert sorted(task["try_number"] for task in site.mapped(run_id, "sweep")) == [2, 2]
    must_not_repeat(site.crowd.logins() - before, lost)
    site.must_be_whole(fleet)


@pytest.mark.full
def test_8_the_state_database_killed_in_the_middle(site: Site, fleet: list[str]) -> None:
    before = site.crowd.logins()
    with site.standing_still() as run_id:
        stored = site.looks(run_id)
        site.states.crash()

    def failed() -> bool:
        return {task["state"] for task in site.mapped(run_id, "sweep")} == {"up_for_retry"}

    site.airflow.wait(failed, "sweep tasks that can't store", seconds=120)
    lost = site.crowd.logins() - before - stored
    site.states.start()
    site.must_end_green(run_id)
    must_not_repeat(site.crowd.logins() - before, lost)
    site.must_be_whole(fleet)


def must_not_repeat(logins: int, lost: int) -> None:
    """Only those are asked again whose answer was not stored yet.

    :param lost: answers that were not, of hosts that had been logged in to; besides those that were just logging in
    """
    assert lost <= 2 * STORE_MOST
    assert FLEET <= logins <= FLEET + lost + LOGINS


def _sweep_seconds(site: Site, run_id: str) -> float:
    """From the start of the first batch to the end of the last one."""
    tasks = site.mapped(run_id, "sweep")
    starts, ends = ([datetime.fromisoformat(task[name]) for task in tasks] for name in ("start_date", "end_date"))
    return (max(ends) - min(starts)).total_seconds()


def _most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """How many of some spans of time overlap at most."""
    changes = sorted([*((begin, 1) for begin, _ in spans), *((end, -1) for _, end in spans)])
    count = most = 0
    for _, change in changes:
        count += change
        most = max(most, count)
    return most


def _raw_log(site: Site, run_id: str, index: int) -> list[str]:
    """Lines of the file that a sweep task's log is."""
    (file,) = (
        path
        for path in (site.airflow.home / "logs").rglob("attempt=1.log")
        if {f"run_id={run_id}", "task_id=sweep", f"map_index={index}"} <= set(path.parts)
    )
    return file.read_text().splitlines()


def _log_answer(site: Site, run_id: str, index: int) -> list[str]:
    """The same log as the API answers with it, an entry a line."""
    path = f"dags/portmon/dagRuns/{quote(run_id)}/taskInstances/sweep/logs/1"
    answer = site.airflow.call("GET", path, query={"map_index": index, "full_content": True})
    return [json.dumps(entry, separators=(",", ":")) for entry in answer["content"]]
