"""By which terms a port is evaluated: those of its rule or declaration, else those of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from portmon.engine.owners import PortOwner, name_of
from portmon.model.event_kinds import Severity

if TYPE_CHECKING:
    from portmon.engine.config import States, Thresholds


@dataclass(frozen=True, slots=True)
class Given:
    """What a rule or declaration says of a port.

    :param owner: unit or program that must have it
    """

    thresholds: Thresholds | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """When changes of a port count.

    :param restarts: whether a restart is a change, or a note only
    :param severity: of everything that opens an alert of it; None: as the catalogue says
    :param owner: who must have it
    """

    down_after: int
    reboot_grace: timedelta
    restarts: Literal["change", "note"] = "change"
    severity: Severity | None = None
    owner: PortOwner | None = None


def terms_of(settings: States, given: Given | None = None) -> Terms:
    """The terms of a rule or declaration, with the settings where it gives none."""
    thresholds = given and given.thresholds
    owner = given and given.owner and _named(given.owner)
    if not thresholds:
        return Terms(settings.down_after, settings.reboot_grace, owner=owner or None)
    return Terms(
        settings.down_after if thresholds.down_after is None else thresholds.down_after,
        settings.reboot_grace if thresholds.reboot_grace is None else thresholds.reboot_grace,
        thresholds.restarts or "change",
        thresholds.severity,
        owner or None,
    )


def _named(owner: str) -> PortOwner:
    """The owner that a text names: a unit by its ending, else a program."""
    unit = name_of(owner)
    return PortOwner(unit) if unit else PortOwner(comms=(owner[:COMM],), programs=(owner,))


COMM = 15
"""Bytes of a program's name that the kernel keeps."""
