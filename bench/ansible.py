"""Ansible over the same hosts: ``raw`` with netstat, and ``community.general.listen_ports_facts``.

Its best fair case: pipelining, no facts besides, as many forks as portmon has logins, an interpreter that need not
be looked for, no look at host keys. No connection outlives a run (ControlPersist): each must log in, as portmon
does. The strategy is the default one, linear; with a single task per host that costs nothing.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.errors import BenchError
from bench.figures import Section
from bench.processes import paused
from bench.sizes import Sizes
from bench.stage import MAX_LOGINS, Stage

VENV = Path(__file__).resolve().parent.parent / ".venv-bench"
TASKS = {
    "ansible_raw": {"ansible.builtin.raw": "netstat -nltp"},
    "ansible_facts": {"community.general.listen_ports_facts": {"command": "netstat"}},
}


def lacking() -> str | None:
    """What is missing for Ansible; None if nothing."""
    if not (VENV / "bin" / "ansible-playbook").exists():
        return "Ansible is not installed: `make .venv-bench/.installed` puts it into .venv-bench"
    if _interpreter() is None:
        return "Ansible needs a python3 that every user may run, in /usr/bin or /usr/local/bin"
    return None


def version() -> str:
    """Of ansible-core."""
    done = subprocess.run(
        [VENV / "bin" / "ansible-playbook", "--version"], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.partition("[core ")[2].partition("]")[0]


def measure(stage: Stage, sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """Each round: ``raw``, a run of portmon in sweep mode, ``listen_ports_facts``, a run over many more hosts."""
    hosts, many = sizes.ansible_hosts, sizes.sweep_hosts
    section.sizes |= {"hosts": hosts, "forks": MAX_LOGINS, "many_hosts": many}
    section.facts["ansible"] = version()
    site = stage.site("ansible", hosts, sweep_above=1, batch_hosts=sizes.batch_hosts)
    large = stage.site("many", many, sweep_above=1, batch_hosts=sizes.batch_hosts)
    folder = _prepare(stage, hosts)
    tell("first runs, which are not measured")
    for one in (site, large):
        stage.run_portmon(one)
    for name in TASKS:
        _play(stage, folder, name, hosts)
    for number in range(sizes.repeat):
        tell(f"round {number + 1} of {sizes.repeat}")
        _note(section, "ansible_raw", _play(stage, folder, "ansible_raw", hosts), hosts)
        run = stage.run_portmon(site)
        section.add("run_seconds", "s", run.seconds)
        section.add("run_cpu_ms_per_host", "ms", (run.cpu_seconds + run.database_cpu_seconds) / hosts * 1000)
        _note(section, "ansible_facts", _play(stage, folder, "ansible_facts", hosts), hosts)
        section.add("many_ms_per_host", "ms", stage.run_portmon(large).seconds / many * 1000)


@dataclass(frozen=True, slots=True)
class _Play:
    """What a playbook came to: the process from start to end."""

    seconds: float
    cpu_seconds: float


def _note(section: Section, name: str, play: _Play, hosts: int) -> None:
    section.add(f"{name}_seconds", "s", play.seconds)
    section.add(f"{name}_ms_per_host", "ms", play.seconds / hosts * 1000)
    section.add(f"{name}_cpu_ms_per_host", "ms", play.cpu_seconds / hosts * 1000)


def _prepare(stage: Stage, hosts: int) -> Path:
    """A folder with inventory, settings and a playbook for each task."""
    folder = stage.folder / "ansible"
    folder.mkdir()
    crowd = stage.crowd
    listed = {host.name: {"ansible_host": host.address, "ansible_port": host.port} for host in crowd.some(hosts)}
    common = {
        "ansible_user": crowd.user,
        "ansible_ssh_private_key_file": str(crowd.key),
        "ansible_python_interpreter": _interpreter(),
    }
    (folder / "hosts.yaml").write_text(yaml.safe_dump({"all": {"hosts": listed, "vars": common}}))
    (folder / "ansible.cfg").write_text(
        f"[defaults]\ninventory = {folder}/hosts.yaml\nforks = {MAX_LOGINS}\nstrategy = linear\ngathering = explicit\n"
        f"host_key_checking = False\nhome = {folder}/home\nnocolor = True\n"
        "[ssh_connection]\npipelining = True\n"
        "ssh_args = -o ControlMaster=no -o ControlPath=none -o IdentitiesOnly=yes -o UserKnownHostsFile=/dev/null\n"
    )
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    return folder


def _play(stage: Stage, folder: Path, name: str, hosts: int) -> _Play:
    """Run a playbook while Airflow rests.

    :raises BenchError: if a host failed, or there was another number of logins than one per host
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHON"))}
    env |= {"ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    env.pop("SSH_AUTH_SOCK", None)
    with paused(stage.airflow_pids()), (folder / f"{name}.out").open("wb") as out:
        logins = stage.crowd.logins()
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            [VENV / "bin" / "ansible-playbook", folder / f"{name}.yaml"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=folder,
        )
        seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        made = stage.crowd.logins() - logins
    if done.returncode:
        raise BenchError(f"{name} failed, see {out.name}")
    if made != hosts:
        raise BenchError(f"{name} made {made} logins to {hosts} hosts")
    return _Play(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _interpreter() -> str | None:
    return shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
