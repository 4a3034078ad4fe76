"""SSH host keys: which are refused, and accepting one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection

from portmon.api.hosts import accept_host_key, list_host_keys
from portmon.errors import CommandError
from portmon.storage import host_keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def keys(conn: Connection) -> Connection:
    """Two endpoints, of which one offers another key."""
    for endpoint in ("[a]:22", "[b]:22"):
        host_keys.remember(conn, endpoint, "ssh-ed25519", "AAAA", "SHA256:a", NOW)
    host_keys.report_change(conn, "[a]:22", "ssh-ed25519", "BBBB", "SHA256:b", NOW)
    return conn


def shown(conn: Connection, *, changed: bool = False) -> list[tuple[str, str, bool]]:
    return [(key.endpoint, key.fingerprint, key.trusted) for key in list_host_keys(conn, changed=changed)]


def test_the_key_that_was_compared_is_trusted(keys: Connection) -> None:
    offers = [("[a]:22", "SHA256:a", True), ("[a]:22", "SHA256:b", False)]
    assert shown(keys) == [*offers, ("[b]:22", "SHA256:a", True)]
    assert shown(keys, changed=True) == offers
    assert (
        accept_host_key(keys, "[a]:22", "SHA256:b", author="ann", now=NOW)
        == "[a]:22 is trusted with its new key SHA256:b"
    )
    assert shown(keys) == [("[a]:22", "SHA256:b", True), ("[b]:22", "SHA256:a", True)]
    with pytest.raises(CommandError, match="no other key than the trusted one"):
        accept_host_key(keys, "[a]:22", "SHA256:b", author="ann", now=NOW)


def test_a_key_that_came_in_between_is_not(keys: Connection) -> None:
    host_keys.report_change(keys, "[a]:22", "ssh-ed25519", "CCCC", "SHA256:c", NOW)
    with pytest.raises(CommandError, match=r"it shows SHA256:c now\. Nothing was accepted"):
        accept_host_key(keys, "[a]:22", "SHA256:b", author="ann", now=NOW)
    assert ("[a]:22", "SHA256:a", True) in shown(keys)
