"""``check``: whether portmon.yaml is right, and what it means."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from portmon.cli.options import ConfigOption, base_folder, config_of
from portmon.cli.terminal import say

if TYPE_CHECKING:
    from portmon.config import Config


def check(config: ConfigOption = None) -> None:
    """Validate portmon.yaml and show what it means: sources, logins, rules, channels."""
    problems = tell(*config_of(config))
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)
    say("ok")


def tell(settings: Config, shown: str) -> list[str]:
    """Print what a configuration means.

    :param shown: where it came from
    :returns: what is wrong with it
    """
    from portmon import settings as airflow_settings
    from portmon.cmdb.presets import queries
    from portmon.config import FileSources, format_duration, ssh_settings
    from portmon.channels import check_channel
    from portmon.rules import match_text

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
    say(
        "alerts         every group to: "
        + ", ".join(f"{channel.name} ({channel.type})" for channel in settings.alerts.channels)
    )
    for number, channel in enumerate(settings.alerts.channels):
        problems.extend(f"{settings.where('alerts', 'channels', number)}: {text}" for text in check_channel(channel))
    if not settings.alerts.channels:
        say("               nobody: events are kept, but not sent")
    say(f"retention      observations {format_duration(settings.retention.observations)}")
    return problems


def _restricted(settings: Config) -> str:
    """Hosts on which a port is watched only if a rule allows it; empty if there are none."""
    hosts = []
    for number, rule in enumerate(settings.rules):
        if rule.action != "allow":
            continue
        if rule.host is None and rule.label is None:
            return f"every host ({settings.where('rules', number)} names no host)"
        hosts.append(match_text((("host", rule.host), ("label", rule.label))))
    return "; ".join(dict.fromkeys(hosts))
