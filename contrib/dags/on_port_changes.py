"""### What happens after portmon found a change

An example of a DAG that follows portmon: copy it to Airflow's DAGs folder and put your own work in place of `report`,
such as opening a ticket, or asking a CMDB to look again. It runs after each run of `portmon` that found a change, and
not after the others.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, Asset, task

PORTS = Asset("portmon_ports", uri="portmon://ports")

log = logging.getLogger(__name__)

with DAG(dag_id="on_port_changes", doc_md=__doc__, schedule=[PORTS], catchup=False, tags=["ports"]):

    @task
    def report(*, triggering_asset_events: Any) -> list[dict[str, Any]]:
        """Log what each run found. Several runs may have passed since this DAG ran last.

        :returns: per run its id (``run_id``) and a count per kind of event, such as ``down`` or ``new``
        """
        found = [dict(event.extra) for event in triggering_asset_events[PORTS]]
        for changes in found:
            run_id = changes.pop("run_id")
            log.info("Run %s: %s", run_id, ", ".join(f"{kind} {count}" for kind, count in sorted(changes.items())))
            changes["run_id"] = run_id
        return found

    report()
