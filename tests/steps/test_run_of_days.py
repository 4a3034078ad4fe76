"""The steps of a run over days of simulated time, on SQLite and PostgreSQL: what crashes lose nothing."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from portmon.alerting.message.render import Message
from portmon.config import Config, parse_config
from portmon.errors import CmdbError, DeliveryError, ParamError, RunError
from portmon.model.event_kinds import AlertGroup
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.scan.host import Expected
from portmon.steps import deliver as deliver_step
from portmon.steps.evaluate import evaluate_dry
from portmon.steps.plan import batch_of, expected, plan_hosts, plan_sweep, settings_of
from portmon.steps.run import Run
from portmon.storage import archive, deliveries, hosts, inventory, state
from portmon.storage.database import Database
from portmon.storage.tables import observations
from tests.worlds.runs import FIVE, Runs

START = datetime(2026, 1, 1, tzinfo=UTC)
NASTY = "{{ conn.x.password }}\x00\udcff{{"


class Site(Runs):
    """Six hosts and their CMDB."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, Config(), start=START)
        self.listed = [Host(f"h{n}", f"web{n} {NASTY}", f"10.0.0.{n}", None, {"role": "web"}) for n in range(6)]
        self.listening: dict[str, tuple[int, ...] | None] = {host.id: (22, 80) for host in self.listed}
        self.broken: CmdbError | None = None
        self.invalid: tuple[InvalidHost, ...] = ()
        self.sent: list[str] = []
        self.fail: set[str] = set()

    def load(self) -> Inventory:
        if self.broken:
            raise self.broken
        return Inventory(tuple(self.listed), self.invalid, source="test")

    def observation(self, host_id: str) -> Observation:
        ports = self.listening.get(host_id)
        common: dict[str, Any] = {
            "host_id": host_id,
            "run_id": f"run{self.number}",
            "try_number": 1,
            "observed_at": self.now,
        }
        if ports is None:
            return Observation(outcome=Outcome.UNREACHABLE, error_class="timeout", error="no answer", **common)
        listeners = tuple(Listener("tcp", "0.0.0.0", port, 7, NASTY) for port in ports)
        return Observation(
            outcome=Outcome.OK, listing=Listing("netstat", 0, listeners=listeners), frames=(b"raw",), **common
        )

    def send(self, channel: Any, message: Message, done: tuple[str, ...]) -> None:
        if channel.name in self.fail:
            raise DeliveryError("dead", channel=channel.name, delivered=("target1",))
        self.sent.append(f"{channel.name}: {message.title}")

    def run(self, **values: Any) -> list[tuple[Any, ...]]:
        """A whole run; the events that it gave."""
        run = self.run_of(**values)
        self.scan_and_evaluate(run)
        self.alert()
        self.number += 1
        return self.told(run.run_id)

    def told(self, run_id: str | None = None) -> list[tuple[Any, ...]]:
        return [(event.kind.value, event.host_id, event.port) for event in self.events(run_id)]


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    made = Site(database)
    assert {event[0] for event in made.run()} == {"baseline"}
    yield made
    database.dispose()


# ── a day in the life ───────────────────────────────────────────────────────────────────────────


def test_a_death_is_one_event_and_one_message(site: Site) -> None:
    site.listening["h1"] = (22,)
    assert site.run() == [("down", "h1", 80)]
    assert site.run() == []
    site.listening["h1"] = (22, 80)
    assert site.run() == [("recovered", "h1", 80)]
    assert [line.split("on web")[0] for line in site.sent] == [
        "log: [portmon] 1 port down ",
        "log: [portmon] 1 port recovered ",
    ]
    assert "{{ conn.x.password }}" in site.sent[0]
    assert site.events()[-1].program == NASTY


def test_an_unreachable_host_loses_no_port(site: Site) -> None:
    site.listening["h1"] = None
    assert site.run() == []
    assert site.run() == [("unreachable", "h1", None)]
    site.listening["h1"] = (22, 80)
    assert site.run() == [("reachable", "h1", None)]


def test_a_host_that_was_not_scanned_is_neither_up_nor_down(site: Site) -> None:
    run = site.run_of()
    fetched = site.fetch(run)
    plan = site.plan(run, fetched)
    site.scan([item for item in plan if item["id"] != "h1"])
    summary = site.evaluate(run, fetched, plan)
    assert (summary["scanned"], summary["not_scanned"]) == (5, 1)
    assert site.told(run.run_id) == []


def test_events_name_the_task_that_saw_them(site: Site) -> None:
    site.listening["h3"] = (22,)
    site.run()
    assert {name: site.events()[-1].details[name] for name in ("task", "map_index")} == {
        "task": "netstat",
        "map_index": 3,
    }


def test_events_from_a_look_of_an_earlier_run_name_no_task(site: Site) -> None:
    """Its diff was killed. Which of that run's tasks it was is not known any more, and this run's saw nothing of it."""
    site.listening |= {"h3": (22,), "h4": (22,)}
    run = site.run_of()
    site.scan(site.plan(run, site.fetch(run)))
    site.number += 1
    site.listening["h4"] = (22, 80)
    assert sorted(site.run()) == [("down", "h3", 80), ("down", "h4", 80), ("recovered", "h4", 80)]
    tasks = {
        (event.kind.value, event.host_id): event.details.get("map_index")
        for event in site.events(f"run{site.number - 1}")
    }
    assert tasks == {("down", "h3"): None, ("down", "h4"): None, ("recovered", "h4"): 4}


# ── crashes ─────────────────────────────────────────────────────────────────────────────────────


def test_evaluating_twice_changes_nothing(site: Site) -> None:
    site.listening["h1"] = (22,)
    run = site.run_of()
    fetched = site.fetch(run)
    plan = site.plan(run, fetched)
    site.scan(plan)
    site.evaluate(run, fetched, plan)
    with site.database.begin() as conn:
        before = state.load(conn)
    assert site.evaluate(run, fetched, plan)["evaluated"] == 0
    with site.database.begin() as conn:
        after = state.load(conn)
    assert before[0] == after[0]
    assert before[1].equals(after[1])
    assert site.told(run.run_id) == [("down", "h1", 80)]


def test_a_crash_within_the_diff_leaves_nothing_and_the_retry_everything(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.listening["h1"] = (22,)
    run = site.run_of()
    fetched = site.fetch(run)
    plan = site.plan(run, fetched)
    site.scan(plan)
    with monkeypatch.context() as patch:
        patch.setattr("portmon.storage.runs.finish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            site.evaluate(run, fetched, plan)
    assert site.told(run.run_id) == []
    site.evaluate(run, fetched, plan)
    assert site.told(run.run_id) == [("down", "h1", 80)]


def test_a_provisional_failure_counts_only_without_another_look_of_its_run(site: Site) -> None:
    def run(*looks: Observation, crash: bool = False) -> list[tuple[Any, ...]]:
        run = site.run_of()
        fetched = site.fetch(run)
        plan = site.plan(run, fetched)
        with site.database.begin() as conn:
            archive.save_observations(conn, looks)
        if crash:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("portmon.storage.runs.finish", lambda *_, **__: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    site.evaluate(run, fetched, plan)
        site.evaluate(run, fetched, plan)
        site.number += 1
        return site.told(run.run_id)

    def failed(host_id: str) -> Observation:
        made = dataclasses.replace(site.observation(host_id), outcome=Outcome.UNREACHABLE, listing=None, frames=())
        return dataclasses.replace(made, error_class="timeout", error="no answer", provisional=True)

    def later(host_id: str) -> Observation:
        made = site.observation(host_id)
        return dataclasses.replace(made, observed_at=made.observed_at + timedelta(seconds=30))

    def provisional() -> set[tuple[str, str]]:
        with site.database.begin() as conn:
            rows = conn.execute(select(observations.c.run_id, observations.c.host_id).where(observations.c.provisional))
            return {(row.run_id, row.host_id) for row in rows}

    # h1 fails twice in the sweep, h2 answers its own task each time: the first failure counts, the second does not.
    assert run(failed("h1"), failed("h2"), later("h2")) == []
    assert provisional() == {("run1", "h2")}
    assert run(failed("h1"), failed("h2"), later("h2"), crash=True) == [("unreachable", "h1", None)]
    assert provisional() == {("run1", "h2"), ("run2", "h2")}
    with site.database.begin() as conn:
        assert hosts.failing(conn) == {"h1": "timeout"}
        # Evaluated again from the archive, in which h2 never failed, everything is as it was.
        assert archive.observations_to_evaluate(conn) == []


def test_a_late_look_leaves_what_was_evaluated_before_it_as_it_was(site: Site) -> None:
    run = site.run_of()
    fetched = site.fetch(run)
    plan = site.plan(run, fetched)
    failed = Observation(
        "h1", run.run_id, 1, site.now, Outcome.UNREACHABLE, error_class="timeout", error="x", provisional=True
    )
    with site.database.begin() as conn:
        archive.save_observation(conn, failed)
    site.evaluate(run, fetched, plan)
    again = dataclasses.replace(site.observation("h1"), observed_at=site.now + timedelta(minutes=1))
    with site.database.begin() as conn:
        archive.save_observation(conn, again)
        assert archive.observed(conn, run.run_id) == {"h1": True}
        assert [look.outcome for look in archive.observations_to_evaluate(conn)] == [Outcome.OK]
        # The archive shows both, as they were evaluated.
        rows = conn.execute(select(observations.c.provisional).where(observations.c.run_id == run.run_id))
        assert rows.scalars().all() == [False, False]


def test_a_crash_between_diff_and_alert_loses_no_message(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.listening["h1"] = (22,)
    with monkeypatch.context() as patch:
        patch.setattr(Site, "alert", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            site.run()
    assert site.sent == []
    site.number += 1
    assert site.run() == []
    assert len(site.sent) == 1


def test_a_dead_channel_holds_no_other_and_gets_its_message_later(site: Site) -> None:
    site.config = parse_config("alerts:\n  channels:\n  - {type: apprise, name: dead}\n  - {type: log, name: good}\n")
    site.fail = {"dead"}
    site.listening["h1"] = (22,)
    with pytest.raises(DeliveryError, match="dead"):
        site.run()
    assert [line.split(":")[0] for line in site.sent] == ["good"]
    with site.database.begin() as conn:
        (waiting,) = deliveries.unfinished(conn, "dead")
    assert waiting.targets_done == ("target1",)
    site.fail = set()
    site.number += 1
    site.run()
    assert [line.split(":")[0] for line in site.sent] == ["good", "dead"]


def test_a_message_is_marked_only_after_it_was_sent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.listening["h1"] = (22,)
    with monkeypatch.context() as patch:
        patch.setattr(deliver_step.deliveries, "delivered", lambda *_: 1 / 0)
        with pytest.raises(DeliveryError, match="ZeroDivisionError"):
            site.run()
    assert site.deliver(AlertGroup.DOWN) == 1
    assert site.deliver(AlertGroup.DOWN) == 0
    # The kill was between sending and marking: that one message comes twice, none is lost.
    assert len(site.sent) == 2


# ── the CMDB ────────────────────────────────────────────────────────────────────────────────────


def test_a_host_that_left_is_hidden_and_comes_back_as_it_was(site: Site) -> None:
    site.listening["h1"] = (22,)
    site.run()
    gone = site.listed.pop(1)
    assert site.run() == [("retired", "h1", 80)]
    with site.database.begin() as conn:
        assert [host.id for host in hosts.known(conn) if host.removed_at] == ["h1"]
    site.listed.append(gone)
    # Its alert was closed when it left: what is still down is told again.
    assert site.run() == [("down", "h1", 80)]
    site.listening["h1"] = (22, 80)
    assert site.run() == [("recovered", "h1", 80)]


def test_a_host_that_stays_away_is_deleted_and_starts_anew(site: Site) -> None:
    site.config = parse_config("cmdb: {prune_after: 1h}")
    gone = site.listed.pop(1)
    for _ in range(14):
        site.run()
    with site.database.begin() as conn:
        assert "h1" not in {host.id for host in hosts.known(conn)}
    site.listed.append(gone)
    assert site.run() == [("baseline", "h1", None)]


def test_a_host_that_comes_back_late_starts_anew_although_no_run_deleted_it(site: Site) -> None:
    site.config = parse_config("cmdb: {prune_after: 1h}")
    gone = site.listed.pop(1)
    site.run()
    site.number += 12
    site.listed.append(gone)
    site.listening["h1"] = (22,)
    assert site.run() == [("baseline", "h1", None)]


@pytest.mark.parametrize("broken", ["error", "empty", "all invalid", "half"])
def test_an_implausible_list_deletes_nothing_and_monitoring_goes_on(site: Site, broken: str) -> None:
    if broken == "error":
        site.broken = CmdbError("HTTP 500", source="test")
    elif broken == "empty":
        site.listed = []
    elif broken == "all invalid":
        site.invalid = tuple(InvalidHost(n, None, None, "no address") for n in range(6))
        site.listed = []
    else:
        site.listed = site.listed[:3]
    site.listening["h5"] = (22,)
    found = site.run()
    assert ("down", "h5", 80) in found
    with site.database.begin() as conn:
        assert all(host.removed_at is None for host in hosts.known(conn))
    refused = [event for event in found if event[0] == "prune_refused"]
    assert len(refused) == (broken == "half")
    assert [event for event in site.run() if event[0] == "prune_refused"] == []


def test_a_stale_list_is_alerted_once_and_its_end_as_well(site: Site) -> None:
    site.broken = CmdbError("HTTP 500", source="test")
    kinds = [event[0] for _ in range(20) for event in site.run()]
    assert kinds == ["cmdb_stale"]
    site.broken = None
    assert [event[0] for event in site.run()] == ["cmdb_fresh"]


def test_without_any_list_the_run_fails(database: Database) -> None:
    site = Site(database)
    site.broken = CmdbError("HTTP 500", source="test")
    with pytest.raises(CmdbError):
        site.run()
    assert site.events() == []


def test_force_prune_believes_the_list(site: Site) -> None:
    site.listed = []
    site.run(force_prune=True)
    with site.database.begin() as conn:
        assert all(host.removed_at for host in hosts.known(conn))


def test_an_invalid_entry_is_not_scanned_and_not_pruned(site: Site) -> None:
    site.listed.pop(1)
    site.invalid = (InvalidHost(2, "h1", "web1", "it has no address"),)
    run = site.run_of()
    fetched = site.fetch(run)
    site.prune(run, fetched)
    assert "h1" not in {item["id"] for item in site.plan(run, fetched)}
    with site.database.begin() as conn:
        assert all(host.removed_at is None for host in hosts.known(conn))


FORGED = "web\nINFO - all is well\u2028INFO - really\u202e\x1b[2K"


def test_names_of_the_cmdb_forge_no_line_of_a_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.listed = [*site.listed, Host(f"id {FORGED}", f"name {FORGED}", "10.0.0.9")]
    site.invalid = (InvalidHost(8, None, f"bad {FORGED}", f"reason {FORGED}"),)
    with caplog.at_level(logging.INFO, logger="portmon.steps"):
        site.run()
        run = site.run_of()
        fetched = site.fetch(run)
        plan = site.plan(run, fetched)
        # No task scanned it.
        site.evaluate(run, fetched, plan)
        site.number += 1
        site.invalid = ()
        site.listed.pop()
        dry = site.run_of(dry_run=True)
        site.prune(dry, site.fetch(dry))
        site.run()
        site.broken = CmdbError(f"says {FORGED}", source="test")
        site.run()
    text = [record.getMessage() for record in caplog.records]
    for begin in ("Invalid entry 8 (bad web", "Not scanned, so ", "Dry run: would hide ", "name web", "test: says web"):
        assert any(line.startswith(begin) and "all is well" in line for line in text), begin
    assert not any(set(line) & set("\n\u2028\u202e\x1b") for line in text)


# ── manual runs ─────────────────────────────────────────────────────────────────────────────────


def test_a_scoped_run_touches_no_other_host(site: Site) -> None:
    site.listed.pop(0)
    site.listening |= {"h1": (22,), "h2": (22,)}
    assert site.run(hosts=("h1",)) == [("down", "h1", 80)]
    with site.database.begin() as conn:
        assert all(host.removed_at is None for host in hosts.known(conn))
    with pytest.raises(ParamError, match="absent"):
        site.run(hosts=("absent*",))


def test_a_dry_run_keeps_nothing(site: Site) -> None:
    site.listening["h1"] = (22,)
    site.listed.pop()
    run = site.run_of(dry_run=True)
    fetched = site.fetch(run)
    site.prune(run, fetched)
    summary = evaluate_dry(
        site.database, site.config, run, fetched.digest, observations=[site.observation("h1")], interval=FIVE
    )
    assert summary["down"] == 1
    assert site.told(run.run_id) == []
    with site.database.begin() as conn:
        assert all(host.removed_at is None for host in hosts.known(conn))
        assert archive.observations_to_evaluate(conn) == []


def test_a_dry_run_knows_the_hosts_that_it_does_not_look_at(site: Site) -> None:
    def booted(host_id: str, boot_id: str) -> Observation:
        found = site.observation(host_id)
        assert found.listing is not None
        seen = dataclasses.replace(found.listing, boot_id=boot_id, netns=1)
        return dataclasses.replace(found, listing=seen)

    run = site.run_of()
    fetched = site.fetch(run)
    with site.database.begin() as conn:
        archive.save_observation(conn, booted("h1", "b"))
        archive.save_observation(conn, booted("h2", "c"))
    site.evaluate(run, fetched, [])
    site.number += 1
    dry = site.run_of(dry_run=True)
    looks = [booted("h2", "b")]
    summary = evaluate_dry(site.database, site.config, dry, fetched.digest, observations=looks, interval=FIVE)
    assert summary["foreign_machine"] == 1


@pytest.mark.parametrize("listed", ["nothing", "the same", "other hosts"])
def test_a_dry_run_leaves_the_last_good_list_and_its_age_alone(site: Site, listed: str) -> None:
    with site.database.begin() as conn:
        before = inventory.last_good(conn)
    if listed == "nothing":
        site.listed = []
    elif listed == "other hosts":
        site.listed = [Host("new", "new", "10.1.0.1")]
    run = site.run_of(dry_run=True, force_prune=listed == "nothing")
    fetched = site.fetch(run)
    with site.database.begin() as conn:
        assert list(inventory.load(conn, fetched.digest).hosts) == site.listed
        assert inventory.last_good(conn) == before
    # What a run falls back to when the CMDB fails now.
    site.broken = CmdbError("HTTP 500", source="test")
    assert len(site.fetch(site.run_of()).digest) == 64
    with site.database.begin() as conn:
        assert before is not None
        assert inventory.last_good(conn) == before


def test_more_hosts_than_can_be_mapped_over(site: Site) -> None:
    run = site.run_of()
    with pytest.raises(RunError, match="max_map_length"):
        plan_hosts(site.database, site.config, run, site.fetch(run).digest, max_hosts=5)


def test_the_plan_says_how_to_log_in(site: Site) -> None:
    site.config = parse_config(
        "ssh:\n  user: a\n  groups:\n  - {name: g, match: {label: {role: w*}}, user: b, sudo: true, conn_id: c}\n"
    )
    run = site.run_of()
    (first, *_) = site.plan(run, site.fetch(run))
    # What is not said takes no room: every mapped task gets the whole list.
    assert first == {"id": "h0", "name": f"web0 {NASTY}", "address": "10.0.0.0", "group": "g"}
    settings = settings_of(site.config, first["group"])
    assert (settings.user, settings.sudo, settings.conn_id) == ("b", True, "c")
    assert settings_of(site.config, None).user == "a"
    with pytest.raises(RunError, match="no ssh group 'gone' any more"):
        settings_of(site.config, "gone")


def test_what_is_expected_of_a_host(site: Site) -> None:
    def of(host_id: str) -> Expected:
        run = site.run_of()
        (item,) = (one for one in site.plan(run, site.fetch(run)) if one["id"] == host_id)
        with site.database.begin() as conn:
            return expected(conn, [host_id], {host_id: item.get("must", ())})[host_id]

    site.listening["h1"] = (22, 80, 50000)
    assert site.run() == []
    assert of("h1").ports == [22, 80]
    assert of("h1").binds == {22: ("0.0.0.0",), 80: ("0.0.0.0",)}
    site.config = parse_config("declared: [{port: 50000}]")
    assert of("h1").ports == [22, 80, 50000]
    site.listening["h1"] = (22, 80)
    assert ("down", "h1", 50000) in site.run()
    # A host is not asked twice for a port that is down.
    assert of("h1").ports == [22, 80]


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────


def sweep(site: Site, run: Run, *, fail: Collection[str] = (), miss: Collection[str] = ()) -> list[str]:
    """Plan a sweep and carry it out; the hosts that then get a task of their own."""
    digest = site.fetch(run).digest
    batches = plan_sweep(site.database, site.config, run, digest, proxy_of=lambda _: None, now=site.now)
    for item in batches:
        assert len(json.dumps(item)) < 120
        with site.database.begin() as conn:
            failing = hosts.failing(conn)
            looks = []
            for host in batch_of(conn, item).hosts:
                look = dataclasses.replace(site.observation(host.id), run_id=run.run_id)
                if host.id in fail:
                    failed = {"outcome": Outcome.UNREACHABLE, "error_class": "timeout", "error": "no answer"}
                    look = dataclasses.replace(look, listing=None, provisional=host.id not in failing, **failed)
                if host.id not in miss:
                    looks.append(look)
            archive.save_observations(conn, looks)
    return [item["id"] for item in plan_hosts(site.database, site.config, run, digest, swept={} if batches else None)]


def test_few_hosts_are_not_swept(site: Site) -> None:
    site.config = parse_config("scan: {sweep_above: 6}")
    assert sweep(site, site.run_of()) == ["h0", "h1", "h2", "h3", "h4", "h5"]


def test_only_what_fails_newly_gets_a_task_after_a_sweep(site: Site) -> None:
    site.config = parse_config("scan: {sweep_above: 5}")
    run = site.run_of()
    fetched = site.fetch(run)
    assert sweep(site, run, fail={"h1", "h2"}) == ["h1", "h2"]
    # h1's own task gives evidence; that of h2 is killed.
    with site.database.begin() as conn:
        own = dataclasses.replace(site.observation("h1"), observed_at=site.now + timedelta(seconds=10))
        archive.save_observation(conn, own)
    site.evaluate(run, fetched, site.plan(run, fetched))
    with site.database.begin() as conn:
        assert hosts.failing(conn) == {"h2": "timeout"}
    site.number += 1
    # The second time it is no news.
    run = site.run_of()
    assert sweep(site, run, fail={"h2", "h3"}) == ["h3"]
    site.evaluate(run, site.fetch(run), site.plan(run, fetched))
    assert [(kind, host) for kind, host, _ in site.told(run.run_id)] == [("unreachable", "h2")]


def test_what_no_task_is_left_for_counts_as_the_sweep_saw_it(site: Site) -> None:
    site.config = parse_config("scan: {sweep_above: 1, max_host_tasks: 2}\nstates: {unreachable_after: 1}")
    run = site.run_of()
    # Those come first of which nothing is known at all.
    assert sweep(site, run, fail={"h1", "h2"}, miss={"h5"}) == ["h1", "h5"]
    fetched = site.fetch(run)
    summary = site.evaluate(run, fetched, site.plan(run, fetched))
    assert {host for kind, host, _ in site.told(run.run_id) if kind == "unreachable"} == {"h1", "h2"}
    assert summary["not_scanned"] == 1


def test_a_sweep_that_is_cleared_looks_again(site: Site) -> None:
    site.config = parse_config("scan: {sweep_above: 1}")
    run = site.run_of()
    assert sweep(site, run) == []
    fetched = site.fetch(run)
    with site.database.begin() as conn:
        assert len(archive.observed(conn, run.run_id, unevaluated=True)) == 6
    site.evaluate(run, fetched, site.plan(run, fetched))
    with site.database.begin() as conn:
        assert archive.observed(conn, run.run_id, unevaluated=True) == {}
        assert len(archive.observed(conn, run.run_id)) == 6
    # What is seen by then counts, also if it is worse.
    site.number += 1
    assert sweep(site, run, fail={"h4"}) == ["h4"]


def test_a_changed_host_key_is_one_event_until_it_is_trusted_again(site: Site) -> None:
    def scan(error_class: str | None) -> list[tuple[Any, ...]]:
        run = site.run_of()
        fetched = site.fetch(run)
        plan = site.plan(run, fetched)
        with site.database.begin() as conn:
            good = site.observation("h1")
            bad = Observation(
                "h1", run.run_id, 1, site.now, Outcome.UNREACHABLE, error_class=error_class, error="changed"
            )
            archive.save_observation(conn, bad if error_class else good)
        site.evaluate(run, fetched, plan)
        site.number += 1
        return [event for event in site.told(run.run_id) if event[0].startswith("host_key")]

    assert scan("host_key_changed") == [("host_key_changed", "h1", None)]
    assert scan("host_key_changed") == []
    assert scan(None) == [("host_key_restored", "h1", None)]


def test_the_archive_says_what_a_run_went_by(site: Site) -> None:
    from portmon.storage import contents, runs

    with site.database.begin() as conn:
        (run,) = runs.last(conn, 1)
        assert [host.id for host in inventory.load(conn, run["inventory"]).hosts] == [f"h{n}" for n in range(6)]
        assert b'"down_after":1' in contents.get(conn, run["settings"])
        assert archive.latest_frames(conn, "h1") == (b"raw",)
