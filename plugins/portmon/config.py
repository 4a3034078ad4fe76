"""Read portmon.yaml; every mistake is reported with file, line and field."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PrivateAttr, ValidationError

from portmon import timeouts
from portmon.alerting.config import Alerts
from portmon.engine.config import Declaration, States
from portmon.engine.rules import Rule, RuleSet
from portmon.errors import ConfigError, InvalidConfigError
from portmon.fields import PositiveDuration, Section, Size, format_duration
from portmon.inventory.config import Cmdb
from portmon.matching import matches_host
from portmon.model.host import Host
from portmon.model.numbers import UDP
from portmon.scan.config import Scan
from portmon.ssh.config import HostSettings, Ssh, SshGroup, SshSettings
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import DocumentError, compose_yaml, read_text

Location = tuple[str | int, ...]


class Retention(Section):
    """How long things are kept."""

    observations: PositiveDuration = Field(timedelta(days=14), description="archived observations and run records")
    events: PositiveDuration = Field(timedelta(days=365), description="events that were delivered or go to no channel")
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
    scan: Scan = Field(default_factory=Scan, description="visits of hosts")
    rules: tuple[Rule, ...] = Field((), description="what is watched; empty: every listening TCP port")
    declared: tuple[Declaration, ...] = Field((), description="ports that must listen, besides what the CMDB declares")
    states: States = Field(default_factory=States, description="when a change counts")
    alerts: Alerts = Field(default_factory=Alerts, description="which channels get events")
    retention: Retention = Field(default_factory=Retention, description="how long things are kept")

    _path: Path | None = PrivateAttr(None)
    _lines: dict[Location, int] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The file that it was read from, None for the defaults."""
        return self._path

    @property
    def templates(self) -> Path | None:
        """The folder with templates of messages of the user's own."""
        folder = self.alerts.templates
        return None if folder is None else (self._path.parent if self._path else Path()) / folder

    def to_json(self) -> bytes:
        """The archived form: equal settings give equal bytes."""
        return self.model_dump_json().encode()

    def where(self, *location: str | int) -> str:
        """``portmon.yaml:31: rules[2]`` for a location such as ``("rules", 2)``."""
        name = _dotted(location)
        line = self._lines.get(location)
        return f"{self._path.name}:{line}: {name}" if self._path and line else name


def load_config(path: Path) -> Config:
    """Read and validate a file. It is read at each call, and validated again only if its text changed.

    :raises InvalidConfigError: with every mistake, each with file, line and field
    :raises ConfigError: if the file can't be read or is no YAML
    """
    if not path.exists():
        raise ConfigError("no such file", file=str(path))
    try:
        text = read_text(path)
    except DocumentError as error:
        raise ConfigError(error.message, file=str(path)) from error
    return _parsed(text, path)


@lru_cache(maxsize=1)
def _parsed(text: str, path: Path) -> Config:
    # A Config never changes, so one object serves all callers. Tasks inherit it from the process that forked them, see
    # portmon.airflow.preload.
    return parse_config(text, path=path)


def parse_config(text: str, *, path: Path | None = None) -> Config:
    """Validate YAML text.

    :param path: of the file, for messages and for relative file names in it
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

    def refuse(mistakes: Iterable[tuple[str, Location, int | None]]) -> None:
        errors = [ConfigError(told, file=shown, line=line, field=_dotted(at)) for told, at, line in mistakes]
        if errors:
            raise InvalidConfigError(tuple(errors))

    refuse(("is given twice", at, line) for at, line in doubles)
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError("must be a mapping of sections such as cmdb, ssh, rules", file=shown, line=1)
    try:
        config = Config.model_validate({key: value for key, value in data.items() if value is not None})
    except ValidationError as error:
        refuse(sorted(_explained(error, lines), key=lambda one: (one[2] or 0, _dotted(one[1]))))
        raise
    config._path, config._lines = path, lines
    alerts = ((("alerts", *place), told) for place, told in config.alerts.mistakes())
    at_odds = (*_too_long(config), *_doubled_groups(config), *alerts)
    refuse((told, at, lines.get(at)) for at, told in at_odds)
    return config


def _too_long(config: Config) -> Iterable[tuple[Location, str]]:
    # With these time settings a visit would reach its task's limit before a second answer confirms a missing port. The
    # error is at the setting that takes most of the time.
    for number, group in [(None, None), *enumerate(config.ssh.groups)]:
        settings = ssh_settings(config, group=group)
        at: Location = ("ssh",) if number is None else ("ssh", "groups", number)
        # TCP, banner with key exchange, and login have the connect time-out each. Then come two answers with a pause.
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
    # A plan names the group of a host, so names must be unique.
    names = [group.name for group in config.ssh.groups]
    for number, name in enumerate(names):
        if name in names[:number]:
            yield ("ssh", "groups", number, "name"), f"another group is named {name!r} as well"


def _index(node: yaml.Node | None) -> tuple[dict[Location, int], list[tuple[Location, int]]]:
    """1-based line of every key and item, and the keys that are given twice."""
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


def _explained(error: ValidationError, lines: Mapping[Location, int]) -> Iterable[tuple[str, Location, int | None]]:
    for item in error.errors(include_url=False, include_input=False):
        location, _ = _in_file(item["loc"])
        # The longest part that the file has.
        known = next((location[:size] for size in range(len(location), 0, -1) if location[:size] in lines), None)
        message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown field{_suggestion(item['loc'])}"
        elif item["type"] == "missing":
            message = "is missing"
        else:
            # Inner levels of a union do not show.
            location = known or location
        if item["type"] == "union_tag_not_found":
            message = f"{item['ctx']['discriminator'].strip(chr(39))} is missing: it says which kind this is"
        elif item["type"] == "model_type":
            message = "must be a mapping of fields"
        yield message, location, lines[known] if known else None


def _in_file(location: Location) -> tuple[Location, list[str]]:
    """A location as it is in the file, and the names of the fields that may stand below it.

    pydantic puts the tag of a union's member into a location; the file has no such level. Which parts are tags is read
    from the schema that pydantic validates by (https://docs.pydantic.dev/latest/api/pydantic_core_schema/).
    """
    schema = _bare(Config.__pydantic_core_schema__)
    kept: list[str | int] = []
    for part in location:
        if schema["type"] == "tagged-union" and part in schema["choices"]:
            schema = _bare(schema["choices"][part])
        else:
            kept.append(part)
            schema = _bare(_below(schema, part))
    # An alias is the name that the file knows.
    names = [field.get("validation_alias") or name for name, field in schema.get("fields", {}).items()]
    return tuple(kept), names


def _bare(schema: Any) -> Any:
    """A schema without defaults, validators and the like around it."""
    while "schema" in schema or schema["type"] == "definition-ref":
        # A section that two others have is kept apart.
        schema = schema["schema"] if "schema" in schema else _definitions()[schema["schema_ref"]]
    return schema


def _definitions() -> Mapping[str, Any]:
    return {one["ref"]: one for one in Config.__pydantic_core_schema__.get("definitions", ())}


def _below(schema: Any, part: str | int) -> Any:
    """The schema of a field, of a mapping's values or of a list's items."""
    for name, field in schema.get("fields", {}).items():
        if part in (name, field.get("validation_alias")):
            return field
    inner = schema.get("values_schema") or schema.get("items_schema") or {"type": "unknown"}
    return inner[0] if isinstance(inner, list) else inner


def _suggestion(location: Location) -> str:
    _, names = _in_file(location[:-1])
    if close := difflib.get_close_matches(str(location[-1]), names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(names)}" if names else ""


def json_schema() -> dict[str, Any]:
    """JSON schema of portmon.yaml, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "portmon.yaml"}


def ssh_settings(config: Config, *, group: SshGroup | None) -> HostSettings:
    """Settings in force for the hosts of a group: those that the group names, the rest from `ssh` and `scan`.

    :param group: None for hosts that no group matches
    """
    values = {name: getattr(config.ssh, name) for name in SshSettings.model_fields}
    if group is not None:
        values |= {name: getattr(group, name) for name in SshSettings.model_fields if name in group.model_fields_set}
    protocols = (group.protocols if group is not None else None) or config.scan.protocols
    return HostSettings.model_construct(**values, protocols=protocols)


def watches_udp(config: Config) -> Callable[[Host], bool] | None:
    """Whether UDP is watched on a host, as :class:`portmon.engine.rules.RuleSet` asks for it; None if it is on none."""
    groups = config.ssh.groups
    if not any(UDP in protocols for protocols in (config.scan.protocols, *(one.protocols or () for one in groups))):
        return None

    def watches(host: Host) -> bool:
        group = next((one for one in groups if matches_host(one.match, host)), None)
        return UDP in ssh_settings(config, group=group).protocols

    return watches


def rule_set(config: Config, *, ignored: Mapping[tuple[str, int], str] | None = None) -> RuleSet:
    """The rules in force.

    :param ignored: as :attr:`portmon.storage.decisions.Decided.ignored`
    """
    return RuleSet(config.rules, where=config.where, ignored=ignored, udp=watches_udp(config))
