"""Chat services as their vendors document them, on this machine: what they take, and how they refuse.

Written for these tests by the pages that ``portmon.alerting.channels.services`` names; each counts for itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any

import pytest
from apprise.plugins import pagerduty
from apprise.plugins.dingtalk import NotifyDingTalk
from apprise.plugins.discord import NotifyDiscord
from apprise.plugins.feishu import NotifyFeishu
from apprise.plugins.lark import NotifyLark
from apprise.plugins.slack import NotifySlack
from apprise.plugins.telegram import NotifyTelegram
from apprise.plugins.wecombot import NotifyWeComBot
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

Answer = tuple[int, Any]


@dataclass(frozen=True, slots=True)
class Vendor:
    """One service.

    :param url: Apprise URL of a target
    :param redirect: lets Apprise's plugin ask another address, which it is given
    :param text: what a reader sees of a request
    :param size: of it, as the vendor counts, and the most that it takes
    :param taken: answer to what it takes
    :param too_long: answer to what is too long
    """

    url: str
    redirect: Callable[[pytest.MonkeyPatch, str], None]
    text: Callable[[Mapping[str, Any]], str]
    size: Callable[[bytes, Mapping[str, Any]], tuple[int, int]]
    taken: Answer
    too_long: Answer


def _set(plugin: type, name: str, rest: str = "") -> Callable[[pytest.MonkeyPatch, str], None]:
    return lambda patch, base: patch.setattr(plugin, name, base + rest)


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _dingtalk(body: Mapping[str, Any]) -> str:
    return str(body["text"]["content"] if body["msgtype"] == "text" else body["markdown"]["text"])


def _slack(body: Mapping[str, Any]) -> str:
    (attachment,) = body["attachments"]
    if "blocks" in attachment:
        return "\n".join(block["text"]["text"] for block in attachment["blocks"] if "text" in block)
    return f"{attachment['title']}\n{attachment['text']}"


def _slack_size(_: bytes, body: Mapping[str, Any]) -> tuple[int, int]:
    (attachment,) = body["attachments"]
    if "blocks" not in attachment:
        return len(_slack(body)), 40_000
    limits = {"header": 150, "section": 3_000}
    over = [(len(block["text"]["text"]), limits[block["type"]]) for block in attachment["blocks"] if "text" in block]
    return max(over, key=lambda pair: pair[0] / pair[1])


BOT_OK = (200, {"StatusCode": 0, "StatusMessage": "success", "code": 0, "data": {}, "msg": "success"})
BOT_TOO_LONG = (200, {"code": 9499, "msg": "Bad Request", "data": {}})
VENDORS = {
    "slack": Vendor(
        "slack://T0AAAAAAA/B0AAAAAAA/abcdefghijklmnopqrstuvwx/",
        _set(NotifySlack, "webhook_url"),
        _slack,
        _slack_size,
        (200, "ok"),
        (400, "msg_too_long"),
    ),
    "slack blocks": Vendor(
        "slack://T0AAAAAAA/B0AAAAAAA/abcdefghijklmnopqrstuvwx/?blocks=yes",
        _set(NotifySlack, "webhook_url"),
        _slack,
        _slack_size,
        (200, "ok"),
        (400, "invalid_blocks"),
    ),
    "dingtalk": Vendor(
        "dingtalk://SECRET@ACCESSTOKEN/",
        _set(NotifyDingTalk, "notify_url", "?access_token={token}"),
        _dingtalk,
        lambda raw, _: (len(raw), 20_000),
        (200, {"errcode": 0, "errmsg": "ok"}),
        (200, {"errcode": 460101, "errmsg": "message too long, exceed 20000 bytes"}),
    ),
    "wecom": Vendor(
        "wecombot://00000000-0000-0000-0000-000000000000",
        _set(NotifyWeComBot, "notify_url", "?key={key}"),
        lambda body: str(body["text"]["content"]),
        lambda _, body: (len(body["text"]["content"].encode()), 2_048),
        (200, {"errcode": 0, "errmsg": "ok"}),
        (200, {"errcode": 40058, "errmsg": "content exceed max length 2048"}),
    ),
    "feishu": Vendor(
        "feishu://00000000-0000-0000-0000-000000000000",
        _set(NotifyFeishu, "notify_url", "/{token}/"),
        lambda body: str(body["content"]["text"]),
        lambda raw, _: (len(raw), 20_000),
        BOT_OK,
        BOT_TOO_LONG,
    ),
    "lark": Vendor(
        "lark://00000000-0000-0000-0000-000000000000",
        _set(NotifyLark, "notify_url", "/"),
        lambda body: str(body["content"]["text"]),
        lambda raw, _: (len(raw), 20_000),
        BOT_OK,
        BOT_TOO_LONG,
    ),
    "discord": Vendor(
        "discord://1234567890/abcdefghijklmn",
        _set(NotifyDiscord, "notify_url"),
        lambda body: str(body["content"]),
        lambda _, body: (_utf16(body["content"]), 2_000),
        (204, ""),
        (400, {"content": ["Must be 2000 or fewer in length."]}),
    ),
    "discord embeds": Vendor(
        "discord://1234567890/abcdefghijklmn?format=markdown",
        _set(NotifyDiscord, "notify_url"),
        lambda body: f"{body['embeds'][0]['title']}\n{body['embeds'][0]['description']}",
        lambda _, body: max(
            ((_utf16(body["embeds"][0]["description"]), 4_096), (_utf16(body["embeds"][0]["title"]), 256)),
            key=lambda pair: pair[0] / pair[1],
        ),
        (204, ""),
        (400, {"embeds": ["Must be 4096 or fewer in length."]}),
    ),
    "telegram": Vendor(
        "tgram://123456789:abcdefg_hijklmnop/-1001234/",
        _set(NotifyTelegram, "notify_url", "/bot"),
        lambda body: unescape(str(body["text"])),
        lambda _, body: (_utf16(body["text"]), 4_096),
        (200, {"ok": True, "result": {"message_id": 1}}),
        (400, {"ok": False, "error_code": 400, "description": "Bad Request: message is too long"}),
    ),
    "pagerduty": Vendor(
        "pagerduty://0123456789abcdef0123456789abcdef@APIKEY/portmon",
        lambda patch, base: patch.setitem(pagerduty.PAGERDUTY_API_LOOKUP, pagerduty.PagerDutyRegion.US, base),
        lambda body: str(body["payload"]["summary"]),
        lambda raw, body: max(
            ((len(body["payload"]["summary"]), 1_024), (len(raw), 512_000)), key=lambda p: p[0] / p[1]
        ),
        (202, {"status": "success", "message": "Event processed", "dedup_key": "a"}),
        (400, {"status": "invalid event", "message": "Event object is invalid", "errors": ["'summary' is too long"]}),
    ),
}


class Service:
    """A vendor's server, which takes what is not too long unless it is told otherwise.

    :param answers: what comes next, each once
    """

    def __init__(self, vendor: Vendor, server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.vendor = vendor
        self.got: list[bytes] = []
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        server.expect_request(re.compile("/service.*")).respond_with_handler(self._answer)
        vendor.redirect(monkeypatch, f"http://localhost:{server.port}/service")
        # Its plugin waits between what it takes for two requests.
        monkeypatch.setattr(NotifyLark, "request_rate_per_sec", 0)
        monkeypatch.setenv("AIRFLOW_CONN_CHAT", connection(vendor.url))

    def _answer(self, request: Request) -> Response:
        self.got.append(request.get_data())
        headers: dict[str, str] = {}
        if self.answers:
            status, said, headers = self.answers.pop(0)
        else:
            size, limit = self.vendor.size(self.got[-1], json.loads(self.got[-1]))
            status, said = self.vendor.taken if size <= limit else self.vendor.too_long
        text = said if isinstance(said, str) else json.dumps(said)
        return Response(text, status=status, headers=headers)

    def texts(self) -> list[str]:
        """What readers see."""
        return [self.vendor.text(json.loads(body)) for body in self.got]


def connection(*urls: str) -> str:
    """An Airflow connection to targets of Apprise."""
    return json.dumps({"conn_type": "apprise", "extra": {"config": [{"path": url} for url in urls]}})
