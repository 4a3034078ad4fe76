"""What Airflow's plugin loader sees of portmon: registration only.

Every process of Airflow executes this file, each task process included: nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from portmon import web
from portmon.web.links import HostPage


class PortmonPlugin(AirflowPlugin):
    """portmon's place in Airflow."""

    name = "portmon"
    fastapi_apps: ClassVar = [{"name": "portmon", "app": web.app, "url_prefix": "/portmon"}]
    operator_extra_links: ClassVar = [HostPage()]
    # The address is relative, so that it is right below a base path too.
    external_views: ClassVar = [
        {
            "name": "portmon",
            "href": "portmon/",
            "url_route": "portmon",
            "destination": "nav",
            "nav_top_level": True,
            "icon": "/portmon/icon.svg",
        }
    ]

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Let processes that fork tasks import once what every task needs; see :mod:`portmon.airflow.preload`."""
        from portmon.airflow import preload

        preload.on_load()
