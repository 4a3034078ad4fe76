"""Events: what a run can derive.

Times are aware ``datetime`` in UTC. Text that came from a host or the CMDB is hostile: it may hold
anything, surrogates (``surrogateescape``) included, and is escaped where it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind, Meaning, Severity
from portmon.model.numbers import TCP, number_of, port_of, protocol_of


def port_alert_key(host_id: str, protocol: str, port: int) -> str:
    """The key of the alerts of a port."""
    return f"port/{host_id}/{protocol}/{port}"


def alert_key_of(host_id: str, number: int) -> str:
    """The key of the alerts of a port, given its number."""
    return port_alert_key(host_id, protocol_of(number), port_of(number))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    :param id: 32 hex digits; the same evidence evaluated again gives the same id
    :param at: time of the evidence, not of the writing
    :param run_id: run that derived it
    :param host_id: None for the monitor's own events; name and labels of the host are as of then
    :param port: None, like the protocol, unless it is about one
    :param reason: one sentence for people
    :param program: of the port's owner, like the unit, last known
    :param since: start of the state that this event ends or continues (down since, unreachable since)
    :param last_seen: when the port or host was last seen well
    :param details: further facts, JSON types only. Of a port: ``addresses``, ``programs``,
        ``pids``, ``uids``, ``units``, ``watched`` (which rule or declaration), ``declared``, ``tool``; by kind
        ``down_for`` and ``unreachable_for`` (seconds), ``misses``, ``severe`` and ``lost`` (addresses) of a rebound,
        ``state`` of flapping and stable, ``before`` of replaced, restarted and rebound, ``to`` of moved, ``young``
        of a port that is; of owners (program and unit, more with commas) ``owner`` and ``left`` (who still has it)
        of owner_gone, ``part: owner`` and ``owner`` of recovered, ``owner`` (new), ``was`` (old) and ``taken`` (the
        port stays down) of replaced, ``owner`` (who has it) and ``gone`` of stable that is down, ``ports`` of
        a baseline, ``error_class``; ``between`` (two times) of changes in a pause between runs; ``task`` and
        ``map_index`` of the task that saw it; ``ends``, the kind that began the alert, of a retired without a port, and
        ``discarded`` of one that ends what another machine's answers began; ``subject: host`` of flapping and stable of
        a host; ``never`` of a host that never answered; ``boot_id``, and ``machine`` and ``machine_name`` (id and name
        of a host) of a foreign machine; ``invalid`` (why its entry is) or ``last_tried`` of a host that is not scanned;
        ``hosts`` (number) and ``names`` of many of them; ``behind`` (seconds) of a clock; ``from`` and ``from_name``
        (host) of taken_over
    :param replayed_by: the replay that made or changed it
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
    def number(self) -> int | None:
        """The number of its port, see :mod:`portmon.model.numbers`."""
        return None if self.port is None else number_of(self.protocol or TCP, self.port)

    @property
    def meaning(self) -> Meaning:
        """Its row of the catalogue."""
        return self.kind.meaning(self.details)

    @property
    def group(self) -> AlertGroup | None:
        """The alert task that sends it."""
        return self.meaning.group

    @property
    def role(self) -> AlertRole | None:
        """What it does to its alert."""
        return self.meaning.role

    @property
    def alert_row(self) -> Meaning:
        """The row of the alert's kind. A ``retired`` of a whole host ends alerts of several kinds."""
        if "ends" in self.details:
            return EventKind(self.details["ends"]).usual
        return EventKind.UNREACHABLE.usual if self.kind is EventKind.RETIRED and self.port is None else self.meaning

    @property
    def alert_key(self) -> str:
        """The key of its alert: at most one is open for each key. Events of one key are sent in order."""
        if self.host_id is not None and self.protocol is not None and self.port is not None:
            return port_alert_key(self.host_id, self.protocol, self.port)
        key = self.alert_row.key
        return key if self.host_id is None else f"{key}/{self.host_id}"


def programs_of(event: Event) -> tuple[str, ...]:
    """The programs of an event's port; empty if they are not known."""
    programs = event.details.get("programs") or ([event.program] if event.program else [])
    return tuple(map(str, programs))


def units_of(event: Event) -> tuple[str, ...]:
    """The units of the port that an event is about; empty if they are not known."""
    units = event.details.get("units") or ([event.unit] if event.unit else [])
    return tuple(map(str, units))
