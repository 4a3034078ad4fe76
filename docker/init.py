"""What the service airflow-init runs: databases, migrations, pool, the users of the page. Safe to run again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from sqlalchemy.engine import make_url
from werkzeug.security import check_password_hash

AIRFLOW_UID = 50000
USERS = {"ADMIN": "Admin", "VIEWER": "Viewer"}
"""Part of the variables' names: role in Airflow."""


def make_database() -> None:
    """A role and a database for portmon, beside Airflow's."""
    url = make_url(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    connection = psycopg2.connect(
        host=url.host, port=url.port, user=url.username, password=url.password, dbname=url.database
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'portmon'")
        verb = "ALTER" if cursor.fetchone() else "CREATE"
        cursor.execute(
            sql.SQL(f"{verb} ROLE portmon LOGIN PASSWORD {{}}").format(sql.Literal(os.environ["PORTMON_DB_PASSWORD"]))
        )
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'portmon'")
        if not cursor.fetchone():
            cursor.execute("CREATE DATABASE portmon OWNER portmon")
    connection.close()


def own_logs() -> None:
    """Volumes begin as root's, and belong to the container's user from then on."""
    if os.geteuid() == 0:
        logs = Path(os.environ.get("AIRFLOW_HOME", "/opt/airflow")) / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for place in (logs, *logs.rglob("*")):
            os.chown(place, AIRFLOW_UID, AIRFLOW_UID)


def make_users() -> None:
    """The users of .env with the passwords that are there now.

    Not with ``airflow users create``: each call takes seconds, and shows the password in the list of processes.
    """
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        manager = builder.sm
        made = [name for name, role in USERS.items() if make_user(manager, name, role)]
        # Airflow builds its navigation, portmon's entry included, from the list of plugins; by default these roles may
        # not read it.
        may_read = manager.create_permission("can_read", "Plugins")
        for role in ("Viewer", "User"):
            manager.add_permission_to_role(manager.find_role(role), may_read)
        if not made and not manager.count_users():
            print("The page has no user: set AIRFLOW_ADMIN_PASSWORD in .env, and start airflow-init again", flush=True)


def make_user(manager: Any, variable: str, role: str) -> bool:
    """Make one user, or set the password anew; whether one is wanted."""
    name, password = (os.environ.get(f"AIRFLOW_{variable}_{what}", "") for what in ("USER", "PASSWORD"))
    if not name or not password:
        return False
    if user := manager.find_user(username=name):
        # A password that is set ends the user's sessions, and init runs whenever the services are made anew.
        done = check_password_hash(user.password, password) or manager.reset_password(user.id, password)
    else:
        done = manager.add_user(name, name, role, f"{name}@localhost", manager.find_role(role), password)
    if not done:
        sys.exit(f"Airflow could not make the user {name}, or set its password: its reason is above")
    print(f"User {name} ({role}) has the password of .env", flush=True)
    return True


def main() -> None:
    make_database()
    own_logs()
    for command in (
        ["airflow", "db", "migrate"],
        ["airflow", "pools", "set", "portmon", "16", "logins of portmon"],
        ["portmon", "db", "upgrade"],
    ):
        print("+", *command, flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
    make_users()


if __name__ == "__main__":
    main()
