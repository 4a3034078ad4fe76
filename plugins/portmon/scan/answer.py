"""One visit to one host, without the login: what an answer lacks, how answers merge, the observation that is stored.

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

from portmon.errors import AnswerError, ScanError
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.text import plain

TABLE_ROWS = 40
"""Ports that a host's table in a log shows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer of a host.

    :param frame: as it is archived
    :param digest: SHA-256 of the frame
    """

    frame: bytes
    digest: str
    listing: Listing


@dataclass(frozen=True, slots=True)
class SettledAnswer:
    """The last answer of a host that is settled: given again, nothing is missing, and nothing about it is news.

    :param fingerprint: what it was evaluated by
    :param frame: SHA-256 of it, as it is archived
    :param facts: digest of the listing that was read from it
    """

    fingerprint: str
    frame: str
    facts: str


def missing(
    listing: Listing, expected: Collection[int], binds: Mapping[int, Collection[str]] | None = None
) -> list[int]:
    """Which of the expected TCP ports have no listener, or lack one on an address that others could reach, in order.

    :param binds: port: the addresses on which it listened
    """
    from portmon.probe.compare import lost_binds

    seen: dict[int, set[str]] = defaultdict(set)
    for listener in listing.listeners:
        seen[listener.port].add(bind_of(listener))
    lost = {port for port, addresses in (binds or {}).items() if lost_binds(addresses, seen.get(port, ()))}
    return sorted(lost.union(port for port in expected if port not in seen))


def bind_of(listener: Listener) -> str:
    """The address that a socket is bound to, with the interface where that is part of it."""
    return f"{listener.address}%{listener.zone}" if listener.zone else listener.address


def merge(answers: Sequence[Listing]) -> Listing:
    """The effective listing of several answers: every listener that any of them shows.

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


# ── the observation ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Recorder:
    """Makes the observations of one task's visit to a host: what all of them say is here.

    :param try_number: 1-based, of the task instance
    :param logical_date: of the run; None for a manual run
    """

    host_id: str
    run_id: str
    try_number: int
    logical_date: datetime | None = None

    def record(self, **values: Any) -> Observation:
        """An observation with these other fields of :class:`portmon.model.observation.Observation`."""
        return Observation(
            host_id=self.host_id,
            run_id=self.run_id,
            try_number=self.try_number,
            logical_date=self.logical_date,
            **values,
        )

    def success(self, answers: Sequence[Answer], *, observed_at: datetime, duration: float) -> Observation:
        """The observation of one or two answers.

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

    def failure(
        self, error: BaseException, *, observed_at: datetime, duration: float, provisional: bool = False
    ) -> Observation:
        """The observation of a visit that came to nothing.

        :param error: what ended it; anything but a ScanError is a fault of this program, told as ``internal``
        :param observed_at: when it was final
        :param provisional: a task of the host's own follows, whose word counts
        """
        known = isinstance(error, ScanError)
        return self.record(
            observed_at=observed_at,
            # Whether the host was reached: its answer was no good, or there was none.
            outcome=Outcome.UNREACHABLE if known and not isinstance(error, AnswerError) else Outcome.INVALID,
            error_class=error.error_class if isinstance(error, ScanError) else "internal",
            error=str(error) if known else plain(f"{type(error).__name__}: {error}", 500),
            duration=duration,
            provisional=provisional,
        )


# ── XComs ───────────────────────────────────────────────────────────────────────────────────────

_ALIKE = ("run_id", "try_number", "duration", "error_class", "error", "provisional")
"""Fields of an observation that JSON has as well."""


def to_xcom(observation: Observation) -> dict[str, Any]:
    """The observation of a dry run, JSON types only: it goes from task to task, and nowhere else."""
    return {
        "host_id": observation.host_id,
        "outcome": str(observation.outcome),
        "logical_date": observation.logical_date.isoformat() if observation.logical_date else None,
        "observed_at": observation.observed_at.isoformat(),
        "frames": [base64.b64encode(zlib.compress(frame)).decode("ascii") for frame in observation.frames],
        **{name: getattr(observation, name) for name in _ALIKE},
    }


def observation_from_xcom(value: Mapping[str, Any]) -> Observation:
    """The observation that a dry run's task returned."""
    from portmon.probe import read_archived

    logical_date = value["logical_date"]
    observed_at = datetime.fromisoformat(value["observed_at"])
    frames = [zlib.decompress(base64.b64decode(frame)) for frame in value["frames"]]
    answers = [Answer(frame, hashlib.sha256(frame).hexdigest(), read_archived(frame)) for frame in frames]
    recorder = Recorder(
        value["host_id"],
        value["run_id"],
        value["try_number"],
        datetime.fromisoformat(logical_date) if logical_date else None,
    )
    if answers:
        return recorder.success(answers, observed_at=observed_at, duration=value["duration"])
    rest = {name: value[name] for name in ("duration", "error_class", "error", "provisional")}
    return recorder.record(observed_at=observed_at, outcome=Outcome(value["outcome"]), **rest)


# ── for people ──────────────────────────────────────────────────────────────────────────────────


def table(listing: Listing) -> str:
    """The listening ports as lines for a log, IPv4 and IPv6 of one port together."""
    by_port: dict[int, list[Listener]] = defaultdict(list)
    for listener in listing.listeners:
        by_port[listener.port].append(listener)
    rows: list[tuple[str, ...]] = [("PORT", "ADDRESSES", "PROGRAM", "PID", "UNIT")]
    for port in sorted(by_port)[:TABLE_ROWS]:
        columns = (("address", 40), ("program", 30), ("pid", 20), ("unit", 40))
        cells = (_cell([getattr(listener, name) for listener in by_port[port]], limit) for name, limit in columns)
        rows.append((str(port), *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(by_port) > TABLE_ROWS:
        lines.append(f"… and {len(by_port) - TABLE_ROWS} more")
    return "\n".join(lines)


def _cell(values: Sequence[object], limit: int) -> str:
    texts = dict.fromkeys(str(value) for value in values if value is not None)
    return plain(", ".join(texts), limit) if texts else "-"
