"""The question to a host, and the reader of its answer."""

from portmon.probe.command import LIMIT, Question, command, new_nonce, script
from portmon.probe.frame import Frame, cut_out, is_frame
from portmon.probe.listing import listing_of, read_any, read_archived, read_frame

__all__ = [
    "LIMIT",
    "Frame",
    "Question",
    "command",
    "cut_out",
    "is_frame",
    "listing_of",
    "new_nonce",
    "read_any",
    "read_archived",
    "read_frame",
    "script",
]
