"""State of earlier versions, brought into the present form: those before clocks of evidence, or before young ports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Text, or_, select, type_coerce, update

from portmon.model.state import HostStatus
from portmon.storage.conditions import FLEET, UNREACHABLE, of_host
from portmon.storage.sql import insert_rows, update_rows
from portmon.storage.tables import conditions, hosts, ports

_KEY = ("host_id", "protocol", "port")
OLD = timedelta(days=30)
"""What is known of a port for this long is not young, whatever the settings are."""


def upgrade_state(conn: Connection, now: datetime) -> None:
    """Give state of an earlier version what it lacks.

    Every host's evidence clock begins at 0 now. What is known of a port keeps its real age as evidence.

    :param now: when the state was as it is
    """
    lists = [type_coerce(ports.c[name], Text) != "[]" for name in ("changes", "notices")]
    since = [ports.c[name].is_not(None) for name in ("last_seen_at", "lost_since")]
    names = (*_KEY, "status", "status_since", "changes", "notices", "last_seen_at", "lost_since", "flapping_since")
    query = select(*(ports.c[name] for name in names)).where(or_(*lists, *since))
    for row in conn.execute(query).all():
        key = (ports.c[name] == getattr(row, name) for name in _KEY)
        conn.execute(update(ports).where(*key).values(**_clocks(row, now)))
    shared = select(hosts.c.duplicate_of).where(hosts.c.duplicate_of.is_not(None))
    twins = or_(hosts.c.duplicate_of.is_not(None), hosts.c.host_id.in_(shared))
    conn.execute(update(hosts).where(twins).values(shared=True))
    # Another machine can't be told from a reboot before the first answer by this version.
    conn.execute(update(hosts).values(fingerprint=None, tried_at=hosts.c.last_evaluated_at))
    listed = select(hosts).where(hosts.c.removed_at.is_(None), hosts.c.failures > 0)
    failing = conn.execute(listed.with_only_columns(hosts.c.host_id, hosts.c.status, hosts.c.failing_since)).all()
    insert_rows(
        conn,
        conditions,
        [
            {"name": of_host(UNREACHABLE, row.host_id), "since": row.failing_since or now, "details": {}}
            for row in failing
            if row.status == HostStatus.UNREACHABLE
        ],
    )
    own = {"runs": 1, "told": True, "counted_at": now.isoformat()}
    silent = sorted(row.host_id for row in failing if row.status != HostStatus.UNREACHABLE)
    conn.execute(update(conditions).where(conditions.c.name == FLEET).values(details={**own, "hosts": silent}))


def _clocks(row: Row[Any], now: datetime) -> dict[str, Any]:
    def clock(at: datetime) -> float:
        return (at - now).total_seconds()

    changes = [datetime.fromisoformat(at) for at in row.changes]
    return {
        "seen_clock": None if row.last_seen_at is None else clock(row.last_seen_at),
        "lost_clock": None if row.lost_since is None else clock(row.lost_since),
        "changes": [clock(at) for at in changes],
        "changed_at": changes[-1] if changes and row.flapping_since else None,
        "notices": [[kind, clock(datetime.fromisoformat(at))] for kind, at in row.notices],
    }


def with_parts(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a port, as JSON has it, with the changes of its owners and addresses by themselves.

    A port had them together before. They are those of one part without a name: what flaps goes on until it holds still.
    """
    changes = row.get("bind_changes") or []
    if not changes or isinstance(changes[0], list):
        return dict(row)
    own = {"recent": changes, "flapping_since": row["bind_flapping_since"], "at": row["bind_changed_at"]}
    return dict(row) | {"bind_changes": [["", own]]}


def upgrade_parts(conn: Connection) -> None:
    """Give each port that has changes of owners and addresses the present form, see :func:`with_parts`."""
    names = (*_KEY, "bind_changes", "bind_flapping_since", "bind_changed_at")
    query = select(*(ports.c[name] for name in names)).where(type_coerce(ports.c.bind_changes, Text) != "[]")
    rows = [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row._mapping.items()}
        for row in conn.execute(query)
    ]
    kept = (*_KEY, "bind_changes")
    update_rows(conn, ports, [{name: row[name] for name in kept} for row in map(with_parts, rows)])


def upgrade_youth(conn: Connection, now: datetime) -> None:
    """Let learned ports be young since they were first seen: they keep their real age as evidence.

    Those of a host's first look, declared ones and old ones stay mature.

    :param now: when the state was as it is
    """
    learned = (ports.c.declared.is_(None), ports.c.at_baseline.is_(False), ports.c.first_seen_at > now - OLD)
    names = (*(ports.c[name] for name in _KEY), ports.c.first_seen_at, hosts.c.evidence)
    query = select(*names).join(hosts, hosts.c.host_id == ports.c.host_id).where(*learned)
    rows = [
        dict(zip(_KEY, key, strict=True)) | {"young_since": evidence - (now - seen).total_seconds()}
        for *key, seen, evidence in conn.execute(query)
    ]
    update_rows(conn, ports, rows)
