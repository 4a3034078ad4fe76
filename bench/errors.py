"""What a benchmark fails with."""

from __future__ import annotations


class BenchError(Exception):
    """Something is missing, or what was measured is not what should have been; the message says what to do."""
