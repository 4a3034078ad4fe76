"""How often a healthy ``netstat`` task asks Airflow's API server, and how much it is told.

An answer costs both sides some 5 ms of CPU; with hundreds of tasks in a run that is what the run costs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.api_calls import ApiCalls, Call, kinds
from tests.e2e.lab import missing
from tests.e2e.site import LiveSite
from tests.postgres import Cluster

pytestmark = pytest.mark.slow

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
        # For what is expected and for the record.
        "GET connections/portmon_db": 1,
    }
)
"""Of a host that is known. A request less is welcome; another one needs a reason."""

NAMES = ["web1", "web2"]


class Site(LiveSite):
    """Its connections are in Airflow's database, where each use of them is a request."""

    def __init__(self, folder: Path, cluster: Cluster, calls: ApiCalls) -> None:
        super().__init__(folder, cluster, NAMES, alerts={}, connections={}, env=calls.env)
        self.stored = {
            name: self.airflow.env.pop(f"AIRFLOW_CONN_{name.upper()}") for name in ("portmon_db", "ssh_default")
        }

    def start(self) -> None:
        self.airflow.start()
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

    def _add(self, name: str, **fields: object) -> None:
        self.airflow.call("POST", "connections", {"connection_id": name, **fields})


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Sequence[Sequence[Call]]]:
    """The requests of each ``netstat`` task of a second run."""
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with ApiCalls() as calls:
        site = Site(tmp_path_factory.mktemp("calls"), postgres_cluster, calls)
        try:
            calls.watch(site.airflow)
            site.start()
            site.run()
            by_task = calls.by_task(site.airflow.tasks(site.run()))
            yield [by_task["netstat", index] for index in range(len(NAMES))]
        finally:
            site.close()


def test_a_healthy_look_asks_the_api_server_no_more_than_it_must(looks: Sequence[Sequence[Call]]) -> None:
    for calls in looks:
        assert calls, "nothing was recorded"
        assert kinds(calls) - NETSTAT == Counter(), [call.path for call in calls]
        assert {call.status for call in calls} <= {200, 201, 204}


def test_what_it_says_and_hears_is_small(looks: Sequence[Sequence[Call]]) -> None:
    """But for the list that it is mapped over: Airflow hands all of it to each of its tasks."""
    for calls in looks:
        listed = [call for call in calls if "/plan_hosts/" in call.what]
        assert sum(call.received for call in listed) <= 150 * len(NAMES) + 100
        assert all(call.sent < 500 and call.received < 1000 for call in calls if call not in listed)
