"""What a receiver's answer says: several refuse a message with an HTTP status of success."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

TEXT_LIMIT = 1024
"""Bytes of an answer that is no JSON object which an error shows."""
_TEXTS = ("errmsg", "msg", "message", "description", "error", "StatusMessage", "errors", "detail", "reason")
_FAILED = frozenset({"error", "fail", "failed", "failure"})
_TOO_OFTEN = re.compile(
    r"too (?:fast|often|many requests?|frequent)|rate.?limit|frequency.{0,10}limit|freq out of limit|"
    r"\bHTTP error 429\b|频率|频繁|限流",
    re.I,
)
_OF_TEAMS = re.compile(rb"returned HTTP error (\d{3})\b")
"""A connector of Microsoft Teams answers 200 to what it throttles:
https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using"""


def parsed_answer(body: bytes) -> Any:
    """A body as JSON; a form's fields are like those of an object. None if it is neither."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()} or None


def refused_by(body: bytes, fields: Mapping[str, Any]) -> str | None:
    """The code of a refusal by any receiver, with or without a status of success; empty if it has none.

    None if the answer does not say that the message was refused.

    :param fields: of the answer, if it is a JSON object
    """
    code = fields.get("errcode")
    if code is not None and code is not False and str(code) not in ("0", ""):
        return f"errcode {str(code)[:40]}"
    if any(fields.get(name) is False for name in ("ok", "success")):
        return ""
    for name in ("status", "result"):
        if str(fields.get(name)).lower() in _FAILED:
            return f"{name} {fields[name]}"
    if found := _OF_TEAMS.search(body[:TEXT_LIMIT]):
        return f"HTTP {found[1].decode()}"
    return None


def denied(body: bytes) -> str | None:
    """:func:`refused_by` of an answer that was not read yet."""
    found = parsed_answer(body)
    return refused_by(body, found if isinstance(found, Mapping) else {})


def text_of_answer(body: bytes, fields: Mapping[str, Any]) -> str:
    """What the answer says to people: not yet without secrets, nor one line."""
    if not fields:
        return body[:TEXT_LIMIT].decode("utf-8", "replace").strip()
    found = [fields[name] for name in _TEXTS if fields.get(name)][:1]
    if found and isinstance(errors := fields.get("errors"), list) and errors != found[0]:
        found.append(errors)  # PagerDuty: the message is always the same
    return " ".join(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in found)


def says_too_often(text: str) -> bool:
    """Whether a refusal is one for too many messages."""
    return _TOO_OFTEN.search(text) is not None
