"""Algorithms that are not paramiko's own: a bounded key exchange, and what old SSH servers speak (SHA-1, CBC, MD5).

paramiko 5 does not speak SHA-1 any more. A transport has nothing old unless the settings of its host name
it (:class:`portmon.ssh.names.OldAlgorithms`).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, ClassVar

import paramiko
from cryptography.hazmat.primitives import hashes
from paramiko.kex_gex import KexGexSHA256
from paramiko.kex_group14 import KexGroup14SHA256

from portmon.ssh.names import LEGACY, OldAlgorithms
from portmon.text import plain

MAX_GROUP = 4096
"""Bits of a Diffie-Hellman group that the host chooses. One of 8,192 holds all threads for a second, twice."""


class FloodError(paramiko.SSHException):
    """A host sends too much. The message goes on after "the server"."""


class Gex(KexGexSHA256):
    """A key exchange in a group that the host chooses."""

    max_bits = MAX_GROUP

    def _parse_kexdh_gex_group(self, m: paramiko.Message) -> None:
        bits = paramiko.Message(m.get_remainder()).get_mpint().bit_length()
        if bits > MAX_GROUP:
            raise FloodError(f"chose a Diffie-Hellman group of {bits:,} bits; the limit is {MAX_GROUP:,}")
        super()._parse_kexdh_gex_group(m)  # type: ignore[misc]


class _GexSha1(Gex):
    name = "diffie-hellman-group-exchange-sha1"
    hash_algo: ClassVar[Any] = sha1


class _Group14Sha1(KexGroup14SHA256):
    name = "diffie-hellman-group14-sha1"
    hash_algo: ClassVar[Any] = sha1


class _Group1Sha1(_Group14Sha1):
    # RFC 2409, section 6.2
    P = int(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B"
        "302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6"
        "49286651ECE65381FFFFFFFFFFFFFFFF",
        16,
    )
    name = "diffie-hellman-group1-sha1"


# Of names that its type stubs leave out, or call final.
_RSA: Any = paramiko.RSAKey


class _HostKeySha1(_RSA):  # type: ignore[misc]
    """An RSA host key that signs with SHA-1, and with nothing else."""

    HASHES: ClassVar[dict[str, Any]] = {"ssh-rsa": hashes.SHA1}


class _UserKeySha1(_RSA):  # type: ignore[misc]
    HASHES: ClassVar[dict[str, Any]] = {
        **_RSA.HASHES,
        "ssh-rsa": hashes.SHA1,
        "ssh-rsa-cert-v01@openssh.com": hashes.SHA1,
    }


_KEX = {kind.name: kind for kind in (_GexSha1, _Group14Sha1, _Group1Sha1)}
KINDS = {
    "kex": ("key exchange", "KexAlgorithms", "kex"),
    "host_keys": ("host key algorithm", "HostKeyAlgorithms", "key_types"),
    "ciphers": ("cipher", "Ciphers", "ciphers"),
    "macs": ("MAC", "MACs", "digests"),
}
"""By field of :class:`OldAlgorithms`: name for people, directive of sshd_config, field of paramiko's options."""


def allow(transport: Any, algorithms: OldAlgorithms) -> None:
    """Let a transport speak these besides, if the server speaks nothing better."""
    transport._kex_info = {**transport._kex_info, **{name: _KEX[name] for name in algorithms.kex}}
    transport._key_info = {**transport._key_info, **dict.fromkeys(algorithms.host_keys, _HostKeySha1)}
    security = transport.get_security_options()
    for kind, (_, _, field) in KINDS.items():
        setattr(security, field, tuple(dict.fromkeys((*getattr(security, field), *getattr(algorithms, kind)))))


def signing(key: paramiko.PKey, algorithms: OldAlgorithms | None) -> paramiko.PKey:
    """The user's key, which signs with SHA-1 as well if that is allowed."""
    if not isinstance(key, paramiko.RSAKey) or algorithms is None or not algorithms.user_keys:
        return key
    found: paramiko.PKey = _UserKeySha1(key=key.key)
    found.public_blob = key.public_blob
    return found


def remedy(ours: dict[str, Sequence[str]], offers: dict[str, Sequence[str]]) -> str | None:
    """What to write into portmon.yaml for a server that offers these; None if that would not help.

    :param ours: by kind, what is spoken here now
    """
    known = {kind: getattr(LEGACY, kind) for kind in KINDS}
    lacking = [kind for kind in KINDS if offers.get(kind) and not set(ours[kind]) & set(offers[kind])]
    found = {kind: [name for name in known[kind] if name in offers[kind]][:1] for kind in lacking}
    if not found or not all(found.values()):
        return None
    return f"algorithms: {{{', '.join(f'{kind}: [{plain(names[0])}]' for kind, names in found.items())}}}"
