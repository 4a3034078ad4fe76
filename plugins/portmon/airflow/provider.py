"""What Airflow's list of providers has of portmon: the options of ``[portmon]`` in airflow.cfg.

Airflow reads it of an installed portmon in every process: nothing is imported here.
"""

from __future__ import annotations

from typing import Any

DAG_FILE = "portmon_dag.py"
BUNDLES = [
    {"name": "dags-folder", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}},
    {"name": "portmon", "classpath": "portmon.airflow.bundle.PortmonDagBundle", "kwargs": {}},
]
"""``[dag_processor] dag_bundle_config_list`` with Airflow's own folder of DAGs and portmon's."""
DEFAULT_SCHEDULE = "*/5 * * * *"
OPTIONS: dict[str, dict[str, Any]] = {
    "schedule": {
        "description": "cron expression, preset (`@hourly`) or duration (`10min`); empty for manual runs only. With a "
        "wrong one the DAG runs every 5 minutes, and its first task fails with the reason",
        "type": "string",
        "default": DEFAULT_SCHEDULE,
        "example": "10min",
    },
    "config": {
        "description": "path of portmon.yaml; empty: `portmon.yaml` in `$AIRFLOW_HOME`, or, if portmon is in a "
        "folder `plugins`, `config/portmon.yaml` beside that",
        "type": "string",
        "default": "",
        "example": "/etc/portmon/portmon.yaml",
    },
    "preload": {
        "description": "a scheduler with the LocalExecutor, and a Celery worker, import what tasks need before they "
        "fork them: without it a task costs about twice as much",
        "type": "boolean",
        "default": "True",
        "example": None,
    },
    "metrics_per_port": {
        "description": "Prometheus gets a series for each host and port as well, see docs/page.md",
        "type": "boolean",
        "default": "False",
        "example": None,
    },
}
"""Name: what Airflow's schema of a provider's options wants, but for the version."""


def get_provider_info() -> dict[str, Any]:
    """What the entry point gives: https://github.com/apache/airflow/blob/3.3.2/airflow-core/src/airflow/provider_info.schema.json"""
    return {
        "package-name": "portmon",
        "name": "portmon",
        "description": "Which service processes died, seen from the listening ports of hosts over SSH.",
        "config": {
            "portmon": {
                "description": "Settings of portmon that are not in portmon.yaml.",
                "options": {name: {"version_added": None, **option} for name, option in OPTIONS.items()},
            }
        },
    }
