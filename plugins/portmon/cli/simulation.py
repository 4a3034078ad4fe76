"""``simulate``: the events that a recorded history gives."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from portmon.cli.options import ConfigOption, config_of
from portmon.cli.times import read_option


def simulate(
    history: Annotated[
        typer.FileText,
        typer.Argument(encoding="utf-8", errors="surrogateescape", help="JSON lines, one observation each, or -."),
    ],
    config: ConfigOption = None,
    interval: Annotated[str, typer.Option(help="Time between scheduled runs.")] = "5min",
) -> None:
    """Print the events that a recorded history gives, one JSON object a line. Use it to tune thresholds."""
    from portmon.api.simulate import simulate as run
    from portmon.fields import parse_duration

    length = read_option(parse_duration, interval, "--interval")
    settings, _ = config_of(config)
    for event in run(history, settings, interval=length):
        print(json.dumps(event.model_dump()))
