"""A host of the lab that systemd has booted: process 1 of its own, a disk over this machine's, Debian's units. Needs root.

What is installed here is installed there, with its own files. What the host writes is gone with it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.worlds import lab
from tests.worlds.lab import LabHost
from tests.worlds.waiting import until

CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
"""Where version 2 of cgroups is mounted."""

UNSHARE = (
    *("unshare", "--mount", "--propagation", "private"),
    *("--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"),
)

BOOT = """
folder=$1
mount -t tmpfs tmpfs "$folder/disk"
mkdir "$folder/disk/upper" "$folder/disk/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/disk/upper,workdir=$folder/disk/work" "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for place in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $place; done
chmod 1777 tmp
touch dev/log
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir -p dev/shm dev/pts ".$folder"
mount --bind "$folder" ".$folder"
mkdir -p mnt
pivot_root . mnt
umount -l /mnt
# Only what a test starts is started.
rm -rf /etc/systemd/system/*.wants /lib/systemd/system/*.wants
printf '[Unit]\\nWants=systemd-tmpfiles-setup.service ssh.service\\n' >/etc/systemd/system/lab.target
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\\nExecStartPre=\\nExecStart=\\nExecStart=/usr/sbin/sshd -D -f %s/sshd_config\\n' "$folder" \\
    >/etc/systemd/system/ssh.service.d/lab.conf
# The kernel's modules and clock are not this host's.
exec env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
    setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog /lib/systemd/systemd --unit=lab.target
"""


def missing(*programs: str) -> str | None:
    """What this machine lacks for such a host; None if nothing.

    :param programs: paths that must exist besides
    """
    if (why := lab.missing()) is not None:
        return why
    if _cgroups() is None:
        return "no cgroup2 is mounted"
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlays"
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        return "this machine allows no namespaces"
    units = "/lib/systemd"
    needed = (f"{units}/systemd", f"{units}/system/ssh.service", "/usr/bin/setpriv", "/usr/bin/pgrep", *programs)
    return next((f"{path} is not there" for path in needed if not Path(path).exists()), None)


def _cgroups() -> Path | None:
    roots = map(Path, CGROUPS)
    return next((root for root in roots if (root / "cgroup.controllers").exists()), None)


class BootedHost(LabHost):
    """One host, whose sshd is systemd's ``ssh.service``."""

    def start_sshd(self) -> None:
        """Boot, and wait until sshd answers."""
        self._cgroup.mkdir(exist_ok=True)
        for name in ("disk", "root"):
            (self.folder / name).mkdir(exist_ok=True)
        join = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self._cgroup)]
        boot = ["sh", "-ec", BOOT, "sh", str(self.folder)]
        with (self.folder / "boot.log").open("ab") as log:
            self.sshd = subprocess.Popen(
                [*join, "ip", "netns", "exec", self.netns, *UNSHARE, *boot],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: lab.answers(self.address) or self._has_ended(), what=f"sshd of {self.name}")

    def _has_ended(self) -> bool:
        assert self.sshd is not None
        assert self.sshd.poll() is None, (self.folder / "boot.log").read_text("utf-8", "replace")
        return False

    @property
    def _cgroup(self) -> Path:
        root = _cgroups()
        assert root is not None, "no cgroups here"
        return root / self.netns

    def remove_units(self) -> None:
        """The cgroups of all that has ended."""
        if self._cgroup.is_dir():
            folders = sorted((path for path in self._cgroup.rglob("*") if path.is_dir()), reverse=True)
            for folder in (*folders, self._cgroup):
                until(lambda folder=folder: lab.removed(folder), what=f"the end of {folder}", seconds=10)

    @property
    def init(self) -> int:
        """Process 1, by its number on this machine."""
        assert self.sshd is not None
        return int(Path(f"/proc/{self.sshd.pid}/task/{self.sshd.pid}/children").read_text())

    def run(self, *command: str, check: bool = True, given: str = "") -> str:
        """Run a command there as root, in no unit; what it prints.

        :param given: what it reads
        """
        enter = ["nsenter", "--all", "--target", str(self.init), *command]
        done = subprocess.run(enter, input=given, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file there, and its folder."""
        # From here, through /proc/PID/root, an absolute link would lead out of the host.
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, given=text)

    def write_unit(self, name: str, text: str) -> None:
        """Write a unit of systemd, or a part of one (``ssh.socket.d/lab.conf``)."""
        self.write(f"/etc/systemd/system/{name}", text)
        self.run("systemctl", "daemon-reload")

    def start(self, *units: str) -> None:
        """Start units, and wait as long as systemd waits for them."""
        self.run("systemctl", "start", *units)

    def stop_unit(self, *units: str) -> None:
        """Stop units, and wait until their processes have ended."""
        self.run("systemctl", "stop", *units)

    def main_pid(self, unit: str) -> int:
        """The main process of a service, by its number there; 0 if none runs."""
        return int(self.run("systemctl", "show", "--property=MainPID", "--value", unit))

    def pids(self, comm: str) -> set[int]:
        """The processes of a program, by the kernel's name and by their numbers there."""
        return set(map(int, self.run("pgrep", "-x", comm, check=False).split()))

    def sockets(self, port: int) -> set[int]:
        """The inodes of the sockets that listen on a port."""
        shown = self.run("ss", "-Htlne", f"sport = {port}")
        return {int(inode) for inode in re.findall(r"ino:(\d+)", shown)}

    def wait_for(self, port: int, *, sockets: int = 1) -> None:
        """Wait until so many sockets listen on a port."""
        until(lambda: len(self.sockets(port)) == sockets, what=f"{sockets} sockets on port {port} of {self.name}")
