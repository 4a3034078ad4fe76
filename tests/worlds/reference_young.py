"""Young ports of one owner whose numbers the kernel chose: one subject, by the naive implementation."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from tests.worlds.reference_looks import Sight, is_ephemeral
from tests.worlds.reference_owners import Owner
from tests.worlds.reference_rows import FEW, HostRow, PortRow, Settings, Subject, told_today
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
    _told_now: int = 0
    """Messages of that port in this look."""

    # ── which ports ─────────────────────────────────────────────────────────────────────────────

    def _subject_of(self, look: Sight, number: int, port: PortRow) -> Subject | None:
        """What a port belongs to, if it does."""
        if (spoken_for := self._speaks_for(look.host_id, number)) is not None:
            return spoken_for
        if number in look.declared or port.status == "candidate" or not port.owners:
            return None
        if not is_ephemeral(look, number, port):
            return None
        subjects, name = self.hosts[look.host_id].subjects, name_of(port.owners)
        subject = subjects.get(name)
        if port.young_since is None:
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

    def _all_begin(self, host_id: str) -> None:
        """Without an alert of its speaker a subject does not flap any more."""
        ports = self.ports[host_id]
        for subject in self.hosts[host_id].subjects.values():
            if subject.speaker in ports and ports[subject.speaker].paused:
                subject.forget()
        self._told_now = 0

    def _begins(self, look: Sight, number: int, port: PortRow) -> None:
        self._subject = self._subject_of(look, number, port)
        if self._subject is not None:
            port.presence.forget()

    def _is_done(self, look: Sight, number: int) -> None:
        port, told, self._told_now = self.ports[look.host_id].get(number), self._told_now, 0
        subject = self._subject if port is None else self._subject_of(look, number, port)
        self._subject = None
        if subject is not None:
            subject.messages += [look.at] * told
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
            if subject.changes.flapping or told_today(subject.messages, look.at) >= FEW:
                return
        self._tell_port(port, look.host_id, look.at, "new", number)

    def _one_ends(self, subject: Subject, port: PortRow, look: Sight, number: int) -> None:
        """One of the ports of a subject goes down; it is so in the row already."""
        self._needs_its_speaker(look.host_id, subject)
        subject.changes.add(look.clock, self.window)
        if subject.changes.flapping:
            if subject.speaker != number:
                if port.alert:
                    self._tell_port(port, look.host_id, look.at, "retired", number, port.young)
                del self.ports[look.host_id][number]
            return
        many = len(subject.changes.times) >= self.settings.flap_threshold
        if many or told_today(subject.messages, look.at) >= FEW:
            subject.changes.flapping, subject.speaker, port.alert = True, number, "flapping"
            state = "up" if self._up(look.host_id, subject) else "down"
            self._tell_port(port, look.host_id, look.at, "flapping", number, state)
        else:
            self._tell_port(port, look.host_id, look.at, "down", number, port.young)

    def _one_returns(self, subject: Subject, port: PortRow, look: Sight, number: int) -> None:
        self._needs_its_speaker(look.host_id, subject)
        if not port.alert:
            return
        if not subject.changes.flapping:
            self._tell_port(port, look.host_id, look.at, "recovered", number)
        elif subject.speaker != number:
            self._tell_port(port, look.host_id, look.at, "retired", number, port.young)

    def _is_silent(self, number: int) -> bool:
        """Whether the port that is looked at is one of those of which another one speaks."""
        subject = self._subject
        return subject is not None and subject.changes.flapping and subject.speaker != number

    def _all_may_be_stable(self, subject: Subject, port: PortRow, look: Sight, number: int) -> None:
        """The speaker says it for all."""
        if not subject.changes.still(look.clock, self.window):
            return
        state = "up" if self._up(look.host_id, subject) else "down"
        subject.forget()
        self._tell_port(port, look.host_id, look.at, "stable", number, state)
        if state == "up" and port.status == "down":
            del self.ports[look.host_id][number]


def name_of(owners: Iterable[Owner]) -> str:
    """The name of the first of the owners of a port, whether that is gone or not."""

    def key(one: Owner) -> tuple[Any, ...]:
        names = one.unit, sorted(one.comms), sorted(one.programs)
        return *names, sorted(one.inodes), sorted(one.pids)

    first = min(owners, key=key)
    return first.unit or min(first.comms, default="") or min(first.programs, default="")
