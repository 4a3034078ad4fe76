"""What PORTMON_SKIP_NOTHING does to tests that are skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest

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


@pytest.mark.parametrize(
    ("value", "told"), [("", "1 passed, 2 skipped, 1 xfailed"), ("1", "1 failed, 1 passed, 1 xfailed, 1 error")]
)
def test_nothing_is_skipped_silently(tmp_path: Path, value: str, told: str) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", tmp_path, file],
        cwd=ROOT,
        env={**os.environ, "PORTMON_SKIP_NOTHING": value, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told in done.stdout, done.stdout + done.stderr
    assert ("nothing here" in done.stdout) == bool(value)


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
    ("chosen", "found"),
    [("not slow", ["test_fast", "test_seeds[1]"]), ("slow and not full", ["test_slow"])],
)
def test_what_only_the_full_run_takes_is_in_no_other(tmp_path: Path, chosen: str, found: list[str]) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(MATRIX)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    done = subprocess.run(
        [*command, "-m", chosen, "--collect-only", "-q", file],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line.split("::")[1] for line in done.stdout.splitlines() if "::" in line] == found, done.stdout
