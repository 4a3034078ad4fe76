"""What Airflow's plugin loader sees of portmon: registration only.

Every process of Airflow executes this file, each task process included: nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class PortmonPlugin(AirflowPlugin):
    """portmon's place in Airflow."""

    name = "portmon"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Let processes that fork tasks import once what every task needs; see :mod:`portmon.airflow.preload`."""
        from portmon.airflow import preload

        preload.on_load()
