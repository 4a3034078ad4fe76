"""What runs that tried a host say about the host itself: it answers, it does not, it comes and goes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from portmon.engine import clocks, lifecycle
from portmon.engine.conditions import Condition, OpenConditions
from portmon.engine.events import Report
from portmon.engine.inputs import Inputs
from portmon.engine.lifecycle import NONE, Pace
from portmon.engine.state import Draft, HostState
from portmon.errors import HostKeyChangedError
from portmon.model.event_kinds import EventKind
from portmon.model.observation import Observation
from portmon.model.state import HostStatus

_FLAPPING = {"subject": "host"}


@dataclass(slots=True)
class Fleet:
    """What all hosts of an evaluation share.

    :param interval: between scheduled runs, or what stands for it
    :param silent: most hosts fail at once, so no host becomes unreachable in this run
    :param jumped: the monitor's clock may be wrong: nothing retires
    """

    inputs: Inputs
    interval: timedelta
    pace: Pace
    conditions: OpenConditions
    report: Report
    jumped: bool = False
    silent: bool = False


def tried(host: HostState, observation: Observation, fleet: Fleet) -> None:
    """A run tried the host, whatever came of it."""
    at = observation.observed_at
    host.last_evaluated_at = at
    end(host, Condition.UNSCANNED, fleet.inputs.now, "A run tried it again", fleet)


def tick(host: HostState, observation: Observation, fleet: Fleet) -> None:
    """Advance the clocks of a host that gave evidence."""
    at = observation.observed_at
    host.evidence = clocks.evidence_at(host, at, fleet.interval)
    host.tried = clocks.tried_at(host, at, fleet.interval)
    tried(host, observation, fleet)


def failed(host: HostState, observation: Observation, fleet: Fleet) -> None:
    """A run got no evidence of the host."""
    at = observation.observed_at
    host.tried = clocks.tried_at(host, at, fleet.interval)
    tried(host, observation, fleet)
    host.error_class, host.error = observation.error_class, observation.error
    if host.failures == 0:
        host.failures, host.failing_since, host.counted_at = 1, at, at
    elif host.counted_at is None or at - host.counted_at >= fleet.interval / 2:
        host.failures, host.counted_at = host.failures + 1, at
    if observation.error_class == HostKeyChangedError.error_class:
        opens(host, Condition.HOST_KEY, Draft(EventKind.HOST_KEY_CHANGED, observation.error or ""), at, fleet)
    enough = host.failures >= fleet.inputs.settings.unreachable_after
    if fleet.silent or not enough:
        settle(host, at, fleet)
    elif host.status != HostStatus.UNREACHABLE:
        host.status, host.status_since = HostStatus.UNREACHABLE.value, at
        changes(host, at, _is_unreachable(host, observation, fleet), fleet)
    elif host.presence.flapping_since:
        settle(host, at, fleet)
    else:
        # It is told again after it was not told for a while.
        for draft in _is_unreachable(host, observation, fleet):
            fleet.report.of_host(host, at, draft)


def answered(host: HostState, at: datetime, fleet: Fleet, boot: Draft | None = None) -> None:
    """The host gave evidence, which its clocks count already.

    :param boot: the event of a reboot, if it is in another boot
    """
    was_unreachable, since, last_seen = host.status == HostStatus.UNREACHABLE, host.failing_since, host.last_ok_at
    if host.status != HostStatus.OK:
        host.status, host.status_since = HostStatus.OK.value, at
    host.failures, host.failing_since, host.counted_at, host.error_class, host.error = 0, None, None, None, None
    host.last_ok_at = at
    drafts = [] if boot is None else [boot]
    is_told = fleet.conditions.end(Condition.UNREACHABLE, host.host_id) is not None
    trusted = end(host, Condition.HOST_KEY, at, "The host shows a trusted key again", fleet)
    if is_told and not trusted:
        lasted = {"unreachable_for": (at - since).total_seconds()} if since else {}
        drafts.append(Draft(EventKind.REACHABLE, "It answered completely again", since, last_seen, lasted))
    if was_unreachable or boot is not None:
        changes(host, at, drafts, fleet)
    else:
        settle(host, at, fleet)


def changes(host: HostState, at: datetime, drafts: Sequence[Draft], fleet: Fleet) -> None:
    """Count a change of the host, and tell it, or that the host flaps."""
    row, host.presence, count = lifecycle.change(host.presence, fleet.pace, clock=host.tried, at=at, told=host.told)
    if row is lifecycle.Row.OPENS:
        for draft in drafts:
            fleet.report.of_host(host, at, draft)
    if row is not lifecycle.Row.FLAPS:
        return
    reason = (
        f"{count} changes within {fleet.pace.window / 60:g} min (unreachable, reachable, rebooted): nothing more is "
        "told of them until it holds still"
    )
    if count < fleet.pace.threshold:
        reason = f"{lifecycle.MESSAGES} messages within a day: nothing more is told of it until it holds still"
    details: dict[str, Any] = {**_FLAPPING, "state": _state(host)}
    fleet.report.of_host(host, at, Draft(EventKind.FLAPPING, reason, at, host.last_ok_at, details))


def settle(host: HostState, at: datetime, fleet: Fleet) -> None:
    """Tell that a host that flapped is stable, if it is."""
    flapped = host.presence
    if not lifecycle.settles(flapped, fleet.pace, clock=host.tried, at=at, told=host.told):
        return
    host.presence = NONE
    reason = f"It held still since {flapped.at:%Y-%m-%d %H:%M:%S} UTC and is {_state(host)}"
    details: dict[str, Any] = {**_FLAPPING, "state": _state(host)}
    fleet.report.of_host(host, at, Draft(EventKind.STABLE, reason, flapped.flapping_since, host.last_ok_at, details))
    if host.status == HostStatus.UNREACHABLE:
        fleet.conditions.open(Condition.UNREACHABLE, host.host_id, at)


def opens(host: HostState, condition: Condition, draft: Draft, at: datetime, fleet: Fleet, **details: Any) -> None:
    """Open a condition that does not flap, and end the lesser ones that it includes."""
    lesser = fleet.conditions.lesser(condition, host.host_id)
    if fleet.conditions.includes(condition, host.host_id):
        return
    if not fleet.conditions.open(condition, host.host_id, at, **details):
        return
    for one in lesser:
        end(host, one, at, f"{condition.value.opens.value.replace('_', ' ').capitalize()} is told instead", fleet)
    fleet.report.of_host(host, at, draft)


def end(host: HostState, condition: Condition, at: datetime, reason: str, fleet: Fleet, **details: Any) -> bool:
    """End a condition that is open; whether it was."""
    before = fleet.conditions.end(condition, host.host_id)
    if before is None:
        return False
    fleet.report.of_host(host, at, Draft(condition.value.ends, reason, before.since, host.last_ok_at, details))
    return True


def _is_unreachable(host: HostState, observation: Observation, fleet: Fleet) -> list[Draft]:
    """Open the condition, and the event of it; nothing if it is open, or a greater one is."""
    at, error_class, outcome = observation.observed_at, observation.error_class, observation.outcome
    conditions = fleet.conditions
    if conditions.get(Condition.UNREACHABLE, host.host_id) or conditions.includes(Condition.UNREACHABLE, host.host_id):
        return []
    for one in conditions.lesser(Condition.UNREACHABLE, host.host_id):
        end(host, one, at, "Unreachable is told instead", fleet)
    conditions.open(Condition.UNREACHABLE, host.host_id, host.failing_since or at)
    times = "1 run" if host.failures == 1 else f"{host.failures} runs in a row"
    details: dict[str, Any] = {"error_class": error_class, "outcome": outcome.value, "failures": host.failures}
    reason = f"No evidence in {times}: {observation.error or error_class or outcome}"
    if host.last_ok_at is None:
        details["never"] = True
    return [Draft(EventKind.UNREACHABLE, reason, host.failing_since, host.last_ok_at, details)]


def _state(host: HostState) -> str:
    return (HostStatus.UNREACHABLE if host.status == HostStatus.UNREACHABLE else HostStatus.OK).value
