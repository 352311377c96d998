"""What a person does with an import: cancel, pause, resume, retry, reconnect, go away and come back."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import Imports, number, picture, status
from tests.conftest import wait_for
from tests.processes import Up


def test_cancel_asks_first_and_says_what_is_kept(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=400)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    status(page, "running")
    wait_for(lambda: (now := imports.job(job))["records_processed"] + now["records_skipped"] > 0, 60)
    page.get_by_role("button", name="Cancel", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Cancel this import?")).to_be_visible()
    expect(dialog.get_by_role("button", name="Let it run")).to_be_focused()
    picture(page, "cancel")
    dialog.get_by_role("button", name="Let it run").click()
    expect(dialog).to_be_hidden()
    status(page, "running")

    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the import").click()
    status(page, "cancelled")
    expect(page.locator("body")).not_to_be_focused()
    expect(page.locator("#job-phase")).to_have_text("What came in is kept")
    expect(page.locator(".timeline")).to_contain_text("Alice asked to cancel")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    picture(page, "cancelled")
    page.goto("/jobs")
    expect(page.locator(f"#job-{job}")).to_contain_text("Cancelled")


def test_pause_and_resume(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=400)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    status(page, "running")
    page.get_by_role("button", name="Pause").click()
    status(page, "paused")
    at_pause = number(page, ".percent")
    expect(page.locator("#toasts")).to_contain_text("GitHub import paused")
    expect(page.locator("#running-indicator")).to_be_empty()
    picture(page, "paused")
    page.reload()
    status(page, "paused")

    site.sandbox(reset=True)
    page.get_by_role("button", name="Resume").click()
    status(page, "completed")
    assert number(page, ".percent") == 100 >= at_pause
    expect(page.locator(".timeline")).to_contain_text("Alice resumed")


def test_retry_after_a_failure_goes_for_the_rest_only(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(deny=["github.commits"])
    job = imports.start()
    page.goto(f"/jobs/{job}")
    status(page, "failed")
    expect(page.locator("#job-phase")).to_have_text("Some of the range is missing")
    expect(page.locator("#job-live .notice.error")).to_contain_text("commits", ignore_case=True)
    expect(page.locator("#toasts")).to_contain_text("GitHub import failed")
    expect(page.locator(".map .cell.failed").first).to_be_attached()
    expect(page.locator(".timeline")).to_contain_text("gave up on a part")
    picture(page, "failed")
    page.goto("/integrations")
    expect(page.locator("#card-github")).to_contain_text("Last import failed")

    site.sandbox(reset=True)
    page.goto("/jobs")
    page.locator(f"#job-{job}").get_by_role("button", name="Retry").click()
    expect(page.locator(f"#job-{job}")).to_contain_text("Completed", timeout=60_000)
    page.goto(f"/jobs/{job}")
    expect(page.locator(".map .cell.failed")).to_have_count(0)


def test_reconnect_when_access_was_lost_and_the_import_goes_on(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=300)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    status(page, "running")
    site.sandbox(revoke="github")
    status(page, "paused")
    expect(page.locator("#job-live .badge")).to_have_text("Needs reconnect")
    picture(page, "access-lost")
    page.goto("/integrations")
    expect(page.locator("#card-github")).to_contain_text("Needs reconnect")
    site.sandbox(latency_ms=0)
    page.goto(f"/jobs/{job}")
    page.get_by_role("button", name="Reconnect").click()
    page.get_by_role("button", name="Allow").click()
    expect(page).to_have_url(re.compile("/integrations"))
    imports.until(job, "completed")
    page.goto(f"/jobs/{job}")
    status(page, "completed")


def test_leaving_and_coming_back_shows_the_truth(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=400)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    status(page, "running")
    page.goto("/entities")
    indicator = page.locator("#running-indicator")
    expect(indicator).to_contain_text("1")
    expect(indicator).to_contain_text("%")
    page.goto("/integrations")
    expect(page.locator("#card-github progress")).to_be_visible()
    expect(page.locator("#card-github").get_by_role("button", name="Sync History")).to_be_hidden()
    site.sandbox(reset=True)
    # Told where they are, without being asked to look.
    expect(page.locator("#toasts")).to_contain_text("GitHub import completed", timeout=60_000)
    expect(indicator).to_be_empty()
    expect(page.locator("#card-github").get_by_role("button", name="Sync History")).to_be_visible()
    page.locator("#toasts").get_by_role("link").click()
    status(page, "completed")
    page.go_back()
    page.go_forward()
    status(page, "completed")


def test_two_tabs_and_two_people_see_the_same_import_live(
    page: Page, another: Callable[..., Page], site: Up, imports: Imports
) -> None:
    second, bob, vera = page.context.new_page(), another("bob@acme.test"), another("vera@acme.test")
    site.sandbox(latency_ms=800)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    second.goto("/jobs")
    bob.goto(f"/jobs/{job}")
    vera.goto(f"/jobs/{job}")
    for watching in (page, bob, vera):
        status(watching, "running")
        watching.evaluate("window.sameDocument = true")
    expect(vera.get_by_role("button", name="Pause")).to_have_count(0)
    bob.get_by_role("button", name="Pause").click()
    for watching in (page, bob, vera):
        status(watching, "paused")
        expect(watching.locator(".timeline")).to_contain_text("Bob asked for a pause")
    expect(second.locator(f"#job-{job}")).to_contain_text("Paused")
    site.sandbox(reset=True)
    second.locator(f"#job-{job}").get_by_role("button", name="Resume").click()
    for watching in (page, bob, vera):
        status(watching, "completed")
        assert watching.evaluate("window.sameDocument") is True
    expect(second.locator(f"#job-{job}")).to_contain_text("Completed")
    expect(bob.locator("#toasts")).to_contain_text("GitHub import completed")


def test_an_estimate_of_another_choice_is_not_shown_for_this_one(page: Page, site: Up) -> None:
    """Where the tool takes long to count, the choice has changed before the first answer is there."""
    page.goto("/integrations")
    site.sandbox(latency_ms=1500)
    page.locator("#card-github").get_by_role("button", name="Sync History").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="3 months", exact=True)).to_be_enabled()
    with page.expect_response(re.compile("import/estimate")):
        dialog.get_by_role("button", name="12 months").click()
        page.evaluate(
            """() => {
                window.seen = new Set();
                const look = () => {
                    window.seen.add(document.getElementById("estimate").innerText);
                    requestAnimationFrame(look);
                };
                look();
            }"""
        )
    site.sandbox(latency_ms=0)
    expect(page.locator(".choice.htmx-request")).to_have_count(0)
    seen = page.evaluate("[...window.seen]")
    assert [words for words in seen if words.strip() and "Counting" not in words] == [
        dialog.locator("#estimate").inner_text()
    ]


def test_an_estimate_that_does_not_come_leaves_none_of_another_choice(page: Page, site: Up) -> None:
    page.goto("/integrations")
    page.locator("#card-github").get_by_role("button", name="Sync History").click()
    estimate = page.get_by_role("dialog").locator("#estimate")
    expect(estimate.locator(".skeleton")).to_have_count(0)
    expect(estimate).to_be_visible()
    page.route(re.compile("import/estimate"), lambda route: route.abort())
    page.get_by_role("dialog").get_by_role("button", name="12 months").click()
    expect(page.locator("#toasts")).to_contain_text("Atom can't be reached.")
    expect(estimate).to_be_hidden()
    page.unroute(re.compile("import/estimate"))
    page.get_by_role("dialog").get_by_role("button", name="6 months").click()
    expect(estimate).to_be_visible()
    expect(estimate).to_contain_text(re.compile("Records|Everything"))


def test_the_offer_explains_what_the_plan_locks_and_counts_again_for_another_choice(
    page: Page, another: Callable[..., Page], imports: Imports
) -> None:
    page.goto("/integrations")
    page.locator("#card-github").get_by_role("button", name="Sync History").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Bring in GitHub's history")).to_be_focused()
    locked = dialog.get_by_role("button", name="All")
    expect(locked).to_be_disabled()
    expect(dialog.locator(f"#{locked.get_attribute('aria-describedby')}")).to_have_text(
        "Your Team plan reaches 3 years back. All with the Enterprise plan."
    )
    estimate = dialog.locator("#estimate")
    expect(estimate).to_contain_text(re.compile("exact|about|at least|unknown|Everything"))
    expect(estimate.locator(".skeleton")).to_have_count(0)
    first = estimate.inner_text()
    dialog.get_by_role("button", name="12 months").click()
    expect(dialog.get_by_role("button", name="12 months")).to_have_attribute("aria-pressed", "true")
    expect(dialog.get_by_role("button", name="3 months", exact=True)).to_have_attribute("aria-pressed", "false")
    expect(estimate).not_to_have_text(first)
    picture(page, "prompt")
    for box in dialog.get_by_role("checkbox").all():
        box.uncheck()
    expect(estimate).to_contain_text("Choose at least one")
    dialog.get_by_role("button", name="Start Historical Sync").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Choose at least one")
    dialog.get_by_label("Issues").check()
    expect(dialog.get_by_role("alert")).to_have_count(0)
    expect(dialog.locator("[aria-invalid]")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    charlie = another("charlie@globex.test")
    charlie.locator("#card-github").get_by_role("button", name="Connect", exact=True).click()
    charlie.get_by_role("button", name="Allow").click()
    dialog = charlie.get_by_role("dialog")
    expect(dialog.locator("#locked")).to_contain_text("Your Free plan reaches 3 months back.")
    expect(dialog.locator("#locked")).to_contain_text("6 months and 12 months with the Solo plan")


def test_an_import_can_be_narrowed_to_some_repositories_from_the_offer(page: Page, imports: Imports) -> None:
    page.goto("/integrations")
    card = page.locator("#card-github")
    card.get_by_role("button", name="Sync History").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("From all repositories.")
    dialog.get_by_role("button", name="1 month", exact=True).click()
    dialog.get_by_label("Commits").uncheck()
    since = dialog.get_by_label("From", exact=True).input_value()

    def is_as_it_was() -> None:
        expect(dialog.get_by_label("From", exact=True)).to_have_value(since)
        expect(dialog.get_by_role("button", name="1 month", exact=True)).to_have_attribute("aria-pressed", "true")
        expect(dialog.get_by_label("Commits")).not_to_be_checked()
        expect(dialog.get_by_label("Issues")).to_be_checked()

    dialog.get_by_role("link", name="Choose").click()
    dialog.get_by_role("button", name="Leave as it is").click()
    expect(dialog.get_by_role("heading", name="Bring in GitHub's history")).to_be_focused()
    is_as_it_was()
    dialog.get_by_role("link", name="Choose").click()
    expect(dialog.get_by_role("heading", name="Repositories to bring in")).to_be_focused()
    expect(dialog.get_by_label("All of them")).to_be_checked()
    boxes = dialog.locator("[name=only]")
    for box in boxes.all()[1:]:
        box.uncheck()
    expect(dialog.get_by_label("All of them")).not_to_be_checked()
    picture(page, "narrow")
    boxes.first.uncheck()
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Name between one and")
    dialog.locator("[name=only]").first.check()
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("heading", name="Bring in GitHub's history")).to_be_focused()
    expect(dialog).to_contain_text("From 1 of the repositories.")
    is_as_it_was()
    page.keyboard.press("Escape")
    page.reload()
    expect(card).to_contain_text("Only 1 of the repositories")
    card.get_by_role("link", name="Change").click()
    dialog.get_by_label("All of them").check()
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_contain_text("From all repositories.")


def test_back_after_a_choice_leaves_a_page_that_works(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=400)
    job = imports.start()
    page.goto("/jobs")
    page.locator("select[name=status]").select_option("completed")
    expect(page).to_have_url(re.compile("status=completed"))
    expect(page.locator(f"#job-{job}")).to_have_count(0)
    page.go_back()
    page.locator(f"#cancel-{job}").click()
    expect(page.get_by_role("dialog").get_by_role("heading", name="Cancel this import?")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the import").click()
    expect(page.locator(f"#job-{job}")).to_contain_text("Cancelled")
    expect(page.locator(f"#job-{job} a.cover")).to_be_focused()
    expect(page.locator("#toasts")).to_contain_text("cancelled")
