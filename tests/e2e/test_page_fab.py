"""The page with the FAB auth manager, whose roles Viewer and User see no plugin in Airflow's navigation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from demo.airflow_env import ROOT
from portmon.storage import host_keys
from tests.worlds.fab import needs_fab
from tests.worlds.page_site import (
    METHODS,
    SECRET,
    USERS,
    Reader,
    Site,
    alert_of,
    assert_closed_to_strangers,
    close_dialog,
)

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    needs_fab,
]
EDITORS = ("joe", "ops", "admin")
OPERATORS = ("ops", "admin")
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("page"), fab=True)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_gets_no_byte_of_data(site: Site, method: str) -> None:
    assert_closed_to_strangers(site, method)


@pytest.mark.parametrize("user", USERS)
def test_each_role_reads(site: Site, user: str) -> None:
    answer = site.ask("/", user=user, accept="text/html")
    assert answer.status == 200
    assert SECRET in answer.body
    # FAB lets Viewer and User list no plugins, from which Airflow makes its navigation.
    assert site.call("/api/v2/plugins", user=user).status == (200 if user in OPERATORS else 403)


def test_a_viewer_may_not_change(site: Site, chromium: Browser) -> None:
    body = {"alerts": [alert_of(site, "web1", 80)], "reason": "x"}
    refused = site.ask("/api/v1/acknowledgements", "POST", user="ann", body=body)
    assert refused.status == 403
    assert json.loads(refused.body)["detail"] == "you may read the DAG `portmon`, but not edit it"
    page = Reader(site, chromium).open("/")
    expect(page.get_by_role("row").filter(has_text=SECRET)).to_be_visible()
    expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
    expect(page.get_by_role("button", name="Scan now")).to_have_count(0)


def test_a_link_in_a_mail_leads_through_the_login_to_the_port(site: Site, chromium: Browser) -> None:
    link = "/port?host=web1&port=80"
    reader = Reader(site, chromium, user="")
    page = reader.open(link)
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password").fill("ann")
    page.get_by_role("button", name="Sign In").click()
    page.wait_for_url(f"{site.root}/portmon/hosts/id-web1/ports/80")
    expect(page.get_by_role("heading", level=1)).to_contain_text("web1 80/tcp")
    # Once logged in, the link alone is enough.
    again = reader.open(link)
    expect(again.get_by_role("heading", level=1)).to_contain_text("web1 80/tcp")


@pytest.mark.parametrize("user", EDITORS)
def test_user_op_and_admin_acknowledge(site: Site, chromium: Browser, user: str) -> None:
    page = Reader(site, chromium, user=user).open("/")
    page.get_by_role("row").filter(has_text=SECRET).get_by_role("button", name="Acknowledge").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("web1 port 80: down is acknowledged until it is over")
    dialog.get_by_label("Reason").fill("I restart it")
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog).to_contain_text("it counts at once")
    close_dialog(page)
    page.get_by_text("1 acknowledged or silenced").click()
    row = page.get_by_role("row").filter(has_text=SECRET)
    expect(row).to_contain_text(user)
    row.get_by_role("button", name="Lift").click()
    page.get_by_role("dialog").get_by_role("button", name="Do it").click()
    close_dialog(page)
    expect(page).to_have_title("1 problem · portmon")


def test_op_and_admin_release_a_host_key(site: Site) -> None:
    endpoint = "[web2.example.com]:22"

    def release(user: str) -> int:
        with site.database.begin() as conn:
            host_keys.remember(conn, endpoint, "ssh-ed25519", "AAAA", "SHA256:old", site.fleet.now)
            host_keys.report_change(conn, endpoint, "ssh-ed25519", "BBBB", "SHA256:new", site.fleet.now)
        body = {"endpoint": endpoint, "fingerprint": "SHA256:new", "reason": "reinstalled"}
        return site.ask("/api/v1/hosts/keys/release", "POST", user=user, body=body).status

    assert {user: release(user) for user in USERS} == {"ann": 403, "joe": 403, "ops": 200, "admin": 200}


def test_the_doctor_names_the_roles_that_see_no_plugins(site: Site) -> None:
    env = {**site.airflow.env, "PYTHONPATH": str(ROOT / "plugins")}
    command = [sys.executable, "-m", "portmon", "doctor", "--no-login", "--format", "json"]
    found = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout)
    assert [one["cure"] for one in found if one["about"] == "roles"] == [
        f"airflow roles add-perms {role} -a can_read -r Plugins" for role in ("User", "Viewer")
    ]
