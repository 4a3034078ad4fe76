"""What must hold of every history, whichever implementation judged it: from the runs, the events and the states alone.

Each function takes the runs in order and gives the sentences that are wrong, none if all is well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from portmon.engine.rules import Subject
from portmon.model.numbers import port_of, protocol_of
from portmon.model.observation import Observation, Outcome
from tests.worlds.histories import INTERVAL, Step
from tests.worlds.reference import Defaults, Told

TICK = timedelta(microseconds=1)
LONG = timedelta(minutes=15)
DAY = timedelta(days=1)
NOTES = (
    *("baseline", "duplicate", "probe_outdated", "answers_discarded", "restarted", "moved"),
    *("clock_back", "clock_believed", "fleet_unreachable", "fleet_reachable", "fleet_unscanned", "fleet_scanned"),
    *("fleet_owners_hidden", "fleet_owners_shown"),
)
"""Not messages of a host or port."""
ALWAYS = ("retired", "unwatched")
"""They close an alert for good, and are told whatever was told before."""
ENDS_OF_PORTS = ("recovered", "retired", "unwatched")

Port = tuple[str, int]


@dataclass(frozen=True)
class Judged:
    """A run, its events, and the state after it, as :meth:`tests.worlds.reference.Reference.snapshot` has it."""

    step: Step
    told: list[Told]
    state: Mapping[tuple[Any, ...], tuple[Any, ...]]


@dataclass
class Story:
    """What was told and seen until now.

    :param open: by port, what its alert is about; ``stable``: that it is not well since it flapped
    :param begun: by port, the evidence clock when an owner was gone or it flapped; until that is surely over
    :param firsts: hosts and times of looks that were told to be the first ones of a machine
    :param held: by port, the evidence clock since which others have it
    :param unreachable: hosts that were called so
    :param shown: by port, the evidence clock of its host when an ok look last showed it, and ``whole`` with all binds
    :param flapping: by port or host, the clock when it was told that it flaps
    :param looks: that were judged, each with its run
    :param known: keys of the state after the run before
    """

    open: dict[Port, str] = field(default_factory=dict)
    begun: dict[Port, float] = field(default_factory=dict)
    firsts: set[tuple[str, datetime]] = field(default_factory=set)
    held: dict[Port, float] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    shown: dict[Port, float] = field(default_factory=dict)
    whole: dict[Port, float] = field(default_factory=dict)
    flapping: dict[Any, Any] = field(default_factory=dict)
    looks: dict[str, dict[datetime, tuple[Step, Observation]]] = field(default_factory=lambda: defaultdict(dict))
    tried: dict[str, timedelta] = field(default_factory=lambda: defaultdict(timedelta))
    known: set[Any] = field(default_factory=set)
    messages: dict[Any, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    muted: set[Any] = field(default_factory=set)
    """Subjects of which so much was told in a day that a change was left out, perhaps; until they are told of again."""
    clock_back: bool = False


def violations(history: Sequence[Judged]) -> list[str]:
    """All that is wrong with a history."""
    story = Story()
    found = list(too_many_messages(history))
    for judged in history:
        _read(story, judged)
        if not story.clock_back:
            found += [f"{judged.step.run_id}: {sentence}" for sentence in unfounded_ends(story, judged)]
        _fold(story, judged)
        if not story.clock_back:
            found += [f"{judged.step.run_id}: {sentence}" for sentence in unfounded_alerts(story, judged)]
    return found


def too_many_messages(history: Sequence[Judged]) -> Iterator[str]:
    """More than twelve messages of a subject within 24 h, by what is remembered of it.

    The count begins anew when the clock was put right, and when a subject is forgotten or its alert closed for good.
    """
    messages: dict[Any, list[datetime]] = defaultdict(list)
    for judged in history:
        if any(kind in ("clock_back", "clock_believed") for _, kind, *_ in judged.told):
            messages.clear()
        for at, kind, host_id, port, _ in sorted(judged.told, key=lambda one: one[0]):
            if kind in ALWAYS:
                messages.pop((host_id, port), None)
            if host_id is None or kind in NOTES or kind in ALWAYS:
                continue
            here = messages[host_id, port]
            here[:] = [then for then in here if at - then < DAY] + [at]
            if len(here) > 12:
                yield f"{len(here)} messages within a day of {host_id} {port}"
        for key in [key for key in messages if (key[0],) not in judged.state]:
            del messages[key]


def unfounded_alerts(story: Story, judged: Judged) -> Iterator[str]:
    """Critical alerts that are open though the last evidence does not show their fault."""
    for (host_id, port), what in sorted(story.open.items()):
        host, row = judged.state.get((host_id,)), judged.state.get((host_id, port))
        if host_id not in judged.step.inventory or host is None or what == "flapping":
            continue
        step, look = story.looks[host_id].get(host[2], (judged.step, None))
        if row is None:
            yield f"{what} of {host_id} {port} is open, and the port is not known"
        elif host[3] or row[1] or row[6] or look is None or (host_id, port) in story.muted:
            continue
        elif what == "down" and row[0] != "down" and not row[2]:
            yield f"down of {host_id} {port} is open, and its state is {row[0]}"
        elif what == "down" and row[0] == "down" and shows(step, look, port) and not _may_be_held(story, look, row):
            yield f"down of {host_id} {port} is open, and the last look shows it"
        elif what == "lost" and not row[2] and (host_id, port) not in story.flapping:
            yield f"a lost bind of {host_id} {port} is open, and none is lost"
    for host_id in sorted(story.unreachable & judged.step.inventory.keys()):
        host = judged.state.get((host_id,))
        if (host_id, None) not in story.muted and (host is None or host[0] != "unreachable"):
            yield f"unreachable {host_id} is open, and its state is {host}"


def _may_be_held(story: Story, look: Observation, row: tuple[Any, ...]) -> bool:
    """Whether a port that listens may be down: others have it, as is known from the second look of a boot on."""
    earlier = [other for at, (_, other) in story.looks[look.host_id].items() if at < look.observed_at]
    before = max((other for other in earlier if other.listing), key=lambda other: other.observed_at, default=None)
    other = before is None or _boot(before) != _boot(look) or (look.host_id, look.observed_at) in story.firsts
    return bool(row[7]) or other


def _boot(look: Observation) -> tuple[Any, ...]:
    return (look.shows.boot_id, look.shows.netns, look.shows.pid1_start)


def unfounded_ends(story: Story, judged: Judged) -> Iterator[str]:
    """Ends of faults that the evidence at that time still shows, or that nothing and nobody ended."""
    for event in judged.told:
        at, kind, host_id, port, _ = event
        if host_id is None:
            continue
        _, look = story.looks[host_id].get(at, (None, None))
        answered = look is not None and look.outcome is Outcome.OK
        if kind == "recovered" and port is not None and not (answered and shows(None, look, port)):
            yield f"recovered {host_id} {port}, and the look does not show it"
        elif kind in ("reachable", "host_key_restored", "own_machine"):
            greater = {one[1] for one in judged.told if one[0] == at and one[2] == host_id}
            if (
                not answered
                and not greater & {"host_key_changed", "foreign_machine"}
                and (host_id, None) not in story.muted
            ):
                yield f"{kind} {host_id}, and it did not answer"
        elif kind == "stable":
            yield from _unfounded_stable(story, judged, event, look)
        elif kind == "unwatched" and port is not None and not answered:
            yield f"unwatched {host_id} {port}, without a look"
        elif (
            kind == "unwatched"
            and port is not None
            and _is_down(judged, host_id, port)
            and shows(judged.step, look, port)
        ):
            yield f"unwatched {host_id} {port}, and it is watched"
        elif kind == "retired" and port is not None and not _is_named(story, judged, event, look):
            yield f"retired {host_id} {port}, and neither a person nor the CMDB, a machine or evidence ended it"


def _is_down(judged: Judged, host_id: str, port: int) -> bool:
    row = judged.state.get((host_id, port))
    return row is None or row[0] == "down"


def _unfounded_stable(story: Story, judged: Judged, event: Told, look: Observation | None) -> Iterator[str]:
    at, _, host_id, port, extra = event
    assert host_id is not None
    window = max(Defaults(**judged.step.settings).flap_window, 12 * INTERVAL)
    if look is None:
        yield f"stable {host_id} {port}, without a look"
        return
    clock: Any = story.tried[host_id]
    since = story.flapping.get((host_id, port))
    if port is not None:
        clock = timedelta(seconds=judged.state[host_id,][5])
        row = judged.state.get((host_id, port))
        # One of many young random ports speaks for all of them. It is forgotten if it is not there itself.
        if extra == "up" and not shows(None, look, port) and row is not None:
            yield f"stable {host_id} {port} is up, and the look does not show it"
        if extra == "down" and row is None:  # one that is up may have lost a bind or an owner
            yield f"stable {host_id} {port} is down, and it is not known"
    elif (extra == "ok") != (look.outcome is Outcome.OK):
        yield f"stable {host_id} is {extra}, and the look is {look.outcome}"
    closed = any((at, "retired", host_id, port, extra) in judged.told for extra in ("", "young"))
    # A port that is missing for some runs is down at the end of them, and that is no change any more.
    given = [rule.down_after or 0 for rule in judged.step.policy]
    missing = (
        (max(Defaults(**judged.step.settings).down_after, *given, 0) - 1) * LONG if port is not None else timedelta(0)
    )
    if since is not None and clock - since < window - missing and not closed:
        yield f"stable {host_id} {port} after {clock - since} of evidence, at {at}"


def _is_named(story: Story, judged: Judged, event: Told, look: Observation | None) -> bool:
    """Whether a person, the CMDB, a machine or long absence ended an alert of a port."""
    at, _, host_id, port, _ = event
    assert host_id is not None
    assert port is not None
    taken_over = {key[0] for key in story.known - judged.state.keys() if len(key) == 1} - set(judged.step.purged)
    if host_id in judged.step.left or taken_over:
        return True
    accepted = judged.step.accepted.get((host_id, protocol_of(port), port_of(port)))
    if accepted is not None and accepted <= at:
        return True
    if (at, "answers_discarded", host_id, None, "") in judged.told:
        return True
    if look is None or look.listing is None:
        return False
    low, high = look.listing.ephemeral
    moved = not shows(judged.step, look, port) and (host_id, port) not in judged.state
    spoken_for = event[4] == "young" and any(key[0] == host_id and key[1] is not None for key in story.flapping)
    if (low <= port_of(port) <= high or 512 <= port < 1024) and (moved or spoken_for):
        return True  # perhaps: another one speaks for the young ports of an owner while they flap
    settings, clock = Defaults(**judged.step.settings), judged.state[host_id,][5]
    retire_after, mature_after = settings.retire_after.total_seconds(), settings.mature_after.total_seconds()
    if shows(None, look, port):
        since = min(story.whole.get((host_id, port), 0.0), story.begun.get((host_id, port), clock))
        return bool(clock - since >= retire_after or clock - story.held.get((host_id, port), clock) >= mature_after)
    enough = min(mature_after, retire_after) if event[4] == "young" else retire_after
    return bool(clock - story.shown.get((host_id, port), 0.0) >= enough)


def shows(step: Step | None, look: Observation | None, port: int) -> bool:
    """Whether a look shows a port; with a run, whether it shows a listener of it that is surely watched."""
    if look is None or look.listing is None:
        return False
    here = [one for one in look.listing.sockets if one.number == port]
    if step is None:
        return bool(here)
    host = step.inventory.get(look.host_id)
    if host is None:
        return False
    if port in host.declared:
        return bool(here)
    rules = step.rules.for_host(host)
    by_program = any(rule.program is not None for rule in step.policy)
    return any(
        rules.evaluate(Subject(port, one.address, tuple({one.program, one.comm} - {None}))).watched  # type: ignore[arg-type]
        for one in here
        if one.program is not None or not by_program
    )


def _read(story: Story, judged: Judged) -> None:
    """The looks of a run, unless its clock is not believed."""
    kinds = [kind for _, kind, *_ in judged.told]
    if "clock_back" in kinds:
        story.clock_back = True
    if "clock_believed" in kinds:
        story.clock_back = False
        story.flapping.clear()
        newest = max(look.observed_at for look in judged.step.looks)
        for host_id, looks in story.looks.items():
            answers = [at for at, (_, look) in looks.items() if look.listing is not None]
            last = {newest - TICK: looks[max(answers)]} if answers and max(answers) > newest else {}
            story.looks[host_id] = {at: look for at, look in looks.items() if at <= newest} | last
        for messages in story.messages.values():
            messages[:] = [min(at, newest) for at in messages]
    if story.clock_back:
        return
    for look in judged.step.looks:
        if look.observed_at in story.looks[look.host_id] and "clock_believed" not in kinds:
            continue  # of the same time as one before, so it is not judged
        earlier = [at for at in story.looks[look.host_id] if at < look.observed_at]
        if earlier:
            gap = look.observed_at - max(earlier)
            story.tried[look.host_id] += gap if gap <= LONG else INTERVAL
        story.looks[look.host_id][look.observed_at] = judged.step, look


def _fold(story: Story, judged: Judged) -> None:
    """What is open after the run."""
    if {key[0] for key in story.known - judged.state.keys() if len(key) == 1} - set(judged.step.purged):
        # An entry went on with the state, and the messages, of another one.
        story.shown.clear()
        story.whole.clear()
        story.begun = {(key[0], key[1]): 0.0 for key in judged.state if len(key) == 2}
        story.held = dict.fromkeys(story.begun, 0.0)
        story.muted |= {(key[0], key[1] if len(key) == 2 else None) for key in judged.state}
    story.known = set(judged.state)
    for at, kind, host_id, port, extra in judged.told:
        if host_id is None:
            continue
        if kind not in NOTES:
            here = story.messages[host_id, port]
            here[:] = [then for then in here if at - then < DAY] + [at]
            if len(here) >= 10:
                story.muted.add((host_id, port))
            elif kind not in ("unscanned", "scanned", "owners_hidden", "owners_shown"):  # they say nothing of the rest
                story.muted.discard((host_id, port))
        if kind in ("rebooted", "own_machine"):
            story.firsts.add((host_id, at))
        if port is None:
            _fold_host(story, kind, host_id, extra)
            continue
        if kind in ENDS_OF_PORTS or (kind == "stable" and extra == "up"):
            story.open.pop((host_id, port), None)
            story.flapping.pop((host_id, port), None)
        elif kind in ("down", "flapping", "stable"):
            story.open[host_id, port] = kind
        elif kind == "crash_looping":
            story.open[host_id, port] = "flapping"
        elif kind == "owner_gone":
            story.open[host_id, port] = "owner"
        elif kind == "rebound" and extra and story.open.get((host_id, port)) != "owner":
            story.open[host_id, port] = "lost"
        if extra == "owner" or kind == "down":
            story.begun.pop((host_id, port), None)
        elif kind in ("flapping", "crash_looping", "owner_gone"):
            story.begun.setdefault((host_id, port), judged.state[host_id,][5])
        if kind in ("flapping", "crash_looping"):
            # While one of its owners or binds flaps another one may begin to.
            # A later look of the same run may have been judged since.
            later = max(judged.state[host_id,][2] - at, timedelta(0))
            story.flapping.setdefault((host_id, port), timedelta(seconds=judged.state[host_id,][5]) - later)
    for look in judged.step.looks:
        host = judged.state.get((look.host_id,))
        if look.listing is not None and host is not None and host[2] == look.observed_at:
            for port in {one.number for one in look.listing.sockets}:
                row = judged.state.get((look.host_id, port), ("", False, ()))
                if shows(judged.step, look, port) and row[0] != "down":
                    story.shown[look.host_id, port] = host[5]
                    if not row[2]:
                        story.whole[look.host_id, port] = host[5]
            for key in [key for key in story.held if key[0] == look.host_id]:
                if not judged.state.get(key, ("",) * 8)[7]:
                    del story.held[key]
            for key, row in judged.state.items():
                if len(key) == 2 and key[0] == look.host_id and row[7]:
                    story.held.setdefault((key[0], key[1]), host[5])
            if (look.observed_at, "answers_discarded", look.host_id, None, "") in judged.told:
                for port_key in story.shown.keys() | story.whole.keys():
                    if port_key[0] == look.host_id:
                        story.shown[port_key] = story.whole[port_key] = 0.0
                story.held |= {key: 0.0 for key in story.held if key[0] == look.host_id}
                story.begun |= {key: 0.0 for key in story.begun if key[0] == look.host_id}


def _fold_host(story: Story, kind: str, host_id: str, extra: str) -> None:
    if kind in ("reachable", "retired", "flapping") or (kind == "stable" and extra == "ok"):
        story.unreachable.discard(host_id)
    elif kind == "unreachable" or kind == "stable":
        story.unreachable.add(host_id)
    if kind == "flapping":
        story.flapping[host_id, None] = story.tried[host_id]
