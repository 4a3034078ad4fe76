"""PagerDuty, Feishu, DingTalk and WeCom: what is sent is taken by servers that check it as the vendors document it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pytest_httpserver import HTTPServer

from portmon.airflow.outside import deliver
from portmon.alerting.channels import Channel
from portmon.alerting.channels.base import BaseChannel
from portmon.alerting.message.render import Layout, Message, render
from portmon.errors import DeliveryError
from portmon.model.alert import Alert
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind, Severity
from tests.airflow.channels.samples import printed
from tests.worlds.documented import SECRET, TOKEN, VENDORS, Vendor
from tests.worlds.messages import LINK, NOW, PAGE, alert, event

PEOPLE = {"team": {"dba": ["ou_1", "u2"], "web": ["u3"]}}
ROBOTS = ("feishu", "dingtalk", "wecom")
PROBLEMS = "https://airflow.example.com/portmon/"
HOSTILE = '<at id=all></at><@all>@all [x](http://evil.example) **_`~<font color=red>{{ conn.x.password }}\u202e"\\</b>'


def _channel(name: str, **fields: Any) -> BaseChannel:
    return TypeAdapter(Channel).validate_python({"type": name, "conn_id": name, **fields})


@pytest.fixture(params=VENDORS)
def vendor(request: pytest.FixtureRequest, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    return _vendor(request.param, httpserver, monkeypatch)


def _vendor(name: str, server: HTTPServer, monkeypatch: pytest.MonkeyPatch, **connection: Any) -> Vendor:
    made = VENDORS[name](server)
    given = {**made.connection(server), **connection}
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(given))
    return made


def _message(*alerts: Alert, language: Any = "en", reminder: bool = False, page: str | None = PAGE) -> Message:
    return render(
        alerts,
        AlertGroup.DOWN,
        layout=Layout(language, 1000),
        link=lambda _: LINK if page else None,
        page=PROBLEMS if page else None,
        page_of=lambda _: page,
        reminder=reminder,
    )


def _down(number: int = 8080, **fields: Any) -> Alert:
    return alert(event(port=number, **{"program": "java", "unit": "app.service", **fields}))


def _over() -> Alert:
    began, end = event(), NOW + timedelta(minutes=5)
    return alert(event(EventKind.RECOVERED, at=end), AlertRole.RESOLVED, id=began.id, first=began, ends_at=end)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("page", [PAGE, None])
def test_every_kind_of_message_is_taken(vendor: Vendor, language: str, page: str | None) -> None:
    channel = _channel(vendor.name)
    notice = alert(event(EventKind.NEW), AlertRole.NOTICE)
    for own in ((_down(),), (_over(),), (notice,), (_down(1), _down(2, severity=Severity.WARNING), _over())):
        for reminder in (False, True):
            deliver(channel, _message(*own, language=language, page=page, reminder=reminder))
    assert vendor.refusals == []
    assert vendor.got


@pytest.mark.parametrize("name", ["web{:03}.prod.example.com", "数据库服务器😀-{:03}-生产环境", 'a_*{:03}<b>|`\\"'])
def test_hundreds_of_alerts_are_not_too_long_and_counted(
    name: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for vendor in (_vendor(one, httpserver, monkeypatch) for one in ROBOTS):
        httpserver.clear_all_handlers()
        vendor = _vendor(vendor.name, httpserver, monkeypatch)
        message = _message(*(alert(event(host=name.format(number), reason="x" * 300)) for number in range(500)))
        deliver(_channel(vendor.name), message)
        assert vendor.refusals == []
        (document,) = vendor.got
        assert "500 ports down" in json.dumps(document)
        assert " more on " in json.dumps(document)
        assert vendor.buttons(document) == [PROBLEMS]


def test_buttons_lead_to_the_page_and_its_acknowledge_form(vendor: Vendor) -> None:
    down = _down()
    deliver(_channel(vendor.name), _message(down))
    (document,) = vendor.got
    assert vendor.buttons(document) == [PAGE, f"{PAGE}?acknowledge={down.id}", LINK]


@pytest.mark.parametrize("name", ROBOTS)
def test_what_is_over_has_no_button_to_acknowledge_it(
    name: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = _vendor(name, httpserver, monkeypatch)
    deliver(_channel(name), _message(_over()))
    assert vendor.buttons(vendor.got[0]) == [PAGE, LINK]


@pytest.mark.parametrize(
    ("own", "reminder", "people"),
    [
        ([_down(labels={"team": "dba"})], False, {"ou_1", "u2"}),
        ([_down(1, labels={"team": "dba"}), _down(2, labels={"team": "web"})], False, {"ou_1", "u2", "u3"}),
        ([_down(labels={"team": "dba"})], True, set()),
        ([_down(labels={"team": "net"})], False, set()),
        ([_down(labels={})], False, set()),
        ([_down(labels={"team": "dba"}, severity=Severity.WARNING)], False, set()),
        ([alert(event(EventKind.RECOVERED, labels={"team": "dba"}), AlertRole.RESOLVED)], False, set()),
    ],
)
@pytest.mark.parametrize("name", ROBOTS)
def test_people_are_called_by_the_label_of_a_host_when_something_critical_begins(
    name: str, own: list[Alert], reminder: bool, people: set[str], httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    vendor = _vendor(name, httpserver, monkeypatch)
    deliver(_channel(name, mentions=PEOPLE), _message(*own, reminder=reminder))
    assert vendor.refusals == []
    assert {one for document in vendor.got for one in vendor.called(document)} == people


@pytest.mark.parametrize(("name", "everyone"), [("dingtalk", "all"), ("wecom", "@all")])
def test_people_are_called_by_their_mobile_numbers(
    name: str, everyone: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = _vendor(name, httpserver, monkeypatch)
    mobiles = {"team": {"dba": "+86-13800000000"}}
    own = _message(_down(labels={"team": "dba"}))
    deliver(_channel(name, mention_mobiles=mobiles), own)
    deliver(_channel(name, mentions={"team": {"dba": everyone}}), own)
    assert [vendor.called(document) for document in vendor.got] == [set(), {"+86-13800000000"}, set(), {everyone}]
    if name == "dingtalk":
        assert "@+86-13800000000" in vendor.got[1]["text"]["content"]


@pytest.mark.parametrize("name", ROBOTS)
def test_ids_of_people_can_change_no_message(name: str) -> None:
    for one in ("x></at><at id=all", "a b", "a)", "", "@", "x\n"):
        with pytest.raises(ValidationError, match=r"no id of a person|empty"):
            _channel(name, mentions={"team": {"dba": [one]}})


def test_text_of_hosts_calls_no_one_and_renders_nothing(vendor: Vendor) -> None:
    fields = {"host": HOSTILE, "program": HOSTILE, "unit": HOSTILE, "reason": HOSTILE, "labels": {HOSTILE: HOSTILE}}
    deliver(_channel(vendor.name), _message(alert(event(**fields))))
    deliver(_channel(vendor.name), _message(alert(event(**fields)), alert(event(port=1, **fields))))
    assert vendor.refusals == []
    for document in vendor.got:
        assert vendor.called(document) == set()
        shown = {name: value for name, value in document.items() if name != "payload"}
        assert "\u202e" not in json.dumps(shown, ensure_ascii=False)
        assert "hunter2" not in json.dumps(document)
        if document.get("msgtype") in ("markdown", "actionCard"):
            own = document.get("actionCard") or document["markdown"]
            assert "](http://evil" not in (own.get("text") or own.get("content"))


TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(host=TEXT, program=TEXT, reason=TEXT)
def test_any_text_is_taken(vendor: Vendor, host: str, program: str, reason: str) -> None:
    vendor.refusals.clear()
    deliver(_channel(vendor.name), _message(alert(event(host=host, program=program, reason=reason))))
    assert vendor.refusals == []


@pytest.mark.parametrize("name", ["feishu", "dingtalk"])
def test_a_wrong_key_is_told_with_the_vendors_own_words(
    name: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = _vendor(name, httpserver, monkeypatch, extra={"secret": "another"})
    with pytest.raises(DeliveryError, match=r"sign (match fail|not match)") as told:
        deliver(_channel(name), _message(_down()))
    assert vendor.got == []
    for secret in (TOKEN, "another", SECRET):
        assert secret not in printed(told.value)


def test_an_address_is_in_no_error(vendor: Vendor, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    gone = {"conn_type": "http", "host": f"http://127.0.0.1:{free_port}", "password": TOKEN}
    for connection in (gone, {**gone, "host": "http://[no"}):
        monkeypatch.setenv(f"AIRFLOW_CONN_{vendor.name.upper()}", json.dumps(connection))
        with pytest.raises(DeliveryError) as told:
            deliver(_channel(vendor.name), _message(_down()))
        assert TOKEN not in printed(told.value)


def test_a_connection_without_its_token_says_what_is_missing(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{vendor.name.upper()}", json.dumps({"conn_type": "http", "host": "http://[::1]"}))
    with pytest.raises(DeliveryError, match=f"connection '{vendor.name}' has no password without a login: set it to"):
        deliver(_channel(vendor.name), _message(_down()))
    (needed,) = _channel(vendor.name).connections()
    assert f"airflow connections add {vendor.name} --conn-type http --conn-host https://" in needed.missing
    assert "--conn-password" in needed.missing


@pytest.mark.parametrize(
    ("name", "status", "said", "wait"),
    [
        ("feishu", 200, {"code": 11232, "msg": "frequency limited psm"}, 60),
        ("dingtalk", 200, {"errcode": 410100, "errmsg": "发送速度太快而限流"}, 600),
        ("wecom", 200, {"errcode": 45009, "errmsg": "api freq out of limit"}, 60),
        ("pagerduty", 429, {"status": "throttle exceeded", "message": "Requests for this service are arriving too quickly"}, 60),
        ("pagerduty", 500, {"message": "Internal Server Error"}, None),
        ("dingtalk", 200, {"errcode": -1, "errmsg": "系统繁忙"}, None),
        ("dingtalk", 200, {}, None),
    ],
)  # fmt: skip
def test_a_refusal_is_an_error_and_too_many_messages_are_followed_by_a_rest(
    name: str, status: int, said: Mapping[str, Any], wait: float | None, httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    vendor = _vendor(name, httpserver, monkeypatch)
    vendor.answers = [(status, said, {})]
    with pytest.raises(DeliveryError) as told:
        deliver(_channel(name), _message(_down()))
    assert told.value.waits == ({} if wait is None else {"": wait})
    assert told.value.refused == ()
    deliver(_channel(name), _message(_down()))
    assert len(vendor.got) == 1


@pytest.mark.parametrize("name", ["dingtalk", "wecom"])
def test_what_calls_people_is_sent_again_alone(
    name: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = _vendor(name, httpserver, monkeypatch)
    channel, own = _channel(name, mentions=PEOPLE), _message(_down(labels={"team": "dba"}))
    deliver(channel, own)
    card, call = vendor.got
    vendor.got.clear()
    httpserver.clear_log()
    vendor.answers = [(200, {"errcode": 0, "errmsg": "ok"}, {}), (500, {}, {})]
    with pytest.raises(DeliveryError) as told:
        deliver(channel, own)
    assert told.value.delivered == ("card",)
    deliver(channel, own, told.value.delivered)
    assert vendor.got == [call] != [card]


# ── PagerDuty ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pager(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    return _vendor("pagerduty", httpserver, monkeypatch)


def test_an_incident_is_opened_acknowledged_and_resolved_by_the_id_of_its_alert(pager: Vendor) -> None:
    channel, down, over = _channel("pagerduty"), _down(), _over()
    deliver(channel, _message(down))
    deliver(channel, Message(**{**_fields(_message(down)), "acknowledged": True}))
    deliver(channel, _message(over))
    assert [(one["event_action"], one["dedup_key"]) for one in pager.got] == [
        ("trigger", down.id),
        ("acknowledge", down.id),
        ("resolve", over.id),
    ]
    payload = pager.got[0]["payload"]
    assert payload["summary"] == "web01 tcp/8080 java (app.service) — down since 12:00 UTC"
    told = (payload["source"], payload["severity"], payload["component"], payload["class"])
    assert told == ("web01", "critical", "app.service", "down")
    assert payload["custom_details"]["id"] == down.id
    assert over.id == down.id


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in Message.__dataclass_fields__}


def test_a_notice_opens_no_incident(pager: Vendor) -> None:
    deliver(_channel("pagerduty"), _message(alert(event(EventKind.NEW), AlertRole.NOTICE), _down(1)))
    assert [one["dedup_key"] for one in pager.got] == [_down(1).id]


def test_details_that_are_too_long_are_left_out(pager: Vendor) -> None:
    labels = {f"label{number}": "端" * 4096 for number in range(100)}
    deliver(_channel("pagerduty"), _message(_down(labels=labels)))
    assert "custom_details" not in pager.got[0]["payload"]
    assert pager.refusals == []


def test_what_was_taken_is_named_and_what_is_invalid_is_given_up(pager: Vendor) -> None:
    own = _message(*(_down(number) for number in range(1, 6)))
    ids = [one.event.id for one in own.alerts]
    invalid = {"status": "invalid event", "message": "Event object is invalid", "errors": ["'source' is missing"]}
    pager.answers = [(202, {"status": "success"}, {}), (400, invalid, {})]
    with pytest.raises(DeliveryError, match=r"1 alert of 5 did not arrive: .*source.* is missing") as told:
        deliver(_channel("pagerduty"), own)
    assert told.value.taken == (ids[0], *ids[2:])
    assert told.value.refused == (ids[1],)
    pager.answers = [(202, {"status": "success"}, {}), (429, {}, {"Retry-After": "7"})]
    with pytest.raises(DeliveryError, match="4 alerts of 5 did not arrive") as told:
        deliver(_channel("pagerduty"), own)
    assert (told.value.taken, told.value.refused, told.value.waits) == ((ids[0],), (), {"": 7.0})


def test_a_wrong_integration_key_gives_up_nothing(
    pager: Vendor, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {**pager.connection(httpserver), "password": "f" * 32}
    monkeypatch.setenv("AIRFLOW_CONN_PAGERDUTY", json.dumps(connection))
    with pytest.raises(DeliveryError, match="Invalid routing key") as told:
        deliver(_channel("pagerduty"), _message(_down()))
    assert (told.value.taken, told.value.refused) == ((), ())
    assert "f" * 32 not in printed(told.value)
