"""Where the fields of an entry are: part of every source's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from portmon.fields import Expression, LabelExpressions, Section


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
        None, description="ports that must listen on the host: a number, text such as `443,53/udp`, or a list of these"
    )
    enabled: Expression | None = Field(
        None,
        description="an entry for which this is false, null, 0, empty, or a text that says no (`false`, `no`, `off`, "
        "`0`, `n`, `f`) is left out, as if it were not in the CMDB. A column of a CSV file says yes (`true`, `yes`, "
        "`on`, `1`, `y`, `t`) or no; anything else makes the entry invalid",
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
    declared: Expression | None = Field(None, description="ports that must listen on the host")
    enabled: Expression | None = Field(
        None, description="an entry for which this is false, null, 0, empty, or a text that says no is left out"
    )

    def over(self, preset: Mapping[str, Any]) -> CmdbFields:
        """The preset's fields, with what the configuration says otherwise."""
        values = {**preset, **self.model_dump(exclude_none=True)}
        if isinstance(self.labels, Mapping):
            values["labels"] = {**preset["labels"], **self.labels}
        return CmdbFields.model_validate(values)
