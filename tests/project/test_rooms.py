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


def test_the_contracts_hold() -> None:
    done = contracts(PLUGINS)
    assert done.returncode == 0, done.stdout + done.stderr


STRAYS = {
    "probe/stray": "import portmon.storage.archive\n",
    "steps/stray": "import airflow.sdk\n",
    "engine/stray": "def later():\n    from portmon.alerting import routes\n",
    "model/stray": "import portmon.api\n",
    "stray": "import portmon.airflow.tasks\n",
}
"""Modules that import upward, sideways, or from where only the rim may; the last one is in no room."""


def test_a_module_fails_that_imports_upward_or_is_in_no_room(tmp_path: Path) -> None:
    shutil.copytree(PLUGINS / "portmon", tmp_path / "portmon", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in STRAYS.items():
        (tmp_path / "portmon" / f"{name}.py").write_text(text)
    done = contracts(tmp_path)
    assert done.returncode != 0
    for name in STRAYS:
        assert f"portmon.{name.replace('/', '.')}" in done.stdout, done.stdout
    _, found, roomless = done.stdout.partition("not listed as layers")
    assert found
    assert "stray" in roomless.partition("exhaustive")[0]


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


# ── what imports bring along ────────────────────────────────────────────────────────────────────

EVIDENCE = ("portmon.probe", "portmon.probe.frame", "portmon.probe.compare", "portmon.ssh.connect")
SHARED = (
    "portmon.text",
    "portmon.engine.events",
    *(f"portmon.model.{path.stem}" for path in (PLUGINS / "portmon" / "model").glob("[a-z]*.py")),
)
TASKS = (
    *(f"portmon.steps.{name}" for name in ("fetch", "prune", "plan", "dispatch", "deliver", "overdue")),
    *("portmon.scan.host", "portmon.scan.answer", "portmon.storage.archive"),
)


@pytest.fixture(scope="module")
def loaded() -> list[set[str]]:
    """Every module that a process has once it has imported EVIDENCE, then SHARED too, then TASKS too."""
    code = "".join(f"import sys, {', '.join(modules)}; print(*sys.modules)\n" for modules in (EVIDENCE, SHARED, TASKS))
    done = subprocess.run([sys.executable, "-c", code], cwd=PLUGINS, capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_evidence_loads_neither_templates_nor_settings_of_others(loaded: list[set[str]]) -> None:
    """A task process that asks hosts starts many times an hour, and a forced command's check once per login."""
    modules = loaded[0]
    assert not {"jinja2", "pandas", "sqlalchemy", "airflow"} & modules
    rooms = {name.split(".")[1] for name in modules if name.startswith("portmon.")}
    assert rooms <= {"probe", "ssh", "errors", "fields", "matching", "model", "text", "timeouts", "untrusted"}
    assert not {name for name in modules if name.startswith("portmon.") and name.endswith(".config")}


def test_what_every_room_may_use_loads_neither_templates_nor_models(loaded: list[set[str]]) -> None:
    assert not {"jinja2", "markupsafe", "pydantic", "pandas"} & loaded[1]


def test_what_does_not_evaluate_loads_no_pandas(loaded: list[set[str]]) -> None:
    """Each is a process of its own, many times an hour."""
    assert "pandas" not in loaded[2]


def test_the_command_line_loads_what_a_command_needs() -> None:
    """``parse`` works where neither Airflow nor pandas is installed."""
    code = (
        "import sys; from portmon.cli import app; app(['parse', '--help'], standalone_mode=False); "
        "sys.exit(bool({'airflow', 'pandas', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PLUGINS, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
