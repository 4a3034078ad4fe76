"""What a new silence does, and what is no silence."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from portmon.api.silences import lift, list_silences, silence
from portmon.errors import CommandError, RequestError
from portmon.storage import silences
from tests.api.conftest import NASTY
from tests.worlds.alerts import open_alert

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WHO: dict[str, Any] = {"author": "ann", "reason": "updates", "now": NOW}


def test_what_a_silence_does(conn: Connection) -> None:
    for number, (host, name, port) in enumerate([("1", "web1", 80), ("1", "web1", 22), ("3", "db1", 80)]):
        open_alert(conn, number + 1, NOW, host=host, name=name, port=port, labels={"role": "web"})
    made = silence(
        conn, hosts=["WEB*", "x"], labels={"role": ["web"]}, ports=["80,443", "8000-8100"], ends_at=NOW + HOUR, **WHO
    )
    assert made.silence.what == "host WEB*|x and label role=web and port 80,443,8000-8100"
    assert (made.silence.when, made.silence.state) == ("until 2026-01-01 13:00 UTC", "active")
    # The host that left the CMDB is none of the known ones.
    assert (made.matching, made.known) == (1, 3)
    assert [one.subject for one in made.alerts] == ["web1 port 80"]
    # As they were given.
    of_udp = silence(conn, ports=["53/udp", "80-81/tcp", "5060"], ends_at=NOW + HOUR, **WHO).silence
    assert (made.silence.ports, of_udp.ports) == (("80", "443", "8000-8100"), ("53/udp", "80-81/tcp", "5060"))
    later = silence(conn, hosts=["*"], starts_at=NOW + HOUR, ends_at=NOW + 2 * HOUR, **WHO)
    assert (later.silence.state, later.silence.active) == ("next: 2026-01-01 13:00 UTC", False)
    assert (later.matching, len(later.alerts)) == (3, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ends_at": NOW + HOUR}, "needs a host, a label, a port or a program"),
        ({"hosts": ["*"]}, "needs an end or a weekly schedule"),
        ({"hosts": [" "], "ends_at": NOW + HOUR}, "an empty glob matches nothing"),
        ({"hosts": ["*"], "ends_at": NOW}, "must end after it begins"),
        ({"hosts": ["*"], "weekly": ["Sunday"]}, "'Sunday' is no weekly schedule"),
        ({"hosts": ["*"], "ends_at": NOW + HOUR, "timezone": "Berlin"}, "'Berlin' is no time zone"),
        ({"ports": ["0"], "ends_at": NOW + HOUR}, "'0' is no port"),
        ({"hosts": ["*"], "ends_at": NOW + HOUR, "reason": " "}, "say why"),
    ],
)
def test_what_is_no_silence(conn: Connection, given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        silence(conn, **WHO | given)
    assert silences.all_(conn) == []


def test_a_schedule_that_does_not_come_round(conn: Connection) -> None:
    with pytest.raises(CommandError, match="does not come round before the end; nothing is silenced"):
        silence(conn, hosts=["*"], weekly=["Sun 02:00-04:00"], ends_at=NOW + HOUR, **WHO)


def test_a_list_of_silences(conn: Connection) -> None:
    silence(conn, labels={NASTY: [NASTY]}, ports=["22"], ends_at=NOW + HOUR, **WHO | {"author": NASTY})
    silences.acknowledge(conn, open_alert(conn, 1, NOW), author="bob", now=NOW)
    silence(conn, programs=["x"], weekly=["Sun 02:00-04:00"], **WHO)
    assert lift(conn, 3, author="bob", now=NOW) == "silence 3 is lifted"
    with pytest.raises(CommandError, match=r"^silence 3 was lifted by bob at 2026-01-01 12:00 UTC$"):
        lift(conn, 3, author="bob", now=NOW)
    with pytest.raises(CommandError, match=r"^there is no silence 4$"):
        lift(conn, 4, author="bob", now=NOW)
    first, second = list_silences(conn, NOW)
    assert (first.what, first.when) == (f"label {NASTY}={NASTY} and port 22", "until 2026-01-01 13:00 UTC")
    assert (second.what, second.when, second.state) == ("down of web1 port 80", "until it is over", "active")
    assert [one.id for one in list_silences(conn, NOW, everything=True)] == [1, 2, 3]
    # The text for tables is no part of the JSON.
    shown = json.loads(first.model_dump_json())
    assert "when" not in shown
    assert shown["labels"] == {NASTY.replace("\udcff", r"\udcff"): [NASTY.replace("\udcff", r"\udcff")]}
    assert list_silences(conn, NOW + 2 * HOUR, everything=True)[0].state == "is over"
