"""A state database that knows a few hosts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection

from portmon.model.host import Host
from portmon.storage import hosts
from tests.worlds.databases import migrated

NASTY = "[red]\x1b[31m\u202eevil\udcff"


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Connection]:
    """An open transaction: three hosts that are listed, one that left."""
    database = migrated(tmp_path / "state.db")
    with database.begin() as made:
        listed = [
            Host("1", "web1", "10.0.0.1", labels={"role": "web"}),
            Host("2", NASTY, "10.0.0.2", labels={"role": "web"}),
            Host("3", "db1", "10.0.0.3"),
            Host("4", "web4", "10.0.0.4"),
        ]
        hosts.sync(made, listed)
        hosts.hide(made, ["4"], datetime(2026, 1, 1, tzinfo=UTC))
        yield made
    database.dispose()
