"""A hook of MkDocs (mkdocs.yml): the site has the pages of the repository, and the files that they link to, where they are.

So README is the front page, and a link is the same on the site as in the repository.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROLE = "contrib/ansible/roles/portmon_target/README.md"
RUNBOOKS = "plugins/portmon/alerting/runbooks"
PAGES = ("README.md", "README.zh-CN.md", "CHANGELOG.md", "docs", ROLE, RUNBOOKS)
_stage = Path()


def linked(page: Path) -> set[Path]:
    """Files of the repository that a page links to and that are no pages."""
    targets = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    files = {(page.parent / target).resolve() for target in targets}
    return {file for file in files if file.is_file() and file.suffix != ".md"}


def on_config(config: Any) -> Any:
    """Read the pages from a folder of our own, laid out as the repository is."""
    global _stage
    _stage = Path(tempfile.mkdtemp(prefix="portmon-site-"))
    for name in PAGES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, _stage / name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        else:
            (_stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, _stage / name)
    pages = [
        page for name in PAGES for page in ([ROOT / name] if name.endswith(".md") else (ROOT / name).rglob("*.md"))
    ]
    for file in {file for page in pages for file in linked(page)}:
        into = _stage / file.relative_to(ROOT)
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, into)
    config.docs_dir = str(_stage)
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave of what a fence says the language: the other words are for tests. Join lines of Chinese without a space."""
    markdown = re.sub(r"^( *```\w+) .*$", r"\1", markdown, flags=re.MULTILINE)
    return re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n *(?=[\u4e00-\u9fff])", "", markdown)


def on_post_build(**_: Any) -> None:
    """Remove that folder."""
    shutil.rmtree(_stage, ignore_errors=True)
