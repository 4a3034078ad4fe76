"""What `make audit`, `make sbom` and the hooks of git say, without asking any service."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def supply() -> Any:
    spec = importlib.util.spec_from_file_location("supply", ROOT / "tools" / "supply.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SKIPPED = {"name": "a", "version": "1", "skip_reason": "Dependency not found on PyPI"}
SOUND = {"name": "b", "version": "2", "vulns": []}
HOLED = {"name": "c", "version": "3", "vulns": [{"id": "CVE-1", "fix_versions": ["3.1"]}]}


@pytest.mark.parametrize(
    ("packages", "bad", "told"),
    [
        ([SOUND], False, "1 of 1 packages audited"),
        ([SOUND, HOLED], True, "c 3: CVE-1, mended in 3.1"),
        ([SOUND, SKIPPED], False, "not audited: a: Dependency not found on PyPI"),
        # A mirror without advisories: nothing was audited, which is not the same as nothing found.
        ([SKIPPED], False, "skipped: locks.txt, the advisory service is not reachable"),
        (None, False, "skipped: locks.txt, the advisory service is not reachable: no route"),
    ],
)
def test_the_verdict_of_an_audit(supply: Any, packages: list[Any] | None, bad: bool, told: str) -> None:
    report = None if packages is None else {"dependencies": packages}
    found, text = supply.verdict("locks.txt", report, "traceback\nno route\n")
    assert found == bad
    assert told in text


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        ("MIT", True),
        ("LGPL-2.1", True),
        ("GNU Library or Lesser General Public License (LGPL)", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("EPL-2.0 OR GPL-2.0-or-later", True),
        ("Artistic License OR GNU General Public License (GPL)", True),
        ("GPL-3.0-only", False),
        ("GNU General Public License v2 or later (GPLv2+)", False),
        ("MIT AND AGPL-3.0-only", False),
        ("Proprietary License", False),
        ("", False),
    ],
)
def test_which_licence_may_be_in_the_image(supply: Any, licence: str, may: bool) -> None:
    assert (supply.objection(licence) is None) == may


def test_each_package_of_the_image_is_listed_with_a_licence_that_may(
    supply: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert supply.sbom(str(tmp_path)) == 0, capsys.readouterr().out
    document = json.loads((tmp_path / "portmon.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    names = [one["name"] for one in document["components"]]
    assert len(names) == len(set(names))
    assert {"apache-airflow", "paramiko", "apache-airflow-providers-ssh"} <= set(names)
    assert all(one["licenses"][0]["license"]["name"] for one in document["components"])
    assert len((tmp_path / "licences.txt").read_text().splitlines()) == len(names)


def test_hooks_are_the_checks_of_lint_with_the_tools_of_the_lock() -> None:
    (own,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert own["repo"] == "local"
    rule = (ROOT / "Makefile").read_text().split("\nlint: ")[1].split("\n\n")[0]
    checks = re.findall(r"^\t@\$\(BIN\)/(.+?)(?: \.)?(?: >/dev/null.*)?$", rule, flags=re.M)
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in own["hooks"]] == checks
