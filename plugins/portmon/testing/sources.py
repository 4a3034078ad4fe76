"""What portmon expects of a source of hosts, as tests; see :mod:`portmon.testing`."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from portmon.errors import CmdbError
from portmon.inventory.sources.base import Source
from portmon.model.host import Inventory


class SourceContract:
    """Tests of a source of hosts; a subclass says which one."""

    @abstractmethod
    def source(self) -> Source:
        """A source that can be read."""

    @abstractmethod
    def broken(self) -> Source:
        """One that can't: of a file that is not there, of a server that does not answer."""

    base: Path = Path()
    """Folder that relative paths start from."""
    ask: Callable[[Any], Inventory] = staticmethod(lambda _: Inventory(()))
    """Asks over HTTP, for a source that leaves that to portmon."""

    def test_it_is_a_section_of_its_own(self) -> None:
        """Settings are archived with each run, as JSON."""
        source = self.source()
        assert isinstance(source, Source), f"{type(source).__name__} is no subclass of Source"
        assert isinstance(source, BaseModel), f"{type(source).__name__} is no section"
        written = json.loads(source.model_dump_json(by_alias=True))
        assert written["type"], "its type is the name of its entry point"

    def test_it_gives_every_host_once(self) -> None:
        """A host is known by its id: one that changes is another host."""
        found, again = (self.source().read(self.base, self.ask) for _ in range(2))
        assert isinstance(found, Inventory), "an Inventory"
        ids = [host.id for host in found.hosts]
        assert len(ids) == len(set(ids)), "two hosts have the same id"
        assert all(ids), "a host without an id"
        assert all(host.name and host.address for host in found.hosts), "a host without a name or an address"
        assert all(isinstance(one, str) for host in found.hosts for pair in host.labels.items() for one in pair)
        assert ids == [host.id for host in again.hosts], "the ids are others when it is read again"

    def test_a_list_that_cant_be_had_is_an_error(self) -> None:
        """Half a list, or an empty one, would prune the rest of the fleet."""
        try:
            self.broken().read(self.base, self.ask)
        except CmdbError as error:
            assert str(error), "an error says what is wrong"
        else:
            raise AssertionError("it gives a list although it can't be read: raise CmdbError")

    def test_it_describes_itself(self) -> None:
        """`portmon check` shows it."""
        for source in (self.source(), self.broken()):
            lines = list(source.described(self.base))
            assert lines, "it says nothing"
            assert all(isinstance(text, str) and (more is None or isinstance(more, str)) for text, more in lines)
            problems: list[tuple[str, str]] = list(source.problems(self.base))
            fields: Mapping[str, Any] = type(source).model_fields if isinstance(source, BaseModel) else {}
            assert all(field in fields for field, _ in problems), "problems begin with the name of a setting"
