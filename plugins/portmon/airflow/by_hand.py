"""Asking one host now, without a scheduler: through the operator and the steps of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from portmon.airflow import installation, settings
from portmon.airflow.cmdb_hook import get_inventory
from portmon.airflow.operators.netstat import NetstatOperator
from portmon.airflow.tasks import NETSTAT, migrate
from portmon.config import Config
from portmon.errors import CommandError
from portmon.model.host import Host, Inventory
from portmon.model.observation import Observation
from portmon.scan.answer import Recorder, observation_from_xcom
from portmon.steps.evaluate import evaluate_dry
from portmon.steps.fetch import fetch_inventory
from portmon.steps.plan import declared_of, item_of
from portmon.steps.run import Run
from portmon.storage import decisions
from portmon.storage.database import Database
from portmon.text import plain

log = logging.getLogger(__name__)


class _Visit(NetstatOperator):
    """Keeps the observation that it stores in a certain database."""

    seen: Observation | None = None

    def __init__(self, *, database: Database, **given: Any) -> None:
        super().__init__(**given)
        self._state = database

    def ask(self, run_id: str) -> Observation:
        """What a task would do; Airflow warns of ``execute`` outside of one."""
        with self.task_errors():
            try:
                answer = self._visit(Recorder(self.host["id"], run_id, 1, None), last_try=True)
            finally:
                self._hang_up()
        if answer is not None:
            return observation_from_xcom(answer)
        assert self.seen is not None  # noqa: S101 - for the type checker: what raises nothing stores an observation
        return self.seen

    def _store(self, observation: Observation | None) -> None:
        super()._store(observation)
        self.seen = observation


def scan(config: Config, name: str, *, dry_run: bool) -> dict[str, int]:
    """Ask a host of the CMDB, and log what a run's tasks would.

    What it answers is stored, and the next run evaluates it: an evaluation here would overtake a run that is under way.

    :param name: or id
    :param dry_run: nothing is stored but the host list
    :returns: counts of the events that would follow, as :func:`portmon.steps.evaluate.evaluate_dry` does
    :raises CommandError: there is no such host
    :raises airflow.sdk.exceptions.AirflowException: it could not be asked; the log says why
    :raises ScanError: likewise
    """
    installation.must_be_one()
    database, now = settings.database(), datetime.now(UTC)
    migrate(database)
    inventory = get_inventory(config.cmdb, settings.folder_of(config))
    run = Run(f"by_hand__{now.isoformat()}", dry_run=True)
    fetched = fetch_inventory(database, config, run, lambda: inventory, now=now)
    _, observation = visit(database, config, inventory, name, dry_run=dry_run, run_id=run.run_id)
    interval = settings.interval()
    counts = evaluate_dry(database, config, run, fetched.digest, observations=[observation], interval=interval)
    kept = "nothing of this was kept" if dry_run else "the answer is kept, and the next run evaluates it"
    log.info("That is what a run would find; %s, and no message is sent", kept)
    return counts


def visit(
    database: Database, config: Config, inventory: Inventory, name: str, *, dry_run: bool, run_id: str = "by_hand"
) -> tuple[Host, Observation]:
    """Ask a host through the operator of a run.

    :raises CommandError: there is no such host
    :raises airflow.sdk.exceptions.AirflowException: it could not be asked
    :raises ScanError: likewise
    """
    host = _named(inventory, name)
    with database.begin() as conn:
        promoted = decisions.in_force(conn, datetime.now(UTC), host_id=host.id).promoted
    must = declared_of(config, [host], promoted)
    operator = _Visit(
        database=database, task_id=NETSTAT, host=item_of(host, config, must.get(host.id, {}), dry_run=dry_run)
    )
    return host, operator.ask(run_id)


def _named(inventory: Inventory, name: str) -> Host:
    found: Sequence[Host] = [one for one in inventory.hosts if one.id == name]
    found = found or [one for one in inventory.hosts if one.name.lower() == name.lower()]
    if not found:
        wrong = next((one for one in inventory.invalid if name in (one.id, one.name)), None)
        why = f"its entry can't be used: {plain(wrong.reason, 300)}" if wrong else "`portmon hosts` lists them"
        raise CommandError(f"{inventory.source} has no host with the name or id {name!r}: {why}")
    if len(found) > 1:
        raise CommandError(f"{len(found)} hosts are named {name!r}; give one of their ids: {[one.id for one in found]}")
    return found[0]
