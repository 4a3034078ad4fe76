"""One kind of error at a boundary, whatever is raised behind it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from portmon.errors import PortmonError

REASON_LIMIT = 200
"""Characters of an error's own text that are repeated."""


@contextmanager
def boundary(make: Callable[[str], Exception], *, passing: type[Exception], secret: bool = False) -> Iterator[None]:
    """Turn whatever the block raises into one kind of error.

    A list of expected exceptions per place is never complete: libraries raise AttributeError, KeyError, OverflowError
    or RecursionError on data that they did not expect.

    :param make: makes the error, given the reason
    :param passing: errors of this kind are told already and go on as they are
    :param secret: the block handles addresses or logins: the error's own text may hold a secret and is not repeated
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        # Without its cause, whose text a traceback in a task log would show.
        raise make(reason(error, secret=secret)) from None


def reason(error: Exception, *, secret: bool = False) -> str:
    """What an error says, for people: on one line, cut, with its class and place.

    :param secret: without its own text, unless it is an error of ours, which holds none
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
