"""Which alert comes first in a message, and which are told in one line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portmon.alerting.outages import Outage
from portmon.model.alert import Alert
from portmon.model.event import Event
from portmon.model.event_kinds import Severity

CROWD = 200
"""More alerts than these of one host and run are one line: one host must not fill a whole message."""
_SEVERITIES = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The alerts of one line: one, those of an outage, or a crowd of one host and run."""

    alerts: tuple[Alert, ...]
    outage: Outage | None = None

    @property
    def crowd(self) -> bool:
        """Whether these are too many of one host to be listed."""
        return self.outage is None and len(self.alerts) > 1

    @property
    def kind(self) -> str:
        """Which words tell it: :attr:`portmon.model.event_kinds.Meaning.name`, that of an outage, or ``many``."""
        meaning = self.alerts[0].event.meaning
        return "many" if self.crowd else meaning.folded_as if self.outage else meaning.name


Block = tuple[Bundle, ...]
"""The lines of one host, or the one of an outage."""


def rank(event: Event) -> int:
    """Place of an event by severity: 0 is the worst."""
    return _SEVERITIES.index(event.severity)


def worst(alerts: Iterable[Alert]) -> Severity:
    """The highest severity of at least one alert."""
    return _SEVERITIES[min(rank(alert.event) for alert in alerts)]


def in_order(alerts: Iterable[Alert], outages: Mapping[str, Outage]) -> list[Block]:
    """Alerts by host: the worst host first, outages before others that are as bad, then the host with most.

    Within a host its worst alert is first, then by port.

    :param outages: host id -> outage that its ``unreachable`` or ``reachable`` is folded into
    """
    hosts: dict[str, list[Alert]] = defaultdict(list)
    folded: dict[tuple[Outage, str], list[Alert]] = defaultdict(list)
    for alert in alerts:
        event = alert.event
        outage = outages.get(event.host_id or "")
        if outage and event.meaning.folded_as:
            folded[outage, event.meaning.folded_as].append(alert)
        else:
            hosts[event.host_id or ""].append(alert)
    blocks: list[Block] = [tuple(_lines_of_host(sorted(own, key=_by_port))) for own in hosts.values()]
    blocks += [(Bundle(tuple(sorted(own, key=_by_port)), outage),) for (outage, _), own in folded.items()]
    return sorted(blocks, key=_place)


def _lines_of_host(own: Sequence[Alert]) -> Iterator[Bundle]:
    """The lines of one host: a crowd of one run is one line, where its worst alert would be."""
    runs: dict[str, list[Alert]] = defaultdict(list)
    for alert in own:
        runs[alert.event.run_id].append(alert)
    for alert in own:
        alike = runs[alert.event.run_id]
        if len(alike) <= CROWD or not alert.event.host_id:
            yield Bundle((alert,))
        elif alert is alike[0]:
            yield Bundle(tuple(alike))


def _by_port(alert: Alert) -> tuple[Any, ...]:
    event = alert.event
    host = event.host_name or "", event.host_id or ""
    return rank(event), event.protocol or "", event.port or 0, host, event.at, event.id


def _place(block: Block) -> tuple[Any, ...]:
    outage, event = block[0].outage, block[0].alerts[0].event
    size = sum(len(bundle.alerts) for bundle in block)
    return rank(event), outage is None, -size, outage.site if outage else event.host_name or "", event.host_id or ""
