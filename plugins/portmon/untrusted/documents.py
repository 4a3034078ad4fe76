"""Read JSON and YAML of bounded size and depth. Larger documents are refused before values are made of them.

A few hundred bytes of YAML can stand for gigabytes (aliases), and 100 KB of nesting can exhaust the stack.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from portmon.untrusted.boundary import boundary

MAX_SIZE = 64 * 1024**2
"""Bytes of a file, or of one answer once it is unpacked."""
MAX_DEPTH = 100
"""Levels of nesting. Host lists and configurations have some ten."""
MAX_VALUES = 4_000_000
"""Values of one JSON document: a short value, such as ``[]``, takes 20 times its text in memory."""
MAX_DIGITS = 4300
"""Characters of a whole number: as many digits as Python reads."""
MAX_EXPANDED, EXPANSION = 100_000, 10
"""Values of a YAML document with its aliases written out, or this many times its own values if that is more."""


class DocumentError(Exception):
    """A document can't be read. ``line`` is 1-based."""

    def __init__(self, message: str, *, line: int | None = None) -> None:
        self.message, self.line = message, line
        super().__init__(f"line {line}: {message}" if line else message)


def read_text(path: Path) -> str:
    """The text of a file, with ``\\n`` at the end of each line.

    :raises DocumentError: it can't be read, is too large, or is no UTF-8
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
        if len(data) > MAX_SIZE:
            raise DocumentError(f"can't be read: it has more than {MAX_SIZE >> 20} MiB")
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        raise DocumentError(f"can't be read: {getattr(error, 'strerror', None) or error}") from error


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKET = bytes(sign for sign in range(256) if sign not in b"[]{}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of a name that comes twice, a dict would keep only the last value.
    value = dict(pairs)
    if len(value) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:100]!r} is given twice")
    return value


def parse_json(data: str | bytes) -> Any:
    """The value of a JSON document.

    :param data: bytes may be UTF-8, UTF-16 or UTF-32
    :raises DocumentError: with the line, if it is no JSON, or a name comes twice
    """
    with boundary(DocumentError, passing=DocumentError):
        try:
            text = data if isinstance(data, str) else data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
            _must_be_bounded(text)
            return json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise DocumentError(error.msg, line=error.lineno) from None
        except ValueError as error:
            raise DocumentError(str(error)) from None


def _must_be_bounded(text: str) -> None:
    bare = _STRING.sub(b"", text.encode("ascii", "replace"))
    brackets = bare.translate(None, delete=_NO_BRACKET)
    if bare.count(b",") + len(brackets) > MAX_VALUES:
        raise DocumentError(f"has more than {MAX_VALUES} values")
    if max(accumulate(1 if sign in b"[{" else -1 for sign in brackets), default=0) > MAX_DEPTH:
        raise DocumentError(f"is nested more than {MAX_DEPTH} levels deep")


# ── YAML ────────────────────────────────────────────────────────────────────────────────────────


class Loader(yaml.SafeLoader):
    """SafeLoader within limits, whose errors all have a line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = self._size = self._deepest = 0
        # Anchored nodes: number of values that they stand for, and their depth.
        self._anchored: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Count the values that the aliases of a node stand for."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        outer_size, outer_deepest = self._size, self._deepest
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            # A node is not anchored before it is composed, so an alias within itself finds nothing.
            found = self._anchored.get(node) if node is not None else None
            if found is None:
                raise yaml.composer.ComposerError(None, None, f"{event.anchor!r} contains itself", mark)
            size, depth = found
        else:
            self._depth += 1
            self._nodes += 1
            self._must_be_shallow(self._depth, mark)
            self._size = self._deepest = 0
            node = super().compose_node(parent, index)
            size, depth = self._size + 1, self._deepest + 1
            self._depth -= 1
            if node is not None and event.anchor is not None:
                self._anchored[node] = size, depth
        self._size, self._deepest = outer_size + size, max(outer_deepest, depth)
        self._must_be_shallow(self._depth + depth, mark)
        if self._size > max(MAX_EXPANDED, EXPANSION * self._nodes):
            told = "its aliases stand for too many values: write out what they repeat"
            raise yaml.composer.ComposerError(None, None, told, mark)
        return node

    @staticmethod
    def _must_be_shallow(depth: int, mark: Any) -> None:
        if depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"is nested more than {MAX_DEPTH} levels deep", mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Give a line to the error of a text that does not fit its tag."""

        def wrong(_: str) -> Exception:
            # The text is left out: in an Ansible inventory it may be a password.
            tag = str(node.tag).replace("tag:yaml.org,2002:", "!!")
            return yaml.constructor.ConstructorError(None, None, f"the value is no {tag}", node.start_mark)

        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
            # PyYAML reads 1:1:1…, a number to the base of 60, in quadratic time.
            raise wrong("")
        with boundary(wrong, passing=yaml.YAMLError):
            return super().construct_object(node, deep=deep)


class _UniqueLoader(Loader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Of a key that is given twice, YAML would keep only the last value.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(None, None, f"{key.value[:100]!r} is given twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str) -> Any:
    """The value of a YAML document.

    :raises DocumentError: with the line, also if a key comes twice
    """
    return compose_yaml(text, loader=_UniqueLoader)[1]()


def compose_yaml(text: str, *, loader: type[Loader] = Loader) -> tuple[yaml.Node | None, Callable[[], Any]]:
    """The nodes of a YAML document, with their lines, and a function that makes its value.

    :raises DocumentError: with the line, as the function does
    """
    with _yaml_errors():
        made = loader(text)
        node = made.get_single_node()

    def construct() -> Any:
        with _yaml_errors():
            return None if node is None else made.construct_document(node)

    return node, construct


@contextmanager
def _yaml_errors() -> Iterator[None]:
    with boundary(DocumentError, passing=DocumentError):
        try:
            yield
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            told = " ".join(filter(None, (error.problem, error.context))) or "is no YAML"
            raise DocumentError(told, line=mark.line + 1 if mark else None) from None
        except yaml.reader.ReaderError as error:
            raise DocumentError(f"{error.reason} at character {error.position}") from None
