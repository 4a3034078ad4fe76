"""UDP sockets beside TCP's: listings of real hosts, frames, and the command, run for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon import probe
from portmon.errors import ContradictionError, NetstatParseError, ProbeError
from portmon.model.limits import OWNERS
from portmon.model.observation import Listener, Listing
from portmon.probe import Question, procfs, ss
from portmon.probe.listing import parse_listeners
from portmon.scan.answer import merge
from portmon.storage.archive import facts_from_json, facts_to_json
from tests.probe.test_frame import SHELLS
from tests.probe.test_tools import PATH, Host
from tests.worlds.netstat import HEADER, frame, netstat, script, ss_of

FOLDER = Path(__file__).parents[1] / "fixtures" / "netstat" / "udp"
"""What tools printed of the sockets in ``truth.json``, made in namespaces of their own. Besides there were a UDP socket
with a peer (40001), one of UDP-Lite (777) and a raw one."""
LISTINGS = sorted(FOLDER.glob("*.txt"))
TRUTH: list[dict[str, Any]] = json.loads((FOLDER / "truth.json").read_text())
BOTH = Question(udp=True, limit=5)


def read(path: Path) -> list[Listener]:
    version = re.match(r"ss-([\d.]+)\.t", path.name)
    if path.stem == "grep.root":
        return [one.listener() for one in procfs.read_named(path.read_bytes())[1]]
    if path.stem.endswith(".une"):
        return [one.listener() for one in ss.read(path.read_bytes(), 0, udp_alone=True)]
    # The old ones say the date of their release.
    return parse_listeners(path.read_bytes(), version=f"iproute2-{version[1]}" if version else None, udp=True)


def told_by(path: Path) -> list[dict[str, Any]]:
    """The sockets that a listing has to show."""
    alone = path.stem == "grep.root" or path.stem.endswith(".une")
    return [one for one in TRUTH if not alone or one["protocol"].startswith("udp")]


def as_told(one: dict[str, Any], name: str) -> tuple[object, ...]:
    """Protocol, address, port, pid and program of a socket, as a listing says them."""
    tool, address = name.split("-")[0].split(".")[0], one["address"]
    if tool == "netstat" and address.startswith("::ffff:"):
        address = address.removeprefix("::ffff:")
    elif name in ("netstat.root", "toybox.root") and ":" in address:
        # Cut to the width of its column.
        address = address[: 22 - len(str(one["port"]))]
    if tool in ("proc", "grep") or name.endswith((".nop", ".user", ".tune", ".une")) or one["pid"] is None:
        return one["protocol"], address, one["port"], None, None
    program = one["comm"] if tool == "ss" else one["argv0"]
    if tool in ("busybox", "toybox") or program.startswith("/"):
        program = program.rsplit("/", 1)[-1]
    if "7.1.0" in name:
        # It prints no control character.
        program = program.replace("\n", ".")
    return one["protocol"], address, one["port"], one["pid"], program


def test_there_are_listings() -> None:
    assert len(LISTINGS) == 36
    assert len(TRUTH) == 16


@pytest.mark.parametrize("path", LISTINGS, ids=lambda path: path.stem)
def test_every_tool_says_the_same(path: Path) -> None:
    found = [(one.protocol, one.address, one.port, one.pid, one.program) for one in read(path)]
    assert sorted(found, key=str) == sorted((as_told(one, path.stem) for one in told_by(path)), key=str)


@pytest.mark.parametrize("path", LISTINGS, ids=lambda path: path.stem)
def test_what_a_tool_says_besides(path: Path) -> None:
    for one in read(path):
        if path.stem.startswith(("ss", "proc", "grep", "netstat-ee")):
            assert one.inode
            assert one.uid == (12345 if one.port in (1123, 65000) else 0)
        if path.stem.startswith("ss") and one.port in (67, 546):
            assert one.zone == (None if "3.2.0" in path.stem else "lo")
        if path.stem.endswith("tunpe") and one.port == 514:
            # A process and its child.
            assert [owner.pid for owner in one.owners] == [one.pid, (one.pid or 0) + 1]


def test_sockets_with_a_peer_are_no_servers() -> None:
    for path in LISTINGS:
        assert not {40001, 777} & {one.port for one in read(path)}, path.stem
    assert b"ESTABLISHED" in (FOLDER / "toybox.root.txt").read_bytes()
    assert b" 01 " in (FOLDER / "proc-whole.root.txt").read_bytes()


def test_a_kernel_socket_has_no_process() -> None:
    for path in LISTINGS:
        (one,) = (one for one in read(path) if one.port == 4789)
        assert (one.protocol, one.pid, one.owners) == ("udp", None, ())


def test_rows_of_other_protocols_are_skipped() -> None:
    rows = [
        f"{proto:<11}0      0 {'0.0.0.0:9':<23} {'0.0.0.0:*':<23} {'7':<11} {'7/app':<20}"
        for proto in ("udplite", "raw", "raw6", "icmp", "sctp", "dccp")
    ]
    assert parse_listeners("\n".join([HEADER + udp_row(53), *rows]).encode(), udp=True)[0].port == 53
    assert len(parse_listeners("\n".join([HEADER + udp_row(53), *rows]).encode(), udp=True)) == 1


# ── rows by hand ────────────────────────────────────────────────────────────────────────────────


def udp_row(port: int, owner: str = "7/app", *, address: str = "0.0.0.0", foreign: str = "0.0.0.0:*") -> str:
    """What net-tools prints of a UDP socket."""
    proto = "udp6" if ":" in address else "udp"
    return f"{proto:<11}0      0 {f'{address}:{port}':<23} {foreign:<23} {'':<11} {owner:<20}"


def both(*ports: int, tcp: tuple[int, ...] = (80,), six: bool = False) -> str:
    """A listing of netstat in which one program has TCP and UDP ports."""
    address = "::" if six else "0.0.0.0"
    return "\n".join([netstat(*tcp), *(udp_row(port, address=address) for port in ports)])


def named(*ports: int, six: bool = False, headers: Sequence[str] = ("udp", "udp6")) -> str:
    """What the probe's grep prints of the tables, beside the user."""
    lines = ["/proc/self/status:Uid:\t0\t0\t0\t0", *(f"/proc/net/{name}:   sl  local_address" for name in headers)]
    name, address = ("udp6", "0" * 32) if six else ("udp", "0" * 8)
    fields = "07 00000000:00000000 00:00000000 00000000     9        0"
    lines += [f"/proc/net/{name}: 12: {address}:{port:04X} {address}:0000 {fields} {port + 70000}" for port in ports]
    return "\n".join(lines)


def ss_both(*ports: int, tcp: tuple[int, ...] = (80,), six: bool = False) -> str:
    """A listing of ss."""
    address = "[::]" if six else "0.0.0.0"
    rows = [f"tcp LISTEN {row}" for row in ss_of(*tcp).split("\n")[1:]]
    rows += [
        f"udp UNCONN 0 0 {address}:{port} {address}:* uid:9 ino:{port + 70000} sk:1 cgroup:/system.slice/u.service <->"
        for port in ports
    ]
    return "\n".join(["Netid State Recv-Q Send-Q Local Address:Port Peer Address:PortProcess", *rows])


WHOLE = [
    path for path in LISTINGS if path.stem in ("netstat-W.root", "netstat-W.user", "netstat-ee.root", "busybox.nop")
]
WHOLE += [path for path in LISTINGS if path.stem.startswith(("ss-3.2.0", "ss-4.11", "ss-4.19.0", "ss-7.1.0.t"))]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_cut_anywhere_in_the_last_row_of_udp_is_refused(path: Path) -> None:
    # The rows of UDP come first in ss.
    header, *rows = [line for line in path.read_bytes().split(b"\n") if not line.startswith(b"Active")]
    kept = [
        row
        for row in rows
        if row.startswith((b"tcp", b"udp   ", b"udp6")) and b'"ntp' not in row and b"9/ntp" not in row
    ]
    ordered = sorted(kept, key=lambda row: not row.startswith(b"tcp"))
    whole = b"\n".join([header, *ordered])
    assert len(parse_listeners(whole, udp=True)) == len(ordered)
    last = ordered[-1]
    read = []
    # The blanks at the end of a row of ss, and those of the last column of a netstat without owners, say nothing.
    is_filled = path.stem.startswith("netstat")
    for at in range(1, len(last) if is_filled else len(last.rstrip())):
        try:
            parse_listeners(whole[: len(whole) - len(last) + at], udp=True)
        except NetstatParseError:
            continue
        read.append(last[:at])
    # Some end with the address of a socket in the kernel.
    assert [row for row in read if not re.search(rb"sk[:=]\w+\Z", row)] == []


def test_a_listing_of_udp_alone() -> None:
    """As of a host whose sshd hangs behind a proxy: no row of TCP shows what columns there are."""
    for header in (HEADER, ""):
        raw = f"{header}{udp_row(53)}\n{udp_row(67, '-')}\n".encode()
        assert [(one.port, one.pid) for one in parse_listeners(raw, udp=True)] == [(53, 7), (67, None)]


def test_a_listing_without_l_says_so() -> None:
    row = "tcp        0      0 10.0.0.1:22             10.0.0.2:5              ESTABLISHED 7/sshd              "
    with pytest.raises(NetstatParseError, match=r"1 connections and no listening socket: .* -l"):
        parse_listeners(f"{HEADER}{row}\n{udp_row(53)}\n".encode(), udp=True)


def test_a_listing_without_l_of_ss_says_so() -> None:
    raw = f"{ss_both(53, tcp=())}\ntcp ESTAB 0 0 10.0.0.1:22 10.0.0.2:5 ino:5 sk:1 <->\n"
    with pytest.raises(NetstatParseError, match=r"1 connections and no listening socket: .* -l"):
        parse_listeners(raw.encode(), udp=True)


def test_clients_of_udp_are_no_connections_of_tcp() -> None:
    """toybox lists them with -l."""
    client = udp_row(40001, foreign="127.0.0.1:53").replace("  7/app", "7/app").replace(" 7/app", " ESTABLISHED 7/app")
    raw = f"{HEADER}{client}\n{udp_row(53)}\n"
    assert [one.port for one in parse_listeners(raw.encode(), udp=True)] == [53]
    assert parse_listeners(f"{HEADER}{client}\n".encode(), udp=True) == []


@pytest.mark.parametrize("name", ["a\n(b", "\n", "x\nudp", "x\nudp6 ", "a\nudp 0 0 "])
def test_a_name_with_newlines_hides_no_other_row(name: str) -> None:
    rows = [udp_row(53, f"7/{name}"), udp_row(54, "8/b"), udp_row(55, f"9/{name}")]
    found = parse_listeners((HEADER + "\n".join(rows) + "\n").encode(), udp=True)
    assert [(one.port, one.pid, one.program) for one in found] == [
        (53, 7, name.rstrip(" ")),
        (54, 8, "b"),
        (55, 9, name.rstrip(" ")),
    ]


def test_a_cut_in_the_column_that_is_filled_with_blanks() -> None:
    whole = f"{HEADER}{udp_row(53, '7/a')}\n{udp_row(54, '8/bcd')}".encode()
    assert len(parse_listeners(whole, udp=True)) == 2
    for size in range(1, 20):
        with pytest.raises(NetstatParseError, match=r"is cut in its last column|cut or unknown row"):
            parse_listeners(whole[:-size], udp=True)


@pytest.mark.parametrize("cut", [b"u", b"udp", b"udp6  ", b"udp        0", b"udp        0      0 "])
def test_a_cut_row_is_no_part_of_the_name_before_it(cut: bytes) -> None:
    raw = b"\n".join([HEADER.rstrip("\n ").encode(), udp_row(53).rstrip(" ").encode(), cut])
    with pytest.raises(NetstatParseError, match="cut or unknown row"):
        parse_listeners(raw, udp=True)


addresses = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).filter(lambda one: not one.ipv4_mapped).map(str),  # type: ignore[union-attr]
)
# No more bytes than the shortest column has.
names = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=3).map(lambda name: name.rstrip(" "))
sockets = st.lists(
    st.tuples(st.booleans(), addresses, st.integers(1, 65535), st.integers(1, 9999), names, st.booleans()), max_size=8
)
Made = tuple[bool, str, int, int, str, bool]


@given(sockets)
def test_netstat_round_trip(made: list[Made]) -> None:
    """TCP is read as without UDP, and each row has its own owner, although the state is blank."""
    rows, wanted = {True: [], False: []}, []  # type: ignore[var-annotated]
    for is_udp, address, port, pid, name, known in sorted(made, key=lambda one: one[0]):
        proto = ("udp" if is_udp else "tcp") + ("6" if ":" in address else "")
        owner = f"{pid}/{name}" if known else "-"
        rows[is_udp].append(
            f"{proto:<11}0      0 {f'{address}:{port}':<23} {'0.0.0.0:*':<23} {'' if is_udp else 'LISTEN':<11} {owner:<20}"
        )
        wanted.append((proto, address, port, pid if known else None, name if known else None))
    found = parse_listeners((HEADER + "\n".join(rows[False] + rows[True]) + "\n").encode(), udp=True)
    assert [(one.protocol, one.address, one.port, one.pid, one.program) for one in found] == wanted
    alone = parse_listeners((HEADER + "\n".join(rows[False]) + "\n").encode())
    assert [one for one in found if one.protocol.startswith("tcp")] == alone
    assert parse_listeners((HEADER + "\n".join(rows[False] + rows[True]) + "\n").encode()) == alone


@given(sockets)
def test_ss_round_trip(made: list[Made]) -> None:
    lines, wanted = ["Netid State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess"], []
    for is_udp, address, port, pid, name, known in made:
        place = f"[{address}]" if ":" in address else address
        users = f' users:(("{name}",pid={pid},fd=3))' if known else ""
        lines.append(
            f"{'udp   UNCONN' if is_udp else 'tcp   LISTEN'} 0  0  {place}:{port} 0.0.0.0:*{users} ino:5 sk:1 cgroup:/x <->"
        )
        protocol = ("udp" if is_udp else "tcp") + ("6" if ":" in address else "")
        wanted.append((protocol, address, port, pid if known else None))
    found = parse_listeners("\n".join(lines).encode() + b"\n", udp=True)
    assert [(one.protocol, one.address, one.port, one.pid) for one in found] == wanted


@given(st.sampled_from(LISTINGS), st.data())
def test_what_is_broken_is_refused_or_read_but_never_crashes(path: Path, data: st.DataObject) -> None:
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    broken = whole[:start] + data.draw(st.binary(max_size=8)) + whole[start + data.draw(st.integers(0, 60)) :]
    try:
        for one in parse_listeners(broken, udp=True):
            assert one.protocol in ("tcp", "tcp6", "udp", "udp6")
    except NetstatParseError:
        pass


# ── frames ──────────────────────────────────────────────────────────────────────────────────────

ASKED = {"udp": "1", "udp6": "1"}


def ports(found: tuple[Listener, ...] | None) -> list[int] | None:
    return None if found is None else [one.port for one in found]


def test_a_frame_with_udp() -> None:
    seen = probe.read_frame(frame(both(53, 67), ssx=ss_of(80), proc=named(53, 67), **ASKED), "n0n0")
    assert (ports(seen.listeners), ports(seen.udp)) == ([80], [53, 67])
    assert [(one.pid, one.inode, one.uid) for one in seen.udp or ()] == [(7, 70053, 9), (7, 70067, 9)]
    assert facts_from_json(facts_to_json(seen)) == seen


def test_a_frame_with_udp_of_ss() -> None:
    """For root it is in the listing, for others in one beside it."""
    alone = "\n".join(row.removeprefix("udp UNCONN ") for row in ss_both(53, 67, tcp=()).split("\n"))
    whole = frame(ss_both(53, 67), tool="ss", **ASKED)
    for output in (whole, frame(ss_of(80), tool="ss", ssx=alone.removeprefix("Netid State "), **ASKED)):
        seen = probe.read_frame(output, "n0n0")
        assert (ports(seen.listeners), ports(seen.udp)) == ([80], [53, 67])
        assert {(one.unit, one.uid) for one in seen.udp or ()} == {("u.service", 9)}
        assert [one.inode for one in seen.udp or ()] == [70053, 70067]


@pytest.mark.parametrize("version", [1, 2])
def test_what_was_not_asked_for_udp_says_nothing_of_it(version: int) -> None:
    """An old forced command lists TCP alone, whatever it is asked for; its rows of UDP are none."""
    body = both(53)
    output = frame(body)
    if version == 1:
        output = (
            f"\n@@n0n0 BEGIN v=1 tool=netstat-W uid=0 via=- bytes={len(body)} boot=b1 range=1-2 netns=5 udp=1 ver=-\n{body}\n"
            "@@n0n0 SSX bytes=0\n\n@@n0n0 PROC\n@@n0n0 END\n"
        ).encode()
    seen = probe.read_frame(output, "n0n0")
    assert (ports(seen.listeners), seen.udp) == ([80], None)
    assert b"udp" not in facts_to_json(seen)
    assert facts_from_json(facts_to_json(seen)).udp is None


def test_no_udp_socket_is_not_the_same_as_udp_not_shown() -> None:
    seen = probe.read_frame(frame(netstat(80), proc=named(), **ASKED), "n0n0")
    assert seen.udp == ()
    assert facts_from_json(facts_to_json(seen)).udp == ()


PROC = (FOLDER / "proc.root.txt").read_text()
PROC_TCP = "\n".join(PROC.split("\n")[: next(i for i, line in enumerate(PROC.split("\n")) if "pointer" in line)])


@pytest.mark.parametrize(
    ("tool", "body", "tables", "fields", "wanted"),
    [
        ("netstat-W", both(53), named(53), ASKED, [53]),
        ("netstat-W", both(53), named(53, headers=["udp"]), {"udp": "1", "udp6": "-"}, [53]),
        ("netstat-W", both(53), named(53, headers=["udp"]), ASKED, None),
        ("netstat-W", both(53), named(headers=["udp6"]), ASKED, None),
        ("netstat", both(53), named(headers=[]), ASKED, None),
        # what ss shows is enough
        ("ss", ss_both(53), named(headers=[]), ASKED, [53]),
        ("ss", ss_both(), named(54), ASKED, [54]),
        ("ss", ss_both(), named(), ASKED, []),
        ("ss", ss_both(), named(headers=["udp"]), ASKED, None),
        ("ss", ss_of(80), named(54), ASKED, [54]),
        ("ss", ss_of(80), named(headers=[]), ASKED, None),
        ("proc", PROC_TCP, named(54), ASKED, [54]),
        ("proc", PROC_TCP, named(headers=["udp6"]), ASKED, None),
    ],
)
def test_what_proves_which_udp_sockets_there_are(
    tool: str, body: str, tables: str, fields: dict[str, str], wanted: list[int] | None
) -> None:
    """An answer that does not is evidence of TCP all the same."""
    seen = probe.read_frame(frame(body, tool=tool, proc=tables, **fields), "n0n0")
    assert seen.listeners
    assert ports(seen.udp) == wanted


@pytest.mark.parametrize("ssx", ["of another layout", "Recv-Q Send-Q Local Address:Port Peer Address:Port\n0 0 cut"])
def test_a_list_of_udp_that_is_not_understood_costs_no_listing(ssx: str) -> None:
    for tables, wanted in ((named(54), [54]), (named(headers=[]), None)):
        seen = probe.read_frame(frame(ss_of(80), tool="ss", ssx=ssx, proc=tables, **ASKED), "n0n0")
        assert (ports(seen.listeners), ports(seen.udp)) == ([80], wanted)


def test_a_cut_row_of_a_table_is_refused() -> None:
    whole = named(54)
    for size in range(1, 30):
        with pytest.raises(NetstatParseError, match=r"cut or unknown row|no inode"):
            probe.read_frame(frame(both(54), proc=whole[:-size].rstrip("0123456789 "), **ASKED), "n0n0")


def test_udp_does_not_stand_for_tcp() -> None:
    with pytest.raises(ProbeError, match="lists nothing at all"):
        probe.read_frame(frame(ss_both(53, tcp=()), tool="ss", **ASKED), "n0n0")


@pytest.mark.parametrize(
    ("listing", "tables", "gross"),
    [
        (both(53, 67), named(53, 67), False),
        (both(), named(53), False),
        # a table that netstat could not read
        (both(53), named(53, six=True), True),
        (both(*range(1, 21)), named(*range(1, 10)), True),
        (both(*range(1, 21)), named(*range(1, 12)), False),
        # a resolver asks from other ports each time
        (both(53, *range(20_000, 20_200)), named(53, *range(30_000, 30_200)), False),
        (both(53), "\n".join([named(53), named(40_000, six=True).split("\n")[-1]]), False),
    ],
)
def test_contradictions_of_udp(listing: str, tables: str, gross: bool) -> None:
    output = frame(listing, ssx=ss_of(80), proc=tables, **ASKED)
    if gross:
        with pytest.raises(ContradictionError, match="of UDP contradict each other"):
            probe.read_frame(output, "n0n0")
    else:
        assert ports(probe.read_frame(output, "n0n0").udp) is not None


def test_one_address_and_port_of_both_protocols() -> None:
    """Neither has the inode, the user or the unit of the other one."""
    seen = probe.read_frame(frame(both(80), ssx=ss_of(80), proc=named(80), **ASKED), "n0n0")
    found = [(one.protocol, one.inode, one.unit) for one in (*seen.listeners, *(seen.udp or ()))]
    assert found == [("tcp", 80, "a.service"), ("udp", 70080, None)]


def test_workers_of_one_port_may_not_be_told_apart() -> None:
    own = "\n".join([netstat(80), udp_row(4433, "7/a"), udp_row(4433, "8/b")])
    proc = f"{named(4433, 4433)}\n/proc/7/status:Name:\ta\n/proc/8/status:Name:\tb"
    seen = probe.read_frame(frame(own, proc=proc, **ASKED), "n0n0")
    assert [(one.comm, one.inode, one.uid) for one in seen.udp or ()] == [("a", None, 9), ("b", None, 9)]


def test_more_sockets_of_a_port_than_are_told_apart() -> None:
    rows = [udp_row(80, address=f"10.0.{i // 250}.{i % 250}") for i in range(300)]
    seen = probe.read_frame(frame("\n".join([netstat(80), *rows]), proc=named(80), **ASKED), "n0n0")
    assert (len(seen.listeners), seen.beyond) == (1, ())
    assert (len(seen.udp or ()), seen.udp_beyond) == (OWNERS, ((80, 300 - OWNERS),))
    assert facts_from_json(facts_to_json(seen)) == seen


def test_no_more_sockets_of_a_protocol_than_a_host_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portmon.model.limits.ROWS", 2)
    assert len(parse_listeners(both(53, 54, tcp=(80, 81)).encode(), udp=True)) == 4
    with pytest.raises(NetstatParseError, match="3 listening sockets: a host can't have more than 2"):
        parse_listeners(both(53, 54, 55).encode(), udp=True)


def test_every_cut_of_a_frame_is_refused() -> None:
    whole = frame(both(53, 54), ssx=ss_of(80), proc=named(53, 54), **ASKED)
    probe.read_frame(whole, "n0n0")
    for size in range(1, len(whole)):
        with pytest.raises(ProbeError):
            probe.read_frame(whole[:size], "n0n0")


def test_two_answers_show_what_either_shows() -> None:
    first, second, none = (
        probe.read_frame(frame(both(*own), proc=named(*own), **fields), "n0n0")
        for own, fields in (((53, 67), ASKED), ((53, 68), ASKED), ((), {}))
    )
    assert ports(merge([first, second]).udp) == [53, 67, 68]
    # One that does not show UDP is no evidence of it.
    assert ports(merge([none, second]).udp) is None
    assert ports(merge([none, none]).udp) is None
    assert merge([first]) == first
    empty = probe.read_frame(frame(netstat(80), proc=named(), **ASKED), "n0n0")
    assert ports(merge([empty, empty]).udp) == []


# ── the command, run for real ───────────────────────────────────────────────────────────────────


@pytest.fixture
def held() -> Iterator[tuple[int, int]]:
    """A port that is listened on, and a UDP port; a client of the latter."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        udp.bind(("127.0.0.1", 0))
        client.connect(udp.getsockname())
        yield server.getsockname()[1], udp.getsockname()[1]


def must_show(seen: Listing, held: tuple[int, int]) -> None:
    (tcp,) = (one for one in seen.listeners if one.port == held[0])
    (udp,) = (one for one in seen.udp or () if one.port == held[1])
    assert (udp.protocol, udp.address, udp.uid) == ("udp", "127.0.0.1", os.getuid())
    if seen.tool == "proc":
        assert tcp.pid is None
    elif os.geteuid():
        assert tcp.pid == os.getpid()
    else:
        comm = Path("/proc/self/comm").read_text().rstrip("\n")
        assert {(one.pid, one.comm) for one in (tcp, udp)} == {(os.getpid(), comm)}
    assert {one.protocol for one in seen.udp or ()} <= {"udp", "udp6"}


@pytest.mark.parametrize("skip", [(), ("netstat",), ("netstat", "ss")], ids=len)
def test_each_tool_lists_both(tmp_path: Path, held: tuple[int, int], skip: tuple[str, ...]) -> None:
    host = Host(tmp_path, {})
    seen = host.ask(Question(udp=True, skip=skip))
    assert seen.tool == ("netstat-W", "ss", "proc")[len(skip)]
    must_show(seen, held)
    assert host.ask(Question(skip=skip)).udp is None


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "dash", "ksh", "mksh", "yash", "zsh", "busybox"])
@pytest.mark.parametrize("skip", [(), ("netstat",), ("netstat", "ss")], ids=len)
def test_whatever_sh_is(tmp_path: Path, held: tuple[int, int], shell: str, skip: tuple[str, ...]) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    host = Host(tmp_path, {})
    (tmp_path / "sh").symlink_to(shutil.which(shell) or "/nonexistent")
    must_show(host.ask(Question(udp=True, skip=skip)), held)
    script = tmp_path / "portmon-probe"
    script.write_text(probe.script())
    for question in (Question(udp=True, skip=skip), Question(skip=skip)):
        env = {"PATH": f"{host.folder}:{PATH}", "SSH_ORIGINAL_COMMAND": probe.command("abcd", question)}
        done = subprocess.run([tmp_path / "sh", script], capture_output=True, check=True, env=env)
        seen = probe.read_frame(done.stdout, "abcd")
        if question.udp:
            must_show(seen, held)
        assert (seen.udp is not None) == question.udp


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_under_a_login_shell(shell: str, held: tuple[int, int]) -> None:
    if not shutil.which(shell.split()[0]):
        pytest.skip(f"{shell} is not installed")
    nonce = probe.new_nonce()
    done = subprocess.run([*shell.split(), "-c", probe.command(nonce, BOTH)], capture_output=True, check=False)
    must_show(probe.read_frame(done.stdout, nonce), held)


def test_the_command_is_one_quoted_word_for_any_shell() -> None:
    command = probe.command("abcd1234", BOTH)
    assert command.startswith("exec sh -c 'eval \"$0\"' '")
    assert command.count("'") == 4
    assert not set(command) & set("!\n")
    assert "\\\\" not in command


def test_what_is_not_asked_for_udp_is_asked_as_before() -> None:
    command = probe.command("abcd1234")
    assert not re.search(r"udp|unconnected|\bD\b", command)
    assert "netstat -nltpW" in command
    assert "ss -tnpe state listening ||" in command
    assert "ss -tne state listening 2>" in command


@pytest.mark.parametrize("hint", ["udp", ""])
def test_a_forced_command_goes_by_what_the_client_asks_for(tmp_path: Path, held: tuple[int, int], hint: str) -> None:
    host = Host(tmp_path, {})
    script = tmp_path / "portmon-probe"
    script.write_text(probe.script())
    assert len(probe.script().strip().split("\n")) == 3
    # What stands in the environment of the host is no wish of the client's.
    env = {"PATH": f"{host.folder}:{PATH}", "D": "" if hint else "udp", "E": " udp=1"}
    env["SSH_ORIGINAL_COMMAND"] = probe.command("abcd", Question(udp=bool(hint)))
    done = subprocess.run(["sh", script], capture_output=True, check=True, env=env)
    seen = probe.read_frame(done.stdout, "abcd")
    assert (seen.udp is not None) == bool(hint)
    assert (b" udp=" in done.stdout) == bool(hint)
    if hint:
        must_show(seen, held)


def test_an_ss_that_says_nothing_of_udp(tmp_path: Path, held: tuple[int, int]) -> None:
    """Old ones, where the kernel refuses their question of UDP: then its tables are read."""
    host = Host(tmp_path, {"ss": '/usr/bin/ss "$@" | sed /^udp/d'})
    seen = host.ask(Question(udp=True, skip=("netstat",)))
    assert seen.tool == "ss"
    assert [one.pid for one in seen.listeners if one.port == held[0]] == [os.getpid()]
    assert [(one.pid, one.uid) for one in seen.udp or () if one.port == held[1]] == [(None, os.getuid())]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize("hides", ["", "cgroup", "rows"])
def test_what_another_user_sees_of_udp(request: pytest.FixtureRequest, held: tuple[int, int], hides: str) -> None:
    """ss with cgroups lists UDP apart; else the tables are read."""
    folder = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(folder))
    change = {"": "", "cgroup": "s/ cgroup:[^ ]*//", "rows": "2,$d"}[hides]
    only = "-une" if hides == "rows" else "-[tu]*"
    script(
        folder / "ss",
        f'#!/bin/sh\ncase $1 in {only}) /usr/bin/ss "$@" | sed \'{change}\';; *) exec /usr/bin/ss "$@";; esac\n',
    )
    folder.chmod(0o755)
    command = probe.command("abcd", Question(udp=True, skip=("netstat",)))
    env = {"PATH": f"{folder}:{PATH}"}
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, env=env, user=65534)
    seen = probe.read_frame(done.stdout, "abcd")
    must_show_to_another(seen, held)
    assert (b" SSX " in done.stdout, b"/proc/net/udp:" in done.stdout) == (hides != "cgroup", hides != "")


def must_show_to_another(seen: Listing, held: tuple[int, int]) -> None:
    assert held[0] in {one.port for one in seen.listeners}
    (udp,) = (one for one in seen.udp or () if one.port == held[1])
    assert (udp.protocol, udp.address, udp.uid, udp.pid) == ("udp", "127.0.0.1", 0, None)
    assert udp.inode


def test_an_ss_that_reads_the_tables_of_udp(tmp_path: Path, held: tuple[int, int]) -> None:
    """Newer ones do, where the kernel's sock_diag does not know UDP. Their rows of UDP say less than those of TCP."""
    tables = "PROC_NET_UDP=/proc/net/udp PROC_NET_UDP6=/proc/net/udp6"
    host = Host(tmp_path, {"ss": f'{tables} exec /usr/bin/ss "$@"'})
    output, nonce = host.run(Question(udp=True, skip=("netstat",)))
    assert re.search(rb"\nudp .* sk:", output) is None
    must_show(probe.read_frame(output, nonce), held)


def test_an_ss_that_says_nothing_of_tcp(tmp_path: Path, held: tuple[int, int]) -> None:
    # Asked for TCP alone, as an ordinary user asks it, it prints no column for the protocol.
    ss = 'case $1 in -tu*) /usr/bin/ss "$@" | sed /^tcp/d;; -t*) /usr/bin/ss "$@" | sed 1q;; *) exec /usr/bin/ss "$@";; esac'
    seen = Host(tmp_path, {"ss": ss}).ask(Question(udp=True, skip=("netstat",)))
    assert seen.tool == "proc"
    must_show(seen, held)


def test_processes_that_hold_nothing_but_udp_are_looked_at(tmp_path: Path) -> None:
    rows = [udp_row(53, "90003/wrk 1/4"), udp_row(54, "90004//usr/bin/x"), udp_row(55, "-"), udp_row(56, "90005/a")]
    (tmp_path / "listing").write_text("\n".join([netstat(), *rows]) + "\n")
    grep = f'printf "%s\\n" "$@" >{tmp_path}/asked; exec /usr/bin/grep "$@"'
    Host(tmp_path, {"netstat": f"cat {tmp_path}/listing", "ss": "true", "grep": grep}).run(BOTH)
    pids = set(re.findall(r"/proc/(\d+)/status", (tmp_path / "asked").read_text()))
    assert {"90003", "90004", "90005"} <= pids <= {"90003", "90004", "90005", "1"}


def test_which_lines_sudo_is_asked_for(tmp_path: Path, held: tuple[int, int]) -> None:
    """As docs/security.md names them."""
    sudo = f'[ "$2" = -l ] || exit 1; shift 2; echo "$*" >>{tmp_path}/asked; exit 1'
    host = Host(tmp_path, {"id": "echo 1", "sudo": sudo})
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    for udp in (False, True):
        (tmp_path / "asked").unlink(missing_ok=True)
        seen = host.ask(Question(sudo=True, udp=udp, limit=5))
        assert (seen.via, seen.udp is not None) == (None, udp)
        asked = (tmp_path / "asked").read_text().splitlines()
        assert len(asked) == (3 if udp else 4)
        assert all(f"/usr/bin/{line}" in page for line in asked)
        assert all(("unconnected" in line or "u" in line.split()[1]) == udp for line in asked)


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_how_many_processes_a_look_costs(tmp_path: Path, held: tuple[int, int]) -> None:
    """No more than without UDP; and one less where ss is not asked for its version."""
    trace = tmp_path / "trace"
    way = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(trace)]
    users = ["", "setpriv --reuid=65534 --clear-groups"] if os.geteuid() == 0 else [""]
    for user in users:
        counts = []
        for udp in (False, True):
            for skip in ((), ("netstat",), ("netstat", "ss")):
                command = probe.command("abcd1234", Question(udp=udp, skip=skip))
                words = [*way, *user.split(), "sh", "-c", command]
                subprocess.run(words, capture_output=True, check=True, env={"PATH": PATH})
                counts.append(len({line.split()[0] for line in trace.read_text(errors="replace").splitlines()}))
        less = user == users[0] and os.geteuid() == 0
        assert counts[3:] == [counts[0], counts[1] - less, counts[2]]
