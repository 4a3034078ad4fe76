"""What an evaluation goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from portmon.engine.config import States
from portmon.engine.declared import Declared
from portmon.engine.rules import RuleSet
from portmon.engine.terms import Given
from portmon.model.host import Host
from portmon.model.observation import PortKey


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """What an evaluation goes by, besides observations and state.

    :param inventory: host id to host; observations of other hosts are ignored
    :param interval: time between scheduled runs: counters grow at most once in half of it
    :param run_id: of the run that evaluates
    :param now: the time of that run
    :param step: of the journal
    :param declared: declared ports of each host
    :param given: terms of declared ports of each host, where their declaration gives some
    :param accepted: when a person accepted what is wrong with a port, or a host's machine, see
        :data:`portmon.engine.identities.ACCEPTED`
    :param forgotten: ports of which a person forgot how long they took after boots, and when
    :param invalid: host id to reason, of entries of the inventory that can't be used
    :param forget_after: state of what no rule watches is kept for this long, as that of hosts that left
    """

    inventory: Mapping[str, Host]
    rules: RuleSet
    settings: States
    interval: timedelta
    run_id: str
    now: datetime
    step: int = 0
    declared: Declared = field(default_factory=dict)
    given: Mapping[str, Mapping[int, Given]] = field(default_factory=dict)
    accepted: Mapping[PortKey, datetime] = field(default_factory=dict)
    forgotten: Mapping[PortKey, datetime] = field(default_factory=dict)
    invalid: Mapping[str, str] = field(default_factory=dict)
    forget_after: timedelta = timedelta(days=1)
