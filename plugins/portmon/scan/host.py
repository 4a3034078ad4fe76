"""One visit over a connection that is logged in: ask, and ask once more if ports are missing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from portmon.errors import AnswerError, ContradictionError, ProbeError, ScanError
from portmon.model.numbers import text_of
from portmon.model.observation import Listing, Observation, Outcome
from portmon.scan.answer import Answer, Recorder, SettledAnswer, merge, missing
from portmon.ssh.config import HostSettings
from portmon.ssh.session import CommandResult, Session
from portmon.text import plain


@dataclass(frozen=True, slots=True)
class Expected:
    """The listeners that a host is expected to have.

    :param ports: numbers of those known as up, or declared
    :param binds: number: addresses that others could reach; a missing one counts like a missing port
    :param tool: the one that answered last
    :param hung: tools that hung there not long ago: they are not asked
    :param left: the ports of a listing that one of their owners left, which count as missing; None if none is shared
    """

    ports: Sequence[int] = ()
    binds: Mapping[int, Sequence[str]] = field(default_factory=dict)
    tool: str | None = None
    hung: Sequence[str] = ()
    left: Callable[[Listing], Collection[int]] | None = None

    def missing(self, listing: Listing) -> list[int]:
        """The ports that a listing lacks, wholly or in part, in order."""
        left = self.left(listing) if self.left else ()
        return sorted({*missing(listing, self.ports, self.binds), *left})


@dataclass(slots=True)
class HostScan:
    """The questions and answers of one visit: :meth:`ask`, and if something is :attr:`gone`, :meth:`ask_again` after a
    pause.

    :param shown: the host, for people
    :param settled: an answer that needs not be read
    :param unchanged: the frame of the first answer, if it is the settled one
    :param answers: those that were read
    :param gone: ports that the first answer lacks
    :param still: ports that all answers lack
    """

    recorder: Recorder
    shown: str
    expected: Expected
    settings: HostSettings
    settled: SettledAnswer | None = None
    unchanged: bytes | None = None
    answers: list[Answer] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    still: list[int] = field(default_factory=list)
    result: CommandResult | None = None
    observed_at: datetime | None = None

    def command(self, nonce: str) -> str:
        """The command that is run on the host."""
        from portmon import probe

        hung = {tool for answer in self.answers for tool in answer.listing.hung}
        question = probe.Question(
            sudo=self.settings.sudo,
            limit=int(probe.LIMIT * self.settings.command_timeout.total_seconds()),
            netstat_up_to=self.settings.netstat_up_to,
            last=self.answers[-1].listing.tool if self.answers else self.expected.tool,
            skip={*self.expected.hung, *hung},
            udp="udp" in self.settings.protocols,
        )
        return probe.command(nonce, question)

    def ask(self, session: Session) -> None:
        """Get the first answer.

        :raises ScanError: there is none, or it proves nothing
        """
        answer = self._answer(session, self.settled)
        if answer is not None:
            self.answers.append(answer)
            self.gone = self.still = self.expected.missing(answer.listing)

    def ask_again(self, session: Session) -> None:
        """Get the second answer.

        :raises AnswerError: there is none: the host answered once, so it is not unreachable, but one answer that lacks
            ports proves nothing
        """
        try:
            answer = self._answer(session)
        except ScanError as error:
            raise AnswerError(
                f"{ports_text(self.gone)} missing, and no second answer that confirms it: "
                + str(error).removeprefix(f"{error.host}: "),
                host=self.shown,
            ) from error
        assert answer is not None  # noqa: S101 - for the type checker: it was read
        self.answers.append(answer)
        both = merge([answer.listing for answer in self.answers])
        self.still = self.expected.missing(both)

    @property
    def lacks_udp(self) -> bool:
        """Whether UDP was asked for and the first answer does not show it."""
        asked = "udp" in self.settings.protocols
        return asked and bool(self.answers) and self.answers[0].listing.udp is None

    @property
    def back(self) -> list[int]:
        """The ports that the first answer lacked and the second one had."""
        return sorted(set(self.gone) - set(self.still))

    def success(self, *, duration: float) -> Observation:
        """The observation of a visit whose answers are complete.

        :param duration: seconds from connect to the last byte
        """
        assert self.observed_at is not None  # noqa: S101 - for the type checker: ask() has set it
        if self.unchanged is None or self.settled is None:
            return self.recorder.success(self.answers, observed_at=self.observed_at, duration=duration)
        # Its listing is stored already.
        return self.recorder.record(
            observed_at=self.observed_at,
            outcome=Outcome.OK,
            facts=self.settled.facts,
            frames=(self.unchanged,),
            digests=(self.settled.frame,),
            confirmed=False,
            duration=duration,
        )

    def _answer(self, session: Session, settled: SettledAnswer | None = None) -> Answer | None:
        """An answer that was read; None if it is the settled one.

        If its two listings contradict each other, the host is asked again at once: as a rule they agree then.
        """
        try:
            return self._read(session, settled)
        except AnswerError as error:
            if not isinstance(error.__cause__, ContradictionError):
                raise
        return self._read(session, settled)

    def _read(self, session: Session, settled: SettledAnswer | None) -> Answer | None:
        from portmon import probe

        nonce = probe.new_nonce()
        self.result = result = session.run(
            self.command(nonce),
            deadline=self.settings.command_timeout.total_seconds(),
            max_output=self.settings.max_output,
        )
        if not self.answers:
            self.observed_at = datetime.now(UTC)
        try:
            frame = probe.cut_out(result.stdout, nonce)
            archived = frame.archived()
            digest = hashlib.sha256(archived).hexdigest()
            if settled is not None and digest == settled.frame:
                self.unchanged = archived
                return None
            return Answer(archived, digest, probe.listing_of(frame))
        except ProbeError as error:
            told = [f"the answer proves nothing: {plain(str(error), 300)}", f"exit status {result.exit_status}"]
            for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
                if text:
                    line = next((line for line in text.split(b"\n") if line.strip()), b"")
                    told.append(f"{name} begins {plain(line.decode('utf-8', 'surrogateescape'), 160)!r}")
            raise AnswerError("; ".join(told), host=self.shown) from error


class Stopwatch:
    """Measures seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Until now."""
        return time.monotonic() - self._started


def ports_text(ports: Sequence[int], owners: Mapping[int, str] | None = None) -> str:
    """Ports for people, the first 20.

    :param ports: their numbers
    :param owners: number: its last known program and unit
    """
    known = owners or {}
    shown = ", ".join(f"{text_of(port)} ({known[port]})" if known.get(port) else text_of(port) for port in ports[:20])
    return shown if len(ports) <= 20 else f"{shown} and {len(ports) - 20} more"
