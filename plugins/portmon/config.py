"""Reading portmon.yaml: every mistake with file, line and field."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from portmon import timeouts
from portmon.alerting.config import Alerts
from portmon.engine.config import Declaration, Rule, States
from portmon.errors import ConfigError, InvalidConfigError
from portmon.fields import PositiveDuration, Section, Size, format_duration
from portmon.inventory.config import Cmdb
from portmon.scan.config import Scan
from portmon.ssh.config import Ssh, SshGroup, SshSettings
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import DocumentError, compose_yaml, read_text


class Retention(Section):
    """How long things are kept."""

    observations: PositiveDuration = Field(timedelta(days=14), description="archived observations and run records")
    events: PositiveDuration = Field(timedelta(days=365), description="events that were delivered or concern nobody")
    per_host: Annotated[Size, Field(ge=1024)] = Field(
        20 * 1024**2,
        description="compressed bytes of answers that one host may add in a day (UTC). What is more is kept without "
        "the raw answer; from three times as much on an answer that says something new is no evidence, and the host "
        "counts a failure",
    )


class Config(Section):
    """The whole of portmon.yaml. Every section and every field has a default."""

    cmdb: Cmdb = Field(default_factory=Cmdb, description="where hosts come from")
    ssh: Ssh = Field(default_factory=Ssh, description="how to log in")
    scan: Scan = Field(default_factory=Scan, description="one look at a host")
    rules: tuple[Rule, ...] = Field((), description="what is watched; empty: every listening TCP port")
    declared: tuple[Declaration, ...] = Field((), description="ports that must listen, besides what the CMDB declares")
    states: States = Field(default_factory=States, description="when a change counts")
    alerts: Alerts = Field(default_factory=Alerts, description="who hears of events")
    retention: Retention = Field(default_factory=Retention, description="how long things are kept")

    _path: Path | None = PrivateAttr(None)
    _lines: dict[tuple[str | int, ...], int] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The file it was read from, None for the defaults."""
        return self._path

    def to_json(self) -> bytes:
        """As it is archived: equal settings give equal bytes."""
        return self.model_dump_json().encode()

    def where(self, *location: str | int) -> str:
        """``portmon.yaml:31: rules[2]`` for a location such as ``("rules", 2)``."""
        name = _dotted(location)
        line = self._lines.get(location)
        return f"{self._path.name}:{line}: {name}" if self._path and line else name


def load_config(path: Path) -> Config:
    """Read and validate one file. It is read each time; a text that was valid is not validated again.

    :raises InvalidConfigError: with every mistake, each with file, line and field
    :raises ConfigError: if the file can't be read or is no YAML
    """
    shown = str(path)
    if not path.exists():
        raise ConfigError("no such file", file=shown)
    try:
        text = read_text(path)
    except DocumentError as error:
        raise ConfigError(error.message, file=shown) from error
    return _parsed(text, path)


def parse_config(text: str, *, path: Path | None = None) -> Config:
    """Validate YAML text.

    :param path: where it came from, for messages and for relative file names
    :raises InvalidConfigError: see :func:`load_config`
    """
    shown = str(path) if path else "portmon.yaml"
    with boundary(lambda why: ConfigError(f"can't be used: {why}", file=shown), passing=ConfigError):
        return _validated(text, path, shown)


def _validated(text: str, path: Path | None, shown: str) -> Config:
    try:
        node, construct = compose_yaml(text)
        lines, doubles = _index(node)
        data = construct()
    except DocumentError as error:
        message = error.message if error.line else f"is no YAML: {error.message}"
        raise ConfigError(message, file=shown, line=error.line) from error
    if doubles:
        raise InvalidConfigError(
            tuple(
                ConfigError("is given twice", file=shown, line=line, field=_dotted(location))
                for location, line in doubles
            )
        )
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError("must be a mapping of sections such as cmdb, ssh, rules", file=shown, line=1)
    try:
        config = Config.model_validate({key: value for key, value in data.items() if value is not None})
    except ValidationError as error:
        raise InvalidConfigError(tuple(_explain(error, lines, shown))) from error
    config._path = path
    config._lines = lines
    at_odds = [
        ConfigError(message, file=shown, line=lines.get(location), field=_dotted(location))
        for location, message in (
            *_too_long(config),
            *_doubled_groups(config),
            *_reserved_names(config),
            *_unknown_channels(config),
        )
    ]
    if at_odds:
        raise InvalidConfigError(tuple(at_odds))
    return config


@lru_cache(maxsize=1)
def _parsed(text: str, path: Path) -> Config:
    # Nothing changes a Config: whoever asks for the same may have the same. Tasks inherit it from the process that
    # forked them, see portmon.airflow.preload.
    return parse_config(text, path=path)


def _too_long(config: Config) -> Iterable[tuple[Location, str]]:
    """Time settings with which a look at a host would not be over before its task's limit, and so never
    confirm that a port is missing; each with the one that takes most of the time.
    """
    for number, group in [(None, None), *enumerate(config.ssh.groups)]:
        settings = ssh_settings(config, group=group)
        at: Location = ("ssh",) if number is None else ("ssh", "groups", number)
        # TCP, banner with key exchange, and login have the connect time-out each; two answers, and the pause between.
        parts = {
            (*at, "connect_timeout"): 3 * settings.connect_timeout,
            (*at, "command_timeout"): 2 * settings.command_timeout,
            ("scan", "confirm_after"): config.scan.confirm_after,
        }
        if sum(parts.values(), timedelta(0)) <= timeouts.LOOK:
            continue
        own = [place for place in parts if place in config._lines and (group is None or place[:-1] == at)]
        if own:
            yield (
                max(own, key=parts.__getitem__),
                f"3 x connect_timeout ({format_duration(settings.connect_timeout)}) + 2 x command_timeout "
                f"({format_duration(settings.command_timeout)}) + scan.confirm_after "
                f"({format_duration(config.scan.confirm_after)}) is more than the {format_duration(timeouts.LOOK)} "
                "that one look at a host may take: no look would ever confirm that a port is missing",
            )


def _doubled_groups(config: Config) -> Iterable[tuple[Location, str]]:
    """A plan names the group of a host."""
    names: set[str] = set()
    for number, group in enumerate(config.ssh.groups):
        if group.name in names:
            yield ("ssh", "groups", number, "name"), f"another group is named {group.name!r} as well"
        names.add(group.name)


def _reserved_names(config: Config) -> Iterable[tuple[Location, str]]:
    for place, message in config.alerts.reserved_names():
        yield ("alerts", *place), message


def _unknown_channels(config: Config) -> Iterable[tuple[Location, str]]:
    names = ", ".join(channel.name for channel in config.alerts.channels)
    for place, name in config.alerts.unknown_channels():
        yield ("alerts", *place), f"there is no channel {name!r}; there are: {names or 'none'}"


Location = tuple[str | int, ...]


def _index(node: yaml.Node | None) -> tuple[dict[Location, int], list[tuple[Location, int]]]:
    """1-based line of every key and item, and the keys that occur twice."""
    lines: dict[Location, int] = {}
    doubles: list[tuple[Location, int]] = []

    def walk(node: yaml.Node | None, at: Location, open_nodes: frozenset[int]) -> None:
        if node is None or id(node) in open_nodes:
            return
        inside = open_nodes | {id(node)}
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = (*at, str(key.value))
                line = key.start_mark.line + 1
                if below in lines:
                    doubles.append((below, line))
                lines[below] = line
                walk(value, below, inside)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                lines[(*at, number)] = value.start_mark.line + 1
                walk(value, (*at, number), inside)

    walk(node, (), frozenset())
    return lines, doubles


def _dotted(location: Iterable[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _explain(error: ValidationError, lines: Mapping[Location, int], file: str) -> Iterable[ConfigError]:
    found = []
    for item in error.errors(include_url=False, include_input=False):
        location = _known_part(item["loc"], lines)
        message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if item["type"] == "extra_forbidden":
            location = _in_file(item["loc"])
            message = f"unknown field{_suggestion(item['loc'])}"
        elif item["type"] == "missing":
            location = _in_file(item["loc"])
            message = "is missing"
        elif item["type"] == "union_tag_not_found":
            message = f"{item['ctx']['discriminator'].strip(chr(39))} is missing: it says which kind this is"
        elif item["type"] == "model_type":
            message = "must be a mapping of fields"
        line = None
        for size in range(len(location), 0, -1):
            line = lines.get(location[:size])
            if line:
                break
        found.append(ConfigError(message, file=file, line=line, field=_dotted(location)))
    return sorted(found, key=lambda one: (one.line or 0, one.field or ""))


def _in_file(location: tuple[str | int, ...]) -> Location:
    """pydantic puts the tag of a discriminated union into the location; the file has no such level."""
    tags = {"log", "apprise", "alertmanager", "webhook", "notifier"}
    kept: list[str | int] = []
    for number, part in enumerate(location):
        parent = location[number - 1] if number else None
        if location[:number] == ("cmdb", "source") or parent == "pagination":
            continue
        if part in tags and isinstance(parent, int) and "channels" in location[:number]:
            continue
        if part in ("expression", "mapping") and parent == "labels":
            continue
        kept.append(part)
    return tuple(kept)


def _known_part(location: tuple[str | int, ...], lines: Mapping[Location, int]) -> Location:
    """The longest part of a location that the file has, so that inner union levels do not show."""
    clean = _in_file(location)
    for size in range(len(clean), 0, -1):
        if clean[:size] in lines:
            return clean[:size]
    return clean


def _suggestion(location: tuple[str | int, ...]) -> str:
    model: Any = Config
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        model = _step(model, part) or model
    names = list(getattr(model, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(names)}" if names else ""


def _step(model: Any, part: str) -> Any:
    """The model below a field, or the member of a union that a tag names."""
    members = [model] if isinstance(model, type) else list(model)
    for member in members:
        fields = getattr(member, "model_fields", {})
        if part in fields:
            inner = _models_in(fields[part].annotation)
            return inner[0] if len(inner) == 1 else inner
        for name in ("type", "style"):
            if name in fields and part in getattr(fields[name].annotation, "__args__", ()):
                return member
    return None


def _models_in(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    found: list[Any] = []
    for argument in getattr(annotation, "__args__", ()):
        found.extend(_models_in(argument))
    return tuple(found)


def json_schema() -> dict[str, Any]:
    """JSON schema of portmon.yaml, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "portmon.yaml"}


def ssh_settings(config: Config, *, group: SshGroup | None) -> SshSettings:
    """Settings in force for the hosts of a group: what the group names, over what `ssh` says.

    :param group: None for hosts that no group matches
    """
    values = {name: getattr(config.ssh, name) for name in SshSettings.model_fields}
    if group is not None:
        values |= {name: getattr(group, name) for name in SshSettings.model_fields if name in group.model_fields_set}
    return SshSettings.model_construct(**values)
