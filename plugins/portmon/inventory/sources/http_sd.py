"""Target groups of a Prometheus HTTP service discovery.

https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field

from portmon.fields import PositiveDuration, QueryValue, Section, Text, Texts
from portmon.inventory.entries import LABEL_LIMIT, UnusableValue, kind_of
from portmon.inventory.entry_fields import PresetFields
from portmon.inventory.sources.http import HttpSource, OverHttp

_PRESET = {"id": "address", "name": "address", "address": "address", "port": "port", "labels": {"*": "labels"}}
_HOST_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^\s:/\[\]]+))(?::([0-9]{1,5}))?")


class HttpSdSource(Section, OverHttp):
    """Targets of a Prometheus HTTP service discovery. URL and credentials are in the Airflow connection."""

    type: Literal["http_sd"]
    conn_id: Text = Field("cmdb_default", description="Airflow HTTP connection")
    endpoint: str = Field("", description="path below the connection's host")
    params: Mapping[str, QueryValue] = Field(default_factory=dict, description="query parameters")
    timeout: PositiveDuration = Field(timedelta(seconds=30), description="of the request")
    target_port: bool = Field(
        False, description="take the target's port as SSH port; it is an exporter's, as a rule, and not used"
    )
    meta_labels: Texts = Field((), description="globs: labels that begin with `__` and are labels of the host too")
    fields: PresetFields = Field(default_factory=PresetFields, description="where fields are, if not where usual")

    def lists(self) -> Iterator[HttpSource]:
        """See :meth:`OverHttp.lists`."""
        given = self.model_dump(include={"conn_id", "endpoint", "params", "timeout"})
        yield HttpSource(**given, fields=self.fields.over(_PRESET))

    def unpack(self, listed: list[Any]) -> list[Any]:
        """See :meth:`OverHttp.unpack`."""
        return read_targets(listed, target_port=self.target_port, meta=self.meta_labels)


def read_targets(groups: Iterable[Any], *, target_port: bool = False, meta: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One entry for each host: ``address``, ``port``, ``targets``, ``labels`` and ``all`` labels.

    Targets of one host, whatever their ports and groups, are one entry. A label for which they have different
    values is a list of these.

    :param groups: ``{"targets": ["10.0.0.1:9100"], "labels": {"role": "web"}}``
    :param target_port: the targets' port is SSH's
    :param meta: globs on labels that begin with ``__``: those that count as labels of the host too
    :raises ValueError: with the number of a malformed group
    """
    entries: dict[str, dict[str, Any]] = {}
    broken = []
    for number, group in enumerate(groups, start=1):
        targets, labels = _group(group, number)
        for target in targets:
            host, port = _host_port(target)
            if host is None:
                reason = UnusableValue(f"the target {str(target)[:100]!r} is not host:port")
                broken.append({"address": reason, "targets": [target], "labels": labels, "all": labels})
                continue
            entry = entries.setdefault(host, {"address": host, "port": None, "targets": [], "all": {}})
            entry["targets"].append(target)
            if target_port and port is not None:
                entry["port"] = _merged(entry["port"], port)
            for name, value in labels.items():
                entry["all"][name] = _merged(entry["all"].get(name), value)
    for entry in entries.values():
        entry["labels"] = {
            name: value
            for name, value in entry["all"].items()
            if not name.startswith("__") or any(fnmatchcase(name, glob) for glob in meta)
        }
        if isinstance(entry["port"], list):
            ports = ", ".join(map(str, entry["port"]))
            entry["port"] = UnusableValue(f"its targets have the ports {ports}: which is SSH's?")
    return [*entries.values(), *broken]


def _group(group: Any, number: int) -> tuple[list[Any], Mapping[str, Any]]:
    if not isinstance(group, Mapping):
        raise ValueError(f"group {number} is {kind_of(group)}, not a mapping of targets and labels")
    targets, labels = group.get("targets"), group.get("labels")
    if not isinstance(targets, list):
        raise ValueError(f"group {number}: 'targets' is {kind_of(targets)}, not a list")
    if labels is not None and not isinstance(labels, Mapping):
        raise ValueError(f"group {number}: 'labels' is {kind_of(labels)}, not a mapping")
    return targets, labels or {}


def _host_port(target: Any) -> tuple[str | None, int | None]:
    text = target.strip() if isinstance(target, str) else ""
    with suppress(ValueError):
        # An IPv6 address without brackets can't have a port.
        return str(ipaddress.ip_address(text)), None
    with suppress(ValueError):
        if match := _HOST_PORT.fullmatch(text):
            # Lower case: a host that is also written in capitals is still one host, with one id.
            host = str(ipaddress.ip_address(match[1])) if match[1] else match[2].lower()
            return host, int(match[3]) if match[3] else None
    return None, None


def _merged(old: Any, new: Any) -> Any:
    """One value, or a list of different ones."""
    if old is None or old == new:
        return new
    values = old if isinstance(old, list) else [old]
    # Enough to be refused as too long; looking among all of them would take time that grows with their square.
    return values if len(values) >= LABEL_LIMIT or new in values else [*values, new]
