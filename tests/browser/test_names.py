"""Names that others chose: however long, in one word, of any script, they push nothing out of sight."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page

from tests.browser.conftest import picture, sign_in
from tests.processes import Up

WORD = "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft"
NAME = "שרה" + "כהן" * 30  # what follows it shall not be drawn into it
OWNER = f"{'a' * 60}@{'c' * 60}.{'d' * 60}.test"
PASSWORD = "steamers are slow"
WIDTHS = (1440, 1024, 768, 390, 320)
PAGES = {
    "integrations": "/integrations", "jobs": "/jobs", "schedules": "/schedules", "coverage": "/coverage", "entities": "/entities",
    "analytics": "/analytics", "settings": "/settings", "members": "/settings/members", "keys": "/settings/keys",
    "webhooks": "/settings/webhooks", "audit": "/settings/audit", "notifications": "/settings/notifications",
    "job": "/jobs/{job}?open=issues", "failed": "/jobs/{failed}", "coverage-one": "/coverage/{connection}", "entity": "/entities/{entity}",
    "prompt": "/connections/{connection}/import", "disconnect": "/connections/{connection}/disconnect",
    "remove": "/settings/members/{member}",
}  # fmt: skip


def make(slug: str) -> None:
    """Fills the tenant; for `manage.py shell`. Prints the ids for `PAGES`."""
    from atom.models import ApiKey, AuditEvent, Membership, Tenant, User
    from atom.tenancy import across_tenants, tenant_scope
    from historical_sync import states
    from historical_sync.automation import Delivery, Notice, QueuedStart, WebhookEndpoint
    from historical_sync.models import Entity, JobEvent, QuarantinedRecord, SyncChunk, SyncSchedule
    from historical_sync.searching import EntityName
    from integrations.crypto import encrypt
    from tests.graphs import make_connection, make_job

    now = timezone.now()
    tenant = Tenant.objects.get(slug=slug)
    with across_tenants("a browser's test"):
        owner = User.objects.get(email=OWNER)
        owner.name = NAME
        owner.save()
        other = User.objects.create_user(f"x@{'l' * 60}.test", name=WORD)
        member = Membership.objects.create(tenant=tenant, user=other, role="admin")
    with tenant_scope(tenant.id):
        github, slack = make_connection(tenant), make_connection(tenant, "slack")
        github.account_label, slack.account_label = (WORD * 3)[:200], "🚀" * 60
        slack.status, slack.last_error = "reauth_required", WORD * 4
        github.created_by = slack.created_by = other
        github.save()
        slack.save()
        ApiKey.objects.create_key(tenant=tenant, name="k" * 50, role="member", created_by=other)
        ended = {"started_at": now - timedelta(minutes=9), "completed_at": now, "created_by_label": NAME}
        job = make_job(github, status=states.COMPLETED, records_quarantined=2, **ended)
        failed = make_job(slack, status=states.FAILED, last_error_message=WORD * 8, **ended)
        chunk = SyncChunk.objects.create(
            tenant=tenant, job=job, ordinal=0, stream="issues", partition=WORD, partition_label=WORD, since=job.start_date,
            until=job.end_date, status="completed",
        )  # fmt: skip
        for named, reason in (("x" * 512, WORD * 9), ("🦄" * 99, "y" * 400)):
            QuarantinedRecord.objects.create(
                tenant=tenant, connection=github, job=job, chunk=chunk, stream="issues", external_id=named, reason=reason,
                fingerprint=uuid.uuid4(), sealed_payload=encrypt("{}"),
            )  # fmt: skip
        JobEvent.objects.create(tenant=tenant, job=failed, actor=NAME, kind="failed", detail=WORD * 6)
        entity = Entity.objects.create(
            id=uuid.uuid4(), tenant=tenant, kind="issue", key=WORD, name=WORD * 6, properties={WORD: WORD, "url": f"https://x.test/{WORD}"},
            as_of=now,
        )  # fmt: skip
        EntityName.objects.create(
            tenant=tenant, entity_id=entity.id, name=entity.name, kind="issue", thing_id=entity.id
        )
        hook = WebhookEndpoint.objects.create(
            tenant=tenant, url=f"https://hooks.test/{'q' * 400}", events=["failed"], sealed_secret=encrypt("whsec_c2VjcmV0"),
            created_by_label=NAME, created_at=now - timedelta(hours=3), failing_since=now - timedelta(hours=3),
        )  # fmt: skip
        notice = Notice.objects.create(
            tenant=tenant, job=job, revision=9, event="completed", snapshot={}, spread_at=now
        )
        Delivery.objects.create(
            tenant=tenant, notice=notice, endpoint=hook, status="failed", attempts=9, response_code=500, last_attempt_at=now,
            next_attempt_at=None, detail=WORD * 3,
        )  # fmt: skip
        ApiKey.objects.create_key(tenant=tenant, name="k" * 50, role="member", created_by=owner)
        AuditEvent.objects.create(tenant=tenant, actor=NAME, action="member.role", subject=OWNER, detail=WORD * 3)
        SyncSchedule.objects.create(
            tenant=tenant, connection=github, interval=timedelta(days=1), next_run_at=now + timedelta(days=1),
            last_result="refused", last_run_at=now, last_detail=WORD * 3,
        )  # fmt: skip
        QueuedStart.objects.create(
            tenant=tenant, connection=slack, reason=WORD * 3, refused=True, created_by_label=NAME, created_at=now - timedelta(hours=3)
        )  # fmt: skip
    print("made", job.id, failed.id, github.id, entity.id, member.id)


@pytest.fixture(scope="module")
def places(site: Up) -> dict[str, str]:
    name = f"🦄{NAME[:40]}{WORD}"
    owner = ("--owner", OWNER, "--password-file", "-")
    site.manage("create_tenant", name, "--slug", "long", "--plan", "team", *owner, input=PASSWORD)
    done = site.manage("shell", "-c", "from tests.browser.test_names import make; make('long')")
    assert "made " in done.stdout, done.stderr
    ids = done.stdout.split("made ", 1)[1].split()
    return dict(zip(("job", "failed", "connection", "entity", "member"), ids, strict=True))


@pytest.fixture(scope="module")
def window(site: Up, browser: Browser, places: dict[str, str]) -> Page:
    page = browser.new_context(base_url=site.address, reduced_motion="reduce").new_page()
    sign_in(page, site.address, OWNER, PASSWORD)
    return page


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_pushed_out_of_sight(window: Page, places: dict[str, str], name: str) -> None:
    window.goto(PAGES[name].format(**places))
    for width in WIDTHS:
        window.set_viewport_size({"width": width, "height": 900})
        picture(window, f"names-{name}-{width}")
        assert window.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways at {width}"
    for width in (1440, 390):  # at a desk, and where tables are cards
        window.set_viewport_size({"width": width, "height": 900})
        wide = "[...document.querySelectorAll('.scroll:has(.cards-on-phone, .rows-link)')].map((e) => e.scrollWidth - e.clientWidth)"
        assert all(more <= 1 for more in window.evaluate(wide)), f"a table of {name} scrolls sideways at {width}"


def test_what_follows_a_name_from_right_to_left_stays_in_order(window: Page) -> None:
    """3 h ago: not the name between 3 and h."""
    for path, place in (("/settings/webhooks", ".panel-box"), ("/jobs", "[id^=queued-]")):
        window.goto(path)
        assert window.locator(place).first.locator("time").last.evaluate("time => time.getClientRects().length") == 1


def test_words_of_a_few_letters_are_never_broken_for_them(window: Page) -> None:
    window.set_viewport_size({"width": 1440, "height": 900})
    window.goto("/settings/webhooks")
    assert window.locator("td code").first.evaluate("code => code.getClientRects().length") == 1
