"""Listings and frames by hand, and a netstat that prints what a test wants."""

from __future__ import annotations

from pathlib import Path

HOSTILE = "{{ conn.x.password }} {{ \x1b[31m\n\u202e\udcff"
HEADER = (
    "Active Internet connections (only servers)\n"
    "Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name    \n"
)


def listing(*ports: int, program: str = "nginx: master") -> str:
    """What net-tools' netstat prints for these ports."""
    rows = (
        f"tcp        0      0 {f'0.0.0.0:{port}':<23} {'0.0.0.0:*':<23} LISTEN      {f'2007/{program}':<19} \n"
        for port in ports
    )
    return HEADER + "".join(rows)


def frame(body: str, *, tool: str = "netstat-W", ended: int = 0, ssx: str | None = None, **fields: str) -> bytes:
    """A frame of version 2."""
    known = {"tcp": "1", "tcp6": "1", "netns": "4026531840", "pid1": "12", "tried": "-"} | fields
    proc = "/proc/sys/kernel/random/boot_id:b1\n/proc/self/status:Uid:\t0\t0\t0\t0"
    proc = known.pop("proc", proc)
    payload = f"@@n0n0 LIST tool={tool} ended={ended} via=- bytes={len(body)} ver={known.pop('ver', '-')}\n{body}\n"
    payload += f"@@n0n0 PROC bytes={len(proc)}\n{proc}\n"
    if ssx is not None:
        payload += f"@@n0n0 SSX ended={known.pop('ssx_ended', '0')} bytes={len(ssx)}\n{ssx}\n"
    payload = payload[:-1]
    said = " ".join(f"{name}={value}" for name, value in known.items())
    end = "@@n0n0 END volatile uptime=1.0 clock=- sockets=3\n"
    return f"\n@@n0n0 BEGIN v=2 bytes={len(payload)} {said}\n{payload}\n{end}".encode()


def netstat(*ports: int, six: bool = False) -> str:
    """A listing of netstat in which one program has all ports, without a newline at its end."""
    address = ":::" if six else "0.0.0.0:"
    proto = "tcp6" if six else "tcp "
    rows = [f"{proto}       0      0 {f'{address}{port}':<23} {'*:*':<23} LISTEN      {'7/app':<20}" for port in ports]
    return "\n".join([HEADER.rstrip("\n"), *rows])


def ss_of(*ports: int, six: bool = False) -> str:
    """A listing of ss."""
    address = "[::]" if six else "0.0.0.0"
    rows = [
        f"0 128 {address}:{port} {address}:* uid:9 ino:{port} sk:1 cgroup:/system.slice/a.service <->" for port in ports
    ]
    return "\n".join(["Recv-Q Send-Q Local Address:Port Peer Address:PortProcess", *rows])


def script(path: Path, text: str) -> None:
    """An executable file."""
    path.write_text(text)
    path.chmod(0o755)


class FakeNetstat:
    """A ``netstat`` that comes first in PATH and prints the given texts, call by call.

    Beside it is an ``ss`` without output: the real one would list the sockets of this machine, and contradict it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        script(
            folder / "netstat",
            f"#!/bin/sh\ncd {folder} && echo >> calls && n=$(wc -l < calls) && "
            'if [ -e "answer$n" ]; then cat "answer$n"; else cat answer; fi\n',
        )
        script(folder / "ss", "#!/bin/sh\n")
        self.path = f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"

    def prints(self, *answers: str) -> None:
        """One text per call; the last one from then on."""
        for number, answer in enumerate(answers, 1):
            self._folder.joinpath(f"answer{number}").write_text(answer, errors="surrogateescape")
        self._folder.joinpath("answer").write_text(answers[-1], errors="surrogateescape")
