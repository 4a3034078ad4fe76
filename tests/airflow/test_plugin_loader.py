"""Airflow's plugin loader executes every .py file that it finds: it must find none of the package's modules."""

from __future__ import annotations

from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@pytest.mark.parametrize("syntax", ["glob", "regexp"])
def test_the_loader_sees_only_the_registration_file(syntax: str) -> None:
    from airflow._shared.module_loading.file_discovery import find_path_from_directory

    found = {Path(path).relative_to(PLUGINS) for path in find_path_from_directory(PLUGINS, ".airflowignore", syntax)}
    python = {path for path in found if path.suffix == ".py"}
    assert python <= {Path("portmon/airflow_plugin.py")}
    assert sum(1 for _ in PLUGINS.rglob("*.py")) > 10, "the folder is not the one that was meant"
