"""The prune guard counts over a day: in single decisions, over runs of a day, and when the archive is evaluated again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from portmon.api.preview import preview
from portmon.config import Config
from portmon.errors import CmdbError
from portmon.inventory.config import Cmdb
from portmon.inventory.prune import plan_prune
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.replay.archive import evaluate_again
from portmon.steps.fetch import fetch_inventory
from portmon.steps.prune import prune_inventory
from portmon.steps.run import Run
from portmon.storage import events, hosts, journal
from portmon.storage.database import Database
from portmon.storage.tables import hosts as hosts_table

START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Stored:
    id: str
    removed_at: datetime | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True)
class Taken:
    at: datetime
    hosts: int
    forced: bool = False


def refused(visible: int, listed: int, *taken: Taken, new: int = 0, **values: Any) -> str | None:
    """Why a list is refused: the first of the hosts that are known, and new ones."""
    known = [Stored(str(n)) for n in range(visible)]
    ids = [*map(str, range(listed)), *(f"new{n}" for n in range(new))]
    found = Inventory(tuple(Host(one, one, "a") for one in ids))
    given: dict[str, Any] = {"stale": False, "forced": False, "now": START, "settings": Cmdb(), **values}
    return plan_prune(known, found, accepted=taken, **given).refused


@pytest.mark.parametrize(
    ("visible", "listed", "taken", "reason"),
    [
        # 200 a few hours ago: 160 is as far as it goes.
        (162, 160, [Taken(START - 5 * HOUR, 200)], None),
        (162, 159, [Taken(START - 5 * HOUR, 200)], "the list has 159 hosts, and 200 within the last day"),
        # More than a day ago; a clock that was ahead.
        (162, 159, [Taken(START - 24 * HOUR, 200)], None),
        (162, 159, [Taken(START + 5 * HOUR, 200)], "200 within the last day"),
        # What was before a forced list does not count, what was after it does.
        (162, 159, [Taken(START - 5 * HOUR, 200), Taken(START - HOUR, 162, forced=True)], None),
        (162, 140, [Taken(START - 5 * HOUR, 100, forced=True), Taken(START - HOUR, 180)], "180 within the last day"),
        # Without a list of the last day, as after a pause: one run.
        (100, 80, [], None),
        (100, 79, [], "21 of 100 hosts are missing"),
        # So few that a share says nothing.
        (5, 1, [Taken(START - HOUR, 5)], None),
        (5, 5, [Taken(START - HOUR, 7)], None),
        (5, 4, [Taken(START - HOUR, 8)], "the list has 4 hosts, and 8"),
        # Nothing is concluded from absence where nothing is absent.
        (100, 100, [Taken(START - HOUR, 200)], None),
    ],
)
def test_what_was_accepted_within_a_day_counts(
    visible: int, listed: int, taken: list[Taken], reason: str | None
) -> None:
    told = refused(visible, listed, *taken)
    assert (reason is None) == (told is None)
    assert reason is None or reason in str(told)


@pytest.mark.parametrize(
    ("missing", "new", "reason"),
    [
        (30, 30, None),
        (30, 10, None),
        (30, 9, "30 of 100 hosts are missing"),
        (50, 50, None),
        (51, 51, "their ids may have changed"),
        (100, 100, "their ids may have changed"),
    ],
)
def test_new_entries_fill_gaps_but_not_where_ids_have_changed(missing: int, new: int, reason: str | None) -> None:
    told = refused(100, 100 - missing, Taken(START - HOUR, 100), new=new)
    assert (reason is None) == (told is None)
    assert reason is None or reason in str(told)


@pytest.mark.parametrize(
    ("renewed", "lost", "reason"),
    [
        (100, 0, None),
        (80, 20, None),
        (60, 20, None),
        (60, 21, "21 of 100 hosts are missing"),
        (0, 100, "the host list is empty"),
    ],
)
def test_entries_whose_machine_answers_under_a_listed_id_are_not_missing(
    renewed: int, lost: int, reason: str | None
) -> None:
    """All of 100 ids are known by now, and so are those that are new."""
    old = [Stored(f"{n:03}") for n in range(100)]
    new = [Stored(f"new{n}", duplicate_of=f"{n:03}") for n in range(renewed)]
    listed = Inventory(tuple(Host(one.id, one.id, "a") for one in (*new, *old[renewed + lost :])))
    given: dict[str, Any] = {"forced": False, "now": START, "settings": Cmdb(), "accepted": [Taken(START - HOUR, 100)]}
    plan = plan_prune([*old, *new], listed, stale=False, **given)
    assert (reason is None) == (plan.refused is None)
    assert reason is None or reason in str(plan.refused)
    assert plan.hide == (() if reason else tuple(one.id for one in old[: renewed + lost]))
    assert plan.base == (None if reason else 100)
    assert plan_prune([*old, *new], listed, stale=True, **given).hide == ()


def test_a_duplicate_that_left_as_well_excuses_nothing() -> None:
    known = [*(Stored(str(n)) for n in range(10)), Stored("b", START, duplicate_of="0"), Stored("c", duplicate_of="1")]
    listed = Inventory(tuple(Host(str(n), "h", "a") for n in range(3, 10)))
    given: dict[str, Any] = {"forced": False, "now": START, "settings": Cmdb()}
    # Of those that are visible 0, 1, 2 and c are missing.
    assert "4 of 11 hosts" in str(plan_prune(known, listed, stale=False, **given).refused)


def test_a_limit_of_all_or_nothing() -> None:
    taken = Taken(START - HOUR, 100)
    assert refused(100, 1, taken, settings=Cmdb(max_prune_ratio=1.0)) is None
    assert refused(100, 99, taken, settings=Cmdb(max_prune_ratio=0.0)) is not None
    assert refused(100, 99, taken, new=1, settings=Cmdb(max_prune_ratio=0.0)) is None


@given(st.lists(st.integers(6, 300), min_size=1, max_size=20), st.integers(1, 300), st.booleans())
def test_no_list_below_the_share_of_the_days_largest_is_believed(sizes: list[int], listed: int, forced: bool) -> None:
    taken = [Taken(START - timedelta(minutes=10 * (20 - n)), size) for n, size in enumerate(sizes)]
    visible = sizes[-1]
    told = refused(visible, min(listed, visible), *taken, forced=forced)
    if min(listed, visible) < visible and min(listed, visible) < 0.8 * max(sizes) - 1e-9:
        assert (told is None) == forced


# ── over runs ───────────────────────────────────────────────────────────────────────────────────


class Site:
    """A state database and a CMDB; no host is asked."""

    def __init__(self, database: Database, count: int = 200) -> None:
        self.database = database
        self.config = Config(cmdb=Cmdb(prune_after=timedelta(days=2)))
        self.ids = [f"h{n:03}" for n in range(count)]
        self.invalid: tuple[InvalidHost, ...] = ()
        self.now = START
        self.number = 0
        self.broken = False

    def load(self) -> Inventory:
        if self.broken:
            raise CmdbError("HTTP 500", source="test")
        return Inventory(tuple(Host(one, one, "a") for one in self.ids), self.invalid, source="test")

    def run(self, after: timedelta = timedelta(minutes=5), **values: Any) -> dict[str, int]:
        self.now += after
        self.number += 1
        run = Run(f"run{self.number}", **values)
        fetched = fetch_inventory(self.database, self.config, run, self.load, now=self.now)
        # As after a restart, and as in a task that is tried again.
        first = prune_inventory(self.database, self.config, run, fetched.digest, stale=fetched.stale, now=self.now)
        again = prune_inventory(self.database, self.config, run, fetched.digest, stale=fetched.stale, now=self.now)
        assert again["refused"] == first["refused"]
        return first

    def visible(self) -> int:
        with self.database.begin() as conn:
            return sum(one.removed_at is None for one in hosts.known(conn))

    def kinds(self) -> list[str]:
        with self.database.begin() as conn:
            return [event.kind.value for event in events.recent(conn) if event.kind.value.startswith("prune")]


@pytest.fixture
def site(database: Database) -> Site:
    made = Site(database)
    made.run()
    return made


def test_a_list_that_loses_some_in_every_run(site: Site) -> None:
    for _ in range(12):
        site.ids = site.ids[: round(len(site.ids) * 0.81)]
        site.run()
    assert site.visible() == 162
    assert site.kinds() == ["prune_refused"]
    site.ids = [f"h{n:03}" for n in range(150)]
    with site.database.reading() as conn:
        shown = preview(conn, site.config, site.load(), now=site.now)
    assert shown.state is not None
    assert "200 within the last day" in str(shown.state.refused)
    # It says so once more when the CMDB is well again.
    site.ids = [f"h{n:03}" for n in range(200)]
    assert site.run() == {"hidden": 0, "resumed": 38, "purged": 0, "refused": 0}
    assert sorted(site.kinds()) == ["prune_refused", "prune_resumed"]


def test_slow_loss_is_believed_and_so_is_a_small_list_after_a_day(site: Site) -> None:
    site.ids = site.ids[:162]
    assert site.run()["refused"] == 0
    site.ids = site.ids[:140]
    assert site.run()["refused"] == 1
    assert site.run(timedelta(hours=23))["refused"] == 1
    # The list of 200 is out of the day; that of 162 is the base.
    assert site.run(timedelta(hours=2)) == {"hidden": 22, "resumed": 0, "purged": 0, "refused": 0}


def test_a_group_that_is_replaced_by_and_by(site: Site) -> None:
    for number in range(24):
        site.ids = [*site.ids[5:], *(f"new{number}-{n}" for n in range(5))]
        assert site.run(HOUR) == {"hidden": 5, "resumed": 0, "purged": 0 if number < 48 else 5, "refused": 0}
    assert site.visible() == 200
    assert site.kinds() == []


def test_a_forced_list_is_the_base(site: Site) -> None:
    site.ids = site.ids[:100]
    assert site.run()["refused"] == 1
    assert site.run(force_prune=True)["hidden"] == 100
    assert site.run()["refused"] == 0
    site.ids = site.ids[:85]
    assert site.run()["hidden"] == 15
    site.ids = site.ids[:75]
    assert site.run()["refused"] == 1
    assert site.visible() == 85


def test_what_accepts_no_list(site: Site) -> None:
    """Runs for some hosts, dry ones, stale lists and refused ones neither prune nor raise the base."""
    site.ids = site.ids[:162]
    site.run()
    site.broken = True
    assert site.run()["refused"] == 1
    site.broken = False
    site.run(hosts=("h001",))
    site.run(dry_run=True)
    with site.database.begin() as conn:
        before = journal.accepted(conn)
        assert [(one.hosts, one.forced) for one in before] == [(200, False), (200, False), (162, False)]
    site.ids = site.ids[:150]
    assert site.run()["refused"] == 1
    with site.database.begin() as conn:
        assert journal.accepted(conn) == before


def test_entries_that_are_there_and_invalid_are_no_loss(site: Site) -> None:
    gone, site.ids = site.ids[:60], site.ids[60:]
    site.invalid = tuple(InvalidHost(n, one, None, "it has no address") for n, one in enumerate(gone))
    assert site.run() == {"hidden": 0, "resumed": 0, "purged": 0, "refused": 0}
    assert site.visible() == 200


def test_renewed_ids_are_hidden_once_their_machines_were_seen(site: Site) -> None:
    old, site.ids = site.ids, [f"new-{one}" for one in site.ids]
    assert site.run()["refused"] == 1
    with site.database.begin() as conn:
        for one in old[:-10]:
            mine = update(hosts_table).where(hosts_table.c.host_id == f"new-{one}")
            conn.execute(mine.values(duplicate_of=one))
    # Ten did not answer: that is a share that may be missing.
    assert site.run() == {"hidden": 200, "resumed": 0, "purged": 0, "refused": 0}
    assert site.kinds() == ["prune_refused", "prune_resumed"]
    # Old and new ids at once make no list of 400, of which half would be missing.
    site.ids = site.ids[:170]
    assert site.run() == {"hidden": 30, "resumed": 0, "purged": 0, "refused": 0}


def test_a_quiet_day_notes_nothing(site: Site) -> None:
    with site.database.begin() as conn:
        before = journal.last_seq(conn)
    for _ in range(5):
        site.run()
    with site.database.begin() as conn:
        assert journal.last_seq(conn) <= before + 1


def test_evaluating_again_prunes_alike(site: Site, scratch: Database) -> None:
    """Whatever the guard would say of it by then: what was done is in the journal."""
    for share in (0.81, 0.81, 0.81, 1.2):
        site.ids = [f"h{n:03}" for n in range(round(len(site.ids) * share))]
        site.run()
    site.run(force_prune=True)

    def state(database: Database) -> Any:
        with database.begin() as conn:
            columns = (hosts_table.c.host_id, hosts_table.c.removed_at)
            return [tuple(row) for row in conn.execute(select(*columns).order_by(hosts_table.c.host_id))]

    expected = state(site.database)
    with site.database.begin() as source:
        evaluate_again(source, scratch, site.config, since=START)
    assert state(scratch) == expected


def test_steps_of_an_earlier_version_say_no_size() -> None:
    old = b'{"hide":["a"],"purge":[],"resume":[],"sync":true}'
    assert journal.pruned_from_json(old) == journal.Pruned(hide=("a",))
