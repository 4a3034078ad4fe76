"""Measured values, their medians and ratios. Pure.

A figure is something that was measured several times, ``sweep.run_seconds``. A section is what was measured
together, interleaved, on one machine in one go: figures of different sections are never divided.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Figure:
    """A figure that was measured several times.

    :param unit: ``s``, ``MiB``, ``bytes``, or what is counted
    :param values: in the order of time
    """

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)


@dataclass(slots=True)
class Section:
    """Figures that were measured together.

    :param sizes: numbers of hosts and the like, for people and for the arithmetic
    :param facts: about the machine and the software
    :param made_at: ISO time in UTC
    """

    sizes: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    made_at: str = ""
    figures: dict[str, Figure] = field(default_factory=dict)

    def add(self, name: str, unit: str, *values: float) -> None:
        """Note values of a figure."""
        self.figures.setdefault(name, Figure(unit)).values.extend(values)

    def median(self, name: str) -> float:
        """The median of a figure."""
        return self.figures[name].median


def to_json(sections: Mapping[str, Section]) -> dict[str, Any]:
    """As it is written to ``benchmarks/latest.json``, medians included."""
    return {
        name: {
            "made_at": section.made_at,
            "facts": section.facts,
            "sizes": section.sizes,
            "figures": {
                figure: {"unit": one.unit, "median": rounded(one.median), "values": [rounded(v) for v in one.values]}
                for figure, one in section.figures.items()
            },
        }
        for name, section in sections.items()
    }


def from_json(value: Mapping[str, Any]) -> dict[str, Section]:
    """The inverse of :func:`to_json`."""
    return {
        name: Section(
            sizes=dict(section["sizes"]),
            facts=dict(section["facts"]),
            made_at=section["made_at"],
            figures={figure: Figure(one["unit"], list(one["values"])) for figure, one in section["figures"].items()},
        )
        for name, section in value.items()
    }


def rounded(value: float) -> float:
    """Six digits: more is noise, and makes differences of files longer."""
    return float(f"{value:.6g}")


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure divided by another one of its section.

    :param label: for people
    :param over: figure
    :param under: figure that it is divided by
    :param less: figure that is taken off first
    """

    section: str
    label: str
    over: str
    under: str
    less: str | None = None

    def names(self) -> list[str]:
        """The figures that it needs."""
        return [name for name in (self.over, self.under, self.less) if name]

    def of(self, section: Section) -> float:
        """The ratio of the medians."""
        less = section.median(self.less) if self.less else 0.0
        return (section.median(self.over) - less) / section.median(self.under)

    def pairs(self, section: Section) -> list[float]:
        """The ratio of each round: what was measured one right after the other."""
        columns: list[Sequence[float]] = [section.figures[self.over].values, section.figures[self.under].values]
        if self.less:
            columns.append(section.figures[self.less].values)
        return [(over - sum(less)) / under for over, under, *less in zip(*columns, strict=False)]
