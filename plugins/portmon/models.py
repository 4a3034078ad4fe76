"""The values that all layers share: frozen, without behaviour that needs more than themselves.

Times are aware ``datetime`` in UTC. Text that came from a host or the CMDB is hostile: it may hold
anything, surrogates (``surrogateescape``) included, and is escaped where it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

PROTOCOL = "tcp"
"""tcp and tcp6 are one port: a dual-stack socket shows as either."""

PROBE = 2
"""Version of the frame that the probe prints, see :mod:`portmon.probe.command`."""
READER = 2
"""Version of what is made of an answer: another one as soon as the same bytes are read otherwise."""

HUNG = timedelta(days=1)
"""A tool that hung on a host is not tried there for so long."""

PortKey = tuple[str, str, int]
"""Host id, protocol and port: what a port is known by."""

EPHEMERAL_DEFAULT = (32768, 60999)
"""Linux' ``net.ipv4.ip_local_port_range`` unless somebody changed it."""


class Outcome(StrEnum):
    """What became of one look at one host. Only ``OK`` is evidence."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    """TCP, SSH or the login failed."""
    INVALID = "invalid"
    """The host answered, but not with a complete frame."""


class PortStatus(StrEnum):
    """Stored state of a port."""

    CANDIDATE = "candidate"
    UP = "up"
    DOWN = "down"


class HostStatus(StrEnum):
    """Stored state of a host."""

    NEW = "new"
    """No ok observation yet, not unreachable for long enough either."""
    OK = "ok"
    UNREACHABLE = "unreachable"


class EventKind(StrEnum):
    """What a run can derive. The alert task that sends it is told by :func:`alert_group`."""

    # of a port
    NEW = "new"
    DOWN = "down"
    RECOVERED = "recovered"
    RETIRED = "retired"
    REPLACED = "replaced"
    REBOUND = "rebound"
    FLAPPING = "flapping"
    STABLE = "stable"
    RESTARTED = "restarted"
    MOVED = "moved"
    UNWATCHED = "unwatched"
    # of a host
    BASELINE = "baseline"
    UNREACHABLE = "unreachable"
    REACHABLE = "reachable"
    REBOOTED = "rebooted"
    DUPLICATE = "duplicate"
    PROBE_OUTDATED = "probe_outdated"
    MANY_CHANGES = "many_changes"
    # the monitor's own
    FLEET_UNREACHABLE = "fleet_unreachable"
    FLEET_REACHABLE = "fleet_reachable"
    CMDB_STALE = "cmdb_stale"
    CMDB_FRESH = "cmdb_fresh"
    PRUNE_REFUSED = "prune_refused"
    PRUNE_RESUMED = "prune_resumed"
    HOST_KEY_CHANGED = "host_key_changed"
    HOST_KEY_RESTORED = "host_key_restored"
    RUN_OVERDUE = "run_overdue"
    RUN_IN_TIME = "run_in_time"


class AlertGroup(StrEnum):
    """The alert tasks of the DAG, ``alert_<value>``."""

    NEW = "new"
    DOWN = "down"
    RECOVERED = "recovered"
    UNREACHABLE = "unreachable"


_GROUPS: Mapping[EventKind, AlertGroup] = {
    EventKind.NEW: AlertGroup.NEW,
    EventKind.REPLACED: AlertGroup.NEW,
    EventKind.REBOUND: AlertGroup.NEW,
    EventKind.MANY_CHANGES: AlertGroup.NEW,
    EventKind.DOWN: AlertGroup.DOWN,
    EventKind.FLAPPING: AlertGroup.DOWN,
    EventKind.STABLE: AlertGroup.RECOVERED,
    EventKind.RECOVERED: AlertGroup.RECOVERED,
    EventKind.RETIRED: AlertGroup.RECOVERED,
    EventKind.UNWATCHED: AlertGroup.RECOVERED,
    EventKind.UNREACHABLE: AlertGroup.UNREACHABLE,
    EventKind.REACHABLE: AlertGroup.UNREACHABLE,
    EventKind.REBOOTED: AlertGroup.UNREACHABLE,
    EventKind.FLEET_UNREACHABLE: AlertGroup.UNREACHABLE,
    EventKind.FLEET_REACHABLE: AlertGroup.UNREACHABLE,
    EventKind.CMDB_STALE: AlertGroup.UNREACHABLE,
    EventKind.CMDB_FRESH: AlertGroup.UNREACHABLE,
    EventKind.PRUNE_REFUSED: AlertGroup.UNREACHABLE,
    EventKind.PRUNE_RESUMED: AlertGroup.UNREACHABLE,
    EventKind.HOST_KEY_CHANGED: AlertGroup.UNREACHABLE,
    EventKind.HOST_KEY_RESTORED: AlertGroup.UNREACHABLE,
    EventKind.RUN_OVERDUE: AlertGroup.UNREACHABLE,
    EventKind.RUN_IN_TIME: AlertGroup.UNREACHABLE,
}

NOTE_KINDS = frozenset(EventKind) - frozenset(_GROUPS)
"""Kinds that are kept and sent to nobody."""

CLOSING_KINDS = frozenset(
    {
        EventKind.RECOVERED,
        EventKind.RETIRED,
        EventKind.UNWATCHED,
        EventKind.REACHABLE,
        EventKind.FLEET_REACHABLE,
        EventKind.CMDB_FRESH,
        EventKind.PRUNE_RESUMED,
        EventKind.HOST_KEY_RESTORED,
        EventKind.RUN_IN_TIME,
    }
)
"""Kinds that end an alert, whatever their details: they go to whoever got it."""

_OPENING_KINDS = frozenset(
    {
        EventKind.UNREACHABLE,
        EventKind.FLEET_UNREACHABLE,
        EventKind.CMDB_STALE,
        EventKind.PRUNE_REFUSED,
        EventKind.HOST_KEY_CHANGED,
        EventKind.RUN_OVERDUE,
    }
)
"""Kinds that begin an alert, besides losses (:func:`is_loss`)."""


def is_loss(kind: EventKind, details: Mapping[str, Any]) -> bool:
    """Whether an event says that something which listened does so no more, as far as others can reach it."""
    return (
        kind in (EventKind.DOWN, EventKind.FLAPPING)
        or (kind is EventKind.REBOUND and bool(details.get("severe")))
        or (kind is EventKind.STABLE and details.get("state") == PortStatus.DOWN)
    )


def alert_group(kind: EventKind, details: Mapping[str, Any]) -> AlertGroup | None:
    """The alert task that sends an event; None for notes, which are kept but sent to nobody.

    :param details: of the event: a severe ``rebound`` goes where ``down`` goes, ``stable`` where its state belongs
    """
    return AlertGroup.DOWN if is_loss(kind, details) else _GROUPS.get(kind)


class AlertRole(StrEnum):
    """What an event means for the alert that it is about."""

    FIRING = "firing"
    """Something is wrong: begins an alert, or says more of one."""
    RESOLVED = "resolved"
    """It is over: ends the alert."""
    NOTICE = "notice"
    """Worth telling once; nothing goes on."""


def alert_role(kind: EventKind, details: Mapping[str, Any]) -> AlertRole | None:
    """What an event means for its alert; None for notes, which are sent to nobody."""
    if is_loss(kind, details) or kind in _OPENING_KINDS:
        return AlertRole.FIRING
    if kind in CLOSING_KINDS or kind is EventKind.STABLE:
        return AlertRole.RESOLVED
    return AlertRole.NOTICE if kind in _GROUPS else None


def is_notice(kind: EventKind, details: Mapping[str, Any]) -> bool:
    """Whether an event of a port neither begins nor ends anything: what may be counted if there are too many."""
    return alert_role(kind, details) in (AlertRole.NOTICE, None)


class Severity(StrEnum):
    """How loud an event is."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


_SEVERITIES: Mapping[EventKind, Severity] = {
    EventKind.NEW: Severity.WARNING,
    EventKind.REPLACED: Severity.WARNING,
    EventKind.REBOUND: Severity.WARNING,
    EventKind.MANY_CHANGES: Severity.WARNING,
    EventKind.UNREACHABLE: Severity.CRITICAL,
    EventKind.REBOOTED: Severity.WARNING,
    EventKind.FLEET_UNREACHABLE: Severity.CRITICAL,
    EventKind.CMDB_STALE: Severity.WARNING,
    EventKind.PRUNE_REFUSED: Severity.WARNING,
    EventKind.HOST_KEY_CHANGED: Severity.CRITICAL,
    EventKind.RUN_OVERDUE: Severity.WARNING,
}


def severity_of(kind: EventKind, details: Mapping[str, Any]) -> Severity:
    """How loud an event of a kind is: a loss is critical, what ends something and what is only noted is not."""
    return Severity.CRITICAL if is_loss(kind, details) else _SEVERITIES.get(kind, Severity.INFO)


@dataclass(frozen=True, slots=True)
class Host:
    """A server as the CMDB knows it.

    :param id: the CMDB's stable id; the key of everything
    :param name: shown to people
    :param address: what to connect to, a name or an IP address
    :param port: SSH port, None for the one of the host's connection
    :param labels: from the CMDB, for rules, groups and routes
    :param declared: TCP ports that the CMDB says must listen, in order
    """

    id: str
    name: str
    address: str
    port: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    declared: tuple[int, ...] = ()

    def shown(self) -> str:
        """Name and address for a message, the address only where it says more."""
        return self.name if self.name == self.address else f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class InvalidHost:
    """An entry of the CMDB that cannot be used.

    :param position: 1-based place in the list, all pages counted
    :param id: its id as far as it has one; a host of this id is not pruned
    :param name: its name as far as it has one
    :param reason: what is wrong, for people
    """

    position: int
    id: str | None
    name: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """One complete answer of the CMDB.

    :param hosts: valid, enabled entries; ids are unique
    :param invalid: entries that are present but unusable; not scanned, never pruned
    :param disabled: number of entries that the ``enabled`` filter left out
    :param source: what was asked, for people, without credentials
    """

    hosts: tuple[Host, ...]
    invalid: tuple[InvalidHost, ...] = ()
    disabled: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """One process that holds a listening socket."""

    pid: int
    program: str | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket, as one tool reported it.

    :param protocol: ``tcp`` or ``tcp6`` as the row says; folded to ``tcp`` only where ports are keyed
    :param address: bind address as printed, without brackets and zone
    :param port: 1 to 65535
    :param pid: of the lowest owner, None if not shown
    :param program: its name as printed by the tool, cut as the tool cuts; None if not shown
    :param zone: interface of a link-local or bound address
    :param owners: every owner, if the tool shows several
    :param uid: of the socket's owner
    :param inode: of the socket, unique within a network namespace
    :param unit: systemd unit or container that the process belongs to
    :param comm: the kernel's name of the process, at most 15 bytes, the same whatever tool listed; None if not shown
    :param more_owners: how many there are besides ``owners``
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


@dataclass(frozen=True, slots=True)
class Observation:
    """One complete answer of a host: evidence.

    :param tool: ``netstat-W``, ``netstat``, ``ss`` or ``proc``
    :param uid: numeric user that ran the tool's command
    :param via: ``sudo``, or None without
    :param boot_id: of the running kernel, None if unreadable
    :param netns: inode of the network namespace, None if unreadable
    :param version: of ``ss``, None for other tools
    :param ephemeral: lowest and highest local port, both inclusive
    :param listeners: every listening TCP socket, before any rule, in the order of the tool
    :param probe: version of the frame; 1 of a forced command that was installed with an earlier version
    :param reader: version of what made this of the frame, see :data:`READER`
    :param pid1_start: start of process 1, in clock ticks since the boot; None if unreadable
    :param reserved: ports that the kernel never hands out by itself, as ranges, both ends inclusive
    :param hung: tools that did not end in their time: ``netstat``, ``ss``, ``proc``
    :param beyond: port and number of its sockets that ``listeners`` lacks, since it has too many to tell apart
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


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the scan of one host in one run came to: the stored record.

    :param host_id: whose
    :param run_id: Airflow's, of the run that asked
    :param try_number: 1-based, of the task instance
    :param observed_at: when the (first) answer was complete, or the failure final
    :param logical_date: of the run; None for a manual run
    :param outcome: only ``ok`` comes with an observation
    :param observation: effective evidence: of two answers, whatever listened in either
    :param error_class: see :class:`portmon.errors.ScanError`; None if ok, unless its raw answer is not kept
    :param error: message for people; None likewise
    :param frames: raw answers, at most two, kept for replay; empty if none came
    :param digests: SHA-256 of each of them, so that it is worked out once; empty if it was not
    :param confirmed: what is missing is missing in two answers; with one, nothing that is missing is evidence
    :param duration: seconds from connect to the last byte
    :param facts: digest of the observation as it is stored; None if there is none, or it is not stored yet
    :param provisional: counts only if no other look of its run and host follows
    """

    host_id: str
    run_id: str
    try_number: int
    observed_at: datetime
    outcome: Outcome
    logical_date: datetime | None = None
    observation: Observation | None = None
    error_class: str | None = None
    error: str | None = None
    frames: tuple[bytes, ...] = ()
    digests: tuple[str, ...] = ()
    duration: float = 0.0
    confirmed: bool = True
    facts: str | None = None
    provisional: bool = False


def hung_tools(hung: str | None, hung_at: datetime | None, now: datetime) -> tuple[str, ...]:
    """Tools that hung on a host not long ago, from what is stored of it.

    :param hung: their names with commas, None if there are none
    :param hung_at: when the last one was noticed
    """
    return tuple(hung.split(",")) if hung and hung_at is not None and now - hung_at < HUNG else ()


def in_time(attempt: Attempt) -> tuple[datetime, str]:
    """What looks are sorted by."""
    return attempt.observed_at, attempt.host_id


def port_alert_key(host_id: str, protocol: str, port: int) -> str:
    """What the alerts of a port are known by."""
    return f"port/{host_id}/{protocol}/{port}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. Derived, immutable, with a deterministic id.

    :param id: 32 hex digits; the same evidence judged again gives the same id
    :param kind: what
    :param at: time of the evidence, not of the writing
    :param run_id: run whose diff (or prune) derived it
    :param host_id: None for the monitor's own events
    :param host_name: as of then
    :param protocol: None unless about a port
    :param port: None unless about a port
    :param severity: how loud
    :param reason: why this verdict, one sentence for people
    :param program: of the port's owner, last known
    :param unit: of the port's owner, last known
    :param since: start of what this event ends or continues (down since, unreachable since)
    :param last_seen: when the port or host was last seen well
    :param labels: the host's, as of then
    :param details: what else the kind has to say, JSON types only. Of a port: ``addresses``, ``programs``,
        ``pids``, ``uids``, ``units``, ``watched`` (which rule or declaration), ``declared``, ``tool``; by kind
        ``down_for`` and ``unreachable_for`` (seconds), ``misses``, ``severe`` and ``lost`` (addresses) of a rebound,
        ``state`` of flapping and stable, ``before`` of replaced, restarted and rebound, ``to`` of moved, ``ports`` of
        a baseline, ``error_class``; ``between`` (two times) of what happened while nobody looked; ``task`` and
        ``map_index`` of the task that saw it; ``ends`` of a retired that ends another alert than that of its port or
        host
    :param replayed_by: the run that made it, or made it what it is, by judging again what was seen
    """

    id: str
    kind: EventKind
    at: datetime
    run_id: str
    host_id: str | None = None
    host_name: str | None = None
    protocol: str | None = None
    port: int | None = None
    severity: Severity = Severity.INFO
    reason: str = ""
    program: str | None = None
    unit: str | None = None
    since: datetime | None = None
    last_seen: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    replayed_by: str | None = None

    @property
    def alert_key(self) -> str:
        """What an alert is about: at most one is open for each key. Those of one port or host come in order."""
        if self.host_id is not None and self.protocol is not None and self.port is not None:
            return port_alert_key(self.host_id, self.protocol, self.port)
        about = _ABOUT.get(EventKind(self.details["ends"]) if "ends" in self.details else self.kind, "host")
        return about if self.host_id is None else f"{about}/{self.host_id}"


_ABOUT: Mapping[EventKind, str] = {
    EventKind.MANY_CHANGES: "changes",
    EventKind.FLEET_UNREACHABLE: "fleet",
    EventKind.FLEET_REACHABLE: "fleet",
    EventKind.CMDB_STALE: "cmdb",
    EventKind.CMDB_FRESH: "cmdb",
    EventKind.PRUNE_REFUSED: "prune",
    EventKind.PRUNE_RESUMED: "prune",
    EventKind.HOST_KEY_CHANGED: "host_key",
    EventKind.HOST_KEY_RESTORED: "host_key",
    EventKind.RUN_OVERDUE: "run",
    EventKind.RUN_IN_TIME: "run",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that goes on, or an event that stands for itself, as a message tells it.

    :param id: of what goes on, from its first event to its last; of a notice, the event's
    :param role: what is told of it
    :param event: the newest that is told
    :param first: the event that began it: what identifies it elsewhere is taken from there, and so never changes
    :param starts_at: since when it goes on
    :param ends_at: None while it goes on
    :param untold: it ends, and its beginning had not been told
    """

    id: str
    role: AlertRole
    event: Event
    first: Event
    starts_at: datetime
    ends_at: datetime | None = None
    untold: bool = False
