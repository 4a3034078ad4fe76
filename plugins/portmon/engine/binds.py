"""The addresses of a port that listens: lost ones, and those that rules hide. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from portmon.engine import holding, lifecycle, owners, telling
from portmon.engine.rows import Row
from portmon.engine.state import Draft, Evidence, Port, Seen
from portmon.model import limits
from portmon.model.event_kinds import EventKind
from portmon.probe.compare import comparable_addresses, exchanged_binds, is_wildcard, lost_binds, without_zone
from portmon.scan.answer import bind_of


def hide_binds(port: Port, evidence: Evidence, is_watched: Callable[[str], bool]) -> tuple[Draft, ...]:
    """Put binds aside that a rule hides, and those back that it shows again: they are expected as before.

    :returns: the end of an alert about lost binds that the rules hide in the second observation in a row
    """
    if evidence.new_boot:
        return ()
    aside, before = dict(port.unwatched), port.lost
    watched = {address for address in (*port.addresses, *port.lost, *aside) if is_watched(address)}
    port.lost = tuple(address for address in before if address in watched or address not in aside)
    back = [address for address in aside if address in watched and address not in port.lost]
    # What turns out to be excluded, since its owner shows only now, is dropped.
    known = (*port.addresses, *before) if evidence.rules_changed else before
    hidden = [address for address in known if address not in watched]
    port.addresses = tuple(sorted({*back, *(address for address in port.addresses if address in watched)}))
    port.unwatched = tuple(
        (address, since)
        for address, since in sorted({**dict.fromkeys(hidden, evidence.at), **aside}.items())
        if address not in watched and (evidence.jumped or evidence.at - since < evidence.forget_after)
    )
    if port.lost or not before:
        return ()
    since, port.lost_since, port.lost_clock = port.lost_since, None, None
    if owners.gone_of(port):
        # The alert is that of the owner.
        return ()
    port.parts = tuple(part for part in port.parts if part[0] not in before)
    draft = Draft(EventKind.UNWATCHED, f"No rule watches {', '.join(before)} any more", since)
    return () if port.paused else telling.tell(port, evidence, draft)


def bind_events(
    before: Port, port: Port, shown: Seen, change: owners.Change, evidence: Evidence, *, quiet: bool
) -> tuple[Row | None, tuple[Draft, ...]]:
    """The row and the events of changed binds.

    :param quiet: only losses and their ends make events
    """
    if not evidence.learning and not comparable_addresses(evidence.tool_before, evidence.tool):
        return None, ()
    # Owners that are back have their addresses back as well, or lack them.
    expected = owners.binds_of(change.back).union(before.addresses)
    missed, known, seen = _missed(expected, set(port.addresses), before.lost, evidence)
    # A lost bind that a rule hides waits for the rule.
    waiting = {address for address, _ in port.unwatched if address in before.lost}
    # What rules exclude listens none the less.
    there = seen.union(map(bind_of, shown.excluded))
    known -= there - seen
    taken = _taken_by_others(before, port, evidence)
    gone = {*waiting, *taken, *lost_binds({*missed, *(known - there)}, there)}
    lost, _ = limits.few_of(gone, before.lost)
    away, of_others = owners.gone_of(port), _of_owners_away(before, port, change)
    lost = tuple(address for address in lost if address not in of_others)
    fresh = tuple(address for address in lost if address not in before.lost)
    if fresh and not shown.more and not change.replaced:
        exchanged = _exchanged(known, seen, fresh, before.lost, change, evidence) - taken
        lost, fresh = (tuple(address for address in some if address not in exchanged) for some in (lost, fresh))
    names = set(map(without_zone, port.late))
    late = [address for address in fresh if without_zone(address) in names]
    if fresh and ((not evidence.confirmed and not taken.issuperset(fresh)) or len(late) == len(fresh)):
        # Keep the bind as known: the first observation after the grace, or the first confirmed one, makes the event.
        port.addresses = tuple(sorted(expected - (there - seen)))
        return None, ()
    port.addresses = tuple(sorted({*port.addresses, *late}))
    lost, fresh = (tuple(address for address in some if address not in late) for some in (lost, fresh))
    port.lost = lost
    if not lost:
        port.lost_since = port.lost_clock = None
    found = tuple(address for address in before.lost if address not in lost)
    if away or lost or change.back:
        # What is told of others says it.
        telling.count_parts(port, evidence, (*found, *fresh) if away else found)
    if away and fresh and port.lost_since is None:
        port.lost_since, port.lost_clock = evidence.at, evidence.clock
    if away and (fresh or (before.lost and not lost)):
        return None, ()
    if fresh or (lost and not away and port.paused and not waiting and lifecycle.may_tell(port.told, evidence.at)):
        return Row.LOST_BIND, _loses(before, port, evidence, fresh, shown.more)
    if before.lost and not lost and change.back:
        # That the owner is back says it.
        return None, ()
    if before.lost and not lost:
        return Row.BIND_RECOVERED, _finds(before, port, evidence)
    # With OWNERS binds before, one that is new may have been left out then.
    differ = (known ^ seen if len(known) < limits.OWNERS else known - seen) - set(before.lost)
    # While an owner is gone, and when it is back, that says it.
    if quiet or away or change.back or port.flapping or not differ:
        return None, ()
    return None, _changes(before, port, evidence, shown.more)


def _taken_by_others(before: Port, port: Port, evidence: Evidence) -> set[str]:
    """The addresses that another owner has in the place of one that goes on; after a boot this has time."""
    return owners.lacked_by(owners.of(port)).keys() & {*before.lost, *(() if evidence.in_grace else port.addresses)}


def _of_owners_away(before: Port, port: Port, change: owners.Change) -> set[str]:
    """The addresses that only the owners had that are gone: what is told of these says it."""
    left = owners.not_gone(change.gone)
    stay = [own for own in owners.of(before) if own.is_watched and own.gone_since is None and own not in left]
    of_others = owners.binds_of(owners.gone_of(port)) - owners.binds_of(stay)
    return of_others - (set(before.lost) - owners.binds_of(change.gone))


def _exchanged(
    known: set[str],
    seen: set[str],
    fresh: tuple[str, ...],
    were_lost: tuple[str, ...],
    change: owners.Change,
    evidence: Evidence,
) -> set[str]:
    """The lost addresses in whose place their owner has others; where that is not known, the port has to."""
    pairs = [(_named(then, evidence), _named(now, evidence)) for then, now in change.binds or ()]
    rest = set(fresh).difference(*(then for then, _ in pairs))
    found = exchanged_binds(rest, seen - known - set(were_lost))
    for then, now in pairs:
        found |= exchanged_binds(then.intersection(fresh), now - then - set(were_lost))
    return found


def _named(binds: set[str], evidence: Evidence) -> set[str]:
    """Addresses in names that compare: some tools do not print the interface."""
    return binds if evidence.tool_before == evidence.tool else set(map(without_zone, binds))


def _missed(
    known: set[str], seen: set[str], were_lost: tuple[str, ...], evidence: Evidence
) -> tuple[list[str], set[str], set[str]]:
    """Lost binds that are not there by their name, known binds, and those shown, in names that compare."""
    known, seen = _named(known, evidence), _named(seen, evidence)
    if not evidence.learning:
        return [*were_lost], known, seen
    # Another reader may name a bind differently, so no bind is newly lost. A lost one stays lost, unless it and one
    # of the binds shown are wildcards.
    any_wildcard = any(is_wildcard(address) for address in seen)
    return [address for address in were_lost if not (any_wildcard and is_wildcard(address))], seen, seen


def _changes(before: Port, port: Port, evidence: Evidence, more: int) -> tuple[Draft, ...]:
    """Others than before, and none is lost."""
    now, then = ", ".join(port.addresses), ", ".join(before.addresses)
    reason = f"It listens on {now} now, before on {then}{telling.left_out(more)}"
    details = {"severe": False, "before": list(before.addresses)}
    return telling.notice(port, evidence, Draft(EventKind.REBOUND, reason, evidence.at, details=details))


def _loses(before: Port, port: Port, evidence: Evidence, fresh: tuple[str, ...], more: int) -> tuple[Draft, ...]:
    """Binds are lost, or still are after a pause."""
    if port.lost_since is None:
        port.lost_since, port.lost_clock = evidence.at, evidence.clock
    rest = ", ".join(address for address in port.addresses if address not in port.lost)
    what = f"It does not listen on {', '.join(fresh or port.lost)} any more, only on {rest}"
    lacked = owners.lacked_by(owners.of(port))
    if whose := owners.names_of({own for address in fresh for own in lacked.get(address, ())}):
        what = f"{whose} does not listen on {', '.join(fresh)} any more, another program does"
    draft = Draft(
        EventKind.REBOUND,
        f"{what}{telling.left_out(more)}",
        since=evidence.at if fresh else port.lost_since,
        last_seen=evidence.seen_at if fresh else None,
        details={"severe": True, "lost": list(port.lost), "before": list(before.addresses)},
    )
    port.paused = False
    return telling.change_parts(port, evidence, fresh, draft) if fresh else telling.tell(port, evidence, draft)


def _finds(before: Port, port: Port, evidence: Evidence) -> tuple[Draft, ...]:
    """No bind is lost any more."""
    if before.paused:
        return telling.count_parts(port, evidence, before.lost)
    since = before.lost_since
    details = {"down_for": since and (evidence.at - since).total_seconds(), "lost": list(before.lost)}
    draft = Draft(EventKind.RECOVERED, f"It listens on {', '.join(before.lost)} again", since, details=details)
    return telling.change_parts(port, evidence, before.lost, draft)


def retires_parts(port: Port, evidence: Evidence, accepted: datetime | None) -> tuple[Row | None, tuple[Draft, ...]]:
    """Of a port whose lost binds and owners did not change: they retire, or what flapped is stable."""
    if owners.gone_of(port):
        if _is_old(port, evidence):
            # They are part of what is told of the owner.
            port.lost, port.lost_since, port.lost_clock = (), None, None
            port.owners = holding.kept_owners(port, owners.lacking_nothing(owners.of(port)))
        ended, told = holding.retires_owners(port, evidence, accepted)
        if ended is not None and port.paused and lifecycle.may_tell(port.told, evidence.at):
            # The lesser condition resumes when the greater ends.
            told += _loses(port, port, evidence, (), 0)
    else:
        ended, told = _retires_binds(port, evidence, accepted)
    if ended is not None:
        return ended, told
    settled = telling.settle(port, evidence)
    return (Row.STABLE, settled) if settled else (None, ())


def _retires_binds(port: Port, evidence: Evidence, accepted: datetime | None) -> tuple[Row | None, tuple[Draft, ...]]:
    since = port.lost_since
    if since is None or port.paused:
        return None, ()
    was_accepted = lifecycle.was_accepted(accepted, since, evidence.at)
    if not (was_accepted or _is_old(port, evidence)):
        return None, ()
    lost, port.lost, port.lost_since, port.lost_clock, port.parts = port.lost, (), None, None, ()
    port.owners = holding.kept_owners(port, owners.lacking_nothing(owners.of(port)))
    reason = "Accepted by a person" if was_accepted else f"Lost since {since:%Y-%m-%d %H:%M} UTC"
    reason += f"; {', '.join(lost)} is not expected any more"
    draft = Draft(EventKind.RETIRED, reason, since, details={"lost": list(lost)})
    return Row.BIND_RETIRED, telling.tell(port, evidence, draft)


def _is_old(port: Port, evidence: Evidence) -> bool:
    """Whether binds are lost for so long that they retire."""
    if port.lost_clock is None or port.paused or evidence.jumped:
        return False
    return evidence.clock - port.lost_clock >= evidence.settings.retire_after.total_seconds()
