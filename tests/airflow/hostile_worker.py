"""Runs sweeps and evaluations, each in a process of its own, and says what they cost.

Tasks come as lines of JSON on stdin, and each is answered by one on stdout. A task's process is a fork of this one, as
Airflow's are of one that has imported what they need: its memory counts with all that it shares.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import select
import signal
import sys
import time
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from portmon import timeouts
from portmon.airflow import settings
from portmon.airflow.operators.sweep import SweepOperator
from portmon.config import parse_config
from portmon.model.host import Host, Inventory
from portmon.steps.evaluate import evaluate_run
from portmon.steps.plan import plan_sweep
from portmon.steps.run import Run
from portmon.storage import inventory
from portmon.storage.database import Database


def sweep(task: dict[str, Any]) -> dict[str, Any]:
    """Look at every host, as the task ``sweep`` does."""
    database, config, run = _world(task)
    os.environ["AIRFLOW_CONN_SSH_TEST"] = json.dumps(task["connection"])
    settings.config = lambda: config
    settings.database = lambda **options: Database(task["url"], **options)
    timeouts.SWEEP = timeouts.LOOK + timedelta(seconds=30 + task["seconds"])
    listed = tuple(Host(**host) for host in task["hosts"])
    with database.begin() as conn:
        found = Inventory(listed, source="test")
        digest = inventory.save(conn, found, run_id=run.run_id, fetched_at=datetime.now(UTC), stale=False)
    (item,) = plan_sweep(database, config, run, digest, proxy_of=lambda _: None)
    ti = SimpleNamespace(try_number=1, max_tries=2)
    started = time.monotonic()
    counts = SweepOperator(task_id="sweep", batch=item).execute({"dag_run": run, "ti": ti, "params": {}})
    return {"counts": counts, "digest": digest, "seconds": time.monotonic() - started}


def diff(task: dict[str, Any]) -> dict[str, Any]:
    """Evaluate what was seen, as the task ``diff_ports`` does."""
    database, config, run = _world(task)
    started = time.monotonic()
    counts = evaluate_run(
        database, config, run, task["digest"], planned={}, interval=timedelta(minutes=5), now=datetime.now(UTC)
    )
    return {"counts": counts, "seconds": time.monotonic() - started}


def _world(task: dict[str, Any]) -> tuple[Database, Any, Run]:
    return (
        Database(task["url"]),
        parse_config(json.dumps(task["config"])),
        Run(task["run"], "scheduled", datetime.now(UTC)),
    )


def _memory() -> float:
    """MiB that this process had at most. Not ``ru_maxrss``, which outlives an exec."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def _log_to(path: str) -> None:
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def _child(task: dict[str, Any], out: int) -> None:
    _log_to(task["log"])
    try:
        answer = {"sweep": sweep, "diff": diff}[task["task"]](task)
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:2000], "trace": traceback.format_exc()[-4000:]}
    answer |= {"mebibytes": _memory(), "cpu": resource.getrusage(resource.RUSAGE_SELF).ru_utime}
    with os.fdopen(out, "w") as file:
        file.write(json.dumps(answer))


def main() -> None:
    # What an evaluation imports by itself.
    import pandas  # noqa: F401

    # Airflow writes to stdout as it likes.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        back, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(back)
            try:
                _child(task, out)
            finally:
                os._exit(0)
        os.close(out)
        if select.select([back], [], [], task["patience"])[0]:
            with os.fdopen(back) as file:
                answer = file.read()
        else:
            os.close(back)
            os.kill(pid, signal.SIGKILL)
            answer = json.dumps({"error": f"it did not end within {task['patience']} s"})
        os.waitpid(pid, 0)
        answers.write(answer + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
