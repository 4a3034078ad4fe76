"""What every kind of source has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jmespath

from portmon import timeouts
from portmon.errors import CmdbError, OverrunError
from portmon.model.host import Inventory
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import DocumentError, read_text

if TYPE_CHECKING:
    from portmon.inventory.sources.http import OverHttp

Result = TypeVar("Result")


def hosts_of(source: Source, base: Path, ask: Callable[[OverHttp], Inventory]) -> Inventory:
    """The host list of a source, whatever the code of another package does: raise what it should not, or hang.

    :raises CmdbError: the list can't be had whole
    """
    if type(source).__module__.startswith("portmon."):
        return source.read(base, ask)
    shown = f"source {getattr(source, 'type', type(source).__name__)!r}"
    found = reading_files(shown, lambda: source.read(base, ask))
    if not isinstance(found, Inventory):
        raise CmdbError(f"gave {type(found).__name__} in place of an Inventory", source=shown)
    return found


class Source:
    """Where hosts come from: settings, how the source is asked, and how its entries become hosts.

    No model itself: each model costs every task that parses the DAG file some milliseconds.
    """

    def read(self, base: Path, ask: Callable[[OverHttp], Inventory]) -> Inventory:
        """The host list.

        :param base: folder that a relative path starts from
        :param ask: asks for lists over HTTP, through their Airflow connection
        :raises CmdbError: the list can't be had whole
        """
        raise NotImplementedError

    def described(self, base: Path) -> Iterator[tuple[str, str | None]]:
        """Each list that is asked for, in words, with a recommendation or None."""
        raise NotImplementedError

    def problems(self, base: Path) -> Iterator[tuple[str, str]]:
        """Reasons why the source can't be read here, each after the name of the setting to correct."""
        yield from ()


def usable(shown: str) -> AbstractContextManager[None]:
    """Turns every exception into CmdbError.

    :param shown: the source, for people
    """
    return boundary(lambda why: CmdbError(f"can't be used: {why}", source=shown), passing=CmdbError)


def reading_files(shown: str, work: Callable[[], Result], limit: timedelta | None = None) -> Result:
    """The result of ``work``, which reads files. A file system that hangs is an error.

    :param limit: default: that of a host list
    :raises CmdbError: for every failure
    """
    with usable(shown):
        try:
            return timeouts.within(timeouts.HOST_LIST if limit is None else limit, work)
        except OverrunError as error:
            raise CmdbError(f"reading it was {error}", source=shown) from None


def text_of(path: Path) -> str:
    """The text of a UTF-8 file.

    :raises CmdbError: it can't be read or is too large
    """
    try:
        return read_text(path)
    except DocumentError as error:
        raise CmdbError(error.message, source=str(path)) from error


def finder(field: str, expression: str, shown: str, *, on: str = "the answer") -> Callable[[Any], Any]:
    """A function that finds a value by a JMESPath expression, the ``field`` of cmdb.source; it raises CmdbError."""
    compiled = jmespath.compile(expression)

    def failed(why: str) -> CmdbError:
        return CmdbError(f"cmdb.source.{field} {expression!r} fails on {on}: {why}", source=shown)

    def find(data: Any) -> Any:
        with boundary(failed, passing=CmdbError):
            return compiled.search(data)

    return find
