"""Several machines: Airflow with the CeleryExecutor, Redis and two workers, each with a host name of its own.

What the workers and Redis are started with is taken from docker-compose.yaml. The tests' order counts: each starts
from what the one before left.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import yaml
from sqlalchemy import select

from bench.crowd import Crowd, missing
from demo.airflow_env import DAG_ID, ROOT, EmbeddedAirflow, free_port
from portmon.model.event_kinds import EventKind
from portmon.steps.plan import batch_of
from portmon.storage import events
from portmon.storage.database import Database
from portmon.storage.tables import observations
from tests.worlds.databases import airflow_metadata
from tests.worlds.postgres import Cluster
from tests.worlds.waiting import skip_without, until

pytestmark = pytest.mark.full

SERVICES = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
WORKERS = ("worker-1", "worker-2")
AS_IN_COMPOSE = ("AIRFLOW__CORE__EXECUTOR", "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG")
CONCURRENCY = 3
"""Less than the batches that run at the same time, so that one worker can't have them all."""
HOSTS = 120
SWITCHABLE = 10
"""So many that every batch has one."""
AS_ANOTHER_MACHINE = ("unshare", "--uts", "sh", "-c", 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"')


class Broker:
    """The broker, as docker-compose.yaml starts it, but for port, folder and persistence."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(12)
        command = [re.sub(r"^\$\{REDIS_PASSWORD.*\}$", self.password, part) for part in SERVICES["redis"]["command"]]
        self._out = (folder / "redis.out").open("wb")
        self._server = subprocess.Popen(
            # A Redis that can't save does not end.
            [*command, "--port", str(self.port), "--bind", "127.0.0.1", "--appendonly", "no", "--save", ""],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._out,
        )
        try:
            until(self._answers, what="Redis", seconds=30)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def close(self) -> None:
        self._server.terminate()
        self._server.wait(30)
        self._out.close()

    def _answers(self) -> bool:
        assert self._server.poll() is None, Path(self._out.name).read_text()
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False


class Site:
    """A crowd of hosts and the machines that watch it."""

    def __init__(self, folder: Path, crowd: Crowd, cluster: Cluster, broker: Broker) -> None:
        self.crowd = crowd
        crowd.write_csv(folder / "hosts.csv")
        config = folder / "portmon.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "cmdb": {"source": {"type": "file", "path": "hosts.csv"}},
                    "ssh": {"max_logins": 32, "connect_timeout": "6s"},
                    # Of the dead hosts three get a task of their own: more of them take time and show nothing new.
                    "scan": {"sweep_above": 50, "batch_hosts": 20, "max_host_tasks": 3, "confirm_after": "1s"},
                    "states": {"unreachable_after": 1},
                    # Other listeners of this machine come and go.
                    "rules": [{"action": "allow", "port": list(crowd.services)}],
                }
            )
        )
        url = cluster.new_database()
        self.database = Database(url)
        self.airflow = EmbeddedAirflow(
            folder / "airflow",
            config=config,
            database=airflow_metadata(cluster),
            connections={
                "portmon_db": url,
                "ssh_default": json.dumps(
                    {"conn_type": "ssh", "login": crowd.user, "extra": {"key_file": str(crowd.key)}}
                ),
            },
            env={
                **{name: SERVICES["airflow-worker"]["environment"][name] for name in AS_IN_COMPOSE},
                "AIRFLOW__CORE__PARALLELISM": "16",
                "AIRFLOW__CELERY__BROKER_URL": broker.url,
                # A lost worker is noticed after seconds instead of minutes, and what it had taken from Redis is
                # handed out again after seconds instead of a day.
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "30",
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
                "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "15",
                "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_INTERVAL": "5",
                "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_THROTTLE": "1",
            },
        )

    def start(self) -> None:
        self.airflow.start(migrated=True)
        for name in WORKERS:
            self.start_worker(name)
        self.airflow.wait(lambda: all("ready." in self.said(name) for name in WORKERS), "the workers", seconds=120)

    def start_worker(self, name: str) -> None:
        executable, *command = SERVICES["airflow-worker"]["command"]
        assert executable == "airflow"
        self.airflow.start_process(
            name,
            *command[1:],
            *("--concurrency", str(CONCURRENCY), "--celery-hostname", name, "--skip-serve-logs"),
            command=command[0],
            within=(*AS_ANOTHER_MACHINE, name),
        )

    def said(self, name: str) -> str:
        """What one of the processes wrote."""
        return (self.airflow.home / f"{name}.out").read_text(errors="replace")

    def received(self, name: str) -> set[str]:
        """Ids of the messages that a worker took from Redis."""
        return set(re.findall(r"execute_workload\[([0-9a-f-]+)\] received", self.said(name)))

    def close(self) -> None:
        self.airflow.stop()

    def end_of(self, run_id: str) -> None:
        assert self.airflow.wait_run(run_id, seconds=240) == "success", self.airflow.tasks(run_id)

    def sweeps(self, run_id: str) -> dict[int, dict[str, Any]]:
        """Map index: task instance of a batch."""
        return {task["map_index"]: task for task in self.airflow.tasks(run_id) if task["task_id"] == "sweep"}

    def batches(self, run_id: str) -> list[set[str]]:
        """Ids of the hosts of each batch."""
        path = f"dags/{DAG_ID}/dagRuns/{quote(run_id)}/taskInstances/plan_sweep/xcomEntries/return_value"
        items = self.airflow.call("GET", path, query={"deserialize": "true"})["value"]
        with self.database.begin() as conn:
            return [{host.id for host in batch_of(conn, item).hosts} for item in items]

    def looks(self, run_id: str) -> list[tuple[str, str, int]]:
        """Host id, outcome and try of every look of a run."""
        columns = observations.c.host_id, observations.c.outcome, observations.c.try_number
        with self.database.begin() as conn:
            return [tuple(row) for row in conn.execute(select(*columns).where(observations.c.run_id == run_id))]

    def events(self, run_id: str) -> Counter[tuple[str, str | None, int | None]]:
        """Of a crowd all hosts are one machine: the notes that say so are left out."""
        with self.database.begin() as conn:
            found = events.recent(conn, run_id=run_id, limit=10_000)
        notes = EventKind.DUPLICATE
        return Counter((event.kind.value, event.host_name, event.port) for event in found if event.kind is not notes)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Site]:
    skip_without(missing() or (None if shutil.which("redis-server") else "redis-server is not installed"))
    folder = tmp_path_factory.mktemp("celery")
    with (
        Crowd(folder / "crowd", HOSTS, services=5, switchable=SWITCHABLE) as crowd,
        closing(Broker(folder)) as broker,
        closing(Site(folder, crowd, postgres_cluster, broker)) as made,
    ):
        made.start()
        yield made


def test_1_batches_run_on_both_workers(site: Site) -> None:
    run_id = site.airflow.trigger()
    site.end_of(run_id)
    sweeps = site.sweeps(run_id)
    # As many batches as fill every round of the tasks that run at the same time.
    assert len(sweeps) == len(site.batches(run_id)) == 8
    assert {task["state"] for task in sweeps.values()} == {"success"}
    assert {task["hostname"] for task in sweeps.values()} == set(WORKERS)
    # Each imported once what its tasks need.
    assert all("modules for the tasks to come" in site.said(name) for name in WORKERS)
    assert Counter(look[:2] for look in site.looks(run_id)) == {(host.id, "ok"): 1 for host in site.crowd.hosts}
    assert site.events(run_id) == {("baseline", host.name, None): 1 for host in site.crowd.hosts}


def test_2_a_worker_is_lost_while_its_batches_run(site: Site) -> None:
    crowd = site.crowd
    port = crowd.services[0]
    dead = set(crowd.named("switchable"))
    crowd.kill_service(port)
    for name in dead:
        crowd.make_dead(name)
    run_id = site.airflow.trigger()

    def half_done() -> tuple[str, int] | None:
        """A worker with a batch of which some hosts were looked at, and not all."""
        running = {index: task["hostname"] for index, task in site.sweeps(run_id).items() if task["state"] == "running"}
        if not running:
            return None
        seen = {host_id for host_id, _, _ in site.looks(run_id)}
        batches = site.batches(run_id)
        return next(
            ((name, i) for i, name in running.items() if name and batches[i] & seen and batches[i] - seen), None
        )

    lost, index = site.airflow.wait(half_done, "a batch that is half done", seconds=120)
    site.airflow.kill(lost)
    (left,) = set(WORKERS) - {lost}
    before = {host_id for host_id, _, _ in site.looks(run_id)}
    assert 0 < len(before & site.batches(run_id)[index]) < len(site.batches(run_id)[index])
    killed = {i for i, task in site.sweeps(run_id).items() if task["state"] == "running" and task["hostname"] == lost}
    assert index in killed
    site.end_of(run_id)
    sweeps = site.sweeps(run_id)
    assert {task["state"] for task in sweeps.values()} == {"success"}
    assert {(sweeps[i]["hostname"], sweeps[i]["try_number"]) for i in killed} == {(left, 2)}
    looks = site.looks(run_id)
    alive = {host.id: host.name for host in crowd.hosts if host.name not in dead}
    assert Counter(host_id for host_id, outcome, _ in looks if outcome == "ok") == dict.fromkeys(alive, 1)
    assert {host_id for host_id, outcome, _ in looks if outcome != "ok"} == {crowd.host(name).id for name in dead}
    downs = {("down", name, port): 1 for name in alive.values()}
    assert site.events(run_id) == {**downs, **{("unreachable", name, None): 1 for name in dead}}
    # The next run finds that nothing was lost.
    crowd.start_service(port)
    for name in dead:
        crowd.revive(name)
    later = site.airflow.trigger()
    site.end_of(later)
    assert {task["hostname"] for task in site.sweeps(later).values()} == {left}
    assert site.events(later) == {
        **{("recovered", name, port): 1 for name in alive.values()},
        # Dead hosts missed the change: there, the service was only restarted.
        **{(kind, name, where): 1 for name in dead for kind, where in (("reachable", None), ("restarted", port))},
    }
    # Meanwhile Redis handed out again the tasks that the lost worker had not confirmed, which did no harm.
    assert site.received(lost) & site.received(left)
