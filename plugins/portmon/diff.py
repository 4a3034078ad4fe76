"""Previous state and observations into next state and events. Pure: the clock is an argument.

State is kept in two frames, one row per host and one per watched port, see :mod:`portmon.frames`.
:func:`judge` takes them and what the scan saw, and returns only what changed. What one observation makes of
one port is the business of :mod:`portmon.states`; here is what concerns hosts, the fleet, and finding the ports
that are not as they were, which are few among many.

Each look at a host is judged once, in the order of time: one that is not newer than the host's last
judged look is ignored. That makes judging idempotent. A look without evidence (unreachable, invalid)
counts a failure of its host and touches no port.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from portmon import states
from portmon.config import States
from portmon.declared import Declared
from portmon.events import event_id, monitor_event
from portmon.frames import (
    HOST_COLUMNS,
    KEY,
    SETS,
    hosts_frame,
    merged,
    plain_row,
    port_of,
    ports_frame,
    ports_of,
    records,
)
from portmon.identity import same_program
from portmon.models import (
    PROTOCOL,
    Attempt,
    Event,
    EventKind,
    Host,
    HostStatus,
    Outcome,
    PortKey,
    PortStatus,
    severity_of,
)
from portmon.rules import HostRules, RuleSet
from portmon.states import Look, Port, Seen, Step, Told
from portmon.watched import any_watched, fold, known_programs, seen_of, why_watched


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judgement changed.

    :param hosts: changed and new rows, columns of :data:`portmon.frames.HOST_COLUMNS`
    :param ports: changed and new rows, columns of :data:`portmon.frames.PORT_COLUMNS`
    :param dropped: keys of rows that are no more: forgotten, moved and retired ports, ports that no rule watches now
    :param unwatched: those among them whose open alerts end without an event, because no rule watches them now
    :param events: as they are told: by time, the monitor's own first, then by host, a host's ports by number
    :param failing_since: start of the episode in which every host fails; None if there is none
    :param summary: counts for people
    """

    hosts: pd.DataFrame
    ports: pd.DataFrame
    dropped: tuple[PortKey, ...] = ()
    unwatched: tuple[PortKey, ...] = ()
    events: tuple[Event, ...] = ()
    failing_since: datetime | None = None
    summary: Mapping[str, int] = field(default_factory=dict)


def judge(
    hosts: pd.DataFrame,
    ports: pd.DataFrame,
    attempts: Sequence[Attempt],
    *,
    inventory: Mapping[str, Host],
    rules: RuleSet,
    settings: States,
    interval: timedelta,
    run_id: str,
    declared: Declared | None = None,
    accepted: Mapping[PortKey, datetime] | None = None,
    failing_since: datetime | None = None,
) -> Verdict:
    """Judge looks at hosts.

    :param hosts: previous state, see :data:`portmon.frames.HOST_COLUMNS`
    :param ports: previous state, see :data:`portmon.frames.PORT_COLUMNS`; may lack hosts that nobody looked at
    :param attempts: in any order; hosts that are not in ``inventory`` are ignored
    :param inventory: host id to host
    :param interval: time between scheduled runs: extra looks advance counters at most once per half of it
    :param run_id: of the run that judges
    :param declared: ports that must listen
    :param accepted: when a person said that a port is gone for good
    :param failing_since: start of an episode in which every host fails, None if there is none
    """
    judge_ = _Judge(hosts, ports, inventory, rules, settings, interval, run_id, declared or {}, accepted or {})
    judge_.failing_since = failing_since
    for run in _runs(attempts):
        judge_.run([attempt for attempt in run if judge_.is_news(attempt)])
    judge_.find_duplicates()
    return judge_.verdict()


def close_hosts(
    hosts: pd.DataFrame, ports: pd.DataFrame, host_ids: Collection[str], *, reason: str, run_id: str, now: datetime
) -> Verdict:
    """Hosts that left: ``retired`` for whatever somebody was told of, whose alerts are closed.

    Their state goes on as if nothing were wrong with them, so that what still is when they come back is told again.

    :param reason: why they are gone, as the end of a sentence
    """
    wanted = set(host_ids)
    rows = {row["host_id"]: row for row in records(hosts[hosts["host_id"].isin(wanted)])}
    events, changed, dropped = [], [], []
    told_hosts = []

    def retired(host: Mapping[str, Any], port: Port | None, what: str, since: datetime | None) -> Event:
        told = Told(EventKind.RETIRED, f"{what}; {reason}", since=since)
        return _event(told, host, port, at=now, run_id=run_id)

    for row in rows.values():
        if row["status"] == HostStatus.UNREACHABLE:
            events.append(retired(row, None, "Was unreachable", row["status_since"]))
            row |= {"status": HostStatus.OK.value if row["last_ok_at"] else HostStatus.NEW.value, "status_since": now}
            row |= {"failures": 0, "failing_since": None, "counted_at": None}
            told_hosts.append(row)
    for port in ports_of(ports[ports["host_id"].isin(list(rows))]):
        if states.is_open(port):
            what = (
                "Was down"
                if port.status == PortStatus.DOWN
                else "Was flapping"
                if port.flapping_since
                else "Lost a bind"
            )
            events.append(retired(rows[port.host_id], port, what, port.lost_since or port.status_since))
            forgiven = states.forgive(port)
            if forgiven is None:
                dropped.append((port.host_id, port.protocol, port.port))
            else:
                changed.append(forgiven)
    return Verdict(
        hosts=hosts_frame(told_hosts), ports=ports_frame(changed), dropped=tuple(dropped), events=tuple(events)
    )


# ── one judgement ───────────────────────────────────────────────────────────────────────────────


def _runs(attempts: Sequence[Attempt]) -> list[list[Attempt]]:
    """Looks by the run that made them, in the order of time."""
    by_run: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda attempt: (attempt.observed_at, attempt.host_id)):
        by_run[attempt.run_id].append(attempt)
    return list(by_run.values())


def _waves(attempts: Sequence[Attempt]) -> Iterable[list[Attempt]]:
    """Looks so that each wave has one per host, and a host's come in the order of time."""
    by_host: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        own = by_host[attempt.host_id]
        if not own or own[-1].observed_at < attempt.observed_at:
            own.append(attempt)
    for number in range(max(map(len, by_host.values()), default=0)):
        yield [own[number] for own in by_host.values() if len(own) > number]


class _Judge:
    """State while it is judged: hosts as mappings (few), ports as a frame (many)."""

    def __init__(
        self,
        hosts: pd.DataFrame,
        ports: pd.DataFrame,
        inventory: Mapping[str, Host],
        rules: RuleSet,
        settings: States,
        interval: timedelta,
        run_id: str,
        declared: Declared,
        accepted: Mapping[PortKey, datetime],
    ) -> None:
        self.hosts = {row["host_id"]: row for row in records(hosts)}
        self.ports = ports
        self.inventory = inventory
        self.rules = rules
        self.settings = settings
        self.half_interval = interval / 2
        self.window = states.flap_window(settings, interval)
        self.run_id = run_id
        self.declared = declared
        self.accepted = accepted
        self.failing_since: datetime | None = None
        self.judged = 0
        self.silent = False
        self.answered: set[str] = set()
        self.changed_hosts: set[str] = set()
        self.changed_ports: dict[PortKey, Port] = {}
        self.dropped: dict[PortKey, bool] = {}
        self.events: list[Event] = []

    def is_news(self, attempt: Attempt) -> bool:
        """Whether a look is of a known host and newer than what was judged of it."""
        if attempt.host_id not in self.inventory:
            return False
        judged = self.hosts.get(attempt.host_id, {}).get("last_judged_at")
        return judged is None or attempt.observed_at > judged

    def run(self, attempts: Sequence[Attempt]) -> None:
        """Judge the looks of one run."""
        if not attempts:
            return
        self.judged += len(attempts)
        fresh = self._fresh_failures(attempts)
        self.silent = fresh is not None
        for wave in _waves(attempts):
            self._wave(wave)
        self.silent = False
        self._tell_of_fleet(attempts, fresh)

    def verdict(self) -> Verdict:
        """What changed in all."""
        counts = Counter(event.kind.value for event in self.events)
        return Verdict(
            hosts=hosts_frame([self.hosts[host_id] for host_id in sorted(self.changed_hosts)]),
            ports=ports_frame([self.changed_ports[key] for key in sorted(self.changed_ports)]),
            dropped=tuple(self.dropped),
            unwatched=tuple(key for key, unwatched in self.dropped.items() if unwatched),
            events=tuple(sorted(self.events, key=_order)),
            failing_since=self.failing_since,
            summary={"judged": self.judged, **dict(sorted(counts.items()))},
        )

    def _wave(self, attempts: Sequence[Attempt]) -> None:
        """Judge at most one look per host."""
        ok = []
        for attempt in attempts:
            host = self._host(attempt.host_id)
            if attempt.outcome is Outcome.OK and attempt.observation is not None:
                ok.append(attempt)
            else:
                self._no_evidence(host, attempt)
            host["last_judged_at"] = attempt.observed_at
            self.changed_hosts.add(attempt.host_id)
        if ok:
            rules = {attempt.host_id: self.rules.for_host(self.inventory[attempt.host_id]) for attempt in ok}
            digests = {host_id: own.digest for host_id, own in rules.items()}
            looks = {attempt.host_id: self._look(attempt, digests[attempt.host_id]) for attempt in ok}
            self._ports(ok, looks, rules)
            for attempt in ok:
                host = self.hosts[attempt.host_id]
                self._evidence(host, attempt, looks[attempt.host_id])
                host["rules"] = digests[attempt.host_id]

    # ── the fleet ───────────────────────────────────────────────────────────────────────────────

    def _fresh_failures(self, attempts: Sequence[Attempt]) -> set[str] | None:
        """The hosts of a run whose failing is told as one event, or as more of it; None if hosts tell their own.

        When everybody fails in the same way, it is the monitor that fails.
        """
        if any(attempt.outcome is Outcome.OK for attempt in attempts):
            return None
        tried = {attempt.host_id for attempt in attempts}
        fresh = {
            host_id for host_id in tried if self.hosts.get(host_id, {}).get("status") != HostStatus.UNREACHABLE.value
        }
        if self.failing_since is not None:
            return fresh
        alike = len({(attempt.outcome, attempt.error_class) for attempt in attempts}) == 1
        most = 2 * len(tried) > len(self.inventory)
        return fresh if alike and most and len(fresh) > 1 else None

    def _tell_of_fleet(self, attempts: Sequence[Attempt], fresh: set[str] | None) -> None:
        last = attempts[-1]
        at = last.observed_at
        if fresh is None:
            if self.failing_since is not None and any(attempt.outcome is Outcome.OK for attempt in attempts):
                since, self.failing_since = self.failing_since, None
                self.events.append(
                    monitor_event(
                        EventKind.FLEET_REACHABLE,
                        at=at,
                        run_id=self.run_id,
                        reason="Hosts give evidence again",
                        evidence=at.isoformat(),
                        since=since,
                        details={"unreachable_for": (at - since).total_seconds()},
                    )
                )
            return
        failures = [self.hosts[host_id]["failures"] for host_id in fresh]
        if self.failing_since is not None or max(failures, default=0) < self.settings.unreachable_after:
            return
        self.failing_since = min(self.hosts[host_id]["failing_since"] for host_id in fresh)
        tried = len({attempt.host_id for attempt in attempts})
        what = last.error_class or last.outcome.value
        self.events.append(
            monitor_event(
                EventKind.FLEET_UNREACHABLE,
                at=at,
                run_id=self.run_id,
                reason=f"All {tried} hosts that were asked fail alike ({what}): look at the monitor and its network "
                f"first. The last one says: {last.error or what}",
                evidence=at.isoformat(),
                since=self.failing_since,
                details={"error_class": last.error_class, "hosts": tried},
            )
        )

    def find_duplicates(self) -> None:
        """Note hosts that are, by boot id, network namespace and ports, the machine of another entry."""
        machines: dict[tuple[str, int], list[str]] = defaultdict(list)
        for host_id, row in sorted(self.hosts.items()):
            if host_id in self.inventory and row["boot_id"] and row["netns"] is not None:
                machines[row["boot_id"], row["netns"]].append(host_id)
        for host_id in sorted(self.answered):
            row = self.hosts[host_id]
            others = [other for other in machines.get((row["boot_id"], row["netns"]), ()) if other < host_id]
            if row["duplicate_of"] in others:
                continue
            before, first = (
                row["duplicate_of"],
                next((other for other in others if self.hosts[other]["listening"] == row["listening"]), None),
            )
            row["duplicate_of"] = first
            if first is not None and before is None:
                other = self.hosts[first]
                told = Told(
                    EventKind.DUPLICATE,
                    f"The same machine as {other['name']} (id {first}): same boot, network namespace and ports. "
                    "Both are watched",
                    details={"duplicate_of": first},
                )
                self._tell(told, row, None, row["last_ok_at"])

    # ── hosts ───────────────────────────────────────────────────────────────────────────────────

    def _host(self, host_id: str) -> dict[str, Any]:
        listed = self.inventory[host_id]
        row = self.hosts.get(host_id)
        if row is None:
            row = dict.fromkeys(HOST_COLUMNS) | {"host_id": host_id, "status": HostStatus.NEW.value, "failures": 0}
            self.hosts[host_id] = row
        row |= {"name": listed.name, "address": listed.address, "labels": dict(listed.labels)}
        return row

    def _no_evidence(self, host: dict[str, Any], attempt: Attempt) -> None:
        at = attempt.observed_at
        host |= {"error_class": attempt.error_class, "error": attempt.error}
        if host["failures"] == 0:
            host |= {"failures": 1, "failing_since": at, "counted_at": at}
        elif at - host["counted_at"] >= self.half_interval:
            host |= {"failures": host["failures"] + 1, "counted_at": at}
        failures = host["failures"]
        if failures < self.settings.unreachable_after or host["status"] == HostStatus.UNREACHABLE or self.silent:
            return
        host |= {"status": HostStatus.UNREACHABLE.value, "status_since": at}
        times = "1 run" if failures == 1 else f"{failures} runs in a row"
        told = Told(
            EventKind.UNREACHABLE,
            f"No evidence in {times}: {attempt.error or attempt.error_class or attempt.outcome}",
            since=host["failing_since"],
            last_seen=host["last_ok_at"],
            details={"error_class": attempt.error_class, "outcome": attempt.outcome.value, "failures": failures},
        )
        self._tell(told, host, None, at)

    def _look(self, attempt: Attempt, rules: str) -> Look:
        """What the ports of a host are judged by.

        :param rules: digest of those in force
        """
        host, seen, at = self.hosts[attempt.host_id], attempt.observation, attempt.observed_at
        assert seen is not None  # noqa: S101 - for the type checker; _wave() looked
        rebooted = bool(host["boot_id"] and seen.boot_id and host["boot_id"] != seen.boot_id)
        if rebooted and (host["grace_until"] is None or at >= host["grace_until"]):
            # A second reboot does not extend the grace: a host that boots for ever would never tell of a death.
            host["grace_until"] = at + self.settings.reboot_grace
        interrupted = host["status"] != HostStatus.OK or host["failures"] >= self.settings.unreachable_after
        return Look(
            at=at,
            first=host["last_ok_at"] is None,
            before=frozenset(int(key.rpartition("/")[2]) for key in host["listening"] or ()),
            seen_at=host["last_ok_at"],
            ok_since=None if interrupted else host["status_since"],
            ephemeral=seen.ephemeral,
            tool=seen.tool,
            tool_before=host["tool"] if host["last_ok_at"] else None,
            rebooted=rebooted,
            grace_until=host["grace_until"],
            rules_changed=host["rules"] is not None and host["rules"] != rules,
            confirmed=attempt.confirmed,
            listening=frozenset(listener.port for listener in seen.listeners),
            half_interval=self.half_interval,
            window=self.window,
            settings=self.settings,
        )

    def _evidence(self, host: dict[str, Any], attempt: Attempt, look: Look) -> None:
        """Last, since the ports are judged by what the host was before."""
        seen, at = attempt.observation, attempt.observed_at
        assert seen is not None  # noqa: S101 - for the type checker; _wave() looked
        listening = {listener.port for listener in seen.listeners}
        if look.first:
            count = len(listening)
            told = Told(
                EventKind.BASELINE,
                f"First complete answer: {count} listening port{'' if count == 1 else 's'}",
                details={"ports": count},
            )
            self._tell(told, host, None, at)
        if look.rebooted:
            told = Told(
                EventKind.REBOOTED,
                f"Its boot id changed; ports that are not back yet have until {look.grace_until:%Y-%m-%d %H:%M:%S} UTC",
                last_seen=host["last_ok_at"],
                details={"boot_id": seen.boot_id, "before": host["boot_id"]},
            )
            self._tell(told, host, None, at)
        if host["status"] == HostStatus.UNREACHABLE:
            told = Told(
                EventKind.REACHABLE,
                "It answered completely again",
                since=host["failing_since"],
                last_seen=host["last_ok_at"],
                details={"unreachable_for": (at - host["failing_since"]).total_seconds()},
            )
            self._tell(told, host, None, at)
        if look.ok_since is None:
            host |= {"status": HostStatus.OK.value, "status_since": at}
        host |= {
            "failures": 0,
            "failing_since": None,
            "counted_at": None,
            "last_ok_at": at,
            "boot_id": seen.boot_id or host["boot_id"],
            "netns": seen.netns,
            "ephemeral_low": seen.ephemeral[0],
            "ephemeral_high": seen.ephemeral[1],
            "tool": seen.tool,
            "error_class": None,
            "error": None,
            "listening": tuple(f"{PROTOCOL}/{port}" for port in sorted(listening)),
        }
        self.answered.add(attempt.host_id)

    # ── ports ───────────────────────────────────────────────────────────────────────────────────

    def _ports(self, attempts: Sequence[Attempt], looks: Mapping[str, Look], rules: Mapping[str, HostRules]) -> None:
        """Compare known and seen ports of hosts that answered: one merge, then what differs, row by row."""
        known = self.ports[self.ports["host_id"].isin(list(looks))]
        seen = fold(attempts, rules, self.declared, known_programs(known, rules))
        both = known.merge(seen, on=KEY, how="outer", suffixes=("", "_seen"), indicator="found")
        rows = [plain_row(row) for row in both[~self._is_quiet(both)].to_dict("records")]
        by_host: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_host[row["host_id"]].append(row)
        there = set(zip(both["host_id"], both["port"], strict=True)) if self.declared else set()
        for host_id, look in looks.items():
            must = self.declared.get(host_id, {})
            self._host_ports(host_id, by_host[host_id], look, rules[host_id])
            for port in sorted(must):
                if look.confirmed and (host_id, port) not in there:
                    key = (host_id, PROTOCOL, port)
                    self._keep(key, None, states.absent(key, look, declared=must[port]), look, rules[host_id])
        # Up to date for a next wave.
        self.ports = merged(self.ports, self.changed_ports.values(), self.dropped)

    def _is_quiet(self, both: pd.DataFrame) -> pd.Series:
        """Rows of which nothing can follow: up before, seen now, nothing different, nothing pending."""
        quiet = (both["found"] == "both") & (both["status"] == PortStatus.UP.value) & (both["misses"] == 0)
        quiet &= both["flapping_since"].isna() & both["grace_until"].isna()
        quiet &= both["tool"] == both["tool_seen"]
        must = [
            self.declared.get(host_id, {}).get(port)
            for host_id, port in zip(both["host_id"], both["port"], strict=True)
        ]
        same = [
            declared == wanted and not lost
            for declared, wanted, lost in zip(
                both["declared"].where(both["declared"].notna(), None), must, both["lost"], strict=True
            )
        ]
        quiet &= pd.Series(same, index=both.index, dtype="bool")
        for name in SETS:
            same = [
                new == old or (not new and name != "addresses")
                for old, new in zip(both[name], both[f"{name}_seen"], strict=True)
            ]
            quiet &= pd.Series(same, index=both.index, dtype="bool")
        return quiet

    def _host_ports(self, host_id: str, rows: Sequence[Mapping[str, Any]], look: Look, rules: HostRules) -> None:
        """The ports of one host that are not as they were."""
        must = self.declared.get(host_id, {})
        arrivals: dict[int, Seen] = {}
        missing: list[Port] = []
        for row in rows:
            key = (host_id, row["protocol"], row["port"])
            declared = must.get(key[2])
            if row["found"] == "right_only":
                arrivals[key[2]] = seen_of(row)
                continue
            port = port_of(row)
            if row["found"] == "both":

                def is_watched(address: str, port: Port = port, declared: str | None = declared) -> bool:
                    return bool(declared) or any_watched(port, (address,), rules)

                step = states.again(port, seen_of(row), look, declared=declared, is_watched=is_watched)
                self._keep(key, port, step, look, rules)
            elif not declared and not (port.addresses and any_watched(port, port.addresses, rules)):
                self.dropped[key] = True
                self.changed_ports.pop(key, None)
            else:
                missing.append(port)
        heirs = _heirs(missing, arrivals, look, must)
        for port in missing:
            key = (host_id, port.protocol, port.port)
            step = states.gone(
                port, look, declared=must.get(port.port), accepted=self.accepted.get(key), heir=heirs.get(port.port)
            )
            self._keep(key, port, step, look, rules)
        for number, seen in arrivals.items():
            key = (host_id, PROTOCOL, number)
            heir = number in heirs.values()
            step = states.appear(key, seen, look, declared=must.get(number), heir=heir)
            self._keep(key, None, step, look, rules)

    def _keep(self, key: PortKey, before: Port | None, step: Step, look: Look, rules: HostRules) -> None:
        """Note what became of a port, and tell it."""
        if step.port is None:
            self.dropped[key] = False
            self.changed_ports.pop(key, None)
        elif step.port != before:
            self.dropped.pop(key, None)
            self.changed_ports[key] = step.port
        for told in step.told:
            port = step.port or before
            assert port is not None  # noqa: S101 - for the type checker: what is told is told of something
            details = {"watched": why_watched(port, rules), "row": step.row.name.lower(), "looked_with": look.tool}
            self._tell(told, self.hosts[key[0]], port, look.at, details)

    def _tell(
        self,
        told: Told,
        host: Mapping[str, Any],
        port: Port | None,
        at: datetime,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.events.append(_event(told, host, port, at=at, run_id=self.run_id, details=details))


# ── ports that moved ────────────────────────────────────────────────────────────────────────────


def _heirs(
    missing: Sequence[Port], arrivals: Mapping[int, Seen], look: Look, must: Mapping[int, str]
) -> dict[int, int]:
    """Ports that are missing, and the port that their program gained meanwhile, within the ephemeral range."""
    free = [number for number in sorted(arrivals) if look.is_ephemeral(number) and number not in must]
    found: dict[int, int] = {}
    for port in sorted(missing, key=lambda port: port.port):
        if port.status != PortStatus.UP or port.port in must or not look.is_ephemeral(port.port):
            continue
        if not port.programs or port.tool != look.tool or not look.confirmed:
            continue
        for number in free:
            seen = arrivals[number]
            pids = (*port.pids, *seen.pids)
            same = any(same_program(old, new, pids=pids) for old in port.programs for new in seen.programs)
            if same and seen.units == port.units:
                found[port.port] = number
                free.remove(number)
                break
    return found


# ── events ──────────────────────────────────────────────────────────────────────────────────────


def _event(
    told: Told,
    host: Mapping[str, Any],
    port: Port | None,
    *,
    at: datetime,
    run_id: str,
    details: Mapping[str, Any] | None = None,
) -> Event:
    extra: dict[str, Any] = {}
    if port is not None:
        extra = {name: list(getattr(port, name)) for name in (*SETS[:3], "uids", "units") if getattr(port, name)}
        if port.declared:
            extra["declared"] = port.declared
    extra |= {**(details or {}), **told.details}
    return Event(
        id=event_id(
            told.kind,
            host["host_id"],
            port.protocol if port else None,
            port.port if port else None,
            at.isoformat(),
        ),
        kind=told.kind,
        at=at,
        run_id=run_id,
        host_id=host["host_id"],
        host_name=host["name"],
        protocol=port.protocol if port else None,
        port=port.port if port else None,
        severity=severity_of(told.kind, extra),
        reason=told.reason,
        program=", ".join(port.programs) or None if port else None,
        unit=", ".join(port.units) or None if port else None,
        since=told.since,
        last_seen=told.last_seen,
        labels=dict(host["labels"] or {}),
        details=extra,
    )


def _order(event: Event) -> tuple[Any, ...]:
    return (event.at, event.host_id or "", event.port is not None, event.port or 0)
