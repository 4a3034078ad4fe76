"""What went wrong with an HTTP request, for people. The errors' own texts hold the address, which may hold a secret."""

from __future__ import annotations

import requests


def why(error: Exception) -> str:
    """Why there is no answer."""
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate is not trusted, or TLS failed"
    if isinstance(error, requests.Timeout):
        return "time-out"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return type(error).__name__
