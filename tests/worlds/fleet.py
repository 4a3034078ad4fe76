"""A scripted fleet and its runs in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from portmon.alerting.message.render import Message
from portmon.config import Config, parse_config
from portmon.errors import DeliveryError
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup
from portmon.model.host import Host, Inventory
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.steps.overdue import report_overdue
from portmon.storage import archive
from portmon.storage.database import Database
from tests.worlds.runs import FIVE, Runs

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def at(day: str, time: str) -> datetime:
    """A moment of the week that begins on MONDAY: ``("Tue", "03:05")``."""
    days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].index(day)
    hours, minutes = map(int, time.split(":"))
    return MONDAY + timedelta(days=days, hours=hours, minutes=minutes)


@dataclass(slots=True)
class Machine:
    """One host in its present state.

    :param services: port: program and pid
    :param trouble: error class of what a login fails with, None if it does not
    :param units: of programs whose unit has another name than theirs
    :param identity: begins its boot ids; that of another host while that one's machine answers
    :param addresses: on which its services listen
    :param partners: port: another program that shares it with the service
    :param loops: ports whose service is another process in each look
    :param hides: it shows no programs
    :param udp: UDP port: program; None: it is not asked for UDP
    """

    host: Host
    services: dict[int, tuple[str, int]] = field(default_factory=dict)
    boot: int = 1
    trouble: str | None = None
    units: dict[str, str] = field(default_factory=dict)
    identity: str = ""
    addresses: tuple[str, ...] = ("0.0.0.0",)
    partners: dict[int, str] = field(default_factory=dict)
    loops: set[int] = field(default_factory=set)
    hides: bool = False
    udp: dict[int, str] | None = None

    def start(self, port: int, program: str) -> None:
        """Begin to listen, as a new process."""
        pid = 100 + max([pid for _, pid in self.services.values()] or [0])
        self.services[port] = (program, pid)

    def kill(self, port: int) -> str:
        """End a process; its program."""
        return self.services.pop(port)[0]

    def restart(self, port: int) -> None:
        """The same program with another pid."""
        self.start(port, self.services[port][0])

    def look(self, run_id: str, at: datetime) -> Observation:
        """What a login comes to."""
        common: dict[str, Any] = {"host_id": self.host.id, "run_id": run_id, "try_number": 1, "observed_at": at}
        if self.trouble:
            error = {"timeout": "no answer on port 22 within 10 s"}.get(self.trouble, self.trouble)
            return Observation(outcome=Outcome.UNREACHABLE, error_class=self.trouble, error=error, **common)
        return Observation(outcome=Outcome.OK, listing=self.listing(at), frames=(b"raw",), **common)

    def listing(self, _: datetime) -> Listing:
        """What it shows."""
        for port in self.loops & self.services.keys():
            self.restart(port)
        partners = [(port, program, 50_000 + port) for port, program in self.partners.items() if port in self.services]
        running = sorted([*((port, *one) for port, one in self.services.items()), *partners])
        listeners = tuple(
            self._listener(address, port, program, pid) for port, program, pid in running for address in self.addresses
        )
        udp = None
        if self.udp is not None:
            udp = tuple(
                Listener("udp", "0.0.0.0", port, 9000 + port, name, inode=port) for port, name in self.udp.items()
            )
        return Listing(
            "netstat-W",
            0,
            boot_id=f"{self.identity or self.host.id}-{self.boot}",
            netns=1,
            listeners=listeners,
            udp=udp,
        )

    def _listener(self, address: str, port: int, program: str, pid: int) -> Listener:
        if self.hides:
            return Listener("tcp", address, port)
        return Listener("tcp", address, port, pid, program, unit=f"{self.units.get(program, program)}.service")


@dataclass(frozen=True, slots=True)
class Got:
    """A message that a receiver got."""

    at: datetime
    channel: str
    message: Message


class Fleet(Runs):
    """Hosts, their CMDB, and runs every 5 minutes, or at an interval of a subclass.

    :param dead: names of channels that take nothing just now
    :param got: messages that receivers took, in order
    :param run_type: of the runs, as Airflow names it
    :param done: targets that had the message that is just being sent
    """

    interval = FIVE
    run_id = "run{:05}"

    def __init__(self, database: Database, config: Config, *, start: datetime = MONDAY) -> None:
        super().__init__(database, config, start=start)
        self.machines: dict[str, Machine] = {}
        self.listed: set[str] = set()
        self.dead: set[str] = set()
        self.got: list[Got] = []
        self.run_type = "scheduled"
        self.done: tuple[str, ...] = ()
        self.on_send: Callable[[Any, Message], None] = lambda channel, message: None

    def add(self, name: str, services: dict[int, str], **labels: str) -> Machine:
        """A host that the CMDB has."""
        machine = Machine(Host(f"id-{name}", name, f"{name}.example.com", None, labels))
        for port, program in services.items():
            machine.start(port, program)
        self.machines[name] = machine
        self.listed.add(name)
        return machine

    def load(self) -> Inventory:
        listed = (machine.host for name, machine in self.machines.items() if name in self.listed)
        return Inventory(tuple(listed), source="test")

    def scan(self, plan: Sequence[Mapping[str, Any]]) -> None:
        run_id = self.run_of().run_id
        by_id = {machine.host.id: machine for machine in self.machines.values()}
        with self.database.begin() as conn:
            archive.save_observations(conn, [by_id[item["id"]].look(run_id, self.now) for item in plan])

    def run(self, *, evaluate: bool = True) -> list[Event]:
        """One whole run.

        :param evaluate: False if ``diff_ports`` was killed
        :returns: the events that it made
        """
        run = self.run_of(run_type=self.run_type)
        self.scan_and_evaluate(run, evaluate=evaluate)
        report_overdue(self.database, run, interval=self.interval, now=self.now)
        self.alert()
        self.number += 1
        return self.events(run.run_id)

    def alert(self, groups: Collection[AlertGroup] | None = None) -> None:
        """The alert tasks of a run, one after the other; their failures are for the next run."""
        for group in sorted(self.route() if groups is None else groups):
            try:
                self.deliver(group)
            except DeliveryError as error:
                if not self.dead and "tried again after" not in str(error):
                    raise

    def deliver(self, group: AlertGroup, **values: Any) -> int:
        """One alert task, whose messages have links."""
        given = {
            "link": lambda event: f"https://airflow.example.com/{event.run_id}/{event.host_name}",
            "page": "https://airflow.example.com/portmon",
            **values,
        }
        return super().deliver(group, **given)

    def send(self, channel: Any, message: Message, done: tuple[str, ...]) -> None:
        """A receiver that takes everything, unless it is dead."""
        self.done = done
        self.on_send(channel, message)
        if channel.name in self.dead:
            raise DeliveryError("connection refused", channel=channel.name)
        self.got.append(Got(self.now, channel.name, message))

    def titles(self, channel: str | None = None) -> list[str]:
        """Titles of what receivers got so far."""
        return [got.message.title for got in self.got if channel in (None, got.channel)]


TWO = """
alerts:
  channels:
    - {type: log, name: chat}
    - {type: log, name: pager}
"""


def web_fleet(database: Database, count: int, config: str = TWO, ports: tuple[int, ...] = (80,)) -> Fleet:
    """Web servers of two teams, after their first run."""
    fleet = Fleet(database, parse_config(config))
    for number in range(count):
        fleet.add(f"web{number:03}", {22: "sshd", **dict.fromkeys(ports, "nginx")}, role="web", team=f"t{number % 2}")
    fleet.run()
    return fleet
