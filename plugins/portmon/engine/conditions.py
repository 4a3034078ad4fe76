"""The catalogue of everything that can be wrong, and the conditions that are open now.

A condition has a kind and a subject. Detectors, pure functions over evidence in the modules beside this one, say which
hold; :mod:`portmon.engine.lifecycle` says what follows. A new thing that can be wrong is a row here, a detector, and
the words of its two events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Literal

from portmon.model import pause
from portmon.model.event_kinds import EventKind


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the catalogue.

    :param name: of the condition where it is stored
    :param subject: what it is about
    :param opens: kind of the event of its start, which says severity and alert task
    :param ends: kind of the event of its end
    :param detector: the module of the engine, or of the steps of a run, that says whether it holds
    :param accepted: what it means that a person accepts it; empty if that is not possible
    :param retires: it ends by itself after ``states.retire_after`` of evidence
    :param flaps: many changes become one `flapping`
    :param was: of a host: what was wrong when it left the inventory, as the beginning of a sentence
    :param includes: names of lesser conditions of its subject, which are not told beside it
    """

    name: str
    subject: Literal["port", "host", "monitor"]
    opens: EventKind
    ends: EventKind
    detector: str
    accepted: str = ""
    retires: bool = False
    flaps: bool = False
    was: str = ""
    includes: tuple[str, ...] = ()


_PORT: dict[str, Any] = {"subject": "port", "ends": EventKind.RECOVERED, "retires": True, "flaps": True}


class Condition(Enum):
    """The catalogue, the greater conditions of a subject first."""

    DOWN = Kind(
        "down",
        opens=EventKind.DOWN,
        detector="transitions",
        accepted="the port is not watched any more; a declared one until it was seen; who has it instead belongs there",
        includes=("owner_gone", "lost_bind"),
        **_PORT,
    )
    OWNER_GONE = Kind(
        "owner_gone",
        opens=EventKind.OWNER_GONE,
        detector="owners",
        accepted="the owner is not expected",
        includes=("lost_bind",),
        **_PORT,
    )
    LOST_BIND = Kind(
        "lost_bind", opens=EventKind.REBOUND, detector="transitions", accepted="the address is not expected", **_PORT
    )
    HOST_KEY = Kind(
        "host_key",
        "host",
        EventKind.HOST_KEY_CHANGED,
        EventKind.HOST_KEY_RESTORED,
        "hosts",
        was="Its SSH host key had changed",
        includes=("foreign_machine", "unreachable", "unscanned", "owners_hidden"),
    )
    FOREIGN = Kind(
        "foreign_machine",
        "host",
        EventKind.FOREIGN_MACHINE,
        EventKind.OWN_MACHINE,
        "machines",
        accepted="the entry is this machine from then on",
        was="Another machine answered at its address",
        includes=("unreachable", "unscanned", "owners_hidden"),
    )
    UNREACHABLE = Kind(
        "unreachable",
        "host",
        EventKind.UNREACHABLE,
        EventKind.REACHABLE,
        "hosts",
        flaps=True,
        was="Was unreachable",
        includes=("unscanned", "owners_hidden"),
    )
    UNSCANNED = Kind(
        "unscanned",
        "host",
        EventKind.UNSCANNED,
        EventKind.SCANNED,
        "fleet",
        was="Was not scanned",
        includes=("owners_hidden",),
    )
    OWNERS_HIDDEN = Kind(
        "owners_hidden",
        "host",
        EventKind.OWNERS_HIDDEN,
        EventKind.OWNERS_SHOWN,
        "hosts",
        was="Did not show programs of other users",
    )
    FLEET = Kind(
        "fleet_unreachable",
        "monitor",
        EventKind.FLEET_UNREACHABLE,
        EventKind.FLEET_REACHABLE,
        "fleet",
        includes=("unreachable",),
    )
    FLEET_UNSCANNED = Kind(
        "fleet_unscanned",
        "monitor",
        EventKind.FLEET_UNSCANNED,
        EventKind.FLEET_SCANNED,
        "fleet",
        includes=("unscanned",),
    )
    FLEET_OWNERS_HIDDEN = Kind(
        "fleet_owners_hidden",
        "monitor",
        EventKind.FLEET_OWNERS_HIDDEN,
        EventKind.FLEET_OWNERS_SHOWN,
        "fleet",
        includes=("owners_hidden",),
    )
    CLOCK = Kind("clock_back", "monitor", EventKind.CLOCK_BACK, EventKind.CLOCK_BELIEVED, "clocks")
    CMDB_STALE = Kind("cmdb_stale", "monitor", EventKind.CMDB_STALE, EventKind.CMDB_FRESH, "steps.fetch")
    PRUNE_REFUSED = Kind("prune_refused", "monitor", EventKind.PRUNE_REFUSED, EventKind.PRUNE_RESUMED, "steps.prune")
    OVERDUE = Kind("run_overdue", "monitor", EventKind.RUN_OVERDUE, EventKind.RUN_IN_TIME, "steps.overdue")
    FAILED = Kind("run_failed", "monitor", EventKind.RUN_FAILED, EventKind.RUN_EVALUATED, "steps.failed")

    def key(self, host_id: str | None = None) -> str:
        """The name under which it is stored, for one host or for the monitor."""
        return self.value.name if host_id is None else f"{self.value.name}/{host_id}"


def evaluated(subject: str) -> tuple[Condition, ...]:
    """The conditions of a kind of subject that an evaluation opens and ends, not another step of a run."""
    return tuple(
        one for one in Condition if one.value.subject == subject and not one.value.detector.startswith("steps.")
    )


EVALUATED = evaluated("host")
"""Conditions of hosts that an evaluation opens and ends, the greatest first."""
MONITORED = evaluated("monitor")
"""Those of the monitor."""
RUNS = "runs"
"""Under this name is stored, beside the conditions, since when runs have come without a pause."""


@dataclass(frozen=True, slots=True)
class Open:
    """An open condition."""

    since: datetime
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> bool:
        """Whether its event was told; not while a greater condition is told instead."""
        return bool(self.details.get("told", True))


class OpenConditions:
    """The conditions of hosts and the monitor that are open.

    :param found: as stored, by :meth:`Condition.key`
    """

    def __init__(self, found: Mapping[str, Open] | None = None) -> None:
        self.now: dict[str, Open] = dict(found or {})

    def get(self, condition: Condition, host_id: str | None = None) -> Open | None:
        """An open condition, None if it is not open."""
        # Mostly nothing is wrong, and a fleet has many hosts.
        return self.now.get(condition.key(host_id)) if self.now else None

    def open(self, condition: Condition, host_id: str | None, since: datetime, **details: Any) -> bool:
        """Open a condition, or change the details of an open one; whether it is told now and was not."""
        before = self.get(condition, host_id)
        self.now[condition.key(host_id)] = now = Open(before.since if before else since, details)
        return now.told and not (before and before.told)

    def end(self, condition: Condition, host_id: str | None = None) -> Open | None:
        """End a condition; None if it was not open."""
        return self.now.pop(condition.key(host_id), None) if self.now else None

    def of_hosts(self, condition: Condition) -> dict[str, Open]:
        """Host id: an open condition of that host."""
        prefix = condition.key("")
        return {name[len(prefix) :]: one for name, one in self.now.items() if name.startswith(prefix)}

    def lesser(self, condition: Condition, host_id: str) -> list[Condition]:
        """The conditions of a host that one includes, and that are told."""
        own = (one for one in EVALUATED if one.value.name in condition.value.includes)
        return [one for one in own if (opened := self.get(one, host_id)) and opened.told]

    def includes(self, condition: Condition, host_id: str) -> bool:
        """Whether a greater condition of the host is open, so that this one is not told."""
        if not self.now:
            return False
        name = condition.value.name
        return any(name in one.value.includes and self.get(one, host_id) for one in EVALUATED)

    def silences(self, condition: Condition) -> bool:
        """Whether a condition of the monitor is open, or suspected, that includes this one of each host."""
        return any(condition.value.name in one.value.includes and self.get(one) for one in MONITORED)


def runs_until(runs: Open) -> datetime:
    """When the last run was evaluated, as stored under RUNS."""
    return datetime.fromisoformat(runs.details["judged_at"])


def jumped(found: Mapping[str, Open], now: datetime, interval: timedelta) -> bool:
    """Whether the clock jumped since the last run was evaluated, see :func:`portmon.model.pause.jumped`."""
    return RUNS in found and pause.jumped(runs_until(found[RUNS]), now, interval)
