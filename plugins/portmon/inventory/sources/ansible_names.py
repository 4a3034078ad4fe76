"""Host patterns of Ansible inventories: ``web[01:20].example.com:2222``."""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Iterator

from portmon.inventory.sources.ansible import MAX_HOSTS, AnsibleError

MAX_PATTERN = 1000
_RANGE = re.compile(r"\[([^\[\]]*)\]")
_WITH_PORT = re.compile(r"((?:[^:\[\]]|\[[^\[\]]*\])+):([0-9]+)")
_IPV6_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.%]+)\](?::([0-9]+))?")


def expand(pattern: str) -> tuple[list[str], int | None]:
    """The host names that a pattern stands for, in order, and the port that it names.

    :raises AnsibleError: for a pattern that is none
    """
    if len(pattern) > MAX_PATTERN:
        raise AnsibleError(f"{pattern[:100]!r}… has more than {MAX_PATTERN} characters")
    if pattern.endswith(":"):
        raise AnsibleError(f"{pattern!r} ends with a colon, which begins a port")
    name, port = _split_port(pattern)
    if port is not None and not 1 <= port <= 65535:
        raise AnsibleError(f"{pattern!r}: the port is not 1 to 65535")
    names = [""]
    end = 0
    for match in _RANGE.finditer(name):
        items = list(_items(match[1], pattern))
        if len(names) * len(items) > MAX_HOSTS:
            raise AnsibleError(f"{pattern!r} stands for more than {MAX_HOSTS} hosts")
        names = [f"{begin}{name[end : match.start()]}{item}" for begin in names for item in items]
        end = match.end()
    names = [begin + name[end:] for begin in names]
    if any(sign in name[end:] for sign in "[]") or any(sign in names[0] for sign in "[]"):
        raise AnsibleError(f"{pattern!r} has a bracket without its counterpart")
    return names, port


def _split_port(pattern: str) -> tuple[str, int | None]:
    match = _IPV6_WITH_PORT.fullmatch(pattern)
    if match and _is_ipv6(match[1]):
        return match[1], int(match[2]) if match[2] else None
    match = _WITH_PORT.fullmatch(pattern)
    return (match[1], int(match[2])) if match and len(match[2]) < 10 else (pattern, None)


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _items(bounds: str, pattern: str) -> Iterator[str]:
    """What ``01:20``, ``a:f`` or ``0:10:2`` stands for; both ends are in."""
    parts = bounds.split(":")
    if len(parts) not in (2, 3):
        raise AnsibleError(f"{pattern!r}: a range is [begin:end] or [begin:end:step]")
    begin, end, step = parts[0] or "0", parts[1], parts[2] if len(parts) == 3 else "1"
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", step):
        raise AnsibleError(f"{pattern!r}: the step {step!r} is not a number from 1")
    if re.fullmatch(r"[0-9]{1,18}", begin) and re.fullmatch(r"[0-9]{1,18}", end):
        padded = begin[0] == "0" and len(begin) > 1
        if padded and len(begin) != len(end):
            raise AnsibleError(f"{pattern!r}: with a leading 0 both ends of a range are equally long")
        numbers = range(int(begin), int(end) + 1, int(step))
        if not numbers:
            raise AnsibleError(f"{pattern!r}: the range ends before it begins")
        if len(numbers) > MAX_HOSTS:
            raise AnsibleError(f"{pattern!r} stands for more than {MAX_HOSTS} hosts")
        return (str(number).zfill(len(begin) if padded else 0) for number in numbers)
    letters = string.ascii_letters
    if len(begin) == len(end) == 1 and begin in letters and end in letters:
        if letters.index(begin) > letters.index(end):
            raise AnsibleError(f"{pattern!r}: the range ends before it begins")
        return iter(letters[letters.index(begin) : letters.index(end) + 1 : int(step)])
    raise AnsibleError(f"{pattern!r}: a range goes from number to number or from letter to letter")
