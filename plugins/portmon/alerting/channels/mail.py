"""Mails over Airflow's SMTP hook: headers that make the mails of one alert a thread, and what the hook leaves out.

Mail programs join mails by the ids that they refer to, whether or not they have the mail of that id
(https://www.rfc-editor.org/rfc/rfc5322#section-3.6.4). So every alert has an id that is known beforehand, its
anchor: the first mail about this alert alone has that id, and all other mails about it refer to it.

The hook sends its message unfolded, though a line may have 998 octets at most
(https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1), and throws away which recipients the server refused.
"""

from __future__ import annotations

import email
import email.encoders
import email.policy
import hashlib
import re
import smtplib
from collections.abc import Callable, Mapping, Sequence
from email.message import EmailMessage
from typing import Any

from portmon.alerting.message.render import Message
from portmon.model.event_kinds import AlertRole

DOMAIN = "portmon.invalid"
"""Right-hand side of the ids: not the name of a machine, since the next mail may come from another worker, and one that
cannot be registered (https://www.rfc-editor.org/rfc/rfc2606)."""
MAX_REFERENCES = 8
"""Alerts that a mail refers to: of more, the oldest and the newest ones. The header stays below the length of a line
even where nothing folds it."""
MAX_RUNS = 4
"""Runs that a mail refers to, see :func:`_references`."""
LONGEST = 998
"""Octets of a line, without its end."""
NO_ADDRESS = b"not sent: it is no address, or has characters other than ASCII, which this mail server can't take"
"""In place of the server's answer to an address that can't be given to it."""
_POLICY = email.policy.SMTP.clone(cte_type="7bit")


def headers(message: Message, channel: str) -> dict[str, str]:
    """Headers of a mail, by name, in printable ASCII.

    :param channel: its name; each channel has threads of its own
    """
    channel_id = _digest(channel)[:8]
    message_id = _word(message.id or _digest(f"{message.title}\0{message.text}"))
    found = {"Message-ID": f"<m.{message_id}.{channel_id}@{DOMAIN}>"}
    is_first = [alert.role is AlertRole.FIRING and alert.event.id == alert.first.id for alert in message.alerts]
    if is_first == [True] and not message.reminder:
        found["Message-ID"] = _anchor(message.alerts[0].id, channel_id)
    elif anchors := _references(message, channel_id):
        found["In-Reply-To"] = anchors[0]
        found["References"] = " ".join(anchors)
    return {**found, "Auto-Submitted": "auto-generated", "X-Portmon-Id": message_id}


def _references(message: Message, channel_id: str) -> list[str]:
    """Ids that a mail refers to.

    A mail about many alerts can't name them all, yet later mails about some of them must join it. So a mail that leaves
    alerts out also refers to the runs in which they began, and so does every later mail about an alert of such a run.
    """
    anchors = list(dict.fromkeys(_anchor(alert.id, channel_id) for alert in message.alerts))
    left_out = len(anchors) > MAX_REFERENCES
    by_age = sorted(message.alerts, key=lambda alert: (alert.starts_at, alert.id))
    if left_out:
        anchors = _ends([_anchor(alert.id, channel_id) for alert in by_age], MAX_REFERENCES)
    runs = [alert.first.run_id for alert in by_age if left_out or alert.first.run_id in message.crowded]
    return anchors + _ends([f"<r.{_digest(run)[:32]}.{channel_id}@{DOMAIN}>" for run in runs], MAX_RUNS)


def _ends(ids: list[str], size: int) -> list[str]:
    """The first and the last of the ids, each once."""
    known = list(dict.fromkeys(ids))
    return known if len(known) <= size else known[: size // 2] + known[-(size // 2) :]


def _anchor(alert_id: str, channel_id: str) -> str:
    return f"<{_word(alert_id)}.{channel_id}@{DOMAIN}>"


def _word(text: str) -> str:
    """An id as it is if it is short and only letters and digits, else its digest."""
    return text if re.fullmatch(r"[0-9A-Za-z]{1,32}", text) else _digest(text)[:32]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class MailTransaction:
    """Lets an SMTP hook send one mail once, to the recipients that do not have it, and keeps the server's answers.

    :param hook: its client is exchanged for one that does so
    :param done: recipients that have the mail, by :func:`recipient_id`
    :ivar taken: recipients that got it now
    :ivar refused: recipients that the server refused, with the code and text of its answer
    :ivar error: why no recipient got it
    :ivar unsure: the mail was sent and only the answer is missing
    """

    def __init__(self, hook: Any, done: Sequence[str]) -> None:
        self._build: Callable[[], smtplib.SMTP] = hook._build_client
        self._done = done
        self.taken: tuple[str, ...] = ()
        self.refused: Mapping[str, tuple[int, bytes]] = {}
        self.error: Exception | None = None
        self.unsure = False
        hook._build_client = self._client

    def _client(self) -> smtplib.SMTP:
        client = self._build()
        send, data = client.sendmail, client.data

        def sendmail(from_addr: str, to_addrs: Sequence[str], msg: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
            left = [address for address in dict.fromkeys(to_addrs) if recipient_id(address) not in self._done]
            try:
                self._send(client, send, from_addr, left, msg)
            except Exception as error:
                # Kept, not raised: the hook would send it five times more, at once.
                self.error = error
                self.unsure = self.unsure and not isinstance(error, smtplib.SMTPResponseException)
            return {}

        def counted_data(msg: Any) -> tuple[int, bytes]:
            self.unsure = True
            answer = data(msg)
            self.unsure = False
            return answer

        client.sendmail = sendmail  # type: ignore[method-assign, assignment]
        client.data = counted_data  # type: ignore[method-assign]
        return client

    def _send(self, client: smtplib.SMTP, send: Callable[..., Any], sender: str, left: list[str], msg: str) -> None:
        client.ehlo_or_helo_if_needed()
        takes_utf8 = client.has_extn("smtputf8")
        # What the library would raise for one address must not keep the mail from the others.
        envelope = {address: _on_the_wire(address, takes_utf8=takes_utf8) for address in left}
        wrong = {address: (553, NO_ADDRESS) for address, sent in envelope.items() if sent is None}
        by_sent = {sent: address for address, sent in envelope.items() if sent is not None}
        from_addr = _on_the_wire(sender, takes_utf8=takes_utf8)
        if from_addr is None:
            raise smtplib.SMTPSenderRefused(553, NO_ADDRESS, sender)
        options = [] if all(map(str.isascii, (from_addr, *by_sent))) else ["SMTPUTF8", "BODY=8BITMIME"]
        try:
            refused = send(from_addr, list(by_sent), folded(msg), options) if by_sent else {}
            self.taken = tuple(address for sent, address in by_sent.items() if sent not in refused)
        except smtplib.SMTPRecipientsRefused as error:
            refused = error.recipients
        self.refused = {**wrong, **{by_sent[sent]: answer for sent, answer in refused.items()}}

    def refusals(self, redact: Callable[[str], str]) -> str:
        """Recipients that were refused and the server's answers, for people."""
        answers = {
            address: f"{code} {redact(' '.join(text.decode('utf-8', 'replace').split()))}".strip()
            for address, (code, text) in self.refused.items()
        }
        return "; ".join(f"{address} ({answer})" for address, answer in sorted(answers.items()))


def _on_the_wire(address: str, *, takes_utf8: bool) -> str | None:
    """An address as it is given to the mail server; None if it takes no such address.

    :param takes_utf8: the server does SMTPUTF8 (https://www.rfc-editor.org/rfc/rfc6531)
    """
    if any(char in address for char in "\r\n\0"):
        return None
    if address.isascii() or takes_utf8:
        return address
    local, _, domain = address.rpartition("@")
    try:
        ascii_domain = domain.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return f"{local}@{ascii_domain}" if local.isascii() else None


def recipient_id(address: str) -> str:
    """The form in which a recipient that has a mail is stored."""
    return _digest(address.strip().lower())[:16]


def folded(text: str | bytes) -> bytes:
    """A whole mail with no line that is too long: headers folded at blanks or encoded, bodies encoded."""
    source = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    mail = email.message_from_bytes(source, policy=_POLICY)
    for part in mail.walk():
        if not isinstance(part, EmailMessage) or part.is_multipart():
            continue
        encoded = str(part.get("Content-Transfer-Encoding", "7bit")).strip().lower() not in ("7bit", "8bit", "binary")
        # Bytes: a text has more ends of lines than a mail, and characters of several octets.
        content = part.get_payload(decode=True)
        if encoded or not isinstance(content, bytes):
            continue
        if not content.isascii() or any(len(line) > LONGEST for line in content.splitlines()):
            del part["Content-Transfer-Encoding"]
            part.set_payload(content)
            email.encoders.encode_base64(part)
    return mail.as_bytes()
