"""Log in with a key or a password, and explain a refusal."""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paramiko
from paramiko.ssh_exception import BadAuthenticationType

from portmon.errors import AuthenticationError, ConnectionLostError, NegotiationError, ScanTimeoutError, SetupError
from portmon.ssh import certificates
from portmon.ssh.algorithms import signing
from portmon.ssh.certificates import Certificate
from portmon.ssh.target import Credentials, Options, Target, software, why
from portmon.ssh.trust import HostKey
from portmon.text import plain

_OLD_KEYS = "`algorithms: {user_keys: [ssh-rsa]}` in its group of ssh.groups (docs/ssh.md)"


@dataclass(frozen=True, slots=True)
class _Key:
    pkey: paramiko.PKey
    origin: str
    certificate: Certificate | None = None

    def __str__(self) -> str:
        by = f"{self.certificate} of " if self.certificate else ""
        return f"{by}key {self.pkey.get_name()} {self.pkey.fingerprint} ({self.origin})"


class Login:
    """Offers the keys and the password of the credentials and nothing else.

    :param options: of the connection: seconds for each offer, and what old servers speak
    :raises SetupError: a key file can't be used
    """

    def __init__(self, target: Target, credentials: Credentials, options: Options) -> None:
        self._target = target
        self._user = credentials.user
        self._shown_user = repr(plain(credentials.user))
        self._timeout = options.timeout
        self._old = options.algorithms
        # None once it unlocked a key file: a host that refuses the key must not see it.
        self._password = credentials.password
        self._key_files = credentials.key_files
        self._keys = list(self._load(credentials))
        self._methods: Sequence[str] = ()
        self._accepted: list[_Key | str] = []

    @property
    def method(self) -> str:
        """The key and password that the host accepted, for people."""
        return " and ".join(map(str, self._accepted))

    @property
    def offers(self) -> int:
        """How many keys and passwords there are to offer."""
        return len(self._keys) + (self._password is not None)

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in.

        :raises AuthenticationError: nothing was accepted
        """
        refused: list[_Key | str] = []
        demanded: tuple[str, ...] | None = None
        for key in self._keys:
            demanded = self._offer(transport, transport.auth_publickey, signing(key.pkey, self._old))
            if demanded is not None:
                self._accepted.append(key)
                break
            refused.append(key)
        if self._password is not None and demanded != ():
            demanded = self._offer(transport, transport.auth_password, self._password)
            if demanded is not None:
                self._accepted.append("password")
            else:
                refused.append("the password")
        if demanded != ():
            text, remedy = self._explain(transport, refused, demanded)
            raise AuthenticationError(text, host=self._target.shown, remedy=remedy)

    def _explain(
        self, transport: paramiko.Transport, refused: Sequence[_Key | str], demanded: Sequence[str] | None
    ) -> tuple[str, str]:
        """Why the login failed, and what to do."""
        if not refused and not self._accepted:
            return (
                f"there is nothing to log in with as {self._shown_user}: the connection has no key_file, "
                "private_key or password",
                'Add one, or "look_for_keys": true to offer the worker\'s ~/.ssh/id_* keys',
            )
        if demanded:
            more = _names(demanded)
            return f"the server accepted {self.method} of user {self._shown_user}, but demands {more} as well", ""
        takes = f"; it takes {_names(self._methods)}" if self._methods else ""
        text = (
            f"the server refused user {self._shown_user} with {' and '.join(map(str, refused))}{takes}. portmon does "
            "not try again, so that it locks no account"
        )
        remedy = "Check the user's authorized_keys and sshd's AllowUsers"
        for key in self._keys:
            if key.certificate is not None:
                names = plain(", ".join(key.certificate.principals), 200) or "all users"
                remedy = (
                    f"The certificate is for {names}: check that the user is one of them, and that the server trusts "
                    f"its authority {HostKey(*key.certificate.signer)} (TrustedUserCAKeys, or cert-authority in "
                    "authorized_keys), and has not revoked it"
                )
        extensions: Any = getattr(transport, "server_extensions", {})
        rsa = any(key.pkey.get_name() == "ssh-rsa" for key in self._keys)
        if rsa and "server-sig-algs" not in extensions and not (self._old and self._old.user_keys):
            remedy += (
                ". The server does not say that it knows RSA with SHA-2, and SHA-1 is not spoken by default: an "
                f"ed25519 key may help, or {_OLD_KEYS}"
            )
        return text, remedy

    def _offer(
        self, transport: paramiko.Transport, method: Callable[[str, Any], list[str]], secret: Any
    ) -> tuple[str, ...] | None:
        """Offer one key or password.

        :returns: the methods that the host demands besides, none if the login is complete; None if it refused
        """
        started = time.monotonic()
        try:
            return tuple(method(self._user, secret))
        except BadAuthenticationType as error:
            self._methods = error.allowed_types
            return None
        except (paramiko.SSHException, EOFError, OSError) as error:
            if "pubkey algorithm" in str(error):
                raise NegotiationError(
                    "the server takes no signature that this client can make with its RSA key: SHA-1 is not spoken "
                    "by default",
                    host=self._target.shown,
                    remedy=f"Use an ed25519 key, or a newer server; or {_OLD_KEYS}",
                ) from error
            if transport.is_active() and time.monotonic() - started >= self._timeout:
                raise ScanTimeoutError(
                    f"no answer to the login as {self._shown_user} within {self._timeout:g} s. A slow PAM, LDAP or "
                    "reverse DNS on the host does that",
                    host=self._target.shown,
                ) from error
            if isinstance(error, paramiko.AuthenticationException):
                if transport.is_active() or "transport shut down" not in str(error):
                    return None
                # Not a lost connection: the host would count another try as one more failure.
                raise AuthenticationError(
                    f"{software(transport.remote_version)} hung up on the login as {self._shown_user}. A forbidden "
                    "user, too many failures (MaxAuthTries) or a ban do that. portmon does not try again, so that it "
                    "locks no account",
                    host=self._target.shown,
                ) from error
            # What ended the connection says more than the failure to use it, and is told once.
            cause = transport.get_exception() or error
            raise ConnectionLostError(f"the login broke{why(cause)}", host=self._target.shown) from cause

    def _load(self, credentials: Credentials) -> Iterator[_Key]:
        if credentials.pkey is not None:
            yield self._certified(_Key(credentials.pkey, "private_key of the connection"), credentials.certificate)
        elif credentials.key_file:
            yield self._certified(self._read(credentials.key_file), credentials.certificate)
        if credentials.look_for_keys:
            for kind in ("ed25519", "ecdsa", "rsa"):
                path = Path(f"~/.ssh/id_{kind}").expanduser()
                if path.is_file() and str(path) != credentials.key_file:
                    yield self._read(str(path))
        if credentials.allow_agent:
            for key in paramiko.Agent().get_keys():
                yield _Key(key, "agent")

    def _certified(self, key: _Key, text: str | None) -> _Key:
        """The key with the certificate in a text, or with its own if it has one.

        :raises SetupError: the certificate can't be used
        """
        pkey, origin, host = key.pkey, "certificate of the connection", self._target.shown
        if text is None:
            blob = pkey.public_blob
            if blob is None or "-cert-" not in blob.key_type:
                return key
            text, origin = f"{blob.key_type} {base64.b64encode(blob.key_blob).decode()}", f"{key.origin}-cert.pub"
        found = self._read_certificate(text, origin)
        problem = found.problem(datetime.now(UTC))
        if found.key != (pkey.get_name(), pkey.get_base64()):
            problem = f"it is of another key than that in {key.origin}"
        if problem is not None:
            raise SetupError(
                f"the {found} ({origin}) is of no use: {problem}. No login was tried",
                host=host,
                remedy="Let the authority sign a new one",
            )
        if origin != f"{key.origin}-cert.pub":
            # Not the key that other logins of the task share.
            pkey = copy.copy(pkey)
            pkey.load_certificate(text)
        return _Key(pkey, key.origin, found)

    def _read_certificate(self, text: str, origin: str) -> Certificate:
        try:
            return certificates.read(text)
        except ValueError as error:
            raise SetupError(f"{origin} is no SSH certificate: {error}", host=self._target.shown) from error

    def _read(self, name: str) -> _Key:
        """The key in a file; the password is used up if it unlocks it."""
        place = (name, self._password)
        if place not in self._key_files:
            self._key_files[place] = self._open(name)
        pkey, unlocked = self._key_files[place]
        if unlocked:
            self._password = None
        return _Key(pkey, name)

    def _open(self, name: str) -> tuple[paramiko.PKey, bool]:
        path, host = Path(name).expanduser(), self._target.shown
        beside = path.with_name(f"{path.name}-cert.pub")
        if beside.is_file():
            # paramiko reads it with the key, and takes a failure for one of the key.
            self._read_certificate(beside.read_text("utf-8", "replace"), str(beside))
        try:
            return paramiko.PKey.from_path(path), False
        except OSError as error:
            raise SetupError(f"key file {name}: {error.strerror}", host=host) from error
        # Every layer below has its own exceptions for a key that it does not like.
        except Exception as error:
            # cryptography raises TypeError, or ValueError, paramiko PasswordRequiredException; all say `password`.
            if "password" not in str(error).lower():
                text = f"key file {name} is no private key that can be used{why(error)}"
                raise SetupError(text, host=host) from error
        if self._password is None:
            raise SetupError(f"key file {name} has a passphrase: put it into the connection's password", host=host)
        try:
            # Bytes, unlike its signature: it hands them to cryptography.
            return paramiko.PKey.from_path(path, self._password.encode()), True  # type: ignore[arg-type]
        except Exception as error:
            text = f"key file {name} can't be opened with the connection's password as its passphrase"
            raise SetupError(text, host=host) from error


def _names(methods: Sequence[str]) -> str:
    """Names that a host gave, of which there may be any number."""
    return plain(", ".join(methods), 300)
