"""A port that took long after a boot has more time after the next one, until a person says that this is to be forgotten."""

from __future__ import annotations

import pytest

from portmon.api.explain import explain
from portmon.api.ports import forget_boots, list_ports
from portmon.config import Config
from portmon.errors import CommandError
from portmon.replay.archive import evaluate_again
from portmon.storage import actions
from portmon.storage.database import Database
from tests.worlds.eventful import LONG_AGO, derived, lived, state_of
from tests.worlds.fleet import FIVE, Fleet

BY_ANN = {"author": "ann", "reason": "a check of the disks"}


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """A host of which each boot but the first look is later by a day."""
    made = Fleet(database, Config())
    made.add("web1", {22: "sshd", 80: "java"})
    made.run()
    return made


def boot(fleet: Fleet, *, late: int) -> list[tuple[int, str]]:
    """Boot the host; java is back after some runs. What was told of it, and in which run after the boot."""
    web, told = fleet.machines["web1"], []
    web.boot += 1
    web.kill(80)
    for number in range(12):
        if number == late:
            web.start(80, "java")
        told += [(number, event.kind.value) for event in fleet.run() if event.port == 80]
    return told


def boots_of(fleet: Fleet) -> list[float]:
    with fleet.database.begin() as conn:
        (java,) = (port for port in list_ports(conn, "web1") if port.port == 80)
    return list(java.boots)


def story(fleet: Fleet) -> str:
    with fleet.database.begin() as conn:
        return "\n".join(explain(conn, fleet.config, "web1", 80, now=fleet.now))


def test_the_next_boot_gives_no_more_time_and_is_learned_anew(fleet: Fleet) -> None:
    assert boot(fleet, late=4) == [(2, "down"), (4, "recovered")]
    assert boot(fleet, late=4) == []
    with fleet.database.begin() as conn:
        with pytest.raises(CommandError, match=r"web1: no boot of port 443 is known; there is nothing to forget"):
            forget_boots(conn, "web1", 443, now=fleet.now, **BY_ANN)
        said = forget_boots(conn, "web1", 80, now=fleet.now, **BY_ANN)
    what = "web1: that port 80 took up to 20m after boots does not count any more, from the next boot on"
    assert said == what
    line = "How long it took after boots before 2026-03-02 02:05:00 UTC does not count any more{}: ann: a check of the disks."
    assert line.format(", from the next boot on") in story(fleet)
    assert boots_of(fleet) == [1200, 1200]
    fleet.run()
    assert boots_of(fleet) == [1200, 1200]
    assert boot(fleet, late=4) == [(2, "down"), (4, "recovered")]
    assert boots_of(fleet) == [1200]
    assert line.format("") in story(fleet)
    # It was forgotten once: the boot since then counts.
    assert boot(fleet, late=4) == []
    with fleet.database.begin() as conn:
        (done,) = actions.newest(conn, limit=10)
    assert (done.kind, done.author, done.reason) == ("forget_boots", "ann", BY_ANN["reason"])
    assert (done.before, done.after) == ({"boots": [1200, 1200]}, {"boots": []})


def test_it_counts_if_the_host_boots_before_it_is_asked_again(fleet: Fleet) -> None:
    boot(fleet, late=4)
    with fleet.database.begin() as conn:
        forget_boots(conn, "web1", 80, now=fleet.now, **BY_ANN)
    assert boot(fleet, late=1) == []
    assert boots_of(fleet) == [300]


def test_a_replay_forgets_it_as_well(fleet: Fleet, scratch: Database) -> None:
    boot(fleet, late=4)
    with fleet.database.begin() as conn:
        forget_boots(conn, "web1", 80, now=fleet.now, **BY_ANN)
    assert boot(fleet, late=4) == [(2, "down"), (4, "recovered")]
    state, events = lived(fleet)
    with fleet.database.begin() as source:
        evaluate_again(source, scratch, fleet.config, since=LONG_AGO, until=fleet.now + FIVE)
    with scratch.begin() as conn:
        assert (state_of(conn), derived(conn)) == (state, events)
