"""The threat model: each control has a proof that exists, and each actor is told what remains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_, *SECTIONS = re.split(r"^## ", (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8"), flags=re.M)
ACTORS = {title: text for title, _, text in (section.partition("\n") for section in SECTIONS[1:])}


@pytest.mark.parametrize("actor", ACTORS)
def test_each_control_names_tests_that_there_are(actor: str) -> None:
    _, _, *controls = re.findall(r"^\|.*\|$", ACTORS[actor], flags=re.M)
    assert controls
    for control in controls:
        proof = control.split("|")[-2]
        named = re.findall(r"`(tests/[\w/]+\.py)`", proof)
        assert named, control
        for name in named:
            assert "\ndef test_" in (ROOT / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("actor", ACTORS)
def test_what_no_control_prevents_is_said(actor: str) -> None:
    assert len(re.findall(r"^\*\*What remains\.\*\* \S", ACTORS[actor], flags=re.M)) == 1


def test_packages_of_the_image_have_hashes() -> None:
    installs = re.findall(r"pip install (.+?) \\?$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    for line in (one for one in installs if "-r " in one):
        assert "--require-hashes" in line
        (name,) = re.findall(r"-r \S*?([\w-]+\.txt)", line)
        pinned = re.split(r"^(?=[a-z0-9])", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)[1:]
        assert pinned
        assert [one.splitlines()[0] for one in pinned if "--hash=sha256:" not in one] == []
    assert any("-r " in one for one in installs)
