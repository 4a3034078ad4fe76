"""Leases of holders whose clock was wrong, that died, or that could not reach the database any more."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, text, update

from portmon.config import parse_config
from portmon.errors import StorageError
from portmon.model.event_kinds import AlertGroup
from portmon.storage import deliveries, lease, tables
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.eventful import small_fleet

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def row(database: Database, name: str = "state") -> Any:
    with database.begin() as conn:
        return conn.execute(select(tables.leases).where(tables.leases.c.name == name)).one()


def test_the_first_use_of_a_lease_says_nothing_of_a_wrong_clock(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert lease.acquire(database, "state", "first", ttl=MINUTE, now=NOW) is not None
    assert lease.acquire(database, "alert/a", "first", ttl=MINUTE, now=NOW) is not None
    assert caplog.messages == []


# ── clocks ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ahead", [MINUTE, DAY, 400 * DAY])
def test_a_lease_from_the_future_is_not_believed(
    database: Database, ahead: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    first = lease.acquire(database, "state", "first", ttl=MINUTE, now=NOW + ahead)
    second = lease.acquire(database, "state", "second", ttl=10 * MINUTE, now=NOW)
    assert first is not None
    assert second is not None
    assert second.token > first.token
    assert row(database).expires_at == NOW + 10 * MINUTE
    assert "'first'" in caplog.text
    assert "the clock that wrote it was wrong" in caplog.text


def test_a_lease_that_a_wrong_clock_made_longer_is_not_believed_either(database: Database) -> None:
    first = lease.acquire(database, "state", "first", ttl=MINUTE, now=NOW)
    assert first is not None
    with database.begin() as conn:
        first.renew(conn, ttl=2 * MINUTE, now=NOW + DAY)
    assert lease.acquire(database, "state", "second", ttl=MINUTE, now=NOW + MINUTE) is not None


def test_a_lease_of_before_that_says_no_length_is_believed_for_as_long_as_one_is(database: Database) -> None:
    lease.acquire(database, "state", "first", ttl=MINUTE, now=NOW)
    for expires_at, is_free in ((NOW + MINUTE, False), (NOW + DAY, True)):
        with database.begin() as conn:
            conn.execute(update(tables.leases).values(expires_at=expires_at, ttl=None, holder="first"))
        assert (lease.acquire(database, "state", "second", ttl=MINUTE, now=NOW) is not None) is is_free


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ttl", 1e18),
        ("ttl", -5),
        ("ttl", float("inf")),
        ("ttl", "x"),
        ("expires_at", "garbage"),
        ("expires_at", b"\xff"),
    ],
)
def test_a_lease_whose_row_is_damaged_is_not_believed(tmp_path: Path, column: str, value: object) -> None:
    database = migrated(tmp_path / "portmon.db")
    lease.acquire(database, "state", "first", ttl=10 * MINUTE, now=NOW + DAY)
    with database.begin() as conn:
        conn.execute(text(f"UPDATE leases SET {column} = :value"), {"value": value})
    assert lease.acquire(database, "state", "second", ttl=MINUTE, now=NOW) is not None
    assert lease.acquire(database, "state", "third", ttl=MINUTE, now=NOW) is None


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(seconds=5)])
def test_a_lease_that_is_longer_than_another_one_s_or_of_a_clock_that_is_a_little_ahead_is_believed(
    database: Database, ahead: timedelta
) -> None:
    assert lease.acquire(database, "state", "first", ttl=10 * MINUTE, now=NOW + ahead)
    assert lease.acquire(database, "state", "second", ttl=MINUTE, now=NOW) is None


# ── tries of one task ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("take_over", [False, True])
def test_a_later_try_takes_over_at_once_and_an_earlier_one_never(database: Database, take_over: bool) -> None:
    def acquire(number: int, holder: str = "alert_down r1") -> lease.Lease | None:
        return lease.acquire(database, "alert/a", holder, ttl=MINUTE, now=NOW, take_over=take_over, try_number=number)

    assert acquire(1)
    assert acquire(2)
    assert row(database, "alert/a").try_number == 2
    assert acquire(1) is None
    # Two copies of one try can't be told apart: only what is fenced by its transaction may be taken over.
    assert (acquire(2) is not None) is take_over
    # Another task, or another run, waits.
    assert acquire(3, "alert_new r1") is None
    assert acquire(3, "alert_down r2") is None


# ── a database that is away ─────────────────────────────────────────────────────────────────────


@contextmanager
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No transaction begins."""

    @contextmanager
    def refused(self: Database) -> Iterator[Connection]:
        raise StorageError("connection refused")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(Database, "begin", refused)
        yield


def test_a_lease_that_can_not_be_given_back_hides_no_error_and_holds_up_no_later_try(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        pytest.raises(ValueError, match="what really happened"),
        away_at_the_end(monkeypatch),
        lease.hold(database, "alert/a", "alert_down r1", ttl=10 * MINUTE, wait=MINUTE, try_number=1),
    ):
        raise ValueError("what really happened")
    assert "could not be given back (connection refused)" in caplog.text
    with lease.hold(database, "alert/a", "alert_down r1", ttl=MINUTE, wait=timedelta(0), try_number=2):
        pass
    assert row(database, "alert/a").holder is None


@contextmanager
def away_at_the_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database is away when a lease is given back."""

    def fails(self: lease.Lease) -> None:
        with away(monkeypatch), self.database.begin():
            pass

    with monkeypatch.context() as patched:
        patched.setattr(lease.Lease, "release", fails)
        yield


def test_alerts_of_a_try_that_lost_the_database_are_sent_by_the_next_one_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = "alerts: {channels: [{type: webhook, name: a, conn_id: a}]}"
    fleet = small_fleet(database)
    fleet.run()
    fleet.config = parse_config(channel)
    fleet.machines["web1"].kill(80)
    fleet.on_send = lambda channel, message: None
    run = fleet.deliver
    monkeypatch.setattr(fleet, "deliver", lambda group: 0)
    fleet.run()
    monkeypatch.setattr(fleet, "deliver", run)
    monkeypatch.setattr("portmon.steps.deliver.time.sleep", lambda _: None)
    # The first try: the database goes away with the message under way, and with it the lease can't be given back.
    away_now = away(monkeypatch)
    fleet.on_send = lambda channel, message: away_now.__enter__()
    with pytest.raises(StorageError, match="connection refused"):
        deliver(fleet, 1)
    away_now.__exit__(None, None, None)
    assert row(database, "alert/a").holder == "alert_down r"
    # The second one does not wait, and sends the same message.
    fleet.on_send = lambda channel, message: None
    assert deliver(fleet, 2) == 1
    assert len({got.message.id for got in fleet.got}) == 1
    with database.begin() as conn:
        assert deliveries.unfinished(conn, "a") == []


def deliver(fleet: Any, try_number: int) -> int:
    return int(fleet.deliver(AlertGroup.DOWN, holder="alert_down r", try_number=try_number, hold_until=fleet.now + DAY))


# ── what waits says for what ────────────────────────────────────────────────────────────────────


def test_what_waits_says_for_whom_and_until_when(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = lease.acquire(database, "state", "diff r1", ttl=MINUTE, now=datetime.now(UTC))
    assert first is not None
    until = row(database).expires_at

    def give_back_once_told() -> None:
        while "Waiting" not in caplog.text:
            pass
        first.release()

    thread = threading.Thread(target=give_back_once_told)
    thread.start()
    with lease.hold(database, "state", "prune r2", ttl=MINUTE, wait=MINUTE, poll=0.02):
        pass
    thread.join()
    told = [record.getMessage() for record in caplog.records if "Waiting" in record.getMessage()]
    assert told == [
        f"Waiting for the lease 'state', which 'diff r1' holds until {until:%Y-%m-%d %H:%M:%S} UTC unless it gives it back "
        "earlier"
    ]


# ── a process that is ended ─────────────────────────────────────────────────────────────────────

HOLDS = """
import signal, sys, time
from datetime import timedelta
from portmon.storage import lease
from portmon.storage.database import Database

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with lease.hold(Database(sys.argv[1]), "state", "diff r1", ttl=timedelta(hours=1), wait=timedelta(0)):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_process_that_is_asked_to_end_gives_its_lease_back(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "plugins")}
    with subprocess.Popen([sys.executable, "-c", HOLDS, url], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert lease.acquire(database, "state", "prune r2", ttl=MINUTE, now=datetime.now(UTC)) is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert lease.acquire(database, "state", "prune r2", ttl=MINUTE, now=datetime.now(UTC))
