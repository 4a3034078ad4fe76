"""Errors and texts of other libraries, fit for a task log: on one line and without secrets."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path

from portmon.text import plain

ERROR_LIMIT = 300
"""Characters of a text that are kept."""

# A login may hold more than one @. After a host comes no colon but that of a port: in ``//user:pa/ss@host`` it begins
# a password.
_ADDRESS = (
    r"(?i)(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/\s?#'\")]*@)?"
    r"(?P<host>(?:\[[0-9a-f:.%]*\]|[^/\s?#'\")@:\[]*)(?::\d+(?=[/\s?#'\")]|$))?)(?P<rest>[^\s'\")]*)"
)


def redact(text: str) -> str:
    """One line without all but the host of addresses: webhooks have their token in the path, and HTTP clients put the
    path into their errors.
    """
    return plain(re.sub(r"(?<=with url: )\S+", "…", re.sub(_ADDRESS, _host_only, text)), ERROR_LIMIT)


def _host_only(address: re.Match[str]) -> str:
    # Of ``//user:8080/word@host`` host and port are the beginning of a login.
    return f"{address['scheme']}{'' if '@' in address['rest'] else address['host'] + '/'}…"


def describe(error: Exception, redact: Callable[[str], str] = redact) -> str:
    """Class, text and place of an error, on one line.

    :param redact: makes its text fit for a log
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [{Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    try:
        text = redact(str(error))
    except Exception:
        # An error whose own text fails must not hide that the delivery did.
        text = "its text can't be read"
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
