"""What the commands say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert
from typer.testing import CliRunner, Result

from portmon.cli import app
from portmon.model.event import Event, EventKind
from portmon.model.host import Host
from portmon.storage import events, host_keys, hosts, silences
from portmon.storage.database import Database
from portmon.storage.tables import alerts, deliveries
from tests.worlds.databases import migrated

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def check(tmp_path: Path, text: str) -> Result:
    path = tmp_path / "portmon.yaml"
    path.write_text(text)
    return run("check", "--config", str(path))


# ── check ───────────────────────────────────────────────────────────────────────────────────────


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
def test_check_says_where_only_what_is_allowed_is_watched(tmp_path: Path, rules: str, restricted: str | None) -> None:
    result = check(tmp_path, f"rules:\n{rules}\n")
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines() if "only what" in line]
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
def test_check_recommends_a_total_where_there_are_pages(tmp_path: Path, source: str, advised: bool) -> None:
    result = check(tmp_path, f"cmdb: {{source: {{type: http, {source}}}}}\n")
    assert result.exit_code == 0, result.output
    assert ("cmdb.source.total" in result.stdout) is advised


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
    assert "example" not in result.stdout
    nothing = check(tmp_path, "alerts: {channels: []}").stdout
    assert "channels       none: events are kept, but not sent" in nothing
    assert "default: what no route matches -> nobody" in nothing


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
        "labels of the server: env=prod",
        "portmon.yaml:8: alerts.routes[0] (prod): yes: label env=prod -> audit, then those after it",
        "portmon.yaml:9: alerts.routes[1] (web): yes: host web* and kind down|flapping and port 443 -> night",
        "goes to: audit (route prod), night (route web)",
        "withheld now: no",
    ]
    assert "goes to: night (route web)" in example(tmp_path, "--host", "web02", "--port", "443", "--kind", "down")


def test_check_takes_labels_and_severity_as_they_are_given(fleet: Database, tmp_path: Path) -> None:
    arguments = ("--host", "web01", "--kind", "rebooted", "--label", "env=test", "--label", "a=b", "--severity", "info")
    told = example(tmp_path, *arguments)
    assert told[:2] == ["example        rebooted of web01, info", "labels of the server: a=b env=test"]
    assert told[-2:] == ["goes to: log (route default)", "withheld now: no"]


def test_check_knows_what_is_withheld(fleet: Database, tmp_path: Path) -> None:
    with fleet.begin() as conn:
        now = datetime.now(UTC)
        end = now + timedelta(hours=1)
        silences.add(conn, hosts=["web01"], ports=[(443, 443)], ends_at=end, author="ann", reason="updates", now=now)
    withheld = f"withheld now: silenced by ann until {end:%Y-%m-%d %H:%M} UTC: updates (silence 1)"
    assert example(tmp_path, "--host", "1", "--port", "443", "--kind", "down")[-1] == withheld
    assert example(tmp_path, "--host", "1", "--port", "444", "--kind", "down")[-1] == "withheld now: no"
    # What ends something is told to whoever got its beginning, silenced or not.
    told = example(tmp_path, "--host", "1", "--port", "443", "--kind", "recovered")
    assert told[-2:] == ["recovered has no route: it goes to whoever got what it ends", "withheld now: no"]


def test_check_knows_what_is_acknowledged(fleet: Database, tmp_path: Path) -> None:
    down = Event("0" * 31 + "1", EventKind.DOWN, NOW, "r", host_id="1", host_name="web01", protocol="tcp", port=443)
    with fleet.begin() as conn:
        events.add(conn, [down])
        row = {"id": down.id, "key": down.alert_key, "host_id": "1", "last_event_id": down.id, "starts_at": NOW}
        conn.execute(insert(alerts).values(**row))
        silences.acknowledge(conn, down.id, author="bob", now=datetime.now(UTC))
    told = example(tmp_path, "--host", "1", "--port", "443", "--kind", "flapping")
    assert told[-1] == "withheld now: acknowledged by bob"
    assert example(tmp_path, "--host", "1", "--port", "443", "--kind", "replaced")[-1] == "withheld now: no"


def test_check_of_a_server_that_is_not_known(fleet: Database, tmp_path: Path) -> None:
    told = example(tmp_path, "--host", "web\u202e09", "--port", "443", "--kind", "down")
    assert told[:3] == [
        "example        down of web\\u202e09, port 443, critical",
        "not looked up: no server has the name or id 'web\\u202e09'; the CMDB's list of the last run counts",
        "labels of the server: none",
    ]
    assert told[-2] == "goes to: night (route web)"
    assert example(tmp_path, "--kind", "cmdb_stale")[-2:] == ["goes to: log (route default)", "withheld now: no"]


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
        (("--host", "web01"), "an example needs a kind; there are new, down, recovered"),
        (("--kind", "gone"), "'new', 'down', 'recovered'"),
        (("--kind", "down", "--port", "443"), "give --host too"),
        (("--kind", "down", "--label", "a=b"), "give --host too"),
        (("--kind", "down", "--host", "w", "--label", "a"), "'a' is no label: give NAME=VALUE"),
        (("--kind", "down", "--host", "w", "--port", "0"), "should be greater than or equal to 1"),
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

    monkeypatch.setattr("portmon.alerting.message.check.check_templates", found, raising=False)
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


def test_check_names_what_nothing_reaches(tmp_path: Path) -> None:
    channels = "channels: [{type: log, name: chat}, {type: log, name: pager}]"
    routes = "[{name: all, channels: [chat]}, {name: db, match: {port: 5432}, channels: [pager]}]"
    result = check(tmp_path, f"alerts:\n  {channels}\n  routes: {routes}\n")
    assert result.exit_code == 1
    assert "nothing reaches the route 'db'" in result.stderr
    assert "channel pager gets nothing" in result.stdout


def test_check_shows_what_alerts_are_set_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", "http://localhost")
    result = check(
        tmp_path, "alerts: {repeat_every: 6h, give_up_after: 2h, heartbeat: {conn_id: hook, endpoint: s3cret}}"
    )
    assert "told again after 6h, given up after 2h" in result.stdout
    assert "heartbeat      POST to connection hook" in result.stdout
    assert "templates      those of portmon" in result.stdout
    assert "s3cret" not in result.output
    nothing = check(tmp_path, "alerts: {repeat_every: 0s}").stdout
    assert "told again never, given up after 1d" in nothing
    assert "heartbeat      none" in nothing


def test_check_warns_of_channels_that_are_gone(fleet: Database, tmp_path: Path) -> None:
    down = Event("0" * 31 + "1", EventKind.DOWN, NOW, "r", host_id="1", host_name="web01", protocol="tcp", port=443)
    with fleet.begin() as conn:
        events.add(conn, [down])
        row = {"id": down.id, "key": down.alert_key, "host_id": "1", "last_event_id": down.id, "starts_at": NOW}
        conn.execute(insert(alerts).values(**row))
        events.dispatched(conn, {down.id: down.id})
        for channel, told in (("pager", True), ("log", True), ("mail", False)):
            state = {"state": "delivered", "notified_at": NOW} if told else {"state": "pending"}
            conn.execute(
                insert(deliveries).values(
                    event_id=down.id,
                    channel=channel,
                    tries=1,
                    targets_done=[],
                    created_at=NOW,
                    updated_at=NOW,
                    **state,
                )
            )
    result = check(tmp_path, "alerts: {channels: [{type: log}]}")
    assert result.exit_code == 0, result.output
    assert (
        "channels that are gone were told of open alerts, nobody there hears of their end: pager (1)" in result.stdout
    )
    assert "gone" not in check(tmp_path, "alerts: {channels: [{type: log}, {type: log, name: pager}]}").stdout


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


def trusted(database: Database) -> list[str]:
    with database.begin() as conn:
        return [key.fingerprint for key in host_keys.trusted(conn, ["[a]:22"])["[a]:22"]]


def test_accept_trusts_the_key_that_was_compared(database: Database) -> None:
    result = run("hostkeys", "accept", "[a]:22", "SHA256:b")
    assert result.exit_code == 0, result.output
    assert "SHA256:b" in result.stdout
    assert trusted(database) == ["SHA256:b"]


def test_accept_refuses_a_key_that_came_in_between(database: Database) -> None:
    with database.begin() as conn:
        host_keys.report_change(conn, "[a]:22", "ssh-ed25519", "CCCC", "SHA256:c", NOW)
    result = run("hostkeys", "accept", "[a]:22", "SHA256:b")
    assert result.exit_code == 1
    assert "SHA256:c" in result.stderr
    assert trusted(database) == ["SHA256:a"]


def test_accept_needs_a_fingerprint_and_an_offered_key(database: Database) -> None:
    assert run("hostkeys", "accept", "[a]:22").exit_code == 2
    assert run("hostkeys", "accept", "[a]:22", "SHA256:b").exit_code == 0
    result = run("hostkeys", "accept", "[a]:22", "SHA256:b")
    assert result.exit_code == 1
    assert "no other key than the trusted one" in result.stderr
    assert trusted(database) == ["SHA256:b"]
