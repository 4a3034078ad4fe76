"""contrib/helm/values.yaml against docker-compose.yaml, and against a list of the chart's keys that was written by hand.

Neither helm nor the chart is here: what the chart makes of the values is not tested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from demo.airflow_env import ROOT
from tests.worlds.stack import COMPOSE, SERVICES

TEXT = (ROOT / "contrib" / "helm" / "values.yaml").read_text()
VALUES = yaml.safe_load(TEXT)
ENV = {one["name"]: one["value"] for one in VALUES["env"]}
SERVICE_OF = {
    "apiServer": "airflow-apiserver",
    "scheduler": "airflow-scheduler",
    "dagProcessor": "airflow-dag-processor",
    "triggerer": "airflow-triggerer",
    "workers": "airflow-worker",
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and type of every value."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from leaves(below, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for below in value:
            yield from leaves(below, f"{path}[]")
    else:
        yield path, type(value).__name__


def test_keys_and_types_are_those_of_a_list_written_by_hand() -> None:
    known = yaml.safe_load((ROOT / "tests" / "fixtures" / "helm" / "keys.yaml").read_text())
    patterns = {re.escape(path).replace(r"\*", r"[\w.]+"): kind for path, kind in known.items()}
    used = set()
    for path, kind in leaves(VALUES):
        matching = [pattern for pattern in patterns if re.fullmatch(pattern, path)]
        assert [patterns[pattern] for pattern in matching] == [kind], path
        used |= set(matching)
    assert used == set(patterns)


def test_settings_are_those_of_compose() -> None:
    compose = COMPOSE["x-airflow"]["environment"]
    assert compose["AIRFLOW__CORE__EXECUTOR"] == VALUES["executor"]
    own = {"AIRFLOW__API__BASE_URL", "AIRFLOW__PORTMON__CONFIG", "AIRFLOW_CONN_SSH_DEFAULT"}
    assert {name: value for name, value in ENV.items() if name not in own} == {
        name: compose[name] for name in ENV if name not in own
    }
    example = (ROOT / ".env.example").read_text()
    assert f"# AIRFLOW_CONN_SSH_DEFAULT={ENV['AIRFLOW_CONN_SSH_DEFAULT']}" in example.splitlines()


def test_what_is_named_is_mounted() -> None:
    mounts = {one["name"]: one["mountPath"] for one in VALUES["volumeMounts"]}
    assert {one["name"] for one in VALUES["volumes"]} == set(mounts)
    assert ENV["AIRFLOW__PORTMON__CONFIG"].startswith(mounts["portmon-config"] + "/")
    assert f"{mounts['portmon-ssh']}/portmon_key" in ENV["AIRFLOW_CONN_SSH_DEFAULT"]


def test_limits_are_those_of_compose() -> None:
    for name, service in SERVICE_OF.items():
        section = VALUES[name]
        limits = section.get("celery", section)["resources"]["limits"]
        wanted = SERVICES[service]["deploy"]["resources"]["limits"]
        assert (limits["cpu"], limits["memory"]) == (wanted["cpus"], f"{wanted['memory']}i"), name


def test_the_image_has_what_the_probes_of_the_chart_call() -> None:
    assert ">/entrypoint" in (ROOT / "Dockerfile").read_text()


def test_airflow_is_that_of_the_lock() -> None:
    (version,) = re.findall(r"^apache-airflow==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.M)
    assert VALUES["airflowVersion"] == version


def test_every_secret_is_made_by_a_command_of_the_document() -> None:
    section = (ROOT / "docs" / "operations.md").read_text().split("\n### Kubernetes\n")[1].split("\n### ")[0]
    made = set(re.findall(r"kubectl create (?:secret generic|configmap) (\S+)", section))
    assert set(re.findall(r"\bportmon-[a-z-]+\b", TEXT)) - {"portmon-config"} <= made
    assert "portmon-config" in made
