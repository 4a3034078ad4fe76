"""A fault of one host, answer or row stops no other host, and the data that a host can add is bounded."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError

from portmon.config import Config
from portmon.engine import transitions
from portmon.engine.ports import HostPorts
from portmon.errors import StorageError
from portmon.model import limits
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host
from portmon.model.observation import Listener, Observation
from portmon.probe import compare
from portmon.replay.archive import evaluate_again
from portmon.steps import evaluate, housekeeping
from portmon.steps.run import Run
from portmon.storage import archive, contents, events, tables
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.eventful import LONG_AGO, derived, lived, small_fleet, state_of
from tests.worlds.fleet import FIVE, MONDAY, Fleet, Machine

HOSTILE = "id-evil"


class Evil(Machine):
    """A host whose listings ``change`` falsifies."""

    change: Callable[[Observation], Observation] = staticmethod(lambda look: look)

    def look(self, run_id: str, at: datetime) -> Observation:
        return self.change(super().look(run_id, at))


def with_evil(fleet: Fleet) -> Evil:
    """Add a hostile host to a fleet."""
    evil = Evil(Host(HOSTILE, "evil", "evil.example.com", None, {"env": "prod"}))
    evil.start(80, "nginx")
    fleet.machines["evil"] = evil
    fleet.listed.add("evil")
    return evil


def seen_as(**fields: Any) -> Callable[[Observation], Observation]:
    """Replace fields of an observation's listing."""

    def change(look: Observation) -> Observation:
        assert look.listing is not None
        return dataclasses.replace(look, listing=dataclasses.replace(look.listing, **fields))

    return change


def listeners(*rows: dict[str, Any]) -> tuple[Listener, ...]:
    return tuple(Listener(**{"protocol": "tcp", "address": "0.0.0.0", "port": 80} | row) for row in rows)


def host_row(database: Database, host_id: str = HOSTILE) -> Any:
    with database.begin() as conn:
        return conn.execute(select(tables.hosts).where(tables.hosts.c.host_id == host_id)).one()


def kinds(events: list[Event], host: str | None = None) -> list[tuple[str, int | None]]:
    return [(event.kind.value, event.port) for event in events if host in (None, event.host_name)]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def replays_alike(fleet: Fleet, scratch: Database) -> None:
    """A replay of the whole history gives the same state and events."""
    wanted = lived(fleet)
    with fleet.database.begin() as source:
        evaluate_again(source, scratch, fleet.config, since=LONG_AGO, until=fleet.now)
    with scratch.begin() as conn:
        assert (state_of(conn), derived(conn)) == wanted


# ── looks that can't be evaluated ──────────────────────────────────────────────────────────────────

UNREADABLE: dict[str, dict[str, Any]] = {
    "a namespace beyond what a database stores": {"netns": 2**63},
    "a negative one": {"netns": -1},
    "a range beyond it": {"ephemeral": (0, 2**40)},
    "a range of text": {"ephemeral": ("a", "b")},
    "a range of three": {"ephemeral": (1, 2, 3)},
    "a port that there is not": {"listeners": listeners({"port": 70_000})},
    "a port of text": {"listeners": listeners({"port": "80"})},
    "an address that is a number": {"listeners": listeners({"address": 5})},
    "owners of two kinds": {"listeners": listeners({"pid": 1}, {"pid": "x", "address": "::"})},
    "a program that is a number": {"listeners": listeners({"program": 7})},
    "a boot id without an end": {"boot_id": "x" * 100_000},
    "more sockets than there are ports": {
        "listeners": tuple(Listener("tcp", "0.0.0.0", 80, pid=1) for _ in range(limits.ROWS + 1))
    },
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_can_not_be_evaluated_is_no_evidence_of_its_host_and_the_others_are_told(
    database: Database, scratch: Database, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = small_fleet(database)
    evil = with_evil(fleet)
    fleet.run()
    fleet.machines["web1"].kill(80)
    evil.change = seen_as(**UNREADABLE[what])
    caplog.clear()
    events = fleet.run()
    assert kinds(events) == [("down", 80)]
    assert len([line for line in warnings(caplog) if "could not be evaluated" in line]) == 1
    row = host_row(database)
    assert (row.failures, row.error_class, row.last_evaluated_at) == (1, "evaluation", fleet.now - FIVE)
    assert "could not be evaluated" in row.error
    # It is evaluated once: not again in the next run, and with the same result in a replay.
    with database.begin() as conn:
        assert archive.observations_to_evaluate(conn, host_ids=[HOSTILE]) == []
    evil.change = lambda look: look
    evil.kill(80)
    assert kinds(fleet.run(), "evil") == [("down", 80)]
    assert host_row(database).failures == 0
    replays_alike(fleet, scratch)


@pytest.mark.parametrize("hosts", [1, 3])
def test_a_fault_of_this_program_concerns_the_hosts_that_meet_it(
    database: Database,
    scratch: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hosts: int,
) -> None:
    fleet = small_fleet(database)
    names = [f"bad{number}" for number in range(hosts)]
    for name in names:
        fleet.add(name, {80: "nginx"})
    fleet.run()
    again = transitions.again

    def fails(port: Any, *arguments: Any, **named: Any) -> Any:
        if port.host_id.startswith("id-bad"):
            raise KeyError(port.host_id)
        return again(port, *arguments, **named)

    monkeypatch.setattr(transitions, "again", fails)
    for machine in fleet.machines.values():
        machine.restart(80 if 80 in machine.services else 5432)
    fleet.machines["web2"].kill(443)
    events = fleet.run()
    assert ("down", 443) in kinds(events, "web2")
    assert {event.host_name for event in events if event.kind is EventKind.RESTARTED} == {
        *(f"web{number}" for number in range(4)),
        "db",
    }
    assert [host_row(database, f"id-{name}").failures for name in names] == [1] * hosts
    told = [line for line in warnings(caplog) if "could not be evaluated" in line]
    assert len(told) == hosts
    assert all(f"KeyError: 'id-{name}'" in line for name, line in zip(names, sorted(told), strict=True))
    # After the repair, a refused observation stays refused.
    monkeypatch.setattr(transitions, "again", again)
    fleet.run()
    replays_alike(fleet, scratch)


def test_a_fault_that_every_host_meets_is_no_host_s_and_nothing_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(database, Config())
    for number in range(12):
        fleet.add(f"web{number}", {80: "nginx"})
    fleet.run()
    for machine in fleet.machines.values():
        machine.restart(80)
    before = lived(fleet)

    def fails(*_: Any, **__: Any) -> Any:
        raise KeyError("a fault")

    with monkeypatch.context() as patched:
        patched.setattr(transitions, "again", fails)
        with pytest.raises(KeyError, match="a fault"):
            fleet.run()
    assert lived(fleet) == before
    fleet.number += 1
    assert Counter(kind for kind, _ in kinds(fleet.run())) == {"restarted": 12}


@pytest.mark.parametrize(
    "error", [MemoryError(), OperationalError("SELECT", {}, Exception("gone")), KeyboardInterrupt()]
)
def test_what_no_host_is_to_blame_for_ends_the_evaluation(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fleet = small_fleet(database)
    fleet.run()
    fleet.machines["web1"].restart(80)

    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(transitions, "again", fails)
    with pytest.raises((MemoryError, StorageError, KeyboardInterrupt)) as raised:
        fleet.run()
    assert error in (raised.value, raised.value.__cause__)
    assert host_row(database, "id-web1").error is None


def test_what_the_database_does_not_take_is_found_by_halves(
    database: Database, scratch: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that passes the checks is refused by the database, in the statement that writes all hosts."""
    monkeypatch.setattr(archive, "_checked", lambda listing: listing)
    fleet = small_fleet(database)
    evil = with_evil(fleet)
    fleet.run()
    evil.change = seen_as(netns=2**63)
    fleet.machines["web1"].kill(80)
    fleet.machines["db"].kill(5432)
    assert kinds(fleet.run()) == [("down", 5432), ("down", 80)]
    assert host_row(database).error_class == "evaluation"
    assert host_row(database).netns == 1
    replays_alike(fleet, scratch)


def test_a_dry_run_has_the_same_walls(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = small_fleet(database)
    evil = with_evil(fleet)
    fleet.run()
    fleet.machines["web1"].kill(80)
    evil.change = seen_as(listeners=listeners({"pid": 1}, {"pid": "x", "address": "::"}))
    looks = [machine.look("dry", fleet.now) for machine in fleet.machines.values()]
    with database.begin() as conn:
        digest = conn.execute(select(tables.inventories.c.digest)).scalar_one()
    found = evaluate.evaluate_dry(
        database, fleet.config, Run("dry", dry_run=True), digest, observations=looks, interval=FIVE
    )
    assert (found["down"], found["evaluated"]) == (1, 6)


# ── the archive ─────────────────────────────────────────────────────────────────────────────────


def facts_of(database: Database, host_id: str) -> str:
    """Digest of the last listing."""
    query = select(tables.observations.c.facts).where(tables.observations.c.host_id == host_id)
    with database.begin() as conn:
        found: str = conn.execute(query.order_by(tables.observations.c.observed_at.desc())).scalars().first()
    return found


def flip(database: Database, digest: str) -> None:
    """Change one bit of the stored contents."""
    with database.begin() as conn:
        data = bytearray(
            conn.execute(select(tables.contents.c.data).where(tables.contents.c.digest == digest)).scalar()
        )
        data[len(data) // 2] ^= 1
        conn.execute(update(tables.contents).where(tables.contents.c.digest == digest).values(data=bytes(data)))


@pytest.mark.parametrize("how", ["damaged", "gone", "nonsense", "nested"])
def test_one_damaged_row_is_one_host_without_evidence(
    database: Database, scratch: Database, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = small_fleet(database)
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.machines["db"].kill(5432)
    fleet.run(evaluate=False)
    digest = facts_of(database, "id-web1")
    if how == "damaged":
        flip(database, digest)
    else:
        said = b"[" * 100_000 if how == "nested" else json.dumps({"tool": "ss"}).encode()
        with database.begin() as conn:
            conn.execute(
                update(tables.observations)
                .where(tables.observations.c.facts == digest)
                .values(facts="0" * 64 if how == "gone" else contents.put(conn, said, now=fleet.now))
            )
    fleet.number -= 1
    # The run is evaluated with its observations.
    with database.begin() as conn:
        inventory = conn.execute(select(tables.inventories.c.digest)).scalar_one()
    evaluate.evaluate_run(database, fleet.config, Run("run00001"), inventory, planned={}, interval=FIVE, now=fleet.now)
    fleet.number += 1
    with database.begin() as conn:
        assert kinds(events.recent(conn, run_id="run00001")) == [("down", 5432)]
        assert list(contents.damaged(conn)) == ([digest] if how == "damaged" else [])
    assert len([line for line in warnings(caplog) if "could not be evaluated" in line]) == 1
    assert "can't be read" in host_row(database, "id-web1").error
    # The same answer again is stored anew, and the death is told.
    assert kinds(fleet.run()) == [("down", 80)]
    with database.begin() as conn:
        assert list(contents.damaged(conn)) == []
    replays_alike(fleet, scratch)


def after_damage(fleet: Fleet, table: str, column: str, value: object, where: str) -> list[tuple[str, int | None]]:
    """What a run tells after web1 and db lost a service, and a value of the row of web1 was changed since."""
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.machines["db"].kill(5432)
    fleet.run(evaluate=False)
    if isinstance(value, datetime) and fleet.database.is_sqlite:
        value = value.replace(tzinfo=None).isoformat(" ")
    with fleet.database.begin() as conn:
        # As a damaged file does, which knows nothing of types.
        change = conn.execute(text(f"UPDATE {table} SET {column} = :value WHERE {where}"), {"value": value})
        assert change.rowcount == 1
        inventory = conn.execute(select(tables.inventories.c.digest)).scalar_one()
    run, now = Run("run00001"), fleet.now
    evaluate.evaluate_run(fleet.database, fleet.config, run, inventory, planned={}, interval=FIVE, now=now)
    with fleet.database.begin() as conn:
        return kinds(events.recent(conn, run_id="run00001"))


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Database]:
    """Of SQLite, which takes values of any type."""
    made = migrated(tmp_path / "on-disk.db")
    yield made
    made.dispose()


NEWEST = "host_id = 'id-web1' AND observed_at = (SELECT max(observed_at) FROM observations)"
LATER = "9999-12-31 00:00:00"
DAMAGE = [
    *[("observed_at", value) for value in ("garbage", "9999-99-99", b"\xff", LATER, "2026-03-05 00:00:00.000000")],
    *[("logical_date", value) for value in ("garbage", b"\xff", 5)],
    *[("try_number", value) for value in ("x", b"\xff", -1, 2**62)],
    *[("outcome", value) for value in ("", "OK", "oj", b"ok", 5)],
    *[("duration", value) for value in ("x", b"\xff", float("inf"), -1e300)],
    *[(name, value) for name in ("facts", "run_id", "error_class", "error") for value in (b"\xff\xfe", 5, "\0" * 100)],
]


def one_row_is_damaged(
    database: Database, scratch: Database, column: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are told, its host with the next look, and a replay comes to the same."""
    fleet = small_fleet(database)
    told = after_damage(fleet, "observations", column, value, NEWEST)
    assert ("down", 5432) in told
    later = kinds(fleet.run()) + kinds(fleet.run())
    assert (told + later).count(("down", 80)) == 1
    said = [line for line in warnings(caplog) if "evidence" in line]
    # What a text says, or in which run a look was made, can't be wrong in itself.
    assert len(said) == (("down", 80) not in told)
    fleet.machines["web1"].start(80, "nginx")
    assert ("recovered", 80) in kinds(fleet.run())
    replays_alike(fleet, scratch)


@pytest.mark.parametrize(
    ("column", "value"),
    # The others differ in the value only.
    [
        pytest.param(*one, id=f"{one[0]}-{number}", marks=[] if number % 4 == 0 else pytest.mark.full)
        for number, one in enumerate(DAMAGE)
    ],
)
def test_whatever_a_row_of_the_archive_holds_the_others_are_told(
    on_disk: Database, scratch: Database, column: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    one_row_is_damaged(on_disk, scratch, column, value, caplog)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("outcome", "oj"),
        ("duration", float("inf")),
        ("try_number", -1),
        ("observed_at", datetime(9999, 12, 31, 1, tzinfo=UTC)),
    ],
    ids=repr,
)
def test_a_row_of_the_right_types_may_be_damaged_too(
    database: Database, scratch: Database, column: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    one_row_is_damaged(database, scratch, column, value, caplog)


@pytest.mark.parametrize(
    ("column", "value"),
    [("data", "text"), ("data", b""), ("data", 5), ("used_at", "garbage"), ("used_at", b"\xff"), ("size", "x")],
    ids=repr,
)
def test_whatever_a_stored_content_holds_the_others_are_told(on_disk: Database, column: str, value: object) -> None:
    fleet = small_fleet(on_disk)
    digest = f"digest = (SELECT facts FROM observations WHERE {NEWEST})"
    told = after_damage(fleet, "contents", column, value, digest)
    assert ("down", 5432) in told
    assert (told + kinds(fleet.run())).count(("down", 80)) == 1
    housekeeping.expire(fleet.database, fleet.config.retention, fleet.now)


def test_times_ahead_of_a_clock_that_is_behind_are_no_damage(database: Database) -> None:
    fleet = Fleet(database, Config())
    for number in range(12):
        fleet.add(f"web{number}", {80: "nginx"})
    fleet.run()
    fleet.run(evaluate=False)
    with database.begin() as conn:
        found = archive.observations_to_evaluate(conn, now=fleet.now - timedelta(days=3))
        assert len(found) == len(archive.observations_to_evaluate(conn)) == 12


def test_an_archive_that_lost_everything_holds_up_one_run(database: Database) -> None:
    fleet = Fleet(database, Config())
    for number in range(12):
        fleet.add(f"web{number}", {80: "nginx"})
    fleet.run()
    fleet.machines["web1"].kill(80)
    for machine in fleet.machines.values():
        machine.start(443, "nginx")
    fleet.run(evaluate=False)
    with database.begin() as conn:
        conn.execute(update(tables.contents).values(data=b"lost"))
    # The observations of this run have the same contents, which no run tried to read yet. They are invalid, which is
    # no sign of the monitor's network.
    assert Counter(kind for kind, _ in kinds(fleet.run())) == {"unreachable": 12}
    told = Counter(kind for kind, _ in kinds(fleet.run()))
    assert told == {"reachable": 12, "new": 12, "down": 1}


def test_a_damaged_host_list_is_stored_anew_by_the_next_run(database: Database) -> None:
    fleet = small_fleet(database)
    fleet.run()
    with database.begin() as conn:
        digest = conn.execute(select(tables.inventories.c.digest)).scalar_one()
    flip(database, digest)
    fleet.machines["web1"].kill(80)
    assert kinds(fleet.run()) == [("down", 80)]
    with database.begin() as conn:
        assert list(contents.damaged(conn)) == []


# ── retention ───────────────────────────────────────────────────────────────────────────────────


def test_what_fails_while_old_rows_are_deleted_undoes_no_verdict_and_keeps_nothing_else_from_its_work(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = small_fleet(database, retention={"observations": "10min", "events": "10min"})
    for _ in range(3):
        fleet.run()
    fleet.machines["web1"].kill(80)

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no room")

    monkeypatch.setattr(housekeeping.archive, "expire", fails)
    fleet.number += 3
    assert kinds(fleet.run()) == [("down", 80)]
    assert [line for line in warnings(caplog) if "Old observations could not be deleted" in line]
    with database.begin() as conn:
        assert kinds(events.recent(conn)) == [("down", 80)], "the baselines are gone"


def test_old_rows_are_deleted_some_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "MOST", 5)
    monkeypatch.setattr(housekeeping, "TIMES", 2)
    fleet = small_fleet(database, retention={"observations": "1h"})
    for _ in range(6):
        fleet.run()

    def looks() -> int:
        with database.begin() as conn:
            return int(conn.execute(select(func.count()).select_from(tables.observations)).scalar_one())

    assert looks() == 30
    fleet.number += 100
    left = []
    for _ in range(3):
        before = looks()
        fleet.run()
        left.append(before + 5 - looks())
    assert left == [15, 15, 0]


# ── what one host can add ───────────────────────────────────────────────────────────────────────


def noise(bytes_: int) -> str:
    """Text that compression makes at most half as long."""
    return os.urandom(bytes_ // 2).hex()


def wordy(number: int) -> Callable[[Observation], Observation]:
    """An answer that always differs, in part in its listing."""

    def change(look: Observation) -> Observation:
        rows = listeners(*({"port": port, "program": noise(200)} for port in range(1, number)))
        frame = noise(24_000).encode()
        return dataclasses.replace(seen_as(listeners=rows)(look), frames=(frame,), digests=(contents.digest_of(frame),))

    return change


def stored_bytes(database: Database) -> int:
    with database.begin() as conn:
        return int(conn.execute(select(func.sum(func.length(tables.contents.c.data)))).scalar_one())


def look_rows(database: Database) -> list[Any]:
    with database.begin() as conn:
        query = select(tables.observations).where(tables.observations.c.host_id == HOSTILE)
        return list(conn.execute(query.order_by(tables.observations.c.observed_at)))


def test_what_a_host_may_add_in_a_day_is_bounded_and_said(
    database: Database, scratch: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_observations = archive.save_observations

    def saved(conn: Any, looks: list[Observation]) -> Any:
        return save_observations(conn, looks, per_host=fleet.config.retention.per_host)

    monkeypatch.setattr(archive, "save_observations", saved)
    fleet = small_fleet(database, retention={"per_host": "64KiB"})
    fleet.start = MONDAY + timedelta(hours=20)
    evil = with_evil(fleet)
    fleet.run()
    evil.change = wordy(60)
    sizes = []
    for _ in range(30):
        fleet.run()
        sizes.append(stored_bytes(database))
    rows = look_rows(database)[1:]
    classes = [row.error_class for row in rows]
    counts = Counter(classes)
    assert set(classes) == {None, "raw_left_out", "too_much"}
    assert classes == sorted(classes, key=[None, "raw_left_out", "too_much"].index)
    assert all(row.frame and row.facts for row in rows[: counts[None]])
    raw = rows[counts[None] : -counts["too_much"]]
    assert all(row.outcome == "ok" and row.facts and not row.frame for row in raw)
    assert "retention.per_host" in raw[0].error
    late = rows[-counts["too_much"] :]
    assert all((row.outcome, row.facts, row.frame) == ("invalid", None, None) for row in late)
    # Other hosts and checkpoints add only kilobytes.
    assert sizes[-1] - sizes[-5] < 8_000
    assert sizes[-1] < archive.FACTS_TIMES * 64 * 1024 + 48 * 1024
    assert [line for line in warnings(caplog) if line.startswith(HOSTILE)]
    # The other hosts are not affected.
    fleet.machines["web1"].kill(80)
    assert ("down", 80) in kinds(fleet.run(), "web1")
    # The limit counts anew on the next day.
    fleet.number = 12 * 5
    fleet.run()
    assert look_rows(database)[-1].frame
    replays_alike(fleet, scratch)


def test_two_answers_that_are_alike_count_once(database: Database) -> None:
    frame = noise(24_000).encode()
    look = Machine(Host(HOSTILE, HOSTILE, "192.0.2.1"), {80: ("nginx", 100)}).look("run", MONDAY)
    look = dataclasses.replace(look, frames=(frame, frame), digests=(contents.digest_of(frame),) * 2)
    with database.begin() as conn:
        archive.save_observation(conn, look, per_host=1024)
        # Only the listings are stored, without the raw answers.
        assert 0 < conn.execute(select(tables.stored.c.bytes)).scalar_one() < 1024
    (kept,) = look_rows(database)
    assert (kept.error_class, kept.frame, kept.second_frame) == ("raw_left_out", None, None)
    assert kept.facts


def rename(evil: Evil, number: int, run: int) -> None:
    evil.services = {port: (f"program-{run}-{port}"[:15], run) for port in range(1000, 1000 + number)}


def test_one_host_whose_programs_have_new_names_in_each_run_adds_little_and_is_told_once(database: Database) -> None:
    fleet = small_fleet(database)
    evil = with_evil(fleet)
    fleet.run()
    made = []
    for number in range(8):
        rename(evil, 400, number)
        made.append(Counter(kind for kind, _ in kinds(fleet.run(), "evil")))
    assert made[0] == {"new": 200, "many_changes": 1, "down": 1}
    assert made[1] == made[2] == made[3] == {"replaced": 200, "many_changes": 1}
    # From the fourth change on each of them flaps, and nothing more is told of it.
    assert made[4:] == [{"flapping": 400}, *[Counter()] * 3]
    with database.begin() as conn:
        (told,) = [one for one in events.recent(conn, run_id="run00002") if one.kind is EventKind.MANY_CHANGES]
    assert told.details["counts"] == {"replaced": 200}
    assert "replaced 200; ports 1200 to 1399" in told.reason
    assert (told.port, told.alert_key) == (None, f"changes/{HOSTILE}")
    # Each port that is still is an event of its own, however many there are.
    evil.services = {port: owner for port, owner in evil.services.items() if port < 1100}
    still = [Counter(kind for kind, _ in kinds(fleet.run(), "evil")) for _ in range(13)]
    assert list(filter(None, still)) == [{"stable": 400, "replaced": 100}]


# ── a brake on notices ──────────────────────────────────────────────────────────────────────────


def test_a_port_whose_program_changes_in_each_run_is_told_a_few_times_and_its_death_always(
    database: Database, scratch: Database
) -> None:
    fleet = small_fleet(database)
    machine = fleet.machines["web1"]
    fleet.run()
    told: list[list[tuple[str, int | None]]] = []
    for number in range(10):
        machine.start(80, f"program{number}")
        told.append(kinds(fleet.run()))
    assert told == [[("replaced", 80)]] * 3 + [[("flapping", 80)]] + [[]] * 6
    with database.begin() as conn:
        (flapping,) = [event for event in events.recent(conn) if event.kind is EventKind.FLAPPING]
    assert flapping.reason.startswith("program3 (program3.service) has it now, and no longer program2 (")
    assert "; 4 changes of its owner or its presence within 60 min: " in flapping.reason
    machine.kill(80)
    assert kinds(fleet.run()) == []
    machine.start(80, "program9")
    assert kinds(fleet.run()) == []
    # After a window without a change the port is stable: that of another owner than the one that was told last.
    still = list(filter(None, (kinds(fleet.run()) for _ in range(13))))
    assert still == [[("stable", 80), ("replaced", 80)]]
    machine.start(80, "program3")
    assert kinds(fleet.run()) == [("recovered", 80)]
    replays_alike(fleet, scratch)


# ── many names, owners and binds ────────────────────────────────────────────────────────────────

LONG = ("prometheus-node-exporter", "prometheus-node-\udc80xporter", "é" * 12)
CUT = st.builds(lambda name, length: name[:length], st.sampled_from(LONG), st.integers(8, 24))
NAMES = st.one_of(CUT, CUT, st.text(alphabet="ab: \udc80é", max_size=20))


def naive_share(before: list[str], now: list[str], pids: list[int]) -> bool:
    return any(compare.same_program(one, other, pids=pids) for one in before for other in now)


@given(
    st.lists(NAMES, max_size=5), st.lists(NAMES, max_size=5), st.lists(st.sampled_from((1, 99_999, 2**32)), max_size=2)
)
def test_many_names_are_compared_as_pairs_would_be(before: list[str], now: list[str], pids: list[int]) -> None:
    assert compare.share_program(before, now, pids=pids) == naive_share(before, now, pids)


def test_names_are_read_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time grows with the number of names, not with that of their pairs."""
    read = Counter[str]()

    def counted(name: str) -> bytes:
        read[name] += 1
        return limits.bytes_of(name)

    monkeypatch.setattr(compare, "bytes_of", counted)
    before, now = [f"p{number}" for number in range(8000)], [f"q{number}" for number in range(8000)]
    assert not compare.share_program(before, now, pids=(1,))
    assert sum(read.values()) <= 5 * 8000


def test_few_of_many_keeps_what_is_known() -> None:
    assert limits.few_of([3, 1, 1, 2]) == ((1, 2, 3), 0)
    assert limits.few_of(range(100), most=3) == ((0, 1, 2), 97)
    assert limits.few_of(range(100), [99, 50, 200], most=3) == ((0, 50, 99), 97)
    assert limits.few_of(range(100), range(50, 60), most=3) == (tuple(range(50, 60)), 90)


@pytest.mark.parametrize(
    ("name", "cut"), [("a" * 300, "a" * 256), ("é" * 200, "é" * 128), ("a" * 255 + "é", "a" * 255 + "\udcc3")]
)
def test_a_name_is_cut_in_bytes(name: str, cut: str) -> None:
    assert limits.name_within(name) == cut
    assert limits.name_within(cut) == cut
    assert limits.name_within(name[:60]) == name[:60]
    assert len(limits.name_within("\ud800" * 300)) <= 256


def busy(owners: int, binds: int = 1) -> Callable[[Observation], Observation]:
    rows = [{"pid": 1000 + number, "program": f"worker{number:04}"} for number in range(owners)]
    rows += [{"pid": 1000, "program": "worker0000", "address": f"10.0.0.{number + 1}"} for number in range(binds)]
    return seen_as(listeners=listeners(*rows))


@pytest.mark.parametrize("tool", ["ss", "netstat-W"])
def test_a_port_with_very_many_owners_is_quiet_while_they_come_and_go(database: Database, tool: str) -> None:
    fleet = small_fleet(database)
    evil = with_evil(fleet)
    evil.change = busy(300, 100)
    fleet.run()
    with database.begin() as conn:
        row = conn.execute(select(tables.ports).where(tables.ports.c.host_id == HOSTILE)).one()
    assert (len(row.programs), len(row.pids), len(row.addresses)) == (64, 64, 64)

    def without(*gone: int, fresh: int = 0) -> Callable[[Observation], Observation]:
        rows = [
            {"pid": 1000 + number, "program": f"worker{number:04}"} for number in range(300) if number not in gone
        ] + [{"pid": number, "program": f"a{number:04}", "address": f"10.0.{number}.0"} for number in range(fresh)]
        rows += [{"pid": 1001, "program": "worker0001", "address": f"10.0.0.{number + 1}"} for number in range(100)]
        return seen_as(listeners=listeners(*rows), tool="netstat-W")

    for change in (without(0), without(0, 1, 2, fresh=50), without(299), without(*range(3, 60), fresh=64)):
        evil.change = change
        assert kinds(fleet.run()) == []
    # All addresses differ: the event says that some are left out.
    rows = ({"pid": 5000 + n, "program": "worker0001", "address": f"10.9.0.{n}"} for n in range(200))
    evil.change = seen_as(listeners=listeners(*rows))
    (event,) = [event for event in fleet.run() if event.kind is EventKind.REBOUND]
    assert "136 more are not" in event.reason


def test_what_an_earlier_version_knew_of_a_port_is_not_lost_by_the_bound(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = small_fleet(database)
    evil = with_evil(fleet)
    evil.change = busy(100, 100)
    with monkeypatch.context() as patched:
        patched.setattr(limits, "few_of", lambda found, known=(): (tuple(sorted(set(found))), 0))
        fleet.run()
    evil.change = busy(101, 101)
    assert kinds(fleet.run()) == []
    evil.change = busy(101, 3)
    assert kinds(fleet.run()) == [("rebound", 80)]
    with database.begin() as conn:
        row = conn.execute(select(tables.ports).where(tables.ports.c.host_id == HOSTILE)).one()
    assert (len(row.programs), len(row.addresses)) == (100, 4)


def test_lost_binds_are_told_and_do_not_pile_up(database: Database) -> None:
    fleet = small_fleet(database)
    evil = with_evil(fleet)
    for number in range(4):
        rows = [{"address": f"10.{number}.{n}.1"} for n in range(100)]
        evil.change = seen_as(listeners=listeners(*rows))
        fleet.run()
    with database.begin() as conn:
        row = conn.execute(select(tables.ports).where(tables.ports.c.host_id == HOSTILE)).one()
        told = [event for event in events.recent(conn) if event.kind is EventKind.REBOUND]
    assert (len(row.addresses), len(row.lost)) == (64, 64)
    assert [event.severity for event in told] == ["critical", "warning", "warning"]


def test_very_many_ports_that_die_at_once_are_counted_through_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(database, Config())
    evil = with_evil(fleet)
    ports = range(1, 951)
    evil.change = seen_as(listeners=listeners(*({"port": port, "pid": port} for port in ports)))
    fleet.run()
    evil.change = seen_as(listeners=listeners({"port": 1, "pid": 1}))
    counted = []
    count_most = HostPorts._count_most
    monkeypatch.setattr(HostPorts, "_count_most", lambda self: (counted.append(1), count_most(self)))
    assert Counter(kind for kind, _ in kinds(fleet.run())) == {"down": 949}
    assert len(counted) == 1


def test_very_many_ports_that_move_are_paired_by_name(database: Database) -> None:
    fleet = small_fleet(database, states={"ephemeral_after": 1})
    evil = with_evil(fleet)
    evil.services = {40_000 + number: (f"rpc{number % 7}", 7) for number in range(800)}
    fleet.run()
    evil.services = {50_000 + number: (f"rpc{number % 7}", 7) for number in range(800)}
    told = Counter(kind for kind, _ in kinds(fleet.run(), "evil"))
    assert told == {"moved": 200, "many_changes": 1}
    with database.begin() as conn:
        ports = conn.execute(select(tables.ports.c.port).where(tables.ports.c.host_id == HOSTILE)).scalars().all()
    assert sorted(ports) == [50_000 + number for number in range(800)]
