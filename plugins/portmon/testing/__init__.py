"""What portmon expects of a channel or a source that another package has, as tests for that package.

With pytest, subclass :class:`ChannelContract` or :class:`SourceContract` in a test module, and say what is tested::

    class TestPush(ChannelContract):
        def channel(self):
            return PushChannel(type="push", name="phone", conn_id="push_default")

Nothing leaves the machine: :class:`RecordedOutside` keeps the requests that a channel makes.
"""

from __future__ import annotations

from portmon.testing.channels import HOSTILE, SECRETS, ChannelContract, RecordedOutside, messages
from portmon.testing.sources import SourceContract

__all__ = ["HOSTILE", "SECRETS", "ChannelContract", "RecordedOutside", "SourceContract", "messages"]
