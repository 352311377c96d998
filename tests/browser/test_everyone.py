"""For everyone: axe-core, keyboard, phone, reduced motion, light and dark, and not heavy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Imports, picture, sign_in, status
from tests.conftest import watched
from tests.processes import Up

PAGES = {
    "sign-in": "/sign-in",
    "integrations": "/integrations",
    "jobs": "/jobs",
    "jobs-none": "/jobs?status=paused",
    "job": "/jobs/{job}",
    "settings": "/settings",
    "settings-members": "/settings/members",
    "settings-keys": "/settings/keys",
    "settings-audit": "/settings/audit",
    "notifications": "/settings/notifications",
    "webhooks": "/settings/webhooks",
    "schedules": "/schedules",
    "welcome": "/welcome/MQ/a-b",
    "change-password": "/password",
    "forgot-password": "/password/forgotten",
    "analytics": "/analytics",
    "analytics-year": "/analytics?range=12m",
    "coverage": "/coverage",
    "coverage-connection": "/coverage/{connection}?open=issues",
    "explorer": "/entities",
    "explorer-none": "/entities?q=zzzzzz",
    "entity": "/entities/{entity}",
    "prompt": "/connections/{connection}/import",
    "cancel": "/jobs/{job}/cancel",
    "disconnect": "/connections/{connection}/disconnect",
    "token": "/integrations/github/token",
    "styleguide": "/styleguide",
    "not-found": "/nowhere",
}


@pytest.fixture(scope="module")
def places(_imports: Imports, signed_in: dict[str, Any], site: Up, browser: Any) -> dict[str, str]:
    """Ids for the addresses above: an import that ended, and something that it brought."""
    _imports.end_all()
    job = _imports.start()
    connection = _imports.until(job, "completed")["connection_id"]
    context = browser.new_context(base_url=site.address, storage_state=signed_in)
    page = context.new_page()
    page.goto("/entities?kind=issue")
    entity = (page.locator("#entities-list a").first.get_attribute("href") or "").rsplit("/", 1)[-1]
    context.close()
    return {"job": job, "connection": connection, "entity": entity}


@pytest.fixture(scope="module")
def _window(browser: Browser, browser_context_args: dict[str, Any]) -> Iterator[Page]:
    context = browser.new_context(**browser_context_args)
    yield context.new_page()
    context.close()


@pytest.fixture
def window(_window: Page) -> Iterator[Page]:
    """One page for all tests that only look at what it shows: to open another takes longer than to look."""
    _window.set_viewport_size({"width": 1440, "height": 900})
    _window.emulate_media(color_scheme="light")
    with watched(_window):
        yield _window


def violations(page: Page) -> list[str]:
    """What axe-core finds, in words. Its half megabyte is parsed once a page."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then((results) => results.violations)")
    return [
        f"{violation['id']}: {node['target']} {node.get('failureSummary', '')}"
        for violation in found
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    window: Page, another: Callable[..., Page], places: dict[str, str], name: str
) -> None:
    page = another(storage_state=None) if name == "sign-in" else window
    page.goto(PAGES[name].format(**places))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for size, width, height in (("desktop", 1440, 900), ("phone", 390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            picture(page, f"{name}-{size}-{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
            assert violations(page) == [], f"{name}, {size}, {scheme}"
    for width in (768, 320):  # a tablet held upright; 1280 pixels at four times the size
        page.set_viewport_size({"width": width, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways at {width}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_what_opens_on_pages(page: Page, places: dict[str, str], scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto("/integrations")
    page.get_by_role("button", name=re.compile("Workspace and account")).click()
    expect(page.locator("#account")).to_be_visible()
    picture(page, f"account-{scheme}")
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("#account")).to_be_hidden()
    page.locator("#card-github").get_by_role("button", name="Sync History").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.locator("#estimate .skeleton")).to_have_count(0)
    assert violations(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    picture(page, f"prompt-phone-{scheme}")
    assert violations(page) == []
    page.set_viewport_size({"width": 320, "height": 640})
    page.locator("#modal header p").evaluate(
        "label => label.textContent = 'ana.ivanova@northwind.test (northwind, northwind-labs)'"
    )
    assert page.evaluate("document.getElementById('modal').scrollWidth <= document.getElementById('modal').clientWidth")
    page.keyboard.press("Escape")
    page.goto(f"/jobs/{places['job']}")
    page.locator("details[data-stream=issues] summary").click()
    expect(page.locator("details[data-stream=issues] .map-parts .map-row").first).to_be_visible()
    assert violations(page) == []


def test_a_record_as_received_scrolls_inside_itself(window: Page, places: dict[str, str]) -> None:
    window.set_viewport_size({"width": 390, "height": 844})
    window.goto(f"/entities/{places['entity']}")
    window.locator("summary", has_text="As received").first.click()
    expect(window.locator("details[open] pre").first).to_be_visible()
    assert window.evaluate("document.documentElement.scrollWidth") <= 390
    assert violations(window) == []


def test_the_offer_without_scripts_waits_for_nothing_and_starts(
    another: Callable[..., Page], places: dict[str, str], imports: Imports
) -> None:
    page = another(java_script_enabled=False)
    page.goto(f"/connections/{places['connection']}/import")
    expect(page.get_by_label("From")).to_be_visible()
    expect(page.locator("#estimate")).to_be_hidden()
    expect(page.get_by_role("button", name="3 months")).to_be_hidden()
    page.get_by_role("button", name="Start Historical Sync").click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))


def tab_to(page: Page, name: str, presses: int = 60) -> None:
    """Presses Tab until what has the focus is called so."""
    for _ in range(presses):
        page.keyboard.press("Tab")
        called = page.evaluate(
            "() => { const e = document.activeElement; return (e.labels?.[0]?.innerText ?? e.getAttribute('aria-label') ?? e.innerText ?? '').trim(); }"
        )
        if re.search(name, called):
            focused = page.evaluate("document.activeElement.matches(':focus-visible')")
            assert focused, f"{called} shows no focus"
            return
    raise AssertionError(f"Tab does not get to {name!r}")


def test_the_whole_journey_by_keyboard_alone(another: Callable[..., Page], site: Up, imports: Imports) -> None:
    page = another(storage_state=None)
    page.goto("/sign-in")
    expect(page.get_by_label("E-mail")).to_be_focused()
    page.keyboard.type("alice@acme.test")
    page.keyboard.press("Tab")
    page.keyboard.type("demo")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Integrations")).to_be_visible()
    page.wait_for_load_state()  # its scripts, which answer the space bar, come later than its words
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    site.sandbox(latency_ms=400)
    tab_to(page, "Sync History")
    page.keyboard.press("Space")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Bring in GitHub's history")).to_be_focused()
    tab_to(page, "^12 months")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("button", name="12 months")).to_have_attribute("aria-pressed", "true")
    tab_to(page, "Start Historical Sync")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    status(page, "running")
    tab_to(page, "^Cancel$")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Let it run")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    status(page, "cancelled")


def test_progress_is_named_for_screen_readers_and_ends_are_announced(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=200)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    expect(page.get_by_role("progressbar", name="Import progress")).to_be_visible()
    expect(page.get_by_role("region", name="Progress")).to_be_visible()
    status(page, "completed")
    expect(page.get_by_role("status").filter(has_text="GitHub import completed.")).to_have_count(1)


def test_nothing_moves_for_who_asked_for_less_motion(
    page: Page, another: Callable[..., Page], site: Up, imports: Imports
) -> None:
    site.sandbox(latency_ms=600)
    job = imports.start()
    lively = another(reduced_motion="no-preference")
    for watching, moves in ((page, False), (lively, True)):
        watching.goto(f"/jobs/{job}")
        status(watching, "running")
        assert bool(watching.evaluate("document.getAnimations().length")) is moves


def test_light_and_dark_follow_the_system_and_can_be_chosen(another: Callable[..., Page]) -> None:
    page = another(color_scheme="dark")
    page.goto("/jobs")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_role("button", name=re.compile("Workspace and account")).click()
    page.get_by_role("button", name="Light").click()
    expect(page).to_have_url(re.compile("/jobs$"))
    light = page.evaluate(background)
    assert light != dark
    page.goto("/entities")
    assert page.evaluate(background) == light
    page.get_by_role("button", name=re.compile("Workspace and account")).click()
    page.get_by_role("button", name="System").click()
    expect(page.locator("html")).not_to_have_attribute("data-theme", "light")
    assert page.evaluate(background) == dark


def test_a_long_name_in_one_word_scrolls_nothing_sideways(another: Callable[..., Page], site: Up) -> None:
    site.manage(
        "create_tenant", "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerk", "--slug", "donau", "--plan", "team",
        "--owner", "dora@donau.test", "--password-file", "-", input="steamers are slow",
    )  # fmt: skip
    page = another(storage_state=None, viewport={"width": 320, "height": 640})
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill("dora@donau.test")
    page.get_by_label("Password").fill("steamers are slow")
    page.get_by_role("button", name="Sign in").click()
    for path in ("/integrations", "/settings", "/settings/members", "/settings/audit", "/settings/notifications"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path


def test_the_header_fits_a_tablet_held_upright(window: Page) -> None:
    window.goto("/jobs")
    for width in range(700, 1100, 20):
        window.set_viewport_size({"width": width, "height": 900})
        assert window.evaluate("document.documentElement.scrollWidth") <= width, f"the page scrolls sideways at {width}"


def test_an_import_is_printed_in_ink_on_paper(page: Page, places: dict[str, str]) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(f"/jobs/{places['job']}")
    expect(page.locator("#job-phase")).to_be_visible()
    expect(page.get_by_role("navigation")).to_have_count(0)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(22, 24, 29)"


def test_how_much_a_search_or_a_filter_left_is_announced(page: Page, places: dict[str, str]) -> None:
    said = page.locator("#said")
    page.goto("/integrations")
    page.get_by_label("Search integrations").fill("opportunities")
    expect(said).to_contain_text("1 integration")
    page.get_by_label("Search integrations").fill("zzz")
    expect(said).to_contain_text("No integration matches")
    page.goto("/jobs")
    page.get_by_role("combobox", name="Status").select_option("completed")
    expect(said).to_contain_text(re.compile(r"\d+ imports?"))
    page.goto("/entities")
    page.get_by_label("Search by name").fill("zzzzzz")
    expect(said).to_contain_text("Nothing matches")


def test_a_tool_can_be_found_by_what_it_holds(window: Page) -> None:
    window.goto("/integrations")
    window.get_by_label("Search integrations").fill("opportunities")
    expect(window.locator("#card-github")).to_be_hidden()
    expect(window.locator("#card-salesforce")).to_be_visible()
    window.get_by_label("Search integrations").fill("zzz")
    expect(window.get_by_role("heading", name="No integration matches")).to_be_visible()


@pytest.mark.parametrize("name", ["integrations", "jobs", "job", "explorer", "entity"])
def test_pages_are_light(page: Page, places: dict[str, str], name: str) -> None:
    """Uncompressed; production sends less. htmx, which is not ours, is 51 KB of what is loaded besides."""
    ours: dict[str, int] = {}
    page.on(
        "response",
        lambda reply: (
            ours.__setitem__(reply.url, len(reply.body()))
            if "/static/" in reply.url and "django_htmx" not in reply.url
            else None
        ),
    )
    page.goto(PAGES[name].format(**places))
    page.wait_for_load_state("networkidle")
    assert ours
    assert sum(ours.values()) < 100_000, ours
    assert len(page.content()) < 150_000


def test_signing_in_again_leads_back_to_where_one_was(
    another: Callable[..., Page], places: dict[str, str], site: Up
) -> None:
    page = another(storage_state=None)
    page.goto(f"/jobs/{places['job']}")
    expect(page).to_have_url(re.compile("/sign-in"))
    page.get_by_label("E-mail").fill("alice@acme.test")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not match")
    expect(page.get_by_label("Password")).to_be_focused()
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile(places["job"]))
    sign_out_and_in(page, site)


def sign_out_and_in(page: Page, site: Up) -> None:
    page.get_by_role("button", name=re.compile("Workspace and account")).click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to Atom")).to_be_visible()
    sign_in(page, site.address, "vera@acme.test")
    expect(page.get_by_role("button", name="Sync History")).to_have_count(0)


def test_removing_a_member_asks_first_and_says_what_goes_on_without_them(
    another: Callable[..., Page], site: Up
) -> None:
    owner = ("--owner", "lea@leaving.test", "--password-file", "-")
    site.manage("create_tenant", "Leaving", "--slug", "leaving", "--plan", "team", *owner, input="who goes is gone")
    made = site.manage("shell", "-c", "from tests.browser.test_everyone import leave_behind; leave_behind('leaving')")
    assert made.returncode == 0, made.stderr
    page = another(storage_state=None)
    sign_in(page, site.address, "lea@leaving.test", "who goes is gone")
    page.goto("/settings/members")
    role, change = (
        page.get_by_label("Role of max@leaving.test"),
        page.get_by_role("button", name="Change the role of max@"),
    )
    expect(change).to_have_css("background-color", "rgba(0, 0, 0, 0)")
    role.select_option("viewer")
    expect(change).not_to_have_css("background-color", "rgba(0, 0, 0, 0)")  # it is not given yet
    role.select_option("admin")
    page.get_by_role("button", name="Remove max@leaving.test").click()
    dialog = page.get_by_role("dialog", name="Remove max@leaving.test from Leaving?")
    expect(dialog).to_contain_text("No API key and no connection of theirs is in use here.")
    expect(dialog.get_by_role("button", name="Keep")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Remove max@leaving.test")).to_be_focused()

    page.get_by_role("button", name="Remove mia@leaving.test").click()
    dialog = page.get_by_role("dialog", name="Remove mia@leaving.test from Leaving?")
    nightly, mailbox = dialog.get_by_label("Revoke nightly"), dialog.get_by_label("Disconnect Google")
    expect(nightly).to_be_checked()
    expect(mailbox).not_to_be_checked()
    expect(dialog.get_by_role("button", name="Keep")).to_be_focused()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width, height in ((1440, 900), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            picture(page, f"remove-member-{width}-{scheme}")
            assert violations(page) == []
    dialog.get_by_label("Revoke dashboard").uncheck()
    mailbox.check()
    dialog.get_by_role("button", name="Remove").click()
    expect(page.locator("main")).to_contain_text("mia@leaving.test is no member any more.")
    page.goto("/settings/audit")
    expect(page.locator("main")).to_contain_text("1 API key revoked, 1 stays; 1 connection disconnected, 2 stay")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width, height in ((1440, 900), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            picture(page, f"removed-member-{width}-{scheme}")


def leave_behind(slug: str) -> None:
    """Two members more, and what one of them connected and made; for `manage.py shell`."""
    from atom.models import ApiKey, Membership, Tenant, User
    from atom.tenancy import tenant_scope
    from integrations.models import Connection
    from tests.graphs import make_connection

    tenant = Tenant.objects.get(slug=slug)
    mia, maxim = (User.objects.create_user(f"{name}@leaving.test", "demo") for name in ("mia", "max"))
    with tenant_scope(tenant.id):
        for user in (mia, maxim):
            Membership.objects.create(tenant=tenant, user=user, role="admin")
        for tool, account in (("google", "mia@leaving.test"), ("github", "mia-leaving"), ("notion", "Leaving's notes")):
            row = make_connection(tenant, tool)
            Connection.objects.filter(id=row.id).update(created_by=mia, account_label=account)
        for name in ("nightly", "dashboard"):
            ApiKey.objects.create_key(tenant=tenant, name=name, role="member", created_by=mia)


def test_every_state_of_a_part_is_drawn(window: Page) -> None:
    """A rule of one page hid the waiting parts of another."""
    window.goto("/styleguide")
    for state in ("going", "completed", "waiting", "failed"):
        cell = window.locator(f".cell.{state}").first
        cell.scroll_into_view_if_needed()
        expect(cell).to_be_visible()
