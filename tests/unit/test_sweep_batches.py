"""Which hosts make a batch, and in which order they are asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.errors import StorageError
from portmon.models import Host
from portmon.sweep.batches import MAX_BATCHES, Batch, batch_from_json, batches_at_once, deal, network_of


def fleet(count: int, *, networks: int = 10) -> list[Host]:
    return [Host(f"id-{n:05}", f"web{n}", f"10.0.{n % networks}.{n // networks + 1}") for n in range(count)]


def dealt(hosts: Sequence[Host], **values: Any) -> list[Batch]:
    return deal(hosts, **({"size": 250, "max_logins": 16, "failing": {}, "proxies": {}, "per_proxy": 8} | values))


@given(
    count=st.integers(0, 700),
    networks=st.integers(1, 40),
    size=st.integers(1, 300),
    max_logins=st.integers(1, 300),
    per_proxy=st.integers(1, 20),
    failing=st.sets(st.integers(0, 699)),
    proxied=st.sets(st.integers(0, 699)),
)
def test_every_host_is_in_one_batch_and_limits_hold(
    count: int, networks: int, size: int, max_logins: int, per_proxy: int, failing: set[int], proxied: set[int]
) -> None:
    hosts = fleet(count, networks=networks)
    failed: Mapping[str, str | None] = {f"id-{n:05}": ("timeout", None)[n % 2] for n in failing}
    proxies = {f"id-{n:05}": f"ssh bastion{n % 2}" for n in proxied}
    batches = dealt(hosts, size=size, max_logins=max_logins, per_proxy=per_proxy, failing=failed, proxies=proxies)
    assert sorted(host_id for batch in batches for host_id in batch.hosts) == [host.id for host in hosts]
    assert len(batches) <= MAX_BATCHES
    at_once = batches_at_once(max_logins)
    together = sorted((batch.logins for batch in batches), reverse=True)[:at_once]
    assert sum(together) <= max_logins
    assert all(batch.logins >= 1 for batch in batches)
    for command in set(proxies.values()):
        lanes = sorted((batch.lanes.get(command, 0) for batch in batches), reverse=True)[:at_once]
        assert sum(lanes) <= per_proxy
    for batch in batches:
        assert set(batch.failing) == {host_id for host_id in batch.hosts if host_id in failed}
        patience = [(host_id in failed) + (failed.get(host_id) == "timeout") for host_id in batch.hosts]
        assert patience == sorted(patience)
        assert batch_from_json(json.loads(json.dumps(batch.to_json()))) == batch


def test_all_logins_are_used() -> None:
    assert [batch.logins for batch in dealt(fleet(1000))] == [4, 4, 4, 4]
    assert [batch.logins for batch in dealt(fleet(750))] == [6, 5, 5]
    assert [batch.logins for batch in dealt(fleet(101))] == [16]
    # Four run at a time, whichever these are.
    assert {batch.logins for batch in dealt(fleet(2000))} == {4}


def test_ten_thousand_hosts_make_at_most_64_tasks() -> None:
    assert len(dealt(fleet(10_000, networks=50))) == 40
    assert len(dealt(fleet(20_000, networks=100))) == MAX_BATCHES


def test_batches_are_about_as_long() -> None:
    lengths = [len(batch.hosts) for batch in dealt(fleet(1003), failing={f"id-{n:05}": "timeout" for n in range(37)})]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("networks", [4, 8, 10])
def test_a_dead_rack_fills_no_batch(networks: int) -> None:
    """However many networks there are: as many as batches would be the worst if they were dealt in turn."""
    hosts = fleet(1000, networks=networks)
    address = {host.id: host.address for host in hosts}
    for batch in dealt(hosts):
        counts = Counter(network_of(address[host_id]) for host_id in batch.hosts)
        assert max(counts.values()) - min(counts.values()) <= 1
        # Nor does it come in one piece.
        assert len({network_of(address[host_id]) for host_id in batch.hosts[:networks]}) == networks


def test_known_failures_are_spread_and_come_last() -> None:
    failing = {f"id-{n:05}": "timeout" if n % 2 else "refused" for n in range(100)}
    for batch in dealt(fleet(1000), failing=failing):
        assert len(batch.failing) == 25
        assert set(batch.hosts[-25:]) == set(batch.failing)
        assert {failing[host_id] for host_id in batch.hosts[-12:]} == {"timeout"}


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


@pytest.mark.parametrize("value", [None, [], {"hosts": ["a"]}, {"hosts": 1, "logins": 1, "lanes": {}, "failing": []}])
def test_what_is_no_batch_is_said_to_be_none(value: Any) -> None:
    with pytest.raises(StorageError, match="no batch of hosts"):
        batch_from_json(value)
