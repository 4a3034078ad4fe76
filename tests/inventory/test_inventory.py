"""Entries, pages, files, scopes and pruning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.errors import CmdbError, NoSuchPageError, ParamError
from portmon.inventory.config import Cmdb
from portmon.inventory.entries import read_hosts
from portmon.inventory.entry_fields import CmdbFields
from portmon.inventory.prune import plan_prune
from portmon.inventory.scope import select
from portmon.inventory.sources.file import FileSource
from portmon.inventory.sources.http import HttpSource
from portmon.inventory.sources.pages import PageRequest
from portmon.model.host import Host, InvalidHost, Inventory
from tests.worlds.sources import BASE, fetch, read_file

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def read(*entries: Any, **fields: str) -> Inventory:
    return read_hosts((entries, CmdbFields(**fields)), source="test")


# ── entries ─────────────────────────────────────────────────────────────────────────────────────


def test_a_host() -> None:
    found = read(
        {
            "id": 7,
            "name": "web01",
            "address": "10.0.0.1/24",
            "port": "2222",
            "labels": {"role": "web", "n": 1, "x": None},
        }
    )
    assert found.hosts == (Host("7", "web01", "10.0.0.1", 2222, {"role": "web", "n": "1"}),)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"name": "n", "address": "a"}, "it has no id"),
        ({"id": "", "address": "a"}, "it has no id"),
        ({"id": True, "address": "a"}, "the id is a bool"),
        ({"id": 1.5, "address": "a"}, "the id is a float"),
        ({"id": "x" * 251, "address": "a"}, "more than 250"),
        ({"id": 1}, "it has no address"),
        ({"id": 1, "address": ""}, "it has no address"),
        ({"id": 1, "address": "a b"}, "neither a host name nor an IP address"),
        ({"id": 1, "address": "-oProxyCommand=x"}, "neither a host name nor an IP address"),
        ({"id": 1, "address": "a;reboot"}, "neither a host name nor an IP address"),
        ({"id": 1, "address": "$(id)"}, "neither a host name nor an IP address"),
        ({"id": 1, "address": "{{ conn.x.password }}"}, "neither a host name nor an IP address"),
        ({"id": 1, "address": "10.0.0.256"}, "neither a host name nor an IP address"),
        ({"id": 1, "address": ["a"]}, "the address is a list"),
        ({"id": 1, "address": "a", "port": 0}, "the port 0 is not 1 to 65535"),
        ({"id": 1, "address": "a", "port": "ssh"}, "the port 'ssh'"),
        ({"id": 1, "address": "a", "port": True}, "the port True"),
        ({"id": 1, "address": "a", "name": "a\nb"}, "control characters"),
        ({"id": 1, "address": "a", "labels": 3}, "the labels are a int"),
        (None, "it is null"),
        ("text", "it is a str"),
    ],
)
def test_an_invalid_entry_says_why_and_the_rest_goes_on(entry: Any, reason: str) -> None:
    found = read(entry, {"id": "ok", "address": "10.0.0.1"})
    assert [host.id for host in found.hosts] == ["ok"]
    (invalid,) = found.invalid
    assert reason in invalid.reason
    assert invalid.position == 1


def test_an_invalid_entry_keeps_the_id_that_it_has() -> None:
    (invalid,) = read({"id": 5, "name": "web05", "address": None}).invalid
    assert (invalid.id, invalid.name) == ("5", "web05")


def test_of_entries_with_one_id_none_is_used() -> None:
    found = read({"id": 1, "address": "a"}, {"id": "1", "address": "b"}, {"id": 2, "address": "c"})
    assert [host.id for host in found.hosts] == ["2"]
    assert [(one.position, one.reason) for one in found.invalid] == [
        (1, "2 entries have the id '1' and differ"),
        (2, "2 entries have the id '1' and differ"),
    ]


def test_entries_that_say_the_same_are_one() -> None:
    """As an API gives a host twice that moved from one page to the next while they were read."""
    web = {"id": 1, "name": "web", "address": "a", "labels": {"x": "y"}}
    found = read(web, {"id": 2, "address": "c"}, {**web, "id": "1", "unmapped": "another"}, web)
    assert [host.id for host in found.hosts] == ["1", "2"]
    assert found.invalid == ()
    found = read(web, web, {**web, "labels": {}})
    assert found.hosts == ()
    assert [(one.position, one.reason) for one in found.invalid] == [
        (number, "3 entries have the id '1' and differ") for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:DB8::1/64", "2001:db8::1"),
        ("[::1]", "::1"),
        ("web01.example.com", "web01.example.com"),
        ("web_1", "web_1"),
    ],
)
def test_addresses(address: str, expected: str) -> None:
    assert read({"id": 1, "address": address}).hosts[0].address == expected


@pytest.mark.parametrize("enabled", [False, None, "", [], 0, {"value": "no", "label": "No"}, {"value": 0, "label": ""}])
def test_disabled_entries_are_left_out(enabled: Any) -> None:
    assert len(read({"id": 1, "address": "a", "on": {"value": "yes", "label": "no"}}, enabled="on").hosts) == 1
    assert len(read({"id": 1, "address": "a", "on": {"value": "no"}}, enabled="on").hosts) == 1
    found = read({"id": 1, "address": "a", "on": enabled}, {"id": 2, "address": "b", "on": "yes"}, enabled="on")
    assert [host.id for host in found.hosts] == ["2"]
    assert found.disabled == 1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["role=web", "prod"], {"role": "web", "prod": "true"}),
        ("role=web, prod", {"role": "web", "prod": "true"}),
        ([{"name": "Web", "slug": "web"}], {"web": "true"}),
        (
            {"site": {"name": "ber", "slug": "b"}, "tags": ["a", "b"], "on": True},
            {"site": "ber", "tags": "a,b", "on": "true"},
        ),
        (None, {}),
    ],
)
def test_labels(labels: Any, expected: dict[str, str]) -> None:
    assert read({"id": 1, "address": "a", "labels": labels}).hosts[0].labels == expected


def test_a_host_without_a_name_is_called_by_its_address() -> None:
    assert read({"id": 1, "name": None, "address": "web01"}).hosts[0].name == "web01"


def test_braces_in_a_name_stay() -> None:
    assert read({"id": 1, "name": "{{ conn.x.password }}", "address": "a"}).hosts[0].name == "{{ conn.x.password }}"


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "name", "address", "port", "labels"]), inner)
    ),
)


@given(st.lists(json_values, max_size=5))
def test_no_entry_is_lost_and_ids_are_unique(entries: list[Any]) -> None:
    found = read(*entries)
    alone = [read(entry) for entry in entries]
    assert {host.id for one in alone for host in one.hosts} <= {one.id for one in (*found.hosts, *found.invalid)}
    assert sum(len(one.invalid) for one in alone) <= len(found.invalid)
    assert len(found.hosts) + len(found.invalid) <= len(entries)
    assert len({host.id for host in found.hosts}) == len(found.hosts)


# ── pages ───────────────────────────────────────────────────────────────────────────────────────


def source(**values: Any) -> HttpSource:
    return HttpSource.model_validate({"endpoint": "api/hosts", "items": "results", **values})


def entries(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "address": f"h{number}"} for number in range(count)]


def get(config: HttpSource, send: Any) -> list[str]:
    return [host.id for host in fetch(config, send).hosts]


@given(st.integers(0, 25), st.integers(1, 7), st.sampled_from(["next_link", "page", "offset"]), st.booleans())
def test_any_split_into_pages_gives_the_same_list(count: int, size: int, style: str, total: bool) -> None:
    everything = entries(count)

    def send(request: PageRequest) -> Any:
        if style == "next_link":
            start = int(request.url.rsplit("=", 1)[1]) if request.url else 0
        elif style == "page":
            start = (int(request.params["page"]) - 1) * size
        else:
            start = int(request.params["offset"])
        following = f"{BASE}/api/hosts?offset={start + size}" if start + size < count else None
        return {"results": everything[start : start + size], "next": following, "count": count}

    pagination: dict[str, Any] = {"style": style}
    if style != "next_link":
        pagination["size"] = size
    config = source(pagination=pagination, total="count" if total else None)
    assert get(config, send) == [str(number) for number in range(count)]


def test_a_relative_link_is_followed() -> None:
    pages = {
        None: {"results": entries(1), "next": "?page=2"},
        f"{BASE}/api/hosts?page=2": {"results": [], "next": None},
    }
    assert get(source(pagination={"style": "next_link"}), lambda request: pages[request.url]) == ["0"]


@pytest.mark.parametrize(
    "link", ["https://evil.example/x", "http://cmdb.example/x", "https://cmdb.example:8443/x", "//evil.example/"]
)
def test_a_link_to_another_server_is_not_followed(link: str) -> None:
    with pytest.raises(CmdbError, match="another server"):
        get(source(pagination={"style": "next_link"}), lambda _: {"results": entries(1), "next": link})


@pytest.mark.parametrize(
    ("config", "answers", "message"),
    [
        ({}, [{"other": []}], "'results' is null, not a list"),
        ({}, [[]], "'results' is null, not a list"),
        ({}, ["<html>"], "not a list"),
        ({"total": "count"}, [{"results": [1], "count": 5}], "1 entries, but it says that there are 5"),
        ({"total": "count"}, [{"results": [1], "count": "x"}], "not a number"),
        (
            {"pagination": {"style": "next_link"}},
            [{"results": [1], "next": "?a"}, {"results": [2], "next": "?a"}],
            "a loop",
        ),
        ({"pagination": {"style": "page", "size": 1}}, [{"results": [1]}, {"results": [1]}], "ignores the paging"),
        (
            {"pagination": {"style": "page", "size": 1}, "max_pages": 2},
            [{"results": [1]}, {"results": [2]}],
            "more than 2 pages",
        ),
    ],
)
def test_a_list_that_is_not_whole_is_refused(config: dict[str, Any], answers: list[Any], message: str) -> None:
    given_answers = iter(answers)
    with pytest.raises(CmdbError, match=message):
        get(source(**config), lambda _: next(given_answers))


@pytest.mark.parametrize("style", ["page", "offset"])
def test_a_server_that_caps_its_pages_gives_the_whole_list(style: str) -> None:
    """It gives 50 where 100 are asked for: a short page is no last page."""
    everything = entries(200)

    def send(request: PageRequest) -> Any:
        start = (int(request.params["page"]) - 1) * 50 if style == "page" else int(request.params["offset"])
        return {"results": everything[start : start + 50]}

    assert len(get(source(pagination={"style": style}), send)) == 200


@pytest.mark.parametrize("style", ["page", "offset"])
def test_with_a_total_no_page_is_asked_for_in_vain(style: str) -> None:
    seen = []

    def send(request: PageRequest) -> Any:
        seen.append(request)
        return {"results": entries(3), "count": 3}

    assert len(get(source(pagination={"style": style}, total="count"), send)) == 3
    assert len(seen) == 1


def paged(pages: dict[int, Any]) -> Any:
    def send(request: PageRequest) -> Any:
        page = pages.get(int(request.params["page"]), 404)
        if page == 404:
            raise NoSuchPageError("HTTP 404", source="test")
        return {"results": page}

    return send


def test_no_page_past_the_end_is_the_end_of_numbered_pages() -> None:
    config = source(pagination={"style": "page", "size": 2})
    assert get(config, paged({1: entries(4)[:2], 2: entries(4)[2:]})) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("total", "pages"), [(None, {}), ("`9`", {1: entries(5)}), ("`9`", {})], ids=["first", "too early", "none at all"]
)
def test_no_page_where_one_must_be_is_an_error(total: str | None, pages: dict[int, Any]) -> None:
    with pytest.raises(CmdbError, match="HTTP 404"):
        get(source(pagination={"style": "page"}, total=total), paged(pages))


def test_no_page_at_an_offset_is_an_error() -> None:
    def send(request: PageRequest) -> Any:
        if request.params["offset"]:
            raise NoSuchPageError("HTTP 404", source="test")
        return {"results": entries(5)}

    with pytest.raises(CmdbError, match="HTTP 404"):
        get(source(pagination={"style": "offset"}), send)


@pytest.mark.parametrize("style", ["page", "offset"])
def test_a_server_that_ignores_paging_is_told(style: str) -> None:
    with pytest.raises(CmdbError, match="ignores the paging"):
        get(source(pagination={"style": style}), lambda _: {"results": entries(7)})


def test_a_failing_later_page_fails_the_list() -> None:
    def send(request: PageRequest) -> Any:
        if request.params["page"] == 2:
            raise CmdbError("HTTP 500", source="test")
        return {"results": entries(100)}

    with pytest.raises(CmdbError, match="HTTP 500"):
        get(source(pagination={"style": "page"}), send)


# ── files ───────────────────────────────────────────────────────────────────────────────────────


def file(tmp_path: Path, name: str, text: str, **values: Any) -> Inventory:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_file(FileSource(type="file", path=name, **values), tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv(tmp_path: Path, separator: str) -> None:
    text = "\ufeffid,name,address,port,label.role\n1,web01,10.0.0.1,,web\n2,web02,10.0.0.2,2222,\n".replace(
        ",", separator
    )
    assert file(tmp_path, "h.csv", text).hosts == (
        Host("1", "web01", "10.0.0.1", None, {"role": "web"}),
        Host("2", "web02", "10.0.0.2", 2222, {}),
    )


def test_yaml(tmp_path: Path) -> None:
    found = file(tmp_path, "h.yaml", "servers:\n- {id: 1, name: a, address: b, labels: {x: y}}\n", items="servers")
    assert found.hosts == (Host("1", "a", "b", None, {"x": "y"}),)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("h.csv", "id,name,address\n1,a\n", "line 2: has another number of columns"),
        ("h.csv", 'id,name\n1,"a\n', "is no CSV"),
        ("h.yaml", "a: [\n", "line 2: is no YAML"),
        ("h.yaml", "a: 1\n", "not a list of hosts"),
        ("h.txt", "", r"must end in \.yaml"),
    ],
)
def test_a_broken_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(CmdbError, match=message):
        file(tmp_path, name, text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CmdbError, match=r"nope\.csv: can't be read: No such file"):
        read_file(FileSource(type="file", path="nope.csv"), tmp_path)


@pytest.mark.parametrize("word", ["false", "FALSE", " no ", "0", "Off", "n", "f", ""])
@pytest.mark.parametrize("expression", ["on", "labels.on", "on && id", "!off", "[on][?@] | [0]", "on || `false`"])
def test_what_says_no_in_a_csv_file(tmp_path: Path, word: str, expression: str) -> None:
    other = "yes" if word != " no " else "TRUE "
    text = f"id,address,on,off,label.on\n1,a,{word},{other},{word}\n2,b,{other},{word},{other}\n"
    found = file(tmp_path, "h.csv", text, fields={"enabled": expression})
    assert [host.id for host in found.hosts] == ["2"]
    assert (found.disabled, found.invalid) == (1, ())


@pytest.mark.parametrize("word", ["true", "Yes", "1", " ON ", "y", "T"])
def test_what_says_yes_in_a_csv_file(tmp_path: Path, word: str) -> None:
    found = file(tmp_path, "h.csv", f"id,address,on\n1,a,{word}\n", fields={"enabled": "on"})
    assert [host.id for host in found.hosts] == ["1"]


def test_what_says_neither_in_a_csv_file(tmp_path: Path) -> None:
    text = 'id,name,address,on\n1,"two\nlines",a,yes\n2,web02,b,maybe\n'
    found = file(tmp_path, "h.csv", text, fields={"enabled": "on"})
    assert [(one.id, one.name) for one in found.invalid] == [("1", "two\nlines"), ("2", "web02")]
    assert found.invalid[1].reason == (
        f"{tmp_path}/h.csv:4: the field enabled (on) is 'maybe': write true, yes, on or 1, or false, no, off, 0 or nothing"
    )
    # What compares decides by itself.
    assert file(tmp_path, "h.csv", text, fields={"enabled": "on == 'maybe'"}).hosts[0].id == "2"


@pytest.mark.parametrize("word", ["false", "No", "off", "0", " n "])
def test_texts_that_say_no_in_json_and_yaml(tmp_path: Path, word: str) -> None:
    """Of other texts each says yes: a field that is there."""
    entries = [{"id": 1, "address": "a", "on": word}, {"id": 2, "address": "b", "on": "active"}]
    assert [host.id for host in read(*entries, enabled="on").hosts] == ["2"]
    assert [host.id for host in read(*entries, enabled="!on").hosts] == ["1"]
    text = f"- {{id: 1, address: a, watch: '{word}'}}\n- {{id: 2, address: b, watch: active}}\n"
    assert [host.id for host in file(tmp_path, "h.yaml", text, fields={"enabled": "watch"}).hosts] == ["2"]


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(CmdbError, match="line 1: the column 'id' is there twice"):
        file(tmp_path, "h.csv", "id,address, id\n1,a,2\n")


# ── scope ───────────────────────────────────────────────────────────────────────────────────────

FLEET = [Host(str(n), f"web{n:02}", "a", None, {"role": "web" if n < 3 else "db"}) for n in range(1, 5)]


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        (["web01"], "1"),
        (["WEB0[12]"], "12"),
        (["role=db"], "34"),
        (["role=*"], "1234"),
        (["3", "web01"], "13"),
        (["web*"], "1234"),
    ],
)
def test_select(patterns: list[str], ids: str) -> None:
    assert "".join(host.id for host in select(FLEET, patterns)) == ids


def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(ParamError, match=r"'hosts': 'db\*', 'role=x'"):
        select(FLEET, ["web01", "db*", "role=x"])


# ── pruning ─────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Stored:
    id: str
    removed_at: datetime | None = None
    duplicate_of: str | None = None


def prune(
    known: int,
    listed: int,
    *,
    hidden: dict[str, timedelta] | None = None,
    invalid: tuple[str | None, ...] = (),
    **values: Any,
) -> Any:
    stored = [Stored(str(n)) for n in range(known)] + [Stored(one, NOW - age) for one, age in (hidden or {}).items()]
    found = Inventory(
        tuple(Host(str(n), "n", "a") for n in range(listed)),
        tuple(InvalidHost(1, one, None, "why") for one in invalid),
    )
    defaults = {"stale": False, "forced": False, "now": NOW, "settings": Cmdb()}
    return plan_prune(stored, found, **{**defaults, **values})


def test_a_host_that_left_is_hidden() -> None:
    plan = prune(10, 9)
    assert (plan.hide, plan.purge, plan.refused) == (("9",), (), None)


@pytest.mark.parametrize(
    ("known", "listed", "refused"),
    [
        (10, 8, False),
        (10, 7, True),
        (6, 4, True),
        (5, 1, False),
        (5, 0, True),
        (1, 0, True),
        (0, 0, False),
        (100, 80, False),
        (100, 79, True),
    ],
)
def test_the_guard(known: int, listed: int, refused: bool) -> None:
    plan = prune(known, listed)
    assert bool(plan.refused) is refused
    assert bool(plan.hide) is (not refused and known > listed)


def test_force_overrides_the_guard_but_not_a_stale_list() -> None:
    assert len(prune(10, 0, forced=True).hide) == 10
    plan = prune(10, 9, stale=True, forced=True)
    assert plan.hide == ()
    assert plan.refused


def test_an_invalid_entry_is_never_pruned() -> None:
    assert prune(10, 9, invalid=("9",)).hide == ()
    plan = prune(10, 9, invalid=(None,))
    assert plan.hide == ()
    assert "no readable id" in plan.refused


def test_a_host_comes_back_or_is_deleted_in_the_end() -> None:
    hour = timedelta(hours=1)
    hidden = {"3": hour / 2, "20": hour, "21": hour - timedelta(seconds=1)}
    plan = prune(0, 10, hidden=hidden, settings=Cmdb(prune_after=hour))
    assert (plan.resume, plan.purge) == (("3",), ("20",))


def test_an_entry_that_can_not_be_used_is_back_as_well() -> None:
    """Its alert that no run scans it would end at once if the host was still hidden."""
    hour = timedelta(hours=1)
    plan = prune(3, 3, hidden={"20": hour / 2, "21": hour}, invalid=("20", "21", "22"), settings=Cmdb(prune_after=hour))
    assert (plan.resume, plan.purge, plan.refused) == (("20",), ("21",), None)


def test_pruning_at_once() -> None:
    plan = prune(10, 9, settings=Cmdb(prune_after=timedelta(0)))
    assert plan.hide == plan.purge == ("9",)
