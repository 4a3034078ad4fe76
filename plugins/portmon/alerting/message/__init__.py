"""Alerts into messages: one per alert group, route and run, in English or Chinese.

Whatever came from a host or the CMDB is data for a template, never template source. It is cut and made
visible by :func:`portmon.text.plain`; in the text and in Markdown, which chat programs interpret in their own ways,
:func:`portmon.text.inert` takes the effect from mentions and links and :func:`portmon.text.escape_markdown` from the
rest; in the HTML everything is escaped.
"""
