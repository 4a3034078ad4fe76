"""The alert tasks of one run in a process of its own, which kills itself at a named point."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from portmon.airflow.outside import deliver
from portmon.config import parse_config
from portmon.errors import PortmonError
from portmon.model.event_kinds import AlertGroup
from portmon.steps import deliver as delivering
from portmon.steps import dispatch, reminders
from portmon.storage import alerts, deliveries, events, lease
from portmon.storage.database import Database
from tests.worlds.runs import FIVE, alert_task


@dataclass(frozen=True, slots=True)
class Job:
    """The task of the process.

    :param crash_at: name of a point of :data:`POINTS`; None to live
    :param number: die when it comes there for this time, counted from 1
    :param lease: how long a channel is its own, so that the task after a crash does not wait for minutes; None:
        as long as it really is
    """

    url: str
    config: str
    connections: dict[str, dict[str, Any]]
    now: datetime
    crash_at: str | None = None
    number: int = 1
    holder: str = "a task that is tried again"
    lease: timedelta | None = None


_WRAPPED: dict[str, tuple[Any, str, bool]] = {
    # name: object, function, whether it dies after it instead of before
    "dispatch: has the lease": (dispatch, "dispatch", False),
    "dispatch: before alerts are stored": (alerts, "save", False),
    "dispatch: alerts are stored": (alerts, "save", True),
    "dispatch: deliveries are written": (deliveries, "enqueue", True),
    "dispatch: events are marked": (events, "dispatched", True),
    "dispatch: what is superseded is cancelled": (dispatch, "_cancel_superseded", True),
    "dispatch: silences are applied": (dispatch, "_apply_silences", True),
    "dispatch: repeats are looked up": (reminders.Book, "due", True),
    "dispatch: is committed": (dispatch, "groups_to_alert", True),
    "deliver: channels are chosen": (delivering.AlertTask, "channels", True),
    "deliver: has the lease": (delivering._Sender, "_send_all", False),
    "deliver: the queue is read": (deliveries, "unfinished", True),
    "deliver: messages are made": (delivering, "next_notifications", True),
    "deliver: the lease is renewed": (lease.Lease, "renew", True),
    "deliver: sending is noted": (deliveries, "begin_sending", True),
    "deliver: the message is rendered": (delivering.AlertTask, "message", True),
    "deliver: before the message goes": (delivering._Sender, "_within_limit", False),
    "deliver: after the message went": (delivering._Sender, "_within_limit", True),
    "deliver: before it is marked": (deliveries, "delivered", False),
    "deliver: it is marked, not committed": (deliveries, "delivered", True),
    "deliver: it is committed": (delivering._Sender, "_send", True),
    "deliver: a failure is marked, not committed": (deliveries, "failed", True),
    "deliver: before a result is noted": (delivering._Sender, "_mark", False),
    "dispatch: reminders are put into the queue": (dispatch, "remind", True),
    "deliver: the lease is given back": (lease.Lease, "release", True),
}
POINTS = tuple(_WRAPPED)


def work(job: Job) -> None:
    """Route and send, as the tasks of a run do."""
    for name, value in job.connections.items():
        os.environ[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(value)
    if job.lease is not None:
        delivering.LEASE_TTL = job.lease
    if job.crash_at:
        _arm(job.crash_at, job.number)
    database = Database(job.url)
    config = parse_config(job.config)
    groups = dispatch.groups_to_alert(
        database, config, run_id=job.holder, now=job.now, interval=FIVE, holder=job.holder
    )
    for group in AlertGroup:
        if group in groups:
            try:
                alert_task(
                    database,
                    config,
                    group,
                    send=lambda channel, message, done: deliver(channel, message, done=done),
                    holder=job.holder,
                    clock=lambda: job.now,
                ).run()
            except PortmonError:
                # The task is red; the next run goes on.
                pass


def _arm(point: str, number: int) -> None:
    owner, name, after = _WRAPPED[point]
    original: Callable[..., Any] = getattr(owner, name)
    left = [number]

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not after:
            _come(left)
        result = original(*args, **kwargs)
        if after:
            _come(left)
        return result

    setattr(owner, name, wrapper)


def _come(left: list[int]) -> None:
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
