"""The table of states: the next state and the events of one port, given one ok observation of its host. Pure.

A port is new (:func:`appear`), declared and never seen (:func:`absent`), known and seen (:func:`again`), or known and
missing (:func:`gone`), or not watched any more (:func:`hidden`). The :class:`Transition` that follows names its row of
the table; ``docs/states.md`` shows these rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from portmon.engine import binds, holding, lifecycle, owners, telling
from portmon.engine.lifecycle import NONE
from portmon.engine.owners import Holders, PortOwner, is_service, names_of
from portmon.engine.rows import Row, Transition
from portmon.engine.state import Draft, Evidence, Port, Seen
from portmon.engine.terms import Terms
from portmon.model import limits
from portmon.model.event_kinds import EventKind
from portmon.model.numbers import is_udp, number_of
from portmon.model.observation import PortKey
from portmon.model.state import PortStatus


def appear(
    key: PortKey,
    seen: Seen,
    evidence: Evidence,
    *,
    declared: str | None,
    terms: Terms,
    heir_of: Port | None = None,
) -> Transition:
    """Evaluate a port that is not known and listens.

    :param declared: the source of the declaration, None without one
    :param heir_of: the port from which its program moved
    """
    number = number_of(*key[1:])
    was_there = evidence.first or evidence.learning or number in evidence.before
    port = Port(*key, PortStatus.UP, evidence.at, first_seen_at=evidence.at, at_baseline=was_there, declared=declared)
    _take(port, seen, evidence)
    shown = holding.shown_owners(seen, evidence)
    if _is_anothers(port, terms, shown, evidence):
        port = dataclasses.replace(port, first_seen_at=None, addresses=())
        return Transition(port, Row.DECLARED, _is_taken(port, shown, evidence, terms))
    port.owners = holding.kept_owners(port, shown.owners)
    row = Row.BASELINE if evidence.first else Row.DECLARED_SEEN if declared else Row.NEW
    if heir_of is not None:
        for name in ("first_seen_at", "at_baseline", "young_since", "boots"):
            setattr(port, name, getattr(heir_of, name))
        port.last_seen_at = heir_of.last_seen_at
        _count_boot(port, evidence)
        port.last_seen_at = None
        return Transition(port, row)
    port.young_since = None if _is_born_mature(port, seen, evidence) else evidence.clock
    proven = seen.listed or (evidence.first and any(map(is_service, seen.units)))
    is_random = evidence.is_ephemeral(number, (*seen.comms, *seen.programs)) and not proven
    # Who waits for an answer has a UDP port as a server has one, and any number: its socket has to last.
    if (is_random or is_udp(number)) and not declared and evidence.settings.ephemeral_after > 1:
        port.status, port.streak, port.counted_at = PortStatus.CANDIDATE, 1, evidence.at
        return Transition(port, Row.BASELINE if evidence.first else Row.CANDIDATE)
    return Transition(port, row, _welcome(port, evidence))


def absent(key: PortKey, evidence: Evidence, *, declared: str) -> Transition:
    """Evaluate a port that is declared, not known, and does not listen."""
    port = Port(*key, PortStatus.UP, evidence.at, first_seen_at=evidence.at, declared=declared)
    return Transition(port, Row.DECLARED, _goes_down(port, evidence, f"It must listen ({declared}) and does not"))


def again(
    port: Port,
    seen: Seen,
    evidence: Evidence,
    *,
    declared: str | None,
    accepted: datetime | None,
    is_watched: Callable[[str | PortOwner], bool],
    terms: Terms,
) -> Transition:
    """Evaluate a port that is known and listens.

    :param declared: the source of the declaration, None without one
    :param accepted: when a person accepted what is wrong with it
    :param is_watched: whether the rules in force watch a bind address of the port, or an owner
    """
    other_rules = evidence.rules_changed or (port.declared is None) != (declared is None)
    quiet = evidence.learning or other_rules
    undeclared = port.declared is not None and declared is None
    is_asked = evidence.rules_changed or undeclared or port.hidden_since is not None
    evidence = _with_grace(port, evidence, terms)
    not_seen = port.addresses if evidence.booted_after(port) else port.late
    late = tuple(address for address in not_seen if evidence.in_grace and address not in seen.addresses)
    port = dataclasses.replace(port, declared=declared, hidden_since=None, late=late)
    unwatched = _hide_binds(port, seen, evidence, is_watched, is_asked=is_asked)
    if declared or seen.listed:
        port.young_since = None
    if port.status == PortStatus.CANDIDATE:
        return _candidate(port, seen, evidence)
    shown, known = holding.shown_owners(seen, evidence), owners.of(port)
    if other_rules or port.status == PortStatus.DOWN:
        known = tuple(dataclasses.replace(own, is_watched=is_watched(own)) for own in known)
        port.owners = holding.kept_owners(port, known)
    if port.status == PortStatus.UP:
        change = holding.changed_owners(port, known, shown, evidence)
        if is_udp(port.number):
            change = owners.without_clients(change, known, evidence.many, evidence.times)
        if other_rules and not any(own.is_watched for own in change.replaced):
            # Who is excluded from now on leaves without a word.
            change = dataclasses.replace(change, replaced=())
        step = _up_again(port, seen, shown, change, evidence, terms, accepted, quiet=quiet)
    elif undeclared and owners.present(port.holders):
        # What hides it may be gone in the next observation.
        step = Transition(port, Row.HELD)
    elif (shown.owners or not owners.present(port.holders)) and _is_back(port, terms, shown, evidence):
        step = _back(port, known, seen, shown, evidence, accepted, quiet=quiet)
    else:
        step = _held(port, seen, shown, evidence, accepted)
    return dataclasses.replace(step, drafts=(*unwatched, *step.drafts))


def gone(
    port: Port,
    evidence: Evidence,
    *,
    declared: str | None,
    accepted: datetime | None,
    terms: Terms,
    heir: int | None = None,
) -> Transition:
    """Evaluate a port that is known and does not listen.

    :param declared: the source of the declaration, None without one
    :param accepted: when a person accepted the port as gone
    :param heir: the port to which its program moved
    """
    was_hidden = port.hidden_since is not None
    was_declared = port.declared is not None
    port = dataclasses.replace(port, declared=declared, hidden_since=None)
    if was_declared and declared is None and heir is None and owners.present(port.holders):
        return Transition(port, Row.HELD)
    if not evidence.new_boot:
        port.holders = owners.left_alone(port.holders)
    if declared:
        port.young_since = None
    confirmed = evidence.confirmed or was_hidden
    if port.status == PortStatus.CANDIDATE:
        if not declared:
            return Transition(None, Row.FORGOTTEN)
        if not confirmed or evidence.new_boot:
            return Transition(port, Row.UNCONFIRMED)
        told = _goes_down(port, evidence, f"It must listen ({declared}) and does not")
        return Transition(port, Row.DECLARED, told)
    if port.status == PortStatus.DOWN and heir is None:
        return _still_down(port, evidence, accepted)
    _was_seen(port, evidence)
    if evidence.new_boot and port.grace_until is None:
        port.grace_until = _grace_of(port, evidence, terms)
        port.owners = holding.kept_owners(port, owners.after_boot(owners.of(port), owners.Holders(()), evidence.many))
    if not confirmed and port.number not in evidence.listening:
        # A port on which an excluded program listens did not seem missing, so the host was not asked twice.
        return Transition(port, Row.UNCONFIRMED)
    if heir is not None:
        # `moved` is a note, and a note ends no alert.
        kind = EventKind.RETIRED if is_open(port) and not port.paused else EventKind.MOVED
        reason = f"Its program listens on port {heir} instead"
        moved = Draft(kind, reason, port.status_since, port.last_seen_at, {"to": heir})
        return Transition(None, Row.MOVED, (moved,))
    if port.grace_until is not None:
        if evidence.new_boot or evidence.at < port.grace_until:
            return Transition(port, Row.GRACE)
        why = "Not back after the reboot of its host, whose time of grace is over"
        return _down(port, evidence, why, is_counted=port.misses > 0)
    return _misses(port, evidence, terms)


def hidden(port: Port, evidence: Evidence, reason: str = "No rule watches it any more") -> Transition:
    """Evaluate a port that no rule and no declaration watches any more, whether it listens or not.

    :param reason: what hides it
    """
    if port.status == PortStatus.CANDIDATE:
        return Transition(None, Row.FORGOTTEN)
    port = dataclasses.replace(port, declared=None)
    if evidence.new_boot or port.number not in evidence.listening:
        _was_seen(port, evidence)
    since = port.hidden_since
    if since is None:
        port.hidden_since = evidence.at
        return Transition(port, Row.HIDDEN)
    if evidence.new_boot:
        return Transition(port, Row.HIDDEN)
    if is_open(port) and not port.paused:
        after = pause(port)
        unwatched = Draft(EventKind.UNWATCHED, reason, telling.wrong_since(port))
        return Transition(after, Row.PAUSED, telling.tell(after, evidence, unwatched))
    if evidence.at - since >= evidence.forget_after and not evidence.jumped:
        return Transition(None, Row.HIDDEN_LONG)
    return Transition(port, Row.HIDDEN)


def denied(port: Port) -> Transition:
    """Evaluate a port that was watched while its owner was not known, and whose owner a rule excludes.

    It was never watched on purpose, so that nothing is told but the end of its alert.
    """
    if not is_open(port) or port.paused:
        return Transition(None, Row.DENIED)
    reason = "A rule excludes its program, which was not shown before"
    return Transition(None, Row.DENIED, (Draft(EventKind.UNWATCHED, reason, telling.wrong_since(port)),))


def pause(port: Port) -> Port:
    """The port after its alert ended without evidence: what is still wrong when it is watched again is told again."""
    return dataclasses.replace(port, paused=True, presence=NONE, parts=(), grace_until=None)


def is_open(port: Port) -> bool:
    """Whether a port is down, flaps, or has lost a bind or an owner, so that an alert may be open."""
    is_flapping = port.flapping_since is not None
    return port.status == PortStatus.DOWN or is_flapping or bool(port.lost) or bool(owners.gone_of(port))


def is_young(port: Port, clock: float, mature_after: timedelta) -> bool:
    """Whether a port is not watched for long enough yet; what is down does not get older.

    :param clock: evidence clock of its host, in seconds
    """
    if port.young_since is None:
        return False
    return port.status == PortStatus.DOWN or clock - port.young_since < mature_after.total_seconds()


LONG = timedelta(hours=1)
"""A boot, or a down of a young port, that lasted longer says nothing of the next one."""


LOGINS = ("session-", "tmux-spawn-", "vte-spawn-")
"""Scopes of what a login started."""


BOOTS = 5
"""So many boots of a port are kept."""


SLACK = 1.5
"""A port may take so many times as long as after the slowest of them."""


def _hide_binds(
    port: Port, seen: Seen, evidence: Evidence, is_watched: Callable[[str], bool], *, is_asked: bool
) -> tuple[Draft, ...]:
    """Put binds aside that rules hide, see :func:`portmon.engine.binds.hide_binds`.

    :param is_asked: the rules or the declaration changed, or they hid the port until now
    """
    aside = {address for address, _ in port.unwatched}
    is_asked = is_asked or not aside.isdisjoint(port.lost)

    def stays(bind: str) -> bool:
        # A bind that is shown here is watched, whatever the rules say of the owners before.
        return bind in seen.addresses or not (is_asked or bind in aside) or is_watched(bind)

    known, addresses = owners.of(port), port.addresses
    told = binds.hide_binds(port, evidence, stays)
    if port.addresses != addresses:
        port.owners = known
    return told


def _back(
    port: Port,
    known: Sequence[PortOwner],
    seen: Seen,
    shown: Holders,
    evidence: Evidence,
    accepted: datetime | None,
    *,
    quiet: bool,
) -> Transition:
    """A port that was down, and that one of its owners has again.

    :param known: its owners, as the rules in force watch them
    """
    before = dataclasses.replace(port)
    if evidence.booted_after(port):
        known = owners.after_boot(known, Holders(()), evidence.many)
    told = _recovers(port, evidence)
    if evidence.new_boot:
        change = owners.Change(owners.after_boot(known, shown, evidence.many))
    else:
        change = owners.returned(known, shown, evidence.many, evidence.times)
        if is_udp(port.number):
            change = owners.without_clients(change, known, evidence.many, evidence.times)
    return _goes_on(before, port, seen, change, evidence, Transition(None, Row.RECOVERED, told), accepted, quiet=quiet)


def _up_again(
    port: Port,
    seen: Seen,
    shown: Holders,
    change: owners.Change,
    evidence: Evidence,
    terms: Terms,
    accepted: datetime | None,
    *,
    quiet: bool,
) -> Transition:
    """A port that was up, and still listens."""
    there = tuple(own for own in change.owners if own.gone_since is None) if shown.owners else ()
    if _is_anothers(port, terms, dataclasses.replace(shown, owners=there), evidence):
        _was_seen(port, evidence)
        return Transition(port, Row.DOWN, _is_taken(port, _as_known(shown, there, evidence), evidence, terms))
    before = dataclasses.replace(port)
    # One look is one change.
    is_back = before.misses > 0 and not change.replaced
    told = telling.silently(port, evidence) if is_back else ()
    if change.replaced and port.presence.flapping_since:
        _was_seen(port, evidence)
        port.owners = holding.kept_owners(port, (*change.replaced, *owners.away_of(change.owners)))
        _falls(port, evidence)
        telling.silently(port, evidence)
        return _held(port, seen, shown, evidence, None)
    if not evidence.new_boot:
        told += holding.owner_events(before, port, seen, change, evidence, terms, quiet=quiet)
    return _goes_on(before, port, seen, change, evidence, Transition(None, Row.SEEN, told), accepted, quiet=quiet)


def _goes_on(
    before: Port,
    port: Port,
    seen: Seen,
    change: owners.Change,
    evidence: Evidence,
    step: Transition,
    accepted: datetime | None,
    *,
    quiet: bool,
) -> Transition:
    """A port that is up: what it shows is taken over; its owners and binds may be others.

    :param step: what is told until now, and the row
    """
    _count_boot(port, evidence)
    _take(port, seen, evidence)
    port.owners, port.holders = holding.kept_owners(port, change.owners), ()
    port.misses, port.counted_at, port.last_seen_at, port.seen_clock, port.grace_until = 0, None, None, None, None
    left = holding.owners_left(port, change, evidence)
    row, drafts = step.row, [*step.drafts, *left]
    if row is Row.SEEN and (left or change.gone):
        row = Row.OWNER_GONE
    if not evidence.new_boot:
        bind_row, told = binds.bind_events(before, port, seen, change, evidence, quiet=quiet or row is Row.RECOVERED)
        back = holding.owners_back(port, change, evidence, is_told=bind_row is Row.LOST_BIND)
        drafts = telling.in_one(port, drafts, (*told, *back))
        if row is Row.SEEN:
            braked = Row.BRAKED if telling.is_braked(port, evidence) else None
            is_back = change.back and not owners.gone_of(port)
            row = (Row.OWNER_BACK if is_back else None) or bind_row or braked or row
    if port.flapping.keys() - before.flapping.keys():
        row = Row.FLAPPING
    changed = row in (Row.RECOVERED, Row.FLAPPING, Row.LOST_BIND, Row.OWNER_GONE, Row.OWNER_BACK)
    if not changed and port.lost == before.lost and not evidence.new_boot:
        ended, told = binds.retires_parts(port, evidence, accepted)
        drafts += told
        row = ended or row
    if port.paused and not port.lost and not owners.gone_of(port):
        port.paused = False
    return Transition(port, row, tuple(drafts))


def _misses(port: Port, evidence: Evidence, terms: Terms) -> Transition:
    """A port that was up, and is missing in this run."""
    if port.misses and not evidence.counts(port.counted_at):
        return Transition(port, Row.MISSED)
    was_missing = port.misses > 0
    port.misses, port.counted_at = port.misses + 1, evidence.at
    if port.misses < terms.down_after:
        told = () if was_missing else telling.silently(port, evidence)
        return Transition(port, Row.FLAPPING if told else Row.MISSED, told)
    runs = "1 run" if port.misses == 1 else f"{port.misses} runs in a row"
    return _down(port, evidence, f"Missing in the complete answers of {runs}, confirmed", is_counted=was_missing)


def _was_seen(port: Port, evidence: Evidence) -> None:
    """The port, or its own owner, is not there: the look before showed it last, unless it was missing already."""
    if not port.last_seen_at:
        port.last_seen_at, port.seen_clock = evidence.seen_at, evidence.seen_clock


def _take(port: Port, seen: Seen, evidence: Evidence) -> None:
    # Values that are not shown (without privileges) stay as they were known.
    port.pids = seen.pids or port.pids
    port.inodes = seen.inodes if evidence.learning else seen.inodes or port.inodes
    if evidence.new_boot and port.addresses:
        # Owners and binds are evaluated in the second observation of a boot, when services have started.
        return
    port.addresses = seen.addresses
    if seen.programs or not port.programs:
        port.tool = evidence.tool
    if not (port.programs and seen.comms and seen.comms == port.comms and seen.programs == seen.comms):
        # Unchanged names of the kernel do not replace a tool's names, which rules may use.
        port.programs = seen.programs or port.programs
    port.uids = seen.uids or port.uids
    port.units = seen.units or port.units
    port.comms = seen.comms or port.comms


def _welcome(port: Port, evidence: Evidence) -> tuple[Draft, ...]:
    if port.at_baseline:
        return ()
    reason = "It was not there before" if port.first_seen_at == evidence.at else "It was not there before, and it stays"
    return telling.tell(port, evidence, Draft(EventKind.NEW, reason, since=port.first_seen_at))


def _candidate(port: Port, seen: Seen, evidence: Evidence) -> Transition:
    is_another = is_udp(port.number) and _is_another_socket(port, seen)
    shown, known = holding.shown_owners(seen, evidence), owners.of(port)
    if evidence.new_boot:
        known = owners.after_boot(known, shown, evidence.many)
    elif shown.owners:
        known = owners.taken_over(known, shown, evidence.many).owners
    _take(port, seen, evidence)
    port.owners = holding.kept_owners(port, known)
    if evidence.new_boot:
        return Transition(port, Row.WAITING)
    if is_another:
        # Another client took the same random port.
        port.streak, port.counted_at = 0, None
    if evidence.counts(port.counted_at):
        port.streak, port.counted_at = port.streak + 1, evidence.at
    if not port.declared and port.streak < evidence.settings.ephemeral_after:
        return Transition(port, Row.WAITING)
    port.status, port.status_since, port.streak, port.counted_at = PortStatus.UP, evidence.at, 0, None
    return Transition(port, Row.DECLARED_SEEN if port.declared else Row.PROVEN, _welcome(port, evidence))


def _is_another_socket(port: Port, seen: Seen) -> bool:
    return bool(port.inodes and seen.inodes) and set(port.inodes).isdisjoint(seen.inodes)


def _rises(port: Port, evidence: Evidence) -> None:
    """The state of a port that is up again."""
    if port.young_since is not None and evidence.at - port.status_since > LONG:
        port.young_since = evidence.clock
    port.status, port.status_since = PortStatus.UP, evidence.at


def _recovers(port: Port, evidence: Evidence) -> tuple[Draft, ...]:
    since = port.status_since
    _rises(port, evidence)
    if port.paused:
        port.paused = False
        port.presence = lifecycle.untold(port.presence, evidence.pace, clock=evidence.clock, at=evidence.at)
        return ()
    details = {"down_for": (evidence.at - since).total_seconds()}
    back = Draft(EventKind.RECOVERED, "It listens again", since, port.last_seen_at, details)
    return telling.change(port, evidence, back)


def _held(port: Port, seen: Seen, shown: Holders, evidence: Evidence, accepted: datetime | None) -> Transition:
    """A port that is down, and that another owner has."""
    if evidence.new_boot:
        return Transition(port, Row.STILL_DOWN)
    known = port.holders
    port.holders = owners.held(known, shown, evidence.many, evidence.clock)
    holders = owners.present(port.holders)
    fresh = [own for own in holders if not any(owners.same(one, own, evidence.many) for one in known)]
    names, was = names_of(holders), names_of(owners.of(port))
    mature = evidence.clock - evidence.settings.mature_after.total_seconds()
    was_accepted = lifecycle.was_accepted(accepted, port.status_since, evidence.at)
    is_old = not port.declared and any(own.joined is not None and own.joined <= mature for own in holders)
    if was_accepted or (is_old and not evidence.jumped):
        why = "A person accepted it" if was_accepted else "It has been there for long"
        reason = f"{names} has it. {why}: {was} is not expected any more"
        draft = Draft(EventKind.RETIRED, reason, port.status_since, port.last_seen_at, {"owner": names, "taken": True})
        told = () if port.paused else (draft,)
        _take(port, seen, evidence)
        new = [dataclasses.replace(own, joined=None, is_accepted=was_accepted) for own in holders]
        _rises(port, evidence)
        port.presence, port.paused, port.unwatched = NONE, False, ()
        port.owners, port.holders, port.last_seen_at, port.seen_clock = holding.kept_owners(port, new), (), None, None
        return Transition(port, Row.TAKEN_OVER, told)
    taken = Draft(
        EventKind.REPLACED,
        f"{names} has it now; it stays down, for {was} is gone",
        port.status_since,
        port.last_seen_at,
        {"taken": True, "owner": names, "was": was, "before": list(port.programs)},
    )
    if port.paused and lifecycle.may_tell(port.told, evidence.at):
        return _resumes(port, evidence, f"{names} has it, and not {was}")
    if settled := telling.settle(port, evidence):
        return Transition(port, Row.STABLE, (*settled, *telling.notice(port, evidence, taken)))
    if not fresh or port.presence.flapping_since or port.paused:
        return Transition(port, Row.HELD)
    return Transition(port, Row.HELD, telling.notice(port, evidence, taken))


def _is_born_mature(port: Port, seen: Seen, evidence: Evidence) -> bool:
    """Whether a port that is new needs no time to be taken for one that belongs there."""
    if port.declared or seen.listed:
        return True
    of_login = any(unit.startswith(LOGINS) and unit.endswith(".scope") for unit in seen.units)
    is_random = evidence.is_ephemeral(port.number, (*seen.comms, *seen.programs))
    return (evidence.first or evidence.learning) and not is_random and not of_login


def _count_boot(port: Port, evidence: Evidence) -> None:
    """Keep how long the port took after the boot, if this is the first observation since that shows it."""
    if evidence.booted_at is None:
        return
    # After another clock was believed, the boot may seem to be later than this look.
    took = max(evidence.at - evidence.booted_at, timedelta())
    if evidence.booted_after(port) and took <= LONG:
        port.boots = (*port.boots, took.total_seconds())[-BOOTS:]


def _grace_of(port: Port, evidence: Evidence, terms: Terms) -> datetime | None:
    """Until when a port has time to come back after the boot: longer, if it took long before."""
    if evidence.grace_until is None:
        return None
    begin = evidence.grace_until - evidence.settings.reboot_grace
    # Of the boots before this one, whether it was seen since or not.
    boots = port.boots if evidence.booted_after(port) else port.boots[:-1]
    own = timedelta(seconds=SLACK * max(boots, default=0.0))
    return begin + max(terms.reboot_grace, own)


def _with_grace(port: Port, evidence: Evidence, terms: Terms) -> Evidence:
    """The evidence with the port's own time of grace, which its owners and binds have as well."""
    until = _grace_of(port, evidence, terms)
    return evidence if until == evidence.grace_until else dataclasses.replace(evidence, grace_until=until)


def _is_anothers(port: Port, terms: Terms, shown: Holders, evidence: Evidence) -> bool:
    """Whether another one has a port than a declaration names."""
    if terms.owner is None or evidence.new_boot or (evidence.in_grace and not _was_back(port, terms.owner, evidence)):
        return False
    return not _has_own(port, terms, shown, evidence)


def _has_own(port: Port, terms: Terms, shown: Holders, evidence: Evidence) -> bool:
    """Whether one of its own has a port, as far as the look shows: one that is known, unless a declaration names it."""
    known = owners.of(port)
    if terms.owner is None:
        return owners.is_own(known, shown, evidence.many)
    named = [owners.is_named(terms.owner, one) for one in shown.owners]
    may_be = shown.nameless or not named or None in named
    # As far as it is known, a look may show it without its unit.
    own = [one for one in known if owners.is_named(terms.owner, one)] or [one for one in known if one.is_accepted]
    if True in named or not own:
        return True in named or may_be
    # A look without its unit says nothing of one that is declared by its unit.
    return owners.is_own(own, shown, evidence.many) or (may_be and terms.owner.unit is None)


def _as_known(shown: Holders, known: Sequence[PortOwner], evidence: Evidence) -> Holders:
    """Those that a look shows, with what is known of them: what it does not show is no difference.

    :param known: who had the port in the look before
    """
    held = owners.held(known, shown, evidence.many, evidence.clock)
    return dataclasses.replace(shown, owners=owners.present(held))


def _is_back(port: Port, terms: Terms, shown: Holders, evidence: Evidence) -> bool:
    """Whether one of its own has a port that was down."""
    if shown.owners:
        shown = _as_known(shown, owners.present(port.holders), evidence)
    if not _has_own(port, terms, shown, evidence):
        return False
    # One that may be what a declaration names, and that surely did not have the port before, is no return.
    is_known = owners.is_own(owners.of(port), shown, evidence.many)
    return is_known or terms.owner is None or any(owners.is_named(terms.owner, one) for one in shown.owners)


def _was_back(port: Port, owner: PortOwner, evidence: Evidence) -> bool:
    """Whether the owner that a declaration names was seen since the boot."""
    named = (one for one in owners.of(port) if owners.is_named(owner, one) and not one.waits)
    return any(named) and not evidence.booted_after(port)


def _is_taken(port: Port, shown: Holders, evidence: Evidence, terms: Terms) -> tuple[Draft, ...]:
    """The port is down, since another one has it than must have it."""
    # Who has it is none of its owners.
    rest = [one for one in owners.of(port) if not any(owners.same(one, own, evidence.many) for own in shown.owners)]
    if not rest:
        # All that is known is of others.
        port.programs, port.pids, port.units, port.comms, port.inodes, port.uids = (), (), (), (), (), ()
    port.owners = holding.kept_owners(port, rest)
    told = _goes_down(port, evidence, f"{names_of(shown.owners)} has it, and not {terms.owner} ({port.declared})")
    port.holders = owners.held((), shown, evidence.many, evidence.clock)
    return told


def _down(port: Port, evidence: Evidence, reason: str, *, is_counted: bool = False) -> Transition:
    before = port.presence.flapping_since
    told = _goes_down(port, evidence, reason, is_counted=is_counted)
    return Transition(port, Row.FLAPPING if port.presence.flapping_since and not before else Row.DOWN, told)


def _goes_down(port: Port, evidence: Evidence, reason: str, *, is_counted: bool = False) -> tuple[Draft, ...]:
    """The port is down.

    :param is_counted: that it went missing was a change already
    """
    misses = port.misses
    _falls(port, evidence)
    last = port.last_seen_at
    seen = f"; last seen {last:%Y-%m-%d %H:%M:%S} UTC" if last else "; never seen"
    draft = Draft(EventKind.DOWN, reason + seen, evidence.at, last, {"misses": misses} if misses else {})
    port.paused = False
    return telling.change(port, evidence, draft, is_counted=is_counted)


def _falls(port: Port, evidence: Evidence) -> None:
    """The state of a port that goes down."""
    port.misses, port.streak, port.counted_at, port.grace_until = 0, 0, None, None
    if not is_young(port, evidence.clock, evidence.settings.mature_after):
        port.young_since = None
    port.status, port.status_since = PortStatus.DOWN, evidence.at
    known = owners.not_gone(owners.of(port))
    # All binds are expected again: one that does not come back with the others makes an event.
    port.addresses, _ = limits.few_of((*port.addresses, *port.lost), port.addresses)
    port.lost, port.lost_since, port.lost_clock, port.parts = (), None, None, ()
    # So are all owners: each of them that comes back ends it.
    port.owners = holding.kept_owners(port, known)
    if port.seen_clock is None:
        port.seen_clock = evidence.clock


def _still_down(port: Port, evidence: Evidence, accepted: datetime | None) -> Transition:
    if evidence.new_boot:
        return Transition(port, Row.STILL_DOWN)
    unseen_since = port.last_seen_at or port.status_since
    was_accepted = lifecycle.was_accepted(accepted, port.status_since, evidence.at)
    unseen = evidence.clock - (evidence.clock if port.seen_clock is None else port.seen_clock)
    settings = evidence.settings
    limit = settings.retire_after if port.young_since is None else min(settings.mature_after, settings.retire_after)
    if was_accepted or unseen >= limit.total_seconds():
        if evidence.jumped and not was_accepted:
            return Transition(port, Row.STILL_DOWN)
        reason = "Accepted as gone by a person" if was_accepted else f"Not seen since {unseen_since:%Y-%m-%d %H:%M} UTC"
        then = "nothing more is told of it until it was seen" if port.declared else "it is not watched any more"
        draft = Draft(EventKind.RETIRED, f"{reason}; {then}", port.status_since, unseen_since)
        return Transition(pause(port) if port.declared else None, Row.RETIRED, () if port.paused else (draft,))
    if port.paused and lifecycle.may_tell(port.told, evidence.at):
        return _resumes(port, evidence, f"Still missing; last seen {unseen_since:%Y-%m-%d %H:%M:%S} UTC")
    settled = telling.settle(port, evidence)
    return Transition(port, Row.STABLE, settled) if settled else Transition(port, Row.STILL_DOWN)


def _resumes(port: Port, evidence: Evidence, reason: str) -> Transition:
    """A port that is down is told again after a pause."""
    port.paused = False
    draft = Draft(EventKind.DOWN, reason, port.status_since, port.last_seen_at)
    return Transition(port, Row.RESUMED, telling.tell(port, evidence, draft))
