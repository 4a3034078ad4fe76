"""The Airflow connections that a configuration names for hosts and their list; those of channels say so themselves."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from portmon.config import Config, ssh_settings


class Needed(NamedTuple):
    """A connection.

    :param section: of portmon.yaml that names it
    :param jump: it is of a jump host
    :param kind: of Airflow
    :param add: the command that would add one
    """

    id: str
    section: str
    kind: str
    add: str
    jump: bool = False


def needed_connections(config: Config) -> Iterator[Needed]:
    """Each connection once."""
    source = getattr(config.cmdb.source, "conn_id", None)
    if source is not None:
        yield _needed(source, "cmdb.source", "http", "--conn-host https://cmdb.example.com")
    seen = set()
    for group in (None, *config.ssh.groups):
        settings = ssh_settings(config, group=group)
        extra = shlex.quote('{"key_file": "/etc/portmon/key"}')
        section = "ssh" if group is None else f"ssh group {group.name}"
        for conn_id, jump in ((settings.conn_id, False), *((name, True) for name in settings.jump)):
            host = "--conn-host bastion.example.com " if jump else ""
            if (conn_id, jump) not in seen:
                one = _needed(conn_id, section, "ssh", f"{host}--conn-login portmon --conn-extra {extra}")
                yield one._replace(jump=jump)
            seen.add((conn_id, jump))


def _needed(conn_id: str, section: str, kind: str, arguments: str) -> Needed:
    add = f"airflow connections add {shlex.quote(conn_id)} --conn-type {kind} {arguments}"
    return Needed(conn_id, section, kind, add)
