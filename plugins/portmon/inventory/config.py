"""Section ``cmdb``: where hosts come from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from portmon.fields import Duration, Expression, LabelExpressions, PositiveDuration, QueryValue, Section, Text, Texts


class CmdbFields(Section):
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
        description="an entry for which this is false, null, 0, empty, or a text that says no (`false`, `no`, `off`, "
        "`0`, `n`, `f`) is left out, as if it were not in the CMDB. A column of a CSV file says yes (`true`, `yes`, "
        "`on`, `1`, `y`, `t`) or no; anything else makes the entry invalid",
    )


class FileFields(CmdbFields):
    """JMESPath expressions, applied to one entry of the file, that say where its fields are."""

    declared: Expression | None = Field(
        "declared",
        description="TCP ports that must listen on the host: a number, text such as `80,443` or `80;443`, or a list "
        "of these",
    )


class PresetFields(Section):
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
    enabled: Expression | None = Field(
        None, description="an entry for which this is false, null, 0, empty, or a text that says no is left out"
    )


class NoPagination(Section):
    """One request gives everything."""

    style: Literal["none"] = "none"


class NextLinkPagination(Section):
    """Every page names the next one."""

    style: Literal["next_link"]
    next: Expression = Field("next", description="JMESPath to the next page's URL; null or absent on the last page")


class PagePagination(Section):
    """Pages are numbered."""

    style: Literal["page"]
    param: Text = Field("page", description="query parameter with the page number")
    first: Annotated[int, Field(ge=0)] = Field(1, description="number of the first page")
    size_param: Text | None = Field("page_size", description="query parameter with the page size")
    size: Annotated[int, Field(ge=1)] = Field(100, description="entries per page to ask for")


class OffsetPagination(Section):
    """Pages start at an offset."""

    style: Literal["offset"]
    offset_param: Text = Field("offset", description="query parameter with the offset")
    limit_param: Text = Field("limit", description="query parameter with the page size")
    size: Annotated[int, Field(ge=1)] = Field(100, description="entries per page to ask for")


Pagination = Annotated[
    NoPagination | NextLinkPagination | PagePagination | OffsetPagination, Field(discriminator="style")
]


class HttpSource(Section):
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


class NetboxSource(Section):
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


class HttpSdSource(Section):
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


class FileSource(Section):
    """The host list is a YAML or CSV file, for those who have no CMDB."""

    type: Literal["file"]
    path: Text = Field(description="`.yaml`, `.yml` or `.csv`; relative to the folder of portmon.yaml")
    items: Expression = Field("@", description="JMESPath to the list of entries (YAML)")
    fields: FileFields = Field(default_factory=FileFields, description="where the fields of an entry are")


class AnsibleSource(Section):
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


class Cmdb(Section):
    """Where the host list comes from, and what happens to hosts that leave it."""

    source: Annotated[HttpSources | FileSources, Field(discriminator="type")] = Field(
        default_factory=HttpSource, description="the one source of hosts"
    )
    stale_after: Duration = Field(
        timedelta(hours=1), description="alert when the last good list is older than this; the scan goes on with it"
    )
    prune_after: Duration = Field(
        timedelta(days=1),
        description="a host that left is hidden at once; its port data is deleted after this. 0 is at once",
    )
    max_prune_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2,
        description="refuse to prune when more than this share of (more than 5) hosts is missing, in one run or of the "
        "largest list that was accepted within 24 hours",
    )
