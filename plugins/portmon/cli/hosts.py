"""``hosts`` and ``hostkeys``: the host list that the CMDB gives, and SSH host keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.cli.options import AuthorOption, ConfigOption, FormatOption, ReasonOption, act, config_of, reading
from portmon.cli.terminal import Format, complain, logs_to_stderr, print_json, print_table, print_views, say
from portmon.errors import CmdbError, ConfigError, StorageError, UnansweredError

if TYPE_CHECKING:
    from portmon.api.hosts import HostKeyView
    from portmon.api.preview import HostPreview, PreviewView

hostkeys = typer.Typer(help="SSH host keys that were trusted on first use.", no_args_is_help=True)


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
    found = config_of(config)
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
        print_table(("id", "name", "address", "port", "declared", "labels"), map(_host_row, shown.hosts))
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


def _host_row(host: HostPreview) -> tuple[object, ...]:
    labels = " ".join(f"{name}={value}" for name, value in sorted(host.labels.items()))
    return (host.id, host.name, host.address, host.port, ",".join(map(str, host.declared)) or None, labels)


@hostkeys.command("list")
def hostkeys_list(
    changed: Annotated[
        bool, typer.Option("--changed", help="Only hosts that offer another key than the trusted one.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """List trusted host keys, and keys that were offered and refused."""
    from portmon.api.hosts import list_host_keys

    with reading(quiet=output is Format.JSON) as conn:
        keys = list_host_keys(conn, changed=changed)
    print_views(keys, output, ("endpoint", "key", "fingerprint", "", "first seen"), _key_row)


@hostkeys.command("accept")
def hostkeys_accept(
    endpoint: Annotated[str, typer.Argument(help="As `hostkeys list` shows it, for instance '[10.0.0.7]:22'.")],
    fingerprint: Annotated[str, typer.Argument(help="Of the key that you compared, as `hostkeys list` shows it.")],
    author: AuthorOption,
    reason: ReasonOption = "",
) -> None:
    """Trust the key that a host offers now. Compare the fingerprint with the host's own first."""
    from portmon.api.hosts import accept_host_key

    act(accept_host_key, endpoint, fingerprint, author=author, reason=reason, now=datetime.now(UTC))


def _key_row(key: HostKeyView) -> tuple[object, ...]:
    state = "trusted" if key.trusted else "offered, refused"
    return (key.endpoint, key.key_type, key.fingerprint, state, f"{key.first_seen:%Y-%m-%d}")
