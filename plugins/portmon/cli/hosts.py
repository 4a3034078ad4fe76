"""``hosts``: what the CMDB gives."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from portmon.cli.options import ConfigOption, Format, FormatOption, base_folder, config_of
from portmon.cli.terminal import cell, logs_aside, say, table_of, visible


def list_hosts(
    config: ConfigOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what the CMDB gives now, and what would follow for the hosts that are known. Changes nothing.

    The JSON is one object: `source`; `hosts` with `id`, `name`, `address`, `port`, `labels`, `declared`; `invalid`
    with `position`, `id`, `name`, `reason`; `disabled`, a number; `problem`, why a run would not use the list, or
    null; `state`, null without a state database, else `known` (number), `new`, `hide`, `resume`, `purge` (lists of
    `id` and `name`) and `refused`, why nothing would be pruned, or null.
    """
    from portmon.airflow import settings as airflow_settings
    from portmon.airflow.cmdb_hook import get_inventory
    from portmon.api import preview
    from portmon.errors import ConfigError, StorageError, UnansweredError

    with logs_aside():
        settings, _ = config_of(config)
        found = get_inventory(settings.cmdb, base_folder(settings))
        try:
            stored = preview.stored(airflow_settings.database())
        except (ConfigError, StorageError, UnansweredError) as error:
            print(f"not compared with what is known: {visible(error)}", file=sys.stderr)
            stored = None
    shown = preview.preview(found, stored, settings, now=datetime.now(UTC))
    if output is Format.JSON:
        # ASCII only: names from the CMDB may hold what no terminal should see.
        print(json.dumps(shown, indent=2))
    else:
        _print_hosts(shown)
    if shown["problem"]:
        print(f"error: {visible(found.source)}: {visible(shown['problem'])}", file=sys.stderr)
        raise SystemExit(1)


def _print_hosts(shown: dict[str, Any]) -> None:
    say(cell(f"hosts from {shown['source']}"))
    if shown["hosts"]:
        table = table_of("id", "name", "address", "port", "declared", "labels")
        for host in shown["hosts"]:
            labels = " ".join(f"{name}={value}" for name, value in sorted(host["labels"].items()))
            declared = ",".join(map(str, host["declared"]))
            table.add_row(
                *map(cell, (host["id"], host["name"], host["address"], host["port"], declared or None, labels))
            )
        say(table)
    say(f"hosts: {len(shown['hosts'])}, invalid: {len(shown['invalid'])}, disabled: {shown['disabled']}")
    for entry in shown["invalid"]:
        called = entry["name"] or entry["id"] or "-"
        say(cell(f"invalid: entry {entry['position']} ({called}): {entry['reason']}"))
    state = shown["state"]
    if state is None:
        return
    say(f"known: {state['known']}")
    for verb in ("new", "hide", "resume", "purge"):
        for host in state[verb]:
            say(cell(f"would {'add' if verb == 'new' else verb}: {host['name']} ({host['id']})"))
    if state["refused"]:
        say(cell(f"would refuse to prune: {state['refused']}"))
