"""What the commands say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import update
from typer.testing import CliRunner, Result

from portmon.cli import app
from portmon.model.host import Host
from portmon.storage import host_keys, hosts
from portmon.storage.database import Database
from portmon.storage.tables import hosts as stored_hosts
from tests.worlds.alerts import open_alert
from tests.worlds.databases import migrated

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def check(tmp_path: Path, text: str) -> Result:
    path = tmp_path / "portmon.yaml"
    path.write_text(text)
    return run("check", "--config", str(path))


# ── check ───────────────────────────────────────────────────────────────────────────────────────


ROUTES = """
alerts:
  channels:
    - {type: log}
    - {type: log, name: night}
    - {type: log, name: audit}
  routes:
    - {name: prod, match: {label: {env: prod}}, channels: [audit], continue: true}
    - {name: web, match: {host: 'web*', port: 443, kind: [down, flapping]}, channels: [night]}
  default: [log]
"""


def test_check_lists_the_routes(tmp_path: Path) -> None:
    result = check(tmp_path, ROUTES)
    assert result.exit_code == 0, result.output
    shown = result.stdout.splitlines()
    start = shown.index("routes         2, first match counts")
    assert shown[start - 1] == "channels       log (log), night (log), audit (log)"
    assert shown[start + 1 : start + 4] == [
        "  portmon.yaml:8: alerts.routes[0] (prod): label env=prod -> audit, then those after it",
        "  portmon.yaml:9: alerts.routes[1] (web): host web* and kind down|flapping and port 443 -> night",
        "  default: what no route matches -> log",
    ]
    assert "\nexample " not in result.stdout
    told = json.loads(run("check", "--config", str(tmp_path / "portmon.yaml"), "--format", "json").stdout)
    assert (told["problems"], told["lines"][1:]) == ([], shown[2:-1])
    nothing = check(tmp_path, "alerts: {channels: []}").stdout
    assert "channels       none: events are kept, but not sent" in nothing
    assert "default: what no route matches -> nobody" in nothing


def test_check_says_how_to_add_a_connection_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"ssh_default": object()}
    monkeypatch.setattr("portmon.airflow.settings.connection", known.get)
    text = "ssh: {groups: [{name: dmz, match: {host: 'dmz-*'}, conn_id: ssh_dmz, jump: ssh_bastion}]}\n"
    told = [line for line in check(tmp_path, text).stdout.splitlines() if line.startswith("warning: ")]
    assert told == [
        "warning: cmdb.source: there is no Airflow connection 'cmdb_default': airflow connections add cmdb_default "
        "--conn-type http --conn-host https://cmdb.example.com",
        "warning: ssh group dmz: there is no Airflow connection 'ssh_dmz': airflow connections add ssh_dmz --conn-type ssh "
        """--conn-login portmon --conn-extra '{"key_file": "/etc/portmon/key"}'""",
        "warning: ssh group dmz: there is no Airflow connection 'ssh_bastion': airflow connections add ssh_bastion --conn-type "
        """ssh --conn-host bastion.example.com --conn-login portmon --conn-extra '{"key_file": "/etc/portmon/key"}'""",
    ]


@pytest.fixture
def fleet(database: Database) -> Database:
    with database.begin() as conn:
        hosts.sync(conn, [Host("1", "web01", "10.0.0.1", labels={"env": "prod"}), Host("2", "web02", "10.0.0.2")])
    return database


def example(tmp_path: Path, *arguments: str) -> list[str]:
    """What ``check`` says of an example."""
    path = tmp_path / "portmon.yaml"
    path.write_text(ROUTES)
    result = run("check", "--config", str(path), *arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith("example"))
    return [line.strip() for line in lines[start : lines.index("ok")]]


def test_check_explains_an_example(fleet: Database, tmp_path: Path) -> None:
    assert example(tmp_path, "--host", "WEB01", "--port", "443", "--kind", "down", "--program", "nginx") == [
        "example        down of web01, port 443, program nginx, critical",
        "labels of the host: env=prod",
        "portmon.yaml:8: alerts.routes[0] (prod): yes: label env=prod -> audit, then those after it",
        "portmon.yaml:9: alerts.routes[1] (web): yes: host web* and kind down|flapping and port 443 -> night",
        "goes to: audit (route prod), night (route web)",
        "withheld now: no",
    ]
    assert "goes to: night (route web)" in example(tmp_path, "--host", "web02", "--port", "443", "--kind", "down")


def test_check_of_a_host_that_is_not_known(fleet: Database, tmp_path: Path) -> None:
    told = example(tmp_path, "--host", "web\u202e09", "--port", "443", "--kind", "down", "--label", "env=prod")
    assert told[:3] == [
        "example        down of web\\u202e09, port 443, critical",
        "not looked up: no host has the name or id 'web\\u202e09'; the CMDB's list of the last run counts",
        "labels of the host: env=prod",
    ]
    assert told[-2] == "goes to: audit (route prod), night (route web)"


def test_check_without_a_state_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "none.db"
    monkeypatch.setattr("portmon.airflow.settings.database", lambda: Database(f"sqlite:///{path}"))
    told = example(tmp_path, "--host", "web01", "--port", "443", "--kind", "down")
    assert told[1] == "not looked up: there is no state database yet"
    assert told[-2] == "goes to: night (route web)"
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "web01"), "an example needs a kind: one of new, down, recovered"),
        (("--kind", "gone"), "'new', 'down', 'recovered'"),
        (("--kind", "down", "--port", "443"), "give --host too"),
        (("--kind", "down", "--label", "a=b"), "give --host too"),
        (("--kind", "down", "--host", "w", "--label", "a"), "'a' is no label: give NAME=VALUE"),
        (("--kind", "down", "--host", "w", "--port", "0"), "'0' is no port (1 to 65535)"),
        (("--kind", "down", "--severity", "bad"), "'critical', 'warning', 'info'"),
    ],
)
def test_what_is_no_example(arguments: tuple[str, ...], message: str) -> None:
    result = run("check", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_check_looks_at_the_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def found(folder: Path) -> list[str]:
        asked.append(folder)
        return ["text.j2 has \x1b"]

    monkeypatch.setattr("portmon.api.check.check_templates", found)
    result = check(tmp_path, "alerts: {templates: own}")
    assert (result.exit_code, asked) == (1, [tmp_path / "own"])
    assert "problem: text.j2 has \\x1b" in result.stderr


CONNECTIONS = """
alerts:
  channels:
    - {type: webhook, name: hook, conn_id: hook}
    - {type: apprise, name: chat, conn_id: chat}
  heartbeat: {conn_id: switch}
"""


def test_check_names_connections_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(tmp_path, CONNECTIONS)
    assert result.exit_code == 1
    for line in (
        "airflow connections add hook --conn-type http --conn-host https://…",
        'airflow connections add chat --conn-type apprise --conn-extra \'{"config"',
        "airflow connections add switch --conn-type http --conn-host https://…",
    ):
        assert line in result.stderr
    for name in ("HOOK", "CHAT", "SWITCH"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", "http://user:s3cret@localhost/s3cret")
    result = check(tmp_path, CONNECTIONS)
    assert result.exit_code == 0, result.output
    assert "s3cret" not in result.output


def test_check_where_connections_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class MetastoreBackend:
        def get_connection(self, conn_id: str) -> None:
            raise OSError("postgresql://user:s3cret@db refused")

    # Airflow itself says that there is no such connection then.
    monkeypatch.setattr(
        "airflow.sdk.execution_time.supervisor.ensure_secrets_backend_loaded", lambda: [MetastoreBackend()]
    )
    result = check(tmp_path, CONNECTIONS)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("connections can't be looked up here: MetastoreBackend does not answer (OSError)") == 1
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    "alerts",
    [
        "{heartbeat: {conn_id: hook, endpoint: 'https://hc.example/s3cret'}}",
        "{channels: [{type: webhook, name: h, conn_id: hook, endpoint: 'https://h.example/s3cret'}]}",
    ],
)
def test_check_refuses_a_whole_address_as_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alerts: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", "http://localhost")
    result = check(tmp_path, f"alerts: {alerts}")
    assert result.exit_code == 1
    assert "endpoint is a whole address" in result.stderr
    assert "s3cret" not in result.output


def test_check_shows_what_alerts_are_set_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", "http://localhost")
    result = check(
        tmp_path, "alerts: {repeat_every: 6h, give_up_after: 2h, heartbeat: {conn_id: hook, endpoint: s3cret}}"
    )
    assert "reminders after 6h, given up after 2h" in result.stdout
    assert "heartbeat      POST to connection hook" in result.stdout
    assert "templates      those of portmon" in result.stdout
    assert "s3cret" not in result.output
    nothing = check(tmp_path, "alerts: {repeat_every: 0s}").stdout
    assert "no reminders, given up after 1d" in nothing
    assert "heartbeat      none" in nothing


def test_check_warns_of_what_does_not_fit_the_state_database(fleet: Database, tmp_path: Path) -> None:
    with fleet.begin() as conn:
        open_alert(conn, 1, NOW, channels={"pager": "delivered"})
        conn.execute(update(stored_hosts).values(probe=1))
    result = check(tmp_path, "alerts: {channels: [{type: log}]}")
    assert result.exit_code == 0, result.output
    assert (
        "warning: channels that are gone were notified of open alerts and will get no resolved message: pager (1)"
        in (result.stdout)
    )
    assert "`portmon probe` prints on web01, web02\n" in result.stdout


# ── hostkeys ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    made = migrated(tmp_path / "state.db")
    monkeypatch.setattr("portmon.airflow.settings.database", lambda: made)
    with made.begin() as conn:
        host_keys.remember(conn, "[a]:22", "ssh-ed25519", "AAAA", "SHA256:a", NOW)
        host_keys.report_change(conn, "[a]:22", "ssh-ed25519", "BBBB", "SHA256:b", NOW)
    yield made
    made.dispose()


def test_a_host_key_is_accepted_by_its_fingerprint(database: Database) -> None:
    assert run("hostkeys", "accept", "[a]:22").exit_code == 2
    wrong = run("hostkeys", "accept", "[a]:22", "SHA256:c")
    assert (wrong.exit_code, "it shows SHA256:b now. Nothing was accepted" in wrong.stderr) == (1, True)
    (row,) = json.loads(run("hostkeys", "list", "--changed", "--format", "json").stdout)[1:]
    assert (row["endpoint"], row["fingerprint"], row["trusted"]) == ("[a]:22", "SHA256:b", False)
    result = run("hostkeys", "accept", "[a]:22", "SHA256:b")
    assert (result.exit_code, "SHA256:b" in result.stdout) == (0, True), result.output
    assert "offered, refused" not in run("hostkeys", "list").stdout


# ── parse, probe, db ────────────────────────────────────────────────────────────────────────────

LISTING = """\
Active Internet connections (only servers)
Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name
tcp        0      0 0.0.0.0:80              0.0.0.0:*               LISTEN      7/[red]nginx
"""


def test_parse_shows_what_listens(tmp_path: Path) -> None:
    path = tmp_path / "listing"
    path.write_text(LISTING)
    for result in (run("parse", str(path)), CliRunner().invoke(app, ["parse"], input=LISTING)):
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[1].split() == ["tcp", "0.0.0.0", "80", "7", "[red]nginx"]
        assert result.stdout.endswith("1 listening\n")
    (one,) = json.loads(run("parse", str(path), "--format", "json").stdout)
    assert (one["port"], one["program"]) == (80, "[red]nginx")
    assert run("parse", str(tmp_path / "none")).exit_code == 2
    path.write_text("nonsense\n")
    broken = run("parse", str(path))
    assert (broken.exit_code, broken.stderr[:7]) == (1, "error: ")


def test_probe_prints_a_script() -> None:
    assert run("probe").stdout.startswith("#!")
    assert "sudo -n" in run("probe", "--sudo").stdout


def test_db_upgrade_and_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portmon.airflow.settings.database", lambda: Database(f"sqlite:///{tmp_path / 'new.db'}"))
    assert run("db", "check").exit_code == 1
    first = run("db", "upgrade").stdout.splitlines()
    assert (first[1][:8], first[-1]) == ("applied ", "migrated")
    assert run("db", "upgrade").stdout.splitlines()[1:] == ["up to date"]
    assert run("db", "check").stdout.splitlines()[1:] == ["ok"]
