"""Servers and connections for the tests of channels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.airflow.channels.samples import SECRET
from tests.worlds import sshd
from tests.worlds.mailbox import Mailbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Apprise's encrypted mail looks for PGP, whose library imports it."""
    for item in items:
        if "channels" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"))


@pytest.fixture(autouse=True)
def _connection_x(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_X", json.dumps({"conn_type": "generic", "password": SECRET}))


@pytest.fixture
def free_port() -> int:
    return sshd.free_port()


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with closing(Mailbox()) as box:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(box.connection(retry_limit=0)))
        yield box
