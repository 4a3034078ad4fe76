"""A host of the compose profile ``demo``: sshd and services that listen, the first process of its container.

    python3 host.py --name demo-web1 --keys /var/lib/demo 8080=nginx 5432=postgres [-- more options of sshd]

``docker compose exec demo-web1 pkill nginx`` kills a service, and it stays dead until the container starts again. Only
Python's standard library is needed: the image has no packages of portmon.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

SERVICE = """
import ctypes, signal, socket, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
held = socket.create_server(("", int(sys.argv[2])))
print("ready", flush=True)
signal.pause()
"""
"""A service: it has its name for ss and for netstat, and dies with its host."""


def start_service(port: str, name: str, user: int | None) -> None:
    """Start a service and wait until it listens.

    :param user: whose process it is: without sudo an account sees the names of its own programs only
    """
    command = [name, "-c", SERVICE, name, port]
    service = subprocess.Popen(
        command,
        # Under another name Python does not find its library by itself.
        executable=getattr(sys, "_base_executable", sys.executable),
        env={**os.environ, "PYTHONHOME": sys.base_prefix},
        user=user,
        stdout=subprocess.PIPE,
        text=True,
    )
    if service.stdout is None or service.stdout.readline() != "ready\n":
        sys.exit(f"{name} can't listen on port {port}")


def host_key(folder: Path, name: str) -> Path:
    """The host's key, made at its first start: one in the image would be known to all who have the image."""
    key = folder / name
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key], check=True)
    return key


def be_a_machine(name: str) -> None:
    """Containers of one image have no machine id, and portmon would take them for one machine under several names."""
    if os.getpid() == 1:
        Path("/etc/machine-id").write_text(name.encode().hex().ljust(32, "0")[:32] + "\n")


def main() -> NoReturn:
    """Run until sshd ends, or until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--user", type=int)
    own, _, of_sshd = " ".join(sys.argv[1:]).partition(" -- ")
    parser.add_argument("services", nargs="*", metavar="PORT=NAME")
    given = parser.parse_args(own.split())
    # The first process of a container ends by a signal only if it says so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    be_a_machine(given.name)
    for service in given.services:
        start_service(*service.split("=", 1), given.user)
    key = host_key(given.keys, given.name)
    Path("/run/sshd").mkdir(exist_ok=True)
    config = Path(__file__).with_name("sshd_config")
    sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-h", key, *of_sshd.split(), "-f", config])
    print(f"{given.name} is ready", flush=True)
    try:
        # All children are waited for, or services that were killed would stay as zombies.
        while os.wait()[0] != sshd.pid:
            pass
    finally:
        sshd.terminate()
    sys.exit("sshd ended")


if __name__ == "__main__":
    main()
