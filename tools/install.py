"""Install a list of pinned packages with pip and say how far it is: it takes minutes, and pip says hundreds of lines.

    python tools/install.py requirements.txt

Everything that pip said is shown only if it fails. Ends with pip's exit code.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# The lock is complete: no dependency has to be worked out. An old pip (Debian's) fails at extras if it tries.
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--require-hashes"]
EVERY = 25
"""Packages between two lines where the output is no terminal."""


def main(file: str) -> int:
    """Run pip on ``file``."""
    total = sum("==" in line and not line.startswith((" ", "#")) for line in Path(file).read_text().splitlines())
    command = [*PIP, "--progress-bar", "off", "-r", file]
    said, seen = [], 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as pip:
        assert pip.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        for line in pip.stdout:
            said.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                seen += 1
                _say(f"fetched {seen} of at most {total} packages", often=seen % EVERY > 0)
            elif line.startswith("Installing collected packages"):
                _say(f"installing {line.count(',') + 1} packages")
    if sys.stdout.isatty():
        print("\r\033[K", end="", flush=True)
    if pip.returncode:
        print("".join(said), end="", file=sys.stderr)
    return pip.returncode


def _say(text: str, *, often: bool = False) -> None:
    if sys.stdout.isatty():
        print(f"\r\033[K  {text}", end="", flush=True)
    elif not often:
        print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
