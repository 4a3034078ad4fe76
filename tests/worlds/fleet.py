"""A scripted fleet and its runs in simulated time: every step of a run but SSH and Airflow."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from portmon.alerting.message.render import Message
from portmon.config import Config
from portmon.errors import DeliveryError
from portmon.model.event import AlertGroup, Event
from portmon.model.host import Host, Inventory
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.steps.deliver import AlertTask
from portmon.steps.dispatch import groups_to_alert
from portmon.steps.evaluate import evaluate_run
from portmon.steps.fetch import fetch_inventory
from portmon.steps.overdue import report_overdue
from portmon.steps.plan import plan_hosts
from portmon.steps.prune import prune_inventory
from portmon.steps.run import Run
from portmon.storage import archive, events
from portmon.storage.database import Database

FIVE = timedelta(minutes=5)
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass(slots=True)
class Machine:
    """One server as it is just now.

    :param services: port: program and pid
    :param trouble: error class of what a login fails with, None if it does not
    """

    host: Host
    services: dict[int, tuple[str, int]] = field(default_factory=dict)
    boot: int = 1
    trouble: str | None = None

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
        listeners = tuple(
            Listener("tcp", "0.0.0.0", port, pid, program, unit=f"{program}.service")
            for port, (program, pid) in sorted(self.services.items())
        )
        seen = Listing("netstat-W", 0, boot_id=f"{self.host.id}-{self.boot}", netns=1, listeners=listeners)
        return Observation(outcome=Outcome.OK, listing=seen, frames=(b"raw",), **common)


@dataclass(frozen=True, slots=True)
class Got:
    """A message that a receiver got."""

    at: datetime
    channel: str
    message: Message


class Fleet:
    """Servers, their CMDB, and runs every 5 minutes.

    :param dead: names of channels that take nothing just now
    :param got: messages that receivers took, in order
    :param run_type: of the runs, as Airflow names it
    :param done: targets that had the message that is just being sent
    """

    def __init__(self, database: Database, config: Config, *, start: datetime = MONDAY) -> None:
        self.database = database
        self.config = config
        self.start = start
        self.number = 0
        self.machines: dict[str, Machine] = {}
        self.listed: set[str] = set()
        self.dead: set[str] = set()
        self.got: list[Got] = []
        self.run_type = "scheduled"
        self.done: tuple[str, ...] = ()
        self.on_send: Callable[[Any, Message], None] = lambda channel, message: None

    @property
    def now(self) -> datetime:
        """Start of the next run."""
        return self.start + self.number * FIVE

    def add(self, name: str, services: dict[int, str], **labels: str) -> Machine:
        """A server that the CMDB has."""
        machine = Machine(Host(f"id-{name}", name, f"{name}.example.com", None, labels))
        for port, program in services.items():
            machine.start(port, program)
        self.machines[name] = machine
        self.listed.add(name)
        return machine

    def run(self, *, evaluate: bool = True) -> list[Event]:
        """One whole run.

        :param evaluate: False if ``diff_ports`` was killed
        :returns: the events that it made
        """
        run = Run(f"run{self.number:05}", run_type=self.run_type)
        listed = tuple(machine.host for name, machine in self.machines.items() if name in self.listed)
        fetched = fetch_inventory(
            self.database, self.config, run, lambda: Inventory(listed, source="test"), now=self.now
        )
        prune_inventory(self.database, self.config, run, fetched.digest, stale=fetched.stale, now=self.now)
        plan = plan_hosts(self.database, self.config, run, fetched.digest)
        by_id = {machine.host.id: machine for machine in self.machines.values()}
        with self.database.begin() as conn:
            archive.save_observations(conn, [by_id[item["id"]].look(run.run_id, self.now) for item in plan])
        planned = {item["id"]: ("netstat", index) for index, item in enumerate(plan)}
        if evaluate:
            evaluate_run(self.database, self.config, run, fetched.digest, planned=planned, interval=FIVE, now=self.now)
        report_overdue(self.database, run, interval=FIVE, now=self.now)
        self.alert()
        self.number += 1
        with self.database.begin() as conn:
            return events.recent(conn, run_id=run.run_id)

    def route(self) -> set[AlertGroup]:
        """Which alert tasks are started."""
        return groups_to_alert(self.database, self.config, now=self.now, interval=FIVE)

    def alert(self, groups: Collection[AlertGroup] | None = None) -> None:
        """The alert tasks of a run, one after the other; their failures are for the next run."""
        for group in sorted(self.route() if groups is None else groups):
            try:
                self.deliver(group)
            except DeliveryError as error:
                if not self.dead and "tried again after" not in str(error):
                    raise

    def deliver(self, group: AlertGroup) -> int:
        """One alert task."""
        return AlertTask(
            database=self.database,
            config=self.config,
            group=group,
            send=self.send,
            link=lambda event: f"https://airflow.example.com/{event.run_id}/{event.host_name}",
            page="https://airflow.example.com/portmon",
            interval=FIVE,
            holder="test",
            clock=lambda: self.now,
            hold_until=self.now + 4 * FIVE,
        ).run()

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
