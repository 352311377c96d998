"""A real repository's issues, as GitHub once answered: every record comes in, none twice, whatever goes wrong on the way."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from django.core.management import call_command

from atom.tenancy import tenant_scope
from historical_sync.models import Entity, JobEvent, QuarantinedRecord, Relationship, SyncRecord
from integrations.models import Connection

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("recording")]

EVERYTHING = ("--since", "2009-01-01")


@pytest.fixture
def replay(recording: str) -> Any:
    """The recording in order, with its switches: replay.control(error_every=5)."""

    def control(**settings: Any) -> None:
        assert httpx2.post(f"{recording}/__control", json=settings).status_code == 200

    control(reset=True)
    yield SimpleNamespace(
        root=recording,
        control=control,
        truth=httpx2.get(f"{recording}/__truth").json(),
        log=lambda: httpx2.get(f"{recording}/__log").json(),
    )
    control(reset=True)


@pytest.fixture(scope="session")
def rows(recording: str) -> list[dict[str, Any]]:
    return list(json.loads(Path(os.environ["ATOM_REALDATA"], "github.json").read_text())["issues"])


def connect(replay: Any) -> Connection:
    """manage.py connect github --tenant acme --token ... --base-url ..."""
    out = io.StringIO()
    call_command("connect", "github", tenant="acme", token="ghp_anything", base_url=replay.root, stdout=out)
    with tenant_scope(_acme().id):
        return Connection.objects.get(id=out.getvalue().strip())


def _acme() -> Any:
    from atom.models import Tenant

    return Tenant.objects.get(slug="acme")


def sync(connection: Connection, *arguments: str, expect: int = 0) -> dict[str, Any]:
    """manage.py sync_history CONNECTION ... --wait --json: the job."""
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("sync_history", str(connection.id), *arguments, "--wait", "--json", stdout=out)
    job = dict(json.loads(out.getvalue()))
    assert ended.value.code == expect, job
    return job


def stored(connection: Connection) -> dict[str, dict[str, Any]]:
    """stream -> {external id: payload} of what is in the database."""
    found: dict[str, dict[str, Any]] = {}
    with tenant_scope(connection.tenant_id):
        for record in SyncRecord.objects.filter(connection=connection):
            found.setdefault(record.stream, {})[record.external_id] = record.payload
    return found


def entity_counts(connection: Connection) -> Counter[str]:
    with tenant_scope(connection.tenant_id):
        return Counter(Entity.objects.filter(merged_into=None).values_list("kind", flat=True))


def assert_whole(connection: Connection, replay: Any) -> None:
    """The database holds what the recording's own truth says, no more and no less."""
    truth, found = replay.truth, stored(connection)
    assert sorted(payload["number"] for payload in found["issues"].values()) == truth["numbers"]
    assert len(found["issues"]) == truth["issues_and_pull_requests"]
    assert len(found["pull_requests"]) == truth["pull_requests"]
    assert sum(payload["state"] == "open" for payload in found["issues"].values()) == truth["open"]
    assert set(found) == {"issues", "pull_requests", "repositories"}, "comments and commits were not recorded"
    counts = entity_counts(connection)
    for kind, name in {
        "issue": "issues",
        "pull_request": "pull_requests",
        "person": "people",
        "label": "labels",
        "milestone": "milestones",
    }.items():
        assert counts[kind] == truth[name], kind
    assert counts["repository"] == 1


def test_everything_comes_in_and_is_linked(
    live_cast: Any, worker: Any, replay: Any, rows: list[dict[str, Any]]
) -> None:
    connection = connect(replay)
    assert connection.account_label == "octocat"
    job = sync(connection, *EVERYTHING)

    truth = replay.truth
    assert job["status"] == "completed"
    assert job["progress_percentage"] == 100
    assert job["records_processed"] == truth["issues_and_pull_requests"] + truth["pull_requests"] + 1
    assert job["entities_by_kind"] == {
        "issue": truth["issues"],
        "pull_request": truth["pull_requests"],
        "person": truth["people"],
        "label": truth["labels"],
        "milestone": truth["milestones"],
        "repository": 1,
        "organization": 1,
    }
    assert job["entities_extracted"] == sum(job["entities_by_kind"].values())
    assert_whole(connection, replay)
    with tenant_scope(connection.tenant_id):
        said = Relationship.objects.all()
        assert job["relationships_extracted"] == said.count()
        assert job["relationships_by_kind"] == dict(Counter(said.values_list("kind", flat=True)))
        # What is known of the recording without Atom: each row has an author; some have labels, a milestone, somebody at it.
        issues = {r.id for r in SyncRecord.objects.filter(stream="issues").only("id")}
        of_issues = Counter(kind for record, kind in said.values_list("record_id", "kind") if record in issues)
        assert of_issues["part_of"] == len(rows)
        assert of_issues["authored"] == sum(bool(row["user"]) for row in rows)
        assert of_issues["labelled"] == truth["labelled"]
        assert of_issues["assigned_to"] == truth["assigned"]
        assert of_issues["in_milestone"] == sum(bool(row["milestone"]) for row in rows)


def test_records_are_kept_as_they_were(live_cast: Any, worker: Any, replay: Any, rows: list[dict[str, Any]]) -> None:
    """Odd Unicode, line ends, empty bodies, times of the same second."""
    connection = connect(replay)
    sync(connection, *EVERYTHING, "--streams", "issues")
    found = stored(connection)["issues"]
    for row in rows:
        kept = found[str(row["id"])]
        for name in ("title", "body", "number", "state", "created_at", "updated_at", "closed_at"):
            assert kept[name] == row[name], (row["number"], name)
    with tenant_scope(connection.tenant_id):
        moments = dict(SyncRecord.objects.filter(stream="issues").values_list("external_id", "occurred_at"))
        names = set(Entity.objects.filter(kind__in=("issue", "pull_request")).values_list("name", flat=True))
    assert moments == {str(row["id"]): datetime.fromisoformat(row["updated_at"]) for row in rows}
    assert {row["title"] for row in rows if not row["title"].isascii()} <= names


def test_the_same_range_again_changes_nothing_and_says_so(live_cast: Any, worker: Any, replay: Any) -> None:
    connection = connect(replay)
    first = sync(connection, *EVERYTHING, "--until", "2013-01-01")
    before = stored(connection), entity_counts(connection)
    asked = len(replay.log())

    again = sync(connection, *EVERYTHING, "--until", "2013-01-01")
    assert (again["records_processed"], again["entities_extracted"], again["relationships_extracted"]) == (0, 0, 0)
    assert (again["entities_by_kind"], again["total_chunks"]) == ({}, 0)
    assert len(replay.log()) - asked <= 3, "what is covered is not asked for again"

    full = sync(connection, *EVERYTHING, "--until", "2013-01-01", "--full")
    assert (full["records_processed"], full["entities_extracted"], full["relationships_extracted"]) == (0, 0, 0)
    assert full["records_skipped"] == first["records_processed"]
    assert (stored(connection), entity_counts(connection)) == before


def test_a_part_of_the_range_brings_that_part(
    live_cast: Any, worker: Any, replay: Any, rows: list[dict[str, Any]]
) -> None:
    connection = connect(replay)
    since, until = "2011-06-01T00:00:00Z", "2011-10-15T12:30:00Z"
    job = sync(connection, "--since", since, "--until", until, "--streams", "issues,pull_requests")
    inside = {row["number"] for row in rows if since <= row["updated_at"] < until}
    pulls = {n for n in inside if any(r["number"] == n and (r.get("pull_request") or {}).get("html_url") for r in rows)}
    assert 50 < len(inside) < len(rows)
    found = stored(connection)
    assert {payload["number"] for payload in found["issues"].values()} == inside
    assert {payload["number"] for payload in found["pull_requests"].values()} == pulls
    assert job["records_processed"] == len(inside) + len(pulls)

    # The rest of the range later: only the gaps are asked for, and it all adds up.
    sync(connection, *EVERYTHING)
    assert_whole(connection, replay)


@pytest.mark.parametrize(
    "faults",
    [
        {"rate_limit_every": 9},
        {"error_every": 6},
        {"truncate_every": 6},
        {"html_every": 6},
        {"hang_every": 8, "hang_s": 0.4},
        {"error_every": 7, "truncate_every": 11, "html_every": 13, "rate_limit_every": 19, "hang_every": 5, "hang_s": 0.2},
    ],
    ids=lambda faults: "+".join(name.removesuffix("_every") for name in faults if name != "hang_s"),
)  # fmt: skip
def test_nothing_is_lost_or_doubled_by_faults(
    live_cast: Any, worker: Any, replay: Any, faults: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    from historical_sync import retrying

    # The waits between retries are tested elsewhere; here they would only take time.
    monkeypatch.setattr(retrying, "back_off", lambda attempts, jitter: timedelta(milliseconds=100))
    connection = connect(replay)
    replay.control(reset=True, **faults)
    job = sync(connection, *EVERYTHING)
    assert len(replay.log()) > 9, "the faults were met"
    assert_whole(connection, replay)
    truth = replay.truth
    assert job["records_processed"] == truth["issues_and_pull_requests"] + truth["pull_requests"] + 1
    with tenant_scope(connection.tenant_id):
        assert job["relationships_extracted"] == Relationship.objects.count()
        assert not QuarantinedRecord.objects.exists()


def test_a_token_that_is_taken_back_pauses_the_job_and_a_new_one_resumes_it(
    live_cast: Any, worker: Any, replay: Any
) -> None:
    connection = connect(replay)
    replay.control(token="another")
    job = sync(connection, *EVERYTHING, expect=3)
    assert (job["status"], job["pause_reason"]) == ("paused", "reauth_required")
    assert job["last_error"]["code"] == "connection_reauth_required"
    assert "ghp_anything" not in json.dumps(job)

    from tests.conftest import until

    out = io.StringIO()
    call_command("connect", "github", tenant="acme", token="another", base_url=replay.root, stdout=out)
    assert out.getvalue().strip() == str(connection.id), "the same account is the same connection"
    with tenant_scope(connection.tenant_id):
        row = connection.jobs.get()
    until(row, "completed", seconds=60)
    assert_whole(connection, replay)
    with tenant_scope(connection.tenant_id):
        kinds = list(JobEvent.objects.filter(job=row).values_list("kind", flat=True))
    assert kinds[0] == "started"
    assert "paused" in kinds
    assert kinds[-1] == "completed"
    assert "resumed" in kinds
