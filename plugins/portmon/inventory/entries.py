"""Entries of a host list, whatever it came from: validated one by one."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import jmespath
from jmespath.parser import ParsedResult
from jmespath.visitor import TreeInterpreter

from portmon.inventory.config import CmdbFields, PresetFields
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.untrusted.boundary import boundary

ID_LIMIT = NAME_LIMIT = 250
"""Characters: what Airflow's database takes for the name of a mapped task."""
LABEL_LIMIT = 1000

_HOST_NAME = re.compile(r"(?=.{1,253}$)(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*\.?")
_NO = frozenset({"", "false", "no", "off", "0", "n", "f"})
_YES = frozenset({"true", "yes", "on", "1", "y", "t"})
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f]")
"""Refused. Other invisible characters (bidi, zero-width, U+2028) occur in names that are meant: they stay, and are
escaped wherever a name is shown, see :func:`portmon.text.plain`."""


@dataclass(frozen=True, slots=True)
class Part:
    """Entries that are read alike.

    :param entries: of the list, anything
    :param fields: where their fields are
    :param places: file and line, of entries that were lines of text, whose values are texts, ``false`` too
    """

    entries: Iterable[Any]
    fields: CmdbFields
    places: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Unusable:
    """In an entry, instead of a value that there is but that can't be used.

    :param reason: why, for people
    """

    reason: str


def read_hosts(entries: Iterable[Any], fields: CmdbFields, *, source: str, places: Sequence[str] = ()) -> Inventory:
    """Validate the entries of a host list, see :func:`read_parts`.

    :param entries: of the list, anything
    :param source: what was asked, for people
    :param places: see :class:`Part`
    """
    return read_parts([Part(entries, fields, places)], source=source)


def read_parts(parts: Sequence[Part], *, source: str) -> Inventory:
    """Validate the entries of a host list.

    An entry that can't be used is listed with the reason, and the rest goes on. Entries that say the same are
    one. Of those with one id that differ none is used: nobody knows which is right.

    :param parts: in the order of the list
    :param source: what was asked, for people
    """
    hosts: list[tuple[int, Host]] = []
    invalid: list[InvalidHost] = []
    disabled = 0
    readers = ((_Reader(part.fields), zip_longest(part.entries, part.places)) for part in parts)
    listed = ((read, entry, place) for read, entries in readers for entry, place in entries)
    for position, (read, entry, place) in enumerate(listed, start=1):
        found = read(entry, position, place)
        if isinstance(found, InvalidHost):
            invalid.append(found)
        elif found is None:
            disabled += 1
        else:
            hosts.append((position, found))
    times = Counter(host.id for _, host in hosts)
    first: dict[str, Host] = {}
    differ = {host.id for _, host in hosts if first.setdefault(host.id, host) != host}
    invalid += [
        InvalidHost(position, host.id, host.name, f"{times[host.id]} entries have the id {host.id!r} and differ")
        for position, host in hosts
        if host.id in differ
    ]
    return Inventory(
        hosts=tuple(host for host in first.values() if host.id not in differ),
        invalid=tuple(sorted(invalid, key=lambda one: one.position)),
        disabled=disabled,
        source=source,
    )


def fields_of(preset: Mapping[str, Any], given: PresetFields) -> CmdbFields:
    """The fields of a preset, with what the configuration says otherwise."""
    values = {**preset, **given.model_dump(exclude_none=True, exclude={"labels"})}
    if isinstance(given.labels, Mapping) and isinstance(preset["labels"], Mapping):
        values["labels"] = {**preset["labels"], **given.labels}
    elif given.labels is not None:
        values["labels"] = given.labels
    return CmdbFields.model_validate(values)


class _Reader:
    """Makes hosts of entries."""

    def __init__(self, fields: CmdbFields) -> None:
        labels = fields.labels
        self._fields = {
            name: jmespath.compile(text) for name, text in fields if isinstance(text, str) and name != "labels"
        }
        self._enabled = fields.enabled
        self._labels: ParsedResult | dict[str, ParsedResult] | None = None
        if isinstance(labels, str):
            self._labels = jmespath.compile(labels)
        elif labels is not None:
            self._labels = {name: jmespath.compile(text) for name, text in labels.items() if text is not None}

    def __call__(self, entry: Any, position: int, place: str | None) -> Host | InvalidHost | None:
        """The host of an entry, why it is none, or None if it is disabled."""
        host_id = name = None
        try:
            with boundary(_InvalidError, passing=_InvalidError):
                if not isinstance(entry, Mapping):
                    raise _InvalidError(f"it is {kind_of(entry)}, not a mapping of fields")
                # As far as they can be read, so that the entry is never pruned and people find it.
                host_id, name = self._id_and_name(entry)
                if not self._is_enabled(entry, place):
                    return None
                host_id = _id(self._value("id", entry))
                name = _name(self._value("name", entry))
                address = _address(self._value("address", entry))
                return Host(
                    host_id,
                    name or address,
                    address,
                    _port(self._value("port", entry)),
                    self._labels_of(entry),
                    _declared(self._value("declared", entry)),
                )
        except _InvalidError as error:
            return InvalidHost(position, host_id, name, str(error))

    def _is_enabled(self, entry: Mapping[str, Any], place: str | None) -> bool:
        """:param place: of an entry whose values are texts: one that is neither yes nor no is a mistake"""
        if "enabled" not in self._fields:
            return True
        with _told_as("enabled"):
            expression = self._fields["enabled"].parsed
            value = _Decision().visit(expression, entry)
        _must_be_usable(value)
        is_field = expression["type"] in ("field", "subexpression")
        if place is not None and is_field and isinstance(value, str) and value.strip().lower() not in _NO | _YES:
            raise _InvalidError(
                f"{place}: the field enabled ({self._enabled}) is {_cut(value)}: write true, yes, on or 1, or false, "
                "no, off, 0 or nothing"
            )
        return not is_no(value)

    def _id_and_name(self, entry: Mapping[str, Any]) -> tuple[str | None, str | None]:
        host_id = name = None
        with suppress(_InvalidError):
            name = self._value("name", entry)
        with suppress(_InvalidError):
            host_id = _id(self._value("id", entry))
        return host_id, name[:NAME_LIMIT] if isinstance(name, str) else None

    def _value(self, name: str, entry: Mapping[str, Any]) -> Any:
        return _search(self._fields[name], entry, name) if name in self._fields else None

    def _labels_of(self, entry: Mapping[str, Any]) -> dict[str, str]:
        if isinstance(self._labels, Mapping):
            pairs: list[tuple[str, Any]] = []
            for name, expression in self._labels.items():
                value = _search(expression, entry, f"label {name!r}")
                if name.endswith("*"):
                    pairs += [(name[:-1] + key, inner) for key, inner in _pairs(value)]
                else:
                    pairs.append((name, value))
        else:
            pairs = _pairs(_search(self._labels, entry, "labels")) if self._labels else []
        return _labels(pairs)


class _InvalidError(Exception):
    """Why an entry can't be used."""


def _search(expression: ParsedResult, entry: Mapping[str, Any], name: str) -> Any:
    with _told_as(name):
        return expression.search(entry)


def _told_as(name: str) -> AbstractContextManager[None]:
    """What an expression fails with makes the entry invalid.

    :param name: of its field
    """
    return boundary(lambda why: _InvalidError(f"{name}: the expression fails on it: {why}"), passing=_InvalidError)


def is_no(value: Any) -> bool:
    """Whether a value says no: JMESPath's false values, 0, and what a text says that is one of these words."""
    return value.strip().lower() in _NO if isinstance(value, str) else not value


class _Decision(TreeInterpreter):
    """Takes 0 and the text ``no`` for false, also within ``!``, ``&&``, ``||`` and filters."""

    def _is_false(self, value: Any) -> bool:
        return is_no(value)

    def visit_not_expression(self, node: Any, value: Any) -> bool:
        """``!``"""
        return is_no(self.visit(node["children"][0], value))


def kind_of(value: object) -> str:
    """What a value is, for people."""
    return "null" if value is None else f"a {type(value).__name__}"


def _cut(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def _must_be_usable(value: Any) -> None:
    if isinstance(value, Unusable):
        raise _InvalidError(value.reason)


def _text(value: Any, name: str, limit: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _InvalidError(f"the {name} is {kind_of(value)}, not text")
    text = value.strip()
    if len(text) > limit:
        raise _InvalidError(f"the {name} has {len(text)} characters, more than {limit}")
    if _INVISIBLE.search(text):
        raise _InvalidError(f"the {name} {text!r} holds control characters")
    return text


def _id(value: Any) -> str:
    _must_be_usable(value)
    if value is None or value == "":
        raise _InvalidError("it has no id")
    text = _text(value, "id", ID_LIMIT)
    if not text:
        raise _InvalidError("it has no id")
    return text


def _name(value: Any) -> str | None:
    _must_be_usable(value)
    return None if value is None else _text(value, "name", NAME_LIMIT) or None


def _address(value: Any) -> str:
    _must_be_usable(value)
    if value is None or value == "":
        raise _InvalidError("it has no address")
    text = _text(value, "address", 300)
    text = next((part.strip() for part in text.split(",") if part.strip()), text)
    bare = text.partition("/")[0].removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if "/" not in text and _HOST_NAME.fullmatch(text) and not text.replace(".", "").isdigit():
            return text
        raise _InvalidError(f"the address {text!r} is neither a host name nor an IP address") from None


def _port(value: Any, what: str = "port") -> int | None:
    _must_be_usable(value)
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise _InvalidError(f"the {what} {_cut(value)} is not 1 to 65535")
    return value


def _declared(value: Any) -> tuple[int, ...]:
    """Ports in order, each once."""
    if value is None or value == "":
        return ()
    items = value if isinstance(value, list) else [value]
    ports = set()
    for item in items:
        for part in re.split(r"[\s,;]+", item.strip()) if isinstance(item, str) else [item]:
            port = _port(part, "declared port") if part is not None else None
            if port is not None:
                ports.add(port)
    return tuple(sorted(ports))


def _pairs(value: Any) -> list[tuple[str, Any]]:
    """A mapping, or a list of ``key=value`` texts, plain tags, or objects with a name or slug."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if isinstance(value, Mapping):
        return [(str(key).strip(), inner) for key, inner in value.items()]
    if isinstance(value, list):
        return [_tag(item) for item in value if item is not None]
    raise _InvalidError(f"the labels are {kind_of(value)}, not a mapping or a list")


def _tag(item: Any) -> tuple[str, Any]:
    if isinstance(item, Mapping):
        item = item.get("slug", item.get("name"))
    if not isinstance(item, str | int) or isinstance(item, bool):
        raise _InvalidError(f"a label is {kind_of(item)}, not text")
    key, equals, value = str(item).partition("=")
    return key.strip(), value.strip() if equals else "true"


def _labels(pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    labels = {}
    for key, value in pairs:
        inner = _label_value(value, key)
        if inner is None:
            continue
        if isinstance(inner, list):
            text = ",".join(
                _label_text(item) for item in (_label_value(item, key) for item in inner) if item is not None
            )
        else:
            text = _label_text(inner)
        if len(text) > LABEL_LIMIT or len(key) > LABEL_LIMIT:
            raise _InvalidError(f"the label {key[:50]!r} has more than {LABEL_LIMIT} characters")
        labels[key] = text
    return labels


def _label_value(value: Any, key: str) -> Any:
    """Of an object what people would call it by."""
    if isinstance(value, Unusable):
        raise _InvalidError(f"the label {key[:50]!r}: {value.reason}")
    if isinstance(value, Mapping):
        names = [name for name in ("value", "name", "slug", "display") if name in value]
        return value[names[0]] if names else json.dumps(value, sort_keys=True, default=str)
    return value


def _label_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
