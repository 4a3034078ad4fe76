"""Write docs/images: the page over a made-up fleet with a week behind it, as Chromium shows it.

``python tools/screenshots.py`` starts an Airflow of its own for it.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from sqlalchemy import update

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "plugins"), str(ROOT)]

from portmon.config import parse_config  # noqa: E402
from portmon.storage import tables  # noqa: E402
from portmon.storage.database import Database  # noqa: E402
from tests.worlds.fleet import FIVE, Fleet  # noqa: E402
from tests.worlds.page_site import Reader, Site, alert_of  # noqa: E402

IMAGES = ROOT / "docs" / "images"
CONFIG = """
alerts:
  channels:
    - {type: log, name: mail}
    - {type: log, name: pager}
"""
UNITS = {
    "sshd": "ssh",
    "postgres": "postgresql@16-main",
    "java": "billing-api",
    "python3": "reports",
    "beam.smp": "rabbitmq-server",
}
HOSTS: tuple[tuple[str, dict[int, str]], ...] = (
    ("web", {80: "nginx", 443: "nginx"}),
    ("app", {8443: "java", 8000: "python3"}),
    ("db", {5432: "postgres"}),
    ("cache", {6379: "redis-server"}),
    ("mq", {5672: "beam.smp"}),
)
WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)


def set_trouble(fleet: Fleet, name: str, trouble: str | None) -> None:
    """Let logins to a host fail, or succeed again."""
    fleet.machines[name].trouble = trouble


def turn(fleet: Fleet, name: str, port: int, program: str) -> None:
    """Start a service that is dead, end one that is alive."""
    machine = fleet.machines[name]
    if port in machine.services:
        machine.kill(port)
    else:
        machine.start(port, program)


def week(database: Database) -> Fleet:
    """Sixteen hosts of two sites, and what happened to them in seven days."""
    now = datetime.now(UTC).replace(microsecond=0)
    fleet = Fleet(database, parse_config(CONFIG), start=now - WEEK)
    for role, services in HOSTS:
        for number in range(1, 5 if role in ("web", "app") else 3):
            labels = {"site": "fra1" if number % 2 else "ams1", "env": "stage" if number == 4 else "prod"}
            fleet.add(f"{role}{number:02}", {22: "sshd", 9100: "node_exporter", **services}, **labels).units = UNITS
    machines = fleet.machines
    web02 = machines["web02"]
    # How long ago, and what.
    story: list[tuple[timedelta, Callable[[], object]]] = [
        (timedelta(days=5, hours=3), lambda: (web02.kill(80), web02.kill(443))),
        (timedelta(days=4, hours=20), lambda: (web02.start(80, "nginx"), web02.start(443, "nginx"))),
        (timedelta(days=3, hours=8), partial(set_trouble, fleet, "web02", "timeout")),
        (timedelta(days=2, hours=22), partial(set_trouble, fleet, "web02", None)),
        (timedelta(days=2), partial(turn, fleet, "db02", 5432, "postgres")),
        (timedelta(days=1, hours=23), partial(turn, fleet, "db02", 5432, "postgres")),
        (timedelta(hours=30), partial(turn, fleet, "web02", 9100, "node_exporter")),
        (timedelta(hours=28), partial(turn, fleet, "web02", 9100, "node_exporter")),
        (timedelta(hours=11), partial(turn, fleet, "app03", 8080, "java")),
        (timedelta(hours=5), partial(turn, fleet, "cache01", 6379, "redis-server")),
        (timedelta(hours=2), partial(turn, fleet, "app01", 8443, "java")),
        (timedelta(hours=1), partial(set_trouble, fleet, "mq01", "timeout")),
        *((number * FIVE, partial(turn, fleet, "app02", 8000, "python3")) for number in range(9, 3, -1)),
        (4 * FIVE, partial(turn, fleet, "web02", 443, "nginx")),
        (2 * FIVE, partial(turn, fleet, "db01", 5432, "postgres")),
    ]
    while fleet.now <= now:
        while story and fleet.now >= now - story[0][0]:
            story.pop(0)[1]()
        fleet.run()
    with database.begin() as conn:
        for number in range(fleet.number):
            lasted = timedelta(seconds=6 + number * 7 % 5 + (9 if number % 13 == 0 else 0))
            at = fleet.start + number * FIVE + lasted
            conn.execute(update(tables.runs).where(tables.runs.c.run_id == f"run{number:05}").values(finished_at=at))
    return fleet


PICTURES: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("page-light.png", "/", {"color_scheme": "light"}),
    ("page-dark.png", "/", {"color_scheme": "dark"}),
    (
        "page-phone.png",
        "/",
        {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
    ),
    ("host-light.png", "/hosts/id-web02?range=7d", {"color_scheme": "light"}),
)


def act(site: Site) -> None:
    """One problem is taken care of, another one is silenced."""
    acknowledged = {"alerts": [alert_of(site, "app01", 8443)], "reason": "restarting the billing API"}
    silenced = {"hosts": ["cache01"], "lasts": "8h", "reason": "planned upgrade"}
    for path, body in (("acknowledgements", acknowledged), ("silences", silenced)):
        answer = site.ask(f"/api/v1/{path}", "POST", user="joe", body=body)
        if answer.status != 200:
            raise RuntimeError(answer.body)


def photograph(site: Site, folder: Path) -> None:
    """Write each picture."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, path, options in PICTURES:
            size = {"viewport": {"width": 1200, "height": 900}, "timezone_id": "Europe/Berlin"}
            page = Reader(site, browser, user="joe", **size | options).open(path)
            for folded in page.locator("details:has(table)").all():
                folded.evaluate("one => { one.open = true }")
            page.screenshot(path=folder / name, full_page="viewport" not in options)
            with Image.open(folder / name) as picture:
                small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            small.save(folder / name, optimize=True)
        browser.close()


def main() -> None:
    """Write all pictures."""
    # Two thousand runs have much to say.
    logging.disable(logging.INFO)
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="portmon-") as folder:
        site = Site(Path(folder), history=week, config=CONFIG)
        try:
            act(site)
            photograph(site, IMAGES)
        finally:
            site.stop()


if __name__ == "__main__":
    main()
