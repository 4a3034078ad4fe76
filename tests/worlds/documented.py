"""PagerDuty, Feishu, DingTalk and WeCom as their vendors document them, on this machine.

Each checks address, signature, size and every field of a request by the pages that the schemas in
``tests/fixtures/schemas`` name, and answers as the vendor does. Nothing here uses portmon's own code.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from jsonschema import Draft202012Validator
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

SCHEMAS = Path(__file__).parents[1] / "fixtures" / "schemas"
TOKEN = "t0ken-of+the/address=="
SECRET = "SECd3m0secret"
FRESH = 3600
"""Seconds that a signature is valid."""

Answer = tuple[int, Mapping[str, Any]]


class Vendor:
    """A vendor's server.

    :ivar got: documents that it took, in their order
    :ivar refusals: why it took others not
    :ivar answers: what it answers next in place of taking a request, each once
    """

    name: ClassVar[str]
    size: ClassVar[int]

    def __init__(self, server: HTTPServer) -> None:
        self.got: list[dict[str, Any]] = []
        self.refusals: list[str] = []
        self.answers: list[tuple[int, Mapping[str, Any], Mapping[str, str]]] = []
        self._schema = Draft202012Validator(json.loads((SCHEMAS / f"{self.name}.json").read_text(encoding="utf-8")))
        server.expect_request(re.compile("/.*")).respond_with_handler(self._answer)

    def connection(self, server: HTTPServer) -> dict[str, Any]:
        """The Airflow connection to it."""
        host = f"http://localhost:{server.port}"
        return {"conn_type": "http", "host": host, "password": TOKEN, "extra": {"secret": SECRET}}

    def _answer(self, request: Request) -> Response:
        headers: Mapping[str, str] = {}
        if self.answers:
            status, said, headers = self.answers.pop(0)
        else:
            status, said = self._judge(request)
        return Response(json.dumps(said), status=status, headers=dict(headers), mimetype="application/json")

    def _judge(self, request: Request) -> Answer:
        raw = request.get_data()
        document = json.loads(raw.decode("utf-8"))
        wrong = [
            *self.wrong(request, document),
            *(f"{'/'.join(map(str, one.path))}: {one.message}" for one in self._schema.iter_errors(document)),
            *([f"{len(raw)} bytes are too long"] if len(raw) > self.size else []),
            *([] if request.method == "POST" and request.mimetype == "application/json" else ["no JSON by POST"]),
        ]
        if wrong:
            self.refusals += wrong
            return self.refusal(wrong[0])
        self.got.append(document)
        return self.success(document)

    def wrong(self, request: Request, document: Mapping[str, Any]) -> list[str]:
        """What is wrong with its address and its signature."""
        raise NotImplementedError

    def success(self, document: Mapping[str, Any]) -> Answer:
        """The answer to what it takes."""
        return 200, {"errcode": 0, "errmsg": "ok"}

    def refusal(self, why: str) -> Answer:
        """The answer to what is wrong."""
        return 200, {"errcode": 40035, "errmsg": why}

    def called(self, document: Mapping[str, Any]) -> set[str]:
        """The people whom a document calls, by its text as well."""
        raise NotImplementedError

    def buttons(self, document: Mapping[str, Any]) -> list[str]:
        """Where the buttons lead."""
        raise NotImplementedError


class PagerDuty(Vendor):
    """The Events API v2; an integration key has 32 characters."""

    name = "pagerduty"
    size = 512 * 1024
    key = "0123456789abcdef0123456789abcdef"

    def connection(self, server: HTTPServer) -> dict[str, Any]:
        return {"conn_type": "http", "host": f"http://localhost:{server.port}", "password": self.key}

    def wrong(self, request: Request, document: Mapping[str, Any]) -> list[str]:
        return [
            *([] if request.path == "/v2/enqueue" else ["no such path"]),
            *([] if document.get("routing_key") == self.key else ["Invalid routing key"]),
        ]

    def success(self, document: Mapping[str, Any]) -> Answer:
        return 202, {"status": "success", "message": "Event processed", "dedup_key": document["dedup_key"]}

    def refusal(self, why: str) -> Answer:
        return 400, {"status": "invalid event", "message": "Event object is invalid", "errors": [why]}

    def buttons(self, document: Mapping[str, Any]) -> list[str]:
        return [one["href"] for one in document["links"]]

    def called(self, document: Mapping[str, Any]) -> set[str]:
        return set()


class Feishu(Vendor):
    """A custom bot with a signature check; cards call people in Markdown only."""

    name = "feishu"
    size = 20 * 1000

    def wrong(self, request: Request, document: Mapping[str, Any]) -> list[str]:
        now = document.get("timestamp", "0")
        key = f"{now}\n{SECRET}".encode()
        right = base64.b64encode(hmac.new(key, digestmod=hashlib.sha256).digest()).decode()
        signed = document.get("sign") == right and abs(time.time() - int(now)) < FRESH
        return [
            *([] if request.path == f"/open-apis/bot/v2/hook/{TOKEN}" else ["no such bot"]),
            *([] if signed else ["sign match fail or timestamp is not within one hour from current time"]),
        ]

    def success(self, document: Mapping[str, Any]) -> Answer:
        return 200, {"StatusCode": 0, "StatusMessage": "success", "code": 0, "data": {}, "msg": "success"}

    def refusal(self, why: str) -> Answer:
        return 200, {"code": 19021 if "sign" in why else 9499, "msg": why, "data": {}}

    def called(self, document: Mapping[str, Any]) -> set[str]:
        texts = [one["content"] for one in document["card"]["body"]["elements"] if one["tag"] == "markdown"]
        return {one for text in texts for one in re.findall(r"<at\s+\w*id=[\"']?([^\"'>]+)", text)}

    def buttons(self, document: Mapping[str, Any]) -> list[str]:
        elements = document["card"]["body"]["elements"]
        return [one["behaviors"][0]["default_url"] for one in elements if one["tag"] == "button"]


class DingTalk(Vendor):
    """A custom robot with the security setting "sign"."""

    name = "dingtalk"
    size = 20_000

    def wrong(self, request: Request, document: Mapping[str, Any]) -> list[str]:
        now = request.args.get("timestamp", "0")
        right = base64.b64encode(hmac.new(SECRET.encode(), f"{now}\n{SECRET}".encode(), hashlib.sha256).digest())
        signed = request.args.get("sign") == right.decode() and abs(time.time() * 1000 - int(now)) < FRESH * 1000
        return [
            *([] if request.path == "/robot/send" else ["no such path"]),
            *([] if request.args.get("access_token") == TOKEN else ["token is not exist"]),
            *([] if signed else ["sign not match"]),
        ]

    def refusal(self, why: str) -> Answer:
        return 200, {"errcode": 310000 if "sign" in why else 40035, "errmsg": why}

    def called(self, document: Mapping[str, Any]) -> set[str]:
        at = document.get("at", {})
        everyone = {"all"} if at.get("isAtAll") else set()
        return everyone | {*at.get("atUserIds", ()), *at.get("atMobiles", ())}

    def buttons(self, document: Mapping[str, Any]) -> list[str]:
        return [one["actionURL"] for one in document["actionCard"]["btns"]]


class WeCom(Vendor):
    """A robot of a group; text and Markdown call people by ``<@userid>`` too."""

    name = "wecom"
    size = 64 * 1024

    def connection(self, server: HTTPServer) -> dict[str, Any]:
        return {"conn_type": "http", "host": f"http://localhost:{server.port}", "password": TOKEN}

    def wrong(self, request: Request, document: Mapping[str, Any]) -> list[str]:
        limits = {"text": 2048, "markdown": 4096}
        kind = document["msgtype"]
        long = kind in limits and len(document[kind]["content"].encode()) > limits[kind]
        return [
            *([] if request.path == "/cgi-bin/webhook/send" else ["no such path"]),
            *([] if request.args.get("key") == TOKEN else ["invalid webhook url"]),
            *([f"content exceed max length {limits[kind]}"] if long else []),
        ]

    def called(self, document: Mapping[str, Any]) -> set[str]:
        own = document[document["msgtype"]]
        listed = {*own.get("mentioned_list", ()), *own.get("mentioned_mobile_list", ())}
        return listed | set(re.findall(r"<@([^>\s]+)>", own.get("content", "")))

    def buttons(self, document: Mapping[str, Any]) -> list[str]:
        if document["msgtype"] == "markdown":
            return re.findall(r"\]\((https?://[^)]+)\)", document["markdown"]["content"])
        return [one["url"] for one in document["template_card"]["jump_list"]]


VENDORS = {one.name: one for one in (PagerDuty, Feishu, DingTalk, WeCom)}
