"""The Alertmanager channel against the real one, and what it makes of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from portmon.airflow.outside import OUTSIDE, deliver
from portmon.alerting.channels import AlertmanagerChannel, alertmanager
from portmon.alerting.channels.alertmanager import payload
from portmon.errors import DeliveryError
from portmon.model.alert import Alert
from portmon.model.event_kinds import AlertRole, EventKind
from tests.airflow.channels.samples import connect, printed
from tests.worlds.alertmanager import Alertmanager, missing
from tests.worlds.messages import LINK, alert, event, message
from tests.worlds.waiting import until

CHANNEL = AlertmanagerChannel(type="alertmanager")
HOSTILE_HOST = 'a"b{c}\n=~,端口'
CONFIG = """
route:
  receiver: hook
  group_by: [alertname, site]
  group_wait: 10ms
  group_interval: 100ms
  repeat_interval: 1h
receivers:
  - name: hook
    webhook_configs:
      - url: {url}
        send_resolved: true
"""
real = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Receiver:
    """What Alertmanager tells its webhook."""

    def __init__(self, server: HTTPServer) -> None:
        self.told: list[dict[str, Any]] = []
        self.url = server.url_for("/am")
        server.expect_request("/am").respond_with_handler(self._take)

    def _take(self, request: Request) -> Any:
        self.told.append(request.get_json())
        return Response()

    def statuses(self) -> list[str]:
        return [told["status"] for told in self.told]


@pytest.fixture
def receiver(httpserver: HTTPServer) -> Receiver:
    return Receiver(httpserver)


@pytest.fixture
def server(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Alertmanager]:
    started = Alertmanager(tmp_path, CONFIG.format(url=receiver.url))
    started.start()
    connect(monkeypatch, "alertmanager_default", started.url)
    yield started
    started.close()


def _down(port: int = 8080, begin: datetime | None = None, **fields: Any) -> Alert:
    begin = begin or _now() - timedelta(minutes=5)
    return alert(event(port=port, at=begin, **fields), id=f"{port:032x}")


def _ended(down: Alert) -> Alert:
    up = event(EventKind.RECOVERED, port=down.event.port, at=_now(), reason="It listens again")
    return replace(down, role=AlertRole.RESOLVED, event=up, ends_at=up.at)


def _send(*alerts: Alert, lasts: float = 600, **fields: Any) -> None:
    deliver(CHANNEL, message(*alerts, expires_at=_now() + timedelta(seconds=lasts), **fields))


# ── the real one ────────────────────────────────────────────────────────────────────────────────


@real
@pytest.mark.slow
def test_firing_shows_as_it_is_and_once_however_often_it_is_sent(server: Alertmanager) -> None:
    down = _down(program="{{ conn.x.password }}", labels={"site": "fra1"})
    _send(down, links=(LINK,))
    (first,) = server.alerts()
    (sent,) = payload(message(down, links=(LINK,)))
    assert first["labels"] == sent["labels"]
    assert first["annotations"] == sent["annotations"]
    assert first["startsAt"] == sent["startsAt"]
    assert first["generatorURL"] == LINK
    assert first["status"]["state"] == "active"

    again = event(EventKind.FLAPPING, "renamed", program="other", reason="8 changes in an hour")
    _send(replace(down, event=again), lasts=900)
    (second,) = server.alerts()
    assert second["fingerprint"] == first["fingerprint"]
    assert second["annotations"]["description"] == "8 changes in an hour"
    assert second["startsAt"] == first["startsAt"]
    assert second["endsAt"] > first["endsAt"]


@real
@pytest.mark.slow
def test_a_silence_says_which_alerts_it_withholds_until_when(server: Alertmanager) -> None:
    downs = [_down(port, labels={"site": "fra1"}, host=HOSTILE_HOST) for port in (1, 2)]
    _send(*downs)
    assert CHANNEL.silenced(downs, OUTSIDE) == {}
    end = _now() + timedelta(hours=2)
    for hours, port, by, why in ((1, "1", "ann", "too short"), (2, "1", "joe\n\u202e", "new disks"), (2, "9", "x", "")):
        matcher = {"name": "port", "value": port, "isRegex": False, "isEqual": True}
        begin, over = _now().isoformat(), (_now() + timedelta(hours=hours)).isoformat()
        silence = {"matchers": [matcher], "startsAt": begin, "endsAt": over, "createdBy": by, "comment": why}
        answer = requests.post(f"{server.url}/api/v2/silences", json=silence, timeout=20)
        assert answer.status_code == 200, answer.text

    def found() -> Any:
        return CHANNEL.silenced(downs, OUTSIDE)

    until(found, "what is silenced")
    (told,) = found().values()
    assert found().keys() == {downs[0].id}
    assert told.ends_at - end < timedelta(seconds=30)
    when = f"{told.ends_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    assert told.told == rf"silenced in Alertmanager by joe\n\u202e until {when}: new disks"
    assert CHANNEL.silenced([], OUTSIDE) == {}


def test_what_is_silenced_is_unknown_if_alertmanager_does_not_say(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "alertmanager_default", f"http://localhost:{httpserver.port}")
    down = _down()
    silenced = {"labels": payload(message(down))[0]["labels"], "status": {"silencedBy": ["a"]}}
    httpserver.expect_ordered_request("/api/v2/alerts").respond_with_data("no", status=503)
    httpserver.expect_ordered_request("/api/v2/alerts").respond_with_json([silenced])
    httpserver.expect_ordered_request("/api/v2/silences").respond_with_json([])
    with pytest.raises(DeliveryError, match="HTTP 503"):
        CHANNEL.silenced([down], OUTSIDE)
    assert CHANNEL.silenced([down], OUTSIDE) == {}, "it expired meanwhile"
    assert [request.args.get("filter") for request, _ in httpserver.log] == ['job="portmon"', 'job="portmon"', None]
    monkeypatch.setattr(alertmanager, "SIZE", 3)
    httpserver.expect_ordered_request("/api/v2/alerts").respond_with_json([silenced])
    with pytest.raises(DeliveryError, match="an answer of over 3 bytes"):
        CHANNEL.silenced([down], OUTSIDE)


@real
@pytest.mark.slow
def test_groups_are_told_firing_and_then_resolved(server: Alertmanager, receiver: Receiver) -> None:
    downs = [_down(port, labels={"site": site}) for port, site in ((1, "fra1"), (2, "fra1"), (3, "ams2"))]
    _send(*downs)

    def ports(status: str) -> list[set[str]]:
        latest = {told["groupKey"]: told for told in receiver.told if told["status"] == status}
        return [{one["labels"]["port"] for one in told["alerts"]} for told in latest.values()]

    until(lambda: sorted(ports("firing"), key=len) == [{"3"}, {"1", "2"}], "two groups fire")
    _send(*map(_ended, downs))
    until(lambda: sorted(ports("resolved"), key=len) == [{"3"}, {"1", "2"}], "both are over")
    assert server.alerts() == []
    (ends,) = {one["annotations"]["kind"] for told in receiver.told[-1:] for one in told["alerts"]}
    assert ends == "recovered"


@real
@pytest.mark.slow
def test_what_is_not_sent_again_ends_by_itself(server: Alertmanager, receiver: Receiver) -> None:
    lasting, short = _down(1, labels={"site": "a"}), _down(2, labels={"site": "b"})
    _send(lasting, short, lasts=10)
    _send(lasting)
    until(lambda: "resolved" in receiver.statuses(), "the end")
    until(lambda: len(server.alerts()) == 1, "one is left")
    assert server.alerts()[0]["labels"]["port"] == "1"
    assert [told["commonLabels"]["port"] for told in receiver.told if told["status"] == "resolved"] == ["2"]


@real
@pytest.mark.slow
def test_notice_shows_until_it_expires(server: Alertmanager) -> None:
    _send(alert(event(EventKind.NEW, at=_now()), AlertRole.NOTICE), lasts=10)
    (notice,) = server.alerts()
    assert notice["labels"]["alertname"] == "PortNew"
    until(lambda: server.alerts() == [], "it expires")


@real
@pytest.mark.slow
def test_next_alert_of_a_port_is_the_same_with_a_new_beginning(server: Alertmanager) -> None:
    old = _down(begin=_now() - timedelta(hours=2))
    _send(old)
    (first,) = server.alerts()
    _send(_ended(old))
    assert server.alerts() == []
    begin = _now() + timedelta(seconds=1)
    _send(_ended(old), replace(_down(begin=begin), id="f" * 32))
    (second,) = server.alerts()
    assert second["fingerprint"] == first["fingerprint"]
    assert second["startsAt"].startswith(f"{begin:%Y-%m-%dT%H:%M:%S}")


@real
@pytest.mark.slow
def test_crash_of_alertmanager_is_no_end_of_an_alert(server: Alertmanager, receiver: Receiver) -> None:
    down = _down()
    _send(down)
    (first,) = server.alerts()
    until(lambda: receiver.statuses() == ["firing"], "it fires")
    server.kill()
    with pytest.raises(DeliveryError, match="the connection failed"):
        _send(down)
    server.start()
    # It keeps silences on disk, and no alerts.
    assert server.alerts() == []
    _send(down)
    (second,) = server.alerts()
    assert (second["fingerprint"], second["startsAt"]) == (first["fingerprint"], first["startsAt"])
    until(lambda: len(receiver.told) == 2, "it fires again")
    _send(_ended(down))
    until(lambda: "resolved" in receiver.statuses(), "the end")
    assert receiver.statuses() == ["firing", "firing", "resolved"]


@real
@pytest.mark.slow
def test_many_alerts_go_in_several_requests(server: Alertmanager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alertmanager, "BATCH", 100)
    _send(*(_down(port) for port in range(1, 251)))
    assert len({one["labels"]["port"] for one in server.alerts()}) == 250


texts = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["\udcff", "{{ conn.x.password }}", "{{", "a\x00b", "\u2028", "port", "__name__"]
)


@real
@pytest.mark.slow
def test_nothing_that_a_host_says_makes_it_refuse_an_alert(server: Alertmanager) -> None:
    """One request with one alert that is invalid gets 400 or 422, and would stay in the queue for ever."""

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(
            st.tuples(
                texts,
                texts,
                texts,
                st.dictionaries(texts, texts, max_size=4),
                texts | st.just(LINK),
                st.integers(-9, 9),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def send(given: list[tuple[str, str, str, dict[str, str], str, int]]) -> None:
        alerts, links = [], []
        for number, (host, program, reason, labels, link, hours) in enumerate(given):
            told = event(host=f"{host}{number}", program=program, unit=program, reason=reason, labels=labels)
            role = list(AlertRole)[number % 3]
            end = told.at + timedelta(hours=hours) if role is AlertRole.RESOLVED else None
            alerts.append(alert(told, role, id=str(number), ends_at=end))
            links += [link]
        expires = _now() + timedelta(hours=given[0][5])
        deliver(CHANNEL, message(*alerts, links=tuple(links), expires_at=expires))

    send()


@real
@pytest.mark.slow
def test_what_it_refuses_is_why_labels_are_cleaned(server: Alertmanager) -> None:
    """Facts about the server that :mod:`portmon.alerting.channels.alertmanager` relies on."""

    def post(*alerts: dict[str, Any]) -> int:
        return requests.post(f"{server.url}/api/v2/alerts", json=alerts, timeout=20).status_code

    fine = {"labels": {"alertname": "Fine"}}
    begin, end = "2026-01-01T00:00:02Z", "2026-01-01T00:00:01Z"
    assert post(fine, {"labels": {"alertname": "x"}, "generatorURL": "http://a/%zz"}) == 422
    assert server.alerts() == []
    assert post({"labels": {"alertname": "x"}, "startsAt": begin, "endsAt": end}) == 400
    assert post({"labels": {"alertname": "x", "a-b": "c"}}, fine) == 400
    assert [one["labels"]["alertname"] for one in server.alerts()] == ["Fine"]
    assert post({"labels": {"alertname": "x"}, "startsAt": begin, "endsAt": begin}) == 200


# ── answers ─────────────────────────────────────────────────────────────────────────────────────


def _proxy(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    connect(monkeypatch, "alertmanager_default", httpserver.url_for("/prefix/"), login="me", password="s3cret")
    return httpserver.expect_ordered_request


@pytest.mark.parametrize("status", [202, 204, 302, 400, 404, 500])
def test_only_200_is_success(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    expect = _proxy(httpserver, monkeypatch)
    expect("/prefix/api/v2/alerts", method="POST").respond_with_data(
        '"start time must be before end time"', status=status
    )
    with pytest.raises(DeliveryError, match=f"HTTP {status}") as failure:
        _send(_down())
    assert failure.value.channel == "alertmanager"
    assert "s3cret" not in printed(failure.value)
    expect("/prefix/api/v2/alerts", method="POST").respond_with_data("")
    _send(_down())


def test_batch_that_fails_is_sent_again_with_all_others(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alertmanager, "BATCH", 2)
    expect = _proxy(httpserver, monkeypatch)
    for status in (200, 500, 200, 200, 200):
        expect("/prefix/api/v2/alerts").respond_with_data("", status=status)
    downs = [_down(port) for port in range(1, 6)]
    with pytest.raises(DeliveryError, match="HTTP 500"):
        _send(*downs)
    _send(*downs)
    sizes = [len(json.loads(request.get_data())) for request, _ in httpserver.log]
    assert sizes == [2, 2, 2, 2, 1]


def test_message_without_alerts_makes_no_request() -> None:
    deliver(CHANNEL, message())
