"""What the service airflow-init runs: databases, migrations, pool, the page's password. Safe to run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg2
from psycopg2 import sql
from sqlalchemy.engine import make_url

AIRFLOW_UID = 50000


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


def write_password() -> None:
    """The page's login. The volumes are the container's user's from then on."""
    path = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}))
    if os.geteuid() == 0:
        for folder in (path.parent, Path(os.environ.get("AIRFLOW_HOME", "/opt/airflow")) / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
            for place in (folder, *folder.rglob("*")):
                os.chown(place, AIRFLOW_UID, AIRFLOW_UID)


def main() -> None:
    make_database()
    write_password()
    for command in (
        ["airflow", "db", "migrate"],
        ["airflow", "pools", "set", "portmon", "16", "logins of portmon"],
        ["portmon", "db", "upgrade"],
    ):
        print("+", *command, flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
