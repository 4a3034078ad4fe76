"""The answers of one host: the ports that they lack, their merged listing, and the observation that is stored.

The DAG file imports this module at every parse, so the readers are imported where they are used.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from portmon.errors import AnswerError, ScanError
from portmon.model.numbers import is_udp, text_of
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.text import plain

TABLE_ROWS = 40
"""Ports of a host that its table in a log shows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer of a host: the frame as it is archived, and its SHA-256."""

    frame: bytes
    digest: str
    listing: Listing


@dataclass(frozen=True, slots=True)
class SettledAnswer:
    """The last answer of a host, if it is settled: the same answer again misses nothing and changes nothing.

    :param fingerprint: of the configuration that it was evaluated by
    :param frame: SHA-256 of the archived frame
    :param facts: digest of its listing
    """

    fingerprint: str
    frame: str
    facts: str


def missing(
    listing: Listing, expected: Collection[int], binds: Mapping[int, Collection[str]] | None = None
) -> list[int]:
    """The expected ports without a listener, or without one on an address that others could reach, in order. A listing
    that does not show UDP misses no port of it.

    :param expected: numbers of ports
    :param binds: number: the addresses on which it listened
    """
    from portmon.probe.compare import lost_binds

    seen: dict[int, set[str]] = defaultdict(set)
    for listener in listing.sockets:
        seen[listener.number].add(bind_of(listener))
    lost = {port for port, addresses in (binds or {}).items() if lost_binds(addresses, seen.get(port, ()))}
    found = lost.union(port for port in expected if port not in seen)
    return sorted(number for number in found if listing.udp is not None or not is_udp(number))


def bind_of(listener: Listener) -> str:
    """The address that a socket is bound to, with the interface where that is part of it."""
    return f"{listener.address}%{listener.zone}" if listener.zone else listener.address


def merge(answers: Sequence[Listing]) -> Listing:
    """The effective listing of several answers: every listener that any of them shows; UDP if all of them show it.

    :param answers: at least one, in the order they came
    """
    first = answers[0]
    shown = [answer.udp for answer in answers if answer.udp is not None]
    udp = _union(shown) if len(shown) == len(answers) else None
    return dataclasses.replace(first, listeners=_union(listing.listeners for listing in answers), udp=udp)


def _union(answers: Iterable[Sequence[Listener]]) -> tuple[Listener, ...]:
    listeners: list[Listener] = []
    for answer in answers:
        seen = set(map(_socket, listeners))
        listeners += [listener for listener in answer if _socket(listener) not in seen]
    return tuple(listeners)


_socket = attrgetter("protocol", "address", "port", "zone", "unit", "comm", "program")
"""What tells the listeners of a host apart: one that was started again between two answers is the same."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """Makes the observations of one task's visit to a host, with these fields.

    :param try_number: 1-based, of the task instance
    :param logical_date: of the run; None for a manual run
    """

    host_id: str
    run_id: str
    try_number: int
    logical_date: datetime | None = None

    def record(self, **values: Any) -> Observation:
        """An observation with these other fields."""
        return Observation(self.host_id, self.run_id, self.try_number, logical_date=self.logical_date, **values)

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
        """The observation of a visit without evidence.

        :param error: its cause; any but a ScanError is a fault of this program, of class ``internal``
        :param provisional: the observation of the host's own task, which follows, replaces it
        """
        known = isinstance(error, ScanError)
        return self.record(
            observed_at=observed_at,
            # Whether the host answered.
            outcome=Outcome.UNREACHABLE if known and not isinstance(error, AnswerError) else Outcome.INVALID,
            error_class=error.error_class if isinstance(error, ScanError) else "internal",
            error=str(error) if known else plain(f"{type(error).__name__}: {error}", 500),
            duration=duration,
            provisional=provisional,
        )


_PLAIN = ("host_id", "run_id", "try_number", "duration", "error_class", "error", "provisional")
"""Fields of an observation that are of JSON types."""


def to_xcom(observation: Observation) -> dict[str, Any]:
    """The observation of a dry run, which goes from task to task only, as JSON types."""
    return {
        "outcome": str(observation.outcome),
        "logical_date": observation.logical_date.isoformat() if observation.logical_date else None,
        "observed_at": observation.observed_at.isoformat(),
        "frames": [base64.b64encode(zlib.compress(frame)).decode("ascii") for frame in observation.frames],
        **{name: getattr(observation, name) for name in _PLAIN},
    }


def observation_from_xcom(value: Mapping[str, Any]) -> Observation:
    """The observation that a dry run's task returned."""
    from portmon.probe import read_archived

    logical_date = datetime.fromisoformat(value["logical_date"]) if value["logical_date"] else None
    observed_at = datetime.fromisoformat(value["observed_at"])
    frames = [zlib.decompress(base64.b64decode(frame)) for frame in value["frames"]]
    answers = [Answer(frame, hashlib.sha256(frame).hexdigest(), read_archived(frame)) for frame in frames]
    recorder = Recorder(value["host_id"], value["run_id"], value["try_number"], logical_date)
    if answers:
        return recorder.success(answers, observed_at=observed_at, duration=value["duration"])
    rest = {name: value[name] for name in ("duration", "error_class", "error", "provisional")}
    return recorder.record(observed_at=observed_at, outcome=Outcome(value["outcome"]), **rest)


def table(listing: Listing) -> str:
    """The ports as lines for a log, IPv4 and IPv6 of one port together."""
    by_port: dict[int, list[Listener]] = defaultdict(list)
    for listener in listing.sockets:
        by_port[listener.number].append(listener)
    rows: list[tuple[str, ...]] = [("PORT", "ADDRESSES", "PROGRAM", "PID", "UNIT")]
    for port in sorted(by_port)[:TABLE_ROWS]:
        columns = (("address", 40), ("program", 30), ("pid", 20), ("unit", 40))
        cells = (_cell([getattr(listener, name) for listener in by_port[port]], limit) for name, limit in columns)
        rows.append((text_of(port), *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(by_port) > TABLE_ROWS:
        lines.append(f"… and {len(by_port) - TABLE_ROWS} more")
    return "\n".join(lines)


def _cell(values: Sequence[object], limit: int) -> str:
    texts = dict.fromkeys(str(value) for value in values if value is not None)
    return plain(", ".join(texts), limit) if texts else "-"
