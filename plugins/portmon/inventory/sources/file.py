"""A file that is written by hand: YAML or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from portmon.errors import CmdbError
from portmon.fields import Expression, Section, Text
from portmon.inventory.entries import TextRow, kind_of, read_hosts
from portmon.inventory.entry_fields import CmdbFields
from portmon.inventory.sources.base import Source, finder, reading_files, text_of
from portmon.inventory.sources.http import OverHttp
from portmon.model.host import Inventory
from portmon.untrusted.documents import DocumentError, parse_yaml


class FileFields(CmdbFields):
    """JMESPath expressions, applied to one entry of the file, that say where its fields are."""

    declared: Expression | None = Field(
        "declared",
        description="ports that must listen on the host: a number, text such as `80,443` or `80;53/udp`, or a list "
        "of these",
    )


class FileSource(Section, Source):
    """The host list is a YAML or CSV file, for those who have no CMDB."""

    type: Literal["file"]
    path: Text = Field(description="`.yaml`, `.yml` or `.csv`; relative to the folder of portmon.yaml")
    items: Expression = Field("@", description="JMESPath to the list of entries (YAML)")
    fields: FileFields = Field(default_factory=FileFields, description="where the fields of an entry are")

    def described(self, base: Path) -> Iterator[tuple[str, str | None]]:
        """See :meth:`Source.described`."""
        yield str((base / self.path).resolve()), None

    def problems(self, base: Path) -> Iterator[tuple[str, str]]:
        """See :meth:`Source.problems`."""
        path = (base / self.path).resolve()
        if not path.is_file():
            yield "path", f"{path} does not exist"

    def read(self, base: Path, ask: Callable[[OverHttp], Inventory]) -> Inventory:
        """See :meth:`Source.read`. Errors name the line."""
        path = base / self.path
        return reading_files(str(path), lambda: self._read(path))

    def _read(self, path: Path) -> Inventory:
        shown, text, kind = str(path), text_of(path), path.suffix.lower()
        if kind not in (".yaml", ".yml", ".csv"):
            raise CmdbError("its name must end in .yaml, .yml or .csv", source=shown)
        try:
            if kind == ".csv":
                entries: Any = read_csv(text, shown)
            else:
                entries = finder("items", self.items, shown, on="it")(parse_yaml(text))
        except DocumentError as error:
            where = f"line {error.line}: " if error.line else ""
            what = "" if kind == ".csv" else "is no YAML: "
            raise CmdbError(f"{where}{what}{error.message}", source=shown) from error
        if not isinstance(entries, list):
            raise CmdbError(f"{self.items!r} is {kind_of(entries)}, not a list of hosts", source=shown)
        return read_hosts((entries, self.fields), source=shown)


def read_csv(text: str, shown: str) -> list[TextRow]:
    """The rows below the header, as mappings; columns ``label.x`` become labels.

    The separator is the one of comma, semicolon and tab that the header has most of.

    :param shown: what the text comes from, for the place of each row
    :raises DocumentError: with the line
    """
    header = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows = []
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise DocumentError(f"the column {twice[0]!r} is there twice", line=1)
        for row in reader:
            if None in row or None in row.values():
                raise DocumentError("has another number of columns than the header", line=reader.line_num)
            values = dict(zip(names, row.values(), strict=True))
            entry: dict[str, Any] = {name: value for name, value in values.items() if not name.startswith("label.")}
            named = ((name.removeprefix("label."), values[name]) for name in values if name not in entry)
            if labels := {name: value for name, value in named if value}:
                entry["labels"] = labels
            rows.append(TextRow(entry, f"{shown}:{reader.line_num}"))
    except csv.Error as error:
        raise DocumentError(f"is no CSV: {error}", line=reader.line_num) from error
    return rows
