"""Fingerprints of settled hosts.

A host is settled if the same observation, evaluated once more, would change no port and make no event. It keeps the
fingerprint of what its last ok observation was evaluated by. A later observation with the same fingerprint is
*unchanged*, however much time has passed: it is evaluated without its listing and without the host's ports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import portmon

VERSION = "2"
"""Raise it with every change in how an answer is read or an observation is evaluated: then no host is settled any more.
The version of portmon is part of the fingerprint too, in case a change did not raise this one.
"""


def fingerprint(facts: str, rules: str, declared: Mapping[int, str]) -> str:
    """32 hex digits that name all that the ports of a host are evaluated by.

    :param facts: digest of the stored listing
    :param rules: digest of the rules in force on the host
    :param declared: its declared ports, each with the source of its declaration
    """
    parts = [VERSION, portmon.__version__, facts, rules, *(f"{port} {declared[port]}" for port in sorted(declared))]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
