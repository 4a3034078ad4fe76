"""Debian's servers of UDP on a booted host, the clients that ask them all the time, and looks in simulated time."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from portmon.model.numbers import UDP, number_of
from portmon.storage.database import Database
from tests.worlds.booted import BootedHost
from tests.worlds.lab import Lab
from tests.worlds.site import Site
from tests.worlds.waiting import until

IP = "/usr/sbin/ip"
UPSTREAM_PORT = 5300
MDNS = 5353
PATIENCE = 1
"""Seconds that a resolver may wait."""
ANSWER = "127.0.0.9"
"""To each question for a name."""

SCOPE = ("systemd-run", "--quiet", "--collect", "--scope")

CLIENTS = r"""
import random, socket, struct, sys
address, seed = sys.argv[1:]
chance = random.Random(seed)
SNMP = bytes.fromhex("302602010104067075626c6963a019020101020100020100300e300c06082b060102010101000500")
PORTS = {"dns": 53, "forwarder": 5301, "ntp": 123, "snmp": 161, "syslog": 514}

def one():
    while True:
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        found.settimeout(2)
        port = chance.randrange(1024, 65536)
        try:
            if port not in (4789, 5301, 5353, 51820):
                found.bind(("0.0.0.0", port))
                return found
        except OSError:
            pass
        found.close()

def query():
    name = f"n{chance.randrange(10**9)}".encode()
    return struct.pack("!6H", chance.randrange(65536), 256, 1, 0, 0, 0) + bytes([len(name)]) + name + bytes([3]) + b"lab" + bytes([0, 0, 1, 0, 1])

def answered(client, text, port):
    for _ in range(6):
        try:
            return client.recv(2000)
        except TimeoutError:
            client.sendto(text, (address, port))

# As a browser has one for QUIC: on a port that the kernel chose, for life.
browser = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
browser.bind(("0.0.0.0", 0))
asked = []
for line in sys.stdin:
    what, *services = line.split()
    if what == "ask":
        for service in services:
            for _ in range({"dns": chance.randrange(1, 9), "forwarder": 2}.get(service, 1)):
                client = one()
                text = {"ntp": bytes([35]) + bytes(47), "snmp": SNMP, "syslog": b"<13>client: a line"}.get(service) or query()
                client.sendto(text, (address, PORTS[service]))
                asked.append((service, client, text))
        print("asked", flush=True)
    else:
        silent = set()
        for service, client, text in asked:
            if service != "syslog" and not answered(client, text, PORTS[service]):
                silent.add(service)
            client.close()
        asked = []
        print("heard", *sorted(silent), flush=True)
"""
"""Clients on the host, each on a random port of its own: they ask, and hold their sockets until they are told to hear."""

LISTENER = """
import signal, socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
    one.setsockopt(socket.SOL_SOCKET, option, 1)
one.bind(("0.0.0.0", 5353))
signal.pause()
"""
"""A program that hears mDNS beside the service, as a browser does."""


@dataclass(frozen=True, slots=True)
class Service:
    """What runs as one unit.

    :param unit: without ``.service``
    :param program: a path; it must be there
    :param client: what asks it, None if nothing does
    :param sockets: on each of its UDP ports at least
    """

    unit: str
    program: str
    udp: tuple[int, ...]
    tcp: tuple[int, ...] = ()
    client: str | None = None
    sockets: int = 1

    @property
    def ports(self) -> list[int]:
        """Their numbers in the order of events of one look."""
        return sorted((*self.tcp, *(number_of(UDP, port) for port in self.udp)))


SERVICES = (
    Service("unbound", "/usr/sbin/unbound", (53,), (53,), client="dns"),
    Service("dnsmasq", "/usr/sbin/dnsmasq", (67, 5301), (5301,), client="forwarder"),
    Service("chrony", "/usr/sbin/chronyd", (123, 323), client="ntp"),
    Service("rsyslog", "/usr/sbin/rsyslogd", (514,), client="syslog"),
    Service("snmpd", "/usr/sbin/snmpd", (161,), client="snmp"),
    Service("avahi-daemon", "/usr/sbin/avahi-daemon", (MDNS,), sockets=2),
    Service("vxlan", IP, (4789,)),
    Service("wireguard-stand-in", IP, (51820,)),
)
"""The last two are sockets of the kernel, which no process has. This kernel need not have WireGuard: VXLAN stands for it."""


def no_vxlan() -> str | None:
    """Why there are no sockets of the kernel here; None if there are."""
    trial = ("unshare", "--net", IP, "link", "add", "trial", "type", "vxlan", "id", "1", "dstport", "4789")
    return "the kernel has no VXLAN" if subprocess.run(trial, capture_output=True, check=False).returncode else None


class SimulatedSite(Site):
    """Hosts of the lab under watch. Each look is real, and the clock goes a minute from one to the next."""

    interval = timedelta(minutes=1)

    def __init__(self, lab: Lab, folder: Path, database: Database, patch: pytest.MonkeyPatch) -> None:
        super().__init__(lab, folder, database, patch)
        site = self

        class Clock:
            @staticmethod
            def now(tz: tzinfo | None = None) -> datetime:
                return site.now

        for module in ("portmon.scan.host", "portmon.airflow.operators.netstat"):
            patch.setattr(f"{module}.datetime", Clock)

    @property
    def now(self) -> datetime:
        return self.start + self.number * self.interval


class Upstream:
    """What resolvers ask: a server of DNS that answers when it is let to.

    :param address: of this machine
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, UPSTREAM_PORT))
        self._may_answer = threading.Event()
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """No answer within, so that resolvers wait with their sockets open, but not so long that they give up."""
        self._asked.clear()
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    def wait_until_asked(self) -> None:
        """Wait until a resolver asked since it got silent."""
        assert self._asked.wait(10), "no resolver asks"

    def close(self) -> None:
        """End it."""
        self._may_answer.set()
        # An empty datagram ends it.
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        patience = 0.0
        while True:
            query, client = self._socket.recvfrom(2000)
            if not query:
                return
            if not self._asked.is_set():
                patience = time.monotonic() + PATIENCE
                self._asked.set()
            self._may_answer.wait(max(0, patience - time.monotonic()))
            end = query.index(b"\0", 12) + 5
            header = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(ANSWER)
            self._socket.sendto(header + query[12:end] + answer, client)


class UdpHost:
    """A booted host with services of UDP, and clients on it.

    :param services: those that it has
    """

    def __init__(self, host: BootedHost, services: Collection[Service]) -> None:
        self.host = host
        self.services = list(services)
        self.gone: set[str] = set()
        self.heard = 0
        self._browser = False
        self._has_netstat = True
        self.upstream = Upstream(_outer(host))
        self._clients: subprocess.Popen[str] | None = None

    def close(self) -> None:
        """End the clients and what resolvers ask."""
        self._end_clients()
        self.upstream.close()

    # ── the services ────────────────────────────────────────────────────────────────────────────

    def install(self) -> None:
        """Write the configuration of all services, as a disk would have it after a boot."""
        outer, address = _outer(self.host), self.host.address
        for path, text in _files(outer, address).items():
            self.host.write(path, text)
        for unit, lines in _units(address).items():
            self.host.write(f"/etc/systemd/system/{unit}", lines)
        self.host.run("systemctl", "daemon-reload")
        if not self._has_netstat:
            self.take_netstat()
        self._start_clients()

    def start(self, service: Service) -> None:
        """Start a service, and wait until it has its ports."""
        self.host.start(f"{service.unit}.service")
        self._wait_for(service)
        self.gone.discard(service.unit)

    def restart(self, service: Service) -> None:
        """Start a service again, between two looks."""
        self.host.run("systemctl", "restart", f"{service.unit}.service")
        self._wait_for(service)

    def kill(self, service: Service) -> None:
        """End a service: its processes, as an out-of-memory killer does; the kernel's sockets, as an administrator does."""
        unit = f"{service.unit}.service"
        if self.host.run("systemctl", "show", "--property=Type", "--value", unit).strip() == "oneshot":
            self.host.stop_unit(unit)
        else:
            self.host.run("systemctl", "kill", "--signal=KILL", unit)
        for port in service.udp:
            until(lambda port=port: len(self.sockets(port)) == self._others(port), what=f"the end of {service.unit}")
        self.gone.add(service.unit)

    @contextmanager
    def away(self, service: Service) -> Iterator[None]:
        """No client asks a service within."""
        self.gone.add(service.unit)
        yield
        self.gone.remove(service.unit)

    def take_netstat(self) -> None:
        """Take netstat away for good, so that ss has its turn."""
        self._has_netstat = False
        self.host.run("mv", "/usr/bin/netstat", "/usr/bin/netstat.away")

    def start_browser(self) -> None:
        """Start a program of a login that hears mDNS as well."""
        before, self._browser = len(self.sockets(MDNS)), True
        start = "exec setsid python3 /opt/listener.py >/dev/null 2>&1 </dev/null &"
        self.host.run(*SCOPE, "--unit=session-7.scope", "--slice=user-0.slice", "sh", "-c", start)
        until(lambda: len(self.sockets(MDNS)) > before, what="the browser")

    def end_browser(self) -> None:
        """End that program."""
        before, self._browser = len(self.sockets(MDNS)), False
        self.host.run("pkill", "-KILL", "-f", "listener.py")
        until(lambda: len(self.sockets(MDNS)) < before, what="the end of the browser")

    def sockets(self, port: int) -> list[str]:
        """The UDP sockets without a peer on a port."""
        return self.host.run("ss", "-Huln", f"sport = {port}").splitlines()

    def _wait_for(self, service: Service) -> None:
        for port in service.udp:
            wanted = service.sockets + self._others(port)
            until(lambda port=port, wanted=wanted: len(self.sockets(port)) >= wanted, what=f"{service.unit} on {port}")

    def _others(self, port: int) -> int:
        """Sockets on a port that are not the service's."""
        return int(self._browser and port == MDNS)

    # ── a reboot ────────────────────────────────────────────────────────────────────────────────

    def power_off(self) -> None:
        """End everything, and what the kernel would lose."""
        self._end_clients()
        self.host.stop()
        self.host.remove_units()
        for device in ("wg0", "vxlan0"):
            subprocess.run(["ip", "-n", self.host.netns, "link", "del", device], capture_output=True, check=False)
        self.gone = {service.unit for service in self.services}

    def power_on(self) -> None:
        """Boot; no service is started yet."""
        self.host.new_boot_id()
        self.host.start_sshd()
        self.install()

    # ── the clients ─────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Clients wait for their answers within, and resolvers for theirs; all of them get one afterwards."""
        if self._clients is None:
            yield
            return
        asked = [one.client for one in self.services if one.client and one.unit not in self.gone]
        # It asks unbound.
        if "dns" not in asked and "forwarder" in asked:
            asked.remove("forwarder")
        with self.upstream.silent():
            assert self._tell("ask", *asked) == ["asked"]
            if "dns" in asked:
                self.upstream.wait_until_asked()
            yield
        heard, *silent = self._tell("hear")
        assert heard, "the clients have ended"
        assert not silent, f"no answer from {silent}"
        self.heard += len(asked)

    def _tell(self, *words: str) -> list[str]:
        clients = self._clients
        assert clients is not None
        assert clients.stdin is not None
        assert clients.stdout is not None
        clients.stdin.write(" ".join(words) + "\n")
        clients.stdin.flush()
        return clients.stdout.readline().split()

    def _start_clients(self) -> None:
        self.host.write("/opt/clients.py", CLIENTS)
        self.host.write("/opt/listener.py", LISTENER)
        enter = ("nsenter", "--all", "--target", str(self.host.init), *SCOPE, "--unit=session-4.scope")
        self._clients = subprocess.Popen(
            [*enter, "/usr/bin/python3", "/opt/clients.py", self.host.address, "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _end_clients(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            clients.kill()
            clients.communicate()


def _outer(host: BootedHost) -> str:
    """The address of this machine on the link of a host."""
    return f"{host.address.rpartition('.')[0]}.1"


def _files(outer: str, address: str) -> dict[str, str]:
    """Configurations, which let the services hold ports that they choose, where they have such."""
    return {
        "/etc/unbound/unbound.conf": "server:\n interface: 0.0.0.0\n interface: ::\n access-control: 0.0.0.0/0 allow\n"
        ' num-threads: 2\n udp-connect: no\n module-config: "iterator"\n chroot: ""\n use-syslog: no\n'
        f'forward-zone:\n name: "."\n forward-addr: {outer}@{UPSTREAM_PORT}\n',
        "/etc/dnsmasq.conf": f"port=5301\nserver={address}\nno-resolv\ncache-size=0\nbind-interfaces\n"
        f"listen-address={address}\ndhcp-range=10.250.0.10,10.250.0.20\n",
        "/etc/default/dnsmasq": "IGNORE_RESOLVCONF=yes\nDNSMASQ_EXCEPT=lo\n",
        "/etc/chrony/chrony.conf": f"local stratum 8\nallow\nserver {outer} iburst\n",
        "/etc/default/chrony": 'DAEMON_OPTS="-F -1 -x"\n',
        "/etc/rsyslog.conf": 'module(load="imudp")\ninput(type="imudp" port="514")\n'
        f"*.* /var/log/all.log\n*.* @{outer}:5514\n",
        "/etc/snmp/snmpd.conf": f"agentaddress udp:161,udp6:161\nrocommunity public\ntrap2sink {outer} public\n",
        "/etc/avahi/avahi-daemon.conf": "[server]\nenable-dbus=no\n[wide-area]\nenable-wide-area=yes\n",
    }


def _units(address: str) -> dict[str, str]:
    """Units, and parts of Debian's."""
    # A sandbox takes mounts that are not allowed here.
    open_box = "".join(
        f"Protect{what}=no\n"
        for what in ("System", "Home", "KernelTunables", "KernelModules", "KernelLogs", "ControlGroups", "Hostname")
    )
    box = f"{open_box}PrivateTmp=no\nProtectProc=default\nProcSubset=all\nReadWritePaths=\nDevicePolicy=auto\nDeviceAllow=\n"
    units = {
        "chrony": f"[Unit]\nConditionCapability=\n[Service]\n{box}",
        "avahi-daemon": "[Unit]\nRequires=\n[Service]\nType=simple\nBusName=\n",
        # What is killed stays so.
        "unbound": "[Service]\nRestart=no\n",
        "rsyslog": "[Service]\nRestart=no\n",
    }
    tunnel = (
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=ip link add {0} type vxlan id 1 dstport {1} local {2} dev eth0\n"
        "ExecStart=ip link set {0} up\nExecStop=ip link del {0}\n"
    )
    return {f"{name}.service.d/lab.conf": lines for name, lines in units.items()} | {
        "vxlan.service": tunnel.format("vxlan0", 4789, address),
        "wireguard-stand-in.service": tunnel.format("wg0", 51820, address),
    }
