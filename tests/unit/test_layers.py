"""Imports point downward only, and the core knows no Airflow: the contracts in pyproject.toml hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_import_contracts() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module", ["pipeline.fetch", "pipeline.prune", "pipeline.plan", "pipeline.deliver", "scan", "storage.archive"]
)
def test_what_does_not_judge_loads_no_pandas(module: str) -> None:
    """Each is a process of its own, many times an hour."""
    code = f"import sys, portmon.{module}; sys.exit('pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "plugins", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_loads_what_a_command_needs() -> None:
    """``parse`` works where neither Airflow nor pandas is installed."""
    code = (
        "import sys; from portmon.cli import app; app(['parse', '--help'], standalone_mode=False); "
        "sys.exit(bool({'airflow', 'pandas', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "plugins", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
