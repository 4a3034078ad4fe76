"""docs/benchmarks.md: its tables are those of benchmarks/latest.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench import report, scale
from bench.figures import Section

ROOT = Path(__file__).resolve().parent.parent
LATEST = ROOT / "benchmarks" / "latest.json"
PAGE = ROOT / "docs" / "benchmarks.md"


def written(page: str, sections: Mapping[str, Section]) -> str:
    """The page with its tables as the figures have them."""
    for name, table in (("results", report.as_markdown(sections)), ("scale", scale.as_markdown(sections))):
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, rest = page.split(begin)
        page = before + begin + table + end + rest.split(end)[1]
    return page
