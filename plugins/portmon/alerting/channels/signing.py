"""Signatures of webhooks: portmon's own, and those of Standard Webhooks, several while a secret is replaced.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Mapping

from portmon.alerting.channels.base import Secrets

STANDARD = "whsec_"
"""Begins a secret of Standard Webhooks; base64 follows."""
SHORTEST, LONGEST = 24, 64
"""Bytes of such a secret."""


def signatures(message_id: str, body: bytes, secrets: Secrets) -> Mapping[str, str]:
    """Headers that sign a body with each secret, in the way that the secret is written.

    :raises ValueError: a secret of Standard Webhooks is none. The text holds nothing of it
    """
    known = [secret for secret in (secrets.secret, secrets.old_secret) if secret]
    own = [secret for secret in known if not secret.startswith(STANDARD)]
    standard = [_key(secret) for secret in known if secret.startswith(STANDARD)]
    now = str(int(time.time()))
    headers: dict[str, str] = {}
    if own:
        # Its receivers compare one signature.
        headers |= {"X-Portmon-Timestamp": now, "X-Portmon-Signature": sign(own[0], now, body)}
    if standard:
        text = f"{message_id}.{now}.".encode() + body
        made = (f"v1,{base64.b64encode(hmac.digest(key, text, 'sha256')).decode()}" for key in standard)
        headers |= {"webhook-id": message_id, "webhook-timestamp": now, "webhook-signature": " ".join(made)}
    return headers


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Value of the header ``X-Portmon-Signature``: HMAC-SHA256 over timestamp, a dot, and the body.

    :param timestamp: value of the header ``X-Portmon-Timestamp``, seconds since 1970
    """
    return f"sha256={hmac.digest(secret.encode(), f'{timestamp}.'.encode() + body, 'sha256').hex()}"


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(STANDARD), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a secret that begins with {STANDARD} must go on in base64") from None
    if not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"a secret of {STANDARD} has {SHORTEST} to {LONGEST} bytes, but this one {len(key)}")
    return key
