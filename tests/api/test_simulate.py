"""A history in, events out: what its lines may say, and what is said of wrong ones."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portmon.api.simulate import simulate
from portmon.cli import app
from portmon.config import Config, parse_config
from portmon.errors import HistoryError

FIVE = timedelta(minutes=5)


def line(minute: int, *ports: int, host: str = "h1", **more: Any) -> str:
    value = {"at": f"2026-01-01T00:{minute:02}:00Z", "host_id": host, "outcome": "ok", "boot_id": "b1"}
    value["listeners"] = [{"address": "0.0.0.0", "port": port, "pid": 7, "program": "nginx"} for port in ports]
    return json.dumps(value | more)


def told(*lines: str, config: Config | None = None) -> list[tuple[Any, ...]]:
    events = simulate(lines, config or Config(), interval=FIVE)
    return [(event.kind, event.host_id, event.port) for event in events]


def test_labels_and_declared_ports_hold_until_a_line_says_otherwise() -> None:
    config = parse_config("rules: [{action: deny, label: {role: lab}}]")
    first = line(0, 22, 80, declared=[443], labels={"role": "web"})
    assert told(first, line(5, 22, 80), config=config) == [("baseline", "h1", None), ("down", "h1", 443)]
    assert told(first, line(5, 22, labels={"role": "lab"}, declared=[]), config=config)[2:] == []
    assert told(first, line(5, 22), config=config)[2:] == [("down", "h1", 80)]


def test_a_failure_may_say_why_and_a_time_without_a_zone_is_utc() -> None:
    failed = [
        json.dumps(
            {"at": f"2026-01-01T00:{minute:02}:00", "host_id": "h1", "outcome": "unreachable", "error_class": "dns"}
        )
        for minute in (0, 5)
    ]
    (event,) = simulate(failed, Config(), interval=FIVE)
    assert (event.at, event.kind) == ("2026-01-01T00:05:00Z", "unreachable")
    assert "dns" in event.reason


def failed(minute: int, host: str = "h1", outcome: str = "unreachable", **more: Any) -> str:
    return json.dumps({"at": f"2026-01-01T00:{minute:02}:00Z", "host_id": host, "outcome": outcome} | more)


def test_an_event_says_how_urgent_it_is() -> None:
    history = [line(0, 22, 80), line(5, 22), failed(5, "h2"), line(10, 22), failed(10, "h2"), line(15, 22, 443)]
    events = simulate(history, Config(), interval=FIVE)
    assert [(event.kind, event.severity) for event in events] == [
        ("baseline", "info"), ("down", "critical"), ("unreachable", "warning"), ("new", "warning"),
    ]  # fmt: skip


def test_the_start_of_process_1_tells_that_a_container_was_started_again() -> None:
    assert told(line(0, 22, pid1_start=100), line(5, 22, pid1_start=200))[1:] == [("rebooted", "h1", None)]
    assert told(line(0, 22, pid1_start=100), line(5, 22, pid1_start=100), line(10, 22))[1:] == []


def test_an_entry_that_can_not_be_used_is_not_scanned() -> None:
    history = [line(0, 22), failed(5, outcome="invalid_entry", error_class="no address"), line(10, 22)]
    events = list(simulate(history, Config(), interval=FIVE))
    assert [event.kind for event in events] == ["baseline", "unscanned", "scanned"]
    assert events[1].reason == "Its entry in the CMDB can't be used: no address"


def test_a_host_of_which_no_entry_could_ever_be_used_is_told_as_well() -> None:
    assert told(failed(0, outcome="invalid_entry")) == [("unscanned", "h1", None)]


def test_a_port_that_is_hidden_is_told_in_the_second_run() -> None:
    config = parse_config("rules: [{action: deny, port: 80, label: {role: lab}}]")
    labels: dict[str, Any] = {"labels": {"role": "lab"}}
    assert told(line(0, 22, 80), line(5, 22), line(10, 22, **labels), line(15, 22, **labels), config=config)[2:] == [
        ("unwatched", "h1", 80)
    ]


def test_a_host_that_is_not_there_can_leave() -> None:
    assert told(json.dumps({"at": "2026-01-01T00:00:00Z", "host_id": "h9", "outcome": "removed"})) == []


def test_blank_lines_are_none() -> None:
    assert told("", line(0, 22), "  \n") == [("baseline", "h1", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 2: Invalid JSON"),
        ("[]", "line 2: Input should be an object"),
        ('{"at": "2026-01-01T00:00:00Z", "outcome": "ok"}', "line 2: host_id: Field required"),
        (line(1, 0), "line 2: listeners.0.port: Input should be greater than or equal to 1"),
        (
            line(1, 22, outcome="fine"),
            "line 2: outcome: Input should be 'ok', 'unreachable', 'invalid', 'removed' or 'invalid_entry'",
        ),
        (line(1, 22, at="soon"), "line 2: at: Input should be a valid datetime"),
        (line(1, 22, portz=1), "line 2: portz: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str) -> None:
    with pytest.raises(HistoryError) as error:
        list(simulate([line(0, 22), text], Config(), interval=FIVE))
    assert str(error.value).startswith(message)


def run(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, ["simulate", *arguments], input=stdin)


def test_the_command_reads_stdin_and_prints_ascii(tmp_path: Path) -> None:
    config = tmp_path / "portmon.yaml"
    config.write_text("{}\n")
    result = run("-", "--config", str(config), stdin=line(0, 22, host="\u202eh{{") + "\n")
    assert result.exit_code == 0
    assert result.stdout.isascii()
    assert json.loads(result.stdout)["host_id"] == "\u202eh{{"


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    config = tmp_path / "portmon.yaml"
    config.write_text("{}\n")
    missing = run(str(tmp_path / "none.jsonl"), "--config", str(config))
    assert (missing.exit_code, "No such file" in missing.stderr) == (2, True)
    assert run("-", "--interval", "soon", stdin="").exit_code == 2
    wrong = run("-", "--config", str(config), stdin="{")
    assert (wrong.exit_code, wrong.stderr[:27]) == (1, "error: line 1: Invalid JSON")
