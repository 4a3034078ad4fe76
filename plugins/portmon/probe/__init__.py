"""What a host is asked, and what its answer says."""

from portmon.probe.cgroup import unit_of
from portmon.probe.command import LIMIT, Question, command, new_nonce, script
from portmon.probe.frame import archive_form, is_frame, read, read_any, read_archived, read_frame

__all__ = [
    "LIMIT",
    "Question",
    "archive_form",
    "command",
    "is_frame",
    "new_nonce",
    "read",
    "read_any",
    "read_archived",
    "read_frame",
    "script",
    "unit_of",
]
