"""Any Airflow notifier class, with nothing of it rendered."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from portmon.alerting.channels.base import BaseChannel, NeededConnection, Outside, wait_of
from portmon.errors import DeliveryError
from portmon.text import counted
from portmon.untrusted.redact import describe

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message

_MESSAGE = ("$title", "$text", "$markdown", "$html")
_VARIABLES = (*_MESSAGE, "$id", "$headers")
"""Argument values that stand for a part of the message. At least one of ``_MESSAGE`` must be used."""
_DEFAULTS = {"subject": "$title", "html_content": "$html", "custom_headers": "$headers"}
"""Arguments of mail notifiers, which fill them from templates about a task if they are left out."""


class NotifierChannel(BaseChannel):
    """Any Airflow notifier class."""

    knows_ids: ClassVar[bool] = True
    threads_mails: ClassVar[bool] = True

    type: Literal["notifier"]
    notifier: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*\.[A-Za-z_]\w*$")] = Field(
        description="class, for instance `airflow.providers.smtp.notifications.smtp.SmtpNotifier`"
    )
    arguments: Mapping[str, Any] = Field(
        default_factory=dict,
        description="its arguments; a value that is exactly `$title`, `$text`, `$markdown`, `$html`, `$id` or "
        "`$headers` becomes that part of the message, at any depth. Nothing else is replaced and nothing is rendered "
        "as a template. A class with `subject`, `html_content` and `custom_headers` (mail) gets `$title`, `$html` and "
        "`$headers` there unless they are given",
    )

    def connections(self) -> Iterable[NeededConnection]:
        """The connections that arguments name."""
        for name, value in self.arguments.items():
            if name.endswith("conn_id") and isinstance(value, str):
                yield NeededConnection(value, name.removesuffix("conn_id").rstrip("_") or "…")

    def check(self, outside: Outside) -> list[str]:
        """What is wrong with the class or its arguments, and whether a part of the message is among them."""
        from portmon.alerting.message.render import Message

        try:
            notifier = self._build(Message(title="title", text="text", html="<p>html</p>"), outside)
        except DeliveryError as error:
            return [str(error)]
        problems = [
            f"channel {self.name!r}: arguments.{place} holds {variable} among other text, where it is not "
            f"replaced: make it exactly {variable}"
            for place, value in _strings(self.arguments)
            for variable in _VARIABLES
            if value not in _VARIABLES and re.search(rf"{re.escape(variable)}\b", value)
        ]
        if not any(value in _MESSAGE for _, value in _strings(self._arguments(type(notifier)))):
            problems.append(
                f"channel {self.name!r}: no argument is one of {', '.join(_MESSAGE)}: the message would not be sent"
            )
        return problems

    def send(self, message: Message, outside: Outside, done: tuple[str, ...]) -> None:
        """Let the notifier notify.

        :param done: recipients of a mail that have it
        :raises DeliveryError: if there is no such class, or it fails; of a mail, also if one recipient was refused
        """
        from portmon.alerting.channels.mail import MailTransaction, recipient_id

        notifier = self._build(message, outside)
        hook = outside.mail_hook(notifier)
        mail = None if hook is None else MailTransaction(hook, done)
        try:
            notifier.notify({})
            if mail is not None and mail.error is not None:
                raise mail.error
        except Exception as error:
            # After the server took the mail, what goes wrong concerns the connection only.
            if mail is None or not mail.taken:
                raise self.failure(
                    f"{self.notifier}: {describe(error, outside.redact)}",
                    waits=_waits(error),
                    unsure=mail is not None and mail.unsure,
                ) from None
        if mail is not None and mail.refused:
            raise self.failure(
                f"the mail server refused {counted(len(mail.refused), 'recipient')} of the mail, "
                f"{len(mail.taken) or 'none'} got it: {mail.refusals(outside.redact)}. The refused are tried again; "
                "correct or remove an address that is wrong",
                delivered=tuple(map(recipient_id, mail.taken)),
            )

    def _build(self, message: Message, outside: Outside) -> Any:
        """The notifier, ready to notify."""
        module, _, name = self.notifier.rpartition(".")
        try:
            cls = getattr(importlib.import_module(module), name)
        except Exception as error:
            why = describe(error, outside.redact)
            raise self.failure(
                f"{self.notifier} can't be imported ({why}): is its provider installed where tasks run?"
            ) from None
        base = outside.notifier_base
        is_notifier = inspect.isclass(cls) and issubclass(cls, base)
        if not is_notifier:
            raise self.failure(f"{self.notifier} is no Airflow notifier class (BaseNotifier)")
        if cls.notify is base.notify or inspect.iscoroutinefunction(cls.notify):
            raise self.failure(f"{self.notifier} can only notify asynchronously; it needs a plain `notify` method")
        verbatim = type(cls.__name__, (_Verbatim, cls), {"__module__": cls.__module__})
        try:
            values = parts(message, self.name)
            if isinstance(charset := self.arguments.get("mime_charset"), str):
                # One name that the charset lacks must not keep the whole mail from being sent.
                for name in ("$text", "$markdown", "$html"):
                    values[name] = values[name].encode(charset, "xmlcharrefreplace").decode(charset)
            return verbatim(**fill(self._arguments(cls), values))
        except Exception as error:
            why = describe(error, outside.redact)
            raise self.failure(f"{self.notifier} does not accept its arguments: {why}") from None

    def _arguments(self, cls: Any) -> dict[str, Any]:
        accepted = inspect.signature(cls).parameters
        return {name: value for name, value in _DEFAULTS.items() if name in accepted} | dict(self.arguments)


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


def parts(message: Message, channel: str) -> dict[str, Any]:
    """The part of a message that each variable stands for; a channel's name goes into the headers of mails."""
    from portmon.alerting.channels.mail import headers

    return {
        # Mail programs and Python's mail library take a line break for the next header.
        "$title": " ".join(message.title.splitlines()),
        "$text": message.text,
        "$markdown": message.markdown,
        "$html": message.html,
        "$id": message.id,
        "$headers": headers(message, channel),
    }


def fill(arguments: Any, values: Mapping[str, Any]) -> Any:
    """Configured arguments with every value that is exactly a variable replaced, at any depth."""
    if isinstance(arguments, str):
        return values.get(arguments, arguments)
    if isinstance(arguments, Mapping):
        return {key: fill(value, values) for key, value in arguments.items()}
    if isinstance(arguments, list | tuple):
        return [fill(value, values) for value in arguments]
    return arguments


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


def _waits(error: BaseException | None) -> dict[str, float]:
    """How long the receiver wants to be left alone, if an error behind this one has an HTTP answer that says so."""
    import requests

    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, requests.Response):
            wait = wait_of(answer.status_code, answer.headers)
            return {} if wait is None else {"": wait}
        error = error.__cause__ or error.__context__
    return {}
