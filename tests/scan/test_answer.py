"""One look without the login: what counts as missing, how answers merge, what is recorded."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from portmon import errors
from portmon.model.observation import Listener, Listing, Outcome
from portmon.scan import answer as scan

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECORDER = scan.Recorder("id-1", "run-1", 2, datetime(2026, 1, 2, tzinfo=UTC))


def listener(port: int, address: str = "0.0.0.0", **fields: object) -> Listener:
    return dataclasses.replace(Listener("tcp6" if ":" in address else "tcp", address, port), **fields)  # type: ignore[arg-type]


def listing(*listeners: Listener) -> Listing:
    return Listing(tool="ss", uid=0, boot_id="b", listeners=listeners)


def test_missing_counts_ports_whatever_their_address() -> None:
    seen = listing(listener(22), listener(80, "::1"), listener(80, "127.0.0.1"))
    assert scan.missing(seen, [443, 80, 22, 25, 25]) == [25, 443]
    assert scan.missing(seen, []) == []


def test_merge_is_the_union_of_sockets_and_keeps_the_first() -> None:
    first = listing(listener(22, pid=1), listener(80, pid=2))
    second = listing(listener(80, pid=3), listener(80, "::", pid=4), listener(443, pid=5), listener(443, pid=6))
    merged = scan.merge([first, second])
    assert [(one.port, one.address, one.pid) for one in merged.listeners] == [
        (22, "0.0.0.0", 1),
        (80, "0.0.0.0", 2),
        (80, "::", 4),
        (443, "0.0.0.0", 5),
        (443, "0.0.0.0", 6),
    ]
    assert merged.boot_id == "b"
    assert scan.merge([first]) == first


SCAN_ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.ScanError) and value is not errors.ScanError
]


@pytest.mark.parametrize("kind", SCAN_ERRORS)
def test_failure_says_what_and_is_no_evidence(kind: type[errors.ScanError]) -> None:
    observation = RECORDER.failure(kind("is so", host="web01"), observed_at=NOW, duration=1.5)
    assert observation.outcome is (Outcome.INVALID if kind is errors.AnswerError else Outcome.UNREACHABLE)
    assert (observation.error_class, observation.error) == (kind.error_class, "web01: is so")
    assert (observation.listing, observation.frames, observation.observed_at) == (None, (), NOW)
    assert (observation.host_id, observation.run_id, observation.try_number) == ("id-1", "run-1", 2)


def test_error_classes_are_told_apart() -> None:
    names = [kind.error_class for kind in SCAN_ERRORS]
    assert len(set(names)) == len(names)
    assert "internal" not in names


def test_no_second_try_where_it_could_lock_an_account() -> None:
    final = {kind for kind in SCAN_ERRORS if not kind.retry}
    assert {errors.AuthenticationError, errors.HostKeyError, errors.HostKeyChangedError} <= final
    assert not {errors.RefusedError, errors.ScanTimeoutError, errors.ConnectionLostError, errors.AnswerError} & final


def test_fault_of_this_program() -> None:
    observation = RECORDER.failure(KeyError("x\n"), observed_at=NOW, duration=0)
    assert (observation.outcome, observation.error_class) == (Outcome.INVALID, "internal")
    assert observation.error == r"KeyError: 'x\n'"


def test_table_folds_addresses_and_sorts_by_number() -> None:
    lines = scan.table(
        listing(
            listener(8080, pid=7, program="java", unit="app.service"),
            listener(80, "::", pid=3, program="nginx: master"),
            listener(80, "10.0.0.1", pid=3, program="nginx: master"),
            listener(22),
        )
    ).split("\n")
    assert lines == [
        "PORT  ADDRESSES     PROGRAM        PID  UNIT",
        "22    0.0.0.0       -              -    -",
        "80    ::, 10.0.0.1  nginx: master  3    -",
        "8080  0.0.0.0       java           7    app.service",
    ]


def test_table_is_safe_and_bounded() -> None:
    hostile = "a\nb\x1b[2J\u202e{{ x }}\udcff" + "y" * 4000
    text = scan.table(listing(*(listener(port, program=hostile, unit=hostile) for port in range(1, 100))))
    lines = text.split("\n")
    assert len(lines) == 1 + scan.TABLE_ROWS + 1
    assert lines[-1] == "… and 59 more"
    assert all(line.isprintable() for line in lines)
    assert len(text) < 5000


def test_table_of_nothing() -> None:
    assert scan.table(listing()) == "PORT  ADDRESSES  PROGRAM  PID  UNIT"
