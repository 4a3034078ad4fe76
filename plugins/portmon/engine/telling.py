"""What is told of a port that changes: its event, that it flaps, or nothing. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from portmon.engine import lifecycle, owners
from portmon.engine.lifecycle import NONE
from portmon.engine.owners import names_of
from portmon.engine.state import Draft, Evidence, Port
from portmon.model import limits
from portmon.model.event_kinds import EventKind
from portmon.model.state import PortStatus


def wrong_since(port: Port) -> datetime:
    """Since when something is wrong with a port."""
    gone = [own.gone_since for own in owners.gone_of(port)]
    return min(filter(None, (port.lost_since, *gone)), default=port.status_since)


def tell(port: Port, evidence: Evidence, draft: Draft) -> tuple[Draft, ...]:
    """The event, which may count as a message of the port."""
    if draft.counts:
        port.told = lifecycle.with_message(port.told, evidence.at)
    return (draft,)


def notice(port: Port, evidence: Evidence, draft: Draft) -> tuple[Draft, ...]:
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
    return tell(port, evidence, draft)


def is_braked(port: Port, evidence: Evidence) -> bool:
    """Whether a notice of this observation was the last one for the window, or was left out."""
    counts = Counter(kind for kind, _ in port.notices)
    most = evidence.settings.flap_threshold
    return any(counts[kind] >= most for kind, clock in port.notices if clock == evidence.clock)


def in_one(port: Port, drafts: Sequence[Draft], of_binds: Sequence[Draft]) -> list[Draft]:
    """The events of a port with those of its binds: that another owner lacks an address is told in one message.

    :param of_binds: or of owners that are back; if addresses are lost still, that says it
    """
    taken = next((draft for draft in drafts if draft.kind is EventKind.REPLACED), None)
    severe = next(
        (draft for draft in of_binds if draft.details.get("severe") or draft.kind is EventKind.FLAPPING), None
    )
    if taken is None or severe is None or not port.lost:
        return [*drafts, *of_binds]
    port.told = port.told[:-1]
    reason, details = f"{severe.reason}; {taken.reason}", {**taken.details, **severe.details}
    both = dataclasses.replace(severe, reason=reason, details=details)
    return [
        *(draft for draft in drafts if draft is not taken),
        *(both if draft is severe else draft for draft in of_binds),
    ]


def left_out(more: int) -> str:
    """What a reason says of so many owners or binds that are not compared."""
    return f" ({limits.OWNERS} of its owners and binds are compared, {more} more are not)" if more else ""


def change(
    port: Port, evidence: Evidence, draft: Draft | None, *, is_counted: bool = False, is_restart: bool = False
) -> tuple[Draft, ...]:
    """The event of a change of the port's presence, or `flapping` instead, or none while it flaps.

    :param draft: None for a change without a message
    :param is_counted: the change began in an earlier look
    """
    before = port.presence
    if draft is not None and before is lifecycle.UNHEARD:
        return (draft,)
    if before is lifecycle.SHARED or before is lifecycle.UNHEARD:
        return () if draft is None else tell(port, evidence, draft)
    row, port.presence, count = lifecycle.change(
        before,
        evidence.pace,
        clock=evidence.clock,
        at=evidence.at,
        told=port.told,
        silent=draft is None,
        is_counted=is_counted,
    )
    restarts = {*port.restarts, *((evidence.clock,) if is_restart else ())}
    own = lifecycle.untold(before, evidence.pace, clock=evidence.clock, at=evidence.at).recent
    loops = is_restart and restarts.issuperset(own)
    port.restarts = tuple(sorted(restarts.intersection(port.presence.recent)))
    if row is lifecycle.LifecycleRow.OPENS:
        return () if draft is None else tell(port, evidence, draft)
    if row is not lifecycle.LifecycleRow.FLAPS:
        return ()
    what = "restarts" if loops else "changes between up and down"
    who = ""
    if draft is not None and draft.kind is EventKind.REPLACED:
        what, who = "changes of its owner or its presence", f"{draft.reason}; "
    reason = who + lifecycle.why_flapping(count, evidence.pace, what)
    kind = EventKind.CRASH_LOOPING if loops else EventKind.FLAPPING
    return _flapping(port, evidence, kind, reason, [before])


def _flapping(
    port: Port, evidence: Evidence, kind: EventKind, reason: str, before: Iterable[lifecycle.Changes]
) -> tuple[Draft, ...]:
    since = min(lifecycle.began(one, evidence.pace, clock=evidence.clock, at=evidence.at) for one in before)
    return tell(port, evidence, Draft(kind, reason, since, port.last_seen_at, {"state": state_of(port)}))


def change_parts(
    port: Port, evidence: Evidence, names: Collection[str], draft: Draft, *, are_counted: bool = False
) -> tuple[Draft, ...]:
    """The event of owners or addresses that are lost or found, or `flapping` instead, or none while all of them flap.

    Each flaps by itself. While another one does, an end has no message: `stable` says it.

    :param are_counted: they were lost in an earlier look, of which something else was told
    """
    if port.presence.flapping_since:
        return () if are_counted else count_parts(port, evidence, names)
    silent = draft.kind is EventKind.RECOVERED and any(
        own.flapping_since for name, own in port.parts if name not in names
    )
    own = dict(port.parts)
    made = {
        name: lifecycle.change(
            own.get(name, NONE),
            evidence.pace,
            clock=evidence.clock,
            at=evidence.at,
            told=port.told,
            silent=silent,
            is_counted=are_counted,
        )
        for name in names
    }
    _keep_parts(port, evidence, {name: changes for name, (_, changes, _) in made.items()})
    if any(row is lifecycle.LifecycleRow.OPENS for row, _, _ in made.values()):
        return () if silent else tell(port, evidence, draft)
    flap = [name for name, (row, _, _) in made.items() if row is lifecycle.LifecycleRow.FLAPS]
    if not flap:
        return ()
    count = max(made[name][2] for name in flap)
    reason = (
        f"{', '.join(sorted(flap))}: {lifecycle.why_flapping(count, evidence.pace, 'changes between lost and found')}"
    )
    return _flapping(port, evidence, EventKind.FLAPPING, reason, [own.get(name, NONE) for name in flap])


def count_parts(port: Port, evidence: Evidence, names: Iterable[str]) -> tuple[Draft, ...]:
    """Owners or addresses are lost or found, and something else is told instead."""
    own = dict(port.parts)
    _keep_parts(
        port,
        evidence,
        {
            name: lifecycle.untold(own.get(name, NONE), evidence.pace, clock=evidence.clock, at=evidence.at)
            for name in names
        },
    )
    return ()


def _keep_parts(port: Port, evidence: Evidence, changed: Mapping[str, lifecycle.Changes]) -> None:
    own = {**dict(port.parts), **changed}
    kept = [part for part in own.items() if not lifecycle.is_over(part[1], evidence.pace, evidence.clock)]
    # The last ones: a host may show other names each time.
    parts = sorted(kept, key=lambda part: part[1].recent[-1])[-limits.PARTS :]
    port.parts = tuple(sorted(parts, key=itemgetter(0)))


def silently(port: Port, evidence: Evidence, *, is_restart: bool = False) -> tuple[Draft, ...]:
    """A change of the port that has no message of its own: nothing, or that it flaps."""
    return change(port, evidence, None, is_restart=is_restart)


def settle(port: Port, evidence: Evidence) -> tuple[Draft, ...]:
    """`stable`, if what flapped did not change for long enough. While the port flaps, its parts wait.

    While other parts flap, only what is lost has a `stable`.
    """
    flapping = port.flapping
    still = {
        name: own
        for name, own in flapping.items()
        if lifecycle.settles(own, evidence.pace, clock=evidence.clock, at=evidence.at, told=port.told)
    }
    if not still or (None in flapping and None not in still):
        return ()
    if None in still:
        port.presence = NONE
    port.parts = tuple(part for part in port.parts if part[0] not in still)
    missing = {*port.lost, *map(evidence.subject_of, owners.gone_of(port))}
    if None not in still and len(still) < len(flapping) and missing.isdisjoint(still):
        return ()
    return _stable(port, evidence, still.values())


def _stable(port: Port, evidence: Evidence, flapped: Collection[lifecycle.Changes]) -> tuple[Draft, ...]:
    since = min(filter(None, (own.flapping_since for own in flapped)))
    changed_at, state = max(filter(None, (own.at for own in flapped))), state_of(port)
    still = f"It held still since {changed_at:%Y-%m-%d %H:%M:%S} UTC"
    details: dict[str, Any] = {"state": state.value}
    reason = f"{still} and is {state}"
    if port.lost:
        reason = f"{still}: it listens on {', '.join(port.addresses)}, and not on {', '.join(port.lost)}"
        details["lost"] = list(port.lost)
    if away := names_of(owners.gone_of(port)):
        reason, details["gone"] = f"{still}: {away} does not listen any more", away
    if taken := names_of(owners.present(port.holders)):
        reason, details["owner"] = f"{still}: {taken} has the port, and {names_of(owners.of(port))} is gone", taken
    return tell(port, evidence, Draft(EventKind.STABLE, reason, since, port.last_seen_at, details))


def state_of(port: Port) -> PortStatus:
    """Down, also if only a bind or an owner is missing."""
    lacks = port.lost or owners.gone_of(port)
    return PortStatus.DOWN if port.status == PortStatus.DOWN or lacks else PortStatus.UP
