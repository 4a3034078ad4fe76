"""Signatures by the text of Standard Webhooks, and bodies by templates, which are JSON whatever a host says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import subprocess
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.alerting.channels.base import Secrets
from portmon.alerting.channels.body import filled, path_of, samples
from portmon.alerting.channels.signing import signatures
from portmon.alerting.channels.webhook import document
from portmon.config import parse_config
from portmon.errors import ConfigError
from portmon.model.event_kinds import AlertRole, EventKind
from tests.worlds.messages import LINK, NOW, PAGE, alert, event, message

NEW = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OLD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = '{"title": "端口"}'.encode()


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As a consumer does by the specification: any of the signatures, in constant time."""
    key = base64.b64decode(secret[len("whsec_") :])
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    right = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    pairs = (one.split(",", 1) for one in headers["webhook-signature"].split(" "))
    return any(version == "v1" and hmac.compare_digest(given, right) for version, given in pairs)


@pytest.mark.parametrize(
    ("secrets", "valid", "own"),
    [
        (Secrets(secret=NEW), [NEW], None),
        (Secrets(secret=NEW, old_secret=OLD), [NEW, OLD], None),
        (Secrets(secret=NEW, old_secret="a long random text"), [NEW], "a long random text"),
        (Secrets(secret="a long random text", old_secret="older"), [], "a long random text"),
        (Secrets(), [], None),
    ],
)
def test_a_request_is_signed_with_each_secret_in_its_own_way(
    secrets: Secrets, valid: list[str], own: str | None
) -> None:
    headers = dict(signatures("msg_1", BODY, secrets))
    assert ("webhook-signature" in headers) == bool(valid)
    assert all(verified(secret, headers, BODY) for secret in valid)
    if valid:
        assert headers["webhook-signature"].count(" ") == len(valid) - 1
        assert not verified(valid[0], headers, BODY + b" ")
        assert not verified("whsec_" + base64.b64encode(b"x" * 32).decode(), headers, BODY)
        assert not verified(valid[0], {**headers, "webhook-id": "msg_2"}, BODY)
    assert ("X-Portmon-Signature" in headers) == (own is not None)
    if own is not None:
        text = headers["X-Portmon-Timestamp"].encode() + b"." + BODY
        assert headers["X-Portmon-Signature"] == f"sha256={hmac.new(own.encode(), text, hashlib.sha256).hexdigest()}"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_signature_is_what_openssl_makes_of_it() -> None:
    headers = signatures("msg_1", BODY, Secrets(secret=NEW))
    signed = f"msg_1.{headers['webhook-timestamp']}.".encode() + BODY
    key = f"hexkey:{bytes(range(32)).hex()}"
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", key, "-binary"]
    made = subprocess.run(command, input=signed, capture_output=True, check=True).stdout
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(made).decode()}"


@pytest.mark.parametrize("secret", ["whsec_", "whsec_?", "whsec_c2hvcnQ=", "whsec_" + "QUFB" * 40])
def test_a_wrong_secret_is_told_without_its_text(secret: str) -> None:
    with pytest.raises(ValueError, match="secret") as told:
        signatures("msg_1", BODY, Secrets(secret=secret))
    assert secret.removeprefix("whsec_") in ("", "?") or secret.removeprefix("whsec_") not in str(told.value)


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────


def _document(**fields: Any) -> dict[str, Any]:
    return document(message(alert(event(**fields)), links=(LINK,), pages=(PAGE,)))


def test_samples_have_the_fields_of_the_document() -> None:
    over = alert(event(EventKind.RECOVERED), AlertRole.RESOLVED, ends_at=NOW + timedelta(hours=1))
    for real in (_document(program="java"), document(message(over))):
        for sample in samples():
            assert sample.keys() == real.keys()
            assert sample["alerts"][0].keys() == real["alerts"][0].keys()


ANY = st.text(st.characters(exclude_categories=()))


@given(ANY, ANY)
def test_text_between_quotes_is_that_text(host: str, reason: str) -> None:
    told = _document(host=host, reason=reason)
    template = (
        '{"a": "on {{ alert.host }}: {{ alert.reason }}", "b": {{ alert.host | tojson }}, "c": {{ alert.labels }}}'
    )
    made = json.loads(filled(template, told, per_alert=True))
    shown = told["alerts"][0]
    assert made == {"a": f"on {shown['host']}: {shown['reason']}", "b": shown["host"], "c": {}}


def test_numbers_lists_and_nothing_are_json() -> None:
    told = _document(program=None)
    template = (
        "[{{ alert.port }}, {{ alert.program }}, {{ alert.untold }}, {{ alerts | length }}, {{ alert.at | epoch }}]"
    )
    assert json.loads(filled(template, told, per_alert=True)) == [8080, None, False, 1, NOW.timestamp()]
    looped = '[{% for one in alerts %}"{{ one.host }}"{{ "," if not loop.last }}{% endfor %}]'
    assert json.loads(filled(looped, told, per_alert=False)) == ["web01"]
    macro = '{% macro name(one) %}{"n": "{{ one.host }}"}{% endmacro %}{{ name(alerts[0]) }}'
    assert json.loads(filled(macro, _document(host='a"b'), per_alert=False)) == {"n": 'a"b'}


def test_a_path_can_lead_nowhere_else() -> None:
    told = _document(host="../../x?y#z@evil\udcff")
    assert path_of("a/{{ alert.host }}", told) == "a/..%2F..%2Fx%3Fy%23z%40evil%5Cxff"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ('{"a": {{ alert.host }}}', "what it makes is no JSON in line 1 of it"),
        ('{\n "a": "{{ alert.hots }}"}', "line 2 of it: .*has no attribute 'hots'"),
        ('{\n\n "a": {% if %}}', "line 3 of it: "),
        ('{"a": "{{ alerts[7].host }}"}', "line 1 of it: .*7"),
        ('{"a": "{{ alert.ends_at[:19] }}"}', "line 1 of it: "),
        ('{"a": "{{ alert.__class__ }}"}', "line 1 of it: .*unsafe"),
        ("hello", "what it makes is no JSON"),
    ],
)
def test_a_wrong_template_is_found_when_the_configuration_is_read(template: str, told: str) -> None:
    text = "alerts:\n  channels:\n    - type: webhook\n      name: hook\n      conn_id: hook\n      per_alert: true\n"
    with pytest.raises(ConfigError, match=rf"portmon.yaml:7: alerts.channels\[0\].template: {told}"):
        parse_config(f"{text}      template: {json.dumps(template)}\n")


def test_a_wrong_path_is_found_when_the_configuration_is_read() -> None:
    text = "alerts:\n  channels:\n    - type: webhook\n      name: hook\n      conn_id: hook\n"
    with pytest.raises(ConfigError, match=r"portmon.yaml:6: alerts.channels\[0\].endpoint: it can be a template only"):
        parse_config(f"{text}      endpoint: 'a/{{{{ alert.id }}}}'\n")
    with pytest.raises(ConfigError, match=r"portmon.yaml:6: alerts.channels\[0\].endpoint: line 1 of it"):
        parse_config(f"{text}      endpoint: 'a/{{{{ alert.di }}}}'\n      per_alert: true\n")
