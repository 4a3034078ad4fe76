"""Bytes broken at random, the same ones for the same seed."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

TOKEN = re.compile(rb"\s+|[A-Za-z_]+|\d+|[^\sA-Za-z_\d]")
NUMBER = re.compile(rb"\d+")

AROUND = [
    # what stands around frames and their parts
    b"\n@@n0n0 END\n", b"\n@@n0n0 BEGIN v=2 bytes=0 tcp=1\n", b"\n@@n0n0 LIST tool=ss ended=0 via=- bytes=0 ver=-\n",
    b"\n@@n0n0 PROC bytes=0\n", b"\n@@n0n0 SSX ended=0 bytes=0\n", b"@@n0n0", b"\n@@archivedByPortmonAsItCame END\n", b"\n@@archivedByPortmonAsItCame x\n",
    b"\n@@x8Yz BEGIN v=1 tool=ss \n", b" v=2", b" bytes=-1", b" ended=0", b" ended=137", b" tool=proc", b" via=sudo", b"tcp6=0", b" ver= iproute2-6.1.0",
    b"\n/proc/self/status:Uid:\t0\t0\t0\t0\n", b"\n/proc/7/status:Name:\t\\n\\\\x\n", b"\n/proc/7/cgroup:0::/a\x00.service\n",
    b"\n/proc/sys/net/ipv4/ip_local_reserved_ports:" + b"1," * 500 + b"9-8\n", b"\n/proc/sys/kernel/random/boot_id:" + b"a" * 65 + b"\n",
    # … around rows and names
    b"tcp        0      0 ", b"LISTEN", b"LISTEN0 ", b" ESTAB ", b'users:(("', b'("",pid=1,fd=2),', b'",pid=1,fd=2))', b'("x",123,3)', b' ino:', b" sk:1 <->", b" v6only:1", b" cgroup:/a <-> ",
    b" -  ", b"/", b"7/", b"(x", b") ", b"Proto ", b"Timer", b" off (0.00/0/0)", b"\nudp        0      0 ", b"\nudp   UNCONN 0 0 ", b"udplite", b" ino=", b" 07 ", b" ref pointer drops", b"State Recv-Q Send-Q Local Address:Port Peer Address:Port\n", b"%eth0", b"[::]:80", b"*:*", b"::ffff:1.2.3.4", b":::", b"0A",
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
    # … around hosts and values
    b"[all:vars]\n", b"[web:children]\n", b"[a:z:0]", b"[1:99999999]", b"[01:3]", b"ansible_host=", b"{{ x }}", b"{% x %}", b"${x}", b"!!python/object:os.x ", b"!!timestamp x", b"!!bool maybe", b"!!int ''", b"!!float x", b"!!binary x", b"!!set [a]", b"!!omap {a: b}", b"!vault |",
    b"&a [*a]", b"*d", b"<<: *d", b"- ", b"? ", b"%YAML 9.9\n---\n", b"---\n", b"...\n", b"null", b"true", b"~", b'""', b"''", b"{}", b"[]", b'\\ud800', b'\\u0000', b"NaN", b"-Infinity", b"1e999", b"0x10", b"1_000", b"2024-13-45", b"1:2:3",
    b'"next": "http://evil\\\\@cmdb/",', b'"http://["', b'"//evil/"', b"::group::x", b"@", b"#", b";", b",", b":", b"=", b"|", b">", b"`", b"$", b"1h", b"4MiB", b"regex:(", b"*", b"10.0.0.0/8",
    # … around anything
    b"\n", b"\r\n", b"\r", b"\t", b" ", b"\x00", b"\x1b[31m", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", "²٣é\u202e".encode(), b'"', b"'", b"\\", b"(", b")", b"[", b"]", b"{", b"}",
]  # fmt: skip
NUMBERS = [
    0,
    1,
    -1,
    124,
    255,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    10**20,
    10**400,
]
NESTS = [
    (b"[", b"]"),
    (b"{", b"}"),
    (b"(", b")"),
    (b'{"a":', b"}"),
    (b"- ", b""),
    (b"'", b"'"),
    (b'"', b'"'),
    (b"/", b""),
    (b"a:\n ", b""),
]
LONGEST = 1 << 16


class Mutator:
    """Breaks bytes.

    :param seed: the same one breaks alike
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pick(self, seeds: Sequence[bytes]) -> bytes:
        """One of them."""
        return self.random.choice(seeds)

    def broken(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """The bytes with none to eight faults.

        :param others: of the same kind, parts of which get in
        """
        for _ in range(self.random.choice((0, 1, 1, 1, 1, 2, 2, 3, 8))):
            data = self._once(data, others)[:LONGEST]
        return data

    def _once(self, data: bytes, others: Sequence[bytes]) -> bytes:
        chance = self.random
        start, end = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
        match chance.randrange(11):
            case 0:
                at = chance.randrange(len(data)) if data else 0
                return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
            case 1:
                return data[:start]
            case 2:
                return data[:start] + data[min(end, start + 60) :]
            case 3:
                part = data[start : min(end, start + 300)]
                return data[:start] + part * chance.choice((2, 2, 3, 10, 60)) + data[start + len(part) :]
            case 4 | 5:
                return data[:start] + chance.choice(AROUND) + data[start:]
            case 6:
                return self._number(data)
            case 7:
                opening, closing = chance.choice(NESTS)
                depth, part = chance.choice((1, 2, 20, 400, 3000)), data[start : min(end, start + 40)]
                return data[:start] + opening * depth + part + closing * depth + data[start + len(part) :]
            case 8:
                other = chance.choice(others) if others else data
                at = chance.randrange(len(other) + 1)
                return data[:start] + other[at : at + chance.randrange(400)] + data[start:]
            case _:
                return self._tokens(data)

    def _number(self, data: bytes) -> bytes:
        found = list(NUMBER.finditer(data))
        if not found:
            return data
        one = self.random.choice(found)
        return data[: one.start()] + str(self.random.choice(NUMBERS)).encode() + data[one.end() :]

    def _tokens(self, data: bytes) -> bytes:
        """Two tokens exchanged, or one replaced: what comes of it is well formed more often."""
        found = TOKEN.findall(data)
        if not found:
            return data
        one, other = self.random.randrange(len(found)), self.random.randrange(len(found))
        if self.random.random() < 0.5:
            found[one], found[other] = found[other], found[one]
        else:
            found[one] = self.random.choice(AROUND)
        return b"".join(found)
