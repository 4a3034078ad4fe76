"""``config/portmon.yaml``: its models are the one source of validation, schema and reference docs.

:func:`load_config` reads a file and reports every mistake with file, line and field. Nothing here
imports Airflow; where the file is comes from :mod:`portmon.settings`.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import jmespath
import yaml
from jmespath.exceptions import JMESPathError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from portmon import limits
from portmon.errors import ConfigError, InvalidConfigError

# ── scalar types ────────────────────────────────────────────────────────────────────────────────

_UNITS = {
    "ms": 0.001,
    "s": 1,
    "sec": 1,
    "m": 60,
    "min": 60,
    "h": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
    "w": 604800,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_DURATION_PATTERN = r"^\s*(\d+(\.\d+)?\s*(ms|s|sec|m|min|h|d|day|days|w)\s*)+$"


def parse_duration(value: object) -> timedelta:
    """Seconds as a number, or text such as ``15s``, ``10 min``, ``1h 30m``, ``14d``.

    :raises ValueError: for anything else, negative numbers included
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("give a duration such as 15s, 10min, 1h or 14d, or a number of seconds")
    if isinstance(value, int | float):
        if not 0 <= value < 1e9:
            raise ValueError("a duration must not be negative")
        return timedelta(seconds=value)
    text = value.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return timedelta(seconds=float(text))
    parts = _DURATION.findall(text)
    left = _DURATION.sub("", text).strip()
    if not parts or left or any(unit not in _UNITS for _, unit in parts):
        raise ValueError(f"{value!r} is not a duration: give for instance 15s, 10min, 1h or 14d")
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))


def format_duration(value: timedelta) -> str:
    """The shortest text that :func:`parse_duration` reads back, ``90s`` as ``1m 30s``."""
    seconds = value.total_seconds()
    if seconds != int(seconds):
        return f"{seconds:g}s"
    parts = []
    rest = int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": _DURATION_PATTERN},
            ],
            "examples": ["15s", "10min", "1h", "14d"],
        }
    ),
]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]

_SIZES = {"": 1, "b": 1, "kib": 1024, "kb": 1024, "k": 1024, "mib": 1024**2, "mb": 1024**2, "m": 1024**2}


def parse_size(value: object) -> int:
    """Bytes as a number, or text such as ``4MiB`` or ``512 KiB``.

    :raises ValueError: for anything else
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+)\s*([a-zA-Z]*)\s*", value) if isinstance(value, str) else None
    if not match or match[2].lower() not in _SIZES:
        raise ValueError(f"{value!r} is not a size: give for instance 4MiB, 512KiB or bytes")
    return int(match[1]) * _SIZES[match[2].lower()]


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^\s*\d+\s*([kKmM]([iI]?[bB])?|[bB])?\s*$"},
            ],
            "examples": ["4MiB"],
        }
    ),
]
PortNumber = Annotated[int, Field(ge=1, le=65535)]


def parse_ports(value: object) -> tuple[tuple[int, int], ...]:
    """Ports and ranges as inclusive pairs: ``443``, ``"8000-8100"``, a list of these, ``"80,443"``.

    :raises ValueError: naming the item that is neither
    """
    if isinstance(value, list | tuple):
        return tuple(pair for item in value for pair in parse_ports(item))
    if isinstance(value, str) and "," in value:
        return parse_ports(value.split(","))
    match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", str(value))
    if match and not isinstance(value, bool):
        low, high = int(match[1]), int(match[2] or match[1])
        if 1 <= low <= high <= 65535:
            return ((low, high),)
    raise ValueError(f"{value!r} is no port (1 to 65535) and no range such as 8000-8100")


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _bind_scope(value: str) -> str:
    if value in ("loopback", "wildcard"):
        return value
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError as error:
        raise ValueError(f"{value!r} is neither loopback, wildcard nor a network such as 10.0.0.0/8") from error


def _no_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _jmespath(value: str) -> str:
    try:
        jmespath.compile(value)
    except JMESPathError as error:
        raise ValueError(f"{value!r} is no JMESPath expression: {str(error).splitlines()[0]}") from error
    return value


def _query_value(value: object) -> object:
    """true and false as query strings have them."""
    if not isinstance(value, str | int):
        raise ValueError("give a text, a number, true or false, or a list of these")
    return str(value).lower() if isinstance(value, bool) else value


Text = Annotated[str, AfterValidator(_no_empty)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_one_or_many)]
Expression = Annotated[str, AfterValidator(_jmespath)]
LabelExpressions = Annotated[
    Annotated[Expression, Tag("expression")] | Annotated[Mapping[Text, Expression | None], Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, Mapping) else "expression"),
]
"""One expression for all labels, or one for each; None leaves out what a preset has under that name."""
QueryScalar = Annotated[str | int, BeforeValidator(_query_value)]
QueryValue = Annotated[
    Annotated[QueryScalar, Tag("one")] | Annotated[tuple[QueryScalar, ...], Tag("many")],
    Discriminator(lambda value: "many" if isinstance(value, list | tuple) else "one"),
]
"""A query parameter; a list is given as often as it has items."""
Glob = Annotated[str, AfterValidator(_no_empty)]
Globs = Annotated[tuple[Glob, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
BindScopes = Annotated[
    tuple[Annotated[str, AfterValidator(_bind_scope)], ...], BeforeValidator(_one_or_many), Field(min_length=1)
]
PortRanges = Annotated[
    tuple[tuple[int, int], ...],
    BeforeValidator(parse_ports),
    Field(min_length=1),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string"},
                {"type": "array", "minItems": 1, "items": {"type": ["integer", "string"]}},
            ],
            "examples": [443, "8000-8100", [22, "8000-8100"]],
        }
    ),
]


def _globs_schema(description: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}],
            "description": description,
        }
    )


class _Section(BaseModel):
    """Unknown fields are errors: a typing mistake must not silently mean the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, hide_input_in_errors=True)


# ── cmdb ────────────────────────────────────────────────────────────────────────────────────────


class CmdbFields(_Section):
    """JMESPath expressions, applied to one entry of the list, that say where its fields are."""

    id: Expression = Field("id", description="stable id; a number is taken as text. The key of a host's whole history.")
    name: Expression = Field("name", description="name shown to people")
    address: Expression = Field(
        "address",
        description="name or IP address to connect to; `10.0.0.1/24` loses its mask, and of several, separated by "
        "commas, the first counts",
    )
    port: Expression | None = Field("port", description="SSH port; absent or null means the connection's")
    labels: LabelExpressions | None = Field(
        "labels",
        description="one expression that gives a mapping, or a list of `key=value` texts or plain tags; or a mapping "
        "of label name to expression. A name that ends in `*` gets one label for each item of a list or mapping: "
        "`tag_*: tags` makes `tag_web: true`. Values become text, null is no label",
    )
    declared: Expression | None = Field(
        None, description="TCP ports that must listen on the host: a number, text such as `80,443`, or a list of these"
    )
    enabled: Expression | None = Field(
        None,
        description="an entry for which this is false, null or empty is left out, as if it were not in the CMDB",
    )


class FileFields(CmdbFields):
    """JMESPath expressions, applied to one entry of the file, that say where its fields are."""

    declared: Expression | None = Field(
        "declared",
        description="TCP ports that must listen on the host: a number, text such as `80,443` or `80;443`, or a list "
        "of these",
    )


class PresetFields(_Section):
    """Other places for some fields, as in `fields` of `type: http`. What is not given is where the preset has it."""

    id: Expression | None = Field(None, description="stable id")
    name: Expression | None = Field(None, description="name shown to people")
    address: Expression | None = Field(None, description="name or IP address to connect to")
    port: Expression | None = Field(None, description="SSH port")
    labels: LabelExpressions | None = Field(
        None,
        description="a mapping adds to the preset's labels: a name that the preset has gets this expression, null "
        "leaves it out. One expression replaces them all",
    )
    declared: Expression | None = Field(None, description="TCP ports that must listen on the host")
    enabled: Expression | None = Field(None, description="an entry for which this is false, null or empty is left out")


class NoPagination(_Section):
    """One request gives everything."""

    style: Literal["none"] = "none"


class NextLinkPagination(_Section):
    """Every page names the next one."""

    style: Literal["next_link"]
    next: Expression = Field("next", description="JMESPath to the next page's URL; null or absent on the last page")


class PagePagination(_Section):
    """Pages are numbered."""

    style: Literal["page"]
    param: Text = Field("page", description="query parameter with the page number")
    first: Annotated[int, Field(ge=0)] = Field(1, description="number of the first page")
    size_param: Text | None = Field("page_size", description="query parameter with the page size")
    size: Annotated[int, Field(ge=1)] = Field(100, description="entries per page to ask for")


class OffsetPagination(_Section):
    """Pages start at an offset."""

    style: Literal["offset"]
    offset_param: Text = Field("offset", description="query parameter with the offset")
    limit_param: Text = Field("limit", description="query parameter with the page size")
    size: Annotated[int, Field(ge=1)] = Field(100, description="entries per page to ask for")


Pagination = Annotated[
    NoPagination | NextLinkPagination | PagePagination | OffsetPagination, Field(discriminator="style")
]


class HttpSource(_Section):
    """The host list comes from a JSON API. Base URL and credentials are in the Airflow connection."""

    type: Literal["http"] = "http"
    conn_id: Text = Field("cmdb_default", description="Airflow HTTP connection")
    endpoint: str = Field("", description="path below the connection's host, for instance `api/hosts`")
    method: Literal["GET", "POST"] = Field("GET", description="HTTP method")
    params: Mapping[str, QueryValue] = Field(
        default_factory=dict, description="query parameters of every page; a list is given item by item"
    )
    json_body: Mapping[str, Any] | None = Field(
        None,
        description="JSON body of a POST; paging parameters are put into it instead of the query, `page.start` into "
        "its `page`",
    )
    headers: Mapping[str, str] = Field(
        default_factory=dict, description="request headers without secrets; tokens belong into the connection"
    )
    items: Expression = Field("@", description="JMESPath to the list of entries within one answer")
    total: Expression | None = Field(
        None,
        description="JMESPath to the total number of entries; a list of another length is refused as incomplete. "
        "Recommended wherever there are pages: without it pages are read until an empty one, and a list that lost some "
        "of its entries on the way is believed unless too many are missing",
    )
    unique: Expression | None = Field(
        None,
        description="JMESPath to what no two entries share (a primary key): if an entry comes on two pages, the list "
        "changed while it was read",
    )
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        3, description="how often a list that changes while its pages are read is read, before it is refused"
    )
    pagination: Pagination = Field(default_factory=NoPagination, description="how further pages are asked for")
    timeout: PositiveDuration = Field(
        timedelta(seconds=30), description="per request, to the last byte; all pages together have 5 minutes"
    )
    max_pages: Annotated[int, Field(ge=1)] = Field(1000, description="more pages than this are an error, not a list")
    fields: CmdbFields = Field(default_factory=CmdbFields, description="where the fields of an entry are")


class NetboxSource(_Section):
    """Devices and virtual machines of NetBox. URL and token are in the Airflow connection."""

    type: Literal["netbox"]
    conn_id: Text = Field("cmdb_default", description="Airflow HTTP connection")
    devices: bool = Field(True, description="read devices")
    virtual_machines: bool = Field(True, description="read virtual machines")
    status: Texts = Field(("active",), description="a status or a list of these; an empty list for any")
    params: Mapping[str, QueryValue] = Field(
        default_factory=dict, description="more filters for both, for instance `{role: [web, db], site: ber1}`"
    )
    device_params: Mapping[str, QueryValue] = Field(default_factory=dict, description="filters for devices only")
    virtual_machine_params: Mapping[str, QueryValue] = Field(
        default_factory=dict, description="filters for virtual machines only"
    )
    page_size: Annotated[int, Field(ge=2)] = Field(200, description="entries per page to ask for")
    timeout: PositiveDuration = Field(timedelta(seconds=30), description="per request")
    max_pages: Annotated[int, Field(ge=1)] = Field(1000, description="more pages than this are an error, not a list")
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        3, description="how often a list that changes while its pages are read is read, before it is refused"
    )
    fields: PresetFields = Field(default_factory=PresetFields, description="where fields are, if not where usual")

    @model_validator(mode="after")
    def _reads_something(self) -> NetboxSource:
        if not (self.devices or self.virtual_machines):
            raise ValueError("devices and virtual_machines are both off: nothing is left to read")
        return self


class HttpSdSource(_Section):
    """Targets of a Prometheus HTTP service discovery. URL and credentials are in the Airflow connection."""

    type: Literal["http_sd"]
    conn_id: Text = Field("cmdb_default", description="Airflow HTTP connection")
    endpoint: str = Field("", description="path below the connection's host")
    params: Mapping[str, QueryValue] = Field(default_factory=dict, description="query parameters")
    timeout: PositiveDuration = Field(timedelta(seconds=30), description="of the request")
    target_port: bool = Field(
        False, description="take the target's port as SSH port; it is an exporter's, as a rule, and not used"
    )
    meta_labels: Texts = Field((), description="globs: labels that begin with `__` and are labels of the host too")
    fields: PresetFields = Field(default_factory=PresetFields, description="where fields are, if not where usual")


class FileSource(_Section):
    """The host list is a YAML or CSV file, for those who have no CMDB."""

    type: Literal["file"]
    path: Text = Field(description="`.yaml`, `.yml` or `.csv`; relative to the folder of portmon.yaml")
    items: Expression = Field("@", description="JMESPath to the list of entries (YAML)")
    fields: FileFields = Field(default_factory=FileFields, description="where the fields of an entry are")


class AnsibleSource(_Section):
    """The host list is an Ansible inventory file, or what `ansible-inventory --list` printed."""

    type: Literal["ansible"]
    path: Text = Field(description="file; relative to the folder of portmon.yaml")
    format: Literal["auto", "ini", "yaml", "json"] = Field(
        "auto",
        description="`auto` goes by the name: `.yaml` and `.yml` are YAML, `.json` is the output of "
        "`ansible-inventory --list`, everything else is INI",
    )
    ignore_vars_folders: bool = Field(
        False,
        description="read the file although a `group_vars` or `host_vars` folder lies beside it, whose variables are "
        "not read",
    )
    fields: PresetFields = Field(default_factory=PresetFields, description="where fields are, if not where usual")


HttpSources = HttpSource | NetboxSource | HttpSdSource
FileSources = FileSource | AnsibleSource


class Cmdb(_Section):
    """Where the host list comes from, and what happens to hosts that leave it."""

    source: Annotated[HttpSources | FileSources, Field(discriminator="type")] = Field(
        default_factory=HttpSource, description="the one source of hosts"
    )
    stale_after: Duration = Field(
        timedelta(hours=1), description="alert when the last good list is older than this; the scan goes on with it"
    )
    prune_after: Duration = Field(
        timedelta(hours=1),
        description="a host that left is hidden at once; its port data is deleted after this. 0 is at once",
    )
    max_prune_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="refuse to prune when more than this share of (more than 5) hosts is missing"
    )


# ── ssh and scan ────────────────────────────────────────────────────────────────────────────────


class HostMatch(_Section):
    """Which hosts. Everything given must match; of a list, one item must."""

    host: Annotated[Globs | None, _globs_schema("globs on the host's name")] = Field(
        None, description="glob or list of globs on the host's name"
    )
    label: Mapping[str, Annotated[Globs, _globs_schema("globs on the label's value")]] | None = Field(
        None, description="label name: glob or list of globs on its value"
    )


class SshSettings(_Section):
    """How to log in. A group overrides what it names, the rest comes from `ssh` itself."""

    conn_id: Text = Field("ssh_default", description="Airflow SSH connection: user, key, jump host, options")
    port: PortNumber | None = Field(
        None, description="SSH port where the CMDB has none; default: the connection's, or 22"
    )
    user: Text | None = Field(None, description="login name; default: the connection's")
    connect_timeout: PositiveDuration = Field(
        timedelta(seconds=10), description="for TCP, banner and login, each; see `scan.confirm_after`"
    )
    command_timeout: PositiveDuration = Field(
        timedelta(seconds=20), description="deadline for the whole command, however slowly it drips"
    )
    max_output: Annotated[Size, Field(ge=1024)] = Field(4 * 1024**2, description="a longer answer is invalid")
    sudo: bool = Field(False, description="run the listing with `sudo -n` where we are not root, to see all programs")


class SshGroup(SshSettings):
    """Hosts with settings of their own. The first group that matches a host counts."""

    name: Text = Field(description="shown in logs")
    match: HostMatch = Field(description="which hosts")


class Ssh(SshSettings):
    """Logins: parallelism, host keys, and settings per group of hosts."""

    max_logins: Annotated[int, Field(ge=1, le=1024)] = Field(
        16, description="hosts that are asked at the same time in one run; a change makes a new DAG version"
    )
    host_keys: Literal["accept-new", "strict"] = Field(
        "accept-new",
        description="`accept-new` trusts a host's first key, keeps it in the database and refuses any other; "
        "`strict` trusts only known_hosts and the connection's `host_key`",
    )
    known_hosts: Text | None = Field(None, description="known_hosts file; default: that of the worker's user, if any")
    groups: tuple[SshGroup, ...] = Field((), description="settings per group of hosts; first match counts")


class Scan(_Section):
    """One look at a host."""

    pool: Text | None = Field(
        None, description="Airflow pool for the netstat tasks; it must exist. Default: Airflow's default_pool"
    )
    confirm_after: Duration = Field(
        timedelta(seconds=15),
        description="when a watched port is missing, ask once more after this, over the same connection. A look may "
        "take 90 seconds: 3 x `connect_timeout` + 2 x `command_timeout` + this must fit, in every group",
    )


# ── rules, states ───────────────────────────────────────────────────────────────────────────────


class Rule(HostMatch):
    """One line of the ordered list: first match wins. Everything given must match.

    A port that no rule matches is watched, unless the host part (`host`, `label`) of some `allow` rule matches
    its host: there, only what is allowed is watched. An `allow` rule without a host part matches every host, so
    that nothing but what is allowed is watched anywhere; `python -m portmon check` says which hosts these are.
    """

    action: Literal["allow", "deny"] = Field(description="`allow` watches what matches, `deny` ignores it")
    port: PortRanges | None = Field(None, description="port, range such as `8000-8100`, or a list")
    program: Annotated[Globs | None, _globs_schema("globs on the program's name")] = Field(
        None, description="glob or list of globs on the program's name; an unknown program matches none"
    )
    bind: Annotated[BindScopes | None, _globs_schema("loopback, wildcard, or networks")] = Field(
        None, description="`loopback`, `wildcard`, a network such as `10.0.0.0/8`, or a list"
    )
    comment: str = Field("", description="why; shown where the rule decided something")

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if not any((self.host, self.label, self.port, self.program, self.bind)):
            raise ValueError("give at least one of host, label, port, program, bind (host: '*' matches every host)")
        return self


class Declaration(HostMatch):
    """Ports that must listen on some hosts: one that does not is down from the first observation."""

    port: PortRanges = Field(description="port or list; of a range every port must listen")
    comment: str = Field("", description="why; shown in events")

    @model_validator(mode="after")
    def _is_small(self) -> Declaration:
        if sum(high - low + 1 for low, high in self.port) > 1000:
            raise ValueError("declares more than 1000 ports")
        return self


class States(_Section):
    """When a change counts."""

    down_after: Annotated[int, Field(ge=1)] = Field(
        1, description="runs in a row in which a port is missing (each one confirmed) before it is down"
    )
    unreachable_after: Annotated[int, Field(ge=1)] = Field(
        2, description="tried runs in a row without evidence before a host is unreachable"
    )
    ephemeral_after: Annotated[int, Field(ge=1)] = Field(
        3, description="observations in a row before a port in the host's ephemeral range is watched"
    )
    flap_threshold: Annotated[int, Field(ge=2)] = Field(
        4,
        description="changes (down or back) within `flap_window` that make a port flapping: one message, then silence",
    )
    flap_window: PositiveDuration = Field(
        timedelta(hours=1),
        description="see `flap_threshold`; at least 12 intervals. A port that held still for it is stable",
    )
    reboot_grace: Duration = Field(
        timedelta(minutes=10), description="time that services have to come back after a reboot of their host"
    )
    retire_after: PositiveDuration = Field(
        timedelta(days=30), description="a port that is down for this long is not watched any more"
    )


# ── alerts, retention ───────────────────────────────────────────────────────────────────────────


class LogChannel(_Section):
    """The alert task's own log."""

    type: Literal["log"]
    name: Text = Field("log", description="unique name")


class AppriseChannel(_Section):
    """Apprise: DingTalk, WeCom, Feishu, Slack, PagerDuty, mail and 100 more."""

    type: Literal["apprise"]
    name: Text = Field("apprise", description="unique name")
    conn_id: Text = Field("apprise_default", description="Airflow Apprise connection with the target URLs")


class NotifierChannel(_Section):
    """Any Airflow notifier class."""

    type: Literal["notifier"]
    name: Text = Field(description="unique name")
    notifier: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*\.[A-Za-z_]\w*$")] = Field(
        description="class, for instance `airflow.providers.smtp.notifications.smtp.SmtpNotifier`"
    )
    arguments: Mapping[str, Any] = Field(
        default_factory=dict,
        description="its arguments; a value that is exactly `$title`, `$text` or `$html` becomes that part of the "
        "message, at any depth. Nothing else is replaced and nothing is rendered as a template. A class with "
        "`subject` and `html_content` (mail) gets `$title` and `$html` there unless they are given",
    )


Channel = Annotated[LogChannel | AppriseChannel | NotifierChannel, Field(discriminator="type")]


class Alerts(_Section):
    """Who hears of events."""

    channels: tuple[Channel, ...] = Field(
        (LogChannel(type="log"),), description="each one gets every alert; default: the task log"
    )
    language: Literal["en", "zh"] = Field("en", description="language of messages")
    max_lines: Annotated[int, Field(ge=1)] = Field(50, description="a message lists at most this many events")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Alerts:
        names = [channel.name for channel in self.channels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two channels are named {', '.join(map(repr, twice))}: give each a `name` of its own")
        return self


class Retention(_Section):
    """How long things are kept."""

    observations: PositiveDuration = Field(timedelta(days=14), description="archived observations and run records")
    events: PositiveDuration = Field(timedelta(days=365), description="events that were delivered or concern nobody")


class Config(_Section):
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

    def where(self, *location: str | int) -> str:
        """``portmon.yaml:31: rules[2]`` for a location such as ``("rules", 2)``."""
        name = _dotted(location)
        line = self._lines.get(location)
        return f"{self._path.name}:{line}: {name}" if self._path and line else name


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def load_config(path: Path) -> Config:
    """Read and validate one file.

    :raises InvalidConfigError: with every mistake, each with file, line and field
    :raises ConfigError: if the file can't be read or is no YAML
    """
    shown = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("no such file", file=shown) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't be read: {error}", file=shown) from error
    return parse_config(text, path=path)


def parse_config(text: str, *, path: Path | None = None) -> Config:
    """Validate YAML text.

    :param path: where it came from, for messages and for relative file names
    :raises InvalidConfigError: see :func:`load_config`
    """
    shown = str(path) if path else "portmon.yaml"
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines, doubles = _index(node)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(filter(None, (error.problem, error.context))) or "is no YAML"
        raise ConfigError(message, file=shown, line=mark.line + 1 if mark else None) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"is no YAML: {error}", file=shown) from error
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
    too_long = [
        ConfigError(message, file=shown, line=lines.get(location), field=_dotted(location))
        for location, message in _too_long(config)
    ]
    if too_long:
        raise InvalidConfigError(tuple(too_long))
    return config


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
        if sum(parts.values(), timedelta(0)) <= limits.LOOK:
            continue
        own = [place for place in parts if place in config._lines and (group is None or place[:-1] == at)]
        if own:
            yield (
                max(own, key=parts.__getitem__),
                f"3 x connect_timeout ({format_duration(settings.connect_timeout)}) + 2 x command_timeout "
                f"({format_duration(settings.command_timeout)}) + scan.confirm_after "
                f"({format_duration(config.scan.confirm_after)}) is more than the {format_duration(limits.LOOK)} that "
                "one look at a host may take: no look would ever confirm that a port is missing",
            )


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
    sources = {"http", "netbox", "http_sd", "file", "ansible"}
    tags = {*sources, "none", "next_link", "page", "offset", "log", "apprise", "notifier"}
    kept: list[str | int] = []
    for number, part in enumerate(location):
        parent = location[number - 1] if number else None
        union = parent in ("source", "pagination") or (isinstance(parent, int) and "channels" in location[:number])
        if part in tags and union:
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
