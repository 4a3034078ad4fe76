"""Matching that rules, routes, groups and silences share: globs, labels, ranges of ports, scopes of addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Protocol

WILDCARDS = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - names of addresses, nothing is bound


class HostPattern(Protocol):
    """The host part of a rule, a route or a group; None is not given."""

    @property
    def host(self) -> Iterable[str] | None:
        """Globs on the host's name."""

    @property
    def label(self) -> Mapping[str, Iterable[str]] | None:
        """Globs on the value of each label."""


class NamedHost(Protocol):
    """What of a host is matched."""

    @property
    def name(self) -> str:
        """As people know it."""

    @property
    def labels(self) -> Mapping[str, str]:
        """From the CMDB."""


def matches_host(match: HostPattern, host: NamedHost) -> bool:
    """Whether the host part of a rule or group matches; without one it matches every host.

    Names are compared without regard to case, as names of hosts are; labels as they are.
    """
    return (match.host is None or is_named(host.name, match.host)) and has_labels(host.labels, match.label or {})


def is_named(name: str, globs: Iterable[str]) -> bool:
    """Whether a host's name matches one of some globs."""
    lower = name.lower()
    return any(fnmatchcase(lower, glob.lower()) for glob in globs)


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, Iterable[str]]) -> bool:
    """Whether there is every label that is wanted, with a value that matches one of its globs."""
    return all(label in labels and any_glob(labels[label], globs) for label, globs in wanted.items())


def any_glob(text: str, globs: Iterable[str]) -> bool:
    """Whether a text matches one of some globs, with regard to case."""
    return any(fnmatchcase(text, glob) for glob in globs)


def in_ranges(port: int, ranges: Iterable[tuple[int, int]]) -> bool:
    """Whether a port is in one of some inclusive ranges."""
    return any(low <= port <= high for low, high in ranges)


def match_text(match: Iterable[tuple[str, Any]], *, empty: str = "every host") -> str:
    """What a rule, a route or the like matches, for people.

    :param match: field and value; None is not given
    :param empty: what it matches with nothing given
    """
    parts: list[str] = []
    for name, value in match:
        if name in ("action", "comment") or value is None:
            continue
        if name == "label":
            parts.extend(f"label {key}={'|'.join(globs)}" for key, globs in value.items())
        elif name == "port":
            parts.append("port " + ",".join(str(low) if low == high else f"{low}-{high}" for low, high in value))
        else:
            parts.append(f"{name} {'|'.join(value)}")
    return " and ".join(parts) or empty


@lru_cache(maxsize=4096)
def bind_scopes(address: str) -> tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address | None]:
    """``loopback``, ``wildcard`` or ``other``, and the address if it is one.

    An address that the tool cut can't be read and belongs to no network.
    """
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
