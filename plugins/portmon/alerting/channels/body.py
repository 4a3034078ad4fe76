"""The body and the path of a webhook by a template of the user's own. It is JSON for every text that a host chose.

Within a template ``{{ ... }}`` of a text is the inside of a JSON string, so it stands between quotes; of a number, a
list, an object or nothing it is that value in JSON. ``| tojson`` makes any of them a value by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from portmon.text import plain

_NASTY = '"quoted" \\ back, line\n, </script>, {{ braces }}, 端口 \u2028'
_ALERT: Mapping[str, Any] = {
    "id": "0" * 32,
    "status": "firing",
    "event_id": "1" * 32,
    "kind": "down",
    "severity": "critical",
    "reason": _NASTY,
    "at": "2026-03-09T12:00:00Z",
    "host": _NASTY,
    "host_id": _NASTY,
    "port": 8080,
    "protocol": "tcp",
    "program": _NASTY,
    "unit": _NASTY,
    "labels": {"team": _NASTY},
    "starts_at": "2026-03-09T12:00:00Z",
    "ends_at": None,
    "since": "2026-03-09T12:00:00Z",
    "last_seen": "2026-03-09T11:55:00Z",
    "link": "https://airflow.example.com/dags/portmon",
    "page": "https://airflow.example.com/portmon/",
    "runbook_url": "https://airflow.example.com/portmon/runbooks/down",
    "untold": False,
    "details": {"misses": 1},
}
_EMPTY: Mapping[str, Any] = {
    **dict.fromkeys(_ALERT),
    **{name: _ALERT[name] for name in ("id", "event_id", "reason", "at", "starts_at", "untold")},
    "status": "resolved",
    "kind": "cmdb_fresh",
    "severity": "info",
    "ends_at": "2026-03-09T12:00:00.123456Z",
    "labels": {},
    "details": {},
}


def samples() -> list[dict[str, Any]]:
    """Documents of the form of :func:`portmon.alerting.channels.webhook.document`: hostile, and with nothing known."""
    common = {"version": 1, "id": "2" * 32, "group": "down", "route": "default", "reminder": False}
    shown = {"severity": "critical", "title": _NASTY, "text": _NASTY}
    return [{**common, **shown, "alerts": [dict(one)]} for one in (_ALERT, {**_ALERT, "status": "notice"}, _EMPTY)]


def filled(template: str, document: Mapping[str, Any], *, per_alert: bool) -> bytes:
    """The body by a template.

    :param document: what the webhook sends without a template
    :raises ValueError: the template fails, or what it makes is no JSON; with the line
    """
    text = _render(template, False, document, per_alert)
    try:
        json.loads(text)
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise ValueError(f"what it makes is no JSON in line {line} of it: {plain(str(error), 200)}") from None
    return text.encode()


def path_of(template: str, document: Mapping[str, Any]) -> str:
    """The path by a template, each value quoted."""
    return _render(template, True, document, True).strip()


def problem_of_body(template: str, *, per_alert: bool) -> str | None:
    """What is wrong with a template of a body, None if it makes JSON of every sample."""
    return _problem(lambda document: filled(template, document, per_alert=per_alert))


def problem_of_path(template: str) -> str | None:
    """What is wrong with a template of a path."""
    return _problem(lambda document: path_of(template, document))


def _problem(fill: Callable[[Mapping[str, Any]], object]) -> str | None:
    try:
        for document in samples():
            fill(document)
    except ValueError as error:
        return str(error)
    return None


def _render(template: str, is_path: bool, document: Mapping[str, Any], per_alert: bool) -> str:
    alert = {"alert": document["alerts"][0]} if per_alert else {}
    try:
        return str(_compiled(template, is_path).render(**document, **alert))
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno} of it: {plain(error.message or 'wrong syntax', 200)}") from None
    except Exception as error:
        # The innermost line of the template, of which Jinja makes a frame.
        frame, line = error.__traceback__, 1
        while frame is not None:
            line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == "<template>" else line
            frame = frame.tb_next
        raise ValueError(f"line {line} of it: {plain(str(error) or type(error).__name__, 200)}") from None


@lru_cache(maxsize=64)
def _compiled(template: str, is_path: bool) -> Any:
    environment = ImmutableSandboxedEnvironment(
        autoescape=True, undefined=StrictUndefined, finalize=_quoted if is_path else _inside
    )
    environment.filters["epoch"] = _epoch
    return environment.from_string(template)


def _inside(value: Any) -> Markup:
    if isinstance(value, Markup):
        return value
    if isinstance(value, Undefined):
        return Markup(str(value))  # noqa: S704 - empty, or the error of a strict one
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Markup(text[1:-1] if isinstance(value, str) else text)  # noqa: S704 - it is JSON, not HTML


def _quoted(value: Any) -> Markup:
    return Markup(quote(str(value), safe="", errors="backslashreplace"))  # noqa: S704


def _epoch(text: str | None) -> float | None:
    """Seconds since 1970 of a time of the document."""
    return None if text is None else datetime.fromisoformat(text).timestamp()
