"""The address, credentials and options of a login: plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import paramiko

from portmon.errors import ResolveError
from portmon.ssh.names import OldAlgorithms
from portmon.text import plain

KeyFiles = MutableMapping[tuple[str, str | None], tuple[paramiko.PKey, bool]]

_ADDRESS = re.compile(r"[\w:][\w.:%-]{0,254}", re.ASCII)
_ADDRESS_UNICODE = re.compile(r"\w[\w.-]{0,254}")


@dataclass(frozen=True, slots=True)
class Target:
    """The SSH port of a host.

    :param shown: name and address for people; any text, is escaped
    :param address: name or IP address; ASCII that a shell would not interpret, or an international name
    :raises ResolveError: for an address that is none: it must never reach a resolver, a proxy command or
        ``Match exec`` of an ssh configuration
    """

    shown: str
    address: str
    port: int = 22

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", plain(self.shown, 300))
        if not _ADDRESS.fullmatch(self.address) and not _ADDRESS_UNICODE.fullmatch(self.address):
            raise ResolveError(f"{plain(self.address)!r} is no host name and no IP address", host=self.shown)

    @property
    def endpoint(self) -> str:
        """As ``known_hosts`` writes it, with the port always."""
        return f"[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login offers one key, then the password if there is one, since sshd counts attempts.

    :param pkey: instead of ``key_file``
    :param password: for the login; or for the key file, if it needs one, and then for nothing else
    :param look_for_keys: offer ``~/.ssh/id_*`` as well
    :param allow_agent: offer the agent's keys as well
    :param certificate: of the key, as in a file ``-cert.pub``; one in that file beside ``key_file`` is found without
    :param key_files: read by earlier logins of the task: path and password to key, and whether the password unlocked it
    """

    user: str
    pkey: paramiko.PKey | None = field(default=None, repr=False)
    key_file: str | None = None
    password: str | None = field(default=None, repr=False)
    look_for_keys: bool = False
    allow_agent: bool = False
    certificate: str | None = None
    key_files: KeyFiles = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Options:
    """The other options of a connection.

    :param timeout: seconds for TCP, for banner and key exchange, and for authentication, each
    :param proxy_command: connect through this command instead of TCP; ``%h``, ``%p``, ``%r`` and ``%%`` are
        replaced; run without a shell
    :param algorithms: what old servers speak
    :param compress: ask the server for compression: more memory and CPU here for less on the line
    """

    timeout: float = 10.0
    compress: bool = False
    ciphers: Sequence[str] | None = None
    disabled_algorithms: Mapping[str, Sequence[str]] | None = None
    proxy_command: str | None = None
    algorithms: OldAlgorithms | None = None


def why(error: BaseException) -> str:
    """The text of an exception, as the end of a sentence."""
    text = plain(str(error), 200)
    return f" ({text})" if text else ""


def quoted(said: bytes, *, last: bool = False) -> str:
    """The first or last line of a text from the host that is not empty, as the end of a sentence."""
    lines = [line.strip() for line in said.split(b"\n") if line.strip()]
    if not lines:
        return ""
    line = lines[-1 if last else 0].decode("utf-8", "surrogateescape")
    return f"; {'the last line is' if last else 'it said'} {plain(line)!r}"


def software(version: str) -> str:
    """``OpenSSH_9.2p1`` of ``SSH-2.0-OpenSSH_9.2p1 Debian-2``, for people."""
    name = version.removeprefix("SSH-2.0-").removeprefix("SSH-1.99-").partition(" ")[0]
    return plain(name) or "the server"
