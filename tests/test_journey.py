"""The main job, as a person does it: from an empty folder to a tool's history on the screen. The first thing to read."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.conftest import free_port
from tests.processes import PROJECT, Up

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("journey")]
PICTURES = PROJECT / "test-artifacts"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One command in an empty folder."""
    up = Up(tmp_path_factory.mktemp("atom"), free_port(), anew=True)
    up.sandbox(latency_ms=150)  # of a provider as they are, so that there is progress to see
    yield up
    up.stop()


def picture(page: Page, name: str) -> None:
    page.screenshot(path=PICTURES / f"journey-{name}.png")


def sign_in(page: Page, up: Up) -> None:
    page.goto(up.address)
    page.get_by_label("E-mail").fill("alice@acme.test")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Integrations")).to_be_visible()


def connect(page: Page, provider: str) -> None:
    """The OAuth trip: to the provider's page of consent and back."""
    card = page.locator(f"#card-{provider}")
    card.get_by_role("button", name="Connect", exact=True).click()
    expect(page).to_have_url(re.compile(f"/sandbox/{provider}/"))
    picture(page, f"{provider}-consent")
    page.get_by_role("button", name="Allow").click()
    expect(page).to_have_url(re.compile(r"/integrations\?connected="))
    expect(card.get_by_text("Connected", exact=True)).to_be_visible()


def start(page: Page, provider: str) -> None:
    """The offer opens by itself and is taken."""
    came = time.monotonic()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=f"Bring in {provider}'s history")).to_be_visible()
    assert time.monotonic() - came > 0.5, "it opens a second after the page, not with it"
    expect(dialog.get_by_role("listitem")).to_have_count(3)
    expect(dialog.get_by_role("button", name="3 months", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(dialog.locator("#estimate")).to_contain_text(re.compile(r"\d"))
    picture(page, f"{provider.lower()}-prompt")
    dialog.get_by_role("button", name="Start Historical Sync").click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))


def shown(page: Page, figure: str) -> int:
    return int(page.locator(f"#figure-{figure}").inner_text().replace(",", ""))


def watch_to_the_end(page: Page, provider: str) -> list[int]:
    """The percentages that the monitor went through, without the page being loaded again."""
    page.evaluate("window.sameDocument = true")
    page.evaluate(
        """() => {
            window.percentages = [];
            const note = () => {
                const now = document.getElementById("job-bar").value;
                if (now !== window.percentages.at(-1)) window.percentages.push(now);
            };
            note();
            new MutationObserver(note).observe(document.getElementById("main"), {subtree: true, attributes: true, childList: true});
        }"""
    )
    expect(page.locator("#job-live")).to_have_attribute("data-status", "running")
    expect(page.locator("#figure-records")).not_to_have_text("0")
    picture(page, f"{provider.lower()}-running")
    toast = page.locator("#toasts").get_by_text(f"{provider} import completed.")
    expect(toast).to_be_visible(timeout=60_000)
    expect(page.locator("#job-live")).to_have_attribute("data-status", "completed")
    expect(page.locator("#job-bar")).to_have_attribute("value", "100")
    assert page.evaluate("window.sameDocument") is True
    picture(page, f"{provider.lower()}-completed")
    return list(page.evaluate("window.percentages"))


def find_in_the_table(page: Page, provider: str) -> None:
    records = page.locator("#figure-records").inner_text()
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Imports").click()
    row = page.locator("#jobs-body tr").filter(has_text=provider)
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Completed")
    expect(row).to_contain_text(records)
    expect(row).to_contain_text("Alice")
    picture(page, f"{provider.lower()}-table")


def test_connect_import_watch_and_find_it_again(page: Page, fresh: Up) -> None:
    sockets: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda _: sockets.append(socket.url)))
    sign_in(page, fresh)
    connect(page, "github")
    start(page, "GitHub")

    percentages = watch_to_the_end(page, "GitHub")
    assert len(percentages) > 3, "the bar moved while it was watched"
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100
    assert len([url for url in sockets if "/ws/pages/jobs/" in url]) > 3, "by the socket"
    expect(page.locator("#link-state")).to_be_hidden()
    assert shown(page, "records") > 50
    assert shown(page, "entities") > 50
    assert shown(page, "relationships") > 50
    find_in_the_table(page, "GitHub")

    # What came in can be found, and leads on.
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Explorer").click()
    page.get_by_label("Kind").select_option("issue")
    rows = page.locator("#entities-list tbody tr")
    expect(rows.filter(has_not=page.locator(".kind-cell").get_by_text("issue", exact=True))).to_have_count(0)
    rows.first.get_by_role("link").click()
    expect(page.get_by_role("link", name="Issues", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="Links")).to_be_visible()
    expect(page.get_by_text("part of", exact=False).first).to_be_visible()
    picture(page, "entity")


def test_the_same_without_sockets(page: Page, fresh: Up) -> None:
    """A proxy that lets no WebSocket through: pages poll, and say so quietly."""
    refused: list[WebSocketRoute] = []

    def refuse(route: WebSocketRoute) -> None:
        refused.append(route)
        route.close()

    page.route_web_socket(re.compile("/ws/"), refuse)
    sign_in(page, fresh)
    connect(page, "salesforce")
    start(page, "Salesforce")
    expect(page.locator("#link-state")).to_be_visible()
    expect(page.locator("#link-state")).to_contain_text("5 s")

    percentages = watch_to_the_end(page, "Salesforce")
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100
    assert refused
    find_in_the_table(page, "Salesforce")


def test_a_second_import_of_the_same_range_brings_nothing_and_says_so(page: Page, fresh: Up) -> None:
    sign_in(page, fresh)
    if page.locator("#card-github").get_by_role("button", name="Connect", exact=True).is_visible():
        connect(page, "github")
        start(page, "GitHub")
        expect(page.locator("#job-live")).to_have_attribute("data-status", "completed", timeout=60_000)
        page.goto(f"{fresh.address}/integrations")
    page.locator("#card-github").get_by_role("button", name="Sync History").click()
    page.get_by_role("button", name="Start Historical Sync").click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    expect(page.locator("#job-live")).to_have_attribute("data-status", "completed", timeout=60_000)
    expect(page.locator("#job-phase")).to_have_text(re.compile("nothing", re.IGNORECASE))
    assert shown(page, "records") == 0


def test_pictures_are_not_committed() -> None:
    assert "test-artifacts/" in Path(PROJECT, ".gitignore").read_text().splitlines()
