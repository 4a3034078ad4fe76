"""Entries of the CMDB that can't be used: a host that was watched is not watched any more, and a person has to know.

Real steps, from the host list to the messages, over runs of a day.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from portmon.config import parse_config
from portmon.errors import CmdbError
from portmon.model.host import InvalidHost, Inventory
from portmon.storage import alerts, hosts
from portmon.storage.database import Database
from tests.worlds.fleet import TWO, Fleet

WRONG = "the declared port '22/tcp' is not 1 to 65535"


class Site(Fleet):
    """Ten web servers, some of whose entries are wrong.

    :param wrong: names of entries that can't be used
    :param cmdb_fails: it gives no list
    """

    def __init__(self, database: Database, interval: timedelta) -> None:
        super().__init__(database, parse_config(TWO))
        self.interval = interval
        self.wrong: set[str] = set()
        self.cmdb_fails = False
        for number in range(10):
            self.add(f"web{number}", {22: "sshd", 80: "nginx"})
        self.run()
        self.run()

    def load(self) -> Inventory:
        if self.cmdb_fails:
            raise CmdbError("HTTP 500", source="test")
        found = super().load().hosts
        invalid = (InvalidHost(n, host.id, host.name, WRONG) for n, host in enumerate(found) if host.name in self.wrong)
        return Inventory(tuple(host for host in found if host.name not in self.wrong), tuple(invalid), source="test")

    def days(self, count: float = 1) -> list[tuple[str, str | None]]:
        """Runs of some days; what they told."""
        return [one for _ in range(int(timedelta(days=count) / self.interval)) for one in self.told()]

    def told(self) -> list[tuple[str, str | None]]:
        """A run; what it told, and of which hosts."""
        return [(event.kind.value, event.host_id) for event in self.run()]


@pytest.fixture(params=[60, pytest.param(5, marks=pytest.mark.slow)])
def site(request: pytest.FixtureRequest, database: Database) -> Site:
    """Runs are an hour apart, so that a day has few of them, or five minutes."""
    return Site(database, timedelta(minutes=request.param))


def of_chat(site: Site, since: int = 0) -> list[str]:
    """Texts of the messages of one channel."""
    return [got.message.text for got in site.got if got.channel == "chat"][since:]


def test_an_entry_that_becomes_invalid_is_told_once_and_so_is_its_end(site: Site) -> None:
    site.wrong = {"web1"}
    site.machines["web1"].kill(80)
    (event,) = site.run()
    assert (event.kind, event.host_id, event.severity) == ("unscanned", "id-web1", "warning")
    assert event.reason == f"Its entry in the CMDB can't be used: {WRONG}"
    assert event.last_seen == site.start + site.interval
    assert len(of_chat(site)) == 1
    assert "web1" in of_chat(site)[0]
    # It is asked by no run, and neither it nor its ports are judged.
    assert site.days(0.9) == []
    assert len(of_chat(site)) == 1
    site.wrong = set()
    # The first look after such a pause that lacks a port confirms that it is gone.
    assert site.told() == [("scanned", "id-web1"), ("down", "id-web1")]
    assert site.days(0.1) == []


def test_it_may_become_invalid_in_a_list_that_the_cmdb_does_not_give_any_more(site: Site) -> None:
    site.wrong = {"web1"}
    # The run that took the list over was killed before its diff, and since then the CMDB fails.
    assert site.run(evaluate=False) == []
    site.cmdb_fails = True
    found = [*site.told(), *site.days(0.9)]
    assert sorted(found) == [("cmdb_stale", None), ("unscanned", "id-web1")]
    # Its entry may be right by then: nothing says so.
    site.wrong = set()
    assert site.told() == []
    site.cmdb_fails = False
    assert site.told() == [("cmdb_fresh", None), ("scanned", "id-web1")]


def test_it_may_leave_while_it_is_invalid(site: Site) -> None:
    site.wrong = {"web1"}
    assert site.told() == [("unscanned", "id-web1")]
    assert site.told() == []
    site.listed.discard("web1")
    (event,) = site.run()
    assert (event.kind, event.host_id) == ("retired", "id-web1")
    assert event.reason == "Was not scanned; it left the CMDB"
    assert len(of_chat(site)) == 2
    with site.database.begin() as conn:
        assert [host.id for host in hosts.known(conn) if host.removed_at] == ["id-web1"]
    assert site.days(0.5) == []
    # Back, and right.
    site.listed.add("web1")
    site.wrong = set()
    assert site.told() == []


def test_it_comes_back_and_is_still_invalid(site: Site) -> None:
    site.machines["web1"].kill(80)
    assert site.told() == [("down", "id-web1")]
    site.listed.discard("web1")
    assert site.told() == [("retired", "id-web1")]
    site.listed.add("web1")
    site.wrong = {"web1"}
    assert site.told() == [("unscanned", "id-web1")]
    assert site.days(0.5) == []
    with site.database.begin() as conn:
        (alert,) = alerts.opened(conn).values()
    assert alert.event.kind == "unscanned"
    # What was wrong with it when it left is told again when it is seen.
    site.wrong = set()
    assert site.told() == [("scanned", "id-web1"), ("down", "id-web1")]


def test_one_that_comes_back_too_late_starts_anew(site: Site) -> None:
    site.config = parse_config("cmdb: {prune_after: 6h}")
    site.listed.discard("web1")
    assert site.days(0.5) == []
    site.listed.add("web1")
    site.wrong = {"web1"}
    assert site.days(0.2) == []
    site.wrong = set()
    assert site.told() == [("baseline", "id-web1")]


def test_an_entry_that_was_never_right_is_a_line_of_the_log(site: Site) -> None:
    """Nothing was watched, so nothing is lost."""
    site.add("new", {22: "sshd"})
    site.wrong = {"new"}
    assert site.days(0.5) == []


def test_many_invalid_entries_are_one_event_of_the_monitor(site: Site) -> None:
    names = [f"web{number}" for number in range(7)]
    site.wrong = set(names)
    (event,) = site.run()
    assert (event.kind, event.host_id, event.severity) == ("fleet_unscanned", None, "warning")
    assert event.details["hosts"] == 7
    assert event.details["names"] == names
    assert len(of_chat(site)) == 1
    assert site.days(0.9) == []
    assert len(of_chat(site)) == 1
    # One of them has left, and one is right: the rest is few enough to be told one by one.
    site.listed.discard("web0")
    site.wrong.discard("web1")
    left = [("unscanned", f"id-{name}") for name in names[2:]]
    found = site.told()
    assert found[0] == ("fleet_scanned", None)
    assert found[1:] == left
    assert site.days(0.2) == []
    site.wrong = set()
    assert site.told() == [("scanned", host) for _, host in left]
