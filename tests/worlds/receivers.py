"""Receivers of alerts: an HTTP server with a webhook, an Apprise target and a dead-man's switch; mail; Alertmanager."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import threading
import time
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.worlds.alertmanager import Alertmanager
from tests.worlds.mailbox import Mailbox

KEY = "a long random text"
"""Of the webhook's signature."""
ROUTING = """
route:
  receiver: hook
  group_by: ['...']
  group_wait: 10ms
  group_interval: 100ms
  repeat_interval: 1h
receivers:
  - name: hook
    webhook_configs:
      - url: {url}
        send_resolved: true
"""


class Receivers:
    """All receivers, each with the messages that it got.

    :param hook: documents of the webhook whose signature is right
    :param chat: what the Apprise target was told
    :param told: what Alertmanager told its own receiver
    :param pings: of the dead-man's switch
    :param broken: documents that the broken receiver took, once ``mended``
    :param refused: idempotency keys of what it did not take
    :param times: when each receiver was told something, by its name
    """

    def __init__(self, folder: Path, server: HTTPServer) -> None:
        self.hook: list[dict[str, Any]] = []
        self.chat: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.pings: list[str] = []
        self.broken: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.mended = False
        self.times: dict[str, list[float]] = {}
        for path, take in (
            ("/hook", self._take_hook),
            ("/chat", self._take_chat),
            ("/told", self._take_told),
            ("/ping/its-secret", self._take_ping),
            ("/broken", self._take_broken),
        ):
            server.expect_request(path, method="POST").respond_with_handler(take)
        self._server = server
        self.stuck = Stuck()
        self.mails = Mailbox()
        folder.mkdir()
        self.alertmanager = Alertmanager(folder, ROUTING.format(url=server.url_for("/told")))
        self.alertmanager.start()

    def connections(self) -> dict[str, dict[str, Any]]:
        """Of Airflow, to all of them."""
        host = self._server.url_for("").rstrip("/")
        chat = f"{host.replace('http://', 'json://')}/chat"
        return {
            "alertmanager_default": {"conn_type": "http", "host": self.alertmanager.url},
            "smtp_default": self.mails.connection(retry_limit=0),
            "chat": {"conn_type": "apprise", "extra": {"config": [{"path": chat}]}},
            "receiver": {"conn_type": "http", "host": host, "extra": {"secret": KEY}},
            "stuck": {"conn_type": "http", "host": f"http://127.0.0.1:{self.stuck.port}"},
            "portmon_heartbeat": {"conn_type": "http", "host": f"{host}/ping"},
        }

    def counts(self) -> dict[str, int]:
        """How many messages people and programs got; Alertmanager's and the pings are not among them."""
        told: dict[str, list[Any]] = {
            "hook": self.hook,
            "mail": self.mails.mails,
            "chat": self.chat,
            "broken": self.broken,
            "stuck": self.stuck.documents,
        }
        return {name: len(messages) for name, messages in told.items()}

    def mail(self) -> EmailMessage:
        """The newest one."""
        return self.mails.mails[-1]

    def close(self) -> None:
        self.alertmanager.close()
        self.mails.close()
        self.stuck.close()

    def _note(self, name: str) -> None:
        self.times.setdefault(name, []).append(time.monotonic())

    def _take_hook(self, request: Request) -> Response:
        body = request.get_data()
        signed = hmac.new(KEY.encode(), request.headers["X-Portmon-Timestamp"].encode() + b"." + body, hashlib.sha256)
        if request.headers["X-Portmon-Signature"] != f"sha256={signed.hexdigest()}":
            return Response("the signature is wrong", status=403)
        document = json.loads(body)
        assert request.headers["Idempotency-Key"] == document["id"]
        self._note("hook")
        self.hook.append(document)
        return Response("ok")

    def _take_chat(self, request: Request) -> Response:
        self._note("chat")
        self.chat.append(request.get_json())
        return Response("ok")

    def _take_told(self, request: Request) -> Response:
        self._note("told")
        self.told.append(request.get_json())
        return Response("ok")

    def _take_ping(self, request: Request) -> Response:
        self.pings.append(request.get_data(as_text=True))
        return Response("ok")

    def _take_broken(self, request: Request) -> Response:
        if not self.mended:
            self.refused.append(request.headers["Idempotency-Key"])
            return Response("come again", status=503)
        self.broken.append(request.get_json())
        return Response("ok")


class Stuck:
    """A receiver that lets the first request hang until the client gives up, and then works.

    :param gave_up: when that was; None before
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.documents: list[dict[str, Any]] = []
        self.asked: float | None = None
        self.gave_up: float | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stuck = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stuck.keys.append(self.headers["Idempotency-Key"])
                if stuck.asked is None:
                    stuck.asked = time.monotonic()
                    with contextlib.suppress(ConnectionError):
                        self.connection.recv(1)
                    stuck.gave_up = time.monotonic()
                    return
                stuck.documents.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
