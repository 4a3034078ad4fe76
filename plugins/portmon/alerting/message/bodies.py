"""The bodies of a message from its templates: the user's own, else the built-in ones.

If a template of the user's fails, the message is made with the built-in ones.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader, StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from portmon.alerting.config import Language
from portmon.alerting.message.view import Address, MessageView
from portmon.text import TITLE_LIMIT, escape_markdown, inert, plain

BUILT_IN = Path(__file__).parent / "templates"
NAMES = ("en.j2", "zh.j2", "message.txt.j2", "message.md.j2", "message.html.j2")
"""Templates that a folder of the user's may hold."""

_log = logging.getLogger("portmon.alerts")


@dataclass(frozen=True, slots=True)
class Bodies:
    """Final text of a message.

    :param title: one short line, counts first
    :param text: lines for chat and logs; like ``markdown`` without the title
    :param html: a complete document for mail, with the title
    """

    title: str
    text: str
    html: str
    markdown: str = ""


def fill(view: MessageView, language: Language, folder: Path | None, *, again: bool = False) -> Bodies:
    """Title and bodies, made with the built-in templates if one in the folder fails.

    :param again: the same message was made before, and what is wrong was logged then
    """
    if folder is not None:
        try:
            return Templates(language, folder).fill(view)
        except Exception as error:
            if not again:
                _log.error(
                    "%s; the built-in templates are used instead. `portmon check` tells whether it is mended",
                    problem(error, folder),
                )
    return _built_in(language).fill(view)


class Templates:
    """The templates of one language, ready for use.

    :param folder: its templates take the place of the built-in ones
    :raises Exception: what a template of the folder raises
    """

    def __init__(self, language: Language, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise NotADirectoryError(f"{folder}: there is no such folder")
        self._text = _environment(folder, language, html=False)
        self._html = _environment(folder, language, html=True)

    def fill(self, view: MessageView) -> Bodies:
        """Title and bodies, the view escaped for each medium.

        :raises Exception: what a template of the folder raises
        """
        text = _escaped(view, inert, str)
        markdown = _escaped(view, lambda value: escape_markdown(inert(value)), _in_markdown_link)
        title = self._text.from_string("{{ say.title(view) }}").render(view=text)
        return Bodies(
            title=_some("title", plain(title.strip(), TITLE_LIMIT)),
            text=_render(self._text, "message.txt.j2", text),
            html=_render(self._html, "message.html.j2", view),
            markdown=_render(self._text, "message.md.j2", markdown),
        )


def _escaped(value: Any, text: Callable[[str], str], address: Callable[[str], str]) -> Any:
    """A view, or a value in one, with its strings escaped."""
    if isinstance(value, str):
        return address(value) if isinstance(value, Address) else text(value)
    if isinstance(value, tuple):
        return tuple(_escaped(one, text, address) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: _escaped(getattr(value, field.name), text, address) for field in fields(value)}
        return replace(value, **own)
    return value


def _in_markdown_link(address: str) -> str:
    """An address without what would end it within a Markdown link, or be interpreted there."""
    return "".join(f"%{ord(char):02X}" if char in "()[]\\|*;" else char for char in address)


_built_in = lru_cache(maxsize=2)(Templates)


def _render(environment: ImmutableSandboxedEnvironment, name: str, view: MessageView) -> str:
    return _some(name, environment.get_template(name).render(view=view).strip("\n"))


def _some(name: str, text: str) -> str:
    if not text.strip():
        raise ValueError(f"{name} says nothing")
    return text


def problem(error: Exception, folder: Path) -> str:
    """What is wrong with a template, with its file and line."""
    told = plain(str(error) or type(error).__name__, 300)
    if isinstance(error, NotADirectoryError):
        return f"alerts.templates: {told}"
    if isinstance(error, TemplateSyntaxError):
        return f"{error.filename or error.name or ''}:{error.lineno}: {told}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)]
    return f"{own[-1].filename}:{own[-1].lineno}: {told}" if own else f"{folder}: {told}"


class _Words:
    """``say`` of the templates: a macro of the user's own, else the built-in one of that name.

    The macros call each other through it, so a user replaces the words for one thing with one macro.
    """

    _modules: tuple[Any, ...] = ()
    """Under a name that no template can reach."""

    def __getattr__(self, name: str) -> Any:
        for module in self._modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


def _environment(folder: Path | None, language: Language, *, html: bool) -> ImmutableSandboxedEnvironment:
    built_in = FileSystemLoader(BUILT_IN)
    own = [FileSystemLoader(folder)] if folder else []
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([*own, built_in, PrefixLoader({"builtin": built_in})]),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    say = environment.globals["say"] = _Words()
    for name in (f"builtin/{language}.j2", f"{language}.j2"):
        try:
            say._modules = environment.get_template(name).module, *say._modules
        except Exception:
            environment.handle_exception()  # raises it again, with the lines of the template
    return environment
