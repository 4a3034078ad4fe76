"""A mail server for the tests."""

from __future__ import annotations

import email
import email.policy
import time
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller

from tests.worlds.sshd import free_port


class Mailbox:
    """Keeps the mails; aiosmtpd refuses lines of more than 1,000 octets, their end included.

    :param got: recipients and bytes of each mail
    :param times: at which they came, by the monotonic clock
    :param refused: address: the answer to it
    :param sender: the answer to the sender
    :param answer: to the mail
    :param hangs_up: after the mail, before it answers; or after it answered
    :param utf8: whether it takes addresses that are not ASCII
    """

    def __init__(self, *, utf8: bool = True) -> None:
        self.got: list[tuple[list[str], bytes]] = []
        self.times: list[float] = []
        self.refused: dict[str, str] = {}
        self.sender = "250 OK"
        self.answer = "250 OK"
        self.hangs_up = ""
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port(), enable_SMTPUTF8=utf8)
        self._controller.start()
        self.port = self._controller.port

    def close(self) -> None:
        self._controller.stop()

    def connection(self, **extra: Any) -> dict[str, Any]:
        """Airflow's connection to it."""
        extra = {"disable_tls": True, "disable_ssl": True, "from_email": "portmon@example.com", **extra}
        return {"conn_type": "smtp", "host": "127.0.0.1", "port": self.port, "extra": extra}

    @property
    def mails(self) -> list[EmailMessage]:
        """The mails, parsed."""
        return [email.message_from_bytes(raw, policy=email.policy.default) for _, raw in self.got]

    def recipients(self) -> list[list[str]]:
        """Of each mail."""
        return [recipients for recipients, _ in self.got]

    async def handle_MAIL(self, server: object, session: object, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if self.sender.startswith("250"):
            envelope.mail_from = address
        return self.sender

    async def handle_RCPT(self, server: object, session: object, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: object, envelope: Any) -> str:  # noqa: N802
        self.times.append(time.monotonic())
        if self.answer.startswith("250"):
            self.got.append((list(envelope.rcpt_tos), envelope.content))
        if self.hangs_up == "before it answers":
            server.transport.close()
        return self.answer

    async def handle_QUIT(self, server: Any, session: object, envelope: object) -> str:  # noqa: N802
        if self.hangs_up == "after it answered":
            server.transport.close()
        return "221 Bye"
