"""Decides which hosts left the inventory, which are back, and when a list is too odd to believe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from portmon.inventory.config import Cmdb
from portmon.model.host import AcceptedList, Inventory, KnownHost
from portmon.text import counted

PRUNE_GUARD_ABOVE = 5
"""Up to this many hosts, any of them may leave: a share of so few says nothing."""
GUARDED = timedelta(days=1)
"""A list is compared with the largest one that was accepted within this time: a CMDB that loses a few in every run
loses many in a day."""
MAX_EXCHANGED = 0.5
"""Share of hosts that may be replaced by as many new ones in one run: more are other ids for the same hosts."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Ids of hosts to ``hide`` (they left just now) and to ``resume`` (they are back).

    :param purge: left long enough ago to delete
    :param refused: why nothing is concluded from missing hosts, for people; None if it is
    :param base: hosts of the largest list that was in force so far, this one included; None if it is refused
    """

    hide: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    purge: tuple[str, ...] = ()
    refused: str | None = None
    base: int | None = None


def plan_prune(
    known: Iterable[KnownHost],
    inventory: Inventory,
    *,
    stale: bool,
    forced: bool,
    now: datetime,
    settings: Cmdb,
    accepted: Iterable[AcceptedList] = (),
    jumped: bool = False,
) -> PrunePlan:
    """Decide what leaves the inventory.

    A refusal is about what would be concluded from absence: hiding, and deleting what is hidden. A host that is
    back resumes. If it stayed away for ``cmdb.prune_after`` it starts anew, whether or not a run was there to delete
    it meanwhile. An entry that can't be used is back all the same: it may be told that its host is not scanned.

    A missing entry whose machine answers under a listed one as well did not get lost: its state goes on under the other
    id. It is hidden, and the share of those that are missing is counted without it.

    :param known: every stored host
    :param stale: the list is an old one; not even ``forced`` concludes anything from it
    :param forced: believe the list, however many hosts are missing
    :param accepted: lists that were taken over, oldest first, of at least :data:`GUARDED`
    :param jumped: the clock may be wrong, so no age is believed, see :func:`portmon.model.pause.jumped`
    """
    known = list(known)
    listed = {host.id for host in inventory.hosts}
    present = listed | {entry.id for entry in inventory.invalid if entry.id is not None}
    away = {host.id: host.removed_at for host in known}
    visible = {one for one, since in away.items() if since is None}
    missing = sorted(visible - present)
    renewed = {host.duplicate_of for host in known if host.id in listed}.intersection(missing)
    long_ago = {one for one, since in away.items() if since and not jumped and now - since >= settings.prune_after}
    late = set() if stale else long_ago & present
    resume = tuple(sorted((away.keys() - visible) & present - late))
    refused = None
    if stale:
        refused = "the host list is an old one, the CMDB gave none"
    elif not forced:
        refused = _implausible(
            listed=len(present),
            missing=len(missing) - len(renewed),
            visible=len(visible) - len(renewed),
            largest=_largest(accepted, now),
            nameless=sum(entry.id is None for entry in inventory.invalid),
            limit=settings.max_prune_ratio,
        )
    if refused:
        return PrunePlan(resume=resume, purge=tuple(sorted(late)), refused=refused)
    at_once = set() if settings.prune_after else set(missing)
    return PrunePlan(
        hide=tuple(missing),
        resume=resume,
        purge=tuple(sorted(long_ago - present | at_once | late)),
        base=len(present) if forced else max(len(present), len(visible) - len(renewed)),
    )


def _largest(accepted: Iterable[AcceptedList], now: datetime) -> int:
    """Hosts of the largest list that counts: accepted within :data:`GUARDED`, and since one was forced."""
    largest = 0
    for one in accepted:
        if one.at > now - GUARDED:
            largest = one.hosts if one.forced else max(largest, one.hosts)
    return largest


def _implausible(*, listed: int, missing: int, visible: int, largest: int, nameless: int, limit: float) -> str | None:
    """The reason not to believe that missing hosts have left. All numbers count hosts or entries."""
    if not missing:
        return None
    if not listed:
        return f"the host list is empty, where there were {counted(visible, 'host')}"
    if nameless:
        return f"missing: {counted(missing, 'host')}; no readable id: {counted(nameless, 'entry')}, which may be these"
    # New entries fill gaps: a group of hosts that are replaced all day long keeps its size.
    if visible > PRUNE_GUARD_ABOVE and visible - listed > visible * limit:
        return f"{missing} of {visible} hosts are missing, more than {limit:.0%} (cmdb.max_prune_ratio)"
    if largest > PRUNE_GUARD_ABOVE and largest - listed > largest * limit:
        return (
            f"the list has {listed} hosts, and {largest} within the last day: more than {limit:.0%} fewer "
            "(cmdb.max_prune_ratio)"
        )
    if visible > PRUNE_GUARD_ABOVE and missing > visible * max(limit, MAX_EXCHANGED):
        return (
            f"{missing} of {visible} hosts are missing and as many others are new: their ids may have changed, and "
            "with them their whole history would go"
        )
    return None
