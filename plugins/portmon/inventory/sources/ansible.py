"""An Ansible inventory: groups, hosts, and which variable counts where. Nothing of Ansible is needed.

What only Ansible could work out (templates, vaults, plugins, scripts) is refused with the reason, for the host or
for the file. `ansible-inventory --list` writes an inventory of any kind as a file that can be read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from portmon.inventory.entries import Unusable, kind_of

EXPORT = "export it with `ansible-inventory -i … --list --output hosts.json` and name that file"
MAX_HOSTS = 100_000
"""More than these are a mistake in a range."""
MAX_NAMED = 1_000_000
"""How often hosts are named, and groups of all hosts together: a few lines with ranges can stand for billions."""
MAX_DEPTH = 50
"""Groups within groups."""

ANSIBLE_FIELDS = {
    "id": "name",
    "name": "name",
    "address": "address",
    "port": "port",
    "labels": {"group_*": "groups"},
}

_SSH = {"ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh"}
_IMPLIED = {"all", "ungrouped"}
_OWN_NAME = re.compile(r"\{\{\s*inventory_hostname\s*\}\}")


class AnsibleError(Exception):
    """Why an inventory can't be read.

    :param line: 1-based, if known
    """

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(f"line {line}: {message}" if line else message)


@dataclass(slots=True)
class _Group:
    hosts: set[str] = field(default_factory=set)
    children: set[str] = field(default_factory=set)
    variables: dict[str, Any] = field(default_factory=dict)


class AnsibleInventory:
    """Groups and hosts, as a reader of one of the formats adds them."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {"all": _Group(), "ungrouped": _Group()}
        self._hosts: dict[str, dict[str, Any]] = {}
        self._named = 0

    def add_group(self, name: str, *, child: str | None = None, variables: Mapping[str, Any] | None = None) -> None:
        """Add a group, or add to it."""
        group = self._groups.setdefault(name, _Group())
        if child is not None:
            self._groups.setdefault(child, _Group())
            group.children.add(child)
        group.variables.update(variables or {})

    def add_host(self, name: str, *, group: str, variables: Mapping[str, Any] | None = None) -> None:
        """Add a host to a group; what is said later of its variables counts.

        :raises AnsibleError: if there are too many
        """
        self._groups.setdefault(group, _Group()).hosts.add(name)
        self._hosts.setdefault(name, {}).update(variables or {})
        self._named += 1
        if len(self._hosts) > MAX_HOSTS:
            raise AnsibleError(f"has more than {MAX_HOSTS} hosts: is a range too long?")
        if self._named > MAX_NAMED:
            raise AnsibleError(f"names hosts more than {MAX_NAMED} times: is a range too long?")

    def set_variables(self, host: str, variables: Mapping[str, Any]) -> None:
        """Variables of a host; one that is in no group is ungrouped."""
        if host not in self._hosts:
            self.add_host(host, group="ungrouped")
        self._hosts[host].update(variables)

    def entries(self) -> Iterator[dict[str, Any]]:
        """One entry for each host, in order of appearance: ``name``, ``address``, ``port``, ``groups``, ``vars``.

        :raises AnsibleError: if groups contain each other
        """
        parents = self._parents()
        depths = self._depths(parents)

        @cache
        def within(name: str) -> frozenset[str]:
            return frozenset({name}).union(*(within(parent) for parent in parents[name]))

        direct: dict[str, set[str]] = {name: set() for name in self._hosts}
        for name, group in self._groups.items():
            for host in group.hosts:
                direct[host].add(name)
        memberships = 0
        for host, own in self._hosts.items():
            groups = {"all"}.union(*(within(name) for name in direct[host]))
            memberships += len(groups)
            if memberships > MAX_NAMED:
                raise AnsibleError(f"its hosts are in more than {MAX_NAMED} groups together")
            variables: dict[str, Any] = {}
            # https://docs.ansible.com/ansible/latest/inventory_guide/intro_inventory.html#how-variables-are-merged
            for name in sorted(groups, key=lambda one: (depths[one], self._priority(one), one)):
                variables |= self._groups[name].variables
            variables |= own
            yield _entry(host, sorted(groups - _IMPLIED), variables)

    def _priority(self, name: str) -> int:
        value = self._groups[name].variables.get("ansible_group_priority", 1)
        try:
            return int(value)
        except (TypeError, ValueError):
            raise AnsibleError(f"group {name!r}: ansible_group_priority is {value!r}, not a number") from None

    def _parents(self) -> dict[str, set[str]]:
        parents: dict[str, set[str]] = {name: set() for name in self._groups}
        for name, group in self._groups.items():
            for child in group.children:
                parents[child].add(name)
        return parents

    def _depths(self, parents: Mapping[str, set[str]]) -> dict[str, int]:
        """By group: how far below ``all`` it is, on the longest way."""
        depths: dict[str, int] = {"all": 0}
        waiting = {name: above - {"all"} for name, above in parents.items() if name != "all"}
        if parents["all"]:
            raise AnsibleError(f"the group 'all' is a child of {min(parents['all'])!r}")
        while waiting:
            ready = [name for name, above in waiting.items() if not above & waiting.keys()]
            if not ready:
                raise AnsibleError(f"the groups {', '.join(map(repr, sorted(waiting)))} contain each other")
            if max(depths.values()) >= MAX_DEPTH:
                raise AnsibleError(f"its groups are nested more than {MAX_DEPTH} levels deep")
            for name in ready:
                depths[name] = 1 + max((depths[above] for above in waiting.pop(name)), default=0)
        return depths


def _entry(host: str, groups: list[str], variables: Mapping[str, Any]) -> dict[str, Any]:
    usable = {key: _usable(key, value, host) for key, value in variables.items()}
    address = usable.get("ansible_host", usable.get("ansible_ssh_host", host))
    connection = usable.get("ansible_connection", "ssh")
    if isinstance(connection, Unusable):
        address = connection
    elif connection not in _SSH:
        address = Unusable(
            f"ansible_connection is {_shown(connection)}: only hosts that are reached by SSH can be watched; leave it "
            "out with cmdb.source.fields.enabled"
        )
    return {
        "name": host,
        "address": address,
        "port": usable.get("ansible_port", usable.get("ansible_ssh_port")),
        "groups": groups,
        "vars": usable,
    }


def _usable(name: str, value: Any, host: str) -> Any:
    if isinstance(value, Unusable):
        return Unusable(f"{name} {value.reason}")
    if isinstance(value, str):
        value = _OWN_NAME.sub(lambda _: host, value)
        if "{{" in value or "{%" in value:
            return Unusable(f"{name} is the template {_shown(value)}, which only Ansible can fill in")
    return value


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else kind_of(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
