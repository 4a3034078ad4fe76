"""UDP services under watch: Debian's own on a host that systemd has booted, clients that ask them, real SSH and netstat.

Each look is a real one: a login over SSH, and the tools that run there. Only the clock is not: it goes a minute from one look to
the next. So the clients of one look are gone before the next one, as those that ask for some seconds are in a minute.

WireGuard, which has no process, is a stand-in: VXLAN on its port, as the kernel here has no WireGuard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from portmon.model.event import Event
from portmon.model.host import Host
from portmon.model.numbers import UDP, number_of
from portmon.storage import tables
from tests.worlds.booted import BootedHost, missing
from tests.worlds.databases import migrated
from tests.worlds.lab import Lab
from tests.worlds.udp_services import ANSWER, IP, SERVICES, Service, SimulatedSite, UdpHost, no_vxlan
from tests.worlds.waiting import skip_without, until

pytestmark = pytest.mark.slow

DAY = 24 * 60
BY_UNIT = {service.unit: service for service in SERVICES}

Told = list[tuple[str, int | None]]


class World:
    """The host under watch."""

    def __init__(self, site: SimulatedSite, udp: UdpHost) -> None:
        self.site = site
        self.udp = udp

    def watch(self, services: Sequence[Service]) -> None:
        """Start services, and look as often as it takes to learn what they have."""
        for service in services:
            self.udp.start(service)
        self.site.listed = [Host("id-dns1", "dns1", self.udp.host.address)]
        assert self.look() == [("baseline", None)]
        self.quiet(2)

    def look(self) -> Told:
        """A look while clients wait for their answers; what it told, notes as well, with the numbers of ports."""
        with self.udp.traffic():
            self.site.run()
        return [(event.kind.value, _number(event)) for event in self.site.events(self.site.run_of().run_id)]

    def quiet(self, looks: int) -> None:
        """So many looks that tell nothing."""
        for _ in range(looks):
            assert self.look() == [], f"look {self.site.number}"

    def quiet_until(self, look: int) -> None:
        """Looks that tell nothing, up to one of the day."""
        self.quiet(look - self.site.number)

    def restarts(self, service: Service) -> None:
        """A service is started again while a look is under way: a note, in that look or the next one."""
        with self.udp.away(service):
            restart = threading.Thread(target=self.udp.restart, args=(service,))
            restart.start()
            told = self.look()
            restart.join()
        assert sorted(told + self.look()) == [("restarted", port) for port in service.ports]

    def dies(self, service: Service, kind: str = "down") -> None:
        """A service dies, which the next look tells and the ones after it do not, until it is back."""
        before = len(self.site.messages)
        self.udp.kill(service)
        assert sorted(self.look()) == [(kind, port) for port in service.ports]
        told = self.site.events(self.site.run_of().run_id)
        assert {event.severity for event in told} == {"critical"}
        self.quiet(3)
        self.udp.start(service)
        assert sorted(self.look()) == [("recovered", port) for port in service.ports]
        assert len(self.site.messages) == before + 2

    def watched(self) -> list[int]:
        """The UDP ports that are watched."""
        ports = tables.ports
        with self.site.database.begin() as conn:
            rows = conn.execute(ports.select().where(ports.c.protocol == UDP)).all()
        return sorted(row.port for row in rows if row.status != "candidate")


def _number(event: Event) -> int | None:
    return None if event.port is None else number_of(event.protocol or "tcp", event.port)


Boot = Callable[..., World]


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boot]:
    """Boots a host with services."""
    with ExitStack() as stack:

        def make(services: Sequence[Service], *programs: str, confirm_after: str = "0.05s") -> World:
            skip_without(missing("/usr/bin/python3", *(service.program for service in services), *programs))
            if any(service.program == IP for service in services):
                skip_without(no_vxlan())
            lab = stack.enter_context(closing(Lab(["dns1"], BootedHost)))
            (host,) = lab.hosts.values()
            assert isinstance(host, BootedHost)
            database = migrated(tmp_path / "state.db")
            stack.callback(database.dispose)
            site = SimulatedSite(lab, tmp_path, database, monkeypatch)
            site.log_in_as("root")
            site.configure(
                scan={"protocols": ["tcp", "udp"], "confirm_after": confirm_after},
                states={"unreachable_after": 2, "ephemeral_after": 3},
                # It is in the range of random ports, which are not learned.
                declared=[{"port": "51820/udp"}] if BY_UNIT["wireguard-stand-in"] in services else [],
            )
            udp = stack.enter_context(closing(UdpHost(host, services)))
            udp.install()
            return World(site, udp)

        yield make


@pytest.mark.parametrize("tool", ["netstat", pytest.param("ss", marks=pytest.mark.full)])
def test_a_restart_is_silent_and_a_death_is_told(boot: Boot, tool: str) -> None:
    services = [BY_UNIT["unbound"], BY_UNIT["rsyslog"]]
    world = boot(services)
    if tool == "ss":
        world.udp.take_netstat()
    world.watch(services)
    for service in services:
        world.udp.restart(service)
        assert sorted(world.look()) == [("restarted", port) for port in service.ports]
    assert world.site.messages == []
    for service in services:
        world.dies(service)
    assert world.watched() == [53, 514]
    assert len(world.site.messages) == 4


def _debians_clients(world: World) -> None:
    """The services answer Debian's own clients as well."""
    host = world.udp.host
    assert host.run("dig", "+short", f"@{host.address}", "debian.lab").strip() == ANSWER
    assert host.run("dig", "+short", "-p", "5301", f"@{host.address}", "debian.lab").strip() == ANSWER
    assert "Timeticks" in host.run("snmpget", "-v2c", "-c", "public", host.address, "1.3.6.1.2.1.1.3.0")
    said = f"look-{world.site.number}"
    host.run("logger", "-d", "-n", host.address, said)
    until(lambda: said in host.run("tail", "-n", "5", "/var/log/all.log"), what="the line of syslog")


def _reboots(world: World) -> None:
    """The host reboots. One look finds it off, and then its services start, one in each minute."""
    world.udp.power_off()
    world.quiet(1)
    world.udp.power_on()
    assert world.look() == [("rebooted", None)]
    for service in SERVICES:
        world.udp.start(service)
        world.quiet(1)


@pytest.mark.full
@pytest.mark.long
def test_a_day_in_which_each_service_is_restarted_once_and_dies_once_and_the_host_reboots(boot: Boot) -> None:
    """1440 looks, none of them left out, by netstat for the first third of the day and by ss from then on.

    A service is restarted while a look is under way, which finds it or asks once more after two seconds.
    """
    world = boot(SERVICES, "/usr/bin/dig", "/usr/bin/snmpget", confirm_after="2s")
    world.watch(SERVICES)
    _debians_clients(world)
    for number, (unit, service) in enumerate(BY_UNIT.items()):
        start = 10 + 120 * number
        world.quiet_until(start)
        if number == len(BY_UNIT) // 2:
            world.udp.take_netstat()
        world.restarts(service)
        world.quiet_until(start + 50)
        if unit == "avahi-daemon":
            # A browser hears beside it until it is back, and is not missed.
            world.udp.start_browser()
        world.quiet_until(start + 60)
        world.dies(service, "owner_gone" if unit == "avahi-daemon" else "down")
        if unit == "avahi-daemon":
            world.udp.end_browser()
    world.quiet_until(1020)
    deaths = len(world.site.messages)
    assert deaths == 2 * len(SERVICES)
    _reboots(world)
    world.quiet_until(DAY)
    _debians_clients(world)
    # Of the reboot.
    assert len(world.site.messages) == deaths + 1
    assert world.watched() == sorted(port for service in SERVICES for port in service.udp)
    assert world.udp.heard > 4 * DAY
