"""Events from a recorded history: the state engine without hosts, database and clock. Loads pandas.

A history is JSON lines, one final observation each; lines of the same ``at`` are one run::

    {"at": "2026-01-01T00:00:00Z", "host_id": "h1", "outcome": "ok", "boot_id": "b1", "ephemeral": [32768, 60999],
     "listeners": [{"protocol": "tcp", "address": "0.0.0.0", "port": 80, "pid": 10, "program": "nginx"}]}

``outcome`` is ``ok``, ``unreachable``, ``invalid``, ``removed`` (the host left the CMDB) or ``invalid_entry`` (its
entry there can't be used in this run, for the reason in ``error_class``). Optional are ``name``, ``labels`` and
``declared`` (ports, also as ``"443/nginx.service"``) of the host, kept until a later line says otherwise;
``error_class`` of a failure; ``tool``, ``netns`` and ``pid1_start`` (clock ticks) of an ok one; ``uid``, ``unit``,
``zone``, ``inode`` and ``comm`` of a listener.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from portmon.api.view import Text, View
from portmon.config import Config, rule_set
from portmon.engine import clocks
from portmon.engine.conditions import Open, jumped
from portmon.engine.declared import declared_ports, declared_terms
from portmon.engine.evaluate import Verdict, evaluate
from portmon.engine.frames import empty_ports, merged, of_hosts, ports_frame, ports_of
from portmon.engine.inputs import EvaluationInputs
from portmon.engine.leaving import leave
from portmon.engine.state import HostState
from portmon.errors import HistoryError
from portmon.fields import PortNumber
from portmon.model.event import Event
from portmon.model.host import Host
from portmon.model.numbers import BEYOND, declared_port, is_udp, port_of
from portmon.model.observation import EPHEMERAL_DEFAULT, Listener, Listing, Observation, Outcome

LEFT = "removed"
ENTRY = "invalid_entry"


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ListenerLine(_Line):
    """A listening socket of a history, see :class:`portmon.model.observation.Listener`."""

    protocol: Literal["tcp", "tcp6", "udp", "udp6"] = "tcp"
    address: str = "0.0.0.0"  # noqa: S104 - nothing is bound
    port: PortNumber
    pid: int | None = None
    program: str | None = None
    zone: str | None = None
    uid: int | None = None
    unit: str | None = None
    inode: int | None = None
    comm: str | None = None


def _with_owner(value: Any) -> Any:
    """The number of a declared port and its owner: of ``443/nginx.service``, ``53/udp``, or of a number."""
    if not isinstance(value, str):
        return value, ""
    try:
        return declared_port(value)
    except ValueError:
        return value, ""


def _of_a_port(number: int) -> int:
    if not port_of(number):
        raise ValueError("a port is 1 to 65535")
    return number


DeclaredPort = Annotated[
    tuple[Annotated[int, Field(ge=1, lt=2 * BEYOND), AfterValidator(_of_a_port)], str], BeforeValidator(_with_owner)
]


class HistoryLine(_Line):
    """One final observation of a history.

    :param udp: it shows UDP, although there may be no socket of it
    """

    at: datetime
    host_id: str = Field(min_length=1)
    outcome: Literal["ok", "unreachable", "invalid", "removed", "invalid_entry"]
    boot_id: str | None = None
    ephemeral: tuple[PortNumber, PortNumber] = EPHEMERAL_DEFAULT
    reserved: tuple[tuple[PortNumber, PortNumber], ...] = ()
    listeners: tuple[ListenerLine, ...] = ()
    udp: bool = False
    netns: int | None = None
    pid1_start: int | None = None
    tool: str = "netstat-W"
    error_class: str | None = None
    name: str | None = None
    labels: Mapping[str, str] | None = None
    declared: tuple[DeclaredPort, ...] | None = None

    @property
    def is_entry(self) -> bool:
        """Whether it says that the host's entry in the CMDB can't be used, instead of an observation."""
        return self.outcome == ENTRY

    def observation(self) -> Observation:
        """As the scan would have stored it."""
        sockets = [Listener(**listener.model_dump()) for listener in self.listeners]
        udp = tuple(one for one in sockets if is_udp(one.number))
        listing = Listing(
            tool=self.tool,
            uid=0,
            boot_id=self.boot_id,
            netns=self.netns,
            pid1_start=self.pid1_start,
            ephemeral=self.ephemeral,
            reserved=self.reserved,
            listeners=tuple(one for one in sockets if not is_udp(one.number)),
            udp=udp if udp or self.udp else None,
        )
        ok = self.outcome == "ok"
        return Observation(
            host_id=self.host_id,
            run_id=self.at.isoformat(),
            try_number=1,
            observed_at=self.at,
            outcome=Outcome(self.outcome),
            listing=listing if ok else None,
            error_class=None if ok else self.error_class or self.outcome,
            error=None,
        )


class SimulatedEvent(View):
    """An event of a simulation; ``at`` is ISO 8601 in UTC, and an event of a host has no port."""

    at: str
    host_id: Text | None
    kind: str
    severity: str
    protocol: str | None
    port: int | None
    reason: Text


def read_history(lines: Iterable[str]) -> Iterator[HistoryLine]:
    """The observations of a history, in its order; the engine ignores those that come too late.

    :raises HistoryError: with line and field
    """
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = HistoryLine.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise HistoryError(f"{field}: {first['msg']}" if field else first["msg"], line=number) from error
        at = line.at.replace(tzinfo=UTC) if line.at.tzinfo is None else line.at.astimezone(UTC)
        yield line.model_copy(update={"at": at})


@dataclass(slots=True)
class Simulation:
    """The state of a fleet, kept in memory between runs."""

    config: Config
    interval: timedelta
    fleet: dict[str, Host] = field(default_factory=dict)
    left: dict[str, datetime] = field(default_factory=dict)
    hosts: dict[str, HostState] = field(default_factory=dict)
    ports: Any = field(default_factory=empty_ports)
    conditions: Mapping[str, Open] = field(default_factory=dict)
    runs: int = 0

    def run(self, at: datetime, lines: Iterable[HistoryLine]) -> tuple[Event, ...]:
        """The events of one run, whose observations are all of ``at``."""
        lines = list(lines)
        events = self._leave(at, [line.host_id for line in lines if line.outcome == LEFT])
        looks = [line for line in lines if line.outcome != LEFT]
        for line in looks:
            self._list(line)
        self.runs += 1
        config, invalid = self.config, {line.host_id: line.error_class or "invalid" for line in lines if line.is_entry}
        inputs = EvaluationInputs(
            inventory=self.fleet,
            rules=rule_set(config),
            settings=config.states,
            interval=self.interval,
            run_id=at.isoformat(),
            now=at,
            step=self.runs,
            declared=declared_ports(self.fleet, config.declared, {}, where=config.where),
            given=declared_terms(self.fleet, config.declared),
            invalid=invalid,
            forget_after=config.cmdb.prune_after,
        )
        observations = [line.observation() for line in looks if not line.is_entry]
        return events + self._take(evaluate(self.hosts, self.ports, observations, inputs, self.conditions))

    def _leave(self, at: datetime, leaving: list[str]) -> tuple[Event, ...]:
        events: tuple[Event, ...] = ()
        leaving = [host_id for host_id in leaving if self.fleet.pop(host_id, None)]
        if leaving:
            run_id, reason = at.isoformat(), "it left the CMDB"
            ports = ports_of(of_hosts(self.ports, leaving))
            left = leave(self.hosts, ports, leaving, self.conditions, reason=reason, run_id=run_id, now=at)
            self.ports, self.conditions, events = merged(self.ports, left.ports, ()), left.conditions, left.events
            self.hosts |= {host.host_id: host for host in left.hosts}
            self.left |= dict.fromkeys(leaving, at)
        if jumped(self.conditions, at, self.interval):
            return events
        gone = [host_id for host_id, since in self.left.items() if at - since >= self.config.cmdb.prune_after]
        for host_id in gone:
            del self.left[host_id]
            self.hosts.pop(host_id, None)
        if gone:
            self.ports = self.ports[~self.ports["host_id"].isin(gone)]
        return events

    def _list(self, line: HistoryLine) -> None:
        self.left.pop(line.host_id, None)
        before = self.fleet.get(line.host_id) or Host(line.host_id, line.host_id, line.host_id)
        labels = before.labels if line.labels is None else dict(line.labels)
        declared, owners = before.declared, before.owners
        if line.declared is not None:
            declared = tuple(sorted(port for port, _ in line.declared))
            owners = tuple(sorted((port, owner) for port, owner in line.declared if owner))
        name = line.name or before.name
        self.fleet[line.host_id] = replace(before, name=name, labels=labels, declared=declared, owners=owners)

    def _take(self, verdict: Verdict) -> tuple[Event, ...]:
        if verdict.mended is not None:
            booted = {host_id: host.booted_at for host_id, host in self.hosts.items()}
            self.ports = ports_frame(clocks.mended_ports(ports_of(self.ports), verdict.mended, booted))
        self.ports = merged(self.ports, verdict.ports, verdict.dropped)
        self.hosts |= {host.host_id: host for host in (*verdict.hosts, *verdict.ticked)}
        for old in verdict.taken_over.values():
            del self.hosts[old]
            self.left.pop(old, None)
        self.conditions = verdict.conditions
        return verdict.events


def simulate(lines: Iterable[str], config: Config, *, interval: timedelta) -> Iterator[SimulatedEvent]:
    """The events that a history gives, in order.

    :param config: ``rules``, ``declared``, ``states`` and ``cmdb.prune_after`` count
    :param interval: between scheduled runs
    :raises HistoryError: with line and field
    """
    simulation = Simulation(config, interval)
    for at, run in groupby(read_history(lines), key=lambda line: line.at):
        for event in simulation.run(at, run):
            at_text = event.at.strftime("%Y-%m-%dT%H:%M:%S" + (".%f" if event.at.microsecond else "") + "Z")
            own = {name: getattr(event, name) for name in ("host_id", "protocol", "port", "reason")}
            yield SimulatedEvent(at=at_text, kind=event.kind.value, severity=event.severity.value, **own)
