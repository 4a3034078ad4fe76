"""Who holds a port: the names of units and programs by which two looks are compared. Pure."""

from __future__ import annotations

from collections.abc import Iterable

_SERVICES = (".service", ".socket")
_NO_NAMES = ("run-", "dbus-")
"""Units whose names are made up each time."""


def services_of(units: Iterable[str]) -> frozenset[str]:
    """The names of units that mean the same after a restart: services and sockets, a template without its instance.

    A scope or a session has no such name, nor has a container, whose id is new each time.
    """
    return frozenset(_without_instance(unit) for unit in units if is_service(unit))


def is_service(unit: str) -> bool:
    """Whether a unit is a service or a socket with a name of its own."""
    return unit.endswith(_SERVICES) and not unit.startswith(_NO_NAMES)


def containers_of(units: Iterable[str]) -> frozenset[str]:
    """The ids of containers, such as ``docker:0123456789ab``."""
    return frozenset(unit for unit in units if ":" in unit and not unit.endswith((*_SERVICES, ".scope")))


def _without_instance(unit: str) -> str:
    name, dot, kind = unit.rpartition(".")
    template, at, _ = name.partition("@")
    return f"{template}{at}{dot}{kind}"
