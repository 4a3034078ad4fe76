"""Waiting for what happens elsewhere, and skipping where a machine lacks what a test needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest


def until(condition: Callable[[], Any], what: str, *, seconds: float = 60, every: float = 0.02) -> Any:
    """Poll until a condition is true, and return it; the limit only ends what would never end."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(every)
    return found


def skip_without(lacking: str | None) -> None:
    """Skip the test.

    :param lacking: what this machine lacks, None if nothing
    """
    if lacking:
        pytest.skip(lacking)
