"""One host that does what it can to harm the watch over 40 honest ones, through real logins, a sweep and an evaluation.

In each run one honest host loses a service: that death has to be told in the same run, whatever the hostile host does,
and no other honest host may be told of. What each trick costs is printed as a table in the end, with ``-s`` or without.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
import pytest
from sqlalchemy import func, update
from sqlalchemy import select as sql
from sqlalchemy.engine import URL

import portmon
from portmon.config import Retention
from portmon.model.observation import Observation, Outcome
from portmon.storage import archive, contents, tables
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.netstat import HEADER, listing, script
from tests.worlds.postgres import Cluster
from tests.worlds.sshd import Server, free_port, needs_sshd, openssh, python_server

pytestmark = [pytest.mark.slow, needs_sshd]

HONEST = [f"h{number:02}" for number in range(40)]
HOSTILE = "evil"
PORTS = (22, 8080)
MIB = 1024**2
MEMORY = 280.0
"""MiB that a sweep or an evaluation may have."""
SWEEP_SECONDS = 60
"""Of one sweep, after which it ends by itself; ten minutes less a look in production."""
PATIENCE = 150
"""Seconds after which a task is given up: the trick has won."""
EVENTS = 300
"""Events of one host and run at most."""
PER_HOST = 4 * MIB
"""``retention.per_host`` of this suite."""


# ── the hosts ───────────────────────────────────────────────────────────────────────────────────


class Hosts:
    """What each host answers: one sshd for all, which tells them apart by the address that was dialled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.addresses = {name: f"127.0.1.{number}" for number, name in enumerate((*HONEST, HOSTILE), 1)}
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in ("netstat", "ss"):
            script(
                self.bin / tool,
                f"#!/bin/sh\nset -- $SSH_CONNECTION; f={folder}/$3/{tool}; [ -x $f ] && exec $f; cat $f.txt 2>/dev/null\n",
            )
        script(
            self.bin / "login",
            f'#!/bin/sh\nset -- $SSH_CONNECTION; f={folder}/$3/login; [ -x $f ] && exec $f; exec sh -c "$SSH_ORIGINAL_COMMAND"\n',
        )
        for name in self.addresses:
            self.of(name).mkdir()
            self.shows(name, *PORTS)

    def of(self, name: str) -> Path:
        return self.folder / self.addresses[name]

    def shows(self, name: str, *ports: int) -> None:
        """What its netstat lists."""
        (self.of(name) / "netstat.txt").write_text(listing(*ports))

    def runs(self, name: str, tool: str, text: str) -> None:
        """Give a host a tool of its own; ``login`` for what it runs instead of what it is asked."""
        script(self.of(name) / tool, f"#!{sys.executable} -ES\n{PRELUDE}\n{text}")

    def all_honest(self) -> None:
        for name in self.addresses:
            for path in self.of(name).iterdir():
                path.unlink()
            self.shows(name, *PORTS)


PRELUDE = '''
import os, pathlib, random, re, sys, time
here = pathlib.Path(__file__).parent
out = sys.stdout.buffer
found = re.search(r"\\bn=([A-Za-z0-9]{4,64});", os.environ.get("SSH_ORIGINAL_COMMAND", ""))
nonce = found[1] if found else ""
HIGH = bytes(128 + n % 128 for n in range(256))
# How often it was asked, this time included.
with (here / "calls").open("a+b") as file:
    file.write(b".")
    calls = file.tell()
HEADER = """[HEADER]"""
ROW = "tcp        0      0 %-23s %-23s LISTEN      %-19s \\n"
def row(port, program, pid=2007):
    return ROW % (f"0.0.0.0:{port}", "0.0.0.0:*", f"{pid}/{program}"[:19])
def honest():
    os.execvp("sh", ["sh", "-c", os.environ["SSH_ORIGINAL_COMMAND"]])
def old(body, netns="4026531840", proc="", ver="-", boot="b1", ssx=""):
    """A frame of version 1, with lengths that are right."""
    body = body.rstrip("\\n")
    print(f"\\n@@{nonce} BEGIN v=1 tool=netstat-W uid=0 via=- bytes={len(body)} boot={boot} range=32768-60999 netns={netns} ver={ver}\\n{body}\\n"
          f"@@{nonce} SSX bytes={len(ssx)}\\n{ssx}\\n@@{nonce} PROC\\n{proc}@@{nonce} END")
def new(body, tool="netstat-W", netns="4026531840", pid1="12", ver="-", proc="/proc/self/status:Uid:\\t0\\t0\\t0\\t0"):
    """A frame of version 2."""
    body = body.rstrip("\\n")
    payload = f"@@{nonce} LIST tool={tool} ended=0 via=- bytes={len(body)} ver={ver}\\n{body}\\n@@{nonce} PROC bytes={len(proc)}\\n{proc}"
    print(f"\\n@@{nonce} BEGIN v=2 bytes={len(payload)} tcp=1 tcp6=1 netns={netns} pid1={pid1} tried=-\\n{payload}\\n@@{nonce} END volatile uptime=1.0 clock=- sockets=3")
'''.replace("[HEADER]", HEADER)


@dataclass(frozen=True)
class Trick:
    """What the hostile host does.

    :param tool: what it replaces: ``netstat``, ``ss``, or ``login`` for everything
    :param text: a Python program
    :param runs: how many
    :param accepted: whether what it shows is evidence; None if either may be
    :param error: what is said of its look, in part
    :param alike: the other database has nothing to do with it: in the full run only
    :param compress: of the connection; None leaves it out
    :param bomb: it has a server of its own that sends one
    :param damage: what it showed is damaged in the archive
    """

    text: str = ""
    tool: str = "login"
    runs: int = 1
    accepted: bool | None = False
    databases: Sequence[str] = ("sqlite",)
    error: str = ""
    alike: bool = False
    compress: bool | None = None
    name: str = HOSTILE
    bomb: bool = False
    damage: bool = False


BOTH = ("sqlite", "postgresql")
TRICKS = {
    "nothing": Trick(accepted=True, databases=BOTH),
    "namespace out of range": Trick("old(HEADER + row(22, 'a'), netns=2**63)", error="netns=", alike=True),
    "namespace out of range, new frame": Trick("new(HEADER + row(22, 'a'), netns=2**63)", error="netns="),
    "start time out of range": Trick("new(HEADER + row(22, 'a'), pid1=2**63)", error="pid1="),
    "fields without an end": Trick(
        "new(HEADER + row(22, 'a'), ver='iproute2-' * 200_000, netns='1' * 1_500_000)", error="netns="
    ),
    "old fields without an end": Trick(
        "old(HEADER + row(22, 'a'), boot='b' * 1_000_000, netns='1' * 1_500_000)", error="netns="
    ),
    "blanks behind a timer": Trick(
        "print(HEADER.rstrip() + '     Timer\\n' + row(22, 'a').rstrip() + ' ' * 3_900_000 + 'x')",
        "netstat",
        error="cut or unknown row",
    ),
    "owners of ss without an end": Trick(
        "print('State Recv-Q Send-Q Local Address:Port Peer Address:Port\\nLISTEN 0 1 *:80 *:* users:(' + '(\"\",1,2),' * 390_000)",
        "ss",
        accepted=None,
    ),
    # As if ss had cut the list by itself, which it does.
    "owners of ss without an end, and no netstat": Trick(
        "new('State Recv-Q Send-Q Local Address:Port Peer Address:Port\\nLISTEN 0 1 *:80 *:* users:('"
        " + '(\"\",1,2),' * 390_000, tool='ss')",
        accepted=None,
    ),
    "names that forge markers": Trick(
        "forged = f'@@{nonce} SSX bytes=0\\n\\n@@{nonce} PROC\\n@@{nonce} END\\n'\n"
        "old(HEADER + row(22, f'a\\n@@{nonce} END') + row(80, 'b') + forged)",
        error="cut or mixed with another one",
        alike=True,
    ),
    "names that no database takes": Trick(
        "sys.stdout.reconfigure(errors='surrogateescape')\nold(HEADER + row(22, 'x\\0\\udcff\\udc80') + row(8080, '::group::x\\x1b[2J'))",
        accepted=True,
        databases=BOTH,
    ),
    "stderr without an end": Trick("while True: sys.stderr.write('x' * 65536)", error="command_timeout"),
    "stdout without an end": Trick("while True: print('x' * 65536)", error="max_output"),
    "a byte a second": Trick("while True: out.write(b'x'), out.flush(), time.sleep(1)", error="command_timeout"),
    "no second answer": Trick(
        "(here / 'netstat.txt').write_text(HEADER + row(22, 'nginx: master'))\nhonest() if calls == 1 else time.sleep(600)",
        error="no second answer that confirms it",
    ),
    "an inflate bomb": Trick(bomb=True, error="connection broke"),
    "an inflate bomb, compression asked for": Trick(bomb=True, compress=True, error="inflates to more than"),
    "20,000 renamed ports": Trick(
        "old(HEADER + ''.join(row(p, f'{calls:x}-{p:x}') for p in range(1, 20_001)))",
        runs=3,
        accepted=True,
        databases=BOTH,
    ),
    "4,000 programs on a port": Trick(
        "old(HEADER + row(22, 'sshd') + ''.join(row(8080, f'{n:x}', 3000 + n) for n in range(4000 + calls)))",
        runs=3,
        accepted=True,
        alike=True,
    ),
    # Bytes that compress as badly as they can, in a field that no rule reads.
    "two answers of 4 MiB in turn": Trick(
        "random.seed(calls)\n"
        "sys.stdout.reconfigure(encoding='latin-1')\n"
        "old(HEADER + row(22, 'sshd') + row(8080, 'a'), proc='\\n'.join("
        "random.randbytes(200).translate(HIGH).decode('latin-1') for n in range(20_000)) + '\\n')",
        runs=5,
        accepted=None,
    ),
    "a damaged row": Trick(damage=True, databases=BOTH),
    "a name like a marker of logs": Trick("print('nothing')", name="::group::x", error="holds no frame"),
}


# ── the world ───────────────────────────────────────────────────────────────────────────────────


class Worker:
    """See :mod:`tests.airflow.hostile_worker`."""

    def __init__(self, folder: Path) -> None:
        plugins, root = Path(portmon.__file__).parents[1], Path(__file__).parents[2]
        (folder / "home").mkdir()
        env = {**os.environ, "PYTHONPATH": f"{plugins}:{root}", "HOME": str(folder / "home")}
        with (folder / "worker.err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.airflow.hostile_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                env=env,
                cwd=root,
                text=True,
            )
        self.folder = folder

    def does(self, task: str, **values: Any) -> dict[str, Any]:
        """Let it do something, in a process of its own.

        :raises AssertionError: it raised, or did not end
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"task": task, "patience": PATIENCE, **values}) + "\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], PATIENCE + 60)[0], "no answer of the worker"
        line = self.process.stdout.readline()
        assert line, (self.folder / "worker.err").read_text()[-4000:]
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, f"{task}: {answer['error']}\n{answer.get('trace', '')}"
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@dataclass
class World:
    """40 honest hosts and one more, their SSH server, and a database in which they were seen once.

    :param seen_once: a database that knows what all of them showed then
    """

    hosts: Hosts
    server: Server
    worker: Worker
    folder: Path
    ssh_port: int
    seen_once: Path
    figures: list[Sequence[Any]] = field(default_factory=list)

    def inventory(self, hostile: Mapping[str, Any] = {}) -> list[dict[str, Any]]:
        listed = [
            {"id": name, "name": name, "address": address, "port": self.ssh_port}
            for name, address in self.hosts.addresses.items()
        ]
        return [host | dict(hostile) if host["id"] == HOSTILE else host for host in listed]

    def sweep(
        self, url: str, run: str, *, hostile: Mapping[str, Any] = {}, compress: bool | None = None
    ) -> dict[str, Any]:
        extra = {"key_file": str(self.server.user_key)} | ({} if compress is None else {"compress": compress})
        return self.worker.does(
            "sweep",
            url=text_of(url),
            run=run,
            config=CONFIG,
            hosts=self.inventory(hostile),
            connection={"conn_type": "ssh", "login": self.server.user, "extra": extra},
            seconds=SWEEP_SECONDS,
            log=str(self.folder / f"{run}.sweep.log"),
        )

    def diff(self, url: str | URL, run: str, digest: str) -> dict[str, Any]:
        return self.worker.does(
            "diff", url=text_of(url), run=run, config=CONFIG, digest=digest, log=str(self.folder / f"{run}.diff.log")
        )


CONFIG: dict[str, Any] = {
    "ssh": {"conn_id": "ssh_test", "connect_timeout": "5s", "command_timeout": "6s"},
    "scan": {"sweep_above": 0, "confirm_after": "500ms"},
    **({"retention": {"per_host": PER_HOST}} if "per_host" in Retention.model_fields else {}),
}


def text_of(url: str | URL) -> str:
    return url if isinstance(url, str) else url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hostile")
    hosts = Hosts(folder)
    port = free_port()
    # Every address of 127.0.0.0/8, and logins from there alone.
    config = f"ListenAddress 0.0.0.0:{port}\nAllowUsers *@127.0.0.0/8\nMaxStartups 1000\nForceCommand {hosts.bin}/login"
    path = f"{hosts.bin}:/usr/sbin:/usr/bin:/sbin:/bin"
    (folder / "sshd").mkdir()
    with openssh(folder / "sshd", config=config, path=path) as server:
        worker = Worker(folder)
        world = World(hosts, server, worker, folder, port, folder / "seen-once.db")
        database = migrated(world.seen_once)
        look_once(world, database.url)
        # What is in the log beside it moves into the file.
        database.dispose()
        yield world
        worker.close()


def look_once(world: World, url: str | URL) -> None:
    """A run in which every host is honest."""
    world.hosts.all_honest()
    swept = world.sweep(url, "base")
    assert swept["counts"] == {"hosts": 41, "ok": 41, "failed": 0, "untried": 0}
    assert world.diff(url, "base", swept["digest"])["counts"]["evaluated"] == 41


@pytest.fixture
def knowing(world: World, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Database]]:
    """A database of a kind in which every host was seen once."""
    made: list[Database] = []

    def open_one(kind: str) -> Database:
        if kind == "sqlite":
            path = tmp_path / "state.db"
            shutil.copyfile(world.seen_once, path)
            path.chmod(0o600)
            made.append(Database(f"sqlite:///{path}"))
        else:
            cluster: Cluster = request.getfixturevalue("postgres_cluster")

            def fill(url: str) -> None:
                template = Database(url)
                template.migrate()
                template.dispose()
                look_once(world, url)

            made.append(Database(cluster.copy_of("hostile", fill)))
        return made[-1]

    yield open_one
    for one in made:
        one.dispose()


@pytest.fixture(scope="module", autouse=True)
def figures(world: World, request: pytest.FixtureRequest) -> Iterator[None]:
    """Print in the end what each trick cost."""
    yield
    names = ("trick", "database", "sweep s", "MiB", "diff s", "MiB", "events", "KiB stored")
    rows = [names, *world.figures]
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(names))]
    lines = [
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))


# ── the tricks ──────────────────────────────────────────────────────────────────────────────────


def cases() -> Iterator[Any]:
    """Each trick with each of its databases; the full run has more of them."""
    for name, trick in TRICKS.items():
        for kind in trick.databases:
            yield pytest.param(name, kind)
        if trick.alike:
            yield pytest.param(name, "postgresql", marks=pytest.mark.full)


@pytest.mark.parametrize(("trick", "kind"), list(cases()))
def test_one_hostile_host(
    world: World, knowing: Callable[[str], Database], host_key: paramiko.PKey, trick: str, kind: str
) -> None:
    does = TRICKS[trick]
    database = knowing(kind)
    world.hosts.all_honest()
    if does.text:
        world.hosts.runs(HOSTILE, does.tool, does.text)
    dying = HONEST[7 : 7 + does.runs]
    costs = []
    with contextlib.ExitStack() as stack:
        hostile: dict[str, Any] = {"name": does.name}
        if does.damage:
            # What says nothing new is not read.
            world.hosts.shows(HOSTILE, *PORTS, 9090)
        if does.bomb:
            server = stack.enter_context(bombing(host_key, world.server.user_key))
            hostile |= {"address": "127.0.0.1", "port": server}
        for number, victim in enumerate(dying):
            world.hosts.shows(victim, PORTS[0])
            run = f"{re.sub(r'[^a-z0-9]+', '-', trick.lower())}-{kind}-{number}"
            before = stored(database)
            swept = world.sweep(database.url, run, hostile=hostile, compress=does.compress)
            assert swept["counts"]["untried"] == 0
            if does.damage:
                damage(database, run)
            evaluated = world.diff(database.url, run, swept["digest"])
            after = stored(database)
            costs.append((swept, evaluated, after - before))
            honest_are_told_of(database, run, victim)
            evil = look_of(database, run)
            if does.accepted is not None:
                assert (evil.outcome is Outcome.OK) is does.accepted
            if does.error:
                # On a busy machine the time of the command may be over first.
                assert any(text in (evil.error or "") for text in (does.error, "no complete answer within"))
            assert events_of(database, run, HOSTILE) <= EVENTS
            for step in ("sweep", "diff"):
                nothing_marks_the_log(world.folder / f"{run}.{step}.log")
    world.figures.append(
        (
            trick,
            kind,
            f"{max(swept['seconds'] for swept, _, _ in costs):.1f}",
            f"{max(swept['mebibytes'] for swept, _, _ in costs):.0f}",
            f"{max(evaluated['seconds'] for _, evaluated, _ in costs):.1f}",
            f"{max(evaluated['mebibytes'] for _, evaluated, _ in costs):.0f}",
            max(events_of(database, f"{run[:-1]}{number}", HOSTILE) for number in range(does.runs)),
            f"{max(added for _, _, added in costs) / 1024:.0f}",
        )
    )
    for swept, evaluated, _ in costs:
        assert swept["seconds"] < SWEEP_SECONDS
        assert evaluated["seconds"] < SWEEP_SECONDS
        assert swept["mebibytes"] < MEMORY
        assert evaluated["mebibytes"] < MEMORY
    # Three times retention.per_host in a day, and the honest ones' few bytes.
    assert sum(added for _, _, added in costs) < 3 * PER_HOST + MIB


def honest_are_told_of(database: Database, run: str, victim: str) -> None:
    """Of the honest hosts one death is told, and nothing else; all of them gave evidence."""
    with database.begin() as conn:
        looks = {look.host_id: look for look in archive.observations_of(conn, run)}
        rows = conn.execute(
            sql(tables.events.c.host_id, tables.events.c.kind, tables.events.c.port).where(
                tables.events.c.run_id == run, tables.events.c.kind != "duplicate"
            )
        ).all()
    told = {tuple(row) for row in rows if row.host_id != HOSTILE}
    assert told == {(victim, "down", PORTS[1])}
    assert {name: looks[name].outcome for name in HONEST} == dict.fromkeys(HONEST, Outcome.OK)


def look_of(database: Database, run: str) -> Observation:
    """What came of the hostile host's look."""
    with database.begin() as conn:
        return next(look for look in archive.observations_of(conn, run) if look.host_id == HOSTILE)


def events_of(database: Database, run: str, host_id: str) -> int:
    events = tables.events
    query = sql(func.count()).where(events.c.run_id == run, events.c.host_id == host_id)
    with database.begin() as conn:
        return int(conn.execute(query).scalar_one())


def stored(database: Database) -> int:
    """Bytes that the archive, events and state of ports take, compressed as they are."""
    with database.begin() as conn:
        size = contents.sizes(conn)[2]
        texts = (tables.events.c.reason, tables.events.c.details, tables.ports.c.programs, tables.ports.c.pids)
        size += sum(
            int(conn.execute(sql(func.coalesce(func.sum(func.length(text)), 0))).scalar_one()) for text in texts
        )
        # What a row takes besides, roughly.
        for table in (tables.events, tables.ports, tables.deliveries, tables.observations):
            size += 200 * int(conn.execute(sql(func.count()).select_from(table)).scalar_one())
    return size


def damage(database: Database, run: str) -> None:
    """Flip a bit in the middle of what the hostile host showed."""
    with database.begin() as conn:
        digest = next(look.facts for look in archive.observations_of(conn, run) if look.host_id == HOSTILE)
        data = bytearray(
            conn.execute(sql(tables.contents.c.data).where(tables.contents.c.digest == digest)).scalar_one()
        )
        data[len(data) // 2] ^= 4
        conn.execute(update(tables.contents).where(tables.contents.c.digest == digest).values(data=bytes(data)))


def nothing_marks_the_log(path: Path) -> None:
    """No line holds what Airflow's page folds a log on, wherever it stands."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.search("::(end)?group::", line)] == []


@contextlib.contextmanager
def bombing(host_key: paramiko.PKey, user_key: Path) -> Iterator[int]:
    """A server that sends 200 MiB of zeros as one deflated packet when a command is run; yields its port."""

    def explode(channel: paramiko.Channel, command: str) -> None:
        transport = channel.get_transport()
        packetizer = transport.packetizer
        engine = getattr(packetizer, "_Packetizer__compress_engine_out")  # noqa: B009 - a private name
        deflate = engine.z if engine is not None else zlib.compressobj(9)
        bomb = b"".join(deflate.compress(bytes(MIB)) for _ in range(200)) + deflate.flush(zlib.Z_FULL_FLUSH)
        packetizer.set_outbound_compressor(lambda data: bomb)
        packet = paramiko.Message()
        packet.add_byte(bytes([2]))
        transport._send_message(packet)
        channel.recv(1)

    offered = paramiko.Transport._preferred_compression
    paramiko.Transport._preferred_compression = ("zlib@openssh.com", "zlib", "none")
    try:
        with python_server(host_key=host_key, authorized=user_key, run=explode) as server:
            yield server.port
    finally:
        paramiko.Transport._preferred_compression = offered
