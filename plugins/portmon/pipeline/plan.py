"""Say whom to ask, how to log in, and which ports to expect."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from portmon.cmdb import select
from portmon.config import Config, SshGroup, ssh_settings
from portmon.declared import declared_ports
from portmon.errors import RunError
from portmon.identity import lost_binds
from portmon.models import Host, PortStatus
from portmon.pipeline.run import Run
from portmon.rules import matches_host
from portmon.storage import decisions, hosts, inventory
from portmon.storage.database import Database

log = logging.getLogger(__name__)


def plan_hosts(
    database: Database, config: Config, run: Run, digest: str, *, max_hosts: int | None = None
) -> list[dict[str, Any]]:
    """One item per host that this run asks, JSON types only, sorted by name.

    A host that the list lacks but that is not hidden is asked as well: pruning refused to
    conclude that it is gone, so it is still watched.

    :param digest: of this run's inventory
    :param max_hosts: more than this can't be mapped over (``[core] max_map_length``)
    :returns: see :class:`portmon.operators.NetstatOperator` for the fields
    :raises RunError: if there are more hosts than can be mapped over
    """
    with database.begin() as conn:
        found = inventory.load(conn, digest)
        stored = hosts.listed(conn).values()
        listed = {host.id for host in found.hosts} | {invalid.id for invalid in found.invalid}
        targets: Sequence[Host] = [*found.hosts, *(host for host in stored if host.id not in listed)]
        if run.scoped:
            targets = select(targets, run.hosts)
        if max_hosts is not None and len(targets) > max_hosts:
            raise RunError(
                f"{len(targets)} hosts, but Airflow maps over {max_hosts} at most: raise [core] max_map_length, or "
                "split the fleet by the CMDB's enabled filter"
            )
        known = hosts.known_ports(conn, [host.id for host in targets])
        must = declared_ports(
            {host.id: host for host in targets}, config.declared, decisions.promoted(conn), where=config.where
        )
    items = [_item(host, config, known.get(host.id, {}), must.get(host.id, {}), run) for host in targets]
    log.info("%d hosts to ask, %d ports expected on them", len(items), sum(len(item["ports"]) for item in items))
    return sorted(items, key=lambda item: (item["name"], item["id"]))


def group_of(host: Host, config: Config) -> SshGroup | None:
    """The first of ``ssh.groups`` that matches a host."""
    return next((group for group in config.ssh.groups if matches_host(group.match, host)), None)


def _item(
    host: Host,
    config: Config,
    known: Mapping[int, tuple[str, tuple[str, ...]]],
    must: Collection[int],
    run: Run,
) -> dict[str, Any]:
    up = {port: addresses for port, (status, addresses) in known.items() if status == PortStatus.UP}
    group = group_of(host, config)
    ssh = ssh_settings(config, group=group)
    return {
        "id": host.id,
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "labels": dict(host.labels),
        # What is down already needs no second look.
        "ports": sorted({*up, *(port for port in must if port not in known or known[port][0] != PortStatus.DOWN)}),
        # A bind that others could reach is missed like a port. JSON has no numbers for keys.
        "binds": {str(port): list(binds) for port, addresses in up.items() if (binds := lost_binds(addresses, ()))},
        "dry_run": run.dry_run,
        "ssh": {
            "group": group.name if group else None,
            "conn_id": ssh.conn_id,
            "port": ssh.port,
            "user": ssh.user,
            "connect_timeout": ssh.connect_timeout.total_seconds(),
            "command_timeout": ssh.command_timeout.total_seconds(),
            "max_output": ssh.max_output,
            "sudo": ssh.sudo,
            "host_keys": config.ssh.host_keys,
            "known_hosts": config.ssh.known_hosts,
            "confirm_after": config.scan.confirm_after.total_seconds(),
        },
    }
