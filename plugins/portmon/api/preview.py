"""What the next run would make of a host list, without a run: nothing is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from portmon.config import Config
from portmon.errors import CmdbError
from portmon.inventory.prune import plan_prune
from portmon.model.host import AcceptedList, Inventory, KnownHost
from portmon.steps.fetch import must_be_plausible
from portmon.storage import hosts, inventory, journal
from portmon.storage.database import Database


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of hosts.

    :param known: every stored server
    :param good: the last good host list
    :param accepted: host lists that were taken over
    """

    known: tuple[KnownHost, ...]
    good: Inventory | None
    accepted: tuple[AcceptedList, ...] = ()


def stored(database: Database) -> Stored | None:
    """What the state database knows; None if there is none yet.

    :raises StorageError: if it can't be read, or belongs to another version
    """
    with database.look() as conn:
        if conn is None:
            return None
        good = inventory.last_good(conn)
        known, accepted = tuple(hosts.known(conn)), tuple(journal.accepted(conn))
        return Stored(known, good.inventory if good else None, accepted)


def preview(found: Inventory, stored: Stored | None, config: Config, *, now: datetime) -> dict[str, Any]:
    """A host list and what would follow from it, as JSON types.

    ``problem`` says why a run would go on with the last good list instead; then nothing is pruned.

    :param stored: what is known; None without a state database
    """
    problem = None
    try:
        must_be_plausible(found, stored.good if stored else None)
    except CmdbError as error:
        problem = error.message
    if problem is None and found.invalid and not found.hosts:
        problem = f"none of its {len(found.invalid)} entries is valid, the first because {found.invalid[0].reason}"
    return {
        "source": found.source,
        "hosts": [
            asdict(host) | {"labels": dict(host.labels), "declared": list(host.declared)} for host in found.hosts
        ],
        "invalid": [asdict(entry) for entry in found.invalid],
        "disabled": found.disabled,
        "problem": problem,
        "state": _state(found, stored, config, stale=problem is not None, now=now) if stored else None,
    }


def _state(found: Inventory, stored: Stored, config: Config, *, stale: bool, now: datetime) -> dict[str, Any]:
    plan = plan_prune(
        stored.known, found, stale=stale, forced=False, now=now, settings=config.cmdb, accepted=stored.accepted
    )
    names = {host.id: host.name for host in stored.known} | {host.id: host.name for host in found.hosts}

    def named(ids: Iterable[str]) -> list[dict[str, str]]:
        return [{"id": one, "name": names[one]} for one in ids]

    known = {host.id for host in stored.known}
    return {
        "known": len(known),
        "new": named(host.id for host in found.hosts if host.id not in known),
        "hide": named(plan.hide),
        "resume": named(plan.resume),
        "purge": named(plan.purge),
        "refused": plan.refused,
    }
