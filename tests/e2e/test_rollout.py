"""The account on a real host, made by the Ansible role and by the shell script: they make the same, and the key lists ports and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from portmon.api.server_setup import Account, removal_script, setup_script
from portmon.errors import AuthenticationError
from portmon.model.observation import Observation, Outcome
from portmon.scan.answer import Recorder
from portmon.scan.host import Expected, HostScan
from portmon.ssh.config import HostSettings
from portmon.ssh.connect import connect
from portmon.ssh.trust import Trust
from tests.worlds import lab
from tests.worlds.authority import Authority
from tests.worlds.sshd import Keys, make_key
from tests.worlds.target import RollOutTarget, client_options

pytestmark = pytest.mark.slow

if (why := lab.missing()) is not None:
    pytest.skip(why, allow_module_level=True)
for tool in ("sudo", "visudo", "ss"):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "contrib" / "ansible" / "roles"
MADE = {
    "/usr/local/bin/portmon-probe",
    "/etc/sudoers.d/portmon",
    "/home/portmon",
    "/home/portmon/.ssh",
    "/home/portmon/.ssh/authorized_keys",
}
ACCOUNTS = {f"/etc/{name}{old}" for name in ("passwd", "group", "shadow", "gshadow") for old in ("", "-")}
LOCKS = {"/etc/.pwd.lock"}


@contextmanager
def targets(*names: str) -> Iterator[list[RollOutTarget]]:
    made = lab.Lab(list(names), RollOutTarget)
    try:
        for host in made.hosts.values():
            host.start_service(8080, "nginx: master")
        yield [host for host in made.hosts.values() if isinstance(host, RollOutTarget)]
    finally:
        made.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[list[RollOutTarget]]:
    with targets("role", "shell") as made:
        yield made


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("key") / "portmon_key")


def public(key: Path) -> str:
    return key.with_name(f"{key.name}.pub").read_text()


class Ansible:
    """ansible-playbook with the role, on one host.

    :param folder: for its files
    """

    def __init__(self, host: RollOutTarget, folder: Path) -> None:
        self.folder = folder
        options = " ".join(client_options(host.folder.parent / "id"))
        about = {
            "ansible_host": host.address,
            "ansible_user": "root",
            "ansible_ssh_common_args": options,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        inventory = {"all": {"hosts": {host.name: about}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))

    def __call__(self, *arguments: str, code: int = 0, **values: object) -> dict[str, int]:
        """Run the role; how many tasks had which end."""
        play = [{"hosts": "all", "gather_facts": False, "roles": [{"role": "portmon_target", "vars": values}]}]
        (self.folder / "site.yml").write_text(yaml.safe_dump(play))
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "site.yml", *arguments]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_ROLES_PATH": str(ROLES),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
        }
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        self.said = done.stdout + done.stderr
        assert done.returncode == code, self.said
        assert "WARNING" not in self.said, self.said
        counts = dict(part.split("=") for part in self.said.rpartition(" : ")[2].split())
        return {name: int(count) for name, count in counts.items()}


def look(host: RollOutTarget, key: Path, *, user: str = "portmon", udp: bool = False) -> Observation:
    """One as a task makes it."""
    target, credentials, options = host.login(user, key)
    settings = HostSettings(sudo=True, protocols=("tcp", "udp") if udp else ("tcp",))
    scan = HostScan(Recorder(host.name, "run", 1), host.name, Expected(ports=[8080]), settings)
    session = connect(target, credentials, Trust(strict=False, store=Keys()), options)
    try:
        scan.ask(session)
    finally:
        session.close()
    return scan.success(duration=0.0)


def assert_complete(found: Observation, *, programs: bool) -> None:
    assert found.outcome is Outcome.OK
    assert found.listing is not None
    ports = {one.port: one.program for one in found.listing.listeners}
    assert ports.keys() == {22, 8080}
    assert ports[8080] == ("nginx: master" if programs else None)
    assert (found.listing.via, found.listing.uid == 0) == ("sudo" if programs else None, False)


def accounts(host: RollOutTarget) -> list[str]:
    """The lines that are about the account, without the day on which its password was set."""
    lines = []
    for name in ("passwd", "group", "shadow", "gshadow"):
        found = [line for line in host.text(f"/etc/{name}").splitlines() if line.startswith("portmon")]
        lines += [
            line.replace(f":{(datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days}:", ":D:") for line in found
        ]
    return lines


def changed(before: dict[str, object], after: dict[str, object]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def test_role_and_script_make_the_same_and_take_it_away_again(
    pair: list[RollOutTarget], key: Path, tmp_path: Path
) -> None:
    by_role, by_shell = pair
    ansible = Ansible(by_role, tmp_path)
    given = {"portmon_target_keys": [public(key)], "portmon_target_sudo": True, "portmon_target_from": ["10.0.0.0/8"]}
    account = Account(keys=(public(key),), sudo=True, only_from="10.0.0.0/8")
    fresh = {host.name: host.state() for host in pair}

    # Check mode changes nothing, and a second run neither.
    assert ansible("--check", **given)["changed"] > 0
    assert by_role.state() == fresh["role"]
    assert ansible(**given)["changed"] > 0
    made = by_role.state()
    assert ansible(**given)["changed"] == 0
    assert ansible("--check", **given)["changed"] == 0
    assert by_role.state() == made

    script = setup_script(account)
    said = by_shell.as_root("sh", given=script)
    assert [line.split()[0] for line in said.splitlines()] == ["made", "wrote", "made", "made", "wrote", "wrote"], said
    first = by_shell.state()
    assert by_shell.as_root("sh", given=script) == ""
    assert by_shell.state() == first

    # Both made the same files, and changed nothing else.
    for host in pair:
        assert changed(fresh[host.name], host.state()) - LOCKS - ACCOUNTS == MADE
    assert {path: by_role.state()[path] for path in MADE} == {path: first[path] for path in MADE}
    assert by_role.text("/home/portmon/.ssh/authorized_keys") == account.authorized_keys()
    assert accounts(by_role) == accounts(by_shell)
    assert len(accounts(by_role)) == 4
    for host in pair:
        assert_complete(look(host, key), programs=True)
        found = look(host, key, udp=True).listing
        assert found is not None
        assert (found.via, found.udp) == ("sudo", ())

    assert ansible("--check", portmon_target_state="absent")["changed"] > 0
    assert by_role.state() == made
    ansible(portmon_target_state="absent")
    assert ansible(portmon_target_state="absent")["changed"] == 0
    assert by_shell.as_root("sh", given=removal_script(Account())).endswith("removed the account portmon\n")
    assert by_shell.as_root("sh", given=removal_script(Account())) == ""
    for host in pair:
        assert changed(fresh[host.name], host.state()) - LOCKS <= {path for path in ACCOUNTS if path.endswith("-")}


def test_the_key_lists_ports_and_does_nothing_else(pair: list[RollOutTarget], key: Path, tmp_path: Path) -> None:
    host = pair[1]
    host.as_root("sh", given=setup_script(Account(keys=(public(key),))))
    try:
        # Without sudo: all ports, and no program of another user.
        assert_complete(look(host, key), programs=False)
        for command in ("id", "sh -c id", "l=ss; id > /tmp/portmon-was-here", "$(id)", "scp -t /tmp", "x=`id`"):
            done = host.ssh("portmon", key, command)
            assert done.stdout.startswith("\n@@"), command
            assert "uid=" not in done.stdout, command
        assert not Path("/tmp/portmon-was-here").exists()
        # A shell at a terminal.
        done = host.ssh("portmon", key, given="id\n", options=("-tt",))
        assert "PTY allocation request failed" in done.stderr
        assert "uid=" not in done.stdout
        # Files.
        (tmp_path / "batch").write_text("ls /\n")
        sftp = ["sftp", *client_options(key), "-b", str(tmp_path / "batch"), f"portmon@{host.address}"]
        done = subprocess.run(sftp, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode != 0
        assert "etc" not in done.stdout
        # Forwarding: out of the host, into it, a tunnel.
        done = host.ssh("portmon", key, options=("-W", "127.0.0.1:8080"))
        assert "stdio forwarding failed" in done.stderr
        strict = ("-N", "-o", "ExitOnForwardFailure=yes")
        done = host.ssh("portmon", key, options=(*strict, "-R", "0:127.0.0.1:1"))
        assert "remote port forwarding failed" in done.stderr
        done = host.ssh("portmon", key, options=(*strict, "-w", "any:any"))
        assert done.returncode != 0
        # What it would need to get more: nothing there is its own.
        owned = host.as_root("find / -xdev -user portmon -not -path '/proc/*' 2>/dev/null", code=None)
        assert owned == ""
    finally:
        host.as_root("sh", given=removal_script(Account()))


@pytest.mark.parametrize("shell", ["dash", "busybox sh", pytest.param("bash --posix", marks=pytest.mark.full)])
def test_shells(pair: list[RollOutTarget], key: Path, shell: str) -> None:
    program = shell.split()[0]
    if not shutil.which(program):
        pytest.skip(f"no {program} here")
    host = pair[1]
    before = host.state()
    call = shell
    if program == "busybox":
        # With busybox's own tools, where it has them.
        call = "d=$(mktemp -d) && for i in $(busybox --list); do ln -s $(command -v busybox) $d/$i; done; rm -f $d/busybox; PATH=$d:$PATH busybox sh"
    try:
        account = Account(keys=(public(key),), sudo=True)
        host.as_root(call, given=setup_script(account))
        assert host.as_root(call, given=setup_script(account)) == ""
        assert_complete(look(host, key), programs=True)
        # Without sudo the rule goes.
        assert "removed /etc/sudoers.d/portmon" in host.as_root(call, given=setup_script(Account(keys=(public(key),))))
        assert_complete(look(host, key), programs=False)
    finally:
        host.as_root(call, given=removal_script(Account()))
    assert changed(before, host.state()) - LOCKS <= ACCOUNTS


def test_a_key_is_replaced_and_addresses_are_obeyed(pair: list[RollOutTarget], key: Path, tmp_path: Path) -> None:
    host = pair[1]
    other = make_key(tmp_path / "other")
    try:
        host.as_root("sh", given=setup_script(Account(keys=(public(key), public(other)))))
        for one in (key, other):
            assert host.ssh("portmon", one).stdout.startswith("\n@@")
        assert host.as_root("sh", given=setup_script(Account(keys=(public(other),)))) == (
            "wrote /home/portmon/.ssh/authorized_keys\n"
        )
        assert "Permission denied" in host.ssh("portmon", key).stderr
        assert host.ssh("portmon", other).stdout.startswith("\n@@")
        host.as_root("sh", given=setup_script(Account(keys=(public(other),), only_from="192.0.2.0/24,!10.0.0.0/8")))
        assert "Permission denied" in host.ssh("portmon", other).stderr
    finally:
        host.as_root("sh", given=removal_script(Account()))


def test_an_account_of_another_is_left_alone(pair: list[RollOutTarget], key: Path, tmp_path: Path) -> None:
    by_role, by_shell = pair
    for host in pair:
        host.as_root("useradd -m -c 'a person' portmon")
    before = {host.name: host.state() for host in pair}
    try:
        for script in (setup_script(Account(keys=(public(key),))), removal_script(Account())):
            assert "a person" in by_shell.as_root("sh", given=script, code=1)
        ansible = Ansible(by_role, tmp_path)
        for state in ("present", "absent"):
            ansible(code=2, portmon_target_keys=[public(key)], portmon_target_state=state)
            assert "which this role did not make" in ansible.said
        assert {host.name: host.state() for host in pair} == before
    finally:
        for host in pair:
            host.as_root("userdel -r portmon")


@pytest.mark.parametrize(
    "wrong",
    [
        {"portmon_target_keys": []},
        {"portmon_target_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]},
        {"portmon_target_keys": ["ssh-ed25519 AAAA\nssh-ed25519 BBBB"]},
        {"portmon_target_user": "root"},
        {"portmon_target_user": "a b"},
        {"portmon_target_home": "relative"},
        {"portmon_target_from": ['10.0.0.1" ']},
        {"portmon_target_state": "gone"},
    ],
    ids=str,
)
@pytest.mark.full
def test_wrong_values_change_nothing(
    pair: list[RollOutTarget], key: Path, tmp_path: Path, wrong: dict[str, object]
) -> None:
    before = pair[0].state()
    Ansible(pair[0], tmp_path)(code=2, **{"portmon_target_keys": [public(key)], **wrong})
    assert pair[0].state() == before


def test_who_has_a_certificate_of_the_authority_logs_in(pair: list[RollOutTarget], tmp_path: Path) -> None:
    host, authority, key = pair[1], Authority(tmp_path / "authority"), make_key(tmp_path / "key")
    account = Account(keys=(authority.public.read_text(),), authority=True)
    try:
        host.as_root("sh", given=setup_script(account))
        assert "Permission denied" in host.ssh("portmon", key).stderr
        authority.sign(key, "another")
        with pytest.raises(AuthenticationError, match="is for another"):
            look(host, key)
        authority.sign(key, "portmon")
        assert_complete(look(host, key), programs=False)
        assert host.ssh("portmon", key, "id").stdout.startswith("\n@@")
    finally:
        host.as_root("sh", given=removal_script(Account()))


def test_a_host_without_sudo(pair: list[RollOutTarget], key: Path, tmp_path: Path) -> None:
    by_role, by_shell = pair
    ansible = Ansible(by_role, tmp_path)
    for host in pair:
        host.as_root("mv /etc/sudoers.d /etc/elsewhere")
    try:
        said = by_shell.as_root("sh", given=setup_script(Account(keys=(public(key),), sudo=True)))
        assert "There is no sudo here" in said
        ansible(portmon_target_keys=[public(key)], portmon_target_sudo=True)
        assert "There is no sudo here" in ansible.said
        for host in pair:
            assert_complete(look(host, key), programs=False)
        ansible(portmon_target_state="absent")
        by_shell.as_root("sh", given=removal_script(Account()))
    finally:
        for host in pair:
            host.as_root("mv /etc/elsewhere /etc/sudoers.d")


def test_a_rule_that_sudo_would_not_read_is_not_written(pair: list[RollOutTarget], key: Path) -> None:
    host = pair[1]
    script = setup_script(Account(keys=(public(key),), sudo=True))
    broken = script.replace("NOPASSWD: /usr/bin/netstat -nltpW", "NOPASSWD /usr/bin/netstat -nltpW")
    try:
        said = host.as_root("sh", given=broken, code=1)
        assert "/etc/sudoers.d/portmon would not be right, and stays as it is" in said
        assert not [path for path in host.state() if path.startswith("/etc/sudoers.d/portmon")]
    finally:
        host.as_root("sh", given=removal_script(Account()))


def test_a_host_whose_sshd_does_without_pam(key: Path) -> None:
    with targets("plain") as (host,):
        host.config = "UsePAM no"
        host.restart_sshd()
        host.as_root("sh", given=setup_script(Account(keys=(public(key),))))
        assert_complete(look(host, key), programs=False)
