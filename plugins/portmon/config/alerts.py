"""Section ``alerts``: who hears of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from portmon.config.fields import Section, Text


class LogChannel(Section):
    """The alert task's own log."""

    type: Literal["log"]
    name: Text = Field("log", description="unique name")


class AppriseChannel(Section):
    """Apprise: DingTalk, WeCom, Feishu, Slack, PagerDuty, mail and 100 more."""

    type: Literal["apprise"]
    name: Text = Field("apprise", description="unique name")
    conn_id: Text = Field("apprise_default", description="Airflow Apprise connection with the target URLs")


class NotifierChannel(Section):
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


class Alerts(Section):
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
