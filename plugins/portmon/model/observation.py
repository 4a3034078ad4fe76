"""What one visit to one host showed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from portmon.model.numbers import number_of

PortKey = tuple[str, str, int]
"""Host id, protocol and port."""
PROBE = 2
"""Version of the frame that the probe prints, see :mod:`portmon.probe.command`."""
READER = 3
"""Version of the reading of answers. It rises as soon as the same bytes are read differently."""
HUNG = timedelta(days=1)
"""A tool that hung on a host is not tried there for this long."""
EPHEMERAL_DEFAULT = (32768, 60999)
"""Linux' default ``net.ipv4.ip_local_port_range``."""


class Outcome(StrEnum):
    """How a visit to a host ended. Only ``OK`` is evidence."""

    OK = "ok"
    UNREACHABLE = "unreachable"  # TCP, SSH or the login failed
    INVALID = "invalid"  # the host answered, but not with a complete frame


@dataclass(frozen=True, slots=True)
class Owner:
    """One process that holds a listening socket."""

    pid: int
    program: str | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket, as one tool reported it. None is what the tool did not show.

    :param protocol: ``tcp``, ``tcp6``, ``udp`` or ``udp6`` as the row says; families are folded only where ports are
        keyed
    :param address: bind address as printed, without brackets and zone
    :param pid: the lowest of its owners
    :param program: name of that process as printed by the tool, cut as the tool cuts
    :param zone: interface of a link-local or bound address
    :param owners: every owner, if the tool shows several
    :param inode: of the socket, unique within a network namespace
    :param unit: systemd unit or container that the process belongs to
    :param comm: the kernel's name of the process, at most 15 bytes, the same for every tool
    :param more_owners: number of owners that are not in ``owners``
    """

    protocol: str
    address: str
    port: int
    pid: int | None = None
    program: str | None = None
    zone: str | None = None
    owners: tuple[Owner, ...] = ()
    uid: int | None = None
    inode: int | None = None
    unit: str | None = None
    comm: str | None = None
    more_owners: int = 0

    @property
    def number(self) -> int:
        """See :mod:`portmon.model.numbers`."""
        return number_of(self.protocol, self.port)


@dataclass(frozen=True, slots=True)
class Listing:
    """One complete answer of a host: evidence. None is what could not be read.

    :param tool: ``netstat-W``, ``netstat``, ``ss`` or ``proc``
    :param uid: numeric user that ran the tool's command
    :param via: ``sudo``, or None without
    :param netns: inode of the network namespace
    :param version: of ``ss``, None for other tools
    :param ephemeral: lowest and highest local port, both inclusive
    :param listeners: every listening TCP socket, before any rule, in the order of the tool
    :param probe: version of the frame; 1 of a forced command that was installed with an earlier version
    :param reader: version of the reading, see :data:`READER`
    :param pid1_start: start of process 1, in clock ticks since the boot
    :param reserved: ranges of ports that the kernel never hands out by itself, both ends inclusive
    :param hung: tools that did not end in their time: ``netstat``, ``ss``, ``proc``
    :param beyond: ports with too many sockets, each with the number of those that ``listeners`` lacks
    :param udp: every UDP socket without a peer, as ``listeners``; None if UDP was not asked for, or is not shown
    :param udp_beyond: as ``beyond``, of ``udp``
    """

    tool: str
    uid: int
    via: str | None = None
    boot_id: str | None = None
    netns: int | None = None
    version: str | None = None
    ephemeral: tuple[int, int] = EPHEMERAL_DEFAULT
    listeners: tuple[Listener, ...] = ()
    probe: int = PROBE
    reader: int = READER
    pid1_start: int | None = None
    reserved: tuple[tuple[int, int], ...] = ()
    hung: tuple[str, ...] = ()
    beyond: tuple[tuple[int, int], ...] = ()
    udp: tuple[Listener, ...] | None = None
    udp_beyond: tuple[tuple[int, int], ...] = ()

    @property
    def sockets(self) -> tuple[Listener, ...]:
        """The sockets of both protocols."""
        return self.listeners + self.udp if self.udp else self.listeners


@dataclass(frozen=True, slots=True)
class Observation:
    """The stored record of one visit to a host in one run.

    :param run_id: Airflow's id of the run that made it
    :param try_number: 1-based, of the task instance
    :param observed_at: when the (first) answer was complete, or the failure final
    :param logical_date: of the run; None for a manual run
    :param listing: only of an ok one; of two answers, with every listener of either
    :param error_class: see :class:`portmon.errors.ScanError`; None if ok, unless its raw answer is not kept
    :param error: message for people; None likewise
    :param frames: raw answers, at most two, kept for replay; empty if none came
    :param digests: SHA-256 of each frame, so that it is computed once; empty if it was not
    :param confirmed: a missing port is missing in two answers; otherwise its absence is no evidence
    :param duration: seconds from connect to the last byte
    :param facts: digest of the listing as it is stored; None if there is none, or it is not stored yet
    :param provisional: counts only if no other observation of its run and host follows
    """

    host_id: str
    run_id: str
    try_number: int
    observed_at: datetime
    outcome: Outcome
    logical_date: datetime | None = None
    listing: Listing | None = None
    error_class: str | None = None
    error: str | None = None
    frames: tuple[bytes, ...] = ()
    digests: tuple[str, ...] = ()
    duration: float = 0.0
    confirmed: bool = True
    facts: str | None = None
    provisional: bool = False

    @property
    def shows(self) -> Listing:
        """Its listing.

        :raises ValueError: it has none, or it was not read
        """
        if self.listing is None:
            raise ValueError(f"the observation of {self.host_id!r} at {self.observed_at} lacks its listing")
        return self.listing


def hung_tools(hung: str | None, hung_at: datetime | None, now: datetime) -> tuple[str, ...]:
    """Tools that hung on a host within HUNG, from the columns of its row."""
    return tuple(hung.split(",")) if hung and hung_at is not None and now - hung_at < HUNG else ()


def in_time(observation: Observation) -> tuple[datetime, str]:
    """The key that sorts observations by time."""
    return observation.observed_at, observation.host_id
