"""Say which hosts are asked, in which task, and which ports to expect."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from typing import Any

from sqlalchemy import Connection

from portmon.config import Config, rule_set, ssh_settings
from portmon.engine.declared import declared_ports
from portmon.engine.fingerprint import fingerprint
from portmon.engine.owners import left_by_owners
from portmon.errors import RunError, StorageError
from portmon.inventory.scope import select
from portmon.matching import matches_host
from portmon.model.host import Host
from portmon.model.state import PortStatus
from portmon.probe.compare import lost_binds
from portmon.scan.answer import SettledAnswer
from portmon.scan.batches import LATEST, HostBatch, deal
from portmon.scan.host import Expected
from portmon.ssh.config import HostSettings, SshGroup
from portmon.steps.run import Run, TaskOf, uncollected
from portmon.storage import archive, contents, decisions, hosts, inventory, runs
from portmon.storage.database import Database
from portmon.text import counted

log = logging.getLogger(__name__)


def plan_sweep(
    database: Database,
    config: Config,
    run: Run,
    digest: str,
    *,
    proxy_of: Callable[[str], str | None],
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """One item per batch of hosts; none if there are so few that each gets a task of its own.

    The hosts of a batch are stored, so that its task reads no others, and reads the same ones whenever it is tried.
    Batches with hosts that the last run did not try come first.

    :param digest: of this run's inventory
    :param proxy_of: connection id: its proxy command, None without
    :returns: ``batch`` (its number), ``hosts`` (how many), ``plan`` (digest, see :func:`batch_of`), ``dry_run``
    """
    with database.begin() as conn:
        asked = _asked(conn, config, run, digest)
        if len(asked) <= config.scan.sweep_above:
            text = "%s to ask: no more than scan.sweep_above, each gets a task of its own"
            log.info(text, counted(len(asked), "host"))
            return []
        batches = deal(
            list(asked.values()),
            size=config.scan.batch_hosts,
            max_logins=config.ssh.max_logins,
            proxies=_proxies(asked.values(), config, proxy_of),
            per_proxy=config.ssh.per_proxy,
        )
        untried = runs.untried(conn, run.run_id, asked)
        batches.sort(key=lambda batch: min(untried.get(host.id, LATEST) for host in batch.hosts))
        stored = [_store(conn, batch, now or datetime.now(UTC)) for batch in batches]
    log.info(
        "%s to ask in batches: %d, with %s logins each at a time",
        counted(len(asked), "host"),
        len(batches),
        "/".join(sorted({str(batch.logins) for batch in batches})),
    )
    return [
        {"batch": number, "hosts": len(batch.hosts), "plan": name, **({"dry_run": True} if run.dry_run else {})}
        for number, (batch, name) in enumerate(zip(batches, stored, strict=True))
    ]


def _store(conn: Connection, batch: HostBatch, now: datetime) -> str:
    """Store a batch; equal ones as equal bytes."""
    listed = [inventory.host_to_json(host) for host in batch.hosts]
    value = {"hosts": listed, "logins": batch.logins, "lanes": dict(batch.lanes)}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return contents.put(conn, text.encode("ascii"), now=now, sound=True)


def batch_of(conn: Connection, item: Mapping[str, Any]) -> HostBatch:
    """The batch of an item of :func:`plan_sweep`.

    :raises StorageError: it is not stored any more, or as another version stored it
    """
    value = json.loads(contents.get(conn, item["plan"]))
    try:
        return HostBatch(tuple(map(inventory.host_from_json, value["hosts"])), value["logins"], value["lanes"])
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"what is stored is no batch of hosts ({type(error).__name__}: {error})") from error


@uncollected()
def asked_by(
    conn: Connection,
    batches: Sequence[Mapping[str, Any]],
    items: Sequence[Mapping[str, Any]],
    *,
    sweep: str,
    own: str,
) -> dict[str, TaskOf]:
    """Host id: which task asks it. Of a host that is swept and has a task of its own, the latter: its log says more.

    :param batches: of :func:`plan_sweep`, for the mapped task ``sweep``
    :param items: of :func:`plan_hosts`, for the mapped task ``own``
    """
    found: dict[str, TaskOf] = {}
    for index, item in enumerate(batches):
        found |= dict.fromkeys((host.id for host in batch_of(conn, item).hosts), (sweep, index))
    return found | {item["id"]: (own, index) for index, item in enumerate(items)}


def plan_hosts(
    database: Database,
    config: Config,
    run: Run,
    digest: str,
    *,
    max_hosts: int | None = None,
    swept: Mapping[str, bool] | None = None,
) -> list[dict[str, Any]]:
    """One item per host that still needs a task of its own, JSON types only, sorted by name. Hosts that the last run
    did not try come before the others, the longest untried first.

    Without a sweep that is every host. After one these are the hosts that failed in it and did not before, and those
    that it did not get to; beyond ``scan.max_host_tasks`` what the sweep saw is all there is.

    A host that the list lacks but that is not hidden is asked as well: pruning refused to
    conclude that it is gone, so it is still watched.

    :param digest: of this run's inventory
    :param max_hosts: more than this can't be mapped over (``[core] max_map_length``)
    :param swept: None without a sweep; else, for observations that are not in the database, host id: whether it is
        final, as of :func:`portmon.storage.archive.observed`
    :returns: see :class:`portmon.airflow.operators.netstat.NetstatOperator` for the fields
    :raises RunError: if there are more hosts than can be mapped over
    """
    with database.begin() as conn:
        asked = _asked(conn, config, run, digest)
        untried = runs.untried(conn, run.run_id, asked)
        left = sorted(asked.values(), key=lambda host: (untried.get(host.id, LATEST), host.name, host.id))
        if swept is not None:
            most = config.scan.max_host_tasks if max_hosts is None else min(config.scan.max_host_tasks, max_hosts)
            left = _after_sweep(left, {**archive.observed(conn, run.run_id), **swept}, most)
        if max_hosts is not None and len(left) > max_hosts:
            raise RunError(
                f"{len(left)} hosts, but Airflow maps over {max_hosts} at most: lower scan.sweep_above, or raise "
                "[core] max_map_length"
            )
        must = declared_of(config, left, decisions.in_force(conn, datetime.now(UTC)).promoted)
    if swept is None:
        log.info("%s to ask, each in a task of its own", counted(len(left), "host"))
    left.sort(key=lambda host: (untried.get(host.id, LATEST), host.name, host.id))
    return [item_of(host, config, must.get(host.id, {}), dry_run=run.dry_run) for host in left]


def expected(
    conn: Connection, host_ids: Collection[str], must: Mapping[str, Collection[int]], *, now: datetime | None = None
) -> dict[str, Expected]:
    """Host id: what it is expected to listen on.

    :param must: host id: declared ports
    """
    known = hosts.known_ports(conn, host_ids)
    tools = hosts.tools(conn, host_ids, now or datetime.now(UTC))
    shared = hosts.shared_ports(conn, host_ids)
    found = {}
    for host_id in host_ids:
        own, (tool, hung) = known.get(host_id, {}), tools.get(host_id, (None, ()))
        up = {port: addresses for port, (status, addresses) in own.items() if status == PortStatus.UP}
        # A port that is down already is not asked for twice.
        declared = (port for port in must.get(host_id, ()) if port not in own or own[port][0] != PortStatus.DOWN)
        # A bind that others could reach is missed like a port.
        binds = {port: lost for port, addresses in up.items() if (lost := _reachable(addresses))}
        left = partial(left_by_owners, shared[host_id]) if host_id in shared else None
        found[host_id] = Expected(sorted({*up, *declared}), binds, tool, hung, left)
    return found


def settled_answers(
    conn: Connection,
    config: Config,
    asked: Sequence[Host],
    must: Mapping[str, Mapping[int, str]],
    ignored: Mapping[tuple[str, int], str],
) -> dict[str, SettledAnswer]:
    """Host id: the answer that needs not be read, of hosts that are settled, see :mod:`portmon.engine.fingerprint`.

    :param must: host id: declared ports, as of :func:`declared_of`
    :param ignored: as :attr:`portmon.storage.decisions.Decided.ignored`
    """
    rules = rule_set(config, ignored=ignored)
    by_id = {host.id: host for host in asked}
    return {
        host_id: last
        for host_id, last in archive.settled(conn, list(by_id)).items()
        if last.fingerprint == fingerprint(last.facts, rules.for_host(by_id[host_id]).digest, must.get(host_id, {}))
    }


def group_of(host: Host, config: Config) -> SshGroup | None:
    """The first of ``ssh.groups`` that matches a host."""
    return next((group for group in config.ssh.groups if matches_host(group.match, host)), None)


def settings_of(config: Config, group: str | None) -> HostSettings:
    """How the hosts of a group are asked; None for hosts that no group matches.

    :raises RunError: there is no such group any more
    """
    found = next((one for one in config.ssh.groups if one.name == group), None)
    if group is not None and found is None:
        raise RunError(f"portmon.yaml has no ssh group {group!r} any more, which this run goes by: clear plan_hosts")
    return ssh_settings(config, group=found)


def _asked(conn: Connection, config: Config, run: Run, digest: str) -> dict[str, Host]:
    """Host id: the hosts that this run asks."""
    runs.must_be_newest(conn, run.run_id)
    found = inventory.load(conn, digest)
    listed = {host.id for host in found.hosts} | {invalid.id for invalid in found.invalid if invalid.id is not None}
    asked: Sequence[Host] = [*found.hosts, *hosts.listed(conn, besides=listed).values()]
    if run.hosts:
        asked = select(asked, run.hosts)
    return {host.id: host for host in asked}


def declared_of(
    config: Config, asked: Sequence[Host], promoted: Mapping[tuple[str, int], str]
) -> dict[str, dict[int, str]]:
    """Host id: its declared ports, each with what declares it.

    :param promoted: as :attr:`portmon.storage.decisions.Decided.promoted`
    """
    by_id = {host.id: host for host in asked}
    return declared_ports(by_id, config.declared, promoted, where=config.where)


def _proxies(asked: Collection[Host], config: Config, proxy_of: Callable[[str], str | None]) -> dict[str, str]:
    """Id of hosts behind a bastion: what their logins share, its name or the proxy command of the connection."""
    command_of = cache(proxy_of)
    settings = ((host.id, ssh_settings(config, group=group_of(host, config))) for host in asked)
    found = ((host_id, ssh.lane or command_of(ssh.conn_id)) for host_id, ssh in settings)
    return {host_id: lane for host_id, lane in found if lane is not None}


def _after_sweep(asked: Sequence[Host], looks: Mapping[str, bool], most: int) -> list[Host]:
    """Those of some hosts that need a task of their own although they are in a batch, ``most`` at most."""
    missed = [host for host in asked if host.id not in looks]
    failed = [host for host in asked if looks.get(host.id) is False]
    # Those first of which nothing is known: of the others counts what the sweep saw.
    left, count = [*missed, *failed], len(asked)
    text = "%d of %d hosts need no task of their own; %d fail since this run, %d were not swept"
    log.info(text, count - len(left), count, len(failed), len(missed))
    if len(left) > most:
        text = "%d hosts would need a task of their own, %d get one (scan.max_host_tasks). The sweep counts for others"
        log.warning(text, len(left), most)
    return left[:most]


@lru_cache(maxsize=4096)
def _reachable(addresses: tuple[str, ...]) -> tuple[str, ...]:
    return lost_binds(addresses, ())


def item_of(host: Host, config: Config, must: Collection[int], *, dry_run: bool = False) -> dict[str, Any]:
    """What the task of a host is mapped over, see :class:`portmon.airflow.operators.netstat.NetstatOperator`.

    :param must: declared ports
    """
    group = group_of(host, config)
    item = {
        "id": host.id,
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "group": group.name if group else None,
        "must": sorted(must) or None,
        "dry_run": dry_run or None,
    }
    # Every mapped task gets the whole list through Airflow's API: what is not said takes no room.
    return {name: value for name, value in item.items() if value is not None}
