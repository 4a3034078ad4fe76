"""A week of ordinary life of 50 hosts: few messages besides those of real faults, each of which is told in its run.

Deployments, backups, kernel updates, containers, build agents and YARN are what a fleet does all day. What is to be told
of it was listed by hand, ``FAULTS`` and ``ORDINARY``. Runs are every 15 minutes, so that there are 672 of them and not
2,016. The window of flapping is 12 of them, 3 hours.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from portmon.config import parse_config
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind, Severity
from portmon.model.host import Host
from portmon.storage import silences
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.fleet import MONDAY, Fleet, at
from tests.worlds.services import Service, ServiceMachine, service

pytestmark = [pytest.mark.full, pytest.mark.long]

CONFIG = """
alerts:
  channels:
    - {type: log, name: chat}
"""
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
WORKDAYS = DAYS[:5]
MINUTE = timedelta(minutes=1)

# ── the list ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Fault:
    """What a person has to know of. It makes a message when it is told, and one when its end is.

    :param told: day and time of the run that shows it
    :param ports: none if it is of the host
    :param ended: of the run that shows its end; empty if that makes no message, or not in this week
    :param sent: of the run that sends it; default: the one that shows it
    """

    told: str
    host: str
    ports: tuple[int, ...]
    kind: EventKind
    what: str
    ended: str = ""
    end: EventKind = EventKind.RECOVERED
    sent: str = ""
    severity: Severity = Severity.CRITICAL

    def messages(self) -> list[str]:
        """The runs that send one."""
        return [one for one in (self.sent or self.told, self.ended) if one]

    def seen(self) -> list[Seen]:
        """Its events, each with the run that shows it."""
        ports = self.ports or (None,)
        begun: list[Seen] = [(self.told, self.host, port, self.kind, self.severity) for port in ports]
        return begun + [(self.ended, self.host, port, self.end, Severity.INFO) for port in ports if self.ended]


Seen = tuple[str, str | None, int | None, EventKind, Severity]
NEW, DOWN, REPLACED, REBOOTED = EventKind.NEW, EventKind.DOWN, EventKind.REPLACED, EventKind.REBOOTED
NOTICE: dict[str, Any] = {"severity": Severity.WARNING}
FAULTS = (
    Fault("Mon 12:00", "cache03", (6379,), EventKind.REBOUND, "redis on 127.0.0.1 only", "Mon 13:00"),
    Fault("Mon 18:30", "cache10", (), EventKind.UNREACHABLE, "dead for an hour", "Mon 19:15", EventKind.REACHABLE),
    Fault("Tue 03:15", "web03", (80, 443), DOWN, "nginx dies at 03:10", "Tue 03:45"),
    Fault("Tue 11:15", "web05", (3000,), NEW, "grafana was installed", **NOTICE),
    Fault("Tue 15:00", "cache09", (5432,), EventKind.OWNER_GONE, "postgres leaves pgbouncer alone", "Tue 16:00"),
    Fault("Wed 02:15", "db02", (5432,), DOWN, "not back after its backup", "Wed 04:30", sent="Wed 03:00"),
    Fault("Wed 13:15", "app02", (8000,), NEW, "a file server for an afternoon", **NOTICE),
    Fault("Wed 14:00", "app06", (8080,), DOWN, "tomcat dies", "Wed 15:00"),
    Fault("Wed 14:15", "app06", (8080,), REPLACED, "python has its port, which stays down", **NOTICE),
    Fault("Wed 16:30", "app02", (8000,), DOWN, "the file server ends, which was young", **NOTICE),
    Fault("Thu 04:00", "cache07", (6379,), DOWN, "redis dies at night", "Thu 09:00"),
    Fault("Thu 17:15", "app03", (8080,), DOWN, "a correction outside of the silence", "Thu 17:30"),
    Fault("Thu 22:30", "web07", (80, 443), DOWN, "not back with the new kernel", "Fri 07:30"),
    Fault("Fri 01:00", "yarn04", (8040, 8042), DOWN, "nodemanager and its containers", "Fri 02:00"),
    Fault("Fri 11:30", "yarn02", (9100,), DOWN, "node_exporter, while YARN flaps", "Fri 12:30"),
    Fault("Fri 15:15", "cache08", (6379,), REPLACED, "valkey in place of redis", **NOTICE),
    Fault("Sat 09:45", "web09", (9000,), EventKind.CRASH_LOOPING, "php-fpm", "Sat 13:15", EventKind.STABLE),
    Fault("Sat 13:00", "docker02", (8001,), DOWN, "a container ends", "Sat 15:00"),
    Fault("Sat 18:00", "web05", (3000,), DOWN, "grafana, which is young no more", "Sat 20:00"),
    Fault("Sun 06:00", "app05", (8080,), DOWN, "tomcat dies for good"),
    Fault("Sun 12:15", "cache04", (), REBOOTED, "the first of six reboots within an hour", **NOTICE),
    Fault("Sun 12:30", "cache04", (), REBOOTED, "another one", **NOTICE),
    Fault("Sun 12:45", "cache04", (), REBOOTED, "another two", **NOTICE),
    Fault("Sun 13:00", "cache04", (), EventKind.FLAPPING, "the fourth look at them", "Sun 16:00", EventKind.STABLE),
)
ORDINARY = (
    # Every half an hour a job begins that is watched from its third look on. Four of them end within the window.
    ("Mon", "00:45 01:15 01:45 02:15", "YARN's first containers are new"),
    ("Mon", "01:00 01:30 02:00 02:30", "they end, and flap: no more is told of them while they go on"),
    ("Mon", "06:45 07:15 07:45 08:15", "first jobs of the build agents 1 to 3"),
    ("Mon", "07:00 07:30 08:00 08:30", "they end, and flap"),
    ("Wed", "08:45 09:15 09:45 10:15", "jobs of build agent 4, for the release"),
    ("Wed", "09:00 09:30 10:00 10:30", "they end, and flap"),
    ("Wed", "21:30", "none has ended for twelve looks"),
    ("Tue", "02:30", "reminder: jobs flap"),
    ("Wed", "02:30", "reminder"),
    ("Thu", "02:30", "reminder"),
    ("Fri", "02:30", "reminder"),
    ("Sat", "02:30", "reminder"),
    ("Sun", "02:30", "reminder"),
    ("Tue", "14:45", "another unit serves the API: green for blue"),
    ("Thu", "14:45", "blue for green"),
    ("Wed", "05:00 05:15", "certbot has port 80 of a host that is no web server, and has not"),
    ("Thu", "22:15 22:30 22:45 23:00 23:15", "ten hosts have a new kernel"),
)


def listed() -> Counter[str]:
    """Number of messages of each run that sends any."""
    runs = [f"{day} {time}" for day, times, _ in ORDINARY for time in times.split()]
    return Counter([*runs, *(run for fault in FAULTS for run in fault.messages())])


# ── the fleet ───────────────────────────────────────────────────────────────────────────────────

SSHD = service("sshd", 22, unit="ssh.service", starts_after=1)
NODE = service("node_exporter", 9100, uid=998)
NGINX = service("nginx", 80, 443, workers=2)
PHP = service("php-fpm", 9000, unit="php8.2-fpm.service", workers=2)
TOMCAT = service("java", 8080, unit="tomcat10.service", uid=990, starts_after=180)
POSTGRES = service("postgres", 5432, unit="postgresql@16-main.service", uid=110, starts_after=100)
NEAR = service("postgres", 5432, unit="postgresql@16-main.service", uid=110, address="127.0.0.1")
PGBOUNCER = service("pgbouncer", 5432, uid=111, address="10.0.0.9")
REDIS = service("redis-server", 6379, uid=112)
COCKPIT = service("cockpit-tls", 9090, unit="cockpit.service", by_socket=True)
NODEMANAGER = service("java", 8040, 8042, unit="hadoop-yarn-nodemanager.service", uid=900, starts_after=150)
AGENT = "jenkins-agent.service"
DOCKER = service("dockerd", 2376, unit="docker.service")
PUBLISHED = [service("docker-proxy", port, unit="docker.service") for port in (8000, 8001, 8002)]

Step = tuple[datetime, Callable[..., Any], *tuple[Any, ...]]


def _begins(machine: ServiceMachine, name: str, one: Service, when: datetime) -> Step:
    """A service is started."""
    return when, machine.begin, name, one, when


class OrdinaryLife(Fleet):
    """The fleet, what happens to it, and the events of each run."""

    interval = 15 * MINUTE

    def __init__(self, database: Database) -> None:
        super().__init__(database, parse_config(CONFIG))
        self.chance = random.Random(20260302)
        self.hosts: dict[str, ServiceMachine] = {}
        self.told: list[Event] = []
        for count, role, services in (
            (12, "web", {"nginx": NGINX}),
            (8, "app", {"tomcat": TOMCAT}),
            (4, "db", {"postgres": POSTGRES}),
            (6, "yarn", {"nodemanager": NODEMANAGER}),
            (4, "build", {"docker": DOCKER, "cockpit": COCKPIT}),
            (6, "docker", {"docker": DOCKER, **{f"published{index}": one for index, one in enumerate(PUBLISHED)}}),
            (10, "cache", {"redis": REDIS}),
        ):
            for number in range(1, count + 1):
                self._add(f"{role}{number:02}", {"sshd": SSHD, "node": NODE, **services}, role=role)
        self.hosts["web09"].enable("php", PHP)
        self.hosts["web12"].enable("api", service("api", 8090, unit="api-blue.service"))
        self.hosts["cache09"].enable("postgres", NEAR)
        self.hosts["cache09"].enable("pgbouncer", PGBOUNCER)
        self.hosts["app02"].enable("jmx", self._jmx())
        for machine in self.of("build"):
            machine.activate("cockpit", 0)
        parts = (self._deployments, self._nights, self._kernels, self._jobs, self._news, self._faults, self._hosts_fail)
        # Sorted by time only: what is of one time goes in the order of the parts.
        self.script = deque(sorted((step for part in parts for step in part()), key=lambda step: step[0]))

    def _add(self, name: str, services: dict[str, Service], **labels: str) -> None:
        host = Host(f"id-{name}", name, f"{name}.example.com", None, labels)
        machine = ServiceMachine(host, booted_at=MONDAY - timedelta(days=30), chance=self.chance)
        for title, one in services.items():
            machine.enable(title, one)
        self.hosts[name] = self.machines[name] = machine
        self.listed.add(name)

    def of(self, role: str) -> list[ServiceMachine]:
        """Its hosts."""
        return [machine for machine in self.hosts.values() if machine.host.labels["role"] == role]

    def live(self) -> None:
        """Seven days."""
        while self.now < MONDAY + timedelta(days=7):
            while self.script and self.script[0][0] <= self.now:
                _, happens, *given = self.script.popleft()
                happens(*given)
            self.told += self.run()
        assert not self.script

    # ── what a fleet does all day ───────────────────────────────────────────────────────────────

    def _deployments(self) -> Iterator[Step]:
        yield at("Mon", "00:20"), self._silence, "app", "Mon-Fri 10:00-11:00", "deployment"
        for day in WORKDAYS:
            for number, machine in enumerate(self.of("app")):
                # Host by host, each of which takes three minutes: some runs see one of them without its port.
                when = at(day, "10:13") + 5 * number * MINUTE
                yield when, machine.again, "tomcat", when
            # It has another random port then.
            yield at(day, "10:18"), self.hosts["app02"].enable, "jmx", self._jmx()
            for machine in self.of("web"):
                yield at(day, "16:05"), machine.reload, "nginx"
            for machine in self.of("docker"):
                for number in range(len(PUBLISHED)):
                    yield at(day, "13:50"), machine.again, f"published{number}", at(day, "13:50")
            for machine in self.of("build"):
                # An administrator has a look at cockpit, which ends by itself.
                yield at(day, "09:10"), machine.activate, "cockpit", 1
                yield at(day, "09:40"), machine.activate, "cockpit", 0
        for machine in self.of("web"):
            yield at("Wed", "11:05"), machine.upgrade, "nginx"
        web12 = self.hosts["web12"]
        for day, old, new, color in (("Tue", "api", "api2", "green"), ("Thu", "api2", "api", "blue")):
            api = service("api", 8090, unit=f"api-{color}.service")
            yield _begins(web12, new, api, at(day, "14:05"))
            yield at(day, "14:35"), web12.end, old
        # A correction that could not wait for the silence.
        yield at("Thu", "17:14"), self.hosts["app03"].again, "tomcat", at("Thu", "17:14")

    def _jmx(self) -> Service:
        return service("java", self.random_port(), unit=TOMCAT.unit, uid=TOMCAT.uid, starts_after=60)

    def _silence(self, role: str, weekly: str, reason: str) -> None:
        with self.database.begin() as conn:
            silences.add(
                conn, labels={"role": (role,)}, weekly=(weekly,), starts_at=self.now, author="alice",
                reason=reason, now=self.now,
            )  # fmt: skip

    def _nights(self) -> Iterator[Step]:
        yield at("Mon", "00:20"), self._silence, "db", "Mon-Sun 02:00-03:00", "cold backup"
        for day in DAYS:
            for machine in self.of("db"):
                yield at(day, "02:10"), machine.end, "postgres"
                if (day, machine.host.name) != ("Wed", "db02"):
                    yield _begins(machine, "postgres", POSTGRES, at(day, "02:35"))
            for machine in self.of("cache"):
                # A child of cron fetches something, through a tunnel with a random port of half an hour.
                tunnel = service("ssh", self.random_port(), unit="cron.service", address="127.0.0.1")
                yield _begins(machine, "tunnel", tunnel, at(day, "01:05"))
                yield at(day, "01:35"), machine.end, "tunnel"
            # certbot answers for a moment, behind the proxy.
            challenge = service("certbot", 48_402, unit="certbot.service", starts_after=0)
            yield _begins(self.hosts["web01"], "certbot", challenge, at(day, "05:00"))
            yield at(day, "05:01"), self.hosts["web01"].end, "certbot"
        # On a host without a web server it has port 80.
        alone = service("certbot", 80, starts_after=0)
        yield _begins(self.hosts["cache01"], "certbot", alone, at("Wed", "05:00"))
        yield at("Wed", "05:01"), self.hosts["cache01"].end, "certbot"

    def _kernels(self) -> Iterator[Step]:
        """New kernels, ten hosts at a time; services take up to four minutes to start."""
        for number, machine in enumerate(self.hosts.values()):
            when = at("Thu", "22:11") + number // 10 * self.interval
            without = ("nginx",) if machine.host.name == "web07" else ()
            yield when, machine.reboot, when, without

    def _jobs(self) -> Iterator[Step]:
        """Containers of YARN and jobs of build agents, which have random ports: day and night, or as needed."""
        for machine in self.of("yarn"):
            yield from self._rhythm(machine, NODEMANAGER.unit, at("Mon", "00:00"), hours=167)
        *usual, release = self.of("build")
        for machine in usual:
            yield from self._rhythm(machine, AGENT, at("Mon", "06:00"), hours=161)
        yield from self._rhythm(release, AGENT, at("Wed", "08:00"), hours=10)

    def _rhythm(self, machine: ServiceMachine, unit: str, begins: datetime, hours: int) -> Iterator[Step]:
        """Each hour two jobs that three looks see, and one that a single look sees."""
        for hour in range(hours):
            for after, minutes in ((5, 50), (35, 50), (40, 15)):
                name, when = f"job{hour}-{after}", begins + (60 * hour + after) * MINUTE
                job = service("java", self.random_port(), unit=unit, uid=900)
                yield when, self._start_job, machine, name, job, when
                yield when + minutes * MINUTE, machine.end, name

    @staticmethod
    def _start_job(machine: ServiceMachine, name: str, job: Service, when: datetime) -> None:
        if job.unit == AGENT or "nodemanager" in machine.running:
            machine.begin(name, job, when)

    def random_port(self) -> int:
        """One of the ephemeral range."""
        return self.chance.randrange(33_000, 60_000)

    def _news(self) -> Iterator[Step]:
        """What was not there before."""
        web05, app02, cache08 = self.hosts["web05"], self.hosts["app02"], self.hosts["cache08"]
        grafana = service("grafana", 3000, unit="grafana-server.service", uid=472)
        yield at("Tue", "11:05"), web05.enable, "grafana", grafana
        yield _begins(app02, "files", service("python3", 8000, unit="files.service"), at("Wed", "13:05"))
        yield at("Wed", "16:20"), app02.end, "files"
        yield at("Fri", "15:05"), cache08.end, "redis"
        yield at("Fri", "15:05"), cache08.enable, "redis", service("valkey-server", 6379, uid=112)

    # ── what is worth a message ─────────────────────────────────────────────────────────────────

    def _faults(self) -> Iterator[Step]:
        yield from self._dies("web03", ("Tue", "03:10"), ("Tue", "03:40"), "nginx")
        yield from self._dies("cache07", ("Thu", "03:50"), ("Thu", "08:50"), "redis")
        yield from self._dies("yarn02", ("Fri", "11:20"), ("Fri", "12:20"), "node")
        yield from self._dies("docker02", ("Sat", "12:50"), ("Sat", "14:50"), "published1")
        yield from self._dies("web05", ("Sat", "17:50"), ("Sat", "19:50"), "grafana")
        yield from self._dies("app05", ("Sun", "05:50"), None, "tomcat")
        yield from self._dies("cache09", ("Tue", "14:50"), ("Tue", "15:50"), "postgres")
        yield from self._dies("app06", ("Wed", "13:50"), ("Wed", "14:50"), "tomcat")
        yield at("Wed", "04:20"), self._back, "db02", "postgres", at("Wed", "04:20")
        yield at("Fri", "07:20"), self._back, "web07", "nginx", at("Fri", "07:20")

        app06, cache03, web09 = (self.hosts[name] for name in ("app06", "cache03", "web09"))
        yield _begins(app06, "other", service("python3", 8080, unit="session-7.scope"), at("Wed", "14:05"))
        yield at("Wed", "14:50"), app06.end, "other"
        near = service("redis-server", 6379, uid=112, address="127.0.0.1")
        yield _begins(cache03, "redis", near, at("Mon", "11:50"))
        yield at("Mon", "12:50"), self._back, "cache03", "redis", at("Mon", "12:50")
        for number in range(6):
            when = at("Sat", "08:55") + number * self.interval
            yield when, web09.again, "php", when

        yield at("Fri", "00:50"), self._end_nodemanager, self.hosts["yarn04"]
        yield at("Fri", "01:50"), self._back, "yarn04", "nodemanager", at("Fri", "01:50")

    @staticmethod
    def _end_nodemanager(machine: ServiceMachine) -> None:
        machine.end("nodemanager", *(name for name in machine.running if name.startswith("job")))

    def _dies(self, host: str, when: tuple[str, str], until: tuple[str, str] | None, name: str) -> Iterator[Step]:
        yield at(*when), self.hosts[host].end, name
        if until is not None:
            yield at(*until), self._back, host, name, at(*until)

    def _back(self, host: str, name: str, when: datetime) -> None:
        machine = self.hosts[host]
        machine.begin(name, machine.enabled[name], when - timedelta(minutes=5))

    def _hosts_fail(self) -> Iterator[Step]:
        cache10, cache04 = self.hosts["cache10"], self.hosts["cache04"]
        yield at("Mon", "18:05"), setattr, cache10, "trouble", "timeout"
        yield at("Mon", "19:05"), setattr, cache10, "trouble", None
        for number in range(6):
            when = at("Sun", "12:02") + 10 * number * MINUTE
            yield when, cache04.reboot, when


# ── the proof ───────────────────────────────────────────────────────────────────────────────────


def run_of(when: datetime) -> str:
    """Day and time, as the list has them."""
    return f"{when:%a %H:%M}"


def seen(event: Event, when: datetime) -> Seen:
    """What the list has of an event."""
    return run_of(when), event.host_name, event.port, event.kind, event.severity


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrdinaryLife]:
    database = migrated(tmp_path_factory.mktemp("week") / "state.db")
    made = OrdinaryLife(database)
    made.live()
    yield made
    database.dispose()


def test_the_messages_are_as_many_as_on_the_list(week: OrdinaryLife) -> None:
    expected = listed()
    got = Counter(run_of(one.at) for one in week.got)
    difference = {run: (got[run], expected[run]) for run in got | expected if got[run] != expected[run]}
    assert abs(got.total() - expected.total()) <= 0.1 * expected.total(), f"run: got and listed: {difference}"


def test_every_fault_and_its_end_are_events_of_the_run_that_shows_them(week: OrdinaryLife) -> None:
    shown = Counter(seen(event, event.at) for event in week.told)
    expected = [one for fault in FAULTS for one in fault.seen()]
    assert {one: shown[one] for one in expected if shown[one] != 1} == {}


def test_nothing_critical_is_told_but_the_faults_and_each_of_them_once(week: OrdinaryLife) -> None:
    told = [(got.at, alert) for got in week.got if not got.message.reminder for alert in got.message.alerts]
    critical = [seen(alert.event, at) for at, alert in told if alert.event.severity is Severity.CRITICAL]
    expected = [(fault.sent or run, *what) for fault in FAULTS for run, *what in fault.seen()]
    assert Counter(critical) == Counter(one for one in expected if one[-1] is Severity.CRITICAL)
