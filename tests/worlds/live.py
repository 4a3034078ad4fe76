"""A live Airflow that watches hosts of the lab: what the tests against one have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from demo.airflow_env import EmbeddedAirflow
from demo.cmdb import Cmdb
from portmon.storage import events
from portmon.storage.database import Database
from tests.worlds.databases import airflow_metadata
from tests.worlds.lab import Lab
from tests.worlds.postgres import Cluster

NASTY = "{{ conn.x.password }} {{"
SECRET = "neverShowThisPassword"
"""Password of the connection ``x``."""


def collected(server: HTTPServer, path: str) -> list[dict[str, Any]]:
    """Documents that are posted to a server, as they come."""
    found: list[dict[str, Any]] = []

    def take(request: Request) -> Response:
        found.append(request.get_json())
        return Response("ok")

    server.expect_request(path, method="POST").respond_with_handler(take)
    return found


class LiveSite:
    """Hosts with a service each, their CMDB, and Airflow, which is not started yet.

    :param names: of the hosts
    :param alerts: section of portmon.yaml
    :param connections: more Airflow connections by id
    :param env: more settings of Airflow
    """

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        names: Sequence[str],
        *,
        alerts: Mapping[str, Any],
        connections: Mapping[str, Mapping[str, Any]],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.cmdb = Cmdb()
        self.lab = Lab([f"host{number}" for number in range(len(names))])
        self.hosts = dict(zip(names, self.lab.hosts.values(), strict=True))
        for host in self.hosts.values():
            host.start_service(8080, "nginx: master")
        self.cmdb.entries = [
            {"id": f"id-{number}", "name": name, "address": host.address}
            for number, (name, host) in enumerate(self.hosts.items())
        ]
        config = folder / "portmon.yaml"
        config.write_text(yaml.safe_dump(_config(alerts)))
        state = cluster.new_database()
        self.database = Database(state, keep_open=True)
        given = {
            "cmdb_default": {
                "conn_type": "http",
                "host": f"http://127.0.0.1:{self.cmdb.port}",
                "extra": {"Authorization": f"Bearer {self.cmdb.token}"},
            },
            "ssh_default": {"conn_type": "ssh", "login": self.lab.user, "extra": {"key_file": str(self.lab.key)}},
            "x": {"conn_type": "http", "host": "nowhere", "password": SECRET},
            **connections,
        }
        self.airflow = EmbeddedAirflow(
            folder / "airflow",
            config=config,
            database=airflow_metadata(cluster),
            connections={"portmon_db": state, **{name: json.dumps(value) for name, value in given.items()}},
            env=env,
        )

    def run(self, *, expected: str = "success", **params: Any) -> str:
        run_id = self.airflow.trigger(**params)
        assert self.airflow.wait_run(run_id) == expected, self.airflow.tasks(run_id)
        return run_id

    def events(self, run_id: str) -> list[tuple[str, str | None, int | None]]:
        with self.database.begin() as conn:
            return [(event.kind.value, event.host_name, event.port) for event in events.recent(conn, run_id=run_id)]

    def look(self, run_id: str, name: str) -> dict[str, Any]:
        """The mapped task of one host."""
        (task,) = (one for one in self.airflow.tasks(run_id) if one["rendered_map_index"] == name)
        return task

    def logs(self, run_id: str) -> dict[str, str]:
        """Task id (of a mapped one with its index): log of its last try, as far as it has one."""
        return {
            f"{task['task_id']} {task['map_index']}": self.airflow.log(
                run_id, task["task_id"], map_index=task["map_index"], try_number=task["try_number"]
            )
            for task in self.airflow.tasks(run_id)
            if task["state"] in ("success", "failed") and task["operator_name"] != "EmptyOperator"
        }

    def close(self) -> None:
        self.airflow.stop()
        self.lab.close()
        self.cmdb.close()


def _config(alerts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cmdb": {
            "source": {
                "type": "http",
                "endpoint": "api/servers/",
                "items": "results",
                "total": "count",
                "pagination": {"style": "next_link"},
            }
        },
        "ssh": {"connect_timeout": "6s", "max_logins": 4},
        "scan": {"confirm_after": "1s"},
        # Services die and come back many times in these tests, and none of them is watched for a day.
        "states": {"unreachable_after": 1, "flap_threshold": 1000, "mature_after": "1s"},
        "alerts": dict(alerts),
    }
