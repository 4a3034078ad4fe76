"""Read addresses as the HTTP client reads them, and show them without their secrets."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from requests.adapters import HTTPAdapter

Origin = tuple[str, str, int]
"""Scheme, host and port."""
DEFAULT_PORTS = {"http": 80, "https": 443}
AMBIGUOUS = (
    "there is an @ behind the first /, ? or # of its address: of a login in it write these signs as %2F, %3F and %23, "
    "or better put login and password into their own fields of the connection"
)
_PARTS = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?//(?P<place>[^/?#\\\s]*)(?P<path>[^?#\s]*)(?P<rest>.*)", re.DOTALL
)
_PLACE = re.compile(r"(?P<host>[^@:\[\]\s'\"<>]+|\[[0-9A-Fa-f:.%]+\])(?::(?P<port>[^@:]*))?")


def origin_of(url: str) -> Origin:
    """Where a request for a URL goes, as requests, which sends it, reads the URL.

    In ``http://evil\\@cmdb/`` the standard library takes ``cmdb`` for the host, but requests connects to ``evil``.

    :raises ValueError: it is no address of an HTTP server, or requests and urllib3 read it differently. The text of the
        error holds nothing of the URL
    """
    import requests
    from urllib3.util import parse_url

    try:
        sent = requests.Request("GET", url).prepare()
        # The client chooses its connection by these values, and dials this port.
        chosen, _ = _adapter().build_connection_pool_key_attributes(sent, verify=True)
        read = parse_url(str(sent.url))
        found = _origin(chosen["scheme"], chosen["host"], chosen["port"])
        if found != _origin(read.scheme, read.host, read.port):
            raise ValueError("it can be read in several ways")
    except (requests.RequestException, ValueError, AttributeError) as error:
        raise ValueError(str(error) if str(error).startswith("it ") else _no_address(error)) from None
    return found


def _no_address(error: Exception) -> str:
    return f"it is no address of an HTTP server ({type(error).__name__})"


def address_of(base_url: str, endpoint: str) -> str:
    """The URL of a path below a base URL. No path can lead to another server."""
    return f"{base_url.rstrip('/')}/{endpoint.lstrip('/')}"


def split_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without its login, and the login (name and password) if there is one.

    :raises ValueError: it is no URL. The text of the error holds nothing of it
    """
    from urllib3.util import parse_url

    try:
        parts = parse_url(url)
    except ValueError as error:
        raise ValueError(_no_address(error)) from None
    if parts.auth is None:
        return url, None
    login, _, password = parts.auth.partition(":")
    return parts._replace(auth=None).url, (unquote(login), unquote(password))


def origin_text(origin: Origin) -> str:
    """``http://cmdb:80``: always with the port, so that two that differ only in the port look different."""
    scheme, host, port = origin
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def showable(url: str, *, path: bool = False) -> str:
    """An address for messages: scheme, host and port, without login, query and fragment.

    In ``http://user:pass/word@host`` every part may belong to the password, and so nothing of it is shown.

    :param path: also show the path, where it is no secret
    """
    found = _PARTS.match(url.strip())
    if not found:
        return "…"
    scheme = found["scheme"] if (found["scheme"] or "").lower() in DEFAULT_PORTS else "…"
    behind = f"{found['path']}{found['rest']}"
    place = _PLACE.fullmatch(found["place"].rpartition("@")[2])
    if place is None or "@" in behind:
        return f"{scheme}://…"
    # Text in the place of a port may be the beginning of a password.
    port = f":{place['port']}" if re.fullmatch("[0-9]{1,5}", place["port"] or "") else ""
    shown = f"{scheme}://{place['host']}{port}"
    return shown + quote(found["path"], safe="/%:!$&'()*+,;=~") if path else shown


def is_ambiguous(url: str) -> bool:
    """Whether a client may take a part of a login for a path, see AMBIGUOUS."""
    found = _PARTS.match(url.strip())
    return found is not None and "@" in f"{found['path']}{found['rest']}"


def _origin(scheme: str | None, host: str | None, port: int | None) -> Origin:
    scheme = (scheme or "").lower()
    host = (host or "").lower().removeprefix("[").removesuffix("]").removesuffix(".").replace("%25", "%")
    if scheme not in DEFAULT_PORTS or not host:
        raise ValueError("it is no address of an HTTP server")
    return scheme, host, DEFAULT_PORTS[scheme] if port is None else port


@lru_cache(maxsize=1)
def _adapter() -> HTTPAdapter:
    from requests.adapters import HTTPAdapter

    return HTTPAdapter()
