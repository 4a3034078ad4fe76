"""A run and its parameters, and what its steps share."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from portmon.errors import ParamError, RunError
from portmon.fields import parse_moment

HOSTS = "hosts"
DRY_RUN = "dry_run"
FORCE_PRUNE = "force_prune"
NOTIFY = "notify"
REPLAY_FROM = "replay_from"
REPLAY_TO = "replay_to"
NAMES = (HOSTS, DRY_RUN, FORCE_PRUNE, NOTIFY, REPLAY_FROM, REPLAY_TO)
BACKFILL = "backfill"
MAX_PATTERNS = 1000

TaskOf = tuple[str, int]
"""Id and map index of a mapped task."""


@dataclass(frozen=True, slots=True)
class Run:
    """One DAG run and its parameters.

    :param run_type: ``scheduled``, ``manual``, ``backfill`` or another of Airflow's
    :param logical_date: None for manual runs
    :param hosts: names, globs, ids or ``label=value``: only these are scanned, the others are neither missing nor
        pruned; empty: all
    :param dry_run: nothing is stored, nothing is sent
    :param force_prune: prune even if too many hosts are missing
    :param notify: send messages about events that a replay finds and that were not sent before
    :param replay_from: evaluate again what was observed from then on, instead of asking hosts
    :param replay_to: and before this; None: until now
    :param due: when Airflow meant to start it; long ago for a run that was cleared
    :param try_number: of the Airflow task that acts for the run, 1-based; 0 outside of Airflow
    """

    run_id: str
    run_type: str = "manual"
    logical_date: datetime | None = None
    hosts: tuple[str, ...] = ()
    dry_run: bool = False
    force_prune: bool = False
    notify: bool = False
    replay_from: datetime | None = None
    replay_to: datetime | None = None
    due: datetime | None = None
    try_number: int = 0

    @property
    def replays(self) -> bool:
        """Whether it was started as a replay. A cleared run may have to replay as well."""
        return self.run_type == BACKFILL or self.replay_from is not None

    @property
    def watches_all(self) -> bool:
        """Whether it asks every host and stores what they show, as scheduled runs do."""
        return not (self.dry_run or self.hosts or self.replays)

    def must_be_live(self) -> None:
        """Refuse to ask a host in a replay.

        :raises RunError: the run is a replay
        """
        if self.replays:
            raise RunError(
                "this run evaluates again what was seen: a port can't be looked at in the past, so no host is asked"
            )


def run_of(dag_run: Any, params: Mapping[str, Any] | None = None, *, try_number: int = 0) -> Run:
    """The run of a task.

    :param dag_run: as Airflow's tasks get it
    :param params: of the trigger form; None for a task that does not use them
    :raises ParamError: naming the parameter
    """
    params = params or {}
    if unknown := sorted(set(params) - set(NAMES)):
        raise ParamError(f"is unknown; there are {', '.join(NAMES[:-1])} and {NAMES[-1]}", field=unknown[0])
    hosts = params.get(HOSTS) or []
    if isinstance(hosts, str):
        hosts = hosts.replace(",", "\n").split("\n")
    if not isinstance(hosts, list) or not all(isinstance(item, str) for item in hosts):
        raise ParamError("give a list of names, globs or label=value", field=HOSTS)
    if len(hosts) > MAX_PATTERNS:
        raise ParamError(f"has {len(hosts)} entries; at most {MAX_PATTERNS}, use globs or labels", field=HOSTS)
    for name in (DRY_RUN, FORCE_PRUNE, NOTIFY):
        if not isinstance(params.get(name, False), bool):
            raise ParamError("must be true or false", field=name)
    run = Run(
        run_id=dag_run.run_id,
        run_type=str(getattr(dag_run.run_type, "value", dag_run.run_type)),
        logical_date=dag_run.logical_date,
        hosts=tuple(dict.fromkeys(item.strip() for item in hosts if item.strip())),
        dry_run=params.get(DRY_RUN, False),
        force_prune=params.get(FORCE_PRUNE, False),
        notify=params.get(NOTIFY, False),
        replay_from=_moment(params, REPLAY_FROM),
        replay_to=_moment(params, REPLAY_TO),
        due=getattr(dag_run, "run_after", None),
        try_number=try_number,
    )
    contradictions = (
        (params.get(HOSTS) and not run.hosts, HOSTS, "holds only blanks; leave it empty to scan every host"),
        (
            run.hosts and run.force_prune,
            FORCE_PRUNE,
            f"prunes hosts, a run with {HOSTS} never does: use one of them",
        ),
        (
            run.replay_to and not run.replay_from,
            REPLAY_TO,
            f"is the end of a time: give its beginning as {REPLAY_FROM}",
        ),
        (
            run.replay_from and run.replay_to and run.replay_to <= run.replay_from,
            REPLAY_TO,
            f"must be later than {REPLAY_FROM}",
        ),
        (
            run.notify and not run.replays,
            NOTIFY,
            f"is for runs that evaluate again what was seen: give {REPLAY_FROM}. A run that asks hosts tells what it "
            f"finds, unless it is a {DRY_RUN}",
        ),
        (run.notify and run.dry_run, NOTIFY, f"tells people, a {DRY_RUN} never does: use one of them"),
        (run.replays and run.hosts, HOSTS, "what was seen is evaluated again of every host: leave it empty"),
        (
            run.replays and run.force_prune,
            FORCE_PRUNE,
            "a run that evaluates again what was seen does not prune: leave it off",
        ),
    )
    for wrong, field, message in contradictions:
        if wrong:
            raise ParamError(message, field=field)
    return run


def _moment(params: Mapping[str, Any], name: str) -> datetime | None:
    value = params.get(name)
    if value is None or value == "":
        return None
    try:
        return parse_moment(value, UTC)
    except ValueError as error:
        raise ParamError(f"{error}; without an offset it is UTC", field=name) from None


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which takes a third of the time: what many hosts give is needed until the end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                # What is left counts as old. As new it could have all that the process loaded looked through at once.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
