"""One target of Apprise: a body that its service takes is sent, and the service's answer is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apprise

from portmon.alerting.channels.apprise_wire import Exchange
from portmon.alerting.channels.fitting import fitted
from portmon.alerting.channels.services import BY_SCHEMA, Refusal
from portmon.alerting.message.render import Message
from portmon.model.event_kinds import Severity
from portmon.untrusted.urls import is_ambiguous

MEASURE_TIMEOUT = 5.0
"""Seconds that measuring a message may take. Nothing is sent, so only Apprise workers that all hang take longer."""
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
"""Schemas of targets that show an HTML document or hand it on: mail, and receivers of one's own. A chat shows its
markup."""


@dataclass(frozen=True, slots=True)
class AppriseTarget:
    """One URL of an Apprise connection.

    :param id: stored with a delivery; a digest of the masked URL, so that it holds no secret
    :param shown: the URL with its secrets masked
    :param plugin: Apprise's object, None if it does not understand the URL
    """

    id: str
    shown: str
    plugin: Any

    def send(
        self, message: Message, wanted: str, redact: Callable[[str], str], timeout: float, done: Collection[str] = ()
    ) -> Refusal | None:
        """Send a message.

        :param wanted: which body: ``text``, ``markdown`` or ``html``
        :param done: parts of the target that have it, see :attr:`Refusal.taken`; left out now
        :returns: why the target did not take it, None if it did
        """
        plugin = self.plugin
        if plugin is None:
            return Refusal("Apprise does not understand this URL")
        service = next((BY_SCHEMA[schema] for schema in plugin.schemas() if schema in BY_SCHEMA), None)
        form = _form(plugin, wanted)
        types = {"notify_type": _NOTIFY_TYPES[message.severity], "body_format": apprise.NotifyFormat(form)}
        if service is not None:
            # A text that is too long is cut here, where the service counts.
            plugin.overflow_mode = apprise.OverflowMode.UPSTREAM

            def fits(title: str, body: str) -> bool:
                request = _measured(plugin, title=title, body=body, **types)
                return request is None or not service.exceeded(request)

        else:

            def fits(title: str, body: str) -> bool:
                # As Apprise counts before it cuts; it does so in the middle of a line, or of a document's tag.
                with_title = 0 if plugin.title_maxlen > 0 and not plugin.overflow_amalgamate_title else len(title) + 2
                return bool(plugin.body_maxlen <= 0 or len(body) + with_title <= plugin.body_maxlen)

            # What Apprise adds may still be too long; left alone, the service would refuse it all.
            if plugin.overflow_mode == apprise.OverflowMode.UPSTREAM:
                plugin.overflow_mode = apprise.OverflowMode.TRUNCATE
        title, body = fitted(message, form, fits)
        exchange = Exchange(service, redact)
        taken = self._remember_parts(exchange, done)
        result = _notify(plugin, exchange, title=title, body=body, timeout=timeout, **types)
        if exchange.refusal is not None and (exchange.refusal.in_success or not result):
            return replace(exchange.refusal, taken=tuple(taken))
        if result:
            return None
        reasons = [entry.message for entry in result.logs()]
        return Refusal(redact(reasons[-1]) if reasons else str(result.status.name).lower(), taken=tuple(taken))

    def _remember_parts(self, exchange: Exchange, done: Collection[str]) -> list[str]:
        """Keep which recipients or rooms of the URL take the message; a list that grows while it is sent.

        Apprise's plugins ask for each whether an earlier try reached it, but remember that within one call only.
        """
        plugin, taken = self.plugin, list[str]()
        has, mark = plugin.is_delivered, plugin.mark_delivered

        def part(key: Any) -> str:
            return f"{self.id}.{hashlib.sha256(repr(key).encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"

        def is_delivered(key: Any, per_message: bool = False) -> bool:
            return part(key) in done or has(key, per_message)

        def mark_delivered(key: Any, per_message: bool = False) -> None:
            if not exchange.refused_last:
                mark(key, per_message)
                # Of other types is what stands for the whole target, under an address in memory.
                if isinstance(key, str | tuple):
                    taken.append(part(key))

        plugin.is_delivered, plugin.mark_delivered = is_delivered, mark_delivered
        return taken


def targets_of(paths: Iterable[Any], connection: str) -> Iterator[AppriseTarget]:
    """The targets of a connection: usually one for each path, several if a path lists several URLs.

    :param paths: Apprise URLs; one that is no text gives a target that can't be asked
    :param connection: for people
    """
    seen: dict[str, int] = {}
    for number, path in enumerate(paths, start=1):
        loaded = apprise.Apprise()
        # Apprise logs a URL that it does not understand, and masks only what it takes for a secret.
        with Exchange(None, str, measuring=True).watched():
            understood = isinstance(path, str) and loaded.add(path)
        for plugin in loaded if understood else [None]:
            shown = f"target {number} of {connection}"
            # Apprise may take a password with a / or # in it for host and path, which it does not mask. Mail addresses
            # have an @ where others have none.
            if plugin and (path.lower().startswith("mailto") or not is_ambiguous(path.partition("?")[0])):
                # The query may hold headers and tokens that are not masked.
                shown = plugin.url(privacy=True).partition("?")[0]
            # Two tokens can look alike once masked: count them.
            seen[shown] = seen.get(shown, 0) + 1
            key = hashlib.sha256(f"{shown} {seen[shown]}".encode()).hexdigest()[:16]
            yield AppriseTarget(id=key, shown=shown, plugin=plugin)


def _form(plugin: Any, wanted: str) -> str:
    """Which body a target gets: the one that was asked for, or the next simpler one that it can show."""
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
    exchange = Exchange(None, str, measuring=True)
    retries = plugin.retry
    # It waits some seconds between two requests, also if the first one was not sent.
    plugin.throttle, plugin.retry = (lambda *args, **kwargs: None), 0
    try:
        _notify(plugin, exchange, timeout=MEASURE_TIMEOUT, **given)
    finally:
        del plugin.throttle
        plugin.retry = retries
    return exchange.measured
