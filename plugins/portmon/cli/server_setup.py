"""``server-setup``: what to run on the hosts, as a shell script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from portmon.errors import RequestError


def server_setup(
    user: Annotated[str, typer.Option("--user", help="Account that portmon logs in as.")] = "portmon",
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Public key: a file .pub, or its text. More than one while a key is replaced."),
    ] = None,
    authority: Annotated[
        bool,
        typer.Option(
            "--authority", help="--key is that of an authority: certificates for the user that it signed log in."
        ),
    ] = False,
    sudo: Annotated[
        bool, typer.Option("--sudo", help="Let portmon list as root, to see the programs of other users.")
    ] = False,
    only_from: Annotated[
        str | None,
        typer.Option(
            "--from", help="Only these addresses may log in: 10.0.0.5,10.1.0.0/16. Behind a bastion, its own."
        ),
    ] = None,
    home: Annotated[str, typer.Option("--home", help="Folder of the account; default: /home/USER.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Print what takes all of it away again.")] = False,
) -> None:
    """Print a shell script that makes portmon's account on a server, with a key that can do nothing but list its ports.

    Run it as root on each server, as often as you like: `portmon server-setup --key KEY.pub | ssh root@SERVER sh`.
    The Ansible role in contrib/ansible does the same. Run it again after an upgrade whose changelog says so.
    """
    from portmon.api.server_setup import Account, removal_script, setup_script

    keys = tuple(map(_text_of, key or ()))
    account = Account(user=user, keys=keys, authority=authority, sudo=sudo, only_from=only_from, home=home)
    print(removal_script(account) if remove else setup_script(account), end="")


def _text_of(key: str) -> str:
    """The public key that an option gives or names."""
    if " " in key.strip() and not Path(key).is_file():
        return key
    path = Path(key).expanduser()
    # The private half is often named where the public one is meant.
    public = path.with_name(f"{path.name}.pub")
    if path.suffix != ".pub" and public.is_file():
        path = public
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise RequestError(f"--key: {str(path)[:200]}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"--key: {str(path)[:200]} is no text") from error
