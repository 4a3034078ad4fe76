"""Data from outside, read within limits; every failure becomes one kind of error.

``boundary`` turns any exception into that kind, ``documents`` reads JSON and YAML of bounded size and depth, ``urls``
reads an address as the HTTP client does, and shows it without its secrets.
"""
