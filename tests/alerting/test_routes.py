"""The first route that matches counts, and ``explain`` says why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from portmon.alerting.config import Alerts
from portmon.alerting.routes import Routes, Routing, Style
from portmon.config import parse_config
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind, Severity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("log", "mail", "chat")
CHANNELS = [
    {"type": "log"},
    {"type": "apprise", "name": "mail"},
    {"type": "apprise", "name": "chat"},
]


def event(kind: EventKind = EventKind.DOWN, **values: Any) -> Event:
    defaults = {
        "host_id": "1",
        "host_name": "Web01.example",
        "protocol": "tcp",
        "port": 80,
        "severity": Severity.CRITICAL,
        "program": "nginx, php-fpm",
        "labels": {"role": "web", "env": "prod"},
        "details": {"programs": ["nginx", "php-fpm"]},
    }
    return Event("e", kind, NOW, "r", **{**defaults, **values})


MONITOR = event(
    EventKind.CMDB_STALE, host_id=None, host_name=None, protocol=None, port=None, program=None, labels={}, details={}
)


def routes(*given: dict[str, Any], **alerts: Any) -> Routes:
    return Routes(Alerts.model_validate({"channels": CHANNELS, "routes": given, **alerts}))


def found(*given: dict[str, Any], of: Event | None = None, **alerts: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.route, one.channels) for one in routes(*given, **alerts).of(of or event())]


# ── which routes ────────────────────────────────────────────────────────────────────────────────


def test_without_routes_everybody_gets_everything() -> None:
    assert routes().of(event()) == (Routing("default", NAMES),)


def test_the_default_is_for_what_no_route_matches() -> None:
    mine = {"name": "mine", "match": {"port": 443}, "channels": ["mail"]}
    assert found(mine, default=["chat"]) == [("default", ("chat",))]
    assert found(mine, default=["chat"], of=event(port=443)) == [("mine", ("mail",))]
    assert found(mine, default=[]) == []


def test_the_first_match_counts() -> None:
    assert found({"channels": ["chat"]}, {"channels": ["mail"]}) == [("route 1", ("chat",))]


def test_continue_tries_those_after_it() -> None:
    first = {"name": "a", "channels": ["chat", "mail"], "continue": True}
    no = {"name": "b", "match": {"host": "db*"}, "channels": ["log"]}
    last = {"name": "c", "channels": ["mail", "log"]}
    never = {"name": "d", "channels": ["log"]}
    assert found(first, no, last, never) == [("a", ("chat", "mail")), ("c", ("log",))]
    # The default is for what nothing matched, not for what comes after it.
    assert found(first) == [("a", ("chat", "mail"))]
    assert found(first, {"name": "e", "channels": ["mail"]}) == [("a", ("chat", "mail"))]


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_route_without_channels_ends_the_search(goes_on: bool) -> None:
    silent = {"channels": [], "continue": goes_on}
    assert found(silent, {"channels": ["mail"]}) == []
    assert found({"channels": ["chat"], "continue": True}, silent, {"channels": ["mail"]}) == [("route 1", ("chat",))]


def test_a_channel_that_is_named_twice_gets_it_once() -> None:
    assert found({"channels": ["mail", "mail"]}) == [("route 1", ("mail",))]
    assert found(default=["mail", "mail"]) == [("default", ("mail",))]


# ── what matches ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("match", "lacking"),
    [
        ({}, None),
        ({"host": "web*"}, None),
        ({"host": ["db*", "*.EXAMPLE"]}, None),
        ({"host": ["db*", "web"]}, "host db*|web, but it is Web01.example"),
        ({"label": {"role": ["db", "w*"], "env": "prod"}}, None),
        ({"label": {"role": "web", "env": "test"}}, "label env=test, but it is prod"),
        ({"label": {"role": "WEB"}}, "label role=WEB, but it is web"),
        ({"label": {"site": "*"}}, "label site=*, but there is no such label"),
        ({"port": [22, "79-81"]}, None),
        ({"port": [22, "8000-8100"]}, "port 22,8000-8100, but it is 80"),
        ({"program": "php*"}, None),
        ({"program": "nginx"}, None),
        ({"program": "NGINX"}, "program NGINX, but it is nginx, php-fpm"),
        ({"kind": ["new", "down"]}, None),
        ({"kind": "new"}, "kind new, but it is down"),
        ({"young": False}, None),
        ({"young": True}, "young, but it is not"),
        ({"severity": "critical"}, None),
        ({"severity": ["info", "warning"]}, "severity info|warning, but it is critical"),
        ({"host": "web*", "port": 81, "program": "x"}, "port 81, but it is 80"),
    ],
)
def test_matching(match: dict[str, Any], lacking: str | None) -> None:
    made = routes({"match": match, "channels": ["mail"]}, default=[])
    assert bool(made.of(event())) is (lacking is None)
    told = made.explain(event())[0]
    assert told.removeprefix("alerts.routes[0]: ").startswith("yes: " if lacking is None else f"no: {lacking}")


@pytest.mark.parametrize("match", [{"host": "*"}, {"label": {"role": "*"}}, {"port": "1-65535"}, {"program": "*"}])
def test_an_event_without_host_matches_no_condition_on_hosts(match: dict[str, Any]) -> None:
    assert found({"match": match, "channels": ["mail"]}, default=[], of=MONITOR) == []
    assert found({"match": {"kind": "cmdb_stale"}, "channels": ["mail"]}, of=MONITOR) == [("route 1", ("mail",))]


def test_an_unknown_program_matches_none() -> None:
    assert (
        found({"match": {"program": "*"}, "channels": ["mail"]}, default=[], of=event(program=None, details={})) == []
    )
    one = event(program="nginx", details={})
    assert found({"match": {"program": "nginx"}, "channels": ["mail"]}, of=one) == [("route 1", ("mail",))]


CLOSING = [kind for kind in EventKind if kind.usual.role is AlertRole.RESOLVED]
NOTES = [kind for kind in EventKind if kind.usual.role is None]


@pytest.mark.parametrize("kind", [*CLOSING, *NOTES])
def test_what_ends_something_has_no_route(kind: EventKind) -> None:
    made = routes({"channels": ["mail"]})
    one = event(kind, severity=Severity.INFO)
    assert made.of(one) == ()
    (told,) = made.explain(one)
    assert told.startswith(f"{kind.value} ")
    assert ("goes to the channels that got the alert it ends" in told) is (kind in CLOSING)
    assert ("no channel gets it" in told) is (kind in NOTES)


def test_a_port_that_is_stable_but_down_has_a_route() -> None:
    one = event(EventKind.STABLE, details={"state": "down"})
    assert found({"match": {"kind": "stable"}, "channels": ["mail"]}, of=one) == [("route 1", ("mail",))]


def test_a_host_that_stays_unreachable_has_a_route_and_one_that_holds_still_has_none() -> None:
    made = routes({"match": {"kind": ["stable", "flapping"]}, "channels": ["mail"]})
    for state, channels in (("unreachable", [("mail",)]), ("ok", [])):
        one = event(EventKind.STABLE, port=None, details={"subject": "host", "state": state})
        assert [routing.channels for routing in made.of(one)] == channels


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("answers_discarded", "'answers_discarded' is a note: it is stored, and no channel gets it"),
        ("taken_over", "'taken_over' is a note"),
        ("own_machine", "'own_machine' goes to the channels that got the alert it ends; it has no route of its own"),
        ("retired", "'retired' goes to the channels that got the alert it ends"),
    ],
)
def test_a_route_can_not_name_a_note_or_an_end(kind: str, told: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(told)):
        routes({"match": {"kind": kind}, "channels": ["mail"]})


@pytest.mark.parametrize(
    "kind",
    [
        *("foreign_machine", "unscanned", "fleet_unscanned", "owners_hidden", "fleet_owners_hidden", "clock_back"),
        *("unreachable", "flapping", "stable"),
    ],
)
def test_a_route_can_name_what_begins_something(kind: str) -> None:
    assert routes({"match": {"kind": kind}, "channels": ["mail"]})


# ── style, and what is told ─────────────────────────────────────────────────────────────────────


def test_style() -> None:
    own = {"name": "own", "channels": [], "language": "zh", "max_lines": 3, "group_by": "site"}
    made = routes(own, {"channels": []}, language="en", max_lines=9, group_by="rack")
    assert made.style("own") == Style("zh", 3, "site")
    for name in ("route 2", "default", "gone"):
        assert made.style(name) == Style("en", 9, "rack")


TEXT = """
alerts:
  channels:
    - {type: log}
    - {type: apprise, name: mail}
  routes:
    - {name: audit, match: {label: {env: prod}}, channels: [log], continue: true}
    - {match: {host: 'db*'}, channels: []}
    - {name: web, match: {host: 'web*', port: 80}, channels: [log, mail]}
    - {channels: [log]}
  default: [mail]
"""


def test_explain_names_every_route_with_its_line() -> None:
    config = parse_config(TEXT, path=Path("portmon.yaml"))
    made = Routes(config.alerts, where=config.where)
    assert made.explain(event()) == [
        "portmon.yaml:7: alerts.routes[0] (audit): yes: label env=prod -> log, then those after it",
        "portmon.yaml:8: alerts.routes[1]: no: host db*, but it is Web01.example",
        "portmon.yaml:9: alerts.routes[2] (web): yes: host web* and port 80 -> log, mail",
        "portmon.yaml:10: alerts.routes[3]: not tried",
        "goes to: log (route audit), mail (route web)",
    ]
    assert made.explain(event(host_name="db1", labels={}))[-1] == "goes to: nobody"


def test_explain_the_default() -> None:
    made = routes({"match": {"port": 1}, "channels": []}, default=["chat"])
    assert made.explain(event())[1:] == ["no route matches: default -> chat", "goes to: chat (route default)"]


def test_told_lists_the_routes() -> None:
    config = parse_config(TEXT, path=Path("portmon.yaml"))
    assert Routes(config.alerts, where=config.where).told() == [
        "portmon.yaml:7: alerts.routes[0] (audit): label env=prod -> log, then those after it",
        "portmon.yaml:8: alerts.routes[1]: host db* -> nobody",
        "portmon.yaml:9: alerts.routes[2] (web): host web* and port 80 -> log, mail",
        "portmon.yaml:10: alerts.routes[3]: every event -> log",
        "default: what no route matches -> mail",
    ]


# ── any list of routes ──────────────────────────────────────────────────────────────────────────

ROUTE = st.fixed_dictionaries(
    {
        "match": st.fixed_dictionaries({"port": st.sampled_from([80, 81, "80-81"])}),
        "channels": st.lists(st.sampled_from(NAMES), max_size=3),
        "continue": st.booleans(),
    }
)


def reference(given: Sequence[dict[str, Any]], default: Sequence[str] | None, port: int) -> list[str]:
    """Channels in order, the slow and plain way."""
    got: list[str] = []
    hit = False
    for route in given:
        low, _, high = str(route["match"]["port"]).partition("-")
        if not int(low) <= port <= int(high or low):
            continue
        hit = True
        for name in route["channels"]:
            if name not in got:
                got.append(name)
        if not route["channels"] or not route["continue"]:
            break
    return got if hit else list(dict.fromkeys(NAMES if default is None else default))


@given(
    st.lists(ROUTE, max_size=5), st.none() | st.lists(st.sampled_from(NAMES), max_size=3), st.sampled_from([80, 81, 82])
)
def test_any_routes(given: list[dict[str, Any]], default: list[str] | None, port: int) -> None:
    made = routes(*given, default=default)
    one = event(port=port)
    got = [channel for routing in made.of(one) for channel in routing.channels]
    assert got == reference(given, default, port)
    assert len(set(got)) == len(got)
    told = made.explain(one)[-1]
    assert told == "goes to: " + (
        ", ".join(f"{name} (route {routing.route})" for routing in made.of(one) for name in routing.channels)
        or "nobody"
    )


# ── the documents ───────────────────────────────────────────────────────────────────────────────

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_documented_routes_do_what_the_document_says() -> None:
    (text,) = (text for text in (path.read_text() for path in DOCS.glob("*.md")) if "\n## Routes\n" in f"\n{text}")
    section = f"\n{text}".split("\n## Routes\n")[1].split("\n## ")[0]
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```", section, flags=re.M | re.S)
    (shown,) = re.findall(r"^```console\n(.*?)^```", section, flags=re.M | re.S)
    config = parse_config(yaml, path=Path("portmon.yaml"))
    one = event(host_name="db01", port=5432, labels={"env": "prod"}, program=None, details={})
    told = [f"  {line}" for line in Routes(config.alerts, where=config.where).explain(one)]
    lines = shown.splitlines()
    start = lines.index(told[0])
    assert lines[start : start + len(told)] == told


def test_a_route_that_nothing_reaches_is_found() -> None:
    text = """
      alerts:
        channels: [{type: log, name: a}, {type: log, name: b}, {type: log, name: c}]
        routes:
          - {match: {port: 80}, channels: [a]}
          - {match: {port: 80}, channels: [b]}
          - {match: {port: 80, kind: down}, channels: [b], continue: true}
          - {match: {port: 80, kind: down}, channels: [a]}
          - {name: all, channels: [a]}
          - {name: late, match: {port: 22}, channels: [b]}
        default: [a]
    """
    routes = Routes(parse_config(text).alerts)
    found = routes.unreachable()
    assert [number for number, _ in found] == [1, 2, 3, 5]
    assert "nothing reaches the route 'late': alerts.routes[4] (all) takes all of it" in found[-1][1]
    assert routes.unused_channels() == ["b", "c"]


@pytest.mark.parametrize(
    ("wide", "narrow", "takes_all"),
    [
        ("{}", "{host: web*}", True),
        ("{host: [a, b]}", "{host: a}", True),
        ("{host: a}", "{host: [a, b]}", False),
        ("{host: a}", "{}", False),
        ("{kind: [down, new]}", "{kind: down, port: 80}", True),
        ("{port: 1-100}", "{port: [22, 80-90]}", True),
        ("{port: 1-100}", "{port: [22, 90-101]}", False),
        ("{port: 1-65535}", "{host: a}", False),
        ("{label: {env: prod}}", "{label: {env: prod, site: x}}", True),
        ("{label: {env: prod, site: x}}", "{label: {env: prod}}", False),
        ("{label: {env: [a, b]}}", "{label: {env: b}}", True),
        ("{severity: critical}", "{severity: [critical, info]}", False),
        ("{program: nginx}", "{program: nginx, port: 80}", True),
    ],
)
def test_what_a_route_takes_from_those_after_it(wide: str, narrow: str, takes_all: bool) -> None:
    text = "alerts: {channels: [{type: log}], routes: [{match: %s, channels: [log]}, {match: %s, channels: [log]}]}"
    found = Routes(parse_config(text % (wide, narrow)).alerts).unreachable()
    assert [number for number, _ in found] == ([1] if takes_all else [])


@pytest.mark.parametrize(
    ("routes", "unused"),
    [
        ("[{channels: [a]}]", ["b"]),  # takes what the default would get
        ("[{channels: [a], continue: true}]", []),
        ("[{match: {port: 1}, channels: [a]}]", []),
        ("[{channels: [a]}, {match: {port: 1}, channels: [b]}]", ["b"]),
        ("[{channels: []}]", ["a", "b"]),
        ("[]", []),
    ],
)
def test_channels_that_get_nothing(routes: str, unused: list[str]) -> None:
    text = f"alerts: {{channels: [{{type: log, name: a}}, {{type: log, name: b}}], routes: {routes}}}"
    assert Routes(parse_config(text).alerts).unused_channels() == unused
