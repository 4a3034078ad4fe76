"""A run and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
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
    :param hosts: names, globs, ids or ``label=value``: only these are scanned; empty: all
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
    def scoped(self) -> bool:
        """Whether only some hosts are asked; the others are neither missing nor pruned."""
        return bool(self.hosts)

    def must_be_live(self) -> None:
        """Refuse to ask a host in a replay.

        :raises RunError: the run is a replay
        """
        if self.replays:
            raise RunError(
                "this run evaluates again what was seen: a port can't be looked at in the past, so no host is asked"
            )


def run_from(
    params: Mapping[str, Any],
    *,
    run_id: str,
    run_type: str,
    logical_date: datetime | None,
    due: datetime | None = None,
) -> Run:
    """Validate the parameters of the trigger form; for the others see :class:`Run`.

    :raises ParamError: naming the parameter
    """
    unknown = sorted(set(params) - set(NAMES))
    if unknown:
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
    patterns = tuple(dict.fromkeys(item.strip() for item in hosts if item.strip()))
    if params.get(HOSTS) and not patterns:
        raise ParamError("holds only blanks; leave it empty to scan every host", field=HOSTS)
    if patterns and params.get(FORCE_PRUNE):
        raise ParamError(f"prunes hosts, a run with {HOSTS} never does: use one of them", field=FORCE_PRUNE)
    begin, end = _moment(params, REPLAY_FROM), _moment(params, REPLAY_TO)
    run = Run(
        run_id=run_id,
        run_type=run_type,
        logical_date=logical_date,
        hosts=patterns,
        dry_run=params.get(DRY_RUN, False),
        force_prune=params.get(FORCE_PRUNE, False),
        notify=params.get(NOTIFY, False),
        replay_from=begin,
        replay_to=end,
        due=due,
    )
    _must_agree(run)
    return run


def _must_agree(run: Run) -> None:
    """Refuse parameters that contradict each other."""
    if run.replay_to is not None and run.replay_from is None:
        raise ParamError(f"is the end of a time: give its beginning as {REPLAY_FROM}", field=REPLAY_TO)
    if run.replay_from is not None and run.replay_to is not None and run.replay_to <= run.replay_from:
        raise ParamError(f"must be later than {REPLAY_FROM}", field=REPLAY_TO)
    if run.notify and not run.replays:
        raise ParamError(
            f"is for runs that evaluate again what was seen: give {REPLAY_FROM}. A run that asks hosts tells what it "
            f"finds, unless it is a {DRY_RUN}",
            field=NOTIFY,
        )
    if run.notify and run.dry_run:
        raise ParamError(f"tells people, a {DRY_RUN} never does: use one of them", field=NOTIFY)
    if run.replays and run.hosts:
        raise ParamError("what was seen is evaluated again of every host: leave it empty", field=HOSTS)
    if run.replays and run.force_prune:
        raise ParamError("a run that evaluates again what was seen does not prune: leave it off", field=FORCE_PRUNE)


def _moment(params: Mapping[str, Any], name: str) -> datetime | None:
    value = params.get(name)
    if value is None or value == "":
        return None
    try:
        return parse_moment(value, UTC)
    except ValueError as error:
        raise ParamError(f"{error}; without an offset it is UTC", field=name) from None
