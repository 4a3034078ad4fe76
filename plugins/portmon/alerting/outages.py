"""Outages: if most hosts of a site fail at once, a message has one line for the site instead of one per host."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from portmon.model.alert import Alert
from portmon.model.event_kinds import AlertRole

LEAST_HOSTS = 5
"""Fewer hosts are no outage, whatever share of their site they are."""
LEAST_EVENTS = 2
"""Fewer events of a site are not folded."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Most hosts of a site are unreachable, or come back, at once.

    :param site: value of the label that names the site; empty for the whole fleet
    :param hosts: number of hosts of the site
    :param unreachable: number of these that are unreachable now
    """

    site: str
    hosts: int
    unreachable: int


def find_outages(
    alerts: Sequence[Alert],
    labels: Mapping[str, Mapping[str, str]],
    unreachable: Collection[str],
    *,
    ratio: float,
    label: str | None,
) -> dict[str, Outage]:
    """The hosts whose ``unreachable`` and ``reachable`` events a message folds into one line per site.

    :param alerts: of one message
    :param labels: host id -> labels, of every host that is watched now
    :param unreachable: ids of the hosts that are unreachable now
    :param ratio: share of a site's hosts that makes an outage
    :param label: names the site of a host; a host without it belongs to none. None: all hosts are one site
    :return: host id -> outage that its event is folded into; the other hosts keep lines of their own
    """
    if label is None:
        site_of = dict.fromkeys(labels, "")
    else:
        site_of = {host_id: own[label] for host_id, own in labels.items() if own.get(label)}
    hosts = Counter(site_of.values())
    now = Counter(site_of[host_id] for host_id in set(unreachable) if host_id in site_of)
    gone: dict[str, set[str]] = defaultdict(set)
    back: dict[str, set[str]] = defaultdict(set)
    for event in (alert.event for alert in alerts):
        if event.host_id in site_of and event.meaning.folded_as:
            (back if event.role is AlertRole.RESOLVED else gone)[site_of[event.host_id]].add(event.host_id)
    found: dict[str, Outage] = {}
    for site in {*gone, *back}:
        outage = Outage(site, hosts[site], now[site])
        if len(gone[site]) >= LEAST_EVENTS and _is_most(outage.unreachable, outage.hosts, ratio):
            found |= dict.fromkeys(gone[site], outage)
        if _is_most(len(back[site]), outage.hosts, ratio):
            found |= dict.fromkeys(back[site], outage)
    return found


def _is_most(count: int, hosts: int, ratio: float) -> bool:
    # Not `count >= ratio * hosts`: 0.07 * 100 is more than 7.
    return count >= LEAST_HOSTS and count / hosts >= ratio
