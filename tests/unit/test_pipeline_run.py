"""Parameters of the trigger form."""

from __future__ import annotations

from typing import Any

import pytest

from portmon.errors import ParamError, RunError
from portmon.pipeline.run import Run, run_from


def parse(**params: Any) -> Run:
    return run_from(params, run_id="r", run_type="manual", logical_date=None)


def test_nothing_given_is_a_run_over_every_host() -> None:
    run = parse()
    assert (run.hosts, run.dry_run, run.force_prune, run.scoped) == ((), False, False, False)


@pytest.mark.parametrize(
    "hosts", [["web*", "env=prod"], "web*,env=prod", "web*\nenv=prod\n", [" web* ", "env=prod", "web*"]]
)
def test_hosts_come_as_list_or_text(hosts: Any) -> None:
    run = parse(hosts=hosts)
    assert run.hosts == ("web*", "env=prod")
    assert run.scoped


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
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], field: str) -> None:
    with pytest.raises(ParamError, match=f"run parameter '{field}'") as caught:
        parse(**params)
    assert caught.value.field == field


def test_a_backfill_run_looks_at_nothing() -> None:
    with pytest.raises(RunError, match="no host is asked and no state is changed"):
        Run("r", run_type="backfill").must_be_live()
    for run_type in ("manual", "scheduled", "asset_triggered", "operator_triggered"):
        Run("r", run_type=run_type).must_be_live()
