"""The cost view in a real browser, on both Airflow majors and both of Airflow 3's auth managers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import requests
from playwright.sync_api import Browser, Page, StorageState, sync_playwright

from tests.airflow_home import AirflowHome
from tests.live import LiveServer

ColorScheme = Literal["light", "dark"]
OpenCost = Callable[..., Page]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
SECRET_DAG = "payroll"
READER_PERMISSIONS = [("can_read", "DAG:etl"), ("can_read", "Website")]


@pytest.fixture(scope="module")
def spend_server() -> Iterator[LiveServer]:
    """A server on which three DAGs have spent something."""
    with LiveServer(options=["--slots", "2"]) as server:
        ids = []
        for dag, task in (("etl", "load"), ("etl", "clean"), (SECRET_DAG, "pay"), ("<b>bold</b>", "x")):
            body = {
                "script_content": "sum(range(3_000_000)); print('done')",
                "user_metadata": {"dag_id": dag, "task_id": task, "owner": "ann"},
                "cpus": 4,
                "memory_mib": 65536,
            }
            answer = requests.post(f"{server.api}/executions", json=body, headers=server.headers, timeout=30)
            ids.append(answer.json()["execution_id"])
        for one in ids:
            ended = requests.get(f"{server.api}/executions/{one}?wait=60", headers=server.headers, timeout=90)
            assert ended.json()["status"] == "completed"
        yield server


@pytest.fixture(scope="module", params=["airflow3-simple", "airflow3-fab", "airflow2"])
def airflow(
    request: pytest.FixtureRequest, spend_server: LiveServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowHome]:
    """Airflow's pages, with an administrator, and with FAB a user who may read one DAG only."""
    name: str = request.param
    home = tmp_path_factory.mktemp(name)
    with AirflowHome(int(name[7]), home, spend_server, fab=name.endswith("fab")) as airflow:
        airflow.migrate()
        if airflow.is_fab:
            airflow.add_user("admin", "Admin")
            airflow.add_role("EtlReader", READER_PERMISSIONS)
            airflow.add_user("reader", "EtlReader")
        yield airflow.start("web")


@pytest.fixture(scope="module")
def browser(require: Callable[[bool, str], None]) -> Iterator[Browser]:
    """Chromium, headless."""
    require(bool(CHROMIUM), "chromium (scripts/install-system-packages)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sessions(browser: Browser, airflow: AirflowHome) -> Callable[[str], StorageState]:
    """The cookies of a user who passed Airflow's own login.

    Each user logs in once: Flask-AppBuilder answers the sixth login within 40 s by 429.
    """
    known: dict[str, StorageState] = {}

    def session(name: str) -> StorageState:
        if name not in known:
            context = browser.new_context()
            log_in(context.new_page(), airflow, name)
            known[name] = context.storage_state()
            context.close()
        return known[name]

    return session


@pytest.fixture
def open_cost(
    browser: Browser, airflow: AirflowHome, sessions: Callable[[str], StorageState]
) -> Iterator[OpenCost]:
    """Open the cost view as a user who is logged in."""
    contexts = []

    def open_page(user: str = "admin", color_scheme: ColorScheme = "light") -> Page:
        context = browser.new_context(
            viewport={"width": 1200, "height": 900}, color_scheme=color_scheme, storage_state=sessions(user)
        )
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{airflow.url}/rgrid/")
        page.locator("h1", has_text="RGrid cost").wait_for(timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()


def log_in(page: Page, airflow: AirflowHome, name: str) -> None:
    """Open the cost view without being logged in, and pass Airflow's own login."""
    page.goto(f"{airflow.url}/rgrid/")
    page.locator("input[name=username]").fill(name)
    page.locator("input[name=password]").fill(name)
    page.locator("button[type=submit], input[type=submit]").first.click()
    page.wait_for_url(lambda url: "login" not in url, timeout=60_000)


def amount(text: str) -> int:
    """The micros of an amount as shown."""
    return int(text.replace("€", "").replace(",", "").replace(".", ""))


def test_the_chart_and_both_tables_sum_to_the_total(open_cost: OpenCost, airflow: AirflowHome) -> None:
    page = open_cost()
    total = amount(page.locator("#total").inner_text())
    assert total > 0
    bars = [int(bar.get_attribute("data-micros") or 0) for bar in page.locator("rect.day").all()]
    assert sum(bars) == total
    for table in page.locator("table").all():
        rows = [amount(cell.inner_text()) for cell in table.locator("tbody tr td:last-child").all()]
        assert sum(rows) == total
        assert amount(table.locator("tfoot td:last-child").inner_text()) == total
    save_screenshot(page, airflow, "light")


def test_a_dag_that_is_called_like_markup_is_shown_as_text(open_cost: OpenCost) -> None:
    page = open_cost()
    assert page.locator("td", has_text="<b>bold</b>").count() >= 1
    assert page.locator("td b").count() == 0


def test_another_period_is_a_link_away_and_reached_by_keyboard(open_cost: OpenCost) -> None:
    page = open_cost()
    assert page.locator("rect.day").count() == 30
    page.locator("nav a", has_text="7 days").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/rgrid/?days=7")
    assert page.locator("rect.day").count() == 7


def test_dark_mode_follows_the_browser(open_cost: OpenCost, airflow: AirflowHome) -> None:
    page = open_cost(color_scheme="dark")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(18, 24, 31)"
    save_screenshot(page, airflow, "dark")


def test_the_page_has_its_place_in_the_navigation(open_cost: OpenCost, airflow: AirflowHome) -> None:
    page = open_cost()
    if airflow.major == 2:
        page.goto(f"{airflow.url}/home")
        assert page.locator("a[href='/rgrid/']").count() >= 1
        return
    page.goto(f"{airflow.url}/plugin/rgrid-cost")
    frame = page.frame_locator("iframe")
    frame.locator("h1", has_text="RGrid cost").wait_for(timeout=60_000)


def test_the_key_of_the_server_never_reaches_the_browser(
    open_cost: OpenCost, airflow: AirflowHome, spend_server: LiveServer
) -> None:
    page = open_cost()
    answer = page.request.get(f"{airflow.url}/rgrid/")
    assert answer.ok
    assert spend_server.api_key not in answer.text()
    assert spend_server.api_key not in page.content()
    assert spend_server.api_key not in str(answer.headers)


def test_a_user_sees_only_the_dags_that_they_may_read(open_cost: OpenCost, airflow: AirflowHome) -> None:
    if not airflow.is_fab:
        # the simple auth manager has no permissions by DAG: every one of its users may read all
        page = open_cost("viewer")
        assert page.locator("td", has_text=SECRET_DAG).count() >= 1
        return
    page = open_cost("reader")
    assert page.locator("td", has_text="etl").count() >= 1
    assert SECRET_DAG not in page.content()
    total = amount(page.locator("#total").inner_text())
    rows = page.locator("table").first.locator("tbody tr td:last-child").all()
    assert sum(amount(cell.inner_text()) for cell in rows) == total
    answer = page.request.get(f"{airflow.url}/rgrid/executions/{secret_execution(page, airflow)}")
    assert answer.status == 404


def test_nobody_without_a_login_sees_a_page(airflow: AirflowHome) -> None:
    answer = requests.get(f"{airflow.url}/rgrid/", allow_redirects=False, timeout=30)
    assert answer.status_code == 302
    assert "/login" in answer.headers["location"]
    assert SECRET_DAG not in answer.text


def secret_execution(page: Page, airflow: AirflowHome) -> str:
    """The id of the payroll's execution."""
    connection = json.loads(airflow.env["AIRFLOW_CONN_RGRID_DEFAULT"])
    found = requests.get(
        f"{connection['host']}/api/v1/executions",
        params={"metadata[dag_id]": SECRET_DAG},
        headers={"Authorization": f"Bearer {connection['password']}"},
        timeout=30,
    ).json()
    return str(found[0]["execution_id"])


def save_screenshot(page: Page, airflow: AirflowHome, mode: str) -> None:
    """Keep a picture where someone asks for it."""
    directory = os.environ.get("RGRID_SCREENSHOTS")
    if directory:
        name = f"cost-airflow{airflow.major}-{'fab' if airflow.is_fab else 'simple'}-{mode}.png"
        page.screenshot(path=Path(directory) / name, full_page=True)
