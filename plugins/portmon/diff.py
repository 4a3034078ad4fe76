"""Previous state and observations into next state and events. Pure: the clock is an argument.

State is kept in two frames, one row per host and one per watched port; their columns are
:data:`HOST_COLUMNS` and :data:`PORT_COLUMNS`. :func:`judge` takes them and what the scan saw, and
returns only what changed.

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

from portmon.config import States
from portmon.events import event_id
from portmon.models import (
    EPHEMERAL_DEFAULT,
    SEVERITIES,
    Attempt,
    Event,
    EventKind,
    Host,
    HostStatus,
    Observation,
    Outcome,
    PortStatus,
)
from portmon.rules import HostRules, RuleSet

PROTOCOL = "tcp"
"""tcp and tcp6 are one port: a dual-stack socket shows as either."""

_TIME = "datetime64[us, UTC]"

HOST_COLUMNS: Mapping[str, str] = {
    "host_id": "object",
    "name": "object",
    "address": "object",
    "labels": "object",
    "status": "object",
    "status_since": _TIME,
    "failures": "int64",
    "failing_since": _TIME,
    "counted_at": _TIME,
    "last_judged_at": _TIME,
    "last_ok_at": _TIME,
    "boot_id": "object",
    "netns": "Int64",
    "ephemeral_low": "Int64",
    "ephemeral_high": "Int64",
    "tool": "object",
    "error_class": "object",
    "error": "object",
    "listening": "object",
}
"""Hosts: column name to dtype.

``failures`` counts tried runs in a row without evidence, since ``failing_since``; ``counted_at`` is when
it last grew. ``listening`` is the sorted tuple of ``tcp/80`` keys of the last ok look, before rules.
"""

PORT_COLUMNS: Mapping[str, str] = {
    "host_id": "object",
    "protocol": "object",
    "port": "int64",
    "status": "object",
    "status_since": _TIME,
    "misses": "int64",
    "streak": "int64",
    "counted_at": _TIME,
    "first_seen_at": _TIME,
    "last_seen_at": _TIME,
    "addresses": "object",
    "programs": "object",
    "pids": "object",
    "uids": "object",
    "units": "object",
    "tool": "object",
    "at_baseline": "bool",
}
"""Ports: column name to dtype.

``misses`` and ``streak`` count looks in a row, of a port that is missing and of a candidate that is there;
``counted_at`` is when they last grew. ``last_seen_at`` is NaT while the port was there in its host's last
ok look, so that a quiet run changes no row. ``addresses`` … ``units`` are sorted tuples, last known.
"""

_KEY = ["host_id", "protocol", "port"]
_SETS = ("addresses", "programs", "pids", "uids", "units")

PortKey = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judgement changed.

    :param hosts: changed and new rows, columns of :data:`HOST_COLUMNS`
    :param ports: changed and new rows, columns of :data:`PORT_COLUMNS`
    :param dropped: keys of rows that are no more: forgotten candidates, ports that no rule watches now
    :param events: in the order in which they are told: hosts by time, each host's ports by number
    :param summary: counts for people
    """

    hosts: pd.DataFrame
    ports: pd.DataFrame
    dropped: tuple[PortKey, ...] = ()
    events: tuple[Event, ...] = ()
    summary: Mapping[str, int] = field(default_factory=dict)


def frame(data: Mapping[str, Sequence[Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A frame of plain Python values with the dtypes of ``columns``; None is missing."""
    series = {}
    for name, dtype in columns.items():
        values = list(data.get(name, ()))
        if dtype == _TIME:
            series[name] = pd.to_datetime(pd.Series(values, dtype="object"), utc=True).dt.as_unit("us")
        else:
            series[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(series)


def empty_hosts() -> pd.DataFrame:
    """No hosts yet."""
    return frame({}, HOST_COLUMNS)


def empty_ports() -> pd.DataFrame:
    """No ports yet."""
    return frame({}, PORT_COLUMNS)


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
) -> Verdict:
    """Judge looks at hosts.

    :param hosts: previous state, see :data:`HOST_COLUMNS`
    :param ports: previous state, see :data:`PORT_COLUMNS`; may lack hosts that nobody looked at
    :param attempts: in any order; hosts that are not in ``inventory`` are ignored
    :param inventory: host id to host
    :param interval: time between scheduled runs: extra looks advance counters at most once per half of it
    :param run_id: of the run that judges
    """
    judge_ = _Judge(hosts, ports, inventory, rules, settings, interval / 2, run_id)
    fresh = [attempt for attempt in attempts if judge_.is_news(attempt)]
    for wave in _waves(fresh):
        judge_.wave(wave)
    return judge_.verdict(len(fresh))


def close_hosts(
    hosts: pd.DataFrame, ports: pd.DataFrame, host_ids: Collection[str], *, reason: str, run_id: str, now: datetime
) -> tuple[Event, ...]:
    """``retired`` for whatever is down or unreachable on hosts that left: their alerts are closed.

    :param reason: why they are gone, as the end of a sentence
    """
    wanted = set(host_ids)
    rows = {row["host_id"]: row for row in _records(hosts[hosts["host_id"].isin(wanted)])}
    evidence = now.isoformat()

    def retired(host: Mapping[str, Any], port: Mapping[str, Any] | None) -> Event:
        what = "Was down" if port else "Was unreachable"
        return _event(
            EventKind.RETIRED,
            host,
            port,
            at=now,
            run_id=run_id,
            evidence=evidence,
            reason=f"{what}; {reason}",
            since=(port or host)["status_since"],
        )

    events = [retired(row, None) for row in rows.values() if row["status"] == HostStatus.UNREACHABLE]
    down = ports[ports["host_id"].isin(wanted) & (ports["status"] == PortStatus.DOWN.value)]
    events += [retired(rows[port["host_id"]], port) for port in _records(down) if port["host_id"] in rows]
    return tuple(events)


# ── one judgement ───────────────────────────────────────────────────────────────────────────────


def _waves(attempts: Sequence[Attempt]) -> Iterable[list[Attempt]]:
    """Looks so that each wave has one per host, and a host's come in the order of time."""
    by_host: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda attempt: (attempt.observed_at, attempt.host_id)):
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
        half_interval: timedelta,
        run_id: str,
    ) -> None:
        self.hosts = {row["host_id"]: row for row in _records(hosts)}
        self.ports = ports
        self.inventory = inventory
        self.rules = rules
        self.settings = settings
        self.half_interval = half_interval
        self.run_id = run_id
        self.changed_hosts: set[str] = set()
        self.changed_ports: dict[PortKey, dict[str, Any]] = {}
        self.dropped: dict[PortKey, None] = {}
        self.events: list[Event] = []

    def is_news(self, attempt: Attempt) -> bool:
        """Whether a look is of a known host and newer than what was judged of it."""
        if attempt.host_id not in self.inventory:
            return False
        judged = self.hosts.get(attempt.host_id, {}).get("last_judged_at")
        return judged is None or attempt.observed_at > judged

    def wave(self, attempts: Sequence[Attempt]) -> None:
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
            self._ports(ok)
            for attempt in ok:
                self._evidence(self.hosts[attempt.host_id], attempt)

    def verdict(self, judged: int) -> Verdict:
        """What changed in all."""
        counts = Counter(event.kind.value for event in self.events)
        return Verdict(
            hosts=_frame_of([self.hosts[host_id] for host_id in sorted(self.changed_hosts)], HOST_COLUMNS),
            ports=_frame_of([self.changed_ports[key] for key in sorted(self.changed_ports)], PORT_COLUMNS),
            dropped=tuple(self.dropped),
            events=tuple(sorted(self.events, key=_order)),
            summary={"judged": judged, **dict(sorted(counts.items()))},
        )

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
        host |= {"error_class": attempt.error_class, "error": attempt.error}
        if host["failures"] == 0:
            host["failing_since"] = attempt.observed_at
        elif not self._counts(host["counted_at"], attempt.observed_at):
            return
        host |= {"failures": host["failures"] + 1, "counted_at": attempt.observed_at}
        if host["failures"] < self.settings.unreachable_after or host["status"] == HostStatus.UNREACHABLE:
            return
        host |= {"status": HostStatus.UNREACHABLE.value, "status_since": attempt.observed_at}
        times = "1 run" if host["failures"] == 1 else f"{host['failures']} runs in a row"
        self._tell(
            EventKind.UNREACHABLE,
            host,
            None,
            attempt,
            reason=f"No evidence in {times}: {attempt.error or attempt.error_class or attempt.outcome}",
            since=host["failing_since"],
            last_seen=host["last_ok_at"],
            details={"error_class": attempt.error_class, "outcome": attempt.outcome.value},
        )

    def _evidence(self, host: dict[str, Any], attempt: Attempt) -> None:
        """Last, since the ports are judged by what the host was before."""
        seen = attempt.observation
        assert seen is not None  # noqa: S101 - for the type checker; wave() looked
        if host["last_ok_at"] is None:
            count = len({listener.port for listener in seen.listeners})
            self._tell(
                EventKind.BASELINE,
                host,
                None,
                attempt,
                reason=f"First complete answer: {count} listening ports",
                details={"ports": count},
            )
        if host["status"] == HostStatus.UNREACHABLE:
            self._tell(
                EventKind.REACHABLE,
                host,
                None,
                attempt,
                reason="It answered completely again",
                since=host["failing_since"],
                last_seen=host["last_ok_at"],
                details={"unreachable_for": _seconds(attempt.observed_at, host["failing_since"])},
            )
        if host["status"] != HostStatus.OK:
            host |= {"status": HostStatus.OK.value, "status_since": attempt.observed_at}
        host |= {
            "failures": 0,
            "failing_since": None,
            "counted_at": None,
            "last_ok_at": attempt.observed_at,
            "boot_id": seen.boot_id,
            "netns": seen.netns,
            "ephemeral_low": seen.ephemeral[0],
            "ephemeral_high": seen.ephemeral[1],
            "tool": seen.tool,
            "error_class": None,
            "error": None,
            "listening": tuple(sorted({f"{PROTOCOL}/{listener.port}" for listener in seen.listeners})),
        }

    # ── ports ───────────────────────────────────────────────────────────────────────────────────

    def _ports(self, attempts: Sequence[Attempt]) -> None:
        """Compare known and seen ports of hosts that answered: one merge, then what differs, row by row."""
        by_host = {attempt.host_id: attempt for attempt in attempts}
        rules = {host_id: self.rules.for_host(self.inventory[host_id]) for host_id in by_host}
        known = self.ports[self.ports["host_id"].isin(list(by_host))]
        seen = _seen(attempts, rules)
        both = known.merge(seen, on=_KEY, how="outer", suffixes=("", "_seen"), indicator="found")
        quiet = (both["found"] == "both") & (both["status"] == PortStatus.UP.value) & (both["misses"] == 0)
        quiet &= both["watched"].eq(True)
        for name in _SETS:
            same = [
                new == old or (not new and name != "addresses")
                for old, new in zip(both[name], both[f"{name}_seen"], strict=True)
            ]
            quiet &= pd.Series(same, index=both.index, dtype="bool")
        quiet &= both["tool"] == both["tool_seen"]
        for row in both[~quiet].to_dict("records"):
            key = (row["host_id"], row["protocol"], int(row["port"]))
            self._port(key, _clean(row), by_host[row["host_id"]], rules[row["host_id"]])
        self._keep_ports()

    def _port(self, key: PortKey, row: dict[str, Any], attempt: Attempt, rules: HostRules) -> None:
        """One row of the table of states."""
        host = self.hosts[key[0]]
        known = row["found"] != "right_only"
        seen = row["found"] != "left_only"
        watched, listed = (row["watched"], row["listed"]) if seen else (False, False)
        if known and not watched:
            # Judged by what was last known of it: a name that is not shown just now changes nothing.
            watched = _last_known_watched(row, rules, seen=seen)
        if not watched:
            if known:
                self._drop(key)
            return
        port = {name: row[name] for name in PORT_COLUMNS}
        before = dict(port)
        if not known:
            port = self._first_sight(key, row, host, attempt, listed=listed)
        elif seen:
            self._seen_again(port, row, host, attempt)
        elif port["status"] == PortStatus.CANDIDATE:
            self._drop(key)
            return
        elif port["status"] == PortStatus.UP:
            self._missing(port, host, attempt)
        if not known or port != before:
            self.dropped.pop(key, None)
            self.changed_ports[key] = port

    def _first_sight(
        self, key: PortKey, row: Mapping[str, Any], host: Mapping[str, Any], attempt: Attempt, *, listed: bool
    ) -> dict[str, Any]:
        at = attempt.observed_at
        baseline = host["last_ok_at"] is None
        was_there = baseline or f"{PROTOCOL}/{key[2]}" in (host["listening"] or ())
        port: dict[str, Any] = dict.fromkeys(PORT_COLUMNS) | {
            "host_id": key[0],
            "protocol": key[1],
            "port": key[2],
            "status": PortStatus.UP.value,
            "status_since": at,
            "misses": 0,
            "streak": 0,
            "first_seen_at": at,
            "at_baseline": was_there,
        }
        _take_attributes(port, row)
        if _is_ephemeral(key[2], attempt.observation) and (baseline or not listed):
            port |= {"status": PortStatus.CANDIDATE.value, "streak": 1, "counted_at": at}
            if self.settings.ephemeral_after > 1:
                return port
        self._becomes_up(port, host, attempt)
        return port

    def _seen_again(
        self, port: dict[str, Any], row: Mapping[str, Any], host: Mapping[str, Any], attempt: Attempt
    ) -> None:
        _take_attributes(port, row)
        if port["status"] == PortStatus.CANDIDATE:
            if self._counts(port["counted_at"], attempt.observed_at):
                port |= {"streak": port["streak"] + 1, "counted_at": attempt.observed_at}
            if port["streak"] >= self.settings.ephemeral_after:
                self._becomes_up(port, host, attempt)
            return
        if port["status"] == PortStatus.DOWN:
            self._tell(
                EventKind.RECOVERED,
                host,
                port,
                attempt,
                reason="It listens again",
                since=port["status_since"],
                last_seen=port["last_seen_at"],
                details={"down_for": _seconds(attempt.observed_at, port["status_since"])},
            )
            port |= {"status": PortStatus.UP.value, "status_since": attempt.observed_at}
        port |= {"misses": 0, "counted_at": None, "last_seen_at": None}

    def _becomes_up(self, port: dict[str, Any], host: Mapping[str, Any], attempt: Attempt) -> None:
        port |= {
            "status": PortStatus.UP.value,
            "status_since": attempt.observed_at,
            "streak": 0,
            "counted_at": None,
        }
        if not port["at_baseline"]:
            self._tell(
                EventKind.NEW,
                host,
                port,
                attempt,
                reason="It was not there before" if host["last_ok_at"] else "It is new",
                since=port["first_seen_at"],
            )

    def _missing(self, port: dict[str, Any], host: Mapping[str, Any], attempt: Attempt) -> None:
        if port["misses"] and not self._counts(port["counted_at"], attempt.observed_at):
            return
        if not port["misses"]:
            port["last_seen_at"] = host["last_ok_at"]
        port |= {"misses": port["misses"] + 1, "counted_at": attempt.observed_at}
        if port["misses"] < self.settings.down_after:
            return
        port |= {"status": PortStatus.DOWN.value, "status_since": attempt.observed_at, "counted_at": None}
        runs = "1 run" if port["misses"] == 1 else f"{port['misses']} runs in a row"
        last_seen = port["last_seen_at"]
        self._tell(
            EventKind.DOWN,
            host,
            port,
            attempt,
            reason=f"Missing in complete answers of {runs}, confirmed"
            + (f"; last seen {last_seen:%Y-%m-%d %H:%M:%S} UTC" if last_seen else ""),
            since=attempt.observed_at,
            last_seen=last_seen,
        )

    def _drop(self, key: PortKey) -> None:
        self.dropped[key] = None
        self.changed_ports.pop(key, None)

    def _keep_ports(self) -> None:
        """Bring the frame up to date, for a next wave."""
        if self.changed_ports or self.dropped:
            stale = pd.MultiIndex.from_tuples([*self.changed_ports, *self.dropped], names=_KEY)
            kept = self.ports[~pd.MultiIndex.from_frame(self.ports[_KEY]).isin(stale)]
            new = _frame_of(list(self.changed_ports.values()), PORT_COLUMNS)
            self.ports = pd.concat([part for part in (kept, new) if len(part)] or [empty_ports()], ignore_index=True)

    # ── small things ────────────────────────────────────────────────────────────────────────────

    def _counts(self, counted_at: datetime | None, at: datetime) -> bool:
        return counted_at is None or at - counted_at >= self.half_interval

    def _tell(
        self,
        kind: EventKind,
        host: Mapping[str, Any],
        port: Mapping[str, Any] | None,
        attempt: Attempt,
        *,
        reason: str,
        since: datetime | None = None,
        last_seen: datetime | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.events.append(
            _event(
                kind,
                host,
                port,
                at=attempt.observed_at,
                run_id=self.run_id,
                evidence=attempt.observed_at.isoformat(),
                reason=reason,
                since=since,
                last_seen=last_seen,
                details=details,
            )
        )


def _seen(attempts: Sequence[Attempt], rules: Mapping[str, HostRules]) -> pd.DataFrame:
    """What listens, folded to one row per port.

    ``watched``: a rule, or no rule, lets some listener of it be watched; ``listed``: an allow rule named it.
    """
    rows: list[tuple[Any, ...]] = []
    for attempt in attempts:
        seen = attempt.observation
        assert seen is not None  # noqa: S101 - for the type checker
        own = rules[attempt.host_id]
        by_port: dict[int, list[Any]] = defaultdict(list)
        for listener in seen.listeners:
            by_port[listener.port].append(listener)
        for port, listeners in by_port.items():
            decisions = (
                [own.judge(port=port, address=one.address, program=one.program) for one in listeners]
                if not own.watches_all
                else []
            )
            rows.append(
                (
                    attempt.host_id,
                    PROTOCOL,
                    port,
                    _sorted(f"{one.address}%{one.zone}" if one.zone else one.address for one in listeners),
                    _sorted(one.program for one in listeners),
                    _sorted(one.pid for one in listeners),
                    _sorted(one.uid for one in listeners),
                    _sorted(one.unit for one in listeners),
                    seen.tool,
                    not decisions or any(decision.watched for decision in decisions),
                    any(decision.watched and decision.rule is not None for decision in decisions),
                )
            )
    names = [*_KEY, *_SETS, "tool", "watched", "listed"]
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    found = pd.DataFrame({name: pd.Series(values, dtype="object") for name, values in zip(names, columns, strict=True)})
    found["port"] = found["port"].astype("int64")
    return found.rename(columns={name: f"{name}_seen" for name in (*_SETS, "tool")})


def _sorted(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted({value for value in values if value is not None}))


def _last_known_watched(row: Mapping[str, Any], rules: HostRules, *, seen: bool) -> bool:
    programs = row["programs"] or (None,)
    if seen:
        if row["programs_seen"]:
            return False
        addresses = row["addresses_seen"]
    else:
        addresses = row["addresses"]
    return any(
        rules.judge(port=int(row["port"]), address=address, program=program).watched
        for address in addresses
        for program in programs
    )


def _take_attributes(port: dict[str, Any], row: Mapping[str, Any]) -> None:
    """What is seen now; what is not shown now (no privilege) stays as it was known."""
    for name in _SETS:
        port[name] = row[f"{name}_seen"] or port[name] or ()
    port["tool"] = row["tool_seen"]


def _is_ephemeral(port: int, observation: Observation | None) -> bool:
    low, high = observation.ephemeral if observation else EPHEMERAL_DEFAULT
    return low <= port <= high


def _event(
    kind: EventKind,
    host: Mapping[str, Any],
    port: Mapping[str, Any] | None,
    *,
    at: datetime,
    run_id: str,
    evidence: str,
    reason: str,
    since: datetime | None = None,
    last_seen: datetime | None = None,
    details: Mapping[str, Any] | None = None,
) -> Event:
    extra: dict[str, Any] = {}
    if port is not None:
        extra = {name: list(port[name]) for name in ("addresses", "programs", "pids", "units") if port[name]}
    return Event(
        id=event_id(
            kind, host["host_id"], port["protocol"] if port else None, port["port"] if port else None, evidence
        ),
        kind=kind,
        at=at,
        run_id=run_id,
        host_id=host["host_id"],
        host_name=host["name"],
        protocol=port["protocol"] if port else None,
        port=port["port"] if port else None,
        severity=SEVERITIES[kind],
        reason=reason,
        program=", ".join(port["programs"]) or None if port else None,
        unit=", ".join(port["units"]) or None if port else None,
        since=since,
        last_seen=last_seen,
        labels=dict(host["labels"] or {}),
        details=extra | dict(details or {}),
    )


def _order(event: Event) -> tuple[Any, ...]:
    return (event.at, event.host_id or "", event.port is not None, event.port or 0)


def _seconds(end: datetime, start: datetime | None) -> float | None:
    return (end - start).total_seconds() if start else None


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [_clean(row) for row in rows.to_dict("records")]


def _clean(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain Python values, None for whatever pandas takes for missing."""
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list | dict | str) or value is None:
        return value
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    return value.item() if hasattr(value, "item") else value


def _frame_of(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    return frame({name: [row[name] for row in rows] for name in columns}, columns)
