"""Commands of ``python -m portmon``, run in this process."""

from __future__ import annotations

import pytest


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run one as the command line would.

    :returns: exit code, and what it printed to stdout and to stderr: nothing that a terminal would obey
    """
    from portmon import cli

    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.app(list(arguments))
    out, err = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in out + err)
    return int(caught.value.code or 0), out, err
