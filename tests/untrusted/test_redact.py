"""Texts and errors of other libraries in a log."""

from __future__ import annotations

import pytest

from portmon.untrusted.redact import ERROR_LIMIT, describe, redact


@pytest.mark.parametrize(
    "address",
    [
        "https://hooks.example.com/SECRET/x?y=SECRET",
        "https://user:SECRET@hooks.example.com/x",
        "https://user:SECRET@SECRET@hooks.example.com:8443/x",
        "https://user:SECRET/SECRET@hooks.example.com",
        "http://user:SECRET@[::1]:80/SECRET",
        "slack://SECRET@/",
        "x" * 50 + "://user:SECRET@host/SECRET",
    ],
)
def test_no_secret_of_an_address_is_told(address: str) -> None:
    shown = redact(f"POST {address} failed")
    assert "SECRET" not in shown
    assert shown.startswith("POST ")
    assert shown.endswith(" failed")


def test_what_looks_like_a_port_may_be_a_password() -> None:
    assert redact("POST http://user:31337/x@host failed") == "POST http://… failed"


@pytest.mark.parametrize("host", ["hooks.example.com", "hooks.example.com:8443", "[::1]:80", "127.0.0.1"])
def test_the_host_of_an_address_is_told(host: str) -> None:
    assert redact(f"POST https://u:p@{host}/x failed") == f"POST https://{host}/… failed"


def test_an_error_is_described_by_class_text_and_place_on_one_line() -> None:
    try:
        raise ValueError("no answer from https://h.example/T0/B0\n\x1b[31m" + "x" * 1000)
    except ValueError as error:
        told = describe(error)
    assert told.startswith(r"ValueError: no answer from https://h.example/…\n\x1b[31mxxx")
    assert "[test_redact.py:" in told
    assert "\n" not in told
    assert len(told) < ERROR_LIMIT + 60


def test_an_error_without_a_text_or_a_place_is_its_class() -> None:
    assert describe(KeyError()) == "KeyError"
    assert describe(KeyError("s3cret"), lambda _: "") == "KeyError"
