"""Random histories of small fleets, as data: runs that an implementation judges, and what went on in the world.

:func:`history` draws with ``pick(n)``, a whole number from 0 to n - 1: ``random.Random(seed).randrange``, or a draw of
hypothesis, which then shrinks towards fewer and simpler happenings, since 0 is always the dullest choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from portmon.engine.rules import Rule, RuleSet
from portmon.model.host import Host
from portmon.model.observation import EPHEMERAL_DEFAULT, Listener, Listing, Observation, Outcome
from portmon.probe.compare import program_of
from tests.worlds.reference import Defaults, Reference, Told
from tests.worlds.reference_owners import unit_name

Pick = Callable[[int], int]

START = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = timedelta(minutes=5)
PRUNE_AFTER = timedelta(days=1)
UDP = 65536
"""A UDP port is this much more here."""
PORTS = (22, 80, 40000, 40001, 50000)
PORTS_OF_UDP = (UDP + 53, UDP + 80, UDP + 40000)
ADDRESSES = ("0.0.0.0", "127.0.0.1", "10.0.0.5", "::", "10.0.0.6")
PROGRAMS = ("nginx", "java")
RANGES = (EPHEMERAL_DEFAULT, (45000, 60999), (1024, 65535))
RESERVED = ((), ((50000, 50000),), ((40001, 40002), (50001, 50001)))
FREE = (40002, 50001, 50002, 45000, 60000, 33000, 61000, 20000)
"""Ports that the kernel hands out here, in one of the ranges or none."""
FREE_OF_UDP = tuple(UDP + port for port in (40002, 2000, 20000, 61000))
FREE_OF_RPC = (700, 800, 1023, 511)
UNREACHABLE = ("timeout", "refused", "authentication", "no_route")
SETTINGS: tuple[Mapping[str, Any], ...] = (
    {},
    {"flap_threshold": 3, "ephemeral_after": 2},
    {"down_after": 2, "unreachable_after": 1},
    {"ephemeral_after": 1, "unreachable_after": 3, "reboot_grace": timedelta(minutes=7)},
    {"retire_after": timedelta(hours=3)},
    {"mature_after": timedelta(hours=2)},
    {"mature_after": timedelta(minutes=40), "retire_after": timedelta(hours=3), "down_after": 3},
)
POLICIES: tuple[tuple[Rule, ...], ...] = (
    (),
    (Rule(action="allow", label={"role": "web"}, port=[22, 80, "40000-50000"]), Rule(action="deny", port=[80])),
    (Rule(action="deny", label={"role": "web"}, program="java"),),
    (Rule(action="deny", bind="loopback"),),
    (Rule(action="deny", host="h1", port=80),),
    (Rule(action="allow", program="java"), Rule(action="allow", bind="wildcard")),
    (
        Rule(action="allow", port=22, restarts="note"),
        Rule(action="allow", program="java", down_after=2, restarts="note"),
        Rule(action="allow", bind="wildcard", reboot_grace="25min", severity="warning"),
        Rule(action="allow", port="40000-50000", down_after=3),
    ),
)
POLICIES_OF_UDP: tuple[tuple[Rule, ...], ...] = (
    (Rule(action="deny", port="53/udp"), Rule(action="deny", port="80/tcp"), Rule(action="allow", port=[53, 80])),
)
STEPS = tuple(timedelta(minutes=minutes) for minutes in (5, 5, 5, 5, 5, 5, 10, 2, 20, 60, 300, 26 * 60))


@dataclass
class Service:
    """A service that really listens on a port.

    :param program: None of the kernel itself, which has no process
    :param pid: of a socket of the kernel: what its inode is made of
    :param socket: what the inodes of its sockets are made of, if it got these from another process
    :param workers: sockets that it has on each address
    :param activated: the first process holds its sockets until somebody connects
    :param slow: how long after a boot it starts to listen
    :param mates: others that listen on the same port, with sockets of their own
    :param app: the kind of application that it is a part of, with all else of that kind on its server
    :param moves: it listens on any free port of these, whenever it starts
    """

    addresses: set[str]
    program: str | None
    unit: str | None
    pid: int
    uid: int | None = None
    app: str = ""
    moves: tuple[int, ...] = ()
    socket: int | None = None
    workers: int = 1
    activated: bool = False
    slow: timedelta = timedelta(0)
    mates: tuple[Service, ...] = ()


WORKER = Service({"0.0.0.0"}, "java", "worker@1.service", 0, 1000, "worker", FREE)
KERNEL = Service({"0.0.0.0", "::"}, None, None, 0, 0, "kernel", FREE)
CONTAINER = Service({"0.0.0.0"}, "java", "docker:0", 0, 1000, "container", FREE)
FORWARDED = Service({"0.0.0.0"}, "docker-proxy", "docker.service", 0, 0, "forwarded", FREE)
STATD = Service({"0.0.0.0"}, "rpc.statd", "rpc-statd.service", 0, 0, "statd", FREE_OF_RPC)
RESOLVER = Service({"0.0.0.0", "::"}, "unbound", "unbound.service", 0, 100, "resolver")
APPS: tuple[tuple[tuple[int, Service], ...], ...] = (
    ((0, WORKER),),
    ((0, WORKER), (45001, replace(WORKER, moves=()))),
    ((0, WORKER), (0, WORKER)),
    ((0, replace(WORKER, unit="session-3.scope", app="session")),),
    ((0, replace(WORKER, unit=None, addresses={"::1", "127.0.0.1"}, app="local")),),
    ((0, KERNEL),),
    ((0, KERNEL), (0, replace(KERNEL, addresses={"::"}))),
    ((0, CONTAINER), (8080, replace(CONTAINER, moves=()))),
    ((0, CONTAINER),),
    ((0, FORWARDED), (0, FORWARDED)),
    ((0, STATD),),
)
"""Applications: each of their ports (0: any free one), and what listens there."""
APPS_OF_UDP: tuple[tuple[tuple[int, Service], ...], ...] = (
    ((UDP + 53, RESOLVER), (0, replace(RESOLVER, moves=FREE_OF_UDP))),
    ((UDP + 800, replace(STATD, moves=())), (UDP + 111, replace(STATD, program="rpcbind", moves=()))),
)
UNITS = ("a.service", "a{}.service", "app@{}.service", "docker:{}", "session-1.scope", "a{}.socket")
"""Units of the services of a server: one for all, or one for each."""
OTHERS = (
    ("b.service", "haproxy"),
    ("b.service", "java"),
    ("a.service", "varnish"),
    ("app@b.service", "java"),
    ("docker:b", "nginx"),
    ("debug.scope", "python3"),
    (None, "nginx: worker"),
    ("dbus-x.service", "python3"),
)
"""Units and programs of others that come to a port."""
SLOW = tuple(timedelta(minutes=minutes) for minutes in (0, 0, 0, 4, 12, 25, 40))


@dataclass
class Server:
    """A machine."""

    boot_id: str | None
    netns: int | None
    start: int | None
    services: dict[int, Service]
    tool: str = "ss"
    ephemeral: tuple[int, int] = EPHEMERAL_DEFAULT
    reserved: tuple[tuple[int, int], ...] = ()
    privileged: bool = True
    inodes: bool = True
    versions: tuple[int, int] = (2, 2)
    udp: bool = True
    """It shows UDP."""
    socket_units: bool = False
    """Its tool shows the units of sockets, and needs no rights for it."""
    hidden: frozenset[int] = frozenset()
    """Ports of which it shows no process."""
    late: dict[int, datetime] = field(default_factory=dict)
    """Services that start later."""
    dead: dict[int, Service] = field(default_factory=dict)
    """What listened on a port before others took it."""


@dataclass
class Entry:
    """An entry of the CMDB, and what will become of it.

    :param owners: that declared ports must have
    :param answers: machines that answer in its place, a run each
    :param fails: how its next looks fail, None for not at all
    :param untried: runs that do not come to it
    :param bare: runs in which the CMDB lacks its labels
    :param invalid: runs in which the CMDB lacks its address
    :param away: runs in which the CMDB lacks it
    """

    host_id: str
    server: Server
    labels: dict[str, str]
    declared: tuple[int, ...] = ()
    owners: dict[int, str] = field(default_factory=dict)
    answers: list[Server] = field(default_factory=list)
    fails: list[str | None] = field(default_factory=list)
    untried: int = 0
    bare: int = 0
    invalid: int = 0
    away: int = 0


@dataclass(frozen=True)
class Step:
    """One run, with all that it is judged by.

    :param left: hosts that left the inventory since the run before
    :param purged: hosts that left at least ``PRUNE_AFTER`` ago
    :param happened: in the world since the run before, for people
    """

    number: int
    now: datetime
    looks: tuple[Observation, ...]
    inventory: Mapping[str, Host]
    invalid: Mapping[str, str]
    policy: tuple[Rule, ...]
    settings: Mapping[str, Any]
    accepted: Mapping[tuple[str, str, int], datetime]
    forgotten: Mapping[tuple[str, str, int], datetime]
    left: tuple[str, ...]
    purged: tuple[str, ...]
    happened: tuple[str, ...]
    udp: bool = False
    """UDP is watched."""

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return RuleSet(self.policy, udp=(lambda host: True) if self.udp else None)

    @property
    def run_id(self) -> str:
        return f"run{self.number}"


def play(reference: Reference, step: Step) -> list[Told]:
    """What the naive implementation tells of one run."""
    told = reference.leave(step.left, step.now)
    reference.purge(step.purged)
    return told + reference.run(
        step.looks,
        inventory=step.inventory,
        rules=step.rules,
        settings=Defaults(**step.settings),
        interval=INTERVAL,
        accepted=step.accepted,
        forgotten=step.forgotten,
        now=step.now,
        run_id=step.run_id,
        invalid=step.invalid,
        prune_after=PRUNE_AFTER,
    )


def history(pick: Pick, runs: int, *, udp: bool = False) -> list[Step]:
    """A random history.

    :param pick: draws a number from 0 to n - 1
    :param udp: with UDP services, and UDP watched now and then
    """
    world = World(pick, udp=udp)
    return [world.run() for _ in range(runs)]


class World:
    """A fleet, its CMDB, the people and the monitor."""

    def __init__(self, pick: Pick, *, udp: bool = False) -> None:
        self.pick = pick
        self.has_udp = udp
        self.ports = (*PORTS, *PORTS_OF_UDP) if udp else PORTS
        self.policies = (*POLICIES, *POLICIES_OF_UDP) if udp else POLICIES
        self.pids = 1000
        self.number = 0
        self.now = START
        self.lie = timedelta(0)
        self.lies = 0
        self.settings = self.one_of(SETTINGS)
        self.policy = self.one_of(self.policies)
        self.udp = udp and self.pick(3) > 0
        self.accepted: dict[tuple[str, str, int], datetime] = {}
        self.forgotten: dict[tuple[str, str, int], datetime] = {}
        self.left: dict[str, datetime] = {}
        self.listed: set[str] = set()
        self.happened: list[str] = []
        self.entries = {f"h{index}": self.entry(f"h{index}") for index in range(1, 2 + self.one_of((1, 2, 3, 3, 7)))}

    def one_of(self, some: Any) -> Any:
        return some[self.pick(len(some))]

    def pid(self) -> int:
        self.pids += 1
        return self.pids

    def server(self) -> Server:
        services = {}
        units = self.one_of(UNITS)
        for index, port in enumerate(self.ports):
            if index == 0 or self.pick(2):
                unit = units.format(self.pid())
                services[port] = Service({ADDRESSES[0]}, PROGRAMS[index % 2], unit, self.pid(), slow=self.one_of(SLOW))
                if self.pick(3) == 2:
                    services[port].mates = (self.other(services[port]),)
        boot = f"boot-{self.pid()}"
        netns, start = self.one_of(((4026531840, 8), (4026531840, None), (None, None)))
        if self.pick(2):
            for service in services.values():
                service.unit = "session-1.scope"
        server = Server(boot, netns, start, services, socket_units=self.pick(2) == 1)
        for _ in range(self.one_of((0, 1, 1, 2))):
            self.installs(server)
        return server

    def installs(self, server: Server) -> None:
        """An application starts for the first time."""
        started = [
            (port, replace(service)) for port, service in self.one_of((*APPS, *APPS_OF_UDP) if self.has_udp else APPS)
        ]
        apps = {service.app for service in server.services.values()}
        if not apps & {service.app for _, service in started}:
            self.starts(server, started)

    def starts(self, server: Server, app: list[tuple[int, Service]]) -> None:
        """Processes start. Each takes its own port, or any free one."""
        container = f"docker:{self.pid()}"
        for port, service in app:
            free = [one for one in service.moves if one not in server.services and one != port]
            if service.moves and not free:
                continue
            unit = container if service.app == "container" else service.unit
            server.services[self.one_of(free) if free else port] = replace(service, unit=unit, pid=self.pid())

    def again(self, service: Service) -> Service:
        """The same service, started once more."""
        mates = tuple(self.again(mate) for mate in service.mates)
        return replace(service, pid=self.pid(), socket=None, activated=False, mates=mates)

    def stops(self, server: Server, app: str) -> list[tuple[int, Service]]:
        """An application ends: its ports, and what listened there."""
        was = [(port, service) for port, service in sorted(server.services.items()) if service.app == app]
        for port, _ in was:
            del server.services[port]
        return was

    def entry(self, host_id: str) -> Entry:
        return Entry(host_id, self.server(), {"role": self.one_of(("web", "db"))})

    # ── a run ───────────────────────────────────────────────────────────────────────────────────

    def run(self) -> Step:
        """Something happens, or nothing, and a run comes by."""
        self.happened = []
        for _ in range(self.one_of((1, 1, 0, 0, 2, 3))):
            self.one_of(HAPPENINGS)(self)
        before, self.number = self.now, self.number + 1
        self.now += self.one_of(STEPS) if self.pick(4) == 0 else STEPS[0]
        now = self.now + self.lie
        entries = [entry for entry in self.entries.values() if not entry.away]
        valid = [entry for entry in entries if not entry.invalid]
        looks = [look for entry in valid if (look := self.look(entry, now)) is not None]
        listed = {entry.host_id for entry in entries}
        left = tuple(sorted(self.listed - listed))
        self.left.update(dict.fromkeys(left, now))
        self.left = {host_id: at for host_id, at in self.left.items() if host_id not in listed}
        # A run after a long pause deletes nothing; nor does one with a clock that lies.
        calm = self.now - before <= PRUNE_AFTER + 3 * INTERVAL and not self.lie
        purged = tuple(sorted(host_id for host_id, at in self.left.items() if calm and now - at >= PRUNE_AFTER))
        self.left = {host_id: at for host_id, at in self.left.items() if host_id not in purged}
        self.listed = listed
        step = Step(
            self.number,
            now,
            tuple(looks),
            {entry.host_id: self.host(entry) for entry in valid},
            {entry.host_id: "no address" for entry in entries if entry.invalid},
            self.policy,
            self.settings,
            dict(self.accepted),
            dict(self.forgotten),
            left,
            purged,
            tuple(self.happened),
            self.udp,
        )
        self.pass_by()
        return step

    def pass_by(self) -> None:
        """What lasts for some runs comes to its end."""
        for entry in self.entries.values():
            for name in ("untried", "bare", "invalid", "away"):
                if getattr(entry, name) > 0:
                    setattr(entry, name, getattr(entry, name) - 1)
        self.lies = max(0, self.lies - 1)
        if not self.lies:
            self.lie = timedelta(0)

    @staticmethod
    def host(entry: Entry) -> Host:
        labels = {} if entry.bare else entry.labels
        owners = tuple((port, owner) for port, owner in sorted(entry.owners.items()) if port in entry.declared)
        return Host(entry.host_id, entry.host_id, entry.host_id, labels=labels, declared=entry.declared, owners=owners)

    def look(self, entry: Entry, now: datetime) -> Observation | None:
        """What a run gets of an entry; None if it does not come to it."""
        fails = entry.fails.pop(0) if entry.fails else None
        server = entry.answers.pop(0) if entry.answers else entry.server
        if entry.untried:
            return None
        at = now + timedelta(seconds=list(self.entries).index(entry.host_id))
        run_id = f"run{self.number}"
        if fails is not None:
            outcome = Outcome.INVALID if fails == "truncated" else Outcome.UNREACHABLE
            return Observation(entry.host_id, run_id, 1, at, outcome, error_class=fails, error="no")
        return Observation(entry.host_id, run_id, 1, at, Outcome.OK, listing=listing_of(server, self.now))

    # ── what may happen ─────────────────────────────────────────────────────────────────────────

    def some_entry(self) -> Entry:
        return self.entries[self.one_of(sorted(self.entries))]

    def says(self, what: str) -> None:
        self.happened.append(what)

    def nothing(self) -> None:
        pass

    def service(self) -> None:
        """A service comes, goes, restarts, is replaced, binds elsewhere, or moves."""
        entry, port, what = self.some_entry(), self.one_of(self.ports), self.pick(9)
        services = entry.server.services
        service = services.get(port)
        self.says(f"service {entry.host_id} {port} {what if service else 'comes'}")
        if service is None:
            unit = self.one_of(UNITS).format(port)
            services[port] = Service({self.one_of(ADDRESSES)}, self.one_of(PROGRAMS), unit, self.pid())
        elif what <= 2:
            del services[port]
        elif what == 3:
            services[port] = self.again(service)
        elif what == 4:
            service.program, service.pid = self.one_of(PROGRAMS), self.pid()
        elif what <= 6:
            service.addresses = service.addresses ^ {self.one_of(ADDRESSES)} or {ADDRESSES[0]}
        elif what == 7:
            service.addresses = {self.one_of(ADDRESSES)}
        elif 50000 not in services:
            services[50000] = self.again(services.pop(port))

    def app_is_installed(self) -> None:
        entry = self.some_entry()
        self.says(f"an app is installed on {entry.host_id}")
        self.installs(entry.server)

    def app_restarts(self) -> None:
        """Ports of it may move; one of them may be late or gone for good, and the rest of a container may live on."""
        entry, what = self.some_entry(), self.pick(8)
        server = entry.server
        apps = sorted({service.app for service in server.services.values() if service.moves and service.program})
        if not apps:
            return
        app = self.one_of(apps)
        self.says(f"{app} restarts on {entry.host_id} {what}")
        was = self.stops(server, app)
        if what == 1:
            server.services.update([was.pop()])
        elif what == 2:
            was.pop()
        elif what == 3:
            was = [(port, replace(service, addresses={self.one_of(ADDRESSES)})) for port, service in was]
        elif what == 4 and app == "worker":
            was = [(port, replace(service, unit="worker@2.service")) for port, service in was]
        without = replace(server, services=dict(server.services))
        self.starts(server, was)
        if what == 5:
            entry.answers = [without] * (1 + self.pick(3))

    def service_flaps(self) -> None:
        """A service is missing in the next looks and back in others, by machines that answer for a run each."""
        entry, port, what = self.some_entry(), self.one_of(self.ports), self.pick(2)
        usual = entry.server.services.setdefault(
            port, Service({ADDRESSES[0], ADDRESSES[2]}, PROGRAMS[0], "a.service", self.pid())
        )
        usual.addresses |= {ADDRESSES[2]}
        self.says(f"{'a bind' if what else 'a service'} flaps {entry.host_id} {port}")
        for time in range(4 + self.pick(20)):
            services = dict(entry.server.services)
            if time % 2 == 0 and what:
                services[port] = replace(usual, addresses={ADDRESSES[2]})
            elif time % 2 == 0:
                del services[port]
            entry.answers.append(replace(entry.server, services=services))

    # ── who has a port ──────────────────────────────────────────────────────────────────────────

    def some_service(self, entry: Entry) -> tuple[int, Service] | None:
        ports = [port for port in self.ports if port in entry.server.services]
        if not ports:
            return None
        port = self.one_of(ports)
        return port, entry.server.services[port]

    def other(self, service: Service) -> Service:
        """Another one that may come to the port of a service, mostly on the same addresses."""
        unit, program = self.one_of(OTHERS)
        addresses = {self.one_of(ADDRESSES)} if self.pick(3) == 2 else set(service.addresses)
        return Service(addresses, program, unit, self.pid())

    def owner_joins(self) -> None:
        entry = self.some_entry()
        found = self.some_service(entry)
        if found is not None and len(found[1].mates) < 3:
            port, service = found
            self.says(f"another owner joins {entry.host_id} {port}")
            service.mates += (self.other(service),)

    def owner_leaves(self) -> None:
        """One of those that share a port; the others may be there for some looks only."""
        entry = self.some_entry()
        shared = [port for port in self.ports if (one := entry.server.services.get(port)) and one.mates]
        if not shared:
            return
        port, what = self.one_of(shared), self.pick(4)
        service = entry.server.services[port]
        before = replace(entry.server, services=dict(entry.server.services))
        if what == 0:
            service.mates, gone = service.mates[1:], service.mates[0]
        else:
            first, gone = service.mates[0], replace(service, mates=())
            entry.server.services[port] = replace(first, mates=service.mates[1:])
        self.says(f"{gone.unit} {gone.program} leaves {entry.host_id} {port}")
        if what == 3:
            without = replace(entry.server, services=dict(entry.server.services))
            entry.server.services[port] = replace(service, mates=(*service.mates, self.again(gone)))
            entry.answers = [without] * self.one_of((1, 2, 6))
        elif what == 2:
            entry.answers = [before, replace(entry.server, services=dict(entry.server.services))] * self.one_of((1, 3))

    def owner_is_replaced(self) -> None:
        """Another owner has the port from one look to the next, or after some in which nobody has it."""
        entry = self.some_entry()
        found = self.some_service(entry)
        if found is None:
            return
        (port, service), server = found, entry.server
        away = self.one_of((0, 0, 1, 2, 6))
        self.says(f"another owner takes {entry.host_id} {port} after {away}")
        without = {number: one for number, one in server.services.items() if number != port}
        entry.answers = [replace(server, services=without)] * away
        server.dead[port] = service
        server.services[port] = self.other(service)

    def owner_is_back(self) -> None:
        """After others took its port; they may stay there."""
        entry = self.some_entry()
        server = entry.server
        if not server.dead:
            return
        port = self.one_of(sorted(server.dead))
        service = self.again(server.dead.pop(port))
        self.says(f"its owner is back on {entry.host_id} {port}")
        if port in server.services and self.pick(2):
            service.mates += (replace(server.services[port], mates=()),)
        server.services[port] = service

    def handover(self) -> None:
        """A new process gets the sockets of the old one, or binds its own first; it may be another instance or unit."""
        entry = self.some_entry()
        found = self.some_service(entry)
        if found is None:
            return
        (port, service), what = found, self.pick(4)
        self.says(f"handover of {entry.host_id} {port} {what}")
        socket = service.pid if service.socket is None else service.socket
        new = replace(service, pid=self.pid(), socket=socket if what % 2 else None, mates=service.mates)
        if what >= 2:
            new.unit, new.program = self.one_of(OTHERS)
        both = dict(entry.server.services)
        both[port] = replace(service, mates=(*service.mates, replace(new, mates=())))
        entry.server.services[port] = new
        entry.answers = [replace(entry.server, services=both)] * self.one_of((0, 1, 1, 3))

    def workers(self) -> None:
        entry = self.some_entry()
        found = self.some_service(entry)
        if found is not None:
            found[1].workers = self.one_of((1, 2, 4, 3))
            self.says(f"{found[1].workers} workers of {entry.host_id} {found[0]}")

    def crash_loop(self) -> None:
        """A service is another process in each look; now and then it is missing."""
        entry, missing = self.some_entry(), self.one_of((99, 99, 4, 2))
        found = self.some_service(entry)
        if found is None:
            return
        port, service = found
        self.says(f"crash loop of {entry.host_id} {port}")
        for time in range(2 + self.pick(12)):
            services = dict(entry.server.services)
            services[port] = self.again(service)
            if time % missing == missing - 1:
                del services[port]
            entry.answers.append(replace(entry.server, services=services))

    def socket_activation(self) -> None:
        """The first process holds the sockets of a service, or gives them to it."""
        entry = self.some_entry()
        found = self.some_service(entry)
        if found is not None:
            port, service = found
            service.socket = service.pid if service.socket is None else service.socket
            service.activated, service.pid = not service.activated, self.pid()
            self.says(f"{'systemd' if service.activated else 'its service'} holds {entry.host_id} {port}")

    def blind_looks(self) -> None:
        """For some looks nobody's processes are shown, or not those of some ports, or no inodes."""
        entry, what, times = self.some_entry(), self.pick(4), self.one_of((1, 1, 2, 5))
        self.says(f"{entry.host_id} shows less {what} for {times}")
        if what <= 1:
            blind = replace(entry.server, privileged=False)
        elif what == 2:
            blind = replace(entry.server, hidden=frozenset({self.one_of(self.ports), self.one_of(self.ports)}))
        else:
            blind = replace(entry.server, inodes=False)
        entry.answers = [blind] * times

    def reboot(self) -> None:
        entry = self.some_entry()
        server = entry.server
        self.says(f"reboot {entry.host_id}")
        server.boot_id = f"boot-{self.pid()}"
        if server.start is not None:
            server.start += 1
        dead = self.pick(32)
        services = [
            (port, service)
            for index, (port, service) in enumerate(sorted(server.services.items()))
            if not (dead >> index & 1 and self.pick(2))
        ]
        apps = sorted({service.app for _, service in services if service.app})
        server.services = {port: self.again(service) for port, service in services if not service.app}
        server.late = {port: self.now + service.slow for port, service in services if service.slow and not service.app}
        late = [app for app in apps if self.pick(3) == 0]
        for app in apps:
            if app not in late:
                self.starts(server, [(port, service) for port, service in services if service.app == app])
        without = replace(server, services=dict(server.services))
        for app in late:
            self.starts(server, [(port, service) for port, service in services if service.app == app])
        if late:
            entry.answers = [without] * self.one_of((1, 2, 3, 5, 8, 14))

    def container_restarts(self) -> None:
        """The boot id is the kernel's."""
        server = self.some_entry().server
        self.says("a container restarts")
        server.netns = self.pid()
        if server.start is not None:
            server.start += 1000
        server.inodes = self.pick(2) == 0
        server.services = {port: self.again(one) for port, one in server.services.items()}
        if self.pick(2):
            server.services.pop(80, None)

    def other_tools(self) -> None:
        server, what = self.some_entry().server, self.pick(6 if self.has_udp else 5)
        self.says("other tools")
        if what == 0:
            server.privileged = not server.privileged
        elif what == 1:
            server.tool = self.one_of(("ss", "netstat-W", "netstat"))
        elif what == 2:
            server.versions = self.one_of(((2, 2), (1, 1)))
        elif what == 4:
            server.inodes = not server.inodes
        elif what == 5:
            server.udp = not server.udp
        else:
            server.ephemeral, server.reserved = self.one_of(RANGES), self.one_of(RESERVED)

    def other_machine_answers(self) -> None:
        """For some looks, another entry's machine or an unknown one."""
        entry, times = self.some_entry(), self.one_of((1, 2, 3, 13, 20))
        other = self.server() if self.pick(2) else self.some_entry().server
        self.says(f"another machine answers as {entry.host_id} for {times}")
        entry.answers = [other] * times

    def addresses_are_swapped(self) -> None:
        one, other = self.some_entry(), self.some_entry()
        times = self.one_of((1, 3, 8))
        self.says(f"{one.host_id} and {other.host_id} are swapped for {times}")
        one.answers, other.answers = [other.server] * times, [one.server] * times

    def floating_name(self) -> None:
        """A second entry for a machine; later it is another machine's."""
        name, target = "vip", self.some_entry()
        if name not in self.entries:
            self.says(f"vip is {target.host_id}")
            self.entries[name] = Entry(name, target.server, dict(target.labels))
        else:
            self.says(f"vip moves to {target.host_id}")
            self.entries[name].server = target.server

    def host_fails(self) -> None:
        entry, times = self.some_entry(), self.one_of((1, 2, 3, 6, 14))
        error = self.one_of((*UNREACHABLE, "truncated"))
        self.says(f"{entry.host_id} fails {times} times")
        entry.fails = [error] * times

    def host_key_changes(self) -> None:
        entry, times = self.some_entry(), self.one_of((1, 2, 4))
        self.says(f"host key of {entry.host_id}")
        entry.fails = entry.fails[: self.pick(3)] + ["host_key_changed"] * times + ["timeout"] * self.pick(2)

    def host_flaps(self) -> None:
        """And perhaps it dies then."""
        entry, each = self.some_entry(), self.one_of((2, 1, 3))
        self.says(f"{entry.host_id} flaps")
        entry.fails = []
        for _ in range(2 + self.pick(8)):
            entry.fails += ["timeout"] * each + [None] * self.one_of((1, 2))
        entry.fails += ["timeout"] * self.one_of((0, 0, 15))

    def fleet_fails(self) -> None:
        """All or nearly all hosts fail with mixed errors, and return at once or slowly."""
        times, spared = self.one_of((1, 2, 3, 5)), self.pick(6)
        self.says("the fleet fails")
        for index, entry in enumerate(self.entries.values()):
            late = self.one_of((0, 0, 1, 2, 4))
            if not (spared == 1 and index == 0):
                entry.fails = [self.one_of(UNREACHABLE) for _ in range(times + late)]

    def sweep_runs_out_of_time(self) -> None:
        times, most = self.one_of((1, 3, 4, 6)), self.pick(3)
        self.says("a sweep runs out of time")
        for entry in self.entries.values():
            if self.pick(4) or most:
                entry.untried = times

    def invalid_entry(self) -> None:
        entry = self.some_entry()
        self.says(f"{entry.host_id} is invalid")
        entry.invalid = self.one_of((1, 2, 5))

    def labels_vanish(self) -> None:
        entry = self.some_entry()
        entry.bare = self.one_of((1, 2, 20))
        self.says(f"labels of {entry.host_id} vanish for {entry.bare}")

    def host_leaves(self) -> None:
        entry = self.some_entry()
        if len(self.entries) > 1:
            entry.away = self.one_of((1, 2, 12, 400))
            self.says(f"{entry.host_id} leaves for {entry.away}")

    def entry_is_recreated(self) -> None:
        """The same machine under another id; the old entry goes at once, a run later or not at all."""
        entry = self.some_entry()
        name = f"{entry.host_id}x"
        if name in self.entries or len(name) > 4 or entry.away:
            return
        self.says(f"{entry.host_id} becomes {name}")
        self.entries[name] = Entry(name, entry.server, dict(entry.labels), fails=list(entry.fails))
        overlap = self.pick(3)
        if overlap == 0:
            entry.away = 1000
        elif overlap == 1:
            self.entries[name].away = 1
            entry.away = 1000

    def new_host(self) -> None:
        name = f"n{self.number}"
        if len(self.entries) < 10:
            self.says(f"{name} is new, not installed yet")
            self.entries[name] = self.entry(name)
            self.entries[name].fails = ["refused"] * self.one_of((0, 3, 30))

    def people(self) -> None:
        """A person edits rules or declarations, accepts that a port is gone or which machine answers, forgets boots."""
        entry, what = self.some_entry(), self.pick(7 if self.has_udp else 6)
        port = self.one_of((*self.ports, *FREE, *(FREE_OF_UDP if self.has_udp else ())))
        self.says(f"a person {what} {entry.host_id} {port}")
        if what == 0:
            self.policy = self.one_of(self.policies)
        elif what == 1:
            entry.declared = tuple(sorted({*entry.declared} ^ {port}))
            entry.owners.pop(port, None)
        elif what == 2:
            self.accepted[entry.host_id, "host", 0] = self.now
        elif what == 3:
            self.forgotten[entry.host_id, "udp" if port >= UDP else "tcp", port % UDP] = self.now
        elif what == 5:
            self.declares_an_owner(entry)
        elif what == 6:
            self.udp = not self.udp
        else:
            self.accepted[entry.host_id, "udp" if port >= UDP else "tcp", port % UDP] = self.now

    def declares_an_owner(self, entry: Entry) -> None:
        """Of a port that listens: the owner that it has, as a unit or program, or another one."""
        found = self.some_service(entry)
        if found is None:
            return
        port, service = found
        names = [unit_name(service.unit), program_of(service.program or ""), *(unit_name(unit) for unit, _ in OTHERS)]
        named = [name for at, name in enumerate(names) if name.endswith((".service", ".socket")) or (name and at == 1)]
        entry.declared = tuple(sorted({*entry.declared, port}))
        entry.owners[port] = self.one_of(named)
        self.says(f"{entry.host_id} {port} must be of {entry.owners[port]}")

    def clock_lies(self) -> None:
        """The monitor's clock is a day ahead and is then put right, or goes back by an hour for a while."""
        if self.lies:
            return
        self.lie, self.lies = self.one_of(
            ((timedelta(days=1), 1), (timedelta(hours=-1), 1), (timedelta(hours=-1), 5), (timedelta(hours=3), 20))
        )
        self.says(f"the clock lies by {self.lie} for {self.lies}")


HAPPENINGS: tuple[Callable[[World], None], ...] = (
    World.nothing,
    *(World.service,) * 6,
    *(World.app_is_installed,) * 2,
    *(World.app_restarts,) * 5,
    World.service_flaps,
    *(World.owner_joins,) * 3,
    *(World.owner_leaves,) * 3,
    *(World.owner_is_replaced,) * 3,
    *(World.owner_is_back,) * 2,
    *(World.handover,) * 2,
    World.workers,
    World.crash_loop,
    World.crash_loop,
    World.socket_activation,
    World.blind_looks,
    World.blind_looks,
    *(World.reboot,) * 3,
    World.container_restarts,
    World.other_tools,
    World.other_machine_answers,
    World.other_machine_answers,
    World.addresses_are_swapped,
    World.floating_name,
    World.host_fails,
    World.host_fails,
    World.host_key_changes,
    World.host_flaps,
    World.fleet_fails,
    World.fleet_fails,
    World.sweep_runs_out_of_time,
    World.invalid_entry,
    World.labels_vanish,
    World.labels_vanish,
    World.host_leaves,
    World.entry_is_recreated,
    World.new_host,
    World.people,
    World.people,
    World.clock_lies,
)


def title(program: str | None, tool: str) -> str | None:
    """The name of a program as a tool prints it: netstat's is another one than the kernel's."""
    return program if program not in PROGRAMS or tool == "ss" else f"{program}d"


def sockets_of(server: Server, port: int, service: Service) -> Iterator[Listener]:
    """The sockets of one owner of a port."""
    shown = server.privileged and port not in server.hidden
    by_process = shown and service.program is not None
    socket = service.pid if service.socket is None else service.socket
    for worker in range(service.workers):
        for index, address in enumerate(sorted(service.addresses)):
            row = Listener(
                ("udp" if port >= UDP else "tcp") + ("6" if ":" in address else ""),
                address,
                port % UDP,
                uid=service.uid if server.inodes else None,
                inode=100 * socket + 10 * worker + index if server.inodes else None,
            )
            if service.activated and by_process:
                yield replace(row, pid=1, program="systemd", comm="systemd" if server.versions == (2, 2) else None)
            elif shown:
                yield replace(
                    row,
                    pid=service.pid if by_process else None,
                    program=title(service.program, server.tool),
                    unit=service.unit,
                    comm=program_of(service.program) if service.program and server.versions == (2, 2) else None,
                )
            else:
                yield replace(row, unit=service.unit if server.socket_units else None)


def listing_of(server: Server, now: datetime) -> Listing:
    """A complete answer of a machine."""
    listeners = tuple(
        row
        for port, service in sorted(server.services.items())
        if port not in server.late or server.late[port] <= now
        for one in (service, *service.mates)
        for row in sockets_of(server, port, one)
    )
    probe, reader = server.versions
    return Listing(
        server.tool,
        0,
        boot_id=server.boot_id,
        netns=server.netns,
        pid1_start=server.start,
        ephemeral=server.ephemeral,
        reserved=server.reserved,
        listeners=tuple(one for one in listeners if one.protocol.startswith("tcp")),
        udp=tuple(one for one in listeners if one.protocol.startswith("udp")) if server.udp else None,
        probe=probe,
        reader=reader,
    )
