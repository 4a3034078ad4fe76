"""What left the inventory, what came back, and when an answer is no reason to conclude either."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from portmon.config import Cmdb
from portmon.models import Inventory

PRUNE_GUARD_ABOVE = 5
"""Up to this many hosts, any of them may leave: a share of so few says nothing."""


class Known(Protocol):
    """A server that is stored."""

    @property
    def id(self) -> str:
        """Its id in the CMDB."""

    @property
    def removed_at(self) -> datetime | None:
        """When it left; None while it is in."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What to do with servers that are not in the list, or are again.

    :param hide: left just now
    :param resume: are back
    :param purge: left long enough ago to delete
    :param refused: why nothing is concluded from missing servers, for people; None if it is
    """

    hide: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    purge: tuple[str, ...] = ()
    refused: str | None = None


def plan_prune(
    known: Iterable[Known], inventory: Inventory, *, stale: bool, forced: bool, now: datetime, settings: Cmdb
) -> PrunePlan:
    """Decide what leaves the inventory.

    Refused is what would be concluded from absence: hiding, and deleting what is hidden. A server that is
    back resumes, or starts anew if it stayed away for ``cmdb.prune_after``, whether or not a run was there to
    delete it meanwhile.

    :param known: every stored server
    :param stale: the list is an old one; not even ``forced`` concludes anything from it
    :param forced: believe the list, however many are missing
    """
    known = list(known)
    listed = {host.id for host in inventory.hosts}
    present = listed | {entry.id for entry in inventory.invalid if entry.id is not None}
    nameless = sum(entry.id is None for entry in inventory.invalid)
    back = {host.id: host.removed_at for host in known if host.removed_at is not None and host.id in listed}
    late = {one for one, since in back.items() if now - since >= settings.prune_after and not stale}
    resume = tuple(sorted(set(back) - late))
    visible = [host.id for host in known if host.removed_at is None]
    missing = sorted(set(visible) - present)
    hidden = {host.id: host.removed_at for host in known if host.removed_at is not None and host.id not in present}
    refused = None
    if stale:
        refused = "the host list is an old one, the CMDB gave none"
    elif not forced:
        refused = _too_many(len(missing), len(visible), nameless, empty=not present, limit=settings.max_prune_ratio)
    if refused:
        return PrunePlan(resume=resume, purge=tuple(sorted(late)), refused=refused)
    leaving = {**hidden, **dict.fromkeys(missing, now)}
    gone = {one for one, since in leaving.items() if since and now - since >= settings.prune_after}
    return PrunePlan(hide=tuple(missing), resume=resume, purge=tuple(sorted(gone | late)))


def _too_many(missing: int, visible: int, nameless: int, *, empty: bool, limit: float) -> str | None:
    if not missing:
        return None
    if empty:
        return f"the host list is empty, {visible} hosts are known"
    if nameless:
        return f"{missing} hosts are missing, but {nameless} entries have no readable id and may be these"
    if visible > PRUNE_GUARD_ABOVE and missing > visible * limit:
        return f"{missing} of {visible} hosts are missing, more than {limit:.0%} (cmdb.max_prune_ratio)"
    return None
