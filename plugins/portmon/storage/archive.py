"""Every look at a host: what was seen, as it was said, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, or_, select

from portmon.errors import StorageError
from portmon.models import EPHEMERAL_DEFAULT, Attempt, Listener, Observation, Outcome, Owner
from portmon.storage import contents
from portmon.storage.sql import insert_new
from portmon.storage.tables import hosts, inventories, observations, runs


def save_attempt(conn: Connection, attempt: Attempt) -> str:
    """Store one look at a host; a second time changes nothing.

    :returns: digest of what was seen; of a failed look, of what is said about it
    """
    facts = facts_to_json(attempt.observation) if attempt.observation else None
    frames = [contents.put(conn, frame, now=attempt.observed_at) for frame in attempt.frames[:2]]
    digest = contents.put(conn, facts, now=attempt.observed_at) if facts else None
    conn.execute(
        insert_new(conn, observations),
        {
            "host_id": attempt.host_id,
            "observed_at": attempt.observed_at,
            "run_id": attempt.run_id,
            "try_number": attempt.try_number,
            "logical_date": attempt.logical_date,
            "outcome": attempt.outcome.value,
            "error_class": attempt.error_class,
            "error": attempt.error,
            "facts": digest,
            "frame": frames[0] if frames else None,
            "second_frame": frames[1] if len(frames) > 1 else None,
            "duration": attempt.duration,
            "confirmed": attempt.confirmed,
            "live": True,
        },
    )
    return digest or f"{attempt.outcome}:{attempt.error_class}"


def attempts_to_judge(
    conn: Connection, *, host_ids: Collection[str] | None = None, frames: bool = False
) -> list[Attempt]:
    """Looks that are newer than the last one judged of their host, oldest first.

    :param host_ids: of these hosts only
    :param frames: with the raw answers; what they say is in the observation already
    :raises StorageError: if what was seen is gone or damaged
    """
    rows = conn.execute(
        select(observations)
        .outerjoin(hosts, hosts.c.host_id == observations.c.host_id)
        .where(
            observations.c.live,
            or_(hosts.c.last_judged_at.is_(None), observations.c.observed_at > hosts.c.last_judged_at),
        )
        .order_by(observations.c.observed_at, observations.c.host_id)
    ).all()
    wanted = [row for row in rows if host_ids is None or row.host_id in host_ids]
    facts = contents.get_many(conn, [row.facts for row in wanted if row.facts])
    seen = {digest: facts_from_json(data) for digest, data in facts.items()}
    raw: Mapping[str, bytes] = {}
    if frames:
        raw = contents.get_many(conn, [name for row in wanted for name in (row.frame, row.second_frame) if name])
    return [_attempt(row, seen, raw) for row in wanted]


def scanned(conn: Connection, run_id: str) -> set[str]:
    """Hosts that a run looked at, whatever came of it."""
    return set(conn.execute(select(observations.c.host_id).where(observations.c.run_id == run_id)).scalars())


def last_look(conn: Connection, host_id: str) -> Attempt | None:
    """The last look at a host, without what was seen."""
    row = conn.execute(
        select(observations)
        .where(observations.c.host_id == host_id)
        .order_by(observations.c.observed_at.desc())
        .limit(1)
    ).first()
    return None if row is None else _attempt(row, {row.facts: None}, {})


def last_seen(conn: Connection, host_id: str) -> Observation | None:
    """What the last complete answer of a host showed, None if there is none or it has expired."""
    digest = conn.execute(
        select(observations.c.facts)
        .where(observations.c.host_id == host_id, observations.c.facts.is_not(None))
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


def expire(conn: Connection, before: datetime, *, now: datetime) -> int:
    """Delete looks, runs and old host lists from before a moment, and contents that nobody needs any more.

    The newest host list stays, however old: it is what a run falls back to.

    :returns: number of looks deleted
    """
    gone = conn.execute(delete(observations).where(observations.c.observed_at < before)).rowcount
    conn.execute(delete(runs).where(runs.c.started_at < before))
    newest = select(inventories.c.digest).order_by(inventories.c.fetched_at.desc()).limit(1).scalar_subquery()
    conn.execute(delete(inventories).where(inventories.c.fetched_at < before, inventories.c.digest != newest))
    if gone:
        contents.expire(conn, now)
    return int(gone)


def _attempt(row: Any, seen: Mapping[str, Observation | None], raw: Mapping[str, bytes]) -> Attempt:
    if row.facts and row.facts not in seen:
        raise StorageError(
            f"what {row.host_id} showed at {row.observed_at} is not in the archive (content {row.facts})"
        )
    return Attempt(
        host_id=row.host_id,
        run_id=row.run_id,
        try_number=row.try_number,
        observed_at=row.observed_at,
        outcome=Outcome(row.outcome),
        logical_date=row.logical_date,
        observation=seen[row.facts] if row.facts else None,
        error_class=row.error_class,
        error=row.error,
        frames=tuple(raw[name] for name in (row.frame, row.second_frame) if name in raw),
        duration=row.duration,
        confirmed=row.confirmed,
    )


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
    }
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
    )


_FIELDS: Sequence[str] = ("protocol", "address", "port", "pid", "program", "zone", "uid", "inode", "unit")


def _listener_to_json(listener: Listener) -> dict[str, Any]:
    value = {name: getattr(listener, name) for name in _FIELDS}
    value["owners"] = [[owner.pid, owner.program] for owner in listener.owners] or None
    return {name: item for name, item in value.items() if item is not None}


def _listener_from_json(value: dict[str, Any]) -> Listener:
    owners = tuple(Owner(pid, program) for pid, program in value.pop("owners", ()))
    return Listener(**value, owners=owners)
