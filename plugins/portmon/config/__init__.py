"""``config/portmon.yaml``: its models are the one source of validation, schema and reference docs.

:func:`load_config` reads a file and reports every mistake with file, line and field. Nothing here
imports Airflow; where the file is comes from :mod:`portmon.settings`.
"""

from portmon.config.alerts import (
    DEFAULT_ROUTE,
    AlertmanagerChannel,
    Alerts,
    AppriseChannel,
    Channel,
    EventMatch,
    Heartbeat,
    Language,
    LogChannel,
    NotifierChannel,
    Route,
    WebhookChannel,
)
from portmon.config.cmdb import (
    AnsibleSource,
    Cmdb,
    CmdbFields,
    FileSource,
    FileSources,
    HttpSdSource,
    HttpSource,
    HttpSources,
    NetboxSource,
    NextLinkPagination,
    OffsetPagination,
    PagePagination,
    PresetFields,
)
from portmon.config.fields import (
    HostMatch,
    PortNumber,
    format_duration,
    parse_duration,
    parse_moment,
    parse_ports,
    parse_size,
)
from portmon.config.reading import Config, Retention, json_schema, load_config, parse_config, ssh_settings
from portmon.config.ssh import SshGroup, SshSettings
from portmon.config.watch import Declaration, Rule, States

__all__ = [
    "DEFAULT_ROUTE",
    "AlertmanagerChannel",
    "Alerts",
    "AnsibleSource",
    "AppriseChannel",
    "Channel",
    "Cmdb",
    "CmdbFields",
    "Config",
    "Declaration",
    "EventMatch",
    "FileSource",
    "FileSources",
    "Heartbeat",
    "HostMatch",
    "HttpSdSource",
    "HttpSource",
    "HttpSources",
    "Language",
    "LogChannel",
    "NetboxSource",
    "NextLinkPagination",
    "NotifierChannel",
    "OffsetPagination",
    "PagePagination",
    "PortNumber",
    "PresetFields",
    "Retention",
    "Route",
    "Rule",
    "SshGroup",
    "SshSettings",
    "States",
    "WebhookChannel",
    "format_duration",
    "json_schema",
    "load_config",
    "parse_config",
    "parse_duration",
    "parse_moment",
    "parse_ports",
    "parse_size",
    "ssh_settings",
]
