"""The Airflow hook of one host over SSH."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import paramiko
from airflow.providers.ssh.hooks.ssh import SSHHook
from airflow.sdk.exceptions import AirflowException

from portmon.errors import SetupError
from portmon.models import Host
from portmon.ssh.connect import connect
from portmon.ssh.session import CommandResult, Session
from portmon.ssh.target import Credentials, Options, Target
from portmon.ssh.trust import HostKey, HostKeyStore, KnownHosts, Trust


class HostSSHHook(SSHHook):
    """One host over SSH, through an Airflow SSH connection that many hosts share.

    The connection is read as :class:`SSHHook` does: login, password, ``key_file``, ``private_key``,
    ``host_key``, ``ciphers``, ``disabled_algorithms``, ``compress``, and ``ProxyCommand`` of the worker's
    ``~/.ssh/config``. Its host is not used. Besides, these extras count:

    ``host_proxy_cmd``
        a command to connect through (a jump host), with ``%h``, ``%p`` and ``%r``, run without a shell:
        ``ssh -W [%h]:%p bastion``
    ``look_for_keys``, ``allow_agent``
        offer the worker's own keys and its agent's as well. Here they are off unless they are ``true``:
        every key that is offered counts as a failed login, and servers ban for that

    What differs: one attempt, a deadline for everything, host keys always checked. ``no_host_key_check``
    and ``allow_host_key_change`` are not honoured: ``accept-new`` (the default) needs neither, and a key
    that changes is what the check is for.

    :param host: whom to ask
    :param port: SSH port for a host without one; None for the connection's, or 22
    :param user: login name; None for the connection's
    :param connect_timeout: seconds for TCP, for banner and key exchange, and for authentication, each
    :param strict: trust only ``known_hosts`` and the connection's ``host_key``
    :param known_hosts: file; None for ``~/.ssh/known_hosts`` of the worker's user, if there is one
    :param store: keys that were trusted on first use; None trusts no first key
    :raises SetupError: connection, key or known_hosts file is missing or unusable
    :raises ResolveError: the host's address is none
    """

    def __init__(
        self,
        *,
        host: Host,
        ssh_conn_id: str = "ssh_default",
        port: int | None = None,
        user: str | None = None,
        connect_timeout: float = 10.0,
        strict: bool = False,
        known_hosts: str | None = None,
        store: HostKeyStore | None = None,
    ) -> None:
        # Before the address meets anything: SSHHook looks it up in ssh configurations.
        target = Target(host.shown(), host.address)
        self._extra: dict[str, Any] = {}
        try:
            super().__init__(
                ssh_conn_id=ssh_conn_id,
                remote_host=host.address,
                username=user,
                port=host.port or port,
                conn_retry_attempts=1,
                no_host_key_check=False,
            )
        except (AirflowException, ValueError, OSError, paramiko.SSHException) as error:
            raise SetupError(f"SSH connection {ssh_conn_id!r}: {error}", host=target.shown) from error
        self.target = Target(host.shown(), host.address, self.port)
        self.connect_timeout = connect_timeout
        self.strict = strict
        self.session: Session | None = None
        self._known_hosts = known_hosts
        self._store = store
        if self._is_on("no_host_key_check") or self._is_on("ignore_hostkey_verification") or self.allow_host_key_change:
            self.log.warning(
                "Connection %s asks for no host key check. That is not honoured: the host's key is checked", ssh_conn_id
            )

    # An instance method instead of SSHHook's class method: what it read is needed once more, and every
    # reading is a request to the API server.
    def get_connection(self, conn_id: str) -> Any:
        """The Airflow connection."""
        connection = super().get_connection(conn_id)
        self._extra = connection.extra_dejson
        return connection

    def get_conn(self) -> paramiko.SSHClient:
        """Log in, unless that is done.

        :raises ScanError: of the class that says what went wrong
        """
        return self.login().client

    def login(self) -> Session:
        """The session, logged in; :attr:`Session.seconds` and others tell how it went.

        :raises ScanError: of the class that says what went wrong
        """
        if self.session is None or not self.session.active:
            self.close()
            self.session = connect(
                self.target,
                Credentials(
                    user=self.username,
                    pkey=self.pkey,
                    key_file=self.key_file or None,
                    password=self.password.strip() if self.password else None,
                    look_for_keys=self._is_on("look_for_keys"),
                    allow_agent=self._is_on("allow_agent"),
                ),
                self._trust(),
                Options(
                    timeout=self.connect_timeout,
                    compress=self.compress,
                    ciphers=self.ciphers,
                    disabled_algorithms=self.disabled_algorithms,
                    proxy_command=self._extra.get("host_proxy_cmd") or self.host_proxy_cmd,
                ),
            )
            self.client = self.session.client
        return self.session

    def run(self, command: str, *, deadline: float, max_output: int) -> CommandResult:
        """Run one command over the connection, see :meth:`portmon.ssh.session.Session.run`."""
        return self.login().run(command, deadline=deadline, max_output=max_output)

    def close(self) -> None:
        """End the connection; more than once is fine."""
        if self.session is not None:
            self.session.close()

    def _is_on(self, extra: str) -> bool:
        return str(self._extra.get(extra)).lower() == "true"

    def _trust(self) -> Trust:
        path = Path(os.path.expandvars(self._known_hosts or "~/.ssh/known_hosts")).expanduser()
        known = None
        if self._known_hosts or path.is_file():
            try:
                known = KnownHosts.load(path)
            except OSError as error:
                raise SetupError(f"known_hosts file {path}: {error.strerror}", host=self.target.shown) from error
        return Trust(
            strict=self.strict,
            pinned=HostKey(self.host_key.get_name(), self.host_key.get_base64()) if self.host_key else None,
            pinned_by=self.ssh_conn_id or "",
            known_hosts=known,
            known_hosts_path=str(path),
            store=self._store,
        )
