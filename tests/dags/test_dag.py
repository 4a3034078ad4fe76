"""The DAG as policy: it loads, and it is wired like the picture in the README."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAG_FILE = ROOT / "dags" / "portmon_dag.py"

LOAD = """
import json, os, sys
from airflow.dag_processing.dagbag import DagBag

def load():
    bag = DagBag({file!r}, safe_mode=False)
    dag = bag.dags.get("portmon")
    return {{
        "errors": {{str(k): v for k, v in bag.import_errors.items()}},
        "dags": sorted(bag.dags),
        "schedule": str(dag.schedule) if dag else None,
        "catchup": dag and dag.catchup,
        "max_active_runs": dag and dag.max_active_runs,
        "max_active_tasks": dag and dag.max_active_tasks,
        "limit": dag and dag.dagrun_timeout.total_seconds(),
        "doc": dag and dag.doc_md,
        "params": {{k: [dag.params.get_param(k).value, dag.params.get_param(k).schema["description_md"]] for k in dag.params}} if dag else None,
        "tasks": {{t.task_id: {{
            "down": sorted(t.downstream_task_ids), "rule": t.trigger_rule.value, "retries": t.retries,
            "mapped": t.is_mapped, "pool": t.pool, "fields": list(t.template_fields or ()) if t.is_mapped else [],
            "delay": t.retry_delay.total_seconds(),
            "limit": t.execution_timeout.total_seconds() if t.execution_timeout else None,
        }} for t in dag.tasks}} if dag else None,
    }}

for line in sys.stdin:
    env = json.loads(line)
    os.environ.update(env)
    print(json.dumps(load()), flush=True)
    for name in env:
        del os.environ[name]
"""

Load = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """The DAG as a process sees it that holds nothing of another test, with its own settings."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD.format(file=str(DAG_FILE))],
        env={
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home")),
            "PYTHONPATH": str(ROOT / "plugins"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def load(**env: str) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(env) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise AssertionError("the process ended, see its errors above")

    yield load
    process.communicate()


@pytest.fixture(scope="module")
def dag(load: Load) -> dict[str, Any]:
    return load()


def test_it_loads_and_is_the_only_one(dag: dict[str, Any]) -> None:
    assert dag["errors"] == {}
    assert dag["dags"] == ["portmon"]


def test_the_graph_is_the_one_of_the_picture(dag: dict[str, Any]) -> None:
    alerts = ["alert_down", "alert_new", "alert_recovered", "alert_unreachable"]
    assert {name: task["down"] for name, task in dag["tasks"].items()} == {
        "fetch_hosts": ["prune_inventory", "route_alerts"],
        "prune_inventory": ["plan_sweep"],
        "plan_sweep": ["route_alerts", "sweep"],
        "sweep": ["plan_hosts"],
        "plan_hosts": ["netstat", "route_alerts"],
        "netstat": ["diff_ports"],
        "diff_ports": ["route_alerts"],
        "route_alerts": [*alerts, "no_change"],
        **{name: [] for name in [*alerts, "no_change"]},
    }


def test_a_dead_mans_switch_is_pinged_last_and_only_if_nothing_failed(tmp_path: Path, load: Load) -> None:
    config = tmp_path / "portmon.yaml"
    config.write_text("alerts:\n  heartbeat: {conn_id: switch}\n")
    tasks = load(AIRFLOW__PORTMON__CONFIG=str(config))["tasks"]
    ends = {name for name, task in tasks.items() if task["down"] == ["heartbeat"]}
    assert ends == {"alert_down", "alert_new", "alert_recovered", "alert_unreachable", "no_change"}
    # Most of them are skipped in every run; after one that failed, a channel lacks its message.
    assert tasks["heartbeat"]["rule"] == "none_failed_min_one_success"
    assert tasks["heartbeat"]["down"] == []


def test_only_what_must_run_after_failures_does(dag: dict[str, Any]) -> None:
    rules = {name: task["rule"] for name, task in dag["tasks"].items() if task["rule"] != "all_success"}
    assert rules == {
        "plan_sweep": "all_done",
        "plan_hosts": "all_done",
        "diff_ports": "all_done",
        # Not all_success: a run that replays skips both plans.
        "route_alerts": "none_failed_min_one_success",
    }


def test_every_task_is_retried(dag: dict[str, Any]) -> None:
    retries = {name: task["retries"] for name, task in dag["tasks"].items()}
    assert retries.pop("netstat") == 1
    assert set(retries.values()) == {2}
    assert {name: task["delay"] for name, task in dag["tasks"].items() if name.startswith("alert_")} == {
        f"alert_{group}": 15.0 for group in ("new", "down", "recovered", "unreachable")
    }


def test_every_task_ends(dag: dict[str, Any]) -> None:
    """One that hangs would hold back every later run."""
    seconds = {name: task["limit"] for name, task in dag["tasks"].items()}
    assert {name: limit for name, limit in seconds.items() if name.startswith("alert_")} == {
        f"alert_{group}": 300.0 for group in ("new", "down", "recovered", "unreachable")
    }
    assert seconds["netstat"] == 90.0
    assert seconds["sweep"] == 600.0
    others = ("fetch_hosts", "prune_inventory", "plan_sweep", "plan_hosts", "diff_ports", "route_alerts")
    assert {seconds[name] for name in others} == {900.0}


def test_a_run_that_never_ends_does_not_hold_back_the_others_for_ever(dag: dict[str, Any]) -> None:
    from portmon import timeouts

    # The limit leaves time for all tries of a run that visits hosts, even if its tasks ran one after the other …
    tries = {
        name: (task["limit"] + task["delay"]) * (task["retries"] + 1)
        for name, task in dag["tasks"].items()
        if task["limit"]
    }
    assert dag["limit"] > sum(tries.values())
    # … and one that evaluates again.
    around = tries["fetch_hosts"] + tries["route_alerts"] + tries["alert_down"]
    assert dag["limit"] > timeouts.REPLAY.total_seconds() + around
    assert dag["limit"] <= 86400
    assert f"{dag['limit'] / 3600:g} hours" in dag["doc"]
    assert "logical date" in dag["params"]["replay_from"][1]


def test_a_task_that_writes_has_time_to_wait_for_another_writer() -> None:
    from portmon import timeouts
    from portmon.steps.prune import WRITER_TTL, WRITER_WAIT

    assert WRITER_WAIT + WRITER_TTL <= timeouts.STEP
    assert timeouts.HOST_LIST * 2 < timeouts.STEP


def test_no_host_text_is_a_template(dag: dict[str, Any]) -> None:
    mapped = {name: task for name, task in dag["tasks"].items() if task["mapped"]}
    assert set(mapped) == {"sweep", "netstat"}
    for task in mapped.values():
        assert task["fields"] == []
        assert task["pool"] == "default_pool"


def test_it_runs_every_five_minutes_once_at_a_time(dag: dict[str, Any]) -> None:
    assert dag["schedule"] == "*/5 * * * *"
    assert dag["catchup"] is False
    assert dag["max_active_runs"] == 1
    assert dag["max_active_tasks"] > 16
    assert dag["doc"]


def test_the_trigger_form_describes_every_parameter(dag: dict[str, Any]) -> None:
    assert {name: value for name, (value, _) in dag["params"].items()} == {
        "hosts": [],
        "dry_run": False,
        "force_prune": False,
        "replay_from": None,
        "replay_to": None,
        "notify": False,
    }
    assert all(len(description) > 20 for _, description in dag["params"].values())


@pytest.mark.parametrize(
    ("option", "summary"),
    [
        ("", None),
        ("@hourly", "@hourly"),
        ("10min", "0:10:00"),
        ("nonsense", "*/5 * * * *"),
        ("61 * * * *", "*/5 * * * *"),
        ("@once", "@once"),
    ],
)
def test_the_schedule_is_an_option(load: Load, option: str, summary: str | None) -> None:
    dag = load(AIRFLOW__PORTMON__SCHEDULE=option)
    assert dag["errors"] == {}
    assert dag["schedule"] == str(summary)


def test_a_broken_configuration_leaves_the_dag_visible(tmp_path: Path, load: Load) -> None:
    broken = tmp_path / "portmon.yaml"
    broken.write_text("ssh: {max_logins: many}\n")
    dag = load(AIRFLOW__PORTMON__CONFIG=str(broken))
    assert dag["errors"] == {}
    assert dag["dags"] == ["portmon"]
