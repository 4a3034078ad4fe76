"""What people wrote about ports and units: one note per subject."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from portmon.storage.tables import notes


@dataclass(frozen=True, slots=True)
class Note:
    """A note on a port of a host, or on a unit.

    :param label: ``name=value`` of the hosts whose unit is meant; empty: of all hosts
    """

    text: str
    author: str
    at: datetime
    host_id: str = ""
    protocol: str = ""
    port: int = 0
    unit: str = ""
    label: str = ""


def write(conn: Connection, note: Note) -> Note | None:
    """Write a note, instead of the one that its subject has; an empty text removes that.

    :returns: the note before
    """
    same = [notes.c[name] == getattr(note, name) for name in _SUBJECT]
    row = conn.execute(select(*_COLUMNS).where(*same)).first()
    conn.execute(delete(notes).where(*same))
    if note.text:
        conn.execute(insert(notes), {name: getattr(note, name) for name in Note.__dataclass_fields__})
    return None if row is None else Note(*row)


def all_(conn: Connection) -> Notes:
    """Every note."""
    return Notes(Note(*row) for row in conn.execute(select(*_COLUMNS).order_by(notes.c.at)))


class Notes:
    """Notes, looked up by what they are about."""

    def __init__(self, found: Iterable[Note]) -> None:
        self._ports: dict[tuple[str, str, int], Note] = {}
        self._units: dict[str, list[Note]] = {}
        for note in found:
            if note.unit:
                self._units.setdefault(note.unit, []).append(note)
            else:
                self._ports[note.host_id, note.protocol, note.port] = note

    def of(
        self,
        host_id: str,
        protocol: str | None,
        port: int | None,
        units: Iterable[str | None],
        labels: Mapping[str, str],
    ) -> list[Note]:
        """The note on a port, then those on its units that are meant for a host with these labels."""
        # A name may hold an equals sign too.
        own_labels = {f"{name}={value}" for name, value in labels.items()}
        own = self._ports.get((host_id, protocol or "", port or 0))
        wide = [
            note
            for unit in units
            for note in self._units.get(unit or "", ())
            if not note.label or note.label in own_labels
        ]
        return [own, *wide] if own is not None else wide


_SUBJECT = ("host_id", "protocol", "port", "unit", "label")
_COLUMNS = tuple(notes.c[name] for name in Note.__dataclass_fields__)
