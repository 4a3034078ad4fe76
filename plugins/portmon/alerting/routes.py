"""Which channels get an event: one ordered list of routes, the first match counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from portmon.alerting.config import DEFAULT_ROUTE, Alerts, EventMatch, Language
from portmon.matching import any_glob, has_labels, in_ranges, is_named, match_text
from portmon.model.event import Event, programs_of
from portmon.model.event_kinds import AlertRole
from portmon.model.numbers import BEYOND, port_of, text_of


@dataclass(frozen=True, slots=True)
class Routing:
    """The channels that get an event by one route.

    :param channels: in order, without those that have it by an earlier route
    """

    route: str
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """What a route says about its messages."""

    language: Language
    max_lines: int
    group_by: str | None


class Routes:
    """All routes of a configuration.

    :param where: names a route for people, with its line: :meth:`portmon.config.Config.where`
    """

    def __init__(self, alerts: Alerts, *, where: Callable[..., str] | None = None) -> None:
        self._alerts = alerts
        self._where = where or (lambda *location: f"{'.'.join(map(str, location[:-1]))}[{location[-1]}]")
        self._routes = {alerts.route_name(number): route for number, route in enumerate(alerts.routes)}
        every = tuple(channel.name for channel in alerts.channels)
        self._default = tuple(dict.fromkeys(every if alerts.default is None else alerts.default))

    def of(self, event: Event) -> tuple[Routing, ...]:
        """The channels that get an event, by route; empty if there are none.

        An event that ends an alert has no route: it goes to the channels that got the alert. A note goes to no channel.
        """
        if _unrouted(event) is not None:
            return ()
        routes = self._alerts.routes
        named = [(self._alerts.route_name(number), routes[number].channels) for number in self._matching(event)]
        found: list[Routing] = []
        taken: set[str] = set()
        for name, channels in named or [(DEFAULT_ROUTE, self._default)]:
            fresh = tuple(channel for channel in dict.fromkeys(channels) if channel not in taken)
            taken.update(fresh)
            if fresh:
                found.append(Routing(name, fresh))
        return tuple(found)

    def style(self, route: str) -> Style:
        """How the messages of a route look; those of a route that is gone look like those of the default."""
        general, own = self._alerts, self._routes.get(route)
        if own is None:
            return Style(general.language, general.max_lines, general.group_by)
        return Style(
            own.language or general.language, own.max_lines or general.max_lines, own.group_by or general.group_by
        )

    def told(self) -> list[str]:
        """Every route in order, and the default, for people."""
        lines = [f"{self._place(number)}: {self._outcome(number)}" for number in range(len(self._alerts.routes))]
        return [*lines, f"{DEFAULT_ROUTE}: what no route matches -> {_names(self._default)}"]

    def unreachable(self) -> list[tuple[int, str]]:
        """Places of routes that no event ever comes to, and why."""
        found = []
        for number, (name, route) in enumerate(self._routes.items()):
            before = next((one for one in range(number) if self._takes_all_of(one, route.match)), None)
            if before is not None:
                found.append((number, f"nothing reaches the route {name!r}: {self._place(before)} takes all of it"))
        return found

    def unused_channels(self) -> list[str]:
        """Names of channels that get nothing: no route that events reach names them, nor does a default in use."""
        routes = self._alerts.routes
        dead = {number for number, _ in self.unreachable()}
        used = {name for number, route in enumerate(routes) if number not in dead for name in route.channels}
        if not any(self._takes_all_of(number, EventMatch()) for number in range(len(routes))):
            used.update(self._default)
        return [channel.name for channel in self._alerts.channels if channel.name not in used]

    def explain(self, event: Event) -> list[str]:
        """Why an event goes where it goes: each route in order, then the channels. Not escaped."""
        if unrouted := _unrouted(event):
            return [unrouted]
        lines = []
        matching = self._matching(event)
        last = matching[-1] if matching and not self._goes_on(matching[-1]) else len(self._alerts.routes)
        for number, route in enumerate(self._alerts.routes):
            if number > last:
                told = "not tried"
            elif number in matching:
                told = f"yes: {self._outcome(number)}"
            else:
                told = f"no: {_lacking(route.match, event)}"
            lines.append(f"{self._place(number)}: {told}")
        if not matching:
            lines.append(f"no route matches: {DEFAULT_ROUTE} -> {_names(self._default)}")
        taken = [f"{channel} (route {one.route})" for one in self.of(event) for channel in one.channels]
        return [*lines, f"goes to: {_names(taken)}"]

    def _matching(self, event: Event) -> Sequence[int]:
        """Places of the routes that count for an event."""
        found = []
        for number, route in enumerate(self._alerts.routes):
            if _lacking(route.match, event) is None:
                found.append(number)
                if not self._goes_on(number):
                    break
        return found

    def _goes_on(self, number: int) -> bool:
        """Whether the routes after one are tried too; a route without channels ends the search whatever it says."""
        route = self._alerts.routes[number]
        return route.go_on and bool(route.channels)

    def _takes_all_of(self, number: int, match: EventMatch) -> bool:
        """Whether a route leaves nothing of what matches to those after it, as far as the two texts show."""
        return not self._goes_on(number) and _covers(self._alerts.routes[number].match, match)

    def _place(self, number: int) -> str:
        name = self._alerts.routes[number].name
        return self._where("alerts", "routes", number) + (f" ({name})" if name else "")

    def _outcome(self, number: int) -> str:
        route = self._alerts.routes[number]
        goes_on = ", then those after it" if self._goes_on(number) else ""
        return f"{match_text(route.match, empty='every event')} -> {_names(route.channels)}{goes_on}"


def _unrouted(event: Event) -> str | None:
    """Why an event has no route of its own; None if it has."""
    if event.role is None:
        return f"{event.kind.value} is a note: it is stored, and no channel gets it"
    if event.role is AlertRole.RESOLVED:
        return f"{event.kind.value} has no route: it goes to the channels that got the alert it ends"
    return None


def _covers(wide: EventMatch, narrow: EventMatch) -> bool:
    """Whether everything that one matches is matched by another; globs are compared as texts."""
    for field in ("host", "kind", "severity", "program"):
        more, less = getattr(wide, field), getattr(narrow, field)
        if more is not None and (less is None or not set(less) <= set(more)):
            return False
    if wide.young is not None and wide.young is not narrow.young:
        return False
    labels = narrow.label or {}
    for label, globs in (wide.label or {}).items():
        if label not in labels or not set(labels[label]) <= set(globs):
            return False
    return wide.port is None or (
        narrow.port is not None
        and all(
            any(
                (low <= first and last <= high) or (high < BEYOND and low <= port_of(first) and port_of(last) <= high)
                for low, high in wide.port
            )
            for first, last in narrow.port
        )
    )


def _lacking(match: EventMatch, event: Event) -> str | None:
    """The first condition of a match that an event does not meet; None if it meets all of them."""
    if match.host is not None and (event.host_name is None or not is_named(event.host_name, match.host)):
        has = "about no host" if event.host_name is None else event.host_name
        return f"{match_text([('host', match.host)])}, but it is {has}"
    for label, globs in (match.label or {}).items():
        if not has_labels(event.labels, {label: globs}):
            has = f"it is {event.labels[label]}" if label in event.labels else "there is no such label"
            return f"{match_text([('label', {label: globs})])}, but {has}"
    if match.kind is not None and event.kind not in match.kind:
        return f"{match_text([('kind', match.kind)])}, but it is {event.kind.value}"
    if match.severity is not None and event.severity not in match.severity:
        return f"{match_text([('severity', match.severity)])}, but it is {event.severity.value}"
    if match.port is not None and (event.number is None or not in_ranges(event.number, match.port)):
        has = "about no port" if event.number is None else text_of(event.number)
        return f"{match_text([('port', match.port)])}, but it is {has}"
    if match.young is not None and bool(event.details.get("young")) is not match.young:
        return f"{match_text([('young', match.young)])}, but it is {'not' if match.young else 'young'}"
    programs = programs_of(event)
    if match.program is not None and not any(any_glob(program, match.program) for program in programs):
        return f"{match_text([('program', match.program)])}, but it is {', '.join(programs) or 'not known'}"
    return None


def _names(channels: Sequence[str]) -> str:
    return ", ".join(channels) or "nobody"
