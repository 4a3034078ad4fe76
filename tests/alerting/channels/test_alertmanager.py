"""Alerts as Alertmanager takes them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.alerting.channels.alertmanager import OWN_LABELS, is_uri, labels, payload
from portmon.model.event_kinds import AlertRole, EventKind, Severity
from portmon.text import plain
from tests.worlds.messages import LINK, NOW, alert, event, message

HOUR = timedelta(hours=1)


def test_what_goes_on_fires_until_it_is_due_again() -> None:
    down = event(program="java", unit="app.service", labels={"site": "fra1"}, since=NOW - HOUR, last_seen=NOW - HOUR)
    (sent,) = payload(message(alert(down, starts_at=NOW - HOUR), links=(LINK,)))
    assert sent == {
        "labels": {
            "alertname": "PortDown",
            "job": "portmon",
            "host": "web01",
            "host_id": "id-of-web01",
            "port": "8080",
            "protocol": "tcp",
            "program": "java",
            "unit": "app.service",
            "severity": "critical",
            "site": "fra1",
        },
        "annotations": {
            "summary": "tcp/8080 (java) on web01 is down",
            "description": "2 complete looks in a row did not show it",
            "kind": "down",
            "severity": "critical",
            "at": "2026-03-09T12:00:00.000Z",
            "since": "2026-03-09T11:00:00.000Z",
            "last_seen": "2026-03-09T11:00:00.000Z",
        },
        "startsAt": "2026-03-09T11:00:00.000Z",
        "endsAt": "2026-03-09T12:20:00.000Z",
        "generatorURL": LINK,
    }


def test_labels_are_those_of_the_first_event_for_as_long_as_it_lives() -> None:
    first = event(program="java", labels={"site": "fra1"})
    later = event(EventKind.FLAPPING, "renamed", program="other", labels={"site": "ams2"}, details={"state": "down"})
    end = event(EventKind.RECOVERED, program="java", at=NOW + HOUR)
    tellings = [
        alert(first, id="a"),
        alert(later, id="a", first=first, starts_at=NOW),
        alert(end, AlertRole.RESOLVED, id="a", first=first, starts_at=NOW, ends_at=end.at),
    ]
    assert len({json.dumps(labels(one)) for one in tellings}) == 1
    assert len({json.dumps(payload(message(one))[0]["annotations"]) for one in tellings}) == 3


def test_end_is_the_alerts_own() -> None:
    end = event(EventKind.RECOVERED, at=NOW + HOUR)
    (sent,) = payload(message(alert(end, AlertRole.RESOLVED, first=event(), starts_at=NOW, ends_at=end.at)))
    assert (sent["startsAt"], sent["endsAt"]) == ("2026-03-09T12:00:00.000Z", "2026-03-09T13:00:00.000Z")


def test_end_before_the_beginning_which_alertmanager_refuses_never_leaves() -> None:
    resolved = alert(event(EventKind.RECOVERED), AlertRole.RESOLVED, first=event(), starts_at=NOW, ends_at=NOW - HOUR)
    late = alert(event(at=NOW + 2 * HOUR))
    for one in (resolved, late):
        (sent,) = payload(message(one))
        assert sent["endsAt"] == sent["startsAt"]


def test_notice_begins_with_its_event() -> None:
    (sent,) = payload(message(alert(event(EventKind.NEW), AlertRole.NOTICE, starts_at=NOW - HOUR)))
    assert sent["labels"]["alertname"] == "PortNew"
    assert (sent["startsAt"], sent["endsAt"]) == ("2026-03-09T12:00:00.000Z", "2026-03-09T12:20:00.000Z")


def test_without_an_expiry_alertmanager_decides() -> None:
    (sent,) = payload(message(alert(), expires_at=None))
    assert "endsAt" not in sent


def test_end_of_an_old_alert_does_not_end_the_next_one_of_the_same_port() -> None:
    """Alertmanager knows both by the same labels, and keeps what comes last."""
    first, again = event(), event(at=NOW + 2 * HOUR, id="f" * 32)
    old = alert(
        event(EventKind.RECOVERED), AlertRole.RESOLVED, id="old", first=first, starts_at=NOW, ends_at=NOW + HOUR
    )
    new = alert(again, id="new")
    for both in ((old, new), (new, old)):
        (sent,) = payload(message(*both, expires_at=NOW + 3 * HOUR))
        assert sent["endsAt"] == "2026-03-09T15:00:00.000Z"


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind.usual.group])
def test_every_kind_has_a_name_and_a_sentence(kind: EventKind) -> None:
    of_host = kind in {EventKind.UNREACHABLE, EventKind.REACHABLE, EventKind.REBOOTED}
    told = event(kind, port=None if of_host else 8080)
    assert told.alert_row.alertname != "PortmonEvent"
    assert payload(message(alert(told)))[0]["annotations"]["summary"] != kind.value.replace("_", " ")


@pytest.mark.parametrize(
    ("kind", "port", "details", "name"),
    [
        (EventKind.DOWN, 80, {}, "PortDown"),
        (EventKind.FLAPPING, 80, {}, "PortDown"),
        (EventKind.STABLE, 80, {"state": "down"}, "PortDown"),
        (EventKind.REBOUND, 80, {"severe": True}, "PortDown"),
        (EventKind.REBOUND, 80, {}, "PortRebound"),
        (EventKind.UNREACHABLE, None, {}, "HostUnreachable"),
        (EventKind.RETIRED, None, {}, "HostUnreachable"),
        (EventKind.RETIRED, None, {"ends": "host_key_changed"}, "HostKeyChanged"),
        (EventKind.RETIRED, 80, {}, "PortDown"),
        (EventKind.OWNER_GONE, 80, {}, "PortOwnerGone"),
        (EventKind.CRASH_LOOPING, 80, {"young": True}, "PortCrashLooping"),
        (EventKind.RECOVERED, 80, {"part": "owner"}, "PortDown"),
        (EventKind.RETIRED, 80, {"young": True}, "PortDown"),
        (EventKind.REPLACED, 80, {"taken": True}, "PortReplaced"),
        (EventKind.CMDB_FRESH, None, {}, "CmdbStale"),
    ],
)
def test_alertname(kind: EventKind, port: int | None, details: dict[str, Any], name: str) -> None:
    assert event(kind, port=port, details=details).alert_row.alertname == name


HOST_IS_OK, HOST_IS_GONE = ({"subject": "host", "state": state} for state in ("ok", "unreachable"))


@pytest.mark.parametrize(
    ("kind", "port", "details", "name", "summary"),
    [
        (EventKind.FOREIGN_MACHINE, None, {}, "ForeignMachine", "another machine answers at the address of web01"),
        (EventKind.OWN_MACHINE, None, {}, "ForeignMachine", "web01 answers itself again"),
        (EventKind.UNSCANNED, None, {}, "HostUnscanned", "web01 is not scanned"),
        (EventKind.SCANNED, None, {}, "HostUnscanned", "web01 is scanned again"),
        (
            EventKind.OWNERS_HIDDEN,
            None,
            {},
            "OwnersHidden",
            "web01 does not show programs of other users any more",
        ),
        (EventKind.OWNERS_SHOWN, None, {}, "OwnersHidden", "web01 shows programs of other users again"),
        (EventKind.UNREACHABLE, None, {"never": True}, "HostUnreachable", "web01 has never answered yet"),
        (EventKind.FLAPPING, None, HOST_IS_GONE, "HostUnreachable", "web01 comes and goes"),
        (EventKind.STABLE, None, HOST_IS_OK, "HostUnreachable", "web01 answers steadily again"),
        (EventKind.STABLE, None, HOST_IS_GONE, "HostUnreachable", "web01 stays unreachable"),
        (EventKind.RETIRED, None, {"ends": "unscanned"}, "HostUnscanned", "web01 is not watched any more"),
        (EventKind.RETIRED, None, {"discarded": True}, "HostUnreachable", "another machine had answered for web01"),
        (EventKind.RETIRED, 80, {"discarded": True}, "PortDown", "tcp/80 on web01: another machine had answered"),
    ],
)
def test_name_and_sentence_of_what_is_wrong_with_a_host(
    kind: EventKind, port: int | None, details: dict[str, Any], name: str, summary: str
) -> None:
    (sent,) = payload(message(alert(event(kind, port=port, details=details))))
    assert (sent["labels"]["alertname"], sent["annotations"]["summary"]) == (name, summary)


def test_a_young_port_says_so() -> None:
    young = {"young": True}
    for kind, summary in ((EventKind.DOWN, "is down (young: not watched for long)"), (EventKind.NEW, "is new")):
        (sent,) = payload(message(alert(event(kind, details=young, severity=Severity.WARNING))))
        assert sent["annotations"]["summary"] == f"tcp/8080 on web01 {summary}"
        assert sent["labels"]["severity"] == "warning"


def test_a_port_that_one_program_left_keeps_its_name_when_it_is_down_and_recovers() -> None:
    gone = event(EventKind.OWNER_GONE, details={"owner": "varnishd", "left": "nginx"})
    for kind, summary in ((EventKind.DOWN, "tcp/8080 on web01 is down"), (EventKind.RECOVERED, "listens again")):
        role = AlertRole.RESOLVED if kind is EventKind.RECOVERED else AlertRole.FIRING
        (sent,) = payload(message(alert(event(kind), role, first=gone)))
        assert sent["labels"]["alertname"] == "PortOwnerGone"
        assert summary in sent["annotations"]["summary"]


@pytest.mark.parametrize(
    ("kind", "name", "summary"),
    [
        (EventKind.FLEET_UNSCANNED, "FleetUnscanned", "many hosts are not scanned"),
        (EventKind.FLEET_SCANNED, "FleetUnscanned", "most hosts are scanned again"),
        (EventKind.FLEET_OWNERS_HIDDEN, "FleetOwnersHidden", "many hosts do not show programs of other users any more"),
        (EventKind.FLEET_OWNERS_SHOWN, "FleetOwnersHidden", "most hosts show programs of other users again"),
        (EventKind.CLOCK_BACK, "ClockBack", "the monitor's clock went back"),
        (EventKind.CLOCK_BELIEVED, "ClockBack", "the monitor's clock is believed again"),
    ],
)
def test_name_and_sentence_of_what_is_wrong_with_the_monitor(kind: EventKind, name: str, summary: str) -> None:
    (sent,) = payload(message(alert(event(kind, None, None))))
    assert (sent["labels"]["alertname"], sent["annotations"]["summary"]) == (name, summary)


def test_labels_of_the_monitors_own_have_no_host() -> None:
    told = event(EventKind.FLEET_UNREACHABLE, None, None)
    assert labels(alert(told)) == {"alertname": "FleetUnreachable", "job": "portmon", "severity": "critical"}


# ── names and values ────────────────────────────────────────────────────────────────────────────


def _named(**given: str) -> dict[str, str]:
    return {name: value for name, value in labels(alert(event(labels=given))).items() if value.startswith("own-")}


def test_labels_of_a_host_can_not_pretend_to_be_ours() -> None:
    hostile = dict.fromkeys(OWN_LABELS, "own-x")
    found = labels(alert(event(program=None, labels=hostile)))
    assert found["severity"] == "critical"
    assert "program" not in found
    assert {name for name, value in found.items() if value == "own-x"} == {f"label_{name}" for name in OWN_LABELS}


def test_names_are_made_valid_and_stay_apart() -> None:
    assert _named(**{"a-b": "own-1"}) == {"a_b": "own-1"}
    assert _named(**{"9x": "own-1"}) == {"_9x": "own-1"}
    found = _named(**{"a-b": "own-1", "a.b": "own-2", "a_b": "own-3"})
    assert found["a_b"] == "own-3"
    assert sorted(found.values()) == ["own-1", "own-2", "own-3"]
    assert _named(**{"a_b": "own-3", "a.b": "own-2", "a-b": "own-1"}) == found
    assert sorted(_named(机房="own-1", 环境="own-2").values()) == ["own-1", "own-2"]


def test_hosts_that_differ_only_where_it_is_cut_or_hidden_are_two() -> None:
    long = "x" * 400
    for one, two in ((long + "1", long + "2"), ("a\nb", "a\\nb"), ("a", "a ")):
        assert labels(alert(event(host_id=one))) != labels(alert(event(host_id=two)))


def test_annotations_cause_no_notification() -> None:
    (sent,) = payload(message(alert(event(program="<!channel> @everyone", reason="see https://evil.example"))))
    assert "<!channel>" not in sent["annotations"]["summary"]
    assert "@everyone" not in sent["annotations"]["summary"]
    assert "https://" not in sent["annotations"]["description"]


# Surrogates included.
texts = st.text(st.characters(), max_size=300)


@given(texts, texts, st.none() | texts, st.dictionaries(texts, texts, max_size=6), texts, texts)
def test_any_text_makes_a_valid_alert(
    host: str, host_id: str, program: str | None, given: dict[str, str], reason: str, link: str
) -> None:
    told = event(host=host, host_id=host_id, program=program, unit=program, labels=given, reason=reason)
    (sent,) = payload(message(alert(told), links=(link,)))
    json.dumps(sent, ensure_ascii=False).encode()
    for name, value in (*sent["labels"].items(), *sent["annotations"].items()):
        assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name)
        assert value
        assert plain(value, 1000) == value
    assert "generatorURL" not in sent or is_uri(sent["generatorURL"])
    kept = sum(bool(value.strip()) for value in given.values())
    assert len(sent["labels"].keys() - OWN_LABELS) == kept


@pytest.mark.parametrize(
    "link", ["", "javascript:alert(1)", "http://", "http://a b/", "http://a/%zz", "http://a:x/", "http://[::1/", "//a/"]
)
def test_link_that_is_none_is_left_out(link: str) -> None:
    assert "generatorURL" not in payload(message(alert(), links=(link,)))[0]


@pytest.mark.parametrize("link", [LINK, "http://localhost:8080", "http://[::1]:8080/a?b=c#d"])
def test_link_that_is_one_is_kept(link: str) -> None:
    assert payload(message(alert(), links=(link,)))[0]["generatorURL"] == link


def test_order_is_that_of_the_beginnings() -> None:
    told = [alert(event(port=port, at=NOW - port * timedelta(seconds=1)), id=str(port)) for port in (1, 3, 2)]
    assert [one["labels"]["port"] for one in payload(message(*told))] == ["3", "2", "1"]
    assert payload(message(*told)) == payload(message(*reversed(told)))
    assert payload(replace(message(), alerts=(), links=())) == []


def test_the_page_of_the_port_is_an_annotation_beside_the_task_log() -> None:
    (sent,) = payload(message(alert(event()), links=(LINK,), pages=("https://airflow.example.com/portmon/hosts/h",)))
    assert sent["generatorURL"] == LINK
    assert sent["annotations"]["page"] == "https://airflow.example.com/portmon/hosts/h"
