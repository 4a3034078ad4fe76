"""Which events of hosts are folded into an outage of their site."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.alerting.outages import LEAST_EVENTS, LEAST_HOSTS, Outage, find_outages
from portmon.model.alert import Alert
from portmon.model.event import Event
from portmon.model.event_kinds import AlertRole, EventKind

NOON = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
GONE, BACK = EventKind.UNREACHABLE, EventKind.REACHABLE


def alert(kind: EventKind, host_id: str | None) -> Alert:
    event = Event(id=f"{kind}/{host_id}", kind=kind, at=NOON, run_id="run", host_id=host_id, host_name=host_id)
    return Alert(id=event.id, role=AlertRole.FIRING, event=event, first=event, starts_at=NOON)


def fleet(**sites: int) -> dict[str, Mapping[str, str]]:
    """Host ids such as ``dc1-0``, each with a label of its site."""
    return {f"{site}-{number}": {"site": site} for site, count in sites.items() for number in range(count)}


def ids(site: str, *numbers: int) -> list[str]:
    return [f"{site}-{number}" for number in numbers]


def test_site_of_which_enough_is_gone_is_folded_and_the_other_is_not() -> None:
    labels = fleet(dc1=8, dc2=8)
    gone = [*ids("dc1", 0, 1, 2, 3, 4), *ids("dc2", 0, 1, 2)]
    found = find_outages([alert(GONE, one) for one in gone], labels, gone, ratio=0.5, label="site")
    assert found == dict.fromkeys(ids("dc1", 0, 1, 2, 3, 4), Outage("dc1", 8, 5))


@pytest.mark.parametrize(
    ("hosts", "unreachable", "ratio", "folded"),
    [
        (8, 4, 0.5, False),  # fewer than five
        (10, 5, 0.5, True),
        (11, 5, 0.5, False),
        (5, 5, 1.0, True),
        (100, 7, 0.07, True),  # 0.07 * 100 is more than 7
        (100, 6, 0.07, False),
    ],
)
def test_share_and_number_that_make_an_outage(hosts: int, unreachable: int, ratio: float, folded: bool) -> None:
    labels = fleet(dc1=hosts)
    gone = ids("dc1", *range(unreachable))
    assert bool(find_outages([alert(GONE, one) for one in gone], labels, gone, ratio=ratio, label=None)) == folded


def test_one_event_is_told_as_it_is() -> None:
    labels, gone = fleet(dc1=8), ids("dc1", *range(8))
    assert find_outages([alert(GONE, "dc1-7")], labels, gone, ratio=0.5, label="site") == {}
    two = [alert(GONE, "dc1-6"), alert(GONE, "dc1-7")]
    assert find_outages(two, labels, gone, ratio=0.5, label="site") == dict.fromkeys(
        ("dc1-6", "dc1-7"), Outage("dc1", 8, 8)
    )


def test_one_host_twice_is_one_host() -> None:
    labels, gone = fleet(dc1=8), ids("dc1", *range(8))
    assert find_outages([alert(GONE, "dc1-7")] * 2, labels, gone, ratio=0.5, label="site") == {}
    assert find_outages([alert(BACK, "dc1-7")] * 5, labels, (), ratio=0.1, label="site") == {}


def test_what_comes_back_counts_by_the_message() -> None:
    labels = fleet(dc1=8)
    back = [alert(BACK, one) for one in ids("dc1", *range(5))]
    assert find_outages(back[:4], labels, (), ratio=0.5, label="site") == {}
    assert find_outages(back, labels, ["dc1-7"], ratio=0.7, label="site") == {}
    assert set(find_outages(back, labels, ["dc1-7"], ratio=0.6, label="site").values()) == {Outage("dc1", 8, 1)}


def test_host_without_the_label_belongs_to_no_site() -> None:
    labels = {**{f"h{at}": {} for at in range(8)}, **{f"e{at}": {"site": ""} for at in range(8)}}
    alerts = [alert(GONE, one) for one in labels]
    assert find_outages(alerts, labels, list(labels), ratio=0.1, label="site") == {}
    assert set(find_outages(alerts, labels, list(labels), ratio=0.1, label=None).values()) == {Outage("", 16, 16)}


KINDS = st.sampled_from((GONE, BACK, EventKind.REBOOTED, EventKind.CMDB_STALE))
HOSTS = st.integers(0, 29).map(lambda number: f"h{number}")


@given(
    labels=st.dictionaries(HOSTS, st.dictionaries(st.just("site"), st.sampled_from(("a", "b", ""))), max_size=30),
    told=st.lists(st.tuples(KINDS, st.one_of(HOSTS, st.none())), max_size=40),
    unreachable=st.sets(HOSTS),
    ratio=st.floats(0.01, 1),
    label=st.sampled_from((None, "site", "rack")),
)
def test_folded_is_what_the_rule_says(
    labels: dict[str, dict[str, str]],
    told: list[tuple[EventKind, str | None]],
    unreachable: set[str],
    ratio: float,
    label: str | None,
) -> None:
    alerts = [alert(kind, host_id) for kind, host_id in told]
    found = find_outages(alerts, labels, unreachable, ratio=ratio, label=label)
    assert found == find_outages(alerts[::-1], labels, list(unreachable), ratio=ratio, label=label)

    def site(host_id: str | None) -> str | None:
        if host_id not in labels:
            return None
        return "" if label is None else labels[host_id].get(label) or None

    for kind, host_id in told:
        own = site(host_id)
        members = {one for one in labels if site(one) == own}
        gone = members & unreachable
        events = {one for what, one in told if what is kind and site(one) == own}
        count = len(gone) if kind is GONE else len(events)
        least = LEAST_EVENTS if kind is GONE else LEAST_HOSTS
        expected = (
            kind in (GONE, BACK)
            and own is not None
            and len(events) >= least
            and count >= LEAST_HOSTS
            and count / len(members) >= ratio
        )
        if expected:
            assert found[str(host_id)] == Outage(str(own), len(members), len(gone))
        elif not {(GONE, host_id), (BACK, host_id)} & set(told) - {(kind, host_id)}:
            assert host_id not in found
    assert set(found) <= {host_id for _, host_id in told}
