"""One measure of parsing, in a process of its own, see :mod:`bench.parse`.

``python -m bench.parse_worker FILE [preload]`` prints milliseconds of CPU time.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# For its imports, which a task has anyway.
import airflow.sdk.execution_time.task_runner  # noqa: F401
from airflow.dag_processing.dagbag import BundleDagBag


def parsed(file: Path) -> float:
    """Parse a DAG file as a task does.

    :returns: seconds of CPU time
    """
    started = time.process_time()
    bag = BundleDagBag(
        dag_folder=str(file), safe_mode=False, load_op_links=False, bundle_path=file.parent, bundle_name="dags-folder"
    )
    seconds = time.process_time() - started
    if bag.import_errors or len(bag.dags) != 1:
        raise RuntimeError(f"no DAG: {bag.import_errors}")
    return seconds


def main(file: str, preload: str = "") -> int:
    """In a fork, as a task is one; in the second one, after what is only of the first."""
    if preload:
        from portmon.airflow import preload as beforehand

        beforehand.preload()
    code = 0
    for last in (False, True):
        pid = os.fork()
        if pid == 0:
            seconds = parsed(Path(file))
            if last:
                print(seconds * 1000, flush=True)
            os._exit(0)
        code = code or os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
