"""Whether a folder of templates works, before the night it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, TemplateSyntaxError, meta

from portmon.alerting.config import Language
from portmon.alerting.message.bodies import NAMES, Templates, Views, problem
from portmon.alerting.message.render import views_of
from portmon.alerting.message.view import CROWD, in_order
from portmon.alerting.outages import Outage
from portmon.model.alert import Alert
from portmon.model.event import AlertGroup, AlertRole, Event, EventKind, alert_group, alert_role, severity_of

_AT = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
_PAGE = "https://airflow.example.com/portmon"
_SAMPLE_HOSTS = 6


def check_templates(folder: Path) -> list[str]:
    """What is wrong with templates of the user's own: everything is read, and every kind of message made of it.

    :param folder: ``alerts.templates``
    :return: sentences with file and line; empty if nothing was found
    """
    if not folder.is_dir():
        return [f"{folder}: there is no such folder; create it, or take `alerts.templates` out"]
    problems, used = [], set(NAMES)
    sources: dict[str, Path] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        sources[name] = file
        if name.endswith(".j2"):
            found, names = _read(file, name)
            problems += found
            used |= names
    problems += [_unused(file, name) for name, file in sources.items() if name not in used and _is_meant(name)]
    if not problems:
        problems += _try(folder)
    return problems


def _read(file: Path, name: str) -> tuple[list[str], set[str]]:
    """What is wrong with one file as it is, and the names of those that it builds on."""
    try:
        source = file.read_text(encoding="utf-8")
        parsed = Environment().parse(source, name, str(file))  # noqa: S701 - is not rendered
    except TemplateSyntaxError as error:
        return [f"{file}:{error.lineno}: {error.message}"], set()
    except (OSError, UnicodeDecodeError) as error:
        return [f"{file}: {error}"], set()
    names = {used for used in meta.find_referenced_templates(parsed) if used}
    problems = []
    for used in sorted(names):
        if not _is_there(used, file.parents[name.count("/")]):
            line = source[: source.find(used)].count("\n") + 1
            problems.append(f"{file}:{line}: there is no template {used!r}{_meant(used, _known())}")
    return problems, names


def _known() -> tuple[str, ...]:
    return (*NAMES, *(f"builtin/{name}" for name in NAMES))


def _is_there(name: str, folder: Path) -> bool:
    return name in _known() or (folder / name).is_file()


def _is_meant(name: str) -> bool:
    """Whether a file looks like one that portmon should use; a README does not."""
    return name.endswith((".j2", ".jinja", ".jinja2")) or bool(get_close_matches(name, NAMES, cutoff=0.75))


def _unused(file: Path, name: str) -> str:
    return f"{file}: nothing uses a template of this name{_meant(name, NAMES)}"


def _meant(name: str, names: tuple[str, ...]) -> str:
    close = get_close_matches(name, names, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else f"; the names are {', '.join(names)}"


def _try(folder: Path) -> list[str]:
    problems: dict[str, None] = {}
    for language in get_args(Language):
        try:
            templates = Templates(language, folder)
        except Exception as error:
            problems[problem(error, folder)] = None
            continue
        for views in _samples():
            try:
                templates.fill(views)
            except Exception as error:
                problems[problem(error, folder)] = None
    return list(problems)


# ── samples ─────────────────────────────────────────────────────────────────────────────────────

_VARIANTS: tuple[tuple[EventKind, dict[str, Any]], ...] = (
    *((kind, {}) for kind in EventKind),
    (EventKind.REBOUND, {"severe": True, "lost": ["0.0.0.0"]}),  # noqa: S104 - nothing is bound
    (EventKind.STABLE, {"state": "down"}),
)
_OF_PORTS = frozenset(
    {
        EventKind.NEW,
        EventKind.DOWN,
        EventKind.RECOVERED,
        EventKind.RETIRED,
        EventKind.REPLACED,
        EventKind.REBOUND,
        EventKind.FLAPPING,
        EventKind.STABLE,
        EventKind.UNWATCHED,
    }
)
_OF_HOSTS = frozenset(
    {
        EventKind.UNREACHABLE,
        EventKind.REACHABLE,
        EventKind.REBOOTED,
        EventKind.MANY_CHANGES,
        EventKind.HOST_KEY_CHANGED,
        EventKind.HOST_KEY_RESTORED,
    }
)


def _samples() -> Iterator[Views]:
    """Messages of every group: all kinds at once, each alone, cut, grouped, reminders, outages."""
    for group in AlertGroup:
        full = [
            _alert(number, kind, details)
            for number, (kind, details) in enumerate(_VARIANTS)
            if alert_group(kind, details) is group
        ]
        yield _views(full, group)
        yield _views(full, group, max_lines=1, subject="team-a")
        going_on = [alert for alert in full if alert.role is AlertRole.FIRING]
        if going_on:
            yield _views(going_on, group, reminder=True, subject="team-a")
            yield _views(going_on, group, reminder=True)
        for number, (kind, details) in enumerate(_VARIANTS):
            if alert_group(kind, details) is group:
                yield _views([_alert(number, kind, details, bare=True)], group)
    crowd = [_alert(number, EventKind.DOWN, {}) for number in range(CROWD + 1)]
    one = [replace(alert, event=replace(alert.event, host_id="id0", host_name="web00")) for alert in crowd]
    yield _views(one, AlertGroup.DOWN)
    for site in ("dc1", ""):
        for kind in (EventKind.UNREACHABLE, EventKind.REACHABLE):
            alerts = [_alert(number, kind, {}) for number in range(_SAMPLE_HOSTS)]
            for unreachable in (0, _SAMPLE_HOSTS, _SAMPLE_HOSTS + 1):
                yield _views(alerts, AlertGroup.UNREACHABLE, outage=Outage(site, 2 * _SAMPLE_HOSTS, unreachable))


def _alert(number: int, kind: EventKind, details: dict[str, Any], *, bare: bool = False) -> Alert:
    """An alert that has everything that its kind can have, or only what it must have."""
    port = 8000 + number if kind in _OF_PORTS else None
    known: dict[str, Any] = {
        "reason": "A reason",
        "since": _AT - timedelta(hours=1),
        "last_seen": _AT - timedelta(days=1),
        "details": {
            "addresses": ["127.0.0.1"],
            "before": ["nginx"],
            "state": "up",
            "error_class": "timeout",
            "down_for": 600,
            **details,
        },
    }
    if port:
        known |= {"program": "nginx", "unit": "nginx.service"}
    event = Event(
        id=f"{number:032x}",
        kind=kind,
        at=_AT,
        run_id="sample",
        host_id=f"id{number}" if port or kind in _OF_HOSTS else None,
        host_name=f"web{number:02}" if port or kind in _OF_HOSTS else None,
        protocol="tcp" if port else None,
        port=port,
        severity=severity_of(kind, details),
        **({"details": details} if bare else known),
    )
    role = alert_role(kind, details) or AlertRole.NOTICE
    over = role is AlertRole.RESOLVED
    return Alert(
        id=event.id,
        role=role,
        event=event,
        first=event,
        starts_at=_AT - timedelta(hours=1),
        ends_at=_AT if over else None,
        untold=over and not bare,
    )


def _views(
    alerts: list[Alert],
    group: AlertGroup,
    *,
    max_lines: int = 50,
    subject: str = "",
    reminder: bool = False,
    outage: Outage | None = None,
) -> Views:
    ids = [alert.event.host_id for alert in alerts if alert.event.host_id]
    return views_of(
        in_order(alerts, dict.fromkeys(ids, outage) if outage else {}),
        group,
        max_lines=max_lines,
        links={alert.event.id: _PAGE for alert in alerts},
        page=_PAGE,
        subject=subject,
        reminder=reminder,
    )
