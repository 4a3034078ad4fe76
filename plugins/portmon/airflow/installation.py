"""Where portmon is installed: as folders that Airflow reads, or as a package. Two in one Airflow are refused."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from airflow.sdk.configuration import conf

from portmon.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the package that is imported."""


def home() -> Path:
    """``$AIRFLOW_HOME``."""
    return Path(os.path.expandvars(os.environ.get("AIRFLOW_HOME", "~/airflow"))).expanduser()


def default_config() -> Path:
    """Where portmon.yaml is if ``[portmon] config`` does not say."""
    if PACKAGE.parent.name == "plugins":
        return PACKAGE.parents[1] / "config" / "portmon.yaml"
    return home() / "portmon.yaml"


def copies() -> list[Path]:
    """Folders of every portmon that this Airflow can reach, that of the imported one first."""
    found = [PACKAGE]
    plugins = conf.get("core", "plugins_folder", fallback="")
    if plugins:
        found.append(Path(plugins) / "portmon")
    with suppress(metadata.PackageNotFoundError):
        found.append(Path(str(metadata.distribution("portmon").locate_file("portmon"))))
    # A distribution that is installed in place has no files of its own here.
    real = (folder.resolve() for folder in found if (folder / "__init__.py").is_file())
    return list(dict.fromkeys(real))


def must_be_one() -> None:
    """Refuse two portmons: Airflow takes the plugin of one and the modules of another, and says nothing.

    :raises ConfigError: with the folders
    """
    found = copies()
    if len(found) > 1:
        raise ConfigError(
            f"portmon is there {len(found)} times: {' and '.join(map(str, found))}. The first one is imported, and "
            "Airflow may take the plugin of another: remove all but one, by `pip uninstall portmon` or by deleting the "
            "folder `portmon` in Airflow's plugins folder"
        )
