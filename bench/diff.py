"""The evaluation of a made-up fleet, against pandas alone on the same database: read the ports, merge.

Each step is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from bench.errors import BenchError
from bench.figures import Section
from bench.sizes import Sizes
from bench.workers import answer
from portmon.storage.database import Database
from tests.worlds.postgres import Cluster

TABLES = ("hosts", "ports", "observations")


def measure(sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """Every fleet in SQLite, one of them in PostgreSQL as well."""
    section.sizes |= {"ports": sizes.diff_ports}
    for number, hosts in enumerate(sizes.diff_hosts):
        section.sizes[f"sqlite_{number}"] = hosts
        with tempfile.TemporaryDirectory(prefix="portmon-bench-") as folder:
            _fleet(f"sqlite:///{folder}/portmon.db", f"sqlite_{number}", hosts, sizes, section, tell)
    section.sizes["postgres"] = sizes.diff_hosts_postgres
    cluster = Cluster(durable=True)
    try:
        url = cluster.new_database()
        _fleet(url, "postgres", sizes.diff_hosts_postgres, sizes, section, tell)
        _sizes(url, section)
    finally:
        cluster.close()


def _fleet(url: str, name: str, hosts: int, sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    repeat = sizes.repeats(hosts)

    def one(what: str, **order: Any) -> dict[str, float]:
        return step({"step": what, "url": url, "hosts": hosts, "ports": sizes.diff_ports, **order})

    tell(f"{hosts} hosts in {url.partition(':')[0]}: the baseline")
    baseline = one("build")
    section.add(f"{name}_baseline_seconds", "s", baseline["seconds"])
    section.add(f"{name}_baseline_memory", "MiB", baseline["memory_mib"])
    settle(url)
    number = 0
    for kind in ("quiet", "changed"):
        for round_ in range(1, repeat + 1):
            tell(f"{hosts} hosts in {url.partition(':')[0]}: {kind}, round {round_} of {repeat}")
            number += 1
            changes = round_ if kind == "changed" else 0
            wal = _wal(url)
            one("look", number=number, changes=changes, changed_now=kind == "changed")
            looked = _wal(url)
            evaluated = one("evaluate", number=number)
            if looked is not None and wal is not None:
                section.add(f"{name}_{kind}_look_wal", "bytes", looked - wal)
                section.add(f"{name}_{kind}_evaluate_wal", "bytes", (_wal(url) or 0) - looked)
            merged = one("merge", changes=changes)
            if (kind == "quiet") != (evaluated["events"] == 0):
                raise BenchError(f"a {kind} round of {hosts} hosts had {evaluated['events']:g} events")
            section.add(f"{name}_{kind}_evaluate_seconds", "s", evaluated["seconds"])
            section.add(f"{name}_{kind}_evaluate_memory", "MiB", evaluated["memory_mib"])
            section.add(f"{name}_{kind}_statements", "statements", evaluated["statements"])
            section.add(f"{name}_{kind}_rows_written", "rows", evaluated["rows_written"])
            section.add(f"{name}_{kind}_events", "events", evaluated["events"])
            section.add(f"{name}_{kind}_merge_seconds", "s", merged["seconds"])
            section.add(f"{name}_{kind}_merge_memory", "MiB", merged["memory_mib"])


def step(order: dict[str, Any]) -> dict[str, float]:
    """Do one step in a process of its own."""
    shown = {name: value for name, value in order.items() if name != "url"}
    found: dict[str, float] = answer("bench.diff_worker", json.dumps(order), what=f"step {shown}")
    return found


def settle(url: str) -> None:
    """Let PostgreSQL do at once what it would do in the background of the rounds that follow, of either side."""
    if not url.startswith("sqlite"):
        for what in ("VACUUM ANALYZE", "CHECKPOINT"):
            with Database(url).engine.connect() as conn:
                conn.execution_options(isolation_level="AUTOCOMMIT").execute(text(what))


def _wal(url: str) -> int | None:
    """Bytes that PostgreSQL wrote to its log so far; nothing else uses the server."""
    if url.startswith("sqlite"):
        return None
    return int(_ask(url, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))


def _sizes(url: str, section: Section) -> None:
    """Bytes per row with indexes, as they are after these rounds, and of what a host showed."""
    for table in TABLES:
        size = int(_ask(url, f"SELECT pg_total_relation_size('{table}')"))
        rows = int(_ask(url, f"SELECT count(*) FROM {table}"))  # noqa: S608
        section.add(f"postgres_{table}_row", "bytes", size / rows)
    contents = "SELECT pg_total_relation_size('contents') / (SELECT count(*) FROM contents)::float"
    section.add("postgres_contents_row", "bytes", float(_ask(url, contents)))


def _ask(url: str, query: str) -> Any:
    with Database(url).engine.connect() as conn:
        return conn.execute(text(query)).scalar()
