"""The log channel, and errors that no channel expects."""

from __future__ import annotations

import logging
import re
import traceback
from pathlib import Path

import pytest

from portmon.airflow.outside import deliver
from portmon.alerting.channels import LogChannel
from portmon.alerting.message.render import Message
from portmon.errors import DeliveryError
from portmon.model.event_kinds import Severity
from portmon.model.observation import Listener, Listing
from portmon.scan.answer import table
from tests.airflow.channels.samples import MESSAGE
from tests.airflow.channels.test_mail import Sending


def test_log_has_title_and_every_line_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="portmon.alerts"):
        deliver(LogChannel(type="log"), MESSAGE)
    assert [record.getMessage().strip() for record in caplog.records] == [MESSAGE.title, *MESSAGE.text.split("\n")]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_log_of_good_news_is_information(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="portmon.alerts"):
        deliver(LogChannel(type="log"), Message(title="t", text="a\x0bb", html="", severity=Severity.INFO))
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert not any("\x0b" in record.getMessage() for record in caplog.records)


def test_no_name_folds_a_task_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Airflow's page hides what comes after ::group::, wherever in a line it stands."""
    evil = "::group::x ::endgroup:: ##[group]"
    fleet = Sending(tmp_path, "alerts:\n  channels: [{type: log}]\n", 1, name=evil + "{}")
    with caplog.at_level(logging.DEBUG, logger="portmon"):
        (machine,) = fleet.machines.values()
        machine.start(81, evil)
        fleet.run()
        machine.kill(80)
        fleet.run()
        machine.trouble = evil
        for _ in range(3):
            fleet.run()
        fleet.listed.clear()
        fleet.run()
        seen = Listing("netstat-W", 0, listeners=(Listener("tcp", evil, 1, 1, evil, unit=evil),))
        logging.getLogger("portmon").info("Listening:\n%s", table(seen))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("portmon")]
    assert any(record.name == "portmon.alerts" and "group::x" in record.getMessage() for record in caplog.records)
    assert any(
        record.name == "portmon.steps.evaluate" and "group::x" in record.getMessage() for record in caplog.records
    )
    for line in "\n".join(told).splitlines():
        assert not re.search(r"::(end)?group::|##\[", line), line


def test_what_a_channel_raises_unexpectedly_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("POST https://hooks.example.com/services/T000/B000/SECRETSECRET failed")

    monkeypatch.setattr(LogChannel, "send", fail)
    with pytest.raises(DeliveryError, match=r"channel 'log': failed in an unexpected way: RuntimeError") as failure:
        deliver(LogChannel(type="log"), MESSAGE)
    assert "https://hooks.example.com/…" in str(failure.value)
    assert "SECRETSECRET" not in "".join(traceback.format_exception(failure.value))


def test_an_error_whose_text_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class BadError(Exception):
        def __str__(self) -> str:
            raise ValueError("SECRET")

    def fail(*_: object) -> None:
        raise BadError

    monkeypatch.setattr(LogChannel, "send", fail)
    with pytest.raises(DeliveryError, match="BadError: its text can't be read") as failure:
        deliver(LogChannel(type="log"), MESSAGE)
    assert "SECRET" not in "".join(traceback.format_exception(failure.value))
