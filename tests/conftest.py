"""Fixtures that several suites share, and a home for Airflow."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from pytest_httpserver import HTTPServer

from portmon.storage.database import Database
from tests.worlds.databases import migrated, migrated_postgres
from tests.worlds.postgres import Cluster, missing
from tests.worlds.waiting import skip_without

# Airflow reads its environment once, at import: tests get a home of their own before that.
_home = tempfile.mkdtemp(prefix="portmon-airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for name in [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_"))]:
    del os.environ[name]
os.environ["AIRFLOW_HOME"] = _home
# Tables are as wide as it says.
os.environ.pop("COLUMNS", None)
os.environ["XDG_CACHE_HOME"] = str(Path(_home, "cache"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__FERNET_KEY"] = ""

settings.register_profile("quick", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("full", max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("soak", max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


# A server notices that it is to end when it polls: by default every half second, for which each test would wait.
HTTPServer.thread_target = lambda self: self.server.serve_forever(poll_interval=0.02)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests, so that no process is left with one at the end. A test marked ``full`` is slow too."""
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker("slow")
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With PORTMON_SKIP_NOTHING a skipped test fails: where everything is installed, a skip hides a missing proof."""
    report = yield
    if report.skipped and os.environ.get("PORTMON_SKIP_NOTHING") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and PORTMON_SKIP_NOTHING is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL server of our own."""
    skip_without(missing())
    with closing(Cluster(tmp_path_factory.mktemp("postgres"))) as cluster:
        yield cluster


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> str:
    """A new, empty database."""
    return postgres_cluster.new_database()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'portmon.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated one of either kind."""
    if request.param == "sqlite":
        made = migrated(tmp_path / "portmon.db")
    else:
        made = migrated_postgres(request.getfixturevalue("postgres_cluster"))
    yield made
    made.dispose()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Database]:
    """Another migrated one, of SQLite, as for a replay."""
    made = migrated(tmp_path / "scratch.db")
    yield made
    made.dispose()
