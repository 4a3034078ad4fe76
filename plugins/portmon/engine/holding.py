"""The owners of a port that listens: who left it, who has it now, and whether it was started again. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from portmon.engine import lifecycle, owners, telling
from portmon.engine.owners import Holders, PortOwner, names_of
from portmon.engine.rows import Row
from portmon.engine.state import Draft, Evidence, Port, Seen
from portmon.engine.terms import Terms
from portmon.model import limits
from portmon.model.event_kinds import EventKind


def changed_owners(port: Port, known: Sequence[PortOwner], shown: Holders, evidence: Evidence) -> owners.Change:
    """What the look says of the owners of a port that is up.

    :param known: its owners, as the rules in force watch them
    """
    if evidence.new_boot:
        return owners.Change(owners.after_boot(known, shown, evidence.many))
    if max(len(port.comms), len(port.programs)) >= limits.OWNERS:
        # One that is shown may be among those that were left out.
        return owners.Change(tuple(known))
    if not evidence.learning:
        return owners.compare(known, shown, evidence.many, evidence.times)
    if not shown.owners:
        return owners.Change(tuple(known))
    return owners.taken_over(known, shown, evidence.many)


def owner_events(
    before: Port, port: Port, seen: Seen, change: owners.Change, evidence: Evidence, terms: Terms, *, quiet: bool
) -> tuple[Draft, ...]:
    """The events of a port that is up and another one's, or the same one's in another socket.

    :param quiet: nothing is told of another socket
    """
    details: dict[str, Any]
    if change.replaced:
        was, owner = names_of(change.replaced), names_of(change.newcomers)
        details = {"before": list(before.programs), "was": was, "owner": owner}
        reason = f"{owner} has it now, and no longer {was}{telling.left_out(seen.more)}"
        draft = Draft(EventKind.REPLACED, reason, before.status_since, details=details)
        return telling.change(port, evidence, draft)
    if quiet or not change.is_same or evidence.booted_after(before) or not _is_restart(before, seen):
        return ()
    told: tuple[Draft, ...] = ()
    if terms.restarts == "change" and not before.misses:
        told = telling.silently(port, evidence, is_restart=True)
    if told or port.presence.flapping_since:
        return told
    counts = terms.restarts == "change"
    details, since = {"before": list(before.pids)}, before.status_since
    note = Draft(EventKind.RESTARTED, "The same program was started again", since, details=details)
    # Those that are changes add up to a crash loop.
    return (note,) if counts else telling.notice(port, evidence, note)


def _is_restart(before: Port, seen: Seen) -> bool:
    """Whether nothing of a port's sockets is as it was: inodes tell, else pids if there is one."""
    if before.inodes and seen.inodes:
        return set(before.inodes).isdisjoint(seen.inodes)
    return len(before.pids) == len(seen.pids) == 1 and before.pids != seen.pids


def owners_left(port: Port, change: owners.Change, evidence: Evidence) -> tuple[Draft, ...]:
    """The event of owners that left the port to others, or that are still away after a pause."""
    away = owners.gone_of(port)
    resumes = bool(away) and port.paused and not evidence.new_boot and lifecycle.may_tell(port.told, evidence.at)
    if not change.gone and not resumes:
        return ()
    left = names_of(own for own in owners.of(port) if own.gone_since is None)
    gone = names_of(change.gone or away)
    draft = Draft(
        EventKind.OWNER_GONE,
        f"{gone} does not listen any more, only {left or 'another program'}",
        since=evidence.at if change.gone else telling.wrong_since(port),
        last_seen=evidence.seen_at if change.gone else None,
        details={"owner": gone, "left": left},
    )
    port.paused = False
    names = set(map(evidence.subject_of, change.gone))
    return telling.change_parts(port, evidence, names, draft) if names else telling.tell(port, evidence, draft)


def owners_back(port: Port, change: owners.Change, evidence: Evidence, *, is_told: bool) -> tuple[Draft, ...]:
    """The event of the last owner that is back.

    :param is_told: that a bind is lost is told in this look, and says it
    """
    names = set(map(evidence.subject_of, change.back))
    if not names or owners.gone_of(port) or port.paused or is_told:
        return telling.count_parts(port, evidence, names)
    if port.lost:
        # What the greater condition included is told now; the alert goes on.
        reason = f"It does not listen on {', '.join(port.lost)}, only on {', '.join(port.addresses)}"
        details: dict[str, Any] = {"severe": True, "lost": list(port.lost), "before": []}
        draft = Draft(EventKind.REBOUND, reason, port.lost_since, details=details)
        telling.count_parts(port, evidence, names)
        return telling.change_parts(port, evidence, port.lost, draft, are_counted=True)
    since, back = min(filter(None, (own.gone_since for own in change.back))), names_of(change.back)
    details = {"part": "owner", "owner": back, "down_for": (evidence.at - since).total_seconds()}
    draft = Draft(EventKind.RECOVERED, f"{back} listens again", since, details=details)
    return telling.change_parts(port, evidence, names, draft)


def shown_owners(seen: Seen, evidence: Evidence) -> Holders:
    """The owners that an observation shows of a port; none if it has too many to compare."""
    if seen.more:
        return Holders(())
    return owners.holders(seen.listeners, evidence.tool, evidence.many, seen.excluded)


def kept_owners(port: Port, found: Iterable[PortOwner]) -> tuple[PortOwner, ...]:
    """Owners as they are stored: one is not, if the port's own values say as much."""
    now = tuple(sorted(found, key=owners.in_order))
    return () if now == owners.of(dataclasses.replace(port, owners=())) else now


def retires_owners(port: Port, evidence: Evidence, accepted: datetime | None) -> tuple[Row | None, tuple[Draft, ...]]:
    """Owners that are gone are not expected any more."""
    away, since = owners.gone_of(port), telling.wrong_since(port)
    was_accepted = lifecycle.was_accepted(accepted, since, evidence.at)
    limit = evidence.clock - evidence.settings.retire_after.total_seconds()
    is_old = all(own.gone_clock is not None and own.gone_clock <= limit for own in away)
    if port.paused or not (was_accepted or (is_old and not evidence.jumped)):
        return None, ()
    port.owners = kept_owners(port, (own for own in owners.of(port) if own.gone_since is None))
    port.parts, names = (), names_of(away)
    if was_accepted:
        port.lost, port.lost_since, port.lost_clock = (), None, None
        port.owners = kept_owners(port, owners.lacking_nothing(owners.of(port)))
    # A bind that is lost as well is told anew; if the port flaps, `stable` says it.
    port.paused = bool(port.lost) and port.presence.flapping_since is None
    reason = "Accepted by a person" if was_accepted else f"Gone since {since:%Y-%m-%d %H:%M} UTC"
    draft = Draft(EventKind.RETIRED, f"{reason}; {names} is not expected any more", since, details={"owner": names})
    return Row.OWNER_RETIRED, telling.tell(port, evidence, draft)
