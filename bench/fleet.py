"""A made-up fleet in portmon's database: what an evaluation needs, without a login.

Host ``number`` has ports, each with a process of its own, so that no two hosts show the same. In each round
without changes every host shows what it showed before. In the round of a change one port in a hundred is different
from then on: by turns it is gone, has another process, or a new one listens beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Connection, bindparam, insert, literal, select

from portmon.config import Config
from portmon.model.host import Host, Inventory
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.replay.run import Window, replay_run
from portmon.steps.evaluate import evaluate_run
from portmon.steps.plan import asked_by, plan_sweep
from portmon.steps.run import Run, TaskOf
from portmon.storage import archive, checkpoints, contents, hosts, inventory, journal, runs
from portmon.storage.database import Database
from portmon.storage.tables import observations

START = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = timedelta(minutes=5)
CHANGED_PERCENT = 1
PROGRAMS = ("nginx: master", "java", "postgres", "redis-server", "node_exporter", "sshd: /usr/sbin/sshd")


@dataclass(frozen=True, slots=True)
class Planned:
    """A run, the digest of its host list, and its batches of hosts."""

    run: Run
    digest: str
    batches: Sequence[Mapping[str, Any]]

    def asked(self, conn: Connection) -> dict[str, TaskOf]:
        """Host id: which task asks it."""
        return asked_by(conn, self.batches, (), sweep="sweep", own="netstat")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts with ports.

    :param url: of the state database
    :param hosts: how many
    :param ports: on each
    :param start: when round 0 is
    """

    url: str
    hosts: int
    ports: int
    start: datetime = START

    def open(self) -> Database:
        """The database."""
        return Database(self.url)

    def at(self, number: int) -> datetime:
        """When a round is."""
        return self.start + number * INTERVAL

    def build(self) -> None:
        """Create the tables, list the hosts, and note a first complete answer of each: round 0."""
        database = self.open()
        database.migrate()
        with database.begin() as conn:
            hosts.sync(conn, self._inventory().hosts)
            self._start(conn, 0)
        self._save(database, self._observations(0, range(self.hosts), changes=0))
        database.dispose()

    def look(self, number: int, *, changes: int, changed_now: bool) -> None:
        """Note what every host shows in a round.

        :param number: of the round
        :param changes: how many times one port in a hundred has changed until now
        :param changed_now: the last of these changes is this round's
        """
        database = self.open()
        # At 0 changes the first change is taken back.
        affected = [host for host in range(self.hosts) if changed_now and self._changes_in(host, changes or 1)]
        with database.begin() as conn:
            self._start(conn, number)
            self._repeat(conn, number, {f"id-{host}" for host in affected})
        self._save(database, self._observations(number, affected, changes=changes))
        database.dispose()

    def plan(self, database: Database, number: int) -> Planned:
        """What the tasks before the evaluation of a round say to it."""
        run = Run(f"round-{number}")
        with database.begin() as conn:
            good = inventory.last_good(conn)
        assert good is not None
        batches = plan_sweep(database, Config(), run, good.digest, proxy_of=lambda _: None, now=self.at(number))
        return Planned(run, good.digest, batches)

    def evaluate(self, database: Database, number: int, planned: Planned) -> dict[str, int]:
        """The evaluation of a round, as the task ``diff_ports`` makes it."""
        with database.begin() as conn:
            asked = planned.asked(conn)
        return evaluate_run(
            database,
            Config(),
            planned.run,
            planned.digest,
            planned=asked,
            interval=INTERVAL,
            now=self.at(number),
        )

    def note(self, database: Database, number: int, planned: Planned) -> None:
        """Note an evaluation of a round in the journal, without one; and a checkpoint each day, of whatever state.

        :param planned: of any round: batches stay what they are
        """
        with database.begin() as conn:
            checkpoints.keep(conn, self.at(number))
            inputs = journal.Inputs(INTERVAL, planned=planned.asked(conn))
            journal.evaluated(
                conn, f"round-{number}", at=self.at(number), inventory=planned.digest, inputs=inputs, observed=()
            )

    def replay(self, database: Database, rounds: int) -> dict[str, int]:
        """Evaluate rounds again, as the task ``diff_ports`` of a run with ``replay_from`` does."""
        end = self.at(rounds)
        run = Run(f"replay-{rounds}", replay_from=self.start)
        return replay_run(database, Config(), run, Window(self.start, end), interval=INTERVAL)

    def listeners(self, host: int, changes: int) -> Iterator[Listener]:
        """What listens on a host.

        :param changes: see :meth:`look`
        """
        for index in range(self.ports):
            change = (host * self.ports + index) % 100
            kind = (host + index) % 3 if 1 <= change <= changes else None
            port = 1000 + index * 10
            pid = 1 + host * 7 % 30_000 + index * 50
            program = PROGRAMS[index % len(PROGRAMS)]
            unit = f"app-{index}.service"
            own = pid + 7 if kind == 1 else pid
            if kind != 0:
                yield Listener(
                    protocol="tcp",
                    address="0.0.0.0" if index % 3 else "127.0.0.1",
                    port=port,
                    pid=own,
                    program=program,
                    uid=1000 + index,
                    inode=20_000 + own,
                    unit=unit,
                )
            if kind == 2:
                yield Listener("tcp", "0.0.0.0", port + 1, pid=pid + 1, program=program, uid=1000 + index, unit=unit)

    # ── rows ────────────────────────────────────────────────────────────────────────────────────

    def _inventory(self) -> Inventory:
        listed = (Host(f"id-{host}", f"host-{host:06}", _address(host)) for host in range(self.hosts))
        return Inventory(tuple(listed), source="made up")

    def _start(self, conn: Connection, number: int) -> None:
        at = self.at(number)
        digest = inventory.save(conn, self._inventory(), run_id=f"round-{number}", fetched_at=at, stale=False)
        runs.start(
            conn,
            f"round-{number}",
            run_type="scheduled",
            logical_date=at,
            started_at=at,
            scope=None,
            inventory=digest,
            inventory_fetched_at=at,
            inventory_stale=False,
            settings=contents.put(conn, Config().to_json(), now=at),
        )

    def _repeat(self, conn: Connection, number: int, without: set[str]) -> None:
        """Rows of hosts that show what they showed the round before."""
        new: Mapping[str, Any] = {
            "observed_at": literal(self.at(number), observations.c.observed_at.type),
            "run_id": literal(f"round-{number}"),
            "logical_date": literal(self.at(number), observations.c.observed_at.type),
        }
        names = [column.name for column in observations.columns]
        before = select(*(new.get(name, observations.c[name]) for name in names)).where(
            observations.c.run_id == f"round-{number - 1}"
        )
        conn.execute(insert(observations).from_select(names, before))
        # By the primary key: the index of runs, which a planner may prefer, has every host of the round.
        gone = observations.delete().where(
            observations.c.host_id == bindparam("gone"), observations.c.observed_at == self.at(number)
        )
        if without:
            conn.execute(gone, [{"gone": host_id} for host_id in sorted(without)])

    def _save(self, database: Database, observations: Iterator[Observation]) -> None:
        with database.begin() as conn:
            while part := list(islice(observations, 1000)):
                archive.save_observations(conn, part)

    def _observations(self, number: int, chosen: Iterable[int], *, changes: int) -> Iterator[Observation]:
        for host in chosen:
            listeners = tuple(self.listeners(host, changes))
            yield Observation(
                host_id=f"id-{host}",
                run_id=f"round-{number}",
                try_number=1,
                observed_at=self.at(number),
                logical_date=self.at(number),
                outcome=Outcome.OK,
                listing=Listing(
                    tool="netstat-W",
                    uid=1000,
                    boot_id=f"00000000-0000-4000-8000-{host:012}",
                    netns=4026531840,
                    listeners=listeners,
                ),
                frames=(_frame(listeners),),
                duration=0.5,
            )

    def _changes_in(self, host: int, change: int) -> bool:
        """Whether one of the ports of a host is among those of a change."""
        return any((host * self.ports + index) % 100 == change for index in range(self.ports))


def _frame(listeners: Iterable[Listener]) -> bytes:
    """About what a host would have printed, for the size of the archive: nothing reads it."""
    rows = "".join(
        f"tcp        0      0 {one.address}:{one.port}  0.0.0.0:*  LISTEN  {one.pid}/{one.program}\n"
        f"LISTEN 0 128 {one.address}:{one.port} 0.0.0.0:* uid:{one.uid} ino:{one.inode} sk:{one.pid} <->\n"
        f"/proc/{one.pid}/status:Name:\t{one.program}\n/proc/{one.pid}/status:Uid:\t{one.uid}\t{one.uid}\n"
        f"/proc/{one.pid}/cgroup:0::/system.slice/{one.unit}\n"
        for one in listeners
    )
    return rows.encode()


def _address(host: int) -> str:
    return f"10.{host // 62_500}.{host // 250 % 250}.{host % 250 + 1}"
