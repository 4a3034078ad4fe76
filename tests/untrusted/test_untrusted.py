"""Documents within limits, and addresses: read as the HTTP client reads them, shown without their secrets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from portmon.config import load_config, parse_config
from portmon.errors import ConfigError, InvalidConfigError, PortmonError, StorageError
from portmon.inventory.sources.ansible import _told
from portmon.untrusted import documents
from portmon.untrusted.boundary import boundary
from portmon.untrusted.documents import DocumentError, compose_yaml, parse_json, parse_yaml
from portmon.untrusted.redact import redact
from portmon.untrusted.urls import address_of, is_ambiguous, origin_of, showable, split_login
from tests.worlds import mutated

# ── documents ───────────────────────────────────────────────────────────────────────────────────

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is nested more than 100 levels deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "is nested more than 100 levels deep"),
        ("[" + "[]," * 4_000_000 + "[]]", "has more than 4000000 values"),
        ('{"id": 1, "id": 2}', "'id' is given twice"),
        ("[" + "9" * 5000 + "]", "limit"),
        (b"[\xff]", "can't decode"),
        (b"\xff\xfe[", "decode"),
        ("[1,\n2", "line 2: "),
    ],
    ids=["deep", "deep objects", "many", "twice", "digits", "latin", "cut utf-16", "cut"],
)
def test_json_beyond_limits(text: str | bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('["' + "[{" * 1000 + '\\"[["]', ["[{" * 1000 + '"[[']),
        ("[" * 100 + "]" * 100, None),
        ("[1e999]", [float("inf")]),
        ('["\\ud800"]', ["\ud800"]),
        ('"é"'.encode("utf-16"), "é"),
        ('\ufeff"é"'.encode(), "é"),
    ],
    ids=["brackets in texts", "100 levels", "infinite", "surrogate", "utf-16", "bom"],
)
def test_json_within_limits(text: str | bytes, value: Any) -> None:
    assert value is None or parse_json(text) == value
    parse_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "line 1: is nested more than 100 levels deep"),
        ("- " * 2000, "line 1: is nested more than 100 levels deep"),
        ("".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(200)).replace("*a-1", "x"), "nested more than 100 levels"),
        (BOMB, "line 6: its aliases stand for too many values"),
        ("a: &a {k: v}\n" + "".join(f"{n}: &{n} {{<<: [*{m}, *{m}]}}\n" for m, n in zip("abcdefghijklmnopqrstuv", "bcdefghijklmnopqrstuvw", strict=True)), "aliases"),
        ("a: &a\n  b: *a\n", "line 2: 'a' contains itself"),
        ("a: 1\nb: {c: 1, c: 2}\n", "line 2: 'c' is given twice"),
        ("a: !!timestamp x\n", "line 1: the value is no !!timestamp"),
        ("a:\n- !!bool maybe\n", "line 2: the value is no !!bool"),
        ("a: !!int ''\n", "the value is no !!int"),
        ("a: 2024-13-45\n", "the value is no !!timestamp"),
        ("a: " + "9" * 5000 + "\n", "the value is no !!int"),
        ("a: !!binary é\n", "line 1: failed to convert"),
        ("a: !!python/object/apply:os.system [true]\n", "line 1: could not determine a constructor"),
        ("a: \x00\n", "special characters are not allowed"),
        ("a: b: c\n", "line 1: mapping values are not allowed"),
    ],
)  # fmt: skip
def test_yaml_beyond_limits(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text)
    assert message in str(caught.value)


def test_aliases_and_merge_keys_that_save_writing_are_read() -> None:
    text = "d: &d {port: 22, labels: &l {a: b}}\nhosts:\n" + "".join(
        f"- {{<<: *d, id: {n}, port: {n}, more: *l}}\n" for n in range(1000)
    )
    found = parse_yaml(text)
    assert found["hosts"][7] == {"port": 7, "labels": {"a": "b"}, "id": 7, "more": {"a": "b"}}
    # A mapping that is merged before it is built has no key twice.
    nested = "x: &x {a: 1}\ny: {z: {deep: &b {<<: *x, a: 2}}}\nw: {<<: *b, a: 3}\n"
    assert parse_yaml(nested) == yaml.safe_load(nested)


def test_what_the_bomb_stood_for_was_never_made() -> None:
    began = time.process_time()
    for read in (parse_yaml, compose_yaml, parse_config):
        with pytest.raises((DocumentError, ConfigError)):
            read(BOMB)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("read", "unit"),
    [
        (parse_yaml, "&a x "),
        (parse_yaml, "a\n"),
        (parse_yaml, "- a\n"),
        (parse_yaml, "'a\n "),
        (parse_json, "[],"),
        (parse_json, '"\\" '),
        (parse_yaml, "1:"),
        (redact, "a"),
        (redact, "a+"),
        (redact, "http://a:"),
        (parse_json, '{"a":'),
        (lambda text: _told(text.encode()), "[WARNING]: Failed to parse inventory with 'a."),
        (lambda text: _told(text.encode()), "[ERROR]: got: \n"),
        (lambda text: _told(text.encode()), " [ERROR"),
    ],
)
def test_reading_takes_time_that_grows_with_the_size(read: Callable[[str], Any], unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        began = time.process_time()
        try:
            read(text)
        except DocumentError:
            pass
        return time.process_time() - began

    # Eight times the size: a square would be 64 times the time. Times below some milliseconds say nothing, and one
    # measurement may be disturbed.
    assert any(seconds(160_000) < 25 * max(seconds(20_000), 0.01) for _ in range(3))


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_SIZE", 1 << 20)
    path = tmp_path / "portmon.yaml"
    path.write_bytes(b"# " + b"x" * (1 << 20))
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cmdb: {stale_after: !!timestamp x}\n", "portmon.yaml:1: the value is no !!timestamp"),
        ("scan:\n  confirm_after: 99999999999999d\n", "portmon.yaml:2: scan.confirm_after: a duration must not be"),
        ("scan:\n  confirm_after: .inf\n", "portmon.yaml:2: scan.confirm_after: a duration must not be"),
        ("cmdb: {source: {type: http, items: '" + "(" * 5000 + "'}}\n", "cmdb.source.items: "),
        ("? [a, b]\n: c\n", "portmon.yaml"),
        ("rules: &a [*a]\n", "portmon.yaml:1: 'a' contains itself"),
        ("ssh: {max_logins: " + "1:" * 5000 + "1}\n", "portmon.yaml:1: the value is no !!int"),
        ("\x00", "is no YAML: special characters are not allowed"),
    ],
)
def test_a_configuration_is_refused_with_its_file(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert message in str(caught.value)


def test_each_key_that_is_given_twice_is_told() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config("scan: {}\nscan: {}\nrules: []\nrules: []\n")
    assert [one.line for one in caught.value.errors] == [2, 4]


# ── the boundary ────────────────────────────────────────────────────────────────────────────────


class _SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RecursionError("x"), "it is nested too deeply"),
        (MemoryError(), "it is too large"),
        (KeyError("a\n" * 500), "KeyError: 'a\\na"),
        (StorageError("told by us"), "told by us"),
        (_SilentError(), "its text can't be read"),
    ],
)
def test_whatever_is_raised_is_one_kind_of_error(error: Exception, told: str) -> None:
    with pytest.raises(ConfigError) as caught, boundary(ConfigError, passing=ConfigError):
        raise error
    assert told in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.__cause__ is None


def test_what_is_told_already_passes_and_what_is_secret_is_not_repeated() -> None:
    mine = ConfigError("mine")
    with pytest.raises(ConfigError) as caught, boundary(ConfigError, passing=ConfigError, secret=True):
        raise mine
    assert caught.value is mine
    with pytest.raises(ConfigError) as caught, boundary(ConfigError, passing=ConfigError, secret=True):
        raise ValueError("s3cret")
    assert "ValueError" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(KeyboardInterrupt), boundary(ConfigError, passing=ConfigError):
        raise KeyboardInterrupt


def test_broken_documents_raise_nothing_else() -> None:
    told = mutated.run(1000, seed=20260301)
    assert {name.rpartition(" ")[0] for name in told} == set(mutated.samples())
    assert sum(count for name, count in told.items() if name.endswith(" read")) > 150


def test_the_samples_are_read_as_they_are(tmp_path: Path) -> None:
    """Else most of what is made of them would only show that nonsense is refused."""
    for kind, text in mutated.samples().items():
        for chance in mutated.plain_chances():
            found = mutated.reader(chance, kind, text, tmp_path)()
            assert getattr(found, "hosts", True), kind


# ── addresses ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://evil\\@cmdb/x", ("http", "evil", 80)),
        ("http://cmdb@evil/", ("http", "evil", 80)),
        ("http://cmdb#@evil/", ("http", "cmdb", 80)),
        ("http://cmdb?@evil/", ("http", "cmdb", 80)),
        ("http://cmdb:80\t@evil", ("http", "evil", 80)),
        ("HTTP://CMDB/", ("http", "cmdb", 80)),
        ("http://cmdb.:080/", ("http", "cmdb", 80)),
        ("https://cmdb", ("https", "cmdb", 443)),
        ("http://cmdb:/", ("http", "cmdb", 80)),
        ("http://[::1]:8080/", ("http", "::1", 8080)),
        ("http://bücher.example/", ("http", "xn--bcher-kva.example", 80)),
        ("http://cmdb%2eevil/", ("http", "cmdb.evil", 80)),
    ],
)
def test_where_a_request_goes(url: str, origin: tuple[str, str, int]) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    ["", "cmdb", "//evil/x", "http:cmdb/x", "http://", "http:///x", "http:////evil/x", "ftp://cmdb/", "httpx://cmdb/", "http://cmdb:x/", "http://cmdb:99999/",
     "http://cm\ndb/", "http://cmdb\t.evil/", "http://cmdb\x00.evil/", "http://cmdb。evil\uff0f/", "http://a b/", "http://[cmdb]/", "http://*.cmdb/", "http://.cmdb/"],
)  # fmt: skip
def test_where_no_request_goes(url: str) -> None:
    with pytest.raises(ValueError, match="it "):
        origin_of(url)


def test_a_login_is_taken_out_of_an_address() -> None:
    assert split_login("http://u%40x:p%2Fw@cmdb:8080/api") == ("http://cmdb:8080/api", ("u@x", "p/w"))
    assert split_login("http://cmdb/a@b") == ("http://cmdb/a@b", None)
    assert address_of("http://cmdb/api/", "/x://y") == "http://cmdb/api/x://y"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cmdb.example:8443/api/x?token=s#f", "https://cmdb.example:8443/api/x"),
        ("http://user:s@cmdb/api/", "http://cmdb/api/"),
        ("http://s@cmdb", "http://cmdb"),
        ("http://[2001:db8::1]:8080/a b", "http://[2001:db8::1]:8080/a"),
        ("http://user:s/x@h", "http://…"),
        ("http://user:s#x@h", "http://…"),
        ("http://user:s?x@h", "http://…"),
        ("http://user:8080/s@h", "http://…"),
        ("http://user:s\\x@h", "http://…"),
        ("http://user:s x@h", "http://…"),
        ("http://host:s/x", "http://host/x"),
        ("s:t://u", "…"),
        ("://user:s@h", "…"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert showable(url, path=True) == shown


SECRET = "s3cR3t"
around = st.text("/?#@:\\ ab1%'\"[]\t", max_size=6)


@given(
    around,
    around,
    st.sampled_from(["http", "https", "HTTP", "ftp", ""]),
    st.sampled_from(["h", "h:80", "[::1]", "h/x", "h?q", ""]),
)
@example("", "/x", "http", "h")
@example("", "#", "http", "h")
@example("", "?", "http", "h")
@example("", "@/", "http", "h")
def test_a_password_is_never_shown(before: str, after: str, scheme: str, host: str) -> None:
    """Wherever its parts are looked for: in a login before the last @, raw or malformed."""
    url = f"{scheme}://user:{before}{SECRET}{after}@{host}"
    shown = showable(url, path=True)
    assert SECRET not in shown
    assert SECRET not in showable(url)
    assert SECRET not in _refused(origin_of, url)
    assert SECRET not in _refused(split_login, url)


def _refused(read: Callable[[str], Any], url: str) -> str:
    try:
        read(url)
    except ValueError as error:
        return str(error)
    return ""


def test_an_address_that_may_hold_a_password_where_a_path_is_looked_for() -> None:
    assert is_ambiguous("http://user:pass/word@host")
    assert not is_ambiguous("http://user:password@host/path")


def test_no_error_of_ours_is_lost() -> None:
    assert issubclass(ConfigError, PortmonError)
    assert not issubclass(DocumentError, PortmonError)
