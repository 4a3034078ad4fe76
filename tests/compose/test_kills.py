"""Any one service of docker-compose.yaml is killed while a run is under way, and starts again: nothing is lost.

Each time a service on a host died before, which the run, or the one after it, must tell once. The tests' order counts:
each starts from what the one before left.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pytest_httpserver import HTTPServer

from demo.airflow_env import DAG_ID
from demo.fleet import Fleet
from portmon.storage import events
from portmon.storage.database import Database
from tests.worlds.fab import needs_fab
from tests.worlds.live import collected
from tests.worlds.postgres import Cluster, missing
from tests.worlds.stack import AIRFLOW, SERVICES, Stack, watched_by
from tests.worlds.waiting import skip_without, until

pytestmark = [pytest.mark.full, pytest.mark.long, needs_fab]

KILLED = ("postgres", "redis", *AIRFLOW)
# As in docker-compose.yaml a lost task is missed after a minute, and what a lost worker had taken from Redis is handed
# out again after a day; here both take seconds.
SOON = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
}


class Site:
    """The services, the hosts that they watch, and what a webhook heard."""

    def __init__(self, stack: Stack, fleet: Fleet, told: list[dict[str, Any]]) -> None:
        self.stack, self.fleet, self.told = stack, fleet, told
        password = stack.values["PORTMON_DB_PASSWORD"]
        self.database = Database(f"postgresql://portmon:{password}@127.0.0.1:{stack.cluster.port}/portmon")

    def kill(self, name: str) -> None:
        if name == "postgres":
            self.stack.cluster.crash()
        else:
            self.stack.kill(name)

    def start(self, name: str) -> None:
        if name == "postgres":
            self.stack.cluster.start()
        else:
            self.stack.launch(name)

    def has_begun(self, run_id: str) -> bool:
        """A host is being asked, or was."""
        looks = [task["state"] for task in self.stack.tasks(run_id) if task["task_id"] == "netstat"]
        return any(state in ("running", "success") for state in looks)

    def end_of(self, run_id: str) -> str:
        return self.stack.wait_run(run_id, seconds=240)

    def run(self) -> None:
        run_id = self.stack.trigger()
        assert self.end_of(run_id) == "success", self.stack.tasks(run_id)

    def events(self) -> Counter[tuple[str, str | None, int | None]]:
        with self.database.begin() as conn:
            return Counter((event.kind.value, event.host_name, event.port) for event in events.recent(conn))

    def heard(self) -> Counter[tuple[str, str, int]]:
        """What the webhook was told. A message whose answer got lost comes again with the same id: it counts once."""
        documents = {document["id"]: document for document in self.told}.values()
        alerts = (alert for document in documents for alert in document["alerts"])
        return Counter((alert["kind"], alert["host"], alert["port"]) for alert in alerts)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    skip_without(missing() or (None if shutil.which("redis-server") else "redis-server is not installed"))
    home: Path = tmp_path_factory.mktemp("kills")
    with contextlib.ExitStack() as context:
        hook = context.enter_context(HTTPServer())
        # A server of its own: it is killed, and must write as one that survives that.
        cluster = context.enter_context(contextlib.closing(Cluster(durable=True)))
        config = {
            # No service of these tests is watched for a day, and each of them dies and comes back.
            "states": {"mature_after": "1s", "flap_threshold": 1000},
            "alerts": {"channels": [{"type": "webhook", "name": "hook", "conn_id": "hook"}]},
        }
        env = {
            "AIRFLOW_ADMIN_USER": "admin",
            "AIRFLOW_ADMIN_PASSWORD": "of-the-tests",
            "AIRFLOW_CONN_HOOK": f'{{"conn_type": "http", "host": "http://127.0.0.1:{hook.port}/hook"}}',
        }
        stack, fleet = context.enter_context(watched_by(home, cluster, config=config, env=env, local=SOON))
        stack.password = env["AIRFLOW_ADMIN_PASSWORD"]
        stack.start()
        stack.restarts = True
        made = Site(stack, fleet, collected(hook, "/hook"))
        context.callback(made.database.dispose)
        stack.wait(lambda: _unpaused(stack), "the DAG", seconds=180)
        made.run()
        yield made


def _unpaused(stack: Stack) -> bool:
    with contextlib.suppress(Exception):
        stack.call("PATCH", f"dags/{quote(DAG_ID)}", {"is_paused": False})
        return True
    return False


def test_each_service_is_killed() -> None:
    assert {name for name in SERVICES if "profiles" not in SERVICES[name]} == {*KILLED, "airflow-init"}


@pytest.mark.parametrize("name", KILLED)
def test_a_service_is_killed_in_the_middle_of_a_run(site: Site, name: str) -> None:
    number = KILLED.index(name) % 3 + 1
    host, port = site.fleet.hosts[f"host{number}"], 20000 + number
    before, heard = site.events(), site.heard()
    host.kill(port)
    run_id = site.stack.trigger()
    site.stack.wait(lambda: site.has_begun(run_id), "a host that is asked", seconds=120)
    site.kill(name)
    site.start(name)
    # Its tasks may have failed for good; the next run then finds what it missed.
    if site.end_of(run_id) != "success":
        site.run()
    death = ("down", f"host{number}", port)
    assert site.events() - before == {death: 1}
    assert site.heard() - heard == {death: 1}
    # Nothing that it knew is lost: the next run knows what was down, and finds no other change.
    host.start(port, "nginx: master")
    site.run()
    back = ("recovered", f"host{number}", port)
    assert site.events() - before == {death: 1, back: 1}
    assert site.heard() - heard == {death: 1, back: 1}
    if name != "postgres":
        until(lambda: site.stack.healthy(name), "a health check that passes", seconds=240)
