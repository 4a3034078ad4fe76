"""Channels against real servers: SMTP, HTTP and Apprise's JSON, all on this machine."""

from __future__ import annotations

import email
import email.policy
import json
import logging
import socket
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from airflow.providers.common.compat.notifier import BaseNotifier
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from portmon import limits
from portmon.config import AppriseChannel, LogChannel, NotifierChannel
from portmon.errors import DeliveryError
from portmon.models import Severity
from portmon.notify import check_channel, deliver, fill
from portmon.render import Message

HOSTILE = "{{ conn.x.password }} and a lone {{ and {% if %}"
SECRET = "hunter2-of-connection-x"
MESSAGE = Message(
    title=f"[portmon] 1 port down on web01: {HOSTILE}",
    text=f"web01 tcp/8080 {HOSTILE} — down since 04:12 UTC\nweb01 tcp/9090 端口",
    html=f"<html><body><p>{HOSTILE}</p><p>端口</p></body></html>",
    severity=Severity.CRITICAL,
)
SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
HTTP = "airflow.providers.http.notifications.http.HttpNotifier"

# Apprise's encrypted mail looks for PGP, whose library imports it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _connection_x(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_X", json.dumps({"conn_type": "generic", "password": SECRET}))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _printed(error: Exception) -> str:
    """What a task log shows of an error, whatever it was raised from included."""
    return "".join(traceback.format_exception(error))


# ── the task log ────────────────────────────────────────────────────────────────────────────────


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


# ── Apprise ─────────────────────────────────────────────────────────────────────────────────────

APPRISE = AppriseChannel(type="apprise", name="chat")


class Targets:
    """A web server whose paths are JSON targets of Apprise; those in ``failing`` answer 500."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.failing: set[str] = set()
        self.got: list[tuple[str, dict[str, Any]]] = []
        server.expect_request("/one").respond_with_handler(self._answer)
        server.expect_request("/two").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.got.append((request.path, request.get_json()))
        return Response(status=500 if request.path in self.failing else 200)

    def url(self, path: str) -> str:
        return f"json://operator:s3cret-in-url@localhost:{self.server.port}{path}?+X-Token=s3cret-in-query"


@pytest.fixture
def targets(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Targets:
    found = Targets(httpserver)
    _connect_apprise(monkeypatch, [{"path": found.url("/one")}, {"path": found.url("/two"), "tag": "night"}])
    return found


def _connect_apprise(monkeypatch: pytest.MonkeyPatch, config: object) -> None:
    connection = {"conn_type": "apprise", "extra": {"config": config}}
    monkeypatch.setenv("AIRFLOW_CONN_APPRISE_DEFAULT", json.dumps(connection))


def test_apprise_sends_to_every_target_as_it_is(targets: Targets) -> None:
    deliver(APPRISE, MESSAGE)
    assert sorted(path for path, _ in targets.got) == ["/one", "/two"]
    for _, sent in targets.got:
        assert sent["title"] == MESSAGE.title
        assert sent["message"] == MESSAGE.text
        assert sent["type"] == "failure"
        assert SECRET not in json.dumps(sent)


def test_apprise_asks_only_the_failed_target_again(targets: Targets) -> None:
    targets.failing = {"/one"}
    with pytest.raises(DeliveryError) as failure:
        deliver(APPRISE, MESSAGE)
    assert sorted(path for path, _ in targets.got) == ["/one", "/two"]
    assert len(failure.value.delivered) == 1
    assert "/one" in str(failure.value)
    assert "500" in str(failure.value)
    assert "/two" not in str(failure.value)

    targets.got.clear()
    with pytest.raises(DeliveryError) as again:
        deliver(APPRISE, MESSAGE, done=failure.value.delivered)
    assert [path for path, _ in targets.got] == ["/one"]
    assert again.value.delivered == ()

    targets.got.clear()
    targets.failing = set()
    deliver(APPRISE, MESSAGE, done=failure.value.delivered)
    assert [path for path, _ in targets.got] == ["/one"]


def test_apprise_error_and_target_ids_hold_no_secret(targets: Targets, caplog: pytest.LogCaptureFixture) -> None:
    targets.failing = {"/one"}
    with caplog.at_level(logging.DEBUG, logger="portmon"), pytest.raises(DeliveryError) as failure:
        deliver(APPRISE, MESSAGE)
    assert "s3cret" not in caplog.text + str(failure.value.delivered) + _printed(failure.value)


def test_apprise_target_that_nobody_answers_fails_alone(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    _connect_apprise(monkeypatch, [{"path": f"json://localhost:{free_port}/"}, {"path": targets.url("/two")}])
    with pytest.raises(DeliveryError, match=r"1 of 2 targets"):
        deliver(APPRISE, MESSAGE)
    assert [path for path, _ in targets.got] == ["/two"]


def test_apprise_targets_that_hang_hold_no_other(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setattr("portmon.notify.TARGET_TIMEOUT", 2.0)
    monkeypatch.setattr(limits, "SEND", timedelta(seconds=8))
    with socket.create_server(("127.0.0.1", free_port)):
        # Nobody accepts: the connections stand, and no answer comes.
        dead = [{"path": f"json://localhost:{free_port}/{n}?rto=1"} for n in range(8)]
        _connect_apprise(monkeypatch, [*dead, {"path": targets.url("/two")}])
        with pytest.raises(DeliveryError, match=r"8 of 9 targets") as failure:
            deliver(APPRISE, MESSAGE)
    assert len(failure.value.delivered) == 1
    assert [path for path, _ in targets.got] == ["/two"]


def test_apprise_url_that_is_none_is_no_silent_loss_and_no_leak(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _connect_apprise(monkeypatch, [{"path": "nosuch://tokensecret/x"}, {"path": targets.url("/two")}])
    with caplog.at_level(logging.DEBUG), pytest.raises(DeliveryError, match="target 1 of connection") as failure:
        deliver(APPRISE, MESSAGE)
    assert [path for path, _ in targets.got] == ["/two"]
    assert len(failure.value.delivered) == 1
    assert "tokensecret" not in caplog.text + str(failure.value)


def test_apprise_targets_that_look_alike_when_masked_are_two(monkeypatch: pytest.MonkeyPatch, targets: Targets) -> None:
    _connect_apprise(
        monkeypatch,
        [
            {"path": f"json://me:first@localhost:{targets.server.port}/one"},
            {"path": f"json://me:other@localhost:{targets.server.port}/one"},
        ],
    )
    targets.failing = {"/one"}
    targets.server.clear()
    answers = iter([200, 500, 200])
    targets.server.expect_request("/one").respond_with_handler(lambda request: Response(status=next(answers)))
    with pytest.raises(DeliveryError) as failure:
        deliver(APPRISE, MESSAGE)
    assert len(failure.value.delivered) == 1
    deliver(APPRISE, MESSAGE, done=failure.value.delivered)
    assert next(answers, None) is None


def test_apprise_cuts_what_the_service_would_refuse(monkeypatch: pytest.MonkeyPatch, targets: Targets) -> None:
    long = Message(title="t", text="first\n" + "line\n" * 10_000, html="")
    deliver(APPRISE, long)
    assert len(targets.got) == 2
    for _, sent in targets.got:
        assert sent["message"].startswith("first\n")
        assert len(sent["message"]) <= 32768


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        (None, "airflow connections add apprise_default"),
        ({"conn_type": "apprise"}, "airflow connections add apprise_default"),
        ({"conn_type": "apprise", "extra": {"config": []}}, "names no target"),
        ({"conn_type": "apprise", "extra": {"config": {"nopath": 1}}}, "target 1 of connection"),
    ],
)
def test_apprise_without_a_usable_connection_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, connection: object, says: str
) -> None:
    if connection is not None:
        monkeypatch.setenv("AIRFLOW_CONN_APPRISE_DEFAULT", json.dumps(connection))
    with pytest.raises(DeliveryError, match=says) as failure:
        deliver(APPRISE, MESSAGE)
    assert failure.value.channel == "chat"


# ── mail ────────────────────────────────────────────────────────────────────────────────────────


class Mailbox:
    """Keeps what an SMTP server is given."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        return self.answer


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch, free_port: int) -> Iterator[Mailbox]:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port)
    controller.start()
    extra = {"disable_tls": True, "disable_ssl": True, "retry_limit": 0, "from_email": "portmon@example.com"}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": free_port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    yield box
    controller.stop()


def _mail(**arguments: Any) -> NotifierChannel:
    return NotifierChannel(
        type="notifier", name="mail", notifier=SMTP, arguments={"to": "ops@example.com", **arguments}
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"subject": "$title", "html_content": "$html"},
        {"subject": "$title", "html_content": "$html", "from_email": "other@example.com"},
    ],
)
def test_mail_arrives_as_rendered(mailbox: Mailbox, arguments: dict[str, Any]) -> None:
    deliver(_mail(**arguments), MESSAGE)
    (mail,) = mailbox.mails
    assert mail["Subject"] == MESSAGE.title
    assert mail["To"] == "ops@example.com"
    assert mail["From"] == arguments.get("from_email", "portmon@example.com")
    body = mail.get_body(("html",))
    assert body is not None
    assert body.get_content().strip() == MESSAGE.html
    assert SECRET not in mail.as_string()


def test_mail_that_the_server_refuses_is_a_delivery_error(mailbox: Mailbox) -> None:
    mailbox.answer = "554 no mail from you"
    with pytest.raises(DeliveryError, match=r"SMTPDataError.*no mail from you"):
        deliver(_mail(), MESSAGE)


def test_mail_without_connection_is_a_delivery_error() -> None:
    with pytest.raises(DeliveryError, match="SMTP connection is not found"):
        deliver(_mail(), MESSAGE)


# ── HTTP ────────────────────────────────────────────────────────────────────────────────────────


def _http(**arguments: Any) -> NotifierChannel:
    arguments = {
        "endpoint": "hook/token-in-the-path",
        "json": {"msgtype": "text", "text": {"content": "$text"}, "list": ["$title", 1, "as $title is"]},
        **arguments,
    }
    return NotifierChannel(type="notifier", name="hook", notifier=HTTP, arguments=arguments)


@pytest.fixture
def hook(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    connection = {"conn_type": "http", "host": "localhost", "port": httpserver.port}
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(connection))
    return httpserver


def test_http_fails_and_then_works(hook: HTTPServer) -> None:
    hook.expect_ordered_request("/hook/token-in-the-path").respond_with_data("boom", status=503)
    hook.expect_ordered_request("/hook/token-in-the-path").respond_with_data("fine")
    with pytest.raises(DeliveryError, match="503") as failure:
        deliver(_http(), MESSAGE)
    assert failure.value.channel == "hook"
    assert "token-in-the-path" not in str(failure.value)
    deliver(_http(), MESSAGE)
    request, _ = hook.log[-1]
    assert request.get_json() == {
        "msgtype": "text",
        "text": {"content": MESSAGE.text},
        "list": [MESSAGE.title, 1, "as $title is"],
    }
    assert SECRET not in request.get_data(as_text=True)


def test_http_error_without_a_server_tells_no_path(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    connection = {"conn_type": "http", "host": "localhost", "port": free_port}
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(connection))
    with pytest.raises(DeliveryError, match="ConnectionError") as failure:
        deliver(_http(), MESSAGE)
    assert "token-in-the-path" not in _printed(failure.value)


# ── any class ───────────────────────────────────────────────────────────────────────────────────


class RendersItself(BaseNotifier):
    """A notifier that renders in every place it can."""

    template_fields = ("text",)
    template_ext = (".sql", "}}", "%}")
    seen: list[str] = []  # noqa: RUF012

    def __init__(self, *, text: str, **kwargs: Any) -> None:
        self.text = text
        super().__init__(**kwargs)

    def notify(self, context: Any) -> None:
        self.render_template_fields(context)
        self.seen.append(self.render_template(self.text, context))


class OnlyAsync(BaseNotifier):
    async def async_notify(self, context: Any) -> None: ...


class NotANotifier:
    pass


class Fails(BaseNotifier):
    def __init__(self, *, text: str) -> None:
        super().__init__()

    def notify(self, context: Any) -> None:
        from airflow.sdk import BaseHook

        password = BaseHook.get_connection("x").password
        raise RuntimeError(f"login with {password} at https://me:pw@chat.example.com/T1/B2?key=3 failed\n\x1b[31m")


def _class(cls: type, **arguments: Any) -> NotifierChannel:
    return NotifierChannel(
        type="notifier", name="own", notifier=f"{cls.__module__}.{cls.__qualname__}", arguments=arguments
    )


def test_class_that_renders_in_notify_sends_the_text_as_it_is() -> None:
    RendersItself.seen.clear()
    deliver(_class(RendersItself, text="$text"), MESSAGE)
    assert RendersItself.seen == [MESSAGE.text]


def test_message_that_looks_like_a_template_file_is_not_read() -> None:
    RendersItself.seen.clear()
    deliver(_class(RendersItself, text="$text"), Message(title="", text="dump.sql", html=""))
    assert RendersItself.seen == ["dump.sql"]


def test_errors_are_told_with_class_and_place_but_no_secret() -> None:
    with pytest.raises(DeliveryError) as failure:
        deliver(_class(Fails, text="$text"), MESSAGE)
    told = str(failure.value)
    assert "RuntimeError: login with *** at https://chat.example.com/…" in told
    assert "test_notify.py" in told
    assert "\n" not in told
    assert "\x1b" not in told
    assert not {"me:pw", "T1", "key=3", SECRET} & set(told.split())
    assert SECRET not in _printed(failure.value)


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        (_class(OnlyAsync), "asynchronously"),
        (_class(NotANotifier), "is no Airflow notifier class"),
        (NotifierChannel(type="notifier", name="n", notifier="no.such.Thing"), "can't be imported.*provider installed"),
        (NotifierChannel(type="notifier", name="n", notifier="email.NoSuchClass"), "can't be imported"),
        (_class(SmtpNotifier), "does not accept its arguments.*'to'"),
        (_mail(tow="x"), "does not accept its arguments.*'tow'"),
    ],
)
def test_channel_that_can_not_work_fails_alike_in_check_and_delivery(channel: NotifierChannel, says: str) -> None:
    with pytest.raises(DeliveryError, match=says):
        deliver(channel, MESSAGE)
    (problem,) = check_channel(channel)
    with pytest.raises(DeliveryError, match=says):
        raise DeliveryError(problem, channel=channel.name)


@pytest.mark.parametrize("channel", [LogChannel(type="log"), APPRISE, _mail(), _http(json={"a": ["$text"]})])
def test_check_finds_nothing_wrong_with_what_works(channel: Any) -> None:
    assert check_channel(channel) == []


def test_check_finds_a_variable_that_would_not_be_replaced() -> None:
    (problem,) = check_channel(_http(json={"text": ["$text"], "title": "Alert: $title"}))
    assert problem.startswith("channel 'hook': arguments.json.title holds $title among other text")


def test_check_finds_a_message_that_is_not_sent() -> None:
    (problem,) = check_channel(_http(json={"text": "hello"}))
    assert "the message would not be sent" in problem


def test_fill_replaces_exact_values_at_any_depth_and_nothing_else() -> None:
    arguments = {"a": "$title", "b": [{"c": ("$text", "x$html")}, "$html"], "$title": 1, "d": None, "e": True}
    message = Message(title="$text", text="T", html="H")
    assert fill(arguments, message) == {
        "a": "$text",
        "b": [{"c": ["T", "x$html"]}, "H"],
        "$title": 1,
        "d": None,
        "e": True,
    }
