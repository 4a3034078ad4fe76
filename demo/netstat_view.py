"""A ``netstat -nltp`` that shows the rows of one address, for computers that allow no namespaces.

Usage: netstat_view.py ADDRESS. It prints rows from /proc as net-tools does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def owners() -> dict[str, tuple[int, str]]:
    """Inode of a socket to pid and name of its process, as far as this user may see them."""
    found: dict[str, tuple[int, str]] = {}
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: -int(path.name)):
        try:
            name = (process / "cmdline").read_bytes().split(b"\0")[0].decode("utf-8", "replace")
            for link in (process / "fd").iterdir():
                target = str(link.readlink())
                if target.startswith("socket:["):
                    found[target[8:-1]] = (int(process.name), name)
        except OSError:
            continue
    return found


def rows(address: str, table: str, known: dict[str, tuple[int, str]]) -> list[str]:
    """Lines of the listening sockets of one IPv4 address."""
    little = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    lines = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        local, state, inode = fields[1], fields[3], fields[9]
        bound, _, port = local.partition(":")
        if state != "0A" or bound != little:
            continue
        owner = known.get(inode)
        shown = f"{owner[0]}/{owner[1]}"[:19] if owner else "-"
        place = f"{address}:{int(port, 16)}"
        lines.append(f"tcp        0      0 {place:<23} 0.0.0.0:*               LISTEN      {shown:<20}")
    return lines


def main() -> None:
    print("Active Internet connections (only servers)")
    print("Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name    ")
    for line in rows(sys.argv[1], Path("/proc/net/tcp").read_text(), owners()):
        # Not the SSH server, which belongs to the demo.
        if not line.split()[3].endswith(f":{os.environ.get('DEMO_SSH_PORT', '')}"):
            print(line)


if __name__ == "__main__":
    main()
