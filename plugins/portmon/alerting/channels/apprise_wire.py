"""Requests of Apprise's plugins: measured before they are sent, their answers read.

A plugin calls the functions of ``requests`` and does not hand on the answer. It gets the functions of this module in
their place, which do the same unless an :class:`Exchange` is under way.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import requests

from portmon.alerting.channels.mail import LONGEST, folded
from portmon.alerting.channels.services import ANSWER_LIMIT, ChatService, Refusal, refusal

BODY_LIMIT = 1 << 20
"""Bytes of an answer, unpacked. A proxy in place of a service may send any number."""
CHUNK = 1 << 14


class MeasuredError(Exception):
    """A plugin was about to send."""


class Exchange:
    """One message to one target.

    :param service: None if it is not in the table of services
    :param measuring: nothing is sent, and nothing is logged
    :ivar measured: body of the first request, if nothing is sent
    :ivar refused_last: the last answer was a refusal
    """

    def __init__(self, service: ChatService | None, redact: Callable[[str], str], *, measuring: bool = False) -> None:
        self.service = service
        self.redact = redact
        self.measuring = measuring
        self.measured: bytes | None = None
        self.refusal: Refusal | None = None
        self.refused_last = False

    @contextlib.contextmanager
    def watched(self, plugin: Any = None) -> Iterator[None]:
        """See the requests of an Apprise object within this block, also those of threads that Apprise begins for it."""
        for cls in type(plugin).__mro__:
            module = sys.modules.get(cls.__module__)
            if cls.__module__.startswith("apprise.plugins") and getattr(module, "requests", None) is requests:
                setattr(module, "requests", _IN_PLACE)  # noqa: B010 - mypy knows no such attribute
            if cls.__module__.startswith("apprise.plugins.email"):
                _fold_mails()
        token = _exchange.set(self)
        try:
            yield
        finally:
            _exchange.reset(token)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send one request.

        :raises MeasuredError: if it is only measured
        :raises requests.RequestException: as requests does; also of a service that asked to be left alone just now,
            which plugins try again at once
        """
        if self.measuring:
            if self.measured is None:
                parts = {name: options.get(name) for name in ("data", "json", "params")}
                body = requests.Request(method, "http://localhost/", **parts).prepare().body or b""
                self.measured = body if isinstance(body, bytes) else str(body).encode()
            raise MeasuredError("not sent, only measured")
        if self.refusal is not None and self.refusal.wait is not None:
            raise requests.RequestException("it asked to be left alone")
        answer = _read(requests.request(method, url, **{**options, "stream": True}))  # noqa: S113 - the plugin gives one
        found = refusal(answer.status_code, answer.headers, answer.content[:ANSWER_LIMIT], self.service, self.redact)
        self.refused_last = found is not None
        # Of several, the one in a success: the plugin does not see it.
        if found is not None and not (self.refusal and self.refusal.in_success):
            self.refusal = found
        return answer


@functools.cache
def _fold_mails() -> None:
    """Let Apprise send no line of a mail that is too long: its Subject is one line, three times as long in Chinese."""
    from apprise.plugins.email.smtp import AppriseSMTPController

    send = AppriseSMTPController.sendmail

    def sendmail(self: Any, from_addr: str, to_addrs: list[str], message: Any) -> bool:
        raw = message.encode("utf-8", "surrogateescape") if isinstance(message, str) else message
        # What is short enough stays as it is: it may be signed.
        long = _exchange.get() is not None and any(len(line) > LONGEST for line in raw.splitlines())
        return bool(send(self, from_addr, to_addrs, folded(raw) if long else message))

    AppriseSMTPController.sendmail = sendmail


def _read(answer: requests.Response) -> requests.Response:
    """A response with its body, as requests gives it, but not more than ``BODY_LIMIT`` of it."""
    body = bytearray()
    with answer:
        for chunk in answer.iter_content(CHUNK):
            body += chunk
            if len(body) >= BODY_LIMIT:
                break
    answer._content, answer._content_consumed = bytes(body[:BODY_LIMIT]), True
    return answer


_exchange: contextvars.ContextVar[Exchange | None] = contextvars.ContextVar("portmon_exchange", default=None)
logging.getLogger("apprise").addFilter(lambda record: (exchange := _exchange.get()) is None or not exchange.measuring)


class _InPlace:
    """Stands for the module ``requests``."""

    def __getattr__(self, name: str) -> Any:
        return getattr(requests, name)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        exchange = _exchange.get()
        return (requests if exchange is None else exchange).request(method, url, **options)

    def get(self, url: str, params: Any = None, **options: Any) -> requests.Response:
        return self.request("get", url, params=params, **options)

    def post(self, url: str, data: Any = None, json: Any = None, **options: Any) -> requests.Response:
        return self.request("post", url, data=data, json=json, **options)

    def put(self, url: str, data: Any = None, **options: Any) -> requests.Response:
        return self.request("put", url, data=data, **options)


_IN_PLACE = _InPlace()
