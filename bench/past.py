"""What many runs before the first round of a made-up fleet left behind: events, alerts, deliveries, runs and visits.

Made by SQL that PostgreSQL and SQLite both understand, because a million events take minutes otherwise. Which host and
which port an event is of follows from its number.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from bench.fleet import INTERVAL, Fleet

SEEN_EVERY = 20
"""Of one host in so many the visits of all runs are there; of the others those of the last :data:`SHOWN_RUNS`."""
SHOWN_RUNS = 50
"""As many as one page of runs has."""
OPEN_PERCENT = 3
"""Open alerts for each hundred hosts."""

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most) "
# Each tenth event begins an alert.
_KINDS = (
    "down",
    "recovered",
    "restarted",
    "new",
    "replaced",
    "restarted",
    "moved",
    "restarted",
    "recovered",
    "restarted",
)
_LABELS = """
UPDATE hosts SET labels = '{"env":"'
    || CASE CAST(substr(host_id, 4) AS integer) % 3 WHEN 0 THEN 'prod' WHEN 1 THEN 'test' ELSE 'dev' END
    || '","site":"site-' || (CAST(substr(host_id, 4) AS integer) % 5) || '"}'
"""
_DETAILS = '{"addresses":["0.0.0.0"],"map_index":3,"pids":[123],"programs":["nginx"],"task":"netstat","uids":[0]}'
_EVENTS = """
INSERT INTO events (id, kind, alert_group, at, run_id, host_id, host_name, protocol, port, severity, reason, program,
    unit, labels, details, dispatched, alert_id)
SELECT 'made-' || i, {kinds}, 'down', {at}, 'past-' || (i % :runs), 'id-' || ({host}), 'host-' || {padded}, 'tcp',
    1000 + i / 10 % :ports * 10, 'critical', 'Missing in the complete answers of 2 runs', 'nginx', 'nginx.service',
    '{{"env":"prod","site":"site-1"}}', :details, true,
    CASE i % 10 WHEN 0 THEN 'made-' || i END
FROM n
"""
_ALERTS = """
INSERT INTO alerts (id, key, host_id, last_event_id, starts_at)
SELECT id, 'port/' || host_id || '/tcp/' || port, host_id, id, at
FROM events WHERE kind = 'down' ORDER BY seq DESC LIMIT :open
"""
_DELIVERIES = """
INSERT INTO deliveries (event_id, channel, state, tries, targets_done, created_at, updated_at)
SELECT id, 'mail', 'delivered', 1, '[]', at, at FROM events WHERE kind IN ('down', 'recovered')
"""
_RUNS = """
INSERT INTO runs (run_id, run_type, started_at, finished_at, inventory, inventory_fetched_at, inventory_stale, settings,
    summary, after_step)
SELECT 'past-' || i, 'scheduled', {at}, {end}, 'none', {at}, false, 'none', '{{"scanned":' || :hosts || '}}', 0 FROM n
"""
_VISITS = """
INSERT INTO observations (host_id, observed_at, run_id, try_number, outcome, error_class, duration, confirmed)
SELECT hosts.host_id, {at}, 'past-' || i, 1, {outcome}, {error}, 0.2, true
FROM n, hosts WHERE i <= :shown OR CAST(substr(hosts.host_id, 4) AS integer) % :every = 0
"""


def make(conn: Connection, fleet: Fleet, *, events: int, runs: int) -> None:
    """Write it all.

    :param fleet: whose hosts have rows
    :param events: how many, spread over the time of the runs
    :param runs: how many, in the rhythm of the rounds, all of them before round 0
    """
    is_postgres = conn.dialect.name == "postgresql"

    def ago(seconds: str) -> str:
        """A time before round 0, as portmon stores it."""
        if is_postgres:
            return f"to_timestamp(:start - ({seconds}))"
        return f"strftime('%Y-%m-%d %H:%M:%f', :start - ({seconds}), 'unixepoch') || '000'"

    every = INTERVAL.total_seconds()
    length = runs * every
    host = "(i % :hosts) * 7919 % :hosts"
    padded = f"lpad(CAST({host} AS text), 6, '0')" if is_postgres else f"printf('%06d', {host})"
    kinds = "CASE i % 10 " + " ".join(f"WHEN {number} THEN '{kind}'" for number, kind in enumerate(_KINDS)) + " END"
    failed = "(i * 31 + CAST(substr(hosts.host_id, 4) AS integer)) % 200 = 7"
    values: dict[str, Any] = {
        "start": fleet.at(0).timestamp(),
        "hosts": fleet.hosts,
        "ports": fleet.ports,
        "runs": runs,
    }

    def execute(statement: str, **given: Any) -> None:
        # A parameter that a statement does not have is an error.
        known = {name: value for name, value in {**values, **given}.items() if f":{name}" in statement}
        conn.execute(text(statement), known)

    execute(_LABELS)
    at = ago(f"{length} * (:most - i) / :most + 1")
    execute(_NUMBERS + _EVENTS.format(kinds=kinds, at=at, host=host, padded=padded), most=events, details=_DETAILS)
    execute(_ALERTS, open=max(1, fleet.hosts * OPEN_PERCENT // 100))
    execute(_DELIVERIES)
    at, end = ago(f"i * {every}"), ago(f"i * {every} - 70")
    execute(_NUMBERS + _RUNS.format(at=at, end=end), most=runs)
    outcome, error = (f"CASE WHEN {failed} THEN {bad} ELSE {good} END" for bad, good in
                      (("'unreachable'", "'ok'"), ("'ConnectTimeoutError'", "NULL")))  # fmt: skip
    visits = _VISITS.format(at=ago(f"i * {every} - 30"), outcome=outcome, error=error)
    execute(_NUMBERS + visits, most=runs, shown=SHOWN_RUNS, every=SEEN_EVERY)
