"""Messages out: to the task log, to Apprise, to any Airflow notifier class.

A message is final text and no channel renders it. Airflow renders the arguments of a notifier that is called
as templates, and a program named ``{{ conn.x.password }}`` must not read a connection.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import re
import time
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apprise
from airflow.providers.apprise.hooks.apprise import AppriseHook
from airflow.providers.common.compat.notifier import BaseNotifier
from airflow.providers.common.compat.sdk import redact

from portmon import limits
from portmon.config import AppriseChannel, Channel, LogChannel, NotifierChannel
from portmon.errors import DeliveryError
from portmon.models import Severity
from portmon.render import Message, plain

TARGET_TIMEOUT = 20.0
"""Seconds that one Apprise target may take, its own retries included."""
TARGETS_AT_ONCE = 4
"""Below the number of Apprise's own workers on any machine, so that none waits for one while its time runs."""
ERROR_LIMIT = 300
"""Characters of somebody else's error that a message of ours repeats."""

_log = logging.getLogger("portmon.alerts")


def deliver(channel: Channel, message: Message, *, done: tuple[str, ...] = ()) -> None:
    """Send one message over one channel. Returns only if every target took it.

    :param channel: from the configuration
    :param message: final text
    :param done: targets that took it in an earlier try, as told by :attr:`DeliveryError.delivered`; left out now
    :raises DeliveryError: with the targets that took it now, to be added to ``done`` of the next try
    """
    match channel:
        case LogChannel():
            _write_log(message)
        case AppriseChannel():
            _send_apprise(channel, message, done)
        case NotifierChannel():
            _call_notifier(channel, message)


def check_channel(channel: Channel) -> list[str]:
    """What is wrong with a channel, as far as it shows without its connection and without sending.

    :return: sentences for people; empty if nothing was found
    """
    if not isinstance(channel, NotifierChannel):
        return []
    sample = Message(title="title", text="text", html="<p>html</p>")
    try:
        notifier = _build(channel, sample)
    except DeliveryError as error:
        return [str(error)]
    problems = [
        f"channel {channel.name!r}: arguments.{place} holds {variable} among other text, where it is not "
        f"replaced: make it exactly {variable}"
        for place, value in _strings(channel.arguments)
        for variable in _VARIABLES
        if variable in value and value not in _VARIABLES
    ]
    if not any(value in _VARIABLES for _, value in _strings(_arguments(type(notifier), channel))):
        problems.append(
            f"channel {channel.name!r}: no argument is $title, $text or $html: the message would not be sent"
        )
    return problems


# ── the task log ────────────────────────────────────────────────────────────────────────────────


def _write_log(message: Message) -> None:
    level = logging.INFO if message.severity is Severity.INFO else logging.WARNING
    _log.log(level, "%s", message.title)
    for line in message.text.splitlines():
        _log.log(level, "    %s", line)


# ── Apprise ─────────────────────────────────────────────────────────────────────────────────────

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


def _send_apprise(channel: AppriseChannel, message: Message, done: tuple[str, ...]) -> None:
    """Each target by itself, its result checked: Airflow's hook throws all results away.

    Several at once, and none after most of the channel's time is over: targets that hang must not keep the
    message from those after them, nor us from telling who has it.
    """
    targets = list(_targets(channel))
    last_start = time.monotonic() + limits.SEND.total_seconds() - TARGET_TIMEOUT - 1

    def ask(target: _Target) -> str | None:
        return _send_to(target, message) if time.monotonic() < last_start else "not asked, others took too long"

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


def _send_to(target: _Target, message: Message) -> str | None:
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
        body=message.text,
        notify_type=_NOTIFY_TYPES[message.severity],
        body_format=apprise.NotifyFormat.TEXT,
        interpret_escapes=False,
        timeout=TARGET_TIMEOUT,
    )
    if result:
        return None
    reasons = [entry.message for entry in result.logs()]
    return _foreign(reasons[-1]) if reasons else str(result.status.name).lower()


def _targets(channel: AppriseChannel) -> Iterator[_Target]:
    """The targets of the channel's connection.

    :raises DeliveryError: if there is no usable connection or it names no target
    """
    hook = AppriseHook(apprise_conn_id=channel.conn_id)
    try:
        config = hook.get_config_from_conn(hook.get_connection(channel.conn_id))
    except Exception as error:
        raise DeliveryError(
            f"no usable Airflow connection {channel.conn_id!r} ({_told(error)}): add it with `airflow connections add "
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
                if service
                else f"target {number} of connection {channel.conn_id!r}"
            )
            # Two tokens can look alike once masked: count them.
            seen[shown] = seen.get(shown, 0) + 1
            key = hashlib.sha256(f"{shown} {seen[shown]}".encode()).hexdigest()[:16]
            yield _Target(id=key, shown=shown, service=service)


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


# ── notifier classes ────────────────────────────────────────────────────────────────────────────

_VARIABLES = {"$title": "title", "$text": "text", "$html": "html"}
"""Argument values that stand for a part of the message."""
_DEFAULTS = {"subject": "$title", "html_content": "$html"}
"""Arguments of mail notifiers, which would fill what is left out from templates about a task."""


class _Verbatim:
    """Comes before a notifier's class and takes Airflow's template engine out of it.

    Calling ``notify`` instead of the object skips the usual rendering, but a class may render in ``notify``
    (SmtpNotifier does, where a field is None) and reads template files while it is constructed.
    """

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        return content

    def render_template_fields(self, *args: Any, **kwargs: Any) -> None:
        pass

    def resolve_template_files(self) -> None:
        pass


def fill(arguments: Any, message: Message) -> Any:
    """Arguments with every value that is exactly ``$title``, ``$text`` or ``$html`` replaced, at any depth.

    :param arguments: as configured: mappings, lists, scalars
    """
    if isinstance(arguments, str):
        return getattr(message, _VARIABLES[arguments]) if arguments in _VARIABLES else arguments
    if isinstance(arguments, Mapping):
        return {key: fill(value, message) for key, value in arguments.items()}
    if isinstance(arguments, list | tuple):
        return [fill(value, message) for value in arguments]
    return arguments


def _call_notifier(channel: NotifierChannel, message: Message) -> None:
    notifier = _build(channel, message)
    try:
        notifier.notify({})
    except Exception as error:
        raise DeliveryError(f"{channel.notifier}: {_told(error)}", channel=channel.name) from None


def _build(channel: NotifierChannel, message: Message) -> Any:
    """The channel's notifier, ready to notify.

    :raises DeliveryError: if the class is not there, is no notifier, or refuses its arguments
    """
    cls = _load(channel)
    verbatim = type(cls.__name__, (_Verbatim, cls), {"__module__": cls.__module__})
    try:
        return verbatim(**fill(_arguments(cls, channel), message))
    except Exception as error:
        raise DeliveryError(
            f"{channel.notifier} does not accept its arguments: {_told(error)}", channel=channel.name
        ) from None


def _load(channel: NotifierChannel) -> Any:
    module, _, name = channel.notifier.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise DeliveryError(
            f"{channel.notifier} can't be imported ({_told(error)}): is its provider installed where tasks run?",
            channel=channel.name,
        ) from None
    is_notifier = inspect.isclass(cls) and issubclass(cls, BaseNotifier)
    if not is_notifier:
        raise DeliveryError(f"{channel.notifier} is no Airflow notifier class (BaseNotifier)", channel=channel.name)
    if cls.notify is BaseNotifier.notify or inspect.iscoroutinefunction(cls.notify):
        raise DeliveryError(
            f"{channel.notifier} can only notify asynchronously; it needs a plain `notify` method", channel=channel.name
        )
    return cls


def _arguments(cls: Any, channel: NotifierChannel) -> dict[str, Any]:
    accepted = inspect.signature(cls).parameters
    return {name: value for name, value in _DEFAULTS.items() if name in accepted} | dict(channel.arguments)


def _strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in configured arguments with its place: ``("json.blocks[0]", "$text")``."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{place}[{number}]")


# ── errors of others ────────────────────────────────────────────────────────────────────────────

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/\s@]*@)?(?P<host>[^/\s?#'\")]*)[^\s'\")]*", re.IGNORECASE)
_PATH = re.compile(r"(?<=with url: )\S+")


def _told(error: Exception) -> str:
    """Class, message and place of an error, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [{Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    message = _foreign(str(error))
    return f"{type(error).__name__}{': ' + message if message else ''}{place}"


def _foreign(text: str) -> str:
    """Text of another library without secrets: what Airflow knows to be one, and all but the host of addresses.

    Webhooks carry their token in the path, and HTTP clients put the path into their errors.
    """
    known = str(redact(text))
    return plain(_PATH.sub("…", _ADDRESS.sub(r"\g<scheme>\g<host>/…", known)), ERROR_LIMIT)
