"""A PostgreSQL server for the tests: on a free port, in a folder of its own, ended with them."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.worlds.processes import kill_with_descendants

PASSWORD = secrets.token_hex(8)


def tools() -> list[str]:
    """Folders of PostgreSQL's programs, the newest first."""
    return [str(place) for place in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


def _binary(name: str) -> str | None:
    # tools/matrix.py names the folder of another one.
    own = os.environ.get("PORTMON_POSTGRESQL", "")
    return shutil.which(name, path=own or os.pathsep.join([*tools(), os.environ.get("PATH", "")]))


def missing() -> str | None:
    """What this machine lacks; None if nothing."""
    if not _binary("initdb") or not _binary("postgres"):
        return "PostgreSQL is not installed"
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        return "PostgreSQL refuses to run as root, and there is no setpriv"
    return None


def for_airflow(url: str) -> str:
    """The URL of a database as Airflow takes it."""
    return url.replace("postgresql://", "postgresql+psycopg2://")


class Cluster:
    """The server.

    :param durable: write as a server does that must survive a power failure
    """

    def __init__(self, _: Path | None = None, *, durable: bool = False) -> None:
        # Not below pytest's folder, which only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="portmon-pg-"))
        self.databases: set[str] = set()
        self._user: list[str] = []
        if os.geteuid() == 0:
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                user = pwd.getpwnam("nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        env = {**os.environ, "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        data = self.folder / "data"
        secret = self.folder / "pw"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run(
            [*self._user, _binary("initdb") or "", "-D", data, "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}",
             "-E", "UTF8", "--no-sync"],
            env=env, check=True, capture_output=True,
        )  # fmt: skip
        self._command = [
            *self._user, _binary("postgres") or "", "-D", str(data), "-p", str(self.port), "-k", str(self.folder),
            "-h", "127.0.0.1", "-c", f"fsync={'on' if durable else 'off'}", "-c", "max_connections=200",
        ]  # fmt: skip
        self._env = env
        self._log = (self.folder / "log").open("wb")
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._server = subprocess.Popen(self._command, env=self._env, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + 60
        while True:
            try:
                self._execute("SELECT 1")
                return
            except Exception:
                assert self._server.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    @property
    def pid(self) -> int:
        """The server's process; those that serve connections are its children."""
        return self._server.pid

    def crash(self) -> None:
        """SIGKILL to the server and the processes of its connections. What it had committed is on the disk."""
        kill_with_descendants(self._server.pid)
        self._server.wait()

    def url(self, database: str = "postgres") -> str:
        """Of one database."""
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str = "", *, template: str = "template1") -> str:
        """Make a database, and return its URL.

        :param name: default: one that no other has
        :param template: another database without connections; default: an empty one
        """
        name = name or f"t{secrets.token_hex(6)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        self.databases.add(name)
        return self.url(name)

    def copy_of(self, name: str, fill: Callable[[str], None]) -> str:
        """Make a database like another one, and return its URL.

        :param name: of the other one
        :param fill: fills that one, the first time, by its URL, and leaves no connection open
        """
        if name not in self.databases:
            fill(self.new_database(name))
        return self.new_database(template=name)

    def close(self) -> None:
        """End the server."""
        self._server.send_signal(3)
        self._server.wait(30)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _execute(self, statement: str) -> None:
        import psycopg2

        connection = psycopg2.connect(self.url(), connect_timeout=5)
        try:
            connection.autocommit = True
            connection.cursor().execute(statement)
        finally:
            connection.close()
