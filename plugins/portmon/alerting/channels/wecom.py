"""WeCom (企业微信): a robot of a group, with a template card for one alert and Markdown for several.

A card calls no one, so what calls people is a text beside it. ``<@userid>`` of a host's text is broken by the blank
that :func:`portmon.text.inert` puts behind each ``<``: https://developer.work.weixin.qq.com/document/path/91770
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlencode

from pydantic import Field, field_validator

from portmon.alerting.channels.base import HttpRequest, Secrets
from portmon.alerting.channels.fitting import fitted
from portmon.alerting.channels.robots import Button, People, Robot, buttons, called, ids_are, is_over, without_links
from portmon.fields import Text
from portmon.model.event_kinds import Severity

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message

MARKDOWN_LIMIT = 4096
"""Bytes of Markdown."""
TEXT_LIMIT = 512
"""Bytes of a card's text: what is longer is not shown without a click, and the page has it."""
BUTTONS = 3
"""A card has at most this many."""
_GREY, _BLACK, _RED, _GREEN = range(4)


class WeComChannel(Robot):
    """WeCom, a robot of a group: a card with buttons. It has no signature: the key of its address is all of it."""

    host: ClassVar[str] = "https://qyapi.weixin.qq.com"
    token: ClassVar[str] = "key of the robot's webhook address"  # noqa: S105
    schema_of_service: ClassVar[str] = "wecombot"

    type: Literal["wecom"]
    name: Text = Field("wecom", description="unique name")
    mentions: People = Field(
        default_factory=dict,
        description="people who are called when something critical begins: label of hosts, its value, user ids of "
        "members of the group, or `@all`",
    )
    mention_mobiles: People = Field(
        default_factory=dict, description="the same by the mobile numbers with which people are in WeCom"
    )

    _ids = field_validator("mentions")(ids_are(r"@all|[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}"))
    _mobiles = field_validator("mention_mobiles")(ids_are(r"@all|\+?[0-9-]{5,20}"))

    def card(self, message: Message) -> Mapping[str, Any]:
        """A template card if it is about one alert that has a page, else Markdown with links."""
        shown = list(buttons(message))[:BUTTONS]
        return _card(message, shown) if len(message.alerts) == 1 and shown else _markdown(message, shown)

    def call(self, message: Message) -> Mapping[str, Any] | None:
        """The title as text, with the people."""
        people, mobiles = called(message, self.mentions), called(message, self.mention_mobiles)
        if not people and not mobiles:
            return None
        text = {"content": message.title, "mentioned_list": list(people), "mentioned_mobile_list": list(mobiles)}
        return {"msgtype": "text", "text": text}

    def complete(self, request: HttpRequest, secrets: Secrets) -> HttpRequest:
        """The request to the robot's address."""
        return replace(request, endpoint=f"cgi-bin/webhook/send?{urlencode({'key': self.token_of(secrets)})}")


def _card(message: Message, shown: list[Button]) -> dict[str, Any]:
    title, text = fitted(message, "text", lambda _, body: len(without_links(body).encode()) <= TEXT_LIMIT)
    color = _GREEN if is_over(message) else {Severity.CRITICAL: _RED}.get(message.severity, _GREY)
    return {
        "msgtype": "template_card",
        "template_card": {
            "card_type": "text_notice",
            "source": {"desc": "portmon", "desc_color": color},
            "main_title": {"title": title},
            "sub_title_text": without_links(text),
            "jump_list": [{"type": 1, "title": button.text, "url": button.url} for button in shown],
            "card_action": {"type": 1, "url": shown[0].url},
        },
    }


def _markdown(message: Message, shown: list[Button]) -> dict[str, Any]:
    links = " | ".join(f"[{button.text}]({button.url})" for button in shown)

    def content(title: str, body: str) -> str:
        return "\n\n".join(filter(None, (f"**{title}**", without_links(body), links)))

    def fits(title: str, body: str) -> bool:
        return len(content(title, body).encode("utf-8", "backslashreplace")) <= MARKDOWN_LIMIT

    return {"msgtype": "markdown", "markdown": {"content": content(*fitted(message, "text", fits))}}
