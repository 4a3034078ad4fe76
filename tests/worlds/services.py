"""Hosts as ss shows them: services of several ports with units, users and inodes, boots, and times to start."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from portmon.model.observation import Listener, Listing, Owner
from tests.worlds.fleet import Machine

SYSTEMD = Owner(1, "systemd")


@dataclass(frozen=True, slots=True)
class Service:
    """Processes that are started together, and the sockets that they hold.

    :param binds: addresses and ports of its sockets
    :param comm: the kernel's name of its processes
    :param unit: in whose control group they run
    :param workers: further processes that hold the same sockets
    :param starts_after: seconds until it listens; after a boot up to ``JITTER`` more
    :param by_socket: systemd holds its sockets as well, whether it runs or not
    """

    binds: tuple[tuple[str, int], ...]
    comm: str
    unit: str
    uid: int = 0
    workers: int = 0
    starts_after: int = 10
    by_socket: bool = False


JITTER = 60


def service(comm: str, *ports: int, unit: str = "", address: str = "0.0.0.0", **values: Any) -> Service:
    """A service that listens on every address."""
    return Service(tuple((address, port) for port in ports), comm, unit or f"{comm}.service", **values)


@dataclass(frozen=True, slots=True)
class Running:
    """What runs of a service: its pids, and the inode of each of its sockets.

    :param pids: none of a service that waits for its first connection
    :param listens_at: when it is ready
    """

    of: Service
    pids: tuple[int, ...]
    inodes: tuple[int, ...]
    listens_at: datetime


@dataclass(slots=True)
class ServiceMachine(Machine):
    """A host with services by the name under which they were started.

    :param enabled: what a boot starts
    :param booted_at: when its last boot was far enough to answer
    """

    enabled: dict[str, Service] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    booted_at: datetime = field(kw_only=True)
    chance: random.Random = field(kw_only=True)
    last_pid: int = 1000
    last_inode: int = 20_000

    def enable(self, name: str, one: Service) -> None:
        """A boot starts it, the last one did so long ago."""
        self.enabled[name] = one
        self.begin(name, one, self.booted_at)

    def begin(self, name: str, one: Service, when: datetime) -> None:
        """Start processes with sockets of their own, in place of those of that name."""
        pids, inodes = self._new_pids(1 + one.workers), range(self.last_inode + 1, self.last_inode + 1 + len(one.binds))
        self.last_inode += len(one.binds)
        self.running[name] = Running(one, pids, tuple(inodes), when + timedelta(seconds=one.starts_after))

    def again(self, name: str, when: datetime) -> None:
        """Stop and start a service."""
        self.begin(name, self.running[name].of, when)

    def reload(self, name: str) -> None:
        """Its workers are others; the first process and the sockets stay."""
        before = self.running[name]
        self.running[name] = replace(before, pids=(before.pids[0], *self._new_pids(len(before.pids) - 1)))

    def upgrade(self, name: str) -> None:
        """All its processes are others, which took the sockets over."""
        self.activate(name, len(self.running[name].pids))

    def activate(self, name: str, processes: int) -> None:
        """So many processes run behind its sockets from now on."""
        self.running[name] = replace(self.running[name], pids=self._new_pids(processes))

    def end(self, *names: str) -> None:
        """Its processes and sockets are gone, if there were any."""
        for name in names:
            self.running.pop(name, None)

    def reboot(self, when: datetime, without: Collection[str] = ()) -> None:
        """It stops to answer, and begins again after a minute or two; what is enabled starts, each in its time.

        :param without: what does not come back
        """
        self.boot, self.last_pid, self.last_inode = self.boot + 1, 1000, 20_000
        self.booted_at = when + timedelta(seconds=90 + self.chance.randrange(60))
        self.running = {}
        for name, one in self.enabled.items():
            if name not in without:
                self.begin(name, one, self.booted_at + timedelta(seconds=self.chance.randrange(JITTER)))

    def listing(self, at: datetime) -> Listing:
        """What ``ss`` shows."""
        boot_id = f"{self.host.id}-{self.boot}"
        return Listing("ss", 0, boot_id=boot_id, netns=4026531840, pid1_start=3, listeners=tuple(self._listeners(at)))

    def _listeners(self, at: datetime) -> Iterator[Listener]:
        for process in self.running.values():
            one = process.of
            if at < process.listens_at:
                continue
            owners = (*((SYSTEMD,) if one.by_socket else ()), *(Owner(pid, one.comm) for pid in process.pids))
            first = owners[0]
            unit = "init.scope" if one.by_socket else one.unit
            several = owners if len(owners) > 1 else ()
            for (address, port), inode in zip(one.binds, process.inodes, strict=True):
                yield Listener(
                    "tcp", address, port, first.pid, first.program, owners=several, uid=one.uid, inode=inode,
                    unit=unit, comm=first.program,
                )  # fmt: skip

    def _new_pids(self, count: int) -> tuple[int, ...]:
        self.last_pid += count
        return tuple(range(self.last_pid - count + 1, self.last_pid + 1))
