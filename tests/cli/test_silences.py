"""``portmon silence``, ``unsilence``, ``silences``, ``ack``, ``unack`` and ``alerts``."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from portmon.model.event_kinds import EventKind
from portmon.storage import silences
from tests.worlds.alerts import list_hosts, open_alert
from tests.worlds.shell import Shell

NASTY = "[red]\x1b[31m\u202eevil\n{{ conn.x.password }}[/]"
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


class Silences(Shell):
    """Commands on the state of three hosts."""

    def fill(self) -> None:
        with self.database.begin() as conn:
            list_hosts(conn, NASTY, left_at=NOW)

    def open(self, number: int, host: str, name: str, port: int | None, kind: EventKind = EventKind.DOWN) -> str:
        """An alert that the channel ``mail`` was told of."""
        with self.database.begin() as conn:
            return open_alert(
                conn,
                number,
                NOW - HOUR,
                host=host,
                name=name,
                port=port,
                kind=kind,
                program=None if port is None else NASTY,
                labels={"role": "web"} if host != "3" else {},
                channels={"mail": "delivered" if number % 2 else "expired"},
                error=NASTY,
            )

    def kept(self) -> list[Any]:
        with self.database.begin() as conn:
            return silences.all_(conn)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code, out, err = super().__call__(*arguments)
        # Errors in arguments come in a box.
        return code, out, re.sub(r"[\s│]+", " ", err)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Silences]:
    # Rows that stand on one line.
    monkeypatch.setenv("COLUMNS", "250")
    with closing(Silences(tmp_path, capsys, monkeypatch)) as made:
        made.fill()
        yield made


# ── silence ────────────────────────────────────────────────────────────────────────────────────────


def test_a_silence_says_what_it_does(shell: Silences) -> None:
    shell.open(1, "1", "web1", 80)
    shell.open(2, "1", "web1", 22)
    shell.open(3, "3", "db1", 80)
    code, out, err = shell(
        "silence", "--host", "WEB*", "--host", "x", "--label", "role=web", "--label", "role=db", "--port", "80,443",
        "--port", "8000-8100", "--for", "2h", "--reason", "updates",
    )  # fmt: skip
    assert (code, err) == (0, "")
    (made,) = shell.kept()
    assert (made.hosts, made.labels, made.ports) == (
        ("WEB*", "x"),
        {"role": ("web", "db")},
        ((80, 80), (443, 443), (8000, 8100)),
    )
    assert (made.author, made.reason, made.timezone, made.weekly) == (getpass.getuser(), "updates", "UTC", ())
    assert made.ends_at - made.starts_at == 2 * HOUR
    assert out.splitlines()[1:] == [
        f"silence 1: host WEB*|x and label role=web|db and port 80,443,8000-8100; until {made.ends_at:%Y-%m-%d %H:%M} UTC",
        "known hosts that match: 1 of 3",
        "open alerts that it withholds now: 1",
        f"  web1 port 80: down since {NOW - HOUR:%Y-%m-%d %H:%M} UTC",
    ]


def test_a_silence_that_begins_later(shell: Silences) -> None:
    shell.open(1, "1", "web1", 80)
    start, end = NOW + 24 * HOUR, NOW + 30 * HOUR
    _, out, _ = shell(
        "silence",
        "--host",
        "*",
        "--from",
        start.isoformat(),
        "--until",
        end.isoformat(),
        "--reason",
        "r",
        "--author",
        "ann",
    )
    (made,) = shell.kept()
    assert (made.starts_at, made.ends_at, made.author) == (start, end, "ann")
    assert f"open alerts that it would withhold (next: {start:%Y-%m-%d %H:%M} UTC): 1" in out
    assert "known hosts that match: 3 of 3" in out


def test_times_without_an_offset_are_those_of_the_time_zone(shell: Silences) -> None:
    arguments = ("silence", "--program", "nginx", "--reason", "r")
    shell(*arguments, "--from", "2090-07-01T02:00", "--until", "2090-07-02", "--timezone", "Asia/Shanghai")
    shell(*arguments, "--from", "2090-07-01T02:00", "--for", "1h 30m")
    shell(*arguments, "--until", "2090-07-01T02:00+05:00", "--timezone", "Asia/Shanghai")
    times = [(one.starts_at.isoformat(), one.ends_at.isoformat()) for one in shell.kept()]
    assert times[0] == ("2090-06-30T18:00:00+00:00", "2090-07-01T16:00:00+00:00")
    assert times[1] == ("2090-07-01T02:00:00+00:00", "2090-07-01T03:30:00+00:00")
    assert times[2][1] == "2090-06-30T21:00:00+00:00"


def test_a_weekly_silence_needs_no_end(shell: Silences) -> None:
    weekly = ("Sun 02:00-04:00", "Mon-Fri 22:00-06:00")
    code, out, _ = shell(
        "silence", "--label", "role=web", "--weekly", weekly[0], "--weekly", weekly[1], "--timezone", "Europe/Berlin",
        "--reason", "backups",
    )  # fmt: skip
    assert code == 0
    assert shell.kept()[0].weekly == weekly
    assert "silence 1: label role=web; Sun 02:00-04:00, Mon-Fri 22:00-06:00 Europe/Berlin" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--for", "1h"), "a silence needs a host, a label, a port or a program; host '*' is everything"),
        (("--host", "*"), "a silence needs an end or a weekly schedule"),
        (("--host", " ", "--for", "1h"), "an empty glob matches nothing"),
        (("--host", "*", "--for", "1h", "--until", "2090-01-01"), "give --until or --for, not both"),
        (("--host", "*", "--until", "2001-01-01"), "2001-01-01 (2001-01-01 00:00 UTC) is in the past"),
        (("--host", "*", "--from", "2001-01-01", "--for", "1h"), "is in the past"),
        (("--host", "*", "--from", "2090-01-02", "--until", "2090-01-01"), "a silence must end after it begins"),
        (("--host", "*", "--until", "tomorrow"), "'tomorrow' is no time: give ISO 8601"),
        (("--host", "*", "--for", "long"), "'long' is not a duration"),
        (("--host", "*", "--for", "0"), "must be longer than 0"),
        (("--host", "*", "--for", "9999999999w"), "nor longer than 300 years"),
        (("--host", "*", "--until", "9999-12-31T23:59-23:59"), "is too far away"),
        (("--host", "*", "--weekly", "Sunday"), "'Sunday' is no weekly schedule"),
        (("--host", "*", "--for", "1h", "--timezone", "Berlin"), "'Berlin' is no time zone"),
        (("--port", "0", "--for", "1h"), "'0' is no port"),
        (("--label", "role", "--for", "1h"), "'role' is no label: give NAME=VALUE"),
        (("--host", "*", "--for", "1h", "--reason", " "), "say why"),
    ],
)
def test_what_is_no_silence(shell: Silences, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = shell("silence", "--reason", "r", *arguments)
    assert code == 2
    assert message in err
    assert shell.kept() == []


def test_a_silence_needs_a_reason(shell: Silences) -> None:
    code, _, err = shell("silence", "--host", "*", "--for", "1h")
    assert code == 2
    assert "--reason" in err


def test_a_schedule_that_does_not_come_round(shell: Silences) -> None:
    day = f"{NOW + 72 * HOUR:%a}"
    code, _, err = shell("silence", "--host", "*", "--weekly", f"{day} 02:00-04:00", "--for", "1h", "--reason", "r")
    assert code == 1
    assert "the weekly schedule does not come round before the end; nothing is silenced" in err
    assert shell.kept() == []


# ── silences, unsilence ───────────────────────────────────────────────────────────────────────────────


def test_silences_lists_what_counts_and_what_will(shell: Silences) -> None:
    begun = datetime.now(UTC).replace(second=0, microsecond=0)
    shell("silence", "--host", "web*", "--for", "2h", "--reason", "one", "--author", "ann")
    made = datetime.now(UTC)
    shell(
        "silence", "--port", "22", "--from", "2090-01-01", "--until", "2090-01-02", "--reason", "two", "--author", "ann"
    )
    shell("silence", "--host", "x", "--for", "2h", "--reason", "three", "--author", "ann")
    assert shell("unsilence", "3", "--author", "bob")[:2] == (0, f"database {shell.database}\nsilence 3 is lifted\n")
    rows = [re.split(r" {2,}", line.strip()) for line in shell("silences")[1].splitlines()[2:]]
    assert [row[:2] + row[3:] for row in rows] == [
        ["1", "host web*", "active", "ann", "one"],
        ["2", "port 22", "next: 2090-01-01 00:00 UTC", "ann", "two"],
    ]
    until = datetime.strptime(rows[0][2], "until %Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
    assert begun + 2 * HOUR <= until <= made + 2 * HOUR
    (third,) = (line for line in shell("silences", "--all")[1].splitlines() if "three" in line)
    assert "was lifted by bob at" in third


def test_silences_as_json(shell: Silences) -> None:
    shell("silence", "--label", f"a={NASTY}", "--port", "1-2", "--for", "2h", "--reason", NASTY, "--author", NASTY)
    shell("silence", "--host", "a", "--from", "2090-01-01", "--until", "2090-01-02", "--reason", "r")
    code, out, err = shell("silences", "--format", "json")
    assert (code, err) == (0, "")
    assert out.isascii()
    first, second = json.loads(out)
    assert (first["labels"], first["ports"], first["author"], first["reason"]) == (
        {"a": [NASTY]},
        ["1-2"],
        NASTY,
        NASTY,
    )
    assert (first["state"], first["active"], first["next"]) == ("active", True, None)
    assert (second["active"], second["next"]) == (False, "2090-01-01T00:00:00+00:00")


def test_what_can_not_be_lifted(shell: Silences) -> None:
    assert shell("unsilence", "7")[::2] == (1, "error: there is no silence 7 ")
    shell("silence", "--host", "web*", "--for", "2h", "--reason", "r")
    shell("unsilence", "1", "--author", "bob")
    code, _, err = shell("unsilence", "1")
    assert code == 1
    assert err.startswith("error: silence 1 was lifted by bob at ")
    for wrong in ("0", "x", "99999999999999999999"):
        assert shell("unsilence", wrong)[0] == 2


# ── ack, unack ──────────────────────────────────────────────────────────────────────────────────


def test_acknowledge_a_port(shell: Silences) -> None:
    number = shell.open(1, "1", "web1", 80)
    shell.open(2, "1", "web1", 22)
    code, out, err = shell("ack", "WEB1", "80", "--reason", "on it", "--author", "bob")
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "web1 port 80: down is acknowledged until it is over (silence 1)"
    (made,) = shell.kept()
    assert (made.alert_id, made.ends_at, made.author, made.reason) == (number, None, "bob", "on it")
    (line,) = shell("silences")[1].splitlines()[2:]
    assert re.split(r" {2,}", line.strip()) == [
        "1",
        "down of web1 port 80",
        "until it is over",
        "active",
        "bob",
        "on it",
    ]
    out = shell("unack", "web1", "80", "--author", "ann")[1]
    assert out.splitlines()[1] == "web1 port 80: no longer acknowledged"
    assert shell.kept()[0].lifted_by == "ann"
    code, _, err = shell("unack", "web1", "80")
    assert (code, err) == (1, "error: web1 port 80: no open alert there is acknowledged ")


def test_acknowledge_for_some_time(shell: Silences) -> None:
    shell.open(1, "1", "web1", 80)
    _, out, _ = shell("ack", "1", "80", "--for", "2h")
    first, end = shell.kept()[0], shell.kept()[0].ends_at
    assert end - first.created_at == 2 * HOUR
    assert f"is acknowledged until {end:%Y-%m-%d %H:%M} UTC, or until it is over" in out
    shell("ack", "1", "80", "--until", "2090-01-01")
    assert [one.lifted_at is None for one in shell.kept()] == [False, True]


def test_acknowledge_what_is_wrong_with_a_host(shell: Silences) -> None:
    shell.open(1, "1", "web1", 80)
    unreachable = shell.open(2, "1", "web1", None, EventKind.UNREACHABLE)
    key = shell.open(3, "1", "web1", None, EventKind.HOST_KEY_CHANGED)
    out = shell("ack", "web1")[1]
    assert out.splitlines()[1:] == [
        "web1: unreachable is acknowledged until it is over (silence 1)",
        "web1: host_key_changed is acknowledged until it is over (silence 2)",
    ]
    assert [one.alert_id for one in shell.kept()] == [unreachable, key]


@pytest.mark.parametrize("command", ["ack", "unack"])
def test_where_nothing_is_open(shell: Silences, command: str) -> None:
    assert shell(command, "db1")[::2] == (1, "error: db1: no alert is open ")
    shell.open(1, "1", "web1", 80)
    shell.open(2, "1", "web1", None, EventKind.UNREACHABLE)
    shell.open(3, "3", "db1", 22)
    told = "error: web1 port 22: no alert is open; open there: down of port 80, unreachable of the host itself "
    assert shell(command, "web1", "22")[::2] == (1, told)
    assert shell(command, "db1")[::2] == (1, "error: db1: no alert is open; open there: down of port 22 ")
    assert "no host has the name or id 'web9'" in shell(command, "web9")[2]
    assert shell.kept() == []


# ── alerts ──────────────────────────────────────────────────────────────────────────────────────


def test_alerts(shell: Silences) -> None:
    shell.open(1, "1", "web1", 80)
    shell.open(3, "3", "db1", None, EventKind.UNREACHABLE)
    shell("ack", "db1", "--author", "bob")
    code, out, err = shell("alerts")
    assert (code, err) == (0, "")
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()[2:]]
    since = f"{NOW - HOUR:%Y-%m-%d %H:%M} UTC"
    program = "[red]\\x1b[31m\\u202eevil\\n{{ conn.x.password }}[/]"
    assert rows == [
        [since, "web1", "80", program, "down", "critical", "mail: delivered", "-"],
        [since, "db1", "-", "-", "unreachable", "critical", "mail: delivered", "acknowledged by bob"],
    ]


def test_alerts_as_json(shell: Silences) -> None:
    number = shell.open(2, "2", NASTY, 80)
    shell("silence", "--host", "*", "--for", "2h", "--reason", NASTY, "--author", "ann")
    code, out, err = shell("alerts", "--format", "json")
    assert (code, err) == (0, "")
    assert out.isascii()
    (one,) = json.loads(out)
    told = one["withheld"].pop("told")
    assert one == {
        "id": number,
        "since": (NOW - HOUR).isoformat(),
        "host_id": "2",
        "host": NASTY,
        "protocol": "tcp",
        "port": 80,
        "program": NASTY,
        "unit": None,
        "kind": "down",
        "severity": "critical",
        "reason": "",
        "told": [{"channel": "mail", "route": "default", "state": "expired", "reason": NASTY}],
        "withheld": {"silence": 1, "acknowledged": False},
    }
    assert told.startswith("silenced by ann until ")
    from portmon.cli.alerts import list_alerts

    names = set(re.findall(r"`(\w+)`", str(list_alerts.__doc__)))
    assert names == {*one, *one["told"][0], *one["withheld"], "told"}


# ── all of them ─────────────────────────────────────────────────────────────────────────────────


def test_hostile_text_is_harmless(shell: Silences) -> None:
    shell.open(2, "2", NASTY, 80)
    said = [
        shell("silence", "--host", NASTY, "--program", NASTY, "--for", "1h", "--reason", NASTY, "--author", NASTY),
        shell("silence", "--label", "role=web", "--for", "1h", "--reason", NASTY, "--author", NASTY),
        shell("silences"),
        shell("ack", "2", "80", "--reason", NASTY, "--author", NASTY),
        shell("silences"),
        shell("alerts"),
        shell("ack", "2", "81"),
        shell("unack", "2", "80", "--author", NASTY),
        shell("unsilence", "1", "--author", NASTY),
        shell("unsilence", "1"),
        shell("silences", "--all"),
    ]
    assert [code for code, _, _ in said] == [0] * 6 + [1, 0, 0, 1, 0]
    shown = "[red]\\x1b[31m\\u202eevil\\n{{ conn.x.password }}[/]"
    assert f"{shown} port 80: down since" in said[1][1]
    assert shown in said[2][1]
    assert "silenced by [red]\\x1b[31m" in said[5][1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("silence", "--host", "*", "--for", "1h", "--reason", "r"),
        ("unsilence", "1"),
        ("silences",),
        ("ack", "w"),
        ("unack", "w"),
        ("alerts",),
    ],
)
def test_without_a_state_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    code, _, err = Shell(tmp_path, capsys, monkeypatch)(*arguments)
    assert code == 1
    assert "portmon db upgrade" in err
