"""SweepOperator from the stored batch to stored looks, against SSH servers in this process."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from sqlalchemy import update

from portmon import timeouts
from portmon.airflow.operators.sweep import HostVisit, SweepOperator
from portmon.config import Config, parse_config
from portmon.errors import StorageError
from portmon.model.host import Host, Inventory
from portmon.model.observation import Observation, Outcome
from portmon.scan import answer as scan
from portmon.scan.host import HostScan
from portmon.steps.evaluate import evaluate_run
from portmon.steps.plan import plan_hosts, plan_sweep
from portmon.steps.run import Run
from portmon.storage import archive, contents, decisions, host_keys, hosts, inventory, tables
from portmon.storage.database import Database
from tests.worlds.archived import seen, with_frames
from tests.worlds.netstat import HOSTILE, FakeNetstat, listing
from tests.worlds.sshd import PythonServer, bombing, free_port, needs_sshd, openssh, python_server, silent, tcp_server
from tests.worlds.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Run("run-1", "scheduled", NOW)


pytestmark = pytest.mark.usefixtures("home")


class Scene:
    """Hosts, their plan, and the task that asks them."""

    def __init__(self, database: Database, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.monkeypatch = monkeypatch
        self.connection = {"conn_type": "ssh", "login": "monitor", "extra": {"key_file": str(key)}}
        self.config: dict[str, Any] = {
            "ssh": {"conn_id": "ssh_test", "connect_timeout": "1s"},
            "scan": {"sweep_above": 0, "confirm_after": "10ms"},
        }
        self.digest = ""

    def sweep(
        self,
        listed: Sequence[Host],
        *,
        run: Run = RUN,
        try_number: int = 1,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Plan and sweep."""
        result: dict[str, Any] = self.operator(listed, run=run, dry_run=dry_run).execute(
            self.context(run, try_number=try_number)
        )
        return result

    def operator(self, listed: Sequence[Host], *, run: Run = RUN, dry_run: bool = False) -> SweepOperator:
        self.monkeypatch.setenv("AIRFLOW_CONN_SSH_TEST", json.dumps(self.connection))
        self.monkeypatch.setattr("portmon.airflow.settings.config", self.parsed)
        if dry_run:
            run = dataclasses.replace(run, dry_run=True)
        with self.database.begin() as conn:
            found = Inventory(tuple(listed), source="test")
            self.digest = inventory.save(conn, found, run_id=run.run_id, fetched_at=NOW, stale=False)
        (item,) = plan_sweep(self.database, self.parsed(), run, self.digest, proxy_of=lambda _: None)
        return SweepOperator(task_id="sweep", batch=json.loads(json.dumps(item)))

    def context(self, run: Run, *, try_number: int = 1) -> dict[str, Any]:
        ti = SimpleNamespace(try_number=try_number, max_tries=2)
        return {"dag_run": run, "ti": ti, "params": {}}

    def parsed(self) -> Config:
        return parse_config(json.dumps(self.config))

    def own_tasks(self, run: Run = RUN, swept: Mapping[str, bool] | None = None) -> list[str]:
        return [item["id"] for item in plan_hosts(self.database, self.parsed(), run, self.digest, swept=swept or {})]

    def evaluate(self, run: Run) -> dict[str, int]:
        """What follows a sweep."""
        interval, now = timedelta(minutes=5), datetime.now(UTC)
        return evaluate_run(self.database, self.parsed(), run, self.digest, planned={}, interval=interval, now=now)

    def stored(self) -> dict[str, Observation]:
        with self.database.begin() as conn:
            return {observation.host_id: observation for observation in with_frames(conn)}


@pytest.fixture
def scene(database: Database, user_key: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(database, user_key, monkeypatch)


def at(port: int, number: int = 0, **values: Any) -> Host:
    """A host at a port of 127.0.0.1."""
    return Host(f"id-{number}", f"web{number}", "127.0.0.1", port, **values)


def ports_of(observation: Observation) -> list[int]:
    assert observation.listing is not None
    return sorted({listener.port for listener in observation.listing.listeners})


def test_looks_and_stores(scene: Scene, server: PythonServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    result = scene.sweep([at(server.port, number, labels={"env": HOSTILE}) for number in range(20)])
    assert result == {"hosts": 20, "ok": 20, "failed": 0, "untried": 0}
    stored = scene.stored()
    assert len(stored) == 20
    for observation in stored.values():
        assert observation.outcome is Outcome.OK
        assert ports_of(observation) == [22, 80]
        assert (observation.run_id, observation.try_number, observation.logical_date) == ("run-1", 1, NOW)
        assert 0 < observation.duration < 60
    assert (server.connections, len(server.commands)) == (20, 20)
    assert scene.own_tasks() == []
    messages = [record.getMessage() for record in caplog.records if record.name == "portmon.airflow.operators.sweep"]
    assert messages[0] == "batch 1, 20 hosts; 20 to ask, 16 at a time"
    assert re.fullmatch(r"Done after [\d.]+ s, [\d.]+ hosts/s: 20 gave evidence, 0 failed", messages[-1])
    assert len(messages) == 2


def test_healthy_hosts_have_a_line_each_for_who_wants_to_know(
    scene: Scene, server: PythonServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "portmon.airflow.operators.sweep")
    scene.sweep([at(server.port, number) for number in range(30)])
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    told = [re.fullmatch(r"(\w+) \(127\.0\.0\.1\): 2 sockets, nothing missing, [\d.]+ s", line) for line in lines]
    assert sorted(match[1] for match in told if match) == sorted(f"web{number}" for number in range(30))


def test_the_log_says_how_far_a_long_batch_is(
    scene: Scene, server: PythonServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("portmon.airflow.operators.sweep.PROGRESS", 0.0)
    scene.sweep([at(server.port, number) for number in range(3)])
    told = [line for line in caplog.messages if " of 3 after " in line]
    assert [re.sub(r"after \d+ s", "after", line) for line in told] == [f"{n} of 3 after, 0 failed" for n in (1, 2, 3)]


@pytest.mark.parametrize(("asked", "shown"), [(True, False), (True, True), (False, False)])
def test_the_log_names_hosts_that_do_not_show_udp(
    scene: Scene,
    server: PythonServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: bool,
    shown: bool,
) -> None:
    if asked:
        scene.config["scan"]["protocols"] = ["tcp", "udp"]
    if not shown:
        monkeypatch.setattr("portmon.probe.listing._udp", lambda *_: None)
    scene.sweep([at(server.port, number) for number in range(22)])
    told = [line for line in caplog.messages if line.startswith("UDP was asked for and is not shown")]
    assert len(told) == (asked and not shown)
    if told:
        assert (len(re.findall(r"web\d+", told[0])), told[0][-11:]) == (20, " and 2 more")
    assert [" D=udp;" in command for command in server.commands] == [asked] * 22


def test_settings_are_read_once_for_all_hosts(
    scene: Scene, server: PythonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.bases.hook import BaseHook

    read: list[str] = []
    keys: list[str] = []
    given, opened = BaseHook.get_connection, paramiko.PKey.from_path

    def counted(conn_id: str) -> Any:
        read.append(conn_id)
        return given(conn_id)

    def counted_key(path: Any, *rest: Any) -> Any:
        keys.append(str(path))
        return opened(path, *rest)

    monkeypatch.setattr(BaseHook, "get_connection", staticmethod(counted))
    monkeypatch.setattr(paramiko.PKey, "from_path", staticmethod(counted_key))
    scene.config["ssh"]["max_logins"] = 1
    scene.sweep([at(server.port, number) for number in range(10)])
    assert read.count("ssh_test") == 1
    assert len(keys) == 1


def test_what_fails_newly_gets_a_task_of_its_own_and_what_failed_before_does_not(
    scene: Scene, server: PythonServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dead = free_port()
    listed = [at(server.port, 0), at(dead, 1), at(dead, 2)]
    with scene.database.begin() as conn:
        hosts.sync(conn, listed)
        conn.exec_driver_sql("UPDATE hosts SET failures = 1, error_class = 'refused' WHERE host_id = 'id-2'")
    assert scene.sweep(listed) == {"hosts": 3, "ok": 1, "failed": 2, "untried": 0}
    stored = scene.stored()
    assert {host_id: (one.outcome.value, one.provisional) for host_id, one in stored.items()} == {
        "id-0": ("ok", False),
        "id-1": ("unreachable", True),
        "id-2": ("unreachable", False),
    }
    assert stored["id-1"].error_class == "refused"
    assert scene.own_tasks() == ["id-1"]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line for line in lines if "web1" in line and "refused" in line and "last time" not in line]
    assert [line for line in lines if "web2" in line and "It failed last time as well" in line]


def test_a_port_that_is_missing_is_asked_for_once_more_over_the_same_connection(
    scene: Scene, server: PythonServer, netstat: FakeNetstat, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    netstat.prints(listing(22), listing(22, 80))
    scene.config["declared"] = [{"port": [22, 80]}]
    scene.sweep([at(server.port)])
    (observation,) = scene.stored().values()
    assert (ports_of(observation), observation.confirmed, len(observation.frames)) == ([22, 80], True, 2)
    assert (server.connections, len(server.commands)) == (1, 2)
    assert "web0 (127.0.0.1): back in the second answer: 80" in caplog.text
    netstat.prints(listing(22))
    scene.sweep([at(server.port)], run=dataclasses.replace(RUN, run_id="run-2"))
    assert "web0 (127.0.0.1): missing in both answers: 80" in caplog.text


def in_background(operator: SweepOperator, scene: Scene, results: list[Any]) -> threading.Thread:
    def execute() -> None:
        try:
            results.append(operator.execute(scene.context(RUN)))
        except AirflowException as error:
            results.append(str(error))

    thread = threading.Thread(target=execute)
    thread.start()
    return thread


def test_hosts_that_wait_to_confirm_hold_no_login(scene: Scene, server: PythonServer, netstat: FakeNetstat) -> None:
    """One login at a time, four hosts that lack a port: all are asked before the first one is asked again."""
    netstat.prints(listing(22))
    scene.config |= {"declared": [{"port": 80}], "scan": {"sweep_above": 0, "confirm_after": "30s"}}
    scene.config["ssh"]["max_logins"] = 1
    operator = scene.operator([at(server.port, number) for number in range(4)])
    results: list[Any] = []
    thread = in_background(operator, scene, results)
    until(lambda: operator._pool is not None and operator._pool.parked() == 4, "four parked hosts")
    assert (server.connections, len(server.commands)) == (4, 4)
    operator.on_kill()
    thread.join(30)
    assert not thread.is_alive()
    assert scene.stored() == {}


def test_silent_and_unusable_hosts_hold_up_no_other(scene: Scene, server: PythonServer) -> None:
    with tcp_server(silent) as port:
        odd = [
            *(at(port, number) for number in range(10, 20)),
            dataclasses.replace(at(22, 20), address="no.such.host.invalid"),
            dataclasses.replace(at(22, 21), address="-oProxyCommand=evil"),
        ]
        scene.config["ssh"]["max_logins"] = 2
        result = scene.sweep([*odd, *(at(server.port, number) for number in range(10))])
    assert (result["ok"], result["failed"]) == (10, 12)
    classes = {
        host_id: observation.error_class for host_id, observation in scene.stored().items() if observation.error_class
    }
    assert classes == {
        **{f"id-{number}": "timeout" for number in range(10, 20)},
        "id-20": "dns",
        "id-21": "dns",
    }
    assert "no SSH banner within 1 s" in (scene.stored()["id-10"].error or "")


def test_first_host_keys_are_kept_and_a_changed_one_is_reported(
    scene: Scene, server: PythonServer, host_key: paramiko.PKey
) -> None:
    listed = [at(server.port)]
    scene.sweep(listed)
    endpoint = f"[127.0.0.1]:{server.port}"
    with scene.database.begin() as conn:
        (key,) = host_keys.trusted(conn, [endpoint])[endpoint]
        assert key.key_base64 == host_key.get_base64()
        conn.exec_driver_sql("UPDATE host_keys SET key_base64 = 'AAAA'")
    scene.sweep(listed, run=dataclasses.replace(RUN, run_id="run-2"))
    with scene.database.begin() as conn:
        offered = [key for key in host_keys.list_all(conn, endpoint) if not key.trusted]
        assert [key.key_base64 for key in offered] == [host_key.get_base64()]
    assert scene.stored()["id-0"].error_class == "host_key_changed"


def test_another_try_goes_on_where_the_first_ended(scene: Scene, server: PythonServer) -> None:
    listed = [at(server.port, number) for number in range(10)]
    operator = scene.operator(listed)
    real = archive.save_observations
    calls = []

    def broken(conn: Any, observations: Any, **options: Any) -> Any:
        calls.append(len(observations))
        if len(calls) > 1:
            raise OSError("the database is away")
        return real(conn, observations, **options)

    scene.monkeypatch.setattr("portmon.airflow.operators.sweep.STORE_MOST", 4)
    scene.monkeypatch.setattr(archive, "save_observations", broken)
    with pytest.raises(OSError, match="away"):
        operator.execute(scene.context(RUN))
    scene.monkeypatch.setattr(archive, "save_observations", real)
    before = len(scene.stored())
    assert before == calls[0]
    logins = server.connections
    assert scene.sweep(listed, try_number=2)["hosts"] == 10 - before
    assert len(scene.stored()) == 10
    assert server.connections == logins + 10 - before


def test_killing_it_hangs_up_and_keeps_what_is_stored(scene: Scene, host_key: paramiko.PKey, user_key: Path) -> None:
    running = threading.Event()
    over = threading.Event()

    def hang(channel: paramiko.Channel, command: str) -> None:
        running.set()
        over.wait(30)

    with python_server(host_key=host_key, authorized=user_key, run=hang) as server:
        operator = scene.operator([at(server.port, number) for number in range(3)])
        results: list[Any] = []
        thread = in_background(operator, scene, results)
        assert running.wait(30)
        operator.on_kill()
        thread.join(30)
        assert not thread.is_alive()
        over.set()
    # Not green, and no host is blamed for a task that a person ended.
    assert results == ["the task was ended by hand: what was seen so far is stored"]
    assert scene.stored() == {}


def test_a_dry_run_leaves_no_trace(scene: Scene, server: PythonServer) -> None:
    result = scene.sweep([at(server.port), at(free_port(), 1)], dry_run=True)
    assert (result["ok"], result["failed"]) == (1, 1)
    assert len(result["looks"]) == 64
    assert scene.stored() == {}
    with scene.database.begin() as conn:
        assert host_keys.list_all(conn) == []


def test_what_a_dry_run_saw_goes_from_task_to_task(scene: Scene, server: PythonServer) -> None:
    listed = [at(server.port), at(free_port(), 1), at(free_port(), 2)]
    with scene.database.begin() as conn:
        hosts.sync(conn, listed)
        conn.execute(update(tables.hosts).where(tables.hosts.c.host_id == "id-2").values(failures=1))
    result = scene.sweep(listed, dry_run=True)
    with scene.database.begin() as conn:
        looks = [scan.observation_from_xcom(look) for look in json.loads(contents.get(conn, result["looks"]))]
    found = {look.host_id: look for look in looks}
    assert {host_id: (look.outcome, look.error_class, look.provisional) for host_id, look in found.items()} == {
        "id-0": (Outcome.OK, None, False),
        "id-1": (Outcome.UNREACHABLE, "refused", True),
        "id-2": (Outcome.UNREACHABLE, "refused", False),
    }
    assert ports_of(found["id-0"]) == [22, 80]
    assert "web1 (127.0.0.1)" in (found["id-1"].error or "")
    # As in a run that stores what it sees: only what fails newly gets a task of its own.
    assert scene.own_tasks(swept={host_id: not look.provisional for host_id, look in found.items()}) == ["id-1"]


def test_a_backfill_asks_no_host(scene: Scene, server: PythonServer) -> None:
    operator = scene.operator([at(server.port)])
    with pytest.raises(AirflowFailException, match="can't be looked at in the past"):
        operator.execute(scene.context(dataclasses.replace(RUN, run_type="backfill")))
    assert server.connections == 0


def test_an_old_run_that_is_cleared_asks_no_host(
    scene: Scene, server: PythonServer, follow: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    operator = scene.operator([at(server.port)])
    follow(RUN.run_id)
    with pytest.raises(AirflowSkipException, match="a later run was evaluated since run-1 began"):
        operator.execute(scene.context(RUN, try_number=2))
    assert "Skipped: a later run was evaluated since run-1 began" in caplog.text
    assert server.connections == 0


def test_a_fault_of_this_program_fails_one_host_simulated(
    scene: Scene, server: PythonServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = HostScan.ask

    def broken(self: HostScan, session: Any) -> Any:
        if self.recorder.host_id == "id-1":
            raise KeyError("a fault")
        return real(self, session)

    monkeypatch.setattr(HostScan, "ask", broken)
    scene.sweep([at(server.port, number) for number in range(3)])
    assert {host_id: one.error_class for host_id, one in scene.stored().items()} == {
        "id-0": None, "id-1": "internal", "id-2": None,
    }  # fmt: skip
    assert "a fault of this program" in caplog.text


@pytest.mark.slow
def test_a_look_that_does_not_come_back_is_a_time_out_of_its_host(
    scene: Scene, server: PythonServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, over = HostScan.ask, threading.Event()

    def hanging(self: HostScan, session: Any) -> Any:
        if self.recorder.host_id in ("id-1", "id-2"):
            over.wait(60)
        return real(self, session)

    monkeypatch.setattr(HostScan, "ask", hanging)
    # Enough for a login here, however busy this machine.
    monkeypatch.setattr(
        "portmon.airflow.operators.sweep.timeouts", SimpleNamespace(SWEEP=timeouts.SWEEP, LOOK=timedelta(seconds=8))
    )
    scene.config["ssh"]["max_logins"] = 2
    listed = [at(server.port, number) for number in range(8)]
    with scene.database.begin() as conn:
        hosts.sync(conn, listed)
        conn.exec_driver_sql("UPDATE hosts SET failures = 1, error_class = 'timeout' WHERE host_id = 'id-2'")
    assert scene.sweep(listed) == {"hosts": 8, "ok": 6, "failed": 2, "untried": 0}
    stored = scene.stored()
    assert {host_id: (one.outcome.value, one.provisional) for host_id, one in stored.items() if one.error} == {
        "id-1": ("unreachable", True),
        "id-2": ("unreachable", False),
    }
    for host_id in ("id-1", "id-2"):
        assert stored[host_id].error_class == "timeout"
        assert re.search(r"the look did not come back in time.* given up after \d+ s", stored[host_id].error or "")
    assert scene.own_tasks() == ["id-1"]
    assert "a fault of this program" not in caplog.text
    # What it comes to in the end is not stored.
    before = stored
    over.set()
    assert scene.stored() == before


def test_a_host_that_sends_a_bomb_is_the_only_one_that_fails(
    scene: Scene, server: PythonServer, host_key: paramiko.PKey, user_key: Path
) -> None:
    def explode(channel: paramiko.Channel, command: str) -> None:
        ignored = paramiko.Message()
        ignored.add_byte(b"\2")
        channel.get_transport()._send_message(ignored)  # type: ignore[attr-defined]

    scene.connection["extra"] = {**scene.connection["extra"], "compress": True}  # type: ignore[dict-item]
    transport = bombing(paramiko.Transport, "zlib@openssh.com", 200)
    with python_server(host_key=host_key, authorized=user_key, transport_class=transport, run=explode) as hostile:
        listed = [at(hostile.port, 0), *(at(server.port, number) for number in range(1, 9))]
        tracemalloc.start()
        try:
            assert scene.sweep(listed) == {"hosts": 9, "ok": 8, "failed": 1, "untried": 0}
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 64 * 1024**2
    failed = scene.stored()["id-0"]
    assert (failed.outcome, failed.error_class, failed.provisional) == (Outcome.INVALID, "probe", True)
    assert "since the server sent a packet that inflates to more than 262,144 bytes" in (failed.error or "")


def test_the_worker_is_not_looked_up_for_each_host(
    scene: Scene, server: PythonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pwd

    asked: list[int] = []
    given = pwd.getpwuid
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: (asked.append(uid), given(uid))[1])
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    listed = [at(server.port, number) for number in range(10)]
    assert scene.sweep(listed)["ok"] == 10
    assert not asked
    # A connection without a login means the worker's user, which Airflow asks for once.
    del scene.connection["login"]
    assert scene.sweep(listed, run=dataclasses.replace(RUN, run_id="run-2"))["ok"] == 10
    assert len(asked) <= 1


def test_logins_through_one_bastion_are_few(
    scene: Scene, server: PythonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "proxy"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, select, socket, sys\n"
        "sock = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "ways = {0: sock.fileno(), sock.fileno(): 1}\n"
        "while True:\n"
        "    for end in select.select(list(ways), [], [])[0]:\n"
        "        data = os.read(end, 65536)\n"
        "        if not data: sys.exit()\n"
        "        os.write(ways[end], data)\n"
    )
    script.chmod(0o755)
    command = f"{script} %p"
    scene.connection["extra"] = {**scene.connection["extra"], "host_proxy_cmd": command}  # type: ignore[dict-item]
    scene.config["ssh"] |= {"max_logins": 16, "per_proxy": 2, "connect_timeout": "10s"}
    lock, now, most = threading.Lock(), [0], [0]
    real = HostVisit.ask

    def counted(self: HostVisit) -> float | None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            return real(self)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(HostVisit, "ask", counted)
    scene.operator([at(server.port, number) for number in range(8)])
    # The plan knows the proxy as the task does.
    (item,) = plan_sweep(scene.database, scene.parsed(), RUN, scene.digest, proxy_of=lambda _: command)
    assert SweepOperator(task_id="sweep", batch=item).execute(scene.context(RUN))["ok"] == 8
    assert most[0] == 2


@pytest.mark.slow
@needs_sshd
@pytest.mark.parametrize(("per_proxy", "all_of_them"), [(2, True), (16, False)])
def test_a_bastion_is_not_stormed(
    scene: Scene, server: PythonServer, tmp_path: Path, per_proxy: int, all_of_them: bool
) -> None:
    with openssh(tmp_path / "sshd", config="MaxStartups 2:100:2") as bastion:
        extra = {"key_file": str(bastion.user_key)}
        connection = {
            "conn_type": "ssh",
            "host": "127.0.0.1",
            "port": bastion.port,
            "login": bastion.user,
            "extra": extra,
        }
        scene.monkeypatch.setenv("AIRFLOW_CONN_SSH_BASTION", json.dumps(connection))
        scene.config["ssh"] |= {
            "jump": "ssh_bastion",
            "max_logins": 16,
            "per_proxy": per_proxy,
            "connect_timeout": "10s",
        }
        found = scene.sweep([at(server.port, number) for number in range(24)])
        assert (found["ok"] == 24) == all_of_them, bastion.said()
        assert ("drop connection" not in bastion.said()) == all_of_them
        errors = {(one.error_class, one.error) for one in scene.stored().values() if one.outcome is not Outcome.OK}
        assert {name for name, _ in errors} == (set() if all_of_them else {"jump_host"})
        assert all("jump host 1 of 1, ssh_bastion (127.0.0.1)" in (error or "") for _, error in errors)
        # What was trusted on first use is kept, of the bastion too.
        with scene.database.begin() as conn:
            assert {key.endpoint for key in host_keys.list_all(conn)} == {
                f"[127.0.0.1]:{bastion.port}",
                f"[127.0.0.1]:{server.port}",
            }


# ── answers that are known ──────────────────────────────────────────────────────────────────────


def rounds(scene: Scene, listed: Sequence[Host], count: int) -> None:
    """Runs that end with their evaluation."""
    for number in range(count):
        run = Run(f"round-{number}", "scheduled", NOW)
        scene.sweep(listed, run=run)
        scene.evaluate(run)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch, netstat: FakeNetstat) -> list[str]:
    """Hosts whose answers were read, one after the other."""
    read: list[str] = []
    given = HostScan._read

    def counted(self: HostScan, *args: Any) -> Any:
        answer = given(self, *args)
        if answer is not None:
            read.append(self.shown.split()[0])
        return answer

    monkeypatch.setattr(HostScan, "_read", counted)
    return read


LATER = Run("later", "scheduled", NOW)


def test_what_a_host_may_add_in_a_day_is_bounded(scene: Scene, server: PythonServer, netstat: FakeNetstat) -> None:
    scene.config["retention"] = {"per_host": "1KiB"}
    netstat.prints(listing(*range(1, 2000, 7)))
    assert scene.sweep([at(server.port, number) for number in range(2)])["ok"] == 2
    assert {observation.error_class for observation in scene.stored().values()} <= {
        archive.RAW_LEFT_OUT,
        archive.TOO_MUCH,
    }
    assert {observation.frames for observation in scene.stored().values()} == {()}


def test_an_answer_that_says_nothing_new_of_a_settled_host_is_not_read(
    scene: Scene, server: PythonServer, netstat: FakeNetstat, parsed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    listed = [at(server.port, number) for number in range(3)]
    rounds(scene, listed, 2)
    parsed.clear()
    caplog.set_level(logging.DEBUG, "portmon.airflow.operators.sweep")
    scene.sweep(listed, run=LATER)
    assert parsed == []
    assert "the same sockets as last time, nothing missing" in caplog.text
    with scene.database.begin() as conn:
        looks = seen(conn, archive.observations_of(conn, "later"))
        raw = [archive.latest_frames(conn, host.id) for host in listed]
    assert [ports_of(look) for look in looks] == [[22, 80]] * 3
    assert all(len(frames) == 1 and b"LISTEN" in frames[0] for frames in raw)
    # It is evidence as any other.
    summary = scene.evaluate(LATER)
    assert (summary["evaluated"], summary["scanned"]) == (3, 3)
    # As soon as something is missing it is read, and asked for once more.
    netstat.prints(listing(22))
    scene.sweep(listed, run=Run("missing", "scheduled", NOW))
    assert Counter(parsed) == {"web0": 2, "web1": 2, "web2": 2}
    netstat.prints(listing(22, 80, 443))
    parsed.clear()
    scene.sweep(listed, run=Run("more", "scheduled", NOW))
    assert Counter(parsed) == {"web0": 1, "web1": 1, "web2": 1}


@pytest.mark.parametrize("change", ["rules", "declared", "dry run", "decision", "another version"])
def test_it_is_read_if_anything_else_is_new(
    scene: Scene, server: PythonServer, parsed: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    listed = [at(server.port)]
    rounds(scene, listed, 2)
    parsed.clear()
    if change == "rules":
        scene.config["rules"] = [{"action": "deny", "port": 80}]
    elif change == "declared":
        scene.config["declared"] = [{"port": 443}]
    elif change == "decision":
        with scene.database.begin() as conn:
            decisions.decide(conn, decisions.DecisionKind.PROMOTED, "id-0", 80, at=NOW, author="ann")
    elif change == "another version":
        monkeypatch.setattr("portmon.engine.fingerprint.VERSION", "another one")
    scene.sweep(listed, run=LATER, dry_run=change == "dry run")
    # What is declared and does not listen is asked for once more.
    assert parsed == ["web0"] * (2 if change == "declared" else 1)


def test_a_port_that_is_still_missing_is_confirmed_although_the_answer_is_the_same(
    scene: Scene, server: PythonServer, netstat: FakeNetstat, parsed: list[str]
) -> None:
    scene.config["states"] = {"down_after": 2}
    listed = [at(server.port)]
    rounds(scene, listed, 2)
    netstat.prints(listing(22))
    rounds(scene, listed, 1)
    parsed.clear()
    scene.sweep(listed, run=LATER)
    assert parsed == ["web0", "web0"]


def test_what_is_known_and_gone_from_the_archive_fails_the_task_instead_of_being_believed(
    scene: Scene, server: PythonServer, netstat: FakeNetstat, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [at(server.port)]
    rounds(scene, listed, 2)
    operator = scene.operator(listed, run=LATER)
    given = operator._prepare

    def then_gone(*args: Any) -> Any:
        prepared = given(*args)
        with scene.database.begin() as conn:
            conn.exec_driver_sql("DELETE FROM contents WHERE digest IN (SELECT facts FROM observations)")
        return prepared

    monkeypatch.setattr(operator, "_prepare", then_gone)
    with pytest.raises(StorageError, match="not in the archive"):
        operator.execute(scene.context(LATER))
    with scene.database.begin() as conn:
        assert archive.observations_of(conn, "later") == []
