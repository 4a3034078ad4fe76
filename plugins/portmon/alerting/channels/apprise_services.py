"""The services behind Apprise: how long a request may be, and which answers are refusals.

Apprise counts characters where many services count bytes, cuts before it escapes, and takes HTTP 200 for success,
which several services answer to a message that they refuse. So the request is measured as it is sent, and the answer
is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import jmespath
import requests

from portmon.alerting.channels.base import WAIT, wait_of

ANSWER_LIMIT = 65536
"""Bytes of an answer that are read as JSON."""
TEXT_LIMIT = 1024
"""Bytes of any other answer that an error shows."""

UNITS: Mapping[str, Callable[[str], int]] = {
    "bytes": lambda text: len(text.encode("utf-8", "surrogatepass")),
    # In UTF-16, where an emoji is two: no service counts more.
    "characters": lambda text: len(text.encode("utf-16-le", "surrogatepass")) // 2,
}


class Limit(NamedTuple):
    """How long each text of a request may be.

    :param part: JMESPath to the text or texts in the request's JSON; empty: all of the request, as it is sent
    :param unit: of ``UNITS``
    """

    part: str
    size: int
    unit: str = "characters"


@dataclass(frozen=True, slots=True)
class ChatService:
    """A service that docs/alerts.md shows.

    :param schema: of its Apprise URLs
    :param source: the vendor's documentation of limits and answers
    :param codes: fields of an answer; a value other than 0 in one of them is a refusal, whatever the HTTP status
    :param throttled: values of these fields that mean too often
    :param wait: seconds to leave it alone after that
    """

    name: str
    schema: str
    limits: tuple[Limit, ...]
    source: str
    codes: tuple[str, ...] = ()
    throttled: frozenset[str] = frozenset()
    wait: float = WAIT

    def exceeded(self, body: bytes) -> bool:
        """Whether a request is too long for the service."""
        parsed = _json(body)
        for limit in self.limits:
            found = jmespath.search(limit.part, parsed) if limit.part else body.decode("utf-8", "replace")
            texts = found if isinstance(found, list) else [found]
            if any(UNITS[limit.unit](text) > limit.size for text in texts if isinstance(text, str)):
                return True
        return False


_FEISHU = ChatService(
    "Feishu",
    "feishu",
    # 20 KB may be 20,480 bytes; the smaller number is right either way.
    (Limit("", 20_000, "bytes"),),
    "https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot",
    codes=("code", "StatusCode"),
    throttled=frozenset({"11232", "11247", "230020", "99991400"}),
)
SERVICES = (
    ChatService(
        "Slack",
        "slack",
        (
            Limit("text", 40_000),
            Limit("attachments[].text", 40_000),
            Limit("attachments[].blocks[] | [?type=='section'].text.text", 3_000),
            Limit("attachments[].blocks[] | [?type=='header'].text.text", 150),
        ),
        "https://docs.slack.dev/reference/block-kit/blocks/section-block",
    ),
    ChatService(
        "DingTalk",
        "dingtalk",
        (Limit("", 20_000, "bytes"),),
        "https://open.dingtalk.com/document/robots/custom-robot-access",
        codes=("errcode",),
        throttled=frozenset({"130101", "90018", "90030"}),
        # More than 20 messages a minute: it takes none for 10 minutes.
        wait=600.0,
    ),
    ChatService(
        "WeCom",
        "wecombot",
        (Limit("text.content", 2_048, "bytes"), Limit("markdown.content", 4_096, "bytes")),
        "https://developer.work.weixin.qq.com/document/path/91770",
        codes=("errcode",),
        throttled=frozenset({"45009", "45033"}),
    ),
    _FEISHU,
    replace(_FEISHU, name="Lark", schema="lark", source=_FEISHU.source.replace("feishu.cn", "larksuite.com")),
    ChatService(
        "Discord",
        "discord",
        (
            Limit("content", 2_000),
            Limit("embeds[].description", 4_096),
            Limit("embeds[].title", 256),
            Limit("embeds[].fields[].value", 1_024),
        ),
        "https://discord.com/developers/docs/resources/webhook#execute-webhook",
    ),
    ChatService("Telegram", "tgram", (Limit("text", 4_096),), "https://core.telegram.org/bots/api#sendmessage"),
    ChatService(
        "PagerDuty",
        "pagerduty",
        (Limit("payload.summary", 1_024), Limit("", 512_000, "bytes")),
        "https://developer.pagerduty.com/docs/send-alert-event",
    ),
)
BY_SCHEMA: Mapping[str, ChatService] = {service.schema: service for service in SERVICES}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a target did not take a message.

    :param reason: for people, without secrets
    :param wait: seconds for which the target wants to be left alone, if it does
    :param in_success: the HTTP status was one of success
    """

    reason: str
    wait: float | None = None
    in_success: bool = False


_TOO_OFTEN = re.compile(
    r"too (?:fast|often|many requests?|frequent)|rate.?limit|frequency.{0,10}limit|频率|频繁|限流", re.I
)
_TEXTS = ("errmsg", "msg", "message", "description", "error", "StatusMessage", "errors", "detail")


def refusal(answer: requests.Response, service: ChatService | None, redact: Callable[[str], str]) -> Refusal | None:
    """Why the service refused a message, None if it took it.

    :param service: None if it is none of ``SERVICES``
    :param redact: makes one line without secrets of the service's text
    """
    found = _json(answer.content[:ANSWER_LIMIT])
    fields: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    success = 200 <= answer.status_code < 300
    code = _refused(fields, service)
    # A proxy's page for people in place of a service's answer.
    is_page = bool(service and service.codes) and answer.content[:100].lstrip().startswith(b"<")
    if success and code is None and not is_page:
        return None
    if fields:
        value = next((fields[name] for name in _TEXTS if fields.get(name)), "")
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    else:
        text = answer.content[:TEXT_LIMIT].decode("utf-8", "replace").strip()
    parts = [] if success else [f"HTTP {answer.status_code}"]
    if code:
        parts.append(code)
    if text := redact(text):
        parts.append(f"it says {text!r}")
    wait = wait_of(
        answer.status_code,
        answer.headers,
        more=(fields.get("retry_after"), jmespath.search("parameters.retry_after", fields)),
        too_often=bool(_TOO_OFTEN.search(f"{code or ''} {text}"))
        or (service is not None and not service.throttled.isdisjoint(str(fields.get(name)) for name in service.codes)),
        default=service.wait if service else WAIT,
    )
    if wait is not None:
        parts.append(f"it is to be left alone for {wait:g} s")
    name = service.name if service else "the service"
    return Refusal(f"{name} refused it: {', '.join(parts)}", wait, success)


def _refused(fields: Mapping[str, Any], service: ChatService | None) -> str | None:
    """The code of a refusal; empty if it has none, None if it is no refusal."""
    for name in service.codes if service else ("errcode",):
        if str(fields.get(name) or 0) != "0":
            return f"{name} {str(fields[name])[:40]}"
    return "" if any(fields.get(name) is False for name in ("ok", "success")) else None


def _json(body: bytes) -> Any:
    """A body as JSON; a form's fields are like those of an object. None if it is neither."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()} or None
