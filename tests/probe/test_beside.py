"""Sockets of one address and port: which inode, user and unit is whose; and what logins started. With real sockets."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from portmon import probe
from portmon.model.event import Severity
from portmon.model.observation import Listener, Listing, Owner
from portmon.probe.beside import complete
from portmon.probe.cgroup import unit_of
from portmon.probe.rows import Process, Socket
from tests.engine.test_evaluate import World, ok
from tests.worlds.netstat import HEADER, frame, script

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = next(
    (Path(one.split()[1]) for one in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in one), None
)
LISTENS = """
import os, socket, sys
if sys.argv[1]:
    open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
open("/proc/self/comm", "w").write(sys.argv[2])
for _ in range(int(sys.argv[5])):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((sys.argv[3], int(sys.argv[4])))
    one.listen()
    print(os.fstat(one.detach()).st_ino, flush=True)
sys.stdin.read()
"""
BLUE, GREEN = "system.slice/app-blue.service", "system.slice/app-green.service"
numbers = itertools.count(2)

needs_cgroups = pytest.mark.skipif(
    CGROUPS is None or not os.access(CGROUPS, os.W_OK) or os.getuid() != 0, reason="needs root and cgroups of version 2"
)
needs_tools = pytest.mark.skipif(
    not (shutil.which("netstat", path=PATH) and shutil.which("ss", path=PATH)), reason="needs net-tools and iproute2"
)


class Services:
    """Programs that share an address and port of this machine, each in a cgroup of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = CGROUPS / f"pmtest-{os.getpid()}-{next(numbers)}" if CGROUPS is not None else None
        with socket.create_server(("127.0.77.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.running: list[subprocess.Popen[str]] = []

    def start(self, cgroup: str, comm: str = "app", *, sockets: int = 1) -> tuple[subprocess.Popen[str], list[int]]:
        """The program, and the inodes of its sockets."""
        place = ""
        if self.root is not None and cgroup:
            (self.root / cgroup).mkdir(parents=True, exist_ok=True)
            place = str(self.root / cgroup)
        command = [sys.executable, "-c", LISTENS, place, comm, "127.0.77.1", str(self.port), str(sockets)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        assert process.stdout is not None
        return process, [int(process.stdout.readline()) for _ in range(sockets)]

    def stop(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    def look(self, *, skip: tuple[str, ...] = (), user: int | None = None) -> Listing:
        """What the probe shows of the port."""
        nonce = probe.new_nonce()
        command = ["sh", "-c", probe.command(nonce, probe.Question(skip=skip))]
        env = {"PATH": f"{self.folder}:{PATH}"}
        done = subprocess.run(command, capture_output=True, check=True, env=env, user=user, timeout=60)
        return probe.read_frame(done.stdout, nonce)

    def rows(self, **asked: Any) -> list[Listener]:
        return [one for one in self.look(**asked).listeners if one.port == self.port]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    found = Services(tmp_path)
    yield found
    for process in found.running:
        found.stop(process)
    if found.root is not None and found.root.exists():
        for folder, _, _ in os.walk(found.root, topdown=False):
            Path(folder).rmdir()


def told_of(services: Services, *steps: Callable[[], object]) -> list[list[tuple[object, ...]]]:
    """The events of the port: of a first look, and of one after each step."""
    world, found = World(), []
    for at, step in enumerate((lambda: None, *steps)):
        step()
        seen = services.look()
        rows = tuple(one for one in seen.listeners if one.port == services.port)
        # Not random, and not of this machine's range.
        world.see(ok(at, listeners=rows, tool=seen.tool, ephemeral=(1, 2)))
        told = [event for event in world.last.events if event.port is not None]
        found.append([(event.kind.value, event.severity, event.details.get("owner")) for event in told])
    return found


# ── sockets of one address and port ─────────────────────────────────────────────────────────────


@needs_cgroups
@needs_tools
@pytest.mark.parametrize("order", [(BLUE, GREEN), (GREEN, BLUE)])
@pytest.mark.parametrize("skip", [(), ("netstat",)], ids=len)
def test_each_service_has_its_own_socket(services: Services, order: tuple[str, str], skip: tuple[str, ...]) -> None:
    made = {unit_of(f"/{cgroup}"): services.start(cgroup) for cgroup in order}
    seen = {one.unit: (one.pid, one.inode) for one in services.rows(skip=skip)}
    assert seen == {unit: (process.pid, inodes[0]) for unit, (process, inodes) in made.items()}


@needs_cgroups
@needs_tools
@pytest.mark.parametrize("ends", [BLUE, GREEN])
@pytest.mark.parametrize("shows", ["cgroups", "no cgroups"])
def test_the_end_of_either_is_told(services: Services, ends: str, shows: str) -> None:
    if shows == "no cgroups":
        without_cgroups(services.folder)
    made = {cgroup: services.start(cgroup, Path(cgroup).stem)[0] for cgroup in (BLUE, GREEN)}
    told = told_of(services, lambda: services.stop(made[ends]), lambda: None)
    program = f"{Path(ends).stem} ({Path(ends).name})"
    assert told == [[], [("owner_gone", Severity.CRITICAL, program)], []]


@needs_cgroups
@needs_tools
@pytest.mark.parametrize("shows", ["cgroups", "no cgroups"])
def test_an_instance_that_leaves_another_its_port_is_no_restart(services: Services, shows: str) -> None:
    if shows == "no cgroups":
        without_cgroups(services.folder)
    one, _ = services.start("system.slice/app@1.service")
    services.start("system.slice/app@2.service")
    assert told_of(services, lambda: services.stop(one), lambda: None) == [[], [], []]


def without_cgroups(folder: Path) -> None:
    """As ss before 5.8, and any of a kernel before 5.9."""
    script(folder / "ss", "#!/bin/sh\n/usr/bin/ss \"$@\" | sed 's/ cgroup:[^ ]*//'\n")


@needs_cgroups
@needs_tools
def test_an_inode_that_may_be_anothers_is_not_shown(services: Services) -> None:
    without_cgroups(services.folder)
    for cgroup in (BLUE, GREEN):
        services.start(cgroup)
    rows = services.rows()
    assert {(one.unit, one.inode) for one in rows} == {("app-blue.service", None), ("app-green.service", None)}
    # The user is the same, whichever is whose.
    assert {one.uid for one in rows} == {os.getuid()}


@needs_cgroups
@needs_tools
def test_programs_of_one_unit_that_can_not_be_told_apart(services: Services) -> None:
    """As of a supervisor."""
    for comm in ("alpha", "beta"):
        services.start("system.slice/supervisor.service", comm)
    rows = services.rows()
    assert {(one.comm, one.unit, one.inode) for one in rows} == {
        ("alpha", "supervisor.service", None),
        ("beta", "supervisor.service", None),
    }


@needs_tools
@pytest.mark.parametrize(("programs", "sockets"), [(1, 3), (3, 1)])
def test_workers_with_a_socket_each(services: Services, programs: int, sockets: int) -> None:
    """Which of them has which makes no difference: a restart of all is one, and of some is none."""
    without_cgroups(services.folder)
    made = {inode for _ in range(programs) for inode in services.start("", sockets=sockets)[1]}
    rows = services.rows()
    assert {one.inode for one in rows} == made
    assert len(rows) == 3


@needs_cgroups
@needs_tools
@pytest.mark.parametrize("skip", [(), ("netstat",)], ids=len)
def test_without_privileges_each_socket_has_its_unit(services: Services, skip: tuple[str, ...]) -> None:
    assert services.root is not None
    services.folder.chmod(0o755)
    made = {unit_of(f"/{cgroup}"): services.start(cgroup)[1][0] for cgroup in (BLUE, GREEN)}
    rows = services.rows(skip=skip, user=65534)
    assert {one.unit: one.inode for one in rows} == made
    assert {one.pid for one in rows} == {None}


def netstat_row(address: str, owner: str) -> str:
    proto = "tcp6" if ":" in address else "tcp"
    return f"{proto:<11}0      0 {f'{address}:546':<23} {'*:*':<23} LISTEN      {owner:<20}"


def of_place(own: list[str], found: list[str]) -> list[tuple[str | None, int | None, int | None, str | None]]:
    """Program, uid, inode and unit of rows of netstat beside rows of ss."""
    body = "\n".join([HEADER.rstrip("\n"), *own])
    second = "\n".join(["Recv-Q Send-Q Local Address:Port Peer Address:PortProcess", *found])
    proc = "/proc/self/status:Uid:\t0\t0\t0\t0\n/proc/7/status:Name:\ta\n/proc/8/status:Name:\tb"
    listeners = probe.read_frame(frame(body, ssx=second, proc=proc), "n0n0").listeners
    return [(one.comm, one.uid, one.inode, one.unit) for one in listeners]


def test_one_link_local_address_on_two_interfaces() -> None:
    """netstat prints no interface, and ss does."""
    own = [netstat_row("fe80::1", "7/a"), netstat_row("fe80::1", "8/b")]
    found = [
        f"0 128 [fe80::1]%{zone}:546 [::]:* uid:{uid} ino:{uid} sk:1 <->" for zone, uid in (("br0", 5), ("br1", 6))
    ]
    assert of_place(own, found) == [("a", None, None, None), ("b", None, None, None)]
    assert of_place(own[:1], found[:1]) == [("a", 5, 5, None)]
    # What all of them say is true of each.
    alike = [row.replace("uid:6", "uid:5").replace(" <->", " cgroup:/s/c.service <->") for row in found]
    assert of_place(own, alike) == [("a", 5, None, "c.service"), ("b", 5, None, "c.service")]


def test_a_socket_that_came_between_the_two_listings() -> None:
    rows = [
        f"0 128 10.0.0.1:546 0.0.0.0:* uid:{ino} ino:{ino} sk:1 cgroup:/s/{unit}.service <->"
        for ino, unit in ((5, "a"), (6, "b"))
    ]
    assert of_place([netstat_row("10.0.0.1", "7/a")], rows) == [("a", None, None, None)]
    both = [netstat_row("10.0.0.1", "7/a"), netstat_row("10.0.0.1", "8/b")]
    assert of_place(both, rows[:1]) == [("a", None, None, None), ("b", None, None, None)]


WILD = ("0.0.0.0", 80)
PLACES = [WILD, ("::", 80), ("10.0.0.1", 81)]
UNITS = [None, "a.service", "b.service", "session-3.scope"]
Made = tuple[tuple[str, int], str | None, str, bool]
Holder = tuple[tuple[str, int], str | None, str | None]
sockets: st.SearchStrategy[list[Made]] = st.lists(
    # Place, unit of the process, its name, and whether it made the socket itself.
    st.tuples(st.sampled_from(PLACES), st.sampled_from(UNITS), st.sampled_from(["x", "y"]), st.booleans()),
    max_size=8,
)


@given(sockets, st.randoms(use_true_random=False), st.sets(st.integers(0, 7)))
@example([(WILD, "a.service", "x", True), (WILD, "a.service", "x", False)], Random(0), set())
@example([(WILD, "a.service", "x", False), (WILD, None, "y", True)], Random(0), set())
def test_no_holder_has_an_inode_of_another(made: list[Made], random: Random, missing: set[int]) -> None:
    processes: dict[int, Process] = {}
    listed: list[Socket] = []
    by_ss: list[Socket] = []
    truth: dict[Holder, Counter[int]] = defaultdict(Counter)
    for number, (place, unit, comm, is_own) in enumerate(made):
        processes[number + 1] = Process(0, comm, unit)
        listed.append(Socket("tcp", place[0], None, place[1], (Owner(number + 1, comm),)))
        cgroup = f"/system.slice/{unit or 'mover.service'}" if is_own else "/init.scope"
        if number not in missing:
            by_ss.append(Socket("tcp", place[0], None, place[1], uid=0, inode=number + 100, cgroup=cgroup))
        truth[place, unit, comm][number + 100] += 1
    random.shuffle(listed)
    random.shuffle(by_ss)
    complete(listed, by_ss, processes)
    found: dict[Holder, Counter[int]] = defaultdict(Counter)
    for one in listed:
        process = processes[one.owners[0].pid]
        if one.inode is not None:
            found[(one.address, one.port), process.unit, process.comm][one.inode] += 1
    for holder, inodes in found.items():
        assert inodes <= truth[holder]
    if missing:
        return
    for place in PLACES:
        holders = [holder for holder in truth if holder[0] == place]
        units = [unit for _, unit, _ in holders]
        is_clear = len(holders) == 1 or (
            len(set(units)) == len(units) and all(own for at, unit, _, own in made if at == place and unit)
        )
        if is_clear:
            assert all(found[holder] == truth[holder] for holder in holders)


# ── what logins started ─────────────────────────────────────────────────────────────────────────

SESSION = "user.slice/user-0.slice/session-3.scope"


@needs_cgroups
@needs_tools
@pytest.mark.parametrize(
    ("cgroup", "shown", "severity"),
    [
        (SESSION, "session-3.scope", Severity.WARNING),
        ("user.slice/user-0.slice/session-c2.scope", "session-c2.scope", Severity.WARNING),
        ("user.slice/user-0.slice/user@0.service/app.slice/sync.service", "sync.service", Severity.CRITICAL),
        (BLUE, "app-blue.service", Severity.CRITICAL),
    ],
)
def test_what_a_login_started_is_young_at_the_baseline(
    services: Services, cgroup: str, shown: str, severity: Severity
) -> None:
    process, _ = services.start(cgroup, "socat")
    (own,) = services.rows()
    assert own.unit == shown
    told = told_of(services, lambda: services.stop(process))
    assert [event[:2] for event in told[1]] == [("down", severity)]


@needs_cgroups
@needs_tools
def test_a_program_goes_on_in_a_login(services: Services) -> None:
    """A person who stops a service and starts its program by hand makes a restart of it; and back again."""
    first, _ = services.start(BLUE, "app")
    by_hand: list[subprocess.Popen[str]] = []

    def to_login() -> None:
        services.stop(first)
        by_hand.append(services.start(SESSION, "app")[0])

    def back() -> None:
        services.stop(by_hand[0])
        services.start(BLUE, "app")

    assert [[event[0] for event in look] for look in told_of(services, to_login, back)] == [
        [],
        ["restarted"],
        ["restarted"],
    ]


def test_ports_that_sshd_forwards_belong_to_the_login() -> None:
    """For X11 and with -R, on both families; the server's own port belongs to its service."""
    rows = [
        ("127.0.0.1", 6010, "7/sshd: app@pts/0"),
        ("::1", 6010, "7/sshd: app@pts/0"),
        ("0.0.0.0", 22, "8/sshd: /usr/sb"),
    ]
    body = [HEADER.rstrip("\n")]
    second = ["Recv-Q Send-Q Local Address:Port Peer Address:PortProcess"]
    cgroups = {"7": f"/{SESSION}", "8": "/system.slice/ssh.service"}
    for ino, (address, port, owner) in enumerate(rows, 5):
        six = ":" in address
        body.append(
            f"{'tcp6' if six else 'tcp':<11}0      0 {f'{address}:{port}':<23} {'*:*':<23} LISTEN      {owner:<20}"
        )
        local = f"[{address}]" if six else address
        second.append(f"0 128 {local}:{port} *:* ino:{ino} sk:1 cgroup:{cgroups[owner[0]]} <->")
    proc = "/proc/self/status:Uid:\t0\t0\t0\t0\n" + "\n".join(
        f"/proc/{pid}/status:Name:\tsshd\n/proc/{pid}/cgroup:0::{cgroup}" for pid, cgroup in cgroups.items()
    )
    seen = probe.read_frame(frame("\n".join(body), ssx="\n".join(second), proc=proc), "n0n0")
    assert [(one.port, one.unit, one.inode) for one in seen.listeners] == [
        *((6010, "session-3.scope", inode) for inode in (5, 6)),
        (22, "ssh.service", 7),
    ]
