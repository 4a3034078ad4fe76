"""SIGKILL between commit and mark: nothing is lost, and a kill costs one duplicate at most."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from portmon.config import parse_config
from portmon.model.alert import DeliveryState
from portmon.model.event_kinds import EventKind
from portmon.storage import silences
from tests.stories.crashes import POINTS, Job, work
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet

pytestmark = [pytest.mark.slow, pytest.mark.long]

SEEDS = range({"soak": 50, "full": 10}.get(os.environ.get("HYPOTHESIS_PROFILE", ""), 3))
CONFIG = """
alerts:
  repeat_every: 30min
  channels:
    - {type: webhook, name: hook, conn_id: hook}
"""
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.stories.crashes"])


class Receiver:
    """What came in over HTTP; answers 503 to whatever ``busy`` says."""

    def __init__(self, server: HTTPServer) -> None:
        self.documents: list[dict[str, Any]] = []
        self.busy = False
        server.expect_request("/hook", method="POST").respond_with_handler(self._take)
        self.connection = {"conn_type": "http", "host": server.url_for("").rstrip("/") + "/hook"}

    def _take(self, request: Request) -> Response:
        if self.busy:
            return Response("busy", 503)
        self.documents.append(request.get_json())
        return Response("ok")

    def told(self) -> dict[str, list[str]]:
        """Alert key: kinds in the order in which they came, reminders left out."""
        found: dict[str, list[str]] = defaultdict(list)
        for document in self.documents:
            if not document["reminder"]:
                for alert in document["alerts"]:
                    found[f"{alert['host_id']}/{alert['port']}"].append(alert["event_id"])
        return found


@pytest.fixture
def receiver(httpserver: HTTPServer) -> Iterator[Receiver]:
    return Receiver(httpserver)


class Story:
    """A fleet whose alert tasks run in processes that may be killed."""

    def __init__(self, folder: Path, receiver: Receiver, seed: int) -> None:
        self.random = random.Random(seed)
        self.database = migrated(folder / "state.db")
        self.url = str(self.database.url)
        self.fleet = Fleet(self.database, parse_config(CONFIG))
        for number in range(4):
            self.fleet.add(f"web{number}", {22: "sshd", 80: "nginx", 443: "nginx"})
        self.fleet.alert = lambda groups=None: None  # type: ignore[method-assign]
        self.receiver = receiver
        self.kills = 0
        self.reached: Counter[str] = Counter()

    def tasks(self, crash_at: str | None = None, number: int = 1) -> bool:
        """The alert tasks of a run; whether they were killed."""
        job = Job(
            self.url,
            CONFIG,
            {"hook": self.receiver.connection},
            self.fleet.now - timedelta(minutes=4),
            crash_at,
            number,
            lease=timedelta(seconds=0.5),
        )
        process = FORK.Process(target=work, args=(job,))
        process.start()
        process.join(120)
        assert process.exitcode in (0, -9), process.exitcode
        if process.exitcode == -9:
            self.kills += 1
            self.reached[crash_at or ""] += 1
        return process.exitcode == -9

    def happen(self) -> None:
        """Services die, come back and appear."""
        for machine in self.fleet.machines.values():
            for port in (80, 443, 8080):
                if self.random.random() < 0.3:
                    if port in machine.services:
                        machine.kill(port)
                    else:
                        machine.start(port, "nginx")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in SEEDS[1:])])
def test_killed_at_every_point(tmp_path: Path, receiver: Receiver, seed: int) -> None:
    story = Story(tmp_path, receiver, seed)
    story.fleet.run()
    assert len(POINTS) >= 20
    for point in story.random.sample(POINTS, len(POINTS)):
        receiver.busy = "failure" in point or story.random.random() < 0.2
        story.happen()
        if "reminder" in point or "repeat" in point:
            story.fleet.number += 7
        if "superseded" in point and story.random.random() < 0.5:
            with story.database.begin() as conn:
                silences.add(
                    conn,
                    hosts=("web0",),
                    starts_at=story.fleet.now,
                    ends_at=story.fleet.now + timedelta(minutes=20),
                    author="alice",
                    reason="now and then",
                    now=story.fleet.now,
                )
        story.fleet.run()
        number = 1
        while story.tasks(point, number) and story.random.random() < 0.3:
            number = story.random.choice((1, 2))
    receiver.busy = False
    for _ in range(3):
        # A message that was not answered rests for an hour at most.
        story.fleet.number += 13
        story.fleet.run()
        story.tasks()

    assert story.kills >= 15, story.reached
    _check(story, receiver)


def _check(story: Story, receiver: Receiver) -> None:
    from portmon.storage import deliveries
    from portmon.storage import events as stored

    with story.database.begin() as conn:
        events = stored.recent(conn, limit=100_000)
        assert deliveries.unfinished(conn, "hook") == []
        statuses = deliveries.of_events(conn, [event.id for event in events])
    told = Counter(event_id for ids in receiver.told().values() for event_id in ids)
    by_id = {event.id: event for event in events}
    # Nothing is lost: deliveries marked as delivered came, all others were overtaken or silenced.
    for event in events:
        status = statuses.get((event.id, "hook"))
        if status and status.state is DeliveryState.DELIVERED:
            assert told[event.id] >= 1, event
        elif status is not None:
            assert status.state in (DeliveryState.CANCELLED, DeliveryState.SILENCED), (event, status)
    # A kill costs one duplicate message at most.
    documents = Counter(document["id"] for document in receiver.documents if not document["reminder"])
    assert sum(count - 1 for count in documents.values()) <= story.kills
    # A message that came twice had the same key, by which a receiver recognises it.
    for event_id, count in told.items():
        keys = {
            document["id"]
            for document in receiver.documents
            if not document["reminder"] and any(alert["event_id"] == event_id for alert in document["alerts"])
        }
        assert len(keys) == 1 or count == 1, by_id[event_id]
    # Messages came in the order of events, and the last one about a port says its present state.
    order = {event.id: number for number, event in enumerate(events)}
    for ids in receiver.told().values():
        first = list(dict.fromkeys(ids))
        assert first == sorted(first, key=order.__getitem__), [by_id[one].kind for one in first]
    for key, ids in receiver.told().items():
        machine = story.fleet.machines[key.split("/")[0].removeprefix("id-")]
        port = int(key.split("/")[1])
        last = by_id[ids[-1]]
        if last.kind in (EventKind.DOWN, EventKind.RECOVERED, EventKind.NEW):
            assert (port in machine.services) == (last.kind is not EventKind.DOWN), (key, last.kind)
    assert json.dumps(receiver.documents)


def test_three_copies_of_the_alert_tasks_at_once_send_everything_once(tmp_path: Path, receiver: Receiver) -> None:
    story = Story(tmp_path, receiver, 0)
    story.fleet.run()
    for _ in range(20):
        story.happen()
        story.fleet.machines["web0"].restart(22)
        story.fleet.run()
        job = Job(story.url, CONFIG, {"hook": receiver.connection}, story.fleet.now)
        copies = [
            FORK.Process(target=work, args=(dataclasses.replace(job, holder=f"copy {number}"),)) for number in range(3)
        ]
        for copy in copies:
            copy.start()
        for copy in copies:
            copy.join(120)
        assert [copy.exitcode for copy in copies] == [0, 0, 0]
    _check(story, receiver)
    told = Counter(event_id for ids in receiver.told().values() for event_id in ids)
    assert len(told) > 40
    assert set(told.values()) == {1}
    reminders = Counter(document["id"] for document in receiver.documents if document["reminder"])
    assert set(reminders.values()) <= {1}
