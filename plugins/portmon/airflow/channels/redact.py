"""Errors of other libraries, fit for a task log: on one line and without secrets."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from airflow.providers.common.compat.sdk import redact

from portmon.text import plain

ERROR_LIMIT = 300
"""Characters of somebody else's error that a message of ours repeats."""

# A login may hold more than one @. After a host comes no colon but that of a port: in ``//user:pa/ss@host`` it begins
# a password.
_ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/\s?#'\")]*@)?"
    r"(?P<host>(?:\[[0-9a-f:.%]*\]|[^/\s?#'\")@:\[]*)(?::\d+(?=[/\s?#'\")]|$))?)(?P<rest>[^\s'\")]*)",
    re.IGNORECASE,
)
_PATH = re.compile(r"(?<=with url: )\S+")


def told(error: Exception) -> str:
    """Class, message and place of an error, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [{Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    try:
        message = foreign(str(error))
    except Exception:
        # An error whose own text fails must not hide that the delivery did.
        message = "its text can't be read"
    return f"{type(error).__name__}{': ' + message if message else ''}{place}"


def foreign(text: str) -> str:
    """Text of another library without secrets: what Airflow knows to be one, and all but the host of addresses.

    Webhooks carry their token in the path, and HTTP clients put the path into their errors.
    """
    known = str(redact(text))
    return plain(_PATH.sub("…", _ADDRESS.sub(_without_secrets, known)), ERROR_LIMIT)


def _without_secrets(address: re.Match[str]) -> str:
    # Of ``//user:8080/word@host`` host and port are the beginning of a login.
    return f"{address['scheme']}{'' if '@' in address['rest'] else address['host'] + '/'}…"
