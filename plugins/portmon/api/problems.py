"""What is wrong now: every open alert, worst first, with who was notified and what withholds its messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from portmon.alerting.silences import Acknowledgement, Withholding
from portmon.api.alerts import DeliveryView
from portmon.api.notes import NoteView
from portmon.api.view import Text, View
from portmon.model.alert import Alert, DeliveryStatus
from portmon.model.event import Event, units_of
from portmon.model.event_kinds import Severity
from portmon.storage import alerts, deliveries, notes, silences
from portmon.storage.notes import Notes

_WORST = list(Severity)


class ProblemView(View):
    """Something that is wrong and not over.

    :param id: of the alert
    :param kind: name of its row in the catalogue of events
    :param subject: ``port``, ``host``, ``fleet`` or ``monitor``
    :param run_id: of the run that saw it last, with the task and its place among the mapped ones, as far as known
    :param dispatched: False while no run has decided yet which channels are notified
    :param told: the newest message to each channel
    :param withheld: in words: what withholds its messages; None if nothing does
    :param acknowledged_by: who takes care of it
    :param silence: id of the silence or acknowledgement; None if it is a receiver's own, such as Alertmanager's
    """

    id: str
    kind: str
    subject: str
    severity: Severity
    host_id: Text | None
    host: Text | None
    labels: Mapping[Text, Text]
    protocol: str | None
    port: int | None
    program: Text | None
    unit: Text | None
    since: datetime
    last_seen: datetime | None
    reason: Text
    run_id: Text
    task: str | None
    map_index: int | None
    dispatched: bool
    told: tuple[DeliveryView, ...] = ()
    withheld: Text | None = None
    acknowledged_by: Text | None = None
    silence: int | None = None
    notes: tuple[NoteView, ...] = ()


class ProblemsView(View):
    """One page of what is wrong.

    :param firing: how many there are that nothing withholds
    :param withheld: how many are acknowledged or silenced
    :param by_kind: of the firing ones
    :param rows: of the page
    """

    firing: int
    withheld: int
    by_kind: Mapping[str, int]
    rows: tuple[ProblemView, ...]


def list_problems(
    conn: Connection,
    now: datetime,
    *,
    text: str = "",
    labels: Mapping[str, str] | None = None,
    kind: str = "",
    host_id: str = "",
    group: str = "",
    withheld: bool | None = None,
    limit: int = 200,
    offset: int = 0,
) -> ProblemsView:
    """What is wrong now: what nothing withholds first, then by severity, then the newest first.

    :param text: part of the name of a host, a program or a unit
    :param labels: of the host, all of which must be equal
    :param kind: name of a row of the catalogue
    :param group: a label by whose value the rows are sorted first
    :param withheld: only those that are, or are not, withheld
    """
    opened = alerts.standing(conn, host_id=host_id or None)
    in_force = silences.in_force(conn, now, {alert.event.host_id for alert, _ in opened if alert.event.host_id})
    elsewhere = silences.elsewhere(conn, [alert.id for alert, _ in opened], now)
    found = []
    for alert, dispatched in opened:
        event, host = alert.event, in_force.listed.get(alert.event.host_id or "")
        own = host.labels if host is not None else event.labels
        if (kind and event.meaning.name != kind) or not _is_named(event, text.lower()):
            continue
        if all(own.get(name) == value for name, value in (labels or {}).items()):
            by = in_force.withholds(event, alert.id)
            found.append(_Found(alert, dispatched, own, by, by.told() if by else elsewhere.get(alert.id)))
    firing = [one for one in found if one.withheld is None]
    by_kind = Counter(one.alert.event.meaning.name for one in firing)
    wanted = found if withheld is None else [one for one in found if (one.withheld is not None) == withheld]
    wanted.sort(key=lambda one: one.alert.starts_at, reverse=True)
    wanted.sort(
        key=lambda one: (one.withheld is not None, one.labels.get(group, ""), _WORST.index(one.alert.event.severity))
    )
    shown, written = wanted[offset : offset + limit], notes.all_(conn)
    statuses = deliveries.of_alerts(conn, [one.alert.id for one in shown])
    return ProblemsView(
        firing=len(firing),
        withheld=len(found) - len(firing),
        by_kind=dict(sorted(by_kind.items())),
        rows=tuple(one.view(statuses.get(one.alert.id, ()), written) for one in shown),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    alert: Alert
    dispatched: bool
    labels: Mapping[str, str]
    by: Withholding | None
    withheld: str | None

    def view(self, statuses: Sequence[DeliveryStatus], written: Notes) -> ProblemView:
        event = self.alert.event
        own = written.of(event.host_id or "", event.protocol, event.port, units_of(event), self.labels)
        return ProblemView(
            id=self.alert.id,
            kind=event.meaning.name,
            subject=event.meaning.subject,
            since=self.alert.starts_at,
            host=event.host_name,
            labels=self.labels,
            **{name: getattr(event, name) for name in _SAME},
            task=event.details.get("task"),
            map_index=event.details.get("map_index"),
            dispatched=self.dispatched,
            told=tuple(map(DeliveryView.model_validate, statuses)),
            withheld=self.withheld,
            acknowledged_by=self.by.author if isinstance(self.by, Acknowledgement) else None,
            silence=self.by and self.by.id,
            notes=tuple(map(NoteView.model_validate, own)),
        )


def severities(conn: Connection) -> Counter[Severity]:
    """How much is wrong now, by severity, withheld or not."""
    return Counter(alert.event.severity for alert, _ in alerts.standing(conn))


_SAME = (
    "severity",
    "host_id",
    "protocol",
    "port",
    "program",
    "unit",
    "last_seen",
    "reason",
    "run_id",
)


def _is_named(event: Event, text: str) -> bool:
    return any(text in (name or "").lower() for name in (event.host_name, event.program, event.unit))
