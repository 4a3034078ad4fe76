"""What runs that tried a host say about the host itself: it answers, it does not, it comes and goes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from portmon.engine import clocks, lifecycle
from portmon.engine.conditions import EVALUATED, Condition, OpenConditions
from portmon.engine.events import Report
from portmon.engine.inputs import EvaluationInputs
from portmon.engine.lifecycle import NONE, Pace
from portmon.engine.state import Draft, HostState
from portmon.errors import HostKeyChangedError
from portmon.model.event_kinds import EventKind
from portmon.model.observation import Listing, Observation
from portmon.model.state import HostStatus

_FLAPPING = {"subject": "host"}


@dataclass(slots=True)
class Fleet:
    """What all hosts of an evaluation share.

    :param interval: between scheduled runs, or what stands for it
    :param jumped: the monitor's clock may be wrong: nothing retires
    :param hiding: host id to the last answer that hid the owners that the host showed before
    """

    inputs: EvaluationInputs
    interval: timedelta
    pace: Pace
    conditions: OpenConditions
    report: Report
    jumped: bool = False
    hiding: dict[str, datetime] = field(default_factory=dict)


def tried(host: HostState, observation: Observation, fleet: Fleet) -> None:
    """A run tried the host, whatever came of it."""
    at = observation.observed_at
    host.last_evaluated_at = at
    end(host, Condition.UNSCANNED, at, "A run tried it again", fleet)


def trusted(host: HostState, at: datetime, fleet: Fleet) -> bool:
    """The host answered, so it shows a key that is trusted; whether that ended a condition."""
    return end(host, Condition.HOST_KEY, at, "The host shows a trusted key again", fleet)


def tick(host: HostState, observation: Observation, fleet: Fleet) -> None:
    """Advance the clocks of a host that gave evidence."""
    at = observation.observed_at
    host.evidence = clocks.evidence_at(host, at, fleet.interval)
    clocks.count_try(host, at, fleet.interval)
    tried(host, observation, fleet)


def failed(host: HostState, observation: Observation, fleet: Fleet) -> None:
    """A run got no evidence of the host."""
    at, key_changed = observation.observed_at, observation.error_class == HostKeyChangedError.error_class
    foreign = fleet.conditions.get(Condition.FOREIGN, host.host_id) is not None
    if not foreign:
        clocks.count_try(host, at, fleet.interval)
    tried(host, observation, fleet)
    if key_changed:
        opens(
            host,
            Condition.HOST_KEY,
            Draft(EventKind.HOST_KEY_CHANGED, observation.error or "It shows another host key"),
            at,
            fleet,
        )
    if foreign:
        # The address is another machine's, so this says nothing of the host.
        return
    host.error_class, host.error = observation.error_class, observation.error
    if host.failures == 0:
        host.failures, host.failing_since, host.counted_at = 1, at, at
    elif host.counted_at is None or at - host.counted_at >= fleet.inputs.interval / 2:
        host.failures, host.counted_at = host.failures + 1, at
    enough = host.failures >= fleet.inputs.settings.unreachable_after
    if host.status != HostStatus.UNREACHABLE:
        if enough and not fleet.conditions.silences(Condition.UNREACHABLE):
            _becomes_unreachable(host, observation, fleet)
    elif host.presence.flapping_since:
        settle(host, at, fleet)
    elif lifecycle.may_tell(_told(host, at, fleet), at):
        # It is told again after it was not told for a while.
        for draft in _is_unreachable(host, observation, fleet):
            fleet.report.of_host(host, at, draft)


def _becomes_unreachable(host: HostState, observation: Observation, fleet: Fleet) -> None:
    at = observation.observed_at
    host.status, host.status_since = HostStatus.UNREACHABLE.value, at
    if fleet.conditions.includes(Condition.UNREACHABLE, host.host_id):
        host.presence = lifecycle.untold(host.presence, fleet.pace, clock=host.tried, at=at)
    else:
        changes(host, at, _is_unreachable(host, observation, fleet), fleet)


def answered(host: HostState, at: datetime, fleet: Fleet, boot: Draft | None = None, *, covered: bool = False) -> None:
    """The host gave evidence, which its clocks count already.

    :param boot: the event of a reboot, if it is in another boot
    :param covered: a greater condition than that it is unreachable was open until now
    """
    was_unreachable, since, last_seen = host.status == HostStatus.UNREACHABLE, host.failing_since, host.last_ok_at
    if host.status != HostStatus.OK:
        host.status, host.status_since = HostStatus.OK.value, at
    host.failures, host.failing_since, host.counted_at, host.error_class, host.error = 0, None, None, None, None
    host.last_ok_at = at
    drafts = [] if boot is None else [boot]
    opened = fleet.conditions.end(Condition.UNREACHABLE, host.host_id)
    if opened is not None and opened.told:
        lasted = {"unreachable_for": (at - since).total_seconds()} if since else {}
        drafts.append(Draft(EventKind.REACHABLE, "It answered completely again", since, last_seen, lasted))
    if not was_unreachable and boot is None:
        for draft in drafts:
            # The state of another entry, which was well, goes on under this name.
            fleet.report.of_host(host, at, draft)
        settle(host, at, fleet)
    elif drafts or not covered:
        changes(host, at, drafts, fleet)
    else:
        host.presence = lifecycle.untold(host.presence, fleet.pace, clock=host.tried, at=at)


def shows_others(listing: Listing) -> bool | None:
    """Whether a listing shows owners that are not the asking user's own; None if there is none that it could hide."""
    if any(one.pid is not None and (one.uid != listing.uid or listing.uid == 0) for one in listing.listeners):
        return True
    return False if any(one.pid is None for one in listing.listeners) else None


def names_owners(host: HostState, at: datetime, fleet: Fleet, shown: bool | None) -> None:
    """Open or end the condition of a host that hides the owners that it showed before. Its beginning is told when all
    hosts are evaluated: it may be one of many.

    :param shown: see :func:`shows_others`
    """
    if shown:
        host.unnamed = 0
        fleet.hiding.pop(host.host_id, None)
        end(host, Condition.OWNERS_HIDDEN, at, "It shows programs of other users again", fleet)
    elif host.unnamed is not None:
        # Without a listener it hides them still.
        host.unnamed = min(host.unnamed + (shown is False), fleet.inputs.settings.unreachable_after)
        if host.unnamed >= fleet.inputs.settings.unreachable_after:
            fleet.hiding[host.host_id] = at
            if fleet.conditions.get(Condition.OWNERS_HIDDEN, host.host_id) is None:
                fleet.conditions.open(Condition.OWNERS_HIDDEN, host.host_id, at, told=False)


def hides_owners(host: HostState, at: datetime, fleet: Fleet) -> None:
    """Tell that a host hides the owners that it showed before."""
    reason = "It shows no programs of other users any more, as after sudo was taken away: who has a port is unknown"
    opens(host, Condition.OWNERS_HIDDEN, Draft(EventKind.OWNERS_HIDDEN, reason), at, fleet)


def changes(host: HostState, at: datetime, drafts: Sequence[Draft], fleet: Fleet) -> None:
    """Count a change of the host, and tell it, or that the host flaps."""
    since = lifecycle.began(host.presence, fleet.pace, clock=host.tried, at=at)
    row, host.presence, count = lifecycle.change(
        host.presence, fleet.pace, clock=host.tried, at=at, told=_told(host, at, fleet), silent=not drafts
    )
    if row is lifecycle.LifecycleRow.OPENS:
        for draft in drafts:
            fleet.report.of_host(host, at, draft)
    elif opened := fleet.conditions.get(Condition.UNREACHABLE, host.host_id):
        fleet.conditions.open(Condition.UNREACHABLE, host.host_id, opened.since, told=False)
    if row is not lifecycle.LifecycleRow.FLAPS:
        return
    reason = lifecycle.why_flapping(count, fleet.pace, "changes (unreachable, reachable, rebooted)")
    details: dict[str, Any] = {**_FLAPPING, "state": _state(host)}
    fleet.report.of_host(host, at, Draft(EventKind.FLAPPING, reason, since, host.last_ok_at, details))


def settle(host: HostState, at: datetime, fleet: Fleet) -> None:
    """Tell that a host that flapped is stable, if it is."""
    flapped = host.presence
    if not flapped.flapping_since or fleet.conditions.includes(Condition.UNREACHABLE, host.host_id):
        return
    if not lifecycle.settles(flapped, fleet.pace, clock=host.tried, at=at, told=_told(host, at, fleet)):
        return
    host.presence = NONE
    reason = f"It held still since {flapped.at:%Y-%m-%d %H:%M:%S} UTC and is {_state(host)}"
    details: dict[str, Any] = {**_FLAPPING, "state": _state(host)}
    fleet.report.of_host(host, at, Draft(EventKind.STABLE, reason, flapped.flapping_since, host.last_ok_at, details))
    if host.status == HostStatus.UNREACHABLE:
        fleet.conditions.open(Condition.UNREACHABLE, host.host_id, at)


def opens(host: HostState, condition: Condition, draft: Draft, at: datetime, fleet: Fleet, **details: Any) -> None:
    """Open a condition that does not flap. It is told in place of the lesser ones, whose alerts end and which may go on
    untold; later, if a greater one is open, or if its end could not be told as well.
    """
    before, lesser = fleet.conditions.get(condition, host.host_id), fleet.conditions.lesser(condition, host.host_id)
    was_told = before is not None and before.told
    has_room = lifecycle.may_tell(_told(host, at, fleet), at, sum(one.value.flaps for one in lesser) + 2)
    tells = was_told or (has_room and not fleet.conditions.includes(condition, host.host_id))
    fleet.conditions.open(condition, host.host_id, at, told=tells, **details)
    if was_told or not tells:
        return
    _ends_lesser(host, condition, at, fleet)
    fleet.report.of_host(host, at, draft)


def _told(host: HostState, at: datetime, fleet: Fleet) -> tuple[datetime, ...]:
    """Times of the messages of a host. The end of what does not flap is always told, so its place is taken before."""
    own = (fleet.conditions.get(one, host.host_id) for one in EVALUATED if not one.value.flaps)
    return (*host.told, *(at for opened in own if opened and opened.told))


def _ends_lesser(host: HostState, condition: Condition, at: datetime, fleet: Fleet) -> None:
    """The alerts of lesser conditions end, which may go on untold."""
    name = condition.value.opens.value.replace("_", " ").capitalize()
    for one in fleet.conditions.lesser(condition, host.host_id):
        its = fleet.conditions.now[one.key(host.host_id)]
        end(host, one, at, f"{name} is told instead", fleet)
        fleet.conditions.open(one, host.host_id, its.since, **{**its.details, "told": False})


def end(host: HostState, condition: Condition, at: datetime, reason: str, fleet: Fleet, **details: Any) -> bool:
    """End a condition that does not flap, if it is open; whether it was."""
    before = fleet.conditions.end(condition, host.host_id)
    if before is None:
        return False
    if condition is Condition.UNSCANNED:
        at = fleet.inputs.now
    if before.told:
        fleet.report.of_host(host, at, Draft(condition.value.ends, reason, before.since, host.last_ok_at, details))
    return True


def _is_unreachable(host: HostState, observation: Observation, fleet: Fleet) -> list[Draft]:
    """Open the condition, and the event of it; nothing if it is told, or a greater one is open."""
    at, error_class, outcome = observation.observed_at, observation.error_class, observation.outcome
    before = fleet.conditions.get(Condition.UNREACHABLE, host.host_id)
    if (before and before.told) or fleet.conditions.includes(Condition.UNREACHABLE, host.host_id):
        return []
    _ends_lesser(host, Condition.UNREACHABLE, at, fleet)
    fleet.conditions.open(Condition.UNREACHABLE, host.host_id, host.failing_since or at)
    times = "1 run" if host.failures == 1 else f"{host.failures} runs in a row"
    details: dict[str, Any] = {"error_class": error_class, "outcome": outcome.value, "failures": host.failures}
    reason = f"No evidence in {times}: {observation.error or error_class or outcome}"
    if host.last_ok_at is None:
        details["never"] = True
    return [Draft(EventKind.UNREACHABLE, reason, host.failing_since, host.last_ok_at, details)]


def _state(host: HostState) -> str:
    return (HostStatus.UNREACHABLE if host.status == HostStatus.UNREACHABLE else HostStatus.OK).value
