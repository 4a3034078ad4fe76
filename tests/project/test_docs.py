"""What the documents name exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import portmon
from portmon.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def commands(command: object = None, prefix: str = "") -> set[str]:
    command = command or typer.main.get_command(app)
    found = set()
    for name, inner in getattr(command, "commands", {}).items():
        found |= {f"{prefix}{name}"} | commands(inner, f"{prefix}{name} ")
    return found


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_and_commands_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:`|^)make ((?:[a-z]+-?)+)", text, flags=re.M)) <= targets
    for line in re.findall(r"python3? -m portmon ([a-z]+(?: [a-z]+)?)", text):
        assert line in commands() or line.split()[0] in commands(), line


def test_both_readmes_tell_the_same_things() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    for pattern in (r"^## ", r"^\| `", r"^```", r"^\* "):
        assert len(re.findall(pattern, english, flags=re.M)) == len(re.findall(pattern, chinese, flags=re.M)), pattern


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == portmon.__version__
