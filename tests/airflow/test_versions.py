"""Which Airflow is refused, and how."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from portmon.airflow import installation, settings
from portmon.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("version", "old"),
    [("2.11.2", True), ("3.2.2", True), ("3.3.0rc1", False), ("3.3.0", False), ("3.3.2", False), ("4.0.0", False)],
)
def test_which_versions_are_too_old(version: str, old: bool) -> None:
    assert installation.is_old(version) == old


def test_the_dag_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.for_dag()
    monkeypatch.setattr(installation, "airflow_version", lambda: "3.2.2")
    with pytest.raises(ConfigError, match=r"needs Airflow 3\.3\.0 or later, and this is 3\.2\.2: upgrade Airflow"):
        settings.for_dag()


def test_the_package_asks_for_the_same() -> None:
    (wanted,) = re.findall(r'"apache-airflow>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
    assert tuple(map(int, wanted.split("."))) == installation.MIN_AIRFLOW
