"""A Prometheus Alertmanager for the tests: on a free port, in a folder of its own, ended with them."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import requests

from tests.worlds.waiting import until

_NAMES = ("alertmanager", "prometheus-alertmanager")


def _binary() -> str | None:
    return next(filter(None, map(shutil.which, _NAMES)), None)


def missing() -> str | None:
    """What this machine lacks; None if nothing."""
    return None if _binary() else "Alertmanager is not installed"


class Alertmanager:
    """The server.

    :param config: text of its configuration
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        (folder / "alertmanager.yml").write_text(config, encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again as well: what it keeps on disk is still there."""
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [_binary() or "", f"--config.file={self.folder}/alertmanager.yml", f"--storage.path={self.folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--cluster.listen-address="],
                stdout=log, stderr=log,
            )  # fmt: skip
        until(self._ready, (self.folder / "log").read_text())

    def kill(self) -> None:
        """End it at once, as a crash does."""
        assert self._server is not None
        self._server.kill()
        self._server.wait(30)
        self._server = None

    def close(self) -> None:
        """End it, if it runs."""
        if self._server is not None:
            self.kill()

    def alerts(self) -> list[dict[str, Any]]:
        """What fires."""
        answer = requests.get(f"{self.url}/api/v2/alerts", timeout=20)
        assert answer.status_code == 200
        found: list[dict[str, Any]] = answer.json()
        return found

    def _ready(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.folder / "log").read_text()
        try:
            return requests.get(f"{self.url}/-/ready", timeout=20).status_code == 200
        except requests.ConnectionError:
            return False
