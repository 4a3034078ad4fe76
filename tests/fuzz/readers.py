"""Inputs to break, each with its reader: frames, listings, inventories and configurations.

``case(kind, number)`` makes the same input for the same number, in any process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from portmon import probe
from portmon.model.host import Inventory
from portmon.model.observation import Listing
from portmon.probe.listing import parse_listeners
from portmon.storage.inventory import to_json
from tests.fuzz.mutations import Mutator
from tests.worlds import mutated

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
NONCE = "n0n0"
KINDS = ("frame", "listing", "inventory", "config")


@dataclass(frozen=True, slots=True)
class Case:
    """One input.

    :param data: as it is read
    :param read: reads it; a frame's result is an observation, a listing's listeners
    """

    data: bytes
    read: Callable[[], Any]


def case(kind: str, number: int, folder: Path) -> Case:
    """The input of a number.

    :param folder: for files
    """
    # Strings are seeds as well, and the same in every process.
    mutator = Mutator(int.from_bytes(f"{kind} {number}".encode(), "big"))
    return _MAKERS[kind](mutator, folder)


# ── frames ──────────────────────────────────────────────────────────────────────────────────────


@cache
def listings() -> tuple[bytes, ...]:
    """What tools printed."""
    paths = [*(FIXTURES / "netstat" / "cases").glob("*.txt"), *(FIXTURES / "netstat" / "ss").glob("*.txt")]
    paths += (FIXTURES / "netstat" / "udp").glob("*.txt")
    return tuple(path.read_bytes() for path in sorted(paths))


@cache
def frames() -> tuple[bytes, ...]:
    """What the probe printed, in both versions, all with one nonce."""
    old = sorted((FIXTURES / "netstat" / "frames").glob("*.txt"))
    recorded = [path.read_bytes().replace(b"@@k7Qz", b"@@n0n0") for path in old]
    return (*recorded, (FIXTURES / "fuzz" / "frame-v2.txt").read_bytes())


@cache
def processes() -> tuple[bytes, ...]:
    """What frames say of processes."""
    found = (re.search(rb"@@n0n0 PROC[^\n]*\n(.*?)\n?@@n0n0 ", frame, re.DOTALL) for frame in frames())
    return tuple({match[1]: None for match in found if match})


FIELDS = {
    "tcp": "1", "tcp6": "1", "netns": "4026531840", "pid1": "12", "tried": "-", "tool": "netstat-W", "ended": "0", "via": "-", "ver": "-",
    "uid": "0", "boot": "b1", "range": "32768-60999", "ssx": "0",
}  # fmt: skip


def forged(body: bytes, proc: bytes, ssx: bytes | None, fields: dict[str, bytes], *, version: int = 2) -> bytes:
    """A frame whose lengths are right, whatever it holds: what an attacker prints."""
    begin = b"@@n0n0 "
    if version == 1:
        head = begin + b"BEGIN v=1 tool=%(tool)s uid=%(uid)s via=%(via)s bytes=" % _by_name(fields)
        head += b"%d boot=%s range=%s netns=%s ver=%s\n" % (
            len(body), fields["boot"], fields["range"], fields["netns"], fields["ver"]
        )  # fmt: skip
        return (
            b"\n"
            + head
            + body
            + b"\n"
            + begin
            + b"SSX bytes=%d\n" % len(ssx or b"")
            + (ssx or b"")
            + b"\n"
            + (begin + b"PROC\n" + proc + b"\n" + begin + b"END\n")
        )
    payload = begin + b"LIST tool=%(tool)s ended=%(ended)s via=%(via)s bytes=" % _by_name(fields)
    payload += b"%d ver=%s\n" % (len(body), fields["ver"]) + body + b"\n"
    payload += begin + b"PROC bytes=%d\n" % len(proc) + proc
    if ssx is not None:
        payload += b"\n" + begin + b"SSX ended=%s bytes=%d\n" % (fields["ssx"], len(ssx)) + ssx
    said = b"tcp=%(tcp)s tcp6=%(tcp6)s netns=%(netns)s pid1=%(pid1)s tried=%(tried)s" % _by_name(fields)
    if "udp" in fields:
        said += b" udp=%(udp)s udp6=%(udp6)s" % _by_name(fields)
    head = begin + b"BEGIN v=2 bytes=%d " % len(payload) + said + b"\n"
    return b"\n" + head + payload + b"\n" + begin + b"END volatile uptime=1.0 clock=- sockets=3\n"


def read(data: bytes) -> Listing:
    """What an answer says, after it was made ready for the archive."""
    frame = probe.cut_out(data, NONCE)
    frame.archived()
    return probe.listing_of(frame)


def _by_name(fields: dict[str, bytes]) -> dict[bytes, bytes]:
    return {name.encode(): value for name, value in fields.items()}


def _frame(mutator: Mutator, _: Path) -> Case:
    chance = mutator.random
    if chance.random() < 0.2:
        data = mutator.broken(mutator.pick(frames()), frames())
    else:
        body = mutator.broken(mutator.pick(listings()), listings())
        # Usually one part is broken, and the readers of the other parts see valid input.
        proc = mutator.pick(processes())
        proc = mutator.broken(proc, processes()) if chance.random() < 0.5 else proc
        ssx = mutator.broken(mutator.pick(listings()), listings()) if chance.random() < 0.4 else None
        fields = {name: value.encode() for name, value in FIELDS.items()}
        if b"local_address" in body:
            fields["tool"] = b"proc"
        elif b"Recv-Q" in body and b"Proto" not in body:
            fields["tool"] = b"ss"
        if chance.random() < 0.5:
            fields |= {"udp": b"1", "udp6": b"1"}
            tables = (FIXTURES / "netstat" / "udp" / "grep.root.txt").read_bytes().rstrip(b"\n")
            proc += b"\n" + (mutator.broken(tables, processes()) if chance.random() < 0.5 else tables)
        if chance.random() < 0.3:
            name = chance.choice(sorted(fields))
            fields[name] = mutator.broken(fields[name], (b"ss:limit,netstat:139", b"iproute2-6.1.0", b"sudo"))
        data = forged(body, proc, ssx, fields, version=chance.choice((1, 2, 2, 2)))
    return Case(data, lambda: read(data))


def _listing(mutator: Mutator, _: Path) -> Case:
    data = mutator.broken(mutator.pick(listings()), listings())
    version = mutator.random.choice((None, None, "iproute2-ss170501", "iproute2-ss170905", "iproute2-6.1.0"))
    udp = mutator.random.random() < 0.5
    return Case(data, lambda: parse_listeners(data, version=version, udp=udp))


# ── inventories and configurations ──────────────────────────────────────────────────────────────

CONFIGS = ("config", "example")
"""Kinds of :mod:`tests.worlds.mutated` that are configurations; the others are host lists."""


def document(mutator: Mutator, kind: str, data: bytes, folder: Path) -> Case:
    """A host list or a configuration, and what reads it.

    :param kind: of :func:`tests.worlds.mutated.samples`
    """
    read = mutated.reader(mutator.random, kind, data, folder)

    def stored() -> Any:
        found = read()
        return to_json(found) if isinstance(found, Inventory) else found.to_json()

    return Case(data, stored)


@cache
def documents() -> dict[str, bytes]:
    """By kind: one that is right."""
    return {kind: text.encode() for kind, text in mutated.samples().items()}


def _inventory(mutator: Mutator, folder: Path) -> Case:
    kind = mutator.random.choice([kind for kind in documents() if kind not in CONFIGS])
    return document(mutator, kind, mutator.broken(documents()[kind], tuple(documents().values())), folder)


def _config(mutator: Mutator, folder: Path) -> Case:
    # The example file takes ten times as long to read.
    kind = mutator.random.choice((*CONFIGS, "config", "config", "config"))
    return document(mutator, kind, mutator.broken(documents()[kind], [documents()[one] for one in CONFIGS]), folder)


_MAKERS: dict[str, Callable[[Mutator, Path], Case]] = {
    "frame": _frame,
    "listing": _listing,
    "inventory": _inventory,
    "config": _config,
}
