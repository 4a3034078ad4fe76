"""What tasks ask Airflow's API server: a recording proxy between the two."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from demo.airflow_env import EmbeddedAirflow

# Uncompressed, so that sizes are those that both sides have to read and write.
_NOT_FORWARDED = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "keep-alive", "transfer-encoding"}
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the execution API.

    :param instance: id of the task instance that sent it
    :param what: method and path, with names of variable parts in place of them, as in ``GET connections/{id}``
    :param path: as it was asked for
    :param sent: bytes of its body
    :param received: bytes of the answer's body
    """

    instance: str
    what: str
    path: str
    status: int
    sent: int
    received: int


class ApiCalls:
    """Stands between the tasks of a live Airflow and its API server.

    Give :attr:`env` to :class:`EmbeddedAirflow`, then say :meth:`watch`; tasks that start before that fail.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._port = 0
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def env(self) -> dict[str, str]:
        """Sends an Airflow's tasks here."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}/execution/"
        # A task that gives up asks again, which would be counted.
        return {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": url, "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60"}

    def watch(self, airflow: EmbeddedAirflow) -> None:
        """From now on pass on to this one."""
        self._port = airflow.port

    def by_task(self, tasks: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], list[Call]]:
        """Task id and map index: its requests, in order.

        :param tasks: of one run, from :meth:`EmbeddedAirflow.tasks`
        """
        calls = list(self.calls)
        return {
            (task["task_id"], task["map_index"]): [call for call in calls if call.instance == task["id"]]
            for task in tasks
        }

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __enter__(self) -> ApiCalls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def kinds(calls: Iterable[Call]) -> Counter[str]:
    """How often each kind of request was sent."""
    return Counter(call.what for call in calls)


class _Handler(BaseHTTPRequestHandler):
    owner: ApiCalls
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_FORWARDED}
        upstream = http.client.HTTPConnection("127.0.0.1", self.owner._port, timeout=60)
        try:
            upstream.request(self.command, self.path, body=body or None, headers=headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        # Before the answer: then the last request is counted by the time the task has ended.
        self.owner.calls.append(
            Call(
                _instance(self.headers.get("Authorization", "")),
                f"{self.command} {_shape(self.path)}",
                self.path,
                answer.status,
                len(body),
                len(content),
            )
        )
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_FORWARDED:
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _pass_on  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _instance(authorization: str) -> str:
    """The task instance that a token is of."""
    claims = authorization.removeprefix("Bearer ").split(".")[1]
    subject: str = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
    return subject


def _shape(path: str) -> str:
    """A path without what differs from task to task."""
    place, _, query = path.removeprefix("/execution/").partition("?")
    place = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "{id}", place)
    parts = place.split("/")
    if parts[0] == "xcoms":
        # xcoms/{dag}/{run}/{task}/{key}[/item/{index}]
        parts[1:3] = ["{dag}", "{run}"]
        parts = ["{index}" if part.isdigit() else part for part in parts]
    names = "&".join(sorted(pair.partition("=")[0] for pair in query.split("&") if pair))
    return "/".join(parts) + (f"?{names}" if names else "")
