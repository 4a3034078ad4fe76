"""One observation of one port: each row of the table of states, and each of its boundaries from both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from portmon.engine import states
from portmon.engine.config import States
from portmon.engine.states import TABLE, Look, Port, Row, Seen, Step, Told
from portmon.model.event_kinds import EventKind
from portmon.model.state import PortStatus

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
FIVE = timedelta(minutes=5)
HALF = FIVE / 2
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
V4, V6, LOCAL, LAN, DMZ = "0.0.0.0", "::", "127.0.0.1", "10.0.0.1", "192.0.2.1"
EPHEMERAL = 40000
ROOT = Path(__file__).resolve().parents[2]


def port(number: int = 80, **fields: Any) -> Port:
    """A port that has been up for a day."""
    known: dict[str, Any] = {
        "host_id": "1", "protocol": "tcp", "port": number, "status": "up", "status_since": NOW - DAY,
        "first_seen_at": NOW - DAY, "addresses": (V4,), "programs": ("nginx",), "pids": (7,), "tool": "ss",
    }  # fmt: skip
    return Port(**known | fields)


def down(number: int = 80, **fields: Any) -> Port:
    """A port that went down an hour ago."""
    return port(number, **{"status": "down", "status_since": NOW - HOUR, "last_seen_at": NOW - HOUR - FIVE} | fields)


def candidate(number: int = EPHEMERAL, **fields: Any) -> Port:
    """A port that was seen once."""
    return port(number, **{"status": "candidate", "streak": 1, "counted_at": NOW - FIVE} | fields)


def flapping(status: str = "up", **fields: Any) -> Port:
    """A port that has flapped for half a day and last changed half an hour ago."""
    return port(**{"status": status, "flapping_since": NOW - DAY / 2, "changes": (NOW - HOUR / 2,)} | fields)


def seen(*addresses: str, **fields: Any) -> Seen:
    """An observation of the port that :func:`port` makes."""
    return Seen(**{"addresses": tuple(sorted(addresses)) or (V4,), "programs": ("nginx",), "pids": (7,)} | fields)


def look(*, rebooted: bool = False, **fields: Any) -> Look:
    """An observation five minutes after the last one, of a host that has answered for a week."""
    known: dict[str, Any] = {
        "at": NOW, "first": False, "before": frozenset(), "seen_at": NOW - FIVE, "ok_since": NOW - 7 * DAY,
        "ephemeral": (32768, 60999), "tool": "ss", "tool_before": "ss", "rebooted": rebooted,
        "grace_until": NOW + 2 * FIVE if rebooted else None, "rules_changed": False, "confirmed": True,
        "listening": frozenset(), "half_interval": HALF, "window": HOUR,
    }  # fmt: skip
    settings = {name: fields.pop(name) for name in States.model_fields if name in fields}
    return Look(**known | {"settings": States(**settings)} | fields)


FIRST = look(first=True, seen_at=None, ok_since=None, tool_before=None)


def appear(number: int = 80, seen_: Seen | None = None, look_: Look | None = None, **more: Any) -> Step:
    return states.appear(("1", "tcp", number), seen_ or seen(), look_ or look(), **{"declared": None} | more)


def absent(look_: Look | None = None) -> Step:
    return states.absent(("1", "tcp", 80), look_ or look(), declared="declared by the CMDB")


def again(
    before: Port, seen_: Seen | None = None, *, is_watched: Callable[[str], bool] = lambda _: True, **fields: Any
) -> Step:
    """:param fields: of the look, or ``declared``; by default the port is as declared as it was"""
    declared = fields.pop("declared", before.declared)
    return states.again(before, seen_ or seen(), look(**fields), declared=declared, is_watched=is_watched)


def gone(before: Port, **fields: Any) -> Step:
    """:param fields: of the look, or ``declared``, ``accepted``, ``heir``"""
    more = {"declared": before.declared, "accepted": None}
    more |= {name: fields.pop(name) for name in ("declared", "accepted", "heir") if name in fields}
    return states.gone(before, look(**fields), **more)  # type: ignore[arg-type]


def told(step: Step) -> list[str]:
    return [one.kind.value for one in step.told]


def only(step: Step) -> Told:
    (one,) = step.told
    return one


def kept(step: Step) -> Port:
    assert step.port is not None
    return step.port


# ── the table ───────────────────────────────────────────────────────────────────────────────────

UP, DOWN, CANDIDATE, REMOVED = "up", "down", "candidate", None
CMDB = "declared by the CMDB"
CHANGES = (NOW - 3 * FIVE, NOW - 2 * FIVE, NOW - FIVE)
"""One change fewer than make a port flap."""

CASES: dict[str, tuple[Callable[[], Step], Row, str | None, list[str]]] = {
    # nothing known, seen
    "first": (lambda: appear(80, None, FIRST), Row.BASELINE, UP, []),
    "first, ephemeral": (lambda: appear(EPHEMERAL, None, FIRST), Row.BASELINE, CANDIDATE, []),
    "first, ephemeral, listed": (lambda: appear(EPHEMERAL, seen(listed=True), FIRST), Row.BASELINE, CANDIDATE, []),
    "first, ephemeral, declared": (lambda: appear(EPHEMERAL, None, FIRST, declared=CMDB), Row.BASELINE, UP, []),
    "later": (lambda: appear(80), Row.NEW, UP, ["new"]),
    "later, there before": (lambda: appear(80, None, look(before=frozenset({80}))), Row.NEW, UP, []),
    "later, another one there before": (lambda: appear(80, None, look(before=frozenset({81}))), Row.NEW, UP, ["new"]),
    "later, listed": (lambda: appear(80, seen(listed=True)), Row.NEW, UP, ["new"]),
    "later, declared": (lambda: appear(80, declared=CMDB), Row.DECLARED_SEEN, UP, ["new"]),
    "later, ephemeral": (lambda: appear(EPHEMERAL), Row.CANDIDATE, CANDIDATE, []),
    "later, ephemeral, listed": (lambda: appear(EPHEMERAL, seen(listed=True)), Row.NEW, UP, ["new"]),
    "later, ephemeral, declared": (lambda: appear(EPHEMERAL, declared=CMDB), Row.DECLARED_SEEN, UP, ["new"]),
    "later, ephemeral, moved here": (lambda: appear(EPHEMERAL, heir=True), Row.NEW, UP, []),
    "later, ephemeral, one look is enough": (lambda: appear(EPHEMERAL, None, look(ephemeral_after=1)), Row.NEW, UP, ["new"]),
    "later, ephemeral, two looks are needed": (lambda: appear(EPHEMERAL, None, look(ephemeral_after=2)), Row.CANDIDATE, CANDIDATE, []),
    "below the range": (lambda: appear(32767), Row.NEW, UP, ["new"]),
    "start of the range": (lambda: appear(32768), Row.CANDIDATE, CANDIDATE, []),
    "end of the range": (lambda: appear(60999), Row.CANDIDATE, CANDIDATE, []),
    "above the range": (lambda: appear(61000), Row.NEW, UP, ["new"]),
    # nothing known, declared, not seen
    "declared, absent": (lambda: absent(), Row.DECLARED, DOWN, ["down"]),
    "declared, absent, first": (lambda: absent(FIRST), Row.DECLARED, DOWN, ["down"]),
    # candidate
    "candidate, second look": (lambda: again(candidate()), Row.WAITING, CANDIDATE, []),
    "candidate, third look": (lambda: again(candidate(streak=2)), Row.PROVEN, UP, ["new"]),
    "candidate, third look, of the baseline": (lambda: again(candidate(streak=2, at_baseline=True)), Row.PROVEN, UP, []),
    "candidate, third look too soon": (lambda: again(candidate(streak=2, counted_at=NOW - HALF + TICK)), Row.WAITING, CANDIDATE, []),
    "candidate, third look after half an interval": (lambda: again(candidate(streak=2, counted_at=NOW - HALF)), Row.PROVEN, UP, ["new"]),
    "candidate, fewer looks needed now": (lambda: again(candidate(streak=5), ephemeral_after=2), Row.PROVEN, UP, ["new"]),
    "candidate, more looks needed now": (lambda: again(candidate(streak=2), ephemeral_after=4), Row.WAITING, CANDIDATE, []),
    "candidate, declared now": (lambda: again(candidate(), declared=CMDB), Row.DECLARED_SEEN, UP, ["new"]),
    "candidate, declared now, of the baseline": (lambda: again(candidate(at_baseline=True), declared=CMDB), Row.DECLARED_SEEN, UP, []),
    "candidate, gone": (lambda: gone(candidate()), Row.FORGOTTEN, REMOVED, []),
    "candidate, gone, asked once": (lambda: gone(candidate(), confirmed=False), Row.FORGOTTEN, REMOVED, []),
    "candidate, declared now, gone": (lambda: gone(candidate(), declared=CMDB), Row.DECLARED, DOWN, ["down"]),
    "candidate, declared now, gone, asked once": (lambda: gone(candidate(), declared=CMDB, confirmed=False), Row.UNCONFIRMED, CANDIDATE, []),
    # up, seen
    "quiet": (lambda: again(port()), Row.SEEN, UP, []),
    "other pid": (lambda: again(port(), seen(pids=(8,))), Row.SEEN, UP, ["restarted"]),
    "one pid more": (lambda: again(port(), seen(pids=(7, 8))), Row.SEEN, UP, []),
    "pid not shown": (lambda: again(port(), seen(pids=())), Row.SEEN, UP, []),
    "pid not known": (lambda: again(port(pids=())), Row.SEEN, UP, []),
    "other pid after a reboot": (lambda: again(port(), seen(pids=(8,)), rebooted=True), Row.SEEN, UP, []),
    "other pid, back within the grace": (lambda: again(port(grace_until=NOW + TICK), seen(pids=(8,))), Row.SEEN, UP, []),
    "other program": (lambda: again(port(), seen(programs=("apache2",))), Row.SEEN, UP, ["replaced"]),
    "other program, the fourth time": (lambda: again(port(notices=tuple(("replaced", NOW - ago * FIVE) for ago in (3, 2, 1))), seen(programs=("apache2",))), Row.BRAKED, UP, ["replaced"]),
    "other program, the fifth time": (lambda: again(port(notices=tuple(("replaced", NOW - ago * FIVE) for ago in (4, 3, 2, 1))), seen(programs=("apache2",))), Row.BRAKED, UP, []),
    "other program and pid": (lambda: again(port(), seen(programs=("apache2",), pids=(8,))), Row.SEEN, UP, ["replaced"]),
    "other program, by another tool": (lambda: again(port(), seen(programs=("apache2",)), tool="proc"), Row.SEEN, UP, []),
    "one program more": (lambda: again(port(), seen(programs=("apache2", "nginx"))), Row.SEEN, UP, []),
    "program not shown": (lambda: again(port(), seen(programs=())), Row.SEEN, UP, []),
    "program not known": (lambda: again(port(programs=())), Row.SEEN, UP, []),
    "a bind more": (lambda: again(port(), seen(V4, V6)), Row.SEEN, UP, ["rebound"]),
    "a loopback bind less": (lambda: again(port(addresses=(LAN, LOCAL)), seen(LAN)), Row.SEEN, UP, ["rebound"]),
    "a bind less": (lambda: again(port(), seen(LOCAL)), Row.LOST_BIND, UP, ["rebound"]),
    "a bind less, asked once": (lambda: again(port(), seen(LOCAL), confirmed=False), Row.SEEN, UP, []),
    "a bind less, by a tool that cuts": (lambda: again(port(), seen(LOCAL), tool="netstat"), Row.SEEN, UP, []),
    "a bind more, by a tool that cuts": (lambda: again(port(), seen(V4, V6), tool="netstat"), Row.SEEN, UP, []),
    "still a bind less": (lambda: again(port(addresses=(LOCAL,), lost=(V4,)), seen(LOCAL)), Row.SEEN, UP, []),
    "still a bind less, asked once": (lambda: again(port(addresses=(LOCAL,), lost=(V4,)), seen(LOCAL), confirmed=False), Row.SEEN, UP, []),
    "one of two lost binds back": (lambda: again(port(addresses=(LOCAL,), lost=(LAN, DMZ)), seen(LAN, LOCAL)), Row.SEEN, UP, []),
    "all lost binds back": (lambda: again(port(addresses=(LOCAL,), lost=(V4,)), seen(V4, LOCAL)), Row.BIND_RECOVERED, UP, ["recovered"]),
    "lost bind served by a wildcard": (lambda: again(port(addresses=(LOCAL,), lost=(LAN,)), seen(V4, LOCAL)), Row.BIND_RECOVERED, UP, ["recovered"]),
    "other pid and a bind less": (lambda: again(port(), seen(LOCAL, pids=(8,))), Row.LOST_BIND, UP, ["restarted", "rebound"]),
    "back within down_after": (lambda: again(port(misses=1, last_seen_at=NOW - FIVE), down_after=2), Row.SEEN, UP, []),
    # up, seen, with other rules or another declaration, which make no event
    "other pid, other rules": (lambda: again(port(), seen(pids=(8,)), rules_changed=True), Row.SEEN, UP, []),
    "other program, other rules": (lambda: again(port(), seen(programs=("apache2",)), rules_changed=True), Row.SEEN, UP, []),
    "a bind more, other rules": (lambda: again(port(), seen(V4, V6), rules_changed=True), Row.SEEN, UP, []),
    "a bind less, other rules": (lambda: again(port(), seen(LOCAL), rules_changed=True), Row.LOST_BIND, UP, ["rebound"]),
    "a bind less that no rule watches": (lambda: again(port(addresses=(V4, LOCAL)), seen(LOCAL), is_watched=LOCAL.__eq__, rules_changed=True), Row.SEEN, UP, []),
    "a lost bind that no rule watches": (lambda: again(port(addresses=(LOCAL,), lost=(V4,)), seen(LOCAL), is_watched=LOCAL.__eq__, rules_changed=True), Row.SEEN, UP, []),
    "other pid, declared now": (lambda: again(port(), seen(pids=(8,)), declared=CMDB), Row.SEEN, UP, []),
    "other pid, declared no more": (lambda: again(port(declared=CMDB), seen(pids=(8,)), declared=None), Row.SEEN, UP, []),
    "other pid, declared as before": (lambda: again(port(declared=CMDB), seen(pids=(8,))), Row.SEEN, UP, ["restarted"]),
    "other pid, declared by another source": (lambda: again(port(declared=CMDB), seen(pids=(8,)), declared="promoted by me"), Row.SEEN, UP, ["restarted"]),
    # up, not seen
    "gone": (lambda: gone(port()), Row.DOWN, DOWN, ["down"]),
    "gone, asked once": (lambda: gone(port(), confirmed=False), Row.UNCONFIRMED, UP, []),
    "gone, asked once, another program listens": (lambda: gone(port(), confirmed=False, listening=frozenset({80})), Row.DOWN, DOWN, ["down"]),
    "gone, asked once, others listen": (lambda: gone(port(), confirmed=False, listening=frozenset({22, 81})), Row.UNCONFIRMED, UP, []),
    "gone, asked twice, another program listens": (lambda: gone(port(), listening=frozenset({80})), Row.DOWN, DOWN, ["down"]),
    "gone, one of two": (lambda: gone(port(), down_after=2), Row.MISSED, UP, []),
    "gone, two of two": (lambda: gone(port(misses=1, counted_at=NOW - FIVE), down_after=2), Row.DOWN, DOWN, ["down"]),
    "gone, two of two too soon": (lambda: gone(port(misses=1, counted_at=NOW - HALF + TICK), down_after=2), Row.MISSED, UP, []),
    "gone, two of two after half an interval": (lambda: gone(port(misses=1, counted_at=NOW - HALF), down_after=2), Row.DOWN, DOWN, ["down"]),
    "gone, two of three": (lambda: gone(port(misses=1, counted_at=NOW - FIVE), down_after=3), Row.MISSED, UP, []),
    "gone, fewer misses needed now": (lambda: gone(port(misses=3, counted_at=NOW - FIVE), down_after=2), Row.DOWN, DOWN, ["down"]),
    "gone, declared": (lambda: gone(port(declared=CMDB)), Row.DOWN, DOWN, ["down"]),
    "moved": (lambda: gone(port(EPHEMERAL), heir=50000), Row.MOVED, REMOVED, ["moved"]),
    "moved, flapping": (lambda: gone(flapping(), heir=50000), Row.MOVED, REMOVED, ["retired"]),
    "moved, without a bind": (lambda: gone(port(EPHEMERAL, lost=(LAN,)), heir=50000), Row.MOVED, REMOVED, ["retired"]),
    "gone after a reboot": (lambda: gone(port(), rebooted=True), Row.GRACE, UP, []),
    "gone after a reboot, moved": (lambda: gone(port(EPHEMERAL), rebooted=True, heir=50000), Row.MOVED, REMOVED, ["moved"]),
    "gone within the grace": (lambda: gone(port(grace_until=NOW + TICK)), Row.GRACE, UP, []),
    "gone at the end of the grace": (lambda: gone(port(grace_until=NOW)), Row.DOWN, DOWN, ["down"]),
    "gone after the grace, misses do not count": (lambda: gone(port(grace_until=NOW - FIVE), down_after=3), Row.DOWN, DOWN, ["down"]),
    "gone after the first look of the boot": (lambda: gone(port(), grace_until=NOW + FIVE), Row.DOWN, DOWN, ["down"]),
    # down
    "still gone": (lambda: gone(down()), Row.STILL_DOWN, DOWN, []),
    "back": (lambda: again(down()), Row.RECOVERED, UP, ["recovered"]),
    "back with another pid": (lambda: again(down(), seen(pids=(8,))), Row.RECOVERED, UP, ["recovered"]),
    "back with another program": (lambda: again(down(), seen(programs=("apache2",))), Row.RECOVERED, UP, ["recovered"]),
    "back with other rules": (lambda: again(down(), rules_changed=True), Row.RECOVERED, UP, ["recovered"]),
    "back with a bind more": (lambda: again(down(), seen(V4, V6)), Row.RECOVERED, UP, ["recovered"]),
    "back with a bind less": (lambda: again(down(), seen(LOCAL)), Row.RECOVERED, UP, ["recovered", "rebound"]),
    "gone for almost too long": (lambda: gone(down(last_seen_at=NOW - 30 * DAY + TICK, status_since=NOW - 29 * DAY)), Row.STILL_DOWN, DOWN, []),
    "gone for too long": (lambda: gone(down(last_seen_at=NOW - 30 * DAY, status_since=NOW - DAY)), Row.RETIRED, REMOVED, ["retired"]),
    "gone for too long, told just now": (lambda: gone(down(last_seen_at=NOW - 30 * DAY, status_since=NOW - DAY + TICK)), Row.STILL_DOWN, DOWN, []),
    "gone for too long, declared": (lambda: gone(down(last_seen_at=NOW - 30 * DAY, declared=CMDB)), Row.STILL_DOWN, DOWN, []),
    "gone for too long, declared no more": (lambda: gone(down(last_seen_at=NOW - 30 * DAY, status_since=NOW - DAY, declared=CMDB), declared=None), Row.RETIRED, REMOVED, ["retired"]),
    "never seen, down for almost too long": (lambda: gone(down(last_seen_at=None, status_since=NOW - 30 * DAY + TICK)), Row.STILL_DOWN, DOWN, []),
    "never seen, down for too long": (lambda: gone(down(last_seen_at=None, status_since=NOW - 30 * DAY)), Row.RETIRED, REMOVED, ["retired"]),
    "gone for too long, retired sooner now": (lambda: gone(down(), retire_after=HOUR), Row.RETIRED, REMOVED, ["retired"]),
    "accepted": (lambda: gone(down(), accepted=NOW - FIVE), Row.RETIRED, REMOVED, ["retired"]),
    "accepted before it went down": (lambda: gone(down(), accepted=NOW - HOUR - TICK), Row.STILL_DOWN, DOWN, []),
    "accepted when it went down": (lambda: gone(down(), accepted=NOW - HOUR), Row.RETIRED, REMOVED, ["retired"]),
    "accepted at this look": (lambda: gone(down(), accepted=NOW), Row.RETIRED, REMOVED, ["retired"]),
    "accepted after this look": (lambda: gone(down(), accepted=NOW + TICK), Row.STILL_DOWN, DOWN, []),
    "accepted, declared": (lambda: gone(down(declared=CMDB), accepted=NOW - FIVE), Row.STILL_DOWN, DOWN, []),
    "accepted while it is up": (lambda: gone(port(), accepted=NOW - FIVE), Row.DOWN, DOWN, ["down"]),
    # flapping: the fourth change within an hour
    "gone, fourth change": (lambda: gone(port(changes=CHANGES)), Row.FLAPPING, DOWN, ["flapping"]),
    "gone, third change": (lambda: gone(port(changes=CHANGES[1:])), Row.DOWN, DOWN, ["down"]),
    "gone, fourth change, first one an hour ago": (lambda: gone(port(changes=(NOW - HOUR, *CHANGES[1:]))), Row.FLAPPING, DOWN, ["flapping"]),
    "gone, fourth change, first one longer ago": (lambda: gone(port(changes=(NOW - HOUR - TICK, *CHANGES[1:]))), Row.DOWN, DOWN, ["down"]),
    "gone, fewer changes needed now": (lambda: gone(port(changes=CHANGES), flap_threshold=2), Row.FLAPPING, DOWN, ["flapping"]),
    "back, fourth change": (lambda: again(down(changes=CHANGES)), Row.FLAPPING, UP, ["flapping"]),
    "back with a bind less, third and fourth change": (lambda: again(down(changes=CHANGES[1:]), seen(LOCAL)), Row.FLAPPING, UP, ["recovered", "flapping"]),
    "a bind less, fourth change": (lambda: again(port(changes=CHANGES), seen(LOCAL)), Row.FLAPPING, UP, ["flapping"]),
    "lost bind back, fourth change": (lambda: again(port(changes=CHANGES, addresses=(LOCAL,), lost=(V4,)), seen(V4)), Row.FLAPPING, UP, ["flapping"]),
    "other pid is no change": (lambda: again(port(changes=CHANGES), seen(pids=(8,))), Row.SEEN, UP, ["restarted"]),
    "a bind more is no change": (lambda: again(port(changes=CHANGES), seen(V4, V6)), Row.SEEN, UP, ["rebound"]),
    # while it flaps there is no event
    "flapping, seen": (lambda: again(flapping()), Row.SEEN, UP, []),
    "flapping, gone": (lambda: gone(flapping()), Row.DOWN, DOWN, []),
    "flapping, back": (lambda: again(flapping("down")), Row.RECOVERED, UP, []),
    "flapping, still gone": (lambda: gone(flapping("down")), Row.STILL_DOWN, DOWN, []),
    "flapping, other pid": (lambda: again(flapping(), seen(pids=(8,))), Row.SEEN, UP, []),
    "flapping, other program": (lambda: again(flapping(), seen(programs=("apache2",))), Row.SEEN, UP, []),
    "flapping, a bind more": (lambda: again(flapping(), seen(V4, V6)), Row.SEEN, UP, []),
    "flapping, a bind less": (lambda: again(flapping(), seen(LOCAL)), Row.LOST_BIND, UP, []),
    "flapping, lost bind back": (lambda: again(flapping(addresses=(LOCAL,), lost=(V4,)), seen(V4, LOCAL)), Row.BIND_RECOVERED, UP, []),
    "flapping, accepted": (lambda: gone(flapping("down"), accepted=NOW), Row.RETIRED, REMOVED, ["retired"]),
    # until it held still
    "still for almost an hour": (lambda: again(flapping(changes=(NOW - HOUR + TICK,))), Row.SEEN, UP, []),
    "still for an hour": (lambda: again(flapping(changes=(NOW - HOUR,))), Row.STABLE, UP, ["stable"]),
    "still for an hour, down": (lambda: gone(flapping("down", changes=(NOW - HOUR,))), Row.STABLE, DOWN, ["stable"]),
    "still for almost an hour, down": (lambda: gone(flapping("down", changes=(NOW - HOUR + TICK,))), Row.STILL_DOWN, DOWN, []),
    "still for an hour, other pid": (lambda: again(flapping(changes=(NOW - HOUR,)), seen(pids=(8,))), Row.STABLE, UP, ["stable"]),
    "still for an hour, goes down now": (lambda: gone(flapping(changes=(NOW - HOUR,))), Row.DOWN, DOWN, []),
    "still for an hour, comes back now": (lambda: again(flapping("down", changes=(NOW - HOUR,))), Row.RECOVERED, UP, []),
    "still for an hour, loses a bind now": (lambda: again(flapping(changes=(NOW - HOUR,)), seen(LOCAL)), Row.LOST_BIND, UP, []),
    "still for an hour, without evidence": (lambda: again(flapping(changes=(NOW - HOUR,)), ok_since=None), Row.SEEN, UP, []),
    "still for an hour, evidence for almost one": (lambda: again(flapping(changes=(NOW - 2 * HOUR,)), ok_since=NOW - HOUR + TICK), Row.SEEN, UP, []),
    "still for two hours, evidence for one": (lambda: again(flapping(changes=(NOW - 2 * HOUR,)), ok_since=NOW - HOUR), Row.STABLE, UP, ["stable"]),
    "not flapping, still for an hour": (lambda: again(port(changes=(NOW - HOUR,))), Row.SEEN, UP, []),
}  # fmt: skip


@pytest.mark.parametrize(("take", "row", "status", "events"), CASES.values(), ids=CASES)
def test_an_observation_takes_a_row_of_the_table(
    take: Callable[[], Step], row: Row, status: str | None, events: list[str]
) -> None:
    step = take()
    assert (step.row, step.port and step.port.status, told(step)) == (row, status, events)


def test_every_row_is_taken() -> None:
    # Without evidence no port is evaluated: the host counts a failure, which test_diff.py tests.
    assert {row for _, row, _, _ in CASES.values()} == set(Row) - {Row.NO_EVIDENCE}


def test_the_table_is_the_agreed_one() -> None:
    agreed = (ROOT / "tests" / "fixtures" / "states" / "table.md").read_text(encoding="utf-8").splitlines()[2:]
    assert [f"| {row.stored} | {row.observed} | {row.then} | {row.event} |" for row in TABLE] == agreed


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    agreed = (ROOT / "tests" / "fixtures" / "states" / "table.md").read_text(encoding="utf-8")
    assert f"<!-- table -->\n{agreed}<!-- end of table -->" in page


@pytest.mark.parametrize("before", [port(), down(), candidate(), flapping(), port(lost=(LAN,))])
@pytest.mark.parametrize("take", [lambda before: again(before, seen(LOCAL, pids=(8,))), gone])
def test_a_step_leaves_the_port_that_it_was_given_alone(take: Callable[[Port], Step], before: Port) -> None:
    copy = dataclasses.replace(before)
    take(before)
    assert before == copy


# ── what is kept of a port ──────────────────────────────────────────────────────────────────────


def test_a_new_port_is_kept_as_it_was_seen() -> None:
    expected = port(
        status_since=NOW, first_seen_at=NOW, addresses=(V4, V6), uids=(33,), units=("nginx.service",), pids=(7, 8)
    )
    assert appear(80, seen(V4, V6, pids=(7, 8), uids=(33,), units=("nginx.service",))).port == expected


@pytest.mark.parametrize(
    ("look_", "at_baseline"), [(FIRST, True), (look(before=frozenset({80})), True), (look(), False)]
)
def test_a_port_that_the_last_answer_had_counts_as_there_at_the_baseline(look_: Look, at_baseline: bool) -> None:
    assert kept(appear(80, None, look_)).at_baseline is at_baseline


def test_a_candidate_counts_its_looks() -> None:
    first = kept(appear(EPHEMERAL))
    assert (first.streak, first.counted_at) == (1, NOW)
    second = kept(again(first, at=NOW + FIVE))
    assert (second.streak, second.counted_at, second.status_since) == (2, NOW + FIVE, NOW)
    extra = kept(again(second, at=NOW + FIVE + TICK))
    assert (extra.streak, extra.counted_at) == (2, NOW + FIVE)
    third = kept(again(extra, at=NOW + 2 * FIVE))
    assert (third.streak, third.counted_at, third.status_since) == (0, None, NOW + 2 * FIVE)


def test_a_candidate_that_never_counted_counts() -> None:
    assert kept(again(candidate(counted_at=None))).streak == 2


def test_a_port_that_is_missing_counts_its_misses() -> None:
    first = kept(gone(port(), down_after=3))
    assert (first.misses, first.counted_at, first.last_seen_at) == (1, NOW, NOW - FIVE)
    extra = kept(gone(first, at=NOW + TICK, seen_at=NOW, down_after=3))
    assert (extra.misses, extra.counted_at, extra.last_seen_at) == (1, NOW, NOW - FIVE)
    second = kept(gone(extra, at=NOW + FIVE, seen_at=NOW, down_after=3))
    assert (second.misses, second.counted_at, second.last_seen_at) == (2, NOW + FIVE, NOW - FIVE)
    back = kept(again(second, at=NOW + 2 * FIVE, down_after=3))
    assert (back.misses, back.counted_at, back.last_seen_at) == (0, None, None)
    third = kept(gone(second, at=NOW + 2 * FIVE, down_after=3))
    assert (third.status, third.misses, third.counted_at) == ("down", 0, None)


def test_a_grace_starts_at_the_first_look_after_a_reboot_and_a_second_one_does_not_extend_it() -> None:
    first = kept(gone(port(), rebooted=True))
    assert first.grace_until == NOW + 2 * FIVE
    second = kept(gone(first, at=NOW + FIVE, rebooted=True, grace_until=NOW + 9 * FIVE))
    assert second.grace_until == NOW + 2 * FIVE
    assert kept(again(second)).grace_until is None
    assert kept(gone(first, at=NOW + 2 * FIVE)).grace_until is None


@pytest.mark.parametrize("name", ["programs", "pids", "uids", "units"])
@pytest.mark.parametrize(
    ("known", "shown", "then"), [(("a",), ("b",), ("b",)), (("a",), (), ("a",)), ((), ("b",), ("b",)), ((), (), ())]
)
def test_what_is_not_shown_stays_as_it_was_known(
    name: str, known: tuple[str, ...], shown: tuple[str, ...], then: tuple[str, ...]
) -> None:
    assert getattr(kept(again(port(**{name: known}), seen(**{name: shown}))), name) == then


@pytest.mark.parametrize(
    ("known", "shown", "tool"),
    [(("nginx",), ("nginx",), "ss"), (("nginx",), (), "proc"), ((), ("nginx",), "ss"), ((), (), "ss")],
)
def test_the_tool_is_the_one_that_reported_the_programs(
    known: tuple[str, ...], shown: tuple[str, ...], tool: str
) -> None:
    assert kept(again(port(programs=known, tool="proc"), seen(programs=shown))).tool == tool


# ── what is told ────────────────────────────────────────────────────────────────────────────────


def test_new_says_whether_it_took_several_looks() -> None:
    assert only(appear()) == Told(EventKind.NEW, "It was not there before", since=NOW)
    proven = only(again(candidate(streak=2)))
    assert proven == Told(EventKind.NEW, "It was not there before, and it stays", since=NOW - DAY)


@pytest.mark.parametrize(
    ("before", "fields", "reason", "details"),
    [
        (port(), {}, "Missing in the complete answers of 1 run, confirmed", {"misses": 1}),
        (port(misses=1), {"down_after": 2}, "Missing in the complete answers of 2 runs in a row, confirmed", {"misses": 2}),
        (port(grace_until=NOW), {}, "Not back after the reboot of its host, whose time of grace is over", {}),
        (candidate(), {"declared": CMDB}, "It must listen (declared by the CMDB) and does not", {}),
    ],
)  # fmt: skip
def test_down_says_why(before: Port, fields: dict[str, Any], reason: str, details: dict[str, Any]) -> None:
    event = only(gone(before, **fields))
    assert (event.reason.partition(";")[0], event.since, event.details) == (reason, NOW, details)


def test_down_says_when_it_was_seen() -> None:
    assert only(gone(port())).reason.endswith("; last seen 2026-01-02 11:55:00 UTC")
    assert only(gone(port())).last_seen == NOW - FIVE
    assert only(gone(port(last_seen_at=NOW - DAY))).last_seen == NOW - DAY
    assert only(absent()).reason.endswith("; never seen")
    assert only(absent()).last_seen is None


def test_recovered_says_how_long_it_was_down() -> None:
    event = only(again(down()))
    assert (event.since, event.last_seen, event.details) == (NOW - HOUR, NOW - HOUR - FIVE, {"down_for": 3600.0})
    assert kept(again(down())).status_since == NOW


def test_retired_says_why() -> None:
    accepted = only(gone(down(), accepted=NOW))
    assert accepted.reason == "Accepted as gone by a person; it is not watched any more"
    assert (accepted.since, accepted.last_seen) == (NOW - HOUR, NOW - HOUR - FIVE)
    expired = only(gone(down(last_seen_at=NOW - 31 * DAY, status_since=NOW - 2 * DAY)))
    assert expired.reason == "Not seen since 2025-12-02 12:00 UTC; it is not watched any more"
    both = only(gone(down(last_seen_at=NOW - 31 * DAY), accepted=NOW))
    assert both.reason.startswith("Accepted")


def test_moved_says_where() -> None:
    event = only(gone(port(EPHEMERAL), heir=50000))
    assert (event.since, event.last_seen, event.details) == (NOW - DAY, NOW - FIVE, {"to": 50000})


def test_owners_say_what_was_before() -> None:
    assert only(again(port(), seen(pids=(8,)))).details == {"before": [7]}
    assert only(again(port(), seen(programs=("apache2",)))).details == {"before": ["nginx"]}


def test_a_cut_name_is_the_program_that_it_was_cut_from() -> None:
    known = port(programs=("prometheus-node",), pids=(123,))
    cut = seen(programs=("prometheus-node-exporter",), pids=(123,))
    assert told(again(known, cut)) == []
    assert told(again(dataclasses.replace(known, programs=("prom",)), cut)) == ["replaced"]


# ── binds ───────────────────────────────────────────────────────────────────────────────────────


def test_a_lost_bind_is_a_severe_rebound() -> None:
    step = again(port(addresses=(V4, LOCAL)), seen(LOCAL))
    assert (kept(step).addresses, kept(step).lost, kept(step).lost_since) == ((LOCAL,), (V4,), NOW)
    event = only(step)
    assert (event.kind, event.since, event.last_seen) == (EventKind.REBOUND, NOW, NOW - FIVE)
    assert event.details == {"severe": True, "lost": [V4], "before": [V4, LOCAL]}
    assert event.reason == "It does not listen on 0.0.0.0 any more, only on 127.0.0.1"


def test_a_second_lost_bind_is_told_and_the_loss_is_as_old_as_the_first() -> None:
    before = port(addresses=(LAN, LOCAL), lost=(DMZ,), lost_since=NOW - HOUR)
    step = again(before, seen(LOCAL))
    assert (step.row, kept(step).lost, kept(step).lost_since) == (Row.LOST_BIND, (LAN, DMZ), NOW - HOUR)
    assert only(step).reason == "It does not listen on 10.0.0.1 any more, only on 127.0.0.1"
    assert only(step).details["lost"] == [LAN, DMZ]


def test_lost_binds_that_are_partly_back_are_still_lost() -> None:
    before = port(addresses=(LOCAL,), lost=(LAN, DMZ), lost_since=NOW - HOUR)
    partly = kept(again(before, seen(LAN, LOCAL)))
    assert (partly.addresses, partly.lost, partly.lost_since) == ((LAN, LOCAL), (DMZ,), NOW - HOUR)
    step = again(partly, seen(LAN, DMZ, LOCAL))
    assert (kept(step).lost, kept(step).lost_since) == ((), None)
    assert only(step).since == NOW - HOUR
    assert only(step).details == {"down_for": 3600.0, "lost": [DMZ]}


def test_one_lost_bind_back_and_another_one_lost() -> None:
    before = port(addresses=(DMZ, LOCAL), lost=(LAN,), lost_since=NOW - HOUR)
    step = again(before, seen(LAN, LOCAL))
    assert (step.row, kept(step).lost, kept(step).lost_since) == (Row.LOST_BIND, (DMZ,), NOW - HOUR)


def test_a_bind_that_is_gained_while_another_one_is_lost_is_told() -> None:
    before = port(addresses=(LOCAL,), lost=(DMZ,), lost_since=NOW - HOUR)
    event = only(again(before, seen(LAN, LOCAL)))
    assert event.details == {"severe": False, "before": [LOCAL]}
    assert event.reason == "It listens on 10.0.0.1, 127.0.0.1 now, before on 127.0.0.1"


def test_an_unconfirmed_loss_is_no_loss_yet() -> None:
    unconfirmed = kept(again(port(addresses=(V4, LOCAL)), seen(LOCAL), confirmed=False))
    assert (unconfirmed.addresses, unconfirmed.lost, unconfirmed.lost_since) == ((V4, LOCAL), (), None)
    assert told(again(unconfirmed, seen(LOCAL))) == ["rebound"]


def test_a_port_that_is_not_confirmed_missing_has_its_grace_as_well() -> None:
    first = kept(gone(port(), rebooted=True, confirmed=False))
    assert (first.grace_until, first.last_seen_at) == (NOW + 2 * FIVE, NOW - FIVE)
    assert told(gone(first, at=NOW + FIVE)) == []
    assert told(gone(first, at=NOW + 2 * FIVE, confirmed=False)) == []
    assert told(gone(first, at=NOW + 2 * FIVE)) == ["down"]


def test_a_bind_has_until_the_end_of_the_grace_to_come_back() -> None:
    waiting = kept(again(port(addresses=(V4, LOCAL)), seen(LOCAL), grace_until=NOW + TICK))
    assert (waiting.addresses, waiting.lost, waiting.lost_since) == ((V4, LOCAL), (), None)
    assert told(again(waiting, seen(V4, LOCAL), grace_until=NOW + TICK)) == []
    assert told(again(waiting, seen(LOCAL), grace_until=NOW)) == ["rebound"]


def test_a_lost_bind_is_kept_while_addresses_cannot_be_compared() -> None:
    before = port(addresses=(LOCAL,), lost=(V4,), lost_since=NOW - HOUR)
    after = kept(again(before, seen(V4, LOCAL), tool="netstat"))
    assert (after.lost, after.lost_since) == ((V4,), NOW - HOUR)


def test_a_port_that_goes_down_forgets_which_binds_were_lost_and_expects_them_all() -> None:
    after = kept(gone(port(addresses=(LOCAL,), lost=(V4,), lost_since=NOW - HOUR)))
    assert (after.addresses, after.lost, after.lost_since) == ((V4, LOCAL), (), None)


def test_rules_hide_binds_from_what_is_compared() -> None:
    before = port(addresses=(V4, LOCAL), lost=(LAN, V6), lost_since=NOW - HOUR)
    after = kept(again(before, seen(V4), is_watched={V4, V6}.__contains__, rules_changed=True))
    assert (after.addresses, after.lost) == ((V4,), (V6,))


# ── flapping ────────────────────────────────────────────────────────────────────────────────────


def test_flapping_counts_changes_and_says_the_state() -> None:
    step = gone(port(changes=(NOW - HOUR - TICK, *CHANGES)))
    assert (kept(step).flapping_since, kept(step).changes) == (NOW, (NOW,))
    event = only(step)
    assert event.reason.startswith("4 changes between up and down since 2026-01-02 11:45:00 UTC")
    assert (event.since, event.last_seen, event.details) == (NOW - 3 * FIVE, NOW - FIVE, {"state": PortStatus.DOWN})


def test_changes_are_kept_for_the_window() -> None:
    assert kept(gone(port(changes=(NOW - HOUR - TICK, NOW - HOUR)))).changes == (NOW - HOUR, NOW)
    assert kept(gone(flapping())).changes == (NOW,)


def test_flapping_up_and_without_a_bind() -> None:
    assert only(again(down(changes=CHANGES))).details == {"state": PortStatus.UP}
    assert only(again(port(changes=CHANGES), seen(LOCAL))).details == {"state": PortStatus.DOWN}


def test_stable_says_the_state() -> None:
    still = {"changes": (NOW - HOUR,)}
    up = again(flapping(**still))
    assert only(up).details == {"state": "up"}
    assert only(up).since == NOW - DAY / 2
    assert (kept(up).flapping_since, kept(up).changes) == (None, ())
    assert only(gone(flapping("down", **still))).details == {"state": "down"}
    lost = again(flapping(addresses=(LOCAL,), lost=(V4,), **still), seen(LOCAL))
    assert only(lost).details == {"state": "down", "lost": [V4]}


@pytest.mark.parametrize(
    ("minutes", "window"), [(1, HOUR), (5, HOUR), (6, timedelta(minutes=72)), (60, timedelta(hours=12))]
)
def test_the_window_of_flapping_is_at_least_twelve_intervals(minutes: int, window: timedelta) -> None:
    assert states.flap_window(States(), timedelta(minutes=minutes)) == window


# ── hosts that leave ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "is_open"),
    [
        (port(), False),
        (candidate(), False),
        (port(misses=1), False),
        (port(changes=CHANGES), False),
        (down(), True),
        (flapping(), True),
        (port(lost=(V4,)), True),
    ],
)
def test_a_port_is_open_if_an_alert_of_it_may_be_open(one: Port, is_open: bool) -> None:
    assert states.is_open(one) is is_open


def test_a_forgiven_port_is_up_with_all_its_binds() -> None:
    before = down(
        addresses=(LOCAL,), lost=(V4,), lost_since=NOW, misses=1, counted_at=NOW, grace_until=NOW,
        flapping_since=NOW, changes=CHANGES,
    )  # fmt: skip
    expected = port(addresses=(V4, LOCAL), status_since=NOW - HOUR, last_seen_at=NOW - HOUR - FIVE)
    assert states.forgive(before) == expected


def test_a_forgiven_candidate_goes_on_counting() -> None:
    assert states.forgive(candidate()) == candidate()


def test_a_port_that_was_never_seen_is_not_kept() -> None:
    assert states.forgive(down(addresses=())) is None
