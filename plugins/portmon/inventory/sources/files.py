"""Host lists in files: YAML, CSV and Ansible inventories."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import jmespath

from portmon.errors import CmdbError
from portmon.inventory.config import AnsibleSource, FileSource, FileSources
from portmon.inventory.entries import fields_of, kind_of, read_hosts
from portmon.inventory.sources.ansible import ANSIBLE_FIELDS, EXPORT, AnsibleError
from portmon.inventory.sources.ansible_ini import read_ini
from portmon.inventory.sources.ansible_yaml import read_json, read_yaml
from portmon.model.host import Inventory
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import DocumentError, parse_yaml, read_text

READERS = {"ini": read_ini, "yaml": read_yaml, "json": read_json}
"""Of Ansible inventories, by format."""


def read_file(source: FileSources, base: Path) -> Inventory:
    """The host list in a file.

    :param base: folder that a relative path starts from
    :raises CmdbError: if it can't be read, with the line
    """
    path = base / source.path
    with boundary(lambda why: CmdbError(f"can't be used: {why}", source=str(path)), passing=CmdbError):
        try:
            text = read_text(path)
        except DocumentError as error:
            raise CmdbError(error.message, source=str(path)) from error
        return _ansible(source, text, path) if isinstance(source, AnsibleSource) else _hosts(source, text, path)


def _ansible(source: AnsibleSource, text: str, path: Path) -> Inventory:
    shown = str(path)
    kinds = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
    kind = kinds.get(path.suffix.lower(), "ini") if source.format == "auto" else source.format
    folders = [name for name in ("group_vars", "host_vars") if (path.parent / name).is_dir()]
    # What ansible-inventory printed has their variables already.
    if folders and kind != "json" and not source.ignore_vars_folders:
        raise CmdbError(
            f"its variables may be in the folder {folders[0]} beside it, which is not read: {EXPORT}; or set "
            "cmdb.source.ignore_vars_folders if no address or port is set there",
            source=shown,
        )
    if path.suffix.lower() == ".toml":
        raise CmdbError(f"TOML inventories are not read: {EXPORT}", source=shown)
    try:
        inventory = READERS[kind](text)
        return read_hosts(inventory.entries(), fields_of(ANSIBLE_FIELDS, source.fields), source=shown)
    except AnsibleError as error:
        raise CmdbError(str(error), source=shown) from error


def _hosts(source: FileSource, text: str, path: Path) -> Inventory:
    shown = str(path)
    places: list[str] = []
    if path.suffix.lower() == ".csv":
        rows = _csv(text, shown)
        entries: Any = [row for _, row in rows]
        places = [place for place, _ in rows]
    elif path.suffix.lower() in (".yaml", ".yml"):
        try:
            data = parse_yaml(text)
        except DocumentError as error:
            where = f"line {error.line}: " if error.line else ""
            raise CmdbError(f"{where}is no YAML: {error.message}", source=shown) from error
        with boundary(
            lambda why: CmdbError(f"cmdb.source.items {source.items!r} fails on it: {why}", source=shown),
            passing=CmdbError,
        ):
            entries = jmespath.compile(source.items).search(data)
    else:
        raise CmdbError("its name must end in .yaml, .yml or .csv", source=shown)
    if not isinstance(entries, list):
        raise CmdbError(f"{source.items!r} is {kind_of(entries)}, not a list of hosts", source=shown)
    return read_hosts(entries, source.fields, source=shown, places=places)


def _csv(text: str, shown: str) -> list[tuple[str, dict[str, Any]]]:
    """File and line of each row, and the row as a mapping; columns ``label.x`` become labels.

    The separator is the one of comma, semicolon and tab that the header has most of.
    """
    header = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows = []
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise CmdbError(f"line 1: the column {twice[0]!r} is there twice", source=shown)
        for row in reader:
            if None in row or None in row.values():
                raise CmdbError(f"line {reader.line_num}: has another number of columns than the header", source=shown)
            labels = {
                key.strip()[len("label.") :]: value
                for key, value in row.items()
                if key.strip().startswith("label.") and value
            }
            plain = {key.strip(): value for key, value in row.items() if not key.strip().startswith("label.")}
            rows.append((f"{shown}:{reader.line_num}", {**plain, **({"labels": labels} if labels else {})}))
    except csv.Error as error:
        raise CmdbError(f"line {reader.line_num}: is no CSV: {error}", source=shown) from error
    return rows
