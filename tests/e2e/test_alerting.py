"""Which receivers get which messages, from a live Airflow on PostgreSQL that watches real hosts, with real receivers.

Alertmanager, a mail server, a signed webhook, an Apprise target and the task log hear of everything that is critical,
the webhook alone of the rest. One story: each test starts from what the one before left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pytest_httpserver import HTTPServer

from demo.airflow_env import ROOT
from tests.worlds.alertmanager import missing as alertmanager_missing
from tests.worlds.lab import missing
from tests.worlds.live import NASTY, SECRET, LiveSite
from tests.worlds.postgres import Cluster
from tests.worlds.receivers import Receivers
from tests.worlds.waiting import skip_without, until

pytestmark = pytest.mark.slow

NASTY_PROGRAM = "{{ 7 * 6 }}"
"""netstat shows 19 characters of pid, slash and name: 11 are left, whatever the pid."""
LONE = "{{lone"
FRAGILE = 8443
"""Of this port a receiver that hangs and one that is broken are told as well."""
DEATH = "[portmon] 1 port down on web1: tcp/8080 nginx: master"

ALERTS: dict[str, Any] = {
    "channels": [
        # Receivers in trouble come first, where they would hold up the others.
        {"type": "webhook", "name": "stuck", "conn_id": "stuck"},
        {"type": "webhook", "name": "broken", "conn_id": "receiver", "endpoint": "broken"},
        {"type": "log"},
        {"type": "alertmanager"},
        {
            "type": "notifier",
            "name": "mail",
            "notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
            "arguments": {"to": ["ops@example.com"]},
        },
        {"type": "webhook", "name": "hook", "conn_id": "receiver", "endpoint": "hook"},
        {"type": "apprise", "name": "chat", "conn_id": "chat"},
    ],
    "routes": [
        {
            "name": "fragile",
            "match": {"kind": "down", "port": FRAGILE},
            "channels": ["stuck", "broken"],
            "continue": True,
        },
        {
            "name": "critical",
            "match": {"severity": "critical"},
            "channels": ["log", "alertmanager", "mail", "hook", "chat"],
        },
    ],
    "default": ["hook"],
    "heartbeat": {"endpoint": "its-secret"},
}
POLICY = """
from datetime import timedelta

from portmon.alerting import queue

# A message that was not answered goes again at once.
queue.FIRST_REST = timedelta(0)


def task_policy(task):
    # Receivers that are down are asked again soon: these tests wait for the last try.
    if task.task_id.startswith("alert_"):
        task.retry_delay = timedelta(seconds=1)
"""


class Site(LiveSite):
    """The hosts, and the receivers of their alerts.

    :param good: runs that succeeded, dry ones left out
    """

    def __init__(self, folder: Path, cluster: Cluster, receivers: Receivers) -> None:
        self.receivers = receivers
        self.good: list[str] = []
        self.first: dict[str, Any] = {}
        super().__init__(
            folder,
            cluster,
            ["web1", "web2", NASTY],
            alerts=ALERTS,
            connections=receivers.connections(),
        )
        policy = self.airflow.home / "config" / "airflow_local_settings.py"
        policy.parent.mkdir()
        policy.write_text(POLICY)

    def run(self, *, expected: str = "success", **params: Any) -> str:
        run_id = super().run(expected=expected, **params)
        if expected == "success" and not params:
            self.good.append(run_id)
        return run_id

    def told(self, run_id: str, *, ended: bool = False) -> tuple[set[str], set[str]]:
        """The tasks after the verdict of a run: those that succeeded, and those that failed or were not begun.

        :param ended: an alert ended not long ago, which may still be repeated to Alertmanager: left out
        """
        ends = {
            task["task_id"]: task["state"]
            for task in self.airflow.tasks(run_id)
            if task["task_id"].startswith("alert_") or task["task_id"] in ("no_change", "heartbeat")
        }
        assert len(ends) == 6
        if ended:
            assert ends.pop("alert_recovered") in ("success", "skipped")
        return (
            {task_id for task_id, state in ends.items() if state == "success"},
            {task_id for task_id, state in ends.items() if state not in ("success", "skipped")},
        )

    def firing(self) -> list[dict[str, Any]]:
        """What Alertmanager shows."""
        return sorted(self.receivers.alertmanager.alerts(), key=lambda one: one["labels"]["port"])

    def heard(self, status: str) -> list[dict[str, Any]]:
        """Alerts that Alertmanager told its receiver as firing or resolved, oldest first."""
        return [one for told in self.receivers.told for one in told["alerts"] if one["status"] == status]

    def portmon(self, *arguments: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "portmon", *arguments],
            cwd=ROOT,
            env=self.airflow.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def alerts(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Host and port: what ``portmon alerts`` says."""
        return {(one["host"], one["port"]): one for one in json.loads(self.portmon("alerts", "--format", "json"))}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Site]:
    skip_without(missing() or alertmanager_missing())
    folder = tmp_path_factory.mktemp("alerting")
    with (
        HTTPServer(threaded=True) as server,
        closing(Receivers(folder / "alertmanager", server)) as receivers,
        closing(Site(folder, postgres_cluster, receivers)) as made,
    ):
        made.airflow.start(migrated=True)
        yield made


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def test_1_a_killed_service_is_one_message_per_channel(site: Site) -> None:
    got = site.receivers
    baseline = site.run()
    assert site.told(baseline) == ({"no_change", "heartbeat"}, set())
    assert set(got.counts().values()) == {0}

    site.hosts["web1"].kill_service(8080)
    run_id = site.run()
    assert site.events(run_id) == [("down", "web1", 8080)]
    assert site.told(run_id) == ({"alert_down", "heartbeat"}, set())
    assert got.counts() == {"hook": 1, "mail": 1, "chat": 1, "broken": 0, "stuck": 0}
    index = site.look(run_id, "web1")["map_index"]
    link = f"{site.airflow.url}/dags/portmon/runs/{quote(run_id, safe='')}/tasks/netstat/mapped/{index}"

    mail = got.mail()
    assert mail["Subject"] == DEATH
    assert mail["To"] == "ops@example.com"
    assert mail["Message-ID"].endswith("@portmon.invalid>")
    assert mail["In-Reply-To"] is None
    body = mail.get_body(("html",))
    assert body is not None
    assert link in body.get_content()
    assert "nginx: master" in body.get_content()

    (document,) = got.hook
    assert (document["group"], document["route"], document["title"]) == ("down", "critical", DEATH)
    (told,) = document["alerts"]
    assert (told["status"], told["host"], told["port"], told["link"]) == ("firing", "web1", 8080, link)

    (chat,) = got.chat
    assert (chat["title"], chat["type"]) == (DEATH, "failure")
    assert "web1" in chat["message"]
    assert DEATH in site.logs(run_id)["alert_down -1"].splitlines()

    (alert,) = site.firing()
    assert alert["labels"] == {
        "alertname": "PortDown",
        "job": "portmon",
        "host": "web1",
        "host_id": "id-0",
        "port": "8080",
        "protocol": "tcp",
        "program": "nginx: master",
        "severity": "critical",
    }
    assert alert["status"]["state"] == "active"
    assert alert["generatorURL"] == link
    until(lambda: got.told, "Alertmanager's own receiver")
    assert [one["fingerprint"] for one in site.heard("firing")] == [alert["fingerprint"]]
    # The link leads to the log with the host's answer.
    log = site.airflow.log(run_id, "netstat", map_index=index)
    assert "Logged in after" in log
    site.first = alert


def test_2_while_it_lasts_nobody_hears_of_it_again_but_alertmanager(site: Site) -> None:
    before = site.receivers.counts()
    run_id = site.run()
    assert site.events(run_id) == []
    assert site.told(run_id) == ({"alert_down", "heartbeat"}, set())
    assert site.receivers.counts() == before
    assert DEATH not in site.logs(run_id)["alert_down -1"].splitlines()
    (alert,) = site.firing()
    for same in ("fingerprint", "labels", "startsAt", "generatorURL"):
        assert alert[same] == site.first[same]
    assert alert["endsAt"] > site.first["endsAt"]
    assert len(site.receivers.told) == 1


def test_3_a_crash_of_airflow_and_alertmanager_is_no_end_and_no_second_beginning(site: Site) -> None:
    got = site.receivers
    before = got.counts()
    got.alertmanager.kill()
    site.airflow.kill_all()
    got.alertmanager.start()
    # It keeps its silences, not its alerts.
    assert site.firing() == []
    site.airflow.start(migrated=True)
    run_id = site.run()
    assert site.events(run_id) == []
    assert site.told(run_id) == ({"alert_down", "heartbeat"}, set())
    (alert,) = site.firing()
    for same in ("fingerprint", "labels", "startsAt", "generatorURL"):
        assert alert[same] == site.first[same]
    until(lambda: len(got.told) == 2, "Alertmanager fires again")
    assert site.heard("resolved") == []
    assert got.counts() == before


def test_4_its_recovery_is_told_once_and_in_the_thread_of_its_death(site: Site) -> None:
    got = site.receivers
    before = got.counts()
    death = got.mail()
    site.hosts["web1"].start_service(8080, "nginx: master")
    # Events that are not critical go to the webhook alone.
    site.hosts["web2"].start_service(FRAGILE, "haproxy")
    site.hosts[NASTY].start_service(9000, NASTY_PROGRAM)
    site.hosts[NASTY].start_service(9001, LONE)
    run_id = site.run()
    assert sorted(site.events(run_id)) == [
        ("new", "web2", FRAGILE),
        ("new", NASTY, 9000),
        ("new", NASTY, 9001),
        ("recovered", "web1", 8080),
    ]
    assert site.told(run_id) == ({"alert_new", "alert_recovered", "heartbeat"}, set())
    assert _grown(before, got.counts()) == {"hook": 2, "mail": 1, "chat": 1}

    mail = got.mail()
    assert mail["In-Reply-To"] == death["Message-ID"]
    assert death["Message-ID"] in mail["References"]
    assert mail["Message-ID"] != death["Message-ID"]
    documents = {document["group"]: document for document in got.hook[-2:]}
    assert set(documents) == {"new", "recovered"}
    (told,) = documents["recovered"]["alerts"]
    assert documents["recovered"]["title"] == mail["Subject"] == got.chat[-1]["title"]
    assert (told["status"], told["id"], told["untold"]) == ("resolved", got.hook[0]["alerts"][0]["id"], False)
    assert documents["new"]["route"] == "default"
    assert {one["status"] for one in documents["new"]["alerts"]} == {"notice"}
    assert got.chat[-1]["type"] == "success"
    assert site.firing() == []
    until(lambda: site.heard("resolved"), "the end at Alertmanager's receiver")
    assert [one["fingerprint"] for one in site.heard("resolved")] == [site.first["fingerprint"]]


def test_5_receivers_that_refuse_or_hang_hold_no_other(site: Site) -> None:
    got = site.receivers
    before = got.counts()
    mails = len(got.mails.times)
    heard = len(got.told)
    site.hosts["web2"].kill_service(FRAGILE)
    site.hosts["web1"].start_service(9100, "node_exporter")
    run_id = site.run(expected="failed")
    assert sorted(site.events(run_id)) == [("down", "web2", FRAGILE), ("new", "web1", 9100)]
    # The dead-man's switch is not pinged: a channel was not notified.
    assert site.told(run_id, ended=True) == ({"alert_new"}, {"alert_down", "heartbeat"})
    (task,) = (one for one in site.airflow.tasks(run_id) if one["task_id"] == "alert_down")
    assert (task["state"], task["try_number"]) == ("failed", 3)
    # One message each, also to the receiver that hung: it took the message in a later try.
    assert _grown(before, got.counts()) == {"hook": 2, "mail": 1, "chat": 1, "stuck": 1}
    assert len(got.stuck.keys) == 2
    assert len(set(got.stuck.keys)) == 1
    assert len(got.refused) == 3
    assert len(set(got.refused)) == 1
    # All others were served while it hung.
    until(lambda: len(got.told) > heard, "Alertmanager's own receiver")
    assert got.stuck.asked is not None
    assert got.stuck.gave_up is not None
    downs = [at for at, one in zip(got.times["hook"], got.hook, strict=True) if one["group"] == "down"]
    served = {
        "hook": downs[-1],
        "chat": got.times["chat"][-1],
        "mail": got.mails.times[mails],
        "alertmanager": got.times["told"][heard],
    }
    assert {name for name, at in served.items() if at < got.stuck.gave_up} == set(served)
    (alert,) = site.firing()
    assert (alert["labels"]["host"], alert["labels"]["port"]) == ("web2", str(FRAGILE))


def test_6_a_silenced_death_is_withheld_and_shown_and_an_acknowledged_one_as_well(site: Site) -> None:
    got = site.receivers
    got.mended = True
    before = got.counts()
    printed = site.portmon("silence", "--host", "*conn.x*", "--for", "2h", "--reason", "upgrade", "--author", "alice")
    assert "known hosts that match: 1 of 3" in printed
    site.hosts[NASTY].kill_service(9000)
    site.hosts[NASTY].kill_service(9001)
    run_id = site.run()
    assert sorted(site.events(run_id)) == [("down", NASTY, 9000), ("down", NASTY, 9001)]
    # The receiver that was broken has got the messages that it lacked.
    assert _grown(before, got.counts()) == {"broken": 1}
    assert got.broken[0]["id"] == got.refused[0]
    assert [(one["host"], one["port"]) for one in got.broken[0]["alerts"]] == [("web2", FRAGILE)]
    assert [one["labels"]["host"] for one in site.firing()] == ["web2"]

    alerts = site.alerts()
    assert set(alerts) == {("web2", FRAGILE), (NASTY, 9000), (NASTY, 9001)}
    for port in (9000, 9001):
        silenced = alerts[NASTY, port]
        assert silenced["withheld"]["acknowledged"] is False
        assert "upgrade" in silenced["withheld"]["told"]
        assert {told["channel"]: told["state"] for told in silenced["told"]} == dict.fromkeys(
            ("log", "alertmanager", "mail", "hook", "chat"), "withheld"
        )
    known = alerts["web2", FRAGILE]
    assert known["withheld"] is None
    assert {told["state"] for told in known["told"]} == {"delivered"}

    site.portmon("ack", "web2", str(FRAGILE), "--reason", "on it", "--author", "bob")
    known = site.alerts()["web2", FRAGILE]
    assert known["withheld"]["acknowledged"] is True
    assert "bob" in known["withheld"]["told"]
    assert "on it" in known["withheld"]["told"]


def test_7_unsilenced_it_is_told_and_braces_reach_every_channel_as_they_are(site: Site) -> None:
    got = site.receivers
    before = got.counts()
    heard = len(got.told)
    (silence,) = (one for one in json.loads(site.portmon("silences", "--format", "json")) if one["alert_id"] is None)
    site.portmon("unsilence", str(silence["id"]), "--author", "alice")
    run_id = site.run()
    assert site.events(run_id) == []
    assert site.told(run_id, ended=True) == ({"alert_down", "heartbeat"}, set())
    assert _grown(before, got.counts()) == {"hook": 1, "mail": 1, "chat": 1}
    assert all(one["withheld"] is None for (host, _), one in site.alerts().items() if host == NASTY)

    body = got.mail().get_body(("html",))
    assert body is not None
    logs = site.logs(run_id)
    texts = {
        "mail": str(got.mail()["Subject"]) + body.get_content(),
        "hook": got.hook[-1]["title"] + got.hook[-1]["text"],
        "chat": got.chat[-1]["title"] + got.chat[-1]["message"],
        "log": logs["alert_down -1"],
    }
    for text in texts.values():
        assert NASTY in text
        assert NASTY_PROGRAM in text
        assert LONE in text
        assert SECRET not in text
    told = {one["port"]: one for one in got.hook[-1]["alerts"]}
    assert {(one["host"], one["program"]) for one in told.values()} == {(NASTY, NASTY_PROGRAM), (NASTY, LONE)}
    labels = {one["labels"]["port"]: one["labels"] for one in site.firing()}
    assert set(labels) == {str(FRAGILE), "9000", "9001"}
    assert (labels["9000"]["host"], labels["9000"]["program"]) == (NASTY, NASTY_PROGRAM)
    assert labels["9001"]["program"] == LONE
    until(lambda: len(got.told) >= heard + 2, "Alertmanager's own receiver")
    assert {one["labels"]["host"] for one in site.heard("firing")[-2:]} == {NASTY}
    # However often that is repeated.
    assert [one["fingerprint"] for one in site.heard("resolved")] == [site.first["fingerprint"]]
    for run_id in site.good:
        for task_id, log in site.logs(run_id).items():
            assert SECRET not in log, (run_id, task_id)
    everything = json.dumps([got.hook, got.chat, got.told, got.broken, got.pings])
    assert SECRET not in everything + "".join(mail.as_string() for mail in got.mails.mails)


def test_8_the_dead_mans_switch_is_pinged_once_after_each_good_run(site: Site) -> None:
    before = site.receivers.counts()
    site.hosts["web1"].kill_service(8080)
    dry = site.run(dry_run=True)
    assert "'web1' tcp/8080" in site.airflow.log(dry, "diff_ports")
    assert "No ping" in site.airflow.log(dry, "heartbeat")
    assert site.receivers.counts() == before
    # Not in the run of test 5, whose alert task failed, and not now.
    assert site.receivers.pings == [f"portmon: {run_id}" for run_id in site.good]
    assert len(site.good) == 7
