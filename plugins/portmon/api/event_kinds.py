"""What the catalogue of events says to a page: of each row its severity, what it is about, and how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping

from portmon.api.view import View
from portmon.model.event_kinds import EventKind, Meaning, Severity


class KindView(View):
    """A row of the catalogue.

    :param label: in English
    :param role: ``firing``, ``resolved`` or ``notice``; None for a note
    :param kind: the kind that stored events of this row have
    """

    name: str
    label: str
    kind: EventKind
    subject: str
    severity: Severity
    role: str | None
    task: str | None


def _view(kind: EventKind, row: Meaning) -> KindView:
    return KindView(
        name=row.name,
        label=row.name.replace("_", " "),
        kind=kind,
        subject=row.subject,
        severity=row.severity,
        role=row.role,
        task=row.group and f"alert_{row.group}",
    )


KINDS: Mapping[str, KindView] = {row.name: _view(kind, row) for kind in EventKind for row in kind.rows}
"""Name of a row, variants included: the row."""
