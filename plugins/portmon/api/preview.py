"""What the next run would make of a host list. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from portmon.api.view import Text, View
from portmon.config import Config
from portmon.errors import CmdbError
from portmon.inventory.prune import plan_prune
from portmon.model.host import Inventory
from portmon.steps.fetch import must_be_plausible
from portmon.storage import hosts, inventory, journal
from portmon.storage.database import Database


@dataclass(frozen=True, slots=True)
class Stored:
    """What the state database knows.

    :param known: every host, hidden ones included
    :param good: the last good host list
    :param accepted: host lists that runs have used
    """

    known: tuple[hosts.KnownHost, ...]
    good: Inventory | None
    accepted: tuple[journal.Accepted, ...] = ()


def stored(database: Database) -> Stored | None:
    """What the state database knows; None if there is none yet.

    :raises StorageError: it can't be read, or belongs to another version
    """
    with database.look() as conn:
        if conn is None:
            return None
        good = inventory.last_good(conn)
        known, accepted = tuple(hosts.known(conn)), tuple(journal.accepted(conn))
        return Stored(known, good.inventory if good else None, accepted)


class HostView(View):
    """A host as the CMDB lists it."""

    id: Text
    name: Text
    address: Text
    port: int | None
    labels: Mapping[Text, Text]
    declared: tuple[int, ...]


class InvalidHostView(View):
    """An entry that can't be used."""

    position: int
    id: Text | None
    name: Text | None
    reason: Text


class HostName(View):
    """Which host."""

    id: Text
    name: Text


class PruneView(View):
    """What would follow for known hosts.

    :param known: how many there are
    :param refused: why nothing would be pruned
    """

    known: int
    new: tuple[HostName, ...]
    hide: tuple[HostName, ...]
    resume: tuple[HostName, ...]
    purge: tuple[HostName, ...]
    refused: Text | None


class PreviewView(View):
    """A host list and what would follow from it.

    :param problem: why a run would go on with the last good list; then nothing is pruned
    :param state: None without a state database
    """

    source: Text
    hosts: tuple[HostView, ...]
    invalid: tuple[InvalidHostView, ...]
    disabled: int
    problem: Text | None
    state: PruneView | None


def preview(found: Inventory, stored: Stored | None, config: Config, *, now: datetime) -> PreviewView:
    """What a run would make of a host list.

    :param stored: None without a state database
    """
    problem = None
    try:
        must_be_plausible(found, stored.good if stored else None)
    except CmdbError as error:
        problem = error.message
    if problem is None and found.invalid and not found.hosts:
        problem = f"none of its {len(found.invalid)} entries is valid, the first because {found.invalid[0].reason}"
    return PreviewView(
        source=found.source,
        hosts=found.hosts,
        invalid=found.invalid,
        disabled=found.disabled,
        problem=problem,
        state=_prune_view(found, stored, config, stale=problem is not None, now=now) if stored else None,
    )


def _prune_view(found: Inventory, stored: Stored, config: Config, *, stale: bool, now: datetime) -> PruneView:
    plan = plan_prune(
        stored.known, found, stale=stale, forced=False, now=now, settings=config.cmdb, accepted=stored.accepted
    )
    known = {host.id: host.name for host in stored.known}
    names = known | {host.id: host.name for host in found.hosts}

    def named(ids: Iterable[str]) -> tuple[HostName, ...]:
        return tuple(HostName(id=one, name=names[one]) for one in ids)

    return PruneView(
        known=len(known),
        new=named(host.id for host in found.hosts if host.id not in known),
        hide=named(plan.hide),
        resume=named(plan.resume),
        purge=named(plan.purge),
        refused=plan.refused,
    )
