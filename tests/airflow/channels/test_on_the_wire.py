"""What each channel really sends, on file; and that no channel renders any of it.

``UPDATE_MESSAGES=1 pytest tests/airflow/channels/test_on_the_wire.py`` writes the files anew: look at what changed.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from pytest_httpserver import HTTPServer
from werkzeug import Response

from portmon.airflow.outside import deliver
from portmon.alerting.channels import (
    AlertmanagerChannel,
    AppriseChannel,
    Channel,
    LogChannel,
    NotifierChannel,
    WebhookChannel,
)
from portmon.alerting.message.render import Message
from portmon.model.event_kinds import AlertRole, EventKind
from tests.airflow.channels.samples import HOSTILE, SECRET, connect
from tests.worlds.alertmanager import Alertmanager, missing
from tests.worlds.mailbox import Mailbox
from tests.worlds.messages import LINK, NOW, alert, event, message

FILES = Path(__file__).resolve().parents[2] / "fixtures" / "channels"
SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
HTTP = "airflow.providers.http.notifications.http.HttpNotifier"


def _sample(program: str = "java") -> Message:
    labels = {"site": "fra1", "env.name": "生产"}
    began = event(program=program, unit="shop.service", since=NOW, last_seen=NOW - timedelta(minutes=5), labels=labels)
    gone = event(port=5432, program="postgres", at=NOW - timedelta(hours=3), labels=labels)
    back = event(
        EventKind.RECOVERED, port=5432, program="postgres", since=gone.at, labels=labels, reason="It listens again"
    )
    new = event(EventKind.NEW, "db01", 9100, program="node_exporter", reason="It was not there at the last look")
    return message(
        alert(began, id="a" * 32),
        alert(back, AlertRole.RESOLVED, id="b" * 32, first=gone, starts_at=gone.at, ends_at=NOW),
        alert(new, AlertRole.NOTICE),
        links=(LINK, None, None),
        title=f"[portmon] tcp/8080 ({program}) down on web01, and 2 more",
        text=f"web01\n  tcp/8080 ({program}) is down since 12:00\n  tcp/5432 端口 is up again",
        markdown=f"**web01**\n\n* `tcp/8080` ({program}) is down since 12:00\n* `tcp/5432` 端口 is up again",
        html=f"<html><body><h1>web01</h1><p>tcp/8080 ({program}) is down since 12:00, 端口</p></body></html>",
        route="shop",
    )


class Wire:
    """Servers for all channels, and what they were sent."""

    def __init__(self, server: HTTPServer, mailbox: Mailbox, log: pytest.LogCaptureFixture) -> None:
        self.server, self.mailbox, self.log = server, mailbox, log
        for path in ("/am/api/v2/alerts", "/hook/in", "/notifier/in", "/apprise"):
            server.expect_request(path).respond_with_response(Response())

    def send(self, channel: Channel, sent: Message) -> str:
        """Deliver, and return what arrived, for people."""
        with self.log.at_level(logging.INFO, logger="portmon.alerts"):
            deliver(channel, sent)
        if isinstance(channel, LogChannel):
            lines = [record for record in self.log.records if record.name == "portmon.alerts"]
            return "".join(f"{record.levelname}: {record.getMessage()}\n" for record in lines)
        if self.mailbox.mails:
            (mail,) = self.mailbox.mails
            headers = "".join(f"{name}: {mail[name]}\n" for name in mail if name not in ("Date", "Content-Type"))
            (part,) = mail.iter_parts()
            return f"{headers}\n{part['Content-Type']}\n\n{part.get_content()}\n"
        ((request, _),) = self.server.log
        headers = {
            name: "…" if name in ("X-Portmon-Timestamp", "X-Portmon-Signature") else value
            for name, value in sorted(request.headers)
            if name.startswith(("X-", "Idem", "Content-T"))
        }
        shown = {"path": request.path, "headers": headers, "body": request.get_json()}
        return json.dumps(shown, indent=2, ensure_ascii=False) + "\n"


@pytest.fixture
def wire(
    httpserver: HTTPServer, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Wire:
    base = f"http://localhost:{httpserver.port}"
    connect(monkeypatch, "alertmanager_default", f"{base}/am")
    connect(monkeypatch, "hook", f"{base}/hook", extra={"secret": "key"})
    connect(monkeypatch, "http_default", f"{base}/notifier/")
    targets = {"config": {"path": f"json://localhost:{httpserver.port}/apprise"}}
    monkeypatch.setenv("AIRFLOW_CONN_APPRISE_DEFAULT", json.dumps({"conn_type": "apprise", "extra": targets}))
    return Wire(httpserver, mailbox, caplog)


VARIABLES = ("$title", "$text", "$markdown", "$html", "$id", "$headers")
CHANNELS: dict[str, Channel] = {
    "log.txt": LogChannel(type="log"),
    "apprise-text.json": AppriseChannel(type="apprise"),
    "apprise-markdown.json": AppriseChannel(type="apprise", format="markdown"),
    "apprise-html.json": AppriseChannel(type="apprise", format="html"),
    "alertmanager.json": AlertmanagerChannel(type="alertmanager"),
    "webhook.json": WebhookChannel(type="webhook", name="hook", conn_id="hook", endpoint="in"),
    "mail.txt": NotifierChannel(type="notifier", name="mail", notifier=SMTP, arguments={"to": "ops@example.com"}),
    "notifier.json": NotifierChannel(
        type="notifier",
        name="chatops",
        notifier=HTTP,
        arguments={"endpoint": "in", "json": {name.removeprefix("$"): name for name in VARIABLES}},
    ),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channel_sends_what_is_on_file(wire: Wire, name: str) -> None:
    sent = wire.send(CHANNELS[name], _sample())
    file = FILES / name
    if os.environ.get("UPDATE_MESSAGES"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(sent, encoding="utf-8")
    assert sent == file.read_text(encoding="utf-8")


def test_nothing_on_file_is_left_over() -> None:
    assert {file.name for file in FILES.iterdir()} == set(CHANNELS)


def _hostile() -> Message:
    """Template syntax in every place where a host or the CMDB has a say."""
    sample = _sample(HOSTILE)
    told = event(
        host=HOSTILE, program=HOSTILE, unit=HOSTILE, reason=HOSTILE, labels={HOSTILE: HOSTILE}, details={"x": HOSTILE}
    )
    return replace(sample, alerts=(alert(told),), links=(f"https://a.example/{HOSTILE}",), route=HOSTILE)


@pytest.mark.parametrize("name", CHANNELS)
def test_no_channel_renders_anything(wire: Wire, name: str) -> None:
    sent = wire.send(CHANNELS[name], _hostile())
    assert "{{ conn.x.password }}" in sent
    assert "a lone {{" in sent
    assert SECRET not in sent
    assert HOSTILE in sent


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_alertmanager_shows_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Alertmanager(tmp_path, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    server.start()
    try:
        connect(monkeypatch, "alertmanager_default", server.url)
        deliver(AlertmanagerChannel(type="alertmanager"), replace(_hostile(), expires_at=None))
        (shown,) = server.alerts()
        page = requests.get(f"{server.url}/api/v2/alerts/groups", timeout=20).text
    finally:
        server.close()
    assert shown["labels"]["program"] == shown["labels"]["unit"] == shown["labels"]["host"] == HOSTILE
    assert shown["annotations"]["description"] == HOSTILE
    assert SECRET not in page
