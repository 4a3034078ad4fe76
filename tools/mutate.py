"""Check the tests of what decides: turn each of its comparisons around, once, and see that some test fails.

A mutant is one module with one operator changed; it meets those tests that run the changed line at all. First in a fork
of a process that has collected the tests: the code of one function is exchanged in place. What survives that, or is no
part of a function, is tried again in a fork of this process, which has imported what the tests need except what is
mutated, and imports the mutant instead. ``python tools/mutate.py`` exits with 0 if every mutant is killed except those
that docs/adr/0006-*.md lists as equivalent, and if every listed one survives.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "plugins" / "portmon"
sys.path[:0] = [str(ROOT / "plugins"), str(ROOT)]

MODULES = (
    "engine.transitions",
    "engine.telling",
    "engine.binds",
    "engine.holding",
    "engine.young",
    "engine.terms",
    "engine.lifecycle",
    "engine.clocks",
    "engine.conditions",
    "probe.compare",
    "engine.watched",
    "engine.declared",
    "engine.machines",
    "engine.identities",
    "engine.hosts",
    "engine.fleet",
    "engine.leaving",
    "engine.ports",
    "engine.moves",
    "engine.owners",
    "engine.frames",
    "engine.answers",
    "engine.monitor",
    "engine.evaluate",
    "alerting.queue",
    "alerting.silences",
    "alerting.routes",
    "alerting.outages",
)
TESTS = (
    "tests/alerting/test_outages.py",
    "tests/alerting/test_queue.py",
    "tests/alerting/test_routes.py",
    "tests/alerting/test_silences.py",
    "tests/engine/test_clocks.py",
    "tests/engine/test_conditions.py",
    "tests/engine/test_declared.py",
    "tests/engine/test_evaluate.py",
    "tests/engine/test_fleet.py",
    "tests/engine/test_hosts.py",
    "tests/engine/test_lifecycle.py",
    "tests/engine/test_machines.py",
    "tests/engine/test_moves.py",
    "tests/engine/test_transitions.py",
    "tests/engine/test_twin.py",
    "tests/engine/test_versions.py",
    "tests/probe/test_compare.py",
    "tests/engine/test_walls.py::test_many_names_are_compared_as_pairs_would_be",
    "tests/engine/test_walls.py::test_few_of_many_keeps_what_is_known",
    "tests/engine/test_walls.py::test_one_host_whose_programs_have_new_names_in_each_run_adds_little_and_is_told_once",
)
UNPROVEN = frozenset(
    {
        "engine.frames.Comparison._is_quiet",
        "engine.ports.HostPorts._keep",
        "probe.compare._Names.has",
        "engine.watched._few",
    }
)
"""Functions with comparisons that no test of these proves one by one yet: what survives there is counted, and does not
fail. docs/roadmap.md names the gap; the engine's model and the tests of walls run them."""
PRELOADED = (
    "hypothesis.strategies",
    "pandas",
    "portmon.probe",
    "portmon.engine.rules",
    "tests.worlds.postgres",
)
TIME_LIMIT = 60
"""Seconds of computing, however busy the machine is; the tests of a mutant that take longer do not pass. All of them
together, traced, have five times as long."""

OPERATORS = {
    "<": (">=", "<="),
    "<=": (">", "<"),
    ">": ("<=", ">="),
    ">=": ("<", ">"),
    "==": ("!=",),
    "!=": ("==",),
    "in": ("not in",),
    "not in": ("in",),
    "is": ("is not",),
    "is not": ("is",),
    "and": ("or",),
    "or": ("and",),
    "not": ("",),
}
"""What each operator becomes: its opposite, and of an order also its neighbour."""

LISTED = re.compile(r"^\* `([^`]+)`: `([^`]+)` → `([^`]+)`[.:] \S", flags=re.M)
"""A mutant that no test can tell from the original, as the record lists it: function, line before, line after."""


@dataclass(frozen=True)
class Mutant:
    """A module with one operator changed.

    :param where: module and function
    :param line: of the operator, 1-based
    :param lines: of the whole expression
    :param before: the line as it is
    :param after: the line as it becomes
    :param source: of the whole module
    """

    module: str
    where: str
    line: int
    lines: range
    before: str
    after: str
    source: bytes

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it in the record."""
        return self.where, self.before, self.after

    def __str__(self) -> str:
        return f"{file_of(self.module).relative_to(FOLDER.parents[1])}:{self.line} ({self.where})\n    - {self.before}\n    + {self.after}"


def file_of(module: str) -> Path:
    """Source of a module, whose name is below ``portmon``."""
    return FOLDER / (module.replace(".", "/") + ".py")


def mutants(module: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its source."""
    source = (file_of(module)).read_bytes()
    starts = [0, *(match.end() for match in re.finditer(rb"\n", source))]

    def shown(source: bytes, line: int) -> str:
        return " ".join(source.splitlines()[line - 1].decode().split())

    found = []
    for begin, end, where, lines in sorted(operators(ast.parse(source), module), key=lambda one: one[:2]):
        start = starts[begin[0] - 1] + begin[1]
        gap = source[start : starts[end[0] - 1] + end[1]]
        # Nothing but blanks, brackets and the operator stands between two operands.
        operator = re.fullmatch(rb"[\s()]*([<>=!]+|not\s+in|is\s+not|in|is|and|or|not)[\s()]*", gap)
        if operator is None:
            raise ValueError(f"{module}.py:{begin[0]}: no operator in {gap!r}")
        start, stop = start + operator.start(1), start + operator.end(1)
        line = source.count(b"\n", 0, start) + 1
        for new in OPERATORS[" ".join(operator[1].decode().split())]:
            mutated = source[:start] + new.encode() + source[stop:]
            found.append(Mutant(module, where, line, lines, shown(source, line), shown(mutated, line), mutated))
    return found


def operators(
    tree: ast.AST, where: str, lines: range | None = None
) -> Iterator[tuple[tuple[int, int], tuple[int, int], str, range]]:
    """Where the operators of a tree are: line and column between operands, function, lines of the expression."""
    for node in ast.iter_child_nodes(tree):
        inner = f"{where}.{node.name}" if isinstance(node, ast.FunctionDef | ast.ClassDef) else where
        own = None if isinstance(node, ast.stmt) else lines
        if own is None and isinstance(node, ast.expr):
            own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        operands: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.BoolOp):
            operands = node.values
        for left, right in pairwise(operands):
            end = (left.end_lineno or 0, left.end_col_offset or 0)
            yield end, (right.lineno, right.col_offset), inner, own or range(0)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            operand = node.operand
            yield (node.lineno, node.col_offset), (operand.lineno, operand.col_offset), inner, own or range(0)
        yield from operators(node, inner, own)


class Import(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports a mutant instead of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        mine = name == f"portmon.{self.mutant.module}"
        return importlib.util.spec_from_loader(name, self) if mine else None

    def get_source(self, fullname: str) -> str:
        return self.mutant.source.decode()


class Trace:
    """Notes which lines of the modules each test runs."""

    def __init__(self) -> None:
        self.files = {str(file_of(module)): module for module in MODULES}
        self.tests: dict[str, dict[str, None]] = defaultdict(dict)
        self.test = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self.test = item.nodeid
        sys.settrace(self.call)
        try:
            return (yield)
        finally:
            sys.settrace(None)

    def call(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        return self.note if frame.f_code.co_filename in self.files else None

    def note(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        self.tests[f"{self.files[frame.f_code.co_filename]}:{frame.f_lineno}"][self.test] = None
        return self.note


class Select:
    """Runs some of the tests only, and notes which one fails.

    :param tests: in this order as far as pytest is free to choose
    """

    def __init__(self, tests: Sequence[str], failed: Path) -> None:
        self.tests = {test: number for number, test in enumerate(tests)}
        self.failed = failed

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.tests), key=lambda item: self.tests[item.nodeid]
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.write_text(report.nodeid, encoding="utf-8")


class Exchange:
    """Instead of pytest's loop over the tests: runs them all once, traced, and then on every mutant that it can make.

    :param answer: where to write which tests run each line, and the numbers of the mutants that survive
    """

    def __init__(self, found: Sequence[Mutant], workers: int, answer: Path) -> None:
        self.found = found
        self.workers = workers
        self.answer = answer

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        traced = self.answer.with_suffix(".traced")
        _, status = os.waitpid(fork(partial(self.trace, session.config.pluginmanager, traced), limit=TIME_LIMIT * 5), 0)
        if status:
            raise SystemExit("The tests fail without any mutation")
        lines = json.loads(traced.read_text(encoding="utf-8"))
        self.functions = live_functions()
        # No fork has to copy what it only looks at for garbage.
        gc.freeze()
        alive = {id(mutant) for mutant in survivors(self.found, lines, self.workers, self.survives)}
        numbers = [number for number, mutant in enumerate(self.found) if id(mutant) in alive]
        self.answer.write_text(json.dumps([lines, numbers]), encoding="utf-8")
        return True

    def trace(self, plugins: pytest.PytestPluginManager, traced: Path) -> int:
        plugin = Trace()
        plugins.register(plugin)
        failed = self.first_failed(self.items)
        traced.write_text(json.dumps({line: list(found) for line, found in plugin.tests.items()}), encoding="utf-8")
        if failed:
            print(f"{failed} fails", file=sys.stderr)
        return int(failed is not None)

    def survives(self, mutant: Mutant, tests: Sequence[str], failed: Path) -> int:
        """The same as :func:`survives`; a mutant that can't be made here survives as well."""
        if not exchange(mutant, self.functions):
            return 0
        hush()
        killer = self.first_failed(tests)
        if killer:
            failed.write_text(killer, encoding="utf-8")
        return int(killer is not None)

    def first_failed(self, tests: Iterable[str]) -> str | None:
        chosen = [self.items[test] for test in tests]
        for item, following in zip(chosen, [*chosen[1:], None], strict=True):
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                return item.nodeid
        return None


def live_functions() -> dict[str, list[FunctionType]]:
    """Every function of the modules that are mutated, by its qualified name."""
    files = {str(file_of(module)) for module in MODULES}
    found: dict[str, list[FunctionType]] = defaultdict(list)
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename in files:
            found[one.__code__.co_qualname].append(one)
    return found


def functions_in(code: CodeType) -> Iterator[CodeType]:
    """Code of each function in a module or class that is no part of another function."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_flags & inspect.CO_OPTIMIZED:
                yield one
            else:
                yield from functions_in(one)


def exchange(mutant: Mutant, functions: dict[str, list[FunctionType]]) -> bool:
    """Make a mutant of a module that is imported already.

    :param functions: see :func:`live_functions`
    :returns: whether that can be done: what runs at import is over
    """
    file = file_of(mutant.module)
    before, after = (compile(source, file, "exec") for source in (file.read_bytes(), mutant.source))
    changed = [(old, new) for old, new in zip(functions_in(before), functions_in(after), strict=True) if old != new]
    done = False
    for old, new in changed:
        for function in functions.get(old.co_qualname, ()):
            if function.__code__ == old:
                function.__code__ = new
                done = True
    return done


def fork(action: Callable[[], int], *, limit: float = TIME_LIMIT) -> int:
    """Do something in a fork.

    :param action: its result is the exit code
    :param limit: seconds of computing
    :returns: the process id
    """
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            signal.setitimer(signal.ITIMER_PROF, limit)
            code = action()
        except BaseException:  # a mutant may raise anything
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def run(tests: Sequence[str], plugin: object, *options: str) -> int:
    """Run tests until one fails; without property tests, for what is killed by luck survives the next time.

    :param tests: files
    :returns: pytest's exit code
    """
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    known = ["-x", "-q", "--no-header", "-m", "not hypothesis and not slow", "-p", "no:cacheprovider"]
    return int(pytest.main([*known, "-p", "_hypothesis_pytestplugin", *options, *tests], plugins=[plugin]))


def exchanged(found: Sequence[Mutant], tests: Sequence[str], workers: int) -> tuple[dict[str, list[str]], list[Mutant]]:
    """Run the tests as they are, and on every mutant for which it is enough to exchange the code of a function.

    :returns: which of the tests run each line, named as in ``engine.transitions:80``; the mutants that survive
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        # Nothing but what it starts takes long.
        code = partial(run, tests, Exchange(found, workers, answer))
        _, status = os.waitpid(fork(code, limit=TIME_LIMIT * 10), 0)
        if status:
            raise SystemExit("The tests can't be run")
        lines, alive = json.loads(answer.read_text(encoding="utf-8"))
        return lines, [found[number] for number in alive]


def survives(mutant: Mutant, tests: Sequence[str], failed: Path) -> int:
    """Run tests on a mutant, quietly.

    :param failed: where to write which test fails
    :returns: pytest's exit code
    """
    sys.meta_path.insert(0, Import(mutant))
    hush()
    return run(sorted({test.partition("::")[0] for test in tests}), Select(tests, failed), "--tb=no")


def hush() -> None:
    """Say nothing any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def survivors(
    found: Sequence[Mutant],
    lines: dict[str, list[str]],
    workers: int,
    survives: Callable[[Mutant, Sequence[str], Path], int],
) -> list[Mutant]:
    """Run its tests on each mutant.

    :param lines: which tests run each line
    :param survives: runs tests on a mutant
    :returns: those with which all tests pass
    """
    alive: list[Mutant] = []
    running: dict[int, tuple[Mutant, Path]] = {}
    killers: list[str] = []
    waiting = list(reversed(found))
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < workers:
                mutant, failed = waiting.pop(), Path(folder) / str(len(waiting))
                own = f"test_{mutant.module.rpartition('.')[2]}."
                # What killed the last mutants likely kills this one, which stands beside them.
                tests = sorted(
                    {test for line in mutant.lines for test in lines.get(f"{mutant.module}:{line}", ())},
                    key=lambda test: (-killers.index(test) if test in killers else 1, own not in test, test),
                )
                if tests:
                    running[fork(partial(survives, mutant, tests, failed))] = mutant, failed
                else:
                    alive.append(mutant)
            if running:
                pid, status = os.wait()
                mutant, failed = running.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
                    raise SystemExit(f"pytest cannot run (exit code {code}): {mutant}")
                if code == 0:
                    alive.append(mutant)
                elif failed.exists():
                    killer = failed.read_text(encoding="utf-8")
                    killers = [*(test for test in killers if test != killer), killer]
    return alive


def main(arguments: Sequence[str]) -> int:
    """Check.

    :returns: exit code
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="FILE", help="what must fail")
    parser.add_argument("--modules", nargs="+", default=MODULES, choices=MODULES, help="what is mutated")
    parser.add_argument("--workers", type=int, default=2, help="how many mutants run at a time (2)")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    started = time.monotonic()
    for name in PRELOADED:
        importlib.import_module(name)
    if any(f"portmon.{module}" in sys.modules for module in MODULES):
        raise SystemExit("PRELOADED imports what is to be mutated")

    every = [mutant for module in options.modules for mutant in mutants(module)]
    with tempfile.TemporaryDirectory() as folder:
        # Of pytest's own folders nothing is to be left.
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        lines, alive = exchanged(every, options.tests, options.workers)
        alive = survivors(alive, lines, options.workers, survives)

    (record,) = ROOT.glob("docs/adr/0006-*.md")
    found = LISTED.finditer(record.read_text(encoding="utf-8"))
    listed = Counter(
        (one[1], one[2], one[3])
        for one in found
        if one[1].startswith(tuple(f"{module}." for module in options.modules))
    )
    unproven = [mutant for mutant in alive if mutant.key[0] in UNPROVEN]
    if unproven:
        print(f"survive in functions that are not proven one by one yet (docs/roadmap.md): {len(unproven)}")
    alive = [mutant for mutant in alive if mutant.key[0] not in UNPROVEN]
    surviving = Counter(mutant.key for mutant in alive)
    for mutant in alive:
        if surviving[mutant.key] > listed[mutant.key]:
            print(f"survives: {mutant}")
    for where, before, after in listed - surviving:
        print(f"{record.name} lists what is killed, or is no more: {where}\n    - {before}\n    + {after}")
    print(
        f"{len(every)} mutants of {', '.join(options.modules)}: {len(every) - len(alive) - len(unproven)} killed, "
        f"{len(unproven)} unproven, {(surviving & listed).total()} equivalent, {(surviving - listed).total()} survive "
        f"({time.monotonic() - started:.0f} s)"
    )
    return int(surviving != listed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
