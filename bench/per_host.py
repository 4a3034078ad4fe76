"""A run with a task per host, against a plain mapped SSHOperator over the same hosts in the same Airflow.

What portmon lets the scheduler import beforehand, the plain DAG's tasks inherit as well. So both are measured a second
time with a scheduler that imports nothing for them, which is how Airflow comes.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.figures import Section
from bench.sizes import Sizes
from bench.stage import MAX_LOGINS, PLAIN_DAG, Run, Site, Stage

NEVER = 100_000


def measure(stage: Stage, sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """Each round: a run of portmon, a run of the plain DAG; the same with a scheduler that imports nothing."""
    hosts = sizes.task_hosts
    section.sizes |= {"hosts": hosts, "max_logins": MAX_LOGINS}
    site = stage.site("tasks", hosts, sweep_above=NEVER)
    # As many tasks at a time as there may be: after a restart the scheduler makes its workers with them.
    few = stage.site("few", min(hosts, MAX_LOGINS), sweep_above=NEVER)
    stage.list_plain(hosts)
    tell("first runs, which are not measured")
    for first in (site, few):
        stage.run_portmon(first)
    stage.run(PLAIN_DAG)
    for number in range(sizes.repeat):
        tell(f"round {number + 1} of {sizes.repeat}")
        _pair(stage, site, section, "")
        stage.restart_scheduler(preload=False)
        stage.run_portmon(few)
        _pair(stage, site, section, "cold_")
        stage.restart_scheduler(preload=True)
        stage.run_portmon(few)


def _pair(stage: Stage, site: Site, section: Section, prefix: str) -> None:
    _note(section, f"{prefix}portmon", stage.run_portmon(site), site.alive)
    _note(section, f"{prefix}plain", stage.run(PLAIN_DAG), site.alive)


def _note(section: Section, name: str, run: Run, hosts: int) -> None:
    section.add(f"{name}_seconds", "s", run.seconds)
    section.add(f"{name}_netstat_seconds", "s", run.phase("netstat"))
    section.add(f"{name}_cpu_seconds", "s", run.cpu_seconds)
    section.add(f"{name}_database_cpu_seconds", "s", run.database_cpu_seconds)
    section.add(f"{name}_cpu_ms_per_host", "ms", (run.cpu_seconds + run.database_cpu_seconds) / hosts * 1000)
