"""A run with a task per host, against a plain mapped SSHOperator over the same hosts in the same Airflow."""

from __future__ import annotations

from collections.abc import Callable

from bench.figures import Section
from bench.sizes import Sizes
from bench.stage import MAX_LOGINS, PLAIN_DAG, Run, Stage

NEVER = 100_000


def measure(stage: Stage, sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """Each round: a run of portmon, a run of the plain DAG."""
    hosts = sizes.task_hosts
    section.sizes |= {"hosts": hosts, "max_logins": MAX_LOGINS}
    site = stage.site("tasks", hosts, sweep_above=NEVER)
    stage.list_plain(hosts)
    tell("first runs, which are not measured")
    stage.run_portmon(site)
    stage.run(PLAIN_DAG)
    for number in range(sizes.repeat):
        tell(f"round {number + 1} of {sizes.repeat}")
        _note(section, "portmon", stage.run_portmon(site), hosts)
        _note(section, "plain", stage.run(PLAIN_DAG), hosts)


def _note(section: Section, name: str, run: Run, hosts: int) -> None:
    section.add(f"{name}_seconds", "s", run.seconds)
    section.add(f"{name}_netstat_seconds", "s", run.phase("netstat"))
    section.add(f"{name}_cpu_seconds", "s", run.cpu_seconds)
    section.add(f"{name}_database_cpu_seconds", "s", run.database_cpu_seconds)
    section.add(f"{name}_cpu_ms_per_host", "ms", (run.cpu_seconds + run.database_cpu_seconds) / hosts * 1000)
