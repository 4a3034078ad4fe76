"""The crowd of SSH hosts on this machine: those that answer do, and the others fail as hosts do that are off or hang."""

from __future__ import annotations

import contextlib
import pwd
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from bench.crowd import Crowd, CrowdError, missing
from portmon import probe
from portmon.errors import ContradictionError, RefusedError, ScanTimeoutError
from portmon.ssh.connect import connect
from portmon.ssh.target import Credentials, Options, Target
from portmon.ssh.trust import HostKey, Trust
from tests.worlds.waiting import skip_without

pytestmark = pytest.mark.slow

TIMEOUT = 1.5


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    skip_without(missing())
    with Crowd(tmp_path_factory.mktemp("crowd"), 6, dead=2, hanging=2, services=5, switchable=1) as made:
        yield made


def ask(crowd: Crowd, name: str) -> set[int]:
    """The ports that portmon would see on a host."""
    host = crowd.host(name)
    nonce = probe.new_nonce()
    public = paramiko.PKey.from_path(crowd.folder / "host_key")
    session = connect(
        Target(host.name, host.address, host.port),
        Credentials(user=crowd.user, key_file=str(crowd.key)),
        Trust(pinned=HostKey(public.get_name(), public.get_base64())),
        Options(timeout=TIMEOUT),
    )
    try:
        for _ in range(5):
            answer = session.run(probe.command(nonce), deadline=20, max_output=1 << 22)
            # Other tests open and close sockets of this machine while it is looked at.
            with contextlib.suppress(ContradictionError):
                return {listener.port for listener in probe.read_frame(answer.stdout, nonce).listeners}
    finally:
        session.close()
    raise AssertionError("its listings contradict each other again and again")


def test_every_host_has_an_address_of_its_own_and_shows_the_services(crowd: Crowd) -> None:
    assert len({host.address for host in crowd.hosts}) == len(crowd.hosts) == 10
    assert len(crowd.services) == 5
    before = crowd.logins()
    answering = crowd.named("alive", "switchable")
    for name in answering:
        assert ask(crowd, name) >= set(crowd.services)
    assert crowd.logins() - before == len(answering) == 6


def test_a_dead_host_takes_the_whole_time_out_of_a_connect(crowd: Crowd) -> None:
    for name in crowd.named("dead"):
        started = time.monotonic()
        with pytest.raises(ScanTimeoutError, match="no TCP connection"):
            ask(crowd, name)
        assert time.monotonic() - started >= TIMEOUT


def test_a_hanging_host_accepts_and_says_nothing(crowd: Crowd) -> None:
    for name in crowd.named("hanging"):
        with pytest.raises(ScanTimeoutError, match="no SSH banner"):
            ask(crowd, name)


def test_a_switchable_host_dies_and_comes_back(crowd: Crowd) -> None:
    (name,) = crowd.named("switchable")
    crowd.make_dead(name)
    with pytest.raises(ScanTimeoutError, match="no TCP connection"):
        ask(crowd, name)
    crowd.hang(name)
    with pytest.raises(ScanTimeoutError, match="no SSH banner"):
        ask(crowd, name)
    crowd.refuse(name)
    with pytest.raises(RefusedError):
        ask(crowd, name)
    crowd.revive(name)
    assert ask(crowd, name) >= set(crowd.services)
    with pytest.raises(CrowdError, match="no sshd of its own"):
        crowd.make_dead(crowd.named("alive")[0])


def test_a_service_dies_on_every_host_and_comes_back(crowd: Crowd) -> None:
    port = crowd.services[0]
    crowd.kill_service(port)
    assert all(port not in ask(crowd, name) for name in crowd.named("alive"))
    crowd.start_service(port)
    assert all(port in ask(crowd, name) for name in crowd.named("alive"))


def test_a_host_list_for_the_file_source(crowd: Crowd, tmp_path: Path) -> None:
    chosen = crowd.some(3, dead=1)
    assert sorted(host.kind for host in chosen) == ["alive", "alive", "alive", "dead"]
    crowd.write_csv(tmp_path / "hosts.csv", chosen)
    lines = (tmp_path / "hosts.csv").read_text().splitlines()
    assert lines[0] == "id,name,address,port"
    assert [line.split(",")[1] for line in lines[1:]] == [host.name for host in chosen]
    with pytest.raises(CrowdError, match="no 3 hosts that answer and 3 dead"):
        crowd.some(3, dead=3)
    assert [set(entry) for entry in crowd.entries()[:1]] == [{"id", "name", "address", "port"}]


def test_nothing_is_left(tmp_path: Path) -> None:
    skip_without(missing())
    with Crowd(tmp_path, 1, dead=1, hanging=1, services=1) as made:
        ask(made, made.named("alive")[0])
        pids = made.pids()
    with pytest.raises(KeyError):
        pwd.getpwnam(made.user)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
