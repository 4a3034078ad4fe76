"""The engine against its naive twin, over random histories of small fleets.

The same observations go through the real pipeline (archive, pruning, evaluation, on a real database) and through
:class:`tests.worlds.reference.Reference`; after each run events and state must be the same. Invariants (no down without
evidence, nothing told twice, a crash loses nothing) are checked on their own.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, select

from portmon.config import Config
from portmon.engine.config import States
from portmon.engine.declared import declared_ports
from portmon.engine.diff import evaluate
from portmon.engine.fingerprint import fingerprint
from portmon.engine.rules import Rule, RuleSet
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host, Inventory
from portmon.model.observation import EPHEMERAL_DEFAULT, Listener, Listing, Observation, Outcome
from portmon.steps.evaluate import evaluate_run
from portmon.steps.prune import prune_inventory
from portmon.steps.run import Run
from portmon.storage import archive, contents, decisions, inventory, state
from portmon.storage.database import Database
from portmon.storage.tables import events, hosts, metadata, ports
from tests.worlds.databases import migrated, migrated_postgres
from tests.worlds.postgres import Cluster
from tests.worlds.reference import Reference, Told

START = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = timedelta(minutes=5)
TICK = timedelta(microseconds=1)

HOSTS = ("h1", "h2", "h3", "h4")
PORTS = (22, 80, 40000, 40001, 50000)
"""Depending on the range, the last three or only the last one are ephemeral."""
ADDRESSES = ("0.0.0.0", "::", "127.0.0.1", "10.0.0.5")
PROGRAMS = ("nginx", "java")
UNITS = ("a.service", None)
LATER = (TICK, INTERVAL, timedelta(hours=2), timedelta(days=31))
RANGES = (EPHEMERAL_DEFAULT, EPHEMERAL_DEFAULT, (45000, 60999))
ERRORS = ((Outcome.UNREACHABLE, "timeout"), (Outcome.UNREACHABLE, "refused"), (Outcome.INVALID, "truncated"))
RULES: tuple[tuple[Rule, ...], ...] = (
    (),
    (),
    (Rule(action="deny", port=80),),
    (Rule(action="deny", program="java"),),
    (Rule(action="deny", bind="loopback"),),
    (Rule(action="allow", port="40000-40001"), Rule(action="allow", program="nginx")),
    (Rule(action="allow", host="h1", bind="wildcard"), Rule(action="deny", host="h2", program="n*")),
)
SETTINGS = (
    States(),
    States(),
    States(flap_threshold=3, ephemeral_after=2),
    States(down_after=2, unreachable_after=1),
    States(ephemeral_after=1, unreachable_after=3, reboot_grace=timedelta(minutes=7)),
)
STEPS = tuple(timedelta(minutes=minutes) for minutes in (5, 5, 5, 5, 5, 10, 2, 1, 20, 60, 300))
ANY_HOST = st.sampled_from(("h1", "h1", "h1", "h2", "h2", "h3", "h4"))
ANY_PORT = st.sampled_from((80, 80, 40000, 40000, 22, 40001, 50000))
MOSTLY = st.sampled_from((True, True, False))
KINDS = frozenset(
    EventKind(name)
    for name in (
        "baseline", "new", "down", "recovered", "retired", "unreachable", "reachable", "rebooted", "restarted", "replaced",
        "rebound", "moved", "flapping", "stable", "duplicate", "probe_outdated", "fleet_unreachable", "fleet_reachable",
    )
)  # fmt: skip


@dataclasses.dataclass
class Service:
    """A service that really listens on a port."""

    addresses: set[str]
    program: str
    unit: str | None
    pid: int


@dataclasses.dataclass
class Condition:
    """The real condition of a host."""

    boot_id: str | None
    netns: int | None
    services: dict[int, Service]
    tool: str = "ss"
    ephemeral: tuple[int, int] = EPHEMERAL_DEFAULT
    privileged: bool = True
    versions: tuple[int, int] = (2, 2)
    """Of the probe and of the reader."""
    fails: tuple[Outcome, str] | None = None


class PowerFailureError(Exception):
    """The power fails just before a transaction is committed."""


class Machine(RuleBasedStateMachine):
    """One fleet and its history."""

    database: ClassVar[Database]
    steps: ClassVar[int] = 0
    runs: ClassVar[int] = 0
    told: ClassVar[Counter[str]]
    unchanged: ClassVar[Counter[str]]
    """Observations that were evaluated without their listing, by the status of their host before."""
    crash: ClassVar[list[Any]]
    """Not empty: the next transaction that writes more than a lease fails."""

    def __init__(self) -> None:
        super().__init__()
        with self.database.begin() as conn:
            for table in reversed(metadata.sorted_tables):
                conn.execute(delete(table))
        self.now = START
        self.number = 0
        self.pids = 1000
        self.seq = 0
        self.archive: dict[tuple[str, datetime], Observation] = {}
        self.held: list[Observation] = []
        self.reference = Reference()
        self.listed: set[str] = set()
        self.hidden: dict[str, datetime] = {}
        self.stored: set[str] = set()
        self.policy: tuple[Rule, ...] = ()
        self.declared: dict[str, tuple[int, ...]] = {}
        self.accepted: dict[tuple[str, str, int], datetime] = {}
        self.settled = False
        self.later = LATER[0]
        self.down: set[tuple[str, int]] = set()
        self.lost: set[tuple[str, int]] = set()
        self.flapping: set[tuple[str, int]] = set()

    # ── the world ───────────────────────────────────────────────────────────────────────────────

    @initialize(count=st.sampled_from((1, 2, 2, 3, 4)), states=st.sampled_from(SETTINGS), present=st.integers(0, 31))
    def begin(self, count: int, states: States, present: int) -> None:
        self.states = states
        self.listed = set(HOSTS[:count])
        self.servers = {
            host_id: Condition(
                f"{host_id}-1",
                4026531840,
                {
                    port: Service({ADDRESSES[0]}, PROGRAMS[index % 2], UNITS[0], self._pid())
                    for index, port in enumerate(PORTS)
                    if present >> index & 1
                },
            )
            for host_id in HOSTS
        }
        self._step()

    def _step(self) -> None:
        type(self).steps += 1
        self.settled = False

    def _changed(self, run: bool) -> None:
        """Something changed, and a scheduled run sees it, or not yet."""
        self._step()
        if run:
            self._scheduled(STEPS[0])

    def _pid(self) -> int:
        self.pids += 1
        return self.pids

    @rule(host=ANY_HOST, port=ANY_PORT, what=st.integers(0, 10), which=st.integers(0, 3), run=MOSTLY)
    def service(self, host: str, port: int, what: int, which: int, run: bool) -> None:
        """A service comes, goes, restarts, is replaced, binds elsewhere, or moves."""
        services = self.servers[host].services
        service = services.get(port)
        if service is None:
            services[port] = Service({ADDRESSES[which]}, PROGRAMS[which % 2], UNITS[which // 2], self._pid())
        elif what <= 2:
            del services[port]
        elif what == 3:
            service.pid = self._pid()
        elif what == 4:
            service.program, service.pid = PROGRAMS[which % 2], self._pid()
        elif what <= 7:
            service.addresses ^= {ADDRESSES[which]}
            if not service.addresses:
                del services[port]
        elif PORTS[which + 1] not in services:
            services[PORTS[which + 1]] = dataclasses.replace(services.pop(port), pid=self._pid())
        self._changed(run)

    @rule(host=ANY_HOST, what=st.integers(0, 10), which=st.integers(0, 2), dead=st.integers(0, 31), run=MOSTLY)
    def server(self, host: str, what: int, which: int, dead: int, run: bool) -> None:
        """A host reboots, fails, answers again, shows another tool or other owners, or is cloned."""
        server = self.servers[host]
        if what <= 3:
            server.boot_id = f"{host}-{self._pid()}" if what else None
            for index, port in enumerate(PORTS):
                if dead >> index & 1:
                    server.services.pop(port, None)
            for service in server.services.values():
                service.pid = self._pid()
        elif what <= 5:
            server.fails = None if server.fails else ERRORS[which]
        elif what == 6:
            server.tool = ("ss", "netstat-W", "netstat")[which]
        elif what == 7:
            server.privileged = not server.privileged
        elif what == 10:
            server.versions = ((1, 1), (1, 2), (2, 2))[which]
        elif what == 8:
            server.ephemeral = RANGES[which]
            server.netns = 4026531840 + which if which < 2 else None
        else:
            services = {port: dataclasses.replace(service) for port, service in self.servers["h1"].services.items()}
            self.servers[HOSTS[1 + which]] = dataclasses.replace(self.servers["h1"], services=services)
        self._changed(run)

    @rule(which=st.integers(0, 5), run=MOSTLY)
    def every_host(self, which: int, run: bool) -> None:
        """All hosts fail, or all answer again."""
        for server in self.servers.values():
            server.fails = ERRORS[0] if which <= 1 else ERRORS[1] if which == 2 and server.fails else None
        self._changed(run)

    @rule(host=ANY_HOST, port=ANY_PORT, what=st.integers(0, 7), which=st.integers(0, 99), run=MOSTLY)
    def people(self, host: str, port: int, what: int, which: int, run: bool) -> None:
        """A person edits rules, declarations or the CMDB, or accepts that a port is gone."""
        if what <= 1:
            self.policy = RULES[which % len(RULES)]
        elif what <= 3:
            self.declared[host] = tuple(sorted({*self.declared.get(host, ())} ^ {port}))
        elif what <= 5:
            # An empty list is never accepted.
            self.listed = self.listed ^ {host} or {host}
        else:
            at = self.now + (which % 3 - 1) * timedelta(minutes=3)
            key = (host, "tcp", port)
            if host in self.stored and at >= self.accepted.get(key, START):
                self.accepted[key] = at
                with self.database.begin() as conn:
                    decisions.decide(
                        conn, decisions.DecisionKind.ACCEPTED, host, port, at=at, author="a person", reason=""
                    )
        self._changed(run)

    @rule(host=ANY_HOST, port=ANY_PORT, times=st.integers(3, 6), which=st.integers(0, 3))
    def flap(self, host: str, port: int, times: int, which: int) -> None:
        """In each run a service dies or comes back, or one of its binds does, or its program changes."""
        services = self.servers[host].services
        self.servers[host].fails = None
        usual = services.get(port) or Service({ADDRESSES[0], ADDRESSES[2]}, PROGRAMS[0], UNITS[0], self._pid())
        for time in range(times):
            service = services[port] = dataclasses.replace(usual, addresses=set(usual.addresses), pid=self._pid())
            if which == 2:
                service.program = PROGRAMS[time % 2]
            elif time % 2 and which == 3:
                service.addresses = {ADDRESSES[2]}
            elif time % 2:
                del services[port]
            self._changed(True)

    @rule(minutes=st.sampled_from((58, 60, 61, 31 * 24 * 60)), which=st.integers(1, 3))
    def nothing(self, minutes: int, which: int) -> None:
        """Some runs after a long pause."""
        self.now += timedelta(minutes=minutes)
        for _ in range(which):
            self._changed(True)

    # ── runs ────────────────────────────────────────────────────────────────────────────────────

    @rule(
        step=st.sampled_from(STEPS),
        skipped=st.sampled_from((0, 0, 0, 0, 0, 1, 2, 6)),
        late=st.sampled_from((0, 0, 0, 0, 0, 1, 3)),
        end=st.sampled_from(("", "", "", "", "", "retry", "crash", "crash of pruning", "killed")),
    )
    def run(self, step: timedelta, skipped: int, late: int, end: str) -> None:
        """A run, and perhaps its end.

        :param skipped: bits of hosts that the run does not visit
        :param late: bits of hosts whose observation is stored later
        :param end: ``killed`` before it evaluates
        """
        self._step()
        self._scheduled(step, skipped, late, end)

    def _scheduled(self, step: timedelta, skipped: int = 0, late: int = 0, end: str = "") -> None:
        self.now += step
        self.number += 1
        digest = self._fetch()
        if end == "crash of pruning":
            self._crashes(lambda: self._prune_only(digest))
        self._prune(digest)
        looks = [
            self._look(host_id)
            for index, host_id in enumerate(HOSTS)
            if host_id in self.listed and not skipped >> index & 1
        ]
        held = [look for look in looks if late >> HOSTS.index(look.host_id) & 1]
        self.held += held
        self._store([look for look in looks if look not in held])
        if end == "killed":
            return
        if end == "crash":
            self._crashes(lambda: self._evaluate_only(digest))
        self._evaluate(digest)
        if end == "retry":
            # Pruning runs as well, as when the whole run is cleared.
            self._prune(digest)
            self._nothing_more(digest)
        # No change waits for another observation only.
        self.settled = not skipped and not held and all(look.outcome is Outcome.OK for look in looks)

    @rule(host=st.sampled_from(HOSTS), order=st.booleans())
    def afterwards(self, host: str, order: bool) -> None:
        """Tasks of the last run are cleared, or their observations arrive late; then the run evaluates again."""
        self._step()
        if not self.number:
            return
        digest = self._fetch()
        self._prune(digest)
        if self.held:
            self._store(self.held[:: -1 if order else 1])
            self.held = []
        elif host in self.listed:
            self.now += timedelta(seconds=30)
            self._store([self._look(host)])
        self._evaluate(digest)

    @precondition(lambda self: self.settled)
    @rule()
    def quiet(self) -> None:
        """The same observations at once again make no event."""
        type(self).steps += 1
        self.now += TICK
        self.number += 1
        digest = self._fetch()
        self._prune(digest)
        self._store([self._look(host_id) for host_id in HOSTS if host_id in self.listed])
        before = self.seq
        self._evaluate(digest)
        assert self.seq == before

    def _look(self, host_id: str) -> Observation:
        server, run_id = self.servers[host_id], f"run{self.number}"
        # At different times, which do not follow the order of their names.
        at = self.now + HOSTS[::-1].index(host_id) * timedelta(seconds=1)
        if server.fails is not None:
            outcome, error_class = server.fails
            return Observation(host_id, run_id, 1, at, outcome, error_class=error_class, error="no")
        listeners = tuple(
            Listener(
                "tcp6" if ":" in address else "tcp",
                address,
                port,
                service.pid if server.privileged else None,
                # netstat prints another name than the kernel's.
                f"{service.program}{'d' if server.tool != 'ss' else ''}" if server.privileged else None,
                unit=service.unit if server.privileged else None,
                comm=service.program if server.privileged and server.versions == (2, 2) else None,
            )
            for port, service in sorted(server.services.items())
            for address in sorted(service.addresses)
        )
        probe, reader = server.versions
        seen = Listing(
            server.tool,
            0,
            boot_id=server.boot_id,
            netns=server.netns,
            ephemeral=server.ephemeral,
            listeners=listeners,
            probe=probe,
            reader=reader,
        )
        return Observation(host_id, run_id, 1, at, Outcome.OK, listing=seen)

    def _hosts(self) -> dict[str, Host]:
        return {host_id: Host(host_id, host_id, host_id, declared=self.declared.get(host_id, ())) for host_id in HOSTS}

    def _fetch(self) -> str:
        found = Inventory(tuple(host for host in self._hosts().values() if host.id in self.listed))
        with self.database.begin() as conn:
            return inventory.save(conn, found, run_id=f"run{self.number}", fetched_at=self.now, stale=False)

    def _store(self, looks: list[Observation]) -> None:
        with self.database.begin() as conn:
            for look in looks:
                archive.save_observation(conn, look)
                self.archive.setdefault((look.host_id, look.observed_at), look)

    @property
    def _config(self) -> Config:
        return Config(rules=self.policy, states=self.states)

    @property
    def _run(self) -> Run:
        return Run(f"run{self.number}")

    def _prune_only(self, digest: str) -> None:
        prune_inventory(self.database, self._config, self._run, digest, stale=False, now=self.now)

    def _evaluate_only(self, digest: str) -> None:
        evaluate_run(self.database, self._config, self._run, digest, planned={}, interval=INTERVAL, now=self.now)

    def _prune(self, digest: str) -> None:
        self._prune_only(digest)
        leaving = self.stored - self.listed - self.hidden.keys()
        self.hidden |= dict.fromkeys(leaving, self.now)
        # A host that comes back too late starts anew, even if it was not deleted in time.
        purged = {host for host, at in self.hidden.items() if self.now - at >= self._config.cmdb.prune_after}
        self.hidden = {host: at for host, at in self.hidden.items() if host not in purged | self.listed}
        self.stored = self.stored - purged | self.listed
        self.archive = {key: look for key, look in self.archive.items() if key[0] not in purged}
        expected = self.reference.leave(leaving, self.now)
        self.reference.purge(purged)
        self._compare(expected, in_order=False)

    def _evaluate(self, digest: str) -> None:
        type(self).runs += 1
        before = self._settled()
        self._evaluate_only(digest)
        self._count_unchanged(before)
        expected = self.reference.run(
            self.archive.values(),
            inventory={host_id: host for host_id, host in self._hosts().items() if host_id in self.listed},
            rules=RuleSet(self.policy),
            settings=self.states,
            interval=INTERVAL,
            accepted=self.accepted,
            run_id=f"run{self.number}",
        )
        oldest = self.now - self._config.retention.observations
        self.archive = {key: look for key, look in self.archive.items() if look.observed_at >= oldest}
        self._compare(expected)
        # Each check costs as much as the evaluation itself.
        if self.number % 2:
            self._settled_stay()
        else:
            self._nothing_more(digest)

    def _settled(self) -> dict[str, Any]:
        with self.database.begin() as conn:
            rows = conn.execute(select(hosts).where(hosts.c.fingerprint.is_not(None))).all()
        return {row.host_id: row for row in rows}

    def _count_unchanged(self, before: dict[str, Any]) -> None:
        for host_id, row in self._settled().items():
            old = before.get(host_id)
            if old is not None and (old.fingerprint, row.last_ok_at > old.last_ok_at) == (row.fingerprint, True):
                kind = "failed" if old.status == "ok" and old.failures else old.status
                type(self).unchanged[kind] += 1

    def _settled_stay(self) -> None:
        """The same observation again, at any time and confirmed or not, changes no port of a settled host."""
        rules = RuleSet(self.policy)
        declared = declared_ports(self._hosts(), (), {}, where=str)
        self.later = LATER[(LATER.index(self.later) + 1) % len(LATER)]
        at = self.now + timedelta(minutes=1) + self.later
        looks = []
        for host_id, row in self._settled().items():
            seen = self.archive.get((host_id, row.last_ok_at))
            if seen is None:
                continue
            facts = contents.digest_of(archive.facts_to_json(seen.listing))
            # Unless rules or declarations changed since.
            own = rules.for_host(self._hosts()[host_id]).digest
            if row.fingerprint == fingerprint(facts, own, declared.get(host_id, {})):
                looks.append(dataclasses.replace(seen, run_id="later", observed_at=at, confirmed=self.later > INTERVAL))
        if not looks:
            return
        with self.database.begin() as conn:
            known, rows = state.load(conn)
        verdict = evaluate(
            known, rows, looks, inventory=self._hosts(), rules=rules, settings=self.states,
            interval=INTERVAL, run_id="later", accepted=self.accepted, declared=declared,
        )  # fmt: skip
        assert verdict.summary["evaluated"] == len(looks)
        assert (verdict.ports, verdict.dropped) == ((), ())
        assert {event.kind.value for event in verdict.events} <= {"reachable", "duplicate"}

    def _crashes(self, action: Any) -> None:
        """Only the transaction is lost."""
        before = self._dump()
        self.crash.append(self)
        try:
            with pytest.raises(PowerFailureError):
                action()
        finally:
            self.crash.clear()
        assert self._dump() == before

    def _nothing_more(self, digest: str) -> None:
        """The same evaluation once more changes nothing."""
        before = self._dump()
        self._evaluate_only(digest)
        assert self._dump() == before

    # ── what must hold ──────────────────────────────────────────────────────────────────────────

    def _compare(self, expected: list[Told], *, in_order: bool = True) -> None:
        found = self._new_events()
        if not in_order:
            found, expected = sorted(found, key=repr), sorted(expected, key=repr)
        for event in found:
            self._is_sound(event)
        assert found == expected, f"engine {_only(found, expected)}, reference {_only(expected, found)}"
        stored, wanted = self._snapshot(), self.reference.snapshot()
        differ = {key: (stored.get(key), wanted.get(key)) for key in stored.keys() | wanted.keys()}
        differ = {key: pair for key, pair in differ.items() if pair[0] != pair[1]}
        assert not differ, f"(engine, reference): {differ}"

    def _new_events(self) -> list[Told]:
        with self.database.begin() as conn:
            rows = conn.execute(select(events).where(events.c.seq > self.seq).order_by(events.c.seq)).all()
        found = []
        for row in rows:
            self.seq = row.seq
            extra = "severe" if row.details.get("severe") else row.details.get("state", "")
            found.append((row.at, row.kind, row.host_id, row.port, extra))
            type(self).told[f"{row.kind} {extra}".strip()] += 1
            assert row.reason
        return found

    def _is_sound(self, event: Told) -> None:
        """The invariants."""
        at, kind, host_id, port, extra = event
        if port is None or host_id is None:
            return
        key = (host_id, port)
        look = self.archive.get((host_id, at))
        if kind != "retired":
            assert look is not None, "no evidence"
            assert look.outcome is Outcome.OK, "no evidence"
        if kind == "down" and not self.policy:
            assert port not in {listener.port for listener in look.listing.listeners}
        if kind == "recovered":
            assert key in self.down | self.lost
            # A port that was down and lacks a bind: first the port is back, then the bind.
            (self.down if key in self.down else self.lost).discard(key)
        if kind == "stable":
            assert key in self.flapping
            self.flapping.discard(key)
            (self.down.add if extra == "down" else self.down.discard)(key)
        elif kind != "retired":
            assert key not in self.flapping, "a flapping port is silent"
        if kind == "down":
            self.down.add(key)
        elif kind == "rebound" and extra:
            self.lost.add(key)
        elif kind == "flapping":
            self.flapping.add(key)
        elif kind == "retired":
            assert key in self.down | self.lost | self.flapping
            for kept in (self.down, self.lost, self.flapping):
                kept.discard(key)

    def _stored_rows(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        with self.database.begin() as conn:
            for row in conn.execute(select(hosts).where(hosts.c.last_evaluated_at.is_not(None))):
                found[(row.host_id,)] = (row.status, row.status_since, row.failures, row.last_ok_at, row.duplicate_of)
            for row in conn.execute(select(ports)):
                found[(row.host_id, row.port)] = (
                    row.status,
                    row.status_since,
                    row.flapping_since is not None,
                    tuple(row.lost),
                    tuple(row.addresses),
                    tuple(row.programs),
                    tuple(row.pids),
                )
        return found

    def _snapshot(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        """The stored state, to which the alerts correspond."""
        found = self._stored_rows()
        for key, row in found.items():
            if len(key) == 2:
                assert row[0] in ("candidate", "up", "down")
                assert not (row[0] == "candidate" and row[2])
        # Alerts that ended without an event (a rule excludes the port, the host is gone) are over.
        up = {key for key, row in found.items() if len(key) == 2}
        for kept in (self.down, self.lost, self.flapping):
            kept &= up
        self.down -= {key for key in self.down if found[key][0] != "down" and not found[key][3]}
        self.lost &= {key for key in up if found[key][3] or found[key][0] == "down"}
        self.flapping &= {key for key in up if found[key][2]}
        return found

    def _dump(self) -> list[Any]:
        with self.database.begin() as conn:
            return [sorted(map(repr, conn.execute(select(table)))) for table in (hosts, ports, events)]


# ── how much of it ──────────────────────────────────────────────────────────────────────────────


def _only(some: list[Told], others: list[Told]) -> list[Told]:
    return [event for event in some if event not in others]


def machine_on(database: Database) -> type[Machine]:
    """A subclass with counts of its own."""
    made = type(
        "Machine",
        (Machine,),
        {"database": database, "steps": 0, "runs": 0, "told": Counter(), "unchanged": Counter(), "crash": []},
    )

    def before_execute(conn: Any, _: Any, statement: str, *__: Any) -> None:
        if made.crash and statement.startswith(("INSERT", "UPDATE", "DELETE")) and " leases" not in statement:
            conn.info["writes"] = True

    def before_commit(conn: Any) -> None:
        if conn.info.pop("writes", False) and made.crash:
            raise PowerFailureError

    sqlalchemy.event.listen(database.engine, "before_cursor_execute", before_execute)
    sqlalchemy.event.listen(database.engine, "commit", before_commit)
    return made


def run_steps(machine: type[Machine], steps: int, *, length: int = 40, first_seed: int | None = None) -> None:
    """Histories until there are enough steps: changes, runs, and their ends.

    :param length: rules in each of them; some are several steps
    :param first_seed: always the same histories; None: others each time
    """
    some = settings(
        stateful_step_count=length,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        print_blob=False,
    )
    number = first_seed
    while machine.steps < steps:
        if number is not None:
            seed(number)(machine)
            number += 1
        # The first history is always the simplest one.
        number_of = min(40, 2 + (steps - machine.steps) // length)
        run_state_machine_as_test(machine, settings=settings(some, max_examples=number_of))
    assert machine.runs >= steps // 4
    print(f"{machine.steps} steps, {machine.runs} evaluations: {dict(sorted(machine.told.items()))}")
    print(f"unchanged: {dict(sorted(machine.unchanged.items()))}")


@pytest.fixture
def sqlite_database() -> Iterator[Database]:
    """In memory if there is such a folder, since the database is not needed after the test."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        database = migrated(Path(folder) / "portmon.db")
        yield database
        database.dispose()


def test_the_engine_agrees_with_its_naive_twin(sqlite_database: Database) -> None:
    steps = {"soak": 1_000_000, "full": 2_000}.get(os.environ.get("HYPOTHESIS_PROFILE", ""))
    if steps:
        run_steps(machine_on(sqlite_database), steps)
    else:
        run_steps(machine_on(sqlite_database), 40, length=12)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.long
@pytest.mark.parametrize(
    ("first_seed", "rare"), [(1, set()), (500_001, {EventKind.MOVED, EventKind.REPLACED})], ids=["first", "second"]
)
def test_ten_thousand_steps_reach_every_kind_of_event(
    sqlite_database: Database, first_seed: int, rare: set[EventKind]
) -> None:
    """Two halves, since there may be two processors.

    :param rare: what this half need not reach
    """
    machine = machine_on(sqlite_database)
    run_steps(machine, 5_000, first_seed=first_seed)
    assert machine.steps >= 5_000
    assert {EventKind(name.split()[0]) for name in machine.told} | rare == KINDS
    # By the status of their host before: most observations show nothing new, also of hosts that come back.
    assert all(machine.unchanged[kind] for kind in ("failed", "unreachable"))
    assert machine.unchanged["ok"] >= 500
    assert {"rebound severe", "flapping up", "flapping down", "stable up", "stable down"} <= set(machine.told)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("steps", [200, pytest.param(1_000, marks=pytest.mark.full)])
def test_postgresql_agrees_as_well(postgres_cluster: Cluster, steps: int) -> None:
    database = migrated_postgres(postgres_cluster)
    run_steps(machine_on(database), steps, first_seed=1_000_000)
    database.dispose()
