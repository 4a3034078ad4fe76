"""Messages cut to the size that a receiver takes, however it counts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

from portmon.text import whole

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message

_SHORT = 16
"""Characters below which nothing is shortened."""


def fitted(message: Message, form: str, fits: Callable[[str, str], bool]) -> tuple[str, str]:
    """Title and body that a receiver takes: all of it, else with as many of its lines as fit and the rest counted.

    :param form: which body: ``text``, ``markdown`` or ``html``
    :param fits: whether the receiver takes a title with a body
    """
    title, whole = message.title, getattr(message, form) or message.text
    if fits(title, whole):
        return title, whole
    while len(title) > _SHORT and not fits(title, "…"):
        title = _shortened(title)

    cut, split = message.cut, whole.split("\n")

    def body_of(lines: int) -> str:
        return getattr(cut(lines), form) if cut else "\n".join([*split[:lines], f"… (+{len(split) - lines})"])

    # The largest number below that of all lines that fits, 0 if none does.
    fewer = range(1, len(split) if cut is None else message.lines)
    lines = bisect_left(fewer, True, key=lambda lines: not fits(title, body_of(lines)))
    if lines:
        return title, body_of(lines)
    # Not even one line: a short beginning of it says more than none.
    body = body_of(1)
    while body and not fits(title, body):
        body = _smaller(body)
    return title, body or "…"


def _smaller(body: str) -> str:
    """A body with its longest line shortened; lines with addresses, of which a part leads nowhere, are removed last."""
    lines = body.split("\n")
    words = [line for line in lines if "://" not in line and len(line) > _SHORT]
    longest = max(words or lines, key=len)
    place = lines.index(longest)
    lines[place : place + 1] = [_shortened(longest)] if words else []
    return "\n".join(lines)


def _shortened(line: str) -> str:
    kept = line[: whole(line, len(line) * 3 // 4)].rstrip("…")
    # A backslash that lost what it escapes would escape the ellipsis.
    return kept.rstrip("\\").rstrip() + "…"
