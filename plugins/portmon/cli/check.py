"""``check``: whether portmon.yaml is right, and what it means."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from portmon.cli.options import ConfigOption, base_folder, config_of, label_options
from portmon.cli.terminal import cell, logs_aside, say, visible
from portmon.errors import CommandError, PortmonError
from portmon.model.event import AlertRole, Event, EventKind, Severity, alert_role, severity_of
from portmon.model.observation import PROTOCOL

OUTDATED_SHOWN = 20
"""Servers that one line names."""

if TYPE_CHECKING:
    from portmon.alerting.silences import Withholding
    from portmon.config import Config


def check(
    config: ConfigOption = None,
    kind: Annotated[
        EventKind | None, typer.Option("--kind", help="Example: what would get an event of this kind.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Name or id of the example's server.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of the example.", min=1, max=65535)] = None,
    program: Annotated[str | None, typer.Option("--program", help="Program of the example.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="NAME=VALUE, label of the example's server; default: those that are known of it."),
    ] = None,
    severity: Annotated[Severity | None, typer.Option("--severity", help="Default: that of the kind.")] = None,
) -> None:
    """Validate portmon.yaml and show what it means: sources, logins, rules, routes, channels.

    With --kind also who would get such an event, by which route, and whether a silence would withhold it now.
    """
    labels = {name: values[-1] for name, values in label_options(label).items()} if label else None
    if kind is None and (host, port, program, labels, severity) != (None,) * 5:
        raise typer.BadParameter(
            f"an example needs a kind; there are {', '.join(one.value for one in EventKind)}", param_hint="--kind"
        )
    if host is None and (port is not None or labels is not None):
        raise typer.BadParameter("a port and labels are those of a server; give --host too", param_hint="--host")
    settings, shown = config_of(config)
    problems = tell(settings, shown)
    if kind is not None:
        example = Event(
            id="0" * 32,
            kind=kind,
            at=datetime.now(UTC),
            run_id="",
            host_id=host,
            host_name=host,
            protocol=None if port is None else PROTOCOL,
            port=port,
            severity=severity or severity_of(kind, {}),
            program=program,
            labels=labels or {},
        )
        _tell_example(settings, example, look_up=labels is None)
    for problem in problems:
        print(f"problem: {visible(problem)}", file=sys.stderr)
    if problems:
        raise SystemExit(1)
    say("ok")


def tell(settings: Config, shown: str) -> list[str]:
    """Print what a configuration means.

    :param shown: where it came from
    :returns: what is wrong with it
    """
    from portmon.airflow import settings as airflow_settings
    from portmon.config import ssh_settings
    from portmon.fields import format_duration
    from portmon.inventory.config import FileSources
    from portmon.inventory.sources.presets import queries
    from portmon.matching import match_text

    problems: list[str] = []
    source = settings.cmdb.source
    say(f"configuration  {shown}")
    schedule = airflow_settings.schedule()
    say(f"schedule       {'manual runs only' if schedule is None else schedule}")
    if isinstance(source, FileSources):
        path = (base_folder(settings) / source.path).resolve()
        say(f"hosts from     {path}{' (Ansible inventory)' if source.type == 'ansible' else ''}")
        if not path.is_file():
            problems.append(f"{settings.where('cmdb', 'source', 'path')}: {path} does not exist")
    else:
        for query in queries(source):
            paging = query.http.pagination.style
            say(
                f"hosts from     HTTP connection {source.conn_id}, {query.http.endpoint or '/'} "
                f"({source.type}, paging: {paging})"
            )
            if paging != "none" and query.http.total is None:
                say(
                    "  recommended: cmdb.source.total, if an answer tells the number of entries; without it a list "
                    "that lost some on the way is believed"
                )
    cmdb = settings.cmdb
    say(
        f"pruning        data kept {format_duration(cmdb.prune_after)}, refused above {cmdb.max_prune_ratio:.0%}; "
        f"stale after {format_duration(cmdb.stale_after)}"
    )
    ssh = settings.ssh
    say(f"logins         {ssh.max_logins} at a time, connection {ssh.conn_id}, host keys {ssh.host_keys}")
    _tell_outdated()
    for group in ssh.groups:
        conn_id = ssh_settings(settings, group=group).conn_id
        say(f"  group {group.name}: {match_text(group.match)} -> connection {conn_id}")
    say(
        f"rules          {len(settings.rules)}, first match wins"
        if settings.rules
        else "rules          none: every listening TCP port is watched"
    )
    for number, rule in enumerate(settings.rules):
        comment = f"  # {rule.comment}" if rule.comment else ""
        say(f"  {settings.where('rules', number)}: {rule.action} {match_text(rule)}{comment}")
    restricted = _restricted(settings)
    if restricted:
        say(f"  only what is allowed is watched on: {restricted}")
    for number, item in enumerate(settings.declared):
        comment = f"  # {item.comment}" if item.comment else ""
        say(f"must listen    {settings.where('declared', number)}: {match_text(item)}{comment}")
    states = settings.states
    say(
        f"verdicts       port down after {states.down_after} run(s), host unreachable after "
        f"{states.unreachable_after}, ephemeral port watched after {states.ephemeral_after}; flapping from "
        f"{states.flap_threshold} changes in {format_duration(states.flap_window)}; "
        f"{format_duration(states.reboot_grace)} of grace after a reboot; retired after "
        f"{format_duration(states.retire_after)}"
    )
    problems += _tell_alerts(settings)
    say(f"retention      observations {format_duration(settings.retention.observations)}")
    return problems


def _tell_alerts(settings: Config) -> list[str]:
    from portmon.airflow.channels.connections import missing_connections
    from portmon.airflow.channels.sending import check_channel, whole_address
    from portmon.alerting.routes import Routes
    from portmon.fields import format_duration

    alerts = settings.alerts
    channels = ", ".join(f"{channel.name} ({channel.type})" for channel in alerts.channels)
    say(f"channels       {channels or 'none: events are kept, but not sent'}")
    problems = [
        f"{settings.where('alerts', 'channels', number)}: {text}"
        for number, channel in enumerate(alerts.channels)
        for text in check_channel(channel)
    ]
    say(f"routes         {f'{len(alerts.routes)}, first match counts' if alerts.routes else 'none'}")
    routes = Routes(alerts, where=settings.where)
    for line in routes.told():
        say(f"  {line}")
    problems += [f"{settings.where('alerts', 'routes', number)}: {why}" for number, why in routes.unreachable()]
    for name in routes.unused_channels():
        say(f"  channel {name} gets nothing")
    again = f"after {format_duration(alerts.repeat_every)}" if alerts.repeat_every else "never"
    site = f"label {alerts.outage_label}" if alerts.outage_label else "all hosts"
    say(f"delivery       told again {again}, given up after {format_duration(alerts.give_up_after)}")
    say(f"outage         from {alerts.outage_ratio:.0%} of a site ({site})")
    heartbeat = alerts.heartbeat
    if heartbeat is None:
        say("heartbeat      none: nobody hears when Airflow stands still")
    else:
        say(f"heartbeat      {heartbeat.method} to connection {heartbeat.conn_id}")
        if "://" in heartbeat.endpoint:
            problems.append(f"{settings.where('alerts', 'heartbeat')}: {whole_address(heartbeat.conn_id)}")
    with logs_aside():
        missing, hint = missing_connections(alerts)
    problems += missing
    if hint is not None:
        say(cell(f"  {hint}"))
    _tell_forgotten(settings)
    say(cell(f"templates      {base_folder(settings) / alerts.templates if alerts.templates else 'those of portmon'}"))
    if alerts.templates is not None:
        from portmon.alerting.message.check import check_templates

        problems += check_templates(base_folder(settings) / alerts.templates)
    return problems


def _tell_outdated() -> None:
    """Print which servers have a forced command of an earlier version."""
    from portmon.airflow import settings as airflow_settings
    from portmon.storage.hosts import outdated

    try:
        with logs_aside(), airflow_settings.database().look() as conn:
            names = outdated(conn) if conn else []
    except PortmonError as error:
        say(cell(f"  forced commands can't be looked up here: {error}"))
        return
    if names:
        shown = ", ".join(names[:OUTDATED_SHOWN])
        more = f" and {len(names) - OUTDATED_SHOWN} more" if len(names) > OUTDATED_SHOWN else ""
        say(
            cell(
                "  warning: forced commands of an earlier version, which do not say how a tool ended: install what "
                f"`python -m portmon probe` prints on {shown}{more}"
            )
        )


def _tell_forgotten(settings: Config) -> None:
    """Print which channels were told of what goes on and will not hear of its end, as they are not there any more."""
    from portmon.airflow import settings as airflow_settings
    from portmon.storage.deliveries import notified_elsewhere

    try:
        with logs_aside(), airflow_settings.database().look() as conn:
            found = notified_elsewhere(conn, {channel.name for channel in settings.alerts.channels}) if conn else {}
    except PortmonError as error:
        say(cell(f"  open alerts can't be looked up here: {error}"))
        return
    if found:
        names = ", ".join(f"{channel} ({count})" for channel, count in found.items())
        say(
            cell(
                f"  warning: channels that are gone were told of open alerts, nobody there hears of their end: {names}"
            )
        )


def _tell_example(settings: Config, example: Event, *, look_up: bool) -> None:
    """Print where an event would go.

    :param look_up: the labels are those that are known of its host
    """
    from portmon.alerting.routes import Routes

    event, withheld, unknown = _looked_up(example, labels=look_up)
    about = f"{event.kind.value}{'' if event.host_name is None else f' of {event.host_name}'}"
    about += "" if event.port is None else f", port {event.port}"
    about += "" if event.program is None else f", program {event.program}"
    say(cell(f"example        {about}, {event.severity.value}"))
    if unknown is not None:
        say(cell(f"  not looked up: {unknown}"))
    if event.host_name is not None:
        labels = " ".join(f"{name}={value}" for name, value in sorted(event.labels.items()))
        say(cell(f"  labels of the server: {labels or 'none'}"))
    for line in Routes(settings.alerts, where=settings.where).explain(event):
        say(cell(f"  {line}"))
    say(cell(f"  withheld now: {withheld.told() if withheld else 'no'}"))


def _looked_up(example: Event, *, labels: bool) -> tuple[Event, Withholding | None, str | None]:
    """An event with what is known of its host, what would withhold it, and why nothing is known.

    :param labels: take those of the host
    """
    from portmon.airflow import settings as airflow_settings
    from portmon.alerting.silences import InForce
    from portmon.api.explain import find_host
    from portmon.storage import alerts, silences

    now, unknown = example.at, None
    try:
        with logs_aside(), airflow_settings.database().look() as conn:
            if conn is None:
                return example, None, "there is no state database yet"
            if example.host_id is not None:
                try:
                    host = find_host(conn, example.host_id)
                    known = host.labels if labels else example.labels
                    example = replace(example, host_id=host.id, host_name=host.name, labels=known)
                except CommandError as error:
                    unknown = str(error)
            role = alert_role(example.kind, example.details)
            if role is None or role is AlertRole.RESOLVED:
                return example, None, unknown
            opened = alerts.opened(conn, [example.alert_key]) if role is AlertRole.FIRING else {}
            alert_id = opened[example.alert_key].id if opened else None
            return example, InForce(silences.current(conn, now), {}, now).withholds(example, alert_id), unknown
    except PortmonError as error:
        return example, None, str(error)


def _restricted(settings: Config) -> str:
    """Hosts on which a port is watched only if a rule allows it; empty if there are none."""
    from portmon.matching import match_text

    hosts = []
    for number, rule in enumerate(settings.rules):
        if rule.action != "allow":
            continue
        if rule.host is None and rule.label is None:
            return f"every host ({settings.where('rules', number)} names no host)"
        hosts.append(match_text((("host", rule.host), ("label", rule.label))))
    return "; ".join(dict.fromkeys(hosts))
