"""One observation of one port: each row of the table of states, and each of its boundaries from both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from portmon.engine import lifecycle, owners, transitions
from portmon.engine.config import States
from portmon.engine.lifecycle import NONE, Changes
from portmon.engine.owners import PortOwner
from portmon.engine.rows import TABLE, Row, Transition
from portmon.engine.state import Draft, Evidence, Port, Seen
from portmon.engine.terms import Terms, terms_of
from portmon.model import limits
from portmon.model.event_kinds import EventKind
from portmon.model.observation import Listener
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


def clock(at: datetime) -> float:
    """The evidence clock of a host that was seen in every run since it was known, 60 days ago."""
    return (at - (NOW - 60 * DAY)).total_seconds()


def changed(*ago: timedelta) -> Changes:
    """Changes of a condition that does not flap."""
    return Changes(tuple(clock(NOW - one) for one in ago))


def flaps(ago: timedelta = HOUR / 2) -> Changes:
    """Changes of a condition that has flapped for half a day, and when the last one was."""
    return Changes((clock(NOW - ago),), NOW - DAY / 2, NOW - ago)


def port(number: int = 80, **fields: Any) -> Port:
    """A port that has been up for a day."""
    known: dict[str, Any] = {
        "host_id": "1", "protocol": "tcp", "port": number, "status": "up", "status_since": NOW - DAY,
        "first_seen_at": NOW - DAY, "addresses": (V4,), "programs": ("nginx",), "pids": (7,), "tool": "ss",
    }  # fmt: skip
    return Port(**known | fields)


def down(number: int = 80, **fields: Any) -> Port:
    """A port that went down an hour ago."""
    known = {"status": "down", "status_since": NOW - HOUR, "last_seen_at": NOW - HOUR - FIVE} | fields
    return port(number, **{"seen_clock": clock(known["last_seen_at"] or known["status_since"])} | known)


def lost(*addresses: str, **fields: Any) -> Port:
    """A port that lost binds an hour ago, by default the one for all addresses, and listens on loopback."""
    known = {"addresses": (LOCAL,), "lost": addresses or (V4,), "lost_since": NOW - HOUR} | fields
    return port(**{"lost_clock": clock(known["lost_since"])} | known)


def hid(before: Port, ago: timedelta = FIVE) -> Port:
    """The port after an observation in which no rule watched it any more."""
    return dataclasses.replace(before, hidden_since=NOW - ago)


def paused(before: Port) -> Port:
    """The same after the second one."""
    return transitions.pause(hid(before, 2 * FIVE))


def held(ago: timedelta = FIVE, **fields: Any) -> Port:
    """A port that went down an hour ago, and that another program has had for so long."""
    known = {"holders": (PortOwner(programs=("apache2",), tool="ss", joined=clock(NOW - ago)),)} | fields
    return down(**known)


def shared(*, joined: float | None = None, waits: bool = False, **fields: Any) -> Port:
    """A port that two programs share."""
    own = PortOwner(programs=("nginx",), tool="ss", pids=(7,), binds=(V4,), joined=joined)
    other = PortOwner(programs=("apache2",), tool="ss", pids=(8,), binds=(V4,), waits=waits)
    return port(**{"programs": ("apache2", "nginx"), "pids": (7, 8), "owners": (other, own)} | fields)


def left(ago: timedelta = HOUR) -> Port:
    """A port that one of its two programs left so long ago."""
    before = shared(programs=("nginx",), pids=(7,))
    gone_one = dataclasses.replace(before.owners[0], gone_since=NOW - ago, gone_clock=clock(NOW - ago))
    return dataclasses.replace(before, owners=(before.owners[1], gone_one))


def late() -> Port:
    """A port that is not back since the boot five minutes ago, and has time."""
    return port(grace_until=NOW + TICK, last_seen_at=NOW - 2 * FIVE, seen_clock=clock(NOW - 2 * FIVE))


def candidate(number: int = EPHEMERAL, **fields: Any) -> Port:
    """A port that was seen once."""
    return port(number, **{"status": "candidate", "streak": 1, "counted_at": NOW - FIVE} | fields)


def flapping(status: str = "up", ago: timedelta = HOUR / 2, **fields: Any) -> Port:
    """A port that has flapped for half a day and last changed half an hour ago."""
    return (down if status == "down" else port)(**{"presence": flaps(ago)} | fields)


def seen(*addresses: str, **fields: Any) -> Seen:
    """An observation of the port that :func:`port` makes, of one listener for each address or owner."""
    known = {"addresses": tuple(sorted(addresses)) or (V4,), "programs": ("nginx",), "pids": (7,)} | fields
    if "listeners" not in known:
        known["listeners"] = listeners(**known)
    return Seen(**known)


def listeners(**sets: Any) -> list[Listener]:
    """As many as the longest set has values; the last one of a shorter set counts for the rest."""
    parts = ("addresses", "programs", "pids", "uids", "units", "comms", "inodes")
    found = []
    for number in range(max(len(sets.get(part, ())) for part in parts)):
        row = {part: (sets.get(part) or (None,))[min(number, len(sets.get(part) or (None,)) - 1)] for part in parts}
        found.append(
            Listener(
                "tcp", row["addresses"], 80, row["pids"], row["programs"], uid=row["uids"], inode=row["inodes"],
                unit=row["units"], comm=row["comms"],
            )
        )  # fmt: skip
    return found


def look(*, rebooted: bool = False, **fields: Any) -> Evidence:
    """An observation five minutes after the last one, of a host that has answered for 60 days."""
    known: dict[str, Any] = {
        "at": NOW, "first": False, "before": frozenset(), "seen_at": NOW - FIVE, "ephemeral": (32768, 60999),
        "tool": "ss", "tool_before": "ss", "new_boot": rebooted, "grace_until": NOW + 2 * FIVE if rebooted else None,
        "rules_changed": False, "confirmed": True, "listening": frozenset(), "half_interval": HALF, "pause": 3 * FIVE,
    }  # fmt: skip
    settings = States(**{name: fields.pop(name) for name in States.model_fields if name in fields})
    known |= {"settings": settings, "pace": lifecycle.pace(settings, FIVE)} | fields
    clocks = {"clock": clock(known["at"]), "seen_clock": clock(known["seen_at"]) if known["seen_at"] else 0.0}
    return Evidence(**clocks | known)


NOTES = Terms(1, 2 * FIVE, "note")
FIRST = look(first=True, seen_at=None, clock=0.0, tool_before=None)


def appear(number: int = 80, seen_: Seen | None = None, look_: Evidence | None = None, **more: Any) -> Transition:
    evidence = look_ or look()
    more = {"declared": None, "terms": terms_of(evidence.settings)} | more
    return transitions.appear(("1", "tcp", number), seen_ or seen(), evidence, **more)


def absent(look_: Evidence | None = None) -> Transition:
    return transitions.absent(("1", "tcp", 80), look_ or look(), declared="declared by the CMDB")


def again(
    before: Port,
    seen_: Seen | None = None,
    *,
    is_watched: Callable[[str], bool] = lambda _: True,
    owner_is_watched: bool = True,
    **fields: Any,
) -> Transition:
    """:param fields: of the look, or ``declared``, ``accepted``; by default the port is as declared as it was"""
    more = {"declared": before.declared, "accepted": None}
    more |= {name: fields.pop(name) for name in ("declared", "accepted", "terms") if name in fields}
    evidence = look(**fields)
    more = {"terms": terms_of(evidence.settings)} | more

    def watches(what: str | PortOwner) -> bool:
        return is_watched(what) if isinstance(what, str) else owner_is_watched

    return transitions.again(before, seen_ or seen(), evidence, is_watched=watches, **more)  # type: ignore[arg-type]


def gone(before: Port, **fields: Any) -> Transition:
    """:param fields: of the look, or ``declared``, ``accepted``, ``heir``"""
    more = {"declared": before.declared, "accepted": None}
    more |= {name: fields.pop(name) for name in ("declared", "accepted", "heir", "terms") if name in fields}
    evidence = look(**fields)
    more = {"terms": terms_of(evidence.settings)} | more
    return transitions.gone(before, evidence, **more)  # type: ignore[arg-type]


def hidden(before: Port, **fields: Any) -> Transition:
    """:param fields: of the look"""
    return transitions.hidden(before, look(**fields))


def told(step: Transition) -> list[str]:
    return [one.kind.value for one in step.drafts]


def only(step: Transition) -> Draft:
    (one,) = step.drafts
    return one


def kept(step: Transition) -> Port:
    assert step.port is not None
    return step.port


# ── the table ───────────────────────────────────────────────────────────────────────────────────

UP, DOWN, CANDIDATE, REMOVED = "up", "down", "candidate", None
CMDB = "declared by the CMDB"
AGO = (3 * FIVE, 2 * FIVE, FIVE)
CHANGES = changed(*AGO)
"""One change fewer than make a condition flap."""


def rebounds(times: int) -> tuple[tuple[str, float], ...]:
    """So many notices, the last one five minutes ago."""
    return tuple(("rebound", clock(NOW - number * FIVE)) for number in range(times, 0, -1))


def told_at(times: int, last: timedelta = 2 * HOUR) -> tuple[datetime, ...]:
    """Times of so many messages within the last day, the first one 24 hours ago all but a tick."""
    return (NOW - DAY + TICK, *(NOW - last - number * TICK for number in reversed(range(times - 1))))


CASES: dict[str, tuple[Callable[[], Transition], Row, str | None, list[str]]] = {
    # nothing known, seen
    "first": (lambda: appear(80, None, FIRST), Row.BASELINE, UP, []),
    "first, ephemeral": (lambda: appear(EPHEMERAL, None, FIRST), Row.BASELINE, CANDIDATE, []),
    "first, ephemeral, listed": (lambda: appear(EPHEMERAL, seen(listed=True), FIRST), Row.BASELINE, UP, []),
    "first, ephemeral, of a service": (lambda: appear(EPHEMERAL, seen(units=("app.service",)), FIRST), Row.BASELINE, UP, []),
    "first, ephemeral, of a session": (lambda: appear(EPHEMERAL, seen(units=("session-1.scope",)), FIRST), Row.BASELINE, CANDIDATE, []),
    "later, ephemeral, of a service": (lambda: appear(EPHEMERAL, seen(units=("app.service",))), Row.CANDIDATE, CANDIDATE, []),
    "first, ephemeral, declared": (lambda: appear(EPHEMERAL, None, FIRST, declared=CMDB), Row.BASELINE, UP, []),
    "later": (lambda: appear(80), Row.NEW, UP, ["new"]),
    "later, there before": (lambda: appear(80, None, look(before=frozenset({80}))), Row.NEW, UP, []),
    "later, another one there before": (lambda: appear(80, None, look(before=frozenset({81}))), Row.NEW, UP, ["new"]),
    "later, listed": (lambda: appear(80, seen(listed=True)), Row.NEW, UP, ["new"]),
    "later, declared": (lambda: appear(80, declared=CMDB), Row.DECLARED_SEEN, UP, ["new"]),
    "later, ephemeral": (lambda: appear(EPHEMERAL), Row.CANDIDATE, CANDIDATE, []),
    "later, ephemeral, listed": (lambda: appear(EPHEMERAL, seen(listed=True)), Row.NEW, UP, ["new"]),
    "later, ephemeral, declared": (lambda: appear(EPHEMERAL, declared=CMDB), Row.DECLARED_SEEN, UP, ["new"]),
    "later, ephemeral, moved here": (lambda: appear(EPHEMERAL, heir_of=port(40001)), Row.NEW, UP, []),
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
    "candidate, third look after a reboot": (lambda: again(candidate(streak=2), rebooted=True), Row.WAITING, CANDIDATE, []),
    "candidate, declared now, after a reboot": (lambda: again(candidate(), declared=CMDB, rebooted=True), Row.WAITING, CANDIDATE, []),
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
    "other pid, back within the grace": (lambda: again(late(), seen(pids=(8,)), booted_at=NOW - FIVE), Row.SEEN, UP, []),
    "other program": (lambda: again(port(), seen(programs=("apache2",))), Row.SEEN, UP, ["replaced"]),
    "other program, the fourth time": (lambda: again(port(presence=CHANGES), seen(programs=("apache2",))), Row.FLAPPING, UP, ["flapping"]),
    "other program, the fifth time": (lambda: again(flapping(), seen(programs=("apache2",))), Row.HELD, DOWN, []),
    "quiet, after four notices": (lambda: again(port(notices=rebounds(4))), Row.SEEN, UP, []),
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
    "still a bind less": (lambda: again(lost(), seen(LOCAL)), Row.SEEN, UP, []),
    "still a bind less, asked once": (lambda: again(lost(), seen(LOCAL), confirmed=False), Row.SEEN, UP, []),
    "one of two lost binds back": (lambda: again(lost(LAN, DMZ), seen(LAN, LOCAL)), Row.SEEN, UP, []),
    "all lost binds back": (lambda: again(lost(), seen(V4, LOCAL)), Row.BIND_RECOVERED, UP, ["recovered"]),
    "lost bind served by a wildcard": (lambda: again(lost(LAN), seen(V4, LOCAL)), Row.BIND_RECOVERED, UP, ["recovered"]),
    "other pid and a bind less": (lambda: again(port(), seen(LOCAL, pids=(8,))), Row.LOST_BIND, UP, ["restarted", "rebound"]),
    "back within down_after": (lambda: again(port(misses=1, last_seen_at=NOW - FIVE), down_after=2), Row.SEEN, UP, []),
    # up, seen, with other rules or another declaration, which make no event
    "other pid, other rules": (lambda: again(port(), seen(pids=(8,)), rules_changed=True), Row.SEEN, UP, []),
    "other program, other rules": (lambda: again(port(), seen(programs=("apache2",)), rules_changed=True), Row.SEEN, UP, ["replaced"]),
    "a bind more, other rules": (lambda: again(port(), seen(V4, V6), rules_changed=True), Row.SEEN, UP, []),
    "a bind less, other rules": (lambda: again(port(), seen(LOCAL), rules_changed=True), Row.LOST_BIND, UP, ["rebound"]),
    "a bind more, the fourth time": (lambda: again(port(notices=rebounds(3)), seen(V4, V6)), Row.BRAKED, UP, ["rebound"]),
    "a bind more, the fifth time": (lambda: again(port(notices=rebounds(4)), seen(V4, V6)), Row.BRAKED, UP, []),
    "another wildcard instead": (lambda: again(port(addresses=(V6,)), seen(V4)), Row.SEEN, UP, ["rebound"]),
    "another address instead": (lambda: again(port(addresses=(LAN,)), seen(DMZ)), Row.SEEN, UP, ["rebound"]),
    "another address instead, of another program": (lambda: again(port(addresses=(LAN,)), seen(DMZ, programs=("apache2",))), Row.LOST_BIND, UP, ["rebound"]),
    "another address instead, asked once": (lambda: again(port(addresses=(LAN,)), seen(DMZ), confirmed=False), Row.SEEN, UP, ["rebound"]),
    "another address instead, back from down": (lambda: again(down(addresses=(LAN,)), seen(DMZ)), Row.RECOVERED, UP, ["recovered"]),
    "one of two addresses instead": (lambda: again(port(addresses=(LAN, V6)), seen(DMZ)), Row.LOST_BIND, UP, ["rebound"]),
    "a lost bind, and another one instead": (lambda: again(lost(LAN), seen(DMZ, LOCAL)), Row.SEEN, UP, ["rebound"]),
    "a bind less that no rule watches": (lambda: again(port(addresses=(V4, LOCAL)), seen(LOCAL), is_watched=LOCAL.__eq__, rules_changed=True), Row.SEEN, UP, []),
    "a lost bind that no rule watches": (lambda: again(lost(), seen(LOCAL), is_watched=LOCAL.__eq__, rules_changed=True), Row.SEEN, UP, []),
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
    "moved, without a bind, alert closed": (lambda: gone(paused(port(EPHEMERAL, lost=(LAN,))), heir=50000), Row.MOVED, REMOVED, ["moved"]),
    "gone after a reboot, moved": (lambda: gone(port(EPHEMERAL), rebooted=True, heir=50000), Row.MOVED, REMOVED, ["moved"]),
    "gone within the grace": (lambda: gone(port(grace_until=NOW + TICK)), Row.GRACE, UP, []),
    "gone at the end of the grace": (lambda: gone(port(grace_until=NOW)), Row.DOWN, DOWN, ["down"]),
    "gone after the grace, misses do not count": (lambda: gone(port(grace_until=NOW - FIVE), down_after=3), Row.DOWN, DOWN, ["down"]),
    "gone after the first look of the boot": (lambda: gone(port(), grace_until=NOW + FIVE), Row.DOWN, DOWN, ["down"]),
    # down
    "still gone": (lambda: gone(down()), Row.STILL_DOWN, DOWN, []),
    "back": (lambda: again(down()), Row.RECOVERED, UP, ["recovered"]),
    "back with another pid": (lambda: again(down(), seen(pids=(8,))), Row.RECOVERED, UP, ["recovered"]),
    "another program has it": (lambda: again(down(), seen(programs=("apache2",))), Row.HELD, DOWN, ["replaced"]),
    "another program still has it": (lambda: again(held(), seen(programs=("apache2",))), Row.HELD, DOWN, []),
    "a third one has it": (lambda: again(held(), seen(programs=("caddy",), pids=(9,))), Row.HELD, DOWN, ["replaced"]),
    "another program has it, first look of a boot": (lambda: again(down(), seen(programs=("apache2",)), rebooted=True), Row.STILL_DOWN, DOWN, []),
    "its own and another one have it": (lambda: again(held(), seen(V4, V4, programs=("apache2", "nginx"), pids=(8, 9))), Row.RECOVERED, UP, ["recovered"]),
    "some program has it": (lambda: again(held(), seen(programs=(), pids=())), Row.HELD, DOWN, []),
    "another program had it for a day": (lambda: again(held(DAY), seen(programs=("apache2",))), Row.TAKEN_OVER, UP, ["retired"]),
    "another program had it for not quite a day": (lambda: again(held(DAY - TICK), seen(programs=("apache2",))), Row.HELD, DOWN, []),
    "another program had it for a day, declared": (lambda: again(held(DAY, declared="by the CMDB"), seen(programs=("apache2",))), Row.HELD, DOWN, []),
    "another program had it for a day, clock jumped": (lambda: again(held(DAY), seen(programs=("apache2",)), jumped=True), Row.HELD, DOWN, []),
    "another program is accepted": (lambda: again(held(declared="by the CMDB"), seen(programs=("apache2",)), accepted=NOW), Row.TAKEN_OVER, UP, ["retired"]),
    "another program was accepted before": (lambda: again(held(), seen(programs=("apache2",)), accepted=NOW - HOUR - TICK), Row.HELD, DOWN, []),
    "another program left": (lambda: gone(held()), Row.STILL_DOWN, DOWN, []),
    "another program has it, paused": (lambda: again(paused(down()), seen(programs=("apache2",))), Row.RESUMED, DOWN, ["down"]),
    "another program has what flapped": (lambda: again(flapping("down", ago=HOUR), seen(programs=("apache2",))), Row.STABLE, DOWN, ["stable", "replaced"]),
    "one of two owners gone": (lambda: again(shared(), seen(pids=(7,))), Row.OWNER_GONE, UP, ["owner_gone"]),
    "one of two owners gone, asked once": (lambda: again(shared(), seen(pids=(7,)), confirmed=False), Row.SEEN, UP, []),
    "one of two owners not back, in grace": (lambda: again(shared(waits=True), seen(pids=(7,)), grace_until=NOW + TICK), Row.SEEN, UP, []),
    "one of two owners gone, in grace": (lambda: again(shared(), seen(pids=(7,)), grace_until=NOW + TICK), Row.OWNER_GONE, UP, ["owner_gone"]),
    "one of two owners gone, grace over": (lambda: again(shared(), seen(pids=(7,)), grace_until=NOW), Row.OWNER_GONE, UP, ["owner_gone"]),
    "one of two owners gone, the other one is new": (lambda: again(shared(joined=clock(NOW) - DAY.total_seconds() + 1), seen(pids=(7,))), Row.SEEN, UP, ["replaced"]),
    "one of two owners gone, the other one is a day old": (lambda: again(shared(joined=clock(NOW) - DAY.total_seconds()), seen(pids=(7,))), Row.OWNER_GONE, UP, ["owner_gone"]),
    "one of two owners gone, its socket is there": (lambda: again(shared(), seen(V4, V4, pids=(7,))), Row.SEEN, UP, []),
    "one of two owners not shown": (lambda: again(shared(), seen(listeners=[*listeners(addresses=(V4,), programs=("nginx",), pids=(7,)), *listeners(addresses=(V4,))])), Row.SEEN, UP, []),
    "the owner is back": (lambda: again(left(), seen(V4, V4, programs=("apache2", "nginx"), pids=(7, 8))), Row.OWNER_BACK, UP, ["recovered"]),
    "the owner is not back": (lambda: again(left(), seen(pids=(7,))), Row.SEEN, UP, []),
    "an owner gone for 30 days": (lambda: again(left(30 * DAY), seen(pids=(7,))), Row.OWNER_RETIRED, UP, ["retired"]),
    "an owner gone for not quite 30 days": (lambda: again(left(30 * DAY - TICK), seen(pids=(7,))), Row.SEEN, UP, []),
    "an owner gone, accepted": (lambda: again(left(), seen(pids=(7,)), accepted=NOW), Row.OWNER_RETIRED, UP, ["retired"]),
    "an owner gone, paused": (lambda: again(paused(left()), seen(pids=(7,))), Row.OWNER_GONE, UP, ["owner_gone"]),
    "an owner gone, now all": (lambda: gone(left()), Row.DOWN, DOWN, ["down"]),
    "excluded, no owner was known": (lambda: transitions.denied(port(programs=())), Row.DENIED, None, []),
    "excluded, no owner was known, down": (lambda: transitions.denied(down(programs=())), Row.DENIED, None, ["unwatched"]),
    "excluded, no owner was known, down and paused": (lambda: transitions.denied(paused(down(programs=()))), Row.DENIED, None, []),
    "fourth restart within an hour": (lambda: again(port(presence=CHANGES, restarts=CHANGES.recent), seen(pids=(8,))), Row.FLAPPING, UP, ["crash_looping"]),
    "fourth change, the last one is a restart": (lambda: again(port(presence=CHANGES, restarts=CHANGES.recent[1:]), seen(pids=(8,))), Row.FLAPPING, UP, ["flapping"]),
    "fourth restart, of which a rule wants notes": (lambda: again(port(presence=CHANGES, restarts=CHANGES.recent), seen(pids=(8,)), terms=NOTES), Row.SEEN, UP, ["restarted"]),
    "fourth time gone, down needs two": (lambda: gone(port(presence=CHANGES), down_after=2), Row.FLAPPING, UP, ["flapping"]),
    "fourth time back within down_after": (lambda: again(port(presence=CHANGES, misses=1), down_after=2), Row.FLAPPING, UP, ["flapping"]),
    "back with other rules": (lambda: again(down(), rules_changed=True), Row.RECOVERED, UP, ["recovered"]),
    "back with a bind more": (lambda: again(down(), seen(V4, V6)), Row.RECOVERED, UP, ["recovered"]),
    "back with a bind less": (lambda: again(down(), seen(LOCAL)), Row.RECOVERED, UP, ["recovered", "rebound"]),
    "gone for almost too long": (lambda: gone(down(seen_clock=clock(NOW - 30 * DAY + TICK))), Row.STILL_DOWN, DOWN, []),
    "gone for too long": (lambda: gone(down(seen_clock=clock(NOW - 30 * DAY))), Row.RETIRED, REMOVED, ["retired"]),
    "gone for too long, told just now": (lambda: gone(down(last_seen_at=NOW - 30 * DAY, status_since=NOW - FIVE)), Row.RETIRED, REMOVED, ["retired"]),
    "gone for too long by the calendar": (lambda: gone(down(last_seen_at=NOW - 40 * DAY, status_since=NOW - 40 * DAY, seen_clock=clock(NOW - DAY))), Row.STILL_DOWN, DOWN, []),
    "gone for too long, the clock jumped": (lambda: gone(down(seen_clock=clock(NOW - 40 * DAY)), jumped=True), Row.STILL_DOWN, DOWN, []),
    "gone since an unknown time": (lambda: gone(down(seen_clock=None)), Row.STILL_DOWN, DOWN, []),
    "gone for too long, declared": (lambda: gone(down(last_seen_at=NOW - 30 * DAY, declared=CMDB)), Row.RETIRED, DOWN, ["retired"]),
    "gone for too long, declared no more": (lambda: gone(down(last_seen_at=NOW - 30 * DAY, declared=CMDB), declared=None), Row.RETIRED, REMOVED, ["retired"]),
    "never seen, down for almost too long": (lambda: gone(down(last_seen_at=None, status_since=NOW - 30 * DAY + TICK)), Row.STILL_DOWN, DOWN, []),
    "never seen, down for too long": (lambda: gone(down(last_seen_at=None, status_since=NOW - 30 * DAY)), Row.RETIRED, REMOVED, ["retired"]),
    "gone for too long, retired sooner now": (lambda: gone(down(), retire_after=HOUR + FIVE), Row.RETIRED, REMOVED, ["retired"]),
    "accepted": (lambda: gone(down(), accepted=NOW - FIVE), Row.RETIRED, REMOVED, ["retired"]),
    "accepted before it went down": (lambda: gone(down(), accepted=NOW - HOUR - TICK), Row.STILL_DOWN, DOWN, []),
    "accepted when it went down": (lambda: gone(down(), accepted=NOW - HOUR), Row.RETIRED, REMOVED, ["retired"]),
    "accepted at this look": (lambda: gone(down(), accepted=NOW), Row.RETIRED, REMOVED, ["retired"]),
    "accepted after this look": (lambda: gone(down(), accepted=NOW + TICK), Row.STILL_DOWN, DOWN, []),
    "accepted, the clock jumped": (lambda: gone(down(), accepted=NOW, jumped=True), Row.RETIRED, REMOVED, ["retired"]),
    "accepted, declared": (lambda: gone(down(declared=CMDB), accepted=NOW - FIVE), Row.RETIRED, DOWN, ["retired"]),
    "accepted, declared, later": (lambda: gone(paused(down(declared=CMDB)), accepted=NOW - FIVE), Row.RETIRED, DOWN, []),
    "accepted, declared, back": (lambda: again(paused(down(declared=CMDB)), accepted=NOW - FIVE), Row.RECOVERED, UP, []),
    "accepted, declared no more": (lambda: gone(paused(down(declared=CMDB)), accepted=NOW - FIVE, declared=None), Row.RETIRED, REMOVED, []),
    "paused, gone for too long, the clock jumped": (lambda: gone(paused(down(last_seen_at=NOW - 30 * DAY)), jumped=True), Row.STILL_DOWN, DOWN, []),
    "accepted while it is up": (lambda: gone(port(), accepted=NOW - FIVE), Row.DOWN, DOWN, ["down"]),
    # a lost bind that stays lost
    "a bind less for almost too long": (lambda: again(lost(lost_clock=clock(NOW - 30 * DAY + TICK)), seen(LOCAL)), Row.SEEN, UP, []),
    "a bind less for too long": (lambda: again(lost(lost_clock=clock(NOW - 30 * DAY)), seen(LOCAL)), Row.BIND_RETIRED, UP, ["retired"]),
    "a bind less for too long, after a reboot": (lambda: again(lost(lost_clock=clock(NOW - 30 * DAY)), seen(LOCAL), rebooted=True), Row.SEEN, UP, []),
    "a bind less for too long, one of two back": (lambda: again(lost(LAN, DMZ, lost_clock=clock(NOW - 30 * DAY)), seen(LAN, LOCAL)), Row.SEEN, UP, []),
    "a bind less for too long, asked once": (lambda: again(lost(lost_clock=clock(NOW - 30 * DAY)), seen(LOCAL), confirmed=False), Row.BIND_RETIRED, UP, ["retired"]),
    "a bind less for too long by the calendar": (lambda: again(lost(lost_since=NOW - 40 * DAY, lost_clock=clock(NOW - DAY)), seen(LOCAL)), Row.SEEN, UP, []),
    "a bind less for too long, the clock jumped": (lambda: again(lost(lost_clock=clock(NOW - 40 * DAY)), seen(LOCAL), jumped=True), Row.SEEN, UP, []),
    "a bind less for too long, retired sooner now": (lambda: again(lost(), seen(LOCAL), retire_after=HOUR), Row.BIND_RETIRED, UP, ["retired"]),
    "a bind less for too long, back now": (lambda: again(lost(lost_clock=clock(NOW - 40 * DAY)), seen(V4)), Row.BIND_RECOVERED, UP, ["recovered"]),
    "a bind less for too long, another one less now": (lambda: again(lost(addresses=(LAN, LOCAL), lost_clock=clock(NOW - 40 * DAY)), seen(LOCAL)), Row.LOST_BIND, UP, ["rebound"]),
    "a bind less for too long, flapping": (lambda: again(lost(lost_clock=clock(NOW - 40 * DAY), parts=((V4, flaps(HOUR)),)), seen(LOCAL)), Row.BIND_RETIRED, UP, ["retired"]),
    "a bind less, accepted": (lambda: again(lost(), seen(LOCAL), accepted=NOW - FIVE), Row.BIND_RETIRED, UP, ["retired"]),
    "a bind less, accepted before": (lambda: again(lost(), seen(LOCAL), accepted=NOW - HOUR - TICK), Row.SEEN, UP, []),
    "a bind less, accepted when it was lost": (lambda: again(lost(), seen(LOCAL), accepted=NOW - HOUR), Row.BIND_RETIRED, UP, ["retired"]),
    "a bind less, accepted at this look": (lambda: again(lost(), seen(LOCAL), accepted=NOW), Row.BIND_RETIRED, UP, ["retired"]),
    "a bind less, accepted after this look": (lambda: again(lost(), seen(LOCAL), accepted=NOW + TICK), Row.SEEN, UP, []),
    "a bind less, accepted, the clock jumped": (lambda: again(lost(), seen(LOCAL), accepted=NOW, jumped=True), Row.BIND_RETIRED, UP, ["retired"]),
    "a bind less, accepted, back now": (lambda: again(lost(), seen(V4), accepted=NOW), Row.BIND_RECOVERED, UP, ["recovered"]),
    "a bind less just now, accepted": (lambda: again(port(), seen(LOCAL), accepted=NOW), Row.LOST_BIND, UP, ["rebound"]),
    "a bind less since an unknown time": (lambda: again(lost(lost_clock=None), seen(LOCAL)), Row.SEEN, UP, []),
    "nothing is wrong, accepted": (lambda: again(port(), accepted=NOW), Row.SEEN, UP, []),
    # not watched any more
    "hidden": (lambda: hidden(port()), Row.HIDDEN, UP, []),
    "hidden, candidate": (lambda: hidden(candidate()), Row.FORGOTTEN, REMOVED, []),
    "hidden, down": (lambda: hidden(down()), Row.HIDDEN, DOWN, []),
    "hidden, flapping": (lambda: hidden(flapping()), Row.HIDDEN, UP, []),
    "hidden again": (lambda: hidden(hid(port())), Row.HIDDEN, UP, []),
    "hidden again, down": (lambda: hidden(hid(down())), Row.PAUSED, DOWN, ["unwatched"]),
    "hidden again, flapping": (lambda: hidden(hid(flapping())), Row.PAUSED, UP, ["unwatched"]),
    "hidden again, binds flapping": (lambda: hidden(hid(port(parts=((V4, flaps()),)))), Row.PAUSED, UP, ["unwatched"]),
    "hidden again, a bind less": (lambda: hidden(hid(lost())), Row.PAUSED, UP, ["unwatched"]),
    "hidden a third time, down": (lambda: hidden(paused(down())), Row.HIDDEN, DOWN, []),
    "hidden for almost a day": (lambda: hidden(hid(port(), DAY - TICK)), Row.HIDDEN, UP, []),
    "hidden for a day": (lambda: hidden(hid(port(), DAY)), Row.HIDDEN_LONG, REMOVED, []),
    "hidden for a day, paused": (lambda: hidden(dataclasses.replace(paused(down()), hidden_since=NOW - DAY)), Row.HIDDEN_LONG, REMOVED, []),
    "hidden for a day, down, its second look": (lambda: hidden(hid(down(), DAY)), Row.PAUSED, DOWN, ["unwatched"]),
    "hidden for a day, the clock jumped": (lambda: hidden(hid(port(), DAY), jumped=True), Row.HIDDEN, UP, []),
    "hidden for an hour, forgotten sooner": (lambda: hidden(hid(port(), HOUR), forget_after=HOUR), Row.HIDDEN_LONG, REMOVED, []),
    # watched again before a second look
    "watched again": (lambda: again(hid(port())), Row.SEEN, UP, []),
    "watched again, other pid": (lambda: again(hid(port()), seen(pids=(8,))), Row.SEEN, UP, ["restarted"]),
    "watched again by another rule, other pid": (lambda: again(hid(port()), seen(pids=(8,)), rules_changed=True), Row.SEEN, UP, []),
    "watched again, a bind less": (lambda: again(hid(port()), seen(LOCAL)), Row.LOST_BIND, UP, ["rebound"]),
    "watched again, back": (lambda: again(hid(down())), Row.RECOVERED, UP, ["recovered"]),
    "watched again, gone": (lambda: gone(hid(port())), Row.DOWN, DOWN, ["down"]),
    "watched again, gone, asked once": (lambda: gone(hid(port()), confirmed=False), Row.DOWN, DOWN, ["down"]),
    "watched again, still gone": (lambda: gone(hid(down())), Row.STILL_DOWN, DOWN, []),
    # watched again after its alert ended
    "resumed, still gone": (lambda: gone(paused(down())), Row.RESUMED, DOWN, ["down"]),
    "resumed, still gone, asked once": (lambda: gone(paused(down()), confirmed=False), Row.RESUMED, DOWN, ["down"]),
    "resumed, gone for too long": (lambda: gone(paused(down(seen_clock=clock(NOW - 30 * DAY)))), Row.RETIRED, REMOVED, []),
    "resumed, back": (lambda: again(paused(down())), Row.RECOVERED, UP, []),
    "resumed, back with a bind less": (lambda: again(paused(down()), seen(LOCAL)), Row.RECOVERED, UP, ["rebound"]),
    "resumed, still a bind less": (lambda: again(paused(lost()), seen(LOCAL)), Row.LOST_BIND, UP, ["rebound"]),
    "resumed, lost bind back": (lambda: again(paused(lost()), seen(V4, LOCAL)), Row.BIND_RECOVERED, UP, []),
    "resumed, gone, was a bind less": (lambda: gone(paused(lost())), Row.DOWN, DOWN, ["down"]),
    "resumed, it flapped": (lambda: again(paused(flapping())), Row.SEEN, UP, []),
    "resumed, it flapped, gone": (lambda: gone(paused(flapping())), Row.DOWN, DOWN, ["down"]),
    # flapping: the fourth change within an hour
    "gone, fourth change": (lambda: gone(port(presence=CHANGES)), Row.FLAPPING, DOWN, ["flapping"]),
    "gone, third change": (lambda: gone(port(presence=changed(*AGO[1:]))), Row.DOWN, DOWN, ["down"]),
    "gone, fourth change, first one almost an hour ago": (lambda: gone(port(presence=changed(HOUR - TICK, *AGO[1:]))), Row.FLAPPING, DOWN, ["flapping"]),
    "gone, fourth change, first one an hour ago": (lambda: gone(port(presence=changed(HOUR, *AGO[1:]))), Row.DOWN, DOWN, ["down"]),
    "gone, fewer changes needed now": (lambda: gone(port(presence=CHANGES), flap_threshold=2), Row.FLAPPING, DOWN, ["flapping"]),
    "back, fourth change": (lambda: again(down(presence=CHANGES)), Row.FLAPPING, UP, ["flapping"]),
    "a bind less, fourth change": (lambda: again(port(parts=((V4, CHANGES),)), seen(LOCAL)), Row.FLAPPING, UP, ["flapping"]),
    "a bind less, fourth change, first one an hour ago": (lambda: again(port(parts=((V4, changed(HOUR, *AGO[1:])),)), seen(LOCAL)), Row.LOST_BIND, UP, ["rebound"]),
    "lost bind back, fourth change": (lambda: again(lost(parts=((V4, CHANGES),)), seen(V4)), Row.FLAPPING, UP, ["flapping"]),
    "a bind more is no change": (lambda: again(port(parts=((V4, CHANGES),)), seen(V4, V6)), Row.SEEN, UP, ["rebound"]),
    # presence and binds flap each by itself
    "a bind less, presence changed three times": (lambda: again(port(presence=CHANGES), seen(LOCAL)), Row.LOST_BIND, UP, ["rebound"]),
    "lost bind back, presence changed three times": (lambda: again(lost(presence=CHANGES), seen(V4)), Row.BIND_RECOVERED, UP, ["recovered"]),
    "gone, binds changed three times": (lambda: gone(port(parts=((V4, CHANGES),))), Row.DOWN, DOWN, ["down"]),
    "back, binds changed three times": (lambda: again(down(parts=((V4, CHANGES),))), Row.RECOVERED, UP, ["recovered"]),
    "back with a bind less, third change and first": (lambda: again(down(presence=changed(*AGO[1:])), seen(LOCAL)), Row.RECOVERED, UP, ["recovered", "rebound"]),
    "back with a bind less, fourth change and first": (lambda: again(down(presence=CHANGES), seen(LOCAL)), Row.FLAPPING, UP, ["flapping"]),
    "binds flapping, gone": (lambda: gone(port(parts=((V4, flaps()),))), Row.DOWN, DOWN, ["down"]),
    "binds flapping, gone, fourth change": (lambda: gone(port(parts=((V4, flaps()),), presence=CHANGES)), Row.FLAPPING, DOWN, ["flapping"]),
    "binds flapping, a bind less": (lambda: again(port(parts=((V4, flaps()),)), seen(LOCAL)), Row.LOST_BIND, UP, []),
    "binds flapping, lost bind back": (lambda: again(lost(parts=((V4, flaps()),)), seen(V4)), Row.BIND_RECOVERED, UP, []),
    "binds flapping, other program": (lambda: again(port(parts=((V4, flaps()),)), seen(programs=("apache2",))), Row.SEEN, UP, ["replaced"]),
    "binds flapping, a bind more": (lambda: again(port(parts=((V4, flaps()),)), seen(V4, V6)), Row.SEEN, UP, []),
    "binds still for almost an hour": (lambda: again(port(parts=((V4, flaps(HOUR - TICK)),))), Row.SEEN, UP, []),
    "binds still for an hour": (lambda: again(port(parts=((V4, flaps(HOUR)),))), Row.STABLE, UP, ["stable"]),
    "binds still for an hour, a bind less": (lambda: again(lost(parts=((V4, flaps(HOUR)),)), seen(LOCAL)), Row.STABLE, UP, ["stable"]),
    "binds still for an hour, loses a bind now": (lambda: again(port(parts=((V4, flaps(HOUR)),)), seen(LOCAL)), Row.LOST_BIND, UP, []),
    # messages of a day
    "gone, tenth message": (lambda: gone(port(told=told_at(9))), Row.DOWN, DOWN, ["down"]),
    "gone, eleventh message": (lambda: gone(port(told=told_at(10))), Row.FLAPPING, DOWN, ["flapping"]),
    "back, eleventh message": (lambda: again(down(told=told_at(10))), Row.FLAPPING, UP, ["flapping"]),
    "a bind less, eleventh message": (lambda: again(port(told=told_at(10)), seen(LOCAL)), Row.FLAPPING, UP, ["flapping"]),
    "gone, first of ten messages a day ago": (lambda: gone(port(told=(NOW - DAY, *told_at(10)[1:]))), Row.DOWN, DOWN, ["down"]),
    "gone, twelfth message": (lambda: gone(port(told=told_at(11))), Row.FLAPPING, DOWN, ["flapping"]),
    "gone, thirteenth message": (lambda: gone(port(told=told_at(12))), Row.FLAPPING, DOWN, []),
    "still for an hour, eleven messages": (lambda: again(flapping(ago=HOUR, told=told_at(11))), Row.STABLE, UP, ["stable"]),
    "still for an hour, twelve messages": (lambda: again(flapping(ago=HOUR, told=told_at(12))), Row.SEEN, UP, []),
    "still for an hour, twelve messages, down": (lambda: gone(flapping("down", HOUR, told=told_at(12))), Row.STILL_DOWN, DOWN, []),
    "other program, tenth message": (lambda: again(port(told=told_at(9)), seen(programs=("apache2",))), Row.SEEN, UP, ["replaced"]),
    "other program, eleventh message": (lambda: again(port(told=told_at(10)), seen(programs=("apache2",))), Row.FLAPPING, UP, ["flapping"]),
    "other pid, eleventh message, a note": (lambda: again(port(told=told_at(10)), seen(pids=(8,))), Row.SEEN, UP, ["restarted"]),
    "other pid, eleventh message, of which a rule wants notes": (lambda: again(port(told=told_at(10)), seen(pids=(8,)), terms=NOTES), Row.SEEN, UP, []),
    "a bind more, eleventh message": (lambda: again(port(told=told_at(10)), seen(V4, V6)), Row.SEEN, UP, []),
    # while it flaps there is no event
    "flapping, seen": (lambda: again(flapping()), Row.SEEN, UP, []),
    "flapping, gone": (lambda: gone(flapping()), Row.DOWN, DOWN, []),
    "flapping, back": (lambda: again(flapping("down")), Row.RECOVERED, UP, []),
    "flapping, still gone": (lambda: gone(flapping("down")), Row.STILL_DOWN, DOWN, []),
    "flapping, other pid": (lambda: again(flapping(), seen(pids=(8,))), Row.SEEN, UP, []),
    "flapping, other program": (lambda: again(flapping(), seen(programs=("apache2",))), Row.HELD, DOWN, []),
    "flapping, a bind more": (lambda: again(flapping(), seen(V4, V6)), Row.SEEN, UP, []),
    "flapping, a bind less": (lambda: again(flapping(), seen(LOCAL)), Row.LOST_BIND, UP, []),
    "flapping, lost bind back": (lambda: again(flapping(addresses=(LOCAL,), lost=(V4,)), seen(V4, LOCAL)), Row.BIND_RECOVERED, UP, []),
    "flapping, a bind less, fourth change": (lambda: again(flapping(parts=((V4, CHANGES),)), seen(LOCAL)), Row.LOST_BIND, UP, []),
    "flapping, accepted": (lambda: gone(flapping("down"), accepted=NOW), Row.RETIRED, REMOVED, ["retired"]),
    # until it held still
    "still for almost an hour": (lambda: again(flapping(ago=HOUR - TICK)), Row.SEEN, UP, []),
    "still for an hour": (lambda: again(flapping(ago=HOUR)), Row.STABLE, UP, ["stable"]),
    "still for an hour, down": (lambda: gone(flapping("down", HOUR)), Row.STABLE, DOWN, ["stable"]),
    "still for almost an hour, down": (lambda: gone(flapping("down", HOUR - TICK)), Row.STILL_DOWN, DOWN, []),
    "still for an hour, down, asked once": (lambda: gone(flapping("down", HOUR), confirmed=False), Row.STABLE, DOWN, ["stable"]),
    "still for an hour, other pid": (lambda: again(flapping(ago=HOUR), seen(pids=(8,))), Row.SEEN, UP, []),
    "still for an hour, goes down now": (lambda: gone(flapping(ago=HOUR)), Row.DOWN, DOWN, []),
    "still for an hour, comes back now": (lambda: again(flapping("down", HOUR)), Row.RECOVERED, UP, []),
    "still for an hour, loses a bind now": (lambda: again(flapping(ago=HOUR), seen(LOCAL)), Row.LOST_BIND, UP, []),
    "still for an hour, misses one of two": (lambda: gone(flapping(ago=HOUR), down_after=2), Row.MISSED, UP, []),
    "still for an hour, the clock jumped": (lambda: again(flapping(ago=HOUR), jumped=True), Row.STABLE, UP, ["stable"]),
    "still for an hour, seen for almost one": (lambda: again(flapping(ago=HOUR), clock=clock(NOW - TICK)), Row.SEEN, UP, []),
    "still for half an hour, seen for an hour": (lambda: again(flapping(), clock=clock(NOW + HOUR / 2)), Row.STABLE, UP, ["stable"]),
    "not flapping, still for an hour": (lambda: again(port(presence=changed(HOUR))), Row.SEEN, UP, []),
}  # fmt: skip


@pytest.mark.parametrize(("take", "row", "status", "events"), CASES.values(), ids=CASES)
def test_an_observation_takes_a_row_of_the_table(
    take: Callable[[], Transition], row: Row, status: str | None, events: list[str]
) -> None:
    step = take()
    assert (step.row, step.port and step.port.status, told(step)) == (row, status, events)


def test_every_row_is_taken() -> None:
    # Without evidence no port is evaluated: the host counts a failure, which tests of whole histories show.
    assert {row for _, row, _, _ in CASES.values()} == set(Row) - {Row.NO_EVIDENCE}


def test_the_table_is_the_agreed_one() -> None:
    agreed = (ROOT / "tests" / "fixtures" / "states" / "table.md").read_text(encoding="utf-8").splitlines()[2:]
    assert [f"| {row.stored} | {row.observed} | {row.then} | {row.event} |" for row in TABLE] == agreed


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    agreed = (ROOT / "tests" / "fixtures" / "states" / "table.md").read_text(encoding="utf-8")
    assert f"<!-- table -->\n{agreed}<!-- end of table -->" in page


@pytest.mark.parametrize("before", [port(), down(), candidate(), flapping(), lost(LAN), hid(down()), paused(lost())])
@pytest.mark.parametrize("take", [lambda before: again(before, seen(LOCAL, pids=(8,))), gone, hidden])
def test_a_step_leaves_the_port_that_it_was_given_alone(take: Callable[[Port], Transition], before: Port) -> None:
    copy = dataclasses.replace(before)
    take(before)
    assert before == copy


# ── what is kept of a port ──────────────────────────────────────────────────────────────────────


def test_a_new_port_is_kept_as_it_was_seen() -> None:
    expected = port(
        status_since=NOW, first_seen_at=NOW, addresses=(V4, V6), uids=(33,), units=("nginx.service",), pids=(7, 8),
        told=(NOW,), young_since=clock(NOW),
    )  # fmt: skip
    assert appear(80, seen(V4, V6, pids=(7, 8), uids=(33,), units=("nginx.service",))).port == expected


@pytest.mark.parametrize(
    ("look_", "at_baseline"), [(FIRST, True), (look(before=frozenset({80})), True), (look(), False)]
)
def test_a_port_that_the_last_answer_had_counts_as_there_at_the_baseline(look_: Evidence, at_baseline: bool) -> None:
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


def test_a_candidate_keeps_the_unit_that_a_look_does_not_show() -> None:
    before = candidate(units=("docker:1",), comms=("nginx",))
    step = again(before, seen(programs=("nginx: worker",), comms=("nginx",)))
    assert [(own.unit, own.programs) for own in owners.of(kept(step))] == [("docker", ("nginx: worker",))]
    assert owners.of(kept(again(before, seen(programs=(), pids=())))) == owners.of(before)
    # A program that has it in its place is another owner.
    assert [str(own) for own in owners.of(kept(again(before, seen(programs=("java",)))))] == ["java"]


def test_a_candidate_that_never_counted_counts() -> None:
    assert kept(again(candidate(counted_at=None))).streak == 2


def test_a_port_that_is_missing_counts_its_misses() -> None:
    first = kept(gone(port(), down_after=3))
    assert (first.misses, first.counted_at, first.last_seen_at) == (1, NOW, NOW - FIVE)
    assert first.seen_clock == clock(NOW - FIVE)
    extra = kept(gone(first, at=NOW + TICK, seen_at=NOW, down_after=3))
    assert (extra.misses, extra.counted_at, extra.last_seen_at) == (1, NOW, NOW - FIVE)
    second = kept(gone(extra, at=NOW + FIVE, seen_at=NOW, down_after=3))
    assert (second.misses, second.counted_at, second.last_seen_at) == (2, NOW + FIVE, NOW - FIVE)
    assert second.seen_clock == clock(NOW - FIVE)
    back = kept(again(second, at=NOW + 2 * FIVE, down_after=3))
    assert (back.misses, back.counted_at, back.last_seen_at, back.seen_clock) == (0, None, None, None)
    third = kept(gone(second, at=NOW + 2 * FIVE, down_after=3))
    assert (third.status, third.misses, third.counted_at) == ("down", 0, None)
    assert (third.last_seen_at, third.seen_clock) == (NOW - FIVE, clock(NOW - FIVE))


def test_a_port_that_was_never_seen_is_missing_since_it_was_evaluated() -> None:
    assert kept(absent()).seen_clock == clock(NOW)
    assert kept(absent(FIRST)).seen_clock == 0.0


def test_a_grace_starts_at_the_first_look_after_a_reboot_and_a_second_one_does_not_extend_it() -> None:
    first = kept(gone(port(), rebooted=True))
    assert first.grace_until == NOW + 2 * FIVE
    second = kept(gone(first, at=NOW + FIVE, rebooted=True, grace_until=NOW + 9 * FIVE))
    assert second.grace_until == NOW + 2 * FIVE
    assert kept(again(second)).grace_until is None
    assert kept(gone(first, at=NOW + 2 * FIVE)).grace_until is None


def test_a_grace_of_nothing_lasts_until_the_second_look_of_the_boot() -> None:
    first = gone(port(), rebooted=True, grace_until=NOW)
    assert (first.row, told(first)) == (Row.GRACE, [])
    second = gone(kept(first), at=NOW + TICK, grace_until=NOW, down_after=3)
    assert (second.row, told(second)) == (Row.DOWN, ["down"])


def test_a_second_boot_after_the_grace_has_a_first_look_of_its_own() -> None:
    first = kept(gone(port(), rebooted=True))
    again_booted = gone(first, at=NOW + 2 * FIVE, rebooted=True, grace_until=NOW + 4 * FIVE)
    assert (again_booted.row, told(again_booted)) == (Row.GRACE, [])


@pytest.mark.parametrize(
    ("look_", "in_grace"),
    [
        (look(), False),
        (look(grace_until=NOW - TICK), False),
        (look(grace_until=NOW), False),
        (look(grace_until=NOW + TICK), True),
        (look(rebooted=True, grace_until=NOW), True),
    ],
)
def test_missing_ports_have_time_until_the_end_of_the_grace_and_the_second_look(
    look_: Evidence, in_grace: bool
) -> None:
    assert look_.in_grace is in_grace


# ── the first look of a boot ────────────────────────────────────────────────────────────────────

OTHER = {"programs": ("apache2",), "comms": ("apache2",), "uids": (33,), "units": ("a.service",), "pids": (8,)}


def test_the_first_look_of_a_boot_takes_no_owners_and_binds_and_the_second_one_tells_of_them() -> None:
    first = again(port(), seen(V4, V6, inodes=(5,), **OTHER), rebooted=True, tool="proc")
    assert (first.row, told(first)) == (Row.SEEN, [])
    # So the second one has the same pid, and nothing is a restart.
    waits = PortOwner(programs=("nginx",), tool="ss", binds=(V4,), waits=True)
    assert kept(first) == port(pids=(8,), inodes=(5,), owners=(waits,))
    second = again(kept(first), seen(V4, V6, inodes=(5,), **OTHER), at=NOW + FIVE)
    assert told(second) == ["replaced", "rebound"]
    assert [one.details["before"] for one in second.drafts] == [["nginx"], [V4]]
    assert kept(second) == port(
        addresses=(V4, V6), inodes=(5,), notices=(("rebound", clock(NOW + FIVE)),),
        presence=Changes((clock(NOW + FIVE),)), told=(NOW + FIVE, NOW + FIVE), **OTHER,
    )  # fmt: skip


def test_what_a_login_started_is_young_at_the_baseline() -> None:
    for unit, is_mature in (
        ("a.service", True), ("session-3.scope", False), ("tmux-spawn-5.scope", False), ("machine-a.scope", True),
    ):  # fmt: skip
        assert (kept(appear(80, seen(units=(unit,)), FIRST)).young_since is None) is is_mature, unit


def test_another_reader_shows_which_sockets_are_whose() -> None:
    before = port(inodes=(5,), owners=(PortOwner(programs=("nginx",), tool="ss", pids=(7,), inodes=(5,), binds=(V4,)),))
    after = kept(again(before, seen(inodes=()), learning=True))
    assert (after.inodes, [own.inodes for own in owners.of(after)]) == ((), [()])


def test_a_restart_of_the_host_is_no_restart_of_its_programs() -> None:
    first = kept(again(port(), seen(pids=(8,)), rebooted=True))
    assert told(again(first, seen(pids=(8,)), at=NOW + FIVE)) == []
    assert told(again(first, seen(pids=(9,)), at=NOW + FIVE)) == ["restarted"]


def test_the_first_look_of_a_boot_tells_that_a_port_is_back_but_not_with_which_binds() -> None:
    first = again(down(addresses=(LAN, LOCAL)), seen(LOCAL), rebooted=True)
    assert (first.row, told(first), kept(first).addresses) == (Row.RECOVERED, ["recovered"], (LAN, LOCAL))
    waiting = again(kept(first), seen(LOCAL), at=NOW + FIVE, grace_until=NOW + 2 * FIVE)
    assert (told(waiting), kept(waiting).addresses, kept(waiting).lost) == ([], (LAN, LOCAL), ())
    second = again(kept(first), seen(LOCAL), at=NOW + FIVE, grace_until=NOW)
    assert (second.row, told(second)) == (Row.LOST_BIND, ["rebound"])


def test_the_first_look_of_a_boot_neither_loses_nor_finds_a_bind() -> None:
    lost_now = again(port(addresses=(LAN, LOCAL)), seen(LOCAL), rebooted=True, grace_until=NOW)
    assert (lost_now.row, told(lost_now), kept(lost_now).lost) == (Row.SEEN, [], ())
    found_now = again(lost(), seen(V4, LOCAL), rebooted=True)
    assert (found_now.row, told(found_now), kept(found_now)) == (Row.SEEN, [], lost())
    assert told(again(kept(found_now), seen(V4, LOCAL), at=NOW + FIVE)) == ["recovered"]


def test_a_port_that_another_one_moved_to_in_the_first_look_of_a_boot_is_kept_as_it_was_seen() -> None:
    step = appear(
        50000,
        seen(LAN, **OTHER),
        look(rebooted=True),
        heir_of=port(40000, first_seen_at=NOW - 9 * DAY, at_baseline=True),
    )
    assert (kept(step).first_seen_at, kept(step).at_baseline) == (NOW - 9 * DAY, True)
    assert (step.row, told(step)) == (Row.NEW, [])
    assert (kept(step).addresses, kept(step).programs, kept(step).tool) == ((LAN,), ("apache2",), "ss")


# ── attributes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["programs", "pids", "uids", "units", "comms", "inodes"])
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
    assert only(appear()) == Draft(EventKind.NEW, "It was not there before", since=NOW)
    proven = only(again(candidate(streak=2)))
    assert proven == Draft(EventKind.NEW, "It was not there before, and it stays", since=NOW - DAY)


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
    assert (expired.since, expired.last_seen) == (NOW - 2 * DAY, NOW - 31 * DAY)
    both = only(gone(down(last_seen_at=NOW - 31 * DAY), accepted=NOW))
    assert both.reason.startswith("Accepted")


def test_a_lost_bind_that_retires_is_not_expected_any_more() -> None:
    accepted = again(lost(LAN, DMZ, parts=((V4, CHANGES),)), seen(LOCAL), accepted=NOW)
    assert only(accepted).reason == "Accepted by a person; 10.0.0.1, 192.0.2.1 is not expected any more"
    assert (only(accepted).since, only(accepted).details) == (NOW - HOUR, {"lost": [LAN, DMZ]})
    # What closes an alert for good is always told, and does not count.
    assert accepted.port == port(addresses=(LOCAL,))
    expired = again(lost(lost_since=NOW - 31 * DAY), seen(LOCAL))
    assert only(expired).reason == "Lost since 2025-12-02 12:00 UTC; 0.0.0.0 is not expected any more"
    # So it is no `recovered` when it is back.
    assert told(again(kept(accepted), seen(LAN, LOCAL), at=NOW + FIVE)) == ["rebound"]


def test_a_bind_that_is_lost_for_as_long_as_an_owner_is_gone_retires_with_it() -> None:
    ago = 30 * DAY
    before = dataclasses.replace(left(ago), lost=(V6,), lost_since=NOW - ago, lost_clock=clock(NOW - ago))
    step = again(before, seen(pids=(7,)))
    assert (told(step), kept(step).lost, kept(step).paused) == (["retired"], (), False)


def test_a_bind_that_is_lost_since_later_than_an_owner_is_gone_is_told_when_that_retires() -> None:
    before = dataclasses.replace(left(30 * DAY), lost=(V6,), lost_since=NOW - HOUR, lost_clock=clock(NOW - HOUR))
    step = again(before, seen(pids=(7,)))
    assert (told(step), step.drafts[-1].since, kept(step).paused) == (["retired", "rebound"], NOW - HOUR, False)
    full = again(dataclasses.replace(before, told=told_at(12)), seen(pids=(7,)))
    assert (told(full), kept(full).paused) == (["retired"], True)
    flaps_on = again(dataclasses.replace(before, presence=flaps()), seen(pids=(7,)))
    assert (told(flaps_on), kept(flaps_on).paused) == (["retired"], False)


def test_moved_says_where() -> None:
    event = only(gone(port(EPHEMERAL), heir=50000))
    assert (event.since, event.last_seen, event.details) == (NOW - DAY, NOW - FIVE, {"to": 50000})


def test_owners_say_what_was_before() -> None:
    assert only(again(port(), seen(pids=(8,)))).details == {"before": [7]}
    other = {"before": ["nginx"], "was": "nginx", "owner": "apache2"}
    assert only(again(port(), seen(programs=("apache2",)))).details == other


def test_a_cut_name_is_the_program_that_it_was_cut_from() -> None:
    known = port(programs=("prometheus-node",), pids=(123,))
    cut = seen(programs=("prometheus-node-exporter",), pids=(123,))
    assert told(again(known, cut)) == []
    assert told(again(dataclasses.replace(known, programs=("prom",)), cut)) == ["replaced"]


@pytest.mark.parametrize(
    ("comms", "programs", "row"),
    [
        # By the kernel's names, if both looks show them; it has cut none of them off.
        (("nginx",), ("apache2",), []),
        (("apache2",), ("nginx",), ["replaced"]),
        (("apache2", "nginx"), ("apache2",), []),
        ((), ("apache2",), ["replaced"]),
    ],
)
def test_programs_are_compared_by_the_names_of_the_kernel(
    comms: tuple[str, ...], programs: tuple[str, ...], row: list[str]
) -> None:
    assert told(again(port(comms=("nginx",)), seen(comms=comms, programs=programs))) == row


@pytest.mark.parametrize("name", ["comms", "programs"])
@pytest.mark.parametrize(("count", "events"), [(limits.OWNERS - 1, ["replaced"]), (limits.OWNERS, [])])
def test_with_very_many_programs_another_one_may_have_been_there(name: str, count: int, events: list[str]) -> None:
    before = port(**{name: tuple(f"worker{number:02}" for number in range(count))})
    assert told(again(before, seen(**{name: ("apache2",)}))) == events


@pytest.mark.parametrize(
    ("shown", "comms", "then"),
    [
        ("nginx", "nginx", "nginx: master"),
        ("nginx: worker", "nginx", "nginx: worker"),
        ("apache2", "apache2", "apache2"),
        ("nginx", None, "nginx"),
    ],
)
def test_a_name_of_the_kernel_does_not_replace_that_of_a_tool(shown: str, comms: str | None, then: str) -> None:
    names = () if comms is None else (comms,)
    before = port(programs=("nginx: master",), comms=("nginx",), tool="netstat")
    assert kept(again(before, seen(programs=(shown,), comms=names))).programs == (then,)
    assert kept(again(port(programs=(), comms=names), seen(programs=(shown,), comms=names))).programs == (shown,)


# ── binds ───────────────────────────────────────────────────────────────────────────────────────


def test_a_lost_bind_is_a_severe_rebound() -> None:
    step = again(port(addresses=(V4, LOCAL)), seen(LOCAL))
    assert (kept(step).addresses, kept(step).lost, kept(step).lost_since) == ((LOCAL,), (V4,), NOW)
    assert (kept(step).lost_clock, kept(step).parts, kept(step).presence) == (
        clock(NOW),
        ((V4, changed(0 * FIVE)),),
        NONE,
    )
    event = only(step)
    assert (event.kind, event.since, event.last_seen) == (EventKind.REBOUND, NOW, NOW - FIVE)
    assert event.details == {"severe": True, "lost": [V4], "before": [V4, LOCAL]}
    assert event.reason == "It does not listen on 0.0.0.0 any more, only on 127.0.0.1"


def test_a_second_lost_bind_is_told_and_the_loss_is_as_old_as_the_first() -> None:
    step = again(lost(DMZ, addresses=(LAN, LOCAL)), seen(LOCAL))
    assert (step.row, kept(step).lost, kept(step).lost_since) == (Row.LOST_BIND, (LAN, DMZ), NOW - HOUR)
    assert kept(step).lost_clock == clock(NOW - HOUR)
    assert only(step).reason == "It does not listen on 10.0.0.1 any more, only on 127.0.0.1"
    assert only(step).details["lost"] == [LAN, DMZ]


def test_lost_binds_that_are_partly_back_are_still_lost() -> None:
    partly = kept(again(lost(LAN, DMZ), seen(LAN, LOCAL)))
    assert (partly.addresses, partly.lost, partly.lost_since) == ((LAN, LOCAL), (DMZ,), NOW - HOUR)
    assert partly.lost_clock == clock(NOW - HOUR)
    step = again(partly, seen(LAN, DMZ, LOCAL))
    assert (kept(step).lost, kept(step).lost_since, kept(step).lost_clock) == ((), None, None)
    assert only(step).since == NOW - HOUR
    assert only(step).details == {"down_for": 3600.0, "lost": [DMZ]}


def test_one_lost_bind_back_and_another_one_lost() -> None:
    step = again(lost(LAN, addresses=(DMZ, LOCAL)), seen(LAN, LOCAL))
    assert (step.row, kept(step).lost, kept(step).lost_since) == (Row.LOST_BIND, (DMZ,), NOW - HOUR)


def test_a_bind_that_is_gained_while_another_one_is_lost_is_told() -> None:
    event = only(again(lost(DMZ), seen(LAN, LOCAL)))
    assert event.details == {"severe": False, "before": [LOCAL]}
    assert event.reason == "It listens on 10.0.0.1, 127.0.0.1 now, before on 127.0.0.1"


@pytest.mark.parametrize(("count", "events"), [(limits.OWNERS - 1, ["rebound"]), (limits.OWNERS, [])])
def test_with_very_many_binds_one_more_may_have_been_there(count: int, events: list[str]) -> None:
    many = tuple(f"127.0.0.{number}" for number in range(count))
    assert told(again(port(addresses=many), seen(*many, LOCAL.replace("1", "99")))) == events
    # One that is gone was there.
    assert told(again(port(addresses=many), seen(*many[1:]))) == ["rebound"]


@pytest.mark.parametrize(("tool", "events"), [("ss", ["rebound"]), ("proc", [])])
def test_the_interface_of_a_bind_is_compared_between_looks_of_one_tool(tool: str, events: list[str]) -> None:
    assert told(again(port(addresses=("10.0.0.1%eth0", LOCAL)), seen(LAN, LOCAL), tool=tool)) == events
    assert told(again(port(addresses=(LAN, LOCAL)), seen("10.0.0.1%eth0", LOCAL), tool=tool)) == events


@pytest.mark.parametrize(
    ("bind", "shown", "events"),
    [
        # Another reader may name a bind differently: any wildcard stands for one that was lost, and no bind is lost now.
        (V4, (LOCAL,), []),
        (V4, (LOCAL, V6), ["recovered"]),
        (LAN, (LOCAL, V6), []),
        (LAN, (LAN, LOCAL), ["recovered"]),
    ],
)
def test_the_first_look_of_another_reader_finds_lost_binds(
    bind: str, shown: tuple[str, ...], events: list[str]
) -> None:
    assert told(again(lost(bind), seen(*shown), learning=True)) == events
    assert told(again(port(addresses=(DMZ, LOCAL)), seen(*shown, **OTHER), learning=True)) == []


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


def test_that_a_port_was_missing_before_a_boot_is_one_change_and_that_it_is_back_after_it_another() -> None:
    missing = kept(gone(port(), down_after=2))
    first = kept(gone(missing, at=NOW + FIVE, rebooted=True))
    assert kept(gone(first, at=NOW + HOUR)).presence == missing.presence == changed(0 * FIVE)
    assert kept(again(first, at=NOW + 2 * FIVE)).presence == changed(0 * FIVE, -2 * FIVE)
    in_grace = kept(gone(port(), rebooted=True))
    assert kept(again(in_grace, at=NOW + FIVE)).presence == NONE


def test_a_bind_has_until_the_end_of_the_grace_to_come_back() -> None:
    waiting = kept(again(port(addresses=(V4, LOCAL), late=(V4,)), seen(LOCAL), grace_until=NOW + TICK))
    assert (waiting.addresses, waiting.lost, waiting.lost_since) == ((V4, LOCAL), (), None)
    assert told(again(waiting, seen(V4, LOCAL), grace_until=NOW + TICK)) == []
    assert told(again(waiting, seen(LOCAL), grace_until=NOW)) == ["rebound"]


def test_a_bind_that_was_seen_since_the_boot_is_lost_at_once() -> None:
    known = port(addresses=(V4, LAN, LOCAL))
    assert told(again(known, seen(LAN, LOCAL), grace_until=NOW + TICK)) == ["rebound"]
    # One is late, another one is lost: the late one is expected further on.
    first = kept(again(known, seen(LAN, LOCAL), rebooted=True))
    assert first.late == (V4,)
    second = again(first, seen(LOCAL), grace_until=NOW + TICK)
    assert (told(second), kept(second).lost, kept(second).addresses) == (["rebound"], (LAN,), (V4, LOCAL))
    third = again(kept(second), seen(LOCAL), grace_until=NOW)
    assert (told(third), kept(third).lost) == (["rebound"], (V4, LAN))


def test_a_port_that_was_down_since_before_the_boot_has_all_its_addresses_late() -> None:
    before = down(addresses=(V4, LOCAL), last_seen_at=NOW - HOUR)
    back = again(before, seen(LOCAL), booted_at=NOW - FIVE, grace_until=NOW + TICK)
    assert (told(back), kept(back).late, kept(back).addresses) == (["recovered"], (V4,), (V4, LOCAL))
    assert told(again(dataclasses.replace(before, last_seen_at=NOW - FIVE), seen(LOCAL), booted_at=NOW - FIVE)) == [
        "recovered",
        "rebound",
    ]


def test_a_lost_bind_is_kept_while_addresses_cannot_be_compared() -> None:
    after = kept(again(lost(), seen(V4, LOCAL), tool="netstat"))
    assert (after.lost, after.lost_since) == ((V4,), NOW - HOUR)


def test_a_port_that_goes_down_forgets_which_binds_were_lost_and_expects_them_all() -> None:
    after = kept(gone(lost(parts=((V4, flaps()),))))
    assert (after.addresses, after.lost, after.lost_since, after.lost_clock) == ((V4, LOCAL), (), None, None)
    assert (after.parts, after.presence) == ((), changed(0 * FIVE))


def test_binds_that_rules_hide_are_put_aside_and_lost_ones_stay_lost_until_the_next_look() -> None:
    before = lost(LAN, V6, addresses=(V4, LOCAL))
    first = again(before, seen(V4), is_watched={V4, V6}.__contains__, rules_changed=True)
    assert (kept(first).addresses, kept(first).lost, told(first)) == ((V4,), (LAN, V6), [])
    assert kept(first).unwatched == tuple((one, NOW) for one in sorted((LOCAL, LAN)))
    second = again(kept(first), seen(V4), is_watched={V4, V6}.__contains__)
    assert (kept(second).addresses, kept(second).lost, told(second)) == ((V4,), (V6,), [])


def test_a_bind_that_rules_show_again_is_expected_as_before() -> None:
    before = port(addresses=(LAN, LOCAL))
    aside = kept(again(before, seen(LOCAL), is_watched=LOCAL.__eq__, rules_changed=True))
    assert (aside.addresses, aside.lost, aside.unwatched) == ((LOCAL,), (), ((LAN, NOW),))
    there = again(aside, seen(LAN, LOCAL), rules_changed=True)
    assert (told(there), kept(there).addresses, kept(there).unwatched) == ([], (LAN, LOCAL), ())
    missing = again(aside, seen(LOCAL), rules_changed=True)
    assert (told(missing), kept(missing).lost, kept(missing).unwatched) == (["rebound"], (LAN,), ())


def test_a_bind_that_rules_hide_for_long_is_forgotten() -> None:
    aside = port(addresses=(LOCAL,), unwatched=((LAN, NOW - HOUR),))
    for limit, jumped, kept_aside in (
        (HOUR, False, ()),
        (HOUR + TICK, False, ((LAN, NOW - HOUR),)),
        (HOUR, True, ((LAN, NOW - HOUR),)),
    ):
        after = kept(again(aside, seen(LOCAL), is_watched=LOCAL.__eq__, forget_after=limit, jumped=jumped))
        assert after.unwatched == kept_aside, (limit, jumped)


def test_a_lost_bind_that_rules_hide_in_two_looks_is_not_watched_any_more() -> None:
    first = again(lost(parts=((V4, CHANGES),)), seen(LOCAL), is_watched=LOCAL.__eq__, rules_changed=True)
    assert (told(first), kept(first).lost, kept(first).lost_since) == ([], (V4,), NOW - HOUR)
    # Watched again meanwhile, nothing has happened.
    assert told(again(kept(first), seen(LOCAL), rules_changed=True)) == []
    second = again(kept(first), seen(LOCAL), is_watched=LOCAL.__eq__)
    assert only(second) == Draft(EventKind.UNWATCHED, "No rule watches 0.0.0.0 any more", NOW - HOUR)
    assert (kept(second).lost, kept(second).lost_since, kept(second).parts) == ((), None, ())


# ── flapping ────────────────────────────────────────────────────────────────────────────────────


def test_flapping_counts_changes_and_says_the_state() -> None:
    step = gone(port(presence=changed(HOUR, *AGO)))
    assert kept(step).presence == Changes((clock(NOW),), NOW, NOW)
    event = only(step)
    assert event.reason == (
        "4 changes between up and down within 60 min: nothing more is told of it until it holds still"
    )
    assert (event.since, event.last_seen, event.details) == (NOW - 3 * FIVE, NOW - FIVE, {"state": PortStatus.DOWN})


def test_changes_are_kept_for_the_window() -> None:
    assert kept(gone(port(presence=changed(HOUR, HOUR - TICK)))).presence == changed(HOUR - TICK, 0 * FIVE)
    assert kept(gone(flapping())).presence == Changes((clock(NOW),), NOW - DAY / 2, NOW)


def test_a_change_counts_whether_it_was_told_or_not() -> None:
    # The presence flaps, so that no change of its binds is told.
    one = flapping(addresses=(LAN, LOCAL))
    for number in range(4):
        at = NOW + number * FIVE
        step = again(one, seen(LOCAL) if number % 2 == 0 else seen(LAN, LOCAL), at=at)
        assert told(step) == []
        one = kept(step)
    assert one.parts == ((LAN, changed(*(-number * FIVE for number in range(4)))),)
    assert one.presence == flaps()


def test_flapping_up_and_without_a_bind() -> None:
    assert only(again(down(presence=CHANGES))).details == {"state": PortStatus.UP}
    event = only(again(port(parts=((V4, CHANGES),)), seen(LOCAL)))
    assert event.details == {"state": PortStatus.DOWN}
    assert event.reason.startswith("0.0.0.0: 4 changes between lost and found within 60 min")


def test_flapping_says_that_there_were_many_messages() -> None:
    event = only(gone(port(told=told_at(10), presence=changed(*AGO[1:]))))
    assert event.reason == "10 messages within a day: nothing more is told of it until it holds still"
    assert only(gone(port(told=told_at(10), presence=CHANGES))).reason.startswith("4 changes")


def test_stable_says_the_state() -> None:
    up = again(flapping(ago=HOUR))
    assert only(up) == Draft(
        EventKind.STABLE, "It held still since 2026-01-02 11:00:00 UTC and is up", NOW - DAY / 2, None, {"state": "up"}
    )
    assert kept(up).presence == NONE
    assert only(gone(flapping("down", HOUR))).details == {"state": "down"}
    without = again(lost(parts=((V4, flaps(HOUR)),)), seen(LOCAL))
    assert only(without).details == {"state": "down", "lost": [V4]}
    assert only(without).reason == (
        "It held still since 2026-01-02 11:00:00 UTC: it listens on 127.0.0.1, and not on 0.0.0.0"
    )
    assert (kept(without).parts, kept(without).lost) == ((), (V4,))


def test_what_flapped_within_a_port_that_flapped_is_stable_with_it() -> None:
    step = again(flapping(ago=HOUR, parts=((V4, flaps(2 * HOUR)), ("127.0.0.1", flaps(FIVE)))))
    assert told(step) == ["stable"]
    # One that still flaps has its own.
    assert kept(step).parts == (("127.0.0.1", flaps(FIVE)),)
    assert told(again(kept(step), at=NOW + FIVE)) == []
    # It waits for the port.
    assert told(again(flapping(ago=FIVE, parts=((V4, flaps(2 * HOUR)),)))) == []


def test_a_look_without_names_after_a_boot_says_nothing_of_the_owner() -> None:
    before = port(comms=("nginx",), inodes=(7000,))
    blind = seen(programs=(), comms=(), pids=(), inodes=(9000,), listeners=(Listener("tcp", V4, 80, inode=9000),))
    after = kept(again(before, blind, rebooted=True))
    python = Listener("tcp", V4, 80, 9, "python3", inode=9000, comm="python3")
    other = seen(programs=("python3",), comms=("python3",), pids=(9,), inodes=(9000,), listeners=(python,))
    assert told(again(after, other, at=NOW + HOUR, booted_at=NOW)) == ["replaced"]


def test_a_bind_that_was_lost_in_silence_is_told_when_the_port_is_stable() -> None:
    step = again(flapping(ago=HOUR), seen(LOCAL))
    assert told(step) == []
    event = only(again(kept(step), seen(LOCAL), at=NOW + FIVE))
    assert (event.kind, event.details) == (EventKind.STABLE, {"state": "down", "lost": [V4]})


def test_a_port_is_not_stable_in_the_look_in_which_an_owner_is_back_in_silence() -> None:
    both = seen(programs=("apache2", "nginx"), pids=(8, 7))
    step = again(dataclasses.replace(left(), presence=flaps(HOUR)), both)
    assert (step.row, told(step)) == (Row.OWNER_BACK, [])
    assert told(again(kept(step), both, at=NOW + FIVE)) == ["stable"]


def test_a_bind_that_is_lost_in_the_look_in_which_an_owner_is_back_is_one_message_and_one_change() -> None:
    there, away = left().owners
    before = dataclasses.replace(left(), owners=(there, dataclasses.replace(away, joined=clock(NOW - 2 * HOUR))))
    step = again(before, seen(LOCAL, programs=("apache2",), pids=(8,)))
    assert (told(step), dict(kept(step).parts)[V4], kept(step).told) == (["rebound"], changed(0 * FIVE), (NOW,))


def test_a_port_that_goes_down_is_told_through_the_silence_of_its_binds() -> None:
    first = gone(port(parts=((V4, flaps()),)))
    assert (told(first), kept(first).parts, kept(first).presence) == (["down"], (), changed(0 * FIVE))
    assert told(again(kept(first), seen(LOCAL), at=NOW + FIVE)) == ["recovered", "rebound"]


def test_a_port_is_told_at_most_twelve_times_a_day() -> None:
    one, news = port(), []
    # It changes every 2 hours, so it is never flapping by its pace.
    for hours in range(0, 21, 2):
        at = NOW + hours * HOUR
        step = (gone if one.status == "up" else again)(one, at=at, seen_at=at - FIVE)
        one = kept(step)
        news += told(step)
    assert news == ["down", "recovered"] * 5 + ["flapping"]
    stable = gone(one, at=NOW + 21 * HOUR)
    assert told(stable) == ["stable"]
    # From here on there were twelve messages.
    one = kept(stable)
    for hours in (22, 23):
        step = (gone if one.status == "up" else again)(one, at=NOW + hours * HOUR)
        assert told(step) == []
        one = kept(step)
    assert one.presence == Changes((clock(NOW + 23 * HOUR),), NOW + 22 * HOUR, NOW + 23 * HOUR)
    # Still for an hour, but the first message is not a day old.
    almost = gone(one, at=NOW + DAY - TICK, clock=clock(NOW + DAY))
    assert told(almost) == []
    over = gone(one, at=NOW + DAY)
    assert (over.row, told(over), kept(over).told[0]) == (Row.STABLE, ["stable"], NOW + 2 * HOUR)


@pytest.mark.parametrize(
    ("take", "messages"),
    [
        (lambda before: gone(before), 1),
        (lambda before: again(before, seen(LOCAL)), 1),
        (lambda before: again(before, seen(programs=("apache2",))), 1),
        (lambda before: again(before, seen(V4, V6)), 1),
        # Notes are no messages.
        (lambda before: again(before, seen(pids=(8,))), 0),
        (lambda before: again(before), 0),
    ],
)
def test_messages_of_the_last_day_are_kept(take: Callable[[Port], Transition], messages: int) -> None:
    before = port(told=(NOW - DAY, NOW - DAY + TICK, NOW - HOUR))
    expected = (NOW - DAY + TICK, NOW - HOUR, NOW) if messages else before.told
    assert kept(take(before)).told == expected


# ── a brake for notices ─────────────────────────────────────────────────────────────────────────


def test_notices_of_one_kind_end_with_the_threshold() -> None:
    one = port(notices=tuple(("rebound", clock(NOW - ago)) for ago in AGO))
    last = only(again(one, seen(V4, V6)))
    assert last.reason == (
        f"It listens on {V4}, {V6} now, before on {V4}. That is change 4 of this kind within 60 min: nothing more is told "
        "of it until there was none for so long"
    )
    # Each kind by itself.
    assert told(again(one, seen(pids=(8,)))) == ["restarted"]


def test_a_notice_counts_for_the_window() -> None:
    def notices(*ago: timedelta) -> tuple[tuple[str, float], ...]:
        return tuple(("rebound", clock(NOW - one)) for one in ago)

    other = seen(V4, V6)
    almost = again(port(notices=notices(HOUR - TICK, *AGO[1:])), other)
    assert (almost.row, told(almost)) == (Row.BRAKED, ["rebound"])
    longer = again(port(notices=notices(HOUR, *AGO[1:])), other)
    assert (longer.row, told(longer)) == (Row.SEEN, ["rebound"])
    assert kept(longer).notices == notices(*AGO[1:], 0 * FIVE)
    silent = again(port(notices=notices(2 * HOUR, 2 * HOUR, 2 * HOUR, HOUR - TICK)), other)
    assert (silent.row, told(silent)) == (Row.BRAKED, [])
    over = again(port(notices=notices(2 * HOUR, 2 * HOUR, 2 * HOUR, HOUR)), other)
    assert (over.row, told(over), kept(over).notices) == (Row.SEEN, ["rebound"], notices(0 * FIVE))


# ── hidden and paused ───────────────────────────────────────────────────────────────────────────


def test_a_hidden_port_keeps_its_state() -> None:
    first = hidden(port(declared=CMDB, presence=CHANGES), listening=frozenset({80}))
    assert kept(first) == port(presence=CHANGES, hidden_since=NOW)
    second = hidden(kept(first), at=NOW + FIVE, listening=frozenset({80}))
    assert kept(second) == kept(first)


def test_a_hidden_port_that_does_not_listen_is_missing_since_the_look_before() -> None:
    first = kept(hidden(port()))
    assert (first.last_seen_at, first.seen_clock, first.status) == (NOW - FIVE, clock(NOW - FIVE), "up")
    second = kept(hidden(first, at=NOW + FIVE, seen_at=NOW))
    assert (second.last_seen_at, second.seen_clock) == (NOW - FIVE, clock(NOW - FIVE))
    event = only(gone(second, at=NOW + 2 * FIVE, confirmed=False))
    assert (event.kind, event.last_seen) == (EventKind.DOWN, NOW - FIVE)


def test_what_is_wrong_with_a_hidden_port_is_paused_in_its_second_look() -> None:
    assert only(hidden(hid(down()))) == Draft(EventKind.UNWATCHED, "No rule watches it any more", NOW - HOUR)
    before = hid(lost(lost_since=NOW - 2 * HOUR, parts=((V4, flaps()),), presence=flaps(), grace_until=NOW))
    step = hidden(before)
    assert only(step).since == NOW - 2 * HOUR
    assert (kept(step).paused, kept(step).presence, kept(step).parts, kept(step).grace_until) == (
        True,
        NONE,
        (),
        None,
    )
    assert (kept(step).lost, kept(step).hidden_since, kept(step).told) == ((V4,), NOW - FIVE, ())


def test_a_port_that_is_down_when_it_is_watched_again_has_been_so_since() -> None:
    step = gone(paused(down()))
    assert only(step) == Draft(
        EventKind.DOWN, "Still missing; last seen 2026-01-02 10:55:00 UTC", NOW - HOUR, NOW - HOUR - FIVE
    )
    assert (kept(step).paused, kept(step).hidden_since, kept(step).presence, kept(step).told) == (
        (False, None, NONE, (NOW,))
    )


def test_a_bind_that_is_lost_when_the_port_is_watched_again_has_been_so_since() -> None:
    step = again(paused(lost()), seen(LOCAL))
    assert (only(step).since, only(step).last_seen) == (NOW - HOUR, None)
    assert only(step).details == {"severe": True, "lost": [V4], "before": [LOCAL]}
    assert (kept(step).paused, kept(step).parts, kept(step).lost_since, kept(step).told) == (
        (False, (), NOW - HOUR, (NOW,))
    )


@pytest.mark.parametrize("fields", [{"rebooted": True}, {"tool": "netstat"}])
def test_a_bind_is_still_paused_after_a_look_that_does_not_judge_binds(fields: dict[str, Any]) -> None:
    step = again(paused(lost()), seen(LOCAL), accepted=NOW, **fields)
    assert (step.row, told(step), kept(step).paused) == (Row.SEEN, [], True)
    assert told(again(kept(step), seen(LOCAL), at=NOW + FIVE)) == ["rebound"]


@pytest.mark.parametrize(("before", "shown"), [(down(), seen()), (flapping(), seen()), (lost(), seen(V4, LOCAL))])
def test_what_is_over_when_the_port_is_watched_again_is_closed_without_a_word(before: Port, shown: Seen) -> None:
    step = again(paused(before), shown)
    assert (told(step), kept(step).paused, kept(step).hidden_since) == ([], False, None)
    # The next change is told.
    assert told(gone(kept(step), at=NOW + FIVE)) == ["down"]


def test_an_end_without_a_word_is_a_change_as_well() -> None:
    assert kept(again(paused(down()))).presence == changed(0 * FIVE)
    assert kept(again(paused(lost()), seen(V4, LOCAL))).parts == ((V4, changed(0 * FIVE)),)


# ── hosts that leave ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "is_open"),
    [
        (port(), False),
        (candidate(), False),
        (port(misses=1), False),
        (port(presence=CHANGES, parts=((V4, CHANGES),)), False),
        (down(), True),
        (flapping(), True),
        (port(parts=((V4, flaps()),)), True),
        (lost(), True),
    ],
)
def test_a_port_is_open_if_an_alert_of_it_may_be_open(one: Port, is_open: bool) -> None:
    assert transitions.is_open(one) is is_open


def test_a_paused_port_keeps_what_was_wrong_with_it() -> None:
    before = lost(misses=1, counted_at=NOW, grace_until=NOW, presence=flaps(), parts=((V4, CHANGES),))
    assert transitions.pause(before) == lost(misses=1, counted_at=NOW, paused=True)
    assert transitions.pause(down()) == down(paused=True)


# ── young ports, boots, declared owners ─────────────────────────────────────────────────────────

YOUNG = clock(NOW) - DAY.total_seconds()
"""Evidence clock since which a port is just mature."""


@pytest.mark.parametrize(
    ("known", "young"),
    [
        (port(), False),
        (port(young_since=YOUNG), False),
        (port(young_since=YOUNG + 1), True),
        # What is down does not get older.
        (down(young_since=YOUNG - 1000), True),
        (down(), False),
    ],
)
def test_a_port_is_young_until_it_was_watched_for_a_day(known: Port, young: bool) -> None:
    assert transitions.is_young(known, clock(NOW), DAY) is young


def test_a_port_that_goes_down_is_as_old_as_it_was() -> None:
    assert kept(gone(port(young_since=YOUNG))).young_since is None
    assert kept(gone(port(young_since=YOUNG + 1))).young_since == YOUNG + 1


@pytest.mark.parametrize(("ago", "anew"), [(HOUR, False), (HOUR + TICK, True), (FIVE, False)])
def test_a_young_port_begins_anew_after_a_long_down(ago: timedelta, anew: bool) -> None:
    before = down(status_since=NOW - ago, young_since=YOUNG)
    assert kept(again(before)).young_since == (clock(NOW) if anew else YOUNG)
    assert kept(again(down(status_since=NOW - ago))).young_since is None


def test_a_port_that_is_declared_or_that_a_rule_names_is_mature() -> None:
    assert kept(again(port(young_since=YOUNG + 1))).young_since == YOUNG + 1
    assert kept(again(port(young_since=YOUNG + 1), declared=CMDB)).young_since is None
    assert kept(again(port(young_since=YOUNG + 1), seen(listed=True))).young_since is None
    assert kept(appear(80, None, look())).young_since == clock(NOW)
    assert kept(appear(80, None, look(), declared=CMDB)).young_since is None
    assert kept(appear(80, seen(listed=True), look())).young_since is None
    assert kept(appear(80, None, FIRST)).young_since is None
    assert kept(appear(80, seen(units=("session-3.scope",)), FIRST)).young_since == 0.0


@pytest.mark.parametrize(
    ("fields", "known", "boots"),
    [
        ({"booted_at": None}, port(last_seen_at=NOW - DAY), ()),
        ({"booted_at": NOW, "rebooted": True}, port(), (0.0,)),
        ({"booted_at": NOW - HOUR}, port(last_seen_at=NOW - HOUR - TICK), (3600.0,)),
        ({"booted_at": NOW - HOUR - TICK}, port(last_seen_at=NOW - DAY), ()),
        # It was there in this boot already.
        ({"booted_at": NOW - HOUR}, port(last_seen_at=NOW - HOUR), ()),
        ({"booted_at": NOW - HOUR}, port(), ()),
        # The monitor's clock was believed in this run, whose last look was later.
        ({"booted_at": NOW + FIVE}, port(last_seen_at=NOW), (0.0,)),
        ({"booted_at": NOW - FIVE}, port(last_seen_at=NOW - DAY, boots=(1.0, 2.0, 3.0, 4.0, 5.0)), (2.0, 3.0, 4.0, 5.0, 300.0)),
    ],
)  # fmt: skip
def test_the_time_that_a_port_takes_after_a_boot_is_kept(
    fields: dict[str, Any], known: Port, boots: tuple[float, ...]
) -> None:
    assert kept(again(known, **fields)).boots == boots


def test_a_port_has_half_as_long_again_as_its_slowest_boot() -> None:
    until = [kept(gone(port(boots=boots), rebooted=True)).grace_until for boots in ((), (60.0, 900.0), (400.0,))]
    assert until == [NOW + 2 * FIVE, NOW + 1.5 * timedelta(minutes=15), NOW + 2 * FIVE]


def test_a_port_that_is_down_keeps_who_has_it_through_the_first_look_of_a_boot() -> None:
    assert kept(gone(held(), rebooted=True)).holders == held().holders
    # It is remembered, so that it is told of once.
    assert [one.joined for one in kept(gone(held())).holders] == [None]
    assert told(again(kept(gone(held())), seen(programs=("apache2",)), at=NOW + FIVE)) == []


@pytest.mark.parametrize(("status_since", "accepted"), [(NOW, True), (NOW + TICK, False)])
def test_another_owner_is_accepted_from_the_moment_on_at_which_the_port_was_down(
    status_since: datetime, accepted: bool
) -> None:
    step = again(held(status_since=status_since), seen(programs=("apache2",)), at=NOW + FIVE, accepted=NOW)
    assert (step.row is Row.TAKEN_OVER) is accepted


OWNED = Terms(1, 2 * FIVE, owner=PortOwner(unit="nginx.service"))
UNIT = {"units": ("nginx.service",)}


def test_a_declared_owner_has_to_have_the_port() -> None:
    known, own, other = port(declared=CMDB, **UNIT), seen(**UNIT), seen(programs=("apache2",), units=("a.service",))
    assert told(again(known, own, terms=OWNED)) == []
    assert (step := again(known, other, terms=OWNED)).row is Row.DOWN
    assert (told(step), kept(step).status) == (["down"], DOWN)
    # By what is known of it, also if the look shows no unit.
    assert told(again(known, seen(programs=("apache2",)), terms=OWNED)) == ["down"]
    assert told(again(known, seen(), terms=OWNED)) == []
    # Nothing is known of it: its name is all there is.
    assert told(again(port(declared=CMDB, programs=()), other, terms=OWNED)) == ["down"]
    assert told(again(down(declared=CMDB, **UNIT), own, terms=OWNED)) == ["recovered"]
    assert again(down(declared=CMDB, **UNIT), other, terms=OWNED).row is Row.HELD


def test_of_a_port_that_another_one_has_than_its_declaration_names_no_socket_is_known() -> None:
    other = seen(programs=("apache2",), units=("a.service",), inodes=(5,), uids=(33,))
    taken = kept(
        again(port(programs=("apache2",), units=("a.service",), inodes=(5,), declared=CMDB), other, terms=OWNED)
    )
    assert (taken.status, taken.inodes, taken.uids) == (DOWN, (), ())
    back = kept(again(taken, seen(**UNIT), terms=OWNED, at=NOW + FIVE))
    assert told(again(back, seen(inodes=(6,), **UNIT), terms=OWNED, at=NOW + 2 * FIVE)) == []


def test_a_declaration_that_ends_judges_nothing_of_a_port_that_others_had_and_that_is_missing() -> None:
    for before in (held(DAY), held(DAY, paused=True)):
        step = gone(dataclasses.replace(before, declared=CMDB), declared=None, accepted=NOW)
        assert (step.row, told(step), kept(step)) == (Row.HELD, [], before)
    assert told(gone(held(DAY, paused=True))) == ["down"]
    assert told(gone(down(paused=True, declared=CMDB), declared=None)) == ["down"]


@pytest.mark.parametrize(("fields", "row"), [({"rebooted": True}, Row.SEEN), ({"grace_until": NOW + TICK}, Row.SEEN), ({"grace_until": NOW}, Row.DOWN)])  # fmt: skip
def test_a_declared_owner_has_time_after_a_boot(fields: dict[str, Any], row: Row) -> None:
    other = seen(programs=("apache2",), units=("a.service",))
    before = port(declared=CMDB, **UNIT)
    own = dataclasses.replace(owners.of(before)[0], waits=True)
    assert again(dataclasses.replace(before, owners=(own,)), other, terms=OWNED, **fields).row is row


def test_a_declared_owner_that_was_seen_since_the_boot_has_no_more_time() -> None:
    other = seen(programs=("apache2",), units=("a.service",))
    assert again(port(declared=CMDB, **UNIT), other, terms=OWNED, grace_until=NOW + TICK).row is Row.DOWN


def test_of_a_port_that_comes_back_flapping_owners_are_gone_without_a_word() -> None:
    known = {"owners": shared().owners, "programs": ("apache2", "nginx"), "pids": (7, 8)}
    assert told(again(down(**known), seen(pids=(7,)))) == ["recovered", "owner_gone"]
    step = again(flapping("down", **known), seen(pids=(7,)))
    assert (told(step), [own.gone_since for own in kept(step).owners]) == ([], [None, NOW])


def test_binds_are_asked_about_only_where_rules_or_declarations_changed() -> None:
    known, only_local = port(addresses=(V4, LOCAL)), {"is_watched": LOCAL.__eq__}
    assert told(again(known, seen(LOCAL), **only_local)) == ["rebound"]
    assert kept(again(known, seen(LOCAL), **only_local)).lost == (V4,)
    step = again(known, seen(LOCAL), rules_changed=True, **only_local)
    assert (told(step), kept(step).lost, dict(kept(step).unwatched)) == ([], (), {V4: NOW})
    step = again(dataclasses.replace(known, declared=CMDB), seen(LOCAL), declared=None, **only_local)
    assert (told(step), kept(step).lost) == ([], ())
    # Nor do those that become declared, or stay so.
    for before, after in ((None, CMDB), (CMDB, CMDB)):
        step = again(dataclasses.replace(known, declared=before), seen(LOCAL), declared=after, **only_local)
        assert kept(step).lost == (V4,)


def test_an_address_that_rules_hide_is_not_lost_when_another_owner_is_seen_on_the_port() -> None:
    step = again(hid(port()), seen(LAN, programs=("apache2",)), is_watched=LAN.__eq__)
    assert (told(step), kept(step).lost) == (["replaced", "rebound"], ())
    assert not step.drafts[1].details["severe"]
    assert told(again(hid(port()), seen(LOCAL))) == ["rebound"]


def test_a_bind_that_is_put_aside_is_asked_about_in_each_look() -> None:
    aside = port(addresses=(LOCAL,), unwatched=((V4, NOW - FIVE),))
    assert kept(again(aside, seen(LOCAL), is_watched=LOCAL.__eq__)).unwatched == ((V4, NOW - FIVE),)
    assert told(again(aside, seen(LOCAL))) == ["rebound"]
    # With one of them, all are asked about while it is lost as well.
    both = lost(V4, LAN, unwatched=((V4, NOW - FIVE),))
    assert kept(again(both, seen(LOCAL), is_watched=LOCAL.__eq__)).lost == (LAN,)


def test_rules_that_hide_a_lost_bind_do_not_end_the_alert_of_an_owner_that_is_gone() -> None:
    before = dataclasses.replace(left(), lost=(LAN,), lost_since=NOW - HOUR, unwatched=((LAN, NOW - FIVE),))
    step = again(before, seen(pids=(7,)), is_watched=V4.__eq__)
    assert (told(step), kept(step).lost, kept(step).lost_since) == ([], (), None)
    without = dataclasses.replace(before, owners=())
    assert told(again(without, seen(pids=(7,)), is_watched=V4.__eq__)) == ["unwatched"]


def test_an_owner_that_leaves_and_a_bind_that_is_lost_in_one_look_are_one_message() -> None:
    owners = tuple(dataclasses.replace(own, binds=(V4, LAN) if own.pids == (7,) else (V4,)) for own in shared().owners)
    step = again(shared(owners=owners, addresses=(LAN, LOCAL, V4)), seen(LOCAL, pids=(7,)))
    assert (told(step), [name for name, _ in kept(step).parts]) == (["owner_gone"], [V4, LAN, "apache2"])
    assert set(kept(step).lost) == {LAN, V4}


def test_an_address_on_which_an_excluded_program_listens_is_no_note() -> None:
    other = Listener("tcp", LAN, 80, 9, "java")
    assert told(again(port(addresses=(LAN, V4)), seen(excluded=(other,)))) == []
    assert told(again(port(addresses=(LAN, V4)), seen())) == ["rebound"]


def test_addresses_are_no_notes_while_an_owner_is_gone_and_when_it_is_back() -> None:
    assert told(again(left(), seen(V4, LAN, pids=(7,)))) == []
    back = seen(V4, LAN, programs=("apache2", "nginx"), pids=(8, 7))
    assert told(again(left(), back)) == ["recovered"]


def test_a_port_that_is_back_in_the_hands_of_another_owner_is_one_change() -> None:
    before = port(presence=CHANGES, misses=1, last_seen_at=NOW - 2 * FIVE, seen_clock=clock(NOW - 2 * FIVE))
    step = again(before, seen(programs=("apache2",)))
    assert (step.row, told(step), kept(step).status) == (Row.FLAPPING, ["flapping"], "up")
    assert told(again(dataclasses.replace(before, presence=changed(*AGO[1:])), seen(programs=("apache2",)))) == [
        "replaced"
    ]
    # From then on the port is the other one's, and while it flaps a third one has it in its place.
    later = again(kept(step), seen(programs=("caddy",)), at=NOW + FIVE)
    assert (told(later), kept(later).status, [str(one) for one in kept(later).holders]) == ([], "down", ["caddy"])


def test_after_the_first_look_of_a_boot_only_its_numbers_tell_owners_apart() -> None:
    java = PortOwner(comms=("java",), inodes=(5,), pids=(7,), binds=(V4,))
    nginx = PortOwner(comms=("nginx",), inodes=(6,), pids=(8,), binds=(V4,))
    shown = seen(comms=("java",), programs=(), units=("app.service",), inodes=(9,), pids=(3,))
    expected = (
        dataclasses.replace(java, inodes=(9,), pids=(3,)),
        dataclasses.replace(nginx, inodes=(), pids=(), waits=True),
    )
    for before in (port(owners=(java, nginx)), down(owners=(java, nginx))):
        assert kept(again(before, shown, rebooted=True)).owners == expected
    missing = kept(gone(port(owners=(java, nginx)), rebooted=True)).owners
    assert [(own.waits, own.inodes, own.pids) for own in missing] == [(True, (), ())] * 2


def test_containers_that_show_no_program_are_told_apart_by_their_sockets() -> None:
    java, nginx = (
        PortOwner("docker", comms=(name,), inodes=(inode,), binds=(V4,)) for name, inode in (("java", 5), ("nginx", 6))
    )
    blind = {"programs": (), "pids": (), "units": ("docker:1", "docker:2")}
    before = port(comms=("java", "nginx"), inodes=(5, 6), owners=(java, nginx))
    both = kept(again(before, seen(inodes=(5, 6), **blind)))
    assert both.owners == (java, nginx)
    step = again(both, seen(inodes=(6,), **blind), at=NOW + FIVE)
    assert (told(step), only(step).details["owner"]) == (["owner_gone"], "java (docker)")
    # One in another socket may be any of them.
    assert told(again(both, seen(inodes=(6, 7), **blind), at=NOW + FIVE)) == []


def test_programs_that_rules_exclude_make_no_restart_another_thing() -> None:
    java = Listener("tcp", LAN, 80, 9, "java", inode=4)
    assert told(again(port(inodes=(5,)), seen(inodes=(6,), excluded=(java,)))) == ["restarted"]
    before = kept(again(port(inodes=(5,)), seen(inodes=(5,), excluded=(java,))))
    assert told(again(before, seen(inodes=(6,)), at=NOW + FIVE)) == ["restarted"]


def test_a_port_that_was_hidden_over_a_boot_is_not_restarted() -> None:
    before = kept(hidden(hid(port(inodes=(5,))), rebooted=True, listening=frozenset({80})))
    assert before.last_seen_at == NOW - FIVE
    assert told(again(before, seen(inodes=(6,)), at=NOW + FIVE, booted_at=NOW)) == []


def test_what_flaps_since_this_look_is_not_noted_besides() -> None:
    before = port(presence=CHANGES, misses=1, last_seen_at=NOW - 2 * FIVE, seen_clock=clock(NOW - 2 * FIVE))
    assert told(again(before, seen(V4, V6))) == ["flapping"]


def test_an_owner_that_was_gone_is_back_if_it_turns_out_to_be_the_other_one() -> None:
    java = PortOwner(unit="app.service", comms=("java",), inodes=(5,), binds=(V4,))
    nginx = PortOwner(comms=("nginx",), inodes=(6,), binds=(V4,), gone_since=NOW - HOUR, gone_clock=clock(NOW - HOUR))
    before = port(programs=(), comms=("java",), units=("app.service",), inodes=(5,), owners=(java, nginx))
    step = again(before, seen(programs=(), comms=("nginx",), units=("app.service",), inodes=(7,)))
    assert (told(step), len(kept(step).owners)) == (["recovered"], 0)


def test_the_addresses_of_an_owner_that_is_back_are_expected_while_others_have_time() -> None:
    apache = PortOwner(programs=("apache2",), tool="ss", binds=(V4,), waits=True)
    nginx = PortOwner(programs=("nginx",), tool="ss", binds=(V6,), gone_since=NOW - HOUR, gone_clock=clock(NOW - HOUR))
    step = again(port(owners=(apache, nginx), pids=(8,), late=(V4,)), seen(V6), grace_until=NOW + TICK)
    assert (told(step), kept(step).addresses) == (["recovered"], (V4, V6))


def test_an_owner_that_has_time_after_a_boot_makes_another_one_no_restart() -> None:
    java = PortOwner(comms=("java",), binds=(V4,), waits=True)
    nginx = PortOwner(comms=("nginx",), inodes=(6,), pids=(8,), binds=(V4,))
    before = port(owners=(java, nginx), inodes=(5, 6))
    step = again(before, seen(comms=("nginx",), programs=(), inodes=(9,), pids=(8,)), grace_until=NOW + TICK)
    assert (told(step), [own.waits for own in kept(step).owners]) == ([], [True, False])


def test_another_owner_is_not_taken_for_the_known_one_that_a_socket_may_have_which_shows_none() -> None:
    known = Listener("tcp", V4, 80, inode=5, unit="session-1.scope")
    app = Listener("tcp", V4, 80, inode=6, unit="app.service")
    before = port(inodes=(5,))
    after = kept(
        again(before, Seen((V4,), inodes=(5, 6), units=("app.service", "session-1.scope"), listeners=(known, app)))
    )
    assert [(own.programs, own.unit) for own in owners.of(after)] == [(("nginx",), None)]


def test_the_first_look_of_a_boot_takes_no_two_owners_for_one() -> None:
    java = PortOwner(unit="app.service", comms=("java",), binds=(V4,))
    nginx = PortOwner(comms=("nginx",), binds=(V4,), gone_since=NOW - HOUR, gone_clock=clock(NOW - HOUR))
    shown = seen(programs=(), comms=("nginx",), units=("app.service",))
    step = again(port(owners=(java, nginx)), shown, rebooted=True)
    assert [own.gone_since for own in kept(step).owners] == [None, NOW - HOUR]


def test_of_another_owner_that_has_the_port_from_now_on_nothing_is_expected_that_rules_hid_before() -> None:
    before = held(DAY, addresses=(), unwatched=((V4, NOW - HOUR),))
    step = again(before, seen(LAN, programs=("apache2",)), is_watched=LAN.__eq__)
    assert (step.row, kept(step).unwatched) == (Row.TAKEN_OVER, ())
    assert told(again(kept(step), seen(LAN, programs=("apache2",)), at=NOW + FIVE)) == []


def test_who_is_excluded_from_now_on_is_replaced_without_a_word() -> None:
    other = seen(programs=("apache2",))
    step = again(port(), other, rules_changed=True, owner_is_watched=False)
    assert (told(step), kept(step).programs, kept(step).presence) == ([], ("apache2",), NONE)
    assert told(again(port(), other, rules_changed=True)) == ["replaced"]


def test_another_owner_has_no_address_in_place_of_one_that_was_lost_when_the_rules_changed() -> None:
    other = seen(V6, programs=("apache2",))
    both = again(port(), other, rules_changed=True)
    assert told(both) == ["rebound"]
    assert both.drafts[0].reason.endswith("; apache2 has it now, and no longer nginx")
    assert kept(both).told == (NOW,)


def test_another_owner_that_lacks_an_address_that_flaps_is_one_message() -> None:
    step = again(port(addresses=(LAN, DMZ), parts=((LAN, CHANGES),)), seen(DMZ, programs=("apache2",)))
    assert only(step).kind is EventKind.FLAPPING
    assert only(step).reason.startswith("10.0.0.1: 4 changes between lost and found within 60 min")
    assert only(step).reason.endswith("; apache2 has it now, and no longer nginx")
    assert kept(step).told == (NOW,)
    assert told(again(port(), seen(V6), rules_changed=True)) == []


def test_an_address_that_an_excluded_owner_had_as_well_goes_with_the_one_that_is_gone() -> None:
    own = PortOwner(programs=("nginx",), tool="ss", pids=(7,), binds=(V4,))
    other = PortOwner(programs=("apache2",), tool="ss", pids=(8,), binds=(V4,), is_watched=False)
    step = again(port(owners=(other, own)), seen(LAN, programs=("apache2",), pids=(8,)))
    assert (told(step), kept(step).lost) == (["owner_gone"], ())


def test_an_owner_that_is_back_as_an_address_is_lost_is_a_change_of_each() -> None:
    nginx = PortOwner(programs=("nginx",), tool="ss", pids=(7,), binds=(DMZ, LAN))
    apache = PortOwner(programs=("apache2",), tool="ss", pids=(8,), binds=(DMZ,), gone_since=NOW - HOUR)
    before = port(addresses=(DMZ, LAN), owners=(nginx, dataclasses.replace(apache, gone_clock=clock(NOW - HOUR))))
    step = again(before, seen(DMZ, DMZ, programs=("apache2", "nginx"), pids=(7, 8)))
    assert (told(step), [name for name, _ in kept(step).parts]) == (["rebound"], [LAN, "apache2"])


def test_who_has_a_port_that_is_down_is_the_known_one_if_a_look_shows_neither_its_program_nor_its_process() -> None:
    java = PortOwner("docker", programs=("java",), tool="ss", pids=(9,), joined=clock(NOW - FIVE))
    blind = Listener("tcp", V4, 80, unit="docker:1")
    step = again(held(holders=(java,)), Seen((V4,), units=("docker:1",), listeners=(blind,)))
    assert (told(step), kept(step).status) == ([], "down")
    assert [one.programs for one in kept(step).holders] == [("java",)]
    # Where no other is known to have it, it may be the one that had it before.
    assert told(again(down(), Seen((V4,), units=("docker:1",), listeners=(blind,)))) == ["recovered"]


def test_addresses_that_are_found_as_an_owner_is_back_are_changes_without_a_message() -> None:
    before = dataclasses.replace(left(), addresses=(LOCAL,), lost=(V4,), lost_since=NOW - HOUR)
    step = again(before, seen(LOCAL, V4, programs=("apache2", "nginx"), pids=(8, 7)))
    assert (told(step), kept(step).told) == (["recovered"], (NOW,))
    assert kept(step).parts == ((V4, changed(0 * FIVE)), ("apache2", changed(0 * FIVE)))


def test_an_owner_that_flaps_and_is_back_lets_the_address_be_told_that_is_lost_still() -> None:
    before = dataclasses.replace(left(), addresses=(LOCAL,), lost=(V4,), lost_since=NOW - HOUR)
    back = seen(LOCAL, LOCAL, programs=("apache2", "nginx"), pids=(8, 7))
    for parts, kinds, count in (
        ((("apache2", flaps()),), ["rebound"], 1),
        ((("apache2", CHANGES),), ["rebound"], 1),
        (((V4, changed(*AGO, 0 * FIVE)),), ["flapping"], 2),
        (((V4, flaps()),), [], 2),
    ):
        step = again(dataclasses.replace(before, parts=parts), back)
        assert (told(step), len(kept(step).parts)) == (kinds, count)


def test_another_owner_and_an_address_that_is_lost_still_as_one_is_back_are_one_event() -> None:
    nginx = PortOwner(programs=("nginx",), tool="ss", pids=(7,), inodes=(5,), binds=(LOCAL,))
    java = PortOwner(programs=("java",), tool="ss", pids=(9,), inodes=(6,), binds=(LOCAL,), joined=clock(NOW - HOUR))
    apache = PortOwner(programs=("apache2",), tool="ss", pids=(8,), binds=(LOCAL,), joined=clock(NOW - HOUR))
    apache = dataclasses.replace(apache, gone_since=NOW - FIVE, gone_clock=clock(NOW - FIVE))
    step = again(
        lost(owners=(nginx, java, apache)), seen(LOCAL, LOCAL, programs=("apache2", "java"), pids=(8, 9), inodes=(6, 7))
    )
    assert (told(step), kept(step).told) == (["rebound"], (NOW,))
    assert only(step).reason.endswith("apache2, java has it now, and no longer nginx")


def test_an_owner_that_rules_watch_again_has_its_port_back() -> None:
    java = PortOwner(programs=("java",), tool="ss", pids=(9,), binds=(V4,), is_watched=False)
    nginx = PortOwner(programs=("nginx",), tool="ss", pids=(7,), binds=(V4,))
    before, shown = down(owners=(java, nginx)), seen(programs=("java",), pids=(9,))
    assert told(again(before, shown, rules_changed=True)) == ["recovered", "owner_gone"]
    assert told(again(before, shown, owner_is_watched=False, rules_changed=True)) == ["recovered"]


def test_another_owner_and_an_address_that_is_found_and_flaps_are_two_events() -> None:
    before = lost(LAN, addresses=(DMZ,), parts=((LAN, CHANGES),))
    assert told(again(before, seen(DMZ, LAN, programs=("apache2",)))) == ["replaced", "flapping"]


def test_another_program_of_the_unit_that_a_declaration_names_is_no_other_owner() -> None:
    other = seen(programs=("apache2",), **UNIT)
    many = frozenset(UNIT["units"])
    assert told(again(port(declared=CMDB, **UNIT), other, terms=OWNED, many=many)) == ["replaced"]
    assert told(again(down(declared=CMDB, **UNIT), other, terms=OWNED, many=many)) == ["recovered"]


def test_the_unit_of_a_socket_says_who_has_a_declared_port() -> None:
    def shows(*units: str) -> Seen:
        rows = [Listener("tcp", V4, 80, inode=number, unit=unit) for number, unit in enumerate(units, 5)]
        return Seen((V4,), units=units, inodes=tuple(range(5, 5 + len(units))), listeners=rows)

    other = PortOwner("app.service", of_socket=True, inodes=(5,), binds=(V4,), joined=clock(NOW - FIVE))
    before = down(declared=CMDB, programs=(), holders=(other,))
    assert told(again(before, shows("app.service", "db.service"), terms=OWNED)) == ["replaced"]
    assert told(again(before, shows("app.service", "nginx.service"), terms=OWNED)) == ["recovered"]
    # That may wait for any service.
    assert told(again(before, shows("app.service", "web.socket"), terms=OWNED)) == ["recovered"]


# ── addresses that another owner has ────────────────────────────────────────────────────────────

OUTSIDE, INSIDE = "10.0.0.5", "127.0.0.1"


def _socket(address: str, name: str, inode: int) -> Listener:
    return Listener("tcp", address, 80, inode // 100, name, inode=inode, comm=name, unit=f"{name}.service")


def _shown(*rows: Listener) -> Seen:
    names = tuple(sorted({row.comm for row in rows if row.comm}))
    numbers = {
        "pids": tuple(sorted({row.pid for row in rows if row.pid})),
        "inodes": tuple(sorted(row.inode or 0 for row in rows)),
    }
    units = tuple(sorted({row.unit for row in rows if row.unit}))
    return seen(*(row.address for row in rows), programs=names, comms=names, units=units, listeners=rows, **numbers)


BOTH = _shown(_socket(OUTSIDE, "postgres", 101), _socket(INSIDE, "postgres", 102))
TAKEN = _shown(_socket(OUTSIDE, "pgbouncer", 201), _socket(INSIDE, "postgres", 102))
EACH = _shown(_socket(OUTSIDE, "pgbouncer", 201), _socket(OUTSIDE, "postgres", 103), _socket(INSIDE, "postgres", 102))


def _postgres() -> Port:
    return kept(appear(80, BOTH, FIRST))


def test_an_address_that_another_owner_has_is_lost_to_its_own() -> None:
    step = again(_postgres(), TAKEN, at=NOW + FIVE, confirmed=False)
    assert (step.row, kept(step).lost, kept(step).addresses) == (Row.LOST_BIND, (OUTSIDE,), (OUTSIDE, INSIDE))
    event = only(step)
    assert (event.kind, event.reason) == (
        EventKind.REBOUND,
        "postgres (postgres.service) does not listen on 10.0.0.5 any more, another program does",
    )
    assert (event.details["severe"], event.details["lost"]) == (True, [OUTSIDE])
    assert told(again(kept(step), TAKEN, at=NOW + 2 * FIVE)) == []
    # A look without owners says nothing of it, nor does a restart.
    assert kept(again(kept(step), _shown(), at=NOW + 2 * FIVE)).lost == (OUTSIDE,)
    anew = _shown(_socket(OUTSIDE, "pgbouncer", 201), _socket(INSIDE, "postgres", 302))
    assert told(again(kept(step), anew, at=NOW + 2 * FIVE)) == []
    back = again(kept(step), EACH, at=NOW + 2 * FIVE)
    assert (back.row, told(back), kept(back).lost) == (Row.BIND_RECOVERED, ["recovered"], ())


@pytest.mark.parametrize(
    ("before", "now"),
    [
        # The same socket, in other hands.
        (BOTH, _shown(_socket(OUTSIDE, "pgbouncer", 101), _socket(INSIDE, "postgres", 102))),
        # Another one that others reach.
        (BOTH, _shown(_socket(OUTSIDE, "pgbouncer", 201), _socket("10.0.0.6", "postgres", 103), _socket(INSIDE, "postgres", 102))),
        # All addresses of the family.
        (
            _shown(_socket(OUTSIDE, "postgres", 101), _socket(V4, "postgres", 102)),
            _shown(_socket(OUTSIDE, "pgbouncer", 201), _socket(V4, "postgres", 102)),
        ),
        # A loopback address is none that others reach.
        (BOTH, _shown(_socket(OUTSIDE, "postgres", 101), _socket(INSIDE, "pgbouncer", 202))),
        # Some socket shows no owner, or no inode.
        (BOTH, _shown(_socket(OUTSIDE, "pgbouncer", 201), Listener("tcp", INSIDE, 80, inode=102))),
        (BOTH, _shown(dataclasses.replace(_socket(OUTSIDE, "pgbouncer", 201), inode=None), _socket(INSIDE, "postgres", 102))),
    ],
)  # fmt: skip
def test_an_address_that_is_shared_or_handed_over_is_not(before: Seen, now: Seen) -> None:
    step = again(kept(appear(80, before, FIRST)), now, at=NOW + FIVE)
    assert [draft for draft in step.drafts if draft.details.get("severe")] == []
    assert kept(step).lost == ()


@pytest.mark.parametrize(
    "fields",
    [{"accepted": NOW + 2 * FIVE, "at": NOW + 2 * FIVE}, {"at": NOW + 31 * DAY, "clock": clock(NOW + 31 * DAY)}],
)
def test_an_address_of_another_owner_is_not_told_again_when_it_is_given_up(fields: dict[str, Any]) -> None:
    step = again(_postgres(), TAKEN, at=NOW + FIVE)
    step = again(kept(step), TAKEN, **fields)
    assert (told(step), kept(step).lost) == (["retired"], ())
    assert told(again(kept(step), TAKEN, at=fields["at"] + FIVE, clock=clock(fields["at"] + FIVE))) == []


def test_after_a_boot_its_own_owner_has_time_to_take_the_address() -> None:
    step = again(_postgres(), _shown(_socket(INSIDE, "postgres", 302)), rebooted=True)
    after = kept(step)
    step = again(after, TAKEN, at=NOW + FIVE, booted_at=NOW, grace_until=NOW + 2 * FIVE)
    assert (told(step), kept(step).lost) == ([], ())
    assert told(again(kept(step), EACH, at=NOW + 2 * FIVE, booted_at=NOW)) == []
    assert told(again(kept(step), TAKEN, at=NOW + 2 * FIVE, booted_at=NOW)) == ["rebound"]
