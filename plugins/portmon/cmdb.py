"""Host lists: from CMDB payloads and files, validated entry by entry; and what leaves the inventory.

Pure: :func:`fetch` pages through an injected ``send``, so that no network and no Airflow is needed here.
"""

from __future__ import annotations

import csv
import io
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import jmespath
import yaml
from jmespath.exceptions import JMESPathError
from jmespath.parser import ParsedResult

from portmon.config import (
    Cmdb,
    CmdbFields,
    FileSource,
    HttpSource,
    NextLinkPagination,
    OffsetPagination,
    PagePagination,
)
from portmon.errors import CmdbError, NoSuchPageError, ParamError
from portmon.models import Host, InvalidHost, Inventory

ID_LIMIT = NAME_LIMIT = 250
"""Characters: what Airflow's database takes for the name of a mapped task."""
LABEL_LIMIT = 1000
PRUNE_GUARD_ABOVE = 5
"""Up to this many hosts, any of them may leave: a share of so few says nothing."""

_HOST_NAME = re.compile(r"(?=.{1,253}$)(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*\.?")
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f]")
"""Refused. Other invisible characters (bidi, zero-width, U+2028) occur in names that are meant: they stay, and are
escaped wherever a name is shown, see :func:`portmon.render.plain`."""


# ── entries ─────────────────────────────────────────────────────────────────────────────────────


def read_hosts(entries: Iterable[Any], fields: CmdbFields, *, source: str) -> Inventory:
    """Validate the entries of a host list.

    An entry that can't be used is listed with the reason, and the rest goes on. Entries that say the same are
    one. Of those with one id that differ none is used: nobody knows which is right.

    :param entries: of the list, anything
    :param source: what was asked, for people
    """
    expressions = {name: jmespath.compile(text) for name, text in fields if text is not None}
    hosts: list[tuple[int, Host]] = []
    invalid: list[InvalidHost] = []
    disabled = 0
    for position, entry in enumerate(entries, start=1):
        host_id = name = None
        try:
            if not isinstance(entry, Mapping):
                raise _InvalidError(f"it is {_kind(entry)}, not a mapping of fields")
            values = {key: _search(expression, entry, key) for key, expression in expressions.items()}
            if "enabled" in values and not values["enabled"]:
                disabled += 1
                continue
            # As far as they can be read, so that the entry is never pruned and people find it.
            name = values["name"] if isinstance(values.get("name"), str) else None
            host_id = _id(values.get("id"))
            name = _name(values.get("name"))
            address = _address(values.get("address"))
            host = Host(host_id, name or address, address, _port(values.get("port")), _labels(values.get("labels")))
        except _InvalidError as error:
            invalid.append(InvalidHost(position, host_id, name, str(error)))
        else:
            hosts.append((position, host))
    times = Counter(host.id for _, host in hosts)
    first: dict[str, Host] = {}
    differ = {host.id for _, host in hosts if first.setdefault(host.id, host) != host}
    invalid += [
        InvalidHost(position, host.id, host.name, f"{times[host.id]} entries have the id {host.id!r} and differ")
        for position, host in hosts
        if host.id in differ
    ]
    return Inventory(
        hosts=tuple(host for host in first.values() if host.id not in differ),
        invalid=tuple(sorted(invalid, key=lambda one: one.position)),
        disabled=disabled,
        source=source,
    )


class _InvalidError(Exception):
    """Why an entry can't be used."""


def _search(expression: ParsedResult, entry: Mapping[str, Any], name: str) -> Any:
    try:
        return expression.search(entry)
    except (JMESPathError, TypeError, ValueError, ArithmeticError) as error:
        raise _InvalidError(f"{name}: the expression fails on it: {str(error).splitlines()[0]}") from error


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _text(value: Any, name: str, limit: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _InvalidError(f"the {name} is {_kind(value)}, not text")
    text = value.strip()
    if len(text) > limit:
        raise _InvalidError(f"the {name} has {len(text)} characters, more than {limit}")
    if _INVISIBLE.search(text):
        raise _InvalidError(f"the {name} {text!r} holds control characters")
    return text


def _id(value: Any) -> str:
    if value is None or value == "":
        raise _InvalidError("it has no id")
    text = _text(value, "id", ID_LIMIT)
    if not text:
        raise _InvalidError("it has no id")
    return text


def _name(value: Any) -> str | None:
    return None if value is None else _text(value, "name", NAME_LIMIT) or None


def _address(value: Any) -> str:
    if value is None or value == "":
        raise _InvalidError("it has no address")
    text = _text(value, "address", 300)
    bare = text.partition("/")[0].removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if "/" not in text and _HOST_NAME.fullmatch(text) and not text.replace(".", "").isdigit():
            return text
        raise _InvalidError(f"the address {text!r} is neither a host name nor an IP address") from None


def _port(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise _InvalidError(f"the port {value!r} is not 1 to 65535")
    return value


def _labels(value: Any) -> dict[str, str]:
    """A mapping, or a list of ``key=value`` texts, plain tags, or objects with a name or slug."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if isinstance(value, Mapping):
        pairs = [(key, inner) for key, inner in value.items() if inner is not None]
    elif isinstance(value, list):
        pairs = [_tag(item) for item in value if item is not None]
    else:
        raise _InvalidError(f"the labels are {_kind(value)}, not a mapping or a list")
    labels = {}
    for key, inner in pairs:
        if isinstance(inner, Mapping):
            inner = inner.get("value", inner.get("name", inner.get("slug")))
        if isinstance(inner, list):
            inner = ",".join(map(str, inner))
        text = str(inner).lower() if isinstance(inner, bool) else str(inner)
        if len(text) > LABEL_LIMIT or len(str(key)) > LABEL_LIMIT:
            raise _InvalidError(f"the label {str(key)[:50]!r} has more than {LABEL_LIMIT} characters")
        labels[str(key).strip()] = text
    return labels


def _tag(item: Any) -> tuple[str, Any]:
    if isinstance(item, Mapping):
        item = item.get("slug", item.get("name"))
    if not isinstance(item, str | int) or isinstance(item, bool):
        raise _InvalidError(f"a label is {_kind(item)}, not text")
    key, equals, value = str(item).partition("=")
    return key.strip(), value.strip() if equals else "true"


# ── pages ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One request for a page.

    :param url: absolute, given by the page before; None for the configured endpoint
    :param params: query parameters, or with ``json_body`` additions to it
    """

    url: str | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)


def fetch(source: HttpSource, send: Callable[[PageRequest], Any], *, base_url: str, shown: str) -> Inventory:
    """Every page of the host list, or none of it.

    :param send: asks for a page and returns the decoded JSON; raises CmdbError
    :param base_url: of the connection: a link to another origin is not followed, since it would carry the
        credentials there
    :param shown: what is asked, for people, without credentials
    :raises CmdbError: if the list is not complete and plausible
    """
    items = jmespath.compile(source.items)
    total = jmespath.compile(source.total) if source.total else None
    paging = source.pagination
    entries: list[Any] = []
    request = PageRequest(params=_first_page(source))
    asked: set[str] = set()
    previous: Any = None
    expected = None
    for number in range(1, source.max_pages + 1):
        try:
            answer = send(request)
        except NoSuchPageError:
            # How many APIs with numbered pages say that the page before was the last one.
            if number > 1 and total is None and isinstance(paging, PagePagination):
                break
            raise
        page = items.search(answer)
        if not isinstance(page, list):
            raise CmdbError(f"page {number}: {source.items!r} is {_kind(page)}, not a list", source=shown)
        if page and page == previous and not isinstance(paging, NextLinkPagination):
            raise CmdbError(
                f"page {number} is the same as the one before: the server ignores the paging parameters, or repeats "
                "its last page. Correct cmdb.source.pagination, or say in cmdb.source.total where it tells the number "
                "of entries",
                source=shown,
            )
        previous = page
        entries += page
        if total is not None:
            expected = total.search(answer)
            if isinstance(expected, bool) or not isinstance(expected, int):
                raise CmdbError(f"page {number}: {source.total!r} is {_kind(expected)}, not a number", source=shown)
        following = _next_page(source, answer, request, page, len(entries), expected, base_url, shown)
        if following is None:
            break
        if following.url is not None:
            if following.url in asked:
                raise CmdbError(f"page {number} names a page that was read before: a loop", source=shown)
            asked.add(following.url)
        request = following
    else:
        raise CmdbError(
            f"more than {source.max_pages} pages; raise cmdb.source.max_pages if that is right", source=shown
        )
    if expected is not None and expected != len(entries):
        raise CmdbError(f"{len(entries)} entries, but it says that there are {expected}", source=shown)
    return read_hosts(entries, source.fields, source=shown)


def _first_page(source: HttpSource) -> dict[str, str | int]:
    paging = source.pagination
    if isinstance(paging, PagePagination):
        size = {paging.size_param: paging.size} if paging.size_param else {}
        return {**source.params, paging.param: paging.first, **size}
    if isinstance(paging, OffsetPagination):
        return {**source.params, paging.offset_param: 0, paging.limit_param: paging.size}
    return dict(source.params)


def _next_page(
    source: HttpSource,
    answer: Any,
    request: PageRequest,
    page: Sequence[Any],
    count: int,
    expected: int | None,
    base_url: str,
    shown: str,
) -> PageRequest | None:
    """The request for the page after ``page``, None after the last."""
    paging = source.pagination
    if isinstance(paging, NextLinkPagination):
        link = jmespath.compile(paging.next).search(answer)
        if link is None or link == "":
            return None
        if not isinstance(link, str):
            raise CmdbError(f"{paging.next!r} is {_kind(link)}, not a link", source=shown)
        url = urljoin(request.url or urljoin(base_url.rstrip("/") + "/", source.endpoint.lstrip("/")), link)
        if _origin(url) != _origin(base_url):
            raise CmdbError(
                f"the next page is on {'://'.join(_origin(url)[:2])}, another server than the connection's: "
                "not followed",
                source=shown,
            )
        return PageRequest(url=url)
    if isinstance(paging, PagePagination | OffsetPagination):
        # A page that is shorter than asked for may be the last one, or all that the server ever gives at once.
        if not page or (expected is not None and count >= expected):
            return None
        name = paging.param if isinstance(paging, PagePagination) else paging.offset_param
        step = 1 if isinstance(paging, PagePagination) else len(page)
        return PageRequest(params={**request.params, name: int(request.params[name]) + step})
    return None


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default


# ── files ───────────────────────────────────────────────────────────────────────────────────────


def read_file(source: FileSource, base: Path) -> Inventory:
    """The host list in a YAML or CSV file.

    :param base: folder that a relative path starts from
    :raises CmdbError: if it can't be read, with the line
    """
    path = base / source.path
    shown = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CmdbError(f"can't be read: {getattr(error, 'strerror', None) or error}", source=shown) from error
    if path.suffix.lower() == ".csv":
        entries: Any = _csv(text, shown)
    elif path.suffix.lower() in (".yaml", ".yml"):
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"line {mark.line + 1}: " if mark else ""
            raise CmdbError(f"{where}is no YAML: {getattr(error, 'problem', error)}", source=shown) from error
        entries = jmespath.compile(source.items).search(data)
    else:
        raise CmdbError("its name must end in .yaml, .yml or .csv", source=shown)
    if not isinstance(entries, list):
        raise CmdbError(f"{source.items!r} is {_kind(entries)}, not a list of hosts", source=shown)
    return read_hosts(entries, source.fields, source=shown)


def _csv(text: str, shown: str) -> list[dict[str, Any]]:
    """Rows as mappings; columns ``label.x`` become labels.

    The separator is the one of comma, semicolon and tab that the header has most of.
    """
    header = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise CmdbError(f"line {reader.line_num}: has another number of columns than the header", source=shown)
            labels = {
                key.strip()[len("label.") :]: value
                for key, value in row.items()
                if key.strip().startswith("label.") and value
            }
            plain = {key.strip(): value for key, value in row.items() if not key.strip().startswith("label.")}
            rows.append({**plain, **({"labels": labels} if labels else {})})
    except csv.Error as error:
        raise CmdbError(f"line {reader.line_num}: is no CSV: {error}", source=shown) from error
    return rows


# ── scope and pruning ───────────────────────────────────────────────────────────────────────────


def select(hosts: Sequence[Host], patterns: Sequence[str]) -> list[Host]:
    """Hosts that some pattern names, in their order.

    :param patterns: ids, names, globs on names, or ``label=value`` with a glob as value
    :raises ParamError: naming every pattern that matches no host
    """
    wanted: set[str] = set()
    lost = []
    for pattern in patterns:
        found = {host.id for host in hosts if _names(host, pattern)}
        if not found:
            lost.append(pattern)
        wanted |= found
    if lost:
        raise ParamError(
            f"{', '.join(map(repr, lost))}: no host of the CMDB has such a name, id or label", field="hosts"
        )
    return [host for host in hosts if host.id in wanted]


def _names(host: Host, pattern: str) -> bool:
    if pattern in (host.id, host.name) or fnmatchcase(host.name.lower(), pattern.lower()):
        return True
    label, equals, value = pattern.partition("=")
    return bool(equals) and label in host.labels and fnmatchcase(host.labels[label], value)


class Known(Protocol):
    """A server that is stored."""

    @property
    def id(self) -> str:
        """Its id in the CMDB."""

    @property
    def removed_at(self) -> datetime | None:
        """When it left; None while it is in."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What to do with servers that are not in the list, or are again.

    :param hide: left just now
    :param resume: are back
    :param purge: left long enough ago to delete
    :param refused: why nothing is concluded from missing servers, for people; None if it is
    """

    hide: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    purge: tuple[str, ...] = ()
    refused: str | None = None


def plan_prune(
    known: Iterable[Known], inventory: Inventory, *, stale: bool, forced: bool, now: datetime, settings: Cmdb
) -> PrunePlan:
    """Decide what leaves the inventory.

    Refused is what would be concluded from absence: hiding, and deleting what is hidden. A server that is
    back resumes in any case.

    :param known: every stored server
    :param stale: the list is an old one; not even ``forced`` concludes anything from it
    :param forced: believe the list, however many are missing
    """
    known = list(known)
    listed = {host.id for host in inventory.hosts}
    present = listed | {entry.id for entry in inventory.invalid if entry.id is not None}
    nameless = sum(entry.id is None for entry in inventory.invalid)
    resume = tuple(sorted(host.id for host in known if host.removed_at is not None and host.id in listed))
    visible = [host.id for host in known if host.removed_at is None]
    missing = sorted(set(visible) - present)
    hidden = {host.id: host.removed_at for host in known if host.removed_at is not None and host.id not in present}
    refused = None
    if stale:
        refused = "the host list is an old one, the CMDB gave none"
    elif not forced:
        refused = _too_many(len(missing), len(visible), nameless, empty=not present, limit=settings.max_prune_ratio)
    if refused:
        return PrunePlan(resume=resume, refused=refused)
    leaving = {**hidden, **dict.fromkeys(missing, now)}
    purge = tuple(sorted(one for one, since in leaving.items() if since and now - since >= settings.prune_after))
    return PrunePlan(hide=tuple(missing), resume=resume, purge=purge)


def _too_many(missing: int, visible: int, nameless: int, *, empty: bool, limit: float) -> str | None:
    if not missing:
        return None
    if empty:
        return f"the host list is empty, {visible} hosts are known"
    if nameless:
        return f"{missing} hosts are missing, but {nameless} entries have no readable id and may be these"
    if visible > PRUNE_GUARD_ABOVE and missing > visible * limit:
        return f"{missing} of {visible} hosts are missing, more than {limit:.0%} (cmdb.max_prune_ratio)"
    return None
