"""known_hosts as OpenSSH reads it, and who is trusted in which order."""

from __future__ import annotations

import contextlib
import fnmatch
import hmac
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portmon.errors import HostKeyChangedError, HostKeyError, ResolveError
from portmon.ssh.target import Target
from portmon.ssh.trust import HostKey, KnownHosts, Trust
from tests.worlds.sshd import make_key


def key(number: int, kind: str = "ssh-ed25519") -> HostKey:
    return HostKey(kind, f"AAAA{number:04d}")


NOW = datetime(2026, 1, 1, tzinfo=UTC)
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
    assert KnownHosts([line]).find(target)[0] == ([key(1)] if found else [])


@pytest.mark.parametrize(
    ("line", "target", "found"),
    [
        ("@cert-authority web01.example ssh-ed25519 AAAA0001", WEB, True),
        ("@cert-authority *.example ssh-ed25519 AAAA0001", WEB, True),
        ("@cert-authority *.example,!web01.example ssh-ed25519 AAAA0001", WEB, False),
        ("@cert-authority other.example ssh-ed25519 AAAA0001", WEB, False),
        # Of any port, unless it names one.
        ("@cert-authority *.example ssh-ed25519 AAAA0001", HIGH, True),
        ("@cert-authority [*.example]:2222 ssh-ed25519 AAAA0001", HIGH, True),
        ("@cert-authority [*.example]:2222 ssh-ed25519 AAAA0001", WEB, False),
        ("web01.example ssh-ed25519 AAAA0001", WEB, False),
        ("@revoked web01.example ssh-ed25519 AAAA0001", WEB, False),
    ],
)
def test_authority(line: str, target: Target, found: bool) -> None:
    hosts = KnownHosts([line])
    assert hosts.authorities(target) == ([key(1)] if found else [])
    if line.startswith("@cert"):
        assert hosts.find(target) == ([], [])


def test_several_keys_of_one_type() -> None:
    lines = ["web01.example ssh-ed25519 AAAA0001", "*.example ssh-ed25519 AAAA0002"]
    assert KnownHosts(lines).find(WEB)[0] == [key(1), key(2)]


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
    assert hosts.find(WEB)[0] == [shown]
    assert hosts.find(HIGH)[0] == [shown]
    assert hosts.find(Target("x", "web02.example"))[0] == []


# ── the index agrees with a reading line by line ────────────────────────────────────────────────


def read_line_by_line(lines: Sequence[str], target: Target) -> tuple[list[HostKey], list[HostKey]]:
    """Keys and revoked keys as ``man sshd`` has it, without an index: every line is compared with every name."""
    names = [target.endpoint.lower()] + ([target.address.lower()] if target.port == 22 else [])
    keys: list[HostKey] = []
    revoked: list[HostKey] = []
    for line in lines:
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        if any(is_about(name, words[0].split(",")) for name in names):
            {"": keys, "@revoked": revoked}.get(marker, []).append(HostKey(words[1], words[2]))
    return keys, revoked


def is_about(name: str, patterns: Sequence[str]) -> bool:
    hits = set()
    for pattern in patterns:
        if pattern.startswith("|1|"):
            with contextlib.suppress(ValueError, AssertionError):
                hits.add(paramiko.HostKeys.hash_host(name, f"|1|{pattern.split('|')[2]}|") == pattern)
            continue
        word = pattern.removeprefix("!").lower()
        regex = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in word)
        if re.fullmatch(regex, name):
            if pattern.startswith("!"):
                return False
            hits.add(True)
    return True in hits


HOSTS = ["web01.example", "WEB01.example", "web02.example", "10.0.0.7"]
NAMES = [*HOSTS, *(f"[{host}]:{port}" for host in HOSTS for port in (22, 2222))]


def hashed(name: str) -> str:
    return paramiko.HostKeys.hash_host(name.lower())


def oddly_hashed(name: str) -> str:
    """The same bytes, written as no tool writes them: the last digit has two bits that stand for nothing."""
    text = hashed(name).removesuffix("=")
    return text[:-1] + chr(ord(text[-1]) + 1) + "="


PATTERNS = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from([f"!{name}" for name in NAMES]),
    st.sampled_from(["*", "*.example", "web0?.example", "[*]:2222", "[web0?.example]:*", "!*.example", "!web*", "!!x"]),
    st.sampled_from(NAMES).map(hashed),
    st.sampled_from(NAMES).map(oddly_hashed),
    st.text("web01.!*?[]:|,", max_size=6),
)
LINES = st.builds(
    lambda marker, patterns, number: f"{marker} {','.join(patterns)} ssh-ed25519 AAAA{number:04d}".strip(),
    st.sampled_from(["", "", "", "@revoked", "@cert-authority", "@else"]),
    st.lists(PATTERNS, min_size=1, max_size=4),
    st.integers(0, 9),
)


@settings(max_examples=300)
@given(st.lists(LINES, max_size=40), st.sampled_from(HOSTS), st.sampled_from([22, 2222]))
def test_index_and_a_reading_line_by_line_agree(lines: list[str], address: str, port: int) -> None:
    target = Target("x", address, port)
    known = KnownHosts(lines)
    assert known.find(target) == read_line_by_line(lines, target)


def comparisons(monkeypatch: pytest.MonkeyPatch, lines: Sequence[str], target: Target) -> int:
    """How often something is compared with a name in one login."""
    made = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            made[0] += 1
            return real(*args)

        return call

    known = KnownHosts(lines)
    with monkeypatch.context() as patch:
        patch.setattr(hmac, "digest", counted(hmac.digest))
        patch.setattr(fnmatch, "fnmatchcase", counted(fnmatch.fnmatchcase))
        trust = Trust(strict=False, known_hosts=known, store=Store())
        trust.check(target, trust.known(target), key(7), now=NOW)
    return made[0]


def test_plain_lines_cost_a_login_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"web{number}.example,10.0.{number // 256}.{number % 256} ssh-ed25519 AAAA0007" for number in range(5000)]
    assert comparisons(monkeypatch, lines, Target("x", "web4000.example")) == 0
    assert comparisons(monkeypatch, lines, WEB) == 0


def test_other_lines_are_compared_once_in_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name that the host has at its port; at port 22, where it has two, with both."""
    plain = [f"web{number}.example ssh-ed25519 AAAA0007" for number in range(1000)]
    others = [f"{hashed(f'db{number}.example')} ssh-ed25519 AAAA0007" for number in range(100)]
    others += [f"*.net{number},!a.net{number} ssh-ed25519 AAAA0007" for number in range(100)]
    assert comparisons(monkeypatch, plain + others, HIGH) == 300
    assert comparisons(monkeypatch, plain + others, Target("x", "other.example")) == 600


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
    return trust.check(WEB, trust.known(WEB), shown, now=NOW)


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
def test_without_known_hosts_strict_trusts_no_key(trust: Trust) -> None:
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
