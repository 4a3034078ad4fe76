"""The metrics, and the rules and the dashboard of ``monitoring/`` over them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from portmon.errors import ConfigError
from portmon.model.alert import DeliveryState
from portmon.model.event_kinds import EventKind
from portmon.storage import alerts, archive, deliveries, events
from portmon.storage.tables import runs
from portmon.web import metrics, reading
from tests.web.conftest import HOSTILE
from tests.worlds import runs as steps
from tests.worlds.fleet import FIVE, Fleet
from tests.worlds.page import Browser
from tests.worlds.waiting import skip_without

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "monitoring"
ODD = f'\udcff\x00{HOSTILE}\n"\\'
NAME = re.compile(r"\bportmon_\w+")


def written(browser: Browser) -> str:
    """What Prometheus gets now."""
    reading.forget()
    answer = browser.get("/metrics")
    assert answer.status_code == 200, answer.text
    return answer.text


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Metric: values of its labels, in the order of the labels' names: value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            assert tuple(sample.labels.values()) not in series, sample
            series[tuple(sample.labels.values())] = sample.value
    return found


def measured(browser: Browser) -> dict[str, dict[tuple[str, ...], float]]:
    return samples(written(browser))


@pytest.fixture
def per_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PORTMON__METRICS_PER_PORT", "True")


# ── what is measured ─────────────────────────────────────────────────────────────────────────────


def test_the_fleet_in_numbers(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.machines["db"].trouble = "timeout"
    fleet.run()
    found = measured(browser)
    assert found["portmon_hosts"][("ok",)] == 3
    assert found["portmon_hosts"][("failing",)] == 1
    assert (found["portmon_ports"][("up",)], found["portmon_ports"][("down",)]) == (5, 1)
    assert found["portmon_open_alerts"] == {("critical",): 1, ("warning",): 0, ("info",): 0}
    assert "portmon_undelivered_messages" not in found
    assert list(found["portmon_build_info"].values()) == [1]


def test_what_is_silenced_is_not_undelivered(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.dead.add("log")
    fleet.run()
    assert measured(browser)["portmon_undelivered_messages"] == {("log",): 1}
    with fleet.database.begin() as conn:
        (waiting,) = deliveries.unfinished(conn)
        deliveries.settle(conn, [(waiting, "silenced")], DeliveryState.WITHHELD, fleet.now)
    assert "portmon_undelivered_messages" not in measured(browser)


def test_events_are_counted_and_the_count_outlives_them(browser: Browser, fleet: Fleet) -> None:
    before = measured(browser)["portmon_events_total"]
    # Each kind is there from the beginning: a rate needs a first value.
    assert {kind for (kind,) in before} == {kind.value for kind in EventKind}
    assert (before["baseline",], before["down",]) == (3, 0)
    for host in ("web1", "web2"):
        fleet.machines[host].kill(80)
    fleet.run()
    for host in ("web1", "web2"):
        fleet.machines[host].start(80, "nginx")
    fleet.run()
    counted = before | {("down",): 2, ("recovered",): 2}
    assert measured(browser)["portmon_events_total"] == counted
    with fleet.database.begin() as conn:
        alerts.expire(conn, fleet.now + FIVE)
        assert events.expire(conn, fleet.now + FIVE) == 7
    assert measured(browser)["portmon_events_total"] == counted


def test_a_run_is_measured_by_its_phases(browser: Browser, fleet: Fleet) -> None:
    assert measured(browser)["portmon_run_duration_seconds"].keys() == {("fetch",), ("scan",), ("diff",), ("whole",)}
    run = browser.json("/runs")[0]
    assert run["phases"].keys() == {"fetch", "scan", "diff"}
    assert "seconds" not in run["summary"]


def test_phases_are_those_of_the_run(browser: Browser, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CMDB that takes 3 s, logins of 8 s within 20 s, and a run that is evaluated 30 s after its start."""

    def scan(plan: Any) -> None:
        looks = []
        for number, item in enumerate(plan):
            machine = next(one for one in fleet.machines.values() if one.host.id == item["id"])
            at = fleet.now + timedelta(seconds=12 + 6 * number)
            looks.append(dataclasses.replace(machine.look(fleet.run_of().run_id, at), duration=8.0))
        with fleet.database.begin() as conn:
            archive.save_observations(conn, looks)

    evaluate_run = steps.evaluate_run

    def later(*arguments: Any, now: Any, fetching: float, **named: Any) -> Any:
        assert fetching >= 0
        return evaluate_run(*arguments, now=now + timedelta(seconds=30), fetching=3.0, **named)

    monkeypatch.setattr(fleet, "scan", scan)
    monkeypatch.setattr(steps, "evaluate_run", later)
    fleet.run()
    took = measured(browser)["portmon_run_duration_seconds"]
    assert (took["fetch",], took["scan",]) == (3, 20)
    assert 0 < took["diff",] < 30
    assert took["whole",] == pytest.approx(30 + took["diff",], abs=0.01)
    found = measured(browser)["portmon_last_success_timestamp_seconds"][()]
    assert found == pytest.approx((fleet.now - FIVE).timestamp() + took["whole",], abs=0.01)


def test_a_run_of_an_earlier_version_has_no_phases(browser: Browser, fleet: Fleet) -> None:
    with fleet.database.begin() as conn:
        conn.execute(update(runs).values(summary={"scanned": 3}))
    assert measured(browser)["portmon_run_duration_seconds"].keys() == {("whole",)}


# ── per host and port ────────────────────────────────────────────────────────────────────────────


def test_hosts_and_ports_have_no_series_unless_switched_on(browser: Browser) -> None:
    assert not {"portmon_host_up", "portmon_port_up", "portmon_series_left_out"} & measured(browser).keys()


@pytest.mark.usefixtures("per_port")
def test_each_host_and_port_has_a_series_if_switched_on(browser: Browser, fleet: Fleet) -> None:
    fleet.machines["web1"].kill(80)
    fleet.machines["db"].trouble = "timeout"
    for _ in range(3):
        fleet.run()
    found = measured(browser)
    assert found["portmon_host_up"] == {
        ("db", "id-db"): 0,
        ("web1", "id-web1"): 1,
        ("web2", "id-web2"): 1,
    }
    assert found["portmon_port_up"] == {
        ("db", "id-db", "22", "tcp"): 1,
        ("db", "id-db", "5432", "tcp"): 1,
        ("web1", "id-web1", "22", "tcp"): 1,
        ("web1", "id-web1", "80", "tcp"): 0,
        ("web2", "id-web2", "22", "tcp"): 1,
        ("web2", "id-web2", "80", "tcp"): 1,
    }
    assert found["portmon_series_left_out"] == {("host",): 0, ("port",): 0}


@pytest.mark.usefixtures("per_port")
def test_their_number_is_bounded(browser: Browser, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_SERIES", 2)
    found = measured(browser)
    assert list(found["portmon_host_up"]) == [("db", "id-db"), ("web1", "id-web1")]
    assert list(found["portmon_port_up"]) == [("db", "id-db", "22", "tcp"), ("db", "id-db", "5432", "tcp")]
    assert found["portmon_series_left_out"] == {("host",): 1, ("port",): 4}


def test_a_wrong_option_is_told(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PORTMON__METRICS_PER_PORT", "perhaps")
    with pytest.raises(ConfigError, match="metrics_per_port"):
        reading.settings.metrics_per_port()
    reading.forget()
    answer = browser.get("/metrics", accept="text/plain")
    assert answer.status_code >= 500
    assert "metrics_per_port" in answer.text


# ── rules and dashboard ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def everything(browser: Browser, fleet: Fleet, per_port: None) -> str:
    """All there can be: a message that was not delivered, a hostile name."""
    for name, host_id in (("plain", "id\udcff"), (ODD, "odd"), (ODD, "odder")):
        machine = fleet.add(f"{name} {host_id}", {22: "sshd"})
        machine.host = dataclasses.replace(machine.host, name=name, id=host_id)
    fleet.machines["web1"].kill(80)
    fleet.dead.add("log")
    fleet.run()
    found = written(browser)
    assert "\u202e" in found
    assert r"\udcff" in found
    return found


def promtool(*arguments: str | Path, given: str = "") -> str:
    """What it says, if it is content."""
    skip_without(None if shutil.which("promtool") else "promtool is not installed")
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=given, cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[str]:
    """The conditions of the alert rules."""
    found = yaml.safe_load((FOLDER / "portmon.rules.yml").read_text(encoding="utf-8"))
    return [rule["expr"] for group in found["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    """Those of the dashboard."""
    dashboard = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_rules_and_dashboard_use_metrics_that_exist(everything: str) -> None:
    used = set(NAME.findall(" ".join(rules())))
    shown = set(NAME.findall((FOLDER / "grafana.json").read_text(encoding="utf-8")))
    assert used
    assert shown
    assert used | shown <= samples(everything).keys()


def test_the_states_and_kinds_that_they_choose_by_exist(everything: str) -> None:
    found = {name: {value for labels in series for value in labels} for name, series in samples(everything).items()}
    chosen = [
        (name, value)
        for query in [*rules(), *queries()]
        for name, matchers in re.findall(r"(portmon_\w+)\{([^}]*)\}", query)
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers)
        if label != "job"
        for value in values.split("|")
    ]
    assert ("portmon_hosts", "unreachable") in chosen
    assert [(name, value) for name, value in chosen if value not in found[name]] == []


def test_the_page_of_the_docs_lists_every_metric(everything: str) -> None:
    text = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(portmon_\w+)(?:\{([\w, ]+)\})?` \|", text, flags=re.M)
    found = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(everything)
        for sample in family.samples
    }
    assert {name: set(re.findall(r"\w+", labels)) for name, labels in listed} == found


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        # One and the same dashboard for every data source.
        assert {one["datasource"]["uid"] for one in [panel, *panel["targets"]]} == {"${datasource}"}


@pytest.mark.slow
def test_rules_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", "portmon.rules.yml")
    assert "SUCCESS" in promtool("test", "rules", "portmon.rules.test.yml")
    names = re.findall(r"alert: (\w+)", (FOLDER / "portmon.rules.yml").read_text(encoding="utf-8"))
    tests = yaml.safe_load((FOLDER / "portmon.rules.test.yml").read_text(encoding="utf-8"))["tests"]
    proven = {
        (one["alertname"], bool(one.get("exp_alerts"))) for test in tests for one in test.get("alert_rule_test", ())
    }
    assert proven == {(name, fires) for name in names for fires in (True, False)}


@pytest.mark.slow
def test_a_test_of_the_rules_can_fail(tmp_path: Path) -> None:
    for name in ("portmon.rules.yml", "portmon.rules.test.yml"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("> 900", "> 90000"))
    with pytest.raises(AssertionError, match="PortmonRunOverdue"):
        promtool("test", "rules", tmp_path / "portmon.rules.test.yml")


@pytest.mark.slow
def test_prometheus_reads_the_metrics_and_the_queries(everything: str, tmp_path: Path) -> None:
    assert promtool("check", "metrics", given=everything) == ""
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)
