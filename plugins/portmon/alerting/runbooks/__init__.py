"""What to do about each kind of event: a text in English and one in Chinese, in a folder each."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from portmon.model.event_kinds import AlertRole, EventKind

FOLDER = Path(__file__).parent
LANGUAGES = ("en", "zh")


@cache
def names() -> frozenset[str]:
    """Kinds that have a runbook."""
    return frozenset(path.stem for path in (FOLDER / LANGUAGES[0]).glob("*.md"))


def read(name: str, language: str) -> str:
    """A runbook as Markdown.

    :param name: one of :func:`names`
    """
    return (FOLDER / (language if language in LANGUAGES else LANGUAGES[0]) / f"{name}.md").read_text("utf-8")


def about(kind: EventKind, role: AlertRole | None) -> str | None:
    """The name of the runbook of an event; None of what is over, or needs nothing."""
    return kind.value if role in (AlertRole.FIRING, AlertRole.NOTICE) and kind.value in names() else None


def address(name: str, *, pattern: str | None, page: str | None) -> str | None:
    """Where people read a runbook.

    :param pattern: address of the user's own, with ``{kind}``; empty: nowhere; None: portmon's page
    :param page: address of portmon's page; None: it has none
    """
    if pattern is None:
        return f"{page.rstrip('/')}/runbooks/{name}" if page else None
    return pattern.replace("{kind}", name) or None
