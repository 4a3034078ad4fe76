"""YAML inventories of Ansible, and what ``ansible-inventory --list`` prints.

https://docs.ansible.com/ansible/latest/collections/ansible/builtin/yaml_inventory.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from portmon.inventory.entries import Unusable, kind_of
from portmon.inventory.sources.ansible import EXPORT, AnsibleError, AnsibleInventory
from portmon.inventory.sources.ansible_names import expand
from portmon.untrusted.documents import DocumentError, NestingError, UniqueLoader, parse_json, parse_yaml, unique

VAULT = Unusable("is encrypted by Ansible Vault")


def read_yaml(text: str) -> AnsibleInventory:
    """The inventory in a YAML file.

    :raises AnsibleError: with the line if it is no YAML, else with the place
    """
    try:
        data = parse_yaml(text, loader=_Loader)
    except NestingError as error:
        raise AnsibleError(f"its groups are nested too deeply, or within themselves ({error})") from error
    except DocumentError as error:
        raise AnsibleError(error.message if error.line else f"is no YAML: {error.message}", line=error.line) from error
    inventory = AnsibleInventory()
    if data is None:
        return inventory
    if isinstance(data, Mapping) and isinstance(data.get("plugin"), str):
        raise AnsibleError(f"is the configuration of the inventory plugin {data['plugin']!r}: {EXPORT}")
    for name, group in _mapping(data, "the file").items():
        _group(inventory, _name(name, "a group"), group, "")
    return inventory


def _group(inventory: AnsibleInventory, name: str, data: Any, above: str) -> None:
    place = f"{above}{name}"
    inventory.add_group(name)
    for key, inner in _mapping(data, f"group {place}").items():
        if key == "vars":
            inventory.add_group(name, variables=_variables(inner, f"{place}.vars"))
        elif key == "hosts":
            for pattern, own in _mapping(inner, f"{place}.hosts").items():
                named = _name(pattern, f"{place}.hosts: a host")
                try:
                    hosts, port = expand(named)
                except AnsibleError as error:
                    raise AnsibleError(f"{place}.hosts: {error}") from None
                variables = {} if port is None else {"ansible_port": port}
                variables |= _variables(own, f"{place}.hosts.{named}")
                for host in hosts:
                    inventory.add_host(host, group=name, variables=variables)
        elif key == "children":
            for child, below in _mapping(inner, f"{place}.children").items():
                child_name = _name(child, f"{place}.children: a group")
                inventory.add_group(name, child=child_name)
                _group(inventory, child_name, below, f"{place}.children.")
        else:
            raise AnsibleError(f"group {place}: {key!r} is none of hosts, vars and children")


def _mapping(data: Any, place: str) -> Mapping[Any, Any]:
    if isinstance(data, str):
        return {data: None}
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise AnsibleError(f"{place} is {kind_of(data)}, not a mapping")
    return data


def _variables(data: Any, place: str) -> dict[str, Any]:
    if isinstance(data, str):
        raise AnsibleError(f"{place} is a text, not a mapping of variables")
    return {str(key): value for key, value in _mapping(data, place).items()}


def _name(value: Any, place: str) -> str:
    # Not even numbers: YAML reads 010 as 8, and 1:30 as 90.
    if not isinstance(value, str) or not value.strip():
        raise AnsibleError(f"{place} is named {value!r}, which is {kind_of(value)}: put its name in quotes")
    return value.strip()


class _Loader(UniqueLoader):
    """Knows Ansible's tags."""


def _unsafe(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    raise yaml.constructor.ConstructorError(None, None, "!unsafe is read for texts only", node.start_mark)


_Loader.add_constructor("!vault", lambda *_: VAULT)
_Loader.add_constructor("!vault-encrypted", lambda *_: VAULT)
_Loader.add_constructor("!unsafe", _unsafe)


# ── ansible-inventory --list ────────────────────────────────────────────────────────────────────


def read_json(text: str) -> AnsibleInventory:
    """The inventory that ``ansible-inventory --list`` printed.

    :raises AnsibleError: with the line if it is no JSON, else with the place
    """
    try:
        data = parse_json(text, pairs=_object)
    except DocumentError as error:
        raise AnsibleError(f"is no JSON: {error.message}", line=error.line) from error
    meta = data.get("_meta") if isinstance(data, Mapping) else None
    hostvars = meta.get("hostvars") if isinstance(meta, Mapping) else None
    if not isinstance(hostvars, Mapping):
        raise AnsibleError("has no _meta.hostvars: it must be what `ansible-inventory --list` prints")
    inventory = AnsibleInventory()
    for name, group in data.items():
        if name != "_meta":
            _json_group(inventory, name, group)
    for host, variables in hostvars.items():
        if not isinstance(variables, Mapping):
            raise AnsibleError(f"_meta.hostvars.{host} is {kind_of(variables)}, not a mapping")
        inventory.set_variables(host, variables)
    return inventory


def _json_group(inventory: AnsibleInventory, name: str, data: Any) -> None:
    if isinstance(data, list):
        data = {"hosts": data}
    if not isinstance(data, Mapping):
        raise AnsibleError(f"group {name} is {kind_of(data)}, not a mapping")
    unknown = sorted(set(data) - {"hosts", "children", "vars"})
    if unknown:
        raise AnsibleError(f"group {name}: {unknown[0]!r} is none of hosts, vars and children")
    inventory.add_group(name, variables=_variables(data.get("vars"), f"{name}.vars"))
    for host in _names(data.get("hosts"), f"{name}.hosts"):
        inventory.add_host(host, group=name)
    for child in _names(data.get("children"), f"{name}.children"):
        inventory.add_group(name, child=child)


def _names(data: Any, place: str) -> list[str]:
    if data is None:
        return []
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise AnsibleError(f"{place} is not a list of names")
    return data


def _object(pairs: list[tuple[str, Any]]) -> Any:
    value = unique(pairs)
    if value.keys() == {"__ansible_vault"}:
        return VAULT
    if value.keys() == {"__ansible_unsafe"}:
        return value["__ansible_unsafe"]
    return value
