"""What Atom does by itself, in the browser: several imports at once, schedules, notifications and webhooks."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import picture
from tests.browser.test_everyone import violations
from tests.processes import Up

TOOLS = ("github", "linear", "hubspot", "slack")


def in_both_looks(page: Page, name: str) -> None:
    """Pictures and axe: light on a desk, dark on a phone."""
    for scheme, width, height in (("light", 1440, 900), ("dark", 390, 844)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        picture(page, f"{name}-{scheme}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
        assert violations(page) == [], f"{name}, {width}, {scheme}"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})


def test_four_imports_at_once_of_which_one_waits_and_a_schedule(another: Callable[..., Page], site: Up) -> None:
    site.manage(
        "create_tenant", "Initech", "--slug", "initech", "--plan", "team", "--owner", "peter@initech.test",
        "--password-file", "-", input="staplers are red",
    )  # fmt: skip
    page = another(storage_state=None)
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill("peter@initech.test")
    page.get_by_label("Password").fill("staplers are red")
    page.get_by_role("button", name="Sign in").click()
    for tool in TOOLS:
        page.locator(f"#card-{tool}").get_by_role("button", name="Connect", exact=True).click()
        page.get_by_role("button", name="Allow").click()
        page.get_by_role("button", name="Skip for Now").click()
        page.goto("/integrations")

    site.sandbox(latency_ms=700)
    for tool in TOOLS:
        page.locator(f"#card-{tool}").get_by_role("checkbox").check()
    page.get_by_role("button", name="Sync selected").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Bring in the history of 4 connections")).to_be_visible()
    expect(dialog.get_by_text("1 of these waits for room")).to_be_visible()
    expect(dialog.locator("#estimate li")).to_have_count(4, timeout=30_000)
    dialog.get_by_role("button", name="1 month", exact=True).click()
    expect(dialog.get_by_role("button", name="1 month", exact=True)).to_have_attribute("aria-pressed", "true")
    in_both_looks(page, "bulk")
    dialog.get_by_role("button", name="Start 4 imports").click()
    expect(page.get_by_text("3 imports started; 1 waits for room and will start by itself.")).to_be_visible()
    waiting = page.locator(".waiting")
    expect(waiting).to_contain_text("3 imports are active; it starts by itself")
    picture(page, "waiting")
    assert violations(page) == []
    # It starts without anybody, and what said that it waits goes.
    site.sandbox(reset=True)
    expect(waiting.locator("> div")).to_have_count(0, timeout=60_000)
    expect(page.locator("#jobs-body tr")).to_have_count(4)

    page.get_by_role("navigation", name="Main").get_by_role("link", name="Schedules").click()
    row = page.get_by_role("row").filter(has_text="GitHub")
    often, hour = row.get_by_role("combobox", name="How often"), row.get_by_role("combobox", name="When to sync")
    with page.expect_response(re.compile("/schedule$")):
        often.select_option("1h")
    expect(hour).to_have_count(0)
    with page.expect_response(re.compile("/schedule$")):
        often.select_option("1d")
    with page.expect_response(re.compile("/schedule$")):
        hour.select_option("at 02:00 UTC")
    row.get_by_role("checkbox").check()
    expect(row.get_by_role("cell").nth(2).locator("time")).to_have_attribute("datetime", re.compile("T02:00:00"))
    page.reload()
    expect(row.get_by_role("checkbox")).to_be_checked()
    expect(often).to_have_value("1d")
    expect(hour).to_have_value("02")
    with page.expect_response(re.compile("/schedule$")):
        often.select_option("7d")
    with page.expect_response(re.compile("/schedule$")):
        row.get_by_role("combobox", name="On which day").select_option("on Wednesday")
    expect(hour).to_have_value("02")
    in_both_looks(page, "schedules")
    page.set_viewport_size({"width": 1024, "height": 720})
    assert page.locator("#schedules").evaluate("table => table.scrollWidth <= table.clientWidth"), "a button is cut off"
    page.set_viewport_size({"width": 1440, "height": 900})
    with page.expect_response(re.compile("/schedule$")):
        often.select_option("1d")
    expect(row.get_by_role("combobox", name="On which day")).to_have_count(0)

    # What came in once is brought up to date from here as from its card, without a range to choose.
    row.get_by_role("button", name="Sync what is new").click()
    expect(page.locator("#job-live")).to_have_attribute("data-status", "completed", timeout=60_000)
    expect(page.get_by_role("heading", name="GitHub")).to_be_visible()
    page.goto("/integrations")
    in_both_looks(page, "cards")
    beside = page.context.new_page()
    beside.goto("/integrations")
    page.locator("#card-linear").get_by_role("button", name="Sync what is new").click()
    expect(page.locator("#job-live")).to_have_attribute("data-status", "completed", timeout=60_000)
    # On a page that was open all the while it is in reach again as soon as that has ended.
    card = beside.locator("#card-linear")
    expect(card.locator("[data-ended]")).to_be_visible(timeout=30_000)
    expect(card.locator(".so-far")).to_be_hidden()
    expect(card.get_by_role("button", name="Sync what is new")).to_be_visible()
    picture(beside, "card-ended")


def test_notifications_and_webhooks_are_set_up(page: Page) -> None:
    page.goto("/integrations")
    page.get_by_role("button", name=re.compile("Workspace and account")).click()
    page.get_by_role("link", name="Notifications").click()
    expect(page.get_by_label("An import failed")).to_be_checked()
    page.get_by_label("An import failed").uncheck()
    page.get_by_label("An import completed").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").filter(has_text="Saved.")).to_be_visible()
    expect(page.get_by_label("An import completed")).to_be_checked()
    expect(page.get_by_label("An import failed")).not_to_be_checked()
    in_both_looks(page, "notifications")

    page.goto("/settings/webhooks")
    page.get_by_label("Address").fill("http://127.0.0.1:9/hooks")
    page.get_by_role("button", name="Add endpoint").click()
    refused = page.get_by_role("alert")
    made = page.get_by_text("Copy it now")
    expect(refused.or_(made)).to_be_visible()
    in_both_looks(page, "webhooks")
