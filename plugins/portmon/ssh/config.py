"""Section ``ssh``: how to log in to hosts."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from portmon.fields import HostMatch, PortNumber, PositiveDuration, Protocols, Section, Size, Text


class SshSettings(Section):
    """How to log in. A group overrides what it names, the rest comes from `ssh` itself."""

    conn_id: Text = Field("ssh_default", description="Airflow SSH connection: user, key, jump host, options")
    port: PortNumber | None = Field(
        None, description="SSH port where the CMDB has none; default: the connection's, or 22"
    )
    user: Text | None = Field(None, description="login name; default: the connection's")
    connect_timeout: PositiveDuration = Field(
        timedelta(seconds=10), description="for TCP, banner and login, each; see `scan.confirm_after`"
    )
    command_timeout: PositiveDuration = Field(
        timedelta(seconds=20), description="deadline for the whole command, however slowly it drips"
    )
    max_output: Annotated[Size, Field(ge=1024)] = Field(4 * 1024**2, description="a longer answer is invalid")
    sudo: bool = Field(False, description="run the listing with `sudo -n` where we are not root, to see all programs")
    netstat_up_to: Annotated[int, Field(ge=0, le=2**31)] = Field(
        5000,
        description="on a host with more TCP sockets in use, orphaned or in time-wait ss is asked before netstat, "
        "which walks every connection; once ss answered, from half as many on",
    )


class HostSettings(SshSettings):
    """The settings in force for a host."""

    protocols: Protocols = Field(("tcp",), description="what is listed there, see `scan.protocols`")


class SshGroup(SshSettings):
    """Hosts with settings of their own. The first group that matches a host counts."""

    name: Text = Field(description="shown in logs")
    match: HostMatch = Field(description="which hosts")
    protocols: Protocols | None = Field(None, description="what is listed there; default: `scan.protocols`")


class Ssh(SshSettings):
    """Logins: parallelism, host keys, and settings per group of hosts."""

    max_logins: Annotated[int, Field(ge=1, le=1024)] = Field(
        16, description="hosts that are asked at the same time in one run; a change makes a new DAG version"
    )
    per_proxy: Annotated[int, Field(ge=1, le=1024)] = Field(
        8,
        description="of these, how many go through one proxy command (`host_proxy_cmd` of the connection) at the same "
        "time in a sweep: a bastion's sshd drops what is more than its MaxStartups",
    )
    host_keys: Literal["accept-new", "strict"] = Field(
        "accept-new",
        description="`accept-new` trusts a host's first key, keeps it in the database and refuses any other; "
        "`strict` trusts only known_hosts and the connection's `host_key`",
    )
    known_hosts: Text | None = Field(None, description="known_hosts file; default: that of the worker's user, if any")
    groups: tuple[SshGroup, ...] = Field((), description="settings per group of hosts; first match counts")
