"""Which hosts make a batch, and in which order they are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.model.host import Host
from portmon.scan.batches import MAX_BATCHES, HostBatch, batches_at_once, deal, in_order, network_of


def fleet(count: int, *, networks: int = 10) -> list[Host]:
    return [Host(f"id-{n:05}", f"web{n}", f"10.0.{n % networks}.{n // networks + 1}") for n in range(count)]


def dealt(hosts: Sequence[Host], **values: Any) -> list[HostBatch]:
    return deal(hosts, **({"size": 250, "max_logins": 16, "proxies": {}, "per_proxy": 8} | values))


@given(
    count=st.integers(0, 700),
    networks=st.integers(1, 40),
    size=st.integers(1, 300),
    max_logins=st.integers(1, 300),
    per_proxy=st.integers(1, 20),
    proxied=st.sets(st.integers(0, 699)),
)
def test_every_host_is_in_one_batch_and_limits_hold(
    count: int, networks: int, size: int, max_logins: int, per_proxy: int, proxied: set[int]
) -> None:
    hosts = fleet(count, networks=networks)
    proxies = {f"id-{n:05}": f"ssh bastion{n % 2}" for n in proxied}
    batches = dealt(hosts, size=size, max_logins=max_logins, per_proxy=per_proxy, proxies=proxies)
    assert sorted(host.id for batch in batches for host in batch.hosts) == [host.id for host in hosts]
    assert len(batches) <= MAX_BATCHES
    at_once = batches_at_once(max_logins)
    together = sorted((batch.logins for batch in batches), reverse=True)[:at_once]
    assert sum(together) <= max_logins
    assert all(batch.logins >= 1 for batch in batches)
    for command in set(proxies.values()):
        lanes = sorted((batch.lanes.get(command, 0) for batch in batches), reverse=True)[:at_once]
        assert sum(lanes) <= per_proxy


def test_all_logins_are_used() -> None:
    assert [batch.logins for batch in dealt(fleet(1000))] == [8] * 4
    assert [batch.logins for batch in dealt(fleet(500), max_logins=17)] == [9, 8]
    assert [batch.logins for batch in dealt(fleet(101))] == [16]
    # Two run at a time, whichever these are: and always two, up to the end.
    assert [batch.logins for batch in dealt(fleet(2000))] == [8] * 8
    assert [batch.logins for batch in dealt(fleet(1050))] == [8] * 6


def test_ten_thousand_hosts_make_at_most_64_tasks() -> None:
    assert len(dealt(fleet(10_000, networks=50))) == 40
    assert len(dealt(fleet(20_000, networks=100))) == MAX_BATCHES


def test_batches_are_about_as_long() -> None:
    lengths = [len(batch.hosts) for batch in dealt(fleet(1003))]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("networks", [4, 8, 10])
def test_a_dead_rack_fills_no_batch(networks: int) -> None:
    """However many networks there are: as many as batches would be the worst if they were dealt in turn."""
    hosts = fleet(1000, networks=networks)
    for batch in dealt(hosts):
        own = in_order(batch.hosts, {})
        counts = Counter(network_of(host.address) for host in own)
        assert max(counts.values()) - min(counts.values()) <= 1
        # Nor does it come in one piece.
        assert len({network_of(host.address) for host in own[:networks]}) == networks


@given(count=st.integers(0, 60), failing=st.dictionaries(st.integers(0, 59), st.sampled_from(["timeout", None])))
def test_known_failures_come_last_and_time_outs_at_the_very_end(count: int, failing: dict[int, str | None]) -> None:
    hosts = fleet(count)
    failed = {f"id-{n:05}": error for n, error in failing.items()}
    order = in_order(hosts, failed)
    assert sorted(host.id for host in order) == [host.id for host in hosts]
    patience = [(host.id in failed) + (failed.get(host.id) == "timeout") for host in order]
    assert patience == sorted(patience)


@given(
    count=st.integers(0, 40),
    failing=st.dictionaries(st.integers(0, 39), st.sampled_from(["timeout", None])),
    untried=st.dictionaries(st.integers(0, 39), st.integers(0, 3)),
)
def test_what_the_last_run_did_not_try_comes_first(
    count: int, failing: dict[int, str | None], untried: dict[int, int]
) -> None:
    hosts = fleet(count)
    failed = {f"id-{n:05}": error for n, error in failing.items()}
    since = {f"id-{n:05}": datetime(2026, 1, 1, hour, tzinfo=UTC) for n, hour in untried.items()}
    order = in_order(hosts, failed, since)
    assert sorted(host.id for host in order) == [host.id for host in hosts]
    # What failed last time is dialled beside the others, so it stays behind them.
    turns = [(host.id in failed, host.id not in since) for host in order]
    assert turns == sorted(turns)
    for network in {network_of(host.address) for host in order}:
        for did_fail in (False, True):
            own = [
                since[host.id]
                for host in order
                if network_of(host.address) == network and host.id in since and (host.id in failed) is did_fail
            ]
            assert own == sorted(own)


def test_batches_of_a_fleet_that_stays_the_same_are_the_same() -> None:
    """They are stored, once."""
    assert dealt(fleet(1000)) == dealt(fleet(1000)[::-1])


def test_hosts_behind_a_bastion_share_its_logins() -> None:
    proxies = {host.id: "ssh -W [%h]:%p bastion" for host in fleet(5000)}
    batches = dealt(fleet(5000), max_logins=256, proxies=proxies, per_proxy=8)
    assert len(batches) == 8
    assert all(batch.lanes == {"ssh -W [%h]:%p bastion": 1} for batch in batches)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.0/24"),
        ("2001:db8::17", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("web01.rack7.example.com", "rack7.example.com"),
        ("web01", "web"),
        ("", ""),
    ],
)
def test_network(address: str, network: str) -> None:
    assert network_of(address) == network
