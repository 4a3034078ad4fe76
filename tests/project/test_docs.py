"""What the documents and docstrings name exists, and what they draw is complete."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import portmon
from portmon import errors
from portmon.cli import app
from portmon.untrusted.extensions import CHANNELS, SOURCES
from tests.worlds.blocks import blocks

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
PACKAGE = PLUGINS / "portmon"
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("contrib/**/*.md")]
MODULES = sorted(PACKAGE.rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(command: object = None, prefix: str = "") -> set[str]:
    command = command or typer.main.get_command(app)
    found = set()
    for name, inner in getattr(command, "commands", {}).items():
        found |= {f"{prefix}{name}"} | commands(inner, f"{prefix}{name} ")
    return found


# ── links, commands, versions ────────────────────────────────────────────────────────────────────


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?[^)]*\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        page = path.parent / target if target else path
        assert page.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(page), f"{path.name} links to {target}#{anchor}"


@pytest.mark.parametrize("path", ["README.md", "README.zh-CN.md", "docs/page.md"])
def test_pictures_are_shown_and_small(path: str) -> None:
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    shown = re.findall(r"images/([\w-]+\.png)", (ROOT / path).read_text(encoding="utf-8"))
    assert sorted(shown) == [picture.name for picture in pictures]
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG"), picture.name
        assert picture.stat().st_size < 200_000, picture.name


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_make_targets_and_commands_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:`|^)make ((?:[a-z]+-?)+)", text, flags=re.M)) <= targets
    for line in re.findall(r"python3? -m portmon ([a-z]+(?: [a-z]+)?)", text):
        assert line in commands() or line.split()[0] in commands(), line


@pytest.mark.parametrize("path", [path for path in DOCS if path.name != "configuration.md"], ids=named)
def test_sentences_say_who_does_what(path: Path) -> None:
    """The subject is the run, the channel, the host: a pronoun leaves open what acts."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"(?i)\b(?:whoever|nobody|somebody|everybody|anybody)\b.*", text) == []


def outline(text: str) -> dict[str, list[str]]:
    """What a document has that its translation has too, in order."""
    code = [block for block in blocks(text) if block.language != "text"]
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    rows, escaped = re.findall(r"^\|(.*)\|$", prose, flags=re.M), r"\|"
    return {
        "headings": re.findall(r"^#+ ", prose, flags=re.M),
        # The number of cells, and the names in them.
        "rows of tables": [f"{row.replace(escaped, '').count('|')} {sorted(row.split('`')[1::2])}" for row in rows],
        "lists": re.findall(r"^ *(?:\*|\d+\.) ", prose, flags=re.M),
        "blocks": [f"{one.language} {one.marks}\n" + re.sub(r"\s+(?<!\$)#.*", "", one.text) for one in code],
        "names and commands": sorted(set(re.findall(r"(?<!`)`([^`]+)`(?!`)", prose))),
    }


TRANSLATED = {
    "README.md": "README.zh-CN.md",
    "docs/alerts.md": "docs/zh/alerts.md",
    "docs/operations.md": "docs/zh/operations.md",
}


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED.items())
def test_a_translation_tells_the_same_things(english: str, chinese: str) -> None:
    one, other = (outline((ROOT / name).read_text(encoding="utf-8")) for name in (english, chinese))
    for what in one:
        assert one[what] == other[what], what


@pytest.mark.parametrize(
    ("english", "chinese", "what"),
    [
        ("# a\n## b\n", "# 一\n", "headings"),
        ("## b\n", "# 二\n", "headings"),
        ("| `x` | y |\n| `z` | y |\n", "| `x` | 是 |\n", "rows of tables"),
        ("| `x` | y |\n", "| `x` |\n", "rows of tables"),
        ("```sh\nmake demo\n```\n", "```sh\nmake test\n```\n", "blocks"),
        ("```sh runnable\nmake demo\n```\n", "```sh\nmake demo\n```\n", "blocks"),
        ("`make demo`\n", "`make test`\n", "names and commands"),
        ("* one\n* two\n", "* 一\n", "lists"),
    ],
)
def test_what_a_translation_lacks_is_found(english: str, chinese: str, what: str) -> None:
    assert outline(english)[what] != outline(chinese)[what]


def test_comments_of_a_block_are_translated() -> None:
    assert outline("```sh\nls   # now\n```\n") == outline("```sh\nls  # 现在\n```\n")


def test_pages_of_the_site_are_those_of_the_repository() -> None:
    """The strict build of `make docs` finds the rest; this one finds a new page that was left out."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    shown = set(re.findall(r": (\S+\.md)$", site, flags=re.M))
    assert shown == {named(path) for path in DOCS if not re.match(r"docs/adr/\d", named(path))}
    listed = re.findall(r"\]\((\d\S+)\)", (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in ROOT.glob("docs/adr/0*.md"))


def test_the_picture_of_the_run_fits_a_terminal() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        (picture,) = (one for one in blocks((ROOT / name).read_text(encoding="utf-8")) if "diff_ports" in one.text)
        assert max(map(len, picture.text.splitlines())) <= 80


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert (ROOT / project["tool"]["hatch"]["version"]["path"]).resolve() == Path(portmon.__file__).resolve()


# ── the page of the rooms ────────────────────────────────────────────────────────────────────────


def architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_room_is_described_and_no_other() -> None:
    packages = {f"{file.parent.relative_to(PACKAGE)}/" for file in PACKAGE.rglob("*/__init__.py")}
    modules = {file.name for file in PACKAGE.glob("*.py")} - {"__init__.py"}
    section = architecture().split("\n## Rooms\n")[1].split("\n## ")[0]
    described = re.findall(r"^\| `([^`]+)` \|", section, flags=re.M)
    assert sorted(described) == sorted(packages | modules)


def test_layers_are_drawn_as_the_import_contract_has_them() -> None:
    (contract, *_) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"\w+", re.sub(r"\(\w+\)", "", layer)) for layer in contract["layers"]]
    (picture,) = re.findall(r"^```text\n(.*?)^```", architecture(), flags=re.M | re.S)
    assert [re.findall(r"\w+", line.partition("·")[0]) for line in picture.splitlines()] == layers


# ── names of modules, classes, functions and files ───────────────────────────────────────────────


@dataclass
class Code:
    """What the package defines, by dotted names, as its source says it: nothing is imported.

    :param names: modules, and what is defined in them and in their classes; of attributes also those of instances
    :param imports: module: name there: where it is from
    :param bases: class: its base classes
    """

    names: set[str] = field(default_factory=set)
    imports: dict[str, dict[str, str]] = field(default_factory=dict)
    bases: dict[str, list[str]] = field(default_factory=dict)

    def add(self, body: list[ast.stmt], where: str, module: str) -> None:
        for one in body:
            if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                self.names.add(f"{where}.{one.name}")
            if isinstance(one, ast.ClassDef):
                self.bases[f"{where}.{one.name}"] = [self.meant(ast.unparse(base), module) or "" for base in one.bases]
                self.add(one.body, f"{where}.{one.name}", module)
            elif isinstance(one, ast.Import | ast.ImportFrom):
                origin = f"{one.module}." if isinstance(one, ast.ImportFrom) else ""
                self.imports[module] |= {alias.asname or alias.name: f"{origin}{alias.name}" for alias in one.names}
            elif isinstance(one, ast.If | ast.Try):
                self.add(one.body, where, module)
            elif isinstance(one, ast.FunctionDef) and where != module:
                stored = [node for node in ast.walk(one) if isinstance(node, ast.Attribute)]
                self.names |= {f"{where}.{node.attr}" for node in stored if ast.unparse(node.value) == "self"}
            elif isinstance(one, ast.Assign | ast.AnnAssign):
                targets = one.targets if isinstance(one, ast.Assign) else [one.target]
                self.names |= {f"{where}.{ast.unparse(target)}" for target in targets}

    def meant(self, name: str, module: str, classes: tuple[str, ...] = ()) -> str | None:
        """The whole name of what docstrings of a module call so, None if there is no such name."""
        first, _, rest = name.partition(".")
        for depth in range(len(classes), -1, -1):
            whole = ".".join([module, *classes[:depth], name])
            if self.has(whole):
                return whole
        if first in self.imports[module]:
            return f"{self.imports[module][first]}.{rest}".rstrip(".")
        return name if name.startswith("portmon") else None

    def has(self, name: str) -> bool:
        """Whether a name of the package is defined where it says. Of other packages all names are believed."""
        owner, _, last = name.rpartition(".")
        inherits = any(self.has(f"{base}.{last}") for base in self.bases.get(owner, ()) if base)
        return not name.startswith("portmon") or name in self.names or inherits


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PLUGINS).with_suffix("").parts).removesuffix(".__init__")


@pytest.fixture(scope="module")
def code() -> Code:
    found = Code()
    for path in MODULES:
        found.names.add(dotted(path))
        found.imports[dotted(path)] = {}
        found.add(ast.parse(path.read_text(encoding="utf-8")).body, dotted(path), dotted(path))
    found.names |= {CHANNELS, SOURCES}  # groups of entry points, which are named like modules
    return found


def docstrings(node: ast.AST, classes: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Docstrings, those of attributes too, with the classes that they are in."""
    for one in ast.iter_child_nodes(node):
        if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str):
            yield classes, one.value.value
        yield from docstrings(one, (*classes, one.name) if isinstance(one, ast.ClassDef) else classes)


def broken_roles(code: Code, source: str, module: str) -> list[str]:
    return [
        target
        for classes, text in docstrings(ast.parse(source))
        for target in re.findall(r":(?:func|class|mod|meth|data|attr):`~?([^`]+)`", text)
        if (meant := code.meant(target, module, classes)) is None or not code.has(meant)
    ]


def broken_names(code: Code, text: str, page: Path) -> set[str]:
    """Names of modules, files and folders in a document that there are not."""
    names = set(re.findall(r"(?<![\w/.-])portmon(?:\.\w+)+", text))
    files = {name for name in names if name.split(".")[1] in ("yaml", "db", "schema", "env")}
    paths = set(re.findall(r"(?<![\w/.:*-])[\w.-]+(?:/[\w.-]+)*\.py\b", text))
    paths |= set(re.findall(r"`((?:plugins|tests|tools|bench|demo|dags|docs)/[\w./-]*|(?:[\w-]+/)+)`", text))
    # Written in full, or as seen from the package or from the page.
    folders = (ROOT, PLUGINS, PACKAGE, page.parent)
    lost = {path for path in paths if not any((folder / path).exists() for folder in folders)}
    return lost | {name for name in names - files if not code.has(name)}


def test_references_in_docstrings_lead_somewhere(code: Code) -> None:
    broken = {named(path): broken_roles(code, path.read_text(encoding="utf-8"), dotted(path)) for path in MODULES}
    assert {path: targets for path, targets in broken.items() if targets} == {}


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_modules_and_files_that_documents_name_exist(code: Code, path: Path) -> None:
    assert broken_names(code, path.read_text(encoding="utf-8"), path) == set()


def test_what_leads_nowhere_is_found(code: Code) -> None:
    good = "class Session:\n    def run(self):\n        ''':meth:`close`, :func:`~portmon.ssh.session.end` {}'''"
    assert broken_roles(code, good, "portmon.ssh.session") == []
    for target in ("portmon.ssh.session.Login", "portmon.gone", "Session.gone", "portmon.engine.diff.States", "no"):
        assert broken_roles(code, good.format(f":class:`{target}`"), "portmon.ssh.session") == [target]
    page = ROOT / "docs" / "states.md"
    assert broken_names(code, "`portmon.steps`, portmon.yaml, `engine/hosts.py`, dags/portmon_dag.py", page) == set()
    for name in ("portmon.pipeline", "portmon.steps.none", "engine/none.py", "diff.py", "tests/none.py"):
        assert broken_names(code, f"text `{name}`.", page) == {name}
    assert broken_names(code, "`tests/none`, `none/`", page) == {"tests/none", "none/"}


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    def tree(kind: type[BaseException], level: int) -> Iterator[tuple[int, str]]:
        yield level, kind.__name__
        for one in kind.__subclasses__():
            if one.__module__ == errors.__name__:
                yield from tree(one, level + 1)

    drawn = re.findall(r"^([ │├└─]*)(\w+Error)\b", inspect.getdoc(errors) or "", flags=re.M)
    assert [((len(indent) - 4) // 4, name) for indent, name in drawn] == list(tree(errors.PortmonError, 0))
