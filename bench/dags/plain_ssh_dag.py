"""The peer of portmon's mode with a task per host: what one would write without it, a mapped SSHOperator.

The same hosts, the same limits and retries as portmon's ``netstat`` tasks have; no parsing, no state, no alerts.
"""

from __future__ import annotations

import csv
import os
from datetime import timedelta
from pathlib import Path

from airflow.providers.ssh.operators.ssh import SSHOperator
from airflow.sdk import DAG, task

MAX_LOGINS = int(os.environ["BENCH_MAX_LOGINS"])

with DAG(
    dag_id="plain_ssh",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    max_active_tasks=MAX_LOGINS + 4,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=10), "execution_timeout": timedelta(seconds=90)},
):

    @task
    def list_hosts() -> list[str]:
        """Addresses of all hosts."""
        with Path(os.environ["BENCH_HOSTS"]).open(newline="") as file:
            return [row["address"] for row in csv.DictReader(file)]

    SSHOperator.partial(
        task_id="netstat",
        ssh_conn_id="ssh_plain",
        command="netstat -nltp",
        conn_timeout=10,
        cmd_timeout=20,
        max_active_tis_per_dagrun=MAX_LOGINS,
    ).expand(remote_host=list_hosts())
