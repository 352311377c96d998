"""Dialogs, toasts and focus: nothing that was typed is lost, nothing that is shown is out of reach."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Imports, sign_in, status
from tests.conftest import wait_for
from tests.processes import Up


def test_a_refusal_is_a_toast_and_opens_no_dialog(page: Page) -> None:
    page.goto("/integrations")
    page.get_by_role("button", name="Sync selected").click()
    expect(page.locator("#toasts .toast")).to_have_count(1)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_what_is_selected_can_be_started_from_where_it_was_selected(page: Page) -> None:
    page.goto("/integrations")
    start = page.get_by_role("button", name="Sync selected")
    expect(start).not_to_be_in_viewport()
    page.locator("#card-github .pick input").first.check()
    expect(start).to_be_in_viewport()
    start.click()
    expect(
        page.get_by_role("dialog").get_by_role("heading", name="Bring in the history of 1 connection")
    ).to_be_visible()


def test_the_first_key_in_the_question_before_disconnecting_takes_nothing(page: Page) -> None:
    page.goto("/integrations")
    page.locator("#card-github .account").first.get_by_role("button", name="Disconnect").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Space")
    expect(dialog).to_be_hidden()


def test_what_was_sent_is_not_sent_again_while_its_answer_is_on_its_way(page: Page, imports: Imports) -> None:
    sent: list[Route] = []
    page.route(
        re.compile("/import$"),
        lambda route: sent.append(route) if route.request.method == "POST" else route.continue_(),
    )
    page.goto("/integrations")
    page.locator("#card-github").get_by_role("button", name="Sync History").click()
    start = page.get_by_role("button", name="Start Historical Sync")
    for _ in range(3):
        start.press("Enter")
    expect(page.locator("#modal form")).to_have_attribute("aria-busy", "true")
    sent[0].abort()  # the network failed: it can be sent again
    expect(page.locator("#toasts")).to_contain_text("Atom can't be reached.")
    start.click()
    wait_for(lambda: page.wait_for_timeout(50) or len(sent) == 2, 10)
    sent[1].continue_()
    expect(page.locator("#job-live")).to_be_visible()
    assert len(sent) == 2


def test_a_toast_leads_to_another_page_only(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=300)
    job = imports.start()
    elsewhere = page.context.new_page()
    elsewhere.goto("/jobs")
    page.goto(f"/jobs/{job}")
    imports.client.post(f"/api/integrations/historical-sync/jobs/{job}/pause")
    for place, links in ((page, 0), (elsewhere, 1)):
        toast = place.locator("#toasts .toast", has_text="import paused")
        expect(toast).to_be_visible()
        assert toast.get_by_role("link").count() == links
    elsewhere.close()


def test_a_toast_goes_when_the_import_goes_on(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=300)
    job = imports.start()
    page.goto("/jobs")
    imports.client.post(f"/api/integrations/historical-sync/jobs/{job}/pause")
    toast = page.locator("#toasts .toast", has_text="import paused")
    expect(toast).to_be_visible()
    page.locator(f"#job-{job}").get_by_role("button", name="Resume").click()
    expect(page.locator(f"#job-{job}")).to_contain_text("Running")
    expect(toast).to_have_count(0, timeout=3000)


def test_a_toast_above_a_dialog_can_be_dismissed_and_the_dialog_stays(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=300)
    job = imports.start()
    page.goto("/integrations")
    page.locator("#card-github").get_by_role("button", name="Use a token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Token").fill("half a tok")
    imports.client.post(f"/api/integrations/historical-sync/jobs/{job}/cancel")
    toast = page.locator("#toasts .toast", has_text="import cancelled")
    expect(toast).to_be_visible()
    expect(page.locator("#said")).to_contain_text("import cancelled")
    toast.get_by_role("button", name="Dismiss").click()
    expect(toast).to_have_count(0)
    expect(dialog.get_by_label("Token")).to_have_value("half a tok")
    # A selection that ends beside the dialog is no click beside it.
    box = dialog.get_by_label("Token").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(5, 5)
    page.mouse.up()
    expect(dialog.get_by_label("Token")).to_have_value("half a tok")
    page.mouse.click(5, 5)
    expect(dialog).to_have_count(0)


def test_what_a_page_of_a_workspace_asks_that_another_tab_has_left_is_refused_in_words(
    another: Callable[..., Page], site: Up, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("two tabs at once")
    for name in ("Left", "Right"):
        site.manage(
            "create_tenant", name, "--slug", name.lower(), "--plan", "team", "--owner", "tim@tabs.test",
            *(("--password-file", str(tmp_path / "password")) if name == "Left" else ()),
        )  # fmt: skip
    members = another(storage_state=None)
    sign_in(members, site.address, "tim@tabs.test", "two tabs at once")
    members.goto("/settings/members")
    cards, switching = members.context.new_page(), members.context.new_page()
    for page in (cards, switching):
        page.goto("/integrations")
    switching.get_by_role("button", name=re.compile("Workspace and account")).click()
    switching.get_by_role("button", name="Right", exact=True).click()
    expect(switching.locator("body")).not_to_have_attribute(
        "data-workspace", members.locator("body").get_attribute("data-workspace") or ""
    )

    words = "This page is of another workspace, Left, and this browser is in Right by now. Nothing was done. Reload it."
    members.get_by_label("E-mail").fill("eve@new.test")
    members.get_by_role("button", name="Invite").click()
    expect(members.get_by_text(words)).to_be_visible()
    cards.locator("#card-stripe").get_by_role("button", name="Use a token").click()
    expect(cards.locator("#toasts .toast")).to_contain_text(words)
    expect(cards.get_by_role("dialog")).to_have_count(0)

    switching.goto("/settings/members")
    expect(switching.get_by_role("cell", name="tim@tabs.test").first).to_be_visible()
    expect(switching.get_by_role("cell", name="eve@new.test")).to_have_count(0)


def test_focus_goes_on_when_the_pressed_button_is_gone(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=400)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    status(page, "running")
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Enter")
    status(page, "paused")
    expect(page.get_by_role("button", name="Resume")).to_be_focused()


@pytest.mark.parametrize("place", ["newest", "older than the page"])
def test_a_changed_import_takes_its_place_among_the_others(page: Page, site: Up, imports: Imports, place: str) -> None:
    """One from before all that the page shows is no new one."""
    imports.until(imports.start(), "completed")
    site.sandbox(latency_ms=400)
    job = imports.start()
    imports.client.post(f"/api/integrations/historical-sync/jobs/{job}/pause")
    imports.until(job, "paused")
    page.goto("/jobs")
    row = page.locator(f"#job-{job}")
    expect(row).to_contain_text("Paused")
    expect(page.locator("body")).to_have_attribute("data-link", "socket")
    if place != "newest":
        page.evaluate(
            "document.querySelectorAll('#jobs-body tr').forEach(row => { row.dataset.at = '9' + row.dataset.at })"
        )
    page.evaluate("id => document.getElementById(id).remove()", f"job-{job}")
    imports.client.post(f"/api/integrations/historical-sync/jobs/{job}/cancel")
    expect(page.locator("#toasts")).to_contain_text("import cancelled")
    if place == "newest":
        expect(page.locator("#jobs-body tr").first).to_have_id(f"job-{job}")
    else:
        expect(page.locator("#jobs-body tr")).not_to_have_count(0)
        expect(row).to_have_count(0)


def test_what_is_taken_back_or_dismissed_is_said_and_leaves_the_focus_nearby(
    another: Callable[..., Page], site: Up
) -> None:
    owner = ("--owner", "quinn@queue.test", "--password-file", "-")
    made = site.manage("create_tenant", "Queue", "--slug", "queue", "--plan", "team", *owner, input="waits for room")
    assert made.returncode == 0, made.stderr
    done = site.manage("shell", "-c", "from tests.browser.test_dialogs import queue_two; queue_two('queue')")
    assert done.returncode == 0, done.stderr
    page = another(storage_state=None)
    sign_in(page, site.address, "quinn@queue.test", "waits for room")
    page.goto("/jobs")
    waiting = page.locator(".panel-box.waiting")
    waiting.get_by_role("button", name="Take back").press("Enter")
    expect(page.locator("#said")).to_contain_text("It was taken back and will not start.")
    expect(waiting.get_by_role("button", name="Dismiss")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#said p")).to_have_count(2)
    expect(page.locator("#main")).to_be_focused()
    # A toast's: back to where one was.
    page.route(re.compile("/jobs"), lambda route: route.abort())
    chosen = page.get_by_role("combobox", name="Status")
    chosen.select_option("failed")
    toast = page.locator("#toasts .toast", has_text="Atom can't be reached.")
    chosen.focus()
    toast.get_by_role("button", name="Dismiss").press("Enter")
    expect(toast).to_have_count(0)
    expect(chosen).to_be_focused()


def queue_two(slug: str) -> None:
    """Two starts that wait, the second refused, behind as many imports as there may be; for `manage.py shell`."""
    from atom.models import Tenant
    from atom.plans import ACTIVE_JOBS
    from atom.tenancy import tenant_scope
    from historical_sync.automation import QueuedStart
    from tests.graphs import make_connection, make_job

    tenant = Tenant.objects.get(slug=slug)
    with tenant_scope(tenant.id):
        for _ in range(ACTIVE_JOBS):
            make_job(make_connection(tenant, "stripe"), status="paused", pause_reason="user")
        for tool, refused in (("github", False), ("slack", True)):
            connection = make_connection(tenant, tool)
            QueuedStart.objects.create(
                tenant=tenant, connection=connection, reason="Odd.", refused=refused, created_by_label="Quinn"
            )
