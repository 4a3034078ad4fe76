"""What Airflow's metrics and traces get of a run. docs/operations.md lists it.

The DAG file imports this module at every parse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.sdk.configuration import conf

from portmon.text import REASON_LIMIT, plain

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portmon.storage.database import Database

log = logging.getLogger(__name__)

_SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")
"""Options that send metrics anywhere."""


@contextmanager
def phase(name: str, **attributes: str | int) -> Iterator[None]:
    """A span of a trace, within that of the Airflow task; nothing unless ``[traces] otel_on``."""
    from opentelemetry import trace

    with trace.get_tracer("portmon").start_as_current_span(f"portmon.{name}", attributes=attributes):
        yield


def gauge(database: Database, figures: Callable[[Connection], Mapping[str, float]]) -> None:
    """Numbers for StatsD or OpenTelemetry, as ``[metrics]`` of airflow.cfg says. They are read only if one is on, and
    what goes wrong with them fails no task.
    """
    if not any(conf.getboolean("metrics", name, fallback=False) for name in _SWITCHES):
        return
    from airflow.sdk.observability import stats

    try:
        with database.begin() as conn:
            found = figures(conn)
    except Exception as error:
        log.warning("No metrics of this run: %s", plain(str(error), REASON_LIMIT))
        return
    for name, value in found.items():
        stats.gauge(f"portmon.{name}", value)


def gauge_alerts(database: Database) -> None:
    """The gauges of what is wrong and of what is not delivered yet."""
    from portmon.steps.figures import figures_of_alerts

    gauge(database, figures_of_alerts)
