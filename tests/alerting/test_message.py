"""What alerts say, and that nothing from a host can change more of them than its own name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from portmon.alerting.config import Language
from portmon.alerting.message.bodies import BUILT_IN
from portmon.alerting.message.check import check_templates
from portmon.alerting.message.render import Layout, Message, render
from portmon.alerting.message.view import Count, MessageHost, MessageLine, MessageView, Site
from portmon.alerting.outages import Outage
from portmon.model.alert import Alert
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind, Severity
from portmon.text import REASON_LIMIT, TITLE_LIMIT, VALUE_LIMIT, escape_markdown, inert, plain, whole

MESSAGES = Path(__file__).parents[1] / "fixtures" / "messages"
LANGUAGES = get_args(Language)
PAGE = "https://airflow.example.com/portmon/alerts?group=down&open=1"
NOON = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
HOSTILE = (
    "\u202e{{ conn.x.password }} {{ {% if %}\n@everyone <!channel> <b>bold</b> [x](http://evil.example) "
    "\x1b[31m\u200b\udcff ||hidden||"
)


def event(kind: EventKind, host: str | None = "web01", port: int | None = None, **given: Any) -> Event:
    values: dict[str, Any] = {
        "id": f"{kind}/{host}/{port}",
        "kind": kind,
        "at": NOON,
        "run_id": "scheduled__2026-03-09T12:00:00+00:00",
        "host_id": host and f"id-{host}",
        "host_name": host,
        "protocol": "tcp" if port else None,
        "port": port,
        "severity": kind.meaning(given.get("details", {})).severity,
    }
    return Event(**{**values, **given})


def alert(event: Event, *, untold: bool = False) -> Alert:
    role = event.role or AlertRole.NOTICE
    return Alert(
        id=event.id,
        role=role,
        event=event,
        first=event,
        starts_at=event.since or event.at,
        ends_at=event.at if role is AlertRole.RESOLVED else None,
        untold=untold,
    )


def say(
    *told: Event | Alert,
    language: Language = "en",
    max_lines: int = 50,
    templates: Path | None = None,
    link: Callable[[Event], str | None] = lambda event: None,
    **given: Any,
) -> Message:
    alerts = [one if isinstance(one, Alert) else alert(one) for one in told]
    group = alerts[0].event.group or AlertGroup.NEW
    layout = Layout(language=language, max_lines=max_lines, templates=templates)
    return render(alerts, group, layout=layout, link=link, **given)


# ── every message as a file ─────────────────────────────────────────────────────────────────────


def _ago(**time: float) -> datetime:
    return NOON - timedelta(**time)


def _outage(kind: EventKind, number: int, unreachable: int) -> tuple[list[Event | Alert], dict[str, Outage]]:
    """Hosts of dc1, all in one outage."""
    details = {"error_class": "timeout"} if kind is EventKind.UNREACHABLE else {}
    since = {EventKind.UNREACHABLE: _ago(minutes=10), EventKind.REACHABLE: _ago(hours=1)}[kind]
    events = [event(kind, f"node{at:03}", since=since, details=details) for at in range(number)]
    return list(events), dict.fromkeys((one.host_id or "" for one in events), Outage("dc1", 320, unreachable))


def _going_on() -> list[Event | Alert]:
    nginx = {"program": "nginx: master", "unit": "nginx.service"}
    then = _ago(hours=32)
    return [
        event(EventKind.DOWN, "web01", 8080, **nginx, at=then, since=then, last_seen=_ago(hours=32, minutes=5)),
        event(EventKind.DOWN, "web01", 9100, unit="node_exporter.service", since=_ago(hours=2)),
        event(EventKind.FLAPPING, "db01", 5432, program="postgres", since=_ago(hours=3), details={"state": "down"}),
    ]


_DISCARDED = "The boot id of before is back: the answers since 2026-03-09 11:40:00 UTC were another machine's"


def _owners() -> list[Event]:
    """Of ports that programs share, or take from each other."""
    varnish, nginx = "varnishd (varnish.service)", "nginx (nginx.service)"
    shared = {"program": "nginx", "unit": "nginx.service", "last_seen": _ago(minutes=5)}
    gone, stable = EventKind.OWNER_GONE, EventKind.STABLE
    return [
        event(gone, "web01", 443, **shared, since=NOON, details={"owner": varnish, "left": nginx}),
        event(
            gone,
            "web01",
            40001,
            severity=Severity.WARNING,
            since=NOON,
            details={"owner": f"{varnish}, haproxy", "left": "nginx", "young": True},
        ),
        event(stable, "web02", 80, program="java", reason="It held still", details={"state": "down", "owner": "nc"}),
        event(stable, "web02", 81, program="java", reason="It held still", details={"state": "down", "gone": varnish}),
    ]


def _owners_back() -> list[Event | Alert]:
    varnish = {"part": "owner", "owner": "varnishd (varnish.service)"}
    nginx = {"program": "nginx", "unit": "nginx.service"}
    back = event(EventKind.RECOVERED, "web01", 443, **nginx, since=_ago(minutes=12), details=varnish)
    untold = event(EventKind.RECOVERED, "web02", 443, **nginx, details={"part": "owner", "young": True})
    return [back, alert(untold, untold=True)]


def _taken() -> list[Event]:
    owners = {"was": "nginx (nginx.service)", "owner": "haproxy (haproxy.service)", "before": ["nginx"]}
    haproxy = {"program": "haproxy", "unit": "haproxy.service"}
    return [
        event(EventKind.REPLACED, "web01", 80, **haproxy, details=owners),
        event(EventKind.REPLACED, "web01", 443, program="nginx", details=owners | {"taken": True}),
        event(EventKind.REPLACED, "web02", 443, details={"taken": True}),
        event(EventKind.NEW, "web02", 4444, program="nc", details={"young": True}),
    ]


def _crash_looping() -> list[Event]:
    java: dict[str, Any] = {"program": "java", "since": _ago(minutes=20)}
    why = "4 changes within 60 min: nothing more is told of it until it holds still"
    return [
        event(EventKind.CRASH_LOOPING, "web01", 8080, **java, reason=why),
        event(
            EventKind.CRASH_LOOPING,
            "web02",
            8081,
            **java,
            reason=why,
            severity=Severity.WARNING,
            details={"young": True},
        ),
        event(EventKind.DOWN, "web02", 40000, **java, severity=Severity.WARNING, details={"young": True}),
        event(EventKind.DOWN, "web03", 443, program="nginx", details={"owner": "haproxy (haproxy.service)"}),
    ]


def _hidden() -> list[Event]:
    hidden, shown = EventKind.OWNERS_HIDDEN, EventKind.OWNERS_SHOWN
    return [
        event(hidden, "web01", since=_ago(minutes=10), reason="2 complete answers in a row show none"),
        event(shown, "web02", since=_ago(hours=3)),
    ]


def _machines() -> list[Event]:
    other = {"machine": "id-web02", "machine_name": "web02", "boot_id": "b2"}
    timeout = {"error_class": "timeout"}
    return [
        event(
            EventKind.FOREIGN_MACHINE,
            "web01",
            since=_ago(minutes=10),
            details=other,
            reason="It is the machine of web02",
        ),
        event(EventKind.OWN_MACHINE, "web03", since=_ago(minutes=40), details=other, reason="Its own boot id is back"),
        event(EventKind.UNREACHABLE, "web04", since=_ago(minutes=5), details={**timeout, "never": True}),
    ]


def _unscanned() -> list[Event]:
    invalid = {"invalid": "it has no address"}
    return [
        event(EventKind.UNSCANNED, "web01", since=_ago(hours=2), details=invalid, reason="Its entry has no address"),
        event(
            EventKind.UNSCANNED,
            "web02",
            since=_ago(minutes=20),
            details={"last_tried": "2026-03-09T11:40:00+00:00"},
            reason="No run tried it since 2026-03-09 11:40:00 UTC",
        ),
        event(EventKind.SCANNED, "web03", since=_ago(minutes=25), reason="It was tried again"),
    ]


def _flapping_hosts() -> list[Event]:
    gone, back = ({"subject": "host", "state": state} for state in ("unreachable", "ok"))
    changes = "4 changes since 2026-03-09 11:20:00 UTC"
    return [
        event(EventKind.FLAPPING, "web01", since=_ago(minutes=40), details=gone, reason=changes),
        event(EventKind.FLAPPING, "web02", since=_ago(minutes=40), details=back, reason=changes),
        event(EventKind.STABLE, "web03", details=gone, reason="It held still for 1 h"),
        event(EventKind.STABLE, "web04", details=back, reason="It held still for 1 h"),
    ]


def _clock() -> list[Event]:
    many = {"hosts": 12, "names": ["web01", "web02"]}
    return [
        event(
            EventKind.CLOCK_BACK,
            None,
            since=NOON,
            details={"behind": 7200},
            reason="The looks of this run are 2 h older than those that were judged last",
        ),
        event(
            EventKind.CLOCK_BELIEVED, None, reason="Stored times later than 2026-03-09 12:00:00 UTC became that time"
        ),
        event(EventKind.FLEET_UNSCANNED, None, since=_ago(hours=1), details=many, reason="12 hosts are not scanned"),
        event(EventKind.FLEET_SCANNED, None, reason="5 or fewer hosts are not scanned"),
    ]


def _given(case: str) -> dict[str, Any]:
    """What the samples of these names are rendered with besides their alerts."""
    match case:
        case "site-outage" | "site-outage-over":
            kind = EventKind.REACHABLE if case.endswith("over") else EventKind.UNREACHABLE
            return {"outages": _outage(kind, 300, 0 if case.endswith("over") else 300)[1], "page": PAGE}
        case "reminder" | "reminder-hosts" | "reminder-monitor" | "reminder-owners":
            return {"reminder": True}
        case "grouped":
            return {"subject": "team-a"}
    return {"page": PAGE}


def _cases() -> Mapping[str, Sequence[Event | Alert]]:
    down, new, recovered = EventKind.DOWN, EventKind.NEW, EventKind.RECOVERED
    nginx = {"program": "nginx: master", "unit": "nginx.service"}
    timeout = {"reason": "connect timed out after 10 s", "details": {"error_class": "timeout"}}
    return {
        "down-one": [event(down, "web01", 8080, **nginx, last_seen=_ago(minutes=5))],
        "down": [
            event(down, "web01", 8080, **nginx, last_seen=_ago(minutes=5)),
            event(down, "web01", 9100, unit="node_exporter.service", last_seen=_ago(hours=14)),
            event(down, "db01.prod.example.com", 5432, program="postgres", unit="postgresql@14-main.service"),
        ],
        "fleet-owners": [
            event(
                EventKind.FLEET_OWNERS_HIDDEN,
                None,
                since=_ago(hours=1),
                details={"hosts": 12, "names": ["web01", "web02"]},
                reason="12 hosts show no programs of other users any more: web01, web02",
            ),
            event(EventKind.FLEET_OWNERS_SHOWN, None, reason="All but 2 hosts show programs of other users again"),
        ],
        "new": [
            event(new, "web01", 4444, program="nc", details={"addresses": ["0.0.0.0", "::"], "pid": 991}),
            event(new, "web02", 3000, details={"addresses": ["127.0.0.1"]}),
        ],
        "recovered": [
            event(recovered, "web01", 8080, **nginx, since=_ago(minutes=12), details={"down_for": 720.4}),
            event(recovered, "web02", 22, program="sshd", since=_ago(days=3, hours=2)),
            event(EventKind.RETIRED, "web03", 81, program="httpd", reason="it left the CMDB"),
        ],
        "unreachable": [
            event(EventKind.UNREACHABLE, "web01", since=_ago(minutes=10), last_seen=_ago(minutes=15), **timeout),
            event(EventKind.REACHABLE, "web02", since=_ago(minutes=95)),
        ],
        "monitor": [
            event(EventKind.HOST_KEY_CHANGED, "web09", reason="ssh-ed25519 SHA256:Zm9v instead of SHA256:YmFy"),
            event(EventKind.HOST_KEY_RESTORED, "web08", reason="The host shows a trusted key again"),
            event(
                EventKind.CMDB_STALE,
                None,
                since=_ago(days=2),
                reason="The host list is from 2026-03-07 12:00 UTC; the CMDB gave no usable one since: answered 500",
            ),
            event(EventKind.CMDB_FRESH, None, reason="The CMDB gives a usable host list again"),
            event(EventKind.PRUNE_REFUSED, None, reason="Nothing was pruned: 30 of 40 hosts are missing"),
            event(EventKind.PRUNE_RESUMED, None, reason="The host list is plausible again"),
        ],
        "outage": [
            event(EventKind.UNREACHABLE, f"node{number:03}", since=_ago(minutes=10), **timeout) for number in range(300)
        ],
        "changes": [
            event(EventKind.REPLACED, "web01", 80, program="haproxy", details={"before": ["nginx"]}),
            event(
                EventKind.REBOUND,
                "web01",
                443,
                program="nginx",
                details={"addresses": ["0.0.0.0", "::"], "before": ["0.0.0.0"], "severe": False},
            ),
        ],
        "losses": [
            event(
                EventKind.REBOUND,
                "web01",
                443,
                program="nginx",
                severity=Severity.CRITICAL,
                details={"addresses": ["127.0.0.1"], "before": ["0.0.0.0"], "lost": ["0.0.0.0"], "severe": True},
            ),
            event(
                EventKind.FLAPPING,
                "web01",
                8080,
                program="java",
                severity=Severity.CRITICAL,
                details={"state": "down"},
                reason="4 changes between up and down since 2026-03-09 11:20:00 UTC",
            ),
            event(
                EventKind.STABLE,
                "web02",
                8080,
                program="java",
                severity=Severity.CRITICAL,
                details={"state": "down"},
                reason="It held still since 2026-03-09 11:00:00 UTC and is down",
            ),
        ],
        "hostile": [event(down, f"host {HOSTILE}", 80, program=HOSTILE, unit=HOSTILE)],
        "down-many": [
            event(down, f"web{host:02}", 8000 + port, program="java", since=_ago(minutes=1), last_seen=_ago(minutes=6))
            for host in range(60)
            for port in range(5)
        ],
        "recovered-untold": [
            alert(event(recovered, "web01", 8080, **nginx, since=_ago(minutes=10)), untold=True),
            alert(
                event(EventKind.UNWATCHED, "web03", 81, program="httpd", reason="A rule excludes it now"), untold=True
            ),
        ],
        "site-outage": [
            *_outage(EventKind.UNREACHABLE, 300, 300)[0],
            event(EventKind.UNREACHABLE, "web01", since=_ago(minutes=10), last_seen=_ago(minutes=15), **timeout),
        ],
        "site-outage-over": [
            *_outage(EventKind.REACHABLE, 300, 0)[0],
            event(EventKind.REBOOTED, "web02", reason="Its boot id changed"),
        ],
        "reminder": _going_on(),
        "hosts-left": [
            event(
                EventKind.RETIRED, f"web{number:02}", reason="Its host left the CMDB", details={"ends": "unreachable"}
            )
            for number in (1, 2)
        ],
        "host-left": [
            event(EventKind.RETIRED, "web03", reason="Its host left the CMDB", details={"ends": "unscanned"})
        ],
        "reminder-hosts": [_machines()[0], _machines()[2], _unscanned()[1], _flapping_hosts()[0]],
        "reminder-monitor": [_flapping_hosts()[2], _clock()[0], _clock()[2]],
        "reminder-owners": [*_owners(), *_crash_looping(), _hidden()[0]],
        "owners": _owners(),
        "owners-back": _owners_back(),
        "taken": _taken(),
        "crash-looping": _crash_looping(),
        "owners-hidden": _hidden(),
        "machines": _machines(),
        "unscanned": _unscanned(),
        "host-flapping": _flapping_hosts(),
        "clock": _clock(),
        "withdrawn": [
            event(EventKind.RETIRED, "web01", 8080, **nginx, reason=_DISCARDED, details={"discarded": True}),
            event(EventKind.RETIRED, "web02", reason=_DISCARDED, details={"discarded": True, "ends": "unreachable"}),
        ],
        "grouped": [
            event(down, "web01", 8080, **nginx, last_seen=_ago(minutes=5)),
            event(down, "web02", 8080, **nginx, last_seen=_ago(minutes=5)),
        ],
        "unwatched": [
            event(
                EventKind.UNWATCHED, "web01", 8080, **nginx, since=_ago(hours=2), reason="A deny rule excludes it now"
            )
        ],
        "overdue": [
            event(
                EventKind.RUN_OVERDUE,
                None,
                reason="The last run took 7 min, and the next was due after 5 min: scan in larger batches or less often",
            ),
        ],
    }


def _log_of(event: Event) -> str | None:
    if event.host_name in ("web01", "web02"):
        return "https://airflow.example.com/dags/portmon/runs/manual__2026-03-09T12%3A00/tasks/netstat/mapped/7"
    return None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", _cases())
def test_message_is_the_one_on_file(case: str, language: Language) -> None:
    """``UPDATE_MESSAGES=1 pytest tests/alerting/test_message.py`` writes the files anew: look at what changed."""
    message = say(*_cases()[case], language=language, max_lines=4, link=_log_of, **_given(case))
    for suffix, text in (
        ("txt", f"{message.title}\n\n{message.text}\n"),
        ("md", f"{message.markdown}\n"),
        ("html", f"{message.html}\n"),
    ):
        file = MESSAGES / f"{case}.{language}.{suffix}"
        if os.environ.get("UPDATE_MESSAGES"):
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")


def test_no_message_on_file_is_left_over() -> None:
    expected = {
        f"{case}.{language}.{suffix}" for case in _cases() for language in LANGUAGES for suffix in ("txt", "md", "html")
    }
    assert {file.name for file in MESSAGES.iterdir()} == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_row_of_the_catalogue_has_words(language: Language) -> None:
    """And no words are left over. Too many of one host are only a line, three outages only a count."""
    rows = [row for kind in EventKind for row in kind.rows if row.group]
    folded = {row.folded_as for row in rows} - {""}
    expected = {f"what_{name}" for name in {row.name for row in rows} | folded | {"many"}}
    expected |= {f"counted_{name}" for name in {row.counted_as or row.name for row in rows} | folded | {"outages"}}
    words = (BUILT_IN / f"{language}.j2").read_text(encoding="utf-8")
    assert set(re.findall(r"macro ((?:what|counted)_\w+)\(", words)) == expected


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind.usual.group])
def test_every_kind_has_words_of_its_own(kind: EventKind, language: Language) -> None:
    message = say(event(kind, port=80), language=language)
    assert "×" not in message.title
    assert f"— {kind.value.replace('_', ' ')} at 12:00" not in message.text
    assert f"— {kind.value.replace('_', ' ')}，12:00" not in message.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_kind_without_words_is_told_by_name_and_reason(language: Language) -> None:
    message = say(event(EventKind.BASELINE, reason="12 ports"), language=language)
    assert "baseline" in message.title
    assert "12 ports" in message.text


# ── order, limit, counts ────────────────────────────────────────────────────────────────────────


def _hosts(text: str) -> list[str]:
    return [line.split(" ")[0] for line in text.splitlines() if line and not line.startswith((" ", "…"))]


def test_worst_first_then_most_then_by_name_and_port() -> None:
    warning = {"severity": Severity.WARNING}
    message = say(
        event(EventKind.DOWN, "calm", 1, **warning),
        event(EventKind.DOWN, "calm", 2, **warning),
        event(EventKind.DOWN, "calm", 3, **warning),
        event(EventKind.DOWN, "b-one", 80),
        event(EventKind.DOWN, "a-one", 80),
        event(EventKind.DOWN, "two", 443),
        event(EventKind.DOWN, "two", 80),
    )
    lines = [" ".join(line.split(" ")[:2]) for line in message.text.splitlines()]
    assert lines == [
        "two tcp/80",
        "two tcp/443",
        "a-one tcp/80",
        "b-one tcp/80",
        "calm tcp/1",
        "calm tcp/2",
        "calm tcp/3",
    ]
    assert message.severity is Severity.CRITICAL


def test_order_does_not_depend_on_the_order_of_events() -> None:
    events = [event(EventKind.DOWN, host, port) for host in ("a", "b") for port in (1, 2, 3)]
    assert say(*events) == say(*reversed(events))


def test_hosts_of_one_name_are_not_mixed_up() -> None:
    events = [event(EventKind.DOWN, "web", port, host_id=f"id{port % 2}", id=str(port)) for port in (1, 2, 3)]
    ports = re.findall(r"tcp/(\d)", say(*events).text)
    assert ports == ["1", "3", "2"]
    assert "on 2 hosts" in say(*events).title


@pytest.mark.parametrize(
    ("limit", "rest"),
    [
        (1, ["… and 4 more on 3 hosts"]),
        (2, ["… and 3 more on 2 hosts"]),
        (3, ["… and 2 more on 2 hosts"]),
        (4, ["… and 1 more on 1 host"]),
        (5, []),
        (6, []),
    ],
)
def test_cut_counts_what_is_left(limit: int, rest: list[str]) -> None:
    ports = (("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2))
    message = say(*(event(EventKind.DOWN, host, port) for host, port in ports), max_lines=limit)
    assert _hosts(message.text) == ["a", "a", "c", "c", "b"][:limit]
    assert [line for line in message.text.splitlines() if line.startswith("…")] == rest
    assert message.title == "[portmon] 5 ports down on 3 hosts"
    assert message.html.count("tcp/") == min(limit, 5)


def test_without_alerts_there_is_no_message() -> None:
    with pytest.raises(ValueError, match="at least one alert"):
        render([], AlertGroup.DOWN, layout=Layout(), link=_log_of)


# ── times ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("last_seen", "shown"),
    [
        (_ago(minutes=5), "last seen 11:55"),
        (_ago(hours=13), "last seen 03-08 23:00"),
        (_ago(days=365), "last seen 2025-03-09 12:00"),
        (None, "12:00 UTC"),
    ],
)
def test_time_has_the_date_it_needs(last_seen: datetime | None, shown: str) -> None:
    assert say(event(EventKind.DOWN, port=1, last_seen=last_seen)).text.endswith(shown)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "down for 0 s"),
        (59, "down for 59 s"),
        (720.4, "down for 12 min"),
        (3599, "down for 1 h"),
        (3600, "down for 1 h"),
        (12_000, "down for 3 h 20 min"),
        (2 * 86_400 - 1, "down for 2 d"),
        (2 * 86_400 + 3 * 3600, "down for 2 d 3 h"),
    ],
)
def test_recovered_says_how_long_it_was_down(seconds: float, shown: str) -> None:
    assert say(event(EventKind.RECOVERED, port=1, details={"down_for": seconds})).text.endswith(shown)
    assert say(event(EventKind.RECOVERED, port=1, since=_ago(seconds=seconds))).text.endswith(shown)


# ── links ───────────────────────────────────────────────────────────────────────────────────────


def test_link_is_once_per_host_and_from_the_first_event_that_has_one() -> None:
    events = [event(EventKind.DOWN, port=port) for port in (1, 2, 3)]
    message = say(*events, link=lambda event: f"http://airflow/{event.port}" if event.port != 1 else None)
    assert message.text.count("http://airflow/") == 1
    assert "task log: http://airflow/2" in message.text
    assert re.findall(r'href="([^"]*)"', message.html) == ["http://airflow/2"]


def _page_of(event: Event) -> str:
    return f"http://airflow/portmon/hosts/{event.host_name}/ports/{event.port}"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_message_leads_to_the_page_of_its_port(language: Language) -> None:
    told = say(event(EventKind.DOWN, port=80), language=language, link=_log_of, page_of=_page_of)
    (address,) = told.pages
    assert address is not None
    assert address.endswith("/ports/80")
    assert address in told.text
    assert f"]({address})" in told.markdown
    assert told.html.count(f'href="{address}"') == 2
    assert told.links[0] in told.text


def test_a_host_with_several_ports_has_one_page_and_each_port_its_own() -> None:
    told = say(*(event(EventKind.DOWN, port=port) for port in (80, 443)), page_of=_page_of)
    host = str(told.pages[0]).partition("/ports/")[0]
    assert told.text.count("http://") == told.markdown.count("http://") == 1
    assert f"details: {host}\n" in f"{told.text}\n"
    assert re.findall(r'href="([^"]*)"', told.html) == [host, f"{host}/ports/80", f"{host}/ports/443"]


@pytest.mark.parametrize("address", ["javascript:alert(1)", 'http://a/" onclick="x', "http://a/ b"])
def test_what_is_no_plain_page_is_left_out(address: str) -> None:
    told = say(event(EventKind.DOWN, port=80), page_of=lambda _: address)
    assert told.pages == (None,)
    assert "details" not in told.text
    assert "href" not in told.html


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", 'http://a/" onclick="x', "http://a/ b", "http://a/\nx", "http://a/\u202e", "http://", ""],
)
def test_what_is_no_plain_link_is_left_out(address: str) -> None:
    message = say(event(EventKind.DOWN, port=1), link=lambda event: address)
    assert "task log" not in message.text
    assert "href" not in message.html


# ── hostile text ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nginx: master", "nginx: master"),
        ("数据库 – ñandú 🐘 \u3000", "数据库 – ñandú 🐘 \u3000"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31m\x00\x9b", r"\x1b[31m\x00\x9b"),
        ("a\u202eb\u2066\u200f\u061c", r"a\u202eb\u2066\u200f\u061c"),
        ("\u200b\u200d\ufeff\xad\u2060", r"\u200b\u200d\ufeff\xad\u2060"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\udcff\udc80\ud800", r"\xff\x80\ud800"),
        ("\U000e0041\U0010ffff", r"\U000e0041\U0010ffff"),
        ("\u3164\u2800", r"\u3164\u2800"),
        (r"dev-disk-by\x2duuid.device", r"dev-disk-by\x2duuid.device"),
        ("::group::x ::endgroup:: a::group", ": :group::x : :endgroup:: a::group"),
        ("##[group]x ##[endgroup]", "# #[group]x # #[endgroup]"),
        ("é::::group::\n", r"é::: :group::\n"),
    ],
)
def test_plain_shows_what_can_not_be_seen(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("abcde", "abcde"),
        ("abcdef", "abcd…"),
        ("abc\n", r"abc\n"),
        ("abcd\n", "abcd…"),
        ("ab\u202e", "ab…"),
        ("\u202e", "…"),
    ],
)
def test_plain_cuts_between_characters(text: str, shown: str) -> None:
    assert plain(text, 5) == shown


@given(st.text(st.characters(codec=None), max_size=300), st.integers(1, 150))
def test_plain_is_always_short_visible_and_encodable(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert len(shown) <= limit
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert shown.encode("utf-8") if text else shown == ""
    assert plain(shown, limit) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nginx: master", "nginx: master"),
        ("getty@tty1.service", "getty@tty1.service"),
        ("postgresql@14-main.service", "postgresql@14-main.service"),
        ("@everyone", "@ everyone"),
        ("x@here @alice", "x@ here @ alice"),
        ("<@U123> <!channel> <http://a|b>", "< @ U123> < !channel> < http: //a|b>"),
        ("[x](http://evil) ![y](//evil)", "[x] (http: //evil) ![y] (//evil)"),
        ("||hidden||", "| |hidden| |"),
        ("a < b > c", "a < b > c"),
    ],
)
def test_inert_takes_effects_from_text(text: str, shown: str) -> None:
    assert inert(text) == shown


class _Tags(HTMLParser):
    """The elements and attributes of a document, without what is between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.seen.append((f"/{tag}", ()))

    def handle_comment(self, data: str) -> None:
        self.seen.append(("comment", ()))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _everywhere(text: str) -> Sequence[Alert]:
    """An alert and an outage that have the text wherever a host or the CMDB could put it."""
    one = event(
        EventKind.UNREACHABLE,
        f"h{text}",
        80,
        program=f"p{text}",
        unit=f"u{text}",
        reason=f"r{text}",
        details={"error_class": f"e{text}", "addresses": [f"a{text}"]},
    )
    more = [
        replace(one, id=f"more{number}", host_id=f"folded{number}", port=None, program=None, unit=None)
        for number in range(2)
    ]
    return [alert(one), *(alert(folded) for folded in more)]


def _say_everywhere(text: str, language: Language) -> Message:
    alerts = _everywhere(text)
    outages = dict.fromkeys(("folded0", "folded1"), Outage(f"s{text}", 5, 5))
    return say(
        *alerts, language=language, link=lambda event: "http://log", page="http://page", subject=text, outages=outages
    )


NASTY = (
    HOSTILE,
    HOSTILE * 100,
    "A" * 4000,
    "</table><script>alert(1)</script>",
    "]]><!--",
    "{% raw %}",
    "{{ conn.x.password }}",
    "{{",
    "@everyone",
    "<!channel>",
    "<@U123>",
    "[x](http://evil.example)",
    "![](http://evil.example/x.png)",
    "[x]: http://evil.example",
    "[x][y]",
    "http://evil.example",
    "www.evil.example",
    "WWW.evil.example",
    "<http://evil.example>",
    "mailto:x@evil.example",
    "evil.example/login",
    "\n# heading",
    "# heading",
    "## heading",
    "- item",
    "+ item",
    "1. item",
    "> quote",
    "---",
    "===",
    "`code",
    "``` code",
    "~~gone~~",
    "**bold",
    "**",
    "*",
    "_",
    "__x__",
    "a_b_c",
    "a|b",
    "||hidden||",
    "\u202e\u2066",
    "\\",
    "\\\\",
    "\\*",
    "&lt;b&gt; &#42; &copy;",
    "$x$",
    "x\u3000",
    " x ",
    "@",
    "<",
)


@given(
    text=st.one_of(
        st.text(st.characters(codec=None), max_size=60),
        st.text(st.sampled_from("{}%#<>&\"'`@|[]()/:\\\n\x1b\u202e\u2028\udcff x*_~!-+=.1;$\u3000"), max_size=60),
        st.sampled_from(NASTY),
    ),
    language=st.sampled_from(LANGUAGES),
)
def test_hostile_text_changes_nothing_around_it(text: str, language: Language) -> None:
    _check_hostile(text, language)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_changes_nothing_around_it(text: str, language: Language) -> None:
    _check_hostile(text, language)


def _check_hostile(text: str, language: Language) -> None:
    message = _say_everywhere(text, language)
    tame = _say_everywhere("x", language)
    assert len(message.text.split("\n")) == len(message.text.splitlines()) == len(tame.text.splitlines())
    assert _Tags(message.html).seen == _Tags(tame.html).seen
    assert "\n" not in message.title
    assert len(message.title) <= TITLE_LIMIT
    assert len(message.text) <= 12 * VALUE_LIMIT + 2 * REASON_LIMIT + 300
    for part in (message.title, message.text, message.markdown, message.html):
        assert not {unicodedata.category(char) for char in part if char != "\n"} & {"Cc", "Cf", "Cs"}
    ours = message.text.replace("http://log", "").replace("http://page", "")
    assert not re.search(r"://|\]\(|<[^\s…]|(?<!\w)@[^\s…]", f"{message.title}\n{ours}")
    shown, effects = _markdown(message.markdown)
    assert effects == _markdown(tame.markdown)[1]
    for value in (f"h{text}", f"p{text}", f"u{text}"):
        assert inert(plain(value.strip())).strip() in shown


_GFM = MarkdownIt("gfm-like").enable("linkify")
_GFM.linkify.set({"fuzzy_link": False, "fuzzy_email": False, "fuzzy_ip": False})
_GFM.linkify.add("//", None)  # GitHub links no address without a scheme


def _markdown(source: str) -> tuple[str, list[str]]:
    """What is read, and the effects: every element, with its address."""
    shown: list[str] = []
    effects: list[str] = []
    for token in _GFM.parse(source):
        for one in token.children or [token]:
            if one.type in ("text", "text_special", "code_inline", "html_inline"):
                shown.append(one.content)
            if one.type not in ("text", "text_special"):
                effects.append(f"{one.type} {one.attrs.get('href', '')}{one.content if one.hidden else ''}")
    return "".join(shown), effects


@pytest.mark.parametrize("language", LANGUAGES)
def test_template_of_a_host_is_data(language: Language) -> None:
    message = say(*_everywhere(" {{ 7 * 7 }} {% raw %} {{ x.__class__ }} {{"), language=language)
    for part in (message.text, _markdown(message.markdown)[0], "".join(_Tags(message.html).words)):
        assert "{{ 7 * 7 }} {% raw %} {{ x.__class__ }} {{" in part
        assert "49" not in part


def test_what_has_no_program_is_said_so() -> None:
    for nothing in (None, "", "  "):
        message = say(event(EventKind.DOWN, port=80, program=nothing, unit=nothing))
        assert "web01 tcp/80 unknown program" in message.text
        assert message.title == "[portmon] 1 port down on web01: tcp/80"


# ── Markdown ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("node_exporter.service", "node_exporter.service"),
        ("db01.prod.example.com", "db01.prod.example.com"),
        ("nginx: master", "nginx: master"),
        ("-bash", "-bash"),
        ("[kworker/0:1]", r"\[kworker/0:1\]"),
        ("_x_", r"\_x\_"),
        (r"a\nb", r"a\nb"),
        ("a\\", "a\\\\"),
        ("www.example.com", r"www\.example.com"),
        ("# x", r"\# x"),
        ("1. x", r"1\. x"),
        ("a & b", "a & b"),
        ("&lt;", r"\&lt;"),
    ],
)
def test_markdown_escapes_what_has_an_effect_and_nothing_else(text: str, written: str) -> None:
    assert escape_markdown(text) == written


@given(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Zl", "Zp")), max_size=40),
        st.text(st.sampled_from("`*_{}[]<>()#+-.!|~\\&;$=1ax \u3000:/"), max_size=40),
        st.sampled_from(NASTY).map(lambda text: inert(plain(text))),
    )
)
def test_markdown_shows_a_line_as_it_is_wherever_it_stands(text: str) -> None:
    """Also at the start of a line and alone, where a template of the user's could put it."""
    # Without addresses, from which `inert` takes the effect, and which no escape keeps from being linked.
    text = inert(text).strip()
    for before, after in (("", ""), ("- **", "** y"), ("y ", " y"), ("(", ")")) if text else ():
        shown, effects = _markdown(before + escape_markdown(text) + after)
        tame, tame_effects = _markdown(f"{before}x{after}")
        assert effects == tame_effects
        assert shown == tame.replace("x", text)


def test_markdown_link_survives_what_an_address_may_hold() -> None:
    address = "https://airflow/dags/a_(b)_*c*/[x]?q=a|b;c&copy=1"
    message = say(event(EventKind.DOWN, port=1), link=lambda event: address)
    _, effects = _markdown(message.markdown)
    links = [effect for effect in effects if effect.startswith("link_open")]
    assert links == ["link_open https://airflow/dags/a_%28b%29_%2Ac%2A/%5Bx%5D?q=a%7Cb%3Bc&copy=1"]


# ── outages, reminders, subjects ────────────────────────────────────────────────────────────────


def _folded(*sites: str, kind: EventKind = EventKind.UNREACHABLE, unreachable: int = 6, hosts: int = 3) -> Message:
    events = [event(kind, f"{site}n{at}", since=_ago(minutes=10)) for site in sites for at in range(hosts)]
    outages = {f"id-{site}n{at}": Outage(site, 8, unreachable) for site in sites for at in range(hosts)}
    return say(*events, event(EventKind.HOST_KEY_CHANGED, "alone"), outages=outages, page=PAGE)


def test_outage_is_one_line_before_all_that_is_as_bad() -> None:
    message = _folded("dc1")
    assert message.text.splitlines()[0].startswith("dc1 — outage: 6 of 8 hosts unreachable, 3 of them since 11:50 UTC")
    assert message.text.splitlines()[1].startswith("alone — ")
    assert message.title == "[portmon] outage: 6 of 8 hosts of dc1 unreachable, host key changed on 1 host"
    assert [one.event.host_name for one in message.alerts] == ["dc1n0", "dc1n1", "dc1n2", "alone"]


def test_outage_comes_before_a_host_with_more_alerts_but_not_before_a_worse_one() -> None:
    outages = {"id-a": Outage("dc1", 5, 5), "id-b": Outage("dc1", 5, 5)}
    gone = [event(EventKind.UNREACHABLE, host) for host in "ab"]
    busy = [event(EventKind.HOST_KEY_CHANGED, "busy", id=str(number)) for number in range(9)]
    assert _hosts(say(*busy, *gone, outages=outages).text) == ["dc1", *["busy"] * 9]
    back = [event(EventKind.REACHABLE, host) for host in "ab"]
    assert _hosts(say(*busy, *back, outages=outages).text) == [*["busy"] * 9, "dc1"]


def test_many_outages_are_one_number_in_the_title() -> None:
    assert "3 outages: 18 of 24 hosts unreachable" in _folded("dc1", "dc2", "dc3").title
    assert "outage: 6 of 8 hosts of dc1 unreachable, outage: 6 of 8 hosts of dc2" in _folded("dc1", "dc2").title


def test_outage_that_is_partly_over_says_so() -> None:
    assert "3 hosts unreachable since 11:50 UTC, 2 of 8 by now" in _folded("dc1", unreachable=2).text
    text = _folded("dc1", kind=EventKind.REACHABLE, unreachable=2).text
    assert "dc1 — 3 of 8 hosts reachable again since 12:00 UTC, unreachable for 10 min, 2 still unreachable:" in text


def test_outage_says_why_hosts_fail_and_the_longest_time() -> None:
    events = [
        event(EventKind.UNREACHABLE, f"n{at}", details={"error_class": error})
        for at, error in enumerate(["timeout", "timeout", "refused", None])
    ]
    back = [event(EventKind.REACHABLE, f"n{at}", details={"unreachable_for": 600 * at}) for at in (1, 2)]
    outages = {f"id-n{at}": Outage("", 5, 5) for at in range(4)}
    text = say(*events, *back, outages=outages).text
    assert (
        "fleet — outage: 5 of 5 hosts unreachable, 4 of them since 12:00 UTC (timed out 2, connection refused 1): "
        in text
    )
    assert "unreachable for up to 20 min, 5 still unreachable: n1, n2" in text


def test_only_unreachable_and_reachable_are_folded() -> None:
    events = [event(EventKind.UNREACHABLE, "a"), event(EventKind.UNREACHABLE, "b"), event(EventKind.REBOOTED, "a")]
    outages = {"id-a": Outage("dc1", 5, 5), "id-b": Outage("dc1", 5, 5)}
    assert [line.split(" ")[0] for line in say(*events, outages=outages).text.splitlines()] == ["dc1", "a"]


def test_limit_counts_lines_and_the_rest_counts_alerts() -> None:
    events = [event(EventKind.UNREACHABLE, f"n{at}") for at in range(7)]
    outages = {f"id-n{at}": Outage("dc1", 5, 5) for at in range(5)}
    message = say(*events, outages=outages, max_lines=2)
    assert "… and 1 more on 1 host" in message.text
    outages = {f"id-n{at}": Outage(f"dc{at % 2}", 5, 5) for at in range(6)}
    assert "… and 4 more on 4 hosts" in say(*events, outages=outages, max_lines=1).text


def _crowd(*hosts: tuple[str, int, EventKind], run: str = "run1") -> list[Event]:
    return [
        event(kind, host, 1000 + number, run_id=run, program="java")
        for host, size, kind in hosts
        for number in range(size)
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_more_than_200_events_of_one_host_and_run_are_one_line(language: Language) -> None:
    flapping = _crowd(("web01", 5, EventKind.FLAPPING))
    told = [*_crowd(("web01", 196, EventKind.DOWN)), *flapping, event(EventKind.DOWN, "db01", 5432)]
    sent = say(*told, language=language, page=PAGE, link=lambda told: f"https://a.example/{told.host_name}")
    lines = sent.text.splitlines()
    assert len(lines) == 5  # the two hosts, each with its log, and the page
    assert "197" in sent.title
    assert {"196", "5"} <= set(re.findall(r"\d+", lines[0]))
    assert lines[1].endswith("https://a.example/web01")
    assert lines[2].startswith("db01 tcp/5432")
    assert lines[-1].endswith(PAGE)
    assert len(sent.alerts) == len(sent.links) == 202
    assert "java" not in sent.text + sent.markdown + sent.html
    assert "web01" in sent.html


def test_200_events_or_those_of_two_runs_are_listed_each() -> None:
    few = say(*_crowd(("web01", 200, EventKind.DOWN)), max_lines=500)
    assert len(few.text.splitlines()) == 200
    two = [*_crowd(("web01", 150, EventKind.DOWN)), *_crowd(("web01", 150, EventKind.NEW), run="run2")]
    assert len(say(*two, max_lines=500).text.splitlines()) == 300
    hosts = [*_crowd(("web01", 150, EventKind.DOWN), ("web02", 150, EventKind.DOWN))]
    assert len(say(*hosts, max_lines=500).text.splitlines()) == 300


def test_a_message_can_be_had_with_fewer_lines() -> None:
    sent = say(*(event(EventKind.DOWN, f"web{number:02}", 80) for number in range(60)), page=PAGE)
    assert sent.lines == 50
    assert sent.cut is not None
    assert sent.cut(50).text == sent.text
    short = sent.cut(2)
    assert short.text.splitlines()[-1] == f"… and 58 more on 58 hosts: {PAGE}"
    assert (short.title, len(short.text.splitlines())) == (sent.title, 3)


def test_page_is_shown_only_if_something_is_not() -> None:
    events = [event(EventKind.DOWN, port=port) for port in (1, 2)]
    for message, times in ((say(*events, page=PAGE), 0), (say(*events, page=PAGE, max_lines=1), 1)):
        assert message.text.count(PAGE) == message.markdown.count(PAGE) == times
        assert re.findall(r'href="([^"]*)"', message.html) == [PAGE.replace("&", "&amp;")] * times
    assert "script" not in say(*events, page="javascript:alert(1)//script", max_lines=1).html


def test_alerts_and_links_are_in_the_order_of_the_lines_beyond_the_limit_too() -> None:
    events = [event(EventKind.DOWN, host, port) for host, port in (("a", 2), ("a", 1), ("b", 1), ("c", 1))]
    message = say(
        *events, max_lines=1, link=lambda event: f"http://log/{event.host_name}" if event.host_name != "b" else None
    )
    assert [(one.event.host_name, one.event.port) for one in message.alerts] == [("a", 1), ("a", 2), ("b", 1), ("c", 1)]
    assert message.links == ("http://log/a", "http://log/a", None, "http://log/c")
    assert (message.group, message.reminder) == (AlertGroup.DOWN, False)


def test_reminder_says_still_and_the_date() -> None:
    message = say(*_going_on(), reminder=True)
    assert message.reminder
    assert message.title.startswith("[portmon] still: 2 ports down")
    assert "still down since 03-09 10:00 UTC" in message.text


def test_subject_is_in_the_title() -> None:
    message = say(event(EventKind.DOWN, port=1), subject="team-a")
    assert message.title == "[portmon] team-a: 1 port down on web01: tcp/1"
    message = say(*_going_on(), subject="t" * 90, reminder=True)
    assert message.title.startswith(f"[portmon] {'t' * 39}…, still: 2 ports down, 1 port flapping on 2 hosts")


def test_the_document_names_every_field() -> None:
    text = (MESSAGES.parents[2] / "docs" / "messages.md").read_text(encoding="utf-8")
    for name, view in (("view", MessageView), ("line", MessageLine)):
        columns = "".join(re.findall(rf"^\| (`{name}\..*?) \|", text, flags=re.M))
        assert set(re.findall(rf"`{name}\.(\w+)`", columns)) == {field.name for field in fields(view)}
    for row, inner in (("view.counts", Count), ("view.listed", MessageHost), ("line.site", Site)):
        (said,) = re.findall(rf"^\| `{row}` \| (.*) \|$", text, flags=re.M)
        assert {field.name for field in fields(inner)} <= set(re.findall(r"`(\w+)`", said))


# ── templates of the user's own ─────────────────────────────────────────────────────────────────


def test_own_macro_is_used_wherever_the_built_in_one_was(tmp_path: Path) -> None:
    (tmp_path / "en.j2").write_text(
        '{% import "builtin/en.j2" as builtin %}\n'
        "{% macro number(count, noun) %}«{{ count }}» {{ noun }}{% endmacro %}\n"
        "{% macro what(line) %}{{ 'gone' if line.kind == 'down' else builtin.what(line) }}{% endmacro %}\n"
    )
    message = say(event(EventKind.DOWN, port=1), event(EventKind.FLAPPING, port=2), templates=tmp_path)
    assert message.title == "[portmon] «1» port down, «1» port flapping on web01"
    assert "tcp/1 unknown program — gone" in message.text
    assert "flapping since" in message.html
    assert "«1» port down" in message.html
    assert say(event(EventKind.DOWN, port=1), language="zh", templates=tmp_path).title.startswith("[portmon] 1 个端口")


def test_own_words_for_one_kind_take_one_macro(tmp_path: Path) -> None:
    (tmp_path / "en.j2").write_text(
        '{% import "builtin/en.j2" as builtin %}\n'
        "{% macro what_down(line) %}DEAD: {{ builtin.what_down(line) }}{% endmacro %}\n"
        "{% macro counted_flapping(count) %}{{ count.events }} flap{% endmacro %}\n"
    )
    message = say(event(EventKind.DOWN, "<web>", 1), event(EventKind.FLAPPING, "<web>", 2), templates=tmp_path)
    assert message.title == "[portmon] 1 port down, 1 flap on < web>"
    assert "— DEAD: down since 12:00 UTC" in message.text
    assert "DEAD: down since 12:00 UTC" in message.html
    assert "&lt;web&gt;" in message.html
    assert check_templates(tmp_path) == []


def test_own_body_builds_on_the_built_in_one(tmp_path: Path) -> None:
    for name in ("message.txt.j2", "message.md.j2", "message.html.j2"):
        (tmp_path / name).write_text(
            f'{{% extends "builtin/{name}" %}}{{% block foot %}}runbook for {{{{ view.first.host }}}}{{% endblock %}}'
        )
    message = say(event(EventKind.DOWN, "<web>", 1), templates=tmp_path)
    assert message.text.endswith("runbook for < web>")
    assert message.markdown.endswith(r"runbook for \< web>")
    assert "runbook for &lt;web&gt;" in message.html
    assert "down since" in message.text


BROKEN = [
    ("message.txt.j2", "one\n{% if %}", 2, "Expected an expression"),
    ("message.md.j2", "one\ntwo {{ view.nothing }}", 2, "nothing"),
    ("message.html.j2", "{{ view.first.__class__.__mro__ }}", 1, "__class__"),
    ("message.txt.j2", "{{ 1 / 0 }}", 1, "division by zero"),
    ("message.txt.j2", '\n\n{% include "no.j2" %}', 3, "no.j2"),
    ("message.txt.j2", "{# says nothing #}", None, "message.txt.j2 says nothing"),
    ("en.j2", "{% macro title(view) %}\n{{ view.hosts + 'x' }}{% endmacro %}", 2, "unsupported operand"),
    ("en.j2", "\n{% macro what(line, more) %}{{ more.x }}{% endmacro %}", 2, "more"),
    ("en.j2", "{% macro title(view) %}{% endmacro %}", None, "title says nothing"),
    ("en.j2", "{{ say.title(say) }}", 1, "subject"),
    ("en.j2", "{% macro owner() %}{% endmacro %}", None, "takes not more than 0"),
    ("message.txt.j2", b"\xff\xfe", None, "utf-8"),
]


@pytest.mark.parametrize(("name", "source", "line", "why"), BROKEN)
def test_no_alert_is_lost_to_a_template(
    name: str, source: str | bytes, line: int | None, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / name
    file.write_bytes(source.encode() if isinstance(source, str) else source)
    told = event(EventKind.DOWN, port=1, program="nginx")
    assert say(told, templates=tmp_path) == say(told)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert (f"{file}:{line}: " if line else str(tmp_path)) in record.getMessage()
    assert why in record.getMessage()
    assert "built-in templates are used" in record.getMessage()
    assert any((f"{file}:{line}: " if line else str(tmp_path)) in found for found in check_templates(tmp_path))


def test_folder_that_is_not_there_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = event(EventKind.DOWN, port=1)
    assert say(told, templates=tmp_path / "no") == say(told)
    assert f"{tmp_path / 'no'}: there is no such folder" in caplog.text
    assert check_templates(tmp_path / "no") == [
        f"{tmp_path / 'no'}: there is no such folder; create it, or take `alerts.templates` out"
    ]


def test_good_templates_have_no_problems(tmp_path: Path) -> None:
    assert check_templates(tmp_path) == []
    (tmp_path / "README.md").write_text("no template")
    (tmp_path / "foot.j2").write_text("runbook")
    (tmp_path / "message.txt.j2").write_text(
        '{% extends "builtin/message.txt.j2" %}{% block foot %}{% include "foot.j2" %}{% endblock %}'
    )
    assert check_templates(tmp_path) == []


def test_check_names_files_that_nothing_uses(tmp_path: Path) -> None:
    (tmp_path / "message.text.j2").write_text("x")
    (tmp_path / "message.md").write_text("x")
    (tmp_path / "other.j2").write_text("x")
    (tmp_path / "zh.j2").write_text('{% import "builtin/zn.j2" as builtin %}')
    assert check_templates(tmp_path) == [
        f"{tmp_path}/zh.j2:1: there is no template 'builtin/zn.j2'; did you mean 'builtin/zh.j2'?",
        f"{tmp_path}/message.md: nothing uses a template of this name; did you mean 'message.md.j2'?",
        f"{tmp_path}/message.text.j2: nothing uses a template of this name; did you mean 'message.txt.j2'?",
        f"{tmp_path}/other.j2: nothing uses a template of this name; the names are en.j2, zh.j2, message.txt.j2, "
        "message.md.j2, message.html.j2",
    ]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.full] if at % 5 else [])
        for at, kind in enumerate(kind for kind in EventKind if kind.usual.group)
    ],
)
def test_check_renders_every_kind(kind: EventKind, tmp_path: Path) -> None:
    (tmp_path / "zh.j2").write_text(
        '{% import "builtin/zh.j2" as builtin %}{% macro what(line) %}'
        f"{{{{ line.nope if line.kind == '{kind}' else builtin.what(line) }}}}{{% endmacro %}}"
    )
    (problem,) = check_templates(tmp_path)
    assert problem.startswith(f"{tmp_path}/zh.j2:1: ")


@pytest.mark.parametrize(
    "condition",
    [
        "view.more",
        "view.reminder",
        "view.subject",
        "view.first.kind == 'outage'",
        "view.first.kind == 'outage_over'",
        "view.first.kind == 'many'",
    ],
)
def test_check_renders_every_shape(condition: str, tmp_path: Path) -> None:
    (tmp_path / "message.html.j2").write_text(f"x{{{{ view.nope if {condition} }}}}")
    assert len(check_templates(tmp_path)) == 1


@pytest.mark.parametrize("character", ["e\u0301", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "नि", "x\ufe0f"])
def test_no_character_is_cut_in_the_middle(character: str) -> None:
    for before in ("", "a"):
        text = before + character * 20
        for limit in range(4, len(text)):
            kept = plain(text, limit)
            assert len(kept) <= limit
            assert kept.endswith("…")
            assert kept.removeprefix(before)[:-1] == character * (len(kept[:-1]) // len(character))
    joined = "\u200d".join("👩💻")
    assert [whole(joined * 3, size) for size in range(10)] == [0, 1, 2, 3, 3, 3, 6, 6, 6, 9]


def test_a_letter_with_very_many_marks_is_cut_anywhere() -> None:
    assert plain("a" + "\u0301" * 500, 100) == "a" + "\u0301" * 98 + "…"
