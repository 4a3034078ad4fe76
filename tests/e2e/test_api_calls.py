"""What a quiet run costs Airflow: requests to its API server, rows of its database, files of logs.

An answer of the API server costs both sides some 5 ms of CPU; with hundreds of tasks in a run that is what it costs.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy
import yaml
from tools import docs

from demo.airflow_env import DAG_ID
from tests.airflow.test_operations import documented
from tests.worlds.api_calls import ApiCalls, kinds
from tests.worlds.lab import missing
from tests.worlds.live import LiveSite
from tests.worlds.postgres import Cluster
from tests.worlds.waiting import skip_without

pytestmark = pytest.mark.full

NETSTAT = Counter(
    {
        # Airflow's own, of every task.
        "PATCH task-instances/{id}/run": 1,
        "PUT task-instances/{id}/heartbeat": 1,
        "PATCH task-instances/{id}/state": 1,
        # The host's name, for the list of mapped tasks.
        "PATCH task-instances/{id}/rendered-map-index": 1,
        # The whole list that is mapped over, of which it takes one item.
        "GET xcoms/{dag}/{run}/plan_hosts/return_value": 1,
        "GET connections/ssh_default": 1,
        # For the expected ports and for the observation.
        "GET connections/portmon_db": 1,
    }
)
"""Of a host that is known. A request less is welcome; another one needs a reason."""
SWEEP = Counter(
    {
        "PATCH task-instances/{id}/run": 1,
        "PUT task-instances/{id}/heartbeat": 1,
        "PATCH task-instances/{id}/state": 1,
        "PATCH task-instances/{id}/rendered-map-index": 1,
        "GET xcoms/{dag}/{run}/plan_sweep/return_value": 1,
        # The digest of the run's host list.
        "GET xcoms/{dag}/{run}/fetch_hosts/return_value/slice": 1,
        "GET connections/ssh_default": 1,
        "GET connections/portmon_db": 1,
        # How many hosts answered, for people.
        "POST xcoms/{dag}/{run}/sweep/return_value?map_index": 1,
    }
)
"""However many hosts it asks."""

NAMES = ["web1", "web2"]


class Site(LiveSite):
    """Its connections are in Airflow's database, where each use of them is a request."""

    def __init__(self, folder: Path, cluster: Cluster, calls: ApiCalls) -> None:
        super().__init__(folder, cluster, NAMES, alerts={}, connections={}, env=calls.env)
        self.calls = calls
        self.metadata = sqlalchemy.create_engine(self.airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        self.stored = {
            name: self.airflow.env.pop(f"AIRFLOW_CONN_{name.upper()}") for name in ("portmon_db", "ssh_default")
        }

    def start(self) -> None:
        self.calls.watch(self.airflow)
        self.airflow.start(migrated=True)
        state, ssh = urlsplit(self.stored["portmon_db"]), json.loads(self.stored["ssh_default"])
        self._add(
            "portmon_db",
            conn_type="postgres",
            host=state.hostname,
            port=state.port,
            login=state.username,
            password=state.password,
            schema=state.path[1:],
        )
        self._add("ssh_default", **{**ssh, "extra": json.dumps(ssh["extra"])})

    def configure(self, **scan: object) -> None:
        """Change the section ``scan`` of portmon.yaml."""
        path = Path(self.airflow.env["AIRFLOW__PORTMON__CONFIG"])
        config = yaml.safe_load(path.read_text())
        config["scan"] |= scan
        path.write_text(yaml.safe_dump(config))

    def kept(self) -> dict[str, int]:
        """What Airflow has accumulated so far, as :func:`tools.docs.left_behind` counts it."""
        with self.metadata.connect() as conn:
            rows = {
                name: conn.scalar(sqlalchemy.text(f"SELECT count(*) FROM {name} WHERE dag_id = '{DAG_ID}'"))
                for name in ("task_instance", "xcom", "log")
            }
            # These runs are triggered, which adds a row to the log; scheduled ones are not.
            rows["log"] -= conn.scalar(sqlalchemy.text("SELECT count(*) FROM log WHERE event = 'trigger_dag_run'"))
        files = (self.airflow.home / "logs" / f"dag_id={DAG_ID}").rglob("attempt=*.log")
        return {**rows, "files": sum(1 for _ in files)}

    def run_and_count(self) -> tuple[str, dict[str, int]]:
        """One run, and what it left behind."""
        before = self.kept()
        run_id = self.run()
        # The scheduler may write its last row of the audit log a moment later.
        after = self.kept()
        return run_id, {name: count - before[name] for name, count in after.items()}

    def _add(self, name: str, **fields: object) -> None:
        self.airflow.call("POST", "connections", {"connection_id": name, **fields})

    def close(self) -> None:
        self.metadata.dispose()
        super().close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Site]:
    """Has made its baseline."""
    skip_without(missing())
    folder = tmp_path_factory.mktemp("calls")
    with ApiCalls() as calls, closing(Site(folder, postgres_cluster, calls)) as made:
        made.start()
        made.run()
        yield made


def test_1_a_quiet_run_asks_little_and_leaves_behind_what_is_documented(site: Site) -> None:
    run_id, left = site.run_and_count()
    assert left == docs.left_behind(netstat=len(NAMES))
    by_task = site.calls.by_task(site.airflow.tasks(run_id))
    for index in range(len(NAMES)):
        calls = by_task["netstat", index]
        assert calls, "nothing was recorded"
        assert kinds(calls) - NETSTAT == Counter(), [call.path for call in calls]
        assert {call.status for call in calls} <= {200, 201, 204}
        # Airflow hands the whole list to each of the tasks that are mapped over it.
        listed = [call for call in calls if "/plan_hosts/" in call.what]
        assert sum(call.received for call in listed) <= 150 * len(NAMES) + 100
        assert all(call.sent < 500 and call.received < 1000 for call in calls if call not in listed)


def test_2_so_does_a_sweep(site: Site) -> None:
    site.configure(sweep_above=0, batch_hosts=1)
    run_id, left = site.run_and_count()
    assert left == docs.left_behind(sweep=len(NAMES))
    by_task = site.calls.by_task(site.airflow.tasks(run_id))
    for index in range(len(NAMES)):
        assert kinds(by_task["sweep", index]) - SWEEP == Counter()


def test_3_the_documented_command_deletes_all_of_it(site: Site) -> None:
    with site.metadata.begin() as conn:
        for column in ("dag_run.start_date", "task_instance.start_date", "xcom.timestamp", "log.dttm"):
            table, name = column.split(".")
            conn.execute(sqlalchemy.text(f"UPDATE {table} SET {name} = {name} - interval '20 days'"))
    (command,) = documented("airflow db clean")
    done = subprocess.run(
        site.airflow.airflow(*command[1:]), env=site.airflow.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {name: count for name, count in site.kept().items() if name != "files"} == {
        "task_instance": 0,
        "xcom": 0,
        "log": 0,
    }
    with site.metadata.connect() as conn:
        tables = sqlalchemy.inspect(conn).get_table_names()
    assert not [name for name in tables if name.startswith("_airflow_deleted")]
    # Nothing of it was needed any more.
    site.run()
