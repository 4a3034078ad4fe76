"""What comes with portmon: known holes of the packages that are pinned, their licences, and a list of them (SBOM).

    python tools/supply.py audit PIP_AUDIT     # exit code 1 if a pinned package has a known hole
    python tools/supply.py sbom FOLDER         # portmon.cdx.json (CycloneDX 1.6) and licences.txt; 1 if one may not be

The image has what requirements.txt and requirements-fab.txt pin; the other files are tools. Licences are what the
packages say that are installed where this runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("requirements.txt", "requirements-fab.txt")
FORBIDDEN = re.compile(
    r"\b(AGPL|GNU Affero|SSPL|Server Side Public|BUSL|Business Source|Commons Clause|Proprietary|CC-BY-NC)"
    r"|(?<!L)\bGPL|(?<!Lesser )\bGeneral Public License|GNU General Public",
    re.IGNORECASE,
)
"""Licences under which the image could not be given on under Apache-2.0. LGPL and MPL are no hindrance to that: the
packages are unchanged and apart (https://www.apache.org/legal/resolved.html names what may not be *in* a release)."""
CHOICE = re.compile(r"\bOR\b|/")
"""Between licences of which one may be chosen; the `or` of "v2 or later" is none."""


class Pin(NamedTuple):
    """A line of a lock."""

    name: str
    version: str
    hashes: tuple[str, ...]


def pins(*files: str) -> list[Pin]:
    """Every package that is pinned, once, by name."""
    found = {}
    for file in files:
        for block in re.split(r"\n(?=[A-Za-z0-9])", (ROOT / file).read_text()):
            if match := re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;]+)", block):
                name = re.sub(r"[-_.]+", "-", match[1]).lower()
                found[name, match[2]] = Pin(name, match[2], tuple(re.findall(r"--hash=sha256:(\w+)", block)))
    return [found[key] for key in sorted(found)]


# ── known holes ─────────────────────────────────────────────────────────────────────────────────


def verdict(file: str, report: dict[str, Any] | None, said: str) -> tuple[bool, str]:
    """Whether there is a known hole, and the lines to print.

    :param report: of pip-audit, None if it made none
    :param said: what it wrote besides
    """
    packages = report["dependencies"] if report else []
    audited = [one for one in packages if "skip_reason" not in one]
    if not audited:
        # A mirror without advisories knows no package, and without a network there is no report at all.
        why = packages[0]["skip_reason"] if packages else (said.strip().splitlines() or ["it said nothing"])[-1]
        return False, f"skipped: {file}, the advisory service is not reachable: {why[:200]}"
    lines = [f"{file}: {len(audited)} of {len(packages)} packages audited"]
    lines += [f"  not audited: {one['name']}: {one['skip_reason']}" for one in packages if "skip_reason" in one]
    for one in audited:
        lines += [
            f"  {one['name']} {one['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
            for hole in one["vulns"]
        ]
    return any(one["vulns"] for one in audited), "\n".join(lines)


def audit(pip_audit: str) -> int:
    """Ask the advisory service about every lock."""
    failed = False
    for file in sorted(path.name for path in ROOT.glob("requirements*.txt")):
        command = [pip_audit, "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--timeout", "10"]
        done = subprocess.run(
            [*command, "--format", "json", "-r", ROOT / file], capture_output=True, text=True, check=False
        )
        report = json.loads(done.stdout) if done.stdout.startswith("{") else None
        if report is None and not re.search("connect|timed out|resol|unreachable", done.stderr, re.IGNORECASE):
            print(f"{file}: pip-audit failed: {done.stderr.strip()[-500:]}")
            failed = True
            continue
        bad, text = verdict(file, report, done.stderr)
        print(text, flush=True)
        failed |= bad
    return int(failed)


# ── licences and SBOM ───────────────────────────────────────────────────────────────────────────


def licence_of(about: metadata.PackageMetadata) -> str:
    """As the package says it: an SPDX expression, else its classifiers, else the first line of its text."""
    if expression := about.get("License-Expression"):
        return str(expression)
    prefix = "License :: "
    classified = [one for one in about.get_all("Classifier") or [] if one.startswith(prefix)]
    names = [one.rpartition(" :: ")[2] for one in classified if one != "License :: OSI Approved"]
    return " OR ".join(names) or next(iter((about.get("License") or "").strip().splitlines()), "")


def objection(licence: str) -> str | None:
    """Why a package may not be in the image; None if it may."""
    if not licence:
        return "it names no licence"
    choices = [part for part in CHOICE.split(licence) if part.strip()]
    return "its licence" if all(FORBIDDEN.search(one) for one in choices) else None


def component(pin: Pin, licence: str) -> dict[str, Any]:
    """A package as CycloneDX has it."""
    purl = f"pkg:pypi/{pin.name}@{quote(pin.version)}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": pin.name,
        "version": pin.version,
        "purl": purl,
        "licenses": [{"license": {"name": licence}}],
        # Of its files, of which an installation takes one.
        "properties": [{"name": "portmon:sha256", "value": one} for one in pin.hashes],
    }


def sbom(folder: str) -> int:
    """Write both files."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    version = re.findall(r'__version__ = "(.+)"', (ROOT / "plugins/portmon/__init__.py").read_text())[0]
    listed, lines, wrong, absent = [], [], [], []
    for pin in pins(*SHIPPED):
        try:
            about = metadata.metadata(pin.name)
        except metadata.PackageNotFoundError:
            about = None
        if about is None or about["Version"] != pin.version:
            # Of another platform or Python, by the markers of the lock.
            absent.append(f"{pin.name} {pin.version}")
            continue
        licence = licence_of(about)
        listed.append(component(pin, licence))
        lines.append(f"{pin.name} {pin.version}: {licence}")
        if why := objection(licence):
            wrong.append(f"{pin.name} {pin.version}: {why}: {licence}")
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "portmon", "name": "portmon", "version": version}},
        "components": listed,
    }
    (place / "portmon.cdx.json").write_text(json.dumps(document, indent=1) + "\n")
    (place / "licences.txt").write_text("\n".join(lines) + "\n")
    print(f"{place}: {len(listed)} packages of the image with their licences, as portmon.cdx.json and licences.txt")
    if absent:
        print(f"not installed here, and not listed: {', '.join(absent)}")
    for line in wrong:
        print(f"may not be in the image: {line}")
    return int(bool(wrong))


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    sys.exit({"audit": audit, "sbom": sbom}[command](argument))
