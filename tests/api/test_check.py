"""What is said of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from portmon.api.check import OUTDATED_SHOWN, describe, problems, warnings
from portmon.config import Config, parse_config
from portmon.model.host import Host
from portmon.storage import hosts
from portmon.storage.tables import hosts as stored_hosts
from tests.api.test_alerts import NOW
from tests.worlds.alerts import open_alert

HERE = Path("/etc/portmon")


def described(text: str) -> list[str]:
    return list(describe(parse_config(text, path=HERE / "portmon.yaml"), folder=HERE))


@pytest.mark.parametrize(
    ("rules", "restricted"),
    [
        ("- {action: deny, port: 25}", None),
        ("- {action: allow, port: 443}", "every host (portmon.yaml:2: rules[0] names no host)"),
        ("- {action: allow, host: 'web*', port: 443}", "host web*"),
        (
            "- {action: allow, host: [a, b], label: {role: db}}\n- {action: deny, port: 1}\n- {action: allow, label: {x: y}}",
            "host a|b and label role=db; label x=y",
        ),
        (
            "- {action: allow, host: 'web*'}\n- {action: allow, program: sshd}",
            "every host (portmon.yaml:3: rules[1] names no host)",
        ),
    ],
)
def test_where_only_what_is_allowed_is_watched(rules: str, restricted: str | None) -> None:
    lines = [line.strip() for line in described(f"rules:\n{rules}\n") if "only what" in line]
    assert lines == ([f"only what is allowed is watched on: {restricted}"] if restricted else [])


@pytest.mark.parametrize(
    ("source", "advised"),
    [
        ("pagination: {style: page}", True),
        ("pagination: {style: offset}", True),
        ("pagination: {style: next_link}", True),
        ("pagination: {style: page}, total: count", False),
        ("pagination: {style: none}", False),
    ],
)
def test_a_total_is_recommended_where_there_are_pages(source: str, advised: bool) -> None:
    lines = described(f"cmdb: {{source: {{type: http, {source}}}}}\n")
    assert any("cmdb.source.total" in line for line in lines) is advised


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{type: netbox}", "api/virtualization/virtual-machines/ (netbox, paging: offset)"),
        ("{type: http_sd, endpoint: t}", "t (http_sd, paging: none)"),
        ("{type: ansible, path: hosts}", "/etc/portmon/hosts (Ansible inventory)"),
    ],
)
def test_every_source_is_shown(source: str, shown: str) -> None:
    assert any(shown in line for line in described(f"cmdb: {{source: {source}}}"))


def test_everything_is_shown() -> None:
    text = """\
cmdb: {source: {type: file, path: hosts.csv}}
ssh: {groups: [{name: db, match: {host: 'db*'}, conn_id: other}]}
rules: [{action: deny, port: 25, comment: mail}]
declared: [{host: web1, port: 443, comment: the shop}]
alerts: {repeat_every: 0s, outage_label: site, channels: []}
"""
    assert described(text) == [
        "hosts from     /etc/portmon/hosts.csv",
        "pruning        data kept 1d, refused above 20%; stale after 1h",
        "logins         16 at a time, host keys accept-new, connection ssh_default",
        "  group db: host db* -> connection other",
        "rules          1, first match wins",
        "  portmon.yaml:3: rules[0]: deny port 25  # mail",
        "must listen    portmon.yaml:4: declared[0]: host web1 and port 443  # the shop",
        "states         port down after 1 run, host unreachable after 2, ephemeral port watched after 3; flapping from "
        "4 changes in 1h; 10m of grace after a reboot; retired after 30d",
        "channels       none: events are kept, but not sent",
        "routes         none",
        "  default: what no route matches -> nobody",
        "delivery       no reminders, given up after 1d",
        "outage         from 50% of a site (label site)",
        "heartbeat      none: no alarm if Airflow stops",
        "templates      those of portmon",
        "retention      observations 14d",
    ]


def test_ways_and_old_algorithms_are_shown() -> None:
    text = """\
ssh:
  groups:
    - {name: dmz, match: {host: 'dmz*'}, jump: [ssh_outer, ssh_inner]}
    - {name: old, match: {host: 'old*'}, algorithms: legacy}
"""
    assert described(text)[2:5] == [
        "logins         16 at a time, host keys accept-new, connection ssh_default",
        "  group dmz: host dmz* -> connection ssh_default through ssh_outer, ssh_inner",
        "  group old: host old* -> connection ssh_default, also with old algorithms",
    ]
    (warning,) = (line for line in described("ssh: {algorithms: {macs: hmac-md5}}") if line.startswith("warning"))
    assert "ssh.algorithms" in warning


def test_problems(tmp_path: Path) -> None:
    text = """\
cmdb: {source: {type: file, path: hosts.csv}}
alerts:
  channels: [{type: log, name: chat}, {type: log, name: pager}]
  routes: [{name: all, channels: [chat]}, {name: db, match: {port: 5432}, channels: [pager]}]
  templates: own
"""
    config = parse_config(text, path=tmp_path / "portmon.yaml")
    missing, unreachable, templates = problems(config, folder=tmp_path)
    assert missing == f"portmon.yaml:1: cmdb.source.path: {tmp_path}/hosts.csv does not exist"
    assert unreachable.startswith("portmon.yaml:4: alerts.routes[1]: nothing reaches the route 'db'")
    assert f"{tmp_path}/own: there is no such folder" in templates
    assert "  channel pager gets nothing" in describe(config, folder=tmp_path)
    assert list(problems(Config(), folder=tmp_path)) == []


def test_warnings(conn: Connection) -> None:
    assert list(warnings(conn, Config())) == []
    open_alert(conn, 1, NOW, channels={"pager": "delivered"})
    many = [Host(f"n{number}", f"n{number:02}", "10.0.0.1") for number in range(OUTDATED_SHOWN + 2)]
    hosts.sync(conn, many)
    conn.execute(update(stored_hosts).where(stored_hosts.c.host_id.like("n%")).values(probe=1))
    outdated, forgotten = warnings(conn, Config())
    assert outdated.startswith("forced commands of an earlier version do not say how a tool ended: install the script")
    assert outdated.endswith(
        "prints on " + ", ".join(f"n{number:02}" for number in range(OUTDATED_SHOWN)) + " and 2 more"
    )
    assert (
        forgotten == "channels that are gone were notified of open alerts and will get no resolved message: pager (1)"
    )
