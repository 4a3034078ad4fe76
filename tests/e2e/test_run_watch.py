"""A live Airflow whose runs fail and hang: what is told of them, and what others hear of runs: the dead-man's switch,
a DAG that follows, metrics and traces.

No host answers here. One story: each test starts from what the one before left.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from demo.airflow_env import ROOT, EmbeddedAirflow
from tests.worlds.databases import airflow_metadata
from tests.worlds.postgres import Cluster

pytestmark = pytest.mark.slow

INTERVAL = timedelta(seconds=30)
HANGING = 150
"""Hosts: two at a time they keep a sweep busy for longer than the test."""


class Site:
    """Airflow with a triggerer, a list of hosts, and the server that is webhook and dead-man's switch.

    :param refused: a port at which no one listens
    :param silent: a port that accepts connections and never says a word
    """

    def __init__(self, folder: Path, cluster: Cluster, server: HTTPServer, *, refused: int, silent: int) -> None:
        self.hosts = folder / "hosts.csv"
        self.refused, self.silent = refused, silent
        self.told: list[dict[str, Any]] = []
        self.pings: list[str] = []
        server.expect_request("/hook", method="POST").respond_with_handler(self._take)
        self.gauges: dict[str, float] = {}
        self.spans: list[str] = []
        server.expect_request("/v1/metrics", method="POST").respond_with_handler(self._measure)
        server.expect_request("/v1/traces", method="POST").respond_with_handler(self._trace)
        for path in ("/ping", "/ping/start", "/ping/fail"):
            server.expect_request(path, method="POST").respond_with_handler(self._ping)
        self.config = folder / "portmon.yaml"
        settings = {
            "cmdb": {"source": {"type": "file", "path": "hosts.csv"}},
            "ssh": {"connect_timeout": "10s", "max_logins": 2},
            "states": {"unreachable_after": 1},
            "alerts": {
                "channels": [{"type": "webhook", "name": "hook", "conn_id": "receiver", "endpoint": "hook"}],
                "heartbeat": {"conn_id": "receiver", "endpoint": "ping", "signals": True},
            },
        }
        self.config.write_text(yaml.safe_dump(settings))
        receiver = {"conn_type": "http", "host": f"http://localhost:{server.port}"}
        ssh = {"conn_type": "ssh", "login": "none", "password": "none"}
        self.airflow = EmbeddedAirflow(
            folder / "airflow",
            config=self.config,
            database=airflow_metadata(cluster),
            connections={"receiver": json.dumps(receiver), "ssh_default": json.dumps(ssh)},
            env={
                "AIRFLOW__PORTMON__SCHEDULE": f"{INTERVAL.seconds}s",
                "AIRFLOW__CORE__DAGS_FOLDER": str(_dags(folder)),
                "AIRFLOW__METRICS__OTEL_ON": "True",
                "AIRFLOW__TRACES__OTEL_ON": "True",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://localhost:{server.port}",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            },
        )

    def start(self) -> None:
        self.airflow.start_process("triggerer", "--skip-serve-logs")
        self.airflow.start(migrated=True)

    def list_hosts(self, count: int, port: int) -> None:
        rows = [f"h{number},host{number},127.9.0.{number},{port}" for number in range(1, count + 1)]
        self.hosts.write_text("\n".join(["id,name,address,port", *rows, ""]))

    def kinds(self) -> list[str]:
        return [alert["kind"] for message in self.told for alert in message["alerts"]]

    def until_told(self, kind: str, *, seconds: float) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            told = (alert for message in self.told for alert in message["alerts"])
            return next((alert for alert in told if alert["kind"] == kind), None)

        return dict(self.airflow.wait(found, f"a message of {kind}", seconds=seconds))

    def runs(self) -> list[dict[str, Any]]:
        return list(self.airflow.call("GET", "dags/portmon/dagRuns", query={"order_by": "run_after"})["dag_runs"])

    def _take(self, request: Request) -> Response:
        self.told.append(request.get_json())
        return Response()

    def _ping(self, request: Request) -> Response:
        self.pings.append(request.path)
        return Response()

    def _measure(self, request: Request) -> Response:
        sent = ExportMetricsServiceRequest.FromString(_body(request))
        for resource in sent.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.gauge.data_points:
                        self.gauges[metric.name] = point.as_double or float(point.as_int)
        return Response()

    def _trace(self, request: Request) -> Response:
        sent = ExportTraceServiceRequest.FromString(_body(request))
        for resource in sent.resource_spans:
            self.spans += [span.name for scope in resource.scope_spans for span in scope.spans]
        return Response()

    def close(self) -> None:
        self.airflow.stop()


def _dags(folder: Path) -> Path:
    """A folder with portmon's DAG and the example of one that follows it."""
    dags = folder / "dags"
    dags.mkdir()
    for source in ("dags/portmon_dag.py", "contrib/dags/on_port_changes.py"):
        shutil.copy(ROOT / source, dags)
    return dags


def _body(request: Request) -> bytes:
    data = request.get_data()
    return gzip.decompress(data) if request.headers.get("Content-Encoding") == "gzip" else data


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster, make_httpserver: HTTPServer
) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = closed.getsockname()[1]
    with socket.create_server(("0.0.0.0", 0), backlog=HANGING) as silent:
        port = silent.getsockname()[1]
        folder = tmp_path_factory.mktemp("run_watch")
        with closing(Site(folder, postgres_cluster, make_httpserver, refused=refused, silent=port)) as made:
            made.start()
            yield made


def test_a_run_that_fails_before_it_evaluates_anything_is_told(site: Site) -> None:
    alert = site.until_told("run_failed", seconds=180)
    assert "fetch_hosts failed" in alert["reason"]
    assert {"/ping/start", "/ping/fail"} <= set(site.pings)


def test_its_end_is_told_by_the_next_run_that_evaluates(site: Site) -> None:
    site.list_hosts(1, site.refused)
    site.until_told("run_evaluated", seconds=180)
    assert site.kinds().count("run_failed") == 1
    site.airflow.wait(lambda: site.pings[-1] == "/ping", "the sign of a good run", seconds=60)


def test_a_dag_that_follows_runs_after_a_run_that_found_a_change(site: Site) -> None:
    run = site.airflow.wait(
        lambda: site.airflow.call("GET", "dags/on_port_changes/dagRuns", query={"state": "success"})["dag_runs"],
        "a run of the DAG that follows",
        seconds=120,
    )[0]
    path = f"dags/on_port_changes/dagRuns/{quote(run['dag_run_id'])}/taskInstances/report/xcomEntries/return_value"
    (changes, *_) = site.airflow.call("GET", path, query={"deserialize": "true"})["value"]
    assert changes == {"run_id": changes["run_id"], "unreachable": 1}
    (changed,) = (one for one in site.runs() if one["dag_run_id"] == changes["run_id"])
    assert changed["state"] in ("running", "success")
    # The next run finds nothing new.
    site.airflow.wait(lambda: site.pings.count("/ping") > 1, "another good run", seconds=200)
    followed = site.airflow.call("GET", "dags/on_port_changes/dagRuns")["total_entries"]
    assert followed == 1


def test_metrics_and_traces_of_airflow_have_the_run(site: Site) -> None:
    names = {"hosts_asked", "hosts_without_evidence", "login_seconds", "diff_seconds", "open_alerts", "undelivered"}
    wanted = {f"airflow.portmon.{name}" for name in names}
    site.airflow.wait(lambda: wanted <= site.gauges.keys(), "the metrics", seconds=60)
    gauges = {name: site.gauges[f"airflow.portmon.{name}"] for name in names}
    assert (gauges["hosts_asked"], gauges["hosts_without_evidence"]) == (1, 1)
    assert gauges["open_alerts"] >= 1
    phases = {f"portmon.{name}" for name in ("fetch", "prune", "look", "evaluate", "dispatch", "send")}
    site.airflow.wait(lambda: phases <= set(site.spans), "the spans", seconds=60)


def test_a_run_that_hangs_is_told_while_it_does(site: Site) -> None:
    # A busy machine may have had a run that was late.
    kinds = ("run_overdue", "run_in_time")
    site.airflow.wait(lambda: len({site.kinds().count(kind) for kind in kinds}) == 1, "runs in time", seconds=300)
    site.told.clear()
    site.list_hosts(HANGING, site.silent)
    alert = site.until_told("run_overdue", seconds=300)
    (run,) = (one for one in site.runs() if one["state"] == "running")
    assert "no other run begins before it ends. It waits for " in alert["reason"]
    queued = datetime.fromisoformat(run["queued_at"]).astimezone(UTC)
    assert datetime.fromisoformat(alert["at"]) - queued < 3 * INTERVAL


def test_the_deadline_makes_no_version_of_the_dag_at_each_parse(site: Site) -> None:
    assert site.airflow.call("GET", "dags/portmon/dagVersions")["total_entries"] == 1


def test_a_configuration_that_broke_is_told_by_the_settings_of_the_last_run(site: Site) -> None:
    (run,) = (one for one in site.runs() if one["state"] == "running")
    site.config.write_text(site.config.read_text() + "states: {down_after: never}\n")
    site.told.clear()
    site.airflow.call("PATCH", f"dags/portmon/dagRuns/{quote(run['dag_run_id'])}", {"state": "failed"})
    alert = site.until_told("run_failed", seconds=180)
    assert "fetch_hosts failed" in alert["reason"]
    assert re.search(r"portmon\.yaml:\d+: states: is given twice", alert["reason"])
