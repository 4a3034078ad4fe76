"""Hosts as the inventory lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Host:
    """A server as the CMDB knows it.

    :param id: the CMDB's stable id; the key of everything
    :param name: shown to people
    :param address: what to connect to, a name or an IP address
    :param port: SSH port, None for the one of the host's connection
    :param labels: from the CMDB, for rules, groups and routes
    :param declared: TCP ports that the CMDB says must listen, in order
    """

    id: str
    name: str
    address: str
    port: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    declared: tuple[int, ...] = ()

    def shown(self) -> str:
        """Name and address for a message, the address only where it says more."""
        return self.name if self.name == self.address else f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class KnownHost(Host):
    """A host as it is stored: as the CMDB knew it last.

    :param removed_at: when it left the CMDB; None while it is in
    """

    removed_at: datetime | None = None

    def as_host(self) -> Host:
        """The same without what the CMDB does not say."""
        return Host(self.id, self.name, self.address, self.port, self.labels, tuple(self.declared))


@dataclass(frozen=True, slots=True)
class InvalidHost:
    """An entry of the CMDB that cannot be used.

    :param position: 1-based place in the list, all pages counted
    :param id: its id as far as it has one; a host of this id is not pruned
    :param name: its name as far as it has one
    :param reason: what is wrong, for people
    """

    position: int
    id: str | None
    name: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """One complete answer of the CMDB.

    :param hosts: valid, enabled entries; ids are unique
    :param invalid: entries that are present but unusable; not scanned, never pruned
    :param disabled: number of entries that the ``enabled`` filter left out
    :param source: what was asked, for people, without credentials
    """

    hosts: tuple[Host, ...]
    invalid: tuple[InvalidHost, ...] = ()
    disabled: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class AcceptedList:
    """A host list that was taken over.

    :param hosts: of the largest list in force until then, its own included
    :param forced: those before it do not count any more
    """

    at: datetime
    hosts: int
    forced: bool
