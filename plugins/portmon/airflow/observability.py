"""What Airflow's metrics and traces get of a run. docs/operations.md lists it.

The DAG file imports this module at every parse.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portmon.storage.database import Database

log = logging.getLogger(__name__)


@contextmanager
def phase(name: str, **attributes: str | int) -> Iterator[None]:
    """A span of a trace, within that of the Airflow task; nothing unless ``[traces] otel_on``."""
    from opentelemetry import trace

    with trace.get_tracer("portmon").start_as_current_span(f"portmon.{name}", attributes=attributes):
        yield


def gauge(figures: Mapping[str, float]) -> None:
    """Numbers for StatsD or OpenTelemetry, as ``[metrics]`` of airflow.cfg says."""
    from airflow.sdk.observability import stats

    for name, value in figures.items():
        stats.gauge(f"portmon.{name}", value)


def gauge_alerts(database: Database) -> None:
    """The gauges of what is wrong and of what is not delivered yet."""
    from portmon.steps.figures import figures_of_alerts

    with database.begin() as conn:
        gauge(figures_of_alerts(conn))
