"""A small CMDB over HTTP: pages with a next link, and a token.

``python cmdb.py HOSTS.JSON`` serves a file on port 8000 to programs with the token of ``$DEMO_CMDB_TOKEN``.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PAGE = 4


class Cmdb:
    """A CMDB that answers with ``entries``, which may be changed at any time, or with the HTTP status ``failing``.

    :param token: default: a random one
    """

    def __init__(self, *, address: str = "127.0.0.1", port: int = 0, token: str = "") -> None:
        self.entries: list[dict[str, Any]] = []
        self.failing: int | None = None
        self.token = token or secrets.token_urlsafe(16)
        self._server = ThreadingHTTPServer((address, port), self._handler())
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cmdb = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.headers.get("Authorization") != f"Bearer {cmdb.token}":
                    self.answer(401, {"error": "no or wrong token"})
                elif cmdb.failing:
                    self.answer(cmdb.failing, {"error": "told to fail"})
                else:
                    entries = list(cmdb.entries)
                    offset = int(parse_qs(urlsplit(self.path).query).get("offset", ["0"])[0])
                    following = f"/api/servers/?offset={offset + PAGE}" if offset + PAGE < len(entries) else None
                    page = entries[offset : offset + PAGE]
                    self.answer(200, {"count": len(entries), "next": following, "results": page})

            def answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler


def main(file: str, port: str = "8000") -> None:
    """Serve the entries of a file until the process ends."""
    token = os.environ.get("DEMO_CMDB_TOKEN")
    if not token:
        sys.exit("DEMO_CMDB_TOKEN is not set: docs/operations.md says how to fill .env for the demo")
    cmdb = Cmdb(address="", port=int(port), token=token)
    cmdb.entries = json.loads(Path(file).read_text())
    print(f"serving {len(cmdb.entries)} hosts on port {cmdb.port}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
