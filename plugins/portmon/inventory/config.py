"""Section ``cmdb``: where hosts come from."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from portmon.fields import Duration, Section
from portmon.inventory.sources.ansible import AnsibleSource
from portmon.inventory.sources.base import Source
from portmon.inventory.sources.broken import BrokenSource
from portmon.inventory.sources.file import FileSource
from portmon.inventory.sources.http import HttpSource
from portmon.inventory.sources.http_sd import HttpSdSource
from portmon.inventory.sources.netbox import NetboxSource
from portmon.untrusted.extensions import SOURCES, others

AnySource = Annotated[
    HttpSource | NetboxSource | HttpSdSource | FileSource | AnsibleSource,
    Field(discriminator="type"),
    *others(SOURCES, Source, BrokenSource),
]
"""Every kind of source that there is: a new one is a module of its own and is named here. Other packages have theirs by
entry points."""


class Cmdb(Section):
    """Where the host list comes from, and what happens to hosts that leave it."""

    source: AnySource = Field(default_factory=HttpSource, description="the one source of hosts")
    stale_after: Duration = Field(
        timedelta(hours=1), description="alert when the last good list is older than this; the scan goes on with it"
    )
    prune_after: Duration = Field(
        timedelta(days=1),
        description="a host that left is hidden at once; its data is deleted after this, and so is what is known of a "
        "port that no rule watches any more. 0 is at once",
    )
    max_prune_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2,
        description="refuse to prune when more than this share of (more than 5) hosts is missing, in one run or of the "
        "largest list that was accepted within 24 hours",
    )
