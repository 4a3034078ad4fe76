"""Write what follows from the code: config/portmon.schema.json, docs/configuration.md, tables of docs/states.md and
docs/operations.md, the message of both READMEs.

``python tools/docs.py`` writes them; with ``--check`` it only says whether they are up to date.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "plugins"))

from portmon.airflow.provider import OPTIONS  # noqa: E402
from portmon.alerting.message.render import Layout, render  # noqa: E402
from portmon.config import Config, json_schema  # noqa: E402
from portmon.engine import lifecycle  # noqa: E402
from portmon.engine import rows as rows_  # noqa: E402
from portmon.engine.conditions import Condition  # noqa: E402
from portmon.fields import format_duration  # noqa: E402
from portmon.model.alert import Alert  # noqa: E402
from portmon.model.event import Event  # noqa: E402
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind  # noqa: E402
from portmon.scan.batches import MAX_BATCHES  # noqa: E402

HEAD = """# Configuration

Every field of `portmon.yaml`, generated from the models that validate it. Durations are texts such as `15s`, `10min`, `1h`
or `14d`, or numbers of seconds. Where the file is: `[portmon] config` in airflow.cfg (`AIRFLOW__PORTMON__CONFIG`), see below.
`portmon check` validates it and shows what it means.

Editors that know the YAML language server complete and check it by [`portmon.schema.json`](../config/portmon.schema.json).

## airflow.cfg

{options}

The Airflow connection `portmon_db` is the state database; without it, SQLite in `$AIRFLOW_HOME/portmon.db`.
"""


def options() -> list[str]:
    """Rows of the options in airflow.cfg."""
    rows = ["| option | default | |", "| --- | --- | --- |"]
    for name, option in OPTIONS.items():
        default = f"`{option['default']}`" if option["default"] else ""
        rows.append(f"| `[portmon] {name}` | {default} | {option['description']} |")
    return rows


def models(annotation: Any) -> list[type[BaseModel]]:
    """Models within an annotation, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models(argument)]


def kind(annotation: Any) -> str:
    """An annotation for people."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(one) for one in get_args(annotation) if one is not type(None)))
    if str(origin) == "typing.Literal":
        return " or ".join(f"`{one}`" for one in get_args(annotation))
    if models(annotation):
        return "list" if origin is tuple else "section"
    names = {timedelta: "duration", str: "text", int: "integer", float: "number", bool: "true or false", tuple: "list"}
    if origin is not None and origin not in names:
        return "mapping"
    return names.get(origin or annotation, "any")


def default(field: FieldInfo) -> str:
    """A default for people."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, timedelta):
        return f"`{format_duration(value)}`"
    if value is None or isinstance(value, BaseModel) or value in ((), {}, ""):
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{getattr(one, 'name', one)}`" for one in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def sections(model: type[BaseModel], path: str, level: int) -> Iterator[str]:
    """Lines of one section and of those below it."""
    doc = " ".join((model.__doc__ or "").split())
    yield f"\n{'#' * min(level, 5)} {path}\n\n{doc}\n"
    yield "| field | | default | |\n| --- | --- | --- | --- |"
    below = []
    for name, field in model.model_fields.items():
        description = (field.description or "").replace("|", r"\|")
        yield f"| `{field.alias or name}` | {kind(field.annotation)} | {default(field)} | {description} |"
        inner = models(field.annotation)
        suffix = "[]" if get_origin(field.annotation) is tuple else ""
        for one in inner:
            label = f"{path}.{name}{suffix}"
            for tag in ("type", "style"):
                if len(inner) > 1 and tag in one.model_fields:
                    label += f" ({tag}: {get_args(one.model_fields[tag].annotation)[0]})"
            below.append((one, label))
    for one, label in below:
        yield from sections(one, label, level + 1)


def reference() -> str:
    """docs/configuration.md."""
    lines = [HEAD.format(options="\n".join(options()))]
    for name, field in Config.model_fields.items():
        for model in models(field.annotation):
            suffix = "[]" if get_origin(field.annotation) is tuple else ""
            lines += sections(model, f"{name}{suffix}", 2)
    return "\n".join(lines).rstrip() + "\n"


def rows(table: Iterable[rows_.Row | lifecycle.LifecycleRow], shown: str = "this observation") -> str:
    """Rows of a table of states.

    :param shown: title of the column that says what is seen
    """
    lines = [f"| stored | {shown} | then | event |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.stored} | {row.observed} | {row.then} | {row.event} |" for row in table]
    return "\n".join(lines)


def kinds() -> str:
    """Kinds of events, how loud they are, and which alert task sends them."""
    lines = ["| event | severity | sent by |", "| --- | --- | --- |"]
    for kind in EventKind:
        for row in kind.rows:
            name = f"`{kind}`" if row is kind.usual else f"`{kind}` with `{row.when[0]}: {str(row.when[1]).lower()}`"
            lines.append(f"| {name} | {row.severity} | {f'`alert_{row.group}`' if row.group else 'none: a note'} |")
    return "\n".join(lines)


def conditions() -> str:
    """The catalogue of conditions, with severity and alert task of the event that opens each."""
    lines = [
        "| condition | of | begins and ends with | severity | sent by | if a person accepts it | besides | includes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for condition in Condition:
        one = condition.value
        opens = next(row for row in one.opens.rows if row.role is AlertRole.FIRING)
        name = f"`{one.opens}`" if opens is one.opens.usual else f"`{one.opens}` (`{opens.when[0]}`)"
        besides = ", ".join(word for word, holds in (("retires", one.retires), ("flaps", one.flaps)) if holds)
        includes = ", ".join(f"`{name}`" for name in one.includes)
        lines.append(
            f"| `{one.name}` | {one.subject} | {name}, `{one.ends}` | {opens.severity} | `alert_{opens.group}` | "
            f"{one.accepted} | {besides} | {includes} |"
        )
    return "\n".join(lines)


def states(text: str) -> str:
    """docs/states.md with its tables as the code has them."""
    more = [row for row in rows_.Row if row not in rows_.TABLE]
    return filled(
        text,
        table=rows(rows_.TABLE),
        more=rows(more),
        lifecycle=rows(lifecycle.LifecycleRow, "the evidence shows"),
        conditions=conditions(),
        kinds=kinds(),
    )


def left_behind(*, netstat: int = 0, sweep: int = 0) -> dict[str, int]:
    """What a quiet run leaves in Airflow, by table of its database; ``files`` are those of logs.

    tests/e2e/test_api_calls.py counts them in a live one.

    :param netstat: mapped tasks of that name
    :param sweep: mapped tasks of that name
    """
    # fetch_hosts, prune_inventory, plan_sweep, plan_hosts, diff_ports, route_alerts; what is skipped or empty never
    # starts: four alert tasks and no_change.
    steps, unstarted = 6, 5
    mapped = netstat + sweep
    return {
        # A task that is mapped over nothing is one that is skipped.
        "task_instance": steps + unstarted + max(netstat, 1) + max(sweep, 1),
        "xcom": 6 + sweep,
        # "running" and "success".
        "log": 2 * (steps + mapped),
        "files": steps + mapped,
    }


DAILY = {
    "en": ("hosts", "every", "mapped tasks of a run", "task instances", "XComs", "audit log", "log files"),
    "zh": ("主机数", "间隔", "一次运行的映射任务", "任务实例", "XCom", "审计日志", "日志文件"),
}


def daily(language: Literal["en", "zh"]) -> str:
    """What Airflow accumulates in a day, by hosts and interval."""
    lines = [f"| {' | '.join(DAILY[language])} |", "| --: | --: | --- | --: | --: | --: | --: |"]
    scan = Config().scan
    for hosts, alone in ((50, True), (200, True), (1000, False), (10_000, False)):
        batches = 0 if alone else min(MAX_BATCHES, -(-hosts // scan.batch_hosts))
        one = left_behind(netstat=hosts if alone else 0, sweep=batches)
        told = f"{hosts} `netstat`" if alone else f"{batches} `sweep`"
        if alone and hosts > scan.sweep_above:
            told += f" (`scan.sweep_above: {hosts}`)"
        for minutes in (5, 1):
            cells = [f"{hosts:,}", f"{minutes} min", told]
            cells += [f"{count * 24 * 60 // minutes:,}" for count in one.values()]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def message(language: Literal["en", "zh"]) -> str:
    """A mail about two services that died in one run, as portmon renders it."""
    at = datetime(2026, 3, 9, 3, 10, tzinfo=UTC)
    died = (
        ("web1", 443, "nginx", "nginx.service"),
        ("web1", 9100, "node_exporter", "node_exporter.service"),
        ("db1", 5432, "postgres", "postgresql@17-main.service"),
    )
    events = [
        Event(
            id=f"{number:032x}", kind=EventKind.DOWN, at=at, run_id="", host_id=host, host_name=host, protocol="tcp", port=port,
            severity=EventKind.DOWN.usual.severity, program=program, unit=unit, last_seen=at - timedelta(minutes=5),
        )
        for number, (host, port, program, unit) in enumerate(died)
    ]  # fmt: skip
    alerts = [Alert(id=one.id, role=AlertRole.FIRING, event=one, first=one, starts_at=at) for one in events]
    site = "https://airflow.example.com/portmon"
    sent = render(
        alerts,
        AlertGroup.DOWN,
        layout=Layout(language=language),
        link=lambda _: None,
        page=f"{site}/",
        page_of=lambda event: f"{site}/hosts/{event.host_id}",
    )
    return f"```text\nSubject: {sent.title}\n\n{sent.text.strip()}\n```"


def filled(text: str, **tables: str) -> str:
    """A page with its tables as the code has them, between comments that have their names."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + table + end + rest.split(end)[1]
    return text


def main(arguments: list[str]) -> int:
    """Write, or check.

    :returns: exit code
    """
    page = ROOT / "docs" / "states.md"
    operations: dict[Path, Literal["en", "zh"]] = {
        ROOT / "docs" / "operations.md": "en",
        ROOT / "docs" / "zh" / "operations.md": "zh",
    }
    readmes: dict[Path, Literal["en", "zh"]] = {ROOT / "README.md": "en", ROOT / "README.zh-CN.md": "zh"}
    wanted = {
        page: states(page.read_text(encoding="utf-8")),
        **{page: filled(page.read_text(encoding="utf-8"), daily=daily(told)) for page, told in operations.items()},
        **{page: filled(page.read_text(encoding="utf-8"), message=message(told)) for page, told in readmes.items()},
        ROOT / "config" / "portmon.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        ROOT / "docs" / "configuration.md": reference(),
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `python tools/docs.py`", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
