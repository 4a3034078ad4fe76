"""Every look at a host: its raw answers, what was read from them, and its outcome."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import zstandard
from sqlalchemy import ColumnElement, Connection, Select, UnaryExpression, and_, delete, func, select, true
from sqlalchemy.sql.operators import custom_op

from portmon.errors import StorageError
from portmon.model import limits
from portmon.model.observation import EPHEMERAL_DEFAULT, Listener, Listing, Observation, Outcome, Owner, in_time
from portmon.scan.answer import SettledAnswer
from portmon.storage import checkpoints, contents, journal, tables
from portmon.storage.sql import chunks, insert_rows, rows_in, update_rows, upsert_rows
from portmon.storage.tables import hosts, inventories, runs, stored

log = logging.getLogger(__name__)
_looks = tables.observations

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


def save_observation(conn: Connection, observation: Observation, *, per_host: int | None = None) -> str:
    """Store one observation, see :func:`save_observations`.

    :returns: digest of its listing; of a failed one, its outcome and error class
    """
    return save_observations(conn, [observation], per_host=per_host)[observation.host_id]


def save_observations(
    conn: Connection, observations: Sequence[Observation], *, per_host: int | None = None
) -> dict[str, str]:
    """Store observations, many in a few statements; a second time changes nothing.

    One may name its listing by digest instead of holding it, if that is stored already.

    :param per_host: bytes (compressed) of answers that a host may add in a day (UTC); None for any number. What is
        stored already is free. What is more is stored without the raw answer, and from :data:`FACTS_TIMES` as much on
        it is no evidence
    :returns: host id: as of :func:`save_observation`
    :raises StorageError: if a listing that is named is not there
    """
    saved: dict[str, str] = {}
    for part in chunks(observations):
        packed = [_packed(observation) for observation in part]
        if per_host is not None:
            packed = _within(conn, packed, per_host)
        items: dict[str, bytes] = {}
        used_at: dict[str, datetime] = {}
        rows = []
        for observation, frames, facts in packed:
            items |= dict(frames) | facts
            row = _row(observation, [digest for digest, _ in frames], *facts)
            for name in filter(None, (row["frame"], row["second_frame"], row["facts"])):
                used_at[name] = max(observation.observed_at, used_at.get(name, observation.observed_at))
            saved[observation.host_id] = row["facts"] or f"{observation.outcome}:{observation.error_class}"
            rows.append(row)
        contents.put_many(conn, items, used_at)
        contents.use(conn, {name: at for name, at in used_at.items() if name not in items})
        insert_rows(conn, tables.observations, rows)
    return saved


_Packed = tuple[Observation, list[tuple[str, bytes]], dict[str, bytes]]
"""An observation; hash and bytes of its raw answers, of which two may be alike; its listing as JSON by hash, if it has
one."""


def _packed(observation: Observation) -> _Packed:
    frames = observation.frames[:2]
    digests = observation.digests[:2] or map(contents.digest_of, frames)
    facts: dict[str, bytes] = {}
    if observation.listing is not None:
        data = facts_to_json(observation.listing)
        facts[contents.digest_of(data)] = data
    return observation, list(zip(digests, frames, strict=True)), facts


def _within(conn: Connection, packed: Sequence[_Packed], per_host: int) -> list[_Packed]:
    """Observations as they are to be stored, so that no host adds more than it may in a day, and note what it adds."""
    # Of a host that is settled all is stored.
    news = [{} if observation.facts and not facts else dict(frames) | facts for observation, frames, facts in packed]
    known = contents.known(conn, {digest for one in news for digest in one})
    # Faster than how they are stored, and hardly longer.
    compress = zstandard.ZstdCompressor(level=1).compress
    costs = [{digest: len(compress(data)) for digest, data in one.items() if digest not in known} for one in news]
    wordy = sorted({one[0].host_id for one, cost in zip(packed, costs, strict=True) if cost})
    if not wordy:
        return list(packed)
    days = {
        row.host_id: (row.day, row.bytes) for row in conn.execute(select(stored).where(stored.c.host_id.in_(wordy)))
    }
    made = []
    for one, cost in zip(packed, costs, strict=True):
        if cost:
            host_id = one[0].host_id
            today = one[0].observed_at.astimezone(UTC).date().isoformat()
            day, used = days.get(host_id, (today, 0))
            if day < today:
                day, used = today, 0
            one, added = _bounded(one, cost, used, per_host)
            days[host_id] = (day, used + added)
        made.append(one)
    rows = [{"host_id": host_id, "day": days[host_id][0], "bytes": days[host_id][1]} for host_id in wordy]
    upsert_rows(conn, stored, ["day", "bytes"], rows)
    return made


def _bounded(packed: _Packed, cost: Mapping[str, int], used: int, per_host: int) -> tuple[_Packed, int]:
    """An observation as it is to be stored, and how many bytes it adds.

    :param cost: bytes of what is new in it, by hash
    :param used: bytes that its host added before on this day
    """
    observation, frames, facts = packed
    whole = sum(cost.values())
    if used + whole <= per_host:
        return packed, whole
    said = f"{used / 1024**2:.1f} MiB of its answers are stored of this day already (retention.per_host)"
    log.warning("%s: the raw answer is not kept: %s", observation.host_id, said)
    observation = dataclasses.replace(observation, frames=(), digests=())
    if observation.listing is None:
        return (observation, [], {}), 0
    rest = whole - sum(cost.get(digest, 0) for digest in dict(frames))
    if used + rest <= FACTS_TIMES * per_host:
        error = f"The raw answer is not kept: {said}"
        return (dataclasses.replace(observation, error_class=RAW_LEFT_OUT, error=error), [], facts), rest
    error = (
        f"Its answer is not stored, so it is no evidence: {said}, and it says something new again. Look at what "
        "listens there, or raise the bound"
    )
    log.warning("%s: %s", observation.host_id, error)
    none = dataclasses.replace(observation, outcome=Outcome.INVALID, listing=None, error_class=TOO_MUCH, error=error)
    return (none, [], {}), 0


def refuse(conn: Connection, observations: Iterable[Observation]) -> None:
    """Note that looks which showed something are no evidence all the same: evaluating again finds them so.

    What they showed is stored anew when it is seen again, in case it is damaged.

    :param observations: as they are to be read from now on
    """
    names = ("host_id", "observed_at", "outcome", "error_class", "error")
    update_rows(conn, _looks, [{name: getattr(one, name) for name in names} for one in observations])
    contents.doubt(conn, [one.facts for one in observations if one.facts])


def settled(conn: Connection, host_ids: Collection[str]) -> dict[str, SettledAnswer]:
    """Host id: the last answer of hosts that are settled and were asked but once."""
    query = (
        select(hosts.c.host_id, hosts.c.fingerprint, _looks.c.frame, _looks.c.facts)
        .join(_looks, and_(_looks.c.host_id == hosts.c.host_id, _looks.c.observed_at == hosts.c.last_ok_at))
        .where(hosts.c.fingerprint.is_not(None), _looks.c.frame.is_not(None), _looks.c.facts.is_not(None))
        .where(_looks.c.second_frame.is_(None))
    )
    rows = rows_in(conn, query, hosts.c.host_id, host_ids)
    return {row.host_id: SettledAnswer(row.fingerprint, row.frame, row.facts) for row in rows}


def _row(observation: Observation, frames: Sequence[str], facts: str | None = None) -> dict[str, Any]:
    return {
        "host_id": observation.host_id,
        "observed_at": observation.observed_at,
        "run_id": observation.run_id,
        "try_number": observation.try_number,
        "logical_date": observation.logical_date,
        "outcome": observation.outcome.value,
        "error_class": observation.error_class,
        "error": observation.error and observation.error[:ERROR_LENGTH],
        "facts": facts or observation.facts,
        "frame": frames[0] if frames else None,
        "second_frame": frames[1] if len(frames) > 1 else None,
        "duration": observation.duration,
        "confirmed": observation.confirmed,
        "live": True,
        "provisional": observation.provisional,
    }


def observations_to_evaluate(conn: Connection, *, host_ids: Collection[str] | None = None) -> list[Observation]:
    """Looks that are newer than the last one evaluated of their host, oldest first, without what was seen.

    A provisional one counts only if its run did not look at its host again.

    :param host_ids: of these hosts only
    """
    asked = set(conn.execute(select(_looks.c.host_id).distinct()).scalars() if host_ids is None else host_ids)
    found = [look for look in map(_observation, conn.execute(_unevaluated(conn))) if look.host_id in asked]
    # A host without a row was never evaluated: the list has gained it, and no pruning took that over yet.
    unknown = _without_row(conn, asked.difference(look.host_id for look in found))
    found += map(_observation, rows_in(conn, select(*_LOOK_COLUMNS).where(_looks.c.live), _looks.c.host_id, unknown))
    found.sort(key=in_time)
    last = {(look.host_id, look.run_id): look.observed_at for look in found}
    return [look for look in found if not look.provisional or look.observed_at == last[look.host_id, look.run_id]]


def readable(
    conn: Connection, observations: Sequence[Observation]
) -> tuple[list[Observation], dict[tuple[str, datetime], StorageError]]:
    """Looks with what was seen, without those of which it is gone, damaged or nothing that can have been seen.

    :returns: these, and what is wrong with the others, by host id and time
    """
    data, damaged = contents.read_many(conn, [one.facts for one in observations if one.facts])
    seen: dict[str, Listing] = {}
    wrong: dict[str, str] = {digest: str(error) for digest, error in damaged.items()}
    for digest, facts in data.items():
        try:
            seen[digest] = _checked(facts_from_json(facts))
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            wrong[digest] = f"content {digest} is no observation: {error}"
    found, broken = [], {}
    for one in observations:
        if not one.facts:
            found.append(one)
        elif one.facts in seen:
            found.append(dataclasses.replace(one, listing=seen[one.facts]))
        else:
            why = wrong.get(one.facts, f"content {one.facts} is not in the archive (expired?)")
            broken[one.host_id, one.observed_at] = StorageError(
                f"what {one.host_id} showed at {one.observed_at:%Y-%m-%d %H:%M:%S} UTC can't be read: {why}"
            )
    return found, broken


def settle(conn: Connection, observations: Iterable[Observation]) -> None:
    """Note that looks were evaluated: a provisional one counts for good, so that a replay counts it as well."""
    rows = [
        {"host_id": one.host_id, "observed_at": one.observed_at, "provisional": False}
        for one in observations
        if one.provisional
    ]
    update_rows(conn, _looks, rows)


def looks_of(conn: Connection, run_id: str, *, unevaluated: bool = False) -> dict[str, bool]:
    """Host id: whether a run's newest look at it is final, not provisional.

    :param unevaluated: only of hosts whose newest look was not evaluated yet: a person who clears the task that made it
        wants another one
    """
    query = (
        select(_looks.c.host_id, _looks.c.provisional, _looks.c.observed_at, hosts.c.last_evaluated_at)
        .outerjoin(hosts, hosts.c.host_id == _looks.c.host_id)
        .where(_looks.c.run_id == run_id)
        .order_by(_looks.c.observed_at)
    )
    return {
        host_id: not provisional
        for host_id, provisional, observed_at, evaluated_at in conn.execute(query)
        if not unevaluated or evaluated_at is None or observed_at > evaluated_at
    }


def looks_for(conn: Connection, run_id: str, named: Collection[tuple[str, datetime]] = ()) -> list[Observation]:
    """Every look of a run, and some others by host id and time, without what was seen, oldest first."""
    query = select(*_LOOK_COLUMNS)
    rows = list(conn.execute(query.where(_looks.c.run_id == run_id)))
    others = rows_in(conn, query.where(_looks.c.run_id != run_id), _looks.c.host_id, {host_id for host_id, _ in named})
    rows += [row for row in others if (row.host_id, row.observed_at) in named]
    return sorted(map(_observation, rows), key=in_time)


def scanned(conn: Connection, run_id: str) -> set[str]:
    """Hosts that a run looked at, whatever came of it."""
    return set(conn.execute(select(_looks.c.host_id).where(_looks.c.run_id == run_id)).scalars())


def last_look(conn: Connection, host_id: str) -> Observation | None:
    """The last look at a host, without what was seen."""
    row = conn.execute(_newest(host_id, *_LOOK_COLUMNS)).first()
    return None if row is None else _observation(row)


def last_seen(conn: Connection, host_id: str) -> Listing | None:
    """The listing of the last complete answer of a host, None if there is none or it has expired."""
    query = _newest(host_id, _looks.c.facts).where(_looks.c.facts.is_not(None), _looks.c.outcome == Outcome.OK)
    digest = conn.execute(query).scalar()
    return facts_from_json(contents.get(conn, digest)) if digest else None


def latest_frames(conn: Connection, host_id: str) -> tuple[bytes, ...]:
    """The raw answers of the last look at a host that got any."""
    query = _newest(host_id, _looks.c.frame, _looks.c.second_frame).where(_looks.c.frame.is_not(None))
    return tuple(contents.get(conn, digest) for digest in conn.execute(query).first() or () if digest)


def _newest(host_id: str, *columns: Any) -> Select[Any]:
    query = select(*columns).where(_looks.c.host_id == host_id)
    return query.order_by(_looks.c.observed_at.desc()).limit(1)


def expire(conn: Connection, before: datetime, *, most: int | None = None) -> int:
    """Delete what is from before a moment: looks, runs, steps of the journal, checkpoints, old host lists, and contents
    that nothing refers to any more.

    The newest host list stays, however old: it is what a run falls back to.

    :param most: about so many looks, and so many contents; the rest waits for them. None: all of them
    :returns: number of rows deleted, of whichever of the two were more
    """
    old = _looks.c.observed_at < before
    if most is not None:
        first = select(_looks.c.observed_at).where(old).order_by(_looks.c.observed_at).limit(most).subquery()
        old = _looks.c.observed_at <= select(func.max(first.c.observed_at)).scalar_subquery()
    gone = conn.execute(delete(_looks).where(old)).rowcount
    if most is not None and gone >= most:
        return int(gone)
    conn.execute(delete(runs).where(runs.c.started_at < before))
    journal.expire(conn, before)
    checkpoints.expire(conn, before)
    newest = select(inventories.c.digest).order_by(inventories.c.fetched_at.desc()).limit(1).scalar_subquery()
    conn.execute(delete(inventories).where(inventories.c.fetched_at < before, inventories.c.digest != newest))
    unused = contents.expire(conn, before, most=most)
    return int(gone) if most is None else max(int(gone), unused)


def _unevaluated(conn: Connection) -> Any:
    """Looks that are newer than the last one evaluated of their host, of hosts that have a row.

    The archive has thousands of looks per host, and this wants the last one or two: one range of the primary key per
    host, whatever the planner thinks of it.
    """
    newer = _looks.c.observed_at > func.coalesce(hosts.c.last_evaluated_at, EPOCH)
    if conn.dialect.name == "postgresql":
        # The planner makes no join of a subquery with OFFSET: is_simple_subquery() in its prepjointree.c.
        own = select(*_LOOK_COLUMNS).where(_looks.c.host_id == hosts.c.host_id, newer, _looks.c.live)
        looks = own.offset(0).lateral("looks")
        return select(looks).select_from(hosts.join(looks, true()))
    # The plus keeps the term from being of use for an index of hosts: https://www.sqlite.org/optoverview.html#uplus
    own_id: ColumnElement[str] = UnaryExpression(hosts.c.host_id, operator=custom_op("+"))
    return select(*_LOOK_COLUMNS).where(_looks.c.host_id == own_id, newer, _looks.c.live)


def _without_row(conn: Connection, host_ids: Collection[str]) -> set[str]:
    known = rows_in(conn, select(hosts.c.host_id), hosts.c.host_id, host_ids)
    return set(host_ids).difference(row.host_id for row in known)


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
_LOOK_COLUMNS = [_looks.c[name] for name in _LOOK]
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


def _observation(row: Sequence[Any]) -> Observation:
    """The look of a row that begins with :data:`_LOOK`."""
    # By position: a run makes as many as there are hosts.
    fields = dict(zip(_LOOK, row, strict=False))
    return Observation(**fields | {"outcome": _OUTCOMES[fields["outcome"]]})


# ── what was seen, as JSON ──────────────────────────────────────────────────────────────────────


def facts_to_json(listing: Listing) -> bytes:
    """An observation as canonical JSON: equal observations give equal bytes."""
    value = {
        "tool": listing.tool,
        "uid": listing.uid,
        "via": listing.via,
        "boot_id": listing.boot_id,
        "netns": listing.netns,
        "version": listing.version,
        "ephemeral": list(listing.ephemeral),
        "listeners": [_listener_to_json(listener) for listener in listing.listeners],
        "probe": listing.probe,
        "reader": listing.reader,
    }
    # What most hosts do not have takes no room.
    for name in ("pid1_start", "reserved", "hung", "beyond"):
        if getattr(listing, name) not in (None, ()):
            value[name] = getattr(listing, name)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def facts_from_json(data: bytes) -> Listing:
    """The inverse of :func:`facts_to_json`."""
    value = json.loads(data)
    low, high = value.get("ephemeral", EPHEMERAL_DEFAULT)
    return Listing(
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
"""Numbers are smaller in both databases."""


def _checked(listing: Listing) -> Listing:
    """An observation, if a host can have shown it.

    :raises ValueError: if it can't
    """
    low, high = listing.ephemeral
    numbers = {"netns": listing.netns, "ephemeral": low, "ephemeral end": high}
    for name, number in numbers.items():
        most = _WHOLE if name == "netns" else 2**31
        if number is not None and not (type(number) is int and 0 <= number < most):
            raise ValueError(f"{name} is {_shown(number)}")
    for name, text in {"tool": listing.tool, "boot_id": listing.boot_id}.items():
        if text is not None and not (isinstance(text, str) and len(text) <= limits.NAME):
            raise ValueError(f"{name} is {_shown(text)}")
    if len(listing.listeners) > limits.ROWS:
        raise ValueError(f"{len(listing.listeners)} sockets listen, more than {limits.ROWS}")
    for listener in listing.listeners:
        if not (type(listener.port) is int and 0 <= listener.port < 65536):
            raise ValueError(f"a port is {_shown(listener.port)}")
        if not isinstance(listener.address, str):
            raise ValueError(f"an address is {_shown(listener.address)}")
    return listing


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
