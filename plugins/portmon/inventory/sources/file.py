"""A file that is written by hand: YAML or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jmespath
from pydantic import Field

from portmon.errors import CmdbError
from portmon.fields import Expression, Section, Text
from portmon.inventory.entries import EntryList, kind_of, read_hosts
from portmon.inventory.entry_fields import CmdbFields
from portmon.inventory.sources.base import Source, reading_files, text_of
from portmon.inventory.sources.http import OverHttp
from portmon.model.host import Inventory
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import DocumentError, parse_yaml


class FileFields(CmdbFields):
    """JMESPath expressions, applied to one entry of the file, that say where its fields are."""

    declared: Expression | None = Field(
        "declared",
        description="TCP ports that must listen on the host: a number, text such as `80,443` or `80;443`, or a list "
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
        if kind == ".csv":
            rows = _csv(text, shown)
            return read_hosts(EntryList(list(rows.values()), self.fields, list(rows)), source=shown)
        if kind not in (".yaml", ".yml"):
            raise CmdbError("its name must end in .yaml, .yml or .csv", source=shown)
        try:
            data = parse_yaml(text)
        except DocumentError as error:
            where = f"line {error.line}: " if error.line else ""
            raise CmdbError(f"{where}is no YAML: {error.message}", source=shown) from error
        with boundary(
            lambda why: CmdbError(f"cmdb.source.items {self.items!r} fails on it: {why}", source=shown),
            passing=CmdbError,
        ):
            entries = jmespath.compile(self.items).search(data)
        if not isinstance(entries, list):
            raise CmdbError(f"{self.items!r} is {kind_of(entries)}, not a list of hosts", source=shown)
        return read_hosts(EntryList(entries, self.fields), source=shown)


def _csv(text: str, shown: str) -> dict[str, dict[str, Any]]:
    """Each row by its file and line, as a mapping; columns ``label.x`` become labels.

    The separator is the one of comma, semicolon and tab that the header has most of.
    """
    header = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows = {}
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise CmdbError(f"line 1: the column {twice[0]!r} is there twice", source=shown)
        for row in reader:
            if None in row or None in row.values():
                raise CmdbError(f"line {reader.line_num}: has another number of columns than the header", source=shown)
            entry: dict[str, Any] = {}
            labels = {}
            for name, value in zip(names, row.values(), strict=True):
                if not name.startswith("label."):
                    entry[name] = value
                elif value:
                    labels[name.removeprefix("label.")] = value
            rows[f"{shown}:{reader.line_num}"] = entry | ({"labels": labels} if labels else {})
    except csv.Error as error:
        raise CmdbError(f"line {reader.line_num}: is no CSV: {error}", source=shown) from error
    return rows
