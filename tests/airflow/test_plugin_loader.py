"""Airflow's plugin loader executes every .py file that it finds: it must find the registration file alone, and that
one must be cheap, but for the processes that fork tasks: those import for them what they need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

# Not in a test: Airflow sets up logging when it is imported first, and pytest's handler is gone.
from portmon.airflow import preload

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@pytest.mark.parametrize("syntax", ["glob", "regexp"])
def test_the_loader_sees_only_the_registration_file(syntax: str) -> None:
    from airflow._shared.module_loading.file_discovery import find_path_from_directory

    found = {Path(path).relative_to(PLUGINS) for path in find_path_from_directory(PLUGINS, ".airflowignore", syntax)}
    python = {path for path in found if path.suffix == ".py"}
    assert python == {Path("portmon/airflow_plugin.py")}
    assert sum(1 for _ in PLUGINS.rglob("*.py")) > 10, "the folder is not the one that was meant"


@pytest.mark.parametrize(
    ("command", "executor", "method", "expected"),
    [
        ("airflow scheduler", "LocalExecutor", None, True),
        ("airflow scheduler --skip-serve-logs -D", "LocalExecutor", "fork", True),
        ("airflow -v scheduler", "CeleryExecutor,LocalExecutor", None, True),
        # Its workers would import everything themselves.
        ("airflow scheduler", "LocalExecutor", "spawn", False),
        ("airflow scheduler", "CeleryExecutor", None, False),
        ("airflow scheduler", "KubernetesExecutor", None, False),
        ("airflow celery worker -q default", "CeleryExecutor", None, True),
        ("airflow celery flower", "CeleryExecutor", None, False),
        ("airflow api-server", "LocalExecutor", None, False),
        ("airflow dag-processor", "LocalExecutor", None, False),
        ("airflow triggerer", "LocalExecutor", None, False),
        ("airflow dags trigger scheduler", "LocalExecutor", None, False),
        ("airflow", "LocalExecutor", None, False),
    ],
)
def test_only_processes_that_fork_tasks_import_for_them(
    monkeypatch: pytest.MonkeyPatch, command: str, executor: str, method: str | None, expected: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    monkeypatch.setattr(preload.multiprocessing, "get_start_method", lambda allow_none: method)
    assert preload.forks_tasks(command.split()) is expected


LOAD = """
import json, os, sys, threading
sys.argv = {command!r}.split()
import airflow.jobs.scheduler_job_runner, airflow.sdk.execution_time.supervisor
from airflow import plugins_manager

def sockets():
    links = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{{fd}}")]
    return sorted(link for link in links if link.startswith("socket:") or link.endswith(".db"))

before, open_before = set(sys.modules), sockets()
plugins_manager.ensure_plugins_loaded()
loaded = sorted(set(sys.modules) - before)
threads = threading.active_count(), len(os.listdir("/proc/self/task"))
opened = sorted(set(sockets()) - set(open_before))
{then}
from airflow.dag_processing.dagbag import DagBag
before = set(sys.modules)
bag = DagBag({dags!r}, safe_mode=False)
print(json.dumps({{
    "loaded": loaded, "threads": threads, "opened": opened, "plugins": [p.name for p in plugins_manager._get_plugins()[0]],
    "errors": plugins_manager.get_import_errors(), "parsed": sorted(set(sys.modules) - before), "dags": sorted(bag.dags),
    "validated": sys.modules["portmon.config"]._parsed.cache_info().misses,
}}))
"""
TASK = """
# As the task runner does in a process that was forked.
from airflow.sdk.execution_time import task_runner
from airflow.sdk.listener import get_listener_manager
task_runner.SUPERVISOR_COMMS = None
get_listener_manager()
"""


def _env(tmp_path: Path, plugins: Path = PLUGINS) -> dict[str, str]:
    return {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "PYTHONPATH": str(plugins),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    }


def _load(tmp_path: Path, command: str, *, plugins: Path = PLUGINS, then: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            LOAD.format(command=command, then=then, dags=str(PLUGINS.parent / "dags" / "portmon_dag.py")),
        ],
        env=_env(tmp_path, plugins),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["plugins"] == ["portmon"]
    assert result["errors"] == {}
    assert result["dags"] == ["portmon"]
    return {**result, "said": done.stdout + done.stderr}


def _own(modules: list[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == "portmon"}


@pytest.mark.parametrize("command", ["airflow api-server", pytest.param("airflow dags list", marks=pytest.mark.slow)])
def test_where_no_tasks_are_forked_the_plugin_is_nearly_nothing(tmp_path: Path, command: str) -> None:
    result = _load(tmp_path, command)
    assert _own(result["loaded"]) == {"portmon", "portmon.airflow", "portmon.airflow.preload"}
    assert not {"paramiko", "pydantic_core", "yaml"} & set(result["loaded"])
    assert len(result["loaded"]) < 20


def test_the_scheduler_imports_for_its_tasks_and_opens_nothing(tmp_path: Path) -> None:
    """What is open before a fork is shared by every task, and a thread does not survive it."""
    result = _load(tmp_path, "airflow scheduler", then=TASK)
    assert {"paramiko", "portmon.airflow.operators", "portmon.storage.archive", "psycopg2"} <= set(result["loaded"])
    assert not {"pandas", "numpy", "aiohttp", "apprise"} & set(result["loaded"])
    assert result["threads"] == [1, 1]
    assert result["opened"] == []
    # A task has nothing left to import, nor to validate portmon.yaml again.
    assert result["validated"] == 1
    assert _own(result["parsed"]) == set()
    assert len(result["parsed"]) <= 5, result["parsed"]
    assert "modules for the tasks to come" in result["said"]
    assert "less prepared than they could" not in result["said"]
    assert "have changed" not in result["said"]


def test_a_celery_worker_imports_for_its_tasks_what_the_compose_file_tells_it(tmp_path: Path) -> None:
    """It loads no plugins: Celery does, before it forks, what its own configuration names."""
    environment = yaml.safe_load((PLUGINS.parent / "docker-compose.yaml").read_text())["services"]["airflow-worker"]
    name = "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG"
    script = """
import sys
sys.argv = "airflow celery worker --concurrency 16".split()
from airflow.providers.celery.executors.celery_executor import app
before = set(sys.modules)
app.loader.init_worker()
from portmon.airflow import preload
assert preload._preloaded
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**_env(tmp_path), name: environment["environment"][name]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"paramiko", "portmon.airflow.operators", "portmon.storage.archive", "psycopg2"} <= loaded
    assert not {"pandas", "aiohttp", "apprise"} & loaded


def test_a_task_runs_no_old_code(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    shutil.copytree(PLUGINS, plugins, ignore=shutil.ignore_patterns("__pycache__"))
    changed = plugins / "portmon" / "ssh" / "session.py"
    upgrade = f"open({str(changed)!r}, 'a').write('# changed')\n"
    result = _load(tmp_path, "airflow scheduler", plugins=plugins, then=upgrade + TASK)
    assert {"portmon.airflow.operators", "portmon.airflow.tasks", "portmon.ssh.session"} <= _own(result["parsed"])
    assert "have changed" in result["said"]


@pytest.mark.parametrize(("value", "wanted"), [("True", True), ("False", False), ("perhaps", True)])
def test_importing_for_the_tasks_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str, wanted: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__PORTMON__PRELOAD", value)
    loaded: list[bool] = []
    monkeypatch.setattr(preload, "_preloaded", None)
    monkeypatch.setattr(preload, "preload", lambda: loaded.append(True))
    monkeypatch.setattr(preload.sys, "argv", ["airflow", "scheduler"])
    monkeypatch.setitem(preload.sys.modules, "airflow.sdk.execution_time.task_runner", None)
    preload.on_load()
    assert bool(loaded) == wanted
    assert ("must be True or False" in caplog.text) == (value == "perhaps")


def test_an_import_that_fails_fails_in_the_task_and_not_in_the_scheduler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preload, "MODULES", ("portmon.no_such_module", "portmon.timeouts"))
    monkeypatch.setattr(preload, "_preloaded", None)
    preload.preload()
    assert "portmon.no_such_module could not be imported" in caplog.text
