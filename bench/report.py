"""Figures for people: the table that is printed, and the same as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from bench.figures import Figure, Ratio, Section

ABOUT = {
    "sweep": "{hosts} hosts in batches of {batch_hosts}, {threads} logins at a time, {services} services on each; "
    "{dead} dead hosts besides, where that is said",
    "large": "{hosts} hosts in batches of {batch_hosts}, {threads} logins at a time, {services} services on each; "
    "{few} hosts, where that is said",
    "tasks": "{hosts} hosts, a task each, {max_logins} at a time",
    "parse": "the DAG file, parsed in the process of a task; CPU time",
    "ansible": "{hosts} hosts, {forks} forks or logins; a run over {many_hosts} hosts, where that is said",
    "diff": "made-up fleets, {ports} ports on each host",
    "replay": "{runs} runs of {hosts} hosts with {ports} ports each, evaluated again",
    "known_hosts": "one look-up of a host at the end of a known_hosts file; CPU time",
    "probe": "a host with {services} services, looked at by portmon's probe and by that of the version before; without "
    "SSH; {many} or {most} sockets besides, where that is said",
    "page": "{hosts} hosts, {ports} ports and {events} events in PostgreSQL, {few} hosts with "
    "as many ports and events each in SQLite; {requests} requests in each round, {readers} readers, where that is said",
}
"""Section: what its sizes mean. The order is that of the table."""

_PROBED = {"idle": "idle", "many": "{many} sockets", "most": "{most} sockets"}
_STORES = {"postgres": "{hosts} hosts, PostgreSQL", "sqlite": "{few} hosts, SQLite"}
_PAGES = {
    "problems": "problems",
    "problems_by_site": "problems by a label",
    "ports": "ports",
    "ports_number": "ports of a number",
    "ports_program": "ports of a program, the last changes first",
    "ports_reach": "ports of a site that only their host reaches",
    "ports_by_unit": "ports by unit",
    "ports_csv": "ports as CSV, 1,000 rows",
    "hosts": "hosts, the oldest evidence first",
    "host": "a host, 7 days",
    "port": "a port, 30 days",
    "events": "events",
    "events_host": "deaths of a host",
    "runs": "runs",
    "silences": "silences and rules",
    "metrics": "metrics",
    "json": "problems as JSON",
}
_LOOKED_AS = {"user": "unprivileged", "root": "root"}

LABELS = {
    "sweep": {
        "bare_probe_seconds": "bare loop, portmon's probe",
        "bare_netstat_seconds": "bare loop, netstat -nltp",
        "run_seconds": "portmon, whole run",
        "run_sweep_seconds": "portmon, its sweep",
        "run_diff_seconds": "portmon, its diff (a task)",
        "partly_seconds": "portmon, whole run with dead hosts besides",
        "partly_sweep_seconds": "portmon, its sweep with dead hosts besides",
        "empty_seconds": "portmon, run without a host",
        "bare_probe_cpu_ms_per_host": "bare loop, CPU per host",
        "run_cpu_ms_per_host": "portmon, CPU per host above the empty run",
        "bare_probe_server_cpu_ms_per_host": "the servers, CPU per login and probe",
        "bare_netstat_server_cpu_ms_per_host": "the servers, CPU per login and netstat",
        "empty_cpu_seconds": "portmon, CPU of the empty run",
        "bare_probe_memory": "bare loop, peak memory",
        "idle_memory": "Airflow at rest, memory",
        "run_memory": "Airflow during a run, peak memory",
        "run_tasks": "tasks of a run",
        "run_xcom_bytes": "XComs of a run",
        "run_rows_written": "rows written by a quiet run",
        "bare_probe_answer_bytes": "the answer of a host",
    },
    "large": {
        "bare_probe_seconds": "bare loop, portmon's probe",
        "run_seconds": "portmon, whole run",
        "run_sweep_seconds": "portmon, its sweep",
        "run_diff_seconds": "portmon, its diff (a task)",
        "empty_seconds": "portmon, run without a host",
        "bare_probe_cpu_ms_per_host": "bare loop, CPU per host",
        "run_cpu_ms_per_host": "portmon, CPU per host above the empty run",
        "few_cpu_ms_per_host": "portmon, CPU per host of {few} above the empty run",
        "bare_probe_server_cpu_ms_per_host": "the servers, CPU per login and probe",
        "bare_probe_memory": "bare loop, peak memory",
        "idle_memory": "Airflow at rest, memory",
        "run_memory": "Airflow during a run, peak memory",
        "run_tasks": "tasks of a run",
        "run_xcom_bytes": "XComs of a run",
        "run_rows_written": "rows written by a quiet run",
        "database_bytes": "portmon's database",
    },
    "tasks": {
        "portmon_netstat_seconds": "portmon, netstat tasks",
        "plain_netstat_seconds": "SSHOperator, netstat tasks",
        "portmon_seconds": "portmon, whole run",
        "plain_seconds": "SSHOperator, whole run",
        "portmon_cpu_ms_per_host": "portmon, CPU per host",
        "plain_cpu_ms_per_host": "SSHOperator, CPU per host",
        "cold_portmon_netstat_seconds": "portmon, nothing imported beforehand, netstat tasks",
        "cold_plain_netstat_seconds": "SSHOperator, nothing imported beforehand, netstat tasks",
        "cold_portmon_cpu_ms_per_host": "portmon, nothing imported beforehand, CPU per host",
        "cold_plain_cpu_ms_per_host": "SSHOperator, nothing imported beforehand, CPU per host",
    },
    "parse": {
        "portmon_parse_ms": "portmon's",
        "plain_parse_ms": "SSHOperator's",
        "cold_portmon_parse_ms": "portmon's, nothing imported beforehand",
        "cold_plain_parse_ms": "SSHOperator's, nothing imported beforehand",
    },
    "ansible": {
        "run_seconds": "portmon, whole run in sweep mode",
        "ansible_raw_seconds": "ansible raw netstat -nltp",
        "ansible_facts_seconds": "ansible listen_ports_facts",
        "ansible_raw_ms_per_host": "ansible raw, time per host",
        "ansible_facts_ms_per_host": "ansible listen_ports_facts, time per host",
        "many_ms_per_host": "portmon, whole run over many hosts, time per host",
        "run_cpu_ms_per_host": "portmon, CPU per host",
        "ansible_raw_cpu_ms_per_host": "ansible raw, CPU per host",
        "ansible_facts_cpu_ms_per_host": "ansible listen_ports_facts, CPU per host",
    },
    "replay": {
        "replay_seconds": "replay",
        "replay_ms_per_run": "replay, per run",
        "evaluate_ms": "the evaluation of a run, for comparison",
        "replay_memory": "replay, peak memory",
    },
    "known_hosts": {
        "plain_1000_line_ms": "1,000 plain lines, line by line",
        "plain_1000_index_ms": "1,000 plain lines, portmon",
        "plain_5000_line_ms": "5,000 plain lines, line by line",
        "plain_5000_index_ms": "5,000 plain lines, portmon",
        "hashed_5000_line_ms": "5,000 hashed lines, line by line",
        "hashed_5000_index_ms": "5,000 hashed lines, portmon",
    },
    "probe": {
        f"{setting}_{user}_{which}_{what}": f"{host}, {whose}, {what_said}, {which_said}"
        for what, what_said in (("cpu_ms", "CPU"), ("forks", "processes"), ("bytes", "answer"))
        for (setting, host), (user, whose), (which, which_said) in product(
            _PROBED.items(), _LOOKED_AS.items(), (("new", "portmon"), ("udp", "with UDP"), ("old", "version before"))
        )
    },
    "page": {
        f"{store}_{figure}": f"{of}: {what}"
        for store, of in _STORES.items()
        for figure, what in (
            *((f"{page}_ms", what) for page, what in _PAGES.items()),
            ("slowest_ms", "the slowest page"),
            ("slowest_p95_ms", "the highest 95th percentile of a page"),
            ("query_ms", "the first 100 ports, a bare query"),
            ("airflow_ms", "an empty list of Airflow's API"),
            ("read_ms", "a page, with {readers} readers"),
            ("read_p95_ms", "a page, with {readers} readers, 95th percentile"),
            ("alone_evaluate_seconds", "evaluation, 1 % of ports changed"),
            ("read_evaluate_seconds", "the same with {readers} readers"),
            ("alone_database_seconds", "evaluation, its wait for the database"),
            ("read_database_seconds", "the same with {readers} readers"),
        )
    },
}
"""Section: figure: what it is called. Figures that are not named here are in the file only."""

DIFF_LABELS = {
    "baseline_seconds": "baseline",
    "baseline_memory": "baseline, peak memory",
    "quiet_evaluate_seconds": "quiet run",
    "quiet_merge_seconds": "quiet, read_sql + merge",
    "quiet_evaluate_memory": "quiet run, peak memory",
    "quiet_merge_memory": "quiet, read_sql + merge, peak memory",
    "quiet_statements": "quiet run, statements",
    "quiet_rows_written": "quiet run, rows written",
    "changed_evaluate_seconds": "1 % of ports changed",
    "changed_merge_seconds": "1 % changed, read_sql + merge",
    "changed_evaluate_memory": "1 % changed, peak memory",
    "changed_rows_written": "1 % changed, rows written",
}
"""The same for each fleet of the section ``diff``, whose figures begin with its name."""

RATIOS = (
    Ratio("sweep", "sweep / bare loop", "run_sweep_seconds", "bare_probe_seconds"),
    Ratio("sweep", "(run - empty run) / bare loop", "run_seconds", "bare_probe_seconds", less="empty_seconds"),
    Ratio("sweep", "whole run / bare loop", "run_seconds", "bare_probe_seconds"),
    Ratio("sweep", "whole run with dead hosts / without", "partly_seconds", "run_seconds"),
    Ratio("sweep", "CPU of portmon / of the bare loop", "run_cpu_ms_per_host", "bare_probe_cpu_ms_per_host"),
    Ratio("large", "sweep / bare loop, {hosts} hosts", "run_sweep_seconds", "bare_probe_seconds"),
    Ratio("large", "whole run / bare loop, {hosts} hosts", "run_seconds", "bare_probe_seconds"),
    Ratio(
        "large",
        "CPU of portmon / of the bare loop, {hosts} hosts",
        "run_cpu_ms_per_host",
        "bare_probe_cpu_ms_per_host",
    ),
    Ratio("large", "CPU per host of {hosts} / of {few} hosts", "run_cpu_ms_per_host", "few_cpu_ms_per_host"),
    Ratio("ansible", "whole run / listen_ports_facts", "run_seconds", "ansible_facts_seconds"),
    Ratio("ansible", "whole run / raw", "run_seconds", "ansible_raw_seconds"),
    Ratio("ansible", "listen_ports_facts / whole run over many hosts", "ansible_facts_ms_per_host", "many_ms_per_host"),
    Ratio("ansible", "raw / whole run over many hosts", "ansible_raw_ms_per_host", "many_ms_per_host"),
    Ratio("ansible", "CPU of portmon / of listen_ports_facts", "run_cpu_ms_per_host", "ansible_facts_cpu_ms_per_host"),
    Ratio("ansible", "CPU of portmon / of raw", "run_cpu_ms_per_host", "ansible_raw_cpu_ms_per_host"),
    Ratio("tasks", "netstat tasks / SSHOperator's", "portmon_netstat_seconds", "plain_netstat_seconds"),
    Ratio("tasks", "CPU of portmon / of SSHOperator", "portmon_cpu_ms_per_host", "plain_cpu_ms_per_host"),
    Ratio(
        "tasks",
        "netstat tasks / SSHOperator's in Airflow as it comes",
        "portmon_netstat_seconds",
        "cold_plain_netstat_seconds",
    ),
    Ratio(
        "tasks",
        "netstat tasks / SSHOperator's, nothing imported beforehand",
        "cold_portmon_netstat_seconds",
        "cold_plain_netstat_seconds",
    ),
    Ratio(
        "tasks",
        "netstat tasks / the same, nothing imported beforehand",
        "portmon_netstat_seconds",
        "cold_portmon_netstat_seconds",
    ),
    Ratio("parse", "parse of the DAG file / of SSHOperator's", "portmon_parse_ms", "plain_parse_ms"),
    Ratio(
        "parse",
        "parse of the DAG file / the same, nothing imported beforehand",
        "portmon_parse_ms",
        "cold_portmon_parse_ms",
    ),
    Ratio("replay", "replay per run / evaluation of a run", "replay_ms_per_run", "evaluate_ms"),
    Ratio("known_hosts", "line by line / portmon, 1,000 plain lines", "plain_1000_line_ms", "plain_1000_index_ms"),
    Ratio("known_hosts", "line by line / portmon, 5,000 plain lines", "plain_5000_line_ms", "plain_5000_index_ms"),
    Ratio("known_hosts", "line by line / portmon, 5,000 hashed lines", "hashed_5000_line_ms", "hashed_5000_index_ms"),
    *(
        Ratio(
            "probe",
            f"CPU of {what}, {host}, {whose}",
            f"{setting}_{user}_{over}_cpu_ms",
            f"{setting}_{user}_{under}_cpu_ms",
        )
        for what, over, under in (
            ("the probe / of the version before", "new", "old"),
            ("the probe with UDP / with TCP alone", "udp", "new"),
        )
        for (setting, host), (user, whose) in product(_PROBED.items(), _LOOKED_AS.items())
    ),
    *(
        Ratio("page", f"{what}, {of}", f"{store}_{over}", f"{store}_{under}")
        for (store, of), (what, over, under) in product(
            _STORES.items(),
            (
                ("page of ports / its bare query", "ports_ms", "query_ms"),
                ("page of ports / an empty list of Airflow's API", "ports_ms", "airflow_ms"),
                ("evaluation with {readers} readers / without", "read_evaluate_seconds", "alone_evaluate_seconds"),
                (
                    "its wait for the database with {readers} readers / without",
                    "read_database_seconds",
                    "alone_database_seconds",
                ),
            ),
        )
    ),
)


QUIET_PERCENT = 3
"""Others on the machine may use less than this of its CPU without being mentioned."""
NO_MEANING = "Some of this is from a quick run, whose figures mean nothing."


def _any_quick(sections: Mapping[str, Section]) -> bool:
    return any(section.facts.get("quick") for section in sections.values())


def fleets(diff: Section) -> list[tuple[str, str]]:
    """Name and label of each fleet of the section ``diff``."""
    return [
        (name, f"{count(hosts)} hosts, {'PostgreSQL' if name == 'postgres' else 'SQLite'}")
        for name, hosts in diff.sizes.items()
        if name != "ports"
    ]


def ratios(sections: Mapping[str, Section]) -> list[Ratio]:
    """The ratios whose figures are there."""
    found = [*RATIOS]
    if "diff" in sections:
        for name, label in fleets(sections["diff"]):
            for kind in ("quiet", "changed"):
                pair = f"{name}_{kind}_evaluate_seconds", f"{name}_{kind}_merge_seconds"
                found.append(Ratio("diff", f"diff / merge, {kind}, {label}", *pair))
            pair = f"{name}_quiet_evaluate_memory", f"{name}_quiet_merge_memory"
            found.append(Ratio("diff", f"memory of diff / of merge, {label}", *pair))
    return [
        ratio
        for ratio in found
        if ratio.section in sections and set(ratio.names()) <= set(sections[ratio.section].figures)
    ]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table.

    :param spread: the lowest and the highest value
    """

    label: str
    median: str
    spread: str


def figure_lines(name: str, section: Section) -> list[Line]:
    """The figures of a section, in the order of the labels."""
    labels = LABELS.get(name) or {
        f"{fleet}_{figure}": f"{label}: {text}"
        for fleet, label in fleets(section)
        for figure, text in DIFF_LABELS.items()
    }
    return [
        _figure(_sized(text, section), section.figures[figure])
        for figure, text in labels.items()
        if figure in section.figures
    ]


def ratio_lines(sections: Mapping[str, Section]) -> list[Line]:
    """Every ratio, with that of the best and of the worst round."""
    lines = []
    for ratio in ratios(sections):
        section = sections[ratio.section]
        pairs = ratio.pairs(section)
        spread = f"{_times(min(pairs))} to {_times(max(pairs))}"
        lines.append(Line(_sized(ratio.label, section), _times(ratio.of(section)), spread))
    return lines


def as_text(sections: Mapping[str, Section]) -> str:
    """The table that is printed."""
    found = list(_ordered(sections))
    parts = [NO_MEANING] if _any_quick(sections) else []
    parts += [f"{name}: {about(name, section)}\n" + _columns(figure_lines(name, section)) for name, section in found]
    parts.append("ratios (of the medians; of the best and the worst round)\n" + _columns(ratio_lines(sections)))
    return "\n\n".join(parts)


def as_markdown(sections: Mapping[str, Section]) -> str:
    """The results for docs/benchmarks.md."""
    parts = [f"**{NO_MEANING}**"] if _any_quick(sections) else []
    parts += [_machine(sections), _markdown(("ratio", "", "best to worst round"), ratio_lines(sections))]
    for name, section in _ordered(sections):
        rounds = max(len(figure.values) for figure in section.figures.values())
        head = (about(name, section), "median", f"lowest to highest of up to {rounds}")
        parts.append(_markdown(head, figure_lines(name, section)))
    return "\n\n".join(parts)


def about(name: str, section: Section) -> str:
    """What a section measured, and whether other processes used the machine meanwhile."""
    told = _sized(ABOUT[name], section)
    others = section.facts.get("others_cpu_percent", 0)
    return f"{told}; others used {others} % of the machine" if others >= QUIET_PERCENT else told


def value(number: float, unit: str) -> str:
    """A value with its unit, three digits."""
    if unit == "bytes":
        return size(number)
    if unit == "MiB":
        return size(number * 1024**2)
    if unit in ("s", "ms"):
        return f"{_digits(number)} {unit}"
    return count(number)


def size(number: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{_digits(number)} {unit}"
        number /= 1024
    return f"{_digits(number)} TiB"


def count(number: float) -> str:
    """A number of things, with commas between thousands."""
    return f"{number:,.0f}"


def _sized(text: str, section: Section) -> str:
    """A text with the sizes of its section."""
    return text.format_map({size: count(value) for size, value in section.sizes.items()})


def _digits(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _times(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}" if abs(number) >= 10 else f"{number:.2f}"


def _figure(label: str, figure: Figure) -> Line:
    low, high = (value(number, figure.unit) for number in (min(figure.values), max(figure.values)))
    return Line(label, value(figure.median, figure.unit), low if low == high else f"{low} to {high}")


def _ordered(sections: Mapping[str, Section]) -> Iterator[tuple[str, Section]]:
    return ((name, sections[name]) for name in ABOUT if name in sections)


def _columns(lines: list[Line]) -> str:
    wide = max((len(line.label) for line in lines), default=0)
    medians = max((len(line.median) for line in lines), default=0)
    return "\n".join(f"  {line.label:<{wide}}  {line.median:>{medians}}  ({line.spread})" for line in lines)


def _markdown(head: tuple[str, str, str], lines: list[Line]) -> str:
    rows = [f"| {head[0]} | {head[1]} | {head[2]} |", "| --- | ---: | ---: |"]
    return "\n".join([*rows, *(f"| {line.label} | {line.median} | {line.spread} |" for line in lines)])


def _machine(sections: Mapping[str, Section]) -> str:
    """What it was measured on, once for all sections that agree."""
    told: dict[str, list[str]] = {}
    for name, section in _ordered(sections):
        told.setdefault(_facts(section.facts, section.made_at), []).append(name)
    if len(told) == 1:
        return next(iter(told))
    return "\n\n".join(f"{', '.join(names)}: {text}" for text, names in told.items())


def _facts(facts: Mapping[str, Any], made_at: str) -> str:
    return (
        f"Measured on {made_at[:10]} with portmon {facts['portmon']} on {facts['cores']} cores ({facts['cpu']}), "
        f"{facts['memory_gib']} GiB, {facts['system']}, Linux {facts['kernel']}; Python {facts['python']}, Airflow "
        f"{facts['apache-airflow']}, paramiko {facts['paramiko']}, pandas {facts['pandas']}, {facts['openssh']}, "
        f"PostgreSQL {facts['postgresql']}."
    )
