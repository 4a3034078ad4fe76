"""What a hostile SSH server can make the worker hold, compute and wait for."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from paramiko.common import MSG_USERAUTH_SUCCESS

from portmon.errors import AnswerError, AuthenticationError, ConnectionLostError, ScanError, ScanTimeoutError
from portmon.ssh import algorithms
from portmon.ssh.connect import connect
from portmon.ssh.dial import Link
from portmon.ssh.login import Login
from portmon.ssh.session import Session
from portmon.ssh.target import Credentials, Options, Target
from portmon.ssh.trust import Trust
from tests.worlds.sshd import (
    PATIENCE,
    Keys,
    PythonServer,
    bombing,
    make_key,
    needs_sshd,
    openssh,
    python_server,
    tcp_server,
)
from tests.worlds.waiting import until

MIB = 1024**2
LATIN = "Zugang nur f\xfcr Befugte\r\n\r\n\xc4nderungen werden aufgezeichnet\n".encode("latin-1")
VERSION = b"SSH-2.0-OpenSSH_9.9\r\n"
Attack = Callable[[Any], None]


@pytest.fixture(scope="module")
def user_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("user") / "id")


@pytest.fixture(scope="module")
def host_key(tmp_path_factory: pytest.TempPathFactory) -> paramiko.PKey:
    return paramiko.PKey.from_path(make_key(tmp_path_factory.mktemp("host") / "key"))


@pytest.fixture
def login(user_key: Path) -> Iterator[Callable[..., Session]]:
    """Logs in to a port of 127.0.0.1."""
    with contextlib.ExitStack() as stack:

        def log_in(port: int, *, user: str = "tester", key: Path = user_key, **options: Any) -> Session:
            link = options.pop("link", None)
            target = Target("web01", "127.0.0.1", port)
            trust = Trust(strict=False, store=Keys())
            session = connect(
                target,
                Credentials(user, key_file=str(key)),
                trust,
                Options(**{"timeout": PATIENCE, **options}),
                link=link,
            )
            stack.callback(session.close)
            return session

        yield log_in


@pytest.fixture
def serve(host_key: paramiko.PKey, user_key: Path) -> Iterator[Callable[..., PythonServer]]:
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> PythonServer:
            return stack.enter_context(python_server(host_key=host_key, authorized=user_key, **options))

        yield start


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Far less than what is sent."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


def attacking(attack: Attack) -> type[paramiko.Transport]:
    """A server that does something to its client as soon as keys are agreed on, before the login."""

    class Attacking(paramiko.Transport):
        def _parse_newkeys(self, m: paramiko.Message) -> None:
            super()._parse_newkeys(m)  # type: ignore[misc]
            with contextlib.suppress(EOFError):
                attack(self)

    return Attacking


def packet(kind: int, *content: bytes | int) -> paramiko.Message:
    message = paramiko.Message()
    message.add_byte(bytes([kind]))
    for one in content:
        if isinstance(one, int):
            message.add_int(one)
        else:
            message.add_bytes(one)
    return message


def without_end(message: paramiko.Message) -> Attack:
    def attack(transport: Any) -> None:
        while transport.active:
            transport._send_message(message)

    return attack


# ── before the version ──────────────────────────────────────────────────────────────────────────


def relay(sock: socket.socket, port: int, over: threading.Event) -> None:
    with socket.create_connection(("127.0.0.1", port)) as other:

        def pass_on(one: socket.socket, another: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := one.recv(65536):
                    another.sendall(data)
                another.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=pass_on, args=(other, sock), daemon=True)
        back.start()
        pass_on(sock, other)
        back.join(PATIENCE)


def printing(text: bytes, port: int) -> Callable[[socket.socket, threading.Event], None]:
    def serve(sock: socket.socket, over: threading.Event) -> None:
        sock.sendall(text)
        relay(sock, port, over)

    return serve


@pytest.mark.parametrize(
    "text",
    [
        LATIN,
        "Доступ запрещён\n".encode("koi8-r"),
        b"\xff\xfe\x00\n" * 3,
        # More than is kept to explain a failure, and more lines than paramiko reads.
        b"\xfc" * 8000 + b"\n" + LATIN * 300,
        b"a line that an SSH- does not begin\n",
    ],
)
def test_text_before_the_version_may_be_in_any_encoding(login: Any, serve: Any, text: bytes) -> None:
    server = serve()
    with tcp_server(printing(text, server.port)) as port:
        session = login(port)
        assert session.run("echo hello", deadline=10, max_output=MIB).stdout == b"hello\n"
        session.close()


@pytest.mark.slow
@needs_sshd
def test_openssh_behind_text_in_latin_1(login: Any, tmp_path: Path) -> None:
    with openssh(tmp_path / "sshd") as server, tcp_server(printing(LATIN, server.port)) as port:
        session = login(port, user=server.user, key=server.user_key)
        assert session.server.startswith("OpenSSH")
        assert session.run("echo hello", deadline=10, max_output=MIB).stdout == b"hello\n"
        session.close()


def test_a_failure_behind_much_text_is_explained_as_without(login: Any) -> None:
    def hang_up(sock: socket.socket, over: threading.Event) -> None:
        sock.sendall(LATIN * 300 + VERSION)
        sock.recv(4096)

    with (
        tcp_server(hang_up) as port,
        pytest.raises(ConnectionLostError, match=r"OpenSSH_9\.9 hung up during the key ex"),
    ):
        login(port)


def sending(*pieces: bytes, again: bytes = b"") -> Callable[[socket.socket, threading.Event], None]:
    """Sends, and then the last thing for ever."""

    def serve(sock: socket.socket, over: threading.Event) -> None:
        for piece in pieces:
            sock.sendall(piece)
        while again and not over.is_set():
            sock.sendall(again)
        over.wait()

    return serve


@pytest.mark.parametrize(
    ("said", "again", "message"),
    [
        (b"", LATIN, r"printed 1,024 lines and no SSH version; it said 'Zugang nur f\\+xfcr Befugte'"),
        (b"", b"x" * 65536, r"printed a line of more than 8,192 bytes and no SSH version"),
        (b"SSH-2.0-", b"x" * 65536, r"printed a line of more than 8,192 bytes"),
        (VERSION + b"\xff\xff\xff\xfc\x08\x14", b"x" * 65536, r"announced a packet of 4,294,967,\d+ bytes"),
        (VERSION + b"\x00\x04\x10\x04\x08\x14", b"x" * 65536, r"announced a packet of 266,\d+ bytes"),
        # A first packet of 200 KiB.
        (
            VERSION + (200 * 1024 + 4).to_bytes(4, "big") + b"\x04\x14",
            b"x" * 65536,
            r"sent a packet of 204,\d+ bytes in the key exchange",
        ),
    ],
)
def test_what_never_ends_before_the_key_exchange(login: Any, said: bytes, again: bytes, message: str) -> None:
    with (
        tcp_server(sending(said, again=again)) as port,
        little_memory(),
        pytest.raises(ConnectionLostError, match=message),
    ):
        login(port)


def test_text_that_drips_has_the_deadline_of_the_handshake(login: Any) -> None:
    def drip(sock: socket.socket, over: threading.Event) -> None:
        while not over.wait(0.02):
            sock.sendall(LATIN)

    with tcp_server(drip) as port, pytest.raises(ScanTimeoutError, match=r"no SSH banner within 0\.5 s.*f\\+xfcr"):
        login(port, timeout=0.5)


# ── before the login ────────────────────────────────────────────────────────────────────────────


IGNORE = packet(2, 4, b"abcd")


@pytest.mark.parametrize(
    ("mebibytes", "message"),
    [(200, "a packet that inflates to more than 262,144 bytes"), (270, r"announced a packet of \d+,\d+ bytes")],
)
def test_an_inflate_bomb_before_the_login(login: Any, serve: Any, mebibytes: int, message: str) -> None:
    hostile = attacking(lambda transport: transport._send_message(IGNORE))
    server = serve(transport_class=bombing(hostile, "zlib", mebibytes))
    with little_memory(), pytest.raises(ConnectionLostError, match=message):
        login(server.port, compress=True)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (without_end(IGNORE), "sent more than 524,288 bytes although no command ran"),
        (without_end(packet(2, 200_000, bytes(200_000))), "sent more than 524,288 bytes"),
        (without_end(packet(4, b"\1", 4, b"noise", 0)), "sent more than 524,288 bytes"),
        (without_end(packet(53, 100_000, bytes(100_000), 0)), "sent more than 524,288 bytes"),
        (without_end(packet(93, 0, 1)), "."),
        (lambda transport: transport._send_message(packet(7, 2**32 - 1)), "announced 4,294,967,295 extensions"),
        (
            lambda transport: transport._send_message(packet(20, bytes(16), 40_000, b"," * 40_000)),
            "sent a packet of 40",
        ),
        (lambda transport: transport._send_message(packet(60, b"p", 2**32 - 1, 2**32 - 1)), "."),
        (lambda transport: transport._send_message(packet(250, b"?")), "what it sent can't be read"),
        (lambda transport: transport._send_message(packet(7, 1, 2, b"\xff\xff", 0)), "what it sent can't be read"),
    ],
)
def test_what_is_sent_before_the_login(login: Any, serve: Any, attack: Attack, message: str) -> None:
    server = serve(transport_class=attacking(attack))
    with little_memory(), pytest.raises(ScanError, match=message):
        login(server.port)


def test_what_ended_the_connection_is_told_however_late_the_login_begins(
    login: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy worker the wall stops a flood before the first key is offered."""
    authenticate = Login.authenticate

    def late(own: Login, transport: paramiko.Transport) -> None:
        until(lambda: not transport.is_active(), "the wall")
        authenticate(own, transport)

    monkeypatch.setattr(Login, "authenticate", late)
    server = serve(transport_class=attacking(without_end(IGNORE)))
    with pytest.raises(ConnectionLostError, match="sent more than 524,288 bytes although no command ran"):
        login(server.port)


def test_methods_without_end_are_told_in_short(login: Any, serve: Any) -> None:
    class Refusing(paramiko.Transport):
        def _send_message(self, data: paramiko.Message) -> None:
            if data.asbytes()[0] == MSG_USERAUTH_SUCCESS:
                names = b"method," * 30_000
                data = packet(51, len(names), names, b"\0")
            super()._send_message(data)  # type: ignore[misc]

    with pytest.raises(AuthenticationError, match="it takes method, method") as caught:
        login(serve(transport_class=Refusing).port)
    assert len(str(caught.value)) < 1000


def test_a_group_that_takes_seconds_is_not_computed_with() -> None:
    message = paramiko.Message()
    message.add_mpint(2**8191 + 1)
    message.add_mpint(2)
    message.rewind()
    exchange: Any = algorithms.Gex.__new__(algorithms.Gex)
    with pytest.raises(algorithms.FloodError, match="group of 8,192 bits"):
        exchange._parse_kexdh_gex_group(message)


def narrow_link(port: int) -> Link:
    """Whose sender notices soon that the other side does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    return Link(sock)


class Deaf(paramiko.packet.Packetizer):
    """Of a server that asks without end, once :attr:`asks` is set, and reads no answer."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.asks, self.over = threading.Event(), threading.Event()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if self.asks.is_set():
            self.over.wait(PATIENCE)
        return super().read_all(n, check_rekey)

    def ask(self) -> None:
        self.asks.set()
        request = packet(80, 1, b"x", b"\1")
        for _ in range(8000):
            self.send_message(request)

    def close(self) -> None:
        self.over.set()
        super().close()


def deaf(attack: Attack = lambda transport: None) -> type[paramiko.Transport]:
    class Server(attacking(attack)):  # type: ignore[misc]
        def __init__(self, sock: Any, **options: Any) -> None:
            super().__init__(sock, packetizer_class=Deaf, **options)

    return Server


def wait_until_stuck(transport: Any) -> None:
    """Until the thread that reads waits in vain for room to send."""
    packets = transport.packetizer
    streak, sent = 0, -1
    deadline = time.monotonic() + PATIENCE
    while streak < 20:
        assert time.monotonic() < deadline, "it can still send"
        time.sleep(0.01)
        if packets._Packetizer__write_lock.acquire(blocking=False):
            packets._Packetizer__write_lock.release()
            streak = 0
        elif packets._Packetizer__sequence_number_out == sent:
            streak += 1
        else:
            streak, sent = 0, packets._Packetizer__sequence_number_out


def test_a_server_that_reads_nothing_has_the_deadline_of_the_login(
    login: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portmon.ssh.connect.SLACK", 0.2)
    offer = paramiko.Transport.auth_publickey

    def late(self: paramiko.Transport, *args: Any) -> Any:
        wait_until_stuck(self)
        return offer(self, *args)

    monkeypatch.setattr(paramiko.Transport, "auth_publickey", late)
    server = serve(transport_class=deaf(lambda transport: transport.packetizer.ask()))
    with pytest.raises(ScanTimeoutError, match=r"the login was not over within 2\.2 s"):
        login(server.port, timeout=1.0, link=narrow_link(server.port))


# ── after the login ─────────────────────────────────────────────────────────────────────────────


def test_an_inflate_bomb_in_an_answer(login: Any, serve: Any) -> None:
    def explode(channel: paramiko.Channel, command: str) -> None:
        channel.get_transport()._send_message(IGNORE)  # type: ignore[attr-defined]

    server = serve(transport_class=bombing(paramiko.Transport, "zlib@openssh.com", 200), run=explode)
    session = login(server.port, compress=True)
    with little_memory(), pytest.raises(AnswerError, match="since the server sent a packet that inflates to more than"):
        session.run("netstat", deadline=PATIENCE, max_output=MIB)
    # Without compression there is nothing to inflate.
    with pytest.raises(ScanError, match="not understand each other"):
        login(server.port)


def test_compression_still_works_where_it_is_asked_for(login: Any, serve: Any) -> None:
    class Compressing(paramiko.Transport):
        _preferred_compression = ("zlib@openssh.com",)

    session = login(serve(transport_class=Compressing).port, compress=True)
    assert session.transport.remote_compression == "zlib@openssh.com"
    found = session.run("seq 200000", deadline=PATIENCE, max_output=4 * MIB).stdout
    assert found == b"".join(b"%d\n" % number for number in range(1, 200_001))


def test_a_server_that_disregards_the_window(login: Any, serve: Any) -> None:
    def flood(channel: paramiko.Channel, command: str) -> None:
        channel.out_window_size = 2**40  # type: ignore[attr-defined]
        while True:
            channel.sendall(bytes(32768))

    session = login(serve(run=flood).port)
    transport = session.transport
    transport.packetizer.allowance = float("inf")
    with little_memory():
        # A reader that has no time.
        channel = transport.open_session()
        channel.exec_command("netstat")
        channel.shutdown_write()
        until(lambda: not transport.is_active(), "the end of the connection")
    with pytest.raises(AnswerError, match="since the server sent more than its window"):
        session.run("netstat", deadline=1, max_output=MIB)


def test_what_is_sent_between_two_commands(login: Any, serve: Any) -> None:
    """A connection that waits to confirm is read all the time, by paramiko's thread."""
    over = threading.Event()

    def run(channel: paramiko.Channel, command: str) -> None:
        channel.sendall(b"answer")
        channel.send_exit_status(0)
        channel.close()
        over.wait(PATIENCE)
        without_end(packet(2, 1000, bytes(1000)))(channel.get_transport())

    session = login(serve(run=run).port)
    assert session.run("netstat", deadline=PATIENCE, max_output=MIB).stdout == b"answer"
    with little_memory():
        over.set()
        until(lambda: not session.active, "the end of the connection")
    with pytest.raises(AnswerError, match="sent more than 524,288 bytes although no command ran"):
        session.run("netstat", deadline=1, max_output=MIB)


def test_keys_that_are_exchanged_without_end(login: Any, serve: Any) -> None:
    def exchange(channel: paramiko.Channel, command: str) -> None:
        for _ in itertools.count():
            channel.get_transport().renegotiate_keys()

    session = login(serve(run=exchange).port)
    with pytest.raises(AnswerError, match="wants new keys for the 20th time"):
        session.run("netstat", deadline=2 * PATIENCE, max_output=MIB)


def test_a_server_that_reads_nothing_has_the_deadline_of_the_command(login: Any, serve: Any) -> None:
    server = serve(transport_class=deaf(), run=lambda channel, command: channel.get_transport().packetizer.ask())
    session = login(server.port, link=narrow_link(server.port))
    with pytest.raises(ScanTimeoutError, match=r"no complete answer within 1 s"):
        session.run("netstat", deadline=1, max_output=MIB)
    # Its reader is not caught in what it can't send.
    transport = session.transport
    until(lambda: not transport.is_alive(), "the end of the thread that reads")


@pytest.mark.parametrize("kind", [2, 4, 93])
def test_messages_without_end_have_the_deadline_of_the_command(login: Any, serve: Any, kind: int) -> None:
    def talk(channel: paramiko.Channel, command: str) -> None:
        without_end(packet(kind, channel.remote_chanid, 1, b"\0" * 20))(channel.get_transport())

    session = login(serve(run=talk).port)
    with little_memory(), pytest.raises(ScanTimeoutError, match=r"no complete answer within 0\.5 s"):
        session.run("netstat", deadline=0.5, max_output=MIB)
