"""Sources of hosts without Airflow: HTTP is a function, files are files."""

from __future__ import annotations

from pathlib import Path

from portmon.inventory.sources.base import Source
from portmon.inventory.sources.http import OverHttp
from portmon.inventory.sources.pages import Send, read_pages
from portmon.model.host import Inventory

BASE = "https://cmdb.example/base"


def fetch(source: OverHttp, send: Send, *, base_url: str = BASE, shown: str = "test") -> Inventory:
    """The host list of a source that ``send`` answers for."""
    return source.gather(lambda http: read_pages(http, send, base_url=base_url, shown=shown), shown=shown)


def read_file(source: Source, base: Path) -> Inventory:
    """The host list of a source that needs no HTTP."""

    def never(_: OverHttp) -> Inventory:
        raise AssertionError("asked over HTTP")

    return source.read(base, never)
