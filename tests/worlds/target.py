"""Hosts of a lab on which root may change accounts and rules: each has an /etc, a /home, a /root and a /usr/local/bin of its own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from portmon.ssh.target import Credentials, Options, Target
from tests.worlds.lab import BOOT_ID, LabHost, answers
from tests.worlds.waiting import until

OWN = {"etc": "/etc", "home": "/home", "root": "/root", "bin": "/usr/local/bin"}
"""Folders of a target that are not this machine's, by their names in its folder."""


@dataclass
class RollOutTarget(LabHost):
    """A host whose root logs in with the key of the lab.

    :param config: lines for its sshd_config, before the others
    """

    config: str = ""

    def start_sshd(self) -> None:
        key = self.folder / "authorized_keys"
        if not (self.folder / "etc").exists():
            (self.folder / "etc").mkdir()
            # With owners: sudo and PAM insist on theirs. Another test may be making a user, whose files come and go.
            copy = ["cp", "-a", "/etc/.", str(self.folder / "etc")]
            until(lambda: not subprocess.run(copy, capture_output=True, check=False).returncode, "a copy of /etc")
            for lock in (self.folder / "etc").glob("[a-z]*.lock"):
                lock.unlink()
            for name in ("home", "root", "bin"):
                (self.folder / name).mkdir(mode=0o755)
            (self.folder / "root" / ".ssh").mkdir(mode=0o700)
            shutil.copy(key, self.folder / "root" / ".ssh" / "authorized_keys")
        (self.folder / "sshd_config").write_text(
            f"{self.config}\nListenAddress {self.address}:22\nHostKey {self.folder}/host_key\nPermitRootLogin yes\n"
            "UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nPidFile none\n"
            "PrintMotd no\nSubsystem sftp internal-sftp\nX11Forwarding yes\nPermitTunnel yes\nLogLevel VERBOSE\n"
        )
        binds = " && ".join(f"mount --bind {self.folder}/{name} {place}" for name, place in OWN.items())
        show = f'{binds} && mount --bind "{self.folder}/boot_id" {BOOT_ID} && exec /usr/sbin/sshd -D -e -f "$0"'
        with (self.folder / "sshd.log").open("ab") as log:
            self.sshd = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, "sh", "-c", show, str(self.folder / "sshd_config")], stderr=log
            )
        until(lambda: answers(self.address), what=f"sshd of {self.name}")

    def as_root(self, *command: str, given: str | None = None, code: int | None = 0) -> str:
        """What a command of root prints there, standard error included, with this text as its input."""
        done = self.ssh("root", self.folder.parent / "id", *command, given=given)
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ssh(
        self, user: str, key: Path, *arguments: str, given: str | None = None, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """OpenSSH's client as a user, with one key."""
        ssh = ["ssh", *client_options(key), *options, f"{user}@{self.address}", *arguments]
        return subprocess.run(ssh, input=given or "", capture_output=True, text=True, check=False, timeout=60)

    def state(self) -> dict[str, tuple[str, int, int, str]]:
        """Of each file and folder that root could change: mode, owner, group and content, without root's own home."""
        found = {}
        for name in ("etc", "home", "bin"):
            for path in sorted((self.folder / name).rglob("*")):
                about = path.lstat()
                if path.is_symlink():
                    content = str(path.readlink())
                else:
                    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                place = OWN[name] + "/" + str(path.relative_to(self.folder / name))
                found[place] = (oct(about.st_mode), about.st_uid, about.st_gid, content)
        return found

    def text(self, path: str) -> str:
        """Of a file there."""
        name, place = next((name, place) for name, place in OWN.items() if path.startswith(f"{place}/"))
        return (self.folder / name / path.removeprefix(f"{place}/")).read_text()

    def login(self, user: str, key: Path) -> tuple[Target, Credentials, Options]:
        """How portmon logs in there."""
        return Target(self.name, self.address), Credentials(user, key_file=str(key)), Options()


def client_options(key: Path) -> list[str]:
    """Of ssh and sftp: nothing of the user's own, and no question."""
    return [
        *("-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes"),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
    ]
