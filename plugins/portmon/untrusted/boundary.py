"""Turn every exception of a block into one kind of error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from portmon.errors import PortmonError
from portmon.untrusted.redact import describe

REASON_LIMIT = 200
"""Characters of another library's error text that a message repeats."""


@contextmanager
def boundary(make: Callable[[str], Exception], *, passing: type[Exception], secret: bool = False) -> Iterator[None]:
    """Turn every exception of the block into one kind of error.

    Libraries raise AttributeError, KeyError, OverflowError or RecursionError on data that they did not expect.

    :param make: makes the error, given the reason
    :param passing: errors of this kind are raised as they are
    :param secret: the block handles addresses or logins: the text of another library's error is left out
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        # Without the cause, whose text would be in the traceback in the task log.
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

    def on_one_line(text: str) -> str:
        text = "" if secret else " ".join(text.split())
        return text if len(text) <= REASON_LIMIT else f"{text[:REASON_LIMIT]}…"

    return describe(error, on_one_line)
