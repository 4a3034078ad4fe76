"""INI inventories of Ansible.

https://docs.ansible.com/ansible/latest/collections/ansible/builtin/ini_inventory.html
"""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from typing import Any

from portmon.inventory.sources.ansible import EXPORT, AnsibleError, AnsibleInventory
from portmon.inventory.sources.ansible_names import expand

MAX_LINE = 16384
_SECTION = re.compile(r"\[([^:\]\s]+)(?::(\w+))?\]\s*(?:[#;].*)?")
_GROUP = re.compile(r"([^\s:\[\]]+)\s*(?:[#;].*)?")


def read_ini(text: str) -> AnsibleInventory:
    """The inventory in an INI file.

    :raises AnsibleError: with the line
    """
    if text.startswith("#!"):
        raise AnsibleError(f"is a script, which is not run: {EXPORT}", line=1)
    inventory = AnsibleInventory()
    group, kind = "ungrouped", "hosts"
    declared = {"all", "ungrouped"}
    named: dict[str, int] = {}
    # Not splitlines: it also breaks at signs that are part of a line here.
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if len(line) > MAX_LINE:
            # What reads a line into words takes time that grows with its square.
            raise AnsibleError(f"has more than {MAX_LINE} characters", line=number)
        try:
            section = _SECTION.fullmatch(line)
            if section:
                group, kind = section[1], section[2] or "hosts"
                if kind not in ("hosts", "children", "vars"):
                    raise AnsibleError(f"[{group}:{kind}] is unknown; known are :vars and :children")
                if kind == "vars":
                    named.setdefault(group, number)
                else:
                    declared.add(group)
                    inventory.add_group(group)
            elif line[0] == "[" and line[-1] == "]":
                raise AnsibleError(f"{line[:100]!r} is no section such as [web], [web:vars] or [web:children]")
            elif kind == "hosts":
                _host(inventory, group, line)
            elif kind == "vars":
                name, value = _assignment(line)
                inventory.add_group(group, variables={name: _value(value)})
            else:
                child = _GROUP.fullmatch(line)
                if not child:
                    raise AnsibleError(f"{line[:100]!r} is no group name")
                named.setdefault(child[1], number)
                inventory.add_group(group, child=child[1])
        except AnsibleError as error:
            raise AnsibleError(str(error), line=number) from None
    for name, number in named.items():
        if name not in declared:
            raise AnsibleError(f"there is no group {name!r}: no section [{name}] or [{name}:children]", line=number)
    return inventory


def _host(inventory: AnsibleInventory, group: str, line: str) -> None:
    try:
        pattern, *rest = shlex.split(line, comments=True)
    except ValueError as error:
        raise AnsibleError(f"{str(error).lower()} in {line[:100]!r}") from None
    names, port = expand(pattern)
    variables: dict[str, Any] = {} if port is None else {"ansible_port": port}
    for item in rest:
        name, value = _assignment(item)
        variables[name] = _value(value)
    for name in names:
        inventory.add_host(name, group=group, variables=variables)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        # Not the text itself: it may be part of a password with a space.
        raise AnsibleError("something is no key=value; a value with spaces needs quotes")
    return name.strip(), value.strip()


def _value(text: str) -> Any:
    """As Ansible reads it: a Python literal if it is one, else text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except Exception:
        # Whatever it fails with: RecursionError, MemoryError and SyntaxError come of long texts.
        return text
