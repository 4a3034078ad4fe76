"""Parameters of the trigger form."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from portmon.errors import ParamError, RunError
from portmon.steps.run import Run, run_of, uncollected


def parse(run_type: str = "manual", **params: Any) -> Run:
    return run_of(SimpleNamespace(run_id="r", run_type=run_type, logical_date=None), params)


def test_nothing_given_is_a_run_over_every_host() -> None:
    run = parse()
    assert (run.hosts, run.dry_run, run.force_prune) == ((), False, False)


@pytest.mark.parametrize(
    "hosts", [["web*", "env=prod"], "web*,env=prod", "web*\nenv=prod\n", [" web* ", "env=prod", "web*"]]
)
def test_hosts_come_as_list_or_text(hosts: Any) -> None:
    run = parse(hosts=hosts)
    assert run.hosts == ("web*", "env=prod")


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"hosts": 3}, "hosts"),
        ({"hosts": [3]}, "hosts"),
        ({"hosts": ["  "]}, "hosts"),
        ({"hosts": [str(n) for n in range(1001)]}, "hosts"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"force_prune": 1}, "force_prune"),
        ({"force_prune": True, "hosts": ["a"]}, "force_prune"),
        ({"dryrun": True}, "dryrun"),
        ({"notify": "yes", "replay_from": "2026-01-01"}, "notify"),
        ({"notify": True}, "notify"),
        ({"notify": True, "dry_run": True, "replay_from": "2026-01-01"}, "notify"),
        ({"replay_from": "yesterday"}, "replay_from"),
        ({"replay_from": 3}, "replay_from"),
        ({"replay_to": "2026-01-01"}, "replay_to"),
        ({"replay_from": "2026-01-02", "replay_to": "2026-01-02"}, "replay_to"),
        ({"replay_from": "2026-01-02", "hosts": ["a"]}, "hosts"),
        ({"replay_from": "2026-01-02", "force_prune": True}, "force_prune"),
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], field: str) -> None:
    with pytest.raises(ParamError, match=f"run parameter '{field}'") as caught:
        parse(**params)
    assert caught.value.field == field


def test_a_run_that_evaluates_again_asks_no_host() -> None:
    for run in (Run("r", run_type="backfill"), parse(replay_from="2026-01-01T00:00:00Z")):
        assert run.replays
        with pytest.raises(RunError, match="no host is asked"):
            run.must_be_live()
    for run_type in ("manual", "scheduled", "asset_triggered", "operator_triggered"):
        Run("r", run_type=run_type).must_be_live()


def test_times_of_a_replay_are_utc_unless_they_say_otherwise() -> None:
    run = parse(replay_from=" 2026-01-02T04:00 ", replay_to="2026-01-02T06:00+01:00", notify=True)
    assert (run.replay_from, run.replay_to) == (
        datetime(2026, 1, 2, 4, tzinfo=UTC),
        datetime(2026, 1, 2, 5, tzinfo=UTC),
    )
    assert run.notify
    # The form sends what is left empty.
    assert not parse(replay_from=None, replay_to="", notify=False).replays


def test_a_backfill_run_may_be_told_to_notify() -> None:
    assert parse("backfill", notify=True).notify
    with pytest.raises(ParamError, match="'hosts'"):
        parse("backfill", hosts=["a"])


def test_nothing_is_collected_while_many_hosts_are_worked_on_nor_right_after() -> None:
    looked_through: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        looked_through.append(info["generation"])

    gc.callbacks.append(note)
    try:
        with uncollected():
            made = [[number] for number in range(gc.get_threshold()[0] * 30)]
        made.append([])
        assert not looked_through
        assert gc.isenabled()
        made += [[number] for number in range(gc.get_threshold()[0] * 2)]
        assert looked_through
    finally:
        gc.callbacks.remove(note)


def test_what_a_process_has_frozen_stays_so() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with uncollected():
            pass
        assert gc.get_freeze_count() == before
    finally:
        gc.unfreeze()
