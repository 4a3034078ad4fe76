"""``python -m portmon``: what operators do outside a run.

``parse`` needs no configuration and no Airflow; the other commands read both.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from portmon.errors import CommandError, PortmonError

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
        # Several mistakes are several lines; what a CMDB sent may be part of them.
        print("error: " + "\n".join(map(_visible, str(error).splitlines())), file=sys.stderr)
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
    from portmon.channels import check_channel
    from portmon.cmdb.presets import queries
    from portmon.config import FileSources, format_duration, ssh_settings

    problems: list[str] = []
    source = settings.cmdb.source
    _print(f"configuration  {shown}")
    schedule = airflow_settings.schedule()
    _print(f"schedule       {'manual runs only' if schedule is None else schedule}")
    if isinstance(source, FileSources):
        path = (_base(settings) / source.path).resolve()
        _print(f"hosts from     {path}{' (Ansible inventory)' if source.type == 'ansible' else ''}")
        if not path.is_file():
            problems.append(f"{settings.where('cmdb', 'source', 'path')}: {path} does not exist")
    else:
        for query in queries(source):
            paging = query.http.pagination.style
            _print(
                f"hosts from     HTTP connection {source.conn_id}, {query.http.endpoint or '/'} "
                f"({source.type}, paging: {paging})"
            )
            if paging != "none" and query.http.total is None:
                _print(
                    "  recommended: cmdb.source.total, if an answer tells the number of entries; without it a list "
                    "that lost some on the way is believed"
                )
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
    for number, item in enumerate(settings.declared):
        comment = f"  # {item.comment}" if item.comment else ""
        _print(f"must listen    {settings.where('declared', number)}: {_match(item)}{comment}")
    states = settings.states
    _print(
        f"verdicts       port down after {states.down_after} run(s), host unreachable after "
        f"{states.unreachable_after}, ephemeral port watched after {states.ephemeral_after}; flapping from "
        f"{states.flap_threshold} changes in {format_duration(states.flap_window)}; "
        f"{format_duration(states.reboot_grace)} of grace after a reboot; retired after "
        f"{format_duration(states.retire_after)}"
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


@app.command("hosts")
def list_hosts(
    config: ConfigOption = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Show what the CMDB gives now, and what would follow for the hosts that are known. Changes nothing.

    The JSON is one object: `source`; `hosts` with `id`, `name`, `address`, `port`, `labels`, `declared`; `invalid`
    with `position`, `id`, `name`, `reason`; `disabled`, a number; `problem`, why a run would not use the list, or
    null; `state`, null without a state database, else `known` (number), `new`, `hide`, `resume`, `purge` (lists of
    `id` and `name`) and `refused`, why nothing would be pruned, or null.
    """
    from portmon import settings as airflow_settings
    from portmon.errors import StorageError
    from portmon.hooks import get_inventory
    from portmon.pipeline import preview

    with _logs_aside():
        settings, _ = _config(config)
        found = get_inventory(settings.cmdb, _base(settings))
        try:
            stored = preview.stored(airflow_settings.database())
        except StorageError as error:
            print(f"not compared with what is known: {_visible(error)}", file=sys.stderr)
            stored = None
    shown = preview.preview(found, stored, settings, now=datetime.now(UTC))
    if output is Format.JSON:
        # ASCII only: names from the CMDB may hold what no terminal should see.
        print(json.dumps(shown, indent=2))
    else:
        _print_hosts(shown)
    if shown["problem"]:
        print(f"error: {_visible(found.source)}: {_visible(shown['problem'])}", file=sys.stderr)
        raise SystemExit(1)


def _print_hosts(shown: dict[str, Any]) -> None:
    _print(_cell(f"hosts from {shown['source']}"))
    if shown["hosts"]:
        table = _table("id", "name", "address", "port", "declared", "labels")
        for host in shown["hosts"]:
            labels = " ".join(f"{name}={value}" for name, value in sorted(host["labels"].items()))
            declared = ",".join(map(str, host["declared"]))
            table.add_row(
                *map(_cell, (host["id"], host["name"], host["address"], host["port"], declared or None, labels))
            )
        _print(table)
    _print(f"hosts: {len(shown['hosts'])}, invalid: {len(shown['invalid'])}, disabled: {shown['disabled']}")
    for entry in shown["invalid"]:
        called = entry["name"] or entry["id"] or "-"
        _print(_cell(f"invalid: entry {entry['position']} ({called}): {entry['reason']}"))
    state = shown["state"]
    if state is None:
        return
    _print(f"known: {state['known']}")
    for verb in ("new", "hide", "resume", "purge"):
        for host in state[verb]:
            _print(_cell(f"would {'add' if verb == 'new' else verb}: {host['name']} ({host['id']})"))
    if state["refused"]:
        _print(_cell(f"would refuse to prune: {state['refused']}"))


@contextmanager
def _logs_aside() -> Iterator[None]:
    """What is logged goes to stderr: Airflow's loggers write to stdout, where it would be part of the JSON."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def _base(settings: Config) -> Path:
    """The folder that relative paths in portmon.yaml start from."""
    from portmon import settings as airflow_settings

    return (settings.path or airflow_settings.config_path()).parent


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


@app.command()
def simulate(
    history: Annotated[Path, typer.Argument(help="JSON lines, one observation each; - for stdin.")],
    config: ConfigOption = None,
    interval: Annotated[str, typer.Option(help="Time between scheduled runs.")] = "5min",
) -> None:
    """Print the events that a history of observations gives, one JSON object a line: to tune thresholds."""
    from portmon.config import parse_duration
    from portmon.simulate import simulate as run
    from portmon.simulate import to_json

    try:
        length = parse_duration(interval)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--interval") from error
    with _logs_aside():
        settings, _ = _config(config)
    with _opened(history) as lines:
        for event in run(lines, settings, interval=length, name=str(history)):
            print(to_json(event))


@contextmanager
def _opened(path: Path) -> Iterator[Iterable[str]]:
    if str(path) == "-":
        yield sys.stdin
        return
    try:
        with path.open(encoding="utf-8") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        print(f"error: {path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        raise SystemExit(1) from error


HostArgument = Annotated[str, typer.Argument(help="Name or id of the server.")]
PortArgument = Annotated[int, typer.Argument(help="TCP port.", min=1, max=65535)]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept and shown.")]
AuthorOption = Annotated[str | None, typer.Option("--author", help="Who decides; default: the system user.")]


@app.command()
def explain(host: HostArgument, port: PortArgument, config: ConfigOption = None) -> None:
    """Tell the story of one port: what it is now, why it is watched, what happened and why."""
    from portmon.pipeline.explain import explain as tell

    settings, _ = _config(config)
    for line in tell(_database(), settings, host, port, now=datetime.now(UTC)):
        _print(_cell(line))


@app.command()
def accept(host: HostArgument, port: PortArgument, reason: ReasonOption = "", author: AuthorOption = None) -> None:
    """Say that a port that is down is gone for good: the next complete answer without it retires it."""
    from portmon.storage import decisions

    with _decision(host, port) as (conn, found, known):
        if known is None or known.status != "down":
            raise CommandError(f"{found.name}: port {port} is not down; there is nothing to accept")
        if known.declared:
            raise CommandError(
                f"{found.name}: port {port} is {known.declared}; take that back, or it is down again at once"
            )
        decisions.accept(conn, found.id, port, at=datetime.now(UTC), author=_author(author), reason=reason)
    _print(_cell(f"{found.name}: port {port} is accepted as gone; the next complete answer without it retires it"))


@app.command()
def promote(
    host: HostArgument,
    port: PortArgument,
    reason: ReasonOption = "",
    author: AuthorOption = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take a promotion back.")] = False,
) -> None:
    """Say that a learned port must listen from now on, as if it were declared."""
    from portmon.storage import decisions

    with _decision(host, port) as (conn, found, _known):
        if withdraw:
            if not decisions.withdraw(conn, decisions.Decision.PROMOTED, found.id, port):
                raise CommandError(f"{found.name}: port {port} was not promoted")
        else:
            decisions.promote(conn, found.id, port, at=datetime.now(UTC), author=_author(author), reason=reason)
    _print(_cell(f"{found.name}: port {port} " + ("is no longer promoted" if withdraw else "must listen from now on")))


@app.command()
def ports(
    host: HostArgument, output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE
) -> None:
    """Show what is known of the ports of one server: learned ones and declared ones apart."""
    from portmon.frames import ports_of
    from portmon.pipeline.explain import find_host
    from portmon.storage import state

    with _database(quiet=output is Format.JSON).begin() as conn:
        found = find_host(conn, host)
        known = sorted(ports_of(state.load(conn, [found.id])[1]), key=lambda port: port.port)
    if output is Format.JSON:
        print(json.dumps([asdict(port) for port in known], default=str, indent=2))
        return
    table = _table("port", "state", "since", "program", "unit", "addresses", "because")
    for port in known:
        state_ = f"{port.status}, flapping" if port.flapping_since else port.status
        lists = (", ".join(values) or None for values in (port.programs, port.units, port.addresses))
        since = f"{port.status_since:%Y-%m-%d %H:%M}"
        table.add_row(*map(_cell, (port.port, state_, since, *lists, port.declared or "learned")))
    _print(table)


@contextmanager
def _decision(host: str, port: int) -> Iterator[tuple[Any, Any, Any]]:
    """A transaction, a known server, and its port if it is known."""
    from portmon.frames import ports_of
    from portmon.pipeline.explain import find_host
    from portmon.storage import state

    with _database().begin() as conn:
        found = find_host(conn, host)
        known = next((one for one in ports_of(state.load(conn, [found.id])[1]) if one.port == port), None)
        yield conn, found, known


def _author(given: str | None) -> str:
    return given or getpass.getuser()


@db.command("upgrade")
def db_upgrade() -> None:
    """Create or migrate the state database."""
    database = _database(checked=False)
    applied = database.migrate()
    for revision in applied:
        _print(f"applied {revision}")
    _print("migrated" if applied else "up to date")


@db.command("check")
def db_check() -> None:
    """Exit 0 if the state database can be used as it is."""
    _database()
    _print("ok")


@hostkeys.command("list")
def hostkeys_list(
    changed: Annotated[bool, typer.Option("--changed", help="Only hosts that show another key than before.")] = False,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Show trusted host keys, and offered ones that were refused."""
    from portmon.storage import host_keys

    with _database(quiet=output is Format.JSON).begin() as conn:
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


def _database(*, quiet: bool = False, checked: bool = True) -> Database:
    from portmon import settings

    with _logs_aside():
        database = settings.database()
    if not quiet:
        _print(f"database {database}")
    if checked:
        with _logs_aside():
            database.check()
    return database


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cell(value: object) -> Text:
    """What a host sent, for a terminal: no markup, no control characters."""
    return Text("-" if value is None else _visible(value))


def _visible(value: object) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in str(value)
    )


def _print(what: object) -> None:
    Console(highlight=False, soft_wrap=not isinstance(what, Table), width=None if sys.stdout.isatty() else 200).print(
        Text(what) if isinstance(what, str) else what
    )
