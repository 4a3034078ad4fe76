"""Runbooks: each kind that makes messages has one in both languages, and messages lead there."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from markdown_it import MarkdownIt
from typer.main import get_command

from portmon import cli
from portmon.alerting import runbooks
from portmon.alerting.channels.alertmanager import payload
from portmon.alerting.channels.webhook import document
from portmon.alerting.message.render import Layout, Message, render
from portmon.config import parse_config
from portmon.errors import InvalidConfigError
from portmon.model.alert import begun_by
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind

NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
TOLD = sorted(
    {kind for kind in EventKind if any(row.role in (AlertRole.FIRING, AlertRole.NOTICE) for row in kind.rows)}
)
NAMED = [(name, language) for name in sorted(runbooks.names()) for language in runbooks.LANGUAGES]


def message(*kinds: EventKind, language: str = "en", pattern: str | None = None) -> Message:
    events = [
        Event(f"e{number}", kind, NOW, "run", host_id="h", host_name="web1", port=80 + number, protocol="tcp")
        for number, kind in enumerate(kinds)
    ]
    return render(
        [begun_by(event) for event in events],
        EventKind.DOWN.usual.group or "down",  # type: ignore[arg-type]
        layout=Layout(language),  # type: ignore[arg-type]
        link=lambda _: None,
        runbook_of=lambda name: runbooks.address(name, pattern=pattern, page="https://a.example.com/portmon/"),
    )


def test_each_kind_that_makes_messages_has_one_and_there_are_no_others() -> None:
    assert runbooks.names() == {kind.value for kind in TOLD}
    assert {path.stem for path in (runbooks.FOLDER / "zh").glob("*.md")} == runbooks.names()


@pytest.mark.parametrize(("name", "language"), NAMED)
def test_it_says_all_that_is_to_be_said_and_names_only_what_there_is(name: str, language: str) -> None:
    text = runbooks.read(name, language)
    html = MarkdownIt("commonmark", {"html": False}).render(text)
    assert html.count("<h1>") == 1
    assert html.count("<li>") >= 3
    assert len(re.findall(r"^\*\*[^*]+\*\*", text, flags=re.M)) == 6
    assert 15 <= len(text.splitlines()) <= 30
    commands = get_command(cli.app)
    for command in re.findall(r"`portmon ([a-z-]+)", text):
        assert command in commands.commands, command  # type: ignore[attr-defined]
    for other in re.findall(r"\]\((.+?)\)", text):
        assert other.removesuffix(".md") in runbooks.names()


def test_a_message_leads_to_one_for_each_kind() -> None:
    found = message(EventKind.DOWN, EventKind.DOWN, EventKind.FLAPPING)
    for text in (found.text, found.html, found.markdown):
        assert text.count("https://a.example.com/portmon/runbooks/down") == 1
        assert text.count("https://a.example.com/portmon/runbooks/flapping") == 1
    assert "怎么办：https://a.example.com/portmon/runbooks/down" in message(EventKind.DOWN, language="zh").text


def test_what_is_over_needs_none() -> None:
    found = message(EventKind.RECOVERED)
    for text in (found.text, found.html, found.markdown):
        assert "what to do" not in text


def test_machines_get_its_address_with_each_alert() -> None:
    found = message(EventKind.DOWN, EventKind.RECOVERED)
    address = "https://a.example.com/portmon/runbooks/down"
    assert [alert["runbook_url"] for alert in document(found)["alerts"]] == [address, None]
    assert [alert["annotations"].get("runbook_url") for alert in payload(found)] == [address, None]


def test_a_team_has_its_own() -> None:
    assert (
        "https://wiki.example.com/portmon-down?x=1"
        in message(EventKind.DOWN, pattern="https://wiki.example.com/portmon-{kind}?x=1").text
    )
    assert "https" not in message(EventKind.DOWN, pattern="").text


@pytest.mark.parametrize(
    "wrong", ["https://wiki.example.com/", "wiki/{kind}", "https://x/{kind}/{host}", "https://x/{kind} y"]
)
def test_an_address_that_can_not_be_right_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidConfigError, match=r"alerts\.runbook_url: .*no address with \{kind\} in it"):
        parse_config(f"alerts: {{runbook_url: '{wrong}'}}")
    assert parse_config("alerts: {runbook_url: ''}").alerts.runbook_url == ""
