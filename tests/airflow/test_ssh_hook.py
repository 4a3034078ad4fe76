"""HostSSHHook against real and misbehaving servers: what it offers, whom it trusts, how it fails."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import paramiko
import pytest

from portmon.airflow.ssh_hook import HostSSHHook
from portmon.errors import (
    AnswerError,
    AuthenticationError,
    ConnectionLostError,
    HostKeyChangedError,
    HostKeyError,
    JumpError,
    NegotiationError,
    NoRouteError,
    RefusedError,
    ResolveError,
    ScanTimeoutError,
    SetupError,
)
from portmon.model.host import Host
from portmon.ssh.config import Ssh
from portmon.ssh.trust import HostKey
from tests.worlds.authority import Authority
from tests.worlds.sshd import (
    Keys,
    banner_only,
    dripping,
    dropbear,
    free_port,
    hang_up,
    make_key,
    needs_dropbear,
    needs_sshd,
    only_sha1,
    openssh,
    python_server,
    saying,
    silent,
    tcp_server,
)
from tests.worlds.waiting import until

LIMIT = 1024**2


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any ~/.ssh of the user who runs the tests."""
    home = tmp_path / "worker"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@pytest.fixture
def make_hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HostSSHHook]]:
    """A hook for port ``at`` of 127.0.0.1; ``extra``, ``login`` and ``password`` go into its connection."""
    with contextlib.ExitStack() as stack:

        def make(
            at: int,
            *,
            extra: dict[str, Any] | None = None,
            login: str = "monitor",
            password: str | None = None,
            address: str = "127.0.0.1",
            name: str = "web01",
            **kwargs: Any,
        ) -> HostSSHHook:
            connection = {"conn_type": "ssh", "login": login, "password": password, "extra": extra or {}}
            monkeypatch.setenv("AIRFLOW_CONN_SSH_TEST", json.dumps(connection))
            store, timeout = kwargs.pop("store", Keys()), timedelta(seconds=kwargs.pop("connect_timeout", 5.0))
            ssh = Ssh(**{"conn_id": "ssh_test", "connect_timeout": timeout, **kwargs})
            hook = HostSSHHook(Host("1", name, address, at), ssh, ssh, store)
            stack.callback(hook.close)
            return hook

        yield make


def with_key(path: Path, **extra: Any) -> dict[str, Any]:
    return {"key_file": str(path), **extra}


# ── what it offers ──────────────────────────────────────────────────────────────────────────────


def test_logs_in_and_runs_a_command(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> None:
    with python_server(host_key=host_key, authorized=user_key) as server:
        hook = make_hook(server.port, extra=with_key(user_key))
        result = hook.login().run("echo out; echo err >&2; exit 3", deadline=10, max_output=LIMIT)
        assert (result.stdout, result.stderr, result.exit_status) == (b"out\n", b"err\n", 3)
        session = hook.login()
        assert session.key == HostKey(host_key.get_name(), host_key.get_base64())
        assert session.key.fingerprint == host_key.fingerprint
        assert session.trusted == "first use, trusted from now on"
        assert "key ssh-ed25519 SHA256:" in session.method
        assert str(user_key) in session.method
        assert server.connections == 1


def test_one_connection_for_all_commands(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> None:
    with python_server(host_key=host_key, authorized=user_key) as server:
        hook = make_hook(server.port, extra=with_key(user_key))
        for text in (b"1\n", b"2\n"):
            assert hook.login().run(f"echo {text.decode().strip()}", deadline=10, max_output=LIMIT).stdout == text
        _, out, _ = hook.get_conn().exec_command("echo 3")
        assert out.read() == b"3\n"
        assert server.connections == 1


def test_offers_one_key_although_more_lie_around(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, home: Path
) -> None:
    make_key(home / ".ssh" / "id_ed25519")
    make_key(home / ".ssh" / "id_rsa", "rsa")
    with python_server(host_key=host_key, password="x") as server:
        hook = make_hook(server.port, extra=with_key(user_key))
        with pytest.raises(AuthenticationError, match="refused user 'monitor' with key ssh-ed25519") as caught:
            hook.login()
        assert not caught.value.retry
        assert server.offered == [f"monitor ssh-ed25519 {paramiko.PKey.from_path(user_key).fingerprint}"]
        assert server.connections == 1


def test_offers_the_workers_keys_only_if_told(make_hook: Any, host_key: paramiko.PKey, home: Path) -> None:
    key = make_key(home / ".ssh" / "id_ed25519")
    with python_server(host_key=host_key, authorized=key) as server:
        with pytest.raises(AuthenticationError, match=r'nothing to log in with.*"look_for_keys": true'):
            make_hook(server.port).login()
        assert server.offered == []
        make_hook(server.port, extra={"look_for_keys": True}).login()
        assert len(server.offered) == 1


def test_password(make_hook: Any, host_key: paramiko.PKey) -> None:
    with python_server(host_key=host_key, password="s3cret-word") as server:
        assert make_hook(server.port, password=" s3cret-word\n").login().method == "password"
        with pytest.raises(AuthenticationError, match="refused user 'monitor' with the password") as caught:
            make_hook(server.port, password="wr0ng-word").login()
        assert "wr0ng-word" not in str(caught.value)


def test_key_and_password_both_demanded(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> None:
    with python_server(host_key=host_key, authorized=user_key, password="x", also_demand="password") as server:
        session = make_hook(server.port, extra=with_key(user_key), password="x").login()
        assert session.method.endswith("and password")
        with pytest.raises(AuthenticationError, match=r"accepted key .* but demands .*password"):
            make_hook(server.port, extra=with_key(user_key)).login()


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_passphrase_opens_the_key_and_is_shown_to_no_server(
    make_hook: Any, host_key: paramiko.PKey, tmp_path: Path, kind: str
) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_ssh_private_key,
    )

    plain = make_key(tmp_path / "plain", kind)
    locked = tmp_path / "locked"
    key: Any = load_ssh_private_key(plain.read_bytes(), None)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"open sesame")))
    with python_server(host_key=host_key, authorized=plain) as server:
        make_hook(server.port, extra=with_key(locked), password="open sesame").login()
    with python_server(host_key=host_key, password="open sesame") as server:
        with pytest.raises(AuthenticationError):
            make_hook(server.port, extra=with_key(locked), password="open sesame").login()
        assert not any("password" in offer for offer in server.offered)
    with pytest.raises(SetupError, match=r"has a passphrase: put it into the connection's password"):
        make_hook(free_port(), extra=with_key(locked)).login()
    with pytest.raises(SetupError, match="can't be opened with the connection's password") as caught:
        make_hook(free_port(), extra=with_key(locked), password="guess").login()
    assert "guess" not in str(caught.value)


def test_private_key_in_the_connection(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> None:
    with python_server(host_key=host_key, authorized=user_key) as server:
        session = make_hook(server.port, extra={"private_key": user_key.read_text()}).login()
        assert "private_key of the connection" in session.method


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"key_file": "/nowhere/id"}, "key file /nowhere/id: No such file"),
        ({"key_file": "/dev/null"}, "key file /dev/null is no private key"),
        ({"private_key": "rubbish"}, "BEGIN and END header"),
        ({"host_key": "ssh-dss AAAA"}, "DSA/DSS host keys are not supported"),
        ({"ciphers": ["no-such-cipher"]}, "ciphers or disabled_algorithms"),
    ],
)
def test_unusable_connection(make_hook: Any, extra: dict[str, Any], message: str) -> None:
    with tcp_server(silent) as port, pytest.raises(SetupError, match=message) as caught:
        make_hook(port, extra=extra).login()
    assert not caught.value.retry


def test_connection_that_does_not_exist(make_hook: Any) -> None:
    with pytest.raises(SetupError, match="SSH connection 'ssh_missing': The conn_id `ssh_missing` isn't defined"):
        make_hook(22, conn_id="ssh_missing")


def test_host_settings_win_over_the_connection(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> None:
    with python_server(host_key=host_key, authorized=user_key) as server:
        hook = make_hook(server.port, extra=with_key(user_key), user="other", port=1)
        hook.login()
        assert hook.target.port == server.port
        assert server.offered[0].startswith("other ")


@pytest.mark.parametrize(
    ("extra", "on"),
    [
        ({}, False),
        ({"compress": False}, False),
        ({"compress": "no"}, False),
        ({"compress": True}, True),
        ({"compress": "true"}, True),
    ],
)
def test_compresses_only_if_the_connection_says_so(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, extra: dict[str, Any], on: bool
) -> None:
    class Compressing(paramiko.Transport):
        _preferred_compression = ("none", "zlib@openssh.com")

    with python_server(host_key=host_key, authorized=user_key, transport_class=Compressing) as server:
        hook = make_hook(server.port, extra=with_key(user_key, **extra))
        transport = hook.login().transport
        expected = "zlib@openssh.com" if on else "none"
        assert (transport.local_compression, transport.remote_compression) == (expected, expected)
        assert hook.login().run("echo hello", deadline=10, max_output=LIMIT).stdout == b"hello\n"


# ── whom it trusts ──────────────────────────────────────────────────────────────────────────────


def test_first_key_is_remembered_before_the_login(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> None:
    store = Keys()
    with python_server(host_key=host_key) as server:
        with pytest.raises(AuthenticationError):
            make_hook(server.port, extra=with_key(user_key), store=store).login()
        endpoint = f"[127.0.0.1]:{server.port}"
        assert store.known == {endpoint: [HostKey(host_key.get_name(), host_key.get_base64())]}
        with pytest.raises(AuthenticationError):
            make_hook(server.port, extra=with_key(user_key), store=store).login()
        assert len(store.known[endpoint]) == 1


def test_changed_key_is_refused_without_a_login(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, tmp_path: Path
) -> None:
    old = paramiko.PKey.from_path(make_key(tmp_path / "old"))
    store = Keys()
    with python_server(host_key=host_key, authorized=user_key) as server:
        endpoint = f"[127.0.0.1]:{server.port}"
        store.remember(endpoint, HostKey(old.get_name(), old.get_base64()))
        with pytest.raises(HostKeyChangedError) as caught:
            make_hook(server.port, extra=with_key(user_key), store=store).login()
        assert old.fingerprint in str(caught.value)
        assert host_key.fingerprint in str(caught.value)
        assert f"portmon hostkeys accept '{endpoint}' {host_key.fingerprint}`" in str(caught.value)
        assert not caught.value.retry
        assert server.offered == []
        assert store.changes == [(endpoint, HostKey(host_key.get_name(), host_key.get_base64()))]
        assert [key.base64 for key in store.known[endpoint]] == [old.get_base64()]


def test_key_of_another_type_is_a_change(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, tmp_path: Path
) -> None:
    old = paramiko.PKey.from_path(make_key(tmp_path / "old", "rsa"))
    store = Keys()
    with python_server(host_key=host_key, authorized=user_key) as server:
        store.remember(f"[127.0.0.1]:{server.port}", HostKey(old.get_name(), old.get_base64()))
        with pytest.raises(HostKeyChangedError):
            make_hook(server.port, extra=with_key(user_key), store=store).login()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_server_that_gained_a_key_type_is_asked_for_the_known_one(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, tmp_path: Path, kind: str
) -> None:
    old = paramiko.PKey.from_path(make_key(tmp_path / "old", kind))
    store = Keys()
    with python_server(host_key=host_key, also=[old], authorized=user_key) as server:
        fresh = make_hook(server.port, extra=with_key(user_key)).login()
        assert fresh.key.type == "ssh-ed25519"
        store.remember(f"[127.0.0.1]:{server.port}", HostKey(old.get_name(), old.get_base64()))
        session = make_hook(server.port, extra=with_key(user_key), store=store).login()
        assert session.key.base64 == old.get_base64()
        assert session.trusted == "known since first use"


def test_strict_refuses_an_unknown_key_and_says_what_to_add(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, home: Path
) -> None:
    store = Keys()
    with python_server(host_key=host_key, authorized=user_key) as server:
        store.remember(f"[127.0.0.1]:{server.port}", HostKey(host_key.get_name(), host_key.get_base64()))
        with pytest.raises(HostKeyError) as caught:
            make_hook(server.port, extra=with_key(user_key), store=store, host_keys="strict").login()
        assert not isinstance(caught.value, HostKeyChangedError)
        assert host_key.fingerprint in str(caught.value)
        line = f"ssh-keyscan -t ed25519 -p {server.port} 127.0.0.1 >> {home}/.ssh/known_hosts"
        assert line in str(caught.value)
        assert server.offered == []


def test_known_hosts_is_read_and_wins_over_the_store(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, home: Path, tmp_path: Path
) -> None:
    other = paramiko.PKey.from_path(make_key(tmp_path / "other"))
    store = Keys()
    with python_server(host_key=host_key, authorized=user_key) as server:
        endpoint = f"[127.0.0.1]:{server.port}"
        (home / ".ssh" / "known_hosts").write_text(f"{endpoint} {host_key.get_name()} {host_key.get_base64()}\n")
        store.remember(endpoint, HostKey(other.get_name(), other.get_base64()))
        for trust in ("strict", "accept-new"):
            hook = make_hook(server.port, extra=with_key(user_key), store=store, host_keys=trust)
            assert hook.login().trusted == "known_hosts"
        own = tmp_path / "own_known_hosts"
        own.write_text(f"{endpoint} {other.get_name()} {other.get_base64()}\n")
        with pytest.raises(HostKeyChangedError, match=f"ssh-keygen -R '.*' -f {own}"):
            make_hook(server.port, extra=with_key(user_key), store=store, known_hosts=str(own)).login()


def test_known_hosts_that_is_named_must_exist(make_hook: Any) -> None:
    with pytest.raises(SetupError, match="known_hosts file /nowhere/known: No such file"):
        make_hook(free_port(), known_hosts="/nowhere/known").login()


def test_host_key_of_the_connection_is_the_only_one_trusted(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, tmp_path: Path
) -> None:
    other = paramiko.PKey.from_path(make_key(tmp_path / "other"))
    with python_server(host_key=host_key, authorized=user_key) as server:
        pinned = with_key(user_key, host_key=f"{host_key.get_name()} {host_key.get_base64()}")
        assert (
            make_hook(server.port, extra=pinned, host_keys="strict").login().trusted
            == "host_key of connection 'ssh_test'"
        )
        pinned = with_key(user_key, host_key=f"{other.get_name()} {other.get_base64()}")
        with pytest.raises(HostKeyChangedError, match="correct host_key in connection 'ssh_test'"):
            make_hook(server.port, extra=pinned).login()


@pytest.mark.parametrize("extra", ["no_host_key_check", "allow_host_key_change"])
def test_a_connection_can_not_switch_the_check_off(
    make_hook: Any,
    host_key: paramiko.PKey,
    user_key: Path,
    extra: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with python_server(host_key=host_key, authorized=user_key) as server:
        hook = make_hook(server.port, extra=with_key(user_key, **{extra: True}), host_keys="strict")
        with pytest.raises(HostKeyError):
            hook.login()


# ── how it fails ────────────────────────────────────────────────────────────────────────────────


def test_name_without_an_address(make_hook: Any) -> None:
    with pytest.raises(ResolveError, match=r"'no-such-host\.invalid' has no address"):
        make_hook(22, address="no-such-host.invalid").login()


@pytest.mark.parametrize(
    "address",
    ["", "-oProxyCommand=id", "a b", "host;id", "$(id)", "host\nname", "{{ conn.x.password }}", "`id`", "a/b"],
)
def test_address_that_is_none_meets_no_resolver(make_hook: Any, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("was resolved"))
    with pytest.raises(ResolveError, match="no host name and no IP address"):
        make_hook(22, address=address)


def test_a_port_without_a_listener(make_hook: Any, user_key: Path) -> None:
    with pytest.raises(RefusedError, match=r"nothing listens on port \d+.*127\.0\.0\.1: Connection refused") as caught:
        make_hook(free_port(), extra=with_key(user_key)).login()
    assert caught.value.retry


def test_no_route_simulated(make_hook: Any, user_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: socket.socket, address: Any) -> None:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(NoRouteError, match="no way to the host"):
        make_hook(22, extra=with_key(user_key)).login()


def test_second_address_is_tried_simulated_names(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with python_server(host_key=host_key, authorized=user_key) as server:
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        found = [(*stream, ("127.0.0.1", free_port())), (*stream, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
        make_hook(server.port, extra=with_key(user_key), address="two.example").login()


def test_full_backlog_is_a_timeout(make_hook: Any, user_key: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # The kernel drops further SYNs while no process accepts.
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        with pytest.raises(ScanTimeoutError, match="no TCP connection to port"):
            make_hook(listener.getsockname()[1], extra=with_key(user_key), connect_timeout=0.2).login()


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        (silent, "no SSH banner within 0.3 s"),
        (dripping, "no SSH banner within 0.3 s"),
        (banner_only, r"OpenSSH_9\.9 did not finish the key exchange within 0.3 s"),
        (lambda sock, over: [sock.sendall(b"Welcome\r\n"), over.wait()], "no SSH banner .*it said 'Welcome'"),
    ],
    ids=["silent", "dripping", "banner_only", "other_greeting"],
)
def test_hanging_server_has_a_deadline(make_hook: Any, user_key: Path, serve: Any, message: str) -> None:
    with tcp_server(serve) as port, pytest.raises(ScanTimeoutError, match=message) as caught:
        make_hook(port, extra=with_key(user_key), connect_timeout=0.3).login()
    assert caught.value.retry


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        (hang_up, "hung up before its SSH banner.*MaxStartups"),
        (saying(b"Exceeded MaxStartups\r\n"), "it said 'Exceeded MaxStartups'"),
        (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "it said 'HTTP/1.1 400 Bad Request'"),
        (saying(b"\x1b[2J\xff\r\n"), r"it said '\\\\x1b\[2J\\\\xff'"),
        (saying(b"SSH-2.0-OpenSSH_9.9\r\n"), r"OpenSSH_9\.9 hung up during the key exchange"),
        (saying(b"SSH-2.0-OpenSSH_9.9\r\n" + bytes(64)), r"handshake with OpenSSH_9\.9 broke|hung up"),
    ],
    ids=["nothing", "max_startups", "http", "escapes", "after_banner", "rubbish"],
)
def test_server_that_hangs_up(make_hook: Any, user_key: Path, serve: Any, message: str) -> None:
    with tcp_server(serve) as port, pytest.raises(ConnectionLostError, match=message) as caught:
        make_hook(port, extra=with_key(user_key)).login()
    assert caught.value.retry
    assert str(caught.value).isprintable()


def test_server_that_speaks_only_sha1_simulated(make_hook: Any, user_key: Path) -> None:
    with tcp_server(only_sha1) as port, pytest.raises(NegotiationError) as caught:
        make_hook(port, extra=with_key(user_key)).login()
    assert "OpenSSH_5.3 offers diffie-hellman-group14-sha1" in str(caught.value)
    setting = "`algorithms: {kex: [diffie-hellman-group14-sha1], host_keys: [ssh-rsa]}`"
    assert "too old for what is spoken by default. Update it" in str(caught.value)
    assert setting in str(caught.value)
    assert not caught.value.retry


def test_server_that_takes_no_sha2_signatures(make_hook: Any, host_key: paramiko.PKey, tmp_path: Path) -> None:
    key = make_key(tmp_path / "rsa", "rsa")
    old = {"pubkeys": ["rsa-sha2-512", "rsa-sha2-256"]}
    with (
        python_server(host_key=host_key, authorized=key, disabled_algorithms=old) as server,
        pytest.raises(NegotiationError, match=r"no signature .*ed25519 key"),
    ):
        make_hook(server.port, extra=with_key(key)).login()


def test_protocol_1_only_simulated(make_hook: Any, user_key: Path) -> None:
    with (
        tcp_server(saying(b"SSH-1.5-OpenSSH_2.1\r\n")) as port,
        pytest.raises(NegotiationError, match="do not underst"),
    ):
        make_hook(port, extra=with_key(user_key)).login()


def test_slow_authentication_has_a_deadline(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> None:
    with (
        python_server(host_key=host_key, authorized=user_key, slow_login=30) as server,
        pytest.raises(ScanTimeoutError, match="no answer to the login as 'monitor' within 1 s"),
    ):
        make_hook(server.port, extra=with_key(user_key), connect_timeout=1.0).login()


def test_messages_show_hostile_names_as_text(make_hook: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        make_hook(free_port(), name="\x1b[31m{{ 7*7 }}\n\u202ex\udcff").login()
    assert str(caught.value).startswith("\\x1b[31m{{ 7*7 }}\\n\\u202ex\\xff (127.0.0.1): ")
    assert str(caught.value).isprintable()


def test_paramiko_is_silent_about_failures(make_hook: Any, user_key: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with tcp_server(only_sha1) as port, pytest.raises(NegotiationError):
        make_hook(port, extra=with_key(user_key)).login()
    assert not [record for record in caplog.records if "paramiko" in record.name]


# ── commands ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def connect(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> Iterator[Callable[..., HostSSHHook]]:
    with contextlib.ExitStack() as stack:

        def start(run: Any = None, **kwargs: Any) -> HostSSHHook:
            server = stack.enter_context(python_server(host_key=host_key, authorized=user_key, run=run, **kwargs))
            return make_hook(server.port, extra=with_key(user_key))

        yield start


def test_command_that_drips_has_a_deadline(connect: Any) -> None:
    def drip(channel: paramiko.Channel, command: str) -> None:
        while True:
            channel.sendall(b"x")
            threading.Event().wait(0.02)

    with pytest.raises(ScanTimeoutError, match=r"no complete answer within 0.3 s.*bytes came; the last line is 'x+'"):
        connect(drip).login().run("netstat", deadline=0.3, max_output=LIMIT)


def test_stderr_without_end_has_a_deadline_too(connect: Any) -> None:
    def flood(channel: paramiko.Channel, command: str) -> None:
        while True:
            channel.sendall_stderr(b"x" * 32768)

    with pytest.raises(ScanTimeoutError, match=r"no complete answer within 0\.3 s"):
        connect(flood).login().run("netstat", deadline=0.3, max_output=LIMIT)


def test_a_connection_that_is_gone_at_the_end_hides_no_error(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(channel: paramiko.Channel) -> None:
        raise EOFError

    hook = connect(lambda channel, command: threading.Event().wait(1))
    hook.login()
    monkeypatch.setattr(paramiko.Channel, "close", gone)
    with pytest.raises(ScanTimeoutError, match=r"no complete answer within 0\.3 s"):
        hook.login().run("netstat", deadline=0.3, max_output=LIMIT)


def test_stderr_is_read_and_bounded(connect: Any) -> None:
    result = (
        connect().login().run("head -c 3000000 /dev/zero | tr '\\0' e >&2; echo done", deadline=20, max_output=LIMIT)
    )
    assert result.stdout == b"done\n"
    assert result.stderr == b"e" * 16384


def test_output_over_the_limit(connect: Any) -> None:
    def flood(channel: paramiko.Channel, command: str) -> None:
        while True:
            channel.sendall(b"x" * 32768)

    hook = connect(flood)
    with pytest.raises(AnswerError, match="over the limit of 64 KiB"):
        hook.login().run("netstat", deadline=20, max_output=65536)


def test_output_at_the_limit(connect: Any) -> None:
    hook = connect()
    assert len(hook.login().run("head -c 65536 /dev/zero", deadline=20, max_output=65536).stdout) == 65536
    with pytest.raises(AnswerError):
        hook.login().run("head -c 65537 /dev/zero", deadline=20, max_output=65536)


def test_every_byte_arrives(connect: Any) -> None:
    result = connect().login().run("seq 200000", deadline=20, max_output=4 * LIMIT)
    assert result.stdout == b"".join(b"%d\n" % number for number in range(1, 200001))


def test_connection_that_breaks_in_the_answer(connect: Any) -> None:
    def die(channel: paramiko.Channel, command: str) -> None:
        channel.sendall(b"half an ans")
        channel.get_transport().close()

    with pytest.raises(ConnectionLostError, match="broke after 11 bytes of the answer"):
        connect(die).login().run("netstat", deadline=20, max_output=LIMIT)


def test_command_that_a_signal_ended(connect: Any) -> None:
    def killed(channel: paramiko.Channel, command: str) -> None:
        channel.sendall(b"half")

    result = connect(killed).login().run("netstat", deadline=20, max_output=LIMIT)
    assert (result.stdout, result.exit_status) == (b"half", -1)


def test_command_whose_output_a_child_holds_open(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portmon.ssh.session.QUIET", 0.1)

    def leave_a_child(channel: paramiko.Channel, command: str) -> None:
        channel.sendall(b"answer")
        channel.send_exit_status(0)
        threading.Event().wait(30)

    result = connect(leave_a_child).login().run("netstat", deadline=20, max_output=LIMIT)
    assert (result.stdout, result.exit_status) == (b"answer", 0)


def test_server_that_runs_no_commands(connect: Any) -> None:
    with pytest.raises(AnswerError, match="refused to run the command"):
        connect(refuse_commands=True).login().run("netstat", deadline=20, max_output=LIMIT)


def test_server_that_never_starts_the_command(connect: Any) -> None:
    with pytest.raises(ScanTimeoutError, match=r"did not start the command within 0\.3 s"):
        connect(stall_commands=True).login().run("netstat", deadline=0.3, max_output=LIMIT)


def test_closed_hook_says_so(connect: Any) -> None:
    hook = connect()
    session = hook.login()
    hook.close()
    hook.close()
    with pytest.raises(ConnectionLostError, match="broke before the command was sent"):
        session.run("true", deadline=5, max_output=LIMIT)


def test_no_thread_reads_any_more_after_the_end(connect: Any) -> None:
    """What is closed has a descriptor whose number is another host's a moment later."""
    for _ in range(5):
        hook = connect()
        transport = hook.login().transport
        hook.close()
        assert not transport.is_alive()


def test_no_thread_reads_any_more_after_a_failed_login(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transports: list[paramiko.Transport] = []
    run = paramiko.Transport.run
    monkeypatch.setattr(paramiko.Transport, "run", lambda self: (transports.append(self), run(self))[1])
    with python_server(host_key=host_key) as server:
        with pytest.raises(AuthenticationError):
            make_hook(server.port, extra=with_key(user_key)).login()
        (ours,) = [transport for transport in transports if not transport.server_mode]
        assert not ours.is_alive()


# ── through a proxy command ─────────────────────────────────────────────────────────────────────

RELAY = (
    "import os,socket,sys,threading;s=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
    "threading.Thread(target=lambda:[s.sendall(d) for d in iter(lambda:os.read(0,4096),b'')],daemon=True).start();"
    "[os.write(1,d) for d in iter(lambda:s.recv(4096),b'')]"
)


def proxy(*words: str) -> str:
    import shlex
    import sys

    return shlex.join([sys.executable, "-c", *words]).replace("'%h'", "%h")


def test_proxy_command_of_the_connection(make_hook: Any, host_key: paramiko.PKey, user_key: Path) -> None:
    with python_server(host_key=host_key, authorized=user_key) as server:
        extra = with_key(user_key, host_proxy_cmd=proxy(RELAY, "%h", "%p"))
        hook = make_hook(server.port, extra=extra)
        assert hook.login().run("echo through", deadline=10, max_output=LIMIT).stdout == b"through\n"
        process = hook.session.link.process
        hook.close()
        assert process.poll() is not None


def test_proxy_command_of_the_workers_ssh_config(
    make_hook: Any, host_key: paramiko.PKey, user_key: Path, home: Path
) -> None:
    with python_server(host_key=host_key, authorized=user_key) as server:
        command = proxy(RELAY, "%h", str(server.port))
        (home / ".ssh" / "config").write_text(f"Host 127.0.0.1\n  ProxyCommand {command}\n")
        assert make_hook(server.port, extra=with_key(user_key)).login().link.process is not None


def test_proxy_command_that_fails_tells_why(make_hook: Any, user_key: Path) -> None:
    command = proxy("import sys; sys.exit('bastion: no route to %h')")
    with pytest.raises(ConnectionLostError, match=r"exit status 1; the last line is 'bastion: no route to 127.0.0.1'"):
        make_hook(22, extra=with_key(user_key, host_proxy_cmd=command)).login()


def test_proxy_command_that_does_not_exist(make_hook: Any, user_key: Path) -> None:
    with pytest.raises(SetupError, match="proxy command can't be started"):
        make_hook(22, extra=with_key(user_key, host_proxy_cmd="/nowhere/proxy %h")).login()


# ── through jump hosts ──────────────────────────────────────────────────────────────────────────


def jump_host(monkeypatch: pytest.MonkeyPatch, name: str, server: Any = None, **values: Any) -> None:
    """An Airflow connection of a jump host."""
    given = (
        {"host": "127.0.0.1", "port": server.port, "login": server.user, "extra": with_key(server.user_key)}
        if server
        else {}
    )
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "ssh", **given, **values}))


@pytest.mark.slow
@needs_sshd
def test_two_jump_hosts_with_connections_of_their_own(
    make_hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        openssh(tmp_path / "web") as web,
        openssh(tmp_path / "second", config=f"PermitOpen 127.0.0.1:{web.port}") as second,
        openssh(tmp_path / "first", config=f"PermitOpen 127.0.0.1:{second.port}") as first,
    ):
        for name, server in (("ssh_first", first), ("ssh_second", second)):
            jump_host(monkeypatch, name, server)
        store = Keys()
        given = {"login": web.user, "extra": with_key(web.user_key), "store": store}
        hook = make_hook(web.port, jump=("ssh_first", "ssh_second"), **given)
        assert hook.lane == "jump host ssh_first"
        assert hook.login().run("echo through", deadline=10, max_output=LIMIT).stdout == b"through\n"
        assert (
            set(hook.endpoints)
            == {f"[127.0.0.1]:{server.port}" for server in (web, second, first)}
            == store.known.keys()
        )
        assert [server.logins() for server in (first, second, web)] == [1, 1, 1]
        with pytest.raises(JumpError, match=r"^web01 .*: ssh_first .* forbids connections to") as caught:
            make_hook(web.port, jump=("ssh_first",), **given).login()
        assert caught.value.retry
        # Keys of jump hosts are checked as those of hosts.
        with pytest.raises(JumpError, match=r"jump host 1 of 1, ssh_first .*: unknown host key"):
            make_hook(web.port, jump=("ssh_first",), host_keys="strict", **given).login()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "jump host 1 of 1: SSH connection 'ssh_first': The conn_id `ssh_first` isn't defined"),
        ({}, "jump host 1 of 1: connection 'ssh_first' has no host, the jump host's address"),
        ({"host": "a b"}, "jump host 1 of 1: 'a b' is no host name"),
        ({"host": "bastion", "extra": {"private_key": "rubbish"}}, "jump host 1 of 1: SSH connection 'ssh_first'"),
    ],
)
def test_unusable_connection_of_a_jump_host(
    make_hook: Any, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any] | None, message: str
) -> None:
    if values is not None:
        jump_host(monkeypatch, "ssh_first", **values)
    with pytest.raises(JumpError, match=message) as caught:
        make_hook(22, jump=("ssh_first",))
    assert caught.value.error_class == "jump_host"


def test_jump_hosts_or_a_proxy_command(make_hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jump_host(monkeypatch, "ssh_first", host="first", extra={"host_proxy_cmd": "connect %h"})
    with pytest.raises(SetupError, match="give one"):
        make_hook(22, jump=("ssh_first",), extra={"host_proxy_cmd": "connect %h"})
    assert make_hook(22, jump=("ssh_first",)).lane == "jump host ssh_first"
    with pytest.raises(
        JumpError, match="jump host 2 of 2: connection 'ssh_first' has a host_proxy_cmd: only the first"
    ):
        make_hook(22, jump=("ssh_first", "ssh_first"))


# ── real servers ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@needs_sshd
def test_openssh(make_hook: Any, tmp_path: Path) -> None:
    with openssh(tmp_path / "sshd", host_key_kinds=("rsa", "ed25519", "ecdsa")) as server:
        hook = make_hook(server.port, login=server.user, extra=with_key(server.user_key))
        result = hook.login().run("echo $0; pwd; id -u", deadline=10, max_output=LIMIT)
        assert result.stdout.split()[-1] == str(os.getuid()).encode()
        assert hook.login().server.startswith("OpenSSH_")
        assert server.logins() == 1


@pytest.mark.slow
@needs_dropbear
def test_dropbear(make_hook: Any, tmp_path: Path) -> None:
    with dropbear(tmp_path / "dropbear", host_key_kinds=("rsa", "ed25519")) as server:
        hook = make_hook(server.port, login=server.user, extra=with_key(server.user_key))
        assert hook.login().run("echo hello; echo err >&2", deadline=10, max_output=LIMIT).stdout == b"hello\n"
        assert hook.login().run("exit 7", deadline=10, max_output=LIMIT).exit_status == 7
        assert hook.login().server.startswith("dropbear")
        assert server.logins() == 1


@pytest.mark.slow
@needs_sshd
def test_openssh_refuses_another_key(make_hook: Any, tmp_path: Path) -> None:
    with openssh(tmp_path / "sshd") as server:
        key = make_key(tmp_path / "other")
        with pytest.raises(AuthenticationError, match=f"refused user '{server.user}' with key ssh-ed25519"):
            make_hook(server.port, login=server.user, extra=with_key(key)).login()
        until(lambda: "Connection closed by authenticating user" in server.said(), "sshd to see us go")
        assert server.said().count("Failed publickey") <= 1


@pytest.mark.slow
@needs_sshd
def test_openssh_that_gains_and_loses_key_types(make_hook: Any, tmp_path: Path) -> None:
    store = Keys()
    with openssh(tmp_path / "sshd", host_key_kinds=("rsa", "ed25519")) as server:
        rsa = (tmp_path / "sshd" / "host_rsa.pub").read_text().split()
        store.remember(f"[127.0.0.1]:{server.port}", HostKey(rsa[0], rsa[1]))
        hook = make_hook(server.port, login=server.user, extra=with_key(server.user_key), store=store)
        assert hook.login().key.type == "ssh-rsa"
        assert store.changes == []


@pytest.mark.slow
@needs_sshd
@pytest.mark.parametrize(
    ("config", "offered", "advice"),
    [
        ("KexAlgorithms diffie-hellman-group14-sha1", "no key exchange .* diffie-hellman-group14-sha1", "too old"),
        ("HostKeyAlgorithms ssh-rsa", "no host key algorithm .* offers ssh-rsa;", "too old"),
        ("Ciphers chacha20-poly1305@openssh.com", "no cipher .* offers chacha20", "allows too little.*Ciphers in sshd"),
    ],
)
def test_openssh_without_a_common_algorithm(
    make_hook: Any, tmp_path: Path, config: str, offered: str, advice: str
) -> None:
    with openssh(tmp_path / "sshd", config=config, host_key_kinds=("rsa",)) as server:
        with pytest.raises(NegotiationError, match=f"{offered}.*{advice}") as caught:
            make_hook(server.port, login=server.user, extra=with_key(server.user_key)).login()
        assert not caught.value.retry


@pytest.mark.slow
@needs_sshd
def test_openssh_drops_at_max_startups(make_hook: Any, tmp_path: Path) -> None:
    with (
        openssh(tmp_path / "sshd", config="MaxStartups 1:100:1") as server,
        socket.create_connection(("127.0.0.1", server.port), 5) as first,
    ):
        assert first.recv(4) == b"SSH-"
        with pytest.raises(ConnectionLostError, match=r"hung up .*MaxStartups"):
            make_hook(server.port, login=server.user, extra=with_key(server.user_key)).login()


@pytest.mark.slow
@needs_sshd
def test_openssh_hangs_up_after_too_many_offers(make_hook: Any, tmp_path: Path, home: Path) -> None:
    make_key(home / ".ssh" / "id_ed25519")
    with openssh(tmp_path / "sshd", config="MaxAuthTries 1") as server:
        extra = with_key(make_key(tmp_path / "other"), look_for_keys=True)
        hook = make_hook(server.port, login=server.user, extra=extra)
        with pytest.raises(AuthenticationError, match=r"OpenSSH.* hung up on the login"):
            hook.login()
        # With one offer the same limit is no obstacle.
        make_hook(server.port, login=server.user, extra=with_key(server.user_key)).login()


@pytest.mark.slow
@needs_sshd
def test_how_many_round_trips_a_look_costs(make_hook: Any, tmp_path: Path) -> None:
    """What a far away fleet waits for. Measured with a line that delays, against one that does not."""
    delay = 0.3

    def carry(source: socket.socket, target: socket.socket, seconds: float) -> None:
        # Each piece leaves so long after it came; pieces do not wait for each other.
        queued: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def send() -> None:
            with contextlib.suppress(OSError):
                while (item := queued.get())[1]:
                    time.sleep(max(0.0, item[0] - time.monotonic()))
                    target.sendall(item[1])
                target.shutdown(socket.SHUT_WR)

        threading.Thread(target=send, daemon=True).start()
        data = b"x"
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            queued.put((time.monotonic() + seconds, data))

    def seconds(port: int, one_way: float) -> float:
        def serve(sock: socket.socket, over: threading.Event) -> None:
            with socket.create_connection(("127.0.0.1", port)) as onward:
                threading.Thread(target=carry, args=(onward, sock, one_way), daemon=True).start()
                carry(sock, onward, one_way)

        with tcp_server(serve) as line:
            hook = make_hook(line, extra=with_key(server.user_key), login=server.user, connect_timeout=30.0)
            started = time.monotonic()
            hook.login()
            hook.login().run("true", deadline=30, max_output=LIMIT)
            taken = time.monotonic() - started
            hook.close()
            return taken

    with openssh(tmp_path / "sshd") as server:
        seconds(server.port, 0)
        slow, quick = (min(seconds(server.port, one_way) for _ in range(2)) for one_way in (delay, 0))
        trips = (slow - quick) / (2 * delay)
    # docs/operations.md says seven. The first of them, for TCP itself, is not on this line.
    assert 4 < trips < 9


@pytest.mark.slow
@needs_sshd
@pytest.mark.parametrize("where", ["private_key", "key_file"])
def test_openssh_takes_the_certificate_of_the_connection(make_hook: Any, tmp_path: Path, where: str) -> None:
    authority, key = Authority(tmp_path / "authority"), make_key(tmp_path / "key")
    with openssh(tmp_path / "sshd", config=f"TrustedUserCAKeys {authority.public}") as server:
        text = authority.sign(key, server.user).rename(tmp_path / "elsewhere").read_text()
        extra = {where: key.read_text() if where == "private_key" else str(key), "certificate": text}
        assert "certificate 'id of key'" in make_hook(server.port, login=server.user, extra=extra).login().method
