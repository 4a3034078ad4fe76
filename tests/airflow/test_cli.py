"""What the commands say."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portmon.cli import app


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
