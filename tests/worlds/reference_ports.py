"""The ports of one ok look, by the naive implementation: half of :class:`tests.worlds.reference.Reference`."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tests.worlds.reference_looks import (
    UDP,
    Seen,
    Sight,
    all_names,
    containers,
    is_ephemeral,
    reaches,
    services,
    titles,
)
from tests.worlds.reference_owners import (
    Circumstances,
    Owner,
    Verdict,
    View,
    are_away,
    expected_again,
    holders,
    in_another_boot,
    in_place_of,
    is_named,
    is_recovered,
    judge,
    not_shown,
    pairs,
    recover,
    taken_over,
)
from tests.worlds.reference_rows import FEW, HOUR, MOST, ZERO, Changes, Part, PortRow, Settings, Told, told_today
from tests.worlds.reference_young import Young, name_of

NOTES = ("restarted", "moved")
"""Kinds of events that are no messages."""
CLOSED = ("retired", "unwatched")
"""They close an alert for good: they are told whatever was told before, and do not count."""
NOTICES = ("new", "replaced", "restarted", "rebound")
"""Nothing begins or ends with them, unless a rebound is severe."""
FORWARDERS = {"docker-proxy", "rootlessport", "kube-proxy", "sshd", "sshd-session"}
"""They listen for others: that one of their ports came says nothing of one that is gone."""


class Ports(Young):
    """What follows from looking at the ports of a host."""

    settings: Settings
    half: timedelta
    window: timedelta
    accepted: Mapping[tuple[str, str, int], datetime]
    _events: list[Told]

    # ── messages ────────────────────────────────────────────────────────────────────────────────

    def _tell_port(self, port: PortRow, host_id: str, at: datetime, kind: str, number: int, extra: str = "") -> bool:
        """An event, unless too many messages of the port were told today. What closes an alert for good always is."""
        today = told_today(port.messages, at)
        if kind in NOTICES and extra in ("", "taken"):
            if today >= FEW:
                return False
        elif today >= MOST and kind not in (*CLOSED, "moved"):
            return False
        if kind not in (*NOTES, *CLOSED):
            port.messages = [then for then in port.messages if told_today([then], at)] + [at]
        if kind == "down":
            port.alert = "down"
        elif kind in ("flapping", "crash_looping"):
            port.alert = "flapping"
        elif kind == "owner_gone" or (kind == "rebound" and extra):
            port.alert = "owner" if port.gone else "lost"
        elif kind == "stable":
            port.alert = port.fault if extra == "down" else ""
        elif kind in ("recovered", "retired", "unwatched"):
            port.alert = port.partial_fault  # of two faults the other one goes on
        self._events.append((at, kind, host_id, number, extra))
        return True

    def _too_often(self, changes: Changes, look: Sight) -> bool:
        return changes.within(look.clock, self.window) >= self.settings.flap_threshold

    def _flaps(self, port: PortRow, those: Iterable[Changes], look: Sight, kind: str, number: int) -> None:
        for changes in those:
            changes.flapping = True
        port.alert = "flapping"  # an end of it closes what was told before
        self._tell_port(port, look.host_id, look.at, kind, number, up_or_down(port))

    def _presence_changed(
        self, port: PortRow, look: Sight, kind: str, number: int, extra: str = "", *, counts: bool = True
    ) -> None:
        """A down, recovered or replaced of the port. Its new state is in the row already.

        :param counts: it is a change, and not only the message of one that was counted before
        """
        if self._subject is not None:
            changes = self._one_returns if kind == "recovered" else self._one_ends
            changes(self._subject, port, look, number, kind)
            return
        if counts:
            port.presence.add(look.clock, self.window)
        many = self._too_often(port.presence, look)
        if port.presence.flapping or (kind == "recovered" and not port.alert and not many):
            return  # a person, a rule or the CMDB closed its alert
        if many or told_today(port.messages, look.at) >= FEW:
            self._flaps(port, [port.presence], look, "flapping", number)
        else:
            self._tell_port(port, look.host_id, look.at, kind, number, extra)

    def _presence_changed_silently(self, port: PortRow, look: Sight, number: int, *, restart: bool = False) -> None:
        """A change that has no message of its own: a miss, being back from it, a restart."""
        if self._subject is not None:
            return
        port.presence.add(look.clock, self.window)
        if restart:
            port.restarts.add(look.clock)
        if port.presence.flapping or not self._too_often(port.presence, look):
            return
        restarts_alone = restart and port.restarts.issuperset(port.presence.times)
        self._flaps(port, [port.presence], look, "crash_looping" if restarts_alone else "flapping", number)

    def _parts_changed(
        self, port: PortRow, look: Sight, kind: str, number: int, extra: str, *, of: Set[Part], changed: Set[Part]
    ) -> bool:
        """Binds or owners are lost or there again; each flaps by itself. All is silent while the port comes and goes.

        :param kind: of the one event of this look; empty if what changed has none
        :param of: those that the event is about
        :param changed: those that are lost or there again since this look
        :returns: whether anything was to be told
        """
        for part in changed | of:
            port.parts.setdefault(part, Changes())
        for part in changed:
            port.parts[part].add(look.clock, self.window)
        if port.presence.flapping or (kind == "recovered" and not port.alert):
            return bool(kind)
        if port.gone and all(what == "bind" for what, _ in changed | of):
            return bool(kind)  # that an owner is gone says more than what becomes of a bind
        flapping = {part for part, changes in port.parts.items() if changes.flapping}
        # The end of one is no message while another one comes and goes; a loss is.
        is_told = bool(kind) and not (kind == "recovered" and flapping)
        too_many = {part for part in of if self._too_often(port.parts[part], look)}
        if is_told and told_today(port.messages, look.at) >= FEW:
            too_many |= of
        begin = [port.parts[part] for part in too_many - flapping]
        if is_told and of - flapping - too_many:
            for changes in begin:
                changes.flapping = True
            self._tell_port(port, look.host_id, look.at, kind, number, extra)
        elif begin:
            self._flaps(port, begin, look, "flapping", number)
        return bool(kind or begin)

    def _may_be_stable(self, port: PortRow, look: Sight, number: int) -> None:
        """Of a port that did not change in this look."""
        if look.first or told_today(port.messages, look.at) >= MOST:
            return
        subject = self._speaks_for(look.host_id, number)
        if subject is not None:
            self._all_may_be_stable(subject, port, look, number)
            return
        still = {part for part, one in port.parts.items() if one.flapping and one.still(look.clock, self.window)}
        goes_on = any(one.flapping for part, one in port.parts.items() if part not in still)
        state = up_or_down(port)
        if port.presence.flapping:  # what is told of the port itself comes first
            if not port.presence.still(look.clock, self.window):
                return
            port.presence.forget()
        elif not still:
            return
        elif goes_on:
            state = "down" if still & lost_parts(port, look.many) else ""
        for part in still:
            del port.parts[part]
        if state:
            self._tell_port(port, look.host_id, look.at, "stable", number, state)

    def _notice(self, port: PortRow, look: Sight, kind: str, number: int, extra: str = "") -> None:
        """Of what is only worth a notice the first few of a kind; then silence until there was none for the window."""
        earlier = port.notices.get(kind, [])
        if earlier and look.clock - earlier[-1] >= self.window:
            earlier = []
        if len(earlier) < self.settings.flap_threshold:
            earlier = [then for then in earlier if look.clock - then < self.window]
            self._tell_port(port, look.host_id, look.at, kind, number, extra)
        port.notices[kind] = [*earlier, look.clock]

    # ── one look ────────────────────────────────────────────────────────────────────────────────

    def _judge_ports(self, look: Sight) -> None:
        """Every port of one ok look."""
        ports = self.ports[look.host_id]
        told_before = len(self._events)
        hidden = {number for number, port in ports.items() if self._is_hidden(look, number, port)}
        self._all_begin(look, hidden)
        for number in sorted(hidden):
            self._hide(look, number, ports[number])
        for number in sorted(look.denied & ports.keys() - hidden - look.declared):
            if not ports[number].owners:
                hidden.add(number)  # who has it was never known, and now it turns out
                if ports[number].alert:
                    self._tell_port(ports[number], look.host_id, look.at, "unwatched", number)
                del ports[number]
        if not look.udp:  # nothing is known of UDP ports
            hidden |= {number for number in ports if number >= UDP}
        moved_to = self._moves(look, hidden)
        for number in self._in_order(look, (ports.keys() | look.seen.keys() | look.declared) - hidden):
            port = ports.get(number)
            if port is None:
                self._unknown(look, number, moved_to.get(number))
            else:
                self._known(look, number, port)
            self._is_done(look, number)
        self._all_are_done(look.host_id, look.at)
        self._count_the_rest(told_before, look)

    def _unknown(self, look: Sight, number: int, old: PortRow | None) -> None:
        """A port that is seen for the first time, or declared and not there.

        :param old: the port that moved to it
        """
        if look.first and old is None:
            return  # the next look of this boot judges it
        host = self.hosts[look.host_id]
        declared = number in look.declared
        first_of_all = host.last_ok_at is None or (number >= UDP and look.udp_begins)
        if number not in look.seen:
            if look.confirmed:
                port = PortRow("down", look.at, declared=True, seen_clock=look.clock)
                self.ports[look.host_id][number] = port
                self._presence_changed(port, look, "down", number)
            return
        seen = look.seen[number]
        if not look.learning and self._is_anothers(look, number, None, seen, seen.view.owners):
            port = PortRow("down", look.at, declared=True, seen_clock=look.clock)
            self.ports[look.host_id][number] = port
            self._falls_to_others(port, look, number, seen, [])
            return
        was_there = first_of_all or look.learning or number in host.listening
        port = PortRow("up", look.at, at_baseline=was_there, declared=declared, seen_boot=look.boot)
        port.owners = list(seen.view.owners)
        port.young_since = None if self._is_mature_from_the_start(look, number, seen) else look.clock
        port.shows(look.boot, seen.addresses)
        take(port, seen, look)
        self.ports[look.host_id][number] = port
        of_a_service = first_of_all and bool(services(seen.units))
        waits = is_ephemeral(look, number, seen) and not (seen.listed or declared or of_a_service)
        if number >= UDP and not declared:
            waits = True  # it may be a client's
        if old is not None:
            port.first_seen, port.young_since = old.first_seen, old.young_since
            port.boots, port.seen_boot = old.boots, old.seen_boot
            self._grows_up(port, look, number, seen)
            self._note_boot(port, look)
        elif waits and self.settings.ephemeral_after > 1:
            port.status, port.streak, port.counted_at = "candidate", 1, look.at
        elif not was_there:
            self._tell_new(port, look, number)

    def _known(self, look: Sight, number: int, port: PortRow) -> None:
        """A port that is remembered and watched."""
        resumed = port.hidden_since is not None
        port.hidden_since, port.hidden_looks = None, 0
        seen = look.seen.get(number)
        if seen is not None and (port.status != "down" or self._is_its_own(port, look, number, seen)):
            port.shows(look.boot, seen.addresses)
        if (until := self._waits_until(look, number, port)) is not None and look.at < until:
            look = replace(look, waits=True)
        self._grows_up(port, look, number, look.seen.get(number))
        self._begins(look, number, port)
        for one in port.owners:
            if (name := look.must_have.get(number)) is not None and is_named(one, name):
                one.named = name
        if look.other_rules or port.declared != (number in look.declared):
            for one in port.owners:  # if it is shown, its sockets say so
                one.watched = number in look.declared or self._is_owner_watched(look.host_id, number, port, one)
        undeclared = port.declared and number not in look.declared
        if undeclared and not resumed and port.status == "down" and port.is_held:
            port.declared = False
            return  # the next look judges it as a learned one
        if look.first:
            self._known_in_another_boot(look, number, port)
            return
        other_view = look.learning or look.other_rules or port.declared != (number in look.declared)
        port.declared = number in look.declared
        if number not in look.seen:
            self._known_and_missing(look, number, port, confirmed=look.confirmed or resumed or port.paused)
            return
        seen = look.seen[number]
        self._hide_binds(look, number, port, changed=look.other_rules or undeclared or resumed)
        if port.status == "candidate":
            if number >= UDP and port.inodes and seen.inodes and not port.inodes & seen.inodes:
                port.streak, port.counted_at = 0, None  # another client's
            port.owners = taken_over(port.owners, seen.view, look.many).owners
            take(port, seen, look)
            self._candidate_again(port, look, number)
        else:
            again = self._up_again if port.status == "up" else self._back
            verdict = again(port, look, number, seen, other_view=other_view)
            if port.status == "down":
                return  # others have it, and what is known is of its own owners
            if port.paused:
                self._lost_again(port, look, number, seen, verdict)
            self._take_binds(port, look, seen, verdict)
        self._grows_up(port, look, number, seen)

    def _known_in_another_boot(self, look: Sight, number: int, port: PortRow) -> None:
        """Only what is back is told; new ports, owners and binds are judged in the next look."""
        port.declared = number in look.declared
        anew = self.hosts[look.host_id].grace_until == look.at + self.settings.reboot_grace
        own = self._waits_until(look, number, port)
        if anew or own is None or look.at >= own:
            port.takes = max(port.boots, default=ZERO) * 1.5
        if number in look.seen:
            seen = look.seen[number]
            if port.status == "down":
                if not self._is_its_own(port, look, number, seen):
                    return  # the next look says who has it
                self._up_from_down(port, look, number)
            if port.status == "up":
                self._back_from_misses(port, look, number)
                port.grace_until = None
            self._note_boot(port, look)
            if port.seen_once:
                port.owners = in_another_boot(port.owners, seen.view, look.many)
            else:  # nothing is known that the next look could be compared with
                port.owners = list(seen.view.owners)
                take(port, seen, look)
            port.pids = seen.pids or port.pids
            port.inodes = seen.inodes or port.inodes
            port.seen_once, port.seen_clock = True, look.clock
            self._grows_up(port, look, number, seen)
        elif port.status == "candidate" and number not in look.declared:
            del self.ports[look.host_id][number]
        elif port.status == "up" and port.grace_until is None:
            port.grace_until = self._waits_until(look, number, port)

    def _waits_until(self, look: Sight, number: int, port: PortRow) -> datetime | None:
        """When its time to come back after the last boot is over, that of its binds and owners, too; None: it has none."""
        until, usual = self.hosts[look.host_id].grace_until, self.settings.reboot_grace
        if until is None or port.takes is None:
            return None
        terms = self._terms(look.host_id, number, port)
        given = (terms and terms.reboot_grace) or ZERO
        return until + max(port.takes - usual, given - usual, ZERO)

    def _known_and_missing(self, look: Sight, number: int, port: PortRow, *, confirmed: bool) -> None:
        if port.status == "candidate":
            if number not in look.declared:
                del self.ports[look.host_id][number]
            elif confirmed:
                self._goes_down(port, look, number)
        elif not confirmed:
            pass
        elif port.status == "up":
            self._up_and_missing(port, look, number)
        else:
            self._down_and_missing(port, look, number)

    def _take_binds(self, port: PortRow, look: Sight, seen: Seen, verdict: Verdict) -> None:
        before = port.addresses
        waits = not look.learning and self._addresses_compare(look) and self._waits_for_binds(port, look, seen, verdict)
        take(port, seen, look)
        if waits:
            port.addresses = before

    def _count_the_rest(self, told_before: int, look: Sight) -> None:
        """Of more than 200 notices of one look those of the highest ports are one event."""
        notices = [
            event for event in self._events[told_before:] if event[1] in (*NOTICES, "moved") and event[4] != "severe"
        ]
        if len(notices) <= 200:
            return
        for event in sorted(notices, key=lambda event: event[3] or 0)[200:]:
            self._events.remove(event)
            port = self.ports[look.host_id].get(event[3] or 0)
            if port is not None and event[1] not in NOTES:
                port.messages.remove(event[0])
        self._tell_host(look.host_id, look.at, "many_changes")

    def _tell_host(self, host_id: str, at: datetime, kind: str, extra: str = "") -> bool:
        raise NotImplementedError

    # ── what happens to one port ────────────────────────────────────────────────────────────────

    def _candidate_again(self, port: PortRow, look: Sight, number: int) -> None:
        if number not in look.declared:
            if self._counts(port.counted_at, look.at):
                port.streak += 1
                port.counted_at = look.at
            if port.streak < self.settings.ephemeral_after:
                return
        port.status, port.status_since = "up", look.at
        port.streak, port.counted_at = 0, None
        if not port.at_baseline:
            self._tell_new(port, look, number)

    def _up_again(self, port: PortRow, look: Sight, number: int, seen: Seen, *, other_view: bool) -> Verdict:
        was_flapping = port.presence.flapping
        was_missing = self._back_from_misses(port, look, number)
        if look.learning:
            verdict = taken_over(port.owners, seen.view, look.many)
        else:
            verdict = judge(port.owners, seen.view, self._circumstances(look))
            if number >= UDP:
                for one in verdict.owners:
                    one.lacks = frozenset()
                verdict = self._without_clients(verdict, look)
            if other_view and not any(one.watched for one in verdict.left if one.gone_since is None):
                verdict.replaced = False  # rules exclude all that left
        were_gone = bool(port.gone)
        gone = [verdict.owners[place] for place in verdict.gone]
        there = [one for one in verdict.owners if one.gone_since is None and one not in gone]
        if any(is_named(one, port.instead_of) for one in there):
            port.instead_of = ""
        if not look.learning and self._is_anothers(look, number, port, seen, there):
            port.owners = not_shown(port.owners, seen.view, look.many)
            if was_flapping:
                self._is_taken(port, look, seen, there)
            else:
                self._falls_to_others(port, look, number, seen, there, counts=not was_missing)
            return verdict
        if verdict.replaced and was_flapping:
            port.owners = verdict.left
            self._is_taken(port, look, seen)
            return verdict
        one_boot = port.seen_boot == look.boot and port.grace_until is None
        if verdict.same and not other_view and one_boot and is_restarted(port, seen):
            self._restarted(port, look, number, counts=not was_missing)
        self._note_boot(port, look)
        changed = self._owners_changed(port, look, number, verdict, counts=not was_missing)
        all_back = were_gone and not port.gone
        port.addresses -= seen.excluded  # they are there, though not watched
        lost_before, kind, extra = port.lost, "", ""
        if look.learning:
            kind = self._learn_binds(port, look, seen, verdict)
        elif self._addresses_compare(look) and not self._waits_for_binds(port, look, seen, verdict):
            silent = other_view or bool(port.gone or verdict.back)  # what is told of an owner says it
            kind, extra = self._compare_binds(port, look, number, seen, verdict, silent=silent)
        of = binds(port.lost - lost_before or lost_before - port.lost)
        parts = binds(lost_before ^ port.lost)
        if all_back:  # what is lost still was tracked without a word until now
            back = owner_parts(verdict.back, look.many)
            kind, extra, of = ("rebound", "severe", binds(port.lost)) if port.lost else ("recovered", "owner", back)
            parts |= back
        if extra == "severe" and verdict.replaced and not port.gone and not port.flap(of):
            self._says_it_too(port, look, number)
        changed |= self._parts_changed(port, look, kind, number, extra, of=of if kind else set(), changed=parts)
        port.grace_until = None
        if port.lost and port.lost_since is None:
            port.lost_since = (look.at, look.clock)
        elif not port.lost:
            port.lost_since = None
        if not changed and not self._parts_are_given_up(port, look, number):
            self._may_be_stable(port, look, number)
        return verdict

    def _without_clients(self, verdict: Verdict, look: Sight) -> Verdict:
        """Of the owners of a UDP port that left it to others none is missed that is no service, or joined not long ago."""

        def is_client(one: Owner) -> bool:
            is_fresh = one.joined is not None and look.clock - one.joined < self.settings.mature_after
            return not one.unit or is_fresh

        gone = [verdict.owners[place] for place in verdict.gone]
        owners = [one for one in verdict.owners if not any(one is other and is_client(one) for other in gone)]
        places = [place for place, one in enumerate(owners) if any(one is other for other in gone)]
        verdict = replace(verdict, owners=owners, gone=places)
        missed = [one for one in verdict.left if one.watched and not any(one is other for other in owners)]
        if not verdict.replaced or verdict.taken:
            return verdict
        if all(map(is_client, missed)):
            return replace(verdict, replaced=False, left=[])
        stay = [one for one in owners if not any(one is other for other in verdict.left)]
        if all(one.unit for one in missed) and not any(one.unit for one in stay):
            # Those that only hear have taken nothing over.
            return replace(verdict, owners=[*missed, *owners], gone=list(range(len(missed))), replaced=False, left=[])
        return verdict

    def _back_from_misses(self, port: PortRow, look: Sight, number: int) -> bool:
        was_missing = port.misses > 0
        port.misses, port.counted_at = 0, None
        if was_missing:
            self._presence_changed_silently(port, look, number)
        return was_missing

    def _restarted(self, port: PortRow, look: Sight, number: int, *, counts: bool) -> None:
        """Its owner is the same, and has other sockets or another process."""
        was_flapping = port.presence.flapping
        terms = self._terms(look.host_id, number, port)
        if self._subject is not None or (terms and terms.restarts == "note"):
            if not was_flapping:
                self._notice(port, look, "restarted", number)
            return
        if counts:
            self._presence_changed_silently(port, look, number, restart=True)
        if not (was_flapping or port.presence.flapping):
            self._tell_port(port, look.host_id, look.at, "restarted", number)

    def _circumstances(self, look: Sight) -> Circumstances:
        compare = self._addresses_compare(look)
        return Circumstances(
            look.clock, look.boot, look.many, look.confirmed, look.waits, compare, self.settings.mature_after
        )

    def _owners_changed(
        self, port: PortRow, look: Sight, number: int, verdict: Verdict, *, counts: bool = True
    ) -> bool:
        """Take the owners of a port that is up, and tell of those that came or went; whether there was anything to tell.

        :param counts: the presence of the port did not change in this look before
        """
        gone = [verdict.owners[place] for place in verdict.gone]
        for one in gone:
            one.gone_since = (look.at, look.clock)
        both = (*port.owners, *verdict.owners)  # as they were known, and as they are shown
        left = {address for one in both if one.watched and one.gone_since is None for address in one.addresses}
        port.owners = verdict.owners
        for one in verdict.back:
            port.addresses |= one.addresses  # they are expected again
        for one in gone:  # its binds are gone with it
            port.addresses -= one.addresses - left
            port.lost -= one.addresses - left
        if verdict.replaced:
            self._presence_changed(port, look, "replaced", number, counts=counts)
        if not port.gone:
            return False  # if all are back, it is told with what becomes of binds
        left_now, back = owner_parts(gone, look.many), owner_parts(verdict.back, look.many)
        kind = "owner_gone" if gone else ""
        return self._parts_changed(port, look, kind, number, "", of=left_now, changed=left_now | back)

    def _says_it_too(self, port: PortRow, look: Sight, number: int) -> None:
        """The lost bind says who has the port: that another owner replaced its own is no event and no message."""
        replaced = (look.at, "replaced", look.host_id, number, "")
        if replaced in self._events:
            self._events.remove(replaced)
            port.messages.remove(look.at)

    def _parts_are_given_up(self, port: PortRow, look: Sight, number: int) -> bool:
        """A person accepted that binds are lost or owners are gone, or they were for long, with evidence."""
        if port.paused:
            return False
        given_up = False
        if port.lost and port.lost_since is not None and self._is_given_up(look, number, port.lost_since):
            port.lost, port.lost_since, given_up = frozenset(), None, True
            port.owners = [replace(one, lacks=frozenset()) for one in port.owners]
        for one in port.gone:
            if one.gone_since is not None and self._is_given_up(look, number, one.gone_since):
                port.owners.remove(one)
                given_up = True
        if given_up and not port.gone:
            port.parts.clear()
            self._tell_port(port, look.host_id, look.at, "retired", number, port.young)
            if port.lost:  # that an owner was gone is over
                port.alert = ""
                silent = port.presence.flapping
                port.paused = not (silent or self._tell_port(port, look.host_id, look.at, "rebound", number, "severe"))
        return given_up

    def _is_given_up(self, look: Sight, number: int, since: tuple[datetime, timedelta]) -> bool:
        if since[0] == look.at:
            return False
        is_old = look.clock - since[1] >= self.settings.retire_after and not self.jumped
        return is_old or self._is_accepted(look, number, since[0])

    def _is_accepted(self, look: Sight, number: int, since: datetime) -> bool:
        accepted = self.accepted.get((look.host_id, "udp" if number >= UDP else "tcp", number % UDP))
        return accepted is not None and since <= accepted <= look.at

    @staticmethod
    def _learn_binds(port: PortRow, look: Sight, seen: Seen, verdict: Verdict) -> str:
        before = port.lost
        wildcards = {"0.0.0.0", "::"}
        if seen.addresses & wildcards:
            port.lost -= wildcards  # which may have been an older reader's name of those that are there
        port.addresses = frozenset()  # what is there now is all that is expected
        port.lost = still_lost(port, look, seen, verdict)
        return "recovered" if before and not port.lost else ""

    def _compare_binds(
        self, port: PortRow, look: Sight, number: int, seen: Seen, verdict: Verdict, *, silent: bool
    ) -> tuple[str, str]:
        """What changed for the port, and how.

        :param silent: a change that loses nothing is not told
        """
        before = port.lost
        lost, gained = port.addresses - seen.addresses, seen.addresses - port.addresses
        late = late_binds(port, look, seen, verdict)
        after = still_lost(port, look, seen, verdict) - late
        if after - before and not (look.confirmed or after - before <= lacked(port, look, seen, verdict)):
            return "", ""  # one answer is no evidence of absence
        port.lost = after
        if after - before:
            port.addresses = seen.addresses | late  # what has come says nothing of what may come still
            return "rebound", "severe"
        if before and not after:
            return "recovered", ""
        silent |= port.presence.flapping or port.a_part_flaps or bool(port.paused and port.lost)
        if (lost - before or gained - before) and not silent:  # a loss that is told again says it all
            self._notice(port, look, "rebound", number)
        return "", ""

    def _lost_again(self, port: PortRow, look: Sight, number: int, seen: Seen, verdict: Verdict) -> None:
        """A loss whose alert was closed, and that still holds in a look that judges it."""
        judged = self._addresses_compare(look) and not self._waits_for_binds(port, look, seen, verdict)
        if not port.gone and (port.lost_hidden or not (judged or look.learning)):
            return
        kind, extra = ("owner_gone", "") if port.gone else ("rebound", "severe")
        silent = port.alert or port.presence.flapping or port.a_part_flaps or not port.partial_fault
        port.paused = not silent and not self._tell_port(port, look.host_id, look.at, kind, number, extra)
        if verdict.replaced and not (silent or port.paused or port.gone):
            self._says_it_too(port, look, number)

    def _up_and_missing(self, port: PortRow, look: Sight, number: int) -> None:
        was_missing = port.misses > 0
        if port.grace_until is not None:
            if look.at >= port.grace_until:
                self._goes_down(port, look, number, counts=not was_missing)
        elif not was_missing or self._counts(port.counted_at, look.at):
            port.misses += 1
            port.counted_at = look.at
            if port.misses >= self._down_after(look, number, port):
                self._goes_down(port, look, number, counts=not was_missing)
            elif not was_missing:
                self._presence_changed_silently(port, look, number)

    def _down_after(self, look: Sight, number: int, port: PortRow) -> int:
        terms = self._terms(look.host_id, number, port)
        return (terms and terms.down_after) or self.settings.down_after

    def _goes_down(self, port: PortRow, look: Sight, number: int, *, counts: bool = True) -> None:
        """:param counts: its being missing was no change before"""
        self._has_nothing(port, look)
        port.misses = 0
        self._presence_changed(port, look, "down", number, port.young, counts=counts)

    @staticmethod
    def _has_nothing(port: PortRow, look: Sight) -> None:
        """It is down. All its owners are its own, whoever was gone before."""
        port.status, port.status_since = "down", look.at
        port.streak, port.counted_at, port.grace_until = 0, None, None
        port.paused = False
        port.owners = [expected_again(one, look.boot) for one in port.owners]
        port.holders = []
        expect_all_binds(port)
        port.parts.clear()  # what is told of the port itself goes on instead

    def _back(self, port: PortRow, look: Sight, number: int, seen: Seen, *, other_view: bool) -> Verdict:
        """A port that was down is seen: by an owner of its own, as far as can be known, or by others."""
        if not self._is_its_own(port, look, number, seen):
            self._is_held(port, look, number, seen)
            return Verdict(port.owners)
        verdict = recover(port.owners, seen.view, self._circumstances(look))
        if number >= UDP:
            verdict = self._without_clients(verdict, look)
        self._up_from_down(port, look, number)
        self._note_boot(port, look)
        self._owners_changed(port, look, number, verdict)
        port.addresses -= seen.excluded
        if look.learning or not self._addresses_compare(look) or self._waits_for_binds(port, look, seen, verdict):
            return verdict
        late = late_binds(port, look, seen, verdict)
        lost = still_lost(port, look, seen, verdict) - late  # of none, since all were expected
        if lost and look.confirmed:
            port.lost, port.lost_since = lost, (look.at, look.clock)
            port.addresses = seen.addresses | late
            self._parts_changed(port, look, "rebound", number, "severe", of=binds(lost), changed=binds(lost))
        return verdict

    def _is_its_own(self, port: PortRow, look: Sight, number: int, seen: Seen) -> bool:
        present = [one for one in port.holders if one.joined is not None]
        there = self._who_has_it(present, look, seen)
        return is_its_own(port, look, number, replace(seen.view, owners=there))

    def _up_from_down(self, port: PortRow, look: Sight, number: int) -> None:
        self._is_up(port, look)
        self._presence_changed(port, look, "recovered", number)

    @staticmethod
    def _is_up(port: PortRow, look: Sight) -> None:
        if port.young_since is not None and look.at - port.status_since > HOUR:
            port.young_since = look.clock  # it begins anew
        port.status, port.status_since = "up", look.at
        port.misses, port.counted_at = 0, None
        port.paused = False
        port.holders = []

    # ── a declared port, and others than the declaration names have it ──────────────────────────

    @staticmethod
    def _is_anothers(look: Sight, number: int, port: PortRow | None, seen: Seen, there: list[Owner]) -> bool:
        """Whether surely none of those that have it is the owner that its declaration names."""
        name = look.must_have.get(number)
        if name is None or seen.view.blank or (port is not None and port.instead_of == name):
            return False
        declared = [one for one in port.owners if one.named == name] if port is not None else []
        is_known = bool(declared)  # then who else is there is not it
        if look.waits and all(one.boot != look.boot for one in declared):
            return False  # it may still come after a boot
        named = [is_named(one, name) for one in there]
        return bool(named) and True not in named and (is_known or None not in named)

    def _falls_to_others(
        self, port: PortRow, look: Sight, number: int, seen: Seen, there: list[Owner], *, counts: bool = True
    ) -> None:
        """It is down, which says who has it: they are no owners of it.

        :param there: what was known of them
        """
        self._has_nothing(port, look)
        if not port.owners:  # all that is known is of others
            port.programs = port.comms = port.units = frozenset()
            port.pids = port.inodes = port.uids = frozenset()
        port.holders = [replace(one, told=True) for one in self._who_has_it(there, look, seen)]
        self._presence_changed(port, look, "down", number, port.young, counts=counts)

    # ── a port that is down, and others have it ─────────────────────────────────────────────────

    def _who_has_it(self, known: Iterable[Owner], look: Sight, seen: Seen) -> list[Owner]:
        """Those that a look shows, since now, with what is known of them: what it does not show is no difference."""
        before = [replace(one, joined=None) for one in known]
        return [one for one in holders(before, seen.view, self._circumstances(look)) if one.joined is not None]

    def _is_taken(self, port: PortRow, look: Sight, seen: Seen, there: Iterable[Owner] = ()) -> None:
        """While it comes and goes another owner has it: it is down since then, and nobody is told before it is stable."""
        self._has_nothing(port, look)
        port.holders = self._who_has_it(there, look, seen)
        changes = port.presence if self._subject is None else self._subject.changes
        changes.add(look.clock, self.window)

    def _is_held(self, port: PortRow, look: Sight, number: int, seen: Seen) -> None:
        """It is down, and others have it."""
        port.holders = holders(port.holders, seen.view, self._circumstances(look))
        there = [one.joined for one in port.holders if one.joined is not None]
        is_old = any(look.clock - joined >= self.settings.mature_after for joined in there)
        learned = number not in look.declared
        if self._is_accepted(look, number, port.status_since) or (learned and is_old and not self.jumped):
            self._goes_to_its_holders(port, look, number, seen)
            return
        if port.paused and self._is_silent(number):
            del self.ports[look.host_id][number]
            return
        if port.paused:  # it says who has the port
            port.paused = not self._tell_port(port, look.host_id, look.at, "down", number, port.young)
            for one in port.holders:
                one.told = True
        was_flapping = port.presence.flapping
        if not was_flapping:
            self._tell_of_holders(port, look, number)
        self._may_be_stable(port, look, number)
        if was_flapping and not port.presence.flapping:
            self._tell_of_holders(port, look, number)

    def _tell_of_holders(self, port: PortRow, look: Sight, number: int) -> None:
        if not all(one.told for one in port.holders):
            self._notice(port, look, "replaced", number, "taken")
        for one in port.holders:
            one.told = True

    def _goes_to_its_holders(self, port: PortRow, look: Sight, number: int, seen: Seen) -> None:
        """A person or time says that those that have it are its owners."""
        port.instead_of = look.must_have.get(number, "")
        port.owners = [replace(one, joined=None, told=False) for one in port.holders if one.joined is not None]
        self._is_up(port, look)
        self._grows_up(port, look, number, seen)
        port.seen_boot = look.boot
        port.addresses, port.unwatched = frozenset(), {}  # what is there now is all that is expected
        port.presence.forget()
        subject = self._speaks_for(look.host_id, number)
        if subject is not None:
            subject.forget()  # its alert is closed for good
        if port.alert:
            self._tell_port(port, look.host_id, look.at, "retired", number, port.young)

    def _down_and_missing(self, port: PortRow, look: Sight, number: int) -> None:
        port.holders = are_away(port.holders)
        is_accepted = self._is_accepted(look, number, port.status_since)
        enough = self.settings.retire_after
        if port.young:
            enough = min(enough, self.settings.mature_after)
        speaks = self._speaks_for(look.host_id, number) is not None
        is_old = look.clock - port.seen_clock >= enough and not speaks
        if is_old and self.jumped and not is_accepted:
            return  # the next run says
        if is_accepted or is_old:
            if port.alert:
                self._tell_port(port, look.host_id, look.at, "retired", number, port.young)
            if number in look.declared:
                port.pause()
            else:
                del self.ports[look.host_id][number]
        elif port.paused and self._is_silent(number):
            del self.ports[look.host_id][number]
        elif port.paused:
            port.paused = not self._tell_port(port, look.host_id, look.at, "down", number, port.young)
        else:
            self._may_be_stable(port, look, number)

    def _counts(self, counted_at: datetime | None, at: datetime) -> bool:
        return counted_at is None or at - counted_at >= self.half

    # ── young ports, and how long boots take ────────────────────────────────────────────────────

    def _is_mature_from_the_start(self, look: Sight, number: int, seen: Seen) -> bool:
        if number in look.declared or seen.listed:
            return True
        first_of_all = self.hosts[look.host_id].last_ok_at is None or (number >= UDP and look.udp_begins)
        if not first_of_all and not look.learning:
            return False
        of_a_login = any(
            unit.startswith(("session-", "tmux-spawn-", "vte-spawn-")) and unit.endswith(".scope")
            for unit in seen.units
        )
        return not of_a_login and not is_ephemeral(look, number, seen)

    def _grows_up(self, port: PortRow, look: Sight, number: int, seen: Seen | None) -> None:
        """What is meant is mature, and so is what was up for long."""
        if number in look.declared or (seen is not None and seen.listed) or self._is_listed(look, number, port):
            port.young_since = None
            return
        age = ZERO if port.young_since is None else look.clock - port.young_since
        if port.status == "up" and age >= self.settings.mature_after:
            port.young_since = None

    def _note_boot(self, port: PortRow, look: Sight) -> None:
        """How long it took until the first look of this boot that shows a known port."""
        booted_at = self.hosts[look.host_id].booted_at
        if booted_at is not None and port.seen_once and port.seen_boot != look.boot and port.status != "candidate":
            took = max(look.at - booted_at, ZERO)
            port.boots = [*port.boots, *([took] if took <= HOUR else [])][-5:]
        port.seen_boot = look.boot

    # ── moved ───────────────────────────────────────────────────────────────────────────────────

    def _moves(self, look: Sight, hidden: set[int]) -> dict[int, PortRow]:
        """The ports that others moved to, each with the row of the old one, which is forgotten."""
        ports = self.ports[look.host_id]
        if not look.confirmed:
            return {}
        gone = {
            number: port
            for number, port in ports.items()
            if number < UDP
            and number not in hidden
            and self._is_gone(look, number, port)
            and not FORWARDERS & all_names(port)
        }
        came = {
            number: seen
            for number, seen in look.seen.items()
            if number < UDP
            and number not in ports
            and number not in look.declared
            and is_ephemeral(look, number, seen)
            and not FORWARDERS & all_names(seen)
        }
        moved_to: dict[int, PortRow] = {}
        for olds, news in self._groups(look, gone, came):
            if len(olds) != len(news):
                continue  # which of them moved, if any did, is not known
            for old, new in zip(sorted(olds), sorted(news), strict=True):
                if ports[old].status == "candidate":
                    continue  # it goes on as another candidate
                port = moved_to[new] = ports.pop(old)
                self._tell_port(
                    port, look.host_id, look.at, *(("retired", old, port.young) if port.alert else ("moved", old))
                )
        return moved_to

    def _is_gone(self, look: Sight, number: int, port: PortRow) -> bool:
        """Whether it is a learned ephemeral port, or a candidate, that vanished in this look or since a recent boot."""
        host = self.hosts[look.host_id]
        never = number in look.seen or number in look.declared or port.hidden_since is not None
        if never or not is_ephemeral(look, number, port):
            return False
        if port.status != "down" and number in host.shown:
            return True
        waits = port.status == "down" or (port.status == "up" and port.grace_until is not None)
        return waits and number in host.late and self._is_first_hour(look)

    def _is_first_hour(self, look: Sight) -> bool:
        """Of a boot, as far as the state from before it is kept."""
        kept = self.hosts[look.host_id].kept
        return look.first or (kept is not None and look.clock - kept.since < HOUR)

    def _groups(
        self, look: Sight, gone: Mapping[int, PortRow], came: Mapping[int, Seen]
    ) -> list[tuple[list[int], list[int]]]:
        """Of each owner, family and reach: the ports that are gone, and those that came."""
        everything: list[PortRow | Seen] = [*gone.values(), *came.values()]
        by_comm = all(one.comms for one in everything if one.comms or one.programs)
        ids = self._new_container_ids(look)
        found: dict[Any, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for number, port in gone.items():
            names = port.comms if by_comm else titles(port) if port.tool == look.tool else frozenset()
            units = frozenset(ids.get(unit, unit) for unit in port.units)
            owner = self._owner(look, port, units, names)
            if owner is not None:
                found[owner, reaches(port.addresses | port.lost)][0].append(number)
        for number, seen in came.items():
            owner = self._owner(look, seen, seen.units, seen.comms if by_comm else titles(seen))
            if owner is not None:
                found[owner, reaches(seen.addresses)][1].append(number)
        return list(found.values())

    def _owner(self, look: Sight, one: PortRow | Seen, units: frozenset[str], names: frozenset[str]) -> Any:
        """What two ports of one owner have in common; None if that can't be known."""
        if names:
            return services(units) | containers(units), names
        if self._is_first_hour(look) and not (one.units or all_names(one)):
            return one.uids
        return None

    def _new_container_ids(self, look: Sight) -> dict[str, str]:
        """By the id of a container that is no more: that of the one whose other ports are shown in its place."""
        new: dict[str, set[str]] = defaultdict(set)
        for number, port in self.ports[look.host_id].items():
            if number in look.seen and len(port.units) == len(look.seen[number].units) == 1:
                (before,), (now,) = port.units, look.seen[number].units
                if containers({before}) and containers({now}) and before not in look.units:
                    new[before].add(now)
        return {before: ids.pop() for before, ids in new.items() if len(ids) == 1}

    # ── addresses ───────────────────────────────────────────────────────────────────────────────

    def _addresses_compare(self, look: Sight) -> bool:
        """Plain netstat cuts long addresses."""
        before = self.hosts[look.host_id].tool
        return before is None or before == look.tool or "netstat" not in (before, look.tool)

    @staticmethod
    def _waits_for_binds(port: PortRow, look: Sight, seen: Seen, verdict: Verdict) -> bool:
        """Whether all that is missing may still come after a boot; or it is missing in one answer alone."""
        missing = still_lost(port, look, seen, verdict) - port.lost
        is_proof = missing <= lacked(port, look, seen, verdict)  # who has them is shown
        return bool(missing) and (not (look.confirmed or is_proof) or missing == late_binds(port, look, seen, verdict))


def up_or_down(port: PortRow) -> str:
    """A port that still listens but lost an address or an owner counts as down: clients of that can't reach it."""
    return "down" if port.fault else "up"


def owner_parts(owners: Iterable[Owner], many: Set[str]) -> set[Part]:
    """What flaps of owners."""
    return {("owner", name_of([one], many)) for one in owners}


def binds(addresses: Iterable[str]) -> set[Part]:
    """What flaps of addresses."""
    return {("bind", address) for address in addresses}


def lost_parts(port: PortRow, many: Set[str]) -> set[Part]:
    """What is not there now."""
    return owner_parts(port.gone, many) | binds(port.lost)


def take(port: PortRow, seen: Seen, look: Sight) -> None:
    """What is not shown now stays as it was known."""
    port.seen_once, port.seen_clock = True, look.clock
    port.first_seen = port.first_seen or look.at
    if seen.programs or not port.programs:
        port.tool = look.tool
    port.addresses = seen.addresses
    names_of_the_kernel_alone = bool(seen.comms) and seen.programs == seen.comms == port.comms
    if not (port.programs and names_of_the_kernel_alone):
        port.programs = seen.programs or port.programs
    port.pids = seen.pids or port.pids
    if seen.inodes or look.learning:  # of another reader's none is known
        port.inodes = seen.inodes
    port.uids = seen.uids or port.uids
    port.units = seen.units or port.units
    port.comms = seen.comms or port.comms


def is_restarted(port: PortRow, seen: Seen) -> bool:
    """Whether none of its sockets is one that it had; where sockets are not shown, whether its one process is another."""
    if port.inodes and seen.inodes:
        return not port.inodes & seen.inodes
    return len(port.pids) == len(seen.pids) == 1 and port.pids != seen.pids


def is_its_own(port: PortRow, look: Sight, number: int, view: View) -> bool:
    """Whether a port that is down is back, as far as can be known. Those that rules exclude are others, if one is known that they watch."""
    name = look.must_have.get(number)
    if name is not None and name != port.instead_of:
        named = [is_named(one, name) for one in view.owners]
        its_own = [one for one in port.owners if one.named == name]
        declared = pairs(its_own, view, look.many)
        if True in named or declared.shown_as:
            return True
        surely_not = None not in named or (its_own and not declared.unknown)
        if named and surely_not and not view.blank:
            return False
    if port.is_held and not view.owners:
        return False  # those that have it do not show, and are no others
    known = [one for one in port.owners if one.watched] or port.owners
    return is_recovered(known, view, look.many)


def expect_all_binds(port: PortRow) -> None:
    """A bind that does not come back with the others is lost anew, and told."""
    port.addresses |= port.lost
    port.lost, port.lost_since = frozenset(), None


def still_lost(port: PortRow, look: Sight, seen: Seen, verdict: Verdict) -> frozenset[str]:
    lost = {address for address in port.addresses - seen.addresses if not ipaddress.ip_address(address).is_loopback}
    wildcard, there = {4: "0.0.0.0", 6: "::"}, seen.addresses | seen.excluded
    missing = {
        address
        for address in port.lost | lost
        if address not in there and wildcard[ipaddress.ip_address(address).version] not in there
    }
    others = lacked(port, look, seen, verdict)
    if verdict.taken or verdict.replaced:
        return others | missing
    return others | (missing - exchanged(missing - port.lost, port, seen, verdict))


def lacked(port: PortRow, look: Sight, seen: Seen, verdict: Verdict) -> frozenset[str]:
    """The addresses that one of its owners had, and another one has; of UDP none counts."""
    there = (one for one in verdict.owners if one.watched and one.gone_since is None)
    return frozenset().union(*(one.lacks for one in there)) & (port.lost if look.waits else seen.addresses | port.lost)


def late_binds(port: PortRow, look: Sight, seen: Seen, verdict: Verdict) -> frozenset[str]:
    """Those that may still come after a boot: no look of this boot has shown them yet."""
    if not look.waits:
        return frozenset()
    return still_lost(port, look, seen, verdict) - port.lost - port.shown_since(look.boot)


def exchanged(lost: Set[str], port: PortRow, seen: Seen, verdict: Verdict) -> set[str]:
    """Of addresses those in whose place the same owner listens on others of the kind, as far as is known who had them."""
    of_the_port = in_place_of(lost, seen.addresses - port.addresses - port.lost)
    if not verdict.all_shown:
        return of_the_port
    found = set()
    owned: set[str] = set()
    for before, now in verdict.there:
        owned |= before.addresses
        found |= in_place_of(lost & before.addresses, now.addresses - before.addresses - port.lost)
    return found | of_the_port - owned
