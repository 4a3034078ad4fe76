"""What went wrong with an HTTP request, for people. The errors' own texts hold the address, which may hold a secret."""

from __future__ import annotations

import requests


def why(error: Exception) -> str:
    """Why there is no answer."""
    if isinstance(error, UnicodeError):
        return "a login, token or header of the connection has a character that HTTP can't send (it must be Latin-1)"
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "a header of the connection is none that HTTP can send: it has a line break, or a blank before it"
    if isinstance(error, requests.exceptions.InvalidProxyURL):
        return "the proxy's address is none"
    if isinstance(
        error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema | requests.exceptions.InvalidSchema
    ):
        return "the connection's host is no address of an HTTP server"
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate is not trusted, or TLS failed"
    if isinstance(error, requests.Timeout):
        return "time-out"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return type(error).__name__
