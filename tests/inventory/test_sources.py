"""CMDBs that are known by name, on payloads in their true shape, and the mappings that docs/cmdb.md shows."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.config import parse_config
from portmon.errors import CmdbError
from portmon.inventory.entries import read_hosts
from portmon.inventory.entry_fields import CmdbFields
from portmon.inventory.sources.file import FileSource
from portmon.inventory.sources.http import HttpSource
from portmon.inventory.sources.http_sd import HttpSdSource, read_targets
from portmon.inventory.sources.netbox import NetboxSource
from portmon.inventory.sources.pages import PageRequest, json_body, read_pages
from portmon.model.host import Host, Inventory
from tests.worlds.sources import BASE, fetch, read_file

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "cmdb"
EXAMPLES = dict(re.findall(r"^```yaml (\w+)\n(.*?)^```", (ROOT / "docs" / "cmdb.md").read_text(), flags=re.M | re.S))


def payload(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


# ── NetBox ──────────────────────────────────────────────────────────────────────────────────────


class Netbox:
    """Answers as NetBox does; ``between`` is called before each page, and may change what there is."""

    def __init__(self, devices: list[Any], machines: list[Any], max_page: int = 1000) -> None:
        self.lists = {"api/dcim/devices/": devices, "api/virtualization/virtual-machines/": machines}
        self.max_page = max_page
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.between: Callable[[int], None] = lambda number: None

    def read(self, source: NetboxSource) -> Inventory:
        return source.gather(self._pages, shown="NetBox")

    def _pages(self, http: HttpSource) -> list[Any]:
        return read_pages(http, lambda request: self._answer(http, request), base_url=BASE, shown=http.endpoint)

    def _answer(self, http: HttpSource, request: PageRequest) -> Any:
        assert request.url is None
        self.between(len(self.asked))
        self.asked.append((http.endpoint, dict(request.params)))
        everything = self.lists[http.endpoint]
        start, limit = request.params["offset"], min(request.params["limit"], self.max_page)
        more = start + limit < len(everything)
        return {
            "count": len(everything),
            # What a proxy in front of it does not know about.
            "next": f"http://internal:8000/{http.endpoint}?limit={limit}&offset={start + limit}" if more else None,
            "previous": None,
            "results": everything[start : start + limit],
        }


def recorded() -> Netbox:
    return Netbox(payload("netbox_devices")["results"], payload("netbox_virtual_machines")["results"])


def netbox(**values: Any) -> NetboxSource:
    return NetboxSource.model_validate({"type": "netbox", **values})


def many(count: int) -> list[dict[str, Any]]:
    return [
        {"id": n, "name": f"h{n}", "display": f"h{n}", "primary_ip": {"address": f"10.{n >> 8 & 255}.{n & 255}.1/24"}}
        for n in range(1, count + 1)
    ]


def test_devices_and_virtual_machines() -> None:
    found = recorded().read(netbox())
    assert found.hosts[0] == Host(
        "device-7",
        "web01",
        "10.0.0.1",
        None,
        {
            "kind": "device",
            "site": "ber1",
            "location": "hall-a",
            "rack": "R09",
            "role": "web",
            "tenant": "muster",
            "platform": "debian-12",
            "tag_production": "true",
            "tag_pci-dss": "true",
        },
    )
    assert [(host.id, host.name, host.address) for host in found.hosts[1:]] == [
        ("device-8", "PowerEdge R650 (Dell)", "2001:db8::8"),
        ("device-11", "база-данных-1", "10.0.0.11"),
        ("vm-7", "db01", "10.0.1.7"),
        ("vm-8", "db02", "10.0.1.8"),
    ]
    assert found.hosts[1].labels == {"kind": "device", "site": "ber1", "role": "web"}
    assert found.hosts[-1].labels["cluster"] == "kvm-a"
    (invalid,) = found.invalid
    assert (invalid.id, invalid.name, invalid.reason) == ("device-9", "pdu-9", "it has no address")


def test_what_netbox_is_asked() -> None:
    site = recorded()
    site.read(netbox(params={"role": ["web", "db"], "has_primary_ip": True}, device_params={"rack_id": 3}))
    (devices, first), (machines, second) = site.asked
    assert (devices, machines) == ("api/dcim/devices/", "api/virtualization/virtual-machines/")
    assert first == {
        "status": ("active",),
        "ordering": "id",
        "exclude": "config_context",
        "role": ("web", "db"),
        "has_primary_ip": "true",
        "rack_id": 3,
        "offset": 0,
        "limit": 200,
    }
    assert "rack_id" not in second


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ({"virtual_machines": False}, ["device-7", "device-8", "device-11"]),
        ({"devices": False, "status": []}, ["vm-7", "vm-8"]),
    ],
)
def test_only_one_kind(values: dict[str, Any], ids: list[str]) -> None:
    site = recorded()
    assert [host.id for host in site.read(netbox(**values)).hosts] == ids
    assert ("status" in site.asked[0][1]) is bool(values.get("status", True))


def test_netbox_fields_can_be_elsewhere() -> None:
    fields = {
        "declared": "custom_fields.ports",
        "name": "join('.', [name || display, 'lan'])",
        "labels": {"rack": None, "owner": "custom_fields.owner", "cf_*": "custom_fields", "site": "site.name"},
    }
    found = recorded().read(netbox(fields=fields))
    web, nameless, _, db, _ = found.hosts
    assert (web.name, web.declared, db.declared, nameless.declared) == ("web01.lan", (22, 443), (22, 5432), ())
    assert web.labels == {
        "kind": "device",
        "site": "Berlin 1",
        "location": "hall-a",
        "role": "web",
        "tenant": "muster",
        "platform": "debian-12",
        "tag_production": "true",
        "tag_pci-dss": "true",
        "owner": "Ops",
        "cf_ports": "22,443",
        "cf_owner": "Ops",
        "cf_tier": "gold",
        "cf_backup": "true",
        "cf_zones": "a,b",
    }
    assert not [name for name in nameless.labels if name.startswith("cf_")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "it has no id"),
        ({"primary_ip": None}, "it has no address"),
        ({"primary_ip": {"address": None}}, "it has no address"),
        ({"primary_ip": {"address": "not/an/address"}}, "neither a host name nor an IP address"),
        ({"primary_ip": "10.0.0.1"}, "it has no address"),
        ({"name": "a\nb"}, "control characters"),
        ({"tags": 3}, None),
        ({"tags": None, "site": None, "role": None}, None),
        ({"tags": [{"slug": None}]}, None),
        ({"site": "ber1"}, None),
    ],
)
def test_a_malformed_device_harms_only_itself(change: dict[str, Any], reason: str | None) -> None:
    devices = payload("netbox_devices")["results"][:1]
    found = Netbox([{**devices[0], **change}], payload("netbox_virtual_machines")["results"]).read(netbox())
    assert len([host for host in found.hosts if host.id.startswith("vm-")]) == 2
    if reason is None:
        assert found.invalid == ()
    else:
        assert reason in found.invalid[0].reason


def test_missing_fields_are_no_crash() -> None:
    found = Netbox([{}, {"id": 1}, {"id": 2, "name": None}, None, "x"], []).read(netbox())
    assert found.hosts == ()
    assert [one.id for one in found.invalid] == [None, "device-1", "device-2", None, None]


def test_ten_thousand_hosts_over_a_hundred_pages() -> None:
    site = Netbox(many(10_000), many(3))
    found = site.read(netbox(page_size=101))
    assert len(found.hosts) == 10_003
    assert len(site.asked) == 101
    assert len({host.id for host in found.hosts}) == 10_003


def test_a_smaller_page_than_asked_for_is_not_the_last() -> None:
    site = Netbox(many(120), [], max_page=50)
    assert len(site.read(netbox(virtual_machines=False)).hosts) == 120


@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_any_page_size(size: int) -> None:
    assert len(Netbox(many(7), many(0)).read(netbox(page_size=size)).hosts) == 7


def fleet_of_250() -> tuple[Netbox, list[Any]]:
    devices = many(250)
    return Netbox(devices, []), devices


def test_a_host_that_is_deleted_between_two_pages_makes_it_read_again() -> None:
    site, devices = fleet_of_250()
    site.between = lambda number: devices.pop(0) and None if number == 1 else None
    found = site.read(netbox(page_size=100, virtual_machines=False))
    assert [host.id for host in found.hosts] == [f"device-{n}" for n in range(2, 251)]
    assert [params["offset"] for _, params in site.asked] == [0, 99, 0, 99, 198]


def test_one_deleted_and_one_added_is_noticed_although_the_count_stays() -> None:
    site, devices = fleet_of_250()

    def rebuild(number: int) -> None:
        if number == 2:
            devices.pop(50)
            devices.append(many(251)[-1])

    site.between = rebuild
    found = site.read(netbox(page_size=100, virtual_machines=False))
    assert len(found.hosts) == 250
    assert "device-200" in {host.id for host in found.hosts}


def test_an_entry_that_comes_on_two_pages_makes_it_read_again() -> None:
    site, devices = fleet_of_250()

    def move(number: int) -> None:
        if number in (1, 3):
            devices[149], devices[20] = devices[20], devices[149]

    site.between = move
    assert len(site.read(netbox(page_size=100, virtual_machines=False)).hosts) == 250


def test_a_list_that_keeps_changing_is_refused() -> None:
    site, devices = fleet_of_250()
    site.between = lambda number: devices.pop(0) and None
    with pytest.raises(CmdbError, match=r"says that there are .* read 3 times, and its pages never fitted together"):
        site.read(netbox(page_size=100))
    assert len(site.asked) == 6


@pytest.mark.parametrize("attempts", [1, 2])
def test_how_often_it_is_read_is_bounded(attempts: int) -> None:
    site, devices = fleet_of_250()
    site.between = lambda number: devices.pop(0) and None
    with pytest.raises(CmdbError, match=f"read {attempts} times"):
        site.read(netbox(page_size=100, attempts=attempts))


def test_a_server_that_never_tells_the_truth_is_refused() -> None:
    def send(request: PageRequest) -> Any:
        return {"count": 9, "results": many(7)[request.params["offset"] :][: request.params["limit"]]}

    with pytest.raises(CmdbError, match="7 entries, but it says that there are 9; read 3 times"):
        fetch(netbox(page_size=3), send)


def test_a_page_that_fails_halfway_fails_the_list() -> None:
    site, _ = fleet_of_250()

    def fail(number: int) -> None:
        if number == 2:
            raise CmdbError("HTTP 502", source="test")

    site.between = fail
    with pytest.raises(CmdbError, match="HTTP 502"):
        site.read(netbox(page_size=100))


@given(st.integers(0, 30), st.integers(2, 8), st.integers(1, 8), st.lists(st.integers(0, 12), max_size=3), st.data())
def test_whatever_happens_in_between_the_list_is_one_that_there_was(
    count: int, size: int, max_page: int, when: list[int], data: st.DataObject
) -> None:
    devices = many(count)
    site = Netbox(devices, [], max_page=max_page)
    versions = [[entry["id"] for entry in devices]]

    def change(number: int) -> None:
        if number in when:
            if devices and data.draw(st.booleans()):
                devices.pop(data.draw(st.integers(0, len(devices) - 1)))
            if data.draw(st.booleans()):
                devices.append({**many(1)[0], "id": 1000 + number})
            versions.append([entry["id"] for entry in devices])

    site.between = change
    try:
        found = site.read(netbox(page_size=size, virtual_machines=False))
    except CmdbError:
        return
    ids = [int(host.id.removeprefix("device-")) for host in found.hosts]
    # No host that was listed all the time is missing.
    assert set.intersection(*map(set, versions)) <= set(ids)
    assert len(ids) == len(set(ids))


def test_a_list_of_one_page_is_evaluated_at_once() -> None:
    asked = []

    def send(request: PageRequest) -> Any:
        asked.append(request)
        return {"count": 3, "results": many(2)}

    source = HttpSource.model_validate({"items": "results", "total": "count", "unique": "id"})
    with pytest.raises(CmdbError, match=r"2 entries, but it says that there are 3$"):
        fetch(source, send)
    assert len(asked) == 1


def test_the_same_id_on_one_page_is_two_invalid_entries() -> None:
    device = many(1)[0]
    found = Netbox([device, {**device, "name": "another"}], []).read(netbox())
    assert (len(found.hosts), len(found.invalid)) == (0, 2)
    assert len(Netbox([device, device], []).read(netbox()).hosts) == 1


@pytest.mark.parametrize(
    "answer", ["<html>", [], None, {"results": None}, {"results": {}}, {"count": 1, "results": "x"}, {"detail": "No."}]
)
def test_what_is_no_list_is_refused(answer: Any) -> None:
    with pytest.raises(CmdbError, match="not a list"):
        fetch(netbox(), lambda _: answer)


# ── Prometheus ──────────────────────────────────────────────────────────────────────────────────


def http_sd(answer: Any, **values: Any) -> Inventory:
    source = HttpSdSource.model_validate({"type": "http_sd", **values})
    return fetch(source, lambda _: answer)


def test_targets_of_one_host_are_one_host() -> None:
    assert http_sd(payload("http_sd")).hosts == (
        Host("10.0.0.1", "10.0.0.1", "10.0.0.1", None, {"role": "db", "job": "node,redis"}),
        Host("2001:db8::1", "2001:db8::1", "2001:db8::1", None, {"role": "web"}),
        Host("web07.example.com", "web07.example.com", "web07.example.com"),
        Host("web08.example.com", "web08.example.com", "web08.example.com"),
    )


def test_labels_that_begin_with_underscores_are_kept_if_asked_for() -> None:
    found = http_sd(
        payload("http_sd"),
        meta_labels="__meta_netbox_*",
        fields={"name": "all.__meta_netbox_name", "id": "labels.role"},
    )
    assert found.hosts[0].labels == {"role": "db", "job": "node,redis", "__meta_netbox_name": "db01"}
    assert [(host.id, host.name) for host in found.hosts] == [("db", "db01"), ("web", "web06")]
    assert [one.reason for one in found.invalid] == ["it has no id", "it has no id"]


def test_the_targets_port_if_it_is_meant() -> None:
    found = http_sd([{"targets": ["a:2222", "b", "c:22", "c:23"]}], target_port=True)
    assert [(host.id, host.port) for host in found.hosts] == [("a", 2222), ("b", None)]
    assert [(one.id, one.reason) for one in found.invalid] == [
        ("c", "its targets have the ports 22, 23: which is SSH's?")
    ]


def test_one_host_in_two_spellings_is_one() -> None:
    assert [host.id for host in http_sd([{"targets": ["Web01:1", "web01:2"]}]).hosts] == ["web01"]


def test_a_label_is_added_to_those_of_targets() -> None:
    found = http_sd(payload("http_sd"), fields={"labels": {"dc": "all.__meta_datacenter", "from": "'prometheus'"}})
    assert found.hosts[0].labels == {"role": "db", "job": "node,redis", "dc": "ber1", "from": "prometheus"}


@pytest.mark.parametrize("target", ["http://a/", "a:b", ":9100", "", "[::1", "[x]:1", "a b:1", 3, None, "a:999999"])
def test_a_target_that_is_none_is_invalid_without_an_id(target: Any) -> None:
    found = http_sd([{"targets": [target, "ok:9100"]}])
    assert [host.id for host in found.hosts] == ["ok"]
    (invalid,) = found.invalid
    assert invalid.id is None
    assert "is not host:port" in invalid.reason


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"targets": []}, "not a list"),
        ([{"labels": {}}], "group 1: 'targets' is null, not a list"),
        ([{"targets": ["a"]}, None], "group 2 is null"),
        ([{"targets": "a:1"}], "'targets' is a str"),
        ([{"targets": [], "labels": ["a"]}], "'labels' is a list"),
    ],
)
def test_malformed_groups_are_refused(answer: Any, message: str) -> None:
    with pytest.raises(CmdbError, match=message):
        http_sd(answer)


addresses = st.ip_addresses().map(str) | st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,2}", fullmatch=True)


@given(st.lists(st.tuples(addresses, st.integers(1, 65535)), max_size=20))
def test_the_ports_of_targets_make_no_difference(targets: list[tuple[str, int]]) -> None:
    texts = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in targets]
    entries = read_targets([{"targets": [text]} for text in texts])
    assert [entry["address"] for entry in entries] == list(dict.fromkeys(host for host, _ in targets))


# ── declared ports, labels ──────────────────────────────────────────────────────────────────────


def read(entry: Any, **fields: Any) -> Inventory:
    return read_hosts(([{"id": 1, "address": "a", **entry}], CmdbFields(**fields)), source="test")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        ("", ()),
        (443, (443,)),
        ("443, 80;22  80", (22, 80, 443)),
        (["443", 80, None, "22,80"], (22, 80, 443)),
        ([], ()),
        (443.0, (443,)),
    ],
)
def test_declared_ports(value: Any, expected: tuple[int, ...]) -> None:
    assert read({"ports": value}, declared="ports").hosts[0].declared == expected


@pytest.mark.parametrize("value", [0, 65536, "http", "80-90", True, [True], {"a": 1}, [[80]], "80,x", 1.5, "9" * 5000])
def test_declared_ports_that_are_none(value: Any) -> None:
    (invalid,) = read({"ports": value}, declared="ports").invalid
    assert invalid.id == "1"
    assert "the declared port" in invalid.reason
    assert "is not 1 to 65535" in invalid.reason
    assert len(invalid.reason) < 120


def test_nothing_is_declared_unless_it_is_said_where() -> None:
    assert read({"declared": "x"}).hosts[0].declared == ()


@given(st.lists(st.integers(1, 65535)), st.sampled_from([",", ";", " ", ", ", "\t"]))
def test_declared_ports_in_any_form(ports: list[int], separator: str) -> None:
    expected = tuple(sorted(set(ports)))
    for value in (ports, list(map(str, ports)), separator.join(map(str, ports))):
        assert read({"p": value}, declared="p").hosts[0].declared == expected


@pytest.mark.parametrize("text", ["id,address,declared\n1,a,80;443\n", 'id,address,declared\n1,a,"80,443"\n'])
def test_declared_ports_of_a_csv_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "h.csv").write_text(text)
    found = read_file(FileSource(type="file", path="h.csv"), tmp_path)
    assert found.hosts[0].declared == (80, 443)


def test_a_label_for_each_expression() -> None:
    labels = {"a": "x.y", "no": "z", "t_*": "tags", "all_*": "x", "kv*": "['k=v', 'w']"}
    found = read({"x": {"y": True, "n": None}, "tags": ["p", {"slug": "q"}]}, labels=labels)
    assert found.hosts[0].labels == {
        "a": "true",
        "t_p": "true",
        "t_q": "true",
        "all_y": "true",
        "kvk": "v",
        "kvw": "true",
    }


@pytest.mark.parametrize("field", ["enabled", "name", "address", "port", "declared", "labels"])
def test_an_entry_keeps_its_id_whatever_expression_fails(field: str) -> None:
    (invalid,) = read({"name": "n"}, **{field: "length(`3`)"}).invalid
    assert invalid.id == "1"
    assert invalid.name == (None if field == "name" else "n")
    assert f"{field}: the expression fails on it" in invalid.reason


def test_of_several_addresses_the_first_counts() -> None:
    found = read_hosts(([{"id": 1, "address": "10.0.0.1, 10.0.0.2"}], CmdbFields()), source="test")
    assert found.hosts[0].address == "10.0.0.1"


# ── docs/cmdb.md ────────────────────────────────────────────────────────────────────────────────


def example(name: str) -> Any:
    return parse_config(EXAMPLES[name], path=Path("/etc/portmon/portmon.yaml")).cmdb.source


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_are_valid(name: str) -> None:
    assert example(name).type in (name, "http")


def test_the_examples_are_all_there() -> None:
    assert set(EXAMPLES) == {"netbox", "http_sd", "ansible", "file", "blueking", "servicenow"}


def test_the_example_for_netbox() -> None:
    source = example("netbox")
    assert list(source.lists())[1].params["role"] == ("web", "db")
    web = recorded().read(source).hosts[0]
    assert (web.declared, web.labels["tier"], "rack" in web.labels) == ((22, 443), "gold", False)


def test_the_example_for_http_sd() -> None:
    found = fetch(example("http_sd"), lambda _: payload("http_sd"))
    assert [host.name for host in found.hosts] == ["db01", "web06", "web07.example.com", "web08.example.com"]


def test_the_example_for_blueking() -> None:
    source = example("blueking")
    answer = payload("blueking")
    bodies = []

    def send(request: PageRequest) -> Any:
        bodies.append(json_body(source, request))
        return answer

    found = fetch(source, send)
    assert bodies[0]["page"] == {"sort": "bk_host_id", "start": 0, "limit": 500}
    assert bodies[0]["fields"][0] == "bk_host_id"
    assert found.hosts == (
        Host("1", "web01", "10.0.0.1", None, {"cloud": "0", "os": "linux centos", "state": "运营中[无告警]"}),
        Host("2", "10.0.0.2,192.168.0.2", "10.0.0.2", None, {"cloud": "0", "os": ""}),
    )
    assert [(one.id, one.name, one.reason) for one in found.invalid] == [("3", "空地址", "it has no address")]


def test_blueking_refuses_with_200() -> None:
    with pytest.raises(CmdbError, match=r"'data\.info' is null, not a list; it says 'permission deny'"):
        fetch(example("blueking"), lambda _: payload("blueking_error"))


def test_the_example_for_servicenow() -> None:
    source = example("servicenow")
    whole = payload("servicenow")["result"]

    def send(request: PageRequest) -> Any:
        return {"result": whole[request.params["sysparm_offset"] :]}

    found = fetch(source, send)
    assert [(host.name, host.address) for host in found.hosts] == [
        ("web01", "web01.example.com"),
        ("db01", "10.0.1.7"),
    ]
    assert found.hosts[0].labels["team"] == "Web operations"
    assert [one.name for one in found.invalid] == ["no-address"]


def test_a_target_in_very_many_groups_is_read_in_time_that_grows_with_them() -> None:
    groups = [{"targets": ["h:1"], "labels": {"job": f"j{n}"}} for n in range(20_000)]
    began = time.process_time()
    (entry,) = read_targets(groups)
    assert time.process_time() - began < 10
    assert len(entry["labels"]["job"]) == 1000
    fields = next(HttpSdSource(type="http_sd").lists()).fields
    found = read_hosts(([entry], fields), source="test")
    assert "more than 1000 characters" in found.invalid[0].reason
