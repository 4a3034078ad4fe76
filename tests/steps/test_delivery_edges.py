"""Where delivery meets what rarely happens: hosts that leave, channels that change, tasks that die."""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from portmon.airflow import http
from portmon.airflow.outside import deliver
from portmon.alerting.channels.alertmanager import payload
from portmon.config import parse_config
from portmon.engine.events import monitor_event
from portmon.errors import DeliveryError, OverrunError, StorageError
from portmon.model.alert import DeliveryState
from portmon.model.event_kinds import EventKind
from portmon.storage import alerts, deliveries, events, hosts, silences
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.fleet import TWO, Fleet, web_fleet
from tests.worlds.sshd import tcp_server

AM = "alerts:\n  channels:\n    - {type: alertmanager}\n"
ALL = TWO + "    - {type: alertmanager}\n"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    yield made
    made.dispose()


class FakeAlertmanager:
    """Keeps alerts as provider/mem of Alertmanager does: merged if they overlap, else replaced by what came last."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.kept: dict[tuple[tuple[str, str], ...], tuple[str, str]] = {}

    def take(self, channel: Any, message: Any) -> None:
        if channel.type != "alertmanager":
            return
        stamp = self.stamp(self.fleet.now)
        for posted in payload(message):
            key = tuple(sorted(posted["labels"].items()))
            start, end = posted["startsAt"], posted["endsAt"]
            if key in self.kept:
                old_start, old_end = self.kept[key]
                if old_start < end < old_end or old_start < start < old_end:
                    start = min(start, old_start)
                    over, was_over = end <= stamp, old_end <= stamp
                    if not over or was_over:
                        end = max(end, old_end)
            self.kept[key] = start, end

    @staticmethod
    def stamp(now: datetime) -> str:
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def firing(self, now: datetime) -> list[str]:
        stamp = self.stamp(now)
        return [dict(key)["alertname"] for key, (_, end) in self.kept.items() if end > stamp]


# ── 1 Alertmanager ──────────────────────────────────────────────────────────────────────────────


def test_the_repeated_end_of_an_old_alert_does_not_resolve_the_new_one(database: Database) -> None:
    fleet = web_fleet(database, 1, AM)
    am = FakeAlertmanager(fleet)
    fleet.on_send = am.take
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    fleet.machines["web000"].kill(80)
    fleet.run()
    with database.begin() as conn:
        assert len(alerts.opened(conn)) == 1
    assert am.firing(fleet.now) == ["PortDown"]


def test_alertmanager_hears_of_what_goes_on_after_it_was_away_for_long(database: Database) -> None:
    fleet = web_fleet(database, 1, AM + "  give_up_after: 1h\n")
    am = FakeAlertmanager(fleet)

    def take(channel: Any, message: Any) -> None:
        if channel.name not in fleet.dead:
            am.take(channel, message)

    fleet.on_send = take
    fleet.dead = {"alertmanager"}
    fleet.machines["web000"].kill(80)
    for _ in range(15):
        fleet.run()
    fleet.dead = set()
    for _ in range(3):
        fleet.run()
    assert am.firing(fleet.now) == ["PortDown"]


def test_a_renamed_alertmanager_channel_does_not_resolve_what_goes_on(database: Database) -> None:
    fleet = web_fleet(database, 1, AM)
    am = FakeAlertmanager(fleet)
    fleet.on_send = am.take
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.config = parse_config("alerts:\n  channels:\n    - {type: alertmanager, name: prod}\n")
    for _ in range(6):
        fleet.run()
    assert am.firing(fleet.now) == ["PortDown"]


def test_alertmanager_without_send_resolved_gets_no_end(database: Database) -> None:
    fleet = web_fleet(database, 1, AM.replace("{type: alertmanager}", "{type: alertmanager, send_resolved: false}"))
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.machines["web000"].start(80, "nginx")
    before = len(fleet.got)
    fleet.run()
    roles = {str(alert.role) for got in fleet.got[before:] for alert in got.message.alerts}
    assert "resolved" not in roles


def test_the_end_has_the_labels_of_the_beginning_whatever_is_expired(database: Database) -> None:
    fleet = web_fleet(database, 1, AM + "retention: {events: 1h}\n")
    am = FakeAlertmanager(fleet)

    def take(channel: Any, message: Any) -> None:
        if channel.name not in fleet.dead:
            am.take(channel, message)

    fleet.on_send = take
    fleet.machines["web000"].kill(80)
    for _ in range(15):
        fleet.run()
    fleet.machines["web000"].start(80, "nginx")
    fleet.dead = {"alertmanager"}
    fleet.run()
    fleet.run()  # the first event is expired here, the end is still to be sent
    fleet.dead = set()
    fleet.run()
    assert len(am.kept) == 1
    assert am.firing(fleet.now) == []


# ── 2 lost ends, alerts that stay open ──────────────────────────────────────────────────────────


def test_an_end_that_is_still_to_be_sent_survives_a_rule_that_excludes_the_port(database: Database) -> None:
    fleet = web_fleet(database, 2)
    fleet.machines["web000"].kill(80)
    fleet.run()
    assert len(fleet.titles("pager")) == 1
    fleet.dead = {"pager"}
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    fleet.config = parse_config("rules:\n  - {action: deny, port: 80}\n" + TWO)
    fleet.run()
    fleet.dead = set()
    fleet.run()
    assert len(fleet.titles("pager")) == 2  # its incident would never be closed


def test_an_end_that_is_still_to_be_sent_survives_that_its_host_leaves(database: Database) -> None:
    fleet = web_fleet(database, 8)
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.dead = {"pager"}
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    fleet.listed.discard("web000")
    fleet.run()
    fleet.dead = set()
    fleet.run()
    assert len(fleet.titles("pager")) == 2


def test_no_alert_stays_open_for_a_host_that_left_before_its_recovery_was_routed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = web_fleet(database, 8)
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.machines["web000"].start(80, "nginx")
    with monkeypatch.context() as patch:
        patch.setattr(fleet.__class__, "alert", lambda self: None)  # route_alerts of this run is red
        fleet.run()
    fleet.listed.discard("web000")
    for _ in range(3):
        fleet.run()
    with database.begin() as conn:
        assert alerts.opened(conn) == {}


def test_the_end_that_a_prune_wrote_waits_for_the_evaluation(database: Database) -> None:
    fleet = web_fleet(database, 12)
    fleet.machines["web000"].kill(80)
    fleet.machines["web001"].trouble = "host_key_changed"
    fleet.run()
    told = len(fleet.titles("chat"))
    fleet.listed -= {"web000", "web001"}
    # Whatever dispatches: a cleared route_alerts of an earlier run, a replay with `notify`.
    fleet.run(evaluate=False)
    assert len(fleet.titles("chat")) == told
    with database.begin() as conn:
        assert {alert.first.host_name for alert in alerts.opened(conn).values()} == {"web000", "web001"}
    fleet.run()
    # The end of web000 and of the key of web001, in one message.
    assert len(fleet.titles("chat")) == told + 1
    with database.begin() as conn:
        assert alerts.opened(conn) == {}


@pytest.mark.parametrize("was_away", [False, True], ids=["at once", "while a channel is away"])
def test_the_end_of_what_another_host_took_over_goes_to_no_chat(database: Database, was_away: bool) -> None:
    fleet = web_fleet(database, 12, ALL)
    am = FakeAlertmanager(fleet)
    fleet.on_send = am.take
    for name in ("web000", "web001"):
        fleet.machines[name].kill(80)
    fleet.run()
    assert len(am.firing(fleet.now)) == 2
    told = len(fleet.titles("chat"))
    fleet.listed -= {"web000", "web001"}
    fleet.dead = {"chat", "pager"} if was_away else set()
    if was_away:
        fleet.run()
    run = fleet.run_of()
    fleet.scan_and_evaluate(run)
    with database.begin() as conn:
        new, details = hosts.listed(conn)["id-web002"], {"from": "id-web000"}
        own = {"at": fleet.now, "run_id": run.run_id, "reason": "why", "evidence": "x"}
        made = monitor_event(EventKind.TAKEN_OVER, details=details, **own)
        events.add(conn, [dataclasses.replace(made, host_id=new.id, host_name=new.name, labels=dict(new.labels))])
    fleet.dead = set()
    fleet.alert()
    assert am.firing(fleet.now) == []
    for channel in ("chat", "pager"):
        assert fleet.titles(channel)[told:] == ["[portmon] 1 port no longer watched on web001: tcp/80 nginx"]
    with database.begin() as conn:
        ends = {one.id: one.host_name for one in events.recent(conn) if one.kind is EventKind.RETIRED}
        found = {(ends[own], channel): one for (own, channel), one in deliveries.of_events(conn, [*ends]).items()}
    assert found["web000", "alertmanager"].state == DeliveryState.DELIVERED
    assert found["web000", "chat"].reason == "it goes on as web002, which took the host over"
    # Another host of the same id that leaves much later is none that was taken over.
    fleet.number += 1
    fleet.listed.add("web000")
    fleet.run()
    fleet.machines["web000"].start(80, "nginx")
    fleet.run()
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.listed.discard("web000")
    fleet.run()
    assert fleet.titles("chat")[-1] == "[portmon] 1 port no longer watched on web000: tcp/80 nginx"


def test_what_is_watched_again_and_still_down_fires_again(database: Database) -> None:
    fleet = web_fleet(database, 2, ALL)
    am = FakeAlertmanager(fleet)
    fleet.on_send = am.take
    fleet.dead = {"pager"}
    fleet.machines["web000"].kill(80)
    fleet.run()
    with database.begin() as conn:
        first = alerts.opened(conn)["port/id-web000/tcp/80"]
    watching, fleet.config = fleet.config, parse_config("rules:\n  - {action: deny, port: 80}\n" + ALL)
    fleet.run()
    fleet.run()
    fleet.dead = set()
    fleet.run()
    unwatched = "[portmon] 1 port no longer watched on web000: tcp/80 nginx"
    assert (fleet.titles("chat")[-1], fleet.titles("pager")) == (unwatched, [])
    assert am.firing(fleet.now) == []
    fleet.config = watching
    (again,) = fleet.run()
    assert again.kind is EventKind.DOWN
    assert fleet.titles("chat")[-1] == fleet.titles("pager")[-1] == "[portmon] 1 port down on web000: tcp/80 nginx"
    assert am.firing(fleet.now) == ["PortDown"]
    ((start, _),) = am.kept.values()
    assert start == am.stamp(first.starts_at)
    with database.begin() as conn:
        second = alerts.opened(conn)["port/id-web000/tcp/80"]
    assert (second.id, second.starts_at) == (again.id, first.starts_at)
    # The end of the first alert is not repeated over the second.
    fleet.alert()
    assert am.firing(fleet.now) == ["PortDown"]


# ── 3 states that get stuck ─────────────────────────────────────────────────────────────────────


def test_what_was_under_way_to_a_channel_that_is_gone_ends(database: Database) -> None:
    fleet = web_fleet(database, 2)

    def crash(channel: Any, message: Any) -> None:
        if channel.name == "pager":
            raise KeyboardInterrupt

    fleet.on_send = crash
    fleet.machines["web000"].kill(80)
    with pytest.raises(KeyboardInterrupt):
        fleet.run()
    fleet.on_send = lambda channel, message: None
    fleet.config = parse_config("alerts:\n  channels:\n    - {type: log, name: chat}\n")
    fleet.number += 24 * 12 * 30
    fleet.run()
    with database.begin() as conn:
        assert deliveries.unfinished(conn, "pager") == []


def test_a_message_whose_sender_dies_each_time_is_given_up_too(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  give_up_after: 1h\n")

    def crash(channel: Any, message: Any) -> None:
        if channel.name == "pager":
            raise KeyboardInterrupt  # stands for a notifier that takes the process with it

    fleet.on_send = crash
    fleet.machines["web000"].kill(80)
    for _ in range(15):
        fleet.number += 1
        try:
            fleet.run()
        except KeyboardInterrupt:
            pass
    with database.begin() as conn:
        assert deliveries.unfinished(conn, "pager") == []


# ── 4 races with the dispatch of the next run ───────────────────────────────────────────────────


def test_what_was_withheld_meanwhile_is_not_sent_or_is_known_as_sent(database: Database) -> None:
    """alert_down of a run lives on (timed out, or its heartbeat was lost) while route_alerts of the next one runs."""
    fleet = web_fleet(database, 2, TWO.replace("    - {type: log, name: chat}\n", "") + "  group_by: host\n")
    for name, machine in fleet.machines.items():
        fleet.machines[name].host.labels["host"] = name  # type: ignore[index]
        machine.kill(80)
    done = []

    def first(channel: Any, message: Any) -> None:
        if done:
            return
        done.append(1)
        with database.begin() as conn:
            silences.add(
                conn, hosts=("*",), author="a", reason="r", now=fleet.now, ends_at=fleet.now + timedelta(minutes=4)
            )
        fleet.route()

    fleet.on_send = first
    fleet.run()
    fleet.run()  # the silence is over
    assert len(fleet.titles("pager")) == 2  # each once
    for machine in fleet.machines.values():
        machine.start(80, "nginx")
    fleet.run()


def test_a_database_that_is_busy_once_after_a_message_makes_no_duplicate(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = web_fleet(database, 2)
    original, busy = deliveries.delivered, [1]

    def delivered(*args: Any, **kwargs: Any) -> None:
        if busy:
            busy.pop()
            raise StorageError("sqlite:///state.db: database is locked")
        original(*args, **kwargs)

    monkeypatch.setattr(deliveries, "delivered", delivered)
    fleet.machines["web000"].kill(80)
    try:
        fleet.run()
    except StorageError:
        fleet.number += 1
    fleet.run()
    assert (len(fleet.titles("chat")), len(fleet.titles("pager"))) == (1, 1)


# ── 5 silences ─────────────────────────────────────────────────────────────────────────────────────


def test_the_end_of_what_no_channel_got_is_silenced_too(database: Database) -> None:
    fleet = web_fleet(database, 2)
    fleet.dead = {"pager", "chat"}
    fleet.machines["web000"].kill(80)
    fleet.run()
    with database.begin() as conn:
        silences.add(conn, hosts=("*",), author="a", reason="r", now=fleet.now, ends_at=fleet.now + timedelta(hours=4))
    fleet.machines["web000"].start(80, "nginx")
    fleet.dead = set()
    fleet.run()
    assert fleet.titles() == []


# ── 6 storms and duplicates of slow receivers ───────────────────────────────────────────────────


@pytest.mark.slow
def test_a_receiver_that_is_slow_to_answer_does_not_get_a_message_hundreds_of_times_a_day(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  repeat_every: 6h\n  give_up_after: 2h\n")
    took = []

    def late(channel: Any, message: Any) -> None:
        if channel.name == "pager":
            took.append(fleet.now)
            raise DeliveryError("no answer within 60 s", channel="pager") from OverrunError("not done")

    fleet.dead = {"pager"}
    fleet.on_send = late
    fleet.machines["web000"].kill(80)
    for _ in range(12 * 12):
        fleet.run()  # one try each; Airflow makes three of it
    assert len(took) < 40


def test_two_reminders_within_an_hour_are_two_messages(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  repeat_every: 20m\n")
    fleet.machines["web000"].kill(80)
    for _ in range(11):
        fleet.run()
    ids = [got.message.id for got in fleet.got if got.channel == "chat"]
    assert len(ids) > 2
    assert len(set(ids)) == len(ids)


def test_a_request_whose_answer_does_not_come_may_have_come_through(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server took the request and said nothing for SILENCE seconds."""
    monkeypatch.setattr(http, "SILENCE", 0.3)
    taken: list[bytes] = []

    def serve(connection: socket.socket, over: threading.Event) -> None:
        taken.append(connection.recv(65536))
        over.wait()

    with tcp_server(serve) as port:
        monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps({"conn_type": "http", "host": "127.0.0.1", "port": port}))
        fleet = web_fleet(database, 2, "alerts:\n  channels:\n    - {type: webhook, name: hook, conn_id: hook}\n")

        def real(channel: Any, message: Any) -> None:
            deliver(channel, message)

        fleet.dead = {"hook"}
        fleet.on_send = real
        fleet.machines["web000"].kill(80)
        fleet.run()
    assert taken
    with database.begin() as conn:
        (one,) = deliveries.unfinished(conn, "hook")
    # Else it goes again under another id as soon as something else is down, and its end is lost if it is given up.
    assert one.message_id is not None


# ── 7 secrets ───────────────────────────────────────────────────────────────────────────────────


def test_an_unexpected_error_of_a_channel_is_logged_without_addresses(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = web_fleet(database, 2)

    def fail(channel: Any, message: Any) -> None:
        if channel.name == "pager":
            raise RuntimeError("POST https://hooks.example.com/services/T000/B000/SECRETSECRET failed")

    fleet.dead = {"pager"}
    fleet.on_send = fail
    fleet.machines["web000"].kill(80)
    with caplog.at_level(logging.INFO):
        fleet.run()
    with database.begin() as conn:
        (one,) = deliveries.unfinished(conn, "pager")
    assert "SECRETSECRET" not in (one.reason or "")
    assert "SECRETSECRET" not in caplog.text


# ── 8 reminders ─────────────────────────────────────────────────────────────────────────────────


def test_a_dead_apprise_target_does_not_make_a_storm_of_reminders_for_the_others(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  repeat_every: 30m\n")
    took: list[str] = []
    targets = {"slack", "dead"}

    def apprise(channel: Any, message: Any) -> None:
        if channel.name == "pager" and "dead" in targets and message.reminder:
            if "slack" not in fleet.done:
                took.append(message.title)
            raise DeliveryError("1 of 2 targets did not take the message", channel="pager", delivered=("slack",))

    fleet.dead = set()
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.on_send = apprise
    fleet.dead = {"another"}  # failures are allowed
    for _ in range(3 * 6):
        fleet.run()  # one try each; Airflow makes three of it
    assert len(took) <= 3


def test_a_reminder_that_is_refused_holds_no_reminder_of_another_team(database: Database) -> None:
    fleet = web_fleet(
        database, 2, TWO.replace("    - {type: log, name: chat}\n", "") + "  repeat_every: 1h\n  group_by: team\n"
    )
    for number, machine in enumerate(fleet.machines.values()):
        machine.host.labels["team"] = f"t{number}"  # type: ignore[index]
    fleet.run()
    for machine in fleet.machines.values():
        machine.kill(80)
    fleet.run()
    fleet.dead = {"another"}

    def refuse(channel: Any, message: Any) -> None:
        if message.reminder and "t0" in message.title:
            raise DeliveryError("HTTP 413", channel=channel.name)

    fleet.on_send = refuse
    for _ in range(15):
        fleet.run()
    assert any("still" in title and "t1" in title for title in fleet.titles())


def test_a_silence_of_the_new_name_of_a_host_counts_for_its_open_alert(database: Database) -> None:
    fleet = web_fleet(database, 2, TWO + "  repeat_every: 1h\n")
    machine = fleet.machines["web000"]
    machine.kill(80)
    fleet.run()
    machine.host = dataclasses.replace(machine.host, name="old-web000", labels={"role": "decommissioned"})
    fleet.run()
    with database.begin() as conn:
        silences.add(
            conn,
            labels={"role": ("decommissioned",)},
            author="a",
            reason="r",
            now=fleet.now,
            ends_at=fleet.now + timedelta(hours=4),
        )
    for _ in range(15):
        fleet.run()
    assert not [title for title in fleet.titles() if "still" in title]


# ── 9 what comes after a hang ───────────────────────────────────────────────────────────────────


def test_a_channel_that_hung_for_an_hour_gets_no_message_per_run_afterwards(database: Database) -> None:
    fleet = web_fleet(database, 14)

    def hang(channel: Any, message: Any) -> None:
        if channel.name == "pager" and "pager" in fleet.dead:
            raise DeliveryError("no answer within 60 s", channel="pager") from OverrunError("not done")

    fleet.on_send = hang
    fleet.dead = {"pager"}
    for name in sorted(fleet.machines)[:12]:
        fleet.machines[name].kill(80)
        fleet.run()
    fleet.dead = set()
    fleet.number += 12
    fleet.run()
    assert len(fleet.titles("pager")) <= 2


def test_what_waits_for_a_channel_that_was_taken_out_is_cancelled_and_says_so(database: Database) -> None:
    fleet = web_fleet(database, 2)
    fleet.dead = {"pager"}
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.dead = set()
    fleet.config = parse_config("alerts:\n  channels:\n    - {type: log, name: chat}\n")
    fleet.run()
    with database.begin() as conn:
        assert deliveries.unfinished(conn, "pager") == []
