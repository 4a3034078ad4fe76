"""What judges random histories beside the naive implementation: the engine in memory, and the pipeline on a database.

Both take a :class:`tests.worlds.histories.Step` and give it back with what they told of it and the state after it. The
pipeline says which step it really judged: it decides itself whom it deletes, and knows decisions about known hosts only.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, select

from portmon.config import Config
from portmon.engine import clocks, owners
from portmon.engine.conditions import Condition, Open
from portmon.engine.config import States
from portmon.engine.declared import declared_ports, declared_terms
from portmon.engine.evaluate import evaluate
from portmon.engine.frames import ports_frame, ports_of
from portmon.engine.inputs import EvaluationInputs
from portmon.engine.leaving import leave
from portmon.engine.state import HostState, Port
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.model.observation import Observation
from portmon.steps.evaluate import evaluate_run
from portmon.steps.prune import prune_inventory
from portmon.steps.run import Run
from portmon.storage import archive, conditions, contents, decisions, events, inventory, journal, state
from portmon.storage.database import Database
from portmon.storage.tables import hosts
from tests.worlds.histories import INTERVAL, PRUNE_AFTER, Step, history, play
from tests.worlds.invariants import Judged, violations
from tests.worlds.reference import Reference, Told

TICK = timedelta(microseconds=1)

Snapshot = dict[tuple[Any, ...], tuple[Any, ...]]
Judge = Callable[[Step], Judged]


def agree(judge: Judge, steps: Iterable[Step], where: str) -> list[Judged]:
    """Let a judge and the naive implementation judge a history.

    :param where: what to say where they differ, such as the seed
    :returns: what the judge told
    :raises AssertionError: they differ, with the first run in which they do; or an invariant does not hold
    """
    reference = Reference()
    found = []
    for step in steps:
        one = judge(step)
        told = play(reference, one.step)
        sides = ((Counter(one.told), Counter(told)), (_exact(one.state), _exact(reference.snapshot())))
        if any(ours != theirs for ours, theirs in sides):
            raise AssertionError(_difference(where, step, *sides))
        found.append(one)
    wrong = violations(found)
    assert not wrong, f"{where}: {wrong[:3]}"
    return found


def seeded(seed: int, runs: int, *, udp: bool = False) -> list[Step]:
    """The random history of a seed, see :func:`tests.worlds.histories.history`."""
    return history(random.Random(seed).randrange, runs, udp=udp)


def blinded(steps: Sequence[Step], numbers: Container[int]) -> list[Step]:
    """The history with some runs in which no host shows whose its sockets are."""

    def blind(look: Observation) -> Observation:
        if look.listing is None:
            return look
        nothing: dict[str, Any] = {"pid": None, "program": None, "comm": None, "unit": None, "owners": ()}
        hidden = [
            None if rows is None else tuple(dataclasses.replace(row, **nothing) for row in rows)
            for rows in (look.listing.listeners, look.listing.udp)
        ]
        listing = dataclasses.replace(look.listing, listeners=hidden[0] or (), udp=hidden[1])
        return dataclasses.replace(look, listing=listing)

    return [
        dataclasses.replace(step, looks=tuple(map(blind, step.looks))) if step.number in numbers else step
        for step in steps
    ]


def delayed(seed: int, steps: Sequence[Step]) -> list[Step]:
    """The history with some looks that are stored only when their run is over: the next one judges them.

    None is late of an entry that the next run can't try, or after a clock went back: of these the contract says nothing.
    """
    chance = random.Random(seed)
    made: list[Step] = []
    held: tuple[Observation, ...] = ()
    straight = True
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        straight = straight and after is not None and step.now < after.now
        late: set[str] = set()
        if straight and after is not None and chance.random() < 0.3:
            late = {host_id for host_id in sorted(after.inventory) if chance.random() < 0.5}
        in_time = (look for look in step.looks if look.host_id not in late)
        made.append(dataclasses.replace(step, looks=(*held, *in_time)))
        held = tuple(look for look in step.looks if look.host_id in late)
    return made


def _exact(state: Mapping[tuple[Any, ...], tuple[Any, ...]]) -> Snapshot:
    """With the evidence clock to the millisecond: one of the two adds seconds, the other durations."""
    return {key: (*row[:5], round(row[5], 3)) if len(key) == 1 else row for key, row in state.items()}


def _difference(
    where: str, step: Step, told: tuple[Counter[Told], Counter[Told]], state: tuple[Snapshot, Snapshot]
) -> str:
    ours, theirs = told
    lines = [f"{where}, {step.run_id} at {step.now}: {', '.join(step.happened) or 'nothing happened'}"]
    lines += [f"only told here: {event}" for event in (ours - theirs).elements()]
    lines += [f"only told by the naive implementation: {event}" for event in (theirs - ours).elements()]
    for key in sorted(state[0].keys() | state[1].keys(), key=str):
        rows = tuple(side.get(key) for side in state)
        if rows[0] != rows[1]:
            lines.append(f"state of {key}: here {rows[0]}, there {rows[1]}")
    return "\n".join(lines)


# ── what both have ──────────────────────────────────────────────────────────────────────────────


def told_of(event: Event) -> Told | None:
    """An event as the naive implementation tells it. It tells what follows from a takeover, not that there was one."""
    if event.kind is EventKind.TAKEN_OVER:
        return None
    extra = ""
    if event.kind is EventKind.REBOUND and event.details.get("severe"):
        extra = "severe"
    elif event.kind in (EventKind.FLAPPING, EventKind.CRASH_LOOPING, EventKind.STABLE):
        extra = str(event.details["state"])
    elif event.kind is EventKind.RECOVERED and event.details.get("part") == "owner":
        extra = "owner"
    elif event.kind is EventKind.REPLACED and event.details.get("taken"):
        extra = "taken"
    elif event.kind in (EventKind.DOWN, EventKind.RETIRED) and event.details.get("young"):
        extra = "young"
    elif event.kind is EventKind.UNREACHABLE and event.details.get("never"):
        extra = "warning"
    return (event.at, event.kind.value, event.host_id, event.number, extra)


def snapshot_of(known: Iterable[HostState], ports: Iterable[Port], opened: Mapping[str, Open]) -> Snapshot:
    """The state, as :meth:`tests.worlds.reference.Reference.snapshot` has it."""
    found: Snapshot = {}
    for host in known:
        if host.last_evaluated_at is not None:
            found[(host.host_id,)] = (
                host.status,
                host.failures,
                host.last_ok_at,
                Condition.FOREIGN.key(host.host_id) in opened,
                host.shared,
                host.evidence,
            )
    for port in ports:
        found[(port.host_id, port.number)] = (
            port.status,
            port.presence.flapping_since is not None,
            tuple(sorted(port.lost)),
            tuple(sorted(port.addresses)),
            tuple(sorted(port.programs)),
            tuple(sorted(port.pids)),
            port.hidden_since is not None,
            bool(owners.present(port.holders)),
        )
    return found


# ── the engine ──────────────────────────────────────────────────────────────────────────────────


class Engine:
    """The engine with the whole state in memory, and nothing else of portmon."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostState] = {}
        self.ports: dict[Any, Port] = {}
        self.conditions: Mapping[str, Open] = {}
        self.listed: dict[str, Host] = {}

    def __call__(self, step: Step) -> Judged:
        """Judge a run."""
        told = list(self._leave(step)) if step.left else []
        for host_id in step.purged:
            self.hosts.pop(host_id, None)
        self.ports = {key: port for key, port in self.ports.items() if port.host_id not in step.purged}
        self.listed |= step.inventory
        present = {**step.inventory, **{one: self.listed[one] for one in step.invalid if one in self.hosts}}
        inputs = EvaluationInputs(
            inventory=present,
            rules=step.rules,
            settings=States(**step.settings),
            interval=INTERVAL,
            run_id=step.run_id,
            now=step.now,
            step=step.number,
            declared=declared_ports(present, (), {}, where=str),
            given=declared_terms(present, ()),
            accepted=step.accepted,
            forgotten=step.forgotten,
            invalid=step.invalid,
            forget_after=PRUNE_AFTER,
        )
        verdict = evaluate(self.hosts, ports_frame(list(self.ports.values())), step.looks, inputs, self.conditions)
        if verdict.mended is not None:
            booted = {host_id: host.booted_at for host_id, host in self.hosts.items()}
            self.ports = {
                (port.host_id, port.protocol, port.port): port
                for port in clocks.mended_ports(self.ports.values(), verdict.mended, booted)
            }
        for key in verdict.dropped:
            self.ports.pop(key, None)
        self._keep(verdict.ports)
        assert not self.ports.keys() & set(verdict.dropped), "stored and deleted"
        self.hosts |= {host.host_id: host for host in (*verdict.hosts, *verdict.ticked)}
        for gone in verdict.taken_over.values():
            self.hosts.pop(gone, None)
        self.conditions = verdict.conditions
        told += verdict.events
        state = snapshot_of(self.hosts.values(), self.ports.values(), self.conditions)
        return Judged(step, [one for event in told if (one := told_of(event))], state)

    def _leave(self, step: Step) -> Sequence[Event]:
        ports = [port for port in self.ports.values() if port.host_id in step.left]
        left = leave(self.hosts, ports, step.left, self.conditions, reason="left", run_id=step.run_id, now=step.now)
        self._keep(left.ports)
        self.hosts |= {host.host_id: host for host in left.hosts}
        self.conditions = left.conditions
        return left.events

    def _keep(self, ports: Iterable[Port]) -> None:
        self.ports |= {(port.host_id, port.protocol, port.port): port for port in ports}


# ── the pipeline ────────────────────────────────────────────────────────────────────────────────


class Pipeline:
    """Every step of a run on a database: the host list, pruning, archive, decisions, evaluation.

    :param database: migrated and empty
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def __call__(self, step: Step) -> Judged:
        """Judge a run."""
        # No two looks of a host are of the same microsecond, even after a clock went back.
        unique = [dataclasses.replace(one, observed_at=one.observed_at + step.number * TICK) for one in step.looks]
        step = dataclasses.replace(step, looks=tuple(unique))
        digest = self.fetch(step)
        self.prune(step, digest)
        with self.database.begin() as conn:
            done = [
                journal.pruned_from_json(contents.get(conn, one.what))
                for one in journal.entries(conn)
                if (one.run_id, one.kind) == (step.run_id, journal.PRUNE)
            ]
            decided = self._decide(conn, step)
        left = tuple(itertools.chain.from_iterable(one.hide for one in done))
        purged = tuple(itertools.chain.from_iterable(one.purge for one in done))
        step = dataclasses.replace(
            step, left=left, purged=purged, accepted=decided.accepted, forgotten=decided.forgotten
        )
        with self.database.begin() as conn:
            archive.save_observations(conn, step.looks)
        self.evaluate(step, digest)
        with self.database.begin() as conn:
            told = [one for event in events.recent(conn, run_id=step.run_id) if (one := told_of(event))]
            known, ports = state.load(conn)
            return Judged(step, told, snapshot_of(known.values(), ports_of(ports), conditions.load(conn)))

    # ── steps ───────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def config(step: Step) -> Config:
        """What portmon.yaml says in a run."""
        return Config(
            rules=step.policy,
            states=States(**step.settings),
            cmdb={"prune_after": PRUNE_AFTER},
            scan={"protocols": ["tcp", "udp"] if step.udp else ["tcp"]},
        )

    def fetch(self, step: Step) -> str:
        """Store the host list; returns its digest."""
        invalid = [InvalidHost(at, one, one, why) for at, (one, why) in enumerate(step.invalid.items(), start=1)]
        listed = Inventory(tuple(step.inventory.values()), tuple(invalid))
        with self.database.begin() as conn:
            return inventory.save(conn, listed, run_id=step.run_id, fetched_at=step.now, stale=False)

    def prune(self, step: Step, digest: str) -> None:
        """Prune, however many hosts are missing."""
        run = Run(step.run_id, force_prune=True)
        prune_inventory(self.database, self.config(step), run, digest, stale=False, now=step.now, interval=INTERVAL)

    @staticmethod
    def _decide(conn: Connection, step: Step) -> decisions.Decided:
        # About known hosts only, as the API.
        known = set(conn.execute(select(hosts.c.host_id)).scalars())
        before, kinds = decisions.in_force(conn, step.now), decisions.DecisionKind
        for kind, was, wanted in (
            (kinds.ACCEPTED, before.accepted, step.accepted),
            (kinds.FORGOTTEN, before.forgotten, step.forgotten),
        ):
            for (host_id, protocol, port), at in wanted.items():
                if was.get((host_id, protocol, port)) != at and host_id in known:
                    named: dict[str, Any] = {"at": at, "author": "ann", "protocol": protocol}
                    decisions.decide(conn, kind, host_id, port, **named)
        return decisions.in_force(conn, step.now)

    def evaluate(self, step: Step, digest: str) -> None:
        """Evaluate what is in the archive."""
        evaluate_run(
            self.database, self.config(step), Run(step.run_id), digest, planned={}, interval=INTERVAL, now=step.now
        )
