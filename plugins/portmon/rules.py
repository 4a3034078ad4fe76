"""Which ports are watched: one ordered list of allow and deny rules, first match wins.

Without a match a port is watched, unless the host part (``host``, ``label``) of some allow rule matches
its host: then only what is allowed is watched there.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from portmon.config import HostMatch, Rule
from portmon.models import Event, Host, Listener

WILDCARDS = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - names of addresses, nothing is bound


_VERBS = {"allow": "allows", "deny": "denies"}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a port is watched, and why.

    :param reason: for people
    :param rule: index of the rule that decided, None if none did
    """

    watched: bool
    reason: str
    rule: int | None = None


def matches_host(match: HostMatch, host: Host) -> bool:
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


def programs_of(event: Event) -> tuple[str, ...]:
    """The programs of the port that an event is about, each by itself; empty if they are not known."""
    programs = event.details.get("programs") or ([event.program] if event.program else [])
    return tuple(map(str, programs))


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


@dataclass(frozen=True, slots=True)
class HostRules:
    """The rules that can match on one host.

    :param rules: with their index in the list
    :param only_allowed: without a match a port is not watched
    :param digest: the same for rules that decide the same, whatever their comments and their place in the list
    """

    rules: tuple[tuple[int, Rule], ...]
    only_allowed: bool
    where: Callable[..., str]
    digest: str

    @property
    def watches_all(self) -> bool:
        """Whether no rule applies, so that nothing needs to be decided."""
        return not self.rules

    def judge(self, *, port: int, address: str, program: str | Sequence[str] | None) -> Decision:
        """Whether a listener is watched.

        :param program: its name or names, one of which has to match; without any no program glob matches
        """
        names = (program,) if isinstance(program, str) else tuple(program or ())
        for index, rule in self.rules:
            if _matches(rule, port, address, names):
                comment = f" ({rule.comment})" if rule.comment else ""
                return Decision(
                    rule.action == "allow", f"{self.where('rules', index)} {_VERBS[rule.action]} it{comment}", index
                )
        if self.only_allowed:
            return Decision(False, "no allow rule of this host matches it")
        return Decision(True, "no rule matches it")

    def watched(self, listener: Listener) -> bool:
        """Whether a listener is watched."""
        names = [name for name in (listener.program, listener.comm) if name is not None]
        return self.judge(port=listener.port, address=listener.address, program=names).watched


class RuleSet:
    """All rules of a configuration.

    :param where: names a rule for people, with its line: :meth:`portmon.config.Config.where`
    """

    def __init__(self, rules: Sequence[Rule], *, where: Callable[..., str] | None = None) -> None:
        self._rules = tuple(rules)
        self._where = where or (lambda section, index: f"{section}[{index}]")
        # Most rules are for every host, and hosts of one kind have the same ones: 100,000 hosts have few sets.
        self._of_hosts = any(rule.host is not None for rule in rules)
        self._labels = tuple(sorted({name for rule in rules for name in rule.label or ()}))
        self._by_kind: dict[tuple[Any, ...], HostRules] = {}
        self._by_rules: dict[tuple[int, ...], HostRules] = {}

    def for_host(self, host: Host) -> HostRules:
        """The rules that can match there."""
        kind = (host.name if self._of_hosts else None, *(host.labels.get(name) for name in self._labels))
        if kind not in self._by_kind:
            indices = tuple(index for index, rule in enumerate(self._rules) if matches_host(rule, host))
            if indices not in self._by_rules:
                self._by_rules[indices] = self._made(indices)
            self._by_kind[kind] = self._by_rules[indices]
        return self._by_kind[kind]

    def _made(self, indices: tuple[int, ...]) -> HostRules:
        rules = tuple((index, self._rules[index]) for index in indices)
        parts = [rule.model_dump_json(exclude={"comment"}) for _, rule in rules]
        digest = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return HostRules(rules, any(rule.action == "allow" for _, rule in rules), self._where, digest)

    def judge(self, host: Host, *, port: int, address: str, program: str | Sequence[str] | None) -> Decision:
        """Whether one listener of a host is watched."""
        return self.for_host(host).judge(port=port, address=address, program=program)


def _matches(rule: Rule, port: int, address: str, names: Sequence[str]) -> bool:
    if rule.port is not None and not in_ranges(port, rule.port):
        return False
    if rule.program is not None and not any(any_glob(name, rule.program) for name in names):
        return False
    return rule.bind is None or any(_in_scope(address, scope) for scope in rule.bind)


def _in_scope(address: str, scope: str) -> bool:
    kind, parsed = bind_scopes(address)
    if scope in ("loopback", "wildcard"):
        return kind == scope
    return parsed is not None and parsed in _network(scope)


@lru_cache(maxsize=1024)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)
