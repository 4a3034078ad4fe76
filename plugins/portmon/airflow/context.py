"""What Airflow tells a task: which run it belongs to, and what earlier tasks returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portmon.errors import RunError
from portmon.steps.run import Run, run_from


def run_of(dag_run: Any, params: Mapping[str, Any] | None = None) -> Run:
    """The run of a task.

    :param params: of the trigger form; None for a task that does not use them
    :raises ParamError: naming the parameter
    """
    return run_from(
        dict(params or {}),
        run_id=dag_run.run_id,
        run_type=str(getattr(dag_run.run_type, "value", dag_run.run_type)),
        logical_date=dag_run.logical_date,
        due=getattr(dag_run, "run_after", None),
    )


def result_of(ti: Any, task_id: str) -> Any:
    """What a task of this run returned.

    :raises RunError: the task did not succeed, so that nothing may be pruned, planned, asked or evaluated
    """
    result = ti.xcom_pull(task_ids=task_id)
    if result is None:
        raise RunError(f"{task_id} did not succeed, and this task needs its result. Clear it to go on")
    return result
