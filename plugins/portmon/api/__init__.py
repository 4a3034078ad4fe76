"""What people see and do, once, for the command line and the web page.

Functions take an open connection; times, authors and reasons are arguments, and a host is given by its name or id.
Actions return what they did, in words. Nothing is escaped for a terminal or a page yet. What can't be done is a
:class:`portmon.errors.CommandError`, after which the caller rolls its transaction back.
"""
