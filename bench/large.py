"""A run over ten times as many hosts, against the bare loop over them and a run over fewer: what a host costs stays."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.figures import Section
from bench.processes import peak_memory
from bench.sizes import Sizes
from bench.stage import MAX_LOGINS, Stage
from bench.sweep import SETTLED_AFTER, bare_loop, measured_run
from portmon import probe


def measure(stage: Stage, sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """Each round: the bare loop over all hosts, a run over all, one over some, an empty one."""
    many, few = sizes.large_hosts, sizes.sweep_hosts
    section.sizes |= {
        "hosts": many,
        "few": few,
        "batch_hosts": sizes.batch_hosts,
        "threads": MAX_LOGINS,
        "services": sizes.services,
    }
    large, small, empty = (
        stage.site(f"large-{hosts}", hosts, sweep_above=1, batch_hosts=sizes.batch_hosts) for hosts in (many, few, 0)
    )
    tell("baseline runs, which are not measured")
    for site in (*[large, small] * SETTLED_AFTER, empty):
        stage.run_portmon(site)
    rounds = min(sizes.repeat, sizes.large_repeat)
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        bare_loop(stage, section, many, "bare_probe", probe.command(probe.new_nonce()))
        whole, some = measured_run(stage, large, section, "run"), measured_run(stage, small, section, "few")
        nothing = measured_run(stage, empty, section, "empty")
        section.add("run_cpu_ms_per_host", "ms", (whole - nothing) / many * 1000)
        section.add("few_cpu_ms_per_host", "ms", (some - nothing) / few * 1000)
    tell("one more run, whose memory is sampled")
    with peak_memory(stage.airflow_roots, every=2.0) as peak:
        time.sleep(4)
        section.add("idle_memory", "MiB", peak.value)
        stage.run_portmon(large)
    section.add("run_memory", "MiB", peak.value)
    section.add("database_bytes", "bytes", stage.database_bytes(large))
