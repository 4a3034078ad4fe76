"""Alerts into messages: one per alert group, route and run, in English or Chinese.

* **Words** are in ``templates/en.j2`` and ``templates/zh.j2``: each kind of event has one macro for titles and one for
  lines. ``templates/message.*.j2`` put the lines into text, Markdown and HTML; docs/messages.md has examples.
* ``order.py`` decides which alert comes first and which share a line. ``view.py`` is all that the templates see;
  ``build.py`` makes it of the alerts.
* ``bodies.py`` fills the templates, ``render.py`` makes the message, ``check.py`` tries templates of the user's own.

Text that came from a host or the CMDB is data for a template, never template source. In the view it is one line of
visible characters (:func:`portmon.text.plain`); ``bodies.py`` escapes it for each medium.
"""
