"""A week of a scripted fleet: exactly the messages that an operator wants.

The list is a golden file that reads like a diary; ``UPDATE_MESSAGES=1`` writes it anew.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from portmon.alerting.channels.alertmanager import payload
from portmon.alerting.message.render import Message
from portmon.config import parse_config
from portmon.storage import alerts, silences
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.fleet import FIVE, MONDAY, Fleet, at

pytestmark = [pytest.mark.full, pytest.mark.long]

GOLDEN = Path(__file__).parents[1] / "fixtures" / "stories" / "week.txt"
CONFIG = """
rules:
  - {action: deny, host: "app*", port: 9100, comment: node_exporter}
alerts:
  channels:
    - {type: log, name: chat}
    - {type: log, name: pager}
    - {type: alertmanager}
  routes:
    - name: critical
      match: {severity: critical}
      channels: [pager]
      continue: true
    - name: everything
      channels: [chat, alertmanager]
  outage_label: site
"""
WITHOUT_BATCH = CONFIG.replace("alerts:", "  - {action: deny, host: app02, port: 8080, comment: retired}\nalerts:")


class ImitatedAlertmanager:
    """Imitates what Alertmanager notifies of: real ones can't live through a week in a minute.

    Alerts are known by their labels. They resolve when they say so, or when they are not repeated until they end; a
    restart forgets them, but not what was notified.
    """

    def __init__(self) -> None:
        self.until: dict[str, datetime] = {}
        self.notified: set[str] = set()
        self.diary: list[tuple[datetime, str]] = []

    def take(self, now: datetime, message: Message) -> None:
        """One POST."""
        for alert in payload(message):
            name = " ".join(
                alert["labels"].get(label, "") for label in ("alertname", "host", "port") if label in alert["labels"]
            )
            self.until[name] = datetime.fromisoformat(alert["endsAt"].replace("Z", "+00:00"))
            if self.until[name] > now and name not in self.notified:
                self.notified.add(name)
                self.diary.append((now, f"FIRING {name}"))

    def pass_time(self, now: datetime) -> None:
        """What ended by now is notified as resolved."""
        for name in sorted(self.until):
            if self.until[name] <= now:
                del self.until[name]
                if name in self.notified:
                    self.notified.discard(name)
                    self.diary.append((now, f"RESOLVED {name}"))

    def restart(self) -> None:
        """It was dead."""
        self.until.clear()


class Week:
    """The fleet, the times of its events, and the messages of each channel."""

    def __init__(self, database: Database) -> None:
        self.fleet = fleet = Fleet(database, parse_config(CONFIG))
        for number in (1, 2, 3):
            fleet.add(
                f"web0{number}", {22: "sshd", 80: "nginx", 443: "nginx", 9100: "node_exporter"}, role="web", site="fra"
            )
        for number in (1, 2):
            fleet.add(f"app0{number}", {22: "sshd", 8080: "java", 9100: "node_exporter"}, role="app", site="fra")
            fleet.add(f"db0{number}", {22: "sshd", 5432: "postgres"}, role="db", site="fra")
        fleet.add("cache01", {22: "sshd", 6379: "redis-server"}, role="cache", site="fra")
        for number in range(1, 9):
            fleet.add(f"edge{number:02}", {22: "sshd", 443: "haproxy"}, role="edge", site="ams")
        self.alertmanager = ImitatedAlertmanager()
        fleet.on_send = self._send
        self.script = dict(self._story())

    def _send(self, channel: Any, message: Message) -> None:
        if channel.type == "alertmanager" and channel.name not in self.fleet.dead:
            self.alertmanager.take(self.fleet.now, message)

    def _story(self) -> Iterator[tuple[datetime, Callable[[], Any]]]:
        fleet = self.fleet
        machine = fleet.machines

        # A service dies at night and is started again.
        yield at("Mon", "03:00"), lambda: machine["web01"].kill(80)
        yield at("Mon", "03:40"), lambda: machine["web01"].start(80, "nginx")
        # Deployments: restarts, which are no alerts.
        yield at("Mon", "10:00"), lambda: [machine[name].restart(8080) for name in ("app01", "app02")]
        # Something new listens, and stays.
        yield at("Mon", "14:00"), lambda: machine["web03"].start(9999, "debug-shell")

        # Maintenance of the databases, Tuesdays 02:00 to 04:00: one is back in time, one is not.
        yield at("Mon", "16:00"), self._plan_maintenance
        yield at("Tue", "02:10"), lambda: machine["db01"].kill(5432)
        yield at("Tue", "02:30"), lambda: machine["db02"].kill(5432)
        yield at("Tue", "03:10"), lambda: machine["db01"].start(5432, "postgres")
        yield at("Tue", "06:00"), lambda: machine["db02"].start(5432, "postgres")

        # A port that flaps every ten minutes for two hours.
        for round_ in range(6):
            start = at("Wed", "09:00") + timedelta(minutes=20 * round_)
            yield start, lambda: machine["cache01"].kill(6379)
            yield start + timedelta(minutes=10), lambda: machine["cache01"].start(6379, "redis-server")

        # The line to Amsterdam is cut. One host there is slower to come back.
        edges = [f"edge{number:02}" for number in range(1, 9)]
        yield at("Thu", "12:00"), lambda: [setattr(machine[name], "trouble", "timeout") for name in edges]
        yield at("Thu", "13:30"), lambda: [setattr(machine[name], "trouble", None) for name in edges[:-1]]
        yield at("Thu", "13:50"), lambda: setattr(machine["edge08"], "trouble", None)

        # A reboot after which one service does not come back; an operator acknowledges it.
        yield at("Thu", "15:00"), self._reboot
        yield at("Thu", "15:05"), lambda: machine["web02"].start(80, "nginx")
        yield at("Thu", "16:00"), self._acknowledge
        yield at("Sat", "09:00"), lambda: machine["web02"].start(9100, "node_exporter")

        # Alertmanager and the pager are dead for an hour.
        yield at("Fri", "10:00"), lambda: fleet.dead.update({"pager", "alertmanager"})
        yield at("Fri", "10:10"), lambda: machine["web03"].kill(443)
        yield at("Fri", "10:20"), lambda: machine["app02"].kill(8080)
        yield at("Fri", "10:40"), lambda: machine["web03"].start(443, "nginx")
        yield at("Fri", "11:00"), self._revive

        # A host is decommissioned: first its service, then its entry in the CMDB.
        yield at("Sat", "12:00"), lambda: machine["app01"].kill(8080)
        yield at("Sat", "12:30"), lambda: fleet.listed.discard("app01")

        # A rule excludes the port that is down since Friday.
        yield at("Sun", "12:00"), lambda: setattr(fleet, "config", parse_config(WITHOUT_BATCH))

    def _plan_maintenance(self) -> None:
        with self.fleet.database.begin() as conn:
            silences.add(
                conn,
                labels={"role": ("db",)},
                weekly=("Tue 02:00-04:00",),
                starts_at=self.fleet.now,
                author="alice",
                reason="vacuum",
                now=self.fleet.now,
            )

    def _reboot(self) -> None:
        web02 = self.fleet.machines["web02"]
        web02.boot += 1
        web02.restart(22)
        web02.restart(443)
        web02.kill(80)
        web02.kill(9100)

    def _acknowledge(self) -> None:
        with self.fleet.database.begin() as conn:
            alert = alerts.opened(conn)["port/id-web02/tcp/9100"]
            silences.acknowledge(conn, alert.id, author="bob", reason="disk is full", now=self.fleet.now)

    def _revive(self) -> None:
        self.fleet.dead.clear()
        self.alertmanager.restart()

    def live(self) -> None:
        """Seven days, a run every five minutes."""
        while self.fleet.now < MONDAY + timedelta(days=7):
            if happens := self.script.pop(self.fleet.now, None):
                happens()
            if "alertmanager" not in self.fleet.dead:
                self.alertmanager.pass_time(self.fleet.now)
            self.fleet.run()
        assert not self.script

    def diary(self) -> str:
        """Who heard what, in order."""
        # Channels are served side by side, in any order.
        entries = [
            (got.at, got.channel, f"{got.message.title}\n{textwrap.indent(got.message.text, '    ')}")
            for got in self.fleet.got
            if got.channel != "alertmanager"
        ]
        entries += [(when, "alertmanager", text) for when, text in self.alertmanager.diary]
        lines = []
        for when, channel, text in sorted(entries):
            lines.append(f"{when:%a %H:%M}  {channel:<12}  {text}")
        return "\n".join(lines) + "\n"


def test_a_week_ends_with_the_messages_that_a_person_wants(tmp_path: Path) -> None:
    database = migrated(tmp_path / "state.db")
    week = Week(database)
    week.live()
    diary = week.diary()
    if os.environ.get("UPDATE_MESSAGES"):
        GOLDEN.write_text(diary, encoding="utf-8")
    assert diary == GOLDEN.read_text(encoding="utf-8")
    with database.begin() as conn:
        assert alerts.opened(conn) == {}
    assert week.fleet.now - FIVE == at("Sun", "23:55")
    database.dispose()
