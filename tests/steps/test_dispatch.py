"""From events to messages over many runs: storms, silences, acknowledgements, reminders, dead channels."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.event import listen

from portmon.alerting.message.render import Message
from portmon.config import parse_config
from portmon.engine.events import monitor_event
from portmon.model.alert import DeliveryState
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind
from portmon.model.state import HostStatus, PortStatus
from portmon.storage import alerts, conditions, deliveries, events, hosts, silences, tables
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.fleet import TWO, Fleet, web_fleet


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    yield made
    made.dispose()


def states(fleet: Fleet, kind: EventKind) -> dict[str, tuple[str, str | None]]:
    """Channel: state of its delivery of the last event of a kind, and the reason."""
    with fleet.database.begin() as conn:
        event = [event for event in events.recent(conn) if event.kind is kind][-1]
        found = deliveries.of_events(conn, [event.id])
    return {channel: (one.state, one.reason) for (_, channel), one in found.items()}


# ── storms ──────────────────────────────────────────────────────────────────────────────────────


def test_300_hosts_unreachable_at_once_are_one_message(database: Database) -> None:
    fleet = web_fleet(database, 500)
    for machine in list(fleet.machines.values())[:300]:
        machine.trouble = "timeout"
    fleet.run()
    fleet.run()
    fleet.run()
    assert fleet.titles() == 2 * ["[portmon] outage: 300 of 500 hosts unreachable"]
    (line, _link, _runbook) = fleet.got[0].message.text.splitlines()
    assert "300 of 500 hosts unreachable" in line
    for machine in fleet.machines.values():
        machine.trouble = None
    fleet.run()
    assert fleet.titles()[2:] == 2 * ["[portmon] 300 hosts reachable again"]


def test_300_ports_down_on_60_hosts_are_one_message_per_route_with_the_worst_first(database: Database) -> None:
    routes = """
  routes:
    - {name: night, match: {severity: critical}, channels: [pager], language: zh, max_lines: 10, continue: true}
    - {name: all, channels: [chat]}
"""
    fleet = web_fleet(database, 80, TWO + routes, ports=(80, 443, 8080, 8081, 8082))
    names = list(fleet.machines)
    for name in names[:60]:
        for port in (80, 443, 8080, 8081, 8082):
            fleet.machines[name].kill(port)
    # One is worse than the others: everything of it is down.
    fleet.machines[names[59]].kill(22)
    fleet.run()
    chat, pager = ([got.message for got in fleet.got if got.channel == channel] for channel in ("chat", "pager"))
    assert [message.title for message in chat] == ["[portmon] 301 ports down on 60 hosts"]
    lines = chat[0].text.splitlines()
    assert lines[0].startswith("web059 tcp/22 ")
    assert "… and 251 more on 51 hosts" in chat[0].text
    assert "https://airflow.example.com/portmon" in chat[0].text
    assert [message.title for message in pager] == ["[portmon] 301 个端口中断，涉及 60 台主机"]
    assert len(re.findall("tcp/", pager[0].text)) == 10
    assert [message.route for message in (*chat, *pager)] == ["all", "night"]


def test_a_label_makes_messages_of_their_own(database: Database) -> None:
    fleet = web_fleet(database, 4, TWO + "  group_by: team\n")
    for machine in fleet.machines.values():
        machine.kill(80)
    fleet.run()
    assert sorted(fleet.titles("chat")) == [
        "[portmon] t0: 2 ports down on 2 hosts",
        "[portmon] t1: 2 ports down on 2 hosts",
    ]


# ── silences and acknowledgements ──────────────────────────────────────────────────────────────────


def silence(fleet: Fleet, minutes: int, **match: Any) -> int:
    with fleet.database.begin() as conn:
        return silences.add(
            conn,
            **match,
            starts_at=fleet.now,
            ends_at=fleet.now + timedelta(minutes=minutes),
            author="alice",
            reason="upgrade",
            now=fleet.now,
        )


def test_what_is_over_within_a_silence_goes_to_no_channel_and_is_recorded(database: Database) -> None:
    fleet = web_fleet(database, 2)
    silence(fleet, 30, hosts=("web000",))
    fleet.machines["web000"].kill(80)
    fleet.machines["web001"].kill(80)
    fleet.run()
    assert fleet.titles("chat") == ["[portmon] 1 port down on web001: tcp/80 nginx"]
    with database.begin() as conn:
        (withheld,) = deliveries.unfinished(conn, "chat")
    assert withheld.state == DeliveryState.WITHHELD
    assert withheld.reason is not None
    assert "silenced by alice" in withheld.reason
    assert "upgrade" in withheld.reason
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    fleet.number += 12
    fleet.run()
    assert len(fleet.titles("chat")) == 1
    with database.begin() as conn:
        assert deliveries.unfinished(conn) == []


def test_what_is_still_wrong_when_a_silence_ends_is_told_then(database: Database) -> None:
    fleet = web_fleet(database, 2)
    silence(fleet, 10, ports=((80, 80),))
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.run()
    assert fleet.titles() == []
    fleet.run()
    assert fleet.titles("chat") == ["[portmon] 1 port down on web000: tcp/80 nginx"]
    assert "down since 00:05 UTC" in fleet.got[0].message.text


def test_the_end_goes_to_the_channels_that_got_the_beginning_silenced_or_not(database: Database) -> None:
    fleet = web_fleet(database, 2)
    fleet.machines["web000"].kill(80)
    fleet.run()
    silence(fleet, 60, labels={"role": ("web",)})
    fleet.machines["web000"].start(80, "nginx")
    fleet.machines["web001"].start(9999, "nc")
    fleet.run()
    assert fleet.titles("chat") == [
        "[portmon] 1 port down on web000: tcp/80 nginx",
        "[portmon] 1 port recovered on web000: tcp/80 nginx",
    ]
    # No channel is told later that a port was new then.
    assert states(fleet, EventKind.NEW)["chat"][0] == DeliveryState.SILENCED


def test_an_acknowledgement_ends_reminders_until_it_recovers(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  repeat_every: 1h\n")
    fleet.machines["web000"].kill(80)
    fleet.machines["web001"].kill(80)
    fleet.run()
    with database.begin() as conn:
        alert = alerts.opened(conn)["port/id-web000/tcp/80"]
        silences.acknowledge(conn, alert.id, author="bob", reason="on it", now=fleet.now)
    fleet.number += 12
    fleet.run()
    assert fleet.titles("chat")[1:] == ["[portmon] still: 1 port down on web001: tcp/80 nginx"]
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    assert fleet.titles("chat")[2:] == ["[portmon] 1 port recovered on web000: tcp/80 nginx"]
    # It was for that time only.
    fleet.machines["web000"].kill(80)
    fleet.run()
    assert fleet.titles("chat")[3:] == ["[portmon] 1 port down on web000: tcp/80 nginx"]


# ── the end of the alert of a young port ────────────────────────────────────────────────────────


def retire_young(fleet: Fleet, host: str = "web000", port: int = 80) -> None:
    """A port that was down for as long as it is young: a note, and nothing is expected of it any more."""
    told = Event(
        f"{host}{port:025}", EventKind.RETIRED, fleet.now, "r", f"id-{host}", host, "tcp", port, details={"young": True}
    )
    with fleet.database.begin() as conn:
        change = tables.ports.delete().where(tables.ports.c.host_id == f"id-{host}", tables.ports.c.port == port)
        conn.execute(change)
        events.add(conn, [told])


def test_a_note_ends_the_alert_of_a_young_port_and_goes_to_no_channel(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  repeat_every: 1h\n")
    fleet.machines["web000"].kill(80)
    fleet.run()
    assert len(fleet.titles("chat")) == 1
    retire_young(fleet)
    with database.begin() as conn:
        assert alerts.standing(conn) == []
    fleet.run()
    with database.begin() as conn:
        assert (alerts.opened(conn), events.undispatched(conn)) == ({}, [])
        (over,) = alerts.ended_since(conn, fleet.start)
    assert (over.event.kind, over.role) == (EventKind.RETIRED, AlertRole.RESOLVED)
    fleet.number += 24
    fleet.run()
    assert len(fleet.titles("chat")) == 1
    assert states(fleet, EventKind.RETIRED) == {}


def test_what_a_note_ended_before_it_was_delivered_is_not_sent(database: Database) -> None:
    fleet = web_fleet(database, 2)
    fleet.dead = {"pager"}
    silence(fleet, 30, hosts=("web001",))
    for machine in fleet.machines.values():
        machine.kill(80)
    fleet.run()
    assert states(fleet, EventKind.DOWN)["pager"][0] in (DeliveryState.PENDING, DeliveryState.WITHHELD)
    for name in fleet.machines:
        retire_young(fleet, name)
    fleet.dead = set()
    fleet.run()
    fleet.number += 12
    fleet.run()
    assert fleet.titles("pager") == []
    with database.begin() as conn:
        assert deliveries.unfinished(conn) == []


# ── flapping when a silence ends ────────────────────────────────────────────────────────────────


def happens(fleet: Fleet, kind: EventKind, port: int | None, **details: Any) -> None:
    """An event of web000 or of a port of it, whatever the engine would say."""
    if port is None:
        details["subject"] = "host"
    with fleet.database.begin() as conn:
        host = hosts.listed(conn)["id-web000"]
        made = monitor_event(kind, at=fleet.now, run_id="r", reason="why", evidence=str(fleet.number), details=details)
        subject: dict[str, Any] = {"host_id": host.id, "host_name": host.name, "labels": dict(host.labels)}
        if port is not None:
            subject |= {"protocol": "tcp", "port": port}
        events.add(conn, [replace(made, id=f"{fleet.number:032}", **subject)])


def becomes(fleet: Fleet, port: int | None, *, well: bool, at: datetime | None) -> None:
    """What is stored of web000 or of a port of it, which flaps."""
    if port is None:
        status = HostStatus.OK if well else HostStatus.UNREACHABLE
        change = update(tables.hosts).where(tables.hosts.c.host_id == "id-web000").values(status=status, changed_at=at)
    else:
        own = (tables.ports.c.host_id == "id-web000", tables.ports.c.port == port)
        state = {"status": PortStatus.UP if well else PortStatus.DOWN, "flapping_since": fleet.start}
        change = update(tables.ports).where(*own).values(**state, changed_at=at)
    with fleet.database.begin() as conn:
        conn.execute(change)


def silenced_flapping(database: Database, port: int | None) -> tuple[Fleet, datetime]:
    """A maintenance of an hour in which a port or its host flaps, just before its end, and when it changed last."""
    fleet = web_fleet(database, 2)
    silence(fleet, 60, hosts=("web000",))
    happens(fleet, EventKind.FLAPPING, port)
    becomes(fleet, port, well=False, at=fleet.now)
    assert fleet.route() == set()
    fleet.number += 10
    return fleet, fleet.now


@pytest.mark.parametrize("port", [80, None])
def test_flapping_that_was_over_before_its_silence_ended_is_never_told(database: Database, port: int | None) -> None:
    fleet, last = silenced_flapping(database, port)
    becomes(fleet, port, well=True, at=last)
    for _ in range(10):
        assert fleet.route() == set()
        fleet.number += 1
    state, reason = states(fleet, EventKind.FLAPPING)["chat"]
    assert state == DeliveryState.WITHHELD
    assert reason is not None
    assert reason.startswith("well and unchanged since before this ended: silenced by alice")
    happens(fleet, EventKind.STABLE, port, state="up" if port else "ok")
    becomes(fleet, port, well=True, at=None)
    assert fleet.route() == set()
    assert states(fleet, EventKind.FLAPPING)["chat"] == (DeliveryState.SILENCED, reason)
    assert states(fleet, EventKind.STABLE) == {}


@pytest.mark.parametrize("port", [80, None])
@pytest.mark.parametrize("unknown", [False, True])
def test_flapping_of_what_is_not_known_to_be_well_is_told_when_its_silence_ends(
    database: Database, port: int | None, unknown: bool
) -> None:
    fleet, last = silenced_flapping(database, port)
    becomes(fleet, port, well=unknown, at=None if unknown else last)
    assert fleet.route() == set()
    fleet.number += 2
    assert fleet.route() == {AlertGroup.DOWN if port else AlertGroup.UNREACHABLE}
    assert states(fleet, EventKind.FLAPPING)["chat"] == (DeliveryState.PENDING, None)


@pytest.mark.parametrize("port", [80, None])
def test_what_changes_again_after_a_silence_is_told_then_with_its_end(database: Database, port: int | None) -> None:
    fleet, last = silenced_flapping(database, port)
    becomes(fleet, port, well=True, at=last)
    fleet.number += 4
    assert fleet.route() == set()
    # Down and up again between two looks.
    becomes(fleet, port, well=True, at=fleet.now)
    assert len(fleet.route()) == 1
    assert states(fleet, EventKind.FLAPPING)["chat"] == (DeliveryState.PENDING, None)
    fleet.number += 1
    happens(fleet, EventKind.STABLE, port, state="up" if port else "ok")
    fleet.route()
    assert states(fleet, EventKind.STABLE)["chat"][0] == DeliveryState.PENDING


def test_flapping_within_an_acknowledgement_is_over_too_and_the_end_of_what_was_told_is_told(
    database: Database,
) -> None:
    fleet = web_fleet(database, 2)
    fleet.machines["web000"].kill(80)
    fleet.run()
    with database.begin() as conn:
        (alert,) = alerts.opened(conn).values()
        until = fleet.now + timedelta(minutes=30)
        silences.acknowledge(conn, alert.id, author="bob", now=fleet.now, ends_at=until)
    happens(fleet, EventKind.FLAPPING, 80)
    becomes(fleet, 80, well=True, at=fleet.now)
    for _ in range(8):
        assert fleet.route() == set()
        fleet.number += 1
    assert states(fleet, EventKind.FLAPPING)["chat"][0] == DeliveryState.WITHHELD
    happens(fleet, EventKind.STABLE, 80, state="up")
    becomes(fleet, 80, well=True, at=None)
    fleet.alert()
    # The channels know it as down: they would wait for its end.
    assert [title.split(":")[0] for title in fleet.titles("chat")] == [
        "[portmon] 1 port down on web000",
        "[portmon] 1 port stable again on web000",
    ]


def test_a_service_that_is_restarted_often_within_a_silence_and_is_up_for_good_is_not_told(database: Database) -> None:
    fleet = web_fleet(database, 1)
    silence(fleet, 60, hosts=("web000",))
    machine = fleet.machines["web000"]
    for _ in range(5):
        machine.kill(80)
        fleet.run()
        machine.start(80, "nginx")
        fleet.run()
    found = [event.kind for _ in range(30) for event in fleet.run()]
    assert found == [EventKind.STABLE]
    assert fleet.titles() == []


# ── reminders ───────────────────────────────────────────────────────────────────────────────────


def test_what_stays_wrong_is_told_again_in_one_message(database: Database) -> None:
    fleet = web_fleet(database, 3, TWO + "  repeat_every: 2h\n")
    for name, after in (("web000", 0), ("web001", 6), ("web002", 15)):
        fleet.number += after
        fleet.machines[name].kill(80)
        fleet.run()
    before = len(fleet.got)
    while len(fleet.got) == before:
        fleet.run()
    # Of the first it is 2 h, of the second 1 h 25: together. The third was told half an hour ago.
    assert fleet.got[-1].at - fleet.start >= timedelta(hours=2)
    assert {got.message.title for got in fleet.got[before:]} == {"[portmon] still: 2 ports down on 2 hosts"}
    assert all(got.message.reminder for got in fleet.got[before:])
    assert "still down since 03-02 00:05 UTC" in fleet.got[-1].message.text


def test_no_reminder_goes_out_where_it_is_switched_off(database: Database) -> None:
    fleet = web_fleet(database, 1, TWO + "  repeat_every: 0\n")
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.number += 1000
    assert fleet.route() == set()


# ── channels that fail ──────────────────────────────────────────────────────────────────────────


def test_a_dead_channel_hears_one_line_of_what_is_over(database: Database) -> None:
    fleet = web_fleet(database, 2)
    fleet.dead = {"pager"}
    for machine in fleet.machines.values():
        machine.kill(80)
    fleet.run()
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    fleet.dead = set()
    fleet.run()
    assert len(fleet.titles("chat")) == 2
    assert sorted(fleet.titles("pager")) == [
        "[portmon] 1 port down on web001: tcp/80 nginx",
        "[portmon] 1 port recovered on web000: tcp/80 nginx",
    ]
    assert "(not told before)" in "".join(got.message.text for got in fleet.got if got.channel == "pager")


def test_what_is_given_up_is_logged_once_and_still_reminded_of(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = web_fleet(database, 2, TWO + "  give_up_after: 1h\n  repeat_every: 90m\n")
    fleet.dead = {"pager"}
    fleet.machines["web000"].kill(80)
    fleet.run()
    with caplog.at_level(logging.ERROR, logger="portmon.steps.dispatch"):
        for _ in range(14):
            fleet.run()
    (record,) = [record for record in caplog.records if record.name == "portmon.steps.dispatch"]
    assert "'pager' did not take for 1h what is given up now: down web000 tcp/80." in record.getMessage()
    assert "connection refused" in record.getMessage()
    state, reason = states(fleet, EventKind.DOWN)["pager"]
    assert (state, reason) == (DeliveryState.EXPIRED, "given up after 1h: channel 'pager': connection refused")
    fleet.dead = set()
    for _ in range(6):
        fleet.run()
    # It goes on: the next reminder is the pager's first message about it. Then the pager gets the end as well.
    assert fleet.titles("pager") == ["[portmon] still: 1 port down on web000: tcp/80 nginx"]
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    assert fleet.titles("pager")[1:] == ["[portmon] 1 port recovered on web000: tcp/80 nginx"]


def test_who_never_heard_of_it_does_not_hear_of_its_end(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  give_up_after: 1h\n  repeat_every: 0\n")
    fleet.dead = {"pager"}
    fleet.machines["web000"].kill(80)
    for _ in range(15):
        fleet.run()
    fleet.dead = set()
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    assert len(fleet.titles("chat")) == 2
    assert fleet.titles("pager") == []


def test_a_channel_that_does_not_want_the_end(database: Database) -> None:
    fleet = web_fleet(database, 1, TWO.replace("name: pager", "name: pager, send_resolved: false"))
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    assert (len(fleet.titles("chat")), len(fleet.titles("pager"))) == (2, 1)


def test_a_message_that_may_have_come_through_comes_again_as_the_same(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO.replace("{type: log, name: pager}", "{type: webhook, name: pager, conn_id: x}"))
    ids: list[str] = []

    def crash(channel: Any, message: Message) -> None:
        if channel.name == "pager":
            ids.append(message.id)
            if len(ids) == 1:
                raise KeyboardInterrupt

    fleet.on_send = crash
    fleet.machines["web000"].kill(80)
    with pytest.raises(KeyboardInterrupt):
        fleet.run()
    fleet.number += 1
    fleet.machines["web001"].kill(80)
    fleet.run()
    # What is new is another message: the receiver knows the first by its id.
    assert len(ids) == 3
    assert ids[1] == ids[0] or ids[2] == ids[0]


# ── ends without a recovery ─────────────────────────────────────────────────────────────────────


def test_a_rule_that_excludes_a_port_closes_its_alert_for_those_who_got_it(database: Database) -> None:
    fleet = web_fleet(database, 2)
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.config = parse_config("rules:\n  - {action: deny, port: 80}\n" + TWO)
    # The rule may be a mistake of one run.
    assert fleet.run() == []
    assert [event.kind for event in fleet.run()] == [EventKind.UNWATCHED]
    assert fleet.titles("chat")[1:] == ["[portmon] 1 port no longer watched on web000: tcp/80 nginx"]
    with database.begin() as conn:
        assert alerts.opened(conn) == {}


def test_the_host_key_alert_of_a_host_that_left_is_closed(database: Database) -> None:
    fleet = web_fleet(database, 8)
    fleet.machines["web000"].trouble = "host_key_changed"
    fleet.run()
    assert fleet.titles("chat") == ["[portmon] host key changed on 1 host: web000"]
    fleet.listed.discard("web000")
    fleet.run()
    with database.begin() as conn:
        assert alerts.opened(conn) == {}
        assert conditions.since(conn, "host_key/id-web000") is None
    assert len(fleet.titles("chat")) == 2


def test_alertmanager_is_told_again_and_of_the_end_for_a_while(database: Database) -> None:
    fleet = web_fleet(database, 2, "alerts:\n  channels:\n    - {type: alertmanager}\n")
    posts: list[tuple[str, ...]] = []
    fleet.on_send = lambda channel, message: posts.append(
        tuple(f"{alert.role}/{alert.event.kind}" for alert in message.alerts)
    )
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.run()
    fleet.run()
    assert posts == [("firing/down",)] * 3
    assert [got.message.expires_at - got.at for got in fleet.got] == [timedelta(minutes=20)] * 3  # type: ignore[operator]
    fleet.machines["web000"].start(80, "nginx")
    for _ in range(4):
        fleet.run()
    assert posts[3:] == [("resolved/recovered",)] * 2
    assert fleet.route() == set()


def test_a_down_that_is_open_is_not_opened_again(database: Database) -> None:
    fleet = web_fleet(database, 1)
    fleet.machines["web000"].kill(80)
    fleet.run()
    assert fleet.route() == set()
    assert fleet.deliver(AlertGroup.DOWN) == 0
    with database.begin() as conn:
        assert len(alerts.opened(conn)) == 1


def test_what_routing_and_sending_cost_does_not_grow_with_the_events(database: Database) -> None:
    def cost(count: int) -> list[int]:
        own = migrated(Path(f"{database.url.database}{count}"))
        fleet = web_fleet(own, count)
        for machine in fleet.machines.values():
            machine.kill(80)
        fleet.alert = lambda groups=None: None  # type: ignore[method-assign]
        fleet.run()
        statements = [0]
        listen(fleet.database.engine, "before_cursor_execute", lambda *_: statements.__setitem__(0, statements[0] + 1))
        found = []
        for step in (fleet.route, lambda: fleet.deliver(AlertGroup.DOWN), fleet.route):
            statements[0] = 0
            step()
            found.append(statements[0])
        fleet.database.dispose()
        return found

    assert cost(100) == cost(3)
