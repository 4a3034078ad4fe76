"""Listings of old and odd tools, cut ones, and inputs that are made to cost time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.errors import NetstatParseError, PortmonError
from portmon.model.limits import OWNERS, ROWS
from portmon.model.observation import Listener
from portmon.probe.listing import parse_listeners
from portmon.probe.rows import MAX_OWNERS
from tests.worlds.netstat import HEADER, listing

FIXTURES = Path(__file__).parents[1] / "fixtures" / "netstat"
SS = sorted(path for path in (FIXTURES / "ss").glob("*.txt") if not path.name.startswith("manyfds"))
"""What each version of ss printed of the same sockets: SET.VERSION.COMMAND.txt."""
VERSIONS = {
    "3.2.0": "iproute2-ss120105",
    "4.9.0": "iproute2-ss161212",
    "4.11.0": "iproute2-ss170501",
    "4.13.0": "iproute2-ss170905",
    "4.15.0": "iproute2-ss180129",
    "4.19.0": "iproute2-ss181023",
    "5.10.0": "iproute2-5.10.0",
    "6.1.0": "iproute2-6.1.0",
    "6.8.0": "iproute2-6.8.0",
    "7.1.0": "iproute2-7.1.0",
}
WILD = "0.0.0.0"
SETS = {
    "main": [
        ("127.0.0.53", 53),
        ("127.0.0.1", 7002),
        ("127.0.0.1", 7003),
        ("127.0.0.1", 7004),
        ("127.0.0.1", 25),
        (WILD, 8081),
        (WILD, 22),
        ("::ffff:127.0.0.1", 8005),
        ("2001:db8:1111:2222:3333:4444:5555:6666", 65000),
        ("fe80::a2ce:c8ff:fe12:3456", 8443),
        ("::", 22),
        ("::", 80),
        ("::1", 25),
    ],
    "v4wild": [(WILD, 22)],
    "dualonly": [("::", 80)],
    "long": [("127.0.0.1", 8080), ("2001:db8:1111:2222:3333:4444:5555:6666", 65000)],
    "zonelong": [("2001:db8:1111:2222:3333:4444:5555:6666", 65000), ("fe80::1111:2222:3333:4444", 8443)],
}


def places(found: list[Listener]) -> list[tuple[str, int]]:
    return sorted((one.address, one.port) for one in found)


@pytest.mark.parametrize("path", SS, ids=lambda path: path.stem)
def test_every_version_of_ss_says_the_same(path: Path) -> None:
    name, version, command = path.stem.split(".", 1)[0], path.stem.split(".", 1)[1].rsplit(".", 1)[0], path.suffixes[-2]
    raw = path.read_bytes()
    found = parse_listeners(raw, version=VERSIONS[version])
    assert places(found) == sorted(SETS[name])
    assert all(one.inode for one in found)
    # What belongs to root is not said, and known none the less.
    assert all(one.uid is not None for one in found)
    if "-ltnpe" in command or command.startswith((".ltnpe", ".tnpe")):
        assert all(one.pid and one.program is not None for one in found)
        assert all(one.comm == one.program for one in found)
    if name != "v4wild":
        # Without the version the rows alone tell it.
        assert places(parse_listeners(raw)) == sorted(SETS[name])


def test_some_of_them_glue_the_state_to_the_queue() -> None:
    assert any(b"\nLISTEN0 " in path.read_bytes() for path in SS)
    assert any(path.read_bytes().startswith(b"Recv-QSend-Q") for path in SS)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # up to 4.12: * is every address of IPv4 wherever something says so
        ("*:8443 *:*|127.0.0.1:25 *:*|::1:25 :::*", [(WILD, 8443), ("127.0.0.1", 25), ("::1", 25)]),
        ("*:8443 *:*|127.0.0.1:25 *:*", [(WILD, 8443), ("127.0.0.1", 25)]),
        ("*:80 *:*|:::80 :::*", [(WILD, 80), ("::", 80)]),
        # from 4.14 on: of both families
        ("*:80 *:*|127.0.0.1:25 0.0.0.0:*", [("::", 80), ("127.0.0.1", 25)]),
        ("*:80 *:*|[::1]:25 [::]:*", [("::", 80), ("::1", 25)]),
        ("*:80 *:*", [("::", 80)]),
        # in 4.13 v6only: alone tells them apart
        ("*:22 *:* ino:1 sk:1 <->|*:22 *:* ino:2 sk:2 v6only:1 <->|[::1]:25 *:* ino:3 sk:3 v6only:1 <->",
         [(WILD, 22), ("::", 22), ("::1", 25)]),
    ],
)  # fmt: skip
def test_what_a_star_means(rows: str, expected: list[tuple[str, int]]) -> None:
    text = "State Recv-Q Send-Q Local Address:Port Peer Address:Port\n"
    text += "".join(f"LISTEN 0 128 {row}\n" for row in rows.split("|"))
    assert places(parse_listeners(text.encode())) == sorted(expected)


@pytest.mark.parametrize(
    ("version", "address"),
    [("iproute2-ss170501", WILD), ("iproute2-ss171113", "::"), ("iproute2-5.10.0", "::"), ("iproute2-v5.7.0-77", "::")],
)
def test_a_star_by_version(version: str, address: str) -> None:
    row = b"State Recv-Q Send-Q Local Address:Port Peer Address:Port\nLISTEN 0 128 *:8443 *:* ino:3 sk:1 <->\n"
    assert places(parse_listeners(row, version=version)) == [(address, 8443)]


def test_toybox() -> None:
    raw = (
        "Active Internet connections (only servers)\n"
        "Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program Name\n"
        "tcp6       0      0 [::]:6001               [::]:*                  LISTEN      901/relay\n"
        "tcp        0      0 127.0.0.1:6002          0.0.0.0:*               LISTEN      901/relay\n"
        "tcp        0      0 127.0.0.1:41022         127.0.0.1:6002          TIME_WAIT   -\n"
    )
    found = parse_listeners(raw.encode())
    assert [(one.protocol, one.address, one.port) for one in found] == [
        ("tcp6", "::", 6001),
        ("tcp", "127.0.0.1", 6002),
    ]


@pytest.mark.parametrize(
    "raw",
    [
        "Active Internet connections (w/o servers)\n"
        "Proto Recv-Q Send-Q Local Address Foreign Address State\n"
        "tcp        0      0 10.0.0.1:22  10.0.0.2:50000 ESTABLISHED\n",
        "State Recv-Q Send-Q Local Address:Port Peer Address:Port\nESTAB 0 0 10.0.0.1:22 10.0.0.2:50000\n",
    ],
)
def test_a_listing_without_l_says_so(raw: str) -> None:
    with pytest.raises(NetstatParseError, match=r"1 connections and no listening socket: .* -l"):
        parse_listeners(raw.encode())


# ── cuts ────────────────────────────────────────────────────────────────────────────────────────

NETSTAT = listing(*range(8000, 8090), program="python").encode()
BUSYBOX = HEADER.encode() + b"".join(
    f"tcp        0      0 {f'0.0.0.0:{port}':<23} {'0.0.0.0:*':<23} LISTEN      2007/python\n".encode()
    for port in range(8000, 8020)
)
WHOLE = {
    "netstat": NETSTAT,
    "busybox": BUSYBOX,
    "ss": (FIXTURES / "ss" / "main.6.8.0.tnpe-state-listening.txt").read_bytes(),
    "ss -e": (FIXTURES / "ss" / "main.4.11.0.tne-state-listening.txt").read_bytes(),
    "proc": (FIXTURES / "cases" / "s02_typical__procnet__root__C.txt").read_bytes(),
}


def in_free_text(kind: str, row: bytes, at: int) -> bool:
    """Whether a row that is cut there is a whole one with a shorter last word, as far as its bytes tell."""
    if kind == "busybox":
        return at > row.rfind(b"/")
    # The blanks of ss and /proc around a row say nothing.
    return at >= len(row.rstrip()) or not row[:at].strip()


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_a_cut_anywhere_in_a_row_is_refused(kind: str) -> None:
    whole = WHOLE[kind]
    lines = whole.split(b"\n")
    # The second row: one whole one shows what a row has.
    start = sum(len(line) + 1 for line in lines[:-2])
    row = lines[-2]
    read = 0
    for at in range(1, len(row)):
        if in_free_text(kind, row, at):
            continue
        try:
            parse_listeners(whole[: start + at])
        except NetstatParseError:
            continue
        read += 1
    assert read == 0


SECOND = "tcp        0      0 0.0.0.0:81              0.0.0.0:*               "
CUT = {
    "the state": f"{SECOND}LIST",
    "the inode": f"{SECOND}LISTEN      0          284",
    "a connection": f"{SECOND.replace('0.0.0.0:* ', '10.0.0.9:7')}ESTABLISHED",
}


@pytest.mark.parametrize("place", sorted(CUT))
def test_a_cut_in_the_last_column_of_a_netstat_without_owners(place: str) -> None:
    extended = "0          28450     " if place == "the inode" else ""
    owner = "7/relay             " if place == "a connection" else ""
    header = HEADER if owner else HEADER.replace("PID/Program name    ", "User       Inode     " if extended else "")
    whole = f"{header}{SECOND.replace('81', '80')}LISTEN      {extended}{owner}\n"
    assert places(parse_listeners(whole.encode())) == [(WILD, 80)]
    with pytest.raises(NetstatParseError, match="cut or unknown row"):
        parse_listeners((whole + CUT[place]).encode())


def test_a_cut_row_is_no_part_of_the_name_before_it() -> None:
    with pytest.raises(NetstatParseError, match="cut or unknown row"):
        parse_listeners(HEADER.encode() + BUSYBOX.splitlines(True)[2].replace(b"2007/python", b"7/a") + b"tcp       12")


@pytest.mark.parametrize("tail", ["us", "users:(", "uid:33 in", "ino:28450", "uid:33", "ino:28450 sk"])
def test_a_cut_in_the_only_row_of_ss(tail: str) -> None:
    row = "State Recv-Q Send-Q Local Address:Port Peer Address:Port\nLISTEN 0 128 127.0.0.1:80 0.0.0.0:* "
    assert places(parse_listeners(f"{row}uid:33 ino:28450 sk:1 <->".encode())) == [("127.0.0.1", 80)]
    with pytest.raises(NetstatParseError, match="cut"):
        parse_listeners((row + tail).encode())


# ── what editors, terminals and other options add ───────────────────────────────────────────────


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_a_file_of_an_editor(kind: str) -> None:
    whole = WHOLE[kind]
    seen = parse_listeners(whole)
    assert parse_listeners(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n")) == seen


@pytest.mark.skipif(not shutil.which("ss"), reason="needs ss")
@pytest.mark.parametrize("options", ["-ltnpeim", "-ltnpe", "-ltnpeom"])
def test_details_below_a_row(options: str) -> None:
    """-i and -m add a line that begins with a tab."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        raw = subprocess.run(["ss", options], capture_output=True, check=True).stdout
        assert (b"\n\t" in raw) == ("m" in options)
        (found,) = (one for one in parse_listeners(raw) if one.port == server.getsockname()[1])
    assert found.pid == os.getpid()


def test_a_long_interface_of_ss_4_1() -> None:
    """It prints blanks between the address and an interface whose name is longer than its column."""
    raw = (
        "State      Recv-Q Send-Q Local Address:Port               Peer Address:Port              \n"
        "LISTEN     0      32     *    %br-12345678:53                       *:*                   ino:64 sk:2 <->\n"
        "LISTEN     0      32     ::   %br-12345678:53                      :::*                   ino:65 sk:3 <->\n"
    )
    found = parse_listeners(raw.encode())
    assert [(one.address, one.zone, one.port) for one in found] == [
        (WILD, "br-12345678", 53),
        ("::", "br-12345678", 53),
    ]


def test_every_row_has_the_columns_of_the_header() -> None:
    cut = HEADER.encode() + b"tcp        0      0 0.0.0.0:80              0.0.0.0:*               LISTEN\n"
    with pytest.raises(NetstatParseError, match="cut or unknown row"):
        parse_listeners(cut)
    bare = cut.replace(b"       PID/Program name    ", b"")
    assert places(parse_listeners(bare)) == [(WILD, 80)]


# ── many owners, and names that hold what stands around names ───────────────────────────────────


def owned(count: int, name: str = "php-fpm") -> bytes:
    users = ",".join(f'("{name}",pid={pid},fd=9)' for pid in range(1000, 1000 + count))
    return f"LISTEN 0 128 0.0.0.0:9000 0.0.0.0:* users:({users}) ino:5 sk:1 cgroup:/x <->\n".encode()


def test_any_number_of_owners() -> None:
    (found,) = parse_listeners(owned(20_000))
    assert (found.pid, found.program, len(found.owners), found.more_owners) == (
        1000,
        "php-fpm",
        OWNERS,
        20_000 - OWNERS,
    )
    assert found.inode == 5


def test_more_owners_than_a_host_can_have() -> None:
    with pytest.raises(NetstatParseError, match="cut or unknown row"):
        parse_listeners(owned(MAX_OWNERS + 1, "a"))
    (found,) = parse_listeners(owned(MAX_OWNERS, "a"))
    assert found.more_owners == MAX_OWNERS - OWNERS


def test_a_process_that_holds_it_a_thousand_times_is_one_owner() -> None:
    users = ",".join(f'("a",pid=7,fd={number})' for number in range(1000))
    (found,) = parse_listeners(f"LISTEN 0 1 *:80 *:* users:({users}) ino:5 sk:1 <->\n".encode())
    assert (found.pid, found.owners) == (7, ())


@given(st.lists(st.tuples(st.text("\"',()=:pidf \n1", max_size=15), st.integers(1, 4194304)), min_size=1, max_size=30))
def test_names_that_hold_what_stands_around_names(owners: list[tuple[str, int]]) -> None:
    """Some reading is found whenever there is one, and it names processes of the row only."""
    users = ",".join(f'("{name}",pid={pid},fd=3)' for name, pid in owners)
    (found,) = parse_listeners(f"LISTEN 0 128 0.0.0.0:80 0.0.0.0:* users:({users}) ino:5 sk:1 <->\n".encode())
    assert found.port == 80
    assert found.inode == 5


def test_ss_leaves_out_owners_itself() -> None:
    raw = (FIXTURES / "ss" / "manyfds.3.2.0.ltnpe.txt").read_bytes()
    found, other = parse_listeners(raw)
    assert (found.address, found.port, found.inode is not None) == ("127.0.0.1", 5000, True)
    assert (other.port, len(other.owners) <= OWNERS) == (5001, True)
    # Since 4.15 the list ends after 64 KB, and with it the row.
    long = owned(3000).split(b" ino:")[0][: 65_535 + 40] + b"\n"
    (found,) = parse_listeners(b"LISTEN 0 1 0.0.0.0:1 0.0.0.0:* ino:5 sk:1 <->\n" + long)[1:]
    assert found.pid == 1000
    with pytest.raises(NetstatParseError):
        parse_listeners(owned(3).split(b",fd=9),")[0] + b"\n")


def test_a_path_of_a_cgroup_may_hold_what_ends_a_row() -> None:
    (found,) = parse_listeners(b"LISTEN 0 1 *:80 *:* ino:5 sk:1 cgroup:/a <-> b v6only:0 <->\n")
    assert (found.address, found.inode) == ("::", 5)


# ── time ────────────────────────────────────────────────────────────────────────────────────────

BARE = HEADER.replace("PID/Program name    ", "").encode()
WORST: dict[str, Callable[[int], bytes]] = {
    "blanks behind a timer": lambda size: (
        HEADER.replace("name    ", "name     Timer").encode()
        + b"tcp        0      0 0.0.0.0:80              0.0.0.0:*               LISTEN      1/a"
        + b" " * size
        + b"x\n"
    ),
    "blanks in a row": lambda size: HEADER.encode() + b"tcp 0 0 0.0.0.0:80 0.0.0.0:* LISTEN" + b" " * size + b"1/x\n",
    "dashes": lambda size: HEADER.encode() + b"tcp 0 0 0.0.0.0:80 0.0.0.0:* LISTEN" + b" - " * (size // 3) + b"x\n",
    "owners without an end": lambda size: (
        b"LISTEN 0 1 *:80 *:* users:(" + b",".join([b'("",1,2)'] * (size // 9)) + b"x\n"
    ),
    "owners of both kinds": lambda size: (
        b"LISTEN 0 1 *:80 *:* users:(" + b",".join([b'("",pid=1,fd=2),("",1,2)'] * (size // 24)) + b"x\n"
    ),
    "rows of newlines in names": lambda size: (
        b'LISTEN 0 1 *:80 *:* users:(("' + b'a\n",pid=1,fd=2),("' * (size // 18) + b"\n"
    ),
    "many rows": lambda size: HEADER.encode() + b"tcp 0 0 1.2.3.4:5 0.0.0.0:* LISTEN -\n" * (size // 37),
    "many rows, none with an owner": lambda size: (
        BARE + b"".join(b"tcp 0 0 1.2.3.4:5 0.0.0.0:* %x \n" % number for number in range(size // 33))
    ),
    "a row that begins at the end": lambda size: BUSYBOX + b"tcp" + b" " * size,
    "blanks before an interface": lambda size: b"LISTEN 0 1 " + b"* %" * (size // 3) + b":80 *:*\n",
    "details below a row": lambda size: b"LISTEN 0 1 *:80 *:*\n" + b"\t a:1\n" * (size // 6),
    "many notes": lambda size: HEADER.encode() + b"(a\n" * (size // 3),
    "a header again and again": lambda size: b"Proto   " * (size // 8),
    "colons": lambda size: b"LISTEN 0 1 " + b":" * size + b"80 *:*\n",
    "digits": lambda size: b"LISTEN " + b"1" * size + b" 2 *:80 *:*\n",
    "a table of nothing": lambda size: b"  sl  local_address rem_address   st " + b" " * size + b"\n",
    "blanks": lambda size: b" " * size + b"Proto x\n",
    "empty lines": lambda size: b"State Recv-Q Send-Q Local Address:Port Peer Address:Port\n" + b"\n" * size,
}


@pytest.mark.parametrize("kind", sorted(WORST))
def test_time_grows_with_the_bytes_and_no_faster(kind: str) -> None:
    """The worst of each grammar at 64 KB and 1 MB: a law of squares would take 256 times as long."""
    assert_linear(kind, (1 << 20,))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(WORST))
def test_time_grows_with_the_bytes_up_to_the_limit_of_an_answer(kind: str) -> None:
    assert_linear(kind, (4 << 20,))


def assert_linear(kind: str, sizes: tuple[int, ...]) -> None:
    taken = {}
    for size in (64 << 10, *sizes):
        data = WORST[kind](size)
        started = time.process_time()
        try:
            parse_listeners(data)
        except PortmonError:
            pass
        taken[size] = time.process_time() - started
    base = max(taken[64 << 10], 0.02)
    for size in sizes:
        assert taken[size] < base * (size >> 16) * 6


def test_a_host_can_not_have_more_sockets_than_there_are_ports() -> None:
    row = b"tcp        0      0 0.0.0.0:80              0.0.0.0:*               LISTEN      -                   \n"
    with pytest.raises(NetstatParseError, match="131070"):
        parse_listeners(HEADER.encode() + row * (ROWS + 1))


# ── names that hold newlines ────────────────────────────────────────────────────────────────────


def padded(*owners: str) -> bytes:
    """What net-tools prints of processes with these names: the last column is filled up behind them."""
    rows = (
        f"tcp        0      0 {f'0.0.0.0:{port}':<23} {'0.0.0.0:*':<23} LISTEN      {f'{port}/{name}'[:19]:<20}\n"
        for port, name in enumerate(owners, 80)
    )
    return (HEADER + "".join(rows)).encode()


@pytest.mark.parametrize(
    "name", ["a\n(b", "(", "\n", "\n\n", "x\n", "x\n\ny", "a\ntcp", "a\n@@archived", "a\n ", "\n("]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_name_with_newlines_hides_no_other_row(name: str, place: int) -> None:
    names = ["nginx", "sshd", "java"]
    names.insert(place, name)
    found = parse_listeners(padded(*names))
    assert [one.port for one in found] == [80, 81, 82, 83]
    assert [one.program for one in found] == [one[:16].rstrip(" ") for one in names]
    # Of one that fills nothing up it may be refused, and never hides another one.
    bare = HEADER.replace("name    ", "name") + padded(*names).decode()[len(HEADER) :].replace("   \n", "\n")
    try:
        assert len(parse_listeners(bare.encode())) == 4
    except NetstatParseError:
        pass


def test_a_note_in_parentheses_hides_no_row() -> None:
    note = b"(Not all processes could be identified, non-owned process info\n will not be shown)\n"
    assert len(parse_listeners(note + padded("a", "b"))) == 2
    with pytest.raises(NetstatParseError):
        parse_listeners(HEADER.encode() + b"(a note without an end\n" + padded("a").split(b"\n", 2)[2])
    with pytest.raises(NetstatParseError, match="within a note"):
        parse_listeners(padded("a") + b"(Not all processes could be identified, non-owned process info\n")


def test_toybox_fills_nothing_up() -> None:
    raw = HEADER.replace("name    ", "Name").encode() + (
        b"tcp        0      0 127.0.0.1:7015          0.0.0.0:*               LISTEN      24769/LISTEN 0 1 ab \n"
        b"tcp        0      0 127.0.0.1:7016          0.0.0.0:*               LISTEN      765/sshd\n"
    )
    assert [one.pid for one in parse_listeners(raw)] == [24769, 765]
