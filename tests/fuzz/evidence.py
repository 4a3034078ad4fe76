"""What every accepted answer must be: within its documented ranges, storable, readable again, and evaluated."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from portmon import probe
from portmon.engine.conditions import Open
from portmon.engine.config import States
from portmon.engine.evaluate import evaluate
from portmon.engine.frames import empty_ports, merged
from portmon.engine.inputs import EvaluationInputs
from portmon.engine.rules import RuleSet
from portmon.engine.state import HostState
from portmon.errors import ProbeError
from portmon.model.event_kinds import EventKind
from portmon.model.host import Host
from portmon.model.limits import NAME, OWNERS, ROWS
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.storage.archive import facts_from_json, facts_to_json

START = datetime(2026, 1, 1, tzinfo=UTC)
FIVE = timedelta(minutes=5)
HONEST = Listing("ss", 0, boot_id="b0", netns=7, listeners=(Listener("tcp", "0.0.0.0", 80, 7, "nginx"),))


def must_be_in_range(seen: Listing) -> None:
    """Every field of an answer has the type, the range and the length that design and storage give it."""
    assert seen.tool in ("netstat-W", "netstat", "ss", "proc")
    assert 0 <= seen.uid < 2**32
    assert seen.via in (None, "sudo")
    assert seen.boot_id is None or re.fullmatch(r"[0-9A-Za-z-]{1,64}", seen.boot_id)
    assert seen.netns is None or 0 <= seen.netns < 2**32
    assert seen.pid1_start is None or 0 <= seen.pid1_start < 2**63
    assert seen.version is None or (len(seen.version) <= 80 and seen.version.isascii())
    for low, high in (seen.ephemeral, *seen.reserved):
        assert 1 <= low <= high <= 65535
    # The most that there can be: no two of them touch.
    assert len(seen.reserved) <= 32768
    assert set(seen.hung) <= {"netstat", "ss", "proc"}
    assert len(set(seen.hung)) == len(seen.hung)
    assert seen.probe in (1, 2)
    assert seen.udp is not None or not seen.udp_beyond
    for protocol, listeners, beyond in (("tcp", seen.listeners, seen.beyond), ("udp", seen.udp or (), seen.udp_beyond)):
        assert all(1 <= port <= 65535 and 0 < count <= ROWS for port, count in beyond)
        assert len(listeners) <= ROWS
        assert max(Counter(one.port for one in listeners).values(), default=0) <= OWNERS
        for one in listeners:
            must_be_a_listener(one)
            assert one.protocol in (protocol, f"{protocol}6")


def must_be_a_listener(one: Listener) -> None:
    assert one.protocol in ("tcp", "tcp6", "udp", "udp6")
    assert 1 <= one.port <= 65535
    assert re.fullmatch(r"[0-9a-fA-F:.*]{1,110}", one.address)
    assert one.uid is None or 0 <= one.uid < 2**32
    assert one.inode is None or 0 <= one.inode < 2**64
    assert len(one.owners) <= OWNERS
    assert 0 <= one.more_owners <= 4 << 20
    for pid, program in ((one.pid, one.program), *((owner.pid, owner.program) for owner in one.owners)):
        assert pid is None or 0 <= pid < 2**31
        must_be_short(program)
    for text in (one.zone, one.unit, one.comm):
        must_be_short(text)


def must_be_short(text: str | None) -> None:
    assert text is None or len(text.encode("utf-8", "surrogateescape")) <= NAME


def must_be_storable(seen: Listing) -> None:
    """What is read from the archive is what was written there."""
    assert facts_from_json(facts_to_json(seen)) == seen


def must_be_readable_again(output: bytes, nonce: str, seen: Listing) -> None:
    """The stored frame says what the answer said, and is stored alike the next time."""
    stored = probe.cut_out(output, nonce).archived()
    assert probe.read_archived(stored) == seen
    assert probe.cut_out(stored, "archivedByPortmonAsItCame").archived() == stored


def must_have_no_cut(output: bytes, nonce: str, at: int) -> None:
    """No answer that is cut before the end of its frame is accepted."""
    try:
        probe.read_frame(output[:at], nonce)
    except ProbeError:
        return
    raise AssertionError(f"the first {at} of {len(output)} bytes are accepted")


def must_be_evaluated(answers: Sequence[Listing]) -> None:
    """Hosts that show these answers are evaluated beside an honest one that dies, and that death is told.

    Each of them shows the next one's answer in the second look, so that it is compared with another one.
    """
    names = [f"id-{number}" for number in range(len(answers))]
    hosts = {name: Host(name, name, name) for name in (*names, "honest")}
    rows: dict[str, HostState] = {}
    conditions: Mapping[str, Open] = {}
    ports = empty_ports()
    downs: list[int | None] = []
    for step in (0, 1):
        at = START + step * FIVE
        shown = {name: answers[(number + step) % len(answers)] for number, name in enumerate(names)}
        shown["honest"] = HONEST if step == 0 else dataclasses.replace(HONEST, listeners=())
        looks = [
            Observation(host_id, f"run{step}", 1, at, Outcome.OK, listing=seen, confirmed=True)
            for host_id, seen in shown.items()
        ]
        inputs = EvaluationInputs(
            inventory=hosts, rules=RuleSet([]), settings=States(), interval=FIVE, run_id=f"run{step}", now=at
        )
        verdict = evaluate(rows, ports, looks, inputs, conditions)
        rows |= {row.host_id: row for row in (*verdict.hosts, *verdict.ticked)}
        conditions = verdict.conditions
        ports = merged(ports, verdict.ports, verdict.dropped)
        downs = [one.port for one in verdict.events if one.kind is EventKind.DOWN and one.host_id == "honest"]
    assert downs == [80]
