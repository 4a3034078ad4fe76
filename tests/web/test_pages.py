"""What each page shows, over a database that a fleet filled."""

from __future__ import annotations

import csv
import html
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, and_, insert, update

from portmon.alerting.channels.robots import acknowledge_address
from portmon.api import event_kinds, ignored
from portmon.api.event_kinds import KindView
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind, Severity
from portmon.model.host import Host
from portmon.storage import alerts, conditions, events, host_keys, lookups, silences, tables
from portmon.storage.database import Database
from portmon.web import render
from portmon.web.app import application
from portmon.web.words import LANGUAGES, Words
from tests.web.conftest import HOSTILE
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet
from tests.worlds.page import Browser, Person, show

PAGES = (
    "/",
    "/ports",
    "/ports?group=unit",
    "/ports?group=port",
    "/hosts",
    "/hosts/id-web1",
    "/hosts/id-web1/ports/80",
    "/events",
    "/runs",
    "/silences",
)


def text_of(page: str) -> str:
    """What a reader sees of a page, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def body_of(browser: Browser, path: str, **headers: str) -> str:
    answer = browser.get(path, **headers)
    assert answer.status_code == 200, answer.text
    return text_of(answer.text.partition("<main")[2])


def test_nothing_is_wrong(browser: Browser) -> None:
    page = browser.get("/").text
    assert "<title>Nothing is wrong · portmon</title>" in page
    assert 'href="/portmon/icon.svg?n=0"' in page
    assert "3 ● hosts ok" in text_of(page)
    assert "6 ● ports up" in text_of(page)


def test_a_death_is_the_first_thing_on_the_first_screen(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    page = browser.get("/").text
    assert "<title>1 problem · portmon</title>" in page
    assert 'href="/portmon/icon.svg?n=1"' in page
    seen = body_of(browser, "/")
    row = "▲ down web1 80/tcp env=prod site=fra1"
    assert seen.index("1 problem") < seen.index(row) < seen.index("ports down")
    assert "nginx nginx.service Missing in the complete answers of 1 run" in seen
    assert "log : delivered nobody yet" in seen
    assert re.search("href=./dags/portmon/runs/run00003/tasks/netstat/mapped/[0-9]+.", page)


def test_a_death_that_no_run_dispatched_is_shown(
    browser: Browser, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "alert", lambda: None)
    fleet.machines["web1"].kill(80)
    fleet.run()
    seen = body_of(browser, "/")
    assert "▲ down web1 80/tcp" in seen
    assert "not dispatched yet" in seen


def test_a_death_that_is_over_is_not_shown(browser: Browser, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    monkeypatch.setattr(fleet, "alert", lambda: None)
    fleet.machines["web1"].start(80, "nginx")
    fleet.run()
    assert "Nothing is wrong" in body_of(browser, "/")


def test_what_is_withheld_is_folded_with_who_and_until_when(browser: Browser, fleet: Fleet) -> None:
    for name in ("web1", "web2"):
        fleet.machines[name].kill(80)
    fleet.run()
    now = datetime.now(UTC)
    with fleet.database.begin() as conn:
        silences.add(conn, hosts=["web1"], ends_at=now + timedelta(hours=5), author="ann", reason="moving", now=now)
    page = browser.get("/").text
    assert "<title>1 problem · portmon</title>" in page
    seen = text_of(page)
    assert seen.index("down web2") < seen.index("1 acknowledged or silenced") < seen.index("down web1")
    assert "by ann" in seen or "ann: moving" in seen or "ann" in seen.partition("acknowledged or silenced")[2]
    assert '<tr class="withheld">' in page


def test_the_address_of_an_acknowledge_form_is_that_of_a_page(browser: Browser, fleet: Fleet) -> None:
    """The script opens the form; the address changes nothing else."""
    fleet.machines["web1"].kill(80)
    fleet.run()
    with fleet.database.begin() as conn:
        (one,) = alerts.opened(conn).values()
    for path in ("/", "/hosts/id-web1/ports/80", "/host?id=id-web1&port=80"):
        answer = browser.get(acknowledge_address(path, one))
        assert answer.status_code == 200
        assert "acknowledge=" not in answer.text


def test_problems_are_filtered_and_grouped(browser: Browser, fleet: Fleet) -> None:
    for name in ("web1", "web2"):
        fleet.machines[name].kill(80)
    fleet.machines["db"].kill(5432)
    fleet.run()
    assert "1 problem" in body_of(browser, "/?q=postgres")
    assert "2 problems" in body_of(browser, "/?label=site%3Dfra1")
    assert "Nothing is wrong" in body_of(browser, "/?kind=unreachable")
    grouped = body_of(browser, "/?group=site")
    assert grouped.index("site= ams1") if "site= ams1" in grouped else grouped.index("site=ams1")
    assert grouped.index("ams1 1") < grouped.index("web2") < grouped.index("fra1 2") < grouped.index("web1")


def test_a_runbook_is_read_in_the_readers_language(browser: Browser) -> None:
    assert "<h1>A port is down</h1>" in browser.get("/runbooks/down.md").text
    assert "<h1>端口 down</h1>" in browser.get("/runbooks/down", **{"accept-language": "zh-CN"}).text
    unknown = browser.get("/runbooks/upside_down", accept="text/html")
    assert (unknown.status_code, "there is no runbook" in unknown.text) == (404, True)


def test_an_overdue_run_is_loud(
    browser: Browser, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW__PORTMON__SCHEDULE", "1min")
    show(fleet.database, monkeypatch, tmp_path)
    assert "the fleet is not watched" in body_of(browser, "/")
    monkeypatch.setenv("AIRFLOW__PORTMON__SCHEDULE", "")
    show(fleet.database, monkeypatch, tmp_path)
    assert "the fleet is not watched" not in body_of(browser, "/")


def test_a_host_has_its_ports_with_uptime_and_its_raw_answer(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    page = browser.get("/hosts/id-web1").text
    seen = text_of(page)
    assert "▲ down 80/tcp nginx nginx.service 0.0.0.0" in seen
    assert "● up 22/tcp sshd" in seen
    assert page.count('<svg class="timeline"') == 2
    assert "100 %" in seen
    assert "raw" in seen.partition("Raw last answer")[2]
    assert 'rel="prev" href="/portmon/hosts/id-db"' in page
    assert 'rel="next" href="/portmon/hosts/id-web2"' in page


def test_a_port_that_no_rule_watches_any_more_is_hidden_and_not_down(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    port = and_(tables.ports.c.host_id == "id-web1", tables.ports.c.port == 80)
    with fleet.database.begin() as conn:
        conn.execute(update(tables.ports).where(port).values(hidden_since=fleet.now))
    for path in ("/ports", "/ports?state=hidden", "/hosts/id-web1", "/hosts/id-web1/ports/80"):
        assert "○ hidden" in body_of(browser, path), path
        assert "○ 已隐藏" in body_of(browser, path, **{"accept-language": "zh"}), path
    for path in ("/ports", "/ports?state=hidden"):
        assert "▲ down" not in body_of(browser, path), path
        assert "shown as gone" not in body_of(browser, path), path
    assert "○ hidden 80/tcp" in body_of(browser, "/hosts/id-web1")
    found = {state: browser.json(f"/ports?state={state}")["rows"] for state in ("down", "hidden", "up")}
    assert [len(rows) for rows in found.values()] == [0, 1, 5]
    assert found["hidden"][0]["hidden_since"] is not None
    assert [group["down"] for group in browser.json("/ports/groups?by=port")["rows"]] == [0, 0, 0]
    with fleet.database.begin() as conn:
        assert lookups.port_counts(conn)["down"] == 0
        assert len(lookups.port_series(conn, 10)) == 5


def test_a_port_has_its_story(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    seen = body_of(browser, "/hosts/id-web1/ports/80")
    assert "It is down since" in seen
    assert "It was learned and is watched: no rule says otherwise." in seen
    assert "of the time with evidence" in seen


def test_a_quarantined_key_is_shown(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].trouble = "host_key_changed"
    for _ in range(3):
        fleet.run()
    with fleet.database.begin() as conn:
        host_keys.remember(conn, "web1.example.com:22", "ssh-ed25519", "AAAA", "SHA256:old", fleet.now)
        host_keys.report_change(conn, "web1.example.com:22", "ssh-ed25519", "BBBB", "SHA256:new", fleet.now)
    seen = body_of(browser, "/hosts/id-web1")
    assert "■ quarantined" in seen
    assert "SHA256:new" in seen
    assert "1 ■ quarantined" in body_of(browser, "/")
    assert "web1" in body_of(browser, "/hosts?state=quarantined")


HOST_FLAPS = {"subject": "host", "state": "ok"}
WRONG = (
    # Kind, details, state of the host, its name in the lists; what the problem is called in English and in Chinese.
    (EventKind.FOREIGN_MACHINE, {}, "foreign", "◆ foreign machine", "◆ 其他机器应答"),
    (EventKind.UNSCANNED, {}, "unscanned", "◆ unscanned", "◆ 未被巡检"),
    (EventKind.FLAPPING, HOST_FLAPS, "flapping", "▲ host flapping", "▲ 主机反复失联"),
)


def _holds(conn: Connection, state: str, since: datetime) -> None:
    """What an evaluation stores of a host in such a state."""
    if state == "flapping":
        conn.execute(update(tables.hosts).where(tables.hosts.c.name == "web1").values(flapping_since=since))
    else:
        conditions.begin(conn, conditions.of_host(lookups.OF_CONDITIONS[state], "id-web1"), since=since)


@pytest.mark.parametrize("dispatched", [True, False])
@pytest.mark.parametrize(("kind", "details", "state", "english", "chinese"), WRONG)
def test_what_is_wrong_with_a_host_is_a_problem_and_its_state(
    browser: Browser,
    fleet: Fleet,
    kind: EventKind,
    details: dict[str, str],
    state: str,
    english: str,
    chinese: str,
    dispatched: bool,
) -> None:
    row = kind.meaning(details)
    told = Event(
        "e" * 32, kind, fleet.now, "r", "id-web1", "web1", severity=row.severity, reason="A reason", details=details
    )
    with fleet.database.begin() as conn:
        events.add(conn, [told])
        _holds(conn, state, fleet.now)
    if dispatched:
        fleet.alert()
    assert f"{english} web1" in body_of(browser, "/")
    assert f"{chinese} web1" in body_of(browser, "/", **{"accept-language": "zh"})
    (problem,) = browser.json("/problems")["rows"]
    assert (problem["kind"], problem["subject"], problem["severity"]) == (row.name, "host", row.severity)
    assert 'href="/portmon/hosts/id-web1"' in browser.get("/").text
    assert "1 problem" in body_of(browser, f"/?kind={row.name}")
    for page in (body_of(browser, "/hosts/id-web1"), body_of(browser, f"/hosts?state={state}")):
        assert re.search(f"[■◆◌] {state}", page)
    assert english in body_of(browser, "/hosts/id-web1").partition("Open problems")[2]
    assert [one["id"] for one in browser.json(f"/hosts?state={state}")["rows"]] == ["id-web1"]
    assert [one["state"] for one in browser.json("/hosts")["rows"]] == ["ok", state, "ok"]
    one = browser.json("/host?id=id-web1")
    assert [name for name in ("foreign", "unscanned", "flapping_since") if one[name]] == [
        "flapping_since" if state == "flapping" else state
    ]


def test_what_another_machine_answers_is_no_evidence_in_a_timeline(browser: Browser, fleet: Fleet) -> None:
    def uptime() -> dict[str, str]:
        (ssh, _) = browser.json("/host/timeline?id=id-web1&range=24h")["ports"]
        return {name: ssh["uptime"][name] for name in ("up", "percent")}

    assert uptime()["percent"] == 100
    details = {"machine": "id-web2", "machine_name": "web2"}
    told = Event("e" * 32, EventKind.FOREIGN_MACHINE, fleet.now, "r", "id-web1", since=fleet.start, details=details)
    with fleet.database.begin() as conn:
        events.add(conn, [told])
    assert uptime() == {"up": "PT0S", "percent": None}


def test_the_state_of_a_host_is_the_one_that_explains_the_others(browser: Browser, fleet: Fleet) -> None:
    """Host key > foreign > flapping > unreachable > unscanned > no evidence."""

    def state() -> str:
        return str(browser.json("/host?id=id-web1")["state"])

    def holds(name: str) -> None:
        with fleet.database.begin() as conn:
            _holds(conn, name, fleet.now)

    fleet.machines["web1"].trouble = "timeout"
    fleet.run()
    assert state() == "failing"
    holds("unscanned")
    assert state() == "unscanned"
    fleet.run()
    assert state() == "unreachable"
    holds("flapping")
    assert state() == "flapping"
    holds("foreign")
    assert state() == "foreign"
    holds("quarantined")
    assert state() == "quarantined"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_row_of_the_catalogue_has_a_name(language: str) -> None:
    for name in event_kinds.KINDS:
        assert Words(language).kind(name).isascii() is (language == "en"), name


@pytest.mark.usefixtures("browser")
def test_a_session_has_no_notes(fleet: Fleet) -> None:
    """Another login has its number on each host, and tomorrow on this one."""
    with fleet.database.begin() as conn:
        conn.execute(
            update(tables.ports).where(tables.ports.c.port == 80).values(units=("nginx.service", "session-3.scope"))
        )
    seen = Person().get("/hosts/id-web1/ports/80").text
    assert "session-3.scope" in seen
    assert "Note on nginx.service" in seen
    assert "Note on session" not in seen


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 6),
        ("port=80", 2),
        ("port=80-5432", 3),
        ("port=80%2Ftcp", 2),
        ("program=ngin", 2),
        ("program=NGINX", 2),
        ("unit=postgres.service", 1),
        ("host=web", 4),
        ("label=site%3Dfra1", 4),
        ("label=site%3Dfra1&label=env%3Dprod", 2),
        ("label=site%3Dfra", 0),
        ("reach=everywhere", 6),
        ("reach=loopback", 0),
        ("state=down", 0),
        ("program=%25", 0),
    ],
)
def test_ports_are_searched(browser: Browser, query: str, found: int) -> None:
    seen = body_of(browser, f"/ports?{query}")
    assert (f"1 to {found} of {found}" if found else "nothing matches") in seen
    rows = list(csv.reader(io.StringIO(browser.get(f"/ports.csv?{query}").text)))
    assert len(rows) == 1 + found


def test_ports_are_grouped(browser: Browser) -> None:
    assert "sshd.service 3 3 0" in body_of(browser, "/ports?group=unit")
    assert "80/tcp 2 2 0" in body_of(browser, "/ports?group=port")


def test_events_are_filtered_and_paged(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    fleet.machines["web1"].start(80, "nginx")
    fleet.run()
    assert "down web1 80/tcp" in body_of(browser, "/events?kind=down")
    assert "recovered" not in body_of(browser, "/events?kind=down").partition("Reset")[2]
    assert "nothing matches" in body_of(browser, "/events?kind=down&host=web2")
    assert "nothing matches" in body_of(browser, "/events?until=2020-01-01T00:00")
    newest = browser.json("/events?limit=1")
    older = browser.json(f"/events?limit=100&before={newest[0]['seq']}")
    assert newest[0]["kind"] == "recovered"
    assert [one["seq"] for one in older] == sorted((one["seq"] for one in older), reverse=True)
    assert newest[0]["seq"] not in {one["seq"] for one in older}


NAMES = (
    "stable_down",
    "stable",
    "host_stable",
    "host_stable_unreachable",
    "flapping",
    "host_flapping",
    "unreachable",
    "never_reachable",
    "replaced",
    "taken",
    "recovered",
    "owner_back",
    "retired_young",
    "owner_gone",
    "crash_looping",
)


def test_a_variant_of_a_kind_is_a_filter_of_its_own(browser: Browser, fleet: Fleet) -> None:
    named = {"run_id": "r", "host_id": "id-web1", "host_name": "web1", "protocol": "tcp", "severity": "warning"}
    said = [
        (EventKind.REBOUND, {"severe": True}),
        (EventKind.REBOUND, {"severe": False, "note": '"severe":true'}),
        (EventKind.STABLE, {"state": "down"}),
        (EventKind.STABLE, {"state": "up"}),
        (EventKind.STABLE, {"subject": "host", "state": "ok"}),
        (EventKind.STABLE, {"subject": "host", "state": "unreachable"}),
        (EventKind.FLAPPING, {"state": "up"}),
        (EventKind.FLAPPING, {"subject": "host", "state": "ok"}),
        (EventKind.UNREACHABLE, {}),
        (EventKind.UNREACHABLE, {"never": True}),
        (EventKind.REPLACED, {"young": True}),
        (EventKind.REPLACED, {"taken": True}),
        (EventKind.RECOVERED, {"part": "bind"}),
        (EventKind.RECOVERED, {"part": "owner"}),
        (EventKind.RETIRED, {"young": True}),
        (EventKind.OWNER_GONE, {}),
        (EventKind.CRASH_LOOPING, {}),
    ]
    with fleet.database.begin() as conn:
        for port, (kind, details) in enumerate(said, 1):
            row = {"kind": kind, "port": port, "details": details, "id": str(port), "at": fleet.now, "reason": "x"}
            conn.execute(insert(tables.events).values(labels={}, **named, **row))
    found = {
        kind: [one["port"] for one in browser.json(f"/events?kind={kind}")] for kind in ("rebound", "lost_bind", *NAMES)
    }
    assert found == {"lost_bind": [1], "rebound": [2], **{name: [port] for port, name in enumerate(NAMES, 3)}}


def test_the_hosts_before_and_after_are_those_of_the_filter(browser: Browser) -> None:
    listed = browser.get("/hosts?label=site%3Dfra1").text
    assert '/portmon/hosts/id-web1?label=site%3Dfra1"' in listed
    page = browser.get("/hosts/id-web1?label=site%3Dfra1&range=7d").text
    # web2 is of another site.
    assert 'rel="prev" href="/portmon/hosts/id-db?label=site%3Dfra1&amp;range=7d"' in page
    assert 'rel="next"' not in page


def test_ignored_ports_are_listed_with_their_end(browser: Browser, fleet: Fleet) -> None:
    assert "no port is ignored" in body_of(browser, "/silences")
    now = datetime.now(UTC)
    with fleet.database.begin() as conn:
        ignored.ignore(conn, "web1", 80, until=now + timedelta(days=1), author="ann", reason="a trial", now=now)
    assert f"web1 80/tcp {now + timedelta(days=1):%Y-%m-%d %H:%M} UTC ann" in body_of(browser, "/silences")
    (one,) = browser.json("/ignored")["rows"]
    assert (one["host"], one["port"], one["author"], one["reason"]) == ("web1", 80, "ann", "a trial")
    assert "ignored until" in body_of(browser, "/hosts/id-web1/ports/80")
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.run()
    assert "Nothing is wrong" in body_of(browser, "/")


def test_runs_have_their_durations_and_errors(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["db"].trouble = "timeout"
    fleet.run()
    seen = body_of(browser, "/runs")
    assert "run00003" in seen
    assert "timeout 1" in seen
    assert "diff 0." in seen


def test_silences_and_rules_say_what_they_hit(
    browser: Browser, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    show(
        fleet.database,
        monkeypatch,
        tmp_path,
        "rules:\n  - action: deny\n    label: {site: nowhere}\n  - action: allow\n    host: '*'\n",
    )
    now = datetime.now(UTC)
    with fleet.database.begin() as conn:
        silences.add(conn, hosts=["web*"], ends_at=now + timedelta(minutes=30), author="ann", reason="x", now=now)
        silences.add(conn, hosts=["gone*"], ends_at=now + timedelta(hours=30), author="bob", reason="y", now=now)
    seen = body_of(browser, "/silences")
    assert "hosts: 2, open alerts: 0" in seen
    assert "ends within an hour" in seen
    assert seen.count("hits nothing") == 2
    assert "portmon.yaml:2: rules[0] deny label site=nowhere" in seen
    assert "hosts: 3" in seen.partition("Rules")[2]


def test_a_host_is_found_by_its_name(browser: Browser) -> None:
    answer = browser.get("/port?host=WEB1&port=80")
    assert (answer.status_code, answer.headers["location"]) == (303, "/portmon/hosts/id-web1/ports/80")
    assert browser.get("/port?host=nobody").status_code == 404


@pytest.mark.parametrize("path", PAGES)
def test_hostile_text_is_inert(browser: Browser, fleet: Fleet, path: str) -> None:
    machine = fleet.machines["web1"]
    machine.services[80] = (HOSTILE, 4711)
    machine.host = Host("id-web1", HOSTILE[:255], "192.0.2.1", None, {HOSTILE[:60]: HOSTILE[:200]})
    machine.trouble = None
    fleet.run()
    machine.kill(80)
    fleet.run()
    page = browser.get(path).text
    assert "<script>alert" not in page
    assert "\u202e" not in page
    for raw in re.findall(r'="[^"]*alert\(1\)[^"]*"', page):
        assert "<script" not in raw


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_its_texts_in_both_languages(browser: Browser, fleet: Fleet, path: str) -> None:
    fleet.machines["web1"].kill(80)
    fleet.run()
    page = browser.get(path, **{"accept-language": "zh-CN,zh;q=0.9"}).text
    assert '<html lang="zh">' in page
    for english in ("Where", "Since", "Program and unit", "Filter", "nothing matches", "nobody yet"):
        assert f">{english}" not in page
    by_cookie = browser.get(path, cookie="portmon_language=zh").text
    assert '<html lang="zh">' in by_cookie


@pytest.mark.parametrize("path", PAGES)
def test_every_address_is_right_below_a_base_path(fleet: Fleet, browser: Browser, path: str) -> None:
    page = Browser("/af").get(path)
    assert page.status_code == 200
    for address in re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text):
        assert address.startswith(("/af/portmon", "/af/dags/")), address


def test_a_new_kind_appears_by_itself(browser: Browser, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = KindView(
        name="disk_full",
        label="disk full",
        kind=EventKind.DOWN,
        subject="host",
        severity=Severity.CRITICAL,
        role="firing",
        task="alert_down",
    )
    monkeypatch.setitem(event_kinds.KINDS, "disk_full", trial)  # type: ignore[arg-type]
    render._environment.cache_clear()
    assert '<option value="disk_full">disk full</option>' in browser.get("/events").text


def test_without_a_database_the_page_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    show(Database(f"sqlite:///{tmp_path / 'none.db'}"), monkeypatch, tmp_path)
    answer = Browser().get("/")
    assert answer.status_code == 503
    assert "the first run of the DAG makes it" in text_of(answer.text)
    assert not (tmp_path / "none.db").exists()


def test_a_wrong_configuration_is_named(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fleet: Fleet
) -> None:
    show(fleet.database, monkeypatch, tmp_path, "rules: 3\n")
    answer = browser.get("/silences")
    assert answer.status_code == 503
    assert "portmon.yaml" in text_of(answer.text)
    assert browser.get("/").status_code == 200


def test_documentation_pages_are_off() -> None:
    paths = {getattr(route, "path", "") for route in application().routes}
    assert not {"/docs", "/redoc", "/openapi.json"} & paths


def test_an_empty_database_shows_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    database = migrated(tmp_path / "empty.db")
    show(database, monkeypatch, tmp_path)
    for path in ("/", "/ports", "/ports?group=unit", "/hosts", "/events", "/runs", "/silences"):
        assert Browser().get(path).status_code == 200
    database.dispose()
