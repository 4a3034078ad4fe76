"""What docs/alerts.md shows works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apprise
import pytest
import yaml
from airflow.cli.cli_parser import get_parser

from portmon.airflow.outside import OUTSIDE
from portmon.alerting.channels.signing import sign
from portmon.alerting.channels.webhook import document
from portmon.config import parse_config
from tests.worlds.alertmanager import Alertmanager, missing
from tests.worlds.blocks import blocks
from tests.worlds.messages import alert, message

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "alerts.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    """Of the sections about channels; what the others show names channels that are not set up there."""
    return [block.text for block in blocks(TEXT[TEXT.index("## Channels") :]) if block.language == language]


OURS = [block for block in _blocks("yaml") if "receivers" not in yaml.safe_load(block)]
ALERTMANAGERS = [block for block in _blocks("yaml") if "receivers" in yaml.safe_load(block)]


def _connections() -> Iterator[dict[str, Any]]:
    """The arguments of every ``airflow connections add``, as Airflow reads them."""
    for block in _blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if words[:3] == ["airflow", "connections", "add"]:
                yield vars(get_parser().parse_args(words[1:]))


CONNECTIONS = {found["conn_id"]: found for found in _connections()}


@pytest.mark.parametrize("block", OURS)
def test_configuration_is_valid(block: str) -> None:
    config = parse_config(block)
    assert [problem for channel in config.alerts.channels for problem in channel.check(OUTSIDE)] == []


def test_every_kind_of_channel_is_shown_with_its_connection() -> None:
    shown = [channel for block in OURS for channel in parse_config(block).alerts.channels]
    own = {"pagerduty", "feishu", "dingtalk", "wecom"}
    assert {channel.type for channel in shown} == {"log", "apprise", "alertmanager", "webhook", "notifier"} | own
    for channel in shown:
        for needed in channel.connections():
            assert CONNECTIONS[needed.id]["conn_type"] == needed.type
    # The class of the other one has a connection by default.
    assert CONNECTIONS["smtp_default"]["conn_type"] == "smtp"


@pytest.mark.parametrize("conn_id", CONNECTIONS)
def test_connection_is_one(conn_id: str) -> None:
    connection = CONNECTIONS[conn_id]
    extra = json.loads(connection["conn_extra"] or "{}")
    if connection["conn_type"] == "http":
        assert re.fullmatch(r"https?://[a-z.]+(:\d+)?", connection["conn_host"])
    if connection["conn_type"] == "apprise":
        for target in extra["config"]:
            found = apprise.Apprise()
            assert found.add(target["path"])
            assert target["path"].startswith(tuple(f"{name}://" for name in found[0].schemas()))


@pytest.mark.parametrize("service", ["slack", "dingtalk", "wecombot", "feishu", "pagerduty"])
def test_services_that_are_asked_for_are_shown(service: str) -> None:
    assert f'"{service}://' in TEXT


def test_receiver_can_verify_the_signature_as_shown() -> None:
    (block,) = _blocks("python")
    found: dict[str, Any] = {}
    exec(block, found)
    body = json.dumps(document(message(alert()))).encode()
    now = str(int(time.time()))
    headers = {"X-Portmon-Timestamp": now, "X-Portmon-Signature": sign("key", now, body)}
    assert found["is_genuine"]("key", headers, body)
    assert not found["is_genuine"]("other", headers, body)
    assert not found["is_genuine"]("key", headers, body + b" ")
    assert not found["is_genuine"]("key", headers | {"X-Portmon-Timestamp": str(int(now) + 1)}, body)
    old = str(int(now) - 3600)
    assert not found["is_genuine"](
        "key", {"X-Portmon-Timestamp": old, "X-Portmon-Signature": sign("key", old, body)}, body
    )


def test_fields_of_the_document_are_described() -> None:
    told = document(message(alert()))
    for field in {*told, *told["alerts"][0]}:
        assert re.search(rf"^\|[^|]*`{field}`", TEXT, flags=re.M), field


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=missing() or "")
@pytest.mark.parametrize("block", ALERTMANAGERS)
def test_alertmanager_takes_its_configuration(block: str, tmp_path: Path) -> None:
    server = Alertmanager(tmp_path, block)
    server.start()
    server.close()
    if amtool := shutil.which("amtool"):
        done = subprocess.run([amtool, "check-config", tmp_path / "alertmanager.yml"], capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
