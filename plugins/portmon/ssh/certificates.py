"""SSH certificates of users and hosts: what they say, and why one can't be used. OpenSSH's PROTOCOL.certkeys."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from portmon.text import plain

LAST = 253402300799
"""The last second that a datetime knows."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate, not yet verified.

    :param key: public key that it is about: type and base64
    :param signer: public key of the authority, likewise
    :param principals: names of users or hosts; none is all of them
    """

    key: tuple[str, str]
    signer: tuple[str, str]
    key_id: str
    principals: Sequence[str]
    _signed: SSHCertificate

    def __str__(self) -> str:
        return f"certificate {self.key_id!r}"

    def problem(self, now: datetime, *, host: str | None = None) -> str | None:
        """Why it can't be used, as the end of a sentence; None if it can.

        :param host: name of the host whose certificate it must be; None: it must be of a user
        """
        wanted = SSHCertificateType.USER if host is None else SSHCertificateType.HOST
        if self._signed.type is not wanted:
            return f"it is not one of a {wanted.name.lower()}"
        at = now.timestamp()
        if at < self._signed.valid_after:
            return f"it is not valid before {_moment(self._signed.valid_after)}"
        if at >= self._signed.valid_before:
            return f"it expired on {_moment(self._signed.valid_before)}"
        if host is None:
            return None
        if self._signed.critical_options:
            names = (name.decode("utf-8", "replace") for name in self._signed.critical_options)
            return f"it has options that no host's certificate has ({plain(', '.join(names), 200)})"
        if self.principals and not any(_is_named(host, pattern) for pattern in self.principals):
            return f"it is for {plain(', '.join(self.principals), 200)}, and not for {host}"
        return None

    def forged(self) -> str | None:
        """Why the authority can't have signed it, likewise."""
        signed: Any = self._signed
        if bytes(signed._inner_sig_type) == b"ssh-rsa":
            return "it is signed with SHA-1, which can be forged: `ssh-keygen -t rsa-sha2-512 -s` signs it better"
        try:
            self._signed.verify_cert_signature()
        # A signature that is none raises other errors than a wrong one.
        except Exception:
            return "its signature is wrong"
        return None


def read(text: str) -> Certificate:
    """A certificate as in a file ``-cert.pub``.

    :raises ValueError: it is none
    """
    try:
        found = load_ssh_public_identity(text.strip().encode("ascii", "replace"))
        if isinstance(found, SSHCertificate):
            return Certificate(
                _text(found.public_key()),
                _text(found.signature_key()),
                plain(found.key_id.decode("utf-8", "replace"), 100),
                [name.decode("utf-8", "replace") for name in found.valid_principals],
                found,
            )
    # Every layer below has its own exceptions for bytes that it does not like.
    except Exception as error:
        raise ValueError(f"it can't be read ({plain(str(error), 200)})") from error
    raise ValueError("it is a public key, and no certificate")


def _text(key: Any) -> tuple[str, str]:
    kind, base64 = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode().split()
    return kind, base64


def _is_named(host: str, pattern: str) -> bool:
    # As OpenSSH matches them: * and ?, and no sets of characters.
    return fnmatch.fnmatchcase(host.lower(), pattern.lower().replace("[", "[[]"))


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(min(seconds, LAST), UTC).strftime("%Y-%m-%d %H:%M UTC")
