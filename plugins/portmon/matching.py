"""Matching for rules, routes, groups and silences: globs, labels, port ranges, scopes of addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from portmon.model.host import Host
from portmon.model.numbers import BEYOND, TCP, TCP_ALONE, UDP, is_udp, port_of

if TYPE_CHECKING:
    from portmon.fields import HostMatch

WILDCARDS = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - names of addresses, nothing is bound


def matches_host(match: HostMatch, host: Host) -> bool:
    """Whether the host part of a rule, a declaration or a group matches a host: names without regard to case."""
    return (match.host is None or is_named(host.name, match.host)) and has_labels(host.labels, match.label or {})


def is_named(name: str, globs: Iterable[str]) -> bool:
    """Whether a host's name matches one of the globs, without regard to case."""
    lower = name.lower()
    return any(fnmatchcase(lower, glob.lower()) for glob in globs)


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, Iterable[str]]) -> bool:
    """Whether every wanted label is there, with a value that matches one of its globs."""
    return all(label in labels and any_glob(labels[label], globs) for label, globs in wanted.items())


def any_glob(text: str, globs: Iterable[str]) -> bool:
    """Whether a text matches one of the globs, with regard to case."""
    return any(fnmatchcase(text, glob) for glob in globs)


def in_ranges(number: int, ranges: Iterable[tuple[int, int]]) -> bool:
    """Whether a port is in one of the inclusive ranges.

    :param number: see :mod:`portmon.model.numbers`
    :param ranges: of ports of either protocol, of numbers of UDP ports, or of TCP alone
        (:data:`portmon.model.numbers.TCP_ALONE`)
    """
    port = port_of(number)
    alone = number if is_udp(number) else number + TCP_ALONE
    return any(low <= (port if high < BEYOND else alone) <= high for low, high in ranges)


def ranges_text(ranges: Iterable[tuple[int, int]]) -> str:
    """Such ranges as people write them: ``53,8000-8100,53/udp``."""
    parts = []
    for low, high in ranges:
        ports = str(port_of(low)) if low == high else f"{port_of(low)}-{port_of(high)}"
        protocol = "" if high < BEYOND else f"/{UDP}" if high < TCP_ALONE else f"/{TCP}"
        parts.append(ports + protocol)
    return ",".join(parts)


def match_text(match: Iterable[tuple[str, Any]], *, empty: str = "every host") -> str:
    """The match part of a rule, a route or a group, for people.

    :param match: pairs of field and value; fields with None are left out
    :param empty: the text if no field is left
    """
    parts: list[str] = []
    for name, value in match:
        # What a rule says of a port, besides which ones it matches, is no part of it; its severity is one text.
        is_term = name in ("owner", "down_after", "reboot_grace", "restarts") or isinstance(value, StrEnum)
        if name in ("action", "comment") or is_term or value is None:
            continue
        if name == "label":
            parts.extend(f"label {key}={'|'.join(globs)}" for key, globs in value.items())
        elif isinstance(value, bool):
            parts.append(name if value else f"not {name}")
        elif name == "port":
            parts.append("port " + ranges_text(value))
        else:
            parts.append(f"{name} {'|'.join(value)}")
    return " and ".join(parts) or empty


@lru_cache(maxsize=4096)
def bind_scopes(address: str) -> tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address | None]:
    """``loopback``, ``wildcard`` or ``other``, and the parsed address: None for a wildcard or a cut address."""
    if address in WILDCARDS:
        return "wildcard", None
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0].strip("[]"))
    except ValueError:
        return "other", None
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    if mapped.is_unspecified:
        return "wildcard", None
    return ("loopback" if mapped.is_loopback else "other"), mapped


def in_scope(address: str, scope: str) -> bool:
    """Whether an address is in a scope: ``loopback``, ``wildcard`` or a network."""
    kind, parsed = bind_scopes(address)
    if scope in ("loopback", "wildcard"):
        return kind == scope
    return parsed is not None and parsed in _network(scope)


@lru_cache(maxsize=1024)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)
