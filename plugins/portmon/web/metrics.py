"""Metrics for Prometheus, read from the database when they are asked for, at most every 15 seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.responses import Response

from portmon import __version__
from portmon.api import problems
from portmon.model.event import Severity
from portmon.storage import deliveries
from portmon.web import reading

router = APIRouter()
SECONDS = 15.0
"""How long an answer is kept."""


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
        now = datetime.now(UTC)
        with reading.reading() as conn:
            glance = reading.glance(conn, now)
            wrong = problems.severities(conn)
            waiting = Counter(one.channel for one in deliveries.unfinished(conn))
        done = glance.last_run
        if done is not None and done.finished_at is not None:
            yield _gauge(
                "last_success_timestamp_seconds", "end of the last run that was evaluated", done.finished_at.timestamp()
            )
            phases = GaugeMetricFamily("portmon_run_duration_seconds", "how long the last run took", labels=["phase"])
            phases.add_metric(["whole"], done.duration or 0.0)
            yield phases
        yield _by("hosts", "hosts of the CMDB", "state", glance.hosts)
        yield _by("ports", "watched ports", "state", glance.ports)
        yield _by("open_alerts", "what is wrong now", "severity", {one: wrong.get(one, 0) for one in Severity})
        yield _by("undelivered_messages", "events that a channel does not have yet", "channel", waiting)
        info = GaugeMetricFamily("portmon_build_info", "version of portmon", labels=["version"])
        info.add_metric([__version__], 1)
        yield info


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"portmon_{name}", help_, value=value)


def _by(name: str, help_: str, label: str, values: Any) -> GaugeMetricFamily:
    found = GaugeMetricFamily(f"portmon_{name}", help_, labels=[label])
    for value, count in values.items():
        found.add_metric([str(value)], count)
    return found
