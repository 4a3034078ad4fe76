"""SSH certificates of users and hosts: with OpenSSH's sshd, and signed by ssh-keygen."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.errors import AuthenticationError, HostKeyChangedError, HostKeyError, SetupError
from portmon.ssh import certificates
from portmon.ssh.connect import connect
from portmon.ssh.session import Session
from portmon.ssh.target import Credentials, Options, Target
from portmon.ssh.trust import HostKey, KnownHosts, Trust
from tests.worlds.authority import Authority
from tests.worlds.sshd import Keys, Server, make_key, needs_sshd, openssh

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")

KINDS = ("ed25519", pytest.param("rsa", marks=pytest.mark.full), pytest.param("ecdsa", marks=pytest.mark.full))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def login(
    server: Server, key: Path, *, known: str | None = None, store: Keys | None = None, strict: bool = False, **more: Any
) -> Session:
    hosts = KnownHosts(known.splitlines()) if known is not None else None
    trust = Trust(strict=strict, store=store or Keys(), known_hosts=hosts, known_hosts_path="known_hosts")
    return connect(
        Target("web01", "127.0.0.1", server.port),
        Credentials(server.user, key_file=str(key), **more),
        trust,
        Options(),
    )


# ── what a certificate says ─────────────────────────────────────────────────────────────────────


def test_what_ssh_keygen_signed_is_read(tmp_path: Path, authority: Authority) -> None:
    key = make_key(tmp_path / "key")
    found = certificates.read(authority.sign(key, "portmon", "other").read_text())
    kind, base64, _ = (tmp_path / "key.pub").read_text().split()
    assert found.key == (kind, base64)
    assert HostKey(*found.signer) == authority.key
    assert (found.key_id, found.principals, found.forged()) == ("id of key", ["portmon", "other"], None)
    now = datetime.now(UTC)
    assert found.problem(now) is None
    assert "it expired on " in str(found.problem(now + timedelta(hours=2)))
    assert "not valid before " in str(found.problem(now - timedelta(hours=2)))
    assert found.problem(now, host="web01") == "it is not one of a host"
    always = certificates.read(authority.sign(key, valid="always:forever").read_text())
    assert always.problem(datetime.max.replace(tzinfo=UTC) - timedelta(days=1)) is None


@pytest.mark.parametrize(
    ("principals", "host", "fits"),
    [
        (("web01.example.com",), "web01.example.com", True),
        (("WEB01.example.com",), "Web01.Example.com", True),
        (("db01.example.com", "web01.example.com"), "web01.example.com", True),
        (("*.example.com",), "web01.example.com", True),
        (("web0[1].example.com",), "web01.example.com", False),
        (("example.com",), "web01.example.com", False),
        (("web01.example.com",), "web01.example.com.evil", False),
        ((), "web01.example.com", True),
    ],
)
def test_names_of_a_host(
    tmp_path: Path, authority: Authority, principals: tuple[str, ...], host: str, fits: bool
) -> None:
    found = certificates.read(authority.sign(make_key(tmp_path / "key"), *principals, host=True).read_text())
    assert (found.problem(datetime.now(UTC), host=host) is None) == fits


def test_what_was_changed_or_signed_with_sha1_is_forged(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "rsa", "rsa")
    key = make_key(tmp_path / "key")
    good = authority.sign(key, "a" * 40).read_text()
    assert certificates.read(good).forged() is None
    weak = authority.sign(key, "portmon", algorithm="ssh-rsa").read_text()
    assert "SHA-1" in str(certificates.read(weak).forged())
    kind, text, _ = good.split(None, 2)
    data = base64.b64decode(text).replace(b"a" * 40, b"b" * 40)
    assert certificates.read(f"{kind} {base64.b64encode(data).decode()}").forged() == "its signature is wrong"


@pytest.mark.parametrize("text", ["", "rubbish", "ssh-ed25519-cert-v01@openssh.com AAAA", "ssh-ed25519 AAAA", "é é"])
def test_rubbish_is_no_certificate(text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        certificates.read(text)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    """Certificates of each kind, signed by each kind: type and content."""
    folder, found = tmp_path_factory.mktemp("signed"), []
    for by in ("ed25519", "rsa", "ecdsa"):
        authority = Authority(folder / by, by)
        for kind in ("ed25519", "rsa", "ecdsa"):
            key = make_key(folder / f"{by}-{kind}", kind)
            name, text, *_ = authority.sign(key, "web01", "*.example.com", host=True).read_text().split()
            found.append((name, base64.b64decode(text)))
    return found


@given(st.data())
def test_a_broken_certificate_is_refused_and_breaks_nothing(
    signed: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    kind, good = data.draw(st.sampled_from(signed))
    start = data.draw(st.integers(0, len(good) - 1))
    gone = data.draw(st.integers(0, 8))
    broken = good[:start] + data.draw(st.binary(max_size=8)) + good[start + gone :]
    try:
        found = certificates.read(f"{kind} {base64.b64encode(broken).decode()}")
    except ValueError:
        return
    found.problem(datetime.now(UTC), host="web01")
    assert (found.forged() is None) == (broken == good)


# ── of users ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def trusting(tmp_path: Path, authority: Authority) -> Iterator[Server]:
    """A server that lets in whom the authority signed, and no bare key."""
    with openssh(tmp_path / "sshd", config=f"TrustedUserCAKeys {authority.public}") as server:
        (server.home / ".ssh" / "authorized_keys").unlink()
        yield server


@pytest.mark.slow
@needs_sshd
@pytest.mark.parametrize("kind", KINDS)
def test_the_certificate_beside_a_key_file_logs_in(
    tmp_path: Path, authority: Authority, trusting: Server, kind: str
) -> None:
    key = make_key(tmp_path / "key", kind)
    with pytest.raises(AuthenticationError, match="refused user 'tester' with key"):
        login(trusting, key)
    authority.sign(key, trusting.user)
    with closing(login(trusting, key)) as session:
        assert session.method.startswith("certificate 'id of key' of key ")
        assert session.run("echo hello", deadline=10, max_output=1024).stdout == b"hello\n"
    assert "CA ED25519" in trusting.said()
    # One offer.
    assert trusting.said().count("Failed publickey") <= 1


@pytest.mark.slow
@needs_sshd
def test_the_certificate_of_the_connection_logs_in(tmp_path: Path, authority: Authority, trusting: Server) -> None:
    key = make_key(tmp_path / "key")
    text = authority.sign(key, trusting.user).rename(tmp_path / "elsewhere").read_text()
    shared: dict[Any, Any] = {}
    login(trusting, key, certificate=text, key_files=shared).close()
    # The key that the logins of a task share stays as it is.
    with pytest.raises(AuthenticationError):
        login(trusting, key, key_files=shared)


@pytest.mark.slow
@needs_sshd
def test_a_refused_certificate_says_for_whom_it_is(tmp_path: Path, authority: Authority, trusting: Server) -> None:
    key = make_key(tmp_path / "key")
    authority.sign(key, "other")
    with pytest.raises(AuthenticationError, match=r"with certificate 'id of key'.* is for other: check") as caught:
        login(trusting, key)
    assert authority.key.fingerprint in str(caught.value)
    assert not caught.value.retry


@pytest.mark.slow
@needs_sshd
def test_a_revoked_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    key = make_key(tmp_path / "key")
    revoked = tmp_path / "revoked"
    revoked.write_text((tmp_path / "key.pub").read_text())
    config = f"TrustedUserCAKeys {authority.public}\nRevokedKeys {revoked}"
    with openssh(tmp_path / "sshd", config=config) as server:
        authority.sign(key, server.user)
        with pytest.raises(AuthenticationError, match="has not revoked it"):
            login(server, key)


WRONG: dict[str, tuple[Callable[[Path, Authority], str], str]] = {
    "expired": (lambda key, by: by.sign(key, valid="-2h:-1h").read_text(), "it expired on "),
    "early": (lambda key, by: by.sign(key, valid="+1h:+2h").read_text(), "it is not valid before "),
    "of a host": (lambda key, by: by.sign(key, host=True).read_text(), "it is not one of a user"),
    "of another key": (lambda key, by: by.sign(make_key(key.with_name("other"))).read_text(), "it is of another key"),
    "rubbish": (lambda key, by: "rubbish", "is no SSH certificate"),
    "a key": (lambda key, by: key.with_name("key.pub").read_text(), "it is a public key, and no certificate"),
}


@pytest.mark.slow
@needs_sshd
@pytest.mark.parametrize("what", WRONG)
def test_a_certificate_of_no_use_is_shown_to_no_server(
    tmp_path: Path, authority: Authority, trusting: Server, what: str
) -> None:
    key = make_key(tmp_path / "key")
    make, message = WRONG[what]
    text = make(key, authority)
    (tmp_path / "key-cert.pub").unlink(missing_ok=True)
    with pytest.raises(SetupError, match=message) as caught:
        login(trusting, key, certificate=text)
    assert not caught.value.retry
    (tmp_path / "key-cert.pub").write_text(text)
    with pytest.raises(SetupError, match=message):
        login(trusting, key)
    assert "Connection from" not in trusting.said()


# ── of hosts ────────────────────────────────────────────────────────────────────────────────────


def with_certificate(folder: Path, authority: Authority, kind: str = "ed25519", **given: Any) -> str:
    """Lines of sshd_config for a host that has one; its key is none that :func:`openssh` would make."""
    key = make_key(folder / "certified", kind)
    principals = given.pop("principals", ("127.0.0.1",))
    return f"HostKey {key}\nHostCertificate {authority.sign(key, *principals, host=True, **given)}"


@pytest.mark.slow
@needs_sshd
@pytest.mark.parametrize("kind", KINDS)
def test_a_host_is_known_by_its_authority(tmp_path: Path, authority: Authority, kind: str) -> None:
    store = Keys()
    config = with_certificate(tmp_path, authority, kind)
    with openssh(tmp_path / "sshd", config=config, host_key_kinds=("ed25519", "rsa", "ecdsa")) as server:
        for strict in (True, False):
            for names in ("127.0.0.1", "127.0.0.*", f"[127.0.0.1]:{server.port}"):
                with closing(
                    login(server, server.user_key, known=authority.line(names), strict=strict, store=store)
                ) as s:
                    assert s.trusted == f"certificate 'id of certified' of authority {authority.key}"
        # Nothing was trusted on first use.
        assert store.known == {}
        # A key that was known before the host had a certificate is no obstacle.
        store.remember(f"[127.0.0.1]:{server.port}", HostKey("ssh-ed25519", "AAAA"))
        with closing(login(server, server.user_key, known=authority.line("*"), store=store)) as session:
            assert session.trusted.startswith("certificate")
        # Without an authority in known_hosts a host with a certificate is one like any other.
        with closing(login(server, server.user_key)) as session:
            assert session.trusted == "first use, trusted from now on"


HOST_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"valid": "-2h:-1h"}, "it expired on "),
    "early": ({"valid": "+1h:+2h"}, "it is not valid before "),
    "of another host": ({"principals": ("web02", "192.0.2.1")}, "it is for web02, 192.0.2.1, and not for 127.0.0.1"),
    "critical": ({"more": ("-O", "critical:strange=1")}, "options that no host's certificate has (strange)"),
}


@pytest.mark.slow
@needs_sshd
@pytest.mark.parametrize("what", HOST_WRONG)
def test_a_certificate_of_a_host_that_is_of_no_use(tmp_path: Path, authority: Authority, what: str) -> None:
    given, message = HOST_WRONG[what]
    with openssh(tmp_path / "sshd", config=with_certificate(tmp_path, authority, **given)) as server:
        with pytest.raises(HostKeyError) as caught:
            login(server, server.user_key, known=authority.line("*"))
        assert message in str(caught.value)
        assert not isinstance(caught.value, HostKeyChangedError)
        assert "Accepted" not in server.said()


@pytest.mark.slow
@needs_sshd
def test_a_revoked_authority_or_key_is_refused(tmp_path: Path, authority: Authority) -> None:
    with openssh(tmp_path / "sshd", config=with_certificate(tmp_path, authority)) as server:
        both = authority.line("*") + authority.line("*", "@revoked")
        with pytest.raises(HostKeyError, match=r"its authority .* is marked @revoked"):
            login(server, server.user_key, known=both)
        kind, text, *_ = (tmp_path / "certified.pub").read_text().split()
        with pytest.raises(HostKeyError, match=r"the host key .* is marked @revoked"):
            login(server, server.user_key, known=authority.line("*") + f"@revoked * {kind} {text}\n")


@pytest.mark.slow
@needs_sshd
def test_a_bare_key_is_not_trusted_where_an_authority_is_named(tmp_path: Path, authority: Authority) -> None:
    store = Keys()
    other = Authority(tmp_path / "other")
    for folder, config in (("bare", ""), ("strange", with_certificate(tmp_path, other))):
        with openssh(tmp_path / folder, config=config) as server:
            with pytest.raises(HostKeyError, match=r"comes without a certificate of .*HostCertificate"):
                login(server, server.user_key, known=authority.line("*"), store=store)
            assert store.known == {}
            # One that a person wrote into known_hosts is.
            kind, text, *_ = (server.host_keys[0].with_name("host_ed25519.pub")).read_text().split()
            line = f"[127.0.0.1]:{server.port} {kind} {text}\n"
            if folder == "bare":
                login(server, server.user_key, known=authority.line("*") + line).close()
            else:
                with pytest.raises(HostKeyChangedError):
                    login(server, server.user_key, known=authority.line("*") + line)


@pytest.mark.slow
@needs_sshd
def test_a_forged_certificate_is_refused(tmp_path: Path) -> None:
    """Signed with SHA-1 by an authority that is trusted."""
    authority = Authority(tmp_path / "rsa", "rsa")
    config = with_certificate(tmp_path, authority, algorithm="ssh-rsa")
    with openssh(tmp_path / "sshd", config=config) as server, pytest.raises(HostKeyError, match="signed with SHA-1"):
        login(server, server.user_key, known=authority.line("*"))
