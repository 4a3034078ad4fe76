"""What portmon.yaml means, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection

from portmon.alerting.config import Alerts
from portmon.alerting.message.check import check_templates
from portmon.alerting.routes import Routes
from portmon.api.alerts import forgotten_channels
from portmon.config import Config, ssh_settings
from portmon.engine.config import Thresholds
from portmon.fields import format_duration
from portmon.matching import match_text
from portmon.model.numbers import UDP
from portmon.ssh.config import SshSettings
from portmon.storage import hosts
from portmon.text import counted

OUTDATED_SHOWN = 20
"""Hosts that one line names."""


def _way(ssh: SshSettings) -> str:
    """How hosts are logged in to."""
    through = f" through {', '.join(ssh.jump)}" if ssh.jump else ""
    old = ", also with old algorithms" if ssh.algorithms is not None else ""
    return f"connection {ssh.conn_id}{through}{old}"


def describe(config: Config, *, folder: Path) -> Iterator[str]:
    """Lines for people: each section of a configuration, in words.

    :param folder: where relative paths in it start from
    """
    for asked, recommended in config.cmdb.source.described(folder):
        yield f"hosts from     {asked}"
        if recommended is not None:
            yield f"  recommended: {recommended}"
    cmdb, ssh, states = config.cmdb, config.ssh, config.states
    yield (
        f"pruning        data kept {format_duration(cmdb.prune_after)}, refused above {cmdb.max_prune_ratio:.0%}; "
        f"stale after {format_duration(cmdb.stale_after)}"
    )
    yield f"logins         {ssh.max_logins} at a time, host keys {ssh.host_keys}, {_way(ssh)}"
    if ssh.algorithms is not None:
        yield "warning: ssh.algorithms: what only old servers need is spoken to every host; set it in a group instead"
    for group in ssh.groups:
        yield f"  group {group.name}: {match_text(group.match)} -> {_way(ssh_settings(config, group=group))}"
    yield from _udp(config)
    rules = f"{len(config.rules)}, first match wins" if config.rules else "none: every listening TCP port is watched"
    yield f"rules          {rules}"
    for number, rule in enumerate(config.rules):
        what = f"{rule.action} {match_text(rule)}{_terms(rule)}"
        yield f"  {config.where('rules', number)}: {what}{_comment(rule.comment)}"
    if restricted := _restricted(config):
        yield f"  only what is allowed is watched on: {restricted}"
    for number, item in enumerate(config.declared):
        owner = f", by {item.owner}" if item.owner else ""
        what = f"{match_text(item)}{owner}{_terms(item)}"
        yield f"must listen    {config.where('declared', number)}: {what}{_comment(item.comment)}"
    yield (
        f"states         port down after {counted(states.down_after, 'run')}, host unreachable after "
        f"{states.unreachable_after}, ephemeral port watched after {states.ephemeral_after}; flapping from "
        f"{states.flap_threshold} changes in {format_duration(states.flap_window)}; "
        f"{format_duration(states.reboot_grace)} of grace after a reboot; retired after "
        f"{format_duration(states.retire_after)}"
    )
    yield from _alerts(config.alerts, Routes(config.alerts, where=config.where))
    yield f"templates      {folder / config.alerts.templates if config.alerts.templates else 'those of portmon'}"
    yield f"retention      observations {format_duration(config.retention.observations)}"


def _udp(config: Config) -> Iterator[str]:
    """Where UDP is watched, and what a number of a port means then."""
    groups = [(f"group {one.name}", one.protocols or config.scan.protocols) for one in config.ssh.groups]
    where = [name for name, protocols in [*groups, ("all other hosts", config.scan.protocols)] if UDP in protocols]
    if where:
        yield f"UDP            watched on {', '.join(where)}"
        yield "  a number in rules, routes and silences is a TCP and a UDP port, 53/tcp or 53/udp one of them"
        yield "  a number among the ports that must listen is a TCP port, 53/udp one of UDP"


def problems(config: Config, *, folder: Path) -> Iterator[str]:
    """Mistakes of a configuration, as far as its own files show. ``folder`` is as for :func:`describe`."""
    alerts = config.alerts
    for field, problem in config.cmdb.source.problems(folder):
        yield f"{config.where('cmdb', 'source', field)}: {problem}"
    for number, why in Routes(alerts, where=config.where).unreachable():
        yield f"{config.where('alerts', 'routes', number)}: {why}"
    if alerts.templates is not None:
        yield from check_templates(folder / alerts.templates)


def warnings(conn: Connection, config: Config) -> Iterator[str]:
    """Hosts and channels in the state database that do not fit this configuration and version, with what to do."""
    if names := hosts.outdated(conn):
        more = f" and {len(names) - OUTDATED_SHOWN} more" if len(names) > OUTDATED_SHOWN else ""
        yield (
            "forced commands of an earlier version do not say how a tool ended: install the script that "
            f"`portmon probe` prints on {', '.join(names[:OUTDATED_SHOWN])}{more}"
        )
    if forgotten := forgotten_channels(conn, config):
        counts = ", ".join(f"{channel} ({count})" for channel, count in forgotten.items())
        yield f"channels that are gone were notified of open alerts and will get no resolved message: {counts}"


def _alerts(alerts: Alerts, routes: Routes) -> Iterator[str]:
    channels = ", ".join(f"{channel.name} ({channel.type})" for channel in alerts.channels)
    yield f"channels       {channels or 'none: events are kept, but not sent'}"
    yield f"routes         {f'{len(alerts.routes)}, first match counts' if alerts.routes else 'none'}"
    for line in routes.told():
        yield f"  {line}"
    for name in routes.unused_channels():
        yield f"  channel {name} gets nothing"
    again = f"reminders after {format_duration(alerts.repeat_every)}" if alerts.repeat_every else "no reminders"
    yield f"delivery       {again}, given up after {format_duration(alerts.give_up_after)}"
    site = f"label {alerts.outage_label}" if alerts.outage_label else "all hosts"
    yield f"outage         from {alerts.outage_ratio:.0%} of a site ({site})"
    heartbeat = alerts.heartbeat
    pings = f"{heartbeat.method} to connection {heartbeat.conn_id}" if heartbeat else "none: no alarm if Airflow stops"
    yield f"heartbeat      {pings}"


def _terms(given: Thresholds) -> str:
    """The terms of a rule or declaration, for people."""
    values = {name: getattr(given, name) for name in Thresholds.model_fields if name in given.model_fields_set}
    shown = (
        f"{name} {format_duration(value) if isinstance(value, timedelta) else value}" for name, value in values.items()
    )
    return f" ({', '.join(shown)})" if values else ""


def _comment(text: str | None) -> str:
    return f"  # {text}" if text else ""


def _restricted(config: Config) -> str:
    """Hosts on which a port is watched only if a rule allows it."""
    found = []
    for number, rule in enumerate(config.rules):
        if rule.action == "allow":
            if rule.host is None and rule.label is None:
                return f"every host ({config.where('rules', number)} names no host)"
            found.append(match_text((("host", rule.host), ("label", rule.label))))
    return "; ".join(dict.fromkeys(found))
