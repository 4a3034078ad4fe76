"""The shape of the stored state: a mapping per host, and a pandas frame of ports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from portmon.engine.states import Port
from portmon.model.observation import PortKey

_TIME = "datetime64[us, UTC]"
_DTYPES = {"int": "int64", "bool": "bool", "datetime": _TIME, "datetime | None": _TIME}
"""Annotation of a field of Port to the dtype of its column; other columns hold objects."""

HOST_COLUMNS = (
    "host_id",
    "name",
    "address",
    "labels",
    "status",
    "status_since",
    "failures",
    "failing_since",
    "counted_at",
    "last_evaluated_at",
    "last_ok_at",
    "boot_id",
    "grace_until",
    "netns",
    "ephemeral_low",
    "ephemeral_high",
    "tool",
    "rules",
    "duplicate_of",
    "error_class",
    "error",
    "listening",
    "fingerprint",
    "probe",
    "reader",
    "hung",
    "hung_at",
)
"""A host is a mapping of these names to plain Python values.

``failures`` counts tried runs in a row without evidence, since ``failing_since``; ``counted_at`` is when it last grew.
``grace_until`` is the end of the grace after the last reboot, ``duplicate_of`` the id of another entry for the same
machine. Of the last ok observation are ``rules`` (digest of the rules in force), ``listening`` (sorted tuple of
``tcp/80`` keys, before rules; None if it was not loaded), ``fingerprint`` (see :mod:`portmon.engine.fingerprint`; None
unless the host is settled), ``probe`` and ``reader`` (versions; None for those without a number). ``hung`` are the
tools that hung on the host, with commas, noticed at ``hung_at``.
"""

PORT_COLUMNS: Mapping[str, str] = {
    field.name: _DTYPES.get(str(field.type), "object") for field in dataclasses.fields(Port)
}
"""Columns of the frame of ports, name to dtype: the fields of :class:`portmon.engine.states.Port`."""

KEY = ["host_id", "protocol", "port"]
SETS = ("addresses", "programs", "pids", "uids", "units", "comms")


def frame(data: Mapping[str, Sequence[Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A frame of plain Python values with the dtypes of ``columns``; None is missing."""
    return pd.DataFrame({name: _array(list(data.get(name, ())), dtype) for name, dtype in columns.items()})


def _array(values: list[Any], dtype: Any) -> Any:
    # Given the dtype, pandas keeps text and None as they are; otherwise it makes a string column with NaN for None.
    return pd.Series(values, dtype=dtype) if dtype == "object" else pd.array(values, dtype=dtype)


def empty_ports() -> pd.DataFrame:
    """A frame without ports."""
    return frame({}, PORT_COLUMNS)


def ports_frame(ports: Sequence[Port]) -> pd.DataFrame:
    """The frame of some ports."""
    return frame({name: [getattr(port, name) for port in ports] for name in PORT_COLUMNS}, PORT_COLUMNS)


def key_of(port: Port) -> PortKey:
    """The key of a port."""
    return (port.host_id, port.protocol, port.port)


def port_of(row: Mapping[str, Any]) -> Port:
    """The port of a row of plain values, see :func:`records`."""
    # A merge turns the integers of rows without a match into floats.
    whole = {name: int(row[name]) for name in ("misses", "streak")}
    return Port(**{name: row[name] for name in PORT_COLUMNS} | whole)


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, with None where pandas has a missing value."""
    names = list(rows.columns)
    columns = [_plain_column(rows[name]) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _plain_column(column: pd.Series) -> list[Any]:
    # This is several times faster than value by value.
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        values = column.array.to_pydatetime()
        return [None if value is pd.NaT else value for value in values]
    return [value if type(value) in _PLAIN else _plain(value) for value in column.tolist()]


_PLAIN = frozenset({str, tuple, list, dict, int, bool, type(None)})


def ports_of(rows: pd.DataFrame) -> list[Port]:
    """The ports of a frame."""
    return [port_of(row) for row in records(rows)]


def without(ports: pd.DataFrame, keys: Iterable[PortKey]) -> pd.DataFrame:
    """A frame of ports without some of them."""
    gone = pd.MultiIndex.from_tuples(list(keys), names=KEY)
    return ports[~pd.MultiIndex.from_frame(ports[KEY]).isin(gone)]


def merged(ports: pd.DataFrame, changed: Iterable[Port], dropped: Iterable[PortKey]) -> pd.DataFrame:
    """A frame of ports after some changed and some were dropped."""
    new = list(changed)
    stale = [*map(key_of, new), *dropped]
    if not stale:
        return ports
    kept = without(ports, stale) if len(ports) else ports
    return pd.concat([part for part in (kept, ports_frame(new)) if len(part)] or [empty_ports()], ignore_index=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        # A merge puts NaN where it found no match; NaN is not equal to itself.
        return None if value != value else value
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value
