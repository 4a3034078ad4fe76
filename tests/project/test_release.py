"""What a release is: a version that the command says, dated changes, and a promise whose each part the matrix runs."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from tools import matrix

from portmon import __version__

ROOT = Path(__file__).parent.parent.parent
CELLS = list(matrix.Matrix(Path()).cells())


def text(path: str) -> str:
    return (ROOT / path).read_text()


def test_the_command_says_its_version_and_does_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-m", "portmon", "--version", "status"], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == (f"portmon {__version__}\n", "", 0)


def test_the_changes_of_the_version_are_dated_and_no_version_is_dated_later() -> None:
    found = re.findall(r"^## \[(.+?)\](.*)$", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert found[0] == ("Unreleased", "")
    dates = [date.fromisoformat(rest.removeprefix(" - ")) for _, rest in found[1:]]
    assert dates == sorted(dates, reverse=True)
    assert __version__ == found[1][0]


def promised() -> list[str]:
    """The Pythons that ``requires-python`` lets in."""
    found = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"$', text("pyproject.toml"), flags=re.MULTILINE)
    assert found is not None
    return [f"3.{minor}" for minor in range(int(found[1]), int(found[2]))]


def test_the_matrix_runs_all_that_is_promised() -> None:
    pythons = [cell.removeprefix("python-") for cell in CELLS if cell.startswith("python-")]
    assert pythons == promised()
    for cell in ("airflow-oldest", "airflow-newest", "airflow-3.2", "sqlite", "postgresql-debian", "postgresql-pypi"):
        assert cell in CELLS


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("Makefile", "Needs Linux, Python {} to {}, "),
        ("README.md", "On Linux with Python {} to {}, git and make"),
        ("README.zh-CN.md", "需要 Linux、Python {} 到 {}、git 和 make"),
        ("requirements.in", "for Python {} to {} on Linux"),
        ("docs/operations.md", "portmon needs Airflow 3.3 or later, Python {} to {}, "),
        ("docs/zh/operations.md", "portmon 需要 Airflow 3.3 或更新版本、Python {} 到 {}，"),
    ],
)
def test_documents_name_the_pythons_that_are_promised(file: str, words: str) -> None:
    assert words.format(promised()[0], promised()[-1]) in text(file)
