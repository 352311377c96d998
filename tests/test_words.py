"""How values are written for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from atom import pictures, words
from historical_sync.models import HistoricalSyncJob
from tests.processes import PROJECT


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "yes"),
        (None, "–"),
        (1e-7, "0.0000001"),
        (["INBOX", "UNREAD"], "INBOX, UNREAD"),
        ({"Status": "Done", "Due": None, "Tags": ["a", "b"]}, "Status: Done, Due: –, Tags: a, b"),
        (12, "12"),
    ],
)
def test_values_are_no_programs(value: Any, written: str) -> None:
    assert words.listed(value) == written


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("merged_at", "merged at"),
        ("sizeEstimate", "size estimate"),
        ("URL", "URL"),
        ("html_url", "html URL"),
        ("externalId", "external ID"),
        ("valid", "valid"),
    ],
)
def test_names_of_properties_are_words(name: str, written: str) -> None:
    assert words.property_name(name) == written


def test_a_vendors_names_of_states_are_words_and_other_values_stay() -> None:
    assert words.detail({"amount": 5, "status": "needs_response"}) == "needs response"
    assert words.detail({"title": "to_do", "status": ""}) == "to_do"
    assert words.detail({"amount": 5}) == ""


@pytest.mark.parametrize(
    ("properties", "shown"),
    [
        ({"Title": "Engineer", "Email": "ana@zephyr.test", "Status": "Working"}, "ana@zephyr.test"),
        ({"IsClosed": False, "Status": "Escalated", "CaseNumber": "00001116"}, "Escalated"),
        ({"StageName": "Prospecting", "Amount": 5}, "Prospecting"),
        ({"Phone": "+49 30 9762538", "Website": "https://granite.test"}, "https://granite.test"),
    ],
)
def test_what_says_most_is_found_however_its_tool_writes_the_name(properties: dict[str, Any], shown: str) -> None:
    """Properties keep the names of their tool: of what Salesforce brought the list said nothing, and people of one name looked alike."""
    assert words.detail(properties) == shown


def test_the_time_that_stands_for_none_is_not_shown() -> None:
    assert words.dated(datetime(1970, 1, 1, tzinfo=UTC)) is None
    assert words.dated(None) is None
    assert words.dated(datetime(2026, 1, 1, tzinfo=UTC)) is not None


@pytest.mark.parametrize(
    "value",
    ["2026-10-12", "2026-99-12T14:05:00Z", "soon", 5, None, "2026-10-12T14:05:00",
     "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-08:00"],
)  # fmt: skip
def test_what_is_no_instant_stays_what_it_is(value: Any) -> None:
    assert words.instant(value) is None


def test_an_instant_is_told_from_a_text() -> None:
    assert words.instant("2026-10-12T14:05:00Z") == datetime(2026, 10, 12, 14, 5, tzinfo=UTC)
    assert words.instant("2026-10-12T14:05:00.5+02:00") == datetime(2026, 10, 12, 12, 5, 0, 500_000, UTC)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.01, "< 0.1"),
        (0.06, "0.1"),
        (0.4, "0.4"),
        (3.0, "3"),
        (9.96, "10"),
        (12.4, "12"),
        (1234.5, "1,234"),
    ],
)
def test_speeds_below_ten_have_a_decimal(value: float | None, written: str) -> None:
    assert words.pace(value) == written


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"status": "pending"}, "–"),
        ({"status": "running", "started_at": 20}, "20 min"),
        ({"status": "running", "started_at": 20, "idle_seconds": 18 * 60}, "2 min"),
        ({"status": "paused", "started_at": 20, "stopped_at": 17}, "3 min"),
        ({"status": "pending", "started_at": 20, "stopped_at": 17}, "3 min"),
        ({"status": "completed", "started_at": 20, "idle_seconds": 15 * 60, "stopped_at": 1, "completed_at": 1}, "4 min"),
        ({"status": "cancelled", "started_at": 20, "idle_seconds": 19 * 60, "completed_at": 0}, "1 min"),
    ],
)  # fmt: skip
def test_how_long_a_job_took_leaves_out_when_it_did_not_run(fields: dict[str, Any], written: str) -> None:
    """Moments in minutes ago."""
    now = timezone.now()
    at = {name: now - timedelta(minutes=value) for name, value in fields.items() if name.endswith("_at")}
    assert words.took(HistoricalSyncJob(**(fields | at))) == written


@pytest.mark.parametrize("kind", ["worker_lost", "restarted", "left_out", "gone"])
def test_what_workers_note_has_words_and_a_picture(kind: str) -> None:
    assert kind in words.EVENT_WORDS
    assert kind in pictures.ICONS


def test_every_relation_that_a_provider_says_reads_from_its_other_end() -> None:
    said = {
        kind
        for file in (PROJECT / "integrations" / "providers").glob("*.py")
        for call in re.findall(r"said\.(?:to|by|refer|referred)\(([^,]*),", file.read_text())
        for kind in re.findall(r'"(\w+)"', call)
    }
    assert {"raised_by", "attended", "comment_on"} <= said
    assert said - words.INVERSE.keys() == set()
    described = (PROJECT / "docs" / "providers.md").read_text()
    [in_use] = re.findall(r"Relationships in use: ([\w,\s]+)\.", described)
    assert set(re.split(r",\s+", in_use)) == words.INVERSE.keys()


def test_every_kind_that_is_described_has_a_picture() -> None:
    described = (PROJECT / "docs" / "providers.md").read_text()
    [in_use] = re.findall(r"Kinds in use: ([\w,\s]+)\.", described)
    kinds = re.split(r",\s+", in_use)
    assert set(kinds) == pictures.KINDS.keys()
    assert all(pictures.kind_icon(kind) for kind in kinds)
