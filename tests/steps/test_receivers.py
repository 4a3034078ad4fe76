"""What a receiver is told of people, which alerts of a message it took, and what it withholds itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from portmon.alerting.message.render import Message
from portmon.alerting.silences import SilencedElsewhere
from portmon.api import alerts as api
from portmon.api.problems import list_problems
from portmon.errors import DeliveryError
from portmon.model.alert import DeliveryState
from portmon.model.event_kinds import AlertGroup
from portmon.storage import alerts, deliveries, silences
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet, web_fleet

PAGER = "alerts:\n  channels:\n    - {type: pagerduty}\n    - {type: log}\n"
AM = "alerts:\n  channels:\n    - {type: alertmanager}\n    - {type: log}\n"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    yield made
    made.dispose()


def _acknowledge(fleet: Fleet, *, until: datetime | None = None, host: str = "web000") -> None:
    with fleet.database.begin() as conn:
        api.acknowledge(conn, host, 80, until=until, author="ann", reason="disk ordered", now=fleet.now)


def _pages(fleet: Fleet) -> list[tuple[str, bool, int]]:
    """What the pager got: group, acknowledged or not, number of alerts."""
    messages = [got.message for got in fleet.got if got.channel == "pagerduty"]
    return [(one.group.value, one.acknowledged, len(one.alerts)) for one in messages]


# ── acknowledgements ────────────────────────────────────────────────────────────────────────────


def test_an_acknowledgement_is_told_once_after_the_alert_and_before_its_end(database: Database) -> None:
    fleet = web_fleet(database, 3, PAGER)
    fleet.machines["web000"].kill(80)
    fleet.run()
    assert _pages(fleet) == [("down", False, 1)]
    _acknowledge(fleet)
    for _ in range(3):
        fleet.run()
    assert _pages(fleet) == [("down", False, 1), ("down", True, 1)]
    assert [got.channel for got in fleet.got if got.message.acknowledged] == ["pagerduty"]
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    fleet.run()
    assert _pages(fleet) == [("down", False, 1), ("down", True, 1), ("recovered", False, 1)]


def test_each_of_several_acknowledged_alerts_is_told(database: Database) -> None:
    fleet = web_fleet(database, 3, PAGER)
    for name in ("web000", "web001", "web002"):
        fleet.machines[name].kill(80)
    fleet.run()
    _acknowledge(fleet)
    _acknowledge(fleet, host="web001")
    fleet.run()
    assert _pages(fleet)[1:] == [("down", True, 2)]


def test_a_channel_that_was_told_of_no_alert_is_told_of_no_acknowledgement(database: Database) -> None:
    fleet = web_fleet(database, 1, PAGER)
    fleet.machines["web000"].kill(80)
    fleet.dead = {"pagerduty"}
    fleet.run()
    _acknowledge(fleet)
    fleet.dead = set()
    fleet.run()
    fleet.run()
    assert _pages(fleet) == []


def test_an_acknowledgement_that_did_not_arrive_is_told_again(database: Database) -> None:
    fleet = web_fleet(database, 2, PAGER)
    for name in fleet.machines:
        fleet.machines[name].kill(80)
    fleet.run()
    _acknowledge(fleet)
    _acknowledge(fleet, host="web001")
    fleet.dead = {"pagerduty"}
    with database.begin() as conn:
        assert set(silences.untold(conn, "pagerduty", fleet.now)) == {one.id for one in alerts.opened(conn).values()}
    assert AlertGroup.DOWN in fleet.route()
    fleet.run()
    fleet.dead = set()

    def takes_one(channel: Any, message: Message) -> None:
        if message.acknowledged:
            raise DeliveryError("too often", channel=channel.name, taken=(message.alerts[0].event.id,))

    fleet.on_send = takes_one
    with pytest.raises(DeliveryError, match="too often"):
        fleet.run()
    fleet.number += 1
    fleet.on_send = lambda *_: None
    fleet.run()
    assert _pages(fleet)[1:] == [("down", True, 1)]
    fleet.run()
    assert len(_pages(fleet)) == 2
    with database.begin() as conn:
        assert silences.untold(conn, "pagerduty", fleet.now) == {}


def test_an_acknowledgement_that_ended_before_it_was_told_is_not_told(database: Database) -> None:
    fleet = web_fleet(database, 1, PAGER)
    fleet.machines["web000"].kill(80)
    fleet.run()
    _acknowledge(fleet, until=fleet.now + timedelta(seconds=1))
    fleet.number += 1
    fleet.run()
    assert _pages(fleet) == [("down", False, 1)]
    _acknowledge(fleet)
    fleet.run()
    assert _pages(fleet) == [("down", False, 1), ("down", True, 1)]


def test_a_channel_that_wants_to_be_left_alone_is_told_later(database: Database) -> None:
    fleet = web_fleet(database, 1, PAGER)
    fleet.machines["web000"].kill(80)
    fleet.run()
    _acknowledge(fleet)

    def too_often(channel: Any, message: Message) -> None:
        raise DeliveryError("too often", channel=channel.name, waits={"": 400.0})

    fleet.on_send = too_often
    with pytest.raises(DeliveryError, match="too often"):
        fleet.run()
    fleet.number += 1
    fleet.on_send = lambda *_: None
    fleet.alert()  # it rests
    assert len(_pages(fleet)) == 1
    fleet.number += 1
    fleet.run()
    assert _pages(fleet)[1:] == [("down", True, 1)]


# ── which alerts arrived ────────────────────────────────────────────────────────────────────────


def test_only_what_did_not_arrive_is_sent_again(database: Database) -> None:
    fleet = web_fleet(database, 5, PAGER)
    tried: list[list[str]] = []

    def takes_two(channel: Any, message: Message) -> None:
        if channel.name == "pagerduty":
            ids = [one.event.id for one in message.alerts]
            tried.append(ids)
            if len(tried) == 1:
                raise DeliveryError("429", channel=channel.name, taken=tuple(ids[:2]), refused=(ids[2],))

    fleet.on_send = takes_two
    for machine in fleet.machines.values():
        machine.kill(80)
    with pytest.raises(DeliveryError, match="429"):
        fleet.run()
    with database.begin() as conn:
        of = deliveries.of_events(conn, tried[0])
        receipts = deliveries.receipts(conn, tried[0])
    states = [of[event_id, "pagerduty"].state for event_id in tried[0]]
    delivered, waiting, given_up = DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.EXPIRED
    assert states == [delivered, delivered, given_up, waiting, waiting]
    assert [receipts[event_id]["pagerduty"].at is not None for event_id in tried[0]] == [
        True,
        True,
        False,
        False,
        False,
    ]
    fleet.number += 1
    fleet.run()
    assert tried[1:] == [tried[0][3:]]


# ── what a receiver withholds ───────────────────────────────────────────────────────────────────


def test_what_a_receiver_withholds_is_shown_until_it_ends(database: Database) -> None:
    fleet = web_fleet(database, 2, AM)
    for machine in fleet.machines.values():
        machine.kill(80)
    asked: list[list[str]] = []
    end = fleet.now + timedelta(hours=1)
    told = "silenced in Alertmanager by joe until 2026-03-02 01:00 UTC: new disks"

    def silenced(channel: Any, firing: Any) -> dict[str, SilencedElsewhere]:
        asked.append(sorted(one.event.host_name for one in firing))
        return {one.id: SilencedElsewhere(told, end) for one in firing if one.event.host_name == "web000"}

    def run() -> None:
        fleet.scan_and_evaluate(fleet.run_of())
        for group in sorted(fleet.route()):
            fleet.deliver(group, silenced=silenced)
        fleet.number += 1

    def shown() -> dict[str | None, str | None]:
        with database.begin() as conn:
            found = api.list_alerts(conn, fleet.now)
            assert {one.host: one.withheld for one in list_problems(conn, fleet.now).rows} == {
                one.host: one.withheld and one.withheld.told for one in found
            }
        return {one.host: one.withheld and one.withheld.told for one in found}

    run()
    assert shown() == {"web000": told, "web001": None}
    run()
    assert asked == [["web000", "web001"]] * 2
    with database.begin() as conn:
        (first,) = list_problems(conn, fleet.now, withheld=True).rows
        assert (first.silence, first.acknowledged_by, first.host) == (None, None, "web000")
    _acknowledge(fleet)
    assert shown()["web000"] == "acknowledged by ann: disk ordered"

    def fails(*_: object) -> dict[str, SilencedElsewhere]:
        raise DeliveryError("no answer", channel="alertmanager")

    for group in sorted(fleet.route()):
        fleet.deliver(group, silenced=fails)
    with database.begin() as conn:
        assert len(silences.elsewhere(conn, [one.id for one in alerts.opened(conn).values()], fleet.now)) == 1
        assert silences.elsewhere(conn, [one.id for one in alerts.opened(conn).values()], end) == {}
    for group in sorted(fleet.route()):
        fleet.deliver(group, silenced=lambda *_: {})
    with database.begin() as conn:
        assert silences.noted_elsewhere(conn, "alertmanager") == {}
