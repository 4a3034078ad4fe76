"""The same program under other names, and binds that are lost for others."""

from __future__ import annotations

import pytest

from portmon.probe.compare import comparable_addresses, exchanged_binds, lost_binds, same_program, share_program

EXPORTER = "prometheus-node-exporter"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("nginx", "nginx", True),
        ("nginx", "apache2", False),
        ("nginx", "Nginx", False),
        ("nginx", "nginx2", False),
        # titles
        ("nginx: master process /usr/sbin/nginx", "nginx: worker process", True),
        ("nginx", "nginx: worker process", True),
        ("nginx : worker", "nginx: master", True),
        ("sshd: /usr/sbin/sshd -D [listener]", "nginx: worker process", False),
        (": master", ": worker", False),
        (": master", "nginx: master", False),
        ("", "", True),
        ("", "nginx", False),
    ],
)
def test_titles(one: str, other: str, same: bool) -> None:
    assert same_program(one, other, pids=(7,)) is same
    assert same_program(other, one, pids=(7,)) is same


@pytest.mark.parametrize(
    ("pids", "shortest"),
    [
        # 19 bytes: the pid, a slash, the name, of which a blank at the end may have been stripped.
        ((1,), 16),
        ((99,), 15),
        ((999,), 14),
        ((9999,), 13),
        ((99999,), 12),
        ((4194304,), 10),
        ((7, 99999, 12), 12),
        ((), 16),
    ],
)
def test_a_longer_pid_leaves_less_of_the_name(pids: tuple[int, ...], shortest: int) -> None:
    for length in range(shortest, len(EXPORTER)):
        assert same_program(EXPORTER, EXPORTER[:length], pids=pids)
        assert same_program(EXPORTER[:length], EXPORTER, pids=pids)
    for length in range(shortest):
        assert not same_program(EXPORTER, EXPORTER[:length], pids=pids)
        assert not same_program(EXPORTER[:length], EXPORTER, pids=pids)


def test_a_cut_name_is_a_beginning() -> None:
    assert not same_program(EXPORTER, "prometheus-xxxxxx", pids=(1,))
    assert not same_program(EXPORTER, "node-exporter-xxx", pids=(1,))
    assert not same_program(EXPORTER, EXPORTER[1:], pids=(1,))


def test_a_cut_counts_bytes_and_may_go_through_a_character() -> None:
    name = "überwachungé-dienst"
    cut = name.encode()[:13].decode("utf-8", "surrogateescape")
    assert cut == "überwachung\udcc3"
    assert same_program(name, cut, pids=(99999,))
    assert same_program(cut, name, pids=(99999,))
    # Eleven characters, twelve bytes.
    assert same_program(name, "überwachung", pids=(99999,))
    assert not same_program(name, "überwachun", pids=(99999,))
    assert same_program("überwachungå-dienst", cut, pids=(99999,))
    assert not same_program("überwachungж-dienst", cut, pids=(99999,))


@pytest.mark.parametrize(
    ("before", "now", "shared"),
    [
        (("nginx",), ("nginx",), True),
        (("nginx",), ("apache2",), False),
        (("nginx",), ("apache2", "nginx"), True),
        (("apache2", "nginx"), ("haproxy", "nginx"), True),
        (("apache2", "nginx"), ("haproxy", "caddy"), False),
        (("nginx",), (), False),
        ((), ("nginx",), False),
        (("nginx: master",), ("nginx: worker",), True),
        ((EXPORTER[:16],), (EXPORTER, "caddy"), True),
        ((EXPORTER,), (EXPORTER[:16], "caddy"), True),
        ((EXPORTER[:16], "caddy"), (EXPORTER, "java"), True),
        ((EXPORTER[:9],), (EXPORTER,), False),
    ],
)
def test_programs_are_shared_if_one_of_them_is_the_same(
    before: tuple[str, ...], now: tuple[str, ...], shared: bool
) -> None:
    assert share_program(before, now, pids=(1,)) is shared


def test_shared_programs_know_how_long_pids_are() -> None:
    assert share_program((EXPORTER[:12],), (EXPORTER,), pids=(99999,))
    assert not share_program((EXPORTER[:12],), (EXPORTER,), pids=(1,))


@pytest.mark.parametrize(
    ("before", "now", "comparable"),
    [
        (None, "netstat", True),
        ("netstat", "netstat", True),
        ("netstat-W", "netstat-W", True),
        ("netstat-W", "ss", True),
        ("ss", "proc", True),
        ("netstat", "netstat-W", False),
        ("netstat-W", "netstat", False),
        ("ss", "netstat", False),
    ],
)
def test_a_tool_that_cuts_addresses_compares_with_itself_only(before: str | None, now: str, comparable: bool) -> None:
    assert comparable_addresses(before, now) is comparable


@pytest.mark.parametrize(
    ("gone", "seen", "lost"),
    [
        # what others could reach
        ("0.0.0.0", "127.0.0.1", "0.0.0.0"),
        ("::", "::1", "::"),
        ("10.0.0.1", "127.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "::1", "2001:db8::1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("0.0.0.0", "", "0.0.0.0"),
        ("10.0.0.1 10.0.0.2", "10.0.0.2", "10.0.0.1"),
        ("10.0.0.2 10.0.0.1", "127.0.0.1", "10.0.0.1 10.0.0.2"),
        # the lost port is no other listener's
        ("127.0.0.1", "10.0.0.1", ""),
        ("127.8.8.8", "", ""),
        ("::1", "", ""),
        ("::ffff:127.0.0.1", "", ""),
        ("127.0.0.53%lo", "10.0.0.1", ""),
        # served by a wildcard of its family
        ("10.0.0.1", "0.0.0.0", ""),
        ("2001:db8::1", "::", ""),
        ("fe80::1%eth0", "::", ""),
        ("10.0.0.1", "127.0.0.1 0.0.0.0", ""),
        ("10.0.0.1", "0.0.0.0%eth0", ""),
        ("::ffff:10.0.0.1", "0.0.0.0", ""),
        ("2001:db8:85a3:1234:", "::", ""),
        # not of the other one
        ("10.0.0.1", "::", "10.0.0.1"),
        ("2001:db8::1", "0.0.0.0", "2001:db8::1"),
        ("fe80::1%eth0", "0.0.0.0", "fe80::1%eth0"),
        ("::ffff:10.0.0.1", "::", "::ffff:10.0.0.1"),
        ("2001:db8:85a3:1234:", "0.0.0.0", "2001:db8:85a3:1234:"),
        # wildcards
        ("0.0.0.0", "::", "0.0.0.0"),
        ("::", "0.0.0.0", "::"),
        ("0.0.0.0", "10.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "0.0.0.0%eth0", "0.0.0.0"),
        ("0.0.0.0%eth0", "0.0.0.0", ""),
        ("0.0.0.0%eth0", "0.0.0.0 0.0.0.0%eth1", ""),
        ("0.0.0.0%eth0", "0.0.0.0%eth1", "0.0.0.0%eth0"),
        ("0.0.0.0%eth0", "::", "0.0.0.0%eth0"),
        ("::%eth0", "::", ""),
        # not lost at all
        ("10.0.0.1", "10.0.0.1", ""),
        ("", "10.0.0.1", ""),
    ],
)
def test_lost_binds(gone: str, seen: str, lost: str) -> None:
    assert " ".join(lost_binds(gone.split(), seen.split())) == lost


@pytest.mark.parametrize(
    ("lost", "gained", "exchanged"),
    [
        ("::", "0.0.0.0", "::"),
        ("0.0.0.0", "::", "0.0.0.0"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1", "10.0.0.1"),
        ("10.0.0.1", "0.0.0.0", ""),
        ("0.0.0.0", "10.0.0.1", ""),
        ("10.0.0.1", "127.0.0.1", ""),
        ("0.0.0.0", "127.0.0.1", ""),
        ("10.0.0.1", "", ""),
        ("10.0.0.1 10.0.0.2", "10.0.0.3", ""),
        ("10.0.0.1 10.0.0.2", "10.0.0.3 10.0.0.4", "10.0.0.1 10.0.0.2"),
        ("10.0.0.1", "10.0.0.2 10.0.0.3", "10.0.0.1"),
        (":: 10.0.0.1", "0.0.0.0", "::"),
        (":: 10.0.0.1", "10.0.0.2", "10.0.0.1"),
    ],
)
def test_binds_are_exchanged_for_as_many_of_the_same_reach(lost: str, gained: str, exchanged: str) -> None:
    assert " ".join(sorted(exchanged_binds(lost.split(), gained.split()), reverse=":" in lost)) == exchanged
