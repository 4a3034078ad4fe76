"""The Airflow hook of the CMDB, and the host list wherever it comes from.

Apart from :mod:`portmon.hooks`, which every ``netstat`` task imports: the HTTP provider brings aiohttp along, and
that costs more than a whole login.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk.exceptions import AirflowNotFoundException

from portmon import limits
from portmon.cmdb import read_file
from portmon.cmdb.pages import PageRequest, json_body, read_pages
from portmon.cmdb.presets import HELP, gather
from portmon.config import AnsibleSource, Cmdb, FileSource, HttpSource, HttpSources
from portmon.errors import CmdbError, NoSuchPageError, OverrunError
from portmon.http_errors import why
from portmon.models import Inventory
from portmon.render import plain

MAX_PAGE = 64 * 1024**2
"""Bytes of one page of a CMDB's answer."""


def get_inventory(cmdb: Cmdb, base: Path) -> Inventory:
    """The host list, wherever it comes from.

    :param base: folder that a relative path starts from
    :raises CmdbError: if it can't be had whole
    """
    if isinstance(cmdb.source, FileSource | AnsibleSource):
        return read_file(cmdb.source, base)
    return CmdbHook(cmdb.source).get_inventory()


class CmdbHook(HttpHook):
    """The host list of a CMDB, through an Airflow HTTP connection.

    Base URL, login, proxies and headers are the connection's, as :class:`HttpHook` reads them. One try per
    page: Airflow retries the task, and until then there is the last good list.

    :param source: what to ask for, and how pages and fields are named
    """

    def __init__(self, source: HttpSources) -> None:
        super().__init__(method=getattr(source, "method", "GET"), http_conn_id=source.conn_id)
        self.source = source

    def get_inventory(self) -> Inventory:
        """Every page of the host list.

        :raises CmdbError: if it can't be had whole; the message holds no credentials
        """
        conn_id = self.source.conn_id
        shown = f"CMDB (connection {conn_id})"
        try:
            session = self.get_conn(dict(getattr(self.source, "headers", {})))
        except AirflowNotFoundException:
            raise CmdbError(
                f"there is no such Airflow connection; add it with `airflow connections add {conn_id} "
                "--conn-type http --conn-host https://…`",
                source=shown,
            ) from None
        except ValueError as error:
            raise CmdbError(f"the connection's host is no URL: {error}", source=shown) from error
        with session:
            parts = urlsplit(self.base_url)
            place = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
            end = time.monotonic() + limits.HOST_LIST.total_seconds()

            def told(endpoint: str) -> str:
                return f"CMDB {place}/{endpoint.lstrip('/')} (connection {conn_id})"

            def read(http: HttpSource) -> list[Any]:
                shown = told(http.endpoint)

                def send(request: PageRequest) -> Any:
                    return _in_time(end, http, lambda: self._send(session, http, request, shown), shown)

                return read_pages(http, send, base_url=self.base_url, shown=shown)

            return gather(self.source, read, shown=told(getattr(self.source, "endpoint", "")))

    def _send(self, session: requests.Session, source: HttpSource, request: PageRequest, shown: str) -> Any:
        """One page, decoded."""
        url = request.url or urljoin(self.base_url.rstrip("/") + "/", source.endpoint.lstrip("/"))
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
                    if len(answered) > MAX_PAGE:
                        raise CmdbError(f"a page has more than {MAX_PAGE >> 20} MiB", source=shown)
        except requests.RequestException as error:
            # Its text holds the URL with the query, which may hold a token.
            raise CmdbError(f"no answer: {why(error)}", source=shown) from None
        return _decode(answer, bytes(answered), shown, self._help())

    def _help(self) -> str:
        """What to do when the credentials are refused."""
        return f"the credentials of connection {self.source.conn_id} are refused: {HELP[self.source.type]}"


def _in_time(end: float, source: HttpSource, send: Callable[[], Any], shown: str) -> Any:
    """A page, unless it takes too long: a time-out of requests restarts with every byte.

    :param end: for all pages together, on the monotonic clock
    """
    left = end - time.monotonic()
    try:
        return limits.within(min(source.timeout, timedelta(seconds=max(left, 0))), send)
    except OverrunError:
        told = f"a page took longer than {source.timeout.total_seconds():g} s (cmdb.source.timeout)"
        if left < source.timeout.total_seconds():
            told = f"the pages of the host list took longer than {limits.HOST_LIST.total_seconds():g} s together"
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
        return json.loads(body)
    except ValueError:
        raise CmdbError(f"no JSON: {told}", source=shown) from None
