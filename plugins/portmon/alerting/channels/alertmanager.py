"""Prometheus' Alertmanager, v2 API.

Alertmanager knows an alert by its labels alone, so they come from the event that began it and never change. It
refuses an alert that has a label without a valid name or ends before it begins, and a whole request for one
``generatorURL`` that is no URI (HTTP 422). This module sends none of these:
https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from portmon.alerting.channels.base import BaseChannel, HttpRequest, Outside
from portmon.fields import Text
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind
from portmon.text import REASON_LIMIT, inert, plain

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message
    from portmon.alerting.silences import SilencedElsewhere
    from portmon.model.alert import Alert

BATCH = 1000
"""Alerts of one request. Sent again, they are the same alerts: a delivery that fails halfway is repeated whole."""
LABEL_LIMIT = 200
"""Characters of a label's value."""
NAME_LIMIT = 100
"""Characters of a label's name."""
ASKED = 10.0
"""Seconds for an answer to what is silenced: it is for people who look, and holds nothing up."""
SIZE = 16 * 1024**2
"""Bytes of such an answer."""
SILENCED_ONLY = "active=false&inhibited=false&unprocessed=false&silenced=true&filter=job%3D%22portmon%22"
"""Which alerts are asked for."""
OWN_LABELS = frozenset({"alertname", "job", "host", "host_id", "port", "protocol", "program", "unit", "severity"})
"""Names that no label of a host can take."""


class AlertmanagerChannel(BaseChannel):
    """Prometheus' Alertmanager, v2 API: firing while something is wrong, resolved when it is over.

    Its own grouping, repeats and silences count: `alerts.repeat_every` does not concern it.
    """

    repeats_firing: ClassVar[bool] = True

    type: Literal["alertmanager"]
    name: Text = Field("alertmanager", description="unique name")
    conn_id: Text = Field("alertmanager_default", description="Airflow HTTP connection")

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Send the alerts; only 200 is a success. Alertmanager keeps the valid ones of a request that it calls bad."""
        alerts = payload(message)
        for begin in range(0, len(alerts), BATCH):
            body = json.dumps(alerts[begin : begin + BATCH]).encode()
            headers = {"Content-Type": "application/json"}
            outside.send(HttpRequest(self.name, self.conn_id, "api/v2/alerts", "POST", body, headers, ok=_is_ok))

    def silenced(self, alerts: Sequence[Alert], outside: Outside) -> Mapping[str, SilencedElsewhere]:
        """The silences of Alertmanager that match alerts. It is asked for them only if it says that there are any."""
        from portmon.alerting.silences import SilencedElsewhere

        wanted = {frozenset(labels(alert).items()): alert.id for alert in alerts}
        by_alert: dict[str, list[str]] = {}
        for posted in self._asked(outside, f"api/v2/alerts?{SILENCED_ONLY}"):
            alert_id = wanted.get(frozenset(posted["labels"].items()))
            if alert_id is not None and posted["status"]["silencedBy"]:
                by_alert[alert_id] = posted["status"]["silencedBy"]
        if not by_alert:
            return {}
        known = {one["id"]: one for one in self._asked(outside, "api/v2/silences")}
        found = {}
        for alert_id, ids in by_alert.items():
            own = [known[one] for one in ids if one in known and known[one]["status"]["state"] == "active"]
            if own:
                # The one that lasts longest: messages begin again when it ends.
                end, by, why = max(
                    (datetime.fromisoformat(one["endsAt"]), one["createdBy"], one["comment"]) for one in own
                )
                shown = f"silenced in Alertmanager by {plain(by)} until {end.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
                reason = plain(why.strip(), REASON_LIMIT)
                found[alert_id] = SilencedElsewhere(f"{shown}: {reason}" if reason else shown, end)
        return found

    def _asked(self, outside: Outside, path: str) -> list[Any]:
        """A list that Alertmanager answers."""
        limit = timedelta(seconds=ASKED)
        found = json.loads(outside.ask(HttpRequest(self.name, self.conn_id, path, "GET", ok=_is_ok, limit=limit), SIZE))
        return found if isinstance(found, list) else []


def _is_ok(status: int) -> bool:
    return status == 200


def payload(message: Message) -> list[dict[str, Any]]:
    """The alerts of a message, oldest first, each label set once.

    An alert that fires, and a notice, ends by itself at ``expires_at`` unless it is sent again.
    """
    pairs = sorted(message.linked(), key=lambda linked: (_begin(linked[0]), linked[0].id))
    # The end of an old alert after the beginning of the next one of the same port would end that as well.
    newest = {tuple(sorted(labels(linked[0]).items())): linked for linked in pairs}
    return [_posted(*linked, message) for linked in newest.values()]


def labels(alert: Alert) -> dict[str, str]:
    """The labels that identify an alert, from its first event: the same for as long as it lives."""
    first = alert.first
    host_id = _value(first.host_id)
    if first.host_id and host_id != first.host_id:
        # It was cut or changed, and must not be that of another host.
        host_id = f"{host_id}~{_digest(first.host_id)}"
    own = {
        "alertname": first.alert_row.alertname,
        "job": "portmon",
        "host": _value(first.host_name or first.host_id),
        "host_id": host_id,
        "port": str(first.port or ""),
        "protocol": _value(first.protocol),
        "program": _value(first.program),
        "unit": _value(first.unit),
        "severity": first.severity.value,
    }
    others = {name: _value(first.labels[given]) for given, name in _valid_names(first.labels).items()}
    return {name: value for name, value in {**others, **own}.items() if value}


def _posted(alert: Alert, link: str | None, page: str | None, message: Message) -> dict[str, Any]:
    begin = _begin(alert)
    end = (alert.ends_at or alert.event.at) if alert.role is AlertRole.RESOLVED else message.expires_at
    leads = {"page": page, "runbook_url": message.runbooks.get(alert.event.kind)}
    return {
        "labels": labels(alert),
        "annotations": _annotations(alert.event) | {name: address for name, address in leads.items() if address},
        "startsAt": _moment(begin),
        **({"endsAt": _moment(max(begin, end))} if end else {}),
        **({"generatorURL": link} if link and is_uri(link) else {}),
    }


def _begin(alert: Alert) -> datetime:
    return alert.event.at if alert.role is AlertRole.NOTICE else alert.starts_at


def _annotations(event: Event) -> dict[str, str]:
    port = f"{event.protocol or 'tcp'}/{event.port}" + (f" ({event.program})" if event.program else "")
    host = event.host_name or event.host_id or ""
    sentence = event.meaning.summary or event.kind.value.replace("_", " ")
    if event.kind is EventKind.RETIRED and event.port is None:
        withdrawn = bool(event.details.get("discarded"))
        sentence = "another machine had answered for {host}" if withdrawn else "{host} is not watched any more"
    if event.details.get("young") is True and event.kind is not EventKind.NEW:
        sentence += " (young: not watched for long)"
    found = {
        # Chat programs show it: nothing in it may notify or link.
        "summary": sentence.format(port=inert(plain(port.strip())), host=inert(plain(host.strip()))),
        "description": inert(plain(event.reason.strip(), REASON_LIMIT)),
        "kind": event.kind.value,
        "severity": event.severity.value,
        "at": _moment(event.at),
        "since": _moment(event.since),
        "last_seen": _moment(event.last_seen),
    }
    return {name: value for name, value in found.items() if value}


def _moment(moment: datetime | None) -> str:
    """RFC 3339 in UTC. Alertmanager keeps milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else ""


def _value(text: str | None) -> str:
    return plain((text or "").strip(), LABEL_LIMIT)


def _valid_names(given: Iterable[str]) -> dict[str, str]:
    """A host's label names to names that Alertmanager takes: no two the same, and independent of their order."""
    made = {name: _name(name) for name in given}
    counts = Counter(made.values())
    return {
        name: valid if valid == name or counts[valid] == 1 else f"{valid}_{_digest(name)}"
        for name, valid in made.items()
    }


def _name(name: str) -> str:
    valid = re.sub(r"[^A-Za-z0-9_]", "_", name[:NAME_LIMIT])
    if not valid or valid[0].isdigit():
        valid = f"_{valid}"
    return f"label_{valid}" if valid in OWN_LABELS else valid


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


_URI = (
    r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?"
    r"(?:[/?#](?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)?"
)


def is_uri(text: str) -> bool:
    """Whether a text is an http or https address that Alertmanager takes for one."""
    if not re.fullmatch(_URI, text):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
