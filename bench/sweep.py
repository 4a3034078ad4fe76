"""A run in sweep mode, against the bare loop over the same hosts, a run without a host, and one with dead hosts."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench import bare
from bench.errors import BenchError
from bench.figures import Section
from bench.processes import cpu_seconds, paused, peak_memory
from bench.sizes import Sizes
from bench.stage import MAX_LOGINS, Site, Stage
from portmon import probe

NETSTAT = "netstat -nltp"
UNREACHABLE_AFTER = 2
"""Default of ``states.unreachable_after``."""
SETTLED_AFTER = 2
"""Runs after which the answers of a quiet fleet need not be read any more."""


def measure(stage: Stage, sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """Each round: the bare loop, a run, the bare loop with plain netstat, an empty run, one with dead hosts besides."""
    hosts = sizes.sweep_hosts
    section.sizes |= {
        "hosts": hosts,
        "dead": sizes.dead_hosts,
        "batch_hosts": sizes.batch_hosts,
        "threads": MAX_LOGINS,
        "services": sizes.services,
    }
    fleet = stage.site("fleet", hosts, sweep_above=1, batch_hosts=sizes.batch_hosts)
    empty = stage.site("empty", 0, sweep_above=1, batch_hosts=sizes.batch_hosts)
    partly = stage.site("partly", hosts, dead=sizes.dead_hosts, sweep_above=1, batch_hosts=sizes.batch_hosts)
    tell("baseline runs, which are not measured")
    for site in (*[fleet] * SETTLED_AFTER, empty):
        stage.run_portmon(site)
    # Until they count as unreachable: their cost is measured from then on.
    for _ in range(UNREACHABLE_AFTER):
        stage.run_portmon(partly, clean=False)
    for number in range(sizes.repeat):
        tell(f"round {number + 1} of {sizes.repeat}")
        bare_loop(stage, section, hosts, "bare_probe", probe.command(probe.new_nonce()))
        full = measured_run(stage, fleet, section, "run")
        bare_loop(stage, section, hosts, "bare_netstat", NETSTAT)
        nothing = measured_run(stage, empty, section, "empty")
        section.add("run_cpu_ms_per_host", "ms", (full - nothing) / hosts * 1000)
        measured_run(stage, partly, section, "partly")
    tell("one more run, whose memory is sampled")
    with peak_memory(stage.airflow_roots) as peak:
        time.sleep(2)
        idle = peak.value
        stage.run_portmon(fleet)
    section.add("idle_memory", "MiB", idle)
    section.add("run_memory", "MiB", peak.value)
    section.add("database_bytes", "bytes", stage.database_bytes(fleet))


def bare_loop(stage: Stage, section: Section, hosts: int, name: str, command: str) -> None:
    """The bare loop over the first so many hosts, as figures whose names begin with ``name``."""
    crowd = stage.crowd
    with paused(stage.airflow_pids()):
        logins, served = crowd.logins(), cpu_seconds(crowd.pids())
        found = bare.run(crowd.some(hosts), crowd.user, crowd.key, command, threads=MAX_LOGINS)
        # Sessions end a moment later than their connections.
        time.sleep(0.5)
        made, served = crowd.logins() - logins, cpu_seconds(crowd.pids()) - served
    if made != hosts:
        raise BenchError(f"the bare loop made {made} logins instead of {hosts}")
    section.add(f"{name}_seconds", "s", found.seconds)
    section.add(f"{name}_cpu_ms_per_host", "ms", found.cpu_seconds / hosts * 1000)
    section.add(f"{name}_memory", "MiB", found.memory_mib)
    section.add(f"{name}_server_cpu_ms_per_host", "ms", served / hosts * 1000)
    section.add(f"{name}_answer_bytes", "bytes", found.answer_bytes / hosts)


def measured_run(stage: Stage, site: Site, section: Section, name: str) -> float:
    """One run, as figures whose names begin with ``name``.

    :returns: CPU seconds, those of PostgreSQL as well
    """
    logins = stage.crowd.logins()
    before = stage.rows_written(site)
    run = stage.run_portmon(site)
    if (made := stage.crowd.logins() - logins) != site.alive:
        raise BenchError(f"run {run.run_id} made {made} logins instead of {site.alive}")
    section.add(f"{name}_seconds", "s", run.seconds)
    section.add(f"{name}_cpu_seconds", "s", run.cpu_seconds)
    section.add(f"{name}_database_cpu_seconds", "s", run.database_cpu_seconds)
    section.add(f"{name}_tasks", "tasks", run.ran)
    section.add(f"{name}_xcom_bytes", "bytes", stage.xcom_bytes(run.run_id))
    section.add(f"{name}_rows_written", "rows", stage.rows_written(site) - before)
    if site.alive:
        swept = run.phase("sweep")
        if not swept or run.phase("netstat"):
            raise BenchError(f"run {run.run_id} did not ask every host in its sweep")
        section.add(f"{name}_sweep_seconds", "s", swept)
        section.add(f"{name}_diff_seconds", "s", run.phase("diff_ports"))
    return run.cpu_seconds + run.database_cpu_seconds
