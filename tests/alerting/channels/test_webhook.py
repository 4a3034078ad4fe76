"""The JSON document and its signature."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.alerting.channels.signing import sign
from portmon.alerting.channels.webhook import TEXT_LIMIT, document
from portmon.model.event_kinds import AlertRole, EventKind
from tests.worlds.messages import LINK, NOW, PAGE, alert, event, message

HOSTILE = "a\ud800b\udcff\n\x00{{ conn.x.password }}<!channel>\u202e"


def test_document_tells_the_newest_event_and_the_life_of_the_alert() -> None:
    down = event(program="java", unit="app.service", labels={"site": "fra1"}, since=NOW, details={"misses": 2})
    ended = alert(
        event(EventKind.RECOVERED, program="java", since=NOW, at=NOW + timedelta(hours=1)),
        AlertRole.RESOLVED,
        id="a" * 32,
        first=down,
        starts_at=NOW,
        ends_at=NOW + timedelta(hours=1),
    )
    told = document(message(alert(down), ended, links=(LINK, None), pages=(None, PAGE), route="web", reminder=True))
    assert {name: told[name] for name in ("version", "group", "route", "reminder", "severity")} == {
        "version": 1,
        "group": "down",
        "route": "web",
        "reminder": True,
        "severity": "critical",
    }
    first, second = told["alerts"]
    assert (first["status"], first["link"], first["port"], first["ends_at"]) == ("firing", LINK, 8080, None)
    assert (first["labels"], first["details"], first["unit"]) == ({"site": "fra1"}, {"misses": 2}, "app.service")
    assert (second["status"], second["kind"], second["link"]) == ("resolved", "recovered", None)
    assert (first["page"], second["page"]) == (None, PAGE)
    assert (second["starts_at"], second["ends_at"]) == ("2026-03-09T12:00:00Z", "2026-03-09T13:00:00Z")


def test_host_text_is_data_and_yet_valid_for_every_reader() -> None:
    details = {HOSTILE: [HOSTILE, {"n": float("nan"), "inner": (HOSTILE,)}], "long": "x" * 10_000}
    told = document(
        message(
            alert(event(program=HOSTILE, reason=HOSTILE, labels={HOSTILE: HOSTILE}, details=details)),
            title=HOSTILE,
            text=HOSTILE,
        )
    )
    body = json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
    read = json.loads(body)
    assert read == told
    shown = HOSTILE.replace("\ud800", r"\ud800").replace("\udcff", r"\xff")
    (one,) = read["alerts"]
    assert one["program"] == one["reason"] == read["title"] == read["text"] == shown
    assert one["labels"] == {shown: shown}
    assert one["details"][shown] == [shown, {"n": None, "inner": [shown]}]
    assert len(one["details"]["long"]) == TEXT_LIMIT


ANY = st.text(st.characters())  # surrogates included


@given(st.dictionaries(ANY, ANY), ANY)
def test_any_text_survives_utf8(labels: dict[str, str], text: str) -> None:
    told = document(message(alert(event(labels=labels, reason=text))))
    assert json.loads(json.dumps(told, ensure_ascii=False).encode()) == told


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_signature_is_what_openssl_makes_of_it() -> None:
    body = '{"title": "端口"}'.encode()
    made = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", "a key"], input=b"1700000000." + body, capture_output=True, check=True
    )
    assert sign("a key", "1700000000", body) == f"sha256={made.stdout.split()[-1].decode()}"
