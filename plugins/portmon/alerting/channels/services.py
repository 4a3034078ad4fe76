"""Chat services: how long a request may be, and which answers are refusals.

Several services answer HTTP 200 to a message that they refuse, and Apprise takes that for success; it counts characters
where many services count bytes, and cuts before it escapes. So the request is measured as it is sent, and the answer is
read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jmespath

from portmon.alerting.channels.answers import parsed_answer, refused_by, says_too_often, text_of_answer
from portmon.alerting.channels.base import WAIT, wait_of

ANSWER_LIMIT = 65536
"""Bytes of an answer that are looked at."""

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

    :param schema: of its Apprise URLs, and type of its channel if it has one
    :param source: the vendor's documentation of limits and answers
    :param taken: fields of an answer, each with its value if the service took the message: one of them must be there.
        Without any, each answer that is neither a page nor says otherwise is a success.
    :param codes: those of them that are numbers; another value than 0 is a refusal, whatever the HTTP status
    :param throttled: values of these fields that mean too often
    :param wait: seconds to leave it alone after that
    """

    name: str
    schema: str
    limits: tuple[Limit, ...]
    source: str
    taken: tuple[tuple[str, str], ...] = ()
    throttled: frozenset[str] = frozenset()
    wait: float = WAIT

    @property
    def codes(self) -> tuple[str, ...]:
        """Names of the fields that hold a number."""
        return tuple(name for name, value in self.taken if value == "0")

    def exceeded(self, body: bytes) -> bool:
        """Whether a request is too long for the service."""
        parsed = parsed_answer(body)
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
    taken=(("code", "0"), ("StatusCode", "0")),
    throttled=frozenset({"11232", "11247", "230020", "99991400"}),
)
_OF_ALL_EMBEDS = (
    "join('', (embeds || `[]`)[].[[title, description, author.name, footer.text], fields[].[name, value][]][][])"
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
        taken=(("errcode", "0"),),
        throttled=frozenset({"130101", "410100", "90018", "90030"}),
        # More than 20 messages a minute: it takes none for 10 minutes.
        wait=600.0,
    ),
    ChatService(
        "WeCom",
        "wecombot",
        (Limit("text.content", 2_048, "bytes"), Limit("markdown.content", 4_096, "bytes")),
        "https://developer.work.weixin.qq.com/document/path/91770",
        taken=(("errcode", "0"),),
        throttled=frozenset({"45009", "45011", "45033"}),
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
            Limit(_OF_ALL_EMBEDS, 6_000),
        ),
        "https://discord.com/developers/docs/resources/webhook#execute-webhook",
    ),
    ChatService(
        "Telegram",
        "tgram",
        (Limit("text", 4_096),),
        "https://core.telegram.org/bots/api#sendmessage",
        taken=(("ok", "true"),),
    ),
    ChatService(
        "PagerDuty",
        "pagerduty",
        (Limit("payload.summary", 1_024), Limit("", 512_000, "bytes")),
        "https://developer.pagerduty.com/docs/send-alert-event",
        taken=(("status", "success"),),
    ),
)
BY_SCHEMA: Mapping[str, ChatService] = {service.schema: service for service in SERVICES}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a target did not take a message.

    :param reason: for people, without secrets
    :param wait: seconds for which the target wants to be left alone, if it does
    :param in_success: the HTTP status was one of success
    :param taken: parts of the target that took it all the same, such as one of several recipients or rooms of a URL
    """

    reason: str
    wait: float | None = None
    in_success: bool = False
    taken: tuple[str, ...] = ()


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, service: ChatService | None, redact: Callable[[str], str]
) -> Refusal | None:
    """Why the service refused a message, None if it took it.

    :param status: of its answer, with the headers and the beginning of the body
    :param service: None if it is none of ``SERVICES``
    :param redact: makes one line without secrets of the service's text
    """
    found = parsed_answer(body)
    fields: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    success = 200 <= status < 300
    code = _refused(body, fields, service)
    if success and code is None:
        return None
    text = text_of_answer(body, fields)
    parts = [] if success else [f"HTTP {status}"]
    if code:
        parts.append(code)
    if shown := redact(text):
        parts.append(f"it says {shown!r}")
    elif success:
        parts.append("it says nothing")
    wait = wait_of(
        status,
        headers,
        more=(fields.get("retry_after"), jmespath.search("parameters.retry_after", fields), _in_thousandths(fields)),
        too_often=says_too_often(f"{code or ''} {text}")
        or (service is not None and not service.throttled.isdisjoint(str(fields.get(name)) for name in service.codes)),
        default=service.wait if service else WAIT,
    )
    if wait is not None:
        parts.append(f"it is to be left alone for {wait:g} s")
    name = service.name if service else "the service"
    return Refusal(f"{name} refused it: {', '.join(parts)}", wait, success)


def _refused(body: bytes, fields: Mapping[str, Any], service: ChatService | None) -> str | None:
    """The code of a refusal; empty if it has none, None if it is no refusal."""
    for name in service.codes if service else ():
        value = fields.get(name)
        if value is not None and str(value) != "0":
            return f"{name} {str(value)[:40]}"
    if (code := refused_by(body, fields)) is not None or service is None:
        return code
    if service.taken:
        # What comes from a proxy, or was cut, is no answer of the service.
        wanted = " or ".join(f"{name} {value}" for name, value in service.taken)
        says = any(str(fields.get(name)).lower() == value for name, value in service.taken)
        return None if says else f"the answer has no {wanted}"
    # A proxy's page for people in place of a service's answer.
    return "" if body[:100].lstrip().startswith(b"<") else None


def _in_thousandths(fields: Mapping[str, Any]) -> float | None:
    """Seconds of the wait that Matrix asks for."""
    value = fields.get("retry_after_ms")
    return value / 1000 if isinstance(value, int) and 0 <= value < 1e12 else None
