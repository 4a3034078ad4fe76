"""The catalogue of event kinds."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind, Meaning, Severity
from tests.worlds.messages import event

HOST_IS_OK, HOST_IS_GONE = ({"subject": "host", "state": state} for state in ("ok", "unreachable"))
ROWS = [row for kind in EventKind for row in kind.rows]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_whole(row: Meaning) -> None:
    sent = row.role is not None
    # The end of the alert of a young port is sent to nobody.
    assert (row.group is not None) is (sent and row.name != "retired_young")
    assert (row.alertname != "PortmonEvent") is sent
    assert bool(row.summary) is sent
    assert sent or row.severity is Severity.INFO
    assert ("{port}" in row.summary) is (sent and row.subject == "port")
    assert "{host}" not in row.summary or row.subject in ("port", "host")


def test_each_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS] + [row.folded_as for row in ROWS if row.folded_as]
    assert len(set(names)) == len(names)
    assert [kind.value for kind in EventKind] == [kind.usual.name for kind in EventKind]


def test_what_ends_an_alert_has_the_name_and_the_key_of_what_begins_it() -> None:
    """Of a port only the key: one end stands for whatever was wrong, and Alertmanager's labels are those of the beginning."""
    of_port = {"PortDown", "PortOwnerGone", "PortCrashLooping"}
    begun = {(row.alertname, row.key) for row in ROWS if row.role is AlertRole.FIRING}
    assert {name for name, _ in begun if name.startswith("Port")} == of_port
    ended = {(row.alertname, row.key) for row in ROWS if row.role is AlertRole.RESOLVED}
    assert ended == begun - {(name, "host") for name in of_port - {"PortDown"}}


@pytest.mark.parametrize(
    ("kind", "details", "name", "role", "group"),
    [
        (EventKind.REBOUND, {}, "rebound", AlertRole.NOTICE, AlertGroup.NEW),
        (EventKind.REBOUND, {"severe": False}, "rebound", AlertRole.NOTICE, AlertGroup.NEW),
        (EventKind.REBOUND, {"severe": True}, "lost_bind", AlertRole.FIRING, AlertGroup.DOWN),
        (EventKind.FLAPPING, {"state": "up"}, "flapping", AlertRole.FIRING, AlertGroup.DOWN),
        (EventKind.STABLE, {"state": "up"}, "stable", AlertRole.RESOLVED, AlertGroup.RECOVERED),
        (EventKind.STABLE, {"state": "down"}, "stable_down", AlertRole.FIRING, AlertGroup.DOWN),
        (EventKind.RECOVERED, {"part": "owner"}, "owner_back", AlertRole.RESOLVED, AlertGroup.RECOVERED),
        (EventKind.RECOVERED, {"part": "bind"}, "recovered", AlertRole.RESOLVED, AlertGroup.RECOVERED),
        (EventKind.OWNER_GONE, {"young": True}, "owner_gone", AlertRole.FIRING, AlertGroup.DOWN),
        (EventKind.CRASH_LOOPING, {}, "crash_looping", AlertRole.FIRING, AlertGroup.DOWN),
        (EventKind.REPLACED, {"young": True}, "replaced", AlertRole.NOTICE, AlertGroup.NEW),
        (EventKind.REPLACED, {"taken": True}, "taken", AlertRole.NOTICE, AlertGroup.NEW),
        (EventKind.RETIRED, {"young": True}, "retired_young", AlertRole.RESOLVED, None),
        (EventKind.RETIRED, {"young": True, "discarded": True}, "withdrawn", AlertRole.RESOLVED, AlertGroup.RECOVERED),
        (EventKind.RESTARTED, {"state": "down"}, "restarted", None, None),
        (EventKind.RETIRED, {"discarded": True}, "withdrawn", AlertRole.RESOLVED, AlertGroup.RECOVERED),
        (EventKind.UNREACHABLE, {}, "unreachable", AlertRole.FIRING, AlertGroup.UNREACHABLE),
        (EventKind.UNREACHABLE, {"never": True}, "never_reachable", AlertRole.FIRING, AlertGroup.UNREACHABLE),
        (EventKind.FLAPPING, HOST_IS_OK, "host_flapping", AlertRole.FIRING, AlertGroup.UNREACHABLE),
        (EventKind.FLAPPING, HOST_IS_GONE, "host_flapping", AlertRole.FIRING, AlertGroup.UNREACHABLE),
        (EventKind.STABLE, HOST_IS_OK, "host_stable", AlertRole.RESOLVED, AlertGroup.UNREACHABLE),
        (EventKind.STABLE, HOST_IS_GONE, "host_stable_unreachable", AlertRole.FIRING, AlertGroup.UNREACHABLE),
    ],
)
def test_details_decide_where_a_kind_has_a_variant(
    kind: EventKind, details: dict[str, Any], name: str, role: AlertRole | None, group: AlertGroup | None
) -> None:
    meaning = event(kind, details=details).meaning
    assert (meaning.name, meaning.role, meaning.group) == (name, role, group)


@pytest.mark.parametrize(
    ("told", "key"),
    [
        (event(EventKind.NEW, port=80), "port/id-of-web01/tcp/80"),
        (event(EventKind.RETIRED, port=None), "host/id-of-web01"),
        (event(EventKind.RETIRED, port=None, details={"ends": "host_key_changed"}), "host_key/id-of-web01"),
        (event(EventKind.REBOOTED, port=None), "host/id-of-web01"),
        (event(EventKind.MANY_CHANGES, port=None), "changes/id-of-web01"),
        (event(EventKind.CMDB_FRESH, None, None), "cmdb"),
        (event(EventKind.FLAPPING, port=None, details=HOST_IS_OK), "host/id-of-web01"),
        (event(EventKind.STABLE, port=None, details=HOST_IS_GONE), "host/id-of-web01"),
        (event(EventKind.RETIRED, port=None, details={"ends": "flapping"}), "host/id-of-web01"),
        (event(EventKind.FOREIGN_MACHINE, port=None), "machine/id-of-web01"),
        (event(EventKind.OWN_MACHINE, port=None), "machine/id-of-web01"),
        (event(EventKind.SCANNED, port=None), "scan/id-of-web01"),
        (event(EventKind.OWNERS_SHOWN, port=None), "owners/id-of-web01"),
        (event(EventKind.FLEET_UNSCANNED, None, None), "fleet_scan"),
        (event(EventKind.CLOCK_BELIEVED, None, None), "clock"),
    ],
)
def test_alert_key(told: Event, key: str) -> None:
    assert told.alert_key == key


def test_a_kind_stays_the_same_one() -> None:
    for kind in EventKind:
        assert pickle.loads(pickle.dumps(kind)) is EventKind(kind.value) is kind
        assert (str(kind), f"{kind}", kind) == (kind.value, kind.value, kind.value)
