"""First match wins; an allow rule's host part makes its hosts strict."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.engine.rules import Rule, RuleSet, Subject
from portmon.model.host import Host
from portmon.storage.tables import hosts

WEB = Host("1", "Web01.example", "10.0.0.1", None, {"role": "web", "env": "prod"})


def watched(*rules: dict[str, Any], port: int = 80, address: str = "0.0.0.0", program: str | None = "nginx") -> bool:
    subject = Subject(port, address, (program,) if program else (), ("nginx.service",) if program else ())
    return RuleSet([Rule(**rule) for rule in rules]).for_host(WEB).evaluate(subject).watched


def test_without_rules_everything_is_watched() -> None:
    assert watched()


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        ({"host": "web*"}, True),
        ({"host": ["db*", "*.EXAMPLE"]}, True),
        ({"host": "web"}, False),
        ({"label": {"role": "web"}}, True),
        ({"label": {"role": ["db", "w*"]}}, True),
        ({"label": {"role": "web", "env": "test"}}, False),
        ({"label": {"site": "*"}}, False),
        ({"port": 80}, True),
        ({"port": "79-81"}, True),
        ({"port": [22, "8000-8100"]}, False),
        ({"program": "ngin?"}, True),
        ({"program": "NGINX"}, False),
        ({"unit": "nginx.*"}, True),
        ({"unit": ["docker:*", "apache2.service"]}, False),
        ({"bind": "wildcard"}, True),
        ({"bind": "loopback"}, False),
        ({"host": "web*", "port": 81}, False),
    ],
)
def test_deny(match: dict[str, Any], hit: bool) -> None:
    assert watched({"action": "deny", **match}) is not hit


@pytest.mark.parametrize(
    ("address", "scope", "hit"),
    [
        ("127.0.0.1", "loopback", True),
        ("127.255.255.254", "loopback", True),
        ("::1", "loopback", True),
        ("::ffff:127.0.0.1", "loopback", True),
        ("::", "wildcard", True),
        ("*", "wildcard", True),
        ("0.0.0.0%eth0", "wildcard", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("2001:db8:85a3:1234:", "2001:db8::/32", False),
        ("0.0.0.0", "0.0.0.0/0", False),
    ],
)
def test_bind(address: str, scope: str, hit: bool) -> None:
    assert watched({"action": "deny", "bind": scope}, address=address) is not hit


def test_a_port_that_people_ignore_comes_before_the_rules() -> None:
    rules = [Rule(action="allow", port=80)]
    ignoring = RuleSet(rules, ignored={("1", 80): "until 2026-01-02 00:00 UTC by ann: noise", ("2", 81): "until …"})
    own = ignoring.for_host(WEB)
    decision = own.evaluate(Subject(80, "0.0.0.0", ("nginx",)))
    assert (decision.watched, decision.reason) == (False, "ignored until 2026-01-02 00:00 UTC by ann: noise")
    assert not RuleSet([], ignored={("1", 80): "until …"}).for_host(WEB).watches_all
    # An answer that was settled by other rules is read again; on other hosts nothing changes.
    plain = RuleSet(rules)
    assert own.digest != plain.for_host(WEB).digest
    other = dataclasses.replace(WEB, id="3")
    assert ignoring.for_host(other).digest == plain.for_host(other).digest
    assert ignoring.for_host(other).evaluate(Subject(80, "0.0.0.0")).watched


def test_digests_fit_their_column_and_tell_whether_udp_is_watched() -> None:
    rules, ignored = [Rule(action="allow", port=80)], {("1", port): "until …" for port in range(1, 100)}
    plain, with_udp = RuleSet(rules).for_host(WEB), RuleSet(rules, udp=lambda _: True).for_host(WEB)
    without = RuleSet(rules, udp=lambda _: True, ignored=ignored).for_host(WEB)
    digests = [one.digest for one in (plain, with_udp, without)]
    assert len(set(digests)) == 3
    assert {len(digest) for digest in digests} == {hosts.c.rules.type.length}
    assert [one.is_same(digest) for one in (plain, with_udp) for digest in digests] == [True, True, False] * 2
    assert not RuleSet([]).for_host(WEB).is_same(plain.digest)


def test_an_unknown_program_matches_no_glob() -> None:
    assert watched({"action": "deny", "program": "*"}, program=None)


def test_first_match_wins() -> None:
    deny, allow = {"action": "deny", "port": 80}, {"action": "allow", "port": "1-65535"}
    assert not watched(deny, allow)
    assert watched(allow, deny)


def test_an_allow_rule_that_names_the_host_makes_it_strict() -> None:
    rule = {"action": "allow", "label": {"role": "web"}, "port": 443}
    assert not watched(rule, port=80)
    assert watched(rule, port=443)
    assert watched({"action": "allow", "label": {"role": "db"}, "port": 443}, port=80)


def test_a_decision_names_its_rule() -> None:
    rules = RuleSet([Rule(action="deny", port=80, comment="noise")], where=lambda *at: f"portmon.yaml:7: {at}")
    decision = rules.for_host(WEB).evaluate(Subject(80, "::"))
    assert decision.reason == "portmon.yaml:7: ('rules', 0) denys it (noise)".replace("denys", "denies")


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.integers(1, 9)), max_size=6), st.integers(1, 9))
def test_it_is_the_first_match(rules: list[tuple[bool, int, int]], port: int) -> None:
    built = [
        {"action": "allow" if allow else "deny", "port": f"{min(low, high)}-{max(low, high)}"}
        for allow, low, high in rules
    ]
    expected = next((allow for allow, low, high in rules if min(low, high) <= port <= max(low, high)), None)
    if expected is None:
        expected = not any(allow for allow, _, _ in rules)
    assert watched(*built, port=port) is expected
