"""Hosts as the inventory lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Host:
    """A host as the CMDB knows it.

    :param id: the CMDB's stable id, by which everything about the host is stored
    :param address: what to connect to, a name or an IP address
    :param port: SSH port, None for the one of the host's connection
    :param labels: from the CMDB, for rules, groups and routes
    :param declared: TCP ports that the CMDB says must listen, in order
    :param owners: of those that a certain owner must have, the port and that owner: a unit or a program
    """

    id: str
    name: str
    address: str
    port: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    declared: tuple[int, ...] = ()
    owners: tuple[tuple[int, str], ...] = ()

    def shown(self) -> str:
        """Name and address for a message, or one of them if they are equal."""
        return self.name if self.name == self.address else f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class KnownHost(Host):
    """A stored host, as the CMDB knew it last.

    :param removed_at: when it left the CMDB
    :param duplicate_of: id of an entry that was there before and is the same machine
    """

    removed_at: datetime | None = None
    duplicate_of: str | None = None

    def as_host(self) -> Host:
        """The host as the CMDB knew it."""
        return Host(self.id, self.name, self.address, self.port, self.labels, self.declared, self.owners)


@dataclass(frozen=True, slots=True)
class InvalidHost:
    """An entry of the CMDB that cannot be used. Its host, if it has an id, is not pruned.

    :param position: 1-based place in the list, all pages counted
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
    :param source: for people, without credentials
    """

    hosts: tuple[Host, ...]
    invalid: tuple[InvalidHost, ...] = ()
    disabled: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class AcceptedList:
    """A host list that was accepted.

    :param hosts: size of the largest list accepted until then, this one included
    :param forced: the lists before it do not count any more
    """

    at: datetime
    hosts: int
    forced: bool
