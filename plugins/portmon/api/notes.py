"""Notes that people write on ports and units: what runs there, and whom to ask."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from portmon.api.hosts import find_host
from portmon.api.view import Text, View, place
from portmon.errors import RequestError
from portmon.model.numbers import port_of, protocol_of
from portmon.storage import actions, notes
from portmon.storage.actions import Action
from portmon.storage.notes import Note

LIMIT = 500
"""Characters of a note."""


class NoteView(View):
    """A note, see :class:`portmon.storage.notes.Note`."""

    text: Text
    author: Text
    at: datetime
    unit: Text = ""
    label: Text = ""


def write_note(
    conn: Connection,
    text: str,
    *,
    host: str = "",
    port: int | None = None,
    unit: str = "",
    label: str = "",
    author: str,
    now: datetime,
) -> str:
    """Write a note on a port of a host, or on a unit of the hosts with a label. An empty text removes the note.

    :param label: ``name=value``; empty: the unit on all hosts
    """
    text = text.strip()
    if len(text) > LIMIT:
        raise RequestError(f"a note has at most {LIMIT} characters")
    if bool(unit) == (port is not None) or bool(host) != (port is not None):
        raise RequestError("say what the note is about: a host and a port, or a unit")
    if label and "=" not in label:
        raise RequestError("a label is given as name=value")
    if port is not None:
        found = find_host(conn, host)
        note = Note(text, author, now, host_id=found.id, protocol=protocol_of(port), port=port_of(port))
        subject = place(found.name, port)
    else:
        note = Note(text, author, now, unit=unit, label=label)
        subject = f"{unit} of {label}" if label else unit
    before = notes.write(conn, note)
    old = {"text": before.text} if before is not None else None
    new = {"text": text} if text else None
    actions.record(conn, Action(now, author, "note", subject, "", old, new))
    return f"{subject}: {'the note is written' if text else 'the note is removed'}"
