"""What comes from outside: read within limits, and every failure told as one kind of error.

``boundary`` makes one kind of error of whatever is raised, ``documents`` reads JSON and YAML of bounded size and
depth, ``urls`` reads an address as the HTTP client does, and shows it without its secrets.
"""
