"""The Airflow hook of one host over SSH."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import paramiko
from airflow.providers.ssh.hooks.ssh import SSHHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from portmon.airflow import settings as airflow_settings
from portmon.errors import JumpError, PortmonError, ScanError, SetupError
from portmon.model.host import Host
from portmon.ssh.config import Ssh, SshSettings
from portmon.ssh.connect import connect
from portmon.ssh.dial import Link, await_banner, dial
from portmon.ssh.jump import Hop, Ways, dial_through
from portmon.ssh.session import Session
from portmon.ssh.target import Credentials, Options, Target
from portmon.ssh.trust import HostKey, HostKeyStore, KnownHosts, Trust

Made = TypeVar("Made")

log = logging.getLogger(__name__)


class SharedSettings:
    """Connections, keys and known_hosts files that the hooks of one task read once. Any thread may ask."""

    def __init__(self) -> None:
        self.key_files: dict[tuple[str, str | None], tuple[paramiko.PKey, bool]] = {}
        self.ways = Ways()
        # Reentrant: what is made may need other things.
        self._lock = threading.RLock()
        self._made: dict[tuple[str | None, ...], Any] = {}

    def once(self, name: tuple[str | None, ...], make: Callable[[], Made]) -> Made:
        """The thing of a name, which is made when it is first asked for."""
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            made: Made = self._made[name]
            return made


class HostSSHHook(SSHHook):
    """One host over SSH, through an Airflow SSH connection that many hosts share.

    The connection is read as :class:`SSHHook` does: login, password, ``key_file``, ``private_key``,
    ``host_key``, ``ciphers``, ``disabled_algorithms``, and ``ProxyCommand`` of the worker's ``~/.ssh/config``. Its host
    is not used. Besides, these extras count:

    ``host_proxy_cmd``
        a command to connect through (a jump host), with ``%h``, ``%p`` and ``%r``, run without a shell:
        ``ssh -W [%h]:%p bastion``
    ``certificate``
        SSH certificate of the key, as in a file ``-cert.pub``. One in that file beside ``key_file`` is used without
    ``compress``
        compress what goes over the line. Off unless it is ``true``, other than in SSHHook: an answer is a few KiB, and
        each connection would hold zlib's window and buffers
    ``look_for_keys``, ``allow_agent``
        offer the worker's own keys and its agent's as well. Here they are off unless they are ``true``:
        every key that is offered counts as a failed login, and servers ban for that

    What differs: one attempt, a deadline for everything, host keys always checked. ``no_host_key_check``
    and ``allow_host_key_change`` are not honoured: ``accept-new`` (the default) needs neither, and a key
    that changes is what the check is for.

    :param settings: in force for the host: connection, port, user, time-outs
    :param ssh: section of portmon.yaml: how host keys are checked
    :param store: keys that were trusted on first use; None trusts no first key
    :param shared: by the hooks of one task; default: nothing
    :raises SetupError: connection, key or known_hosts file is missing or unusable
    :raises JumpError: those of a jump host are
    :raises ResolveError: the host's address is none
    """

    def __init__(
        self,
        host: Host,
        settings: SshSettings,
        ssh: Ssh,
        store: HostKeyStore | None,
        shared: SharedSettings | None = None,
    ) -> None:
        self._ssh, self._store, self._shared = ssh, store, shared or SharedSettings()
        self.session: Session | None = None
        self._link: Link | None = None
        self._extra: dict[str, Any] = {}
        self._timeout = settings.connect_timeout.total_seconds()
        self._algorithms, self._lane = settings.old_algorithms, settings.lane
        # Checks the address before SSHHook looks it up in ssh configurations.
        target = Target(host.shown(), host.address)
        conn_id = settings.conn_id
        try:
            super().__init__(
                ssh_conn_id=conn_id,
                remote_host=host.address,
                username=settings.user,
                port=host.port or settings.port,
                conn_retry_attempts=1,
                no_host_key_check=False,
            )
        except (AirflowException, ValueError, OSError, paramiko.SSHException) as error:
            raise SetupError(f"SSH connection {conn_id!r}: {_why(error, conn_id)}", host=target.shown) from error
        self.target = Target(host.shown(), host.address, self.port)
        self._hops: Sequence[Hop] = ()
        if settings.jump:
            self._hops = self._shared.once(("jump", *settings.jump), lambda: self._way(settings.jump))
        unchecked = ("no_host_key_check", "ignore_hostkey_verification")
        if any(map(self._is_on, unchecked)) or self.allow_host_key_change:
            text = "Connection %s asks for no host key check. That is not honoured: the host's key is checked"
            self._shared.once(("warning", conn_id), lambda: log.warning(text, conn_id))

    def _way(self, jump: Sequence[str]) -> list[Hop]:
        """The jump hosts of these connections."""
        if self._extra.get("host_proxy_cmd"):
            text = (
                f"connection {self.ssh_conn_id!r} has a host_proxy_cmd, and ssh.jump names jump hosts: give one of both"
            )
            raise SetupError(text, host=self.target.shown)
        hops = []
        for number, conn_id in enumerate(jump, 1):
            name = f"jump host {number} of {len(jump)}"
            # Never without a key check, nor with what is set for the hosts behind it.
            settings = SshSettings(conn_id=conn_id)
            try:
                address = self._fields(conn_id).host
                if not address:
                    raise SetupError(f"connection {conn_id!r} has no host, the jump host's address", host=conn_id)
                hook = HostSSHHook(Host(conn_id, conn_id, address), settings, self._ssh, self._store, self._shared)
                if number > 1 and hook._extra.get("host_proxy_cmd"):
                    raise SetupError(f"connection {conn_id!r} has a host_proxy_cmd: only the first can", host=conn_id)
            except ScanError as error:
                problem = error.problem.removeprefix(f"{error.host}: ")
                raise JumpError(f"{name}: {problem}", host=self.target.shown, retry=error.retry) from error
            except (AirflowException, ValueError) as error:
                text = f"{name}: SSH connection {conn_id!r}: {_why(error, conn_id)}"
                raise JumpError(text, host=self.target.shown, retry=False) from error
            hops.append(Hop(hook.target, hook._credentials(), hook._trust(), hook._options()))
        return hops

    # An instance method instead of SSHHook's class method: every reading is a request to the API server.
    def get_connection(self, conn_id: str) -> Any:
        """The fields of the Airflow connection that SSHHook asks for."""
        connection = self._fields(conn_id)
        self._extra = connection.extra_dejson
        return connection

    def _fields(self, conn_id: str) -> SimpleNamespace:
        read = super().get_connection

        def fields() -> SimpleNamespace:
            found = read(conn_id)
            # Airflow decodes the extras anew each time, and masks them in logs anew.
            names = ("login", "password", "host", "port", "extra", "extra_dejson")
            return SimpleNamespace(**{name: getattr(found, name) for name in names})

        return self._shared.once(("connection", conn_id), fields)

    def _pkey_from_private_key(self, private_key: str, passphrase: str | None = None) -> paramiko.PKey:
        read = super()._pkey_from_private_key
        return self._shared.once(("key", private_key, passphrase), lambda: read(private_key, passphrase=passphrase))

    def get_conn(self) -> paramiko.SSHClient:
        """A client of the session, as SSHHook has it; here nothing needs one."""
        client = paramiko.SSHClient()
        client._transport = self.login().transport  # type: ignore[attr-defined]
        return client

    def dial(self) -> None:
        """Connect, and wait until the server says something; :meth:`login` goes on from there.

        :raises ScanError: of the class that says what went wrong
        """
        link = dial(self.target, self._credentials(), self._options())
        # Known before it is waited for, so that close() ends the wait.
        self._link = link
        try:
            await_banner(self.target, link, self._timeout)
        except BaseException:
            self.close()
            raise

    def login(self) -> Session:
        """The session, logged in; its attributes tell how it went.

        :raises ScanError: of the class that says what went wrong
        """
        if self.session is None or not self.session.active:
            link, self._link = self._link, None
            if link is None:
                self.close()
            if link is None and self._hops:
                link = dial_through(self.target, self._hops, self._timeout, self._shared.ways)
            self.session = connect(self.target, self._credentials(), self._trust(), self._options(), link=link)
        return self.session

    def close(self) -> None:
        """End the connection; more than once is fine."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self.session is not None:
            self.session.close()

    @property
    def endpoints(self) -> list[str]:
        """The host and the jump hosts before it, as known_hosts writes them: their keys are checked."""
        return [self.target.endpoint, *(hop.target.endpoint for hop in self._hops)]

    @property
    def lane(self) -> str | None:
        """What leads to the host and is shared by many: the first jump host, or a proxy command; None for a direct
        connection.
        """
        return self._lane or self.proxy_command

    @property
    def proxy_command(self) -> str | None:
        """The command that leads to the host, None without one."""
        if self._hops:
            return None
        return self._extra.get("host_proxy_cmd") or self.host_proxy_cmd or None

    def _credentials(self) -> Credentials:
        return Credentials(
            user=self.username,
            pkey=self.pkey,
            key_file=self.key_file or None,
            password=self.password.strip() if self.password else None,
            look_for_keys=self._is_on("look_for_keys"),
            allow_agent=self._is_on("allow_agent"),
            certificate=self._extra.get("certificate") or None,
            key_files=self._shared.key_files,
        )

    def _options(self) -> Options:
        return Options(
            timeout=self._timeout,
            compress=self._is_on("compress"),
            ciphers=self.ciphers,
            disabled_algorithms=self.disabled_algorithms,
            proxy_command=self.proxy_command,
            algorithms=self._algorithms,
        )

    def _is_on(self, extra: str) -> bool:
        return str(self._extra.get(extra)).lower() == "true"

    def _trust(self) -> Trust:
        named = self._ssh.known_hosts

        def load() -> tuple[Path, KnownHosts | None]:
            path = Path(os.path.expandvars(named or "~/.ssh/known_hosts")).expanduser()
            # One that is named has to be there.
            return path, KnownHosts.load(path) if named or path.is_file() else None

        try:
            path, known = self._shared.once(("known_hosts", named), load)
        except OSError as error:
            raise SetupError(f"known_hosts file {error.filename}: {error.strerror}", host=self.target.shown) from error
        return Trust(
            strict=self._ssh.host_keys == "strict",
            pinned=HostKey(self.host_key.get_name(), self.host_key.get_base64()) if self.host_key else None,
            pinned_by=self.ssh_conn_id or "",
            known_hosts=known,
            known_hosts_path=str(path),
            store=self._store,
        )


def _why(error: Exception, conn_id: str) -> str:
    """The reason why a connection can't be used: Airflow calls it undefined also if its API server did not answer."""
    if isinstance(error, AirflowNotFoundException):
        try:
            airflow_settings.must_be_absent(conn_id)
        except PortmonError as told:
            return str(told)
    return str(error)
