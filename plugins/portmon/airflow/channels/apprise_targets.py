"""Apprise: each target by itself, what it is sent measured, what it answers read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import apprise
from airflow.providers.apprise.hooks.apprise import AppriseHook

from portmon import timeouts
from portmon.airflow.channels.redact import foreign, told
from portmon.airflow.channels.wire import Exchange, unheard
from portmon.alerting.channels.fitting import fitted
from portmon.alerting.channels.services import BY_SCHEMA, Refusal
from portmon.alerting.config import AppriseChannel
from portmon.alerting.message.render import Message
from portmon.errors import DeliveryError
from portmon.model.event import Severity
from portmon.untrusted.urls import is_ambiguous

TARGET_TIMEOUT = 20.0
"""Seconds that one Apprise target may take, its own retries included."""
MEASURE_TIMEOUT = 5.0
"""Seconds that measuring a message may take, which sends nothing: more only if Apprise's workers all hang."""
TARGETS_AT_ONCE = 4
"""Below the number of Apprise's own workers on any machine, so that none waits for one while its time runs."""

_NOTIFY_TYPES = {
    Severity.CRITICAL: apprise.NotifyType.FAILURE,
    Severity.WARNING: apprise.NotifyType.WARNING,
    Severity.INFO: apprise.NotifyType.SUCCESS,
}
_DOCUMENTS = {
    *("azure", "brevo", "groundmail", "mailersend", "mailgun", "mailto", "mailtos", "o365", "postmark", "resend"),
    *("sendgrid", "sendpulse", "ses", "smtp2go", "sparkpost"),
    *("apprise", "apprises", "form", "forms", "json", "jsons", "xml", "xmls"),
}
"""Schemas of what shows an HTML document, or hands it on: mail, and receivers of one's own. A chat shows its markup."""


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
    message from those after them, nor us from telling who has it. None before its time that asked to be left alone.
    """
    targets = list(_targets(channel))
    last_start = time.monotonic() + timeouts.SEND.total_seconds() - TARGET_TIMEOUT - 1

    def ask(target: _Target) -> Refusal | None:
        until = message.resting.get(target.id)
        if until is not None:
            return Refusal(f"it asked to be left alone; it is tried again after {until:%H:%M:%S} UTC")
        if time.monotonic() > last_start:
            return Refusal("not asked, others took too long")
        return _send_to(target, message, channel.format)

    open_targets = [target for target in targets if target.id not in done]
    with ThreadPoolExecutor(TARGETS_AT_ONCE) as workers:
        problems = list(workers.map(ask, open_targets))
    delivered = []
    failed = []
    waits = {}
    for target, problem in zip(open_targets, problems, strict=True):
        if problem is None:
            delivered.append(target.id)
        else:
            failed.append(f"{target.shown} ({problem.reason})")
            if problem.wait is not None:
                waits[target.id] = problem.wait
    if failed:
        raise DeliveryError(
            f"{len(failed)} of {len(targets)} targets did not take the message: {'; '.join(failed)}",
            channel=channel.name,
            delivered=tuple(delivered),
            waits=waits,
        )


def _send_to(target: _Target, message: Message, wanted: str) -> Refusal | None:
    """What went wrong, None if nothing."""
    plugin = target.service
    if plugin is None:
        return Refusal("Apprise does not understand this URL")
    service = next((BY_SCHEMA[schema] for schema in plugin.schemas() if schema in BY_SCHEMA), None)
    form = _form(plugin, wanted)
    given: dict[str, Any] = {
        "notify_type": _NOTIFY_TYPES[message.severity],
        "body_format": apprise.NotifyFormat(form),
    }
    if service is not None:
        # What is too long is cut here, where the service counts.
        plugin.overflow_mode = apprise.OverflowMode.UPSTREAM

        def fits(title: str, body: str) -> bool:
            request = _measured(plugin, title=title, body=body, **given)
            return request is None or not service.exceeded(request)

        title, body = fitted(message, form, fits)
    else:
        title, body = message.title, getattr(message, form) or message.text
        # Over the limit that Apprise knows of it loses its tail; left alone, the service would refuse it all.
        if plugin.overflow_mode == apprise.OverflowMode.UPSTREAM:
            plugin.overflow_mode = apprise.OverflowMode.TRUNCATE
    exchange = Exchange(service)
    result = _notify(plugin, exchange, title=title, body=body, timeout=TARGET_TIMEOUT, **given)
    said = exchange.refusal
    if said is not None and (said.in_success or not result):
        return said
    if result:
        return None
    reasons = [entry.message for entry in result.logs()]
    return Refusal(foreign(reasons[-1]) if reasons else str(result.status.name).lower())


def _form(plugin: Any, wanted: str) -> str:
    """Which body a target gets: the one that was asked for, or the next one that it can show."""
    markdown = apprise.NotifyFormat.MARKDOWN
    if wanted == "html" and _DOCUMENTS.isdisjoint(plugin.schemas()):
        wanted = "markdown"
    if wanted == "markdown" and plugin.resolve_format(markdown) is apprise.NotifyFormat.TEXT:
        return "text"
    if wanted == "text" and plugin.resolve_format(apprise.NotifyFormat.TEXT) is markdown:
        # Apprise would escape the dots of addresses.
        return "markdown"
    return wanted


def _notify(plugin: Any, exchange: Exchange, **given: Any) -> Any:
    single = apprise.Apprise()
    single.add(plugin)
    with exchange.watched(plugin):
        return single.notify(interpret_escapes=False, **given)


def _measured(plugin: Any, **given: Any) -> bytes | None:
    """The request that an Apprise object would send; None if that does not show without sending."""
    exchange = Exchange(None, measuring=True)
    retries = plugin.retry
    # It waits some seconds between two requests, also if the first one was not sent.
    plugin.throttle, plugin.retry = (lambda *args, **kwargs: None), 0
    try:
        _notify(plugin, exchange, timeout=MEASURE_TIMEOUT, **given)
    finally:
        del plugin.throttle
        plugin.retry = retries
    return exchange.measured


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
    # Apprise logs a URL that it does not understand, and masks only what it takes for a secret.
    with unheard():
        understood = loaded.add(path)
    return list(loaded) if understood else []
