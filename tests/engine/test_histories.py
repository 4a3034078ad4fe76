"""Histories of small fleets and their events, one per row of the table of states and per bullet below it.

``<name>.jsonl`` holds one final observation per line, those of one time being one run; ``<name>.events.jsonl`` the
events, each with a reason for the reader; ``<name>.yaml``, if there is one, the configuration. A new history is two
files and no code.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portmon.cli import app
from portmon.config import Config, parse_config
from portmon.engine.rules import RuleSet
from portmon.model.host import Host, InvalidHost, Inventory
from portmon.model.observation import Listener, Listing, Observation, Outcome
from portmon.steps.evaluate import evaluate_run
from portmon.steps.prune import prune_inventory
from portmon.steps.run import Run
from portmon.storage import archive, events, inventory
from portmon.storage.database import Database
from tests.worlds.databases import migrated
from tests.worlds.reference import Reference, Told

FOLDER = Path(__file__).parents[1] / "fixtures" / "histories"
NAMES = sorted(path.name.removesuffix(".events.jsonl") for path in FOLDER.glob("*.events.jsonl"))
FIVE = timedelta(minutes=5)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def config_of(name: str) -> Path | None:
    path = FOLDER / f"{name}.yaml"
    return path if path.exists() else None


def expected(name: str) -> list[dict[str, Any]]:
    return [without_reason(event) for event in read(FOLDER / f"{name}.events.jsonl")]


def without_reason(event: dict[str, Any]) -> dict[str, Any]:
    names = ("at", "host_id", "kind", "protocol", "port")
    assert event["reason"]
    return {name: event[name] for name in names} | {"at": datetime.fromisoformat(event["at"])}


def observed(line: dict[str, Any]) -> Observation:
    outcome, listing = Outcome(line["outcome"]), None
    if outcome is Outcome.OK:
        listing = Listing(
            tool=line.get("tool", "netstat-W"),
            uid=0,
            boot_id=line["boot_id"],
            netns=line.get("netns"),
            pid1_start=line.get("pid1_start"),
            ephemeral=tuple(line["ephemeral"]),
            listeners=tuple(Listener(**listener) for listener in line["listeners"]),
        )
    at, error_class = datetime.fromisoformat(line["at"]), line.get("error_class")
    return Observation(line["host_id"], line["at"], 1, at, outcome, listing=listing, error_class=error_class)


def replayed(lines: list[dict[str, Any]], config: Config) -> Iterator[Told]:
    """The events of a history by the naive implementation."""
    reference = Reference()
    present: dict[str, Host] = {}
    left: dict[str, datetime] = {}
    for text, run in groupby(lines, lambda line: line["at"]):
        at = datetime.fromisoformat(text)
        looks = list(run)
        leaving = [line["host_id"] for line in looks if line["outcome"] == "removed"]
        yield from reference.leave(leaving, at)
        for host_id in leaving:
            present.pop(host_id, None)
            left[host_id] = at
        purged = [host_id for host_id, since in left.items() if at - since >= config.cmdb.prune_after]
        reference.purge(purged)
        left = {host_id: since for host_id, since in left.items() if host_id not in purged}
        for line in looks:
            if line["outcome"] != "removed":
                host_id = line["host_id"]
                owners = {
                    port: item.owner
                    for item in config.declared
                    for low, high in item.port
                    for port in range(low, high + 1)
                }
                named = tuple((port, owner) for port, owner in owners.items() if owner)
                before = present.get(host_id) or Host(host_id, host_id, host_id, declared=tuple(owners), owners=named)
                present[host_id] = dataclasses.replace(before, labels=line.get("labels", before.labels))
                left.pop(host_id, None)
        yield from reference.run(
            [observed(line) for line in looks if line["outcome"] not in ("removed", "invalid_entry")],
            inventory=present,
            rules=RuleSet(config.rules),
            settings=config.states,
            interval=FIVE,
            accepted={},
            now=at,
            run_id=text,
            invalid={line["host_id"]: line["error_class"] for line in looks if line["outcome"] == "invalid_entry"},
            prune_after=config.cmdb.prune_after,
        )


def pipeline_told(name: str, database: Database, config: Config) -> Iterator[dict[str, Any]]:
    """The events of a history by the pipeline, with its archive and its state in a database."""
    present: dict[str, Host] = {}
    for number, (text, run) in enumerate(groupby(read(FOLDER / f"{name}.jsonl"), lambda line: line["at"])):
        at = datetime.fromisoformat(text)
        looks, invalid = [], []
        for line in run:
            host_id = line["host_id"]
            before = present.get(host_id) or Host(host_id, host_id, host_id)
            present[host_id] = dataclasses.replace(before, labels=line.get("labels", before.labels))
            if line["outcome"] == "removed":
                del present[host_id]
            elif line["outcome"] == "invalid_entry":
                invalid.append(InvalidHost(len(invalid) + 1, host_id, host_id, line["error_class"]))
            else:
                looks.append(dataclasses.replace(observed(line), confirmed=True))
        this = Run(f"run{number}")
        unusable = {entry.id for entry in invalid}
        listed = tuple(host for host in present.values() if host.id not in unusable)
        found = Inventory(listed, tuple(invalid))
        with database.begin() as conn:
            digest = inventory.save(conn, found, run_id=this.run_id, fetched_at=at, stale=False)
            archive.save_observations(conn, [dataclasses.replace(look, run_id=this.run_id) for look in looks])
        forced = dataclasses.replace(this, force_prune=True)
        prune_inventory(database, config, forced, digest, stale=False, now=at)
        evaluate_run(database, config, this, digest, planned={}, interval=FIVE, now=at)
        with database.begin() as conn:
            for event in events.recent(conn, run_id=this.run_id):
                yield {
                    "at": event.at, "host_id": event.host_id, "kind": event.kind.value,
                    "protocol": event.protocol, "port": event.port,
                }  # fmt: skip


def some(names: list[str]) -> list[Any]:
    """Every fourth; the others are for the full run, since the pipeline adds a database to what the engine says."""
    return [pytest.param(name, marks=[pytest.mark.full] if at % 4 else []) for at, name in enumerate(names)]


@pytest.mark.parametrize("name", some(NAMES))
def test_the_pipeline_tells_it(name: str, tmp_path: Path) -> None:
    path = config_of(name)
    database = migrated(tmp_path / "state.db")
    # Histories may be months long, and the archive is tested elsewhere.
    config = parse_config(path.read_text()) if path else Config()
    year = timedelta(days=365)
    kept = config.retention.model_copy(update={"observations": year, "events": year})
    config = config.model_copy(update={"retention": kept})
    assert list(pipeline_told(name, database, config)) == expected(name)
    database.dispose()


def test_every_history_has_both_of_its_files() -> None:
    assert len(NAMES) >= 20
    assert {path.name.partition(".")[0] for path in FOLDER.iterdir()} == set(NAMES)
    assert all((FOLDER / f"{name}.jsonl").exists() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_naive_implementation_tells_it(name: str) -> None:
    path = config_of(name)
    config = parse_config(path.read_text()) if path else Config()
    told = [
        {"at": at, "host_id": host_id, "kind": kind, "protocol": "tcp" if port else None, "port": port}
        for at, kind, host_id, port, _ in replayed(read(FOLDER / f"{name}.jsonl"), config)
    ]
    # It tells what follows from a takeover, and not that there was one.
    assert told == [event for event in expected(name) if event["kind"] != "taken_over"]


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_tells_it(name: str, tmp_path: Path) -> None:
    empty = tmp_path / "portmon.yaml"
    empty.write_text("{}\n")
    arguments = ["simulate", str(FOLDER / f"{name}.jsonl"), "--config", str(config_of(name) or empty)]
    result = CliRunner().invoke(app, [*arguments, "--interval", "5min"])
    assert result.exit_code == 0, result.output
    assert [without_reason(json.loads(line)) for line in result.stdout.splitlines()] == expected(name)
