"""The table of states of ports: its rows, which docs/states.md shows, and a step of one port along them."""

from __future__ import annotations

from dataclasses import dataclass

from portmon.engine import lifecycle
from portmon.engine.state import Draft, Port


class Row(lifecycle.TableRow):
    """Rows of the table of ports."""

    BASELINE = (
        "nothing, first ok observation of this host",
        "seen",
        "up; ephemeral, not allow-listed, declared or of a service: candidate",
        "none (one `baseline` event for the host, with a count)",
    )
    NEW = (
        "nothing",
        "seen, outside the ephemeral range, or allow-listed or declared",
        "up",
        "`new` (none if the host's last ok observation had it before filtering)",
    )
    CANDIDATE = ("nothing", "seen, inside the ephemeral range", "candidate (1)", "none")
    PROVEN = (
        "candidate",
        "seen `states.ephemeral_after` (3) times in a row, the first included",
        "up",
        "`new`; none if it was there at the baseline",
    )
    FORGOTTEN = ("candidate", "not seen", "forgotten", "none")
    SEEN = (
        "up",
        "seen",
        "up",
        "`restarted`, `replaced` (another owner), `rebound` (bind addresses changed), or none",
    )
    DOWN = ("up", "not seen, confirmed, `states.down_after` (1) runs in a row", "down", "`down`")
    RECOVERED = (
        "down",
        "seen, by its owner, by one not shown while no other has it, or while none is known",
        "up",
        "`recovered` (with the time it was down)",
    )
    TAKEN_OVER = (
        "down",
        "seen, by an owner that a person accepts, or (not declared) that was there for `states.mature_after` (1 day)",
        "up",
        "`retired`, naming the new owner",
    )
    HELD = ("down", "seen, by another owner", "down", "`replaced`, once per owner")
    RETIRED = (
        "down",
        "not seen for `states.retire_after` (30 days; young: `states.mature_after`) of evidence, or accepted by a "
        "person",
        "removed (declared: kept, its alert closed; no new `down` before it was seen)",
        "`retired`",
    )
    NO_EVIDENCE = ("any", "no evidence", "unchanged", "none: the host counts a failure")
    # From here on: rows of the second table, which makes the first one exact.
    WAITING = ("candidate", "seen, not often enough yet", "candidate", "none")
    DECLARED = ("nothing or candidate, declared", "not seen", "down", "`down`, from the first observation")
    DECLARED_SEEN = ("nothing or candidate, declared", "seen", "up", "as for any other port")
    MISSED = ("up", "not seen, fewer than `states.down_after` runs in a row", "up", "none")
    MOVED = (
        "up, ephemeral; in the first hour of a boot down as well",
        "not seen, while as many ephemeral ports of its owner came as are gone",
        "removed; the other one is up",
        "`moved`; `retired` if an alert of it was open",
    )
    UNCONFIRMED = ("up", "not seen in an observation that asked only once", "up", "none")
    GRACE = ("up", "not seen since the host's boot, before the port's time of grace is over", "up", "none")
    STILL_DOWN = ("down", "not seen", "down", "none")
    OWNER_GONE = ("up", "the socket of an owner is gone, others have the port", "up", "`owner_gone`")
    OWNER_BACK = ("up, an owner is gone", "all owners are back", "up", "`recovered`")
    OWNER_RETIRED = (
        "up, an owner is gone",
        "for `states.retire_after` (30 days) of evidence, or accepted by a person",
        "up, without it",
        "`retired`",
    )
    LOST_BIND = ("up", "a bind that others could reach is lost, others remain", "up", "severe `rebound`")
    BIND_RECOVERED = ("up, a bind is lost", "the bind is back", "up", "`recovered`")
    BIND_RETIRED = (
        "up, a bind is lost",
        "for `states.retire_after` (30 days) of evidence, or accepted by a person",
        "up, without it",
        "`retired`",
    )
    HIDDEN = ("up or down", "a rule, label or field of the CMDB hides it", "unchanged", "none")
    PAUSED = (
        "up or down, something is wrong with it",
        "hidden, second observation in a row",
        "unchanged, paused",
        "`unwatched`",
    )
    HIDDEN_LONG = ("up or down", "hidden for `cmdb.prune_after` (1 day)", "forgotten", "none")
    RESUMED = ("down, paused", "not seen, watched again", "down", "`down`, since it was down")
    DENIED = ("any, no owner is known", "seen, by an owner that a rule excludes", "forgotten", "none")
    FLAPPING = (
        "up or down",
        "the change that makes `states.flap_threshold` (4) within `states.flap_window` (1 h) of evidence, or whose "
        f"message would be number {lifecycle.MESSAGES + 1} of the port in a day",
        "as the change says",
        "`flapping` instead of the change's own (`crash_looping` if all were restarts), then silence",
    )
    BRAKED = (
        "up",
        "seen, its `states.flap_threshold`th (4) note of a `rebound`, or `restarted` that is no change, within "
        "`states.flap_window` (1 h), each kind by itself",
        "up",
        "the same, and that it is the last; then silence until none came for `states.flap_window`",
    )
    STABLE = ("up or down, flapping", "still for `states.flap_window`, with evidence", "unchanged", "`stable`")


TABLE = tuple(Row)[: tuple(Row).index(Row.NO_EVIDENCE) + 1]
"""Rows of the first table in docs/states.md; all others are in the second one."""


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state of a port (None if it is not watched any more), the row of the table, and the events."""

    port: Port | None
    row: Row
    drafts: tuple[Draft, ...] = ()
