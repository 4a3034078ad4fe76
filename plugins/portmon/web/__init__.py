"""portmon's page in Airflow's API server.

The plugin names it in every process of Airflow: nothing is imported before the first request.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _application() -> Any:
    from portmon.web.app import application
    from portmon.web.gate import Gate

    return Gate(application())


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The page as an ASGI application, made at its first request."""
    await _application()(scope, receive, send)
