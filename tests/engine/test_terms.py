"""What rules and declarations say of their ports, beside which ones they are: terms and owners."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from portmon.api.simulate import simulate
from portmon.config import Config, parse_config
from portmon.engine.config import States
from portmon.engine.rules import Rule
from portmon.engine.terms import Given, terms_of

START = datetime(2026, 1, 1, tzinfo=UTC)
FIVE = timedelta(minutes=5)
NGINX = {"port": 80, "program": "nginx", "comm": "nginx", "pid": 5, "inode": 50, "unit": "nginx.service"}
PYTHON = {"port": 80, "program": "python3", "comm": "python3", "pid": 9, "inode": 90}
SSH = {"port": 22, "program": "sshd", "comm": "sshd", "pid": 2, "inode": 20, "unit": "ssh.service"}


def configured(text: str) -> Config:
    return parse_config(text, path=Path("portmon.yaml"))


def told(
    looks: Sequence[Iterable[dict[str, Any]]], text: str = "", *, boots: Sequence[str] = (), **first: Any
) -> list[tuple[int, str, str]]:
    """Minute, kind and severity of the events of port 80.

    :param first: of the first line
    """
    lines = []
    for number, listeners in enumerate(looks):
        line = {
            "at": (START + number * FIVE).isoformat(),
            "host_id": "h1",
            "outcome": "ok",
            "listeners": [SSH, *listeners],
        }
        line["boot_id"] = boots[number] if boots else "b1"
        lines.append(json.dumps(line | (first if number == 0 else {})))
    found = simulate(lines, configured(text), interval=FIVE)
    return [(int(one.at[11:13]) * 60 + int(one.at[14:16]), one.kind, one.severity) for one in found if one.port == 80]


def test_without_terms_those_of_the_settings_count() -> None:
    settings = States(down_after=3, reboot_grace=timedelta(minutes=7))
    terms = terms_of(settings)
    assert (terms.down_after, terms.reboot_grace, terms.restarts) == (3, timedelta(minutes=7), "change")
    assert (terms.severity, terms.owner) == (None, None)
    given = Rule(action="allow", port=80, down_after=1)
    assert terms_of(settings, Given(given)).down_after == 1
    assert terms_of(settings, Given(given)).reboot_grace == timedelta(minutes=7)


def test_a_rule_that_denies_has_no_terms() -> None:
    with pytest.raises(ValidationError, match="`deny` has none"):
        Rule(action="deny", port=80, down_after=2)


@pytest.mark.parametrize("where", ["rules: [{action: allow, port: [22, 80], %s}]", "declared: [{port: 80, %s}]"])
def test_terms_of_rules_and_declarations_count(where: str) -> None:
    looks = [[NGINX]] * 2 + [[]] * 3
    assert told(looks) == [(10, "down", "critical")]
    assert told(looks, where % "down_after: 2") == [(15, "down", "critical")]
    assert told(looks, where % "severity: warning") == [(10, "down", "warning")]
    crashes = [[NGINX | {"pid": 5 + number, "inode": 50 + number}] for number in range(6)]
    assert told(crashes)[-1] == (20, "crash_looping", "critical")
    assert {kind for _, kind, _ in told(crashes, where % "restarts: note")} == {"restarted"}
    boots = ["b1"] * 2 + ["b2"] * 5
    assert told([[NGINX]] * 2 + [[]] * 5, boots=boots) == [(20, "down", "critical")]
    assert told([[NGINX]] * 2 + [[]] * 5, where % "reboot_grace: 15min", boots=boots) == [(25, "down", "critical")]


def test_of_the_rules_that_watch_a_port_the_first_of_the_list_gives_the_terms() -> None:
    looks = [[NGINX | {"address": "127.0.0.1"}, NGINX | {"inode": 51}]] * 2 + [[]] * 3
    text = "rules: [{action: allow, bind: wildcard, down_after: 2}, {action: allow, bind: loopback}]"
    assert told(looks, text) == [(15, "down", "critical")]


def test_a_severity_counts_for_a_young_port_too() -> None:
    looks = [[]] * 2 + [[NGINX]] + [[]]
    assert told(looks) == [(10, "new", "warning"), (15, "down", "warning")]
    text = "rules: [{action: allow, unit: nginx.service, severity: critical}, {action: allow, port: 22}]"
    assert told(looks, text) == [(10, "new", "warning"), (15, "down", "critical")]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("", {"declared": ["80/nginx.service"]}),
        ("declared: [{port: 80, owner: nginx.service}]", {}),
        ("declared: [{port: 80, owner: nginx}]", {}),
    ],
)
def test_a_declared_owner_has_to_have_the_port(text: str, first: dict[str, Any]) -> None:
    looks = [[NGINX], [PYTHON], [PYTHON], [NGINX]]
    assert told(looks, text, **first) == [(5, "down", "critical"), (15, "recovered", "info")]
    # From the first observation on, and however long the other one has it.
    looks = [[PYTHON | {"unit": "app.service"}]] * 10 + [[NGINX]]
    text += "\nstates: {mature_after: 30min}"
    assert [kind for _, kind, _ in told(looks, text, **first)] == ["down", "recovered"]


def test_the_time_of_a_declared_owner_after_a_boot_ends_though_nothing_changes() -> None:
    other = PYTHON | {"unit": "app.service"}
    boots = ["b1", "b2", "b2", "b2", "b2"]
    first = {"declared": ["80/nginx.service"]}
    # What the port showed before says nothing of units.
    looks = [[PYTHON]] + [[other]] * 4
    assert told(looks, boots=boots, **first) == [(15, "down", "critical")]


def test_another_owner_is_no_death_without_a_declared_one() -> None:
    assert told([[NGINX], [PYTHON]], "declared: [{port: 80}]") == [(5, "replaced", "warning")]


def test_who_surely_did_not_have_a_port_does_not_end_its_down_by_a_declaration_of_a_unit_that_is_not_shown() -> None:
    looks = [[NGINX], [NGINX], [], [PYTHON], [PYTHON], [NGINX | {"inode": 51, "unit": None}]]
    # The declaration begins with the run in which the port is down.
    lines = [json.dumps(line) for line in declared_later(looks)]
    found = simulate(lines, Config(), interval=FIVE)
    assert [one.kind for one in found if one.port == 80] == ["down", "replaced", "recovered"]


@pytest.mark.parametrize("unit", [None, "other.service"], ids=["as it is declared", "later"])
def test_a_unit_that_a_look_does_not_show_is_the_known_one_for_a_declaration(unit: str | None) -> None:
    other = PYTHON | {"unit": "other.service"}
    looks = [[other], [other], [PYTHON | {"unit": unit}], [PYTHON], [other], [PYTHON]]
    found = simulate([json.dumps(line) for line in declared_later(looks)], Config(), interval=FIVE)
    assert [(one.at[11:16], one.kind) for one in found if one.port == 80] == [("00:10", "down")]


def declared_later(looks: Sequence[Iterable[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    """The lines of these looks; from the third on the CMDB declares port 80 for another unit than it had."""
    for number, listeners in enumerate(looks):
        at = (START + number * FIVE).isoformat()
        own = {"declared": ["80/app.service"]} if number >= 2 else {}
        yield {"at": at, "host_id": "h1", "outcome": "ok", "boot_id": "b1", "listeners": [SSH, *listeners], **own}
