"""Observations of the archive, with their listings and raw answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sqlalchemy import Connection, select

from portmon.model.observation import Observation
from portmon.storage import archive, contents
from portmon.storage.tables import observations as table


def seen(conn: Connection, looks: Sequence[Observation] | None = None) -> list[Observation]:
    """Observations with their listings.

    :param looks: default: the observations that wait for evaluation
    """
    found, broken = archive.readable(conn, archive.observations_to_evaluate(conn) if looks is None else looks)
    for error in broken.values():
        raise error
    return found


def with_frames(conn: Connection) -> list[Observation]:
    """The observations that wait for evaluation, with listings and raw answers."""
    found = []
    for look in seen(conn):
        own = (table.c.host_id == look.host_id, table.c.observed_at == look.observed_at)
        names = conn.execute(select(table.c.frame, table.c.second_frame).where(*own)).one()
        found.append(dataclasses.replace(look, frames=tuple(contents.get(conn, name) for name in names if name)))
    return found
