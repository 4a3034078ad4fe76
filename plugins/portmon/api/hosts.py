"""Hosts: which one a person means, whose machine answers, and the SSH host keys that are trusted or were refused."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from portmon.api.view import View
from portmon.engine.conditions import Condition
from portmon.engine.identities import ACCEPTED
from portmon.errors import CommandError
from portmon.model.host import KnownHost
from portmon.storage import actions, conditions, decisions, host_keys, hosts
from portmon.storage.actions import Action
from portmon.storage.decisions import DecisionKind


def find_host(conn: Connection, wanted: str) -> KnownHost:
    """A host by its id, or by its name without regard to case.

    :raises CommandError: no host or several hosts are named so
    """
    found = hosts.named(conn, wanted)
    if not found:
        raise CommandError(f"no host has the name or id {wanted!r}; the CMDB's list of the last run counts")
    if len(found) > 1:
        ids = ", ".join(repr(host.id) + (" (left the CMDB)" if host.removed_at else "") for host in found)
        raise CommandError(f"{len(found)} hosts are named {wanted!r}; give one of their ids: {ids}")
    return found[0]


def accept_machine(conn: Connection, host: str, *, author: str, reason: str = "", now: datetime) -> str:
    """Note that the machine which answers for a host is the host's own from now on.

    :raises CommandError: no other machine answers for it
    """
    found = find_host(conn, host)
    since = conditions.since(conn, Condition.FOREIGN.key(found.id))
    if since is None:
        told = "no other machine answers for it, so there is no machine to accept"
        raise CommandError(f"{found.name}: {told}; to accept a port that is down, name the port")
    protocol, port = ACCEPTED
    decisions.decide(
        conn, DecisionKind.ACCEPTED, found.id, port, at=now, author=author, reason=reason, protocol=protocol
    )
    before, after = {"foreign_since": since.isoformat()}, {"machine": "accepted"}
    actions.record(conn, Action(now, author, "accept_machine", found.name, reason, before, after))
    return f"{found.name}: the machine that answers is accepted; its next complete answer counts, as after a reboot"


class HostKeyView(View):
    """One SSH host key; one that is not trusted was offered in place of a trusted one, and refused."""

    endpoint: str
    key_type: str
    key_base64: str
    fingerprint: str
    trusted: bool
    first_seen: datetime


def list_host_keys(conn: Connection, *, changed: bool = False) -> list[HostKeyView]:
    """The keys of every endpoint, trusted ones first.

    :param changed: only endpoints that offer another key than the trusted one
    """
    keys = [HostKeyView.model_validate(key) for key in host_keys.list_all(conn)]
    refused = {key.endpoint for key in keys if not key.trusted}
    return [key for key in keys if not changed or key.endpoint in refused]


def accept_host_key(
    conn: Connection, endpoint: str, fingerprint: str, *, author: str, reason: str = "", now: datetime
) -> str:
    """Trust the key that an endpoint offers, unless it offers another one by now.

    :param fingerprint: of the key that a person compared with the host's own
    """
    trusted = [key.fingerprint for key in host_keys.list_all(conn, endpoint) if key.trusted]
    if host_keys.accept(conn, endpoint, fingerprint):
        before, after = {"fingerprints": trusted}, {"fingerprint": fingerprint}
        actions.record(conn, Action(now, author, "release_key", endpoint, reason, before, after))
        return f"{endpoint} is trusted with its new key {fingerprint}"
    offered = [key.fingerprint for key in host_keys.list_all(conn, endpoint) if not key.trusted]
    if not offered:
        raise CommandError(f"{endpoint} shows no other key than the trusted one; see hostkeys list")
    shown = f"{endpoint} does not show that key; it shows {', '.join(offered)} now"
    raise CommandError(f"{shown}. Nothing was accepted: compare again")
