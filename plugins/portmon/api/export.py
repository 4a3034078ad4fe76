"""Everything that is known of ports, hosts, alerts and events as rows of plain values, one by one: for files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, TextIO

from sqlalchemy import Connection

from portmon.api import alerts
from portmon.storage import deliveries, lookups
from portmon.storage.lookups import EventFilter, HostFilter, PortFilter, reach_of
from portmon.text import plain

COLUMNS: Mapping[str, Mapping[str, type]] = {
    "ports": {
        "host": str,
        "host_id": str,
        "host_status": str,
        "protocol": str,
        "port": int,
        "status": str,
        "status_since": datetime,
        "first_seen_at": datetime,
        "last_seen_at": datetime,
        "flapping_since": datetime,
        "hidden_since": datetime,
        "programs": tuple,
        "units": tuple,
        "addresses": tuple,
        "reach": str,
        "declared": str,
    },
    "hosts": {
        "name": str,
        "host_id": str,
        "address": str,
        "ssh_port": int,
        "labels": tuple,
        "status": str,
        "status_since": datetime,
        "failures": int,
        "failing_since": datetime,
        "last_ok_at": datetime,
        "error_class": str,
        "error": str,
        "tool": str,
    },
    "alerts": {
        "since": datetime,
        "kind": str,
        "severity": str,
        "host": str,
        "host_id": str,
        "port": int,
        "program": str,
        "unit": str,
        "reason": str,
        "told": tuple,
        "withheld": str,
        "id": str,
    },
    "events": {
        "at": datetime,
        "kind": str,
        "severity": str,
        "host": str,
        "host_id": str,
        "protocol": str,
        "port": int,
        "program": str,
        "unit": str,
        "reason": str,
        "run_id": str,
        "told": tuple,
        "id": str,
    },
}
"""What can be exported: its columns, each with the type of its values, which may all be None; a tuple is of texts."""
_AT_ONCE = 1000
"""Events whose messages are looked up together."""
Row = Mapping[str, Any]


def ports(conn: Connection, wanted: PortFilter) -> Iterator[Row]:
    """Ports of the hosts of the CMDB, by host and number."""
    for row in lookups.each_port(conn, wanted):
        yield _row("ports", {**row, "host": row["host_name"], "reach": reach_of(row["addresses"])})


def hosts(conn: Connection, wanted: HostFilter) -> Iterator[Row]:
    """Hosts of the CMDB, by name."""
    for row in lookups.each_host(conn, wanted):
        labels = tuple(f"{name}={value}" for name, value in sorted(row["labels"].items()))
        yield _row("hosts", {**row, "labels": labels})


def open_alerts(conn: Connection, now: datetime) -> Iterator[Row]:
    """Open alerts, oldest first."""
    for one in alerts.list_alerts(conn, now):
        told = tuple(f"{sent.channel}: {sent.state}" for sent in one.told)
        withheld = one.withheld.told if one.withheld else None
        yield _row("alerts", {**dict(one), "told": told, "withheld": withheld})


def events(conn: Connection, wanted: EventFilter) -> Iterator[Row]:
    """Events, newest first."""
    found = lookups.each_event(conn, wanted)
    while part := list(islice(found, _AT_ONCE)):
        told: dict[str, list[str]] = {}
        for (event_id, channel), status in deliveries.of_events(conn, [event.id for event in part]).items():
            told.setdefault(event_id, []).append(f"{channel}: {status.state}")
        for event in part:
            given = {name: getattr(event, name, None) for name in COLUMNS["events"]}
            own = {"kind": event.meaning.name, "host": event.host_name, "told": tuple(told.get(event.id, ()))}
            yield _row("events", given | own)


def _row(what: str, given: Mapping[str, Any]) -> Row:
    return {name: _value(given[name], kind) for name, kind in COLUMNS[what].items()}


def _value(value: Any, kind: type) -> Any:
    """As the column has it, in UTF-8: a name of a host may hold bytes that are none."""
    if value is None or kind in (int, datetime):
        return value
    return tuple(map(_text, value)) if kind is tuple else _text(value)


def _text(value: Any) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def write_csv(out: TextIO, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV: lists with spaces between, times in ISO 8601, and no value that a spreadsheet calculates."""
    names = list(columns)
    writer = csv.writer(out)
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in names])


def _cell(value: Any) -> str:
    """A value that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    text = plain(" ".join(map(str, value)) if isinstance(value, tuple) else str(value), 1000)
    return f"'{text}" if text[:1] in set("=+-@＝＋－＠") else text


def write_json(out: TextIO, rows: Iterable[Row]) -> None:
    """Write rows as JSON, an object a line, times in ISO 8601."""
    for row in rows:
        out.write(json.dumps(row, default=datetime.isoformat) + "\n")
