"""Through three jump hosts, which are OpenSSH's sshd, each of which lets through to the next one only."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko
import pytest

from portmon.errors import (
    AuthenticationError,
    ConnectionLostError,
    JumpError,
    RefusedError,
    ResolveError,
    ScanTimeoutError,
)
from portmon.ssh import jump
from portmon.ssh.connect import connect
from portmon.ssh.jump import Hop, Ways, dial_through
from portmon.ssh.session import Session
from portmon.ssh.target import Credentials, Options, Target
from portmon.ssh.trust import HostKey, Trust
from tests.worlds.sshd import (
    Keys,
    Server,
    free_port,
    hang_up,
    make_key,
    needs_sshd,
    openssh,
    python_server,
    silent,
    tcp_server,
)
from tests.worlds.waiting import until

pytestmark = [pytest.mark.slow, needs_sshd]

SECONDS = 10.0


@dataclass
class Row:
    """Three jump hosts and the host behind them."""

    servers: Sequence[Server]
    store: Keys

    def hop(self, number: int, *, port: int | None = None) -> Hop:
        """A jump host, from 0 on."""
        server = self.servers[number]
        return Hop(
            Target(f"bastion{number + 1}", "127.0.0.1", port or server.port),
            Credentials(server.user, key_file=str(server.user_key)),
            Trust(strict=False, store=self.store),
            Options(),
        )

    @property
    def hops(self) -> list[Hop]:
        return [self.hop(number) for number in range(3)]

    def login(
        self, hops: Sequence[Hop] | None = None, *, seconds: float = SECONDS, ways: Ways | None = None, port: int = 0
    ) -> Session:
        last = self.hop(3, port=port or None)
        target = Target("web01", "127.0.0.1", last.target.port)
        link = dial_through(target, self.hops if hops is None else hops, seconds, ways or Ways())
        return connect(target, last.credentials, last.trust, last.options, link=link)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        folder, found, permit = tmp_path_factory.mktemp("row"), list[Server](), "none"
        for name in ("web01", "third", "second", "first"):
            found.insert(0, stack.enter_context(openssh(folder / name, config=f"PermitOpen {permit}")))
            permit = f"127.0.0.1:{found[0].port}"
        yield found


@pytest.fixture
def row(servers: list[Server]) -> Row:
    return Row(servers, Keys())


def readers() -> list[threading.Thread]:
    """Threads of connections."""
    return [thread for thread in threading.enumerate() if isinstance(thread, paramiko.Transport)]


def logins(row: Row) -> list[int]:
    return [server.logins() for server in row.servers]


def test_three_in_a_row(row: Row) -> None:
    before = logins(row)
    with closing(row.login()) as session:
        # More than a server may send while no command runs, and more than a window.
        result = session.run("head -c 3000000 /dev/zero; echo $SSH_CONNECTION >&2", deadline=20, max_output=4 * 1024**2)
        assert (len(result.stdout), result.exit_status) == (3_000_000, 0)
        assert session.run("echo again", deadline=10, max_output=1024).stdout == b"again\n"
    assert [now - was for now, was in zip(logins(row), before, strict=True)] == [1, 1, 1, 1]
    # The key of each was checked.
    assert row.store.known.keys() == {f"[127.0.0.1]:{server.port}" for server in row.servers}
    until(lambda: not readers(), "the connections to end")


def test_another_order_is_forbidden_and_the_error_says_by_which(row: Row) -> None:
    with pytest.raises(JumpError) as caught:
        row.login([row.hop(0), row.hop(2)])
    told = str(caught.value)
    assert told.startswith("web01: jump host 2 of 2, bastion3: bastion1 forbids connections to [127.0.0.1]:")
    assert "AllowTcpForwarding and PermitOpen" in told
    # The last one and the host itself.
    with pytest.raises(JumpError, match=r"^web01: bastion1 forbids connections to"):
        row.login([row.hop(0)])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_changed_key_of_a_jump_host_is_named_and_nothing_logs_in_there(row: Row, tmp_path: Path, number: int) -> None:
    kind, text, _ = make_key(tmp_path / "other").with_name("other.pub").read_text().split()
    endpoint = row.hop(number).target.endpoint
    row.store.remember(endpoint, HostKey(kind, text))
    before = logins(row)
    with pytest.raises(
        JumpError, match=f"^web01: jump host {number + 1} of 3, bastion{number + 1}: the host key c"
    ) as caught:
        row.login()
    assert not caught.value.retry
    assert f"portmon hostkeys accept '{endpoint}' SHA256:" in str(caught.value)
    assert [now - was for now, was in zip(logins(row), before, strict=True)] == [1] * number + [0] * (4 - number)
    assert [name for name, _ in row.store.changes] == [endpoint]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_jump_host_that_refuses_the_login_is_named(row: Row, tmp_path: Path, number: int) -> None:
    hops = row.hops
    key = str(make_key(tmp_path / "stranger"))
    hops[number] = replace(hops[number], credentials=Credentials("tester", key_file=key))
    with pytest.raises(
        JumpError, match=f"jump host {number + 1} of 3, bastion{number + 1}: the server refused"
    ) as caught:
        row.login(hops)
    assert not caught.value.retry
    assert caught.value.error_class == "jump_host"


def test_a_key_that_can_only_go_on(open_row: Row, tmp_path: Path) -> None:
    """As docs/ssh.md has it."""
    with openssh(tmp_path / "narrow") as narrow:
        authorized = narrow.home / ".ssh" / "authorized_keys"
        options = f'restrict,port-forwarding,permitopen="*:{open_row.servers[3].port}",command="/bin/false"'
        authorized.write_text(f"{options} {authorized.read_text()}")
        row = replace(open_row, servers=[narrow, *open_row.servers[1:]])
        with closing(row.login([row.hop(0)])) as session:
            assert session.run("echo through", deadline=10, max_output=1024).stdout == b"through\n"
        with pytest.raises(JumpError, match="forbids connections"):
            row.login([row.hop(0), row.hop(1)])


# ── dead ones ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def open_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Jump hosts that let through to wherever is asked for."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("open")
        yield [stack.enter_context(openssh(folder / str(number))) for number in range(4)]


@pytest.fixture
def open_row(open_servers: list[Server]) -> Row:
    return Row(open_servers, Keys())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_dead_jump_host_is_named(open_row: Row, number: int) -> None:
    name = f"^web01: jump host {number + 1} of 3, bastion{number + 1}: "

    def dead(port: int) -> list[Hop]:
        return [open_row.hop(one, port=port if one == number else None) for one in range(3)]

    with pytest.raises(JumpError, match=f"{name}nothing listens") as caught:
        open_row.login(dead(free_port()))
    assert caught.value.retry
    with tcp_server(hang_up) as port, pytest.raises(JumpError, match=f"{name}the server hung up before"):
        open_row.login(dead(port))
    # All jump hosts together have the time.
    with (
        tcp_server(silent) as port,
        pytest.raises(JumpError, match=f"{name}the login was not over within 2 s") as caught,
    ):
        open_row.login(dead(port), seconds=2)
    assert caught.value.retry


def test_the_phases_of_a_login_add_up(tmp_path: Path) -> None:
    """Each of them is in time, and both together are not."""
    key = paramiko.PKey.from_path(make_key(tmp_path / "host"))
    user = make_key(tmp_path / "user")
    with python_server(host_key=key, authorized=user, slow_login=1.4) as slow:

        def late(sock: socket.socket, over: threading.Event) -> None:
            over.wait(1.4)
            with socket.create_connection(("127.0.0.1", slow.port)) as other:
                while not over.is_set():
                    for ready in select.select([sock, other], [], [], 0.1)[0]:
                        (other if ready is sock else sock).sendall(ready.recv(65536))

        with tcp_server(late) as port:
            credentials = Credentials("user", key_file=str(user))
            hop = Hop(Target("slow", "127.0.0.1", port), credentials, Trust(strict=False, store=Keys()), Options())
            with pytest.raises(JumpError, match=r"slow: the login was not over within 2 s \(connect_timeout"):
                dial_through(Target("web01", "127.0.0.1"), [hop], 2.0, Ways())


def test_a_dead_host_behind_jump_hosts_is_its_own_error(open_row: Row) -> None:
    with pytest.raises(RefusedError, match=r"^web01: nothing listens on port \d+.*bastion3 can't connect"):
        open_row.login(port=free_port())
    link_to = Target("web01", "no-such-host.invalid", 22)
    with pytest.raises((ResolveError, ConnectionLostError), match="bastion1 can't connect"):
        dial_through(link_to, [open_row.hop(0)], SECONDS, Ways())
    with (
        tcp_server(silent) as port,
        pytest.raises(ScanTimeoutError, match=r"^web01: connected, but no SSH banner|key exch"),
    ):
        target, last = Target("web01", "127.0.0.1", port), open_row.hop(3)
        link = dial_through(target, open_row.hops, SECONDS, Ways())
        connect(target, last.credentials, last.trust, Options(timeout=1), link=link)


def test_a_jump_host_that_dies_later_ends_the_look(row: Row) -> None:
    def sessions() -> list[int]:
        """Processes of the second jump host, without the one that listens."""
        found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        parents = {int(pid): int(parent) for pid, parent in map(str.split, found.splitlines())}
        ours = {row.servers[1].process.pid}
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return sorted(ours - {row.servers[1].process.pid})

    with closing(row.login()) as session, pytest.raises(ConnectionLostError):
        killer = threading.Thread(target=lambda: [os.kill(pid, signal.SIGKILL) for pid in sessions()])
        killer.start()
        session.run("sleep 60", deadline=40, max_output=1024)
    killer.join()
    until(lambda: not readers(), "the connections to end")


# ── many hosts behind one ───────────────────────────────────────────────────────────────────────


def test_a_way_is_closed_after_failures_and_open_after_a_success(
    open_row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways, connections = Ways(), [0]

    def counted(sock: object, over: threading.Event) -> None:
        connections[0] += 1

    with tcp_server(counted) as port:
        for _ in range(5):
            with pytest.raises(JumpError, match="jump host 2 of 2, bastion2"):
                open_row.login([open_row.hop(0), open_row.hop(1, port=port)], ways=ways)
        assert connections == [jump.FAILURES]
        with pytest.raises(JumpError, match="failed a moment ago: the server hung up"):
            open_row.login([open_row.hop(0), open_row.hop(1, port=port)], ways=ways)
        # Other ways are open, and after a while this one is tried again.
        open_row.login([open_row.hop(0), open_row.hop(1)], ways=ways).close()
        monkeypatch.setattr(jump, "CLOSED", 0.0)
        with pytest.raises(JumpError, match="hung up before"):
            open_row.login([open_row.hop(0), open_row.hop(1, port=port)], ways=ways)
        assert connections == [jump.FAILURES + 1]


def test_a_refused_login_is_tried_once_for_all_hosts(open_row: Row, tmp_path: Path) -> None:
    ways = Ways()
    stranger = Credentials("tester", key_file=str(make_key(tmp_path / "stranger")))
    hops = [replace(open_row.hop(0), credentials=stranger)]
    before = open_row.servers[0].said().count("Connection from")
    for _ in range(3):
        with pytest.raises(JumpError, match="refused") as caught:
            open_row.login(hops, ways=ways)
        assert isinstance(caught.value.__cause__, AuthenticationError | None)
        assert not caught.value.retry
    assert open_row.servers[0].said().count("Connection from") == before + 1


def test_few_failures_that_are_not_in_a_row_close_nothing() -> None:
    ways, error = Ways(), ConnectionLostError("gone", host="x")
    for _ in range(3):
        for _ in range(jump.FAILURES - 1):
            ways.note(("a",), error)
        assert ways.closed(("a",)) is None
        ways.note(("a",), None)
    for _ in range(jump.FAILURES):
        ways.note(("a",), error)
    assert ways.closed(("a",)) is error
    assert ways.closed(("a", "b")) is None
