"""Text that came from a host or the CMDB, made harmless for the medium it goes to; and numbers with their noun."""

from __future__ import annotations

import re
import unicodedata

VALUE_LIMIT = 120
"""Characters of a program, unit or host name that a message shows."""
REASON_LIMIT = 300
"""Characters of a reason that a message shows."""
TITLE_LIMIT = 160
"""Characters of a title: mail subjects and chat headings."""

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of control and format characters (bidi and zero-width ones too), lone surrogates, unassigned."""
_UNSEEN_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and signs that are drawn as nothing."""
_TONES = "".join(map(chr, range(0x1F3FB, 0x1F400)))
"""Skin tones, which change the emoji before them."""
_FLAG_HALVES = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_LONGEST_CHARACTER = 16
"""Code points of what is drawn as one character, but for what is made to be long."""
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FOLDS = re.compile(r":(?=:(?:end)?group::)|\#(?=\#\[(?:end)?group\])")
"""Airflow's page of a task log folds all lines below such a text (the second form is that of Airflow 2):
https://github.com/apache/airflow/blob/3.3.2/airflow-core/src/airflow/ui/src/queries/useLogs.tsx"""


def counted(number: int, noun: str) -> str:
    """``1 host``, ``2 hosts``; ``1 entry``, ``2 entries``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y')}ies" if noun.endswith("ry") else f"{number} {noun}s"


def plain(text: str, limit: int = VALUE_LIMIT) -> str:
    r"""One line of visible characters, of at most ``limit``.

    A character that can't be seen, breaks the line or turns its direction is written as an escape such as ``\n``,
    ``\u202e`` or, for a byte that is no UTF-8, ``\xff``. A longer text ends in an ellipsis. ``::group::`` gets a
    space: Airflow would hide the rest of a task log behind it.
    """
    if "group" in text:
        text = _FOLDS.sub(r"\g<0> ", text)
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    pieces: list[str] = []
    size = 0
    for char in text:
        piece = _visible(char)
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            while size > limit - 1:
                size -= len(pieces.pop())
            del pieces[whole(text, len(pieces)) :]
            pieces.append("…")
            break
    return "".join(pieces)


def whole(text: str, size: int) -> int:
    """A number of characters, at most ``size``, after which no character loses its accent, tone or second half.

    A mark that stands on very many others is no language's, and is cut anywhere.
    """
    if not 0 < size < len(text):
        return size
    for end in range(size, max(size - _LONGEST_CHARACTER, 0), -1):
        flags = len(text[:end]) - len(text[:end].rstrip(_FLAG_HALVES))
        joined = (
            unicodedata.category(text[end]).startswith("M")
            or text[end] in _TONES
            or "\u200d" in text[end - 1 : end + 1]
            or (flags % 2 and text[end] in _FLAG_HALVES)
        )
        if not joined:
            return end
    return size


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _UNSEEN and char not in _UNSEEN_LETTERS:
        return char
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # how surrogateescape keeps a byte
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_EFFECTS = (
    # A mention. The @ of `getty@tty1.service` is none.
    (re.compile(r"(?<!\w)@(?!\s)|@(?=(?:everyone|here|channel|all)\b)", re.IGNORECASE), "@ "),
    # An address that a chat program would make a link of, and a Markdown link or image.
    (re.compile(r"://"), ": //"),
    (re.compile(r"\bmailto:", re.IGNORECASE), "mailto : "),
    (re.compile(r"\]\("), "] ("),
    # Slack's <!channel> and <address|title>, and HTML.
    (re.compile(r"<(?!\s)"), "< "),
    # Discord's spoiler bars, which hide what is between them.
    (re.compile(r"\|(?=\|)"), "| "),
)


def inert(text: str) -> str:
    """Text that notifies, links and hides nothing in a chat: a space breaks mentions, addresses and markup."""
    for pattern, replacement in _EFFECTS:
        text = pattern.sub(replacement, text)
    return text


_MARKDOWN = re.compile(
    r"""
    \\(?=[!-/:-@\[-`{-~]|\Z)          # escapes the next character; before a letter it is one by itself
    | [`*\[\]<~|$]
    | (?<![^\W_])_ | _(?![^\W_])      # within a word it is none: node_exporter stays readable everywhere
    | &(?=\#?\w+;)                    # an entity
    | \A[#>=] | \A[-+](?=[-+\s]|\Z)  # begins a block, where a template puts the text first
    | (?<=\b(?i:www))\.               # GitHub makes a link of it
    """,
    re.VERBOSE,
)
_NUMBERED = re.compile(r"\A(\d{1,9})([.)])(?=\s|\Z)")


def escape_markdown(text: str) -> str:
    """One line that Markdown shows as it is. Text of a host goes through :func:`plain` and :func:`inert` before.

    Only signs that have an effect get a backslash, since some chat programs show backslashes.
    """
    return _NUMBERED.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\g<0>", text.strip()))
