"""Mail as Airflow's SMTP hook makes it, with what the hook leaves out.

The hook sends its message unfolded (a line may have 998 octets at most:
https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1), and throws away which recipients the server refused.
"""

from __future__ import annotations

import email
import email.encoders
import email.policy
import hashlib
import smtplib
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from typing import Any

from airflow.providers.smtp.hooks.smtp import SmtpHook

from portmon.airflow.channels.redact import foreign

_POLICY = email.policy.SMTP.clone(cte_type="7bit")
_LONGEST = 998
"""Octets of a line, without its end."""

Answer = tuple[int, bytes]
"""Code and text of a server."""


class RecordingHook(SmtpHook):
    """Sends one mail once, to those recipients who do not have it, and keeps what the server said.

    :param done: recipients that have it, by :func:`recipient_id`
    """

    def __init__(self, *, done: Sequence[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._done = done
        self.taken: tuple[str, ...] = ()
        self.refused: Mapping[str, Answer] = {}
        self.error: Exception | None = None

    def _build_client(self) -> smtplib.SMTP:
        client: smtplib.SMTP = super()._build_client()
        send = client.sendmail

        def sendmail(from_addr: str, to_addrs: Sequence[str], msg: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
            left = [address for address in dict.fromkeys(to_addrs) if recipient_id(address) not in self._done]
            try:
                self.refused = send(from_addr, left, folded(msg)) if left else {}
                self.taken = tuple(address for address in left if address not in self.refused)
            except smtplib.SMTPRecipientsRefused as error:
                self.refused = error.recipients
            except Exception as error:
                # Kept, not raised: the hook would send it five times more, at once.
                self.error = error
            return {}

        client.sendmail = sendmail  # type: ignore[method-assign, assignment]
        return client


def recipient_id(address: str) -> str:
    """What is stored of a recipient that has a mail."""
    return hashlib.sha256(address.strip().lower().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def refusals(refused: Mapping[str, Answer]) -> str:
    """Recipients that did not get a mail, and what the server said, for people."""
    return "; ".join(f"{address} ({_said(answer)})" for address, answer in sorted(refused.items()))


def _said(answer: Answer) -> str:
    code, text = answer
    return f"{code} {foreign(' '.join(text.decode('utf-8', 'replace').split()))}".strip()


def folded(text: str | bytes) -> bytes:
    """A mail with no line that is too long: headers folded at blanks or encoded, bodies encoded.

    :param text: a whole mail
    """
    source = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    mail = email.message_from_bytes(source, policy=_POLICY)
    for part in mail.walk():
        if not isinstance(part, EmailMessage) or part.is_multipart():
            continue
        body = part.get_payload()
        encoded = str(part.get("Content-Transfer-Encoding", "7bit")).lower() not in ("7bit", "8bit", "binary")
        if not encoded and isinstance(body, str) and any(len(line) > _LONGEST for line in body.splitlines()):
            content = part.get_payload(decode=True)
            del part["Content-Transfer-Encoding"]
            part.set_payload(content)
            email.encoders.encode_base64(part)
    return mail.as_bytes()
