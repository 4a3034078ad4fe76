"""What the next run would make of a host list. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection

from portmon.api.view import Text, View
from portmon.config import Config
from portmon.errors import CmdbError
from portmon.inventory.prune import plan_prune
from portmon.model.host import Inventory
from portmon.steps.fetch import must_be_plausible, no_valid_entry
from portmon.storage import hosts, inventory, journal


class HostPreview(View):
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
    """A host in a list."""

    id: Text
    name: Text


class PruneView(View):
    """What the next run would do with hosts.

    :param known: how many hosts are known
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
    hosts: tuple[HostPreview, ...]
    invalid: tuple[InvalidHostView, ...]
    disabled: int
    problem: Text | None
    state: PruneView | None


def preview(conn: Connection | None, config: Config, found: Inventory, *, now: datetime) -> PreviewView:
    """Try a host list without using it; without a database, only the list itself is checked."""
    last = inventory.last_good(conn) if conn else None
    problem = None
    try:
        must_be_plausible(found, last.inventory if last else None)
    except CmdbError as error:
        problem = error.message
    if problem is None and found.invalid and not found.hosts:
        problem = no_valid_entry(found)
    return PreviewView(
        source=found.source,
        hosts=found.hosts,
        invalid=found.invalid,
        disabled=found.disabled,
        problem=problem,
        state=_prune_view(conn, config, found, stale=problem is not None, now=now) if conn else None,
    )


def _prune_view(conn: Connection, config: Config, found: Inventory, *, stale: bool, now: datetime) -> PruneView:
    stored, accepted = hosts.known(conn), journal.accepted(conn)
    plan = plan_prune(stored, found, stale=stale, forced=False, now=now, settings=config.cmdb, accepted=accepted)
    known = {host.id: host.name for host in stored}
    listed = {host.id: host.name for host in found.hosts}
    names = known | listed
    ids = {"new": [one for one in listed if one not in known], "hide": plan.hide, "resume": plan.resume}
    ids["purge"] = plan.purge
    named = {field: tuple(HostName(id=one, name=names[one]) for one in given) for field, given in ids.items()}
    return PruneView(known=len(known), refused=plan.refused, **named)
