"""A list that comes in pages: whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urljoin

import jmespath
from pydantic import Field

from portmon.errors import CmdbError, NoSuchPageError
from portmon.fields import Expression, Section, Text
from portmon.inventory.entries import kind_of
from portmon.untrusted.boundary import boundary
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
    """How the pages of a list are asked for."""

    ends_with_404: ClassVar[bool] = False
    """Whether an API says by a page that is not there that the one before was the last."""

    def start(self) -> Params:
        """Parameters of the first page."""
        return {}

    def after(self, asked: Params, offset: int) -> Params | None:
        """Parameters of the next page; None if all was asked for at once.

        :param asked: those of the page before
        :param offset: where the next page starts
        """
        return None


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

    def start(self) -> Params:
        """See :meth:`PagingStyle.start`."""
        return {self.param: self.first, **({self.size_param: self.size} if self.size_param else {})}

    def after(self, asked: Params, offset: int) -> Params:
        """See :meth:`PagingStyle.after`."""
        return {**asked, self.param: asked[self.param] + 1}


class OffsetPagination(Section, PagingStyle):
    """Pages start at an offset."""

    style: Literal["offset"]
    offset_param: Text = Field("offset", description="query parameter with the offset")
    limit_param: Text = Field("limit", description="query parameter with the page size")
    size: Annotated[int, Field(ge=1)] = Field(100, description="entries per page to ask for")

    def start(self) -> Params:
        """See :meth:`PagingStyle.start`."""
        return {self.offset_param: 0, self.limit_param: self.size}

    def after(self, asked: Params, offset: int) -> Params:
        """See :meth:`PagingStyle.after`."""
        return {**asked, self.offset_param: offset}


Pagination = Annotated[
    NoPagination | NextLinkPagination | PagePagination | OffsetPagination, Field(discriminator="style")
]


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
    paging = source.pagination
    items = _expression("items", source.items, shown)
    total = _expression("total", source.total, shown) if source.total else None
    unique = _expression("unique", source.unique, shown) if source.unique else None
    # If entries have a key, the last entry of a page is asked for again with the next one: whatever was deleted or
    # added before it in the meantime has moved this seam, even if the number of entries is the same again.
    overlap = int(unique is not None and isinstance(paging, OffsetPagination) and paging.size > 1)
    entries: list[Any] = []
    request = PageRequest(params={**source.params, **paging.start()})
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
            raise CmdbError(
                f"page {number}: {source.items!r} is {kind_of(page)}, not a list{_message(answer)}", source=shown
            )
        if page and page == previous and not isinstance(paging, NextLinkPagination):
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
        if isinstance(paging, NextLinkPagination):
            url = _linked(source, paging, answer, request, base_url, shown)
            if url is None:
                break
            if url in asked:
                raise CmdbError(f"page {number} names a page that was read before: a loop", source=shown)
            asked.add(url)
            request = PageRequest(url=url)
            continue
        # A page that is shorter than asked for may be the last one, or all that the server ever gives at once.
        complete = not fresh or (expected is not None and len(entries) >= expected)
        params = None if complete else paging.after(request.params, len(entries) - overlap)
        # The same parameters again: there is one entry in all, which is the seam.
        if params is None or params == request.params:
            break
        request = PageRequest(params=params)
    else:
        raise CmdbError(
            f"more than {source.max_pages} pages; raise cmdb.source.max_pages if that is right", source=shown
        )
    if expected is not None and expected != len(entries):
        told = f"{len(entries)} entries, but it says that there are {expected}"
        # One page can't have changed between two requests.
        raise CmdbError(told, source=shown) if number == 1 else _ChangedError(told)
    return entries


def _message(answer: Any) -> str:
    """What an answer that is no list says about itself."""
    for name in ("message", "detail", "error"):
        text = answer.get(name) if isinstance(answer, Mapping) else None
        if isinstance(text, str) and text.strip():
            return f"; it says {text.strip()[:200]!r}"
    return ""


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
) -> str | None:
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
    return url
