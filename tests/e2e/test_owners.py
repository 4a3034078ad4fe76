"""Who owns a port, told by real programs: hosts that systemd has booted, Debian's units, real SSH, netstat and ss.

Each test boots a host of its own, which takes half a second, and has a state of its own. What Debian lacks is a stand-in:
Python or a shell under another program's name, which the test's name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from tests.worlds.booted import BootedHost, missing
from tests.worlds.databases import migrated
from tests.worlds.lab import Lab
from tests.worlds.site import Site
from tests.worlds.waiting import skip_without, until

pytestmark = pytest.mark.slow

NGINX, HAPROXY, PYTHON = "/usr/sbin/nginx", "/usr/sbin/haproxy", "/usr/bin/python3"

STAND_IN = """
import os, socket, subprocess
os.mkfifo("/run/todo")
held = {}
while True:
    with open("/run/todo") as lines:
        for line in lines:
            what, *rest = line.split()
            if what == "listen":
                held[rest[0]] = socket.create_server(("0.0.0.0", int(rest[0])))
            elif what == "close":
                held.pop(rest[0]).close()
            else:
                subprocess.Popen(f"exec {line.strip()} 3>/dev/null", shell=True)
"""
"""A manager: listens by itself, and starts programs in its unit. Descriptor 3 is where docker-proxy says that it is ready."""

PARENT = """
import signal, socket, subprocess
listening = socket.create_server(("0.0.0.0", 8000))
listening.set_inheritable(True)
signal.signal(signal.SIGUSR1, lambda *_: subprocess.Popen(["sleep", "1000"], close_fds=False))
while True:
    signal.pause()
"""
"""A program whose children get its socket, as those of many a server do that starts scripts."""

SCOPE = ("systemd-run", "--quiet", "--collect", "--scope")

SUDOERS = (
    "{} ALL=(root) NOPASSWD: /usr/bin/netstat -nltpW, /usr/bin/netstat -nltp, "
    "/usr/bin/ss -tnpe state listening, /usr/sbin/ss -tnpe state listening\n"
)
"""As docs/security.md has it."""


class World:
    """One booted host under watch, or several with the same programs.

    :param hosts: the first is the one that things happen to
    :param tool: that lists the sockets there
    """

    def __init__(self, site: Site, hosts: list[BootedHost], tool: str) -> None:
        self.site = site
        self.tool = tool
        self.hosts = hosts
        self.host = hosts[0]

    def watch(self) -> None:
        """The first look: what is there is mature, and nothing is told."""
        self.site.watch(*(host.name for host in self.hosts))

    def told(self) -> list[tuple[str, int | None]]:
        """One run; the kinds of what it told, notes as well, with their ports, as far as the first host goes."""
        return [(kind, port) for kind, name, port in self.site.run() if name == self.host.name]

    def last(self, kind: EventKind) -> Event:
        return self.site.last(kind)

    # ── what runs there ─────────────────────────────────────────────────────────────────────────

    def service(self, name: str, command: str, *lines: str) -> None:
        """Write a service."""
        self.host.write_unit(f"{name}.service", "\n".join(("[Service]", *lines, f"ExecStart={command}", "")))

    def serve(self, name: str, port: int, command: str | None = None, *lines: str) -> None:
        """Start a service on a port; without a command it is Python."""
        self.service(name, command or f"{PYTHON} -m http.server {port}", *lines)
        self.host.start(f"{name}.service")
        self.host.wait_for(port)

    def haproxy(self, name: str, *binds: str, unit: str | None = None) -> None:
        """Write a configuration for haproxy, and a service for it.

        :param unit: None: ``app-NAME``
        """
        self.host.write(f"/etc/haproxy/{name}.cfg", haproxy(*binds))
        self.service(unit or f"app-{name}", f"{HAPROXY} -Ws -f /etc/haproxy/{name}.cfg", "Type=notify")

    def kill(self, *pids: int, signal: str = "KILL") -> None:
        self.host.run("kill", f"-{signal}", *map(str, pids))

    def kill_unit(self, unit: str, port: int, *, sockets: int = 0) -> None:
        """End all processes of a unit that systemd does not start again, as an out-of-memory killer does."""
        self.host.run("systemctl", "kill", "--signal=KILL", unit)
        self.host.wait_for(port, sockets=sockets)

    def stand_in(self, name: str) -> str:
        """Python under another name; its path."""
        path = f"/opt/bin/{name}"
        self.host.run("mkdir", "-p", "/opt/bin")
        self.host.run("ln", "-s", PYTHON, path)
        return path

    def manager(self, name: str, unit: str) -> Callable[..., None]:
        """Start a stand-in for a program that starts others in its unit; what tells it to."""
        self.host.write("/opt/manager.py", STAND_IN)
        self.service(unit, f'"{self.stand_in(name)}" /opt/manager.py')
        self.host.start(f"{unit}.service")
        until(lambda: self.host.run("find", "/run/todo", "-type", "p", check=False), what=name)

        def tell(what: str, port: int, *, sockets: int = 1) -> None:
            self.host.run("sh", "-c", 'echo "$0" >/run/todo', what)
            self.host.wait_for(port, sockets=sockets)

        return tell

    def in_scope(self, scope: str, command: str, port: int) -> None:
        """Start a program in a scope of systemd, as a login or a container runtime does."""
        start = f"exec setsid {command} >/dev/null 2>&1 </dev/null &"
        where = ("--slice=user-0.slice",) if scope.startswith("session-") else ()
        self.host.run(*SCOPE, *where, f"--unit={scope}", "sh", "-c", start)
        self.host.wait_for(port)

    def ends(self, pattern: str, port: int) -> None:
        """End the programs whose command line has a pattern, and wait until nothing has the port."""
        self.host.run("pkill", "-KILL", "-f", pattern)
        self.host.wait_for(port, sockets=0)

    def renewed(self, comm: str, before: set[int]) -> None:
        """Wait until a program has other processes."""
        until(lambda: self.host.pids(comm) - before, what=f"other processes of {comm}")

    def take_other_tool(self) -> None:
        """Take netstat away, or put it back: then ss has its turn, or not."""
        for host in self.hosts:
            there, away = "/usr/bin/netstat", "/usr/bin/netstat.away"
            has = host.run("find", there, check=False)
            host.run("mv", *((there, away) if has else (away, there)))


def haproxy(*binds: str) -> str:
    """A configuration that listens."""
    lines = ["defaults", "mode http", *(f"timeout {which} 1s" for which in ("connect", "client", "server"))]
    lines += ["frontend all", *(f"bind {bind}" for bind in binds), "http-request return status 200", ""]
    return "\n".join(lines)


Boot = Callable[..., World]


@pytest.fixture(params=["netstat", pytest.param("ss", marks=pytest.mark.full)])
def boot(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boot]:
    """Boots hosts that have some programs, and are listed by one tool."""
    with ExitStack() as stack:

        def make(*programs: str, hosts: tuple[str, ...] = ("web1",)) -> World:
            skip_without(missing(*programs))
            lab = stack.enter_context(closing(Lab(list(hosts), BootedHost)))
            database = migrated(tmp_path / "state.db")
            stack.callback(database.dispose)
            site = Site(lab, tmp_path, database, monkeypatch)
            site.log_in_as("root")
            booted = [host for host in lab.hosts.values() if isinstance(host, BootedHost)]
            world = World(site, booted, request.param)
            if request.param == "ss":
                world.take_other_tool()
            return world

        yield make


# ── another program on the port ─────────────────────────────────────────────────────────────────


def test_python3_on_the_port_of_nginx_is_no_recovery(boot: Boot) -> None:
    world = boot(NGINX, PYTHON)
    world.host.start("nginx.service")
    world.watch()
    world.kill_unit("nginx.service", 80)
    assert world.told() == [("down", 80)]
    world.serve("site", 80)
    assert world.told() == [("replaced", 80)]
    event = world.last(EventKind.REPLACED)
    assert event.meaning.name == "taken"
    assert (event.details["owner"], event.details["was"]) == ("python3 (site.service)", "nginx (nginx.service)")
    assert world.told() == []
    world.host.stop_unit("site.service")
    assert world.told() == []
    world.host.start("nginx.service")
    assert world.told() == [("recovered", 80)]
    assert len(world.site.messages) == 3


@pytest.mark.full
def test_another_program_between_two_looks(boot: Boot) -> None:
    world = boot(NGINX, HAPROXY)
    world.host.start("nginx.service")
    world.haproxy("front", ":80", ":::80 v6only")
    world.watch()
    world.host.stop_unit("nginx.service")
    world.host.start("app-front.service")
    assert world.told() == [("replaced", 80)]
    event = world.last(EventKind.REPLACED)
    assert (event.severity, event.details["was"]) == ("warning", "nginx (nginx.service)")
    assert event.details["owner"] == "haproxy (app-front.service)"
    assert world.told() == []
    world.kill_unit("app-front.service", 80)
    assert world.told() == [("down", 80)]


@pytest.mark.full
def test_another_program_that_lacks_an_address_is_one_message(boot: Boot) -> None:
    world = boot(NGINX, PYTHON)
    world.host.start("nginx.service")
    world.watch()
    world.host.stop_unit("nginx.service")
    world.serve("site", 80)
    told = world.told()
    assert len(told) == len(world.site.messages) == 1


@pytest.mark.full
def test_an_address_that_another_program_took_from_one_that_stays(boot: Boot) -> None:
    world = boot(NGINX, HAPROXY)
    site = "server {{ {} return 204; }}\n"
    inside, outside = "listen 127.0.0.1:80;", f"listen {world.host.address}:80;"
    world.host.write("/etc/nginx/sites-enabled/default", site.format(inside + outside))
    world.host.start("nginx.service")
    world.haproxy("front", f"{world.host.address}:80")
    world.watch()
    world.host.write("/etc/nginx/sites-enabled/default", site.format(inside))
    world.host.run("systemctl", "restart", "nginx.service")
    world.host.start("app-front.service")
    assert ("rebound", 80) in world.told()
    event = world.last(EventKind.REBOUND)
    assert (event.severity, event.details["lost"]) == ("critical", [world.host.address])


@pytest.mark.full
def test_tomcat_on_the_port_of_jenkins_both_stand_ins_named_java(boot: Boot) -> None:
    world = boot(PYTHON)
    java = world.stand_in("java")
    world.serve("jenkins", 8080, f"{java} -m http.server 8080")
    world.watch()
    world.host.run("systemctl", "restart", "jenkins.service")
    world.host.wait_for(8080)
    assert world.told() == [("restarted", 8080)]
    world.host.stop_unit("jenkins.service")
    world.serve("tomcat10", 8080, f"{java} -m http.server 8080")
    assert world.told() == [("replaced", 8080)]
    event = world.last(EventKind.REPLACED)
    assert (event.details["was"], event.details["owner"]) == ("java (jenkins.service)", "java (tomcat10.service)")


def _postgres_and_pgbouncer(world: World) -> None:
    """Both on port 5432, each on an address of its own."""
    host = world.host
    host.run("install", "-d", "-o", "postgres", "/srv/postgres")
    folder = host.run("sh", "-c", "ls -d /usr/lib/postgresql/*/bin | tail -n 1").strip()
    initdb = (f"{folder}/initdb", "-D", "/srv/postgres", "--no-sync", "-A", "trust")
    host.run("runuser", "-u", "postgres", "--", *initdb)
    serve = f"{folder}/postgres -D /srv/postgres -h 127.0.0.1 -p 5432 -k /tmp"
    world.serve("database", 5432, serve, "User=postgres")
    settings = ("auth_type=any", "user=postgres", "pidfile=", "unix_socket_dir=", "listen_port=5432")
    lines = ("[databases]", "* = host=127.0.0.1", "[pgbouncer]", *settings, f"listen_addr={host.address}", "")
    host.write("/etc/pgbouncer/pgbouncer.ini", "\n".join(lines))
    host.start("pgbouncer.service")
    host.wait_for(5432, sockets=2)


@pytest.mark.full
def test_postgres_that_left_its_port_to_pgbouncer(boot: Boot) -> None:
    world = boot("/usr/sbin/pgbouncer", "/usr/lib/postgresql")
    _postgres_and_pgbouncer(world)
    world.watch()
    world.host.stop_unit("database.service")
    assert world.told() == [("owner_gone", 5432)]
    event = world.last(EventKind.OWNER_GONE)
    assert (event.severity, event.details["owner"]) == ("critical", "postgres (database.service)")
    assert event.details["left"] == "pgbouncer (pgbouncer.service)"
    assert world.told() == []
    world.host.start("database.service")
    world.host.wait_for(5432, sockets=2)
    assert world.told() == [("recovered", 5432)]
    assert world.last(EventKind.RECOVERED).meaning.name == "owner_back"
    # It takes the address of the one that is gone as well: that changes nothing about it.
    world.host.stop_unit("database.service")
    world.host.run("sed", "-i", "s/^listen_addr=.*/&,127.0.0.1/", "/etc/pgbouncer/pgbouncer.ini")
    world.host.run("systemctl", "restart", "pgbouncer.service")
    world.host.wait_for(5432, sockets=2)
    assert world.told() == [("owner_gone", 5432)]
    assert world.last(EventKind.OWNER_GONE).details["owner"] == "postgres (database.service)"
    assert world.told() == []
    assert len(world.site.messages) == 3


@pytest.mark.full
@pytest.mark.parametrize("which", ["blue", "green"])
def test_one_of_two_services_that_share_an_address(boot: Boot, which: str) -> None:
    world = boot(HAPROXY)
    for name in ("blue", "green"):
        world.haproxy(name, ":8080")
        world.host.start(f"app-{name}.service")
    world.watch()
    world.host.stop_unit(f"app-{which}.service")
    assert world.told() == [("owner_gone", 8080)]
    assert world.last(EventKind.OWNER_GONE).details["owner"] == f"haproxy (app-{which}.service)"
    world.host.start(f"app-{which}.service")
    assert world.told() == [("recovered", 8080)]


# ── looks that show less ────────────────────────────────────────────────────────────────────────


def _sudo(world: World) -> None:
    """Log in as a user who sees programs by sudo."""
    user = world.site.lab.user
    world.site.log_in_as(user)
    world.site.configure(ssh={"sudo": True}, states={"unreachable_after": 2})
    for host in world.hosts:
        host.write("/etc/sudoers.d/portmon", SUDOERS.format(user), "440")


def _allow_sudo(world: World, *, allow: bool) -> None:
    there, away = "/etc/sudoers.d/portmon", "/root/portmon"
    for host in world.hosts:
        host.run("mv", *((away, there) if allow else (there, away)))


def test_a_look_without_programs_is_silent_and_those_that_stay_hidden_are_told_once(boot: Boot) -> None:
    world = boot(NGINX, "/usr/bin/sudo", hosts=("web1", "web2", "web3"))
    for host in world.hosts:
        host.start("nginx.service")
    _sudo(world)
    world.watch()
    _allow_sudo(world, allow=False)
    assert world.site.run() == []
    _allow_sudo(world, allow=True)
    assert world.site.run() == []
    _allow_sudo(world, allow=False)
    assert world.site.run() == []
    assert sorted(world.site.run()) == [("owners_hidden", host.name, None) for host in world.hosts]
    assert world.site.messages == ["[portmon] programs hidden on 3 hosts"]
    assert world.site.run() == []
    # What dies meanwhile is told, and has its owner still.
    world.kill_unit("nginx.service", 80)
    assert world.site.run() == [("down", "web1", 80)]
    assert world.last(EventKind.DOWN).unit == "nginx.service"
    world.host.start("nginx.service")
    assert world.site.run() == [("recovered", "web1", 80)]
    _allow_sudo(world, allow=True)
    assert sorted(world.site.run()) == [("owners_shown", host.name, None) for host in world.hosts]
    assert world.site.run() == []
    assert len(world.site.messages) == 4


@pytest.mark.full
def test_sudo_that_comes_and_goes_on_a_socket_of_systemd(boot: Boot) -> None:
    world = boot("/usr/bin/sudo", "/lib/systemd/system/ssh.socket")
    _listen_by_ssh_socket(world)
    _sudo(world)
    world.watch()
    for stops in ((), ("ssh.socket",)):
        # Without its unit the socket is sshd's alone.
        if stops:
            world.host.stop_unit(*stops)
        for allow in (False, True, False, True):
            # Without sudo the socket tells ssh.socket, and with it the process ssh.service.
            _allow_sudo(world, allow=allow)
            assert world.told() == []
    assert world.host.sockets(22)
    assert world.site.messages == []


@pytest.mark.full
def test_a_tool_that_changes_between_two_looks(boot: Boot) -> None:
    world = boot(NGINX, HAPROXY, PYTHON, "/lib/systemd/system/cups.socket")
    for name in ("blue", "green"):
        world.haproxy(name, ":8080")
    _cups_with_a_port(world)
    world.serve("site", 8000)
    world.host.start("nginx.service", "app-blue.service", "app-green.service", "cups.socket")
    world.watch()
    for _ in range(3):
        world.take_other_tool()
        assert world.told() == []
    world.take_other_tool()
    world.host.stop_unit("nginx.service", "site.service")
    world.haproxy("front", ":80", ":::80 v6only")
    world.host.start("app-front.service", "site.service")
    world.host.wait_for(8000)
    assert world.told() == [("replaced", 80), ("restarted", 8000)]


# ── sockets of systemd ──────────────────────────────────────────────────────────────────────────


def _listen_by_ssh_socket(world: World) -> None:
    """Let Debian's ssh.socket listen where sshd did by itself."""
    lines = ("[Socket]", "ListenStream=", f"ListenStream={world.host.address}:22", "")
    world.host.write_unit("ssh.socket.d/lab.conf", "\n".join(lines))
    _switch_ssh(world, to="socket")


def _switch_ssh(world: World, *, to: str) -> None:
    world.host.stop_unit("ssh.socket", "ssh.service")
    world.host.start(f"ssh.{to}")


def _cups_with_a_port(world: World) -> None:
    """Let Debian's cups.socket listen on the port as well."""
    world.host.write_unit("cups.socket.d/lab.conf", "[Socket]\nListenStream=631\n")


@pytest.mark.full
def test_cups_by_its_socket(boot: Boot) -> None:
    world = boot("/usr/sbin/cupsd", "/usr/bin/curl")
    _cups_with_a_port(world)
    world.host.start("cups.socket")
    world.watch()
    for _ in range(2):
        world.host.run("curl", "-s", "-o", "/dev/null", "http://127.0.0.1:631/")
        pid = world.host.main_pid("cups.service")
        assert pid
        assert world.told() == []
        # As it ends when it was idle; the socket stays.
        world.kill(pid, signal="TERM")
        until(lambda: not world.host.main_pid("cups.service"), what="the end of cups.service")
        assert world.told() == []
    world.host.stop_unit("cups.service", "cups.socket")
    assert world.told() == [("down", 631)]


@pytest.mark.full
def test_cockpit_by_its_socket(boot: Boot) -> None:
    world = boot("/usr/lib/cockpit/cockpit-tls", "/usr/bin/curl")
    # A sandbox takes mounts that are not allowed here.
    open_box = "".join(f"Protect{what}=no\n" for what in ("System", "Home", "KernelTunables"))
    for unit in ("cockpit", "cockpit-wsinstance-http"):
        box = f"[Service]\n{open_box}PrivateTmp=no\nPrivateDevices=no\n"
        world.host.write_unit(f"{unit}.service.d/lab.conf", box)
    world.host.start("cockpit.socket")
    world.watch()
    world.host.run("curl", "-s", "-k", "-o", "/dev/null", "http://127.0.0.1:9090/")
    pid = world.host.main_pid("cockpit.service")
    assert pid
    assert world.told() == []
    world.kill(pid)
    until(lambda: not world.host.main_pid("cockpit.service"), what="the end of cockpit.service")
    assert world.told() == []
    world.host.stop_unit("cockpit.socket")
    assert world.told() == [("down", 9090)]


@pytest.mark.full
def test_ssh_by_its_socket_and_by_its_service(boot: Boot) -> None:
    world = boot("/lib/systemd/system/ssh.socket")
    world.watch()
    _listen_by_ssh_socket(world)
    assert world.told() == [("restarted", 22)]
    assert world.told() == []
    world.kill(world.host.main_pid("ssh.service"))
    assert world.told() == []
    _switch_ssh(world, to="service")
    assert world.told() == [("restarted", 22)]
    assert world.told() == []
    assert world.site.messages == []


@pytest.mark.full
def test_ssh_by_the_socket_of_all_addresses(boot: Boot) -> None:
    world = boot("/lib/systemd/system/ssh.socket")
    world.watch()
    # It listens on [::]:22 as Debian has it, for IPv4 as well: the next look comes that way.
    _switch_ssh(world, to="socket")
    world.told()
    # Its addresses are others, and none is lost.
    (event,) = [event for event in world.site.events() if event.kind is EventKind.REBOUND]
    assert (event.severity, event.details["severe"]) == ("warning", False)
    assert len(world.site.messages) == 1


@pytest.mark.full
def test_a_service_where_only_systemd_had_the_port_is_its_first_owner(boot: Boot) -> None:
    world = boot(PYTHON, "/lib/systemd/system/cups.socket")
    _cups_with_a_port(world)
    world.host.start("cups.socket")
    world.watch()
    world.host.stop_unit("cups.socket")
    world.serve("site", 631, f"{PYTHON} -m http.server --bind :: 631")
    assert world.told() == []


# ── everyday life of one owner ──────────────────────────────────────────────────────────────────


def test_reloads_of_haproxy_and_a_binary_upgrade_of_nginx(boot: Boot) -> None:
    world = boot(NGINX, HAPROXY)
    host = world.host
    host.write("/etc/haproxy/haproxy.cfg", haproxy(":8080"))
    host.start("haproxy.service", "nginx.service")
    world.watch()
    for _ in range(2):
        before = host.pids("haproxy")
        host.run("systemctl", "reload", "haproxy.service")
        until(lambda before=before: len(host.pids("haproxy") - before) == 1, what="a new worker")
        assert world.told() == []
    old = host.main_pid("nginx.service")
    before = host.pids("nginx")
    for signal in ("USR2", "WINCH", "QUIT"):
        world.kill(old, signal=signal)
        if signal == "USR2":
            world.renewed("nginx", before)
        if signal == "QUIT":
            until(lambda: old not in host.pids("nginx"), what="the end of the old nginx")
        assert world.told() == []
    assert old not in host.pids("nginx")
    assert world.site.messages == []


@pytest.mark.full
def test_reloads_of_haproxy_and_squid_into_new_sockets(boot: Boot) -> None:
    world = boot(HAPROXY, "/usr/sbin/squid")
    host = world.host
    host.write("/etc/haproxy/old.cfg", haproxy(":8080"))
    start = f"{HAPROXY} -D -f /etc/haproxy/old.cfg -p /run/haproxy.pid"
    host.run("sh", "-c", start)
    settings = ("http_port 0.0.0.0:3128", "pid_filename /run/squid.pid", "cache_log /dev/null", "access_log none", "")
    host.write("/etc/squid/squid.conf", "\n".join(settings))
    host.start("squid.service")
    host.wait_for(3128)
    world.watch()
    before = host.sockets(8080)
    host.run("sh", "-c", f"{start} -sf $(cat /run/haproxy.pid)")
    until(lambda: len(host.sockets(8080)) == 1 and host.sockets(8080) != before, what="another socket of haproxy")
    assert world.told() == [("restarted", 8080)]
    before = host.sockets(3128)
    host.run("systemctl", "reload", "squid.service")
    until(lambda: host.sockets(3128) - before, what="another socket of squid")
    assert world.told() == [("restarted", 3128)]
    assert world.told() == []
    assert world.site.messages == []


@pytest.mark.full
def test_a_blue_green_handover(boot: Boot) -> None:
    world = boot(HAPROXY)
    for name in ("blue", "green"):
        world.haproxy(name, ":8080")
    world.host.start("app-blue.service")
    world.watch()
    for old, new in (("blue", "green"), ("green", "blue")):
        world.host.start(f"app-{new}.service")
        world.host.wait_for(8080, sockets=2)
        assert world.told() == []
        world.host.stop_unit(f"app-{old}.service")
        assert world.told() == [("replaced", 8080)]
        details = world.last(EventKind.REPLACED).details
        assert (details["was"], details["owner"]) == (f"haproxy (app-{old}.service)", f"haproxy (app-{new}.service)")
        assert world.told() == []


@pytest.mark.full
def test_handovers_between_instances_of_a_template(boot: Boot) -> None:
    world = boot(HAPROXY)
    world.haproxy("any", ":8080", unit="app@")
    world.host.start("app@0.service")
    world.watch()
    for number in range(4):
        world.host.start(f"app@{number + 1}.service")
        world.host.wait_for(8080, sockets=2)
        assert world.told() == []
        world.host.stop_unit(f"app@{number}.service")
        assert world.told() == []


@pytest.mark.full
def test_workers_that_die_and_become_fewer(boot: Boot) -> None:
    world = boot(NGINX)
    host = world.host
    host.write("/etc/nginx/sites-enabled/default", "server { listen 80 reuseport; return 204; }\n")
    host.run("sed", "-i", "s/^worker_processes.*/worker_processes 4;/", "/etc/nginx/nginx.conf")
    host.start("nginx.service")
    host.wait_for(80, sockets=4)
    world.watch()
    before = host.pids("nginx")
    world.kill(*before - {host.main_pid("nginx.service")})
    until(lambda: len(host.pids("nginx") - before) == 4, what="other workers")
    assert world.told() == []
    host.run("sed", "-i", "s/^worker_processes.*/worker_processes 2;/", "/etc/nginx/nginx.conf")
    host.run("systemctl", "reload", "nginx.service")
    host.wait_for(80, sockets=2)
    assert world.told() == []
    world.kill_unit("nginx.service", 80)
    assert world.told() == [("down", 80)]


@pytest.mark.full
def test_a_child_that_inherits_the_socket_as_scripts_do(boot: Boot) -> None:
    world = boot(PYTHON)
    world.host.write("/opt/parent.py", PARENT)
    world.serve("app", 8000, f"{PYTHON} /opt/parent.py", "KillMode=process")
    world.watch()
    pid = world.host.main_pid("app.service")
    world.kill(pid, signal="USR1")
    world.renewed("sleep", set())
    assert world.told() == []
    world.kill(*world.host.pids("sleep"))
    assert world.told() == []
    world.kill(pid, signal="USR1")
    world.renewed("sleep", set())
    # The child is of the same service, and the socket is the same one.
    world.kill(pid)
    assert world.told() == []
    world.kill(*world.host.pids("sleep"))
    world.host.wait_for(8000, sockets=0)
    assert world.told() == [("down", 8000)]


@pytest.mark.full
def test_a_child_with_a_lower_number_than_its_parent(boot: Boot) -> None:
    world = boot(PYTHON)
    app = world.stand_in("app")
    world.host.write("/opt/parent.py", PARENT)
    _count_pids_from(world, 20000)
    world.in_scope("session-3.scope", f"{app} /opt/parent.py", 8000)
    world.watch()
    (pid,) = world.host.pids("app")
    _count_pids_from(world, 5000)
    world.kill(pid, signal="USR1")
    world.renewed("sleep", set())
    assert max(world.host.pids("sleep")) < pid
    # netstat shows the lowest of the processes that have a socket.
    assert world.told() == []
    world.kill(*world.host.pids("sleep"))
    assert world.told() == []


def _count_pids_from(world: World, number: int) -> None:
    """Give the next process a number, as when they begin anew after the last one."""
    count = f"mount -t proc proc /proc && echo {number} >/proc/sys/kernel/ns_last_pid"
    world.host.run("unshare", "--mount", "sh", "-c", count)


@pytest.mark.full
def test_what_cron_started_and_its_children(boot: Boot) -> None:
    world = boot(PYTHON, "/usr/sbin/cron")
    app = world.stand_in("app")
    world.host.write("/opt/parent.py", PARENT)
    world.host.write("/etc/cron.d/app", f"@reboot root exec {app} /opt/parent.py\n")
    world.host.start("cron.service")
    world.host.wait_for(8000)
    world.watch()
    (pid,) = world.host.pids("app")
    world.kill(pid, signal="USR1")
    world.renewed("sleep", set())
    assert world.told() == []
    world.host.run("systemctl", "restart", "cron.service")
    assert world.told() == []
    world.kill(*world.host.pids("sleep"))
    assert world.told() == []
    world.ends("parent.py", 8000)
    assert world.told() == [("down", 8000)]


@pytest.mark.full
def test_a_service_that_is_started_by_hand_in_a_session(boot: Boot) -> None:
    world = boot(NGINX)
    world.host.start("nginx.service")
    world.watch()
    world.host.stop_unit("nginx.service")
    world.host.run(*SCOPE, "--slice=user-0.slice", "--unit=session-7.scope", "nginx")
    assert world.told() == [("restarted", 80)]
    assert world.told() == []
    world.host.run("nginx", "-s", "stop")
    until(lambda: not world.host.pids("nginx"), what="the end of nginx")
    world.host.start("nginx.service")
    assert world.told() == [("restarted", 80)]


@pytest.mark.full
def test_a_program_of_a_session(boot: Boot) -> None:
    world = boot("/usr/bin/socat")
    command = "socat TCP4-LISTEN:9000,fork,reuseaddr EXEC:cat"
    world.in_scope("session-3.scope", command, 9000)
    world.watch()
    world.ends("socat", 9000)
    world.in_scope("session-8.scope", command, 9000)
    assert world.told() == [("restarted", 9000)]
    world.ends("socat", 9000)
    assert world.told() == [("down", 9000)]
    # It was there in the first look, and is young all the same.
    assert world.last(EventKind.DOWN).severity == "warning"


# ── units of many programs ──────────────────────────────────────────────────────────────────────


@pytest.mark.full
def test_docker_proxies_under_a_stand_in_for_dockerd(boot: Boot) -> None:
    world = boot(NGINX, "/usr/sbin/docker-proxy")
    world.host.start("nginx.service")
    tell = world.manager("dockerd", "docker")
    proxy = "/usr/sbin/docker-proxy -proto tcp -host-ip {} -host-port {} -container-ip 127.0.0.1 -container-port 80"

    def publish(port: int) -> None:
        for number, address in enumerate(("0.0.0.0", "::")):
            tell(proxy.format(address, port), port, sockets=number + 1)

    for port in (8080, 8443):
        publish(port)
    tell("listen 9323", 9323)
    world.watch()
    # The container is started again, or another one in its place.
    world.ends("host-port 8080 ", 8080)
    publish(8080)
    assert world.told() == [("restarted", 8080)]
    world.ends("host-port 8080 ", 8080)
    assert world.told() == [("down", 8080)]
    tell("listen 8080", 8080)
    assert world.told() == [("replaced", 8080)]
    assert world.last(EventKind.REPLACED).details["owner"] == "dockerd (docker.service)"
    tell("close 8080", 8080, sockets=0)
    publish(8080)
    assert world.told() == [("recovered", 8080)]


@pytest.mark.full
@pytest.mark.parametrize("scope", ["docker-{}.scope", "cri-containerd-{}.scope", "crio-{}.scope"])
def test_containers_in_the_network_of_their_host(boot: Boot, scope: str) -> None:
    world = boot(PYTHON)
    exporter = world.stand_in("node_exporter")
    world.in_scope(scope.format("a" * 64), f"{exporter} -m http.server 9100", 9100)
    world.in_scope(scope.format("b" * 64), f"{PYTHON} -m http.server 8000", 8000)
    world.watch()
    world.ends("http.server 9100", 9100)
    world.in_scope(scope.format("c" * 64), f"{exporter} -m http.server 9100", 9100)
    assert world.told() == [("restarted", 9100)]
    world.ends("http.server 9100", 9100)
    world.in_scope(scope.format("d" * 64), f"{PYTHON} -m http.server 9100", 9100)
    assert world.told() == [("replaced", 9100)]
    world.ends("http.server 9100", 9100)
    assert world.told() == [("down", 9100)]


@pytest.mark.full
def test_programs_of_supervisor(boot: Boot) -> None:
    world = boot(HAPROXY, PYTHON, "/usr/bin/supervisord")
    # More happens here within minutes than in an hour.
    world.site.configure(states={"flap_threshold": 9})
    programs = {"api": f"{PYTHON} -m http.server 8000"}
    for name, port in (("front", 8001), ("spare", 8000)):
        world.host.write(f"/etc/haproxy/{name}.cfg", haproxy(f":{port}"))
        programs[name] = f"{HAPROXY} -f /etc/haproxy/{name}.cfg"
    for name, command in programs.items():
        settings = f"[program:{name}]\ncommand={command}\nstartsecs=0\nautostart={name != 'spare'}\n".lower()
        world.host.write(f"/etc/supervisor/conf.d/{name}.conf", settings)
    world.host.start("supervisor.service")
    world.host.wait_for(8000)
    world.host.wait_for(8001)
    world.watch()

    def supervise(what: str, program: str, *, listens: bool = True) -> None:
        world.host.run("supervisorctl", what, program)
        world.host.wait_for(8001 if program == "front" else 8000, sockets=int(listens))

    supervise("restart", "api")
    assert world.told() == [("restarted", 8000)]
    supervise("stop", "api", listens=False)
    assert world.told() == [("down", 8000)]
    supervise("start", "spare")
    assert world.told() == [("replaced", 8000)]
    supervise("stop", "spare", listens=False)
    supervise("start", "api")
    assert world.told() == [("recovered", 8000)]
    # One program is left, and still it is not the other one.
    supervise("stop", "api", listens=False)
    supervise("stop", "front", listens=False)
    supervise("start", "spare")
    assert world.told() == [("replaced", 8000), ("down", 8001)]


@pytest.mark.full
def test_programs_of_pm2_a_stand_in(boot: Boot) -> None:
    world = boot(PYTHON)
    tell = world.manager("PM2 v5.3.0: God", "pm2-root")
    node = world.stand_in("node")
    # Of a cluster the manager itself has the socket.
    tell("listen 3000", 3000)
    tell(f"{node} -m http.server 3001", 3001)
    world.watch()
    world.ends("http.server 3001", 3001)
    tell(f"{node} -m http.server 3001", 3001)
    assert world.told() == [("restarted", 3001)]
    world.ends("http.server 3001", 3001)
    assert world.told() == [("down", 3001)]
    tell("listen 3001", 3001)
    assert world.told() == [("replaced", 3001)]
    tell("close 3001", 3001, sockets=0)
    assert world.told() == []
    tell(f"{node} -m http.server 3001", 3001)
    assert world.told() == [("recovered", 3001)]


@pytest.mark.full
def test_programs_of_kubelet_a_stand_in(boot: Boot) -> None:
    world = boot("/usr/bin/socat", PYTHON)
    tell = world.manager("kubelet", "kubelet")
    tell("listen 10250", 10250)
    tell("socat TCP4-LISTEN:10256,fork,reuseaddr EXEC:cat", 10256)
    world.watch()
    tell("close 10250", 10250, sockets=0)
    tell("listen 10250", 10250)
    assert world.told() == [("restarted", 10250)]
    tell("close 10250", 10250, sockets=0)
    tell("socat TCP4-LISTEN:10250,fork,reuseaddr EXEC:cat", 10250)
    assert world.told() == [("replaced", 10250)]
    world.ends("TCP4-LISTEN:10256", 10256)
    assert world.told() == [("down", 10256)]
