"""The host list of a CMDB."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from portmon import timeouts
from portmon.airflow.http import REDIRECT, HttpClient, Response
from portmon.errors import CmdbError, HttpError, NoSuchPageError, OverrunError
from portmon.inventory.config import Cmdb
from portmon.inventory.sources.base import hosts_of
from portmon.inventory.sources.http import HttpSource, OverHttp
from portmon.inventory.sources.pages import PageRequest, json_body, read_pages
from portmon.model.host import Inventory
from portmon.text import plain
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import MAX_SIZE, DocumentError
from portmon.untrusted.urls import address_of, showable

MAX_LIST = 4 * MAX_SIZE
"""Bytes of all pages of a host list together, unpacked."""


def get_inventory(cmdb: Cmdb, base: Path) -> Inventory:
    """The host list, through HTTP or from a file.

    :param base: folder that a relative path starts from
    :raises CmdbError: it can't be had whole
    """
    return hosts_of(cmdb.source, base, lambda source: CmdbHook(source).get_inventory())


class CmdbHook:
    """The host list of a CMDB, through an Airflow HTTP connection.

    One try per page: Airflow retries the task, and until then there is the last good list.
    """

    def __init__(self, source: OverHttp) -> None:
        self.source = source
        self._received = 0

    def get_inventory(self) -> Inventory:
        """Every page of the host list.

        :raises CmdbError: if it can't be had whole; the message holds no credentials
        """
        shown = f"CMDB (connection {self.source.conn_id})"
        with (
            boundary(lambda why: CmdbError(f"can't be asked: {why}", source=shown), passing=CmdbError, secret=True),
            HttpClient(self.source.conn_id or "", getattr(self.source, "headers", {})) as client,
        ):
            end = time.monotonic() + timeouts.HOST_LIST.total_seconds()

            def place(endpoint: str) -> str:
                address = showable(address_of(client.base_url, endpoint), path=True)
                return f"CMDB {address} (connection {self.source.conn_id})"

            def read(http: HttpSource) -> list[Any]:
                shown = place(http.endpoint)
                page = partial(self._page, client, http, end, shown)
                return read_pages(http, page, base_url=client.base_url, shown=shown)

            return self.source.gather(read, shown=place(getattr(self.source, "endpoint", "")))

    def _page(self, client: HttpClient, source: HttpSource, end: float, shown: str, request: PageRequest) -> Any:
        """One page, decoded; ``end`` is that of all pages together, on the monotonic clock."""
        body = json_body(source, request)
        content: dict[str, Any] = {"params": dict(request.params)} if body is None else {"json": body}
        seconds = source.timeout.total_seconds()
        left = max(end - time.monotonic(), 0)
        try:
            response = client.request(
                source.method,
                request.url or address_of(client.base_url, source.endpoint),
                limit=timedelta(seconds=min(seconds, left)),
                silence=seconds,
                size=lambda _: MAX_SIZE + 1,
                **content,
            )
        except OverrunError:
            why = f"a page took longer than {seconds:g} s (cmdb.source.timeout)"
            if left < seconds:
                why = f"the pages of the host list took longer than {timeouts.HOST_LIST.total_seconds():g} s together"
            raise CmdbError(why, source=shown) from None
        except HttpError as error:
            raise CmdbError(str(error), source=shown) from None
        if response.broken is not None:
            raise CmdbError(f"no answer: {response.broken}", source=shown)
        if len(response.body) > MAX_SIZE:
            raise CmdbError(f"a page has more than {MAX_SIZE >> 20} MiB", source=shown)
        self._received += len(response.body)
        if self._received > MAX_LIST:
            raise CmdbError(f"its pages have more than {MAX_LIST >> 20} MiB together", source=shown)
        return _decode(response, self.source, shown)


def _decode(response: Response, source: OverHttp, shown: str) -> Any:
    kind = plain(response.headers.get("Content-Type", "no content type"), 60)
    begins = plain(response.body[:300].decode("utf-8", "replace"), 100)
    found = f"HTTP {response.status}, {kind}, {len(response.body)} bytes beginning {begins!r}"
    if response.status in (401, 403):
        refused = f"the credentials of connection {source.conn_id} are refused: {source.refused}"
        raise CmdbError(f"{refused} ({found})", source=shown)
    if 300 <= response.status < 400:
        raise CmdbError(f"{REDIRECT} ({found})", source=shown)
    if response.status == 404:
        raise NoSuchPageError(found, source=shown)
    if response.status != 200:
        raise CmdbError(found, source=shown)
    try:
        return source.decode(response.body)
    except DocumentError as error:
        raise CmdbError(f"no {source.answer_format}: {found}: {error}", source=shown) from None
