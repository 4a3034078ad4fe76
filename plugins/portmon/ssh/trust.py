"""Which host keys are trusted."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import paramiko

from portmon.errors import HostKeyChangedError, HostKeyError
from portmon.ssh.target import Target


@dataclass(frozen=True, slots=True)
class HostKey:
    """The public key of a server.

    :param type: ``ssh-ed25519``, ``ssh-rsa``, ``ecdsa-sha2-nistp256`` …
    :param base64: the key
    """

    type: str
    base64: str

    @property
    def fingerprint(self) -> str:
        """``SHA256:…``, as ``ssh-keygen -l`` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.type} {self.fingerprint}"


class HostKeyStore(Protocol):
    """Keys that were trusted on first use. Endpoints are written ``[address]:port``."""

    def get(self, endpoint: str) -> Sequence[HostKey]:
        """The trusted keys of an endpoint; empty if it was never seen."""

    def remember(self, endpoint: str, key: HostKey) -> None:
        """Trust the first key of an endpoint."""

    def report_change(self, endpoint: str, key: HostKey) -> None:
        """Note that an endpoint shows another key, so that a person can accept it."""


class KnownHosts:
    """A ``known_hosts`` file: plain, hashed and wildcard names, ``@revoked`` keys.

    paramiko's reader knows neither wildcards nor markers, and one key per type only.

    :param lines: of the file; those that OpenSSH would skip are skipped
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._entries = [entry for line in lines if (entry := _entry(line))]

    @classmethod
    def load(cls, path: Path) -> KnownHosts:
        """Read a file.

        :raises OSError: it can't be read
        """
        return cls(path.read_text("utf-8", "surrogateescape").splitlines())

    def keys(self, target: Target) -> list[HostKey]:
        """The keys that a target may show."""
        return [key for marker, key in self._matching(target) if not marker]

    def revoked(self, target: Target) -> list[HostKey]:
        """The keys that it must not show."""
        return [key for marker, key in self._matching(target) if marker == "@revoked"]

    def _matching(self, target: Target) -> Iterator[tuple[str, HostKey]]:
        names = [target.endpoint, target.address] if target.port == 22 else [target.endpoint]
        for marker, patterns, key in self._entries:
            if any(_matches(name.lower(), patterns) for name in names):
                yield marker, key


def _entry(line: str) -> tuple[str, Sequence[str], HostKey] | None:
    words = line.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#"):
        return None
    try:
        base64.b64decode(words[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    return marker, words[0].split(","), HostKey(words[1], words[2])


def _matches(name: str, patterns: Sequence[str]) -> bool:
    found = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            salt = pattern.split("|")[2]
            try:
                found |= paramiko.HostKeys.hash_host(name, f"|1|{salt}|") == pattern
            except (binascii.Error, ValueError, AssertionError):
                continue
        elif _glob(name, pattern.removeprefix("!")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _glob(name: str, pattern: str) -> bool:
    # Brackets are part of `[address]:port`, not a set of characters.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one target.

    :param keys: that it may show
    :param source: who says so: ``connection``, ``known_hosts``, ``first use`` or nobody
    :param revoked: keys that it must not show
    """

    keys: Sequence[HostKey] = ()
    source: str = ""
    revoked: Sequence[HostKey] = ()


@dataclass(slots=True)
class Trust:
    """Which host keys are trusted: the pinned one, else what known_hosts says, else what the store says,
    else, without ``strict``, the first one, which the store then keeps.

    A server that shows a key of a type it was not known by is *changed*, not new: somebody between would
    otherwise only need to offer another type. A server that merely gained a type is asked for the old one.

    :param strict: trust no first key, neither a new nor a stored one
    :param pinned: from the connection's ``host_key``
    :param pinned_by: name of the connection
    :param known_hosts: None without such a file
    :param known_hosts_path: of that file, or where it would be
    """

    strict: bool = True
    pinned: HostKey | None = None
    pinned_by: str = ""
    known_hosts: KnownHosts | None = None
    known_hosts_path: str = "~/.ssh/known_hosts"
    store: HostKeyStore | None = field(default=None, repr=False)

    def known(self, target: Target) -> Known:
        """What is known of a target before it is asked."""
        revoked = self.known_hosts.revoked(target) if self.known_hosts else ()
        if self.pinned:
            return Known([self.pinned], "connection", revoked)
        if self.known_hosts and (keys := self.known_hosts.keys(target)):
            return Known(keys, "known_hosts", revoked)
        if not self.strict and self.store and (stored := self.store.get(target.endpoint)):
            return Known(stored, "first use", revoked)
        return Known(revoked=revoked)

    def check(self, target: Target, known: Known, shown: HostKey) -> str:
        """Decide about the key that a server proved to have.

        :returns: why it is trusted, for the log
        :raises HostKeyError: it is unknown or revoked
        :raises HostKeyChangedError: others are known
        """
        if shown in known.revoked:
            raise HostKeyError(f"the host key {shown} is marked @revoked in {self.known_hosts_path}", host=target.shown)
        if shown in known.keys:
            reasons = {"connection": f"host_key of connection {self.pinned_by!r}", "first use": "known since first use"}
            return reasons.get(known.source, known.source)
        if known.keys:
            if known.source == "first use" and self.store:
                self.store.report_change(target.endpoint, shown)
            raise HostKeyChangedError(
                f"the host key changed: the server shows {shown}, known is {' and '.join(map(str, known.keys))}. No "
                f"login was tried. Was the host reinstalled? Then: {self._remedy(target, known, shown)}. If nobody "
                "knows why, somebody may sit between",
                host=target.shown,
            )
        if self.strict or not self.store:
            raise HostKeyError(
                f"unknown host key {shown}, and only known keys are trusted here (host_keys: strict). Compare it with "
                f"`ssh-keygen -lf /etc/ssh/ssh_host_{_short_type(shown)}_key.pub` on the host, then: "
                f"{self._keyscan(target, shown)}",
                host=target.shown,
            )
        # The key exchange has proved that the server owns the key. Waiting for the login would prove nothing
        # more: whoever sits between can let any login succeed.
        self.store.remember(target.endpoint, shown)
        return "first use, trusted from now on"

    def _remedy(self, target: Target, known: Known, shown: HostKey) -> str:
        if known.source == "connection":
            return f"correct host_key in connection {self.pinned_by!r}"
        if known.source == "first use":
            return (
                f"compare it with `ssh-keygen -lf /etc/ssh/ssh_host_{_short_type(shown)}_key.pub` on the host, and "
                f"`python -m portmon hostkeys accept {shlex.quote(target.endpoint)} {shown.fingerprint}`"
            )
        name = target.address if target.port == 22 else target.endpoint
        return f"ssh-keygen -R {shlex.quote(name)} -f {self.known_hosts_path}; {self._keyscan(target, shown)}"

    def _keyscan(self, target: Target, key: HostKey) -> str:
        port = "" if target.port == 22 else f"-p {target.port} "
        return f"ssh-keyscan -t {_short_type(key)} {port}{target.address} >> {self.known_hosts_path}"


def _short_type(key: HostKey) -> str:
    return "ecdsa" if key.type.startswith("ecdsa") else key.type.removeprefix("ssh-")
