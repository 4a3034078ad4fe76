"""Errors and texts of other libraries, fit for a task log: on one line and without secrets."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path

from portmon.text import plain

ERROR_LIMIT = 300
"""Characters of a text that are kept."""

# A scheme of any length would be looked for from each letter of a long text on, in quadratic time.
# A login may hold more than one @. A colon after a host that is not followed by a port begins a password, as in
# ``//user:pa/ss@host``.
_ADDRESS = (
    r"(?i)(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)(?:[^/\s?#'\")]*@)?"
    r"(?P<host>(?:\[[0-9a-f:.%]*\]|[^/\s?#'\")@:\[]*)(?::\d+(?=[/\s?#'\")]|$))?)(?P<rest>[^\s'\")]*)"
)


def redact(text: str) -> str:
    """One line in which only the host of an address is left: the path of a webhook holds its token."""
    return plain(re.sub(r"(?<=with url: )\S+", "…", re.sub(_ADDRESS, _host_only, text)), ERROR_LIMIT)


def _host_only(address: re.Match[str]) -> str:
    # Of ``//user:8080/word@host`` host and port are the beginning of a login.
    return f"{address['scheme']}{'' if '@' in address['rest'] else address['host'] + '/'}…"


def describe(error: Exception, redact: Callable[[str], str] = redact) -> str:
    """Class, redacted text, and place of an error, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [{Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    try:
        text = redact(str(error))
    except Exception:
        # An error whose own text fails must not hide that the delivery did.
        text = "its text can't be read"
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
