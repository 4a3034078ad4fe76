"""A UDP port in all that people see and do: messages, routes, silences, decisions, commands and the page."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from portmon.api.explain import explain
from portmon.api.ports import accept, list_ports, promote
from portmon.api.silences import silence
from portmon.config import parse_config
from portmon.storage import decisions
from portmon.storage.database import Database
from tests.worlds.fleet import FIVE, Fleet
from tests.worlds.page import Browser, show

CONFIG = """
scan: {protocols: [tcp, udp]}
rules:
  - {action: deny, port: 161/udp}
alerts:
  channels:
    - {type: log, name: dns}
    - {type: log, name: both}
    - {type: log, name: web}
  routes:
    - {match: {port: 53/udp}, channels: [dns], continue: true}
    - {match: {port: 53}, channels: [both], continue: true}
    - {match: {port: 53/tcp}, channels: [web]}
"""
WHO = {"author": "ann", "reason": "moved"}


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """A name server with port 53 of both protocols; after three runs its UDP ports are learned."""
    made = Fleet(database, parse_config(CONFIG))
    made.start = datetime.now(UTC).replace(microsecond=0) - 12 * FIVE
    machine = made.add("dns1", {22: "sshd", 53: "named"})
    machine.udp = {53: "named", 123: "chronyd", 161: "snmpd", 45_000: "dig"}
    for _ in range(3):
        made.run()
    return made


def dies(fleet: Fleet, port: int = 53) -> None:
    machine = fleet.machines["dns1"]
    assert machine.udp is not None
    del machine.udp[port]
    (event,) = fleet.run()
    assert (event.kind.value, event.protocol, event.port) == ("down", "udp", port)


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_what_is_learned_and_what_rules_exclude(fleet: Fleet) -> None:
    with fleet.database.begin() as conn:
        assert [(one.protocol, one.port, one.status) for one in list_ports(conn, "dns1")] == [
            ("tcp", 22, "up"), ("tcp", 53, "up"), ("udp", 53, "up"), ("udp", 123, "up"),
        ]  # fmt: skip


def test_a_death_of_udp_goes_where_its_route_says_and_is_named(fleet: Fleet) -> None:
    dies(fleet)
    title = "[portmon] 1 port down on dns1: udp/53 named"
    assert sorted((got.channel, got.message.title) for got in fleet.got) == [("both", title), ("dns", title)]
    fleet.machines["dns1"].kill(53)
    fleet.run()
    assert sorted(got.channel for got in fleet.got[2:]) == ["both", "web"]


@pytest.mark.parametrize(
    ("ports", "is_told"), [("53", False), ("53/udp", False), ("50-60/udp", False), ("53/tcp", True)]
)
def test_silences_are_of_a_protocol_or_of_both(fleet: Fleet, ports: str, is_told: bool) -> None:
    with fleet.database.begin() as conn:
        silence(
            conn,
            ports=[ports],
            starts_at=fleet.now - FIVE,
            ends_at=fleet.now + timedelta(days=1),
            now=fleet.now - FIVE,
            **WHO,
        )
    dies(fleet)
    assert bool(fleet.got) is is_told


def test_people_decide_about_the_port_of_one_protocol(fleet: Fleet) -> None:
    dies(fleet)
    number = 65_536 + 53
    with fleet.database.begin() as conn:
        told = accept(conn, "dns1", number, now=fleet.now, **WHO)
        assert told == "dns1: port 53/udp is accepted as gone; the next complete answer without it retires it"
        assert promote(conn, "dns1", 65_536 + 69, now=fleet.now, **WHO) == "dns1: port 69/udp must listen from now on"
        assert {key[1:] for key in decisions.in_force(conn, fleet.now).accepted} == {("udp", 53)}
    told_now = {(one.kind.value, one.protocol, one.port) for one in fleet.run()}
    assert told_now == {("retired", "udp", 53), ("down", "udp", 69)}


def test_the_story_of_a_port_of_udp(fleet: Fleet) -> None:
    dies(fleet)
    with fleet.database.begin() as conn:
        story = " ".join(map(str, explain(conn, fleet.config, "dns1", 65_536 + 53, now=fleet.now)))
    assert "53/udp" in story


def test_the_page(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dies(fleet)
    show(fleet.database, monkeypatch, tmp_path)
    browser = Browser()
    problems = browser.get("/").text
    assert "/hosts/id-dns1/ports/53-udp" in problems
    page = browser.get("/hosts/id-dns1/ports/53-udp")
    assert page.status_code == 200
    assert "dns1 53/udp" in text_of(page.text)
    for query, shown in (("53", 2), ("53/udp", 1), ("53/tcp", 1), ("45000", 0)):
        found = browser.get(f"/api/v1/ports?port={query}").json()
        assert found["total"] == shown, (query, found)
    (one,) = browser.get("/api/v1/ports?port=53/udp").json()["rows"]
    assert (one["protocol"], one["port"]) == ("udp", 53)
