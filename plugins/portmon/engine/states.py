"""The table of states: the next state and the events of one port, given one ok observation of its host. Pure.

A port is new (:func:`appear`), declared and never seen (:func:`absent`), known and seen (:func:`again`), or known and
missing (:func:`gone`). The :class:`Step` that follows names its row of the table; ``docs/states.md`` shows these rows.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from portmon.engine.config import States
from portmon.model import limits
from portmon.model.event_kinds import EventKind
from portmon.model.observation import PortKey
from portmon.model.state import PortStatus
from portmon.probe.compare import comparable_addresses, is_wildcard, lost_binds, replaced, without_zone

FLAP_INTERVALS = 12
"""The window of flapping is at least this many intervals, or a port could never flap with a slow schedule."""
TOLD_AT_LEAST = timedelta(days=1)
"""A port is down for at least this long before it is retired, even if it was last seen long ago."""


class Row(Enum):
    """Rows of the table: the stored state, what an observation shows, the state that follows, the event."""

    BASELINE = (
        "nothing, first ok observation of this host",
        "seen",
        "up; inside the host's ephemeral range: candidate",
        "none (one `baseline` event for the host, with a count)",
    )
    NEW = (
        "nothing",
        "seen, outside the ephemeral range, or allow-listed or declared",
        "up",
        "`new` (none if the host's last ok observation had it before filtering)",
    )
    CANDIDATE = ("nothing", "seen, inside the ephemeral range", "candidate (1)", "none")
    PROVEN = (
        "candidate",
        "seen `states.ephemeral_after` (3) times in a row, the first included",
        "up",
        "`new`; none if it was there at the baseline",
    )
    FORGOTTEN = ("candidate", "not seen", "forgotten", "none")
    SEEN = (
        "up",
        "seen",
        "up",
        "`restarted`, `replaced` (other program), `rebound` (bind addresses changed), or none",
    )
    DOWN = ("up", "not seen, confirmed, `states.down_after` (1) runs in a row", "down", "`down`")
    RECOVERED = ("down", "seen", "up", "`recovered` (with the time it was down)")
    RETIRED = (
        "down",
        "not seen for `states.retire_after` (30 days), or accepted by a person",
        "removed",
        "`retired`",
    )
    NO_EVIDENCE = ("any", "no evidence", "unchanged", "none: the host counts a failure")
    # From here on: rows of the second table, which makes the first one exact.
    WAITING = ("candidate", "seen, not often enough yet", "candidate", "none")
    DECLARED = ("nothing or candidate, declared", "not seen", "down", "`down`, from the first observation")
    DECLARED_SEEN = ("nothing or candidate, declared", "seen", "up", "as for any other port")
    MISSED = ("up", "not seen, fewer than `states.down_after` runs in a row", "up", "none")
    MOVED = (
        "up, inside the ephemeral range",
        "not seen, while its program and unit gained another port there",
        "removed; the other one is up",
        "`moved`; `retired` if it was flapping or had lost a bind",
    )
    UNCONFIRMED = ("up", "not seen in an observation that asked only once", "up", "none")
    GRACE = ("up", "not seen since the host's boot, before `states.reboot_grace` (10 min) is over", "up", "none")
    STILL_DOWN = ("down", "not seen", "down", "none")
    LOST_BIND = ("up", "a bind that others could reach is lost, others remain", "up", "severe `rebound`")
    BIND_RECOVERED = ("up, a bind is lost", "the bind is back", "up", "`recovered`")
    FLAPPING = (
        "up or down",
        "the change that makes `states.flap_threshold` (4) within `states.flap_window` (1 h)",
        "as the change says",
        "`flapping` instead of the change's own, then silence",
    )
    BRAKED = (
        "up",
        "seen, its `states.flap_threshold`th (4) `replaced`, `restarted` or note of a `rebound` within "
        "`states.flap_window` (1 h), each kind by itself",
        "up",
        "the same, and that it is the last; then silence until none came for `states.flap_window`",
    )
    STABLE = ("up or down, flapping", "still for `states.flap_window`, with evidence", "unchanged", "`stable`")

    def __init__(self, stored: str, observed: str, then: str, event: str) -> None:
        self.stored, self.observed, self.then, self.event = stored, observed, then, event


TABLE = tuple(Row)[: tuple(Row).index(Row.NO_EVIDENCE) + 1]
"""Rows of the first table in docs/states.md; all others are in the second one."""


@dataclass(slots=True)
class Port:
    """A watched port: one row of the stored state. Tuples of last known values are sorted.

    :param misses: observations in a row without it
    :param streak: observations in a row that show it as a candidate
    :param counted_at: when one of these counters last grew
    :param last_seen_at: None while the last ok observation of the host shows it, so that a quiet run changes no row
    :param programs: names as ``tool`` prints them
    :param declared: source of the declaration, None for a learned port
    :param grace_until: set while it is missing after a reboot
    :param changes: times of its changes within the window of flapping; while it flaps, only of the last one
    :param lost: binds that others could reach and that are missing since ``lost_since`` while others remain
    :param comms: the kernel's names of the programs, the same for every tool
    :param notices: kind and time of recent notices
    """

    host_id: str
    protocol: str
    port: int
    status: str
    status_since: datetime
    misses: int = 0
    streak: int = 0
    counted_at: datetime | None = None
    first_seen_at: datetime | None = None
    last_seen_at: datetime | None = None
    addresses: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    uids: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    tool: str | None = None
    at_baseline: bool = False
    declared: str | None = None
    grace_until: datetime | None = None
    flapping_since: datetime | None = None
    changes: tuple[datetime, ...] = ()
    lost: tuple[str, ...] = ()
    lost_since: datetime | None = None
    comms: tuple[str, ...] = ()
    notices: tuple[tuple[str, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A port as one observation shows it: the sorted values of all its watched listeners.

    :param listed: an allow rule names one of the listeners
    :param more: number of owners or binds beyond :data:`portmon.model.limits.OWNERS`
    """

    addresses: tuple[str, ...]
    programs: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    uids: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    comms: tuple[str, ...] = ()
    listed: bool = False
    more: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """One ok observation of a host, and what its last ok observation showed: the same for each of its ports.

    :param first: it is the host's first ok observation
    :param before: TCP ports of the last ok observation, before rules
    :param seen_at: time of the last ok observation
    :param ok_since: since when the host has given evidence without interruption; None if this one ends an interruption
    :param ephemeral: the host's ephemeral range, both ends inclusive
    :param rebooted: the boot id changed
    :param grace_until: end of the grace after a reboot
    :param confirmed: a missing port is missing in two answers
    :param listening: TCP ports of this observation, before rules
    :param half_interval: a counter grows at most once in this time
    :param window: of flapping
    :param learning: another version of reader or probe made the last ok observation: attributes are taken over without
        events, and only missing ports are evaluated
    """

    at: datetime
    first: bool
    before: frozenset[int]
    seen_at: datetime | None
    ok_since: datetime | None
    ephemeral: tuple[int, int]
    tool: str
    tool_before: str | None
    rebooted: bool
    grace_until: datetime | None
    rules_changed: bool
    confirmed: bool
    listening: frozenset[int]
    half_interval: timedelta
    window: timedelta
    settings: States
    learning: bool = False

    def counts(self, counted_at: datetime | None) -> bool:
        """Whether a counter that last grew at ``counted_at`` may grow again."""
        return counted_at is None or self.at - counted_at >= self.half_interval

    @property
    def in_grace(self) -> bool:
        """Whether missing ports still have time to come back after a reboot."""
        return self.grace_until is not None and self.at < self.grace_until

    def is_ephemeral(self, port: int) -> bool:
        """Whether the host may have picked the port at random."""
        return self.ephemeral[0] <= port <= self.ephemeral[1]


@dataclass(frozen=True, slots=True)
class Told:
    """An event without the fields that all events of its port or host share."""

    kind: EventKind
    reason: str
    since: datetime | None = None
    last_seen: datetime | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """The next state of a port (None if it is not watched any more), the row of the table, and the events."""

    port: Port | None
    row: Row
    told: tuple[Told, ...] = ()


def flap_window(settings: States, interval: timedelta) -> timedelta:
    """The time within which changes add up to flapping, given the time between scheduled runs."""
    return max(settings.flap_window, FLAP_INTERVALS * interval)


def appear(key: PortKey, seen: Seen, look: Look, *, declared: str | None, heir: bool = False) -> Step:
    """Evaluate a port that is not known and listens.

    :param declared: the source of the declaration, None without one
    :param heir: a watched port moved to it
    """
    was_there = look.first or look.learning or key[2] in look.before
    port = Port(*key, PortStatus.UP, look.at, first_seen_at=look.at, at_baseline=was_there, declared=declared)
    _take(port, seen, look)
    row = Row.BASELINE if look.first else Row.DECLARED_SEEN if declared else Row.NEW
    unproven = look.is_ephemeral(key[2]) and not declared and not heir and (look.first or not seen.listed)
    if unproven and look.settings.ephemeral_after > 1:
        port.status, port.streak, port.counted_at = PortStatus.CANDIDATE, 1, look.at
        return Step(port, Row.BASELINE if look.first else Row.CANDIDATE)
    return Step(port, row, () if heir else _welcome(port, look))


def absent(key: PortKey, look: Look, *, declared: str) -> Step:
    """Evaluate a port that is declared, not known, and does not listen."""
    port = Port(*key, PortStatus.UP, look.at, first_seen_at=look.at, declared=declared)
    return Step(port, Row.DECLARED, _goes_down(port, look, f"It must listen ({declared}) and does not"))


def again(port: Port, seen: Seen, look: Look, *, declared: str | None, is_watched: Callable[[str], bool]) -> Step:
    """Evaluate a port that is known and listens.

    :param declared: the source of the declaration, None without one
    :param is_watched: whether the rules in force watch a bind address of the port
    """
    quiet = look.learning or look.rules_changed or (port.declared is None) != (declared is None)
    port = dataclasses.replace(
        port,
        declared=declared,
        addresses=tuple(filter(is_watched, port.addresses)),
        lost=tuple(filter(is_watched, port.lost)),
    )
    if port.status == PortStatus.CANDIDATE:
        return _candidate(port, seen, look)
    before = dataclasses.replace(port)
    changed = False
    told: list[Told] = []
    row = Row.SEEN
    if port.status == PortStatus.DOWN:
        row = Row.RECOVERED
        changed = True
        port.status, port.status_since = PortStatus.UP, look.at
        since, details = before.status_since, {"down_for": (look.at - before.status_since).total_seconds()}
        back = Told(EventKind.RECOVERED, "It listens again", since, before.last_seen_at, details)
        told += _change(port, look, back)
    elif not quiet:
        told += _owner_events(before, port, seen, look)
    _take(port, seen, look)
    port.misses, port.counted_at, port.last_seen_at, port.grace_until = 0, None, None, None
    quiet = quiet or row is Row.RECOVERED
    bind_row, bind_events, bind_changed = _bind_events(before, port, look, quiet=quiet, more=seen.more)
    told += bind_events
    changed = changed or bind_changed
    if row is Row.SEEN:
        row = bind_row or (Row.BRAKED if _is_braked(port, look) else row)
    if not changed and _is_still(port, look):
        return _settle(port)
    if changed and not before.flapping_since and port.flapping_since:
        row = Row.FLAPPING
    return Step(port, row, tuple(told))


def gone(port: Port, look: Look, *, declared: str | None, accepted: datetime | None, heir: int | None = None) -> Step:
    """Evaluate a port that is known and does not listen.

    :param declared: the source of the declaration, None without one
    :param accepted: when a person accepted the port as gone
    :param heir: the port to which its program moved
    """
    port = dataclasses.replace(port, declared=declared)
    if port.status == PortStatus.CANDIDATE:
        if not declared:
            return Step(None, Row.FORGOTTEN)
        if not look.confirmed:
            return Step(port, Row.UNCONFIRMED)
        told = _goes_down(port, look, f"It must listen ({declared}) and does not")
        return Step(port, Row.DECLARED, told)
    if port.status == PortStatus.DOWN:
        return _still_down(port, look, accepted)
    if not port.last_seen_at:
        port.last_seen_at = look.seen_at
    if look.rebooted and port.grace_until is None:
        port.grace_until = look.grace_until
    if not look.confirmed and port.port not in look.listening:
        # A port on which an excluded program listens did not seem missing, so the host was not asked twice.
        return Step(port, Row.UNCONFIRMED)
    if heir is not None:
        # `moved` is a note, and a note ends no alert.
        kind = EventKind.RETIRED if is_open(port) else EventKind.MOVED
        reason = f"Its program listens on port {heir} instead"
        moved = Told(kind, reason, port.status_since, port.last_seen_at, {"to": heir})
        return Step(None, Row.MOVED, (moved,))
    if port.grace_until is not None:
        if look.at < port.grace_until:
            return Step(port, Row.GRACE)
        return _down(port, look, "Not back after the reboot of its host, whose time of grace is over")
    if port.misses and not look.counts(port.counted_at):
        return Step(port, Row.MISSED)
    port.misses, port.counted_at = port.misses + 1, look.at
    if port.misses < look.settings.down_after:
        return Step(port, Row.MISSED)
    runs = "1 run" if port.misses == 1 else f"{port.misses} runs in a row"
    return _down(port, look, f"Missing in the complete answers of {runs}, confirmed")


def forgive(port: Port) -> Port | None:
    """The port without its troubles, which make a new alert if they last; None for one that was never seen."""
    if not port.addresses:
        return None
    port = dataclasses.replace(port, misses=0, grace_until=None, flapping_since=None, changes=())
    _forget_loss(port)
    if port.status != PortStatus.CANDIDATE:
        port.status, port.counted_at = PortStatus.UP, None
    return port


def is_open(port: Port) -> bool:
    """Whether a port is down, flaps or has lost a bind, so that an alert may be open."""
    return port.status == PortStatus.DOWN or port.flapping_since is not None or bool(port.lost)


# ── parts of a step ─────────────────────────────────────────────────────────────────────────────


def _take(port: Port, seen: Seen, look: Look) -> None:
    # Values that are not shown (without privileges) stay as they were known.
    port.addresses = seen.addresses
    if seen.programs or not port.programs:
        port.tool = look.tool
    if not (port.programs and seen.comms and seen.comms == port.comms and seen.programs == seen.comms):
        # Unchanged names of the kernel do not replace a tool's names, which rules may use.
        port.programs = seen.programs or port.programs
    port.pids = seen.pids or port.pids
    port.uids = seen.uids or port.uids
    port.units = seen.units or port.units
    port.comms = seen.comms or port.comms


def _welcome(port: Port, look: Look) -> tuple[Told, ...]:
    if port.at_baseline:
        return ()
    reason = "It was not there before" if port.first_seen_at == look.at else "It was not there before, and it stays"
    return (Told(EventKind.NEW, reason, since=port.first_seen_at),)


def _candidate(port: Port, seen: Seen, look: Look) -> Step:
    _take(port, seen, look)
    if look.counts(port.counted_at):
        port.streak, port.counted_at = port.streak + 1, look.at
    if not port.declared and port.streak < look.settings.ephemeral_after:
        return Step(port, Row.WAITING)
    port.status, port.status_since, port.streak, port.counted_at = PortStatus.UP, look.at, 0, None
    return Step(port, Row.DECLARED_SEEN if port.declared else Row.PROVEN, _welcome(port, look))


def _owner_events(before: Port, port: Port, seen: Seen, look: Look) -> tuple[Told, ...]:
    if before.flapping_since:
        return ()
    known = bool(before.pids and seen.pids)
    details: dict[str, Any]
    if _has_replaced(before, seen, look):
        kind, reason = EventKind.REPLACED, "Another program listens on it now"
        details = {"before": list(before.programs)}
    elif known and not set(before.pids) & set(seen.pids) and not look.rebooted and before.grace_until is None:
        kind, reason = EventKind.RESTARTED, "The same program listens on it with another pid"
        details = {"before": list(before.pids)}
    else:
        return ()
    told = Told(kind, f"{reason}{_left_out(seen.more)}", since=before.status_since, details=details)
    return _notice(port, look, told)


def _has_replaced(before: Port, seen: Seen, look: Look) -> bool:
    # Only names of one kind are compared: the kernel's with the kernel's, a tool's with those of the same tool.
    # With OWNERS names before, the program may have been one of those that were left out.
    if before.comms and seen.comms:
        return len(before.comms) < limits.OWNERS and replaced(before.comms, seen.comms)
    if seen.programs and before.tool == look.tool and 0 < len(before.programs) < limits.OWNERS:
        return replaced(before.programs, seen.programs, pids=(*before.pids, *seen.pids))
    return False


def _left_out(more: int) -> str:
    return f" ({limits.OWNERS} of its owners and binds are compared, {more} more are not)" if more else ""


def _notice(port: Port, look: Look, told: Told) -> tuple[Told, ...]:
    """The notice, unless there were too many of its kind within the window."""
    kind, most = told.kind.value, look.settings.flap_threshold
    own = [at for name, at in port.notices if name == kind]
    silent = len(own) >= most and look.at - own[-1] <= look.window
    if not silent:
        own = [at for at in own if look.at - at <= look.window]
    own.append(look.at)
    others = [notice for notice in port.notices if notice[0] != kind]
    port.notices = tuple(sorted((*others, *((kind, at) for at in own[-most:]))))
    if silent:
        return ()
    if len(own) >= most:
        reason = (
            f"{told.reason}. That is change {len(own)} of this kind since {own[0]:%Y-%m-%d %H:%M:%S} UTC: nothing more "
            f"is told of it until there was none for {look.window.total_seconds() / 60:g} min"
        )
        told = dataclasses.replace(told, reason=reason)
    return (told,)


def _is_braked(port: Port, look: Look) -> bool:
    """Whether a notice of this observation was the last one for the window, or was left out."""
    counts = Counter(kind for kind, _ in port.notices)
    return any(counts[kind] >= look.settings.flap_threshold for kind, at in port.notices if at == look.at)


def _bind_events(
    before: Port, port: Port, look: Look, *, quiet: bool, more: int
) -> tuple[Row | None, list[Told], bool]:
    """The row and the events of changed binds, and whether they count as a change for flapping.

    :param quiet: only losses and their ends make events
    """
    if not look.learning and not comparable_addresses(look.tool_before, look.tool):
        return None, [], False
    known, seen = set(before.addresses), set(port.addresses)
    were_lost = before.lost
    if look.tool_before != look.tool:
        # Some tools do not print the interface of an address.
        known, seen = set(map(without_zone, known)), set(map(without_zone, seen))
    if look.learning:
        # Another reader may name a bind differently, so no bind is newly lost. A lost one stays lost, unless it and one
        # of the binds shown are wildcards.
        any_wildcard = any(is_wildcard(address) for address in seen)
        known = seen
        missed = [address for address in were_lost if not (any_wildcard and is_wildcard(address))]
    else:
        missed = [*were_lost]
    lost, _ = limits.few_of(lost_binds({*missed, *(known - seen)}, seen), were_lost)
    fresh = tuple(address for address in lost if address not in were_lost)
    if fresh and (not look.confirmed or look.in_grace):
        # Keep the bind as known: the first observation after the grace, or the first confirmed one, makes the event.
        port.addresses = before.addresses
        return None, [], False
    port.lost = lost
    if fresh:
        port.lost_since = port.lost_since or look.at
        told = Told(
            EventKind.REBOUND,
            f"It does not listen on {', '.join(fresh)} any more, only on {', '.join(port.addresses)}{_left_out(more)}",
            since=look.at,
            last_seen=look.seen_at,
            details={"severe": True, "lost": list(lost), "before": list(before.addresses)},
        )
        return Row.LOST_BIND, _change(port, look, told), True
    if before.lost and not lost:
        since, port.lost_since = port.lost_since, None
        details = {"down_for": since and (look.at - since).total_seconds(), "lost": list(before.lost)}
        told = Told(EventKind.RECOVERED, f"It listens on {', '.join(before.lost)} again", since, details=details)
        return Row.BIND_RECOVERED, _change(port, look, told), True
    # With OWNERS binds before, one that is new may have been left out then.
    differ = (known ^ seen if len(known) < limits.OWNERS else known - seen) - set(were_lost)
    if quiet or before.flapping_since or not differ:
        return None, [], False
    told = Told(
        EventKind.REBOUND,
        f"It listens on {', '.join(port.addresses)} now, before on {', '.join(before.addresses)}{_left_out(more)}",
        since=look.at,
        details={"severe": False, "before": list(before.addresses)},
    )
    return None, list(_notice(port, look, told)), False


def _down(port: Port, look: Look, reason: str) -> Step:
    before = port.flapping_since
    told = _goes_down(port, look, reason)
    return Step(port, Row.FLAPPING if port.flapping_since and not before else Row.DOWN, told)


def _goes_down(port: Port, look: Look, reason: str) -> tuple[Told, ...]:
    misses, port.misses = port.misses, 0
    port.status, port.status_since = PortStatus.DOWN, look.at
    port.streak, port.counted_at, port.grace_until = 0, None, None
    _forget_loss(port)
    last = port.last_seen_at
    seen = f"; last seen {last:%Y-%m-%d %H:%M:%S} UTC" if last else "; never seen"
    told = Told(EventKind.DOWN, reason + seen, look.at, last, {"misses": misses} if misses else {})
    return tuple(_change(port, look, told))


def _forget_loss(port: Port) -> None:
    # All binds are expected again: one that does not come back with the others makes an event.
    port.addresses, _ = limits.few_of((*port.addresses, *port.lost), port.addresses)
    port.lost, port.lost_since = (), None


def _still_down(port: Port, look: Look, accepted: datetime | None) -> Step:
    unseen_since = port.last_seen_at or port.status_since
    was_accepted = accepted is not None and port.status_since <= accepted <= look.at
    limit = look.settings.retire_after
    # A port that died during a month without observations is down for TOLD_AT_LEAST before it is retired.
    too_long = look.at - unseen_since >= limit and look.at - port.status_since >= min(limit, TOLD_AT_LEAST)
    if not port.declared and (was_accepted or too_long):
        reason = "Accepted as gone by a person" if was_accepted else f"Not seen since {unseen_since:%Y-%m-%d %H:%M} UTC"
        told = Told(EventKind.RETIRED, f"{reason}; it is not watched any more", port.status_since, unseen_since)
        return Step(None, Row.RETIRED, (told,))
    return _settle(port) if _is_still(port, look) else Step(port, Row.STILL_DOWN)


def _change(port: Port, look: Look, told: Told) -> list[Told]:
    """The event of a change, or `flapping` instead, or none while the port flaps."""
    if port.flapping_since:
        port.changes = (look.at,)
        return []
    recent = (*(at for at in port.changes if look.at - at <= look.window), look.at)
    if len(recent) < look.settings.flap_threshold:
        port.changes = recent
        return [told]
    port.flapping_since, port.changes = look.at, (look.at,)
    reason = (
        f"{len(recent)} changes between up and down since {recent[0]:%Y-%m-%d %H:%M:%S} UTC: nothing more is told of "
        "it until it holds still"
    )
    return [Told(EventKind.FLAPPING, reason, recent[0], port.last_seen_at, {"state": _state(port)})]


def _is_still(port: Port, look: Look) -> bool:
    if not port.flapping_since or look.ok_since is None:
        return False
    return look.at - max(port.changes[-1], look.ok_since) >= look.window


def _settle(port: Port) -> Step:
    since, last = port.flapping_since, port.changes[-1]
    port.flapping_since, port.changes = None, ()
    state = _state(port)
    reason = f"It held still since {last:%Y-%m-%d %H:%M:%S} UTC and is {state}"
    details: dict[str, Any] = {"state": state.value} | ({"lost": list(port.lost)} if port.lost else {})
    return Step(port, Row.STABLE, (Told(EventKind.STABLE, reason, since, port.last_seen_at, details),))


def _state(port: Port) -> PortStatus:
    return PortStatus.DOWN if port.status == PortStatus.DOWN or port.lost else PortStatus.UP
