"""What the tests of the hook and of both operators that look at hosts share: an SSH server in this process, keys, the
state database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paramiko
import pytest

from portmon.storage import journal
from portmon.storage.database import Database
from tests.worlds.databases import migrated, start_run
from tests.worlds.netstat import FakeNetstat, listing
from tests.worlds.sshd import PythonServer, make_key, python_server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    database = migrated(tmp_path / "state.db")
    monkeypatch.setattr("portmon.airflow.settings.database", lambda **options: Database(database.url, **options))
    yield database
    database.dispose()


@pytest.fixture
def user_key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "id")


@pytest.fixture(scope="module")
def host_key(tmp_path_factory: pytest.TempPathFactory) -> paramiko.PKey:
    return paramiko.PKey.from_path(make_key(tmp_path_factory.mktemp("keys") / "host"))


@pytest.fixture
def netstat(tmp_path: Path) -> FakeNetstat:
    fake = FakeNetstat(tmp_path / "bin")
    fake.prints(listing(22, 80))
    return fake


@pytest.fixture
def server(host_key: paramiko.PKey, user_key: Path, netstat: FakeNetstat) -> Iterator[PythonServer]:
    with python_server(host_key=host_key, authorized=user_key, environment={"PATH": netstat.path}) as server:
        yield server


@pytest.fixture
def follow(database: Database) -> Callable[[str], None]:
    """Let a run begin, and a later one be evaluated since."""

    def follow(run_id: str) -> None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        with database.begin() as conn:
            start_run(conn, run_id, at, logical_date=at)
            inputs = journal.Inputs(timedelta(minutes=5))
            journal.evaluated(
                conn, "a later run", at=at + timedelta(minutes=5), inventory="", inputs=inputs, observed=()
            )

    return follow
