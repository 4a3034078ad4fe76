"""Notifier classes against real servers: SMTP and HTTP, on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest
from airflow.providers.common.compat.notifier import BaseNotifier
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from pytest_httpserver import HTTPServer
from werkzeug import Response

from portmon.airflow.outside import OUTSIDE, deliver
from portmon.alerting.channels import AppriseChannel, LogChannel, NotifierChannel
from portmon.alerting.channels.mail import headers
from portmon.alerting.channels.notifier import fill, parts
from portmon.alerting.message.render import Message
from portmon.errors import DeliveryError
from portmon.model.event_kinds import AlertRole, EventKind
from tests.airflow.channels.samples import MESSAGE, SECRET, printed
from tests.worlds.mailbox import Mailbox
from tests.worlds.messages import alert, event, message

SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
HTTP = "airflow.providers.http.notifications.http.HttpNotifier"

# ── mail ────────────────────────────────────────────────────────────────────────────────────────


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


def test_http_that_asks_for_a_pause_says_for_how_long(hook: HTTPServer) -> None:
    busy = Response("too many", status=429, headers={"Retry-After": "77"})
    hook.expect_request("/hook/token-in-the-path").respond_with_response(busy)
    with pytest.raises(DeliveryError, match="429") as failure:
        deliver(_http(), MESSAGE)
    assert failure.value.waits == {"": 77.0}


def test_http_error_without_a_server_tells_no_path(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    connection = {"conn_type": "http", "host": "localhost", "port": free_port}
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(connection))
    with pytest.raises(DeliveryError, match="ConnectionError") as failure:
        deliver(_http(), MESSAGE)
    assert "token-in-the-path" not in printed(failure.value)


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
    assert "test_notifier.py" in told
    assert "\n" not in told
    assert "\x1b" not in told
    assert not {"me:pw", "T1", "key=3", SECRET} & set(told.split())
    assert SECRET not in printed(failure.value)


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
    (problem,) = channel.check(OUTSIDE)
    with pytest.raises(DeliveryError, match=says):
        raise DeliveryError(problem, channel=channel.name)


@pytest.mark.parametrize(
    "channel", [LogChannel(type="log"), AppriseChannel(type="apprise"), _mail(), _http(json={"a": ["$text"]})]
)
def test_check_finds_nothing_wrong_with_what_works(channel: Any) -> None:
    assert channel.check(OUTSIDE) == []


def test_check_finds_a_variable_that_would_not_be_replaced() -> None:
    (problem,) = _http(json={"text": ["$text"], "title": "Alert: $title"}).check(OUTSIDE)
    assert problem.startswith("channel 'hook': arguments.json.title holds $title among other text")


def test_check_finds_a_message_that_is_not_sent() -> None:
    (problem,) = _http(json={"text": "hello"}).check(OUTSIDE)
    assert "the message would not be sent" in problem


def test_fill_replaces_exact_values_at_any_depth_and_nothing_else() -> None:
    arguments = {
        "a": "$title",
        "b": [{"c": ("$text", "x$html", "$idea")}, "$html", "$markdown"],
        "$title": 1,
        "d": None,
        "e": True,
        "f": "$id",
        "g": "$headers",
    }
    sent = message(alert(), title="$text", text="T", html="H", markdown="M", id="i1")
    assert fill(arguments, parts(sent, "mail")) == {
        "a": "$text",
        "b": [{"c": ["T", "x$html", "$idea"]}, "H", "M"],
        "$title": 1,
        "d": None,
        "e": True,
        "f": "i1",
        "g": headers(sent, "mail"),
    }


def test_check_takes_markdown_for_a_message_and_an_id_for_none() -> None:
    assert _http(json={"text": "$markdown"}).check(OUTSIDE) == []
    assert "the message would not be sent" in _http(json={"id": "$id"}).check(OUTSIDE)[0]
    (problem,) = _http(json={"text": "$text", "more": "see $markdown", "idea": "$idea"}).check(OUTSIDE)
    assert "arguments.json.more holds $markdown among other text" in problem


# ── threads of mails ────────────────────────────────────────────────────────────────────────────


def _thread_of(mails: list[EmailMessage]) -> dict[str, str]:
    """Message ids to the root of their thread: mails are joined by what they refer to, as mail programs do."""
    roots: dict[str, str] = {}

    def root(one: str) -> str:
        while roots.setdefault(one, one) != one:
            one = roots[one]
        return one

    for mail in mails:
        for other in f"{mail['References'] or ''} {mail['In-Reply-To'] or ''}".split():
            roots[root(str(mail["Message-ID"]))] = root(other)
    return {str(mail["Message-ID"]): root(str(mail["Message-ID"])) for mail in mails}


def test_down_and_recovered_of_one_port_are_one_thread(mailbox: Mailbox) -> None:
    down, other = alert(event(port=1), id="a" * 32), alert(event(port=2), id="b" * 32)
    up = replace(down, role=AlertRole.RESOLVED, event=event(EventKind.RECOVERED, port=1))
    for number, told in enumerate([(down,), (other,), (up,)]):
        deliver(_mail(), message(*told, id=f"{number:032x}"))
    threads = _thread_of(mailbox.mails)
    first, second, third = threads.values()
    assert first == third != second
    assert len(threads) == 3


def test_recovered_joins_the_mail_that_told_of_several_ports(mailbox: Mailbox) -> None:
    down, other = alert(event(port=1), id="a" * 32), alert(event(port=2), id="b" * 32)
    ends = [
        replace(one, role=AlertRole.RESOLVED, event=event(EventKind.RECOVERED, port=one.event.port))
        for one in (down, other)
    ]
    for number, told in enumerate([(down, other), (ends[1],), (ends[0],)]):
        deliver(_mail(), message(*told, id=f"{number:032x}"))
    threads = _thread_of(mailbox.mails)
    assert len(threads) == 3
    assert len(set(threads.values())) == 1


def test_mail_sent_again_has_the_same_id(mailbox: Mailbox) -> None:
    for _ in range(2):
        deliver(_mail(), message(alert(), alert(event(port=2))))
    first, second = mailbox.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert first["X-Portmon-Id"] == message().id
    assert first["Auto-Submitted"] == "auto-generated"


def test_headers_of_your_own_come_instead(mailbox: Mailbox) -> None:
    deliver(_mail(custom_headers={"X-Team": "ops"}), message(alert()))
    (mail,) = mailbox.mails
    assert mail["X-Team"] == "ops"
    assert mail["Message-ID"] is None


# What is not ASCII is encoded, and line breaks with it: so both.
@pytest.mark.parametrize("end", ["", "\u2028X-Evil: 2"])
def test_no_name_makes_a_header(mailbox: Mailbox, end: str) -> None:
    evil = f"x\r\nBcc: evil@example.com\n\nbody\x0bX-Evil: 1{end}"
    sent = message(
        alert(event(host=evil, program=evil, labels={evil: evil}), id=evil), title=f"1 port down on {evil}", id=evil
    )
    deliver(_mail().model_copy(update={"name": evil}), sent)
    (mail,) = mailbox.mails
    assert mail["Bcc"] is None
    assert mail["X-Evil"] is None
    assert "Bcc: evil@example.com" in str(mail["Subject"])
    assert sorted(mail.keys()) == [
        "Auto-Submitted",
        "Content-Type",
        "Date",
        "From",
        "MIME-Version",
        "Message-ID",
        "Subject",
        "To",
        "X-Portmon-Id",
    ]
