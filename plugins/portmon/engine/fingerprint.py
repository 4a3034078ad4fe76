"""Hosts that are settled: evaluated once more by the same, no port of theirs would change and nothing would be told.

What a look is evaluated by has a name. A settled host keeps that of its last ok look; a look of the same name
is *unchanged*, whatever time has passed, and is evaluated without its observation and without the host's ports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import portmon

VERSION = "2"
"""To be another one as soon as the same answer is read, or the same look evaluated, otherwise: then no host is settled
any more. With each release none is either, in case somebody forgot that.
"""


def fingerprint(facts: str, rules: str, declared: Mapping[int, str]) -> str:
    """The name of what the ports of a host are evaluated by.

    :param facts: digest of the observation
    :param rules: digest of the rules in force on the host
    :param declared: its ports that must listen, each with what declares it
    """
    parts = [VERSION, portmon.__version__, facts, rules, *(f"{port} {declared[port]}" for port in sorted(declared))]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
