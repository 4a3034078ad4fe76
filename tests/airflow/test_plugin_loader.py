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
    # Without a method: the default, which is the first, as in Python 3.14.
    [
        ("airflow scheduler", "LocalExecutor", "forkserver fork", False),
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
    default, _, chosen = (method or "fork fork").partition(" ")
    monkeypatch.setattr(preload.multiprocessing, "get_start_method", lambda allow_none: None if chosen else default)
    monkeypatch.setattr(preload.multiprocessing, "get_all_start_methods", lambda: [default, "spawn"])
    assert preload.forks_tasks(command.split()) is expected


LOAD = """
import json, multiprocessing, os, sys, threading
# As it is by default up to Python 3.13.
multiprocessing.set_start_method("fork")
# What every process of Airflow has imported anyway: once, for all of those that are forked from here.
import airflow.jobs.scheduler_job_runner, airflow.sdk.execution_time.supervisor, airflow.settings
from airflow import plugins_manager
from airflow.dag_processing.dagbag import DagBag

def sockets():
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    return sorted(link for link in links if link.startswith("socket:") or link.endswith(".db"))

def load(command, plugins, dags, then):
    sys.argv = command.split()
    sys.path.insert(0, plugins)
    airflow.settings.PLUGINS_FOLDER = plugins
    before, open_before = set(sys.modules), sockets()
    plugins_manager.ensure_plugins_loaded()
    loaded = sorted(set(sys.modules) - before)
    threads = threading.active_count(), len(os.listdir("/proc/self/task"))
    opened = sorted(set(sockets()) - set(open_before))
    exec(then)
    before = set(sys.modules)
    bag = DagBag(dags, safe_mode=False)
    return {
        "loaded": loaded, "threads": threads, "opened": opened, "plugins": [p.name for p in plugins_manager._get_plugins()[0]],
        "errors": plugins_manager.get_import_errors(), "parsed": sorted(set(sys.modules) - before), "dags": sorted(bag.dags),
        "validated": sys.modules["portmon.airflow.settings"]._for_dag.cache_info().misses,
    }

def celery(then):
    sys.path.insert(0, then)
    sys.argv = "airflow celery worker --concurrency 16".split()
    from airflow.providers.celery.executors.celery_executor import app
    before = set(sys.modules)
    app.loader.init_worker()
    from portmon.airflow import preload
    assert preload._preloaded
    return {"loaded": sorted(set(sys.modules) - before)}

for name, (function, arguments) in json.load(sys.stdin).items():
    child = os.fork()
    if not child:
        with open(f"{name}.out", "w") as out:
            os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
            result = globals()[function](*arguments)
            with open(f"{name}.json", "w") as file:
                json.dump(result, file)
            sys.stdout.flush(), sys.stderr.flush(), os._exit(0)
    os.waitpid(child, 0)
"""
TASK = """
# As the task runner does in a process that was forked.
from airflow.sdk.execution_time import task_runner
from airflow.sdk.listener import get_listener_manager
task_runner.SUPERVISOR_COMMS = None
get_listener_manager()
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What processes of Airflow have loaded, by their names: all are forked from one that has imported Airflow."""
    folder = tmp_path_factory.mktemp("processes")
    changed = folder / "changed"
    shutil.copytree(PLUGINS, changed, ignore=shutil.ignore_patterns("__pycache__"))
    upgrade = f"open({str(changed / 'portmon' / 'ssh' / 'session.py')!r}, 'a').write('# changed')\n"
    dags = str(PLUGINS.parent / "dags" / "portmon_dag.py")
    commands = {
        "api-server": ("load", ("airflow api-server", str(PLUGINS), dags, "")),
        "dags list": ("load", ("airflow dags list", str(PLUGINS), dags, "")),
        "scheduler": ("load", ("airflow scheduler", str(PLUGINS), dags, TASK)),
        "upgraded": ("load", ("airflow scheduler", str(changed), dags, upgrade + TASK)),
        "celery": ("celery", (str(PLUGINS),)),
    }
    compose = yaml.safe_load((PLUGINS.parent / "docker-compose.yaml").read_text())
    worker = compose["services"]["airflow-worker"]["environment"]
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=folder,
        input=json.dumps(commands),
        env={
            **os.environ,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": worker["AIRFLOW__CELERY__EXTRA_CELERY_CONFIG"],
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for name in commands:
        said, result = (folder / f"{name}.out").read_text(), folder / f"{name}.json"
        assert result.exists(), f"{name}: {said}"
        found[name] = {**json.loads(result.read_text()), "said": said}
        assert found[name].get("plugins", ["portmon"]) == ["portmon"]
        assert found[name].get("errors", {}) == {}
        assert found[name].get("dags", ["portmon"]) == ["portmon"]
    return found


def _own(modules: list[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == "portmon"}


@pytest.mark.parametrize("command", ["api-server", "dags list"])
def test_where_no_tasks_are_forked_the_plugin_is_nearly_nothing(
    processes: dict[str, dict[str, Any]], command: str
) -> None:
    result = processes[command]
    page = {"portmon.web", "portmon.web.links"}
    assert _own(result["loaded"]) == {"portmon", "portmon.airflow", "portmon.airflow.preload"} | page
    assert not {"fastapi", "jinja2", "sqlalchemy", "pydantic"} & set(result["loaded"])
    assert not {"paramiko", "pydantic_core", "yaml"} & set(result["loaded"])
    assert len(result["loaded"]) < 20


def test_the_scheduler_imports_for_its_tasks_and_opens_nothing(processes: dict[str, dict[str, Any]]) -> None:
    """What is open before a fork is shared by every task, and a thread does not survive it."""
    result = processes["scheduler"]
    assert {"paramiko", "portmon.airflow.operators", "portmon.storage.archive", "psycopg2"} <= set(result["loaded"])
    assert not {"pandas", "numpy", "aiohttp", "apprise"} & set(result["loaded"])
    assert result["threads"] == [1, 1]
    assert result["opened"] == []
    # A task has nothing left to import, nor to validate portmon.yaml again.
    assert result["validated"] == 1
    assert _own(result["parsed"]) == set()
    assert len(result["parsed"]) <= 5, result["parsed"]
    assert "modules for the tasks to come" in result["said"]
    assert "Not everything could be prepared" not in result["said"]
    assert "have changed" not in result["said"]


def test_a_celery_worker_imports_for_its_tasks_what_the_compose_file_tells_it(
    processes: dict[str, dict[str, Any]],
) -> None:
    """It loads no plugins: Celery does, before it forks, what its own configuration names."""
    loaded = set(processes["celery"]["loaded"])
    assert {"paramiko", "portmon.airflow.operators", "portmon.storage.archive", "psycopg2"} <= loaded
    assert not {"pandas", "aiohttp", "apprise"} & loaded


def test_a_task_runs_no_old_code(processes: dict[str, dict[str, Any]]) -> None:
    result = processes["upgraded"]
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
    monkeypatch.setattr(preload.multiprocessing, "get_start_method", lambda allow_none: "fork")
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
