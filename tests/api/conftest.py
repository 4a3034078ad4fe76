"""A state database that knows a few hosts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.worlds.alerts import list_hosts
from tests.worlds.databases import migrated

NASTY = "[red]\x1b[31m\u202eevil\udcff"


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Connection]:
    """An open transaction: three hosts that are listed, one that left."""
    database = migrated(tmp_path / "state.db")
    with database.begin() as made:
        list_hosts(made, NASTY, left_at=datetime(2026, 1, 1, tzinfo=UTC))
        yield made
    database.dispose()
