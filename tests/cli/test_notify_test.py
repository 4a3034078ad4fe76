"""``portmon notify-test``, with a real receiver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from tests.worlds.live import collected
from tests.worlds.shell import run_command

CHANNELS = """
alerts:
  channels:
    - {type: webhook, name: hook, conn_id: hook}
    - {type: log, name: chat}
  routes:
    - {match: {label: {team: web}}, channels: [chat]}
  default: [hook]
"""


def run(capsys: pytest.CaptureFixture[str], folder: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    file = folder / "portmon.yaml"
    file.write_text(text)
    return run_command(capsys, "notify-test", "--author", "ann", "--config", str(file), *arguments)


@pytest.fixture
def posted(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps({"conn_type": "http", "host": httpserver.url_for("/hook")}))
    return collected(httpserver, "/hook")


def test_a_message_of_each_kind_says_that_it_is_a_test(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, posted: list[dict[str, Any]]
) -> None:
    code, out, _ = run(capsys, tmp_path, CHANNELS)
    assert code == 0
    kinds = ["down", "recovered", "unreachable", "reachable", "new"]
    # Beside what the receiver logs.
    told = [line for line in out.splitlines() if line.startswith(("sent", "failed"))]
    assert told == [f"sent: {kind} to hook (default)" for kind in kinds]
    assert all(one["title"].startswith("[TEST] ") for one in posted)
    alerts = [alert for one in posted for alert in one["alerts"]]
    assert [one["kind"] for one in alerts] == kinds
    _, out, _ = run(capsys, tmp_path, CHANNELS, "--format", "json")
    listed = json.loads(out[out.index("[\n") :])
    assert [(one["kind"], one["channel"], one["error"]) for one in listed] == [(kind, "hook", None) for kind in kinds]
    # What fires is ended by the message after it.
    assert alerts[0]["id"] == alerts[1]["id"]
    assert [one["status"] for one in alerts] == ["firing", "resolved", "firing", "resolved", "notice"]
    assert {one["reason"] for one in alerts} == {"This is a test by ann: nothing is wrong"}


def test_routes_and_a_name_say_who_gets_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, posted: list[dict[str, Any]]
) -> None:
    _, out, _ = run(capsys, tmp_path, CHANNELS, "--label", "team=web")
    assert out.count("to chat (route 1)") == 5
    assert not posted
    code, _, err = run(capsys, tmp_path, CHANNELS, "chat")
    assert (code, err) == (1, "error: no route leads such events to a channel: `portmon check` shows the routes\n")
    code, _, err = run(capsys, tmp_path, CHANNELS, "hok")
    assert (code, err) == (1, "error: there is no channel 'hok'; there are: hook, chat\n")
    assert "alerts.channels is empty" in run(capsys, tmp_path, "alerts: {channels: []}")[2]


def test_a_channel_that_does_not_take_it_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps({"conn_type": "http", "host": httpserver.url_for("/gone")}))
    httpserver.expect_request("/gone").respond_with_data("no", status=403)
    code, out, err = run(capsys, tmp_path, CHANNELS)
    assert code == 1
    assert out.count("failed: ") == 5
    assert "403" in out
    assert "not every message was taken: hook" in err
