"""``python -m portmon``: what operators do outside a run.

``parse`` needs no configuration and no Airflow; the other commands read both.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from portmon.errors import PortmonError

if TYPE_CHECKING:
    from portmon.config import Config
    from portmon.storage.database import Database

app = typer.Typer(
    help="Which service processes died on my servers, seen from their listening ports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
db = typer.Typer(help="The state database (Airflow connection portmon_db).", no_args_is_help=True)
hostkeys = typer.Typer(help="SSH host keys that were trusted on first use.", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(hostkeys, name="hostkeys")


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="portmon.yaml; default: the one that the DAG uses.")
]


def main() -> None:
    """Run the command line; errors of portmon end with exit code 1 and one message."""
    # Connections that are kept in Airflow's own database are found as well, not only those in the environment.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    with _told():
        app()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except PortmonError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


@app.command()
def parse(
    file: Annotated[
        Path | None, typer.Argument(help="What netstat, ss or /proc/net/tcp printed; default: stdin.")
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Show the listening ports in the output of netstat, ss or /proc/net/tcp."""
    from portmon.netstat import parse_listeners

    try:
        data = file.read_bytes() if file and str(file) != "-" else sys.stdin.buffer.read()
    except OSError as error:
        print(f"error: {file}: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from error
    listeners = parse_listeners(data)
    if output is Format.JSON:
        # ASCII only: names from hosts may hold what no terminal should see.
        print(json.dumps([asdict(listener) for listener in listeners], indent=2))
        return
    table = _table("proto", "address", "port", "pid", "program")
    for listener in listeners:
        address = f"{listener.address}%{listener.zone}" if listener.zone else listener.address
        table.add_row(*map(_cell, (listener.protocol, address, listener.port, listener.pid, listener.program)))
    _print(table)
    _print(f"{len(listeners)} listening")


@app.command()
def probe(
    sudo: Annotated[bool, typer.Option("--sudo", help="List with `sudo -n` where that is allowed.")] = False,
) -> None:
    """Print the probe as a script for a forced command on the servers."""
    from portmon.probe import script

    print(script(sudo=sudo), end="")


@app.command()
def check(config: ConfigOption = None) -> None:
    """Validate portmon.yaml and show what it means: sources, logins, rules, channels."""
    problems = _check(*_config(config))
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)
    _print("ok")


def _check(settings: Config, shown: str) -> list[str]:
    from portmon import settings as airflow_settings
    from portmon.config import format_duration, ssh_settings
    from portmon.notify import check_channel

    problems: list[str] = []
    source = settings.cmdb.source
    _print(f"configuration  {shown}")
    schedule = airflow_settings.schedule()
    _print(f"schedule       {'manual runs only' if schedule is None else schedule}")
    if source.type == "http":
        paging = source.pagination.style
        _print(f"hosts from     HTTP connection {source.conn_id}, {source.endpoint or '/'} (paging: {paging})")
        if paging != "none" and source.total is None:
            _print(
                "  recommended: cmdb.source.total, if an answer tells the number of entries; without it a list that "
                "lost some on the way is believed"
            )
    else:
        path = ((settings.path.parent if settings.path else Path()) / source.path).resolve()
        _print(f"hosts from     {path}")
        if not path.is_file():
            problems.append(f"{settings.where('cmdb', 'source', 'path')}: {path} does not exist")
    cmdb = settings.cmdb
    _print(
        f"pruning        data kept {format_duration(cmdb.prune_after)}, refused above {cmdb.max_prune_ratio:.0%}; "
        f"stale after {format_duration(cmdb.stale_after)}"
    )
    ssh = settings.ssh
    _print(f"logins         {ssh.max_logins} at a time, connection {ssh.conn_id}, host keys {ssh.host_keys}")
    for group in ssh.groups:
        _print(
            f"  group {group.name}: {_match(group.match)} -> connection {ssh_settings(settings, group=group).conn_id}"
        )
    _print(
        f"rules          {len(settings.rules)}, first match wins"
        if settings.rules
        else "rules          none: every listening TCP port is watched"
    )
    for number, rule in enumerate(settings.rules):
        comment = f"  # {rule.comment}" if rule.comment else ""
        _print(f"  {settings.where('rules', number)}: {rule.action} {_match(rule)}{comment}")
    restricted = _restricted(settings)
    if restricted:
        _print(f"  only what is allowed is watched on: {restricted}")
    states = settings.states
    _print(
        f"verdicts       port down after {states.down_after} run(s), host unreachable after "
        f"{states.unreachable_after}, ephemeral port watched after {states.ephemeral_after}"
    )
    _print(
        "alerts         every group to: "
        + ", ".join(f"{channel.name} ({channel.type})" for channel in settings.alerts.channels)
    )
    for number, channel in enumerate(settings.alerts.channels):
        problems.extend(f"{settings.where('alerts', 'channels', number)}: {text}" for text in check_channel(channel))
    if not settings.alerts.channels:
        _print("               nobody: events are kept, but not sent")
    _print(f"retention      observations {format_duration(settings.retention.observations)}")
    return problems


def _restricted(settings: Config) -> str:
    """Hosts on which a port is watched only if a rule allows it; empty if there are none."""
    hosts = []
    for number, rule in enumerate(settings.rules):
        if rule.action != "allow":
            continue
        if rule.host is None and rule.label is None:
            return f"every host ({settings.where('rules', number)} names no host)"
        hosts.append(_match((("host", rule.host), ("label", rule.label))))
    return "; ".join(dict.fromkeys(hosts))


def _match(match: Iterable[tuple[str, Any]]) -> str:
    parts: list[str] = []
    for name, value in match:
        if name in ("action", "comment") or value is None:
            continue
        if name == "label":
            parts.extend(f"label {key}={'|'.join(globs)}" for key, globs in value.items())
        elif name == "port":
            parts.append("port " + ",".join(str(low) if low == high else f"{low}-{high}" for low, high in value))
        else:
            parts.append(f"{name} {'|'.join(value)}")
    return " and ".join(parts) or "every host"


@db.command("upgrade")
def db_upgrade() -> None:
    """Create or migrate the state database."""
    database = _database()
    applied = database.migrate()
    for revision in applied:
        _print(f"applied {revision}")
    _print("migrated" if applied else "up to date")


@db.command("check")
def db_check() -> None:
    """Exit 0 if the state database can be used as it is."""
    _database().check()
    _print("ok")


@hostkeys.command("list")
def hostkeys_list(
    changed: Annotated[bool, typer.Option("--changed", help="Only hosts that show another key than before.")] = False,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Show trusted host keys, and offered ones that were refused."""
    from portmon.storage import host_keys

    with _database().begin() as conn:
        keys = host_keys.list_all(conn)
    if changed:
        refused = {key.endpoint for key in keys if not key.trusted}
        keys = [key for key in keys if key.endpoint in refused]
    if output is Format.JSON:
        print(json.dumps([asdict(key) for key in keys], default=str, indent=2))
        return
    table = _table("endpoint", "key", "fingerprint", "", "first seen")
    for key in keys:
        state = "trusted" if key.trusted else "offered, refused"
        table.add_row(*map(_cell, (key.endpoint, key.key_type, key.fingerprint, state, f"{key.first_seen:%Y-%m-%d}")))
    _print(table)


@hostkeys.command("accept")
def hostkeys_accept(
    endpoint: Annotated[str, typer.Argument(help="As `hostkeys list` shows it, for instance '[10.0.0.7]:22'.")],
    fingerprint: Annotated[str, typer.Argument(help="Of the key that you compared, as `hostkeys list` shows it.")],
) -> None:
    """Trust the key that a host shows now. Compare the fingerprint with the host's own first."""
    from portmon.storage import host_keys

    with _database().begin() as conn:
        accepted = host_keys.accept(conn, endpoint, fingerprint)
        offered = [key.fingerprint for key in host_keys.list_all(conn, endpoint) if not key.trusted]
    if accepted:
        _print(f"{endpoint} is trusted with its new key {fingerprint}")
        return
    told = f"{endpoint} shows no other key than the trusted one; see hostkeys list"
    if offered:
        told = (
            f"{endpoint} does not show that key; it shows {', '.join(offered)} now. Nothing was accepted: compare again"
        )
    print(f"error: {_cell(told)}", file=sys.stderr)
    raise SystemExit(1)


def _config(path: Path | None) -> tuple[Config, str]:
    from portmon.config import load_config

    if path is not None:
        return load_config(path), str(path)
    from portmon import settings

    found = settings.config()
    return found, str(found.path) if found.path else "defaults (no portmon.yaml)"


def _database() -> Database:
    from portmon import settings

    database = settings.database()
    _print(f"database {database}")
    return database


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cell(value: object) -> Text:
    """What a host sent, for a terminal: no markup, no control characters."""
    if value is None:
        return Text("-")
    return Text(
        "".join(
            char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
            for char in str(value)
        )
    )


def _print(what: object) -> None:
    Console(highlight=False, soft_wrap=not isinstance(what, Table), width=None if sys.stdout.isatty() else 200).print(
        Text(what) if isinstance(what, str) else what
    )
