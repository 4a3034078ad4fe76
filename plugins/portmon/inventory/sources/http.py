"""Any JSON API, and what all sources that are asked over HTTP have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from portmon.errors import CmdbError
from portmon.fields import Expression, PositiveDuration, QueryValue, Section, Text
from portmon.inventory.entries import read_hosts
from portmon.inventory.entry_fields import CmdbFields
from portmon.inventory.sources.base import Source, usable
from portmon.inventory.sources.pages import NoPagination, Pagination
from portmon.model.host import Inventory
from portmon.untrusted.documents import parse_json

RECOMMENDED = (
    "cmdb.source.total, if an answer tells the number of entries; without it a list that lost some on the way is "
    "believed"
)


class OverHttp(Source):
    """A source whose lists are asked for through an Airflow HTTP connection."""

    answer_format: ClassVar[str] = "JSON"
    """The format of answers, for errors."""
    refused: ClassVar[str] = (
        'put its token into the extra of the connection, for instance `{"Authorization": "Bearer …"}`'
    )
    """What to do when the CMDB refuses the credentials."""

    if TYPE_CHECKING:
        type: str
        conn_id: str | None

    def lists(self) -> Iterator[HttpSource]:
        """Every list that has to be asked for: its endpoint, pages and fields."""
        raise NotImplementedError

    def decode(self, body: bytes) -> Any:
        """The value of one answer.

        :raises DocumentError: it has another format
        """
        return parse_json(body)

    def unpack(self, listed: list[Any]) -> list[Any]:
        """The entries of one list.

        :raises ValueError: there is something else in it
        """
        return listed

    def read(self, base: Path, ask: Callable[[OverHttp], Inventory]) -> Inventory:
        """See :meth:`Source.read`."""
        return ask(self)

    def gather(self, read: Callable[[HttpSource], list[Any]], *, shown: str) -> Inventory:
        """One host list out of everything that has to be asked for.

        :param read: gives the entries of one list, see :func:`portmon.inventory.sources.pages.read_pages`
        :param shown: what is asked, for people, without credentials
        :raises CmdbError: one of the lists is not complete and plausible
        """
        lists = []
        with usable(shown):
            for http in self.lists():
                listed = read(http)
                try:
                    lists.append((self.unpack(listed), http.fields))
                except ValueError as error:
                    raise CmdbError(str(error), source=shown) from error
            return read_hosts(*lists, source=shown)

    def described(self, base: Path) -> Iterator[tuple[str, str | None]]:
        """See :meth:`Source.described`."""
        for http in self.lists():
            paging = http.pagination.style
            asked = f"HTTP connection {self.conn_id}, {http.endpoint or '/'} ({self.type}, paging: {paging})"
            yield asked, RECOMMENDED if paging != "none" and http.total is None else None


class HttpSource(Section, OverHttp):
    """The host list comes from a JSON API. Base URL and credentials are in the Airflow connection."""

    type: Literal["http"] = "http"
    conn_id: Text = Field("cmdb_default", description="Airflow HTTP connection")
    endpoint: str = Field("", description="path below the connection's host, for instance `api/hosts`")
    method: Literal["GET", "POST"] = Field("GET", description="HTTP method")
    params: Mapping[str, QueryValue] = Field(
        default_factory=dict, description="query parameters of every page; a list is given item by item"
    )
    json_body: Mapping[str, Any] | None = Field(
        None,
        description="JSON body of a POST; paging parameters are put into it instead of the query, `page.start` into "
        "its `page`",
    )
    headers: Mapping[str, str] = Field(
        default_factory=dict, description="request headers without secrets; tokens belong into the connection"
    )
    items: Expression = Field("@", description="JMESPath to the list of entries within one answer")
    total: Expression | None = Field(
        None,
        description="JMESPath to the total number of entries; a list of another length is refused as incomplete. "
        "Recommended wherever there are pages: without it pages are read until an empty one, and a list that lost some "
        "of its entries on the way is believed unless too many are missing",
    )
    unique: Expression | None = Field(
        None,
        description="JMESPath to what no two entries share (a primary key): if an entry comes on two pages, the list "
        "changed while it was read",
    )
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        3, description="how often a list that changes while its pages are read is read, before it is refused"
    )
    pagination: Pagination = Field(default_factory=NoPagination, description="how further pages are asked for")
    timeout: PositiveDuration = Field(
        timedelta(seconds=30), description="per request, to the last byte; all pages together have 5 minutes"
    )
    max_pages: Annotated[int, Field(ge=1)] = Field(1000, description="more pages than this are an error, not a list")
    fields: CmdbFields = Field(default_factory=CmdbFields, description="where the fields of an entry are")

    def lists(self) -> Iterator[HttpSource]:
        """See :meth:`OverHttp.lists`."""
        yield self
