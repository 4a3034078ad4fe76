"""The comparison of stored and seen ports as pandas frames: the only module of the engine that knows pandas.

A fleet has millions of ports, of which a run changes a few. One merge finds these; all else speaks of
:class:`portmon.engine.state.Port` and :class:`portmon.engine.state.Seen`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import pandas as pd

from portmon.engine.declared import Declared
from portmon.engine.lifecycle import Changes
from portmon.engine.owners import PortOwner, is_named
from portmon.engine.owners import of as owners_of
from portmon.engine.state import Port, Seen
from portmon.engine.watched import SETS, KnownOwner, SeenPort
from portmon.model.numbers import BEYOND, UDP, number_of
from portmon.model.observation import PortKey
from portmon.model.state import PortStatus
from portmon.scan.answer import bind_of

_TIME = "datetime64[us, UTC]"
_DTYPES = {"int": "int64", "bool": "bool", "datetime": _TIME, "datetime | None": _TIME}
"""Annotation of a field of Port to the dtype of its column; other columns hold objects."""
PRESENCE = ("changes", "flapping_since", "changed_at")
"""Columns of the changes of a port's or host's presence, see :class:`portmon.engine.lifecycle.Changes`."""
PARTS = ("bind_changes", "bind_flapping_since", "bind_changed_at")
"""Columns of the changes of its parts; the last two say what the first one holds, for queries."""


def _columns() -> Iterator[tuple[str, str, str]]:
    """Name and dtype of each column, and where a port has its value."""
    changes = [f"presence.{field.name}" for field in dataclasses.fields(Changes)]
    several = {
        "presence": zip(PRESENCE, ("object", _TIME, _TIME), changes, strict=True),
        "parts": zip(PARTS, ("object", _TIME, _TIME), ("parts", "part_flapping_since", "part_changed_at"), strict=True),
    }
    for field in dataclasses.fields(Port):
        yield from several.get(field.name, [(field.name, _DTYPES.get(str(field.type), "object"), field.name)])


PORT_COLUMNS: Mapping[str, str] = {name: dtype for name, dtype, _ in _columns()}
"""Columns of the frame of ports, name to dtype: the fields of :class:`portmon.engine.state.Port`."""

_GETTERS = {name: attrgetter(place) for name, _, place in _columns()}
"""What gives the value of each column."""
_SAME = [field.name for field in dataclasses.fields(Port) if field.name in PORT_COLUMNS]
"""Columns that are fields of a port."""
KEY = ["host_id", "protocol", "port"]
AT_ONCE = 2000
"""So many changed ports are compared again at a time: one host may have very many."""


class Pair(NamedTuple):
    """A port as it is stored and as an observation shows it; None where it is not."""

    number: int
    known: Port | None
    seen: Seen | None


# ── frames and ports ────────────────────────────────────────────────────────────────────────────


def frame(data: Mapping[str, Sequence[Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A frame of plain Python values with the dtypes of ``columns``; None is missing."""
    return pd.DataFrame({name: _array(list(data.get(name, ())), dtype) for name, dtype in columns.items()})


def _array(values: list[Any], dtype: Any) -> Any:
    # Given the dtype, pandas keeps text and None as they are; otherwise it makes a string column with NaN for None.
    return pd.Series(values, dtype=dtype) if dtype == "object" else pd.array(values, dtype=dtype)


def empty_ports() -> pd.DataFrame:
    """A frame without ports."""
    return frame({}, PORT_COLUMNS)


def row_of(port: Port) -> dict[str, Any]:
    """The columns of a port."""
    return {name: get(port) for name, get in _GETTERS.items()}


def port_of(row: Mapping[str, Any]) -> Port:
    """The port of a row of plain values, see :func:`_records`."""
    values = {name: row[name] for name in _SAME}
    # A merge turns the integers of rows without a match into floats, and booleans into objects.
    values |= {"misses": int(row["misses"]), "streak": int(row["streak"])}
    changes = Changes(*(row[name] for name in PRESENCE))
    return Port(**values, presence=changes, parts=row[PARTS[0]])


def ports_frame(ports: Sequence[Port]) -> pd.DataFrame:
    """The frame of some ports."""
    # Column by column: rows of 20,000 ports take more memory than the ports.
    return frame({name: list(map(get, ports)) for name, get in _GETTERS.items()}, PORT_COLUMNS)


def ports_of(rows: pd.DataFrame) -> list[Port]:
    """The ports of a frame."""
    return [port_of(row) for row in _records(rows)]


def key_of(port: Port) -> PortKey:
    """The key of a port."""
    return (port.host_id, port.protocol, port.port)


def of_hosts(ports: pd.DataFrame, host_ids: Collection[str]) -> pd.DataFrame:
    """The ports of some hosts."""
    return ports[ports["host_id"].isin(list(host_ids))]


def instead(ports: pd.DataFrame, of: Collection[str], others: Mapping[str, Sequence[Port]]) -> pd.DataFrame:
    """A frame with other ports in place of those of some hosts.

    :param others: host id to its ports
    """
    if not of:
        return ports
    new = ports_frame([port for own in others.values() for port in own])
    kept = ports[~ports["host_id"].isin(list(of))]
    return pd.concat([part for part in (kept, new) if len(part)] or [empty_ports()], ignore_index=True)


def merged(ports: pd.DataFrame, changed: Iterable[Port], dropped: Iterable[PortKey]) -> pd.DataFrame:
    """A frame of ports after some changed and some were dropped."""
    new = list(changed)
    stale = [*map(key_of, new), *dropped]
    if not stale:
        return ports
    gone = pd.MultiIndex.from_tuples(stale, names=KEY)
    kept = ports[~pd.MultiIndex.from_frame(ports[KEY]).isin(gone)] if len(ports) else ports
    return pd.concat([part for part in (kept, ports_frame(new)) if len(part)] or [empty_ports()], ignore_index=True)


def _records(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows as plain Python values, with None where pandas has a missing value; one at a time: there are many."""
    names = list(rows.columns)
    columns = [_plain_column(rows[name]) for name in names]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _plain_column(column: pd.Series) -> list[Any]:
    # This is several times faster than value by value.
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        values = column.array.to_pydatetime()
        return [None if value is pd.NaT else value for value in values]
    return [value if type(value) in _PLAIN else _plain(value) for value in column.tolist()]


_PLAIN = frozenset({str, tuple, list, dict, int, bool, type(None)})


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        # A merge puts NaN where it found no match; NaN is not equal to itself.
        return None if value != value else value
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


def numbers_of(ports: pd.DataFrame) -> pd.Series:
    """The numbers of the ports of a frame, see :mod:`portmon.model.numbers`."""
    is_udp = ports["protocol"] == UDP
    return ports["port"] + is_udp * BEYOND if is_udp.any() else ports["port"]


def without_udp(ports: pd.DataFrame, host_ids: Collection[str]) -> pd.DataFrame:
    """The ports of a frame without the UDP ports of some hosts."""
    return ports[~((ports["protocol"] == UDP) & ports["host_id"].isin(list(host_ids)))] if host_ids else ports


def without_boots(ports: pd.DataFrame, keys: Collection[PortKey]) -> tuple[pd.DataFrame, dict[PortKey, Port]]:
    """The ports of a frame, of which some forget what their boots took, and those that forgot something."""
    if not keys:
        return ports, {}
    own = [key in keys for key in zip(*(ports[name] for name in KEY), strict=True)]
    had = ports["boots"].tolist()
    left = [() if forgets else boots for forgets, boots in zip(own, had, strict=True)]
    ports = ports.assign(boots=pd.Series(left, index=ports.index, dtype="object"))
    changed = [forgets and bool(boots) for forgets, boots in zip(own, had, strict=True)]
    return ports, {key_of(port): port for port in ports_of(ports[changed])}


def udp_ports(ports: pd.DataFrame) -> dict[str, set[int]]:
    """Host id to the numbers of its UDP ports."""
    found: dict[str, set[int]] = defaultdict(set)
    own = ports[ports["protocol"] == UDP]
    for host_id, number in zip(own["host_id"], numbers_of(own), strict=True):
        found[host_id].add(number)
    return found


# ── known owners ────────────────────────────────────────────────────────────────────────────────


def known_owners(known: pd.DataFrame) -> dict[tuple[str, int], KnownOwner]:
    """The last known owners of ports, by host id and number."""
    keys = zip(known["host_id"], numbers_of(known), strict=True)
    addresses = [(*own, *lost) for own, lost in zip(known["addresses"], known["lost"], strict=True)]
    watched = known["hidden_since"].isna() & (known["status"] != PortStatus.CANDIDATE.value)
    names = (known["programs"], known["comms"], known["units"])
    parts = (*names, addresses, watched, known["declared"].notna(), known["owners"])
    owners = map(KnownOwner, *parts)
    return {key: owner for key, owner in zip(keys, owners, strict=True) if any(owner[:3])}


def known_values(known: pd.DataFrame) -> dict[tuple[str, int], Mapping[str, tuple[Any, ...]]]:
    """Stored owners and binds of ports, by host id and number. Binds that are lost count as known."""
    rows = known[[*KEY, *SETS, "lost"]].to_dict("records")
    return {
        (row["host_id"], number_of(row["protocol"], row["port"])): {
            **{name: row[name] for name in SETS},
            "addresses": (*row["addresses"], *row["lost"]),
        }
        for row in rows
    }


# ── the comparison ──────────────────────────────────────────────────────────────────────────────


class Comparison:
    """Stored ports and those of one observation per host, side by side.

    :param known: stored ports of these hosts
    :param seen: as :func:`portmon.engine.watched.fold` returns them
    :param declared: declared ports of these hosts
    :param named: the owners that declarations name, by host id and number
    """

    def __init__(
        self,
        known: pd.DataFrame,
        seen: Sequence[SeenPort],
        declared: Declared,
        named: Mapping[tuple[str, int], PortOwner],
    ) -> None:
        names = [*KEY, *(f"{name}_seen" for name in (*SETS, "tool")), "listed", "more", "listeners", "excluded"]
        columns = list(zip(*seen, strict=True)) or [()] * len(names)
        columned = zip(names, columns, strict=True)
        self._declared = declared
        self._named = named
        listening = pd.DataFrame({name: pd.Series(values, dtype="object") for name, values in columned})
        listening["port"] = listening["port"].astype("int64")
        both = self._beside(known, listening)
        differs = both[~self._is_quiet(both)]
        self.listed = set(zip(both["host_id"], numbers_of(both), strict=True)) if declared else set()
        """Host id and number of all that is known or seen, if there are declared ports."""
        keys = zip(*(differs[name] for name in KEY), strict=True)
        self._differing: dict[PortKey, bool] = dict(zip(keys, differs["found"] != "left_only", strict=True))
        """Keys of what differs, and whether it is seen."""
        self.differed = {key[0] for key in self._differing}
        """Ids of the hosts of which something differs."""
        self._rows = differs
        self._seen = differs[names][differs["found"] != "left_only"]

    def differing(self) -> dict[str, list[Pair]]:
        """Host id: its ports that were not up before, are not seen as they were, or wait for something."""
        found: dict[str, list[Pair]] = defaultdict(list)
        for row in _records(self._rows):
            known = None if row["found"] == "right_only" else port_of(row)
            seen = None
            if row["found"] != "left_only":
                own = {name: row[name] for name in ("listed", "more", "listeners")}
                seen = Seen(**{name: row[f"{name}_seen"] for name in SETS}, **own, excluded=row["excluded"] or ())
            found[row["host_id"]].append(Pair(number_of(row["protocol"], row["port"]), known, seen))
        # Not needed any more: one host may have very many.
        self._rows = self._rows[:0].copy()
        return found

    def pending(self, changed: Mapping[PortKey, Port], gone: Container[PortKey]) -> set[str]:
        """Hosts of which the same observation, evaluated once more, would change something.

        :param changed: ports that the evaluation changed; those that differed and stayed as they were still differ
        :param gone: ports that are not watched any more
        """
        waiting = {
            key[0] for key, is_seen in self._differing.items() if key not in changed and (key not in gone or is_seen)
        }
        news = [port for key, port in changed.items() if key in self._differing and key[0] not in waiting]
        for start in range(0, len(news), AT_ONCE):
            both = self._beside(ports_frame(news[start : start + AT_ONCE]), self._seen, how="left")
            waiting.update(both["host_id"][~self._is_quiet(both)])
        return waiting

    @staticmethod
    def _beside(known: pd.DataFrame, seen: pd.DataFrame, how: Literal["outer", "left"] = "outer") -> pd.DataFrame:
        return known.merge(seen, on=KEY, how=how, suffixes=("", "_seen"), indicator="found")

    def _is_quiet(self, both: pd.DataFrame) -> pd.Series:
        """Which rows need no evaluation: up before, seen now, without a difference or a pending change."""
        quiet = (both["found"] == "both") & (both["status"] == PortStatus.UP.value) & (both["misses"] == 0)
        for name in ("flapping_since", "bind_flapping_since", "grace_until", "last_seen_at", "hidden_since"):
            quiet &= both[name].isna()
        # What a rule names is mature from then on.
        quiet &= both["young_since"].isna() | (both["listed"] != True)  # noqa: E712 - a column of objects
        quiet &= (both["tool"] == both["tool_seen"]) & (both["paused"] != True)  # noqa: E712 - a column of objects
        declared = both["declared"].where(both["declared"].notna(), None)
        same = [
            source == self._declared.get(host_id, {}).get(port) and not (lost or late or aside or _waits(owners, shown))
            for host_id, port, source, lost, late, aside, owners, *shown in zip(
                *(
                    column.tolist()
                    for column in (
                        *(both["host_id"], numbers_of(both), declared),
                        *(both["lost"], both["late"], both["unwatched"]),
                        *(both["owners"], both["listeners"], both["excluded"]),
                    )
                ),
                strict=True,
            )
        ]
        quiet &= pd.Series(same, index=both.index, dtype="bool")
        for name in SETS:
            same = [
                new == old or (not new and name != "addresses")
                for old, new in zip(both[name].tolist(), both[f"{name}_seen"].tolist(), strict=True)
            ]
            if name == "programs":
                # A tool that shows only the kernel's names changes nothing if these are the known ones.
                shown = zip(same, both["programs_seen"], both["comms"], both["comms_seen"], strict=True)
                same = [one or (new == comms and known == comms) for one, new, known, comms in shown]
            quiet &= pd.Series(same, index=both.index, dtype="bool")
        if self._named:
            keys = zip(both["host_id"], numbers_of(both), strict=True)
            asked = quiet & pd.Series([key in self._named for key in keys], index=both.index, dtype="bool")
            found = [self._may_be_as_named(port) for port in ports_of(both[asked])]
            quiet[asked] = pd.Series(found, index=both.index[asked], dtype="bool")
        return quiet

    def _may_be_as_named(self, port: Port) -> bool:
        """Whether the owner that a declaration names may have the port; if not, it has time after a boot alone."""
        known, named = owners_of(port), self._named[port.host_id, port.number]
        return not known or any(own.is_accepted or is_named(named, own) is not False for own in known)


def _waits(owners: Any, shown: Sequence[Any]) -> bool:
    """Whether something may follow from the owners of a port although its names and addresses are as they were.

    :param shown: its sockets, watched ones and excluded ones
    """
    # NaN where nothing is stored, or nothing is shown.
    known = owners if owners and owners == owners else ()
    watched, excluded = shown
    excluded = excluded if excluded and excluded == excluded else ()
    if not (known or excluded):
        return False
    watched = watched if watched and watched == watched else ()
    if any(own.gone_since or own.waits or own.lacks for own in known):
        return True
    # One that rules exclude joins as any other; one that could not be compared in the last look may be compared now.
    rows = (*watched, *excluded) if known else excluded
    if not {row.pid for row in rows}.issubset({None, *(pid for own in known for pid in own.pids)}):
        return True
    # The socket that is missing may have shown no name.
    binds = Counter(bind for own in known for bind in own.binds)
    return not binds <= Counter(map(bind_of, (*watched, *excluded)))
