"""The page over a large made-up fleet: its answers, against a bare query and Airflow's own API; and an evaluation
while people read, against one that is alone.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, text

from bench import past
from bench.diff import settle, step
from bench.errors import BenchError
from bench.figures import Section
from bench.fleet import INTERVAL, Fleet
from bench.sizes import Sizes
from demo.airflow_env import ADMIN, EmbeddedAirflow, migrate_airflow
from portmon.storage.database import Database
from tests.worlds.postgres import Cluster

PAGES = {
    "problems": "/",
    "problems_by_site": "/?group=site",
    "ports": "/ports",
    "ports_number": "/ports?port=1100",
    "ports_program": "/ports?program=redis&sort=state",
    "ports_reach": "/ports?reach=loopback&label=site%3Dsite-3",
    "ports_by_unit": "/ports?group=unit",
    "ports_csv": "/ports.csv",
    "hosts": "/hosts?sort=evidence",
    "host": "/hosts/id-0?range=7d",
    "port": "/hosts/id-0/ports/1000?range=30d",
    "events": "/events",
    "events_host": "/events?host=host-000000&kind=down",
    "runs": "/runs",
    "silences": "/silences",
    "metrics": "/metrics",
    "json": "/api/v1/problems",
}
"""Name: address below ``/portmon``, of a page or of one filter of it."""
PEER = "/api/v2/dags"
"""An answer of Airflow itself. No DAG is parsed, so that its list is empty: less it can't do."""
QUERY = """
SELECT ports.*, hosts.name, hosts.labels FROM ports JOIN hosts ON hosts.host_id = ports.host_id
WHERE hosts.removed_at IS NULL ORDER BY hosts.name, ports.host_id, ports.port LIMIT 100
"""
"""What the page of ports shows."""
PACE = 2.0
"""Seconds from one page of a reader to the next."""


def measure(sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """A large fleet in PostgreSQL, and a small one in SQLite."""
    section.sizes |= {
        "hosts": sizes.page_hosts,
        "few": sizes.page_hosts_sqlite,
        "ports": sizes.page_hosts * sizes.diff_ports,
        "events": sizes.page_events,
        "requests": sizes.page_requests,
        "readers": sizes.page_readers,
    }
    with tempfile.TemporaryDirectory(prefix="portmon-bench-") as folder:
        site = Site(Path(folder))
        cluster = Cluster(durable=True)
        try:
            _fleet("postgres", site, cluster.new_database(), sizes.page_hosts, sizes, section, tell)
        finally:
            cluster.close()
        _fleet("sqlite", site, f"sqlite:///{folder}/portmon.db", sizes.page_hosts_sqlite, sizes, section, tell)


class Site:
    """Airflow's API server, for one database after the other.

    :param folder: for its files
    """

    def __init__(self, folder: Path) -> None:
        config = folder / "portmon.yaml"
        config.write_text("")
        self.airflow = EmbeddedAirflow(folder / "airflow", config=config, connections={})
        migrate_airflow(self.airflow.env, folder / "migrate.out")
        self._token = ""

    @contextmanager
    def serving(self, url: str) -> Iterator[None]:
        """With an API server whose page shows a database."""
        self.airflow.env["AIRFLOW_CONN_PORTMON_DB"] = _connection(url)
        self.airflow.start_process("api-server")
        try:
            self.airflow.wait(self._login, "the API server", seconds=180)
            yield
        finally:
            self.airflow.stop()

    def ask(self, path: str) -> float:
        """Ask for an address.

        :returns: seconds until the last byte was there
        :raises BenchError: if the answer is an error: it took another time
        """
        started = time.monotonic()
        status, body = self._request("GET", path)
        if status != http.client.OK:
            raise BenchError(f"{path}: HTTP {status} {body[:300]!r}")
        return time.monotonic() - started

    def _login(self) -> bool:
        status, body = self._request(
            "POST", "/auth/token", json.dumps({"username": ADMIN, "password": self.airflow.password})
        )
        if status == http.client.CREATED:
            self._token = json.loads(body)["access_token"]
        return status == http.client.CREATED

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.airflow.port, timeout=60)
        try:
            headers = {"Content-Type": "application/json"} if body else {"Authorization": f"Bearer {self._token}"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Readers:
    """People who read a page each in :data:`PACE` seconds, all of them another one.

    :param site: where
    :param count: how many
    """

    def __init__(self, site: Site, count: int) -> None:
        self.seconds: list[float] = []
        self._site, self._count = site, count
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While they read, each of them one page at least.

        :raises BenchError: if a page could not be read
        """
        threads = [threading.Thread(target=self._read, args=(number,)) for number in range(self._count)]
        for thread in threads:
            thread.start()
        try:
            while len(self.seconds) < self._count and not self._errors:
                time.sleep(0.05)
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._errors:
            raise BenchError(f"a reader got no page: {self._errors[0]}") from self._errors[0]

    def _read(self, number: int) -> None:
        paths = list(PAGES.values())
        # Not all at once.
        due = time.monotonic() + number * PACE / self._count
        turn = number
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            try:
                self.seconds.append(self._site.ask(f"/portmon{paths[turn % len(paths)]}"))
            except (BenchError, OSError, http.client.HTTPException) as error:
                self._errors.append(error)
                return
            turn += 1
            due = max(due + PACE, time.monotonic())


def _fleet(
    name: str, site: Site, url: str, hosts: int, sizes: Sizes, section: Section, tell: Callable[[str], None]
) -> None:
    # The rounds end now: what a page calls the last 24 hours are the fleet's.
    evaluations = 2 * (sizes.repeat + 1)
    start = datetime.now(UTC).replace(microsecond=0) - (evaluations + 1) * INTERVAL
    order: dict[str, Any] = {"url": url, "hosts": hosts, "ports": sizes.diff_ports, "start": start.isoformat()}
    tell(f"{hosts} hosts in {url.partition(':')[0]}: the baseline and what was before")
    step({"step": "build", **order})
    fleet = Fleet(url, hosts, sizes.diff_ports, start)
    database = Database(url)
    with database.begin() as conn:
        past.make(conn, fleet, events=sizes.page_events * hosts // sizes.page_hosts, runs=sizes.page_runs)
    settle(url)
    number = 0

    def evaluate() -> dict[str, float]:
        nonlocal number
        number += 1
        step({"step": "look", "number": number, "changes": number, "changed_now": True, **order})
        found = step({"step": "evaluate", "number": number, **order})
        if not found["events"]:
            raise BenchError(f"round {number} of {hosts} hosts had no event")
        return found

    with site.serving(url):
        for path in PAGES.values():
            site.ask(f"/portmon{path}")
        for round_ in range(1, sizes.repeat + 1):
            tell(f"{hosts} hosts in {url.partition(':')[0]}: pages, round {round_} of {sizes.repeat}")
            asked = _asked(site, database, sizes.page_requests)
            for what, measured in (("ms", statistics.median), ("p95_ms", percentile)):
                for page, seconds in asked.items():
                    section.add(f"{name}_{page}_{what}", "ms", measured(seconds) * 1000)
                section.add(f"{name}_slowest_{what}", "ms", max(measured(asked[page]) for page in PAGES) * 1000)
        # The first evaluation of either side is not measured: the caches of neither are warm.
        for round_ in range(sizes.repeat + 1):
            tell(f"{hosts} hosts in {url.partition(':')[0]}: evaluations, round {round_} of {sizes.repeat}")
            sides = ("alone", "read") if round_ % 2 else ("read", "alone")
            for side in sides:
                readers = Readers(site, sizes.page_readers)
                if side == "alone":
                    found = evaluate()
                else:
                    with readers.reading():
                        found = evaluate()
                _dispatch(database)
                if not round_:
                    continue
                section.add(f"{name}_{side}_evaluate_seconds", "s", found["seconds"])
                section.add(f"{name}_{side}_database_seconds", "s", found["database_seconds"])
                if readers.seconds:
                    section.add(f"{name}_read_ms", "ms", statistics.median(readers.seconds) * 1000)
                    section.add(f"{name}_read_p95_ms", "ms", percentile(readers.seconds) * 1000)
    database.dispose()


def _asked(site: Site, database: Database, times: int) -> Mapping[str, Sequence[float]]:
    """Ask for every page so many times, by turns with the peers, and return the seconds of each."""
    found: dict[str, list[float]] = {name: [] for name in (*PAGES, "query", "airflow")}
    with database.engine.connect() as conn:
        for _ in range(times):
            for name, path in PAGES.items():
                found[name].append(site.ask(f"/portmon{path}"))
            started = time.monotonic()
            conn.execute(text(QUERY)).all()
            found["query"].append(time.monotonic() - started)
            # A transaction that stays open would hold up the evaluation's in SQLite.
            conn.rollback()
            found["airflow"].append(site.ask(PEER))
    return found


def percentile(values: Sequence[float]) -> float:
    """The 95th percentile: 95 of a hundred values are not above it."""
    return sorted(values)[-(-len(values) * 95 // 100) - 1]


def _connection(url: str) -> str:
    """The Airflow connection of a database."""
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        return json.dumps({"conn_type": "sqlite", "host": parts.database})
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": parts.host,
            "port": parts.port,
            "login": parts.username,
            "password": parts.password,
            "schema": parts.database,
        }
    )


def _dispatch(database: Database) -> None:
    """What follows an evaluation in a run, as far as the page sees it: no event waits."""
    with database.begin() as conn:
        conn.execute(text("UPDATE events SET dispatched = true WHERE NOT dispatched"))
