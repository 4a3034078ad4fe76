"""paramiko's transport, with limits on the memory and computing that a host can cause in this process.

A host may send any bytes, before the login too. Every packet has a length that it must not exceed, compressed or not;
data outside a command is bounded in sum, and data within one by the window that the host was given. Each phase has its
deadline elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

import paramiko
from paramiko.channel import Channel
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA, MSG_KEXINIT
from paramiko.compress import ZlibCompressor
from paramiko.packet import Packetizer as PlainPacketizer

from portmon.ssh.algorithms import FloodError, Gex, allow
from portmon.ssh.target import Options
from portmon.ssh.trust import KnownKeys

LOG_CHANNEL = "portmon.ssh.paramiko"
"""paramiko logs here, tracebacks of its threads included. Silent unless its level is set."""
READ = 65536
"""Bytes that are read at once."""
HEAD = 8192
"""First bytes of a connection that are kept to explain a failed handshake."""
MAX_LINES = 1024
"""Lines that may stand before the version (RFC 4253, section 4.2); as many as OpenSSH's client reads …"""
MAX_LINE = 8192
"""… and bytes of one of them, or of the version."""
MAX_PACKET = 256 * 1024
"""Bytes of a packet, compressed or not: OpenSSH's limit."""
MAX_KEX_PACKET = 35_000
"""Bytes of a packet of the key exchange: as many as RFC 4253 demands (section 6.1). paramiko reads a number in
quadratic time, 3.7 s for one of 256 KiB."""
MAX_EXCHANGES = 20
"""Key exchanges of one connection."""
MAX_EXTENSIONS = 1000
"""Extensions that a host names. paramiko loops over the number that is announced, up to 2**32."""
ALLOWANCE = 512 * 1024
"""Bytes that a host may send until a command is run, and after one: more than twice the longest greeting."""
PACKET_COST = 32
"""Bytes that each packet counts for besides its content: about what surrounds it on the wire."""

_paramiko_log = logging.getLogger(LOG_CHANNEL)
if _paramiko_log.level == logging.NOTSET:
    _paramiko_log.setLevel(logging.CRITICAL + 1)

# Of names that its type stubs leave out.
_PLAIN: Any = paramiko.Transport
_CHANNEL: Any = Channel


class Tap:
    """A socket that reads all there is at once, since paramiko asks for a few bytes at a time. It keeps the first
    bytes, which hold the host's SSH version and algorithms.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._read = b""
        self._at = 0
        self.head = bytearray()

    def recv(self, size: int) -> bytes:
        """As a socket's."""
        self._fill()
        data = self._read[self._at : self._at + size]
        self._at += len(data)
        return data

    def read_to_line_end(self) -> bytes:
        """The bytes up to the end of a line, or all there are; at least one, unless the connection ended."""
        self._fill()
        end = self._read.find(b"\n", self._at) + 1
        return self.recv((end or len(self._read)) - self._at)

    def begin_head(self, line: bytes) -> None:
        """Let the head begin with a line that was just read, whatever stood before it."""
        self.head = bytearray((line + self._read[self._at :])[:HEAD])

    def close(self) -> None:
        """Close it; one that leads through a jump host says so there, where the connection may have ended already."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._sock.close()

    def _fill(self) -> None:
        if self._at == len(self._read):
            self._read, self._at = self._sock.recv(READ), 0
            self.head += self._read[: HEAD - len(self.head)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Packetizer(PlainPacketizer):
    """Packets of bounded size and number; ``allowance`` is the bytes that the host may still send."""

    def __init__(self, tap: Tap) -> None:
        super().__init__(tap)  # type: ignore[arg-type]
        self._tap = tap
        self.allowance: float = ALLOWANCE

    def start_handshake(self, timeout: float) -> None:
        """Start no timer, which would be one more thread: :class:`Transport` has a deadline for the handshake."""

    def readline(self, timeout: float) -> str:
        """The host's SSH version, without the text before it, which may have any encoding.

        :param timeout: not used: it would restart with every byte, and the handshake has a deadline
        :raises FloodError: there is too much text
        """
        for _ in range(MAX_LINES):
            line = self._line()
            if line.startswith(b"SSH-"):
                self._tap.begin_head(line)
                # ASCII by the standard. The very bytes are signed in the key exchange, where paramiko encodes in UTF-8.
                return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        raise FloodError(f"printed {MAX_LINES:,} lines and no SSH version")

    def _line(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            try:
                piece = self._tap.read_to_line_end()
            except (TimeoutError, BlockingIOError):
                if self.closed:
                    raise EOFError from None
                continue
            if not piece:
                raise EOFError
            line += piece
            if len(line) > MAX_LINE:
                raise FloodError(f"printed a line of more than {MAX_LINE:,} bytes and no SSH version")
        return bytes(line)

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Read bytes of a packet.

        :raises FloodError: no packet is that long
        """
        if n > MAX_PACKET:
            raise FloodError(f"announced a packet of {n:,} bytes; the limit is {MAX_PACKET:,}")
        return super().read_all(n, check_rekey)

    def read_message(self) -> tuple[int, paramiko.Message]:
        """The next packet: its type and its content.

        :raises FloodError: it is too long for its type, or one too many
        """
        kind, message = super().read_message()
        size = len(message.asbytes())
        if MSG_KEXINIT <= kind < 50 and size > MAX_KEX_PACKET:
            raise FloodError(f"sent a packet of {size:,} bytes in the key exchange; the limit is {MAX_KEX_PACKET:,}")
        self.allowance -= size + PACKET_COST
        if self.allowance < 0:
            raise FloodError(f"sent more than {ALLOWANCE:,} bytes although no command ran")
        return kind, message


class Inflate:
    """Decompression for paramiko, of packets of bounded size."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj()

    def __call__(self, data: bytes) -> bytes:
        """Inflate a packet.

        :raises FloodError: too much
        """
        found = self._zlib.decompress(data, MAX_PACKET + 1)
        if len(found) > MAX_PACKET:
            raise FloodError(f"sent a packet that inflates to more than {MAX_PACKET:,} bytes")
        return found


def _within_window(feed: Callable[[Channel, Any], None]) -> Callable[[Channel, Any], None]:
    """Refuse data of a channel beyond the window that the host was given: paramiko keeps it all, also for a channel
    that is closed.
    """

    def bounded(channel: Channel, message: Any) -> None:
        feed(channel, message)
        if len(channel.in_buffer) + len(channel.in_stderr_buffer) > channel.in_window_size + MAX_PACKET:
            raise FloodError("sent more than its window without waiting until that is read")

    return bounded


class Transport(paramiko.Transport):
    """A transport that prefers the known host key, and whose start has a deadline, however slowly the host drips.

    ``refusal`` is what the server said when it opened no channel.
    """

    _compression_info: ClassVar[dict[str, Any]] = {
        **_PLAIN._compression_info,
        "zlib@openssh.com": (ZlibCompressor, Inflate),
        "zlib": (ZlibCompressor, Inflate),
    }
    _kex_info: ClassVar[dict[str, Any]] = {**_PLAIN._kex_info, Gex.name: Gex}
    _channel_handler_table: ClassVar[dict[int, Any]] = {
        **_PLAIN._channel_handler_table,
        MSG_CHANNEL_DATA: _within_window(_CHANNEL._feed),
        MSG_CHANNEL_EXTENDED_DATA: _within_window(_CHANNEL._feed_extended),
    }

    # Those that authenticate by themselves first: paramiko computes the MAC of the others byte by byte.
    _preferred_ciphers: ClassVar[Any] = tuple(
        sorted((name for name in _PLAIN._preferred_ciphers if "cbc" not in name), key=lambda name: "gcm" not in name)
    )
    _preferred_macs: ClassVar[Any] = tuple(
        name for name in _PLAIN._preferred_macs if "md5" not in name and not name.endswith("-96")
    )

    packetizer: Packetizer

    def __init__(self, sock: Any, options: Options, known: KnownKeys) -> None:
        super().__init__(sock, packetizer_class=Packetizer, disabled_algorithms=options.disabled_algorithms)
        self.set_log_channel(LOG_CHANNEL)
        self.use_compression(options.compress)
        self.auth_timeout = options.timeout
        # A send waits this long for the end of a key exchange that the host began.
        self.clear_to_send_timeout = options.timeout
        self.refusal = b""
        self._exchanges = 0
        self._wants_certificate = bool(known.authorities)
        security = self.get_security_options()
        self._old = options.algorithms
        if self._old is not None:
            allow(self, self._old)
        if options.ciphers:
            security.ciphers = tuple(options.ciphers)
        types = {key.type for key in known.keys}
        if "ssh-rsa" in types:
            # RSA keys have two algorithms.
            types |= {"rsa-sha2-256", "rsa-sha2-512"}
        security.key_types = tuple(sorted(security.key_types, key=lambda name: name not in types))

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Algorithms of host keys; certificates come before bare keys if an authority is trusted for the host."""
        known: Any = self._key_info  # type: ignore[attr-defined]
        names = tuple(name for name in super().preferred_keys if name in known)
        return tuple(sorted(names, key=lambda name: "-cert-" not in name)) if self._wants_certificate else names

    @property
    def preferred_pubkeys(self) -> tuple[str, ...]:
        """Algorithms by which the user's key may sign."""
        names = tuple(super().preferred_pubkeys)
        if self._old is None or not self._old.user_keys:
            return names
        # A server that does not say what it takes is one of before RFC 8332, as a rule.
        extensions: Any = self.server_extensions  # type: ignore[attr-defined]
        old = self._old.user_keys
        return (*names, *old) if "server-sig-algs" in extensions else (*old, *names)

    def start_client(self, event: threading.Event | None = None, timeout: float | None = None) -> None:
        """Agree on keys.

        :raises TimeoutError: not in time
        """
        done = event or threading.Event()
        super().start_client(event=done)
        if not done.wait(timeout):
            raise TimeoutError
        if not self.is_active():
            raise self.get_exception() or EOFError()

    def get_exception(self) -> Exception | None:
        """The error that ended the connection, told once: an SSHException, EOFError or OSError. paramiko's readers
        raise other errors too, which are wrapped.
        """
        error: Exception | None = super().get_exception()
        if error is None or isinstance(error, paramiko.SSHException | EOFError | OSError):
            return error
        wrapped = paramiko.SSHException(f"what it sent can't be read: {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return wrapped

    def _log(self, level: int, msg: Any, *args: Any) -> None:
        if self.logger.isEnabledFor(level):
            super()._log(level, msg, *args)  # type: ignore[misc]

    def _filter_algorithm(self, type_: str) -> Any:
        # Sixteen times in a handshake.
        if self.disabled_algorithms:
            return super()._filter_algorithm(type_)  # type: ignore[misc]
        return getattr(self, f"_preferred_{type_}")

    def _parse_debug(self, m: paramiko.Message) -> None:
        # sshd sends one for each option of a key. paramiko goes through it byte by byte, even if nothing is logged.
        if self.logger.isEnabledFor(logging.DEBUG):
            super()._parse_debug(m)  # type: ignore[misc]

    def _parse_kex_init(self, m: paramiko.Message) -> None:
        self._exchanges += 1
        if self._exchanges > MAX_EXCHANGES:
            raise FloodError(f"wants new keys for the {MAX_EXCHANGES}th time")
        super()._parse_kex_init(m)  # type: ignore[misc]

    def _parse_channel_open_failure(self, m: paramiko.Message) -> None:
        # paramiko drops the text: channel, code, text (RFC 4254, section 5.1).
        rest = paramiko.Message(m.get_remainder())
        rest.get_int()
        rest.get_int()
        self.refusal = rest.get_string()
        super()._parse_channel_open_failure(m)  # type: ignore[misc]

    def _parse_ext_info(self, msg: paramiko.Message) -> None:
        number = paramiko.Message(msg.get_remainder()).get_int()
        if number > MAX_EXTENSIONS:
            raise FloodError(f"announced {number:,} extensions; the limit is {MAX_EXTENSIONS:,}")
        super()._parse_ext_info(msg)  # type: ignore[misc]
