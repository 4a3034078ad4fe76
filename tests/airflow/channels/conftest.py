"""Servers and connections for the tests of channels."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from aiosmtpd.controller import Controller

from tests.airflow.channels.samples import SECRET, Mailbox


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
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch, free_port: int) -> Iterator[Mailbox]:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port)
    controller.start()
    extra = {"disable_tls": True, "disable_ssl": True, "retry_limit": 0, "from_email": "portmon@example.com"}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": free_port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    yield box
    controller.stop()
