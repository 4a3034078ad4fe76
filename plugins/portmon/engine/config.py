"""Sections ``declared`` and ``states``: which ports must listen, and when a change counts."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from portmon.fields import DeclaredRanges, Duration, HostMatch, PositiveDuration, Section, Text
from portmon.model.event_kinds import Severity


class Thresholds(Section):
    """When changes of some ports count, in place of what `states` says, and how urgent they are."""

    severity: Severity | None = Field(
        None, description="of what opens an alert, in place of `critical`, and of `warning` where a port is young"
    )
    down_after: Annotated[int | None, Field(ge=1)] = Field(None, description="see `states.down_after`")
    reboot_grace: Duration | None = Field(None, description="see `states.reboot_grace`")
    restarts: Literal["change", "note"] | None = Field(
        None, description="`note`: restarts never add up to flapping or to a crash loop; default: `change`, they do"
    )

    @property
    def gives_terms(self) -> bool:
        """Whether any of them is given."""
        return any(getattr(self, name) is not None for name in Thresholds.model_fields)


class Declaration(HostMatch, Thresholds):
    """Ports that must listen on some hosts: one that does not is down from the first observation."""

    port: DeclaredRanges = Field(
        description="port or list; of a range every port must listen. A number is a TCP port, `53/udp` one of UDP, "
        "which must listen where `scan.protocols` names UDP"
    )
    owner: Text | None = Field(
        None, description="unit (`nginx.service`, a template without its instance) or program that must have the port"
    )
    comment: str = Field("", description="why; shown in events")

    @model_validator(mode="after")
    def _is_small(self) -> Declaration:
        if sum(high - low + 1 for low, high in self.port) > 1000:
            raise ValueError("declares more than 1000 ports")
        return self


class States(Section):
    """When a change counts."""

    down_after: Annotated[int, Field(ge=1)] = Field(
        1, description="runs in a row in which a port is missing (each one confirmed) before it is down"
    )
    unreachable_after: Annotated[int, Field(ge=1)] = Field(
        2,
        description="tried runs in a row without evidence before a host is unreachable; also runs after which a clock "
        "that went back is believed",
    )
    ephemeral_after: Annotated[int, Field(ge=1)] = Field(
        3, description="observations in a row before a port in the host's ephemeral range is watched"
    )
    flap_threshold: Annotated[int, Field(ge=2)] = Field(
        4,
        description="changes (a fault begins or ends) within `flap_window` that make a port or a host flapping: one "
        "message, then silence",
    )
    flap_window: PositiveDuration = Field(
        timedelta(hours=1),
        description="see `flap_threshold`; time with evidence, at least 12 intervals. What held still for it is stable",
    )
    reboot_grace: Duration = Field(
        timedelta(minutes=10), description="time that services have to come back after a reboot of their host"
    )
    mature_after: PositiveDuration = Field(
        timedelta(days=1),
        description="a learned port is young until it was watched for so much time with evidence without a down longer "
        "than an hour: what happens to it is a warning, and it retires after as long",
    )
    retire_after: PositiveDuration = Field(
        timedelta(days=30),
        description="a port that was not seen for so much time with evidence is not watched any more; a lost address "
        "is not expected any more",
    )
