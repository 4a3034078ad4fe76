"""Where portmon is installed: as folders that Airflow reads, or as a package. Two in one Airflow are refused.

What can be said without Airflow is: importing it takes longer than most commands.
"""

from __future__ import annotations

import os
import re
from configparser import ConfigParser, Error
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from portmon.airflow.provider import OPTIONS
from portmon.errors import ConfigError

if TYPE_CHECKING:
    from portmon.config import Config

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the package that is imported."""
MIN_AIRFLOW = (3, 3, 0)


def airflow_version() -> str:
    """That of the Airflow in this environment, without importing it."""
    return metadata.version("apache-airflow-core")


def is_old(version: str) -> bool:
    """Whether portmon can't run with an Airflow; a pre-release counts as its release."""
    return tuple(map(int, re.findall(r"\d+", version)[:3])) < MIN_AIRFLOW


def must_be_new_enough() -> None:
    """Refuse an old Airflow before something that it lacks makes an error without a cure.

    :raises ConfigError: it says which version is needed
    """
    if is_old(version := airflow_version()):
        wanted = ".".join(map(str, MIN_AIRFLOW))
        raise ConfigError(f"portmon needs Airflow {wanted} or later, and this is {version}: upgrade Airflow")


def home() -> Path:
    """``$AIRFLOW_HOME``."""
    return Path(os.path.expandvars(os.environ.get("AIRFLOW_HOME", "~/airflow"))).expanduser()


def default_config() -> Path:
    """Where portmon.yaml is if ``[portmon] config`` does not say."""
    if PACKAGE.parent.name == "plugins":
        return PACKAGE.parents[1] / "config" / "portmon.yaml"
    return home() / "portmon.yaml"


def config_at(given: str) -> Path:
    """Where portmon.yaml is if ``[portmon] config`` is ``given``."""
    return Path(os.path.expandvars(given)).expanduser() if given else default_config()


def read_config(given: str) -> Config:
    """portmon.yaml as it is there; the defaults if there is neither the option nor the file.

    :raises ConfigError: with file, line and field
    """
    from portmon.config import Config, load_config

    path = config_at(given)
    if path == default_config() and not path.exists():
        return Config()
    return load_config(path)


def option(name: str) -> str | None:
    """``[portmon] name`` as Airflow reads it from its environment and airflow.cfg; None if only Airflow can tell."""
    text = os.environ.get(f"AIRFLOW__PORTMON__{name.upper()}")
    if text is None:
        file = os.environ.get("AIRFLOW_CONFIG") or str(home() / "airflow.cfg")
        parser = ConfigParser(strict=False, allow_no_value=True)
        try:
            parser.read(_expanded(file), encoding="utf-8")
            text = parser.get("portmon", name, fallback=OPTIONS[name]["default"])
        except (Error, OSError, UnicodeDecodeError):
            return None
    return None if text is None else _expanded(text).strip()


def _expanded(text: str) -> str:
    """https://github.com/apache/airflow/blob/3.3.2/shared/configuration/src/airflow_shared/configuration/parser.py"""
    while (more := os.path.expanduser(os.path.expandvars(text))) != text:  # noqa: PTH111
        text = more
    return text


def copies() -> list[Path]:
    """Folders of every portmon that this Airflow can reach, that of the imported one first."""
    from airflow.sdk.configuration import conf

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
