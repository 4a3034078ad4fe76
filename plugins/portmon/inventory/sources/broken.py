"""What takes the place of a source of another package that can't be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from portmon.errors import CmdbError
from portmon.fields import Section
from portmon.inventory.sources.base import Source
from portmon.model.host import Inventory
from portmon.untrusted.extensions import StandIn

if TYPE_CHECKING:
    from portmon.inventory.sources.http import OverHttp


class BrokenSource(StandIn, Section, Source):
    """A source whose package can't be used: the last good list is used, as for a CMDB that is down."""

    type: str

    def read(self, base: Path, ask: Callable[[OverHttp], Inventory]) -> Inventory:
        """Fail with the reason."""
        raise CmdbError(self.why, source=f"source {self.type!r}")

    def described(self, base: Path) -> Iterator[tuple[str, str | None]]:
        """That it can't be used."""
        yield f"source {self.type}, which can't be used", None

    def problems(self, base: Path) -> Iterator[tuple[str, str]]:
        """Why it can't be used."""
        yield "type", self.why
