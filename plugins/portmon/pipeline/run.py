"""What a run was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from portmon.errors import ParamError, RunError

HOSTS = "hosts"
DRY_RUN = "dry_run"
FORCE_PRUNE = "force_prune"
MAX_PATTERNS = 1000


@dataclass(frozen=True, slots=True)
class Run:
    """One DAG run and its parameters.

    :param run_id: Airflow's
    :param run_type: ``scheduled``, ``manual``, ``backfill`` or another of Airflow's
    :param logical_date: None for manual runs
    :param hosts: names, globs, ids or ``label=value``: only these are scanned; empty: all
    :param dry_run: nothing is kept, nothing is sent
    :param force_prune: prune although it looks like too many
    """

    run_id: str
    run_type: str = "manual"
    logical_date: datetime | None = None
    hosts: tuple[str, ...] = ()
    dry_run: bool = False
    force_prune: bool = False

    @property
    def scoped(self) -> bool:
        """Whether only some hosts are looked at; the others are neither missing nor pruned."""
        return bool(self.hosts)

    def must_be_live(self) -> None:
        """Refuse to look at the present in the name of the past.

        :raises RunError: for a backfill run
        """
        if self.run_type == "backfill":
            raise RunError(
                "this is a backfill run: a port can't be looked at in the past, so no host is asked and no state "
                "is changed. The archived observations of that time are untouched; judging them again (replay) is "
                "not part of this version"
            )


def run_from(params: Mapping[str, Any], *, run_id: str, run_type: str, logical_date: datetime | None) -> Run:
    """Validate the parameters of the trigger form.

    :raises ParamError: naming the parameter
    """
    unknown = sorted(set(params) - {HOSTS, DRY_RUN, FORCE_PRUNE})
    if unknown:
        raise ParamError(f"is unknown; there are {HOSTS}, {DRY_RUN} and {FORCE_PRUNE}", field=unknown[0])
    hosts = params.get(HOSTS) or []
    if isinstance(hosts, str):
        hosts = hosts.replace(",", "\n").split("\n")
    if not isinstance(hosts, list) or not all(isinstance(item, str) for item in hosts):
        raise ParamError("give a list of names, globs or label=value", field=HOSTS)
    if len(hosts) > MAX_PATTERNS:
        raise ParamError(f"has {len(hosts)} entries; at most {MAX_PATTERNS}, use globs or labels", field=HOSTS)
    for name in (DRY_RUN, FORCE_PRUNE):
        if not isinstance(params.get(name, False), bool):
            raise ParamError("must be true or false", field=name)
    patterns = tuple(dict.fromkeys(item.strip() for item in hosts if item.strip()))
    if params.get(HOSTS) and not patterns:
        raise ParamError("holds only blanks; leave it empty to scan every host", field=HOSTS)
    if patterns and params.get(FORCE_PRUNE):
        raise ParamError(f"prunes hosts, a run with {HOSTS} never does: use one of them", field=FORCE_PRUNE)
    return Run(
        run_id=run_id,
        run_type=run_type,
        logical_date=logical_date,
        hosts=patterns,
        dry_run=params.get(DRY_RUN, False),
        force_prune=params.get(FORCE_PRUNE, False),
    )
