"""What is wrong with an installation, and what to do about it: everything that a run needs, looked at beforehand.

Runs beside Airflow's own database, as the command line does; a task could not read it.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import sqlalchemy
from airflow.dag_processing.bundles.local import LocalDagBundle
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException

from portmon import __version__
from portmon.airflow import installation, preload, settings
from portmon.airflow.cmdb_hook import get_inventory
from portmon.airflow.needed import needed_connections
from portmon.airflow.outside import OUTSIDE
from portmon.airflow.provider import BUNDLES, DAG_FILE
from portmon.airflow.tasks import DAG_ID
from portmon.config import Config, ssh_settings
from portmon.errors import PortmonError
from portmon.fields import format_seconds
from portmon.model.host import Inventory
from portmon.replay.archive import scratch_database
from portmon.steps.plan import group_of
from portmon.storage.database import Database
from portmon.text import counted, plain

Value = TypeVar("Value")
CLOCKS_APART = timedelta(seconds=30)
"""More than that between this machine and the database's, and times on the page make no sense."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :param about: what, in a word
    :param cure: what to do; empty if nothing is wrong
    """

    level: Level
    about: str
    text: str
    cure: str = ""


def examine(*, host: str | None = None, login: bool = True) -> Iterator[Finding]:
    """Look at everything; a look that fails is a finding as well.

    :param host: name or id of the host that is asked; default: the first one of the CMDB
    :param login: whether a host is asked
    """
    patient = _Patient(host)
    looks = [one for one in _LOOKS if login or one is not _Patient.ssh]
    for look in looks:
        about = look.__name__.replace("_", " ")
        try:
            for level, text, cure in look(patient):
                yield Finding(level, about, text, cure)
        except _UnseenError as error:
            yield Finding(Level.NOTE, about, f"not looked at: {error}")
        except PortmonError as error:
            yield Finding(Level.PROBLEM, about, str(error), "see `portmon check` and `portmon hosts`")
        except Exception as error:
            yield Finding(
                Level.PROBLEM, about, f"could not be looked at: {type(error).__name__}: {plain(str(error), 300)}"
            )


class _UnseenError(Exception):
    """What a look needs is not there, which another look has said."""


def _tried(make: Callable[[], Value]) -> Value | PortmonError:
    try:
        return make()
    except PortmonError as error:
        return error


def _there(found: Value | PortmonError, otherwise: Exception | None = None) -> Value:
    """What was made; raises ``otherwise``, or the error that there is instead."""
    if isinstance(found, PortmonError):
        raise otherwise or found
    return found


Found = Iterator[tuple[Level, str, str]]
OK, NOTE, WARNING, PROBLEM = Level


def _alive(kind: str) -> list[datetime]:
    """When the processes of Airflow of one kind that run now were started, by their heartbeats.

    :param kind: a type of Airflow's jobs, such as ``SchedulerJob``
    """
    from airflow.jobs.job import Job
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        jobs = session.scalars(select(Job).where(Job.job_type == kind, Job.state == "running")).all()
        known = [(job.start_date, job.latest_heartbeat) for job in jobs]
    return [start for start, beat in known if start and beat and datetime.now(UTC) - beat < timedelta(minutes=2)]


class _Patient:
    """An installation; each method is a look at a part of it."""

    def __init__(self, host: str | None) -> None:
        self._host = host

    @cached_property
    def _read(self) -> Config | PortmonError:
        return _tried(settings.config)

    @property
    def _config(self) -> Config:
        return _there(self._read, _UnseenError("there is no configuration that can be used"))

    @cached_property
    def _listed(self) -> Inventory | PortmonError:
        config = self._config
        return _tried(lambda: get_inventory(config.cmdb, settings.folder_of(config)))

    @property
    def _inventory(self) -> Inventory:
        return _there(self._listed, _UnseenError("there is no host list"))

    @contextmanager
    def _state(self) -> Iterator[Database]:
        """The state database; an empty one for a moment if there is none yet."""
        database = settings.database()
        with database.reading() as conn:
            there = conn is not None
        if there:
            yield database
        else:
            with scratch_database() as scratch:
                scratch.migrate()
                yield scratch

    # ── Airflow ─────────────────────────────────────────────────────────────────────────────────

    def airflow(self) -> Found:
        if installation.is_old(version := installation.airflow_version()):
            wanted = ".".join(map(str, installation.MIN_AIRFLOW))
            yield PROBLEM, f"Airflow {version} is older than {wanted}", f"upgrade Airflow to {wanted} or later"
        else:
            yield OK, f"Airflow {version}, {conf.get('core', 'executor')}, AIRFLOW_HOME {installation.home()}", ""

    def portmon(self) -> Found:
        installation.must_be_one()
        yield OK, f"portmon {__version__} of {installation.PACKAGE}", ""

    def plugin(self) -> Found:
        from airflow import plugins_manager

        plugins, errors = plugins_manager._get_plugins()
        own = [one for one in plugins if one.name == "portmon"]
        for source, why in errors.items():
            if "portmon" in source or "portmon" in why:
                yield (
                    PROBLEM,
                    f"Airflow can't load {source}: {plain(why, 300)}",
                    "see the traceback of `airflow plugins`",
                )
        if own:
            # An entry point's own text follows the package and its version.
            yield OK, f"loaded from {str(own[0].source).partition(': ')[0]}", ""
            return
        folder = conf.get("core", "plugins_folder", fallback="")
        yield (
            PROBLEM,
            f"Airflow loads no plugin of portmon, neither from its folder {folder} nor from an installed package",
            "install portmon as a package into Airflow's environment, or point [core] plugins_folder to its `plugins`",
        )

    def dag(self) -> Found:
        places, closed = [], []
        for one in conf.getjson("dag_processor", "dag_bundle_config_list", fallback=[]) or []:
            module, _, name = str(one.get("classpath")).rpartition(".")
            kind = getattr(importlib.import_module(module), name)
            if issubclass(kind, LocalDagBundle):
                path = kind(name=one.get("name"), **(one.get("kwargs") or {})).path
                places += [f"bundle {one.get('name')}, {file}" for file in sorted(path.rglob(DAG_FILE))]
            else:
                closed.append(f"{one.get('name')} ({name})")
        if len(places) > 1:
            yield WARNING, f"the DAG is there {len(places)} times: {'; '.join(places)}", "remove all but one"
        elif places:
            yield OK, places[0], ""
        elif closed:
            yield NOTE, f"these bundles may have the DAG, it can't be seen from here: {', '.join(closed)}", ""
        else:
            yield (
                PROBLEM,
                f"no bundle of Airflow has the DAG: there is no {DAG_FILE} in any of them",
                f"airflow.cfg, [dag_processor]: dag_bundle_config_list = {json.dumps(BUNDLES)}",
            )
        yield from self._paused()

    def _paused(self) -> Found:
        from airflow.models.dag import DagModel
        from airflow.utils.session import create_session

        with create_session() as session:
            known = session.get(DagModel, DAG_ID)
        if known is None:
            yield NOTE, "Airflow has not read the DAG yet", "start `airflow dag-processor`, or wait for a minute"
        elif known.is_paused:
            yield NOTE, "the DAG is paused: no host is asked", "`airflow dags unpause portmon`, when the rest is fine"

    def scheduler(self) -> Found:
        """Its heartbeat, and whether it runs older code than that which is installed."""
        newest = max(changed for _, _, changed in preload.fingerprint()) / 1e9
        alive = _alive("SchedulerJob")
        if not alive:
            yield PROBLEM, "no scheduler is running", "start `airflow scheduler`, or `airflow standalone`"
        elif min(alive) < datetime.fromtimestamp(newest, UTC):
            text = "portmon's files are newer than the scheduler that runs: its tasks may still run the old code"
            yield WARNING, text, "restart the scheduler, and Celery's workers"
        else:
            yield OK, f"running since {min(alive):%Y-%m-%d %H:%M} UTC", ""

    def dag_processor(self) -> Found:
        """Its heartbeat."""
        if alive := _alive("DagProcessorJob"):
            yield OK, f"running since {min(alive):%Y-%m-%d %H:%M} UTC", ""
        else:
            cure = "start `airflow dag-processor`, or `airflow standalone`"
            yield PROBLEM, "no DAG processor is running: neither a new schedule nor a failed run is noticed", cure

    def triggerer(self) -> Found:
        """Its heartbeat. Runs do without one."""
        if alive := _alive("TriggererJob"):
            yield OK, f"running since {min(alive):%Y-%m-%d %H:%M} UTC", ""
        else:
            text = "no triggerer is running: a run that hangs is told only when it has ended"
            yield WARNING, text, "start `airflow triggerer`, or `airflow standalone`"

    def base_url(self) -> Found:
        given = settings.base_url()
        if not given.startswith("http"):
            yield (
                WARNING,
                "[api] base_url is not set: messages have no links",
                "set it to the address by which people reach Airflow, such as https://airflow.example.com",
            )
            return
        address, port = urlsplit(given), conf.getint("api", "port", fallback=8080)
        local = address.hostname in ("localhost", "127.0.0.1", "::1")
        if local and (address.port or {"http": 80, "https": 443}[address.scheme]) != port:
            yield WARNING, f"[api] base_url is {given}, but the API server listens on port {port}", "make both agree"
        elif local:
            yield NOTE, f"{given}: links in messages work on this machine only", "set it to the address that people use"
        else:
            yield OK, given, ""

    def roles(self) -> Found:
        """Roles that see no plugins in Airflow's navigation."""
        if "Fab" not in conf.get("core", "auth_manager", fallback=""):
            return
        from airflow.utils.session import create_session
        from sqlalchemy import text

        query = text(
            "SELECT r.name FROM ab_role r WHERE r.name IN ('Viewer', 'User') AND NOT EXISTS (SELECT 1 "
            "FROM ab_permission_view_role pvr JOIN ab_permission_view pv ON pv.id = pvr.permission_view_id "
            "JOIN ab_permission p ON p.id = pv.permission_id JOIN ab_view_menu v ON v.id = pv.view_menu_id "
            "WHERE pvr.role_id = r.id AND p.name = 'can_read' AND v.name = 'Plugins') ORDER BY r.name"
        )
        with create_session() as session:
            names = list(session.scalars(query))
        for name in names:
            yield (
                NOTE,
                f"role {name} sees no entry of portmon in the navigation, only {settings.base_url()}/portmon/",
                f"airflow roles add-perms {name} -a can_read -r Plugins",
            )

    # ── portmon ─────────────────────────────────────────────────────────────────────────────────

    def configuration(self) -> Found:
        config = _there(self._read)
        if config.path is None:
            path = settings.config_path()
            yield PROBLEM, f"there is no {path}: the defaults know no hosts", "`portmon init` writes one"
            return
        yield OK, f"{config.path}; schedule {settings.schedule() or 'manual runs only'}", ""

    def connections(self) -> Found:
        config = self._config
        for one in needed_connections(config):
            found = settings.connection(one.id)
            if found is None:
                yield PROBLEM, f"{one.section}: there is no Airflow connection {one.id!r}", one.add
            else:
                yield OK, f"{one.section}: {one.id}", ""
                if one.jump and not found.host:
                    text = f"{one.section}: connection {one.id!r} of a jump host has no host"
                    yield PROBLEM, text, "write the jump host's address there"
                if one.kind == "ssh":
                    yield from _key_file(one.id, found)
        missing, unread = config.alerts.missing_connections(OUTSIDE)
        for text in [*missing, *([unread] if unread else [])]:
            yield PROBLEM, text, "`airflow connections add`, see docs/alerts.md"

    def database(self) -> Found:
        database = settings.database()
        with database.reading() as conn:
            if conn is None:
                yield NOTE, f"{database} is not there yet", "the first run makes it, or `portmon db upgrade`"
                return
        database.check()
        yield OK, f"{database}, its tables are current", ""
        if not database.is_sqlite:
            with database.begin() as conn:
                theirs = conn.execute(sqlalchemy.select(sqlalchemy.func.clock_timestamp())).scalar_one()
            apart = abs(datetime.now(UTC) - theirs)
            if apart > CLOCKS_APART:
                text = f"the clocks of this machine and of the database's are {format_seconds(apart)} apart"
                yield PROBLEM, text, "let NTP set both"

    def pool(self) -> Found:
        from airflow.models.pool import Pool
        from airflow.utils.session import create_session

        wanted = self._config.scan.pool or "default_pool"
        with create_session() as session:
            found = Pool.get_pool(wanted, session=session)
            slots = None if found is None else found.slots
        if slots is None:
            cure = f"airflow pools set {shlex.quote(wanted)} 32 portmon"
            yield PROBLEM, f"scan.pool: there is no pool {wanted!r}, so that no task would ever start", cure
        else:
            yield OK, f"{wanted}, {slots} slots", ""

    def hosts(self) -> Found:
        found = _there(self._listed)
        if not found.hosts:
            first = f"; the first entry: {plain(found.invalid[0].reason, 300)}" if found.invalid else ""
            yield (
                PROBLEM,
                f"{found.source} lists no host that can be used{first}",
                "`portmon hosts` shows what it gives",
            )
        else:
            yield OK, f"{found.source} lists {counted(len(found.hosts), 'host')}", ""
        for invalid in found.invalid[:3]:
            name = plain(invalid.name or invalid.id or "-")
            yield (
                WARNING,
                f"entry {invalid.position} ({name}): {plain(invalid.reason, 300)}",
                "`portmon hosts` shows all",
            )

    def ssh(self) -> Found:
        """One login, through the operator, that keeps nothing."""
        from portmon.airflow import by_hand

        name = self._host or next((host.id for host in self._inventory.hosts), None)
        if name is None:
            return
        with self._state() as database:
            try:
                host, shown = by_hand.visit(database, self._config, self._inventory, name, dry_run=True)
            except AirflowException as error:
                yield PROBLEM, str(error), "`portmon scan` shows what the log of its task would say"
                return
        seen = shown.listing
        count = len(seen.listeners) if seen else 0
        of = len(self._inventory.hosts)
        others = f" (one host of {of}; --host asks another)" if of > 1 else ""
        yield OK, f"{plain(host.name)}: {counted(count, 'listening socket')}{others}", ""
        nameless = sum(one.program is None for one in seen.listeners) if seen else 0
        # Root sees all that there is to see, such as sockets of other containers.
        if nameless and seen is not None and seen.uid != 0 and seen.via is None:
            cure = "the sudo rule of docs/security.md, and `sudo: true` in section ssh"
            if ssh_settings(self._config, group=group_of(host, self._config)).sudo:
                cure = (
                    "`sudo: true` is set, but the sudoers of that server allow none of the listings: docs/security.md"
                )
            yield WARNING, f"{plain(host.name)}: {nameless} of {counted(count, 'socket')} show no program", cure


def _key_file(conn_id: str, found: Any) -> Found:
    extra = found.extra_dejson
    given = extra.get("key_file")
    if not given:
        if not (extra.get("private_key") or found.password or extra.get("look_for_keys") or extra.get("allow_agent")):
            yield PROBLEM, f"{conn_id} has neither a key nor a password", "give it a `key_file` as an extra"
        return
    path = Path(given).expanduser()
    try:
        mode = path.stat().st_mode
        readable = os.access(path, os.R_OK)
    except OSError as error:
        yield (
            PROBLEM,
            f"{conn_id}: key file {path}: {error.strerror}",
            "correct `key_file`; each worker needs the file, and its user to enter the folder",
        )
        return
    if not readable:
        yield PROBLEM, f"{conn_id}: this user may not read {path}", "chown it to the user of Airflow's workers"
    elif stat.S_IMODE(mode) & 0o077:
        yield WARNING, f"{conn_id}: others may read {path}", f"chmod 600 {shlex.quote(str(path))}"


_LOOKS: Sequence[Callable[[_Patient], Found]] = (
    _Patient.airflow,
    _Patient.portmon,
    _Patient.plugin,
    _Patient.dag,
    _Patient.scheduler,
    _Patient.dag_processor,
    _Patient.triggerer,
    _Patient.base_url,
    _Patient.roles,
    _Patient.configuration,
    _Patient.connections,
    _Patient.database,
    _Patient.pool,
    _Patient.hosts,
    _Patient.ssh,
)
