"""What the commands say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portmon.cli import app
from portmon.storage import host_keys
from portmon.storage.database import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def check(tmp_path: Path, text: str) -> Result:
    path = tmp_path / "portmon.yaml"
    path.write_text(text)
    return run("check", "--config", str(path))


# ── check ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rules", "restricted"),
    [
        ("- {action: deny, port: 25}", None),
        ("- {action: allow, port: 443}", "every host (portmon.yaml:2: rules[0] names no host)"),
        ("- {action: allow, host: 'web*', port: 443}", "host web*"),
        (
            "- {action: allow, host: [a, b], label: {role: db}}\n- {action: deny, port: 1}\n- {action: allow, label: {x: y}}",
            "host a|b and label role=db; label x=y",
        ),
        (
            "- {action: allow, host: 'web*'}\n- {action: allow, program: sshd}",
            "every host (portmon.yaml:3: rules[1] names no host)",
        ),
    ],
)
def test_check_says_where_only_what_is_allowed_is_watched(tmp_path: Path, rules: str, restricted: str | None) -> None:
    result = check(tmp_path, f"rules:\n{rules}\n")
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines() if "only what" in line]
    assert lines == ([f"only what is allowed is watched on: {restricted}"] if restricted else [])


@pytest.mark.parametrize(
    ("source", "advised"),
    [
        ("pagination: {style: page}", True),
        ("pagination: {style: offset}", True),
        ("pagination: {style: next_link}", True),
        ("pagination: {style: page}, total: count", False),
        ("pagination: {style: none}", False),
    ],
)
def test_check_recommends_a_total_where_there_are_pages(tmp_path: Path, source: str, advised: bool) -> None:
    result = check(tmp_path, f"cmdb: {{source: {{type: http, {source}}}}}\n")
    assert result.exit_code == 0, result.output
    assert ("cmdb.source.total" in result.stdout) is advised


# ── hostkeys ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    made.migrate()
    monkeypatch.setattr("portmon.settings.database", lambda: made)
    with made.begin() as conn:
        host_keys.remember(conn, "[a]:22", "ssh-ed25519", "AAAA", "SHA256:a", NOW)
        host_keys.report_change(conn, "[a]:22", "ssh-ed25519", "BBBB", "SHA256:b", NOW)
    yield made
    made.dispose()


def trusted(database: Database) -> list[str]:
    with database.begin() as conn:
        return [key.fingerprint for key in host_keys.get(conn, "[a]:22")]


def test_accept_trusts_the_key_that_was_compared(database: Database) -> None:
    result = run("hostkeys", "accept", "[a]:22", "SHA256:b")
    assert result.exit_code == 0, result.output
    assert "SHA256:b" in result.stdout
    assert trusted(database) == ["SHA256:b"]


def test_accept_refuses_a_key_that_came_in_between(database: Database) -> None:
    with database.begin() as conn:
        host_keys.report_change(conn, "[a]:22", "ssh-ed25519", "CCCC", "SHA256:c", NOW)
    result = run("hostkeys", "accept", "[a]:22", "SHA256:b")
    assert result.exit_code == 1
    assert "SHA256:c" in result.stderr
    assert trusted(database) == ["SHA256:a"]


def test_accept_needs_a_fingerprint_and_an_offered_key(database: Database) -> None:
    assert run("hostkeys", "accept", "[a]:22").exit_code == 2
    assert run("hostkeys", "accept", "[a]:22", "SHA256:b").exit_code == 0
    result = run("hostkeys", "accept", "[a]:22", "SHA256:b")
    assert result.exit_code == 1
    assert "no other key than the trusted one" in result.stderr
    assert trusted(database) == ["SHA256:b"]
