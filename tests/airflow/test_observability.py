"""Metrics are read only where they go somewhere, and fail nothing. A live Airflow sends them in tests/e2e."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from airflow.sdk.observability import stats
from sqlalchemy import Connection

from portmon.airflow.observability import gauge
from portmon.storage.database import Database


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    found: dict[str, float] = {}
    monkeypatch.setattr(stats, "gauge", found.__setitem__)
    return found


def figures(_: Connection) -> Mapping[str, float]:
    return {"hosts_asked": 3}


@pytest.mark.parametrize("option", ["STATSD_ON", "OTEL_ON", "STATSD_DATADOG_ENABLED", None])
def test_they_are_read_only_if_they_go_somewhere(
    database: Database, sent: dict[str, float], monkeypatch: pytest.MonkeyPatch, option: str | None
) -> None:
    if option is not None:
        monkeypatch.setenv(f"AIRFLOW__METRICS__{option}", "True")
    gauge(database, figures)
    assert sent == ({} if option is None else {"portmon.hosts_asked": 3})


def test_what_goes_wrong_with_them_fails_no_task(
    database: Database, sent: dict[str, float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Connection) -> Mapping[str, float]:
        raise OSError("disk full")

    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    gauge(database, broken)
    assert sent == {}
    assert "No metrics of this run: disk full" in caplog.text
