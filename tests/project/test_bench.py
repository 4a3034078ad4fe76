"""The benchmark's arithmetic, its tables, and that docs/benchmarks.md shows the figures of benchmarks/latest.json."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import diff_worker, docs, page, past, report, scale
from bench.__main__ import _names
from bench.figures import Ratio, Section, from_json, to_json
from bench.fleet import Fleet
from bench.processes import cpu_seconds, machine_cpu_seconds, memory_mib
from bench.sizes import FULL, QUICK
from portmon.api import fleet as lists
from portmon.api.problems import list_problems
from portmon.storage import lookups


def latest() -> dict[str, Section]:
    return from_json(json.loads(docs.LATEST.read_text()))


def sample() -> Section:
    section = Section(sizes={"hosts": 1000})
    section.add("run", "s", 30.0, 50.0, 34.0)
    section.add("empty", "s", 10.0, 12.0, 11.0)
    section.add("bare", "s", 20.0, 20.0, 10.0)
    return section


# ── figures ─────────────────────────────────────────────────────────────────────────────────────


def test_the_median_of_an_even_number_of_values_is_between_two() -> None:
    section = Section()
    section.add("a", "s", 1, 10)
    section.add("a", "s", 2, 4)
    assert section.median("a") == 3


def test_a_ratio_is_of_medians_and_its_pairs_are_of_rounds() -> None:
    section = sample()
    assert Ratio("x", "", "run", "bare").of(section) == 34 / 20
    assert Ratio("x", "", "run", "bare").pairs(section) == [1.5, 2.5, 3.4]
    less = Ratio("x", "", "run", "bare", less="empty")
    assert less.of(section) == (34 - 11) / 20
    assert less.pairs(section) == [1.0, 1.9, 2.3]
    assert less.names() == ["run", "bare", "empty"]


def test_figures_come_back_from_json() -> None:
    section = sample()
    section.facts, section.made_at = {"cores": 2}, "2026-01-01T00:00:00+00:00"
    value = json.loads(json.dumps(to_json({"sweep": section})))
    assert value["sweep"]["figures"]["run"] == {"unit": "s", "median": 34, "values": [30, 50, 34]}
    assert from_json(value) == {"sweep": section}


# ── tables ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (12.345, "s", "12.3 s"),
        (0.01234, "s", "0.0123 s"),
        (1234.5, "s", "1,234 s"),
        (3.04, "ms", "3.04 ms"),
        (12_323, "bytes", "12 KiB"),
        (2048, "MiB", "2 GiB"),
        (1_234_567.4, "rows", "1,234,567"),
    ],
)
def test_values_for_people(number: float, unit: str, text: str) -> None:
    assert report.value(number, unit) == text


def test_the_table_has_figures_and_ratios_of_what_was_measured() -> None:
    section = Section(sizes={"hosts": 200, "max_logins": 16})
    for name, values in (("portmon", (60, 62)), ("plain", (30, 31))):
        section.add(f"{name}_netstat_seconds", "s", *values)
    text = report.as_text({"tasks": section})
    assert text.splitlines() == [
        "tasks: 200 hosts, a task each, 16 at a time",
        "  portmon, netstat tasks        61 s  (60 s to 62 s)",
        "  SSHOperator, netstat tasks  30.5 s  (30 s to 31 s)",
        "",
        "ratios (of the medians; of the best and the worst round)",
        "  netstat tasks / SSHOperator's  2.00  (2.00 to 2.00)",
    ]


def test_labels_name_the_sizes_of_their_section() -> None:
    section = Section(sizes={"services": 30, "many": 10_000, "most": 30_000})
    section.add("many_user_new_cpu_ms", "ms", 12)
    section.add("many_user_old_cpu_ms", "ms", 48)
    about, new, old, _, _, ratio = report.as_text({"probe": section}).splitlines()
    assert about.startswith("probe: a host with 30 services, ")
    assert "; 10,000 or 30,000 sockets besides" in about
    assert new.split("  ")[1] == "10,000 sockets, unprivileged, CPU, portmon"
    assert old.split("  ")[1] == "10,000 sockets, unprivileged, CPU, version before"
    assert ratio.startswith("  CPU of the probe / of the version before, 10,000 sockets, unprivileged  0.25 ")


def test_a_machine_that_was_not_quiet_is_mentioned() -> None:
    section = Section(sizes={"hosts": 200, "max_logins": 16}, facts={"others_cpu_percent": 2})
    assert report.about("tasks", section) == "200 hosts, a task each, 16 at a time"
    section.facts["others_cpu_percent"] = 38
    assert report.about("tasks", section) == "200 hosts, a task each, 16 at a time; others used 38 % of the machine"


def test_every_section_of_the_last_measurement_has_its_figures_and_ratios() -> None:
    sections = latest()
    assert list(sections) == [name for name in report.ABOUT if name in sections]
    assert set(report.ABOUT) == set(sections)
    for name, section in sections.items():
        labels = set(report.LABELS.get(name, ()))
        assert labels <= set(section.figures), name
    found = {ratio.label for ratio in report.ratios(sections)}
    assert found >= {ratio.label for ratio in report.RATIOS if ratio.section in sections}
    for fleet, _ in report.fleets(sections["diff"]):
        assert {f"{fleet}_{figure}" for figure in report.DIFF_LABELS} <= set(sections["diff"].figures)


def test_the_page_shows_the_last_measurement() -> None:
    page = docs.PAGE.read_text(encoding="utf-8")
    assert page == docs.written(page, latest()), "run `python -m bench --docs`"


# ── arithmetic ──────────────────────────────────────────────────────────────────────────────────


def measured() -> dict[str, Section]:
    sweep = Section(sizes={"hosts": 1000, "batch_hosts": 250})
    sweep.add("run_cpu_ms_per_host", "ms", 30)
    sweep.add("empty_cpu_seconds", "s", 5)
    sweep.add("empty_database_cpu_seconds", "s", 1)
    for name, run, empty in (("rows_written", 2010, 10), ("xcom_bytes", 100_400, 400)):
        sweep.add(f"run_{name}", "rows", run)
        sweep.add(f"empty_{name}", "rows", empty)
    tasks = Section(sizes={"hosts": 200})
    tasks.add("portmon_cpu_ms_per_host", "ms", 600)
    diff = Section(sizes={"ports": 30, "sqlite_0": 1000, "sqlite_1": 10_000, "postgres": 1000})
    diff.add("sqlite_1_quiet_evaluate_seconds", "s", 6)
    diff.add("sqlite_1_quiet_evaluate_memory", "MiB", 1024)
    diff.add("postgres_quiet_look_wal", "bytes", 200_000)
    diff.add("postgres_quiet_evaluate_wal", "bytes", 100_000)
    for table, size in (("hosts", 500), ("ports", 200), ("observations", 250), ("contents", 1500)):
        diff.add(f"postgres_{table}_row", "bytes", size)
    return {"sweep": sweep, "tasks": tasks, "diff": diff}


def test_what_a_hundred_thousand_hosts_need() -> None:
    found = scale.needs(measured(), 300)
    assert found.cores == pytest.approx((3000 + 6) / 300)
    assert found.logins == pytest.approx(333.33, abs=0.01)
    assert found.sweep_tasks == 64
    assert found.host_tasks_cores == pytest.approx(200)
    assert found.diff_share == pytest.approx(0.2)
    assert found.diff_memory == 10 * 1024**3
    assert found.observations == 100_000 * 288 * 14
    assert found.observations_bytes == found.observations * 250
    assert found.state_bytes == 100_000 * (500 + 30 * 200 + 2 * 1500)
    assert found.written_per_day == pytest.approx(100_000 * 300 * 288)
    assert found.rows_per_day == 100_000 * 2 * 288
    assert found.xcom_per_run == 100_000 * 100
    assert scale.needs(measured(), 900).cores == pytest.approx(found.cores / 3)


def test_the_arithmetic_as_a_table() -> None:
    table = scale.as_markdown(measured()).splitlines()
    assert table[0] == "| 100,000 hosts | every 5 min | every 15 min |"
    assert "| looks kept for 14 days | 403,200,000 | 134,400,000 |" in table
    assert "missing" in scale.as_markdown({})


# ── parts of the measures ───────────────────────────────────────────────────────────────────────


def test_cpu_time_of_what_has_ended_counts_for_whoever_waited() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    wait = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.25 <= cpu_seconds([process.pid]) < 5
        assert memory_mib([process.pid]) > 1
        assert machine_cpu_seconds() > cpu_seconds([process.pid])
        process.stdin.close()


def test_the_time_of_orphans_counts_for_the_reaper() -> None:
    script = """
import os, subprocess, sys, time
from bench.processes import below_a_reaper, cpu_seconds

below_a_reaper()
burn = "import time; time.sleep(0.2)\\nwhile time.process_time() < 0.5: pass"
forget = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
subprocess.run([sys.executable, "-c", forget], check=True)
deadline = time.monotonic() + 60
while (found := cpu_seconds([os.getppid()]) - cpu_seconds([os.getpid()])) < 0.4 and time.monotonic() < deadline:
    time.sleep(0.05)
print(found)
sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=docs.ROOT, timeout=120
    )
    assert done.returncode == 7, done.stderr
    assert float(done.stdout) >= 0.4


def test_a_made_up_fleet_is_quiet_until_ports_change(tmp_path: Path) -> None:
    fleet = Fleet(f"sqlite:///{tmp_path / 'portmon.db'}", 20, 10)
    fleet.build()
    database = fleet.open()

    def evaluated(number: int) -> dict[str, int]:
        counts = fleet.evaluate(database, number, fleet.plan(database, number))
        assert counts.pop("scanned") == counts.pop("evaluated") == 20
        assert counts.pop("not_scanned") == 0
        return counts

    assert evaluated(0) == {"baseline": 20}
    fleet.look(1, changes=0, changed_now=False)
    assert evaluated(1) == {}
    # 200 ports: two of them are different from now on, and two more in the next round.
    fleet.look(2, changes=1, changed_now=True)
    assert sum(evaluated(2).values()) == 2
    fleet.look(3, changes=2, changed_now=True)
    assert sum(evaluated(3).values()) == 2
    database.dispose()


def test_the_past_of_a_made_up_fleet_is_as_portmon_would_have_written_it(database_url: str) -> None:
    fleet = Fleet(database_url, 40, 30, datetime(2026, 11, 20, 12, tzinfo=UTC))
    fleet.build()
    database = fleet.open()
    fleet.evaluate(database, 0, fleet.plan(database, 0))
    with database.begin() as conn:
        past.make(conn, fleet, events=2000, runs=60)
        hosts, _ = lookups.find_hosts(conn, lookups.HostFilter(labels={"site": "site-3"}), limit=100)
        assert len(hosts) == 8
        rows = lists.list_events(conn, lookups.EventFilter(until=fleet.at(0)), limit=1000)
        assert {row.host_id for row in rows} == {f"id-{number}" for number in range(40)}
        assert all(row.host == f"host-{int((row.host_id or '')[3:]):06}" for row in rows)
        assert fleet.at(-60) < rows[-1].at < rows[0].at < fleet.at(0)
        problems = list_problems(conn, fleet.at(0))
        assert problems.firing == 1
        assert problems.rows[0].told[0].channel == "mail"
        ran = lists.runs_with_errors(conn, limit=50, before=fleet.at(0))
        assert [run.run_id for run in ran[:2]] == ["past-1", "past-2"]
        assert ran[0].summary["scanned"] == 40
        assert ran[0].duration == 70
        assert set().union(*(run.errors for run in ran)) == {"ConnectTimeoutError"}
        assert len(lookups.visits(conn, "id-20", fleet.at(-60), fleet.at(0))) == 60
        assert len(lookups.visits(conn, "id-21", fleet.at(-60), fleet.at(0))) == 50
    # Nothing of it waits for an evaluation.
    fleet.look(1, changes=0, changed_now=False)
    assert fleet.evaluate(database, 1, fleet.plan(database, 1)) == {"scanned": 40, "not_scanned": 0, "evaluated": 40}
    database.dispose()


def test_the_time_within_the_database_is_part_of_an_evaluation(database_url: str) -> None:
    fleet = Fleet(database_url, 20, 10)
    fleet.build()
    found = diff_worker.evaluate(fleet, 0)
    assert 0 < found["database_seconds"] < found["seconds"]


def test_ninety_five_of_a_hundred_are_not_above_the_percentile() -> None:
    assert page.percentile(list(range(1, 101))) == 95
    assert page.percentile(list(range(1, 21))) == 19
    assert page.percentile([3, 1, 2]) == 3


def test_every_page_has_a_label() -> None:
    labels = set(report.LABELS["page"])
    assert labels >= {f"{store}_{name}_ms" for store in ("postgres", "sqlite") for name in page.PAGES}


def test_large_fleets_are_evaluated_less_often() -> None:
    assert FULL.repeats(10_000) == 5
    assert FULL.repeats(100_000) == 3
    assert QUICK.repeats(100) == 1


def test_sections_are_named_on_the_command_line() -> None:
    assert _names("diff,sweep") == ["sweep", "diff"]
    with pytest.raises(argparse.ArgumentTypeError, match="web"):
        _names("web,diff")
