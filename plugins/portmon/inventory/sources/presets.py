"""CMDBs that are known by name: what to ask them, and where the fields of their entries are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from portmon.errors import CmdbError
from portmon.inventory.config import HttpSdSource, HttpSource, HttpSources, NetboxSource
from portmon.inventory.entries import Part, fields_of, read_parts
from portmon.inventory.sources.http_sd import read_targets
from portmon.inventory.sources.pages import Send, read_pages
from portmon.model.host import Inventory
from portmon.untrusted.boundary import boundary

NETBOX_ENDPOINTS = {"device": "api/dcim/devices/", "vm": "api/virtualization/virtual-machines/"}

NETBOX_FIELDS = {
    # Devices and virtual machines are numbered apart: 7 is one of each.
    "id": "id && join('-', ['{kind}', to_string(id)])",
    # A device may have no name; `display` then describes it.
    "name": "name || display",
    "address": "primary_ip.address",
    "port": None,
    "labels": {
        "kind": "'{kind}'",
        "site": "site.slug",
        "location": "location.slug",
        "rack": "rack.name",
        "role": "role.slug",
        "tenant": "tenant.slug",
        "platform": "platform.slug",
        "cluster": "cluster.name",
        "tag_*": "tags[].slug",
    },
}

HTTP_SD_FIELDS = {"id": "address", "name": "address", "address": "address", "port": "port", "labels": {"*": "labels"}}

_HEADER = 'put its token into the extra of the connection, for instance `{"Authorization": "Bearer …"}`'
HELP = {
    "http": _HEADER,
    "http_sd": _HEADER,
    "netbox": 'put `{"Authorization": "Bearer nbt_…"}` (v2) or `{"Authorization": "Token …"}` (v1) into the '
    "extra of the connection; the token must be enabled and not expired, and its user allowed to view devices and "
    "virtual machines",
}
"""By type of source: what to do when the CMDB refuses the credentials."""


@dataclass(frozen=True, slots=True)
class Query:
    """One list to ask for.

    :param http: endpoint, pages, fields
    :param unpack: turns what is listed into entries; raises ValueError if it can't be
    """

    http: HttpSource
    unpack: Callable[[list[Any]], Iterable[Any]] = iter


def queries(source: HttpSources) -> tuple[Query, ...]:
    """Everything that has to be asked for one host list."""
    if isinstance(source, NetboxSource):
        return tuple(_netbox(source))
    if isinstance(source, HttpSdSource):
        return (_http_sd(source),)
    return (Query(source),)


def gather(source: HttpSources, read: Callable[[HttpSource], list[Any]], *, shown: str) -> Inventory:
    """One host list out of everything that has to be asked for.

    :param read: gives the entries of one list, see :func:`portmon.inventory.sources.pages.read_pages`
    :param shown: what is asked, for people, without credentials
    :raises CmdbError: if one of the lists is not complete and plausible
    """
    with boundary(lambda why: CmdbError(f"can't be used: {why}", source=shown), passing=CmdbError):
        parts = []
        for query in queries(source):
            entries = read(query.http)
            try:
                parts.append(Part(list(query.unpack(entries)), query.http.fields))
            except ValueError as error:
                raise CmdbError(str(error), source=shown) from error
        return read_parts(parts, source=shown)


def fetch(source: HttpSources, send: Send, *, base_url: str, shown: str) -> Inventory:
    """The host list of a source, whole or not at all; parameters as of
    :func:`portmon.inventory.sources.pages.read_pages`.

    :raises CmdbError: if a list is not complete and plausible
    """
    return gather(source, lambda http: read_pages(http, send, base_url=base_url, shown=shown), shown=shown)


def _netbox(source: NetboxSource) -> Iterable[Query]:
    own = {"device": source.device_params, "vm": source.virtual_machine_params}
    wanted = {"device": source.devices, "vm": source.virtual_machines}
    for kind, endpoint in NETBOX_ENDPOINTS.items():
        if not wanted[kind]:
            continue
        params = {
            **({"status": source.status} if source.status else {}),
            # By id, so that a renamed entry does not change its page; contexts are large and may hold secrets.
            "ordering": "id",
            "exclude": "config_context",
            **source.params,
            **own[kind],
        }
        yield Query(
            HttpSource.model_validate(
                {
                    "conn_id": source.conn_id,
                    "endpoint": endpoint,
                    "params": params,
                    "items": "results",
                    "total": "count",
                    "unique": "id",
                    # Not by its links: behind a proxy they may lead to a server that only the proxy knows.
                    "pagination": {"style": "offset", "size": source.page_size},
                    "timeout": source.timeout,
                    "max_pages": source.max_pages,
                    "attempts": source.attempts,
                    "fields": fields_of(_filled(NETBOX_FIELDS, kind=kind), source.fields),
                }
            )
        )


def _http_sd(source: HttpSdSource) -> Query:
    http = HttpSource(
        conn_id=source.conn_id,
        endpoint=source.endpoint,
        params=source.params,
        timeout=source.timeout,
        fields=fields_of(HTTP_SD_FIELDS, source.fields),
    )
    return Query(http, lambda groups: read_targets(groups, target_port=source.target_port, meta=source.meta_labels))


def _filled(template: Any, **values: str) -> Any:
    """A template with its ``{name}`` filled in, at any depth."""
    if isinstance(template, Mapping):
        return {key: _filled(inner, **values) for key, inner in template.items()}
    if isinstance(template, str):
        for name, value in values.items():
            template = template.replace(f"{{{name}}}", value)
    return template
