"""Parsing the DAG file: what it may import, and that every process makes the same DAG of it.

Every task process parses the file before it does anything. Counts instead of seconds: they are the same on
every machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.serialized_objects import DagSerialization

before = set(sys.modules)
hashes = []
for _ in range(2):
    bag = DagBag({file!r}, safe_mode=False)
    assert not bag.import_errors, bag.import_errors
    hashes.append(SerializedDagModel.hash(DagSerialization.to_dict(bag.dags["portmon"])))
print(json.dumps({{"modules": sorted(set(sys.modules) - before), "hashes": hashes}}))
"""

NOT_FOR_PARSING = {
    # Only diff_ports needs pandas; only tasks that write need Alembic and the storage.
    *("pandas", "numpy", "alembic", "portmon.storage", "portmon.api"),
    # The HTTP provider brings aiohttp along: 0.1 s of CPU.
    *("requests", "aiohttp", "airflow.providers.http", "portmon.airflow.cmdb_hook"),
    # portmon.yaml as a whole, which is composed of the rooms: the DAG takes three values of it.
    *("portmon.config", "portmon.inventory", "portmon.alerting", "portmon.engine"),
    # Only for the tasks that ask hosts.
    "portmon.probe",
    # Only for the alert tasks.
    *(
        "apprise",
        "airflow.providers.apprise",
        "airflow.providers.smtp",
        "portmon.airflow.http",
        "portmon.airflow.outside",
    ),
    # Command line, database drivers, archive.
    *("portmon.cli", "psycopg2", "sqlite3.dbapi2", "zstandard", "airflow.providers.postgres"),
}
PORTMON_MODULES = 52
"""Raise it knowingly: each costs every task 0.2 to 5 ms."""
MODULES = 270


def _parse(tmp_path: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARSE.format(file=str(ROOT / "dags" / "portmon_dag.py"))],
        env={
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            # The file's place below it is part of the DAG.
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "PYTHONPATH": str(ROOT / "plugins"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What parsing imports that Airflow has not imported already."""
    return set(_result(_parse(tmp_path_factory.mktemp("parse")))["modules"])


def test_parsing_imports_only_what_the_graph_needs(modules: set[str]) -> None:
    assert {"portmon.airflow.tasks", "portmon.airflow.operators"} <= modules
    assert {name for name in modules if any(f"{name}.".startswith(f"{heavy}.") for heavy in NOT_FOR_PARSING)} == set()
    assert {name for name in modules if name.startswith("portmon.steps.")} == {"portmon.steps.run"}


def test_parsing_does_not_grow_unnoticed(modules: set[str]) -> None:
    assert 20 < len([name for name in modules if name.split(".")[0] == "portmon"]) <= PORTMON_MODULES
    assert len(modules) <= MODULES


@pytest.mark.slow
def test_every_process_makes_the_same_version_of_the_dag(tmp_path: Path) -> None:
    """What differs from parse to parse (a set's order, a clock, an address) would make a new DAG version each time."""
    config = tmp_path / "portmon.yaml"
    config.write_text(
        "scan: {pool: logins}\nssh: {max_logins: 7}\nalerts:\n  heartbeat: {conn_id: switch}\n", encoding="utf-8"
    )
    for env in ({}, {"AIRFLOW__PORTMON__CONFIG": str(config)}):
        results = [_result(one) for one in [_parse(tmp_path, PYTHONHASHSEED=str(seed), **env) for seed in range(5)]]
        assert len({digest for result in results for digest in result["hashes"]}) == 1
