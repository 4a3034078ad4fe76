"""Every kind of event, made for real: hosts with sshd and netstat of their own, a state database, the command line.

Each test has a database of its own and starts from the first answer of its hosts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from portmon.model.event_kinds import AlertGroup, EventKind
from portmon.model.host import Host
from portmon.storage.database import Database
from tests.worlds.databases import migrated, migrated_postgres
from tests.worlds.lab import Lab, LabHost, missing, unit_root
from tests.worlds.postgres import Cluster
from tests.worlds.site import Site
from tests.worlds.waiting import skip_without

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    skip_without(missing())
    with closing(Lab(["web1", "web2", "db1"])) as made:
        yield made


@pytest.fixture
def start(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Database], Site]]:
    """Makes a site with its state in a database."""
    databases = []

    def make(database: Database) -> Site:
        databases.append(database)
        return Site(lab, tmp_path, database, monkeypatch)

    yield make
    for database in databases:
        database.dispose()
    for host in lab.hosts.values():
        for port in list(host.services):
            host.kill_service(port)
        host.reconnect()


@pytest.fixture
def site(start: Callable[[Database], Site], tmp_path: Path) -> Site:
    return start(migrated(tmp_path / "state.db"))


def replace(host: LabHost, port: int, name: str, addresses: Sequence[str] = ("0.0.0.0",)) -> int:
    """Another process in the place of one; its pid."""
    host.kill_service(port)
    return host.start_service(port, name, addresses=tuple(addresses))


# ── one port ────────────────────────────────────────────────────────────────────────────────────


def test_a_life_from_baseline_to_recovered(site: Site) -> None:
    host = site.lab.hosts["web1"]
    unit = "nginx.service" if unit_root() else None
    host.start_service(8080, "nginx: master", unit=unit)
    site.watch("web1")
    assert site.messages == []
    story = site.explain("web1", 8080)
    assert "It is up since " in story
    assert "It was learned and is watched: no rule says otherwise." in story
    assert "  baseline: First complete answer: 2 listening ports." in story

    pid = host.start_service(9000, "redis-server")
    assert site.run() == [("new", "web1", 9000)]
    event = site.last(EventKind.NEW)
    assert (event.program, event.reason) == ("redis-server", "It was not there before")
    assert {name: event.details[name] for name in ("pids", "uids", "addresses", "watched", "row")} == {
        "pids": [pid],
        "uids": [host.uid],
        "addresses": ["0.0.0.0"],
        "watched": "no rule matches it",
        "row": "new",
    }
    assert site.explain("web1", 9000).count("new (redis-server): It was not there before.\n") == 1

    host.kill_service(8080)
    assert site.run() == [("down", "web1", 8080)]
    event = site.last(EventKind.DOWN)
    assert (event.program, event.unit) == ("nginx: master", unit)
    assert event.details["uids"] == [host.uid]
    assert event.reason.startswith("Missing in the complete answers of 1 run, confirmed; last seen ")
    story = site.explain("web1", 8080)
    assert "It is down since " in story
    assert ("unit nginx.service; " in story) == bool(unit)
    assert f"uid {host.uid}; " in story
    assert " (nginx: master, nginx.service): Missing in" in story or not unit
    assert "list: delivered" in story
    assert site.run() == []

    host.start_service(8080, "nginx: master", unit=unit)
    assert site.run() == [("recovered", "web1", 8080)]
    assert site.last(EventKind.RECOVERED).details["down_for"] > 0
    story = site.explain("web1", 8080)
    assert "It is up since " in story
    assert re.search(r"down \(nginx.*\n.*\n.*recovered \(nginx.*: It listens again\.\n.*; down for \d+s; ", story)
    assert site.messages == [
        "[portmon] 1 new port on web1: tcp/9000 redis-server",
        "[portmon] 1 port down on web1: tcp/8080 nginx: master",
        "[portmon] 1 port recovered on web1: tcp/8080 nginx: master",
    ]


def test_restarted_and_replaced(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "nginx: master")
    (host,) = site.watch("web1")
    old = host.services[8080].pid
    new = replace(host, 8080, "nginx: master")
    assert site.run() == [("restarted", "web1", 8080)]
    event = site.last(EventKind.RESTARTED)
    assert (event.details["before"], event.details["pids"], event.details["uids"]) == ([old], [new], [host.uid])
    replace(host, 8080, "haproxy")
    assert site.run() == [("replaced", "web1", 8080)]
    event = site.last(EventKind.REPLACED)
    assert (event.program, event.details["before"]) == ("haproxy", ["nginx: master"])
    assert event.details["uids"] == [host.uid]
    story = site.explain("web1", 8080)
    assert f"The same program was started again.\n      run run-2; task netstat[0]; before: {old}; pid {new}" in story
    assert "haproxy has it now, and no longer nginx" in story
    assert "run run-3; task netstat[0]; before: nginx: master;" in story
    assert "Last known of it: program haproxy; " in story
    assert len(site.messages) == 1


def test_rebound(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "nginx", addresses=("127.0.0.1",))
    (host,) = site.watch("web1")
    replace(host, 8080, "nginx")
    assert site.run() == [("restarted", "web1", 8080), ("rebound", "web1", 8080)]
    assert site.last(EventKind.REBOUND).details["severe"] is False
    assert "It listens on 0.0.0.0 now, before on 127.0.0.1." in site.explain("web1", 8080)


def test_a_lost_bind_and_its_return(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "nginx", addresses=("0.0.0.0", "::1"))
    (host,) = site.watch("web1")
    replace(host, 8080, "nginx", ["::1"])
    assert site.run() == [("restarted", "web1", 8080), ("rebound", "web1", 8080)]
    event = site.last(EventKind.REBOUND)
    assert (event.severity, event.details["severe"], event.details["lost"]) == ("critical", True, ["0.0.0.0"])
    assert event.details["uids"] == [host.uid]
    story = site.explain("web1", 8080)
    assert "It is up since " in story
    assert "It does not listen on 0.0.0.0 any more, since " in story
    assert "It does not listen on 0.0.0.0 any more, only on ::1." in story
    assert site.messages == ["[portmon] 1 port down on some addresses on web1: tcp/8080 nginx"]
    replace(host, 8080, "nginx", ["0.0.0.0", "::1"])
    assert site.run() == [("restarted", "web1", 8080), ("recovered", "web1", 8080)]
    story = site.explain("web1", 8080)
    assert "It listens on 0.0.0.0 again." in story
    assert "does not listen on 0.0.0.0 any more, since" not in story


SECOND = -8080
"""The key of a service that shares port 8080."""


def test_one_of_two_programs_leaves_a_port_and_is_back(site: Site) -> None:
    lab = site.lab.hosts["web1"]
    lab.start_service(8080, "nginx", addresses=("127.0.0.1",))
    lab.start_service(8080, "varnishd", addresses=(lab.address,), key=SECOND)
    (host,) = site.watch("web1")
    host.kill_service(SECOND)
    assert site.run() == [("owner_gone", "web1", 8080)]
    event = site.last(EventKind.OWNER_GONE)
    assert (event.severity, event.group) == ("critical", AlertGroup.DOWN)
    assert "varnishd" in event.details["owner"]
    assert "nginx" in event.details["left"]
    story = site.explain("web1", 8080)
    assert "It is up since " in story
    assert re.search(r"varnishd.* does not hold it any more, only nginx.*, since ", story)
    assert site.run() == []
    host.start_service(8080, "varnishd", addresses=(host.address,), key=SECOND)
    assert site.run() == [("recovered", "web1", 8080)]
    event = site.last(EventKind.RECOVERED)
    assert (event.meaning.name, event.details["part"]) == ("owner_back", "owner")
    assert "does not hold it any more" not in site.explain("web1", 8080)
    gone, back = site.messages
    assert gone.startswith("[portmon] program gone from 1 port on web1: tcp/8080")
    assert back.startswith("[portmon] program back on 1 port on web1: tcp/8080")


def test_another_program_has_the_port_of_one_that_is_down(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "nginx")
    (host,) = site.watch("web1")
    host.kill_service(8080)
    assert site.run() == [("down", "web1", 8080)]
    host.start_service(8080, "haproxy")
    assert site.run() == [("replaced", "web1", 8080)]
    event = site.last(EventKind.REPLACED)
    assert (event.meaning.name, event.details["taken"]) == ("taken", True)
    assert "haproxy" in event.details["owner"]
    assert site.run() == []
    story = site.explain("web1", 8080)
    assert "It is down since " in story
    assert re.search(r"Another program has it: haproxy.*\.", story)
    replace(host, 8080, "nginx")
    assert site.run() == [("recovered", "web1", 8080)]
    _, taken, _ = site.messages
    assert taken.startswith("[portmon] another program has 1 port that is down on web1: tcp/8080")


def test_a_service_that_restarts_again_and_again(site: Site) -> None:
    site.configure(states={"flap_threshold": 3, "flap_window": "5s"})
    site.lab.hosts["web1"].start_service(8080, "nginx")
    (host,) = site.watch("web1")
    for kind in ("restarted", "restarted", "crash_looping"):
        replace(host, 8080, "nginx")
        assert site.run() == [(kind, "web1", 8080)]
    event = site.last(EventKind.CRASH_LOOPING)
    assert (event.severity, event.group) == ("critical", AlertGroup.DOWN)
    replace(host, 8080, "nginx")
    assert site.run() == []
    assert "It is up since " in site.explain("web1", 8080)
    assert site.run_until(EventKind.STABLE) == [("stable", "web1", 8080)]
    assert site.last(EventKind.STABLE).meaning.name == "stable"
    assert site.messages == [
        "[portmon] 1 port crash looping on web1: tcp/8080 nginx",
        "[portmon] 1 port stable again on web1: tcp/8080 nginx",
    ]


def test_moved(site: Site) -> None:
    site.lab.hosts["web1"].start_service(40000, "worker")
    (host,) = site.watch("web1")
    story = site.explain("web1", 40000)
    assert "It is a candidate: inside the host's ephemeral range (32768 to 60999), seen 1 of 2 times in a row." in story
    assert site.run() == []
    assert "It is up since " in site.explain("web1", 40000)
    host.kill_service(40000)
    host.start_service(41000, "worker")
    assert site.run() == [("moved", "web1", 40000)]
    event = site.last(EventKind.MOVED)
    assert (event.program, event.details["to"], event.details["uids"]) == ("worker", 41000, [host.uid])
    story = site.explain("web1", 40000)
    assert "It is not watched, and nothing listened on it in the last complete answer." in story
    assert "moved (worker): Its program listens on port 41000 instead." in story
    story = site.explain("web1", 41000)
    assert "It is up since " in story
    assert "moved of port 40000 (worker): Its program listens on port 41000 instead." in story
    host.kill_service(41000)
    assert site.run() == [("down", "web1", 41000)]
    assert len(site.messages) == 1


def test_flapping_and_stable_up_and_down(site: Site) -> None:
    site.configure(states={"flap_threshold": 3, "flap_window": "5s"})
    ports = (8080, 9000)
    for port in ports:
        site.lab.hosts["web1"].start_service(port, "nginx")
    (host,) = site.watch("web1")
    for kind in ("down", "recovered", "flapping"):
        for port in ports:
            if kind == "recovered":
                host.start_service(port, "nginx")
            else:
                host.kill_service(port)
        assert site.run() == [(kind, "web1", port) for port in ports]
    event = site.last(EventKind.FLAPPING)
    assert event.reason.startswith("3 changes between up and down within ")
    assert (event.details["state"], event.details["uids"]) == ("down", [host.uid])
    host.start_service(8080, "nginx")
    assert site.run() == []
    story = site.explain("web1", 8080)
    assert "It is up since " in story
    assert "It is flapping since " in story
    assert "nothing more is told of it until it holds still." in story

    told = site.run_until(EventKind.STABLE)
    if len(told) == 1:
        told += site.run_until(EventKind.STABLE)
    assert sorted(told) == [("stable", "web1", 8080), ("stable", "web1", 9000)]
    states = {event.port: event.details["state"] for event in site.events() if event.kind is EventKind.STABLE}
    assert states == {8080: "up", 9000: "down"}
    for port, state, told_by in ((8080, "up", AlertGroup.RECOVERED), (9000, "down", AlertGroup.DOWN)):
        story = site.explain("web1", port)
        assert f"It is {state} since " in story
        assert "It is flapping" not in story
        assert f" and is {state}.\n" in story
        (event,) = (event for event in site.events() if event.kind is EventKind.STABLE and event.port == port)
        assert event.group is told_by
    host.start_service(9000, "nginx")
    assert site.run() == [("recovered", "web1", 9000)]


def test_retired_by_time(site: Site) -> None:
    site.configure(states={"retire_after": "1s"})
    site.lab.hosts["web1"].start_service(8080, "nginx")
    (host,) = site.watch("web1")
    host.kill_service(8080)
    assert site.run_until(EventKind.RETIRED) == [("down", "web1", 8080), ("retired", "web1", 8080)]
    event = site.last(EventKind.RETIRED)
    assert event.reason.startswith("Not seen since ")
    assert event.details["uids"] == [host.uid]
    story = site.explain("web1", 8080)
    assert "It is not watched, and nothing listened on it in the last complete answer." in story
    assert "retired (nginx): Not seen since " in story
    host.start_service(8080, "nginx")
    assert site.run() == [("new", "web1", 8080)]


def test_retired_since_a_person_accepted_it(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "nginx")
    (host,) = site.watch("web1")
    host.kill_service(8080)
    assert site.run() == [("down", "web1", 8080)]
    said = site.command("accept", "WEB1", "8080", "--author", "ann", "--reason", "replaced by 8443")
    assert "web1: port 8080 is accepted as gone; the next complete answer without it retires it\n" in said
    story = site.explain("web1", 8080)
    assert "Accepted as gone by ann: replaced by 8443: the next complete answer without it retires it." in story
    assert site.run() == [("retired", "web1", 8080)]
    assert "retired (nginx): Accepted as gone by a person; it is not watched any more." in site.explain("web1", 8080)
    assert site.run() == []


@pytest.mark.parametrize("how", ["cmdb", "configuration", "promote"])
def test_a_declared_port_that_never_listens(site: Site, how: str) -> None:
    because = "declared by the CMDB"
    if how == "configuration":
        site.configure(declared=[{"host": "web*", "port": [9100], "comment": "node exporter"}])
        because = f"declared by {site.config.where('declared', 0)} (node exporter)"
    site.listed = [Host("id-web1", "web1", site.lab.hosts["web1"].address, declared=(9100,) if how == "cmdb" else ())]
    told = [("baseline", "web1", None), ("down", "web1", 9100)]
    if how == "promote":
        because = "promoted by ann: the contract says so"
        assert site.run() == told[:1]
        site.command("promote", "web1", "9100", "--author", "ann", "--reason", "the contract says so")
        assert f"It must listen: {because}; the next complete answer counts." in site.explain("web1", 9100)
        assert site.run() == told[1:]
    else:
        assert site.run() == told
    assert site.last(EventKind.DOWN).reason == f"It must listen ({because}) and does not; never seen"
    story = site.explain("web1", 9100)
    assert "never seen.\nLast known of it: nothing.\n" in story
    assert f"It must listen: {because}.\n" in story
    assert f"down: It must listen ({because}) and does not; never seen." in story
    host = site.lab.hosts["web1"]
    host.start_service(9100, "node_exporter")
    host.start_service(8080, "nginx")
    assert site.run() == [("new", "web1", 8080), ("recovered", "web1", 9100)]
    assert site.last(EventKind.RECOVERED).details["uids"] == [host.uid]
    host.kill_service(8080)
    assert site.run() == [("down", "web1", 8080)]
    assert "It is up since " in site.explain("web1", 9100)


def test_a_candidate_that_is_promoted_and_dies(site: Site) -> None:
    (host,) = site.watch("web1")
    host.start_service(40000, "worker")
    assert site.run() == []
    site.command("promote", "web1", "40000", "--author", "ann")
    host.kill_service(40000)
    assert site.run() == [("down", "web1", 40000)]
    story = site.explain("web1", 40000)
    assert "It is down since " in story
    assert "It must listen: promoted by ann.\n" in story


# ── hosts ───────────────────────────────────────────────────────────────────────────────────────


def test_unreachable_and_reachable(site: Site) -> None:
    site.lab.hosts["web2"].start_service(8080, "nginx")
    *_, host = site.watch("db1", "web1", "web2")
    host.cut_off()
    assert site.run() == [("unreachable", "web2", None)]
    event = site.last(EventKind.UNREACHABLE)
    assert event.reason.startswith("No evidence in 1 run: web2 (10.")
    story = site.explain("web2", 8080)
    assert "The host is unreachable since " in story
    assert ": its ports keep the state of its last complete answer, " in story
    assert "It is up since " in story
    assert ": unreachable (" in story
    assert "  unreachable: No evidence in 1 run: " in story
    # A port that dies meanwhile is told when the host answers again.
    host.kill_service(8080)
    assert site.run() == []
    host.reconnect()
    assert site.run() == [("reachable", "web2", None), ("down", "web2", 8080)]
    story = site.explain("web2", 8080)
    assert "The host is unreachable" not in story
    assert "  reachable: It answered completely again." in story
    assert "unreachable for " in story


def test_a_fleet_that_is_cut_off_is_one_event(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "nginx")
    hosts = site.watch("db1", "web1", "web2")
    for host in hosts:
        host.cut_off()
    assert site.run() == [("fleet_unreachable", None, None)]
    assert site.run() == []
    story = site.explain("web1", 8080)
    assert "Nearly every host fails since " in story
    assert "look at the monitor and its network first." in story
    assert "The host gave no evidence in its last 2 runs, since " in story
    assert "It is up since " in story
    assert "  fleet_unreachable: 3 of 3 hosts that were asked began to fail at once (" in story
    for host in hosts:
        host.reconnect()
    assert site.run() == [("fleet_reachable", None, None)]
    story = site.explain("web1", 8080)
    assert "very host fails" not in story
    assert "  fleet_reachable: Hosts give evidence again." in story
    assert len(site.messages) == 2


def test_rebooted_and_the_grace_after_it(site: Site) -> None:
    site.configure(states={"reboot_grace": "2s"})
    for port in (8080, 9000):
        site.lab.hosts["web1"].start_service(port, "nginx")
    (host,) = site.watch("web1")
    before = host.boot_id
    host.reboot()
    assert site.run() == [("rebooted", "web1", None)]
    seen_by = {"task": "netstat", "map_index": 0}
    assert site.last(EventKind.REBOOTED).details == {"before": before, "boot_id": host.boot_id} | seen_by
    story = site.explain("web1", 9000)
    assert "It is up since " in story
    assert "It is missing since the host's reboot and has until " in story
    assert "  rebooted: Its boot id changed; ports that are not back yet have until " in story
    host.start_service(8080, "nginx")
    assert site.run_until(EventKind.DOWN) == [("down", "web1", 9000)]
    event = site.last(EventKind.DOWN)
    assert event.reason.startswith("Not back after the reboot of its host, whose time of grace is over; last seen ")
    assert event.details["uids"] == [host.uid]
    assert "It is down since " in site.explain("web1", 9000)
    story = site.explain("web1", 8080)
    assert "It is up since " in story
    assert "missing" not in story
    assert "restarted" not in story


def test_two_entries_for_one_machine(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "nginx")
    site.watch("web1")
    site.listed.append(Host("id-zzz", "alias", site.lab.hosts["web1"].address))
    assert sorted(site.run()) == [("baseline", "alias", None), ("duplicate", "alias", None)]
    assert site.run() == []
    story = site.explain("alias", 8080)
    assert "duplicate: The same machine as web1 (id id-web1). Both are watched" in story
    assert "duplicate" not in site.explain("web1", 8080)


def test_a_host_that_leaves_the_cmdb_and_comes_back(site: Site) -> None:
    for port in (8080, 9000):
        site.lab.hosts["web1"].start_service(port, "nginx")
    (host,) = site.watch("web1")
    host.kill_service(8080)
    assert site.run() == [("down", "web1", 8080)]
    (entry,) = site.listed
    site.listed = []
    assert site.run(force_prune=True) == [("retired", "web1", 8080)]
    event = site.last(EventKind.RETIRED)
    assert (event.reason, event.details["uids"]) == ("Was down; it left the CMDB", [host.uid])
    for port in (8080, 9000):
        story = site.explain("web1", port)
        assert "The host left the CMDB at " in story
        assert "It is up" not in story
        assert "It is down" not in story
        assert "Last known of it: program nginx; " in story
    assert "retired (nginx): Was down; it left the CMDB." in site.explain("web1", 8080)
    site.listed = [entry]
    # Its alert was closed: a port that is still down makes a new one.
    assert site.run() == [("down", "web1", 8080)]
    story = site.explain("web1", 8080)
    assert "left the CMDB at" not in story
    assert story.count("down (nginx): ") == 2


def test_a_rule_that_excludes_a_port_that_is_down(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "nginx")
    (host,) = site.watch("web1")
    host.kill_service(8080)
    assert site.run() == [("down", "web1", 8080)]
    site.configure(rules=[{"action": "deny", "port": 8080}])
    # The rule may be a mistake of one run.
    assert site.run() == []
    assert site.run() == [("unwatched", "web1", 8080)]
    assert "unwatched (nginx): No rule watches it any more." in site.explain("web1", 8080)


def test_a_changed_host_key(site: Site) -> None:
    site.lab.hosts["web2"].start_service(8080, "nginx")
    site.watch("web1", "web2")
    host = site.lab.hosts["web2"]
    fingerprint = host.new_host_key()
    host.restart_sshd()
    assert site.run() == [("host_key_changed", "web2", None)]
    story = site.explain("web2", 8080)
    assert "host_key_changed: " in story
    assert f"hostkeys accept '[{host.address}]:22' {fingerprint}" in story
    said = site.command("hostkeys", "accept", f"[{host.address}]:22", fingerprint)
    assert f"[{host.address}]:22 is trusted with its new key" in said
    # The sockets tell that its sshd was started again.
    assert site.run() == [("host_key_restored", "web2", None), ("restarted", "web2", 22)]
    assert "host_key_restored: The host shows a trusted key again." in site.explain("web2", 8080)


def test_a_cmdb_that_fails_or_forgets(site: Site) -> None:
    site.configure(cmdb={"stale_after": "1s"})
    (host,) = site.watch("web1")
    site.broken = True
    host.start_service(8080, "nginx")
    assert sorted(site.run_until(EventKind.CMDB_STALE)) == [("cmdb_stale", None, None), ("new", "web1", 8080)]
    site.broken = False
    assert site.run() == [("cmdb_fresh", None, None)]
    # More entries than the guard lets go at once; most of them can't be asked.
    entries = [Host(f"id-{number}", f"gone{number}", "127.0.0.1", 1) for number in range(6)]
    (entry,) = site.listed
    site.listed += entries
    site.run()
    site.listed = [entry]
    assert site.run() == [("prune_refused", None, None)]
    assert "gone5" in site.command("explain", "gone5", "80", "--config", str(site.path))
    site.listed += entries
    assert site.run() == [("prune_resumed", None, None)]


# ── the command, another database ───────────────────────────────────────────────────────────────


def test_the_real_command_tells_the_same(site: Site) -> None:
    site.lab.hosts["web1"].start_service(8080, "[red]\x1b[31mng")
    (host,) = site.watch("web1")
    host.kill_service(8080)
    site.run()
    done = subprocess.run(
        [sys.executable, "-m", "portmon", "explain", "web1", "8080", "--config", str(site.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == site.explain("web1", 8080).splitlines()[-4:]
    assert "It is down since " in done.stdout
    assert "down ([red]\\x1b[31mng): Missing in the complete answers of 1 run, confirmed" in done.stdout
    assert "\x1b" not in done.stdout


def test_on_postgresql(start: Callable[[Database], Site], postgres_cluster: Cluster) -> None:
    site = start(migrated_postgres(postgres_cluster))
    site.configure(states={"flap_threshold": 3, "flap_window": "10s"})
    site.lab.hosts["web1"].start_service(8080, "nginx")
    host = site.watch("web1", "web2", "db1")[0]
    host.kill_service(8080)
    assert site.run() == [("down", "web1", 8080)]
    host.start_service(8080, "nginx")
    assert site.run() == [("recovered", "web1", 8080)]
    host.kill_service(8080)
    assert site.run() == [("flapping", "web1", 8080)]
    assert "It is flapping since " in site.explain("web1", 8080)
    assert "flapping" in site.command("ports", "web1")
    site.command("accept", "web1", "8080", "--author", "ann")
    assert site.run() == [("retired", "web1", 8080)]
    assert "Accepted as gone by a person" in site.explain("web1", 8080)


def test_no_kind_of_event_is_left_out() -> None:
    # Late and failed runs are tested in test_run_watch.py. Hundreds of changes at once take hundreds
    # of services: tests/engine/test_walls.py. An old forced command is one of an earlier version: tests/engine/test_versions.py.
    others = {EventKind.RUN_OVERDUE, EventKind.RUN_IN_TIME, EventKind.MANY_CHANGES, EventKind.PROBE_OUTDATED}
    # Machines, hosts that no run tries, and clocks: tests/steps/test_machines.py, test_invalid_entries.py, test_wrong_clock.py.
    others |= {EventKind.FOREIGN_MACHINE, EventKind.OWN_MACHINE, EventKind.ANSWERS_DISCARDED, EventKind.TAKEN_OVER}
    others |= {EventKind.UNSCANNED, EventKind.SCANNED, EventKind.FLEET_UNSCANNED, EventKind.FLEET_SCANNED}
    others |= {EventKind.CLOCK_BACK, EventKind.CLOCK_BELIEVED, EventKind.RUN_FAILED, EventKind.RUN_EVALUATED}
    # A host that shows programs of other users takes sudo: test_owners.py.
    others |= {EventKind.OWNERS_HIDDEN, EventKind.OWNERS_SHOWN}
    others |= {EventKind.FLEET_OWNERS_HIDDEN, EventKind.FLEET_OWNERS_SHOWN}
    ours = {kind.value for kind in EventKind} - others
    assert ours <= set(re.findall(r'"(\w+)"', Path(__file__).read_text()))
