"""Check a folder with templates of the user's own before a message needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, TemplateSyntaxError, meta

from portmon.alerting.config import Language
from portmon.alerting.message.bodies import NAMES, Templates, problem
from portmon.alerting.message.build import checked, view_of
from portmon.alerting.message.order import CROWD, in_order
from portmon.alerting.message.view import MessageView
from portmon.alerting.outages import Outage
from portmon.model.alert import Alert
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind, Meaning

_KNOWN = (*NAMES, *(f"builtin/{name}" for name in NAMES))


def check_templates(folder: Path) -> list[str]:
    """What is wrong with templates of the user's own: each file is read, and every kind of message is made with them.

    :param folder: ``alerts.templates``
    :return: sentences with file and line; empty if nothing was found
    """
    if not folder.is_dir():
        return [f"{folder}: there is no such folder; create it, or take `alerts.templates` out"]
    problems, used = [], set(NAMES)
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    for name, file in files.items():
        if name.endswith(".j2"):
            found, names = _read(folder, file, name)
            problems += found
            used |= names
    for name, file in files.items():
        # A README is not meant as a template.
        is_meant = name.endswith((".j2", ".jinja", ".jinja2")) or get_close_matches(name, NAMES, cutoff=0.75)
        if name not in used and is_meant:
            problems.append(f"{file}: nothing uses a template of this name{_meant(name, NAMES)}")
    return problems or _try(folder)


def _read(folder: Path, file: Path, name: str) -> tuple[list[str], set[str]]:
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
        if used not in _KNOWN and not (folder / used).is_file():
            line = source[: source.find(used)].count("\n") + 1
            problems.append(f"{file}:{line}: there is no template {used!r}{_meant(used, _KNOWN)}")
    return problems, names


def _meant(name: str, names: tuple[str, ...]) -> str:
    close = get_close_matches(name, names, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else f"; the names are {', '.join(names)}"


def _try(folder: Path) -> list[str]:
    problems = []
    for language in get_args(Language):
        try:
            templates = Templates(language, folder)
        except Exception as error:
            problems.append(problem(error, folder))
            continue
        for view in _samples():
            try:
                templates.fill(view)
            except Exception as error:
                problems.append(problem(error, folder))
    return list(dict.fromkeys(problems))


_AT = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
_PAGE = checked("https://airflow.example.com/portmon")
_RUNBOOKS = {kind.value: checked(f"https://airflow.example.com/portmon/runbooks/{kind.value}") for kind in EventKind}
_SAMPLE_HOSTS = 6


def _samples() -> Iterator[MessageView]:
    """Messages of every group: all kinds at once, each alone, cut, grouped, reminders, outages."""
    rows = [(kind, row) for kind in EventKind for row in kind.rows]
    for group in AlertGroup:
        own = [(number, kind, row) for number, (kind, row) in enumerate(rows) if row.group is group]
        full = [_alert(*one) for one in own]
        yield _view(full, group)
        yield _view(full, group, max_lines=1, subject="team-a")
        if firing := [alert for alert in full if alert.role is AlertRole.FIRING]:
            yield _view(firing, group, reminder=True, subject="team-a")
            yield _view(firing, group, reminder=True)
        for one in own:
            yield _view([_alert(*one, bare=True)], group)
    crowd = [_alert(number, EventKind.DOWN, EventKind.DOWN.usual) for number in range(CROWD + 1)]
    one_host = [replace(alert, event=replace(alert.event, host_id="id0", host_name="web00")) for alert in crowd]
    yield _view(one_host, AlertGroup.DOWN)
    for site in ("dc1", ""):
        for kind in (kind for kind in EventKind if kind.usual.folded_as):
            alerts = [_alert(number, kind, kind.usual) for number in range(_SAMPLE_HOSTS)]
            for unreachable in (0, _SAMPLE_HOSTS, _SAMPLE_HOSTS + 1):
                outage = Outage(site, 2 * _SAMPLE_HOSTS, unreachable)
                yield _view(alerts, AlertGroup.UNREACHABLE, outage=outage)


def _alert(number: int, kind: EventKind, row: Meaning, *, bare: bool = False) -> Alert:
    """An alert with everything that its kind can have, or only with what it must have.

    :param row: of the kind, or of its variant
    """
    variant: dict[str, Any] = {row.when[0]: row.when[1], "lost": ["192.0.2.1"]} if row is not kind.usual else {}
    of_port = row.subject == "port"
    of_host = of_port or row.subject == "host"
    event = Event(
        id=f"{number:032x}",
        kind=kind,
        at=_AT,
        run_id="sample",
        host_id=f"id{number}" if of_host else None,
        host_name=f"web{number:02}" if of_host else None,
        protocol="tcp" if of_port else None,
        port=8000 + number if of_port else None,
        severity=row.severity,
        details=variant,
    )
    if not bare:
        details = {"addresses": ["127.0.0.1"], "before": ["nginx"], "state": "up", "error_class": "timeout"}
        details |= dict.fromkeys(("owner", "left", "was", "gone"), "varnishd (varnish.service)")
        event = replace(
            event,
            reason="A reason",
            program="nginx" if of_port else None,
            unit="nginx.service" if of_port else None,
            since=_AT - timedelta(hours=1),
            last_seen=_AT - timedelta(days=1),
            # A retired of a young port is not sent.
            details={**details, "down_for": 600, "young": of_port and kind is not EventKind.RETIRED, **variant},
        )
    over = row.role is AlertRole.RESOLVED
    return Alert(
        id=event.id,
        role=row.role or AlertRole.NOTICE,
        event=event,
        first=event,
        starts_at=_AT - timedelta(hours=1),
        ends_at=_AT if over else None,
        untold=over and not bare,
    )


def _view(alerts: list[Alert], group: AlertGroup, *, outage: Outage | None = None, **given: Any) -> MessageView:
    outages = {alert.event.host_id: outage for alert in alerts if outage and alert.event.host_id}
    links = {alert.event.id: _PAGE for alert in alerts}
    usual = {"max_lines": 50, "subject": "", "reminder": False}
    shown = {"links": links, "pages": links, "notes": {}, "runbooks": _RUNBOOKS, "page": _PAGE}
    return view_of(in_order(alerts, outages), group, **{**shown, **usual, **given})
