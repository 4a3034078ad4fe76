"""The story of a port: what it says in each state, and at the edges."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from portmon.api.explain import explain
from portmon.config import Config, parse_config
from portmon.engine.frames import ports_of
from portmon.engine.owners import PortOwner
from portmon.errors import CommandError
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host, Inventory
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.storage import archive, decisions, events, silences, state
from tests.worlds.databases import migrated
from tests.worlds.runs import FIVE, Runs

START = datetime(2026, 1, 1, tzinfo=UTC)
WEB1 = Host("1", "web1", "10.0.0.1")
WEB2 = Host("2", "web2", "10.0.0.2")


def listener(port: int, program: str | None = "nginx", address: str = "0.0.0.0", **more: Any) -> Listener:
    return Listener("tcp", address, port, program=program, **{"pid": 7, "uid": 33, **more})


class World(Runs):
    """Two hosts; the first one answers what it is told, the second one always listens on 22."""

    def __init__(self, folder: Path) -> None:
        super().__init__(migrated(folder / "state.db"), Config(), start=START)
        self.listed = [WEB1, WEB2]
        self.looks: dict[str, Observation] = {}

    def configure(self, text: str) -> None:
        self.config = parse_config(textwrap.dedent(text))

    def load(self) -> Inventory:
        return Inventory(tuple(self.listed), source="test")

    def observation(self, host_id: str) -> Observation:
        return self.looks[host_id]

    def see(
        self, *listeners: Listener, fails: str | None = None, boot: str = "b", all_fail: bool = False
    ) -> list[tuple[Any, ...]]:
        """A run; the events it gave."""
        run = self.run_of()
        for host in self.listed:
            look = Observation(host.id, run.run_id, 1, self.now, Outcome.OK)
            if all_fail or (fails and host.id == WEB1.id):
                failed = {"error_class": "timeout", "error": fails or "no answer"}
                self.looks[host.id] = dataclasses.replace(look, outcome=Outcome.UNREACHABLE, **failed)
            else:
                mine = listeners if host.id == WEB1.id else (listener(22, "sshd"),)
                seen = Listing("netstat", 0, boot_id=boot + host.id, netns=1, listeners=mine)
                self.looks[host.id] = dataclasses.replace(look, listing=seen)
        self.scan_and_evaluate(run)
        self.number += 1
        return [(event.kind.value, event.host_name, event.port) for event in self.events(run.run_id)]

    def tell(self, wanted: str = "web1", port: int = 80) -> str:
        with self.database.begin() as conn:
            return "\n".join(explain(conn, self.config, wanted, port, now=self.now))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.dispose()


def test_a_death_in_full(world: World) -> None:
    world.see(listener(80, unit="nginx.service"))
    world.see()
    assert world.tell() == textwrap.dedent(
        """\
        web1 (10.0.0.1), id 1, port 80

        It is down since 2026-01-01 00:05:00 UTC (5m), last seen 2026-01-01 00:00:00 UTC.
        Last known of it: program nginx; unit nginx.service; uid 33; pid 7; on 0.0.0.0.
        It was learned and is watched: no rule says otherwise.
        Last look: 2026-01-01 00:05:00 UTC, run run1: ok.

        What happened:
          2026-01-01 00:00:00 UTC  baseline: First complete answer: 1 listening port.
              run run0; task netstat[0]
          2026-01-01 00:05:00 UTC  down (nginx, nginx.service): Missing in the complete answers of 1 run, confirmed; last \
seen 2026-01-01 00:00:00 UTC.
              run run1; task netstat[0]; pid 7; uid 33; missing in 1 run; watched: no rule matches it; looked \
with netstat; row of the table: down"""
    )


# ── which host ──────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_host(world: World) -> None:
    world.see()
    with pytest.raises(CommandError, match=r"^no host has the name or id 'web9'; the CMDB's list of the last run"):
        world.tell("web9")


def test_a_name_counts_without_case_and_an_id_comes_first(world: World) -> None:
    world.listed.append(Host("web1", "other", "10.0.0.3"))
    world.see()
    assert world.tell("WEB2").startswith("web2 (10.0.0.2), id 2, ")
    assert world.tell("web1").startswith("other (10.0.0.3), id web1, ")


def test_an_ambiguous_name(world: World) -> None:
    world.see()
    world.listed = [Host("9", "WEB1", "10.0.0.9"), WEB2]
    world.see()
    with pytest.raises(CommandError, match=r"2 hosts are named 'web1'; give one of .*: '1' \(left the CMDB\), '9'$"):
        world.tell()
    assert world.tell("9").startswith("WEB1 (10.0.0.9), id 9, ")


# ── hosts without evidence ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("asked", [True, False])
def test_a_host_that_never_answered(world: World, asked: bool) -> None:
    world.configure("declared: [{port: 443}]")
    if asked:
        world.see(fails="no route")
    else:
        run = world.run_of()
        world.listed.remove(WEB2)
        world.prune(run, world.fetch(run))
    story = world.tell()
    assert "The host never gave a complete answer: nothing is known of its ports.\n" in story
    assert "nothing listened" not in story
    assert ("Last look: 2026-01-01 00:00:00 UTC, run run0: unreachable (no route).\n" in story) == asked
    assert story.endswith("What happened:\n  nothing so far.")
    assert "; the next complete answer counts.\n" in world.tell(port=443)


def test_an_unreachable_host(world: World) -> None:
    world.see(listener(80))
    world.see(fails="no route")
    kept = ": its ports keep the state of its last complete answer, 2026-01-01 00:00:00 UTC.\n"
    assert f"The host gave no evidence in its last run, since 2026-01-01 00:05:00 UTC{kept}" in world.tell()
    world.see(fails="no route")
    story = world.tell()
    assert f"The host is unreachable since 2026-01-01 00:05:00 UTC{kept}" in story
    assert "It is up since 2026-01-01 00:00:00 UTC (15m).\n" in story
    assert "unreachable: No evidence in 2 runs in a row: no route.\n" in story
    world.see(listener(80))
    story = world.tell()
    assert "The host" not in story
    assert "reachable: It answered completely again.\n      run run3; task netstat[0]; unreachable for 10m" in story


def test_a_fleet_that_fails(world: World) -> None:
    world.see(listener(80))
    world.see(all_fail=True)
    # After one run that is no more than a suspicion.
    assert "Nearly every host fails" not in world.tell()
    world.see(all_fail=True)
    failing = "Nearly every host fails since 2026-01-01 00:05:00 UTC: look at the monitor and its network first."
    story = world.tell()
    assert failing in story
    assert "The host gave no evidence in its last 2 runs, " in story
    assert "fleet_unreachable: 2 of 2 hosts that were asked began to fail at once (the last one: timeout): " in story
    world.see(listener(80))
    story = world.tell()
    assert failing not in story
    assert "fleet_reachable: Hosts give evidence again.\n" in story


GONE = {"subject": "host", "state": "unreachable"}


@pytest.mark.parametrize(
    ("kind", "details", "told"),
    [
        (
            EventKind.FOREIGN_MACHINE,
            {"machine": "2", "machine_name": "web2", "boot_id": "b2"},
            "Another machine answers at its address since 2026-01-01 00:00:00 UTC: what it shows counts for nothing",
        ),
        (EventKind.UNSCANNED, {"last_tried": None}, "The host is not scanned since 2026-01-01 00:00:00 UTC"),
        (EventKind.HOST_KEY_CHANGED, {}, "The host shows another host key since 2026-01-01 00:00:00 UTC"),
        (
            EventKind.FLAPPING,
            GONE,
            "The host comes and goes since 2026-01-01 00:00:00 UTC: no more is told of it until it holds still",
        ),
        (EventKind.STABLE, GONE, "The host came and went, and stays unreachable"),
        (
            EventKind.FLEET_UNSCANNED,
            {"hosts": 7, "names": []},
            "Many hosts are not scanned since 2026-01-01 00:00:00 UTC",
        ),
        (
            EventKind.FLEET_OWNERS_HIDDEN,
            {"hosts": 7, "names": []},
            "Many hosts do not show programs of other users any more since 2026-01-01 00:00:00 UTC",
        ),
        (
            EventKind.CLOCK_BACK,
            {"behind": 7200},
            "The monitor's clock went back at 2026-01-01 00:05:00 UTC: looks older than the last judged ones count for nothing",
        ),
    ],
)
def test_what_is_wrong_with_the_host_or_the_monitor(
    world: World, kind: EventKind, details: dict[str, Any], told: str
) -> None:
    world.see(listener(80))
    of = (WEB1.id, WEB1.name) if kind.meaning(details).subject == "host" else (None, None)
    event = Event("e" * 32, kind, START + FIVE, "r", *of, reason="A reason", since=START, details=details)
    with world.database.begin() as conn:
        events.add(conn, [event])
    assert f"\n{told} (A reason).\n" in world.tell()
    assert f"{kind.value}: A reason.\n" in world.tell()
    # Of another host only what is wrong with the monitor.
    assert (told in world.tell("web2", 22)) is (of == (None, None))
    assert (f"{kind.value}: " in world.tell("web2", 22)) is (of == (None, None))


def test_the_story_names_the_other_machine_and_how_far_the_clock_is_behind(world: World) -> None:
    world.see(listener(80))
    told = [
        (EventKind.FOREIGN_MACHINE, WEB1.id, {"machine": "2", "machine_name": "web2", "boot_id": "b2"}),
        (EventKind.TAKEN_OVER, WEB1.id, {"from": "9", "from_name": "web9"}),
        (EventKind.UNSCANNED, WEB1.id, {"last_tried": "2026-01-01T00:00:00+00:00"}),
        (EventKind.CLOCK_BACK, None, {"behind": 7200}),
        (EventKind.FLEET_UNSCANNED, None, {"hosts": 7, "names": ["a", "b"]}),
    ]
    with world.database.begin() as conn:
        events.add(conn, [Event(str(at), *of, details=details) for at, (*of, details) in enumerate(_placed(told))])
    story = world.tell()
    for shown in (
        "run r; the machine of web2; boot id b2",
        "run r; from web9",
        "run r; last tried 2026-01-01T00:00:00+00:00",
        "run r; the clock is 2h behind",
        "run r; hosts: 7; among them a, b",
    ):
        assert f"      {shown}" in story


def _placed(told: list[tuple[EventKind, str | None, dict[str, Any]]]) -> Iterator[tuple[Any, ...]]:
    for kind, host_id, details in told:
        yield kind, START + FIVE, "r", host_id, details


def test_a_host_that_left_the_cmdb(world: World) -> None:
    world.see(listener(80), listener(90))
    world.see(listener(90))
    world.listed = [WEB2]
    assert ("retired", "web1", 80) in world.see()
    for port in (80, 90):
        story = world.tell(port=port)
        assert "The host left the CMDB at 2026-01-01 00:10:00 UTC: it is not asked, and none of its ports is" in story
        assert "Last known of it: program nginx; " in story
        assert "It is " not in story
        assert "watched: no rule says" not in story
    assert "retired (nginx): Was down; it left the CMDB.\n" in world.tell()
    assert "Nothing is known of the port.\n" in world.tell(port=1)


# ── states of a port ────────────────────────────────────────────────────────────────────────────


def test_an_unknown_port(world: World) -> None:
    world.see(listener(80))
    story = world.tell(port=81)
    assert "It is not watched, and nothing listened on it in the last complete answer.\n" in story
    assert "baseline" in story


def test_a_candidate(world: World) -> None:
    world.see()
    world.see(listener(50000))
    story = world.tell(port=50000)
    assert (
        "It is a candidate: inside the host's ephemeral range (32768 to 60999), seen 1 of 3 times in a row.\n" in story
    )
    world.see(listener(50000))
    assert ", seen 2 of 3 times in a row.\n" in world.tell(port=50000)


def test_missing_but_not_down_yet(world: World) -> None:
    world.configure("states: {down_after: 3}")
    world.see(listener(80))
    world.see()
    story = world.tell()
    assert "It is up since 2026-01-01 00:00:00 UTC (10m).\n" in story
    assert "It is missing in 1 of 3 runs in a row, last seen 2026-01-01 00:00:00 UTC.\n" in story


def test_grace_after_a_reboot(world: World) -> None:
    world.see(listener(80))
    world.see(boot="other")
    story = world.tell()
    assert "It is up since 2026-01-01 00:00:00 UTC (10m).\n" in story
    assert "It is missing since the host's reboot and has until 2026-01-01 00:15:00 UTC to come back.\n" in story
    assert "rebooted: Its boot id changed; ports that are not back yet have until 2026-01-01 00:15:00 UTC.\n" in story


def test_flapping(world: World) -> None:
    world.configure("states: {flap_threshold: 2}")
    world.see(listener(80))
    world.see()
    assert world.see(listener(80)) == [("flapping", "web1", 80)]
    story = world.tell()
    assert (
        "It is flapping since 2026-01-01 00:10:00 UTC; its last change was at 2026-01-01 00:10:00 UTC, and nothing "
        "more is told of it until it holds still.\n"
    ) in story
    assert "; it is up; " in story


def test_a_lost_bind(world: World) -> None:
    world.see(listener(80), listener(80, address="::1"))
    world.see(listener(80, address="::1"))
    story = world.tell()
    assert "It is up since " in story
    assert "It does not listen on 0.0.0.0 any more, since 2026-01-01 00:05:00 UTC.\n" in story
    assert "; before: 0.0.0.0, ::1; " in story


def _change(world: World, **values: Any) -> None:
    with world.database.begin() as conn:
        (port,) = ports_of(state.load_ports(conn, ["1"]))
        state.save_ports(conn, [dataclasses.replace(port, **values)], ())


def test_owners(world: World) -> None:
    world.see(listener(80))
    varnish = PortOwner("varnish.service", comms=("varnishd",), gone_since=START)
    _change(world, owners=(varnish, PortOwner(comms=("nginx",))), young_since=0.0, boots=(80.4, 200.0))
    story = world.tell()
    assert (
        "varnishd (varnish.service) does not hold it any more, only nginx, since 2026-01-01 00:00:00 UTC.\n"
        "It is young: it is not watched for states.mature_after yet, and what happens to it is a warning.\n"
        "After the last boots of its host it listened within 3m 20s.\n"
    ) in story
    _change(
        world,
        owners=(varnish,),
        holders=(
            PortOwner("haproxy.service", joined=0.0),
            PortOwner("caddy.service"),
        ),
        status="down",
        young_since=None,
    )
    story = world.tell()
    assert "\nAnother program has it: haproxy.service.\n" in story
    assert "\nvarnishd (varnish.service) does not hold it any more, since 2026-01-01 00:00:00 UTC.\n" in story
    assert "young" not in story


def test_details_of_owners(world: World) -> None:
    world.see(listener(80))
    details = {"was": "nginx", "owner": "haproxy", "left": "varnishd", "gone": "a, b", "young": True, "down_for": 0.0}
    told = Event("e" * 32, EventKind.REPLACED, START, "run0", "1", "web1", "tcp", 80, reason="x", details=details)
    with world.database.begin() as conn:
        events.add(conn, [told])
    said = "run run0; owner before: nginx; owner: haproxy; still there: varnishd; gone: a, b; young; down for 0s"
    assert said in world.tell()


def test_what_was_there_before(world: World) -> None:
    world.see(listener(80))
    world.see(listener(80, "apache2", pid=8))
    world.see(listener(80, "apache2", pid=9))
    story = world.tell()
    assert (
        "replaced (apache2): apache2 has it now, and no longer nginx.\n      run run1; task netstat[0]; before: nginx; "
        "owner before: nginx; owner: apache2; pid 8" in story
    )
    assert "restarted (apache2): The same program was started again.\n" in story
    assert "; before: 8; pid 9; " in story


def test_a_move_is_told_of_both_ports(world: World) -> None:
    for _ in range(3):
        world.see(listener(40000))
    assert world.see(listener(50000)) == [("moved", "web1", 40000)]
    assert "moved (nginx): Its program listens on port 50000 instead.\n" in world.tell(port=40000)
    assert "moved of port 40000 (nginx): Its program listens on port 50000 instead.\n" in world.tell(port=50000)
    assert "moved" not in world.tell(port=41000)


def test_accepted_as_gone(world: World) -> None:
    world.see(listener(80))
    world.see()
    with world.database.begin() as conn:
        decisions.decide(
            conn, decisions.DecisionKind.ACCEPTED, "1", 80, at=world.now, author="ann", reason="moved to 81"
        )
    accepted = "Accepted as gone by ann: moved to 81: the next complete answer without it retires it.\n"
    assert accepted in world.tell()
    assert world.see(listener(80)) == [("recovered", "web1", 80)]
    world.see()
    # It came back in between: that decision is over.
    story = world.tell()
    assert "It is down since " in story
    assert "Accepted" not in story


# ── why it is watched ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["cmdb", "configuration", "person"])
def test_declared(world: World, how: str) -> None:
    because = "declared by the CMDB"
    if how == "cmdb":
        world.listed = [Host("1", "web1", "10.0.0.1", declared=(80,)), WEB2]
    elif how == "configuration":
        world.configure("declared: [{host: web1, port: 80, comment: the shop}]")
        because = f"declared by {world.config.where('declared', 0)} (the shop)"
    else:
        with world.database.begin() as conn:
            decisions.decide(conn, decisions.DecisionKind.PROMOTED, "1", 80, at=world.now, author="ann")
        because = "promoted by ann"
    world.see()
    story = world.tell()
    assert f"It must listen: {because}.\n" in story
    assert "learned" not in story
    assert "It is down since 2026-01-01 00:00:00 UTC (5m), never seen.\nLast known of it: nothing.\n" in story
    assert f"down: It must listen ({because}) and does not; never seen.\n" in story


def test_allowed_by_a_rule(world: World) -> None:
    world.configure("rules: [{action: allow, host: web1, port: 80, comment: the shop}]")
    world.see(listener(80), listener(22, None))
    reason = f"{world.config.where('rules', 0)} allows it (the shop)"
    assert f"It was learned and is watched: {reason}.\n" in world.tell()
    assert (
        "It listens (a hidden program on 0.0.0.0), but is not watched: no allow rule of this host matches it.\n"
        in world.tell(port=22)
    )


def test_excluded_by_a_rule(world: World) -> None:
    world.configure("rules: [{action: deny, port: 80, program: nginx, comment: not ours}]")
    world.see(listener(80), listener(80, "nginx", "::"), listener(81, "nginx", "fe80::1", zone="eth0"))
    reason = f"{world.config.where('rules', 0)} denies it (not ours)"
    assert f"It listens (nginx on 0.0.0.0, nginx on ::), but is not watched: {reason}.\n" in world.tell()
    assert "learned" not in world.tell()
    # The rule is gone, but there was no run since.
    world.configure("rules: []")
    assert "but is not watched: the next run evaluates it by the rules in force.\n" in world.tell()
    assert "It was learned and is watched: no rule says otherwise.\n" in world.tell(port=81)
    world.configure("rules: [{action: deny, port: 81}]")
    denied = f"No rule in force watches it: {world.config.where('rules', 0)} denies it.\n"
    assert denied in world.tell(port=81)
    # What is hidden is not forgotten at once.
    world.see(listener(81, "nginx", "fe80::1", zone="eth0"))
    assert "No rule watches it since 2026-01-01 00:05:00 UTC: its state is kept" in world.tell(port=81)
    assert denied in world.tell(port=81)


def test_declared_no_more(world: World) -> None:
    world.configure("declared: [{port: 443}]")
    world.see()
    world.configure("")
    assert "No rule in force watches it: it is not declared any more.\n" in world.tell(port=443)


def test_an_answer_that_expired(world: World) -> None:
    world.see(listener(80))
    with world.database.begin() as conn:
        archive.expire(conn, world.now + FIVE)
    story = world.tell()
    assert "It is up since " in story
    assert "Last look" not in story
    assert "It is not watched" in world.tell(port=81)


# ── messages ───────────────────────────────────────────────────────────────────────────────────


def test_what_became_of_a_message(world: World) -> None:
    world.configure("alerts: {channels: [{type: log, name: a}, {type: apprise, name: b}]}")
    world.see(listener(80))
    world.see()

    def send(channel: Any, *_: object) -> None:
        if channel.name == "b":
            raise KeyboardInterrupt

    (group,) = world.route()
    with pytest.raises(KeyboardInterrupt):
        world.deliver(group, send=send)
    # Killed while it sent: it may have come through.
    assert world.tell().endswith("; row of the table: down; a: delivered; b: sending")


def test_why_a_message_was_withheld(world: World) -> None:
    world.see(listener(80))
    with world.database.begin() as conn:
        silences.add(
            conn,
            ports=((80, 80),),
            starts_at=world.now,
            ends_at=world.now + FIVE * 10,
            author="alice",
            reason="upgrade",
            now=world.now,
        )
    world.see()
    assert world.route() == set()
    assert world.tell().endswith(": upgrade (silence 1))")
    assert "; log: withheld (silenced by alice until " in world.tell()


def test_hostile_text_stays_in_its_line(world: World) -> None:
    nasty = "{{ conn.x.password }}\nIt is up.\x1b[2J\udcff[red]"
    world.listed = [Host("1", nasty, "10.0.0.1"), WEB2]
    world.see(listener(80, nasty, unit=nasty))
    world.see()
    with world.database.begin() as conn:
        lines = explain(conn, world.config, "1", 80, now=world.now)
    assert sum(nasty in line for line in lines) == 3
    assert not any(line.startswith("It is up") for line in lines)
