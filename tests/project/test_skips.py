"""What PORTMON_SKIP_NOTHING does to tests that are skipped, and which tests a choice of marks takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPS = """
import pytest

pytestmark = [{mark}]

def test_runs():
    pass

def test_skips():
    pytest.skip("nothing here")

@pytest.mark.skipif(True, reason="nothing there")
def test_is_skipped():
    pass

@pytest.mark.xfail
def test_fails():
    assert False
"""
MATRIX = """
import pytest

def test_fast():
    pass

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full)])
def test_seeds(seed):
    pass
"""


@pytest.mark.parametrize(
    ("value", "chosen", "mark", "told", "found"),
    [
        ("", "not slow", "", "3 passed, 2 skipped, 2 deselected, 1 xfailed", ["test_fast", "test_seeds[1]"]),
        (
            "1",
            "slow and not full",
            "pytest.mark.slow",
            "1 failed, 2 passed, 3 deselected, 1 xfailed, 1 error",
            ["test_slow"],
        ),
    ],
)
def test_nothing_is_skipped_silently_and_only_the_full_run_takes_all(
    tmp_path: Path, value: str, chosen: str, mark: str, told: str, found: list[str]
) -> None:
    (tmp_path / "test_skips.py").write_text(SKIPS.format(mark=mark))
    (tmp_path / "test_matrix.py").write_text(MATRIX)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    done = subprocess.run(
        [*command, "-m", chosen, "-v", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PORTMON_SKIP_NOTHING": value, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    # Without pyproject.toml the marks are unknown, which is a warning each.
    assert told in re.sub(r", \d+ warnings", "", done.stdout), done.stdout + done.stderr
    assert ("skipped, and PORTMON_SKIP_NOTHING is set" in done.stdout) == bool(value)
    assert re.findall(r"test_matrix\.py::(\S+) PASSED", done.stdout) == found, done.stdout
