"""Feishu (飞书) and Lark: a custom bot of a group, with a card.

Text of hosts is in elements of plain text, in which Feishu reads neither Markdown nor ``<at>``:
https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, field_validator

from portmon.alerting.channels.base import HttpRequest, Secrets
from portmon.alerting.channels.fitting import fitted
from portmon.alerting.channels.robots import People, Robot, as_json, buttons, called, ids_are, is_over, without_links
from portmon.fields import Text
from portmon.model.event_kinds import Severity

if TYPE_CHECKING:
    from portmon.alerting.message.render import Message

SIGNED = 128
"""Bytes that timestamp and signature add to a request."""
_COLORS = {Severity.CRITICAL: "red", Severity.WARNING: "orange", Severity.INFO: "blue"}


class FeishuChannel(Robot):
    """Feishu or Lark, a custom bot: a card with buttons, signed if the connection has the key."""

    host: ClassVar[str] = "https://open.feishu.cn"
    token: ClassVar[str] = "last part of the bot's webhook address"  # noqa: S105

    type: Literal["feishu"]
    name: Text = Field("feishu", description="unique name")
    mentions: People = Field(
        default_factory=dict,
        description="people who are called when something critical begins: label of hosts, its value, Open IDs or "
        "User IDs of members of the group, or `all`",
    )

    _ids = field_validator("mentions")(ids_are(r"[A-Za-z0-9_-]{1,64}"))

    def card(self, message: Message) -> Mapping[str, Any]:
        """A card of JSON 2.0."""
        service = self.service

        def card(title: str, body: str) -> dict[str, Any]:
            return {"msg_type": "interactive", "card": self._card(message, title, without_links(body))}

        return card(
            *fitted(
                message, "text", lambda title, body: not service.exceeded(as_json(card(title, body)) + b" " * SIGNED)
            )
        )

    def _card(self, message: Message, title: str, body: str) -> dict[str, Any]:
        elements: list[dict[str, Any]] = [{"tag": "div", "text": {"tag": "plain_text", "content": body}}]
        if people := called(message, self.mentions):
            elements.append({"tag": "markdown", "content": " ".join(f"<at id={one}></at>" for one in people)})
        for place, button in enumerate(buttons(message)):
            elements.append(
                {
                    "tag": "button",
                    "text": {"tag": "plain_text", "content": button.text},
                    "type": "default" if place else "primary",
                    "behaviors": [{"type": "open_url", "default_url": button.url}],
                }
            )
        return {
            "schema": "2.0",
            "header": {
                "title": {"tag": "plain_text", "content": title},
                "template": "green" if is_over(message) else _COLORS[message.severity],
            },
            "body": {"elements": elements},
        }

    def complete(self, request: HttpRequest, secrets: Secrets) -> HttpRequest:
        """The request to the bot's address, with timestamp and signature in its body."""
        document = json.loads(request.body or b"{}")
        if secrets.secret:
            now = str(int(time.time()))
            document = {"timestamp": now, "sign": sign(secrets.secret, now), **document}
        endpoint = f"open-apis/bot/v2/hook/{quote(self.token_of(secrets), safe='')}"
        return replace(request, endpoint=endpoint, body=as_json(document))


def sign(secret: str, timestamp: str) -> str:
    """HMAC-SHA256 of nothing, whose key is the timestamp in seconds, a line feed, and the secret."""
    return base64.b64encode(hmac.digest(f"{timestamp}\n{secret}".encode(), b"", "sha256")).decode()
