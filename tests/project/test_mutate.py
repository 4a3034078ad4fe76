"""The mutation check finds every operator, and changes it alone."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from tools import mutate

LONG = ("engine.transitions", "engine.evaluate")
"""Modules of which that takes many seconds."""


@pytest.mark.parametrize(
    "module", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in mutate.MODULES]
)
def test_every_operator_is_changed(module: str) -> None:
    source = (mutate.file_of(module)).read_bytes()
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


def test_what_is_not_proven_yet_is_there() -> None:
    functions = {mutant.where for module in mutate.MODULES for mutant in mutate.mutants(module)}
    assert functions >= mutate.UNPROVEN


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


def test_the_code_of_a_function_is_exchanged_wherever_it_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "LIMIT = 3 < 4\n"
        "class Some:\n"
        "    def small(self, a):\n        return a < 1\n"
        "def outer(a):\n    return [b for b in a if b == 1]\n"
    )
    file = tmp_path / "sample.py"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(mutate, "FOLDER", tmp_path)
    monkeypatch.setattr(mutate, "MODULES", ("sample",))
    module: dict[str, Any] = {"__name__": "sample"}
    exec(compile(text, str(file), "exec"), module)
    some, outer = module["Some"](), module["outer"]
    small = some.small
    made = {mutant.after: mutate.exchange(mutant, mutate.live_functions()) for mutant in mutate.mutants("sample")}
    # Code that runs at import has run.
    assert made == {
        "LIMIT = 3 >= 4": False,
        "LIMIT = 3 <= 4": False,
        "return a >= 1": True,
        "return a <= 1": False,
        "return [b for b in a if b != 1]": True,
    }
    assert module["LIMIT"]
    # The second mutant of a function finds the first one in its place: each has a fork of its own.
    assert (small(0), small(1), outer([1, 2])) == (False, True, [2])
