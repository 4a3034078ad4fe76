"""The rooms of the package: imports point downward only, only the rim knows Airflow, and no room brings another along."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"


def contracts(plugins: Path) -> subprocess.CompletedProcess[str]:
    """What ``make lint`` says of the imports of a package in some folder."""
    lint = Path(sys.executable).with_name("lint-imports")
    # The console script looks for the package in the current folder first.
    return subprocess.run(
        [lint, "--no-cache", "--config", ROOT / "pyproject.toml"],
        cwd=plugins,
        env={**os.environ, "PYTHONPATH": str(plugins)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms")
    shutil.copytree(PLUGINS / "portmon", folder / "portmon", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_the_contracts_hold() -> None:
    done = contracts(PLUGINS)
    assert done.returncode == 0, done.stdout + done.stderr


STRAYS = {
    "probe": "import portmon.storage.archive\n",
    "steps": "import airflow.sdk\n",
    "engine": "def later():\n    from portmon.alerting import routes\n",
    "model": "import portmon.api\n",
}
"""Modules that import upward, sideways, or from where only the rim may."""


def test_a_module_that_imports_upward_fails(copied: Path) -> None:
    strays = {copied / "portmon" / room / "stray.py": text for room, text in STRAYS.items()}
    for stray, text in strays.items():
        stray.write_text(text)
    try:
        done = contracts(copied)
    finally:
        for stray in strays:
            stray.unlink()
    assert done.returncode != 0
    for room in STRAYS:
        assert f"portmon.{room}.stray" in done.stdout, done.stdout


def test_a_module_in_no_room_fails(copied: Path) -> None:
    stray = copied / "portmon" / "stray.py"
    stray.write_text("import airflow.sdk\nimport portmon.airflow.tasks\n")
    try:
        done = contracts(copied)
    finally:
        stray.unlink()
    assert done.returncode != 0
    assert "stray" in done.stdout, done.stdout


def twice_named(package: Path) -> dict[str, list[str]]:
    """Names that several classes of a package have, and the files of these classes."""
    files = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                files[node.name].append(str(path.relative_to(package)))
    return {name: found for name, found in files.items() if len(found) > 1}


def test_no_two_classes_have_one_name() -> None:
    assert twice_named(PLUGINS / "portmon") == {}


def test_a_class_name_that_occurs_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "one.py").write_text("class View: ...\nclass Host: ...\n")
    (tmp_path / "room" / "two.py").write_text("def inner():\n    class View: ...\n")
    assert twice_named(tmp_path) == {"View": ["one.py", "room/two.py"]}


def loaded(*modules: str) -> set[str]:
    """Every module that a process has when it has imported some."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=PLUGINS, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_evidence_loads_neither_templates_nor_settings_of_others() -> None:
    """A task process that asks hosts starts many times an hour, and a forced command's check once per login."""
    modules = loaded("portmon.probe", "portmon.probe.frame", "portmon.probe.compare", "portmon.ssh.connect")
    assert not {"jinja2", "pandas", "sqlalchemy", "airflow"} & modules
    rooms = {name.split(".")[1] for name in modules if name.startswith("portmon.")}
    assert rooms <= {"probe", "ssh", "errors", "fields", "matching", "model", "text", "timeouts", "untrusted"}
    assert not {name for name in modules if name.startswith("portmon.") and name.endswith(".config")}


def test_what_every_room_may_use_loads_neither_templates_nor_models() -> None:
    names = [f"portmon.model.{path.stem}" for path in (PLUGINS / "portmon" / "model").glob("[a-z]*.py")]
    assert not {"jinja2", "markupsafe", "pydantic", "pandas"} & loaded("portmon.text", "portmon.engine.events", *names)


def test_what_does_not_evaluate_loads_no_pandas() -> None:
    """Each is a process of its own, many times an hour."""
    steps = [f"portmon.steps.{name}" for name in ("fetch", "prune", "plan", "dispatch", "deliver", "overdue")]
    assert "pandas" not in loaded(*steps, "portmon.scan.host", "portmon.scan.answer", "portmon.storage.archive")


def test_the_command_line_loads_what_a_command_needs() -> None:
    """``parse`` works where neither Airflow nor pandas is installed."""
    code = (
        "import sys; from portmon.cli import app; app(['parse', '--help'], standalone_mode=False); "
        "sys.exit(bool({'airflow', 'pandas', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PLUGINS, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
