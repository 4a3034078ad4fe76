"""NetstatOperator from login to stored record, against SSH servers in this process and real ones."""

from __future__ import annotations

import json
import logging
import subprocess
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
import sqlalchemy
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout
from airflow.sdk.execution_time.task_runner import _render_map_index
from airflow.sdk.execution_time.timeout import timeout

from portmon.airflow.operators.netstat import NetstatOperator
from portmon.airflow.operators.store import MAP_INDEX_TEMPLATE
from portmon.airflow.ssh_hook import HostSSHHook
from portmon.config import parse_config
from portmon.errors import AnswerError, JumpError, RefusedError, ScanTimeoutError
from portmon.model.observation import Observation, Outcome
from portmon.scan import answer as scan
from portmon.storage import archive, host_keys
from portmon.storage.database import Database
from tests.worlds.archived import with_frames
from tests.worlds.netstat import HOSTILE, FakeNetstat, listing
from tests.worlds.sshd import (
    PythonServer,
    dropbear,
    free_port,
    login_shell,
    make_key,
    needs_dropbear,
    needs_sshd,
    openssh,
    python_server,
    silent,
    tcp_server,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def stored(database: Database) -> Callable[[], list[Observation]]:
    def read() -> list[Observation]:
        with database.begin() as conn:
            return with_frames(conn)

    return read


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, user_key: Path, database: Database) -> Callable[..., NetstatOperator]:
    """An operator for a host at a port of 127.0.0.1."""

    def make(
        port: int, *, ports: Sequence[int] = (), name: str = "web01", dry_run: bool = False, **ssh: Any
    ) -> NetstatOperator:
        login, key = ssh.pop("login", "monitor"), ssh.pop("key", user_key)
        connection = {"conn_type": "ssh", "login": login, "extra": {"key_file": str(key)}}
        monkeypatch.setenv("AIRFLOW_CONN_SSH_TEST", json.dumps(connection))
        strict = ssh.pop("host_keys", "accept-new")
        known_hosts = ssh.pop("known_hosts", None)
        confirm_after = ssh.pop("confirm_after", "10ms")
        per_host = ssh.pop("per_host", "20MiB")
        values = {"conn_id": "ssh_test", "connect_timeout": "5s", "command_timeout": "10s", **ssh}
        config = {
            "ssh": {**values, "host_keys": strict, "known_hosts": known_hosts},
            "scan": {"confirm_after": confirm_after},
            "retention": {"per_host": per_host},
        }
        monkeypatch.setattr("portmon.airflow.settings.config", lambda: parse_config(json.dumps(config)))
        host = {"id": "cmdb-1", "name": name, "address": "127.0.0.1", "port": port, "must": list(ports)}
        if dry_run:
            host["dry_run"] = True
        # Through JSON, as an XCom goes.
        return NetstatOperator(task_id="netstat", host=json.loads(json.dumps(host)))

    return make


def context(*, run_type: str = "scheduled", try_number: int = 1, max_tries: int = 1) -> dict[str, Any]:
    run = SimpleNamespace(run_id="run-1", run_type=run_type, logical_date=datetime(2026, 1, 1, tzinfo=UTC))
    return {"dag_run": run, "ti": SimpleNamespace(try_number=try_number, max_tries=max_tries)}


LAST_TRY = {"try_number": 2, "max_tries": 1}


def ports_of(observation: Observation) -> list[int]:
    assert observation.listing is not None
    return sorted({listener.port for listener in observation.listing.listeners})


def test_what_a_host_may_add_in_a_day_is_bounded(
    make: Any, server: PythonServer, netstat: FakeNetstat, stored: Any, caplog: pytest.LogCaptureFixture
) -> None:
    netstat.prints(listing(*range(1, 2000, 7)))
    make(server.port, per_host="1KiB").execute(context())
    [observation] = stored()
    assert observation.frames == ()
    assert observation.error_class in (archive.RAW_LEFT_OUT, archive.TOO_MUCH)
    assert "retention.per_host" in caplog.text


# ── a healthy host ──────────────────────────────────────────────────────────────────────────────


def test_looks_and_stores(make: Any, server: PythonServer, stored: Any) -> None:
    before = datetime.now(UTC)
    # The observation is in the database; no task would read an XCom per host.
    assert make(server.port, ports=[22, 80]).execute(context()) is None
    [observation] = stored()
    assert observation.outcome is Outcome.OK
    assert ports_of(observation) == [22, 80]
    assert observation.listing is not None
    assert observation.listing.listeners[0].program == "nginx: master"
    assert (observation.run_id, observation.try_number) == ("run-1", 1)
    assert observation.logical_date == datetime(2026, 1, 1, tzinfo=UTC)
    assert before <= observation.observed_at <= datetime.now(UTC)
    assert len(observation.frames) == 1
    assert len(server.commands) == 1


def test_equal_states_are_stored_as_equal_bytes(
    make: Any, server: PythonServer, netstat: FakeNetstat, stored: Any
) -> None:
    make(server.port).execute(context())
    make(server.port).execute(context(try_number=2))
    assert server.commands[0] != server.commands[1]
    first, second = stored()
    assert first.frames == second.frames
    assert first.facts == second.facts


def test_log_is_short_and_says_what_happened(make: Any, server: PythonServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make(server.port, ports=[22]).execute(context())
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert f"Asking web01 (127.0.0.1), port {server.port}, as user 'monitor' with connection 'ssh_test'" in text
    assert "Logged in after" in text
    assert "first use, trusted from now on" in text
    assert "; 1 port expected" in text
    assert "answered as uid" in text
    assert "2 listening sockets" in text
    assert "80    0.0.0.0    nginx: master  2007" in text
    assert "Done after" in text
    assert len(text) < 5000


# ── connections to the database ─────────────────────────────────────────────────────────────────


class Connections:
    """To the state database: how many are open now, and how many were opened."""

    def __init__(self) -> None:
        self.open = self.opened = 0

    def watch(self, database: Database) -> Database:
        sqlalchemy.event.listen(database.engine, "connect", self._connected)
        sqlalchemy.event.listen(database.engine, "close", self._closed)
        return database

    def _connected(self, *_: object) -> None:
        self.open += 1
        self.opened += 1

    def _closed(self, *_: object) -> None:
        self.open -= 1


@pytest.fixture
def connections(database: Database, monkeypatch: pytest.MonkeyPatch) -> Connections:
    counted = Connections()
    monkeypatch.setattr(
        "portmon.airflow.settings.database", lambda **options: counted.watch(Database(database.url, **options))
    )
    return counted


def test_one_connection_to_the_database_is_enough(make: Any, server: PythonServer, connections: Connections) -> None:
    make(server.port).execute(context())
    assert (connections.opened, connections.open) == (1, 0)


def test_no_connection_to_the_database_is_open_while_a_host_is_waited_for(
    make: Any, server: PythonServer, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts that are off, or miss a port, must not use up what PostgreSQL allows."""
    seen = []
    dial, wait = HostSSHHook.dial, threading.Event.wait

    def dial_and_see(hook: HostSSHHook) -> None:
        seen.append(("dial", connections.open))
        dial(hook)

    def wait_and_see(event: threading.Event, timeout: float | None = None) -> bool:
        # Of all events only the pause takes as long as portmon.yaml says.
        if timeout == 0.01:
            seen.append(("pause", connections.open))
        return wait(event, timeout)

    monkeypatch.setattr(HostSSHHook, "dial", dial_and_see)
    operator = make(server.port, ports=[22, 443])
    monkeypatch.setattr(threading.Event, "wait", wait_and_see)
    operator.execute(context())
    assert seen == [("dial", 0), ("pause", 0)]
    assert connections.open == 0


def test_log_of_a_crowded_host_is_cut(
    make: Any, server: PythonServer, netstat: FakeNetstat, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    netstat.prints(listing(*range(1000, 3000), program="x" * 14))
    make(server.port).execute(context())
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "… and 1960 more" in text
    assert len(text) < 5000


def test_hostile_names_stay_text_in_the_log(
    make: Any, server: PythonServer, netstat: FakeNetstat, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    netstat.prints(listing(80, program="{{ 7*7 }}\x1b[31m\udcff"))
    make(server.port, name=HOSTILE).execute(context())
    lines = [line for record in caplog.records for line in record.getMessage().split("\n")]
    assert any("{{ 7*7 }}\\x1b[" in line for line in lines)
    assert any("{{ conn.x.password }} {{ \\x1b[31m\\n\\u202e\\xff" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_sudo_is_asked_for_only_if_told(make: Any, server: PythonServer) -> None:
    make(server.port).execute(context())
    make(server.port, sudo=True).execute(context())
    assert [" s=1;" in command for command in server.commands] == [False, True]


# ── confirmation ────────────────────────────────────────────────────────────────────────────────


def test_port_that_comes_back_is_not_missing(
    make: Any, server: PythonServer, netstat: FakeNetstat, stored: Any
) -> None:
    netstat.prints(listing(22, 8080), listing(22, 80))
    make(server.port, ports=[22, 80]).execute(context())
    [observation] = stored()
    assert ports_of(observation) == [22, 80, 8080]
    assert len(observation.frames) == 2
    assert (server.connections, len(server.commands)) == (1, 2)


def test_port_missing_in_both_answers_is_missing(
    make: Any, server: PythonServer, netstat: FakeNetstat, stored: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    netstat.prints(listing(22))
    make(server.port, ports=[22, 80]).execute(context())
    [observation] = stored()
    assert observation.outcome is Outcome.OK
    assert ports_of(observation) == [22]
    assert (server.connections, len(server.commands)) == (1, 2)
    assert "Missing: 80. Asking once more in 0.01 s over the same connection" in caplog.text
    assert "Missing in both answers: 80" in caplog.text


@pytest.mark.parametrize("failure", ["half", "hang_up", "hang"])
def test_second_answer_that_is_no_good_makes_all_of_it_invalid(
    make: Any, host_key: paramiko.PKey, user_key: Path, netstat: FakeNetstat, stored: Any, failure: str
) -> None:
    netstat.prints(listing(22))
    first = threading.Event()

    def run(channel: paramiko.Channel, command: str) -> None:
        out = subprocess.run(["sh", "-c", command], capture_output=True, env={"PATH": netstat.path}, check=False).stdout
        if not first.is_set():
            first.set()
            channel.sendall(out)
        elif failure == "half":
            channel.sendall(out[: len(out) // 2])
        elif failure == "hang_up":
            channel.get_transport().close()
        else:
            threading.Event().wait(30)
        channel.send_exit_status(0)

    with python_server(host_key=host_key, authorized=user_key, run=run) as server:
        operator = make(server.port, ports=[22, 80], command_timeout=2.0)
        with pytest.raises(AnswerError, match="80 missing, and no second answer that confirms it: "):
            operator.execute(context(**LAST_TRY))
    [observation] = stored()
    assert (observation.outcome, observation.error_class) == (Outcome.INVALID, "probe")
    assert observation.listing is None


# ── failures ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"This account is currently not available.\n",
        b"\xff\x00rubbish\x1b[2J\n" * 100,
        b"@@x BEGIN v=1 tool=netstat uid=0 via=- bytes=10\n",
    ],
    ids=["nothing", "nologin", "rubbish", "foreign_frame"],
)
def test_answer_that_is_no_frame_is_invalid(
    make: Any, host_key: paramiko.PKey, user_key: Path, stored: Any, answer: bytes
) -> None:
    def run(channel: paramiko.Channel, command: str) -> None:
        channel.sendall(answer)
        channel.sendall_stderr(b"sh: \x1b[31mno\n")
        channel.send_exit_status(1)

    with python_server(host_key=host_key, authorized=user_key, run=run) as server:
        with pytest.raises(AnswerError, match="exit status 1"):
            make(server.port).execute(context())
        assert stored() == []
        with pytest.raises(AnswerError, match=r"stderr begins 'sh: \\\\x1b\[31mno'") as caught:
            make(server.port).execute(context(**LAST_TRY))
    assert str(caught.value).isprintable()
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    [observation] = stored()
    assert (observation.outcome, observation.error_class, observation.frames) == (Outcome.INVALID, "probe", ())
    assert observation.error == str(caught.value)


def test_answer_over_the_limit_is_invalid(make: Any, server: PythonServer, netstat: FakeNetstat, stored: Any) -> None:
    netstat.prints(listing(*range(1, 1000)))
    with pytest.raises(AnswerError, match="over the limit of 4 KiB"):
        make(server.port, max_output=4096).execute(context(**LAST_TRY))
    assert [observation.outcome for observation in stored()] == [Outcome.INVALID]


def test_unreachable_is_stored_by_the_last_try_alone(make: Any, stored: Any) -> None:
    port = free_port()
    with pytest.raises(RefusedError):
        make(port).execute(context(try_number=1, max_tries=1))
    assert stored() == []
    with pytest.raises(RefusedError):
        make(port).execute(context(try_number=2, max_tries=1))
    [observation] = stored()
    assert (observation.outcome, observation.error_class, observation.try_number) == (Outcome.UNREACHABLE, "refused", 2)


def test_without_retries_the_first_try_is_the_last(make: Any, stored: Any) -> None:
    with pytest.raises(RefusedError):
        make(free_port()).execute(context(try_number=1, max_tries=0))
    assert len(stored()) == 1


def test_refused_login_is_final_at_once(
    make: Any, host_key: paramiko.PKey, stored: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        python_server(host_key=host_key) as server,
        pytest.raises(AirflowFailException, match="refused user 'monitor'"),
    ):
        make(server.port).execute(context(try_number=1, max_tries=1))
    [observation] = stored()
    assert (observation.outcome, observation.error_class) == (Outcome.UNREACHABLE, "authentication")
    # What to do has a line of its own, in full.
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors[0].endswith("so that it locks no account (authentication). No other try")
    assert errors[1:] == ["What to do: Check the user's authorized_keys and sshd's AllowUsers"]


def test_missing_connection_is_final_at_once(make: Any, stored: Any) -> None:
    with pytest.raises(AirflowFailException, match="`gone` isn't defined"):
        make(22, conn_id="gone").execute(context())
    assert [observation.error_class for observation in stored()] == ["setup"]


def test_changed_host_key(
    make: Any, host_key: paramiko.PKey, user_key: Path, tmp_path: Path, stored: Any, database: Database
) -> None:
    other = make_key(tmp_path / "other")
    with python_server(host_key=host_key, authorized=user_key) as server:
        endpoint = f"[127.0.0.1]:{server.port}"
        old = paramiko.PKey.from_path(other)
        with database.begin() as conn:
            host_keys.remember(conn, endpoint, old.get_name(), old.get_base64(), old.fingerprint, datetime.now(UTC))
        for _ in range(2):
            with pytest.raises(AirflowFailException, match=r"host key changed.*hostkeys accept"):
                make(server.port).execute(context())
        assert server.offered == []
        assert {observation.error_class for observation in stored()} == {"host_key_changed"}
        with database.begin() as conn:
            assert host_keys.accept(conn, endpoint, host_key.fingerprint)


def test_first_host_key_is_kept(make: Any, server: PythonServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make(server.port).execute(context())
    make(server.port).execute(context())
    assert caplog.text.count("first use, trusted from now on") == 1
    assert caplog.text.count("known since first use") == 1


def test_backfill_opens_no_connection(make: Any, server: PythonServer, stored: Any) -> None:
    with pytest.raises(AirflowFailException, match="can't be looked at in the past"):
        make(server.port).execute(context(run_type="backfill"))
    assert server.connections == 0
    assert stored() == []


def test_a_task_of_an_old_run_that_is_cleared_opens_no_connection(
    make: Any, server: PythonServer, stored: Any, follow: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    follow("run-1")
    with pytest.raises(AirflowSkipException, match="a later run was evaluated since run-1 began"):
        make(server.port).execute(context(try_number=2, max_tries=3))
    assert "Skipped: a later run was evaluated since run-1 began" in caplog.text
    assert server.connections == 0
    assert stored() == []
    follow("another run")
    make(server.port).execute(context(try_number=1))
    assert server.connections == 1


def test_time_limit_of_the_task(make: Any, stored: Any) -> None:
    with tcp_server(silent) as port:
        operator = make(port, connect_timeout=20.0)
        operator.execution_timeout = timedelta(seconds=90)
        with pytest.raises(AirflowTaskTimeout), timeout(0.3):
            operator.execute(context(**LAST_TRY))
    [observation] = stored()
    assert (observation.outcome, observation.error_class) == (Outcome.UNREACHABLE, "timeout")
    assert "longer than 90 s" in (observation.error or "")


def test_kill_hangs_up_and_stores_nothing(make: Any, host_key: paramiko.PKey, user_key: Path, stored: Any) -> None:
    running = threading.Event()

    def hang(channel: paramiko.Channel, command: str) -> None:
        running.set()
        channel.recv(1)
        threading.Event().wait(20)

    with python_server(host_key=host_key, authorized=user_key, run=hang) as server:
        operator = make(server.port, command_timeout=20.0)
        failures: list[BaseException] = []

        def execute() -> None:
            try:
                operator.execute(context(**LAST_TRY))
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=execute)
        thread.start()
        until(running.is_set, "the command to run")
        operator.on_kill()
        thread.join(10)
        assert not thread.is_alive()
    assert len(failures) == 1
    assert not isinstance(failures[0], ScanTimeoutError)
    assert stored() == []


def test_kill_before_anything_was_done(make: Any) -> None:
    make(22).on_kill()


def test_fault_of_this_program_is_stored_as_such_simulated(
    make: Any, server: PythonServer, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("a \x1b fault")

    monkeypatch.setattr("portmon.probe.listing_of", broken)
    with pytest.raises(ZeroDivisionError):
        make(server.port).execute(context(**LAST_TRY))
    [observation] = stored()
    assert (observation.outcome, observation.error_class) == (Outcome.INVALID, "internal")
    assert observation.error == "ZeroDivisionError: a \\x1b fault"


def test_database_that_fails_does_not_hide_the_hosts_error_simulated(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    operator = make(free_port())
    monkeypatch.setattr("portmon.storage.archive.save_observation", broken)
    with pytest.raises(RefusedError):
        operator.execute(context(**LAST_TRY))


# ── dry runs ────────────────────────────────────────────────────────────────────────────────────


def test_dry_run_leaves_no_trace(
    make: Any, server: PythonServer, netstat: FakeNetstat, stored: Any, database: Database
) -> None:
    netstat.prints(listing(22, 8080), listing(22, 80))
    result = make(server.port, ports=[80], dry_run=True).execute(context())
    assert stored() == []
    with database.begin() as conn:
        assert host_keys.list_all(conn) == []
    observation = scan.observation_from_xcom(json.loads(json.dumps(result)))
    assert observation.host_id == "cmdb-1"
    assert observation.outcome is Outcome.OK
    assert ports_of(observation) == [22, 80, 8080]
    assert observation.logical_date == datetime(2026, 1, 1, tzinfo=UTC)


def test_dry_run_that_fails_leaves_no_trace(make: Any, stored: Any) -> None:
    with pytest.raises(RefusedError):
        make(free_port(), dry_run=True).execute(context(**LAST_TRY))
    assert stored() == []


# ── mapped by Airflow ───────────────────────────────────────────────────────────────────────────


def mapped(hosts: list[dict[str, Any]]) -> tuple[DAG, Any]:
    with DAG("portmon_test", schedule=None) as dag:
        operator = NetstatOperator.partial(task_id="netstat", map_index_template=MAP_INDEX_TEMPLATE).expand(host=hosts)
    return dag, operator


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("web01", "web01"),
        ("{{ conn.x.password }}", "{{ conn.x.password }}"),
        ("{{", "{{"),
        ("{% raw", "{% raw"),
        ("a\nb\x00\udcff", "a\\nb\\x00\\xff"),
        ("n" * 4000, "n" * 249 + "…"),
    ],
)
def test_mapped_task_is_named_after_its_host(name: str, shown: str) -> None:
    host = {"id": "1", "name": name, "address": "a", "port": None, "labels": {"x": name}, "ports": [], "ssh": {}}
    dag, operator = mapped([host])
    task = operator.unmap({"host": host})
    # Before execution, when only the name of the running task can be known, and after it.
    ti: Any = SimpleNamespace(task=task)
    values: Any = {"map_index_template": operator.partial_kwargs["map_index_template"], "task": task, "dag": dag}
    assert _render_map_index(values, ti=ti, log=logging.getLogger()) == shown  # type: ignore[arg-type]


def test_nothing_of_a_host_is_rendered() -> None:
    host = {"id": HOSTILE, "name": "{{", "address": HOSTILE, "labels": {"{{": "{% if"}, "ssh": {"user": "{{"}}
    dag, operator = mapped([host])
    assert tuple(operator.template_fields) == ()
    assert tuple(operator.template_ext) == ()
    task = operator.unmap({"host": host})
    task.render_template_fields({"dag": dag, "task": task})
    assert task.host == host


# ── real servers ────────────────────────────────────────────────────────────────────────────────

NOISE = "echo 'Welcome to {{ 7*7 }}'; printf 'no newline'; echo 'stderr too' >&2\n"


@pytest.mark.slow
@needs_sshd
def test_openssh(make: Any, netstat: FakeNetstat, tmp_path: Path, stored: Any) -> None:
    with openssh(tmp_path / "sshd", path=netstat.path) as server:
        make(server.port, login=server.user, key=server.user_key, ports=[22, 80]).execute(context())
        assert server.logins() == 1
    assert ports_of(stored()[0]) == [22, 80]


@pytest.mark.slow
@needs_sshd
def test_openssh_with_the_machines_own_netstat(make: Any, tmp_path: Path, stored: Any) -> None:
    with openssh(tmp_path / "sshd") as server:
        make(server.port, login=server.user, key=server.user_key, ports=[server.port]).execute(context())
        [observation] = stored()
        assert server.port in ports_of(observation)
        assert len(observation.frames) == 1


@pytest.mark.slow
@needs_sshd
@pytest.mark.skipif(not login_shell().endswith("bash"), reason="only bash reads a file before a command over SSH")
def test_openssh_with_a_noisy_bashrc(make: Any, netstat: FakeNetstat, tmp_path: Path, stored: Any) -> None:
    with openssh(tmp_path / "sshd", path=netstat.path, shell="/bin/bash") as server:
        (server.home / ".bashrc").write_text(NOISE + "trap 'echo Goodbye' EXIT\n")
        make(server.port, login=server.user, key=server.user_key).execute(context())
    assert ports_of(stored()[0]) == [22, 80]


@pytest.mark.slow
@needs_sshd
def test_openssh_with_a_noisy_login_shell(make: Any, netstat: FakeNetstat, tmp_path: Path, stored: Any) -> None:
    forced = "ForceCommand sh -lc 'eval \"$SSH_ORIGINAL_COMMAND\"; echo Goodbye'"
    with openssh(tmp_path / "sshd", config=forced, path=netstat.path) as server:
        (server.home / ".profile").write_text(f"{NOISE}PATH={netstat.path}\n")
        make(server.port, login=server.user, key=server.user_key).execute(context())
    assert ports_of(stored()[0]) == [22, 80]


@pytest.mark.slow
@needs_sshd
def test_openssh_confirms_over_one_connection(make: Any, netstat: FakeNetstat, tmp_path: Path, stored: Any) -> None:
    netstat.prints(listing(22), listing(22, 80))
    with openssh(tmp_path / "sshd", path=netstat.path) as server:
        make(server.port, login=server.user, key=server.user_key, ports=[22, 80]).execute(context())
        assert server.logins() == 1
    [observation] = stored()
    assert ports_of(observation) == [22, 80]
    assert len(observation.frames) == 2


@pytest.mark.slow
@needs_sshd
def test_openssh_shell_that_dies_in_the_answer(make: Any, tmp_path: Path, stored: Any) -> None:
    # The forced command cuts what the real one prints.
    forced = 'ForceCommand sh -c "$SSH_ORIGINAL_COMMAND" | head -c 100'
    with openssh(tmp_path / "sshd", config=forced) as server, pytest.raises(AnswerError):
        make(server.port, login=server.user, key=server.user_key).execute(context(**LAST_TRY))
    assert [observation.outcome for observation in stored()] == [Outcome.INVALID]


@pytest.mark.slow
@needs_dropbear
def test_dropbear(make: Any, tmp_path: Path, stored: Any) -> None:
    with dropbear(tmp_path / "dropbear") as server:
        make(server.port, login=server.user, key=server.user_key, ports=[server.port]).execute(context())
        assert server.logins() == 1
        assert server.port in ports_of(stored()[0])


@pytest.mark.slow
@needs_dropbear
def test_dropbear_with_a_noisy_shell(make: Any, tmp_path: Path, stored: Any) -> None:
    with dropbear(tmp_path / "dropbear", shell="/bin/bash") as server:
        (server.home / ".bashrc").write_text(NOISE)
        make(server.port, login=server.user, key=server.user_key).execute(context())
        assert server.port in ports_of(stored()[0])


@pytest.mark.slow
@needs_sshd
def test_a_look_through_a_jump_host(
    make: Any,
    server: PythonServer,
    netstat: FakeNetstat,
    stored: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
) -> None:
    netstat.prints(listing(22, 443))
    with openssh(tmp_path / "sshd") as bastion:
        values = {"host": "127.0.0.1", "port": bastion.port, "login": bastion.user}
        connection = {"conn_type": "ssh", **values, "extra": {"key_file": str(bastion.user_key)}}
        monkeypatch.setenv("AIRFLOW_CONN_SSH_BASTION", json.dumps(connection))
        make(server.port, jump=["ssh_bastion"]).execute(context())
    [observation] = stored()
    assert ports_of(observation) == [22, 443]
    with database.begin() as conn:
        endpoints = {key.endpoint for key in host_keys.list_all(conn)}
    assert endpoints == {f"[127.0.0.1]:{bastion.port}", f"[127.0.0.1]:{server.port}"}
    # It is gone: the host has no evidence, and the task is tried again.
    with pytest.raises(JumpError, match=r"jump host 1 of 1, ssh_bastion \(127.0.0.1\): nothing listens"):
        make(server.port, jump=["ssh_bastion"]).execute(context(**LAST_TRY))
    assert [one.error_class for one in stored()] == [None, "jump_host"]
