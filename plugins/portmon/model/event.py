"""Events: what a run can derive, and what each kind of it means for alerts.

Times are aware ``datetime`` in UTC. Text that came from a host or the CMDB is hostile: it may hold
anything, surrogates (``surrogateescape``) included, and is escaped where it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from portmon.model.state import PortStatus


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


def port_alert_key(host_id: str, protocol: str, port: int) -> str:
    """What the alerts of a port are known by."""
    return f"port/{host_id}/{protocol}/{port}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. Derived, immutable, with a deterministic id.

    :param id: 32 hex digits; the same evidence evaluated again gives the same id
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
    :param replayed_by: the run that made it, or made it what it is, by evaluating again what was seen
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
    def group(self) -> AlertGroup | None:
        """See :func:`alert_group`."""
        return alert_group(self.kind, self.details)

    @property
    def role(self) -> AlertRole | None:
        """See :func:`alert_role`."""
        return alert_role(self.kind, self.details)

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


def programs_of(event: Event) -> tuple[str, ...]:
    """The programs of the port that an event is about, each by itself; empty if they are not known."""
    programs = event.details.get("programs") or ([event.program] if event.program else [])
    return tuple(map(str, programs))
