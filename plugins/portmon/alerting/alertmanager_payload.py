"""Messages as Alertmanager's v2 API takes them.

Alertmanager knows an alert by its labels alone, so they come from the event that began it and never change. It
refuses alerts with a label that has no valid name or that end before they begin, and a whole request for one
``generatorURL`` that is no URI (HTTP 422). Nothing of the kind can leave here, whatever a host is called:
https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from portmon.alerting.message.render import Message
from portmon.model.alert import Alert
from portmon.model.event import AlertRole, Event, EventKind
from portmon.text import REASON_LIMIT, inert, plain

JOB = "portmon"
"""Value of the label ``job``."""
LABEL_LIMIT = 200
"""Characters of a label's value."""
NAME_LIMIT = 100
"""Characters of a label's name."""
OWN_LABELS = frozenset({"alertname", "job", "host", "host_id", "port", "protocol", "program", "unit", "severity"})
"""Names that no label of a host can take."""


def payload(message: Message) -> list[dict[str, Any]]:
    """The alerts of a message, oldest first, each label set once.

    What goes on, and what is told once, ends by itself at ``expires_at`` unless it is sent again.
    """
    links = message.links or (None,) * len(message.alerts)
    pairs = sorted(zip(message.alerts, links, strict=True), key=lambda pair: (_begin(pair[0]), pair[0].id))
    # The end of an old alert after the beginning of the next one of the same port would end that as well.
    newest = {tuple(sorted(labels(alert).items())): (alert, link) for alert, link in pairs}
    return [_posted(alert, link, message.expires_at) for alert, link in newest.values()]


def labels(alert: Alert) -> dict[str, str]:
    """What identifies an alert, from its first event: the same for as long as it lives."""
    first = alert.first
    own = {
        "alertname": first.alert_row.alertname,
        "job": JOB,
        "host": _value(first.host_name or first.host_id),
        "host_id": _identity(first.host_id),
        "port": str(first.port or ""),
        "protocol": _value(first.protocol),
        "program": _value(first.program),
        "unit": _value(first.unit),
        "severity": first.severity.value,
    }
    others = {name: _value(value) for name, value in _named(first.labels)}
    return {name: value for name, value in {**others, **own}.items() if value}


def _posted(alert: Alert, link: str | None, expires_at: datetime | None) -> dict[str, Any]:
    begin = _begin(alert)
    end = (alert.ends_at or alert.event.at) if alert.role is AlertRole.RESOLVED else expires_at
    posted: dict[str, Any] = {
        "labels": labels(alert),
        "annotations": _annotations(alert.event),
        "startsAt": _moment(begin),
    }
    if end is not None:
        posted["endsAt"] = _moment(max(begin, end))
    if link is not None and is_uri(link):
        posted["generatorURL"] = link
    return posted


def _begin(alert: Alert) -> datetime:
    return alert.event.at if alert.role is AlertRole.NOTICE else alert.starts_at


def _annotations(event: Event) -> dict[str, str]:
    what = f"{event.protocol or 'tcp'}/{event.port}"
    if event.program:
        what = f"{what} ({event.program})"
    sentence = event.meaning.summary or event.kind.value.replace("_", " ")
    if event.kind is EventKind.RETIRED and event.port is None:
        sentence = "{host} is not watched any more"
    told = {
        # Chat programs show it: nothing in it may notify or link.
        "summary": sentence.format(port=_shown(what), host=_shown(event.host_name or event.host_id)),
        "description": inert(plain(event.reason.strip(), REASON_LIMIT)),
        "kind": event.kind.value,
        "severity": event.severity.value,
        "at": _moment(event.at),
        "since": _moment(event.since) if event.since else "",
        "last_seen": _moment(event.last_seen) if event.last_seen else "",
    }
    return {name: value for name, value in told.items() if value}


def _shown(text: str | None) -> str:
    return inert(plain((text or "").strip()))


def _moment(moment: datetime) -> str:
    """RFC 3339 in UTC. Alertmanager keeps milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ── labels ──────────────────────────────────────────────────────────────────────────────────────

_VALID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _value(text: str | None) -> str:
    return plain((text or "").strip(), LABEL_LIMIT)


def _identity(text: str | None) -> str:
    """A value that is cut or changed, and yet no other one's."""
    shown = _value(text)
    return shown if shown == (text or "") else f"{shown}~{_digest(text or '')}"


def _named(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """A host's labels under names that Alertmanager takes, each its own whatever the order."""
    names = {name: _name(name) for name in given}
    for name, made in names.items():
        if made != name and _occurs_twice(made, names.values()):
            made = f"{made}_{_digest(name)}"
        yield made, given[name]


def _name(name: str) -> str:
    made = re.sub(r"[^A-Za-z0-9_]", "_", name[:NAME_LIMIT])
    if not _VALID.fullmatch(made):
        made = f"_{made}"
    return f"label_{made}" if made in OWN_LABELS else made


def _occurs_twice(name: str, names: Iterable[str]) -> bool:
    return sum(one == name for one in names) > 1


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


# ── links ───────────────────────────────────────────────────────────────────────────────────────

_URI = re.compile(
    r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?(?:[/?#](?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)?"
)


def is_uri(text: str) -> bool:
    """Whether a text is an http or https address that Alertmanager takes for one."""
    if not _URI.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
