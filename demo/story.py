"""The story that the demo plays: chapters as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from demo.fleet import HostSpec

Expected = tuple[str, str, int | str | None]
"""Kind of event, host, port (``514/udp`` of UDP, None for the host itself)."""


class Stage(Protocol):
    """The things that a chapter can change."""

    def host(self, name: str) -> Any:
        """A running host of the fleet."""

    def port(self, port: int) -> int:
        """A service's port on this computer."""

    @property
    def has_udp(self) -> bool:
        """Whether UDP is watched here."""

    def leave_cmdb(self, name: str) -> None:
        """Take a host out of the CMDB."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Something happens, then the DAG runs.

    :param act: makes it happen
    :param expected: all events that the run must make; ports as in :data:`SPECS`. Those of UDP only where it is watched
    :param red: hosts whose ``netstat`` task must fail
    :param hidden: hosts that the run must hide
    """

    title: str
    told: str
    act: Callable[[Stage], None]
    expected: frozenset[Expected]
    red: frozenset[str] = frozenset()
    hidden: int = 0


# No two hosts have the same ports: on a shared network they would look like one computer with two entries.
SPECS = [
    HostSpec("101", "web01", {80: "nginx: master", 443: "nginx: master"}, {"role": "web"}),
    HostSpec("102", "web02", {80: "nginx: master", 8443: "nginx: master"}, {"role": "web"}),
    HostSpec("103", "app01", {8080: "java", 8081: "java"}, {"role": "app"}),
    HostSpec("104", "app02", {8080: "java", 8082: "java"}, {"role": "app"}, {514: "rsyslogd"}),
    HostSpec("105", "db01", {5432: "postgres"}, {"role": "db"}),
    HostSpec("106", "cache01", {6379: "redis-server"}, {"role": "cache"}),
]


def _nothing(stage: Stage) -> None:
    """Just look."""


def _death_and_birth(stage: Stage) -> None:
    stage.host("app01").kill(stage.port(8080))
    stage.host("web02").start(stage.port(9100), "node_exporter")
    if stage.has_udp:
        stage.host("app02").kill(514, "udp")


def _recovery(stage: Stage) -> None:
    stage.host("app01").start(stage.port(8080), "java")
    if stage.has_udp:
        stage.host("app02").start(514, "rsyslogd", "udp")


def _cut(stage: Stage) -> None:
    stage.host("db01").cut_off()


def _departure(stage: Stage) -> None:
    stage.leave_cmdb("cache01")


CHAPTERS = [
    Chapter(
        "Baseline",
        "Six hosts are seen for the first time. There is no alert.",
        _nothing,
        frozenset(("baseline", spec.name, None) for spec in SPECS),
    ),
    Chapter(
        "Services die, another one starts",
        "On app01 java on 8080 is killed, on app02 rsyslogd on 514/udp; on web02 node_exporter starts on 9100.",
        _death_and_birth,
        frozenset({("down", "app01", 8080), ("down", "app02", "514/udp"), ("new", "web02", 9100)}),
    ),
    Chapter(
        "They recover",
        "java is started on app01 again, and rsyslogd on app02.",
        _recovery,
        frozenset({("recovered", "app01", 8080), ("recovered", "app02", "514/udp")}),
    ),
    Chapter(
        "A host is cut off",
        "db01 does not answer any more: it is unreachable, but none of its ports is down.",
        _cut,
        frozenset({("unreachable", "db01", None)}),
        red=frozenset({"db01"}),
    ),
    Chapter(
        "A host leaves the CMDB",
        "cache01 is taken out of the CMDB: pruned, no alert.",
        _departure,
        frozenset(),
        red=frozenset({"db01"}),
        hidden=1,
    ),
]
