"""The sources that declare ports, and their order."""

from __future__ import annotations

from typing import Any

from portmon.engine.config import Declaration
from portmon.engine.declared import declared_ports
from portmon.model.host import Host

WEB = Host("1", "web1", "10.0.0.1", labels={"role": "web"}, declared=(80, 443))
DATABASE = Host("2", "db1", "10.0.0.2", labels={"role": "db"})


def declared(*items: dict[str, Any], promoted: dict[tuple[str, int], str] | None = None) -> dict[str, dict[int, str]]:
    return declared_ports(
        {host.id: host for host in (WEB, DATABASE)},
        [Declaration(**item) for item in items],
        promoted or {},
        where=lambda section, index: f"{section}[{index}]",
    )


def test_the_cmdb_declares() -> None:
    assert declared() == {"1": {80: "declared by the CMDB", 443: "declared by the CMDB"}}


def test_the_configuration_declares_for_hosts_that_match() -> None:
    found = declared({"port": 22, "comment": "how we get in"}, {"port": 5432, "label": {"role": "db"}})
    assert found["1"][22] == "declared by declared[0] (how we get in)"
    assert found["2"] == {22: "declared by declared[0] (how we get in)", 5432: "declared by declared[1]"}


def test_every_port_of_a_range_is_declared_both_ends_included() -> None:
    assert set(declared({"port": ["8000-8002", 9000, "9100-9100"], "host": "db*"})["2"]) == {
        8000,
        8001,
        8002,
        9000,
        9100,
    }


def test_a_person_promotes() -> None:
    assert declared(promoted={("2", 40000): "ann"})["2"] == {40000: "promoted by ann"}


def test_a_promotion_of_a_host_that_is_not_in_the_fleet_declares_nothing() -> None:
    assert set(declared(promoted={("3", 80): "ann"})) == {"1"}


def test_the_cmdb_comes_first_then_the_configuration_in_its_order_then_a_person() -> None:
    found = declared(
        {"port": [80, 22]}, {"port": [22, 25]}, promoted={("1", port): "ann" for port in (80, 22, 25, 110)}
    )
    assert found["1"] == {
        80: "declared by the CMDB",
        443: "declared by the CMDB",
        22: "declared by declared[0]",
        25: "declared by declared[1]",
        110: "promoted by ann",
    }
