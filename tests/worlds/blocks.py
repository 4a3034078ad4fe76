"""The fenced shell blocks of the documents, and a shell that runs those that are marked as runnable.

A block is ``sh`` and no more, ``sh runnable``, or ``sh runnable background``: the last kind stays, as a server does.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    :param line: of its fence
    :param language: the first word of the fence, empty if there is none
    :param marks: the other words
    :param text: without the indentation of a list
    """

    line: int
    language: str
    marks: tuple[str, ...]
    text: str


def blocks(text: str) -> list[Block]:
    """Every fenced block of a document, in order."""
    found = re.finditer(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", text, flags=re.M)
    return [
        Block(
            text.count("\n", 0, one.start()) + 1,
            (one[2].split() or [""])[0],
            tuple(one[2].split()[1:]),
            textwrap.dedent(one[3]),
        )
        for one in found
    ]


def shell_blocks(page: Path) -> list[Block]:
    """Those in ``sh``."""
    return [block for block in blocks(page.read_text(encoding="utf-8")) if block.language == "sh"]


def checkout(folder: Path) -> Path:
    """A copy of the files of this repository."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        # Deleted and not yet committed, or a link to a folder of tools.
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(page: Path, folder: Path, env: Mapping[str, str], **more: Any) -> str:
    """The blocks of a document, see :func:`run_text`."""
    return run_text(page.read_text(encoding="utf-8"), folder, env, **more)


def run_text(
    document: str,
    folder: Path,
    env: Mapping[str, str],
    *,
    given: Mapping[str, str] | None = None,
    instead: Mapping[str, str] | None = None,
    ready: str = "true",
    after: str = "true",
    seconds: float = 300,
) -> str:
    """The blocks of a document in one shell, from the first to the last; the first line that fails ends it.

    :param folder: where it begins
    :param env: all of its environment
    :param given: what a reader puts in the place of something
    :param instead: the first line of a block that is not runnable: what is run in its place
    :param ready: what succeeds as soon as a block in the background does its work
    :param after: what is run at the end
    :returns: what the shell printed, the lines that it ran included
    """
    lines = ["set -ev"]
    for block in (one for one in blocks(document) if one.language == "sh"):
        text = block.text
        for old, new in (given or {}).items():
            text = text.replace(old, new)
        if "background" in block.marks:
            lines += [f"{{\n{text}}} >background.log 2>&1 &", f"until {ready}; do kill -0 $!; sleep 1; done"]
        elif "runnable" in block.marks:
            lines.append(text)
        else:
            lines.append((instead or {}).get(block.text.splitlines()[0], "true"))
    script = folder / ".blocks.sh"
    script.write_text("\n".join([*lines, after, ""]), encoding="utf-8")
    printed = folder / ".blocks.log"
    with printed.open("wb") as out:
        shell = subprocess.Popen(
            ["bash", str(script)], cwd=folder, env={**env}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = shell.wait(seconds)
        finally:
            # What stays in the background belongs to the shell's session.
            try:
                os.killpg(shell.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            shell.wait()
    said = printed.read_text(encoding="utf-8", errors="replace")
    assert code == 0, f"exit code {code}\n{said[-6000:]}"
    return said
