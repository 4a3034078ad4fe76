"""The systemd unit or container of a process, from the path of its cgroup."""

from __future__ import annotations

import re
from functools import lru_cache

_CONTAINER = re.compile(
    r"(?:(docker|libpod|crio|cri-containerd|containerd|nerdctl)(?:-payload|-conmon)?[-/:])?([0-9a-f]{64})(?:\.scope)?$"
)
_RUNTIMES = {"libpod": "podman", "cri-containerd": "containerd", "nerdctl": "containerd"}
_LXC = re.compile(r"/(?:lxc\.payload\.|lxc/|machine\.slice/machine-lxc-)([^/]+)")
_MANAGER = "init.scope"
"""Of process 1, or of a user's service manager, whose unit is the one around it."""


@lru_cache(maxsize=4096)
def unit_of(cgroup: str) -> str | None:
    """The systemd unit or container that a cgroup's path belongs to; None for none, as of process 1.

    :returns: ``nginx.service``, ``ssh.socket``, ``docker:0123456789ab``, ``lxc:web``; ``session-3.scope`` for what a
        login started
    """
    parts = [part for part in cgroup.split("/") if part]
    for number in range(len(parts) - 1, -1, -1):
        match = _CONTAINER.search("/".join(parts[max(number - 1, 0) : number + 1]))
        if match:
            runtime = match[1] or ("docker" if "docker" in cgroup else "podman" if "libpod" in cgroup else "container")
            return f"{_RUNTIMES.get(runtime, runtime)}:{match[2][:12]}"
    if lxc := _LXC.search(cgroup):
        return f"lxc:{lxc[1]}"
    for part in reversed(parts):
        if part.endswith((".service", ".socket", ".scope")) and part != _MANAGER:
            return part
    return None
