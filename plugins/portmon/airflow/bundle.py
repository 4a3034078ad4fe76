"""The DAG of an installed portmon as a bundle, so that an Airflow needs no copy of the file."""

from __future__ import annotations

from typing import Any

from airflow.dag_processing.bundles.local import LocalDagBundle

from portmon.airflow.installation import PACKAGE


class PortmonDagBundle(LocalDagBundle):
    """The folder with the DAG ``portmon``: in the package, or that of a checkout."""

    def __init__(self, **kwargs: Any) -> None:
        own = PACKAGE / "dags"
        super().__init__(path=str(own if own.is_dir() else PACKAGE.parents[1] / "dags"), **kwargs)
