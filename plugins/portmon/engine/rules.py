"""Which ports are watched: one ordered list of allow and deny rules, of which the first match counts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from portmon.engine.config import Thresholds
from portmon.fields import BindScopes, Globs, HostMatch, PortRanges, globs_schema
from portmon.matching import any_glob, in_ranges, in_scope, matches_host
from portmon.model.host import Host
from portmon.model.numbers import is_udp

DIGEST = 16
"""Characters of a digest of rules, as the database keeps it."""
_WITH_UDP = "u"
"""Begins the digest where UDP is watched; no other one begins with it."""


class Subject(NamedTuple):
    """A listener, as rules match it.

    :param port: its number, see :mod:`portmon.model.numbers`
    :param programs: names of its program, one of which has to match; without any no glob matches
    :param units: systemd units or containers, likewise
    """

    port: int
    address: str
    programs: tuple[str, ...] = ()
    units: tuple[str, ...] = ()


class Rule(HostMatch, Thresholds):
    """One line of the ordered list: first match wins. Everything given must match.

    A port that no rule matches is watched, unless the host part (`host`, `label`) of some `allow` rule matches
    its host: there, only what is allowed is watched. An `allow` rule without a host part matches every host, so
    that nothing but what is allowed is watched anywhere; `portmon check` says which hosts these are.
    """

    action: Literal["allow", "deny"] = Field(description="`allow` watches what matches, `deny` ignores it")
    port: PortRanges | None = Field(
        None,
        description="port, range such as `8000-8100`, or a list; a number is of TCP and UDP, `53/udp` of one",
    )
    program: Annotated[Globs | None, globs_schema("globs on the program's name")] = Field(
        None, description="glob or list of globs on the program's name; an unknown program matches none"
    )
    unit: Annotated[Globs | None, globs_schema("globs on the systemd unit's or container's name")] = Field(
        None,
        description="glob or list of globs on the systemd unit or container; an unknown one matches none",
    )
    bind: Annotated[BindScopes | None, globs_schema("loopback, wildcard, or networks")] = Field(
        None, description="`loopback`, `wildcard`, a network such as `10.0.0.0/8`, or a list"
    )
    comment: str = Field("", description="why; shown where the rule decided something")

    @model_validator(mode="after")
    def _has_terms(self) -> Rule:
        if self.action == "deny" and self.gives_terms:
            raise ValueError("severity, down_after, reboot_grace and restarts are of what is watched: `deny` has none")
        return self

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        names = ("host", "label", *_ATTRIBUTES)
        if not any(getattr(self, name) for name in names):
            raise ValueError(f"give at least one of {', '.join(names)} (host: '*' matches every host)")
        return self

    def matches(self, subject: Subject) -> bool:
        """Whether a listener matches. :func:`portmon.matching.matches_host` compares the host part."""
        given = ((getattr(self, name), test) for name, test in _ATTRIBUTES.items())
        return all(value is None or test(value, subject) for value, test in given)


_ATTRIBUTES: Mapping[str, Callable[[Any, Subject], bool]] = {
    "port": lambda ranges, subject: in_ranges(subject.port, ranges),
    "program": lambda globs, subject: any(any_glob(name, globs) for name in subject.programs),
    "unit": lambda globs, subject: any(any_glob(unit, globs) for unit in subject.units),
    "bind": lambda scopes, subject: any(in_scope(subject.address, scope) for scope in scopes),
}
"""Fields of :class:`Rule` that name something of a listener, and how their values are compared."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a port is watched, why, and the index of the rule that decided.

    :param names_it: that rule names ports or programs
    :param given: that rule, if it allows: its terms
    """

    watched: bool
    reason: str
    rule: int | None = None
    names_it: bool = False
    given: Rule | None = None


@dataclass(frozen=True, slots=True)
class HostRules:
    """The rules that can match on one host.

    :param rules: with their index in the list
    :param only_allowed: a port that no rule matches is not watched
    :param tcp_digest: the same for equal rules in the same order; comments and indices do not count
    :param ignored: ports that people ignore, which come before the list: until when, by whom and why
    :param udp: UDP is watched
    """

    rules: tuple[tuple[int, Rule], ...]
    only_allowed: bool
    where: Callable[..., str]
    tcp_digest: str
    ignored: Mapping[int, str] = dataclasses.field(default_factory=dict)
    udp: bool = False

    @property
    def digest(self) -> str:
        """The same for equal rules, and whether UDP is watched."""
        return f"{_WITH_UDP}{self.tcp_digest}"[:DIGEST] if self.udp else self.tcp_digest

    def is_same(self, digest: str) -> bool:
        """Whether a digest is of these rules, whether UDP was watched or not."""
        kept = DIGEST - len(_WITH_UDP)
        return digest.removeprefix(_WITH_UDP)[:kept] == self.tcp_digest[:kept]

    @property
    def watches_all(self) -> bool:
        """Whether no rule can match on the host, so that every port is watched."""
        return not self.rules and not self.ignored

    def evaluate(self, subject: Subject) -> Decision:
        """Whether a listener is watched: the first rule that matches decides."""
        if not self.udp and is_udp(subject.port):
            return Decision(False, "scan.protocols does not name UDP there")
        if subject.port in self.ignored:
            return Decision(False, f"ignored {self.ignored[subject.port]}")
        for index, rule in self.rules:
            if rule.matches(subject):
                verb = "allows" if rule.action == "allow" else "denies"
                comment = f" ({rule.comment})" if rule.comment else ""
                reason = f"{self.where('rules', index)} {verb} it{comment}"
                names_it = rule.port is not None or rule.program is not None
                allows = rule.action == "allow"
                return Decision(allows, reason, index, names_it, rule if allows else None)
        if self.only_allowed:
            return Decision(False, "no allow rule of this host matches it")
        return Decision(True, "no rule matches it")


class RuleSet:
    """All rules of portmon.yaml, after the ports that people ignore.

    :param where: names a rule with its line: :meth:`portmon.config.Config.where`
    :param ignored: by host id and number of the port: until when, by whom and why
    :param udp: whether UDP is watched on a host; None if it is on none
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        where: Callable[..., str] | None = None,
        ignored: Mapping[tuple[str, int], str] | None = None,
        udp: Callable[[Host], bool] | None = None,
    ) -> None:
        self._udp = udp
        self._rules = tuple(rules)
        self._where = where or (lambda section, index: f"{section}[{index}]")
        # Similar hosts share their rules: 100,000 hosts need few HostRules.
        self._of_hosts = any(rule.host is not None for rule in rules)
        self._labels = tuple(sorted({name for rule in rules for name in rule.label or ()}))
        self._by_kind: dict[tuple[Any, ...], HostRules] = {}
        self._by_rules: dict[tuple[int, ...], HostRules] = {}
        self._ignored: dict[str, dict[int, str]] = defaultdict(dict)
        for (host_id, port), how in (ignored or {}).items():
            self._ignored[host_id][port] = how

    def for_host(self, host: Host) -> HostRules:
        """The rules that can match on a host."""
        kind = (host.name if self._of_hosts else None, *(host.labels.get(name) for name in self._labels))
        if kind not in self._by_kind:
            indices = tuple(index for index, rule in enumerate(self._rules) if matches_host(rule, host))
            if indices not in self._by_rules:
                rules = tuple((index, self._rules[index]) for index in indices)
                parts = [rule.model_dump_json(exclude={"comment"}) for _, rule in rules]
                only_allowed = any(rule.action == "allow" for _, rule in rules)
                self._by_rules[indices] = HostRules(rules, only_allowed, self._where, _digest(parts))
            self._by_kind[kind] = self._by_rules[indices]
        found, ignored = self._by_kind[kind], self._ignored.get(host.id)
        if self._udp is not None and self._udp(host):
            found = dataclasses.replace(found, udp=True)
        if ignored:
            digest = _digest([found.tcp_digest, *map(str, sorted(ignored))])
            found = dataclasses.replace(found, ignored=ignored, tcp_digest=digest)
        return found


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]
