"""Mails of one alert are one thread."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import replace
from datetime import timedelta
from email.mime.text import MIMEText

from hypothesis import given
from hypothesis import strategies as st

from portmon.alerting.channels.mail import headers
from portmon.model.alert import Alert
from portmon.model.event_kinds import AlertRole, EventKind
from tests.worlds.messages import NOW, alert, event, message

DOWN = alert(id="a" * 32)
OTHER = alert(event(port=9090), id="b" * 32)
# https://www.rfc-editor.org/rfc/rfc5322#section-3.6.4
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
MSG_ID = re.compile(rf"<{ATOM}(?:\.{ATOM})*@{ATOM}(?:\.{ATOM})*>")


def recovered() -> Alert:
    return replace(DOWN, role=AlertRole.RESOLVED, event=event(EventKind.RECOVERED))


def test_first_mail_of_an_alert_is_what_later_ones_refer_to() -> None:
    first = headers(message(DOWN), "mail")
    assert "In-Reply-To" not in first
    assert "References" not in first
    later = headers(message(recovered(), id="c" * 32), "mail")
    assert later["In-Reply-To"] == later["References"] == first["Message-ID"]
    assert later["Message-ID"] != first["Message-ID"]


def test_mail_of_several_alerts_refers_to_all_of_them() -> None:
    both = headers(message(DOWN, OTHER), "mail")
    ids = [headers(message(one), "mail")["Message-ID"] for one in (DOWN, OTHER)]
    assert both["Message-ID"] not in ids
    assert both["References"].split() == ids
    assert both["In-Reply-To"] == ids[0]


def test_only_the_first_telling_of_what_goes_on_is_the_anchor() -> None:
    anchor = headers(message(DOWN), "mail")["Message-ID"]
    others = [
        message(DOWN, reminder=True),
        message(replace(DOWN, event=event(EventKind.FLAPPING))),
        message(replace(DOWN, role=AlertRole.NOTICE)),
        message(recovered()),
        message(DOWN, OTHER),
        message(),
    ]
    for other in others:
        assert headers(other, "mail")["Message-ID"] != anchor
        if other.alerts:
            assert headers(other, "mail")["In-Reply-To"] == anchor


def test_ids_are_those_of_the_message_and_of_the_channel() -> None:
    sent = message(DOWN, OTHER)
    assert headers(sent, "mail") == headers(replace(sent, text="shown anew"), "mail")
    assert headers(sent, "mail")["Message-ID"] != headers(replace(sent, id="d" * 32), "mail")["Message-ID"]
    assert headers(sent, "mail")["Message-ID"] != headers(sent, "night")["Message-ID"]
    assert headers(message(DOWN), "mail")["Message-ID"] != headers(message(DOWN), "night")["Message-ID"]
    without = replace(sent, id="")
    assert headers(without, "mail")["Message-ID"] != headers(replace(without, text="other"), "mail")["Message-ID"]


def test_few_references_each_once() -> None:
    many = [
        alert(event(port=port, at=NOW - timedelta(minutes=port), run_id=f"run{port}"), id=f"{port:032x}")
        for port in range(1, 40)
    ]
    referred = headers(message(*many), "mail")["References"]
    # The oldest and the newest ones, and the runs of the oldest and newest ones.
    assert [one[1:33] for one in referred.split()[:8]] == [f"{port:032x}" for port in (39, 38, 37, 36, 4, 3, 2, 1)]
    assert [one[:3] for one in referred.split()[8:]] == ["<r."] * 4
    assert len(f"References: {referred}") <= 998
    assert len(headers(message(DOWN, recovered()), "mail")["References"].split()) == 1
    eight = headers(message(*many[:8]), "mail")["References"].split()
    assert [one[1:33] for one in eight] == [f"{port:032x}" for port in range(1, 9)]


def test_what_began_in_a_crowded_run_refers_to_the_run_too() -> None:
    many = [alert(event(port=port), id=f"{port:032x}") for port in range(1, 40)]
    run = headers(message(*many), "mail")["References"].split()[-1]
    assert run.startswith("<r.")
    later = replace(many[20], role=AlertRole.RESOLVED, event=event(EventKind.RECOVERED, port=21))
    crowded = frozenset({later.first.run_id})
    assert headers(message(later, crowded=crowded), "mail")["References"].split() == [
        f"<{later.id}.00d8d3f1@portmon.invalid>",
        run,
    ]
    assert run not in headers(message(later, crowded=frozenset({"another"})), "mail")["References"]
    assert run not in headers(message(later, crowded=crowded), "night")["References"]


ANY = st.text(st.characters())  # surrogates included


@given(ANY, ANY, ANY)
def test_headers_are_valid_whatever_the_names(alert_id: str, message_id: str, channel: str) -> None:
    told = replace(DOWN, id=alert_id)
    for sent in (message(told, id=message_id), message(told, OTHER, id=message_id)):
        found = headers(sent, channel)
        for name in ("Message-ID", "In-Reply-To", "References"):
            for one in found.get(name, "").split():
                assert MSG_ID.fullmatch(one)
        for name, value in found.items():
            assert re.fullmatch(r"[!-~ ]+", value)
            # A header of one word that is longer can't be folded.
            assert max(len(f"{name}: {word}") for word in value.split()) <= 78


def test_mail_library_reads_back_what_was_written() -> None:
    many = [alert(event(port=port), id=f"{port:032x}") for port in range(1, 30)]
    written = headers(message(*many), "mail")
    mail = MIMEText("text")
    for name, value in written.items():
        mail[name] = value
    read = email.message_from_bytes(mail.as_bytes(), policy=email.policy.default)
    assert {name: str(read[name]) for name in written} == written
