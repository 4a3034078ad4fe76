"""Apprise: each target by itself, its result checked."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import apprise
from airflow.providers.apprise.hooks.apprise import AppriseHook

from portmon import limits
from portmon.channels.errors_of_others import foreign, told
from portmon.config import AppriseChannel
from portmon.errors import DeliveryError
from portmon.inputs.urls import is_ambiguous
from portmon.models import Severity
from portmon.render import Message

TARGET_TIMEOUT = 20.0
"""Seconds that one Apprise target may take, its own retries included."""
TARGETS_AT_ONCE = 4
"""Below the number of Apprise's own workers on any machine, so that none waits for one while its time runs."""

_NOTIFY_TYPES = {
    Severity.CRITICAL: apprise.NotifyType.FAILURE,
    Severity.WARNING: apprise.NotifyType.WARNING,
    Severity.INFO: apprise.NotifyType.SUCCESS,
}


@dataclass(frozen=True, slots=True)
class _Target:
    """One URL of an Apprise connection.

    :param id: stored with a delivery; made of the masked URL, so that it tells nothing of the secrets
    :param shown: the URL with its secrets masked
    :param service: None if Apprise does not understand the URL
    """

    id: str
    shown: str
    service: Any


def send_apprise(channel: AppriseChannel, message: Message, done: tuple[str, ...]) -> None:
    """Each target by itself, its result checked: Airflow's hook throws all results away.

    Several at once, and none after most of the channel's time is over: targets that hang must not keep the
    message from those after them, nor us from telling who has it.
    """
    targets = list(_targets(channel))
    last_start = time.monotonic() + limits.SEND.total_seconds() - TARGET_TIMEOUT - 1

    def ask(target: _Target) -> str | None:
        return (
            _send_to(target, message, channel.format)
            if time.monotonic() < last_start
            else "not asked, others took too long"
        )

    open_targets = [target for target in targets if target.id not in done]
    with ThreadPoolExecutor(TARGETS_AT_ONCE) as workers:
        problems = list(workers.map(ask, open_targets))
    delivered = []
    failed = []
    for target, problem in zip(open_targets, problems, strict=True):
        if problem is None:
            delivered.append(target.id)
        else:
            failed.append(f"{target.shown} ({problem})")
    if failed:
        raise DeliveryError(
            f"{len(failed)} of {len(targets)} targets did not take the message: {'; '.join(failed)}",
            channel=channel.name,
            delivered=tuple(delivered),
        )


def _send_to(target: _Target, message: Message, form: str) -> str | None:
    """What went wrong, None if nothing."""
    if target.service is None:
        return "Apprise does not understand this URL"
    # A message over the service's limit loses its tail, the least bad of it; left alone, the service refuses it all.
    if target.service.overflow_mode == apprise.OverflowMode.UPSTREAM:
        target.service.overflow_mode = apprise.OverflowMode.TRUNCATE
    single = apprise.Apprise()
    single.add(target.service)
    result = single.notify(
        title=message.title,
        body=getattr(message, form),
        notify_type=_NOTIFY_TYPES[message.severity],
        body_format=apprise.NotifyFormat(form),
        interpret_escapes=False,
        timeout=TARGET_TIMEOUT,
    )
    if result:
        return None
    reasons = [entry.message for entry in result.logs()]
    return foreign(reasons[-1]) if reasons else str(result.status.name).lower()


def _targets(channel: AppriseChannel) -> Iterator[_Target]:
    """The targets of the channel's connection.

    :raises DeliveryError: if there is no usable connection or it names no target
    """
    hook = AppriseHook(apprise_conn_id=channel.conn_id)
    try:
        config = hook.get_config_from_conn(hook.get_connection(channel.conn_id))
    except Exception as error:
        raise DeliveryError(
            f"no usable Airflow connection {channel.conn_id!r} ({told(error)}): add it with `airflow connections add "
            f"{channel.conn_id} --conn-type apprise --conn-extra "
            """'{"config": [{"path": "<Apprise URL>"}]}'`""",
            channel=channel.name,
        ) from None
    entries = [config] if isinstance(config, Mapping) else config if isinstance(config, list) else []
    if not entries:
        raise DeliveryError(
            f"Airflow connection {channel.conn_id!r} names no target: its extra field needs "
            """{"config": [{"path": "<Apprise URL>"}]}""",
            channel=channel.name,
        )
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        path = entry.get("path") if isinstance(entry, Mapping) else None
        services = _services(path) if isinstance(path, str) else []
        for service in services or [None]:
            # The query may hold headers and tokens that are not masked.
            shown = (
                service.url(privacy=True).partition("?")[0]
                if service and not _may_show_a_password(path)
                else f"target {number} of connection {channel.conn_id!r}"
            )
            # Two tokens can look alike once masked: count them.
            seen[shown] = seen.get(shown, 0) + 1
            key = hashlib.sha256(f"{shown} {seen[shown]}".encode()).hexdigest()[:16]
            yield _Target(id=key, shown=shown, service=service)


def _may_show_a_password(path: Any) -> bool:
    """Whether a password with a / or # in it is what Apprise takes for host and path, which it does not mask.

    Mail addresses have an @ where others have none.
    """
    return isinstance(path, str) and not path.lower().startswith("mailto") and is_ambiguous(path.partition("?")[0])


def _services(path: str) -> list[Any]:
    """Apprise's objects for one ``path`` of a connection: usually one, several if it lists several URLs."""
    loaded = apprise.Apprise()
    logger = logging.getLogger("apprise")
    # Apprise logs a URL that it does not understand, and masks only what it takes for a secret.
    was_disabled, logger.disabled = logger.disabled, True
    try:
        understood = loaded.add(path)
    finally:
        logger.disabled = was_disabled
    return list(loaded) if understood else []
