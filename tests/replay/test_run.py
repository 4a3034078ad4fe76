"""Runs that replay: what was seen is evaluated again, by today's rules, and takes the place of what was made of it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from portmon.config import Config
from portmon.errors import ParamError, PastRunError, ReplayError, StorageError
from portmon.model.event import Event
from portmon.model.event_kinds import EventKind
from portmon.replay import run as replaying
from portmon.replay.run import Window, must_be_kept, replay_dry, replay_run, window_of
from portmon.steps import evaluate as evaluating
from portmon.steps.plan import plan_hosts, plan_sweep
from portmon.steps.prune import prune_inventory
from portmon.steps.run import Run
from portmon.storage import alerts, checkpoints, events, hosts, lease, replays, rewrite, runs, tables
from portmon.storage.database import Database
from tests.worlds.eventful import derived, eventful, everything_in, lived, small_fleet, state_of, wipe
from tests.worlds.fleet import FIVE, MONDAY, Fleet

DAY = timedelta(days=1)


def replay(fleet: Fleet, since: datetime, until: datetime | None = None, **run: Any) -> dict[str, int]:
    """One run that replays, right after the last run."""
    wanted = Run(run.pop("run_id", "again"), replay_from=since, **run)
    return replay_run(
        fleet.database,
        fleet.config,
        wanted,
        Window(since, until or fleet.now),
        interval=FIVE,
        clock=lambda: fleet.now,
    )


def unmarked(events: list[Event]) -> list[Event]:
    return [dataclasses.replace(event, replayed_by=None) for event in events]


def checkpoints_of(database: Database) -> list[Any]:
    with database.begin() as conn:
        return list(
            conn.execute(select(tables.checkpoints).order_by(tables.checkpoints.c.seq, tables.checkpoints.c.part))
        )


def events_of(fleet: Fleet, *kinds: EventKind) -> list[tuple[str, str | None, int | None]]:
    with fleet.database.begin() as conn:
        found = sorted(events.recent(conn, limit=10_000), key=lambda event: event.at)
    return [(event.kind.value, event.host_name, event.port) for event in found if not kinds or event.kind in kinds]


# ── equivalence ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [40, pytest.param(200, marks=pytest.mark.full)])
def test_what_is_wiped_comes_back_as_it_was(database: Database, number: int) -> None:
    fleet = small_fleet(database, cmdb={"max_prune_ratio": 1, "prune_after": "1h"})
    eventful(fleet, number)
    state, events = lived(fleet)
    kept = checkpoints_of(database)
    assert len(events) > number / 3
    wipe(database)
    counts = replay(fleet, MONDAY)
    assert (counts["replayed"], counts["gained"], counts["lost"]) == (number, len(events), 0)
    again, again_events = lived(fleet)
    assert again == state
    assert unmarked(again_events) == events
    assert {event.replayed_by for event in again_events} == {"again"}
    assert checkpoints_of(database) == kept


@pytest.mark.parametrize("number", [24, pytest.param(80, marks=pytest.mark.full)])
def test_pieces_in_any_order_end_as_the_runs_would_have_by_those_rules(
    database: Database, scratch: Database, number: int
) -> None:
    """Two fleets to which the same happens: one always had the rules, the other got them later."""
    rules = {"rules": [{"action": "deny", "port": 443}], "states": {"down_after": 2}, "cmdb": {"max_prune_ratio": 1}}
    always, later = small_fleet(scratch, **rules), small_fleet(database, cmdb={"max_prune_ratio": 1})
    for fleet in (always, later):
        # Midnight, and a checkpoint, is among them.
        fleet.start = MONDAY - number * 9 // 20 * FIVE
        eventful(fleet, number)
    assert lived(later) != lived(always)
    later.config = always.config
    pieces = [later.start + piece * timedelta(minutes=50) for piece in range(-(-number // 10))]
    random.Random(1).shuffle(pieces)
    for piece, since in enumerate(pieces):
        replay(later, since, since + timedelta(minutes=50), run_id=f"again{piece}")
    (state, events), (wanted_state, wanted_events) = lived(later), lived(always)
    assert unmarked(events) == wanted_events
    assert state == wanted_state
    assert [row.content for row in checkpoints_of(database)][1:] == [row.content for row in checkpoints_of(scratch)][1:]


def test_the_same_rules_change_nothing(database: Database) -> None:
    fleet = small_fleet(database)
    eventful(fleet, 30)
    with database.begin() as conn:
        before = everything_in(conn)
    counts = replay(fleet, MONDAY)
    assert {name: count for name, count in counts.items() if count} == {"replayed": 30}
    with database.begin() as conn:
        after = everything_in(conn)
    assert {name for name in before if before[name] != after[name]} == {"replays", "leases"}


def test_runs_meanwhile_are_evaluated_and_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = small_fleet(database)
    eventful(fleet, 20)
    evaluate_again = replaying.evaluate_again

    def slowly(*args: Any, **kwargs: Any) -> Any:
        found = evaluate_again(*args, **kwargs)
        fleet.machines["web1"].services.clear()
        fleet.machines["web1"].start(22, "sshd")
        eventful(fleet, 5, seed=7)
        return found

    monkeypatch.setattr(replaying, "evaluate_again", slowly)
    counts = replay(fleet, MONDAY)
    assert counts["replayed"] == 25
    state, events = lived(fleet)
    monkeypatch.undo()
    wipe(database)
    replay(fleet, MONDAY)
    assert (lived(fleet)[0], unmarked(lived(fleet)[1])) == (state, events)


def test_what_was_decided_meanwhile_counts_for_the_next_run(database: Database) -> None:
    """A decision lets the next look be compared, even if it shows nothing new: replaying must not undo that."""
    fleet = small_fleet(database)
    for _ in range(3):
        fleet.run()
    with database.begin() as conn:
        hosts.unsettle(conn, ["id-web1"])
    replay(fleet, MONDAY)
    with database.begin() as conn:
        settled = dict(conn.execute(select(tables.hosts.c.name, tables.hosts.c.fingerprint)).all())  # type: ignore[arg-type]
    assert settled["web1"] is None
    assert settled["web2"] is not None


# ── rules that were wrong ───────────────────────────────────────────────────────────────────────


def mistaken(database: Database) -> Fleet:
    """A week's story in short, of which a wrong rule hid half: 80 dies for good, 443 dies and comes back."""
    fleet = small_fleet(database, rules=[{"action": "deny", "port": 80}, {"action": "deny", "port": 443}])
    fleet.run()
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.machines["web2"].kill(443)
    fleet.run()
    fleet.run()
    fleet.machines["web2"].start(443, "nginx")
    fleet.run()
    fleet.run()
    assert events_of(fleet, EventKind.DOWN, EventKind.RECOVERED) == []
    fleet.config = Config()
    return fleet


def test_a_wrong_deny_rule_is_corrected_without_a_message(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    fleet = mistaken(database)
    told = len(fleet.got)
    counts = replay(fleet, MONDAY)
    assert events_of(fleet, EventKind.DOWN, EventKind.RECOVERED) == [
        ("down", "web1", 80),
        ("down", "web2", 443),
        ("recovered", "web2", 443),
    ]
    assert counts["gained"] >= 3
    assert "no channel was notified: web1 tcp/80. A run with replay_from and notify" in caplog.text
    for _ in range(3):
        fleet.run()
    assert len(fleet.got) == told
    with database.begin() as conn:
        assert alerts.opened(conn) == {}


def test_a_week_of_a_wrong_rule_is_put_right(database: Database) -> None:
    """A run every four hours, a death and a recovery each day, checkpoints in between."""
    fleet = small_fleet(database, rules=[{"action": "deny", "port": 443}])
    for number in range(7 * 6):
        if number % 6 == 2:
            fleet.machines["web1"].kill(443)
        elif number % 6 == 5:
            fleet.machines["web1"].start(443, "nginx")
        fleet.run()
        fleet.number += 47
    assert len({row.at for row in checkpoints_of(database)}) == 7
    assert events_of(fleet, EventKind.DOWN, EventKind.RECOVERED) == []
    told = len(fleet.got)
    # Observations that are far apart are little evidence: by its clock the port changes often.
    fleet.config = Config(states={"flap_threshold": 100})
    assert replay(fleet, MONDAY)["replayed"] == 42
    assert (
        events_of(fleet, EventKind.DOWN, EventKind.RECOVERED)
        == [
            ("down", "web1", 443),
            ("recovered", "web1", 443),
        ]
        * 7
    )
    fleet.run()
    assert len(fleet.got) == told


def test_with_notify_what_is_still_wrong_is_told_once(database: Database) -> None:
    fleet = mistaken(database)
    replay(fleet, MONDAY)
    assert fleet.got == []
    counts = replay(fleet, MONDAY, notify=True, run_id="told")
    assert counts["to_tell"] > 0
    fleet.alert()
    titles = fleet.titles()
    assert [title for title in titles if "80" in title and "down" in title]
    # It died and came back before an alert task ran.
    assert not [title for title in titles if "443" in title and "web2" in title and "down" in title]
    with database.begin() as conn:
        assert [alert.first.host_id for alert in alerts.opened(conn).values()] == ["id-web1"]
    count = len(fleet.got)
    replay(fleet, MONDAY, notify=True, run_id="again told")
    fleet.alert()
    assert len(fleet.got) == count
    # It is an alert like others: it ends.
    fleet.machines["web1"].start(80, "nginx")
    fleet.run()
    assert len(fleet.got) > count
    with database.begin() as conn:
        assert alerts.opened(conn) == {}
    # What was told is not told again because it is over.
    count = len(fleet.got)
    assert replay(fleet, MONDAY, notify=True, run_id="once more")["to_tell"] == 0
    fleet.alert()
    assert len(fleet.got) == count
    with database.begin() as conn:
        assert alerts.opened(conn) == {}


def test_an_alert_that_goes_on_is_not_ended_by_what_was_before_it(database: Database) -> None:
    """It died and came back while a wrong rule hid it; now it is down again, and people know."""
    fleet = small_fleet(database, rules=[{"action": "deny", "port": 80}])
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.run()
    fleet.machines["web1"].start(80, "nginx")
    fleet.run()
    fleet.config = Config()
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.run()
    with database.begin() as conn:
        (open_before,) = alerts.opened(conn).values()
    count = len(fleet.got)
    assert replay(fleet, MONDAY, notify=True)["gained"] >= 2
    fleet.alert()
    with database.begin() as conn:
        # By the rules of now the port was there from the first answer on, so that it is not young.
        assert [one.id for one in alerts.opened(conn).values()] == [open_before.id]
    assert len(fleet.got) == count


def test_notify_is_for_its_time(database: Database) -> None:
    fleet = mistaken(database)
    counts = replay(fleet, MONDAY, MONDAY + FIVE, notify=True)
    assert counts["gained"] > counts["to_tell"]
    fleet.alert()
    assert not [title for title in fleet.titles() if "down" in title]


def test_what_was_told_and_never_was_is_taken_back(database: Database) -> None:
    fleet = small_fleet(database)
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.run()
    fleet.run()
    down = events_of(fleet, EventKind.DOWN)
    assert down == [("down", "web1", 80)]
    assert [title for title in fleet.titles() if "down" in title]
    count = len(fleet.got)
    fleet.config = Config(rules=[{"action": "deny", "port": 80}])
    with database.begin() as conn:
        counted = events.counts(conn)
    assert counted["down"] == 1
    assert replay(fleet, MONDAY)["lost"] >= 1
    assert events_of(fleet, EventKind.DOWN) == []
    assert len(fleet.got) == count
    # With the next run, the channels that got the alert get its resolved message, once.
    fleet.run()
    with database.begin() as conn:
        assert alerts.opened(conn) == {}
    assert len(fleet.got) == count + 1
    # The rule was not wrong after all.
    fleet.config = Config()
    replay(fleet, MONDAY, run_id="back")
    assert events_of(fleet, EventKind.DOWN) == down
    # A counter neither falls nor counts twice.
    with database.begin() as conn:
        assert events.counts(conn)["down"] == 1


def test_what_waits_to_be_sent_and_never_was_is_not_sent(database: Database) -> None:
    fleet = small_fleet(database)
    fleet.dead = {"log"}
    fleet.run()
    fleet.machines["web1"].kill(80)
    fleet.run()
    fleet.run()
    fleet.config = Config(rules=[{"action": "deny", "port": 80}])
    replay(fleet, MONDAY)
    fleet.dead = set()
    fleet.run()
    assert not [title for title in fleet.titles() if "80" in title]


def test_a_dry_replay_changes_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    fleet = mistaken(database)
    with database.begin() as conn:
        before = everything_in(conn)
    caplog.set_level("INFO")
    counts = replay_dry(database, fleet.config, Window(MONDAY, fleet.now), interval=FIVE)
    assert counts["gained"] >= 3
    assert "+ 2026-03-02 00:10 down: 'web1' tcp/80" in caplog.text
    with database.begin() as conn:
        assert everything_in(conn) == before


def test_a_dry_replay_takes_the_times_that_a_real_one_takes(database: Database) -> None:
    """A backfill run is of a moment before its run began, the first one of before anything was kept."""
    fleet = mistaken(database)
    window = Window(MONDAY - timedelta(seconds=10), fleet.now)
    dry = replay_dry(database, fleet.config, window, interval=FIVE)
    real = replay(fleet, window.since)
    assert dry == {name: real[name] for name in dry}


# ── many at once ────────────────────────────────────────────────────────────────────────────────


def test_who_finds_its_time_evaluated_has_nothing_to_do(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backfill runs that wait for the lease: the first evaluates for all of them."""
    fleet = mistaken(database)
    with database.begin() as conn:
        for number in range(3):
            replays.mark(
                conn,
                f"backfill{number}",
                since=MONDAY + number * FIVE,
                until=MONDAY + (number + 1) * FIVE,
                notify=False,
                now=fleet.now,
            )
    assert replay(fleet, MONDAY + 3 * FIVE)["gained"] >= 3
    with database.begin() as conn:
        assert replays.marks(conn) == []
        done = [replays.last(conn, run_id=f"backfill{number}") for number in range(3)]
    assert [one and one.done_by for one in done] == ["again"] * 3

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("evaluated once more")

    monkeypatch.setattr(replaying, "evaluate_again", never)
    monkeypatch.setattr(replays, "mark", lambda conn, run_id, **kwargs: 1)
    run = Run("backfill1", run_type="backfill", logical_date=MONDAY + FIVE)
    window = Window(MONDAY + FIVE, MONDAY + 2 * FIVE)
    assert replay_run(database, fleet.config, run, window, interval=FIVE, clock=lambda: fleet.now) == {"replayed": 0}


def backfill(fleet: Fleet, number: int, **run: Any) -> dict[str, int]:
    since = MONDAY + number * FIVE
    wanted = Run(f"backfill{number}", run_type="backfill", logical_date=since, **run)
    window = Window(since, since + FIVE)
    return replay_run(fleet.database, fleet.config, wanted, window, interval=FIVE, clock=lambda: fleet.now)


def test_a_time_that_was_evaluated_by_these_rules_is_not_evaluated_once_more(database: Database) -> None:
    fleet = mistaken(database)
    assert backfill(fleet, 1)["replayed"] == 6
    assert backfill(fleet, 4) == {"replayed": 0, "to_tell": 0}
    assert backfill(fleet, 3, notify=True)["to_tell"] == 0
    assert backfill(fleet, 2, notify=True)["to_tell"] >= 2
    # By these rules as well.
    fleet.run()
    assert backfill(fleet, 1)["replayed"] == 0
    # Who asks for it by hand gets it.
    assert replay(fleet, MONDAY)["replayed"] == 7
    # By others.
    config = fleet.config
    fleet.config = Config(states={"down_after": 2})
    fleet.run()
    fleet.config = config
    assert backfill(fleet, 1)["replayed"] == 8
    fleet.config = Config(rules=[{"action": "deny", "port": 80}])
    assert backfill(fleet, 1)["replayed"] == 8


def test_a_run_that_fails_leaves_nothing_for_others_to_fail_by(database: Database) -> None:
    fleet = mistaken(database)
    with database.begin() as conn:
        facts = conn.execute(select(tables.observations.c.facts).limit(1)).scalar()
        conn.execute(update(tables.contents).where(tables.contents.c.digest == facts).values(data=b"damaged"))
    before = lived(fleet)
    with pytest.raises(StorageError, match="damaged"):
        replay(fleet, MONDAY)
    assert lived(fleet) == before
    with database.begin() as conn:
        assert replays.marks(conn) == []


@pytest.mark.parametrize("step", ["replace", "tell"])
def test_what_fails_in_the_end_changes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    fleet = mistaken(database)
    before, kept = lived(fleet), checkpoints_of(database)
    original: Callable[..., Any] = getattr(rewrite, step)

    def dies(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(rewrite, step, dies)
        replay(fleet, MONDAY, notify=True)
    assert lived(fleet) == before
    assert checkpoints_of(database) == kept
    replay(fleet, MONDAY)
    assert lived(fleet) != before


def test_a_mark_that_no_run_will_come_back_for_is_dropped(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    fleet = mistaken(database)
    with database.begin() as conn:
        replays.mark(conn, "dead", since=MONDAY - DAY, until=MONDAY, notify=True, now=fleet.now - 2 * DAY)
    replay(fleet, MONDAY)
    assert "Run dead was to evaluate again from 2026-03-01 00:00 UTC on and never did" in caplog.text
    with database.begin() as conn:
        assert replays.marks(conn) == []
        assert replays.last(conn, run_id="dead") is None


def test_who_was_replaced_changes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = mistaken(database)
    before = lived(fleet)
    evaluate_again = replaying.evaluate_again

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        found = evaluate_again(*args, **kwargs)
        assert lease.acquire(database, replaying.REPLAY, "another run", ttl=FIVE, now=datetime.now(MONDAY.tzinfo) + DAY)
        return found

    monkeypatch.setattr(replaying, "evaluate_again", overtaken)
    with pytest.raises(StorageError, match="another run"):
        replay(fleet, MONDAY)
    assert lived(fleet) == before


# ── which runs replay, and what ─────────────────────────────────────────────────────────────────


def asked(fleet: Fleet, run: Run, now: datetime | None = None) -> Window | None:
    with fleet.database.begin() as conn:
        return window_of(conn, fleet.config, run, interval=FIVE, now=now or fleet.now)


def test_which_time_a_run_evaluates_again(database: Database) -> None:
    fleet = small_fleet(database)
    for _ in range(3):
        fleet.run()
    tomorrow = MONDAY + DAY
    assert asked(fleet, Run("new")) is None
    assert asked(fleet, Run("run00002")) is None
    # Cleared.
    assert asked(fleet, Run("run00001")) == Window(MONDAY + FIVE, MONDAY + 2 * FIVE)
    backfilled = Run("backfill", "backfill", logical_date=tomorrow)
    assert asked(fleet, backfilled) == Window(tomorrow, tomorrow + FIVE)
    # The run of that time came late.
    late = Run("run00001", "backfill", logical_date=MONDAY + timedelta(minutes=4))
    assert asked(fleet, late) == Window(MONDAY + timedelta(minutes=4), MONDAY + 2 * FIVE)
    assert asked(fleet, Run("r", replay_from=MONDAY)) == Window(MONDAY, fleet.now)
    assert asked(fleet, Run("r", replay_from=MONDAY, replay_to=MONDAY + FIVE)) == Window(MONDAY, MONDAY + FIVE)
    with pytest.raises(ParamError, match="'replay_from': is still to come"):
        asked(fleet, Run("r", replay_from=fleet.now))
    # Cleared after everything about it has expired.
    old = Run("manual", due=MONDAY - timedelta(days=30))
    assert asked(fleet, old) == Window(MONDAY - timedelta(days=30), MONDAY - timedelta(days=30) + FIVE)
    assert asked(fleet, Run("manual", due=MONDAY - timedelta(hours=5))) is None
    with pytest.raises(ReplayError, match="no logical date"):
        asked(fleet, Run("b", "backfill"))


def test_a_time_of_which_nothing_is_kept_is_refused(database: Database) -> None:
    fleet = small_fleet(database)
    with database.begin() as conn, pytest.raises(ReplayError, match="there is nothing before the next run"):
        must_be_kept(conn, Window(MONDAY, MONDAY + FIVE), interval=FIVE)
    fleet.run()
    with database.begin() as conn:
        # Before the first run there was nothing to see.
        must_be_kept(conn, Window(MONDAY - DAY, fleet.now), interval=FIVE)
        with pytest.raises(ReplayError, match="from 2026-03-02 00:00 UTC on"):
            must_be_kept(conn, Window(MONDAY - DAY, MONDAY), interval=FIVE)
        conn.execute(update(tables.checkpoints).values(seq=7))
        must_be_kept(conn, Window(MONDAY - FIVE, MONDAY + FIVE), interval=FIVE)
        with pytest.raises(ReplayError, match=r"\(retention.observations\), not of 2026-03-01"):
            must_be_kept(conn, Window(MONDAY - DAY, fleet.now), interval=FIVE)
        assert checkpoints.oldest(conn) == MONDAY


def test_nothing_is_done_in_the_name_of_a_run_that_later_ones_followed(database: Database) -> None:
    """Cleared tasks of an old run, whose host list is an old one."""
    fleet = small_fleet(database)
    fleet.run()
    fleet.add("newer", {22: "sshd"})
    fleet.run()
    run = Run("run00000", run_type="scheduled")
    with database.begin() as conn:
        digest = conn.execute(select(tables.runs.c.inventory).where(tables.runs.c.run_id == run.run_id)).scalar_one()
        before = state_of(conn)
    with pytest.raises(PastRunError, match="a later run was evaluated since run00000 began"):
        prune_inventory(database, fleet.config, run, digest, stale=False, now=fleet.now)
    with pytest.raises(PastRunError):
        plan_sweep(database, fleet.config, run, digest, proxy_of=lambda _: None)
    with pytest.raises(PastRunError):
        plan_hosts(database, fleet.config, run, digest)
    with pytest.raises(PastRunError):
        evaluating.evaluate_run(database, fleet.config, run, digest, planned={}, interval=FIVE, now=fleet.now)
    with database.begin() as conn:
        assert state_of(conn) == before


def test_a_run_that_is_replayed_does_not_make_a_later_one_past(database: Database) -> None:
    fleet = small_fleet(database)
    for _ in range(3):
        fleet.run()
    replay(fleet, MONDAY)
    with database.begin() as conn:
        assert [runs.superseded(conn, f"run0000{number}") for number in range(3)] == [True, True, False]
    fleet.run()
    assert len(derived_of(fleet)) > 0


def derived_of(fleet: Fleet) -> list[Event]:
    with fleet.database.begin() as conn:
        return derived(conn)
