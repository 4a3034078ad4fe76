"""What alerts say, and that nothing from a host can change more of them than its own name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.models import AlertGroup, Event, EventKind, Severity, alert_group, severity_of
from portmon.render import REASON_LIMIT, TITLE_LIMIT, VALUE_LIMIT, Language, Message, inert, plain, render

MESSAGES = Path(__file__).parents[1] / "fixtures" / "messages"
LANGUAGES = get_args(Language)
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
        "severity": severity_of(kind, {}),
    }
    return Event(**{**values, **given})


def say(
    *events: Event,
    language: Language = "en",
    max_lines: int = 50,
    link: Callable[[Event], str | None] = lambda event: None,
) -> Message:
    return render(
        events, alert_group(events[0].kind, events[0].details), language=language, max_lines=max_lines, link=link
    )


# ── every message as a file ─────────────────────────────────────────────────────────────────────


def _ago(**time: float) -> datetime:
    return NOON - timedelta(**time)


def _cases() -> Mapping[str, Sequence[Event]]:
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
    }


def _log_of(event: Event) -> str | None:
    if event.host_name in ("web01", "web02"):
        return "https://airflow.example.com/dags/portmon/runs/manual__2026-03-09T12%3A00/tasks/netstat/mapped/7"
    return None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", _cases())
def test_message_is_the_one_on_file(case: str, language: Language) -> None:
    """``UPDATE_MESSAGES=1 pytest tests/unit/test_render.py`` writes the files anew: look at what changed."""
    message = say(*_cases()[case], language=language, max_lines=4, link=_log_of)
    for suffix, text in (("txt", f"{message.title}\n\n{message.text}\n"), ("html", f"{message.html}\n")):
        file = MESSAGES / f"{case}.{language}.{suffix}"
        if os.environ.get("UPDATE_MESSAGES"):
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")


def test_no_message_on_file_is_left_over() -> None:
    expected = {
        f"{case}.{language}.{suffix}" for case in _cases() for language in LANGUAGES for suffix in ("txt", "html")
    }
    assert {file.name for file in MESSAGES.iterdir()} == expected


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", [kind for kind in EventKind if alert_group(kind, {})])
def test_every_kind_has_words_of_its_own(kind: EventKind, language: Language) -> None:
    message = say(event(kind, port=80), language=language)
    assert "×" not in message.title
    assert f"— {kind.value.replace('_', ' ')} at 12:00" not in message.text
    assert f"— {kind.value.replace('_', ' ')}，12:00" not in message.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_kind_without_words_is_told_by_name_and_reason(language: Language) -> None:
    message = render(
        [event(EventKind.BASELINE, reason="12 ports")], AlertGroup.NEW, language=language, max_lines=9, link=_log_of
    )
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


def test_without_events_there_is_no_message() -> None:
    with pytest.raises(ValueError, match="at least one event"):
        render([], AlertGroup.DOWN, language="en", max_lines=1, link=_log_of)


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


def _everywhere(text: str) -> Event:
    return event(
        EventKind.UNREACHABLE,
        f"h{text}",
        80,
        program=f"p{text}",
        unit=f"u{text}",
        reason=f"r{text}",
        details={"error_class": f"e{text}", "addresses": [f"a{text}"]},
    )


_TAME = {language: say(_everywhere(""), language=language) for language in LANGUAGES}


@given(
    text=st.one_of(
        st.text(st.characters(codec=None), max_size=60),
        st.text(st.sampled_from("{}%#<>&\"'`@|[]()/:\\\n\x1b\u202e\u2028\udcff x"), max_size=60),
        st.sampled_from((HOSTILE, HOSTILE * 100, "A" * 4000, "</table><script>", "]]><!--", "{% raw %}")),
    ),
    language=st.sampled_from(LANGUAGES),
)
def test_hostile_text_changes_nothing_around_it(text: str, language: Language) -> None:
    message = say(_everywhere(text), language=language)
    tame = _TAME[language]
    assert len(message.text.split("\n")) == len(message.text.splitlines()) == len(tame.text.splitlines())
    assert _Tags(message.html).seen == _Tags(tame.html).seen
    assert "\n" not in message.title
    assert len(message.title) <= TITLE_LIMIT
    assert len(message.text) <= 3 * (2 * VALUE_LIMIT) + 2 * REASON_LIMIT + 200
    for part in (message.title, message.text, message.html):
        assert not {unicodedata.category(char) for char in part if char != "\n"} & {"Cc", "Cf", "Cs"}
    assert not re.search(r"://|\]\(|<[^\s…]|(?<!\w)@[^\s…]", f"{message.title}\n{message.text}")


@pytest.mark.parametrize("language", LANGUAGES)
def test_template_of_a_host_is_data(language: Language) -> None:
    message = say(_everywhere(" {{ 7 * 7 }} {% raw %} {{ view.__class__ }} {{"), language=language)
    for part in (message.title, message.text, "".join(_Tags(message.html).words)):
        assert "{{ 7 * 7 }} {% raw %} {{ view.__class__ }} {{" in part
        assert "49" not in part


def test_what_has_no_program_is_said_so() -> None:
    for nothing in (None, "", "  "):
        message = say(event(EventKind.DOWN, port=80, program=nothing, unit=nothing))
        assert "web01 tcp/80 unknown program" in message.text
        assert message.title == "[portmon] 1 port down on web01: tcp/80"
