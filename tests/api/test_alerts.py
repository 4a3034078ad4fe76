"""Open alerts, acknowledgements, and who would be notified of an event."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from portmon.api.alerts import (
    acknowledge,
    explain_routes,
    forgotten_channels,
    list_alerts,
    withdraw_acknowledgement,
)
from portmon.config import Config, parse_config
from portmon.errors import CommandError
from portmon.model.event_kinds import EventKind, Severity
from portmon.storage import silences
from tests.api.conftest import NASTY
from tests.worlds.alerts import open_alert

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

ROUTES = parse_config(
    """\
alerts:
  channels:
    - {type: log}
    - {type: log, name: night}
    - {type: log, name: audit}
  routes:
    - {name: prod, match: {label: {role: web}}, channels: [audit], continue: true}
    - {name: web, match: {host: 'web*', port: 443, kind: [down, flapping]}, channels: [night]}
  default: [log]
"""
)


def test_an_open_alert(conn: Connection) -> None:
    number = open_alert(
        conn, 1, NOW - HOUR, host="2", name=NASTY, program=NASTY, channels={"mail": "expired"}, error=NASTY
    )
    acknowledge(conn, "2", 80, until=None, author=NASTY, reason="", now=NOW)
    (one,) = list_alerts(conn, NOW)
    assert (one.id, one.subject, one.since, one.kind) == (number, f"{NASTY} port 80", NOW - HOUR, EventKind.DOWN)
    assert [told.model_dump() for told in one.told] == [
        {"channel": "mail", "route": "default", "state": "expired", "reason": NASTY}
    ]
    assert one.withheld is not None
    assert (one.withheld.silence, one.withheld.acknowledged) == (1, True)
    # A name that is no Unicode text is written as an escape, by any writer of JSON.
    assert json.loads(one.model_dump_json())["host"] == NASTY.replace("\udcff", r"\udcff")


def test_an_acknowledgement_holds_until_the_alert_is_over_or_longer_ago(conn: Connection) -> None:
    number = open_alert(conn, 1, NOW - HOUR)
    open_alert(conn, 2, NOW - HOUR, port=22)
    done = acknowledge(conn, "WEB1", 80, until=None, author="bob", reason="on it", now=NOW)
    assert done == ["web1 port 80: down is acknowledged until it is over (silence 1)"]
    (made,) = silences.current(conn, NOW)
    assert (made.alert_id, made.ends_at, made.author, made.reason) == (number, None, "bob", "on it")
    done = acknowledge(conn, "1", 80, until=NOW + HOUR, author="bob", reason="", now=NOW)
    assert done == [
        "web1 port 80: down is acknowledged until 2026-01-01 13:00 UTC, or until it is over (silence 2)",
    ]
    assert withdraw_acknowledgement(conn, "1", 80, author="ann", now=NOW) == "web1 port 80: no longer acknowledged"
    assert [one.lifted_by for one in silences.all_(conn)] == ["bob", "ann"]
    with pytest.raises(CommandError, match=r"^web1 port 80: no open alert there is acknowledged$"):
        withdraw_acknowledgement(conn, "1", 80, author="ann", now=NOW)


def test_an_acknowledgement_without_a_port_is_of_all_that_is_wrong_with_the_host(conn: Connection) -> None:
    open_alert(conn, 1, NOW)
    ids = [
        open_alert(conn, 2, NOW, port=None, kind=EventKind.UNREACHABLE),
        open_alert(conn, 3, NOW, port=None, kind=EventKind.HOST_KEY_CHANGED),
    ]
    done = acknowledge(conn, "web1", None, until=None, author="bob", reason="", now=NOW)
    assert [line.split(" is ")[0] for line in done] == ["web1: unreachable", "web1: host_key_changed"]
    assert [one.alert_id for one in silences.current(conn, NOW)] == ids
    with pytest.raises(
        CommandError, match=r"^web1 port 22: no alert is open; open there: down of port 80, unreachable"
    ):
        acknowledge(conn, "web1", 22, until=None, author="bob", reason="", now=NOW)


def test_channels_that_are_gone(conn: Connection) -> None:
    states = {"pager": "delivered", "log": "delivered", "mail": "pending"}
    open_alert(conn, 1, NOW, channels=states)
    assert forgotten_channels(conn, Config()) == {"pager": 1}
    assert forgotten_channels(conn, parse_config("alerts: {channels: [{type: log}, {type: log, name: pager}]}")) == {}


# ── who would be notified ───────────────────────────────────────────────────────────────────────


def lines(conn: Connection | None, kind: str, **example: Any) -> list[str]:
    return [line.strip() for line in explain_routes(conn, ROUTES, EventKind(kind), now=NOW, **example)]


def test_which_channels_get_an_event_and_why(conn: Connection) -> None:
    assert lines(conn, "down", host="WEB1", port=443, program="nginx") == [
        "example        down of web1, port 443, program nginx, critical",
        "labels of the host: role=web",
        "alerts.routes[0] (prod): yes: label role=web -> audit, then those after it",
        "alerts.routes[1] (web): yes: host web* and kind down|flapping and port 443 -> night",
        "goes to: audit (route prod), night (route web)",
        "withheld now: no",
    ]
    assert "goes to: log (route default)" in lines(conn, "down", host="db1", port=443)
    assert lines(conn, "cmdb_stale")[-2:] == ["goes to: log (route default)", "withheld now: no"]


def test_labels_and_severity_of_an_example_can_be_given(conn: Connection) -> None:
    told = lines(conn, "rebooted", host="web1", labels={"role": "test", "a": "b"}, severity=Severity.INFO)
    assert told[:2] == ["example        rebooted of web1, info", "labels of the host: a=b role=test"]
    assert told[-2:] == ["goes to: log (route default)", "withheld now: no"]


def test_what_withholds_an_event(conn: Connection) -> None:
    silences.add(conn, hosts=["web1"], ports=[(443, 443)], ends_at=NOW + HOUR, author="ann", reason="updates", now=NOW)
    withheld = "withheld now: silenced by ann until 2026-01-01 13:00 UTC: updates (silence 1)"
    assert lines(conn, "down", host="1", port=443)[-1] == withheld
    assert lines(conn, "down", host="1", port=444)[-1] == "withheld now: no"
    # A resolved message goes to the channels that got the firing one, silenced or not.
    assert lines(conn, "recovered", host="1", port=443)[-1] == "withheld now: no"
    silences.acknowledge(conn, open_alert(conn, 1, NOW, port=22), author="bob", now=NOW)
    assert lines(conn, "flapping", host="1", port=22)[-1] == "withheld now: acknowledged by bob"
    assert lines(conn, "replaced", host="1", port=22)[-1] == "withheld now: no"


def test_an_example_of_an_unknown_host(conn: Connection) -> None:
    told = lines(conn, "down", host="web9", port=443)
    assert told[1:3] == [
        "not looked up: no host has the name or id 'web9'; the CMDB's list of the last run counts",
        "labels of the host: none",
    ]
    assert told[-2] == "goes to: night (route web)"
    assert lines(None, "down", host="web9", port=443, unknown="it is away")[1] == "not looked up: it is away"
