"""Events into messages: one per alert group and run, in English or Chinese.

Whatever came from a host or the CMDB is data for a template, never template source. It is cut and made
visible by :func:`plain`; in the text, which chat programs interpret in their own ways, :func:`inert` takes
the effect from mentions and links; in the HTML everything is escaped.
"""

from portmon.render.message import Language, Message, render
from portmon.render.text import REASON_LIMIT, TITLE_LIMIT, VALUE_LIMIT, inert, plain

__all__ = ["REASON_LIMIT", "TITLE_LIMIT", "VALUE_LIMIT", "Language", "Message", "inert", "plain", "render"]
