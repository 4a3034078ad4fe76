"""The steps that changed the state of the fleet, so that a replay can do them again.

A *prune* takes the host list over, an *evaluation* evaluates observations. Both are noted in the transaction that does
them, under the lease, so their order is that in which they happened. The archive has the observations, host lists and
settings; the journal has the rest: which hosts a prune hid, which observations were evaluated together, what people
had decided.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select

from portmon.model import pause
from portmon.model.host import AcceptedList, Host
from portmon.model.observation import Observation, PortKey
from portmon.storage import contents
from portmon.storage.inventory import host_from_json, host_to_json
from portmon.storage.sql import inserted_id
from portmon.storage.tables import journal

PRUNE = "prune"
EVALUATE = "evaluate"

Named = tuple[str, datetime]
"""An observation: host id, and its time."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of an evaluation besides observations, rules and settings.

    :param interval: time between scheduled runs
    :param besides: hosts that were evaluated although the host list lacks them: not pruned yet
    :param planned: host id: which mapped task asked it, by id and map index
    :param accepted: ports that were accepted as gone, and when
    :param promoted: learned ports that must listen, by host id and port, and who says so
    :param ignored: ports that are not watched, by host id and port, and until when, by whom and why
    :param forgotten: ports whose boots up to a time do not count any more
    :param invalid: host id to reason, of entries of the CMDB that can't be used
    """

    interval: timedelta
    besides: Sequence[Host] = ()
    planned: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    accepted: Mapping[PortKey, datetime] = field(default_factory=dict)
    promoted: Mapping[tuple[str, int], str] = field(default_factory=dict)
    ignored: Mapping[tuple[str, int], str] = field(default_factory=dict)
    forgotten: Mapping[PortKey, datetime] = field(default_factory=dict)
    invalid: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Canonical: equal inputs give equal bytes, which are stored once."""
        asked: dict[tuple[str, int], list[str]] = defaultdict(list)
        for host_id in sorted(self.planned):
            asked[self.planned[host_id]].append(host_id)
        return contents.canonical(
            {
                "interval": self.interval.total_seconds(),
                "besides": [host_to_json(host) for host in sorted(self.besides, key=lambda host: host.id)],
                "planned": [[task, index, ids] for (task, index), ids in sorted(asked.items())],
                "accepted": _dated(self.accepted),
                "promoted": [[*key, who] for key, who in sorted(self.promoted.items())],
                "ignored": [[*key, how] for key, how in sorted(self.ignored.items())],
                "forgotten": _dated(self.forgotten),
                "invalid": dict(self.invalid),
            }
        )


def _dated(keys: Mapping[PortKey, datetime]) -> list[list[Any]]:
    return [[*key, at.isoformat()] for key, at in sorted(keys.items())]


def _keys(dated: Iterable[Sequence[Any]]) -> dict[PortKey, datetime]:
    return {(host_id, protocol, port): datetime.fromisoformat(at) for host_id, protocol, port, at in dated}


def inputs_from_json(data: bytes) -> Inputs:
    """The inverse of :meth:`Inputs.to_json`."""
    value = json.loads(data)
    return Inputs(
        interval=timedelta(seconds=value["interval"]),
        besides=tuple(map(host_from_json, value["besides"])),
        planned={host_id: (task, index) for task, index, ids in value["planned"] for host_id in ids},
        accepted=_keys(value["accepted"]),
        promoted={(host_id, port): who for host_id, port, who in value["promoted"]},
        # Steps of earlier versions have none.
        ignored={(host_id, port): how for host_id, port, how in value.get("ignored", ())},
        forgotten=_keys(value.get("forgotten", ())),
        invalid=value.get("invalid", {}),
    )


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did, in this order.

    :param hide: ids of hosts that left
    :param purge: ids of hosts that were deleted
    :param sync: names, addresses and labels were taken from the host list
    :param resume: ids of hosts that came back
    :param base: number of hosts of the largest list in force until then, this one included; None if it was refused
    :param forced: this list is the base from then on, however large those before were
    """

    hide: Sequence[str] = ()
    purge: Sequence[str] = ()
    sync: bool = True
    resume: Sequence[str] = ()
    base: int | None = None
    forced: bool = False

    def to_json(self) -> bytes:
        """Canonical, as :meth:`Inputs.to_json`."""
        return contents.canonical(dataclasses.asdict(self))


def pruned_from_json(data: bytes) -> Pruned:
    """The inverse of :meth:`Pruned.to_json`."""
    value: dict[str, Any] = json.loads(data)
    lists: dict[str, Any] = {name: tuple(value[name]) for name in ("hide", "purge", "resume")}
    return Pruned(**value | lists)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One step.

    :param seq: grows with every step
    :param kind: :data:`PRUNE` or :data:`EVALUATE`
    :param at: the step's ``now``
    :param inventory: digest of the host list
    :param what: digest of :class:`Pruned` or :class:`Inputs`
    :param late: observations that were evaluated although they are of another run, or came too late for the evaluation
        that they belong to
    """

    seq: int
    run_id: str
    kind: str
    at: datetime
    inventory: str
    what: str
    late: tuple[Named, ...] = ()


def pruned(conn: Connection, run_id: str, *, at: datetime, inventory: str, done: Pruned) -> int | None:
    """Note what a prune is about to do, unless it repeats the prune before it and so changes nothing.

    :returns: the number of the step, None if it is not noted
    """
    data = done.to_json()
    query = select(journal.c.inventory, journal.c.what).where(journal.c.kind == PRUNE)
    last = conn.execute(query.order_by(journal.c.seq.desc()).limit(1)).first()
    same = last is not None and (last.inventory, last.what) == (inventory, contents.digest_of(data))
    # A host is hidden, deleted or back only once: such a step is never a repetition.
    if same and not (done.hide or done.purge or done.resume):
        return None
    return _add(conn, run_id, PRUNE, at, inventory, data)


def accepted(conn: Connection, since: datetime | None = None) -> list[AcceptedList]:
    """Host lists that were taken over (after ``since``), oldest first."""
    query = select(journal.c.at, journal.c.what).where(journal.c.kind == PRUNE).order_by(journal.c.seq)
    steps = conn.execute(query if since is None else query.where(journal.c.at > since)).all()
    # A damaged step is left out: the others of the day still say how many hosts there were.
    readable, _ = contents.read_many(conn, {one.what for one in steps})
    done = {digest: pruned_from_json(data) for digest, data in readable.items()}
    return [
        AcceptedList(step.at, base, done[step.what].forced)
        for step in steps
        if step.what in done and (base := done[step.what].base) is not None
    ]


def evaluated(
    conn: Connection, run_id: str, *, at: datetime, inventory: str, inputs: Inputs, observed: Iterable[Observation]
) -> int:
    """Note that observations are about to be evaluated, and return the number of the step."""
    since = conn.execute(evaluated_at(run_id)).scalar()
    late = [(one.host_id, one.observed_at) for one in observed if not _is_own(one, run_id, since, at)]
    return _add(conn, run_id, EVALUATE, at, inventory, inputs.to_json(), late)


def evaluated_at(run_id: str) -> Select[Any]:
    """The query for when a run was evaluated last."""
    return select(func.max(journal.c.at)).where(journal.c.run_id == run_id, journal.c.kind == EVALUATE)


def entries(conn: Connection) -> Iterator[JournalEntry]:
    """Steps in their order."""
    # Some thousand short rows, as many as there are runs.
    for row in conn.execute(select(journal).order_by(journal.c.seq)).all():
        late = tuple((host_id, datetime.fromisoformat(at)) for host_id, at in row.late)
        yield JournalEntry(row.seq, row.run_id, row.kind, row.at, row.inventory, row.what, late)


def jumped(conn: Connection, run_id: str, now: datetime, interval: timedelta) -> bool:
    """Whether the clock jumped since the last evaluation of another run, see :func:`portmon.model.pause.jumped`."""
    query = select(journal.c.at).where(journal.c.kind == EVALUATE, journal.c.run_id != run_id)
    return pause.jumped(conn.execute(query.order_by(journal.c.seq.desc()).limit(1)).scalar(), now, interval)


def hidden_unjudged(conn: Connection) -> set[str]:
    """Ids of the hosts that prunes hid and no evaluation followed: it may find that other hosts took them over."""
    judged = select(func.coalesce(func.max(journal.c.seq), 0)).where(journal.c.kind == EVALUATE).scalar_subquery()
    digests = conn.execute(select(journal.c.what).where(journal.c.kind == PRUNE, journal.c.seq > judged)).scalars()
    readable, _ = contents.read_many(conn, set(digests))
    return {host_id for data in readable.values() for host_id in pruned_from_json(data).hide}


def last_seq(conn: Connection) -> int:
    """Number of the newest step; 0 if there is none."""
    return int(conn.execute(select(func.max(journal.c.seq))).scalar() or 0)


def expire(conn: Connection, before: datetime) -> None:
    """Forget steps from before a moment."""
    conn.execute(delete(journal).where(journal.c.at < before))


class EvaluatedObservations:
    """Which evaluation evaluated which observations.

    It evaluated those of its run, from the run's evaluation before it on and until its own time, and those it names.

    :param steps: all steps of the journal
    """

    def __init__(self, steps: Iterable[JournalEntry]) -> None:
        self._named: dict[Named, int] = {}
        self._since: dict[int, datetime | None] = {}
        before: dict[str, datetime] = {}
        for step in steps:
            if step.kind == EVALUATE:
                self._since[step.seq] = before.get(step.run_id)
                before[step.run_id] = step.at
                self._named |= dict.fromkeys(step.late, step.seq)

    def of(self, step: JournalEntry, found: Iterable[Observation]) -> list[Observation]:
        """The observations of one evaluation.

        :param found: those of its run, and those that it names
        """
        wanted = []
        for one in found:
            named = self._named.get((one.host_id, one.observed_at))
            # Another observation of the same run followed a provisional one, and counted instead.
            own = named is None and not one.provisional and _is_own(one, step.run_id, self._since[step.seq], step.at)
            if own or named == step.seq:
                wanted.append(one)
        return wanted


def _is_own(one: Observation, run_id: str, since: datetime | None, until: datetime) -> bool:
    return one.run_id == run_id and (since is None or since < one.observed_at) and one.observed_at <= until


def _add(
    conn: Connection, run_id: str, kind: str, at: datetime, inventory: str, data: bytes, late: Iterable[Named] = ()
) -> int:
    row = {"run_id": run_id, "kind": kind, "at": at, "inventory": inventory, "what": contents.put(conn, data, now=at)}
    return inserted_id(conn, journal, row | {"late": [[host_id, time.isoformat()] for host_id, time in sorted(late)]})
