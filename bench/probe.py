"""What a visit costs the host: portmon's probe, the same where UDP is asked for, and the version before, in turns.

Each host is made in namespaces of its own, holds sockets of its own, and is looked at by root and by a user who may
see no process of others. No SSH is in these figures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.figures import Section
from bench.sizes import Sizes
from bench.workers import answer

ALONE = ("unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child")
"""In namespaces of its own, which end with it."""
UNITS = {"forks": "processes", "cpu_ms": "ms", "bytes": "bytes"}
_BUCKETS = Path("/proc/sys/net/ipv4/tcp_ehash_entries")


def lacking() -> str | None:
    """What this machine lacks; None if nothing."""
    for tool in ("netstat", "ss"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    if os.geteuid() or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        return "network and process namespaces need root"
    return None


def measure(sizes: Sizes, section: Section, tell: Callable[[str], None]) -> None:
    """An idle host, one with many sockets, and one with even more."""
    many, most = sizes.probe_sockets
    section.sizes |= {"services": sizes.services, "many": many, "most": most, "looks": sizes.probe_looks}
    if _BUCKETS.exists():
        # A listing of netstat walks all of them; inside a namespace the number has a sign.
        section.facts["tcp_ehash_entries"] = abs(int(_BUCKETS.read_text()))
    for setting, sockets in (("idle", 0), ("many", many), ("most", most)):
        tell(f"a host with {sizes.services} services and {sockets} other sockets")
        order = {
            "services": sizes.services,
            "sockets": sockets,
            "rounds": sizes.repeat,
            "looks": sizes.probe_looks,
        }
        rounds = answer("bench.probe_worker", json.dumps(order), what=f"looking at {order}", within=ALONE)
        for users in rounds:
            for user, probes in users.items():
                for which, costs in probes.items():
                    for what, value in costs.items():
                        section.add(f"{setting}_{user}_{which}_{what}", UNITS[what], value)
