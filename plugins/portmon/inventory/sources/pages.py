"""A list that comes in pages: whole, or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import jmespath

from portmon.errors import CmdbError, NoSuchPageError
from portmon.inventory.config import HttpSource, NextLinkPagination, OffsetPagination, PagePagination
from portmon.inventory.entries import kind_of
from portmon.untrusted.boundary import boundary
from portmon.untrusted.urls import address_of, origin_of, origin_text, split_login

MAX_ENTRIES = 1_000_000
"""Of one list: more than anybody has hosts."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One request for a page.

    :param url: absolute, given by the page before; None for the configured endpoint
    :param params: query parameters, or with ``json_body`` additions to it
    """

    url: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


Send = Callable[[PageRequest], Any]


def json_body(source: HttpSource, request: PageRequest) -> dict[str, Any] | None:
    """The body of a POST, paging parameters included; None if everything is in the query.

    A parameter with dots in its name goes into the mapping that it names.
    """
    if source.method != "POST" or source.json_body is None:
        return None
    body: dict[str, Any] = json.loads(json.dumps(dict(source.json_body)))
    for name, value in request.params.items():
        *outer, last = name.split(".")
        inside = body
        for key in outer:
            below = inside.get(key)
            inside[key] = below if isinstance(below, dict) else {}
            inside = inside[key]
        inside[last] = value
    return body


class _ChangedError(Exception):
    """The list changed while its pages were read."""


def read_pages(source: HttpSource, send: Send, *, base_url: str, shown: str) -> list[Any]:
    """The entries of every page, or none of them.

    A host that is deleted between two pages moves the others up, and the first one of the next page is missed:
    a list that shows signs of that is read again from the start.

    :param send: asks for a page and returns the decoded JSON; raises CmdbError
    :param base_url: of the connection, without a login: a link to another origin is not followed, since it would
        carry the credentials there
    :param shown: what is asked, for people, without credentials
    :raises CmdbError: if the list is not complete and plausible
    """
    reasons = []
    for _ in range(source.attempts):
        try:
            return _read_once(source, send, base_url, shown)
        except _ChangedError as error:
            reasons.append(str(error))
    raise CmdbError(f"{reasons[-1]}; read {len(reasons)} times, and its pages never fitted together", source=shown)


def _read_once(source: HttpSource, send: Send, base_url: str, shown: str) -> list[Any]:
    items = _expression("items", source.items, shown)
    total = _expression("total", source.total, shown) if source.total else None
    unique = _expression("unique", source.unique, shown) if source.unique else None
    overlap = _overlap(source)
    entries: list[Any] = []
    request = PageRequest(params=_first_page(source))
    asked: set[str] = set()
    keys: set[str] = set()
    previous: Any = None
    expected: int | None = None
    for number in range(1, source.max_pages + 1):
        try:
            answer = send(request)
        except NoSuchPageError:
            # How many APIs with numbered pages say that the page before was the last one.
            if number > 1 and total is None and isinstance(source.pagination, PagePagination):
                break
            raise
        page = items(answer)
        if not isinstance(page, list):
            raise CmdbError(
                f"page {number}: {source.items!r} is {kind_of(page)}, not a list{_message(answer)}", source=shown
            )
        if page and page == previous and not isinstance(source.pagination, NextLinkPagination):
            raise CmdbError(
                f"page {number} is the same as the one before: the server ignores the paging parameters, or repeats "
                "its last page. Correct cmdb.source.pagination, or say in cmdb.source.total where it tells the number "
                "of entries",
                source=shown,
            )
        previous = page
        if total is not None:
            count = total(answer)
            if isinstance(count, bool) or not isinstance(count, int):
                raise CmdbError(f"page {number}: {source.total!r} is {kind_of(count)}, not a number", source=shown)
            if not 0 <= count <= MAX_ENTRIES:
                raise CmdbError(f"page {number}: {source.total!r} is not 0 to {MAX_ENTRIES}", source=shown)
            if expected is not None and count != expected:
                raise _ChangedError(f"page {number} says that there are {count} entries, the one before {expected}")
            expected = count
        fresh = page
        if unique is not None:
            if overlap and entries:
                if not page or unique(page[0]) != unique(entries[-1]):
                    raise _ChangedError(f"page {number} does not go on where page {number - 1} ended")
                fresh = page[overlap:]
            found = {json.dumps(key, sort_keys=True) for key in map(unique, fresh) if key is not None}
            if keys & found:
                raise _ChangedError(f"{source.unique} {min(keys & found)} is on page {number} and on an earlier one")
            keys |= found
        entries += fresh
        if len(entries) > MAX_ENTRIES:
            raise CmdbError(f"has more than {MAX_ENTRIES} entries", source=shown)
        if isinstance(source.pagination, NextLinkPagination):
            following = _linked(source, source.pagination, answer, request, base_url, shown)
        elif not fresh or (expected is not None and len(entries) >= expected):
            # A page that is shorter than asked for may be the last one, or all that the server ever gives at once.
            following = None
        else:
            following = _numbered(source, request, len(entries) - overlap)
            if following == request:
                # One entry in all, which is the seam.
                following = None
        if following is None:
            break
        if following.url is not None:
            if following.url in asked:
                raise CmdbError(f"page {number} names a page that was read before: a loop", source=shown)
            asked.add(following.url)
        request = following
    else:
        raise CmdbError(
            f"more than {source.max_pages} pages; raise cmdb.source.max_pages if that is right", source=shown
        )
    if expected is not None and expected != len(entries):
        told = f"{len(entries)} entries, but it says that there are {expected}"
        # One page can't have changed between two requests.
        raise CmdbError(told, source=shown) if number == 1 else _ChangedError(told)
    return entries


def _overlap(source: HttpSource) -> int:
    """How many entries of a page are asked for again with the next one.

    If entries have a key, one: whatever was deleted or added before it in the meantime has moved this seam,
    even if the number of entries is the same again.
    """
    return int(source.unique is not None and isinstance(source.pagination, OffsetPagination) and _size(source) > 1)


def _message(answer: Any) -> str:
    """What an answer that is no list says about itself."""
    for name in ("message", "detail", "error"):
        text = answer.get(name) if isinstance(answer, Mapping) else None
        if isinstance(text, str) and text.strip():
            return f"; it says {text.strip()[:200]!r}"
    return ""


def _first_page(source: HttpSource) -> dict[str, Any]:
    paging = source.pagination
    if isinstance(paging, PagePagination):
        size = {paging.size_param: paging.size} if paging.size_param else {}
        return {**source.params, paging.param: paging.first, **size}
    if isinstance(paging, OffsetPagination):
        return {**source.params, paging.offset_param: 0, paging.limit_param: paging.size}
    return dict(source.params)


def _size(source: HttpSource) -> float:
    """Entries that a page has if it is not the last one; no limit if everything comes at once."""
    paging = source.pagination
    return paging.size if isinstance(paging, PagePagination | OffsetPagination) else math.inf


def _numbered(source: HttpSource, request: PageRequest, offset: int) -> PageRequest | None:
    paging = source.pagination
    if isinstance(paging, PagePagination):
        return PageRequest(params={**request.params, paging.param: int(request.params[paging.param]) + 1})
    if isinstance(paging, OffsetPagination):
        return PageRequest(params={**request.params, paging.offset_param: offset})
    return None


def _expression(field: str, text: str, shown: str) -> Callable[[Any], Any]:
    """What a JMESPath expression finds in an answer.

    :param field: below cmdb.source, for errors
    """
    found = jmespath.compile(text)

    def search(answer: Any) -> Any:
        with boundary(
            lambda why: CmdbError(f"cmdb.source.{field} {text!r} fails on the answer: {why}", source=shown),
            passing=CmdbError,
        ):
            return found.search(answer)

    return search


def _linked(
    source: HttpSource, paging: NextLinkPagination, answer: Any, request: PageRequest, base_url: str, shown: str
) -> PageRequest | None:
    link = _expression("pagination.next", paging.next, shown)(answer)
    if link is None or link == "":
        return None
    if not isinstance(link, str):
        raise CmdbError(f"{paging.next!r} is {kind_of(link)}, not a link", source=shown)
    try:
        url = urljoin(request.url or address_of(base_url, source.endpoint), link)
        origin, own = origin_of(url), origin_of(base_url)
        with_login = split_login(url)[1] is not None
    except ValueError as error:
        raise CmdbError(f"{paging.next!r} is no link to a page: {error}", source=shown) from None
    if origin != own:
        raise CmdbError(
            f"the next page is on {origin_text(origin)}, another server than the connection's {origin_text(own)}: "
            "not followed; if a proxy is between, use pagination style page or offset",
            source=shown,
        )
    if with_login:
        raise CmdbError("the link to the next page holds a login: not followed", source=shown)
    return PageRequest(url=url)
