"""Addresses below the page's own: what messages and the page's links lead to."""

from __future__ import annotations

import re
from urllib.parse import quote

from portmon.model.numbers import text_of

_UNCARRIED = re.compile("[\x00\x1a\ud800-\udfff]")
_CARRIED = re.compile("\x1a([0-9a-f]{4})")
_PATH = re.compile(r"(?!\.+\Z)[\w.~:@+-]+")


def host_path(host_id: str, number: int | None = None) -> str:
    """Where a host or its port is, the latter as ``53`` or ``53-udp``.

    Browsers and proxies change a path with slashes or dots in it, but no query.
    """
    port = None if number is None else text_of(number).replace("/", "-")
    if _PATH.fullmatch(host_id):
        return f"/hosts/{quote(host_id, safe='')}" + (f"/ports/{port}" if port is not None else "")
    return f"/host?id={quote(carried(host_id), safe='')}" + (f"&port={port}" if port is not None else "")


def carried(text: str) -> str:
    """Text as an address can carry it: what no UTF-8 has, and NUL, are written as four digits behind U+001A."""
    return _UNCARRIED.sub(lambda found: f"\x1a{ord(found[0]):04x}", text)


def as_it_was(text: str) -> str:
    """Text that was carried."""
    return _CARRIED.sub(lambda found: chr(int(found[1], 16)), text)
