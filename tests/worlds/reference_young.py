"""Young ports of one owner whose numbers the kernel chose: one subject, by the naive implementation."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from portmon.probe.compare import program_of
from tests.worlds.reference_looks import Seen, Sight, is_ephemeral
from tests.worlds.reference_owners import Owner, is_many
from tests.worlds.reference_rows import FEW, MOST, HostRow, PortRow, Settings, Subject, told_today
from tests.worlds.reference_watching import Watching

SUBJECTS = 64
"""So many a host has; ports of other owners are subjects of their own."""


class Young(Watching):
    """What is told of such ports together."""

    hosts: dict[str, HostRow]
    settings: Settings
    window: timedelta
    _subject: Subject | None = None
    """Of the known port that is looked at, as it was before the look."""

    def _grows_up(self, port: PortRow, look: Sight, number: int, seen: Seen | None) -> None:
        raise NotImplementedError

    # ── which ports ─────────────────────────────────────────────────────────────────────────────

    def _subject_of(self, look: Sight, number: int, port: PortRow) -> Subject | None:
        """What a port belongs to, if it does."""
        if (spoken_for := self._speaks_for(look.host_id, number)) is not None:
            return spoken_for
        if number in look.declared or port.status == "candidate" or not port.owners:
            return None
        if not is_ephemeral(look, number, port):
            return None
        subjects, name = self.hosts[look.host_id].subjects, name_of(port.owners, look.many)
        subject = subjects.get(name)
        if port.young_since is None or port.presence.flapping:
            return None
        if port.status == "up" and look.clock - port.young_since >= self.settings.mature_after:
            return None
        if subject is None and len(subjects) < SUBJECTS:
            subject = subjects[name] = Subject()
        return subject

    def _speaks_for(self, host_id: str, number: int) -> Subject | None:
        return next((one for one in self.hosts[host_id].subjects.values() if one.speaker == number), None)

    def _in_order(self, look: Sight, numbers: Iterable[int]) -> list[int]:
        """What is shown of known ports comes before what is missing, and that before what is new."""
        ports = self.ports[look.host_id]

        def rank(number: int) -> tuple[Any, ...]:
            port, shown = ports.get(number), number in look.seen
            speaks = self._speaks_for(look.host_id, number) is not None
            if port is None:
                return 2, False, number
            if not shown:
                return 1, speaks, number
            return (3 if port.status == "candidate" else 4 if speaks else 0), False, number

        return sorted(numbers, key=rank)

    # ── before and after a look at one of them ──────────────────────────────────────────────────

    def _all_begin(self, look: Sight, hidden: Set[int]) -> None:
        """Without an alert of its speaker a subject does not flap any more, nor if that is none of its ports now."""
        ports = self.ports[look.host_id]
        for subject in self.hosts[look.host_id].subjects.values():
            number = subject.speaker
            if number is None or number not in ports:
                continue
            port = ports[number]
            if number not in hidden:
                self._grows_up(port, look, number, look.seen.get(number))
            if port.young_since is None and not port.paused:  # its alert goes on
                port.presence = replace(subject.changes, times=list(subject.changes.times))
            if port.young_since is None or port.paused:
                subject.forget()

    def _begins(self, look: Sight, number: int, port: PortRow) -> None:
        self._subject = self._subject_of(look, number, port)
        if self._subject is not None:
            port.presence.forget()

    def _is_done(self, look: Sight, number: int) -> None:
        before, self._subject = self._subject, None
        port = self.ports[look.host_id].get(number)
        subject = None if port is None else self._subject_of(look, number, port)
        told_of = before or subject
        if port is not None and told_of is not None and look.at in port.messages:
            told_of.has_told(look.at)
        if port is None or subject is None:
            return
        port.presence.forget()
        if port.status == "up":
            subject.up.add(number)

    def _all_are_done(self, host_id: str, at: datetime) -> None:
        for subject in self.hosts[host_id].subjects.values():
            subject.messages = [then for then in subject.messages if told_today([then], at)]
            subject.up = self._up(host_id, subject)
            self._needs_its_speaker(host_id, subject)

    def _needs_its_speaker(self, host_id: str, subject: Subject) -> None:
        """Without it nothing could say that the subject does not flap any more."""
        if subject.speaker is not None and subject.speaker not in self.ports[host_id]:
            subject.forget()

    def _up(self, host_id: str, subject: Subject) -> set[int]:
        ports = self.ports[host_id]
        return {number for number in subject.up if number in ports and ports[number].status == "up"}

    # ── what is told ────────────────────────────────────────────────────────────────────────────

    def _tell_new(self, port: PortRow, look: Sight, number: int) -> None:
        subject = self._subject_of(look, number, port)
        if subject is not None:
            self._needs_its_speaker(look.host_id, subject)
            if subject.changes.flapping or subject.told_before(look.at) >= FEW:
                return
        self._tell_port(port, look.host_id, look.at, "new", number)

    def _one_ends(self, subject: Subject, port: PortRow, look: Sight, number: int, kind: str) -> None:
        """One of the ports of a subject goes down, or another owner has it; it is so in the row already."""
        self._needs_its_speaker(look.host_id, subject)
        if kind == "replaced":
            subject.up.discard(number)
        is_first = look.clock not in subject.changes.times
        if is_first:  # one look is one change
            subject.changes.add(look.clock, self.window)
        if subject.changes.flapping:
            if kind == "down" and subject.speaker != number:
                if port.alert:
                    self._tell_port(port, look.host_id, look.at, "retired", number, port.young)
                del self.ports[look.host_id][number]
            return
        today = subject.told_before(look.at)
        if is_first and (len(subject.changes.times) >= self.settings.flap_threshold or today >= FEW):
            subject.changes.flapping, subject.speaker, port.alert = True, number, "flapping"
            if today < MOST:
                state = "up" if self._up(look.host_id, subject) else "down"
                self._tell_port(port, look.host_id, look.at, "flapping", number, state)
        else:
            extra = port.young if kind == "down" else ""
            self._tell_port(port, look.host_id, look.at, kind, number, extra)

    def _one_returns(self, subject: Subject, port: PortRow, look: Sight, number: int, kind: str) -> None:
        self._needs_its_speaker(look.host_id, subject)
        if not port.alert:
            return
        silent = subject.changes.flapping or subject.told_before(look.at) >= MOST
        if not silent:
            self._tell_port(port, look.host_id, look.at, kind, number)
        elif subject.speaker != number:
            self._tell_port(port, look.host_id, look.at, "retired", number, port.young)

    def _is_silent(self, number: int) -> bool:
        """Whether the port that is looked at is one of those of which another one speaks."""
        subject = self._subject
        return subject is not None and subject.changes.flapping and subject.speaker != number

    def _all_may_be_stable(self, subject: Subject, port: PortRow, look: Sight, number: int) -> None:
        """The speaker says it for all."""
        if not subject.changes.still(look.clock, self.window) or subject.told_before(look.at) >= MOST:
            return
        state = "up" if self._up(look.host_id, subject) else "down"
        subject.forget()
        self._tell_port(port, look.host_id, look.at, "stable", number, state)
        subject.has_told(look.at)
        if state == "up" and port.status == "down":
            del self.ports[look.host_id][number]


def name_of(owners: Iterable[Owner], many: Set[str]) -> str:
    """The name of the first of the owners of a port, whether that is gone or not.

    It is its unit; where the program decides who is who, the program as well.
    """

    def key(one: Owner) -> tuple[Any, ...]:
        names = one.unit, sorted(one.comms), sorted(one.programs)
        return *names, sorted(one.inodes), sorted(one.pids)

    first = min(owners, key=key)
    if first.unit and not is_many(first.unit, many):
        return first.unit
    return f"{first.unit} {min(first.comms or set(map(program_of, first.programs)), default='')}"
