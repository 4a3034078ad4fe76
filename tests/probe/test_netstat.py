"""Listings of real hosts with expected results, and properties that hold for any listing."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.errors import NetstatParseError
from portmon.model.observation import Listener
from portmon.probe.listing import parse_listeners

CASES = sorted((Path(__file__).parents[1] / "fixtures" / "netstat" / "cases").glob("*.json"))


def as_expected(listener: Listener, keys: set[str]) -> dict[str, Any]:
    value: dict[str, Any] = {
        "proto": listener.protocol,
        "local_address": listener.address,
        "port": listener.port,
        "pid": listener.pid,
        "program": listener.program,
        "zone": listener.zone,
        "uid": listener.uid,
        "inode": listener.inode,
        "owners": [[owner.pid, owner.program] for owner in listener.owners],
    }
    return {name: value[name] for name in keys}


def test_there_are_cases() -> None:
    assert len(CASES) > 115


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    expected = json.loads(path.read_text())
    raw = path.with_suffix(".txt").read_bytes()
    if isinstance(expected, dict):
        with pytest.raises(NetstatParseError):
            parse_listeners(raw)
        return
    for row in expected:
        if "owners" in row:
            row["owners"] = [owner[:2] for owner in row["owners"]]
    found = parse_listeners(raw)
    assert len(found) == len(expected)
    assert [as_expected(one, set(row)) for one, row in zip(found, expected, strict=True)] == expected


def test_the_first_example() -> None:
    raw = CASES[0].with_name("first_example.txt").read_bytes()
    found = {one.port: one for one in parse_listeners(raw)}
    assert (found[8080].pid, found[8080].program) == (2007, "nginx: master")


@pytest.mark.parametrize("raw", [b"", b"\n", b" \n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_nothing_proves_nothing(raw: bytes) -> None:
    with pytest.raises(NetstatParseError, match="no output"):
        parse_listeners(raw)


def test_an_error_names_the_line() -> None:
    raw = CASES[0].with_name("made_cut_row.txt").read_bytes()
    with pytest.raises(NetstatParseError, match=r"line 4: a cut or unknown row: 'tcp .*80"):
        parse_listeners(raw)


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1", "http"])
def test_no_port(port: str) -> None:
    with pytest.raises(NetstatParseError):
        parse_listeners(f"tcp 0 0 0.0.0.0:{port} 0.0.0.0:* LISTEN -\n".encode())


addresses = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).filter(lambda one: not one.ipv4_mapped).map(str),  # type: ignore[union-attr]
)
# argv[0] as net-tools prints it: anything but NUL; what it cuts off is not there
names = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=5).map(lambda name: name.rstrip(" "))
comms = st.text(string.ascii_letters + string.digits + "\"',()=: \n", max_size=15)
rows = st.lists(
    st.tuples(addresses, st.integers(1, 65535), st.integers(1, 9999), names), max_size=8, unique_by=lambda row: row[1]
)


@given(rows)
def test_netstat_round_trip(rows: list[tuple[str, int, int, str]]) -> None:
    lines = [
        "Active Internet connections (only servers)",
        "Proto Recv-Q Send-Q Local Address Foreign Address State PID/Program name",
    ]
    for address, port, pid, name in rows:
        proto = "tcp6" if ":" in address else "tcp"
        lines.append(
            f"{proto:<11}0      0 {f'{address}:{port}':<23} 0.0.0.0:*               LISTEN      {f'{pid}/{name}':<20}"
        )
    found = parse_listeners("\n".join(lines).encode() + b"\n")
    assert [(one.address, one.port, one.pid, one.program) for one in found] == rows


@given(
    st.lists(
        st.tuples(
            addresses,
            st.integers(1, 65535),
            st.lists(st.tuples(comms, st.integers(1, 9999999)), min_size=1, max_size=3),
        ),
        max_size=6,
    )
)
def test_ss_round_trip(rows: list[tuple[str, int, list[tuple[str, int]]]]) -> None:
    lines = ["State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess"]
    for address, port, owners in rows:
        shown = f"[{address}]" if ":" in address else address
        users = ",".join(f'("{name}",pid={pid},fd=3)' for name, pid in owners)
        lines.append(f"LISTEN 0      128    {shown}:{port}   0.0.0.0:*    users:({users}) ino:5 sk:1 cgroup:/x <->")
    if any(name.startswith('",pid=') or '"),("' in name for _, _, owners in rows for name, _ in owners):
        return
    found = parse_listeners("\n".join(lines).encode() + b"\n")
    assert [(one.address, one.port, one.inode) for one in found] == [(address, port, 5) for address, port, _ in rows]
    assert [one.pid for one in found] == [min(pid for _, pid in owners) for _, _, owners in rows]


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_read_but_never_crashes(raw: bytes) -> None:
    try:
        parse_listeners(raw)
    except NetstatParseError:
        pass


def test_a_name_can_not_forge_an_owner() -> None:
    raw = b'LISTEN 0 128 0.0.0.0:80 0.0.0.0:* users:(("",pid=1,fd=3),(",pid=5026,fd=3))\n'
    (found,) = parse_listeners(raw)
    assert (found.pid, found.program) == (5026, '",pid=1,fd=3),(')
