"""Templates of the page: every text is made visible and escaped, whatever a host put into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from portmon.api.addresses import carried, host_path
from portmon.api.event_kinds import KINDS
from portmon.model.numbers import named, number_of
from portmon.text import plain
from portmon.web.answers import airflow_root
from portmon.web.queries import label_query
from portmon.web.words import LANGUAGES, Words

FOLDER = Path(__file__).parent
TEXT_LIMIT = 400
"""Characters of a text that the page shows."""
_AMONG = ("q", "state", "label", "range")
"""Filters of the list of hosts that a host's page keeps, for the hosts before and after it."""
_ONCE = ("acknowledge",)
"""What the script does when the page opens, and no link of the page repeats."""
LANGUAGE_COOKIE = "portmon_language"


def page(request: Request, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """One page."""
    words = Words(language_of(request))
    query = [(key, value) for key, value in request.query_params.multi_items() if value and key not in _ONCE]
    html = (
        _environment()
        .get_template(f"{name}.html.j2")
        .render(
            **values,
            name=name,
            t=words,
            root=request.scope.get("root_path", ""),
            airflow=airflow_root(request),
            query=dict(query),
            among=_whole(urlencode([pair for pair in query if pair[0] in _AMONG])),
            link=Links(request.scope.get("root_path", ""), query, quote(request.scope["path"], errors="replace")).to,
            user=getattr(request.state, "portmon_user", None),
            may_edit=getattr(request.state, "portmon_may_edit", False),
            may_operate=getattr(request.state, "portmon_may_operate", bool)(),
            now=datetime.now(UTC),
        )
    )
    return HTMLResponse(html, status_code=status)


def language_of(request: Request) -> str:
    """Airflow's own choice, which a script keeps in a cookie, else the browser's."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    wanted = [chosen, *request.headers.get("accept-language", "").split(",")]
    for one in wanted:
        short = one.partition(";")[0].strip()[:2].lower()
        if short in LANGUAGES:
            return short
    return LANGUAGES[0]


class Links:
    """Addresses of the page's views."""

    def __init__(self, root: str, query: Sequence[tuple[str, str]], path: str) -> None:
        self._root, self._query, self._path = root, query, path

    def to(self, path: str | None = None, /, **query: Any) -> Markup:
        """A view, or this one with other filters.

        :param path: None: this view, whose filters stay but for those given; an empty value drops one
        """
        kept = [(name, carried(str(value))) for name, value in query.items() if value not in (None, "", 0)]
        if path is None:
            path = self._path
            kept = [pair for pair in self._query if pair[0] not in query] + kept
        else:
            path = f"{self._root}/{path}"
        return _whole(f"{path}?{urlencode(kept)}" if kept else path)


def _of_label(rows: Iterable[Any], name: str) -> list[tuple[str, list[Any]]]:
    """Rows that are in the order of a label's values, by these."""
    return [(value, list(own)) for value, own in groupby(rows, key=lambda row: row.labels.get(name, ""))]


def _whole(value: str) -> Markup:
    """An address, or a value that a form sends back: nothing is cut or made visible."""
    return Markup(str(escape(value)).encode("ascii", "xmlcharrefreplace").decode())  # noqa: S704 - escaped here


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    made.filters |= {"at": at, "lasted": lasted, "iso": _iso, "of_label": _of_label, "whole": _whole}
    made.filters["path"] = lambda text: _whole(quote(str(text), safe="", errors="replace"))
    made.globals |= {
        "KINDS": KINDS,
        "host_path": host_path,
        "label_query": label_query,
        "named": named,
        "number_of": number_of,
        "carried": carried,
    }
    return made


def _visible(value: Any) -> Any:
    """Text without what can't be seen; what a template wrote itself stays."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return "" if value is None else value
    return plain(value, TEXT_LIMIT) if not value.isprintable() or len(value) > TEXT_LIMIT else value


def _iso(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def at(value: datetime | None, form: str = "") -> Markup:
    """A time, which a script turns into the reader's zone; UTC without scripts.

    :param form: ``ago``: how long it is ago comes first
    """
    if value is None:
        return Markup("–")
    stamp = f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
    return Markup('<time datetime="{}" title="{} UTC"{}>{} UTC</time>').format(
        _iso(value), stamp, Markup(' data-form="{}"').format(form) if form else "", stamp
    )


def lasted(value: timedelta | float | None, t: Words) -> str:
    """How long something took, in the two largest units."""
    if value is None:
        return "–"
    # Clocks differ: what ended before it began took no time.
    seconds = max(value.total_seconds() if isinstance(value, timedelta) else float(value), 0.0)
    if seconds < 60:
        return f"{seconds:.0f} {t('s')}" if seconds >= 10 else f"{seconds:.1f} {t('s')}"
    whole = int(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count} {t(unit)}")
    return " ".join(parts[:2])
