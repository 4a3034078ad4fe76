"""Which ports are watched: one ordered list of allow and deny rules, of which the first match counts.

A port that no rule matches is watched, unless the host part (``host``, ``label``) of an allow rule matches its host:
there, only allowed ports are watched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from portmon.engine.config import Rule
from portmon.matching import any_glob, in_ranges, in_scope, matches_host
from portmon.model.host import Host
from portmon.model.observation import Listener

_VERBS = {"allow": "allows", "deny": "denies"}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a port is watched, and the reason, for people.

    :param rule: index of the rule that decided, None if no rule matched
    """

    watched: bool
    reason: str
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class HostRules:
    """The rules that can match on one host.

    :param rules: with their index in the list
    :param only_allowed: a port that no rule matches is not watched
    :param digest: the same for equal rules in the same order, whatever their comments and index
    """

    rules: tuple[tuple[int, Rule], ...]
    only_allowed: bool
    where: Callable[..., str]
    digest: str

    @property
    def watches_all(self) -> bool:
        """Whether no rule can match on the host, so that every port is watched."""
        return not self.rules

    def evaluate(self, *, port: int, address: str, program: str | Sequence[str] | None) -> Decision:
        """Decide about one listener.

        :param program: its name or names, one of which has to match; without a name no program glob matches
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
        return self.evaluate(port=listener.port, address=listener.address, program=names).watched


class RuleSet:
    """All rules of portmon.yaml.

    :param where: names a rule with its line: :meth:`portmon.config.Config.where`
    """

    def __init__(self, rules: Sequence[Rule], *, where: Callable[..., str] | None = None) -> None:
        self._rules = tuple(rules)
        self._where = where or (lambda section, index: f"{section}[{index}]")
        # Most rules are for every host, and similar hosts have the same ones: 100,000 hosts need few sets of rules.
        self._of_hosts = any(rule.host is not None for rule in rules)
        self._labels = tuple(sorted({name for rule in rules for name in rule.label or ()}))
        self._by_kind: dict[tuple[Any, ...], HostRules] = {}
        self._by_rules: dict[tuple[int, ...], HostRules] = {}

    def for_host(self, host: Host) -> HostRules:
        """The rules that can match on a host."""
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

    def evaluate(self, host: Host, *, port: int, address: str, program: str | Sequence[str] | None) -> Decision:
        """Decide about one listener of a host, see :meth:`HostRules.evaluate`."""
        return self.for_host(host).evaluate(port=port, address=address, program=program)


def _matches(rule: Rule, port: int, address: str, names: Sequence[str]) -> bool:
    if rule.port is not None and not in_ranges(port, rule.port):
        return False
    if rule.program is not None and not any(any_glob(name, rule.program) for name in names):
        return False
    return rule.bind is None or any(in_scope(address, scope) for scope in rule.bind)
