"""Stored states of hosts and ports."""

from __future__ import annotations

from enum import StrEnum


class PortStatus(StrEnum):
    """Stored state of a port."""

    CANDIDATE = "candidate"
    UP = "up"
    DOWN = "down"


class HostStatus(StrEnum):
    """Stored state of a host."""

    NEW = "new"  # no ok observation yet, and not unreachable for long enough
    OK = "ok"
    UNREACHABLE = "unreachable"
