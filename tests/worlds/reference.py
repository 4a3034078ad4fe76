"""A second, naive implementation of the contract of states: what the engine must agree with.

Written from the contract alone, one look at one host at a time, in plain Python. It is slow and knows neither
pandas nor a database. Nothing here is shared with the engine but the types of :mod:`portmon.model` and the
matching of rules. This module has the monitor, the fleet, the hosts and their machines; the ports are in
:mod:`tests.worlds.reference_ports`, those of one owner that come and go in :mod:`tests.worlds.reference_young`, who holds them in :mod:`tests.worlds.reference_owners`, which are watched in
:mod:`tests.worlds.reference_watching`, and what is remembered of all in :mod:`tests.worlds.reference_rows`.

``tests/engine/test_random.py`` compares it with the engine, ``tests/engine/test_model.py`` with the whole pipeline: the
events of each run (time, kind, host, port, and what :data:`Told` says besides) and :meth:`Reference.snapshot` after it.
:mod:`tests.worlds.invariants` says what must hold of both, and is written without either.

Where it differs from the engine:

* It says nothing of reasons, details, severities of ports, ``settled`` hosts, ``since``, or which events are messages.
* It tells what follows from a takeover, not ``taken_over`` itself.
* Names of programs are compared as they are: no tool cuts them here.
* It is told who leaves and who is deleted (:meth:`Reference.leave`, :meth:`Reference.purge`), and never refuses a prune.
* It judges no look of an entry that is invalid in the run, and none at all in a run whose clock went back. The engine
  judges such looks if they are late ones of an earlier run. Random histories have none.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from portmon.engine.rules import RuleSet
from portmon.model.host import Host
from portmon.model.observation import Listener, Listing, Observation, Outcome
from tests.worlds.reference_looks import UDP, Sight, number_of
from tests.worlds.reference_owners import units_of_many, without_init
from tests.worlds.reference_ports import Ports
from tests.worlds.reference_rows import (
    DAY,
    FEW,
    HOUR,
    MOST,
    ZERO,
    Defaults,
    HostRow,
    Kept,
    Machine,
    PortRow,
    Settings,
    Terms,
    Told,
    cap_times,
    told_today,
)

__all__ = ["Defaults", "Reference", "Told"]

TICK = timedelta(microseconds=1)
FIVE = timedelta(minutes=5)
"""The interval without a schedule."""
KEPT_LOOKS = 12
MANY = 5
"""More hosts than these that are not scanned are one event of the monitor."""
NO_MESSAGES = ("baseline", "duplicate", "probe_outdated", "answers_discarded")
ENDS = {"host_key": "host_key_restored", "foreign": "own_machine"}
ALWAYS = ("retired", *ENDS.values(), "scanned", "owners_shown")
"""What begins there is told only if there is room for its end."""
BEGINS = {"host_key": "host_key_changed", "foreign": "foreign_machine"}


@dataclass
class Fleet:
    """Most hosts failed at once: suspected, or told.

    :param hosts: those that answered in their run before it and failed in it
    :param count: runs in which they failed
    """

    hosts: set[str]
    counted_at: datetime
    count: int = 1
    told: bool = False


class Reference(Ports):
    """State of a fleet, and what follows from looking at it."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostRow] = {}
        self.ports: dict[str, dict[int, PortRow]] = {}
        self.fleet: Fleet | None = None
        self.fleet_unscanned = self.fleet_hides = False
        self.last_run_at: datetime | None = None
        self.pause_ended_at: datetime | None = None
        self.back_runs = 0
        self.back_run_id = ""
        self._events: list[Told] = []
        self._hidden_now: dict[str, datetime] = {}

    # ── a run ───────────────────────────────────────────────────────────────────────────────────

    def run(
        self,
        looks: Iterable[Observation],
        *,
        inventory: Mapping[str, Host],
        rules: RuleSet,
        settings: Settings,
        interval: timedelta,
        accepted: Mapping[tuple[str, str, int], datetime],
        forgotten: Mapping[tuple[str, str, int], datetime] = {},
        now: datetime,
        run_id: str = "",
        invalid: Mapping[str, str] = {},
        prune_after: timedelta = DAY,
        given: Mapping[str, Mapping[int, Terms]] = {},
    ) -> list[Told]:
        """Evaluate looks; what was evaluated before is ignored.

        :param inventory: the hosts that may be evaluated, each with its declared ports
        :param accepted: ports that a person accepted as gone, and (host id, ``host``, 0) for the machine that answers
        :param forgotten: ports of which a person forgot how long they took after boots, and when
        :param now: time of the run
        :param run_id: of the run that evaluates; empty if all looks are its own
        :param invalid: entries of the inventory that can't be tried, and why
        :param prune_after: how long what rules or labels hide is remembered
        :param given: by host, the declared ports of which the declaration gives terms
        """
        self.inventory, self.invalid = inventory, invalid
        self.rules, self.settings, self.accepted, self.forgotten = rules, settings, accepted, forgotten
        self.interval = interval or FIVE
        self.half = self.interval / 2
        self.long = max(3 * self.interval, timedelta(minutes=15))
        self.window = max(settings.flap_window, 12 * self.interval)
        self.prune_after, self.given = prune_after, given
        self._events, self._hidden_now = [], {}
        looks = sorted(final(looks), key=lambda look: (look.observed_at, look.host_id))
        if not self._clock_is_believed(looks, now, run_id):
            return self._told()
        self.jumped = self.last_run_at is not None and now - self.last_run_at > DAY + 3 * self.interval
        if self.last_run_at is not None and now - self.last_run_at > self.long:
            self.pause_ended_at = now
        self.last_run_at = now
        self._know(now)

        groups: dict[str, list[Observation]] = {}
        for look in looks:
            if self._is_news(look):
                groups.setdefault(look.run_id, []).append(look)
        for group in groups.values():  # in the order of the earliest look of each
            self._group([look for look in group if self._is_news(look)], now)  # an earlier one may have been newer
        self._scan_of_all(now)
        self._hiders_of_all(now)
        return self._told()

    def _is_news(self, look: Observation) -> bool:
        if look.host_id not in self.inventory:
            return False
        host = self.hosts.get(look.host_id)
        return host is None or host.last_evaluated_at is None or look.observed_at > host.last_evaluated_at

    def _know(self, now: datetime) -> None:
        """Every entry of the inventory has a row; one that left and is back goes on with its own."""
        for host_id in self._listed():
            host = self.hosts.setdefault(host_id, HostRow(now))
            self.ports.setdefault(host_id, {})
            if host.left_at is not None:
                host.left_at, host.known_since = None, now

    def _listed(self) -> set[str]:
        """Entries of the CMDB. One that never was valid has no host."""
        return {*self.inventory, *(self.invalid.keys() & self.hosts.keys())}

    def _told(self) -> list[Told]:
        def order(event: Told) -> tuple[Any, ...]:
            at, _, host_id, port, _ = event
            return (at, host_id or "", port is not None, port or 0)

        return sorted(self._events, key=order)

    def _tell(self, at: datetime, kind: str, host_id: str | None = None) -> None:
        self._events.append((at, kind, host_id, None, ""))

    def _tell_host(self, host_id: str, at: datetime, kind: str, extra: str = "") -> bool:
        """An event, unless too many messages of the host were told today."""
        host = self.hosts[host_id]
        if kind not in NO_MESSAGES:
            few = kind in ("rebooted", "many_changes") and told_today(host.messages, at) >= FEW
            if few or (kind not in ALWAYS and not self._has_room(host, at, 1)):
                return False
            host.messages = [then for then in host.messages if told_today([then], at)] + [at]
        self._events.append((at, kind, host_id, None, extra))
        return True

    # ── the monitor's clock ─────────────────────────────────────────────────────────────────────

    def _clock_is_believed(self, looks: list[Observation], now: datetime, run_id: str) -> bool:
        """Whether the run is judged: its clock did not go back, or did so for long enough."""
        own = {look.host_id: look for look in looks if not run_id or look.run_id == run_id}  # the newest of each
        judged = {
            host_id: (look.observed_at, then)
            for host_id, look in own.items()
            if host_id in self.inventory and (then := self._evaluated_at(host_id)) is not None
        }
        if not judged:
            return True
        older = [host_id for host_id, (at, then) in judged.items() if at < then]
        if 2 * len(older) <= len(judged):
            if self.back_runs:
                self._tell(now, "clock_believed")
            self.back_runs = 0
            return True
        if self.back_runs == 0:
            self._tell(now, "clock_back")
        if self.back_runs == 0 or not run_id or run_id != self.back_run_id:
            self.back_runs += 1
        self.back_run_id = run_id
        if self.back_runs < self.settings.unreachable_after:
            return False
        self.back_runs = 0
        self._tell(now, "clock_believed")
        times = [look.observed_at for look in looks if not run_id or look.run_id == run_id]
        self._believe(min(times), max(times))
        self.last_run_at = self.pause_ended_at = now
        return True

    def _evaluated_at(self, host_id: str) -> datetime | None:
        return self.hosts[host_id].last_evaluated_at if host_id in self.hosts else None

    def _believe(self, oldest: datetime, newest: datetime) -> None:
        """Every stored time that is later than the newest look of the run becomes the time of that look."""
        for host_id, host in self.hosts.items():
            if host.last_evaluated_at is not None and host.last_evaluated_at >= oldest:
                host.last_evaluated_at = oldest - TICK  # so that the looks of the run are judged
            rows: list[Any] = [host, *host.subjects.values(), *self.ports[host_id].values()]
            if host.kept is not None:
                rows += [host.kept.host, *host.kept.host.subjects.values(), *host.kept.ports.values()]
            for row in rows:
                cap_times(row, newest)
        if self.fleet is not None:
            cap_times(self.fleet, newest)

    # ── the looks of one run ────────────────────────────────────────────────────────────────────

    def _group(self, looks: list[Observation], now: datetime) -> None:
        if not looks:
            return
        last = {look.host_id: look for look in looks}
        told, open_now = self._fleet_before(), self._judge_fleet(last, looks[-1].observed_at)
        ended = told and not open_now
        self._own_machines(last)
        firsts: dict[str, datetime] = {}
        for look in sorted(looks, key=lambda look: look.host_id):  # the looks of a run are of one time
            host = self.hosts[look.host_id]
            if not self._is_news(look):
                continue
            if host.told_unscanned:
                self._tell_host(look.host_id, now, "scanned")
            host.unscanned = host.told_unscanned = False
            if look.outcome is Outcome.OK:
                if self._ok(look):
                    firsts[look.host_id] = look.observed_at
            else:
                self._failed(look, suppressed=self.fleet is not None or ended)
            host = self.hosts[look.host_id]
            host.last_evaluated_at = host.last_try_at = look.observed_at
            if not host.foreign:  # else it says nothing of the host
                host.last_try_ok = look.outcome is Outcome.OK
        self._duplicates(firsts)
        if ended:
            for host in self.hosts.values():
                if host.status != "unreachable":
                    host.failures, host.counted_at = 0, None

    # ── the fleet ───────────────────────────────────────────────────────────────────────────────

    def _fleet_before(self) -> bool:
        return self.fleet is not None and self.fleet.told

    def _judge_fleet(self, last: Mapping[str, Observation], at: datetime) -> bool:
        """Whether the fleet is called unreachable after this run.

        :param last: what each host answered
        """
        failing = {host_id for host_id, look in last.items() if fails_by_network_or_login(look)}
        well_before = {host_id for host_id in last if self._was_well(self.hosts[host_id])}
        if self.fleet is None:
            suspects = failing & well_before
            if len(suspects) >= 2 and is_most(suspects, well_before) and 2 * len(last) > len(self.inventory):
                self.fleet = Fleet(suspects, at)
                self._may_tell_fleet(at)
        else:
            self._fleet_goes_on(self.fleet, failing, set(last), at)
            if self.fleet is not None:
                self.fleet.hosts |= failing & well_before
        return self.fleet is not None and self.fleet.told

    @staticmethod
    def _was_well(host: HostRow) -> bool:
        return host.last_try_ok and host.status != "unreachable" and not host.foreign

    def _fleet_goes_on(self, fleet: Fleet, failing: set[str], tried: set[str], at: datetime) -> None:
        fleet.hosts &= {*self.inventory, *self.invalid}
        tried = tried & fleet.hosts
        if not fleet.hosts:
            self._end_fleet(at)
        elif 2 * len(tried) <= len(fleet.hosts):
            return
        elif 2 * len(failing & tried) < len(tried):
            self._end_fleet(at)
        elif self._counts(fleet.counted_at, at):
            fleet.count += 1
            fleet.counted_at = at
            if fleet.told or fleet.count < self.settings.unreachable_after:
                return
            if is_most(failing & tried, tried):
                self._may_tell_fleet(at)
            else:
                self._end_fleet(at)

    def _may_tell_fleet(self, at: datetime) -> None:
        assert self.fleet is not None
        if self.fleet.count >= self.settings.unreachable_after:
            self.fleet.told = True
            self._tell(at, "fleet_unreachable")

    def _end_fleet(self, at: datetime) -> None:
        assert self.fleet is not None
        if self.fleet.told:
            self._tell(at, "fleet_reachable")
        self.fleet = None

    # ── hosts that were not tried ───────────────────────────────────────────────────────────────

    def _scan_of_all(self, now: datetime) -> None:
        """Which hosts nobody looks at."""
        listed = sorted(self._listed())
        for host_id in listed:
            host = self.hosts[host_id]
            if self._is_not_scanned(host_id, host, now):
                host.unscanned = not self._greater_is_open(host)
        those = [host_id for host_id in listed if self.hosts[host_id].unscanned]
        if self.fleet_unscanned != (len(those) > MANY):
            self.fleet_unscanned = not self.fleet_unscanned
            self._tell(now, "fleet_unscanned" if self.fleet_unscanned else "fleet_scanned")
        if self.fleet_unscanned:
            return
        for host_id in those:
            host = self.hosts[host_id]
            if not host.told_unscanned and self._has_room(host, now, 2):
                self._hides_untold(host_id, host, now)
                host.told_unscanned = self._tell_host(host_id, now, "unscanned")

    def _is_not_scanned(self, host_id: str, host: HostRow, now: datetime) -> bool:
        if host_id in self.invalid:
            return True
        since = [time for time in (host.known_since, host.last_try_at, self.pause_ended_at) if time is not None]
        return now - max(since) >= self.long

    @staticmethod
    def _greater_is_open(host: HostRow) -> bool:
        return bool(host.told_greater) or (bool(host.told_reach) and host.status == "unreachable")

    # ── hosts that hide who listens ─────────────────────────────────────────────────────────────

    def _judge_who_is_shown(self, host_id: str, host: HostRow, look: Listing, at: datetime) -> None:
        """Of an ok look of the host itself: whether it shows processes of others than the one who looks."""
        if any(is_of_another(one, look) for one in look.listeners):
            host.showed_owners, host.hiding_looks = True, 0
        elif host.showed_owners and any(one.pid is None for one in look.listeners):
            host.hiding_looks = min(host.hiding_looks + 1, self.settings.unreachable_after)
        self._hidden_now.pop(host_id, None)
        if host.hiding_looks == 0:
            self._hides_untold(host_id, host, at)
        elif host.hiding_looks >= self.settings.unreachable_after:
            self._hidden_now[host_id] = at

    def _hiders_of_all(self, now: datetime) -> None:
        """More than five hosts that hide who listens are one event; up to five are told one by one, after an answer."""

        def has_more(host: HostRow) -> bool:
            return host.key_changed or host.foreign or host.status == "unreachable" or host.unscanned

        enough = self.settings.unreachable_after
        those = {
            one for one in self.inventory if self.hosts[one].hiding_looks >= enough and not has_more(self.hosts[one])
        }
        if self.fleet_hides != (len(those) > MANY):
            self.fleet_hides = not self.fleet_hides
            self._tell(now, "fleet_owners_hidden" if self.fleet_hides else "fleet_owners_shown")
        if self.fleet_hides:
            return
        for host_id, at in self._hidden_now.items():
            host = self.hosts[host_id]
            if host_id in those and not host.told_hidden and self._has_room(host, at, 2):
                host.told_hidden = self._tell_host(host_id, at, "owners_hidden")

    def _hides_untold(self, host_id: str, host: HostRow, at: datetime) -> None:
        """It does not hide them any more, or more than that is wrong."""
        if host.told_hidden:
            self._tell_host(host_id, at, "owners_shown")
        host.told_hidden = False

    # ── one host ────────────────────────────────────────────────────────────────────────────────

    def _failed(self, look: Observation, *, suppressed: bool) -> None:
        host, at = self.hosts[look.host_id], look.observed_at
        if is_host_key(look):
            host.key_changed = True
            self._show_greater(look.host_id, host, at)
        if host.foreign:  # then it is no failure of the host
            return
        self._count_try(host, at)
        if host.failures == 0 or self._counts(host.counted_at, at):
            host.failures += 1
            host.counted_at = at
        if host.status == "unreachable":
            self._unreachable_still(look.host_id, host, at)
        elif host.failures >= self.settings.unreachable_after and not suppressed:
            self._becomes_unreachable(look.host_id, host, at)

    def _becomes_unreachable(self, host_id: str, host: HostRow, at: datetime) -> None:
        host.status = "unreachable"
        host.changes.add(host.tried, self.window)
        if host.covered:
            return
        self._hides_untold(host_id, host, at)
        if host.changes.flapping:
            return
        if self._is_one_too_many(host, at):
            self._host_flaps(host_id, host, at)
        elif self._tell_host(host_id, at, "unreachable", never_answered(host)):
            host.told_reach = "unreachable"

    def _unreachable_still(self, host_id: str, host: HostRow, at: datetime) -> None:
        if host.covered:
            return
        if host.changes.flapping:
            self._host_may_be_stable(host_id, host, at)
        elif not host.told_reach and self._tell_host(host_id, at, "unreachable", never_answered(host)):
            host.told_reach = "unreachable"  # it came back into the CMDB

    def _is_one_too_many(self, host: HostRow, at: datetime) -> bool:
        return len(host.changes.times) >= self.settings.flap_threshold or self._told_and_owed(host, at) >= FEW

    def _host_flaps(self, host_id: str, host: HostRow, at: datetime) -> None:
        host.changes.flapping, host.told_reach = True, "flapping"  # an end of it closes what was told before
        self._tell_host(host_id, at, "flapping", "unreachable" if host.status == "unreachable" else "ok")

    def _host_may_be_stable(self, host_id: str, host: HostRow, at: datetime) -> None:
        if not host.changes.flapping or host.covered or not host.changes.still(host.tried, self.window):
            return
        unreachable = host.status == "unreachable"
        if self._tell_host(host_id, at, "stable", "unreachable" if unreachable else "ok"):
            host.changes.forget()
            host.told_reach = "unreachable" if unreachable else ""

    def _show_greater(self, host_id: str, host: HostRow, at: datetime) -> None:
        """Tell of the greatest cause that there is no evidence, and end what was told of others."""
        want = "host_key" if host.key_changed else "foreign" if host.foreign else ""
        holds = {"host_key": host.key_changed, "foreign": host.foreign, "": True}
        if not holds[host.told_greater]:
            self._tell_host(host_id, at, ENDS[host.told_greater])
            host.told_greater = ""
        ended = [ENDS[host.told_greater]] if host.told_greater else []
        ended += ["reachable"] if host.told_reach == "unreachable" else []
        ended += ["owners_shown"] if host.told_hidden else []
        if want in ("", host.told_greater) or not self._has_room(host, at, ("reachable" in ended) + 2):
            return
        for kind in (*ended, BEGINS[want]):
            self._tell_host(host_id, at, kind)
        host.told_greater = want
        host.told_reach = "" if "reachable" in ended else host.told_reach
        host.told_hidden = False

    @staticmethod
    def _told_and_owed(host: HostRow, at: datetime) -> int:
        """Messages of the day. What is always told when it ends has its place for that already."""
        return told_today(host.messages, at) + sum(
            map(bool, (host.told_greater, host.told_unscanned, host.told_hidden))
        )

    def _has_room(self, host: HostRow, at: datetime, messages: int) -> bool:
        """Whether so many more messages may be told today."""
        return self._told_and_owed(host, at) + messages <= MOST

    def _count_try(self, host: HostRow, at: datetime) -> None:
        """The clock of the host's own condition."""
        if host.last_counted_try_at is not None:
            gap = max(at - host.last_counted_try_at, ZERO)
            host.tried += gap if gap <= self.long else self.interval
        host.last_counted_try_at = at

    def _evidence_at(self, host: HostRow, at: datetime) -> timedelta:
        """The evidence clock at an ok look."""
        if host.last_ok_at is None:
            return ZERO
        gap = max(at - host.last_ok_at, ZERO)
        long = gap > self.long or host.status == "unreachable"
        return host.evidence + (self.interval if long else gap)

    def _ok(self, look: Observation) -> bool:
        """One ok look. Whether it was the first of its host."""
        assert look.listing is not None
        host_id, at, seen = look.host_id, look.observed_at, without_init(look.listing)
        was_covered = self.hosts[host_id].covered
        self._take_over(host_id, at, seen)
        host = self.hosts[host_id]
        fate = self._who(host_id, host, seen, at)
        host.key_changed = False
        if fate == "foreign":
            self._answers_as_another(host_id, host, at)
            return False
        host.foreign = False
        self._show_greater(host_id, host, at)
        if fate == "restore":
            host = self._restore(host_id, at)
        first_of_all, first = host.last_ok_at is None, fate == "reboot"
        before = copy.deepcopy((host, self.ports[host_id])) if first and not host.sharing else None
        evidence = self._evidence_at(host, at)
        self._count_try(host, at)
        if first_of_all:
            self._tell_host(host_id, at, "baseline")
        changed = self._host_is_well(host_id, host, at, rebooted=first, was_covered=was_covered)
        self._judge_who_is_shown(host_id, host, look.listing, at)
        host.evidence = evidence
        if first:
            self._reboots(host_id, host, at, before)
        elif host.kept is not None:
            self._keep_on(host)
        self._look_at_ports(host_id, host, look, seen, first=first)
        if not changed:
            self._host_may_be_stable(host_id, host, at)
        host.last_ok_at = at
        host.machine = Machine.of(seen) if first else host.machine.and_then(Machine.of(seen))
        return first_of_all

    def _host_is_well(self, host_id: str, host: HostRow, at: datetime, *, rebooted: bool, was_covered: bool) -> bool:
        """Status and messages at an ok look; whether it is a change."""
        was_unreachable = host.status == "unreachable"
        host.status, host.failures, host.counted_at = "ok", 0, None
        if not (was_unreachable or rebooted):
            if host.told_reach == "unreachable" and not host.changes.flapping:  # a restored host was well
                host.told_reach = "" if self._tell_host(host_id, at, "reachable") else host.told_reach
            return False
        host.changes.add(host.tried, self.window)
        if host.changes.flapping:
            return True
        ends = host.told_reach == "unreachable"
        many = len(host.changes.times) >= self.settings.flap_threshold
        over = (ends or rebooted) and self._told_and_owed(host, at) >= FEW
        if over or (many and (ends or rebooted or not was_covered)):
            self._host_flaps(host_id, host, at)
            return True
        if rebooted:
            self._tell_host(host_id, at, "rebooted")
        if ends and self._tell_host(host_id, at, "reachable"):
            host.told_reach = ""
        return True

    def _look_at_ports(self, host_id: str, host: HostRow, look: Observation, seen: Listing, *, first: bool) -> None:
        versions = (seen.probe, seen.reader)
        learning = host.last_ok_at is not None and (host.versions or (1, 1)) != versions and not first
        if not first and seen.probe == 1 and (host.versions is None or host.versions[0] != 1):
            self._tell_host(host_id, look.observed_at, "probe_outdated")
        rules = self._rules_of(host_id)
        watches_udp = self._watches_udp(host_id)
        sockets = (*seen.listeners, *(seen.udp or ())) if watches_udp else seen.listeners
        host.many |= units_of_many(sockets)
        shows_udp = watches_udp and seen.udp is not None
        udp_begins = shows_udp and not host.showed_udp
        if udp_begins and host.last_ok_at is not None and not first:
            self._tell_host(host_id, look.observed_at, "baseline")
        declared = frozenset(number for number in self.inventory[host_id].declared if shows_udp or number < UDP)
        other_rules = host.rules not in (None, rules)
        watched, denied = self._watched_ports(host_id, seen, other_rules=other_rules)
        if first:
            host.late = host.shown
        self._judge_ports(
            Sight(
                host_id,
                look.observed_at,
                host.evidence,
                seen.tool,
                look.confirmed,
                first,
                learning,
                other_rules,
                host.boot,
                host.grace_until is not None and look.observed_at < host.grace_until,
                host.many,
                declared,
                seen.ephemeral,
                seen.reserved,
                frozenset(one.unit for one in sockets if one.unit is not None),
                watched,
                denied,
                shows_udp,
                udp_begins,
                dict(self.inventory[host_id].owners),
                frozenset(map(number_of, sockets)),
            )
        )
        ports = self.ports[host_id]
        host.shown = frozenset(number for number in watched if number not in ports or ports[number].status != "down")
        host.late -= watched.keys()
        if not first:  # otherwise the next look is compared with what was known before the boot
            host.versions, host.rules, host.tool = versions, rules, seen.tool
            known = {number for number in host.listening if number >= UDP and watches_udp and not shows_udp}
            host.listening = frozenset(known.union(map(number_of, sockets)))
            host.showed_udp = watches_udp and (shows_udp or host.showed_udp)

    # ── machines ────────────────────────────────────────────────────────────────────────────────

    def _own_machines(self, last: Mapping[str, Observation]) -> None:
        """Which machine each entry is, by its look in this run if that is its own: ``self._own``.

        Entries that changed are other machines after a reboot, in so far as these are no other entry's. Those that are
        left, ``self._strangers``, answer as machines of others.
        """
        self._own: dict[str, Machine] = {}
        self._strangers: dict[str, Machine] = {}
        for host_id in self._listed():
            host, look = self.hosts[host_id], last.get(host_id)
            if host.last_ok_at is not None:
                self._own[host_id] = host.machine
            if look is None or look.listing is None:
                continue
            answer = Machine.of(look.listing)
            if host.last_ok_at is None or not self._is_another(host_id, host, look.listing):
                self._own[host_id] = host.machine.and_then(answer)
            elif host.sharing or self._is_kept(host, answer, look.observed_at):
                self._own[host_id] = answer
            else:
                self._strangers[host_id] = answer
        claims = {one: machine for one, machine in self._strangers.items() if not self._is_of_another(one)}
        settles = True
        while settles:  # a machine is free when the entry that was it is another one now
            settles = False
            for one in sorted(self._strangers, key=lambda one: (self._is_of_another(one), one)):
                rivals = [other for other in claims if other != one and claims[other].is_one_with(self._strangers[one])]
                if not self._owners(one, self._strangers[one]) and not (rivals and one in claims):
                    self._own[one] = self._strangers.pop(one)
                    settles = True

    def _is_of_another(self, host_id: str) -> bool:
        """Whether the machine of another entry answers for this one already."""
        return self.hosts[host_id].foreign and self.hosts[host_id].foreign_with is not None

    def _is_another(self, host_id: str, host: HostRow, look: Listing) -> bool:
        """Whether a look shows another machine than the host's own, or a container after a reboot."""
        own, answer = host.machine, Machine.of(look)
        if own.boot_id is None or answer.boot_id is None:
            return False
        if own.boot_id != answer.boot_id:
            return True
        if own.start is not None and answer.start is not None:
            return own.start != answer.start
        if None in (own.netns, answer.netns) or own.netns == answer.netns:
            return False
        there = [port for port in self.ports[host_id].values() if port.seen_once and port.seen_clock == host.evidence]
        inodes = frozenset().union(*(port.inodes for port in there))
        pids = frozenset().union(*(port.pids for port in there))
        look = without_init(look)
        pairs = [(before, now) for before, now in ((inodes, inodes_of(look)), (pids, pids_of(look))) if before and now]
        return bool(pairs) and not any(before & now for before, now in pairs)

    def _who(self, host_id: str, host: HostRow, look: Listing, at: datetime) -> str:
        """Who answered: ``itself``, the same host after a ``reboot``, itself once more after answers of another
        machine (``restore``), or another entry's machine (``foreign``)."""
        if host.last_ok_at is None or not self._is_another(host_id, host, look):
            return "itself"
        answer = Machine.of(look)
        if host.sharing:
            return "reboot"
        if self._is_kept(host, answer, at):
            return "restore"
        if host_id not in self._strangers:
            return "reboot"
        accepted = self.accepted.get((host_id, "host", 0))
        if host.foreign and host.foreign_since and accepted and host.foreign_since <= accepted <= at:
            host.sharing = True
            return "reboot"
        host.foreign_with = next(iter(self._owners(host_id, answer)), None)
        return "foreign"

    def _owners(self, host_id: str, answer: Machine) -> list[str]:
        """Other entries whose own machine it is. One that shares its machine, such as a floating name, owns none."""
        return [
            other
            for other in sorted(self._own)
            if other != host_id and not self.hosts[other].sharing and self._own[other].is_one_with(answer)
        ]

    def _is_kept(self, host: HostRow, answer: Machine, at: datetime) -> bool:
        kept = host.kept
        if kept is None or kept.host.machine.boot_id != answer.boot_id or kept.host.machine.differs(answer):
            return False
        return self._evidence_at(host, at) - kept.since < HOUR or kept.looks < KEPT_LOOKS

    def _answers_as_another(self, host_id: str, host: HostRow, at: datetime) -> None:
        if not host.foreign:
            host.foreign, host.foreign_since = True, at
        self._show_greater(host_id, host, at)

    def _reboots(
        self, host_id: str, host: HostRow, at: datetime, before: tuple[HostRow, dict[int, PortRow]] | None
    ) -> None:
        for number, port in self.ports[host_id].items():
            said = self.forgotten.get((host_id, "udp" if number >= UDP else "tcp", number % UDP))
            if said is not None and said <= at and (host.booted_at is None or host.booted_at <= said):
                port.boots = []
        host.boot, host.booted_at = host.boot + 1, at
        if host.grace_until is None or at >= host.grace_until:
            host.grace_until = at + self.settings.reboot_grace
        host.kept = None
        if before is not None:
            before[0].kept = None
            host.kept = Kept(*before, since=host.evidence)

    @staticmethod
    def _keep_on(host: HostRow) -> None:
        assert host.kept is not None
        host.kept.looks += 1
        if host.evidence - host.kept.since >= HOUR and host.kept.looks >= KEPT_LOOKS:
            host.kept = None

    def _restore(self, host_id: str, at: datetime) -> HostRow:
        """The machine from before answers again: what another one made is taken back."""
        now, kept = self.hosts[host_id], self.hosts[host_id].kept
        assert kept is not None
        self._tell_host(host_id, at, "answers_discarded")
        then = kept.host
        was_open = then.status == "unreachable" or then.changes.flapping
        if now.told_reach and not was_open:
            self._tell_host(host_id, at, "retired")
        elif was_open and not now.told_reach:
            then.told_reach = ""
            then.changes.forget()
        elif now.told_reach:
            then.told_reach, then.changes = now.told_reach, now.changes
        then.foreign, then.key_changed, then.told_greater = False, False, now.told_greater
        then.unscanned, then.told_unscanned = now.unscanned, now.told_unscanned
        then.told_hidden, then.hiding_looks = now.told_hidden, now.hiding_looks
        then.showed_owners = now.showed_owners
        then.known_since, then.messages, then.last_try_at = now.known_since, now.messages, now.last_try_at
        self._restore_ports(host_id, kept.ports, at)
        self.hosts[host_id] = then
        return then

    def _restore_ports(self, host_id: str, then: dict[int, PortRow], at: datetime) -> None:
        now = self.ports[host_id]
        for number, port in sorted(now.items()):
            old = then.get(number)
            if old is not None and old.paused and port.alert and port.alert == old.fault:
                old.alert, old.paused = port.alert, False  # it is the same fault
            if port.alert and (old is None or old.alert != port.alert):
                self._tell_port(port, host_id, at, "retired", number)
            if old is not None:
                old.messages = port.messages
        for number, old in then.items():
            if old.alert and (number not in now or now[number].alert != old.alert):
                old.pause()
        self.ports[host_id] = then

    def _take_over(self, host_id: str, at: datetime, look: Listing) -> None:
        """A new entry is the machine of one that left: its state goes on under the new name."""
        new = self.hosts[host_id]
        answer = Machine.of(look)
        left = [
            (old.last_try_at or old.left_at, old_id)
            for old_id, old in sorted(self.hosts.items(), reverse=True)
            if old.left_at is not None and old.last_ok_at is not None and old.machine.is_one_with(answer)
            if new.last_ok_at is None or (new.duplicate_of == old_id and new.evidence < self.prune_after)
        ]
        if not left:
            return
        _, old_id = max(left, key=lambda one: one[0])
        new.key_changed = new.foreign = False
        self._show_greater(host_id, new, at)
        for number, port in sorted(self.ports[host_id].items()):
            same = self.ports[old_id].get(number)
            if port.alert and same is not None and same.fault == port.alert:
                same.alert, same.paused = port.alert, False  # it was told under this name
            elif port.alert:
                self._tell_port(port, host_id, at, "retired", number)
        row = self.hosts.pop(old_id)
        row.left_at, row.known_since = None, new.known_since
        # Whether its address answers is a matter of the entry itself.
        row.status, row.failures, row.counted_at = new.status, new.failures, new.counted_at
        row.tried, row.last_counted_try_at = new.tried, new.last_counted_try_at
        row.changes, row.told_reach = new.changes, new.told_reach
        row.unscanned, row.told_unscanned, row.last_try_at = new.unscanned, new.told_unscanned, new.last_try_at
        row.told_hidden = new.told_hidden
        row.told_greater, row.foreign, row.key_changed = new.told_greater, False, False
        row.messages = sorted(row.messages + new.messages)
        self.hosts[host_id] = row
        self.ports[host_id] = self.ports.pop(old_id)

    def _duplicates(self, firsts: Mapping[str, datetime]) -> None:
        """Entries that are one machine from the first ok look of the later one on."""
        for host_id in sorted(firsts):
            host = self.hosts[host_id]
            same = [
                other_id
                for other_id in sorted(self._listed())
                if other_id != host_id
                and self.hosts[other_id].last_ok_at is not None
                and not (other_id in firsts and other_id > host_id)
                and self.hosts[other_id].machine.is_one_with(host.machine)
            ]
            if same:
                self._tell_host(host_id, firsts[host_id], "duplicate")
                host.duplicate_of = same[0]
                for one in (host_id, *same):
                    self.hosts[one].sharing = True

    # ── the CMDB ────────────────────────────────────────────────────────────────────────────────

    def leave(self, host_ids: Collection[str], now: datetime) -> list[Told]:
        """Hosts left the CMDB: their alerts are closed. What still holds when they are back is told again."""
        self._events = []
        for host_id in sorted(host_ids):
            host = self.hosts.get(host_id)
            if host is None or host.left_at is not None:
                continue
            for told in (host.told_greater, host.told_reach, host.told_unscanned, host.told_hidden):
                if told:
                    self._tell_host(host_id, now, "retired")
            host.told_greater = host.told_reach = ""
            host.unscanned = host.told_unscanned = host.told_hidden = host.foreign = host.key_changed = False
            host.changes.forget()
            host.left_at = now
            for number, port in sorted(self.ports[host_id].items()):
                if port.alert:
                    self._tell_port(port, host_id, now, "retired", number)
                    port.pause()
        return self._told()

    def purge(self, host_ids: Collection[str]) -> None:
        """Hosts stayed away: all that is known of them is deleted."""
        for host_id in host_ids:
            self.hosts.pop(host_id, None)
            self.ports.pop(host_id, None)

    # ── to compare ──────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        """State of hosts and ports, as far as the engine must have the same.

        ``(host id,)``: status, failures, last ok look, foreign, sharing, evidence clock in seconds; of hosts that were
        tried. ``(host id, port)``: status, flapping, lost binds, addresses, programs, pids, hidden, held by others.
        """
        found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for host_id, host in self.hosts.items():
            if host.last_evaluated_at is None:
                continue
            found[(host_id,)] = (
                host.status,
                host.failures,
                host.last_ok_at,
                host.foreign,
                host.sharing,
                host.evidence.total_seconds(),
            )
            for number, port in self.ports[host_id].items():
                found[(host_id, number)] = (
                    port.status,
                    port.presence.flapping or (self._speaks_for(host_id, number) is not None and not port.paused),
                    tuple(sorted(port.lost)),
                    tuple(sorted(port.addresses)),
                    tuple(sorted(port.programs)),
                    tuple(sorted(port.pids)),
                    port.hidden_since is not None,
                    port.is_held,
                )
        return found


def final(looks: Iterable[Observation]) -> list[Observation]:
    """Without those that count only if no other observation of their run and host follows."""
    looks = list(looks)
    return [
        look
        for look in looks
        if not look.provisional
        or not any(
            (other.run_id, other.host_id) == (look.run_id, look.host_id) and other.observed_at > look.observed_at
            for other in looks
        )
    ]


def is_host_key(look: Observation) -> bool:
    return (look.error_class or "").startswith("host_key")


def fails_by_network_or_login(look: Observation) -> bool:
    return look.outcome is Outcome.UNREACHABLE and not is_host_key(look)


def is_most(some: set[str], of_all: set[str]) -> bool:
    return 10 * len(some) >= 9 * len(of_all)


def never_answered(host: HostRow) -> str:
    return "warning" if host.last_ok_at is None else ""


def is_of_another(one: Listener, look: Listing) -> bool:
    """Whether the process of a listener is shown, and one could see it only by the rights to see all."""
    if one.pid is None:
        return False
    return look.uid == 0 or (None not in (one.uid, look.uid) and one.uid != look.uid)


def inodes_of(look: Listing) -> frozenset[int]:
    return frozenset(one.inode for one in (*look.listeners, *(look.udp or ())) if one.inode is not None)


def pids_of(look: Listing) -> frozenset[int]:
    rows = (*look.listeners, *(look.udp or ()))
    shown = {one.pid for one in rows if one.pid is not None}
    return frozenset(shown | {owner.pid for one in rows for owner in one.owners})
