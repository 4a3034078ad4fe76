"""States that are stored of hosts and ports."""

from __future__ import annotations

from enum import StrEnum


class PortStatus(StrEnum):
    """Stored state of a port."""

    CANDIDATE = "candidate"
    UP = "up"
    DOWN = "down"


class HostStatus(StrEnum):
    """Stored state of a host."""

    NEW = "new"
    """No ok observation yet, not unreachable for long enough either."""
    OK = "ok"
    UNREACHABLE = "unreachable"
