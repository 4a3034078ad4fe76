"""What it was measured on."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.crowd import SSHD

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("apache-airflow", "apache-airflow-providers-ssh", "paramiko", "pandas", "SQLAlchemy")


def facts() -> dict[str, Any]:
    """The machine and the software that the figures were measured with."""
    found: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3),
        "kernel": platform.release(),
        "system": _system(),
        "python": platform.python_version(),
        "openssh": _first_line(SSHD, "-V"),
        "postgresql": _postgres(),
        "portmon": _revision(),
    }
    return found | {name: version(name) for name in PACKAGES}


def _revision() -> str:
    """The commit, and whether anything differs from it but what a bench writes."""
    git = ("git", "-C", str(ROOT))
    name = _first_line(*git, "describe", "--always")
    with contextlib.suppress(OSError):
        differs = subprocess.run(
            [*git, "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks", ":!docs/benchmarks.md"], check=False
        )
        return f"{name}-dirty" if differs.returncode == 1 else name
    return name


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return "Linux"


def _postgres() -> str:
    versions = sorted(int(place.name) for place in Path("/usr/lib/postgresql").glob("[0-9]*"))
    return str(versions[-1]) if versions else "unknown"


def _first_line(*command: str) -> str:
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in (done.stdout + done.stderr).splitlines():
            if line.strip() and "illegal option" not in line and "unknown option" not in line:
                return line.strip().partition(",")[0]
    return "unknown"
