"""What is measured in a process of its own: its peak memory, its imports, its interpreter's lock are its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError

ROOT = Path(__file__).resolve().parent.parent


def answer(
    module: str,
    *arguments: str,
    what: str,
    given: str | None = None,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Any:
    """Run a module, and return what it prints as JSON in its last line.

    :param what: it does, for the error
    :param given: to its standard input
    :param env: its environment; default: ours
    :param within: a command that runs the command behind it
    :raises BenchError: if it failed
    """
    done = subprocess.run(
        [*within, sys.executable, "-m", module, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=env,
    )
    if done.returncode:
        raise BenchError(f"{what} failed: {done.stderr.strip()[-2000:] or f'code {done.returncode}'}")
    return json.loads(done.stdout.splitlines()[-1])
