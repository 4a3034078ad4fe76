"""The table of states: the next state and the events of one port, given one ok observation of its host. Pure.

A port is new (:func:`appear`), declared and never seen (:func:`absent`), known and seen (:func:`again`), or known and
missing (:func:`gone`), or not watched any more (:func:`hidden`). The :class:`Transition` that follows names its row of
the table; ``docs/states.md`` shows these rows.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from portmon.engine import lifecycle
from portmon.engine.lifecycle import NONE
from portmon.engine.owners import is_service
from portmon.engine.state import Draft, Evidence, Port, Seen
from portmon.model import limits
from portmon.model.event_kinds import EventKind
from portmon.model.observation import PortKey
from portmon.model.state import PortStatus
from portmon.probe.compare import (
    comparable_addresses,
    exchanged_binds,
    is_wildcard,
    lost_binds,
    replaced,
    without_zone,
)


class Row(lifecycle.TableRow):
    """Rows of the table of ports."""

    BASELINE = (
        "nothing, first ok observation of this host",
        "seen",
        "up; ephemeral, not allow-listed, declared or of a service: candidate",
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
        "not seen for `states.retire_after` (30 days) of evidence, or accepted by a person",
        "removed (declared: kept, its alert closed; no new `down` before it was seen)",
        "`retired`",
    )
    NO_EVIDENCE = ("any", "no evidence", "unchanged", "none: the host counts a failure")
    # From here on: rows of the second table, which makes the first one exact.
    WAITING = ("candidate", "seen, not often enough yet", "candidate", "none")
    DECLARED = ("nothing or candidate, declared", "not seen", "down", "`down`, from the first observation")
    DECLARED_SEEN = ("nothing or candidate, declared", "seen", "up", "as for any other port")
    MISSED = ("up", "not seen, fewer than `states.down_after` runs in a row", "up", "none")
    MOVED = (
        "up, ephemeral; in the first hour of a boot down as well",
        "not seen, while as many ephemeral ports of its owner came as are gone",
        "removed; the other one is up",
        "`moved`; `retired` if an alert of it was open",
    )
    UNCONFIRMED = ("up", "not seen in an observation that asked only once", "up", "none")
    GRACE = ("up", "not seen since the host's boot, before `states.reboot_grace` (10 min) is over", "up", "none")
    STILL_DOWN = ("down", "not seen", "down", "none")
    LOST_BIND = ("up", "a bind that others could reach is lost, others remain", "up", "severe `rebound`")
    BIND_RECOVERED = ("up, a bind is lost", "the bind is back", "up", "`recovered`")
    BIND_RETIRED = (
        "up, a bind is lost",
        "for `states.retire_after` (30 days) of evidence, or accepted by a person",
        "up, without it",
        "`retired`",
    )
    HIDDEN = ("up or down", "a rule, label or field of the CMDB hides it", "unchanged", "none")
    PAUSED = (
        "up or down, something is wrong with it",
        "hidden, second observation in a row",
        "unchanged, paused",
        "`unwatched`",
    )
    HIDDEN_LONG = ("up or down", "hidden for `cmdb.prune_after` (1 day)", "forgotten", "none")
    RESUMED = ("down, paused", "not seen, watched again", "down", "`down`, since it was down")
    FLAPPING = (
        "up or down",
        "the change that makes `states.flap_threshold` (4) within `states.flap_window` (1 h) of evidence, or whose "
        f"message would be number {lifecycle.MESSAGES + 1} of the port in a day",
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


TABLE = tuple(Row)[: tuple(Row).index(Row.NO_EVIDENCE) + 1]
"""Rows of the first table in docs/states.md; all others are in the second one."""


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state of a port (None if it is not watched any more), the row of the table, and the events."""

    port: Port | None
    row: Row
    drafts: tuple[Draft, ...] = ()


def appear(
    key: PortKey, seen: Seen, evidence: Evidence, *, declared: str | None, heir_of: Port | None = None
) -> Transition:
    """Evaluate a port that is not known and listens.

    :param declared: the source of the declaration, None without one
    :param heir_of: the port from which its program moved
    """
    was_there = evidence.first or evidence.learning or key[2] in evidence.before
    port = Port(*key, PortStatus.UP, evidence.at, first_seen_at=evidence.at, at_baseline=was_there, declared=declared)
    _take(port, seen, evidence)
    row = Row.BASELINE if evidence.first else Row.DECLARED_SEEN if declared else Row.NEW
    if heir_of is not None:
        port.first_seen_at, port.at_baseline = heir_of.first_seen_at, heir_of.at_baseline
        return Transition(port, row)
    proven = declared or seen.listed or (evidence.first and any(map(is_service, seen.units)))
    is_random = evidence.is_ephemeral(key[2], (*seen.comms, *seen.programs)) and not proven
    if is_random and evidence.settings.ephemeral_after > 1:
        port.status, port.streak, port.counted_at = PortStatus.CANDIDATE, 1, evidence.at
        return Transition(port, Row.BASELINE if evidence.first else Row.CANDIDATE)
    return Transition(port, row, _welcome(port, evidence))


def absent(key: PortKey, evidence: Evidence, *, declared: str) -> Transition:
    """Evaluate a port that is declared, not known, and does not listen."""
    port = Port(*key, PortStatus.UP, evidence.at, first_seen_at=evidence.at, declared=declared)
    return Transition(port, Row.DECLARED, _goes_down(port, evidence, f"It must listen ({declared}) and does not"))


def again(
    port: Port,
    seen: Seen,
    evidence: Evidence,
    *,
    declared: str | None,
    accepted: datetime | None,
    is_watched: Callable[[str], bool],
) -> Transition:
    """Evaluate a port that is known and listens.

    :param declared: the source of the declaration, None without one
    :param accepted: when a person accepted what is wrong with it
    :param is_watched: whether the rules in force watch a bind address of the port
    """
    quiet = evidence.learning or evidence.rules_changed or (port.declared is None) != (declared is None)
    port = dataclasses.replace(port, declared=declared, hidden_since=None)
    # A bind that is shown here is watched, whatever the rules say of the owners before.
    unwatched = _hide_binds(port, evidence, lambda bind: bind in seen.addresses or is_watched(bind))
    before = dataclasses.replace(port)
    if port.status == PortStatus.CANDIDATE:
        return _candidate(port, seen, evidence)
    drafts: list[Draft] = [*unwatched]
    row = Row.SEEN
    if port.status == PortStatus.DOWN:
        row = Row.RECOVERED
        drafts += _recovers(port, evidence)
    elif not quiet and not evidence.new_boot:
        drafts += _owner_events(before, port, seen, evidence)
    _take(port, seen, evidence)
    port.misses, port.counted_at, port.last_seen_at, port.seen_clock, port.grace_until = 0, None, None, None, None
    lost_before = before.lost
    if not evidence.new_boot:
        bind_row, told = _bind_events(before, port, seen, evidence, quiet=quiet or row is Row.RECOVERED)
        drafts += told
        if row is Row.SEEN:
            row = bind_row or (Row.BRAKED if _is_braked(port, evidence) else row)
    flaps = [part for part in PARTS if not getattr(before, part).flapping_since and getattr(port, part).flapping_since]
    if flaps:
        row = Row.FLAPPING
    if row not in (Row.RECOVERED, Row.FLAPPING, Row.LOST_BIND) and port.lost == lost_before and not evidence.new_boot:
        ended, told = _retires_binds(port, evidence, accepted)
        drafts += told
        row = ended or row
    if port.paused and not port.lost:
        port.paused = False
    return Transition(port, row, tuple(drafts))


def gone(
    port: Port,
    evidence: Evidence,
    *,
    declared: str | None,
    accepted: datetime | None,
    heir: int | None = None,
) -> Transition:
    """Evaluate a port that is known and does not listen.

    :param declared: the source of the declaration, None without one
    :param accepted: when a person accepted the port as gone
    :param heir: the port to which its program moved
    """
    was_hidden = port.hidden_since is not None
    port = dataclasses.replace(port, declared=declared, hidden_since=None)
    confirmed = evidence.confirmed or was_hidden
    if port.status == PortStatus.CANDIDATE:
        if not declared:
            return Transition(None, Row.FORGOTTEN)
        if not confirmed or evidence.new_boot:
            return Transition(port, Row.UNCONFIRMED)
        told = _goes_down(port, evidence, f"It must listen ({declared}) and does not")
        return Transition(port, Row.DECLARED, told)
    if port.status == PortStatus.DOWN and heir is None:
        return _still_down(port, evidence, accepted)
    if not port.last_seen_at:
        port.last_seen_at, port.seen_clock = evidence.seen_at, evidence.seen_clock
    if evidence.new_boot and port.grace_until is None:
        port.grace_until = evidence.grace_until
    if not confirmed and port.port not in evidence.listening:
        # A port on which an excluded program listens did not seem missing, so the host was not asked twice.
        return Transition(port, Row.UNCONFIRMED)
    if heir is not None:
        # `moved` is a note, and a note ends no alert.
        kind = EventKind.RETIRED if is_open(port) and not port.paused else EventKind.MOVED
        reason = f"Its program listens on port {heir} instead"
        moved = Draft(kind, reason, port.status_since, port.last_seen_at, {"to": heir})
        return Transition(None, Row.MOVED, (moved,))
    if port.grace_until is not None:
        if evidence.new_boot or evidence.at < port.grace_until:
            return Transition(port, Row.GRACE)
        return _down(port, evidence, "Not back after the reboot of its host, whose time of grace is over")
    if port.misses and not evidence.counts(port.counted_at):
        return Transition(port, Row.MISSED)
    port.misses, port.counted_at = port.misses + 1, evidence.at
    if port.misses < evidence.settings.down_after:
        return Transition(port, Row.MISSED)
    runs = "1 run" if port.misses == 1 else f"{port.misses} runs in a row"
    return _down(port, evidence, f"Missing in the complete answers of {runs}, confirmed")


def hidden(port: Port, evidence: Evidence) -> Transition:
    """Evaluate a port that no rule and no declaration watches any more, whether it listens or not."""
    if port.status == PortStatus.CANDIDATE:
        return Transition(None, Row.FORGOTTEN)
    port = dataclasses.replace(port, declared=None)
    if port.port not in evidence.listening and not port.last_seen_at:
        port.last_seen_at, port.seen_clock = evidence.seen_at, evidence.seen_clock
    since = port.hidden_since
    if since is None:
        port.hidden_since = evidence.at
        return Transition(port, Row.HIDDEN)
    if evidence.new_boot:
        return Transition(port, Row.HIDDEN)
    if is_open(port) and not port.paused:
        after = pause(port)
        unwatched = Draft(EventKind.UNWATCHED, "No rule watches it any more", port.lost_since or port.status_since)
        return Transition(after, Row.PAUSED, _tell(after, evidence, unwatched))
    if evidence.at - since >= evidence.forget_after and not evidence.jumped:
        return Transition(None, Row.HIDDEN_LONG)
    return Transition(port, Row.HIDDEN)


def pause(port: Port) -> Port:
    """The port after its alert ended without evidence: what is still wrong when it is watched again is told again."""
    return dataclasses.replace(port, paused=True, presence=NONE, binds=NONE, grace_until=None)


def is_open(port: Port) -> bool:
    """Whether a port is down, flaps or has lost a bind, so that an alert may be open."""
    return port.status == PortStatus.DOWN or port.flapping_since is not None or bool(port.lost)


# ── parts of a transition ───────────────────────────────────────────────────────────────────────

PARTS = ("presence", "binds")
"""What flaps of a port, each by itself: the port, and the binds that it loses while others remain."""


def _take(port: Port, seen: Seen, evidence: Evidence) -> None:
    # Values that are not shown (without privileges) stay as they were known.
    port.pids = seen.pids or port.pids
    port.inodes = seen.inodes or port.inodes
    if evidence.new_boot and port.addresses:
        # Owners and binds are evaluated in the second observation of a boot, when services have started.
        return
    port.addresses = seen.addresses
    if seen.programs or not port.programs:
        port.tool = evidence.tool
    if not (port.programs and seen.comms and seen.comms == port.comms and seen.programs == seen.comms):
        # Unchanged names of the kernel do not replace a tool's names, which rules may use.
        port.programs = seen.programs or port.programs
    port.uids = seen.uids or port.uids
    port.units = seen.units or port.units
    port.comms = seen.comms or port.comms


def _tell(port: Port, evidence: Evidence, draft: Draft) -> tuple[Draft, ...]:
    if draft.is_message:
        port.told = (*lifecycle.messages(port.told, evidence.at), evidence.at)
    return (draft,)


def _welcome(port: Port, evidence: Evidence) -> tuple[Draft, ...]:
    if port.at_baseline:
        return ()
    reason = "It was not there before" if port.first_seen_at == evidence.at else "It was not there before, and it stays"
    return _tell(port, evidence, Draft(EventKind.NEW, reason, since=port.first_seen_at))


def _candidate(port: Port, seen: Seen, evidence: Evidence) -> Transition:
    _take(port, seen, evidence)
    if evidence.new_boot:
        return Transition(port, Row.WAITING)
    if evidence.counts(port.counted_at):
        port.streak, port.counted_at = port.streak + 1, evidence.at
    if not port.declared and port.streak < evidence.settings.ephemeral_after:
        return Transition(port, Row.WAITING)
    port.status, port.status_since, port.streak, port.counted_at = PortStatus.UP, evidence.at, 0, None
    return Transition(port, Row.DECLARED_SEEN if port.declared else Row.PROVEN, _welcome(port, evidence))


def _recovers(port: Port, evidence: Evidence) -> tuple[Draft, ...]:
    since = port.status_since
    port.status, port.status_since = PortStatus.UP, evidence.at
    if port.paused:
        port.paused = False
        port.presence = lifecycle.untold(port.presence, evidence.pace, clock=evidence.clock, at=evidence.at)
        return ()
    details = {"down_for": (evidence.at - since).total_seconds()}
    back = Draft(EventKind.RECOVERED, "It listens again", since, port.last_seen_at, details)
    return _change(port, evidence, "presence", back)


def _owner_events(before: Port, port: Port, seen: Seen, evidence: Evidence) -> tuple[Draft, ...]:
    if before.presence.flapping_since:
        return ()
    known = bool(before.pids and seen.pids)
    details: dict[str, Any]
    if _has_replaced(before, seen, evidence):
        kind, reason = EventKind.REPLACED, "Another program listens on it now"
        details = {"before": list(before.programs)}
    elif known and not set(before.pids) & set(seen.pids) and before.grace_until is None:
        kind, reason = EventKind.RESTARTED, "The same program listens on it with another pid"
        details = {"before": list(before.pids)}
    else:
        return ()
    told = Draft(kind, f"{reason}{_left_out(seen.more)}", since=before.status_since, details=details)
    return _notice(port, evidence, told)


def _has_replaced(before: Port, seen: Seen, evidence: Evidence) -> bool:
    # Only names of one kind are compared: the kernel's with the kernel's, a tool's with those of the same tool.
    # With OWNERS names before, the program may have been one of those that were left out.
    if before.comms and seen.comms:
        return len(before.comms) < limits.OWNERS and replaced(before.comms, seen.comms)
    if seen.programs and before.tool == evidence.tool and len(before.programs) < limits.OWNERS:
        return replaced(before.programs, seen.programs, pids=(*before.pids, *seen.pids))
    return False


def _left_out(more: int) -> str:
    return f" ({limits.OWNERS} of its owners and binds are compared, {more} more are not)" if more else ""


def _notice(port: Port, evidence: Evidence, draft: Draft) -> tuple[Draft, ...]:
    """The notice, unless there were too many of its kind within the window."""
    kind, most, window = draft.kind.value, evidence.settings.flap_threshold, evidence.pace.window
    own = [clock for name, clock in port.notices if name == kind]
    silent = len(own) >= most and evidence.clock - own[-1] < window
    if not silent:
        own = [clock for clock in own if evidence.clock - clock < window]
    own.append(evidence.clock)
    others = [notice for notice in port.notices if notice[0] != kind]
    port.notices = tuple(sorted((*others, *((kind, clock) for clock in own[-most:]))))
    if silent or not lifecycle.may_note(port.told, evidence.at):
        return ()
    if len(own) >= most:
        reason = (
            f"{draft.reason}. That is change {len(own)} of this kind within {window / 60:g} min: nothing more is told "
            f"of it until there was none for so long"
        )
        draft = dataclasses.replace(draft, reason=reason)
    return _tell(port, evidence, draft)


def _is_braked(port: Port, evidence: Evidence) -> bool:
    """Whether a notice of this observation was the last one for the window, or was left out."""
    counts = Counter(kind for kind, _ in port.notices)
    most = evidence.settings.flap_threshold
    return any(counts[kind] >= most for kind, clock in port.notices if clock == evidence.clock)


def _hide_binds(port: Port, evidence: Evidence, is_watched: Callable[[str], bool]) -> tuple[Draft, ...]:
    """Put binds aside that a rule hides, and those back that it shows again: they are expected as before.

    :returns: the end of an alert about lost binds that the rules hide in the second observation in a row
    """
    if evidence.new_boot:
        return ()
    aside, before = dict(port.unwatched), port.lost
    watched = {address for address in (*port.addresses, *port.lost, *aside) if is_watched(address)}
    port.lost = tuple(address for address in before if address in watched or address not in aside)
    back = [address for address in aside if address in watched and address not in port.lost]
    # What turns out to be excluded, since its owner shows only now, is dropped.
    known = (*port.addresses, *before) if evidence.rules_changed else before
    hidden = [address for address in known if address not in watched]
    port.addresses = tuple(sorted({*back, *(address for address in port.addresses if address in watched)}))
    port.unwatched = tuple(
        (address, since)
        for address, since in sorted({**dict.fromkeys(hidden, evidence.at), **aside}.items())
        if address not in watched and (evidence.jumped or evidence.at - since < evidence.forget_after)
    )
    if port.lost or not before:
        return ()
    since, port.lost_since, port.lost_clock, port.binds = port.lost_since, None, None, NONE
    draft = Draft(EventKind.UNWATCHED, f"No rule watches {', '.join(before)} any more", since)
    return () if port.paused else _tell(port, evidence, draft)


def _bind_events(
    before: Port, port: Port, shown: Seen, evidence: Evidence, *, quiet: bool
) -> tuple[Row | None, tuple[Draft, ...]]:
    """The row and the events of changed binds.

    :param quiet: only losses and their ends make events
    """
    if not evidence.learning and not comparable_addresses(evidence.tool_before, evidence.tool):
        return None, ()
    missed, known, seen = _missed(set(before.addresses), set(port.addresses), before.lost, evidence)
    # A lost bind that a rule hides waits for the rule.
    waiting = {address for address, _ in port.unwatched if address in before.lost}
    lost, _ = limits.few_of({*waiting, *lost_binds({*missed, *(known - seen)}, seen)}, before.lost)
    fresh = tuple(address for address in lost if address not in before.lost)
    if fresh and not shown.more and not _has_replaced(before, shown, evidence):
        exchanged = exchanged_binds(fresh, seen - known - set(before.lost))
        lost, fresh = (tuple(address for address in some if address not in exchanged) for some in (lost, fresh))
    if fresh and (not evidence.confirmed or evidence.in_grace):
        # Keep the bind as known: the first observation after the grace, or the first confirmed one, makes the event.
        port.addresses = before.addresses
        return None, ()
    port.lost = lost
    if not lost:
        port.lost_since = port.lost_clock = None
    if fresh or (lost and port.paused and not waiting and lifecycle.may_tell(port.told, evidence.at)):
        return Row.LOST_BIND, _loses(before, port, evidence, fresh, shown.more)
    if before.lost and not lost:
        return Row.BIND_RECOVERED, _finds(before, port, evidence)
    # With OWNERS binds before, one that is new may have been left out then.
    differ = (known ^ seen if len(known) < limits.OWNERS else known - seen) - set(before.lost)
    if quiet or any(getattr(before, part).flapping_since for part in PARTS) or not differ:
        return None, ()
    now, then = ", ".join(port.addresses), ", ".join(before.addresses)
    draft = Draft(
        EventKind.REBOUND,
        f"It listens on {now} now, before on {then}{_left_out(shown.more)}",
        since=evidence.at,
        details={"severe": False, "before": list(before.addresses)},
    )
    return None, _notice(port, evidence, draft)


def _missed(
    known: set[str], seen: set[str], were_lost: tuple[str, ...], evidence: Evidence
) -> tuple[list[str], set[str], set[str]]:
    """Lost binds that are not there by their name, known binds, and those shown, in names that compare."""
    if evidence.tool_before != evidence.tool:
        # Some tools do not print the interface of an address.
        known, seen = set(map(without_zone, known)), set(map(without_zone, seen))
    if not evidence.learning:
        return [*were_lost], known, seen
    # Another reader may name a bind differently, so no bind is newly lost. A lost one stays lost, unless it and one
    # of the binds shown are wildcards.
    any_wildcard = any(is_wildcard(address) for address in seen)
    return [address for address in were_lost if not (any_wildcard and is_wildcard(address))], seen, seen


def _loses(before: Port, port: Port, evidence: Evidence, fresh: tuple[str, ...], more: int) -> tuple[Draft, ...]:
    """Binds are lost, or still are after a pause."""
    if port.lost_since is None:
        port.lost_since, port.lost_clock = evidence.at, evidence.clock
    what = f"It does not listen on {', '.join(fresh or port.lost)} any more, only on {', '.join(port.addresses)}"
    draft = Draft(
        EventKind.REBOUND,
        f"{what}{_left_out(more)}",
        since=evidence.at if fresh else port.lost_since,
        last_seen=evidence.seen_at if fresh else None,
        details={"severe": True, "lost": list(port.lost), "before": list(before.addresses)},
    )
    port.paused = False
    return _change(port, evidence, "binds", draft) if fresh else _tell(port, evidence, draft)


def _finds(before: Port, port: Port, evidence: Evidence) -> tuple[Draft, ...]:
    """No bind is lost any more."""
    if before.paused:
        port.binds = lifecycle.untold(port.binds, evidence.pace, clock=evidence.clock, at=evidence.at)
        return ()
    since = before.lost_since
    details = {"down_for": since and (evidence.at - since).total_seconds(), "lost": list(before.lost)}
    draft = Draft(EventKind.RECOVERED, f"It listens on {', '.join(before.lost)} again", since, details=details)
    return _change(port, evidence, "binds", draft)


def _retires_binds(port: Port, evidence: Evidence, accepted: datetime | None) -> tuple[Row | None, tuple[Draft, ...]]:
    """Of a port whose lost binds did not change: they retire, or what flapped is stable."""
    since, began = port.lost_since, port.lost_clock
    if since is not None and began is not None and not port.paused:
        was_accepted = accepted is not None and since <= accepted <= evidence.at
        limit = evidence.settings.retire_after.total_seconds()
        if was_accepted or (evidence.clock - began >= limit and not evidence.jumped):
            lost, port.lost, port.lost_since, port.lost_clock, port.binds = port.lost, (), None, None, NONE
            reason = "Accepted by a person" if was_accepted else f"Lost since {since:%Y-%m-%d %H:%M} UTC"
            reason += f"; {', '.join(lost)} is not expected any more"
            draft = Draft(EventKind.RETIRED, reason, since, details={"lost": list(lost)})
            return Row.BIND_RETIRED, _tell(port, evidence, draft)
    settled = _settle(port, evidence)
    return (Row.STABLE, settled) if settled else (None, ())


def _down(port: Port, evidence: Evidence, reason: str) -> Transition:
    before = port.presence.flapping_since
    told = _goes_down(port, evidence, reason)
    return Transition(port, Row.FLAPPING if port.presence.flapping_since and not before else Row.DOWN, told)


def _goes_down(port: Port, evidence: Evidence, reason: str) -> tuple[Draft, ...]:
    misses, port.misses = port.misses, 0
    port.status, port.status_since = PortStatus.DOWN, evidence.at
    port.streak, port.counted_at, port.grace_until = 0, None, None
    # All binds are expected again: one that does not come back with the others makes an event.
    port.addresses, _ = limits.few_of((*port.addresses, *port.lost), port.addresses)
    port.lost, port.lost_since, port.lost_clock, port.binds = (), None, None, NONE
    if port.seen_clock is None:
        port.seen_clock = evidence.clock
    last = port.last_seen_at
    seen = f"; last seen {last:%Y-%m-%d %H:%M:%S} UTC" if last else "; never seen"
    draft = Draft(EventKind.DOWN, reason + seen, evidence.at, last, {"misses": misses} if misses else {})
    port.paused = False
    return _change(port, evidence, "presence", draft)


def _still_down(port: Port, evidence: Evidence, accepted: datetime | None) -> Transition:
    if evidence.new_boot:
        return Transition(port, Row.STILL_DOWN)
    unseen_since = port.last_seen_at or port.status_since
    was_accepted = accepted is not None and port.status_since <= accepted <= evidence.at
    unseen = evidence.clock - (evidence.clock if port.seen_clock is None else port.seen_clock)
    if was_accepted or unseen >= evidence.settings.retire_after.total_seconds():
        if evidence.jumped and not was_accepted:
            return Transition(port, Row.STILL_DOWN)
        reason = "Accepted as gone by a person" if was_accepted else f"Not seen since {unseen_since:%Y-%m-%d %H:%M} UTC"
        then = "nothing more is told of it until it was seen" if port.declared else "it is not watched any more"
        draft = Draft(EventKind.RETIRED, f"{reason}; {then}", port.status_since, unseen_since)
        return Transition(pause(port) if port.declared else None, Row.RETIRED, () if port.paused else (draft,))
    if port.paused and lifecycle.may_tell(port.told, evidence.at):
        port.paused = False
        seen = f"last seen {unseen_since:%Y-%m-%d %H:%M:%S} UTC"
        draft = Draft(EventKind.DOWN, f"Still missing; {seen}", port.status_since, port.last_seen_at)
        return Transition(port, Row.RESUMED, _tell(port, evidence, draft))
    settled = _settle(port, evidence)
    return Transition(port, Row.STABLE, settled) if settled else Transition(port, Row.STILL_DOWN)


def _change(port: Port, evidence: Evidence, part: str, draft: Draft) -> tuple[Draft, ...]:
    """The event of a change, or `flapping` instead, or none while the port flaps."""
    before = getattr(port, part)
    if part == "binds" and port.presence.flapping_since:
        port.binds = lifecycle.untold(before, evidence.pace, clock=evidence.clock, at=evidence.at)
        return ()
    row, changes, count = lifecycle.change(before, evidence.pace, clock=evidence.clock, at=evidence.at, told=port.told)
    setattr(port, part, changes)
    if row is lifecycle.LifecycleRow.OPENS:
        return _tell(port, evidence, draft)
    if row is not lifecycle.LifecycleRow.FLAPS:
        return ()
    what = "between up and down" if part == "presence" else "between lost and found addresses"
    reason = lifecycle.why_flapping(count, evidence.pace, what)
    since = lifecycle.began(before, evidence.pace, clock=evidence.clock, at=evidence.at)
    flapping = Draft(EventKind.FLAPPING, reason, since, port.last_seen_at, {"state": _state(port)})
    return _tell(port, evidence, flapping)


def _settle(port: Port, evidence: Evidence) -> tuple[Draft, ...]:
    """`stable`, if what flapped did not change for long enough."""
    part = "presence" if port.presence.flapping_since else "binds"
    flapped = getattr(port, part)
    if not lifecycle.settles(flapped, evidence.pace, clock=evidence.clock, at=evidence.at, told=port.told):
        return ()
    since, changed_at, state = flapped.flapping_since, flapped.at, _state(port)
    setattr(port, part, NONE)
    still = f"It held still since {changed_at:%Y-%m-%d %H:%M:%S} UTC"
    details: dict[str, Any] = {"state": state.value}
    reason = f"{still} and is {state}"
    if port.lost:
        reason = f"{still}: it listens on {', '.join(port.addresses)}, and not on {', '.join(port.lost)}"
        details["lost"] = list(port.lost)
    return _tell(port, evidence, Draft(EventKind.STABLE, reason, since, port.last_seen_at, details))


def _state(port: Port) -> PortStatus:
    return PortStatus.DOWN if port.status == PortStatus.DOWN or port.lost else PortStatus.UP
