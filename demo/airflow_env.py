"""An Airflow for the demo and the end-to-end tests: configured by environment alone, used over its REST API.

Nothing of a user's own Airflow is read or touched.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DAG_ID = "portmon"
ADMIN = "admin"
FINAL = frozenset({"success", "failed"})

_LIBC = ctypes.CDLL(None)
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""No proxy: everything is on this computer."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends."""
    _LIBC.prctl(1, signal.SIGTERM, 0, 0, 0)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def inherited() -> dict[str, str]:
    """Our environment without variables for another Airflow, another Python or a proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "_AIRFLOW"))
        and name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
        and not name.lower().endswith("_proxy")
    }


class AirflowError(Exception):
    """Airflow failed or took too long; the message says where its logs are."""


def migrate_airflow(env: Mapping[str, str], log: Path) -> None:
    """Create the tables of Airflow's own database.

    :param env: names the database and Airflow's home
    :param log: file for its output
    """
    with log.open("wb") as out:
        done = subprocess.run(
            EmbeddedAirflow.airflow("db", "migrate"),
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise AirflowError(f"`airflow db migrate` failed, see {log}")


class EmbeddedAirflow:
    """Scheduler, DAG processor and API server of one Airflow home.

    :param home: its AIRFLOW_HOME, made if it is not there
    :param config: portmon.yaml
    :param connections: Airflow connections by id, as URI or JSON
    :param database: URL of Airflow's own database; default: SQLite below ``home``
    :param env: more settings
    :param port: of the page; default: any free one
    """

    def __init__(
        self,
        home: Path,
        *,
        config: Path,
        connections: Mapping[str, str],
        database: str | None = None,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home = home.resolve()
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.password = secrets.token_urlsafe(12)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self._token = ""
        passwords = home / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({ADMIN: self.password}))
        self.env = {
            **inherited(),
            # The user's own ~/.ssh/config and known_hosts must not apply to the hosts that are made up here.
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "6",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database or f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__PORTMON__CONFIG": str(config),
            "AIRFLOW__PORTMON__SCHEDULE": "",
            **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()},
            **(env or {}),
        }

    # ── life ────────────────────────────────────────────────────────────────────────────────────

    def start(self, tell: Callable[[str], None] = lambda _: None, *, migrated: bool = False) -> None:
        """Migrate its database, start it, wait until the DAG is there.

        :param tell: called with each step that is waited for
        :param migrated: its database has all tables already
        """
        if not migrated:
            tell("creating Airflow's database")
            migrate_airflow(self.env, self.home / "migrate.out")
        tell("starting scheduler, DAG processor and API server")
        self.start_process("api-server")
        # Task logs are local files; a server for them would need the fixed port 8793.
        self.start_process("scheduler", "--skip-serve-logs")
        self.start_process("dag-processor")
        tell("waiting for the API server")
        self.wait(self._is_healthy, "a healthy Airflow", seconds=180)
        tell("waiting for the DAG")
        self.wait(self._has_dag, "the DAG portmon", seconds=120)

    def start_process(self, name: str, *arguments: str, command: str | None = None, within: Sequence[str] = ()) -> None:
        """Start one of Airflow's processes, its output in ``home``.

        :param command: of Airflow's command line; default: ``name``
        :param within: a command that executes the one that follows it, such as ``nsenter``
        """
        with (self.home / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [*within, *self.airflow(command or name, *arguments)],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._sessions.add(self.processes[name].pid)

    def stop(self) -> None:
        """End everything that was started, tasks that still run included."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + 5
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        self.kill_all()
        self.processes.clear()

    def end(self, name: str) -> None:
        """End one of the processes by SIGTERM, and after half a minute by SIGKILL."""
        self.processes[name].terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.processes[name].wait(30)
        self.kill(name)

    def kill_all(self) -> None:
        """Send SIGKILL to everything that was started here."""
        _signal(self.pids(), signal.SIGKILL)
        for process in self.processes.values():
            process.wait()
        self._sessions.clear()

    def kill(self, name: str) -> None:
        """Send SIGKILL to one of the processes and everything that it started, as if its computer lost power."""
        process = self.processes.pop(name)
        # All processes are stopped first, or some would notice that others died. Repeated until there are no new ones,
        # since a process may fork meanwhile. Dead ones may stay listed for a while.
        stopped: set[int] = set()
        while found := set(self.pids({process.pid})) - stopped:
            _signal(found, signal.SIGSTOP)
            stopped |= found
        _signal(stopped, signal.SIGKILL)
        process.wait()

    def pids(self, sessions: Collection[int] | None = None) -> list[int]:
        """Processes that were started here, and those that they started, recognised by their session.

        A worker changes its title, which overwrites its environment, and hides the rest of /proc from all users
        but root; its session any user may ask for.

        :param sessions: only of these; default: of all that were started
        """
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(int(place.name)) in (self._sessions if sessions is None else sessions):
                    found.append(int(place.name))
        return found

    @staticmethod
    def airflow(*arguments: str) -> list[str]:
        """A command of Airflow's command line."""
        return [sys.executable, "-m", "airflow", *arguments]

    def __enter__(self) -> EmbeddedAirflow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self, condition: Callable[[], Any], what: str, *, seconds: float, every: float = 0.3) -> Any:
        """Wait until a condition returns something true, and return that.

        :param every: seconds between two calls of the condition
        :raises AirflowError: if it never does, or a process ended meanwhile
        """
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                found = condition()
                if found:
                    return found
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise AirflowError(
                        f"Airflow's {name} ended (code {process.returncode}), see {self.home}/{name}.out"
                    )
            if time.monotonic() > deadline:
                raise AirflowError(f"waited {seconds:g} s for {what}; see the logs in {self.home}")
            time.sleep(every)

    # ── the API ─────────────────────────────────────────────────────────────────────────────────

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        api: str = "/api/v2/",
    ) -> Any:
        """One request to the REST API.

        :param path: below ``api``
        :raises AirflowError: if it is refused
        """
        for retry in (True, True, True, False):
            if not self._token:
                answer = self._request("POST", "/auth/token", {"username": ADMIN, "password": self.password})
                self._token = answer["access_token"]
            url = f"{api}{path}" + (f"?{urllib.parse.urlencode(query, doseq=True)}" if query else "")
            try:
                return self._request(method, url, body)
            except urllib.error.HTTPError as error:
                if retry and error.code == 401:
                    self._token = ""
                    continue
                if retry and error.code >= 500 and method == "GET":
                    # SQLite, on a busy computer.
                    time.sleep(1)
                    continue
                raise AirflowError(f"{method} {url}: HTTP {error.code} {error.read()[:500]!r}") from None
        raise AssertionError

    def trigger(self, **params: Any) -> str:
        """Start a run of the DAG by hand.

        :returns: its run id
        """
        run = self.call("POST", f"dags/{DAG_ID}/dagRuns", {"logical_date": None, "conf": params})
        return str(run["dag_run_id"])

    def run_state(self, run_id: str) -> str:
        """State of a run."""
        return str(self.call("GET", f"dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run_id)}")["state"])

    def wait_run(self, run_id: str, *, seconds: float = 300, tell: Callable[[str], None] | None = None) -> str:
        """Wait for the end of a run.

        :param tell: called with the progress of the tasks
        :returns: ``success`` or ``failed``
        """

        def finished() -> str | None:
            if tell is not None:
                tell(_progress(self.tasks(run_id)))
            state = self.run_state(run_id)
            return state if state in FINAL else None

        # Polled seldom: the API server is busy with the requests of the tasks.
        every = 0.5 if tell is None else 1.0
        return str(self.wait(finished, f"the end of run {run_id}", seconds=seconds, every=every))

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        """Task instances of a run, mapped ones one by one."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call(
                "GET",
                f"dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances",
                query={"limit": 100, "offset": len(found)},
            )
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def log(self, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1) -> str:
        """The log of one try of a task, as lines."""
        answer = self.call(
            "GET",
            f"dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances/{task_id}/logs/{try_number}",
            query={"map_index": map_index, "full_content": True},
        )
        return "\n".join(_lines(answer["content"]))

    def clear(self, run_id: str, tasks: Iterable[str | list[Any]]) -> None:
        """Clear tasks (``"diff_ports"``, ``["netstat", 3]``) and what follows them."""
        self.call(
            "POST",
            f"dags/{DAG_ID}/clearTaskInstances",
            {
                "dry_run": False,
                "dag_run_id": run_id,
                "task_ids": list(tasks),
                "include_downstream": True,
                "only_failed": False,
                "reset_dag_runs": True,
            },
        )

    def _is_healthy(self) -> bool:
        health = self._request("GET", "/api/v2/monitor/health")
        return all(health[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "dag_processor"))

    def _has_dag(self) -> bool:
        try:
            return not self.call("GET", f"dags/{DAG_ID}")["is_paused"]
        except AirflowError:
            errors = self.call("GET", "importErrors")["import_errors"]
            if errors:
                raise AirflowError(f"the DAG can't be imported: {errors[0]['stack_trace']}") from None
            return False

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        if self._token and not path.startswith("/auth/"):
            request.add_header("Authorization", f"Bearer {self._token}")
        with _OPENER.open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")


def _progress(tasks: Sequence[Mapping[str, Any]]) -> str:
    done = [task for task in tasks if task["state"] in ("success", "failed", "skipped", "upstream_failed")]
    active = sorted({task["task_id"] for task in tasks if task["state"] in ("running", "queued", "up_for_retry")})
    return f"{len(done)} of {len(tasks)} tasks done" + (f", now {', '.join(active)}" if active else "")


def _lines(content: Any) -> Iterable[str]:
    if isinstance(content, str):
        yield from content.splitlines()
        return
    for entry in content:
        if isinstance(entry, str):
            yield entry
            continue
        yield str(entry.get("event", ""))
        # The exception that a task died of, and its causes, are beside the event.
        for error in entry.get("error_detail") or ():
            yield f"{error['exc_type']}: {error['exc_value']}"
