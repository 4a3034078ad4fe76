"""A netstat that prints what a test wants."""

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


class FakeNetstat:
    """A ``netstat`` that comes first in PATH and prints what it is told, call by call.

    Beside it is an ``ss`` that says nothing: the real one knows of this machine, and would contradict it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        script = folder / "netstat"
        script.write_text(
            f"#!/bin/sh\ncd {folder} && echo >> calls && n=$(wc -l < calls) && "
            'if [ -e "answer$n" ]; then cat "answer$n"; else cat answer; fi\n'
        )
        script.chmod(0o755)
        nothing = folder / "ss"
        nothing.write_text("#!/bin/sh\n")
        nothing.chmod(0o755)
        self.path = f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"

    def prints(self, *answers: str) -> None:
        """One text per call; the last one from then on."""
        for number, answer in enumerate(answers, 1):
            self._folder.joinpath(f"answer{number}").write_text(answer, errors="surrogateescape")
        self._folder.joinpath("answer").write_text(answers[-1], errors="surrogateescape")
