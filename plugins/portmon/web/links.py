"""Links from Airflow's task page to portmon's.

They are computed when a person looks at a task. A link on the operator class would push an XCom for each mapped task.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink


def _named(module: str, name: str) -> type:
    """A class that Airflow takes for an operator: it compares names, and the operators' modules are heavy to import.

    https://github.com/apache/airflow/blob/3.3.2/airflow-core/src/airflow/serialization/serialized_objects.py
    """
    return type(name, (), {"__module__": module})


class HostPage(BaseOperatorLink):  # type: ignore[misc]
    """From the task of a host to the host's page, from a batch to the runs."""

    name = "portmon"
    operators: ClassVar = [
        _named("portmon.airflow.operators.netstat", "NetstatOperator"),
        _named("portmon.airflow.operators.sweep", "SweepOperator"),
    ]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address."""
        from portmon.airflow import settings

        page = f"{settings.base_url()}/portmon"
        if ti_key.task_id != "netstat":
            return f"{page}/runs"
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        own = {"dag_id": ti_key.dag_id, "run_id": ti_key.run_id, "task_id": ti_key.task_id}
        with create_session() as session:
            found = session.query(TaskInstance).filter_by(**own, map_index=ti_key.map_index).one_or_none()
            name = found.rendered_map_index if found is not None else None
        return f"{page}/port?host={quote(name, safe='')}" if name else f"{page}/hosts"
