"""An installed portmon: the wheel, Airflow's two settings, and the commands of the first hour, with a real host.

``doctor`` is shown one broken installation after the other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.airflow_env import ROOT, EmbeddedAirflow, migrate_airflow
from portmon.airflow.provider import BUNDLES
from tests.worlds import lab
from tests.worlds.fab import FAB, create_admin, needs_fab
from tests.worlds.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.long]

if (why := lab.missing()) is not None:
    pytest.skip(why, allow_module_level=True)


class Newcomer:
    """A user with an Airflow, who installs portmon as a package and has one server.

    :param folder: their home
    :param fab: users of Airflow are those of the FAB auth manager; default: of its simple one
    """

    def __init__(self, folder: Path, *, fab: bool = False) -> None:
        self.folder = folder
        self.package = folder / "package"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(_source(folder))]
        subprocess.run(wheel, check=True)
        (built,) = folder.glob("portmon-*.whl")
        subprocess.run([*pip, "install", "--no-deps", "--target", str(self.package), str(built)], check=True)
        self.lab = lab.Lab(["web1"])
        (self.host,) = self.lab.hosts.values()
        self.host.start_service(8080, "nginx: master")
        home = folder / "airflow"
        for name in ("dags", "plugins"):
            (home / name).mkdir(parents=True)
        self.airflow = EmbeddedAirflow(
            home,
            config=Path(),
            connections={},
            env={
                "PYTHONPATH": str(self.package),
                "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
                "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(BUNDLES),
                **(FAB if fab else {}),
            },
        )
        del self.airflow.env["AIRFLOW__PORTMON__CONFIG"]

    def run(self, *arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """A command of portmon."""
        done = subprocess.run(
            [sys.executable, "-m", "portmon", *arguments],
            env={**self.airflow.env, **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def __call__(self, *arguments: str, **more: Any) -> str:
        """What a command prints."""
        return self.run(*arguments, **more).stdout

    def doctor(self, *, code: int = 1, **env: str) -> dict[str, list[dict[str, str]]]:
        """What the doctor finds, by what it is about."""
        found: dict[str, list[dict[str, str]]] = {}
        for one in json.loads(self("doctor", "--format", "json", code=code, **env)):
            found.setdefault(one["about"], []).append(one)
        return found

    def close(self) -> None:
        self.airflow.stop()
        self.lab.close()


def _source(folder: Path) -> Path:
    """What the wheel is built of, apart, since the build leaves files behind."""
    copy = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy)
    for name in ("plugins", "dags", "config"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@contextmanager
def moved_in(folder: Path, *, fab: bool = False) -> Iterator[Newcomer]:
    """A newcomer who did what the README says, up to a started Airflow."""
    made = Newcomer(folder, fab=fab)
    airflow = made.airflow
    try:
        said = made(
            "init",
            *("--key", str(made.lab.key), "--user", made.lab.user),
            *("--hosts", f"web1={made.host.address}"),
        )
        # `sudo` would need a rule of this machine; the lab's login user sees its own services.
        config = airflow.home / "portmon.yaml"
        config.write_text(config.read_text().replace("sudo: true ", "sudo: false "))
        assert "airflow connections import" in said
        migrate_airflow(airflow.env, airflow.home / "migrate.out")
        if fab:
            create_admin(airflow, airflow.password)
        airflow.start(migrated=True)
        imported = airflow.airflow("connections", "import", str(airflow.home / "portmon-connections.json"))
        subprocess.run(imported, env=airflow.env, check=True, capture_output=True)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    with moved_in(tmp_path_factory.mktemp("newcomer")) as made:
        yield made


def test_the_doctor_finds_nothing_wrong(user: Newcomer) -> None:
    found = user.doctor(code=0)
    # The sshd of the lab is root's, and the login user sees programs of its own only.
    bad = {about: ones for about, ones in found.items() if any(one["level"] not in ("ok", "note") for one in ones)}
    assert set(bad) == {"triggerer", "ssh"}
    (nameless,) = (one for one in bad["ssh"] if one["level"] not in ("ok", "note"))
    assert "show no program" in nameless["text"]
    assert "sudo" in nameless["cure"]
    assert found["portmon"][0]["text"].endswith(str(user.package / "portmon"))
    assert found["plugin"][0]["text"].startswith("loaded from portmon")
    assert found["dag"][0]["text"] == f"bundle portmon, {user.package}/portmon/dags/portmon_dag.py"
    assert "web1: " in found["ssh"][0]["text"]


def test_one_host_is_asked_by_hand_and_the_next_run_goes_on_from_there(user: Newcomer) -> None:
    dry = user("scan", "web1", "--dry-run")
    assert "nothing of this was kept" in dry
    said = user("scan", "web1")
    for text in ("Asking web1", "Logged in after", "8080", "nginx", "baseline: 'web1'", "the next run evaluates it"):
        assert text in said
    assert "no host with the name or id 'web2'" in user.run("scan", "web2", code=1).stderr
    run_id = user.airflow.trigger()
    assert user.airflow.wait_run(run_id) == "success"
    log = user.airflow.log(run_id, "fetch_hosts")
    assert f"of {user.package}/portmon, with {user.airflow.home}/portmon.yaml" in log
    assert "portmon-hosts.csv lists 1 host" in log
    assert "baseline" in user("explain", "web1", "8080")


def test_a_mistake_in_the_configuration_is_said_once_and_fails_the_run(user: Newcomer) -> None:
    file = user.airflow.home / "portmon.yaml"
    before = file.read_text()
    file.write_text(before + "statess: {}\n")
    try:
        run_id = user.airflow.trigger()
        assert user.airflow.wait_run(run_id) == "failed"
    finally:
        file.write_text(before)
    states = {task["task_id"]: task["state"] for task in user.airflow.tasks(run_id)}
    red = {name for name, state in states.items() if state == "failed"}
    assert red == {"fetch_hosts"}, states
    assert (states["plan_sweep"], states["plan_hosts"], states["netstat"]) == ("skipped",) * 3
    assert (states["diff_ports"], states["route_alerts"]) == ("skipped", "upstream_failed")
    assert "portmon.yaml:" in user.airflow.log(run_id, "fetch_hosts")
    assert "Clear fetch_hosts to go on" in user.airflow.log(run_id, "diff_ports")


BROKEN: dict[str, tuple[dict[str, str], str, str, str]] = {
    "two portmons": ({"AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins")}, "portmon", "2 times", "pip uninstall"),
    "no bundle": ({"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": "[]"}, "dag", "no bundle", "PortmonDagBundle"),
    "the DAG twice": ({"AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags")}, "dag", "2 times", "all but one"),
    "no configuration": ({"AIRFLOW_HOME": "{empty}"}, "configuration", "there is no", "portmon init"),
    "wrong configuration": ({"AIRFLOW__PORTMON__CONFIG": "{wrong}"}, "configuration", "portmon.yaml:2", ""),
    "wrong schedule": ({"AIRFLOW__PORTMON__SCHEDULE": "now and then"}, "configuration", "[portmon] schedule", ""),
    "no SSH connection": (
        {"AIRFLOW__PORTMON__CONFIG": "{other}"},
        "connections",
        "'ssh_dmz'",
        "connections add ssh_dmz",
    ),
    "no key": (
        {"AIRFLOW_CONN_SSH_DEFAULT": '{"conn_type": "ssh", "extra": {"key_file": "/nowhere/key"}}'},
        "connections",
        "/nowhere/key",
        "each worker needs the file",
    ),
    "no pool": ({"AIRFLOW__PORTMON__CONFIG": "{other}"}, "pool", "no pool 'ports'", "airflow pools set ports"),
    "SQLite for several machines": (
        {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"},
        "database",
        "several machines",
        "PostgreSQL",
    ),
    "another port": ({"AIRFLOW__API__BASE_URL": "http://localhost:1"}, "base url", "listens on", "agree"),
    "no hosts": ({"AIRFLOW__PORTMON__CONFIG": "{other}"}, "hosts", "no host that can be used", "portmon hosts"),
    "a refused login": (
        {"AIRFLOW_CONN_SSH_DEFAULT": '{"conn_type": "ssh", "login": "stranger", "extra": {"key_file": "{key}"}}'},
        "ssh",
        "the server refused user 'stranger'",
        "",
    ),
}


SOME = ("two portmons", "wrong configuration", "no key", "a refused login")


@pytest.mark.parametrize(
    "what", [name if name in SOME else pytest.param(name, marks=pytest.mark.full) for name in BROKEN]
)
def test_the_doctor_finds_what_is_broken_and_names_the_cure(user: Newcomer, tmp_path: Path, what: str) -> None:
    env, about, text, cure = BROKEN[what]
    wrong, other, empty = tmp_path / "wrong" / "portmon.yaml", tmp_path / "other" / "portmon.yaml", tmp_path / "empty"
    for folder in (wrong.parent, other.parent, empty):
        folder.mkdir()
    wrong.write_text("ssh:\n  sudoo: true\n")
    (tmp_path / "hosts.csv").write_text("id,name,address\n")
    other.write_text(
        f"cmdb: {{source: {{type: file, path: {tmp_path}/hosts.csv}}}}\nssh: {{conn_id: ssh_dmz}}\nscan: {{pool: ports}}\n"
    )
    values = {"wrong": str(wrong), "other": str(other), "empty": str(empty), "key": str(user.lab.key)}

    def filled(value: str) -> str:
        for name, given in values.items():
            value = value.replace(f"{{{name}}}", given)
        return value

    found = user.doctor(
        code=0 if what in ("the DAG twice", "another port") else 1,
        **{name: filled(value) for name, value in env.items()},
    )
    bad: list[dict[str, Any]] = [one for one in found[about] if one["level"] in ("warning", "problem")]
    assert any(text in one["text"] and cure in one["text"] + one["cure"] for one in bad), found[about]


def test_a_scheduler_that_is_older_than_the_code_is_found(user: Newcomer) -> None:
    file = user.package / "portmon" / "text.py"
    before = file.stat()
    os.utime(file)
    try:
        (one,) = user.doctor(code=0)["scheduler"]
    finally:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (one["level"], one["cure"]) == ("warning", "restart the scheduler, and Celery's workers")


def test_services_of_airflow_that_run_and_those_that_ended(user: Newcomer) -> None:
    user.airflow.start_process("triggerer", "--skip-serve-logs")
    try:
        until(lambda: user.doctor(code=0)["triggerer"][0]["level"] == "ok", "a triggerer", seconds=180)
    finally:
        user.airflow.end("triggerer")
    (one,) = user.doctor(code=0)["triggerer"]
    assert (one["level"], one["cure"]) == ("warning", "start `airflow triggerer`, or `airflow standalone`")
    assert user.doctor(code=0)["dag processor"][0]["level"] == "ok"
    user.airflow.end("dag-processor")
    try:
        (one,) = user.doctor(code=1)["dag processor"]
    finally:
        user.airflow.start_process("dag-processor")
    assert one["level"] == "problem"
    assert "failed run" in one["text"]


@pytest.mark.full
@needs_fab
def test_the_whole_road_with_the_fab_auth_manager(tmp_path: Path) -> None:
    with moved_in(tmp_path, fab=True) as user:
        found = user.doctor(code=0)
        assert not [one for ones in found.values() for one in ones if one["level"] == "problem"]
        assert found["plugin"][0]["text"].startswith("loaded from portmon")
        assert user.airflow.wait_run(user.airflow.trigger()) == "success"
        user.host.kill_service(8080)
        assert user.airflow.wait_run(user.airflow.trigger()) == "success"
        ports = json.loads(user("ports", "web1", "--format", "json"))
        assert [one["status"] for one in ports if one["port"] == 8080] == ["down"]
        assert '"port": 8080' in json.dumps(user.airflow.call("GET", "problems", api="/portmon/api/v1/"))
