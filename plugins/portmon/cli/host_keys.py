"""``hostkeys``: SSH host keys."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from portmon.cli.options import Format, FormatOption, open_database
from portmon.cli.terminal import cell, say, table_of

hostkeys = typer.Typer(help="SSH host keys that were trusted on first use.", no_args_is_help=True)


@hostkeys.command("list")
def hostkeys_list(
    changed: Annotated[bool, typer.Option("--changed", help="Only hosts that show another key than before.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show trusted host keys, and offered ones that were refused."""
    from portmon.storage import host_keys

    with open_database(quiet=output is Format.JSON).begin() as conn:
        keys = host_keys.list_all(conn)
    if changed:
        refused = {key.endpoint for key in keys if not key.trusted}
        keys = [key for key in keys if key.endpoint in refused]
    if output is Format.JSON:
        print(json.dumps([asdict(key) for key in keys], default=str, indent=2))
        return
    table = table_of("endpoint", "key", "fingerprint", "", "first seen")
    for key in keys:
        state = "trusted" if key.trusted else "offered, refused"
        table.add_row(*map(cell, (key.endpoint, key.key_type, key.fingerprint, state, f"{key.first_seen:%Y-%m-%d}")))
    say(table)


@hostkeys.command("accept")
def hostkeys_accept(
    endpoint: Annotated[str, typer.Argument(help="As `hostkeys list` shows it, for instance '[10.0.0.7]:22'.")],
    fingerprint: Annotated[str, typer.Argument(help="Of the key that you compared, as `hostkeys list` shows it.")],
) -> None:
    """Trust the key that a host shows now. Compare the fingerprint with the host's own first."""
    from portmon.storage import host_keys

    with open_database().begin() as conn:
        accepted = host_keys.accept(conn, endpoint, fingerprint)
        offered = [key.fingerprint for key in host_keys.list_all(conn, endpoint) if not key.trusted]
    if accepted:
        say(f"{endpoint} is trusted with its new key {fingerprint}")
        return
    told = f"{endpoint} shows no other key than the trusted one; see hostkeys list"
    if offered:
        told = (
            f"{endpoint} does not show that key; it shows {', '.join(offered)} now. Nothing was accepted: compare again"
        )
    print(f"error: {cell(told)}", file=sys.stderr)
    raise SystemExit(1)
