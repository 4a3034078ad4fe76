"""Whatever a host, a CMDB or a configuration holds, nothing but a PortmonError comes out of its reader.

Every input is made from its kind and its number alone, and both stand in the message of what fails:
``case("frame", 4711, folder)`` is that input again.
"""

from __future__ import annotations

import os
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from portmon import probe
from portmon.errors import PortmonError
from portmon.model.observation import Listing
from tests.fuzz import evidence
from tests.fuzz.mutations import AROUND, Mutator
from tests.fuzz.readers import (
    CONFIGS,
    FIELDS,
    KINDS,
    NONCE,
    Case,
    case,
    document,
    documents,
    forged,
    frames,
    listings,
    processes,
    read,
)

SHARE = {"frame": 0.5, "listing": 0.35, "inventory": 0.1, "config": 0.05}
"""Of all inputs: a configuration takes a hundred times as long as a listing."""
TOGETHER = 40
"""Accepted answers that are evaluated at once, each of them as one host."""
PARTS = 4
"""Of each kind, so that several processes share the work."""
SLOWEST = 120.0
"""Seconds that one input of 64 KB may take at most, on any machine."""


def count() -> int:
    """Inputs of all kinds together."""
    return 200_000 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 20_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_inputs(kind: str, tmp_path: Path) -> None:
    told = run(kind, range(1_000_000, 1_000_000 + int(600 * SHARE[kind])), tmp_path)
    assert set(told) == {"read", "refused"}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", KINDS)
def test_many_inputs(kind: str, part: int, tmp_path: Path) -> None:
    told = run(kind, range(part, int(count() * SHARE[kind]), PARTS), tmp_path)
    print(f"\n{kind}, part {part + 1} of {PARTS}: {told['read']} read, {told['refused']} refused")
    assert set(told) == {"read", "refused"}


def run(kind: str, numbers: range, folder: Path) -> Counter[str]:
    """Read inputs; every answer that is accepted is checked, stored and evaluated.

    :returns: how many were read, and how many refused
    """
    told: Counter[str] = Counter()
    accepted: list[tuple[int, Listing]] = []
    for number in numbers:
        one = case(kind, number, folder)
        with blamed(kind, number):
            started = time.process_time()
            try:
                found = one.read()
            except PortmonError as error:
                told["refused" if str(error) else "refused without a word"] += 1
                continue
            assert time.process_time() - started < SLOWEST
            told["read"] += 1
            check(kind, number, one, found)
        if kind == "frame":
            accepted.append((number, found))
            if len(accepted) == TOGETHER:
                evaluated(accepted)
                accepted.clear()
    if accepted:
        evaluated(accepted)
    return told


def check(kind: str, number: int, one: Case, found: object) -> None:
    if kind == "listing":
        assert isinstance(found, list)
        for listener in found:
            evidence.must_be_a_listener(listener)
    if kind == "frame":
        assert isinstance(found, Listing)
        evidence.must_be_in_range(found)
        evidence.must_be_storable(found)
        evidence.must_be_readable_again(one.data, NONCE, found)
        end = one.data.rindex(b" END")
        chance = Mutator(number).random
        for at in {end, end + 4, one.data.index(b"\n", end), *(chance.randrange(end) for _ in range(3))}:
            evidence.must_have_no_cut(one.data, NONCE, at)


class blamed:  # noqa: N801 - it reads like a function
    """Names the input with what it raises."""

    def __init__(self, kind: str, *numbers: int) -> None:
        self.kind, self.numbers = kind, numbers

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise AssertionError(f"{self.kind} {self.numbers}: {type(error).__name__}: {error}") from error


def evaluated(accepted: Sequence[tuple[int, Listing]]) -> None:
    """As hosts of one run; what raises is looked for one by one."""
    try:
        evidence.must_be_evaluated([seen for _, seen in accepted])
    except Exception:
        for one, following in zip(accepted, (*accepted[1:], accepted[0]), strict=True):
            with blamed("frame", one[0], following[0]):
                evidence.must_be_evaluated([one[1], following[1]])
        raise


# ── known shapes ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", range(len(frames())))
def test_a_valid_frame_is_read_and_none_of_its_cuts(number: int) -> None:
    whole = frames()[number]
    seen = probe.read_frame(whole, NONCE)
    evidence.must_be_in_range(seen)
    evidence.must_be_storable(seen)
    evidence.must_be_readable_again(whole, NONCE, seen)
    for at in range(whole.index(b"\n", whole.rindex(b" END"))):
        evidence.must_have_no_cut(whole, NONCE, at)


def test_the_same_number_is_the_same_input(tmp_path: Path) -> None:
    for kind in KINDS:
        for number in range(20):
            assert case(kind, number, tmp_path).data == case(kind, number, tmp_path).data


def test_there_is_something_to_break() -> None:
    assert len(frames()) > 20
    assert len(listings()) > 200
    assert len(processes()) > 5
    assert len(documents()) > 8


# ── time ────────────────────────────────────────────────────────────────────────────────────────

SMALL = 64 << 10


def amplified(kind: str, number: int, folder: Path) -> tuple[str, Callable[[int], Case]]:
    """An input of which a part comes again and again: a reader that takes quadratic time shows it.

    :returns: which part, and what makes the input of a size
    """
    mutator = Mutator(number)
    chance = mutator.random
    own_kind = chance.choice([name for name in documents() if name not in CONFIGS])
    seeds = {"frame": frames(), "listing": listings(), "inventory": (documents()[own_kind],)}[kind]
    whole = mutator.pick([seed for seed in seeds if seed])
    start = chance.randrange(len(whole))
    lines = whole[start:].split(b"\n", 1)
    part = (
        chance.choice(
            (
                whole[start : start + chance.choice((1, 2, 5, 20))],
                lines[0] + b"\n",
                whole[whole.rfind(b"\n", 0, start) + 1 : start] + lines[0] + b"\n",
                chance.choice(AROUND),
            )
        )
        or b" "
    )

    def made(size: int) -> Case:
        data = whole[:start] + part * (size // len(part)) + whole[start:]
        if kind == "inventory":
            return document(Mutator(number), own_kind, data, folder)
        # Made before the clock runs: only the reader is measured.
        output = counted(data) if kind == "listing" else recounted(data)
        return Case(data, lambda: read(output))

    return f"{kind}, {own_kind} {number}: {part!r}" if kind == "inventory" else f"{kind} {number}: {part!r}", made


def counted(body: bytes) -> bytes:
    """A frame around a listing."""
    tool = b"proc" if b"local_address" in body else b"netstat-W" if b"Proto" in body else b"ss"
    fields = {name: value.encode() for name, value in FIELDS.items()} | {"tool": tool}
    return forged(body, processes()[0], None, fields)


def recounted(output: bytes) -> bytes:
    """A frame with the lengths that its parts have, so that more than its lengths is read."""
    marks = list(re.finditer(rb"^@@n0n0 (\w+)[^\n]*\n", output, re.MULTILINE))
    found = output
    for mark, after in reversed(list(pairwise(marks))):
        head = re.sub(rb"bytes=\d+", b"bytes=%d" % (after.start() - mark.end() - 1), mark[0], count=1)
        found = found[: mark.start()] + head + found[mark.end() :]
    if b" v=2 " in found:
        marks = list(re.finditer(rb"^@@n0n0 (\w+)[^\n]*\n", found, re.MULTILINE))
        head = re.sub(rb"bytes=\d+", b"bytes=%d" % (marks[-1].start() - marks[0].end() - 1), marks[0][0], count=1)
        found = found[: marks[0].start()] + head + found[marks[0].end() :]
    return found


def seconds(one: Case) -> float:
    started = time.process_time()
    try:
        one.read()
    except PortmonError:
        pass
    return time.process_time() - started


def must_be_linear(about: str, made: Callable[[int], Case], sizes: Sequence[int]) -> None:
    base = max(seconds(made(SMALL)), 0.02)
    for size in sizes:
        times = size // SMALL
        # Quadratic time grows by the same factor again; other work on this machine does not.
        spent = seconds(made(size))
        if spent >= base * times * 6:
            spent = min(spent, seconds(made(size)))
        assert spent < base * times * 6, f"{about}: {base:.2f} s at {SMALL} bytes, {spent:.2f} s at {size}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frame", "listing", "inventory"])
def test_time_grows_with_what_comes_again_and_again(kind: str, tmp_path: Path) -> None:
    rounds = count() // 200 if kind != "inventory" else count() // 1000
    for number in range(rounds):
        about, made = amplified(kind, number, tmp_path)
        with blamed(kind, number):
            must_be_linear(about, made, (SMALL * 8,))


def blocks(**parts: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """A frame of which one block has a size, or is what a function makes of it."""

    def made(size: int) -> bytes:
        fields = {name: value.encode() for name, value in FIELDS.items()}
        blocks = {name: make(size) for name, make in parts.items()}
        fields |= {name: value for name, value in blocks.items() if name in fields}
        body = blocks.get("body", NETSTAT)
        return forged(body, PROC + b"\n" + blocks.get("proc", b""), blocks.get("second"), fields)

    return made


PROC = b"/proc/sys/kernel/random/boot_id:b1\n/proc/self/status:Uid:\t0\t0\t0\t0"
ROW = b"tcp        0      0 0.0.0.0:%d              0.0.0.0:*               LISTEN      7/app               \n"
NETSTAT = (
    b"Active Internet connections (only servers)\n"
    b"Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name    \n" + ROW % 22
).rstrip(b"\n")
SECOND = b"Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\n"
WORST: dict[str, Callable[[int], bytes]] = {
    "other markers": lambda size: b"@@abcd x\n" * (size // 9) + blocks()(0),
    "other frames": lambda size: b"@@abcd BEGIN v=2 \n" * (size // 18),
    "signs of markers": lambda size: b"@" * size + b"\n" + blocks()(0),
    "names of fields": blocks(netns=lambda size: b"1 a=1" * (size // 5)),
    "fields of one length": blocks(netns=lambda size: b"1" * size),
    "a version without an end": blocks(ver=lambda size: b"iproute2-" * (size // 9)),
    "tools that were tried": blocks(tried=lambda size: b"ss:limit," * (size // 9)),
    "processes": blocks(proc=lambda size: b"".join(b"/proc/%d/status:Name:\tx\n" % n for n in range(size // 24))),
    "cgroups": blocks(proc=lambda size: b"/proc/7/cgroup:0::" + b"/a.scope" * (size // 8)),
    "hexadecimal cgroups": blocks(proc=lambda size: b"/proc/7/cgroup:0::/docker-" + b"a" * size),
    "escapes in a name": blocks(proc=lambda size: b"/proc/7/status:Name:\t" + b"\\n" * (size // 2)),
    "reserved ports": blocks(proc=lambda size: b"/proc/sys/net/ipv4/ip_local_reserved_ports:" + b"7," * (size // 2) + b"9"),
    "ranges": blocks(proc=lambda size: b"/proc/sys/net/ipv4/ip_local_port_range:" + b"1 " * (size // 2)),
    "sockets of one port": blocks(body=lambda size: NETSTAT + b"\n" + (ROW % 80 * (size // 100)).rstrip(b"\n")),
    "many ports": blocks(body=lambda size: NETSTAT + b"\n" + b"".join(ROW % (1 + n % 65535) for n in range(size // 100)).rstrip(b"\n")),
    "a second listing of other ports": blocks(
        second=lambda size: SECOND + b"".join(b"0 1 0.0.0.0:%d 0.0.0.0:* ino:%d sk:1\n" % (1 + n % 65535, n) for n in range(size // 36)) + b"x"
    ),
    "owners in the second listing": blocks(second=lambda size: SECOND + b'0 1 *:80 *:* users:(' + b'("",1,2),' * (size // 9)),
    "owners": blocks(body=lambda size: SECOND + b'0 1 *:80 *:* users:(' + b'("",1,2),' * (size // 9), tool=lambda _: b"ss"),
    "many owners": blocks(
        body=lambda size: SECOND + b"0 1 *:80 *:* users:(" + b",".join(b'("a",%d,2)' % n for n in range(size // 14)) + b") ino:1 sk:1",
        tool=lambda _: b"ss",
    ),
    "names in the second listing": blocks(second=lambda size: SECOND + b'0 1 *:80 *:* users:(("' + b'a\n",pid=1,fd=2),("' * (size // 18)),
    "lines that say nothing": lambda size: b"\n" * size + blocks()(0),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WORST))
def test_time_grows_with_a_frame_and_no_faster(kind: str) -> None:
    must_be_linear(kind, lambda size: frame_of(WORST[kind](size)), (SMALL * 8,))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(WORST))
def test_time_grows_with_a_frame_up_to_the_limit_of_an_answer(kind: str) -> None:
    must_be_linear(kind, lambda size: frame_of(WORST[kind](size)), (4 << 20,))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(WORST))
def test_memory_grows_with_a_frame_by_a_small_factor(kind: str) -> None:
    """With answers of 4 MiB, a process that has 150 MiB stays below 250."""
    one = frame_of(WORST[kind](1 << 19))
    tracemalloc.start()
    try:
        seconds(one)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def frame_of(data: bytes) -> Case:
    """Read as an operator reads it, and written as the archive does."""

    def read_and_keep() -> None:
        seen = read(data)
        evidence.must_be_in_range(seen)
        evidence.must_be_storable(seen)
        evidence.must_be_readable_again(data, NONCE, seen)

    return Case(data, read_and_keep)
