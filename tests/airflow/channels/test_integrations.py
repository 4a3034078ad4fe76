"""The examples of docs/integrations.md, each sent to a server that checks what the service documents."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from portmon.airflow.outside import deliver
from portmon.alerting.message.render import Layout, Message, render
from portmon.config import parse_config
from portmon.errors import DeliveryError
from portmon.model.alert import Alert
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind, Severity
from tests.airflow.channels.samples import connect
from tests.worlds.documented import SCHEMAS
from tests.worlds.messages import LINK, NOW, PAGE, alert, event

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "integrations.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```yaml (\w+)\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL))
JSM = "/jsm/ops/integration/v2/alerts"
PATHS = {
    "servicenow": r"/api/global/em/jsonv2",
    "jsm": rf"{JSM}(/[0-9a-f]+/close)?",
    "splunk": "/services/collector/event",
    "mattermost": "/",
}
NASTY = 'a"b\\c\n</x>{{ conn.x.password }}@all 端\ud800\udcff' + "x" * 5000


class Server:
    """Takes what fits its schema, and nothing else."""

    def __init__(self, name: str, server: HTTPServer) -> None:
        self.name, self.got, self.wrong = name, [], []  # type: tuple[str, list[tuple[str, Any]], list[str]]
        self._schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
        server.expect_request(re.compile(PATHS[name]), method="POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        body = json.loads(request.get_data().decode("utf-8"))
        schema = self._schema
        if self.name == "jsm":
            closes = request.path.endswith("/close") and request.args["identifierType"] == "alias"
            schema = schema["$defs"]["close" if closes else "create"]
        errors = [error.message for error in Draft202012Validator(schema).iter_errors(body)]
        if request.headers["Content-Type"] != "application/json":
            errors.append("no JSON")
        self.wrong += errors
        self.got.append((request.path, body))
        return Response("ok", status=400 if errors else {"jsm": 202}.get(self.name, 200))


@pytest.fixture(params=EXAMPLES)
def service(request: pytest.FixtureRequest, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Server:
    connect(monkeypatch, request.param, f"http://localhost:{httpserver.port}")
    return Server(request.param, httpserver)


def _message(*alerts: Alert) -> Message:
    return render(alerts, AlertGroup.DOWN, layout=Layout(), link=lambda _: LINK, page_of=lambda _: PAGE, page=PAGE)


def _over() -> Alert:
    end = NOW + timedelta(minutes=5)
    return alert(event(EventKind.RECOVERED, at=end), AlertRole.RESOLVED, id=event().id, first=event(), ends_at=end)


def test_there_are_four() -> None:
    assert EXAMPLES.keys() == PATHS.keys()


def test_examples_send_what_the_services_document(service: Server) -> None:
    (channel,) = parse_config(EXAMPLES[service.name]).alerts.channels
    nasty = {"host": NASTY, "program": NASTY, "unit": NASTY, "reason": NASTY, "labels": {NASTY: NASTY}}
    many = (event(port=number, severity=Severity.WARNING) for number in range(1, 4))
    for own in (
        (alert(event(program="java", unit="app.service", labels={"team": "web"})),),
        (_over(),),
        (alert(event(EventKind.NEW), AlertRole.NOTICE),),
        (alert(event(EventKind.CMDB_STALE, host=None, port=None)),),
        tuple(map(alert, many)),
        (alert(event(**nasty)),),
    ):
        deliver(channel, _message(*own))
    assert service.wrong == []
    assert len(service.got) == (8 if service.name in ("jsm", "splunk") else 6)


@pytest.mark.parametrize("service", ["servicenow"], indirect=True)
def test_servicenow_closes_what_it_opened(service: Server) -> None:
    (channel,) = parse_config(EXAMPLES["servicenow"]).alerts.channels
    for own in (alert(event()), _over()):
        deliver(channel, _message(own))
    (opened,), (closed,) = (body["records"] for _, body in service.got)
    assert opened["message_key"] == closed["message_key"] == event().id
    assert [(one["severity"], one["resolution_state"]) for one in (opened, closed)] == [("1", "New"), ("0", "Closing")]
    assert opened["time_of_event"] == "2026-03-09 12:00:00"
    assert json.loads(opened["additional_info"])["page"] == PAGE


@pytest.mark.parametrize("service", ["jsm"], indirect=True)
def test_jira_closes_by_the_alias(service: Server) -> None:
    (channel,) = parse_config(EXAMPLES["jsm"]).alerts.channels
    for own in (alert(event()), _over()):
        deliver(channel, _message(own))
    assert service.got[0][1]["alias"] == event().id
    assert service.got[1][0] == f"{JSM}/{event().id}/close"


@pytest.mark.parametrize("service", ["splunk"], indirect=True)
def test_splunk_gets_the_time_of_the_event(service: Server) -> None:
    (channel,) = parse_config(EXAMPLES["splunk"]).alerts.channels
    deliver(channel, _message(alert(event())))
    assert datetime.fromtimestamp(service.got[0][1]["time"], UTC) == NOW


@pytest.mark.parametrize("service", ["splunk"], indirect=True)
def test_alerts_that_arrived_one_by_one_are_not_sent_again(service: Server, httpserver: HTTPServer) -> None:
    (channel,) = parse_config(EXAMPLES["splunk"]).alerts.channels
    keys: list[str] = []

    def take(request: Request) -> Response:
        keys.append(request.headers["Idempotency-Key"])
        return Response(status=500 if len(keys) == 2 else 200)

    httpserver.clear_all_handlers()
    httpserver.expect_request("/services/collector/event").respond_with_handler(take)
    own = _message(*(alert(event(port=number)) for number in range(1, 4)))
    with pytest.raises(DeliveryError, match="1 alert of 3 did not arrive") as told:
        deliver(channel, own)
    assert told.value.taken == (own.alerts[0].event.id, own.alerts[2].event.id)
    deliver(channel, _message(own.alerts[1]))
    assert keys[3] == keys[1]
    assert len(set(keys)) == 3
