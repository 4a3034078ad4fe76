"""known_hosts as OpenSSH reads it, and who is trusted in which order."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from portmon.errors import HostKeyChangedError, HostKeyError, ResolveError
from portmon.ssh.target import Target
from portmon.ssh.trust import HostKey, KnownHosts, Trust
from tests.sshd import make_key


def key(number: int, kind: str = "ssh-ed25519") -> HostKey:
    return HostKey(kind, f"AAAA{number:04d}")


WEB = Target("web01", "web01.example", 22)
HIGH = Target("web01", "web01.example", 2222)


@pytest.mark.parametrize(
    ("line", "target", "found"),
    [
        ("web01.example ssh-ed25519 AAAA0001", WEB, True),
        ("web01.example ssh-ed25519 AAAA0001 a comment", WEB, True),
        ("  web01.example\tssh-ed25519   AAAA0001", WEB, True),
        ("WEB01.example ssh-ed25519 AAAA0001", WEB, True),
        ("other,web01.example,third ssh-ed25519 AAAA0001", WEB, True),
        ("[web01.example]:22 ssh-ed25519 AAAA0001", WEB, True),
        ("[web01.example]:2222 ssh-ed25519 AAAA0001", HIGH, True),
        ("web01.example ssh-ed25519 AAAA0001", HIGH, False),
        ("[web01.example]:2222 ssh-ed25519 AAAA0001", WEB, False),
        ("*.example ssh-ed25519 AAAA0001", WEB, True),
        ("web0?.example ssh-ed25519 AAAA0001", WEB, True),
        ("[*.example]:2222 ssh-ed25519 AAAA0001", HIGH, True),
        ("*.example,!web01.example ssh-ed25519 AAAA0001", WEB, False),
        ("!web01.example,*.example ssh-ed25519 AAAA0001", WEB, False),
        ("web01 ssh-ed25519 AAAA0001", WEB, False),
        ("# web01.example ssh-ed25519 AAAA0001", WEB, False),
        ("@cert-authority web01.example ssh-ed25519 AAAA0001", WEB, False),
        ("@revoked web01.example ssh-ed25519 AAAA0001", WEB, False),
        ("web01.example ssh-ed25519 not*base64", WEB, False),
        ("web01.example ssh-ed25519", WEB, False),
        ("|1|rubbish ssh-ed25519 AAAA0001", WEB, False),
        ("|1|a|b ssh-ed25519 AAAA0001", WEB, False),
        ("", WEB, False),
    ],
)
def test_line(line: str, target: Target, found: bool) -> None:
    assert KnownHosts([line]).keys(target) == ([key(1)] if found else [])


def test_several_keys_of_one_type() -> None:
    lines = ["web01.example ssh-ed25519 AAAA0001", "*.example ssh-ed25519 AAAA0002"]
    assert KnownHosts(lines).keys(WEB) == [key(1), key(2)]


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")
def test_agrees_with_ssh_keygen(tmp_path: Path) -> None:
    """Hashed names and fingerprints are those of OpenSSH's own tool."""
    make_key(tmp_path / "host")
    kind, text, _ = (tmp_path / "host.pub").read_text().split()
    shown = HostKey(kind, text)
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "host.pub"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.fingerprint == listed.split()[1]
    known = tmp_path / "known_hosts"
    known.write_text(f"web01.example {kind} {text}\n[web01.example]:2222 {kind} {text}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], capture_output=True, check=True)
    assert "web01" not in known.read_text()
    hosts = KnownHosts.load(known)
    assert hosts.keys(WEB) == [shown]
    assert hosts.keys(HIGH) == [shown]
    assert hosts.keys(Target("x", "web02.example")) == []


class Store:
    def __init__(self, *keys: HostKey) -> None:
        self.keys = list(keys)
        self.changes: list[HostKey] = []

    def get(self, endpoint: str) -> Sequence[HostKey]:
        return self.keys

    def remember(self, endpoint: str, key: HostKey) -> None:
        self.keys.append(key)

    def report_change(self, endpoint: str, key: HostKey) -> None:
        self.changes.append(key)


def check(trust: Trust, shown: HostKey) -> str:
    return trust.check(WEB, trust.known(WEB), shown)


def test_pinned_before_known_hosts_before_store_before_first_use() -> None:
    hosts = KnownHosts(["web01.example ssh-ed25519 AAAA0002"])
    assert "connection 'c'" in check(Trust(False, key(1), "c", hosts, store=Store(key(3))), key(1))
    assert check(Trust(False, None, "", hosts, store=Store(key(3))), key(2)) == "known_hosts"
    assert check(Trust(False, store=Store(key(3))), key(3)) == "known since first use"
    store = Store()
    assert check(Trust(False, store=store), key(4)) == "first use, trusted from now on"
    assert store.keys == [key(4)]
    for trust in (Trust(False, key(1), "c", hosts), Trust(False, None, "", hosts), Trust(False, store=Store(key(3)))):
        with pytest.raises(HostKeyChangedError):
            check(trust, key(5))


def test_only_the_store_hears_of_a_change_it_can_accept() -> None:
    store = Store(key(3))
    with pytest.raises(HostKeyChangedError, match="hostkeys accept"):
        check(Trust(False, store=store), key(5))
    assert (store.changes, store.keys) == ([key(5)], [key(3)])
    pinned = Store(key(3))
    with pytest.raises(HostKeyChangedError, match="correct host_key"):
        check(Trust(False, key(1), "c", store=pinned), key(5))
    assert pinned.changes == []


@pytest.mark.parametrize("trust", [Trust(True, store=Store(key(3))), Trust(True), Trust(False)])
def test_without_known_hosts_strict_trusts_nobody(trust: Trust) -> None:
    with pytest.raises(HostKeyError, match="unknown host key") as caught:
        check(trust, key(3))
    assert not isinstance(caught.value, HostKeyChangedError)


def test_revoked_key_is_never_trusted() -> None:
    hosts = KnownHosts(["@revoked * ssh-ed25519 AAAA0001"])
    store = Store(key(1))
    for trust in (Trust(False, None, "", hosts, store=store), Trust(False, key(1), "c", hosts)):
        with pytest.raises(HostKeyError, match="@revoked"):
            check(trust, key(1))


@pytest.mark.parametrize("address", ["web01", "web-01.example.", "10.0.0.1", "fe80::1%eth0", "::1", "_dmz", "münchen"])
def test_address(address: str) -> None:
    assert Target("x", address, 2222).endpoint == f"[{address}]:2222"


@pytest.mark.parametrize("address", ["", "-v", ".", "a b", "a;b", "$a", "a\n", "a/b", "`a`", "a'b", 'a"b', "x" * 256])
def test_address_that_is_none(address: str) -> None:
    with pytest.raises(ResolveError):
        Target("x", address)
