"""portmon.yaml: mistakes are named with file, line and field; the example is the default."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.config import Config, load_config, parse_config, ssh_settings
from portmon.errors import ConfigError, InvalidConfigError
from portmon.fields import format_duration, parse_duration, parse_ports, parse_size

ROOT = Path(__file__).resolve().parents[1]


def test_the_shipped_example_is_the_default() -> None:
    assert load_config(ROOT / "config" / "portmon.yaml").model_dump() == Config().model_dump()


def test_an_empty_file_is_the_default() -> None:
    assert parse_config("").model_dump() == Config().model_dump()
    assert parse_config("cmdb:\nrules:\n").model_dump() == Config().model_dump()


RICH = """
cmdb: {source: {type: netbox, timeout: 45s}, stale_after: 90min, max_prune_ratio: 0.1}
ssh: {groups: [{name: old, match: {label: {os: [a, "b*"]}}, connect_timeout: 2s}]}
scan: {protocols: [tcp, udp], pool: logins}
states: {flap_window: 1h 30m, down_after: 2}
rules:
- {action: deny, port: [53/udp, 8000-8100, 22], program: ["ssh*", x], bind: loopback}
- {action: allow, host: "web*", comment: hello, unit: x, severity: warning, reboot_grace: 5s}
declared: [{host: web1, port: 443, owner: nginx.service}]
alerts:
  channels:
  - {type: log}
  - {type: webhook, name: hook, conn_id: c}
  routes:
  - {name: a, match: {kind: [down, new], port: 1-1024, young: false}, channels: [hook], continue: true, max_lines: 3}
  heartbeat: {signals: true}
retention: {observations: 3d, per_host: 5MiB}
"""


@pytest.mark.parametrize("text", ["", RICH])
def test_archived_settings_can_be_read_again(text: str) -> None:
    config = parse_config(text)
    again = parse_config(config.to_json().decode())
    assert again.model_dump() == config.model_dump()
    assert again.to_json() == config.to_json()


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("ssh:\n  max_logins: 0\n", ["portmon.yaml:2: ssh.max_logins: Input should be greater"]),
        ("ssh:\n  max_login: 1\n", ["portmon.yaml:2: ssh.max_login: unknown field; did you mean 'max_logins'?"]),
        ("foo: 1\n", ["portmon.yaml:1: foo: unknown field; known here: cmdb, ssh"]),
        (
            "alerts:\n  routes:\n    - {channels: [log], go_on: true}\n",
            [
                "portmon.yaml:3: alerts.routes[0].go_on: unknown field; known here: name, match",
            ],
        ),
        (
            "cmdb:\n  source: {type: http, endpont: x}\n",
            ["portmon.yaml:2: cmdb.source.endpont: unknown field; did you mean 'endpoint'?"],
        ),
        ("cmdb:\n  source: {path: x}\n", ["portmon.yaml:2: cmdb.source: type is missing"]),
        (
            "rules:\n- action: deny\n- action: allow\n  port: 70000\n",
            ["portmon.yaml:2: rules[0]: give at least one", "portmon.yaml:4: rules[1].port: 70000 is no port"],
        ),
        ("rules:\n- action: deny\n  bind: lo\n", ["portmon.yaml:3: rules[0].bind: 'lo' is neither loopback"]),
        (
            "cmdb:\n  source:\n    type: http\n    fields:\n      address: 'primary_ip['\n",
            ["portmon.yaml:5: cmdb.source.fields.address: 'primary_ip[' is no JMESPath expression"],
        ),
        (
            "cmdb:\n  source:\n    type: netbox\n    page_size: 0\n    devicse: no\n",
            [
                "portmon.yaml:4: cmdb.source.page_size: Input should be greater",
                "portmon.yaml:5: cmdb.source.devicse: unknown field; did you mean 'devices'?",
            ],
        ),
        (
            "cmdb:\n  source:\n    type: netbox\n    devices: no\n    virtual_machines: no\n",
            ["portmon.yaml:2: cmdb.source: devices and virtual_machines are both off"],
        ),
        (
            "cmdb:\n  source:\n    type: netbox\n    fields:\n      labels:\n        http: 'a['\n",
            ["portmon.yaml:6: cmdb.source.fields.labels.http: 'a[' is no JMESPath expression"],
        ),
        (
            "cmdb:\n  source:\n    type: http\n    fields:\n      labels: 'a['\n      declare: x\n",
            [
                "portmon.yaml:5: cmdb.source.fields.labels: 'a[' is no JMESPath expression",
                "portmon.yaml:6: cmdb.source.fields.declare: unknown field; did you mean 'declared'?",
            ],
        ),
        (
            "cmdb:\n  source:\n    type: http_sd\n    params: {a: [1, {}]}\n    target_ports: yes\n",
            [
                "portmon.yaml:4: cmdb.source.params.a[1]: give a text, a number",
                "portmon.yaml:5: cmdb.source.target_ports: unknown field; did you mean 'target_port'?",
            ],
        ),
        (
            "cmdb:\n  source: {type: ansible, format: toml}\n",
            ["portmon.yaml:2: cmdb.source.format: Input should be 'auto'"],
        ),
        ("cmdb:\n  source: {type: ansible}\n", ["portmon.yaml:2: cmdb.source: give either path or conn_id"]),
        ("cmdb:\n  source: {type: file}\n", ["portmon.yaml:2: cmdb.source.path: is missing"]),
        ("cmdb:\n  source: {type: nebox}\n", ["portmon.yaml:2: cmdb.source: Input tag 'nebox' found"]),
        ("scan: 3\n", ["portmon.yaml:1: scan: must be a mapping of fields"]),
        ("scan:\n  confirm_after: soon\n", ["portmon.yaml:2: scan.confirm_after: 'soon' is not a duration"]),
        ("scan:\n  protocols: udp\n", ["portmon.yaml:2: scan.protocols: must be [tcp] or [tcp, udp]"]),
        ("scan: {protocols: [udp]}\n", ["portmon.yaml:1: scan.protocols: must be [tcp] or [tcp, udp]"]),
        ("scan: {protocols: [tcp, sctp]}\n", ["portmon.yaml:1: scan.protocols: must be [tcp] or [tcp, udp]"]),
        (
            "ssh: {groups: [{name: a, match: {host: '*'}, protocols: [tcp, tcp]}]}\n",
            ["portmon.yaml:1: ssh.groups[0].protocols: must be [tcp] or [tcp, udp]"],
        ),
        ("ssh:\n  groups:\n  - name: a\n", ["portmon.yaml:3: ssh.groups[0].match: is missing"]),
        (
            "alerts:\n  channels:\n  - type: webhook\n    endpont: x\n",
            [
                "portmon.yaml:3: alerts.channels[0].conn_id: is missing",
                "portmon.yaml:3: alerts.channels[0].name: is missing",
                "portmon.yaml:4: alerts.channels[0].endpont: unknown field; did you mean 'endpoint'?",
            ],
        ),
        (
            "alerts:\n  routes:\n  - {channels: [log], continue: maybe}\n",
            ["portmon.yaml:3: alerts.routes[0].continue: Input should be a valid boolean"],
        ),
        (
            "alerts:\n  channels:\n  - {type: log}\n  - {type: log}\n",
            ["portmon.yaml:1: alerts: two channels are named 'log'"],
        ),
    ],
)
def test_mistakes_are_named(text: str, messages: list[str]) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, path=Path("portmon.yaml"))
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(message)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("scan: {confirm_after: 21s}\n", ["portmon.yaml:1: scan.confirm_after: 3 x connect_timeout (10s) + "]),
        ("scan:\n  confirm_after: 10min\n", ["portmon.yaml:2: scan.confirm_after: "]),
        ("ssh:\n  connect_timeout: 12s\n", ["portmon.yaml:2: ssh.connect_timeout: "]),
        ("ssh:\n  command_timeout: 1min\nscan: {confirm_after: 1s}\n", ["portmon.yaml:2: ssh.command_timeout: "]),
        (
            "ssh:\n  groups:\n  - {name: a, match: {host: a}, user: x}\n  - name: b\n    match: {host: b}\n    command_timeout: 40s\n",
            ["portmon.yaml:6: ssh.groups[1].command_timeout: "],
        ),
        (
            "ssh:\n  connect_timeout: 40s\n  groups:\n  - {name: a, match: {host: a}, user: x}\n"
            "  - {name: b, match: {host: b}, connect_timeout: 5s}\n  - {name: c, match: {host: c}, connect_timeout: 30s}\n",
            ["portmon.yaml:2: ssh.connect_timeout: ", "portmon.yaml:6: ssh.groups[2].connect_timeout: "],
        ),
    ],
)
def test_time_settings_that_do_not_fit_into_a_look(text: str, messages: list[str]) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, path=Path("portmon.yaml"))
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(message)
        assert "1m 30s" in line


@pytest.mark.parametrize(
    "text",
    [
        "scan: {confirm_after: 20s}\n",
        "ssh: {connect_timeout: 5s, command_timeout: 30s}\n",
        "ssh: {connect_timeout: 16s, groups: [{name: a, match: {host: '*'}, command_timeout: 5s}]}\nscan: {confirm_after: 0}\n",
    ],
)
def test_time_settings_that_fit(text: str) -> None:
    parse_config(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n", "p.yaml:2: "),
        ("ssh:\n  port: 1\n  port: 2\n", "p.yaml:3: ssh.port: is given twice"),
        ("- a\n", "p.yaml:1: must be a mapping"),
        ("a: !!python/object:x {}\n", "p.yaml:1: "),
    ],
)
def test_what_is_no_configuration(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, path=Path("p.yaml"))
    assert str(caught.value).startswith(message)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "nope.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15), ("10 min", 600), ("1h 30m", 5400), ("14d", 1209600), (5, 5), (0.5, 0.5), ("7", 7), ("1w", 604800)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "5 parsecs", "-5s", -1, True, None, "5s x", "1h-2m"])
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 10**8))
def test_durations_round_trip(seconds: int) -> None:
    value = timedelta(seconds=seconds)
    assert parse_duration(format_duration(value)) == value


def test_sizes_and_ports() -> None:
    assert [parse_size(text) for text in ("4MiB", "512 KiB", "7", 9)] == [4 << 20, 512 << 10, 7, 9]
    assert parse_ports([22, "80,443", "8000-8100"]) == ((22, 22), (80, 80), (443, 443), (8000, 8100))
    for wrong in ("x", "5-4", 0, True, "1.5", 65536):
        with pytest.raises(ValueError, match="is no port"):
            parse_ports(wrong)


def test_a_group_overrides_what_it_names() -> None:
    config = parse_config(
        "ssh:\n  user: portmon\n  port: 22\n  groups:\n  - {name: dmz, match: {host: 'd*'}, port: 2222, sudo: true}\n"
    )
    settings = ssh_settings(config, group=config.ssh.groups[0])
    assert (settings.user, settings.port, settings.sudo, settings.conn_id) == ("portmon", 2222, True, "ssh_default")
    assert ssh_settings(config, group=None).port == 22


def test_protocols_of_a_group() -> None:
    groups = "groups: [{name: a, match: {host: x}, protocols: [tcp]}, {name: b, match: {host: y}}]"
    config = parse_config(f"scan: {{protocols: [udp, tcp]}}\nssh: {{{groups}}}\n")
    found = [ssh_settings(config, group=group).protocols for group in (None, *config.ssh.groups)]
    assert found == [("tcp", "udp"), ("tcp",), ("tcp", "udp")]
    assert ssh_settings(Config(), group=None).protocols == ("tcp",)


def test_the_schema_takes_the_example_and_refuses_mistakes(tmp_path: Path) -> None:
    check = [
        str(Path(sys.executable).with_name("check-jsonschema")),
        "--schemafile",
        str(ROOT / "config" / "portmon.schema.json"),
    ]
    broken = tmp_path / "broken.yaml"
    broken.write_text("ssh: {max_login: 3}\n")
    assert (
        subprocess.run([*check, str(ROOT / "config" / "portmon.yaml")], capture_output=True, check=False).returncode
        == 0
    )
    assert subprocess.run([*check, str(broken)], capture_output=True, check=False).returncode == 1


def test_schema_and_reference_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_where_names_file_and_line() -> None:
    config = parse_config("rules:\n- {action: deny, port: 1}\n", path=Path("/x/portmon.yaml"))
    assert config.where("rules", 0) == "portmon.yaml:2: rules[0]"
    assert json.loads(config.model_dump_json())["rules"][0]["port"] == "1"


NAMED = """
alerts:
  channels: [{type: log}]
  routes:
    - {match: {port: 1}, channels: [log]}
    - {name: %s, channels: [log]}
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [("default", "that is what serves all that no route matches"), ("route 7", "and this is place 2")],
)
def test_names_that_no_route_can_have(name: str, why: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(NAMED % name)
    (error,) = caught.value.errors
    assert (error.line, error.field) == (6, "alerts.routes[1].name")
    assert f"no route can be named {name!r} here: " in str(error)
    assert why in str(error)


@pytest.mark.parametrize("name", ["route 2", "route", "route x", "defaults"])
def test_names_that_a_route_can_have(name: str) -> None:
    assert parse_config(NAMED % name).alerts.route_name(1) == name


def test_groups_have_names_of_their_own() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config("ssh:\n  groups:\n  - {name: a, match: {host: x}}\n  - {name: a, match: {host: y}}\n")
    assert str(caught.value) == "portmon.yaml:4: ssh.groups[1].name: another group is named 'a' as well"


def test_a_text_that_was_valid_is_not_validated_again_and_another_one_is(tmp_path: Path) -> None:
    path = tmp_path / "portmon.yaml"
    path.write_text("ssh: {max_logins: 7}\n")
    first = load_config(path)
    assert load_config(path) is first
    path.write_text("ssh: {max_logins: 8}\n")
    assert load_config(path).ssh.max_logins == 8
    path.write_text("ssh: {max_logins: many}\n")
    for _ in range(2):
        with pytest.raises(InvalidConfigError):
            load_config(path)
