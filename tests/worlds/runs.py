"""Runs of a few hosts without SSH and Airflow: every step from the host list to the messages, in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from portmon.config import Config
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup
from portmon.model.host import Inventory
from portmon.model.observation import Observation
from portmon.steps.deliver import AlertTask
from portmon.steps.dispatch import groups_to_alert
from portmon.steps.evaluate import evaluate_run
from portmon.steps.fetch import Fetched, fetch_inventory
from portmon.steps.plan import plan_hosts
from portmon.steps.prune import prune_inventory
from portmon.steps.run import Run
from portmon.storage import archive, events
from portmon.storage.database import Database

FIVE = timedelta(minutes=5)


class Runs:
    """Runs, one every five minutes. A subclass knows the hosts.

    :param start: time of the first run
    """

    interval = FIVE
    run_id = "run{}"

    def __init__(self, database: Database, config: Config, *, start: datetime) -> None:
        self.database = database
        self.config = config
        self.start = start
        self.number = 0

    def load(self) -> Inventory:
        """The CMDB's host list."""
        raise NotImplementedError

    def observation(self, host_id: str) -> Observation:
        """The record of a visit to a host."""
        raise NotImplementedError

    def send(self, channel: Any, message: Any, done: tuple[str, ...]) -> None:
        """A receiver that takes everything."""

    @property
    def now(self) -> datetime:
        """Start of the next run."""
        return self.start + self.number * self.interval

    def run_of(self, **values: Any) -> Run:
        """The next run."""
        return Run(self.run_id.format(self.number), **values)

    # ── steps ───────────────────────────────────────────────────────────────────────────────────

    def fetch(self, run: Run) -> Fetched:
        return fetch_inventory(self.database, self.config, run, self.load, now=self.now)

    def prune(self, run: Run, fetched: Fetched) -> Mapping[str, int]:
        given: dict[str, Any] = {"stale": fetched.stale, "now": self.now, "interval": self.interval}
        return prune_inventory(self.database, self.config, run, fetched.digest, **given)

    def plan(self, run: Run, fetched: Fetched) -> Sequence[Mapping[str, Any]]:
        return plan_hosts(self.database, self.config, run, fetched.digest)

    def scan(self, plan: Sequence[Mapping[str, Any]]) -> None:
        with self.database.begin() as conn:
            archive.save_observations(conn, [self.observation(item["id"]) for item in plan])

    def evaluate(self, run: Run, fetched: Fetched, plan: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
        planned = {item["id"]: ("netstat", index) for index, item in enumerate(plan)}
        return evaluate_run(
            self.database,
            self.config,
            run,
            fetched.digest,
            planned=planned,
            interval=self.interval,
            now=self.now,
            fetching=fetched.seconds,
        )

    def scan_and_evaluate(self, run: Run, *, evaluate: bool = True) -> None:
        """A run up to its alerts.

        :param evaluate: False if ``diff_ports`` was killed
        """
        fetched = self.fetch(run)
        self.prune(run, fetched)
        plan = self.plan(run, fetched)
        self.scan(plan)
        if evaluate:
            self.evaluate(run, fetched, plan)

    def route(self) -> set[AlertGroup]:
        """Which alert tasks are started."""
        run_id = self.run_of().run_id
        return groups_to_alert(self.database, self.config, run_id=run_id, now=self.now, interval=self.interval)

    def alert(self) -> None:
        """The alert tasks of a run, one after the other."""
        for group in sorted(self.route()):
            self.deliver(group)

    def deliver(self, group: AlertGroup, **values: Any) -> int:
        """One alert task."""
        given = {"send": self.send, "interval": self.interval, **values}
        return alert_task(self.database, self.config, group, clock=lambda: self.now, **given).run()

    def events(self, run_id: str | None = None) -> list[Event]:
        """The events of a run; default: of all."""
        with self.database.begin() as conn:
            return events.recent(conn, run_id=run_id)


def take(database: Database, config: Config, run: Run, found: Inventory, *, now: datetime) -> None:
    """Store a host list, and prune by it, as the first tasks of a run do."""
    fetched = fetch_inventory(database, config, run, lambda: found, now=now)
    prune_inventory(database, config, run, fetched.digest, stale=fetched.stale, now=now)


def alert_task(
    database: Database, config: Config, group: AlertGroup, *, clock: Callable[[], datetime], **values: Any
) -> AlertTask:
    """An alert task without links that may wait for its channels for four intervals."""
    given: dict[str, Any] = {
        "silenced": lambda *_: {},
        "link": lambda _: None,
        "page": None,
        "page_of": lambda _: None,
        "interval": FIVE,
        "holder": "test",
        "hold_until": clock() + 4 * values.get("interval", FIVE),
    }
    return AlertTask(database=database, config=config, group=group, clock=clock, **given | values)
