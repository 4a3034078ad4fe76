"""The Airflow hook of the CMDB, and the host list wherever it comes from.

Apart from :mod:`portmon.airflow.ssh_hook`, which every ``netstat`` task imports: the HTTP provider brings aiohttp
along, and that costs more than a whole login.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
from airflow.providers.http.hooks.http import HttpHook

from portmon import timeouts
from portmon.airflow import settings
from portmon.airflow.http_errors import why
from portmon.errors import CmdbError, NoSuchPageError, OverrunError
from portmon.inventory.config import Cmdb
from portmon.inventory.sources.http import HttpSource, OverHttp
from portmon.inventory.sources.pages import PageRequest, json_body, read_pages
from portmon.model.host import Inventory
from portmon.text import plain
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import MAX_SIZE, DocumentError, parse_json
from portmon.untrusted.urls import AMBIGUOUS, address_of, is_ambiguous, origin_of, origin_text, showable, split_login

MAX_LIST = 4 * MAX_SIZE
"""Bytes of all pages of a host list together, unpacked."""


def get_inventory(cmdb: Cmdb, base: Path) -> Inventory:
    """The host list, wherever it comes from.

    :param base: folder that a relative path starts from
    :raises CmdbError: it can't be had whole
    """
    return cmdb.source.read(base, lambda source: CmdbHook(source).get_inventory())


class CmdbHook(HttpHook):
    """The host list of a CMDB, through an Airflow HTTP connection.

    Base URL, login, proxies and headers are the connection's, as :class:`HttpHook` reads them. One try per
    page: Airflow retries the task, and until then there is the last good list.

    :param source: what to ask for, and how pages and fields are named
    """

    def __init__(self, source: OverHttp) -> None:
        super().__init__(method=getattr(source, "method", "GET"), http_conn_id=source.conn_id)
        self.source = source
        self.base_url: str = self.base_url
        self._received = 0

    def get_inventory(self) -> Inventory:
        """Every page of the host list.

        :raises CmdbError: if it can't be had whole; the message holds no credentials
        """
        shown = f"CMDB (connection {self.source.conn_id})"
        with (
            boundary(lambda why: CmdbError(f"can't be asked: {why}", source=shown), passing=CmdbError, secret=True),
            self._session(shown) as session,
        ):
            self._take_login(session, shown)
            end = time.monotonic() + timeouts.HOST_LIST.total_seconds()

            def read(http: HttpSource) -> list[Any]:
                shown = self._told(http.endpoint)

                def send(request: PageRequest) -> Any:
                    return _in_time(end, http, lambda: self._send(session, http, request, shown), shown)

                return read_pages(http, send, base_url=self.base_url, shown=shown)

            return self.source.gather(read, shown=self._told(getattr(self.source, "endpoint", "")))

    # An instance method instead of BaseHook's class method: what it says when there is none names the connection.
    def get_connection(self, conn_id: str) -> Any:
        """The Airflow connection.

        :raises CmdbError: there is none
        """
        found = settings.connection(conn_id)
        if found is None:
            raise CmdbError(
                f"there is no such Airflow connection; add it with `airflow connections add {conn_id} "
                "--conn-type http --conn-host https://…`",
                source=f"CMDB (connection {conn_id})",
            )
        return found

    def _session(self, shown: str) -> requests.Session:
        try:
            return self.get_conn(dict(getattr(self.source, "headers", {})))
        except ValueError:
            raise CmdbError("the connection's host is no URL", source=shown) from None

    def _take_login(self, session: requests.Session, shown: str) -> None:
        """A login in the connection's address goes where the others are, so that no URL holds one."""
        try:
            self.base_url, login = split_login(self.base_url)
            origin_of(self.base_url)
        except ValueError as error:
            doubt = f"; {AMBIGUOUS}" if is_ambiguous(self.base_url) else ""
            raise CmdbError(f"the connection's host is no URL: {error}{doubt}", source=shown) from None
        if login is not None and session.auth is None:
            session.auth = login

    def _told(self, endpoint: str) -> str:
        """What is asked, for people."""
        return f"CMDB {showable(address_of(self.base_url, endpoint), path=True)} (connection {self.source.conn_id})"

    def _send(self, session: requests.Session, source: HttpSource, request: PageRequest, shown: str) -> Any:
        """One page, decoded."""
        url = request.url or address_of(self.base_url, source.endpoint)
        if origin_of(url) != origin_of(self.base_url):
            raise CmdbError(f"{origin_text(origin_of(url))} is another server than the connection's", source=shown)
        body = json_body(source, request)
        arguments: dict[str, Any] = {"params": dict(request.params)} if body is None else {"json": body}
        seconds = source.timeout.total_seconds()
        answered = bytearray()
        try:
            # A redirect could carry the credentials to another server.
            with session.request(
                source.method, url, timeout=seconds, stream=True, allow_redirects=False, **arguments
            ) as answer:
                for chunk in answer.iter_content(1 << 16):
                    answered += chunk
                    if len(answered) > MAX_SIZE:
                        raise CmdbError(f"a page has more than {MAX_SIZE >> 20} MiB", source=shown)
        except (requests.RequestException, UnicodeError) as error:
            # Its text holds the URL with the query, which may hold a token.
            doubt = f" ({AMBIGUOUS})" if is_ambiguous(self.base_url) else ""
            raise CmdbError(f"no answer: {why(error)}{doubt}", source=shown) from None
        self._received += len(answered)
        if self._received > MAX_LIST:
            raise CmdbError(f"its pages have more than {MAX_LIST >> 20} MiB together", source=shown)
        return _decode(answer, bytes(answered), shown, self._help())

    def _help(self) -> str:
        """What to do when the credentials are refused."""
        return f"the credentials of connection {self.source.conn_id} are refused: {self.source.refused}"


def _in_time(end: float, source: HttpSource, send: Callable[[], Any], shown: str) -> Any:
    """A page, unless it takes too long: a time-out of requests restarts with every byte.

    :param end: for all pages together, on the monotonic clock
    """
    left = end - time.monotonic()
    try:
        return timeouts.within(min(source.timeout, timedelta(seconds=max(left, 0))), send)
    except OverrunError:
        told = f"a page took longer than {source.timeout.total_seconds():g} s (cmdb.source.timeout)"
        if left < source.timeout.total_seconds():
            told = f"the pages of the host list took longer than {timeouts.HOST_LIST.total_seconds():g} s together"
        raise CmdbError(told, source=shown) from None


def _decode(answer: requests.Response, body: bytes, shown: str, refused: str) -> Any:
    kind = plain(answer.headers.get("Content-Type", "no content type"), 60)
    begins = plain(body[:300].decode("utf-8", "replace"), 100)
    told = f"HTTP {answer.status_code}, {kind}, {len(body)} bytes beginning {begins!r}"
    if answer.status_code in (401, 403):
        raise CmdbError(f"{refused} ({told})", source=shown)
    if answer.is_redirect:
        raise CmdbError(f"a redirect, which is not followed: correct the connection's host ({told})", source=shown)
    if answer.status_code == 404:
        raise NoSuchPageError(told, source=shown)
    if answer.status_code != 200:
        raise CmdbError(told, source=shown)
    try:
        return parse_json(body)
    except DocumentError as error:
        raise CmdbError(f"no JSON: {told}: {error}", source=shown) from None
