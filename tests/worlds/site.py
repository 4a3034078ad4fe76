"""Hosts of the lab under watch, in real time: what the DAG does, without a scheduler.

Host list, pruning, plan, one NetstatOperator per host over SSH, the verdict, messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from typer.testing import CliRunner

from portmon import cli
from portmon.airflow.operators.netstat import NetstatOperator
from portmon.alerting.message.render import Message
from portmon.config import Config, load_config
from portmon.errors import CmdbError, ScanError
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host, Inventory
from portmon.storage.database import Database
from tests.worlds.lab import Lab, LabHost
from tests.worlds.runs import Runs
from tests.worlds.waiting import until

Told = list[tuple[str, str | None, int | None]]
"""Events as kind, name of the host, port."""


class Site(Runs):
    """Hosts of the lab under watch, in real time.

    :param folder: home of the user who runs the tasks, which find configuration, database and login as in Airflow
    """

    interval = timedelta(milliseconds=20)
    """So short that each run counts."""
    run_id = "run-{}"

    def __init__(self, lab: Lab, folder: Path, database: Database, patch: pytest.MonkeyPatch) -> None:
        super().__init__(database, Config(), start=datetime.now(UTC))
        self.lab = lab
        self._patch = patch
        self.listed: list[Host] = []
        self.path = folder / "portmon.yaml"
        self.messages: list[str] = []
        self.broken = False
        self.configure()
        url = database.url
        file = json.dumps({"conn_type": "sqlite", "host": url.database})
        server = url.set(drivername="postgresql").render_as_string(hide_password=False)
        patch.setenv("AIRFLOW_CONN_PORTMON_DB", file if database.is_sqlite else server)
        patch.setenv("HOME", str(folder))
        patch.setattr("portmon.airflow.settings.config", lambda: self.config)
        self.log_in_as(lab.user)

    def log_in_as(self, user: str) -> None:
        """Log in to all hosts as another user from now on."""
        connection = {"conn_type": "ssh", "login": user, "extra": {"key_file": str(self.lab.key)}}
        self._patch.setenv("AIRFLOW_CONN_SSH_DEFAULT", json.dumps(connection))

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)

    def configure(self, **sections: Any) -> None:
        """Write portmon.yaml: the test's own sections over short times."""
        settings: dict[str, Any] = {
            "ssh": {"connect_timeout": "2s"},
            "scan": {"confirm_after": "0.05s"},
            "states": {"unreachable_after": 1, "ephemeral_after": 2},
            "alerts": {"channels": [{"type": "log", "name": "list"}]},
        }
        for name, values in sections.items():
            settings[name] = {**settings.get(name, {}), **values} if isinstance(values, dict) else values
        self.path.write_text(yaml.safe_dump(settings))
        self.config = load_config(self.path)

    def watch(self, *names: str) -> list[LabHost]:
        """Put hosts into the CMDB and look at them for the first time."""
        self.listed = [Host(f"id-{name}", name, self.lab.hosts[name].address) for name in names]
        assert sorted(self.run()) == sorted(("baseline", name, None) for name in names)
        return [self.lab.hosts[name] for name in names]

    def run(self, *, force_prune: bool = False) -> Told:
        """One run; what it told, in order."""
        self.number += 1
        run = self.run_of(force_prune=force_prune)
        self.scan_and_evaluate(run)
        events = self.events(run.run_id)
        groups = self.route()
        assert groups == {group for event in events if (group := event.group)}
        for group in sorted(groups):
            self.deliver(group)
        return [(event.kind.value, event.host_name, event.port) for event in events]

    def scan(self, plan: Sequence[Mapping[str, Any]]) -> None:
        # Through JSON, as an XCom goes.
        operators = [NetstatOperator(task_id="netstat", host=json.loads(json.dumps(item))) for item in plan]
        with ThreadPoolExecutor(max(len(operators), 1)) as pool:
            list(pool.map(lambda operator: _execute(operator, self.run_of().run_id), operators))

    def load(self) -> Inventory:
        if self.broken:
            raise CmdbError("HTTP 500", source="test")
        return Inventory(tuple(self.listed), source="test")

    def send(self, channel: object, message: Message, done: tuple[str, ...]) -> None:
        self.messages.append(message.title)

    def run_until(self, kind: EventKind) -> Told:
        """Runs until one tells something of a kind; what they told, which is nothing before that."""
        told: Told = []

        def done() -> bool:
            told.extend(self.run())
            return any(event[0] == kind for event in told)

        until(done, what=kind)
        return told

    def last(self, kind: EventKind) -> Event:
        """The last event of a kind."""
        return [event for event in self.events() if event.kind is kind][-1]

    def command(self, *arguments: str) -> str:
        """What a command prints, in this process."""
        done = CliRunner().invoke(cli.app, list(arguments))
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    def explain(self, host: str, port: int) -> str:
        """What ``portmon explain`` prints."""
        return self.command("explain", host, str(port), "--config", str(self.path))


def _execute(operator: NetstatOperator, run_id: str) -> None:
    """The only try of a task; a host that can't be looked at is a red task and no more."""
    dag_run = SimpleNamespace(run_id=run_id, run_type="manual", logical_date=None)
    try:
        operator.execute({"dag_run": dag_run, "ti": SimpleNamespace(try_number=1, max_tries=0)})
    except (ScanError, AirflowFailException):
        pass
