"""A list that comes in pages: whole, or not at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urljoin

from pydantic import Field

from portmon.errors import CmdbError, NoSuchPageError
from portmon.fields import Expression, Section, Text
from portmon.inventory.entries import kind_of
from portmon.inventory.sources.base import finder
from portmon.untrusted.urls import address_of, origin_of, origin_text, split_login

if TYPE_CHECKING:
    from portmon.inventory.sources.http import HttpSource

MAX_ENTRIES = 1_000_000
"""Of one list. A longer one is a mistake."""

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One request for a page.

    :param url: absolute, given by the page before; None for the configured endpoint
    :param params: query parameters, or with ``json_body`` additions to it
    """

    url: str | None = None
    params: Params = field(default_factory=dict)


Send = Callable[[PageRequest], Any]


class PagingStyle:
    """Asks for the pages of a list."""

    ends_with_404: ClassVar[bool] = False
    """Whether a 404 after the first page means that the page before it was the last."""

    def params(self, number: int, offset: int) -> Params:
        """Parameters of a page; the same for every ``number`` if there is one page only.

        :param number: from 1
        :param offset: of its first entry
        """
        return {}


class NoPagination(Section, PagingStyle):
    """One request gives everything."""

    style: Literal["none"] = "none"


class NextLinkPagination(Section, PagingStyle):
    """Every page names the next one."""

    style: Literal["next_link"]
    next: Expression = Field("next", description="JMESPath to the next page's URL; null or absent on the last page")


class PagePagination(Section, PagingStyle):
    """Pages are numbered."""

    style: Literal["page"]
    param: Text = Field("page", description="query parameter with the page number")
    first: Annotated[int, Field(ge=0)] = Field(1, description="number of the first page")
    size_param: Text | None = Field("page_size", description="query parameter with the page size")
    size: Annotated[int, Field(ge=1)] = Field(100, description="entries per page to ask for")

    ends_with_404: ClassVar[bool] = True

    def params(self, number: int, offset: int) -> Params:
        """See :meth:`PagingStyle.params`."""
        return {self.param: self.first + number - 1, **({self.size_param: self.size} if self.size_param else {})}


class OffsetPagination(Section, PagingStyle):
    """Pages start at an offset."""

    style: Literal["offset"]
    offset_param: Text = Field("offset", description="query parameter with the offset")
    limit_param: Text = Field("limit", description="query parameter with the page size")
    size: Annotated[int, Field(ge=1)] = Field(100, description="entries per page to ask for")

    def params(self, number: int, offset: int) -> Params:
        """See :meth:`PagingStyle.params`."""
        return {self.offset_param: offset, self.limit_param: self.size}


Pagination = Annotated[
    NoPagination | NextLinkPagination | PagePagination | OffsetPagination, Field(discriminator="style")
]


def json_body(source: HttpSource, request: PageRequest) -> dict[str, Any] | None:
    """The body of a POST, paging parameters included; None if everything is in the query.

    A parameter with dots in its name goes into the mapping that it names.
    """
    if source.method != "POST" or source.json_body is None:
        return None
    body = copy.deepcopy(dict(source.json_body))
    for name, value in request.params.items():
        *outer, last = name.split(".")
        inside = body
        for key in outer:
            if not isinstance(inside.get(key), dict):
                inside[key] = {}
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
    :raises CmdbError: the list is not complete and plausible
    """
    reasons = []
    for _ in range(source.attempts):
        try:
            return _read_once(source, send, base_url, shown)
        except _ChangedError as error:
            reasons.append(str(error))
    raise CmdbError(f"{reasons[-1]}; read {len(reasons)} times, and its pages never fitted together", source=shown)


def _read_once(source: HttpSource, send: Send, base_url: str, shown: str) -> list[Any]:
    wrong = partial(CmdbError, source=shown)
    paging = source.pagination
    items = finder("items", source.items, shown)
    total = finder("total", source.total, shown) if source.total else None
    unique = finder("unique", source.unique, shown) if source.unique else None
    # If entries have a key, the last entry of a page is asked for again with the next one: whatever was deleted or
    # added before it in the meantime has moved this seam, even if the number of entries is the same again.
    overlap = int(unique is not None and isinstance(paging, OffsetPagination) and paging.size > 1)
    entries: list[Any] = []
    request = PageRequest(params={**source.params, **paging.params(1, 0)})
    asked: set[str] = set()
    keys: set[str] = set()
    previous: Any = None
    expected: int | None = None
    for number in range(1, source.max_pages + 1):
        try:
            answer = send(request)
        except NoSuchPageError:
            if number > 1 and total is None and paging.ends_with_404:
                break
            raise
        page = items(answer)
        if not isinstance(page, list):
            raise wrong(f"page {number}: {source.items!r} is {kind_of(page)}, not a list{_message(answer)}")
        if page and page == previous and not isinstance(paging, NextLinkPagination):
            raise wrong(
                f"page {number} is the same as the one before: the server ignores the paging parameters, or repeats "
                "its last page. Correct cmdb.source.pagination, or say in cmdb.source.total where it tells the number "
                "of entries"
            )
        previous = page
        if total is not None:
            count = total(answer)
            if isinstance(count, bool) or not isinstance(count, int):
                raise wrong(f"page {number}: {source.total!r} is {kind_of(count)}, not a number")
            if not 0 <= count <= MAX_ENTRIES:
                raise wrong(f"page {number}: {source.total!r} is not 0 to {MAX_ENTRIES}")
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
            raise wrong(f"has more than {MAX_ENTRIES} entries")
        if isinstance(paging, NextLinkPagination):
            url = _linked(source, paging, answer, request, base_url, shown)
            if url is None:
                break
            if url in asked:
                raise wrong(f"page {number} names a page that was read before: a loop")
            asked.add(url)
            request = PageRequest(url=url)
            continue
        # A page that is shorter than asked for may be the last one, or all that the server ever gives at once.
        complete = not fresh or (expected is not None and len(entries) >= expected)
        following = PageRequest(params={**source.params, **paging.params(number + 1, len(entries) - overlap)})
        # The same parameters again: there is one page only, or one entry in all, which is the seam.
        if complete or following == request:
            break
        request = following
    else:
        raise wrong(f"more than {source.max_pages} pages; raise cmdb.source.max_pages if that is right")
    if expected is not None and expected != len(entries):
        told = f"{len(entries)} entries, but it says that there are {expected}"
        # One page can't have changed between two requests.
        raise wrong(told) if number == 1 else _ChangedError(told)
    return entries


def _message(answer: Any) -> str:
    """The error message in an answer that is no list."""
    for name in ("message", "detail", "error"):
        text = answer.get(name) if isinstance(answer, Mapping) else None
        if isinstance(text, str) and text.strip():
            return f"; it says {text.strip()[:200]!r}"
    return ""


def _linked(
    source: HttpSource, paging: NextLinkPagination, answer: Any, request: PageRequest, base_url: str, shown: str
) -> str | None:
    wrong = partial(CmdbError, source=shown)
    link = finder("pagination.next", paging.next, shown)(answer)
    if link is None or link == "":
        return None
    if not isinstance(link, str):
        raise wrong(f"{paging.next!r} is {kind_of(link)}, not a link")
    try:
        url = urljoin(request.url or address_of(base_url, source.endpoint), link)
        origin, own = origin_of(url), origin_of(base_url)
        with_login = split_login(url)[1] is not None
    except ValueError as error:
        raise wrong(f"{paging.next!r} is no link to a page: {error}") from None
    if origin != own:
        raise wrong(
            f"the next page is on {origin_text(origin)}, another server than the connection's {origin_text(own)}: "
            "not followed; if a proxy is between, use pagination style page or offset"
        )
    if with_login:
        raise wrong("the link to the next page holds a login: not followed")
    return url
