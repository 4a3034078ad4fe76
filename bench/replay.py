"""Days of a made-up fleet evaluated again, as a manual run with ``replay_from`` does it, in PostgreSQL.

What was seen is made up and noted as runs note it; that it was never evaluated makes no difference for a replay, but
for the writing of everything in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.diff import step
from bench.errors import BenchError
from bench.figures import Section
from bench.sizes import Sizes
from tests.worlds.postgres import Cluster


def measure(sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """One database; each round evaluates all of it again."""
    section.sizes |= {"hosts": sizes.replay_hosts, "ports": sizes.diff_ports, "runs": sizes.replay_runs}
    cluster = Cluster(durable=True)
    try:
        order: dict[str, Any] = {"url": cluster.new_database(), "hosts": sizes.replay_hosts, "ports": sizes.diff_ports}
        tell(f"what {sizes.replay_hosts} hosts showed in {sizes.replay_runs} runs")
        step({"step": "build", **order})
        step({"step": "history", "runs": sizes.replay_runs, "change_every": sizes.replay_change_every, **order})
        for round_ in range(1, min(sizes.repeat, sizes.large_repeat) + 1):
            tell(f"evaluating it again, round {round_}")
            found = step({"step": "replay", "runs": sizes.replay_runs, **order})
            if found["evaluations"] != sizes.replay_runs + 1:
                raise BenchError(f"{found['evaluations']:g} of {sizes.replay_runs + 1} runs were evaluated again")
            if round_ == 1 and not found["events"]:
                raise BenchError("nothing came of it")
            section.add("replay_seconds", "s", found["seconds"])
            section.add("replay_ms_per_run", "ms", found["seconds"] / found["evaluations"] * 1000)
            section.add("replay_memory", "MiB", found["memory_mib"])
            number = sizes.replay_runs + round_
            step({"step": "look", "number": number, "changes": 0, "changed_now": False, **order})
            evaluated = step({"step": "evaluate", "number": number, **order})
            section.add("evaluate_ms", "ms", evaluated["seconds"] * 1000)
    finally:
        cluster.close()
