"""NetBox 4: devices and virtual machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from portmon.fields import PositiveDuration, QueryValue, Section, Text, Texts
from portmon.inventory.entry_fields import PresetFields
from portmon.inventory.sources.http import HttpSource, OverHttp
from portmon.inventory.sources.pages import OffsetPagination


class NetboxSource(Section, OverHttp):
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

    refused: ClassVar[str] = (
        'put `{"Authorization": "Bearer nbt_…"}` (v2) or `{"Authorization": "Token …"}` (v1) into the extra of the '
        "connection; the token must be enabled and not expired, and its user allowed to view devices and virtual "
        "machines"
    )

    @model_validator(mode="after")
    def _reads_something(self) -> NetboxSource:
        if not (self.devices or self.virtual_machines):
            raise ValueError("devices and virtual_machines are both off: nothing is left to read")
        return self

    def lists(self) -> Iterator[HttpSource]:
        """See :meth:`OverHttp.lists`."""
        if self.devices:
            yield self._list("device", "api/dcim/devices/", self.device_params)
        if self.virtual_machines:
            yield self._list("vm", "api/virtualization/virtual-machines/", self.virtual_machine_params)

    def _list(self, kind: str, endpoint: str, params: Mapping[str, QueryValue]) -> HttpSource:
        preset = {
            # Devices and virtual machines are numbered apart: 7 is one of each.
            "id": f"id && join('-', ['{kind}', to_string(id)])",
            # A device may have no name; `display` then describes it.
            "name": "name || display",
            "address": "primary_ip.address",
            "port": None,
            "labels": {
                "kind": f"'{kind}'",
                **{name: f"{name}.slug" for name in ("site", "location", "role", "tenant", "platform")},
                **{name: f"{name}.name" for name in ("rack", "cluster")},
                "tag_*": "tags[].slug",
            },
        }
        status = {"status": self.status} if self.status else {}
        # By id, so that a renamed entry does not change its page; contexts are large and may hold secrets.
        usual = {"ordering": "id", "exclude": "config_context"}
        return HttpSource(
            **self.model_dump(include={"conn_id", "timeout", "max_pages", "attempts"}),
            endpoint=endpoint,
            params={**status, **usual, **self.params, **params},
            items="results",
            total="count",
            unique="id",
            # Not by its links: behind a proxy they may lead to a server that only the proxy knows.
            pagination=OffsetPagination(style="offset", size=self.page_size),
            fields=self.fields.over(preset),
        )
