"""What 100,000 hosts would need, computed from the figures. Pure.

Every number in it is measured, a product of measured numbers, or an assumption that is named as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.figures import Section
from bench.report import count, size
from portmon.scan.batches import MAX_BATCHES

HOSTS = 100_000
INTERVALS = (300, 900)
"""Seconds between two runs."""
LOGIN_SECONDS = 1.0
"""Assumed: a login with its command in a real network. The hosts of the benchmark are on the machine itself."""
USED = 0.5
"""Assumed: the part of a core that one wants to use at most."""
RETENTION_DAYS = 14
"""Default of ``retention.observations``."""
CONTENTS = 2
"""What a host showed last, as it printed it and as it was read."""
DAY = 86_400


@dataclass(frozen=True, slots=True)
class Needs:
    """What a fleet needs with one interval.

    :param cores: for logins, parsing and storing, fully used
    :param logins: per second
    :param at_a_time: logins, if each takes :data:`LOGIN_SECONDS`
    :param sweep_tasks: per run
    :param host_tasks_cores: fully used, if each host had a task of its own
    :param diff_share: of the interval that the diff takes, on one core
    :param diff_memory: bytes
    :param observations: rows after :data:`RETENTION_DAYS`
    :param observations_bytes: with indexes
    :param state_bytes: hosts, ports and what each host shows, with indexes
    :param written_per_day: bytes of PostgreSQL's log
    :param rows_per_day: written
    :param xcom_per_run: bytes
    """

    interval: int
    cores: float
    logins: float
    at_a_time: float
    sweep_tasks: int
    host_tasks_cores: float
    diff_share: float
    diff_memory: float
    observations: float
    observations_bytes: float
    state_bytes: float
    written_per_day: float
    rows_per_day: float
    xcom_per_run: float


def needs(sections: Mapping[str, Section], interval: int, hosts: int = HOSTS) -> Needs:
    """Compute the needs of a fleet.

    :param interval: seconds between two runs
    """
    sweep, tasks, diff = sections["sweep"], sections["tasks"], sections["diff"]
    runs = DAY / interval
    measured = sweep.sizes["hosts"]
    empty_cpu = sweep.median("empty_cpu_seconds") + sweep.median("empty_database_cpu_seconds")
    fleet, fleet_hosts = _largest(diff)
    factor = hosts / fleet_hosts
    in_postgres = diff.sizes["postgres"]
    wal = (diff.median("postgres_quiet_look_wal") + diff.median("postgres_quiet_evaluate_wal")) / in_postgres
    rows = sweep.median("run_rows_written") - sweep.median("empty_rows_written")
    state = (
        diff.median("postgres_hosts_row")
        + diff.sizes["ports"] * diff.median("postgres_ports_row")
        + CONTENTS * diff.median("postgres_contents_row")
    )
    observations = hosts * runs * RETENTION_DAYS
    return Needs(
        interval=interval,
        cores=(hosts * sweep.median("run_cpu_ms_per_host") / 1000 + empty_cpu) / interval,
        logins=hosts / interval,
        at_a_time=hosts / interval * LOGIN_SECONDS,
        sweep_tasks=min(MAX_BATCHES, -(-hosts // sweep.sizes["batch_hosts"])),
        host_tasks_cores=hosts * tasks.median("portmon_cpu_ms_per_host") / 1000 / interval,
        diff_share=diff.median(f"{fleet}_quiet_evaluate_seconds") * factor / interval,
        diff_memory=diff.median(f"{fleet}_quiet_evaluate_memory") * factor * 1024**2,
        observations=observations,
        observations_bytes=observations * diff.median("postgres_observations_row"),
        state_bytes=hosts * state,
        written_per_day=hosts * wal * runs,
        rows_per_day=rows / measured * hosts * runs,
        xcom_per_run=(sweep.median("run_xcom_bytes") - sweep.median("empty_xcom_bytes")) / measured * hosts,
    )


def _largest(diff: Section) -> tuple[str, int]:
    """Name and hosts of the largest fleet in SQLite."""
    names = [name for name in diff.sizes if name.startswith("sqlite")]
    name = max(names, key=lambda one: diff.sizes[one])
    return name, diff.sizes[name]


def as_markdown(sections: Mapping[str, Section]) -> str:
    """The table for docs/benchmarks.md; empty if a section is missing."""
    if not {"sweep", "tasks", "diff"} <= set(sections):
        return "Sections are missing in latest.json: measure all of them."
    found = [needs(sections, interval) for interval in INTERVALS]
    fleet = _largest(sections["diff"])[1]
    per_host = sections["sweep"].median("run_cpu_ms_per_host")
    rows = [
        ("logins per second", [f"{one.logins:,.0f}" for one in found]),
        (f"logins at a time, if each takes {LOGIN_SECONDS:g} s (assumed)", [f"{one.at_a_time:,.0f}" for one in found]),
        (f"cores for the sweep, from {per_host:.3g} ms per host", [f"{one.cores:.1f}" for one in found]),
        (f"the same, used to {USED:.0%} (assumed)", [f"{one.cores / USED:.0f}" for one in found]),
        ("sweep tasks per run", [count(one.sweep_tasks) for one in found]),
        ("tasks per day", [count(one.sweep_tasks * DAY / one.interval) for one in found]),
        ("cores if each host had a task", [f"{one.host_tasks_cores:,.0f}" for one in found]),
        (
            f"part of the interval that the diff takes, measured with {count(fleet)} hosts",
            [f"{one.diff_share:.0%}" for one in found],
        ),
        ("memory of the diff", [size(one.diff_memory) for one in found]),
        ("XComs per run", [size(one.xcom_per_run) for one in found]),
        ("state: hosts, ports, contents", [size(one.state_bytes) for one in found]),
        (f"looks kept for {RETENTION_DAYS} days", [count(one.observations) for one in found]),
        ("their size", [size(one.observations_bytes) for one in found]),
        ("rows written per day while all is quiet", [count(one.rows_per_day) for one in found]),
        ("bytes of PostgreSQL's log per day", [size(one.written_per_day) for one in found]),
    ]
    head = [f"every {one.interval // 60} min" for one in found]
    lines = [f"| {count(HOSTS)} hosts | {' | '.join(head)} |", f"| --- |{' ---: |' * len(found)}"]
    return "\n".join([*lines, *(f"| {label} | {' | '.join(cells)} |" for label, cells in rows)])
