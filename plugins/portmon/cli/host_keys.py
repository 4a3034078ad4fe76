"""``hostkeys``: SSH host keys."""

from __future__ import annotations

from typing import Annotated

import typer

from portmon.cli.options import FormatOption, reading, writing
from portmon.cli.terminal import Format, print_views, say

hostkeys = typer.Typer(help="SSH host keys that were trusted on first use.", no_args_is_help=True)


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
    print_views(
        keys,
        output,
        ("endpoint", "key", "fingerprint", "", "first seen"),
        lambda key: (
            key.endpoint,
            key.key_type,
            key.fingerprint,
            "trusted" if key.trusted else "offered, refused",
            f"{key.first_seen:%Y-%m-%d}",
        ),
    )


@hostkeys.command("accept")
def hostkeys_accept(
    endpoint: Annotated[str, typer.Argument(help="As `hostkeys list` shows it, for instance '[10.0.0.7]:22'.")],
    fingerprint: Annotated[str, typer.Argument(help="Of the key that you compared, as `hostkeys list` shows it.")],
) -> None:
    """Trust the key that a host offers now. Compare the fingerprint with the host's own first."""
    from portmon.api.hosts import accept_host_key

    with writing() as conn:
        done = accept_host_key(conn, endpoint, fingerprint)
    say(done)
