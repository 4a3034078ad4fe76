"""The mutation check finds every operator, and changes it alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tools import mutate


@pytest.mark.parametrize("module", mutate.MODULES)
def test_every_operator_is_changed(module: str) -> None:
    source = (mutate.FOLDER / f"{module}.py").read_bytes()
    expected = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            expected += sum(2 if isinstance(one, ast.Lt | ast.LtE | ast.Gt | ast.GtE) else 1 for one in node.ops)
        elif isinstance(node, ast.BoolOp):
            expected += len(node.values) - 1
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            expected += 1
    found = mutate.mutants(module)
    assert len(found) == len({mutant.source for mutant in found}) == expected
    original = ast.dump(ast.parse(source))
    for mutant in found:
        assert ast.dump(ast.parse(mutant.source)) != original
        assert mutant.line in mutant.lines


def test_operators_over_several_lines_in_brackets_and_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def f(a, b):\n    return (a) < (b) <= 1 and (\n        not a\n        or b not  in (a,)\n    )\n"
    (tmp_path / "sample.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(mutate, "FOLDER", tmp_path)
    assert [(mutant.where, mutant.line, mutant.lines, mutant.after) for mutant in mutate.mutants("sample")] == [
        ("sample.f", 2, range(2, 6), "return (a) >= (b) <= 1 and ("),
        ("sample.f", 2, range(2, 6), "return (a) <= (b) <= 1 and ("),
        ("sample.f", 2, range(2, 6), "return (a) < (b) > 1 and ("),
        ("sample.f", 2, range(2, 6), "return (a) < (b) < 1 and ("),
        ("sample.f", 2, range(2, 6), "return (a) < (b) <= 1 or ("),
        ("sample.f", 3, range(2, 6), "a"),
        ("sample.f", 4, range(2, 6), "and b not in (a,)"),
        ("sample.f", 4, range(2, 6), "or b in (a,)"),
    ]
