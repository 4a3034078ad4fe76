"""How much is measured, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of hosts and the like.

    :param repeat: rounds; the medians of their values are told
    :param services: sockets that listen on each host
    :param sweep_hosts: of the bare loop and of runs in sweep mode
    :param large_hosts: of the same, where it is shown that the cost of a host does not grow with their number
    :param dead_hosts: besides, in runs of their own
    :param batch_hosts: of one sweep task
    :param task_hosts: of runs with a task per host
    :param ansible_hosts: that Ansible asks, and portmon for comparison
    :param diff_hosts: of each made-up fleet in SQLite
    :param diff_hosts_postgres: of the one in PostgreSQL
    :param diff_ports: on each of their hosts
    :param replay_hosts: of the fleet of which days are evaluated again
    :param replay_runs: how many runs these days had
    :param replay_change_every: after so many of them one port in a hundred changes, or is as it was again
    :param probe_sockets: of hosts with many, and with even more
    :param probe_looks: of either probe, in each round
    :param page_hosts: of the made-up fleet in PostgreSQL that the page shows
    :param page_hosts_sqlite: of the one in SQLite
    :param page_events: of the one in PostgreSQL; the other one has as many per host
    :param page_runs: so many runs have left visits and events
    :param page_requests: to each page, in each round
    :param page_readers: people who read at a time, a page each in two seconds
    :param quick: the figures mean nothing
    :param large: made-up fleets of more hosts than this are evaluated no more than ``large_repeat`` times, and so often
        are ``large_hosts`` asked
    """

    repeat: int
    services: int
    sweep_hosts: int
    large_hosts: int
    dead_hosts: int
    batch_hosts: int
    task_hosts: int
    ansible_hosts: int
    diff_hosts: tuple[int, ...]
    diff_hosts_postgres: int
    diff_ports: int
    replay_hosts: int
    replay_runs: int
    replay_change_every: int
    probe_sockets: tuple[int, int]
    probe_looks: int
    page_hosts: int
    page_hosts_sqlite: int
    page_events: int
    page_runs: int
    page_requests: int
    page_readers: int
    quick: bool = False
    large: int = 50_000
    large_repeat: int = 3

    @property
    def most_hosts(self) -> int:
        """Hosts that some section asks at once."""
        return max(self.sweep_hosts, self.large_hosts, self.task_hosts, self.ansible_hosts)

    def repeats(self, hosts: int) -> int:
        """Rounds for a made-up fleet."""
        return min(self.repeat, self.large_repeat) if hosts > self.large else self.repeat


FULL = Sizes(
    repeat=5,
    services=30,
    sweep_hosts=1000,
    large_hosts=10_000,
    dead_hosts=50,
    batch_hosts=500,
    task_hosts=200,
    ansible_hosts=200,
    diff_hosts=(1_000, 10_000, 100_000),
    diff_hosts_postgres=10_000,
    diff_ports=30,
    replay_hosts=500,
    replay_runs=7 * 24 * 12,
    replay_change_every=24,
    probe_sockets=(10_000, 30_000),
    probe_looks=11,
    page_hosts=10_000,
    page_hosts_sqlite=500,
    page_events=1_000_000,
    page_runs=13 * 24 * 12,
    page_requests=20,
    page_readers=20,
)

QUICK = Sizes(
    repeat=1,
    services=5,
    sweep_hosts=24,
    large_hosts=60,
    dead_hosts=2,
    batch_hosts=8,
    task_hosts=8,
    ansible_hosts=8,
    diff_hosts=(100, 200),
    diff_hosts_postgres=200,
    diff_ports=30,
    replay_hosts=20,
    replay_runs=20,
    replay_change_every=4,
    probe_sockets=(400, 800),
    probe_looks=2,
    page_hosts=40,
    page_hosts_sqlite=20,
    page_events=2_000,
    page_runs=60,
    page_requests=3,
    page_readers=3,
    quick=True,
)
"""To see that everything works: the figures mean nothing."""
