"""Section ``scan``: how many hosts one task asks, and when a host is asked again."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from portmon.fields import Duration, Protocols, Section, Text


class Scan(Section):
    """Looks at hosts."""

    sweep_above: Annotated[int, Field(ge=0)] = Field(
        100, description="with more hosts than this a run asks batches of hosts in `sweep` tasks; else each has a task"
    )
    batch_hosts: Annotated[int, Field(ge=1, le=5000)] = Field(
        500, description="hosts of one `sweep` task, as long as there are no more than 64 of them"
    )
    max_host_tasks: Annotated[int, Field(ge=0)] = Field(
        256,
        description="hosts that fail in a sweep, and did not before, get a `netstat` task of their own, at most so "
        "many: the rest is marked with what the sweep saw",
    )

    protocols: Protocols = Field(
        ("tcp",),
        description="`[tcp]` or `[tcp, udp]`: whether UDP ports are watched too (docs/states.md); a group in "
        "`ssh.groups` may have its own. Forced commands and sudoers come first: docs/forced-command.md, "
        "docs/security.md",
    )
    pool: Text | None = Field(
        None, description="Airflow pool for the netstat tasks; it must exist. Default: Airflow's default_pool"
    )
    confirm_after: Duration = Field(
        timedelta(seconds=15),
        description="when a watched port is missing, ask once more after this, over the same connection. A look may "
        "take 90 seconds: 3 x `connect_timeout` + 2 x `command_timeout` + this must fit, in every group",
    )
