"""Section ``ssh``: how to log in to hosts."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag

from portmon.fields import HostMatch, PortNumber, PositiveDuration, Protocols, Section, Size, Text, Texts, one_or_many
from portmon.ssh.names import LEGACY, OldAlgorithms, OldCipher, OldKex, OldMac, OldSignature

Item = TypeVar("Item")
Many = Annotated[tuple[Item, ...], BeforeValidator(one_or_many)]


class Algorithms(Section):
    """What old SSH servers speak, besides what is spoken anyway. It is used only if the server has nothing better."""

    kex: Many[OldKex] = Field((), description=f"key exchanges: {', '.join(get_args(OldKex))}")
    host_keys: Many[OldSignature] = Field((), description="`[ssh-rsa]`: RSA host keys that sign with SHA-1")
    ciphers: Many[OldCipher] = Field((), description=", ".join(get_args(OldCipher)))
    macs: Many[OldMac] = Field((), description=f"{', '.join(get_args(OldMac))}; hmac-sha1 is spoken anyway")
    user_keys: Many[OldSignature] = Field(
        (), description="`[ssh-rsa]`: sign with SHA-1 if portmon's own key is RSA; ed25519 and ECDSA keys do without"
    )


AlgorithmsSetting = Annotated[
    Annotated[Literal["legacy"], Tag("legacy")] | Annotated[Algorithms, Tag("names")],
    Discriminator(lambda value: "legacy" if isinstance(value, str) else "names"),
]


class SshSettings(Section):
    """How to log in. A group overrides what it names, the rest comes from `ssh` itself."""

    conn_id: Text = Field("ssh_default", description="Airflow SSH connection: user, key, jump host, options")
    jump: Texts = Field(
        (),
        description="jump hosts on the way, in order: Airflow SSH connections, each with the address (`host`) and the "
        "login of one; docs/ssh.md",
    )
    port: PortNumber | None = Field(
        None, description="SSH port where the CMDB has none; default: the connection's, or 22"
    )
    user: Text | None = Field(None, description="login name; default: the connection's")
    connect_timeout: PositiveDuration = Field(
        timedelta(seconds=10),
        description="for TCP or all jump hosts together, for banner, and for login, each; see `scan.confirm_after`",
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
    algorithms: AlgorithmsSetting | None = Field(
        None,
        description="what old servers speak, off by default: a section with names, or `legacy` for all of them. "
        "Set it in the group of these hosts alone: docs/ssh.md",
    )

    @property
    def lane(self) -> str | None:
        """What the logins share, besides a proxy command: the first jump host; None without any."""
        return f"jump host {self.jump[0]}" if self.jump else None

    @property
    def old_algorithms(self) -> OldAlgorithms | None:
        """What is spoken besides."""
        if isinstance(self.algorithms, Algorithms):
            return OldAlgorithms(**dict(self.algorithms))
        return LEGACY if self.algorithms else None


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
        description="of these, how many go through one bastion at the same time in a sweep (the first of `jump`, or "
        "one `host_proxy_cmd` of the connection): its sshd drops what is more than its MaxStartups",
    )
    host_keys: Literal["accept-new", "strict"] = Field(
        "accept-new",
        description="`accept-new` trusts a host's first key, keeps it in the database and refuses any other; "
        "`strict` trusts only known_hosts and the connection's `host_key`",
    )
    known_hosts: Text | None = Field(None, description="known_hosts file; default: that of the worker's user, if any")
    groups: tuple[SshGroup, ...] = Field((), description="settings per group of hosts; first match counts")
