"""Every observation of a host: its raw answers, the listing that was read from them, and its outcome."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import zstandard
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    UnaryExpression,
    and_,
    cast,
    delete,
    func,
    select,
    true,
    update,
)
from sqlalchemy.sql.operators import custom_op

from portmon.errors import StorageError
from portmon.model import limits
from portmon.model.observation import EPHEMERAL_DEFAULT, Listener, Listing, Observation, Outcome, Owner, in_time
from portmon.scan.answer import SettledAnswer
from portmon.storage import checkpoints, contents, journal
from portmon.storage.sql import change_in, chunks, insert_rows, rows_in, update_rows, upsert_rows
from portmon.storage.tables import EPOCH, as_json, hosts, inventories, runs, stored
from portmon.storage.tables import observations as archived
from portmon.text import plain

log = logging.getLogger(__name__)

FACTS_TIMES = 3
"""Times the bound for raw answers: up to there the listing is still stored."""
RAW_LEFT_OUT = "raw_left_out"
"""Error class of an ok observation whose raw answer is not kept."""
TOO_MUCH = "too_much"
"""Error class of an observation whose answer was not stored at all."""
DAMAGED = "damaged"
"""Error class of an observation whose row can't be read."""
AHEAD = timedelta(days=1)
"""An observation that is further ahead of the evaluation than this has a wrong time."""
FEW = 10
"""If so many, and more than half of all, are ahead, their times are right and the evaluation's clock is wrong."""
SHOWN = 20
"""Hosts that a warning names."""
ERROR_LENGTH = 2000

_FIELDS = tuple(name for name in Observation.__slots__ if name in archived.c)
_COLUMNS = [archived.c[name] for name in _FIELDS]
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_OPTIONAL = {"logical_date": datetime} | dict.fromkeys(("error_class", "error", "facts"), str)
_TYPES = tuple(
    {"observed_at": datetime, "try_number": int, "duration": float, "confirmed": bool, "provisional": bool}.get(name)
    or ((_OPTIONAL[name], type(None)) if name in _OPTIONAL else str)
    for name in _FIELDS
)
"""Of the values of a row, in the order of its columns. SQLite takes values of any type into any column."""
_LONGEST = 1e9
"""Seconds that no look takes."""

# ── writing ─────────────────────────────────────────────────────────────────────────────────────


def save_observation(conn: Connection, observation: Observation, *, per_host: int | None = None) -> str:
    """Store one observation, see :func:`save_observations`."""
    return save_observations(conn, [observation], per_host=per_host)[observation.host_id]


def save_observations(
    conn: Connection, observations: Sequence[Observation], *, per_host: int | None = None
) -> dict[str, str]:
    """Store observations, many in a few statements; a second time changes nothing.

    An observation may name its listing by digest instead of holding it, if the listing is stored already.

    :param per_host: compressed bytes of answers that a host may add in a day (UTC); None: any number. Bytes that are
        stored already are free. Beyond this an observation is stored without its raw answer, and from
        :data:`FACTS_TIMES` as much on it is no evidence
    :returns: host id: digest of its listing; of a failed observation, its outcome and error class
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
        insert_rows(conn, archived, rows)
    return saved


_Packed = tuple[Observation, list[tuple[str, bytes]], dict[str, bytes]]
"""An observation; digest and bytes of each raw answer, of which two may be alike; digest: its listing, if any."""


def _packed(observation: Observation) -> _Packed:
    frames = observation.frames[:2]
    digests = observation.digests[:2] or map(contents.digest_of, frames)
    facts: dict[str, bytes] = {}
    if observation.listing is not None:
        data = facts_to_json(observation.listing)
        facts[contents.digest_of(data)] = data
    return observation, list(zip(digests, frames, strict=True)), facts


def _within(conn: Connection, packed: Sequence[_Packed], per_host: int) -> list[_Packed]:
    """Cut observations so that no host adds more than it may in a day, and note what each host adds."""
    # Everything of a settled host is stored already.
    news = [{} if observation.facts and not facts else dict(frames) | facts for observation, frames, facts in packed]
    known = contents.known(conn, {digest for one in news for digest in one})
    # Faster than the level of put_many(), and hardly longer.
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
    upsert_rows(conn, stored, rows)
    return made


def _bounded(packed: _Packed, cost: Mapping[str, int], used: int, per_host: int) -> tuple[_Packed, int]:
    """Cut one observation; returns also how many bytes it adds.

    :param cost: digest: bytes of what is new in it
    :param used: bytes that its host added before on this day
    """
    observation, frames, facts = packed
    whole = sum(cost.values())
    if used + whole <= per_host:
        return packed, whole
    said = f"{used / 1024**2:.1f} MiB of its answers are stored of this day already (retention.per_host)"
    log.warning("%s: the raw answer is not kept: %s", plain(observation.host_id), said)
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
    log.warning("%s: %s", plain(observation.host_id), error)
    none = dataclasses.replace(observation, outcome=Outcome.INVALID, listing=None, error_class=TOO_MUCH, error=error)
    return (none, [], {}), 0


def _row(observation: Observation, frames: Sequence[str], facts: str | None = None) -> dict[str, Any]:
    return {name: getattr(observation, name) for name in _FIELDS} | {
        "outcome": observation.outcome.value,
        "error": observation.error and observation.error[:ERROR_LENGTH],
        "facts": facts or observation.facts,
        "frame": frames[0] if frames else None,
        "second_frame": frames[1] if len(frames) > 1 else None,
        "live": True,
    }


def refuse(conn: Connection, observations: Iterable[Observation]) -> None:
    """Note that observations with a listing are no evidence all the same; a replay reads them so.

    Their listings are stored anew when they are seen again, in case they are damaged.

    :param observations: as they are to be read from now on
    """
    names = ("host_id", "observed_at", "outcome", "error_class", "error")
    update_rows(conn, archived, [{name: getattr(one, name) for name in names} for one in observations])
    contents.doubt(conn, [one.facts for one in observations if one.facts])


def settle(conn: Connection, observations: Iterable[Observation]) -> None:
    """Note that observations were evaluated: a provisional one becomes final, so that a replay counts it as well."""
    rows = [
        {"host_id": one.host_id, "observed_at": one.observed_at, "provisional": False}
        for one in observations
        if one.provisional
    ]
    update_rows(conn, archived, rows)


def ignore(conn: Connection, run_id: str) -> None:
    """Let the observations of a run never be evaluated: the clock had gone back."""
    conn.execute(update(archived).where(archived.c.run_id == run_id).values(live=False))


def expire(conn: Connection, before: datetime, *, most: int | None = None) -> int:
    """Delete what is from before a moment: observations, runs, steps of the journal, checkpoints, old host lists, and
    contents that nothing refers to any more.

    The newest host list stays, however old: a run falls back to it.

    :param most: about so many observations, and so many contents; the rest waits for them. None: all of them
    :returns: number of observations or of contents deleted, the larger of the two
    """
    old = archived.c.observed_at < before
    if most is not None:
        first = select(archived.c.observed_at).where(old).order_by(archived.c.observed_at).limit(most).subquery()
        old = archived.c.observed_at <= select(func.max(first.c.observed_at)).scalar_subquery()
    gone = conn.execute(delete(archived).where(old)).rowcount
    if most is not None and gone >= most:
        return int(gone)
    conn.execute(delete(runs).where(runs.c.started_at < before))
    journal.expire(conn, before)
    checkpoints.expire(conn, before)
    newest = select(inventories.c.digest).order_by(inventories.c.fetched_at.desc()).limit(1).scalar_subquery()
    conn.execute(delete(inventories).where(inventories.c.fetched_at < before, inventories.c.digest != newest))
    unused = contents.expire(conn, before, most=most)
    return int(gone) if most is None else max(int(gone), unused)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def settled(conn: Connection, host_ids: Collection[str]) -> dict[str, SettledAnswer]:
    """Host id: the last answer of hosts that are settled and were asked but once."""
    query = (
        select(hosts.c.host_id, hosts.c.fingerprint, archived.c.frame, archived.c.facts)
        .join(archived, and_(archived.c.host_id == hosts.c.host_id, archived.c.observed_at == hosts.c.last_ok_at))
        .where(hosts.c.fingerprint.is_not(None), archived.c.frame.is_not(None), archived.c.facts.is_not(None))
        .where(archived.c.second_frame.is_(None))
    )
    rows = rows_in(conn, query, hosts.c.host_id, host_ids)
    return {row.host_id: SettledAnswer(row.fingerprint, row.frame, row.facts) for row in rows}


def observations_to_evaluate(
    conn: Connection,
    *,
    host_ids: Collection[str] | None = None,
    now: datetime | None = None,
    run_id: str | None = None,
) -> list[Observation]:
    """Observations that are newer than the last one evaluated of their host, oldest first, without listings.

    A provisional one counts only if its run did not observe its host again. What can't be read of the archive is no
    evidence, see :data:`DAMAGED`; an observation without a time, or with one far ahead, is deleted.

    :param host_ids: of these hosts only
    :param now: to tell what is far ahead; None: nothing is
    :param run_id: of a run whose own observations count although they are older: the clock may have gone back
    """
    asked = set(conn.execute(select(archived.c.host_id).distinct()).scalars() if host_ids is None else host_ids)
    found = [one for one in map(_observation, conn.execute(_unevaluated(conn))) if one.host_id in asked]
    # A host without a row was never evaluated: it is new in the list, and no prune took that over yet.
    others = asked.difference(one.host_id for one in found)
    known = {row.host_id for row in rows_in(conn, select(hosts.c.host_id), hosts.c.host_id, others)}
    query = select(*_COLUMNS).where(archived.c.live)
    found += map(_observation, rows_in(conn, query, archived.c.host_id, others - known))
    if run_id is not None:
        found += [one for one in map(_observation, conn.execute(_older(run_id))) if one.host_id in asked]
    found = _mended(conn, found, now)
    found.sort(key=in_time)
    last = {(one.host_id, one.run_id): one.observed_at for one in found}
    return [one for one in found if not one.provisional or one.observed_at == last[one.host_id, one.run_id]]


def _mended(conn: Connection, observations: Sequence[Observation], now: datetime | None) -> list[Observation]:
    """Write rows that can't be read as what they count as, so that each is told once and a replay reads the same.

    :returns: the observations that have a time that can be
    """
    kept = [one for one in observations if one.observed_at != EPOCH]
    if len(kept) < len(observations):
        ids = sorted({one.host_id for one in observations if one.observed_at == EPOCH})
        _warn_of_time(ids, "can't be read")
        if conn.dialect.name == "sqlite":
            # No other database takes what is no time. SQLite's calendar has no day for it.
            timeless = delete(archived).where(func.julianday(cast(archived.c.observed_at, Text)).is_(None))
            change_in(conn, timeless, archived.c.host_id, ids)
    limit = datetime.max.replace(tzinfo=UTC) if now is None else now + AHEAD
    ahead = [one for one in kept if one.observed_at > limit]
    # If most are ahead, the clock of this machine is behind.
    if ahead and (len(ahead) < FEW or 2 * len(ahead) <= len(kept)):
        # If they were evaluated, nothing of their hosts would be until then.
        ids = sorted({one.host_id for one in ahead})
        _warn_of_time(ids, "is more than a day ahead")
        change_in(conn, delete(archived).where(archived.c.observed_at > limit), archived.c.host_id, ids)
        kept = [one for one in kept if one.observed_at <= limit]
    damaged = [one for one in kept if one.error_class == DAMAGED]
    for one in damaged:
        log.warning("%s: %s. Other hosts are not affected", plain(one.host_id), one.error)
    update_rows(conn, archived, [_row(one, ()) for one in damaged])
    return kept


def _warn_of_time(host_ids: Sequence[str], why: str) -> None:
    shown = ", ".join(plain(host_id) for host_id in host_ids[:SHOWN])
    more = f" and {len(host_ids) - SHOWN} more" if len(host_ids) > SHOWN else ""
    log.warning("The time of an observation of %s%s %s: it is deleted, and no evidence", shown, more, why)


def readable(
    conn: Connection, observations: Sequence[Observation]
) -> tuple[list[Observation], dict[tuple[str, datetime], StorageError]]:
    """Observations with their listings, without those whose listing is gone, damaged or impossible.

    :returns: these; (host id, time): what is wrong with the others
    """
    data, damaged = contents.read_many(conn, [one.facts for one in observations if one.facts])
    listings: dict[str, Listing] = {}
    wrong: dict[str, str] = {digest: str(error) for digest, error in damaged.items()}
    for digest, facts in data.items():
        try:
            listings[digest] = _checked(facts_from_json(facts))
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            wrong[digest] = f"content {digest} is no observation: {error}"
    found, broken = [], {}
    for one in observations:
        if not one.facts:
            found.append(one)
        elif one.facts in listings:
            found.append(dataclasses.replace(one, listing=listings[one.facts]))
        else:
            why = wrong.get(one.facts, f"content {one.facts} is not in the archive (expired?)")
            broken[one.host_id, one.observed_at] = StorageError(
                f"what {one.host_id} showed at {one.observed_at:%Y-%m-%d %H:%M:%S} UTC can't be read: {why}"
            )
    return found, broken


def observed(conn: Connection, run_id: str, *, unevaluated: bool = False) -> dict[str, bool]:
    """Host id: whether a run's newest observation of it is final, not provisional.

    :param unevaluated: only of hosts whose newest observation was not evaluated yet: a person who clears the task that
        made it wants another one
    """
    query = (
        select(archived.c.host_id, archived.c.provisional, archived.c.observed_at, hosts.c.last_evaluated_at)
        .outerjoin(hosts, hosts.c.host_id == archived.c.host_id)
        .where(archived.c.run_id == run_id)
        .order_by(archived.c.observed_at)
    )
    return {
        host_id: not provisional
        for host_id, provisional, observed_at, evaluated_at in conn.execute(query)
        if not unevaluated or evaluated_at is None or observed_at > evaluated_at
    }


def observations_of(conn: Connection, run_id: str, named: Collection[tuple[str, datetime]] = ()) -> list[Observation]:
    """Every observation of a run, and others by host id and time, without listings, oldest first."""
    query = select(*_COLUMNS)
    rows = list(conn.execute(query.where(archived.c.run_id == run_id)))
    others = rows_in(
        conn, query.where(archived.c.run_id != run_id), archived.c.host_id, {host_id for host_id, _ in named}
    )
    rows += [row for row in others if (row.host_id, row.observed_at) in named]
    return sorted(map(_observation, rows), key=in_time)


def visits(conn: Connection, run_id: str) -> list[tuple[str, bool, float]]:
    """Host id, whether it gave evidence, and seconds, of every visit of a run."""
    query = select(archived.c.host_id, archived.c.outcome, archived.c.duration).where(archived.c.run_id == run_id)
    return [(host_id, outcome == Outcome.OK, duration) for host_id, outcome, duration in conn.execute(query)]


def scanned(conn: Connection, run_id: str) -> set[str]:
    """Ids of the hosts that a run observed, failures included."""
    return set(conn.execute(select(archived.c.host_id).where(archived.c.run_id == run_id)).scalars())


def last_observation(conn: Connection, host_id: str) -> Observation | None:
    """The last observation of a host, without its listing."""
    row = conn.execute(_newest(host_id, *_COLUMNS)).first()
    return None if row is None else _observation(row)


def last_listing(conn: Connection, host_id: str) -> Listing | None:
    """The listing of the last complete answer of a host, None if there is none or it has expired."""
    query = _newest(host_id, archived.c.facts).where(archived.c.facts.is_not(None), archived.c.outcome == Outcome.OK)
    digest = conn.execute(query).scalar()
    return facts_from_json(contents.get(conn, digest)) if digest else None


def latest_frames(conn: Connection, host_id: str) -> tuple[bytes, ...]:
    """The raw answers of the last observation of a host that got any."""
    query = _newest(host_id, archived.c.frame, archived.c.second_frame).where(archived.c.frame.is_not(None))
    return tuple(contents.get(conn, digest) for digest in conn.execute(query).first() or () if digest)


def _newest(host_id: str, *columns: Any) -> Select[Any]:
    query = select(*columns).where(archived.c.host_id == host_id)
    return query.order_by(archived.c.observed_at.desc()).limit(1)


def _unevaluated(conn: Connection) -> Any:
    """Observations that are newer than the last one evaluated of their host, of hosts that have a row.

    The archive has thousands of observations per host, and this wants the last one or two: the query forces one range
    of the primary key per host.
    """
    newer = archived.c.observed_at > func.coalesce(hosts.c.last_evaluated_at, EPOCH)
    if conn.dialect.name == "postgresql":
        # The planner makes no join of a subquery with OFFSET: is_simple_subquery() in its prepjointree.c.
        own = select(*_COLUMNS).where(archived.c.host_id == hosts.c.host_id, newer, archived.c.live)
        recent = own.offset(0).lateral("recent")
        return select(recent).select_from(hosts.join(recent, true()))
    # The plus keeps SQLite from using an index of hosts: https://www.sqlite.org/optoverview.html#uplus
    own_id: ColumnElement[str] = UnaryExpression(hosts.c.host_id, operator=custom_op("+"))
    return select(*_COLUMNS).where(archived.c.host_id == own_id, newer, archived.c.live)


def _older(run_id: str) -> Select[Any]:
    """Observations of a run that are older than the last one evaluated of their host, and were not evaluated."""
    since = func.coalesce(journal.evaluated_at(run_id).scalar_subquery(), EPOCH)
    unevaluated = (archived.c.run_id == run_id, archived.c.live, archived.c.observed_at > since)
    query = select(*_COLUMNS).join(hosts, hosts.c.host_id == archived.c.host_id)
    return query.where(*unevaluated, archived.c.observed_at < hosts.c.last_evaluated_at)


def _observation(row: Sequence[Any]) -> Observation:
    # By position, from a row that begins with _COLUMNS: a run makes as many as there are hosts.
    fields = dict(zip(_FIELDS, row, strict=False))
    if not all(map(isinstance, row, _TYPES)) or _wrong_of(fields) is not None:
        return _damaged(fields)
    return Observation(**fields | {"outcome": _OUTCOMES[fields["outcome"]]})


def _wrong_of(fields: Mapping[str, Any]) -> str | None:
    """The first field of a row whose value no observation has, if the types are right."""
    if fields["outcome"] not in _OUTCOMES:
        return "outcome"
    if not 0 <= fields["duration"] < _LONGEST:
        return "duration"
    if not 0 <= fields["try_number"] < 2**31:
        return "try_number"
    return next((name for name in ("observed_at", "logical_date") if fields[name] == EPOCH), None)


def _damaged(fields: Mapping[str, Any]) -> Observation:
    """What a row that can't be read counts as: no evidence of its host."""
    wrong = [name for name, right in zip(_FIELDS, _TYPES, strict=True) if not isinstance(fields[name], right)]
    wrong = wrong or [_wrong_of(fields) or ""]
    at, run_id = fields["observed_at"], fields["run_id"]
    return Observation(
        str(fields["host_id"]),
        run_id if isinstance(run_id, str) else "",
        0,
        at if isinstance(at, datetime) else EPOCH,
        Outcome.INVALID,
        error_class=DAMAGED,
        error=f"Its row in the archive is damaged, so it is no evidence: {wrong[0]} can't be read",
    )


# ── listings as JSON ────────────────────────────────────────────────────────────────────────────

_SELDOM = ("pid1_start", "reserved", "hung", "beyond", "udp_beyond")
"""Fields of a listing that are left out if they are empty, as they are for most hosts."""
_PLAIN = tuple(name for name in Listener.__slots__ if name not in ("owners", "more_owners"))


def facts_to_json(listing: Listing) -> bytes:
    """A listing as canonical JSON: equal listings give equal bytes."""
    value = {name: getattr(listing, name) for name in Listing.__slots__}
    listeners, udp = value.pop("listeners"), value.pop("udp")
    pieces = {name: as_json(item) for name, item in value.items() if name not in _SELDOM or item not in (None, ())}
    pieces["listeners"] = _listeners_to_json(listeners)
    if udp is not None:
        pieces["udp"] = _listeners_to_json(udp)
    return ("{" + ",".join(f'"{name}":{pieces[name]}' for name in sorted(pieces)) + "}").encode("ascii")


def facts_from_json(data: bytes) -> Listing:
    """The inverse of :func:`facts_to_json`."""
    value = json.loads(data)
    low, high = value.get("ephemeral", EPHEMERAL_DEFAULT)
    return Listing(
        **{name: value[name] for name in ("tool", "uid", "via", "boot_id", "netns", "version")},
        ephemeral=(low, high),
        listeners=tuple(_listener_from_json(item) for item in value["listeners"]),
        # Earlier versions did not say theirs.
        probe=value.get("probe", 1),
        reader=value.get("reader", 1),
        pid1_start=value.get("pid1_start"),
        reserved=tuple((low, high) for low, high in value.get("reserved", ())),
        hung=tuple(value.get("hung", ())),
        beyond=tuple((port, count) for port, count in value.get("beyond", ())),
        udp=tuple(_listener_from_json(item) for item in value["udp"]) if "udp" in value else None,
        udp_beyond=tuple((port, count) for port, count in value.get("udp_beyond", ())),
    )


def _listeners_to_json(listeners: Iterable[Listener]) -> str:
    # Piece by piece: as values, 65,000 listeners of one host take 50 MiB.
    return f"[{','.join(as_json(_listener_to_json(listener)) for listener in listeners)}]"


def _listener_to_json(listener: Listener) -> dict[str, Any]:
    value = {name: item for name in _PLAIN if (item := getattr(listener, name)) is not None}
    if listener.owners:
        value["owners"] = [[owner.pid, owner.program] for owner in listener.owners]
    if listener.more_owners:
        value["more_owners"] = listener.more_owners
    return value


def _listener_from_json(value: dict[str, Any]) -> Listener:
    owners = tuple(Owner(pid, program) for pid, program in value.pop("owners", ()))
    return Listener(**value, owners=owners)


def _checked(listing: Listing) -> Listing:
    """A listing, if a host can have shown it and both databases can store its numbers.

    :raises ValueError: if not
    """
    low, high = listing.ephemeral
    for name, number, end in (
        ("netns", listing.netns, 2**63),
        ("ephemeral", low, 2**31),
        ("ephemeral end", high, 2**31),
    ):
        if number is not None and not (type(number) is int and 0 <= number < end):
            raise ValueError(f"{name} is {_shown(number)}")
    for name, text in (("tool", listing.tool), ("boot_id", listing.boot_id)):
        if text is not None and not (isinstance(text, str) and len(text) <= limits.NAME):
            raise ValueError(f"{name} is {_shown(text)}")
    for listeners in (listing.listeners, listing.udp or ()):
        if len(listeners) > limits.ROWS:
            raise ValueError(f"{len(listeners)} sockets listen, more than {limits.ROWS}")
    for listener in (*listing.listeners, *(listing.udp or ())):
        if not (type(listener.port) is int and 0 <= listener.port < 65536):
            raise ValueError(f"a port is {_shown(listener.port)}")
        if not isinstance(listener.address, str):
            raise ValueError(f"an address is {_shown(listener.address)}")
    return listing


def _shown(value: object) -> str:
    return repr(value)[:80]
