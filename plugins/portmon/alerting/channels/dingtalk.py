"""DingTalk (钉钉): a custom robot of a group, with an action card.

An action card calls no one, so what calls people is a text beside it:
https://open.dingtalk.com/document/orgapp/custom-robots-send-group-messages
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlencode

from pydantic import Field, field_validator

from portmon.alerting.channels.base import HttpRequest, Secrets
from portmon.alerting.channels.fitting import fitted
from portmon.alerting.channels.robots import People, Robot, as_json, buttons, called, ids_are
from portmon.fields import Text
from portmon.text import escape_markdown

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message

EVERYONE = "all"


class DingTalkChannel(Robot):
    """DingTalk, a custom robot: a card with buttons, signed if the connection has the key."""

    host: ClassVar[str] = "https://oapi.dingtalk.com"
    token: ClassVar[str] = "access_token of the robot's webhook address"  # noqa: S105

    type: Literal["dingtalk"]
    name: Text = Field("dingtalk", description="unique name")
    mentions: People = Field(
        default_factory=dict,
        description="people who are called when something critical begins: label of hosts, its value, user ids of "
        "members of the group, or `all`",
    )
    mention_mobiles: People = Field(
        default_factory=dict, description="the same by the mobile numbers with which people are in DingTalk"
    )

    _ids = field_validator("mentions")(ids_are(r"[A-Za-z0-9_$][A-Za-z0-9_$.:@+-]{0,63}"))
    _mobiles = field_validator("mention_mobiles")(ids_are(r"\+?[0-9-]{5,20}"))

    def card(self, message: Message) -> Mapping[str, Any]:
        """An action card, or Markdown where there is no address for a button."""
        shown = [{"title": button.text, "actionURL": button.url} for button in buttons(message)]

        def card(title: str, body: str) -> dict[str, Any]:
            text = f"### {escape_markdown(title)}\n\n{body}"
            if not shown:
                return {"msgtype": "markdown", "markdown": {"title": title, "text": text}}
            own = {"title": title, "text": text, "btnOrientation": "0", "btns": shown}
            return {"msgtype": "actionCard", "actionCard": own}

        service = self.service
        return card(*fitted(message, "markdown", lambda *given: not service.exceeded(as_json(card(*given)))))

    def call(self, message: Message) -> Mapping[str, Any] | None:
        """The title as text, with the people."""
        people, mobiles = called(message, self.mentions), called(message, self.mention_mobiles)
        if not people and not mobiles:
            return None
        named = [one for one in people if one != EVERYONE]
        text = " ".join((message.title, *(f"@{one}" for one in (*named, *mobiles))))
        at = {"atUserIds": named, "atMobiles": list(mobiles), "isAtAll": EVERYONE in people}
        return {"msgtype": "text", "text": {"content": text}, "at": at}

    def complete(self, request: HttpRequest, secrets: Secrets) -> HttpRequest:
        """The request to the robot's address, with timestamp and signature in its query."""
        query = {"access_token": self.token_of(secrets)}
        if secrets.secret:
            now = str(round(time.time() * 1000))
            query |= {"timestamp": now, "sign": sign(secrets.secret, now)}
        return replace(request, endpoint=f"robot/send?{urlencode(query)}")


def sign(secret: str, timestamp: str) -> str:
    """HMAC-SHA256 over the timestamp in milliseconds, a line feed, and the secret, which is the key as well."""
    return base64.b64encode(hmac.digest(secret.encode(), f"{timestamp}\n{secret}".encode(), "sha256")).decode()
