"""A live Airflow on PostgreSQL, hosts in network namespaces with real sshd and real netstat.

One Airflow serves all tests of this file; each starts from what the one before left, so that their order
counts, as it does for operators.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from demo.airflow_env import ROOT
from portmon.storage import archive, hosts
from tests.worlds.lab import Lab, missing
from tests.worlds.live import NASTY, SECRET, LiveSite, collected
from tests.worlds.postgres import Cluster
from tests.worlds.processes import kill_with_descendants
from tests.worlds.waiting import skip_without, until

pytestmark = pytest.mark.slow

NAMES = ["web1", "web2", "db1", NASTY]

DAG_FILE = """
# A DAG of Airflow: it reads only files with these two words.
from datetime import timedelta
from pathlib import Path
from portmon import timeouts

shorter = Path({shorter!r})
if shorter.exists():
    timeouts.RUN = timedelta(seconds=float(shorter.read_text()))
file = Path({file!r})
exec(compile(file.read_text(), file, "exec"))
"""
"""The DAG as it is, but that a file may say another limit of a whole run."""


class Site(LiveSite):
    """Everything that the tests of this file play with."""

    def __init__(self, folder: Path, cluster: Cluster, server: HTTPServer) -> None:
        self.messages = collected(server, "/alerts")
        arguments = {"http_conn_id": "receiver", "endpoint": "alerts", "json": {"title": "$title", "text": "$text"}}
        notifier = "airflow.providers.http.notifications.http.HttpNotifier"
        self.shorter = folder / "shorter"
        dags = folder / "dags"
        dags.mkdir()
        code = DAG_FILE.format(shorter=str(self.shorter), file=str(ROOT / "dags" / "portmon_dag.py"))
        (dags / "portmon_dag.py").write_text(code)
        super().__init__(
            folder,
            cluster,
            NAMES,
            alerts={
                "channels": [
                    {"type": "log"},
                    {"type": "notifier", "name": "receiver", "notifier": notifier, "arguments": arguments},
                ]
            },
            connections={"receiver": {"conn_type": "http", "host": server.url_for("").rstrip("/")}},
            # Tasks of a killed scheduler are missed, and those that waited are handed out anew, after
            # seconds instead of minutes.
            env={
                "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
                "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            },
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Site]:
    skip_without(missing())
    folder = tmp_path_factory.mktemp("live")
    with HTTPServer() as server, closing(Site(folder, postgres_cluster, server)) as made:
        made.airflow.start(migrated=True)
        yield made


def test_1_the_baseline_has_a_named_task_with_a_log_per_host(site: Site) -> None:
    run_id = site.run()
    assert {event[:2] for event in site.events(run_id)} == {("baseline", name) for name in NAMES}
    assert site.messages == []
    task = site.look(run_id, "web1")
    log = site.airflow.log(run_id, "netstat", map_index=task["map_index"])
    assert "Logged in after" in log
    assert "8080" in log
    assert "nginx: master" in log
    assert site.look(run_id, NASTY)["state"] == "success"
    # Airflow's page of the task leads to portmon's page of the host, without an XCom of the task.
    path = f"dags/portmon/dagRuns/{run_id}/taskInstances/netstat"
    links = site.airflow.call("GET", f"{path}/links", query={"map_index": task["map_index"]})["extra_links"]
    assert links == {"portmon": f"{site.airflow.url}/portmon/port?host=web1"}
    xcoms = site.airflow.call("GET", f"{path}/xcomEntries", query={"map_index": task["map_index"]})["xcom_entries"]
    assert xcoms == []


def test_2_a_killed_process_is_one_event_and_one_alert(site: Site) -> None:
    site.hosts["web1"].kill_service(8080)
    run_id = site.run()
    assert site.events(run_id) == [("down", "web1", 8080)]
    assert [message["title"] for message in site.messages] == ["[portmon] 1 port down on web1: tcp/8080 nginx: master"]
    assert site.events(site.run()) == []
    assert len(site.messages) == 1


def test_3_clearing_one_host_and_what_follows_evaluates_it_anew(site: Site) -> None:
    run_id = site.run()
    site.hosts["web1"].start_service(8080, "nginx: master")
    site.airflow.clear(run_id, [["netstat", site.look(run_id, "web1")["map_index"]]])
    assert site.airflow.wait_run(run_id) == "success"
    assert site.look(run_id, "web1")["try_number"] == 2
    assert site.look(run_id, "web2")["try_number"] == 1
    assert site.events(run_id) == [("recovered", "web1", 8080)]
    assert len(site.messages) == 2


def test_4_a_host_that_is_cut_off_is_red_and_none_of_its_ports_is_down(site: Site) -> None:
    site.hosts["db1"].cut_off()
    site.hosts["web2"].kill_service(8080)
    run_id = site.run()
    assert sorted(site.events(run_id)) == [("down", "web2", 8080), ("unreachable", "db1", None)]
    task = site.look(run_id, "db1")
    assert (task["state"], task["try_number"]) == ("failed", 2)
    assert "no evidence about any port" in site.airflow.log(
        run_id, "netstat", map_index=task["map_index"], try_number=2
    )
    site.hosts["db1"].reconnect()
    site.hosts["web2"].start_service(8080, "nginx: master")
    assert sorted(site.events(site.run())) == [("reachable", "db1", None), ("recovered", "web2", 8080)]


def test_5_braces_go_through_scan_diff_and_every_channel_unrendered(site: Site) -> None:
    host = site.hosts[NASTY]
    host.start_service(9000, "{{ conn.x.passwor")
    before = len(site.messages)
    run_id = site.run()
    host.kill_service(9000)
    again = site.run()
    assert site.events(run_id) == [("new", NASTY, 9000)]
    assert site.events(again) == [("down", NASTY, 9000)]
    texts = json.dumps(site.messages[before:])
    assert NASTY in texts
    assert SECRET not in texts
    assert SECRET not in "".join(site.logs(again).values())


def test_6_a_cmdb_that_fails_deletes_nothing_and_monitoring_goes_on(site: Site) -> None:
    site.cmdb.failing = 500
    site.hosts["web1"].kill_service(8080)
    run_id = site.run()
    assert site.events(run_id) == [("down", "web1", 8080)]
    site.cmdb.failing = None
    entries, site.cmdb.entries = site.cmdb.entries, []
    site.hosts["web1"].start_service(8080, "nginx: master")
    assert site.events(site.run()) == [("recovered", "web1", 8080)]
    site.cmdb.entries = entries
    assert site.events(site.run()) == []
    with site.database.begin() as conn:
        assert len([host for host in hosts.known(conn) if host.removed_at is None]) == len(NAMES)


def test_7_a_run_for_some_hosts_and_a_dry_run(site: Site) -> None:
    site.hosts["web1"].kill_service(8080)
    site.hosts["web2"].kill_service(8080)
    before = len(site.messages)
    dry = site.run(dry_run=True)
    assert site.events(dry) == []
    assert "'web1' tcp/8080" in site.airflow.log(dry, "diff_ports")
    with site.database.begin() as conn:
        assert archive.scanned(conn, dry) == set()
    assert len(site.messages) == before
    scoped = site.run(hosts=["web1"])
    assert site.events(scoped) == [("down", "web1", 8080)]
    assert site.events(site.run()) == [("down", "web2", 8080)]
    wrong = site.run(expected="failed", hosts=["absent*"])
    assert "'absent*': no host of the CMDB" in site.airflow.log(wrong, "fetch_hosts")
    for name in ("web1", "web2"):
        site.hosts[name].start_service(8080, "nginx: master")
    site.run()


def test_8_scheduler_and_workers_killed_in_the_middle_of_a_run(site: Site) -> None:
    site.hosts["web1"].kill_service(8080)
    before = len(site.messages)
    # One host hangs, so that the run is in the middle for a while.
    site.hosts["db1"].cut_off()
    run_id = site.airflow.trigger()

    def scanning() -> bool:
        return any(task["task_id"] == "netstat" and task["state"] == "success" for task in site.airflow.tasks(run_id))

    site.airflow.wait(scanning, "the first looks", seconds=120)
    scheduler = site.airflow.processes.pop("scheduler")
    # The scheduler's own group: itself and its workers; their tasks are found by parentage.
    kill_with_descendants(scheduler.pid)
    scheduler.wait()
    site.hosts["db1"].reconnect()
    site.airflow.start_process("scheduler")
    assert site.airflow.wait_run(run_id, seconds=600) == "success"
    # Whatever became of the killed visit, the next run has observed every host.
    later = site.run()
    found = site.events(run_id) + site.events(later)
    assert [event for event in found if event[0] == "down"] == [("down", "web1", 8080)]
    downs = [message for message in site.messages[before:] if "port down" in message["title"]]
    assert len(downs) == 1


@pytest.mark.full
def test_9_the_process_of_one_look_killed_in_the_middle(site: Site) -> None:
    before = len(site.messages)
    for name in ("web2", "db1"):
        site.hosts[name].kill_service(8080)
    site.hosts["db1"].hang()
    run_id = site.airflow.trigger()
    looking = site.airflow.wait(
        lambda: site.hosts["db1"].connected(site.airflow.pids()), "a task that is connected to db1", seconds=120
    )
    os.kill(looking, signal.SIGKILL)
    site.hosts["db1"].go_on()
    assert site.airflow.wait_run(run_id) == "success"
    look = site.look(run_id, "db1")
    # Airflow gives it its other try, unless it can't; a host that no try reached is red and not evaluated.
    assert (look["state"], look["try_number"]) == ("success", 2) or look["state"] == "failed", look
    assert {site.look(run_id, name)["state"] for name in NAMES if name != "db1"} == {"success"}
    with site.database.begin() as conn:
        assert set(NAMES) - {"db1"} <= {
            host.name for host in hosts.known(conn) if host.id in archive.scanned(conn, run_id)
        }
    assert ("down", "web2", 8080) in site.events(run_id)
    later = site.run()
    assert site.look(later, "db1")["state"] == "success"
    assert sorted(site.events(run_id) + site.events(later)) == [("down", "db1", 8080), ("down", "web2", 8080)]
    downs = [message for message in site.messages[before:] if "down" in message["title"]]
    for name in ("web2", "db1"):
        assert len([message for message in downs if name in message["text"]]) == 1, downs
    assert len(site.messages) - before == len(downs)


def test_10_a_run_with_a_future_logical_date_does_not_stop_the_watch(site: Site) -> None:
    """Airflow starts none of its tasks before that date, and no other run beside it."""
    airflow = site.airflow

    def limit() -> str:
        return str(airflow.call("GET", "dags/portmon/details")["dag_run_timeout"])

    assert limit() == "PT12H"
    # A whole run of these hosts takes less.
    site.shorter.write_text("60")
    airflow.wait(lambda: limit() == "PT1M", "the shorter limit", seconds=120)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    mistaken = airflow.call("POST", "dags/portmon/dagRuns", {"logical_date": tomorrow, "conf": {}})["dag_run_id"]
    airflow.wait(lambda: airflow.run_state(mistaken) == "running", "the start of the mistaken run", seconds=60)
    right = airflow.trigger()
    seen = set()

    def told() -> bool:
        seen.add((airflow.run_state(mistaken), airflow.run_state(right)))
        return any(task["task_id"] == "fetch_hosts" and task["state"] == "success" for task in airflow.tasks(right))

    airflow.wait(told, "a task of the run that was held back", seconds=300)
    assert ("running", "queued") in seen
    assert ("running", "running") not in seen
    assert airflow.run_state(mistaken) == "failed"
    assert {task["state"] for task in airflow.tasks(mistaken)} == {"skipped"}
    assert {task["start_date"] for task in airflow.tasks(mistaken)} == {None}
    site.shorter.unlink()


def test_nothing_of_the_lab_is_left_behind() -> None:
    skip_without(missing())
    made = Lab(["a"])
    made.hosts["a"].start_service(8080)
    made.close()
    netns = made.hosts["a"].netns
    until(
        lambda: netns not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout,
        what="the namespace",
    )
    assert not made.folder.exists()
