"""Entries of a host list from any source, validated one by one."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jmespath
from jmespath.parser import ParsedResult
from jmespath.visitor import TreeInterpreter

from portmon.inventory.entry_fields import CmdbFields
from portmon.model import limits
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.model.numbers import TCP, UDP, number_of
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


class TextRow(dict[str, Any]):
    """An entry that was a row of text: all of its values are texts, ``false`` too.

    :param place: its file and line, for people
    """

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        super().__init__(values)
        self.place = place


@dataclass(frozen=True, slots=True)
class UnusableValue:
    """Stands in an entry for a value that can't be used, for a reason."""

    reason: str


def read_hosts(*lists: tuple[Iterable[Any], CmdbFields], source: str) -> Inventory:
    """Validate the entries of a host list.

    An entry that can't be used is listed with the reason, and the rest goes on. Entries that say the same are
    one. Of those with one id that differ none is used, since any of them may be the wrong one.

    :param lists: entries, and where their fields are; in the order of the host list
    :param source: what was asked, for people
    """
    hosts: list[tuple[int, Host]] = []
    invalid: list[InvalidHost] = []
    disabled = position = 0
    for entries, fields in lists:
        build = _HostBuilder(fields)
        for entry in entries:
            position += 1
            found = build(entry, position)
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


class _HostBuilder:
    """Makes hosts of entries."""

    def __init__(self, fields: CmdbFields) -> None:
        self._fields = {name: jmespath.compile(text) for name, text in fields if isinstance(text, str)}
        self._enabled = fields.enabled
        labels = fields.labels if isinstance(fields.labels, Mapping) else {}
        self._labels = {name: jmespath.compile(text) for name, text in labels.items() if text is not None}

    def __call__(self, entry: Any, position: int) -> Host | InvalidHost | None:
        """The host of an entry, why it is none, or None if it is disabled."""
        host_id = name = None
        try:
            with boundary(_InvalidEntryError, passing=_InvalidEntryError):
                if not isinstance(entry, Mapping):
                    raise _InvalidEntryError(f"it is {kind_of(entry)}, not a mapping of fields")
                # As far as they can be read, so that the entry is never pruned and people find it.
                with suppress(_InvalidEntryError):
                    found = self._value("name", entry)
                    name = found[:NAME_LIMIT] if isinstance(found, str) else None
                with suppress(_InvalidEntryError):
                    host_id = self._id(entry)
                if not self._is_enabled(entry):
                    return None
                host_id = self._id(entry)
                name = _text(self._value("name", entry), "name", NAME_LIMIT)
                address = _address(self._value("address", entry))
                declared, owners = _declared(self._value("declared", entry))
                return Host(
                    host_id,
                    name or address,
                    address,
                    _port(self._value("port", entry)),
                    _labels(self._label_pairs(entry)),
                    declared,
                    owners,
                )
        except _InvalidEntryError as error:
            return InvalidHost(position, host_id, name, str(error))

    def _id(self, entry: Mapping[str, Any]) -> str:
        if text := _text(self._value("id", entry), "id", ID_LIMIT):
            return text
        raise _InvalidEntryError("it has no id")

    def _is_enabled(self, entry: Mapping[str, Any]) -> bool:
        if "enabled" not in self._fields:
            return True
        expression = self._fields["enabled"]
        value = _must_be_usable(_search(expression, entry, "enabled", _YesNoInterpreter()))
        # Where all values are texts, one that is neither yes nor no is a mistake.
        is_field = expression.parsed["type"] in ("field", "subexpression") and isinstance(value, str)
        if isinstance(entry, TextRow) and is_field and value.strip().lower() not in _NO | _YES:
            raise _InvalidEntryError(
                f"{entry.place}: the field enabled ({self._enabled}) is {cut(repr(value))}: write true, yes, on or 1, "
                "or false, no, off, 0 or nothing"
            )
        return not is_no(value)

    def _value(self, name: str, entry: Mapping[str, Any]) -> Any:
        return _must_be_usable(_search(self._fields[name], entry, name)) if name in self._fields else None

    def _label_pairs(self, entry: Mapping[str, Any]) -> list[tuple[str, Any]]:
        pairs = _pairs(self._value("labels", entry))
        for name, expression in self._labels.items():
            value = _search(expression, entry, f"label {name!r}")
            if name.endswith("*"):
                pairs += [(name[:-1] + key, inner) for key, inner in _pairs(value)]
            else:
                pairs.append((name, value))
        return pairs


class _InvalidEntryError(Exception):
    """An entry can't be used."""


class _YesNoInterpreter(TreeInterpreter):
    """Takes 0 and the text ``no`` for false, also within ``!``, ``&&``, ``||`` and filters."""

    def _is_false(self, value: Any) -> bool:
        return is_no(value)

    def visit_not_expression(self, node: Any, value: Any) -> bool:
        """``!``"""
        return is_no(self.visit(node["children"][0], value))


def is_no(value: Any) -> bool:
    """True for JMESPath's false values, 0, and texts such as ``no``, ``off`` and ``false``; also within a choice of
    NetBox, an object with ``value`` and ``label``.
    """
    if isinstance(value, Mapping) and value.keys() == {"value", "label"}:
        value = value["value"]
    return value.strip().lower() in _NO if isinstance(value, str) else not value


def _search(
    expression: ParsedResult, entry: Mapping[str, Any], name: str, interpreter: TreeInterpreter | None = None
) -> Any:
    with boundary(
        lambda why: _InvalidEntryError(f"{name}: the expression fails on it: {why}"), passing=_InvalidEntryError
    ):
        return (interpreter or TreeInterpreter()).visit(expression.parsed, entry)


def kind_of(value: object) -> str:
    """The type of a value, for people."""
    return "null" if value is None else f"a {type(value).__name__}"


def cut(text: str, limit: int = 60) -> str:
    """The beginning of a text that is longer than ``limit``."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def _must_be_usable(value: Any) -> Any:
    if isinstance(value, UnusableValue):
        raise _InvalidEntryError(value.reason)
    return value


def _text(value: Any, name: str, limit: int) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _InvalidEntryError(f"the {name} is {kind_of(value)}, not text")
    text = value.strip()
    if len(text) > limit:
        raise _InvalidEntryError(f"the {name} has {len(text)} characters, more than {limit}")
    if _INVISIBLE.search(text):
        raise _InvalidEntryError(f"the {name} {text!r} holds control characters")
    return text


def _address(value: Any) -> str:
    text = _text(value, "address", 300)
    if not text:
        raise _InvalidEntryError("it has no address")
    text = next((part.strip() for part in text.split(",") if part.strip()), text)
    bare = text.partition("/")[0].removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if "/" not in text and _HOST_NAME.fullmatch(text) and not text.replace(".", "").isdigit():
            return text
        raise _InvalidEntryError(f"the address {text!r} is neither a host name nor an IP address") from None


def _port(value: Any, what: str = "port") -> int | None:
    if _must_be_usable(value) is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise _InvalidEntryError(f"the {what} {cut(repr(value))} is not 1 to 65535")
    return value


def _declared(value: Any) -> tuple[tuple[int, ...], tuple[tuple[int, str], ...]]:
    """Numbers of ports in order, each once, and the owners of some: of ``443/nginx.service`` or
    ``53/udp/named.service`` the port and the unit or program."""
    ports, owners = set(), dict[int, str]()
    for item in value if isinstance(value, list) else [value]:
        for part in re.split(r"[\s,;]+", item.strip()) if isinstance(item, str) else [item]:
            number, slash, owner = part.partition("/") if isinstance(part, str) else (part, "", "")
            if slash and not owner:
                raise _lacks_owner(part)
            if (port := _port(number, "declared port")) is None:
                continue
            protocol, slash, rest = owner.partition("/")
            if protocol in (TCP, UDP):
                port, owner = number_of(protocol, port), rest
                if slash and not owner:
                    raise _lacks_owner(part)
            ports.add(port)
            if owner:
                owners[port] = owner[: limits.NAME]
    return tuple(sorted(ports)), tuple(sorted(owners.items()))


def _lacks_owner(part: object) -> _InvalidEntryError:
    return _InvalidEntryError(f"the declared port {cut(repr(part))} lacks the unit or program after the slash")


def _pairs(value: Any) -> list[tuple[str, Any]]:
    """A mapping, or a list of ``key=value`` texts, plain tags, or objects with a name or slug."""
    if _must_be_usable(value) is None:
        return []
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if isinstance(value, Mapping):
        return [(str(key).strip(), inner) for key, inner in value.items()]
    if isinstance(value, list):
        return [_tag(item) for item in value if item is not None]
    raise _InvalidEntryError(f"the labels are {kind_of(value)}, not a mapping or a list")


def _tag(item: Any) -> tuple[str, Any]:
    if isinstance(item, Mapping):
        item = item.get("slug", item.get("name"))
    if not isinstance(item, str | int) or isinstance(item, bool):
        raise _InvalidEntryError(f"a label is {kind_of(item)}, not text")
    key, equals, value = str(item).partition("=")
    return key.strip(), value.strip() if equals else "true"


def _labels(pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    labels = {}
    for key, value in pairs:
        found = _label_value(value, key)
        if found is None:
            continue
        items = [_label_value(item, key) for item in found] if isinstance(found, list) else [found]
        texts = [str(one).lower() if isinstance(one, bool) else str(one) for one in items if one is not None]
        text = ",".join(texts)
        if len(text) > LABEL_LIMIT or len(key) > LABEL_LIMIT:
            raise _InvalidEntryError(f"the label {key[:50]!r} has more than {LABEL_LIMIT} characters")
        labels[key] = text
    return labels


def _label_value(value: Any, key: str) -> Any:
    """The value itself; of an object its value, name, slug or display name."""
    if isinstance(value, Mapping):
        names = [name for name in ("value", "name", "slug", "display") if name in value]
        value = value[names[0]] if names else json.dumps(value, sort_keys=True, default=_must_be_usable)
    if isinstance(value, UnusableValue):
        raise _InvalidEntryError(f"the label {key[:50]!r}: {value.reason}")
    return value
