"""Messages cut to what a receiver takes, whatever and however it counts."""

from __future__ import annotations

from collections.abc import Callable

from portmon.alerting.message.render import Message

Fits = Callable[[str, str], bool]
"""Whether a receiver takes a title with a body."""

_SHORT = 16
"""Characters below which nothing is shortened."""


def fitted(message: Message, form: str, fits: Fits) -> tuple[str, str]:
    """Title and body that a receiver takes: all of it, else with as many of its lines as fit and the rest counted.

    :param form: which body: ``text``, ``markdown`` or ``html``
    """
    title, whole = message.title, getattr(message, form) or message.text
    if fits(title, whole):
        return title, whole
    while len(title) > _SHORT and not fits(title, "…"):
        title = _shortened(title)

    cut = message.cut
    if cut is not None:
        count = message.lines

        def body_of(lines: int) -> str:
            return str(getattr(cut(lines), form))
    else:
        split = whole.split("\n")
        count = len(split)

        def body_of(lines: int) -> str:
            return "\n".join([*split[:lines], f"… (+{len(split) - lines})"])

    lines = _most(count, lambda lines: fits(title, body_of(lines)))
    if lines:
        return title, body_of(lines)
    # Not even one line: a short beginning of it says more than none.
    body = body_of(1)
    while body and not fits(title, body):
        body = _smaller(body)
    return title, body or "…"


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number below ``count`` that fits; 0 if none above it does."""
    known, too_many = 0, count
    while too_many - known > 1:
        middle = (known + too_many) // 2
        known, too_many = (middle, too_many) if fits(middle) else (known, middle)
    return known


def _smaller(body: str) -> str:
    """A body with its longest line shortened, addresses last: a part of one leads nowhere."""
    lines = body.split("\n")
    words = [line for line in lines if "://" not in line and len(line) > _SHORT]
    longest = max(words or lines, key=len)
    place = lines.index(longest)
    if words:
        lines[place] = _shortened(longest)
    else:
        del lines[place]
    return "\n".join(lines)


def _shortened(line: str) -> str:
    kept = line[: len(line) * 3 // 4].rstrip("…")
    # A backslash that lost what it escapes would escape the ellipsis.
    return kept.rstrip("\\").rstrip() + "…"
