"""Ansible inventories, read by ``ansible-inventory --list``: only Ansible knows what one means.

The command sees nothing of this process and of its user: it has a configuration, a home and an environment of its
own. What it prints is as hostile as the inventory, and is bounded and read like an answer from outside.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, TypeAdapter, model_validator

import portmon
from portmon import timeouts
from portmon.errors import CmdbError
from portmon.fields import PositiveDuration, Section, Text, one_or_many
from portmon.inventory.entries import UnusableValue, cut, kind_of, read_hosts
from portmon.inventory.entry_fields import PresetFields
from portmon.inventory.sources.base import reading_files, text_of, usable
from portmon.inventory.sources.http import HttpSource, OverHttp
from portmon.model.host import Inventory
from portmon.text import plain
from portmon.untrusted.documents import MAX_SIZE, DocumentError, parse_json

log = logging.getLogger(__name__)

COMMAND = "ansible-inventory"
EXPORT = f"name a file that `{COMMAND} -i … --list --output hosts.json` wrote"
NOT_INSTALLED = f"{COMMAND} is not installed here: install ansible-core beside Airflow, or {EXPORT}"
PLUGINS = ("ansible.builtin.yaml", "ansible.builtin.ini", "ansible.builtin.toml")
"""They read files and run nothing. By their whole names, so that no other plugin takes their place."""
MEMORY = 2 * 1024**3
"""Bytes that the command may take: a line with ranges can stand for billions of hosts. 100,000 hosts take 0.3 GB."""
MAX_FILES = 100_000
MAX_STEPS = 5_000_000
"""Steps from hosts to their groups and from these to the ones above: a short document can stand for billions."""
REUSED = timedelta(hours=1)
"""How long an answer is reused: then an upgrade of Ansible shows, too."""
ERRORS_READ = 64 * 1024
"""Bytes of what the command says went wrong."""

_PRESET = {"id": "name", "name": "name", "address": "address", "port": "port", "labels": {"group_*": "groups"}}
_SSH = {"ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh"}
_VARS_FOLDERS = {"group_vars", "host_vars"}
_OWN_NAME = re.compile(r"\{\{\s*inventory_hostname\s*\}\}")
_TOLD = re.compile(r"\s*(?:\[(?:ERROR|WARNING)\]:|ERROR!)\s*(.*)")
_FAILED_PLUGIN = re.compile(
    r"Failed to parse inventory with '(?:[\w.]+\.)?(\w+)' plugin: (?:Failed to parse inventory: )?"
)
_MAY_BE_SECRET = re.compile(r"(?<=got:).*|(?<=host definition ).*")
_LEFT_OUT = ("Skipping ", "Non UTF-8 ")
"""How warnings begin upon which the inventory lacks something."""

_TOO_LARGE = f"it may take more than {MEMORY >> 30} GiB of memory; is a range too long?"
_REMEDIES = {
    "MemoryError": _TOO_LARGE,
    # Without a reason.
    "ini: Failed to parse inventory.": _TOO_LARGE,
    "no vault secrets": f"{EXPORT} with the vault's password, or set cmdb.source.ignore_vars_folders",
    "Plugin configuration": f"{EXPORT}, or name the plugin in cmdb.source.plugins",
}

PluginName = Annotated[str, StringConstraints(pattern=r"^\w+(\.\w+)*$")]


class AnsibleSource(Section, OverHttp):
    """The host list is an Ansible inventory, read by `ansible-inventory`, or what that command printed."""

    type: Literal["ansible"]
    path: Text | None = Field(
        None, description="file or folder; relative to the folder of portmon.yaml. Either this or `conn_id` is given"
    )
    conn_id: Text | None = Field(
        None, description="Airflow HTTP connection: what `ansible-inventory --list` printed is asked for there"
    )
    endpoint: str = Field("", description="path below the connection's host")
    format: Literal["auto", "inventory", "json"] = Field(
        "auto",
        description="of `path`: `inventory` is what Ansible reads, `json` what `ansible-inventory --list` printed; "
        "`auto` is `json` for a name that ends in `.json`",
    )
    plugins: Annotated[tuple[PluginName, ...], BeforeValidator(one_or_many)] = Field(
        (),
        description="an inventory plugin or a list of these, which have their turn before yaml, ini and toml, for "
        "instance `script` or `amazon.aws.aws_ec2`. They run code in the worker, and the inventory says which: name "
        "one only if all who may change the inventory may also run commands as the worker's user. It is asked in each "
        "run",
    )
    ignore_vars_folders: bool = Field(
        False,
        description="leave out the variables in `group_vars` and `host_vars`, for instance because a file there is "
        "encrypted as a whole",
    )
    timeout: PositiveDuration = Field(
        timedelta(minutes=2), description="for the command or the request; at most 5 minutes"
    )
    fields: PresetFields = Field(default_factory=PresetFields, description="where fields are, if not where usual")

    @model_validator(mode="after")
    def _is_somewhere(self) -> AnsibleSource:
        if (self.path is None) == (self.conn_id is None):
            raise ValueError("give either path or conn_id: the inventory is in a file, or is asked for over HTTP")
        return self

    def lists(self) -> Iterator[HttpSource]:
        """See :meth:`OverHttp.lists`. The whole answer is the only entry of its list."""
        given = self.model_dump(include={"conn_id", "endpoint", "timeout"})
        yield HttpSource(**given, items="[@]", fields=self.fields.over(_PRESET))

    def unpack(self, listed: list[Any]) -> list[Any]:
        """See :meth:`OverHttp.unpack`."""
        return read_printed(listed[0])

    def described(self, base: Path) -> Iterator[tuple[str, str | None]]:
        """See :meth:`OverHttp.described`."""
        if self.path is not None:
            return iter([(f"{(base / self.path).resolve()} (Ansible inventory)", None)])
        return super().described(base)

    def problems(self, base: Path) -> Iterator[tuple[str, str]]:
        """See :meth:`OverHttp.problems`."""
        if self.path is None:
            return
        path = (base / self.path).resolve()
        if not path.exists():
            yield "path", f"{path} does not exist"
        elif not self._is_printed(path) and _command() is None:
            yield "path", f"{path}: {NOT_INSTALLED}"

    def read(self, base: Path, ask: Callable[[OverHttp], Inventory]) -> Inventory:
        """See :meth:`OverHttp.read`. The command's answer about the same files is kept for an hour."""
        if self.path is None:
            return ask(self)
        path = (base / self.path).absolute()
        shown = str(path)
        if self._is_printed(path):
            return reading_files(shown, lambda: self._hosts(text_of(path), shown))
        end = time.monotonic() + timeouts.HOST_LIST.total_seconds()

        def left() -> timedelta:
            return timedelta(seconds=max(0.0, end - time.monotonic()))

        def digest() -> str:
            return reading_files(shown, lambda: self._digest(path), left())

        before = digest()
        found = None if self.plugins else _load(shown, before)
        if found is None:
            with usable(shown):
                found = self._hosts(self._printed(path, min(self.timeout, left())), shown)
            # What plugins asked changes without the files, and files may have changed while the command read them.
            if not self.plugins and digest() == before:
                _save(shown, before, found)
        return found

    def _is_printed(self, path: Path) -> bool:
        return self.format == "json" or (self.format == "auto" and path.suffix.lower() == ".json")

    def _hosts(self, printed: str, shown: str) -> Inventory:
        try:
            return read_hosts((read_printed(parse_json(printed)), self.fields.over(_PRESET)), source=shown)
        except DocumentError as error:
            raise CmdbError(f"is no JSON: {error}", source=shown) from error
        except ValueError as error:
            raise CmdbError(str(error), source=shown) from error

    def _printed(self, path: Path, limit: timedelta) -> str:
        shown, command = str(path), _command()
        if command is None:
            raise CmdbError(NOT_INSTALLED, source=shown)
        with tempfile.TemporaryDirectory(prefix="portmon-ansible-", ignore_cleanup_errors=True) as folder:
            home = Path(folder)
            (home / "ansible.cfg").write_text(self._settings(home), encoding="utf-8")
            status = _run([command, "--list", "-i", shown], home, limit)
            if status is None:
                raise CmdbError(f"{COMMAND} took longer than {limit.total_seconds():.3g} s", source=shown)
            if (home / "out").stat().st_size > MAX_SIZE:
                raise CmdbError(f"{COMMAND} printed more than {MAX_SIZE >> 20} MiB", source=shown)
            with (home / "err").open("rb") as errors:
                told = _told(errors.read(ERRORS_READ))
            lacking = told if status else [line for line in told if line.startswith(_LEFT_OUT)]
            if status or lacking:
                said = "; ".join(lacking) or f"it ended with exit status {status}"
                remedy = "".join(f": {remedy}" for sign, remedy in _REMEDIES.items() if sign in said)
                raise CmdbError(f"{COMMAND} can't read it: {plain(said, 600)}{remedy}", source=shown)
            for line in told:
                log.warning("%s: %s", plain(shown), plain(line, 300))
            return text_of(home / "out")

    def _settings(self, home: Path) -> str:
        """The ansible.cfg of the command. What it does not say is Ansible's default: no other one is read."""
        return f"""\
[defaults]
vars_plugins_enabled = {"" if self.ignore_vars_folders else "ansible.builtin.host_group_vars"}
vars_plugins = {home}
duplicate_dict_key = error
force_valid_group_names = ignore
deprecation_warnings = False
[inventory]
enable_plugins = {", ".join((*self.plugins, *PLUGINS))}
any_unparsed_is_failed = True
"""

    def _digest(self, path: Path) -> str:
        """Hash of all that the answer follows from: names and contents of the inventory's files, and settings."""
        found = hashlib.sha256(f"{portmon.__version__}\n{self.model_dump_json()}".encode())
        size = 0
        try:
            if not path.is_dir() and not path.is_file():
                raise CmdbError("there is no such file or folder", source=str(path))
            for number, part in enumerate(_parts(path, variables=not self.ignore_vars_folders)):
                found.update(b"\n" + os.fsencode(part))
                size += part.stat().st_size if part.is_file() else 0
                if number > MAX_FILES or size > 4 * MAX_SIZE:
                    told = f"has more than {MAX_FILES} files or {4 * MAX_SIZE >> 20} MiB: is it another folder?"
                    raise CmdbError(told, source=str(path))
                if not part.is_file():
                    continue
                with part.open("rb") as file:
                    # Ansible would take its lines for hosts.
                    if not self.plugins and file.read(2) == b"#!" and not _VARS_FOLDERS & set(part.parts):
                        told = f"is a script, which is not run: {EXPORT}, or add `script` to cmdb.source.plugins"
                        raise CmdbError(told, source=str(part))
                    file.seek(0)
                    found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise CmdbError(f"can't be read: {error.strerror}", source=str(error.filename)) from error
        return found.hexdigest()


# ── the command ─────────────────────────────────────────────────────────────────────────────────


def _command() -> str | None:
    """Where ``ansible-inventory`` is: beside this Python, or where PATH says."""
    folders = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
    return shutil.which(COMMAND, path=os.pathsep.join(folders))


def _run(command: list[str], home: Path, limit: timedelta) -> int | None:
    """Exit status of a command whose output goes to ``out`` and ``err`` in its home; None if it is not over in time.

    Its whole process group ends with it.
    """
    path, config = os.environ.get("PATH", os.defpath), str(home / "ansible.cfg")
    environment = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "ANSIBLE_CONFIG": config}
    limits = {resource.RLIMIT_AS: MEMORY, resource.RLIMIT_FSIZE: MAX_SIZE + 1}
    limits[resource.RLIMIT_CPU] = math.ceil(limit.total_seconds())
    with (home / "out").open("wb") as out, (home / "err").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
    try:
        for kind, most in limits.items():
            hard = resource.prlimit(process.pid, kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(process.pid, kind, (most, most))
        return process.wait(limit.total_seconds())
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # One in uninterruptible sleep does not even end by that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)


def _told(printed: bytes) -> list[str]:
    """Errors and warnings of the command, without its excerpts of the inventory, which may hold secrets."""
    text = printed.decode("utf-8", "replace")
    if "MemoryError" in text:
        return ["MemoryError"]
    lines = [line for line in text.split("\n") if line.strip()]
    told = [found[1] for found in map(_TOLD.match, lines) if found] or lines[-1:]
    return list(dict.fromkeys(_MAY_BE_SECRET.sub("…", _FAILED_PLUGIN.sub(r"\1: ", line)) for line in told))


def _parts(path: Path, *, variables: bool) -> Iterator[Path]:
    """The files and folders that an inventory consists of, in order; hidden ones are none of them, as for Ansible."""
    yield path
    tops = [path] if path.is_dir() else [path.parent / name for name in sorted(_VARS_FOLDERS) if variables]
    seen = set()
    for top in tops:
        # A folder that can't be listed here can't be listed by the command either, which says so.
        for folder, folders, names in os.walk(top, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield Path(folder)
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


# ── answers of the last hour ────────────────────────────────────────────────────────────────────


def _kept(shown: str) -> Path:
    """Where the hosts of an inventory are kept: in a folder, since each run is a process of its own.

    The folder is that of the worker's user, and the hosts are kept rather than what the command printed, which may
    hold passwords.
    """
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder, "portmon", f"ansible-{hashlib.sha256(os.fsencode(shown)).hexdigest()[:32]}")


def _load(shown: str, digest: str) -> Inventory | None:
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        file = _kept(shown)
        if 0 <= time.time() - file.stat().st_mtime < REUSED.total_seconds():
            of, _, hosts = file.read_bytes().partition(b"\n")
            if of == digest.encode():
                return TypeAdapter(Inventory).validate_json(hosts)
    return None


def _save(shown: str, digest: str, found: Inventory) -> None:
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        file = _kept(shown)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            made = Path(folder, "made")
            made.touch(mode=0o600)
            made.write_bytes(digest.encode() + b"\n" + TypeAdapter(Inventory).dump_json(found))
            made.replace(file)


# ── what the command prints ─────────────────────────────────────────────────────────────────────


def read_printed(data: Any) -> list[dict[str, Any]]:
    """One entry for each host of what ``ansible-inventory --list`` prints: name, address, port, groups, vars.

    :raises ValueError: it is something else
    """
    meta = data.get("_meta") if isinstance(data, Mapping) else None
    variables = meta.get("hostvars") if isinstance(meta, Mapping) else None
    if not isinstance(variables, Mapping):
        raise ValueError(f"has no _meta.hostvars: it must be what `{COMMAND} --list` prints")
    above: dict[str, list[str]] = {}
    hosts: dict[str, list[str]] = {}
    for name, group in data.items():
        if name == "_meta":
            continue
        if not isinstance(group, Mapping):
            raise ValueError(f"group {name} is {kind_of(group)}, not a mapping")
        if "vars" in group:
            raise ValueError(f"group {name} has variables of its own, as with --export: leave that out")
        if unknown := sorted(set(group) - {"hosts", "children"}):
            raise ValueError(f"group {name}: {unknown[0]!r} is neither hosts nor children")
        for host in _names(group, "hosts", name):
            hosts.setdefault(host, []).append(name)
        for child in _names(group, "children", name):
            above.setdefault(child, []).append(name)
    for host, own in variables.items():
        if not isinstance(own, Mapping):
            raise ValueError(f"_meta.hostvars.{host} is {kind_of(own)}, not a mapping")
        hosts.setdefault(host, [])
    entries = []
    steps = 0
    for host, direct in hosts.items():
        groups = set(direct)
        waiting = list(groups)
        while waiting:
            found = above.get(waiting.pop(), [])
            steps += len(found) + 1
            waiting += set(found) - groups
            groups.update(found)
        if steps > MAX_STEPS:
            raise ValueError(f"its hosts are in more than {MAX_STEPS} groups together")
        entries.append(_entry(host, sorted(groups - {"all", "ungrouped"}), variables.get(host, {})))
    return entries


def _names(group: Mapping[str, Any], kind: str, name: str) -> list[str]:
    names = group.get(kind, [])
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise ValueError(f"{name}.{kind} is not a list of names")
    return names


def _entry(host: str, groups: list[str], variables: Mapping[str, Any]) -> dict[str, Any]:
    usable = {name: _usable(name, value, host) for name, value in variables.items()}
    # The older names count more, as in Ansible's SSH plugin, and null is as good as nothing.
    given = {name: value for name, value in usable.items() if value is not None}
    address = given.get("ansible_ssh_host", given.get("ansible_host"))
    port = given.get("ansible_ssh_port", given.get("ansible_port"))
    connection = given.get("ansible_connection")
    if isinstance(connection, UnusableValue):
        address = connection
    elif connection is not None and (not isinstance(connection, str) or connection not in _SSH):
        address = UnusableValue(
            f"ansible_connection is {_shown(connection)}: only hosts that are reached by SSH can be watched; leave it "
            "out with cmdb.source.fields.enabled"
        )
    elif address is None:
        address = host
    return {"name": host, "address": address, "port": port, "groups": groups, "vars": usable}


def _usable(name: str, value: Any, host: str) -> Any:
    """A variable's value; what the command leaves as it is can't be used."""
    if isinstance(value, list):
        return [_usable(name, item, host) for item in value]
    if isinstance(value, Mapping):
        if value.keys() == {"__ansible_vault"}:
            return UnusableValue(f"{name} is encrypted by Ansible Vault")
        if value.keys() == {"__ansible_unsafe"}:
            return value["__ansible_unsafe"]
        return {key: _usable(f"{name}.{key}", inner, host) for key, inner in value.items()}
    if isinstance(value, str) and "{" in value:
        value = _OWN_NAME.sub(lambda _: host, value)
        if "{{" in value or "{%" in value:
            return UnusableValue(f"{name} is the template {_shown(value)}, which `{COMMAND}` does not fill in")
    return value


def _shown(value: object) -> str:
    return cut(repr(value), 100) if isinstance(value, str) else kind_of(value)
