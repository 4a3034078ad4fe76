"""The naive implementation of young ports of one owner whose numbers the kernel chose: one subject."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from portmon.engine.rules import Rule
from portmon.model.observation import Listener
from tests.engine.test_twin import DAY, START, Play, five
from tests.engine.test_twin_owners import look, sock


def worker(port: int) -> Listener:
    return sock("java", "worker.service", port, port=port, inode=port)


def told(play: Play, minutes: float, *ports: int) -> list[Any]:
    """What is told of ports of one owner in a look that shows these."""
    events = play.run(minutes, look(*map(worker, ports)))
    return [(f"{one[1]} {one[4]}" if len(one) > 4 else one[1], one[3]) for one in events if len(one) > 3]


def begun(**settings: Any) -> Play:
    play = Play(**{"ephemeral_after": 1} | settings)
    told(play, 0)
    return play


def test_the_ends_of_all_ports_of_an_owner_are_changes_of_one_subject() -> None:
    play = begun()
    assert told(play, 5, 40001) == [("new", 40001)]
    assert told(play, 10, 40001, 40002) == [("new", 40002)]
    assert told(play, 15, 40002) == [("down young", 40001)]
    assert told(play, 20, 40001, 40002, 40003) == [("recovered", 40001), ("new", 40003)]
    assert told(play, 25, 40001) == [("down young", 40002), ("down young", 40003)]
    assert told(play, 30, 40001, 40002, 40004) == [("recovered", 40002), ("new", 40004)]
    assert told(play, 35, 40002, 40004) == [("down young", 40001)]
    assert told(play, 40, 40001, 40002, 40004) == [("recovered", 40001)]
    # All that end in the look that makes them flap are silent, but for the first.
    assert told(play, 45, 40002) == [("flapping up", 40001)]
    # Nothing more is told; what ends is forgotten, but for the speaker. The alert of one that is back ends in silence.
    assert told(play, 50, 40002, 40003) == [("retired young", 40003)]
    assert sorted(play.reference.ports["a"]) == [22, 40001, 40002, 40003]
    assert told(play, 55, 40002, 40003, 40005) == []
    assert told(play, 60, 40002) == []
    assert sorted(play.reference.ports["a"]) == [22, 40001, 40002]
    assert [one for minutes in five(65, 115) for one in told(play, minutes, 40002)] == []
    found = [(minutes, one) for minutes in five(120, 210) for one in told(play, minutes, 40002)]
    assert found == [(120, ("stable up", 40001))]
    assert sorted(play.reference.ports["a"]) == [22, 40002]
    assert told(play, 215) == [("flapping down", 40002)]  # in place of the 11th message of the day


def test_if_none_is_up_the_speaker_stays_down() -> None:
    play = begun(flap_threshold=3, mature_after=timedelta(hours=3))
    for minutes, port in ((5, 40001), (15, 40002)):
        assert told(play, minutes, port) == [("new", port)]
        assert told(play, minutes + 5) == [("down young", port)]
    assert told(play, 25, 40003) == [("new", 40003)]
    assert told(play, 30) == [("flapping down", 40003)]
    found = [(minutes, one) for minutes in five(35, 240) for one in told(play, minutes)]
    retired = [(185, ("retired young", 40001)), (195, ("retired young", 40002)), (205, ("retired young", 40003))]
    assert found == [(90, ("stable down", 40003)), *retired]


def test_the_speaker_that_is_back_speaks_on() -> None:
    play = begun(flap_threshold=2)
    told(play, 5, 40001)
    assert told(play, 10) == [("down young", 40001)]
    assert told(play, 15, 40001) == [("recovered", 40001)]
    assert told(play, 20) == [("flapping down", 40001)]
    assert told(play, 25, 40001) == []
    found = [(minutes, one) for minutes in five(30, 90) for one in told(play, minutes, 40001)]
    assert found == [(80, ("stable up", 40001))]


def test_without_the_speaker_the_subject_does_not_flap_any_more() -> None:
    play = begun(flap_threshold=2)
    told(play, 5, 40001)
    told(play, 10)
    told(play, 15, 40001)
    assert told(play, 20) == [("flapping down", 40001)]
    play.accepted["a", "tcp", 40001] = START + timedelta(minutes=22)
    assert told(play, 25, 40002) == [("retired young", 40001), ("new", 40002)]
    assert told(play, 30) == [("down young", 40002)]


def test_many_messages_in_a_day() -> None:
    play, found = begun(flap_threshold=20), []
    for hours in range(0, 14, 2):
        told(play, 60 * hours + 5, 40001)
        found += told(play, 60 * hours + 65) + told(play, 60 * hours + 70, 40001)
    assert found == [*[("down young", 40001), ("recovered", 40001)] * 5, ("flapping down", 40001)]


def test_what_becomes_of_several_ports_in_one_look_is_one_message_and_one_change() -> None:
    play = begun()
    many = range(40001, 40012)
    assert told(play, 5, *many) == [("new", port) for port in many]
    assert told(play, 10) == [("down young", port) for port in many]
    found = [told(play, minutes, *(many if minutes % 10 else [])) for minutes in five(15, 40)]
    back, gone = [("recovered", port) for port in many], [("down young", port) for port in many]
    assert found == [back, gone, back, gone, back, [("flapping up", 40001)]]


def test_after_twelve_messages_all_are_silent_for_the_rest_of_the_day_and_the_first_that_ended_speaks() -> None:
    play = begun(flap_threshold=20, mature_after=timedelta(days=9))
    told(play, 5, 40001, 40002, 40003, 40004)
    for minutes in five(10, 45):
        assert len(told(play, minutes, *([40001] if minutes % 10 else []), 40002, 40003, 40004)) == 1
    assert told(play, 50, 40004) == [("down young", 40001), ("down young", 40002), ("down young", 40003)]
    assert told(play, 55, 40001, 40004) == [("recovered", 40001)]
    assert told(play, 60, 40001, 40002, 40004) == [("recovered", 40002)]
    assert told(play, 65, 40001, 40002, 40003, 40004) == [("retired young", 40003)]  # its alert ends in silence
    assert told(play, 70, 40001, 40002, 40003) == told(play, 75, 40001, 40002, 40003, 40005) == []
    assert told(play, 80, 40001, 40002) == []
    found = [(minutes, one) for minutes in five(85, DAY + 60) for one in told(play, minutes, 40001, 40002)]
    assert found == [(DAY + 5, ("stable up", 40004))]
    assert told(play, DAY + 65, 40001) == [("down young", 40002)]


def test_another_owner_of_one_is_an_end_of_it() -> None:
    play = begun(flap_threshold=3)
    other = sock("python3", "other.service", 9, port=40001, inode=9)
    told(play, 5, 40001, 40002)
    assert told(play, 10, 40001) == [("down young", 40002)]
    assert [one[1] for one in play.run(15, look(other)) if len(one) > 3] == ["replaced"]
    assert told(play, 20, 40001) == [("replaced", 40001)]
    assert len(play.reference.hosts["a"].subjects["worker.service"].changes.times) == 2
    assert len(play.reference.hosts["a"].subjects["other.service"].changes.times) == 1


def test_restarts_are_notes_of_each_port() -> None:
    play = begun()
    told(play, 5, 40001)
    found = []
    for minutes in five(10, 45):
        again = sock("java", "worker.service", minutes, port=40001, inode=minutes)
        found += [one[1] for one in play.run(minutes, look(again)) if len(one) > 3]
    assert found == ["restarted"] * 4


def test_what_is_mature_declared_or_of_no_owner_is_a_subject_of_its_own() -> None:
    play = begun()
    for minutes in five(5, DAY + 10):
        told(play, minutes, 40001)
    assert told(play, DAY + 15) == [("down", 40001)]
    assert not play.reference.hosts["a"].subjects["worker.service"].changes.times
    listed = Play(rules=[Rule(action="allow", port=40001), Rule(action="allow", bind="wildcard")], ephemeral_after=1)
    declared = begun()
    declared.declared = (40001,)
    for one in (listed, declared):
        told(one, 0, 40001)
        assert told(one, 5) == [("down", 40001)]
        assert not one.reference.hosts["a"].subjects


def test_when_the_port_that_speaks_is_declared_it_goes_on_by_itself_and_the_others_flap_no_more() -> None:
    play = begun(flap_threshold=2)
    told(play, 5, 40001, 40002)
    assert told(play, 10, 40002) == [("down young", 40001)]
    assert told(play, 15, 40001, 40002) == [("recovered", 40001)]
    assert told(play, 20, 40002) == [("flapping up", 40001)]
    play.declared = (40001,)
    assert told(play, 25, 40002, 40003) == [("new", 40003)]
    assert told(play, 30, 40001, 40003) == [("down young", 40002)]
    found = [(minutes, one) for minutes in five(35, 95) for one in told(play, minutes, 40001, 40003)]
    assert found == [(90, ("stable up", 40001))]


def test_a_young_port_that_flaps_by_itself_does_so_until_it_is_stable() -> None:
    play = begun(flap_threshold=2)
    hidden = sock(None, None, None, port=40001)
    events = [one for minutes in five(5, 15) for one in play.run(minutes, look(*([hidden] if minutes != 10 else [])))]
    assert [one[1] for one in events] == ["new", "down", "flapping"]
    assert told(play, 20, 40001, 40002) == [("new", 40002)]  # its owner shows
    assert [told(play, 25, 40002), told(play, 30, 40001, 40002)] == [[], []]
    found = [(minutes, one) for minutes in five(35, 95) for one in told(play, minutes, 40001, 40002)]
    assert found == [(90, ("stable up", 40001))]
    assert told(play, 100, 40002) == [("down young", 40001)]
    assert play.reference.hosts["a"].subjects["worker.service"].changes.times


def test_the_port_that_speaks_does_not_retire_by_age_while_they_flap() -> None:
    play = begun(flap_threshold=2, mature_after=timedelta(hours=1))
    told(play, 5, 40001)
    assert [told(play, 10), told(play, 15, 40001)] == [[("down young", 40001)], [("recovered", 40001)]]
    assert told(play, 20) == [("flapping down", 40001)]
    seen = [told(play, minutes, *([40002] if minutes % 20 else [])) for minutes in five(25, 100)]
    assert [one for events in seen for one in events] == []
    found = [(minutes, one) for minutes in five(105, 160) for one in told(play, minutes)]
    assert found == [(160, ("stable down", 40001))]
    assert told(play, 165) == [("retired young", 40001)]


def test_a_person_who_accepts_who_has_the_port_that_speaks_ends_it() -> None:
    play, other = begun(flap_threshold=2), sock("python3", "other.service", 9, port=40001, inode=9)
    told(play, 5, 40001, 40002)
    assert [told(play, 10, 40002), told(play, 15, 40001, 40002)] == [[("down young", 40001)], [("recovered", 40001)]]
    assert told(play, 20, 40002) == [("flapping up", 40001)]
    play.accepted["a", "tcp", 40001] = START + timedelta(minutes=22)
    events = [one for minutes in five(25, 120) for one in play.run(minutes, look(other, worker(40002)))]
    assert [one[:2] for one in events] == [(25, "retired")]
    assert [one[1] for one in play.run(125, look(other))] == ["down"]
