"""One look at one host, without the login: read answers, confirm what is missing, make the stored record.

The DAG file imports this module at every parse, so the readers are imported where they are used.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from portmon.errors import AnswerError, ProbeError, ScanError, ScanTimeoutError
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.probe.compare import lost_binds
from portmon.text import plain

TABLE_ROWS = 40
"""Ports that the log of one look shows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer of a host.

    :param frame: as it is archived
    :param digest: SHA-256 of the frame
    """

    frame: bytes
    listing: Listing
    digest: str


@dataclass(frozen=True, slots=True)
class Known:
    """The answer of a host that is settled: given again, nothing is missing, and nothing about it is news.

    :param frame: SHA-256 of it, as it is archived
    :param facts: digest of the observation that was read from it
    """

    frame: str
    facts: str


def frame_of(output: bytes, nonce: str) -> tuple[bytes, str] | None:
    """The frame that the probe's command printed, as it is archived, and its digest; None if it is not complete."""
    from portmon.probe import archive_form

    try:
        frame = archive_form(output, nonce)
    except ProbeError:
        return None
    return frame, hashlib.sha256(frame).hexdigest()


def read_answer(
    output: bytes, nonce: str, *, host: str, exit_status: int = 0, stderr: bytes = b"", digest: str | None = None
) -> Answer:
    """Read what the probe's command printed.

    :param nonce: of that command
    :param host: as shown to people
    :param digest: of its frame, if it is known
    :raises AnswerError: it is no complete frame
    """
    from portmon.probe import read

    try:
        frame, listing = read(output, nonce)
        return Answer(frame, listing, digest or hashlib.sha256(frame).hexdigest())
    except ProbeError as error:
        told = [f"the answer proves nothing: {plain(str(error), 300)}", f"exit status {exit_status}"]
        told += [
            f"{name} begins {_first_line(text)!r}" for name, text in (("stdout", output), ("stderr", stderr)) if text
        ]
        raise AnswerError("; ".join(told), host=host) from error


def _first_line(text: bytes) -> str:
    line = next((line for line in text.split(b"\n") if line.strip()), b"")
    return plain(line.decode("utf-8", "surrogateescape"), 160)


def missing(
    listing: Listing, expected: Collection[int], binds: Mapping[int, Collection[str]] | None = None
) -> list[int]:
    """Which of the expected TCP ports nobody listens on, or not on all addresses that others could reach, in order.

    :param binds: port: the addresses on which it listened
    """
    seen: dict[int, set[str]] = defaultdict(set)
    for listener in listing.listeners:
        seen[listener.port].add(bind_of(listener))
    lost = (port for port, addresses in (binds or {}).items() if lost_binds(addresses, seen.get(port, ())))
    return sorted({port for port in expected if port not in seen} | set(lost))


def bind_of(listener: Listener) -> str:
    """The address that a socket is bound to, with the interface where that is part of it."""
    return f"{listener.address}%{listener.zone}" if listener.zone else listener.address


def merge(answers: Sequence[Listing]) -> Listing:
    """The effective observation of several answers: whatever listened in any of them.

    :param answers: at least one, in the order they came
    """
    first = answers[0]
    seen = {_socket(listener) for listener in first.listeners}
    listeners = list(first.listeners)
    for answer in answers[1:]:
        gained = [listener for listener in answer.listeners if _socket(listener) not in seen]
        seen |= {_socket(listener) for listener in gained}
        listeners += gained
    return dataclasses.replace(first, listeners=tuple(listeners))


def _socket(listener: Listener) -> tuple[str, str, int, str | None]:
    return listener.protocol, listener.address, listener.port, listener.zone


# ── the record ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Look:
    """Who looks at whom: what every record of one task says.

    :param try_number: 1-based, of the task instance
    :param logical_date: of the run; None for a manual run
    """

    host_id: str
    run_id: str
    try_number: int
    logical_date: datetime | None = None

    def record(self, **values: Any) -> Observation:
        """A record of this look.

        :param values: the other fields of :class:`portmon.model.observation.Observation`
        """
        return Observation(
            host_id=self.host_id,
            run_id=self.run_id,
            try_number=self.try_number,
            logical_date=self.logical_date,
            **values,
        )

    def success(self, answers: Sequence[Answer], *, observed_at: datetime, duration: float) -> Observation:
        """The record of one or two answers.

        :param observed_at: when the first was complete
        :param duration: seconds from connect to the last byte
        """
        return self.record(
            observed_at=observed_at,
            outcome=Outcome.OK,
            listing=merge([answer.listing for answer in answers]),
            frames=tuple(answer.frame for answer in answers),
            digests=tuple(answer.digest for answer in answers),
            confirmed=len(answers) > 1,
            duration=duration,
        )

    def unchanged(self, frame: bytes, known: Known, *, observed_at: datetime, duration: float) -> Observation:
        """The record of an answer that is known: without its observation, which is stored already.

        :param observed_at: when it was complete
        """
        return self.record(
            observed_at=observed_at,
            outcome=Outcome.OK,
            facts=known.facts,
            frames=(frame,),
            digests=(known.frame,),
            confirmed=False,
            duration=duration,
        )

    def failure(self, error: BaseException, *, observed_at: datetime, duration: float) -> Observation:
        """The record of a look that came to nothing.

        :param error: what ended it; anything but a ScanError is a fault of this program, told as ``internal``
        :param observed_at: when it was final
        """
        return self.record(
            observed_at=observed_at,
            outcome=outcome_of(error),
            error_class=error.error_class if isinstance(error, ScanError) else "internal",
            error=str(error) if isinstance(error, ScanError) else plain(f"{type(error).__name__}: {error}", 500),
            duration=duration,
        )


def outcome_of(error: BaseException) -> Outcome:
    """Whether a failed look reached the host: its answer was no good, or there was none."""
    if isinstance(error, ScanError) and not isinstance(error, AnswerError):
        return Outcome.UNREACHABLE
    return Outcome.INVALID


def timed_out(seconds: float, *, host: str) -> ScanTimeoutError:
    """The error of a task that its own limit ended."""
    return ScanTimeoutError(f"the whole look took longer than {seconds:g} s (the task's time limit)", host=host)


# ── XComs ───────────────────────────────────────────────────────────────────────────────────────


def to_xcom(observation: Observation) -> dict[str, Any]:
    """The record of a dry run's look, JSON types only: it goes from task to task, and nowhere else."""
    return {
        "host_id": observation.host_id,
        "outcome": str(observation.outcome),
        "attempt": {
            "run_id": observation.run_id,
            "try_number": observation.try_number,
            "logical_date": observation.logical_date.isoformat() if observation.logical_date else None,
            "observed_at": observation.observed_at.isoformat(),
            "duration": observation.duration,
            "error_class": observation.error_class,
            "error": observation.error,
            "provisional": observation.provisional,
            "frames": [base64.b64encode(zlib.compress(frame)).decode("ascii") for frame in observation.frames],
        },
    }


def observation_from_xcom(value: Mapping[str, Any]) -> Observation:
    """The record that a dry run's task returned."""
    from portmon.probe import read_archived

    record = value["attempt"]
    frames = [zlib.decompress(base64.b64decode(frame)) for frame in record["frames"]]
    logical_date = record["logical_date"]
    look = Look(
        host_id=value["host_id"],
        run_id=record["run_id"],
        try_number=record["try_number"],
        logical_date=datetime.fromisoformat(logical_date) if logical_date else None,
    )
    observed_at, duration = datetime.fromisoformat(record["observed_at"]), record["duration"]
    if frames:
        digests = [hashlib.sha256(frame).hexdigest() for frame in frames]
        answers = [Answer(frame, read_archived(frame), digest) for frame, digest in zip(frames, digests, strict=True)]
        return look.success(answers, observed_at=observed_at, duration=duration)
    return look.record(
        observed_at=observed_at,
        outcome=Outcome(value["outcome"]),
        error_class=record["error_class"],
        error=record["error"],
        duration=duration,
        provisional=record["provisional"],
    )


# ── for people ──────────────────────────────────────────────────────────────────────────────────


def table(listing: Listing) -> str:
    """The listening ports as lines for a log, IPv4 and IPv6 of one port together."""
    by_port: dict[int, list[Listener]] = defaultdict(list)
    for listener in listing.listeners:
        by_port[listener.port].append(listener)
    rows = [("PORT", "ADDRESSES", "PROGRAM", "PID", "UNIT")]
    for port in sorted(by_port)[:TABLE_ROWS]:
        listeners = by_port[port]
        rows.append(
            (
                str(port),
                _cell([listener.address for listener in listeners], 40),
                _cell([listener.program for listener in listeners], 30),
                _cell([listener.pid for listener in listeners], 20),
                _cell([listener.unit for listener in listeners], 40),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(by_port) > TABLE_ROWS:
        lines.append(f"… and {len(by_port) - TABLE_ROWS} more")
    return "\n".join(lines)


def _cell(values: Sequence[object], limit: int) -> str:
    texts = dict.fromkeys(str(value) for value in values if value is not None)
    return plain(", ".join(texts), limit) if texts else "-"
