"""Channels: where messages can go. A kind is one file with its section of the configuration, its check and how it
sends; ``Channel`` is the list of them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from portmon.alerting.channels.alertmanager import AlertmanagerChannel
from portmon.alerting.channels.apprise import AppriseChannel
from portmon.alerting.channels.base import BaseChannel
from portmon.alerting.channels.broken import BrokenChannel
from portmon.alerting.channels.dingtalk import DingTalkChannel
from portmon.alerting.channels.feishu import FeishuChannel
from portmon.alerting.channels.log import LogChannel
from portmon.alerting.channels.notifier import NotifierChannel
from portmon.alerting.channels.pagerduty import PagerDutyChannel
from portmon.alerting.channels.webhook import WebhookChannel
from portmon.alerting.channels.wecom import WeComChannel
from portmon.untrusted.extensions import CHANNELS, others

Channel = Annotated[
    LogChannel
    | AppriseChannel
    | AlertmanagerChannel
    | WebhookChannel
    | NotifierChannel
    | PagerDutyChannel
    | FeishuChannel
    | DingTalkChannel
    | WeComChannel,
    Field(discriminator="type"),
    *others(CHANNELS, BaseChannel, BrokenChannel),
]
"""Every kind of channel that there is: a new one is a module of its own and is named here. Other packages have theirs
by entry points."""
