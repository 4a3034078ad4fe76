"""What the DAG file costs a task, which parses it before it does anything: portmon's and that of the plain DAG.

CPU time in a fork of a process that has imported what Airflow's task runner imports; and in a fork of one that has
imported beforehand what portmon lets the scheduler import.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.figures import Section
from bench.sizes import Sizes
from bench.workers import ROOT, answer
from demo.airflow_env import inherited

FILES = {"portmon": ROOT / "dags" / "portmon_dag.py", "plain": ROOT / "bench" / "dags" / "plain_ssh_dag.py"}


def measure(sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """Each round: both files, in both kinds of process."""
    with tempfile.TemporaryDirectory(prefix="portmon-bench-") as home:
        for number in range(sizes.repeat):
            tell(f"round {number + 1} of {sizes.repeat}")
            for name, file in FILES.items():
                for prefix, preload in (("", True), ("cold_", False)):
                    section.add(f"{prefix}{name}_parse_ms", "ms", _parse(home, file, preload=preload))


def _parse(home: str, file: Path, *, preload: bool) -> float:
    env = {
        **inherited(),
        "PYTHONPATH": f"{ROOT / 'plugins'}{os.pathsep}{ROOT}",
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__DAGS_FOLDER": str(file.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "BENCH_MAX_LOGINS": "16",
    }
    arguments = [str(file), *(["preload"] if preload else [])]
    return float(answer("bench.parse_worker", *arguments, what=f"parsing {file.name}", env=env))
