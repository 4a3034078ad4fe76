"""Runs that replay, in a live Airflow on PostgreSQL: 195 runs of a scripted fleet, then five real ones of the same hosts."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_httpserver import HTTPServer
from sqlalchemy import func, select

from portmon.config import load_config
from portmon.model.event_kinds import EventKind
from portmon.replay.archive import evaluate_again, scratch_database
from portmon.storage import alerts, events, replays, tables
from tests.worlds.eventful import derived, eventful, state_of, wipe
from tests.worlds.fleet import FIVE, Fleet
from tests.worlds.lab import missing
from tests.worlds.live import LiveSite, collected
from tests.worlds.postgres import Cluster
from tests.worlds.waiting import skip_without

pytestmark = pytest.mark.slow

NAMES = ["web1", "web2", "db1", "db2", "db3"]
SIMULATED, LIVE = 195, 5


class Site(LiveSite):
    """What the tests of this file play with, in their order.

    :param fleet: the scripted past of its hosts
    """

    def __init__(self, folder: Path, cluster: Cluster, server: HTTPServer) -> None:
        self.messages = collected(server, "/alerts")
        super().__init__(
            folder,
            cluster,
            NAMES,
            alerts={
                "channels": [
                    {"type": "log"},
                    {"type": "webhook", "name": "hook", "conn_id": "hook", "endpoint": "alerts"},
                ]
            },
            connections={"hook": {"conn_type": "http", "host": server.url_for("").rstrip("/")}},
        )
        self.path = folder / "portmon.yaml"
        self.database.migrate()
        # Whole intervals, the last of which is over.
        now = datetime.now(UTC)
        last = now.replace(minute=now.minute // 5 * 5, second=0, microsecond=0) - FIVE
        self.fleet = Fleet(self.database, load_config(self.path), start=last - SIMULATED * FIVE)
        for number, name in enumerate(NAMES):
            machine = self.fleet.add(name, {22: "sshd", 80: "nginx", 443: "nginx"})
            machine.host = dataclasses.replace(machine.host, id=f"id-{number}", address=self.hosts[name].address)

    def change_config(self, **sections: Any) -> None:
        """Another portmon.yaml, from the next task on."""
        self.path.write_text(yaml.safe_dump(yaml.safe_load(self.path.read_text()) | sections))

    def everything(self) -> tuple[Any, list[Any]]:
        """State, and events without the mark."""
        with self.database.begin() as conn:
            return state_of(conn), _unmarked(_derived(conn))

    @property
    def backfilled(self) -> datetime:
        """Begin of two whole hours of one day that were seen."""
        begin = self.fleet.start.replace(minute=0) + timedelta(hours=1)
        return begin + timedelta(hours=1) if begin.hour == 23 else begin

    def by_todays_rules(self) -> tuple[Any, list[Any]]:
        """What a replay of the backfilled time, and of all since, gives aside; before it all stays as it was.

        A replay goes on from the last checkpoint, which is of that day's begin if the scripted past began the day before.
        """
        with scratch_database() as scratch:
            with self.database.begin() as source:
                span = evaluate_again(source, scratch, load_config(self.path), since=self.backfilled)
                before = _unmarked(_derived(source, last=span.after))
            with scratch.begin() as conn:
                return state_of(conn), [*before, *_derived(conn)]

    def looks(self) -> int:
        """How often a host was looked at."""
        with self.database.begin() as conn:
            return int(conn.execute(select(func.count()).select_from(tables.observations)).scalar_one())

    def set_schedule(self, cron: str) -> None:
        """Another schedule, whose times are all past: no run is made by it, but they can be backfilled."""
        self.airflow.env = {**self.airflow.env, "AIRFLOW__PORTMON__SCHEDULE": cron}
        processor = self.airflow.processes.pop("dag-processor")
        processor.terminate()
        processor.wait()
        self.airflow.call("PATCH", "dags/portmon", {"is_paused": True})
        self.airflow.start_process("dag-processor")
        self.airflow.wait(
            lambda: self.airflow.call("GET", "dags/portmon/details")["timetable_summary"], "the schedule", seconds=120
        )

    def backfill(self, begin: datetime, end: datetime, number: int) -> list[dict[str, Any]]:
        """``airflow backfill create``, waited for."""
        # Airflow allows one backfill at a time, and shows its end late.
        self.airflow.wait(self._no_backfill, "the end of the last backfill", seconds=180)
        before = {run["dag_run_id"]: run["end_date"] for run in self._backfill_runs()}
        command = self.airflow.airflow(
            *("backfill", "create", "--dag-id", "portmon", "--reprocess-behavior", "completed"),
            *("--from-date", begin.isoformat(), "--to-date", end.isoformat()),
        )
        done = subprocess.run(command, env=self.airflow.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.airflow.call("PATCH", "dags/portmon", {"is_paused": False})

        def finished() -> list[dict[str, Any]]:
            found = self._backfill_runs()
            new = [run for run in found if run["end_date"] and run["end_date"] != before.get(run["dag_run_id"])]
            return found if len(new) == number and all(run["state"] in ("success", "failed") for run in new) else []

        return list(self.airflow.wait(finished, "the backfill", seconds=900))

    def _no_backfill(self) -> bool:
        found = self.airflow.call("GET", "backfills", query={"dag_id": "portmon"})["backfills"]
        return all(one["completed_at"] for one in found)

    def _backfill_runs(self) -> list[dict[str, Any]]:
        query = {"run_type": "backfill", "limit": 100}
        return list(self.airflow.call("GET", "dags/portmon/dagRuns", query=query)["dag_runs"])


def _derived(conn: Any, last: int = 1 << 30) -> list[Any]:
    """Events of the steps up to the last one."""
    return derived(conn, since=datetime(2000, 1, 1, tzinfo=UTC), until=datetime(2100, 1, 1, tzinfo=UTC), last=last)


def _unmarked(found: Iterable[Any]) -> list[Any]:
    return [dataclasses.replace(event, replayed_by=None) for event in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Site]:
    skip_without(missing())
    folder = tmp_path_factory.mktemp("replay")
    with HTTPServer() as server, closing(Site(folder, postgres_cluster, server)) as made:
        eventful(made.fleet, SIMULATED)
        # From here on the hosts are real.
        for machine in made.fleet.machines.values():
            machine.trouble = None
        made.fleet.listed = set(NAMES)
        made.airflow.start(migrated=True)
        yield made


def test_1_five_live_runs_follow_the_scripted_ones(site: Site) -> None:
    site.run()
    site.hosts["web1"].kill_service(8080)
    site.run()
    site.hosts["web1"].start_service(8080, "nginx: master")
    site.hosts["db1"].cut_off()
    site.run()
    site.hosts["db1"].reconnect()
    site.run()
    run_id = site.run()
    with site.database.begin() as conn:
        steps = conn.execute(
            select(func.count()).select_from(tables.journal).where(tables.journal.c.kind == "evaluate")
        ).scalar_one()
    assert steps == SIMULATED + LIVE
    assert site.look(run_id, "db1")["state"] == "success"
    kinds = {event.kind for event in site.everything()[1]}
    assert {EventKind.DOWN, EventKind.RECOVERED, EventKind.UNREACHABLE, EventKind.REACHABLE} <= kinds


def test_2_an_old_run_that_is_cleared_asks_nobody(site: Site) -> None:
    old = sorted(site.airflow.call("GET", "dags/portmon/dagRuns")["dag_runs"], key=lambda run: run["start_date"])[1]
    run_id = old["dag_run_id"]
    before, looks, told = site.everything(), site.looks(), len(site.messages)
    site.airflow.clear(run_id, ["fetch_hosts"])
    assert site.airflow.wait_run(run_id) == "success"
    assert "No host is asked: this run evaluates again" in site.airflow.log(run_id, "fetch_hosts", try_number=2)
    assert site.looks() == looks
    assert site.everything() == before
    assert len(site.messages) == told
    states = {task["task_id"]: task["state"] for task in site.airflow.tasks(run_id) if task["map_index"] < 0}
    assert {name: states[name] for name in ("prune_inventory", "plan_hosts", "diff_ports")} == {
        "prune_inventory": "skipped",
        "plan_hosts": "skipped",
        "diff_ports": "success",
    }


def test_3_one_host_of_an_old_run_is_not_asked_either(site: Site) -> None:
    runs = sorted(site.airflow.call("GET", "dags/portmon/dagRuns")["dag_runs"], key=lambda run: run["start_date"])
    run_id = runs[0]["dag_run_id"] if len(runs) else ""
    looks = site.looks()
    task = site.look(run_id, "web2")
    site.airflow.clear(run_id, [["netstat", task["map_index"]]])
    assert site.airflow.wait_run(run_id) == "success"
    assert site.look(run_id, "web2")["state"] == "skipped"
    told = site.airflow.log(run_id, "netstat", map_index=task["map_index"], try_number=2).splitlines()
    # A line of its own, for the exception is folded up on Airflow's page.
    assert any(line.startswith(f"Skipped: a later run was evaluated since {run_id} began") for line in told), told
    assert site.looks() == looks
    log = site.airflow.log(run_id, "diff_ports", try_number=2)
    assert "a port can't be looked at in the past" in log


def test_4_what_is_wiped_comes_back_by_a_manual_run(site: Site) -> None:
    before, looks, told = site.everything(), site.looks(), len(site.messages)
    wipe(site.database)
    run_id = site.run(replay_from=site.fleet.start.isoformat())
    assert site.everything() == before
    assert site.looks() == looks
    with site.database.begin() as conn:
        assert {event.replayed_by for event in _derived(conn)} == {run_id}
        assert alerts.opened(conn) == {}
    assert len(site.messages) == told


def test_5_wrong_parameters_are_refused_before_anything_runs(site: Site) -> None:
    before = site.everything()
    for params, told in [
        ({"replay_from": "2099-01-01T00:00:00Z"}, "'replay_from': is still to come"),
        ({"replay_to": "2026-01-01T00:00:00Z"}, "'replay_to': is the end of a time"),
        ({"replay_from": site.fleet.start.isoformat(), "hosts": ["web1"]}, "'hosts': what was seen is evaluated again"),
    ]:
        run_id = site.run(expected="failed", **params)
        assert told in site.airflow.log(run_id, "fetch_hosts")
    assert site.everything() == before


def test_6_a_dry_run_says_what_would_change(site: Site) -> None:
    site.change_config(rules=[{"action": "deny", "port": 443}])
    before = site.everything()
    run_id = site.run(replay_from=site.fleet.start.isoformat(), dry_run=True)
    assert "Dry run: nothing of this was kept" in site.airflow.log(run_id, "diff_ports")
    assert site.everything() == before


def test_7_a_backfill_of_two_hours_evaluates_by_other_rules_once_and_tells_nobody(site: Site) -> None:
    begin = site.backfilled
    end = begin + timedelta(hours=2) - FIVE
    told, looks = len(site.messages), site.looks()
    before = site.everything()
    site.set_schedule(f"*/5 {begin.hour},{begin.hour + 1} {begin.day} {begin.month} *")
    runs = site.backfill(begin, end, 24)
    assert [run["state"] for run in runs] == ["success"] * 24
    assert site.everything() == site.by_todays_rules()
    assert site.everything() != before
    assert site.looks() == looks
    assert len(site.messages) == told
    with site.database.begin() as conn:
        assert replays.marks(conn) == []
        evaluated = conn.execute(
            select(tables.replays.c.done_by).where(tables.replays.c.run_id.startswith("backfill")).distinct()
        ).all()
    # No backfill covers the times before the earliest of them; each time is evaluated once, not 24 times.
    assert len(evaluated) <= 4
    # The same once more: they exist now, are cleared, and have nothing to do.
    site.backfill(begin, begin + FIVE, 2)
    with site.database.begin() as conn:
        latest = conn.execute(
            select(tables.replays.c.run_id, tables.replays.c.summary).order_by(tables.replays.c.done_at.desc()).limit(2)
        ).all()
    assert {row.summary.get("replayed", 0) for row in latest} == {0}
    log = site.airflow.log(latest[0].run_id, "diff_ports", try_number=2)
    assert "everything since then was: nothing to do" in log
    assert site.everything() == site.by_todays_rules()


def test_8_the_next_live_run_goes_on_from_there(site: Site) -> None:
    site.hosts["web2"].kill_service(8080)
    told = len(site.messages)
    run_id = site.run()
    assert ("down", "web2", 8080) in site.events(run_id)
    assert len(site.messages) > told
    with site.database.begin() as conn:
        assert not events.undispatched(conn)
    assert site.everything() == site.by_todays_rules()
