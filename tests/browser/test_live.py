"""What moves by itself: sockets that go and come back, slow providers, times."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from playwright.sync_api import APIResponse, Page, Route, WebSocketRoute, expect

from atom.words import day_month_year
from tests.browser.conftest import Imports, picture, sign_in, status
from tests.conftest import wait_for
from tests.processes import Up


def test_polling_takes_over_when_the_socket_goes_and_hands_back_when_it_returns(
    page: Page, site: Up, imports: Imports
) -> None:
    open_sockets: list[WebSocketRoute] = []
    down = False

    def route(socket: WebSocketRoute) -> None:
        if down:
            socket.close()
            return
        open_sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket(re.compile("/ws/"), route)
    site.sandbox(latency_ms=500)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    status(page, "running")
    expect(page.locator("#link-state")).to_be_hidden()

    down = True
    for socket in open_sockets:
        socket.close()
    expect(page.locator("#link-state")).to_be_visible(timeout=5000)
    with page.expect_response(re.compile(f"/jobs/{job}/live"), timeout=7000):
        pass
    picture(page, "socket-down")
    revision = page.locator("#job-live").get_attribute("data-revision")
    expect(page.locator("#job-live")).not_to_have_attribute("data-revision", revision or "", timeout=15_000)

    down = False
    expect(page.locator("#link-state")).to_be_hidden(timeout=30_000)
    site.sandbox(reset=True)
    status(page, "completed")
    expect(page.locator("#toasts").get_by_text("GitHub import completed.")).to_have_count(1)


def test_what_a_tab_was_told_is_not_told_again_by_back_nor_by_a_page_that_was_made_before_it_happened(
    page: Page, site: Up, imports: Imports
) -> None:
    site.sandbox(latency_ms=300)
    page.goto("/schedules")
    page.goto("/integrations")
    job = imports.start()
    before = page.request.get(f"/jobs/{job}").text()
    assert 'data-status="completed"' not in before
    site.sandbox(reset=True)
    toast = page.locator("#toasts").get_by_text("GitHub import completed.")
    expect(toast).to_have_count(1, timeout=60_000)

    page.route(re.compile(f"/jobs/{job}$"), lambda route: route.fulfill(body=before, content_type="text/html"))
    with page.expect_response(re.compile(r"/live\?since")) as told:  # such a page of Playwright's has no sockets
        page.goto(f"/jobs/{job}")
    assert "GitHub import completed." in told.value.text()
    page.wait_for_timeout(300)
    assert toast.count() == 0
    page.unroute_all()  # with routes there is no cache
    for _ in range(2):
        page.go_back()
        expect(page.locator("body")).to_have_attribute("data-link", "socket")
        page.wait_for_timeout(500)  # what the server tells when a socket opens
        assert toast.count() == 0


def test_a_browser_that_goes_offline_says_so_at_once_and_comes_back_by_itself(page: Page, imports: Imports) -> None:
    down = False
    page.route_web_socket(re.compile("/ws/"), lambda socket: socket.close() if down else socket.connect_to_server())
    page.goto("/integrations")
    expect(page.locator("body")).to_have_attribute("data-link", "socket")
    down = True  # going offline cuts no socket that is open: nobody says that it is dead
    page.context.set_offline(True)
    expect(page.locator("#link-state")).to_be_visible()
    down = False
    page.context.set_offline(False)
    expect(page.locator("#link-state")).to_be_hidden()
    job = imports.start()
    expect(page.locator("#toasts").get_by_text("GitHub import completed.")).to_be_visible(timeout=60_000)
    imports.until(job, "completed")


def test_an_answer_that_the_socket_has_overtaken_leaves_the_indicator_as_it_is(
    page: Page, site: Up, imports: Imports
) -> None:
    down = True
    page.route_web_socket(re.compile("/ws/"), lambda socket: socket.close() if down else socket.connect_to_server())
    held: list[tuple[Route, APIResponse]] = []
    page.route(re.compile(r"/live\?since"), lambda route: held.append((route, route.fetch())))
    site.sandbox(latency_ms=400)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    wait_for(lambda: page.wait_for_timeout(50) or held, 20)
    down = False
    expect(page.locator("#link-state")).to_be_hidden(timeout=20_000)
    imports.client.post(f"/api/integrations/historical-sync/jobs/{job}/cancel")
    status(page, "cancelled")
    indicator = page.locator("#running-indicator")
    expect(indicator).to_be_empty()
    page.wait_for_timeout(1000)  # the worker, too, has said what it has to say
    ((route, answer),) = held
    assert "importing" in answer.text(), "as it was when it was asked"
    with page.expect_response(re.compile(r"/live\?since")):
        route.fulfill(response=answer)
    page.wait_for_timeout(300)
    expect(indicator).to_be_empty(timeout=1)


@pytest.mark.parametrize("place", ["imports", "cards"])
def test_a_list_that_arrives_after_the_news_of_an_end_shows_the_end(
    page: Page, site: Up, imports: Imports, place: str
) -> None:
    asked, where = (r"/jobs\?status=", "/jobs") if place == "imports" else (r"/integrations\?q=", "/integrations")
    held: list[tuple[Route, APIResponse]] = []
    page.route(re.compile(asked), lambda route: held.append((route, route.fetch())))
    site.sandbox(latency_ms=400)
    job = imports.start()
    page.goto(where)
    shown = page.locator(f"#job-{job}" if place == "imports" else "#card-github .card-live").first
    expect(shown.locator("progress")).to_be_visible()
    if place == "imports":
        page.locator("select[name=sort]").select_option("oldest")
    else:
        page.get_by_role("searchbox").press_sequentially("github")
    wait_for(lambda: page.wait_for_timeout(50) or held, 20)
    imports.client.post(f"/api/integrations/historical-sync/jobs/{job}/cancel")
    expect(shown.locator("progress")).to_have_count(0)
    page.wait_for_timeout(1000)  # the worker, too, has said what it has to say
    ((route, answer),) = held
    with page.expect_response(re.compile(asked)):
        route.fulfill(response=answer)
    page.wait_for_timeout(300)
    expect(shown.locator("progress")).to_have_count(0, timeout=1)


def test_a_slow_provider_is_shown_as_being_asked_and_the_seconds_count(page: Page, site: Up, imports: Imports) -> None:
    job = imports.start()
    imports.until(job, "completed")
    site.sandbox(latency_ms=6000)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    pulse = page.locator("#job-pulse")
    expect(pulse).to_have_text(re.compile(r"^Asking GitHub .+, \d+ s$"))
    said = pulse.inner_text()
    expect(pulse).not_to_have_text(said, timeout=3000)
    picture(page, "slow")


def test_waiting_for_a_limit_is_shown_as_waiting_with_its_time(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(rate_limit_every=1, retry_after=6)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    expect(page.locator("#job-phase")).to_have_text(re.compile(r"Waiting for GitHub's limit until \d\d:\d\d"))
    expect(page.locator("#job-pulse")).to_contain_text("It goes on by itself.")
    expect(page.locator("#figure-left")).to_have_text("–")
    picture(page, "waiting")


def test_times_are_the_viewers_and_exact_on_hover(another: Callable[..., Page], imports: Imports) -> None:
    job = imports.start()
    imports.until(job, "completed")
    ended = r"(?P<day>\d+ \w+)(?P<year> \d{4})?, (?P<hour>\d\d):(?P<minute>\d\d)"
    shown = {}
    for zone, script in (("UTC", True), ("Asia/Kolkata", True), ("America/New_York", False)):
        page = another(timezone_id=zone, java_script_enabled=script)
        page.goto(f"/jobs/{job}")
        element = page.locator("#job-pulse time")
        if script:
            expect(element).to_have_attribute("title", re.compile("UTC$" if zone == "UTC" else r"GMT\+5:30$"))
        else:
            expect(element).to_have_attribute("title", re.compile("UTC$"))
            expect(element).to_have_text(re.compile("UTC$"))
        found = re.search(ended, element.inner_text())
        assert found is not None, element.inner_text()
        shown[zone] = int(found["hour"]) * 60 + int(found["minute"])
    assert (shown["Asia/Kolkata"] - shown["UTC"]) % 1440 == 330
    assert shown["America/New_York"] == shown["UTC"], "without scripts it is UTC, and says so"


def test_scripts_write_months_as_the_server_does(page: Page) -> None:
    page.goto("/integrations")
    written = page.evaluate(
        """async () => {
            const { localise } = await import("/static/atom/times.js");
            const place = document.createElement("p");
            const months = Array.from({ length: 12 }, (_, month) => String(month + 1).padStart(2, "0"));
            place.innerHTML = months.map((month) => `<time datetime="2025-${month}-15T12:00:00Z" data-as="ago"></time>`).join("");
            localise(place);
            return [...place.children].map((time) => [time.textContent, time.title]);
        }"""
    )
    for month, (words, hover) in enumerate(written, 1):
        assert words == day_month_year(date(2025, month, 15))
        assert hover.startswith(words)


def test_nothing_jumps_while_an_import_runs(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=200)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    page.evaluate(
        """() => {
            window.shift = 0;
            new PerformanceObserver((list) => list.getEntries().forEach((entry) => { window.shift += entry.value; }))
                .observe({type: "layout-shift", buffered: false});
        }"""
    )
    expect(page.locator(".map-row").first).to_be_visible()
    page.evaluate("window.shift = 0")  # the map came: below everything else
    status(page, "completed")
    assert page.evaluate("window.shift") < 0.02


def test_what_sums_imports_up_follows_them(
    page: Page, another: Callable[..., Page], site: Up, imports: Imports
) -> None:
    site.sandbox(latency_ms=400)
    job = imports.start()
    connection = imports.job(job)["connection_id"]
    calendar, analytics = another(), another()
    page.goto("/coverage")
    calendar.goto(f"/coverage/{connection}")
    analytics.goto("/analytics")
    panels = [shown.locator(f"#coverage-{connection}") for shown in (page, calendar)]
    for panel in panels:
        expect(panel).to_contain_text("Import under way")
    ended = analytics.locator(".figures div", has_text="Imports ended").locator("dd").first
    before = int(ended.inner_text())
    stream = calendar.locator("details.map-stream").first
    stream.locator("summary").click()
    imports.client.post(f"/api/integrations/historical-sync/jobs/{job}/cancel")
    imports.until(job, "cancelled")
    for panel in panels:
        expect(panel).not_to_contain_text("Import under way")
    expect(ended).to_have_text(str(before + 1))
    expect(stream).to_have_attribute("open", "")


def test_who_waits_at_an_empty_explorer_sees_the_first_import_come_in(
    another: Callable[..., Page], site: Up, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("as new as a nova")
    site.manage(
        "create_tenant", "Nova", "--slug", "nova", "--plan", "free", "--owner", "nora@nova.test",
        "--password-file", str(tmp_path / "password"),
    )  # fmt: skip
    page = another(storage_state=None)
    sign_in(page, site.address, "nora@nova.test", "as new as a nova")
    explorer = page.context.new_page()
    explorer.goto("/entities")
    expect(explorer.get_by_role("link", name="Connect a tool")).to_be_visible()
    explorer.evaluate("window.same = true")
    page.locator("#card-github").get_by_role("button", name="Connect", exact=True).click()
    page.get_by_role("button", name="Allow").click()
    page.get_by_role("button", name="Start Historical Sync").click()
    status(page, "completed")
    expect(explorer.locator("#entities-list tbody tr").first).to_be_visible()
    expect(explorer.locator(".title .num")).not_to_have_text("0")
    expect(explorer.locator("select[name=kind] option")).not_to_have_count(1)
    assert explorer.evaluate("window.same")


def test_parts_of_a_stream_unfold_and_stay_unfolded(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=300)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    issues = page.locator("details[data-stream=issues]")
    issues.locator("summary").click()
    expect(issues.locator(".map-parts .map-row").first).to_contain_text("/")
    site.sandbox(reset=True)
    status(page, "completed")
    expect(page.locator(".map-count").first).to_have_text("1/1")
    expect(issues).to_have_attribute("open", "")
    expect(issues.locator(".map-parts .cell.completed").first).to_be_visible()


def test_the_published_client_follows_a_job_to_its_end(page: Page, imports: Imports) -> None:
    page.goto("/integrations")
    found = page.evaluate(
        """async () => {
            const client = await import("/static/historical_sync/client.js");
            const { job_id, job } = await client.startHistoricalSync("github", { full: true });
            const seen = [];
            const end = await new Promise((resolve) =>
                client.subscribeToProgress(job_id, { onProgress: (now) => seen.push(now.progress_percentage), onEnd: resolve }));
            const listed = await client.listSyncJobs("github", { status: "completed" });
            const again = await client.getJobStatus(job_id);
            const refused = await client.cancelSyncJob(job_id).catch((error) => [error.status, error.code, error.detail]);
            return { first: job.status, seen, end: end.status, listed: listed.results[0].id === job_id, again: again.status, refused };
        }"""
    )
    assert found["seen"] == sorted(found["seen"])
    assert (found["end"], found["again"], found["listed"]) == ("completed", "completed", True)
    assert found["refused"] == [409, "invalid_state", "This import is completed; it can't be cancelled now."]


def test_a_clock_that_is_put_back_stops_nothing_on_a_page(page: Page, site: Up, imports: Imports) -> None:
    site.sandbox(latency_ms=500)
    job = imports.start()
    page.goto(f"/jobs/{job}")
    status(page, "running")
    with page.expect_response(re.compile(f"/jobs/{job}/detail"), timeout=15_000) as first:
        pass
    first.value.finished()
    page.evaluate("() => { const now = Date.now; Date.now = () => now() - 3_600_000; }")
    with page.expect_response(re.compile(f"/jobs/{job}/detail"), timeout=15_000):
        pass
    site.sandbox(reset=True)
