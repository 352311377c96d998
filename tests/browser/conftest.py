"""Alice's browser in Acme, with GitHub connected, on the one `manage.py up` that all browser tests share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.conftest import wait_for
from tests.processes import PROJECT, Up

PICTURES = PROJECT / "test-artifacts"
MARKS = [pytest.mark.browser, pytest.mark.xdist_group("site")]


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/browser/" in str(item.path):
            for mark in MARKS:
                item.add_marker(mark)


def sign_in(page: Page, address: str, email: str, password: str = "demo") -> None:
    page.goto(f"{address}/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Integrations")).to_be_visible()


def picture(page: Page, name: str) -> None:
    """For people to look at: with ATOM_PICTURES set, the whole page in `test-artifacts`."""
    if os.environ.get("ATOM_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


@pytest.fixture(scope="session")
def signed_in(site: Up, browser: Browser, _browser_goes_first: None) -> dict[str, Any]:
    """Alice's cookies. GitHub is connected and its offer was put off."""
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    sign_in(page, site.address, "alice@acme.test")
    page.locator("#card-github").get_by_role("button", name="Connect", exact=True).click()
    page.get_by_role("button", name="Allow").click()
    page.get_by_role("button", name="Skip for Now").click()
    state = context.storage_state()
    context.close()
    return dict(state)


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any], site: Up, signed_in: dict[str, Any]) -> dict[str, Any]:
    return {**browser_context_args, "base_url": site.address, "storage_state": signed_in}


class Imports:
    """Acme's imports through the API, for what a test needs done but is not about."""

    def __init__(self, site: Up) -> None:
        key = site.manage(
            "create_api_key", "--tenant", "acme", "--role", "owner", "--name", "browser tests"
        ).stdout.strip()
        self.site = site
        self.client = httpx2.Client(base_url=site.address, headers={"Authorization": f"Api-Key {key}"}, timeout=30)

    def start(self, provider: str = "github", **body: Any) -> str:
        """A new import of all that there is in three months, whether here or not; its id."""
        reply = self.client.post(f"/api/integrations/{provider}/historical-sync/start", json={"full": True, **body})
        assert reply.status_code == 202, reply.text
        return str(reply.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/api/integrations/historical-sync/jobs/{job_id}").json())

    def until(self, job_id: str, *statuses: str) -> dict[str, Any]:
        return dict(wait_for(lambda: (job := self.job(job_id))["status"] in statuses and job, 60))

    def end_all(self) -> None:
        self.site.sandbox(reset=True)
        for job in self.client.get("/api/integrations/github/historical-sync/jobs").json()["results"]:
            if job["can"]["cancel"]:
                self.client.post(f"/api/integrations/historical-sync/jobs/{job['id']}/cancel")
                self.until(job["id"], "cancelled", "completed", "failed")


@pytest.fixture(scope="session")
def _imports(site: Up) -> Iterator[Imports]:
    found = Imports(site)
    yield found
    found.client.close()


@pytest.fixture
def imports(_imports: Imports, signed_in: dict[str, Any]) -> Iterator[Imports]:
    """Nothing runs before and after the test."""
    _imports.end_all()
    yield _imports
    _imports.end_all()


@pytest.fixture
def another(browser: Browser, browser_context_args: dict[str, Any], site: Up) -> Iterator[Callable[..., Page]]:
    """another("bob@acme.test") -> a page of somebody else's browser."""
    contexts: list[BrowserContext] = []

    def make(email: str = "", **given: Any) -> Page:
        arguments = {**browser_context_args, **given}
        if email:
            arguments.pop("storage_state")
        context = browser.new_context(**arguments)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        if email:
            sign_in(page, site.address, email)
        return page

    yield make
    for context in contexts:
        context.close()


def status(page: Page, wanted: str, seconds: float = 60) -> None:
    expect(page.locator("#job-live")).to_have_attribute("data-status", wanted, timeout=seconds * 1000)


def number(page: Page, selector: str) -> int:
    return int(re.sub(r"\D", "", page.locator(selector).inner_text()) or 0)
