"""Airflow with the FAB auth manager, whose users are in Airflow's database."""

from __future__ import annotations

import importlib.util
import subprocess

import pytest

from demo.airflow_env import ADMIN, EmbeddedAirflow

FAB = {"AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}

needs_fab = pytest.mark.skipif(
    importlib.util.find_spec("airflow.providers.fab") is None, reason="needs requirements-fab.txt: make .venv/.tools"
)


def create_admin(airflow: EmbeddedAirflow, password: str) -> None:
    """Create the user ``admin``; Airflow's database must have been migrated."""
    names = ("--username", "--firstname", "--lastname", "--email")
    given = [text for name in names for text in (name, ADMIN)]
    with (airflow.home / "users.out").open("wb") as out:
        subprocess.run(
            EmbeddedAirflow.airflow("users", "create", "--role", "Admin", f"--password={password}", *given),
            env=airflow.env,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=True,
        )
