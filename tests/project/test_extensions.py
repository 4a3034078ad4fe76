"""Channels and sources of another package, which is really installed: found by entry points, isolated if broken."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from typer.testing import CliRunner

from portmon import timeouts
from portmon.alerting.channels import (
    AlertmanagerChannel,
    DingTalkChannel,
    FeishuChannel,
    PagerDutyChannel,
    WebhookChannel,
    WeComChannel,
)
from portmon.alerting.channels.base import BaseChannel
from portmon.cli import app
from portmon.config import Config, parse_config
from portmon.errors import CmdbError, ConfigError, DeliveryError
from portmon.inventory.sources.base import Source, hosts_of
from portmon.inventory.sources.file import FileSource
from portmon.model.alert import DeliveryState
from portmon.storage import deliveries
from portmon.storage.database import Database
from portmon.testing import ChannelContract, RecordedOutside, SourceContract
from portmon.untrusted import extensions
from tests.worlds.databases import migrated
from tests.worlds.fleet import web_fleet
from tests.worlds.messages import message

CODE = """
import threading
from typing import Literal
from portmon.alerting.channels.base import BaseChannel, HttpRequest
from portmon.errors import CmdbError
from portmon.fields import Section
from portmon.inventory.sources.base import Source
from portmon.model.host import Host, Inventory

HANGS = threading.Event()

class Push(BaseChannel):
    type: Literal["push"]
    conn_id: str = "push_default"
    topic: str
    def send(self, message, outside, done):
        body = message.text.encode("utf-8", "backslashreplace")
        outside.send(HttpRequest(self.name, self.conn_id, "t", "POST", body, {"Content-Type": "text/plain"}))

class Raises(Push):
    type: Literal["raises"]
    def check(self, outside):
        raise KeyError("check")
    def connections(self):
        raise KeyError("connections")
    def send(self, message, outside, done):
        raise KeyError("secret-in-a-text")

class Hangs(Push):
    type: Literal["hangs"]
    def send(self, message, outside, done):
        HANGS.wait(60)

class NoSend(BaseChannel):
    type: Literal["nosend"]

class Asset(Section, Source):
    type: Literal["assets"]
    gone: bool = False
    def read(self, base, ask):
        if self.gone:
            raise CmdbError("it is not there", source="assets")
        return Inventory((Host("1", "web1", "192.0.2.1"),), source="assets")
    def described(self, base):
        yield "assets", None

class RaisingAsset(Asset):
    type: Literal["raising"]
    def read(self, base, ask):
        raise RecursionError

class WrongAsset(Asset):
    type: Literal["wrong"]
    def read(self, base, ask):
        return []
"""
POINTS = """
[portmon.channels]
push = acme_portmon:Push
raises = acme_portmon:Raises
hangs = acme_portmon:Hangs
nosend = acme_portmon:NoSend
missing = acme_portmon:Nothing
broken = acme_broken:Anything
exits = acme_exits:Anything
slow = acme_slow:Anything
other = collections:OrderedDict

[portmon.sources]
assets = acme_portmon:Asset
raising = acme_portmon:RaisingAsset
wrong = acme_portmon:WrongAsset
broken = acme_broken:Anything
"""
SLOW = "import threading\nHANGS = threading.Event()\nHANGS.wait(60)\n"
MODULES = {"acme_portmon": CODE, "acme_broken": "import no_such_module", "acme_exits": "raise SystemExit(3)"}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution on the path, as pip leaves one."""
    folder = tmp_path / "site"
    info = folder / "acme_portmon-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-portmon\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(POINTS, encoding="utf-8")
    for name, code in {**MODULES, "acme_slow": SLOW}.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    before = set(threading.enumerate())
    yield folder
    for name in [*MODULES, "acme_slow"]:
        if (module := sys.modules.pop(name, None)) is not None and hasattr(module, "HANGS"):
            module.HANGS.set()
    # What hung ends here, and not within a test that counts threads or objects.
    for thread in set(threading.enumerate()) - before:
        thread.join(30)


def _config(*channels: str) -> Config:
    return parse_config("alerts:\n  channels:\n" + "".join(f"    - {one}\n" for one in channels))


def _push() -> Any:
    (channel,) = _config("{type: push, name: phone, topic: ops}").alerts.channels
    return channel


def _source(text: str) -> Any:
    return parse_config(f"cmdb:\n  source: {text}\n").cmdb.source


# ── the contract ────────────────────────────────────────────────────────────────────────────────


class TestChannelOfAnotherPackage(ChannelContract):
    def channel(self) -> BaseChannel:
        return _push()


class TestPagerDuty(ChannelContract):
    def channel(self) -> BaseChannel:
        return PagerDutyChannel(type="pagerduty")


class TestFeishu(ChannelContract):
    def channel(self) -> BaseChannel:
        return FeishuChannel(type="feishu", conn_id="x", mentions={"team": {"web": ("ou_1",)}})


class TestDingTalk(ChannelContract):
    def channel(self) -> BaseChannel:
        return DingTalkChannel(type="dingtalk", conn_id="x")


class TestWeCom(ChannelContract):
    def channel(self) -> BaseChannel:
        return WeComChannel(type="wecom", conn_id="x")


class TestWebhook(ChannelContract):
    def channel(self) -> BaseChannel:
        return WebhookChannel(type="webhook", name="hook", conn_id="x", per_alert=True)


class TestAlertmanager(ChannelContract):
    def channel(self) -> BaseChannel:
        return AlertmanagerChannel(type="alertmanager")


class TestSourceOfAnotherPackage(SourceContract):
    def source(self) -> Source:
        return _source("{type: assets}")

    def broken(self) -> Source:
        return _source("{type: assets, gone: true}")


class TestFile(SourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        (tmp_path / "hosts.csv").write_text("id,name,address\n1,web1,192.0.2.1\n", encoding="utf-8")
        self.base = tmp_path

    def source(self) -> Source:
        return FileSource(type="file", path="hosts.csv")

    def broken(self) -> Source:
        return FileSource(type="file", path="gone.csv")


class Swallows(WebhookChannel):
    def send(self, message: Any, outside: Any, done: tuple[str, ...]) -> None:
        try:
            super().send(message, outside, done)
        except DeliveryError:
            return


def test_the_contract_finds_a_channel_that_swallows_errors_and_one_that_is_not_whole() -> None:
    class Contract(ChannelContract):
        def channel(self) -> BaseChannel:
            return Swallows(type="webhook", name="hook", conn_id="x")

    with pytest.raises(AssertionError, match="says that all is well"):
        Contract().test_a_refusal_is_no_success()

    class Half(SourceContract):
        def source(self) -> Source:
            return _source("{type: assets}")

        broken = source

    with pytest.raises(AssertionError, match="raise CmdbError"):
        Half().test_a_list_that_cant_be_had_is_an_error()


# ── found ───────────────────────────────────────────────────────────────────────────────────────


def test_a_channel_is_one_of_the_configuration_and_of_its_archived_form() -> None:
    config = _config("{type: log}", "{type: push, name: phone, topic: ops}")
    assert [(channel.name, channel.type) for channel in config.alerts.channels] == [("log", "log"), ("phone", "push")]
    archived = json.loads(config.to_json())["alerts"]["channels"]
    common = {"send_resolved": True, "type": "push", "name": "phone"}
    assert archived[1] == {**common, "conn_id": "push_default", "topic": "ops"}
    assert archived[0]["type"] == "log"
    outside = RecordedOutside()
    config.alerts.channels[1].send(message(text="down"), outside, ())
    assert outside.requests[0].body == b"down"


def test_a_mistake_in_its_section_has_file_line_and_field() -> None:
    with pytest.raises(ConfigError, match=r"portmon.yaml:3: alerts.channels\[0\].topic: is missing"):
        _config("{type: push, name: phone}")
    with pytest.raises(ConfigError, match=r"portmon.yaml:3: alerts.channels\[0\]: .*nothing.*expected tags"):
        _config("{type: nothing, name: phone}")


def test_nothing_is_looked_up_or_imported_unless_it_is_configured(package: Path) -> None:
    code = """
        import sys
        import portmon.untrusted.extensions
        def refused(**_):
            raise AssertionError("looked up")
        portmon.untrusted.extensions.entry_points = refused
        from portmon.config import parse_config
        parse_config("alerts:\\n  channels: [{type: log}, {type: webhook, name: h, conn_id: h}]\\n")
        assert not {"acme_portmon", "portmon.alerting.channels.body"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", dedent(code)], check=True, env={"PYTHONPATH": ":".join(sys.path)})


# ── broken ──────────────────────────────────────────────────────────────────────────────────────

BROKEN = {
    "missing": "has no attribute 'Nothing'",
    "broken": "No module named 'no_such_module'",
    "exits": "SystemExit",
    "nosend": "has no method send",
    "other": "is no subclass of portmon.alerting.channels.base.BaseChannel",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_channel_is_named_and_the_others_deliver(kind: str, tmp_path: Path) -> None:
    config = f"alerts:\n  channels:\n    - {{type: log}}\n    - {{type: {kind}, name: theirs, anything: 1}}\n"
    read = parse_config(config)
    (problem,) = read.alerts.channels[1].checked(RecordedOutside())
    # In the archive it stays what it was given, for when its package is mended.
    assert b'{"type":"%s","name":"theirs","anything":1}' % kind.encode() in read.to_json()
    assert problem.startswith(f"channel 'theirs': portmon.channels '{kind}' (")
    assert "of the package acme-portmon" in problem
    assert BROKEN[kind] in problem
    database = migrated(tmp_path / "state.db")
    _delivers_all_but(database, config, BROKEN[kind])


def _delivers_all_but(database: Database, config: str, why: str) -> None:
    fleet = web_fleet(database, 1, config)
    fleet.machines["web000"].kill(80)
    outside, sends = RecordedOutside(), fleet.send

    def send(channel: Any, message: Any, done: tuple[str, ...]) -> None:
        channel.send(message, outside, done)
        sends(channel, message, done)

    fleet.send = send  # type: ignore[method-assign]
    with pytest.raises(DeliveryError, match="channel 'theirs': ") as told:
        fleet.run()
    assert why in str(told.value)
    assert [got.channel for got in fleet.got] == ["log"]
    with database.begin() as conn:
        (waiting,) = deliveries.unfinished(conn)
    assert (waiting.channel, waiting.state) == ("theirs", DeliveryState.PENDING)
    database.dispose()


def test_one_that_raises_is_named_by_its_class_and_place_alone(tmp_path: Path) -> None:
    config = "alerts:\n  channels:\n    - {type: log}\n    - {type: raises, name: theirs, topic: x}\n"
    alerts = parse_config(config).alerts
    (problem,) = alerts.channels[1].checked(RecordedOutside())
    assert problem.startswith("channel 'theirs': its check fails: KeyError")
    missing, _ = alerts.missing_connections(RecordedOutside())
    assert missing[0].startswith("channel 'theirs': its check fails: KeyError")
    _delivers_all_but(
        migrated(tmp_path / "state.db"), config, "failed in an unexpected way: KeyError at acme_portmon.py"
    )


def test_one_that_hangs_has_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = "alerts:\n  channels:\n    - {type: log}\n    - {type: hangs, name: theirs, topic: x}\n"
    monkeypatch.setattr(timeouts, "SEND", timeouts.SEND / 100)
    _delivers_all_but(migrated(tmp_path / "state.db"), config, "no answer within 0.6 s")


def test_an_import_that_hangs_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "IMPORT", extensions.IMPORT / 100)
    (channel,) = _config("{type: slow, name: theirs}").alerts.channels
    assert "can't be imported" in channel.checked(RecordedOutside())[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{type: broken}", "No module named 'no_such_module'"),
        ("{type: raising}", "nested too deeply"),
        ("{type: wrong}", "gave list in place of an Inventory"),
        ("{type: assets, gone: true}", "it is not there"),
    ],
)
def test_a_broken_source_is_a_cmdb_that_is_down(text: str, why: str) -> None:
    with pytest.raises(CmdbError, match=why):
        hosts_of(_source(text), Path(), lambda _: pytest.fail("nothing to ask"))


def test_check_names_what_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "portmon.yaml"
    file.write_text(
        "cmdb:\n  source: {type: broken}\nalerts:\n  channels:\n    - {type: log}\n    - {type: broken, name: theirs}\n",
        encoding="utf-8",
    )
    said = CliRunner().invoke(app, ["check", "--config", str(file)])
    assert said.exit_code == 1
    shown = " ".join(said.output.split())
    assert (
        "portmon.yaml:6: alerts.channels[1]: channel 'theirs': portmon.channels 'broken' (acme_broken:Anything)"
        in shown
    )
    assert "cmdb.source.type: portmon.sources 'broken' (acme_broken:Anything) of the package acme-portmon" in shown
