"""Metrics for Prometheus, read from the database when they are asked for, at most every 15 seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from starlette.responses import Response

from portmon import __version__
from portmon.airflow import settings
from portmon.api import problems
from portmon.model.event_kinds import EventKind, Severity
from portmon.model.state import HostStatus, PortStatus
from portmon.storage import deliveries, events, lookups
from portmon.web import reading

router = APIRouter()
SECONDS = 15.0
"""How long an answer is kept."""
MOST_SERIES = 10_000
"""Most hosts, and most ports, that have a series of their own."""
_IS_UP: Mapping[str, int] = {HostStatus.OK: 1, HostStatus.UNREACHABLE: 0, PortStatus.UP: 1, PortStatus.DOWN: 0}
"""Of a host that never answered, and a port that was seen too few times, it is not known."""


@router.get("/metrics", include_in_schema=False)
def show_metrics() -> Response:
    """Prometheus's text format."""
    return Response(reading.kept("metrics", _written, SECONDS), media_type=CONTENT_TYPE_LATEST)


def _written() -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collector())
    return generate_latest(registry)


class _Collector:
    """Everything that is measured, from one transaction."""

    def collect(self) -> Iterator[Any]:
        now, per_port = datetime.now(UTC), settings.metrics_per_port()
        with reading.reading() as conn:
            glance = reading.glance(conn, now)
            wrong = problems.severities(conn)
            waiting = Counter(one.channel for one in deliveries.waiting(conn))
            happened = events.counts(conn)
            hosts = lookups.host_series(conn, MOST_SERIES) if per_port else []
            ports = lookups.port_series(conn, MOST_SERIES) if per_port else []
        done = glance.last_run
        if done is not None and done.finished_at is not None:
            ended = done.finished_at.timestamp() + done.phases.get("diff", 0.0)
            yield _family("last_success_timestamp_seconds", "end of the last run that was evaluated", [((), ended)])
            whole = ended - done.started_at.timestamp()
            yield _by("run_duration_seconds", "how long the last run took", "phase", {**done.phases, "whole": whole})
        yield _by("hosts", "hosts of the CMDB", "state", glance.hosts)
        yield _by("ports", "watched ports", "state", glance.ports)
        yield _by("open_alerts", "what is wrong now", "severity", {one: wrong.get(one, 0) for one in Severity})
        yield _by("undelivered_messages", "events that a channel does not have yet", "channel", waiting)
        kinds = {kind.value: 0 for kind in EventKind} | happened
        yield _by("events", "events that runs made", "kind", kinds, family=CounterMetricFamily)
        yield _by("build_info", "version of portmon", "version", {__version__: 1})
        if per_port:
            yield _family(
                "host_up",
                "whether a host answers",
                [((host_id, name), _IS_UP[status]) for host_id, name, status in hosts if status in _IS_UP],
                labels=("host_id", "host"),
            )
            yield _family(
                "port_up",
                "whether a port listens, as far as is known",
                [((*of, str(port)), _IS_UP[status]) for *of, port, status in ports if status in _IS_UP],
                labels=("host_id", "host", "protocol", "port"),
            )
            # The counts of the fleet may be from a moment ago.
            left = {
                "host": max(0, sum(glance.hosts[one] for one in HostStatus) - len(hosts)),
                "port": max(0, sum(glance.ports[one] for one in PortStatus) - len(ports)),
            }
            yield _by("series_left_out", "hosts and ports beyond those that have one", "of", left)


def _by(name: str, help_: str, label: str, values: Mapping[Any, float], *, family: Any = GaugeMetricFamily) -> Any:
    """One metric with one label."""
    return _family(name, help_, [((value,), count) for value, count in values.items()], labels=(label,), family=family)


def _family(
    name: str,
    help_: str,
    samples: Iterable[tuple[tuple[str, ...], float]],
    *,
    labels: tuple[str, ...] = (),
    family: Any = GaugeMetricFamily,
) -> Any:
    found = family(f"portmon_{name}", help_, labels=labels)
    for values, count in samples:
        # Names may hold lone surrogates, which UTF-8 does not.
        found.add_metric([value.encode("utf-8", "backslashreplace").decode() for value in values], count)
    return found
