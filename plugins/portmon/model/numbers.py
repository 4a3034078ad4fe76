"""One number for a port of a host, whichever protocol it is of.

Of TCP it is the port itself, of UDP the port and 65,536 more. So what names a port within one host (a set, a
declaration) is a number. Ranges that choose ports (:func:`portmon.matching.in_ranges`) have one more form, see
:data:`TCP_ALONE`.
"""

from __future__ import annotations

TCP, UDP = "tcp", "udp"
"""tcp and tcp6 are one protocol, and so are udp and udp6: a dual-stack socket shows as either."""
BEYOND = 1 << 16
"""The number of a UDP port is this much higher."""
TCP_ALONE = 2 * BEYOND
"""In a range that chooses ports a bare number is of either protocol, and one of TCP alone is this much higher."""


def number_of(protocol: str, port: int) -> int:
    """The number of a port, whose protocol may name a family: ``udp6``."""
    return port + BEYOND if protocol.startswith(UDP) else port


def protocol_of(number: int) -> str:
    """The protocol of a number."""
    return TCP if number < BEYOND else UDP


def port_of(number: int) -> int:
    """The port that the kernel knows."""
    return number % BEYOND


def is_udp(number: int) -> bool:
    """Whether it is a UDP port's."""
    return number >= BEYOND


def text_of(number: int) -> str:
    """``80``, or ``53/udp``."""
    return f"{port_of(number)}/{UDP}" if is_udp(number) else str(number)


def range_of(number: int) -> tuple[int, int]:
    """The range that chooses one port."""
    one = number if is_udp(number) else number + TCP_ALONE
    return one, one


def named(protocol: str | None, port: int) -> int | str:
    """A port as requests name it: ``80``, or ``53/udp``."""
    return f"{port}/{UDP}" if protocol == UDP else port


def declared_port(text: str) -> tuple[int, str]:
    """Number and owner of ``443``, ``443/nginx.service``, ``53/udp`` or ``53/udp/named.service``; the owner may be
    empty.

    :raises ValueError: it does not begin with a number
    """
    port, _, rest = text.partition("/")
    protocol, slash, owner = rest.partition("/")
    if protocol not in (TCP, UDP):
        return int(port), rest
    return number_of(protocol, int(port)), owner if slash else ""
