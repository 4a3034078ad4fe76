"""Histories of an on-call year, told to the naive implementation: what a person learns of each, and when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portmon.engine.rules import Rule, RuleSet
from portmon.model.host import Host
from portmon.model.observation import Listener, Listing, Observation, Outcome
from tests.worlds.reference import Defaults, Reference
from tests.worlds.reference_rows import Terms

START = datetime(2026, 3, 1, 6, tzinfo=UTC)
DAY = 24 * 60


def ok(*ports: int, boot: str | None = "b1", pid: int = 100, inodes: bool = False, **more: Any) -> dict[str, Any]:
    """What a host shows; the pids of its services are ``pid`` and their port."""
    listeners = tuple(
        Listener("tcp", "0.0.0.0", port, pid + port, f"svc{port}", inode=7 * (pid + port) if inodes else None)
        for port in ports
    )
    return {"listing": Listing("ss", 0, boot_id=boot, listeners=listeners, **more)}


def bad(error_class: str = "timeout") -> dict[str, Any]:
    return {"outcome": Outcome.UNREACHABLE, "error_class": error_class}


class Play:
    """A fleet, run after run. Events are (minutes, kind, host, port, extra), without empty parts at the end."""

    def __init__(self, *, rules: Iterable[Rule] = (), labels: dict[str, str] | None = None, **settings: Any) -> None:
        self.reference = Reference()
        self.rules = RuleSet(tuple(rules))
        self.labels = labels or {}
        self.settings = Defaults(**settings)
        self.accepted: dict[tuple[str, str, int], datetime] = {}
        self.hosts: dict[str, Host] = {}
        self.invalid: dict[str, str] = {}
        self.declared: tuple[int, ...] = ()
        self.owners: tuple[tuple[int, str], ...] = ()
        self.given: dict[str, dict[int, Terms]] = {}

    def run(self, minutes: float, answers: dict[str, dict[str, Any]], also: Iterable[str] = ()) -> list[Any]:
        """One run: what each host answers, and hosts of the inventory that nobody tries."""
        now = START + timedelta(minutes=minutes)
        listed = {*answers, *also}
        inventory = {
            one: Host(one, one, one, labels=self.labels, declared=self.declared, owners=self.owners) for one in listed
        }
        left = [one for one in self.hosts if one not in listed and one not in self.invalid]
        told = self.reference.leave(left, now)
        self.hosts = {**inventory, **{one: Host(one, one, one) for one in self.invalid}}
        looks = [
            Observation(one, f"run{minutes}", 1, now, **({"outcome": Outcome.OK} | answer))
            for one, answer in answers.items()
        ]
        told += self.reference.run(
            looks,
            inventory=inventory,
            rules=self.rules,
            settings=self.settings,
            interval=timedelta(minutes=5),
            accepted=self.accepted,
            now=now,
            run_id=f"run{minutes}",
            invalid=self.invalid,
            given=self.given,
        )
        return [event(told_at, *others) for told_at, *others in told]

    def runs(self, minutes: Iterable[float], answers: dict[str, dict[str, Any]]) -> list[Any]:
        """The same answers for some runs."""
        return [told for one in minutes for told in self.run(one, answers)]


def event(at: datetime, kind: Any, host: Any, port: Any, extra: Any) -> tuple[Any, ...]:
    parts = [(at - START) / timedelta(minutes=1), kind, host, port, extra]
    while not parts[-1]:
        parts.pop()
    return tuple(parts)


def five(first: int, last: int) -> range:
    """Runs from ``first`` to ``last``, both included."""
    return range(first, last + 1, 5)


# ── who answered ────────────────────────────────────────────────────────────────────────────────


def test_one_wrong_answer() -> None:
    play, own = Play(), ok(25, 80, boot="b1")
    assert play.runs(five(0, 10), {"web": own}) == [(0, "baseline", "web")]
    assert play.run(15, {"web": ok(22, 3306, boot="q7", pid=9000)}) == [(15, "rebooted", "web")]
    assert play.run(20, {"web": own}) == [(20, "answers_discarded", "web")]
    assert play.runs(five(25, 120), {"web": own}) == []


def test_what_another_machine_opened_ends_with_it_and_what_it_closed_is_told_again() -> None:
    play = Play()
    play.runs(five(0, 5), {"web": ok(25, 80, 443)})
    assert play.run(10, {"web": ok(25, 80)}) == [(10, "down", "web", 443)]
    other = ok(25, 443, boot="q7", pid=9000)
    assert play.run(15, {"web": other}) == [(15, "rebooted", "web"), (15, "recovered", "web", 443)]
    assert play.runs(five(20, 25), {"web": other}) == [(25, "down", "web", 80)]
    assert play.run(30, {"web": ok(25, 80)}) == [
        (30, "answers_discarded", "web"),
        (30, "retired", "web", 80),
        (30, "down", "web", 443),
    ]
    assert play.run(35, {"web": ok(25, 80, 443)}) == [(35, "recovered", "web", 443)]


def test_a_boot_that_lasted_twelve_looks_and_an_hour_is_no_blip() -> None:
    play = Play()
    play.run(0, {"web": ok(80)})
    play.runs(five(5, 60), {"web": ok(80, boot="q7", pid=9000)})
    assert play.run(65, {"web": ok(80)}) == [(65, "rebooted", "web")]


def test_a_boot_of_eleven_looks_may_still_be_a_blip() -> None:
    play = Play()
    play.run(0, {"web": ok(80)})
    play.runs(five(5, 55), {"web": ok(80, boot="q7", pid=9000)})
    assert play.run(60, {"web": ok(80)}) == [(60, "answers_discarded", "web")]


@pytest.mark.parametrize(("looks", "told"), [(11, "answers_discarded"), (12, "rebooted")])
def test_where_looks_are_rare_a_blip_may_last_longer_than_an_hour(looks: int, told: str) -> None:
    play = Play()
    play.run(0, {"web": ok(80)})
    play.runs(range(10, 10 * looks + 1, 10), {"web": ok(80, boot="q7", pid=9000)})
    after = 10 * looks + 10
    assert play.run(after, {"web": ok(80)}) == [(after, told, "web")]


def test_address_points_to_other_host() -> None:
    play = Play()
    web, db = ok(25, 80, boot="b1", netns=1), ok(25, 5432, 9187, boot="q7", netns=1, pid=5000)
    play.runs(five(0, 10), {"web": web, "db": db})
    assert play.run(15, {"web": db, "db": db}) == [(15, "foreign_machine", "web")]
    assert play.runs(five(20, 40), {"web": db, "db": db}) == []
    assert play.run(45, {"web": web, "db": db}) == [(45, "own_machine", "web")]
    assert play.runs(five(50, 120), {"web": web, "db": db}) == []


def test_two_hosts_that_swapped_addresses_are_both_foreign() -> None:
    play = Play()
    web, db = ok(25, 80, boot="b1", netns=1), ok(25, 5432, boot="q7", netns=1, pid=5000)
    play.runs(five(0, 10), {"web": web, "db": db})
    assert play.runs(five(15, 30), {"web": db, "db": web}) == [
        (15, "foreign_machine", "db"),
        (15, "foreign_machine", "web"),
    ]
    assert play.run(35, {"web": web, "db": db}) == [(35, "own_machine", "db"), (35, "own_machine", "web")]


def test_a_host_may_reboot_while_another_entry_shows_it() -> None:
    play = Play()
    web, db = ok(25, 80, boot="b1", netns=1), ok(25, 5432, boot="q7", netns=1)
    play.run(0, {"web": web, "db": db})
    assert play.run(5, {"web": db, "db": db}) == [(5, "foreign_machine", "web")]
    later = ok(25, 5432, boot="q8", netns=1)
    assert play.run(10, {"web": later, "db": later}) == [(10, "rebooted", "db")]
    assert play.run(15, {"web": web, "db": later}) == [(15, "own_machine", "web")]


def test_two_entries_that_become_one_machine_at_once_are_both_foreign() -> None:
    play = Play()
    play.run(0, {"a": ok(25, boot="a", netns=1), "b": ok(25, boot="b", netns=1)})
    new = ok(25, 80, boot="c", netns=1)
    assert play.runs((5, 10), {"a": new, "b": new}) == [(5, "foreign_machine", "a"), (5, "foreign_machine", "b")]
    assert play.run(15, {"a": new, "b": ok(25, boot="b", netns=1)}) == [
        (15, "own_machine", "a"),
        (15, "rebooted", "a"),
        (15, "own_machine", "b"),
    ]


def test_a_person_accepts_the_machine_that_answers() -> None:
    play = Play()
    web, db = ok(25, 80, boot="b1", netns=1), ok(25, 5432, boot="q7", netns=1)
    play.run(0, {"web": web, "db": db})
    play.run(5, {"web": db, "db": db})
    play.accepted["web", "host", 0] = START + timedelta(minutes=8)
    assert play.run(10, {"web": db, "db": db}) == [(10, "own_machine", "web"), (10, "rebooted", "web")]
    assert play.run(15, {"web": db, "db": db}) == [(15, "new", "web", 5432)]
    assert play.run(20, {"web": db, "db": db}) == [(20, "down", "web", 80)]


def test_a_floating_name_that_moves_is_a_reboot_of_it_alone() -> None:
    play = Play()
    a, b = ok(25, 80, boot="a", netns=1), ok(25, 80, boot="b", netns=1, pid=300)
    assert play.run(0, {"a": a, "b": b, "vip": a})[-1] == (0, "duplicate", "vip")
    assert play.run(5, {"a": a, "b": b, "vip": b}) == [(5, "rebooted", "vip")]
    assert play.run(10, {"a": a, "b": b, "vip": a}) == [(10, "rebooted", "vip")]
    again = ok(25, 80, boot="a2", netns=1)
    assert play.run(15, {"a": again, "b": b, "vip": again}) == [(15, "rebooted", "a"), (15, "rebooted", "vip")]


def test_lxc_container_restarts() -> None:
    play = Play()
    play.runs(five(0, 15), {"ct": ok(25, 80, 5432, netns=10, pid=500)})
    assert play.run(20, {"ct": ok(25, netns=11, pid=2500)}) == [(20, "rebooted", "ct")]
    assert play.runs(five(25, 60), {"ct": ok(25, 80, 5432, netns=11, pid=2500)}) == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ok(25, 80, netns=11, pid=100), []),  # a service that went on: the namespace alone is no reboot
        (ok(25, 80, netns=11, pid=900, inodes=True), [(5, "rebooted", "ct")]),
        (ok(25, 80, netns=10, pid1_start=7, inodes=True), []),
        (ok(25, 80, netns=10, pid1_start=8, inodes=True), []),
        (ok(netns=11), []),
    ],
)
def test_what_makes_a_reboot_of_a_container(answer: dict[str, Any], told: list[Any]) -> None:
    play = Play(down_after=9)
    play.run(0, {"ct": ok(25, 80, netns=10, pid=100, inodes=True)})
    assert play.run(5, {"ct": answer}) == told


def test_another_start_of_pid_1_is_a_reboot_whatever_else_is_equal() -> None:
    play = Play()
    play.run(0, {"ct": ok(25, 80, netns=10, pid1_start=7)})
    assert play.run(5, {"ct": ok(25, 80, netns=10, pid1_start=9)}) == [(5, "rebooted", "ct")]


def test_a_changed_host_key_covers_unreachable() -> None:
    play = Play()
    play.run(0, {"a": ok(25), "b": ok(25, boot="x")})
    seen: list[Any] = []
    for minutes in five(5, 10):
        seen += play.run(minutes, {"a": bad(), "b": ok(25, boot="x")})
    for minutes in five(15, 25):
        seen += play.run(minutes, {"a": bad("host_key_changed"), "b": ok(25, boot="x")})
    seen += play.run(30, {"a": ok(25), "b": ok(25, boot="x")})
    assert seen == [
        (10, "unreachable", "a"),
        (15, "reachable", "a"),
        (15, "host_key_changed", "a"),
        (30, "host_key_restored", "a"),
    ]


# ── a boot ──────────────────────────────────────────────────────────────────────────────────────


def test_the_first_look_of_a_boot_tells_little_and_the_second_the_rest() -> None:
    play = Play(reboot_grace=timedelta(0))
    play.run(0, {"a": ok(25, 80)})
    play.run(5, {"a": ok(25)})
    assert play.run(10, {"a": ok(80, 90, boot="b2", pid=700)}) == [(10, "rebooted", "a"), (10, "recovered", "a", 80)]
    assert play.run(15, {"a": ok(80, 90, boot="b2", pid=700)}) == [(15, "down", "a", 25), (15, "new", "a", 90)]


# ── time ────────────────────────────────────────────────────────────────────────────────────────


def test_stable_without_evidence() -> None:
    play, up, gone = Play(), ok(25, 9000), ok(25)
    told = play.run(0, {"a": up})
    for minutes in five(5, 60):
        told += play.run(minutes, {"a": gone if minutes % 10 else up})
    assert [one[:2] for one in told] == [
        (0, "baseline"),
        (5, "down"),
        (10, "recovered"),
        (15, "down"),
        (20, "flapping"),
    ]
    assert play.run(140, {"a": up}) == []
    assert play.runs(five(145, 190), {"a": up}) == []
    assert play.run(195, {"a": up}) == [(195, "stable", "a", 9000, "up")]


def test_down_then_host_gone_40_days() -> None:
    play, other = Play(), ok(25, boot="x")
    play.run(0, {"a": ok(25, 5432), "b": other})
    assert play.run(5, {"a": ok(25), "b": other}) == [(5, "down", "a", 5432)]
    told = [event for hour in range(1, 40 * 24, 4) for event in play.run(hour * 60, {"a": bad(), "b": other})]
    assert told == [(300, "unreachable", "a")]
    assert play.run(40 * DAY, {"a": ok(25), "b": other}) == [(40 * DAY, "reachable", "a")]
    assert play.runs(range(40 * DAY + 10, 70 * DAY, 10), {"a": ok(25), "b": other}) == [
        (70 * DAY - 10, "retired", "a", 5432)
    ]


def test_clock_jumps_forward() -> None:
    play, own = Play(), ok(25, 80)
    assert play.runs((0, 5, 10, DAY + 15), {"a": own}) == [(0, "baseline", "a")]
    assert play.run(20, {"a": own}) == [(20, "clock_back")]
    assert play.run(25, {"a": own}) == [(25, "clock_believed")]
    assert play.run(30, {"a": ok(25)}) == [(30, "down", "a", 80)]


def test_a_clock_that_is_right_again_at_once_is_believed_at_once() -> None:
    play, own = Play(), ok(25, 80)
    play.runs((0, 5, 60), {"a": own})
    assert play.run(10, {"a": ok(25)}) == [(10, "clock_back")]
    assert play.run(65, {"a": own}) == [(65, "clock_believed")]
    assert play.reference.ports["a"][80].status == "up"


# ── hosts and the fleet ─────────────────────────────────────────────────────────────────────────


def test_host_flaps() -> None:
    play, well = Play(), ok(25, 80)
    told = play.run(0, {"a": well, "b": ok(25, boot="x")})[2:]
    for minutes in five(5, 240):
        answer = well if minutes % 15 == 0 else bad()
        told += play.run(minutes, {"a": answer, "b": ok(25, boot="x")})
    assert told == [
        (10, "unreachable", "a"),
        (15, "reachable", "a"),
        (25, "unreachable", "a"),
        (30, "flapping", "a", None, "ok"),
    ]
    assert play.runs(five(245, 300), {"a": well, "b": ok(25, boot="x")}) == [(300, "stable", "a", None, "ok")]


def test_a_host_that_flaps_and_dies_is_stable_unreachable() -> None:
    play, well, other = Play(unreachable_after=1), ok(25), ok(25, boot="x")
    for minutes in five(0, 20):
        told = play.run(minutes, {"a": bad() if minutes % 10 else well, "b": other})
    assert told == [(20, "flapping", "a", None, "ok")]
    assert play.runs(five(25, 85), {"a": bad(), "b": other}) == [(85, "stable", "a", None, "unreachable")]
    assert play.run(90, {"a": well, "b": other}) == [(90, "reachable", "a")]


def test_a_pause_is_no_stillness_of_a_host() -> None:
    play, well, other = Play(unreachable_after=1), ok(25), ok(25, boot="x")
    for minutes in five(0, 20):
        play.run(minutes, {"a": bad() if minutes % 10 else well, "b": other})
    assert play.runs([120, *five(125, 170)], {"a": well, "b": other}) == []
    assert play.run(175, {"a": well, "b": other}) == [(175, "stable", "a", None, "ok")]


def fleet_of(count: int, failing: Iterable[int]) -> dict[str, dict[str, Any]]:
    errors = ("timeout", "refused", "authentication", "no_route")
    return {
        f"h{index}": bad(errors[index % 4]) if index in failing else ok(25, boot=f"x{index}") for index in range(count)
    }


def test_fleet_returns_slowly() -> None:
    play, everyone = Play(), set(range(10))
    play.runs(five(0, 10), fleet_of(10, ()))
    assert play.runs(five(15, 30), fleet_of(10, everyone)) == [(20, "fleet_unreachable")]
    assert play.run(35, fleet_of(10, everyone - {0, 1, 2})) == []
    assert play.run(40, fleet_of(10, {7, 8, 9})) == [(40, "fleet_reachable")]
    assert play.run(45, fleet_of(10, {9})) == []
    assert play.run(50, fleet_of(10, {9})) == [(50, "unreachable", "h9")]


def test_a_suspicion_that_ends_takes_nothing_from_those_that_still_fail() -> None:
    play = Play()
    play.run(0, fleet_of(10, ()))
    assert play.run(5, fleet_of(10, range(10))) == []
    assert play.run(10, fleet_of(10, {3})) == [(10, "unreachable", "h3")]


def test_nine_tenths_of_those_that_were_well_are_a_fleet() -> None:
    play = Play(unreachable_after=1)
    play.run(0, fleet_of(10, ()))
    assert play.run(5, fleet_of(10, range(9))) == [(5, "fleet_unreachable")]
    play = Play(unreachable_after=1)
    play.run(0, fleet_of(10, ()))
    assert [kind for _, kind, *_ in play.run(5, fleet_of(10, range(8)))] == ["unreachable"] * 8


def test_new_vm_not_installed_yet() -> None:
    play, old = Play(), ok(25, boot="x")
    told = play.runs(five(0, 60), {"new": bad("refused"), "old": old})
    assert told == [(0, "baseline", "old"), (5, "unreachable", "new", None, "warning")]
    assert play.run(65, {"new": ok(25), "old": old}) == [(65, "baseline", "new"), (65, "reachable", "new")]


def test_many_hosts_that_hide_owners_are_one_event() -> None:
    play, names = Play(), [f"h{index}" for index in range(7)]

    def run(minutes: int, hiding: str) -> Any:
        return play.run(minutes, {one: (blind if one[1:] in hiding else ok)(22, boot=one) for one in names})

    run(0, "")
    assert [run(minutes, "012345") for minutes in five(5, 15)] == [[], [(10, "fleet_owners_hidden")], []]
    # One is unreachable, so that it is not counted among those that hide owners.
    told = [play.run(minutes, {"h0": bad()}, also=names[1:]) for minutes in (20, 25)]
    assert told == [[], [(25, "fleet_owners_shown"), (25, "unreachable", "h0")]]
    assert run(30, "12") == [(30, "reachable", "h0"), (30, "owners_hidden", "h1"), (30, "owners_hidden", "h2")]
    assert run(35, "") == [(35, "owners_shown", "h1"), (35, "owners_shown", "h2")]


def test_hosts_that_nobody_tries() -> None:
    play, well = Play(), ok(25)
    play.run(0, {"a": well, "b": ok(25, boot="x")})
    told = [one for minutes in five(5, 20) for one in play.run(minutes, {"a": well}, also=["b"])]
    assert told == [(15, "unscanned", "b")]
    assert play.run(25, {"a": well, "b": bad()}) == [(25, "scanned", "b")]


def test_many_hosts_that_nobody_tries_are_one_event() -> None:
    play, names = Play(), [f"h{index}" for index in range(1, 8)]
    play.run(0, fleet_of(8, ()))
    one = {"h0": ok(25, boot="x0")}
    told = [event for minutes in five(5, 20) for event in play.run(minutes, one, also=names)]
    assert told == [(15, "fleet_unscanned")]
    some = {name: answer for name, answer in fleet_of(8, ()).items() if name not in ("h3", "h4")}
    assert play.run(25, some, also=["h3", "h4"]) == [
        (25, "fleet_scanned"),
        (25, "unscanned", "h3"),
        (25, "unscanned", "h4"),
    ]


def test_after_a_pause_of_the_monitor_no_host_is_late() -> None:
    play, well = Play(), ok(25)
    play.run(0, {"a": well, "b": ok(25, boot="x")})
    assert play.run(90, {"a": well}, also=["b"]) == []
    assert play.run(105, {"a": well}, also=["b"]) == [(105, "unscanned", "b")]


def test_an_invalid_entry_is_not_scanned_from_its_first_run_on() -> None:
    play, well = Play(), ok(25)
    play.run(0, {"a": well, "b": ok(25, boot="x")})
    play.invalid = {"b": "no address"}
    assert play.run(5, {"a": well}) == [(5, "unscanned", "b")]
    play.invalid = {}
    assert play.run(10, {"a": well, "b": ok(25, boot="x")}) == [(10, "scanned", "b")]


# ── what a rule or the CMDB hides ───────────────────────────────────────────────────────────────

WEB_ONLY = (Rule(action="allow", label={"role": "web"}, port=[25, 80]), Rule(action="deny", port=[80]))


def test_label_glitch_hides_death() -> None:
    play = Play(rules=WEB_ONLY, labels={"role": "web"})
    play.runs(five(0, 10), {"a": ok(25, 80)})
    play.labels = {}
    assert play.run(15, {"a": ok(25)}) == []
    play.labels = {"role": "web"}
    # The visit did not know of the port, and asked only once: its look is enough none the less.
    assert play.run(20, {"a": ok(25) | {"confirmed": False}}) == [(20, "down", "a", 80)]


def test_one_answer_alone_is_no_evidence_of_absence() -> None:
    play = Play()
    play.run(0, {"a": ok(25, 80)})
    once = ok(25) | {"confirmed": False}
    assert play.run(5, {"a": once}) == []
    assert play.run(10, {"a": ok(25)}) == [(10, "down", "a", 80)]


@pytest.mark.parametrize("hidden", [1, 2, 20])
def test_label_glitch_closes_alert(hidden: int) -> None:
    play = Play(rules=WEB_ONLY, labels={"role": "web"})
    play.run(0, {"a": ok(25, 80)})
    assert play.run(5, {"a": ok(25)}) == [(5, "down", "a", 80)]
    play.labels = {}
    told = play.runs(range(10, 10 + 5 * hidden, 5), {"a": ok(25)})
    assert told == ([(15, "unwatched", "a", 80)] if hidden > 1 else [])
    play.labels = {"role": "web"}
    after = 10 + 5 * hidden
    assert play.run(after, {"a": ok(25)}) == ([(after, "down", "a", 80)] if hidden > 1 else [])
    recovered = [(after + 5, "recovered", "a", 80)]
    assert play.run(after + 5, {"a": ok(25, 80)}) == recovered


def test_cmdb_entry_recreated() -> None:
    play = Play()
    other, own, less = ok(25, boot="o", netns=1), ok(25, 80, boot="b1", netns=2), ok(25, boot="b1", netns=2)
    play.runs(five(0, 10), {"other": other, "17": own})
    assert play.run(15, {"other": other, "17": less}) == [(15, "down", "17", 80)]
    assert play.run(20, {"other": other, "93": less}) == [(20, "retired", "17", 80), (20, "down", "93", 80)]
    assert play.run(25, {"other": other, "93": own}) == [(25, "recovered", "93", 80)]


def test_cmdb_entry_recreated_before_the_old_one_leaves() -> None:
    play = Play()
    own, less = ok(25, 80, boot="b1", netns=2), ok(25, boot="b1", netns=2)
    play.run(0, {"17": own})
    assert play.run(5, {"17": less}) == [(5, "down", "17", 80)]
    assert play.run(10, {"17": less, "93": less}) == [(10, "baseline", "93"), (10, "duplicate", "93")]
    assert play.run(15, {"93": less}) == [(15, "retired", "17", 80), (15, "down", "93", 80)]


def test_a_host_that_is_back_in_time_goes_on() -> None:
    play, other = Play(), ok(25, boot="x")
    play.run(0, {"a": ok(25, 80, 443), "b": other})
    play.run(5, {"a": ok(25, 443), "b": other})
    assert play.run(10, {"b": other}) == [(10, "retired", "a", 80)]
    assert play.run(15, {"a": ok(25), "b": other}) == [(15, "down", "a", 80), (15, "down", "a", 443)]


# ── messages ────────────────────────────────────────────────────────────────────────────────────


def test_at_most_twelve_messages_a_day() -> None:
    """It flaps with long breaks: each time a few messages."""
    play = Play()
    told = play.run(0, {"a": ok(25, 80)})
    for minutes in five(5, DAY - 5):
        told += play.run(minutes, {"a": ok(25) if minutes % 120 in (5, 15) else ok(25, 80)})
    assert len([one for one in told if one[3:4] == (80,)]) == 12
    assert [one[1] for one in told[1:13]] == [
        *("down", "recovered", "down", "flapping", "stable"),
        *("down", "recovered", "down", "flapping", "stable"),
        *("flapping", "stable"),
    ]


# ── a host that hides who listens ───────────────────────────────────────────────────────────────


def blind(*ports: int, **more: Any) -> dict[str, Any]:
    """What a host shows of listeners without their processes."""
    listeners = tuple(Listener("tcp", "0.0.0.0", port) for port in ports)
    uid, boot = more.pop("uid", 1000), more.pop("boot", "b1")
    return {"listing": Listing("ss", uid, boot_id=boot, listeners=listeners, **more)}


def test_a_host_that_shows_no_owners_any_more_is_told_after_some_looks() -> None:
    play = Play()
    found = []
    for minutes, answer in (
        (0, ok(22)),
        (5, blind(22)),
        (10, blind(22)),
        (15, blind(22)),
        (20, ok(22)),
        (25, blind(22)),
    ):
        found += play.run(minutes, {"a": answer})
    assert found == [(0, "baseline", "a"), (10, "owners_hidden", "a"), (20, "owners_shown", "a")]


def test_a_host_that_never_showed_owners_of_others_hides_none() -> None:
    own = Listener("tcp", "0.0.0.0", 80, 7, "app", uid=1000)
    play = Play()
    play.run(0, {"a": {"listing": Listing("ss", 1000, boot_id="b1", listeners=(own,))}})
    assert play.runs(five(5, 20), {"a": blind(22)}) == [(5, "new", "a", 22), (5, "down", "a", 80)]
    play = Play()
    other = Listener("tcp", "0.0.0.0", 80, 7, "app", uid=0)
    play.run(0, {"a": {"listing": Listing("ss", 1000, boot_id="b1", listeners=(other,))}})
    assert (10, "owners_hidden", "a") in play.runs(five(5, 10), {"a": blind(80)})


def test_what_hides_owners_goes_on_untold_under_what_is_worse() -> None:
    play = Play()
    play.run(0, {"a": ok(22)})
    assert play.runs((5, 10), {"a": blind(22)}) == [(10, "owners_hidden", "a")]
    assert play.runs((15, 20), {"a": bad()}) == [(20, "owners_shown", "a"), (20, "unreachable", "a")]
    assert play.run(25, {"a": blind(22)}) == [(25, "reachable", "a"), (25, "owners_hidden", "a")]
    assert play.runs(
        (30, 35, 40),
        {"b": ok(22)},
    ) == [(30, "retired", "a"), (30, "baseline", "b")]
