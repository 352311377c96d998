"""The pictures of the README: `python -m tests.screens` makes them anew, of the demo with a few tools, in docs/screens."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import free_port
from tests.processes import PROJECT, Up

SCREENS = PROJECT / "docs" / "screens"
SIZE = {"width": 1280, "height": 800}
IMPORTED = ("salesforce", "hubspot", "linear")


def connect(page: Page, provider: str) -> None:
    """By the sandbox's page of consent, and on to the offer's import."""
    page.goto("/integrations")
    page.locator(f"#card-{provider}").get_by_role("button", name="Connect", exact=True).click()
    page.get_by_role("button", name="Allow").click()
    page.get_by_role("dialog").get_by_role("button", name="Start Historical Sync").click()
    expect(page.locator("#job-live")).to_be_visible()


def ended(page: Page) -> None:
    expect(page.locator("#job-live")).to_have_attribute("data-status", "completed", timeout=120_000)


def picture(page: Page, name: str) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=SCREENS / f"{name}-{scheme}.png")


def main() -> None:
    with TemporaryDirectory() as home, sync_playwright() as playwright:
        up = Up(Path(home) / ".atom", free_port(), anew=True)
        try:
            up.sandbox(records=40_000)
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(base_url=up.address, viewport=SIZE, reduced_motion="reduce", locale="en-GB")
            page.goto("/sign-in")
            page.get_by_label("E-mail").fill("alice@acme.test")
            page.get_by_label("Password").fill("demo")
            page.get_by_role("button", name="Sign in").click()
            for provider in IMPORTED:
                connect(page, provider)
                ended(page)
                page.reload()  # without the toast
            page.goto("/jobs")
            page.locator("#jobs-body tr", has_text="Salesforce").get_by_role("link").first.click()
            expect(page.locator("#job-live")).to_be_visible()
            picture(page, "job")
            page.goto("/analytics")
            picture(page, "analytics")
            up.sandbox(latency_ms=1500)
            connect(page, "github")
            expect(page.locator("#job-live")).to_contain_text("records/s", timeout=120_000)
            picture(page, "monitor")
            page.goto("/integrations")
            picture(page, "integrations")
            browser.close()
        finally:
            up.stop()


if __name__ == "__main__":
    main()
