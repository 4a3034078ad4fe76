"""One look over a connection: what is asked, what is asked for again, and how."""

from __future__ import annotations

import re
from typing import Any

import pytest

from portmon.errors import AnswerError
from portmon.scan import answer as scan
from portmon.scan.host import Expected, HostScan
from portmon.ssh.config import HostSettings
from portmon.ssh.session import CommandResult
from tests.worlds.netstat import frame, netstat, ss_of


class Answers:
    """Stands in for a connection: it prints one frame after the other, and keeps what it was asked."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)
        self.asked: list[str] = []

    def run(self, command: str, **_: Any) -> CommandResult:
        self.asked.append(command)
        return CommandResult(self.frames.pop(0), b"", 0, 0.1)


def look(expected: Expected | None = None, **settings: Any) -> HostScan:
    return HostScan(scan.Recorder("1", "run", 1), "web1", expected or Expected(), HostSettings(**settings))


TABLES = "/proc/self/status:Uid:\t0\t0\t0\t0\n/proc/net/udp:   sl  local_address"
AGREES = frame(netstat(80, 81), ssx=ss_of(80, 81))
CONTRADICTS = frame(netstat(), ssx=ss_of(80))


def test_a_contradiction_is_asked_for_again_at_once() -> None:
    answers, one = Answers(CONTRADICTS, AGREES), look()
    one.ask(answers)  # type: ignore[arg-type]
    assert len(answers.asked) == 2
    assert {listener.port for listener in one.answers[0].listing.listeners} == {80, 81}
    assert one.success(duration=1).frames == (one.answers[0].frame,)


def test_a_second_contradiction_is_invalid() -> None:
    answers, one = Answers(CONTRADICTS, CONTRADICTS, AGREES), look()
    with pytest.raises(AnswerError, match="contradict each other"):
        one.ask(answers)  # type: ignore[arg-type]
    assert len(answers.frames) == 1


def test_what_is_no_contradiction_is_not_asked_for_again() -> None:
    answers, one = Answers(frame(netstat(80), ended=139), AGREES), look()
    with pytest.raises(AnswerError, match="did not end by itself"):
        one.ask(answers)  # type: ignore[arg-type]
    assert len(answers.frames) == 1


def parameters(command: str) -> dict[str, str]:
    """What stands at its beginning, each once."""
    return dict(reversed(re.findall(r" ([skmlx])=([^;]*);", command)))


def test_how_a_host_is_asked() -> None:
    assert parameters(look().command("abcd")) == {"s": "0", "k": "6", "m": "5000", "l": "", "x": ""}
    expected = Expected(tool="ss", hung=("ss", "netstat"))
    asked = look(expected, sudo=True, netstat_up_to=7, command_timeout="60s").command("abcd")
    assert parameters(asked) == {"s": "1", "k": "18", "m": "7", "l": "ss", "x": "netstat,ss"}
    assert parameters(look(command_timeout="2s").command("abcd"))["k"] == "1"
    assert [" D=udp;" in look(**one).command("abcd") for one in ({}, {"protocols": ["tcp", "udp"]})] == [False, True]


@pytest.mark.parametrize(
    ("protocols", "fields", "lacks"),
    [
        (["tcp"], {}, False),
        (["tcp", "udp"], {}, True),
        (["tcp", "udp"], {"udp": "1", "proc": TABLES}, False),
        (["tcp", "udp"], {"udp": "1", "udp6": "1", "proc": TABLES}, True),
    ],
)
def test_whether_udp_is_shown_where_it_is_asked_for(protocols: list[str], fields: dict[str, str], lacks: bool) -> None:
    one = look(protocols=protocols)
    assert not one.lacks_udp
    one.ask(Answers(frame(netstat(80), **fields)))  # type: ignore[arg-type]
    assert one.lacks_udp == lacks


def test_a_tool_that_hung_is_not_asked_for_the_confirmation() -> None:
    hung = frame(ss_of(80), tool="ss", tried=",netstat:limit")
    answers, one = Answers(hung, hung), look(Expected(ports=[80, 81]))
    one.ask(answers)  # type: ignore[arg-type]
    assert one.gone == [81]
    one.ask_again(answers)  # type: ignore[arg-type]
    assert [parameters(command)["x"] for command in answers.asked] == ["", "netstat"]
    assert one.still == [81]


def test_a_settled_answer_is_hashed_once_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    first = look()
    first.ask(Answers(AGREES))  # type: ignore[arg-type]
    (answer,) = first.answers
    settled = scan.SettledAnswer("fingerprint", answer.digest, "facts")
    hashed: list[bytes] = []
    real = scan.hashlib.sha256
    monkeypatch.setattr(scan.hashlib, "sha256", lambda data: hashed.append(data) or real(data))
    for frame_, unchanged in ((AGREES, True), (frame(netstat(80)), False)):
        one = look()
        one.settled = settled
        one.ask(Answers(frame_))  # type: ignore[arg-type]
        record = one.success(duration=1)
        assert (one.unchanged is not None) == unchanged
        assert record.digests == (real(record.frames[0]).hexdigest(),)
    assert len(hashed) == 2
