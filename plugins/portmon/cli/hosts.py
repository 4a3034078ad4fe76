"""``hosts``: the host list that the CMDB gives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from portmon.cli.options import ConfigOption, FormatOption, config_of
from portmon.cli.terminal import Format, complain, logs_to_stderr, print_json, print_table, say
from portmon.errors import CmdbError, ConfigError, StorageError, UnansweredError

if TYPE_CHECKING:
    from portmon.api.preview import PreviewView


def list_hosts(config: ConfigOption = None, output: FormatOption = Format.TABLE) -> None:
    """List the hosts that the CMDB gives now, and what the next run would do with those it knows. Changes nothing.

    The JSON is one object: `source`; `hosts` with `id`, `name`, `address`, `port`, `labels`, `declared`; `invalid`
    with `position`, `id`, `name`, `reason`; `disabled`, a number; `problem`, why a run would not use the list, or
    null; `state`, null without a state database, else `known` (number), `new`, `hide`, `resume`, `purge` (lists of
    `id` and `name`) and `refused`, why nothing would be pruned, or null.
    """
    from portmon.airflow import settings
    from portmon.airflow.cmdb_hook import get_inventory
    from portmon.api.preview import preview

    now = datetime.now(UTC)
    found, _ = config_of(config)
    with logs_to_stderr():
        inventory = get_inventory(found.cmdb, settings.folder_of(found))
        try:
            with settings.database().reading() as conn:
                shown = preview(conn, found, inventory, now=now)
        except (ConfigError, StorageError, UnansweredError) as error:
            complain(f"not compared with known hosts: {error}")
            shown = preview(None, found, inventory, now=now)
    if output is Format.JSON:
        print_json(shown.model_dump())
    else:
        _print_hosts(shown)
    if shown.problem:
        raise CmdbError(shown.problem, source=shown.source)


def _print_hosts(shown: PreviewView) -> None:
    say(f"hosts from {shown.source}")
    if shown.hosts:
        print_table(
            ("id", "name", "address", "port", "declared", "labels"),
            (
                (
                    host.id,
                    host.name,
                    host.address,
                    host.port,
                    ",".join(map(str, host.declared)) or None,
                    " ".join(f"{name}={value}" for name, value in sorted(host.labels.items())),
                )
                for host in shown.hosts
            ),
        )
    say(f"hosts: {len(shown.hosts)}, invalid: {len(shown.invalid)}, disabled: {shown.disabled}")
    for entry in shown.invalid:
        say(f"invalid: entry {entry.position} ({entry.name or entry.id or '-'}): {entry.reason}")
    state = shown.state
    if state is None:
        return
    say(f"known: {state.known}")
    for verb, hosts in (("add", state.new), ("hide", state.hide), ("resume", state.resume), ("purge", state.purge)):
        for host in hosts:
            say(f"would {verb}: {host.name} ({host.id})")
    if state.refused:
        say(f"would refuse to prune: {state.refused}")
