"""Commands of Airflow that docs/operations.md names are accepted by the Airflow that is installed."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.worlds.blocks import shell_blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def documented(start: str) -> list[list[str]]:
    """The commands in code blocks that begin so, as a shell reads them."""
    texts = [block.text.replace("\\\n", "") for block in shell_blocks(PAGE)]
    lines = [line for text in texts for line in text.splitlines() if line.startswith(start)]
    read = 'eval "set -- $1"; printf "%s\\0" "$@"'
    return [
        subprocess.run(["sh", "-c", read, "sh", line], capture_output=True, text=True, check=True).stdout.split("\0")[
            :-1
        ]
        for line in lines
    ]


@pytest.mark.filterwarnings("ignore")
def test_the_command_that_cleans_up_is_one() -> None:
    from airflow.cli import cli_parser

    (command,) = documented("airflow db clean")
    arguments = cli_parser.get_parser().parse_args(command[1:])
    assert arguments.yes
    assert arguments.error_on_cleanup_failure
    assert arguments.skip_archive
    assert arguments.batch_size == 1000
    age = datetime.now(UTC) - arguments.clean_before_timestamp
    assert timedelta(days=13) < age < timedelta(days=16)


def test_the_command_that_deletes_logs_leaves_young_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    run = tmp_path / "logs" / "dag_id=portmon" / "run_id=scheduled__2026-03-02T00:00:00+00:00"
    old, young = (run / "task_id=netstat" / f"map_index={index}" / "attempt=1.log" for index in (0, 1))
    for file, days in ((old, 20), (young, 1)):
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (time.time() - days * 86400,) * 2)
    commands = documented("find ")
    assert len(commands) == 2
    for command in commands:
        subprocess.run(command, check=True)
    assert not old.exists()
    assert young.exists()
    # A folder that a task has just made must not vanish before its log is in it.
    assert old.parent.exists()
    os.utime(old.parent, (time.time() - 3 * 86400,) * 2)
    subprocess.run(commands[1], check=True)
    assert not old.parent.exists()
    assert young.exists()
