"""What a login spends on a large known_hosts file: portmon's index beside a reading that goes through every line."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence

import paramiko

from bench.figures import Section
from bench.sizes import Sizes
from portmon.ssh.target import Target
from portmon.ssh.trust import HostKey, KnownHosts

LOOKUPS = 5
"""Look-ups of a round, each for another host."""


class LineByLine:
    """Every line is compared with every name of the host, once for its keys and once for those that are revoked."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._entries = [("", words[0].split(","), HostKey(words[1], words[2])) for words in map(str.split, lines)]

    def find(self, target: Target) -> tuple[list[HostKey], list[HostKey]]:
        """As :meth:`portmon.ssh.trust.KnownHosts.find`, of lines without markers and negations."""
        revoked = [key for marker, key in self._matching(target) if marker == "@revoked"]
        return [key for marker, key in self._matching(target) if not marker], revoked

    def _matching(self, target: Target) -> Iterator[tuple[str, HostKey]]:
        names = [target.endpoint, target.address] if target.port == 22 else [target.endpoint]
        for marker, patterns, key in self._entries:
            if any(self._matches(name.lower(), patterns) for name in names):
                yield marker, key

    @staticmethod
    def _matches(name: str, patterns: Sequence[str]) -> bool:
        found = False
        for pattern in patterns:
            if pattern.startswith("|1|"):
                found |= paramiko.HostKeys.hash_host(name, f"|1|{pattern.split('|')[2]}|") == pattern
            else:
                found |= fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))
        return found


def measure(sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """Each round: every file, both ways, for the same hosts, which stand at its end."""
    files = {
        "plain_1000": _lines(1000, lambda name: name),
        "plain_5000": _lines(5000, lambda name: name),
        "hashed_5000": _lines(5000, paramiko.HostKeys.hash_host),
    }
    ways = {name: {"line": LineByLine(lines), "index": KnownHosts(lines)} for name, lines in files.items()}
    for number in range(sizes.repeat):
        tell(f"round {number + 1} of {sizes.repeat}")
        for name, readers in ways.items():
            targets = [Target("", _host(len(files[name]) - 1 - back)) for back in range(LOOKUPS)]
            found = []
            for way, reader in readers.items():
                started = time.process_time()
                found.append([reader.find(target) for target in targets])
                section.add(f"{name}_{way}_ms", "ms", (time.process_time() - started) * 1000 / LOOKUPS)
            assert found[0] == found[1], "both read the same"


def _host(number: int) -> str:
    return f"web{number}.example"


def _lines(count: int, written: Callable[[str], str]) -> list[str]:
    keys = (base64.b64encode(hashlib.sha256(str(number).encode()).digest()).decode() for number in range(count))
    return [f"{written(_host(number))} ssh-ed25519 {key}" for number, key in enumerate(keys)]
