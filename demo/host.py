"""One host of the demo fleet: an SSH server and services with real sockets. A process of its own.

:mod:`demo.fleet` starts it, where possible inside network and process namespaces of its own; it inherits the SSH socket
from outside. It takes orders on stdin, one JSON list per line, answers each with a line, and ends with its stdin.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

import paramiko

SERVICE = """
import ctypes, signal, socket, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].split()[0].rstrip(":").encode(), 0, 0, 0)
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
place = sys.argv[2], int(sys.argv[3])
if sys.argv[4] == "udp":
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    held.bind(place)
else:
    held = socket.create_server(place)
print("ready", flush=True)
signal.pause()
"""
"""A service: it listens, has its name for ss and for netstat, and dies with its host."""


class Server(paramiko.ServerInterface):
    """Lets one key in and runs commands with sh."""

    def __init__(self, key: paramiko.PKey, user: str) -> None:
        self.key, self.user = key, user
        self.command: bytes | None = None
        self.asked = threading.Event()

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = username == self.user and key == self.key
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=run, args=(channel, command), daemon=True).start()
        return True


def run(channel: paramiko.Channel, command: bytes) -> None:
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
    channel.sendall(done.stdout)
    channel.sendall_stderr(done.stderr)
    channel.send_exit_status(done.returncode)
    channel.close()


class Host:
    """State of the host.

    :param bind: address that services listen on
    """

    def __init__(self, listening: socket.socket, host_key: str, client_key: str, user: str, bind: str) -> None:
        self.listening = listening
        self.host_key = paramiko.Ed25519Key.from_private_key_file(host_key)
        name, _, blob = client_key.partition(" ")
        self.client_key = paramiko.PKey.from_type_string(name, base64.b64decode(blob))
        self.user, self.bind = user, bind
        self.services: dict[tuple[int, str], subprocess.Popen[str]] = {}
        self.connected = threading.Event()
        self.connected.set()

    def serve(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            threading.Thread(target=self.handle, args=(connection,), daemon=True).start()

    def handle(self, connection: socket.socket) -> None:
        # Cut off: TCP still connects, as through a half-dead link, but no byte ever comes.
        self.connected.wait()
        transport = paramiko.Transport(connection)
        transport.add_server_key(self.host_key)
        try:
            transport.start_server(server=Server(self.client_key, self.user))
            transport.join()
        except (paramiko.SSHException, EOFError, OSError):
            transport.close()

    def order(self, verb: str, *arguments: Any) -> None:
        getattr(self, f"do_{verb}")(*arguments)

    def do_start(self, port: int, name: str, protocol: str) -> None:
        process = subprocess.Popen(
            [name, "-c", SERVICE, name, self.bind, str(port), protocol],
            executable=getattr(sys, "_base_executable", sys.executable),
            env={**os.environ, "PYTHONHOME": sys.base_prefix},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{name} can't listen on {self.bind}:{port}")
        self.services[port, protocol] = process

    def do_kill(self, port: int, protocol: str) -> None:
        process = self.services.pop((port, protocol))
        process.kill()
        process.wait()

    def do_cut(self) -> None:
        self.connected.clear()

    def do_join(self) -> None:
        self.connected.set()


def loopback_up() -> None:
    """Do what ``ip link set lo up`` does, without ``ip``."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, 0x8913, request))[1]
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", flags | 1))


def main() -> None:
    # The kernel ends this process with its parent, even if the parent was killed.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    settings = json.loads(sys.argv[1])
    if settings["own_network"]:
        loopback_up()
    host = Host(
        socket.socket(fileno=settings["fd"]),
        settings["host_key"],
        settings["client_key"],
        settings["user"],
        settings["bind"],
    )
    threading.Thread(target=host.serve, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            host.order(*json.loads(line))
            print("ok", flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
    for service in list(host.services):
        host.do_kill(*service)


if __name__ == "__main__":
    main()
