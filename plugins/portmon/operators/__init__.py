"""Operators that look at hosts: one host a task, or a batch of them."""

from portmon.operators.netstat import NetstatOperator
from portmon.operators.store import MAP_INDEX_TEMPLATE
from portmon.operators.sweep import SweepOperator

__all__ = ["MAP_INDEX_TEMPLATE", "NetstatOperator", "SweepOperator"]
