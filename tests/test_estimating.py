"""What an import would bring, as people are told before they start it."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone
from psycopg.types.range import Range

from atom.access import system_actor
from atom.tenancy import tenant_scope
from historical_sync import actions, targeting
from historical_sync.estimating import RangeEstimate, estimate
from historical_sync.models import Coverage
from integrations.models import Connection
from tests.conftest import Sandbox, Worker, connected, until
from tests.graphs import make_connection, make_job

START = datetime(2025, 1, 1, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def here(connection: Connection, stream: str, *spans: tuple[datetime, datetime]) -> None:
    """The connection has these spans of the stream."""
    with tenant_scope(connection.tenant_id):
        Coverage.objects.update_or_create(
            tenant_id=connection.tenant_id, connection=connection, stream=stream,
            defaults={"ranges": [Range(*span) for span in spans]},
        )  # fmt: skip


def estimated(connection: Connection, *streams: str) -> RangeEstimate:
    with tenant_scope(connection.tenant_id):
        return estimate(
            system_actor(connection.tenant, "test"), connection, start=START, end=None, streams=streams or None
        )


def said(client: Any, path: str) -> str:
    """The words of a fragment."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(client.get(path).content.decode())).split())


def count(sandbox: Sandbox, slug: str, stream: str, since: datetime, until: datetime) -> int:
    return sandbox.truth(slug, since=since.isoformat(), until=until.isoformat())[stream]


def test_what_lies_between_two_holes_is_here_and_is_not_counted(
    live_cast: SimpleNamespace, worker: Worker, sandbox: Sandbox
) -> None:
    connection = connected(live_cast.acme, "hubspot", sandbox.root)
    now = timezone.now()
    first, last = START + timedelta(days=120), now - timedelta(days=20)
    here(connection, "contacts", (first, last))
    missing = count(sandbox, "hubspot", "contacts", START, first) + count(sandbox, "hubspot", "contacts", last, now)
    assert 0 < missing < count(sandbox, "hubspot", "contacts", START, now)
    assert (estimated(connection, "contacts").records, estimated(connection, "contacts").quality) == (missing, "exact")
    with tenant_scope(live_cast.acme.id):
        actor = system_actor(live_cast.acme, "test")
        job = until(actions.start_sync(actor, connection, start=START, streams=["contacts"]), "completed")
    assert (job.total_records_estimate, job.records_processed, job.records_skipped) == (missing, missing, 0)


def test_more_holes_than_are_counted_one_by_one_take_their_share_of_the_time(
    live_cast: SimpleNamespace, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targeting, "COUNTS_AT_MOST", 2)
    connection = connected(live_cast.acme, "hubspot", sandbox.root)
    now = timezone.now()
    quarter = (now - START) / 4
    here(connection, "contacts", *[(START + quarter * i, START + quarter * i + quarter / 2) for i in range(1, 4)])
    found = estimated(connection, "contacts")
    whole = count(sandbox, "hubspot", "contacts", START, now)
    assert found.records == pytest.approx(whole * 5 / 8, abs=2)
    assert found.quality == "about"


def test_what_an_import_that_just_ended_could_not_bring_is_no_missing_history(
    live_cast: SimpleNamespace, worker: Worker, sandbox: Sandbox, signed_in: Any
) -> None:
    """Its newest minutes had not settled."""
    connection = connected(live_cast.acme, "github", sandbox.root)
    with tenant_scope(live_cast.acme.id):
        until(
            actions.start_sync(system_actor(live_cast.acme, "test"), connection, start=START), "completed", seconds=60
        )
    assert estimated(connection) == RangeEstimate(0, "exact", 0, 0.0, covered=True)
    path = f"/connections/{connection.id}/import/estimate?start={START.date()}&streams=issues"
    assert "Everything in this range is here already." in signed_in(live_cast.bob).get(path).content.decode()


def test_who_reads_all_again_is_told_how_much_that_is(
    live_cast: SimpleNamespace, sandbox: Sandbox, signed_in: Any
) -> None:
    connection = connected(live_cast.acme, "hubspot", sandbox.root)
    client, offer = signed_in(live_cast.alice), f"/connections/{connection.id}/import"
    assert "Read what is here already again" not in said(client, offer), "nothing is here yet"
    here(connection, "contacts", (START, timezone.now()))
    assert "Read what is here already again" in said(client, offer)
    chosen = f"start={START.date()}&streams=contacts"
    assert "Everything in this range is here already." in said(client, f"{offer}/estimate?{chosen}")
    records = count(sandbox, "hubspot", "contacts", START, timezone.now())
    assert f"Records {records} exact" in said(client, f"{offer}/estimate?{chosen}&full=1")
    client.post(offer, {"start": START.date(), "streams": "contacts", "full": "1"})
    with tenant_scope(live_cast.acme.id):
        assert actions.jobs_of(live_cast.acme).get().full


def test_to_read_all_again_is_chosen_still_after_the_parts_were(
    live_cast: SimpleNamespace, sandbox: Sandbox, signed_in: Any
) -> None:
    connection = connected(live_cast.acme, "github", sandbox.root)
    here(connection, "issues", (START, timezone.now()))
    client, path = signed_in(live_cast.alice), f"/connections/{connection.id}"
    assert "already again, and find what was deleted in GitHub" in said(client, f"{path}/import")
    box = '<input type="checkbox" name="full" value="1" checked>'
    assert box not in client.get(f"{path}/import").content.decode()
    assert box in client.get(f"{path}/import?full=1").content.decode()
    assert '<input type="hidden" name="full" value="1">' in client.get(f"{path}/parts?full=1").content.decode()


@pytest.mark.parametrize(
    ("spans", "covered"),
    [
        ([(None, 59 * MINUTE)], True),
        ([(None, 61 * MINUTE)], False),
        ([(None, 9 * DAY), (8 * DAY, 5 * MINUTE)], False),
        ([(300 * DAY, 5 * MINUTE)], False),
        ([], False),
    ],
)
def test_only_what_is_here_but_for_the_last_minutes_counts_as_here(
    live_cast: SimpleNamespace, sandbox: Sandbox, spans: list[tuple[timedelta | None, timedelta]], covered: bool
) -> None:
    """Spans as times ago; None: from the range's beginning."""
    connection = connected(live_cast.acme, "hubspot", sandbox.root)
    now = timezone.now()
    here(connection, "contacts", *[(START if since is None else now - since, now - end) for since, end in spans])
    assert estimated(connection, "contacts").covered is covered


def test_what_can_not_be_counted_is_named_and_the_rest_is_the_least_there_is(
    live_cast: SimpleNamespace, sandbox: Sandbox, signed_in: Any
) -> None:
    jira, stripe = (connected(live_cast.acme, slug, sandbox.root) for slug in ("jira", "stripe"))
    found = estimated(jira, "issues", "comments", "worklogs", "changes")
    assert (found.quality, found.partly) == ("about", True)
    assert found.uncounted == ("Comments", "Work logged", "Changes")
    client, chosen = signed_in(live_cast.bob), f"start={START.date()}&streams=issues"
    path = f"/connections/{jira.id}/import/estimate?{chosen}"
    assert f"Records {found.records} about" in said(client, path)
    some = said(client, f"{path}&streams=comments&streams=worklogs&streams=changes")
    assert f"Records {found.records} at least" in some
    assert "Comments, work logged and changes can't be counted beforehand and come on top." in some
    both = said(client, f"/integrations/sync-selected/estimate?connection={jira.id}&connection={stripe.id}&{chosen}")
    assert re.search(r"Records \d+ at least Provider calls \d+ at least", both)
    assert "people, comments, work logged and changes can't be counted beforehand" in both


@pytest.mark.parametrize(
    ("streams", "words"), [(["issues"], "of about 193"), (["issues", "comments"], "of at least 193")]
)
def test_a_running_import_says_whether_its_estimate_is_the_least(
    cast: SimpleNamespace, signed_in: Any, streams: list[str], words: str
) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(
            make_connection(cast.acme, "jira"), status="running", planned=True, streams=streams,
            total_records_estimate=193, estimate_quality="about",
        )  # fmt: skip
    assert words in said(signed_in(cast.vera), f"/jobs/{job.id}/live")
