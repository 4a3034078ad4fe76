"""What hostile users, hostile hosts and bad luck do to the page: never a 500, and no host that can't be reached."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from portmon.api import timeline
from portmon.config import Config
from portmon.errors import TooSlowError
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind, Severity
from portmon.model.host import Host
from portmon.storage import database as storage
from portmon.storage import events
from portmon.storage.database import Database, Reader
from portmon.storage.tables import alerts, hosts, ports
from portmon.storage.tables import events as events_table
from portmon.storage.tables import runs as runs_table
from portmon.web import actions, reading
from portmon.web.app import application
from tests.web.conftest import HOSTILE
from tests.worlds.databases import migrated, migrated_postgres
from tests.worlds.fleet import FIVE, Fleet
from tests.worlds.page import Browser, Person, show

IDS = (
    "a/b", "x", "x/ports/80", "..", ".", "a/../b", "%2F", "%2e%2e", "a?b", "a#b", "a b", "a;b", "a\\b", "é", "<b>", "-",
    "{{ 7 * 7 }}", "x" * 250, "\u202egnp", "\udcff\ud800", "a\x1adcff", "=1+1", "//evil.example.com", "host?id=x", "机" * 83,
)  # fmt: skip
"""Of hosts."""
LABELS = {
    "a=b": "c=d",
    "%3D": "%",
    'q"': "'<>&",
    "items": "x",
    "a.b": "1",
    "": "nameless",
    "\ud800": "\udfff",
    "l": "y" * 900,
}
TEXTS = (
    "", " ", "\x00", "a\x00b", "%", "_", "\\", "'", '"', "\x1ad800", "\x1a0000", "\u202e", "x" * 300, "é" * 2000, "\x7f",
    "=", "a=b", "==", "\x00=\x00", "\x1ad800=\x1adfff", "{{", "../..", "id-web1", "WEB1", "80", "80-", "99999", "-1", "0",
    "1e400", "9" * 400, "٣", "true", "None", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-03-01T00:00",
    "0001-01-01", "infinity", "9223372036854775807", "4611686018427387904", "2147483648",
)  # fmt: skip


@pytest.fixture
def person(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Person:
    show(fleet.database, monkeypatch, tmp_path)
    return Person()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.full])])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Either kind: PostgreSQL refuses more."""
    if request.param == "sqlite":
        made = migrated(tmp_path / "state.db")
    else:
        made = migrated_postgres(request.getfixturevalue("postgres_cluster"))
    yield made
    made.dispose()


# ── hosts ───────────────────────────────────────────────────────────────────────────────────────


def hostile_fleet(database: Database) -> Fleet:
    fleet = Fleet(database, Config())
    fleet.start = datetime.now(UTC).replace(microsecond=0) - 12 * FIVE
    for number, host_id in enumerate(IDS):
        machine = fleet.add(f"h{number}", {22: "sshd"})
        machine.services[80] = (f"{HOSTILE}{number}", 4711)
        name = host_id if number % 2 else f"=name {number}"
        machine.host = Host(host_id, name, f"192.0.2.{number}", None, LABELS if number < 3 else {"items": str(number)})
    for _ in range(3):
        fleet.run()
    for machine in fleet.machines.values():
        machine.kill(80)
    fleet.run()
    return fleet


def links_of(page: str) -> set[str]:
    return {html.unescape(one) for one in re.findall(r'href="(/portmon/[^"]*)"', page)}


@pytest.fixture
def visited(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Address: page, of all that a person can reach from the first one."""
    hostile_fleet(database)
    show(database, monkeypatch, tmp_path)
    person = Person()
    found: dict[str, str] = {}
    waiting = {"/portmon/", "/portmon/?group=items", "/portmon/?group=keys", "/portmon/?group=a.b"}
    while waiting:
        address = waiting.pop()
        # A browser and a proxy would take away dots and slashes that are within a path.
        path = urlsplit(address).path
        assert not {".", ".."} & set(unquote(path).split("/")), address
        assert "%2F" not in path, address
        answer = person.get(address.removeprefix("/portmon"))
        assert answer.status_code == 200, (address, answer.status_code, answer.text[-300:])
        found[address] = answer.text
        if "text/html" in answer.headers["content-type"]:
            waiting |= {one for one in links_of(answer.text) if one not in found and "/static/" not in one}
        # One length of time is like another.
        waiting = {one for one in waiting if "range=24h" not in one and "range=7d" not in one}
    return found


def test_each_host_and_port_is_reached_and_acted_upon(visited: dict[str, str]) -> None:
    for number in range(len(IDS)):
        of_host = [page for page in visited.values() if f"<bdi>192.0.2.{number}</bdi> · Evidence" in page]
        assert of_host, IDS[number]
        for port in (22, 80):
            of_port = [page for page in visited.values() if f"(192.0.2.{number}), id" in page]
            assert any(f"</a> {port}/tcp " in page for page in of_port), (IDS[number], port)
    for address, page in visited.items():
        if "label=" in address and address.startswith("/portmon/hosts?"):
            assert "nothing matches" not in page, address
    # What the buttons ask for is taken.
    person = Person()
    wanted = set()
    for page in visited.values():
        for url, body in re.findall(r'data-url="([^"]*)" data-body="([^"]*)"', page):
            wanted.add((html.unescape(url), html.unescape(body)))
    done = 0
    for url, body in sorted(wanted):
        given = {**json.loads(body), "text" if url == "notes" else "reason": "they are gone"}
        if url == "silences" and not given.get("hosts"):
            continue
        if url in ("acknowledgements", "ports/ignore", "silences"):
            given["lasts"] = "4h"
        answer = person.post(f"/{url}", json.dumps(given).encode())
        assert answer.status_code == 200, (url, body, answer.text)
        json.loads(answer.content.decode())
        done += 1
    assert done > 2 * len(IDS)


def test_two_labels_stay_in_every_link(person: Person) -> None:
    page = person.get("/ports?label=site%3Dfra1&label=env%3Dprod").text
    for link in links_of(page):
        if link.startswith(("/portmon/ports.csv",)):
            assert link.count("label=") == 2
            break
    else:
        pytest.fail("no link to the CSV")


def test_a_spreadsheet_calculates_nothing(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fleet = Fleet(database, Config())
    fleet.start = datetime.now(UTC).replace(microsecond=0) - 12 * FIVE
    for number, sign in enumerate(("=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "＝1+1", " =1")):
        machine = fleet.add(f"h{number}", {22: f'{sign}","=2'})
        machine.host = Host(f"id{number}", sign, "192.0.2.1", None, {})
    fleet.run()
    show(database, monkeypatch, tmp_path)
    for path in ("/ports.csv", "/events.csv"):
        rows = list(csv.reader(io.StringIO(Browser().get(path).text)))
        assert len(rows) > 5
        for row in rows[1:]:
            assert len(row) == len(rows[0])
            assert not [cell for cell in row if cell[:1] in tuple("=+-@\t\r＝＋－＠")]


def test_json_of_hostile_hosts_is_utf8(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hostile_fleet(database)
    show(database, monkeypatch, tmp_path)
    browser = Browser()
    for path in (
        "/problems",
        "/hosts",
        "/ports",
        "/ports/groups?by=unit",
        "/events",
        "/runs",
        "/silences",
        "/actions",
        "/fleet",
    ):
        browser.get(f"/api/v1{path}", accept="application/json").content.decode()
        assert browser.json(path) is not None
    for host_id in IDS:
        carried = "".join(
            f"\x1a{ord(one):04x}" if one == "\x1a" or 0xD800 <= ord(one) < 0xE000 else one for one in host_id
        )
        found = browser.json(f"/host?id={quote(carried, safe='')}")
        assert found["address"] == f"192.0.2.{IDS.index(host_id)}"
        assert len(browser.json(f"/host/timeline?id={quote(carried, safe='')}")["ports"]) == 2


# ── requests ────────────────────────────────────────────────────────────────────────────────────

OPERATIONS = sorted(
    (path, tuple((one["name"], json.dumps(one["schema"])) for one in methods["get"].get("parameters", ())))
    for path, methods in application().openapi()["paths"].items()
    if "get" in methods
)


@pytest.mark.parametrize(
    "query",
    [
        "/runs?before=2026-03-01T00:00",
        "/runs?before=0001-01-01T00:00:00%2B14:00",
        "/api/v1/runs?before=9999-12-31T23:59:59-14:00",
        "/events?since=0001-01-01T00:00:00%2B14:00",
        "/events?until=9999-12-31T23:59:59-14:00",
        "/events?before=4611686018427387904",
        "/events?before=1000000",
        "/hosts?q=%00",
        "/ports?program=%00&unit=%ED%A0%80",
        "/?group=keys",
        "/?group=0",
        "/hosts/%00",
        "/hosts/%ED%A0%80/ports/80",
        "/port?host=%00",
    ],
)
def test_odd_questions_are_answered(person: Person, fleet: Fleet, query: str) -> None:
    for machine in fleet.machines.values():
        machine.kill(22)
    fleet.run()
    assert person.get(query).status_code in (200, 404, 422)


def test_no_question_is_a_500(person: Person) -> None:
    assert len(OPERATIONS) > 25
    value = st.one_of(st.sampled_from(TEXTS), st.text(max_size=300))

    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        path, parameters = data.draw(st.sampled_from(OPERATIONS))
        pairs = []
        for name, schema in parameters:
            known = re.findall(r'"([^"\\]*)"', schema)
            text = data.draw(st.one_of(value, st.sampled_from(known or [""])))
            encoded = quote(text.encode("utf-8", "surrogatepass"), safe="")
            if f"{{{name}}}" in path:
                path = path.replace(f"{{{name}}}", encoded or "x")
            elif data.draw(st.booleans()):
                pairs.append(f"{name}={encoded}")
        for accept in ("text/html", "application/json"):
            answer = person.get(f"{path}?{'&'.join(pairs)}", accept=accept)
            assert answer.status_code in (200, 303, 307, 404, 422), (path, pairs, answer.text)

    fuzz()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/silences/99999999999999999999999/lift", {}),
        ("/silences/2147483648/lift", {}),
        ("/silences/-1/lift", {}),
        ("/silences", {"hosts": ["*"], "lasts": "1h", "reason": "\ud800"}),
        ("/silences", {"hosts": ["\x00"], "lasts": "1h", "reason": "\x00"}),
        ("/silences", {"hosts": ["*"], "lasts": "1h", "reason": "x", "\ud800": 1}),
        ("/silences", {"hosts": ["*"], "labels": {"\ud800": 1}, "lasts": "1h", "reason": "x"}),
        ("/silences", {"hosts": ["*"], "labels": {"a": ["\ud800"]}, "lasts": "1h", "reason": "x"}),
        ("/silences", {"hosts": ["*"], "lasts": "299y", "reason": "x"}),
        ("/silences", {"hosts": ["*"], "lasts": f"{10**9}s", "reason": "x"}),
        ("/silences", {"hosts": ["*"], "ends_at": "9999-12-31T23:59:59-14:00", "reason": "x"}),
        ("/silences", {"hosts": ["*"], "ends_at": "0001-01-01T00:00:00+14:00", "reason": "x"}),
        ("/silences", {"hosts": ["[" * 300], "lasts": "1h", "reason": "x"}),
        ("/silences", {"hosts": [{}], "lasts": "1h", "reason": "x"}),
        ("/ports/promote", {"ports": [["\ud800", 80]], "reason": "x"}),
        ("/ports/promote", {"ports": [["\x00", 80]], "reason": "x"}),
        ("/ports/promote", {"ports": [[1, 80]], "reason": "x"}),
        ("/ports/promote", {"ports": [["id-web1", 80], ["id-web1", 80]], "reason": "x"}),
        ("/ports/accept", {"ports": [["id-web1", 10**400]], "reason": "x"}),
        ("/acknowledgements", {"alerts": ["\ud800"], "reason": "x"}),
        ("/acknowledgements", {"alerts": ["\x00"], "reason": "x", "lasts": "\x00"}),
        ("/hosts/keys/release", {"endpoint": "\x00", "fingerprint": "\x00", "reason": "x"}),
    ],
)
def test_no_action_is_a_500(person: Person, path: str, body: Any) -> None:
    answer = person.post(path, json.dumps(body).encode())
    assert answer.status_code in (200, 404, 422), answer.text
    json.loads(answer.content.decode())


def test_what_is_done_stays_done_if_airflows_audit_log_fails(person: Person, caplog: pytest.LogCaptureFixture) -> None:
    # This process has no database of Airflow.
    body = {"ports": [["id-web1", 9999]], "reason": "it must listen"}
    answer = person.post("/ports/promote", json.dumps(body).encode(), preview=False)
    assert answer.status_code == 200
    assert "audit log does not have" in caplog.text
    assert person.json("/actions")[0]["kind"] == "promote"


# ── data that breaks assumptions ────────────────────────────────────────────────────────────────

PAGES = ("/", "/ports", "/hosts", "/hosts/id-web1", "/hosts/id-web1/ports/80", "/events", "/runs", "/silences")


def all_pages(person: Person) -> dict[str, str]:
    found = {}
    for path in (
        *PAGES,
        "/events.csv",
        "/ports.csv",
        "/metrics",
        *(f"/api/v1{one}" for one in ("/problems", "/fleet", "/events", "/runs")),
    ):
        answer = person.get(path)
        assert answer.status_code == 200, (path, answer.text)
        found[path] = answer.text
    return found


def event(number: int, at: datetime, **more: Any) -> Event:
    given = {"kind": EventKind.DOWN, "host_id": "id-web1", "host_name": "web1", "protocol": "tcp", "port": 80}
    return Event(
        id=f"{number:032x}",
        at=at,
        run_id="run00000",
        severity=Severity.CRITICAL,
        reason="it says so",
        **{**given, **more},
    )


def test_a_kind_of_another_version_is_shown_by_its_name(person: Person, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    with fleet.database.begin() as conn:
        events.add(conn, [event(1, fleet.now, port=None, protocol=None)])
        conn.execute(sqlalchemy.update(events_table).values(kind="disk_on_fire"))
    reading.forget()
    found = all_pages(person)
    assert "disk on fire" in found["/"]
    assert "disk on fire" in found["/events"]
    assert "disk_on_fire" in found["/events.csv"]


def test_rows_that_lack_what_others_have(person: Person, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    with fleet.database.begin() as conn:
        conn.execute(sqlalchemy.update(runs_table).values(summary=None))
        conn.execute(
            sqlalchemy.update(ports).values(addresses=[], programs=[], units=[], pids=[], status_since=fleet.now)
        )
        conn.execute(sqlalchemy.update(hosts).values(last_ok_at=None))
        conn.execute(sqlalchemy.delete(events_table))
    reading.forget()
    all_pages(person)
    with fleet.database.begin() as conn:
        assert conn.execute(sqlalchemy.select(alerts)).all()
        conn.execute(sqlalchemy.delete(ports))
        conn.execute(sqlalchemy.delete(runs_table))
    reading.forget()
    all_pages(person)


def test_clocks_that_differ(person: Person, fleet: Fleet) -> None:
    far = datetime.now(UTC) + timedelta(days=400)
    with fleet.database.begin() as conn:
        conn.execute(sqlalchemy.update(runs_table).values(finished_at=fleet.start - timedelta(hours=1)))
        conn.execute(sqlalchemy.update(ports).values(first_seen_at=far, status_since=far, last_seen_at=far))
        conn.execute(sqlalchemy.update(hosts).values(last_ok_at=far))
        events.add(conn, [event(1, far), event(2, far + timedelta(days=1), kind=EventKind.RECOVERED)])
    reading.forget()
    found = all_pages(person)
    assert "-" not in re.findall(r"took ([^<]*)", found["/"])[0]
    assert {run["duration"] for run in json.loads(found["/api/v1/runs"])} == {0.0}


def test_a_port_that_changed_thousands_of_times(person: Person, fleet: Fleet) -> None:
    now = datetime.now(UTC)
    kinds = (EventKind.DOWN, EventKind.RECOVERED)
    story = [event(n, now - timedelta(minutes=5 * (5000 - n)), kind=kinds[n % 2]) for n in range(5000)]
    dark = [(one.at, one.at + timedelta(seconds=30)) for one in story[::3]]
    since = now - timedelta(days=30)
    begun = datetime.now(UTC)
    found = timeline.spans(story, dark, now_state="up", first_seen=None, since=since, until=now)
    # Comparing each with each would take minutes.
    assert datetime.now(UTC) - begun < timedelta(seconds=5)
    assert (found[0].start, found[-1].end) == (since, now)
    assert all(one.end == other.start and one.state != other.state for one, other in pairwise(found))
    assert sum(one.state == "none" for one in found) >= len(dark)
    with fleet.database.begin() as conn:
        events.add(conn, story)
    assert person.get("/hosts/id-web1/ports/80?range=30d").status_code == 200


# ── databases that are busy, slow, away, or others ──────────────────────────────────────────────


def promote(person: Person) -> httpx.Response:
    return person.post("/ports/promote", json.dumps({"ports": [["id-web1", 9999]], "reason": "x"}).encode())


def test_an_action_does_not_wait_long_for_a_writer(
    person: Person, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "PATIENCE", 1)
    other = Database(fleet.database.url)
    with other.begin() as conn:
        if not other.is_sqlite:
            conn.exec_driver_sql("LOCK TABLE decisions, actions IN ACCESS EXCLUSIVE MODE")
        begun = datetime.now(UTC)
        answer = promote(person)
        assert datetime.now(UTC) - begun < timedelta(seconds=10)
        assert answer.status_code == 503
        assert "another process writes for more than 1 s" in answer.json()["detail"]
        # Reading does not wait at all.
        assert person.get("/hosts").status_code == 200
    assert promote(person).status_code == 200


def test_a_query_that_is_slow_is_cut(fleet: Fleet) -> None:
    reader = Reader(fleet.database, seconds=0.5, connections=1)
    slow = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        if fleet.database.is_sqlite
        else "SET lc_messages TO 'C'; SELECT pg_sleep(30)"
    )
    begun = datetime.now(UTC)
    with pytest.raises(TooSlowError, match=r"took more than 0\.5 s and was cut"), reader.begin() as conn:
        conn.exec_driver_sql(slow)
    assert datetime.now(UTC) - begun < timedelta(seconds=10)
    # The connection is as good as before.
    with reader.begin() as conn:
        assert conn.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(hosts)).scalar() == 3


def test_who_finds_no_connection_is_told_soon(fleet: Fleet) -> None:
    reader = Reader(fleet.database, seconds=0.5, connections=1)
    with reader.begin(), pytest.raises(TooSlowError, match="no connection was free"), reader.begin():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_server_that_was_restarted_is_asked_again(person: Person, fleet: Fleet) -> None:
    assert person.get("/hosts").status_code == 200
    other = Database(fleet.database.url)
    with other.begin() as conn:
        ended = conn.exec_driver_sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'portmon page' AND datname = current_database()"
        ).scalar()
    assert ended
    assert person.get("/hosts").status_code == 200


def test_tables_that_another_version_migrated_are_noticed(
    person: Person, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert person.get("/hosts").status_code == 200
    with fleet.database.begin() as conn:
        conn.exec_driver_sql(f"UPDATE {storage.VERSION_TABLE} SET version_num = 'abcdef'")
    monkeypatch.setattr(storage, "_BELIEVED", 0.0)
    answer = person.get("/hosts")
    assert answer.status_code == 503
    assert "run `portmon db upgrade`" in html.unescape(answer.text)
    assert promote(person).status_code == 503


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_file_that_was_replaced_is_read_anew(person: Person, fleet: Fleet, tmp_path: Path) -> None:
    assert "web1" in person.get("/hosts").text
    fleet.database.dispose()
    path = Path(str(fleet.database.url.database))
    for file in path.parent.glob("state.db*"):
        file.unlink()
    assert person.get("/hosts").status_code == 503
    assert promote(person).status_code == 503
    assert not path.exists(), "an action makes no database"
    migrated(path).dispose()
    found = person.get("/hosts")
    assert found.status_code == 200
    assert "web1" not in found.text
    shutil.rmtree(tmp_path / "airflow", ignore_errors=True)


def test_another_database_has_its_own_counts(
    fleet: Fleet, person: Person, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert person.json("/fleet")["hosts"]["ok"] == 3
    assert "sshd" in person.get("/ports?group=unit").text
    second = migrated(tmp_path / "second.db")
    with fleet.database.begin() as conn:
        steps = reading.lookups.last_step(conn)
    other = Fleet(second, Config(), start=fleet.start)
    other.add("other", {22: "dropbear"})
    while True:
        other.run()
        with second.begin() as conn:
            if reading.lookups.last_step(conn) >= steps:
                break
    with second.begin() as conn:
        assert reading.lookups.last_step(conn) == steps
    # The page notices another address by itself, after a while; what it counted must not outlive that.
    connection = {"conn_type": "sqlite", "host": str(second.url.database)}
    monkeypatch.setenv("AIRFLOW_CONN_PORTMON_DB", json.dumps(connection))
    monkeypatch.setattr(reading, "_KEPT", 0.0)
    reading._kept.pop("database")
    found = person.get("/ports?group=unit").text
    assert "dropbear" in found
    assert "sshd" not in found
    assert person.json("/fleet")["hosts"]["ok"] == 1
    second.dispose()


def test_caches_serve_many_threads(person: Person, fleet: Fleet) -> None:
    wrong: list[BaseException] = []

    def look(number: int) -> None:
        try:
            for turn in range(30):
                with reading.reading() as conn:
                    assert reading.unchanged(conn, (number, turn % 7), lambda: number) == number
                    assert reading.glance(conn, datetime.now(UTC)).hosts["ok"] == 3
                if turn % 10 == 0:
                    reading.forget()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(reading.CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_a_fleet_of_no_hosts(monkeypatch: pytest.MonkeyPatch, database: Database, tmp_path: Path) -> None:
    show(database, monkeypatch, tmp_path)
    person = Person()
    for path in (
        "/",
        "/ports",
        "/ports?group=unit",
        "/hosts",
        "/events",
        "/runs",
        "/silences",
        "/metrics",
        "/events.csv",
    ):
        assert person.get(path).status_code == 200, path
    assert person.get("/hosts/x").status_code == 404
    assert promote(person).status_code == 404
