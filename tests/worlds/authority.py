"""An authority that signs SSH certificates, with OpenSSH's own tool."""

from __future__ import annotations

import subprocess
from pathlib import Path

from portmon.ssh.trust import HostKey
from tests.worlds.sshd import make_key


class Authority:
    """A key that signs others.

    :param folder: for its files
    """

    def __init__(self, folder: Path, kind: str = "ed25519") -> None:
        folder.mkdir()
        self._key = make_key(folder / "authority", kind)
        self.public = folder / "authority.pub"
        self._algorithm = {"rsa": "rsa-sha2-512", "ed25519": "ssh-ed25519", "ecdsa": "ecdsa-sha2-nistp256"}[kind]

    @property
    def key(self) -> HostKey:
        """Its public key."""
        kind, base64, *_ = self.public.read_text().split()
        return HostKey(kind, base64)

    def line(self, names: str, marker: str = "@cert-authority") -> str:
        """Of known_hosts."""
        return f"{marker} {names} {self.key.type} {self.key.base64}\n"

    def sign(
        self,
        key: Path,
        *principals: str,
        valid: str = "-1m:+1h",
        host: bool = False,
        algorithm: str | None = None,
        more: tuple[str, ...] = (),
    ) -> Path:
        """A certificate of a key, beside it; ``key-cert.pub``."""
        names = ("-n", ",".join(principals)) if principals else ()
        kind = ("-h",) if host else ()
        command = ["ssh-keygen", "-q", "-s", str(self._key), "-I", f"id of {key.name}", "-V", valid, *kind, *names]
        command += ["-t", algorithm or self._algorithm, *more, f"{key}.pub"]
        subprocess.run(command, check=True, capture_output=True)
        return key.with_name(f"{key.name}-cert.pub")
