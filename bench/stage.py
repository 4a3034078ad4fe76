"""Shared by the measures on a live Airflow: a crowd of hosts, PostgreSQL, and one Airflow with several sites.

A site is a host list, a state database and a portmon.yaml. The DAG of one Airflow works for one site at a time:
before each run :meth:`Stage.select` puts the site's portmon.yaml in place and points the connection ``portmon_db`` at
its database. So runs of different sites can alternate, and a change of the machine's speed meets all of them.
"""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from sqlalchemy import make_url

from bench.crowd import Crowd
from bench.errors import BenchError
from bench.processes import cpu_seconds
from demo.airflow_env import DAG_ID, EmbeddedAirflow
from portmon.storage import runs
from portmon.storage.database import Database
from tests.worlds.postgres import Cluster, for_airflow

ROOT = Path(__file__).resolve().parent.parent
MAX_LOGINS = 16
"""Logins at a time: of the bare loop, of portmon, of the plain DAG, and Ansible's forks."""
PLAIN_DAG = "plain_ssh"
PATIENCE = 3600.0
"""Seconds that a run may take."""


@dataclass(frozen=True, slots=True)
class Site:
    """Hosts that portmon watches.

    :param alive: hosts that answer
    :param dead: hosts that do not
    :param config: its portmon.yaml
    :param database: its state
    """

    name: str
    alive: int
    dead: int
    config: Path
    database: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended well.

    :param seconds: from the run's start to its end, as Airflow says
    :param tasks: its task instances, as the API gives them
    :param cpu_seconds: of all processes of Airflow, from just before the start to just after the end
    :param database_cpu_seconds: of PostgreSQL, which serves Airflow and portmon, in the same time
    """

    run_id: str
    seconds: float
    tasks: tuple[Mapping[str, Any], ...]
    cpu_seconds: float
    database_cpu_seconds: float

    def phase(self, task_id: str) -> float:
        """Seconds from the first start to the last end among the copies of a task; 0 if none ran."""
        ran = [task for task in self.tasks if task["task_id"] == task_id and task["start_date"]]
        if not ran:
            return 0.0
        start = min(_time(task["start_date"]) for task in ran)
        return (max(_time(task["end_date"]) for task in ran) - start).total_seconds()

    @property
    def ran(self) -> int:
        """Task instances that were run, by a process each."""
        return sum(task["state"] == "success" and task["operator"] != "EmptyOperator" for task in self.tasks)


class Stage:
    """Everything that the measures on a live Airflow need, started and ended together.

    :param folder: for all of it
    :param hosts: of the crowd, those that answer
    :param dead: hosts besides that do not
    :param services: sockets that listen on each
    """

    def __init__(self, folder: Path, hosts: int, dead: int, services: int) -> None:
        self.folder = folder
        self.crowd = Crowd(folder / "crowd", hosts, dead=dead, services=services)
        try:
            self.cluster = Cluster(durable=True)
            try:
                self.metadata = self.cluster.new_database()
                self.airflow = self._make_airflow()
                self.airflow.start()
                self._create_connection()
            except BaseException:
                if hasattr(self, "airflow"):
                    self.airflow.stop()
                self.cluster.close()
                raise
        except BaseException:
            self.crowd.close()
            raise

    def close(self) -> None:
        """End everything."""
        self.airflow.stop()
        self.cluster.close()
        self.crowd.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── sites ───────────────────────────────────────────────────────────────────────────────────

    def site(self, name: str, alive: int, *, dead: int = 0, sweep_above: int, batch_hosts: int = 500) -> Site:
        """A new site with the first so many hosts of the crowd."""
        listed = self.folder / f"{name}.csv"
        self.crowd.write_csv(listed, self.crowd.some(alive, dead))
        services = self.crowd.services
        value = {
            "cmdb": {"source": {"type": "file", "path": str(listed)}},
            "ssh": {"max_logins": MAX_LOGINS},
            "scan": {"sweep_above": sweep_above, "batch_hosts": batch_hosts},
            # All other listeners of this machine are every host's as well.
            "rules": [{"action": "allow", "port": f"{services[0]}-{services[-1]}"}],
        }
        config = self.folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(value))
        return Site(name, alive, dead, config, self.cluster.new_database())

    def select(self, site: Site) -> None:
        """From now on the DAG works for this site."""
        staged = self.folder / "portmon.yaml.new"
        staged.write_bytes(site.config.read_bytes())
        staged.replace(self.folder / "portmon.yaml")
        url = make_url(site.database)
        body = {"connection_id": "portmon_db", "conn_type": "postgres", "schema": url.database}
        self.airflow.call("PATCH", "connections/portmon_db", body, query={"update_mask": "schema"})

    # ── runs ────────────────────────────────────────────────────────────────────────────────────

    def run_portmon(self, site: Site, *, clean: bool = True) -> Run:
        """One run for a site, which asked every host.

        :param clean: no task failed: dead hosts have one, and a red one, only as long as they are news
        :raises BenchError: if it did not: then it measures something else
        """
        self.select(site)
        run = self.run(DAG_ID, clean=clean)
        database = Database(site.database)
        with database.begin() as conn:
            (last,) = runs.last(conn, 1)
        database.dispose()
        summary = last["summary"]
        listed = site.alive + site.dead
        if last["run_id"] != run.run_id or summary["scanned"] != listed or summary["not_scanned"]:
            raise BenchError(f"run {run.run_id} of {site.name} asked not all of {listed} hosts: {summary}")
        return run

    def run(self, dag_id: str, *, clean: bool = True) -> Run:
        """Trigger a DAG over the REST API and wait for its end.

        :param clean: every task has to succeed at its first try
        :raises BenchError: if it, or one of its tasks, did not succeed
        """
        before = self._cpu()
        made = self.airflow.call("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": {}})
        run_id = str(made["dag_run_id"])
        path = f"dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}"
        deadline = time.monotonic() + PATIENCE
        # Asked seldom, and without the tasks: the API server is busy with the requests of the tasks.
        while (run := self.airflow.call("GET", path))["state"] not in ("success", "failed"):
            if time.monotonic() > deadline:
                raise BenchError(f"{run_id} of {dag_id} did not end; see the logs in {self.airflow.home}")
            time.sleep(3)
        after = self._cpu()
        tasks = self._tasks(path)
        bad = [task for task in tasks if task["state"] not in ("success", "skipped") or task["try_number"] > 1]
        if run["state"] != "success" or (bad and clean):
            told = ", ".join(f"{task['task_id']}[{task['map_index']}] {task['state']}" for task in bad[:5])
            raise BenchError(f"{run_id} of {dag_id} was no clean run ({told}); see the logs in {self.airflow.home}")
        seconds = (_time(run["end_date"]) - _time(run["start_date"])).total_seconds()
        return Run(run_id, seconds, tuple(tasks), after[0] - before[0], after[1] - before[1])

    def restart_scheduler(self, *, preload: bool) -> None:
        """Between runs.

        :param preload: import beforehand what tasks need, portmon's and the plain DAG's alike
        """
        # In good order: the CPU time of its workers counts for the process that waits for them.
        self.airflow.end("scheduler")
        self.airflow.env["AIRFLOW__PORTMON__PRELOAD"] = str(preload)
        self.airflow.start_process("scheduler", "--skip-serve-logs")

    def airflow_roots(self) -> list[int]:
        """The processes of Airflow that were started here; all others are their descendants."""
        return [process.pid for process in self.airflow.processes.values()]

    def airflow_pids(self) -> list[int]:
        """All processes of Airflow."""
        return self.airflow.pids()

    def list_plain(self, hosts: int) -> None:
        """From now on the plain DAG asks the first so many hosts of the crowd."""
        self.crowd.write_csv(self.folder / "plain.csv", self.crowd.some(hosts))

    def xcom_bytes(self, run_id: str) -> int:
        """Bytes of what the tasks of a run returned, in Airflow's database."""
        return _ask(self.metadata, "SELECT sum(octet_length(value::text)) FROM xcom WHERE run_id = %s", run_id)

    def rows_written(self, site: Site) -> int:
        """Rows that were inserted, updated and deleted in a site's database so far."""
        # Statistics are written when a connection ends, or a second later.
        time.sleep(1)
        return _ask(site.database, "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables")

    def database_bytes(self, site: Site) -> int:
        """Size of a site's database."""
        return _ask(site.database, "SELECT pg_database_size(current_database())")

    def _cpu(self) -> tuple[float, float]:
        return cpu_seconds(self.airflow_roots()), cpu_seconds([self.cluster.pid])

    def _tasks(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.airflow.call("GET", f"{path}/taskInstances", query={"limit": 100, "offset": len(found)})
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    # ── making ──────────────────────────────────────────────────────────────────────────────────

    def _make_airflow(self) -> EmbeddedAirflow:
        dags = self.folder / "dags"
        dags.mkdir()
        for file in (ROOT / "dags" / "portmon_dag.py", ROOT / "bench" / "dags" / "plain_ssh_dag.py"):
            (dags / file.name).symlink_to(file)
        (self.folder / "portmon.yaml").write_text(yaml.safe_dump({"ssh": {"max_logins": MAX_LOGINS}}))
        login = {"conn_type": "ssh", "login": self.crowd.user}
        key = {"key_file": str(self.crowd.key)}
        port = next(host.port for host in self.crowd.hosts if host.kind == "alive")
        return EmbeddedAirflow(
            self.folder / "airflow",
            config=self.folder / "portmon.yaml",
            database=for_airflow(self.metadata),
            connections={
                "ssh_default": json.dumps({**login, "extra": key}),
                # The peer's best case: portmon looks at host keys, and offers no other key than this one.
                "ssh_plain": json.dumps(
                    {**login, "port": port, "extra": {**key, "no_host_key_check": True, "look_for_keys": False}}
                ),
            },
            env={
                "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
                "AIRFLOW__CORE__PARALLELISM": str(MAX_LOGINS),
                "BENCH_MAX_LOGINS": str(MAX_LOGINS),
                "BENCH_HOSTS": str(self.folder / "plain.csv"),
            },
        )

    def _create_connection(self) -> None:
        """The connection ``portmon_db``, in Airflow's database, where it can be changed between two runs."""
        url = make_url(self.metadata)
        body = {
            "connection_id": "portmon_db",
            "conn_type": "postgres",
            "host": url.host,
            "port": url.port,
            "login": url.username,
            "password": url.password,
            "schema": url.database,
        }
        self.airflow.call("POST", "connections", body)


def _ask(url: str, query: str, *values: Any) -> int:
    """The only value of a query, 0 for none."""
    import psycopg2

    connection = psycopg2.connect(url)
    try:
        cursor = connection.cursor()
        cursor.execute(query, values)
        return int(cursor.fetchone()[0] or 0)
    finally:
        connection.close()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def lacking() -> str | None:
    """What this machine lacks for a stage; None if nothing."""
    from bench import crowd
    from tests.worlds import postgres

    return crowd.missing() or postgres.missing()
