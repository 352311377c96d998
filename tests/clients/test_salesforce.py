"""simple-salesforce against Salesforce's stand-in."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from simple_salesforce import Salesforce
from simple_salesforce.exceptions import (
    SalesforceExpiredSession,
    SalesforceMalformedRequest,
    SalesforceRefusedRequest,
    SalesforceResourceNotFound,
)

from integrations.sandbox.tokens import Tokens
from tests.conftest import Sandbox

ACCOUNT = "00Dsb0000000001AAA"
FIELDS = "Id, Name, Email, AccountId, Account.Name, SystemModstamp, IsDeleted"


class Plainly(HTTPAdapter):
    """Takes what is meant for the instance to the stand-in: simple-salesforce speaks TLS to hosts without a path only."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://sandbox.test", self.root, 1)
        return super().send(request, *args, **kwargs)


def client_with(root: str, token: str) -> Salesforce:
    session = requests.Session()
    session.mount("https://sandbox.test", Plainly(f"{root}/salesforce"))
    return Salesforce(instance_url="https://sandbox.test", session_id=token, version="67.0", session=session)


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Salesforce]:
    client = client_with(sandbox.root, Tokens().make("00Dsb0000000001!", "salesforce", ACCOUNT, "access", "a-client"))
    yield client
    client.session.close()


def test_it_reads_every_row(client: Salesforce, sandbox: Sandbox) -> None:
    truth = sandbox.truth("salesforce")
    sandbox.control(page_size=40)
    rows = list(client.query_all_iter(f"SELECT {FIELDS} FROM Contact", include_deleted=True))
    assert len({row["Id"] for row in rows}) == len(rows) == truth["contacts"]
    assert any(row["IsDeleted"] for row in rows)
    assert any(row["Account"] is None for row in rows)
    assert all(row["attributes"]["type"] == "Contact" for row in rows)
    live = client.query_all(f"SELECT {FIELDS} FROM Contact")
    assert live["totalSize"] == len(live["records"]) == sum(not row["IsDeleted"] for row in rows)


def test_it_reads_a_span_of_time(client: Salesforce) -> None:
    ordered = client.query_all("SELECT Id, SystemModstamp FROM Task ORDER BY SystemModstamp ASC, Id ASC")["records"]
    edge = ordered[len(ordered) // 2]["SystemModstamp"].replace("+0000", "Z")
    before = client.query(f"SELECT COUNT() FROM Task WHERE SystemModstamp < {edge}")["totalSize"]
    after = client.query(f"SELECT COUNT() FROM Task WHERE SystemModstamp >= {edge}")["totalSize"]
    assert before + after == len(ordered)
    assert before == sum(row["SystemModstamp"].replace("+0000", "Z") < edge for row in ordered)


def test_it_knows_who_it_is_and_how_much_it_used(client: Salesforce) -> None:
    who = client.oauth2("userinfo")
    assert who["organization_id"] == ACCOUNT
    client.query("SELECT Id FROM Account LIMIT 1")
    used = client.api_usage["api-usage"]
    assert 0 < used.used < used.total == 100_000


def test_it_understands_what_goes_wrong(client: Salesforce, sandbox: Sandbox) -> None:
    for wrong in ("SELECT Nothing FROM Account", "SELECT Id FROM Nothing", "SELECT FROM"):
        with pytest.raises(SalesforceMalformedRequest):
            client.query(wrong)
    with pytest.raises(SalesforceResourceNotFound):
        client.restful("nothing")
    sandbox.control(daily_quota=1)
    client.query("SELECT Id FROM Account LIMIT 1")
    with pytest.raises(SalesforceRefusedRequest) as caught:
        client.query("SELECT Id FROM Account LIMIT 1")
    assert caught.value.content[0]["errorCode"] == "REQUEST_LIMIT_EXCEEDED"
    sandbox.control(reset=True)
    stranger = client_with(sandbox.root, "00Dsb0000000001!no")
    with stranger.session, pytest.raises(SalesforceExpiredSession):
        stranger.query("SELECT Id FROM Account")


def test_it_reads_by_bulk_query(client: Salesforce, sandbox: Sandbox) -> None:
    sandbox.control(page_size=50)
    soql = "SELECT Id, Name, Account.Name, SystemModstamp, IsDeleted FROM Contact"
    pages = list(client.bulk2.Contact.query_all(soql, max_records=1000, wait=0))
    rows = [row for page in pages for row in csv.DictReader(io.StringIO(page))]
    assert len(pages) == -(-len(rows) // 50)
    assert len({row["Id"] for row in rows}) == len(rows) == sandbox.truth("salesforce")["contacts"]
    by_rest = {row["Id"]: row for row in client.query_all_iter(soql, include_deleted=True)}
    for row in rows:
        there = by_rest[row["Id"]]
        assert row["Account.Name"] == (there["Account"]["Name"] if there["Account"] else "")
        assert row["IsDeleted"] == str(there["IsDeleted"]).lower()
        assert row["SystemModstamp"] == there["SystemModstamp"].replace("+0000", "Z")


def test_a_literal_of_another_zone_means_the_same_moment(client: Salesforce) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(days=100)
    here = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    there = (moment + timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%S%%2B05:00").replace("%2B", "+")
    counts = [
        client.query(f"SELECT COUNT() FROM Task WHERE SystemModstamp >= {when}")["totalSize"] for when in (here, there)
    ]
    assert counts[0] == counts[1] > 0
