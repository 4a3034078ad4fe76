"""One look at one host over a connection that is logged in: ask, and ask once more for what is missing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from portmon.errors import AnswerError, ContradictionError, ScanError
from portmon.model.observation import Observation
from portmon.scan import answer as scan
from portmon.ssh.config import SshSettings
from portmon.ssh.session import CommandResult, Session


@dataclass(frozen=True, slots=True)
class Expected:
    """What a host is expected to listen on.

    :param ports: known as up, or declared
    :param binds: port: addresses that others could reach; one that is missing is missed like a port
    :param tool: the one that answered last, None if that is not known
    :param hung: tools that hung there not long ago: they are not asked
    """

    ports: Sequence[int] = ()
    binds: Mapping[int, Sequence[str]] = field(default_factory=dict)
    tool: str | None = None
    hung: Sequence[str] = ()


@dataclass(slots=True)
class HostScan:
    """A look at one host: :meth:`ask`, and if something is :attr:`gone`, :meth:`ask_again` after a pause.

    :param record: who looks at whom
    :param shown: the host, for people
    :param settings: of its login
    :param known: the answer that needs not be read, if there is one
    :param unchanged: the frame of the first answer, if it was that one
    """

    record: scan.Look
    shown: str
    expected: Expected
    settings: SshSettings
    known: scan.Known | None = None
    unchanged: bytes | None = None
    answers: list[scan.Answer] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    still: list[int] = field(default_factory=list)
    result: CommandResult | None = None
    observed_at: datetime | None = None

    def command(self, nonce: str) -> str:
        """What is run on the host."""
        from portmon import probe

        hung = {tool for answer in self.answers for tool in answer.listing.hung}
        question = probe.Question(
            sudo=self.settings.sudo,
            limit=int(probe.LIMIT * self.settings.command_timeout.total_seconds()),
            netstat_up_to=self.settings.netstat_up_to,
            last=self.answers[-1].listing.tool if self.answers else self.expected.tool,
            skip={*self.expected.hung, *hung},
        )
        return probe.command(nonce, question)

    def ask(self, session: Session) -> None:
        """The first answer; :attr:`gone` is what it lacks.

        :raises ScanError: there is none, or it proves nothing
        """
        nonce, result = self._run(session)
        framed = scan.frame_of(result.stdout, nonce) if self.known is not None else None
        digest = framed[1] if framed is not None else None
        if framed is not None and self.known is not None and digest == self.known.frame:
            self.unchanged = framed[0]
        self.observed_at = datetime.now(UTC)
        if self.unchanged is None:
            answer = self._read(session, nonce, result, digest)
            self.gone = self.still = scan.missing(answer.listing, self.expected.ports, self.expected.binds)

    def ask_again(self, session: Session) -> scan.Answer:
        """The second answer; :attr:`still` is what both lack.

        :raises AnswerError: there is none: the host did answer once, so it is not unreachable, but half a look
            proves nothing
        """
        try:
            answer = self._read(session, *self._run(session))
        except ScanError as error:
            raise AnswerError(
                f"{ports_text(self.gone)} missing, and no second answer that confirms it: "
                + str(error).removeprefix(f"{error.host}: "),
                host=self.shown,
            ) from error
        both = scan.merge([answer.listing for answer in self.answers])
        self.still = scan.missing(both, self.expected.ports, self.expected.binds)
        return answer

    @property
    def back(self) -> list[int]:
        """What the first answer lacked and the second one had."""
        return sorted(set(self.gone) - set(self.still))

    def success(self, *, duration: float) -> Observation:
        """The record of a look whose answers are there.

        :param duration: seconds from connect to the last byte
        """
        assert self.observed_at is not None  # noqa: S101 - for the type checker; ask() has set it
        if self.unchanged is not None and self.known is not None:
            return self.record.unchanged(self.unchanged, self.known, observed_at=self.observed_at, duration=duration)
        return self.record.success(self.answers, observed_at=self.observed_at, duration=duration)

    def failure(self, error: BaseException, *, duration: float, provisional: bool = False) -> Observation:
        """The record of a look that came to nothing.

        :param provisional: a task of the host's own follows, whose word counts
        """
        observation = self.record.failure(error, observed_at=datetime.now(UTC), duration=duration)
        return dataclasses.replace(observation, provisional=provisional)

    def _run(self, session: Session) -> tuple[str, CommandResult]:
        """Let the command run.

        :returns: its nonce, and what it printed
        """
        from portmon.probe import new_nonce

        nonce = new_nonce()
        self.result = result = session.run(
            self.command(nonce),
            deadline=self.settings.command_timeout.total_seconds(),
            max_output=self.settings.max_output,
        )
        return nonce, result

    def _read(self, session: Session, nonce: str, result: CommandResult, digest: str | None = None) -> scan.Answer:
        """What the command printed, or prints if its two listings contradict each other: at once they agree as a rule.

        :param digest: of the frame, if it is known
        """
        try:
            answer = self._answer(nonce, result, digest)
        except AnswerError as error:
            if not isinstance(error.__cause__, ContradictionError):
                raise
            answer = self._answer(*self._run(session))
            if not self.answers:
                self.observed_at = datetime.now(UTC)
        self.answers.append(answer)
        return answer

    def _answer(self, nonce: str, result: CommandResult, digest: str | None = None) -> scan.Answer:
        return scan.read_answer(
            result.stdout, nonce, host=self.shown, exit_status=result.exit_status, stderr=result.stderr, digest=digest
        )


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._started


def ports_text(ports: Sequence[int]) -> str:
    """Port numbers for people, the first 20."""
    shown = ", ".join(map(str, ports[:20]))
    return shown if len(ports) <= 20 else f"{shown} and {len(ports) - 20} more"
