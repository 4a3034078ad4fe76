"""A fleet to which much happens, and everything that is stored of it: what evaluating again has to bring about."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from portmon.config import Config
from portmon.model.event import Event
from portmon.model.host import Host
from portmon.storage import conditions, decisions, events, tables
from portmon.storage.database import Database
from tests.worlds.fleet import MONDAY, Fleet

LONG_AGO = MONDAY - timedelta(days=1)


def everything_in(conn: Connection) -> dict[str, list[Row[Any]]]:
    """The rows of each table, by their keys: a database gives them in any order."""
    return {
        table.name: list(conn.execute(select(table).order_by(*table.primary_key.columns)))
        for table in tables.metadata.sorted_tables
    }


def state_of(conn: Connection) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table that replaying brings about, but for what is no more than a short cut: a decision about a
    host lets its next answer be compared, whether that makes a difference or not.
    """
    found = {}
    for table in (tables.hosts, tables.ports, tables.conditions):
        rows = conn.execute(select(table).order_by(*table.primary_key.columns))
        found[table.name] = [dict(row._mapping) for row in rows]
    for row in found["hosts"]:
        del row["fingerprint"]
    # A replay does not restore stale, refused and overdue.
    found["conditions"] = [row for row in found["conditions"] if "/" in row["name"] or row["name"] == conditions.FLEET]
    return found


def derived(
    conn: Connection,
    since: datetime = LONG_AGO,
    until: datetime = MONDAY + timedelta(days=365),
    last: int = 1 << 30,
) -> list[Event]:
    """In the order of their ids: what the same step derives has no other one."""
    found = events.derived(conn, since, until, after=0, last=last)
    return sorted(found, key=lambda event: (event.at, event.id))


def lived(fleet: Fleet) -> tuple[Any, list[Event]]:
    with fleet.database.begin() as conn:
        return state_of(conn), derived(conn)


def small_fleet(database: Database, **config: Any) -> Fleet:
    fleet = Fleet(database, Config(**config))
    for number in range(4):
        fleet.add(f"web{number}", {22: "sshd", 80: "nginx", 443: "nginx"}, env="prod")
    fleet.add("db", {22: "sshd", 5432: "postgres"})
    return fleet


def eventful(fleet: Fleet, runs: int, seed: int = 1) -> None:
    """Runs of which nearly each brings something."""
    chance = random.Random(seed)
    for _ in range(runs):
        machine = chance.choice([one for name, one in fleet.machines.items() if name in fleet.listed])
        match chance.randrange(16):
            case 0 if len(machine.services) > 1:
                machine.kill(chance.choice(sorted(machine.services)))
            case 1:
                machine.start(chance.choice([80, 443, 5432, 8080, 9090]), chance.choice(["nginx", "java"]))
            case 2:
                machine.restart(chance.choice(sorted(machine.services)))
            case 3:
                machine.trouble = None if machine.trouble else chance.choice(["timeout", "refused", "host_key_changed"])
            case 4:
                machine.boot += 1
            case 5 if len(fleet.listed) > 4:
                fleet.listed.discard(machine.host.name)
            case 6 if len(fleet.listed) < len(fleet.machines):
                fleet.listed.add(chance.choice(sorted(set(fleet.machines) - fleet.listed)))
            case 7:
                host = machine.host
                machine.host = Host(host.id, host.name, host.address, None, {"env": chance.choice(["prod", "test"])})
            case 8:
                for one in fleet.machines.values():
                    one.trouble = "timeout"
            case 9:
                for one in fleet.machines.values():
                    one.trouble = None
            case 10:
                with fleet.database.begin() as conn:
                    decisions.decide(
                        conn, decisions.DecisionKind.ACCEPTED, machine.host.id, 443, at=fleet.now, author="ann"
                    )
            case 12:
                # Another program shares a port, or leaves it.
                port = chance.choice(sorted(machine.services))
                if machine.partners.pop(port, None) is None:
                    machine.partners[port] = "varnishd"
            case 13:
                # A service restarts again and again, until it does not.
                machine.loops ^= {chance.choice(sorted(machine.services))}
            case 14:
                machine.hides = not machine.hides
            case 15 if gone := sorted({22, 80, 443} - machine.services.keys()):
                # Another program has the port of one that is down.
                machine.start(chance.choice(gone), "haproxy")
        fleet.run()


def wipe(database: Database) -> None:
    """As if nothing had ever been evaluated: the archive and the journal stay."""
    with database.begin() as conn:
        for table in (tables.deliveries, tables.events, tables.alerts, tables.ports, tables.hosts, tables.conditions):
            conn.execute(delete(table))
