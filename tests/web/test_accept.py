"""Accepting on the page what will not change back: the buttons, and what they ask for."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from typing import Any

import pytest

from portmon.engine.frames import ports_of
from portmon.engine.owners import PortOwner
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind, Severity
from portmon.storage import decisions, events, state
from tests.worlds.fleet import Fleet
from tests.worlds.page import Person

BUTTON = re.compile(r'data-url="([^"]*)" data-body="([^"]*)" data-title="([^"]*)"[^>]*>([^<]*)<')
MACHINE, PORT = {"host": "id-web1"}, {"ports": [["id-web1", 80]]}


@pytest.fixture
def person(browser: Any) -> Person:
    """A user who may do everything."""
    return Person()


def buttons(person: Person, page: str, url: str, **headers: str) -> set[tuple[str, str]]:
    """The buttons of a page that ask for something: their names, and what is asked for."""
    shown = BUTTON.findall(person.get(page, **headers).text)
    return {(name, html.unescape(body)) for to, body, _, name in shown if to == url}


def do(person: Person, url: str, body: dict[str, Any], **values: Any) -> Any:
    """Ask for it, with a reason; the answer."""
    return person.post(url, json.dumps({**body, "reason": "it moved"}).encode(), **values)


def accepted(fleet: Fleet) -> list[Any]:
    with fleet.database.begin() as conn:
        return sorted(decisions.in_force(conn, fleet.now).accepted)


def test_a_foreign_machine_is_accepted(person: Person, fleet: Fleet) -> None:
    for page in ("/", "/hosts/id-web1"):
        assert buttons(person, page, "hosts/accept") == set()
    refused = do(person, "/hosts/accept", MACHINE, preview=False)
    assert refused.status_code == 404
    assert "web1: no other machine answers for it" in refused.json()["detail"]
    fleet.machines["web1"].identity = "id-web2"
    assert [event.kind.value for event in fleet.run()] == ["foreign_machine"]
    for page in ("/", "/hosts/id-web1"):
        assert buttons(person, page, "hosts/accept") == {("Accept the machine", json.dumps(MACHINE))}
        chinese = buttons(person, page, "hosts/accept", **{"accept-language": "zh"})
        assert chinese == {("接受该机器", json.dumps(MACHINE))}
    said = do(person, "/hosts/accept", MACHINE).json()
    assert said["done"] == [
        "web1: the machine that answers is accepted; its next complete answer counts, as after a reboot"
    ]
    assert (said["preview"], accepted(fleet)) == (True, [])
    assert not do(person, "/hosts/accept", MACHINE, preview=False).json()["preview"]
    assert accepted(fleet) == [("id-web1", "host", 0)]
    (done,) = person.json("/actions")
    assert (done["author"], done["kind"], done["subject"], done["reason"]) == (
        "ann",
        "accept_machine",
        "web1",
        "it moved",
    )
    assert "accept_machine" not in person.get("/silences", **{"accept-language": "zh"}).text


def test_boots_of_a_port_are_forgotten(person: Person, fleet: Fleet) -> None:
    page, wanted = "/hosts/id-web1/ports/80", json.dumps(PORT)
    assert buttons(person, page, "ports/forget-boots") == set()
    assert do(person, "/ports/forget-boots", PORT, preview=False).status_code == 404
    fleet.machines["web1"].boot += 1
    fleet.machines["web1"].restart(80)
    fleet.run()
    assert buttons(person, page, "ports/forget-boots") == {("Forget its boots", wanted)}
    chinese = {"accept-language": "zh"}
    assert buttons(person, page, "ports/forget-boots", **chinese) == {("忘记启动用时", wanted)}
    said = "web1: that port 80 took up to 0s after boots does not count any more, from the next boot on"
    tried = do(person, "/ports/forget-boots", PORT).json()
    assert (tried["done"], tried["preview"], person.json("/actions")) == ([said], True, [])
    assert do(person, "/ports/forget-boots", PORT, preview=False).json()["done"] == [said]
    (done,) = person.json("/actions")
    assert (done["author"], done["kind"], done["reason"]) == ("ann", "forget_boots", "it moved")
    assert "forget_boots" not in person.get("/silences", **chinese).text


def test_a_viewer_sees_no_button(browser: Any, fleet: Fleet) -> None:
    fleet.machines["web1"].identity = "id-web2"
    fleet.run()
    assert "foreign machine" in browser.get("/").text
    assert "hosts/accept" not in browser.get("/").text


def test_an_address_that_a_port_lost_is_accepted(person: Person, fleet: Fleet) -> None:
    web, url = fleet.machines["web1"], "ports/accept"
    web.addresses = ("192.0.2.1",)
    web.kill(22)
    assert [(event.kind.value, event.port) for event in fleet.run()] == [("down", 22), ("rebound", 80)]
    wanted = ("Accept without the address", json.dumps(PORT))
    for page in ("/", "/hosts/id-web1", "/hosts/id-web1/ports/80"):
        assert wanted in buttons(person, page, url), page
        assert ("接受不再监听该地址", wanted[1]) in buttons(person, page, url, **{"accept-language": "zh"}), page
    # It may have to listen all the same.
    assert ("Must listen", json.dumps(PORT)) in buttons(person, "/hosts/id-web1", "ports/promote")
    said = do(person, "/ports/accept", PORT, preview=False).json()
    assert said["done"] == ["web1: port 80 is accepted without 0.0.0.0; the next complete answer ends its alert"]
    assert accepted(fleet) == [("id-web1", "tcp", 80)]


def test_a_program_that_left_a_port_is_accepted(person: Person, fleet: Fleet) -> None:
    gone = PortOwner("varnish.service", comms=("varnishd",), gone_since=fleet.now)
    with fleet.database.begin() as conn:
        port = next(one for one in ports_of(state.load_ports(conn, ["id-web1"])) if one.port == 80)
        left = dataclasses.replace(port, owners=(gone, PortOwner("nginx.service")), young_since=0.0)
        state.save_ports(conn, [left], ())
        told = Event("e" * 32, EventKind.OWNER_GONE, fleet.now, "r", "id-web1", "web1", "tcp", 80, Severity.WARNING)
        events.add(conn, [told])
    wanted = ("Accept without the program", json.dumps(PORT))
    for page in ("/", "/hosts/id-web1", "/hosts/id-web1/ports/80"):
        assert wanted in buttons(person, page, "ports/accept"), page
        assert ("接受缺少该程序", wanted[1]) in buttons(person, page, "ports/accept", **{"accept-language": "zh"}), page
    page = person.get("/hosts/id-web1/ports/80").text
    assert "without varnishd (varnish.service) · young · " in page
    assert "◆</span> owner gone" in page
    (found,) = person.json("/ports?state=owner_gone")["rows"]
    assert (found["port"], found["gone"], found["young"]) == (80, ["varnishd (varnish.service)"], True)
    assert "selected>缺少程序" in person.get("/ports?state=owner_gone", **{"accept-language": "zh"}).text
    said = do(person, "/ports/accept", PORT, preview=False).json()
    assert said["done"] == [
        "web1: port 80 is accepted without varnishd (varnish.service); the next complete answer ends its alert"
    ]
    assert accepted(fleet) == [("id-web1", "tcp", 80)]
