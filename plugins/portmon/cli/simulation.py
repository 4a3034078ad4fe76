"""``simulate``: what a history of observations gives."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from portmon.cli.options import ConfigOption, config_of
from portmon.cli.terminal import logs_aside


def simulate(
    history: Annotated[Path, typer.Argument(help="JSON lines, one observation each; - for stdin.")],
    config: ConfigOption = None,
    interval: Annotated[str, typer.Option(help="Time between scheduled runs.")] = "5min",
) -> None:
    """Print the events that a history of observations gives, one JSON object a line: to tune thresholds."""
    from portmon.api.simulate import simulate as run
    from portmon.api.simulate import to_json
    from portmon.fields import parse_duration

    try:
        length = parse_duration(interval)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--interval") from error
    with logs_aside():
        settings, _ = config_of(config)
    with _opened(history) as lines:
        for event in run(lines, settings, interval=length, name=str(history)):
            print(to_json(event))


@contextmanager
def _opened(path: Path) -> Iterator[Iterable[str]]:
    if str(path) == "-":
        yield sys.stdin
        return
    try:
        with path.open(encoding="utf-8") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        print(f"error: {path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        raise SystemExit(1) from error
