"""The host keys that are trusted."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from portmon.errors import HostKeyChangedError, HostKeyError
from portmon.ssh import certificates
from portmon.ssh.target import Target

SALT_SIZE = 20
"""Bytes of a hashed name's salt: as many as SHA-1 has."""
AUTHORITY = "@cert-authority"


@dataclass(frozen=True, slots=True)
class HostKey:
    """The public key of a host; its type is ``ssh-ed25519``, ``ssh-rsa``, ``ecdsa-sha2-nistp256`` …"""

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
        """The trusted keys of an endpoint; empty for an unknown one."""

    def remember(self, endpoint: str, key: HostKey) -> None:
        """Trust the first key of an endpoint."""

    def report_change(self, endpoint: str, key: HostKey) -> None:
        """Note that an endpoint shows another key, so that a person can accept it."""


class KnownHosts:
    """A ``known_hosts`` file: plain, hashed and wildcard names, ``@revoked`` keys, and authorities of certificates.

    paramiko's reader knows neither wildcards nor markers, and one key per type only. A worker's file may have thousands
    of lines: those of plain names are found by name, and a login goes through the others once. Lines that OpenSSH would
    skip are skipped.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines: list[tuple[str, HostKey]] = []
        self._by_name: dict[str, list[int]] = {}
        self._hashed: list[tuple[bytes, bytes, int]] = []
        self._patterns: list[tuple[Sequence[str], int]] = []
        self._has_authorities = False
        for line in lines:
            if entry := _entry(line):
                self._add(*entry)

    @classmethod
    def load(cls, path: Path) -> KnownHosts:
        """Read a file; OSError if it can't be read."""
        return cls(path.read_text("utf-8", "surrogateescape").splitlines())

    def find(self, target: Target) -> tuple[list[HostKey], list[HostKey]]:
        """The keys that a target may show, and those that it must not, in the order of the file."""
        names = [target.endpoint.lower()]
        if target.port == 22:
            names.append(target.address.lower())
        lines = self._about(names)
        return [key for marker, key in lines if not marker], [key for marker, key in lines if marker == "@revoked"]

    def authorities(self, target: Target) -> list[HostKey]:
        """The authorities whose certificates are trusted for a target; as in OpenSSH without the port as well."""
        if not self._has_authorities:
            return []
        lines = self._about([target.endpoint.lower(), target.address.lower()])
        return [key for marker, key in lines if marker == AUTHORITY]

    def _about(self, names: Sequence[str]) -> list[tuple[str, HostKey]]:
        found = {number for name in names for number in self._by_name.get(name, ())}
        found |= {number for patterns, number in self._patterns if any(_matches(name, patterns) for name in names)}
        if self._hashed:
            for name in (name.encode() for name in names):
                found |= {number for salt, digest, number in self._hashed if hmac.digest(salt, name, "sha1") == digest}
        return [self._lines[number] for number in sorted(found)]

    def _add(self, marker: str, names: Sequence[str], key: HostKey) -> None:
        self._has_authorities |= marker == AUTHORITY
        number = len(self._lines)
        self._lines.append((marker, key))
        if any(name.startswith("!") for name in names):
            # A negated name takes away what another one allows.
            self._patterns.append((names, number))
            return
        for name in names:
            if name.startswith("|1|"):
                if (hashed := _unhash(name)) is not None:
                    self._hashed.append((*hashed, number))
            elif "*" in name or "?" in name:
                self._patterns.append(([name], number))
            else:
                self._by_name.setdefault(name.lower(), []).append(number)


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


def _unhash(name: str) -> tuple[bytes, bytes] | None:
    """Salt and digest of a hashed name; None for one that is not written as OpenSSH writes it."""
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in name.removeprefix("|1|").split("|"))
    except ValueError:
        return None
    written = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    return (salt, digest) if len(salt) == SALT_SIZE and written == name else None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a line is about a name: one of its patterns matches, and no negated one."""
    found = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            hashed = _unhash(pattern)
            found |= hashed is not None and hmac.digest(hashed[0], name.encode(), "sha1") == hashed[1]
        # Brackets are part of `[address]:port`, not a set of characters.
        elif fnmatch.fnmatchcase(name, pattern.removeprefix("!").lower().replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """The keys that one target may show, and those that it must not.

    :param source: of ``keys``: ``connection``, ``known_hosts`` or ``first use``; empty without any
    :param authorities: whose certificates are trusted
    """

    keys: Sequence[HostKey] = ()
    source: str = ""
    revoked: Sequence[HostKey] = ()
    authorities: Sequence[HostKey] = ()


@dataclass(slots=True)
class Trust:
    """Trusts the pinned key, else those of known_hosts, else those of the store, else, without ``strict``, the first
    one, which the store then keeps.

    A host that shows a key of a type it was not known by is *changed*, not new: an attacker in the middle would
    otherwise only need to offer another type. A host that merely gained a type is asked for the old one.

    For a host of which known_hosts has a ``@cert-authority``, a certificate of that authority is trusted, and no first
    key: an attacker would otherwise only need to offer no certificate.

    :param strict: trust no first key, neither a new nor a stored one
    :param pinned: from ``host_key`` of the connection ``pinned_by``
    :param known_hosts_path: of that file, also if there is none
    """

    strict: bool = True
    pinned: HostKey | None = None
    pinned_by: str = ""
    known_hosts: KnownHosts | None = None
    known_hosts_path: str = "~/.ssh/known_hosts"
    store: HostKeyStore | None = field(default=None, repr=False)

    def known(self, target: Target) -> KnownKeys:
        """The known keys of a target."""
        keys, revoked = self.known_hosts.find(target) if self.known_hosts else ([], [])
        if self.pinned:
            return KnownKeys([self.pinned], "connection", revoked)
        authorities = self.known_hosts.authorities(target) if self.known_hosts else []
        if keys:
            return KnownKeys(keys, "known_hosts", revoked, authorities)
        if not self.strict and self.store and (stored := self.store.get(target.endpoint)):
            return KnownKeys(stored, "first use", revoked, authorities)
        return KnownKeys(revoked=revoked, authorities=authorities)

    def check(
        self, target: Target, known: KnownKeys, shown: HostKey, certificate: str | None = None, *, now: datetime
    ) -> str:
        """Decide about the key that a host proved to have.

        :param certificate: that the host showed with it, as in a file ``-cert.pub``
        :returns: why it is trusted, for the log
        :raises HostKeyError: it is unknown or revoked
        :raises HostKeyChangedError: others are known
        """
        if shown in known.revoked:
            raise HostKeyError(f"the host key {shown} is marked @revoked in {self.known_hosts_path}", host=target.shown)
        if known.authorities and certificate is not None:
            by = self._check_certificate(target, known, certificate, now)
            if by is not None:
                return by
        if shown in known.keys:
            reasons = {"connection": f"host_key of connection {self.pinned_by!r}", "first use": "known since first use"}
            return reasons.get(known.source, known.source)
        if known.keys:
            if known.source == "first use" and self.store:
                self.store.report_change(target.endpoint, shown)
            raise HostKeyChangedError(
                f"the host key changed: the server shows {shown}, known is {' and '.join(map(str, known.keys))}. No "
                "login was tried",
                host=target.shown,
                remedy=f"Was the host reinstalled? Then: {self._remedy(target, known, shown)}. If it was not, an "
                "attacker may answer in its place",
            )
        if known.authorities:
            names = " and ".join(map(str, known.authorities))
            raise HostKeyError(
                f"the host key {shown} comes without a certificate of {names}, the authority that "
                f"{self.known_hosts_path} names for this host",
                host=target.shown,
                remedy="Give the host one (HostCertificate in sshd_config), or compare its key on the host and add it: "
                f"{self._keyscan(target, shown)}",
            )
        if self.strict or not self.store:
            raise HostKeyError(
                f"unknown host key {shown}, and only known keys are trusted here (host_keys: strict)",
                host=target.shown,
                remedy=f"Compare it with `ssh-keygen -lf /etc/ssh/ssh_host_{_short_type(shown)}_key.pub` on the host, "
                f"then: {self._keyscan(target, shown)}",
            )
        # The key exchange has proved that the host owns the key. Waiting for the login would prove nothing more: an
        # attacker in the middle can let any login succeed.
        self.store.remember(target.endpoint, shown)
        return "first use, trusted from now on"

    def _check_certificate(self, target: Target, known: KnownKeys, text: str, now: datetime) -> str | None:
        """Why a certificate is trusted; None if another authority signed it.

        :raises HostKeyError: an authority that is trusted signed it, and it can't be used
        """
        try:
            found = certificates.read(text)
        except ValueError as error:
            raise HostKeyError(f"the server's certificate is of no use: {error}", host=target.shown) from error
        signer = HostKey(*found.signer)
        if signer in known.revoked:
            problem: str | None = f"its authority {signer} is marked @revoked in {self.known_hosts_path}"
        elif signer not in known.authorities:
            return None
        else:
            problem = found.forged() or found.problem(now, host=target.address)
        if problem is not None:
            raise HostKeyError(
                f"the host's {found} is of no use: {problem}. No login was tried",
                host=target.shown,
                remedy="Look at it on the host: `ssh-keygen -Lf` and the file of HostCertificate in sshd_config",
            )
        return f"{found} of authority {signer}"

    def _remedy(self, target: Target, known: KnownKeys, shown: HostKey) -> str:
        if known.source == "connection":
            return f"correct host_key in connection {self.pinned_by!r}"
        if known.source == "first use":
            return (
                f"compare it with `ssh-keygen -lf /etc/ssh/ssh_host_{_short_type(shown)}_key.pub` on the host, and "
                f"`portmon hostkeys accept {shlex.quote(target.endpoint)} {shown.fingerprint}`"
            )
        name = target.address if target.port == 22 else target.endpoint
        return f"ssh-keygen -R {shlex.quote(name)} -f {self.known_hosts_path}; {self._keyscan(target, shown)}"

    def _keyscan(self, target: Target, key: HostKey) -> str:
        port = "" if target.port == 22 else f"-p {target.port} "
        return f"ssh-keyscan -t {_short_type(key)} {port}{target.address} >> {self.known_hosts_path}"


def _short_type(key: HostKey) -> str:
    return "ecdsa" if key.type.startswith("ecdsa") else key.type.removeprefix("ssh-")
