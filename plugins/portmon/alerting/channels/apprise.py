"""Apprise: each target by itself, its request measured before it is sent, its answer read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from portmon import timeouts
from portmon.alerting.channels.base import BaseChannel, NeededConnection, Outside
from portmon.fields import Text
from portmon.untrusted.redact import describe

if TYPE_CHECKING:
    from portmon.alerting.channels.apprise_targets import AppriseTarget
    from portmon.alerting.channels.services import Refusal
    from portmon.alerting.message.render import Message

TARGET_TIMEOUT = 20.0
"""Seconds that one Apprise target may take, its own retries included."""
TARGETS_AT_ONCE = 4
"""Below the number of Apprise's own workers on any machine, so that none waits for one while its time runs."""


class AppriseChannel(BaseChannel):
    """Apprise: DingTalk, WeCom, Feishu, Slack, PagerDuty, mail and 100 more."""

    conn_type: ClassVar[str] = "apprise"

    type: Literal["apprise"]
    name: Text = Field("apprise", description="unique name")
    conn_id: Text = Field("apprise_default", description="Airflow Apprise connection with the target URLs")
    format: Literal["text", "markdown", "html"] = Field(
        "text",
        description="body that the targets get, or the next simpler one that they can show; `html` is for mail and "
        "receivers of your own, a chat gets Markdown instead",
    )

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Send to each target by itself and read its result: Airflow's hook throws all results away.

        Several targets are asked at once, and none after most of the channel's time is over: a target that hangs must
        not keep the message from the others, nor this channel from telling which targets have it.
        """
        from portmon.alerting.channels.apprise_targets import targets_of
        from portmon.alerting.channels.services import Refusal

        targets = list(targets_of(self._paths(outside), f"connection {self.conn_id!r}"))
        last_start = time.monotonic() + timeouts.SEND.total_seconds() - TARGET_TIMEOUT - 1

        def ask(target: AppriseTarget) -> Refusal | None:
            if until := message.resting.get(target.id):
                return Refusal(f"it asked to be left alone; it is tried again after {until:%H:%M:%S} UTC")
            if time.monotonic() > last_start:
                return Refusal("not asked, others took too long")
            return target.send(message, self.format, outside.redact, TARGET_TIMEOUT, done)

        asked = [target for target in targets if target.id not in done]
        with ThreadPoolExecutor(TARGETS_AT_ONCE) as workers:
            refusals = list(zip(asked, workers.map(ask, asked), strict=True))
        failed = [f"{target.shown} ({refusal.reason})" for target, refusal in refusals if refusal]
        if failed:
            raise self.failure(
                f"{len(failed)} of {len(targets)} targets did not take the message: {'; '.join(failed)}",
                delivered=tuple(
                    taken
                    for target, refusal in refusals
                    for taken in ((target.id,) if refusal is None else refusal.taken)
                ),
                waits={target.id: one.wait for target, one in refusals if one and one.wait is not None},
            )

    def _paths(self, outside: Outside) -> list[Any]:
        """The ``path`` of each entry of the connection, None where an entry has none."""
        needed = NeededConnection(self.conn_id, self.conn_type)
        try:
            found = outside.connection(self.conn_id)
            config = None if found is None else found.extra_dejson["config"]
            if isinstance(config, str):
                config = json.loads(config)
        except Exception as error:
            why = describe(error, outside.redact)
            raise self.failure(f"no usable Airflow connection {self.conn_id!r} ({why}): {needed.hint}") from None
        if found is None:
            raise self.failure(needed.missing)
        entries = [config] if isinstance(config, Mapping) else config if isinstance(config, list) else []
        if not entries:
            raise self.failure(
                f"Airflow connection {self.conn_id!r} names no target: its extra field needs "
                """{"config": [{"path": "<Apprise URL>"}]}"""
            )
        return [entry.get("path") if isinstance(entry, Mapping) else None for entry in entries]
