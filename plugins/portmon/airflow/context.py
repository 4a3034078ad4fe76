"""What Airflow tells a task: which run it belongs to, and what earlier tasks returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portmon.errors import RunError
from portmon.steps.run import Run, run_from


def run_of(dag_run: Any, params: Mapping[str, Any] | None = None) -> Run:
    """The run of a task.

    :param dag_run: Airflow's
    :param params: of the trigger form; None for a task that does not go by them
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
    """What a task of this run returned: without it nothing may be pruned, planned, asked or evaluated.

    :param ti: Airflow's task instance
    :raises RunError: it did not succeed
    """
    result = ti.xcom_pull(task_ids=task_id)
    if result is None:
        raise RunError(f"{task_id} did not succeed: there is nothing to go by. Clear it to go on")
    return result
