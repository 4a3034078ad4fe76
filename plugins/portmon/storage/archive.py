"""Every look at a host: what was seen, as it was said, and what it came to."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import zstandard
from sqlalchemy import ColumnElement, Connection, UnaryExpression, and_, delete, func, select, true
from sqlalchemy.sql.operators import custom_op

from portmon.errors import StorageError
from portmon.model import limits
from portmon.model.observation import EPHEMERAL_DEFAULT, Attempt, Listener, Observation, Outcome, Owner, in_time
from portmon.storage import checkpoints, contents, journal
from portmon.storage.sql import CHUNK, chunks, insert_rows, update_rows, upsert_rows
from portmon.storage.tables import hosts, inventories, observations, runs, stored

log = logging.getLogger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Before every look."""


FACTS_TIMES = 3
"""Times the bound for raw answers: up to there what was read from them is still stored."""
RAW_LEFT_OUT = "raw_left_out"
"""Error class of an ok look whose raw answer is not kept."""
TOO_MUCH = "too_much"
"""Error class of a look whose answer was not stored at all."""
ERROR_LENGTH = 2000
"""Characters of what is said of a failed look."""


def save_attempt(conn: Connection, attempt: Attempt) -> str:
    """Store one look at a host; a second time changes nothing.

    :returns: digest of what was seen; of a failed look, of what is said about it
    """
    return save_attempts(conn, [attempt])[attempt.host_id]


def save_attempts(conn: Connection, attempts: Sequence[Attempt]) -> dict[str, str]:
    """Store looks at hosts, many in a few statements; a second time changes nothing.

    One may name what was seen by its digest instead of showing it, if it is stored already.

    :returns: host id: digest of what was seen, as of :func:`save_attempt`
    :raises StorageError: if what is named is not there
    """
    saved: dict[str, str] = {}
    for part in chunks(attempts):
        items: dict[str, bytes] = {}
        used_at: dict[str, datetime] = {}
        rows = []
        for attempt in part:
            frames, facts = _frames(attempt), _facts(attempt)
            named = dict(frames) | facts
            items |= named
            row = _row(attempt, [digest for digest, _ in frames], *facts)
            for name in {*named, *filter(None, (row["facts"],))}:
                used_at[name] = max(attempt.observed_at, used_at.get(name, attempt.observed_at))
            saved[attempt.host_id] = row["facts"] or f"{attempt.outcome}:{attempt.error_class}"
            rows.append(row)
        contents.put_many(conn, items, used_at)
        # What is known by its digest alone.
        contents.use(conn, {name: at for name, at in used_at.items() if name not in items})
        insert_rows(conn, observations, rows)
    return saved


def within(conn: Connection, attempts: Sequence[Attempt], per_host: int) -> list[Attempt]:
    """Looks as they are to be stored, so that no host adds more than it may in a day. What is stored already is free.

    They are counted: they have to be stored in the same transaction.

    :param per_host: bytes (compressed) of answers that a host may add in a day (UTC): what is more is stored without
        the raw answer, and from :data:`FACTS_TIMES` as much on it is no evidence
    """
    made = list(attempts)
    for start in range(0, len(made), CHUNK):
        part = made[start : start + CHUNK]
        items = [_said(attempt) for attempt in part]
        known = contents.known(conn, {digest for one in items for digest in one})
        # Faster than how they are stored, and hardly longer.
        compress = zstandard.ZstdCompressor(level=1).compress
        costs = [{digest: len(compress(data)) for digest, data in one.items() if digest not in known} for one in items]
        wordy = sorted({attempt.host_id for attempt, cost in zip(part, costs, strict=True) if cost})
        if not wordy:
            continue
        rows = conn.execute(select(stored).where(stored.c.host_id.in_(wordy)))
        days = {row.host_id: (row.day, row.bytes) for row in rows}
        for place, (attempt, cost) in enumerate(zip(part, costs, strict=True)):
            if not cost:
                continue
            today = attempt.observed_at.astimezone(UTC).date().isoformat()
            day, used = days.get(attempt.host_id, (today, 0))
            if day < today:
                day, used = today, 0
            made[start + place], added = _bounded(attempt, cost, used, per_host)
            days[attempt.host_id] = (day, used + added)
        upsert_rows(
            conn,
            stored,
            ["day", "bytes"],
            [{"host_id": host_id, "day": days[host_id][0], "bytes": days[host_id][1]} for host_id in wordy],
        )
    return made


def _said(attempt: Attempt) -> dict[str, bytes]:
    """What a look would add if nothing of it were there, by hash."""
    if attempt.facts and attempt.observation is None:
        # The same answer as the one before.
        return {}
    return dict(_frames(attempt)) | _facts(attempt)


def _frames(attempt: Attempt) -> list[tuple[str, bytes]]:
    """Hash and bytes of the raw answers that are kept of a look; two may be alike."""
    frames = attempt.frames[:2]
    digests = attempt.digests[:2] or map(contents.digest_of, frames)
    return list(zip(digests, frames, strict=True))


def _facts(attempt: Attempt) -> dict[str, bytes]:
    """What was read from them, by its hash; empty if nothing was."""
    if attempt.observation is None:
        return {}
    data = facts_to_json(attempt.observation)
    return {contents.digest_of(data): data}


def _bounded(attempt: Attempt, cost: Mapping[str, int], used: int, per_host: int) -> tuple[Attempt, int]:
    """A look as it is to be stored, and what it adds.

    :param cost: bytes of what is new in it, by hash
    :param used: bytes that its host added before on this day
    """
    whole = sum(cost.values())
    if used + whole <= per_host:
        return attempt, whole
    raw = sum(cost.get(digest, 0) for digest in dict(_frames(attempt)))
    said = f"{used / 1024**2:.1f} MiB of its answers are stored of this day already (retention.per_host)"
    log.warning("%s: the raw answer is not kept: %s", attempt.host_id, said)
    attempt = dataclasses.replace(attempt, frames=(), digests=())
    if attempt.observation is None:
        return attempt, 0
    if used + whole - raw <= FACTS_TIMES * per_host:
        error = f"The raw answer is not kept: {said}"
        return dataclasses.replace(attempt, error_class=RAW_LEFT_OUT, error=error), whole - raw
    error = (
        f"Its answer is not stored, so it is no evidence: {said}, and it says something new again. Look at what "
        "listens there, or raise the bound"
    )
    log.warning("%s: %s", attempt.host_id, error)
    return (
        dataclasses.replace(attempt, outcome=Outcome.INVALID, observation=None, error_class=TOO_MUCH, error=error),
        0,
    )


def refuse(conn: Connection, attempts: Iterable[Attempt]) -> None:
    """Note that looks which showed something are no evidence all the same: judging again finds them so.

    What they showed is stored anew when it is seen again, in case it is damaged.

    :param attempts: as they are to be read from now on
    """
    rows = [
        {
            "host_id": one.host_id,
            "observed_at": one.observed_at,
            "outcome": one.outcome.value,
            "error_class": one.error_class,
            "error": one.error,
        }
        for one in attempts
    ]
    update_rows(conn, observations, rows)
    contents.doubt(conn, [one.facts for one in attempts if one.facts])


@dataclass(frozen=True, slots=True)
class Settled:
    """The last answer of a host that is settled.

    :param fingerprint: what it was judged by
    :param frame: digest of the answer
    :param facts: digest of what was read from it
    """

    fingerprint: str
    frame: str
    facts: str


def settled(conn: Connection, host_ids: Collection[str]) -> dict[str, Settled]:
    """Host id: the last answer of those that are settled and were asked but once."""
    query = (
        select(hosts.c.host_id, hosts.c.fingerprint, observations.c.frame, observations.c.facts)
        .join(
            observations,
            and_(observations.c.host_id == hosts.c.host_id, observations.c.observed_at == hosts.c.last_ok_at),
        )
        .where(
            hosts.c.fingerprint.is_not(None),
            observations.c.frame.is_not(None),
            observations.c.second_frame.is_(None),
            observations.c.facts.is_not(None),
        )
    )
    parts = chunks(sorted(set(host_ids)))
    rows = (row for part in parts for row in conn.execute(query.where(hosts.c.host_id.in_(part))))
    return {row.host_id: Settled(row.fingerprint, row.frame, row.facts) for row in rows}


def _row(attempt: Attempt, frames: Sequence[str], facts: str | None = None) -> dict[str, Any]:
    return {
        "host_id": attempt.host_id,
        "observed_at": attempt.observed_at,
        "run_id": attempt.run_id,
        "try_number": attempt.try_number,
        "logical_date": attempt.logical_date,
        "outcome": attempt.outcome.value,
        "error_class": attempt.error_class,
        "error": attempt.error and attempt.error[:ERROR_LENGTH],
        "facts": facts or attempt.facts,
        "frame": frames[0] if frames else None,
        "second_frame": frames[1] if len(frames) > 1 else None,
        "duration": attempt.duration,
        "confirmed": attempt.confirmed,
        "live": True,
        "provisional": attempt.provisional,
    }


def attempts_to_judge(
    conn: Connection, *, host_ids: Collection[str] | None = None, seen: bool = True, frames: bool = False
) -> list[Attempt]:
    """Looks that are newer than the last one judged of their host, oldest first.

    A provisional one counts only if its run did not look at its host again.

    :param host_ids: of these hosts only
    :param seen: with what was seen; without, see :func:`with_seen`
    :param frames: with the raw answers; what they say is in the observation already
    :raises StorageError: if what was seen is gone or damaged
    """
    everybody = select(observations.c.host_id).distinct()
    asked = set(conn.execute(everybody).scalars() if host_ids is None else host_ids)
    columns = [*_LOOK_COLUMNS, *((observations.c.frame, observations.c.second_frame) if frames else ())]
    rows = conn.execute(_unjudged(conn, columns)).all()
    found = [attempt for attempt in map(_attempt, rows) if attempt.host_id in asked]
    # A host without a row was never judged: the list has gained it, and no pruning took that over yet.
    for part in chunks(sorted(_without_row(conn, asked.difference(attempt.host_id for attempt in found)))):
        more = conn.execute(select(*columns).where(observations.c.host_id.in_(part), observations.c.live)).all()
        found += map(_attempt, more)
        rows = [*rows, *more]
    found.sort(key=in_time)
    last = {(attempt.host_id, attempt.run_id): attempt.observed_at for attempt in found}
    attempts = [
        attempt
        for attempt in found
        if not attempt.provisional or attempt.observed_at == last[attempt.host_id, attempt.run_id]
    ]
    if seen:
        attempts = with_seen(conn, attempts)
    if frames:
        names = {(row.host_id, row.observed_at): (row.frame, row.second_frame) for row in rows}
        wanted = [names[attempt.host_id, attempt.observed_at] for attempt in attempts]
        raw = contents.get_many(conn, [name for pair in wanted for name in pair if name])
        attempts = [
            dataclasses.replace(attempt, frames=tuple(raw[name] for name in pair if name in raw))
            for attempt, pair in zip(attempts, wanted, strict=True)
        ]
    return attempts


def with_seen(conn: Connection, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Looks with what was seen.

    :raises StorageError: if it is gone or damaged
    """
    found, broken = readable(conn, attempts)
    for error in broken.values():
        raise error
    return found


def readable(
    conn: Connection, attempts: Sequence[Attempt]
) -> tuple[list[Attempt], dict[tuple[str, datetime], StorageError]]:
    """Looks with what was seen, without those of which it is gone, damaged or nothing that can have been seen.

    :returns: these, and what is wrong with the others, by host id and time
    """
    data, damaged = contents.read_many(conn, [attempt.facts for attempt in attempts if attempt.facts])
    seen: dict[str, Observation] = {}
    wrong: dict[str, str] = {digest: str(error) for digest, error in damaged.items()}
    for digest, one in data.items():
        try:
            seen[digest] = _checked(facts_from_json(one))
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            wrong[digest] = f"content {digest} is no observation: {error}"
    found, broken = [], {}
    for attempt in attempts:
        if not attempt.facts:
            found.append(attempt)
        elif attempt.facts in seen:
            found.append(dataclasses.replace(attempt, observation=seen[attempt.facts]))
        else:
            why = wrong.get(attempt.facts, f"content {attempt.facts} is not in the archive (expired?)")
            broken[attempt.host_id, attempt.observed_at] = StorageError(
                f"what {attempt.host_id} showed at {attempt.observed_at:%Y-%m-%d %H:%M:%S} UTC can't be read: {why}"
            )
    return found, broken


def settle(conn: Connection, attempts: Iterable[Attempt]) -> None:
    """Note that looks were judged: those that were provisional count for good, so that a replay counts them as well."""
    judged = [one for one in attempts if one.provisional]
    rows = [{"host_id": one.host_id, "observed_at": one.observed_at, "provisional": False} for one in judged]
    update_rows(conn, observations, rows)


def looks_of(conn: Connection, run_id: str, *, unjudged: bool = False) -> dict[str, bool]:
    """Host id: whether a run's newest look at it is final, not provisional.

    :param unjudged: only of hosts of which that look was not judged yet. One that was is of before somebody cleared
        the task that made it, and who does that wants another one
    """
    query = (
        select(observations.c.host_id, observations.c.provisional, observations.c.observed_at, hosts.c.last_judged_at)
        .outerjoin(hosts, hosts.c.host_id == observations.c.host_id)
        .where(observations.c.run_id == run_id)
        .order_by(observations.c.observed_at)
    )
    found: dict[str, bool] = {}
    for host_id, provisional, observed_at, judged_at in conn.execute(query):
        if not unjudged or judged_at is None or observed_at > judged_at:
            found[host_id] = not provisional
    return found


def looks_for(conn: Connection, run_id: str, named: Collection[tuple[str, datetime]] = ()) -> list[Attempt]:
    """Every look of a run, and some others by host id and time, without what was seen, oldest first."""
    rows = list(conn.execute(select(*_LOOK_COLUMNS).where(observations.c.run_id == run_id)))
    for part in chunks(sorted({host_id for host_id, _ in named})):
        more = conn.execute(
            select(*_LOOK_COLUMNS).where(observations.c.host_id.in_(part), observations.c.run_id != run_id)
        )
        rows += [row for row in more if (row.host_id, row.observed_at) in named]
    return sorted(map(_attempt, rows), key=in_time)


def scanned(conn: Connection, run_id: str) -> set[str]:
    """Hosts that a run looked at, whatever came of it."""
    return set(conn.execute(select(observations.c.host_id).where(observations.c.run_id == run_id)).scalars())


def last_look(conn: Connection, host_id: str) -> Attempt | None:
    """The last look at a host, without what was seen."""
    row = conn.execute(
        select(*_LOOK_COLUMNS)
        .where(observations.c.host_id == host_id)
        .order_by(observations.c.observed_at.desc())
        .limit(1)
    ).first()
    return None if row is None else _attempt(row)


def last_seen(conn: Connection, host_id: str) -> Observation | None:
    """What the last complete answer of a host showed, None if there is none or it has expired."""
    digest = conn.execute(
        select(observations.c.facts)
        .where(
            observations.c.host_id == host_id,
            observations.c.facts.is_not(None),
            observations.c.outcome == Outcome.OK.value,
        )
        .order_by(observations.c.observed_at.desc())
        .limit(1)
    ).scalar()
    return facts_from_json(contents.get(conn, digest)) if digest else None


def latest_frames(conn: Connection, host_id: str) -> tuple[bytes, ...]:
    """The raw answers of the last look at a host that got any."""
    row = conn.execute(
        select(observations.c.frame, observations.c.second_frame)
        .where(observations.c.host_id == host_id, observations.c.frame.is_not(None))
        .order_by(observations.c.observed_at.desc())
        .limit(1)
    ).first()
    return tuple(contents.get(conn, digest) for digest in row or () if digest)


def expire(conn: Connection, before: datetime, *, most: int | None = None) -> int:
    """Delete what is from before a moment: looks, runs, steps of the journal, checkpoints, old host lists, and contents
    that nobody needs any more.

    The newest host list stays, however old: it is what a run falls back to.

    :param most: about so many looks, and so many contents; the rest waits for them. None: all of them
    :returns: number of rows deleted, of whichever of the two were more
    """
    old = observations.c.observed_at < before
    if most is not None:
        first = (
            select(observations.c.observed_at).where(old).order_by(observations.c.observed_at).limit(most).subquery()
        )
        old = observations.c.observed_at <= select(func.max(first.c.observed_at)).scalar_subquery()
    gone = conn.execute(delete(observations).where(old)).rowcount
    if most is not None and gone >= most:
        return int(gone)
    conn.execute(delete(runs).where(runs.c.started_at < before))
    journal.expire(conn, before)
    checkpoints.expire(conn, before)
    newest = select(inventories.c.digest).order_by(inventories.c.fetched_at.desc()).limit(1).scalar_subquery()
    conn.execute(delete(inventories).where(inventories.c.fetched_at < before, inventories.c.digest != newest))
    unused = contents.expire(conn, before, most=most)
    return int(gone) if most is None else max(int(gone), unused)


def _unjudged(conn: Connection, columns: Sequence[ColumnElement[Any]]) -> Any:
    """Looks that are newer than the last one judged of their host, of hosts that have a row.

    The archive has thousands of looks per host, and this wants the last one or two: one range of the primary key per
    host, whatever the planner thinks of it.
    """
    newer = observations.c.observed_at > func.coalesce(hosts.c.last_judged_at, EPOCH)
    if conn.dialect.name == "postgresql":
        # The planner makes no join of a subquery with OFFSET: is_simple_subquery() in its prepjointree.c.
        own = select(*columns).where(observations.c.host_id == hosts.c.host_id, newer, observations.c.live)
        looks = own.offset(0).lateral("looks")
        return select(looks).select_from(hosts.join(looks, true()))
    # The plus keeps the term from being of use for an index of hosts: https://www.sqlite.org/optoverview.html#uplus
    own_id: ColumnElement[str] = UnaryExpression(hosts.c.host_id, operator=custom_op("+"))
    return select(*columns).where(observations.c.host_id == own_id, newer, observations.c.live)


def _without_row(conn: Connection, host_ids: Collection[str]) -> set[str]:
    known = (
        conn.execute(select(hosts.c.host_id).where(hosts.c.host_id.in_(part))).scalars()
        for part in chunks(sorted(host_ids))
    )
    return set(host_ids).difference(*known)


_LOOK = (
    "host_id",
    "run_id",
    "try_number",
    "observed_at",
    "outcome",
    "logical_date",
    "error_class",
    "error",
    "duration",
    "confirmed",
    "facts",
    "provisional",
)
"""Columns that are fields of a look as well."""
_LOOK_COLUMNS = [observations.c[name] for name in _LOOK]
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


def _attempt(row: Sequence[Any]) -> Attempt:
    """The look of a row that begins with :data:`_LOOK`."""
    # By position: a run makes as many as there are hosts.
    fields = dict(zip(_LOOK, row, strict=False))
    return Attempt(**fields | {"outcome": _OUTCOMES[fields["outcome"]]})


# ── what was seen, as JSON ──────────────────────────────────────────────────────────────────────


def facts_to_json(observation: Observation) -> bytes:
    """An observation as canonical JSON: equal observations give equal bytes."""
    value = {
        "tool": observation.tool,
        "uid": observation.uid,
        "via": observation.via,
        "boot_id": observation.boot_id,
        "netns": observation.netns,
        "version": observation.version,
        "ephemeral": list(observation.ephemeral),
        "listeners": [_listener_to_json(listener) for listener in observation.listeners],
        "probe": observation.probe,
        "reader": observation.reader,
    }
    # What most hosts do not have takes no room.
    for name in ("pid1_start", "reserved", "hung", "beyond"):
        if getattr(observation, name) not in (None, ()):
            value[name] = getattr(observation, name)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def facts_from_json(data: bytes) -> Observation:
    """The inverse of :func:`facts_to_json`."""
    value = json.loads(data)
    low, high = value.get("ephemeral", EPHEMERAL_DEFAULT)
    return Observation(
        tool=value["tool"],
        uid=value["uid"],
        via=value["via"],
        boot_id=value["boot_id"],
        netns=value["netns"],
        version=value["version"],
        ephemeral=(low, high),
        listeners=tuple(_listener_from_json(item) for item in value["listeners"]),
        # Earlier versions did not say theirs.
        probe=value.get("probe", 1),
        reader=value.get("reader", 1),
        pid1_start=value.get("pid1_start"),
        reserved=tuple((low, high) for low, high in value.get("reserved", ())),
        hung=tuple(value.get("hung", ())),
        beyond=tuple((port, count) for port, count in value.get("beyond", ())),
    )


_WHOLE = 2**63
"""What both databases store as a number is smaller."""


def _checked(observation: Observation) -> Observation:
    """An observation, if a host can have shown it.

    :raises ValueError: if it can't
    """
    low, high = observation.ephemeral
    numbers = {"netns": observation.netns, "ephemeral": low, "ephemeral end": high}
    for name, number in numbers.items():
        most = _WHOLE if name == "netns" else 2**31
        if number is not None and not (type(number) is int and 0 <= number < most):
            raise ValueError(f"{name} is {_shown(number)}")
    for name, text in {"tool": observation.tool, "boot_id": observation.boot_id}.items():
        if text is not None and not (isinstance(text, str) and len(text) <= limits.NAME):
            raise ValueError(f"{name} is {_shown(text)}")
    if len(observation.listeners) > limits.ROWS:
        raise ValueError(f"{len(observation.listeners)} sockets listen, more than {limits.ROWS}")
    for listener in observation.listeners:
        if not (type(listener.port) is int and 0 <= listener.port < 65536):
            raise ValueError(f"a port is {_shown(listener.port)}")
        if not isinstance(listener.address, str):
            raise ValueError(f"an address is {_shown(listener.address)}")
    return observation


def _shown(value: object) -> str:
    return repr(value)[:80]


_FIELDS: Sequence[str] = ("protocol", "address", "port", "pid", "program", "zone", "uid", "inode", "unit", "comm")


def _listener_to_json(listener: Listener) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name in _FIELDS:
        item = getattr(listener, name)
        if item is not None:
            value[name] = item
    if listener.owners:
        value["owners"] = [[owner.pid, owner.program] for owner in listener.owners]
    if listener.more_owners:
        value["more_owners"] = listener.more_owners
    return value


def _listener_from_json(value: dict[str, Any]) -> Listener:
    owners = tuple(Owner(pid, program) for pid, program in value.pop("owners", ()))
    return Listener(**value, owners=owners)
