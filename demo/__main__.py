"""``python -m demo``: play the story (default), or with ``up`` start everything and stay."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from rich.console import Console
from rich.table import Table

from demo.airflow_env import ADMIN, ROOT, AirflowError, EmbeddedAirflow
from demo.cmdb import Cmdb
from demo.fleet import USER, Fleet, HostSpec
from demo.story import CHAPTERS, SPECS, Chapter
from portmon.cli.init import exports
from portmon.model.event import Event
from portmon.model.numbers import named
from portmon.storage import deliveries as stored_deliveries
from portmon.storage import events as stored_events
from portmon.storage.database import Database
from portmon.text import plain

SHIFT = 20000
"""Added to ports where hosts share this computer's network: other programs may use 80, and only root may bind it."""

console = Console(width=80 if not sys.stdout.isatty() else None, highlight=False)


class Demo:
    """Fleet, CMDB and Airflow of one demo."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.started = time.monotonic()
        specs = self._shift(SPECS)
        self.fleet = stack.enter_context(Fleet(SPECS, folder / "fleet", isolate=True, fallback=specs))
        self.shift = 0 if self.fleet.unshare else SHIFT
        self.cmdb = Cmdb()
        stack.callback(self.cmdb.close)
        self.cmdb.entries = [self._entry(spec) for spec in SPECS]
        config = folder / "portmon.yaml"
        config.write_text(yaml.safe_dump(self._config(["tcp", "udp"] if self.has_udp else ["tcp"])))
        self.airflow = stack.enter_context(
            EmbeddedAirflow(
                folder / "airflow",
                config=config,
                connections={
                    "cmdb_default": json.dumps(
                        {
                            "conn_type": "http",
                            "host": f"http://127.0.0.1:{self.cmdb.port}",
                            "extra": {"Authorization": f"Bearer {self.cmdb.token}"},
                        }
                    ),
                    "ssh_default": json.dumps(
                        {"conn_type": "ssh", "login": USER, "extra": {"key_file": str(self.fleet.key)}}
                    ),
                },
            )
        )
        self.database = Database(f"sqlite:///{self.airflow.home / 'portmon.db'}")

    # ── the stage, see demo.story.Stage ─────────────────────────────────────────────────────────

    def host(self, name: str) -> Any:
        return self.fleet.hosts[name]

    def port(self, port: int) -> int:
        return port + self.shift

    @property
    def has_udp(self) -> bool:
        # Hosts that are addresses share the tables of UDP in /proc.
        return self.fleet.unshare is not None

    def leave_cmdb(self, name: str) -> None:
        self.cmdb.entries = [entry for entry in self.cmdb.entries if entry["name"] != name]

    # ── set-up ──────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def _shift(specs: list[HostSpec]) -> list[HostSpec]:
        return [
            HostSpec(spec.id, spec.name, {port + SHIFT: name for port, name in spec.services.items()}, spec.labels)
            for spec in specs
        ]

    def _entry(self, spec: HostSpec) -> dict[str, Any]:
        host = self.fleet.hosts[spec.name]
        return {
            "id": int(spec.id),
            "name": spec.name,
            "primary_ip": {"address": f"{host.address}/32"},
            "ssh_port": host.port,
            "status": {"value": "active"},
            "labels": dict(spec.labels),
            # A UDP port that must listen need not be learned in three runs.
            "declared": [named("udp", port) for port in spec.udp] if self.has_udp else [],
        }

    @staticmethod
    def _config(protocols: list[str]) -> dict[str, Any]:
        return {
            "cmdb": {
                "source": {
                    "type": "http",
                    "endpoint": "api/servers/",
                    "items": "results",
                    "total": "count",
                    "pagination": {"style": "next_link"},
                    "fields": {
                        "address": "primary_ip.address",
                        "port": "ssh_port",
                        "enabled": "status.value == 'active'",
                        "declared": "declared",
                    },
                },
            },
            "ssh": {"connect_timeout": "5s", "max_logins": 3},
            "scan": {"confirm_after": "2s", "protocols": protocols},
            # One run is enough here, so that the demo does not have to wait for a second one.
            "states": {"unreachable_after": 1},
        }

    # ── playing ─────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        with progress("") as tell:
            self.airflow.start(tell)

    def play(self, number: int, chapter: Chapter) -> list[str]:
        """Play one chapter.

        :returns: the differences from the chapter's expectations
        """
        console.print()
        console.rule(f"{number}. {chapter.title}", align="left")
        console.print(chapter.told)
        chapter.act(self)
        run_id = self.airflow.trigger()
        with progress("run: ") as tell:
            state = self.airflow.wait_run(run_id, tell=tell)
        tasks = self.airflow.tasks(run_id)
        with self.database.begin() as conn:
            events = stored_events.recent(conn, run_id=run_id)
            sent = stored_deliveries.of_events(conn, [event.id for event in events])
        deliveries = {key: str(one.state) for key, one in sent.items()}
        self.show(events, deliveries, run_id, tasks)
        problems = [] if state == "success" else [f"the run ended {state}"]
        found = {(event.kind.value, event.host_name, _port(event)) for event in events}
        expected = {
            (kind, host, self.port(port) if isinstance(port, int) else port)
            for kind, host, port in chapter.expected
            if self.has_udp or not isinstance(port, str)
        }
        problems += [f"missing: {_say(one)}" for one in sorted(expected - found, key=str)]
        problems += [f"not expected: {_say(one)}" for one in sorted(found - expected, key=str)]
        red = {
            task["rendered_map_index"] for task in tasks if task["task_id"] == "netstat" and task["state"] == "failed"
        }
        if red != chapter.red:
            problems.append(f"failed netstat tasks: {sorted(map(str, red))}, told were {sorted(chapter.red)}")
        for event in events:
            told = event.group is not None
            if told and deliveries.get((event.id, "log")) != "delivered":
                problems.append(f"not alerted: {event.kind} {event.host_name} {event.port or ''}")
        hidden = self.hidden(run_id)
        if hidden != chapter.hidden:
            problems.append(f"{hidden} hosts hidden, told were {chapter.hidden}")
        for problem in problems:
            console.print(f"  not as told: {problem}", style="bold red")
        if not problems:
            console.print("  as told", style="green")
        return problems

    def hidden(self, run_id: str) -> int:
        """Number of hosts that the prune of a run hid."""
        value = self.airflow.call(
            "GET",
            f"dags/portmon/dagRuns/{quote(run_id)}/taskInstances/prune_inventory/xcomEntries/return_value",
        )["value"]
        return int((json.loads(value) if isinstance(value, str) else value)["hidden"])

    def show(
        self,
        events: list[Event],
        deliveries: dict[tuple[str, str], str],
        run_id: str,
        tasks: list[dict[str, Any]],
    ) -> None:
        """Print the events of a run, and the titles of the messages that it sent."""
        if not events:
            console.print("  no events")
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("  event", "host", "port", "program", "alerted"):
            table.add_column(column)
        for event in sorted(events, key=lambda event: (event.host_name or "", event.port or 0)):
            table.add_row(
                f"  {event.kind}",
                plain(event.host_name or "-", 20),
                str(_port(event) or "-"),
                plain(event.program or "-", 20),
                deliveries.get((event.id, "log"), "no"),
            )
        console.print(table)
        for task in tasks:
            if task["task_id"].startswith("alert_") and task["state"] == "success":
                log = self.airflow.log(run_id, task["task_id"], try_number=task["try_number"])
                for line in log.splitlines():
                    if line.startswith("[portmon]"):
                        console.print(f"  {task['task_id']}: {line}", markup=False)


def _port(event: Event) -> int | str | None:
    return None if event.port is None else named(event.protocol, event.port)


def _say(one: tuple[str, str | None, int | str | None]) -> str:
    kind, host, port = one
    return f"{kind} {host}" + (f" port {port}" if port else "")


@contextlib.contextmanager
def progress(prefix: str) -> Iterator[Any]:
    """A status line on a terminal; elsewhere a line for each change."""
    if console.is_terminal:
        with console.status(prefix) as status:
            yield lambda text: status.update(prefix + text)
        return
    last: list[str] = []

    def tell(text: str) -> None:
        _, counts, active = text.partition(", now ")
        if (active or not counts) and "tasks done" not in (active or text) and [active or text] != last:
            last[:] = [active or text]
            console.print(f"  {prefix}{active or text}", markup=False)

    yield tell


def main(arguments: list[str]) -> int:
    """Play the story, or start everything and stay.

    :returns: exit code
    """
    if arguments not in (["play"], ["up"], []):
        console.print("usage: python -m demo [play|up]\n", markup=False)
        console.print("play: a story on six hosts, which is checked (default). up: the same hosts, and they stay.")
        return 0 if arguments in (["--help"], ["-h"]) else 2
    # A SIGTERM and a closed terminal end the demo as Ctrl-C does: nothing may be left running.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="portmon-demo-"))
        keep = [False]
        stack.callback(lambda: None if keep[0] else shutil.rmtree(folder, ignore_errors=True))
        try:
            console.print("[bold]portmon[/bold]: which service processes died on my hosts?")
            demo = Demo(folder, stack)
            console.print(f"Six hosts with real SSH servers and sockets, {demo.fleet.how}.")
            if demo.shift:
                console.print(f"Their services use the ports that are told here, plus {demo.shift}.")
            demo.start()
            return stay(demo, folder) if arguments == ["up"] else tell_story(demo, keep, folder)
        except KeyboardInterrupt:
            console.print("\nstopping")
            return 0 if arguments == ["up"] else 130
        except (AirflowError, RuntimeError) as error:
            keep[0] = True
            console.print(f"\n{error}\nIts files are kept in {folder}", style="bold red", markup=False)
            return 1
        except BaseException:
            keep[0] = True
            raise
        finally:
            # A second Ctrl-C must not interrupt the end of the processes that were started.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)


def tell_story(demo: Demo, keep: list[bool], folder: Path) -> int:
    """Play all chapters.

    :returns: exit code: 0 if all came out as expected
    """
    problems = [problem for number, chapter in enumerate(CHAPTERS, 1) for problem in demo.play(number, chapter)]
    console.print()
    if problems:
        keep[0] = True
        console.print(f"{len(problems)} things did not come out as told. Files are kept in {folder}", style="bold red")
        return 1
    seconds = time.monotonic() - demo.started
    console.print(f"All {len(CHAPTERS)} chapters came out as told, in {seconds:.0f} s.", style="bold green")
    console.print("`make up` starts the same and stays: portmon's page is the entry `portmon` in Airflow's navigation.")
    return 0


HELP = """\
Commands: kill HOST PORT, start HOST PORT, cut HOST, join HOST, look (a run; there is no schedule), quit"""


def stay(demo: Demo, folder: Path) -> int:
    """Obey a person until Ctrl-C."""
    demo.airflow.wait_run(demo.airflow.trigger())
    env = folder / "portmon.env"
    names = {name: text for name, text in demo.airflow.env.items() if name.startswith("AIRFLOW")}
    names["PYTHONPATH"] = str(ROOT / "plugins")
    env.write_text(exports(names))
    env.chmod(0o600)
    console.print()
    console.print(f"portmon:  {demo.airflow.url}/portmon/")
    console.print(f"Airflow:  {demo.airflow.url}/dags/portmon")
    console.print(f"login:    {ADMIN}")
    console.print(f"password: {demo.airflow.password}", markup=False)
    console.print(f"terminal: . {env} && .venv/bin/python -m portmon status", markup=False, soft_wrap=True)
    console.print()
    for host in demo.fleet.hosts.values():
        services = ", ".join(f"{port} {name}" for port, name in host.spec.services.items())
        console.print(f"{host.spec.name:8}  {services}", markup=False)
    console.print(f"\nThe baseline run is done. Ctrl-C ends everything. {HELP}", markup=False)
    is_typed = sys.stdin.isatty()
    demo.airflow.wait(lambda: is_typed and _obey(demo, _typed()), "Ctrl-C", seconds=10**9)
    return 0


def _typed() -> list[str]:
    """The words of the next line that a person typed, without waiting for it."""
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    if not ready:
        return []
    line = sys.stdin.readline()
    return line.split() or ["help"] if line else ["quit"]


def _obey(demo: Demo, words: list[str]) -> bool:
    """Carry out a command.

    :returns: whether everything is to end
    """
    if not words:
        return False
    try:
        match words:
            case ["quit" | "exit"]:
                return True
            case ["look"]:
                console.print(f"began {demo.airflow.trigger()}", markup=False)
            case ["kill", host, port]:
                demo.host(host).kill(int(port))
                console.print("killed; `look` finds it")
            case ["start", host, port]:
                spec = demo.host(host).spec
                demo.host(host).start(int(port), spec.services.get(int(port), "python3"))
                console.print("started")
            case ["cut", host]:
                demo.host(host).cut_off()
                console.print("the host does not answer any more")
            case ["join", host]:
                demo.host(host).reconnect()
                console.print("the host answers again")
            case _:
                console.print(HELP, markup=False)
    except (KeyError, ValueError, RuntimeError) as error:
        console.print(f"that did not work: {error}. {HELP}", markup=False)
    return False


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "plugins"))
    raise SystemExit(main(sys.argv[1:]))
