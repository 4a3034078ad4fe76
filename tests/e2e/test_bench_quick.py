"""The benchmark with a few hosts: every figure is there. How large it is says nothing, and nothing is said of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import probe, report
from bench.figures import from_json
from bench.stage import lacking

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]


# What runs no DAG and needs no Ansible; `make bench ARGS=--quick` is the same for all sections.
@pytest.mark.parametrize("chosen", [["diff", "probe"], ["page"]], ids=",".join)
def test_every_figure_is_there(tmp_path: Path, chosen: list[str]) -> None:
    told = lacking() or probe.lacking()
    if told:
        pytest.skip(told)
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--only", ",".join(chosen), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    sections = from_json(json.loads(out.read_text()))
    assert list(sections) == chosen
    for name, section in sections.items():
        labels = report.LABELS.get(name) or {
            f"{fleet}_{figure}" for fleet, _ in report.fleets(section) for figure in report.DIFF_LABELS
        }
        assert set(labels) <= set(section.figures)
        for figure in section.figures.values():
            assert figure.values
    if "probe" in sections:
        # What docs/benchmarks.md promises: five processes and the limit, whatever is asked.
        forks = {
            name: figure.values for name, figure in sections["probe"].figures.items() if name.endswith("_new_forks")
        }
        assert len(forks) == 6
        assert all(0 < value <= 6 for values in forks.values() for value in values), forks
    ratios = {ratio.section for ratio in report.ratios(sections)}
    assert ratios == set(chosen)
    assert report.as_text(sections) in done.stdout
