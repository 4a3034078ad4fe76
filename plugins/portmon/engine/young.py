"""The young random ports of one owner as one subject: each job of a build agent or of Spark has ports of its own. Pure.

What happens to such ports counts together: when one ends is a change of their owner. If it flaps, nothing more is told
of any of them until none ended for the window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime

from portmon.engine import lifecycle, owners, telling, transitions
from portmon.engine.lifecycle import NONE, SHARED, UNHEARD, LifecycleRow
from portmon.engine.rows import Row, Transition
from portmon.engine.state import Draft, Evidence, HostState, Port, YoungOwner
from portmon.model import limits
from portmon.model.event_kinds import EventKind
from portmon.model.observation import PortKey
from portmon.model.state import PortStatus


class YoungPorts:
    """The young random ports of a host in one observation.

    :param accepted: when a person accepted what is wrong with a port
    """

    def __init__(self, host: HostState, evidence: Evidence, accepted: Mapping[PortKey, datetime]) -> None:
        self._host = host
        self._accepted = accepted
        self._evidence = evidence
        self._own = {one.owner: one for one in host.young}
        self._lent: dict[int, str] = {}
        """Number of a port that is evaluated: its owner before."""

    def begin(self, ports: Iterable[Port]) -> None:
        """Before the first port is evaluated: an owner whose alert was closed does not flap any more."""
        for port in ports:
            if port.paused and (spoken := self._spoken_by(port)):
                self._own[spoken.owner] = _still(spoken)

    def speaks(self, port: Port) -> bool:
        """Whether a port's alert says that the ports of its owner flap; it is evaluated after all others."""
        return self._spoken_by(port) is not None

    def _spoken_by(self, port: Port) -> YoungOwner | None:
        return next((one for one in self._own.values() if one.speaker == port.number), None)

    def has(self, port: Port) -> bool:
        """Whether a port is a young random one of an owner."""
        return self._group(port) is not None

    def lent(self, port: Port) -> Port:
        """The port as it is evaluated: without changes of its own."""
        if (group := self._group(port)) is None:
            return port
        self._lent[port.number] = group.owner
        is_heard = group.presence.flapping_since is None and self._has_room(group)
        return dataclasses.replace(port, presence=SHARED if is_heard else UNHEARD)

    def taken(self, before: Port | None, step: Transition) -> Transition:
        """The transition of a port, with what is told of its owner in place of its own events."""
        port = step.port or before
        assert port is not None  # noqa: S101 - for the type checker: a transition has a port before or after
        # What is told is of the owner that it had before the look.
        name, own = self._lent.pop(port.number, None), self._group(port)
        group = own if name is None else self._own.get(name) or YoungOwner(name)
        if group is None:
            return self._of_other(port, step)
        is_up = step.port is not None and step.port.status == PortStatus.UP
        is_own = own is not None and own.owner == group.owner
        group = _with_port(group, port.number, is_up=is_up and is_own)
        drafts: list[Draft] = []
        told, at = () if before is None else before.told, self._evidence.at
        ends_silently = False
        for draft in step.drafts:
            group, said = self._tell(group, port, draft, step.row)
            has_room = self._has_room(group) and lifecycle.may_tell(told, at)
            drafts += (one for one in said if has_room or not one.counts)
            ends_silently |= draft.kind is EventKind.DOWN and not said
        after, row = step.port, step.row
        if row is Row.RETIRED and group.speaker == port.number and not self._was_accepted(port):
            # It speaks for the others, however long it is away itself.
            after, row, drafts = before, Row.STILL_DOWN, []
        if ends_silently and group.speaker != port.number:
            after = None
            if before is not None and transitions.is_open(before) and not before.paused:
                reason = "It ended, as other random ports of its owner do"
                drafts.append(Draft(EventKind.RETIRED, reason, telling.wrong_since(before)))
        elif after is not None and group.speaker == after.number and (stable := self._stable(group, after)):
            drafts.append(stable)
            group, row = _still(group), Row.STABLE
            if group.ports and after.status == PortStatus.DOWN:
                # Its end is no news, if its owner is well.
                after = None
        if group.speaker == port.number and after is None:
            group = _still(group)
        now = (at,) * sum(draft.counts for draft in drafts)
        if now and at not in group.told:
            # The messages of one look are one.
            group = dataclasses.replace(group, told=lifecycle.with_message(group.told, at))
        if after is not None:
            # The one that speaks is evaluated again as long as it does.
            presence = group.presence if group.speaker == after.number else NONE
            after = dataclasses.replace(
                after, presence=presence, told=(*lifecycle.messages(told, at), *now) if now else told
            )
        if group.speaker == port.number and own is None:
            # It goes on by itself with what it said of them.
            group = _still(group)
        elif group.speaker == port.number:
            group = _with_port(group, port.number, is_up=is_up)
        elif own is not None and not is_own:
            self._own[own.owner] = _with_port(own, port.number, is_up=is_up)
        self._own[group.owner] = group
        return dataclasses.replace(step, port=after, row=row, drafts=tuple(drafts))

    def _has_room(self, group: YoungOwner) -> bool:
        return self._evidence.at in group.told or lifecycle.may_tell(group.told, self._evidence.at)

    def _was_accepted(self, port: Port) -> bool:
        accepted = self._accepted.get((port.host_id, port.protocol, port.port))
        return lifecycle.was_accepted(accepted, port.status_since, self._evidence.at)

    def store(self) -> None:
        """Keep what the next observation needs."""
        window, clock, at = self._evidence.pace.window, self._evidence.clock, self._evidence.at
        kept = []
        for one in self._own.values():
            told = lifecycle.messages(one.told, at)
            is_recent = any(clock - then < window for then in one.presence.recent)
            if one.ports or one.speaker is not None or is_recent or told:
                kept.append(dataclasses.replace(one, told=told))
        self._host.young = tuple(sorted(kept, key=lambda one: one.owner)[: limits.OWNERS])

    def _group(self, port: Port) -> YoungOwner | None:
        """The owner for which a port speaks, else its own; None if it is not young or not random, or has no owner."""
        evidence = self._evidence
        if port.declared or port.young_since is None:
            return None
        is_old = evidence.clock - port.young_since >= evidence.settings.mature_after.total_seconds()
        if port.status == PortStatus.UP and is_old:
            return None
        if spoken := self._spoken_by(port):
            return spoken
        if port.status == PortStatus.CANDIDATE or port.presence.flapping_since:
            return None
        if not evidence.is_ephemeral(port.number, (*port.comms, *port.programs)):
            return None
        # Its first owner, whether that is gone or not: so it stays in one group when that leaves or is back.
        known = min(owners.of(port), key=lambda own: owners.in_order(own)[1:], default=None)
        name = known and owners.subject_of(known, evidence.many)
        if not name or (name not in self._own and len(self._own) >= limits.OWNERS):
            return None
        return self._own.get(name) or YoungOwner(name)

    def _of_other(self, port: Port, step: Transition) -> Transition:
        """A port that is no young one any more may have been one when its owner's were counted, and spoken for them."""
        if spoken := self._spoken_by(port):
            # It goes on with what it said of them.
            self._own[spoken.owner] = _still(spoken)
        if step.port is None or step.port.status != PortStatus.UP:
            for one in list(self._own.values()):
                if port.number in one.ports:
                    ports = tuple(number for number in one.ports if number != port.number)
                    self._own[one.owner] = dataclasses.replace(one, ports=ports)
        return step

    def _tell(self, group: YoungOwner, port: Port, draft: Draft, row: Row) -> tuple[YoungOwner, list[Draft]]:
        """The owner after an event of one of its ports, and what is told."""
        evidence, flaps = self._evidence, group.presence.flapping_since is not None
        if draft.kind is EventKind.DOWN and row is not Row.RESUMED:
            return self._ends(group, port, draft)
        if "was" in draft.details and "taken" not in draft.details:
            # Another one has it, which ends it for its owner. That an address is lost may say so.
            group, said = self._ends(group, port, draft)
            others = [one for one in said if one is not draft]
            return group, said if draft.kind is EventKind.REPLACED else [*others, draft]
        if draft.kind is EventKind.NEW and (flaps or not lifecycle.may_note(group.told, evidence.at)):
            return group, []
        if draft.kind is EventKind.RECOVERED and group.speaker != port.number and (flaps or not self._has_room(group)):
            # Its alert was told before, and the one that speaks does not end it.
            reason = "It listens again, while random ports of its owner come and go"
            return group, [Draft(EventKind.RETIRED, reason, draft.since)]
        if flaps and draft.kind in (EventKind.RECOVERED, EventKind.DOWN):
            return group, []
        return group, [draft]

    def _stable(self, group: YoungOwner, port: Port) -> Draft | None:
        """The event of an owner of whose ports none ended for the window."""
        evidence, flapped = self._evidence, group.presence
        settles = lifecycle.settles(flapped, evidence.pace, clock=evidence.clock, at=evidence.at, told=group.told)
        # Of one that has time after a boot it is not known yet.
        if not settles or evidence.new_boot or port.grace_until is not None:
            return None
        state = PortStatus.UP if group.ports else PortStatus.DOWN
        count = len(group.ports) or "none"
        still = f"No random port of {group.owner} ended since {flapped.at:%Y-%m-%d %H:%M:%S} UTC"
        details = {"state": state.value}
        return Draft(
            EventKind.STABLE,
            f"{still}; {count} of them listen",
            flapped.flapping_since,
            port.last_seen_at,
            details,
        )

    def _ends(self, group: YoungOwner, port: Port, draft: Draft) -> tuple[YoungOwner, list[Draft]]:
        evidence, flapped = self._evidence, group.presence.flapping_since is not None
        if evidence.clock in group.presence.recent:
            # One look is one change: what is told of the first port is told of all.
            return group, [] if flapped else [draft]
        since = lifecycle.began(group.presence, evidence.pace, clock=evidence.clock, at=evidence.at)
        row, changes, count = lifecycle.change(
            group.presence, evidence.pace, clock=evidence.clock, at=evidence.at, told=group.told
        )
        group = dataclasses.replace(group, presence=changes)
        if row is LifecycleRow.OPENS:
            return group, [draft]
        if flapped:
            return group, []
        reason = lifecycle.why_flapping(count, evidence.pace, f"ends of random ports of {group.owner}")
        state = PortStatus.UP if set(group.ports) - {port.number} else PortStatus.DOWN
        flapping = dataclasses.replace(
            draft, kind=EventKind.FLAPPING, reason=reason, since=since, details={"state": state.value}
        )
        return dataclasses.replace(group, speaker=port.number), [flapping]


def _with_port(group: YoungOwner, number: int, *, is_up: bool) -> YoungOwner:
    """An owner after one of its ports was evaluated."""
    ports = {*group.ports, number} if is_up else {*group.ports} - {number}
    return dataclasses.replace(group, ports=tuple(sorted(ports)[: limits.OWNERS]))


def _still(group: YoungOwner) -> YoungOwner:
    """An owner whose ports do not flap any more."""
    return dataclasses.replace(group, speaker=None, presence=NONE)
