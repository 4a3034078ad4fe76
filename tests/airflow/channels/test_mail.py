"""Mails as a server that keeps to RFC 5321 and 5322 gets them: lines, threads, and recipients that it refuses."""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from email.message import EmailMessage
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portmon.airflow.outside import deliver
from portmon.alerting.channels import AppriseChannel, NotifierChannel
from portmon.alerting.channels.mail import folded, recipient_id
from portmon.alerting.message.render import Layout, Message, render
from portmon.config import parse_config
from portmon.errors import DeliveryError
from portmon.model.alert import Alert, DeliveryState
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind
from portmon.storage import deliveries
from tests.worlds.databases import migrated
from tests.worlds.fleet import Fleet
from tests.worlds.mailbox import Mailbox
from tests.worlds.messages import NOW, alert, event, message

SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
LONGEST = 998
"""Octets of a line: https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with closing(Mailbox()) as box:
        # With the hook's default: it would try again five times, at once.
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(box.connection()))
        target = f"mailto://127.0.0.1:{box.port}/?from=portmon@example.com&to=ops@example.com&mode=insecure"
        apprise = {"conn_type": "apprise", "extra": {"config": {"path": target}}}
        monkeypatch.setenv("AIRFLOW_CONN_APPRISE_DEFAULT", json.dumps(apprise))
        yield box


def mail_to(*to: str, **arguments: Any) -> NotifierChannel:
    arguments = {"to": list(to or ("ops@example.com",)), **arguments}
    return NotifierChannel(type="notifier", name="mail", notifier=SMTP, arguments=arguments)


def assert_lines(raw: bytes) -> None:
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) <= LONGEST


# ── lines ───────────────────────────────────────────────────────────────────────────────────────

_CHARS = st.characters(codec="utf-8")
_LINES = st.text(_CHARS, max_size=60) | st.sampled_from(
    ["x" * 5000, "名" * 1500, "a b " * 900, "\r\nBcc: evil@example.com"]
)
_TEXT = st.lists(_LINES, min_size=1, max_size=4).map(" ".join)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    title=_LINES | st.sampled_from(["名" * 300]),
    html=_TEXT,
    charset=st.sampled_from(["utf-8", "us-ascii"]),
    number=st.integers(0, 60),
)
def test_no_line_of_any_mail_is_too_long(server: Mailbox, title: str, html: str, charset: str, number: int) -> None:
    if charset == "us-ascii":
        html = html.encode("ascii", "xmlcharrefreplace").decode()
    alerts = [alert(event(host=f"web{one}", port=one + 1)) for one in range(number)]
    sent = message(*alerts, title=f"t {title}", html=f"<p>{html}</p>")
    to = [f"recipient-number-{one}@department.example.com" for one in range(1 + number // 12)]
    before = len(server.got)
    deliver(mail_to(*to, mime_charset=charset, cc=[f"cc-{one}@example.com" for one in range(number // 12)]), sent)
    (recipients, raw), mail = server.got[before], server.mails[before]
    assert_lines(raw)
    assert len(recipients) == 1 + 2 * (number // 12)
    assert mail["Bcc"] is None
    body = mail.get_body(("html",))
    assert body is not None
    assert body.get_content().splitlines() == [*sent.html.splitlines()]
    assert [address.addr_spec for address in mail["To"].addresses] == to


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
@pytest.mark.parametrize("letter", ["x", "名", "😀"])
def test_no_line_of_a_mail_of_apprise_is_too_long(server: Mailbox, letter: str, form: Any) -> None:
    sent = message(title=letter * 160, text="y" * 3000, markdown="y" * 3000, html=f"<p>{letter * 3000}</p>")
    deliver(AppriseChannel(type="apprise", format=form), sent)
    ((_, raw),) = server.got
    assert_lines(raw)
    assert letter * 160 in str(server.mails[0]["Subject"]).replace(" ", "")


def test_a_whole_mail_is_folded_without_change() -> None:
    source = "\n".join(
        [
            "Subject: " + "word " * 400,
            "References: " + " ".join(f"<{one:032x}.ab@portmon.invalid>" for one in range(60)),
            "Content-Type: text/plain; charset=us-ascii",
            "Content-Transfer-Encoding: 7bit",
            "",
            "short",
            "long " * 500,
        ]
    )
    made = folded(source)
    assert_lines(made)
    mail = email.message_from_bytes(made, policy=email.policy.default)
    assert str(mail["Subject"]).split() == ["word"] * 400
    assert len(str(mail["References"]).split()) == 60
    assert mail.get_content().splitlines() == ["short", "long " * 500]


@pytest.mark.parametrize(
    "line", ["x" * 600 + end + "y" * 600 for end in ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e")] + ["z" * 999]
)
def test_what_ends_a_line_only_for_python_ends_none_of_a_mail(line: str) -> None:
    head = "Content-Type: text/plain; charset=us-ascii\nContent-Transfer-Encoding: 7bit\n\n"
    made = folded(f"{head}{line}\n")
    assert_lines(made)
    mail = email.message_from_bytes(made, policy=email.policy.default)
    assert mail.get_content() == f"{line}\n"


@pytest.mark.parametrize("kind", ["", "Content-Type: text/plain; charset=utf-8\n"])
def test_octets_are_counted_and_sent_as_ascii(kind: str) -> None:
    body = "名" * 900
    made = folded(f"{kind}Content-Transfer-Encoding: 8bit\n\n{body}\n".encode())
    assert_lines(made)
    assert made.isascii()
    (part,) = email.message_from_bytes(made).walk()
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert content.decode().split() == [body]


# ── threads ─────────────────────────────────────────────────────────────────────────────────────

CONFIG = f"""
alerts:
  channels:
    - type: notifier
      name: mail
      notifier: {SMTP}
      arguments: {{to: [ops@example.com, oncall@example.com]}}
"""


class Sending(Fleet):
    """A fleet that sends over its real channels, and keeps what failed."""

    def __init__(self, folder: Path, config: str, hosts: int, name: str = "web{:03}") -> None:
        super().__init__(migrated(folder / "state.db"), parse_config(config))
        self.errors: list[str] = []
        for number in range(hosts):
            self.add(name.format(number), {22: "sshd", 80: "nginx"})
        self.run()

    def send(self, channel: Any, message: Message, done: tuple[str, ...]) -> None:
        deliver(channel, message, done=done)

    def alert(self, groups: Any = None) -> None:
        for group in sorted(self.route() if groups is None else groups):
            try:
                self.deliver(group)
            except DeliveryError as error:
                self.errors.append(str(error))

    def waiting(self, channel: str = "mail") -> list[Any]:
        with self.database.begin() as conn:
            return deliveries.unfinished(conn, channel)


def _ids(mail: EmailMessage) -> set[str]:
    return {*str(mail["References"] or "").split(), *str(mail["In-Reply-To"] or "").split(), str(mail["Message-ID"])}


def test_one_port_that_comes_back_joins_the_mail_about_many(server: Mailbox, tmp_path: Path) -> None:
    fleet = Sending(tmp_path, CONFIG, 20)
    for machine in fleet.machines.values():
        machine.kill(80)
    fleet.run()
    fleet.machines["web010"].start(80, "nginx")
    fleet.run()
    assert fleet.errors == []
    down, up = server.mails
    assert "20 ports down" in str(down["Subject"])
    assert "recovered" in str(up["Subject"])
    assert len(str(down["References"]).split()) <= 12
    assert _ids(down) & _ids(up)
    for _, raw in server.got:
        assert_lines(raw)


def test_ports_that_went_one_by_one_are_threads_of_their_own(server: Mailbox, tmp_path: Path) -> None:
    fleet = Sending(tmp_path, CONFIG, 2)
    for step in ("kill", "start"):
        for machine in fleet.machines.values():
            machine.kill(80) if step == "kill" else machine.start(80, "nginx")
            fleet.run()
    first, second, first_up, second_up = server.mails
    assert _ids(first) & _ids(first_up)
    assert _ids(second) & _ids(second_up)
    assert not (_ids(first) | _ids(first_up)) & (_ids(second) | _ids(second_up))


# ── recipients ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("said", ["550 5.1.1 no such user", "451 4.7.1 greylisted, come again"])
def test_a_refused_recipient_is_told_and_asked_again_alone(server: Mailbox, tmp_path: Path, said: str) -> None:
    fleet = Sending(tmp_path, CONFIG, 1)
    server.refused = {"oncall@example.com": said}
    fleet.machines["web000"].kill(80)
    fleet.run()
    assert server.recipients() == [["ops@example.com"]]
    assert "oncall@example.com" in fleet.errors[0]
    assert said in fleet.errors[0]
    assert "ops@example.com" not in fleet.errors[0]
    (one,) = fleet.waiting()
    assert one.state == DeliveryState.PENDING
    assert said in one.reason

    fleet.run()
    assert server.recipients() == [["ops@example.com"]]
    assert len(fleet.errors) == 2

    server.refused = {}
    fleet.run()
    assert server.recipients() == [["ops@example.com"], ["oncall@example.com"]]
    assert fleet.waiting() == []
    first, second = server.mails
    assert first["Message-ID"] == second["Message-ID"]


def test_a_recipient_that_is_never_taken_is_given_up_with_the_reason(
    server: Mailbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Sending(tmp_path, f"{CONFIG}  give_up_after: 10m\n", 1)
    server.refused = {"oncall@example.com": "550 5.1.1 no such user"}
    fleet.machines["web000"].kill(80)
    for _ in range(4):
        fleet.run()
    assert fleet.waiting() == []
    assert any("did not take for 10m" in text and "no such user" in text for text in caplog.messages)


def test_a_mail_without_a_recipient_is_sent_once_per_try_and_again(server: Mailbox) -> None:
    server.refused = {"ops@example.com": "550 no", "oncall@example.com": "450 later"}
    with pytest.raises(DeliveryError, match=r"2 recipients .*none got it.*450 later.*550 no") as failure:
        deliver(mail_to("ops@example.com", "oncall@example.com"), message(alert()))
    assert failure.value.delivered == ()
    assert server.got == []


@pytest.mark.parametrize("said", ["553 sender not allowed", "451 sender greylisted"])
def test_a_refused_sender_is_the_failure_of_all(server: Mailbox, said: str) -> None:
    server.sender = said
    with pytest.raises(DeliveryError, match=said.partition(" ")[2]) as failure:
        deliver(mail_to("ops@example.com", "oncall@example.com"), message(alert()))
    assert failure.value.delivered == ()


def test_a_mail_that_is_refused_after_its_recipients_were_taken_reached_none(server: Mailbox) -> None:
    server.answer = "451 disk is full"
    with pytest.raises(DeliveryError, match="disk is full") as failure:
        deliver(mail_to("ops@example.com"), message(alert()))
    assert failure.value.delivered == ()


def test_an_answer_that_is_lost_leaves_it_open_whether_the_mail_arrived(server: Mailbox, tmp_path: Path) -> None:
    fleet = Sending(tmp_path, CONFIG, 1)
    server.hangs_up = "before it answers"
    fleet.machines["web000"].kill(80)
    fleet.run()
    assert len(server.got) == 1
    # It rests, or the recipients would get it with every try; and it is the same mail then. Airflow's own second try:
    fleet.number -= 1
    fleet.alert()
    fleet.number += 1
    assert len(server.got) == 1
    server.hangs_up = ""
    fleet.run()
    first, second = server.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert fleet.waiting() == []


def test_a_server_that_hangs_up_after_its_answer_has_the_mail(server: Mailbox) -> None:
    server.hangs_up = "after it answered"
    deliver(mail_to("ops@example.com"), message(alert()))
    assert server.recipients() == [["ops@example.com"]]


def test_a_refusal_leaves_nothing_open(server: Mailbox) -> None:
    server.answer = "554 no"
    with pytest.raises(DeliveryError) as failure:
        deliver(mail_to("ops@example.com"), message(alert()))
    assert not failure.value.unsure


@pytest.mark.parametrize("utf8", [True, False])
def test_an_address_that_can_not_be_given_to_the_server_keeps_the_mail_from_no_other(
    monkeypatch: pytest.MonkeyPatch, *, utf8: bool
) -> None:
    to = ["ops@example.com", "müller@example.com", "ops@münchen.example", "a@example.com\r\nDATA"]
    taken = ["ops@example.com", "müller@example.com", "ops@münchen.example"]
    if not utf8:
        taken = ["ops@example.com", "ops@xn--mnchen-3ya.example"]
    with closing(Mailbox(utf8=utf8)) as box:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(box.connection()))
        with pytest.raises(DeliveryError, match="not sent: it is no address") as failure:
            deliver(mail_to(to[0], bcc=to[1:]), message(alert()))
        assert box.recipients() == [taken]
        assert len(failure.value.delivered) == len(taken)
        assert f"refused {4 - len(taken)} recipient" in str(failure.value)


def test_a_sender_that_can_not_be_given_to_the_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Mailbox(utf8=False)) as box:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(box.connection(from_email="wächter@example.com")))
        with pytest.raises(DeliveryError, match="characters other than ASCII") as failure:
            deliver(mail_to("ops@example.com"), message(alert()))
        assert not failure.value.unsure
        assert box.got == []


def test_a_recipient_whom_apprise_reached_gets_no_second_mail(server: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    to = "to=ops@example.com,gone@example.com"
    target = f"mailto://127.0.0.1:{server.port}/?from=portmon@example.com&{to}&mode=insecure"
    monkeypatch.setenv(
        "AIRFLOW_CONN_APPRISE_DEFAULT", json.dumps({"conn_type": "apprise", "extra": {"config": {"path": target}}})
    )
    server.refused = {"gone@example.com": "550 5.1.1 no such user"}
    with pytest.raises(DeliveryError, match="1 of 1 targets") as failure:
        deliver(AppriseChannel(type="apprise"), message(alert()))
    assert server.recipients() == [["ops@example.com"]]
    done = failure.value.delivered
    with pytest.raises(DeliveryError) as failure:
        deliver(AppriseChannel(type="apprise"), message(alert()), done=done)
    assert len(server.got) == 1
    server.refused = {}
    deliver(AppriseChannel(type="apprise"), message(alert()), done=(*done, *failure.value.delivered))
    assert server.recipients() == [["ops@example.com"], ["gone@example.com"]]


@pytest.mark.parametrize("charset", ["us-ascii", "iso-8859-1", "gbk"])
def test_a_name_that_the_charset_lacks_does_not_keep_the_mail_back(server: Mailbox, charset: str) -> None:
    sent = message(alert(), title="😀 é", html="<p>😀 é</p>")
    deliver(mail_to("ops@example.com", mime_charset=charset), sent)
    (mail,) = server.mails
    body = mail.get_body(("html",))
    assert body is not None
    assert unescape(body.get_content()).strip() == "<p>😀 é</p>"


def test_an_address_that_is_named_twice_gets_one_mail(server: Mailbox) -> None:
    deliver(mail_to("ops@example.com", cc=["ops@example.com"], bcc=["boss@example.com"]), message(alert()))
    assert server.recipients() == [["ops@example.com", "boss@example.com"]]


def test_recipients_who_have_it_are_not_asked_and_a_mail_to_none_is_none(server: Mailbox) -> None:
    done = (recipient_id("Ops@example.com"),)
    deliver(mail_to("ops@example.com", "new@example.com"), message(alert()), done=done)
    assert server.recipients() == [["new@example.com"]]
    deliver(mail_to("ops@example.com"), message(alert()), done=done)
    assert len(server.got) == 1


def _downs(number: int) -> list[Alert]:
    return [alert(event(host=f"{'名' * 40}{one}", port=80)) for one in range(number)]


def test_a_real_message_with_hostile_names_arrives(server: Mailbox) -> None:
    sent = render(
        _downs(60), AlertGroup.DOWN, layout=Layout(), link=lambda _: "https://airflow.example.com/" + "x" * 900
    )
    deliver(mail_to(), sent)
    ((_, raw),) = server.got
    assert_lines(raw)
    over = [
        Alert(
            one.id,
            AlertRole.RESOLVED,
            event(EventKind.RECOVERED, one.event.host_name, 80),
            one.first,
            NOW,
            NOW + timedelta(1),
        )
        for one in _downs(2)
    ]
    deliver(mail_to(), render(over, AlertGroup.RECOVERED, layout=Layout(language="zh"), link=lambda _: None))
    assert_lines(server.got[1][1])
