"""Turn every exception of a block into one kind of error."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from portmon.errors import PortmonError

REASON_LIMIT = 200
"""Characters of another library's error text that a message repeats."""


@contextmanager
def boundary(make: Callable[[str], Exception], *, passing: type[Exception], secret: bool = False) -> Iterator[None]:
    """Turn every exception of the block into one kind of error.

    A list of expected exceptions is never complete: libraries raise AttributeError, KeyError, OverflowError or
    RecursionError on data that they did not expect.

    :param make: makes the error, given the reason
    :param passing: errors of this kind are raised as they are
    :param secret: the block handles addresses or logins: another library's error text may hold one and is left out
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        # Without the cause: a traceback in a task log would show its text.
        raise make(reason(error, secret=secret)) from None


def reason(error: Exception, *, secret: bool = False) -> str:
    """An error on one line, cut, with its class and place; of portmon's own errors the text alone.

    :param secret: leave out the text of another library's error
    """
    if isinstance(error, PortmonError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it is too large for this machine's memory"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [{Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    if secret:
        return f"{type(error).__name__}{place}"
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "its text can't be read"
    if len(text) > REASON_LIMIT:
        text = f"{text[:REASON_LIMIT]}…"
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
