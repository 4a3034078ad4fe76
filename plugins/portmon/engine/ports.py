"""The ports of one host in one observation: their transitions, which of them moved, and what is counted instead."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from portmon.engine import frames, moves, owners, transitions
from portmon.engine.events import Report
from portmon.engine.frames import Pair
from portmon.engine.owners import PortOwner, containers_of
from portmon.engine.rows import Row, Transition
from portmon.engine.rules import HostRules, Subject
from portmon.engine.state import Draft, Evidence, HostState, Port, Seen
from portmon.engine.terms import Given, Terms, terms_of
from portmon.engine.watched import any_watched, deciding, decisions_on, why_watched
from portmon.engine.young import YoungPorts
from portmon.model.event_kinds import AlertRole, EventKind
from portmon.model.numbers import is_udp, port_of, protocol_of, text_of
from portmon.model.observation import Listener, PortKey
from portmon.model.state import PortStatus

NOTICES = 200
"""Notices of one host and observation that are events of their own; the rest is one ``many_changes``."""


class HostPorts:
    """The changes of the ports of one host, and their events.

    :param must: declared ports by their numbers, each with what declares it
    :param accepted: when a person accepted what is wrong with a port
    :param given: the terms of declared ports, where the declaration gives some
    """

    def __init__(
        self, host: HostState, evidence: Evidence, rules: HostRules, must: Mapping[int, str],
        accepted: Mapping[PortKey, datetime], given: Mapping[int, Given],
    ) -> None:  # fmt: skip
        self.changed: dict[PortKey, Port] = {}
        self.gone: list[PortKey] = []
        self._host = host
        self._evidence = evidence
        self._rules = rules
        self._must = must
        self._accepted = accepted
        self._given = given
        self._young = YoungPorts(host, evidence, accepted)
        self._listeners: dict[int, list[Listener]] = defaultdict(list)
        self._told: list[tuple[Row, Draft, Port]] = []
        # How many of them are notices.
        self._notices = 0
        self._counted: list[tuple[EventKind, int]] = []

    def evaluate(self, pairs: list[Pair]) -> None:
        """Evaluate the ports that are not as they were."""
        arrivals: dict[int, Seen] = {}
        missing: list[Port] = []
        elsewhere: list[tuple[Port, Seen]] = []
        later: list[tuple[Port, Seen]] = []
        self._young.begin(pair.known for pair in pairs if pair.known is not None)
        pairs.reverse()
        while pairs:
            # Each one is freed once it is evaluated: one host may have very many.
            number, port, seen = pairs.pop()
            if port is None:
                assert seen is not None  # noqa: S101 - for the type checker
                if not self._was_excluded(number, seen):
                    arrivals[number] = seen
            elif seen is not None:
                if port.units != seen.units and containers_of(port.units):
                    elsewhere.append((port, seen))
                if port.status == PortStatus.CANDIDATE or self._young.speaks(port):
                    # What ended may silence what is new.
                    later.append((port, seen))
                    continue
                self._keep(self._key(number), port, self._again(port, seen))
            elif self._is_watched(port):
                if number not in self._must and not owners.of(port) and self._is_denied(number):
                    self._keep(self._key(number), port, transitions.denied(port))
                else:
                    missing.append(port)
            else:
                why = () if self._rules.udp or not is_udp(number) else ("UDP is not asked for there any more",)
                self._keep(self._key(number), port, transitions.hidden(port, self._evidence, *why))
        heirs = moves.heirs(missing, arrivals, elsewhere, self._evidence, self._must)
        known = {port.number: port for port in missing}
        taken = {new: known[old] for old, new in heirs.items()}
        for port in sorted(missing, key=self._young.speaks):
            key = frames.key_of(port)
            declared, accepted, heir = self._must.get(port.number), self._accepted.get(key), heirs.get(port.number)
            lent = self._young.lent(self._of_age(port))
            step = transitions.gone(
                lent, self._evidence, declared=declared, accepted=accepted, heir=heir, terms=self._terms(lent)
            )
            self._keep(key, port, step)
        for number, seen in arrivals.items():
            if self._evidence.new_boot and number not in taken:
                # What is new is told in the second observation of a boot, when services have started.
                continue
            key, declared = self._key(number), self._must.get(number)
            terms = terms_of(self._evidence.settings, self._given.get(number))
            heir_of = taken.get(number)
            evidence = self._evidence
            if is_udp(number) and evidence.udp_begins:
                evidence = dataclasses.replace(evidence, first=True)
            step = transitions.appear(key, seen, evidence, declared=declared, heir_of=heir_of, terms=terms)
            self._keep(key, None, step)
        for port, seen in sorted(later, key=lambda one: self._young.speaks(one[0])):
            self._keep(frames.key_of(port), port, self._again(port, seen))
        self._young.store()

    def absent(self, number: int) -> None:
        """Evaluate a port that is declared, not known, and does not listen; not in the first one of a boot."""
        if self._evidence.new_boot:
            return
        key = self._key(number)
        self._keep(key, None, transitions.absent(key, self._evidence, declared=self._must[number]))

    def tell(self, report: Report) -> None:
        """Make the events."""
        self._count_most()
        for row, draft, port in self._told:
            self._tell_of(row, draft, port, report)
        if self._counted:
            counts = Counter(kind.value for kind, _ in self._counted)
            what = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
            numbers = [port for _, port in self._counted]
            reason = (
                f"{len(numbers) + NOTICES} ports changed in one look: {NOTICES} of them are told one by one, the rest "
                f"is counted here ({what}; ports {text_of(min(numbers))} to {text_of(max(numbers))})"
            )
            details = {"counts": dict(sorted(counts.items())), "ports": len(numbers)}
            report.of_host(self._host, self._evidence.at, Draft(EventKind.MANY_CHANGES, reason, details=details))

    def _again(self, port: Port, seen: Seen) -> Transition:
        declared, watched = self._must.get(port.number), self._watches(port)
        accepted = self._accepted.get(frames.key_of(port))
        terms, port = self._terms(port), self._of_age(port, is_named=seen.listed)
        return transitions.again(
            self._young.lent(port),
            seen,
            self._evidence,
            declared=declared,
            accepted=accepted,
            is_watched=watched,
            terms=dataclasses.replace(terms, restarts="note") if self._young.has(port) else terms,
        )

    def _was_excluded(self, number: int, seen: Seen) -> bool:
        """Whether rules excluded a port, and the look only does not show whose it is."""
        evidence = self._evidence
        is_known = number in evidence.before and not evidence.rules_changed
        shows_none = not (seen.programs or seen.comms)
        return is_known and shows_none and number not in self._must and not self._rules.watches_all

    def _is_denied(self, number: int) -> bool:
        """Whether rules exclude a port by the program that it shows."""
        by_port = self._listeners
        if not by_port:
            for row in self._evidence.shown:
                by_port[row.number].append(row)
        own = (row for row in by_port.get(number, ()) if row.program or row.comm)
        return any(self._rules.evaluate(Subject(number, row.address)).watched for row in own)

    def _terms(self, port: Port) -> Terms:
        """By which terms the port is evaluated."""
        settings, given = self._evidence.settings, self._given.get(port.number)
        if given is None and not self._rules.watches_all and port.number not in self._must:
            decision = deciding(port, (*port.addresses, *port.lost), self._rules)
            given = Given(decision.given) if decision else None
        return terms_of(settings, given)

    def _of_age(self, port: Port, *, is_named: bool = False) -> Port:
        """The port as it is evaluated: mature, if a rule names it.

        :param is_named: a rule names what the look shows of it
        """
        if port.young_since is None or self._rules.watches_all:
            return port
        decisions = decisions_on(port, (*port.addresses, *port.lost), self._rules)
        is_named = is_named or any(one.watched and one.names_it for one in decisions)
        return dataclasses.replace(port, young_since=None) if is_named else port

    def _is_watched(self, port: Port) -> bool:
        """Whether a port that is not shown is watched. Only a change of rules or the CMDB hides one."""
        if is_udp(port.number) and not self._rules.udp:
            return False
        if port.number in self._must:
            return True
        is_asked = self._evidence.rules_changed or port.declared is not None or port.hidden_since is not None
        if not is_asked:
            return True
        binds = (*port.addresses, *port.lost, *(address for address, _ in port.unwatched))
        return bool(binds) and any_watched(port, binds, self._rules)

    def _watches(self, port: Port) -> Callable[[str | PortOwner], bool]:
        """Whether the rules in force watch a bind address of a port, or an owner."""
        if port.number in self._must or self._rules.watches_all:
            return lambda what: True

        def watches(what: str | PortOwner) -> bool:
            if isinstance(what, str):
                return any_watched(port, (what,), self._rules)
            # A rule may name the unit as a host shows it: with the instance of a template.
            units = tuple(unit for unit in port.units if owners.name_of(unit) == what.unit)
            own = dataclasses.replace(port, programs=what.programs, comms=what.comms, units=units, owners=())
            return any_watched(own, what.binds, self._rules)

        return watches

    def _key(self, number: int) -> PortKey:
        return self._host.host_id, protocol_of(number), port_of(number)

    def _keep(self, key: PortKey, before: Port | None, step: Transition) -> None:
        """Keep the next state of a port. Its events are made once all ports of the host are evaluated."""
        step = self._young.taken(before, step)
        if step.port is None:
            self.gone.append(key)
        elif step.port != before:
            self.changed[key] = step.port
        port = step.port or before
        for draft in step.drafts:
            assert port is not None  # noqa: S101 - for the type checker: an event has a port
            self._told.append((step.row, draft, port))
            # Not what lasts, which stays: each one more would begin the count anew.
            self._notices += _is_notice(draft)
            if self._notices > 4 * NOTICES:
                self._count_most()

    def _count_most(self) -> None:
        """Keep the notices of the lowest ports, and count the others.

        Called while notices come in: 20,000 of one host would take too much memory.
        """
        notices = [one for one in self._told if _is_notice(one[1])]
        most = sorted(notices, key=lambda one: one[2].number)[NOTICES:]
        counted = set(map(id, most))
        self._told = [one for one in self._told if id(one) not in counted]
        self._counted += [(draft.kind, port.number) for _, draft, port in most]
        self._notices = len(notices) - len(most)

    def _tell_of(self, row: Row, draft: Draft, port: Port, report: Report) -> None:
        evidence = self._evidence
        watched = why_watched(port, self._rules)
        details: dict[str, Any] = {"watched": watched, "row": row.name.lower(), "looked_with": evidence.tool}
        mature_after = evidence.settings.mature_after
        if draft.kind is not EventKind.NEW and transitions.is_young(port, evidence.clock, mature_after):
            details["young"] = True
        between = _between(draft, evidence)
        if between is not None:
            details["between"] = [at.isoformat() for at in between]
            begin, end = (f"{at:%Y-%m-%d %H:%M}" for at in between)
            reason = f"{draft.reason}; it happened between {begin} and {end} UTC, while nobody looked"
            draft = dataclasses.replace(draft, reason=reason)
        report.of_port(port, self._host, evidence.at, draft, details, severity=self._terms(port).severity)


def _is_notice(draft: Draft) -> bool:
    """Whether an event neither opens nor closes an alert."""
    return draft.kind.meaning(draft.details).role not in (AlertRole.FIRING, AlertRole.RESOLVED)


def _between(draft: Draft, evidence: Evidence) -> tuple[datetime, datetime] | None:
    """The times of the two observations around a change, after a pause."""
    if evidence.seen_at is None or evidence.at - evidence.seen_at <= evidence.pause:
        return None
    was_there = draft.last_seen == evidence.seen_at
    new = draft.since == evidence.at
    began = {EventKind.NEW: new, EventKind.DOWN: was_there, EventKind.OWNER_GONE: was_there}
    happened = began.get(draft.kind, draft.kind.usual.between_looks)
    return (evidence.seen_at, evidence.at) if happened else None
