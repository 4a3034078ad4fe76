"""Names of the algorithms that old SSH servers speak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

OldKex = Literal[
    "diffie-hellman-group-exchange-sha1",
    "diffie-hellman-group14-sha1",
    "diffie-hellman-group1-sha1",
]
OldCipher = Literal["aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"]
OldMac = Literal["hmac-sha1-96", "hmac-md5", "hmac-md5-96"]
OldSignature = Literal["ssh-rsa"]


@dataclass(frozen=True, slots=True)
class OldAlgorithms:
    """What is spoken besides what is spoken anyway, if the server has nothing better."""

    kex: Sequence[str] = ()
    host_keys: Sequence[str] = ()
    ciphers: Sequence[str] = ()
    macs: Sequence[str] = ()
    user_keys: Sequence[str] = ()


LEGACY = OldAlgorithms(*map(get_args, (OldKex, OldSignature, OldCipher, OldMac, OldSignature)))
"""All that can be spoken."""
