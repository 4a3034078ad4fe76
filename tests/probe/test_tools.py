"""The command, run for real with tools that hang, die, lie or are odd; and the frames that come of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from portmon import probe
from portmon.errors import ContradictionError, ProbeError
from portmon.model.observation import Listing
from portmon.probe import Question
from tests.worlds.netstat import frame, netstat, script, ss_of

SHORT = Question(limit=2)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def held() -> Iterator[int]:
    """A port that is listened on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class Host:
    """This machine with tools of its own first in PATH. It has to have the real ones."""

    def __init__(self, folder: Path, tools: Mapping[str, str]) -> None:
        lacking = [name for name in ("netstat", "ss") if not shutil.which(name, path=PATH)]
        if lacking:
            pytest.skip(f"{' and '.join(lacking)} of net-tools and iproute2 are not installed")
        self.folder = folder
        for name, text in tools.items():
            script(folder / name, f"#!/bin/sh\n{text}\n")

    def run(self, question: Question = SHORT, **env: str) -> tuple[bytes, str]:
        """What the command prints, and its nonce."""
        nonce = probe.new_nonce()
        done = subprocess.run(
            ["sh", "-c", probe.command(nonce, question)],
            capture_output=True,
            check=False,
            env={"PATH": f"{self.folder}:{PATH}", **env},
            start_new_session=True,
            timeout=60,
        )
        return done.stdout, nonce

    def ask(self, question: Question = SHORT, **env: str) -> Listing:
        output, nonce = self.run(question, **env)
        found = probe.cut_out(output, nonce)
        kept, seen = found.archived(), probe.listing_of(found)
        assert probe.read_archived(kept) == seen
        return seen


def ports(seen: Listing) -> set[int]:
    return {one.port for one in seen.listeners}


def left_behind(seconds: str) -> list[str]:
    """Processes that sleep for so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", seconds.encode()]:
            found.append(path.parent.name)
    return found


HANGS = {
    "it sleeps": "exec sleep {}",
    "a child holds the pipe": "sleep {}",
    "a child holds the pipe, and TERM is ignored": 'trap "" TERM; sleep {} & wait',
    "a child of another session holds the pipe": "setsid sleep {} & wait",
    "it prints half of it": "head -c 100 /proc/net/tcp; exec sleep {}",
}


@pytest.mark.parametrize("kind", sorted(HANGS))
def test_a_tool_that_hangs_makes_room_for_the_next_one(tmp_path: Path, held: int, kind: str) -> None:
    seconds = f"{700 + sorted(HANGS).index(kind)}.5{os.getpid()}"
    seen = Host(tmp_path, {"netstat": HANGS[kind].format(seconds)}).ask()
    assert (seen.tool, seen.hung) == ("ss", ("netstat",))
    assert held in ports(seen)
    assert left_behind(seconds) == []


@pytest.mark.parametrize("limiter", ["none", "toybox", "of another kind"])
def test_whatever_limits_it(tmp_path: Path, held: int, limiter: str) -> None:
    seconds = f"720.5{os.getpid()}{len(limiter)}"
    commands = {
        "none": "exit 127",
        "toybox": 'exec toybox timeout "$@"',
        # busybox before 1.30
        "of another kind": '[ "$1" = -t ] || exit 1; shift; k=$1; shift 3; exec timeout -s KILL "$k" "$@"',
    }
    if limiter == "toybox" and not shutil.which("toybox"):
        pytest.skip("toybox is not installed")
    text = commands[limiter].replace("exec timeout", "exec /usr/bin/timeout")
    seen = Host(tmp_path, {"netstat": f"sleep {seconds}", "timeout": text}).ask()
    assert (seen.tool, seen.hung) == ("ss", ("netstat",))
    assert held in ports(seen)
    assert left_behind(seconds) == []


def test_the_second_listing_may_hang_as_well(tmp_path: Path, held: int) -> None:
    seen = Host(tmp_path, {"ss": f"sleep 730.5{os.getpid()}"}).ask()
    assert (seen.tool, seen.hung) == ("netstat-W", ("ss",))
    assert held in ports(seen)
    assert left_behind(f"730.5{os.getpid()}") == []


def test_a_tool_that_hung_is_not_asked_once_more_without_sudo(tmp_path: Path, held: int) -> None:
    text = f"echo >>{tmp_path}/asked; sleep 735.5{os.getpid()}"
    tools = {
        "netstat": text,
        "id": "echo 1",
        # as one that allows everything
        "sudo": '[ "$2" != -l ] || exit 0; shift; exec "$@"',
    }
    seen = Host(tmp_path, tools).ask(Question(sudo=True, limit=2))
    assert (seen.tool, seen.via, seen.hung) == ("ss", "sudo", ("netstat",))
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    assert held in ports(seen)


def test_all_of_them_hang(tmp_path: Path) -> None:
    text = f"sleep 740.5{os.getpid()}"
    host = Host(tmp_path, {"netstat": text, "ss": text, "sed": text})
    output, nonce = host.run(Question(limit=1))
    with pytest.raises(ProbeError, match=r"netstat \(hung\), ss \(hung\), proc \(hung\)"):
        probe.read_frame(output, nonce)
    assert left_behind(f"740.5{os.getpid()}") == []


def test_bystanders_live_on(tmp_path: Path) -> None:
    """Only what carries this look's nonce is ended: neither what was there before nor what begins meanwhile."""
    seconds = f"750.5{os.getpid()}"
    before = subprocess.Popen(["sleep", "60"])
    # It begins later than the look's own shell, as any process of the host may.
    meanwhile = subprocess.Popen(
        ["sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exec sleep 61"], env={"n": "another1"}
    )
    try:
        Host(tmp_path, {"netstat": f"touch {tmp_path}/go; sleep {seconds}"}).ask()
        assert before.poll() is None
        assert meanwhile.poll() is None
        assert left_behind(seconds) == []
    finally:
        for process in (before, meanwhile):
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", ["a\nb", "a) /*/*/*\n"])
def test_a_process_whose_name_holds_a_newline_ends_no_look(tmp_path: Path, held: int, name: str) -> None:
    other = tmp_path / "other.py"
    other.write_text(
        f"import os, time\nopen('/proc/self/comm', 'w').write({name!r})\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    start = f"env -i setsid {sys.executable} {other} </dev/null >/dev/null 2>&1 &"
    wait = f"while [ ! -s {tmp_path}/pid ]; do sleep 0.05; done"
    host = Host(tmp_path, {"netstat": f"{start} {wait}; sleep 755.5{os.getpid()}"})
    try:
        seen = host.ask(Question(limit=4))
        assert (seen.tool, seen.hung) == ("ss", ("netstat",))
        assert held in ports(seen)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_tool_that_hung_is_not_asked_again(tmp_path: Path, held: int) -> None:
    host = Host(tmp_path, {"netstat": f"touch {tmp_path}/asked; exec sleep 760"})
    seen = host.ask(Question(limit=2, skip=("netstat",)))
    assert (seen.tool, seen.hung) == ("ss", ())
    assert held in ports(seen)
    assert not (tmp_path / "asked").exists()


def test_a_forced_command_goes_by_what_the_client_knows(tmp_path: Path, held: int) -> None:
    host = Host(tmp_path, {"netstat": f'touch {tmp_path}/asked; exec /usr/bin/netstat "$@"'})
    script = tmp_path / "portmon-probe"
    script.write_text(probe.script())
    for question, tool in ((Question(), "netstat-W"), (Question(skip=("netstat",)), "ss")):
        (tmp_path / "asked").unlink(missing_ok=True)
        env = {"PATH": f"{host.folder}:{PATH}", "SSH_ORIGINAL_COMMAND": probe.command("abcd", question)}
        done = subprocess.run(["sh", script], capture_output=True, check=True, env=env)
        assert probe.read_frame(done.stdout, "abcd").tool == tool
        assert (tmp_path / "asked").exists() == (tool != "ss")


@pytest.mark.parametrize("cat", ["missing", "there"])
def test_a_forced_command_needs_no_od(tmp_path: Path, cat: str) -> None:
    tools = ["sh", "sed", "grep", "ls", "timeout", *(["cat"] if cat == "there" else [])]
    for name in tools:
        (tmp_path / name).symlink_to(shutil.which(name) or "/nonexistent")
    script = probe.script().replace("PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin;", "")
    done = subprocess.run(
        [tmp_path / "sh", "-c", script], capture_output=True, check=False, env={"PATH": str(tmp_path)}
    )
    assert probe.read_frame(done.stdout, "abcd").tool == "proc"


@pytest.mark.parametrize("shell", ["bash", "dash", "ksh", "mksh", "yash", "zsh", "busybox"])
@pytest.mark.parametrize("skip", [(), ("netstat",), ("netstat", "ss")], ids=len)
def test_whatever_sh_is(tmp_path: Path, held: int, shell: str, skip: tuple[str, ...]) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    host = Host(tmp_path, {})
    (tmp_path / "sh").symlink_to(shutil.which(shell) or "/nonexistent")
    seen = host.ask(Question(skip=skip))
    (own,) = (one for one in seen.listeners if one.port == held)
    assert own.uid == os.getuid()
    if seen.tool != "proc":
        assert (own.pid, own.comm) == (os.getpid(), Path("/proc/self/comm").read_text().rstrip("\n"))
    assert seen.pid1_start is not None or os.getuid() != 0
    # busybox takes its own netstat, which on Debian knows no -p.
    assert seen.tool == ("proc" if len(skip) == 2 else "ss" if skip or shell == "busybox" else "netstat-W")


def test_a_name_adds_no_file_to_what_is_read(tmp_path: Path) -> None:
    """Pids are taken from text that any process can write: what is no number is left out."""
    names = ["x /etc/passwd", "a[$(id>&2)]", "../../etc", '",pid=1 2', "7"]
    users = ",".join(f'("{name}",pid={number},fd=3)' for number, name in enumerate(names, 90001))
    row = f'0 128 0.0.0.0:80 0.0.0.0:* users:({users},("a",pid=../../etc/x,fd=1)) ino:5 sk:1 <->'
    listing = f"Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\n{row}"
    (tmp_path / "listing").write_text(listing)
    grep = f'printf "%s\\n" "$@" >{tmp_path}/asked; exec /usr/bin/grep "$@"'
    host = Host(tmp_path, {"ss": f"cat {tmp_path}/listing", "grep": grep})
    host.run(Question(skip=("netstat",)))
    asked = (tmp_path / "asked").read_text().split("\n")[5:]
    assert {path for path in asked if path} <= {
        *("/proc/sys/net/ipv4/ip_local_reserved_ports", "/proc/self/status"),
        *(f"/proc/{pid}/{name}" for pid in (*range(90001, 90006), 1) for name in ("status", "cgroup")),
    }


def test_the_pid_of_a_row_whose_name_holds_a_slash(tmp_path: Path) -> None:
    rows = [
        "tcp        0      0 127.0.0.1:7070          0.0.0.0:*               LISTEN      90003/wrk 1/4       ",
        "tcp        0      0 127.0.0.1:7071          0.0.0.0:*               LISTEN      90004//usr/bin/x    ",
        "tcp        0      0 127.0.0.1:7072          0.0.0.0:*               LISTEN      -                   ",
    ]
    (tmp_path / "listing").write_text("\n".join([netstat(), *rows]) + "\n")
    grep = f'printf "%s\\n" "$@" >{tmp_path}/asked; exec /usr/bin/grep "$@"'
    Host(tmp_path, {"netstat": f"cat {tmp_path}/listing", "ss": "true", "grep": grep}).run()
    asked = (tmp_path / "asked").read_text()
    assert set(re.findall(r"/proc/(\d+)/status", asked)) == {"90003", "90004"}


def test_the_pid_of_an_old_ss(tmp_path: Path) -> None:
    """Before 3.14 it writes ("name",pid,fd)."""
    row = 'LISTEN     0      128    *:80    *:*      users:(("my, app",90005,5),("x",90006,5)) ino:84285 sk:0000102b'
    (tmp_path / "listing").write_text(f"State Recv-Q Send-Q Local Address:Port Peer Address:Port\n{row}\n")
    grep = f'printf "%s\\n" "$@" >{tmp_path}/asked; exec /usr/bin/grep "$@"'
    Host(tmp_path, {"ss": f"cat {tmp_path}/listing", "grep": grep}).run(Question(skip=("netstat",)))
    asked = (tmp_path / "asked").read_text()
    assert set(re.findall(r"/proc/(\d+)/cgroup", asked)) == {"90005", "90006"}


# ── sudo ────────────────────────────────────────────────────────────────────────────────────────

LINES = {
    "new": "/usr/bin/netstat -nltpW, /usr/bin/netstat -nltp, /usr/bin/ss -tnpe state listening",
    "old": "/usr/bin/netstat -nltpW, /usr/bin/netstat -nltp, /usr/bin/ss -ltnpe",
    "new, ss alone": "/usr/bin/ss -tnpe state listening",
    "old, ss alone": "/usr/bin/ss -ltnpe",
    "none": "/usr/bin/true",
}


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("sudo"), reason="needs root and sudo")
@pytest.mark.parametrize("lines", sorted(LINES))
@pytest.mark.parametrize("skip", [(), ("netstat",)], ids=len)
def test_sudo_with_the_lines_of_this_version_and_the_one_before(held: int, lines: str, skip: tuple[str, ...]) -> None:
    """In a mount namespace with an /etc of its own: an account that may run these lines, and nothing else."""
    nonce = probe.new_nonce()
    steps = (
        "cp -a /etc $0.etc && mount --bind $0.etc /etc",
        "echo 'pmsudo:x:64123:64123::/:/bin/sh' >>/etc/passwd; echo 'pmsudo:!:1::::::' >>/etc/shadow",
        'echo "pmsudo ALL=(root) NOPASSWD: $1" >/etc/sudoers.d/pmsudo; chmod 440 /etc/sudoers.d/pmsudo',
        'setpriv --reuid=64123 --regid=64123 --clear-groups sh -c "$2"; rm -rf $0.etc',
    )
    command = probe.command(nonce, Question(sudo=True, skip=skip))
    with tempfile.TemporaryDirectory() as folder:
        way = ["unshare", "-m", "sh", "-c", "; ".join(steps), f"{folder}/x", LINES[lines], command]
        done = subprocess.run(way, capture_output=True, check=False, env={"PATH": PATH})
    seen = probe.read_frame(done.stdout, nonce)
    (own,) = (one for one in seen.listeners if one.port == held)
    allowed = lines in ("new", "old") or (lines.endswith("alone"))
    assert seen.uid == 64123
    assert (seen.via, own.pid) == (("sudo", os.getpid()) if allowed else (None, None))
    assert seen.tool == ("ss" if skip or lines.endswith("alone") else "netstat-W")


# ── tools that die ──────────────────────────────────────────────────────────────────────────────

DEATHS = {
    "at once": "kill -SEGV $$",
    "behind all of it": '/usr/bin/netstat "$@"; kill -KILL $$',
    "halfway": '/usr/bin/netstat "$@" | head -c 400; kill -SEGV $$',
}


@pytest.mark.parametrize("kind", sorted(DEATHS))
def test_a_tool_that_dies_is_no_evidence(tmp_path: Path, held: int, kind: str) -> None:
    seen = Host(tmp_path, {"netstat": DEATHS[kind]}).ask()
    assert seen.tool == "ss"
    assert held in ports(seen)


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_the_real_netstat_killed_at_its_second_write(tmp_path: Path) -> None:
    """Its output is a pipe: 4,096 bytes a write, and enough sockets for three of them."""
    inject = "exec strace -qq -o /dev/null -e trace=write -e inject=write:signal=SEGV:when=2 /usr/bin/netstat"
    host = Host(tmp_path, {"netstat": f'{inject} "$@"'})
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(120)]
    try:
        seen = host.ask()
        assert {server.getsockname()[1] for server in servers} <= ports(seen)
    finally:
        for server in servers:
            server.close()
    assert seen.tool == "ss"


@pytest.mark.parametrize("ended", [124, 126, 127, 128, 137, 139, 255, 265, 387])
def test_a_frame_whose_tool_did_not_end_by_itself(ended: int) -> None:
    with pytest.raises(ProbeError, match=f"did not end by itself .exit status {ended}"):
        probe.read_frame(frame(netstat(80), ended=ended), "n0n0")


def test_a_second_listing_that_did_not_end_by_itself_says_nothing() -> None:
    seen = probe.read_frame(frame(netstat(80), ssx=ss_of(80), ssx_ended="137"), "n0n0")
    assert (seen.listeners[0].uid, seen.listeners[0].unit) == (None, None)
    assert probe.read_frame(frame(netstat(80), ssx=ss_of(80)), "n0n0").listeners[0].unit == "a.service"


def test_every_cut_and_hole_of_a_frame_is_refused() -> None:
    whole = frame(netstat(80, 81), ssx=ss_of(80, 81))
    seen = probe.read_frame(whole, "n0n0")
    for size in range(1, len(whole)):
        with pytest.raises(ProbeError):
            probe.read_frame(whole[:size], "n0n0")
    for at in range(whole.index(b"BEGIN"), whole.index(b"END")):
        for width in (1, 7, 40):
            try:
                found = probe.read_frame(whole[:at] + whole[at + width :], "n0n0")
            except ProbeError:
                continue
            # What is not counted: fields of BEGIN, whose loss changes no listener.
            assert found.listeners == seen.listeners, (at, width)


# ── tables of the kernel that can't be read ─────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"tcp": "1", "tcp6": "1"}, False),
        ({"tcp": "1", "tcp6": "-"}, False),
        ({"tcp": "0", "tcp6": "1"}, True),
        ({"tcp": "1", "tcp6": "0"}, True),
        ({"tcp": "-", "tcp6": "-"}, True),
    ],
)
def test_a_table_that_was_not_read_is_not_no_ports(fields: dict[str, str], refused: bool) -> None:
    for body in (netstat(), netstat(80)):
        if refused:
            with pytest.raises(ProbeError, match=r"can't be read there"):
                probe.read_frame(frame(body, **fields), "n0n0")
        else:
            probe.read_frame(frame(body, **fields), "n0n0")


def test_ss_needs_no_table_but_a_socket() -> None:
    assert ports(probe.read_frame(frame(ss_of(80), tool="ss", tcp="0"), "n0n0")) == {80}
    with pytest.raises(ProbeError, match="lists nothing at all"):
        probe.read_frame(frame(ss_of(), tool="ss"), "n0n0")


def test_an_ss_that_lists_nothing_is_no_answer(tmp_path: Path, held: int) -> None:
    """Up to 4.3 it says no more, and ends with 0, where the kernel refuses its question."""
    host = Host(tmp_path, {"ss": "echo State Recv-Q Send-Q Local Address:Port Peer Address:Port"})
    for question in (Question(netstat_up_to=0), Question()):
        seen = host.ask(question)
        assert (seen.tool, held in ports(seen)) == ("netstat-W", True)
    assert host.ask(Question(skip=("netstat",))).tool == "proc"


def test_an_old_frame_without_a_listener_is_no_evidence() -> None:
    body = netstat()
    old = (
        f"\n@@n0n0 BEGIN v=1 tool=netstat-W uid=0 via=- bytes={len(body)} boot=b1 range=32768-60999 netns=5 ver=-\n{body}\n"
        "@@n0n0 SSX bytes=0\n\n@@n0n0 PROC\n@@n0n0 END\n"
    )
    with pytest.raises(ProbeError, match="does not say whether"):
        probe.read_frame(old.encode(), "n0n0")


needs_namespaces = pytest.mark.skipif(os.getuid() != 0, reason="needs root, for a mount namespace")


def with_tables(change: str, nonce: str) -> bytes:
    """What the command prints where the tables of /proc/net are copies, changed by a line of shell."""
    # /proc/net is another folder for each process: what hides a table from all has to stand in for the whole of /proc.
    steps = (
        "cd $(mktemp -d)",
        "for i in tcp tcp6 sockstat sockstat6; do cat /proc/net/$i >$i; done; cat /proc/self/status >status",
        change,
        "mount -t tmpfs none /proc; mkdir /proc/net /proc/self; cp -a tcp tcp6 sock* /proc/net; cp status /proc/self",
        'rm -r "$PWD"; exec sh -c "$0"',
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", "; ".join(steps), probe.command(nonce)], capture_output=True, check=False
    )
    return done.stdout


@needs_namespaces
@pytest.mark.parametrize("table", ["tcp", "tcp6"])
def test_an_empty_table_on_a_real_host(table: str) -> None:
    """As on a system that fakes it: netstat then prints its header and lacks every socket of that family."""
    nonce = probe.new_nonce()
    with socket.create_server(("::", 0), family=socket.AF_INET6), socket.create_server(("127.0.0.1", 0)):
        seen = probe.read_frame(with_tables(f": >{table}", nonce), nonce)
    assert seen.tool == "ss"
    assert {one.protocol for one in seen.listeners} == {"tcp", "tcp6"}


UNOPENABLE = f"{sys.executable} -c \"import socket; socket.socket(socket.AF_UNIX).bind('tcp6')\""


@needs_namespaces
@pytest.mark.parametrize(
    ("change", "known"),
    [
        ("echo TCP6: inuse 0 >sockstat6", b"1"),
        ("echo TCP6: inuse 1 >sockstat6", b"0"),
        # a system that fakes these, too
        ("echo TCP6: inuse 0 >sockstat6; echo TCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0 >sockstat", b"0"),
        (": >sockstat6", b"0"),
        (f"echo TCP6: inuse 0 >sockstat6; rm tcp6; {UNOPENABLE}", b"0"),
    ],
)
def test_a_table_is_not_read_if_the_kernel_counts_no_socket_of_it(change: str, known: bytes) -> None:
    """Its header would be proof as well, but for that the kernel walks the connections of all families."""
    with socket.create_server(("127.0.0.1", 0)):
        output = with_tables(f": >tcp6; {change}", probe.new_nonce())
    assert b" tcp=1 tcp6=" + known + b" " in output


# ── contradictions ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("listing", "second", "gross"),
    [
        (netstat(80, 81), ss_of(80, 81), False),
        # a family that one lacks wholly
        (netstat(80), ss_of(80, six=True), True),
        (netstat(), ss_of(80), True),
        # which the kernel did not answer
        (netstat(80), ss_of(), False),
        # an application server with 9 of 20 ports restarts between the two
        (netstat(*range(1, 21)), ss_of(*range(1, 12)), False),
        (netstat(*range(1, 12)), ss_of(*range(1, 21)), False),
        # fewer than half of at least ten
        (netstat(*range(1, 21)), ss_of(*range(1, 10)), True),
        (netstat(*range(1, 10)), ss_of(*range(5, 14)), False),
        (netstat(*range(1, 11)), ss_of(*range(7, 17)), True),
    ],
)
def test_listings_that_contradict_each_other_grossly(listing: str, second: str, gross: bool) -> None:
    if gross:
        with pytest.raises(ContradictionError, match="contradict each other"):
            probe.read_frame(frame(listing, ssx=second), "n0n0")
    else:
        probe.read_frame(frame(listing, ssx=second), "n0n0")


def test_addresses_of_ipv4_in_the_form_of_ipv6_are_no_contradiction() -> None:
    row = f"tcp6       0      0 {'127.0.0.1:8005':<23} {':::*':<23} LISTEN      {'7/java':<20}"
    second = ss_of() + "\n0 50 [::ffff:127.0.0.1]:8005 *:* ino:9 sk:1 v6only:0 <->"
    seen = probe.read_frame(frame(f"{netstat()}\n{row}", ssx=second), "n0n0")
    assert [(one.address, one.inode) for one in seen.listeners] == [("::ffff:127.0.0.1", 9)]


# ── fields ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fields",
    [
        {"netns": str(2**63)},
        {"netns": "-1"},
        {"netns": "9" * 5000},
        {"netns": "²"},
        {"pid1": str(2**63)},
        {"pid1": "x"},
        {"proc": "/proc/self/status:Name:\tx"},
        {"proc": f"/proc/self/status:Uid:\t0\t{2**32}\t0\t0"},
        {"proc": f"/proc/self/status:Uid:\t0\t0\t0\t0\n/proc/sys/kernel/random/boot_id:{'a' * 65}"},
        {"proc": "/proc/self/status:Uid:\t0\t0\t0\t0\n/proc/sys/kernel/random/boot_id:a b"},
    ],
)
def test_a_field_outside_of_its_range_is_no_evidence(fields: dict[str, str]) -> None:
    with pytest.raises(ProbeError):
        probe.read_frame(frame(netstat(80), **fields), "n0n0")


@pytest.mark.parametrize("value", [str(2**32), "9" * 5000, "x"])
def test_an_old_frame_has_ranges_as_well(value: str) -> None:
    body = netstat(80)
    for name in ("uid", "netns"):
        fields = {"uid": "0", "netns": "5"} | {name: value}
        old = (
            f"\n@@n0n0 BEGIN v=1 tool=netstat-W uid={fields['uid']} via=- bytes={len(body)} boot=b1 range=1-2 "
            f"netns={fields['netns']} ver=-\n{body}\n@@n0n0 SSX bytes=0\n\n@@n0n0 PROC\n@@n0n0 END\n"
        )
        with pytest.raises(ProbeError):
            probe.read_frame(old.encode(), "n0n0")


def test_what_a_frame_says_besides() -> None:
    proc = "\n".join(
        (
            "/proc/sys/kernel/random/boot_id:b1",
            "/proc/sys/net/ipv4/ip_local_port_range:10000\t20000",
            "/proc/sys/net/ipv4/ip_local_reserved_ports:8080,9000-9010",
            "/proc/self/status:Uid:\t5\t6\t6\t6",
            "/proc/7/status:Name:\tmy\\nname",
            "/proc/7/status:Uid:\t1\t2\t2\t2",
            "/proc/7/cgroup:0::/system.slice/ssh.socket",
        )
    )
    seen = probe.read_frame(frame(netstat(80), proc=proc, tried=",ss:limit"), "n0n0")
    assert (seen.uid, seen.boot_id, seen.ephemeral) == (6, "b1", (10000, 20000))
    assert seen.reserved == ((8080, 8080), (9000, 9010))
    assert (seen.pid1_start, seen.netns, seen.hung, seen.probe) == (12, 4026531840, ("ss",), 2)
    (one,) = seen.listeners
    assert (one.program, one.comm, one.uid, one.unit) == ("app", "my\nname", 2, "ssh.socket")


@pytest.mark.parametrize(
    ("shown", "reserved"),
    [
        ("8080,9000-9010", ((8080, 8080), (9000, 9010))),
        # more than ports allow: as one range
        ("7," * 100_000 + "8,9-12,10", ((7, 12),)),
        (",".join(f"{low}-{low + 1}" for low in range(1, 65535)) + ",9-8,0,70000", ((1, 65535),)),
        (",".join(f"{first}-{last}" for first in range(1, 600, 2) for last in range(1000, 1300)), ((1, 1299),)),
        (" 5-6, 65535", ((5, 6), (65535, 65535))),
    ],
)
def test_reserved_ports_are_ranges_that_do_not_touch(shown: str, reserved: tuple[tuple[int, int], ...]) -> None:
    proc = f"/proc/sys/net/ipv4/ip_local_reserved_ports:{shown}\n/proc/self/status:Uid:\t5\t6\t6\t6"
    assert probe.read_frame(frame(netstat(80), proc=proc), "n0n0").reserved == reserved


def test_a_name_of_any_length_is_cut() -> None:
    proc = "/proc/self/status:Uid:\t5\t6\t6\t6\n/proc/7/status:Name:\t" + "\\n" * 100_000
    (one,) = probe.read_frame(frame(netstat(80), proc=proc), "n0n0").listeners
    assert one.comm == "\n" * 256


@pytest.mark.parametrize("version", [1, 2])
def test_what_can_not_be_read_from_the_archive_is_no_evidence(version: int) -> None:
    """A line that begins with the nonce of the archive would be one of the stored frame's own markers."""
    body = netstat(80) + "\n@@archivedByPortmonAsItCame END"
    output = frame(body)
    if version == 1:
        output = (
            f"\n@@n0n0 BEGIN v=1 tool=netstat-W uid=0 via=- bytes={len(body)} boot=b1 range=1-2 netns=5 ver=-\n{body}\n"
            "@@n0n0 SSX bytes=0\n\n@@n0n0 PROC\n@@n0n0 END\n"
        ).encode()
    with pytest.raises(ProbeError, match="can't be stored"):
        probe.read_frame(output, "n0n0")
    # What a login shell prints before the frame is not stored.
    probe.read_frame(b"\n@@archivedByPortmonAsItCame END\n" + frame(netstat(80)), "n0n0")


def test_noise_of_the_loader_hides_no_version(tmp_path: Path) -> None:
    noise = "echo \"ERROR: ld.so: object '/opt/x.so' from /etc/ld.so.preload cannot be preloaded: ignored.\" >&2"
    tools = {name: f'{noise}; exec {shutil.which(name)} "$@"' for name in ("ss", "ls", "grep", "timeout")}
    host = Host(tmp_path, tools)
    seen = host.ask(Question(limit=5, skip=("netstat",)))
    assert (seen.tool, seen.version) == ("ss", host_version())


def host_version() -> str:
    words = subprocess.run(["ss", "-V"], capture_output=True, text=True, check=True).stdout.split()
    return next(word.rstrip(",") for word in words if word.startswith("iproute2-"))


def test_more_sockets_of_a_port_than_are_told_apart() -> None:
    rows = [
        f"tcp        0      0 {f'10.0.{i // 250}.{i % 250}:80':<23} {'*:*':<23} LISTEN      {'7/app':<20}"
        for i in range(300)
    ]
    seen = probe.read_frame(frame("\n".join([netstat(), *rows[::-1], netstat(22).split("\n")[-1]])), "n0n0")
    again = probe.read_frame(frame("\n".join([netstat(), *rows, netstat(22).split("\n")[-1]])), "n0n0")
    assert (len(seen.listeners), seen.beyond) == (65, ((80, 236),))
    assert set(seen.listeners) == set(again.listeners)


# ── busy hosts ──────────────────────────────────────────────────────────────────────────────────


def test_on_a_busy_host_ss_is_asked_first(held: int, tmp_path: Path) -> None:
    host = Host(tmp_path, {"netstat": f'touch {tmp_path}/asked; exec /usr/bin/netstat "$@"'})
    assert host.ask(Question(netstat_up_to=1 << 30)).tool == "netstat-W"
    (tmp_path / "asked").unlink()
    assert host.ask(Question(netstat_up_to=0)).tool == "ss"
    assert not (tmp_path / "asked").exists()


def test_what_answered_last_goes_on_until_half_as_many(held: int, tmp_path: Path) -> None:
    host = Host(tmp_path, {})
    output, _ = host.run()
    sockets = int(output.split(b" sockets=")[1].split()[0])
    assert sockets > 0
    # Others on this machine open and close sockets meanwhile: wide margins.
    assert host.ask(Question(netstat_up_to=sockets * 40, last="ss")).tool == "netstat-W"
    with_many = Question(netstat_up_to=sockets + sockets // 2, last="ss")
    assert host.ask(with_many).tool == "ss"


@pytest.mark.skipif(not shutil.which("strace") or sys.platform != "linux", reason="needs strace")
def test_how_many_processes_a_look_costs(tmp_path: Path) -> None:
    """Besides the login shell: five, and one more for the limit of each tool."""
    trace = tmp_path / "trace"
    way = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(trace)]
    for question, tools in ((Question(), 2), (Question(skip=("netstat",)), 1)):
        subprocess.run(
            [*way, "sh", "-c", probe.command("abcd1234", question)], capture_output=True, check=True, env={"PATH": PATH}
        )
        pids = {line.split()[0] for line in trace.read_text(errors="replace").splitlines()}
        assert len(pids) - 1 <= 5 + tools
