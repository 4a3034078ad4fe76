"""The state database, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import StatementError

from portmon.engine.evaluate import Verdict
from portmon.engine.frames import ports_of
from portmon.engine.lifecycle import NONE, Changes
from portmon.engine.machines import Kept
from portmon.engine.owners import PortOwner
from portmon.engine.state import HostState, Port, YoungOwner
from portmon.errors import LeaseLostError, StorageError
from portmon.model.alert import DeliveryState, begun_by
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.model.observation import Listener, Listing, Observation, Outcome, Owner
from portmon.storage import (
    alerts,
    archive,
    conditions,
    contents,
    deliveries,
    events,
    host_keys,
    hosts,
    inventory,
    lease,
    runs,
    state,
)
from portmon.storage.database import VERSION_TABLE, Database, _alembic_config
from portmon.storage.events import row_of
from portmon.storage.sql import insert_rows
from portmon.storage.tables import contents as content_table
from portmon.storage.tables import events as event_table
from portmon.storage.tables import hosts as host_table
from portmon.storage.tables import metadata
from portmon.storage.tables import observations as observation_table
from tests.worlds.archived import seen, with_frames
from tests.worlds.databases import migrated_postgres
from tests.worlds.postgres import Cluster

FIXTURES = Path(__file__).parents[1] / "fixtures" / "storage"
NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
NASTY = "a\x00b\udcff{{ conn.x.password }}\x1a0000\n\u202e名"


def observation(
    host: str = "h1", at: datetime = NOW, *, ports: tuple[int, ...] | None = (80,), run: str = "r1"
) -> Observation:
    if ports is None:
        return Observation(host, run, 2, at, Outcome.UNREACHABLE, error_class="timeout", error=NASTY)
    listeners = tuple(
        Listener("tcp", "0.0.0.0", port, 7, NASTY, owners=(Owner(7, NASTY), Owner(8, None)), unit="x.service")
        for port in ports
    )
    seen = Listing("netstat", 0, boot_id="b", netns=4026531840, listeners=listeners)
    return Observation(host, run, 1, at, Outcome.OK, listing=seen, frames=(b"frame one", b"frame two"), duration=1.5)


def event(number: int = 1, kind: EventKind = EventKind.DOWN, **values: object) -> Event:
    defaults = {"host_id": "h1", "host_name": NASTY, "protocol": "tcp", "port": 80, "labels": {"a": NASTY}}
    return Event(f"{number:032x}", kind, NOW, "r1", **{**defaults, **values})  # type: ignore[arg-type]


# ── database ────────────────────────────────────────────────────────────────────────────────────


def test_migrations_make_what_the_tables_say(database: Database) -> None:
    with database.begin() as conn:
        context = MigrationContext.configure(
            conn, opts={"version_table": VERSION_TABLE, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    assert database.migrate() == []
    database.check()


@pytest.mark.slow
def test_pages_of_hosts_keep_room_for_the_times_of_the_next_run(postgres_cluster: Cluster) -> None:
    database = migrated_postgres(postgres_cluster)
    with database.begin() as conn:
        query = text("SELECT reloptions FROM pg_class WHERE relname = 'hosts'")
        assert conn.execute(query).scalar() == ["fillfactor=50"]
    database.dispose()


ALL = [
    "r0001 Create the tables.",
    "r0002 Add indexes for the page.",
    "r0003 Keep what people did.",
    "r0004 Count events by kind.",
    "r0005 Keep notes of people.",
    "r0006 Let people ignore ports for some time.",
    "r0007 Keep clocks of evidence, and what a condition needs to be told once.",
    "r0008 Keep who holds a port, whether it is young, and how long it takes after a boot.",
    "r0009 Keep the changes of each owner and each address of a port, and which addresses are late after a boot.",
    "r0010 Keep which channels were told of an acknowledgement, and what receivers withhold.",
]


@pytest.mark.parametrize("_", range(5))
def test_migrations_at_once(database_url: str, _: int) -> None:
    results: list[object] = []
    begin = threading.Barrier(4)

    def migrate() -> None:
        begin.wait()
        try:
            results.append(Database(database_url).migrate())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == sorted([str(ALL), "[]", "[]", "[]"])


def test_each_revision_is_applied_to_a_database_with_data(database_url: str) -> None:
    database = Database(database_url)
    with database.begin() as conn:
        config = _alembic_config()
        config.attributes["connection"] = conn
        command.upgrade(config, "r0001")
        hosts.sync(conn, [Host("h1", "web1", "192.0.2.1")])
        before = hosts.known(conn)
        insert_rows(conn, event_table, [row_of(one) for one in (event(1), event(2), event(3, EventKind.NEW))])
    assert database.migrate() == ALL[1:]
    with database.begin() as conn:
        assert hosts.known(conn) == before != []
        assert events.counts(conn) == {"down": 2, "new": 1}
    database.dispose()


def test_a_database_from_before_the_first_release_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """Its tables are others, under names that are also of today's."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript((FIXTURES / "before-the-first-release.sql").read_text(encoding="utf-8"))
    before = path.read_bytes()
    database = Database(f"sqlite:///{path}")
    for use in (database.migrate, database.check):
        with pytest.raises(StorageError, match=r"has revision 0008, .*nothing was changed.*portmon db upgrade"):
            use()
    with pytest.raises(StorageError, match="has revision 0008"), database.reading():
        pass
    database.dispose()
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM ports").fetchone()[0] > 0
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.read_bytes()[100:] == before[100:], "only SQLite's own header may differ"


def test_every_kind_of_old_revision_is_refused(database_url: str) -> None:
    database = Database(database_url)
    with database.begin() as conn:
        conn.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)"))
        conn.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES ('0001')"))
    with pytest.raises(StorageError, match="has revision 0001, which a development version"):
        database.migrate()
    database.dispose()


def test_a_database_without_tables_says_what_to_do(database_url: str) -> None:
    empty = Database(database_url)
    with pytest.raises(StorageError, match="portmon db upgrade"):
        empty.check()
    with pytest.raises(StorageError, match="portmon db upgrade"), empty.begin() as conn:
        hosts.known(conn)


def test_a_newer_database_is_refused(database: Database) -> None:
    with database.begin() as conn:
        conn.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = 'r9999'"))
    with pytest.raises(StorageError, match="newer portmon"):
        database.migrate()


def test_sqlite_is_refused_for_several_machines(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="PostgreSQL"):
        Database(f"sqlite:///{tmp_path / 'x.db'}", multi_machine=True)


def test_no_other_user_reads_the_sqlite_file(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'new' / 'x.db'}").migrate()
    assert (tmp_path / "new" / "x.db").stat().st_mode & 0o077 == 0


def test_an_unreachable_server_is_told_without_the_password() -> None:
    database = Database("postgres://me:secret@127.0.0.1:1/x")
    with pytest.raises(StorageError) as caught, database.begin():
        pass
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in f"{caught.value}{database}"


def test_a_transaction_that_is_killed_leaves_nothing(database: Database) -> None:
    script = (
        "import os, sys\n"
        "from datetime import datetime, UTC\n"
        "from portmon.storage.database import Database\n"
        "from portmon.storage import conditions\n"
        "with Database(sys.argv[1]).begin() as conn:\n"
        "    conditions.begin(conn, 'x', since=datetime.now(UTC))\n"
        "    print('written', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, database.url.render_as_string(hide_password=False)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "plugins")},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with database.begin() as conn:
        assert conditions.begin(conn, "x", since=NOW)


# ── contents and archive ────────────────────────────────────────────────────────────────────────


def test_contents_are_stored_once_and_checked(database: Database) -> None:
    with database.begin() as conn:
        first, again = contents.put(conn, b"x" * 10000, now=NOW), contents.put(conn, b"x" * 10000, now=NOW)
        assert first == again
        assert contents.get(conn, first) == b"x" * 10000
        count, before, after = contents.sizes(conn)
        assert (count, before) == (1, 10000)
        assert after < 100
        with pytest.raises(StorageError, match="not in the archive"):
            contents.get(conn, "0" * 64)
        with pytest.raises(StorageError, match="damaged"):
            contents.unpack("0" * 64, __import__("zstandard").compress(b"other"))


def test_an_observation_comes_back_as_it_was(database: Database) -> None:
    good, failed = observation(), observation(at=NOW + timedelta(minutes=5), ports=None, run="r2")
    with database.begin() as conn:
        digest = archive.save_observation(conn, good)
        assert archive.save_observation(conn, good) == digest
        archive.save_observation(conn, failed)
        found = seen(conn)
        assert [one.listing for one in found] == [good.listing, None]
        assert [one.error for one in found] == [None, NASTY]
        assert [one.observed_at for one in found] == [NOW, NOW + timedelta(minutes=5)]
        assert archive.latest_frames(conn, "h1") == (b"frame one", b"frame two")
        assert archive.scanned(conn, "r1") == {"h1"}
        assert archive.observations_to_evaluate(conn, host_ids=["other"]) == []


def test_an_unchanged_observation_stores_no_content(database: Database) -> None:
    with database.begin() as conn:
        archive.save_observation(conn, observation())
        before = contents.sizes(conn)
        archive.save_observation(conn, observation(at=NOW + timedelta(minutes=5), run="r2"))
        assert contents.sizes(conn) == before


def test_many_looks_are_stored_as_one_by_one(database: Database) -> None:
    looks = [observation(f"h{number}", ports=(80, number) if number % 3 else None) for number in range(1, 8)]
    with database.begin() as conn:
        digests = archive.save_observations(conn, looks)
        assert digests == {look.host_id: archive.save_observation(conn, look) for look in looks}
        assert digests["h3"] == "unreachable:timeout"
        found = with_frames(conn)
        assert [one.facts or "unreachable:timeout" for one in found] == [digests[one.host_id] for one in found]
        assert [dataclasses.replace(one, facts=None) for one in found] == looks
        assert archive.save_observations(conn, []) == {}


def test_what_is_used_again_lives_longer(database: Database) -> None:
    later = [observation(at=NOW + hours * timedelta(hours=1)) for hours in (0, 12, 13)]

    def used_at(conn: Connection) -> set[datetime]:
        return set(conn.execute(select(content_table.c.used_at)).scalars())

    with database.begin() as conn:
        for look, wanted in zip(later, (NOW, NOW, NOW + timedelta(hours=13)), strict=True):
            archive.save_observation(conn, look)
            assert used_at(conn) == {wanted}
        # What comes late makes nothing older.
        archive.save_observations(conn, later[::-1])
        assert used_at(conn) == {NOW + timedelta(hours=13)}


def test_a_provisional_look_counts_only_if_nothing_follows_in_its_run(database: Database) -> None:
    def look(host: str, minutes: int, run: str = "r1", *, provisional: bool = False) -> Observation:
        made = observation(host, NOW + timedelta(minutes=minutes), ports=None, run=run)
        return dataclasses.replace(made, provisional=provisional)

    looks = [
        look("alone", 0, provisional=True),
        look("again", 0, provisional=True),
        look("again", 1),
        look("twice", 0, provisional=True),
        look("twice", 1, provisional=True),
        look("later run", 0, provisional=True),
        look("later run", 1, "r2"),
        look("before", 0),
        look("before", 1, provisional=True),
    ]
    with database.begin() as conn:
        hosts.sync(conn, [Host(host, host, host) for host in ("alone", "again", "twice", "later run")])
        archive.save_observations(conn, looks)
        found = archive.observations_to_evaluate(conn)
        assert sorted((one.host_id, (one.observed_at - NOW).seconds // 60) for one in found) == [
            ("again", 1), ("alone", 0), ("before", 0), ("before", 1), ("later run", 0), ("later run", 1), ("twice", 1),
        ]  # fmt: skip
        assert archive.observed(conn, "r1") == {
            "alone": False, "again": True, "twice": False, "later run": False, "before": False,
        }  # fmt: skip
        assert archive.observed(conn, "r2") == {"later run": True}
        archive.settle(conn, found)
        assert archive.observed(conn, "r1") == dict.fromkeys(archive.observed(conn, "r1"), True)
        # What was superseded stays so.
        table = observation_table
        assert sorted(conn.execute(select(table.c.host_id).where(table.c.provisional)).scalars()) == ["again", "twice"]


def test_what_is_older_than_the_retention_goes_with_its_contents(database: Database) -> None:
    later = NOW + timedelta(days=20)
    with database.begin() as conn:
        digest = inventory.save(conn, Inventory((Host("h1", "n", "a"),)), run_id="r1", fetched_at=NOW, stale=False)
        archive.save_observation(conn, observation())
        archive.save_observation(conn, observation(at=later, ports=(81,), run="r2"))
        assert archive.expire(conn, later - timedelta(days=14)) == 1
        assert len(archive.observations_to_evaluate(conn)) == 1
        assert archive.latest_frames(conn, "h1") == (b"frame one", b"frame two")
        # The newest host list stays, however old: it is what a run falls back to.
        assert inventory.load(conn, digest).hosts[0].id == "h1"
        assert conn.execute(select(observation_table.c.run_id)).scalars().all() == ["r2"]
        # The list, two frames, and what the look that stays showed.
        assert contents.sizes(conn)[0] == 4


def test_contents_live_as_long_as_whoever_refers_to_them(database: Database) -> None:
    """Looks at two hosts every hour for days, one of which changes now and then, with the retention of one day."""
    day, hour = timedelta(days=1), timedelta(hours=1)
    with database.begin() as conn:
        for number in range(72):
            now = NOW + number * hour
            looks = [observation("h1", now, ports=(80,)), observation("h2", now, ports=(number // 20,))]
            archive.save_observations(conn, [dataclasses.replace(look, frames=()) for look in looks])
            archive.expire(conn, now - day)
            # Every look still has what it showed.
            found = seen(conn)
            assert {look.observed_at for look in found} == {now - back * hour for back in range(min(number, 24) + 1)}
            shown = {listener.port for look in found if look.host_id == "h2" for listener in look.listing.listeners}  # type: ignore[union-attr]
            assert contents.sizes(conn)[0] in (len(shown) + 1, len(shown) + 2)
        assert shown == {2, 3}


def test_facts_are_canonical() -> None:
    seen = observation().listing
    assert seen is not None
    assert archive.facts_from_json(archive.facts_to_json(seen)) == seen


@given(st.text(), st.datetimes(timezones=st.just(UTC), min_value=datetime(1980, 1, 1), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001
def test_any_text_and_time_survive(value: str, at: datetime) -> None:
    database = Database("sqlite://")
    with database.engine.begin() as conn:
        metadata.create_all(conn)
        conditions.begin(conn, value, since=at)
        from portmon.storage.tables import conditions as table

        assert conn.execute(select(table.c.name, table.c.since)).one() == (value, at)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("2026-01-01 12:00:00.123456", NOW),
        ("2026-01-01 12:00:00", NOW.replace(microsecond=0)),
        ("2026-01-01 13:00:00.123456+01:00", NOW),
        ("2026-01-01T11:00:00-01:00", NOW.replace(microsecond=0)),
    ],
)
def test_sqlite_has_times_of_utc_as_text_without_a_zone(stored: str, read: datetime) -> None:
    database = Database("sqlite://")
    with database.engine.begin() as conn:
        metadata.create_all(conn)
        conditions.begin(conn, "c", since=NOW.astimezone(timezone(timedelta(hours=1))))
        assert conn.execute(text("SELECT since FROM conditions")).scalar() == "2026-01-01 12:00:00.123456"
        # Something else may have written it.
        conn.execute(text("UPDATE conditions SET since = :stored"), {"stored": stored})
        since = conditions.since(conn, "c")
        assert (since, since and since.tzinfo) == (read, UTC)
        with pytest.raises(StatementError, match="naive datetime"):
            conditions.begin(conn, "naive", since=NOW.replace(tzinfo=None))


@pytest.mark.parametrize("value", ["\x00", "\ud800", "\udcff\x1a", "\x1a1234", NASTY])
def test_hostile_text_survives(database: Database, value: str) -> None:
    with database.begin() as conn:
        hosts.sync(conn, [Host("h", value, "a", None, {value: value})])
        assert hosts.known(conn)[0].as_host() == Host("h", value, "a", None, {value: value})


def test_the_state_of_hosts_and_ports_survives(database: Database) -> None:
    flaps = Changes((1.5, 2.25), NOW, LATER)
    own: dict[str, Any] = {
        "status": "up",
        "status_since": NOW,
        "told": (NOW, LATER),
        "presence": flaps,
        "lost": (NASTY,),
    }
    gone = PortOwner(NASTY, comms=(NASTY,), pids=(1, 2), joined=3600.0, gone_since=LATER, gone_clock=0.25)
    owners = (gone, PortOwner("nginx.service", of_socket=True, programs=("nginx",), tool="ss", inodes=(7,)))
    own |= {"owners": owners, "holders": owners[1:], "young_since": -0.5, "restarts": (1.5,), "boots": (90.0, 2.5)}
    port = Port(
        "a",
        "tcp",
        80,
        **own,
        parts=(("::", flaps),),
        notices=(("restarted", 3.5),),
        unwatched=((NASTY, LATER),),
        pids=(1, 2),
    )
    times: dict[str, Any] = dict.fromkeys(("known_since", "last_evaluated_at", "last_ok_at", "grace_until"), NOW)
    first = HostState("a", NASTY, "192.0.2.1", {"k": NASTY}, told=(NOW,), listening=("tcp/80",), evidence=0.1, **times)
    first.booted_at, first.many, first.unnamed = LATER, ("docker", NASTY), 2
    listening = ("tcp/22", "tcp/80", "tcp/443")
    before = HostState("a", told=(LATER,), last_ok_at=NOW, listening=listening, many=("docker", NASTY, "a.service"))
    before.young = (YoungOwner(NASTY, (40000, 40001, 40002), flaps, (NOW, LATER), 40000),)
    first.presence, first.kept, first.young = flaps, Kept(before, (port,), 0.5), before.young
    # Equal values of a column are read once.
    second = dataclasses.replace(first, host_id="b", last_ok_at=LATER, kept=None, presence=NONE, shared=True)
    ports = [port, dataclasses.replace(port, host_id="b", port=81), Port("b", "tcp", 82, "down", LATER)]
    with database.begin() as conn:
        verdict = Verdict(hosts=(first, second), ports=tuple(ports))
        state.save(conn, verdict, before={}, now=NOW, step=None)
        hosts_now, ports_now = state.load(conn)
        assert hosts_now == {"a": first, "b": second}
        assert sorted(ports_of(ports_now), key=lambda one: one.port) == ports
        assert {host.listening for host in state.load_hosts(conn, light=True).values()} == {None}


GONE = (PortOwner("a.service", gone_since=NOW, gone_clock=1.5), PortOwner("b.service"))


def _stored(conn: Connection, *stored: Port) -> None:
    hosts.sync(conn, [Host(host_id, host_id, "192.0.2.1") for host_id in sorted({port.host_id for port in stored})])
    state.save_ports(conn, stored, ())


def test_a_port_that_an_owner_left_is_open(database: Database) -> None:
    up: dict[str, Any] = {"status": "up", "status_since": NOW}
    named = PortOwner('"gone_since":"', comms=('"gone_since":"2026"',))
    with database.begin() as conn:
        _stored(
            conn,
            Port("h", "tcp", 1, **up, owners=GONE),
            Port("h", "tcp", 2, **up, owners=(named, GONE[1])),
            Port("h", "tcp", 3, **up, owners=GONE, paused=True),
            Port("h", "tcp", 4, **up),
            Port("h", "tcp", 5, "down", NOW),
            Port("h", "tcp", 6, **up, lost=("::",)),
        )
        assert sorted(hosts.open_ports(conn)) == [("h", "tcp", number) for number in (1, 5, 6)]


def test_a_port_that_an_owner_left_is_not_well(database: Database) -> None:
    flapping: dict[str, Any] = {"status": "up", "status_since": NOW, "presence": Changes((), NOW, NOW)}
    with database.begin() as conn:
        _stored(
            conn,
            Port("h", "tcp", 1, **flapping, owners=GONE),
            Port("h", "tcp", 2, **flapping, lost=("::",)),
            Port("h", "tcp", 3, **flapping, owners=GONE[1:]),
        )
        assert set(hosts.well_since(conn, ["h"])) == {("h", "tcp", 3)}


def test_a_wrong_clock_is_mended_in_lists_of_times_too(database: Database) -> None:
    later = (dataclasses.replace(GONE[0], gone_since=LATER), GONE[1])
    up: dict[str, Any] = {"status": "up", "status_since": NOW}
    with database.begin() as conn:
        _stored(
            conn,
            Port("a", "tcp", 1, **up, owners=later),
            Port("b", "tcp", 1, **up, told=(NOW, LATER)),
            Port("c", "tcp", 1, "down", NOW, holders=later),
            Port("d", "tcp", 1, "up", LATER),
            Port("e", "tcp", 1, **up, owners=GONE),
        )
        state.mend(conn, NOW)
        mended = {port.host_id: port for port in ports_of(state.load_ports(conn))}
    assert (mended["a"].owners, mended["c"].holders, mended["e"].owners) == (GONE, GONE, GONE)
    assert (mended["b"].told, mended["d"].status_since) == ((NOW, NOW), NOW)


def test_a_wrong_clock_leaves_the_boot_between_a_port_and_its_host(database: Database) -> None:
    gone: dict[str, Any] = {"status": "up", "status_since": NOW}
    with database.begin() as conn:
        _stored(
            conn,
            Port("a", "tcp", 1, **gone, last_seen_at=NOW + (LATER - NOW) / 2),
            Port("a", "tcp", 2, **gone, last_seen_at=LATER),
        )
        conn.exec_driver_sql("UPDATE hosts SET booted_at = (SELECT max(last_seen_at) FROM ports)")
        state.mend(conn, NOW)
        before, since = (port.last_seen_at for port in ports_of(state.load_ports(conn, ["a"])))
    assert before < NOW == since


# ── inventory, hosts, runs ──────────────────────────────────────────────────────────────────────


def test_the_last_good_list_is_the_one_fetched_last(database: Database) -> None:
    first = Inventory((Host("h1", NASTY, "a", 22, {"x": "y"}),), (InvalidHost(2, None, NASTY, "why"),), 3, "src")
    second = Inventory((Host("h2", "n", "a"),))
    with database.begin() as conn:
        assert inventory.last_good(conn) is None
        inventory.save(conn, first, run_id="r1", fetched_at=NOW, stale=False)
        inventory.save(conn, second, run_id="r2", fetched_at=NOW + timedelta(minutes=5), stale=False)
        inventory.save(conn, first, run_id="r3", fetched_at=NOW + timedelta(minutes=10), stale=False)
        inventory.save(conn, second, run_id="r4", fetched_at=NOW + timedelta(minutes=15), stale=True)
        good = inventory.last_good(conn)
    assert good is not None
    assert good.inventory == first
    assert good.fetched_at == NOW + timedelta(minutes=10)


def test_hosts_are_hidden_resumed_and_purged(database: Database) -> None:
    with database.begin() as conn:
        hosts.sync(conn, [Host("h1", "n1", "a", 22, {"x": "y"}), Host("h2", "n2", "b")])
        events.add(conn, [event(1), event(2, EventKind.RETIRED)])
        enqueue(conn, "log")
        hosts.hide(conn, ["h1"], NOW)
        assert [one.removed_at for one in hosts.known(conn)] == [NOW, None]
        assert states(conn, 1, 2) == [DeliveryState.CANCELLED, DeliveryState.PENDING]
        hosts.resume(conn, ["h1"])
        assert [one.removed_at for one in hosts.known(conn)] == [None, None]
        archive.save_observation(conn, observation())
        hosts.purge(conn, ["h1"])
        assert [one.id for one in hosts.known(conn)] == ["h2"]
        # A host that comes back later starts anew: its old looks are not evaluated again.
        assert archive.observations_to_evaluate(conn) == []


def test_hosts_that_fail(database: Database) -> None:
    rows = [
        ("ok", "ok", 0, None),
        ("once", "ok", 1, "timeout"),
        ("down", "unreachable", 3, "refused"),
        ("new", "new", 0, None),
    ]
    with database.begin() as conn:
        hosts.sync(conn, [Host(host_id, host_id, "a") for host_id, *_ in rows])
        for host_id, status, failures, error_class in rows:
            values = {"status": status, "failures": failures, "error_class": error_class}
            conn.execute(update(host_table).where(host_table.c.host_id == host_id).values(values))
        assert hosts.failing(conn) == {"once": "timeout", "down": "refused"}


def test_runs(database: Database) -> None:
    common = {"run_type": "manual", "logical_date": None, "inventory": "i", "settings": "s"}
    with database.begin() as conn:
        for number in range(3):
            runs.start(
                conn, f"r{number}", started_at=NOW + timedelta(minutes=number), scope=["web*"] if number else None,
                inventory_fetched_at=NOW, inventory_stale=False, **common,
            )  # fmt: skip
        runs.finish(conn, "r2", finished_at=NOW, summary={"down": 1})
        assert [(run["run_id"], run["summary"], run["scope"]) for run in runs.last(conn, 2)] == [
            ("r2", {"down": 1}, ["web*"]),
            ("r1", None, ["web*"]),
        ]


# ── events and deliveries ───────────────────────────────────────────────────────────────────────────


def test_an_event_comes_back_as_it_was_and_once(database: Database) -> None:
    one = event(1, details={"x": [1, NASTY]}, program=NASTY, since=NOW, last_seen=NOW)
    with database.begin() as conn:
        events.add(conn, [one])
        events.add(conn, [one])
        assert events.recent(conn) == [one]


def test_events_are_counted_once_and_stay_counted(database: Database) -> None:
    with database.begin() as conn:
        assert events.counts(conn) == {}
        events.add(conn, [])
        events.add(conn, [event(1), event(2, EventKind.NEW), event(1), event(3)])
        # One alone, and several: PostgreSQL takes these in another way.
        events.add(conn, [event(3)])
        events.add(conn, [event(4), event(3), event(2, EventKind.NEW)])
        assert events.counts(conn) == {"down": 3, "new": 1}
        conn.execute(update(event_table).values(dispatched=True))
        assert events.expire(conn, NOW + timedelta(days=1)) == 4
        assert events.counts(conn) == {"down": 3, "new": 1}
        events.add(conn, [event(number) for number in range(10, 2510)])
        assert [one.id for one in events.undispatched(conn)] == [event(number).id for number in range(10, 2510)]
        assert events.counts(conn) == {"down": 2503, "new": 1}
    with pytest.raises(ZeroDivisionError), database.begin() as conn:
        events.add(conn, [event(5000)])
        raise ZeroDivisionError
    with database.begin() as conn:
        assert events.counts(conn) == {"down": 2503, "new": 1}


def test_an_event_that_two_tasks_store_at_once_is_counted_once(database: Database) -> None:
    begin = threading.Barrier(4)

    def add() -> None:
        begin.wait()
        with database.begin() as conn:
            events.add(conn, [event(1), event(2, EventKind.NEW)])

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.begin() as conn:
        assert events.counts(conn) == {"down": 1, "new": 1}


def enqueue(conn: Connection, *channels: str) -> None:
    """Everything that is new to some channels."""
    new = events.undispatched(conn)
    deliveries.enqueue(conn, [(one.id, channel, "default") for one in new for channel in channels], NOW)
    events.dispatched(conn, {one.id: one.id for one in new})


def queued(conn: Connection, channel: str) -> list[str]:
    return [one.event.id for one in deliveries.unfinished(conn, channel) if one.state is not DeliveryState.WITHHELD]


def states(conn: Connection, *numbers: int, channel: str = "log") -> list[DeliveryState]:
    """Of the deliveries of some events."""
    found = deliveries.of_events(conn, [event(number).id for number in numbers])
    return [found[event(number).id, channel].state for number in numbers]


def test_each_channel_gets_each_event_once(database: Database) -> None:
    ids = [event(1).id, event(2).id]
    with database.begin() as conn:
        events.add(conn, [event(1), event(2, EventKind.NEW), event(3, EventKind.BASELINE)])
        # No channel gets a note.
        assert [one.id for one in events.undispatched(conn)] == ids
        enqueue(conn, "log", "mail")
        enqueue(conn, "log", "mail", "later")
        assert (queued(conn, "log"), queued(conn, "mail"), queued(conn, "later")) == (ids, ids, [])
        deliveries.begin_sending(conn, "log", ids[:1], "m1", NOW)
        deliveries.delivered(conn, "log", ids[:1], NOW)
        deliveries.begin_sending(conn, "mail", ids[:1], "m2", NOW)
        deliveries.failed(conn, "mail", ids[:1], NASTY, ["target"], NOW)
        assert queued(conn, "log") == ids[1:]
        first = deliveries.unfinished(conn, "mail")[0]
        assert (first.targets_done, first.tries, first.message_id) == (("target",), 1, None)


def test_what_may_have_come_through_is_known(database: Database) -> None:
    (one,) = [event(1)]
    with database.begin() as conn:
        events.add(conn, [one])
        enqueue(conn, "log")
        deliveries.begin_sending(conn, "log", [one.id], "m1", NOW)
        (found,) = deliveries.unfinished(conn, "log")
        assert found.message_id == "m1"
        receipt = deliveries.receipts(conn, [one.id])[one.id]["log"]
        assert (receipt.at, receipt.message_id, receipt.notified, receipt.under_way) == (None, "m1", True, True)
        deliveries.settle(conn, [(found, "over")], DeliveryState.CANCELLED, NOW)
        assert states(conn, 1) == [DeliveryState.CANCELLED]
        assert deliveries.receipts(conn, [one.id])[one.id]["log"].notified


def test_what_another_task_moved_on_meanwhile_is_left_alone(database: Database) -> None:
    with database.begin() as conn:
        events.add(conn, [event(1), event(2, port=81)])
        enqueue(conn, "log")
        found = deliveries.unfinished(conn)
        deliveries.begin_sending(conn, "log", [event(1).id], "m1", NOW)
        deliveries.settle(conn, [(one, f"why {one.event.port}") for one in found], DeliveryState.CANCELLED, NOW)
        assert states(conn, 1, 2) == [DeliveryState.SENDING, DeliveryState.CANCELLED]
        assert deliveries.of_events(conn, [event(2).id])[event(2).id, "log"].reason == "why 81"
        # Nothing to do is no statement.
        deliveries.settle(conn, [], DeliveryState.CANCELLED, NOW)


def test_what_is_withheld_waits_or_is_settled(database: Database) -> None:
    later = NOW + timedelta(hours=1)
    with database.begin() as conn:
        events.add(conn, [event(1), event(2, port=81)])
        enqueue(conn, "log")
        both = deliveries.unfinished(conn)
        deliveries.settle(conn, [(one, "silenced") for one in both], DeliveryState.WITHHELD, NOW)
        assert queued(conn, "log") == []
        receipt = deliveries.receipts(conn, [event(1).id])[event(1).id]["log"]
        assert not receipt.notified
        assert not receipt.under_way
        first, second = deliveries.unfinished(conn)
        assert (first.state, first.reason) == (DeliveryState.WITHHELD, "silenced")
        deliveries.settle(conn, [(second, None)], DeliveryState.PENDING, later, created_at=later)
        assert queued(conn, "log") == [event(2).id]
        assert deliveries.unfinished(conn)[1].since == later
        deliveries.settle(conn, [(first, first.reason)], DeliveryState.SILENCED, NOW)
        assert states(conn, 1) == [DeliveryState.SILENCED]


def test_what_was_not_sent_of_a_dropped_port_is_cancelled(database: Database) -> None:
    with database.begin() as conn:
        events.add(conn, [event(1), event(2, port=81)])
        enqueue(conn, "log")
        events.add(conn, [event(3)])
        deliveries.cancel_ports(conn, [("h1", "tcp", 80)], reason="why", now=NOW)
        assert events.undispatched(conn) == []
        assert [one.event.port for one in deliveries.unfinished(conn, "log")] == [81]


def test_the_end_of_an_alert_is_not_cancelled(database: Database) -> None:
    """The same kind may end an alert or go on with it, whatever the alert task."""
    still, gone = ({"subject": "host", "state": state} for state in ("ok", "unreachable"))
    told = [
        event(1, EventKind.STABLE, protocol=None, port=None, details=still),
        event(2, EventKind.STABLE, protocol=None, port=None, details=gone),
        event(3, EventKind.STABLE, details={"state": "up"}),
        event(4, EventKind.STABLE, details={"state": "down"}),
        event(5, EventKind.RETIRED, details={"discarded": True}),
        event(6, EventKind.FLAPPING, protocol=None, port=None, details=gone),
        event(7, EventKind.OWN_MACHINE, protocol=None, port=None),
        event(8, EventKind.FOREIGN_MACHINE, protocol=None, port=None),
    ]
    with database.begin() as conn:
        events.add(conn, told)
        enqueue(conn, "log")
        deliveries.cancel_hosts(conn, ["h1"], reason="why", now=NOW)
        assert queued(conn, "log") == [told[at].id for at in (0, 2, 4, 6)]


def test_events_expire_but_not_while_somebody_waits_for_them(database: Database) -> None:
    with database.begin() as conn:
        events.add(conn, [event(1), event(2), event(3, EventKind.BASELINE)])
        enqueue(conn, "log")
        deliveries.delivered(conn, "log", [event(1).id], NOW)
        assert events.expire(conn, NOW) == 0
        assert events.expire(conn, NOW + timedelta(days=1)) == 2
        assert [one.id for one in events.recent(conn)] == [event(2).id]


def test_the_events_of_an_alert_that_goes_on_stay(database: Database) -> None:
    later = NOW + timedelta(days=1)
    with database.begin() as conn:
        events.add(conn, [event(1), event(2, EventKind.RECOVERED)])
        alert = begun_by(event(1))
        alerts.save(conn, [alert])
        events.dispatched(conn, {event(1).id: alert.id})
        assert events.expire(conn, later) == 0
        assert alerts.opened(conn) == {alert.key: alert}
        over = dataclasses.replace(alert, role=AlertRole.RESOLVED, event=event(2, EventKind.RECOVERED), ends_at=NOW)
        alerts.save(conn, [over])
        events.dispatched(conn, {event(2).id: alert.id})
        assert alerts.opened(conn) == {}
        assert alerts.ended_since(conn, NOW) == [over]
        alerts.expire(conn, later)
        assert events.expire(conn, later) == 2
        assert alerts.ended_since(conn, NOW) == []


# ── leases, host keys, conditions ───────────────────────────────────────────────────────────────


def test_one_of_many_gets_the_lease(database: Database) -> None:
    barrier = threading.Barrier(8)
    got: list[lease.Lease | None] = []

    def run(number: int) -> None:
        barrier.wait()
        got.append(lease.acquire(database, "state", f"holder {number}", ttl=timedelta(minutes=1), now=NOW))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in got if one]) == 1
    assert len(got) == 8


def test_a_late_holder_writes_nothing(database: Database) -> None:
    minute = timedelta(minutes=1)
    first = lease.acquire(database, "state", "first", ttl=minute, now=NOW)
    assert first is not None
    assert lease.acquire(database, "state", "second", ttl=minute, now=NOW + minute / 2) is None
    second = lease.acquire(database, "state", "second", ttl=minute, now=NOW + minute)
    assert second is not None
    with pytest.raises(LeaseLostError, match="'first' was replaced by 'second'"), database.begin() as conn:
        conditions.begin(conn, "x", since=NOW)
        first.check(conn)
    first.release()
    with database.begin() as conn:
        second.check(conn)
        assert conditions.begin(conn, "x", since=NOW)


def test_a_retry_replaces_its_dead_first_try(database: Database) -> None:
    minute = timedelta(minutes=1)
    first = lease.acquire(database, "state", "diff r1", ttl=minute, now=NOW)
    assert lease.acquire(database, "state", "diff r1", ttl=minute, now=NOW) is None
    again = lease.acquire(database, "state", "diff r1", ttl=minute, now=NOW, take_over=True)
    assert first is not None
    assert again is not None
    with pytest.raises(LeaseLostError), database.begin() as conn:
        first.check(conn)


def test_holding_waits_and_names_who_has_it(database: Database) -> None:
    minute = timedelta(minutes=1)
    with lease.hold(database, "state", "first", ttl=minute, wait=minute) as held:
        with database.begin() as conn:
            held.check(conn)
        with (
            pytest.raises(StorageError, match="held by 'first'"),
            lease.hold(database, "state", "other", ttl=minute, wait=timedelta(0)),
        ):
            pass
    with lease.hold(database, "state", "other", ttl=minute, wait=timedelta(0)):
        pass


def test_host_keys(database: Database) -> None:
    with database.begin() as conn:
        host_keys.remember(conn, "[a]:22", "ssh-ed25519", "AAAA", "SHA256:a", NOW)
        host_keys.remember(conn, "[a]:22", "ssh-ed25519", "BBBB", "SHA256:b", NOW)
        assert [key.key_base64 for key in host_keys.trusted(conn, ["[a]:22"])["[a]:22"]] == ["AAAA"]
        assert not host_keys.accept(conn, "[a]:22", "SHA256:a")
        host_keys.report_change(conn, "[a]:22", "ssh-ed25519", "CCCC", "SHA256:c", NOW)
        host_keys.report_change(conn, "[a]:22", "ssh-rsa", "DDDD", "SHA256:d", NOW)
        host_keys.report_change(conn, "[a]:22", "ssh-rsa", "DDDD", "SHA256:d", NOW)
        assert [(key.trusted, key.key_base64) for key in host_keys.list_all(conn)] == [(True, "AAAA"), (False, "DDDD")]
        # The one that was compared, another one that came in between, none at all.
        assert not host_keys.accept(conn, "[a]:22", "SHA256:c")
        assert not host_keys.accept(conn, "[a]:22", "")
        assert [(key.trusted, key.key_base64) for key in host_keys.list_all(conn)] == [(True, "AAAA"), (False, "DDDD")]
        assert host_keys.accept(conn, "[a]:22", "SHA256:d")
        assert [(key.trusted, key.key_base64) for key in host_keys.list_all(conn)] == [(True, "DDDD")]


def test_conditions(database: Database) -> None:
    with database.begin() as conn:
        assert conditions.begin(conn, "x", since=NOW)
        assert not conditions.begin(conn, "x", since=NOW)
        assert conditions.end(conn, "x")
        assert not conditions.end(conn, "x")
