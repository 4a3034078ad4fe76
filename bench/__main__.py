"""``python -m bench``: measure, print a table, write benchmarks/latest.json."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench import ansible, diff, docs, known_hosts, large, machine, page, parse, per_host, probe, replay, report, sweep
from bench.crowd import CrowdError
from bench.errors import BenchError
from bench.figures import Section, from_json, to_json
from bench.processes import below_a_reaper, cpu_seconds, machine_cpu_seconds
from bench.sizes import FULL, QUICK, Sizes
from bench.stage import Stage, lacking
from demo.airflow_env import AirflowError
from demo.host import loopback_up
from tests.worlds import postgres

SECTIONS = ("sweep", "large", "tasks", "parse", "ansible", "diff", "replay", "known_hosts", "probe", "page")
ALONE = ("parse", "diff", "replay", "known_hosts", "probe", "page")
"""Those that need no host, and no Airflow that runs DAGs."""
APART = "PORTMON_BENCH_APART"
"""Set in the environment of a bench that has a network of its own."""
QUICK_FILE = docs.ROOT / ".run" / "bench-quick.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections that the command line names.

    :returns: exit code
    """
    options = _options(arguments)
    if options.docs:
        sections = from_json(json.loads(docs.LATEST.read_text()))
        docs.PAGE.write_text(docs.written(docs.PAGE.read_text(encoding="utf-8"), sections), encoding="utf-8")
        return 0
    _go_apart(list(sys.argv[1:] if arguments is None else arguments))
    below_a_reaper()
    sizes = QUICK if options.quick else FULL
    if options.repeat:
        sizes = dataclasses.replace(sizes, repeat=options.repeat, large_repeat=min(options.repeat, sizes.large_repeat))
    chosen = options.only or list(SECTIONS)
    told = _lacking(chosen)
    if told:
        print(f"bench: {told}", file=sys.stderr)
        return 2
    # Hosts, servers and the login user are removed, however the process ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended"))
    out = options.out or (QUICK_FILE if options.quick else docs.LATEST)
    try:
        with _folder() as folder:
            measured = _measure(folder, sizes, chosen, out)
    except (BenchError, CrowdError, AirflowError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    # As it is written, so that the printed table is the one that readers of the file compute.
    print(report.as_text(from_json(to_json(measured))))
    print(f"\nwritten to {out}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure portmon against its peers.")
    parser.add_argument("--quick", action="store_true", help="few hosts: shows that it works, the figures mean nothing")
    parser.add_argument("--only", type=_names, metavar="NAMES", help=f"sections to measure, of {','.join(SECTIONS)}")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds")
    parser.add_argument("--out", type=Path, help="file for the figures; default: benchmarks/latest.json")
    parser.add_argument("--docs", action="store_true", help="only write the tables of docs/benchmarks.md anew")
    return parser.parse_args(arguments)


def _go_apart(arguments: list[str]) -> None:
    """Start again in a network of our own, with nothing but loopback, where this machine allows it.

    Every host shows whatever listens on this machine: processes that start and stop meanwhile would change the answers.
    And no process outside reaches the hosts.
    """
    if os.environ.get(APART):
        loopback_up()
        return
    way = ["unshare", "--net", sys.executable, "-m", "bench"]
    with contextlib.suppress(OSError):
        if not subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
            os.execvpe(way[0], [*way, *arguments], {**os.environ, APART: "yes"})


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown")
    return [name for name in SECTIONS if name in names]


def _lacking(chosen: Sequence[str]) -> str | None:
    """What this machine lacks for some sections; None if nothing."""
    told = lacking() if set(chosen) - set(ALONE) else None
    if not told and set(chosen) & set(ALONE):
        told = postgres.missing()
    if not told and "ansible" in chosen:
        told = ansible.lacking()
    if not told and "probe" in chosen:
        told = probe.lacking()
    return told


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder, kept if something goes wrong: the logs are in it."""
    folder = Path(tempfile.mkdtemp(prefix="portmon-bench-"))
    folder.chmod(0o755)
    try:
        yield folder
    except BaseException:
        print(f"bench: the logs are in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, sizes: Sizes, chosen: Sequence[str], out: Path) -> dict[str, Section]:
    """Measure sections; each is written as soon as it is there, in the place of an older one of its name."""
    started = time.monotonic()
    facts = machine.facts() | {"quick": sizes.quick, "own_network": bool(os.environ.get(APART))}
    measured: dict[str, Section] = {}

    def section(name: str, measure: Callable[[Section, Callable[[str], None]], None]) -> None:
        found = Section(facts=dict(facts), made_at=datetime.now(UTC).isoformat(timespec="seconds"))
        with _others() as others:
            measure(found, lambda text: _tell(started, f"{name}: {text}"))
        found.facts["others_cpu_percent"] = others.percent
        measured[name] = found
        _write(out, {name: found})

    live = [name for name in chosen if name not in ALONE]
    with contextlib.ExitStack() as stack:
        if live:
            _tell(started, "starting hosts, PostgreSQL and Airflow")
            stage = stack.enter_context(Stage(folder, sizes.most_hosts, sizes.dead_hosts, sizes.services))
        on_stage = {"sweep": sweep, "large": large, "tasks": per_host, "ansible": ansible}
        for name in live:
            section(name, partial(on_stage[name].measure, stage, sizes))
    alone = {
        "parse": parse,
        "diff": diff,
        "replay": replay,
        "known_hosts": known_hosts,
        "probe": probe,
        "page": page,
    }
    for name in (name for name in chosen if name in ALONE):
        section(name, partial(alone[name].measure, sizes))
    _tell(started, "done")
    return measured


@dataclass(slots=True)
class _Others:
    """CPU share that other processes of this machine used meanwhile: a large one makes the figures worthless."""

    percent: int = 0


@contextmanager
def _others() -> Iterator[_Others]:
    def used() -> float:
        # Of the reaper and all below it.
        return machine_cpu_seconds() - cpu_seconds([os.getppid()])

    others = _Others()
    before, started = used(), time.monotonic()
    yield others
    available = (time.monotonic() - started) * len(os.sched_getaffinity(0))
    others.percent = max(0, round((used() - before) / available * 100))


def _tell(started: float, text: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    print(f"[{minutes:3}:{seconds:02}] {text}", file=sys.stderr, flush=True)


def _write(path: Path, measured: dict[str, Section]) -> None:
    """Write the figures of some sections beside those of others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text()) if path.exists() else {}
    both = old | to_json(measured)
    path.write_text(json.dumps({name: both[name] for name in SECTIONS if name in both}, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
