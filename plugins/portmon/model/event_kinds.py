"""Kinds of events, and the catalogue of what each means: severity, alert task, what it opens or closes, names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from portmon.model.state import HostStatus, PortStatus


class Severity(StrEnum):
    """How urgent an event is, worst first."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class AlertGroup(StrEnum):
    """The alert tasks of the DAG, ``alert_<value>``."""

    NEW = "new"
    DOWN = "down"
    RECOVERED = "recovered"
    UNREACHABLE = "unreachable"


class AlertRole(StrEnum):
    """What an event does to its alert."""

    FIRING = "firing"  # begins an alert, or says more of one
    RESOLVED = "resolved"  # ends the alert
    NOTICE = "notice"  # a message of its own; no alert begins or ends


CRITICAL, WARNING, INFO = Severity
FIRING, RESOLVED, NOTICE = AlertRole


@dataclass(frozen=True, slots=True)
class Meaning:
    """A row of the catalogue: what the events of one kind, or of a variant of it, mean.

    :param name: the kind, or the variant's own name. The macros ``counted_<name>`` and ``what_<name>`` of
        alerting/message/templates have its words
    :param subject: ``fleet`` is every host at once
    :param role: None for a note, which is stored and not sent
    :param group: the alert task that sends it; None for a note
    :param alertname: the alert's name in Alertmanager
    :param summary: one sentence for Alertmanager about ``{port}`` and ``{host}``
    :param key: begins the key of its alert, if it is not about a port: at most one alert is open for each key
    :param counted_as: the title of a message counts it as the events of this name
    :param folded_as: name of the line that tells of most hosts of a site at once; empty if each has a line of its own
    :param between_looks: it happened at any time between two observations
    :param variants: rows of events with a certain detail
    :param when: of a variant: that detail, and its value
    """

    name: str
    subject: Literal["port", "host", "fleet", "monitor"]
    severity: Severity = INFO
    role: AlertRole | None = None
    group: AlertGroup | None = None
    alertname: str = "PortmonEvent"
    summary: str = ""
    key: str = "host"
    counted_as: str = ""
    folded_as: str = ""
    between_looks: bool = False
    variants: tuple[Meaning, ...] = ()
    when: tuple[str, Any] = ("", None)

    def like(self, name: str, summary: str, **other: Any) -> Meaning:
        """A row that differs in some fields only."""
        return replace(self, name=name, summary=summary, **other)

    def ended_by(self, name: str, summary: str, **other: Any) -> Meaning:
        """The row of events that end an alert of this row; its subject and Alertmanager's name are the same."""
        group = AlertGroup.RECOVERED if self.subject == "port" else self.group
        return self.like(name, summary, severity=INFO, role=RESOLVED, group=group, **other)


_OF_HOSTS = Meaning("", "host", CRITICAL, FIRING, AlertGroup.UNREACHABLE)
_UNREACHABLE = _OF_HOSTS.like("unreachable", "{host} is unreachable", alertname="HostUnreachable")
_OF_MONITOR = Meaning("", "monitor", WARNING, FIRING, AlertGroup.UNREACHABLE)


class EventKind(StrEnum):
    """The catalogue. A new kind is one row here, and its words in en.j2 and zh.j2."""

    _value_: str
    usual: Meaning
    """The row; it may have variants."""

    def __new__(cls, usual: Meaning) -> EventKind:
        """The value is the name of the row."""
        kind = str.__new__(cls, usual.name)
        kind._value_ = usual.name
        kind.usual = usual
        return kind

    # Ports.
    NEW = Meaning("new", "port", WARNING, NOTICE, AlertGroup.NEW, "PortNew", "{port} on {host} is new")
    DOWN = Meaning("down", "port", CRITICAL, FIRING, AlertGroup.DOWN, "PortDown", "{port} on {host} is down")
    RECOVERED = DOWN.ended_by(
        "recovered",
        "{port} on {host} listens again",
        between_looks=True,
        variants=(DOWN.ended_by("owner_back", "all programs of {port} on {host} are back", when=("part", "owner")),),
    )
    OWNER_GONE = DOWN.like("owner_gone", "a program left {port} on {host}", alertname="PortOwnerGone")
    RETIRED = DOWN.ended_by(
        "retired",
        "{port} on {host} is not expected any more",
        variants=(
            DOWN.ended_by("withdrawn", "{port} on {host}: another machine had answered", when=("discarded", True)),
            # A note, but one that ends its alert.
            replace(
                DOWN.ended_by("retired_young", "{port} on {host} is not expected any more", when=("young", True)),
                group=None,
            ),
        ),
    )
    REPLACED = NEW.like(
        "replaced",
        "{port} on {host} is another program now",
        alertname="PortReplaced",
        between_looks=True,
        variants=(
            NEW.like(
                "taken",
                "{port} on {host} is down, and another program has it",
                alertname="PortReplaced",
                when=("taken", True),
            ),
        ),
    )
    REBOUND = NEW.like(
        "rebound",
        "{port} on {host} listens on other addresses",
        alertname="PortRebound",
        between_looks=True,
        variants=(DOWN.like("lost_bind", "{port} on {host} lost an address that others reach", when=("severe", True)),),
    )
    FLAPPING = DOWN.like(
        "flapping",
        "{port} on {host} comes and goes",
        variants=(_UNREACHABLE.like("host_flapping", "{host} comes and goes", when=("subject", "host"), folded_as=""),),
    )
    CRASH_LOOPING = DOWN.like(
        "crash_looping", "{port} on {host} restarts again and again", alertname="PortCrashLooping"
    )
    STABLE = DOWN.ended_by(
        "stable",
        "{port} on {host} holds still again",
        variants=(
            DOWN.like("stable_down", "{port} on {host} stays down", when=("state", PortStatus.DOWN)),
            _UNREACHABLE.ended_by("host_stable", "{host} answers steadily again", when=("state", HostStatus.OK)),
            _UNREACHABLE.like(
                "host_stable_unreachable",
                "{host} stays unreachable",
                when=("state", HostStatus.UNREACHABLE),
                folded_as="",
            ),
        ),
    )
    RESTARTED = Meaning("restarted", "port", between_looks=True)
    MOVED = Meaning("moved", "port", between_looks=True)
    UNWATCHED = DOWN.ended_by("unwatched", "{port} on {host} is not watched any more", counted_as="retired")

    # Hosts.
    BASELINE = Meaning("baseline", "host")
    UNREACHABLE = replace(
        _UNREACHABLE,
        folded_as="outage",
        variants=(
            _UNREACHABLE.like(
                "never_reachable", "{host} has never answered yet", severity=WARNING, when=("never", True)
            ),
        ),
    )
    REACHABLE = _UNREACHABLE.ended_by("reachable", "{host} is reachable again", folded_as="outage_over")
    REBOOTED = _OF_HOSTS.like(
        "rebooted", "{host} was rebooted", alertname="HostRebooted", severity=WARNING, role=NOTICE
    )
    FOREIGN_MACHINE = _OF_HOSTS.like(
        "foreign_machine",
        "another machine answers at the address of {host}",
        severity=WARNING,
        alertname="ForeignMachine",
        key="machine",
    )
    OWN_MACHINE = FOREIGN_MACHINE.ended_by("own_machine", "{host} answers itself again")
    ANSWERS_DISCARDED = Meaning("answers_discarded", "host")
    UNSCANNED = _OF_HOSTS.like(
        "unscanned", "{host} is not scanned", severity=WARNING, alertname="HostUnscanned", key="scan"
    )
    SCANNED = UNSCANNED.ended_by("scanned", "{host} is scanned again")
    OWNERS_HIDDEN = _OF_HOSTS.like(
        "owners_hidden",
        "{host} does not show programs of other users any more",
        severity=WARNING,
        alertname="OwnersHidden",
        key="owners",
    )
    OWNERS_SHOWN = OWNERS_HIDDEN.ended_by("owners_shown", "{host} shows programs of other users again")
    TAKEN_OVER = Meaning("taken_over", "host")
    DUPLICATE = Meaning("duplicate", "host")
    PROBE_OUTDATED = Meaning("probe_outdated", "host")
    MANY_CHANGES = NEW.like(
        "many_changes",
        "very many ports of {host} changed at once",
        subject="host",
        alertname="ManyChanges",
        key="changes",
    )

    # All hosts at once, and the monitor itself.
    FLEET_UNREACHABLE = _OF_HOSTS.like(
        "fleet_unreachable",
        "most hosts are unreachable at once",
        subject="fleet",
        alertname="FleetUnreachable",
        key="fleet",
    )
    FLEET_REACHABLE = FLEET_UNREACHABLE.ended_by("fleet_reachable", "most hosts are reachable again")
    FLEET_UNSCANNED = _OF_MONITOR.like(
        "fleet_unscanned",
        "many hosts are not scanned",
        subject="fleet",
        alertname="FleetUnscanned",
        key="fleet_scan",
    )
    FLEET_SCANNED = FLEET_UNSCANNED.ended_by("fleet_scanned", "most hosts are scanned again")
    FLEET_OWNERS_HIDDEN = _OF_MONITOR.like(
        "fleet_owners_hidden",
        "many hosts do not show programs of other users any more",
        severity=WARNING,
        subject="fleet",
        alertname="FleetOwnersHidden",
        key="fleet_owners",
    )
    FLEET_OWNERS_SHOWN = FLEET_OWNERS_HIDDEN.ended_by(
        "fleet_owners_shown", "most hosts show programs of other users again"
    )
    CLOCK_BACK = _OF_MONITOR.like("clock_back", "the monitor's clock went back", alertname="ClockBack", key="clock")
    CLOCK_BELIEVED = CLOCK_BACK.ended_by("clock_believed", "the monitor's clock is believed again")
    CMDB_STALE = _OF_MONITOR.like("cmdb_stale", "the CMDB gives no usable host list", alertname="CmdbStale", key="cmdb")
    CMDB_FRESH = CMDB_STALE.ended_by("cmdb_fresh", "the CMDB gives a host list again")
    PRUNE_REFUSED = _OF_MONITOR.like(
        "prune_refused",
        "too many hosts left the CMDB at once, none was removed",
        alertname="PruneRefused",
        key="prune",
    )
    PRUNE_RESUMED = PRUNE_REFUSED.ended_by("prune_resumed", "hosts that leave the CMDB are removed again")
    HOST_KEY_CHANGED = _OF_HOSTS.like(
        "host_key_changed", "{host} shows another host key", alertname="HostKeyChanged", key="host_key"
    )
    HOST_KEY_RESTORED = HOST_KEY_CHANGED.ended_by("host_key_restored", "{host} shows a host key that is trusted")
    RUN_OVERDUE = _OF_MONITOR.like("run_overdue", "a run is overdue", alertname="RunOverdue", key="run")
    RUN_IN_TIME = RUN_OVERDUE.ended_by("run_in_time", "runs are in time again")
    RUN_FAILED = _OF_MONITOR.like("run_failed", "a run evaluated nothing", alertname="RunFailed", key="run_failed")
    RUN_EVALUATED = RUN_FAILED.ended_by("run_evaluated", "runs are evaluated again")

    @classmethod
    def stored(cls, name: str) -> EventKind:
        """A kind by its name. One that only another version of portmon knows is a note."""
        known = cls._value2member_map_.get(name)
        if isinstance(known, cls):
            return known
        kind = str.__new__(cls, name)
        kind._name_ = kind._value_ = name
        kind.usual = Meaning(name, "host")
        return kind

    def meaning(self, details: Mapping[str, Any]) -> Meaning:
        """What an event of this kind with these details means."""
        holds = (row for row in self.usual.variants if details.get(row.when[0]) == row.when[1])
        return next(holds, self.usual)

    @property
    def rows(self) -> tuple[Meaning, ...]:
        """Its row of the catalogue, and those of its variants."""
        return (self.usual, *self.usual.variants)
