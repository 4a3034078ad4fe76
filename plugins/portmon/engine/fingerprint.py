"""Fingerprints of settled hosts.

A host is settled if the same observation, evaluated once more, would change no port and make no event. Its fingerprint
stands for its last ok observation, rules and declarations. Any later observation with the same fingerprint is evaluated
without its listing and without the host's ports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import portmon

VERSION = "4"
"""Rises with every change of the reading or evaluation, after which no host is settled. portmon's version is in the
fingerprint too, in case a change did not raise this one.
"""


def fingerprint(facts: str, rules: str, declared: Mapping[int, str]) -> str:
    """32 hex digits that depend on all that the ports of a host are evaluated by.

    :param facts: digest of the stored listing
    :param rules: digest of the rules in force on the host
    """
    parts = [VERSION, portmon.__version__, facts, rules, *(f"{port} {declared[port]}" for port in sorted(declared))]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
