"""Chat services: what goes over the wire is not longer than they take, and what they refuse is not delivered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import apprise
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Response

from portmon.airflow.outside import deliver
from portmon.alerting.channels import AppriseChannel, WebhookChannel
from portmon.alerting.channels.fitting import fitted
from portmon.alerting.channels.services import BY_SCHEMA, SERVICES
from portmon.alerting.message.render import Layout, Message, render
from portmon.errors import DeliveryError
from portmon.model.event_kinds import AlertGroup
from tests.airflow.channels.samples import connect
from tests.airflow.channels.test_mail import Sending
from tests.airflow.channels.vendors import VENDORS, Service, connection
from tests.worlds.messages import alert, event, message

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "alerts.md").read_text(encoding="utf-8")
PAGE = "https://airflow.example.com/portmon"
NAMES = {
    "plain": "web{:03}.prod.example.com",
    "hostile": "srv_{:03}_*a*_[x](y)<b>&amp;_`c`~|]",
    "wide": "数据库服务器😀-{:03}-生产环境",
}


@pytest.fixture(params=VENDORS)
def service(request: pytest.FixtureRequest, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(VENDORS[request.param], httpserver, monkeypatch)


def _service(name: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(VENDORS[name], httpserver, monkeypatch)


def _with_another_target(
    name: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> tuple[Service, list[bytes]]:
    """A service and, over the same connection, a receiver that takes everything; the bodies that this one got."""
    service = _service(name, httpserver, monkeypatch)
    got: list[bytes] = []
    httpserver.expect_request("/json").respond_with_handler(
        lambda request: got.append(request.get_data()) or Response()
    )
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", connection(service.vendor.url, f"json://localhost:{httpserver.port}/json"))
    return service, got


def _channel(form: str = "text") -> AppriseChannel:
    return AppriseChannel.model_validate({"type": "apprise", "name": "chat", "conn_id": "chat", "format": form})


def _downs(name: str, hosts: int, *, language: Any = "en", **fields: Any) -> Message:
    alerts = [
        alert(event(host=name.format(number), port=80, program=name.format(number), **fields))
        for number in range(hosts)
    ]
    return render(
        alerts,
        AlertGroup.DOWN,
        layout=Layout(language=language),
        link=lambda told: f"{PAGE}/log/{told.host_id}",
        page=PAGE,
    )


# ── sizes ───────────────────────────────────────────────────────────────────────────────────────


def _sizes(service: Service) -> list[tuple[int, int]]:
    return [service.vendor.size(body, json.loads(body)) for body in service.got]


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
@pytest.mark.parametrize("name", NAMES)
def test_a_big_message_is_taken_with_what_fits_and_the_rest_counted(service: Service, name: str, form: str) -> None:
    deliver(_channel(form), _downs(NAMES[name], 300))
    ((size, limit),) = _sizes(service)
    assert size <= limit
    (text,) = service.texts()
    assert "300 ports down" in text
    (more,) = re.findall(r"and (\d+) more", text)
    listed = 300 - int(more)
    assert PAGE in text
    if name == "plain":
        assert len(set(re.findall(r"web\d{3}\.prod", text))) == listed
        # As many as fit, or as many as any message lists.
        assert listed == 50 or size > 0.7 * limit
    assert "<html" not in text
    assert "color-scheme" not in text


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("hosts", [1, 2, 9])
def test_what_fits_comes_whole_and_what_does_not_is_taken_all_the_same(
    service: Service, hosts: int, language: str
) -> None:
    deliver(_channel(), _downs("名" * 120 + "{}", hosts, language=language, reason="因" * 300))
    ((size, limit),) = _sizes(service)
    assert size <= limit


_CHARS = st.characters(exclude_categories=["Cs"])


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    title=st.text(_CHARS, min_size=1, max_size=160) | st.sampled_from(["&" * 160, "名" * 160, "😀" * 160]),
    lines=st.lists(st.text(_CHARS, max_size=300) | st.sampled_from(["x" * 50_000, "a_b*c" * 900]), max_size=60),
    form=st.sampled_from(["text", "markdown"]),
)
def test_no_text_whatever_is_too_long(service: Service, title: str, lines: list[str], form: str) -> None:
    body = "\n".join(["first", *lines])
    service.got.clear()
    deliver(_channel(form), message(title=title, text=body, markdown=body))
    for size, limit in _sizes(service):
        assert size <= limit
    assert service.got


def test_a_message_is_cut_to_each_size_and_says_what_is_left_out() -> None:
    whole = message(title="t" * 40, text="\n".join(f"line {number}" for number in range(100)))
    for limit in range(1, 1200, 7):
        title, body = fitted(whole, "text", lambda title, body: len(title) + len(body) <= limit)  # noqa: B023
        if limit > 60:
            assert len(title) + len(body) <= limit
            left = re.search(r"… \(\+(\d+)\)\Z", body)
            assert body == whole.text or left
            if left:
                assert body.count("line") == 100 - int(left[1])


def test_the_table_is_in_the_docs_and_names_what_apprise_knows() -> None:
    for service in SERVICES:
        assert service.source in DOCS, service.name
        for limit in service.limits:
            row = next(line for line in DOCS.splitlines() if line.startswith(f"| {service.name} |"))
            assert f"{limit.size:,} {limit.unit}" in row, (service.name, limit)
    shown = {url.partition("://")[0] for url in re.findall(r'"path": "([^"]+)"', DOCS)}
    assert shown - {"mailto", "mailtos"} == set(BY_SCHEMA)
    for vendor in VENDORS.values():
        plugin = apprise.Apprise.instantiate(vendor.url)
        assert plugin is not None
        assert set(plugin.schemas()) & set(BY_SCHEMA)


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
@pytest.mark.parametrize("schema", ["json", "rocket"])
def test_what_any_other_service_gets_is_cut_at_lines_with_a_count(
    schema: str, form: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[dict[str, Any]] = []
    httpserver.expect_request(re.compile("/.*")).respond_with_handler(
        lambda request: got.append(request.get_json()) or Response('{"success": true}')
    )
    where = {"json": "json://localhost:{}/in", "rocket": "rocket://a/b@localhost:{}/#ops"}[schema]
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", connection(where.format(httpserver.port)))
    deliver(_channel(form), _downs("&" * 100 + "{:03}", 300))
    (sent,) = got
    text = sent["message"] if schema == "json" else sent["text"]
    assert re.search(r"and \d+ more", text)
    assert "300 ports down" in json.dumps(sent)
    if (schema, form) == ("json", "html"):
        assert text.endswith("</html>")


def test_embeds_of_discord_have_a_limit_in_all() -> None:
    def request(field: int) -> bytes:
        fields = [{"name": "n", "value": "v" * field}] * 5
        return json.dumps({"embeds": [{"title": "t", "description": "d" * 900, "fields": fields}]}).encode()

    assert not BY_SCHEMA["discord"].exceeded(request(1_018))
    assert BY_SCHEMA["discord"].exceeded(request(1_019))
    assert not BY_SCHEMA["discord"].exceeded(b'{"content": "x"}')


# ── refusals ────────────────────────────────────────────────────────────────────────────────────

REFUSALS: dict[str, list[tuple[int, Any]]] = {
    "dingtalk": [
        (200, {"errcode": 310000, "errmsg": "keywords not in content"}),
        (200, {"errcode": 310000, "errmsg": "sign not match, more: [https://ding-doc.dingtalk.com/doc]"}),
        (200, {"errcode": 300001, "errmsg": "token is not exist"}),
        (200, "<html><body>Blocked by the proxy</body></html>"),
        (503, "try later"),
    ],
    "wecom": [
        (200, {"errcode": 93000, "errmsg": "invalid webhook url, hint: [1]"}),
        (200, {"errcode": 40058, "errmsg": "content exceed max length"}),
        (200, {"errcode": "40008", "errmsg": "invalid message type"}),
    ],
    "feishu": [
        (
            200,
            {"code": 19021, "data": {}, "msg": "sign match fail or timestamp is not within one hour from current time"},
        ),
        (200, {"code": 19024, "data": {}, "msg": "Key Words Not Found"}),
        (200, {"StatusCode": 19001, "StatusMessage": "param invalid: incoming webhook access token invalid"}),
        (400, {"code": 9499, "msg": "Bad Request", "data": {}}),
    ],
    "lark": [(200, {"code": 19022, "data": {}, "msg": "Ip Not Allowed"})],
    "slack": [(200, "no_text"), (403, "invalid_token"), (404, "no_service"), (410, "channel_is_archived")],
    "discord": [(404, {"message": "Unknown Webhook", "code": 10015})],
    "telegram": [
        (403, {"ok": False, "error_code": 403, "description": "Forbidden: bot was kicked from the group chat"}),
        (200, {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}),
    ],
    "pagerduty": [(400, {"status": "invalid event", "message": "Event object is invalid", "errors": ["bad key"]})],
}


def _said(answer: Any) -> str:
    if isinstance(answer, str):
        return answer[:12]
    return str(
        next(answer[name] for name in ("errmsg", "msg", "description", "StatusMessage", "message") if name in answer)
    )


@pytest.mark.parametrize(
    ("name", "refused"), [(name, refused) for name, answers in REFUSALS.items() for refused in answers]
)
def test_a_refusal_is_told_with_its_reason_whatever_its_status(
    name: str, refused: tuple[int, Any], httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = _service(name, httpserver, monkeypatch)
    service.answers = [(*refused, {})]
    with pytest.raises(DeliveryError) as failure:
        deliver(_channel(), _downs("web{}", 1))
    told = str(failure.value)
    assert failure.value.delivered == ()
    assert failure.value.waits == {}
    if name != "slack" or refused[0] != 200:
        # Slack's webhook says ok or it says why; what is neither is an error of Apprise's own.
        assert _said(refused[1])[:20] in told
    for code in ("errcode", "code", "StatusCode"):
        if refused[0] == 200 and isinstance(refused[1], dict) and code in refused[1] and name != "telegram":
            assert f"{code} {refused[1][code]}" in told
    deliver(_channel(), _downs("web{}", 1))


NO_ANSWERS: dict[str, Any] = {
    "empty": "",
    "page": "<html><body>Sign in</body></html>",
    "text": "gateway: queued",
    "list": [0],
    "number": 0,
    "null": "null",
    "empty object": {},
    "no code": {"errcode": None, "code": None, "ok": None, "status": None},
    "gateway of Alibaba": {"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": "0"},
    "very long": f"[{'1,' * 100_000}1]",
    "very deep": "[" * 50_000,
    "cut": '{"errcode": 0, "code": 0, "ok": true, "status": "succ',
}


@pytest.mark.parametrize("name", ["dingtalk", "wecom", "feishu", "lark", "telegram", "pagerduty", "slack"])
def test_an_answer_that_is_none_of_the_service_is_no_success(
    name: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = _service(name, httpserver, monkeypatch)
    for kind, answer in NO_ANSWERS.items():
        service.answers = [(200, answer, {})]
        with pytest.raises(DeliveryError) as failure:
            deliver(_channel(), _downs("web{}", 1))
        assert failure.value.delivered == (), kind
        assert service.answers == [], kind
    service.got.clear()
    deliver(_channel(), _downs("web{}", 1))
    assert len(service.got) == 1


def test_an_answer_without_end_is_not_read_to_its_end(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    service, sent = _service("dingtalk", httpserver, monkeypatch), []

    def endless() -> Iterator[bytes]:
        while len(sent) < 4_000:
            sent.append(1)
            yield b" " * 65_536

    httpserver.clear()
    httpserver.expect_request(re.compile("/service.*")).respond_with_handler(lambda _: Response(endless()))
    with pytest.raises(DeliveryError, match="no errcode 0"):
        deliver(_channel(), _downs("web{}", 1))
    assert service.got == []
    assert len(sent) < 1_000


def test_a_page_is_no_success_of_discord_either(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    service = _service("discord", httpserver, monkeypatch)
    service.answers = [(200, NO_ANSWERS["page"], {}), (200, {"id": "1", "type": 0, "content": "x"}, {})]
    with pytest.raises(DeliveryError, match="Sign in"):
        deliver(_channel(), _downs("web{}", 1))
    deliver(_channel(), _downs("web{}", 1))


DENIALS: list[tuple[Any, str, dict[str, float]]] = [
    ({"success": False, "message": "no such room"}, "no such room", {}),
    ({"ok": False, "error": "channel_not_found"}, "channel_not_found", {}),
    ({"errcode": 40035, "errmsg": "param invalid"}, "errcode 40035", {}),
    ({"errcode": "M_LIMIT_EXCEEDED", "error": "Too many requests"}, "M_LIMIT_EXCEEDED", {"": 60.0}),
    ({"result": "error", "msg": "Invalid API key"}, "Invalid API key", {}),
    ({"status": "fail", "reason": "no such topic"}, "no such topic", {}),
    (
        "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ContextId 1",
        "HTTP 429",
        {"": 60.0},
    ),
]
TAKEN: list[Any] = [
    "",
    "ok",
    "1",
    "<html>thanks</html>",
    [1],
    7,
    {},
    {"success": True},
    {"status": "success", "code": 200},
    {"errcode": 0, "errmsg": "ok"},
    {"result": "success", "errors": []},
    "null",
    "[" * 50_000,
]


@pytest.mark.parametrize("kind", ["webhook", "apprise"])
def test_any_receiver_that_says_that_it_refuses_is_believed_and_no_other(
    kind: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    httpserver.expect_request("/in").respond_with_handler(
        lambda _: Response(said[0] if isinstance(said[0], str) else json.dumps(said[0]))
    )
    connect(monkeypatch, "hook", f"http://localhost:{httpserver.port}")
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", connection(f"json://localhost:{httpserver.port}/in"))
    hook = WebhookChannel(type="webhook", name="hook", conn_id="hook", endpoint="in")
    channel = hook if kind == "webhook" else _channel()
    for answer, shown, waits in DENIALS:
        said[:] = [answer]
        with pytest.raises(DeliveryError) as failure:
            deliver(channel, _downs("web{}", 1))
        assert shown in str(failure.value)
        assert list(failure.value.waits.values()) == list(waits.values())
    for answer in TAKEN:
        said[:] = [answer]
        deliver(channel, _downs("web{}", 1))


def test_what_is_taken_is_delivered_once(service: Service) -> None:
    deliver(_channel(), _downs("web{}", 1))
    assert len(service.got) == 1
    assert service.answers == []


def test_one_target_that_refuses_in_a_200_is_asked_again_alone(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, other = _with_another_target("dingtalk", httpserver, monkeypatch)
    service.answers = [(200, {"errcode": 310000, "errmsg": "keywords not in content"}, {})]
    with pytest.raises(DeliveryError, match=r"1 of 2 targets.*errcode 310000.*keywords not in content") as failure:
        deliver(_channel(), _downs("web{}", 1))
    assert len(failure.value.delivered) == 1
    deliver(_channel(), _downs("web{}", 1), done=failure.value.delivered)
    assert len(service.got) == 2
    assert len(other) == 1


@pytest.mark.parametrize("refused", [(403, "bot was kicked"), (200, "chat not found")])
def test_a_chat_of_a_target_that_took_it_is_not_asked_again(
    refused: tuple[int, str], httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = _service("telegram", httpserver, monkeypatch)
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", connection(f"{service.vendor.url}-1005678/"))
    taken = (*service.vendor.taken, {})
    denied = (refused[0], {"ok": False, "description": refused[1]}, {})
    service.answers = [taken, denied]
    with pytest.raises(DeliveryError, match=refused[1]) as failure:
        deliver(_channel(), _downs("web{}", 1))
    service.answers = [denied]
    with pytest.raises(DeliveryError, match=refused[1]):
        deliver(_channel(), _downs("web{}", 1), done=failure.value.delivered)
    deliver(_channel(), _downs("web{}", 1), done=failure.value.delivered)
    chats = [str(json.loads(body)["chat_id"]) for body in service.got]
    assert chats[2:] == [chats[1]] * 2
    assert chats[0] != chats[1]


def test_any_service_that_says_that_it_failed_is_believed(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/json").respond_with_json({"success": False, "message": "no such room"})
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", connection(f"json://localhost:{httpserver.port}/json"))
    with pytest.raises(DeliveryError, match="no such room"):
        deliver(_channel(), _downs("web{}", 1))


# ── too often ───────────────────────────────────────────────────────────────────────────────────

TOO_OFTEN = [
    ("dingtalk", (200, {"errcode": 130101, "errmsg": "send too fast, exceed 20 times per minute"}, {}), 600),
    ("dingtalk", (200, {"errcode": 410100, "errmsg": "x"}, {}), 600),
    ("wecom", (200, {"errcode": 45011, "errmsg": "x"}, {}), 60),
    ("discord", (429, '{"retry_after": 1' + "0" * 400 + "}", {}), 60),
    ("telegram", (429, "x", {"Retry-After": "1 Jan 99999999999999999999 00:00:00 GMT"}), 60),
    ("telegram", (429, {"ok": False, "retry_after_ms": 2500}, {}), 2.5),
    ("wecom", (200, {"errcode": 45009, "errmsg": "api freq out of limit"}, {}), 60),
    ("feishu", (200, {"code": 9499, "msg": "too many request", "data": {}}, {}), 60),
    ("feishu", (400, {"code": 11232, "msg": "frequency limited", "data": {}}, {}), 60),
    (
        "feishu",
        (429, {"code": 99991400, "msg": "request trigger frequency limit"}, {"x-ogw-ratelimit-reset": "33"}),
        33,
    ),
    ("lark", (200, {"code": 11232, "msg": "frequency limited psm", "data": {}}, {}), 60),
    ("slack", (429, "rate_limited", {"Retry-After": "30"}), 30),
    ("discord", (429, {"message": "You are being rate limited.", "retry_after": 64.57}, {}), 64.57),
    ("telegram", (429, {"ok": False, "description": "Too Many Requests", "parameters": {"retry_after": 35}}, {}), 35),
    ("pagerduty", (429, {"status": "throttle exceeded", "message": "Requests are being made too fast"}, {}), 60),
    ("pagerduty", (503, "down", {"Retry-After": "120"}), 120),
    ("slack", (429, "rate_limited", {"Retry-After": "999999"}), 3600),
    ("slack", (429, "rate_limited", {"Retry-After": "nonsense"}), 60),
]


@pytest.mark.parametrize(("name", "answer", "seconds"), TOO_OFTEN)
def test_too_often_says_for_how_long_and_is_asked_once(
    name: str, answer: Any, seconds: float, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = _service(name, httpserver, monkeypatch)
    service.answers = [answer]
    with pytest.raises(DeliveryError, match="left alone") as failure:
        deliver(_channel(), _downs("web{}", 1))
    assert list(failure.value.waits.values()) == [seconds]
    assert len(service.got) == 1


CONFIG = "alerts:\n  channels:\n    - {type: apprise, name: chat, conn_id: chat}\n"


def test_a_target_is_left_alone_for_its_time_and_the_others_are_not(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service, other = _with_another_target("dingtalk", httpserver, monkeypatch)
    fleet = Sending(tmp_path, CONFIG, 3)
    service.answers = [(200, {"errcode": 130101, "errmsg": "send too fast"}, {})]
    fleet.machines["web000"].kill(80)
    fleet.run()
    assert (len(service.got), len(other)) == (1, 1)
    # Airflow's own second try, within the same minute; then a run 5 minutes later, with news.
    fleet.number -= 1
    fleet.alert()
    fleet.number += 1
    fleet.machines["web001"].kill(80)
    fleet.run()
    assert (len(service.got), len(other)) == (1, 2)
    assert "left alone" in fleet.errors[-1]
    assert "130101" in fleet.errors[0]
    fleet.run()
    assert (len(service.got), len(other)) == (2, 2)
    assert "2 ports down" in service.texts()[-1]
    assert fleet.waiting("chat") == []


def test_a_webhook_that_asks_for_a_pause_gets_one(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    got: list[bytes] = []
    answers = [Response(status=429, headers={"Retry-After": "400"})]
    httpserver.expect_request("/hook").respond_with_handler(
        lambda request: got.append(request.get_data()) or (answers.pop() if answers else Response())
    )
    connect(monkeypatch, "hook", f"http://localhost:{httpserver.port}")
    fleet = Sending(
        tmp_path, "alerts:\n  channels:\n    - {type: webhook, name: hook, conn_id: hook, endpoint: hook}\n", 2
    )
    fleet.machines["web000"].kill(80)
    fleet.run()
    fleet.machines["web001"].kill(80)
    fleet.run()
    assert len(got) == 1
    assert "tried again after" in fleet.errors[-1]
    fleet.run()
    assert fleet.waiting("hook") == []
    assert len(got) == 2


def test_a_date_may_stand_for_the_wait(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime
    from email.utils import format_datetime

    until = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    httpserver.expect_request("/hook").respond_with_response(Response(status=503, headers={"Retry-After": until}))
    connect(monkeypatch, "hook", f"http://localhost:{httpserver.port}")
    with pytest.raises(DeliveryError) as failure:
        deliver(WebhookChannel(type="webhook", name="hook", conn_id="hook", endpoint="hook"), message(alert()))
    assert 200 < failure.value.waits[""] <= 300
