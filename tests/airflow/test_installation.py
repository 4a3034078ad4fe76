"""Where portmon is installed, and that two of them are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from portmon.airflow import installation
from portmon.airflow.provider import OPTIONS, get_provider_info
from portmon.errors import ConfigError


def test_this_one_is_the_only_one() -> None:
    assert installation.copies() == [installation.PACKAGE]
    installation.must_be_one()


def test_another_one_in_the_plugins_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "portmon"
    other.mkdir()
    (other / "__init__.py").touch()
    monkeypatch.setenv("AIRFLOW__CORE__PLUGINS_FOLDER", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        installation.must_be_one()
    assert str(other) in str(caught.value)
    assert str(installation.PACKAGE) in str(caught.value)


def test_an_installed_one_besides_the_plugins_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "portmon").mkdir()
    (tmp_path / "portmon" / "__init__.py").touch()
    about = tmp_path / "portmon-9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: portmon\nVersion: 9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installation.copies() == [installation.PACKAGE, tmp_path / "portmon"]


def test_the_default_configuration_is_beside_plugins_or_in_airflows_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert installation.default_config() == installation.PACKAGE.parents[1] / "config" / "portmon.yaml"
    monkeypatch.setattr(installation, "PACKAGE", tmp_path / "site-packages" / "portmon")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    assert installation.default_config() == tmp_path / "portmon.yaml"


def test_airflow_takes_what_the_provider_says_of_itself() -> None:
    from airflow.providers_manager import _create_provider_info_schema_validator

    info = get_provider_info()
    _create_provider_info_schema_validator().validate(info)
    assert info["config"]["portmon"]["options"].keys() == OPTIONS.keys()
