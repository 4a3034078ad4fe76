"""Errors of other libraries, fit for a task log: on one line and without secrets."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from airflow.providers.common.compat.sdk import redact

from portmon.render import plain

ERROR_LIMIT = 300
"""Characters of somebody else's error that a message of ours repeats."""

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/\s@]*@)?(?P<host>[^/\s?#'\")]*)[^\s'\")]*", re.IGNORECASE)
_PATH = re.compile(r"(?<=with url: )\S+")


def told(error: Exception) -> str:
    """Class, message and place of an error, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [{Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    message = foreign(str(error))
    return f"{type(error).__name__}{': ' + message if message else ''}{place}"


def foreign(text: str) -> str:
    """Text of another library without secrets: what Airflow knows to be one, and all but the host of addresses.

    Webhooks carry their token in the path, and HTTP clients put the path into their errors.
    """
    known = str(redact(text))
    return plain(_PATH.sub("…", _ADDRESS.sub(r"\g<scheme>\g<host>/…", known)), ERROR_LIMIT)
