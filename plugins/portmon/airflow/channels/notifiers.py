"""Any Airflow notifier class, with nothing of it rendered."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from airflow.providers.common.compat.notifier import BaseNotifier
from airflow.providers.smtp.notifications.smtp import SmtpNotifier

from portmon.airflow.channels.mail import RecordingHook, recipient_id, refusals
from portmon.airflow.channels.redact import told
from portmon.alerting.channels.services import wait_of
from portmon.alerting.config import NotifierChannel
from portmon.alerting.mail_headers import headers
from portmon.alerting.message.render import Message
from portmon.errors import DeliveryError

_MESSAGE = ("$title", "$text", "$markdown", "$html")
_VARIABLES = (*_MESSAGE, "$id", "$headers")
"""Argument values that stand for a part of the message; the first ones say what happened."""
_DEFAULTS = {"subject": "$title", "html_content": "$html", "custom_headers": "$headers"}
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


def parts(channel: NotifierChannel, message: Message) -> dict[str, Any]:
    """What the variables stand for."""
    return {
        # Mail programs and Python's mail library take a line break for the next header.
        "$title": " ".join(message.title.splitlines()),
        "$text": message.text,
        "$markdown": message.markdown,
        "$html": message.html,
        "$id": message.id,
        "$headers": headers(message, channel.name),
    }


def fill(arguments: Any, values: Mapping[str, Any]) -> Any:
    """Arguments with every value that is exactly a variable replaced, at any depth.

    :param arguments: as configured: mappings, lists, scalars
    :param values: of the variables, see :func:`parts`
    """
    if isinstance(arguments, str):
        return values.get(arguments, arguments)
    if isinstance(arguments, Mapping):
        return {key: fill(value, values) for key, value in arguments.items()}
    if isinstance(arguments, list | tuple):
        return [fill(value, values) for value in arguments]
    return arguments


def call_notifier(channel: NotifierChannel, message: Message, done: tuple[str, ...] = ()) -> None:
    """Send one message through a notifier.

    :param done: recipients of a mail that have it
    :raises DeliveryError: if there is no such class, or it fails; of a mail, also if one recipient was refused
    """
    notifier = _build(channel, message)
    mail = _recorded(notifier, done)
    try:
        notifier.notify({})
        if mail is not None and mail.error is not None:
            raise mail.error
    except Exception as error:
        raise DeliveryError(f"{channel.notifier}: {told(error)}", channel=channel.name, waits=_waits(error)) from None
    if mail is not None and mail.refused:
        number = len(mail.refused)
        raise DeliveryError(
            f"the mail server refused {number} recipient{'' if number == 1 else 's'} of the mail, "
            f"{len(mail.taken) or 'none'} got it: {refusals(mail.refused)}. The refused are tried again; correct or "
            "remove an address that is wrong",
            channel=channel.name,
            delivered=tuple(map(recipient_id, mail.taken)),
        )


def _recorded(notifier: Any, done: tuple[str, ...]) -> Any:
    """The hook that a mail notifier is given in place of its own, None if it is none."""
    if not isinstance(notifier, SmtpNotifier):
        return None
    hook = RecordingHook(done=done, smtp_conn_id=notifier.smtp_conn_id, auth_type=notifier.auth_type)
    # A cached property, and so an attribute of the same name.
    vars(notifier)["hook"] = hook
    return hook


def _waits(error: BaseException | None) -> dict[str, float]:
    """For how long the receiver wants to be left alone, if an HTTP answer is among the reasons and says so."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, requests.Response):
            wait = wait_of(answer)
            return {} if wait is None else {"": wait}
        error = error.__cause__ or error.__context__
    return {}


def check_notifier(channel: NotifierChannel) -> list[str]:
    """What is wrong with a notifier's class and arguments."""
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
        if value not in _VARIABLES and re.search(rf"{re.escape(variable)}\b", value)
    ]
    if not any(value in _MESSAGE for _, value in _strings(_arguments(type(notifier), channel))):
        problems.append(
            f"channel {channel.name!r}: no argument is one of {', '.join(_MESSAGE)}: the message would not be sent"
        )
    return problems


def _build(channel: NotifierChannel, message: Message) -> Any:
    """The channel's notifier, ready to notify.

    :raises DeliveryError: if the class is not there, is no notifier, or refuses its arguments
    """
    cls = _load(channel)
    verbatim = type(cls.__name__, (_Verbatim, cls), {"__module__": cls.__module__})
    try:
        return verbatim(**fill(_arguments(cls, channel), parts(channel, message)))
    except Exception as error:
        raise DeliveryError(
            f"{channel.notifier} does not accept its arguments: {told(error)}", channel=channel.name
        ) from None


def _load(channel: NotifierChannel) -> Any:
    module, _, name = channel.notifier.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise DeliveryError(
            f"{channel.notifier} can't be imported ({told(error)}): is its provider installed where tasks run?",
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
