"""One kind of error at a boundary, whatever is raised behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from portmon.errors import PortmonError
from portmon.untrusted.redact import describe

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
    return describe(error, (lambda _: "") if secret else _on_one_line)


def _on_one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= REASON_LIMIT else f"{text[:REASON_LIMIT]}…"
