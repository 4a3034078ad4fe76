"""What old servers speak: off by default, and on real servers that speak nothing else."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import paramiko
import pytest

from portmon.config import parse_config, ssh_settings
from portmon.errors import AuthenticationError, ConfigError, NegotiationError
from portmon.ssh import names
from portmon.ssh.algorithms import signing
from portmon.ssh.connect import connect
from portmon.ssh.names import LEGACY, OldAlgorithms
from portmon.ssh.session import Session
from portmon.ssh.target import Credentials, Options, Target
from portmon.ssh.transport import Transport
from portmon.ssh.trust import Trust
from tests.worlds.sshd import Keys, Server, make_key, needs_sshd, openssh

OLD = """
KexAlgorithms diffie-hellman-group14-sha1
HostKeyAlgorithms ssh-rsa
Ciphers aes128-cbc
MACs hmac-md5
PubkeyAcceptedAlgorithms ssh-rsa
"""
"""What a server of 2010 has, with OpenSSH of today."""
ONE = {
    "kex": ("KexAlgorithms", get_args(names.OldKex)),
    "host_keys": ("HostKeyAlgorithms", get_args(names.OldSignature)),
    "ciphers": ("Ciphers", get_args(names.OldCipher)),
    "macs": ("Ciphers aes128-ctr\nMACs", get_args(names.OldMac)),
    "user_keys": ("PubkeyAcceptedAlgorithms", get_args(names.OldSignature)),
}


def login(server: Server, algorithms: OldAlgorithms | None, *, key: Path | None = None, **options: Any) -> Session:
    credentials = Credentials(server.user, key_file=str(key or server.user_key))
    given = Options(algorithms=algorithms, **options)
    return connect(Target("old", "127.0.0.1", server.port), credentials, Trust(strict=False, store=Keys()), given)


def rsa_key(server: Server, folder: Path) -> Path:
    """A key of the user that the server lets in."""
    key = make_key(folder / "rsa_key", "rsa")
    with (server.home / ".ssh" / "authorized_keys").open("a") as authorized:
        authorized.write(key.with_name("rsa_key.pub").read_text())
    return key


def test_by_default_nothing_old_is_offered_and_legacy_is_all_of_it() -> None:
    assert parse_config("ssh: {}").ssh.old_algorithms is None
    text = "ssh: {groups: [{name: old, match: {host: 'old*'}, algorithms: legacy}, {name: kex, match: {host: '*'}, algorithms: {kex: [diffie-hellman-group14-sha1]}}]}"
    config = parse_config(text)
    old, kex = (ssh_settings(config, group=group).old_algorithms for group in config.ssh.groups)
    assert ssh_settings(config, group=None).old_algorithms is None
    assert kex == OldAlgorithms(kex=("diffie-hellman-group14-sha1",))
    assert old is not None
    assert {kind: tuple(getattr(old, kind)) for kind in ONE} == {kind: offers for kind, (_, offers) in ONE.items()}
    offered: list[str] = []
    for kind in ("_preferred_kex", "_preferred_keys", "_preferred_pubkeys", "_preferred_ciphers", "_preferred_macs"):
        offered += getattr(Transport, kind)
    assert not set(offered) & {name for _, offers in ONE.values() for name in offers}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("modern", "legacy"),
        ("{kex: [sntrup761]}", "diffie-hellman-group14-sha1"),
        ("{key: [ssh-rsa]}", "did you mean 'kex'"),
        ("{ciphers: aes128-ctr}", "aes128-cbc"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match="algorithms") as caught:
        parse_config(f"ssh: {{groups: [{{name: old, match: {{host: x}}, algorithms: {setting}}}]}}")
    assert message in str(caught.value)


@pytest.mark.slow
@needs_sshd
def test_a_server_that_speaks_only_old_algorithms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One of before RFC 8332 does not say what it takes. This sshd does, and names what it refuses as well.
    monkeypatch.setattr(Transport, "_parse_ext_info", lambda transport, message: None)
    with openssh(tmp_path / "sshd", config=OLD, host_key_kinds=("rsa",)) as server:
        key = rsa_key(server, tmp_path)
        with pytest.raises(NegotiationError) as caught:
            login(server, None, key=key)
        told = str(caught.value)
        assert "offers diffie-hellman-group14-sha1" in told
        # Word for word what has to be set.
        setting = "algorithms: {kex: [diffie-hellman-group14-sha1], host_keys: [ssh-rsa], ciphers: [aes128-cbc], macs: [hmac-md5]}"
        assert setting in told
        half = parse_config(f"ssh: {{{setting}}}").ssh.old_algorithms
        with pytest.raises(AuthenticationError, match=r"user_keys: \[ssh-rsa\]"):
            login(server, half, key=key)
        with closing(login(server, LEGACY, key=key)) as session:
            assert session.run("echo hello", deadline=10, max_output=1024).stdout == b"hello\n"
            # Known again by its key, whichever way the server signs.
            assert session.key.type == "ssh-rsa"


@pytest.mark.slow
@needs_sshd
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name) if number == 0 else pytest.param(kind, name, marks=pytest.mark.full)
        for kind, (_, offers) in ONE.items()
        for number, name in enumerate(offers)
    ],
)
def test_each_name_is_what_the_server_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    if kind == "user_keys":
        monkeypatch.setattr(Transport, "_parse_ext_info", lambda transport, message: None)
    with openssh(tmp_path / "sshd", config=f"{ONE[kind][0]} {name}", host_key_kinds=("rsa",)) as server:
        key = rsa_key(server, tmp_path) if kind == "user_keys" else None
        with pytest.raises((NegotiationError, AuthenticationError), match=f"{kind}: \\[{name}\\]"):
            login(server, None, key=key)
        with closing(login(server, OldAlgorithms(**{kind: (name,)}), key=key)) as session:
            assert session.run("seq 100000", deadline=10, max_output=1024**2).stdout.endswith(b"\n100000\n")


@pytest.mark.slow
@needs_sshd
def test_a_server_of_today_is_asked_for_nothing_old(tmp_path: Path) -> None:
    with openssh(tmp_path / "sshd", host_key_kinds=("rsa",)) as server:
        key = rsa_key(server, tmp_path)
        with closing(login(server, LEGACY, key=key)) as session:
            transport: Any = session.transport
            assert transport.host_key_type.startswith("rsa-sha2-")
            assert (transport.local_cipher, transport.remote_cipher) == ("aes128-gcm@openssh.com",) * 2
            assert transport._agreed_pubkey_algorithm.startswith("rsa-sha2-")
            # Of the exchange itself paramiko keeps the hash: that of SHA-1 has 20 bytes.
            assert len(transport.session_id) > 20


def test_a_sha1_signature_is_refused_where_it_was_not_agreed_on(tmp_path: Path) -> None:
    """A server that agrees on SHA-2 and signs with SHA-1 is no old server."""
    key = paramiko.RSAKey.from_private_key_file(str(make_key(tmp_path / "host", "rsa")))
    signed: Any = signing(key, LEGACY)
    signature = signed.sign_ssh_data(b"exchange", "ssh-rsa")
    assert not key.verify_ssh_sig(b"exchange", paramiko.Message(signature.asbytes()))
