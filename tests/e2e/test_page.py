"""The page in a live API server, below a base path: its gate, and what a person with a browser does at 3 a.m."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Route, expect, sync_playwright

from portmon.storage import host_keys
from tests.worlds.fleet import FIVE
from tests.worlds.page_site import (
    BASE,
    METHODS,
    SECRET,
    TOKEN,
    USERS,
    Reader,
    Site,
    alert_of,
    assert_closed_to_strangers,
    close_dialog,
)

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
PAGES = ("/", "/ports", "/hosts", "/hosts/id-web1", "/hosts/id-web1/ports/80", "/events", "/runs", "/silences")
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("page"))
    yield made
    made.stop()


# ── the gate ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_gets_no_byte_of_data(site: Site, method: str) -> None:
    assert_closed_to_strangers(site, method)


def test_a_wrong_token_is_no_login(site: Site) -> None:
    assert site.ask("/", authorization="Bearer nonsense").status == 403
    page = site.ask("/", accept="text/html", cookie_="_token=nonsense")
    assert page.status in (303, 401)
    assert site.ask("/hosts", authorization=f"Bearer {TOKEN}").status == 403


def test_a_stranger_is_led_to_the_login_and_back(site: Site) -> None:
    answer = site.ask("/hosts?q=web&state=ok", accept="text/html")
    assert answer.status == 303
    wanted = f"{BASE}/api/v2/auth/login?next=%2Faf%2Fportmon%2Fhosts%3Fq%3Dweb%26state%3Dok"
    assert answer.headers["location"] == wanted
    framed = site.ask("/hosts", accept="text/html", sec_fetch_dest="iframe")
    assert framed.status == 401
    assert f'src="{BASE}/portmon/static/reload.js"' in framed.body


@pytest.mark.parametrize("user", USERS)
def test_each_role_reads(site: Site, user: str) -> None:
    answer = site.ask("/", user=user, accept="text/html")
    assert answer.status == 200
    assert SECRET in answer.body


def test_a_viewer_may_not_change(site: Site) -> None:
    refused = site.ask("/api/v1/problems", "POST", user="ann", body={})
    assert refused.status == 403
    assert json.loads(refused.body)["detail"] == "you may read the DAG `portmon`, but not edit it"
    # Others come as far as the routes, none of which takes this.
    assert site.ask("/api/v1/problems", "POST", user="joe", body={}).status == 405


def test_another_site_can_change_nothing(site: Site) -> None:
    def post(**headers: str) -> int:
        return site.ask("/api/v1/problems", "POST", cookie="admin", body={}, **headers).status

    own = site.airflow.url
    assert post(origin=own) == 405, "plain http sends no Sec-Fetch headers"
    assert post(origin=own, sec_fetch_site="same-origin") == 405
    assert post(origin=own, sec_fetch_site="cross-site") == 403
    assert post(origin=own, sec_fetch_site="same-site") == 403
    assert post(origin="https://evil.example.com") == 403
    assert post(origin=f"{own}.evil.example.com") == 403
    assert post(origin="null") == 403
    assert post() == 403
    assert post(origin=own, content_type="text/plain") == 403
    assert post(origin=own, content_type="application/x-www-form-urlencoded") == 403


def test_metrics_are_read_by_their_own_token(site: Site) -> None:
    answer = site.ask("/metrics", authorization=f"Bearer {TOKEN}")
    assert answer.status == 200
    assert 'portmon_open_alerts{severity="critical"} 1.0' in answer.body
    assert site.ask("/metrics", user="ann").status == 200
    assert site.ask("/api/v1/problems", authorization=f"Bearer {TOKEN}").status == 403


def test_the_description_of_the_api_is_for_users(site: Site) -> None:
    described = json.loads(site.ask("/api/v1/openapi.json", user="ann").body)
    assert "/api/v1/problems" in described["paths"]


# ── a person ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_a_death_is_found_in_two_clicks(site: Site, chromium: Browser) -> None:
    reader = Reader(site, chromium, timezone_id="Asia/Tokyo")
    page = reader.open("/")
    expect(page).to_have_title("1 problem · portmon")
    row = page.get_by_role("row").filter(has_text=SECRET)
    expect(row).to_contain_text("▲ down")
    expect(row).to_contain_text(f"{SECRET}.service")
    expect(page.locator("#zone")).to_have_text("Asia/Tokyo")
    died = site.fleet.now - FIVE
    tokyo = died.astimezone(ZoneInfo("Asia/Tokyo"))
    expect(row.locator("time")).to_contain_text(f"{tokyo:%Y-%m-%d %H:%M}")
    expect(row.locator("time")).to_have_attribute("title", f"{died:%Y-%m-%d %H:%M} UTC")
    row.get_by_role("link", name="80/tcp").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("web1 80/tcp")
    expect(page.locator("svg.timeline rect.down")).to_have_count(1)
    assert not reader.complaints


def test_a_filter_is_an_address_without_what_is_empty(site: Site, chromium: Browser) -> None:
    page = Reader(site, chromium).open("/ports")
    page.get_by_label("Program").fill("nginx")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**/ports?program=nginx")
    expect(page.get_by_text("1 to 1 of 1")).to_be_visible()
    page.go_back()
    expect(page.get_by_text("1 to 4 of 4")).to_be_visible()


def test_the_keyboard_alone_reaches_a_death(site: Site, chromium: Browser) -> None:
    page = Reader(site, chromium).open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "80/tcp":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/hosts/id-web1/ports/80")


def test_it_follows_theme_language_and_zone_of_airflow(site: Site, chromium: Browser) -> None:
    reader = Reader(site, chromium)
    page = reader.open("/")
    page.evaluate("localStorage.setItem('theme', 'dark'); localStorage.setItem('i18nextLng', 'zh-CN')")
    page.evaluate("localStorage.setItem('timezone', 'Europe/Berlin')")
    page.goto(f"{site.root}/portmon/")
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page.locator("#zone")).to_have_text("Europe/Berlin")
    expect(page).to_have_title("1 个问题 · portmon")
    assert not reader.complaints


def test_it_is_in_airflows_own_navigation(site: Site, chromium: Browser) -> None:
    reader = Reader(site, chromium, user="admin")
    page = reader.open("", root="/")
    page.get_by_role("link", name="portmon").first.click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("row").filter(has_text=SECRET)).to_contain_text("▲ down")
    frame.get_by_role("link", name="task log").first.click()
    page.wait_for_url("**/dags/portmon/runs/run00003/tasks/netstat/mapped/*")


def test_it_says_that_something_changed_and_moves_nothing(site: Site, chromium: Browser) -> None:
    reader = Reader(site, chromium)
    page = reader.context.new_page()
    page.clock.install()
    page.goto(f"{site.root}/portmon/")
    expect(page.locator("#changes")).to_be_hidden()
    site.fleet.machines["web2"].start(9100, "node_exporter")
    site.fleet.run()
    page.clock.run_for(31_000)
    expect(page.locator("#changes")).to_have_text("1 changes since, reload")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_has_no_serious_barrier(site: Site, chromium: Browser, theme: str) -> None:
    reader = Reader(site, chromium, color_scheme=theme)
    for path in PAGES:
        found = Axe().run(reader.open(path)).response["violations"]
        assert not [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
    assert not reader.complaints


def test_a_phone_needs_no_sideways_scrolling(site: Site, chromium: Browser) -> None:
    reader = Reader(site, chromium, viewport={"width": 375, "height": 800})
    for path in PAGES:
        page = reader.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path


def test_it_is_readable_without_scripts(site: Site, chromium: Browser) -> None:
    page = Reader(site, chromium, java_script_enabled=False).open("/")
    expect(page.get_by_role("row").filter(has_text=SECRET)).to_contain_text("UTC")


# ── what people do; these tests come last, since each leaves its traces ─────────────────────────


def test_a_request_that_is_wrong_says_what_and_changes_nothing(site: Site) -> None:
    def refused(path: str, body: Any) -> str:
        answer = site.ask(f"/api/v1/{path}", "POST", user="joe", body=body)
        assert answer.status in (404, 422), answer.body
        assert answer.headers["content-type"] == "application/problem+json"
        return str(json.loads(answer.body)["detail"])

    alert = alert_of(site, "web1", 80)
    assert "reason" in refused("acknowledgements", {"alerts": [alert]})
    assert "other" in refused("acknowledgements", {"alerts": [alert], "reason": "x", "other": 1})
    assert "is over" in refused("acknowledgements", {"alerts": ["gone"], "reason": "x"})
    assert "lasts" in refused("acknowledgements", {"alerts": [alert], "reason": "x", "lasts": "soon"})
    assert "until when" in refused("silences", {"hosts": ["web1"], "reason": "x"})
    assert "not down" in refused("ports/accept", {"ports": [["id-web2", 22]], "reason": "x"})
    # All or nothing.
    refused("ports/accept", {"ports": [["id-web1", 80], ["id-web2", 22]], "reason": "x"})
    refused("silences/4711/lift", {})
    assert json.loads(site.ask("/api/v1/silences", user="ann").body) == []
    assert json.loads(site.ask("/api/v1/actions", user="ann").body) == []


def test_a_preview_changes_nothing(site: Site) -> None:
    alert = alert_of(site, "web1", 80)
    body = {"alerts": [alert], "reason": "x", "lasts": "4h"}
    said = json.loads(site.ask("/api/v1/acknowledgements?preview=true", "POST", user="joe", body=body).body)
    assert said["preview"]
    assert "web1 port 80: down is acknowledged until" in said["done"][0]
    assert json.loads(site.ask("/api/v1/silences", user="ann").body) == []
    assert json.loads(site.ask("/api/v1/actions", user="ann").body) == []


def test_a_viewer_sees_no_button(site: Site, chromium: Browser) -> None:
    page = Reader(site, chromium, user="ann").open("/")
    expect(page.get_by_role("row").filter(has_text=SECRET)).to_be_visible()
    expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
    expect(page.get_by_role("button", name="Scan now")).to_have_count(0)


def do_it(dialog: Locator) -> None:
    """Press the button, and wait until it is done: who leaves the page before may have done nothing."""
    button = dialog.get_by_role("button", name="Do it")
    button.click()
    expect(button).to_be_hidden()


def test_a_death_is_acknowledged(site: Site, chromium: Browser) -> None:
    """Over plain HTTP, as in a company's network, where the browser sends no Sec-Fetch headers."""
    reader = Reader(site, chromium, user="joe")
    page = reader.open("/")
    button = page.get_by_role("row").filter(has_text=SECRET).get_by_role("button", name="Acknowledge")
    (alert,) = json.loads(button.get_attribute("data-body") or "")["alerts"]
    # The address in a message opens the same form.
    page = reader.open(f"/?acknowledge={alert}")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("web1 port 80: down is acknowledged until it is over")
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog).to_be_visible()  # a reason is required
    dialog.get_by_label("Reason").fill("I restart it")
    do_it(dialog)
    expect(dialog).to_contain_text("it counts at once")
    close_dialog(page)
    expect(page).to_have_title("Nothing is wrong · portmon")
    page.get_by_text("1 acknowledged or silenced").click()
    row = page.get_by_role("row").filter(has_text=SECRET)
    expect(row).to_contain_text("joe")
    assert not reader.complaints
    (action,) = json.loads(site.ask("/api/v1/actions", user="ann").body)
    assert (action["author"], action["kind"], action["reason"]) == ("joe", "acknowledge", "I restart it")
    held: list[Route] = []
    page.route("**/lift", lambda route: held.append(route))
    row.get_by_role("button", name="Lift").click()
    with page.expect_request("**/lift"):
        dialog.get_by_role("button", name="Do it").click()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    # The dialog is closed before the answer comes: the page is loaded again none the less.
    with page.expect_navigation():
        held[0].continue_()
    expect(page).to_have_title("1 problem · portmon")


def test_it_is_silenced_from_the_link_of_a_message(site: Site, chromium: Browser) -> None:
    page = Reader(site, chromium, user="joe").open("/silence?host=web1&port=80")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("hosts: 1 of 2, open alerts: 1")
    dialog.get_by_label("For how long").select_option("1h")
    dialog.get_by_label("Reason").fill("moving")
    do_it(dialog)
    expect(dialog).to_contain_text("hosts: 1 of 2")
    close_dialog(page)
    page.goto(f"{site.root}/portmon/silences")
    expect(page.get_by_role("row").filter(has_text="moving").first).to_contain_text("hosts: 1, open alerts: 1")
    expect(page.get_by_role("row").filter(has_text="moving").last).to_contain_text("joe")


def test_a_port_is_accepted_as_gone_and_the_next_run_retires_it(site: Site, chromium: Browser) -> None:
    page = Reader(site, chromium, user="joe").open("/hosts/id-web1")
    page.get_by_role("row").filter(has_text="80/tcp").get_by_role("button", name="Accept as gone").last.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("the next complete answer without it retires it")
    dialog.get_by_label("Reason").fill("it moved")
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog).to_contain_text("it counts from the next run on")
    assert ("retired", 80) in [(event.kind.value, event.port) for event in site.fleet.run()]


def test_a_host_key_is_released_by_an_operator_only(site: Site, chromium: Browser) -> None:
    machine = site.fleet.machines["web2"]
    machine.trouble = "host_key_changed"
    for _ in range(3):
        site.fleet.run()
    endpoint = "[web2.example.com]:22"
    with site.database.begin() as conn:
        host_keys.remember(conn, endpoint, "ssh-ed25519", "AAAA", "SHA256:old", site.fleet.now)
        host_keys.report_change(conn, endpoint, "ssh-ed25519", "BBBB", "SHA256:new", site.fleet.now)
    body = {"endpoint": endpoint, "fingerprint": "SHA256:new", "reason": "reinstalled"}
    assert site.ask("/api/v1/hosts/keys/release", "POST", user="joe", body=body).status == 403
    expect(Reader(site, chromium, user="joe").open("/hosts/id-web2").get_by_text("SHA256:new")).to_be_visible()
    page = Reader(site, chromium, user="ops").open("/hosts/id-web2")
    page.get_by_role("button", name="Release the key").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("reinstalled")
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog).to_contain_text("is trusted with its new key SHA256:new")
    expect(dialog).to_contain_text("the next run asks the host again")  # no preview any more
    with site.database.begin() as conn:
        assert [key.fingerprint for key in host_keys.list_all(conn, endpoint)] == ["SHA256:new"]


def test_ports_are_ignored_by_an_operator_only(site: Site, chromium: Browser) -> None:
    machine = site.fleet.machines["web2"]
    # The tests before have left it without evidence.
    machine.trouble = None
    site.fleet.run()
    body: dict[str, Any] = {"ports": [["id-web2", 22]], "lasts": "1d", "reason": "x"}
    assert site.ask("/api/v1/ports/ignore", "POST", user="joe", body=body).status == 403
    del body["lasts"]
    assert site.ask("/api/v1/ports/watch", "POST", user="joe", body=body).status == 403
    page = Reader(site, chromium, user="joe").open("/ports?host=web2")
    expect(page.get_by_role("row").filter(has_text="22/tcp")).to_be_visible()
    expect(page.get_by_role("button", name="Ignore")).to_have_count(0)
    page = Reader(site, chromium, user="ops").open("/ports?host=web2&port=22,80")
    page.get_by_role("button", name="Ignore all 2 shown").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("ports: 2, hosts: 1, open alerts: 0")
    dialog.get_by_label("For how long").select_option("30d")
    expect(dialog).to_contain_text("web2: port 22 is ignored until")
    dialog.get_by_label("Reason").fill("it is a trial")
    do_it(dialog)
    expect(dialog).to_contain_text("it counts from the next run on")
    site.fleet.run()
    machine.kill(80)
    assert site.fleet.run() == []
    machine.start(80, "nginx")
    site.fleet.run()
    close_dialog(page)
    page.goto(f"{site.root}/portmon/silences")
    row = page.get_by_role("row").filter(has_text="80/tcp").filter(has_text="it is a trial")
    row.get_by_role("button", name="Watch again").click()
    dialog.get_by_label("Reason").fill("it is over")
    do_it(dialog)
    assert site.fleet.run() == []
    machine.kill(80)
    assert [(event.kind.value, event.port) for event in site.fleet.run()] == [("down", 80)]
    machine.start(80, "nginx")
    site.fleet.run()


def test_airflows_own_audit_log_has_what_was_done_and_not_what_was_refused(site: Site) -> None:
    # Airflow shows it with the DAG's rights; this site has no DAG.
    with closing(sqlite3.connect(site.airflow.home / "airflow.db")) as conn:
        found = conn.execute(
            "SELECT event, owner FROM log WHERE event LIKE 'portmon.%' AND dag_id = 'portmon'"
        ).fetchall()
    assert sorted(found) == [
        ("portmon.accept", "joe"),
        ("portmon.acknowledge", "joe"),
        ("portmon.ignore", "ops"),
        ("portmon.lift", "joe"),
        ("portmon.release_key", "ops"),
        ("portmon.silence", "joe"),
        ("portmon.watch", "ops"),
    ]
